package verify

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/dyn2raft/dyn2raft/copier"
	"github.com/dyn2raft/dyn2raft/copier/durable"
	"github.com/dyn2raft/dyn2raft/sources/raft/vaultdb"
)

// WorkPath is where a comparison with the data directory at path keeps what it
// has read. That is beside the data directory, because the file system there
// outlives a reboot, has had room for a copy, and is where a person looks; in
// dir, where that is given, the name tells comparisons of several directories
// apart.
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
	path    string
	lock    *os.File
	journal *copier.Journal // nil as long as what an earlier process left is untouched
}

// openWork makes a directory for work files, or takes over an earlier one.
func openWork(path string) (*workDir, error) {
	fail := func(err error) (*workDir, error) {
		return nil, &copier.Error{Kind: copier.ErrConfig, Op: "create work directory", Err: err,
			Hint: "what was read is kept there until the comparison has ended; give another place with -work-dir"}
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
		return false, &copier.Error{Kind: copier.ErrLocked, Op: "lock " + path, Err: errors.New("another comparison with this data directory is under way"),
			Hint: "wait until it has ended, or give this one another place with -work-dir"}
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

// begin opens the journal of a comparison of src with a data directory, whose
// vault.db stands at the given index.
func (w *workDir) begin(src copier.Info, path string, index uint64, opts Options) error {
	abs, err := filepath.Abs(path)
	if err != nil {
		return &copier.Error{Kind: copier.ErrConfig, Op: "find " + path, Err: err}
	}
	info, err := os.Stat(filepath.Join(path, vaultDBName))
	if err != nil {
		return &copier.Error{Kind: copier.ErrDestination, Op: "look at vault.db", Err: err}
	}
	if !opts.Resume && !opts.Restart {
		// One whose record can't be read is of no use to anybody.
		if was, err := copier.Unfinished(w.path); err == nil && was != nil {
			return &copier.Error{Kind: copier.ErrDestination, Op: "look at " + w.path,
				Err: fmt.Errorf("%w: begun at %s, of %s", ErrUnfinished, was.Start.UTC().Format(time.RFC3339), was.Source.Name)}
		}
	}
	w.journal, err = copier.OpenJournal(w.path, copier.Setup{
		Start:  time.Now().UTC(),
		Source: src,
		Destination: copier.Identity{
			"path": abs, "size": strconv.FormatInt(info.Size(), 10),
			"time of modification": info.ModTime().UTC().Format(time.RFC3339Nano),
			"Raft index":           strconv.FormatUint(index, 10),
		},
	}, opts.Resume)
	return err
}

// ErrUnfinished is returned, together with [copier.ErrDestination], where an
// unfinished comparison has left what it has read, and the caller did not say what
// shall become of it.
var ErrUnfinished = errors.New("an unfinished comparison is there")

// worthKeeping reports whether a comparison that ended with err can be gone on
// with.
func (w *workDir) worthKeeping(err error) bool {
	switch {
	case err == nil, w.journal == nil, !w.journal.Saved():
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
	if w.journal != nil && !keep {
		errs = append(errs, w.journal.Remove())
		// A killed process may have left it.
		if err := os.Remove(filepath.Join(w.path, summariesName)); err != nil && !errors.Is(err, os.ErrNotExist) {
			errs = append(errs, workError("remove work file", err))
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
