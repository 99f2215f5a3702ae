// Package node checks a machine before a copy: the data directory, what the machine
// has, and the configuration of the Vault that will start on the result.
package node

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/dustin/go-humanize"
	"golang.org/x/sys/unix"

	"github.com/dyn2raft/dyn2raft/copier"
	"github.com/dyn2raft/dyn2raft/copier/durable"
	"github.com/dyn2raft/dyn2raft/copier/vaultconfig"
	"github.com/dyn2raft/dyn2raft/sinks/raft"
)

// A Node is a machine with the data directory of a copy, and the Vault that will
// start on it, as far as they are known.
type Node struct {
	raft.Options
	// ClusterAddr is the URL that Address is from.
	ClusterAddr string
	// Owner is the user[:group] that the result will belong to, where it is not
	// whoever makes it.
	Owner string
	// WorkDir is the directory for work files; empty is one in Path. Memory and
	// Workers are those of a copy: see [copier.ScanOptions].
	WorkDir string
	Memory  int64
	Workers int
	// NoProbes leaves out what writes to a disk.
	NoProbes bool

	// Data is the size of the keys and values, and FileBytes that of vault.db; 0 is
	// not known. Proven is how much of Data is certain.
	Data, FileBytes, Proven int64
	// Live is set where the copy changes vault.db as its source does, once it is loaded.
	Live bool
	// Seal is the type of the source's seal, and Version that of the newest Vault on
	// it; they are empty where nothing tells.
	Seal, Version string

	// ServerConfig is the server's configuration, a file or a directory of them, and
	// ServerEnv a file with its environment. Program is the Vault that will start,
	// Unit its systemd unit, and AuditPaths are the files of its audit devices.
	// What is empty is not looked at.
	ServerConfig, ServerEnv, Program, Unit string
	AuditPaths                             []string

	// These look at the machine, and are other ones in tests; nil is the real thing.
	statfs    func(path string, st *unix.Statfs_t) error
	mayWrite  func(dir string) error
	systemctl func(ctx context.Context, args ...string) (string, error)
}

var _ copier.Checker = Node{}

// Check makes the checks of the data directory, of the machine, and of the server's
// configuration. It changes nothing; it writes to a file without a name to learn how
// fast the disk is. The error is always nil.
func (n Node) Check(ctx context.Context, when copier.Moment) (copier.Findings, error) {
	p := n.probe(when)
	if when != copier.AtCopy { // which has it in its hands
		p.contents()
	}
	if fi, err := os.Stat(p.Path); err == nil && fi.IsDir() {
		p.owner()
		p.space()
	}
	p.latency(ctx)
	p.nodeID()
	p.address(ctx)
	p.files()
	p.program(ctx)
	p.server()
	p.unit(ctx)
	p.audit()
	return p.Findings, nil
}

func (n Node) probe(when copier.Moment) *probe {
	if n.statfs == nil {
		n.statfs = unix.Statfs
	}
	if n.mayWrite == nil {
		n.mayWrite = func(dir string) error { return unix.Access(dir, unix.W_OK|unix.X_OK) }
	}
	if n.systemctl == nil {
		n.systemctl = systemctl
	}
	n.Workers = copier.ScanOptions{Workers: n.Workers, Memory: n.Memory}.MaxWorkers()
	n.Memory = cmp.Or(n.Memory, copier.DefaultMemory)
	return &probe{Node: n, when: when}
}

// A probe is one run of [Node.Check].
type probe struct {
	Node
	copier.Findings
	when  copier.Moment
	mlock bool // the server's configuration has Vault lock its memory
}

// What is needed, in multiples of the data: for the work files of a copy, for
// its vault.db where no sample tells, and for that of each node that joins
// later, which loads a snapshot at half fill.
const (
	workFactor     = 1.1
	fileFactor     = 1.4
	followerFactor = 3
)

// contents looks at what the data directory holds.
func (p *probe) contents() {
	state, err := raft.Look(p.Path)
	if err != nil {
		p.Fail("destination", "", "%w", err)
		return
	}
	switch state {
	case raft.StateRunning:
		p.Fail("destination", "running", "a dyn2raft is at work on %s", p.Path)
	case raft.StateComplete:
		p.Fail("destination", "complete", "%s holds a vault.db already", p.Path)
	case raft.StateUnfinished:
		p.unfinished()
	case raft.StateUnconfirmed:
		p.Fail("destination", "unconfirmed", "%s holds a copy that its source has not confirmed: entries may be missing in it", p.Path)
	case raft.StateConfirmed:
		p.Fail("destination", "confirmed", "%s holds a copy whose source was not given back: what was written to that since is not in it", p.Path)
	default:
		p.empty()
	}
}

// unfinished looks at an unfinished copy.
func (p *probe) unfinished() {
	_, setup, err := copier.ReadStatus(raft.WorkDir(p.Path))
	if err != nil {
		p.Fail("destination", "", "%w", err)
		return
	}
	if setup == nil { // it was killed before it had begun
		p.empty()
		return
	}
	o := p.Options
	o.AnyNodeID = true
	if dst, err := raft.New(o); err == nil {
		if differs := setup.Differs(&copier.Record{Source: setup.Source, Destination: dst.Identity()}); differs != "" {
			p.Fail("destination", "differs", "%s holds an unfinished copy with another configuration: %s", p.Path, differs)
			return
		}
	}
	p.Warn("destination", "unfinished", "%s holds an unfinished copy", p.Path)
}

// empty looks at what stops a copy into a directory without a vault.db.
func (p *probe) empty() {
	if err := raft.CheckFree(p.Options); err != nil {
		p.Fail("destination", "", "%w", err)
		return
	}
	p.Pass("destination", "%s is there, and holds no Vault's data", p.Path)
}

func (p *probe) owner() {
	path := p.Path
	st, err := owner(path)
	if err != nil {
		p.Fail("owner", "unknown", "%w", err)
		return
	}
	have, here := UserName(int(st.Uid)), UserName(os.Geteuid())
	will := here // whose the files will be
	switch {
	case p.Owner != "":
		will, _, _ = strings.Cut(p.Owner, ":")
	case os.Geteuid() == 0:
		will = have // as whom the copy works then
	}
	mode := fs.FileMode(st.Mode).Perm()
	volume := st.Mode&unix.S_ISGID != 0 && mode&0o020 != 0 // of Kubernetes, with fsGroup: a group's
	switch {
	case p.mayWrite(path) != nil:
		p.Fail("owner", "", "%s belongs to %s, mode %04o, and %s can't write there", path, have, mode, here).With("owner", have)
	case p.Owner != "" && os.Geteuid() != 0 && will != here:
		p.Fail("owner", "not-root", "%s can't work as %s", here, p.Owner)
	case os.Geteuid() == 0 && p.Owner == "" && st.Uid == 0 && mode&0o022 != 0: // where copy refuses to be root
		p.Fail("owner", "open", "%s belongs to root, mode %04o: others can change it, so root does not write there", path, mode)
	case volume:
		p.Pass("owner", "%s, and a group that may write (fsGroup)", have)
	case have != will && strconv.Itoa(int(st.Uid)) != will:
		p.Warn("owner", "other", "%s belongs to %s, but what is put there will belong to %s", path, have, will).With("owner", have)
	case mode&0o027 != 0:
		p.Warn("owner", "mode", "%s, mode %04o: others may look into or write to it", have, mode)
	default:
		p.Pass("owner", "%s, mode %04o", have, mode)
	}
}

// A volume is a file system that a copy writes to.
type volume struct {
	id   unix.Fsid
	free int64
}

// volume looks at the file system that a directory lies on, and says what is
// wrong with it.
func (p *probe) volume(check, dir string) (v volume, ok bool) {
	var st unix.Statfs_t
	if err := p.statfs(dir, &st); err != nil {
		p.Warn(check, "unknown", "could not be looked at: %w", err)
		return v, false
	}
	switch kind, unfit := fileSystem(&st); {
	case unfit != "" && check == "file-system":
		p.Warn(check, "", "%s: %s", kind, unfit)
	case check == "file-system":
		p.Pass(check, "%s", kind)
	}
	return volume{id: st.Fsid, free: int64(st.Bavail) * int64(st.Bsize)}, true //nolint:unconvert // other systems have other types
}

// space compares what is free with what is needed, on each file system.
func (p *probe) space() {
	at, ok := p.volume("file-system", p.Path)
	if !ok {
		return
	}
	data, file := p.Data, p.FileBytes
	if file == 0 {
		file = int64(float64(data) * fileFactor)
	}
	work, need, later := int64(float64(data)*workFactor), file, data*followerFactor
	code := "work-elsewhere"
	if p.WorkDir == "" || !p.work(at, work) {
		need += work
		code = ""
	}
	switch {
	case data == 0:
		p.Warn("disk", "unknown", "%s are free; how much is needed is not known", size(at.free))
	case at.free < need:
		p.tooSmall("disk", code, need, at.free, fmt.Sprintf("%s are free; the copy of %s needs %s while it runs", size(at.free), size(data), size(need)))
	case p.Live && at.free < need+file:
		p.Warn("disk", "live", "%s are free: enough for the copy of %s at first, and less than the %s that it may need while it follows: changes may make vault.db twice as large",
			size(at.free), size(data), size(need+file))
	case at.free < later:
		p.Warn("disk", "later", "%s are free: enough for the copy of %s, and less than the %s that a node needs later", size(at.free), size(data), size(later))
	default:
		p.Pass("disk", "%s are free; the copy of %s needs %s while it runs", size(at.free), size(data), size(need))
	}
	if data == 0 {
		return
	}
	p.Pass("other-nodes", "give each node that joins %s of disk and as much memory, 3 times the data: Vault maps its file", size(later))
	total, available, err := Memory()
	switch {
	case err != nil:
		p.Warn("memory", "unknown", "could not be looked at: %w", err).With("file_bytes", size(file))
	case total < file:
		p.Warn("memory", "", "%s, less than vault.db with about %s, which Vault maps", size(total), size(file))
	case available < p.Memory:
		p.Warn("memory", "budget", "%s are available, less than the %s that the copy may use", size(available), size(p.Memory))
	default:
		p.Pass("memory", "%s, %s available; vault.db, which Vault maps, will have about %s", size(total), size(available), size(file))
	}
}

// tooSmall says that a file system has too little room by the size that the
// source is thought to have. That is a failure only where what was read proves it:
// the source's own figure may be old.
func (p *probe) tooSmall(check, code string, need, free int64, message string) {
	if p.Data > 0 && float64(free) < float64(need)*float64(min(p.Proven, p.Data))/float64(p.Data) {
		p.Fail(check, code, "%s", message)
		return
	}
	p.Warn(check, code, "%s, if the source's own count of its size is right, which may be 6 hours old", message)
}

// The probe of the disk: as many writes as tell a 99th percentile, each of a page,
// and how long they may take together.
const (
	probeWrites = 200
	probeBytes  = 4 << 10
	probeTime   = 2 * time.Second
)

// latency says how long the destination's disk takes for what Raft waits for with
// each write of Vault's: that some bytes are on it for good. It never fails.
func (p *probe) latency(ctx context.Context) {
	path := p.Path
	if p.NoProbes || p.when == copier.AtCopy || p.mayWrite(path) != nil {
		return
	}
	took, err := syncedWrites(ctx, path)
	if err != nil {
		p.Note("disk-latency", "", "could not be measured: %v", err)
		return
	}
	at := func(percent int) time.Duration { return took[(len(took)-1)*percent/100].Round(10 * time.Microsecond) }
	p.Note("disk-latency", "", "%d writes of 4 KiB, each synced (fdatasync): the 99th percentile is %s, the median %s. Each write of Vault's waits for that on a majority of the nodes",
		len(took), at(99), at(50))
}

// syncedWrites returns how long each write of the probe took, in ascending order;
// there is at least one. The file has lost its name before the first.
func syncedWrites(ctx context.Context, dir string) ([]time.Duration, error) {
	f, err := os.CreateTemp(dir, ".dyn2raft-probe-*")
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if err := os.Remove(f.Name()); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, probeTime)
	defer cancel()
	var took []time.Duration
	for page := make([]byte, probeBytes); len(took) < probeWrites && (len(took) == 0 || ctx.Err() == nil); {
		began := time.Now()
		if _, err := f.Write(page); err != nil {
			return nil, err
		}
		if err := syncData(f); err != nil {
			return nil, err
		}
		took = append(took, time.Since(began))
	}
	slices.Sort(took)
	return took, nil
}

// work looks at the directory for work files. It reports whether that is on another
// file system than the destination, with room of its own.
func (p *probe) work(destination volume, need int64) (elsewhere bool) {
	if fi, err := os.Stat(p.WorkDir); err != nil || !fi.IsDir() {
		p.Fail("work-files", "missing", "%s is not a directory that is there", p.WorkDir)
		return false
	}
	if err := p.mayWrite(p.WorkDir); err != nil {
		p.Fail("work-files", "closed", "%s can't write to %s (%v)", UserName(os.Geteuid()), p.WorkDir, err)
		return false
	}
	at, ok := p.volume("work-files", p.WorkDir)
	switch {
	case !ok:
	case at.id == destination.id:
		p.Pass("work-files", "in %s, on the destination's own file system", p.WorkDir)
		return false
	case at.free < need:
		p.tooSmall("work-files", "", need, at.free, fmt.Sprintf("%s are free for %s, and the copy needs %s there", size(at.free), p.WorkDir, size(need)))
	default:
		p.Pass("work-files", "%s are free for %s; the copy needs %s there", size(at.free), p.WorkDir, size(need))
	}
	return ok
}

// address looks at the address under which the other nodes are to reach this
// one.
func (p *probe) address(ctx context.Context) {
	host, _, err := net.SplitHostPort(p.Address)
	if err != nil {
		p.Fail("cluster-addr", "form", "%w", err)
		return
	}
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	ips, err := net.DefaultResolver.LookupNetIP(ctx, "ip", host)
	_, notIP := netip.ParseAddr(host)
	switch {
	case notIP != nil && strings.Trim(host, "0123456789.") == "":
		p.Fail("cluster-addr", "digits", "%s is no IP address, and some systems read one from it", host)
		return
	case err != nil && isLocalhost(host):
		ips = []netip.Addr{netip.IPv6Loopback()} // by RFC 6761, whatever the resolver says
	case err != nil:
		p.Warn("cluster-addr", "unresolved", "%s can't be resolved here yet: %v", host, err)
		return
	}
	said := p.Address
	var all []string
	for _, ip := range ips {
		all = append(all, ip.Unmap().String())
	}
	if notIP != nil {
		said += " is " + strings.Join(all, ", ")
	}
	has := func(f func(netip.Addr) bool) bool {
		return slices.ContainsFunc(ips, func(ip netip.Addr) bool { return f(ip.Unmap()) })
	}
	switch {
	case has(netip.Addr.IsUnspecified), has(netip.Addr.IsMulticast), has(func(ip netip.Addr) bool { return ip == netip.AddrFrom4([4]byte{255, 255, 255, 255}) }):
		p.Fail("cluster-addr", "", "%s: no node can be reached there", said)
	case has(netip.Addr.IsLoopback):
		p.Warn("cluster-addr", "loopback", "%s, a loopback address: no other machine reaches this node there", said)
	case has(netip.Addr.IsLinkLocalUnicast):
		p.Warn("cluster-addr", "", "%s, a link-local address: it is good in one network segment only, and changes", said)
	default:
		p.Pass("cluster-addr", "%s", said)
	}
}

// isLocalhost reports whether a name is one that always means this machine.
func isLocalhost(name string) bool {
	name = strings.ToLower(strings.TrimSuffix(name, "."))
	return name == "localhost" || strings.HasSuffix(name, ".localhost")
}

// nodeIDFile returns the file that has the node's id where no configuration has
// it, and the id, which is empty where there is no such file.
func (p *probe) nodeIDFile() (file, id string, err error) {
	file = filepath.Join(p.Path, "node-id")
	text, err := durable.ReadFile(file, raft.MaxNodeID)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		err = nil
	case err == nil && len(text) == 0: // neither Vault nor a copy makes such a file
		err = errors.New("the file is empty")
	}
	return file, string(text), err
}

// nodeID says which node the copy will be for, and looks at whether Vault can
// start with its id.
func (p *probe) nodeID() {
	id, from, same := p.NodeID, "node_id", "the same node_id in the server's storage stanza"
	if id == "" {
		file, text, err := p.nodeIDFile()
		if err != nil {
			return // which the destination's check says
		}
		if id = text; id == "" {
			p.Note("node-id", "", "generated: the copy makes an id and writes it into %s, where Vault finds it; no node_id in the server's storage stanza either. The address is %s: the same in its cluster_addr", file, p.Address)
			return
		}
		from, same = file, "no node_id in the server's storage stanza"
	}
	if err := raft.CheckNodeID(id); err != nil {
		p.Fail("node-id", "", "%s: %v", from, err)
		return
	}
	if what := vaultconfig.Invisible(id); what != "" {
		p.Warn("node-id", "invisible", "%q, from %s, has %s, which can't be seen", id, from, what)
		return
	}
	p.Note("node-id", "", "%q, from %s: %s. The address is %s: the same in its cluster_addr", id, from, same, p.Address)
}

// enoughFiles is how many files a process should be allowed to have open: a
// connection for each worker, the sorted runs that are merged, and some.
const enoughFiles = 1024

func (p *probe) files() {
	var lim unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &lim); err != nil {
		p.Warn("open-files", "unknown", "the limit could not be looked at: %w", err)
		return
	}
	p.fileLimit(lim.Cur)
}

func (p *probe) fileLimit(most uint64) {
	least := uint64(p.Workers + 64)
	switch {
	case most < least:
		p.Fail("open-files", "", "at most %d, and the copy needs %d", most, least)
	case most < enoughFiles:
		p.Warn("open-files", "", "at most %d", most)
	default:
		p.Pass("open-files", "at most %s", humanize.Comma(int64(min(most, 1<<62))))
	}
}

// UserName is a user's name, or else the number.
func UserName(uid int) string {
	id := strconv.Itoa(uid)
	if u, err := user.LookupId(id); err == nil {
		return u.Username
	}
	return id
}

func size(n int64) string { return humanize.IBytes(uint64(max(n, 0))) }
