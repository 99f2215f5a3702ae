// Package raft writes the data directory of Vault's integrated storage, as a
// [copier.Sink].
//
// The result is one node's directory in the state that Raft calls compacted:
// the finite state machine (FSM) in vault.db holds every entry and stands at
// an index that no log entry reaches, and the log store is empty. A Vault
// started on it finds existing state, elects itself as the only voter, and
// brings every node that joins up to date with a snapshot.
//
// Everything is written and synced in <path>/.dyn2raft first. Then raft/ and
// node-id are moved into place, and at last vault.db: its rename is the one
// moment in which the copy becomes a Vault's directory. From then on a record in
// <path>/.dyn2raft says in which state it is. A run that ends before the rename,
// however it ends, leaves nothing that a Vault would open. The next run removes what
// a killed one has left, except for the work directory, where the engine keeps what
// it has read, and for a vault.db that has a mark of the same run, see [copier.Applier].
package raft

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"

	"github.com/dyn2raft/dyn2raft/copier"
	"github.com/dyn2raft/dyn2raft/copier/durable"
	"github.com/dyn2raft/dyn2raft/sinks/internal/hold"
	"github.com/dyn2raft/dyn2raft/sinks/internal/loading"
	"github.com/dyn2raft/dyn2raft/sinks/raft/boltfile"
	"github.com/hashicorp/go-uuid"
)

// Names in the data directory. All but stagingName are Vault's.
const (
	vaultDBName   = "vault.db"
	raftName      = "raft"
	raftDBName    = "raft.db"
	walName       = "wal"
	snapshotsName = "snapshots"
	nodeIDName    = "node-id"

	stagingName = ".dyn2raft"
	workName    = "work"
	recordName  = "commit.json"
)

// MaxNodeID bounds the file node-id, in bytes: Vault has a UUID in it.
const MaxNodeID = 4 << 10

// Options says where the data directory is and whose it will be.
type Options struct {
	// Path is the data directory, the stanza's path. It must exist.
	Path string
	// NodeID is the node's Raft id. Where it is empty the id in
	// <path>/node-id is used, and one is made where there is no such file,
	// just as Vault does. Vault ignores the file when it is given an id;
	// a file with another id is refused all the same, because a server
	// without node_id would take it, and then unsealing never returns.
	NodeID string
	// AnyNodeID lets an id through with which no Vault from 1.16 on starts: see
	// [CheckNodeID].
	AnyNodeID bool
	// Address is the host:port of the node's cluster_addr.
	Address string
	// WAL selects the write-ahead log in raft/wal instead of raft/raft.db,
	// as the stanza's raft_wal does.
	WAL bool
	// MaxEntrySize is the stanza's max_entry_size in bytes; 0 means Vault's
	// default of 1 MiB. Entries whose key and value are larger together are
	// written all the same, with a warning: Vault serves them, but refuses
	// to write them again.
	MaxEntrySize int64
	// Device makes the read-back read the device: the page cache of vault.db is dropped
	// before. Only Linux can do that, and not with every file system. Open returns an
	// error where it can't be done.
	Device bool
	// Spare, where set, returns what else is on record of the copy that is in place, such
	// as its manifest. It is asked where the sink's own record is damaged, and believed
	// where the engine's work files are those of the same run.
	Spare func() (*copier.Record, error)
	// Notify takes [copier.Loaded], [copier.HiddenLeases] and [copier.Warning] events; it may be
	// nil. It is called from the goroutine that calls the sink.
	Notify func(copier.Event)
	// Disk does all writing; nil is the real disk.
	Disk *durable.Disk
}

// Validate checks the options without looking at the disk. An error wraps
// [copier.ErrConfig].
func (o Options) Validate() error {
	bad := func(format string, a ...any) error {
		return &copier.Error{Kind: copier.ErrConfig, Op: "check raft destination", Err: fmt.Errorf(format, a...)}
	}
	if o.Path == "" {
		return bad("no path")
	}
	if o.Address == "" {
		return bad("no cluster address: the node's host:port is a part of what is written")
	}
	host, port, err := net.SplitHostPort(o.Address)
	if err != nil {
		return bad("cluster address %q is not host:port: %w", o.Address, err)
	}
	if n, err := strconv.ParseUint(port, 10, 16); host == "" || err != nil || n == 0 {
		return bad("cluster address %q needs a host and a port between 1 and 65535", o.Address)
	}
	if err := o.checkNodeID(o.NodeID, copier.ErrConfig, "check raft destination"); err != nil {
		return err
	}
	if o.MaxEntrySize < 0 {
		return bad("max_entry_size is %d bytes; it can't be negative", o.MaxEntrySize)
	}
	return nil
}

// A Sink writes one data directory, for one run. It is used from one
// goroutine; runs of other processes are kept out with a lock (flock) on the
// directory itself.
type Sink struct {
	opts Options
	disk *durable.Disk

	held   hold.Hold // of the data directory, from Open to Close
	nodeID string
	// newNodeID is set when the id is ours and node-id has to be written.
	newNodeID bool

	staging bool    // the staging directory is this process's
	placed  bool    // Open has found a run's result in place
	marked  *marked // what Open has found staged, with a mark
}

// A stage is what one run writes into the staging directory, or has put in place.
type stage struct {
	*Sink
	run         string
	loaded      bool
	committed   bool
	keepStaging bool // its record is needed to clean up after us
	applier
}

var (
	_ copier.Sink      = (*Sink)(nil)
	_ copier.WorkDirer = (*Sink)(nil)
	_ copier.Loader    = (*stage)(nil)
	_ copier.Applier   = (*stage)(nil)
)

// New returns a sink for the directory that the options name. It does nothing
// yet. An error wraps [copier.ErrConfig].
func New(o Options) (*Sink, error) {
	if err := o.Validate(); err != nil {
		return nil, err
	}
	if o.MaxEntrySize == 0 {
		o.MaxEntrySize = loading.DefaultMaxEntrySize
	}
	if o.Notify == nil {
		o.Notify = func(copier.Event) {}
	}
	return &Sink{opts: o, disk: o.Disk}, nil
}

// dest and stage return the path of a name in place and aside.
func (s *Sink) dest(name string) string  { return filepath.Join(s.opts.Path, name) }
func (s *Sink) aside(name string) string { return filepath.Join(s.opts.Path, stagingName, name) }

// Identity implements [copier.Sink].
func (s *Sink) Identity() copier.Identity {
	path, err := filepath.Abs(s.opts.Path)
	if err != nil {
		path = s.opts.Path
	}
	return copier.Identity{"path": path, "node_id": s.opts.NodeID, "cluster_addr": s.opts.Address, "log store": s.logStore()}
}

func (s *Sink) logStore() string {
	if s.opts.WAL {
		return walName
	}
	return raftDBName
}

// Open locks the directory, takes back what a run that was killed during
// its commit had placed, refuses the directory when it holds a Vault's data,
// and makes the staging directory if there is none.
//
// An error wraps [copier.ErrLocked] when another run or a running Vault holds
// the directory, and otherwise [copier.ErrDestination].
func (s *Sink) Open(ctx context.Context) (found copier.State, err error) {
	if err := ctx.Err(); err != nil {
		return found, err
	}
	if err := s.held.Take(s.opts.Path); err != nil {
		return found, err
	}
	left, err := s.stagingLeft()
	if err != nil {
		return found, err
	}
	if left {
		if err := s.recoverCommit(); err != nil {
			return found, err
		}
	}
	if found, err = s.inPlace(); err != nil || found.Record != nil {
		return found, err
	}
	if left {
		if err := s.findMarked(); err != nil {
			return found, err
		}
	}
	if err := s.refuse(); err != nil {
		return found, err
	}
	if s.opts.Device {
		if err := cacheError(canDropCache(s.opts.Path)); err != nil {
			return found, err
		}
	}
	if err := s.makeStaging(left); err != nil {
		return found, err
	}
	if s.nodeID == "" {
		if s.nodeID, err = uuid.GenerateUUID(); err != nil {
			return found, s.fail("make a node id", err)
		}
		s.newNodeID = true
	}
	return found, s.checkOwner()
}

// Stage implements [copier.Sink]. What earlier runs have staged is gone since Open, unless
// it has a mark. That of the same run is taken up; of another run, or for another node,
// it goes now.
func (s *Sink) Stage(_ context.Context, runID string) (copier.Stage, error) {
	st := &stage{Sink: s, run: runID, committed: s.placed}
	if m := s.marked; m != nil && (m.Run != runID || m.nodeID != s.nodeID || m.address != s.opts.Address) {
		if err := s.removeStaged(); err != nil {
			return nil, s.fail("remove what an earlier run left in "+s.aside(""), err)
		}
	} else if m != nil {
		st.mark, st.finished, st.unread = m.Mark, m.finished, true
		return st, st.stageRest()
	}
	return st, nil
}

// NodeID is the node's id, once Open returned.
func (s *Sink) NodeID() string {
	if s.nodeID != "" || s.opts.NodeID != "" {
		return cmp.Or(s.nodeID, s.opts.NodeID)
	}
	id, err := durable.ReadFile(s.dest(nodeIDName), MaxNodeID) // of a complete copy
	if err != nil {
		return ""
	}
	return string(id)
}

// WorkDir returns <path>/.dyn2raft/work.
func (s *Sink) WorkDir() string { return WorkDir(s.opts.Path) }

// WorkDir is where the engine keeps what it has read of an unfinished copy
// into the data directory at path.
func WorkDir(path string) string { return filepath.Join(path, stagingName, workName) }

// Load writes everything that Commit puts in place into the staging directory
// and syncs it. An error of the stream is returned as it is, a key that comes
// twice wraps [copier.ErrDuplicateKey], a cancelled context its own error, and
// everything else [copier.ErrDestination].
func (s *stage) Load(ctx context.Context, entries copier.Stream) (copier.LoadStats, error) {
	if s.mark != nil { // of a copy that was thrown away
		if err := s.removeMarked(); err != nil {
			return copier.LoadStats{}, err
		}
	}
	l := loading.New(ctx, entries, s.opts.MaxEntrySize, s.opts.Notify)
	stats, err := s.load(ctx, l)
	if l.Err != nil {
		return stats, l.Err // not the disk's fault
	}
	return stats, err
}

func (s *stage) load(ctx context.Context, l *loading.Stream) (copier.LoadStats, error) {
	path := s.aside(vaultDBName)
	err := writeVaultDB(s.disk, path, configBucket(s.nodeID, s.opts.Address), l)
	l.Finish()
	if errors.Is(err, boltfile.ErrTwice) {
		return l.Stats, &copier.Error{Kind: copier.ErrDuplicateKey, Op: "load entries", Err: err}
	}
	if fi, statErr := os.Lstat(path); statErr == nil {
		l.Stats.FileBytes = fi.Size()
	}
	if err != nil {
		return l.Stats, s.fail("write "+path, err)
	}

	if err := ctx.Err(); err != nil {
		return l.Stats, err
	}
	return l.Stats, s.stageRest()
}

// stageRest writes what a commit puts in place beside vault.db, and syncs all of it.
func (s *stage) stageRest() error {
	if err := s.writeRaftDir(); err != nil {
		return s.fail("write "+s.aside(raftName), err)
	}
	if s.newNodeID {
		if err := s.disk.WriteFile(s.aside(nodeIDName), []byte(s.nodeID)); err != nil {
			return s.fail("write "+s.aside(nodeIDName), err)
		}
	}
	for _, name := range s.names() {
		if err := s.disk.Finalize(s.aside(name)); err != nil {
			return s.fail("sync "+s.aside(name), err)
		}
	}
	if err := s.disk.Sync(s.aside("")); err != nil {
		return s.fail("sync "+s.aside(""), err)
	}
	s.loaded = true
	return nil
}

// names are the names that a commit puts in place, in its order: vault.db is
// the last, because without it there is nothing that a Vault would take for
// its data.
func (s *Sink) names() []string {
	if s.newNodeID {
		return []string{raftName, nodeIDName, vaultDBName}
	}
	return []string{raftName, vaultDBName}
}

// Prepare puts all in place but vault.db, without which there is nothing
// that a Vault would take for its data, and makes it durable. An error wraps
// [copier.ErrDestination], or a context's error when nothing was done yet.
func (s *stage) Prepare(ctx context.Context, r copier.Record) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if !s.loaded || s.mark != nil && !s.finished {
		return &copier.Error{Kind: copier.ErrDestination, Op: "commit " + s.opts.Path,
			Err: errors.New("nothing was loaded, or its mark was not removed")}
	}
	// A Vault that was started during the copy has its own vault.db by now.
	// Looking first spares it a raft/ that comes and goes.
	if _, err := s.inPlace(); err != nil {
		return err
	}
	if err := s.refuse(); err != nil {
		return err
	}
	record := record{Copy: r}
	if s.newNodeID {
		record.NodeID = s.nodeID
	}
	if err := s.writeRecord(record); err != nil {
		return s.fail("write "+s.aside(recordName), err)
	}
	if err := s.placeAllBut(vaultDBName); err != nil {
		return errors.Join(err, s.Rollback())
	}
	return nil
}

// placeAllBut moves the staged names into place, but for one.
func (s *stage) placeAllBut(last string) error {
	for _, name := range s.names() {
		if name == last {
			continue
		}
		if err := s.disk.Place(s.aside(name), s.dest(name)); err != nil {
			return s.fail("put "+name+" in place", err)
		}
	}
	// The rest must be on disk before vault.db can be: after a loss of power
	// either all of it is there, or no vault.db.
	if err := s.disk.Sync(s.opts.Path); err != nil {
		return s.fail("sync "+s.opts.Path, err)
	}
	return nil
}

// Commit renames vault.db into place and syncs the directory. When the sync fails, it
// takes vault.db back. When that fails too, the error wraps [copier.ErrUnconfirmed],
// and the next run takes it back: the record in the staging directory says so. A
// vault.db that a Vault has opened by then stays. Commit warns that it may not survive
// a loss of power. An error wraps [copier.ErrDestination].
func (s *stage) Commit(context.Context) error {
	if err := s.disk.Place(s.aside(vaultDBName), s.dest(vaultDBName)); err != nil {
		return errors.Join(s.fail("put "+vaultDBName+" in place", err), s.Rollback())
	}
	if err := s.disk.Sync(s.opts.Path); err != nil {
		switch back := s.Rollback(); {
		case back == nil:
			return s.fail("sync "+s.opts.Path, err)
		case errors.Is(back, copier.ErrInUse): // all is in place
			s.opts.Notify(copier.Warning{Message: fmt.Sprintf(
				"a Vault has started on the copy already, so it stays in place, but that it does is not certain to outlast a loss of power: %v; look after the disk (dmesg), and move this node's data to another one", err)})
		default:
			return errors.Join(s.fail("sync "+s.opts.Path, err), fmt.Errorf("%w: %w", copier.ErrUnconfirmed, back))
		}
	}
	s.loaded, s.committed = false, true
	return nil
}

// Amend implements [copier.Stage].
func (s *stage) Amend(r copier.Record) error {
	was, err := s.readRecord()
	if err == nil && was == nil {
		err = fs.ErrNotExist
	}
	if err == nil {
		was.Copy = r
		err = s.writeRecord(*was)
	}
	if err != nil {
		return s.fail("write "+s.aside(recordName), err)
	}
	return nil
}

// Rollback undoes Commit and Prepare, in the opposite order. It takes
// nothing from a Vault that has started meanwhile: vault.db comes first. It is as
// good for what a killed run has put in place.
func (s *stage) Rollback() error {
	for _, name := range slices.Backward(s.names()) {
		placed, err := s.wasMoved(name)
		if err == nil && placed && name == vaultDBName {
			err = s.takeBackVaultDB()
		} else if err == nil && placed {
			err = s.moveBack(name)
		}
		if err != nil {
			s.keepStaging = !errors.Is(err, copier.ErrInUse)
			return s.fail("take back "+s.dest(name), err)
		}
	}
	s.committed = false
	return nil
}

// moveBack moves a name back into the staging directory. It does not remove it: a
// directory goes in one step only so, and what is back in the staging directory is
// not taken for placed.
func (s *stage) moveBack(name string) error {
	if err := s.disk.Rename(s.dest(name), s.aside(name)); err != nil {
		return err
	}
	// Renaming does nothing where both names are links to one file.
	if there, err := durable.Exists(s.dest(name)); err != nil {
		return err
	} else if there {
		if err := s.disk.Remove(s.held.Root(), name); err != nil {
			return err
		}
	}
	return s.disk.Sync(s.opts.Path)
}

// dir is the directory that holds what Load has written, or a path in it.
func (s *stage) dir(name ...string) string {
	dir := s.aside("")
	if s.committed {
		dir = s.opts.Path
	}
	return filepath.Join(append([]string{dir}, name...)...)
}

// Close removes, unless keep is set, the staging directory with all that is in it, and
// nothing where Rollback has failed. An error wraps [copier.ErrDestination].
func (s *stage) Close(keep bool) error {
	err := s.closeDB()
	s.unpin()
	if keep || s.keepStaging || err != nil {
		return err
	}
	if err := s.removeStaging(); err != nil {
		return s.fail("remove "+s.aside(""), err)
	}
	return nil
}

// Close releases the lock, and removes the staging directory where it is empty. It
// never touches what another process holds. An error wraps [copier.ErrDestination].
func (s *Sink) Close() error {
	if !s.held.Held() {
		return nil
	}
	var err error
	if s.staging && s.nothingStaged() {
		if err = s.disk.Remove(s.held.Root(), stagingName); err == nil {
			err = s.disk.Sync(s.opts.Path)
		}
		if err != nil {
			err = s.fail("remove "+s.aside(""), err)
		}
	}
	if closeErr := s.held.Release(); err == nil && closeErr != nil {
		err = s.fail("unlock "+s.opts.Path, closeErr)
	}
	return err
}

// nothingStaged reports whether the staging directory is there, and has nothing in it
// but an empty work directory.
func (s *Sink) nothingStaged() bool {
	staged, err := fs.ReadDir(s.held.Root().FS(), stagingName)
	if err != nil || len(staged) == 0 {
		return err == nil
	}
	work, err := fs.ReadDir(s.held.Root().FS(), stagingName+"/"+workName)
	return err == nil && len(staged) == 1 && len(work) == 0
}
