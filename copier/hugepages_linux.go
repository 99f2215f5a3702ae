package copier

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// hugePage is the size of a huge page on most machines.
const hugePage = 2 << 20

// hugePages asks the kernel to back fresh memory with huge pages, where it has
// them. Touching a hundred megabytes for the first time in pages of 4 KiB takes
// as long as decoding them, under a hypervisor longer.
func hugePages(b []byte) {
	b = b[:cap(b)]
	off := int(-uintptr(unsafe.Pointer(unsafe.SliceData(b))) % hugePage)
	n := (len(b) - off) / hugePage * hugePage
	if n <= 0 {
		return
	}
	// It is only a hint.
	_ = unix.Madvise(b[off:off+n], unix.MADV_HUGEPAGE)
}
