package dynamodb

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"

	"github.com/dyn2raft/dyn2raft/copier"
	"github.com/dyn2raft/dyn2raft/sources/dynamodb"
)

// This file alone may import what reads a table. It is read back by that, and an old table is
// locked by that; what writes shares no code with it.

// Reader implements [copier.Stage], and reads the table without one: as one that is copied
// from, but its errors are those of a destination.
func (s *Sink) Reader(ctx context.Context) (copier.Source, error) { return s.reader(ctx, nil) }

// reader reads what is in the table, and adds facts to what it says of it.
func (s *Sink) reader(ctx context.Context, facts copier.Facts) (copier.Source, error) {
	src, err := dynamodb.New(ctx, dynamodb.Options{Table: s.opts.Table, Region: s.opts.Region, Endpoint: s.opts.Endpoint,
		AccessKey: s.opts.AccessKey, SecretKey: s.opts.SecretKey, SessionToken: s.opts.SessionToken, RetryFor: s.opts.RetryFor, Events: s.opts.Events, Markers: true})
	if err != nil {
		return nil, readError(err)
	}
	return &reader{src: src, facts: facts, table: s.opts.Table, dirs: map[string]bool{}}, nil
}

// Marked is [Sink.Reader] for a comparison: it yields directory markers, too, as entries
// without a value whose key is the directory with a slash behind it. See verify.Marked.
func (s *Sink) Marked(ctx context.Context) (copier.Source, error) {
	src, err := s.reader(ctx, nil)
	if err != nil {
		return nil, err
	}
	return marked{src.(*reader)}, nil
}

// ErrNoMarkers is returned when directories have no marker: a Vault finds what is in them by
// its name, and never lists it, so that it restores no leases there.
var ErrNoMarkers = errors.New("directories have no marker")

// A reader reads back what a stage has written. Its errors are those of a destination.
type reader struct {
	src   *dynamodb.Source
	facts copier.Facts
	table string

	mu   sync.Mutex
	dirs map[string]bool // with a slash behind them; true of those that have a marker
}

var _ copier.Rechecker = (*reader)(nil)

// marked is a reader that yields markers, and leaves it to others to miss one.
type marked struct{ *reader }

// Read implements [copier.Source].
func (m marked) Read(ctx context.Context, span copier.Span, b *copier.Batch) (copier.Page, error) {
	return m.read(ctx, span, b)
}

// Recheck implements [copier.Rechecker].
func (m marked) Recheck(ctx context.Context) error { return readError(m.src.Recheck(ctx)) }

// MarkersIncluded says what the source is.
func (marked) MarkersIncluded() {}

// Open implements [copier.Source].
func (r *reader) Open(ctx context.Context) (copier.Info, error) {
	info, err := r.src.Open(ctx)
	if err == nil && r.facts != nil {
		info.Facts = maps.Clone(info.Facts)
		maps.Copy(info.Facts, r.facts)
	}
	return info, readError(err)
}

// Split implements [copier.Source].
func (r *reader) Split(ctx context.Context, n int) ([]copier.Span, error) {
	spans, err := r.src.Split(ctx, n)
	return spans, readError(err)
}

// Read implements [copier.Source].
func (r *reader) Read(ctx context.Context, span copier.Span, b *copier.Batch) (copier.Page, error) {
	var all copier.Batch
	page, err := r.read(ctx, span, &all)
	if err != nil {
		return page, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	last := []byte(nil) // the directory of the entry before
	for i := range all.Len() {
		e := all.Entry(i)
		if bytes.HasSuffix(e.Key, []byte("/")) {
			r.dirs[string(e.Key)] = true
			page.Markers++
			continue
		}
		b.Append(e.Key, e.Value)
		dir := e.Key[:bytes.LastIndexByte(e.Key, '/')+1]
		if bytes.Equal(dir, last) {
			continue
		}
		last = dir
		for n := len(dir); n > 0; n = bytes.LastIndexByte(dir[:n-1], '/') + 1 {
			if _, ok := r.dirs[string(dir[:n])]; !ok {
				r.dirs[string(dir[:n])] = false
			}
		}
	}
	return page, nil
}

func (r *reader) read(ctx context.Context, span copier.Span, b *copier.Batch) (copier.Page, error) {
	page, err := r.src.Read(ctx, span, b)
	for i, err := range page.Refused {
		page.Refused[i] = &copier.Error{Kind: copier.ErrReadBack, Err: readError(err)}
	}
	return page, readError(err)
}

// Recheck implements [copier.Rechecker]. Behind the last page it misses markers.
func (r *reader) Recheck(ctx context.Context) error {
	if err := r.src.Recheck(ctx); err != nil {
		return readError(err)
	}
	var without []string
	for dir, has := range r.dirs {
		if !has {
			without = append(without, copier.NameKey([]byte(dir)))
		}
	}
	if without == nil {
		return nil
	}
	slices.Sort(without)
	names := strings.Join(without[:min(len(without), 10)], ", ")
	return &copier.Error{Kind: copier.ErrReadBack, Code: MarkersMissing, Facts: map[string]string{"table": r.table},
		Err: fmt.Errorf("%w: %w: %d of %d in table %s: %s", copier.ErrDestination, ErrNoMarkers, len(without), len(r.dirs), r.table, names)}
}

// Close implements [copier.Source].
func (r *reader) Close() error { return readError(r.src.Close()) }

// readError is a source's error as one of the destination.
func readError(err error) error {
	if err == nil || errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	code, facts := copier.CodeOf(err)
	return &copier.Error{Kind: copier.ErrDestination, Op: "read back what was written", Code: code, Facts: facts, Err: errors.New(err.Error())}
}

// An oldTable is one whose content is replaced: it is locked, and backed up, as a table
// that is copied from.
type oldTable struct {
	name   string
	src    *dynamodb.Source
	opened bool
}

func newOldTable(ctx context.Context, o Options) (*oldTable, error) {
	src, err := dynamodb.New(ctx, dynamodb.Options{Table: o.Table, Region: o.Region, Endpoint: o.Endpoint,
		AccessKey: o.AccessKey, SecretKey: o.SecretKey, SessionToken: o.SessionToken, RetryFor: o.RetryFor, Events: o.Events,
		Markers: true, HAEnabled: o.Replace.HAEnabled, HAStorage: o.Replace.HAStorage, Stopped: o.Replace.Stopped})
	return &oldTable{name: o.Table, src: src}, err
}

func (t *oldTable) open(ctx context.Context) error {
	_, err := t.src.Open(ctx)
	t.opened = err == nil
	return destination(err)
}

func (t *oldTable) close() error {
	if !t.opened {
		return nil
	}
	t.opened = false
	return destination(t.src.Close())
}

// items are what is in the table, while it is open.
func (t *oldTable) items() copier.Source { return oldItems{t} }

// oldItems reads a table that is replaced, its directory markers included. Its errors are
// those of a destination.
type oldItems struct{ t *oldTable }

// Open implements [copier.Source].
func (o oldItems) Open(context.Context) (copier.Info, error) { return copier.Info{Name: o.t.name}, nil }

// Split implements [copier.Source].
func (o oldItems) Split(ctx context.Context, n int) ([]copier.Span, error) {
	spans, err := o.t.src.Split(ctx, n)
	return spans, destination(err)
}

// Read implements [copier.Source].
func (o oldItems) Read(ctx context.Context, span copier.Span, b *copier.Batch) (copier.Page, error) {
	page, err := o.t.src.Read(ctx, span, b)
	for i, err := range page.Refused {
		page.Refused[i] = &copier.Error{Kind: copier.ErrDestination, Code: TableOtherItem, Facts: map[string]string{"table": o.t.name}, Err: errors.New(err.Error())}
	}
	return page, destination(err)
}

// Close implements [copier.Source]: the table stays open.
func (o oldItems) Close() error { return nil }

func (t *oldTable) lock(ctx context.Context, run string, takeOver []string, lost func(error)) (lease, error) {
	l, err := t.src.LockToReplace(ctx, run, takeOver, lost)
	if err == nil {
		return l, nil
	}
	switch code, _ := copier.CodeOf(err); code {
	case dynamodb.LockedByCopy:
		return nil, t.locked(TableLocked, err.Error())
	case dynamodb.NotStopped:
		return nil, t.locked(TableNotStopped, err.Error())
	default:
		return nil, destination(err)
	}
}

func (t *oldTable) locked(code copier.Code, why string) error {
	return &copier.Error{Kind: copier.ErrLocked, Op: "replace what is in table " + t.name, Code: code, Err: errors.New(why),
		Facts: map[string]string{"table": t.name, "why": why}}
}

// backUp returns the ARN of a backup of the table as it is.
func (t *oldTable) backUp(ctx context.Context, r *Replace) (arn string, err error) {
	if r.BackupARN != "" {
		_, err = t.src.FindBackup(ctx, r.BackupARN)
		return r.BackupARN, destination(err)
	}
	arn, err = t.src.Snapshot(ctx, r.Backup)
	return arn, destination(err)
}

// halfReplaced is the error of a copy that has changed a table, and will not be resumed by
// what it has read.
func (s *Sink) halfReplaced(backup string) error {
	return &copier.Error{Kind: copier.ErrDestination, Op: "leave table " + s.opts.Table, Code: dynamodb.HalfReplaced,
		Facts: map[string]string{"table": s.opts.Table, "backup": backup}, Err: fmt.Errorf("%w; as it was it is in the backup %s", dynamodb.ErrHalfReplaced, backup)}
}

// destination is an error of a table that is locked as a source, as one of the destination.
func destination(err error) error {
	if err == nil || errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	out := &copier.Error{Kind: copier.ErrDestination, Op: "replace what is in the table", Err: errors.New(err.Error())}
	out.Code, out.Facts = copier.CodeOf(err)
	for _, kind := range []error{copier.ErrLocked, copier.ErrConfig} {
		if errors.Is(err, kind) {
			out.Kind = kind
		}
	}
	return out
}
