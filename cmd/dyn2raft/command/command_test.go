package command

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/rogpeppe/go-internal/testscript"
	"github.com/urfave/cli/v3"
	"go.uber.org/goleak"

	"github.com/dyn2raft/dyn2raft/cmd/dyn2raft/hints"
	"github.com/dyn2raft/dyn2raft/cmd/dyn2raft/plan"
	"github.com/dyn2raft/dyn2raft/copier"
	"github.com/dyn2raft/dyn2raft/copier/vaultconfig"
	"github.com/dyn2raft/dyn2raft/sources/dynamodb"
)

var update = flag.Bool("update", false, "write the help texts as they are into the scripts")

// TestMain makes the test binary stand for dyn2raft as well, so that scripts
// run the real command in a process of its own.
func TestMain(m *testing.M) {
	testscript.Main(leakChecked{m}, map[string]func(){"dyn2raft": func() {
		if uid, err := strconv.Atoi(os.Getenv(uidVariable)); err == nil {
			if err := errors.Join(syscall.Setgid(uid), syscall.Setuid(uid)); err != nil {
				panic(err)
			}
		}
		os.Exit(Main(os.Args, Streams{In: os.Stdin, Out: os.Stdout, Err: os.Stderr, Env: os.LookupEnv}))
	}, drawing: draw})
}

// uidVariable makes a dyn2raft that root's tests start run as another user.
const uidVariable = "DYN2RAFT_TEST_UID"

type leakChecked struct{ m *testing.M }

func (l leakChecked) Run() int {
	status := l.m.Run()
	if status == 0 {
		if err := goleak.Find(); err != nil {
			fmt.Fprintln(os.Stderr, "goroutines left behind:", err)
			return 1
		}
	}
	return status
}

// TestScripts runs testdata/script/*.txtar, the specification of the command
// line. The commands that scripts have beside testscript's own are in
// script_test.go.
func TestScripts(t *testing.T) {
	scripts, err := filepath.Glob(filepath.Join("testdata", "script", "*.txtar"))
	if err != nil || len(scripts) < 10 {
		t.Fatalf("%d scripts found, expected at least 10 (%v)", len(scripts), err)
	}
	if os.Getuid() != 0 {
		t.Log("NOT TESTED: what only root can do, the lines with [root]")
	}
	// Under t.TempDir others may look into the directory, see uidVariable.
	root := t.TempDir()
	if err := os.Chmod(filepath.Dir(root), 0o755); err != nil {
		t.Fatal(err)
	}
	testscript.Run(t, testscript.Params{
		Files:         scripts,
		WorkdirRoot:   root,
		Setup:         setupScript,
		Cmds:          scriptCommands,
		UpdateScripts: *update,
		Condition: func(name string) (bool, error) {
			if name != "root" {
				return false, fmt.Errorf("no condition %q", name)
			}
			return os.Getuid() == 0, nil
		},
		RequireExplicitExec: true,
		RequireUniqueNames:  true,
	})
}

// TestScriptCommandsCanFail shows that what scripts check with can say no.
func TestScriptCommandsCanFail(t *testing.T) {
	const table = "table entries=14 entry=secret/one:9\nconfig ha_enabled=true\n"
	const copied = table + "status 0 dyn2raft copy -config migrate.hcl -format json\n"
	for name, c := range map[string]struct {
		script string
		want   string // in the log
	}{
		"passes":          {copied + "copied data\njson complete true\nitem secret/one", "PASS"},
		"status":          {"status 1 dyn2raft version", "exit status 0, expected 1"},
		"secret":          {"status 0 sh -c 'echo TOKENNOTPRINTED'", "printed NOTPRINTED"},
		"stdout":          {"status 1 sh -c 'echo result; exit 1'", "there is no result"},
		"json value":      {copied + "json complete false", "expected \"false\""},
		"json nothing":    {copied + "json perfect true", "no member perfect"},
		"json no":         {"status 0 dyn2raft version\njson a b", "invalid character"},
		"json more":       {"status 0 sh -c 'echo {}; echo {}'\njson a b", "something follows"},
		"copied":          {copied + "put data/vault.db a b\ncopied data", "16 entries"},
		"copied value":    {copied + "put data/vault.db secret/one b\ncopied data", "15 entries"},
		"item":            {table + "item no/such", "item no/such is there: false"},
		"not item":        {table + "! item secret/one", "item secret/one is there: true"},
		"kept":            {table + "keep\nstatus 0 dyn2raft copy -config migrate.hcl -keep-source-locked\nkept", "the table is the same: false"},
		"not kept":        {table + "keep\n! kept", "the table is the same: true"},
		"every":           {"status 0 dyn2raft version\nevery stdout nothing", "does not match"},
		"lastline":        {"status 0 dyn2raft version\nlastline stdout dyn2raft", "does not end with"},
		"del":             {copied + "del data/vault.db no/such", "no key no/such"},
		"unknown fault":   {table + "fault misspelt", "no kind"},
		"unknown setting": {"table entires=5", "no setting"},
		"exits":           {"start a dyn2raft version\nexits a 1", "exit status 0, expected 1"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			file := filepath.Join(t.TempDir(), "script.txtar")
			if err := os.WriteFile(file, []byte(c.script+"\n"), 0o600); err != nil {
				t.Fatal(err)
			}
			rec := &recorder{}
			done := make(chan struct{})
			go func() { // a script that fails ends its goroutine
				defer close(done)
				testscript.RunT(rec, testscript.Params{Files: []string{file}, Setup: setupScript, Cmds: scriptCommands, RequireExplicitExec: true})
			}()
			<-done
			if rec.failed == (name == "passes") || !strings.Contains(rec.log.String(), c.want) {
				t.Errorf("failed: %v, without %q in\n%s", rec.failed, c.want, &rec.log)
			}
		})
	}
}

// A recorder takes the place of a test.
type recorder struct {
	log    strings.Builder
	failed bool
}

func (r *recorder) Log(a ...any)                       { fmt.Fprintln(&r.log, a...) }
func (r *recorder) Skip(a ...any)                      { r.Fatal(a...) }
func (r *recorder) Fatal(a ...any)                     { r.Log(a...); r.FailNow() }
func (r *recorder) FailNow()                           { r.failed = true; runtime.Goexit() }
func (r *recorder) Parallel()                          {}
func (r *recorder) Verbose() bool                      { return true }
func (r *recorder) Run(_ string, f func(testscript.T)) { f(r) }

func TestExitStatus(t *testing.T) {
	is := func(kind error) error { return &copier.Error{Kind: kind, Err: errors.New("broken")} }
	for _, c := range []struct {
		err  error
		want int
	}{
		{nil, 0},
		{errors.New("a defect"), 1},
		{&usageError{"bad flag", ""}, 1},
		{errDifferent, 3},
		{errors.Join(nil, errDifferent), 3},
		{is(copier.ErrConfig), 1},
		{is(copier.ErrSource), 10},
		{is(copier.ErrLocked), 11},
		{is(copier.ErrDestination), 12},
		{fmt.Errorf("copy: %w", is(copier.ErrDestination)), 12},
		// The first error is what happened, the second went wrong cleaning up.
		{errors.Join(is(copier.ErrSource), is(copier.ErrDestination)), 10},
		{errors.Join(errors.Join(is(copier.ErrDestination), is(copier.ErrConfig)), is(copier.ErrSource)), 12},
		{&signalError{signal: syscall.SIGINT}, 130},
		{&signalError{signal: syscall.SIGTERM}, 143},
		{errors.Join(is(copier.ErrSource), &signalError{signal: syscall.SIGINT}), 130},
	} {
		if got := exitStatus(c.err); got != c.want {
			t.Errorf("exitStatus(%v) = %d, expected %d", c.err, got, c.want)
		}
	}
}

func TestPrintError(t *testing.T) {
	two := errors.Join(
		hints.With(&copier.Error{Op: "read x", Err: errors.New("broken")}, "fix it"),
		errDifferent, // the report has said it
		hints.With(&copier.Error{Op: "release y", Err: errors.New("line 1\nline 2")}, "first\nsecond"),
		fmt.Errorf("both %w and %w", errors.New("this"), errors.New("that")),
	)
	var b strings.Builder
	printError(&b, two)
	const want = "error: read x: broken\nhint: fix it\n" +
		"error: release y: line 1\n  line 2\nhint: first\n  second\n" +
		"error: both this and that\n"
	if b.String() != want {
		t.Errorf("printed\n%s\nexpected\n%s", b.String(), want)
	}
	b.Reset()
	printError(&b, nil)
	if b.Len() > 0 {
		t.Errorf("printed %q without an error", b.String())
	}
}

func TestSkippedLocks(t *testing.T) {
	if got := skippedLocks([]string{"1", "2", "3", "4", "5", "6"}); got != "6 locks (1, 2, 3, 4, 5, …)" {
		t.Error(got)
	}
}

// A lockedBuilder can be written by one goroutine and read by another.
type lockedBuilder struct {
	mu sync.Mutex
	strings.Builder
}

func (b *lockedBuilder) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.Builder.Write(p)
}

// TestReadOnly: on a file system that became read-only another place for the
// manifest is no help by itself.
func TestReadOnly(t *testing.T) {
	for cause, want := range map[error]string{syscall.EROFS: "remount,rw", syscall.EACCES: "name a place"} {
		err := readOnly(hints.With(&copier.Error{Kind: copier.ErrDestination, Op: "write manifest", Err: cause}, "name a place"))
		if !errors.Is(err, copier.ErrDestination) || !strings.Contains(hints.Of(err), want) || err.Error() != "write manifest: "+cause.Error() {
			t.Errorf("%v: %v, hint %q", cause, err, hints.Of(err))
		}
	}
}

// TestOutage: of the many requests that fail while the table can't be reached
// the first is told at once, and then there is a line every 30 s.
func TestOutage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var b lockedBuilder
		p := &printer{every: 30 * time.Second, log: hclog.New(&hclog.LoggerOptions{Output: &b, DisableTime: true})}
		begin := time.Now()
		for range 1000 {
			p.event(copier.Retried{Err: errors.New("no route"), Nothing: time.Since(begin), GiveUp: begin.Add(10 * time.Minute)})
			time.Sleep(100 * time.Millisecond)
		}
		until := begin.Add(10 * time.Minute).Local().Format(time.DateTime)
		want := "[WARN]  request failed, trying again: error=\"no route\"\n"
		for n := range 3 {
			want += fmt.Sprintf("[WARN]  request failed, trying again: error=\"no route\" failed_before=299 nothing_has_succeeded_for=%v gives_up_at=%q\n",
				time.Duration(n+1)*30*time.Second, until)
		}
		if got := b.String(); got != want {
			t.Errorf("lines\n%s\nexpected\n%s", got, want)
		}
	})
}

// TestProgress looks at the lines that tell how far a command is.
func TestProgress(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var b lockedBuilder
		p := &printer{every: 30 * time.Second, log: hclog.New(&hclog.LoggerOptions{Output: &b, DisableTime: true})}
		const every = 30 * time.Second
		asked := make(chan os.Signal)
		stop := p.watch(every, asked)
		said := func(want string) {
			t.Helper()
			synctest.Wait()
			b.mu.Lock()
			defer b.mu.Unlock()
			if got := b.String(); got != want {
				t.Errorf("lines\n%s\nexpected\n%s", got, want)
			}
			b.Reset()
		}
		time.Sleep(5 * time.Second)
		p.event(copier.PhaseStarted{Phase: copier.PhaseScan, Segments: 2, Workers: 1, Source: copier.Info{Name: "t", Items: 250_000}})
		p.event(copier.WorkersChanged{Workers: 1})
		p.event(copier.PageRead{Entries: 50_000, Bytes: 3 << 20, SegmentDone: true, Counts: copier.Counts{dynamodb.ReadCapacityUnits: 1234.5}})
		p.event(copier.PageRead{})
		time.Sleep(every - 5*time.Second)
		said("[INFO]  reading the source: segments=2 max_parallel=1\n" +
			"[INFO]  still reading the source: nothing new for 6s\n" +
			"[INFO]  reading: entries=\"50,000\" size=\"3.0 MiB\" segments=1/2 rate=\"2,000/s\" left=1m40s throttled=0 workers=1 units=\"1,234.5\"\n")
		p.event(copier.Retried{Err: errors.New("slow down"), Throttled: true}) // too many of these for the level info
		for range 12 {                                                         // as often as the rate's window has samples
			time.Sleep(time.Second)
			p.tracker.Status()
		}
		asked <- syscall.SIGUSR1
		said("[INFO]  still reading the source: nothing new for 36s\n" +
			"[INFO]  reading: entries=\"50,000\" size=\"3.0 MiB\" segments=1/2 rate=0/s left=unknown throttled=1 workers=1 units=\"1,234.5\"\n")
		p.event(copier.PhaseStarted{Phase: copier.PhaseLoad})
		p.event(copier.Loaded{Entries: 9000})
		time.Sleep(every - 12*time.Second)
		said("[INFO]  writing what was read: entries_read=\"50,000\" size=\"3.0 MiB\"\n" +
			"[INFO]  still writing what was read: nothing new for 6s\n" +
			"[INFO]  writing: entries=\"9,000\" entries_read=\"50,000\" rate=500/s left=1m22s\n")
		p.event(copier.Loaded{Entries: 41_000})
		p.event(copier.PhaseStarted{Phase: copier.PhaseCheck})
		p.event(copier.PhaseStarted{Phase: copier.PhaseCommit})
		time.Sleep(every)
		said("[INFO]  reading back what was written: entries_written=\"50,000\"\n" +
			"[INFO]  putting the result in place\n" +
			"[INFO]  still putting the result in place: nothing new for 6s\n")
		asked <- syscall.SIGUSR1
		said("[INFO]  in phase commit: entries=\"50,000\" entries_read=\"50,000\"\n")
		stop()
	})
}

// TestMemoryBudget looks at the limit that the garbage collector gets.
func TestMemoryBudget(t *testing.T) {
	before := debug.SetMemoryLimit(-1)
	defer debug.SetMemoryLimit(before)
	defer debug.SetGCPercent(debug.SetGCPercent(100))
	t.Setenv("GOGC", "") // whoever runs the tests may have set it
	for _, c := range []struct {
		args    []string
		env     string
		want    int64
		limited bool
	}{
		{nil, "", copier.DefaultMemory, true},
		{[]string{"-memory", "1GB"}, "", 1e9, true},
		{[]string{"-memory", "1GB"}, "3GiB", 1e9, true},
		{nil, "3GiB", copier.DefaultMemory, false}, // the operator's own limit stays
	} {
		debug.SetMemoryLimit(before)
		t.Setenv("GOMEMLIMIT", c.env)
		var got int64
		cmd := &cli.Command{Flags: []cli.Flag{shared("memory")[0]}, Action: func(_ context.Context, cmd *cli.Command) (err error) {
			got, err = memoryBudget(cmd)
			return err
		}}
		if err := cmd.Run(t.Context(), append([]string{"test"}, c.args...)); err != nil || got != c.want {
			t.Errorf("%v: %d bytes, expected %d (%v)", c.args, got, c.want, err)
		}
		limit := debug.SetMemoryLimit(-1)
		if got := debug.SetGCPercent(100); got != garbage {
			t.Errorf("%v: %d percent of garbage, expected %d", c.args, got, garbage)
		}
		if limited := limit >= c.want && limit < c.want+1<<30; limited != c.limited || !limited && limit != before {
			t.Errorf("%v with GOMEMLIMIT=%q: the limit is %d", c.args, c.env, limit)
		}
	}

	t.Setenv("GOGC", "100") // has set it already, when the process began
	cmd := &cli.Command{Flags: []cli.Flag{shared("memory")[0]}, Action: func(_ context.Context, cmd *cli.Command) error {
		_, err := memoryBudget(cmd)
		return err
	}}
	if err := cmd.Run(t.Context(), []string{"test"}); err != nil {
		t.Fatal(err)
	}
	if got := debug.SetGCPercent(100); got != 100 {
		t.Errorf("with GOGC=100: %d percent of garbage", got)
	}
}

// A copy that failed and is not kept says what became of the table, unless
// somebody else holds it, or it is not known.
func TestNothingIsKept(t *testing.T) {
	locked := copier.Record{Processes: []copier.Process{{Phases: map[copier.Phase]time.Duration{copier.PhaseLock: 1}}}}
	full := &copier.Error{Kind: copier.ErrDestination, Op: "write work file", Err: syscall.ENOSPC}
	for name, c := range map[string]struct {
		err  error
		res  copier.Record
		says string
	}{
		"failed":        {full, locked, "the table is not locked any more"},
		"before a lock": {full, copier.Record{}, ""},
		"complete":      {full, copier.Record{Complete: true, Processes: locked.Processes}, ""},
		"locked":        {&copier.Error{Kind: copier.ErrLocked, Err: full}, locked, ""},
		"not released":  {errors.Join(full, copier.ErrNotReleased), locked, "free the table: "},
		"interrupted":   {errors.Join(&signalError{signal: syscall.SIGINT}, full, copier.ErrNotReleased), locked, "free the table: "},
		"gone":          {errors.Join(full, copier.ErrWorkGone), locked, ""},
	} {
		err := howToGoOn(c.err, c.res, &cli.Command{}, &vaultconfig.Config{Source: vaultconfig.Source{Type: vaultconfig.DynamoDB}, Destination: vaultconfig.Destination{Type: vaultconfig.Raft}})
		kept, ok := errors.AsType[*ending](err)
		if ok != (c.says != "") || ok && !strings.Contains(kept.hint(0), c.says) || !errors.Is(err, syscall.ENOSPC) {
			t.Errorf("%s: %v, %+v", name, err, kept)
		}
	}
}

// A copy whose result is in place is not said to be started over, and what is wrong
// with it is a difference.
func TestInPlace(t *testing.T) {
	inPlace := func(err error) error {
		return howToGoOn(err, copier.Record{InPlace: true}, &cli.Command{}, &vaultconfig.Config{Source: vaultconfig.Source{Type: vaultconfig.DynamoDB}, Destination: vaultconfig.Destination{Type: vaultconfig.Raft}})
	}
	damage := &copier.Error{Kind: copier.ErrReadBack, Err: hints.With(&copier.Error{Kind: copier.ErrDestination, Op: "read vault.db"}, "look")}
	if err := inPlace(damage); exitStatus(err) != exitDifferent || !errors.Is(err, copier.ErrDestination) || hints.Of(err) != "look" {
		t.Errorf("%v, status %d", err, exitStatus(err))
	}
	if err := inPlace(&copier.Error{Kind: copier.ErrSource}); exitStatus(err) != exitSource {
		t.Errorf("%v, status %d", err, exitStatus(err))
	}
	sig := &signalError{signal: syscall.SIGINT}
	err := inPlace(sig)
	if e, ok := errors.AsType[*ending](err); exitStatus(err) != 130 || !ok || !strings.Contains(e.hint(0), "the copy is in place") {
		t.Errorf("%v", err)
	}
	for _, inPlace := range []bool{false, true} { // the watch of a live copy: by the first process, by a later one
		res := copier.Record{InPlace: inPlace, Resumable: !inPlace, Complete: true, State: copier.Released, Live: &copier.LiveRecord{}}
		err := howToGoOn(fmt.Errorf("watch t: %w", sig), res, &cli.Command{}, &vaultconfig.Config{Source: vaultconfig.Source{Type: vaultconfig.DynamoDB}, Destination: vaultconfig.Destination{Type: vaultconfig.Raft}})
		if e, ok := errors.AsType[*ending](err); exitStatus(err) != 130 || !ok || !strings.Contains(e.hint(0), "a Vault may be started on it") || !strings.Contains(e.hint(0), "-resume") {
			t.Errorf("in place %v: %v", inPlace, err)
		}
	}
}

// A configuration names a table by its name, and by its region where that is known.
func TestNames(t *testing.T) {
	table := copier.Info{Name: "vault", ID: "arn:aws:dynamodb:eu-west-1:123456789012:table/vault"}
	for _, c := range []struct {
		table, region, endpoint string
		want                    bool
	}{
		{"vault", "eu-west-1", "", true}, {"vault2", "eu-west-1", "", false}, {"vault", "eu-west-2", "", false},
		{"vault", "eu-west-2", "http://127.0.0.1:8000", true}, {"vault2", "eu-west-2", "http://127.0.0.1:8000", false},
	} {
		cfg := &vaultconfig.Config{Source: vaultconfig.Source{Type: vaultconfig.DynamoDB}, Destination: vaultconfig.Destination{Type: vaultconfig.Raft}}
		cfg.Source.Table, cfg.Source.Region, cfg.Source.Endpoint = c.table, c.region, c.endpoint
		if got := plan.Names(cfg, table); got != c.want {
			t.Errorf("%+v: %v", c, got)
		}
	}
	elsewhere := table
	elsewhere.Endpoint = "http://127.0.0.1:8000" // by AWS_ENDPOINT_URL
	cfg := &vaultconfig.Config{Source: vaultconfig.Source{Type: vaultconfig.DynamoDB}, Destination: vaultconfig.Destination{Type: vaultconfig.Raft}}
	cfg.Source.Table, cfg.Source.Region = "vault", "eu-west-2"
	if !plan.Names(cfg, elsewhere) {
		t.Error("what is at an endpoint of one's own is in any region")
	}
}

// What is the same is said once, however often it went wrong.
func TestPrintErrorOnce(t *testing.T) {
	broken := errors.New("write /dev/stdout: broken pipe")
	other := hints.With(&copier.Error{Kind: copier.ErrSource, Op: "read table t", Err: io.EOF}, "look")
	for name, c := range map[string]struct {
		err  error
		want string
	}{
		"each line":   {errors.Join(broken, broken, other, broken), "error: write /dev/stdout: broken pipe\nerror: read table t: EOF\nhint: look\n"},
		"of a result": {fmt.Errorf("write the result: %w", errors.Join(other, broken, broken)), "error: write the result: read table t: EOF\n  write /dev/stdout: broken pipe\nhint: look\n"},
	} {
		var out strings.Builder
		if printError(&out, c.err); out.String() != c.want {
			t.Errorf("%s:\n%s", name, out.String())
		}
	}
}
