// Package hold keeps other copies out of a directory of this machine, and has the codes of
// what goes wrong there.
package hold

import (
	"errors"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/dyn2raft/dyn2raft/copier"
)

// The codes of errors in a directory. A path is the directory's.
var (
	// DirectoryBusy: another process works on the directory.
	DirectoryBusy = copier.NewCode("directory-busy", "path")
	// NoFileLocks: its file system has no working locks.
	NoFileLocks = copier.NewCode("no-file-locks")
	// NoDirectory: it is not there. NotADirectory: something else is.
	NoDirectory   = copier.NewCode("no-directory", "path")
	NotADirectory = copier.NewCode("not-a-directory")
	// NotPermitted: this process may not do that. Facts: its user.
	NotPermitted = copier.NewCode("not-permitted", "user")
	// DiskFull: the file system is full, or a quota is used up. Facts, in bytes: what this
	// run has written, and what is free, or "".
	DiskFull = copier.NewCode("disk-full", "written", "free")
	// ReadOnly: the file system is mounted so.
	ReadOnly = copier.NewCode("read-only", "path")
	// StartedOn: files came into the directory while a copy was made into it.
	StartedOn = copier.NewCode("started-on", "path")
)

// A Hold keeps other copies out of a directory of this machine. The zero value holds
// nothing. It is used from one goroutine.
type Hold struct {
	lock *os.File // the directory, locked
	root *os.Root // the same
}

// Take opens a directory and locks it for this process, with a lock (flock) that ends
// with the process, whatever ends that. An error wraps [copier.ErrLocked] where another
// copy has it, else [copier.ErrDestination].
func (h *Hold) Take(path string) error {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		return h.Fail("open "+path, path, "", err)
	}
	err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	for range 5 {
		// Who only asks for the state of a copy holds it for a moment.
		if !errors.Is(err, unix.EWOULDBLOCK) {
			break
		}
		time.Sleep(100 * time.Millisecond)
		err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	}
	if err != nil {
		f.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			return &copier.Error{
				Kind: copier.ErrLocked,
				Op:   "lock " + path,
				Code: DirectoryBusy, Facts: map[string]string{"path": path},
				Err: errors.New("another dyn2raft holds this directory"),
			}
		}
		return &copier.Error{
			Kind: copier.ErrDestination,
			Op:   "lock " + path,
			Code: NoFileLocks,
			Err:  err,
		}
	}
	h.lock = f
	// What is removed is removed in the directory that is locked, whatever becomes of
	// the names that lead to it.
	if h.root, err = os.OpenRoot(path); err == nil {
		err = h.sameDirectory()
	}
	if err != nil {
		return errors.Join(h.Fail("open "+path, path, "", err), h.Release())
	}
	return nil
}

// sameDirectory reports as an error that the root is not the directory that is locked.
func (h *Hold) sameDirectory() error {
	locked, err := h.lock.Stat()
	if err != nil {
		return err
	}
	opened, err := h.root.Stat(".")
	if err == nil && !os.SameFile(locked, opened) {
		err = errors.New("another directory was put in its place")
	}
	return err
}

// Root is the directory that is held, for what is removed in it; nil where none is.
func (h *Hold) Root() *os.Root { return h.root }

// Held reports whether there is a directory that is held.
func (h *Hold) Held() bool { return h.lock != nil }

// Release gives the directory back. It may be repeated.
func (h *Hold) Release() error {
	if h.lock == nil {
		return nil
	}
	err := h.lock.Close()
	h.lock = nil
	if h.root != nil {
		err = errors.Join(err, h.root.Close())
		h.root = nil
	}
	return err
}

// Fail makes the error for a failed operation in the directory dir, with the code that
// belongs to its cause. What this run has written so far is in the file or directory
// staged.
func (h *Hold) Fail(op, dir, staged string, err error) error {
	if _, ok := errors.AsType[*copier.Error](err); ok {
		return err
	}
	e := &copier.Error{Kind: copier.ErrDestination, Op: op, Err: err}
	if strings.HasPrefix(err.Error(), op+": ") {
		e.Op = "" // it says so itself
	}
	path := map[string]string{"path": dir}
	switch {
	case errors.Is(err, unix.ENOSPC), errors.Is(err, unix.EDQUOT):
		e.Code, e.Facts = DiskFull, space(dir, staged)
	case errors.Is(err, unix.EROFS):
		e.Code, e.Facts = ReadOnly, path
	case errors.Is(err, unix.ENOENT) && h.lock == nil:
		e.Code, e.Facts = NoDirectory, path
	case errors.Is(err, unix.ENOTDIR) && h.lock == nil:
		e.Code = NotADirectory
	case errors.Is(err, unix.EACCES), errors.Is(err, unix.EPERM):
		e.Code, e.Facts = NotPermitted, map[string]string{"user": UserName(os.Geteuid())}
	case errors.Is(err, unix.EEXIST):
		e.Code, e.Facts = StartedOn, path
	}
	return e
}

// space is how much this run has written to the directory's file system, and how
// much is free there.
func space(dir, staged string) map[string]string {
	out := map[string]string{"written": strconv.FormatUint(TreeBytes(staged), 10), "free": ""}
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err == nil {
		out["free"] = strconv.FormatUint(st.Bavail*uint64(st.Bsize), 10)
	}
	return out
}

// TreeBytes is what the files under root that can be seen take up on the disk.
func TreeBytes(root string) (n uint64) {
	entries, err := os.ReadDir(root)
	if err != nil {
		return 0
	}
	for _, e := range entries {
		if e.IsDir() {
			n += TreeBytes(filepath.Join(root, e.Name()))
		} else if fi, err := e.Info(); err == nil {
			if st, ok := fi.Sys().(*syscall.Stat_t); ok {
				n += uint64(st.Blocks) * 512 // whatever the file system's block size is
			}
		}
	}
	return n
}

// UserName is a user's name, or number where there is no name.
func UserName(uid int) string {
	id := strconv.Itoa(uid)
	if u, err := user.LookupId(id); err == nil {
		return u.Username
	}
	return id
}
