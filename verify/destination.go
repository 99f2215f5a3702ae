package verify

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"os"
	"runtime/debug"
	"time"

	bolt "go.etcd.io/bbolt"
	berrors "go.etcd.io/bbolt/errors"

	"github.com/dyn2raft/dyn2raft/copier"
)

// ErrInUse is returned when a running Vault, or another program, has the
// destination's vault.db open.
var ErrInUse = errors.New("vault.db is in use")

// openTimeout is how long another process may hold the file.
const openTimeout = time.Second

// A destination is the data bucket of a vault.db, read in key order.
type destination struct {
	file   string
	db     *bolt.DB
	tx     *bolt.Tx
	bucket *bolt.Bucket
	cursor *bolt.Cursor
	begun  bool
	key    []byte // the last one
	sum    [summaryBytes]byte
}

// open opens a file and checks what would otherwise kill the process: bbolt
// maps the file and follows what is in it without a doubt.
func open(file string) (*destination, error) {
	d := &destination{file: file}
	st, err := os.Stat(file)
	switch {
	case errors.Is(err, os.ErrNotExist):
		return nil, d.fail(err, "nothing was copied to this directory: check path in storage_destination, and VAULT_RAFT_PATH")
	case err != nil:
		return nil, d.fail(err, "")
	case !st.Mode().IsRegular():
		return nil, d.fail(errors.New("not a regular file"), "")
	case st.Size() == 0: // bbolt would try to fill it
		return nil, d.damaged("it is empty")
	}

	var f *os.File // bbolt's, and closed by it
	d.db, err = bolt.Open(file, 0o600, &bolt.Options{
		ReadOnly: true,
		Timeout:  openTimeout,
		OpenFile: func(name string, flag int, mode os.FileMode) (_ *os.File, err error) {
			f, err = os.OpenFile(name, flag, mode)
			return f, err
		},
	})
	switch {
	case errors.Is(err, berrors.ErrTimeout):
		return nil, &copier.Error{Kind: copier.ErrLocked, Op: "open " + file, Err: ErrInUse,
			Hint: "stop the Vault that runs on this directory, then run the same command again"}
	case err != nil:
		return nil, d.fail(err, "")
	}
	if err := d.start(f); err != nil {
		return nil, errors.Join(err, d.close())
	}
	return d, nil
}

// start checks the file, which nobody can write to now, and finds the bucket.
func (d *destination) start(f *os.File) (err error) {
	defer d.guard(&err)()
	t := tree{f: f, pageSize: int64(d.db.Info().PageSize)}
	root, err := t.meta()
	if err != nil {
		return d.damaged(err.Error())
	}
	if err := t.check(root, 0); err != nil {
		return d.damaged(err.Error())
	}
	if d.tx, err = d.db.Begin(false); err != nil {
		return d.fail(err, "")
	}
	if d.bucket = d.tx.Bucket([]byte("data")); d.bucket == nil {
		return d.fail(errors.New(`it has no bucket "data": it is not a Vault's`), "")
	}
	if root := uint64(d.bucket.Root()); root != 0 { // else it lies within its parent
		if err := t.check(root, 0); err != nil {
			return d.damaged(err.Error())
		}
	}
	d.cursor = d.bucket.Cursor()
	return nil
}

// next returns the next key with the summary of its value, or [io.EOF] after
// the last. They are valid until the following call.
func (d *destination) next() (e copier.Entry, err error) {
	defer d.guard(&err)()
	var k, v []byte
	if d.begun {
		k, v = d.cursor.Next()
	} else {
		k, v = d.cursor.First()
	}
	switch {
	case k == nil:
		return e, io.EOF
	case v == nil:
		return e, d.damaged(fmt.Sprintf("%q is a bucket in the bucket \"data\"", k))
	case len(k) > bolt.MaxKeySize:
		return e, d.damaged(fmt.Sprintf("a key has %d bytes", len(k)))
	case d.begun && bytes.Compare(d.key, k) >= 0:
		return e, d.damaged(fmt.Sprintf("key %q stands behind key %q", k, d.key))
	}
	// A Vault looks keys up, on a way through branch pages that the cursor
	// does not take.
	if found := d.bucket.Get(k); found == nil || !bytes.Equal(found, v) {
		return e, d.damaged(fmt.Sprintf("key %q is there and can't be looked up", k))
	}
	d.begun = true
	d.key = append(d.key[:0], k...)
	d.sum = summarise(v)
	return copier.Entry{Key: d.key, Value: d.sum[:]}, nil
}

// guard turns what bbolt does on a damaged file, panicking or touching memory
// outside of the map, into an error. It is called as defer d.guard(&err)().
func (d *destination) guard(err *error) func() {
	old := debug.SetPanicOnFault(true)
	return func() {
		debug.SetPanicOnFault(old)
		if p := recover(); p != nil {
			*err = d.damaged(fmt.Sprint(p))
		}
	}
}

func (d *destination) close() error {
	var err error
	if d.tx != nil {
		err = d.tx.Rollback()
	}
	if err = errors.Join(err, d.db.Close()); err != nil {
		return &copier.Error{Kind: copier.ErrDestination, Op: "close " + d.file, Err: err}
	}
	return nil
}

func (d *destination) fail(err error, hint string) error {
	return &copier.Error{Kind: copier.ErrDestination, Op: "read " + d.file, Err: err, Hint: hint}
}

func (d *destination) damaged(what string) error {
	return d.fail(errors.New("the file is damaged: "+what), "copy again into an empty directory")
}

// A tree checks the pages of a bbolt file by reading them, not by mapping
// them. The layout is that of bbolt's internal/common (page.go, meta.go).
type tree struct {
	f         io.ReaderAt
	pageSize  int64
	highWater uint64 // pages from here on are not in use
	visited   uint64
}

const (
	pageHeader = 16
	branchFlag = 1
	leafFlag   = 2
	metaBytes  = 64 // without the page's header
	// maxDepth is far more than a tree can have whose branches have at least
	// two children and whose pages fit an address space.
	maxDepth = 64
)

// meta returns the root page that bbolt uses, that of the newest valid meta
// page. It takes a file for damaged that ends before the last page in use:
// touching a page that is not there is a SIGBUS.
func (t *tree) meta() (root uint64, err error) {
	var newest uint64
	for i := range int64(2) {
		var p [pageHeader + metaBytes]byte
		if _, err := t.f.ReadAt(p[:], i*t.pageSize); err != nil {
			return 0, fmt.Errorf("read meta page %d: %w", i, err)
		}
		m := p[pageHeader:]
		u32, u64 := binary.NativeEndian.Uint32, binary.NativeEndian.Uint64
		sum := fnv.New64a()
		sum.Write(m[:56])
		if u32(m) != 0xED0CDAED || u32(m[4:]) != 2 || sum.Sum64() != u64(m[56:]) {
			continue
		}
		if id := u64(m[48:]); root == 0 || id > newest {
			root, t.highWater, newest = u64(m[16:]), u64(m[40:]), id
		}
	}
	if root == 0 {
		return 0, errors.New("it has no valid meta page")
	}
	if t.highWater < 2 {
		return 0, fmt.Errorf("it has %d pages", t.highWater)
	}
	if t.highWater > uint64(1<<62/t.pageSize) {
		return 0, fmt.Errorf("it claims to have %d pages", t.highWater)
	}
	last := int64(t.highWater)*t.pageSize - 1
	if _, err := t.f.ReadAt(make([]byte, 1), last); err != nil {
		return 0, fmt.Errorf("it must have %d bytes, and is shorter", last+1)
	}
	return root, nil
}

// check walks the tree below a page. In a sound file no page is visited twice,
// so that there are fewer visits than pages.
func (t *tree) check(id uint64, depth int) error {
	t.visited++
	if id < 2 || id >= t.highWater {
		return fmt.Errorf("there is no page %d", id)
	}
	if t.visited > t.highWater || depth > maxDepth {
		return fmt.Errorf("page %d is reached in a circle", id)
	}
	var h [pageHeader]byte
	at := int64(id) * t.pageSize
	if _, err := t.f.ReadAt(h[:], at); err != nil {
		return fmt.Errorf("read page %d: %w", id, err)
	}
	self, flags := binary.NativeEndian.Uint64(h[0:]), binary.NativeEndian.Uint16(h[8:])
	count, overflow := int64(binary.NativeEndian.Uint16(h[10:])), uint64(binary.NativeEndian.Uint32(h[12:]))
	switch {
	case self != id:
		return fmt.Errorf("page %d says that it is page %d", id, self)
	case overflow >= t.highWater-id:
		return fmt.Errorf("page %d goes on behind the last page", id)
	case flags == leafFlag:
		return nil
	case flags != branchFlag:
		return fmt.Errorf("page %d is neither a branch nor a leaf (flags %#x)", id, flags)
	case count == 0:
		return fmt.Errorf("page %d is a branch without children", id)
	}
	const element = 16 // pos u32, ksize u32, page u64
	elements := make([]byte, count*element)
	if _, err := t.f.ReadAt(elements, at+pageHeader); err != nil {
		return fmt.Errorf("read page %d: %w", id, err)
	}
	for i := range count {
		if err := t.check(binary.NativeEndian.Uint64(elements[i*element+8:]), depth+1); err != nil {
			return err
		}
	}
	return nil
}
