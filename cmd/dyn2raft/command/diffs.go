package command

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"os"

	"github.com/dyn2raft/dyn2raft/cmd/dyn2raft/hints"
	"github.com/dyn2raft/dyn2raft/cmd/dyn2raft/visible"
	"github.com/dyn2raft/dyn2raft/copier"
	"github.com/dyn2raft/dyn2raft/verify"
)

// A spool keeps the differences that a comparison names until its result is
// printed. There may be millions, so they are in a file, one JSON object a line;
// it has no name, so that nothing is left of it whatever happens.
type spool struct {
	dir string // where work files are, once there is something to keep
	f   *os.File
	w   *bufio.Writer
}

func spoolError(op string, err error) error {
	if err == nil {
		return nil
	}
	return hints.With(&copier.Error{Kind: copier.ErrDestination, Op: op, Err: err},
		"every key that differs takes about 350 bytes of the work directory until it is printed: make room, name another place with -work-dir, or bound their number with -max-diffs")
}

func (s *spool) add(d verify.Diff) error {
	if s.f == nil {
		f, err := os.CreateTemp(s.dir, "differences-*")
		if err != nil {
			return spoolError("make work file", err)
		}
		s.f, s.w = f, bufio.NewWriterSize(f, 64<<10)
		if err := os.Remove(f.Name()); err != nil {
			return spoolError("remove work file", err)
		}
	}
	return spoolError("write work file", json.NewEncoder(s.w).Encode(d))
}

// each calls do with every difference.
func (s *spool) each(do func(verify.Diff) error) error {
	if s.f == nil {
		return nil
	}
	if err := s.w.Flush(); err != nil {
		return spoolError("write work file", err)
	}
	if _, err := s.f.Seek(0, io.SeekStart); err != nil {
		return spoolError("read work file", err)
	}
	for in := json.NewDecoder(s.f); ; {
		var d verify.Diff
		if err := in.Decode(&d); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return spoolError("read work file", err)
		}
		if err := do(d); err != nil {
			return err
		}
	}
}

func (s *spool) close() {
	if s.f != nil {
		_ = s.f.Close() // it is gone with that
	}
}

// encodeReport writes a report as one JSON object, with the differences in it.
func encodeReport(to io.Writer, rep any, found *spool) error {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetIndent("", "  ")
	if err := enc.Encode(rep); err != nil {
		return err
	}
	const empty = "\n  \"diffs\": []"
	before, after, ok := bytes.Cut(b.Bytes(), []byte(empty))
	if !ok {
		return errors.New("write the report: it has no place for the differences")
	}
	// A command that fails prints no JSON, so what can fail is tried first.
	if err := found.each(func(verify.Diff) error { return nil }); err != nil {
		return err
	}
	w := bufio.NewWriterSize(to, 64<<10)
	_, err := w.Write(before)
	separator, end := "\n  \"diffs\": [\n    ", empty
	err = errors.Join(err, found.each(func(d verify.Diff) error {
		text, err := json.MarshalIndent(d, "    ", "  ")
		if err != nil {
			return err
		}
		_, err = w.WriteString(separator + string(text))
		separator, end = ",\n    ", "\n  ]"
		return err
	}))
	_, werr := w.WriteString(end)
	_, aerr := w.Write(after)
	return errors.Join(err, werr, aerr, w.Flush())
}

// name writes the differences, one a line, and returns the first error. from and to are
// words for both sides.
func (p *printer) name(rep *verify.DirectoryReport, found *spool, from, to string) error {
	w := bufio.NewWriterSize(p.stdout, 64<<10)
	err := found.each(func(d verify.Diff) error {
		why := ""
		switch {
		case d.Known != "":
			why = ": " + d.Known
		case rep.Started:
			why = ": changed since the start, cannot be judged"
		}
		_, err := w.WriteString(visible.Text(string(d.Kind)+" "+keyOf(d.Key, d.KeyBytes, d.KeySHA256)+describe(", "+from+": ", d.Source)+describe(", "+to+": ", d.Destination)+why) + "\n")
		return err
	})
	return errors.Join(err, w.Flush())
}
