package dynamodb

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"reflect"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb/types"

	"github.com/dyn2raft/dyn2raft/copier"
	"github.com/dyn2raft/dyn2raft/sources/dynamodb/dynamotest"
)

// vaultLock is a leader lock as a Vault writes it.
func vaultLock(identity string, expires time.Time, more attrs) attrs {
	item := with("core", "_lock", attrs{"Value": bin("leader-" + identity), "Identity": bin(identity), "Expires": num(expires.UnixNano())})
	for name, v := range more {
		if v == nil {
			delete(item, name)
		} else {
			item[name] = v
		}
	}
	return item
}

// tryVaultLock does what a Vault does to become leader, and to stay it. It
// returns whether the Vault is leader.
func (e *env) tryVaultLock(identity string) (bool, error) {
	now := time.Now()
	_, err := e.db.UpdateItem(context.Background(), &dynamodb.UpdateItemInput{
		TableName:           &e.table,
		Key:                 itemKey("core", "_lock"),
		UpdateExpression:    aws.String("SET #value = :value, #identity = :identity, #expires = :expires"),
		ConditionExpression: aws.String("attribute_not_exists(#path) or attribute_not_exists(#key) or (attribute_not_exists(#identity) or #identity = :identity or #expires <= :now)"),
		ExpressionAttributeNames: map[string]string{
			"#path": "Path", "#key": "Key", "#value": "Value", "#identity": "Identity", "#expires": "Expires",
		},
		ExpressionAttributeValues: attrs{
			":value": bin("leader-" + identity), ":identity": bin(identity),
			":now": num(now.UnixNano()), ":expires": num(now.Add(e.timing.lease).UnixNano()),
		},
	})
	var failed *types.ConditionalCheckFailedException
	if errors.As(err, &failed) {
		return false, nil
	}
	return err == nil, err
}

// every does something again and again until the returned function is called.
func every(d time.Duration, do func()) (stop func()) {
	done := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			select {
			case <-done:
				return
			case <-time.After(d):
				do()
			}
		}
	})
	return sync.OnceFunc(func() { close(done); wg.Wait() })
}

// onWaiting does something when the source says for the nth time that it waits:
// first for a renewal, then for who has lost a lock to notice. The returned
// function waits until it is done.
func (e *env) onWaiting(rec *recorder, n int, do func()) (wait func()) {
	var wg sync.WaitGroup
	wg.Go(func() {
		e.eventually("the wait", func() bool { return len(locksAwaited(rec)) >= n })
		do()
	})
	return wg.Wait
}

// A holder is a lock that a test has taken.
type holder struct {
	*lease
	lost chan error
}

// tryLock takes the lock, and gives it back when the test ends.
func (e *env) tryLock(ctx context.Context, s *Source, run string) (*holder, error) {
	e.Helper()
	return e.tryAgain(ctx, s, run, false)
}

// tryAgain takes the lock, with held as a run that is resumed.
func (e *env) tryAgain(ctx context.Context, s *Source, run string, held bool) (*holder, error) {
	e.Helper()
	h := &holder{lost: make(chan error, 10)}
	got, err := s.Lock(ctx, run, held, func(err error) { h.lost <- err })
	if err != nil {
		if got != nil {
			e.Errorf("Lock returned %v and a lease", err)
		}
		return nil, err
	}
	h.lease = got.(*lease)
	e.Cleanup(h.kill)
	return h, nil
}

func (e *env) lock(s *Source, run string) *holder {
	e.Helper()
	h, err := e.tryLock(e.Context(), s, run)
	e.ok(err)
	return h
}

// kill stops renewing, as the death of the process would.
func (h *holder) kill() {
	h.stop()
	h.renewing.Wait()
}

// unlocked fails the test unless the leader lock is as given, and no migration
// lock is there.
func (e *env) unlocked(leader attrs) {
	e.Helper()
	e.leaderIs(leader)
	if m := e.get("core/migration"); m != nil {
		e.Errorf("a migration lock is left: %s", binaryOf(m["Value"]))
	}
}

func (e *env) leaderIs(want attrs) {
	e.Helper()
	if got := e.get("core/_lock"); !reflect.DeepEqual(got, want) {
		e.Errorf("the leader lock is\n%s, expected\n%s", show(got), show(want))
	}
}

func show(item attrs) string {
	var sb strings.Builder
	for _, name := range []string{"Value", "Identity", "Expires", "ttl", "aws:rep:updatetime", attrFound} {
		switch v := item[name].(type) {
		case nil:
		case *types.AttributeValueMemberB:
			fmt.Fprintf(&sb, "%s=%q ", name, v.Value)
		case *types.AttributeValueMemberN:
			fmt.Fprintf(&sb, "%s=%s ", name, v.Value)
		default:
			fmt.Fprintf(&sb, "%s=%T ", name, v)
		}
	}
	return fmt.Sprintf("%d attributes: %s", len(item), sb.String())
}

// held fails the test unless both locks are the run's.
func (e *env) held(run string) {
	e.Helper()
	leader := e.get("core/_lock")
	if string(binaryOf(leader["Value"])) != "dyn2raft run "+run || string(binaryOf(leader["Identity"])) != run {
		e.Errorf("the leader lock is %s, expected that of run %s", show(leader), run)
	}
	n, _ := leader["Expires"].(*types.AttributeValueMemberN)
	if n == nil {
		e.Fatal("the leader lock does not expire")
	}
	ns, err := strconv.ParseInt(n.Value, 10, 64)
	e.ok(err)
	if left := time.Until(time.Unix(0, ns)); left <= 0 || left > e.timing.lease {
		e.Errorf("the leader lock expires in %v", left)
	}
	var m struct { // as Vault reads it
		Start time.Time `json:"start"`
	}
	value := binaryOf(e.get("core/migration")["Value"])
	if err := json.Unmarshal(value, &m); err != nil {
		e.Fatalf("the migration lock %q: %v", value, err)
	}
	if d := time.Since(m.Start); d < 0 || d > time.Minute || !strings.Contains(string(value), run) {
		e.Errorf("the migration lock is %s", value)
	}
}

func stopped(answer bool, err error) func(*Options) {
	return func(o *Options) {
		o.Stopped = func(context.Context, string) (bool, error) { return answer, err }
	}
}

// lockCases hold on each server.
var lockCases = map[string]func(*env){
	"no lock item": func(e *env) {
		asked := errors.New("no terminal")
		for _, c := range []struct {
			name   string
			opts   []func(*Options)
			locked bool
			err    error
		}{
			{"ha", []func(*Options){ha}, true, nil},
			{"ha, and nobody is asked", []func(*Options){ha, stopped(false, asked)}, true, nil},
			{"nobody knows", nil, false, ErrNotStopped},
			{"stopped", []func(*Options){stopped(true, nil)}, true, nil},
			{"not stopped", []func(*Options){stopped(false, nil)}, false, ErrNotStopped},
			{"asking failed", []func(*Options){stopped(false, asked)}, false, asked},
			{"ha elsewhere", []func(*Options){ha, haStorage("raft")}, false, ErrNotStopped},
			{"ha elsewhere, stopped", []func(*Options){ha, haStorage("raft"), stopped(true, nil)}, true, nil},
		} {
			s, _ := e.source(c.opts...)
			h, err := e.tryLock(e.Context(), s, "run-1")
			if !errors.Is(err, c.err) {
				e.Errorf("%s: error is %v, expected %v", c.name, err, c.err)
			}
			if errors.Is(err, ErrNotStopped) {
				wantError(e, err, copier.ErrLocked, "no leader lock", "say so")
			}
			if (h != nil) != c.locked {
				e.Errorf("%s: locked %v", c.name, h != nil)
			}
			if h != nil {
				e.held("run-1")
				e.ok(h.Check(e.Context()))
				e.ok(h.Release(e.Context(), copier.EndComplete))
			}
			e.unlocked(nil)
		}
	},
	"a Vault was active": func(e *env) {
		// It announces itself wherever its lock is, and an orderly stop ends that.
		e.put(with(leaderPath, "another", attrs{attrValue: bin("its address")}))
		for _, lock := range []attrs{nil, vaultLock("v1", time.Now().Add(-time.Hour), nil)} {
			if lock != nil {
				e.put(lock)
			}
			s, _ := e.source(ha)
			if _, err := e.tryLock(e.Context(), s, "run-1"); !errors.Is(err, ErrNotStopped) || !strings.Contains(err.Error(), "core/leader/another") {
				e.Errorf("lock %v: error is %v", lock, err)
			}
			if locks, err := s.Locks(e.Context()); err != nil || !strings.Contains(locks.Doubt, "core/leader/another") {
				e.Errorf("lock %v: doubt %q, %v", lock, locks.Doubt, err)
			}
		}
		s, _ := e.source(ha, haStorage("consul"))
		if locks, err := s.Locks(e.Context()); err != nil || !strings.Contains(locks.Doubt, `"consul"`) {
			e.Errorf("doubt %q, %v", locks.Doubt, err)
		}
		e.put(with(leaderPath, "leader-v1", attrs{attrValue: bin("its address")}))
		e.del(leaderPath + "/another")
		s, _ = e.source(ha)
		if locks, err := s.Locks(e.Context()); err != nil || locks.Doubt != "" {
			e.Errorf("the entry of the lock's own holder: doubt %q, %v", locks.Doubt, err)
		}
	},
	"expired lock": func(e *env) {
		for _, was := range []attrs{
			vaultLock("v1", time.Now().Add(-time.Hour), nil),
			vaultLock("v1", time.Now().Add(-time.Millisecond), attrs{"ttl": num(17), "Extra": str("x")}),
			vaultLock("v1", time.Now().Add(-time.Hour), attrs{"Identity": nil}), // of an old Vault
			vaultLock("v1", time.Now().Add(-time.Hour), attrs{"Value": null, "Identity": bin("")}),
			vaultLock("v1", time.Now(), attrs{"Value": nil, "Identity": nil, "Expires": nil}),
		} {
			e.put(was)
			before := e.get("core/_lock")
			s, rec := e.source()
			start := time.Now()
			h := e.lock(s, "run-1")
			if d := time.Since(start); d < e.timing.hold {
				e.Errorf("Lock returned after %v, before a holder could notice", d)
			}
			if w := locksAwaited(rec); len(w) != 2 { // for a renewal, and for who has lost it
				e.Errorf("events Waiting: %+v", w)
			}
			e.held("run-1")
			e.ok(h.Check(e.Context()))
			e.ok(h.Release(e.Context(), copier.EndComplete))
			e.unlocked(before)
		}
	},
	"renewed lock": func(e *env) {
		_, err := e.tryVaultLock("v1")
		e.ok(err)
		stop := every(e.timing.renew, func() { _, _ = e.tryVaultLock("v1") })
		defer stop()
		s, _ := e.source()
		h, err := e.tryLock(e.Context(), s, "run-1")
		if h != nil {
			e.Fatal("locked under a running Vault")
		}
		stop()
		wantError(e, err, copier.ErrLocked, "leader-v1", "stop every Vault")
		if !errors.Is(err, ErrVaultRunning) {
			e.Errorf("error is %v", err)
		}
		if got := binaryOf(e.get("core/_lock")["Value"]); string(got) != "leader-v1" {
			e.Errorf("the leader lock is %q", got)
		}
		if e.get("core/migration") != nil {
			e.Error("a migration lock was put")
		}
	},
	"renewed lock of a slow clock": func(e *env) { // always expired by ours
		old := func(n int) attrs {
			return vaultLock("v1", time.Now().Add(-time.Hour).Add(time.Duration(n)*time.Second), nil)
		}
		e.put(old(0))
		n := 0
		stop := every(e.timing.renew, func() { n++; e.put(old(n)) })
		defer stop()
		s, _ := e.source()
		if _, err := e.tryLock(e.Context(), s, "run-1"); !errors.Is(err, ErrVaultRunning) {
			e.Errorf("error is %v", err)
		}
		stop()
		if e.get("core/migration") != nil {
			e.Error("a migration lock was put")
		}
	},
	"lock of another age": func(e *env) { // tells nothing of today's Vaults
		was := vaultLock("v1", time.Now().Add(-400*24*time.Hour), nil)
		e.put(was)
		s, _ := e.source(func(o *Options) { o.HAEnabled = false })
		_, err := e.tryLock(e.Context(), s, "run-1")
		if !errors.Is(err, ErrNotStopped) {
			e.Errorf("error is %v", err)
		}
		wantError(e, err, copier.ErrLocked, "expired at 20", "say so")
		e.unlocked(was)
		s, _ = e.source(func(o *Options) { o.HAEnabled = true })
		h := e.lock(s, "run-1")
		e.ok(h.Release(e.Context(), copier.EndComplete))
		e.unlocked(was)
	},
	"never renewed lock": func(e *env) { // its holder's clock is far ahead
		was := vaultLock("v1", time.Now().Add(24*time.Hour), attrs{"ttl": num(17)})
		e.put(was)
		s, rec := e.source()
		start := time.Now()
		h := e.lock(s, "run-1")
		if d := time.Since(start); d < e.timing.watch+e.timing.hold {
			e.Errorf("Lock returned after %v", d)
		}
		if w := locksAwaited(rec); len(w) != 2 || !strings.Contains(w[0].Name, "leader-v1") {
			e.Errorf("events Waiting: %+v", w)
		}
		e.held("run-1")
		e.ok(h.Release(e.Context(), copier.EndComplete))
		e.unlocked(was)
	},
	"unreadable expiry": func(e *env) { // counts as not expired
		was := vaultLock("v1", time.Now(), attrs{"Expires": &types.AttributeValueMemberN{Value: "1.5"}})
		e.put(was)
		s, rec := e.source()
		h := e.lock(s, "run-1")
		if w := locksAwaited(rec); len(w) != 2 {
			e.Errorf("events Waiting: %+v", w)
		}
		e.ok(h.Release(e.Context(), copier.EndComplete))
		e.unlocked(was)
	},
	"holder leaves during the watch": func(e *env) { // no ha_enabled: the lock that was seen is proof enough
		e.put(vaultLock("v1", time.Now().Add(time.Hour), nil))
		s, rec := e.source()
		defer e.onWaiting(rec, 1, func() { e.del("core/_lock") })()
		h := e.lock(s, "run-1")
		e.held("run-1")
		e.ok(h.Release(e.Context(), copier.EndComplete))
		e.unlocked(nil)
	},
	"another takes it during the watch": func(e *env) {
		e.put(vaultLock("v1", time.Now().Add(time.Hour), nil))
		next := vaultLock("v2", time.Now().Add(time.Hour), nil)
		s, rec := e.source()
		s.timing.watch *= 2
		defer e.onWaiting(rec, 1, func() {
			e.del("core/_lock")
			time.Sleep(2 * e.timing.retry)
			e.put(next)
		})()
		_, err := e.tryLock(e.Context(), s, "run-1")
		wantError(e, err, ErrVaultRunning, "leader-v2", "stop every Vault")
		e.unlocked(next)
	},
	"migration lock": func(e *env) {
		s, _ := e.source(ha)
		other, _ := e.source(ha, keepLocked)
		e.ok(e.lock(other, "run-0").Release(e.Context(), copier.EndComplete))
		ours := e.get("core/migration")
		for _, c := range []struct {
			item attrs
			says string
		}{
			{ours, "dyn2raft run run-0 on "},
			{with("core", "migration", attrs{"Value": bin(`{"start":"2026-03-01T02:03:04+01:00"}`)}), "`vault operator migrate` took it at 2026-03-01T01:03:04Z"},
			{with("core", "migration", attrs{"Value": bin("{")}), "can't be read"},
			{with("core", "migration", attrs{"Value": null}), "can't be read"},
			{with("core", "migration", nil), "can't be read"},
		} {
			e.put(c.item)
			_, err := e.tryLock(e.Context(), s, "run-1")
			wantError(e, err, copier.ErrLocked, c.says, "-reset")
			if !errors.Is(err, ErrMigrationLock) {
				e.Errorf("error is %v", err)
			}
			e.leaderIs(nil)
			if got := e.get("core/migration"); !reflect.DeepEqual(got, c.item) {
				e.Errorf("the migration lock is now %v", got)
			}
		}
	},
	"taken at the same moment": func(e *env) { // what Lock has read is stale when it writes
		for _, was := range []attrs{nil, vaultLock("v1", time.Now().Add(-time.Hour), nil), vaultLock("v1", time.Now().Add(-time.Hour), attrs{"Identity": nil})} {
			for _, gone := range []bool{false, true} {
				if was == nil && gone {
					continue
				}
				e.del("core/_lock")
				if was != nil {
					e.put(was)
				}
				s, _ := e.source()
				seen, err := s.readLeader(e.Context(), request{})
				e.ok(err)
				var next attrs
				e.del("core/_lock")
				if !gone {
					next = vaultLock("v2", time.Now().Add(time.Hour), nil)
					e.put(next)
				}
				l := &lease{s: s, run: "run-1", identity: []byte("run-1"), found: seen, lost: func(error) {}}
				e.ok(l.takeMigration(e.Context()))
				err = l.giveUp(e.Context(), l.takeLeader(e.Context(), seen))
				if !errors.Is(err, ErrVaultRunning) || !errors.Is(err, copier.ErrLocked) || !gone && !strings.Contains(err.Error(), "leader-v2") {
					e.Errorf("error is %v", err)
				}
				e.unlocked(next)
			}
		}
	},
	"stolen": func(e *env) {
		for _, gone := range []bool{false, true} {
			s, _ := e.source(ha)
			h := e.lock(s, "run-1")
			var thief attrs
			if gone {
				e.del("core/_lock")
			} else {
				thief = vaultLock("v2", time.Now().Add(time.Hour), nil)
				e.put(thief)
			}
			select {
			case err := <-h.lost:
				says := "leader-v2"
				if gone {
					says = "was removed"
				}
				wantError(e, err, ErrVaultRunning, says, "stop every Vault")
			case <-time.After(2 * time.Minute):
				e.Fatal("the loss was not noticed")
			}
			err := h.Check(e.Context())
			wantError(e, err, copier.ErrLocked, "core/_lock", "stop every Vault")
			time.Sleep(3 * e.timing.renew)
			if len(h.lost) != 0 {
				e.Errorf("lost was called again: %v", <-h.lost)
			}
			wantError(e, h.Release(e.Context(), copier.EndFailed), copier.ErrMoved, "core/_lock", "stop every Vault")
			e.unlocked(thief)
			e.del("core/_lock")
		}
	},
	"migration lock removed": func(e *env) {
		for _, other := range []attrs{nil, with("core", "migration", attrs{"Value": bin(`{"start":"2026-03-01T02:03:04Z"}`)})} {
			s, _ := e.source(ha)
			h := e.lock(s, "run-1")
			e.ok(h.Check(e.Context()))
			e.del("core/migration")
			if other != nil {
				e.put(other)
			}
			wantError(e, h.Check(e.Context()), copier.ErrLocked, "migration lock", "")
			wantError(e, h.Release(e.Context(), copier.EndFailed), copier.ErrMoved, "migration lock", "every Vault is stopped")
			e.leaderIs(nil)
			if got := e.get("core/migration"); !reflect.DeepEqual(got, other) {
				e.Errorf("the migration lock is now %v, expected %v", got, other)
			}
			e.del("core/migration")
		}
	},
	"a complete copy whose locks are not its own": func(e *env) { // the source stays locked, as far as it is
		for _, lost := range []string{"core/_lock", "core/migration"} {
			s, _ := e.source(ha)
			h := e.lock(s, "run-1")
			e.ok(h.Check(e.Context()))
			h.kill()
			migration := e.get("core/migration")
			if lost == "core/_lock" {
				e.put(vaultLock("v2", time.Now().Add(time.Hour), nil))
			} else {
				e.del(lost)
			}
			err := h.Release(e.Context(), copier.EndComplete)
			if !errors.Is(err, copier.ErrMoved) || !errors.Is(err, copier.ErrLocked) || errors.Is(err, copier.ErrNotReleased) {
				e.Errorf("without its %s: %v", lost, err)
			}
			if lost == "core/_lock" {
				if got := e.get("core/migration"); !reflect.DeepEqual(got, migration) {
					e.Errorf("the migration lock is now %v", got)
				}
			}
			e.del("core/_lock")
			e.del("core/migration")
		}
	},
	"check renews": func(e *env) {
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
	},
	"keep locked": func(e *env) {
		was := vaultLock("v1", time.Now().Add(-time.Hour), nil)
		e.put(was)
		s, _ := e.source(keepLocked)
		e.ok(e.lock(s, "run-1").Release(e.Context(), copier.EndFailed))
		e.unlocked(was)
		e.ok(e.lock(s, "run-2").Release(e.Context(), copier.EndComplete))
		e.leaderIs(was)
		if m := e.get("core/migration"); !strings.Contains(string(binaryOf(m["Value"])), "run-2") {
			e.Errorf("the migration lock is %v", m)
		}
	},
	"cancelled": func(e *env) {
		why := errors.New("the operator said so")
		for i, was := range []attrs{
			vaultLock("v1", time.Now().Add(time.Hour), nil),  // in the watch
			vaultLock("v1", time.Now().Add(-time.Hour), nil), // in the hold
		} {
			e.put(was)
			s, rec := e.source()
			s.timing.watch, s.timing.hold = time.Minute, time.Minute
			ctx, cancel := context.WithCancelCause(e.Context())
			done := e.onWaiting(rec, i+1, func() { cancel(why) })
			if _, err := e.tryLock(ctx, s, "run-1"); !errors.Is(err, why) {
				e.Errorf("error is %v", err)
			}
			done()
			e.unlocked(was)
		}
	},
	"reset": func(e *env) {
		s, _ := e.source(ha)
		for _, was := range []attrs{nil, vaultLock("v1", time.Now().Add(-time.Hour), attrs{"ttl": num(17)}), vaultLock("v1", time.Now().Add(-time.Hour), attrs{"Identity": nil})} {
			e.del("core/_lock")
			if was != nil {
				e.put(was)
			}
			h := e.lock(s, "run-1")
			freed, err := s.Reset(e.Context())
			wantError(e, err, copier.ErrLocked, "run-1", "let it end")
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
	},
	"reset of others' locks": func(e *env) {
		leader := vaultLock("v1", time.Now().Add(-time.Hour), nil)
		e.put(leader, with("core", "migration", attrs{"Value": bin(`{"start":"2026-03-01T02:03:04Z"}`)}))
		s, _ := e.source()
		freed, err := s.Reset(e.Context())
		e.ok(err)
		if !reflect.DeepEqual(freed, []string{"core/migration"}) {
			e.Errorf("freed %q", freed)
		}
		e.unlocked(leader)
	},
	"a Vault takes a dead run's lock": func(e *env) {
		s, _ := e.source()
		e.put(vaultLock("v1", time.Now().Add(-time.Hour), nil))
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
	},
	"a run after a dead one": func(e *env) { // whose migration lock `vault operator migrate -reset` removed
		was := vaultLock("v1", time.Now().Add(-time.Hour), nil)
		e.put(was)
		s, _ := e.source()
		e.lock(s, "run-1").kill()
		e.del("core/migration")
		h := e.lock(s, "run-2")
		e.held("run-2")
		e.ok(h.Release(e.Context(), copier.EndComplete))
		e.unlocked(was)
	},
	"a Vault competes": func(e *env) {
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
	},
	"two runs": func(e *env) {
		rounds := 12
		if e.srv == nil {
			rounds = 3
		}
		for round := range rounds {
			var was attrs
			if round%2 == 1 {
				was = vaultLock("v1", time.Now().Add(-time.Hour), nil)
				e.put(was)
			}
			var wg sync.WaitGroup
			var hs [2]*holder
			var errs [2]error
			for i := range hs {
				i := (i + round/2) % 2 // both ways round
				s, _ := e.source(ha)
				s.timing.hold = 0
				wg.Go(func() { hs[i], errs[i] = e.tryLock(e.Context(), s, fmt.Sprintf("run-%d-%d", round, i)) })
			}
			wg.Wait()
			if (hs[0] == nil) == (hs[1] == nil) {
				e.Fatalf("round %d: errors %v and %v", round, errs[0], errs[1])
			}
			for i, h := range hs {
				if h == nil {
					wantError(e, errs[i], copier.ErrLocked, fmt.Sprintf("run-%d-%d", round, 1-i), "")
					continue
				}
				e.held(h.run)
				e.ok(h.Check(e.Context()))
				e.ok(h.Release(e.Context(), copier.EndComplete))
			}
			e.unlocked(was)
			e.del("core/_lock")
		}
	},
}

// locksAwaited are the waits on purpose, not those for answers that take long.
func locksAwaited(rec *recorder) (out []copier.Waiting) {
	for _, w := range eventsOf[copier.Waiting](rec) {
		if !w.Until.IsZero() {
			out = append(out, w)
		}
	}
	return out
}

func TestLock(t *testing.T) { eachServer(t, lockCases) }

// resumeCases hold on each server: what a run finds that was interrupted.
var resumeCases = map[string]func(*env){
	"unfinished, resumed": func(e *env) {
		for _, was := range []attrs{nil, vaultLock("v1", time.Now().Add(-time.Hour), attrs{"ttl": num(17)})} {
			e.del("core/_lock")
			if was != nil {
				e.put(was)
			}
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
	},
	"killed, resumed after the lease": func(e *env) {
		s, _ := e.source(ha)
		e.lock(s, "run-1").kill()
		e.eventually("the lease to end", func() bool { return leaderLock(e.get("core/_lock")).expired() })
		h, err := e.tryAgain(e.Context(), s, "run-1", true)
		e.ok(err)
		e.held("run-1")
		e.ok(h.Release(e.Context(), copier.EndFailed))
		e.unlocked(nil)
	},
	"resumed, and the locks are not as they were left": func(e *env) {
		vault := vaultLock("v2", time.Now().Add(time.Hour), nil)
		peer := with("core", "migration", attrs{"Value": bin(`{"start":"2026-03-01T02:03:04Z"}`)})
		other := with("core", "migration", attrs{"Value": bin(`{"start":"2026-03-01T02:03:04Z","dyn2raft_run":"run-2","dyn2raft_host":"there"}`)})
		mine := func() attrs { return e.get("core/_lock") }
		for _, c := range []struct {
			name              string
			migration, leader func(attrs) attrs // what becomes of them
			says              []string
		}{
			{"both gone", gone, gone, []string{"the entry core/migration is gone", "the lock core/_lock is gone"}},
			{"migration gone", gone, same, []string{"the entry core/migration is gone"}},
			{"leader gone", same, gone, []string{"the lock core/_lock is gone"}},
			{"a Vault's", same, becomes(vault), []string{`core/_lock was taken by the Vault with leader id "leader-v2"`}},
			{"an old Vault's", same, becomes(vaultLock("v2", time.Now(), attrs{"Identity": nil})), []string{"taken by the Vault"}},
			{"another run's leader lock", same, func(attrs) attrs {
				return vaultLock("run-2", time.Now(), attrs{"Value": bin("dyn2raft run run-2")})
			}, []string{"core/_lock was taken by dyn2raft run run-2"}},
			{"another run's entry", becomes(other), same, []string{"core/migration was put by dyn2raft run run-2 on there at 2026-03-01T02:03:04Z"}},
			{"the peer's entry", becomes(peer), same, []string{"core/migration was put by `vault operator migrate` at 2026-03-01T02:03:04Z"}},
			{"an entry that can't be read", becomes(with("core", "migration", attrs{"Value": bin("{")})), same, []string{"core/migration was put by somebody unknown"}},
		} {
			e.del("core/migration")
			e.del("core/_lock")
			s, _ := e.source(ha)
			e.ok(e.lock(s, "run-1").Release(e.Context(), copier.EndUnfinished))
			for key, change := range map[string]func(attrs) attrs{"core/migration": c.migration, "core/_lock": c.leader} {
				now := change(e.get(key))
				e.del(key)
				if now != nil {
					e.put(now)
				}
			}
			migration, leader := e.get("core/migration"), mine()
			_, err := e.tryAgain(e.Context(), s, "run-1", true)
			for _, says := range c.says {
				wantError(e, err, copier.ErrLocked, says, "--restart")
				wantError(e, err, copier.ErrMoved, "", "-reset")
			}
			if len(c.says) == 1 && strings.Contains(err.Error(), ", and ") {
				e.Errorf("%s: error %q says too much", c.name, err)
			}
			e.leaderIs(leader)
			if got := e.get("core/migration"); !reflect.DeepEqual(got, migration) {
				e.Errorf("%s: the migration lock is now %v", c.name, got)
			}
		}
	},
	"a Vault takes the lock of an unfinished run": func(e *env) {
		s, _ := e.source(ha)
		e.ok(e.lock(s, "run-1").Release(e.Context(), copier.EndUnfinished))
		e.eventually("the lease to end", func() bool {
			ok, err := e.tryVaultLock("v2")
			e.ok(err)
			return ok
		})
		before := e.get("core/_lock")
		_, err := e.tryAgain(e.Context(), s, "run-1", true)
		wantError(e, err, copier.ErrMoved, "leader-v2", "--restart")
		e.leaderIs(before)
		e.ok(s.Unlock(e.Context(), "run-1", copier.EndFailed))
		e.unlocked(before)
	},
	"killed, begun again": func(e *env) { // nothing was read yet: both locks, or one, may be there
		vault := vaultLock("v1", time.Now().Add(-time.Hour), nil)
		for _, was := range []attrs{nil, vault} {
			for _, left := range []string{"both", "core/migration", "core/_lock"} {
				e.del("core/_lock")
				if was != nil {
					e.put(was)
				}
				s, _ := e.source(ha)
				e.lock(s, "run-1").kill()
				switch left {
				case "core/migration": // killed before it took the other one
					e.del("core/_lock")
					if was != nil {
						e.put(was)
					}
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
	},
	"killed, begun again, and refused": func(e *env) { // no lock of the run is left
		s, _ := e.source(ha)
		e.lock(s, "run-1").kill()
		e.put(vaultLock("v1", time.Now().Add(time.Hour), nil))
		s, rec := e.source()
		next := vaultLock("v1", time.Now().Add(2*time.Hour), nil)
		defer e.onWaiting(rec, 1, func() { e.put(next) })()
		_, err := e.tryLock(e.Context(), s, "run-1")
		wantError(e, err, ErrVaultRunning, "leader-v1", "stop every Vault")
		e.unlocked(next)
	},
	"killed, the entry removed, begun again": func(e *env) { // our own leader lock tells nothing of Vaults
		s, _ := e.source(ha)
		e.lock(s, "run-1").kill()
		e.del("core/migration")
		s, _ = e.source()
		_, err := e.tryLock(e.Context(), s, "run-1")
		wantError(e, err, ErrNotStopped, "no leader lock", "say so")
		e.unlocked(nil)
	},
	"unlock as Release would": func(e *env) {
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
	},
	"unlock": func(e *env) {
		vault := vaultLock("v1", time.Now().Add(-time.Hour), attrs{"ttl": num(17)})
		for _, was := range []attrs{nil, vault} {
			e.del("core/_lock")
			if was != nil {
				e.put(was)
			}
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
		s, _ := e.source()
		for _, run := range []string{"run-1", ""} {
			e.ok(s.Unlock(e.Context(), run, copier.EndFailed))
			e.leaderIs(vault)
			if got := e.get("core/migration"); !reflect.DeepEqual(got, peer) {
				e.Errorf("the migration lock is now %v", got)
			}
		}
	},
}

func gone(attrs) attrs                    { return nil }
func same(item attrs) attrs               { return item }
func becomes(now attrs) func(attrs) attrs { return func(attrs) attrs { return now } }

func TestLockAgain(t *testing.T) { eachServer(t, resumeCases) }

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
	thief := vaultLock("v2", time.Now().Add(time.Hour), nil)
	front := e.proxy(func(r *http.Request, send func(*http.Request)) {
		if strings.HasSuffix(r.Header.Get("X-Amz-Target"), ".UpdateItem") {
			e.put(thief)
		}
		send(r)
	})
	s, _ = e.sourceAt(front.URL, ha)
	_, err := e.tryAgain(t.Context(), s, "run-1", true)
	wantError(t, err, copier.ErrMoved, "leader-v2", "--restart")
	wantError(t, err, copier.ErrLocked, "", "-reset")
	e.leaderIs(thief)
	if e.get("core/migration") == nil {
		t.Error("the migration lock was removed")
	}
}

func TestUnlockFails(t *testing.T) { inBubble(t, unlockFails) }

func unlockFails(t *testing.T) {
	e := bubbleEnv(t, dynamotest.Options{})
	s, _ := e.source(ha, retries(1))
	e.ok(e.lock(s, "run-1").Release(t.Context(), copier.EndUnfinished))
	for _, operation := range []string{"GetItem", "DeleteItem"} {
		e.srv.SetFaults(&dynamotest.Fault{Kind: dynamotest.InternalServerError, Operation: operation})
		wantError(t, s.Unlock(t.Context(), "run-1", copier.EndFailed), copier.ErrSource, "release the locks in table vault", "give it up")
		e.held("run-1")
	}
	e.srv.SetFaults()
	e.ok(s.Unlock(t.Context(), "run-1", copier.EndFailed))
	e.unlocked(nil)
}

// TestRefusedLockWritesNothing counts requests: until nobody seems to hold the
// table nothing is written.
func TestRefusedLockWritesNothing(t *testing.T) { inBubble(t, refusedLockWritesNothing) }

func refusedLockWritesNothing(t *testing.T) {
	e := bubbleEnv(t, dynamotest.Options{})
	was := vaultLock("v1", time.Now().Add(time.Hour), attrs{"Extra": str("x")})
	e.put(was, with("a", "b", attrs{"Value": bin("v")}))
	before := e.srv.Items("vault")
	s, rec := e.source()
	defer e.onWaiting(rec, 1, func() {
		e.put(vaultLock("v1", time.Now().Add(2*time.Hour), attrs{"Extra": str("x")}))
	})()
	_, err := e.tryLock(t.Context(), s, "run-1")
	wantError(t, err, ErrVaultRunning, "leader-v1", "")
	e.put(was)
	if after := e.srv.Items("vault"); !reflect.DeepEqual(before, after) {
		t.Errorf("the table has changed:\n%v\n%v", before, after)
	}
	for operation := range e.srv.Requests() {
		if operation != "GetItem" {
			t.Errorf("%d requests of %s", e.srv.Requests()[operation], operation)
		}
	}
}

// TestLostAnswers: a write that took effect and whose answer never came is
// recognized as ours.
func TestLostAnswers(t *testing.T) { inBubble(t, lostAnswers) }

func lostAnswers(t *testing.T) {
	for _, kind := range []dynamotest.FaultKind{dynamotest.ResetMidBody, dynamotest.Truncate, dynamotest.WrongCRC} {
		for _, was := range []attrs{nil, vaultLock("v1", time.Now().Add(-time.Hour), nil)} {
			e := bubbleEnv(t, dynamotest.Options{})
			if was != nil {
				e.put(was)
			}
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

// TestCancelledWhileTaking: a write is under way when the operator interrupts,
// and reaches the table late, as one that is cut off may.
func TestCancelledWhileTaking(t *testing.T) { inBubble(t, cancelledWhileTaking) }

func cancelledWhileTaking(t *testing.T) {
	for _, operation := range []string{"PutItem", "UpdateItem"} {
		e := bubbleEnv(t, dynamotest.Options{})
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		front := e.proxy(func(r *http.Request, send func(*http.Request)) {
			if strings.HasSuffix(r.Header.Get("X-Amz-Target"), "."+operation) {
				cancel()
				time.Sleep(100 * time.Millisecond)
			}
			send(r.WithContext(context.WithoutCancel(r.Context())))
		})
		s, _ := e.sourceAt(front.URL, ha)
		s.timing.renew = 5 * time.Second
		h, err := e.tryLock(ctx, s, "run-1")
		if h != nil { // interrupted after the last write
			e.ok(h.Release(context.WithoutCancel(ctx), copier.EndFailed))
		} else if !errors.Is(err, context.Canceled) {
			t.Errorf("%s: error %v", operation, err)
		}
		front.Close() // waits for its requests
		e.unlocked(nil)
		if e.srv.Requests()[operation] == 0 {
			t.Errorf("no %s was sent", operation)
		}
	}
}

// TestHangingServer: an interrupt does not wait for long for a server that
// does not answer.
func TestHangingServer(t *testing.T) { inBubble(t, hangingServer) }

func hangingServer(t *testing.T) {
	e := bubbleEnv(t, dynamotest.Options{})
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	e.srv.SetFaults(
		&dynamotest.Fault{Kind: dynamotest.Delay, Delay: time.Minute, Operation: "PutItem", Match: func(*dynamotest.Request) bool { cancel(); return true }},
		&dynamotest.Fault{Kind: dynamotest.Delay, Delay: time.Minute, Operation: "DeleteItem"})
	s, _ := e.source(ha)
	s.timing = vaultTiming
	start := time.Now()
	_, err := e.tryLock(ctx, s, "run-1")
	if !errors.Is(err, context.Canceled) || !errors.Is(err, copier.ErrNotReleased) {
		t.Errorf("error is %v", err)
	}
	if d := time.Since(start); d > 2*time.Second {
		t.Errorf("it took %v", d)
	}
	if !strings.Contains(err.Error(), "release the locks") {
		t.Errorf("error %q does not tell that a lock may be left", err)
	}
}

func TestReleaseFails(t *testing.T) { inBubble(t, releaseFails) }

func releaseFails(t *testing.T) {
	for _, was := range []attrs{nil, vaultLock("v1", time.Now().Add(-time.Hour), nil)} {
		e := bubbleEnv(t, dynamotest.Options{})
		if was != nil {
			e.put(was)
		}
		s, _ := e.source(ha, retries(1))
		h := e.lock(s, "run-1")
		e.srv.SetFaults(&dynamotest.Fault{Kind: dynamotest.InternalServerError})
		err := h.Release(t.Context(), copier.EndComplete)
		wantError(t, err, copier.ErrSource, "release the locks in table vault", "give it up")
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

// TestLostDuringHold: a Vault takes the lock back while Lock waits for it to
// notice.
func TestLostDuringHold(t *testing.T) { inBubble(t, lostDuringHold) }

func lostDuringHold(t *testing.T) {
	e := bubbleEnv(t, dynamotest.Options{})
	e.put(vaultLock("v1", time.Now().Add(-time.Hour), nil))
	s, rec := e.source()
	s.timing.hold = time.Minute
	ctx, cancel := context.WithCancelCause(t.Context())
	defer cancel(nil)
	thief := vaultLock("v1", time.Now().Add(time.Hour), nil)
	defer e.onWaiting(rec, 2, func() { e.put(thief) })()
	_, err := s.Lock(ctx, "run-1", false, func(err error) { cancel(err) })
	wantError(t, err, ErrVaultRunning, "leader-v1", "stop every Vault")
	e.unlocked(thief)
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

// TestReplicas: of a global table somebody must say that every Vault is stopped,
// whatever its locks tell. A process that is killed has said it for those that
// resume it, as long as its migration lock is there.
func TestReplicas(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	e.ok(e.srv.SetTableDetails(e.table, dynamotest.TableDetails{Replicas: []string{"eu-west-1", "ap-east-1"}}))
	prepared := func(opts ...func(*Options)) *Source {
		s, _ := e.source(append(opts, ha)...)
		_, err := s.Open(t.Context())
		e.ok(err)
		return s
	}
	for _, was := range []attrs{nil, vaultLock("v1", time.Now().Add(-time.Minute), nil)} {
		if was != nil {
			e.put(was)
		}
		_, err := e.tryLock(t.Context(), prepared(), "run-1")
		wantError(t, err, ErrReplicated, "ap-east-1, eu-west-1", "say so")
		wantError(t, err, ErrNotStopped, "", "")
		e.unlocked(was)
		e.lock(prepared(stopped(true, nil)), "run-1").kill()
		asked := errors.New("this was said before")
		e.lock(prepared(stopped(false, asked)), "run-1").kill()
		e.del("core/migration")
		_, err = e.tryLock(t.Context(), prepared(), "run-1")
		wantError(t, err, ErrReplicated, "", "")
		e.unlocked(was)
	}
}
