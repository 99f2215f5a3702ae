// Package hints has the words of the command for what a person can do about an error.
package hints

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"text/template"

	"al.essio.dev/pkg/shellescape"
	"github.com/dustin/go-humanize"

	"github.com/dyn2raft/dyn2raft/copier"
)

// With adds to an error what to do about it.
func With(err error, hint string) error { return &hinted{err, hint} }

type hinted struct {
	error
	hint string
}

func (e *hinted) Unwrap() error { return e.error }
func (e *hinted) Hint() string  { return e.hint }

// Of is what to do about an error, or "" where nobody knows: what the first error in
// its tree says that has a method Hint, or a code in the table. Outer errors come
// before what they wrap, joined ones in their order.
func Of(err error) string {
	if e, ok := err.(interface{ Hint() string }); ok && e.Hint() != "" {
		return e.Hint()
	}
	if e, ok := err.(*copier.Error); ok && e.Code != "" { //nolint:errorlint // this walks the tree itself
		return render(e)
	}
	switch e := err.(type) { //nolint:errorlint // as above
	case interface{ Unwrap() error }:
		return Of(e.Unwrap())
	case interface{ Unwrap() []error }:
		for _, err := range e.Unwrap() {
			if h := Of(err); h != "" {
				return h
			}
		}
	}
	return ""
}

// render puts the facts of an error into the words for its code.
func render(e *copier.Error) string {
	t, err := parseWords(e)
	if err != nil {
		return fmt.Sprintf("no words for code %s: %v", e.Code, err) // a test has tried them all
	}
	var b bytes.Buffer
	if err := t.Execute(&b, e.Facts); err != nil {
		return fmt.Sprintf("no words for code %s: %v", e.Code, err)
	}
	if errors.Is(e, copier.ErrDestination) { // of what reads a destination's table, by the code of a source
		return strings.ReplaceAll(b.String(), "storage_source", "storage_destination")
	}
	return b.String()
}

// parseWords parses the words for an error's code. They have the facts as fields, and these
// functions: q quotes for a shell, lines does so with each line, size is a number of
// bytes, destination reports whether the error is of one, cause is what to do about what the error wraps, and aws about an error of the
// AWS configuration.
func parseWords(e *copier.Error) (*template.Template, error) {
	text, ok := table[e.Code]
	if !ok {
		return nil, fmt.Errorf("the table has none")
	}
	return template.New(string(e.Code)).Option("missingkey=error").Funcs(template.FuncMap{
		"q":     shellescape.Quote,
		"lines": func(s string) string { return shellescape.QuoteCommand(strings.Split(s, "\n")) },
		"size": func(s string) (string, error) {
			n, err := strconv.ParseUint(s, 10, 64)
			return humanize.IBytes(n), err
		},
		"destination": func() bool { return errors.Is(e, copier.ErrDestination) },
		"cause":       func() string { return Of(e.Err) },
		"aws":         func() string { return awsHint(e.Err, os.LookupEnv) },
	}).Parse(shared + text)
}
