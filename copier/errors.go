package copier

import (
	"errors"
	"io/fs"
	"strings"
)

// Sentinels that say whose fault ended a copy. Every error of this module
// wraps one of them, or a context's error.
var (
	// ErrConfig is returned when what the caller asked for can't be done,
	// whatever the state of source and destination.
	ErrConfig = errors.New("configuration")
	// ErrSource is returned when the source can't be read, or holds what no
	// Vault has written.
	ErrSource = errors.New("source")
	// ErrLocked is returned when another run, or a running Vault, holds the
	// source or the destination, or took it away during the copy.
	ErrLocked = errors.New("locked")
	// ErrMoved is returned, together with ErrLocked or ErrSource, when the
	// source may have changed since an unfinished copy read it.
	ErrMoved = errors.New("the source may have changed")
	// ErrNotReleased is returned, together with the reason why a copy ended,
	// when the source's locks could not be given back, or nobody knows whether
	// they were.
	ErrNotReleased = errors.New("the source may still be locked")
	// ErrUnconfirmed is returned, together with the reason, when a result was
	// put in place and the source then did not confirm that it was still locked
	// for this run: entries may be missing in the result. It was taken back,
	// unless Result.Commit says that it is still there.
	ErrUnconfirmed = errors.New("the copy is not confirmed")
	// ErrInUse is returned when a result can't be taken back, because a Vault
	// runs on it.
	ErrInUse = errors.New("a running Vault has it open")
	// ErrInPlace is returned, together with ErrDestination, or with ErrLocked where a
	// Vault runs on it, when the destination holds the result of an earlier run, and
	// Options.Resume does not ask for it to be confirmed.
	ErrInPlace = errors.New("a copy was put in place already")
	// ErrDestination is returned when the destination can't be written, or
	// already holds data.
	ErrDestination = errors.New("destination")
	// ErrNotAVault is returned, together with ErrSource, when the source lacks
	// what every initialized Vault has, with a value that a Vault takes: see
	// [CheckVault].
	ErrNotAVault = errors.New("no initialized Vault has used it")
	// ErrGap is returned, together with ErrSource, when a [Feed] may have missed hints: all
	// entries must be read again.
	ErrGap = errors.New("changes may have been missed")
	// ErrDuplicateKey is returned when a source yields one key twice.
	ErrDuplicateKey = errors.New("key found twice")
)

// An Error is an error with the place where it happened, and with a code where a
// person can do something about it. The packages of this module return it for
// everything that a person can fix.
type Error struct {
	// Kind is one of this package's sentinels; errors.Is finds it.
	Kind error
	// Code says what has to be done, or is empty where nobody knows. Facts are what
	// the words for it need, under the names that [NewCode] was given.
	Code  Code
	Facts map[string]string
	// Op is what was tried: "scan table vault", "create /opt/vault/data".
	Op string
	// Err is the cause.
	Err error
}

// Error returns the operation and its cause.
func (e *Error) Error() string {
	switch {
	case e.Err == nil:
		return e.Op
	case e.Op == "":
		return e.Err.Error()
	}
	// An error of a path has it in its text, and so has what was tried with it.
	if path, ok := e.Err.(*fs.PathError); ok && strings.HasSuffix(e.Op, " "+path.Path) { //nolint:errorlint // not what is further in
		return e.Op + ": " + path.Err.Error()
	}
	return e.Op + ": " + e.Err.Error()
}

// Unwrap returns the sentinel and the cause, so that errors.Is and errors.As
// find both.
func (e *Error) Unwrap() []error {
	out := make([]error, 0, 2)
	if e.Kind != nil {
		out = append(out, e.Kind)
	}
	if e.Err != nil {
		out = append(out, e.Err)
	}
	return out
}

// CodeOf returns the code of the first [Error] in err's tree that has one, and its
// facts: outer errors come before what they wrap, joined ones in their order.
func CodeOf(err error) (Code, map[string]string) {
	if e, ok := err.(*Error); ok && e.Code != "" { //nolint:errorlint // this walks the tree itself
		return e.Code, e.Facts
	}
	switch e := err.(type) { //nolint:errorlint // as above
	case interface{ Unwrap() error }:
		return CodeOf(e.Unwrap())
	case interface{ Unwrap() []error }:
		for _, err := range e.Unwrap() {
			if code, facts := CodeOf(err); code != "" {
				return code, facts
			}
		}
	}
	return "", nil
}
