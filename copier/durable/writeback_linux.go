package durable

import (
	"syscall"

	"golang.org/x/sys/unix"
)

// StartWriteback asks the kernel to begin writing a range of an open file to
// disk, up to its end where n is 0, and does not wait for it. Left alone, the
// kernel may keep a gigabyte in memory until it is synced, while the disk idles.
// It is only a hint: the sync that follows reports what goes wrong.
func StartWriteback(f syscall.Conn, off, n int64) {
	raw, err := f.SyscallConn()
	if err != nil {
		return
	}
	_ = raw.Control(func(fd uintptr) {
		_ = unix.SyncFileRange(int(fd), off, n, unix.SYNC_FILE_RANGE_WRITE)
	})
}
