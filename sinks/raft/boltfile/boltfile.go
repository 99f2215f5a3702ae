package boltfile

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"os"

	"go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"
)

// Errors of a [Writer], beside those of go.etcd.io/bbolt/errors for what bbolt
// refuses as well (ErrKeyRequired, ErrKeyTooLarge, ErrValueTooLarge,
// ErrBucketNameRequired).
var (
	// ErrOptions is returned by NewWriter for a page size or a fill that
	// bbolt, or this package, can't work with.
	ErrOptions = errors.New("invalid options")
	// ErrNotEmpty is returned by NewWriter for a file that holds anything, or
	// that is no regular file.
	ErrNotEmpty = errors.New("not an empty regular file")
	// ErrOrder is returned by Bucket and Put when a name or a key does not
	// come strictly after the one before it, in the order of their bytes.
	ErrOrder = errors.New("out of order")
	// ErrTwice is the ErrOrder of a key that is the one before it.
	ErrTwice = fmt.Errorf("%w: it comes twice", ErrOrder)
	// ErrNoBucket is returned by Put before the first call of Bucket.
	ErrNoBucket = errors.New("no bucket started")
	// ErrFinished is returned by every method after Finish.
	ErrFinished = errors.New("writer is finished")
)

// DefaultFill is the fill that a zero Options.Fill stands for. The package's
// documentation holds the measurements it was chosen by.
const DefaultFill = 0.85

// Page sizes that bbolt finds its way back into: it looks for the second meta
// page at every power of two from 1 KiB on, and a page of at most 64 KiB can't
// hold more elements than the 16 bits of its count.
const (
	minPageSize = 1 << 10
	maxPageSize = 64 << 10
)

// minFileSize is how much of a file bbolt insists on reading to learn its page
// size. Only a nearly empty file of small pages would be shorter.
const minFileSize = 4096

// Options are the choices of a [Writer]; the zero value is good.
type Options struct {
	// PageSize is the size of a page in bytes: a power of two from 1,024 to
	// 65,536. 0 means the page size of the operating system, which is also
	// what bbolt takes for a file of its own.
	PageSize int
	// Fill is the part of each page that is filled, more than 0 and at most
	// 1. 0 means DefaultFill. An entry larger than that still gets its page.
	Fill float64
}

// A File is what a [Writer] needs of an *os.File. WriteAt is called by one
// goroutine at a time, not always the caller's, with offsets that only grow, but
// for the meta pages at the end. So is Sync, and while a WriteAt is under way: it
// says nothing of what that one writes.
type File interface {
	io.WriterAt
	Stat() (os.FileInfo, error)
	Sync() error
}

var _ File = (*os.File)(nil)

// Stats says what a [Writer] has written.
type Stats struct {
	Buckets int   // top-level buckets
	Entries int64 // entries of all buckets
	// LeafPages and BranchPages count pages without the overflow pages behind
	// them, which OverflowPages counts; the root bucket's are among them.
	LeafPages, BranchPages, OverflowPages int64
	// Depth is the number of levels of the deepest bucket: 1 is one leaf.
	Depth int
	// Bytes is the length of the file.
	Bytes int64
}

// A Writer writes one bbolt database from sorted input. Its memory does not
// grow with the file. It is not safe for concurrent use.
//
// The first error is final: every later call returns it again, and the file is
// not one that bbolt opens. The caller closes and removes the file.
type Writer struct {
	pages  *pager
	fill   float64
	tree   *tree  // the current bucket's; nil before the first
	roots  []root // finished and current buckets; few, held until Finish
	last   []byte // the key before, the tree's; empty at the start of a bucket
	stats  Stats
	failed error
}

// A root is an element of the root bucket.
type root struct {
	name []byte
	page uint64
}

// NewWriter returns a writer for f, which must be empty. It does not close f,
// nor does it lock it as bbolt would: nobody else may know the file yet.
func NewWriter(f File, opts Options) (*Writer, error) {
	size := opts.PageSize
	if size == 0 {
		size = os.Getpagesize()
	}
	if size < minPageSize || size > maxPageSize || size&(size-1) != 0 {
		return nil, fmt.Errorf("page size %d: %w: want a power of two from %d to %d", size, ErrOptions, minPageSize, maxPageSize)
	}
	fill := opts.Fill
	if fill == 0 {
		fill = DefaultFill
	}
	if !(fill > 0 && fill <= 1) { // also refuses NaN
		return nil, fmt.Errorf("fill %v: %w: want more than 0 and at most 1", opts.Fill, ErrOptions)
	}
	info, err := f.Stat()
	if err != nil {
		return nil, fmt.Errorf("look at the new file: %w", err)
	}
	if !info.Mode().IsRegular() || info.Size() != 0 {
		return nil, fmt.Errorf("write %s (%s, %d bytes): %w", info.Name(), info.Mode(), info.Size(), ErrNotEmpty)
	}
	return &Writer{pages: newPager(f, size), fill: fill}, nil
}

// Bucket ends the current bucket and starts the top-level bucket of the given
// name, which it copies.
func (w *Writer) Bucket(name []byte) error {
	if w.failed != nil {
		return w.failed
	}
	switch {
	case len(name) == 0:
		return w.fail(fmt.Errorf("start bucket: %w", bolterrors.ErrBucketNameRequired))
	case len(name) > bbolt.MaxKeySize:
		return w.fail(fmt.Errorf("start bucket: name of %d bytes: %w", len(name), bolterrors.ErrKeyTooLarge))
	case len(w.roots) > 0 && bytes.Compare(name, w.roots[len(w.roots)-1].name) <= 0:
		return w.fail(fmt.Errorf("start bucket %q after %q: %w", name, w.roots[len(w.roots)-1].name, ErrOrder))
	}
	if err := w.endBucket(); err != nil {
		return err
	}
	w.roots = append(w.roots, root{name: bytes.Clone(name)})
	w.tree = newTree(w.pages, w.fill, 0)
	w.last = nil
	return nil
}

// Put adds an entry to the current bucket. It keeps neither key nor value.
func (w *Writer) Put(key, value []byte) error {
	if w.failed != nil {
		return w.failed
	}
	switch {
	case w.tree == nil:
		return w.fail(fmt.Errorf("put %.256q: %w", key, ErrNoBucket))
	case len(key) == 0:
		return w.fail(fmt.Errorf("put after %.256q: %w", w.last, bolterrors.ErrKeyRequired))
	case len(key) > bbolt.MaxKeySize:
		return w.fail(fmt.Errorf("put %.256q…: key of %d bytes: %w", key, len(key), bolterrors.ErrKeyTooLarge))
	case int64(len(value)) > bbolt.MaxValueSize:
		return w.fail(fmt.Errorf("put %.256q: value of %d bytes: %w", key, len(value), bolterrors.ErrValueTooLarge))
	}
	switch bytes.Compare(key, w.last) { // the first key comes after the empty one
	case 0:
		return w.fail(fmt.Errorf("put %.256q: %w", key, ErrTwice))
	case -1:
		return w.fail(fmt.Errorf("put %.256q after %.256q: %w", key, w.last, ErrOrder))
	}
	w.stats.Entries++
	if err := w.tree.put(key, value); err != nil {
		return w.fail(err)
	}
	w.last = w.tree.last
	return nil
}

// Finish writes what is left, syncs it, writes the meta pages that make the
// file a database, and syncs those. The file is complete and durable when it
// returns no error; the directory entry is the caller's to sync.
func (w *Writer) Finish() (Stats, error) {
	if w.failed != nil {
		return Stats{}, w.failed
	}
	if err := w.endBucket(); err != nil {
		return Stats{}, err
	}
	page, err := w.writeRoots()
	if err != nil {
		return Stats{}, w.fail(err)
	}
	if err := w.writeMetas(page); err != nil {
		return Stats{}, w.fail(err)
	}
	w.failed = ErrFinished
	w.stats.Buckets = len(w.roots)
	w.stats.Bytes = w.pages.off
	return w.stats, nil
}

// endBucket writes what is left of the current bucket, if there is one.
func (w *Writer) endBucket() error {
	if w.tree == nil {
		return nil
	}
	page, depth, err := w.tree.finish()
	if err != nil {
		return w.fail(err)
	}
	w.roots[len(w.roots)-1].page = page
	w.stats.Depth = max(w.stats.Depth, depth)
	w.addPages(w.tree)
	w.tree = nil
	return nil
}

// writeRoots writes the root bucket, whose elements point at the buckets.
func (w *Writer) writeRoots() (uint64, error) {
	t := newTree(w.pages, w.fill, elemBucket)
	for _, r := range w.roots {
		var value [16]byte // the bucket's root page, and its sequence, which is 0
		binary.NativeEndian.PutUint64(value[:], r.page)
		if err := t.put(r.name, value[:]); err != nil {
			return 0, err
		}
	}
	page, _, err := t.finish()
	w.addPages(t)
	return page, err
}

func (w *Writer) addPages(t *tree) {
	w.stats.LeafPages += t.leaves
	w.stats.BranchPages += t.branches
	w.stats.OverflowPages += t.overflows
}

// writeMetas makes the data durable and then the file a database. Only here
// may the two meta pages become valid, since bbolt believes any file that has
// one.
func (w *Writer) writeMetas(rootPage uint64) error {
	p := w.pages
	highWater := p.next // bbolt's own: the first page id that was never used
	if err := p.pad(minFileSize); err != nil {
		return err
	}
	if err := p.flush(); err != nil {
		return err
	}
	if err := p.wait(); err != nil {
		return err
	}
	if err := p.sync(); err != nil {
		return err
	}
	metas := make([]byte, 2*p.size)
	for id := range uint64(2) {
		putMeta(metas[int(id)*p.size:], id, uint32(p.size), rootPage, highWater)
	}
	err := p.writeAt(metas, 0)
	if err == nil {
		if err = p.file.Sync(); err != nil {
			err = fmt.Errorf("sync meta pages: %w", err)
		}
	}
	if err != nil {
		// A meta may have got through. What it describes is all there, but
		// the caller is told of a failure, so nothing may open the file: as
		// far as the file still obeys.
		clear(metas)
		_ = p.writeAt(metas, 0)
	}
	return err
}

// fail makes err final.
func (w *Writer) fail(err error) error {
	w.Stop()
	w.failed = err
	return err
}

// Stop ends a Writer that is not to be finished: when it returns, nothing more
// is written to the file. Behind an error, or Finish, it does nothing.
func (w *Writer) Stop() {
	_ = w.pages.wait() // the file is of no use, whatever became of it
	_ = w.pages.endSync()
	if w.failed == nil {
		w.failed = ErrFinished
	}
}

// putMeta writes the meta page of the given id, which is also its transaction
// id: bbolt expects the even one on page 0, and opens the higher one.
func putMeta(b []byte, id uint64, pageSize uint32, rootPage, highWater uint64) {
	const (
		magic      = 0xED0CDAED
		version    = 2
		noFreelist = 1<<64 - 1 // bbolt finds the free pages when it opens the file
	)
	ne := binary.NativeEndian
	putPageHeader(b, id, pageMeta, 0, 0)
	m := b[pageHeaderSize:]
	ne.PutUint32(m[0:], magic)
	ne.PutUint32(m[4:], version)
	ne.PutUint32(m[8:], pageSize)
	ne.PutUint32(m[12:], 0) // flags
	ne.PutUint64(m[16:], rootPage)
	ne.PutUint64(m[24:], 0) // sequence of the root bucket
	ne.PutUint64(m[32:], noFreelist)
	ne.PutUint64(m[40:], highWater)
	ne.PutUint64(m[48:], id) // transaction id
	h := fnv.New64a()
	_, _ = h.Write(m[:56]) // never fails
	ne.PutUint64(m[56:], h.Sum64())
}
