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
	draft := c.snapshot()
	draft.State = Unconfirmed
	if err := c.stage.Prepare(ctx, draft); err != nil {
		return cause(ctx, err)
	}
	c.give(ctx, draft)
	var err error
	if lease != nil {
		err = lease.Check(ctx)
	}
	if err == nil && c.lastLook != nil {
		err = c.lastLook(ctx)
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
			c.result.State = Unconfirmed // it can't be taken back
		}
		return cause(ctx, err)
	}
	c.result.State = Unconfirmed
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
	c.result.End = c.start.UTC().Add(time.Since(c.start)) // however the clock was set meanwhile
	if lease != nil {
		c.mark(Confirmed)
	} else {
		c.mark(Released) // there is nothing to give back
	}
	c.result.Complete = true
	c.tell(ctx)
	return nil
}

// unconfirm takes a result back that is in place and not confirmed, or not any
// more, and returns the error of the copy. The source stays locked, as far as it
// is.
func (c *copying) unconfirm(ctx context.Context, why error) error {
	err := fmt.Errorf("%w: %w", ErrUnconfirmed, why)
	if was := c.result.State; was != Unconfirmed {
		c.result.Complete = false
		c.mark(Unconfirmed)
		c.tell(ctx)
	}
	if back := c.stage.Rollback(); back != nil {
		return errors.Join(err, back)
	}
	c.result.State = ""
	return err
}

// mark notes which state the result is in. Where that can't be written, the next
// process asks once more than it has to.
func (c *copying) mark(state CommitState) {
	c.result.State = state
	if state == Released {
		c.result.Amend(c.opts.Tool, AmendReleased, nil)
	}
	if err := c.stage.Amend(c.snapshot()); err != nil {
		c.opts.Events(Warning{Message: fmt.Sprintf("it is not on record that the copy is %s: %v", state, err)})
	}
}

// tell calls Options.Record.
func (c *copying) tell(ctx context.Context) { c.give(ctx, c.snapshot()) }

func (c *copying) give(ctx context.Context, r Record) {
	if c.opts.Record == nil {
		return
	}
	if err := c.opts.Record(context.WithoutCancel(ctx), r); err != nil {
		state := "is complete"
		if !c.result.Complete {
			state = "is not confirmed yet"
		}
		c.opts.Events(Warning{Message: "the copy " + state + ", but " + err.Error()})
	}
}

// inPlace is what a copy does that finds the result of an earlier process.
func (c *copying) inPlace(ctx context.Context, found State) (err error) {
	was := found.Record
	c.result.RunID, c.result.InPlace, c.result.State = was.RunID, true, was.State
	switch {
	case found.InUse:
		err = &Error{Kind: ErrLocked, Op: "check " + c.home, Code: InPlaceInUse,
			Err: fmt.Errorf("%w: that of run %s, and %w", ErrInPlace, was.RunID, ErrInUse)}
	case !c.opts.Resume:
		err = &Error{Kind: ErrDestination, Op: "check " + c.home, Code: InPlace,
			Err: fmt.Errorf("%w: that of run %s", ErrInPlace, was.RunID)}
	default:
		err = c.finish(ctx, was)
	}
	if err != nil && c.result.State == Unconfirmed && !errors.Is(err, ErrUnconfirmed) {
		err = fmt.Errorf("%w: %w", ErrUnconfirmed, err)
	}
	return err
}

// finish does what a process that was killed with its result in place has left
// undone. Unless the source was given back, it is asked for its locks again.
func (c *copying) finish(ctx context.Context, was *Record) (err error) {
	if c.result.Source, err = c.src.Open(ctx); err != nil {
		return err
	}
	defer c.closeSource()
	caller := ctx
	if was.Live != nil {
		defer func() {
			if err == nil && c.result.Complete {
				err = c.finishLive(caller)
			}
		}()
	}
	if c.stage, err = c.dst.Stage(ctx, was.RunID); err != nil {
		return err
	}
	c.journal = &journal{disk: c.opts.Disk, dir: c.home, work: c.home}
	if was.Source.ID != "" { // else nothing is known of it
		// Its locks are in the source that it has copied.
		if err := c.sameSource("resume", *was); err != nil {
			return err
		}
	}
	if _, ok := was.apart(); ok {
		c.journal.work = was.WorkDir
	}
	source := c.result.Source
	c.result, c.before = *was, was.Processes
	c.result.Tool, c.result.Source, c.result.InPlace = c.opts.Tool, source, true
	c.result.Resumed++
	released := was.State == Released
	read := c.result.Prefixes
	var lease Lease
	if locker, ok := c.src.(Locker); ok && !released {
		c.startPhase(PhaseLock)
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
	proof := c.result.Proof
	if was.Live != nil && c.opts.Live != nil && c.opts.Live.Buckets != nil {
		c.buckets = new(Buckets)
	}
	if read != nil {
		err = c.readBack(ctx, read)
	} else {
		err = c.look(ctx)
	}
	if err != nil {
		c.buckets = nil // it was not read to its end
	}
	if read != nil && errors.Is(err, ErrChanged) {
		// They are on record since it was found to have them.
		c.opts.Events(Warning{Message: "a Vault has run on the copy since it was put in place, so that it can't be compared any more with what was read; it was, before it was put in place"})
		err = nil
	}
	switch {
	case errors.Is(err, ErrMoved): // the lease was lost meanwhile
		return c.unconfirm(ctx, err)
	case err != nil:
		return err
	}
	if proof != nil && proof != c.result.Proof {
		c.result.Proof = proof // before it was put in place
		c.result.Amend(c.opts.Tool, AmendProved, nil)
	}
	if released {
		c.result.Complete = true
		c.tell(ctx)
		return nil
	}
	return c.confirm(ctx, lease)
}

// outlive returns a context for what a copy has to ask at its end, also where it
// was interrupted. That there is no answer is the source's fault.
func outlive(ctx context.Context) (context.Context, context.CancelFunc) {
	noAnswer := func(within time.Duration) error {
		return &Error{Kind: ErrSource, Err: fmt.Errorf("no answer within %v", within)}
	}
	out, cancel := context.WithTimeoutCause(context.WithoutCancel(ctx), releaseTimeout, noAnswer(releaseTimeout))
	out, late := context.WithCancelCause(out)
	stop := context.AfterFunc(ctx, func() {
		time.AfterFunc(interruptedRelease, func() { late(noAnswer(interruptedRelease)) })
	})
	return out, func() {
		stop()
		late(nil)
		cancel()
	}
}
