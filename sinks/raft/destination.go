package raft

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"github.com/dyn2raft/dyn2raft/copier"
	"github.com/dyn2raft/dyn2raft/copier/durable"
	"github.com/dyn2raft/dyn2raft/sinks/internal/hold"
	"golang.org/x/sys/unix"
)

// A State is what is in a data directory.
type State string

// The states of a data directory.
const (
	StateEmpty      State = "empty"      // nothing of Vault's, and no copy
	StateRunning    State = "running"    // a dyn2raft is at work
	StateUnfinished State = "unfinished" // a copy that can be resumed
	StateComplete   State = "complete"   // a vault.db is in place, whoever put it there
	// StateUnconfirmed is a vault.db that a copy put in place, and its source has not
	// confirmed: see [copier.Unconfirmed].
	StateUnconfirmed State = State(copier.Unconfirmed)
	// StateConfirmed is a vault.db that its source has confirmed. The source was not
	// given back since: see [copier.Confirmed].
	StateConfirmed State = State(copier.Confirmed)
)

// Look returns the state of the data directory at path. It changes nothing. An error
// wraps [copier.ErrDestination].
func Look(path string) (State, error) {
	state, _, err := Placed(Options{Path: path})
	return state, err
}

// Placed is Look, and returns the record of the run that has put the vault.db there, and
// was killed before it had cleaned up behind itself; nil where there is none. Of the
// options it needs the path, and Spare.
func Placed(o Options) (State, *copier.Record, error) {
	path, s := o.Path, &Sink{opts: o}
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		return "", nil, s.fail("open "+path, err)
	}
	defer f.Close()
	if errors.Is(unix.Flock(int(f.Fd()), unix.LOCK_SH|unix.LOCK_NB), unix.EWOULDBLOCK) {
		return StateRunning, nil, nil
	}
	for _, x := range []struct {
		name  string
		state State
	}{{s.dest(vaultDBName), StateComplete}, {s.WorkDir(), StateUnfinished}} {
		there, err := durable.Exists(x.name)
		if err != nil {
			return "", nil, s.fail("look at "+x.name, err)
		}
		if !there {
			continue
		}
		if x.state != StateComplete {
			return x.state, nil, nil
		}
		r, err := s.placedBy()
		switch {
		case err != nil:
			return "", nil, err
		case r == nil:
			return StateComplete, nil, nil
		case r.Copy.State == copier.Released:
			return StateComplete, &r.Copy, nil
		default:
			return State(r.Copy.State), &r.Copy, nil
		}
	}
	return StateEmpty, nil, nil
}

// CheckFree returns why a copy can't go into a directory that holds no vault.db: it
// holds something else of a Vault's, or another node's id. It changes nothing. An error
// wraps [copier.ErrDestination].
func CheckFree(o Options) error {
	o.AnyNodeID = true
	return (&Sink{opts: o}).refuse()
}

// refuse returns an error when the directory holds what is Vault's, but for vault.db,
// and sets the node id otherwise.
func (s *Sink) refuse() error {
	if there, err := durable.Exists(s.dest(raftName)); err != nil {
		return s.fail("look at "+s.dest(raftName), err)
	} else if there {
		return s.holdsData(raftName)
	}

	// want is the id that the copy is for, empty as long as any will do.
	want := s.nodeID
	if want == "" {
		want = s.opts.NodeID
	}
	id, err := durable.ReadFile(s.dest(nodeIDName), MaxNodeID)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		if want != "" && want != s.opts.NodeID && !s.newNodeID {
			return &copier.Error{
				Kind: copier.ErrDestination,
				Op:   "read " + s.dest(nodeIDName),
				Code: NodeIDGone,
				Err:  fmt.Errorf("the file with node id %q was there when the copy started, and is gone now", want),
			}
		}
		s.nodeID = want
		return nil
	case err != nil:
		return s.fail("read node id", err)
	case len(id) == 0:
		return &copier.Error{
			Kind: copier.ErrDestination,
			Op:   "read " + s.dest(nodeIDName),
			Code: NodeIDEmpty, Facts: map[string]string{"file": s.dest(nodeIDName)},
			Err: errors.New("the file is empty"),
		}
	}
	if want != "" && want != string(id) {
		return &copier.Error{
			Kind: copier.ErrDestination,
			Op:   "read " + s.dest(nodeIDName),
			Code: NodeIDOther, Facts: map[string]string{"file": s.dest(nodeIDName)},
			Err: fmt.Errorf("the file holds node id %q, but this copy is for node %q", id, want),
		}
	}
	if err := s.opts.checkNodeID(string(id), copier.ErrDestination, "read "+s.dest(nodeIDName)); err != nil {
		return err
	}
	s.nodeID = string(id)
	return nil
}

// inPlace reports a vault.db that a run has put in place. One that is not a copy's is
// refused.
func (s *Sink) inPlace() (found copier.State, err error) {
	path := s.dest(vaultDBName)
	there, err := durable.Exists(path)
	if err != nil {
		return found, s.fail("look at "+path, err)
	}
	if !there {
		return found, nil
	}
	r, err := s.placedBy()
	if err != nil {
		return found, err
	}
	used := inUse(path)
	switch {
	case r != nil:
		found = copier.State{Record: &r.Copy, InUse: used}
	case used:
		return found, &copier.Error{
			Kind: copier.ErrLocked,
			Op:   "check " + s.opts.Path,
			Code: VaultOnData,
			Err:  fmt.Errorf("vault.db is in use: %w", copier.ErrInUse),
		}
	default:
		return found, s.holdsData(vaultDBName)
	}
	if used {
		return found, nil
	}
	// A process that was killed may not have come to sync the name. Who learns
	// that the copy is complete frees the source, and the record goes.
	if err := s.disk.Sync(s.opts.Path); err != nil {
		return copier.State{}, s.fail("sync "+s.opts.Path, err)
	}
	if r.damage != nil {
		s.opts.Notify(copier.Warning{Message: fmt.Sprintf("the record of the copy that is in place can't be read (%v): what its manifest says is taken for it", r.damage)})
		err := s.disk.Remove(s.held.Root(), filepath.Join(stagingName, recordName)) // it may be no file
		if err == nil {
			err = s.writeRecord(*r)
		}
		if err != nil {
			return copier.State{}, s.fail("write "+s.aside(recordName), err)
		}
	}
	s.placed, s.newNodeID = true, r.NodeID != ""
	return found, nil
}

// ErrHoldsData is returned, together with [copier.ErrDestination], by Open where the
// directory has Vault's files in it that no copy is known to have written.
var ErrHoldsData = errors.New("the directory already holds Vault's data")

// holdsData is the error for a directory that has Vault's files in it.
func (s *Sink) holdsData(name string) error {
	return &copier.Error{
		Kind: copier.ErrDestination,
		Op:   "check " + s.opts.Path,
		Code: HoldsData,
		// Aside, but in the same directory: it may be a mount point.
		Facts: map[string]string{"files": strings.Join(s.vaultFiles(), "\n"), "aside": s.dest("old")},
		Err:   fmt.Errorf("%w (%s)", ErrHoldsData, name),
	}
}

// vaultFiles are the paths of Vault's files that are there.
func (s *Sink) vaultFiles() (files []string) {
	for _, name := range []string{vaultDBName, raftName, nodeIDName} {
		if there, err := durable.Exists(s.dest(name)); err == nil && there {
			files = append(files, s.dest(name))
		}
	}
	return files
}

// inUse reports whether a process has the bbolt file open for writing: bbolt
// holds a lock (flock) on it as long.
func inUse(path string) bool {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return false
	}
	defer f.Close()
	return errors.Is(unix.Flock(int(f.Fd()), unix.LOCK_SH|unix.LOCK_NB), unix.EWOULDBLOCK)
}

// takeBackVaultDB moves vault.db back into the staging directory. Where a Vault has
// opened it, the error is [copier.ErrInUse].
//
// A Vault may be waiting for the lock of the file: bbolt opens a file first and locks
// it then, even if the file was renamed meanwhile. So the file is truncated before the
// lock is released: the waiting Vault finds no bbolt file.
func (s *stage) takeBackVaultDB() error {
	f, err := os.OpenFile(s.dest(vaultDBName), os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	// A reader's lock: it keeps a Vault out, and lets other readers in.
	if err := unix.Flock(int(f.Fd()), unix.LOCK_SH|unix.LOCK_NB); errors.Is(err, unix.EWOULDBLOCK) {
		return copier.ErrInUse
	} else if err != nil {
		return fmt.Errorf("lock %s: %w", f.Name(), err)
	}
	if err := s.moveBack(vaultDBName); err != nil {
		return err
	}
	s.loaded, s.mark = false, nil
	return f.Truncate(1) // to nothing, and bbolt would make a new one of it
}

// stagingLeft reports whether an earlier run left its staging directory. One that
// is not this user's, or a link, is refused before anything in it is touched: what
// two users have written, neither can finish.
func (s *Sink) stagingLeft() (bool, error) {
	there := false
	for _, path := range []string{s.aside(""), s.WorkDir()} {
		fi, err := os.Lstat(path)
		if errors.Is(err, fs.ErrNotExist) {
			break
		}
		if err != nil {
			return false, s.fail("look at "+path, err)
		}
		if !fi.IsDir() {
			return false, &copier.Error{Kind: copier.ErrDestination, Op: "make " + path,
				Code: NameTaken,
				Err:  syscall.ENOTDIR}
		}
		if st, ok := fi.Sys().(*syscall.Stat_t); ok && int(st.Uid) != os.Geteuid() {
			return false, &copier.Error{Kind: copier.ErrDestination, Op: "use " + path,
				Err: fmt.Errorf("%w: it is %s's, and this process runs as %s", copier.ErrNotOurs, hold.UserName(int(st.Uid)), hold.UserName(os.Geteuid()))}
		}
		there = true
	}
	return there, nil
}

// makeStaging makes the staging directory, or removes from one that is left
// everything but the work directory and a vault.db that has a mark. The lock makes
// sure that nobody is using it.
func (s *Sink) makeStaging(left bool) error {
	s.staging = true
	if left {
		keep := []string{}
		if s.marked != nil {
			keep = []string{vaultDBName, markName}
		}
		if err := s.removeStaged(keep...); err != nil {
			return s.fail("remove what an earlier run left in "+s.aside(""), err)
		}
	}
	for _, dir := range []string{s.aside(""), s.WorkDir()} {
		there, err := durable.Exists(dir)
		if err == nil && !there {
			err = s.disk.Mkdir(dir)
		}
		if err != nil {
			return s.fail("write to "+s.opts.Path, err)
		}
	}
	if err := s.disk.Sync(s.aside("")); err != nil {
		return s.fail("sync "+s.aside(""), err)
	}
	if err := s.disk.Sync(s.opts.Path); err != nil {
		return s.fail("sync "+s.opts.Path, err)
	}
	return nil
}

// removeStaged removes what is in the staging directory, but for the work
// directory and some names. Without a vault.db in place the record goes first, and for
// good: a record without the rest would be taken for a finished commit.
func (s *Sink) removeStaged(but ...string) error {
	if err := s.disk.Remove(s.held.Root(), filepath.Join(stagingName, recordName)); err != nil {
		return err
	}
	if err := s.disk.Sync(s.aside("")); err != nil {
		return err
	}
	return s.removeFromStaging(append(but, workName)...)
}

// removeFromStaging removes all names in the staging directory but some.
func (s *Sink) removeFromStaging(but ...string) error {
	list, err := fs.ReadDir(s.held.Root().FS(), stagingName)
	if err != nil {
		return err
	}
	for _, f := range list {
		if slices.Contains(but, f.Name()) {
			continue
		}
		if err := s.disk.Remove(s.held.Root(), filepath.Join(stagingName, f.Name())); err != nil {
			return err
		}
	}
	return nil
}

// removeStaging removes the staging directory. Of a complete copy the record,
// which says whose it is, goes last, and after the rest is gone for good.
func (s *stage) removeStaging() error {
	if !s.committed {
		if err := s.removeStaged(); err != nil {
			return err
		}
	} else {
		if err := s.removeFromStaging(recordName); err != nil {
			return err
		}
		if err := s.disk.Sync(s.aside("")); err != nil {
			return err
		}
	}
	if err := s.disk.Remove(s.held.Root(), stagingName); err != nil {
		return err
	}
	return s.disk.Sync(s.opts.Path)
}

// fail makes the error for a failed operation on the destination.
func (s *Sink) fail(op string, err error) error {
	return s.held.Fail(op, s.opts.Path, s.aside(""), err)
}
