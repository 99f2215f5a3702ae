package vaultdb

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"go.etcd.io/bbolt"

	"github.com/dyn2raft/dyn2raft/copier"
)

// A grown is a file that bbolt has changed while a read transaction kept what was there.
type grown struct {
	was, is         []byte // the whole file
	before, entries map[string]string
}

// grow makes a file of n entries, and changes some of it in several transactions.
func grow(t *testing.T, rnd *rand.Rand, n, transactions, changes int) (g grown) {
	t.Helper()
	check := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	path := filepath.Join(t.TempDir(), "vault.db")
	db, err := bbolt.Open(path, 0o600, &bbolt.Options{NoSync: true, NoFreelistSync: true, FreelistType: bbolt.FreelistMapType, InitialMmapSize: 256 << 20})
	check(err)
	g.entries = map[string]string{}
	var keys []string // those that are gone too
	set := func(b *bbolt.Bucket, gone bool) {
		key := fmt.Sprintf("key/%06d%s", rnd.IntN(2*n+10), strings.Repeat("k", rnd.IntN(40)))
		if gone && len(keys) > 0 && rnd.IntN(2) == 0 {
			key = keys[rnd.IntN(len(keys))]
			delete(g.entries, key)
			check(b.Delete([]byte(key)))
			return
		}
		size := rnd.IntN(300)
		if rnd.IntN(30) == 0 {
			size = rnd.IntN(20_000)
		}
		keys = append(keys, key)
		g.entries[key] = strings.Repeat(string(rune('a'+rnd.IntN(26))), size)
		check(b.Put([]byte(key), []byte(g.entries[key])))
	}
	check(db.Update(func(tx *bbolt.Tx) error {
		b, err := tx.CreateBucket([]byte(DataBucket))
		check(err)
		for range n {
			set(b, false)
		}
		return nil
	}))
	check(db.Update(func(*bbolt.Tx) error { return nil })) // no page is free of what the first one made
	g.before = maps.Clone(g.entries)
	g.was, err = os.ReadFile(path)
	check(err)
	pin, err := db.Begin(false)
	check(err)
	for range transactions {
		check(db.Update(func(tx *bbolt.Tx) error {
			for range changes {
				set(tx.Bucket([]byte(DataBucket)), true)
			}
			return nil
		}))
	}
	check(pin.Rollback())
	check(db.Close())
	g.is, err = os.ReadFile(path)
	check(err)
	return g
}

// delta is what the difference makes of what was there. was is read from the changed file,
// as its pages are all still there.
func (g grown) delta(is []byte, most int, read *atomic.Int64) (map[string]string, error) {
	pages := append(bytes.Clone(g.was[:2*os.Getpagesize()]), is[2*os.Getpagesize():]...)
	a, err := NewFile("was", bytes.NewReader(pages), int64(len(pages)))
	if err != nil {
		return nil, err
	}
	b, err := NewFile("is", counting{bytes.NewReader(is), read}, int64(len(is)))
	if err != nil {
		return nil, err
	}
	out, there := maps.Clone(g.before), map[string]string{}
	err = difference(context.Background(), a, b, most, func(e copier.Entry) error {
		if v, ok := out[string(e.Key)]; !ok || v != string(e.Value) {
			return fmt.Errorf("%s is said to be gone, and was not there like that", e.Key)
		}
		delete(out, string(e.Key))
		return nil
	}, func(e copier.Entry) error {
		if _, twice := there[string(e.Key)]; twice {
			return fmt.Errorf("%s is there twice", e.Key)
		}
		there[string(e.Key)] = string(e.Value)
		return nil
	})
	for key, value := range there {
		if _, twice := out[key]; twice && err == nil {
			err = fmt.Errorf("%s is there, and was not said to be gone", key)
		}
		out[key] = value
	}
	return out, err
}

type counting struct {
	*bytes.Reader
	n *atomic.Int64
}

func (c counting) ReadAt(p []byte, off int64) (int, error) {
	if c.n != nil {
		c.n.Add(int64(len(p)))
	}
	return c.Reader.ReadAt(p, off)
}

// The difference of two states is that of two maps, whatever has become of the tree's
// shape, and however little is compared at a time.
func TestDelta(t *testing.T) {
	for name, c := range map[string]struct{ n, transactions, changes int }{
		"nothing":         {500, 0, 0},
		"one":             {2000, 1, 1},
		"some":            {2000, 3, 20},
		"most":            {1000, 4, 800},
		"it grows":        {5, 3, 900},
		"from nothing":    {0, 2, 200},
		"in the root":     {1, 1, 1},
		"two levels more": {20, 1, 6000},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for seed := range uint64(3) {
				g := grow(t, rand.New(rand.NewPCG(seed, 1)), c.n, c.transactions, c.changes)
				for _, most := range []int{1, 2, 3, 7, maxSubtrees} {
					if got, err := g.delta(g.is, most, nil); err != nil || !maps.Equal(got, g.entries) {
						t.Errorf("seed %d, %d subtrees at a time: %d entries, want %d, %v", seed, most, len(got), len(g.entries), err)
					}
				}
			}
		})
	}
}

// It reads what differs, and no more.
func TestDeltaReadsLittle(t *testing.T) {
	g := grow(t, rand.New(rand.NewPCG(1, 1)), 20_000, 1, 3)
	var n atomic.Int64
	if _, err := g.delta(g.is, maxSubtrees, &n); err != nil {
		t.Fatal(err)
	}
	if pages := n.Load() / int64(os.Getpagesize()); pages > 30 || len(g.is) < 1000*os.Getpagesize() {
		t.Errorf("%d pages of %d were read", pages, len(g.is)/os.Getpagesize())
	}
}

// Where a bit has flipped in a page that was written since, Delta says so, or its outcome
// is another one; or each entry is still found.
func TestDeltaOfDamage(t *testing.T) {
	rnd := rand.New(rand.NewPCG(5, 5))
	g := grow(t, rnd, 800, 3, 40)
	page := os.Getpagesize()
	var written []int
	for at := 0; at < len(g.is); at += page {
		if at >= len(g.was) || !bytes.Equal(g.is[at:at+page], g.was[at:at+page]) {
			written = append(written, at)
		}
	}
	found, harmless := 0, 0
	for range 1500 {
		is := bytes.Clone(g.is)
		at := written[rnd.IntN(len(written))] + rnd.IntN(page)
		if rnd.IntN(2) == 0 {
			at = at/page*page + rnd.IntN(300) // headers
		}
		is[at] ^= 1 << rnd.IntN(8)
		got, err := g.delta(is, 1+rnd.IntN(50), nil)
		if err != nil && !errors.Is(err, ErrDamaged) && !strings.Contains(err.Error(), "is there") && !strings.Contains(err.Error(), "not there") {
			t.Fatalf("byte %d: %v", at, err)
		}
		if err != nil || !maps.Equal(got, g.entries) {
			found++
			continue
		}
		harmless++
		f, err := NewFile("is", bytes.NewReader(is), int64(len(is)))
		if err != nil {
			t.Fatalf("byte %d: Delta finds nothing: %v", at, err)
		}
		if all, err := readAll(f); err != nil || !maps.Equal(all, g.entries) {
			t.Fatalf("byte %d: Delta finds nothing, and there are %d entries of %d: %v", at, len(all), len(g.entries), err)
		}
	}
	t.Logf("%d found, %d that do not matter", found, harmless)
	if found < 400 {
		t.Errorf("only %d were found", found)
	}
}

// readAll reads the entries of a file.
func readAll(f *File) (map[string]string, error) {
	out := map[string]string{}
	e := f.Entries(context.Background())
	for {
		entry, err := e.Next()
		if err != nil {
			_, err = e.Check()
			return out, err
		}
		out[string(entry.Key)] = string(entry.Value)
	}
}
