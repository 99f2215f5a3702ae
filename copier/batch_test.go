package copier

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"unsafe"

	"pgregory.net/rapid"
)

func checkBatch(t *rapid.T, b *Batch, want []Entry) {
	t.Helper()
	var got []Entry
	size := int64(0)
	for i := range b.Len() {
		e := b.Entry(i)
		if cap(e.Key) != len(e.Key) || cap(e.Value) != len(e.Value) {
			t.Fatalf("entry %d leaves room to append into its neighbour", i)
		}
		got = append(got, e)
		size += int64(len(e.Key) + len(e.Value))
	}
	if d := differ(got, want); d != "" {
		t.Fatal(d)
	}
	if b.Bytes() != size {
		t.Fatalf("Bytes() is %d, want %d", b.Bytes(), size)
	}
	if want := int64(len(b.arena)) + int64(b.Len())*refBytes + int64(len(b.stretches))*stretchBytes; b.memory() != want {
		t.Fatalf("memory() is %d, want %d", b.memory(), want)
	}
}

func TestBatchProperty(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var b Batch
		var want []Entry
		bytesGen := rapid.SliceOfN(rapid.Byte(), 0, 20)
		t.Repeat(map[string]func(*rapid.T){
			"append": func(t *rapid.T) {
				k, v := bytesGen.Draw(t, "key"), bytesGen.Draw(t, "value")
				b.Append(k, v)
				want = append(want, Entry{bytes.Clone(k), bytes.Clone(v)})
				for i := range k { // it must have been copied
					k[i]++
				}
				for i := range v {
					v[i]++
				}
			},
			"truncate": func(t *rapid.T) {
				n := rapid.IntRange(0, len(want)+2).Draw(t, "n")
				b.Truncate(n)
				want = want[:min(n, len(want))]
			},
			"grow": func(t *rapid.T) {
				n := rapid.IntRange(0, 100).Draw(t, "n")
				b.Grow(n)
				if room := cap(b.arena) - len(b.arena); room < n {
					t.Fatalf("room for %d bytes of %d", room, n)
				}
			},
			"reset": func(t *rapid.T) { b.Reset(); want = nil },
			"sort and reset": func(t *rapid.T) {
				new(batchSorter).sort(&b)
				checkBatch(t, &b, sortedCopy(want))
				b.Reset()
				want = nil
				if len(b.arena) != 0 {
					t.Fatalf("%d bytes of the arena are lost", len(b.arena))
				}
			},
			"append batch": func(t *rapid.T) {
				n := rapid.IntRange(0, 4).Draw(t, "n")
				more := randomEntries(rand.New(rand.NewPCG(1, uint64(n))), n)
				b.appendBatch(batchOf(more...))
				want = append(want, more...)
			},
			"": func(t *rapid.T) { checkBatch(t, &b, want) },
		})
	})
}

func TestBatchSizeIsChecked(t *testing.T) {
	b := Batch{bytes: maxBatch}
	if err := b.checkSize(); err != nil {
		t.Errorf("at the limit: %v", err)
	}
	b.bytes++
	if err := b.checkSize(); !errors.Is(err, ErrSource) {
		t.Errorf("above the limit: %v", err)
	}
}

// Keys as a source with a sort key delivers them: directories in any order, each in
// order, some in several pieces, some within others, and now and then a key twice.
func TestSortStretches(t *testing.T) {
	var sorter batchSorter // keeps its memory from one batch to the next
	names := rapid.SampledFrom([]string{"a", "b", "ab", "a!", "a~", "", "\x00", "ÿ", "0", "m/n", "m", "m.n"})
	long := 0
	rapid.Check(t, func(t *rapid.T) {
		var b Batch
		var want []Entry
		for range rapid.IntRange(0, 5).Draw(t, "pages") {
			var page Batch
			for range rapid.IntRange(0, 6).Draw(t, "directories") {
				dir := rapid.SampledFrom([]string{"", "a/", "a/b/", "a/b/c/", "a!/", "m/", "m/n/", "z/"}).Draw(t, "directory")
				keys := rapid.SliceOfN(names, 1, 8).Draw(t, "names")
				if rapid.IntRange(0, 9).Draw(t, "in order") > 0 {
					slices.Sort(keys)
				}
				for i, key := range keys {
					e := Entry{Key: []byte(dir + key), Value: fmt.Appendf(nil, "%d %d", len(want), i)}
					page.Append(e.Key, e.Value)
					want = append(want, e)
				}
			}
			if rapid.Bool().Draw(t, "looked at") {
				page.find()
			}
			b.appendBatch(&page)
		}
		if rapid.Bool().Draw(t, "one more") {
			b.Append([]byte("a/b"), []byte("last"))
			want = append(want, Entry{[]byte("a/b"), []byte("last")})
		}
		b.find()
		if 2*len(b.stretches) <= len(b.refs) {
			long++
		}
		if rapid.Bool().Draw(t, "forgotten") {
			b.stretches = nil
		}
		sorter.sort(&b)
		var got []Entry
		for i := range b.Len() {
			got = append(got, b.Entry(i))
		}
		// Those with one key come in any order.
		whole := func(x, y Entry) int { return cmp.Or(bytes.Compare(x.Key, y.Key), bytes.Compare(x.Value, y.Value)) }
		if !slices.IsSortedFunc(got, func(x, y Entry) int { return bytes.Compare(x.Key, y.Key) }) {
			t.Fatalf("not in order: %q", got)
		}
		slices.SortFunc(got, whole)
		slices.SortFunc(want, whole)
		if d := differ(got, want); d != "" {
			t.Fatal(d)
		}
	})
	if long < 10 {
		t.Errorf("only %d batches had stretches that are worth it", long)
	}
}

// What find says is what a look at each pair of neighbours says.
func TestFindStretches(t *testing.T) {
	var b Batch
	for _, key := range []string{
		"core/a", "core/b", // in order
		"core/a",             // not any more
		"core/a/x", "core/b", // another directory, and back
		"core/c",
		"core/c",  // twice: in order as far as sorting goes
		"d", "dd", // in none
		"e/", "e/f", // names may be empty here
	} {
		b.Append([]byte(key), []byte("/v")) // a slash that is none of the key's
	}
	b.find()
	want := []stretch{{0, 2}, {2, 3}, {3, 4}, {4, 7}, {7, 9}, {9, 11}}
	if !slices.Equal(b.stretches, want) || !b.found() {
		t.Errorf("stretches %v, want %v", b.stretches, want)
	}
	for _, change := range []func(){
		func() { b.Append([]byte("x"), nil) }, func() { b.Truncate(3) }, func() { b.Reset(); b.Append(nil, nil) },
	} {
		if change(); b.found() {
			t.Errorf("with %d entries it says that %v are all its stretches", b.Len(), b.stretches)
		}
		b.find()
	}
}

// Memory goes from one batch to the next, and never to two at a time.
func TestPagesShareMemory(t *testing.T) {
	var p pages
	fill := func(b *Batch, key string) *byte {
		b.Append([]byte(key), []byte("value"))
		return unsafe.SliceData(b.arena)
	}
	one, two, three := Batch{pages: &p}, Batch{pages: &p}, Batch{pages: &p}
	a, b := fill(&one, "one"), fill(&two, "two")
	if a == b {
		t.Fatal("two batches have the same memory")
	}
	p.give(&one)
	p.give(&one) // which has none
	if one.Len() != 0 || one.Bytes() != 0 {
		t.Errorf("%d entries are left behind", one.Len())
	}
	if c := fill(&three, "three"); c != a {
		t.Error("the memory that is free was not used")
	}
	if a = fill(&one, "again"); a == b || a == unsafe.SliceData(three.arena) {
		t.Error("two batches have the same memory")
	}
	for want, b := range map[string]*Batch{"again": &one, "two": &two, "three": &three} {
		if string(b.Entry(0).Key) != want || b.Len() != 1 {
			t.Errorf("%q became %q", want, b.Entry(0).Key)
		}
	}
	// An entry without a byte counts too.
	empty := Batch{pages: &p}
	empty.Append(nil, nil)
	if fill(&empty, "more"); empty.Len() != 2 {
		t.Errorf("%d entries of 2", empty.Len())
	}
}
