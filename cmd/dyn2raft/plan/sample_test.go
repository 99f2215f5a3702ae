package plan

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"

	"github.com/dyn2raft/dyn2raft/copier"
)

// hot is a source of which one segment has many pages, as that of a Path with all
// tokens has, and each of the others one.
type hot struct {
	pages int // of segment 0
	value []byte
}

func (h hot) Prepare(context.Context) (copier.SourceInfo, error) { return copier.SourceInfo{}, nil }

func (h hot) Segments(context.Context, int) ([]copier.Segment, error) { return nil, nil }

func (h hot) ReadPage(_ context.Context, seg copier.Segment, b *copier.Batch) (copier.Page, error) {
	n := len(seg.Resume)
	b.Append(fmt.Appendf(nil, "logical/%03d/%06d", seg.Index, n), h.value)
	if seg.Index == 0 && n+1 < h.pages {
		seg.Resume = bytes.Repeat([]byte{'x'}, n+1)
		return copier.Page{Next: []copier.Segment{seg}}, nil
	}
	return copier.Page{}, nil
}

// A sample of a table, most of which is in one segment, is not of first pages only.
func TestSampleOfHotPath(t *testing.T) {
	t.Parallel()
	s := &sampler{limit: 1, src: hot{pages: 200, value: make([]byte, 1<<20)}, end: func(error) {}}
	for i := range 64 {
		s.queue = append(s.queue, copier.Segment{Index: i, Total: 64})
	}
	s.segments = 64
	if err := s.run(t.Context()); err != nil && !errors.Is(err, errSampleOver) {
		t.Fatal(err)
	}
	var begun int64
	for i := range s.batch.Len() {
		if bytes.HasPrefix(s.batch.Entry(i).Key, []byte("logical/000/")) {
			begun++
		}
	}
	if s.complete || s.entries < 40 || begun < s.entries*4/10 || begun > s.entries*6/10 {
		t.Errorf("%d of %d entries are of the segment that has most, complete %v", begun, s.entries, s.complete)
	}
}

// What is made of a sample is as large as it is asked for, has no key twice, and has
// the order within a Path that a table has.
func TestAgain(t *testing.T) {
	t.Parallel()
	var sample copier.Batch
	for path := range 50 {
		for i := range 20 {
			sample.Append(fmt.Appendf(nil, "logical/%d/%03d", path*7%50, i), make([]byte, 1000))
		}
	}
	sample.Append([]byte("root"), []byte("x"))
	for _, size := range []int64{1, 100_000, 1 << 20, 10 << 20} {
		a := newAgain(&sample, size)
		segs, err := a.Segments(t.Context(), 0)
		if err != nil {
			t.Fatal(err)
		}
		var all copier.Batch
		var keys [][]byte
		turns := map[string]int{} // of each Path
		breaks := 0
		for _, seg := range segs {
			var b copier.Batch
			page, err := a.ReadPage(t.Context(), seg, &b)
			if err != nil || len(page.Next) > 0 || b.Len() == 0 || b.Bytes() > 1<<20+2000 {
				t.Fatalf("%d entries of %d bytes, %+v, %v", b.Len(), b.Bytes(), page, err)
			}
			var before []byte
			for i := range b.Len() {
				key := b.Entry(i).Key
				dir := key[:bytes.LastIndexByte(key, '/')+1]
				if !bytes.HasPrefix(before, dir) || bytes.Compare(before, key) >= 0 {
					breaks++
				}
				before = key
				turn := a.pages[seg.Index].turn
				if was, ok := turns[string(dir)]; ok && was != turn && len(dir) > 0 {
					t.Fatalf("%s is in the turns %d and %d", key, was, turn)
				}
				turns[string(dir)] = turn
				keys = append(keys, slices.Clone(key))
				all.Append(key, b.Entry(i).Value)
			}
		}
		if all.Bytes() < size || all.Bytes() > size+size/100+2000 {
			t.Errorf("%d bytes, expected %d", all.Bytes(), size)
		}
		if most := len(keys)/20 + 2*len(segs) + int(size/sample.Bytes()) + 1; breaks > most {
			t.Errorf("the order of Paths is broken %d times in %d entries, expected at most %d", breaks, len(keys), most)
		}
		slices.SortFunc(keys, bytes.Compare)
		if n := len(slices.CompactFunc(slices.Clone(keys), bytes.Equal)); n != len(keys) {
			t.Errorf("%d keys of %d are there twice", len(keys)-n, len(keys))
		}
	}
}

// A table of markers has a sample without entries.
func TestAgainWithoutEntries(t *testing.T) {
	t.Parallel()
	a := newAgain(new(copier.Batch), 1<<20)
	segs, err := a.Segments(t.Context(), 0)
	if err != nil || len(segs) != 1 {
		t.Fatalf("%v, %v", segs, err)
	}
	var b copier.Batch
	if page, err := a.ReadPage(t.Context(), segs[0], &b); err != nil || b.Len() != 0 || len(page.Next) != 0 {
		t.Errorf("%d entries, %+v, %v", b.Len(), page, err)
	}
}
