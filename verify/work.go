package verify

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/dyn2raft/dyn2raft/copier"
	"github.com/dyn2raft/dyn2raft/copier/durable"
	"github.com/dyn2raft/dyn2raft/sources/raft/vaultdb"
)

// WorkPath is where a comparison with the data directory at path keeps what it has
// read. With an empty dir that is beside the data directory: the file system there
// outlives a reboot, has had room for a copy, and is where a person looks. Otherwise
// it is in dir, under a name that differs between data directories.
func WorkPath(dir, path string) string {
	if abs, err := filepath.Abs(path); err == nil { // as it is, where the working directory is gone
		path = abs
	}
	if dir == "" {
		return filepath.Clean(path) + ".dyn2raft-verify"
	}
	sum := sha256.Sum256([]byte(path))
	return filepath.Join(dir, "dyn2raft-verify-"+hex.EncodeToString(sum[:8]))
}

// A workDir is the directory of a comparison's work files, which this process
// alone uses.
type workDir struct {
	path     string
	lock     *os.File
	readings []*reading // which have journals; none as long as what an earlier process left is untouched
}

// spoolName is the work file of what is not scanned.
const spoolName = "spool"

// openWork makes a directory for work files, or takes over an earlier one.
func openWork(path string) (*workDir, error) {
	fail := func(err error) (*workDir, error) {
		return nil, &copier.Error{Kind: copier.ErrConfig, Op: "create work directory", Code: NoWorkDir, Err: err}
	}
	var disk *durable.Disk
	for {
		if err := disk.Mkdir(path); err == nil {
			if err := disk.Sync(filepath.Dir(path)); err != nil {
				return fail(err)
			}
		} else if !errors.Is(err, os.ErrExist) {
			return fail(err)
		}
		f, err := os.OpenFile(path, os.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW, 0)
		if errors.Is(err, os.ErrNotExist) {
			continue // who had it has just removed it
		}
		if err != nil {
			return fail(err)
		}
		same, err := takeWork(path, f)
		if err == nil && same {
			return &workDir{path: path, lock: f}, nil
		}
		if cerr := f.Close(); err == nil {
			err = cerr
		}
		if errors.Is(err, copier.ErrLocked) {
			return nil, err
		}
		if err != nil {
			return fail(err)
		}
	}
}

// takeWork locks an opened directory. It returns false when it is at path no
// more, because who had the lock before has removed it.
func takeWork(path string, f *os.File) (bool, error) {
	err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	if errors.Is(err, unix.EWOULDBLOCK) {
		return false, &copier.Error{Kind: copier.ErrLocked, Op: "lock " + path, Code: CompareRuns,
			Err: errors.New("another comparison with this data directory is under way")}
	}
	if err != nil {
		return false, fmt.Errorf("lock %s: %w", path, err)
	}
	info, err := f.Stat()
	if err != nil {
		return false, err
	}
	// In a directory that anybody may write to, the name could be taken by
	// somebody who wants to decide how a comparison ends.
	if s, ok := info.Sys().(*syscall.Stat_t); ok && int(s.Uid) != os.Geteuid() {
		return false, fmt.Errorf("%s belongs to another user (uid %d)", path, s.Uid)
	}
	now, err := os.Lstat(path)
	if errors.Is(err, os.ErrNotExist) {
		return false, nil
	}
	return err == nil && os.SameFile(info, now), err
}

// begin opens the journal of a reading. beside describes the other source.
func (w *workDir) begin(x *reading, beside copier.Info, opts Options) (err error) {
	if !opts.Resume && !opts.Restart {
		// One whose record can't be read is of no use to anybody.
		if was, err := copier.Unfinished(x.dir); err == nil && was != nil {
			return &copier.Error{Kind: copier.ErrDestination, Op: "look at " + w.path,
				Err: fmt.Errorf("%w: begun at %s, of %s", ErrUnfinished, was.Start.UTC().Format(time.RFC3339), was.Source.Name)}
		}
	}
	if err := os.Mkdir(x.dir, 0o700); err != nil && !errors.Is(err, os.ErrExist) {
		return workError("create work directory", err)
	}
	x.journal, err = copier.OpenJournal(x.dir, copier.Record{
		Start:       time.Now().UTC(),
		Source:      x.info,
		Destination: copier.Identity{"path": beside.ID, "incarnation": beside.Incarnation},
	}, opts.Resume)
	if err == nil {
		w.readings = append(w.readings, x)
	}
	return err
}

// resumed is how often the comparison was resumed, and when it was begun.
func (w *workDir) resumed() (n int, began time.Time) {
	for i, x := range w.readings {
		setup := x.journal.Setup()
		n = max(n, setup.Resumed)
		if i == 0 || setup.Start.Before(began) {
			began = setup.Start
		}
	}
	return n, began
}

// ErrUnfinished is returned, together with [copier.ErrDestination], where an
// unfinished comparison has left what it has read, and neither Options.Resume nor
// Options.Restart is set.
var ErrUnfinished = errors.New("an unfinished comparison is there")

// worthKeeping reports whether a comparison that ended with err can be resumed.
func (w *workDir) worthKeeping(err error) bool {
	switch {
	case err == nil, !slices.ContainsFunc(w.readings, func(x *reading) bool { return x.journal.Saved() }):
		return false
	case errors.Is(err, copier.ErrDuplicateKey), errors.Is(err, copier.ErrMoved), errors.Is(err, vaultdb.ErrDamaged):
		return false // it would end so again
	default:
		return true
	}
}

// close gives the directory back. Unless what was read is to be kept, it
// removes that, and the directory too if nothing else is in it.
func (w *workDir) close(keep bool) error {
	var errs []error
	for _, x := range slices.Backward(w.readings) {
		if keep {
			break
		}
		errs = append(errs, x.journal.Remove())
		// A killed process may have left it.
		if err := os.Remove(filepath.Join(w.path, spoolName)); err != nil && !errors.Is(err, os.ErrNotExist) {
			errs = append(errs, workError("remove work file", err))
		}
		if x.dir != w.path {
			_ = os.Remove(x.dir) // unless somebody has put something else there
		}
	}
	if err := unix.Rmdir(w.path); err != nil && !errors.Is(err, unix.ENOTEMPTY) && !errors.Is(err, unix.EEXIST) && !errors.Is(err, unix.ENOENT) {
		errs = append(errs, &copier.Error{Kind: copier.ErrDestination, Op: "remove " + w.path, Err: err})
	}
	if err := w.lock.Close(); err != nil {
		errs = append(errs, &copier.Error{Kind: copier.ErrDestination, Op: "unlock " + w.path, Err: err})
	}
	return errors.Join(errs...)
}

// workError is an error of the work files.
func workError(op string, err error) error {
	e := &copier.Error{Kind: copier.ErrDestination, Op: op, Err: err}
	if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) {
		e.Code = copier.WorkFull
	}
	return e
}
