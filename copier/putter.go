package copier

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/dyn2raft/dyn2raft/copier/processors"
)

// A keeper is what pages go to that were read: a [sorter], or a [putter].
type keeper interface {
	// resume begins with what a journal has.
	resume(r *restored) error
	// add takes over the entries of b, which come from a page.
	add(ctx context.Context, b *Batch, from coverage) error
	// work is what other goroutines do with them, until finish is called.
	work(ctx context.Context) error
	finish()
	// save makes what was added durable, and puts it on record; record does so with
	// what is durable already. startWriteback says that save is about to be called.
	save(ctx context.Context) error
	record(ctx context.Context) error
	startWriteback()
	// isSaving reports whether what was added last is worth a checkpoint.
	isSaving() bool
}

// A putter hands pages to a stage that is [Unordered], and puts on record what that
// has acknowledged. A page that leads to others is put before any of them is read: so
// what is on record has no page without those that led to it.
type putter struct {
	put     func(context.Context, *Batch) error
	journal *journal
	events  func(Event)

	saves sync.Mutex // one at a time
	mu    sync.Mutex
	acked coverage // by the stage, and on no checkpoint
}

func (p *putter) resume(r *restored) error {
	if slices.ContainsFunc(r.runs, func(run runRecord) bool { return !run.isPut() }) {
		return &Error{Kind: ErrDestination, Code: NeedRestart, Op: "resume the copy",
			Err: errors.New("what was read before is in work files, and not at the destination")}
	}
	return nil
}

func (p *putter) add(ctx context.Context, b *Batch, from coverage) error {
	if err := p.put(ctx, b); err != nil {
		return err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.acked.add(from)
	return nil
}

func (p *putter) record(context.Context) error {
	p.saves.Lock()
	defer p.saves.Unlock()
	p.mu.Lock()
	run := runRecord{File: p.journal.nextRun(putPrefix), Entries: p.acked.Stats.Entries, Size: p.acked.Stats.Bytes, coverage: p.acked}
	p.acked = coverage{}
	p.mu.Unlock()
	if len(run.Pages) == 0 {
		return nil
	}
	if err := p.journal.write(checkpoint{Runs: []runRecord{run}}); err != nil {
		p.mu.Lock()
		defer p.mu.Unlock()
		run.coverage.add(p.acked)
		p.acked = run.coverage
		return err
	}
	p.events(Checkpointed{Entries: run.Entries, Bytes: run.Size, Time: time.Now()})
	return nil
}

func (p *putter) save(ctx context.Context) error { return p.record(ctx) }
func (p *putter) work(context.Context) error     { return nil }
func (p *putter) finish()                        {}
func (p *putter) startWriteback()                {}
func (p *putter) isSaving() bool                 { return true }

// vet has a stage look at all that is to be put, before any of it is: what it refuses
// is told of by an [ItemRefused] each, as far as mostRefused.
func (s *scan) vet(ctx context.Context, spans []Span) error {
	workers := min(s.opts.Workers, 4*processors.Count())
	err := readSpans(ctx, s.src, spans, workers, func(_ int, page Page, entries *Batch) error {
		if !s.refuse(append(page.Refused, s.opts.unordered.Vet(entries)...)) {
			return s.refusedError()
		}
		return nil
	})
	if err == nil {
		err = s.refusedError()
	}
	if err != nil {
		return fmt.Errorf("look at what is to be written: %w", err)
	}
	return nil
}
