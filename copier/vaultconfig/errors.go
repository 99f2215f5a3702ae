package vaultconfig

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"
)

// ErrConfig is returned when the configuration file or a variable of the
// environment that belongs to it cannot be used.
var ErrConfig = errors.New("configuration not usable")

// Error is one mistake in the configuration, or what a person should know of it:
// where, what, and what to do.
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
