package raft

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"testing"

	"github.com/dyn2raft/dyn2raft/copier"
	"github.com/dyn2raft/dyn2raft/copier/durable"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	if os.Getenv(childEnv) != "" {
		child()
		return
	}
	goleak.VerifyTestMain(m)
}

// testEntries returns n entries in order: empty values, values larger than a
// page, and keys with a leading underscore and of several alphabets.
func testEntries(n int) []copier.Entry {
	all := map[string][]byte{}
	for i := range n {
		key := fmt.Sprintf("sys/token/id/h%06d", i*7919%n)
		switch i % 50 {
		case 1:
			key = fmt.Sprintf("logical/_hidden %d", i)
		case 2:
			key = fmt.Sprintf("logical/ключ-値-%d/ü", i)
		}
		all[key] = bytes.Repeat([]byte{byte(i)}, i%50*i%1500)
	}
	if n > 10 {
		all["logical/big"] = bytes.Repeat([]byte("big!"), 100<<10)
	}
	var out []copier.Entry
	for _, key := range slices.Sorted(maps.Keys(all)) {
		out = append(out, copier.Entry{Key: []byte(key), Value: all[key]})
	}
	return out
}

// A sliceStream yields entries and, as its contract allows, spoils each with
// the next call.
type sliceStream struct {
	entries    []copier.Entry
	before     func(op string) error
	err        error // in place of io.EOF
	key, value []byte
	n          int
}

func (s *sliceStream) Next() (copier.Entry, error) {
	for i := range s.key {
		s.key[i] = 'x'
	}
	for i := range s.value {
		s.value[i] = 'x'
	}
	if s.n == len(s.entries) {
		if s.err != nil {
			return copier.Entry{}, s.err
		}
		return copier.Entry{}, io.EOF
	}
	if s.before != nil && s.n%300 == 299 {
		if err := s.before(fmt.Sprintf("entry %d", s.n)); err != nil {
			return copier.Entry{}, err
		}
	}
	e := s.entries[s.n]
	s.n++
	s.key, s.value = append(s.key[:0], e.Key...), append(s.value[:0], e.Value...)
	return copier.Entry{Key: s.key, Value: s.value}, nil
}

func testOptions(dir string) Options {
	return Options{Path: dir, NodeID: "node-1", Address: "10.0.0.1:8201"}
}

// hooked is a disk that asks before ahead of each operation, by its name.
func hooked(before func(string) error) *durable.Disk {
	return &durable.Disk{Before: func(op durable.Op) error { return before(op.String()) }}
}

// errCleanUp wraps the error of a copy that is complete and can't be cleaned
// up after, which the engine makes a warning of.
var errCleanUp = errors.New("complete, but not cleaned up")

// errNotOpened says that a directory was refused, or could not be made ready: then what
// an unfinished copy has left stays.
var errNotOpened = errors.New("not opened")

// run makes a whole copy and returns its first error. Whatever a copy that
// fails has done is removed.
func run(o Options, entries []copier.Entry, before func(string) error) (copier.LoadStats, error) {
	return runAndKeep(o, entries, before, false)
}

// runAndKeep is run, and keeps what a copy that fails has done if keep is set.
func runAndKeep(o Options, entries []copier.Entry, before func(string) error, keep bool) (copier.LoadStats, error) {
	ctx := context.Background()
	if before != nil {
		o.Disk = hooked(before)
	}
	p, err := open(o)
	if p == nil {
		return copier.LoadStats{}, err
	}
	var stats copier.LoadStats
	if err != nil {
		err = errors.Join(errNotOpened, err)
	} else {
		stats, err = p.Load(ctx, &sliceStream{entries: entries, before: before})
	}
	if err == nil {
		err = p.commit(ctx)
	}
	closeErr := p.Close(keep && err != nil)
	if err == nil && closeErr != nil {
		err = errors.Join(errCleanUp, closeErr)
	}
	return stats, err
}

// A process does with a directory what the engine does.
type process struct {
	*Sink
	copier.Loader
	found copier.State
}

// open opens a directory and the stage of a run. That a result is in place already is
// an error, as it is without Options.Resume. The process is nil for options that are
// refused.
func open(o Options) (*process, error) {
	s, err := New(o)
	if err != nil {
		return nil, err
	}
	p := &process{Sink: s}
	if p.found, err = s.Open(context.Background()); err == nil && !p.found.InUse {
		var stage copier.Stage
		stage, err = s.Stage(context.Background(), "run-1")
		p.Loader, _ = stage.(copier.Loader)
	}
	switch {
	case err == nil && p.found.InUse:
		err = errors.Join(copier.ErrInPlace, copier.ErrLocked)
	case err == nil && p.found.Record != nil:
		err = errors.Join(copier.ErrInPlace, copier.ErrDestination)
	}
	return p, err
}

// mustOpen opens a directory that must be fit.
func mustOpen(t testing.TB, o Options) *process {
	t.Helper()
	p, err := open(o)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// commit puts what was loaded in place.
func (p *process) commit(ctx context.Context) error {
	if err := p.Prepare(ctx, copier.Record{RunID: "run-1", State: copier.Unconfirmed}); err != nil {
		return err
	}
	return p.Commit(ctx)
}

func (p *process) Close(keep bool) (err error) {
	if p.Loader != nil {
		err = p.Loader.Close(keep)
	}
	return errors.Join(err, p.Sink.Close())
}

func names(t testing.TB, dir string) []string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, e := range entries {
		out = append(out, e.Name())
	}
	return out
}

// prepare runs Prepare and Close only.
func prepare(o Options) error {
	p, err := open(o)
	if p == nil {
		return err
	}
	return errors.Join(err, p.Close(false))
}

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
