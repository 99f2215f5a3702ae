package copier

import (
	"bytes"
	"fmt"
	"slices"
)

// A Batch is a growing set of entries in one piece of memory. The zero value
// is an empty batch. It is not safe for concurrent use.
type Batch struct {
	arena []byte
	refs  []ref
	bytes int64 // of all keys and values
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
	off := uint64(len(b.arena))
	b.arena = append(b.arena, key...)
	b.arena = append(b.arena, value...)
	b.add(off, len(key), len(value))
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
	b.arena = slices.Grow(b.arena, klen+vlen)[:off+klen+vlen]
	b.add(uint64(off), klen, vlen)
	return b.Entry(len(b.refs) - 1)
}

// Len is the number of entries.
func (b *Batch) Len() int { return len(b.refs) }

// Bytes is the size of all keys and values, in bytes.
func (b *Batch) Bytes() int64 { return b.bytes }

// memory is what the batch holds in bytes, its references included.
func (b *Batch) memory() int64 {
	return int64(len(b.arena)) + int64(len(b.refs))*refBytes
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
}

// Reset empties the batch and keeps its memory.
func (b *Batch) Reset() {
	// All of the arena is free again, wherever sorting has put the entry that
	// stands in its beginning.
	b.arena, b.refs, b.bytes = b.arena[:0], b.refs[:0], 0
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

// appendBatch adds all entries of o.
func (b *Batch) appendBatch(o *Batch) {
	shift := uint64(len(b.arena))
	b.arena = append(b.arena, o.arena...)
	for _, r := range o.refs {
		r.off += shift
		b.refs = append(b.refs, r)
	}
	b.bytes += o.bytes
}

// sort puts the entries in ascending order of their keys' bytes. Offsets may
// no longer ascend afterwards: of what changes a batch only Reset may follow.
func (b *Batch) sort() {
	slices.SortFunc(b.refs, func(x, y ref) int {
		return bytes.Compare(
			b.arena[x.off:x.off+uint64(x.klen)],
			b.arena[y.off:y.off+uint64(y.klen)])
	})
}
