package node

import (
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/dyn2raft/dyn2raft/cmd/dyn2raft/check"
	"github.com/dyn2raft/dyn2raft/copier"
	"github.com/dyn2raft/dyn2raft/sinks/raft"
)

// localProbe is a probe of a copy into an empty directory.
func localProbe(t *testing.T) *probe {
	path := filepath.Join(t.TempDir(), "data")
	if err := os.Mkdir(path, 0o700); err != nil {
		t.Fatal(err)
	}
	return Node{Options: raft.Options{Path: path, NodeID: "vault-1", Address: "127.0.0.1:8201"}}.probe(copier.Ahead)
}

// find returns what a check has found, with the command's words for it, and fails
// where there is not just one.
func find(t *testing.T, p *probe, name string) check.Result {
	t.Helper()
	var found []check.Result
	for _, r := range check.Plan.Results(p.Findings) {
		if (r.Hint == "") != (r.Status == copier.Passed || r.Status == copier.Noted && r.Code == "") && r.Err == nil {
			t.Errorf("a %s with hint %q: %+v", r.Status, r.Hint, r)
		}
		if r.Check == name {
			found = append(found, r)
		}
	}
	if len(found) != 1 {
		t.Fatalf("%d results of check %q in %+v", len(found), name, p.Findings)
	}
	return found[0]
}

func expect(t *testing.T, p *probe, name string, status copier.Outcome, want string) {
	t.Helper()
	if got := find(t, p, name); got.Status != status || !strings.Contains(got.Message+" "+got.Hint, want) {
		t.Errorf("%+v, expected a %s with %q", got, status, want)
	}
}

func TestDestinationAtWork(t *testing.T) {
	t.Parallel()
	p := localProbe(t)
	f, err := os.Open(p.Path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX); err != nil {
		t.Fatal(err)
	}
	p.contents()
	expect(t, p, "destination", copier.Failed, "at work")
}

func TestOwnerCannotWrite(t *testing.T) {
	t.Parallel()
	p := localProbe(t)
	p.mayWrite = func(string) error { return unix.EACCES }
	p.owner()
	expect(t, p, "owner", copier.Failed, "run as the user that Vault runs as: sudo -u")
}

func TestLittleMemory(t *testing.T) {
	t.Parallel()
	total, _, err := Memory()
	if err != nil {
		t.Fatal(err)
	}
	p := localProbe(t)
	p.Memory, p.Data = 2*total, 1000
	p.space()
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
		p := localProbe(t)
		p.WorkDir, p.Data, p.Proven = t.TempDir(), data, data
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
		p.space()
		work, free := find(t, p, "work-files"), find(t, p, "disk")
		if name != "not to be written" && free.Status != c.free || work.Status != c.work {
			t.Errorf("%s: %+v, %+v", name, work, free)
		}
	}
	// vault.db is changed, and may become twice as large.
	for free, code := range map[uint64]string{4000: "live", 4500: ""} {
		p := localProbe(t)
		p.Data, p.FileBytes, p.Proven, p.Live = data, 1500<<20, data, true
		p.statfs = func(_ string, st *unix.Statfs_t) error {
			st.Bsize, st.Bavail = 1<<20, free
			return nil
		}
		p.space()
		if got := find(t, p, "disk"); got.Code != code || (got.Status == copier.Warned) != (code != "") {
			t.Errorf("%d MiB are free: %+v", free, got)
		}
	}
	p := localProbe(t)
	p.WorkDir = "/no/such"
	p.space()
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
			p := localProbe(t)
			if p.Address = net.JoinHostPort(host, "8201"); atCopy {
				p.when = copier.AtCopy
			}
			p.address(t.Context())
			expect(t, p, "cluster-addr", c.status, c.want)
		}
	}
}

// The probe says what the disk takes, and leaves nothing behind.
func TestLatency(t *testing.T) {
	t.Parallel()
	p := localProbe(t)
	p.latency(t.Context())
	expect(t, p, "disk-latency", copier.Noted, "99th percentile is ")
	if list, err := os.ReadDir(p.Path); err != nil || len(list) != 0 {
		t.Errorf("%v, %v", list, err)
	}
	for name, change := range map[string]func(*probe){
		"no probes":   func(p *probe) { p.NoProbes = true },
		"at the copy": func(p *probe) { p.when = copier.AtCopy },
		"closed":      func(p *probe) { p.mayWrite = func(string) error { return unix.EACCES } },
	} {
		p := localProbe(t)
		change(p)
		p.latency(t.Context())
		if len(p.Findings) != 0 {
			t.Errorf("%s: %+v", name, p.Findings)
		}
	}
}

func TestFileLimit(t *testing.T) {
	t.Parallel()
	for most, want := range map[uint64]copier.Outcome{64: copier.Failed, 500: copier.Warned, 65536: copier.Passed, 1<<64 - 1: copier.Passed} {
		p := localProbe(t)
		p.fileLimit(most)
		if got := p.Findings[0]; got.Status != want {
			t.Errorf("%d: %+v", most, got)
		}
	}
}

// The data are compared with what the file system has free, and with memory.
func TestSpace(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		t.Fatal(err)
	}
	free := int64(st.Bavail) * int64(st.Bsize) //nolint:unconvert // other systems have other types
	total, _, err := Memory()
	if err != nil || total < 1<<20 {
		t.Fatalf("memory %d, %v", total, err)
	}
	for bytes, want := range map[int64]copier.Outcome{0: copier.Warned, 1 << 10: copier.Passed, free * 7 / 20: copier.Warned, free: copier.Failed} {
		p := localProbe(t)
		p.Path, p.Data, p.Proven = dir, bytes, bytes
		p.space()
		if got := find(t, p, "disk"); got.Status != want {
			t.Errorf("%d of %d bytes: %+v, expected a %s", bytes, free, got, want)
		}
	}
	for bytes, want := range map[int64]copier.Outcome{1 << 10: copier.Passed, total: copier.Warned} {
		p := localProbe(t)
		p.Path, p.Memory, p.Data = dir, 1<<10, bytes
		p.space()
		if got := find(t, p, "memory"); got.Status != want {
			t.Errorf("%d bytes: %+v, expected a %s", bytes, got, want)
		}
	}
}
