package dynamodb

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/dyn2raft/dyn2raft/copier"
)

// replaceFrom takes the table over, and stops renewing when the test ends.
func (e *env) replaceFrom(s *Source, run string, takeOver ...string) (*Replacement, error) {
	e.Helper()
	r, err := s.LockToReplace(e.Context(), run, takeOver, func(error) {})
	if err == nil {
		e.Cleanup((&holder{lease: r.lease}).kill)
	}
	return r, err
}

const parked = `{"start":"2026-03-01T02:03:04Z","dyn2raft_run":"run-0","dyn2raft_host":"there"}`

// TestTakenOver: who replaces what is in a table takes over the lock that the run has left
// which it was told of, and no other. Where it fails the table is as it was.
func TestTakenOver(t *testing.T) {
	onEach(t, func(e *env) {
		e.put(entry(bin(parked))...)
		s, _ := e.source(ha)
		for _, others := range [][]string{nil, {""}, {"run-1"}, {"run"}} {
			_, err := e.replaceFrom(s, "run-2 x", others...)
			wantError(e, err, ErrMigrationLock, "run-0", LockedByCopy)
		}
		for _, left := range []*vaultLease{nil, {"run-0", time.Hour, attrs{"Value": bin("dyn2raft run run-0")}}, {"v1", -time.Hour, nil}} {
			was := e.leader(left)
			r, err := e.replaceFrom(s, "run-2 x", "run-1", "run-0")
			e.ok(err)
			e.held("run-2 x")
			e.ok(r.Check(e.Context()))
			e.ok(r.Release(e.Context(), copier.EndFailed))
			e.leaderIs(was)
			if got := string(binaryOf(e.get("core/migration")["Value"])); got != parked {
				e.Errorf("the migration lock is %s", got)
			}
		}
		e.leader(nil)
		r, err := e.replaceFrom(s, "run-2 x", "run-0")
		e.ok(err)
		e.ok(r.Release(e.Context(), copier.EndComplete))
		e.unlocked(nil)
	})
}

// TestStill: before something is written a lock that was not renewed for long is renewed,
// and where another one has it by now the process writes nothing more.
func TestStill(t *testing.T) {
	onEach(t, func(e *env) {
		s, _ := e.source(ha)
		r, err := e.replaceFrom(s, "run-2 x")
		e.ok(err)
		(&holder{lease: r.lease}).kill() // nothing renews it
		var asleep time.Duration
		s.boot = func() time.Duration { return time.Hour + asleep }
		e.ok(r.Check(e.Context()))
		was := r.good.Load()
		e.ok(r.Still(e.Context()))
		if r.good.Load() != was {
			e.Error("it was renewed too soon")
		}
		asleep += s.timing.lease
		e.ok(r.Still(e.Context()))
		if r.good.Load() == was {
			e.Error("it was not renewed")
		}
		e.leader(&vaultLease{"v1", time.Hour, nil})
		asleep += s.timing.lease
		if err := r.Still(e.Context()); !errors.Is(err, copier.ErrLocked) || !errors.Is(err, copier.ErrMoved) {
			e.Errorf("another one has it: %v", err)
		}
	})
}

// TestHalfReplaced: once what is in a table is changed, the locks stay, whoever resets it
// and however the run ends, until one has replaced all of it. One that is killed is
// followed by another, who finds what it has found.
func TestHalfReplaced(t *testing.T) {
	onEach(t, func(e *env) {
		e.put(entry(bin(parked))...)
		s, _ := e.source(ha)
		killed, err := e.replaceFrom(s, "run-2 x", "run-0")
		e.ok(err)
		(&holder{lease: killed.lease}).kill()
		r, err := e.replaceFrom(s, "run-2 y", "run-2")
		if err != nil || r.Backup() != "" || r.put.Found != parked {
			e.Fatalf("%v; backup %q, found %q", err, r.Backup(), r.put.Found)
		}
		if err := killed.Check(e.Context()); !errors.Is(err, copier.ErrLocked) {
			e.Errorf("the one that was killed has it still: %v", err)
		}
		e.ok(r.Begin(e.Context(), "arn:backup"))
		e.ok(r.Check(e.Context()))
		e.ok(r.Release(e.Context(), copier.EndFailed))
		closed := func() {
			e.Helper()
			if l := leaderLock(e.get("core/_lock")); !l.held([]byte("run-2 y")) || !l.closed() {
				e.Errorf("the leader lock is %s", show(l))
			}
		}
		closed() // a Vault that stands by does not get it either
		_, err = s.Reset(e.Context())
		wantError(e, err, ErrHalfReplaced, "arn:backup", HalfReplaced)
		_, err = e.tryLock(e.Context(), s, "run-3")
		wantError(e, err, ErrHalfReplaced, "arn:backup", HalfReplaced)
		closed()
		s, rec := e.source(ha)
		r, err = e.replaceFrom(s, "run-4 z", "run-2 y")
		if err != nil || r.Backup() != "arn:backup" || len(locksAwaited(rec)) > 0 {
			e.Fatalf("%v; backup %q; it has waited for %+v", err, r.Backup(), locksAwaited(rec))
		}
		if l := leaderLock(e.get("core/_lock")); !l.held([]byte("run-4 z")) || !l.closed() {
			e.Errorf("the leader lock is %s", show(l))
		}
		e.ok(r.Release(e.Context(), copier.EndComplete))
		e.unlocked(nil)
	})
}

// TestReplacedByOne: of two who take a table over at the same time, one that renews its
// lock keeps it.
func TestReplacedByOne(t *testing.T) {
	onEach(t, func(e *env) {
		s, _ := e.source(ha)
		_, err := e.replaceFrom(s, "run-2 x")
		e.ok(err)
		for i := range 2 {
			_, err = e.replaceFrom(s, fmt.Sprintf("run-2 y%d", i), "run-2")
			wantError(e, err, copier.ErrLocked, "run-2 x", CopyRuns)
			e.held("run-2 x")
		}
	})
}

// TestFindBackup: a backup of another table, or one that is gone, is none.
func TestFindBackup(t *testing.T) {
	e := newEnv(t)
	s, _ := e.source()
	arn, err := s.Snapshot(t.Context(), "before")
	e.ok(err)
	if b, err := s.FindBackup(t.Context(), arn); err != nil || b.Name != "before" {
		t.Errorf("found %+v, %v", b, err)
	}
	_, err = s.FindBackup(t.Context(), strings.Replace(arn, "/vault/", "/other/", 1))
	wantError(t, err, ErrBackup, "1 backups", BackupMissing)
}
