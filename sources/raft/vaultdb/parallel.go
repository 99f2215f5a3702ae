package vaultdb

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"sync/atomic"

	"golang.org/x/sync/errgroup"

	"github.com/dyn2raft/dyn2raft/copier"
)

// partsEach is how many parts of a bucket there are for each goroutine that
// reads, at the least, so that all of them end at about the same time.
const partsEach = 8

// ReadAll reads a bucket with n goroutines, and checks the whole file as
// [Entries.Next] and [Entries.Check] together do. The bucket is cut into parts
// that are numbered in the order of their keys, and each goroutine, numbered
// from 0 to n-1, reads one part after the other. For every entry each is called
// by the goroutine that has read it; the entry is valid until each returns, and
// an error of each ends the reading.
func (f *File) ReadAll(ctx context.Context, name string, n int, each func(worker, part int, e copier.Entry) error) (Stats, error) {
	group, gctx := errgroup.WithContext(ctx)
	whole := f.Bucket(gctx, name)
	parts, err := whole.cut(n * partsEach)
	if err != nil {
		group.Go(func() error { return err })
		return Stats{}, group.Wait()
	}
	var taken atomic.Int64
	for worker := range n {
		group.Go(func() error {
			var memory window // of the part before
			for {
				i := int(taken.Add(1)) - 1
				if i >= len(parts) {
					return nil
				}
				e := whole.part(&parts[i])
				e.window.buf = memory.buf[:0]
				for {
					entry, err := e.Next()
					if errors.Is(err, io.EOF) {
						break
					}
					if err != nil {
						return err
					}
					if err := each(worker, i, entry); err != nil {
						return err
					}
				}
				memory = e.window
				parts[i].found = found{bytes.Clone(e.last), e.depth, e.stats}
			}
		})
	}
	if err := group.Wait(); err != nil {
		return Stats{}, err
	}
	if err := whole.join(parts); err != nil {
		return Stats{}, err
	}
	whole.ctx = ctx // the group's has ended with it
	return whole.Check()
}

// A part of a bucket is what lies below one child of a branch page, or all of
// it. There can be many, so that it holds little.
type part struct {
	in    branch // with next being the child; without data for all of the bucket
	above int    // branches above that one
	page  uint64 // the child
	found
}

// found is what was found in a part that was read to its end.
type found struct {
	last  []byte // key
	depth int    // of the leaves
	stats Stats
}

// part returns the entries of a part of e, of which none is read yet.
func (e *Entries) part(p *part) *Entries {
	if p.in.data == nil {
		return e
	}
	in := p.in
	in.count = in.next + 1
	in.data = bytes.Clone(in.data) // its memory is used again once it is read
	out := e.f.newWalk(e.ctx, e.bucket, e.flags)
	out.begun, out.used = true, e.used
	out.branches = append(make([]branch, p.above, p.above+2), in)
	return out
}

// cut makes parts of a bucket of which nothing was read, in the order of
// their keys: n or more, if it has so many pages. It reads the branches above
// them.
func (e *Entries) cut(n int) ([]part, error) {
	if e.err != nil {
		return nil, e.err
	}
	if e.bucket.root == 0 {
		return []part{{}}, nil
	}
	e.begun = true
	root, err := e.load(e.bucket.root, nil)
	if err != nil {
		return nil, err
	}
	if leaf, err := e.enter(root); err != nil {
		return nil, err
	} else if leaf {
		return []part{{}}, nil
	}
	level, children := e.branches, e.branches[0].count
	above := make([]branch, 0, maxDepth) // stand for what is above level
	for children < n {
		if leaf, err := e.isLeaf(level[0].nextID()); err != nil {
			return nil, err
		} else if leaf {
			break
		}
		above = append(above, branch{})
		var below []branch
		children = 0
		for i := range level {
			for b := &level[i]; b.next < b.count; {
				child, err := e.child(b)
				if err != nil {
					return nil, err
				}
				if child.leaf {
					return nil, e.f.damaged(child.id, "a leaf on level %d, where others are branches", len(above)+1)
				}
				e.branches = above
				if _, err := e.enter(child); err != nil {
					return nil, err
				}
				below = append(below, e.branches[len(above)])
				children += child.count
			}
		}
		level = below
	}
	parts := make([]part, 0, children)
	for _, b := range level {
		for b.next < b.count {
			parts = append(parts, part{in: b, above: len(above), page: b.nextID()})
			b.pass()
		}
	}
	return parts, nil
}

// isLeaf reports whether a page says that it is a leaf. Nothing else of it is
// checked; whoever loads it does that.
func (e *Entries) isLeaf(id uint64) (bool, error) {
	if id >= e.f.meta.highWater {
		return true, nil // it is not there, which is found where it is read
	}
	var h [pageHeaderSize]byte
	if err := e.f.readAt(h[:], int64(id)*e.f.pageSize); err != nil {
		return false, err
	}
	return binary.NativeEndian.Uint16(h[8:]) == leafFlag, nil
}

// join checks what holds between parts that were read to their ends, and makes
// theirs what was found in them.
func (e *Entries) join(parts []part) error {
	e.err = io.EOF
	if parts[0].in.data == nil {
		return nil // it is e itself
	}
	var last []byte
	for _, p := range parts {
		if first := p.in.nextKey(); bytes.Compare(last, first) >= 0 {
			return e.f.damaged(p.page, "key %s stands behind key %s", Name(first), Name(last))
		}
		last = p.last
		if e.depth == 0 {
			e.depth = p.depth
		}
		if p.depth != e.depth {
			return e.f.damaged(p.page, "a leaf on level %d, where others are on level %d", p.depth, e.depth)
		}
		e.stats.add(p.stats)
	}
	return nil
}
