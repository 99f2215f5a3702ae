package dynamodb

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	dynamodbsdk "github.com/aws/aws-sdk-go-v2/service/dynamodb"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb/types"
	"github.com/hashicorp/vault/sdk/physical"
	"go.uber.org/goleak"

	"github.com/dyn2raft/dyn2raft/copier"
	"github.com/dyn2raft/dyn2raft/copier/copiertest"
	"github.com/dyn2raft/dyn2raft/sources/dynamodb"
	"github.com/dyn2raft/dyn2raft/sources/dynamodb/dynamotest"
	"github.com/dyn2raft/dyn2raft/verify"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const table = "new"

// testTiming has a lease that no busy machine outlasts, and renewals that show at once.
var testTiming = timing{lease: time.Minute, renew: 10 * time.Millisecond, poll: 5 * time.Millisecond}

func server(t *testing.T, options dynamotest.Options) *dynamotest.Server {
	t.Helper()
	srv := dynamotest.NewServer(options)
	t.Cleanup(srv.Close)
	return srv
}

func open(t *testing.T, url string, change ...func(*Options)) *Sink {
	t.Helper()
	o := Options{Table: table, Region: "us-east-1", Endpoint: url, AccessKey: "key", SecretKey: "secret", RetryFor: time.Minute}
	for _, c := range change {
		c(&o)
	}
	s, err := New(t.Context(), o)
	check(t, err)
	s.timing = testTiming
	t.Cleanup(s.closeConnections)
	return s
}

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// inPlace returns what a Vault would find in the table, and whether one would start on it.
// What is there must be entries and the markers of their directories, and no lock.
func inPlace(srv *dynamotest.Server) (out []copier.Entry, there bool, err error) {
	if srv.GetItem(table, "core", "migration") != nil {
		return nil, false, nil
	}
	_, err = srv.Client().DescribeTable(context.Background(), describeTable())
	if err != nil {
		return nil, false, nil //nolint:nilerr // there is no table
	}
	want, got := map[string]bool{}, map[string]bool{}
	for _, it := range srv.Items(table) {
		dir, base := it[attrPath].(*types.AttributeValueMemberS).Value, it[attrKey].(*types.AttributeValueMemberS).Value
		key := dir + "/" + base
		if dir == emptyPath {
			key = base
		}
		null, _ := it[attrValue].(*types.AttributeValueMemberNULL)
		switch {
		case key == recordKey:
		case it[attrIdentity] != nil:
			err = errors.Join(err, fmt.Errorf("lock %q", key))
		case strings.HasSuffix(base, "/"):
			if null == nil || !null.Value {
				err = errors.Join(err, fmt.Errorf("marker %q has the value %v", key, it[attrValue]))
			}
			got[strings.TrimSuffix(key, "/")] = true
		default:
			e := copier.Entry{Key: []byte(key), Value: binary(it, attrValue)}
			if (len(e.Value) == 0) != (null != nil) {
				err = errors.Join(err, fmt.Errorf("entry %q has the value %v", key, it[attrValue]))
			}
			out = append(out, e)
			for _, prefix := range physical.Prefixes(key) {
				want[prefix] = true
			}
		}
	}
	if !maps.Equal(got, want) {
		err = errors.Join(err, fmt.Errorf("it has %d markers, and its entries have %d directories", len(got), len(want)))
	}
	slices.SortFunc(out, func(a, b copier.Entry) int { return bytes.Compare(a.Key, b.Key) })
	return out, true, err
}

func TestContract(t *testing.T) {
	for name, change := range map[string]func(*testing.T, *dynamotest.Server){
		"no table":    func(*testing.T, *dynamotest.Server) {},
		"empty table": func(t *testing.T, srv *dynamotest.Server) { check(t, srv.CreateVaultTable(table)) },
	} {
		t.Run(name, func(t *testing.T) {
			copiertest.TestSink(t, func() copiertest.Destination {
				srv := server(t, dynamotest.Options{})
				change(t, srv)
				return copiertest.Destination{
					Open: func() copier.Sink { return open(t, srv.URL) },
					Read: func() ([]copier.Entry, bool, error) { return inPlace(srv) },
				}
			})
		})
	}
}

// shape returns n entries as a Vault has them, not in order.
func shape(n int) (out []copier.Entry) {
	rnd := rand.New(rand.NewPCG(1, 2))
	for i := range n {
		key := fmt.Sprintf("sys/token/id/%06d", i)
		switch i % 4 {
		case 1:
			key = fmt.Sprintf("logical/%d/secret-%d/%06d", i%7, i%100, i)
		case 2:
			key = fmt.Sprintf("sys/expire/id/auth/userpass/login/_%06d", i)
		}
		out = append(out, copier.Entry{Key: []byte(key), Value: make([]byte, rnd.IntN(1+i%1500))})
	}
	for _, key := range []string{"plain", "core/seal-config", "core/raft/tls", "foo/.", "with space/ x"} {
		out = append(out, copier.Entry{Key: []byte(key), Value: []byte(key)})
	}
	return out
}

func copyOptions(t *testing.T) copier.Options {
	return copier.Options{Memory: copier.MinMemory, WorkDir: t.TempDir(), Uninitialized: true}
}

// TestCopy makes a table of 20,000 entries, throttled by faults and by a cap, and looks at
// what is there, and at what it has cost.
func TestCopy(t *testing.T) {
	entries := shape(20_000)
	least := 0.0
	dirs := map[string]bool{}
	for _, e := range entries {
		dir, base := split(string(e.Key))
		least += math.Ceil(float64(itemSize(dir, base, e.Value)) / 1024)
		for _, p := range physical.Prefixes(string(e.Key)) {
			dirs[p] = true
		}
	}
	least += float64(len(dirs))
	srv := server(t, dynamotest.Options{})
	src := copiertest.NewSource(entries...)
	src.PageEntries = 500
	unprocessed := &dynamotest.Fault{Kind: dynamotest.Unprocessed, Operation: "BatchWriteItem", Probability: 0.1}
	srv.SetFaults(unprocessed, &dynamotest.Fault{Kind: dynamotest.Throttling, Operation: "BatchWriteItem", Probability: 0.02})
	r, err := copier.Copy(t.Context(), src, open(t, srv.URL), copyOptions(t))
	check(t, err)
	got, there, err := inPlace(srv)
	check(t, err)
	want := slices.Clone(entries)
	slices.SortFunc(want, func(a, b copier.Entry) int { return bytes.Compare(a.Key, b.Key) })
	same := func(a, b copier.Entry) bool { return bytes.Equal(a.Key, b.Key) && bytes.Equal(a.Value, b.Value) }
	if !there || !slices.EqualFunc(got, want, same) || r.State != copier.Released || r.Proof == nil {
		t.Errorf("in place: %v, %d entries of %d, %+v", there, len(got), len(want), r.State)
	}
	reread, err := dynamodb.New(t.Context(), dynamodb.Options{Table: table, Endpoint: srv.URL, AccessKey: "key", SecretKey: "secret"})
	check(t, err)
	rep, err := verify.Compare(t.Context(), src, reread, verify.Options{WorkDir: t.TempDir()})
	if err != nil || len(rep.Diffs) > 0 || rep.DestinationEntries != int64(len(want)) {
		t.Errorf("compared: %+v, %v", rep, err)
	}
	units := srv.WriteUnits(table)
	t.Logf("%.0f write units, and %.0f are the least: %.4f times", units, least, units/least)
	if units > 1.05*least {
		t.Error("that is too many")
	}
	if unprocessed.Fired() == 0 || srv.GetItem(table, "core", "_dyn2raft") != nil {
		t.Errorf("items were left unprocessed %d times; record %v", unprocessed.Fired(), srv.GetItem(table, "core", "_dyn2raft"))
	}
}

// A capacity of the table, or a cap, is kept to.
func TestCapacity(t *testing.T) {
	for name, change := range map[string]func(*Options){
		"table": func(o *Options) { o.ReadUnits, o.WriteUnits = 10_000, 500 },
		"cap":   func(o *Options) { o.WriteCapacity = 500 },
	} {
		t.Run(name, func(t *testing.T) {
			srv := server(t, dynamotest.Options{Provisioned: true})
			began := time.Now()
			_, err := copier.Copy(t.Context(), copiertest.NewSource(shape(1500)...), open(t, srv.URL, change), copyOptions(t))
			check(t, err)
			if took, units := time.Since(began), srv.WriteUnits(table); units < 1500 || took.Seconds() < (units-500-700)/500 { // a second's are there, and a batch may overdraw
				t.Errorf("%.0f write units in %v", units, took)
			}
			got, there, err := inPlace(srv)
			if err != nil || !there || len(got) != 1505 {
				t.Errorf("in place: %v, %d entries, %v", there, len(got), err)
			}
		})
	}
}

// All that DynamoDB, or Vault's storage in it, can't keep is named before anything is written.
func TestRefused(t *testing.T) {
	long := strings.Repeat("x", 1024)
	refused := map[string]string{
		"core/lock": "lock", "core/migration": "lock", "core/_lock": "lock",
		"a\xff/b": "UTF-8", "a//b": "Path", "/a": "Path", " /a": "Path", "a/./b": "Path", "a/../b": "Path",
		"a/" + long + "x": "1024", "b/" + long + "/x": "marker", strings.Repeat(long+"/", 2) + "x": "2048",
		strings.Repeat("a/", 1025) + "x": "2048", "value": "409600",
	}
	fit := map[string]int{"a/" + long: 0, "b/" + long[1:] + "/x": 0, strings.Repeat("a/", 1024) + "x": 0,
		"large": maxItem - len("Path Key large Value") + 2, "foo/.": 1, ".": 1, "_x": 1, "core/raft/tls": 1}
	var entries []copier.Entry
	for key := range refused {
		size := 10
		if key == "value" {
			size = maxItem - len("PathKeyValue value") + 1
		}
		entries = append(entries, copier.Entry{Key: []byte(key), Value: make([]byte, size)})
	}
	for key, size := range fit {
		entries = append(entries, copier.Entry{Key: []byte(key), Value: make([]byte, size)})
	}
	srv := server(t, dynamotest.Options{})
	var mu sync.Mutex
	var told []string
	o := copyOptions(t)
	o.Events = func(e copier.Event) {
		if e, ok := e.(copier.ItemRefused); ok {
			mu.Lock()
			told = append(told, e.Err.Error())
			mu.Unlock()
		}
	}
	_, err := copier.Copy(t.Context(), copiertest.NewSource(entries...), open(t, srv.URL), o)
	if code, _ := copier.CodeOf(err); code != EntryRefused || len(told) != len(refused) {
		t.Fatalf("%d of %d are refused: %v\n%s", len(told), len(refused), err, strings.Join(told, "\n"))
	}
	for key, why := range refused {
		name := fmt.Sprintf("%q", key[:min(len(key), 190)])
		if !slices.ContainsFunc(told, func(s string) bool { return strings.Contains(s, name[:len(name)-1]) && strings.Contains(s, why) }) {
			t.Errorf("%s is not refused for %s", name, why)
		}
	}
	if n := srv.Requests()["BatchWriteItem"]; n > 0 || len(srv.Items(table)) > 0 {
		t.Errorf("%d batches, %d items are left", n, len(srv.Items(table)))
	}
	// The others fit.
	entries = slices.DeleteFunc(entries, func(e copier.Entry) bool { return refused[string(e.Key)] != "" })
	_, err = copier.Copy(t.Context(), copiertest.NewSource(entries...), open(t, srv.URL), copyOptions(t))
	check(t, err)
}

// What somebody else has put into a table is not touched.
func TestForeign(t *testing.T) {
	b := func(s string) types.AttributeValue { return &types.AttributeValueMemberB{Value: []byte(s)} }
	lock := func(value, identity string, at time.Time) attributes {
		it := itemKey("core", "_lock")
		it[attrValue], it[attrIdentity], it[attrExpires] = b(value), b(identity), expires(at)
		return it
	}
	migrationOf := func(text string) attributes {
		it := itemKey("core", "migration")
		it[attrValue] = b(text)
		return it
	}
	for name, test := range map[string]struct {
		items []attributes
		kind  error
		code  copier.Code
	}{
		"an entry":          {[]attributes{put("a", "b", []byte("c")).request.PutRequest.Item}, copier.ErrDestination, TableNotEmpty},
		"a marker":          {[]attributes{put(" ", "b/", nil).request.PutRequest.Item}, copier.ErrDestination, TableNotEmpty},
		"a Vault":           {[]attributes{lock("uuid", "id", time.Now().Add(time.Minute))}, copier.ErrLocked, TableBusy},
		"Vault's migration": {[]attributes{migrationOf(`{"start":"2026-01-01T00:00:00Z"}`)}, copier.ErrLocked, TableBusy},
		"a copy from it": {[]attributes{migrationOf(`{"start":"2026-01-01T00:00:00Z","dyn2raft_run":"run-1"}`), lock("dyn2raft run run-1", "run-1", time.Time{})},
			copier.ErrLocked, TableBusy},
		"a Vault that runs beside a copy": {[]attributes{migrationOf(`{"start":"2026-01-01T00:00:00Z","dyn2raft_run":"run-1","dyn2raft_destination":true}`), lock("uuid", "id", time.Now().Add(time.Minute))},
			copier.ErrLocked, TableBusy},
		"a Vault beside a copy": {[]attributes{migrationOf(`{"start":"2026-01-01T00:00:00Z","dyn2raft_run":"run-1","dyn2raft_destination":true}`), lock("uuid", "id", time.Time{})},
			copier.ErrLocked, TableBusy},
	} {
		t.Run(name, func(t *testing.T) {
			srv := server(t, dynamotest.Options{})
			check(t, srv.CreateVaultTable(table))
			check(t, srv.PutItems(table, test.items...))
			src := copiertest.NewSource(shape(10)...)
			_, err := copier.Copy(t.Context(), src, open(t, srv.URL), copyOptions(t))
			if code, _ := copier.CodeOf(err); !errors.Is(err, test.kind) || code != test.code {
				t.Errorf("%v", err)
			}
			if n := len(srv.Items(table)); n != len(test.items) || srv.WriteUnits(table) != 0 || src.Pages() != 0 {
				t.Errorf("%d items are there, %v write units, %d pages were read", n, srv.WriteUnits(table), src.Pages())
			}
		})
	}
	t.Run("other keys", func(t *testing.T) {
		srv := server(t, dynamotest.Options{})
		_, err := srv.Client().CreateTable(t.Context(), otherTable())
		check(t, err)
		_, err = open(t, srv.URL).Open(t.Context())
		if code, _ := copier.CodeOf(err); code != TableOtherSchema {
			t.Errorf("%v", err)
		}
	})
}

// A table whose locks somebody removes, or takes, is given up, and nothing in it is deleted.
func TestTaken(t *testing.T) {
	for name, take := range map[string]func(*dynamotest.Server) error{
		"migration lock removed": func(srv *dynamotest.Server) error { return srv.DeleteItem(table, "core", "migration") },
		"leader lock taken": func(srv *dynamotest.Server) error {
			it := itemKey("core", "_lock")
			it[attrValue], it[attrIdentity] = &types.AttributeValueMemberB{Value: []byte("uuid")}, &types.AttributeValueMemberB{Value: []byte("id")}
			return srv.PutItem(table, it)
		},
	} {
		t.Run(name, func(t *testing.T) {
			srv := server(t, dynamotest.Options{})
			src := copiertest.NewSource(shape(300)...)
			var once sync.Once
			src.PageEntries = 10
			src.Before = func(context.Context) error {
				if src.Pages() > 50 { // the second time
					once.Do(func() { check(t, take(srv)) })
				}
				return nil
			}
			r, err := copier.Copy(t.Context(), src, open(t, srv.URL), copyOptions(t))
			if code, _ := copier.CodeOf(err); code != TableTaken || !errors.Is(err, copier.ErrLocked) || r.State != "" {
				t.Errorf("%v", err)
			}
			if n := len(srv.Items(table)); n < 100 {
				t.Errorf("%d items are there", n)
			}
		})
	}
}

// TestMarkerDeleted has a directory marker deleted while a copy runs: a Vault on that table
// would list nothing in the directory.
func TestMarkerDeleted(t *testing.T) {
	srv := server(t, dynamotest.Options{})
	src := copiertest.NewSource(shape(300)...)
	s := open(t, srv.URL)
	deleted := &removing{Sink: s, remove: func() { check(t, srv.DeleteItem(table, "sys/token", "id/")) }}
	r, err := copier.Copy(t.Context(), src, deleted, copyOptions(t))
	if code, _ := copier.CodeOf(err); code != MarkersMissing || !errors.Is(err, copier.ErrReadBack) || !errors.Is(err, copier.ErrDestination) || !strings.Contains(err.Error(), "sys/token/id/") || r.State != "" {
		t.Errorf("%v, state %q", err, r.State)
	}
}

// removing calls remove before what was written is read back.
type removing struct {
	*Sink
	remove func()
}

func (s *removing) Stage(ctx context.Context, run string) (copier.Stage, error) {
	st, err := s.Sink.Stage(ctx, run)
	if err != nil {
		return nil, err
	}
	return &removingStage{st.(*stage), s.remove}, nil
}

type removingStage struct {
	*stage
	remove func()
}

func (s *removingStage) Reader(ctx context.Context) (copier.Source, error) {
	s.remove()
	return s.stage.Reader(ctx)
}

// TestStopped: a process that was stopped for longer than its lease writes nothing into a
// table that another one has freed meanwhile, and writes on where nobody has.
func TestStopped(t *testing.T) {
	for name, freed := range map[string]bool{"freed meanwhile": true, "nobody came": false} {
		t.Run(name, func(t *testing.T) {
			srv := server(t, dynamotest.Options{})
			s := open(t, srv.URL, func(o *Options) { o.Requests = 1 })
			s.timing.renew = s.timing.lease // nothing but a write renews it here
			now := time.Hour
			s.boot = func() time.Duration { // in front of a write
				if now == time.Hour && srv.Requests()["BatchWriteItem"] > 3 {
					now += s.timing.lease
					for _, it := range srv.Items(table) {
						if freed {
							p, k := it[attrPath].(*types.AttributeValueMemberS), it[attrKey].(*types.AttributeValueMemberS)
							check(t, srv.DeleteItem(table, p.Value, k.Value))
						}
					}
				}
				return now
			}
			_, err := copier.Copy(t.Context(), copiertest.NewSource(shape(300)...), s, copyOptions(t))
			code, _ := copier.CodeOf(err)
			if n := len(srv.Items(table)); now == time.Hour || freed && (code != TableTaken || n > 0) || !freed && err != nil {
				t.Errorf("%d items are there; %v", n, err)
			}
		})
	}
}

// What is on record, and gone with the table, is noticed, and not only by reading back.
func TestTableGone(t *testing.T) {
	for name, replace := range map[string]func(*dynamotest.Server){
		"deleted":   func(*dynamotest.Server) {},
		"made anew": func(srv *dynamotest.Server) { check(t, srv.CreateVaultTable(table)) },
	} {
		t.Run(name, func(t *testing.T) {
			srv := server(t, dynamotest.Options{})
			src := copiertest.NewSource(shape(300)...)
			broken := errors.New("broken")
			src.PageEntries = 10
			src.Before = func(context.Context) error {
				if src.Pages() > 50 { // the second time
					return broken
				}
				return nil
			}
			o := copyOptions(t)
			o.NoProof, o.CheckpointInterval = true, 1
			if r, err := copier.Copy(t.Context(), src, open(t, srv.URL), o); !errors.Is(err, broken) || !r.Resumable {
				t.Fatalf("resumable %v: %v", r.Resumable, err)
			}
			_, err := srv.Client().DeleteTable(t.Context(), &dynamodbsdk.DeleteTableInput{TableName: describeTable().TableName})
			check(t, err)
			replace(srv)
			src.Before, o.Resume = nil, true
			_, err = copier.Copy(t.Context(), src, open(t, srv.URL), o)
			if code, _ := copier.CodeOf(err); code != TableTaken {
				t.Errorf("%v", err)
			}
			r, err := copier.Copy(t.Context(), src, open(t, srv.URL), o)
			if got, there, ierr := inPlace(srv); err != nil || ierr != nil || !there || len(got) != 305 || r.Resumed > 0 {
				t.Errorf("in place: %v, %d entries, %v, %v", there, len(got), err, ierr)
			}
		})
	}
}

// A request is tried again for as long as it may be, and no longer.
func TestRetries(t *testing.T) {
	srv := server(t, dynamotest.Options{})
	throttled := &dynamotest.Fault{Kind: dynamotest.ThroughputExceeded, Operation: "BatchWriteItem", Count: 5}
	failing := &dynamotest.Fault{Kind: dynamotest.InternalServerError, Operation: "CreateTable", Count: 4}
	srv.SetFaults(throttled, failing)
	_, err := copier.Copy(t.Context(), copiertest.NewSource(shape(1)...), open(t, srv.URL), copyOptions(t))
	if err != nil || throttled.Fired() != 5 || failing.Fired() != 4 {
		t.Errorf("throttled %d times, failed %d times: %v", throttled.Fired(), failing.Fired(), err)
	}
	srv = server(t, dynamotest.Options{})
	srv.SetFaults(&dynamotest.Fault{Kind: dynamotest.ThroughputExceeded, Operation: "BatchWriteItem"})
	soon := func(o *Options) { o.RetryFor = 500 * time.Millisecond }
	_, err = copier.Copy(t.Context(), copiertest.NewSource(shape(1)...), open(t, srv.URL, soon), copyOptions(t))
	if !errors.Is(err, errLate) || !errors.Is(err, copier.ErrDestination) || len(srv.Items(table)) > 0 {
		t.Errorf("%d items, %v", len(srv.Items(table)), err)
	}
}

func TestOptions(t *testing.T) {
	good := Options{Table: "t", Region: "r"}
	check(t, good.Validate())
	for name, change := range map[string]func(*Options){
		"table":    func(o *Options) { o.Table = "" },
		"keys":     func(o *Options) { o.AccessKey = "a" },
		"units":    func(o *Options) { o.ReadUnits = 5 },
		"capacity": func(o *Options) { o.WriteCapacity = math.NaN() },
		"requests": func(o *Options) { o.Requests = -1 },
	} {
		o := good
		change(&o)
		if _, err := New(t.Context(), o); !errors.Is(err, copier.ErrConfig) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
