// Package sequential makes spans and pages of files that can only be read from their
// beginning, because they are compressed.
package sequential

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"sync"

	"github.com/dyn2raft/dyn2raft/copier"
)

// A Cursor reads one file.
type Cursor interface {
	// Page adds the next items to page, and their entries to b: at most so many, and
	// about a megabyte. It returns how many there were, and io.EOF, as it is, where they are
	// the last, and the file was found sound.
	Page(b *copier.Batch, page *copier.Page, most int64) (items int64, err error)
	Close() error
}

// Files are some files, each of which is a span. It is safe for concurrent use.
type Files struct {
	// Open opens a file, by its number, at its beginning.
	Open func(file int) (Cursor, error)

	mu   sync.Mutex
	open map[place]Cursor // each where it stands
}

// A place is an item, by its number, in a file.
type place struct {
	File int   `json:"file"`
	Item int64 `json:"item"`
}

// Split returns a span for each of so many files.
func (f *Files) Split(files int) []copier.Span {
	out := make([]copier.Span, files)
	for i := range out {
		out[i] = copier.Span{Index: i, From: place{File: i}.token()}
	}
	return out
}

func (p place) token() []byte {
	b, _ := json.Marshal(p) // of two numbers
	return b
}

func parse(token []byte) (p place, err error) {
	if err := json.Unmarshal(token, &p); err != nil || p.File < 0 || p.Item < 0 {
		return p, &copier.Error{Kind: copier.ErrSource, Op: fmt.Sprintf("read the token %.64q of a span", token), Err: errors.Join(errors.New("this source has not made it"), err)}
	}
	return p, nil
}

// Read is that of [copier.Source]. A span that starts where the last call ended
// continues in the open file. For another one the file is opened again, and read from
// its beginning.
func (f *Files) Read(ctx context.Context, s copier.Span, b *copier.Batch) (page copier.Page, err error) {
	at, err := parse(s.From)
	if err != nil {
		return copier.Page{}, err
	}
	most := int64(math.MaxInt64)
	if len(s.Until) > 0 {
		until, err := parse(s.Until)
		if err != nil {
			return copier.Page{}, err
		}
		most = until.Item - at.Item
	}
	before := b.Len()
	c, err := f.take(ctx, at)
	if err == nil {
		var n int64
		n, err = c.Page(b, &page, most)
		at.Item += n
		if err == nil && n < most {
			page.Next = []copier.Span{{Index: s.Index, From: at.token(), Until: s.Until}}
		}
		if err == io.EOF && n < most && most != math.MaxInt64 {
			err = fmt.Errorf("it ends with item %d, before the place that the span ends at", at.Item)
		}
	}
	switch {
	case err == io.EOF:
		err = c.Close()
	case err == nil:
		f.keep(at, c)
	case c != nil:
		err = errors.Join(err, c.Close())
	}
	if err != nil {
		b.Truncate(before)
		return copier.Page{}, err
	}
	return page, nil
}

// take returns a cursor that stands at a place.
func (f *Files) take(ctx context.Context, at place) (Cursor, error) {
	f.mu.Lock()
	c := f.open[at]
	delete(f.open, at)
	f.mu.Unlock()
	if c != nil {
		return c, nil
	}
	c, err := f.Open(at.File)
	if err != nil {
		return nil, err
	}
	var b copier.Batch
	for left := at.Item; left > 0 && err == nil; b.Reset() {
		if err = context.Cause(ctx); err != nil {
			break
		}
		var n int64
		n, err = c.Page(&b, new(copier.Page), left)
		if left -= n; err == io.EOF {
			err = errors.New("nothing follows the place that the span begins at")
		}
	}
	if err != nil {
		return nil, errors.Join(err, c.Close())
	}
	return c, nil
}

// keep puts a cursor aside for who reads on.
func (f *Files) keep(at place, c Cursor) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.open == nil {
		f.open = map[place]Cursor{}
	}
	if f.open[at] != nil { // of a span that is read twice
		_ = c.Close()
		return
	}
	f.open[at] = c
}

// Close closes what is open.
func (f *Files) Close() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	var err error
	for _, c := range f.open {
		err = errors.Join(err, c.Close())
	}
	clear(f.open)
	return err
}
