// Package report writes what a copy did as one HTML page for people who were
// not there. The page needs nothing beside itself: no network, no script, no
// file. It prints on A4 paper, and is readable in the dark and on a phone.
package report

import (
	"bytes"
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"html/template"
	"io"
	"io/fs"

	"github.com/dyn2raft/dyn2raft/cmd/dyn2raft/figures"
	"github.com/dyn2raft/dyn2raft/cmd/dyn2raft/hints"
	"github.com/dyn2raft/dyn2raft/cmd/dyn2raft/visible"
	"github.com/dyn2raft/dyn2raft/copier"
	"github.com/dyn2raft/dyn2raft/copier/durable"
	"github.com/dyn2raft/dyn2raft/sources/dynamodb"
	"github.com/dyn2raft/dyn2raft/verify"
)

// An Input is what a report tells of.
type Input struct {
	// Manifest is the record of the copy.
	Manifest *copier.Record
	// Verification is a comparison that was made after the copy; nil if none
	// was.
	Verification *verify.DirectoryReport
}

// ErrNotVerification is returned when a file is not what
// `dyn2raft verify -format json` prints.
var ErrNotVerification = errors.New("not a result of dyn2raft verify -format json")

// ErrOtherSource is returned when the verification read another table than the
// copy.
var ErrOtherSource = errors.New("it compared another table")

//go:embed page.html
var page string

var pageTemplate = template.Must(template.New("page").Funcs(template.FuncMap{
	"show": visible.Text, "source": sourceOf, "name": name, "count": count, "size": figures.Size, "took": took, "at": at,
	"number": func(n int) string { return count(int64(n)) }, "some": some, "word": word, "capital": capital, "times": figures.Times, "part": fraction, "setting": setting,
	"percent":   func(share float64) string { return figures.Percent(share, 4) },
	"units":     func(c copier.Counts) string { return perSecond(c[dynamodb.ReadCapacityUnits]) },
	"isRaft":    isRaft,
	"to":        func(m *copier.Record) string { return visible.Text(hints.Destination(m.Destination)) },
	"fromWord":  func(m *copier.Record) string { return hints.SourceWord(m.Source) },
	"inWord":    func(m *copier.Record) string { return hints.DestinationWord(hints.DestinationType(m.Destination)) },
	"holdsWord": func(m *copier.Record) string { return hints.ResultWord(hints.DestinationType(m.Destination)) },
	"limit":     func(l copier.Limit) string { return limits[l] },
}).Parse(page))

// Write writes the page. An error wraps [copier.ErrConfig] and ErrOtherSource
// where the verification is of another table; others are of w. Nothing is
// written before the whole page is made.
func Write(w io.Writer, in Input) error {
	if v := in.Verification; v != nil && v.Source.ID != in.Manifest.Source.ID {
		return hints.With(&copier.Error{Kind: copier.ErrConfig, Op: "use verification", Err: fmt.Errorf("%w: %s, and the copy is of %s", ErrOtherSource, visible.Text(v.Source.ID), visible.Text(in.Manifest.Source.ID))},
			"run verify with the configuration that the copy was made with")
	}
	var b bytes.Buffer
	if err := pageTemplate.Execute(&b, newView(in)); err != nil {
		return fmt.Errorf("make report: %w", err)
	}
	_, err := w.Write(b.Bytes())
	return err
}

// maxVerification bounds what is read of a comparison's result, in bytes: with all
// differing keys of a large table it is large.
const maxVerification = 2 << 30

// Begins is how every report begins.
const Begins = "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta name=\"generator\" content=\"dyn2raft report\">\n"

// ReadVerification reads the JSON that `dyn2raft verify -format json` prints.
// An error wraps [copier.ErrConfig], and ErrNotVerification where the file is
// something else.
func ReadVerification(file string) (*verify.DirectoryReport, error) {
	const hint = "give a file that was made with: dyn2raft verify -config migrate.hcl -o verify.json"
	data, err := durable.ReadFile(file, maxVerification)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, readError("read verification", err, hint)
	}
	if err != nil {
		return nil, readError("read verification", err, "")
	}
	var v struct {
		verify.DirectoryReport
		// A comparison always has these, whatever it found.
		Complete *bool            `json:"complete"`
		Prefixes *[]verify.Prefix `json:"prefixes"`
	}
	if err := json.Unmarshal(data, &v); err != nil {
		return nil, readError("read verification "+file, fmt.Errorf("%w: %w", ErrNotVerification, err), hint)
	}
	if v.Complete == nil || v.Prefixes == nil || v.Source.ID == "" {
		return nil, readError("read verification "+file, ErrNotVerification, hint)
	}
	v.DirectoryReport.Complete, v.DirectoryReport.Prefixes = *v.Complete, *v.Prefixes
	return &v.DirectoryReport, nil
}

func readError(op string, err error, hint string) error {
	return hints.With(&copier.Error{Kind: copier.ErrConfig, Op: op, Err: err}, hint)
}
