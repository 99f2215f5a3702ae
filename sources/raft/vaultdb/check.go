package vaultdb

import (
	"context"
	"encoding/binary"
	"errors"
	"io"

	"github.com/dyn2raft/dyn2raft/copier"
)

// Stats says what a file is made of. A page that has overflow pages counts once; all
// sizes are in bytes.
type Stats struct {
	FileBytes int64 `json:"file_bytes"`
	PageSize  int64 `json:"page_size"`
	// HighWater is the number of pages that the file needs.
	HighWater int64 `json:"high_water_pages"`
	// TxID is the number of the last transaction; a file that was written in
	// one pass and not changed since has 1.
	TxID uint64 `json:"transaction_id"`

	BranchPages int64 `json:"branch_pages"`
	LeafPages   int64 `json:"leaf_pages"`
	// OverflowPages hold what leaves and branches can't hold in one page.
	OverflowPages int64 `json:"overflow_pages"`
	FreePages     int64 `json:"free_pages"`
	// FreelistPages hold the list of free pages, where it is written down.
	FreelistPages int64 `json:"freelist_pages"`
	// Depth is the number of levels of the deepest bucket: 1 is one leaf.
	Depth int `json:"depth"`
	// LeafBytes are used, of LeafCapacity in the leaves and their overflow.
	LeafBytes    int64 `json:"leaf_bytes"`
	LeafCapacity int64 `json:"leaf_capacity"`
}

// Fill is the part of the leaves that is used, from 0 to 1.
func (s Stats) Fill() float64 {
	if s.LeafCapacity == 0 {
		return 0
	}
	return float64(s.LeafBytes) / float64(s.LeafCapacity)
}

// count adds a page and its overflow pages.
func (s *Stats) count(p page, bytes, capacity int64) {
	s.OverflowPages += int64(p.overflow)
	if !p.leaf {
		s.BranchPages++
		return
	}
	s.LeafPages++
	s.LeafBytes += bytes
	s.LeafCapacity += capacity
}

// add adds what a walk has found.
func (s *Stats) add(o Stats) {
	s.BranchPages += o.BranchPages
	s.LeafPages += o.LeafPages
	s.OverflowPages += o.OverflowPages
	s.Depth = max(s.Depth, o.Depth)
	s.LeafBytes += o.LeafBytes
	s.LeafCapacity += o.LeafCapacity
}

// Check checks the whole file, as strictly as bbolt's Check and by the rules of
// this package, in one pass and without holding more than [Entries] does and
// one bit a page.
func (f *File) Check(ctx context.Context) (Stats, error) {
	e := f.Entries(ctx)
	if _, ok := f.buckets[DataBucket]; !ok {
		e.err = io.EOF
	}
	for {
		if _, err := e.Next(); err != nil {
			return e.Check()
		}
	}
}

// Check checks all of the file that was not read on the way to [io.EOF]: the
// meta pages, the other buckets, and that every page is either used once or
// free. Before Next has returned io.EOF there is nothing to be had but an
// error. A file on which Check and Next find nothing is sound.
func (e *Entries) Check() (Stats, error) {
	f := e.f
	s := Stats{FileBytes: f.size, PageSize: f.pageSize, HighWater: int64(f.meta.highWater), TxID: f.meta.txid}
	switch {
	case e.err == nil:
		return s, f.fail(errors.New("it was not read to its end"), "")
	case !errors.Is(e.err, io.EOF):
		return s, e.err
	}
	if err := f.checkMetas(); err != nil {
		return s, err
	}
	s.add(e.stats)
	if !e.used.claim(0, 2) {
		return s, f.damaged(0, "a meta page is used by a bucket")
	}
	rest := []*Entries{f.newWalk(e.ctx, bucket{root: f.meta.root}, elemBucket)}
	for name, b := range f.buckets {
		if b.sequence != 0 {
			return s, f.damaged(b.page, "the bucket %s has the sequence %d, and neither Vault nor Raft counts there", copier.NameKey([]byte(name)), b.sequence)
		}
		if name != e.name {
			rest = append(rest, f.newWalk(e.ctx, b, 0))
		}
	}
	for _, other := range rest {
		other.used = e.used
		for {
			if _, err := other.Next(); errors.Is(err, io.EOF) {
				break
			} else if err != nil {
				return s, err
			}
		}
		s.add(other.stats)
	}
	return s, e.checkFree(&s)
}

// checkMetas checks what reading does without: that both meta pages are valid
// and stand where their transactions belong. bbolt writes them in turn, so the
// older one is the transaction just before. A file that is new has the same in
// both.
func (f *File) checkMetas() error {
	for i, m := range f.metas {
		id := uint64(i)
		var h [pageHeaderSize]byte
		if err := f.readAt(h[:], int64(i)*f.pageSize); err != nil {
			return err
		}
		switch p := f.header(h[:]); {
		case m.wrong != "":
			return f.damaged(id, "the meta page is not valid: %s", m.wrong)
		case p.id != id || binary.NativeEndian.Uint16(h[8:]) != metaFlag || p.count != 0 || p.overflow != 0:
			return f.damaged(id, "the meta page has the header % x", h)
		case int64(m.pageSize) != f.pageSize:
			return f.damaged(id, "the page size is %d there, and %d in the other meta page", m.pageSize, f.pageSize)
		case m.txid%2 != id:
			return f.damaged(id, "the meta page is of transaction %d", m.txid)
		case m.freelist != noFreelist && (m.freelist < 2 || m.freelist >= m.highWater):
			return f.damaged(id, "the list of free pages is said to be on page %d", m.freelist)
		}
	}
	a, b := f.metas[0], f.metas[1]
	switch {
	case a.txid+1 != b.txid && b.txid+1 != a.txid:
		return f.damaged(0, "the meta pages are of transactions %d and %d", a.txid, b.txid)
	case f.meta.txid == 1 && (a.root != b.root || a.highWater != b.highWater || a.freelist != b.freelist):
		return f.damaged(0, "the meta pages of a new file differ")
	}
	return nil
}

// checkFree counts the pages that no bucket uses and, where they are listed,
// compares them with the list.
func (e *Entries) checkFree(s *Stats) error {
	f, id := e.f, e.f.meta.freelist
	if id == noFreelist {
		s.FreePages = int64(e.used.missing(f.meta.highWater))
		return nil
	}
	at := int64(id) * f.pageSize
	var h [pageHeaderSize + 8]byte
	if err := f.readAt(h[:], at); err != nil {
		return err
	}
	p := f.header(h[:])
	switch flags := binary.NativeEndian.Uint16(h[8:]); {
	case p.id != id || flags != freelistFlag:
		return f.damaged(id, "it is no list of free pages (header % x)", h[:pageHeaderSize])
	case p.overflow >= f.meta.highWater-id:
		return f.damaged(id, "it goes on for %d pages, behind the last one", p.overflow)
	case !e.used.claim(id, 1+p.overflow):
		return f.damaged(id, "it is used twice, or what it goes on in is")
	}
	s.FreelistPages = int64(1 + p.overflow)
	begin, count := at+pageHeaderSize, uint64(p.count)
	if count == 0xFFFF { // the number follows
		begin, count = begin+8, binary.NativeEndian.Uint64(h[pageHeaderSize:])
	}
	if end := at + int64(1+p.overflow)*f.pageSize; count > uint64(end-begin)/8 {
		return f.damaged(id, "it can't list %d pages", count)
	}
	s.FreePages = int64(count)
	buf := make([]byte, 64<<10)
	for count > 0 {
		n := min(count, uint64(len(buf)/8))
		if err := f.readAt(buf[:8*n], begin); err != nil {
			return err
		}
		for i := range n {
			free := binary.NativeEndian.Uint64(buf[8*i:])
			if free < 2 || free >= f.meta.highWater || !e.used.claim(free, 1) {
				return f.damaged(id, "it lists page %d as free, which is used, listed twice or not there", free)
			}
		}
		begin, count = begin+int64(8*n), count-n
	}
	if n := e.used.missing(f.meta.highWater); n > 0 {
		return f.damaged(id, "%d pages are neither used nor listed as free", n)
	}
	return nil
}
