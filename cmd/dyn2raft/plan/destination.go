package plan

import (
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
	"syscall"
	"time"

	"al.essio.dev/pkg/shellescape"
	"github.com/dustin/go-humanize"
	"golang.org/x/sys/unix"

	"github.com/dyn2raft/dyn2raft/copier"
	"github.com/dyn2raft/dyn2raft/copier/durable"
	sink "github.com/dyn2raft/dyn2raft/sinks/raft"
	"github.com/dyn2raft/dyn2raft/sources/dynamodb"
	"github.com/dyn2raft/dyn2raft/vaultconfig"
	"github.com/dyn2raft/dyn2raft/verify"
)

// What is needed, in multiples of the data: for the work files of a copy, for
// its vault.db where no sample tells, and for that of each node that joins
// later, which loads a snapshot at half fill.
const (
	workFactor     = 1.1
	fileFactor     = 1.4
	followerFactor = 3
)

func (p *planner) destination() {
	path := p.Config.Destination.Path
	if p.when != copier.AtCopy { // which has it in its hands
		p.contents(path)
	}
	if fi, err := os.Stat(path); err == nil && fi.IsDir() {
		p.owner(path)
		p.space(path)
	}
	p.beside()
}

// contents looks at what the data directory holds.
func (p *planner) contents(path string) {
	state, err := sink.Look(path)
	if err != nil {
		p.fail("destination", err.Error(), copier.Hint(err))
		return
	}
	switch state {
	case sink.StateRunning:
		p.fail("destination", "a dyn2raft is at work on "+path, "let it end; dyn2raft status tells how far it is")
	case sink.StateComplete:
		if m := p.finished(); m != nil {
			p.fail("destination", fmt.Sprintf("%s holds the finished copy of run %s", path, m.RunID), "nothing is left to copy: go on with dyn2raft verify; to copy again, name another path")
			break
		}
		p.fail("destination", path+" holds a vault.db already", "nothing overwrites it: put it aside if it is not needed, or name another path")
	case sink.StateUnfinished:
		p.unfinished(path)
	case sink.StateUnconfirmed:
		p.fail("destination", path+" holds a copy that the table has not confirmed: entries may be missing in it",
			"start no Vault on it, and have the table asked again: "+p.Command+" --resume")
	case sink.StateConfirmed:
		p.fail("destination", path+" holds a copy whose table was not given back: what was written to that since is not in it",
			"start no Vault, and have the table asked again: "+p.Command+" --resume")
	default:
		p.empty(path)
	}
}

// unfinished looks at an unfinished copy.
func (p *planner) unfinished(path string) {
	_, setup, err := copier.ReadStatus(sink.WorkDir(path))
	var m *dynamodb.LockHolder
	if p.table.Locks != nil {
		m = p.table.Locks.Migration
	}
	to := p.Config.Destination
	dst, derr := sink.New(sink.Options{Path: path, NodeID: to.NodeID, AnyNodeID: true, Address: to.Address, WAL: to.WAL})
	differs := ""
	if setup != nil && derr == nil {
		differs = setup.Differs(copier.Setup{Source: setup.Source, Destination: dst.Identity()})
	}
	switch {
	case err != nil:
		p.fail("destination", err.Error(), copier.Hint(err))
	case setup == nil: // it was killed before it had begun
		p.empty(path)
	case setup.Source.Name != p.Config.Source.Table:
		p.fail("destination", fmt.Sprintf("%s holds an unfinished copy of table %s, and this configuration names %s", path, setup.Source.Name, p.Config.Source.Table),
			"go on with the configuration that it was begun with, or name another path")
	case !setup.GivenUp.IsZero(), p.table.Locks != nil && setup.Held && (m == nil || m.Run != setup.RunID):
		p.report.Next += " --restart"
		p.warn("destination", path+" holds an unfinished copy that can't be resumed: its lock in the table is gone, and a Vault may have written to that since",
			"throw it away, and begin another: "+p.report.Next)
	case differs != "":
		p.fail("destination", path+" holds an unfinished copy with another configuration: "+differs,
			"go on with the configuration that it was begun with, or throw it away: "+p.Command+" --restart")
	default:
		p.report.Next += " --resume"
		p.warn("destination", path+" holds an unfinished copy", "go on with it: "+p.report.Next+"; or throw it away: the same with --restart in place of --resume")
	}
}

// finished is the manifest of the copy in the destination, and nil where there is
// no vault.db, or no record of it.
func (p *planner) finished() *verify.Manifest {
	path := p.Config.Destination.Path
	if state, err := sink.Look(path); err != nil || state != sink.StateComplete {
		return nil
	}
	m, err := verify.ReadManifest(p.manifest())
	if err != nil || absolute(m.Destination.Path) != absolute(path) || m.Source.Name != p.Config.Source.Table {
		return nil
	}
	return m
}

// manifest is the file that a copy's record goes to.
func (p *planner) manifest() string {
	if p.Manifest != "" {
		return p.Manifest
	}
	return verify.ManifestPath(p.Config.Destination.Path)
}

// empty looks at what stops a copy into a directory without a vault.db.
func (p *planner) empty(path string) {
	if _, err := os.Lstat(filepath.Join(path, "raft")); err == nil {
		p.fail("destination", path+" holds a directory raft already, so a Vault was started there", "put its contents aside, or name another path")
		return
	}
	file, id, err := p.nodeIDFile()
	switch want := p.Config.Destination.NodeID; {
	case errors.Is(err, errEmpty):
		p.fail("destination", file+" is empty", "remove it, and a new id is made: rm "+shellescape.Quote(file))
		return
	case id != "" && want != "" && id != want:
		p.fail("destination", fmt.Sprintf("%s holds node id %q, but the configuration says %q", file, id, want),
			"give the node the id that its server will run with; if the file is left over, remove it")
		return
	case err != nil:
		p.fail("destination", err.Error(), "run as the user that Vault runs as")
		return
	}
	p.pass("destination", "%s is there, and holds no Vault's data", path)
}

func (p *planner) owner(path string) {
	fi, err := os.Stat(path)
	if err != nil {
		p.fail("owner", err.Error(), "run as the user that Vault runs as")
		return
	}
	st, ok := fi.Sys().(*syscall.Stat_t)
	if !ok {
		return
	}
	have, here := userName(int(st.Uid)), userName(os.Geteuid())
	will := here // whose the files will be
	switch {
	case p.Owner != "":
		will, _, _ = strings.Cut(p.Owner, ":")
	case os.Geteuid() == 0:
		will = have // as whom the copy works then
	}
	volume := fi.Mode()&fs.ModeSetgid != 0 && fi.Mode().Perm()&0o020 != 0 // of Kubernetes, with fsGroup: a group's
	mode := fi.Mode().Perm()
	switch {
	case p.writable(path) != nil:
		p.fail("owner", fmt.Sprintf("%s belongs to %s, mode %04o, and %s can't write there", path, have, mode, here),
			fmt.Sprintf("run as the user that Vault runs as: sudo -u %s dyn2raft …", have))
	case p.Owner != "" && os.Geteuid() != 0 && will != here:
		p.fail("owner", fmt.Sprintf("%s can't work as %s", here, p.Owner), "only root may become another user: run with sudo, or as that user and without -owner")
	case os.Geteuid() == 0 && p.Owner == "" && st.Uid == 0 && mode&0o022 != 0: // where copy refuses to be root
		p.fail("owner", fmt.Sprintf("%s belongs to root, mode %04o: others can change it, so root does not write there", path, mode),
			"run as the user that Vault runs as, or name it, if it may write there: -owner USER:GROUP")
	case volume:
		p.pass("owner", "%s, and a group that may write (fsGroup)", have)
	case have != will && strconv.Itoa(int(st.Uid)) != will:
		p.warn("owner", fmt.Sprintf("%s belongs to %s, but what is put there will belong to %s", path, have, will),
			fmt.Sprintf("run as the user that Vault runs as (sudo -u %s), or add -owner %[1]s", have))
	case mode&0o027 != 0:
		p.warn("owner", fmt.Sprintf("%s, mode %04o: others may look into or write to it", have, mode), "chmod 0700 "+path)
	default:
		p.pass("owner", "%s, mode %04o", have, mode)
	}
}

// beside looks at the directory that the manifest goes to. Where none is named
// that is the one which the data directory lies in, and a comparison has its
// work files there too.
func (p *planner) beside() {
	file, err := filepath.Abs(p.manifest())
	if err != nil {
		p.warn("manifest", err.Error(), "name the data directory with its whole path")
		return
	}
	dir := filepath.Dir(file)
	if p.ManifestTried {
		p.pass("manifest", "%s can be written to", dir)
		return
	}
	switch err := p.writable(dir); {
	case err == nil:
		p.pass("manifest", "%s can be written to", dir)
	case p.Manifest != "":
		p.fail("manifest", fmt.Sprintf("%s can't write to %s (%v), where copy writes its manifest", userName(os.Geteuid()), dir, err),
			"make the directory, and let this user write to it, or name another place with -manifest")
	default:
		p.fail("manifest", fmt.Sprintf("%s can't write to %s (%v), where copy writes its manifest and verify its work files", userName(os.Geteuid()), dir, err),
			"let this user write to it, or give copy another place with -manifest, and verify with -work-dir")
	}
}

// A volume is a file system that a copy writes to.
type volume struct {
	id   unix.Fsid
	free int64
}

// volume looks at the file system that a directory lies on, and says what is
// wrong with it.
func (p *planner) volume(check, dir, need string) (v volume, ok bool) {
	var st unix.Statfs_t
	if err := p.lookAtSystem(dir, &st); err != nil {
		p.warn(check, "could not be looked at: "+err.Error(), "make sure that it is a local disk with room for "+need+" the data")
		return v, false
	}
	switch kind, unfit := fileSystem(&st); {
	case unfit != "" && check == "file-system":
		p.warn(check, kind+": "+unfit, "put the data directory on a local disk with ext4 or xfs")
	case check == "file-system":
		p.pass(check, "%s", kind)
	}
	return volume{id: st.Fsid, free: int64(st.Bavail) * int64(st.Bsize)}, true //nolint:unconvert // other systems have other types
}

// space compares what is free with what is needed, on each file system.
func (p *planner) space(path string) {
	at, ok := p.volume("file-system", path, "3 times")
	if !ok {
		return
	}
	data := p.data()
	file := int64(float64(data) * fileFactor)
	if e := p.report.Estimate; e != nil {
		file = max(file, e.FileBytes)
		if e.Sample != nil && e.FileBytes > 0 {
			file = e.FileBytes
		}
	}
	work, need, later := int64(float64(data)*workFactor), file, data*followerFactor
	elsewhere := p.WorkDir != "" && p.work(at, work)
	hint := "make the file system larger"
	if !elsewhere {
		need += work
		hint += ", or put the work files elsewhere with -work-dir and have room for vault.db here"
	}
	switch {
	case data == 0:
		p.warn("disk", size(at.free)+" are free; how much is needed is not known", "plan 3 times the table's size")
	case at.free < need:
		p.tooSmall("disk", fmt.Sprintf("%s are free; the copy of %s needs %s while it runs", size(at.free), size(data), size(need)), at.free < int64(float64(need)*p.proven()), hint)
	case at.free < later:
		p.warn("disk", fmt.Sprintf("%s are free: enough for the copy of %s, and less than the %s that a node needs later", size(at.free), size(data), size(later)),
			"make the file system larger before Vault goes into use")
	default:
		p.pass("disk", "%s are free; the copy of %s needs %s while it runs", size(at.free), size(data), size(need))
	}
	if data == 0 {
		return
	}
	p.pass("other-nodes", "give each node that joins %s of disk and as much memory, 3 times the data: Vault maps its file", size(later))
	total, available, err := memory()
	switch {
	case err != nil:
		p.warn("memory", "could not be looked at: "+err.Error(), "Vault maps vault.db: have more memory than its "+size(file))
	case total < file:
		p.warn("memory", fmt.Sprintf("%s, less than vault.db with about %s, which Vault maps", size(total), size(file)),
			"reads will wait for the disk: take a larger machine, 3 times the data for those that join")
	case available < p.memoryBudget():
		p.warn("memory", fmt.Sprintf("%s are available, less than the %s that the copy may use (-memory)", size(available), size(p.memoryBudget())),
			"end other programs, or lower -memory")
	default:
		p.pass("memory", "%s, %s available; vault.db, which Vault maps, will have about %s", size(total), size(available), size(file))
	}
}

// tooSmall says that a file system has too little room by the size that the
// table is thought to have. That is a failure only where a sample proves it: the
// table's own figure is up to six hours old.
func (p *planner) tooSmall(check, message string, proven bool, hint string) {
	if proven {
		p.fail(check, message, hint)
		return
	}
	p.warn(check, message+", if the table's own count of its size is right, which may be 6 hours old", hint)
}

// proven is the share of the data that a sample has shown to be there, from 0
// to 1.
func (p *planner) proven() float64 {
	e, data := p.report.Estimate, p.data()
	if e == nil || data == 0 {
		return 0
	}
	return float64(min(e.atLeast, data)) / float64(data)
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
func (p *planner) latency(ctx context.Context) {
	const check = "disk-latency"
	path := p.Config.Destination.Path
	if p.NoWriteProbes || p.when == copier.AtCopy || p.writable(path) != nil {
		return
	}
	took, err := syncedWrites(ctx, path)
	if err != nil {
		p.note(check, "could not be measured: %v", err)
		return
	}
	at := func(percent int) time.Duration { return took[(len(took)-1)*percent/100].Round(10 * time.Microsecond) }
	p.note(check, "%d writes of 4 KiB, each synced (fdatasync): the 99th percentile is %s, the median %s. Each write of Vault's waits for that on a majority of the nodes",
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
func (p *planner) work(destination volume, need int64) (elsewhere bool) {
	const check = "work-files"
	if fi, err := os.Stat(p.WorkDir); err != nil || !fi.IsDir() {
		p.fail(check, p.WorkDir+" is not a directory that is there", "make it, for the user that runs the copy, or name another one with -work-dir")
		return false
	}
	if err := p.writable(p.WorkDir); err != nil {
		p.fail(check, fmt.Sprintf("%s can't write to %s (%v)", userName(os.Geteuid()), p.WorkDir, err), "let this user write to it, or name another directory with -work-dir")
		return false
	}
	at, ok := p.volume(check, p.WorkDir, "once")
	switch {
	case !ok:
	case at.id == destination.id:
		p.pass(check, "in %s, on the destination's own file system", p.WorkDir)
		return false
	case at.free < need:
		p.tooSmall(check, fmt.Sprintf("%s are free for %s, and the copy needs %s there", size(at.free), p.WorkDir, size(need)), at.free < int64(float64(need)*p.proven()),
			"make that file system larger, or name another directory with -work-dir")
	default:
		p.pass(check, "%s are free for %s; the copy needs %s there", size(at.free), p.WorkDir, size(need))
	}
	return ok
}

func (p *planner) memoryBudget() int64 {
	if p.Memory > 0 {
		return p.Memory
	}
	return copier.DefaultMemory
}

// data is the size of all keys and values, as far as it is known.
func (p *planner) data() int64 {
	var n int64
	if p.table.Survey != nil {
		n = p.table.Survey.Bytes
	}
	if e := p.report.Estimate; e != nil {
		n = max(n, e.Bytes)
	}
	return n
}

// machine makes the checks of this machine and its network.
func (p *planner) machine(ctx context.Context) {
	p.nodeID()
	p.address(ctx)
	p.files()
}

// address looks at the address under which the other nodes are to reach this
// one.
func (p *planner) address(ctx context.Context) {
	const check, hint = "cluster-addr", "write the name or IP under which the other nodes reach this one"
	host, _, err := net.SplitHostPort(p.Config.Destination.Address)
	if err != nil {
		p.fail(check, err.Error(), `write cluster_addr = "https://HOST:8201"`)
		return
	}
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	ips, err := net.DefaultResolver.LookupNetIP(ctx, "ip", host)
	_, notIP := netip.ParseAddr(host)
	switch {
	case notIP != nil && strings.Trim(host, "0123456789.") == "":
		p.fail(check, host+" is no IP address, and some systems read one from it", hint+", an IPv4 address with all its four numbers")
		return
	case err != nil && isLocalhost(host):
		ips = []netip.Addr{netip.IPv6Loopback()} // by RFC 6761, whatever the resolver says
	case err != nil:
		p.warn(check, fmt.Sprintf("%s can't be resolved here yet: %v", host, err),
			"other nodes reach this one by that name, and it becomes a part of the copy: see that it resolves once Vault runs (a pod's name does only then)")
		return
	}
	said := p.Config.Destination.Address
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
		p.fail(check, said+": no node can be reached there", hint)
	case has(netip.Addr.IsLoopback):
		p.warn(check, said+", a loopback address: no other machine reaches this node there", hint+", unless this is a rehearsal on one machine")
	case has(netip.Addr.IsLinkLocalUnicast):
		p.warn(check, said+", a link-local address: it is good in one network segment only, and changes", hint)
	default:
		p.pass(check, "%s", said)
	}
}

// isLocalhost reports whether a name is one that always means this machine.
func isLocalhost(name string) bool {
	name = strings.ToLower(strings.TrimSuffix(name, "."))
	return name == "localhost" || strings.HasSuffix(name, ".localhost")
}

// nodeIDFile returns the file that has the node's id where no configuration has
// it, and the id, which is empty where there is no such file.
func (p *planner) nodeIDFile() (file, id string, err error) {
	file = filepath.Join(p.Config.Destination.Path, "node-id")
	text, err := durable.ReadFile(file, sink.MaxNodeID)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		err = nil
	case err == nil && len(text) == 0:
		err = errEmpty
	}
	return file, string(text), err
}

// errEmpty is returned for a file node-id with nothing in it, which neither Vault
// nor a copy makes.
var errEmpty = errors.New("the file is empty")

// nodeID says which node the copy will be for, and looks at whether Vault can
// start with its id.
func (p *planner) nodeID() {
	id, from, same := p.Config.Destination.NodeID, "node_id", "the same node_id in the server's storage stanza"
	if id == "" {
		file, text, err := p.nodeIDFile()
		if err != nil {
			return // which the destination's check says
		}
		if id = text; id == "" {
			p.note("node-id", "generated: the copy makes an id and writes it into %s, where Vault finds it; no node_id in the server's storage stanza either. The address is %s: the same in its cluster_addr", file, p.Config.Destination.Address)
			return
		}
		from, same = file, "no node_id in the server's storage stanza"
	}
	if err := sink.CheckNodeID(id); err != nil {
		p.fail("node-id", fmt.Sprintf("%s: %v", from, err),
			"use letters, digits, \".\", \"-\" and \"_\", without spaces and line ends, and the same in the server's storage stanza; Vaults before 1.16 take it as it is")
		return
	}
	if what := vaultconfig.Invisible(id); what != "" {
		p.warn("node-id", fmt.Sprintf("%q, from %s, has %s, which can't be seen", id, from, what), "Vault takes it for a part of the id: write the id anew, without it")
		return
	}
	p.note("node-id", "%q, from %s: %s. The address is %s: the same in its cluster_addr", id, from, same, p.Config.Destination.Address)
}

// enoughFiles is how many files a process should be allowed to have open: a
// connection for each worker, the sorted runs that are merged, and some.
const enoughFiles = 1024

func (p *planner) files() {
	var lim unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &lim); err != nil {
		p.warn("open-files", "the limit could not be looked at: "+err.Error(), "ulimit -n should say at least 1024")
		return
	}
	p.fileLimit(lim.Cur)
}

func (p *planner) fileLimit(most uint64) {
	least := uint64(p.workers() + 64)
	switch {
	case most < least:
		p.fail("open-files", fmt.Sprintf("at most %d, and the copy needs %d", most, least), "raise the limit: ulimit -n 65536, or LimitNOFILE in the unit")
	case most < enoughFiles:
		p.warn("open-files", fmt.Sprintf("at most %d", most), "raise the limit: ulimit -n 65536, or LimitNOFILE in the unit")
	default:
		p.pass("open-files", "at most %s", humanize.Comma(int64(min(most, 1<<62))))
	}
}

// workers is how many pages the copy reads at the same time, at the most.
func (p *planner) workers() int {
	const perWorker = 16 << 20 // copier.ScanOptions.Workers
	most := p.Workers
	if most == 0 {
		most = 64
	}
	return max(min(most, int(p.memoryBudget()/perWorker)), 1)
}

func userName(uid int) string {
	id := strconv.Itoa(uid)
	if u, err := user.LookupId(id); err == nil {
		return u.Username
	}
	return id
}
