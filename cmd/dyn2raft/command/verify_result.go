package command

import (
	"io"
	"os"
	"regexp"

	"github.com/urfave/cli/v3"

	"github.com/dyn2raft/dyn2raft/cmd/dyn2raft/hints"
	"github.com/dyn2raft/dyn2raft/copier"
	"github.com/dyn2raft/dyn2raft/copier/durable"
	"github.com/dyn2raft/dyn2raft/verify"
)

func resultFlag() cli.Flag {
	return &cli.StringFlag{Name: "o", Usage: "write the result to this `file` too, as JSON, for 'dyn2raft report -verify'; only an earlier result is replaced"}
}

// A resultFile is where the result of a comparison goes, besides standard
// output; nowhere if it is empty.
type resultFile string

// try finds out whether the file can be written, before anything is read for it. What
// an earlier comparison has left there goes: if this one fails, that would be taken for
// its result. path is the data directory.
func (file resultFile) try(path string) error {
	if file == "" {
		return nil
	}
	there, err := tryOutput(string(file), path, "the result of a comparison", resultBegins)
	if there && err == nil {
		err = os.Remove(string(file))
	}
	return file.failed(err)
}

// resultBegins matches how encodeReport begins.
var resultBegins = regexp.MustCompile(`^\{\n  "source": \{\n    "name": ".*",\n    "id": "`)

// write writes the result, durably and whole.
func (file resultFile) write(rep *verify.DirectoryReport, found *spool) error {
	if file == "" {
		return nil
	}
	var disk *durable.Disk
	return file.failed(disk.Output(string(file), -1, -1, func(w io.Writer) error { return encodeReport(w, rep, found) }))
}

func (file resultFile) failed(err error) error {
	if err == nil {
		return nil
	}
	return hints.With(&copier.Error{Kind: copier.ErrDestination, Op: "write result " + string(file), Err: err}, "name a place that can be written: -o FILE")
}
