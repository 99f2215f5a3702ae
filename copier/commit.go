package copier

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// commit puts what was loaded in place. All that takes time comes first: between
// the renewal of the lease and the step that counts there is nothing.
func (c *copying) commit(ctx context.Context, lease Lease) error {
	c.startPhase(PhaseCommit)
	if err := context.Cause(ctx); err != nil {
		return err
	}
	if err := c.journal.writeSetup(); err != nil {
		return err
	}
	if err := c.stage.Prepare(ctx); err != nil {
		return cause(ctx, err)
	}
	c.tell(ctx, c.opts.Draft)
	var err error
	if lease != nil {
		err = lease.Check(ctx)
	}
	if err == nil {
		err = context.Cause(ctx)
	}
	if err != nil {
		err = cause(ctx, err)
		if back := c.stage.Rollback(); back != nil {
			err = errors.Join(err, back)
		}
		return err
	}
	if err := c.stage.Commit(ctx); err != nil {
		if errors.Is(err, ErrUnconfirmed) {
			c.result.Commit = Unconfirmed // it can't be taken back
		}
		return cause(ctx, err)
	}
	c.result.Commit = Unconfirmed
	return c.confirm(ctx, lease)
}

// confirm asks the source whether a result that is in place is complete, and
// does then what is left to do with it.
func (c *copying) confirm(ctx context.Context, lease Lease) error {
	if lease != nil {
		asking, cancel := outlive(ctx)
		err := lease.Check(asking)
		// Both locks may have been put into another source of the same name: it is
		// asked for last, since none that is gone comes back.
		if src, ok := c.src.(Rechecker); ok && err == nil {
			err = src.Recheck(asking)
		}
		cancel()
		if err != nil {
			return c.unconfirm(ctx, cause(ctx, err))
		}
	}
	if lease != nil {
		c.mark(Confirmed)
	} else {
		c.mark(Released) // there is nothing to give back
	}
	c.result.Complete = true
	c.tell(ctx, c.opts.Finish)
	return nil
}

// unconfirm takes a result back that is in place and not confirmed, or not any
// more, and returns the error of the copy. The source stays locked, as far as it
// is.
func (c *copying) unconfirm(ctx context.Context, why error) error {
	err := fmt.Errorf("%w: %w", ErrUnconfirmed, why)
	if was := c.result.Commit; was != Unconfirmed {
		c.result.Complete = false
		c.mark(Unconfirmed)
		c.tell(ctx, c.opts.Draft)
	}
	if back := c.stage.Rollback(); back != nil {
		return errors.Join(err, back)
	}
	c.result.Commit = ""
	return err
}

// mark notes which state the result is in. Where that can't be written, the next
// process asks once more than it has to.
func (c *copying) mark(state CommitState) {
	c.result.Commit = state
	if err := c.stage.Amend(state); err != nil {
		c.opts.Events(Warning{Message: fmt.Sprintf("it is not on record that the copy is %s: %v", state, err)})
	}
}

// tell calls Options.Draft or Finish.
func (c *copying) tell(ctx context.Context, call func(context.Context, Result) error) {
	if call == nil {
		return
	}
	r := c.result
	phase := c.phase
	c.endPhase() // for the result to tell
	r.Duration = time.Since(r.Start)
	if c.history != nil {
		r.Earlier, r.Samples = c.history.now()
	}
	c.result.Earlier, c.result.Samples = r.Earlier, r.Samples
	if err := call(context.WithoutCancel(ctx), r); err != nil {
		state := "is complete"
		if !c.result.Complete {
			state = "is not confirmed yet"
		}
		c.opts.Events(Warning{Message: "the copy " + state + ", but " + err.Error()})
	}
	c.phase, c.phaseStart = phase, time.Now()
}

// inPlace is what a copy does that finds the result of an earlier process.
func (c *copying) inPlace(ctx context.Context, found State) (err error) {
	c.result.RunID, c.result.InPlace, c.result.Commit = found.RunID, true, found.Commit
	switch {
	case found.InUse:
		err = &Error{Kind: ErrLocked, Op: "check " + c.home, Code: InPlaceInUse,
			Err: fmt.Errorf("%w: that of run %s, and %w", ErrInPlace, found.RunID, ErrInUse)}
	case !c.opts.Resume:
		err = &Error{Kind: ErrDestination, Op: "check " + c.home, Code: InPlace,
			Err: fmt.Errorf("%w: that of run %s", ErrInPlace, found.RunID)}
	default:
		err = c.finish(ctx, found.Commit == Released)
	}
	if err != nil && c.result.Commit == Unconfirmed && !errors.Is(err, ErrUnconfirmed) {
		err = fmt.Errorf("%w: %w", ErrUnconfirmed, err)
	}
	return err
}

// finish does what a process that was killed with its result in place has left
// undone. Unless the source was given back, it is asked for its locks again.
func (c *copying) finish(ctx context.Context, released bool) (err error) {
	if c.result.Source, err = c.src.Open(ctx); err != nil {
		return err
	}
	defer c.closeSource()
	if c.stage, err = c.dst.Stage(ctx, c.result.RunID); err != nil {
		return err
	}
	dir := c.home
	c.journal = &journal{disk: c.opts.Disk, dir: dir, work: dir}
	if was, err := readSetup(dir); err == nil && was != nil && was.RunID == c.result.RunID {
		// Its locks are in the source that it has copied.
		if err := c.sameSource("resume", *was); err != nil {
			return err
		}
		c.journal.setup = *was
		if _, ok := was.apart(); ok {
			c.journal.work = was.WorkDir
		}
		c.digests = was.Digests
		if c.digests == nil && was.Digest && was.Scan != nil {
			c.digests = Digests{} // of a source without entries
		}
		c.result.Resumed, c.result.Began, c.result.Note = was.Resumed+1, was.Start, was.Note
		c.result.Earlier = readHistory(dir)
		if was.Scan != nil && was.Load != nil {
			c.result.Scan, c.result.Load = *was.Scan, *was.Load
		}
	}
	c.result.Digests = c.digests
	var lease Lease
	if locker, ok := c.src.(Locker); ok && !released {
		c.startPhase(PhaseLock)
		caller := ctx
		var lost context.CancelCauseFunc
		ctx, lost = context.WithCancelCause(ctx)
		defer lost(nil)
		lease, err = locker.Lock(ctx, c.result.RunID, true, lost)
		if errors.Is(err, ErrMoved) {
			return c.unconfirm(ctx, err)
		}
		if err != nil {
			return cause(ctx, err)
		}
		defer func() { err = c.release(caller, lease, err) }()
	}
	if c.digests != nil {
		err = c.readBack(ctx, c.digests)
	} else {
		err = c.look(ctx)
	}
	if c.digests != nil && errors.Is(err, ErrChanged) {
		// They are on record since it was found to have them.
		c.opts.Events(Warning{Message: "a Vault has run on the copy since it was put in place, so that it can't be compared any more with what was read; it was, before it was put in place"})
		c.result.ReadBack, err = true, nil
	}
	switch {
	case errors.Is(err, ErrMoved): // the lease was lost meanwhile
		return c.unconfirm(ctx, err)
	case err != nil:
		return err
	}
	if released {
		c.result.Complete = true
		c.tell(ctx, c.opts.Finish)
		return nil
	}
	return c.confirm(ctx, lease)
}

// outlive returns a context for what a copy has to ask at its end, also where it
// was interrupted.
func outlive(ctx context.Context) (context.Context, context.CancelFunc) {
	out, cancel := context.WithTimeout(context.WithoutCancel(ctx), releaseTimeout)
	out, late := context.WithCancelCause(out)
	stop := context.AfterFunc(ctx, func() {
		time.AfterFunc(interruptedRelease, func() { late(fmt.Errorf("no answer within %v", interruptedRelease)) })
	})
	return out, func() {
		stop()
		late(nil)
		cancel()
	}
}
