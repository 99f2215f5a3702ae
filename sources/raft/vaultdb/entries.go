package vaultdb

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"sync/atomic"

	"github.com/dyn2raft/dyn2raft/copier"
)

// Entries reads a bucket in key order. It is not safe for concurrent use.
type Entries struct {
	f      *File
	ctx    context.Context
	bucket bucket
	name   string // of the bucket
	flags  uint32 // of every leaf element
	begun  bool
	err    error // final

	page     page     // the current leaf
	next     int      // its next element
	at       int      // where that element's key begins
	last     []byte   // the last key, within page or in lastBuf
	lastBuf  []byte   // the last key of the leaf before
	branches []branch // from the root to the leaf's parent
	free     [][]byte // buffers of branches that were left
	depth    int      // of the leaves; 0 before the first

	window window
	used   *usage // of the whole file; nil where that is nobody's business
	// shared is set where others use pages of the same bucket too, or the same
	// ones once more, and unread where leaves that were read are left out.
	shared, unread bool
	stats          Stats // of what nobody has used before
}

var _ copier.Stream = (*Entries)(nil)

// A page is a leaf or a branch. Its element i has its header at byte 16+16*i,
// and the keys and values of all elements follow each other behind the headers.
type page struct {
	id       uint64
	leaf     bool
	count    int
	overflow uint64 // pages behind the first
	data     []byte // as far as it is used
}

// A branch is a branch page whose children are being visited.
type branch struct {
	page
	next int // the next child
	at   int // where its key begins
}

const (
	pageHeaderSize   = 16 // id u64, flags u16, count u16, overflow u32
	elemSize         = 16 // leaf: flags, pos, ksize, vsize u32; branch: pos, ksize u32, page u64
	bucketHeaderSize = 16 // root u64, sequence u64

	branchFlag   = 0x01
	leafFlag     = 0x02
	metaFlag     = 0x04
	freelistFlag = 0x10

	elemBucket = 0x01 // flag of a leaf element that is a bucket

	maxKeySize = 32768 // bbolt's

	// MaxPageBytes is how much a page may hold together with its overflow pages:
	// 256 MiB. A value of Vault's has at most max_entry_size, which is 1 MiB unless
	// somebody has raised it. A few bytes of a damaged file must not make its reader
	// take all memory.
	MaxPageBytes = 256 << 20

	// maxDepth is more than a tree can have whose branches have two children
	// or more and whose pages can be numbered by their bytes' offsets.
	maxDepth = 56
)

// Entries returns the entries of the bucket "data" in the order of their keys'
// bytes. The context ends the reading between two pages.
func (f *File) Entries(ctx context.Context) *Entries { return f.Bucket(ctx, DataBucket) }

// Bucket is [File.Entries] for another top-level bucket. Where there is none,
// the first call of Next returns [ErrNoBucket].
func (f *File) Bucket(ctx context.Context, name string) *Entries {
	b, ok := f.buckets[name]
	e := f.newWalk(ctx, b, 0)
	e.name, e.used = name, newUsage(f.meta.highWater)
	if !ok {
		e.err = f.fail(fmt.Errorf("bucket %q: %w", name, ErrNoBucket), "")
	}
	return e
}

func (f *File) newWalk(ctx context.Context, b bucket, flags uint32) *Entries {
	return &Entries{f: f, ctx: ctx, bucket: b, flags: flags}
}

// Next returns the next entry, or [io.EOF] after the last. It is valid until
// the following call. After an error it returns the same error again.
func (e *Entries) Next() (copier.Entry, error) {
	for e.next == e.page.count {
		if e.err == nil {
			e.err = e.nextLeaf()
		}
		if e.err != nil {
			return copier.Entry{}, e.err
		}
	}
	// load has checked that all of this lies within the page.
	h := e.page.data[pageHeaderSize+elemSize*e.next:][:elemSize]
	value := e.at + int(binary.NativeEndian.Uint32(h[8:]))
	end := value + int(binary.NativeEndian.Uint32(h[12:]))
	entry := copier.Entry{Key: e.page.data[e.at:value:value], Value: e.page.data[value:end:end]}
	if flags := binary.NativeEndian.Uint32(h); flags != e.flags {
		return e.fail(e.wrongFlags(entry.Key, flags))
	}
	if bytes.Compare(e.last, entry.Key) >= 0 { // the first key comes after none
		return e.fail(e.f.damaged(e.page.id, "key %s stands behind key %s", copier.NameKey(entry.Key), copier.NameKey(e.last)))
	}
	e.last = entry.Key
	e.at = end
	e.next++
	return entry, nil
}

// fail makes an error final.
func (e *Entries) fail(err error) (copier.Entry, error) {
	e.err = err
	e.next, e.page.count = 0, 0
	return copier.Entry{}, err
}

func (e *Entries) wrongFlags(key []byte, flags uint32) error {
	if e.flags == 0 && flags == elemBucket {
		return e.f.damaged(e.page.id, "%s is a bucket among entries", copier.NameKey(key))
	}
	return e.f.damaged(e.page.id, "%s has the flags %#x", copier.NameKey(key), flags)
}

// nextLeaf goes to the next leaf, or returns [io.EOF].
func (e *Entries) nextLeaf() error {
	if !e.begun {
		return e.begin()
	}
	e.lastBuf = append(e.lastBuf[:0], e.last...)
	e.last = e.lastBuf
	e.next, e.page.count = 0, 0
	for len(e.branches) > 0 {
		b := &e.branches[len(e.branches)-1]
		if b.next == b.count {
			e.free = append(e.free, b.data)
			e.branches = e.branches[:len(e.branches)-1]
			continue
		}
		if e.unread && len(e.branches)+1 == e.depth && e.used.begin.has(b.nextID()) {
			b.pass()
			continue
		}
		child, err := e.child(b)
		if err != nil {
			return err
		}
		if leaf, err := e.enter(child); leaf || err != nil {
			return err
		}
	}
	return io.EOF
}

// child loads the next child of a branch.
func (e *Entries) child(b *branch) (page, error) {
	key := b.nextKey()
	child, err := e.load(b.nextID(), b)
	if err != nil {
		return child, err
	}
	b.pass()
	if child.count == 0 {
		return child, e.f.damaged(child.id, "it is empty, and not the root")
	}
	if first := child.firstKey(); !bytes.Equal(first, key) {
		return child, e.f.damaged(child.id, "its first key is %s, and in branch page %d it is %s", copier.NameKey(first), b.id, copier.NameKey(key))
	}
	return child, nil
}

// nextKey is the key of the next child, and nextID its page.
func (b *branch) nextKey() []byte {
	end := b.at + int(binary.NativeEndian.Uint32(b.data[pageHeaderSize+elemSize*b.next+4:]))
	return b.data[b.at:end:end]
}

func (b *branch) nextID() uint64 {
	return binary.NativeEndian.Uint64(b.data[pageHeaderSize+elemSize*b.next+8:])
}

// pass leaves the next child behind.
func (b *branch) pass() {
	b.at += len(b.nextKey())
	b.next++
}

// begin goes to the first leaf.
func (e *Entries) begin() error {
	if leaf, err := e.beginRoot(); leaf || err != nil {
		return err
	}
	return e.nextLeaf()
}

// beginRoot goes to the root, and reports whether that is a leaf.
func (e *Entries) beginRoot() (leaf bool, err error) {
	e.begun = true
	if e.bucket.root == 0 {
		return true, e.beginInline()
	}
	root, err := e.load(e.bucket.root, nil)
	if err != nil {
		return false, err
	}
	return e.enter(root)
}

// seek goes to the leaf in which a key is looked for, in place of the first one.
func (e *Entries) seek(key []byte) error {
	leaf, err := e.beginRoot()
	for !leaf && err == nil {
		b := &e.branches[len(e.branches)-1]
		for b.next+1 < b.count {
			ahead := *b
			if ahead.pass(); bytes.Compare(ahead.nextKey(), key) > 0 {
				break
			}
			*b = ahead
		}
		var child page
		if child, err = e.child(b); err == nil {
			leaf, err = e.enter(child)
		}
	}
	return err
}

// bound returns the key with which the leaf behind the current one begins, nil
// where there is none.
func (e *Entries) bound() []byte {
	for i := len(e.branches) - 1; i >= 0; i-- {
		if b := &e.branches[i]; b.next < b.count {
			return b.nextKey()
		}
	}
	return nil
}

// beginInline goes to the leaf of a bucket that lies within the root bucket.
func (e *Entries) beginInline() error {
	b := e.bucket.inline
	if len(b) < pageHeaderSize {
		return e.f.damaged(e.bucket.page, "a bucket within it has %d bytes", len(b))
	}
	p := e.f.header(b)
	if p.id != 0 || !p.leaf || p.overflow != 0 {
		return e.f.damaged(e.bucket.page, "a bucket within it has the page header % x", b[:pageHeaderSize])
	}
	if end := pageHeaderSize + elemSize*p.count; end > len(b) {
		return e.f.damaged(e.bucket.page, "a bucket within it has %d bytes and %d elements", len(b), p.count)
	}
	p.id = e.bucket.page
	size, err := e.f.measure(&p, b, int64(len(b)))
	if err != nil {
		return err
	}
	if size != int64(len(b)) {
		return e.f.damaged(p.id, "a bucket within it has %d bytes and uses %d", len(b), size)
	}
	p.data = b
	e.page, e.at, e.depth = p, pageHeaderSize+elemSize*p.count, 1
	e.stats.Depth = 1
	return nil
}

// enter makes a page the current leaf, or the last branch.
func (e *Entries) enter(p page) (leaf bool, err error) {
	depth := len(e.branches) + 1
	if p.leaf {
		if e.depth == 0 {
			e.depth = depth
			e.stats.Depth = depth
		}
		if depth != e.depth {
			return false, e.f.damaged(p.id, "a leaf on level %d, where others are on level %d", depth, e.depth)
		}
		e.page, e.next, e.at = p, 0, pageHeaderSize+elemSize*p.count
		return true, nil
	}
	switch {
	case p.count < 2:
		return false, e.f.damaged(p.id, "a branch with %d children", p.count)
	case depth >= maxDepth || e.depth != 0 && depth >= e.depth:
		return false, e.f.damaged(p.id, "a branch on level %d", depth)
	}
	// The next page that is read may overwrite it.
	var buf []byte
	if n := len(e.free); n > 0 {
		buf, e.free = e.free[n-1], e.free[:n-1]
	}
	p.data = append(buf[:0], p.data...)
	e.branches = append(e.branches, branch{page: p, at: pageHeaderSize + elemSize*p.count})
	return false, nil
}

// firstKey is the key of the first element, which there must be.
func (p *page) firstKey() []byte {
	h := p.data[pageHeaderSize:]
	size := binary.NativeEndian.Uint32(h[4:])
	if p.leaf {
		size = binary.NativeEndian.Uint32(h[8:])
	}
	return p.data[pageHeaderSize+elemSize*p.count:][:size]
}

// load reads a page, counts it as used, and checks all that its own bytes
// tell, but for the order of its keys. parent is the branch whose next child it
// is, or nil. What it returns is valid until the following call.
func (e *Entries) load(id uint64, parent *branch) (p page, err error) {
	f := e.f
	if id < 2 || id >= f.meta.highWater {
		if parent == nil {
			return p, f.damaged(id, "there is no such page, and it is the root of a bucket")
		}
		return p, f.damaged(parent.id, "its child %d is page %d, which is not there", parent.next, id)
	}
	at := int64(id) * f.pageSize
	if !e.window.has(at, f.pageSize) {
		if err := context.Cause(e.ctx); err != nil {
			return p, err
		}
	}
	ahead := func() int64 { return f.readAhead(id, parent) }
	b, err := e.window.bytes(f, at, f.pageSize, ahead)
	if err != nil {
		return p, err
	}
	p = f.header(b)
	switch flags := binary.NativeEndian.Uint16(b[8:]); {
	case p.id != id:
		return p, f.damaged(id, "it says that it is page %d", p.id)
	case flags != leafFlag && flags != branchFlag:
		return p, f.damaged(id, "it is neither a branch nor a leaf (flags %#x)", flags)
	case p.overflow >= f.meta.highWater-id:
		return p, f.damaged(id, "it goes on for %d pages, behind the last one", p.overflow)
	}
	first := true
	if e.used != nil {
		var alone bool
		if first, alone = e.used.add(id, 1+p.overflow); !alone || !first && !e.shared {
			return p, f.damaged(id, "it is used twice, or what it goes on in is")
		}
	}
	capacity := int64(1+p.overflow) * f.pageSize
	heads := int64(pageHeaderSize + elemSize*p.count)
	if heads > capacity {
		return p, f.damaged(id, "it can't hold %d elements", p.count)
	}
	if b, err = e.window.bytes(f, at, heads, ahead); err != nil {
		return p, err
	}
	size, err := f.measure(&p, b, capacity)
	if err != nil {
		return p, err
	}
	// bbolt takes as many pages as are needed; its ancestor took one more where
	// the last would be full. Whatever overflow says, no more is allocated than
	// the elements say as well.
	pages := int64(1 + p.overflow)
	if pages != (size+f.pageSize-1)/f.pageSize && pages != size/f.pageSize+1 {
		return p, f.damaged(id, "it has %d pages for %d bytes", pages, size)
	}
	if first {
		e.stats.count(p, size, capacity)
	}
	p.data, err = e.window.bytes(f, at, size, ahead)
	return p, err
}

// header reads a page's header.
func (f *File) header(b []byte) page {
	ne := binary.NativeEndian
	return page{
		id: ne.Uint64(b), leaf: ne.Uint16(b[8:]) == leafFlag,
		count: int(ne.Uint16(b[10:])), overflow: uint64(ne.Uint32(b[12:])),
	}
}

// measure checks that the elements of a page lie packed and within its
// capacity, and returns how many bytes they take, with the headers. b holds the
// headers.
func (f *File) measure(p *page, b []byte, capacity int64) (int64, error) {
	ne := binary.NativeEndian
	heads := b[pageHeaderSize : pageHeaderSize+elemSize*p.count]
	end := int64(pageHeaderSize + len(heads))
	keyAt, pos := 4, 0
	if p.leaf {
		keyAt, pos = 8, 4
	}
	for i := 0; len(heads) >= elemSize; i++ {
		h := heads[:elemSize]
		heads = heads[elemSize:]
		begin := int64(pageHeaderSize+elemSize*i) + int64(ne.Uint32(h[pos:]))
		if begin != end {
			return 0, f.damaged(p.id, "element %d begins at byte %d, and must at %d", i, begin, end)
		}
		key := int64(ne.Uint32(h[keyAt:]))
		if key == 0 || key > maxKeySize {
			return 0, f.damaged(p.id, "the key of element %d has %d bytes", i, key)
		}
		if end += key; p.leaf {
			end += int64(ne.Uint32(h[12:]))
		}
		if end > capacity {
			return 0, f.damaged(p.id, "element %d ends at byte %d, and the page at %d", i, end, capacity)
		}
		if end > MaxPageBytes {
			return 0, f.damaged(p.id, "element %d ends at byte %d, and no page of a Vault's has more than %d", i, end, MaxPageBytes)
		}
	}
	return end, nil
}

// A window is a piece of the file in memory.
type window struct {
	buf []byte
	at  int64
}

func (w *window) has(at, n int64) bool {
	return at >= w.at && at-w.at <= int64(len(w.buf))-n
}

// bytes returns n bytes of the file. Where they are not there yet it reads as
// many as ahead says, or more. They are valid until the following call, and
// must lie below the high-water mark.
func (w *window) bytes(f *File, at, n int64, ahead func() int64) ([]byte, error) {
	if !w.has(at, n) {
		size := max(n, ahead())
		if int64(cap(w.buf)) < size {
			w.buf = make([]byte, 0, max(size, 2*int64(cap(w.buf))))
		}
		w.at, w.buf = at, w.buf[:size]
		if err := f.readAt(w.buf, at); err != nil {
			w.buf = w.buf[:0]
			return nil, err
		}
	}
	return w.buf[at-w.at:][:n:n], nil
}

const (
	// maxReadAhead is how much is read at once, in bytes. An Entries holds up
	// to twice as much in memory, unless a page is larger.
	maxReadAhead = 256 << 10
	// maxGap is how far, in bytes, siblings may lie apart to be read at once.
	// What lies between them is overflow, or belongs to others.
	maxGap = 64 << 10
)

// readAhead returns how many bytes from a page on are worth reading at once:
// siblings that follow it are wanted next, and in a file that was written in
// one pass they lie behind it. The last sibling's overflow is left out.
func (f *File) readAhead(id uint64, parent *branch) int64 {
	if parent == nil {
		return f.pageSize
	}
	last, gap, most := id, uint64(maxGap/f.pageSize), uint64(maxReadAhead/f.pageSize)
	for i := parent.next + 1; i < parent.count; i++ {
		sibling := binary.NativeEndian.Uint64(parent.data[pageHeaderSize+elemSize*i+8:])
		if sibling <= last || sibling-last > gap || sibling-id >= most || sibling >= f.meta.highWater {
			break
		}
		last = sibling
	}
	return int64(last-id+1) * f.pageSize
}

// A usage is which pages of a file are used: those with which a leaf, a branch or a
// list begins, and their overflow pages. It is safe for concurrent use.
type usage struct{ begin, goOn pageSet }

func newUsage(pages uint64) *usage {
	return &usage{make(pageSet, (pages+63)/64), make(pageSet, (pages+63)/64)}
}

// add adds what begins at a page and has n pages. It reports whether it is added
// for the first time, and whether it shares no page with another: of two that do,
// the later one begins within the earlier one.
func (u *usage) add(id, n uint64) (first, alone bool) {
	first = u.begin.add(id)
	alone = !u.goOn.has(id)
	for i := id + 1; i < id+n; i++ {
		u.goOn.add(i)
		alone = alone && !u.begin.has(i)
	}
	return first, alone
}

// claim is add, and reports whether none of the pages was used.
func (u *usage) claim(id, n uint64) bool {
	first, alone := u.add(id, n)
	return first && alone
}

// missing counts the pages below limit that are not used.
func (u *usage) missing(limit uint64) (n uint64) {
	for id := range limit {
		if !u.begin.has(id) && !u.goOn.has(id) {
			n++
		}
	}
	return n
}

// A pageSet is a set of page ids, one bit each.
type pageSet []uint64

// add reports whether the id was not there.
func (s pageSet) add(id uint64) bool {
	bit := uint64(1) << (id % 64)
	return atomic.OrUint64(&s[id/64], bit)&bit == 0
}

func (s pageSet) has(id uint64) bool { return atomic.LoadUint64(&s[id/64])&(1<<(id%64)) != 0 }

// Ends returns the first and the last key of a bucket, nil where it has none,
// and reads no more than the way to them: the rest of the bucket is not checked.
func (f *File) Ends(ctx context.Context, name string) (first, last []byte, err error) {
	entry, err := f.Bucket(ctx, name).Next()
	if errors.Is(err, io.EOF) {
		return nil, nil, nil
	}
	if err != nil {
		return nil, nil, err
	}
	e := f.Bucket(ctx, name)
	err = e.seek(behindAll)
	for err == nil && e.next < e.page.count {
		_, err = e.Next()
	}
	if err != nil {
		return nil, nil, err
	}
	return bytes.Clone(entry.Key), bytes.Clone(e.last), nil
}

// behindAll is greater than any key.
var behindAll = bytes.Repeat([]byte{0xFF}, maxKeySize+1)
