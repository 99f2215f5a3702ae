package copier

import (
	"bytes"
	"fmt"
	"slices"

	"github.com/dyn2raft/dyn2raft/copier/memory"
)

// A Batch is a growing set of entries in one piece of memory. The zero value
// is an empty batch. It is not safe for concurrent use.
type Batch struct {
	arena []byte
	refs  []ref
	bytes int64 // of all keys and values

	stretches []stretch // what find has found, as long as nothing else is added

	pages *pages // where its memory comes from, if it has none
}

// A ref locates an entry in the arena: the value follows the key. Lengths fit
// because checkSize refuses a batch long before.
type ref struct {
	off  uint64
	klen uint32
	vlen uint32
}

// refBytes is the size of a ref in memory.
const refBytes = 16

// Append adds an entry; it copies key and value.
func (b *Batch) Append(key, value []byte) {
	e := b.Extend(len(key), len(value))
	copy(e.Key, key)
	copy(e.Value, value)
}

func (b *Batch) add(off uint64, klen, vlen int) {
	b.refs = append(b.refs, ref{off: off, klen: uint32(klen), vlen: uint32(vlen)})
	b.bytes += int64(klen) + int64(vlen)
}

// Extend adds an entry with a key and a value of the given lengths, in bytes,
// and returns it for the caller to fill; what it holds before that is
// undefined. It is valid until the batch is changed again.
func (b *Batch) Extend(klen, vlen int) Entry {
	off := len(b.arena)
	if b.arena == nil || cap(b.arena)-off < klen+vlen {
		b.grow(klen + vlen)
	}
	b.arena = b.arena[:off+klen+vlen]
	b.add(uint64(off), klen, vlen)
	return b.Entry(len(b.refs) - 1)
}

// grow makes room for n bytes more.
func (b *Batch) grow(n int) {
	if b.pages != nil && b.arena == nil {
		b.pages.take(b)
	}
	b.arena = slices.Grow(b.arena, n)
}

// PageRoom is enough for the entries of a page of 1 MB, in bytes.
const PageRoom = 5 << 18

// Grow makes room for n more bytes of keys and values. The memory is quick to
// touch for the first time: see package memory.
func (b *Batch) Grow(n int) {
	if cap(b.arena)-len(b.arena) < n {
		b.arena = append(memory.Make(len(b.arena)+n), b.arena...)
	}
}

// Len is the number of entries.
func (b *Batch) Len() int { return len(b.refs) }

// Bytes is the size of all keys and values, in bytes.
func (b *Batch) Bytes() int64 { return b.bytes }

// memory is what the batch holds in bytes, its references included.
func (b *Batch) memory() int64 {
	return int64(len(b.arena)) + int64(len(b.refs))*refBytes + int64(len(b.stretches))*stretchBytes
}

// Entry returns the entry with the given index. It aliases the batch's memory
// and is valid until the batch is changed.
func (b *Batch) Entry(i int) Entry {
	r := b.refs[i]
	v := r.off + uint64(r.klen)
	return Entry{
		Key:   b.arena[r.off:v:v],
		Value: b.arena[v : v+uint64(r.vlen) : v+uint64(r.vlen)],
	}
}

// Truncate drops all entries but the first n. A source that fails in the
// middle of a page uses it to leave the batch as it was.
func (b *Batch) Truncate(n int) {
	if n == 0 {
		b.Reset()
		return
	}
	if n >= len(b.refs) {
		return
	}
	for _, r := range b.refs[n:] {
		b.bytes -= int64(r.klen) + int64(r.vlen)
	}
	b.arena = b.arena[:b.refs[n].off]
	b.refs = b.refs[:n]
	b.stretches = b.stretches[:0]
}

// Reset empties the batch and keeps its memory.
func (b *Batch) Reset() {
	// All of the arena is free again, wherever sorting has put the entry that
	// stands in its beginning.
	b.arena, b.refs, b.bytes = b.arena[:0], b.refs[:0], 0
	b.stretches = b.stretches[:0]
}

// maxBatch bounds what a page may hold, and with it an entry, so that lengths
// fit their fields in memory and in a run: 512 MiB.
const maxBatch = 1 << 29

// checkSize refuses a batch that is too large to be sorted.
func (b *Batch) checkSize() error {
	if b.bytes > maxBatch {
		return &Error{Kind: ErrSource, Op: "sort entries",
			Err: fmt.Errorf("a page of %d entries has %d bytes, more than the %d that a page may have", b.Len(), b.bytes, maxBatch)}
	}
	return nil
}

// appendBatch adds all entries of o, and what was found of its stretches.
func (b *Batch) appendBatch(o *Batch) {
	if b.found() && o.found() {
		from := uint32(len(b.refs))
		for _, x := range o.stretches {
			b.stretches = append(b.stretches, stretch{from + x.from, from + x.to})
		}
	}
	shift := uint64(len(b.arena))
	b.arena = append(b.arena, o.arena...)
	for _, r := range o.refs {
		r.off += shift
		b.refs = append(b.refs, r)
	}
	b.bytes += o.bytes
}

// key is the key that r locates.
func (b *Batch) key(r ref) []byte { return b.arena[r.off : r.off+uint64(r.klen)] }

func (b *Batch) compare(x, y ref) int { return bytes.Compare(b.key(x), b.key(y)) }

// A stretch is entries that follow each other in a batch, from one up to another,
// with ascending keys that are the same up to their last slash.
type stretch struct{ from, to uint32 }

// stretchBytes is the size of a stretch in memory.
const stretchBytes = 8

// found reports whether all entries are in a stretch.
func (b *Batch) found() bool {
	n := len(b.stretches)
	return n == 0 && len(b.refs) == 0 || n > 0 && int(b.stretches[n-1].to) == len(b.refs)
}

// find finds the stretches. That is quick as long as the entries are in the
// processor's cache, as those of a page are that was just read.
func (b *Batch) find() {
	b.stretches = b.stretches[:0]
	var before []byte
	dir := 0 // length of its directory's name
	for i, r := range b.refs {
		key := b.key(r)
		shared := Shared(before, key)
		same := shared >= dir && bytes.IndexByte(key[dir:], '/') < 0
		if !same {
			dir = bytes.LastIndexByte(key, '/') + 1
		}
		ascends := shared == len(before) || shared < len(key) && key[shared] > before[shared]
		if i == 0 || !same || !ascends {
			b.stretches = append(b.stretches, stretch{from: uint32(i)})
		}
		b.stretches[len(b.stretches)-1].to = uint32(i + 1)
		before = key
	}
}

// A batchSorter sorts batches, and keeps its memory from one to the next. The
// zero value is ready. It is not safe for concurrent use.
type batchSorter struct {
	refs []ref
}

// sort puts the entries of a batch in ascending order of their keys' bytes. Offsets
// may no longer ascend afterwards: of what changes a batch only Reset may follow.
//
// A source that keeps together what lies in one directory, and in order, as
// DynamoDB's sort key does, delivers stretches. They are put in order by their first
// keys. Only where one begins before another ends, as that of a directory does that
// has others in it, their entries have to be sorted.
func (s *batchSorter) sort(b *Batch) {
	if !b.found() {
		b.find()
	}
	stretches := b.stretches
	if 2*len(stretches) > len(b.refs) { // what comes next would gain nothing
		slices.SortFunc(b.refs, b.compare)
		b.stretches = stretches[:0]
		return
	}
	first := func(x stretch) []byte { return b.key(b.refs[x.from]) }
	last := func(x stretch) []byte { return b.key(b.refs[x.to-1]) }
	slices.SortFunc(stretches, func(x, y stretch) int { return bytes.Compare(first(x), first(y)) })
	out := slices.Grow(s.refs[:0], len(b.refs))
	for i := 0; i < len(stretches); {
		from, end, many := len(out), last(stretches[i]), false
		out = append(out, b.refs[stretches[i].from:stretches[i].to]...)
		for i++; i < len(stretches) && bytes.Compare(first(stretches[i]), end) < 0; i++ {
			out = append(out, b.refs[stretches[i].from:stretches[i].to]...)
			if l := last(stretches[i]); bytes.Compare(l, end) > 0 {
				end = l
			}
			many = true
		}
		if many {
			slices.SortFunc(out[from:], b.compare)
		}
	}
	b.refs, s.refs = out, b.refs
	b.stretches = stretches[:0]
}
