package crash

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	awsdynamodb "github.com/aws/aws-sdk-go-v2/service/dynamodb"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb/types"
	"go.etcd.io/bbolt"

	"github.com/dyn2raft/dyn2raft/cmd/dyn2raft/hints"
	"github.com/dyn2raft/dyn2raft/copier"
	"github.com/dyn2raft/dyn2raft/copier/durable"
	"github.com/dyn2raft/dyn2raft/sinks/raft"
	"github.com/dyn2raft/dyn2raft/sources/dynamodb"
	"github.com/dyn2raft/dyn2raft/sources/dynamodb/dynamotest"
)

// What a copy relies on at its end are the two locks in the table. The tests in
// this file take them away at each step of the end: ahead of each operation on the
// disk, as each request arrives, and as each answer leaves. Nothing waits: the lock
// is written as another Vault writes it once ours has expired.

// A thief takes a lock from a copy, and writes an entry.
type thief struct {
	lock string // which one
	take func(ctx context.Context, s *dynamotest.Server, table, run string) (held bool, err error)
}

var thieves = map[string]thief{
	// A Vault that stood by, or was unsealed, and found the leader lock expired.
	"leader": {"core/_lock", func(ctx context.Context, s *dynamotest.Server, table, run string) (bool, error) {
		put := &awsdynamodb.PutItemInput{TableName: &table, Item: map[string]types.AttributeValue{
			"Path": &types.AttributeValueMemberS{Value: "core"}, "Key": &types.AttributeValueMemberS{Value: "_lock"},
			"Value": &types.AttributeValueMemberB{Value: []byte("leader-v2")}, "Identity": &types.AttributeValueMemberB{Value: []byte("v2")},
			"Expires": &types.AttributeValueMemberN{Value: strconv.FormatInt(time.Now().Add(time.Hour).UnixNano(), 10)},
		}}
		put.ConditionExpression, put.ExpressionAttributeNames = aws.String("#identity = :run"), map[string]string{"#identity": "Identity"}
		put.ExpressionAttributeValues = map[string]types.AttributeValue{":run": &types.AttributeValueMemberB{Value: []byte(run)}}
		_, err := s.Client().PutItem(ctx, put)
		if errors.As(err, new(*types.ConditionalCheckFailedException)) {
			return false, s.PutItem(table, put.Item)
		}
		return err == nil, err
	}},
	// Somebody reset the migration and started a Vault without ha_enabled.
	"migration": {"core/migration", func(ctx context.Context, s *dynamotest.Server, table, _ string) (bool, error) {
		_, err := s.Client().DeleteItem(ctx, &awsdynamodb.DeleteItemInput{TableName: &table, Key: map[string]types.AttributeValue{
			"Path": &types.AttributeValueMemberS{Value: "core"}, "Key": &types.AttributeValueMemberS{Value: "migration"}},
			ConditionExpression: aws.String("attribute_exists(#path)"), ExpressionAttributeNames: map[string]string{"#path": "Path"}})
		if errors.As(err, new(*types.ConditionalCheckFailedException)) {
			return false, nil
		}
		return err == nil, err
	}},
}

// steal takes the lock, and reports whether it was the run's until then.
func (th thief) steal(s *dynamotest.Server, table, run string) (held bool, err error) {
	held, err = th.take(context.Background(), s, table, run)
	return held, errors.Join(err, s.PutVaultEntry(table, "secret/written/late", []byte("late")))
}

// lockOf reports whether a lock is a run's.
func lockOf(s *dynamotest.Server, table, lock, run string) bool {
	path, key := dynamodb.KeyItem(lock)
	value, _ := s.GetItem(table, path, key)["Value"].(*types.AttributeValueMemberB)
	return value != nil && strings.Contains(string(value.Value), run)
}

// An ending is the end of one copy, which something happens to at one of its
// steps.
type ending struct {
	server *dynamotest.Server
	o      order

	mu     sync.Mutex
	begun  bool     // the commit has
	steps  []string // since then
	at     int      // the step at which it happens; none if negative
	happen func() error
	dead   bool // from here on nothing works: as if the process were killed
	deaf   bool // once dead is set, requests are not answered, and the disk works
	err    error

	finished int // how often the copy was recorded as complete
}

var errDead = errors.New("killed")

// step is called ahead of each.
func (e *ending) step(name string) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.begun && !e.dead {
		if len(e.steps) == e.at && e.happen != nil {
			e.err = e.happen()
		}
		e.steps = append(e.steps, name)
	}
	if e.dead && !(e.deaf && !strings.HasPrefix(name, "request ") && !strings.HasPrefix(name, "answer ")) {
		return errDead
	}
	return nil
}

// placed reports whether vault.db was renamed.
func (e *ending) placed() bool { return slices.Contains(e.steps, "place vault.db") }

// ServeHTTP serves the copy's requests.
func (e *ending) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	_, operation, _ := strings.Cut(r.Header.Get("X-Amz-Target"), ".")
	answer := httptest.NewRecorder()
	err := e.step("request " + operation)
	if err == nil {
		e.server.ServeHTTP(answer, r)
		err = e.step("answer " + operation)
	}
	if err != nil {
		panic(http.ErrAbortHandler)
	}
	maps.Copy(w.Header(), answer.Header())
	w.WriteHeader(answer.Code)
	_, _ = w.Write(answer.Body.Bytes()) // the copy may not wait for it
}

// run makes the copy, or resumes it.
func (e *ending) run(ctx context.Context) (copier.Record, error) {
	front := httptest.NewServer(e)
	defer front.Close()
	disk := &durable.Disk{Before: func(op durable.Op) error { return e.step(op.String()) }}
	retries := 1
	src, err := dynamodb.New(ctx, dynamodb.Options{Table: e.o.Table, Endpoint: front.URL, AccessKey: "crash", SecretKey: "crash",
		HAEnabled: true, MaxRetries: &retries})
	if err != nil {
		return copier.Record{}, err
	}
	dst, err := raft.New(raft.Options{Path: e.o.Path, Address: "10.0.0.1:8201", Disk: disk})
	if err != nil {
		return copier.Record{}, err
	}
	opts := e.o.options(disk)
	opts.RunID, opts.Segments = lateRun, 3
	keep := opts.Record
	opts.Record = func(ctx context.Context, r copier.Record) error {
		if r.State != copier.Unconfirmed {
			e.finished++
		}
		return keep(ctx, r)
	}
	opts.Events = func(event copier.Event) {
		if p, ok := event.(copier.PhaseStarted); ok && p.Phase == copier.PhaseCommit {
			e.mu.Lock()
			e.begun = true
			e.mu.Unlock()
		}
	}
	return copier.Copy(ctx, src, announced{dst, disk}, opts)
}

const lateRun = "run-of-the-late"

// newEnding makes a table and a destination of its own.
func newEnding(t *testing.T, s *dynamotest.Server, n int) *ending {
	t.Helper()
	e := &ending{server: s, at: -1, o: order{Table: fmt.Sprintf("%s-%d", strings.Map(func(r rune) rune {
		if strings.ContainsRune("/_ ,#", r) {
			return '-'
		}
		return r
	}, t.Name()), n)}}
	if err := s.CreateVaultTable(e.o.Table); err != nil {
		t.Fatal(err)
	}
	if _, err := (dynamotest.VaultShape{Entries: 40, Seed: 1, ValueSize: 100}).Load(s, e.o.Table); err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(t.TempDir(), strconv.Itoa(n))
	if err := errors.Join(os.Mkdir(dir, 0o700), e.o.in(dir)); err != nil {
		t.Fatal(err)
	}
	return e
}

// eachStep does something for each step of the end of a copy.
func eachStep(t *testing.T, do func(t *testing.T, e *ending, step string)) {
	t.Helper()
	s := dynamotest.NewServer(dynamotest.Options{})
	defer s.Close()
	all := newEnding(t, s, -1)
	if res, err := all.run(t.Context()); err != nil || res.State != copier.Released {
		t.Fatalf("%+v, %v", res, err)
	}
	for _, want := range []string{"request UpdateItem", "answer UpdateItem", "place raft", "place vault.db", "rename commit.json", "rename manifest.json",
		"request DeleteItem", "answer DeleteItem", "remove work", "remove .dyn2raft"} {
		if !slices.Contains(all.steps, want) {
			t.Errorf("there was no %q: %q", want, all.steps)
		}
	}
	// Between the renewal of the locks and the rename that counts is nothing.
	if i := slices.Index(all.steps, "place vault.db"); i < 1 || all.steps[i-1] != "answer UpdateItem" {
		t.Errorf("before vault.db is put in place: %q", all.steps)
	}
	for i, step := range all.steps {
		e := newEnding(t, s, i)
		e.at = i
		do(t, e, fmt.Sprintf("step %d of %d, %s", i, len(all.steps), step))
	}
}

// refused checks what a copy leaves that must not succeed. manifest is whether
// the record of a complete copy may be there.
func (e *ending) refused(res copier.Record, err error) error {
	if err == nil || res.Complete || res.State != "" {
		return fmt.Errorf("WRONG SUCCESS: complete %v, %q, %w", res.Complete, res.State, err)
	}
	if _, err := os.Lstat(filepath.Join(e.o.Path, "vault.db")); err == nil {
		return errors.New("vault.db is in place")
	}
	made := new(copier.Record)
	data, rerr := os.ReadFile(e.o.Manifest)
	if rerr == nil {
		made, rerr = copier.DecodeRecord(data)
	}
	if rerr != nil && !errors.Is(rerr, os.ErrNotExist) || rerr == nil && made.State != copier.Unconfirmed {
		return fmt.Errorf("the manifest says that the copy is %s: %w", made.State, rerr)
	}
	return nil
}

// TestLockLost: a lock that is lost at any step of the end, up to the one in which
// it is given back, is noticed.
func TestLockLost(t *testing.T) {
	for name, th := range thieves {
		t.Run(name, func(t *testing.T) {
			stolen, free := 0, 0
			eachStep(t, func(t *testing.T, e *ending, step string) {
				var held bool
				e.happen = func() (err error) {
					held, err = th.steal(e.server, e.o.Table, lateRun)
					return err
				}
				res, err := e.run(t.Context())
				if e.err != nil {
					t.Fatal(e.err)
				}
				if !held { // it was given back, each on the condition that it was ours
					free++
					if err != nil || res.State != copier.Released {
						t.Errorf("%s: the table was given back already, and the copy failed: %v", step, err)
					}
					return
				}
				stolen++
				if rerr := e.refused(res, err); rerr != nil {
					t.Errorf("%s: %v", step, rerr)
				}
				if !errors.Is(err, copier.ErrLocked) || !errors.Is(err, copier.ErrMoved) || hints.Of(err) == "" {
					t.Errorf("%s: the error is %v", step, err)
				}
				if e.placed() != errors.Is(err, copier.ErrUnconfirmed) {
					t.Errorf("%s: the error is %v", step, err)
				}
				// What was lost by the time of the rename is never on record as complete.
				if placed := slices.Index(e.steps, "place vault.db"); placed >= e.at && e.finished > 0 {
					t.Errorf("%s: it was recorded as complete meanwhile", step)
				}
				// The other lock stays, once the result was in place.
				if other := map[string]string{"leader": "core/migration"}[name]; other != "" && e.placed() && !lockOf(e.server, e.o.Table, other, lateRun) {
					t.Errorf("%s: %s was removed", step, other)
				}
				if name == "leader" && !lockOf(e.server, e.o.Table, "core/_lock", "leader-v2") {
					t.Errorf("%s: the Vault's lock was taken away", step)
				}
			})
			if stolen < 20 || free < 3 {
				t.Errorf("stolen %d times, free %d times", stolen, free)
			}
		})
	}
}

// TestKilledAndLockLost: a process that is killed at any step of the end leaves
// what the next one asks the table about. Where a lock is lost meanwhile, it never
// says that the copy is complete; where none is, it completes it.
func TestKilledAndLockLost(t *testing.T) {
	for _, name := range []string{"", "leader", "migration"} {
		t.Run("lost "+name, func(t *testing.T) {
			confirmed, anew, stolen := 0, 0, 0
			eachStep(t, func(t *testing.T, e *ending, step string) {
				e.happen = func() error {
					e.dead = true
					return nil
				}
				if _, err := e.run(t.Context()); err != nil && !e.dead {
					t.Fatalf("%s: %v", step, err)
				}
				released := !lockOf(e.server, e.o.Table, "core/_lock", lateRun)
				state, err := raft.Look(e.o.Path)
				if err != nil {
					t.Fatal(err)
				}
				var held bool
				if name != "" {
					if held, err = thieves[name].steal(e.server, e.o.Table, lateRun); err != nil {
						t.Fatal(err)
					}
				}
				if name == "leader" && held && state == raft.StateUnfinished {
					// Nothing is in place. The next process would watch that Vault's lock for
					// 20 s, as each copy does that has nothing saved.
					if _, err := os.Lstat(filepath.Join(e.o.Path, "vault.db")); err == nil {
						t.Errorf("%s: vault.db is in place", step)
					}
					return
				}
				e.dead, e.happen, e.o.Resume = false, nil, true
				res, err := e.run(t.Context())
				switch {
				case errors.Is(err, raft.ErrHoldsData) && released: // killed when all was done
				case held && state != raft.StateUnfinished:
					stolen++
					if rerr := e.refused(res, err); rerr != nil || !errors.Is(err, copier.ErrUnconfirmed) || !errors.Is(err, copier.ErrMoved) {
						t.Errorf("%s: %v, and the error is %v", step, rerr, err)
					}
				case held && err == nil: // all was read again, with the entry that was written late
					if _, err := os.Lstat(filepath.Join(e.o.Path, "vault.db")); err != nil || res.Scan.Entries != 41 {
						t.Errorf("%s: %d entries, %v", step, res.Scan.Entries, err)
					}
				case held:
					if rerr := e.refused(res, err); rerr != nil || !errors.Is(err, copier.ErrLocked) {
						t.Errorf("%s: %v, and the error is %v", step, rerr, err)
					}
				case errors.Is(err, copier.ErrUnconfirmed) && errors.Is(err, copier.ErrMoved) && released:
					anew++ // it had given the table back, and that was not on record yet
				case err != nil || res.State != copier.Released:
					t.Errorf("%s: %q, %v", step, res.State, err)
				default:
					confirmed++
				}
			})
			t.Logf("%d stolen, %d confirmed, %d to be made anew", stolen, confirmed, anew)
			if name == "" && confirmed < 20 || name != "" && stolen < 10 || anew > 12 {
				t.Error("some of that never happened, or too often")
			}
		})
	}
}

// TestUnreachable: a table that does not answer once the result is in place does
// not confirm it. It is taken back, and the copy is resumed without reading the
// table again. Where it was confirmed, and can't be given back, it stays; that is no
// success, and the next process has the table asked again.
func TestUnreachable(t *testing.T) {
	times, confirmed, anew := 0, 0, 0
	eachStep(t, func(t *testing.T, e *ending, step string) {
		if !strings.Contains(step, ", request ") && !strings.Contains(step, ", answer DeleteItem") {
			return
		}
		var placed bool
		e.happen = func() error {
			placed, e.dead = e.placed(), true
			return nil
		}
		e.deaf = true
		res, err := e.run(t.Context())
		if !placed {
			return
		}
		if e.finished > 0 {
			confirmed++
			if err == nil || res.Complete || res.State != copier.Confirmed || !res.Resumable || !errors.Is(err, copier.ErrNotReleased) || !errors.Is(err, copier.ErrSource) {
				t.Errorf("%s: WRONG SUCCESS: complete %v, %q, resumable %v, %v", step, res.Complete, res.State, res.Resumable, err)
			}
			if state, err := raft.Look(e.o.Path); err != nil || state != raft.StateConfirmed {
				t.Errorf("%s: what is left is %q, %v", step, state, err)
			}
			ours := lockOf(e.server, e.o.Table, "core/_lock", lateRun) && lockOf(e.server, e.o.Table, "core/migration", lateRun)
			e.dead, e.happen, e.o.Resume = false, nil, true
			switch res, err = e.run(t.Context()); {
			case ours && (err != nil || res.State != copier.Released):
				t.Errorf("%s: resumed: %q, %v", step, res.State, err)
			case !ours: // whoever has them, or had them
				anew++
				if rerr := e.refused(res, err); rerr != nil || !errors.Is(err, copier.ErrUnconfirmed) || !errors.Is(err, copier.ErrMoved) {
					t.Errorf("%s: resumed: %v, and the error is %v", step, rerr, err)
				}
			}
			return
		}
		times++
		if rerr := e.refused(res, err); rerr != nil || !errors.Is(err, copier.ErrUnconfirmed) || errors.Is(err, copier.ErrMoved) || !res.Resumable {
			t.Errorf("%s: %v, resumable %v, and the error is %v", step, rerr, res.Resumable, err)
		}
		for _, lock := range []string{"core/_lock", "core/migration"} {
			if !lockOf(e.server, e.o.Table, lock, lateRun) {
				t.Errorf("%s: %s is not the run's any more", step, lock)
			}
		}
		e.dead, e.happen, e.o.Resume = false, nil, true
		if res, err = e.run(t.Context()); err != nil || res.State != copier.Released {
			t.Errorf("%s: resumed: %q, %v", step, res.State, err)
		}
	})
	if times < 2 || confirmed < 4 || anew < 3 {
		t.Errorf("it happened %d times, %d times to a confirmed copy, %d of which are made anew", times, confirmed, anew)
	}
}

// TestLockLostAndInUse: what a Vault runs on already can't be taken back. The
// error says so, and so does all that is left.
func TestLockLostAndInUse(t *testing.T) {
	s := dynamotest.NewServer(dynamotest.Options{})
	defer s.Close()
	e := newEnding(t, s, 0)
	vaultDB := filepath.Join(e.o.Path, "vault.db")
	var vault *bbolt.DB
	e.happen = func() (err error) {
		if _, err := thieves["leader"].steal(s, e.o.Table, lateRun); err != nil {
			return err
		}
		vault, err = bbolt.Open(vaultDB, 0o600, &bbolt.Options{Timeout: 5 * time.Second})
		return err
	}
	// The first step behind the rename.
	all := newEnding(t, s, 1)
	if _, err := all.run(t.Context()); err != nil {
		t.Fatal(err)
	}
	e.at = slices.Index(all.steps, "place vault.db") + 1
	res, err := e.run(t.Context())
	if e.err != nil {
		t.Fatal(e.err)
	}
	defer vault.Close()
	for _, want := range []error{copier.ErrUnconfirmed, copier.ErrMoved, copier.ErrLocked, copier.ErrInUse} {
		if !errors.Is(err, want) {
			t.Errorf("the error is %v, and not %v", err, want)
		}
	}
	if res.Complete || res.State != copier.Unconfirmed {
		t.Errorf("complete %v, %q", res.Complete, res.State)
	}
	if state, err := raft.Look(e.o.Path); err != nil || state != raft.StateUnconfirmed {
		t.Errorf("what is left is %q, %v", state, err)
	}
	e.happen, e.o.Resume = nil, true
	if res, err := e.run(t.Context()); !errors.Is(err, copier.ErrUnconfirmed) || !errors.Is(err, copier.ErrInUse) || res.Complete {
		t.Errorf("resumed while it runs: %v", err)
	}
	if err := vault.Close(); err != nil {
		t.Fatal(err)
	}
	res, err = e.run(t.Context())
	if rerr := e.refused(res, err); rerr != nil || !errors.Is(err, copier.ErrUnconfirmed) || !errors.Is(err, copier.ErrMoved) {
		t.Errorf("resumed: %v, and the error is %v", rerr, err)
	}
}
