package boltfile

import (
	"syscall"

	"golang.org/x/sys/unix"
)

// startWriteback asks the kernel to begin writing a range of f to disk, and
// does not wait for it. Left alone, the kernel may keep a gigabyte in memory
// until the sync at the end, while the disk idles.
func startWriteback(f File, off, n int64) {
	c, ok := f.(syscall.Conn)
	if !ok {
		return
	}
	raw, err := c.SyscallConn()
	if err != nil {
		return
	}
	// It is only a hint: the sync that follows reports what goes wrong.
	_ = raw.Control(func(fd uintptr) {
		_ = unix.SyncFileRange(int(fd), off, n, unix.SYNC_FILE_RANGE_WRITE)
	})
}
