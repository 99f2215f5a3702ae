package plan

import (
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/dyn2raft/dyn2raft/cmd/dyn2raft/config"
	"github.com/dyn2raft/dyn2raft/copier"
	sink "github.com/dyn2raft/dyn2raft/sinks/raft"
	"github.com/dyn2raft/dyn2raft/sources/dynamodb"
	"github.com/dyn2raft/dyn2raft/sources/dynamodb/dynamotest"
	"github.com/dyn2raft/dyn2raft/verify"
)

// localPlanner is a planner of a copy into an empty directory.
func localPlanner(t *testing.T) *planner {
	cfg := &config.Config{}
	cfg.Source.Table = dynamotest.VaultTable
	cfg.Destination = config.Destination{Path: filepath.Join(t.TempDir(), "data"), NodeID: "vault-1", Address: "127.0.0.1:8201"}
	if err := os.Mkdir(cfg.Destination.Path, 0o700); err != nil {
		t.Fatal(err)
	}
	return &planner{Options: Options{Config: cfg}, report: &Report{}}
}

func expect(t *testing.T, p *planner, check string, status Status, want string) {
	t.Helper()
	if got := find(t, p.report, check); got.Status != status || !strings.Contains(got.Message+" "+got.Hint, want) {
		t.Errorf("%+v, expected a %s with %q", got, status, want)
	}
}

func TestDestinationAtWork(t *testing.T) {
	t.Parallel()
	p := localPlanner(t)
	f, err := os.Open(p.Config.Destination.Path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX); err != nil {
		t.Fatal(err)
	}
	p.destination()
	expect(t, p, "destination", Failure, "at work")
}

func TestOwnerCannotWrite(t *testing.T) {
	t.Parallel()
	p := localPlanner(t)
	p.mayWrite = func(string) error { return unix.EACCES }
	p.owner(p.Config.Destination.Path)
	expect(t, p, "owner", Failure, "run as the user that Vault runs as: sudo -u")
}

// A copy that is at work has the leader lock.
func TestAnotherCopyAtWork(t *testing.T) {
	t.Parallel()
	p := localPlanner(t)
	p.locks.Leader = &dynamodb.LockHolder{Name: "dyn2raft run x", Run: "x"}
	p.vault()
	expect(t, p, "running-vault", Warning, "another copy is at work: dyn2raft run x")
}

func TestNoClock(t *testing.T) {
	t.Parallel()
	p := localPlanner(t)
	p.survey = &dynamodb.Survey{}
	p.clock()
	expect(t, p, "clock", Warning, "does not tell its time")
}

// An action that could not be tried is no action that is denied.
func TestAccessUnknown(t *testing.T) {
	t.Parallel()
	e := newEnv(t, dynamotest.Options{})
	e.srv.SetFaults(&dynamotest.Fault{Kind: dynamotest.UnrecognizedClient, Operation: "PutItem"})
	opts := e.options()
	opts.NoSample = true
	rep, err := Run(t.Context(), opts)
	e.ok(err)
	if got := find(t, rep, "write-access"); got.Status != Warning || strings.Contains(got.Message, "not allowed") || !strings.Contains(got.Message, "PutItem") {
		t.Errorf("%+v", got)
	}
}

func TestLittleMemory(t *testing.T) {
	t.Parallel()
	total, _, err := memory()
	if err != nil {
		t.Fatal(err)
	}
	p := localPlanner(t)
	p.Memory, p.report.Estimate = 2*total, &Estimate{Bytes: 1000}
	p.space(p.Config.Destination.Path)
	expect(t, p, "memory", Warning, "less than the")
	expect(t, p, "memory", Warning, "-memory")
}

// Work files on another file system need room there, and none here.
func TestWorkFilesElsewhere(t *testing.T) {
	t.Parallel()
	const data = 1000 << 20
	for name, c := range map[string]struct {
		here, there int64 // MiB that are free
		same        bool
		work, free  Status
	}{
		"room in both":      {here: 4000, there: 1200, work: Pass, free: Pass},
		"vault.db fits":     {here: 1500, there: 1200, work: Pass, free: Warning},
		"too little there":  {here: 4000, there: 1000, work: Failure, free: Pass},
		"too little here":   {here: 1300, there: 1200, work: Pass, free: Failure},
		"one file system":   {here: 2400, there: 2400, same: true, work: Pass, free: Failure},
		"enough in one":     {here: 2600, there: 2600, same: true, work: Pass, free: Warning},
		"not to be written": {here: 4000, there: 1200, work: Failure, free: Pass},
	} {
		p := localPlanner(t)
		p.WorkDir, p.report.Estimate = t.TempDir(), &Estimate{Bytes: data, atLeast: data}
		p.statfs = func(path string, st *unix.Statfs_t) error {
			st.Bsize = 1 << 20
			st.Bavail = uint64(c.here)
			if path == p.WorkDir {
				st.Bavail = uint64(c.there)
				if !c.same {
					st.Fsid.Val[0] = 7
				}
			}
			return nil
		}
		p.mayWrite = func(dir string) error {
			if name == "not to be written" && dir == p.WorkDir {
				return unix.EACCES
			}
			return nil
		}
		p.space(p.Config.Destination.Path)
		work, free := find(t, p.report, "work-files"), find(t, p.report, "disk")
		if name != "not to be written" && free.Status != c.free || work.Status != c.work {
			t.Errorf("%s: %+v, %+v", name, work, free)
		}
	}
	p := localPlanner(t)
	p.WorkDir = "/no/such"
	p.space(p.Config.Destination.Path)
	expect(t, p, "work-files", Failure, "-work-dir")
}

// Whoever is to reach the node by an address of this machine's own does not.
func TestClusterAddress(t *testing.T) {
	t.Parallel()
	for host, c := range map[string]struct {
		status Status
		want   string
	}{
		"127.0.0.1":        {Warning, "loopback"},
		"127.8.9.1":        {Warning, "loopback"},
		"::1":              {Warning, "loopback"},
		"::ffff:127.0.0.1": {Warning, "loopback"},
		"localhost":        {Warning, "loopback"},
		"LocalHost.":       {Warning, "loopback"},
		"node.localhost":   {Warning, "loopback"},
		"fe80::1":          {Warning, "link-local"},
		"169.254.3.4":      {Warning, "link-local"},
		"no-such.invalid":  {Warning, "yet"},
		"0.0.0.0":          {Failure, "no node"},
		"::":               {Failure, "no node"},
		"::ffff:0.0.0.0":   {Failure, "no node"},
		"224.0.0.1":        {Failure, "no node"},
		"255.255.255.255":  {Failure, "no node"},
		"127.1":            {Failure, "no IP address"},
		"0":                {Failure, "no IP address"},
		"10.9.8.7":         {Pass, "10.9.8.7"},
		"2001:db8::1":      {Pass, "2001:db8::1"},
	} {
		for _, atCopy := range []bool{false, true} {
			p := localPlanner(t)
			p.Config.Destination.Address, p.atCopy = net.JoinHostPort(host, "8201"), atCopy
			p.address(t.Context())
			expect(t, p, "cluster-addr", c.status, c.want)
		}
	}
}

// A copy makes the checks of the list that are its own to make, and what is to be
// ignored is a warning.
func TestSeverity(t *testing.T) {
	t.Parallel()
	for _, c := range Checks() {
		for _, atCopy := range []bool{false, true} {
			p := localPlanner(t)
			p.atCopy, p.Ignore = atCopy, []string{c.Name}
			p.fail(c.Name, "it is wrong", "put it right")
			most := c.Before
			if atCopy {
				most = c.AtCopy
			}
			switch {
			case atCopy && (c.Never || most == ""):
				if len(p.report.Checks) != 0 {
					t.Errorf("%s at the copy: %+v", c.Name, p.report.Checks)
				}
				continue
			case most == Failure && !c.Never:
				most = Warning
			}
			if got := find(t, p.report, c.Name); got.Status != most || got.Ignored != (!c.Never && (c.Before == Failure && !atCopy || c.AtCopy == Failure && atCopy)) {
				t.Errorf("%s, at the copy %v: %+v, expected a %s", c.Name, atCopy, got, most)
			}
		}
		if (c.Kind == nil) != (c.Before != Failure && c.AtCopy != Failure) {
			t.Errorf("%s: kind %v", c.Name, c.Kind)
		}
	}
}

func TestManifestElsewhere(t *testing.T) {
	t.Parallel()
	p := localPlanner(t)
	p.Manifest = filepath.Join(t.TempDir(), "m.json")
	p.beside()
	expect(t, p, "manifest", Pass, filepath.Dir(p.Manifest))
	p = localPlanner(t)
	p.Manifest = "/no/such/m.json"
	p.beside()
	expect(t, p, "manifest", Failure, "-manifest")
}

// The lock that a finished copy left on purpose is no failure; whoever freed it
// would let old Vaults start.
func TestLeftLocked(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		run    string // of the lock
		gone   bool   // the manifest is
		status Status
		want   string
	}{
		"its own":     {run: "run-1", status: Warning, want: "leave it"},
		"another's":   {run: "run-2", status: Failure, want: "-keep-source-locked"},
		"no manifest": {run: "run-1", gone: true, status: Failure, want: "-keep-source-locked"},
		"vault's":     {status: Failure, want: "-reset"},
	} {
		p := localPlanner(t)
		path := p.Config.Destination.Path
		if err := os.WriteFile(filepath.Join(path, "vault.db"), nil, 0o600); err != nil {
			t.Fatal(err)
		}
		m := &verify.Manifest{RunID: "run-1", Prefixes: copier.Digests{}, End: time.Now(), Source: copier.Info{Name: dynamotest.VaultTable},
			Destination: verify.ManifestDestination{Path: path}}
		if !c.gone {
			if err := m.Write(verify.ManifestPath(path)); err != nil {
				t.Fatal(err)
			}
		}
		p.locks.Migration = &dynamodb.LockHolder{Name: "somebody", Run: c.run}
		p.migration()
		expect(t, p, "migration-lock", c.status, c.want)
		if state, err := sink.Look(path); err != nil || state != sink.StateComplete {
			t.Fatalf("%s: %s, %v", name, state, err)
		}
		p.destination()
		want := "finished copy of run run-1"
		if c.gone {
			want = "put it aside"
		}
		expect(t, p, "destination", Failure, want)
	}
}

// The probe says what the disk takes, and leaves nothing behind.
func TestLatency(t *testing.T) {
	t.Parallel()
	p := localPlanner(t)
	p.latency(t.Context())
	expect(t, p, "disk-latency", Note, "99th percentile is ")
	if list, err := os.ReadDir(p.Config.Destination.Path); err != nil || len(list) != 0 {
		t.Errorf("%v, %v", list, err)
	}
	for name, change := range map[string]func(*planner){
		"no probes":   func(p *planner) { p.NoWriteProbes = true },
		"at the copy": func(p *planner) { p.atCopy = true },
		"closed":      func(p *planner) { p.mayWrite = func(string) error { return unix.EACCES } },
	} {
		p := localPlanner(t)
		change(p)
		p.latency(t.Context())
		if len(p.report.Checks) != 0 {
			t.Errorf("%s: %+v", name, p.report.Checks)
		}
	}
}
