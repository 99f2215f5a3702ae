// Package vaultdb reads a Vault's vault.db, and any other bbolt file, by its
// own path.
//
// It shares nothing with what writes such files, and does not map them: a page
// that a truncated file lacks is an error here, and the end of the process
// where it is mapped. Every number that is read is checked before it is
// followed. A damaged file gives [ErrDamaged] with the page and what is wrong
// with it, whatever its bytes are.
//
// [Entries] reads a bucket from its first key to its last in one pass over its
// pages, and holds the branch pages on the way to a leaf and a read-ahead
// buffer, whatever the size of the file. It believes a file that keeps these
// rules, which are bbolt's own (go.etcd.io/bbolt v1.5.0, internal/common:
// page.go, meta.go, inode.go, bucket.go; node.go for what it writes), and
// stricter than those of bbolt's Check:
//
//   - a page says its own id, is a leaf or a branch, and is used once;
//   - its elements lie packed, one behind the other, and need as many pages
//     as it has;
//   - keys strictly ascend, within pages and across them;
//   - a branch has two children or more, and its keys are the whole first keys
//     of its children;
//   - all leaves are equally deep, and none is empty but a root.
//
// Together they prove that each entry that is read in order is also found by
// its key, as a Vault looks it up: with the keys in ascending order and the
// branch keys being the first keys of their children, child i of a branch holds
// the keys from branch key i up to, and without, branch key i+1. That is where
// a search by branch keys looks.
package vaultdb

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/dyn2raft/dyn2raft/copier"
)

var (
	// ErrDamaged is returned when a file breaks the rules of its format. Its
	// text continues with the page and the rule.
	ErrDamaged = errors.New("the file is damaged")
	// ErrInUse is returned by Open when another process has the file open for
	// writing, as a running Vault has.
	ErrInUse = errors.New("in use")
	// ErrNoBucket is returned when a file lacks a bucket.
	ErrNoBucket = errors.New("it has no such bucket")
)

// Buckets of a vault.db.
const (
	DataBucket   = "data"   // Vault's entries
	ConfigBucket = "config" // the state of Raft
)

// A File is an open bbolt file. It is safe for concurrent use. All errors of
// its methods are of type [copier.Error] and wrap copier.ErrDestination, but
// for those of a context.
type File struct {
	name     string
	r        io.ReaderAt
	closer   io.Closer // nil where there is nothing to close
	size     int64
	pageSize int64
	metas    [2]meta
	meta     meta // the newer valid one
	buckets  map[string]bucket
}

// A bucket is a tree of pages, or a leaf page within the element that names it.
type bucket struct {
	root     uint64
	sequence uint64 // nobody uses it
	inline   []byte
	page     uint64 // where the element lies
}

// maxBuckets bounds what is believed to be a root bucket; Vault's files and
// those of Raft have two.
const maxBuckets = 1000

// Open opens a vault.db for reading and takes the shared lock that keeps a
// Vault from starting on it until Close. Where a Vault runs on it the error
// wraps [ErrInUse] and copier.ErrLocked; all others wrap copier.ErrDestination. One
// without a bucket "data", which every Vault makes at once, wraps [ErrDamaged] and
// [ErrNoBucket]: the name may be what is damaged. It does not wait, and changes
// nothing.
func Open(path string) (*File, error) {
	return openVault(path, true)
}

func openVault(path string, lock bool) (*File, error) {
	f, err := openBolt(path, lock)
	if err != nil {
		return nil, err
	}
	if _, ok := f.buckets[DataBucket]; !ok {
		return nil, errors.Join(
			f.fail(fmt.Errorf("%w, or not a Vault's: bucket %q: %w", ErrDamaged, DataBucket, ErrNoBucket), Damaged),
			f.Close())
	}
	return f, nil
}

// OpenBolt is [Open] for a bbolt file with other buckets than a Vault's.
func OpenBolt(path string) (*File, error) { return openBolt(path, true) }

// OpenHeld is OpenBolt for a file whose lock the caller holds himself, and may change it
// by. The File is what was there at the call: its pages must stay as they are for as long
// as it is used, as a read transaction of bbolt's keeps them.
func OpenHeld(path string) (*File, error) { return openBolt(path, false) }

func openBolt(path string, lock bool) (*File, error) {
	f := &File{name: path}
	st, err := os.Stat(path)
	switch {
	case errors.Is(err, os.ErrNotExist):
		return nil, f.fail(err, NoFile)
	case errors.Is(err, syscall.ENOTDIR):
		return nil, f.fail(err, NotInDirectory)
	case errors.Is(err, fs.ErrPermission):
		return nil, f.fail(err, OwnerOnly)
	case err != nil:
		return nil, f.fail(err, "")
	case !st.Mode().IsRegular(): // opening a pipe would wait for a writer
		return nil, f.fail(errors.New("not a regular file"), "")
	}
	file, err := os.Open(path)
	if errors.Is(err, fs.ErrPermission) {
		return nil, f.fail(err, OwnerOnly)
	}
	if err != nil {
		return nil, f.fail(err, "")
	}
	f.r, f.closer = file, file
	if lock {
		if err := f.lock(file); err != nil {
			return nil, errors.Join(err, f.Close())
		}
	}
	if st, err = file.Stat(); err != nil { // nobody can cut it any more
		return nil, errors.Join(f.fail(err, ""), f.Close())
	}
	f.size = st.Size()
	if err := f.start(); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// NewFile is [OpenBolt] for a file of the given size that is read from r,
// without a lock. Close does not close r.
func NewFile(name string, r io.ReaderAt, size int64) (*File, error) {
	f := &File{name: name, r: r, size: size}
	if err := f.start(); err != nil {
		return nil, err
	}
	return f, nil
}

// TxID is the number of the transaction that the File is as of.
func (f *File) TxID() uint64 { return f.meta.txid }

// lock takes the lock that bbolt takes to read; one that writes excludes it.
func (f *File) lock(file *os.File) error {
	for {
		switch err := unix.Flock(int(file.Fd()), unix.LOCK_SH|unix.LOCK_NB); err {
		case nil:
			return nil
		case unix.EINTR:
		case unix.EWOULDBLOCK:
			return &copier.Error{Kind: copier.ErrLocked, Op: "open " + f.name,
				Code: copier.InUse, Err: fmt.Errorf("%s is %w", filepath.Base(f.name), ErrInUse)}
		default:
			return f.fail(fmt.Errorf("lock: %w", err), "")
		}
	}
}

// Close gives the lock back. No method may be called after it.
func (f *File) Close() error {
	if f.closer == nil {
		return nil
	}
	if err := f.closer.Close(); err != nil {
		return &copier.Error{Kind: copier.ErrDestination, Op: "close " + f.name, Err: err}
	}
	return nil
}

// start reads what all else hangs on: the meta pages and the root bucket.
func (f *File) start() error {
	if err := f.readMetas(); err != nil {
		return err
	}
	f.buckets = map[string]bucket{}
	e := f.newWalk(context.Background(), bucket{root: f.meta.root}, elemBucket)
	e.used = newUsage(f.meta.highWater)
	for {
		entry, err := e.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		b := bucket{page: e.page.id}
		if len(entry.Value) < bucketHeaderSize {
			return f.damaged(b.page, "the element of bucket %s has %d bytes", copier.NameKey(entry.Key), len(entry.Value))
		}
		b.root = binary.NativeEndian.Uint64(entry.Value)
		b.sequence = binary.NativeEndian.Uint64(entry.Value[8:])
		if b.root == 0 {
			b.inline = append([]byte{}, entry.Value[bucketHeaderSize:]...)
		} else if len(entry.Value) > bucketHeaderSize {
			return f.damaged(b.page, "the element of bucket %s has %d bytes", copier.NameKey(entry.Key), len(entry.Value))
		}
		if f.buckets[string(entry.Key)] = b; len(f.buckets) > maxBuckets {
			return f.fail(fmt.Errorf("it has more than %d buckets: it is not a Vault's", maxBuckets), "")
		}
	}
}

// A meta is what a meta page says. The file's state is that of the valid one
// with the higher transaction id; the other one is the state before it.
type meta struct {
	wrong string // empty if it is valid

	pageSize                        uint32
	root, freelist, highWater, txid uint64
}

const (
	metaSize   = 64         // without the page's header
	noFreelist = 1<<64 - 1  // the free pages are not written down
	minPage    = 1 << 10    // bbolt looks for a second meta page from here on
	maxPage    = 64 << 10   // more elements would not fit a page's count
	magic      = 0xED0CDAED // of every bbolt file
	version    = 2          // of the format
)

// readMeta reads a meta page that begins at an offset.
func (f *File) readMeta(at int64) (m meta, err error) {
	var p [pageHeaderSize + metaSize]byte
	if err := f.readAt(p[:], at); err != nil {
		if errors.Is(err, ErrDamaged) {
			return meta{wrong: "the file ends before it"}, nil
		}
		return m, err
	}
	b, ne := p[pageHeaderSize:], binary.NativeEndian
	sum := fnv.New64a()
	sum.Write(b[:56])
	switch {
	case ne.Uint32(b) != magic:
		return meta{wrong: "it is not a bbolt file's"}, nil
	case ne.Uint32(b[4:]) != version:
		return meta{wrong: fmt.Sprintf("version %d of the format", ne.Uint32(b[4:]))}, nil
	case ne.Uint64(b[56:]) != sum.Sum64():
		return meta{wrong: "its checksum is wrong"}, nil
	}
	return meta{
		pageSize: ne.Uint32(b[8:]), root: ne.Uint64(b[16:]), freelist: ne.Uint64(b[32:]),
		highWater: ne.Uint64(b[40:]), txid: ne.Uint64(b[48:]),
	}, nil
}

// readMetas finds the newer meta page. Where the page size can't be read from
// the first, the second is looked for at every size that pages may have, as
// bbolt does.
func (f *File) readMetas() error {
	if f.size == 0 {
		return f.fail(fmt.Errorf("%w: it is empty", ErrDamaged), Damaged)
	}
	first, err := f.readMeta(0)
	if err != nil {
		return err
	}
	found := first
	for at := int64(minPage); found.wrong != "" && at <= maxPage; at *= 2 {
		second, err := f.readMeta(at)
		if err != nil {
			return err
		}
		if second.wrong == "" {
			found = second
		}
	}
	if found.wrong != "" {
		return f.fail(fmt.Errorf("%w: it has no valid meta page: %s", ErrDamaged, first.wrong), Damaged)
	}
	f.pageSize = int64(found.pageSize)
	if f.pageSize < minPage || f.pageSize > maxPage || f.pageSize&(f.pageSize-1) != 0 {
		return f.damaged(0, "the page size is %d", f.pageSize)
	}
	for i := range f.metas {
		if f.metas[i], err = f.readMeta(int64(i) * f.pageSize); err != nil {
			return err
		}
	}
	f.meta = f.metas[0]
	if f.meta.wrong != "" || f.metas[1].wrong == "" && f.metas[1].txid > f.meta.txid {
		f.meta = f.metas[1]
	}
	switch pages := f.size / f.pageSize; {
	case f.meta.wrong != "": // found at an offset that its own page size rules out
		return f.fail(fmt.Errorf("%w: it has no valid meta page: %s", ErrDamaged, f.meta.wrong), Damaged)
	case f.meta.highWater > uint64(pages):
		return f.fail(fmt.Errorf("%w: it must have %d pages of %d bytes, and has %d bytes", ErrDamaged,
			f.meta.highWater, f.pageSize, f.size), Damaged)
	}
	return nil
}

// readAt fills b from an offset. Where the file ends before, it is damaged;
// nothing behind its end is asked for.
func (f *File) readAt(b []byte, at int64) error {
	n, err := 0, io.EOF
	if at < f.size {
		n, err = f.r.ReadAt(b, at)
	}
	switch {
	case n == len(b):
		return nil
	case errors.Is(err, io.EOF):
		return f.fail(fmt.Errorf("%w: it ends at byte %d", ErrDamaged, min(at, f.size)+int64(n)), Damaged)
	default:
		return f.fail(err, "")
	}
}

func (f *File) fail(err error, code copier.Code) error {
	return &copier.Error{Kind: copier.ErrDestination, Op: "read " + f.name, Code: code, Err: err}
}

// damaged returns what is wrong with a page.
func (f *File) damaged(page uint64, format string, args ...any) error {
	return f.fail(fmt.Errorf("%w: page %d: %s", ErrDamaged, page, fmt.Sprintf(format, args...)),
		Damaged)
}
