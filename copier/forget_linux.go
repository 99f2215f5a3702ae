package copier

import (
	"os"

	"golang.org/x/sys/unix"
)

// forget tells the kernel that a part of f will not be read again, in pages of
// 4 KiB that lie wholly within it. What was not written to disk yet stays.
func forget(f *os.File, off, n int64) {
	// It is only a hint.
	_ = unix.Fadvise(int(f.Fd()), off, n, unix.FADV_DONTNEED)
}
