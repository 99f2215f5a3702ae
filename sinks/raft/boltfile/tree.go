package boltfile

import "encoding/binary"

// maxSharedPages is how many pages a leaf of several entries may take. Entries
// larger than a page leave much of their last page empty; sharing it with
// their neighbours saves that, but whoever changes one of them later writes
// all of them again.
const maxSharedPages = 4

// A tree writes the pages of one bucket, leaves from left to right and each
// branch page as soon as its successor is sure to have two elements as well.
type tree struct {
	pages *pager
	flags uint32 // of every leaf element
	slack int    // bytes of each page that are left free
	leaf  leaf
	last  []byte   // the last key, until the next one is put
	level []*level // branch pages being built, the one above the leaves first

	leaves, branches, overflows int64
}

func newTree(p *pager, fill float64, flags uint32) *tree {
	return &tree{
		pages: p,
		flags: flags,
		slack: p.size - int(float64(p.size)*fill),
		leaf: leaf{
			heads: make([]byte, 0, p.size),
			data:  make([]byte, 0, 2*p.size),
		},
	}
}

// A leaf is a leaf page being built: heads are its elements, whose positions
// still count from the start of data, and data is its keys and values.
type leaf struct {
	heads, data []byte
	firstKey    int // size of the first key, which data starts with
}

func (l *leaf) size() int { return pageHeaderSize + len(l.heads) + len(l.data) }

// put adds an entry to the open leaf, or to a new one.
func (t *tree) put(key, value []byte) error {
	l := &t.leaf
	need := elemSize + len(key) + len(value)
	if len(l.heads) > 0 && l.size()+need > t.pages.size-t.slack && !t.shares(need) {
		if err := t.endLeaf(nil); err != nil {
			return err
		}
	}
	if len(l.heads) == 0 {
		l.firstKey = len(key)
	}
	ne := binary.NativeEndian
	l.heads = ne.AppendUint32(l.heads, t.flags)
	l.heads = ne.AppendUint32(l.heads, uint32(len(l.data)))
	l.heads = ne.AppendUint32(l.heads, uint32(len(key)))
	l.heads = ne.AppendUint32(l.heads, uint32(len(value)))
	l.data = append(l.data, key...)
	t.last = l.data[len(l.data)-len(key):]
	if l.size()+len(value) > maxSharedPages*t.pages.size {
		// It can only be alone in its leaf, which therefore is complete; its
		// value needs no copy here.
		return t.endLeaf(value)
	}
	l.data = append(l.data, value...)
	return nil
}

// shares reports whether an entry of need bytes, for which the open leaf's first page
// has no room, goes into that leaf: where that takes a page less than a leaf of its
// own, and leaves the slack.
func (t *tree) shares(need int) bool {
	p, size := t.pages, t.leaf.size()
	pages := p.pagesFor(size) + p.pagesFor(pageHeaderSize+need) - 1
	return pages <= maxSharedPages && size+need <= pages*p.size-t.slack
}

// endLeaf writes the open leaf; tail is the end of its last value.
func (t *tree) endLeaf(tail []byte) error {
	l := &t.leaf
	// bbolt counts a position from the start of its own element.
	for rest := l.heads; len(rest) >= elemSize; rest = rest[elemSize:] {
		pos := rest[4:8]
		binary.NativeEndian.PutUint32(pos, binary.NativeEndian.Uint32(pos)+uint32(len(rest)))
	}
	id, err := t.pages.node(pageLeaf, l.heads, l.data, tail)
	if err != nil {
		return err
	}
	t.leaves++
	t.overflows += int64(t.pages.pagesFor(l.size()+len(tail)) - 1)
	err = t.add(0, l.data[:l.firstKey], id)
	l.heads, l.data, l.firstKey = l.heads[:0], l.data[:0], 0
	return err
}

// A level is a branch page being built, and the page before it as long as this
// one has fewer than two elements. With only one, bbolt would panic when that
// child is deleted.
type level struct {
	heads []byte // elements; positions still count from the start of keys
	keys  []byte
	full  int // elements of the page before; 0 if it is written
	size  int // of the open page, without those
}

func (l *level) count() int { return len(l.heads) / elemSize }

// add makes the page id, whose first key is key, a child at level i.
func (t *tree) add(i int, key []byte, id uint64) error {
	if i == len(t.level) {
		t.level = append(t.level, &level{size: pageHeaderSize})
	}
	l := t.level[i]
	need := elemSize + len(key)
	if l.full == 0 && l.count() >= 2 && l.size+need > t.pages.size-t.slack {
		l.full, l.size = l.count(), pageHeaderSize
	}
	var h [elemSize]byte
	ne := binary.NativeEndian
	ne.PutUint32(h[0:], uint32(len(l.keys)))
	ne.PutUint32(h[4:], uint32(len(key)))
	ne.PutUint64(h[8:], id)
	l.heads = append(l.heads, h[:]...)
	l.keys = append(l.keys, key...)
	l.size += need
	if l.full == 0 || l.count()-l.full < 2 {
		return nil
	}
	n := l.full
	l.full = 0
	_, err := t.writeBranch(i, n)
	return err
}

// writeBranch writes the first n elements of level i as a page, makes that a
// child of the level above unless nothing is left that could be its sibling,
// and returns its id.
func (t *tree) writeBranch(i, n int) (uint64, error) {
	l, ne := t.level[i], binary.NativeEndian
	heads, keys := l.heads[:n*elemSize], l.keys
	if n < l.count() {
		keys = l.keys[:ne.Uint32(l.heads[n*elemSize:])]
	}
	for rest := heads; len(rest) >= elemSize; rest = rest[elemSize:] {
		ne.PutUint32(rest, ne.Uint32(rest)+uint32(len(rest)))
	}
	id, err := t.pages.node(pageBranch, heads, keys, nil)
	if err != nil {
		return 0, err
	}
	t.branches++
	t.overflows += int64(t.pages.pagesFor(pageHeaderSize+len(heads)+len(keys)) - 1)
	if n < l.count() || i+1 < len(t.level) {
		if err := t.add(i+1, keys[:ne.Uint32(heads[4:])], id); err != nil {
			return 0, err
		}
	}
	// The rest moves to the front; it is two elements at most.
	l.heads = append(l.heads[:0], l.heads[len(heads):]...)
	l.keys = append(l.keys[:0], l.keys[len(keys):]...)
	for at := 0; at < len(l.heads); at += elemSize {
		pos := l.heads[at : at+4]
		ne.PutUint32(pos, ne.Uint32(pos)-uint32(len(keys)))
	}
	return id, nil
}

// finish writes what is left and returns the root page and the number of
// levels. A bucket without entries has a leaf without elements.
func (t *tree) finish() (root uint64, depth int, err error) {
	if len(t.leaf.heads) > 0 {
		if err := t.endLeaf(nil); err != nil {
			return 0, 0, err
		}
	}
	if t.leaves == 0 {
		id, err := t.pages.node(pageLeaf, nil, nil, nil)
		t.leaves++
		return id, 1, err
	}
	if l := t.level[0]; t.leaves == 1 {
		return binary.NativeEndian.Uint64(l.heads[8:]), 1, nil
	}
	for i := 0; i < len(t.level); i++ {
		l := t.level[i]
		if l.full > 2 {
			// The page before can spare an element for the last page, which
			// has only one.
			if _, err := t.writeBranch(i, l.full-1); err != nil {
				return 0, 0, err
			}
		}
		// Otherwise all that is left fits one page, or is three elements with
		// large keys, which become one page with overflow.
		if root, err = t.writeBranch(i, l.count()); err != nil {
			return 0, 0, err
		}
	}
	return root, len(t.level) + 1, nil
}
