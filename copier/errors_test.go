package copier

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"strings"
	"syscall"
	"testing"
)

func TestErrorText(t *testing.T) {
	cause := errors.New("no such table")
	for _, c := range []struct {
		err  Error
		want string
	}{
		{Error{Kind: ErrSource, Op: "scan table vault", Err: cause, Hint: "look"}, "scan table vault: no such table"},
		{Error{Kind: ErrSource, Op: "scan table vault"}, "scan table vault"},
		{Error{Kind: ErrConfig, Err: cause}, "no such table"},
		{Error{Op: "open /d", Err: &fs.PathError{Op: "open", Path: "/d", Err: syscall.EACCES}}, "open /d: permission denied"},
		{Error{Op: "look at /d", Err: &fs.PathError{Op: "lstat", Path: "/d", Err: syscall.EACCES}}, "look at /d: permission denied"},
		{Error{Op: "read status", Err: &fs.PathError{Op: "open", Path: "/d", Err: syscall.EACCES}}, "read status: open /d: permission denied"},
	} {
		if got := c.err.Error(); got != c.want {
			t.Errorf("got %q, want %q", got, c.want)
		}
	}
}

func TestErrorUnwrap(t *testing.T) {
	err := fmt.Errorf("copy: %w", &Error{Kind: ErrSource, Err: &Error{Kind: ErrDuplicateKey, Err: io.ErrUnexpectedEOF}})
	for _, want := range []error{ErrSource, ErrDuplicateKey, io.ErrUnexpectedEOF} {
		if !errors.Is(err, want) {
			t.Errorf("%v is not found", want)
		}
	}
	for _, other := range []error{ErrConfig, ErrLocked, ErrDestination, io.EOF} {
		if errors.Is(err, other) {
			t.Errorf("%v is found", other)
		}
	}
	if errors.Is(&Error{Op: "x"}, nil) || len((&Error{}).Unwrap()) != 0 {
		t.Error("an empty error wraps something")
	}
}

func TestHint(t *testing.T) {
	plain := errors.New("plain")
	with := func(hint string, err error) error { return &Error{Kind: ErrSource, Op: "op", Hint: hint, Err: err} }
	for name, c := range map[string]struct {
		err  error
		want string
	}{
		"nil":                  {nil, ""},
		"no Error":             {fmt.Errorf("a: %w", plain), ""},
		"one":                  {with("do this", plain), "do this"},
		"below fmt.Errorf":     {fmt.Errorf("a: %w", with("do this", plain)), "do this"},
		"the outer wins":       {with("outer", with("inner", plain)), "outer"},
		"the inner, if no":     {with("", fmt.Errorf("a: %w", with("inner", plain))), "inner"},
		"joined":               {errors.Join(plain, with("do this", plain)), "do this"},
		"joined, first has no": {errors.Join(with("", plain), with("second", plain)), "second"},
		"joined below":         {with("", errors.Join(plain, with("deep", nil))), "deep"},
		"none":                 {with("", with("", nil)), ""},
	} {
		if got := Hint(c.err); got != c.want {
			t.Errorf("%s: got %q, want %q", name, got, c.want)
		}
	}
}

func TestHintWork(t *testing.T) {
	const want = "the file system of that work file is full: work files need as much room as the data, those of a verification about 170 bytes an entry; make room, or start over with another place for them (-work-dir)"
	for _, errno := range []syscall.Errno{syscall.ENOSPC, syscall.EDQUOT} {
		if got := hintWork(fmt.Errorf("a: %w", &fs.PathError{Op: "write", Path: "x", Err: errno})); got != want {
			t.Errorf("%v: got %q", errno, got)
		}
	}
	if got := hintWork(syscall.EROFS); !strings.Contains(got, "remount,rw") {
		t.Errorf("read-only: got %q", got)
	}
	for _, err := range []error{nil, syscall.EIO, errors.New("no space")} {
		if got := hintWork(err); got != "" {
			t.Errorf("%v: got %q", err, got)
		}
	}
}
