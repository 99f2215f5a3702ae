package dynamodb

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb/types"

	"github.com/dyn2raft/dyn2raft/copier"
)

// timing is how long things take between processes on one table.
type timing struct {
	lease time.Duration // how long a leader lock is good for, as Vault's
	renew time.Duration // how often its holder renews it, as Vault does
	poll  time.Duration // how often one who waits looks
}

var vaultTiming = timing{lease: 15 * time.Second, renew: 5 * time.Second, poll: time.Second}

// holderPrefix begins the Value of a leader lock that is a copy's. The run id follows.
const holderPrefix = "dyn2raft run "

// A migration is the JSON of the entry core/migration. Vault reads "start" only, and
// refuses to start as long as the entry is there, whatever it says.
type migration struct {
	Start time.Time `json:"start"`
	Run   string    `json:"dyn2raft_run,omitempty"`
	Host  string    `json:"dyn2raft_host,omitempty"`
	// Destination is set where the table is what a copy writes: everything in it is that
	// copy's. A copy that reads a table locks it without.
	Destination bool `json:"dyn2raft_destination,omitempty"`
	// Replaces is set where a copy writes into a table that holds a Vault's data, and
	// Backup where it has begun to.
	Replaces bool   `json:"dyn2raft_replaces,omitempty"`
	Backup   string `json:"dyn2raft_backup,omitempty"`
}

// locks are those of a table as they were read; what is not there is nil.
type locks struct {
	migration, leader, record attributes
}

func binary(item attributes, name string) []byte {
	b, ok := item[name].(*types.AttributeValueMemberB)
	if !ok {
		return nil
	}
	return b.Value
}

// staged is the run that writes to the table, or has until it ended. ok is false where
// there is none.
func (l *locks) staged() (run string, ok bool) {
	var m migration
	err := json.Unmarshal(binary(l.migration, attrValue), &m)
	return m.Run, err == nil && m.Destination && m.Run != ""
}

// replacing is the lock of a run that writes into a table which holds a Vault's data, or has
// until it ended. ok is false where there is none.
func (l *locks) replacing() (m migration, ok bool) {
	err := json.Unmarshal(binary(l.migration, attrValue), &m)
	return m, err == nil && m.Replaces && m.Run != ""
}

// busyWith is the error of a table that is locked by what is no copy of its kind.
func (s *Sink) busyWith(l locks) error {
	if m, ok := l.replacing(); ok && m.Backup != "" {
		return &copier.Error{Kind: copier.ErrLocked, Err: s.halfReplaced(m.Backup)}
	}
	return s.busy(l.foreign(), l.from().Run)
}

// from is the migration lock as far as it says what has taken it. Its run is empty where
// that is no dyn2raft, or one that writes to the table.
func (l *locks) from() (m migration) {
	if json.Unmarshal(binary(l.migration, attrValue), &m) != nil || m.Destination || m.Replaces {
		return migration{}
	}
	return m
}

// foreign is who has locked the table, if that is no copy that writes to it.
func (l *locks) foreign() (holder string) {
	if m, ok := l.replacing(); ok {
		run, _, _ := strings.Cut(m.Run, " ")
		return holderPrefix + run + " on " + m.Host + ", which replaces what is in it"
	}
	if _, ok := l.staged(); l.migration != nil && !ok {
		if m := l.from(); m.Run != "" {
			return fmt.Sprintf("%s%s on %s, which has locked it to copy from it", holderPrefix, m.Run, m.Host)
		}
		return "the entry " + migrationLockKey
	}
	if l.leader != nil && !strings.HasPrefix(string(binary(l.leader, attrValue)), holderPrefix) && !l.leftBehind() {
		return fmt.Sprintf("the Vault with leader id %q", binary(l.leader, attrValue))
	}
	return ""
}

// leftBehind reports whether the leader lock has expired, while the migration lock is that
// of a copy which writes to the table: a Vault that stood by may have got it, and can't have
// started. It is watched before it is taken over.
func (l *locks) leftBehind() bool {
	_, ok := l.staged()
	return ok && !l.expires().IsZero() && l.expires().Before(time.Now())
}

// expires is when the leader lock does, by the clock of who has renewed it; zero where it
// was parked, or says nothing.
func (l *locks) expires() time.Time {
	n, ok := l.leader[attrExpires].(*types.AttributeValueMemberN)
	if !ok {
		return time.Time{}
	}
	ns, err := strconv.ParseInt(n.Value, 10, 64)
	if err != nil || ns == 0 {
		return time.Time{}
	}
	return time.Unix(0, ns)
}

func expires(t time.Time) types.AttributeValue {
	if t.IsZero() {
		return &types.AttributeValueMemberN{Value: "0"}
	}
	return &types.AttributeValueMemberN{Value: strconv.FormatInt(t.UnixNano(), 10)}
}

// read returns the item of a Vault key, and nil where there is none.
func (s *Sink) read(ctx context.Context, vaultKey string) (attributes, error) {
	tctx, cancel := s.within(ctx)
	defer cancel()
	out, err := s.client.GetItem(tctx, &dynamodb.GetItemInput{TableName: &s.opts.Table, Key: at(vaultKey), ConsistentRead: aws.Bool(true)})
	if err != nil {
		return nil, s.fail(tctx, "GetItem", err)
	}
	return out.Item, nil
}

func (s *Sink) readLocks(ctx context.Context) (l locks, err error) {
	for key, to := range map[string]*attributes{migrationLockKey: &l.migration, leaderLockKey: &l.leader, recordKey: &l.record} {
		if *to, err = s.read(ctx, key); err != nil {
			return l, err
		}
	}
	return l, nil
}

// watch returns the locks once the process is known to have ended that has left them: it
// has said so, or does not renew its lock for as long as that is good.
func (s *Sink) watch(ctx context.Context, l locks) (locks, error) {
	run, _ := l.staged()
	if l.leader == nil || l.expires().IsZero() {
		return l, nil
	}
	name := holderPrefix + run
	if l.leftBehind() {
		name = fmt.Sprintf("the Vault with leader id %q", binary(l.leader, attrValue))
	}
	s.opts.Events(copier.Waiting{For: copier.WaitHeldLock, Name: name, Since: time.Now(), Until: time.Now().Add(s.timing.lease)})
	defer s.opts.Events(copier.WaitOver{For: copier.WaitHeldLock, Name: name})
	for until := time.Now().Add(s.timing.lease); time.Now().Before(until); {
		if err := sleep(ctx, s.timing.poll); err != nil {
			return l, err
		}
		now, err := s.readLocks(ctx)
		if err != nil {
			return l, err
		}
		if !bytes.Equal(binary(now.leader, attrIdentity), binary(l.leader, attrIdentity)) || !now.expires().Equal(l.expires()) {
			return l, s.busy(name, "")
		}
	}
	return l, nil
}

// busy is the error of a table that somebody holds. from is the run that has locked it to
// copy from it, if that is who.
func (s *Sink) busy(holder, from string) error {
	return &copier.Error{Kind: copier.ErrLocked, Op: "take table " + s.opts.Table, Code: TableBusy,
		Facts: map[string]string{"table": s.opts.Table, "holder": holder, "from": from}, Err: errors.New("it is held by " + holder)}
}

func (s *Sink) taken(why error) error {
	return &copier.Error{Kind: copier.ErrLocked, Op: "hold table " + s.opts.Table, Code: TableTaken, Facts: s.where(), Err: why}
}

// A change writes one item on a condition: it puts it, updates it, or, where neither is
// said, deletes it.
type change struct {
	key    string
	put    attributes // without its key
	update string
	cond   string
	values attributes
}

var names = map[string]string{"#Path": attrPath, "#Value": attrValue, "#Identity": attrIdentity, "#Expires": attrExpires}

// change makes a change. Where its condition does not hold, refused is set, and there is
// what is there instead: that may be by a try of this call whose answer was lost.
func (s *Sink) change(ctx context.Context, c change) (refused bool, there attributes, err error) {
	used := map[string]string{}
	for name, attr := range names {
		if strings.Contains(c.cond+c.update, name) {
			used[name] = attr
		}
	}
	key := at(c.key)
	var cond *string
	var old types.ReturnValuesOnConditionCheckFailure
	if c.cond != "" {
		cond, old = &c.cond, types.ReturnValuesOnConditionCheckFailureAllOld
	} else {
		used, c.values = nil, nil
	}
	if len(c.values) == 0 {
		c.values = nil
	}
	tctx, cancel := s.within(ctx)
	defer cancel()
	action := "DeleteItem"
	switch {
	case c.put != nil:
		action = "PutItem"
		for name, v := range key {
			c.put[name] = v
		}
		_, err = s.client.PutItem(tctx, &dynamodb.PutItemInput{TableName: &s.opts.Table, Item: c.put, ConditionExpression: cond,
			ExpressionAttributeNames: used, ExpressionAttributeValues: c.values, ReturnValuesOnConditionCheckFailure: old})
	case c.update != "":
		action = "UpdateItem"
		_, err = s.client.UpdateItem(tctx, &dynamodb.UpdateItemInput{TableName: &s.opts.Table, Key: key, UpdateExpression: &c.update, ConditionExpression: cond,
			ExpressionAttributeNames: used, ExpressionAttributeValues: c.values, ReturnValuesOnConditionCheckFailure: old})
	default:
		_, err = s.client.DeleteItem(tctx, &dynamodb.DeleteItemInput{TableName: &s.opts.Table, Key: key, ConditionExpression: cond,
			ExpressionAttributeNames: used, ExpressionAttributeValues: c.values, ReturnValuesOnConditionCheckFailure: old})
	}
	if failed, ok := errors.AsType[*types.ConditionalCheckFailedException](err); ok {
		return true, failed.Item, nil
	}
	if err != nil {
		return false, nil, s.fail(tctx, action, err)
	}
	return false, nil, nil
}

// asSeen is the condition that an attribute has the value that it had in an item that was
// read, or that there is no such item.
func asSeen(item attributes, values attributes, attrs ...string) string {
	if item == nil {
		return "attribute_not_exists(#Path)"
	}
	var all []string
	for _, attr := range attrs {
		if item[attr] == nil {
			all = append(all, "attribute_not_exists(#"+attr+")")
			continue
		}
		values[":seen"+attr] = item[attr]
		all = append(all, "#"+attr+" = :seen"+attr)
	}
	return strings.Join(all, " AND ")
}

// lock takes the table for the stage's run: the migration lock, on which no Vault starts,
// and then the leader lock, which none gets that runs. Both are as they were seen, or the
// error wraps ErrLocked, and neither is this stage's.
func (s *stage) lock(ctx context.Context, seen locks) error {
	host, err := os.Hostname()
	if err != nil {
		host = "an unknown host"
	}
	value, err := json.Marshal(migration{Start: time.Now().UTC(), Run: s.run, Host: host, Destination: true})
	if err != nil {
		return err
	}
	s.value = &types.AttributeValueMemberB{Value: value}
	c := change{key: migrationLockKey, put: attributes{attrValue: s.value}, values: attributes{}}
	c.cond = asSeen(seen.migration, c.values, attrValue)
	refused, there, err := s.change(ctx, c)
	if err != nil {
		return err
	}
	if refused && !bytes.Equal(binary(there, attrValue), value) {
		return s.busy("somebody who took it at the same moment", "")
	}
	if err := s.takeLeader(ctx, seen); err != nil {
		if seen.migration == nil {
			err = errors.Join(err, s.unlockMigration(context.WithoutCancel(ctx)))
		}
		return err
	}
	s.startRenewing()
	return nil
}

func (s *stage) takeLeader(ctx context.Context, seen locks) error {
	c := change{key: leaderLockKey, values: attributes{}, put: attributes{
		attrValue:    &types.AttributeValueMemberB{Value: []byte(holderPrefix + s.run)},
		attrIdentity: &types.AttributeValueMemberB{Value: []byte(s.identity)},
		attrExpires:  expires(time.Now().Add(s.timing.lease)),
	}}
	c.cond = asSeen(seen.leader, c.values, attrIdentity, attrExpires)
	sent := s.boot()
	refused, there, err := s.change(ctx, c)
	switch {
	case err != nil:
		return err
	case refused && !bytes.Equal(binary(there, attrIdentity), []byte(s.identity)):
		return s.busy(string(binary(there, attrValue)), "")
	}
	s.renewed.Store(int64(sent))
	still := s.still
	s.fence.Store(&still)
	return nil
}

// startRenewing renews the leader lock until stopRenewing is called, or it is lost.
func (s *stage) startRenewing() {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	s.stopRenewing = func() {
		cancel()
		<-done
		s.stopRenewing = func() {}
	}
	go func() {
		defer close(done)
		for sleep(ctx, s.timing.renew) == nil && s.held() == nil {
			_ = s.renew(ctx) // it may be over the next time, and nothing is written before
		}
	}()
}

// renew lets the leader lock expire later.
func (s *stage) renew(ctx context.Context) error {
	sent := s.boot()
	refused, err := s.setExpiry(ctx, time.Now().Add(s.timing.lease))
	if err == nil && refused {
		err = s.taken(errors.New("somebody else has its leader lock"))
		s.lost.Store(&err)
	}
	if err == nil {
		s.renewed.Store(int64(sent))
	}
	return err
}

// still makes sure that nobody else can have the table yet: the leader lock was renewed of
// late, or is now.
func (s *stage) still(ctx context.Context) error {
	s.asking.Lock()
	defer s.asking.Unlock()
	for {
		if err := s.held(); err != nil {
			return err
		}
		if at := time.Duration(s.renewed.Load()); s.boot()-at < s.timing.lease*2/3 {
			return nil
		}
		if err := s.renew(ctx); err != nil {
			return err
		}
	}
}

// setExpiry changes when the leader lock expires, on the condition that it is this stage's.
func (s *stage) setExpiry(ctx context.Context, t time.Time) (refused bool, err error) {
	refused, _, err = s.change(ctx, change{key: leaderLockKey, update: "SET #Expires = :expires", cond: "#Identity = :identity",
		values: attributes{":expires": expires(t), ":identity": &types.AttributeValueMemberB{Value: []byte(s.identity)}}})
	return refused, err
}

// held returns an error where the table is known to be somebody else's by now.
func (s *stage) held() error {
	if err := s.lost.Load(); err != nil {
		return *err
	}
	return nil
}

// unlockLeader deletes the leader lock, unless it is another's. One that is gone is gone
// by a try whose answer was lost.
func (s *stage) unlockLeader(ctx context.Context) error {
	return s.remove(ctx, leaderLockKey, attrIdentity, &types.AttributeValueMemberB{Value: []byte(s.identity)})
}

// unlockMigration does so with the migration lock.
func (s *stage) unlockMigration(ctx context.Context) error {
	return s.remove(ctx, migrationLockKey, attrValue, s.value)
}

func (s *stage) remove(ctx context.Context, key, attr string, is types.AttributeValue) error {
	refused, there, err := s.change(ctx, change{key: key, cond: "#" + attr + " = :is", values: attributes{":is": is}})
	if err == nil && refused && there != nil {
		err = s.taken(fmt.Errorf("the item %s is somebody else's", key))
	}
	return err
}
