package dynamodb

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	awsmiddleware "github.com/aws/aws-sdk-go-v2/aws/middleware"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb/types"

	"github.com/dyn2raft/dyn2raft/copier"
)

// attributes are an item, or what an expression needs.
type attributes = map[string]types.AttributeValue

// timing is how long things take between Vaults on one table.
type timing struct {
	lease time.Duration // how long a leader lock is good for
	renew time.Duration // how often its holder renews it
	late  time.Duration // how late the answer to a renewal may come that a commit relies on
	retry time.Duration // how often one who waits looks at it
	watch time.Duration // how long an unexpired lock is watched for a renewal
	poll  time.Duration // how often one who takes the table from a Vault that serves looks at it
	hold  time.Duration // how long a lock that somebody left is held before the first read
	tell  time.Duration // how often it is said that the lock can't be renewed
}

// vaultTiming has the lease, renewal and retry of Vault's dynamodb storage. A
// lock that is not renewed for longer than its lease has no holder who knows
// of it; one who lost it without knowing looks at it every few seconds.
var vaultTiming = timing{
	lease: 15 * time.Second,
	renew: 5 * time.Second,
	late:  5 * time.Second,
	retry: time.Second,
	watch: 20 * time.Second,
	poll:  200 * time.Millisecond,
	hold:  30 * time.Second,
	tell:  30 * time.Second,
}

// holderPrefix begins the Value of a leader lock that is ours. The run id
// follows.
const holderPrefix = "dyn2raft run "

// Lock keeps Vaults, and other copies, off the table. It implements
// [copier.Locker]:
//
//   - It looks whether a Vault is running. A leader lock that has not expired
//     by our clock is watched for 20 s, longer than a lease, one that has for
//     11 s, longer than two renewals, and either is refused if it changes.
//     Where that proves nothing, because the leader is or may be elected
//     elsewhere, Options.Stopped is asked, and always where the table has
//     replicas in other regions, in which its locks do not hold. Until here
//     nothing is written.
//   - It puts the entry core/migration, on which a starting Vault refuses to
//     start, on the condition that there is none.
//   - It takes the leader lock on the condition that it is as it was seen,
//     and renews it every 5 s: standbys wait for it. Where somebody left one,
//     30 s pass before Lock returns, so that a holder who lost it without
//     knowing can notice.
//
// Locks that a killed process of this run left are taken over: nothing is
// asked that was answered before they were taken, and nobody is waited for who
// was not there then.
//
// With held it takes both locks as that process left them, or refuses: as long
// as the entry core/migration was there no Vault can have started, and as long
// as the leader lock has our identity none that was started before can have
// become active, however long ago the lock has expired.
func (s *Source) Lock(ctx context.Context, runID string, held bool, lost func(error)) (copier.Lease, error) {
	l := &lease{s: s, run: runID, identity: []byte(runID), lost: lost}
	if held {
		return l.again(ctx)
	}
	if err := l.acquire(ctx); err != nil {
		return nil, err
	}
	return l, nil
}

// acquire takes the locks, or leaves none of this run behind.
func (l *lease) acquire(ctx context.Context) error {
	after, cancel := outlive(ctx, giveUpTime)
	defer cancel()
	if err := l.findMigration(ctx); err != nil {
		return err
	}
	if err := l.take(ctx); err != nil {
		return l.giveUp(after, err)
	}
	return nil
}

// findMigration refuses a migration lock that is not this run's, and takes one
// over that is.
func (l *lease) findMigration(ctx context.Context) error {
	m, err := l.s.readMigration(ctx, request{})
	switch {
	case err != nil || m == nil:
		return err
	case m.of(l.run):
		l.migration, l.value, l.put = ours, m.value, m.migration
	case l.takesOver(m):
		l.parked = m
	default:
		return l.s.migrationLocked(m)
	}
	return nil
}

// take takes what findMigration did not find. After an error locks of this run
// may be taken.
func (l *lease) take(ctx context.Context) error {
	s := l.s
	seen, err := s.readLeader(ctx, request{})
	if err != nil {
		return err
	}
	l.found = seen
	if _, dyn2raft := seen.run(); dyn2raft {
		l.found = seen.found() // left by a run that was killed: go back to what that one found
		if l.parked != nil && !l.parked.Replaces {
			l.left = seen // on purpose
		}
	}
	if seen.held(l.identity) {
		l.leader = ours
	}
	// Where the migration lock is ours this was answered before it was put.
	if l.migration != ours && (l.parked == nil || !l.parked.Replaces) {
		doubt, err := s.doubt(ctx, request{}, l.found)
		if err != nil {
			return err
		}
		if err := s.askStopped(ctx, doubt); err != nil {
			return err
		}
	}
	nobody := l.leader == ours && l.found == nil // was there before this run
	if run, _ := seen.run(); l.parked != nil && l.parked.Ended && run == l.parked.Run {
		nobody = true // it has said that it does nothing more
	}
	if !nobody {
		if seen, err = s.watchLeader(ctx, seen); err != nil {
			if errors.Is(err, copier.ErrLocked) && !errors.Is(err, ErrVaultRunning) {
				l.leader, l.migration = free, free // a live run's, this one's even: not to be given back
			}
			return err
		}
		if seen == nil {
			l.found, l.left, l.leader = nil, nil, free
		}
	}
	if l.migration != ours {
		if err := l.takeMigration(ctx); err != nil {
			return err
		}
	}
	if err := l.takeLeader(ctx, seen); err != nil {
		return err
	}
	l.startRenewing(ctx)
	if seen == nil || nobody {
		return nil
	}
	defer s.wait(copier.WaitOldHolder, seen.holder(), s.timing.hold)()
	return sleep(ctx, s.timing.hold)
}

// again takes the locks that a process of this run has left, if both are as it
// left them. It gives nothing back.
func (l *lease) again(ctx context.Context) (copier.Lease, error) {
	m, err := l.s.readMigration(ctx, request{})
	if err != nil {
		return nil, err
	}
	leader, err := l.s.readLeader(ctx, request{})
	if err != nil {
		return nil, err
	}
	if err := l.moved(m, leader); err != nil {
		return nil, err
	}
	l.migration, l.value = ours, m.value
	l.leader, l.found = ours, leader.found()
	l.live = leader.closed()
	l.closed.Store(l.live)
	wctx, cancel := l.s.settle(ctx)
	defer cancel()
	_, got, err := l.renew(wctx)
	switch {
	case got.refused:
		return nil, l.moved(m, got.there)
	case err != nil:
		return nil, interrupted(ctx, err)
	}
	l.startRenewing(ctx)
	return l, nil
}

// moved returns an error unless both locks are this run's.
func (l *lease) moved(m *migrationLock, leader leaderLock) error {
	var what []string
	switch {
	case m == nil:
		what = append(what, "the entry "+migrationLockKey+" is gone")
	case !m.of(l.run):
		what = append(what, "the entry "+migrationLockKey+" was put by "+m.holder())
	}
	switch {
	case leader == nil:
		what = append(what, "the lock "+leaderLockKey+" is gone")
	case !leader.held(l.identity):
		what = append(what, "the lock "+leaderLockKey+" was taken by "+leader.holder())
	}
	if what == nil {
		return nil
	}
	return l.s.locked("take the locks of run "+l.run+" again", LocksLost,
		fmt.Errorf("%w: %s", copier.ErrMoved, strings.Join(what, ", and ")))
}

// giveUp releases what a failed Lock has taken.
func (l *lease) giveUp(ctx context.Context, err error) error {
	ctx, cancel := context.WithTimeout(ctx, l.s.timing.lease)
	defer cancel()
	if rerr := l.Release(ctx, copier.EndFailed); rerr != nil {
		return errors.Join(err, rerr)
	}
	return err
}

func (s *Source) locked(op string, code copier.Code, err error) error {
	return &copier.Error{Kind: copier.ErrLocked, Op: op, Code: code, Err: err}
}

// ErrVaultRunning is returned when a Vault is running on the table, or took
// its leader lock during the copy.
var ErrVaultRunning = errors.New("a Vault is running on the table")

// ErrNotStopped is returned when nothing reports whether a Vault is running on
// the table.
var ErrNotStopped = errors.New("nothing in the table shows whether a Vault is running on it")

// ErrReplicated is returned, together with ErrNotStopped, for a global table: a
// lock is put by condition in one region, and a Vault in another one does not
// see it in time.
var ErrReplicated = errors.New("the table has replicas in other regions, and locks do not hold across regions")

// askStopped asks whether all Vaults are stopped, if there is a doubt. Of a global
// table there always is.
func (s *Source) askStopped(ctx context.Context, doubt string) error {
	why := errors.New(doubt)
	switch {
	case len(s.replicas) > 0:
		why = fmt.Errorf("%w (%s)", ErrReplicated, strings.Join(s.replicas, ", "))
	case doubt == "":
		return nil
	}
	if s.opts.Stopped != nil {
		ok, err := s.opts.Stopped(ctx, why.Error())
		if err != nil {
			return err
		}
		if ok {
			return nil
		}
	}
	facts := map[string]string{"ha": "", "replicas": ""}
	if s.opts.HAEnabled || s.opts.HAStorage != "" {
		facts["ha"] = "enabled"
	}
	if len(s.replicas) > 0 {
		facts["replicas"] = "yes"
	}
	return &copier.Error{Kind: copier.ErrLocked, Op: "look for a running Vault", Code: NotStopped, Facts: facts, Err: fmt.Errorf("%w: %w", ErrNotStopped, why)}
}

// A lease is the two locks of one run.
type lease struct {
	s        *Source
	run      string
	identity []byte
	lost     func(error)

	replaces bool           // what is in the table
	takeOver []string       // the runs whose locks are taken over
	parked   *migrationLock // of one of those, as it was read

	migration hold
	put       migration            // our migration lock
	value     types.AttributeValue // the same, as it is stored
	leader    hold
	found     leaderLock   // what the leader lock goes back to
	left      leaderLock   // what it goes back to of a run that fails, where set
	ahead     atomic.Int64 // by how much the service's clock is ahead of ours, at least, in ns
	good      atomic.Int64 // when the last renewal was sent that came in time, by boot, in ns
	asking    sync.Mutex   // held by still
	stop      context.CancelFunc
	renewing  sync.WaitGroup

	live   bool        // it was taken from Vaults that served, and stays theirs no more once all is copied: see Take
	closed atomic.Bool // the leader lock expires in some years
}

// A hold is what a lease knows of one of its locks:
//
//	free ──▶ unsure ──▶ ours
//	  ▲        │
//	  └────────┘ somebody else has it
//
// What is not free is given back, on the condition that it is ours.
type hold int

const (
	free   hold = iota
	unsure      // a request that takes it is under way, or its answer was lost
	ours
)

var _ copier.Lease = (*lease)(nil)

// takeMigration puts the migration lock. After an error it may be put.
func (l *lease) takeMigration(ctx context.Context) error {
	host, err := os.Hostname()
	if err != nil {
		host = "an unknown host"
	}
	c := change{key: migrationLockKey, cond: "attribute_not_exists(#Path)"}
	l.put = migration{Start: time.Now().UTC(), Run: l.run, Host: host, Replaces: l.replaces}
	if l.parked != nil {
		l.put.over(l.parked)
		l.closed.Store(l.put.Backup != "")
		c.cond, c.values = "#Value = :parked", attributes{":parked": l.parked.value}
	}
	value, err := json.Marshal(l.put)
	if err != nil {
		return fmt.Errorf("write migration lock: %w", err)
	}
	l.migration, l.value = unsure, &types.AttributeValueMemberB{Value: value}
	c.put = attributes{attrValue: l.value}
	wctx, cancel := l.s.settle(ctx)
	defer cancel()
	got, err := l.s.write(wctx, c)
	there := migrationOf(got.there)
	switch {
	case err != nil:
		return interrupted(ctx, err)
	case got.refused && there == nil:
		l.migration = free
		return l.s.lostMigration()
	case got.refused && !there.of(l.run):
		l.migration = free
		return l.s.migrationLocked(there)
	case got.refused:
		// Put by a try whose answer was lost, or, late, by a process of this
		// run that was killed.
		l.value, l.put = there.value, there.migration
	}
	l.migration = ours
	return nil
}

// takeLeader takes the leader lock, on the condition that it is as it was seen.
// After an error it may be taken.
func (l *lease) takeLeader(ctx context.Context, seen leaderLock) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	c := change{key: leaderLockKey, update: "SET #Value = :value, #Identity = :identity, #Expires = :expires", values: attributes{
		":value":    &types.AttributeValueMemberB{Value: []byte(holderPrefix + l.run)},
		":identity": &types.AttributeValueMemberB{Value: l.identity},
		":expires":  expiresAt(l.expiry()),
	}}
	c.cond = seen.asSeen(c.values)
	if l.found == nil {
		c.update += " REMOVE #" + attrFound
	} else {
		was := attributes{}
		for _, name := range takenAttrs {
			if v := l.found[name]; v != nil {
				was[name] = v
			}
		}
		c.update += ", #" + attrFound + " = :found"
		c.values[":found"] = &types.AttributeValueMemberM{Value: was}
	}
	l.leader = unsure
	wctx, cancel := l.s.settle(ctx)
	defer cancel()
	got, err := l.update(wctx, c)
	there := leaderLock(got.there)
	switch {
	case err != nil:
		return interrupted(ctx, err)
	case !got.refused, there.held(l.identity): // by a try whose answer was lost
		l.leader = ours
		return nil
	}
	l.leader = free
	what := fmt.Errorf("%w: it gave the lock %s back at this moment", ErrVaultRunning, leaderLockKey)
	if there != nil {
		what = fmt.Errorf("%w: %s, took the lock %s first", ErrVaultRunning, there.holder(), leaderLockKey)
	}
	return l.s.locked("take the leader lock", VaultRuns, what)
}

// An interrupted run gives its locks back within 2 s: giveUpTime is until when,
// settleTime how much of it a request may take that is under way.
const (
	settleTime = time.Second
	giveUpTime = 1800 * time.Millisecond
)

// settle returns a context for a request that takes a lock. It outlives ctx by
// the time in which such a request is normally answered: one that is cut off
// may reach the table after the lock was given back, and leave it locked.
func (s *Source) settle(ctx context.Context) (context.Context, context.CancelFunc) {
	return outlive(ctx, min(s.timing.renew, settleTime))
}

// interrupted is the error of a request that has outlived ctx: where that has ended,
// it is why.
func interrupted(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return err
}

// outlive returns a context that ends that long after ctx.
func outlive(ctx context.Context, d time.Duration) (context.Context, context.CancelFunc) {
	out, cancel := context.WithCancelCause(context.WithoutCancel(ctx))
	stop := context.AfterFunc(ctx, func() {
		_ = sleep(out, d) // ends early when nobody needs it any more
		cancel(fmt.Errorf("no answer within %v", d))
	})
	return out, func() {
		stop()
		cancel(nil)
	}
}

// A change is what a request writes to a lock: it puts the item, updates it, or,
// where neither is said, deletes it. In its expressions a # comes before the name
// of an attribute.
type change struct {
	key    string // Vault's
	put    attributes
	update string
	cond   string // what must hold
	values attributes
}

// A written is the answer to a change.
type written struct {
	at       time.Time  // the service's; zero where it does not tell
	refused  bool       // the condition did not hold
	there    attributes // then: the item as it is, nil where there is none
	repeated bool       // an earlier try may have had its effect, its answer was lost
}

var attributeNames = regexp.MustCompile(`#\w+`)

// write sends a change. That its condition did not hold is no error.
func (s *Source) write(ctx context.Context, c change) (got written, err error) {
	const old = types.ReturnValuesOnConditionCheckFailureAllOld
	item := itemKey(KeyItem(c.key))
	names := map[string]string{}
	for _, name := range attributeNames.FindAllString(c.update+" "+c.cond, -1) {
		names[name] = name[1:]
	}
	var q request
	switch {
	case c.put != nil:
		maps.Copy(item, c.put)
		_, err = ask(ctx, s, &q, s.client.PutItem, &dynamodb.PutItemInput{TableName: &s.opts.Table, Item: item,
			ConditionExpression: &c.cond, ExpressionAttributeNames: names, ExpressionAttributeValues: c.values, ReturnValuesOnConditionCheckFailure: old})
	case c.update != "":
		var out *dynamodb.UpdateItemOutput
		out, err = ask(ctx, s, &q, s.client.UpdateItem, &dynamodb.UpdateItemInput{TableName: &s.opts.Table, Key: item, UpdateExpression: &c.update,
			ConditionExpression: &c.cond, ExpressionAttributeNames: names, ExpressionAttributeValues: c.values, ReturnValuesOnConditionCheckFailure: old})
		if err == nil {
			got.at, _ = awsmiddleware.GetServerTime(out.ResultMetadata)
		}
	default:
		_, err = ask(ctx, s, &q, s.client.DeleteItem, &dynamodb.DeleteItemInput{TableName: &s.opts.Table, Key: item,
			ConditionExpression: &c.cond, ExpressionAttributeNames: names, ExpressionAttributeValues: c.values, ReturnValuesOnConditionCheckFailure: old})
	}
	if got.there, got.refused = conditionFailed(err); got.refused {
		got.repeated, err = q.repeated(), nil
	}
	return got, err
}

// update is write, and learns what time the service has.
func (l *lease) update(ctx context.Context, c change) (written, error) {
	got, err := l.s.write(ctx, c)
	if !got.at.IsZero() {
		l.ahead.Store(int64(max(time.Until(got.at), 0)))
	}
	return got, err
}

// expiry is when a lock expires that is renewed now, by the clock that is
// ahead, ours or the service's: that of a virtual machine which was paused may
// be behind, and Vaults would find a lock of its making expired at once.
func (l *lease) expiry() time.Time {
	if l.closed.Load() {
		return time.Now().Add(closedFor)
	}
	return time.Now().Add(time.Duration(l.ahead.Load()) + l.s.timing.lease)
}

func expiresAt(t time.Time) types.AttributeValue {
	return &types.AttributeValueMemberN{Value: strconv.FormatInt(t.UnixNano(), 10)}
}

// startRenewing keeps the leader lock ours until stop is called.
func (l *lease) startRenewing(ctx context.Context) {
	ctx, l.stop = context.WithCancel(context.WithoutCancel(ctx))
	l.renewing.Go(func() {
		tick := time.NewTicker(l.s.timing.renew)
		defer tick.Stop()
		var failing, told time.Time // since when it fails, and when that was said last
		for {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
			}
			rctx, cancel := context.WithTimeout(ctx, l.s.timing.renew) // the later it is retried, the staler is its expiry
			_, got, err := l.renew(rctx)
			cancel()
			switch {
			case ctx.Err() != nil:
			case got.refused:
				l.lost(l.s.lostLeader(got.there))
				return
			case err == nil:
				failing = time.Time{}
			default:
				// The next tick tries again. If somebody takes the lock in
				// between, the check before the commit finds it.
				if failing.IsZero() {
					failing = time.Now()
				}
				if time.Since(told) < l.s.timing.tell {
					break
				}
				told = time.Now()
				message := "the leader lock could not be renewed"
				if since := time.Since(failing).Round(time.Second); since > 0 {
					message += " for " + since.String()
				}
				l.s.opts.Events(copier.Warning{Message: message + ": " + plain(err).Error()})
			}
		}
	})
}

// renew lets our leader lock expire later, and reports whether it is then good for long
// enough. Two things must hold: the answer came soon, by a clock that runs while the
// machine sleeps; and by the service's clock the lock does not expire before the next
// renewal is due.
func (l *lease) renew(ctx context.Context) (fresh bool, got written, err error) {
	sent, expiry := l.s.boot(), l.expiry()
	got, err = l.update(ctx, change{key: leaderLockKey, update: "SET #Expires = :expires", cond: "#Identity = :identity", values: attributes{
		":expires":  expiresAt(expiry),
		":identity": &types.AttributeValueMemberB{Value: l.identity},
	}})
	t := l.s.timing
	fresh = err == nil && !got.refused && l.s.boot()-sent < t.late && (got.at.IsZero() || expiry.Sub(got.at) >= t.lease-t.late)
	if fresh {
		l.good.Store(int64(sent))
	}
	return fresh, got, err
}

// still makes sure that the leader lock is ours and was renewed of late: by what time this
// machine knows, nobody else can have it yet.
func (l *lease) still(ctx context.Context) error {
	l.asking.Lock()
	defer l.asking.Unlock()
	if good := time.Duration(l.good.Load()); good > 0 && l.s.boot()-good < l.s.timing.lease-l.s.timing.late {
		return nil
	}
	for range freshTries {
		fresh, got, err := l.renew(ctx)
		switch {
		case got.refused:
			return l.s.lostLeader(got.there)
		case err != nil || fresh:
			return err
		}
	}
	return &copier.Error{Kind: copier.ErrSource, Op: "hold the leader lock", Code: AnswersLate, Err: ErrLate}
}

// freshTries is how often Check asks until an answer comes soon enough.
const freshTries = 3

// ErrLate is returned by a lease's Check where the answers come so late that
// nobody knows whether the lock is held by now.
var ErrLate = errors.New("the answer comes so late that the leader lock may have expired since")

// Check implements [copier.Lease]. Of a table that was taken by [Source.Take] it lets the
// leader lock expire only in some years. It looks whether the table is still the same,
// and writes to both locks, on the condition that they are ours. The leader lock
// comes last, and is then good for 10 s or more. Clocks can only make it ask again: what the service answers decides.
func (l *lease) Check(ctx context.Context) error {
	if err := l.s.Recheck(ctx); err != nil {
		return err
	}
	got, err := l.update(ctx, change{key: migrationLockKey, update: "SET #Value = :value", cond: "#Value = :value", values: attributes{":value": l.value}})
	if got.refused {
		return l.s.lostMigration()
	} else if err != nil {
		return err
	}
	l.closed.Store(l.live || l.put.Backup != "")
	l.good.Store(0)
	return l.still(ctx)
}

// Release implements [copier.Lease]. The leader lock goes back to what was
// found. Where Options.KeepLocked is set, a complete copy leaves the migration
// lock, and one of a table that was taken by [Source.Take] leaves both for years. A run
// that will be resumed leaves both: they are known by its id, and
// the leader lock expires by itself. Each lock is given back on the condition
// that it is ours. Where the leader lock of a complete copy is not, the migration
// lock stays.
func (l *lease) Release(ctx context.Context, end copier.End) error {
	if l.stop != nil {
		l.stop()
		l.renewing.Wait()
	}
	if end == copier.EndUnfinished || end == copier.EndFailed && l.put.Backup != "" {
		l.ended(ctx)
		return nil
	}
	l.s.capacity.open.Store(false)
	l.s.paths.open.Store(false)
	if l.live && end == copier.EndComplete {
		return l.s.released(l.close(ctx))
	}
	var leader, migration error
	if l.live && l.migration != free { // a Vault that is started from here on waits for the lock
		migration = l.migration.gaveBack(l.s.deleteMigration(ctx, l.value))
		l.migration = free
	}
	if l.leader != free {
		found := l.found
		if end == copier.EndFailed && l.left != nil {
			found = l.left
		}
		leader = l.leader.gaveBack(l.s.restoreLeader(ctx, &types.AttributeValueMemberB{Value: l.identity}, found))
	}
	stays := end == copier.EndComplete && (l.s.opts.KeepLocked || errors.Is(leader, copier.ErrMoved))
	if l.migration != free && !stays && (leader == nil || ctx.Err() == nil) {
		give := l.s.deleteMigration
		if end == copier.EndFailed {
			give = l.restoreMigration
		}
		migration = l.migration.gaveBack(give(ctx, l.value))
	}
	return l.s.released(leader, migration)
}

// gaveBack is what an error of giving a lock back means: where it may never have
// been taken, that it is not ours is no news.
func (h hold) gaveBack(err error) error {
	if h == unsure && errors.Is(err, copier.ErrMoved) {
		return nil
	}
	return err
}

// released wraps the errors of giving locks back, if there are any. A lock that
// is somebody else's by now is not ours to give back.
func (s *Source) released(errs ...error) error {
	err := errors.Join(errs...)
	if !slices.ContainsFunc(errs, func(err error) bool { return err != nil && !errors.Is(err, copier.ErrMoved) }) {
		return err
	}
	return &copier.Error{Kind: copier.ErrSource, Op: "release the locks in table " + s.opts.Table, Code: LocksLeft,
		Err: fmt.Errorf("%w: %w", copier.ErrNotReleased, err)}
}

// Unlock implements [copier.Locker]. The leader lock goes back to what that run
// found.
func (s *Source) Unlock(ctx context.Context, runID string, end copier.End) error {
	if end == copier.EndUnfinished {
		return nil
	}
	leader, err := s.readLeader(ctx, request{})
	stays := leader.held([]byte(runID)) && leader.closed() && end == copier.EndComplete
	if err == nil && leader.held([]byte(runID)) && !stays {
		err = s.restoreLeader(ctx, leader[attrIdentity], leader.found())
	}
	if stays || end == copier.EndComplete && s.opts.KeepLocked {
		return s.released(err)
	}
	m, merr := s.readMigration(ctx, request{})
	if merr == nil && m.of(runID) {
		merr = s.deleteMigration(ctx, m.value)
	}
	return s.released(err, merr)
}

// Reset removes the migration lock, whoever left it, as `vault operator
// migrate -reset` does, and our own leader lock, and returns what it removed.
// A lock whose run is still renewing it is refused with [copier.ErrLocked]; a
// leader lock that is a Vault's is left alone. An error wraps [copier.ErrMoved]
// where a lock became somebody else's at this moment, and [ErrHalfReplaced] where a copy
// has begun to replace what is in the table: then nothing is removed.
func (s *Source) Reset(ctx context.Context) ([]string, error) {
	var freed []string
	if m, err := s.readMigration(ctx, request{}); err != nil {
		return nil, err
	} else if m != nil && m.Backup != "" {
		return nil, s.halfReplaced("free the table", m)
	}
	leader, err := s.readLeader(ctx, request{})
	if err != nil {
		return nil, err
	}
	if _, ours := leader.run(); ours {
		if leader, err = s.watchLeader(ctx, leader); err != nil {
			return nil, err
		}
	}
	if _, ours := leader.run(); ours {
		if err := s.restoreLeader(ctx, leader[attrIdentity], leader.found()); err != nil {
			return nil, err
		}
		freed = append(freed, leaderLockKey)
	}
	if _, ours := leader.run(); leader != nil && !ours && !leader.expired() {
		s.opts.Events(copier.Warning{Message: "the lock " + leaderLockKey + " stays: " + leader.holder() + ", has it"})
	}
	m, err := s.readMigration(ctx, request{})
	if err != nil || m == nil {
		return freed, err
	}
	if err := s.deleteMigration(ctx, m.value); err != nil {
		return freed, err
	}
	return append(freed, migrationLockKey), nil
}

// getItem returns an item as it is now, or nil.
func (s *Source) getItem(ctx context.Context, q request, vaultKey string) (attributes, error) {
	out, err := ask(ctx, s, &q, s.client.GetItem, &dynamodb.GetItemInput{
		TableName:      &s.opts.Table,
		Key:            itemKey(KeyItem(vaultKey)),
		ConsistentRead: aws.Bool(true),
	})
	if err != nil {
		return nil, err
	}
	if out.ConsumedCapacity != nil {
		// Who looks at a lock does not wait for it; the next pages do.
		s.capacity.give(-aws.ToFloat64(out.ConsumedCapacity.CapacityUnits))
	}
	if len(out.Item) == 0 {
		return nil, nil
	}
	return out.Item, nil
}

func binaryOf(v types.AttributeValue) []byte {
	if b, ok := v.(*types.AttributeValueMemberB); ok {
		return b.Value
	}
	return nil
}

// conditionFailed reports whether a write was refused because its condition did
// not hold, and returns the item as it is, where the write asked for it and
// there is one.
func conditionFailed(err error) (attributes, bool) {
	failed, ok := errors.AsType[*types.ConditionalCheckFailedException](err)
	if !ok || len(failed.Item) == 0 {
		return nil, ok
	}
	return failed.Item, ok
}

// sleep waits, and returns early with the reason when ctx ends.
func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
