package plan

import (
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/dyn2raft/dyn2raft/copier"
	sink "github.com/dyn2raft/dyn2raft/sinks/raft"
	"github.com/dyn2raft/dyn2raft/sources/dynamodb"
	"github.com/dyn2raft/dyn2raft/sources/dynamodb/dynamotest"
	"github.com/dyn2raft/dyn2raft/vaultconfig"
	"github.com/dyn2raft/dyn2raft/verify"
)

// localPlanner is a planner of a copy into an empty directory.
func localPlanner(t *testing.T) *planner {
	cfg := &vaultconfig.Config{}
	cfg.Source.Table = dynamotest.VaultTable
	cfg.Destination = vaultconfig.Destination{Path: filepath.Join(t.TempDir(), "data"), NodeID: "vault-1", Address: "127.0.0.1:8201"}
	if err := os.Mkdir(cfg.Destination.Path, 0o700); err != nil {
		t.Fatal(err)
	}
	return newPlanner(Options{Config: cfg})
}

func expect(t *testing.T, p *planner, check string, status copier.Outcome, want string) {
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
	expect(t, p, "destination", copier.Failed, "at work")
}

func TestOwnerCannotWrite(t *testing.T) {
	t.Parallel()
	p := localPlanner(t)
	p.mayWrite = func(string) error { return unix.EACCES }
	p.owner(p.Config.Destination.Path)
	expect(t, p, "owner", copier.Failed, "run as the user that Vault runs as: sudo -u")
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
	if got := find(t, rep, "write-access"); got.Status != copier.Warned || strings.Contains(got.Message, "not allowed") || !strings.Contains(got.Message, "PutItem") {
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
	expect(t, p, "memory", copier.Warned, "less than the")
	expect(t, p, "memory", copier.Warned, "-memory")
}

// Work files on another file system need room there, and none here.
func TestWorkFilesElsewhere(t *testing.T) {
	t.Parallel()
	const data = 1000 << 20
	for name, c := range map[string]struct {
		here, there int64 // MiB that are free
		same        bool
		work, free  copier.Outcome
	}{
		"room in both":      {here: 4000, there: 1200, work: copier.Passed, free: copier.Passed},
		"vault.db fits":     {here: 1500, there: 1200, work: copier.Passed, free: copier.Warned},
		"too little there":  {here: 4000, there: 1000, work: copier.Failed, free: copier.Passed},
		"too little here":   {here: 1300, there: 1200, work: copier.Passed, free: copier.Failed},
		"one file system":   {here: 2400, there: 2400, same: true, work: copier.Passed, free: copier.Failed},
		"enough in one":     {here: 2600, there: 2600, same: true, work: copier.Passed, free: copier.Warned},
		"not to be written": {here: 4000, there: 1200, work: copier.Failed, free: copier.Passed},
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
	expect(t, p, "work-files", copier.Failed, "-work-dir")
}

// Whoever is to reach the node by an address of this machine's own does not.
func TestClusterAddress(t *testing.T) {
	t.Parallel()
	for host, c := range map[string]struct {
		status copier.Outcome
		want   string
	}{
		"127.0.0.1":        {copier.Warned, "loopback"},
		"127.8.9.1":        {copier.Warned, "loopback"},
		"::1":              {copier.Warned, "loopback"},
		"::ffff:127.0.0.1": {copier.Warned, "loopback"},
		"localhost":        {copier.Warned, "loopback"},
		"LocalHost.":       {copier.Warned, "loopback"},
		"node.localhost":   {copier.Warned, "loopback"},
		"fe80::1":          {copier.Warned, "link-local"},
		"169.254.3.4":      {copier.Warned, "link-local"},
		"no-such.invalid":  {copier.Warned, "yet"},
		"0.0.0.0":          {copier.Failed, "no node"},
		"::":               {copier.Failed, "no node"},
		"::ffff:0.0.0.0":   {copier.Failed, "no node"},
		"224.0.0.1":        {copier.Failed, "no node"},
		"255.255.255.255":  {copier.Failed, "no node"},
		"127.1":            {copier.Failed, "no IP address"},
		"0":                {copier.Failed, "no IP address"},
		"10.9.8.7":         {copier.Passed, "10.9.8.7"},
		"2001:db8::1":      {copier.Passed, "2001:db8::1"},
	} {
		for _, atCopy := range []bool{false, true} {
			p := localPlanner(t)
			if p.Config.Destination.Address = net.JoinHostPort(host, "8201"); atCopy {
				p.when = copier.AtCopy
			}
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
			if p.Ignore = []string{c.Name}; atCopy {
				p.when = copier.AtCopy
			}
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
			case most == copier.Failed && !c.Never:
				most = copier.Warned
			}
			if got := find(t, p.report, c.Name); got.Status != most || got.Ignored != (!c.Never && (c.Before == copier.Failed && !atCopy || c.AtCopy == copier.Failed && atCopy)) {
				t.Errorf("%s, at the copy %v: %+v, expected a %s", c.Name, atCopy, got, most)
			}
		}
		if (c.Kind == nil) != (c.Before != copier.Failed && c.AtCopy != copier.Failed) {
			t.Errorf("%s: kind %v", c.Name, c.Kind)
		}
	}
}

func TestManifestElsewhere(t *testing.T) {
	t.Parallel()
	p := localPlanner(t)
	p.Manifest = filepath.Join(t.TempDir(), "m.json")
	p.beside()
	expect(t, p, "manifest", copier.Passed, filepath.Dir(p.Manifest))
	p = localPlanner(t)
	p.Manifest = "/no/such/m.json"
	p.beside()
	expect(t, p, "manifest", copier.Failed, "-manifest")
}

// The lock that a finished copy left on purpose is no failure; whoever freed it
// would let old Vaults start.
func TestLeftLocked(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		run    string // of the lock
		gone   bool   // the manifest is
		status copier.Outcome
		want   string
	}{
		"its own":     {run: "run-1", status: copier.Warned, want: "leave it"},
		"another's":   {run: "run-2", status: copier.Failed, want: "-keep-source-locked"},
		"no manifest": {run: "run-1", gone: true, status: copier.Failed, want: "-keep-source-locked"},
		"vault's":     {status: copier.Failed, want: "-reset"},
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
		p.table = &dynamodb.Inspection{Locks: &dynamodb.Locks{Migration: &dynamodb.LockHolder{Name: "somebody", Run: c.run}}}
		p.table.Fail("migration-lock", "", "it is locked")
		p.ownLock()
		p.found(p.table.Findings)
		expect(t, p, "migration-lock", c.status, c.want)
		if state, err := sink.Look(path); err != nil || state != sink.StateComplete {
			t.Fatalf("%s: %s, %v", name, state, err)
		}
		p.destination()
		want := "finished copy of run run-1"
		if c.gone {
			want = "put it aside"
		}
		expect(t, p, "destination", copier.Failed, want)
	}
}

// The probe says what the disk takes, and leaves nothing behind.
func TestLatency(t *testing.T) {
	t.Parallel()
	p := localPlanner(t)
	p.latency(t.Context())
	expect(t, p, "disk-latency", copier.Noted, "99th percentile is ")
	if list, err := os.ReadDir(p.Config.Destination.Path); err != nil || len(list) != 0 {
		t.Errorf("%v, %v", list, err)
	}
	for name, change := range map[string]func(*planner){
		"no probes":   func(p *planner) { p.NoWriteProbes = true },
		"at the copy": func(p *planner) { p.when = copier.AtCopy },
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
