package dynamodb

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/dyn2raft/dyn2raft/copier"
	"github.com/dyn2raft/dyn2raft/sources/dynamodb/dynamotest"
)

// TestTake takes a table from Vaults that serve.
func TestTake(t *testing.T) {
	for name, c := range map[string]struct {
		opts   []func(*Options)
		before *vaultLease
		// then is what happens once Take waits. It returns from when on nobody holds the table,
		// or, where it is held, from when on an earlier holder may not know that it is not its own.
		then  func(e *env) time.Time
		holds bool // and it is held before Take returns
		waits string
	}{
		"given back": {before: &vaultLease{"v1", time.Hour, nil}, waits: "leader-v1", then: func(e *env) time.Time {
			time.Sleep(3 * e.timing.watch / 4)
			e.del(leaderLockKey)
			return time.Now()
		}},
		"renewed for long, then given back": {before: &vaultLease{"v1", time.Hour, nil}, waits: "leader-v1", then: func(e *env) time.Time {
			for range 40 {
				time.Sleep(e.timing.renew)
				e.put(vaultLease{"v1", e.timing.lease, nil}.item())
			}
			e.del(leaderLockKey)
			return time.Now()
		}},
		"a standby that is quicker": {before: &vaultLease{"v1", time.Hour, nil}, holds: true, waits: "leader-v2", then: func(e *env) time.Time {
			e.put(vaultLease{"v2", time.Hour, nil}.item()) // nobody saw that the first one gave it back
			at := time.Now()
			time.Sleep(4 * e.timing.poll)
			e.del(leaderLockKey)
			return at
		}},
		"a standby, and long after that": {before: &vaultLease{"v1", time.Hour, nil}, waits: "leader-v2", then: func(e *env) time.Time {
			e.put(vaultLease{"v2", time.Hour, nil}.item())
			time.Sleep(2 * e.timing.hold)
			e.del(leaderLockKey)
			return time.Now()
		}},
		"killed": {before: &vaultLease{"v1", 300 * time.Millisecond, nil}, holds: true, waits: "leader-v1", then: func(e *env) time.Time {
			return time.Now().Add(300 * time.Millisecond)
		}},
		"expired, then removed": {opts: opts(ha), before: &vaultLease{"v1", -time.Hour, nil}, holds: true, waits: "leader-v1", then: func(e *env) time.Time {
			time.Sleep(4 * e.timing.poll)
			e.del(leaderLockKey)
			return time.Now()
		}},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T) {
				e := bubbleEnv(t, dynamotest.Options{})
				e.leader(c.before)
				s, _ := e.source(c.opts...)
				turns := make(chan copier.Turn, 1000)
				type taken struct {
					lease copier.Lease
					err   error
					at    time.Time
				}
				done := make(chan taken, 1)
				go func() {
					lease, err := s.Take(e.Context(), "run-1", func(turn copier.Turn) { turns <- turn }, func(err error) { e.Error(err) })
					done <- taken{lease, err, time.Now()}
				}()
				<-turns
				free := c.then(e)
				got := <-done
				e.ok(got.err)
				e.held("run-1")
				e.ok(got.lease.Check(e.Context()))
				if took := got.at.Sub(free); c.holds && took < e.timing.hold || !c.holds && took > 2*e.timing.poll || took < 0 {
					e.Errorf("it was taken %v after it could be", took)
				}
				waited := ""
				for len(turns) > 0 {
					waited += (<-turns).Holder + " "
				}
				if c.waits != "leader-v1" && !strings.Contains(waited, c.waits) {
					e.Errorf("it waited for %q", waited)
				}
				e.ok(got.lease.Release(e.Context(), copier.EndFailed))
				if e.get(migrationLockKey) != nil {
					e.Error("the entry core/migration is still there")
				}
			})
		})
	}
}

// TestTakeSecond: who waits for a table takes nothing from a copy that has closed it, though
// nobody renews that lock any more.
func TestTakeSecond(t *testing.T) {
	for name, both := range map[string]bool{"with core/migration": true, "without": false} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T) {
				e := bubbleEnv(t, dynamotest.Options{})
				e.leader(&vaultLease{"v1", time.Hour, nil})
				s, _ := e.source(ha)
				waits, done := make(chan copier.Turn, 1000), make(chan error, 1)
				go func() {
					_, err := s.Take(e.Context(), "run-2", func(turn copier.Turn) { waits <- turn }, func(error) {})
					done <- err
				}()
				<-waits
				closed := vaultLease{"v1", closedFor, attrs{"Value": bin(holderPrefix + "run-1"), "Identity": bin("run-1")}}.item()
				e.put(closed)
				if both {
					e.put(entry(bin(strings.ReplaceAll(parked, "run-0", "run-1")))...)
				}
				if err := <-done; !errors.Is(err, copier.ErrLocked) {
					e.Errorf("it was taken: %v", err)
				} else if code, facts := copier.CodeOf(err); code != LockedByCopy || facts["run"] != "run-1" {
					e.Errorf("%v", err)
				}
				if l := leaderLock(e.get(leaderLockKey)); !l.held([]byte("run-1")) || !l.closed() {
					e.Errorf("its lock is %s", show(l))
				}
			})
		})
	}
}

// TestTakeAgain: a table that was given back can be taken again, also by another process.
// One that is complete stays closed until it is reset.
func TestTakeAgain(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		e := bubbleEnv(t, dynamotest.Options{})
		s, _ := e.source(ha)
		take := func(run string) copier.Lease {
			lease, err := s.Take(e.Context(), run, func(copier.Turn) {}, func(error) {})
			e.ok(err)
			return lease
		}
		for range 3 {
			lease := take("run-1")
			e.held("run-1")
			e.ok(lease.Release(e.Context(), copier.EndFailed))
			e.unlocked(nil)
		}
		lease := take("run-1")
		e.ok(lease.Check(e.Context()))
		time.Sleep(10 * e.timing.renew)
		if !leaderLock(e.get(leaderLockKey)).closed() {
			t.Errorf("behind Check the leader lock is %v", e.get(leaderLockKey))
		}
		e.ok(lease.Release(e.Context(), copier.EndComplete))
		ok, err := e.tryVaultLock("v1")
		e.ok(err)
		if ok || e.get(migrationLockKey) == nil {
			t.Error("a Vault can take the table")
		}
		closed := func(run string, want bool, where string) {
			t.Helper()
			if got, what, err := s.Closed(e.Context(), run); got != want || what != where || err != nil {
				t.Errorf("closed by %s: %t, %q, %v", run, got, what, err)
			}
		}
		closed("run-1", true, "")
		closed("run-2", false, leaderLock(e.get(leaderLockKey)).holder()+", has the lock core/_lock")
		again, err := s.Lock(e.Context(), "run-1", true, func(error) {}) // by a process that confirms it
		e.ok(err)
		e.ok(again.Release(e.Context(), copier.EndComplete))
		if !leaderLock(e.get(leaderLockKey)).closed() {
			t.Errorf("the leader lock is %v", e.get(leaderLockKey))
		}
		e.ok(s.Unlock(e.Context(), "run-1", copier.EndComplete))
		if !leaderLock(e.get(leaderLockKey)).closed() || e.get(migrationLockKey) == nil {
			t.Error("Unlock of what is complete has opened the table")
		}
		_, err = s.Reset(e.Context())
		e.ok(err)
		closed("run-1", false, "nobody has the lock core/_lock")
		e.unlocked(nil)
	})
}

// TestTakeEnds: a Take that ends before it has the table leaves it as it was.
func TestTakeEnds(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		e := bubbleEnv(t, dynamotest.Options{})
		was := e.leader(&vaultLease{"v1", time.Hour, nil})
		s, _ := e.source(ha)
		ctx, cancel := context.WithCancel(e.Context())
		lease, err := s.Take(ctx, "run-1", func(copier.Turn) { cancel() }, func(error) {})
		if !errors.Is(err, context.Canceled) || lease != nil {
			t.Errorf("a lease %v, and error is %v", lease, err)
		}
		e.unlocked(was)
		e.put(entry(bin(`{"start":"2026-03-01T02:03:04Z"}`))[0])
		_, err = s.Take(e.Context(), "run-1", func(copier.Turn) {}, func(error) {})
		wantError(t, err, ErrMigrationLock, "vault operator migrate", LockedByMigration)
	})
}
