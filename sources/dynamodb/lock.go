package dynamodb

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"reflect"
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

// timing is how long things take between Vaults on one table.
type timing struct {
	lease time.Duration // how long a leader lock is good for
	renew time.Duration // how often its holder renews it
	late  time.Duration // how late the answer to a renewal may come that a commit relies on
	retry time.Duration // how often one who waits looks at it
	watch time.Duration // how long an unexpired lock is watched for a renewal
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
	hold:  30 * time.Second,
	tell:  30 * time.Second,
}

// attrFound is our own attribute of a leader lock that we took over: what it
// held before, so that it can be left as it was found, by Reset too.
const attrFound = "Dyn2raftFound"

// holderPrefix begins the Value of a leader lock that is ours. The run id
// follows.
const holderPrefix = "dyn2raft run "

// migration is the JSON of the migration lock. Vault reads "start" only.
type migration struct {
	Start time.Time `json:"start"`
	// Run and Host are set on ours.
	Run  string `json:"dyn2raft_run,omitempty"`
	Host string `json:"dyn2raft_host,omitempty"`
}

// A leaderLock is the item core/_lock as it was read, and nil where there is
// none. Items of old Vaults have no Identity.
type leaderLock map[string]types.AttributeValue

func (l leaderLock) sameAs(o leaderLock) bool {
	return (l == nil) == (o == nil) &&
		reflect.DeepEqual(l[attrIdentity], o[attrIdentity]) && reflect.DeepEqual(l[attrExpires], o[attrExpires])
}

// expiry returns when the lock expires, and false if it does not say.
func (l leaderLock) expiry() (time.Time, bool) {
	n, ok := l[attrExpires].(*types.AttributeValueMemberN)
	if !ok {
		return time.Time{}, false
	}
	ns, err := strconv.ParseInt(n.Value, 10, 64)
	return time.Unix(0, ns), err == nil
}

// expired reports whether nobody holds the lock any more, by our clock. One
// whose Expires is there and can't be read does not count as expired.
func (l leaderLock) expired() bool {
	t, ok := l.expiry()
	return ok && !t.After(time.Now()) || l[attrExpires] == nil
}

// staleAfter is how long a leader lock may have been expired to show that
// Vaults still elect their leader in the table.
const staleAfter = 24 * time.Hour

// stale reports whether the lock expired long ago.
func (l leaderLock) stale() bool {
	t, ok := l.expiry()
	return ok && time.Since(t) > staleAfter
}

// run is the id of the dyn2raft run that holds the lock, if one does.
func (l leaderLock) run() (string, bool) {
	if l[attrIdentity] == nil {
		return "", false
	}
	return strings.CutPrefix(string(binaryOf(l[attrValue])), holderPrefix)
}

// held reports whether the lock has the given identity.
func (l leaderLock) held(identity []byte) bool {
	return l[attrIdentity] != nil && bytes.Equal(binaryOf(l[attrIdentity]), identity)
}

// found is what a lock of ours has to go back to.
func (l leaderLock) found() leaderLock {
	if m, ok := l[attrFound].(*types.AttributeValueMemberM); ok {
		return m.Value
	}
	return nil
}

// holder names who holds the lock.
func (l leaderLock) holder() string {
	if id, ok := l.run(); ok {
		return holderPrefix + shown(id)
	}
	name := fmt.Sprintf("the Vault with leader id %q", binaryOf(l[attrValue]))
	if t, ok := l.expiry(); ok {
		name += ", until " + t.UTC().Format(time.RFC3339)
	}
	return name
}

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
	after, cancel := outlive(ctx, giveUpTime)
	defer cancel()
	if err := l.findMigration(ctx); err != nil {
		return nil, err
	}
	if err := l.take(ctx); err != nil {
		return nil, l.giveUp(after, err)
	}
	return l, nil
}

// findMigration refuses a migration lock that is not this run's, and takes one
// over that is.
func (l *lease) findMigration(ctx context.Context) error {
	item, err := l.s.getItem(ctx, request{}, migrationLockKey)
	switch {
	case err != nil || item == nil:
		return err
	case !putBy(item, l.run):
		return l.s.migrationLocked(item)
	}
	l.migration = binaryOf(item[attrValue])
	return nil
}

// take takes what findMigration did not find. After an error locks of this run
// may be taken.
func (l *lease) take(ctx context.Context) error {
	s := l.s
	first, err := s.readLeader(ctx, request{})
	if err != nil {
		return err
	}
	ours := first.held(l.identity)
	l.found = first
	if _, dyn2raft := first.run(); dyn2raft {
		l.found = first.found() // left by a run that was killed: go back to what that one found
	}
	l.leader = ours
	// Where the migration lock is ours this was answered before it was put.
	if l.migration == nil {
		doubt, err := s.doubt(ctx, request{}, l.found)
		if err != nil {
			return err
		}
		if err := s.askStopped(ctx, doubt); err != nil {
			return err
		}
	}
	l.seen = first
	nobody := ours && l.found == nil // was there before this run
	if !nobody {
		if l.seen, err = s.watchLeader(ctx, first); err != nil {
			if errors.Is(err, copier.ErrLocked) && !errors.Is(err, ErrVaultRunning) {
				l.leader, l.migration = false, nil // a live run's, this one's even: not to be given back
			}
			return err
		}
		if l.seen == nil {
			l.found, l.leader = nil, false
		}
	}
	if l.migration == nil {
		if err := l.takeMigration(ctx); err != nil {
			return err
		}
	}
	if err := l.takeLeader(ctx); err != nil {
		return err
	}
	l.startRenewing(ctx)
	if l.seen == nil || nobody {
		return nil
	}
	defer s.wait(copier.WaitOldHolder, l.seen.holder(), s.timing.hold)()
	return sleep(ctx, s.timing.hold)
}

// again takes the locks that a process of this run has left, if both are as it
// left them. It gives nothing back.
func (l *lease) again(ctx context.Context) (copier.Lease, error) {
	item, err := l.s.getItem(ctx, request{}, migrationLockKey)
	if err != nil {
		return nil, err
	}
	leader, err := l.s.readLeader(ctx, request{})
	if err != nil {
		return nil, err
	}
	if err := l.moved(item, leader); err != nil {
		return nil, err
	}
	l.migration = binaryOf(item[attrValue])
	l.found, l.leader = leader.found(), true
	wctx, cancel := l.s.settle(ctx)
	defer cancel()
	err = l.extend(wctx)
	switch there, failed := conditionFailed(err); {
	case failed:
		return nil, l.moved(item, there)
	case err != nil:
		return nil, interrupted(ctx, err)
	}
	l.startRenewing(ctx)
	return l, nil
}

// moved returns an error unless both locks are this run's.
func (l *lease) moved(item map[string]types.AttributeValue, leader leaderLock) error {
	var what []string
	switch {
	case item == nil:
		what = append(what, "the entry "+migrationLockKey+" is gone")
	case !putBy(item, l.run):
		what = append(what, "the entry "+migrationLockKey+" was put by "+migratorOf(item))
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
	return l.s.locked("take the locks of run "+l.run+" again", fmt.Errorf("%w: %s", copier.ErrMoved, strings.Join(what, ", and ")),
		"a Vault may have run on the table since the copy was interrupted, so what was read before can't be trusted. Stop every Vault, then start over: the same command with --restart in place of --resume; or give up and free the locks: -reset")
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

func (s *Source) locked(op string, err error, hint string) error {
	return &copier.Error{Kind: copier.ErrLocked, Op: op, Err: err, Hint: hint}
}

// ErrMigrationLock is returned when the table has a migration lock.
var ErrMigrationLock = errors.New("the entry " + migrationLockKey + " is in the table")

// ErrVaultRunning is returned when a Vault is running on the table, or took
// its leader lock during the copy.
var ErrVaultRunning = errors.New("a Vault is running on the table")

// ErrNotStopped is returned when nothing reports whether a Vault is running on
// the table.
var ErrNotStopped = errors.New("nothing in the table tells whether a Vault is running on it")

// putBy reports whether a migration lock was put by the run with the given id.
func putBy(item map[string]types.AttributeValue, run string) bool {
	var m migration
	err := json.Unmarshal(binaryOf(item[attrValue]), &m)
	return err == nil && m.Run != "" && m.Run == run
}

// migratorOf names who put a migration lock.
func migratorOf(item map[string]types.AttributeValue) string {
	var m migration
	if err := json.Unmarshal(binaryOf(item[attrValue]), &m); err != nil {
		return "somebody unknown: it can't be read"
	}
	by := "`vault operator migrate`"
	if m.Run != "" {
		by = holderPrefix + shown(m.Run) + " on " + shown(m.Host)
	}
	return by + " at " + m.Start.UTC().Format(time.RFC3339)
}

func (s *Source) migrationLocked(item map[string]types.AttributeValue) error {
	var m migration
	value := binaryOf(item[attrValue])
	if err := json.Unmarshal(value, &m); err != nil {
		return s.locked("take the migration lock", fmt.Errorf("%w, and can't be read: %w", ErrMigrationLock, err),
			"if no migration is running, remove it with -reset")
	}
	if m.Run != "" {
		return s.locked("take the migration lock",
			fmt.Errorf("%w: dyn2raft run %s on %s took it at %s", ErrMigrationLock, shown(m.Run), shown(m.Host), m.Start.UTC().Format(time.RFC3339)),
			"if that run is still going, let it end; if it was interrupted, go on with it (--resume, with its destination), or remove its lock with -reset, which is the way too if it has left the table locked on purpose (-keep-source-locked)")
	}
	return s.locked("take the migration lock",
		fmt.Errorf("%w: `vault operator migrate` took it at %s", ErrMigrationLock, m.Start.UTC().Format(time.RFC3339)),
		"if that migration is still running, let it end; if it was interrupted, remove its lock with -reset")
}

// watchLeader returns the leader lock once nobody seems to hold it. first is
// what was read before.
func (s *Source) watchLeader(ctx context.Context, first leaderLock) (leaderLock, error) {
	if first == nil {
		return nil, nil
	}
	watch, held := s.timing.watch, copier.WaitHeldLock
	if first.expired() {
		held = copier.WaitExpiredLock
		// By our clock, which may be ahead: two renewals are enough to see.
		watch = min(watch, 2*s.timing.renew+s.timing.retry)
	}
	until := time.Now().Add(watch)
	defer s.wait(held, first.holder(), watch)()
	for {
		if err := sleep(ctx, s.timing.retry); err != nil {
			return nil, err
		}
		now, err := s.readLeader(ctx, request{})
		if err != nil {
			return nil, err
		}
		// A holder that stops in order deletes its lock: then nobody may take
		// it until the watch is over.
		if now != nil && !now.sameAs(first) {
			if id, ok := now.run(); ok {
				return nil, s.locked("take the leader lock", fmt.Errorf("dyn2raft run %s holds it, and renews it", shown(id)),
					"another copy of this table is running: let it end")
			}
			return nil, s.locked("take the leader lock",
				fmt.Errorf("%w: %s, took or renewed the lock %s", ErrVaultRunning, now.holder(), leaderLockKey),
				"stop every Vault that uses the table, wait until `vault status` is refused, then run the same command again")
		}
		if !time.Now().Before(until) {
			return now, nil
		}
	}
}

// leaderPath is where an active Vault announces itself, under the Value of its
// leader lock, wherever that lock is. It removes its predecessors' entries
// when it becomes active, and its own when it stops in order.
const leaderPath = "core/leader"

// doubt returns why the leader lock does not show whether a Vault is running;
// nothing where it does, or will once it has been watched. A lock that is there
// shows that Vaults elect their leader in the table, also if its holder gives
// it back while it is watched; but one that expired long ago tells nothing of
// today's Vaults.
func (s *Source) doubt(ctx context.Context, q request, leader leaderLock) (string, error) {
	if leader != nil && !leader.expired() {
		return "", nil
	}
	lock := "the table has no leader lock"
	if t, ok := leader.expiry(); ok {
		lock = "the table's leader lock expired at " + t.UTC().Format(time.RFC3339)
	}
	if s.opts.HAStorage != "" {
		return lock + ", and the configuration has the HA storage " + strconv.Quote(s.opts.HAStorage) + ", where Vaults elect their leader", nil
	}
	out, err := ask(ctx, s, &q, s.client.Query, s.keysOf(leaderPath))
	if err != nil {
		return "", err
	}
	for _, item := range out.Items {
		if id, ok := item[attrKey].(*types.AttributeValueMemberS); ok && id.Value != string(binaryOf(leader[attrValue])) {
			return fmt.Sprintf("%s, but the entry %s/%s, which an active Vault has, and one that was killed leaves: it may elect its leader elsewhere", lock, leaderPath, id.Value), nil
		}
	}
	if (leader == nil || leader.stale()) && !s.opts.HAEnabled {
		return lock + ", and storage_source does not say ha_enabled = \"true\"", nil
	}
	return "", nil
}

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
	return s.locked("look for a running Vault", fmt.Errorf("%w: %w", ErrNotStopped, why), "stop every Vault that uses the table, and say so")
}

// A lease is the two locks of one run.
type lease struct {
	s        *Source
	run      string
	identity []byte
	seen     leaderLock // the leader lock before this run took it
	found    leaderLock // what it goes back to
	lost     func(error)

	migration []byte       // the value of our migration lock, once taken
	leader    bool         // the leader lock was taken
	unsure    bool         // the answer to a request that takes a lock was lost
	ahead     atomic.Int64 // by how much the service's clock is ahead of ours, at least, in ns
	stop      context.CancelFunc
	renewing  sync.WaitGroup
}

var _ copier.Lease = (*lease)(nil)

// takeMigration puts the migration lock. After an error it may be put.
func (l *lease) takeMigration(ctx context.Context) error {
	host, err := os.Hostname()
	if err != nil {
		host = "an unknown host"
	}
	value, err := json.Marshal(migration{Start: time.Now().UTC(), Run: l.run, Host: host})
	if err != nil {
		return fmt.Errorf("write migration lock: %w", err)
	}
	path, key := KeyItem(migrationLockKey)
	item := itemKey(path, key)
	item[attrValue] = &types.AttributeValueMemberB{Value: value}
	l.migration = value // also where the answer is lost
	wctx, cancel := l.s.settle(ctx)
	defer cancel()
	_, err = ask(wctx, l.s, &request{}, l.s.client.PutItem, &dynamodb.PutItemInput{
		TableName:                           &l.s.opts.Table,
		Item:                                item,
		ConditionExpression:                 aws.String("attribute_not_exists(#path)"),
		ExpressionAttributeNames:            map[string]string{"#path": attrPath},
		ReturnValuesOnConditionCheckFailure: types.ReturnValuesOnConditionCheckFailureAllOld,
	})
	there, failed := conditionFailed(err)
	switch {
	case err == nil:
		return nil
	case !failed:
		l.unsure = true
		return interrupted(ctx, err)
	case putBy(there, l.run):
		// Put by a try whose answer was lost, or, late, by a process of this
		// run that was killed.
		l.migration = binaryOf(there[attrValue])
		return nil
	}
	l.migration = nil
	return l.s.migrationLocked(there)
}

// takeLeader takes the leader lock. After an error it may be taken.
func (l *lease) takeLeader(ctx context.Context) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	names := map[string]string{"#value": attrValue, "#identity": attrIdentity, "#expires": attrExpires, "#found": attrFound}
	values := map[string]types.AttributeValue{
		":value":    &types.AttributeValueMemberB{Value: []byte(holderPrefix + l.run)},
		":identity": &types.AttributeValueMemberB{Value: l.identity},
		":expires":  expiresAt(l.expiry()),
	}
	update := "SET #value = :value, #identity = :identity, #expires = :expires"
	if l.found == nil {
		update += " REMOVE #found"
	} else {
		was := map[string]types.AttributeValue{}
		for _, name := range takenAttrs {
			if v := l.found[name]; v != nil {
				was[name] = v
			}
		}
		update += ", #found = :found"
		values[":found"] = &types.AttributeValueMemberM{Value: was}
	}
	l.leader = true // also where the answer is lost
	wctx, cancel := l.s.settle(ctx)
	defer cancel()
	_, err := l.update(wctx, leaderLockKey, update, l.seen.asSeen(names, values), names, values)
	there, failed := conditionFailed(err)
	switch {
	case err == nil:
		return nil
	case !failed:
		l.unsure = true
		return interrupted(ctx, err)
	case there.held(l.identity):
		return nil // taken by a try whose answer was lost
	}
	l.leader = false
	if there == nil {
		return l.s.locked("take the leader lock", fmt.Errorf("%w: it gave the lock %s back at this moment", ErrVaultRunning, leaderLockKey),
			"stop every Vault that uses the table, then run the same command again")
	}
	return l.s.locked("take the leader lock", fmt.Errorf("%w: %s, took the lock %s first", ErrVaultRunning, there.holder(), leaderLockKey),
		"stop every Vault that uses the table, then run the same command again")
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

// takenAttrs are the attributes of a leader lock that we overwrite.
var takenAttrs = []string{attrValue, attrIdentity, attrExpires}

// asSeen is the condition that the item is still what was read, and adds what
// it needs to names and values.
func (l leaderLock) asSeen(names map[string]string, values map[string]types.AttributeValue) string {
	if l == nil {
		names["#path"] = attrPath
		return "attribute_not_exists(#path)"
	}
	as := func(placeholder, attr string) string {
		if l[attr] == nil {
			return "attribute_not_exists(#" + placeholder + ")"
		}
		values[":seen"+placeholder] = l[attr]
		return "#" + placeholder + " = :seen" + placeholder
	}
	return as("identity", attrIdentity) + " AND " + as("expires", attrExpires)
}

// update writes to one of the two locks by condition, and learns what time the
// service has.
func (l *lease) update(ctx context.Context, vaultKey, update, cond string, names map[string]string, values map[string]types.AttributeValue) (at time.Time, err error) {
	path, key := KeyItem(vaultKey)
	out, err := ask(ctx, l.s, &request{}, l.s.client.UpdateItem, &dynamodb.UpdateItemInput{
		TableName:                 &l.s.opts.Table,
		Key:                       itemKey(path, key),
		UpdateExpression:          &update,
		ConditionExpression:       &cond,
		ExpressionAttributeNames:  names,
		ExpressionAttributeValues: values,

		ReturnValuesOnConditionCheckFailure: types.ReturnValuesOnConditionCheckFailureAllOld,
	})
	if err != nil {
		return at, err
	}
	at, _ = awsmiddleware.GetServerTime(out.ResultMetadata) // zero where it sends none
	if !at.IsZero() {
		l.ahead.Store(int64(max(time.Until(at), 0)))
	}
	return at, nil
}

// expiry is when a lock expires that is renewed now, by the clock that is
// ahead, ours or the service's: that of a virtual machine which was paused may
// be behind, and Vaults would find a lock of its making expired at once.
func (l *lease) expiry() time.Time {
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
			err := l.renew(ctx)
			there, failed := conditionFailed(err)
			switch {
			case ctx.Err() != nil:
			case err == nil:
				failing = time.Time{}
			case failed:
				l.lost(l.s.lostLeader(there))
				return
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

// renew renews the leader lock. It does not try for longer than until the next
// renewal is due: the later the request is retried, the staler is its expiry.
func (l *lease) renew(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, l.s.timing.renew)
	defer cancel()
	return l.extend(ctx)
}

// extend lets our leader lock expire later.
func (l *lease) extend(ctx context.Context) error {
	_, err := l.keep(ctx)
	return err
}

// keep is extend, and reports whether the lock is good for long enough: the
// answer came soon, by a clock that goes on while the machine sleeps, and by the
// service's clock the lock does not expire before a renewal is due.
func (l *lease) keep(ctx context.Context) (fresh bool, err error) {
	sent, expiry := l.s.boot(), l.expiry()
	at, err := l.update(ctx, leaderLockKey, "SET #expires = :expires", "#identity = :identity",
		map[string]string{"#expires": attrExpires, "#identity": attrIdentity},
		map[string]types.AttributeValue{
			":expires":  expiresAt(expiry),
			":identity": &types.AttributeValueMemberB{Value: l.identity},
		})
	t := l.s.timing
	return err == nil && l.s.boot()-sent < t.late && (at.IsZero() || expiry.Sub(at) >= t.lease-t.late), err
}

// lostLeader is the error of a run whose leader lock is not its own any more.
func (s *Source) lostLeader(there leaderLock) error {
	what := fmt.Errorf("%w: the lock %s was removed", ErrVaultRunning, leaderLockKey)
	if there != nil {
		what = fmt.Errorf("%w: %s, took the lock %s", ErrVaultRunning, there.holder(), leaderLockKey)
	}
	return s.locked("hold the leader lock", fmt.Errorf("%w from this run: %w since it was read", what, copier.ErrMoved),
		"stop every Vault that uses the table, then run the same command again")
}

// lostMigration is the error of a run whose migration lock is not there any more.
func (s *Source) lostMigration() error {
	return s.locked("hold the migration lock", fmt.Errorf("somebody removed it, so that a Vault may have been started: %w since it was read", copier.ErrMoved),
		"make sure that every Vault is stopped and that nobody resets the lock, then run the same command again")
}

// freshTries is how often Check asks until an answer comes soon enough.
const freshTries = 3

// ErrLate is returned by a lease's Check where the answers come so late that
// nobody can tell whether the lock is held by now.
var ErrLate = errors.New("the answer comes so late that the leader lock may have expired since")

// Check implements [copier.Lease]: it looks whether the table is still the same,
// and writes to both locks, on the condition that they are ours. The leader lock
// comes last, and is then good for 10 s or more. Clocks can only make it ask again: what the service answers decides.
func (l *lease) Check(ctx context.Context) error {
	if err := l.s.Recheck(ctx); err != nil {
		return err
	}
	value := &types.AttributeValueMemberB{Value: l.migration}
	_, err := l.update(ctx, migrationLockKey, "SET #value = :value", "#value = :value",
		map[string]string{"#value": attrValue}, map[string]types.AttributeValue{":value": value})
	if _, failed := conditionFailed(err); failed {
		return l.s.lostMigration()
	} else if err != nil {
		return err
	}
	for range freshTries {
		fresh, err := l.keep(ctx)
		there, failed := conditionFailed(err)
		switch {
		case failed:
			return l.s.lostLeader(there)
		case err != nil:
			return err
		case fresh:
			return nil
		}
	}
	return &copier.Error{Kind: copier.ErrSource, Op: "hold the leader lock", Err: ErrLate,
		Hint: "check this machine's clock and the network: a renewal must be answered within seconds"}
}

// Release implements [copier.Lease]. The leader lock goes back to what was
// found. Where Options.KeepLocked is set, a complete copy leaves the migration
// lock. A run that will be resumed leaves both: they are known by its id, and
// the leader lock expires by itself. Each lock is given back on the condition
// that it is ours. Where the leader lock of a complete copy is not, the migration
// lock stays.
func (l *lease) Release(ctx context.Context, end copier.End) error {
	if l.stop != nil {
		l.stop()
		l.renewing.Wait()
	}
	if end == copier.EndUnfinished {
		return nil
	}
	var errs []error
	note := func(err error) {
		// Where a lock may never have been taken, that it is not ours is no news.
		if !l.unsure || !errors.Is(err, copier.ErrMoved) {
			errs = append(errs, err)
		}
	}
	if l.leader {
		note(l.s.restoreLeader(ctx, &types.AttributeValueMemberB{Value: l.identity}, l.found))
	}
	err := errors.Join(errs...)
	stays := end == copier.EndComplete && (l.s.opts.KeepLocked || errors.Is(err, copier.ErrMoved))
	if l.migration != nil && !stays && (err == nil || ctx.Err() == nil) {
		note(l.s.deleteMigration(ctx, &types.AttributeValueMemberB{Value: l.migration}))
	}
	return l.s.released(errs...)
}

// released wraps the errors of giving locks back, if there are any. A lock that
// is somebody else's by now is not ours to give back.
func (s *Source) released(errs ...error) error {
	err := errors.Join(errs...)
	if !slices.ContainsFunc(errs, func(err error) bool { return err != nil && !errors.Is(err, copier.ErrMoved) }) {
		return err
	}
	return &copier.Error{Kind: copier.ErrSource, Op: "release the locks in table " + s.opts.Table, Err: fmt.Errorf("%w: %w", copier.ErrNotReleased, err),
		Hint: "as long as they are there no Vault starts on the table: resume that copy, or give it up"}
}

// Unlock implements [copier.Locker]. The leader lock goes back to what that run
// found.
func (s *Source) Unlock(ctx context.Context, runID string, end copier.End) error {
	if end == copier.EndUnfinished {
		return nil
	}
	errs := []error{s.unlockLeader(ctx, runID)}
	if !(end == copier.EndComplete && s.opts.KeepLocked) {
		errs = append(errs, s.unlockMigration(ctx, runID))
	}
	return s.released(errs...)
}

func (s *Source) unlockLeader(ctx context.Context, runID string) error {
	leader, err := s.readLeader(ctx, request{})
	if err != nil || !leader.held([]byte(runID)) {
		return err
	}
	return s.restoreLeader(ctx, leader[attrIdentity], leader.found())
}

func (s *Source) unlockMigration(ctx context.Context, runID string) error {
	item, err := s.getItem(ctx, request{}, migrationLockKey)
	if err != nil || !putBy(item, runID) {
		return err
	}
	return s.deleteMigration(ctx, item[attrValue])
}

// restoreLeader leaves the leader lock as it was found, on the condition that it
// has the given identity. Where it has not, the error wraps [copier.ErrMoved].
func (s *Source) restoreLeader(ctx context.Context, identity types.AttributeValue, found leaderLock) error {
	path, key := KeyItem(leaderLockKey)
	names := map[string]string{"#identity": attrIdentity}
	values := map[string]types.AttributeValue{":ours": identity}
	const ours = "#identity = :ours"
	var q request
	if found == nil {
		_, err := ask(ctx, s, &q, s.client.DeleteItem, &dynamodb.DeleteItemInput{
			TableName:                 &s.opts.Table,
			Key:                       itemKey(path, key),
			ConditionExpression:       aws.String(ours),
			ExpressionAttributeNames:  names,
			ExpressionAttributeValues: values,

			ReturnValuesOnConditionCheckFailure: types.ReturnValuesOnConditionCheckFailureAllOld,
		})
		return s.gaveBackLeader(&q, err, found)
	}
	names["#found"] = attrFound
	set, remove := []string{}, []string{"#found"}
	for _, attr := range takenAttrs {
		name := strings.ToLower(attr)
		names["#"+name] = attr
		if v := found[attr]; v != nil {
			values[":"+name] = v
			set = append(set, "#"+name+" = :"+name)
		} else {
			remove = append(remove, "#"+name)
		}
	}
	update := "REMOVE " + strings.Join(remove, ", ")
	if len(set) > 0 {
		update = "SET " + strings.Join(set, ", ") + " " + update
	}
	_, err := ask(ctx, s, &q, s.client.UpdateItem, &dynamodb.UpdateItemInput{
		TableName:                 &s.opts.Table,
		Key:                       itemKey(path, key),
		UpdateExpression:          &update,
		ConditionExpression:       aws.String(ours),
		ExpressionAttributeNames:  names,
		ExpressionAttributeValues: values,

		ReturnValuesOnConditionCheckFailure: types.ReturnValuesOnConditionCheckFailureAllOld,
	})
	return s.gaveBackLeader(&q, err, found)
}

// gaveBackLeader is the error of the request that has left the leader lock as it
// was found. A request that was tried again fails where the first try has had
// its effect, and its answer was lost.
func (s *Source) gaveBackLeader(q *request, err error, found leaderLock) error {
	there, failed := conditionFailed(err)
	switch {
	case failed && q.repeated() && there.sameAs(found):
		return nil
	case failed:
		return s.lostLeader(there)
	}
	return err
}

// deleteMigration deletes the migration lock on the condition that it has the
// given value, or none where that is nil. Where it has not, the error wraps
// [copier.ErrMoved].
func (s *Source) deleteMigration(ctx context.Context, value types.AttributeValue) error {
	path, key := KeyItem(migrationLockKey)
	in := &dynamodb.DeleteItemInput{
		TableName:                &s.opts.Table,
		Key:                      itemKey(path, key),
		ConditionExpression:      aws.String("attribute_not_exists(#value)"),
		ExpressionAttributeNames: map[string]string{"#value": attrValue},

		ReturnValuesOnConditionCheckFailure: types.ReturnValuesOnConditionCheckFailureAllOld,
	}
	if value != nil {
		in.ConditionExpression = aws.String("#value = :value")
		in.ExpressionAttributeValues = map[string]types.AttributeValue{":value": value}
	}
	var q request
	_, err := ask(ctx, s, &q, s.client.DeleteItem, in)
	there, failed := conditionFailed(err)
	switch {
	case failed && q.repeated() && there == nil:
		return nil // as in gaveBackLeader
	case failed:
		return s.lostMigration()
	}
	return err
}

// Reset removes the migration lock, whoever left it, as `vault operator
// migrate -reset` does, and our own leader lock, and returns what it removed.
// A lock whose run is still renewing it is refused with [copier.ErrLocked]; a
// leader lock that is a Vault's is left alone. An error wraps [copier.ErrMoved]
// where a lock became somebody else's at this moment.
func (s *Source) Reset(ctx context.Context) ([]string, error) {
	var freed []string
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
	item, err := s.getItem(ctx, request{}, migrationLockKey)
	if err != nil {
		return freed, err
	}
	if item != nil {
		if err := s.deleteMigration(ctx, item[attrValue]); err != nil {
			return freed, err
		}
		freed = append(freed, migrationLockKey)
	}
	return freed, nil
}

func (s *Source) readLeader(ctx context.Context, q request) (leaderLock, error) {
	return s.getItem(ctx, q, leaderLockKey)
}

// getItem returns an item as it is now, or nil.
func (s *Source) getItem(ctx context.Context, q request, vaultKey string) (map[string]types.AttributeValue, error) {
	path, key := KeyItem(vaultKey)
	out, err := ask(ctx, s, &q, s.client.GetItem, &dynamodb.GetItemInput{
		TableName:      &s.opts.Table,
		Key:            itemKey(path, key),
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
func conditionFailed(err error) (leaderLock, bool) {
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
