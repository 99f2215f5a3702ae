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

	"github.com/dyn2raft/dyn2raft/cmd/dyn2raft/hints"
	"github.com/dyn2raft/dyn2raft/copier"
	"github.com/dyn2raft/dyn2raft/copier/durable"
	"github.com/dyn2raft/dyn2raft/verify"
)

// What a command writes for a person goes to a file that the person names, and a
// wrong name may be that of anything: of a configuration, or of vault.db. So an
// output replaces only what is of its own kind.

// An output is such a file, or nothing where it has no name.
type output struct {
	file   string
	name   string         // of what is written, in a word
	kind   string         // what alone is replaced
	begins *regexp.Regexp // matches how it begins
	todo   string         // where it can't be written
}

// resultOf is where the result of a comparison goes, besides standard output.
func resultOf(file string) output {
	return output{file, "result", "the result of a comparison", resultBegins, "name a place that can be written: -o FILE"}
}

// resultBegins matches how encodeReport begins.
var resultBegins = regexp.MustCompile(`^\{\n  "source": \{\n    "name": ".*",\n    "id": "`)

// failed is an error of the file.
func (o output) failed(err error) error {
	if err == nil {
		return nil
	}
	return hints.With(&copier.Error{Kind: copier.ErrDestination, Op: "write " + o.name + " " + o.file, Err: err}, o.todo)
}

// clear finds out whether the file can be written, before anything is read for it, and
// removes what an earlier command has left there: if this one fails, that would be taken
// for what it has found. path is the data directory.
func (o output) clear(path string) error {
	there, err := o.find(path)
	if there && err == nil {
		err = os.Remove(o.file)
	}
	return o.failed(err)
}

// write writes the file, durably and whole.
func (o output) write(write func(io.Writer) error) error {
	if o.file == "" {
		return nil
	}
	var disk *durable.Disk
	return o.failed(disk.Output(o.file, -1, -1, write))
}

// find finds out whether an output can be written: to a file that is new, empty, or
// begins as the kind does, and is not in the data directory at path. It reports
// whether the file is there.
func (o output) find(path string) (there bool, err error) {
	file := o.file
	if file == "" {
		return false, nil
	}
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
	if len(head) > 0 && !o.begins.Match(head) {
		return false, fmt.Errorf("it is there, and is not %s", o.kind)
	}
	return true, nil
}
