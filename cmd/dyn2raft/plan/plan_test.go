package plan

import (
	"bytes"
	"context"
	"errors"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/dynamodb/types"

	"github.com/dyn2raft/dyn2raft/copier"
	"github.com/dyn2raft/dyn2raft/copier/vaultconfig"
	sink "github.com/dyn2raft/dyn2raft/sinks/raft"
	"github.com/dyn2raft/dyn2raft/sources/dynamodb"
	"github.com/dyn2raft/dyn2raft/sources/dynamodb/dynamotest"
	"github.com/dyn2raft/dyn2raft/sources/dynamodb/estimate"
)

// An env is a server with a table, and a destination.
type env struct {
	*testing.T
	srv *dynamotest.Server
}

func (e *env) ok(err error) {
	e.Helper()
	if err != nil {
		e.Fatal(err)
	}
}

// options are those of a plan for the table, into an empty directory.
func (e *env) options() Options {
	e.Helper()
	cfg := &vaultconfig.Config{Source: vaultconfig.Source{Type: vaultconfig.DynamoDB}, ClusterAddr: "https://127.0.0.1:8201"}
	cfg.Source.Table, cfg.Source.Region = dynamotest.VaultTable, "us-east-1"
	cfg.Destination = vaultconfig.Destination{Type: vaultconfig.Raft, Path: e.TempDir(), NodeID: "vault-1", Address: "127.0.0.1:8201"}
	return Options{Config: cfg, Source: e.source(dynamodb.Options{}), Estimate: estimate.Options{TempDir: e.TempDir(), SampleTime: time.Minute}}
}

func (e *env) source(opts dynamodb.Options) *dynamodb.Source {
	e.Helper()
	opts.Table, opts.Endpoint, opts.AccessKey, opts.SecretKey = dynamotest.VaultTable, e.srv.URL, "a", "b"
	src, err := dynamodb.New(e.Context(), opts)
	e.ok(err)
	return src
}

func newEnv(t *testing.T, opts dynamotest.Options) *env {
	t.Helper()
	srv := dynamotest.NewServer(opts)
	t.Cleanup(srv.Close)
	e := &env{T: t, srv: srv}
	e.ok(srv.CreateVaultTable(dynamotest.VaultTable))
	for key, value := range map[string]string{
		"core/keyring":         "\x00\x00\x00\x01",
		"core/seal-config":     `{"type":"shamir","secret_shares":5,"secret_threshold":3}`,
		"core/versions/1.20.4": "x",
		"core/versions/1.21.1": "x",
		"secret/one":           strings.Repeat("x", 800),
	} {
		e.ok(srv.PutVaultEntry(dynamotest.VaultTable, key, []byte(value)))
	}
	return e
}

func (e *env) item(path, key string, more map[string]types.AttributeValue) {
	e.Helper()
	item := map[string]types.AttributeValue{"Path": &types.AttributeValueMemberS{Value: path}, "Key": &types.AttributeValueMemberS{Value: key}}
	maps.Copy(item, more)
	e.ok(e.srv.PutItem(dynamotest.VaultTable, item))
}

func (e *env) leader(expires time.Duration) {
	e.Helper()
	e.item("core", "_lock", map[string]types.AttributeValue{
		"Value": &types.AttributeValueMemberB{Value: []byte("the-leader")}, "Identity": &types.AttributeValueMemberB{Value: []byte("id")},
		"Expires": &types.AttributeValueMemberN{Value: strconv.FormatInt(time.Now().Add(expires).UnixNano(), 10)},
	})
}

// find returns the result of a check, and fails where there is not just one.
func find(t *testing.T, rep *Report, check string) Result {
	t.Helper()
	var found []Result
	for _, c := range rep.Checks {
		if !slices.ContainsFunc(Checks(), func(l Check) bool { return l.Name == c.Check }) {
			t.Errorf("check %q is not in the list", c.Check)
		}
		if wrong := c.Status == copier.Warned || c.Status == copier.Failed; wrong && c.Hint == "" && c.Err == nil {
			t.Errorf("nothing is said of what to do: %+v", c)
		}
		if c.Check == check {
			found = append(found, c)
		}
	}
	if len(found) != 1 {
		t.Fatalf("%d results of check %q in %+v", len(found), check, rep.Checks)
	}
	return found[0]
}

// What is in order is told so: every check passes that can pass on any machine.
func TestNothingWrong(t *testing.T) {
	t.Parallel()
	e := newEnv(t, dynamotest.Options{})
	e.ok(e.srv.SetTableDetails(dynamotest.VaultTable, dynamotest.TableDetails{Recovery: true, DeletionProtection: true}))
	opts := e.options()
	if _, err := opts.Source.(*dynamodb.Source).Snapshot(t.Context(), "just-now"); err != nil {
		t.Fatal(err)
	}
	opts.When = copier.Stopped
	e.ok(os.Chmod(opts.Config.Destination.Path, 0o700))
	opts.Node.ServerConfig = filepath.Join(t.TempDir(), "vault.hcl")
	server, err := os.ReadFile("../../../sinks/raft/node/testdata/server.hcl")
	e.ok(err)
	e.ok(os.WriteFile(opts.Node.ServerConfig, bytes.ReplaceAll(server, []byte("PATH"), []byte(opts.Config.Destination.Path)), 0o600))
	before := e.srv.Items(dynamotest.VaultTable)
	rep, err := Run(t.Context(), opts)
	e.ok(err)
	machine := []string{"file-system", "disk", "memory", "open-files", "cluster-addr"} // this machine's affair
	var names []string
	for _, c := range rep.Checks {
		names = append(names, c.Check)
		if c.Status != copier.Passed && c.Status != copier.Noted && !slices.Contains(machine, c.Check) {
			t.Errorf("%+v", c)
		}
		if (c.Hint == "") != (c.Status == copier.Passed || c.Status == copier.Noted && c.Code == "") {
			t.Errorf("a %s with hint %q", c.Status, c.Hint)
		}
	}
	for _, want := range append(machine, "table", "access", "clock", "capacity", "write-access", "recovery", "backup", "deletion", "stream", "replicas",
		"running-vault", "migration-lock", "initialized", "seal", "version", "duration", "destination", "owner", "manifest", "other-nodes",
		"node-id", "server-path", "server-node-id", "server-cluster-addr", "server-api-addr", "server-mlock", "server-ha-storage", "server-raft-wal", "server-seal") {
		if !slices.Contains(names, want) {
			t.Errorf("no check %q in %v", want, names)
		}
	}
	if got := find(t, rep, "version"); !strings.Contains(got.Message, "1.21.1") {
		t.Errorf("%+v", got)
	}
	est := rep.Estimate
	if est == nil || est.Sample == nil || !est.Sample.Complete || est.Entries != 5 || est.Seconds <= 0 || est.Low > est.Seconds || est.High < est.Seconds {
		t.Errorf("%+v", est)
	}
	if after := e.srv.Items(dynamotest.VaultTable); !reflect.DeepEqual(before, after) {
		t.Error("the table was changed")
	}
	for _, dir := range []string{opts.Config.Destination.Path, opts.Estimate.TempDir} {
		if list, err := os.ReadDir(dir); err != nil || len(list) != 0 {
			t.Errorf("%s holds %v, %v", dir, list, err)
		}
	}
}

// Each thing that can be wrong is found, and nothing else fails because of it.
func TestWhatIsWrong(t *testing.T) {
	t.Parallel()
	denied := func(action string) func(*env, *Options) {
		return func(e *env, _ *Options) {
			e.srv.SetFaults(&dynamotest.Fault{Kind: dynamotest.AccessDenied, Operation: action})
		}
	}
	details := func(d dynamotest.TableDetails) func(*env, *Options) {
		return func(e *env, _ *Options) { e.ok(e.srv.SetTableDetails(dynamotest.VaultTable, d)) }
	}
	file := func(name, text string) func(*env, *Options) {
		return func(e *env, o *Options) {
			e.ok(os.MkdirAll(filepath.Join(o.Config.Destination.Path, filepath.Dir(name)), 0o700))
			e.ok(os.WriteFile(filepath.Join(o.Config.Destination.Path, name), []byte(text), 0o600))
		}
	}
	for name, c := range map[string]struct {
		wrong  func(*env, *Options)
		server dynamotest.Options
		check  string
		status copier.Outcome
		want   string // in the message or the hint
	}{
		"describe denied": {wrong: denied("DescribeTable"), check: "table", status: copier.Failed, want: "dynamodb:DescribeTable"},
		"scan denied":     {wrong: denied("Scan"), check: "access", status: copier.Failed, want: "dynamodb:Scan"},
		"query denied":    {wrong: denied("Query"), check: "access", status: copier.Failed, want: "dynamodb:Query"},
		"get denied":      {wrong: denied("GetItem"), check: "access", status: copier.Failed, want: "dynamodb:GetItem"},
		"put denied":      {wrong: denied("PutItem"), check: "write-access", status: copier.Warned, want: "dynamodb:PutItem"},
		"update denied":   {wrong: denied("UpdateItem"), check: "write-access", status: copier.Warned, want: "dynamodb:UpdateItem"},
		"delete denied":   {wrong: denied("DeleteItem"), check: "write-access", status: copier.Warned, want: "dynamodb:DeleteItem"},
		"recovery denied": {wrong: denied("DescribeContinuousBackups"), check: "recovery", status: copier.Warned, want: "dynamodb:DescribeContinuousBackups"},
		"backups denied":  {wrong: denied("ListBackups"), check: "backup", status: copier.Warned, want: "dynamodb:ListBackups"},
		"deleting": {wrong: func(e *env, _ *Options) {
			e.ok(e.srv.SetTableStatus(dynamotest.VaultTable, types.TableStatusDeleting))
		}, check: "table", status: copier.Failed, want: "DELETING"},
		"clock far":   {server: dynamotest.Options{Clock: -6 * time.Minute}, check: "clock", status: copier.Failed, want: "ahead of"},
		"clock near":  {server: dynamotest.Options{Clock: 30 * time.Second}, check: "clock", status: copier.Warned, want: "behind"},
		"no recovery": {check: "recovery", status: copier.Warned, want: "-backup"},
		"no backup":   {check: "backup", status: copier.Warned, want: "-backup"},
		"unprotected": {check: "deletion", status: copier.Warned, want: "update-table"},
		"stream": {wrong: func(e *env, _ *Options) {
			_, err := e.srv.EnableStream(dynamotest.VaultTable, types.StreamViewTypeKeysOnly)
			e.ok(err)
		}, check: "stream", status: copier.Warned, want: "KEYS_ONLY"},
		"replicas": {wrong: details(dynamotest.TableDetails{Replicas: []string{"eu-west-1"}}), check: "replicas", status: copier.Warned, want: "eu-west-1"},
		"running":  {wrong: func(e *env, _ *Options) { e.leader(time.Hour) }, check: "running-vault", status: copier.Warned, want: "the-leader"},
		"running, said to be stopped": {wrong: func(e *env, o *Options) {
			e.leader(time.Hour)
			o.When = copier.Stopped
		}, check: "running-vault", status: copier.Failed, want: "the-leader"},
		"nobody knows":     {check: "running-vault", status: copier.Warned, want: "-source-stopped"},
		"ha and no leader": {wrong: func(e *env, o *Options) { o.Source = e.source(dynamodb.Options{HAEnabled: true}) }, check: "running-vault", status: copier.Passed, want: "nobody"},
		"ha elsewhere": {wrong: func(e *env, o *Options) { o.Source = e.source(dynamodb.Options{HAEnabled: true, HAStorage: "consul"}) },
			check: "running-vault", status: copier.Warned, want: `unknown: the table has no leader lock, and the configuration has the HA storage "consul"`},
		"a leader elsewhere": {wrong: func(e *env, o *Options) {
			o.Source = e.source(dynamodb.Options{HAEnabled: true})
			e.ok(e.srv.PutVaultEntry(dynamotest.VaultTable, "core/leader/0f1e", []byte("x")))
		}, check: "running-vault", status: copier.Warned, want: "unknown: the table has no leader lock, but the entry core/leader/0f1e"},
		"another leader than the lock's": {wrong: func(e *env, o *Options) {
			o.Source = e.source(dynamodb.Options{HAEnabled: true})
			e.leader(-time.Hour)
			e.ok(e.srv.PutVaultEntry(dynamotest.VaultTable, "core/leader/0f1e", []byte("x")))
		}, check: "running-vault", status: copier.Warned, want: "unknown: the table's leader lock expired at"},
		"the lock's own leader": {wrong: func(e *env, o *Options) {
			o.Source = e.source(dynamodb.Options{HAEnabled: true})
			e.leader(-time.Hour)
			e.ok(e.srv.PutVaultEntry(dynamotest.VaultTable, "core/leader/the-leader", []byte("x")))
		}, check: "running-vault", status: copier.Warned, want: "does not prove"},
		"over": {wrong: func(e *env, _ *Options) { e.leader(-time.Hour) }, check: "running-vault", status: copier.Warned, want: "does not prove"},
		"migration": {wrong: func(e *env, _ *Options) {
			e.item("core", "migration", map[string]types.AttributeValue{"Value": &types.AttributeValueMemberB{Value: []byte(`{"start":"2026-11-01T02:03:04Z"}`)}})
		}, check: "migration-lock", status: copier.Failed, want: "vault operator migrate"},
		"no keyring": {wrong: func(e *env, _ *Options) { e.ok(e.srv.DeleteItem(dynamotest.VaultTable, "core", "keyring")) }, check: "initialized", status: copier.Failed, want: "core/keyring"},
		"keyring of text": {wrong: func(e *env, _ *Options) {
			e.item("core", "keyring", map[string]types.AttributeValue{"Value": &types.AttributeValueMemberS{Value: "x"}})
		}, check: "initialized", status: copier.Failed, want: "not binary"},
		"no seal config": {wrong: func(e *env, _ *Options) { e.ok(e.srv.DeleteItem(dynamotest.VaultTable, "core", "seal-config")) }, check: "initialized", status: copier.Failed, want: "core/seal-config"},
		"auto-unseal": {wrong: func(e *env, _ *Options) {
			e.ok(e.srv.PutVaultEntry(dynamotest.VaultTable, "core/seal-config", []byte(`{"type":"awskms","secret_shares":1,"secret_threshold":1}`)))
		}, check: "seal", status: copier.Warned, want: "awskms"},
		"unknown seal": {wrong: func(e *env, _ *Options) {
			e.ok(e.srv.PutVaultEntry(dynamotest.VaultTable, "core/seal-config", []byte(`{"type":"shamirr","secret_shares":5,"secret_threshold":3}`)))
		}, check: "seal", status: copier.Failed, want: "shamirr"},
		"no JSON": {wrong: func(e *env, _ *Options) {
			e.ok(e.srv.PutVaultEntry(dynamotest.VaultTable, "core/seal-config", []byte("\x00")))
		}, check: "initialized", status: copier.Failed, want: "not the JSON"},
		"no version": {wrong: func(e *env, _ *Options) {
			e.ok(e.srv.DeleteItem(dynamotest.VaultTable, "core/versions", "1.21.1"))
			e.ok(e.srv.DeleteItem(dynamotest.VaultTable, "core/versions", "1.20.4"))
		}, check: "version", status: copier.Warned, want: "same version"},
		"no directory":  {wrong: func(_ *env, o *Options) { o.Config.Destination.Path += "/none" }, check: "destination", status: copier.Failed, want: "mkdir"},
		"vault.db":      {wrong: file("vault.db", "x"), check: "destination", status: copier.Failed, want: "vault.db"},
		"raft":          {wrong: file("raft/raft.db", "x"), check: "destination", status: copier.Failed, want: "raft"},
		"empty node-id": {wrong: file("node-id", ""), check: "destination", status: copier.Failed, want: "is empty"},
		"node-id":       {wrong: file("node-id", "another"), check: "destination", status: copier.Failed, want: `"another"`},
		"not begun":     {wrong: file(".dyn2raft/work/x", "x"), check: "destination", status: copier.Passed, want: "no Vault's data"},
		"no record":     {wrong: file(".dyn2raft/work/copy.json", "x"), check: "destination", status: copier.Failed, want: "damaged"},
		"mode":          {wrong: func(e *env, o *Options) { e.ok(os.Chmod(o.Config.Destination.Path, 0o755)) }, check: "owner", status: copier.Warned, want: "0755"},
		"owner":         {wrong: func(_ *env, o *Options) { o.Node.Owner = "nobody" }, check: "owner", want: "nobody"}, // a warning for root, else a failure
		"no name": {wrong: func(_ *env, o *Options) { o.Config.Destination.Address = "no-such-host.invalid:8201" },
			check: "cluster-addr", status: copier.Warned, want: "resolved"},
		"loopback":         {check: "cluster-addr", status: copier.Warned, want: "no other machine"},
		"no server config": {wrong: func(_ *env, o *Options) { o.Node.ServerConfig = "/no/such.hcl" }, check: "server-configuration", status: copier.Failed, want: "no such file"},
		"little capacity for the flag": {wrong: func(e *env, o *Options) {
			e.ok(e.srv.SetCapacity(dynamotest.VaultTable, 50, 5))
			o.Estimate.ReadCapacity, o.Source = 100, e.source(dynamodb.Options{ReadCapacity: 100})
		}, check: "capacity", status: copier.Warned, want: "50 read"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			e := newEnv(t, c.server)
			opts := e.options()
			opts.Estimate.NoSample = true
			if c.wrong != nil {
				c.wrong(e, &opts)
			}
			rep, err := Run(t.Context(), opts)
			e.ok(err)
			got := find(t, rep, c.check)
			if c.status == "" && got.Status != copier.Passed {
				c.status = got.Status
			}
			if got.Status != c.status || !strings.Contains(got.Message+got.Hint, c.want) {
				t.Errorf("%+v, expected a %s with %q", got, c.status, c.want)
			}
			if rep.Ready() != (c.status != copier.Failed) {
				t.Errorf("ready is %v: %+v", rep.Ready(), rep.Checks)
			}
		})
	}
}

// A copy's own lock, whose unfinished work lies in the destination, is no reason
// to fail.
func TestOwnUnfinishedCopy(t *testing.T) {
	t.Parallel()
	e := newEnv(t, dynamotest.Options{})
	opts := e.options()
	opts.Estimate.NoSample = true
	ctx, cancel := context.WithCancel(t.Context())
	dst, err := sink.New(sink.Options{Path: opts.Config.Destination.Path, NodeID: "vault-1", Address: "127.0.0.1:8201"})
	e.ok(err)
	src, err := dynamodb.New(ctx, dynamodb.Options{Table: dynamotest.VaultTable, Endpoint: e.srv.URL, AccessKey: "a", SecretKey: "b", HAEnabled: true})
	e.ok(err)
	saved := make(chan struct{})
	var once sync.Once
	e.srv.SetFaults(&dynamotest.Fault{Kind: dynamotest.Throttling, Operation: "Scan", After: 40})
	done := make(chan error)
	go func() {
		_, err := copier.Copy(ctx, src, dst, copier.Options{CheckpointInterval: 20 * time.Millisecond, Events: func(ev copier.Event) {
			if c, ok := ev.(copier.Checkpointed); ok && c.Entries > 0 {
				once.Do(func() { close(saved) })
			}
		}})
		done <- err
	}()
	select {
	case <-saved:
	case <-time.After(2 * time.Minute):
		t.Error("no checkpoint")
	}
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	e.srv.SetFaults()
	rep, err := Run(t.Context(), opts)
	e.ok(err)
	if got := find(t, rep, "migration-lock"); got.Status != copier.Warned || !strings.Contains(got.Hint, "resumed") {
		t.Errorf("%+v", got)
	}
	want := func(name, next string, status copier.Outcome) {
		t.Helper()
		opts.Command = "COPY"
		rep, err := Run(t.Context(), opts)
		e.ok(err)
		if got := find(t, rep, "destination"); got.Status != status || rep.Next != next || status == copier.Warned && !strings.Contains(got.Hint, next) {
			t.Errorf("%s: %+v, next is %s", name, got, rep.Next)
		}
	}
	want("its lock is there", "COPY -resume", copier.Warned)
	table := opts.Config.Source.Table
	opts.Config.Source.Table += "-2"
	want("another table's", "COPY", copier.Failed)
	opts.Config.Source.Table = table
	opts.Config.Destination.NodeID += "-2"
	want("another node's", "COPY", copier.Failed)
	opts.Config.Destination.NodeID = "vault-1"
	path, key := dynamodb.KeyItem("core/migration")
	e.ok(e.srv.DeleteItem(dynamotest.VaultTable, path, key))
	want("its lock is gone", "COPY -restart", copier.Warned)
}

// A live copy has its own checks in place of those of a copy that stops every Vault.
func TestPlanOfLiveCopy(t *testing.T) {
	t.Parallel()
	e := newEnv(t, dynamotest.Options{})
	e.leader(time.Hour)
	opts := e.options()
	opts.Live, opts.Estimate.NoSample = true, true
	rep, err := Run(t.Context(), opts)
	e.ok(err)
	for check, want := range map[string]copier.Outcome{"live-access": copier.Passed, "live-replicas": copier.Passed, "live-stream": copier.Noted, "live-cost": copier.Noted, "running-vault": copier.Noted} {
		if got := find(t, rep, check); got.Status != want {
			t.Errorf("%+v", got)
		}
	}
	if slices.ContainsFunc(rep.Checks, func(r Result) bool { return r.Check == "stream" || r.Check == "replicas" }) || !rep.Ready() {
		t.Errorf("%+v", rep.Checks)
	}
	// Each of these keeps it from being one.
	e.ok(e.srv.SetTableDetails(dynamotest.VaultTable, dynamotest.TableDetails{Replicas: []string{"eu-west-1"}}))
	_, err = e.srv.EnableStream(dynamotest.VaultTable, types.StreamViewTypeKeysOnly)
	e.ok(err)
	e.srv.SetFaults(&dynamotest.Fault{Kind: dynamotest.AccessDenied, Operation: "GetRecords"})
	rep, err = Run(t.Context(), opts)
	e.ok(err)
	if got := find(t, rep, "live-replicas"); got.Status != copier.Failed || !strings.Contains(got.Hint, "offline") {
		t.Errorf("%+v", got)
	}
	if got := find(t, rep, "live-access"); got.Status != copier.Failed || !strings.Contains(got.Message, "dynamodb:GetRecords") {
		t.Errorf("%+v", got)
	}
	if got := find(t, rep, "live-stream"); got.Status != copier.Warned || !strings.Contains(got.Hint, "--event-source-arn "+e.srv.Stream(dynamotest.VaultTable).ARN) {
		t.Errorf("%+v", got)
	}
	if d := rep.Estimate.Downtime; d.Recommended != estimate.OfflineCopy || d.Because != estimate.Replicated {
		t.Errorf("%+v", d)
	}
}

// Without write probes nothing is sent that could write.
func TestNoWriteProbes(t *testing.T) {
	t.Parallel()
	for _, without := range []bool{false, true} {
		e := newEnv(t, dynamotest.Options{})
		opts := e.options()
		opts.Node.NoProbes, opts.Source = without, e.source(dynamodb.Options{NoWriteProbes: without})
		before := e.srv.Requests()
		rep, err := Run(t.Context(), opts)
		e.ok(err)
		sent := e.srv.Requests()
		for _, op := range []string{"PutItem", "UpdateItem", "DeleteItem", "BatchWriteItem", "TransactWriteItems"} {
			want := 0
			if !without && !strings.Contains(op, "WriteItem") {
				want = 1
			}
			if n := sent[op] - before[op]; n != want {
				t.Errorf("without write probes %v: %d requests %s, expected %d", without, n, op, want)
			}
		}
		if got := find(t, rep, "write-access"); got.Unchecked != without || (got.Status == copier.Warned) != without {
			t.Errorf("%+v", got)
		}
	}
}

func TestUnreachable(t *testing.T) {
	t.Parallel()
	e := newEnv(t, dynamotest.Options{})
	opts := e.options()
	e.srv.Close()
	rep, err := Run(t.Context(), opts)
	if !errors.Is(err, copier.ErrSource) || find(t, rep, "table").Status != copier.Failed || rep.Ready() {
		t.Fatalf("%+v, %v", rep, err)
	}
	for _, local := range []string{"destination", "manifest", "disk", "cluster-addr", "open-files"} {
		if got := find(t, rep, local); got.Status == copier.Failed {
			t.Errorf("%+v", got)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	e = newEnv(t, dynamotest.Options{})
	if rep, err := Run(ctx, e.options()); rep != nil || !errors.Is(err, context.Canceled) {
		t.Errorf("%+v, %v", rep, err)
	}
}
