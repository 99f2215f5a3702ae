package dynamodb

import (
	"errors"
	"net/http"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/dyn2raft/dyn2raft/copier"
	"github.com/dyn2raft/dyn2raft/sources/dynamodb/dynamotest"
)

// TestLockAgain: a run that is resumed takes its locks only as it has left them.
func TestLockAgain(t *testing.T) {
	vault, oldVault := &vaultLease{"v2", time.Hour, nil}, &vaultLease{"v2", 0, attrs{"Identity": nil}}
	other := &vaultLease{"run-2", 0, attrs{"Value": bin("dyn2raft run run-2")}}
	cases := map[string]func(*env){}
	for name, c := range map[string]struct {
		says              []string                      // why not
		migration, leader func(e *env, now attrs) attrs // what becomes of the locks
	}{
		"both gone":                {[]string{"the entry core/migration is gone", "the lock core/_lock is gone"}, gone, gone},
		"entry gone":               {[]string{"the entry core/migration is gone"}, gone, same},
		"leader gone":              {[]string{"the lock core/_lock is gone"}, same, gone},
		"leader a Vault's":         {[]string{`core/_lock was taken by the Vault with leader id "leader-v2"`}, same, becomes(vault)},
		"leader an old Vault's":    {[]string{"taken by the Vault"}, same, becomes(oldVault)},
		"leader of another run":    {[]string{"core/_lock was taken by dyn2raft run run-2"}, same, becomes(other)},
		"entry of another run":     {[]string{"core/migration was put by dyn2raft run run-2 on there at 2026-03-01T02:03:04Z"}, becomesEntry(`{"start":"2026-03-01T02:03:04Z","dyn2raft_run":"run-2","dyn2raft_host":"there"}`), same},
		"entry of the peer":        {[]string{"core/migration was put by `vault operator migrate` at 2026-03-01T02:03:04Z"}, becomesEntry(`{"start":"2026-03-01T02:03:04Z"}`), same},
		"entry that can't be read": {[]string{"core/migration was put by somebody unknown"}, becomesEntry("{"), same},
	} {
		cases[name] = func(e *env) {
			s, _ := e.source(ha)
			e.ok(e.lock(s, "run-1").Release(e.Context(), copier.EndUnfinished))
			migration, leader := e.become("core/migration", c.migration), e.become("core/_lock", c.leader)
			_, err := e.tryAgain(e.Context(), s, "run-1", true)
			for _, says := range c.says {
				wantError(e, err, copier.ErrLocked, says, LocksLost)
				wantError(e, err, copier.ErrMoved, "", LocksLost)
			}
			if len(c.says) == 1 && strings.Contains(err.Error(), ", and ") {
				e.Errorf("error %q says too much", err)
			}
			e.leaderIs(leader)
			if got := e.get("core/migration"); !reflect.DeepEqual(got, migration) {
				e.Errorf("the migration lock is now %v", got)
			}
		}
	}
	eachServer(t, cases)
}

// TestResumed: nobody is asked or waited for again, and the locks are renewed.
func TestResumed(t *testing.T) { onEach(t, resumed) }

func resumed(e *env) {
	for _, l := range []*vaultLease{nil, {"v1", -time.Hour, attrs{"ttl": num(17)}}} {
		was := e.leader(l)
		s, _ := e.source(ha)
		e.ok(e.lock(s, "run-1").Release(e.Context(), copier.EndUnfinished))
		time.Sleep(2 * e.timing.renew) // a renewal that was cut off may reach the table late
		migration, leader := e.get("core/migration"), e.get("core/_lock")
		e.held("run-1")
		time.Sleep(3 * e.timing.renew)
		e.leaderIs(leader) // it is not renewed any more

		s, rec := e.source(stopped(false, errors.New("nobody is to be asked")))
		h, err := e.tryAgain(e.Context(), s, "run-1", true)
		e.ok(err)
		if w := locksAwaited(rec); len(w) != 0 {
			e.Errorf("it waited: %+v", w)
		}
		e.held("run-1")
		if got := e.get("core/migration"); !reflect.DeepEqual(got, migration) {
			e.Errorf("the migration lock is now %v", got)
		}
		leader = e.get("core/_lock")
		e.eventually("a renewal", func() bool { return !reflect.DeepEqual(e.get("core/_lock"), leader) })
		e.ok(h.Check(e.Context()))
		e.ok(h.Release(e.Context(), copier.EndComplete))
		e.unlocked(was)
	}
}

// TestResumedAfterTheLease: however long ago the lock has expired.
func TestResumedAfterTheLease(t *testing.T) { onEach(t, resumedAfterTheLease) }

func resumedAfterTheLease(e *env) {
	s, _ := e.source(ha)
	e.lock(s, "run-1").kill()
	e.eventually("the lease to end", func() bool { return leaderLock(e.get("core/_lock")).expired() })
	h, err := e.tryAgain(e.Context(), s, "run-1", true)
	e.ok(err)
	e.held("run-1")
	e.ok(h.Release(e.Context(), copier.EndFailed))
	e.unlocked(nil)
}

// TestVaultAfterAnUnfinishedRun: one that has taken its lock keeps it.
func TestVaultAfterAnUnfinishedRun(t *testing.T) { onEach(t, vaultAfterUnfinished) }

func vaultAfterUnfinished(e *env) {
	s, _ := e.source(ha)
	e.ok(e.lock(s, "run-1").Release(e.Context(), copier.EndUnfinished))
	e.eventually("the lease to end", func() bool {
		ok, err := e.tryVaultLock("v2")
		e.ok(err)
		return ok
	})
	before := e.get("core/_lock")
	_, err := e.tryAgain(e.Context(), s, "run-1", true)
	wantError(e, err, copier.ErrMoved, "leader-v2", LocksLost)
	e.leaderIs(before)
	e.ok(s.Unlock(e.Context(), "run-1", copier.EndFailed))
	e.unlocked(before)
}

// TestBegunAgain: nothing was read yet, and both locks, or one, may be there.
func TestBegunAgain(t *testing.T) { onEach(t, begunAgain) }

func begunAgain(e *env) {
	for _, l := range []*vaultLease{nil, {"v1", -time.Hour, nil}} {
		for _, left := range []string{"both", "core/migration", "core/_lock"} {
			was := e.leader(l)
			s, _ := e.source(ha)
			e.lock(s, "run-1").kill()
			switch left {
			case "core/migration": // killed before it took the other one
				was = e.leader(l)
			case "core/_lock": // somebody ran `vault operator migrate -reset`
				e.del("core/migration")
			}
			s, rec := e.source(func(o *Options) {
				o.HAEnabled = left == "core/_lock"
				stopped(false, errors.New("this was asked before"))(o)
			})
			h := e.lock(s, "run-1")
			waits := 0
			if was != nil {
				waits = 2
			}
			if w := locksAwaited(rec); len(w) != waits {
				e.Errorf("%s left: it waited for %+v", left, w)
			}
			e.held("run-1")
			e.ok(h.Check(e.Context()))
			e.ok(h.Release(e.Context(), copier.EndComplete))
			e.unlocked(was)
		}
	}
}

// TestBegunAgainAndRefused: no lock of the run is left.
func TestBegunAgainAndRefused(t *testing.T) { onEach(t, begunAgainAndRefused) }

func begunAgainAndRefused(e *env) {
	s, _ := e.source(ha)
	e.lock(s, "run-1").kill()
	e.put(vaultLease{"v1", time.Hour, nil}.item())
	s, rec := e.source()
	next := vaultLease{"v1", 2 * time.Hour, nil}.item()
	defer e.onWaiting(rec, 1, func() { e.put(next) })()
	_, err := e.tryLock(e.Context(), s, "run-1")
	wantError(e, err, ErrVaultRunning, "leader-v1", VaultRuns)
	e.unlocked(next)
}

// TestBegunAgainWithoutTheEntry: our own leader lock tells nothing of Vaults.
func TestBegunAgainWithoutTheEntry(t *testing.T) { onEach(t, begunAgainWithoutTheEntry) }

func begunAgainWithoutTheEntry(e *env) {
	s, _ := e.source(ha)
	e.lock(s, "run-1").kill()
	e.del("core/migration")
	s, _ = e.source()
	_, err := e.tryLock(e.Context(), s, "run-1")
	wantError(e, err, ErrNotStopped, "no leader lock", NotStopped)
	e.unlocked(nil)
}

// TestLockAgainAnswersLost: the answers to what a resumed run asks and writes
// get lost, and come, or do not come at all; then the locks stay.
func TestLockAgainAnswersLost(t *testing.T) { inBubble(t, lockAgainAnswersLost) }

func lockAgainAnswersLost(t *testing.T) {
	for _, kind := range []dynamotest.FaultKind{dynamotest.ResetMidBody, dynamotest.Truncate, dynamotest.WrongCRC} {
		e := bubbleEnv(t, dynamotest.Options{})
		s, _ := e.source(ha, retries(1))
		e.ok(e.lock(s, "run-1").Release(t.Context(), copier.EndUnfinished))
		for _, operation := range []string{"GetItem", "UpdateItem"} {
			fault := &dynamotest.Fault{Kind: kind, Operation: operation, Count: 2}
			e.srv.SetFaults(fault)
			if _, err := e.tryAgain(t.Context(), s, "run-1", true); !errors.Is(err, copier.ErrSource) || errors.Is(err, copier.ErrMoved) || fault.Fired() != 2 {
				t.Errorf("%s of %s: error %v, the fault fired %d times", kind, operation, err, fault.Fired())
			}
			e.held("run-1")
		}
		fs := []*dynamotest.Fault{
			{Kind: kind, Operation: "UpdateItem", Count: 1},
			{Kind: kind, Operation: "GetItem", Count: 1},
			{Kind: kind, Operation: "DeleteItem", Count: 1},
		}
		e.srv.SetFaults(fs...)
		h, err := e.tryAgain(t.Context(), s, "run-1", true)
		e.ok(err)
		e.ok(h.Release(t.Context(), copier.EndUnfinished))
		e.ok(s.Unlock(t.Context(), "run-1", copier.EndFailed))
		e.unlocked(nil)
		for _, f := range fs {
			if f.Fired() != 1 {
				t.Errorf("%s of %s fired %d times", kind, f.Operation, f.Fired())
			}
		}
	}
}

// TestTakenWhileLockingAgain: a Vault takes the leader lock after it was seen
// to be ours.
func TestTakenWhileLockingAgain(t *testing.T) { inBubble(t, takenWhileLockingAgain) }

func takenWhileLockingAgain(t *testing.T) {
	e := bubbleEnv(t, dynamotest.Options{})
	s, _ := e.source(ha)
	e.ok(e.lock(s, "run-1").Release(t.Context(), copier.EndUnfinished))
	thief := vaultLease{"v2", time.Hour, nil}.item()
	front := e.proxy(func(r *http.Request, send func(*http.Request)) {
		if strings.HasSuffix(r.Header.Get("X-Amz-Target"), ".UpdateItem") {
			e.put(thief)
		}
		send(r)
	})
	s, _ = e.sourceAt(front.URL, ha)
	_, err := e.tryAgain(t.Context(), s, "run-1", true)
	wantError(t, err, copier.ErrMoved, "leader-v2", LocksLost)
	wantError(t, err, copier.ErrLocked, "", LocksLost)
	e.leaderIs(thief)
	if e.get("core/migration") == nil {
		t.Error("the migration lock was removed")
	}
}
