package durable

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

// renameNew renames from to to and fails with EEXIST where to exists.
func renameNew(from, to string) error {
	err := unix.Renameat2(unix.AT_FDCWD, from, unix.AT_FDCWD, to, unix.RENAME_NOREPLACE)
	// EINVAL is a file system's answer that does not know the flag, NFS for
	// instance, ENOSYS that of a kernel that does not know the call.
	if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOSYS) {
		return renameByLink(from, to)
	}
	if err != nil {
		return &os.LinkError{Op: "rename", Old: from, New: to, Err: err}
	}
	return nil
}
