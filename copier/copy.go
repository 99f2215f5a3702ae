package copier

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"syscall"
	"time"

	"github.com/hashicorp/go-uuid"
)

// Options say how a copy is made. The zero value is fit for use.
type Options struct {
	// RunID identifies this copy in the source's locks and in every record of
	// it; empty means a new UUID.
	RunID string
	// Workers, Segments and Memory are those of [ScanOptions].
	Workers  int
	Segments int
	Memory   int64
	// StartKey, where set, leaves out all entries whose key is less: the
	// result is partial, and no Vault may be started from it.
	StartKey string
	// Events, where set, is told what goes on.
	Events func(Event)
}

// releaseTimeout bounds how long a copy that ends tries to give the source's
// locks back.
const releaseTimeout = 15 * time.Second

// Copy copies all entries of src to dst.
//
// It returns nil only when the result is complete, durable and in place;
// otherwise nothing is in place, the source's locks are given back, and the
// error wraps one of this package's sentinels or the context's error. The
// result is valid as far as the copy came.
func Copy(ctx context.Context, src Source, dst Sink, opts Options) (Result, error) {
	c := &copying{src: src, dst: dst, opts: opts}
	c.result.RunID = opts.RunID
	if c.result.RunID == "" {
		id, err := uuid.GenerateUUID()
		if err != nil {
			return c.result, fmt.Errorf("make run id: %w", err)
		}
		c.result.RunID = id
	}
	if c.opts.Events == nil {
		c.opts.Events = func(Event) {}
	}
	c.result.Start = time.Now()
	c.result.Partial = opts.StartKey != ""
	c.result.Phases = map[Phase]time.Duration{}
	err := c.run(ctx)
	c.endPhase()
	c.result.Duration = time.Since(c.result.Start)
	return c.result, err
}

type copying struct {
	src    Source
	dst    Sink
	opts   Options
	result Result

	phase      Phase
	phaseStart time.Time
}

func (c *copying) startPhase(p Phase) {
	c.endPhase()
	c.phase, c.phaseStart = p, time.Now()
	if p != PhaseScan { // Scan says so itself, with more to say
		c.opts.Events(PhaseStarted{Phase: p, Source: c.result.Source})
	}
}

func (c *copying) endPhase() {
	if c.phase != "" {
		c.result.Phases[c.phase] += time.Since(c.phaseStart)
		c.phase = ""
	}
}

func (c *copying) run(ctx context.Context) (err error) {
	scanOpts := ScanOptions{
		Workers:  c.opts.Workers,
		Segments: c.opts.Segments,
		Memory:   c.opts.Memory,
		Events:   c.opts.Events,
	}
	if start := []byte(c.opts.StartKey); len(start) > 0 {
		scanOpts.Map = func(e Entry, out *Batch) {
			if bytes.Compare(e.Key, start) >= 0 {
				out.Append(e.Key, e.Value)
			}
		}
	}
	if err := scanOpts.validate(); err != nil {
		return err
	}

	c.startPhase(PhasePrepare)
	defer func() {
		if cerr := c.dst.Close(); cerr != nil {
			if c.result.Complete {
				c.opts.Events(Warning{Message: "the copy is complete, but its work files are not all removed: " + cerr.Error()})
				return
			}
			err = errors.Join(err, cerr)
		}
	}()
	if err := c.dst.Prepare(ctx, c.result.RunID); err != nil {
		return cause(ctx, err)
	}
	if c.result.Source, err = c.src.Prepare(ctx); err != nil {
		return cause(ctx, err)
	}
	scanOpts.source = c.result.Source

	// From here on the loss of the lease ends whatever is under way.
	var lease Lease
	if locker, ok := c.src.(Locker); ok {
		c.startPhase(PhaseLock)
		var lost context.CancelCauseFunc
		ctx, lost = context.WithCancelCause(ctx)
		defer lost(nil)
		if lease, err = locker.Lock(ctx, c.result.RunID, lost); err != nil {
			return cause(ctx, err)
		}
		defer func() {
			rctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), releaseTimeout)
			defer cancel()
			rerr := lease.Release(rctx, c.result.Complete)
			switch {
			case rerr == nil:
			case c.result.Complete:
				c.opts.Events(Warning{Message: "the copy is complete, but the source's locks could not be released: " + rerr.Error()})
			default:
				err = errors.Join(err, rerr)
			}
		}()
	}

	c.startPhase(PhaseScan)
	scanOpts.WorkDir = c.dst.WorkDir()
	entries, stats, err := Scan(ctx, c.src, scanOpts)
	c.result.Scan = stats
	if err != nil {
		return err
	}
	defer func() {
		switch cerr := entries.Close(); {
		case cerr == nil:
		case c.result.Complete:
			c.opts.Events(Warning{Message: "the copy is complete, but its work files are not all removed: " + cerr.Error()})
		default:
			err = errors.Join(err, &Error{Kind: ErrDestination, Op: "remove work files", Err: cerr})
		}
	}()

	c.startPhase(PhaseLoad)
	if c.result.Load, err = c.dst.Load(ctx, entries); err != nil {
		return cause(ctx, err)
	}
	want, got := stats.Entries-stats.LeftOut, c.result.Load
	if got.Entries != want || !c.result.Partial && got.Bytes != stats.Bytes {
		return &Error{Kind: ErrDestination, Op: "load entries",
			Err: fmt.Errorf("%d entries (%d bytes in all) were read, and %d (%d bytes) were written: this is a defect of dyn2raft, and nothing was put in place",
				want, stats.Bytes, got.Entries, got.Bytes)}
	}

	c.startPhase(PhaseCommit)
	if lease != nil {
		if err := lease.Check(ctx); err != nil {
			return cause(ctx, err)
		}
	}
	if err := context.Cause(ctx); err != nil {
		return err
	}
	if err := c.dst.Commit(ctx); err != nil {
		return cause(ctx, err)
	}
	c.result.Complete = true
	return nil
}

// cause returns why ctx was cancelled, if it was, and err otherwise. What a
// cancelled call reports is a consequence, and left out where it says no more
// than that; an error of its own is kept, so that nothing is hidden.
func cause(ctx context.Context, err error) error {
	c := context.Cause(ctx)
	switch {
	case c == nil:
		return err
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded), errors.Is(err, c):
		return c
	default:
		return errors.Join(c, err)
	}
}

// hintNoSpace returns what to do about an error of a full disk or an exceeded
// quota, and nothing for any other error.
func hintNoSpace(err error) string {
	if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) {
		return "the file system of that work file is full: work files need as much room as the data, those of a verification about 100 bytes an entry; make room, then run the same command again"
	}
	return ""
}
