package copier

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"slices"
	"syscall"
	"testing"
)

func TestErrorText(t *testing.T) {
	cause := errors.New("no such table")
	for _, c := range []struct {
		err  Error
		want string
	}{
		{Error{Kind: ErrSource, Op: "scan table vault", Err: cause}, "scan table vault: no such table"},
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

func TestCodeOf(t *testing.T) {
	plain := errors.New("plain")
	with := func(code Code, err error) error { return &Error{Kind: ErrSource, Op: "op", Code: code, Err: err} }
	for name, c := range map[string]struct {
		err  error
		want Code
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
		if got, _ := CodeOf(c.err); got != c.want {
			t.Errorf("%s: got %q, want %q", name, got, c.want)
		}
	}
}

func TestWorkCode(t *testing.T) {
	for want, errnos := range map[Code][]error{
		WorkFull:     {syscall.ENOSPC, syscall.EDQUOT, fmt.Errorf("a: %w", &fs.PathError{Op: "write", Path: "x", Err: syscall.ENOSPC})},
		WorkReadOnly: {syscall.EROFS},
		"":           {nil, syscall.EIO, errors.New("no space")},
	} {
		for _, err := range errnos {
			if got := workCode(err); got != want {
				t.Errorf("%v: got %q, want %q", err, got, want)
			}
		}
	}
}

func TestNewCode(t *testing.T) {
	if got := Codes()[OtherSource]; !slices.Equal(got, []string{"source", "files"}) {
		t.Errorf("facts %q", got)
	}
	defer func() {
		if recover() == nil {
			t.Error("a code was made twice")
		}
	}()
	NewCode(string(OtherSource))
}

// coded is the code of an error, and its facts.
func coded(err error) string {
	code, facts := CodeOf(err)
	return fmt.Sprint(string(code), " ", facts)
}
