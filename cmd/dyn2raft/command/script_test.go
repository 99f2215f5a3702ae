package command

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	awsdynamodb "github.com/aws/aws-sdk-go-v2/service/dynamodb"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb/types"
	"github.com/rogpeppe/go-internal/testscript"
	bolt "go.etcd.io/bbolt"

	"github.com/dyn2raft/dyn2raft/copier/durable"
	"github.com/dyn2raft/dyn2raft/sources/dynamodb"
	"github.com/dyn2raft/dyn2raft/sources/dynamodb/dynamotest"
	"github.com/dyn2raft/dyn2raft/verify"
)

// A script is what the commands of one script share.
type script struct {
	server  *dynamotest.Server
	content dynamotest.Content // the entries put into the table
	before  string             // what the table held
	running map[string]*process
}

type process struct {
	cmd  *exec.Cmd
	done chan struct{}
}

type scriptKey struct{}

// setupScript gives a script an environment without this machine's AWS and
// Vault settings: testscript passes none on.
func setupScript(env *testscript.Env) error {
	s := &script{running: map[string]*process{}}
	env.Values[scriptKey{}] = s
	env.Defer(func() {
		for _, p := range s.running {
			_ = p.cmd.Process.Kill() // where the script has failed
			<-p.done
		}
		if s.server != nil {
			s.server.Close()
		}
	})
	env.Setenv("HOME", env.WorkDir)
	env.Setenv("AWS_EC2_METADATA_DISABLED", "true")
	env.Setenv("GORACE", "atexit_sleep_ms=0") // the race detector's own second at each exit
	return os.Mkdir(filepath.Join(env.WorkDir, "data"), 0o700)
}

func of(ts *testscript.TestScript) *script { return ts.Value(scriptKey{}).(*script) }

// scriptCommands are what the scripts can do beside testscript's own.
var scriptCommands = map[string]func(ts *testscript.TestScript, neg bool, args []string){
	"status":       scriptStatus,
	"start":        scriptStart,
	"await":        scriptAwait,
	"signal":       scriptSignal,
	"exits":        scriptExits,
	"unprivileged": scriptUnprivileged,
	"table":        tableCommand,
	"config":       configCommand,
	"fault":        faultCommand,
	"keep":         scriptKeep,
	"kept":         scriptKept,
	"item":         scriptItem,
	"put-item":     scriptPutItem,
	"run-of":       scriptRunOf,
	"empty":        scriptEmpty,
	"del-item":     scriptDelItem,
	"del-table":    scriptDelTable,
	"seal":         scriptSeal,
	"snapshot":     scriptSnapshot,
	"export":       scriptExport,
	"append-log":   scriptAppendLog,
	"cut":          scriptCut,
	"servers":      scriptServers,
	"copied":       scriptCopied,
	"put":          scriptPut,
	"del":          scriptDel,
	"started":      scriptStarted,
	"hold":         scriptHold,
	"json":         scriptJSON,
	"every":        scriptEvery,
	"lastline":     scriptLastline,
}

// status N command…: run it and expect the exit status N.
func scriptStatus(ts *testscript.TestScript, neg bool, args []string) {
	need(ts, !neg && len(args) > 1, "status N command…")
	err := ts.Exec(args[1], args[2:]...)
	got := 0
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		got = exit.ExitCode()
	} else {
		ts.Check(err)
	}
	if strconv.Itoa(got) != args[0] {
		ts.Fatalf("exit status %d, expected %s", got, args[0])
	}
	out := ts.ReadFile("stdout")
	checkOutput(ts, out, ts.ReadFile("stderr"))
	if result := got >= exitDone && got <= exitNone && got != exitUsage || args[2] == "demo" || args[2] == "plan"; out != "" && !result {
		ts.Fatalf("there is no result, and something on standard output")
	}
}

// start NAME command…: run it in the background, with NAME.out and NAME.err.
func scriptStart(ts *testscript.TestScript, neg bool, args []string) {
	need(ts, !neg && len(args) > 1, "start NAME command…")
	s, name := of(ts), args[0]
	out, err := os.Create(ts.MkAbs(name + ".out"))
	ts.Check(err)
	defer out.Close()
	errs, err := os.Create(ts.MkAbs(name + ".err"))
	ts.Check(err)
	defer errs.Close()
	p := &process{cmd: exec.Command(args[1], args[2:]...), done: make(chan struct{})}
	p.cmd.Dir, p.cmd.Stdout, p.cmd.Stderr = ts.MkAbs("."), out, errs
	for _, v := range []string{"PATH", "HOME", "TMPDIR", "AWS_EC2_METADATA_DISABLED", "GORACE"} {
		p.cmd.Env = append(p.cmd.Env, v+"="+ts.Getenv(v))
	}
	ts.Check(p.cmd.Start())
	go func() {
		_ = p.cmd.Wait() // exits looks at the state
		close(p.done)
	}()
	s.running[name] = p
}

// await NAME.err REGEXP: wait until the file has a match.
func scriptAwait(ts *testscript.TestScript, neg bool, args []string) {
	need(ts, !neg && len(args) == 2, "await FILE REGEXP")
	re, err := regexp.Compile(args[1])
	ts.Check(err)
	for end := time.Now().Add(5 * time.Minute); ; time.Sleep(5 * time.Millisecond) {
		text, err := os.ReadFile(ts.MkAbs(args[0])) // it may not be there yet
		if err == nil && re.Match(text) {
			return
		}
		if time.Now().After(end) {
			ts.Fatalf("no %q in %s:\n%s", args[1], args[0], text)
		}
	}
}

// signal NAME INT|TERM|KILL
func scriptSignal(ts *testscript.TestScript, neg bool, args []string) {
	sig := map[string]syscall.Signal{"INT": syscall.SIGINT, "TERM": syscall.SIGTERM, "KILL": syscall.SIGKILL}
	need(ts, !neg && len(args) == 2 && sig[args[1]] != 0, "signal NAME INT|TERM|KILL")
	p := of(ts).running[args[0]]
	ts.Check(p.cmd.Process.Signal(sig[args[1]]))
}

// exits NAME STATUS: wait for its end.
func scriptExits(ts *testscript.TestScript, neg bool, args []string) {
	need(ts, !neg && len(args) == 2, "exits NAME STATUS")
	s := of(ts)
	p := s.running[args[0]]
	select {
	case <-p.done:
	case <-time.After(5 * time.Minute):
		ts.Fatalf("%s runs on:\n%s", args[0], ts.ReadFile(args[0]+".err"))
	}
	delete(s.running, args[0])
	ts.Logf("%s", ts.ReadFile(args[0]+".err"))
	checkOutput(ts, ts.ReadFile(args[0]+".out"), ts.ReadFile(args[0]+".err"))
	if got := p.cmd.ProcessState.ExitCode(); strconv.Itoa(got) != args[1] {
		ts.Fatalf("exit status %d, expected %s", got, args[1])
	}
}

// unprivileged: run the following dyn2raft as another user than root.
func scriptUnprivileged(ts *testscript.TestScript, neg bool, args []string) {
	need(ts, !neg && len(args) == 0, "unprivileged")
	if os.Getuid() == 0 {
		ts.Setenv(uidVariable, "65534")
		ts.Setenv("RUN_UID", "65534")
	} else {
		ts.Setenv("RUN_UID", strconv.Itoa(os.Getuid()))
	}
	ts.Check(os.Chmod(ts.Getenv("WORK"), 0o755))
}

// keep: remember what is in the table. kept: it is the same now.
func scriptKeep(ts *testscript.TestScript, neg bool, args []string) {
	need(ts, !neg && len(args) == 0, "keep")
	of(ts).before = fingerprint(of(ts).server)
}

func scriptKept(ts *testscript.TestScript, neg bool, args []string) {
	need(ts, len(args) == 0, "[!] kept")
	s := of(ts)
	if same := s.before == fingerprint(s.server); same == neg {
		ts.Fatalf("the table is the same: %v", same)
	}
}

// tableOf is the table that a command's last argument names, if there are that many.
func tableOf(args []string, at int) string {
	if len(args) > at {
		return args[at]
	}
	return dynamotest.VaultTable
}

// item KEY [TABLE]: the table has an item for a Vault key.
func scriptItem(ts *testscript.TestScript, neg bool, args []string) {
	need(ts, len(args) == 1 || len(args) == 2, "[!] item KEY [TABLE]")
	path, key := dynamodb.KeyItem(args[0])
	if there := of(ts).server.GetItem(tableOf(args, 1), path, key) != nil; there == neg {
		ts.Fatalf("item %s is there: %v", args[0], there)
	}
}

// put-item KEY VALUE TABLE: put an entry into a table.
func scriptPutItem(ts *testscript.TestScript, neg bool, args []string) {
	need(ts, !neg && len(args) == 3, "put-item KEY VALUE TABLE")
	ts.Check(of(ts).server.PutVaultEntry(args[2], args[0], []byte(args[1])))
}

// del-item KEY [TABLE]: delete the item for a Vault key from the table.
func scriptDelItem(ts *testscript.TestScript, neg bool, args []string) {
	need(ts, !neg && (len(args) == 1 || len(args) == 2), "del-item KEY [TABLE]")
	path, key := dynamodb.KeyItem(args[0])
	ts.Check(of(ts).server.DeleteItem(tableOf(args, 1), path, key))
}

// del-table [TABLE]: delete the table.
func scriptDelTable(ts *testscript.TestScript, neg bool, args []string) {
	need(ts, !neg && len(args) <= 1, "del-table [TABLE]")
	_, err := of(ts).server.Client().DeleteTable(context.Background(), &awsdynamodb.DeleteTableInput{TableName: aws.String(tableOf(args, 0))})
	ts.Check(err)
}

// run-of FILE NAME: set the variable NAME to the run id of a manifest.
func scriptRunOf(ts *testscript.TestScript, neg bool, args []string) {
	need(ts, !neg && len(args) == 2, "run-of FILE NAME")
	m, err := verify.ReadManifest(ts.MkAbs(args[0]))
	ts.Check(err)
	ts.Setenv(args[1], m.RunID)
}

// empty TABLE: it is there, and has no item.
func scriptEmpty(ts *testscript.TestScript, neg bool, args []string) {
	need(ts, len(args) == 1, "[!] empty TABLE")
	_, err := of(ts).server.Client().DescribeTable(context.Background(), &awsdynamodb.DescribeTableInput{TableName: &args[0]})
	ts.Check(err)
	if n := len(of(ts).server.Items(args[0])); (n == 0) == neg {
		ts.Fatalf("the table has %d items", n)
	}
}

// seal FILE KIND FORMAT: seal a record that was made or changed by hand.
func scriptSeal(ts *testscript.TestScript, neg bool, args []string) {
	need(ts, !neg && len(args) == 3, "seal FILE KIND FORMAT")
	format, err := strconv.Atoi(args[2])
	ts.Check(err)
	record := json.RawMessage(ts.ReadFile(args[0]))
	if _, _, was, err := durable.Peek(record); err == nil {
		record = was
	}
	data, err := durable.SealIndented(args[1], format, record)
	ts.Check(err)
	ts.Check(os.WriteFile(ts.MkAbs(args[0]), data, 0o600))
}

// copied DIR: its vault.db has all entries of the table and no other.
func scriptCopied(ts *testscript.TestScript, neg bool, args []string) {
	need(ts, len(args) == 1, "[!] copied DIR")
	got, err := contentOf(filepath.Join(ts.MkAbs(args[0]), "vault.db"))
	ts.Check(err)
	if want := of(ts).content; (got == want) == neg {
		ts.Fatalf("vault.db has %d entries of %d bytes, and the table was given %d of %d", got.Entries, got.Bytes, want.Entries, want.Bytes)
	}
}

// put FILE KEY VALUE and del FILE KEY: change the data of a vault.db.
func scriptPut(ts *testscript.TestScript, neg bool, args []string) {
	need(ts, !neg && len(args) == 3, "put FILE KEY VALUE")
	change(ts, args[0], func(b *bolt.Bucket) error { return b.Put([]byte(args[1]), []byte(args[2])) })
}

func scriptDel(ts *testscript.TestScript, neg bool, args []string) {
	need(ts, !neg && len(args) == 2, "del FILE KEY")
	change(ts, args[0], func(b *bolt.Bucket) error {
		if b.Get([]byte(args[1])) == nil {
			return fmt.Errorf("no key %s", args[1])
		}
		return b.Delete([]byte(args[1]))
	})
}

// started DIR INDEX: let Raft advance to an index, below 128, as where a Vault has run.
func scriptStarted(ts *testscript.TestScript, neg bool, args []string) {
	need(ts, !neg && len(args) == 2, "started DIR INDEX")
	index, err := strconv.Atoi(args[1])
	ts.Check(err)
	for file, put := range map[string][3]string{
		"vault.db":     {"config", "latest_indexes", string([]byte{8, 2, 16, byte(index)})},
		"raft/raft.db": {"conf", "CurrentTerm", "\x00\x00\x00\x00\x00\x00\x00\x02"},
	} {
		db, err := bolt.Open(ts.MkAbs(filepath.Join(args[0], file)), 0o600, &bolt.Options{Timeout: time.Second})
		ts.Check(err)
		err = db.Update(func(tx *bolt.Tx) error { return tx.Bucket([]byte(put[0])).Put([]byte(put[1]), []byte(put[2])) })
		ts.Check(errors.Join(err, db.Close()))
	}
}

// hold FILE: have a vault.db open, as a running Vault has.
func scriptHold(ts *testscript.TestScript, neg bool, args []string) {
	need(ts, !neg && len(args) == 1, "hold FILE")
	db, err := bolt.Open(ts.MkAbs(args[0]), 0o600, &bolt.Options{Timeout: time.Second})
	ts.Check(err)
	ts.Defer(func() { _ = db.Close() })
}

// json NAME VALUE: standard output is one JSON value and nothing else; the
// member NAME, a path with dots, matches the regular expression VALUE.
func scriptJSON(ts *testscript.TestScript, neg bool, args []string) {
	need(ts, !neg && len(args) == 2, "json NAME VALUE")
	dec := json.NewDecoder(strings.NewReader(ts.ReadFile("stdout")))
	dec.UseNumber()
	var v any
	ts.Check(dec.Decode(&v))
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		ts.Fatalf("something follows the JSON: %v", err)
	}
	for name := range strings.SplitSeq(args[0], ".") {
		m, ok := v.(map[string]any)
		if v = m[name]; !ok || v == nil {
			ts.Fatalf("no member %s of %s", name, args[0])
		}
	}
	if got := fmt.Sprint(v); !regexp.MustCompile("^(" + args[1] + ")$").MatchString(got) {
		ts.Fatalf("%s is %q, expected %q", args[0], got, args[1])
	}
}

// every FILE REGEXP: each line of the file matches, and there is one.
func scriptEvery(ts *testscript.TestScript, neg bool, args []string) {
	need(ts, !neg && len(args) == 2, "every FILE REGEXP")
	re := regexp.MustCompile(args[1])
	text := strings.TrimSuffix(ts.ReadFile(args[0]), "\n")
	for line := range strings.SplitSeq(text, "\n") {
		if !re.MatchString(line) {
			ts.Fatalf("line %q does not match %q", line, args[1])
		}
	}
}

// lastline FILE TEXT: the file ends with this line.
func scriptLastline(ts *testscript.TestScript, neg bool, args []string) {
	need(ts, !neg && len(args) == 2, "lastline FILE TEXT")
	text := ts.ReadFile(args[0])
	if !strings.HasSuffix("\n"+text, "\n"+args[1]+"\n") {
		ts.Fatalf("%s does not end with %q:\n%s", args[0], args[1], text)
	}
}

// secret is in each credential that scripts use.
const secret = "NOTPRINTED"

// checkOutput holds for every command of every script: no credential is
// printed, and no goroutine has died.
func checkOutput(ts *testscript.TestScript, texts ...string) {
	for _, text := range texts {
		for _, never := range []string{secret, "panic:", "DATA RACE"} {
			if strings.Contains(text, never) {
				ts.Fatalf("printed %s", never)
			}
		}
	}
}

// fingerprint is a hash of all that is in the table.
func fingerprint(s *dynamotest.Server) string {
	h := sha256.New()
	for _, item := range s.Items(dynamotest.VaultTable) {
		for _, name := range slices.Sorted(maps.Keys(item)) {
			switch v := item[name].(type) {
			case *types.AttributeValueMemberB: // most bytes are here
				fmt.Fprintf(h, "%s B %d ", name, len(v.Value))
				h.Write(v.Value)
			case *types.AttributeValueMemberM:
				fmt.Fprintf(h, "%s M %d ", name, len(v.Value))
			default:
				fmt.Fprintf(h, "%s %T %+v ", name, v, v)
			}
		}
	}
	return string(h.Sum(nil))
}

func need(ts *testscript.TestScript, ok bool, usage string) {
	if !ok {
		ts.Fatalf("usage: %s", usage)
	}
}

func change(ts *testscript.TestScript, file string, f func(*bolt.Bucket) error) {
	db, err := bolt.Open(ts.MkAbs(file), 0o600, &bolt.Options{Timeout: time.Second})
	ts.Check(err)
	err = db.Update(func(tx *bolt.Tx) error { return f(tx.Bucket([]byte("data"))) })
	ts.Check(errors.Join(err, db.Close()))
}

// settings reads arguments such as name=value.
func settings(ts *testscript.TestScript, args []string, f func(name, value string) error) {
	for _, a := range args {
		name, value, ok := strings.Cut(a, "=")
		need(ts, ok, "name=value…")
		ts.Check(f(name, value))
	}
}

// tableCommand starts a server with a Vault table, and sets $ENDPOINT:
//
//	entries=N        Vault-shaped entries
//	latency=DURATION of each response that reads
//	throughput=BYTES a second of one response
//	clock=DURATION   by which the server's clock is ahead
//	name=NAME        instead of Vault's
//	keys=wrong       another key schema
//	status=STATUS    instead of ACTIVE
//	lock=STATE       a leader lock: expired, or renewed every second
//	migration=WHOSE  a migration lock: vault's, or garbage
//	entry=KEY:SIZE   one more entry; what is no number is its value
//	text=KEY         an item with a Value of the wrong type
func tableCommand(ts *testscript.TestScript, neg bool, args []string) {
	need(ts, !neg, "table name=value…")
	s := of(ts)
	name, keys, entries := dynamotest.VaultTable, "", 0
	var opts dynamotest.Options
	var then []func() error
	put := func(vaultKey string, attrs map[string]types.AttributeValue) {
		path, key := dynamodb.KeyItem(vaultKey)
		attrs["Path"], attrs["Key"] = &types.AttributeValueMemberS{Value: path}, &types.AttributeValueMemberS{Value: key}
		then = append(then, func() error { return s.server.PutItem(name, attrs) })
	}
	blob := func(text string) types.AttributeValue { return &types.AttributeValueMemberB{Value: []byte(text)} }
	settings(ts, args, func(k, v string) (err error) {
		switch k {
		case "entries":
			entries, err = strconv.Atoi(v)
		case "latency":
			opts.Latency, err = time.ParseDuration(v)
		case "clock":
			opts.Clock, err = time.ParseDuration(v)
		case "throughput":
			opts.Throughput, err = strconv.ParseFloat(v, 64)
		case "name":
			name = v
		case "keys":
			keys = v
		case "status":
			then = append(then, func() error { return s.server.SetTableStatus(name, types.TableStatus(v)) })
		case "lock":
			lock := func(expires time.Duration) map[string]types.AttributeValue {
				return map[string]types.AttributeValue{
					"Value": blob("the-leader"), "Identity": blob("the-identity"),
					"Expires": &types.AttributeValueMemberN{Value: strconv.FormatInt(time.Now().Add(expires).UnixNano(), 10)},
				}
			}
			switch v {
			case "expired":
				put("core/_lock", lock(-time.Hour))
			case "renewed":
				put("core/_lock", lock(15*time.Second))
				then = append(then, func() error {
					server := s.server // the script's next table has another one
					renew(ts, func() error {
						item := lock(15 * time.Second)
						item["Path"], item["Key"] = &types.AttributeValueMemberS{Value: "core"}, &types.AttributeValueMemberS{Value: "_lock"}
						return server.PutItem(name, item)
					})
					return nil
				})
			default:
				return fmt.Errorf("no state %q of a lock", v)
			}
		case "migration":
			value := map[string]string{"vault": `{"start":"2026-11-01T02:03:04Z"}`, "garbage": "x"}[v]
			put("core/migration", map[string]types.AttributeValue{"Value": blob(value)})
		case "entry":
			key, n, _ := strings.Cut(v, ":")
			value := []byte(n)
			if size, err := strconv.Atoi(n); err == nil {
				value = bytes.Repeat([]byte{7}, size)
			}
			then = append(then, func() error {
				s.content.Add(key, value)
				return s.server.PutVaultEntry(name, key, value)
			})
		case "text":
			put(v, map[string]types.AttributeValue{"Value": &types.AttributeValueMemberS{Value: "no bytes"}})
		default:
			return fmt.Errorf("table has no setting %q", k)
		}
		return err
	})
	if s.server != nil {
		s.server.Close()
	}
	s.server, s.content = dynamotest.NewServer(opts), dynamotest.Content{}
	ts.Setenv("ENDPOINT", s.server.URL)
	if keys != "" {
		ts.Check(createOther(s.server, name))
		return
	}
	ts.Check(s.server.CreateVaultTable(name))
	ts.Check(s.server.SetTableDetails(name, dynamotest.TableDetails{Recovery: true}))
	loaded, err := dynamotest.VaultShape{Entries: entries, Seed: 1}.Load(s.server, name)
	ts.Check(err)
	s.content = loaded.Content
	for _, f := range then {
		ts.Check(f())
	}
}

// renew calls f every second until the script ends.
func renew(ts *testscript.TestScript, f func() error) {
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			select {
			case <-ctx.Done():
				return
			case <-time.After(time.Second):
				_ = f() // the script sees that the lock is not renewed
			}
		}
	})
	ts.Defer(func() {
		cancel()
		wg.Wait()
	})
}

func createOther(s *dynamotest.Server, name string) error {
	c := s.Client()
	_, err := c.CreateTable(context.Background(), &awsdynamodb.CreateTableInput{
		TableName:            &name,
		BillingMode:          types.BillingModePayPerRequest,
		AttributeDefinitions: []types.AttributeDefinition{{AttributeName: aws.String("LockID"), AttributeType: types.ScalarAttributeTypeS}},
		KeySchema:            []types.KeySchemaElement{{AttributeName: aws.String("LockID"), KeyType: types.KeyTypeHash}},
	})
	return err
}

// configCommand writes migrate.hcl for $ENDPOINT and the directory data:
//
//	file=, path=, endpoint=, cluster_addr=  instead of these
//	top=TEXT                                at the top level
//	credentials=none                        leaves them out
//	type=TYPE                               another one of the source, which has nothing else but
//	paths=DIR,DIR                           this list
//	KEY=VALUE                               into storage_source
//	raft.KEY=VALUE                          into storage_destination
//	to=TYPE                                 another one of the destination, which has path= and
//	                                        raft.KEY=VALUE, and a table the endpoint and credentials
func configCommand(ts *testscript.TestScript, neg bool, args []string) {
	need(ts, !neg, "config name=value…")
	file, addr, top, kind := "migrate.hcl", "https://127.0.0.1:8201", "", "dynamodb"
	source := [][2]string{{"endpoint", ts.Getenv("ENDPOINT")}, {"access_key", "AKID" + secret}, {"secret_key", "SECRET" + secret}, {"session_token", "TOKEN" + secret}}
	raft := [][2]string{{"path", ts.MkAbs("data")}, {"node_id", "vault-1"}}
	destination, access := "raft", source
	settings(ts, args, func(k, v string) error {
		switch k {
		case "file":
			file = v
		case "path":
			raft[0][1] = ts.MkAbs(v)
		case "endpoint":
			source[0][1] = v
		case "cluster_addr":
			addr = v
		case "to":
			if destination, raft = v, raft[:1]; v == "dynamodb" {
				raft, addr = access, ""
			}
		case "type":
			kind, source = v, nil
		case "from":
			source = append(source, [2]string{"path", ts.MkAbs(v)})
		case "paths":
			var list []string
			for dir := range strings.SplitSeq(v, ",") {
				list = append(list, strconv.Quote(ts.MkAbs(dir)))
			}
			source = append(source, [2]string{"paths", "[" + strings.Join(list, ", ") + "]"})
		case "top":
			top = v
		case "credentials":
			source = slices.Delete(source, 1, 4)
		default:
			if name, ok := strings.CutPrefix(k, "raft."); ok {
				raft = append(raft, [2]string{name, v})
			} else {
				source = append(source, [2]string{k, v})
			}
		}
		return nil
	})
	var b strings.Builder
	block := func(head string, lines [][2]string) {
		fmt.Fprintf(&b, "%s {\n", head)
		for _, l := range lines {
			value := strconv.Quote(l[1])
			if l[0] == "paths" {
				value = l[1]
			}
			fmt.Fprintf(&b, "  %s = %s\n", l[0], value)
		}
		b.WriteString("}\n")
	}
	block(fmt.Sprintf("storage_source %q", kind), source)
	block(fmt.Sprintf("storage_destination %q", destination), raft)
	if destination == "raft" {
		fmt.Fprintf(&b, "cluster_addr = %q\n", addr)
	}
	b.WriteString(top + "\n")
	ts.Check(os.WriteFile(ts.MkAbs(file), []byte(b.String()), 0o644))
}

// faultCommand makes the server misbehave: fault KIND [OPERATION[,OPERATION]] [name=value…],
// with after= and count= requests, and delay=; fault none ends it.
func faultCommand(ts *testscript.TestScript, neg bool, args []string) {
	need(ts, !neg && len(args) > 0, "fault KIND [OPERATION] [name=value…]")
	s := of(ts)
	if args[0] == "none" {
		s.server.SetFaults()
		return
	}
	f := &dynamotest.Fault{Kind: dynamotest.FaultKind(args[0])}
	switch f.Kind {
	case dynamotest.ThroughputExceeded, dynamotest.Throttling, dynamotest.AccessDenied, dynamotest.UnknownOperation, dynamotest.ResetConnection, dynamotest.Delay:
	default:
		ts.Fatalf("no kind %q of fault", f.Kind) // one that the server ignores would prove nothing
	}
	rest := args[1:]
	if len(rest) > 0 && !strings.Contains(rest[0], "=") {
		f.Operation, rest = rest[0], rest[1:]
	}
	settings(ts, rest, func(k, v string) (err error) {
		switch k {
		case "after":
			f.After, err = strconv.Atoi(v)
		case "count":
			f.Count, err = strconv.Atoi(v)
		case "delay":
			f.Delay, err = time.ParseDuration(v)
		default:
			err = fmt.Errorf("fault has no setting %q", k)
		}
		return err
	})
	faults := []*dynamotest.Fault{f}
	if ops := strings.Split(f.Operation, ","); len(ops) > 1 {
		faults = nil
		for _, op := range ops {
			faults = append(faults, &dynamotest.Fault{Kind: f.Kind, Operation: op, After: f.After, Count: f.Count, Delay: f.Delay})
		}
	}
	s.server.SetFaults(faults...)
}
