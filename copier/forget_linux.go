package copier

import (
	"os"

	"golang.org/x/sys/unix"
)

// forget tells the kernel that a part of a synced file will not be read again.
func forget(f *os.File, off, n int64) {
	// It is only a hint.
	_ = unix.Fadvise(int(f.Fd()), off, n, unix.FADV_DONTNEED)
}
