package verify

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

// dropCache makes the system forget what it holds of a synced file in memory.
func dropCache(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED), f.Close())
}
