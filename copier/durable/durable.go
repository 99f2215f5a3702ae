// Package durable does the operations on a file system that decide what a
// crash leaves behind: making, writing, syncing, renaming and removing files.
// The engine's checkpoints and the sinks' results go through it, so that tests
// can make each operation fail, end the process in front of it, or take away
// what was not synced when the power failed.
package durable

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"golang.org/x/sys/unix"
)

// A Disk is a file system. The zero value, and a nil pointer, are the real
// one. It is safe for concurrent use if Before is.
type Disk struct {
	// Before, where set, is called ahead of each operation; an error takes
	// the operation's place.
	Before func(Op) error
}

// The verbs of operations.
const (
	Mkdir    = "mkdir"    // make the directory Path
	Create   = "create"   // make the file Path, which is empty then
	Write    = "write"    // write to the file Path
	Sync     = "sync"     // make Path's content, or a directory's names, durable
	Finalize = "finalize" // give Path its mode, and sync it
	Place    = "place"    // rename From to Path, which must be free
	Rename   = "rename"   // rename From to Path, and replace that
	Remove   = "remove"   // remove Path and all below it
)

// An Op is an operation that is about to be done.
type Op struct {
	Verb string
	Path string
	From string // of a rename, and what it was
}

// String names the operation by its verb and the last element of its path.
func (o Op) String() string { return o.Verb + " " + filepath.Base(o.Path) }

// Step announces an operation that somebody else does.
func (d *Disk) Step(verb, path string) error { return d.step(Op{Verb: verb, Path: path}) }

func (d *Disk) step(op Op) error {
	if d == nil || d.Before == nil {
		return nil
	}
	return d.Before(op)
}

// Mkdir makes a directory for its owner alone.
func (d *Disk) Mkdir(path string) error {
	if err := d.Step(Mkdir, path); err != nil {
		return err
	}
	return os.Mkdir(path, 0o700)
}

// A File is a new file that is being written.
type File struct {
	f    *os.File
	disk *Disk
}

// Create makes a file for its owner alone. It fails where there is one.
func (d *Disk) Create(path string) (*File, error) {
	if err := d.Step(Create, path); err != nil {
		return nil, err
	}
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return nil, err
	}
	return &File{f: f, disk: d}, nil
}

// Name is the path that the file was made with.
func (f *File) Name() string { return f.f.Name() }

// Write implements [io.Writer].
func (f *File) Write(p []byte) (int, error) {
	if err := f.disk.Step(Write, f.Name()); err != nil {
		return 0, err
	}
	return f.f.Write(p)
}

// WriteAt implements [io.WriterAt].
func (f *File) WriteAt(p []byte, off int64) (int, error) {
	if err := f.disk.Step(Write, f.Name()); err != nil {
		return 0, err
	}
	return f.f.WriteAt(p, off)
}

// Stat describes the file.
func (f *File) Stat() (os.FileInfo, error) { return f.f.Stat() }

// SyscallConn implements [syscall.Conn]: for hints to the kernel, and nothing that
// changes the file.
func (f *File) SyscallConn() (syscall.RawConn, error) { return f.f.SyscallConn() }

// Sync makes what was written durable, but not yet the file's name.
func (f *File) Sync() error {
	if err := f.disk.Step(Sync, f.Name()); err != nil {
		return err
	}
	return f.f.Sync()
}

// Close closes the file. It does not sync it.
func (f *File) Close() error { return f.f.Close() }

// WriteFile makes a new file with the given content. It does not sync it.
func (d *Disk) WriteFile(path string, data []byte) error {
	f, err := d.Create(path)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	return errors.Join(err, f.Close())
}

// Replace gives the file at path a new content, durably: after a crash at any
// moment it has the old or the new one. path + ".tmp" is written on the way,
// and a file that is there is replaced. So path is in a directory of our own;
// for any other, there is Output.
func (d *Disk) Replace(path string, data []byte) error {
	return d.ReplaceWith(path, func(w io.Writer) error {
		_, err := w.Write(data)
		return err
	})
}

// ReplaceWith is Replace for a content that write writes piece by piece.
func (d *Disk) ReplaceWith(path string, write func(io.Writer) error) error {
	return d.replace(path, path+".tmp", write, -1, -1)
}

// OutputSuffix is added to the name of an output while it is written.
const OutputSuffix = ".dyn2raft-tmp"

// Output is ReplaceWith for a file in a directory of the user's, where nothing
// is touched but path and path + OutputSuffix, and that only if it is a file.
// Unless uid is -1, the file belongs to uid and gid before it has its name.
func (d *Disk) Output(path string, uid, gid int, write func(io.Writer) error) error {
	return d.replace(path, path+OutputSuffix, write, uid, gid)
}

func (d *Disk) replace(path, tmp string, write func(io.Writer) error, uid, gid int) error {
	if there, err := IsFile(tmp); err != nil {
		return err
	} else if there {
		if err := d.RemoveFile(tmp); err != nil {
			return err
		}
	}
	f, err := d.Create(tmp)
	if err != nil {
		return err
	}
	if err = write(f); err == nil && uid != -1 {
		err = f.f.Chown(uid, gid)
	}
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err == nil {
		err = d.Rename(tmp, path)
	}
	if err != nil {
		_ = d.RemoveFile(tmp) // what stays is removed by whoever comes next
		return err
	}
	return d.Sync(filepath.Dir(path))
}

// ReplaceLike is Output for a file that gets the mode and the owner of another, such
// as those of the one that is replaced. An error is [ErrNotFile] where that is no
// regular file: the mode of a link is open to everybody.
func (d *Disk) ReplaceLike(path string, data []byte, like os.FileInfo) error {
	if !like.Mode().IsRegular() {
		return &fs.PathError{Op: "replace", Path: path, Err: ErrNotFile}
	}
	return d.Output(path, -1, -1, func(w io.Writer) error {
		f := w.(*File).f //nolint:errcheck // it is
		if err := f.Chmod(like.Mode().Perm()); err != nil {
			return err
		}
		if s, ok := like.Sys().(*syscall.Stat_t); ok {
			is, err := f.Stat()
			if err != nil {
				return err
			}
			if has, ok := is.Sys().(*syscall.Stat_t); ok && (has.Uid != s.Uid || has.Gid != s.Gid) {
				if err := f.Chown(int(s.Uid), int(s.Gid)); err != nil {
					return err
				}
			}
		}
		_, err := w.Write(data)
		return err
	})
}

// Sync makes a file's content, or a directory's names, durable.
func (d *Disk) Sync(path string) error {
	if err := d.Step(Sync, path); err != nil {
		return err
	}
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

// Finalize gives a file, or a directory with all that is in it, modes for its
// owner alone (0600, 0700), and makes all of it durable.
func (d *Disk) Finalize(path string) error {
	if err := d.Step(Finalize, path); err != nil {
		return err
	}
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	fi, err := f.Stat()
	if err != nil {
		return err
	}
	mode := os.FileMode(0o600)
	if fi.IsDir() {
		mode = 0o700
		names, err := f.ReadDir(-1)
		if err != nil {
			return err
		}
		for _, e := range names {
			if err := d.Finalize(filepath.Join(path, e.Name())); err != nil {
				return err
			}
		}
	}
	if err := f.Chmod(mode); err != nil {
		return err
	}
	return f.Sync()
}

// Place renames a file or directory to a name that must be free; an error is
// EEXIST if it is not.
func (d *Disk) Place(from, to string) error {
	if err := d.step(Op{Verb: Place, Path: to, From: from}); err != nil {
		return err
	}
	return renameNew(from, to)
}

// Rename renames a file or directory, and replaces a file that has the name.
func (d *Disk) Rename(from, to string) error {
	if err := d.step(Op{Verb: Rename, Path: to, From: from}); err != nil {
		return err
	}
	return os.Rename(from, to)
}

// Remove removes a file, or a directory with all that is in it. It is no error
// if there is none. It is an error if a link leads to it from outside root: whoever
// may change a name below root can't have anything removed elsewhere.
func (d *Disk) Remove(root *os.Root, name string) error {
	if err := d.Step(Remove, filepath.Join(root.Name(), name)); err != nil {
		return err
	}
	return root.RemoveAll(name)
}

// RemoveFile removes a file, or a directory that is empty. It is no error if
// there is none.
func (d *Disk) RemoveFile(path string) error {
	if err := d.Step(Remove, path); err != nil {
		return err
	}
	if err := os.Remove(path); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// ErrNotFile is returned where a name is taken by something that is not a
// regular file, such as a directory, a link or a pipe.
var ErrNotFile = errors.New("not a regular file")

// IsFile reports whether there is a regular file at path. An error wraps
// [ErrNotFile] where there is anything else.
func IsFile(path string) (bool, error) {
	fi, err := os.Lstat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return false, nil
	case err != nil:
		return false, err
	case !fi.Mode().IsRegular():
		return false, &fs.PathError{Op: "open", Path: path, Err: ErrNotFile}
	}
	return true, nil
}

// ErrTooLarge is returned by [ReadFile] for a file above its limit.
var ErrTooLarge = errors.New("the file is too large to be what it should be")

// ReadFile reads a regular file of at most limit bytes. It never waits, as
// reading a pipe would, and never reads a device. An error wraps [ErrNotFile]
// or [ErrTooLarge].
func ReadFile(path string, limit int64) ([]byte, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK|unix.O_NOCTTY, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	fi, err := f.Stat()
	switch {
	case err != nil:
		return nil, err
	case !fi.Mode().IsRegular():
		return nil, &fs.PathError{Op: "read", Path: path, Err: ErrNotFile}
	case fi.Size() > limit:
		return nil, &fs.PathError{Op: "read", Path: path, Err: ErrTooLarge}
	}
	data, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err == nil && int64(len(data)) > limit {
		return nil, &fs.PathError{Op: "read", Path: path, Err: ErrTooLarge}
	}
	return data, err
}

// Exists reports whether there is something at path, a link without an end
// included.
func Exists(path string) (bool, error) {
	_, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return err == nil, err
}

// renameByLink is renameNew for file systems that can't rename without
// replacing. A file gets its new name with a link, which never replaces.
// A directory can't be linked: it is renamed after a look, under the lock that
// keeps other runs away, and the rename itself fails on a directory that is
// not empty.
func renameByLink(from, to string) error {
	fi, err := os.Lstat(from)
	if err != nil {
		return err
	}
	if fi.IsDir() {
		there, err := Exists(to)
		if err != nil {
			return err
		}
		if there {
			return &os.LinkError{Op: "rename", Old: from, New: to, Err: unix.EEXIST}
		}
		return os.Rename(from, to)
	}
	if err := os.Link(from, to); err != nil {
		return err
	}
	// The file has its new name now, and that is what counts. If the old one
	// stays, it goes with the staging directory.
	_ = os.Remove(from)
	return nil
}
