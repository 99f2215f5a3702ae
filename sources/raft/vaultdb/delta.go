package vaultdb

import (
	"bytes"
	"context"
	"errors"
	"io"
	"slices"

	"github.com/dyn2raft/dyn2raft/copier"
)

// Delta compares two states of the bucket "data" of one file, and reads the pages alone
// that are not in both. Together, was without the entries that gone is called with, and
// with those that there is called with, is what is holds. An entry that is in both may be
// given to both. Entries are valid until the function returns, whose error ends Delta.
//
// was is a state that is known to be sound, because it was read whole, and all its pages
// are as they were then: since was, bbolt has written to other pages only, as it does as
// long as a read transaction keeps them. So a page that both refer to is the same in
// both, with all below it. Of is, all else is checked by the rules of this package: a page
// that is in both must begin in both with the same key, and in the later state the next
// one may not begin earlier. So each entry of is is found by its key.
func Delta(ctx context.Context, was, is *File, gone, there func(copier.Entry) error) error {
	return difference(ctx, was, is, maxSubtrees, gone, there)
}

func difference(ctx context.Context, was, is *File, most int, gone, there func(copier.Entry) error) error {
	if err := is.checkMetas(); err != nil {
		return err
	}
	a, err := was.side(ctx, gone)
	if err != nil {
		return err
	}
	b, err := is.side(ctx, there)
	if err != nil {
		return err
	}
	if a.e.bucket.root == 0 || b.e.bucket.root == 0 { // it lies within the root bucket
		if err := a.all(); err != nil {
			return err
		}
		return b.all()
	}
	d := delta{a: a, b: b, most: most}
	var as, bs []subtree
	for height := max(a.height, b.height); ; height-- {
		if height == a.height {
			as = []subtree{{id: a.e.bucket.root, from: a.e.bucket.page}}
		}
		if height == b.height {
			bs = []subtree{{id: b.e.bucket.root, from: b.e.bucket.page}}
		}
		if height <= a.height && height <= b.height {
			return d.compare(as, bs, height)
		}
		if as, err = a.below(as); err != nil {
			return err
		}
		if bs, err = b.below(bs); err != nil {
			return err
		}
	}
}

// A side is one of the two states.
type side struct {
	e      *Entries
	height int // of its tree: 1 is a leaf
	yield  func(copier.Entry) error
}

// side finds out how high the tree is.
func (f *File) side(ctx context.Context, yield func(copier.Entry) error) (*side, error) {
	e := f.Entries(ctx)
	if e.err != nil {
		return nil, e.err
	}
	s := &side{e: e, yield: yield}
	look := f.newWalk(ctx, e.bucket, 0)
	for id := e.bucket.root; id != 0; {
		p, err := look.load(id, nil)
		if err != nil {
			return nil, err
		}
		switch s.height++; {
		case p.leaf:
			return s, nil
		case p.count < 2 || s.height == maxDepth:
			return nil, f.damaged(id, "a branch with %d children on level %d", p.count, s.height)
		}
		id = (&branch{page: p}).nextID()
	}
	return s, nil
}

// all yields all entries.
func (s *side) all() error {
	for {
		entry, err := s.e.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err == nil {
			err = s.yield(entry)
		}
		if err != nil {
			return err
		}
	}
}

// A subtree is a page and all below it.
type subtree struct {
	id, from uint64 // its page, and the one that refers to it
	// key is the first key, nil of a root, and bound the one with which the next subtree
	// begins, nil where there is none.
	key, bound []byte
}

// maxSubtrees is how many subtrees of each side are compared at a time: their children are held in
// memory, some hundred each with some hundred bytes.
const maxSubtrees = 2048

type delta struct {
	a, b *side
	most int // how many subtrees of each side are compared at a time
}

// compare yields what differs between subtrees of the same height, which are in the
// order of their keys.
func (d delta) compare(as, bs []subtree, height int) error {
	as, bs = distinct(as, bs)
	switch {
	case height == 1:
		if err := d.a.leaves(as); err != nil {
			return err
		}
		return d.b.leaves(bs)
	case max(len(as), len(bs)) > d.most:
		// What is in both halves is not recognized there, and yielded twice.
		longer := as
		if len(bs) > len(as) {
			longer = bs
		}
		at := longer[len(longer)/2].key
		a, b := before(as, at), before(bs, at)
		if err := d.compare(as[:a], bs[:b], height); err != nil {
			return err
		}
		return d.compare(as[a:], bs[b:], height)
	}
	as, err := d.a.below(as)
	if err != nil {
		return err
	}
	if bs, err = d.b.below(bs); err != nil {
		return err
	}
	return d.compare(as, bs, height-1)
}

// before returns how many subtrees begin before a key.
func before(trees []subtree, key []byte) (n int) {
	for n < len(trees) && bytes.Compare(trees[n].key, key) < 0 {
		n++
	}
	return n
}

// distinct returns the subtrees that are not in both lists.
func distinct(as, bs []subtree) (a, b []subtree) {
	for len(as) > 0 && len(bs) > 0 {
		switch c := bytes.Compare(as[0].key, bs[0].key); {
		case c < 0:
			a, as = append(a, as[0]), as[1:]
		case c > 0:
			b, bs = append(b, bs[0]), bs[1:]
		default:
			if was, is := as[0], bs[0]; was.id != is.id || is.bound != nil && (was.bound == nil || bytes.Compare(is.bound, was.bound) < 0) {
				a, b = append(a, was), append(b, is)
			}
			as, bs = as[1:], bs[1:]
		}
	}
	return append(a, as...), append(b, bs...)
}

// load loads the page of a subtree, and checks how it begins.
func (s *side) load(t subtree, leaf bool) (page, error) {
	f := s.e.f
	p, err := s.e.load(t.id, &branch{page: page{id: t.from}})
	switch {
	case err != nil:
		return p, err
	case p.leaf != leaf:
		return p, f.damaged(p.id, "it is on the level of others that are leaves, or no leaf on theirs")
	case t.key == nil:
		return p, nil
	case p.count == 0:
		return p, f.damaged(p.id, "it is empty, and not the root")
	}
	if first := p.firstKey(); !bytes.Equal(first, t.key) {
		return p, f.damaged(p.id, "its first key is %s, and in branch page %d it is %s", copier.NameKey(first), t.from, copier.NameKey(t.key))
	}
	return p, nil
}

// below returns the children of subtrees that are no leaves.
func (s *side) below(trees []subtree) (children []subtree, err error) {
	for i, t := range trees {
		p, err := s.load(t, false)
		if err != nil {
			return nil, err
		}
		if p.count < 2 {
			return nil, s.e.f.damaged(p.id, "a branch with %d children", p.count)
		}
		if cap(children)-len(children) < p.count { // the others have as many, as far as is known
			children = slices.Grow(children, p.count*(len(trees)-i))
		}
		p.data = bytes.Clone(p.data)
		b := branch{page: p, at: pageHeaderSize + elemSize*p.count}
		for ; b.next < b.count; b.pass() {
			c := subtree{id: b.nextID(), from: p.id, key: b.nextKey(), bound: t.bound}
			if b.next > 0 {
				before := &children[len(children)-1]
				if before.bound = c.key; bytes.Compare(before.key, c.key) >= 0 {
					return nil, s.e.f.damaged(p.id, "key %s stands behind key %s", copier.NameKey(c.key), copier.NameKey(before.key))
				}
			}
			children = append(children, c)
		}
		if last := children[len(children)-1].key; t.bound != nil && bytes.Compare(last, t.bound) >= 0 {
			return nil, s.e.f.damaged(p.id, "key %s stands behind key %s", copier.NameKey(t.bound), copier.NameKey(last))
		}
	}
	return children, nil
}

// leaves yields the entries of leaves.
func (s *side) leaves(trees []subtree) error {
	e := s.e
	for _, t := range trees {
		p, err := s.load(t, true)
		if err != nil {
			return err
		}
		e.page, e.next, e.at, e.last = p, 0, pageHeaderSize+elemSize*p.count, nil
		for e.next < e.page.count {
			entry, err := e.Next()
			if err != nil {
				return err
			}
			if err := s.yield(entry); err != nil {
				return err
			}
		}
		if t.bound != nil && bytes.Compare(e.last, t.bound) >= 0 {
			return e.f.damaged(p.id, "key %s stands behind key %s", copier.NameKey(t.bound), copier.NameKey(e.last))
		}
	}
	return nil
}
