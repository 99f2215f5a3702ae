package raft

import (
	"errors"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// A disk does the operations on the file system that decide what a crash
// leaves behind. All of them go through it, so that tests can make each fail,
// or end the process in front of it.
type disk struct {
	// before is called with the name of an operation ahead of it; an error
	// takes the operation's place. Nil outside of tests.
	before func(op string) error
}

// step announces an operation.
func (d disk) step(op string) error {
	if d.before == nil {
		return nil
	}
	return d.before(op)
}

func (d disk) mkdir(path string) error {
	if err := d.step("mkdir " + filepath.Base(path)); err != nil {
		return err
	}
	return os.Mkdir(path, 0o700)
}

// writeFile makes a new file. It does not sync it.
func (d disk) writeFile(path string, data []byte) error {
	if err := d.step("write " + filepath.Base(path)); err != nil {
		return err
	}
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	return errors.Join(err, f.Close())
}

// sync makes a file's content, or a directory's names, durable.
func (d disk) sync(path string) error {
	if err := d.step("sync " + filepath.Base(path)); err != nil {
		return err
	}
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

// seal gives a file or a whole directory the modes that Vault would give it
// (0600, 0700) and its owner, and makes all of it durable.
func (d disk) seal(path string, o owner) error {
	if err := d.step("seal " + filepath.Base(path)); err != nil {
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
			if err := d.seal(filepath.Join(path, e.Name()), o); err != nil {
				return err
			}
		}
	}
	if err := f.Chmod(mode); err != nil {
		return err
	}
	if o.set {
		if err := f.Chown(o.uid, o.gid); err != nil {
			return err
		}
	}
	return f.Sync()
}

// renameNew renames a file or directory to a name that must be free; an error
// is EEXIST if it is not.
func (d disk) renameNew(from, to string) error {
	if err := d.step("place " + filepath.Base(to)); err != nil {
		return err
	}
	return renameNew(from, to)
}

func (d disk) rename(from, to string) error {
	if err := d.step("rename " + filepath.Base(to)); err != nil {
		return err
	}
	return os.Rename(from, to)
}

func (d disk) remove(path string) error {
	if err := d.step("remove " + filepath.Base(path)); err != nil {
		return err
	}
	return os.Remove(path)
}

func (d disk) removeAll(path string) error {
	if err := d.step("remove " + filepath.Base(path)); err != nil {
		return err
	}
	return os.RemoveAll(path)
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
		there, err := exists(to)
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
