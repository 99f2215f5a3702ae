package dynamodb

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb/types"

	"github.com/dyn2raft/dyn2raft/copier"
)

// A vaultLease is a leader lock as a Vault writes it, which expires that long from
// now, with more attributes, or without those that are nil.
type vaultLease struct {
	identity string
	expires  time.Duration
	more     attrs
}

func (l vaultLease) item() attrs {
	item := with("core", "_lock", attrs{"Value": bin("leader-" + l.identity), "Identity": bin(l.identity), "Expires": num(time.Now().Add(l.expires).UnixNano())})
	maps.Copy(item, l.more)
	maps.DeleteFunc(item, func(_ string, v types.AttributeValue) bool { return v == nil })
	return item
}

// leader makes a lease the leader lock, or removes that, and returns the item.
func (e *env) leader(l *vaultLease) attrs {
	e.Helper()
	e.del("core/_lock")
	if l != nil {
		e.put(l.item())
	}
	return e.get("core/_lock")
}

// entry is the entry core/migration.
func entry(value types.AttributeValue) []attrs {
	return []attrs{with("core", "migration", attrs{"Value": value})}
}

// announced is the entry by which an active Vault announces itself.
func announced(id string) []attrs {
	return []attrs{with(leaderPath, id, attrs{attrValue: bin("its address")})}
}

// become changes the item of a lock, and returns what it is then.
func (e *env) become(key string, change func(*env, attrs) attrs) attrs {
	e.Helper()
	was := e.get(key)
	if now := change(e, was); !reflect.DeepEqual(now, was) {
		e.del(key)
		if now != nil {
			e.put(now)
		}
	}
	return e.get(key)
}

func gone(*env, attrs) attrs       { return nil }
func same(_ *env, now attrs) attrs { return now }
func becomes(l *vaultLease) func(*env, attrs) attrs {
	return func(*env, attrs) attrs { return l.item() }
}
func becomesItem(item attrs) func(*env, attrs) attrs {
	return func(*env, attrs) attrs { return item }
}
func becomesEntry(value string) func(*env, attrs) attrs { return becomesItem(entry(bin(value))[0]) }

var errAsked = errors.New("no terminal")

func opts(change ...func(*Options)) []func(*Options) { return change }

func stopped(answer bool, err error) func(*Options) {
	return func(o *Options) {
		o.Stopped = func(context.Context, string) (bool, error) { return answer, err }
	}
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

// locksAwaited are the waits on purpose, not those for answers that take long.
func locksAwaited(rec *recorder) (out []copier.Waiting) {
	for _, w := range eventsOf[copier.Waiting](rec) {
		if !w.Until.IsZero() {
			out = append(out, w)
		}
	}
	return out
}
