package node

import (
	"os"

	"golang.org/x/sys/unix"
)

// fileSystem names the kind of a file system, and says why a Vault should not
// run on it, if it should not.
func fileSystem(st *unix.Statfs_t) (kind, unfit string) {
	kind = unix.ByteSliceToString(st.Fstypename[:])
	switch kind {
	case "nfs", "smbfs":
		unfit = "Vault needs locks and mapped files that work"
	}
	return kind, unfit
}

// Memory returns what this machine has, in bytes; all of it counts as
// available.
func Memory() (total, available int64, err error) {
	n, err := unix.SysctlUint64("hw.memsize")
	return int64(n), int64(n), err
}

// syncData returns when what was written to a file is on its disk.
func syncData(f *os.File) error { return f.Sync() } // F_FULLFSYNC
