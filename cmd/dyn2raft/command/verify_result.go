package command

import (
	"errors"
	"io"
	"os"
	"path/filepath"

	"github.com/urfave/cli/v3"

	"github.com/dyn2raft/dyn2raft/copier"
	"github.com/dyn2raft/dyn2raft/copier/durable"
	"github.com/dyn2raft/dyn2raft/verify"
)

func resultFlag() cli.Flag {
	return &cli.StringFlag{Name: "o", Usage: "write the result to this `file` too, as JSON, for 'dyn2raft report -verify'"}
}

// A resultFile is where the result of a comparison goes, besides standard
// output; nowhere if it is empty.
type resultFile string

// try finds out whether the file can be written, before anything is read for it. What
// an earlier comparison has left there goes: if this one fails, that would be taken for
// its result. Nothing else does: a wrong name may be that of vault.db.
func (file resultFile) try() error {
	if file == "" {
		return nil
	}
	f, err := os.CreateTemp(filepath.Dir(string(file)), ".dyn2raft-*")
	if err == nil {
		err = errors.Join(f.Close(), os.Remove(f.Name()))
	}
	if fi, serr := os.Lstat(string(file)); err == nil && serr == nil && !fi.Mode().IsRegular() {
		err = errors.New("it is not a regular file")
	} else if err == nil && serr == nil {
		if err = file.isResult(); err == nil {
			err = os.Remove(string(file))
		}
	}
	return file.failed(err)
}

// isResult refuses a file that is there and does not begin as encodeReport does. An
// empty one holds nothing.
func (file resultFile) isResult() error {
	f, err := os.Open(string(file))
	if err != nil {
		return err
	}
	defer f.Close()
	const begins = "{\n  \"source\": {"
	head := make([]byte, len(begins))
	n, err := io.ReadFull(f, head)
	if n == 0 && errors.Is(err, io.EOF) || string(head) == begins {
		return nil
	}
	return errors.New("it is there, and is no result of a comparison")
}

// write writes the result, durably and whole.
func (file resultFile) write(rep *verify.Report, found *spool) error {
	if file == "" {
		return nil
	}
	var disk *durable.Disk
	return file.failed(disk.ReplaceWith(string(file), func(w io.Writer) error { return encodeReport(w, rep, found) }))
}

func (file resultFile) failed(err error) error {
	if err == nil {
		return nil
	}
	return &copier.Error{Kind: copier.ErrDestination, Op: "write result " + string(file), Err: err, Hint: "name a place that can be written: -o FILE"}
}
