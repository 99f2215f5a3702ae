package memory

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// hugePage is the size of a huge page on most machines.
const hugePage = 2 << 20

// huge asks for huge pages. Those in which b begins and ends are among them,
// whoever has their other parts: pieces made one after the other lie side by side.
func huge(b []byte) {
	if cap(b) == 0 {
		return
	}
	b = b[:cap(b)]
	start := unsafe.Pointer(unsafe.SliceData(b))
	before := uintptr(start) % hugePage
	size := (before + uintptr(len(b)) + hugePage - 1) / hugePage * hugePage
	// It is only a hint, and what lies around is neither read nor written.
	_, _, _ = unix.Syscall(unix.SYS_MADVISE, uintptr(start)-before, size, unix.MADV_HUGEPAGE)
}
