package command

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"

	"golang.org/x/sys/unix"

	"github.com/dyn2raft/dyn2raft/copier/durable"
	"github.com/dyn2raft/dyn2raft/verify"
)

// What a command writes for a person goes to a file that the person names, and a
// wrong name may be that of anything: of a configuration, or of vault.db. So an
// output replaces only what is of its own kind.

// tryOutput finds out whether an output can be written to a file: that is new, empty,
// or begins as the kind does, and is not in the data directory at path. It reports
// whether the file is there.
func tryOutput(file, path, kind string, begins *regexp.Regexp) (there bool, err error) {
	if err := verify.OutsideOf(file, path); path != "" && err != nil {
		return false, err
	}
	if _, err := durable.IsFile(file + durable.OutputSuffix); err != nil {
		return false, err
	}
	f, err := os.OpenFile(file, os.O_RDONLY|unix.O_NONBLOCK|unix.O_NOFOLLOW, 0)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		probe, err := os.CreateTemp(filepath.Dir(file), ".dyn2raft-*")
		if err != nil {
			return false, err
		}
		return false, errors.Join(probe.Close(), os.Remove(probe.Name()))
	case errors.Is(err, unix.ELOOP), errors.Is(err, unix.ENXIO):
		return false, durable.ErrNotFile
	case err != nil:
		return false, err
	}
	defer f.Close()
	if fi, err := f.Stat(); err != nil || !fi.Mode().IsRegular() {
		return false, errors.Join(err, durable.ErrNotFile)
	}
	head, err := io.ReadAll(io.LimitReader(f, 4<<10))
	if err != nil {
		return false, err
	}
	if len(head) > 0 && !begins.Match(head) {
		return false, fmt.Errorf("it is there, and is not %s", kind)
	}
	return true, nil
}
