package vaultconfig

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"
)

var (
	// ErrConfig is returned when the configuration file or a variable of the
	// environment that belongs to it cannot be used.
	ErrConfig = errors.New("configuration not usable")
	// ErrStrict is returned by [Config.Strict] when there are warnings.
	ErrStrict = fmt.Errorf("-strict refuses what Vault ignores (%w)", ErrConfig)
)

// Error is one mistake in the configuration: where, what, and what to do.
type Error struct {
	File     string // the file, or empty
	Line     int    // counted from 1; 0 where no line is to blame
	Variable string // the environment variable, if the mistake is there
	Problem  string
	Hint     string // what to do next; may be empty, may have several lines
	Err      error  // the cause, or nil
}

func (e *Error) Error() string {
	var b strings.Builder
	switch {
	case e.Variable != "":
		fmt.Fprintf(&b, "environment variable %s ", e.Variable)
	case e.File != "":
		fmt.Fprintf(&b, "%s: ", position(e.File, e.Line))
	}
	b.WriteString(e.Problem)
	if e.Hint != "" {
		b.WriteString("; " + e.Hint)
	}
	return b.String()
}

// Unwrap makes every Error an [ErrConfig].
func (e *Error) Unwrap() []error {
	if e.Err == nil {
		return []error{ErrConfig}
	}
	return []error{ErrConfig, e.Err}
}

// Warning is a line that Vault ignores without a word.
type Warning struct {
	File string
	Line int // counted from 1
	// Block is storage_source or storage_destination, empty at the top level.
	Block string
	Key   string
	// Suggestion is the nearest key that Vault knows, or empty if none is near.
	Suggestion string
	// FirstLine is not 0 for a known key that is set twice: Vault takes the
	// last, on Line, and ignores this one.
	FirstLine int
}

func (w Warning) String() string {
	s := position(w.File, w.Line) + ": "
	if w.Block != "" {
		s += w.Block + ": "
	}
	s += quote(w.Key)
	if w.FirstLine != 0 {
		return s + fmt.Sprintf(" is set twice, first on line %d; the last one counts, delete the other", w.FirstLine)
	}
	s += " is no key of Vault and is ignored"
	if w.Suggestion != "" {
		s += fmt.Sprintf("; did you mean %q?", w.Suggestion)
	}
	return s
}

// Override is a value of the file that an environment variable replaced.
type Override struct {
	File       string
	Line       int
	Block, Key string
	Variable   string
}

func (o Override) String() string {
	return fmt.Sprintf("%s: %s: %s is overridden by the environment variable %s", position(o.File, o.Line), o.Block, o.Key, o.Variable)
}

func position(file string, line int) string {
	if line == 0 {
		return file
	}
	return fmt.Sprintf("%s:%d", file, line)
}

// Secret is a credential. It prints, logs and marshals as "[redacted]" (empty
// if it is empty); string(s) is the value.
type Secret string

func (s Secret) String() string {
	if s == "" {
		return ""
	}
	return "[redacted]"
}

// Format covers every verb of package fmt, also those a Stringer does not.
func (s Secret) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, s.String()) }

// GoString is for direct callers; fmt uses Format.
func (s Secret) GoString() string { return s.String() }

// LogValue keeps the value out of logs.
func (s Secret) LogValue() slog.Value { return slog.StringValue(s.String()) }

// MarshalText keeps the value out of JSON and the like.
func (s Secret) MarshalText() ([]byte, error) { return []byte(s.String()), nil }
