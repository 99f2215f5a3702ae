package raft

import (
	"errors"
	"fmt"
	"os"
	"unsafe"

	"go.etcd.io/bbolt"
	"golang.org/x/sys/unix"
)

// canDropCache finds out whether files in a directory are on a device at all.
func canDropCache(dir string) error {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return nil //nolint:nilerr // whoever needs the directory says so
	}
	switch int64(st.Type) { //nolint:unconvert // other processors have other types
	case unix.TMPFS_MAGIC, unix.RAMFS_MAGIC, unix.HUGETLBFS_MAGIC:
		return errors.New("its file system is in memory, so there is no device to read from")
	}
	return nil
}

// maxResident is how much of a file, in percent, may still be in memory when it
// was let go of: pages that the kernel is just about to move around.
const maxResident = 5

// dropCache makes the system forget what it holds of a synced file in memory,
// and looks whether it has.
func dropCache(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := errors.Join(f.Sync(), unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED)); err != nil {
		return err
	}
	held, pages, err := resident(f)
	if err != nil {
		return fmt.Errorf("look what of it is in memory: %w", err)
	}
	if held*100 > pages*maxResident {
		return fmt.Errorf("%d of its %d pages are still in memory: the file system does not let go of them", held, pages)
	}
	return nil
}

// unmap has this process's map of an open bbolt file hold none of its pages: a page that
// is mapped is not let go of. They are read again where they are needed.
func unmap(db *bbolt.DB) error {
	return db.View(func(tx *bbolt.Tx) error {
		info := db.Info()
		data := unsafe.Slice(*(**byte)(unsafe.Pointer(&info.Data)), tx.Size()) //nolint:gosec // an address, as bbolt says it
		return unix.Madvise(data, unix.MADV_DONTNEED)
	})
}

// resident counts the pages of a file, and those of them that are in memory.
// The file is mapped to be asked about and not read by that.
func resident(f *os.File) (held, pages int, err error) {
	st, err := f.Stat()
	if err != nil || st.Size() == 0 {
		return 0, 0, err
	}
	const step = 1 << 30 // bytes
	for at := int64(0); at < st.Size(); at += step {
		m, err := unix.Mmap(int(f.Fd()), at, int(min(step, st.Size()-at)), unix.PROT_READ, unix.MAP_SHARED)
		if err != nil {
			return 0, 0, err
		}
		in := make([]byte, (len(m)+os.Getpagesize()-1)/os.Getpagesize())
		_, _, errno := unix.Syscall(unix.SYS_MINCORE, uintptr(unsafe.Pointer(&m[0])), uintptr(len(m)), uintptr(unsafe.Pointer(&in[0])))
		err = unix.Munmap(m)
		if errno != 0 {
			err = errno
		}
		if err != nil {
			return 0, 0, err
		}
		for _, b := range in {
			held += int(b & 1)
		}
		pages += len(in)
	}
	return held, pages, nil
}
