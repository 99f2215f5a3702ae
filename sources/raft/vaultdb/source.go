package vaultdb

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/dyn2raft/dyn2raft/copier"
)

// A Source is the entries of a vault.db as a [copier.Source], by the rules of this
// package. A span is a range of keys, and is read leaf by leaf, so that a token is
// the key with which a leaf begins. Path is set before it is used.
//
// Reading leaves open what only the whole file shows. Recheck checks that, once all
// is read; so does a Stream at its end.
type Source struct {
	// Path is that of the file, and Kind what the errors wrap that are about it:
	// [copier.ErrSource], where that is not set.
	Path string
	Kind error
	// Held is set where whoever uses it holds the file's lock: see [OpenHeld].
	Held bool

	file *File
	used *usage

	mu      sync.Mutex // guards what follows
	idle    []*Entries
	depth   int   // of the leaves; 0 as long as none was read
	stats   Stats // of what was read
	checked Stats // of all
}

var (
	_ copier.Source    = (*Source)(nil)
	_ copier.Rechecker = (*Source)(nil)
	_ copier.Getter    = (*Source)(nil)
	_ copier.Ordered   = (*Source)(nil)
)

// Open implements [copier.Source]: see the function [Open]. The Incarnation is made of
// what changes when somebody writes to the file.
func (s *Source) Open(context.Context) (copier.Info, error) {
	file, err := openVault(s.Path, !s.Held)
	if err != nil {
		return copier.Info{}, s.kind(err)
	}
	info, err := s.use(file)
	if err != nil {
		err = errors.Join(err, s.Close())
	}
	return info, err
}

// use begins with an open file.
func (s *Source) use(file *File) (copier.Info, error) {
	s.file, s.used = file, newUsage(file.meta.highWater)
	path, err := filepath.Abs(s.Path)
	if err != nil {
		return copier.Info{}, s.kind(file.fail(err, ""))
	}
	st, err := os.Stat(path)
	if err != nil {
		return copier.Info{}, s.kind(file.fail(err, ""))
	}
	return copier.Info{Name: s.Path, ID: path, Bytes: file.size,
		Incarnation: fmt.Sprintf("%d bytes of %s, transaction %d", file.size, st.ModTime().UTC().Format(time.RFC3339Nano), file.meta.txid)}, nil
}

// kind makes an error the source's.
func (s *Source) kind(err error) error {
	if s.Kind == copier.ErrDestination { //nolint:errorlint // a kind is set as it is
		return err
	}
	return OfSource(err)
}

// OfSource is an error about a file of a destination, as functions of this package return
// it, as one about the same file of a source: what to do is another thing there.
func OfSource(err error) error {
	for e, ok := errors.AsType[*copier.Error](err); ok; e, ok = errors.AsType[*copier.Error](e.Err) {
		if e.Kind != copier.ErrDestination { //nolint:errorlint // as above
			continue
		}
		own := *e
		own.Kind = copier.ErrSource
		switch own.Code {
		case Damaged:
			own.Code = SourceDamaged
		case NoFile:
			own.Code = NoSourceFile
		}
		return &own
	}
	return err
}

// Close implements [copier.Source]: it gives the lock back.
func (s *Source) Close() error {
	if s.file == nil {
		return nil
	}
	return s.kind(s.file.Close())
}

// State is [File.State] of the open file.
func (s *Source) State() (State, error) {
	state, err := s.file.State()
	return state, s.kind(err)
}

// defaultSpans is the number of spans where the caller has no wish.
const defaultSpans = 64

// Split implements [copier.Source]. There are fewer than n where the file has so few
// leaves.
func (s *Source) Split(ctx context.Context, n int) ([]copier.Span, error) {
	if n == 0 {
		n = defaultSpans
	}
	keys, err := s.cursor(ctx).split(n)
	if err != nil {
		return nil, s.kind(err)
	}
	spans := make([]copier.Span, len(keys))
	for i := range keys {
		p := place{from: keys[i]}
		if i+1 < len(keys) {
			p.until = keys[i+1]
		}
		spans[i] = copier.Span{Index: i, From: p.token()}
	}
	return spans, nil
}

// split returns n keys, or fewer, with which leaves begin, in ascending order. The
// first is nil.
func (e *Entries) split(n int) ([][]byte, error) {
	type child struct {
		key  []byte
		page uint64
	}
	level := []child{{page: e.bucket.root}}
	e.used = nil // looking is not reading
	for depth := 1; len(level) < n && level[0].page != 0; depth++ {
		var below []child
		for _, c := range level {
			p, err := e.load(c.page, nil)
			if err != nil {
				return nil, err
			}
			if p.leaf {
				below = level
				break
			}
			b := branch{page: p, at: pageHeaderSize + elemSize*p.count}
			for ; b.next < b.count; b.pass() {
				below = append(below, child{bytes.Clone(b.nextKey()), b.nextID()})
			}
		}
		if len(below) == len(level) || depth == maxDepth { // of leaves, or of no tree
			break
		}
		level = below
	}
	n = min(n, len(level))
	keys := make([][]byte, n)
	for i := range n {
		c := level[i*len(level)/n]
		if i > 0 {
			if keys[i] = c.key; bytes.Compare(keys[i-1], c.key) >= 0 {
				return nil, e.f.damaged(c.page, "key %s stands behind key %s", copier.NameKey(c.key), copier.NameKey(keys[i-1]))
			}
		}
	}
	return keys, nil
}

// A place is what a token says: the key with which the next leaf begins, and that
// with which the first leaf behind the span does. Without the one it is the first
// leaf, without the other there is none.
type place struct{ from, until []byte }

func (p place) token() []byte {
	if p.from == nil && p.until == nil {
		return nil
	}
	return slices.Concat(binary.AppendUvarint(nil, uint64(len(p.from))), p.from, p.until)
}

// placeOf reads the tokens of a span.
func placeOf(span copier.Span) (p place, err error) {
	for i, token := range [][]byte{span.From, span.Until} {
		if len(token) == 0 {
			continue
		}
		size, n := binary.Uvarint(token)
		if n <= 0 || size > uint64(len(token)-n) {
			return p, errors.New("the token of a span is none of this source")
		}
		from, until := token[n:n+int(size)], token[n+int(size):]
		if i == 0 {
			p = place{from, until}
		} else {
			p.until = from
		}
	}
	return p, nil
}

// pageBytes is how much a page of a span has at the least, in bytes, but for its last.
const pageBytes = 1 << 20

// Read implements [copier.Source].
func (s *Source) Read(ctx context.Context, span copier.Span, b *copier.Batch) (page copier.Page, err error) {
	if ctx.Err() != nil {
		return page, context.Cause(ctx)
	}
	p, err := placeOf(span)
	if err != nil {
		return page, s.kind(s.file.fail(err, ""))
	}
	e, had := s.cursor(ctx), b.Len()
	next, err := e.readPage(p, b)
	if derr := s.done(e); err == nil {
		err = derr
	}
	if err != nil {
		b.Truncate(had)
		return page, s.kind(err)
	}
	if next != nil {
		page.Next = []copier.Span{{Index: span.Index, From: place{next, p.until}.token(), Until: span.Until}}
	}
	return page, nil
}

// readPage reads leaves from a place on, and returns the key with which the next
// one of its span begins, nil where there is none.
func (e *Entries) readPage(p place, b *copier.Batch) ([]byte, error) {
	if err := e.seek(p.from); err != nil {
		return nil, err
	}
	if len(p.from) > 0 && !bytes.Equal(e.page.firstKey(), p.from) {
		return nil, e.f.damaged(e.page.id, "a search for the key %s ends here", copier.NameKey(p.from))
	}
	for before := b.Bytes(); ; {
		for e.next < e.page.count {
			entry, err := e.Next()
			if err != nil {
				return nil, err
			}
			b.Append(entry.Key, entry.Value)
		}
		bound := e.bound()
		if bound == nil {
			return nil, nil
		}
		if bytes.Compare(e.last, bound) >= 0 {
			return nil, e.f.damaged(e.page.id, "key %s stands behind key %s", copier.NameKey(bound), copier.NameKey(e.last))
		}
		if len(p.until) > 0 && bytes.Compare(bound, p.until) >= 0 {
			return nil, nil
		}
		if b.Bytes()-before >= pageBytes {
			return bytes.Clone(bound), nil
		}
		if err := e.nextLeaf(); err != nil {
			return nil, err
		}
	}
}

// cursor returns what reads the bucket, with memory that was used before.
func (s *Source) cursor(ctx context.Context) *Entries {
	e := s.file.newWalk(ctx, s.file.buckets[DataBucket], 0)
	e.name, e.used, e.shared = DataBucket, s.used, true
	s.mu.Lock()
	defer s.mu.Unlock()
	if n := len(s.idle); n > 0 {
		was := s.idle[n-1]
		s.idle = s.idle[:n-1]
		e.window.buf, e.lastBuf, e.free = was.window.buf[:0], was.lastBuf[:0], was.free
		for _, b := range was.branches {
			e.free = append(e.free, b.data)
		}
	}
	return e
}

// done takes over what a cursor has found, and its memory.
func (s *Source) done(e *Entries) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.stats.add(e.stats)
	s.idle = append(s.idle, e)
	if s.depth == 0 {
		s.depth = e.depth
	}
	if e.depth != s.depth {
		return e.f.damaged(e.page.id, "a leaf on level %d, where others are on level %d", e.depth, s.depth)
	}
	return nil
}

// Recheck implements [copier.Rechecker]: it checks what is left to check of the
// whole file, as [Entries.Check] does. Of entries it reads only those that Read has
// not read.
func (s *Source) Recheck(ctx context.Context) error {
	e := s.cursor(ctx)
	s.mu.Lock()
	e.used = &usage{slices.Clone(s.used.begin), slices.Clone(s.used.goOn)}
	e.unread, e.depth, e.stats = true, s.depth, s.stats
	s.mu.Unlock()
	var err error
	for err == nil {
		_, err = e.Next()
	}
	stats, err := e.Check()
	if err != nil {
		return s.kind(err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.checked = stats
	return nil
}

// Stats says what the file is made of, once Recheck has found it sound.
func (s *Source) Stats() Stats {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.checked
}

// Value implements [copier.Getter].
func (s *Source) Value(ctx context.Context, key string) ([]byte, bool, error) {
	e := s.cursor(ctx)
	e.used = nil // looking is not reading
	err := e.seek([]byte(key))
	for err == nil && e.next < e.page.count {
		var entry copier.Entry
		if entry, err = e.Next(); err == nil && string(entry.Key) == key {
			return bytes.Clone(entry.Value), true, nil
		}
	}
	return nil, false, s.kind(err)
}

// Stream implements [copier.Ordered]. Behind the last it checks
// the rest of the file, as [Entries.Check] does, so that one that ends with [io.EOF]
// is sound.
func (s *Source) Stream(ctx context.Context) (copier.Stream, error) {
	return &stream{s: s, e: s.file.Entries(ctx)}, nil
}

type stream struct {
	s       *Source
	e       *Entries
	checked bool
}

// Next implements [copier.Stream].
func (s *stream) Next() (copier.Entry, error) {
	entry, err := s.e.Next()
	if errors.Is(err, io.EOF) && !s.checked {
		if _, err := s.e.Check(); err != nil {
			return copier.Entry{}, s.s.kind(err)
		}
		s.checked = true
	}
	if err == nil || err == io.EOF {
		return entry, err
	}
	return entry, s.s.kind(err)
}
