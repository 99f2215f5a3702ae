package boltfile

import (
	"encoding/binary"
	"fmt"
	"io"
	"math/bits"
	"syscall"

	"github.com/dyn2raft/dyn2raft/copier/durable"
)

// The format of a page, which starts with id u64, flags u16, count u16 and
// overflow u32. Numbers are in the byte order of the machine, since bbolt maps
// the file and reads them in place.
const (
	pageHeaderSize = 16
	elemSize       = 16 // of a leaf's and of a branch's elements alike

	pageBranch = 0x01
	pageLeaf   = 0x02
	pageMeta   = 0x04

	elemBucket = 0x01 // flag of a leaf element that is a bucket
)

func putPageHeader(b []byte, id uint64, flags, count uint16, overflow uint32) {
	ne := binary.NativeEndian
	ne.PutUint64(b[0:], id)
	ne.PutUint16(b[8:], flags)
	ne.PutUint16(b[10:], count)
	ne.PutUint32(b[12:], overflow)
}

// bufferSize is how much is written at once. It is a multiple of every page
// size, so that all writes but the last are aligned.
const bufferSize = 1 << 20

// syncSize is how much is written at least between the begins of two syncs, and
// syncMost at most: an interrupted program can't end before a sync does, and a
// disk may need a second for so much.
const syncSize, syncMost = 16 << 20, 64 << 20

// A pager hands out page ids in ascending order and writes the pages'
// bytes, in the same order, behind the two meta pages.
type pager struct {
	file File
	size int    // of a page, in bytes: a power of two
	bits int    // size is 1<<bits
	next uint64 // id of the next page
	off  int64  // where buf will be written; the file's length once it is empty
	buf  []byte

	// One buffer is written while the next one is being filled.
	spare   []byte     // of the two, the one that is not buf
	writing bool       // spare is under way
	written chan error // what became of it

	// One sync runs beside the writes that follow it.
	syncing bool       // it is under way
	synced  chan error // what became of it
	asked   int64      // what was written when the last one was begun
}

func newPager(f File, pageSize int) *pager {
	return &pager{
		file: f,
		size: pageSize,
		bits: bits.TrailingZeros(uint(pageSize)),
		next: 2,
		off:  2 * int64(pageSize),
		buf:  make([]byte, 0, bufferSize),

		spare:   make([]byte, 0, bufferSize),
		written: make(chan error, 1),
		synced:  make(chan error, 1),
	}
}

// pagesFor returns how many pages a node of n bytes takes.
func (p *pager) pagesFor(n int) int { return (n + p.size - 1) >> p.bits }

// node writes a page, with the overflow pages it needs, and returns its id. It
// holds the elements, the keys and values behind them, and tail, the end of the
// last value.
func (p *pager) node(flags uint16, heads, data, tail []byte) (uint64, error) {
	id, size := p.next, pageHeaderSize+len(heads)+len(data)+len(tail)
	pages := p.pagesFor(size)
	p.next += uint64(pages)
	var h [pageHeaderSize]byte
	putPageHeader(h[:], id, flags, uint16(len(heads)/elemSize), uint32(pages-1))
	if from := len(p.buf); pages<<p.bits <= cap(p.buf)-from {
		// As nearly all do, it has room in the buffer.
		p.buf = p.buf[:from+pages<<p.bits]
		to := p.buf[from:]
		to = to[copy(to, h[:]):]
		to = to[copy(to, heads):]
		to = to[copy(to, data):]
		to = to[copy(to, tail):]
		clear(to)
		return id, p.flushIfFull()
	}
	for _, b := range [][]byte{h[:], heads, data, tail} {
		if err := p.write(b); err != nil {
			return 0, err
		}
	}
	return id, p.pad(int64(p.next) * int64(p.size))
}

// pad writes zeros up to the given offset.
func (p *pager) pad(to int64) error {
	for {
		n := to - p.off - int64(len(p.buf))
		if n <= 0 {
			return nil
		}
		room := int(min(n, int64(cap(p.buf)-len(p.buf))))
		l := len(p.buf)
		p.buf = p.buf[:l+room]
		clear(p.buf[l:])
		if err := p.flushIfFull(); err != nil {
			return err
		}
	}
}

// write appends b.
func (p *pager) write(b []byte) error {
	for len(b) > 0 {
		n := min(len(b), cap(p.buf)-len(p.buf))
		p.buf = append(p.buf, b[:n]...)
		b = b[n:]
		if err := p.flushIfFull(); err != nil {
			return err
		}
	}
	return nil
}

func (p *pager) flushIfFull() error {
	if len(p.buf) < cap(p.buf) {
		return nil
	}
	return p.flush()
}

// flush begins to write what is buffered, once what was begun before has ended.
// An error may be that one's.
func (p *pager) flush() error {
	if err := p.wait(); err != nil {
		return err
	}
	if err := p.syncBeside(); err != nil {
		return err
	}
	full, off := p.buf, p.off
	p.off += int64(len(full))
	p.buf, p.spare = p.spare[:0], full
	p.writing = true
	go func() { p.written <- p.writeOut(full, off) }()
	return nil
}

// syncBeside begins to sync what was written, beside what will be, where that is
// worth it. A sync that is under way runs alone until syncMost is written behind it,
// and is waited for then. It makes nothing durable that anybody relies
// on: the sync at the end does. But a disk with a cache of its own, as virtual ones
// often have, does the work only when it is told to, and would idle until then. An
// error may be that of the sync before: the system reports it only once.
func (p *pager) syncBeside() error {
	if p.off-p.asked < syncSize {
		return nil
	}
	if p.syncing && p.off-p.asked < syncMost && len(p.synced) == 0 {
		return nil
	}
	if err := p.endSync(); err != nil {
		return syncError(err)
	}
	p.syncing, p.asked = true, p.off
	go func() { p.synced <- p.file.Sync() }()
	return nil
}

// sync makes durable what was written. No write is under way.
func (p *pager) sync() error {
	err := p.endSync()
	if err == nil {
		err = p.file.Sync()
	}
	if err != nil {
		return syncError(err)
	}
	return nil
}

// endSync waits for the sync that is under way, if there is one.
func (p *pager) endSync() error {
	if !p.syncing {
		return nil
	}
	p.syncing = false
	return <-p.synced
}

func syncError(err error) error { return fmt.Errorf("sync data pages: %w", err) }

// wait waits for the write that is under way, if there is one.
func (p *pager) wait() error {
	if !p.writing {
		return nil
	}
	p.writing = false
	return <-p.written
}

// writeOut writes, and has the kernel begin to move that to disk. Every 8 MB only,
// or beside the next write, a file of 100 MB took a tenth longer.
func (p *pager) writeOut(b []byte, off int64) error {
	if err := p.writeAt(b, off); err != nil {
		return err
	}
	if f, ok := p.file.(syscall.Conn); ok {
		durable.StartWriteback(f, off, int64(len(b)))
	}
	return nil
}

func (p *pager) writeAt(b []byte, off int64) error {
	n, err := p.file.WriteAt(b, off)
	if err == nil && n < len(b) {
		err = io.ErrShortWrite
	}
	if err != nil {
		return fmt.Errorf("write %d bytes at offset %d: %w", len(b), off, err)
	}
	return nil
}
