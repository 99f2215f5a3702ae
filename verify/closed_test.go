package verify

import (
	"context"
	"fmt"
	"slices"
	"testing"

	"github.com/dyn2raft/dyn2raft/copier"
	"github.com/dyn2raft/dyn2raft/copier/copiertest"
)

// TestClosed: what a source has more, less, or otherwise than its copy is found, and
// named as far as it is still there.
func TestClosed(t *testing.T) {
	var all []copier.Entry
	copied := new(copier.Buckets)
	for i := range 500 {
		e := copier.Entry{Key: fmt.Appendf(nil, "logical/%d", i), Value: fmt.Appendf(nil, "value %d", i)}
		all = append(all, e)
		copied.Add(e)
	}
	for name, c := range map[string]struct {
		change func() []copier.Entry
		named  string
		equal  bool
	}{
		"equal":   {change: func() []copier.Entry { return all }, equal: true},
		"changed": {change: func() []copier.Entry { return with(all, 7, copier.Entry{Key: all[7].Key, Value: []byte("x")}) }, named: "logical/7"},
		"added":   {change: func() []copier.Entry { return append(slices.Clone(all), copier.Entry{Key: []byte("sys/new")}) }, named: "sys/new"},
		"deleted": {change: func() []copier.Entry { return all[1:] }},
	} {
		src := &closedSource{Source: copiertest.NewSource(c.change()...)}
		if _, err := src.Open(t.Context()); err != nil {
			t.Fatal(err)
		}
		r, err := Closed(t.Context(), src, "run-1", 3, copied)
		if err != nil || r.Equal() != c.equal || (r.Buckets == 0) != c.equal {
			t.Errorf("%s: equal is %t in %d buckets that differ (%v)", name, r.Equal(), r.Buckets, err)
		}
		if c.named != "" && !slices.Contains(r.Keys, c.named) || r.All != int64(len(r.Keys)) || r.All > 20 {
			t.Errorf("%s: %q are named, expected %q and few others", name, r.Keys, c.named)
		}
		if !r.Closed || r.Where != "" || src.asked != 2 {
			t.Errorf("%s: closed is %t: %s, asked %d times", name, r.Closed, r.Where, src.asked)
		}
		if r.Copied != copied.Total() {
			t.Errorf("%s: the copy has %v", name, r.Copied)
		}
	}
}

// A closedSource is closed until it was asked so often; then a Vault has it.
type closedSource struct {
	copier.Source
	openFrom, asked int
}

func (s *closedSource) Closed(_ context.Context, runID string) (bool, string, error) {
	s.asked++
	if runID != "run-1" || s.openFrom > 0 && s.asked >= s.openFrom {
		return false, "a Vault has it", nil
	}
	return true, "", nil
}

// A source that is not closed before or behind the comparison is said to be so: what is
// equal may be otherwise a moment later.
func TestClosedIsOpen(t *testing.T) {
	e := copier.Entry{Key: []byte("logical/1"), Value: []byte("value")}
	copied := new(copier.Buckets)
	copied.Add(e)
	for openFrom := 1; openFrom <= 2; openFrom++ {
		src := &closedSource{Source: copiertest.NewSource(e), openFrom: openFrom}
		if _, err := src.Open(t.Context()); err != nil {
			t.Fatal(err)
		}
		if r, err := Closed(t.Context(), src, "run-1", 1, copied); err != nil || !r.Equal() || r.Closed || r.Where != "a Vault has it" {
			t.Errorf("open at look %d: %+v, %v", openFrom, r, err)
		}
	}
}

// with is entries with another one at a place.
func with(entries []copier.Entry, at int, e copier.Entry) []copier.Entry {
	out := slices.Clone(entries)
	out[at] = e
	return out
}
