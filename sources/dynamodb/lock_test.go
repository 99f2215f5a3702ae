package dynamodb

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/dynamodb/types"

	"github.com/dyn2raft/dyn2raft/copier"
	"github.com/dyn2raft/dyn2raft/sources/dynamodb/dynamotest"
)

// A lockCase is what Lock does with what it finds in a table.
type lockCase struct {
	want  error // nil: it takes both locks, and Release leaves the table as it was
	says  string
	code  copier.Code
	waits int // on purpose: for a renewal, and for a holder who has lost the lock to notice

	leader    *vaultLease // before, nil for none
	others    []attrs
	opts      []func(*Options)
	meanwhile func(e *env, n int) // after n renewals' time
	givenBack bool                // meanwhile
}

// lockCases hold on each server.
var lockCases = map[string]lockCase{
	"ha":                      {opts: opts(ha)},
	"ha, and nobody is asked": {opts: opts(ha, stopped(false, errAsked))},
	"nobody knows":            {want: ErrNotStopped, says: "no leader lock", code: NotStopped},
	"stopped":                 {opts: opts(stopped(true, nil))},
	"not stopped":             {want: ErrNotStopped, says: "no leader lock", code: NotStopped, opts: opts(stopped(false, nil))},
	"asking failed":           {want: errAsked, opts: opts(stopped(false, errAsked))},
	"ha elsewhere":            {want: ErrNotStopped, says: `"raft"`, code: NotStopped, opts: opts(ha, haStorage("raft"))},
	"ha elsewhere, stopped":   {opts: opts(ha, haStorage("raft"), stopped(true, nil))},

	// An active Vault announces itself wherever its lock is, and an orderly stop ends that.
	"announced":                         {want: ErrNotStopped, says: "core/leader/another", code: NotStopped, others: announced("another"), opts: opts(ha)},
	"announced, beside an expired lock": {want: ErrNotStopped, says: "core/leader/another", code: NotStopped, others: announced("another"), leader: &vaultLease{"v1", -time.Hour, nil}, opts: opts(ha)},
	"announced by the lock's holder":    {waits: 2, others: announced("leader-v1"), leader: &vaultLease{"v1", -time.Hour, nil}, opts: opts(ha)},

	"expired":                    {waits: 2, leader: &vaultLease{"v1", -time.Hour, nil}},
	"expired just now":           {waits: 2, leader: &vaultLease{"v1", -time.Millisecond, attrs{"ttl": num(17), "Extra": str("x")}}},
	"expired, of an old Vault":   {waits: 2, leader: &vaultLease{"v1", -time.Hour, attrs{"Identity": nil}}},
	"expired, without a value":   {waits: 2, leader: &vaultLease{"v1", -time.Hour, attrs{"Value": null, "Identity": bin("")}}},
	"an empty item":              {waits: 2, leader: &vaultLease{"v1", 0, attrs{"Value": nil, "Identity": nil, "Expires": nil}}},
	"unreadable expiry":          {waits: 2, leader: &vaultLease{"v1", time.Hour, attrs{"Expires": &types.AttributeValueMemberN{Value: "1.5"}}}}, // counts as not expired
	"its holder's clock is fast": {waits: 2, leader: &vaultLease{"v1", 24 * time.Hour, attrs{"ttl": num(17)}}},
	// It tells nothing of today's Vaults.
	"of another age":     {want: ErrNotStopped, says: "expired at 20", code: NotStopped, leader: &vaultLease{"v1", -400 * 24 * time.Hour, nil}},
	"of another age, ha": {waits: 2, leader: &vaultLease{"v1", -400 * 24 * time.Hour, nil}, opts: opts(ha)},

	"renewed": {want: ErrVaultRunning, says: "leader-v1", code: VaultRuns, leader: &vaultLease{"v1", time.Hour, nil}, meanwhile: func(e *env, _ int) {
		_, err := e.tryVaultLock("v1")
		e.ok(err)
	}},
	"renewed by a slow clock": {want: ErrVaultRunning, says: "leader-v1", code: VaultRuns, leader: &vaultLease{"v1", -time.Hour, nil}, meanwhile: func(e *env, n int) {
		e.put(vaultLease{"v1", time.Duration(n)*time.Second - time.Hour, nil}.item())
	}},
	// No ha_enabled: the lock that was seen is proof enough.
	"given back meanwhile": {waits: 1, givenBack: true, leader: &vaultLease{"v1", time.Hour, nil}, meanwhile: func(e *env, _ int) { e.del("core/_lock") }},
	"taken by another meanwhile": {want: ErrVaultRunning, says: "leader-v2", code: VaultRuns, leader: &vaultLease{"v1", time.Hour, nil}, meanwhile: func(e *env, n int) {
		if n == 1 {
			e.del("core/_lock")
		} else {
			e.put(vaultLease{"v2", time.Hour, nil}.item())
		}
	}},

	"the entry of another run":          {want: ErrMigrationLock, says: "dyn2raft run run-0 on there took it at 2026-03-01T02:03:04Z", code: LockedByCopy, opts: opts(ha), others: entry(bin(`{"start":"2026-03-01T02:03:04Z","dyn2raft_run":"run-0","dyn2raft_host":"there"}`))},
	"the entry of the peer":             {want: ErrMigrationLock, says: "`vault operator migrate` took it at 2026-03-01T01:03:04Z", code: LockedByMigration, opts: opts(ha), others: entry(bin(`{"start":"2026-03-01T02:03:04+01:00"}`))},
	"an entry that is no JSON":          {want: ErrMigrationLock, says: "can't be read", code: LockUnknown, opts: opts(ha), others: entry(bin("{"))},
	"an entry whose value is null":      {want: ErrMigrationLock, says: "can't be read", code: LockUnknown, opts: opts(ha), others: entry(null)},
	"an entry that has no value at all": {want: ErrMigrationLock, says: "can't be read", code: LockUnknown, opts: opts(ha), others: []attrs{with("core", "migration", nil)}},
}

func TestLock(t *testing.T) {
	cases := map[string]func(*env){}
	for name, c := range lockCases {
		cases[name] = c.run
	}
	eachServer(t, cases)
}

func (c lockCase) run(e *env) {
	e.put(c.others...)
	if c.leader != nil {
		e.put(c.leader.item())
	}
	leader, migration := e.get("core/_lock"), e.get("core/migration")
	s, rec := e.source(c.opts...)
	n := 0
	stop := every(e.timing.renew, func() {
		if n++; c.meanwhile != nil {
			c.meanwhile(e, n)
		}
	})
	defer stop()
	start := time.Now()
	h, err := e.tryLock(e.Context(), s, "run-1")
	took := time.Since(start)
	stop()

	if c.want != nil {
		if !errors.Is(err, c.want) {
			e.Fatalf("error is %v, expected %v", err, c.want)
		}
		if c.code != "" {
			wantError(e, err, copier.ErrLocked, c.says, c.code)
		}
		if got := e.get("core/migration"); !reflect.DeepEqual(got, migration) {
			e.Errorf("the migration lock is now %v", got)
		}
		if c.meanwhile == nil {
			e.leaderIs(leader)
		} else if got := e.get("core/_lock"); !strings.HasPrefix(string(binaryOf(got["Value"])), c.says) {
			e.Errorf("the leader lock is %s, expected that of %s", show(got), c.says)
		}
		if locks, err := s.Locks(e.Context()); c.want == ErrNotStopped && (err != nil || !strings.Contains(locks.Doubt, c.says)) {
			e.Errorf("doubt %q, %v", locks.Doubt, err)
		}
		return
	}
	e.ok(err)
	e.held("run-1")
	least := time.Duration(0)
	if c.waits > 1 {
		least = e.timing.hold
	}
	if c.leader != nil && c.leader.expires > 0 {
		least += e.timing.watch
	}
	if w := locksAwaited(rec); len(w) != c.waits || took < least {
		e.Errorf("locked after %v, expected %v or more; it waited for %+v", took, least, w)
	}
	e.ok(h.Check(e.Context()))
	e.ok(h.Release(e.Context(), copier.EndComplete))
	if c.givenBack {
		leader = nil
	}
	e.unlocked(leader)
}

// TestLockTakenAtTheSameMoment: what Lock has read is stale when it writes.
func TestLockTakenAtTheSameMoment(t *testing.T) {
	cases := map[string]func(*env){}
	for name, seen := range map[string]*vaultLease{"none": nil, "expired": {"v1", -time.Hour, nil}, "an old Vault's": {"v1", -time.Hour, attrs{"Identity": nil}}} {
		cases[name+", then another's"] = func(e *env) { e.takenFirst(seen, &vaultLease{"v2", time.Hour, nil}, "leader-v2") }
		if seen != nil {
			cases[name+", then none"] = func(e *env) { e.takenFirst(seen, nil, "gave the lock core/_lock back") }
		}
	}
	eachServer(t, cases)
}

func (e *env) takenFirst(first, then *vaultLease, says string) {
	e.leader(first)
	s, _ := e.source()
	seen, err := s.readLeader(e.Context(), request{})
	e.ok(err)
	next := e.leader(then)
	l := &lease{s: s, run: "run-1", identity: []byte("run-1"), found: seen, lost: func(error) {}}
	e.ok(l.takeMigration(e.Context()))
	err = l.giveUp(e.Context(), l.takeLeader(e.Context(), seen))
	wantError(e, err, ErrVaultRunning, says, VaultRuns)
	wantError(e, err, copier.ErrLocked, "", VaultRuns)
	e.unlocked(next)
}

// TestRefusedLockWritesNothing counts requests: until nobody seems to hold the
// table nothing is written.
func TestRefusedLockWritesNothing(t *testing.T) { inBubble(t, refusedLockWritesNothing) }

func refusedLockWritesNothing(t *testing.T) {
	e := bubbleEnv(t, dynamotest.Options{})
	was := vaultLease{"v1", time.Hour, attrs{"Extra": str("x")}}.item()
	e.put(was, with("a", "b", attrs{"Value": bin("v")}))
	before := e.srv.Items("vault")
	s, rec := e.source()
	defer e.onWaiting(rec, 1, func() {
		e.put(vaultLease{"v1", 2 * time.Hour, attrs{"Extra": str("x")}}.item())
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

// TestLockCancelled: in the watch, and while an old holder is waited for.
func TestLockCancelled(t *testing.T) {
	why := errors.New("the operator said so")
	cancelled := func(expires time.Duration, wait int) func(*env) {
		return func(e *env) {
			was := e.leader(&vaultLease{"v1", expires, nil})
			s, rec := e.source()
			s.timing.watch, s.timing.hold = time.Minute, time.Minute
			ctx, cancel := context.WithCancelCause(e.Context())
			done := e.onWaiting(rec, wait, func() { cancel(why) })
			if _, err := e.tryLock(ctx, s, "run-1"); !errors.Is(err, why) {
				e.Errorf("error is %v", err)
			}
			done()
			e.unlocked(was)
		}
	}
	eachServer(t, map[string]func(*env){"watch": cancelled(time.Hour, 1), "hold": cancelled(-time.Hour, 2)})
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

// TestLostDuringHold: a Vault takes the lock back while Lock waits for it to
// notice.
func TestLostDuringHold(t *testing.T) { inBubble(t, lostDuringHold) }

func lostDuringHold(t *testing.T) {
	e := bubbleEnv(t, dynamotest.Options{})
	e.put(vaultLease{"v1", -time.Hour, nil}.item())
	s, rec := e.source()
	s.timing.hold = time.Minute
	ctx, cancel := context.WithCancelCause(t.Context())
	defer cancel(nil)
	thief := vaultLease{"v1", time.Hour, nil}.item()
	defer e.onWaiting(rec, 2, func() { e.put(thief) })()
	_, err := s.Lock(ctx, "run-1", false, func(err error) { cancel(err) })
	wantError(t, err, ErrVaultRunning, "leader-v1", VaultRuns)
	e.unlocked(thief)
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
	for _, l := range []*vaultLease{nil, {"v1", -time.Minute, nil}} {
		was := e.leader(l)
		_, err := e.tryLock(t.Context(), prepared(), "run-1")
		wantError(t, err, ErrReplicated, "ap-east-1, eu-west-1", NotStopped)
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

// TestTwoRuns: of two that lock at the same time one gets both locks, and the
// other one none.
func TestTwoRuns(t *testing.T) { onEach(t, twoRuns) }

func twoRuns(e *env) {
	rounds := 12
	if e.srv == nil {
		rounds = 3
	}
	for round := range rounds {
		var was attrs
		if round%2 == 1 {
			was = e.leader(&vaultLease{"v1", -time.Hour, nil})
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
		e.leader(nil)
	}
}
