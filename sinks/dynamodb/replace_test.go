package dynamodb

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"maps"
	"net/http"
	"net/http/httptest"
	"reflect"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/dynamodb/types"
	"google.golang.org/protobuf/encoding/protowire"

	"github.com/dyn2raft/dyn2raft/copier"
	"github.com/dyn2raft/dyn2raft/copier/copiertest"
	"github.com/dyn2raft/dyn2raft/copier/durable"
	"github.com/dyn2raft/dyn2raft/sources/dynamodb"
	"github.com/dyn2raft/dyn2raft/sources/dynamodb/dynamotest"
)

// What a Vault has done since the table was copied: a token was revoked and others were
// made, a user and a secret were deleted, one was changed, and all else stayed.
const (
	revoked       = "sys/token/id/h1revoked"
	deletedUser   = "auth/1111/user/bob"
	deletedSecret = "logical/2222/only/in/this/folder"
	changedSecret = "logical/2222/changed"
	newSecret     = "logical/2222/new/folder/secret"
	clusterInfo   = "core/cluster/local/info"
)

// oldAndNew are the entries of a Vault's old table, and those it has now.
func oldAndNew() (before, now []copier.Entry) {
	stays := map[string]string{clusterInfo: "its name and id", "core/seal-config": "{}", "plain": "", "foo/.": "dot", "logical/2222/_hidden": "h"}
	for i := range 300 {
		stays[fmt.Sprintf("logical/2222/kept/%03d", i)] = strings.Repeat("v", i*7)
	}
	was, is := maps.Clone(stays), maps.Clone(stays)
	was[revoked], was[deletedUser], was[deletedSecret] = "token", "bob", "secret"
	was["core/keyring"], is["core/keyring"] = "term 1", "term 1 and 2"
	was[changedSecret], is[changedSecret] = "old", "new"
	was["becomes-empty"], is["becomes-empty"] = "full", ""
	is[newSecret], is["sys/token/id/h1new"] = "s", "t"
	entries := func(of map[string]string) (out []copier.Entry) {
		for _, key := range slices.Sorted(maps.Keys(of)) {
			out = append(out, copier.Entry{Key: []byte(key), Value: []byte(of[key])})
		}
		return out
	}
	return entries(was), entries(is)
}

// changed are the items that differ: seven entries, and the markers of three directories
// that were left and two that are new.
var changed = Changes{Put: 4 + 2 + 1, Delete: 3 + 6, Same: 0}

// oldTable makes the old table, and returns what the Vault has now.
func oldTableOf(t testing.TB, srv *dynamotest.Server) (now []copier.Entry) {
	t.Helper()
	before, now := oldAndNew()
	check(t, srv.CreateVaultTable(table))
	for _, e := range before {
		check(t, srv.PutVaultEntry(table, string(e.Key), e.Value))
	}
	return now
}

func text(item attributes, name string) string {
	s, _ := item[name].(*types.AttributeValueMemberS)
	return s.Value
}

// replaceOptions replaces the table, with a backup that is made.
func replaceOptions(t testing.TB, change ...func(*Replace)) func(*Options) {
	r := &Replace{WorkDir: t.TempDir(), Backup: "before", HAEnabled: true}
	for _, c := range change {
		c(r)
	}
	return func(o *Options) { o.Replace = r }
}

// isReplaced fails the test unless the table is that of a Vault with these entries, and
// nothing else.
func isReplaced(t testing.TB, srv *dynamotest.Server, want []copier.Entry) {
	t.Helper()
	got, there, err := inPlace(srv)
	same := func(a, b copier.Entry) bool { return bytes.Equal(a.Key, b.Key) && bytes.Equal(a.Value, b.Value) }
	if err != nil || !there || !slices.EqualFunc(got, want, same) {
		t.Errorf("in place: %v, %d entries of %d, %v", there, len(got), len(want), err)
	}
	for _, key := range []string{revoked, deletedUser, deletedSecret} {
		dir, base := split(key)
		if srv.GetItem(table, dir, base) != nil {
			t.Errorf("%s is there again", key)
		}
	}
	if it := srv.GetItem(table, "core", "_dyn2raft"); it != nil {
		t.Error("the record is left")
	}
}

// backups are those of the table.
func backups(t testing.TB, srv *dynamotest.Server) []dynamodb.BackupInfo {
	t.Helper()
	src, err := dynamodb.New(context.Background(), dynamodb.Options{Table: table, Endpoint: srv.URL, AccessKey: "key", SecretKey: "secret"})
	check(t, err)
	list, err := src.Backups(context.Background())
	check(t, errors.Join(err, src.Close()))
	return list
}

// TestReplace writes the way back into the table that a Vault came from: what was revoked
// or deleted since is gone, and only what differs is written.
func TestReplace(t *testing.T) {
	srv := server(t, dynamotest.Options{})
	now := oldTableOf(t, srv)
	var told Changes
	var mu sync.Mutex
	var warned []string
	s := open(t, srv.URL, replaceOptions(t, func(r *Replace) {
		r.Begin = func(_ context.Context, c Changes) error {
			told = c
			if n := srv.Requests()["BatchWriteItem"]; n > 0 || len(backups(t, srv)) != 1 {
				t.Errorf("asked behind %d writes, with %d backups", n, len(backups(t, srv)))
			}
			return nil
		}
	}), func(o *Options) {
		o.Events = func(e copier.Event) {
			if e, ok := e.(copier.Warning); ok {
				mu.Lock()
				warned = append(warned, e.Message)
				mu.Unlock()
			}
		}
	})
	rec, err := copier.Copy(t.Context(), copiertest.NewSource(now...), s, copyOptions(t))
	check(t, err)
	isReplaced(t, srv, now)
	if told.Put != changed.Put || told.Delete != changed.Delete || told.Same < 300 || told.Backup != backups(t, srv)[0].ARN {
		t.Errorf("it is said to change %+v", told)
	}
	var onRecord Changes
	if ok, err := rec.Proof.Facts.Get(ReplacedFact, 1, &onRecord); !ok || err != nil || onRecord != told {
		t.Errorf("on record is %+v, %v, %v", onRecord, ok, err)
	}
	units := srv.WriteUnits(table)
	if len(warned) != 1 || !strings.Contains(strings.Join(warned, "\n"), `keys with a segment that begins with _: 1, such as "logical/2222/_hidden"`) {
		t.Errorf("warnings: %q", warned)
	}
	// Once more there is nothing to change, and no backup is needed.
	rec, err = copier.Copy(t.Context(), copiertest.NewSource(now...), open(t, srv.URL, replaceOptions(t)), copyOptions(t))
	check(t, err)
	if _, err := rec.Proof.Facts.Get(ReplacedFact, 1, &onRecord); err != nil || onRecord.Put+onRecord.Delete > 0 || len(backups(t, srv)) != 1 {
		t.Errorf("a second time %+v are changed, %v, and there are %d backups", onRecord, err, len(backups(t, srv)))
	}
	isReplaced(t, srv, now)
	// That cost what locks and record do. Some units more are for saying that it begins.
	if locks, least := srv.WriteUnits(table)-units, float64(told.Put+told.Delete); units-locks < least || units-locks > least+4 {
		t.Errorf("%v write units, %v of them for locks and record, for %v changes", units, locks, least)
	}
}

// TestReplaceRefused: whatever is in the way is found before anything is changed.
func TestReplaceRefused(t *testing.T) {
	b := func(s string) types.AttributeValue { return &types.AttributeValueMemberB{Value: []byte(s)} }
	lock := func(key, value string) attributes {
		it := itemKey("core", key)
		it[attrValue] = b(value)
		return it
	}
	const parked = `{"start":"2026-03-01T02:03:04Z","dyn2raft_run":"run-0"}`
	elsewhere := errors.New("not now")
	for name, test := range map[string]struct {
		table   func(*testing.T, *dynamotest.Server)
		entries func([]copier.Entry) []copier.Entry
		change  func(*Replace)
		kind    error
		code    copier.Code
	}{
		"another Vault": {entries: func(e []copier.Entry) []copier.Entry {
			return slices.DeleteFunc(e, func(e copier.Entry) bool { return string(e.Key) == clusterInfo })
		}, kind: copier.ErrDestination, code: TableOtherVault},
		"an empty table": {table: func(t *testing.T, srv *dynamotest.Server) {
			for _, it := range srv.Items(table) {
				check(t, srv.DeleteItem(table, text(it, attrPath), text(it, attrKey)))
			}
		}, kind: copier.ErrDestination, code: TableOtherVault},
		"no table": {table: func(t *testing.T, srv *dynamotest.Server) {
			check(t, srv.SetTableStatus(table, types.TableStatusDeleting))
		}, kind: copier.ErrDestination, code: dynamodb.TableStatus},
		"another program's item": {table: func(t *testing.T, srv *dynamotest.Server) {
			check(t, srv.PutItem(table, put("a//b", "c", []byte("v")).request.PutRequest.Item))
		}, kind: copier.ErrDestination, code: TableOtherItem},
		"a marker with a value": {table: func(t *testing.T, srv *dynamotest.Server) {
			check(t, srv.PutItem(table, put("logical", "b/", []byte("v")).request.PutRequest.Item))
		}, kind: copier.ErrDestination, code: TableOtherItem},
		"an entry that can't be written": {entries: func(e []copier.Entry) []copier.Entry {
			return append(e, copier.Entry{Key: []byte("a//b")}, copier.Entry{Key: []byte("large"), Value: make([]byte, maxItem)})
		}, kind: copier.ErrDestination, code: EntryRefused},
		"no such backup": {change: func(r *Replace) {
			r.Backup, r.BackupARN = "", "arn:aws:dynamodb:us-east-1:000000000000:table/new/backup/1"
		},
			kind: copier.ErrDestination, code: dynamodb.BackupMissing},
		"no backup can be made": {table: func(_ *testing.T, srv *dynamotest.Server) {
			srv.SetFaults(&dynamotest.Fault{Kind: dynamotest.AccessDenied, Operation: "CreateBackup"})
		}, kind: copier.ErrDestination, code: dynamodb.BackupDenied},
		"nobody knows whether a Vault runs": {change: func(r *Replace) { r.HAEnabled = false }, kind: copier.ErrLocked, code: TableNotStopped},
		"another copy's lock": {table: func(t *testing.T, srv *dynamotest.Server) { check(t, srv.PutItem(table, lock("migration", parked))) },
			kind: copier.ErrLocked, code: TableLocked},
		"Vault's migration": {table: func(t *testing.T, srv *dynamotest.Server) {
			check(t, srv.PutItem(table, lock("migration", `{"start":"2026-01-01T00:00:00Z"}`)))
		}, change: func(r *Replace) { r.TakeOver = "run-0" }, kind: copier.ErrLocked, code: dynamodb.LockedByMigration},
		"refused when asked": {table: func(t *testing.T, srv *dynamotest.Server) { check(t, srv.PutItem(table, lock("migration", parked))) },
			change: func(r *Replace) {
				r.TakeOver = "run-0"
				r.Begin = func(context.Context, Changes) error { return elsewhere }
			}, kind: elsewhere},
	} {
		t.Run(name, func(t *testing.T) {
			srv := server(t, dynamotest.Options{})
			now := oldTableOf(t, srv)
			if test.table != nil {
				test.table(t, srv)
			}
			if test.entries != nil {
				now = test.entries(now)
			}
			if test.change == nil {
				test.change = func(*Replace) {}
			}
			before := srv.Items(table)
			_, err := copier.Copy(t.Context(), copiertest.NewSource(now...), open(t, srv.URL, replaceOptions(t, test.change)), copyOptions(t))
			if code, _ := copier.CodeOf(err); !errors.Is(err, test.kind) || code != test.code {
				t.Errorf("%v", err)
			}
			if !reflect.DeepEqual(srv.Items(table), before) {
				t.Errorf("%d items were there, and %d are", len(before), len(srv.Items(table)))
			}
		})
	}
	t.Run("a Vault runs", func(t *testing.T) {
		srv := server(t, dynamotest.Options{})
		now := oldTableOf(t, srv)
		renew := func(at time.Time) {
			it := lock("_lock", "uuid")
			it[attrIdentity], it[attrExpires] = b("id"), expires(at)
			check(t, srv.PutItem(table, it))
		}
		renew(time.Now().Add(time.Minute))
		s := open(t, srv.URL, replaceOptions(t), func(o *Options) {
			o.Events = func(e copier.Event) {
				if w, ok := e.(copier.Waiting); ok && w.For == copier.WaitHeldLock {
					renew(time.Now().Add(2 * time.Minute))
				}
			}
		})
		_, err := copier.Copy(t.Context(), copiertest.NewSource(now...), s, copyOptions(t))
		if code, _ := copier.CodeOf(err); !errors.Is(err, copier.ErrLocked) || code != dynamodb.VaultRuns || srv.GetItem(table, "core", "migration") != nil {
			t.Errorf("%v", err)
		}
	})
	for name, r := range map[string]Replace{"no backup": {WorkDir: "."}, "two backups": {WorkDir: ".", Backup: "a", BackupARN: "b"}, "no place": {Backup: "a"}} {
		if err := (&Options{Table: table, Region: "r", Replace: &r}).Validate(); !errors.Is(err, copier.ErrConfig) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestReplaceParked: the lock that the copy from the table has left is taken over by the id
// of that copy, and gone once the table is replaced.
func TestReplaceParked(t *testing.T) {
	srv := server(t, dynamotest.Options{})
	now := oldTableOf(t, srv)
	src, err := dynamodb.New(t.Context(), dynamodb.Options{Table: table, Endpoint: srv.URL, AccessKey: "key", SecretKey: "secret", HAEnabled: true, KeepLocked: true})
	check(t, err)
	_, err = src.Open(t.Context())
	check(t, err)
	l, err := src.Lock(t.Context(), "run-0", false, func(error) {})
	check(t, err)
	arn, err := src.Snapshot(t.Context(), "before")
	check(t, err)
	check(t, errors.Join(l.Release(t.Context(), copier.EndComplete), src.Close()))
	if srv.GetItem(table, "core", "migration") == nil {
		t.Fatal("it has left no lock")
	}
	_, err = copier.Copy(t.Context(), copiertest.NewSource(now...), open(t, srv.URL, replaceOptions(t, func(r *Replace) {
		r.Backup, r.BackupARN, r.TakeOver = "", arn, "run-0"
	})), copyOptions(t))
	check(t, err)
	isReplaced(t, srv, now)
}

// TestReplaceFails: a table that was changed stays locked until that run, resumed, or
// another copy into it is complete, though none of what was read was saved.
func TestReplaceFails(t *testing.T) {
	for _, resume := range []bool{true, false} {
		t.Run(fmt.Sprintf("resume %v", resume), func(t *testing.T) { replaceFails(t, resume) })
	}
}

func replaceFails(t *testing.T, resume bool) {
	srv := server(t, dynamotest.Options{})
	now := oldTableOf(t, srv)
	broken := &dynamotest.Fault{Kind: dynamotest.AccessDenied, Operation: "BatchWriteItem"}
	srv.SetFaults(broken)
	one := func(o *Options) { o.Requests = 1 }
	options := copyOptions(t)
	res, err := copier.Copy(t.Context(), copiertest.NewSource(now...), open(t, srv.URL, replaceOptions(t), one), options)
	list := backups(t, srv)
	if !errors.Is(err, copier.ErrDestination) || !res.Resumable || !res.Overwritten {
		t.Errorf("%v, resumable %v, overwritten %v", err, res.Resumable, res.Overwritten)
	}
	if srv.GetItem(table, "core", "migration") == nil || len(list) != 1 {
		t.Fatalf("the table is not locked, or has %d backups", len(list))
	}
	// A new table is not made of it, nor is it copied from, nor freed.
	_, err = open(t, srv.URL).Open(t.Context())
	if !errors.Is(err, copier.ErrLocked) {
		t.Errorf("it is taken for a new one: %v", err)
	}
	src, err := dynamodb.New(t.Context(), dynamodb.Options{Table: table, Endpoint: srv.URL, AccessKey: "key", SecretKey: "secret", HAEnabled: true})
	check(t, err)
	_, err = src.Reset(t.Context())
	if !errors.Is(err, dynamodb.ErrHalfReplaced) {
		t.Errorf("it is freed: %v", err)
	}
	check(t, src.Close())
	srv.SetFaults()
	asked := func(r *Replace) {
		r.Backup = "another"
		r.Begin = func(context.Context, Changes) error { return errors.New("asked again") }
	}
	if options.Resume = resume; !resume {
		options = copyOptions(t)
	}
	_, err = copier.Copy(t.Context(), copiertest.NewSource(now...), open(t, srv.URL, replaceOptions(t, asked)), options)
	check(t, err)
	isReplaced(t, srv, now)
	if n := len(backups(t, srv)); n != 1 {
		t.Errorf("there are %d backups", n)
	}
}

// TestReplaceStopped: a process that replaces a table writes nothing that it has lost.
func TestReplaceStopped(t *testing.T) {
	srv := server(t, dynamotest.Options{})
	now := oldTableOf(t, srv)
	before := withoutLocks(srv)
	s := open(t, srv.URL, replaceOptions(t, func(r *Replace) {
		r.Begin = func(context.Context, Changes) error { return srv.DeleteItem(table, "core", "_lock") }
	}))
	still := s.stillHeld
	if still(t.Context()) != nil {
		t.Fatal("it holds nothing yet")
	}
	_, err := copier.Copy(t.Context(), copiertest.NewSource(now...), s, copyOptions(t))
	if !errors.Is(err, copier.ErrLocked) || !reflect.DeepEqual(withoutLocks(srv), before) {
		t.Errorf("%v", err)
	}
	if s.fence.Load() == nil {
		t.Error("nothing is asked before a write")
	}
}

// expireLeader does what would take a lease and more of waiting: it lets the leader lock of
// a process that has ended go.
func expireLeader(t testing.TB, srv *dynamotest.Server) {
	t.Helper()
	if it := srv.GetItem(table, "core", "_lock"); strings.HasPrefix(string(binary(it, attrValue)), holderPrefix) {
		check(t, srv.DeleteItem(table, "core", "_lock"))
	}
}

// A mortalFront is between a process and its table, and ends with the process: at one of
// its writes, in front of it or behind it.
type mortalFront struct {
	srv    *dynamotest.Server
	at     int // the write, counted from 0; less than 0 for never
	behind bool
	mu     sync.Mutex
	n      int
	dead   bool
	end    context.CancelFunc
}

func (f *mortalFront) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	_, operation, _ := strings.Cut(r.Header.Get("X-Amz-Target"), ".")
	f.mu.Lock()
	if f.dead { // who is dead asks no more
		f.mu.Unlock()
		w.WriteHeader(http.StatusBadRequest)
		_, _ = io.WriteString(w, `{"__type":"com.amazonaws.dynamodb.v20120810#AccessDeniedException","message":"dead"}`)
		return
	}
	write := slices.Contains([]string{"PutItem", "UpdateItem", "DeleteItem", "BatchWriteItem", "CreateBackup"}, operation)
	now := write && f.n == f.at
	if write {
		f.n++
	}
	f.dead = now
	f.mu.Unlock()
	if now {
		if f.behind {
			f.srv.ServeHTTP(httptest.NewRecorder(), r)
		}
		f.end()
		panic(http.ErrAbortHandler)
	}
	f.srv.ServeHTTP(w, r)
}

func (f *mortalFront) isDead() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.dead
}

// A killedReplace is a table that one process after the other replaces.
type killedReplace struct {
	*testing.T
	srv     *dynamotest.Server
	src     *copiertest.Source
	url     string
	live    atomic.Pointer[mortalFront]
	copy    copier.Options
	replace func(*Options)
}

func newKilledReplace(t *testing.T) (k *killedReplace, now []copier.Entry) {
	k = &killedReplace{T: t, srv: server(t, dynamotest.Options{}), copy: copyOptions(t), replace: replaceOptions(t)}
	now = oldTableOf(t, k.srv)
	k.src = copiertest.NewSource(now...)
	front := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { k.live.Load().ServeHTTP(w, r) }))
	front.Config.ErrorLog = log.New(io.Discard, "", 0)
	front.Start()
	t.Cleanup(front.Close)
	k.url = front.URL
	return k, now
}

// process runs until it is killed at a write, or ends.
func (k *killedReplace) process(at int, behind bool, change func(*copier.Options)) (*mortalFront, error) {
	ctx, cancel := context.WithCancel(k.Context())
	defer cancel()
	f := &mortalFront{srv: k.srv, at: at, behind: behind, end: cancel}
	k.live.Store(f)
	o := k.copy
	o.Workers, o.Segments, o.CheckpointInterval = 1, 2, time.Microsecond
	o.Disk = &durable.Disk{Before: func(durable.Op) error {
		if f.isDead() {
			return errKilled
		}
		return nil
	}}
	change(&o)
	_, err := copier.Copy(ctx, mortal{k.src, f.isDead}, open(k.T, k.url, k.replace, func(o *Options) { o.Requests = 1 }), o)
	return f, err
}

// TestReplaceKilledAtEachWrite kills a copy in front of each of its writes, and behind it,
// and has another process resume it. Until it is complete no Vault starts on what is
// neither the old table nor the new one.
func TestReplaceKilledAtEachWrite(t *testing.T) {
	k, now := newKilledReplace(t)
	f, err := k.process(-1, false, func(*copier.Options) {})
	check(t, err)
	isReplaced(t, k.srv, now)
	if f.n < 10 {
		t.Errorf("there were %d writes", f.n)
	}
	for at := range f.n {
		for _, behind := range []bool{false, true} {
			t.Run(fmt.Sprintf("write %d, behind it %v", at, behind), func(t *testing.T) {
				t.Parallel()
				killedAt(t, at, behind)
			})
		}
	}
}

func killedAt(t *testing.T, at int, behind bool) {
	k, now := newKilledReplace(t)
	before := withoutLocks(k.srv)
	f, err := k.process(at, behind, func(*copier.Options) {})
	if !f.isDead() {
		t.Fatalf("it was not killed: %v", err)
	}
	if got, there, ierr := inPlace(k.srv); there && !reflect.DeepEqual(withoutLocks(k.srv), before) && (ierr != nil || len(got) != len(now)) {
		t.Errorf("killed with %v: a Vault would find %d entries, %v", err, len(got), ierr)
	}
	expireLeader(t, k.srv)
	_, rerr := k.process(-1, false, func(o *copier.Options) { o.Resume = true })
	if errors.Is(rerr, copier.ErrUnconfirmed) && errors.Is(rerr, copier.ErrMoved) && k.src.Holder() == "" {
		// It was killed behind the source was given back, and before that was on record.
		expireLeader(t, k.srv)
		_, rerr = k.process(-1, false, func(o *copier.Options) { o.Restart = true })
	}
	if rerr != nil || k.src.Holder() != "" {
		t.Errorf("killed with %v, resumed with %v; run %q holds the source", err, rerr, k.src.Holder())
	}
	isReplaced(t, k.srv, now)
	if n := len(backups(t, k.srv)); n < 1 || n > 2 {
		t.Errorf("there are %d backups", n)
	}
}

// withoutLocks are the items of the table but for those of a copy itself.
func withoutLocks(srv *dynamotest.Server) []attributes {
	return slices.DeleteFunc(srv.Items(table), func(it attributes) bool {
		return isLock(it) || text(it, attrKey) == "_dyn2raft"
	})
}

// TestOneOfTwo: of two processes that find no table, or the same one, one has it.
func TestOneOfTwo(t *testing.T) {
	for name, change := range map[string]func(*testing.T, *dynamotest.Server) func(*Options){
		"no table": func(*testing.T, *dynamotest.Server) func(*Options) { return func(*Options) {} },
		"an old table": func(t *testing.T, srv *dynamotest.Server) func(*Options) {
			oldTableOf(t, srv)
			return replaceOptions(t)
		},
	} {
		t.Run(name, func(t *testing.T) {
			srv := server(t, dynamotest.Options{})
			with := change(t, srv)
			var sinks [4]*Sink
			for i := range sinks {
				sinks[i] = open(t, srv.URL, with)
				state, err := sinks[i].Open(t.Context())
				if err != nil || state.Record != nil {
					t.Fatalf("%+v, %v", state, err)
				}
			}
			var stages [len(sinks)]copier.Stage
			var errs [len(sinks)]error
			var wg sync.WaitGroup
			for i := range sinks {
				wg.Go(func() { stages[i], errs[i] = sinks[i].Stage(t.Context(), fmt.Sprintf("run-%d", i)) })
			}
			wg.Wait()
			had := 0
			for i, st := range stages {
				if errs[i] == nil {
					had++
					check(t, st.Close(false))
				} else if !errors.Is(errs[i], copier.ErrLocked) {
					t.Errorf("%v", errs[i])
				}
				check(t, sinks[i].Close())
			}
			if had != 1 {
				t.Errorf("%d of %d have it: %v", had, len(sinks), errs)
			}
		})
	}
}

// TestSealWrapped: what Enterprise has wrapped is refused unless it is accepted; what only
// looks like it is not.
func TestSealWrapped(t *testing.T) {
	blob := func(with ...protowire.Number) (b []byte) {
		b = protowire.AppendBytes(protowire.AppendTag(b, 1, protowire.BytesType), []byte("ciphertext"))
		for _, n := range with {
			switch n {
			case 4:
				b = protowire.AppendVarint(protowire.AppendTag(b, 4, protowire.VarintType), 1)
			case 5:
				b = protowire.AppendBytes(protowire.AppendTag(b, 5, protowire.BytesType), []byte("key"))
			}
		}
		return b
	}
	many := func(blob []byte) []byte {
		message := protowire.AppendVarint(protowire.AppendTag(nil, 1, protowire.VarintType), 7)
		message = protowire.AppendBytes(protowire.AppendTag(message, 2, protowire.BytesType), blob)
		return append([]byte{'m', 'u', 'l', 't', 'i', 'w', 'r', 'a', 'p', 'v', 'a', 'l', 'u', 'e', ':', '1', 0, 0, 0, byte(len(message))}, message...)
	}
	s := func(b []byte) []byte { return append(slices.Clone(b), 's') }
	for name, test := range map[string]struct {
		value []byte
		want  bool
	}{
		"by one seal":         {s(blob(4)), true},
		"with a key":          {s(blob(5)), true},
		"by several":          {s(many(blob(5))), true},
		"without its end":     {blob(4, 5), false},
		"several without it":  {many(blob(5)), false},
		"not wrapped":         {s(blob()), false},
		"several not wrapped": {s(many(blob())), false},
		"several, cut":        {s(many(blob(5))[:25]), false},
		"of the barrier":      {s(append([]byte{0, 0, 0, 1, 2}, blob(4)...)), false},
		"the header alone":    {[]byte(manyBlobs + "s"), false},
		"text":                {[]byte("multiwrapvalue:1 and more words"), false},
		"one letter":          {[]byte("s"), false},
		"nothing":             {nil, false},
	} {
		if got := sealWrapped(test.value); got != test.want {
			t.Errorf("%s: %v", name, got)
		}
	}
	srv := server(t, dynamotest.Options{})
	src := copiertest.NewSource(copier.Entry{Key: []byte("a"), Value: s(blob(4))}, copier.Entry{Key: []byte("b"), Value: []byte("v")})
	_, err := copier.Copy(t.Context(), src, open(t, srv.URL), copyOptions(t))
	if code, _ := copier.CodeOf(err); code != EntrySealWrapped || len(srv.Items(table)) > 0 {
		t.Errorf("%d items are there: %v", len(srv.Items(table)), err)
	}
	_, err = copier.Copy(t.Context(), src, open(t, srv.URL, func(o *Options) { o.SealWrapped = true }), copyOptions(t))
	check(t, err)
}

// TestHidden: entries that Vault will not list are told of, and leases among them.
func TestHidden(t *testing.T) {
	var mu sync.Mutex
	var told []copier.Warning
	srv := server(t, dynamotest.Options{})
	s := open(t, srv.URL, func(o *Options) {
		o.Events = func(e copier.Event) {
			if w, ok := e.(copier.Warning); ok && w.Check == "hidden-entries" {
				mu.Lock()
				told = append(told, w)
				mu.Unlock()
			}
		}
	})
	var entries []copier.Entry
	for _, key := range []string{"a/b_c", "a/_b/c", "sys/expire/id/auth/userpass/login/_bob/h1", "sys/expire/id/auth/userpass/login/bob/h2"} {
		entries = append(entries, copier.Entry{Key: []byte(key)})
	}
	_, err := copier.Copy(t.Context(), copiertest.NewSource(entries...), s, copyOptions(t))
	check(t, err)
	if len(told) != 1 || !strings.HasPrefix(told[0].Message, "keys with a segment that begins with _: 2,") || !strings.Contains(told[0].Message, "; leases among them: 1.") {
		t.Errorf("%+v", told)
	}
}

// TestPlaces: each item has a place of its own, which leads back to it.
func TestPlaces(t *testing.T) {
	for _, item := range [][2]string{{" ", "a"}, {" ", "a/"}, {"a", "b"}, {"a", "b/"}, {"a/b", "."}, {"a/b", "./"}, {"/", "x"}, {"/", "x/"}, {"/a", "b"}, {" /a", "b"}, {".", "x"}} {
		name, marker := strings.CutSuffix(item[1], "/")
		place, err := dynamodb.ItemKey(item[0], name)
		check(t, err)
		if marker {
			place += "/"
		}
		if dir, base := itemAt(place); dir != item[0] || base != item[1] {
			t.Errorf("%q is at %q, which leads to %q, %q", item, place, dir, base)
		}
	}
}

// TestReplaceGivenUp: a run that has changed nothing leaves the table locked as it was
// found; one that has begun stays, whoever gives it up. The checks tell which it is.
func TestReplaceGivenUp(t *testing.T) {
	const parked = `{"start":"2026-03-01T02:03:04Z","dyn2raft_run":"run-0"}`
	srv := server(t, dynamotest.Options{})
	now := oldTableOf(t, srv)
	it := itemKey("core", "migration")
	it[attrValue] = &types.AttributeValueMemberB{Value: []byte(parked)}
	check(t, srv.PutItem(table, it))
	replace := replaceOptions(t, func(r *Replace) { r.TakeOver = "run-0" })
	tells := func(status copier.Outcome, code, says string) {
		t.Helper()
		found, err := open(t, srv.URL, replace).Check(t.Context(), copier.Ahead)
		i := slices.IndexFunc(found, func(f copier.Finding) bool { return f.Check == "destination" })
		if err != nil || i < 0 || found[i].Status != status || found[i].Code != code || !strings.Contains(found[i].Message, says) {
			t.Errorf("%v, %+v", err, found)
		}
	}
	tells(copier.Passed, "", "locked by run run-0")
	killed := open(t, srv.URL, replace)
	_, err := killed.Open(t.Context())
	check(t, err)
	st, err := killed.Stage(t.Context(), "run-1")
	check(t, err)
	check(t, errors.Join(st.Close(true), killed.Close()))
	tells(copier.Warned, "unfinished", "run-1")
	given, err := open(t, srv.URL).GiveUp(t.Context())
	if got := binary(srv.GetItem(table, "core", "migration"), attrValue); err != nil || given != (GivenUp{"run-1", true}) || string(got) != parked {
		t.Errorf("%+v, %v; the lock is %s", given, err, got)
	}
	tells(copier.Passed, "", "locked by run run-0")

	srv.SetFaults(&dynamotest.Fault{Kind: dynamotest.AccessDenied, Operation: "BatchWriteItem", Count: 1})
	if _, err := copier.Copy(t.Context(), copiertest.NewSource(now...), open(t, srv.URL, replace, func(o *Options) { o.Requests = 1 }), copyOptions(t)); err == nil {
		t.Error("it has not failed")
	}
	tells(copier.Warned, "unfinished", "in the backup arn:")
	before := srv.Items(table)
	_, err = open(t, srv.URL, replace).GiveUp(t.Context())
	if code, _ := copier.CodeOf(err); code != dynamodb.HalfReplaced || !reflect.DeepEqual(srv.Items(table), before) {
		t.Errorf("given up: %v", err)
	}
}
