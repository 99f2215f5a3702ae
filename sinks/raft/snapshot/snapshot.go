// Package snapshot writes a snapshot of Vault's integrated storage, as a [copier.Sink]: the
// file that `vault operator raft snapshot restore -force` takes.
//
// Its form is that of hashicorp/raft-snapshot v1.0.4: see sources/raft/snapshot, which
// reads it back. SHA256SUMS.sealed, which only a Vault with the same seal could make, holds
// a line of text: where it is missing, a restore without -force makes the Vault server
// panic, and with that line it is answered with an error.
//
// What a restore of such a file needs, seen with Vault 1.21.1: a fresh cluster of one
// node, -force, and the unseal keys of the Vault that was copied. With an automatic seal the
// node is restarted once. Others join afterwards: a fresh cluster of three nodes does not
// outlive it, as the snapshot has no core/raft/tls of theirs. The upload has to end
// within the listener's http_read_timeout, which is 30 s where the server's configuration
// does not set it: a large file needs more, such as http_read_timeout = "1h", or a client
// on the server's own machine.
//
// The file is written and synced in a directory beside it, PATH.dyn2raft, and then
// renamed, which never replaces one. A record in that directory says whose it is, and in
// which state, until the copy has ended.
package snapshot

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"github.com/dyn2raft/dyn2raft/copier"
	"github.com/dyn2raft/dyn2raft/copier/durable"
	"github.com/dyn2raft/dyn2raft/sinks/internal/hold"
	"github.com/dyn2raft/dyn2raft/sinks/internal/loading"
	"github.com/dyn2raft/dyn2raft/sinks/raft"

	"golang.org/x/sys/unix"
)

// Names in the directory beside the file.
const (
	stagedName = "snapshot"
	recordName = "commit.json"
	workName   = "work"

	maxRecord = 64 << 20 // what is read of a record, in bytes
)

// Options say where the file will be.
type Options struct {
	// Path is that of the file. Its directory must exist, and is held meanwhile: one copy
	// at a time works in it.
	Path string
	// MaxEntrySize is that of the servers to be, in bytes; 0 means Vault's default of
	// 1 MiB. Larger entries are written all the same, with a warning.
	MaxEntrySize int64
	// Notify takes [copier.Loaded], [copier.HiddenLeases] and [copier.Warning] events; it may
	// be nil.
	Notify func(copier.Event)
	// Disk does all writing; nil is the real disk.
	Disk *durable.Disk
}

// A Sink writes one file, for one run. It is used from one goroutine.
type Sink struct {
	opts   Options
	disk   *durable.Disk
	held   hold.Hold
	staged bool // the directory beside the file is this process's
	placed bool // Open has found a run's result in place
}

// A stage is what one run writes, or has put in place.
type stage struct {
	*Sink
	run               string
	loaded, committed bool
}

var (
	_ copier.Sink      = (*Sink)(nil)
	_ copier.WorkDirer = (*Sink)(nil)
	_ copier.Checker   = (*Sink)(nil)
	_ copier.Loader    = (*stage)(nil)
)

// New returns a sink. It does nothing yet. An error wraps [copier.ErrConfig].
func New(o Options) (*Sink, error) {
	if name := filepath.Base(o.Path); o.Path == "" || name == "." || name == ".." || name == string(filepath.Separator) {
		return nil, &copier.Error{Kind: copier.ErrConfig, Op: "write snapshot", Err: errors.New("its path names no file")}
	}
	if o.MaxEntrySize == 0 {
		o.MaxEntrySize = loading.DefaultMaxEntrySize
	}
	if o.Notify == nil {
		o.Notify = func(copier.Event) {}
	}
	return &Sink{opts: o, disk: o.Disk}, nil
}

func (s *Sink) dir() string { return filepath.Dir(s.opts.Path) }

// beside is the directory beside the file, as it is named in dir.
func (s *Sink) beside() string { return filepath.Base(s.opts.Path) + ".dyn2raft" }

// aside is the path of a name in the directory beside the file.
func (s *Sink) aside(name string) string { return filepath.Join(s.dir(), s.beside(), name) }

func (s *Sink) fail(op string, err error) error {
	return s.held.Fail(op, s.dir(), s.aside(""), err)
}

// Identity implements [copier.Sink].
func (s *Sink) Identity() copier.Identity {
	path, err := filepath.Abs(s.opts.Path)
	if err != nil {
		path = s.opts.Path
	}
	return copier.Identity{"path": path, "form": "raft snapshot"}
}

// WorkDir is in the directory beside the file.
func (s *Sink) WorkDir() string { return s.aside(workName) }

// Open implements [copier.Sink]. An error wraps [copier.ErrLocked] where another copy works
// in the file's directory, else [copier.ErrDestination].
func (s *Sink) Open(ctx context.Context) (found copier.State, err error) {
	if err := ctx.Err(); err != nil {
		return found, err
	}
	if err := s.held.Take(s.dir()); err != nil {
		return found, err
	}
	there, err := durable.Exists(s.opts.Path)
	if err != nil {
		return found, s.fail("look at "+s.opts.Path, err)
	}
	if there {
		if found.Record, err = s.placedBy(); err == nil && found.Record == nil {
			err = s.taken()
		}
		if err != nil {
			return copier.State{}, err
		}
		s.placed = true
	}
	if err := s.makeDir(); err != nil {
		return copier.State{}, err
	}
	// A process that was killed may not have come to sync a name.
	if err := s.disk.Sync(s.dir()); err != nil {
		return copier.State{}, s.fail("sync "+s.dir(), err)
	}
	return found, nil
}

// taken is the error for a file that no copy has put there.
func (s *Sink) taken() error {
	return &copier.Error{Kind: copier.ErrDestination, Op: "check " + s.opts.Path,
		Code: raft.HoldsData, Facts: map[string]string{"files": s.opts.Path, "aside": filepath.Join(s.dir(), "old")},
		Err: fs.ErrExist}
}

// makeDir makes the directory beside the file, and in it the one for work files. What is
// there must be a directory, and this user's.
func (s *Sink) makeDir() error {
	for _, dir := range []string{s.aside(""), s.WorkDir()} {
		fi, err := os.Lstat(dir)
		switch {
		case errors.Is(err, fs.ErrNotExist):
			err = s.disk.Mkdir(dir)
		case err == nil && !fi.IsDir():
			return &copier.Error{Kind: copier.ErrDestination, Op: "make " + dir, Code: raft.NameTaken, Err: syscall.ENOTDIR}
		case err == nil:
			if st, ok := fi.Sys().(*syscall.Stat_t); ok && int(st.Uid) != os.Geteuid() {
				return &copier.Error{Kind: copier.ErrDestination, Op: "use " + dir, Err: copier.ErrNotOurs}
			}
		}
		if err != nil {
			return s.fail("write to "+s.dir(), err)
		}
	}
	s.staged = true
	if err := s.disk.Sync(s.aside("")); err != nil {
		return s.fail("sync "+s.aside(""), err)
	}
	return nil
}

// placedBy returns the record of the run that put the file there, or nil where there is
// none: the file is that run's if it is not aside any more, or there under both names,
// because the run ended between link and unlink.
func (s *Sink) placedBy() (*copier.Record, error) {
	data, err := durable.ReadFile(s.aside(recordName), maxRecord)
	if err != nil {
		return nil, nil //nolint:nilerr // whoever has put it there, it is not overwritten
	}
	r, err := copier.DecodeRecord(data)
	if err != nil {
		return nil, nil //nolint:nilerr // as above
	}
	if placed, err := s.isPlaced(); err != nil || !placed {
		return nil, err
	}
	return r, nil
}

// isPlaced reports whether the file is in place, and not aside any more.
func (s *Sink) isPlaced() (bool, error) {
	var found [2]os.FileInfo
	for i, path := range []string{s.opts.Path, s.aside(stagedName)} {
		fi, err := os.Lstat(path)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return false, s.fail("look at "+path, err)
		}
		found[i] = fi
	}
	return found[0] != nil && (found[1] == nil || os.SameFile(found[0], found[1])), nil
}

// Stage implements [copier.Sink].
func (s *Sink) Stage(_ context.Context, runID string) (copier.Stage, error) {
	if !s.placed {
		if err := s.removeStaged(); err != nil {
			return nil, s.fail("remove what an earlier run left in "+s.aside(""), err)
		}
	}
	return &stage{Sink: s, run: runID, committed: s.placed}, nil
}

// removeStaged removes the record, durably, and then what was loaded: a record alone would
// be taken for that of a file in place.
func (s *Sink) removeStaged() error {
	if err := s.remove(recordName); err != nil {
		return err
	}
	if err := s.disk.Sync(s.aside("")); err != nil {
		return err
	}
	return s.remove(stagedName)
}

// remove removes a name in the directory beside the file, or that itself.
func (s *Sink) remove(name string) error {
	return s.disk.Remove(s.held.Root(), filepath.Join(s.beside(), name))
}

// Load implements [copier.Loader].
func (s *stage) Load(ctx context.Context, entries copier.Stream) (copier.LoadStats, error) {
	in := loading.New(ctx, entries, s.opts.MaxEntrySize, s.opts.Notify)
	path := s.aside(stagedName)
	size, err := s.write(path, in)
	in.Finish()
	in.Stats.FileBytes = size
	if in.Err != nil {
		return in.Stats, in.Err // not the disk's fault
	}
	if err == nil {
		err = s.disk.Sync(s.aside(""))
	}
	if err != nil {
		return in.Stats, s.fail("write "+path, err)
	}
	s.loaded = true
	return in.Stats, nil
}

// Prepare implements [copier.Stage].
func (s *stage) Prepare(ctx context.Context, r copier.Record) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if !s.loaded {
		return &copier.Error{Kind: copier.ErrDestination, Op: "commit " + s.opts.Path, Err: errors.New("nothing was loaded")}
	}
	if there, err := durable.Exists(s.opts.Path); err != nil {
		return s.fail("look at "+s.opts.Path, err)
	} else if there {
		return s.taken()
	}
	return s.Amend(r)
}

// Commit implements [copier.Stage] with one rename, which never replaces a file.
func (s *stage) Commit(context.Context) error {
	if err := s.disk.Place(s.aside(stagedName), s.opts.Path); err != nil {
		return errors.Join(s.fail("put "+s.opts.Path+" in place", err), s.undo())
	}
	if err := s.disk.Sync(s.dir()); err != nil {
		return errors.Join(s.fail("sync "+s.dir(), err), s.undo())
	}
	s.loaded, s.committed = false, true
	return nil
}

// undo is Rollback where Commit has failed: where that fails too, what is in place is not
// confirmed.
func (s *stage) undo() error {
	err := s.Rollback()
	if err != nil {
		s.committed = true // its record stays
		err = errors.Join(copier.ErrUnconfirmed, err)
	}
	return err
}

// Amend implements [copier.Stage].
func (s *stage) Amend(r copier.Record) error {
	data, err := r.Encode()
	if err == nil {
		err = s.disk.Replace(s.aside(recordName), data)
	}
	if err != nil {
		return s.fail("write "+s.aside(recordName), err)
	}
	return nil
}

// Rollback implements [copier.Stage]. No Vault runs on such a file: whoever has it open
// reads on.
func (s *stage) Rollback() error {
	placed, err := s.isPlaced()
	if err != nil {
		return err
	}
	if placed && (s.loaded || s.committed) {
		if err = s.disk.Rename(s.opts.Path, s.aside(stagedName)); err == nil {
			// Renaming does nothing where both names are links to one file.
			err = s.disk.RemoveFile(s.opts.Path)
		}
		if err == nil {
			err = s.disk.Sync(s.dir())
		}
	}
	if err != nil {
		return s.fail("take back "+s.opts.Path, err)
	}
	s.loaded, s.committed = false, false
	return nil
}

// Close implements [copier.Stage]. Of a result in place the record goes last.
func (s *stage) Close(keep bool) error {
	if keep {
		return nil
	}
	var err error
	if !s.committed {
		err = s.removeStaged()
	} else {
		err = errors.Join(s.remove(stagedName), s.remove(workName))
		if err == nil {
			err = s.disk.Sync(s.aside(""))
		}
	}
	if err == nil {
		err = s.remove("")
	}
	if err == nil {
		err = s.disk.Sync(s.dir())
	}
	if err != nil {
		return s.fail("remove "+s.aside(""), err)
	}
	return nil
}

// Close implements [copier.Sink]. It removes the directory beside the file where nothing
// is in it.
func (s *Sink) Close() error {
	var err error
	if s.staged {
		_ = s.disk.RemoveFile(s.WorkDir()) // both stay where they are not empty
		_ = s.disk.RemoveFile(s.aside(""))
	}
	if closeErr := s.held.Release(); closeErr != nil {
		err = s.fail("unlock "+s.dir(), closeErr)
	}
	return err
}

// Check implements [copier.Checker]: whether the file's directory can be written to, and
// nothing has the file's name. Open has done so at a copy.
func (s *Sink) Check(_ context.Context, when copier.Moment) (found copier.Findings, _ error) {
	if when == copier.AtCopy {
		return nil, nil
	}
	const check = "destination"
	there, err := durable.Exists(s.opts.Path)
	switch aerr := unix.Access(s.dir(), unix.W_OK|unix.X_OK); {
	case aerr != nil:
		found.Fail(check, "", "%w", s.fail("write to "+s.dir(), &fs.PathError{Op: "access", Path: s.dir(), Err: aerr}))
	case err != nil:
		found.Fail(check, "", "%w", s.fail("look at "+s.opts.Path, err))
	case there:
		found.Fail(check, "", "%w", s.taken())
	default:
		found.Pass(check, "%s can be made", s.opts.Path)
	}
	return found, nil
}
