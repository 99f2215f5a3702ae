package vaultdb

import (
	"bytes"
	"errors"
	"io"
	"maps"
	"os"
	"slices"
	"testing"

	"github.com/dyn2raft/dyn2raft/copier"
	"github.com/dyn2raft/dyn2raft/copier/copiertest"
	"github.com/dyn2raft/dyn2raft/sinks/raft/boltfile"
)

func TestSource(t *testing.T) {
	for _, n := range []int{0, 1, 8000} {
		want := some(n)
		path := written(t, want, boltfile.Options{PageSize: 4096})
		copiertest.TestSource(t, func() copier.Source { return &Source{Path: path} }, entries(want))
	}
}

func entries(of map[string]string) (out []copier.Entry) {
	for _, k := range slices.Sorted(maps.Keys(of)) {
		out = append(out, copier.Entry{Key: []byte(k), Value: []byte(of[k])})
	}
	return out
}

// TestStream reads a source in order, and has it damaged where no entry is.
func TestStream(t *testing.T) {
	want := some(3000)
	path := written(t, want, boltfile.Options{PageSize: 4096})
	got, err := streamed(t, path)
	check(t, err)
	if !slices.EqualFunc(got, entries(want), func(a, b copier.Entry) bool { return bytes.Equal(a.Key, b.Key) && bytes.Equal(a.Value, b.Value) }) {
		t.Errorf("%d entries of %d, or others", len(got), len(want))
	}
	b, err := os.ReadFile(path)
	check(t, err)
	b[0]++ // of a meta page
	check(t, os.WriteFile(path, b, 0o600))
	if got, err := streamed(t, path); !errors.Is(err, ErrDamaged) || !errors.Is(err, copier.ErrSource) || len(got) != len(want) {
		t.Errorf("%d entries, %v", len(got), err)
	}
}

func streamed(t *testing.T, path string) (out []copier.Entry, err error) {
	src := &Source{Path: path}
	_, err = src.Open(t.Context())
	check(t, err)
	defer src.Close()
	var in copier.Ordered = src
	entries, err := in.Stream(t.Context())
	check(t, err)
	for {
		e, err := entries.Next()
		if err != nil {
			if err == io.EOF {
				err = nil
			}
			return out, err
		}
		out = append(out, copier.Entry{Key: bytes.Clone(e.Key), Value: bytes.Clone(e.Value)})
	}
}

// TestRecheck has parts of a file left unread, and damaged.
func TestRecheck(t *testing.T) {
	b, err := os.ReadFile(written(t, some(3000), boltfile.Options{PageSize: 4096}))
	check(t, err)
	f, err := NewFile("file", bytes.NewReader(b), int64(len(b)))
	check(t, err)
	whole, err := f.Check(t.Context())
	check(t, err)
	src := sourceOf(f)
	spans, err := src.Split(t.Context(), 4)
	check(t, err)
	_, err = src.Read(t.Context(), spans[2], new(copier.Batch))
	check(t, err)
	for range 2 { // the second must not take the first for a reader
		if err := src.Recheck(t.Context()); err != nil || src.Stats() != whole {
			t.Errorf("%+v, want %+v, %v", src.Stats(), whole, err)
		}
	}
	last := bytes.LastIndex(b, []byte("sys/02999"))
	b[last] = 'a' // in a leaf that is not read
	if err := src.Recheck(t.Context()); !errors.Is(err, ErrDamaged) {
		t.Errorf("a leaf that was not read, and is damaged: %v", err)
	}
}
