package copiertest_test

import (
	"context"
	"fmt"
	"log"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/dyn2raft/dyn2raft/copier"
	"github.com/dyn2raft/dyn2raft/copier/copiertest"
)

// A tree is a source that splits by prefix: a page is a directory, and what is left
// behind it is a segment for each directory in it. Its resume tokens are prefixes.
type tree map[string]string

func (t tree) Open(context.Context) (copier.Info, error) {
	return copier.Info{Name: "tree", ID: "memory:tree", Items: int64(len(t))}, nil
}

func (t tree) Close() error { return nil }

func (t tree) Split(context.Context, int) ([]copier.Span, error) {
	return []copier.Span{{}}, nil // pages split it
}

func (t tree) Read(ctx context.Context, seg copier.Span, b *copier.Batch) (copier.Page, error) {
	if err := ctx.Err(); err != nil {
		return copier.Page{}, err
	}
	dir, below := string(seg.From), map[string]bool{}
	for key, value := range t {
		rest, in := strings.CutPrefix(key, dir)
		if !in {
			continue
		}
		if child, _, deeper := strings.Cut(rest, "/"); deeper {
			below[dir+child+"/"] = true
		} else {
			b.Append([]byte(key), []byte(value))
		}
	}
	var page copier.Page
	for _, child := range slices.Sorted(maps.Keys(below)) {
		if len(seg.Until) == 0 || child < string(seg.Until) {
			page.Next = append(page.Next, copier.Span{Index: seg.Index, From: []byte(child), Until: seg.Until})
		}
	}
	return page, nil
}

var vault = tree{
	"core/keyring":       "keys",
	"core/seal-config":   "{}",
	"logical/1/a":        "1",
	"logical/1/b/c":      "2",
	"logical/1/b/.":      "3",
	"logical/2-/a":       "4",
	"logical/2/a//b":     "",
	"sys/policy/default": "5",
	"top":                "6",
}

// An adapter is tested with the entries that it must yield.
func TestTree(t *testing.T) {
	var want []copier.Entry
	for key, value := range vault {
		want = append(want, copier.Entry{Key: []byte(key), Value: []byte(value)})
	}
	copiertest.TestSource(t, func() copier.Source { return vault }, want)
}

// A source of one's own is copied like any other.
func Example() {
	dir, err := os.MkdirTemp("", "example-")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)
	store := copiertest.NewStore(dir)
	result, err := copier.Copy(context.Background(), vault, store.Open(), copier.Options{
		Uninitialized: true, // this Vault has no seal
	})
	if err != nil {
		log.Fatal(err)
	}
	entries, _, _ := store.Read()
	fmt.Println(result.Scan.Pages, "pages,", result.Load.Entries, "entries, from", string(entries[0].Key), "to", string(entries[len(entries)-1].Key))
	// Output:
	// 11 pages, 9 entries, from core/keyring to top
}
