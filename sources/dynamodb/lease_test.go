package dynamodb

import (
	"errors"
	"reflect"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/dyn2raft/dyn2raft/copier"
	"github.com/dyn2raft/dyn2raft/sources/dynamodb/dynamotest"
)

// TestLease changes the locks of a run, and asks what Check and Release say of it.
func TestLease(t *testing.T) {
	vault, peer := &vaultLease{"v2", time.Hour, nil}, entry(bin(`{"start":"2026-03-01T02:03:04Z"}`))[0]
	cases := map[string]func(*env){}
	for name, c := range map[string]struct {
		check, release string // what they say; "" is no error
		code           copier.Code
		lost           bool // it is noticed without a Check
		stays          bool // the entry of the run, after Release

		end               copier.End
		leader, migration func(e *env, now attrs) attrs // what becomes of them
	}{
		"as it was":                     {leader: same, migration: same},
		"leader removed":                {check: "core/_lock was removed", release: "core/_lock", code: VaultRuns, lost: true, leader: gone, migration: same},
		"leader a Vault's":              {check: "leader-v2", release: "leader-v2", code: VaultRuns, lost: true, leader: becomes(vault), migration: same},
		"entry removed":                 {check: "migration lock", release: "migration lock", code: LockRemoved, leader: same, migration: gone},
		"entry the peer's":              {check: "migration lock", release: "migration lock", code: LockRemoved, leader: same, migration: becomesItem(peer)},
		"complete":                      {end: copier.EndComplete, leader: same, migration: same},
		"complete and leader a Vault's": {check: "leader-v2", release: "leader-v2", code: VaultRuns, lost: true, stays: true, end: copier.EndComplete, leader: becomes(vault), migration: same},
		"complete and entry removed":    {check: "migration lock", release: "migration lock", code: LockRemoved, end: copier.EndComplete, leader: same, migration: gone},
		"unfinished":                    {stays: true, end: copier.EndUnfinished, leader: same, migration: same},
	} {
		cases[name] = func(e *env) {
			s, _ := e.source(ha)
			h := e.lock(s, "run-1")
			e.ok(h.Check(e.Context()))
			ours := e.get("core/migration")
			leader, migration := e.become("core/_lock", c.leader), e.become("core/migration", c.migration)
			if c.lost {
				select {
				case err := <-h.lost:
					wantError(e, err, ErrVaultRunning, c.check, c.code)
				case <-time.After(2 * time.Minute):
					e.Fatal("the loss was not noticed")
				}
			}
			if err := h.Check(e.Context()); c.check == "" {
				e.ok(err)
			} else {
				wantError(e, err, copier.ErrLocked, c.check, c.code)
				wantError(e, err, copier.ErrMoved, c.check, c.code)
			}
			time.Sleep(3 * e.timing.renew)
			if len(h.lost) != 0 {
				e.Errorf("lost was called again: %v", <-h.lost)
			}
			err := h.Release(e.Context(), c.end)
			if c.release == "" {
				e.ok(err)
			} else {
				wantError(e, err, copier.ErrMoved, c.release, c.code)
				wantError(e, err, copier.ErrLocked, c.release, c.code)
			}
			if errors.Is(err, copier.ErrNotReleased) {
				e.Errorf("error is %v", err)
			}
			switch {
			case c.end == copier.EndUnfinished:
				e.held("run-1")
			case reflect.ValueOf(c.leader).Pointer() == reflect.ValueOf(same).Pointer():
				e.leaderIs(nil)
			default:
				e.leaderIs(leader)
			}
			if !c.stays && reflect.DeepEqual(migration, ours) {
				migration = nil
			}
			if got := e.get("core/migration"); !reflect.DeepEqual(got, migration) {
				e.Errorf("the migration lock is now %v, expected %v", got, migration)
			}
		}
	}
	eachServer(t, cases)
}

// TestCheckRenews the leader lock, and leaves the entry as it is.
func TestCheckRenews(t *testing.T) { onEach(t, checkRenews) }

func checkRenews(e *env) {
	s, _ := e.source(ha)
	h := e.lock(s, "run-1")
	h.kill()
	before, migration := e.get("core/_lock"), e.get("core/migration")
	e.ok(sleep(e.Context(), time.Millisecond)) // in a bubble nothing else takes time
	e.ok(h.Check(e.Context()))
	if reflect.DeepEqual(e.get("core/_lock"), before) {
		e.Error("the leader lock was not renewed")
	}
	if got := e.get("core/migration"); !reflect.DeepEqual(got, migration) {
		e.Errorf("the migration lock is now %v", got)
	}
	e.ok(h.Release(e.Context(), copier.EndComplete))
	e.unlocked(nil)
}

// TestKeepLocked: a complete copy leaves the entry, where that is wanted.
func TestKeepLocked(t *testing.T) { onEach(t, keepsLocked) }

func keepsLocked(e *env) {
	was := e.leader(&vaultLease{"v1", -time.Hour, nil})
	s, _ := e.source(keepLocked)
	e.ok(e.lock(s, "run-1").Release(e.Context(), copier.EndFailed))
	e.unlocked(was)
	e.ok(e.lock(s, "run-2").Release(e.Context(), copier.EndComplete))
	e.leaderIs(was)
	if m := e.get("core/migration"); !strings.Contains(string(binaryOf(m["Value"])), "run-2") {
		e.Errorf("the migration lock is %v", m)
	}
}

// TestCompetitor: while a run holds the lock no Vault becomes leader, and then one does.
func TestCompetitor(t *testing.T) { onEach(t, competitor) }

func competitor(e *env) {
	s, _ := e.source(ha)
	h := e.lock(s, "run-1")
	var tries, wins atomic.Int64
	stop := every(e.timing.retry, func() {
		ok, err := e.tryVaultLock("v1")
		if err != nil {
			e.Error(err)
		}
		if ok {
			wins.Add(1)
		}
		tries.Add(1)
	})
	defer stop()
	time.Sleep(e.timing.lease * 3 / 2)
	e.eventually("tries", func() bool { return tries.Load() > 5 })
	if wins.Load() != 0 {
		e.Errorf("a Vault became leader %d times", wins.Load())
	}
	e.ok(h.Check(e.Context()))
	e.ok(h.Release(e.Context(), copier.EndComplete))
	e.eventually("the Vault to become leader", func() bool { return wins.Load() > 0 })
	stop()
	if len(h.lost) != 0 {
		e.Errorf("lost: %v", <-h.lost)
	}
}

// TestLostAnswers: a write that took effect and whose answer never came is
// recognized as ours.
func TestLostAnswers(t *testing.T) { inBubble(t, lostAnswers) }

func lostAnswers(t *testing.T) {
	for _, kind := range []dynamotest.FaultKind{dynamotest.ResetMidBody, dynamotest.Truncate, dynamotest.WrongCRC} {
		for _, l := range []*vaultLease{nil, {"v1", -time.Hour, nil}} {
			e := bubbleEnv(t, dynamotest.Options{})
			was := e.leader(l)
			fs := []*dynamotest.Fault{
				{Kind: kind, Operation: "PutItem", Count: 1},
				{Kind: kind, Operation: "UpdateItem", Count: 1},
				{Kind: kind, Operation: "GetItem", Count: 1},
				{Kind: kind, Operation: "DeleteItem", Count: 1},
			}
			e.srv.SetFaults(fs...)
			s, _ := e.source(ha)
			h := e.lock(s, "run-1")
			e.held("run-1")
			e.ok(h.Check(t.Context()))
			e.ok(h.Release(t.Context(), copier.EndComplete))
			e.unlocked(was)
			for _, f := range fs {
				if f.Fired() != 1 {
					t.Errorf("%s of %s fired %d times", kind, f.Operation, f.Fired())
				}
			}
		}
	}
}

// TestAnswersLostForGood: each answer to a write is lost, so that Lock fails
// without knowing what it has taken.
func TestAnswersLostForGood(t *testing.T) { inBubble(t, answersLostForGood) }

func answersLostForGood(t *testing.T) {
	for _, operation := range []string{"PutItem", "UpdateItem"} {
		e := bubbleEnv(t, dynamotest.Options{})
		fault := &dynamotest.Fault{Kind: dynamotest.Truncate, Operation: operation, Count: 2}
		e.srv.SetFaults(fault)
		s, _ := e.source(ha, retries(1))
		if _, err := e.tryLock(t.Context(), s, "run-1"); !errors.Is(err, copier.ErrSource) || fault.Fired() != 2 {
			t.Errorf("%s: error %v, the fault fired %d times", operation, err, fault.Fired())
		}
		e.unlocked(nil)
	}
}

func TestReleaseFails(t *testing.T) { inBubble(t, releaseFails) }

func releaseFails(t *testing.T) {
	for _, l := range []*vaultLease{nil, {"v1", -time.Hour, nil}} {
		e := bubbleEnv(t, dynamotest.Options{})
		was := e.leader(l)
		s, _ := e.source(ha, retries(1))
		h := e.lock(s, "run-1")
		e.srv.SetFaults(&dynamotest.Fault{Kind: dynamotest.InternalServerError})
		err := h.Release(t.Context(), copier.EndComplete)
		wantError(t, err, copier.ErrSource, "release the locks in table vault", LocksLeft)
		wantError(t, err, copier.ErrNotReleased, "", "")
		e.srv.SetFaults()
		freed, err := s.Reset(t.Context())
		e.ok(err)
		if len(freed) != 2 {
			t.Errorf("freed %q", freed)
		}
		e.unlocked(was)
	}
}

// TestRenewalFails: a table that throttles, and then does not, costs warnings
// only, and no renewal that comes late writes an expiry that is stale.
func TestRenewalFails(t *testing.T) {
	t.Parallel()
	for name, tell := range map[string]time.Duration{"each told": 0, "told once": time.Minute} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T) { renewalFails(t, tell) })
		})
	}
}

func renewalFails(t *testing.T, tell time.Duration) {
	e := bubbleEnv(t, dynamotest.Options{})
	e.timing.lease, e.timing.tell = 6*time.Second, tell
	s, rec := e.source(ha, retries(1000))
	h := e.lock(s, "run-1")
	fault := &dynamotest.Fault{Kind: dynamotest.ThroughputExceeded, Operation: "UpdateItem"}
	e.srv.SetFaults(fault)
	before := e.get("core/_lock")["Expires"]
	time.Sleep(3 * time.Second)
	e.eventually("warnings", func() bool {
		return len(eventsOf[copier.Warning](rec)) >= 2-int(tell/time.Minute) && fault.Fired() >= 10
	})
	warnings := eventsOf[copier.Warning](rec)
	if tell > 0 && len(warnings) != 1 {
		t.Errorf("%d warnings, expected one", len(warnings))
	}
	for _, w := range warnings {
		if !strings.HasPrefix(w.Message, "the leader lock could not be renewed") || strings.Contains(w.Message, "operation error") {
			t.Errorf("warning %q", w.Message)
		}
	}
	e.srv.SetFaults()
	e.eventually("a renewal", func() bool { return !reflect.DeepEqual(e.get("core/_lock")["Expires"], before) })
	expiry, ok := leaderLock(e.get("core/_lock")).expiry()
	if left := time.Until(expiry); !ok || left < e.timing.lease-1500*time.Millisecond {
		t.Errorf("the late renewal is good for %v only", left)
	}
	e.ok(h.Check(t.Context()))
	if len(h.lost) != 0 {
		t.Errorf("lost: %v", <-h.lost)
	}
	e.ok(h.Release(t.Context(), copier.EndComplete))
	e.unlocked(nil)
}

// TestLateAnswers: the answer to a renewal that comes late, by a clock that goes
// on while the machine sleeps, is not relied on; one that comes in time is.
func TestLateAnswers(t *testing.T) {
	t.Parallel()
	for late, want := range map[int]error{0: nil, 2: nil, 3: ErrLate} {
		e := newEnv(t)
		s, _ := e.source(ha)
		h := e.lock(s, "run-1")
		h.kill()
		var clock time.Duration
		asked := 0
		s.boot = func() time.Duration {
			if asked++; asked%2 == 0 && asked/2 <= late { // behind the answer
				clock += s.timing.late
			}
			return clock
		}
		if err := h.Check(t.Context()); !errors.Is(err, want) || want == nil && err != nil {
			t.Errorf("%d late answers: %v", late, err)
		}
		e.ok(h.Release(t.Context(), copier.EndComplete))
		e.unlocked(nil)
	}
}

// TestClockBehind: where this machine's clock is behind the service's, as that of
// a virtual machine that was paused may be, a lock that is renewed is good for a
// whole lease all the same.
func TestClockBehind(t *testing.T) {
	t.Parallel()
	const behind = 10 * time.Minute
	srv := dynamotest.NewServer(dynamotest.Options{Clock: behind})
	t.Cleanup(srv.Close)
	e := &env{T: t, url: srv.URL, table: "vault", srv: srv, db: srv.Client(), timing: shortTiming}
	e.ok(srv.CreateVaultTable(e.table))
	s, _ := e.source(ha)
	h := e.lock(s, "run-1")
	e.ok(h.Check(t.Context()))
	expiry, ok := leaderLock(e.get("core/_lock")).expiry()
	if left := time.Until(expiry) - behind; !ok || left < s.timing.lease-2*time.Second || left > s.timing.lease {
		t.Errorf("by the service's clock the lock is good for %v", left)
	}
	e.ok(h.Release(t.Context(), copier.EndComplete))
	e.unlocked(nil)
}

// TestReset: not under a running copy, and of a dead one both locks.
func TestReset(t *testing.T) { onEach(t, reset) }

func reset(e *env) {
	s, _ := e.source(ha)
	for _, l := range []*vaultLease{nil, {"v1", -time.Hour, attrs{"ttl": num(17)}}, {"v1", -time.Hour, attrs{"Identity": nil}}} {
		was := e.leader(l)
		h := e.lock(s, "run-1")
		freed, err := s.Reset(e.Context())
		wantError(e, err, copier.ErrLocked, "run-1", CopyRuns)
		if freed != nil {
			e.Errorf("freed %q under the running copy", freed)
		}
		e.ok(h.Check(e.Context()))
		h.kill()
		freed, err = s.Reset(e.Context()) // the lock has not expired yet: it is watched
		e.ok(err)
		if !reflect.DeepEqual(freed, []string{"core/_lock", "core/migration"}) {
			e.Errorf("freed %q", freed)
		}
		e.unlocked(was)
		freed, err = s.Reset(e.Context())
		e.ok(err)
		if len(freed) != 0 {
			e.Errorf("freed %q where nothing was locked", freed)
		}
		e.unlocked(was)
		wantError(e, h.Release(e.Context(), copier.EndFailed), copier.ErrMoved, "core/_lock", "") // it comes back from the dead
		e.unlocked(was)
	}
}

// TestResetOfOthers: whoever's the entry is goes, and a Vault's leader lock stays.
func TestResetOfOthers(t *testing.T) { onEach(t, resetOfOthers) }

func resetOfOthers(e *env) {
	leader := vaultLease{"v1", -time.Hour, nil}.item()
	e.put(leader, with("core", "migration", attrs{"Value": bin(`{"start":"2026-03-01T02:03:04Z"}`)}))
	s, _ := e.source()
	freed, err := s.Reset(e.Context())
	e.ok(err)
	if !reflect.DeepEqual(freed, []string{"core/migration"}) {
		e.Errorf("freed %q", freed)
	}
	e.unlocked(leader)
}

// TestDeadRun: a Vault may take its lock when the lease is over.
func TestDeadRun(t *testing.T) { onEach(t, deadRun) }

func deadRun(e *env) {
	s, _ := e.source()
	e.put(vaultLease{"v1", -time.Hour, nil}.item())
	h := e.lock(s, "run-1")
	h.kill()
	e.eventually("the lease to end", func() bool {
		ok, err := e.tryVaultLock("v2")
		e.ok(err)
		return ok
	})
	before := e.get("core/_lock")
	wantError(e, h.Check(e.Context()), ErrVaultRunning, "leader-v2", "")
	freed, err := s.Reset(e.Context())
	e.ok(err)
	if !reflect.DeepEqual(freed, []string{"core/migration"}) {
		e.Errorf("freed %q", freed)
	}
	e.unlocked(before)
}

// TestRunAfterDeadOne, whose entry `vault operator migrate -reset` removed.
func TestRunAfterDeadOne(t *testing.T) { onEach(t, runAfterDeadOne) }

func runAfterDeadOne(e *env) {
	was := e.leader(&vaultLease{"v1", -time.Hour, nil})
	s, _ := e.source()
	e.lock(s, "run-1").kill()
	e.del("core/migration")
	h := e.lock(s, "run-2")
	e.held("run-2")
	e.ok(h.Release(e.Context(), copier.EndComplete))
	e.unlocked(was)
}

// TestUnlockAsRelease: it leaves what Release would.
func TestUnlockAsRelease(t *testing.T) { onEach(t, unlockAsRelease) }

func unlockAsRelease(e *env) {
	s, _ := e.source(ha, keepLocked)
	e.ok(e.lock(s, "run-1").Release(e.Context(), copier.EndUnfinished))
	e.ok(s.Unlock(e.Context(), "run-1", copier.EndUnfinished))
	e.held("run-1")
	e.ok(s.Unlock(e.Context(), "run-1", copier.EndComplete))
	e.leaderIs(nil)
	if e.get("core/migration") == nil {
		e.Error("the migration lock was not kept")
	}
	e.ok(s.Unlock(e.Context(), "run-1", copier.EndFailed))
	e.unlocked(nil)
}

// TestUnlock gives back what a run has left, and nothing of others.
func TestUnlock(t *testing.T) { onEach(t, unlock) }

func unlock(e *env) {
	for _, l := range []*vaultLease{nil, {"v1", -time.Hour, attrs{"ttl": num(17)}}} {
		was := e.leader(l)
		s, _ := e.source(ha)
		e.ok(s.Unlock(e.Context(), "run-1", copier.EndFailed)) // there is none
		e.unlocked(was)
		e.ok(e.lock(s, "run-1").Release(e.Context(), copier.EndUnfinished))
		for _, other := range []string{"run-2", "", "run"} {
			e.ok(s.Unlock(e.Context(), other, copier.EndFailed))
			e.held("run-1")
		}
		e.ok(s.Unlock(e.Context(), "run-1", copier.EndFailed))
		e.unlocked(was)
	}
	peer := with("core", "migration", attrs{"Value": bin(`{"start":"2026-03-01T02:03:04Z"}`)})
	e.put(peer)
	vault := e.get("core/_lock")
	s, _ := e.source()
	for _, run := range []string{"run-1", ""} {
		e.ok(s.Unlock(e.Context(), run, copier.EndFailed))
		e.leaderIs(vault)
		if got := e.get("core/migration"); !reflect.DeepEqual(got, peer) {
			e.Errorf("the migration lock is now %v", got)
		}
	}
}

func TestUnlockFails(t *testing.T) { inBubble(t, unlockFails) }

func unlockFails(t *testing.T) {
	e := bubbleEnv(t, dynamotest.Options{})
	s, _ := e.source(ha, retries(1))
	e.ok(e.lock(s, "run-1").Release(t.Context(), copier.EndUnfinished))
	for _, operation := range []string{"GetItem", "DeleteItem"} {
		e.srv.SetFaults(&dynamotest.Fault{Kind: dynamotest.InternalServerError, Operation: operation})
		wantError(t, s.Unlock(t.Context(), "run-1", copier.EndFailed), copier.ErrSource, "release the locks in table vault", LocksLeft)
		e.held("run-1")
	}
	e.srv.SetFaults()
	e.ok(s.Unlock(t.Context(), "run-1", copier.EndFailed))
	e.unlocked(nil)
}
