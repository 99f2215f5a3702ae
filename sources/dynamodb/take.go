package dynamodb

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"time"

	"github.com/dyn2raft/dyn2raft/copier"
)

// closedFor is for how long a table is closed to its Vaults: longer than any of them
// will wait for its lock.
const closedFor = 20 * 365 * 24 * time.Hour

// closed reports whether the lock is that of a run that has closed the table.
func (l leaderLock) closed() bool {
	_, ours := l.run()
	t, ok := l.expiry()
	return ours && ok && time.Until(t) > closedFor/2
}

// closedTo returns an error where another run than the given one has closed the table. It
// is complete, and nobody renews that lock.
func (l leaderLock) closedTo(runID string) error {
	id, dyn2raft := l.run()
	if !dyn2raft || id == runID || !l.closed() {
		return nil
	}
	return &copier.Error{Kind: copier.ErrLocked, Op: "take the leader lock", Code: LockedByCopy, Facts: map[string]string{"run": id},
		Err: fmt.Errorf("%w: dyn2raft run %s has closed the table to its Vaults", copier.ErrLocked, shown(id))}
}

// mayTake returns an error where Take would refuse the table whatever its Vaults do.
func (s *Source) mayTake(ctx context.Context, runID string) error {
	if err := (&lease{s: s, run: runID, live: true}).findMigration(ctx); err != nil {
		return err
	}
	leader, err := s.readLeader(ctx, request{})
	if err != nil {
		return err
	}
	return leader.closedTo(runID)
}

// Closed reports whether the table is as the run that took it has left it, with
// [copier.EndComplete]: closed to Vaults, by the run's own locks. where says what is there
// instead where it is not.
func (s *Source) Closed(ctx context.Context, runID string) (closed bool, where string, err error) {
	leader, err := s.readLeader(ctx, request{})
	if err != nil {
		return false, "", err
	}
	m, err := s.readMigration(ctx, request{})
	switch {
	case err != nil:
		return false, "", err
	case leader == nil:
		return false, "nobody has the lock " + leaderLockKey, nil
	case !leader.held([]byte(runID)) || !leader.closed():
		return false, leader.holder() + ", has the lock " + leaderLockKey, nil
	case m == nil:
		return false, "the entry " + migrationLockKey + " is not there", nil
	case !m.of(runID):
		return false, "the entry " + migrationLockKey + " is that of " + m.holder(), nil
	}
	return true, "", nil
}

// Take implements [copier.Taker]. It looks at the leader lock several times a second. One
// that its holder has removed is taken at once: a Vault that stops, or steps down,
// writes nothing after that. Where a standby is quicker, it waits for that one.
//
// One that was not renewed for so long that it must have expired proves nothing: its
// holder may be paused, and write when it wakes up, until it looks at the lock. It is
// taken, and held for 30 s before Take returns. So it is where one holder came behind
// another, and nobody saw the first one give the lock back.
//
// The entry core/migration is put behind the leader lock, since a Vault that is started
// while its table is followed would refuse it. A lease that ends with
// [copier.EndComplete] leaves both, and the leader lock expires in some years: no standby
// that was forgotten becomes active.
func (s *Source) Take(ctx context.Context, runID string, waiting func(copier.Turn), lost func(error)) (copier.Lease, error) {
	l := &lease{s: s, run: runID, identity: []byte(runID), lost: lost, live: true}
	after, cancel := outlive(ctx, giveUpTime)
	defer cancel()
	if err := l.findMigration(ctx); err != nil {
		return nil, err
	}
	if err := l.takeTurn(ctx, waiting); err != nil {
		return nil, l.giveUp(after, err)
	}
	return l, nil
}

// takeTurn waits for the leader lock, and takes it and the migration lock.
func (l *lease) takeTurn(ctx context.Context, waiting func(copier.Turn)) error {
	w := waiter{l: l, tell: waiting}
	for {
		now, err := l.s.readLeader(ctx, request{})
		if err != nil {
			return err
		}
		ready, err := w.see(ctx, now)
		if err != nil {
			return err
		}
		if ready {
			l.found, l.left = now, nil
			if id, dyn2raft := now.run(); dyn2raft {
				l.found = now.found()
				if id != l.run {
					l.left = now
				}
			}
			if l.migration != ours { // somebody may have come first, and left both
				if err := l.findMigration(ctx); err != nil {
					return err
				}
			}
			err := l.takeLeader(ctx, now)
			if err == nil {
				break
			}
			if l.leader != free || !errors.Is(err, ErrVaultRunning) {
				return err
			}
			continue // somebody was quicker
		}
		if err := sleep(ctx, l.s.timing.poll); err != nil {
			return err
		}
	}
	l.startRenewing(ctx)
	l.s.paths.open.Store(true)
	l.s.capacity.open.Store(l.s.opts.ReadCapacity == 0 && l.s.capacity.adapts) // what is read now, Vaults wait for
	if l.migration != ours {
		if err := l.takeMigration(ctx); err != nil {
			return err
		}
	}
	if left := time.Until(w.until); left > 0 {
		w.say(copier.Turn{Until: w.until})
		return sleep(ctx, left)
	}
	return nil
}

// A waiter judges what it sees of the leader lock.
type waiter struct {
	l    *lease
	tell func(copier.Turn)
	said *copier.Turn

	began bool
	was   leaderLock // as it was read last
	since time.Time  // since when it is so
	// until is until when an earlier holder may write that has not given it back.
	until time.Time
}

func (w *waiter) say(t copier.Turn) {
	if w.said == nil || *w.said != t {
		w.said = &t
		w.tell(t)
	}
}

// see reports whether the lock can be taken.
func (w *waiter) see(ctx context.Context, now leaderLock) (ready bool, err error) {
	s, first, was := w.l.s, !w.began, w.was
	t := s.timing
	if first || !now.sameAs(was) {
		w.since = time.Now()
	}
	w.began, w.was = true, now
	if first && (now == nil || now.expired()) && w.l.migration != ours {
		found := now
		if _, dyn2raft := now.run(); dyn2raft {
			found = now.found()
		}
		doubt, err := s.doubt(ctx, request{}, found)
		if err == nil {
			err = s.askStopped(ctx, doubt)
		}
		if err != nil {
			return false, err
		}
	}
	if err := now.closedTo(w.l.run); err != nil {
		return false, err
	}
	id, dyn2raft := now.run()
	switch {
	case now == nil && was != nil && was.expired():
		w.until = time.Now().Add(t.hold) // somebody removed it, who need not be its holder
		return true, nil
	case now == nil:
		return true, nil
	case !first && dyn2raft && id == w.l.run && !now.sameAs(was):
		w.l.leader, w.l.migration = free, free // a live process has both: not to be given back
		return false, s.locked("take the leader lock", CopyRuns, fmt.Errorf("dyn2raft run %s holds it, and renews it", shown(id)))
	case was != nil && !reflect.DeepEqual(was[attrIdentity], now[attrIdentity]):
		w.until = time.Now().Add(t.hold)
	}
	turn := copier.Turn{Holder: now.holder(), Expired: now.expired()}
	watch := t.watch
	if dyn2raft {
		turn.Holder = holderPrefix + shown(id)
	} else {
		turn.Holder = fmt.Sprintf("the Vault with leader id %q", binaryOf(now[attrValue])) // its expiry changes
	}
	if turn.Expired { // by our clock, which may be ahead: two renewals are enough to see
		watch = min(watch, 2*t.renew+t.retry)
		turn.Until = w.since.Add(watch)
	}
	w.say(turn)
	if time.Since(w.since) < watch {
		return false, nil
	}
	w.until = time.Now().Add(t.hold)
	return true, nil
}

// close lets the leader lock expire in some years, on the condition that it is ours.
func (l *lease) close(ctx context.Context) error {
	l.closed.Store(true)
	_, got, err := l.renew(ctx)
	if got.refused {
		return l.s.lostLeader(got.there)
	}
	return err
}
