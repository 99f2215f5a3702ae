package boltfile

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"hash/fnv"
	"strings"
	"testing"
)

// A pair is an entry as the tests know it.
type pair struct{ key, value []byte }

// A bucketOf is a bucket with its entries in the order of their keys.
type bucketOf struct {
	name    string
	entries []pair
}

// checkFile reads a database as the format is documented, without bbolt and
// without the writer's code, and returns its buckets. It tests everything that
// bbolt's Check does, and what bbolt relies on but Check leaves out. It expects
// a file as the writer leaves it: every page below the high-water mark is used.
func checkFile(b []byte) (buckets []bucketOf, err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("read outside the file: %v", r)
		}
	}()
	c := &checker{b: b}
	if len(b) < 80 {
		return nil, fmt.Errorf("file of %d bytes has no meta page", len(b))
	}
	c.size = uint64(c.u32(16 + 8))
	if c.size < 1024 || c.size > 65536 || c.size&(c.size-1) != 0 {
		return nil, fmt.Errorf("page size %d", c.size)
	}
	if len(b) < 4096 {
		return nil, fmt.Errorf("file of %d bytes: bbolt reads 4096 to begin with", len(b))
	}
	var root [2]uint64
	for id := range uint64(2) {
		at := id * c.size
		m := at + 16
		h := fnv.New64a()
		h.Write(b[m : m+56])
		hw := c.u64(m + 40)
		switch {
		case c.u64(at) != id || c.u16(at+8) != 4 || c.u16(at+10) != 0 || c.u32(at+12) != 0:
			return nil, fmt.Errorf("meta %d: header % x", id, b[at:at+16])
		case c.u32(m) != 0xED0CDAED || c.u32(m+4) != 2:
			return nil, fmt.Errorf("meta %d: magic %#x version %d", id, c.u32(m), c.u32(m+4))
		case c.u64(m+56) != h.Sum64():
			return nil, fmt.Errorf("meta %d: checksum", id)
		case uint64(c.u32(m+8)) != c.size || c.u32(m+12) != 0:
			return nil, fmt.Errorf("meta %d: page size %d flags %d", id, c.u32(m+8), c.u32(m+12))
		case c.u64(m+24) != 0:
			return nil, fmt.Errorf("meta %d: root bucket has sequence %d", id, c.u64(m+24))
		case c.u64(m+32) != 1<<64-1:
			return nil, fmt.Errorf("meta %d: freelist %d", id, c.u64(m+32))
		case c.u64(m+48)%2 != id:
			return nil, fmt.Errorf("meta %d: transaction %d", id, c.u64(m+48))
		case id == 1 && (hw != c.highWater || c.u64(m+16) != root[0] || c.u64(m+48) != c.u64(16+48)+1):
			return nil, fmt.Errorf("meta 1 differs from meta 0")
		case hw*c.size > uint64(len(b)):
			return nil, fmt.Errorf("file of %d bytes is shorter than %d pages of %d", len(b), hw, c.size)
		}
		c.highWater, root[id] = hw, c.u64(m+16)
	}
	c.used = make([]bool, c.highWater)
	c.used[0], c.used[1] = true, true
	roots, err := c.tree(root[0], 1)
	if err != nil {
		return nil, fmt.Errorf("root bucket: %w", err)
	}
	for _, r := range roots {
		if len(r.value) != 16 {
			return nil, fmt.Errorf("bucket %q: value of %d bytes", r.key, len(r.value))
		}
		ne := binary.NativeEndian
		if seq := ne.Uint64(r.value[8:]); seq != 0 {
			return nil, fmt.Errorf("bucket %q: sequence %d", r.key, seq)
		}
		entries, err := c.tree(ne.Uint64(r.value), 0)
		if err != nil {
			return nil, fmt.Errorf("bucket %q: %w", r.key, err)
		}
		buckets = append(buckets, bucketOf{string(r.key), entries})
	}
	for id, used := range c.used {
		if !used {
			return nil, fmt.Errorf("page %d: not reachable", id)
		}
	}
	return buckets, nil
}

type checker struct {
	b               []byte
	size, highWater uint64
	used            []bool
	leafDepth       int
}

func (c *checker) u16(at uint64) uint16 { return binary.NativeEndian.Uint16(c.b[at:]) }
func (c *checker) u32(at uint64) uint32 { return binary.NativeEndian.Uint32(c.b[at:]) }
func (c *checker) u64(at uint64) uint64 { return binary.NativeEndian.Uint64(c.b[at:]) }

// tree returns the elements of the leaves below root, which all have the given
// flags.
func (c *checker) tree(root uint64, flags uint32) ([]pair, error) {
	c.leafDepth = 0
	var out []pair
	_, err := c.page(root, nil, 1, flags, &out)
	return out, err
}

// page checks a page and those below it and returns the first key. parentKey
// is the key that the parent gives for it.
func (c *checker) page(id uint64, parentKey []byte, depth int, flags uint32, out *[]pair) ([]byte, error) {
	if id < 2 || id >= c.highWater {
		return nil, fmt.Errorf("page %d: not in [2, %d)", id, c.highWater)
	}
	at := id * c.size
	if got := c.u64(at); got != id {
		return nil, fmt.Errorf("page %d: says it is page %d", id, got)
	}
	count, overflow := uint64(c.u16(at+10)), uint64(c.u32(at+12))
	if id+overflow >= c.highWater {
		return nil, fmt.Errorf("page %d: overflow %d beyond page %d", id, overflow, c.highWater)
	}
	for i := id; i <= id+overflow; i++ {
		if c.used[i] {
			return nil, fmt.Errorf("page %d: used twice", i)
		}
		c.used[i] = true
	}
	end := at + (1+overflow)*c.size
	data := at + 16 + 16*count // where the next key must start
	span := func(pos, n uint64) ([]byte, error) {
		if pos != data || pos+n > end {
			return nil, fmt.Errorf("page %d: %d bytes at %d, expected at %d before %d", id, n, pos-at, data-at, end-at)
		}
		data += n
		return c.b[pos:data:data], nil
	}
	var first []byte
	switch kind := c.u16(at + 8); kind {
	case 1:
		if count < 2 {
			return nil, fmt.Errorf("page %d: branch with %d elements", id, count)
		}
		for i := range count {
			e := at + 16 + 16*i
			key, err := span(e+uint64(c.u32(e)), uint64(c.u32(e+4)))
			if err != nil {
				return nil, err
			}
			if i == 0 {
				first = key
			}
			if _, err := c.page(c.u64(e+8), key, depth+1, flags, out); err != nil {
				return nil, err
			}
		}
	case 2:
		if c.leafDepth == 0 {
			c.leafDepth = depth
		}
		if depth != c.leafDepth {
			return nil, fmt.Errorf("page %d: leaf at depth %d and at %d", id, depth, c.leafDepth)
		}
		if count == 0 && depth > 1 {
			return nil, fmt.Errorf("page %d: empty leaf below a branch", id)
		}
		for i := range count {
			e := at + 16 + 16*i
			if got := c.u32(e); got != flags {
				return nil, fmt.Errorf("page %d: element %d has flags %d", id, i, got)
			}
			k, v := uint64(c.u32(e+8)), uint64(c.u32(e+12))
			if k == 0 {
				return nil, fmt.Errorf("page %d: element %d has no key", id, i)
			}
			kv, err := span(e+uint64(c.u32(e+4)), k+v)
			if err != nil {
				return nil, err
			}
			if n := len(*out); n > 0 && bytes.Compare((*out)[n-1].key, kv[:k]) >= 0 {
				return nil, fmt.Errorf("page %d: element %d: key does not ascend", id, i)
			}
			if i == 0 {
				first = kv[:k]
			}
			*out = append(*out, pair{kv[:k], kv[k:]})
		}
	default:
		return nil, fmt.Errorf("page %d: flags %#x", id, kind)
	}
	if end-data >= c.size && overflow > 0 {
		return nil, fmt.Errorf("page %d: overflow %d is too much", id, overflow)
	}
	for _, x := range c.b[data:end] {
		if x != 0 {
			return nil, fmt.Errorf("page %d: something behind its data", id)
		}
	}
	if parentKey != nil && !bytes.Equal(first, parentKey) {
		return nil, fmt.Errorf("page %d: first key %q, but the branch says %q", id, first, parentKey)
	}
	return first, nil
}

// TestCheckerFinds proves that checkFile can fail, for each of its reasons.
func TestCheckerFinds(t *testing.T) {
	const size = 1024
	f := new(memFile)
	w, err := NewWriter(f, Options{PageSize: size, Fill: 1})
	if err != nil {
		t.Fatal(err)
	}
	must(t, w.Bucket([]byte("a")))
	for i := range 200 {
		must(t, w.Put(fmt.Appendf(nil, "key-%0100d", i), []byte("value")))
	}
	must(t, w.Bucket([]byte("b")))
	must(t, w.Put([]byte("k"), bytes.Repeat([]byte{1}, 5000)))
	if _, err := w.Finish(); err != nil {
		t.Fatal(err)
	}
	if _, err := checkFile(f.b); err != nil {
		t.Fatalf("a sound file: %v", err)
	}
	pages := uint64(len(f.b) / size)
	ne := binary.NativeEndian
	find := func(flags uint16, nth int) uint64 { // offset of a page
		for id := uint64(2); id < pages; id++ {
			if ne.Uint64(f.b[id*size:]) == id && ne.Uint16(f.b[id*size+8:]) == flags {
				if nth--; nth < 0 {
					return id * size
				}
			}
		}
		t.Fatal("no such page")
		return 0
	}
	leaf, leaf2, branch := find(2, 0), find(2, 1), find(1, 0)
	root := (pages - 1) * size
	big := root - 5*size
	remeta := func(b []byte) { // as a writer that believes what it writes
		for id := range uint64(2) {
			m := b[id*size+16:]
			h := fnv.New64a()
			h.Write(m[:56])
			ne.PutUint64(m[56:], h.Sum64())
		}
	}
	both := func(at uint64, v uint64) func([]byte) []byte {
		return func(b []byte) []byte {
			ne.PutUint64(b[16+at:], v)
			ne.PutUint64(b[size+16+at:], v)
			remeta(b)
			return b
		}
	}
	edit := func(f func(b []byte)) func([]byte) []byte {
		return func(b []byte) []byte { f(b); return b }
	}
	for _, tc := range []struct {
		name   string
		damage func([]byte) []byte
		want   string
	}{
		{"nothing", edit(func(b []byte) { clear(b) }), "page size 0"},
		{"empty", func([]byte) []byte { return nil }, "no meta page"},
		{"tiny", func(b []byte) []byte { return b[:2048] }, "4096"},
		{"short", func(b []byte) []byte { return b[:len(b)-1] }, "shorter"},
		{"magic", edit(func(b []byte) { b[size+16]++; remeta(b) }), "meta 1: magic"},
		{"version", edit(func(b []byte) { b[16+4]++; remeta(b) }), "meta 0: magic"},
		{"checksum", edit(func(b []byte) { b[16+56]++ }), "meta 0: checksum"},
		{"meta header", edit(func(b []byte) { b[8] = 2 }), "meta 0: header"},
		{"other page size", edit(func(b []byte) { ne.PutUint32(b[size+24:], 2048); remeta(b) }), "meta 1: page size 2048"},
		{"freelist", both(32, 2), "freelist"},
		{"root sequence", both(24, 2), "sequence"},
		{"transaction", both(48, 4), "meta 1: transaction 4"},
		{"transaction gap", edit(func(b []byte) { ne.PutUint64(b[size+64:], 3); remeta(b) }), "differs"},
		{"other root", edit(func(b []byte) { ne.PutUint64(b[size+32:], leaf/size); remeta(b) }), "differs"},
		{"low high water", both(40, pages-1), "not in"},
		{"high high water", both(40, pages+1), "shorter"},
		{"page not reachable", func(b []byte) []byte {
			return both(40, pages+1)(append(b, make([]byte, size)...))
		}, "not reachable"},
		{"page id", edit(func(b []byte) { b[leaf]++ }), "says it is page"},
		{"page kind", edit(func(b []byte) { b[leaf+8] = 3 }), "flags 0x3"},
		{"branch of one", edit(func(b []byte) {
			ne.PutUint16(b[branch+10:], 1)
		}), "branch with 1 elements"},
		{"branch key shortened", edit(func(b []byte) {
			// The last key of the branch loses its last byte: it still
			// separates, and bbolt's Check does not mind.
			last := branch + 16 + 16*uint64(ne.Uint16(b[branch+10:])-1)
			n := ne.Uint32(b[last+4:])
			b[last+uint64(ne.Uint32(b[last:]))+uint64(n)-1] = 0
			ne.PutUint32(b[last+4:], n-1)
		}), "but the branch says"},
		{"child twice", edit(func(b []byte) {
			copy(b[branch+16+16+8:branch+16+16+16], b[branch+16+8:branch+16+16])
		}), "used twice"},
		{"child beyond", edit(func(b []byte) {
			ne.PutUint64(b[branch+16+8:], pages)
		}), "not in"},
		{"overflow beyond", edit(func(b []byte) { ne.PutUint32(b[leaf+12:], 1<<20) }), "overflow"},
		{"overflow missing", edit(func(b []byte) { ne.PutUint32(b[big+12:], 3) }), "expected at"},
		{"overflow too much", edit(func(b []byte) { ne.PutUint32(b[root-size*6+12:], 1) }), ""},
		{"position", edit(func(b []byte) { b[leaf+16+4]++ }), "expected at"},
		{"flags", edit(func(b []byte) { b[leaf+16] = 1 }), "has flags 1"},
		{"bucket flag missing", edit(func(b []byte) { b[root+16] = 0 }), "has flags 0"},
		{"no key", edit(func(b []byte) { ne.PutUint32(b[leaf+16+8:], 0) }), "no key"},
		{"keys swapped", edit(func(b []byte) {
			e := leaf2 + 16
			b[e+uint64(ne.Uint32(b[e+4:]))+uint64(ne.Uint32(b[e+8:]))-1] = '9'
		}), "does not ascend"},
		{"empty leaf", edit(func(b []byte) {
			clear(b[leaf+16 : leaf+size])
			ne.PutUint16(b[leaf+10:], 0)
		}), "empty leaf"},
		{"behind the data", edit(func(b []byte) { b[leaf+size-1] = 7 }), "behind its data"},
		{"bucket sequence", edit(func(b []byte) {
			e := root + 16
			b[e+uint64(ne.Uint32(b[e+4:]))+1+8] = 1
		}), "sequence 1"},
		{"bucket inline", edit(func(b []byte) {
			e := root + 16
			at := e + uint64(ne.Uint32(b[e+4:])) + 1
			clear(b[at : at+16])
		}), "page 0: not in"},
		{"leaf above leaves", edit(func(b []byte) {
			// The last child of the lowest branch is exchanged for the branch.
			last := branch + 16 + 16*uint64(ne.Uint16(b[branch+10:])-1)
			ne.PutUint64(b[last+8:], find(1, 1)/size)
		}), ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			_, err := checkFile(tc.damage(bytes.Clone(f.b)))
			if err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("error %v, want one with %q", err, tc.want)
			}
		})
	}
}
