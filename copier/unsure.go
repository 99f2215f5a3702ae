package copier

import (
	"bytes"
	"context"
	"errors"
	"io"
)

// What a feed is not sure of is compared: the entries that are directly in a folder, as
// the source has them and as the stage does, both page by page and in order.

const (
	// compareKeys and compareBytes are how many changes, and how much of keys and values,
	// a comparison applies at a time.
	compareKeys  = applyKeys
	compareBytes = 8 << 20
)

// compareFolder has the stage hold what the source does, directly in a folder.
func (l *live) compareFolder(ctx context.Context, folder []byte) error {
	there, here := &listing{from: l.following, folder: folder}, &listing{from: l.applier, folder: folder}
	var changes []Change
	size := 0
	apply := func() error {
		if len(changes) == 0 {
			return nil
		}
		err := l.apply(ctx, changes, l.mark.Notes)
		changes, size = nil, 0
		return err
	}
	change := func(e Entry, gone bool) error {
		c := Change{Entry: Entry{Key: bytes.Clone(e.Key)}, Gone: gone}
		if !gone {
			c.Value = bytes.Clone(e.Value)
		}
		changes = append(changes, c)
		if size += len(c.Key) + len(c.Value); len(changes) < compareKeys && size < compareBytes {
			return nil
		}
		return apply()
	}
	is, err := there.next(ctx)
	was, werr := here.next(ctx)
	for {
		if err := errors.Join(unlessEOF(err), unlessEOF(werr)); err != nil {
			return err
		}
		order := 0
		switch {
		case err != nil && werr != nil:
			return apply()
		case err != nil:
			order = 1
		case werr != nil:
			order = -1
		default:
			order = bytes.Compare(is.Key, was.Key)
		}
		var cerr error
		switch {
		case order < 0, order == 0 && !bytes.Equal(is.Value, was.Value):
			cerr = change(is, false)
		case order > 0:
			cerr = change(was, true)
		}
		if cerr != nil {
			return cerr
		}
		if order <= 0 {
			is, err = there.next(ctx)
		}
		if order >= 0 {
			was, werr = here.next(ctx)
		}
	}
}

// A listing yields the entries that a Lister has in a folder, one by one.
type listing struct {
	from   Lister
	folder []byte

	page  Batch
	i     int
	after []byte
	end   bool
	last  []byte // the last key
}

// next returns the next entry, valid until the next call, and [io.EOF] behind the last.
// One that is not in the folder, or not in order, would have others taken for gone.
func (l *listing) next(ctx context.Context) (Entry, error) {
	for l.i == l.page.Len() {
		if l.end {
			return Entry{}, io.EOF
		}
		l.page.Reset()
		l.i = 0
		next, err := l.from.List(ctx, l.folder, l.after, &l.page)
		if err != nil {
			return Entry{}, err
		}
		if l.end = next == nil; !l.end && (bytes.Compare(next, l.after) <= 0 || l.page.Len() > 0 && bytes.Compare(l.page.Entry(l.page.Len()-1).Key, next) > 0) {
			return Entry{}, l.broken(next)
		}
		l.after = next
	}
	e := l.page.Entry(l.i)
	l.i++
	name, in := bytes.CutPrefix(e.Key, l.folder)
	if !in || bytes.IndexByte(name, '/') >= 0 || l.last != nil && bytes.Compare(e.Key, l.last) <= 0 {
		return Entry{}, l.broken(e.Key)
	}
	l.last = append(l.last[:0], e.Key...)
	return e, nil
}

func (l *listing) broken(key []byte) error {
	kind := ErrSource
	if _, ok := l.from.(Applier); ok {
		kind = ErrDestination
	}
	return &Error{Kind: kind, Op: "list " + NameKey(l.folder), Err: errors.New(NameKey(key) + " is not in it, or not in order: this is a defect of the adapter")}
}

func unlessEOF(err error) error {
	if errors.Is(err, io.EOF) {
		return nil
	}
	return err
}
