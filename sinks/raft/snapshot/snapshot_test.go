package snapshot

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"testing"

	hraft "github.com/hashicorp/raft"
	"go.uber.org/goleak"

	"github.com/dyn2raft/dyn2raft/copier"
	"github.com/dyn2raft/dyn2raft/copier/copiertest"
	"github.com/dyn2raft/dyn2raft/copier/durable"
	"github.com/dyn2raft/dyn2raft/copier/durable/durabletest"
	"github.com/dyn2raft/dyn2raft/sources/raft/snapshot"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestContract(t *testing.T) {
	copiertest.TestSink(t, func() copiertest.Destination {
		path := filepath.Join(t.TempDir(), "vault.snap")
		return copiertest.Destination{
			Open: func() copier.Sink { return sink(t, path, nil) },
			Read: func() ([]copier.Entry, bool, error) { return inPlace(path) },
		}
	})
}

// TestArchive looks at the members, their order, and what a restore compares.
func TestArchive(t *testing.T) {
	path := filepath.Join(t.TempDir(), "vault.snap")
	r, err := copyTo(t, path, nil, entries(500))
	if err != nil || r.Proof == nil || r.State != copier.Released {
		t.Fatalf("the copy ends with %v, %+v", err, r)
	}
	f, err := os.Open(path)
	check(t, err)
	defer f.Close()
	z, err := gzip.NewReader(f)
	check(t, err)
	var names []string
	members := map[string][]byte{}
	for in := tar.NewReader(z); ; {
		h, err := in.Next()
		if err == io.EOF {
			break
		}
		check(t, err)
		names = append(names, h.Name)
		members[h.Name], err = io.ReadAll(in)
		check(t, err)
	}
	if want := []string{"meta.json", "state.bin", "SHA256SUMS", "SHA256SUMS.sealed"}; !slices.Equal(names, want) {
		t.Errorf("it has %q, want %q", names, want)
	}
	var meta hraft.SnapshotMeta
	check(t, json.Unmarshal(members["meta.json"], &meta))
	if meta.Version != 1 || meta.Index < 1 || meta.Term < 1 || meta.Size != int64(len(members["state.bin"])) || meta.ID != "dyn2raft-"+r.RunID {
		t.Errorf("meta.json is %+v, and state.bin has %d bytes", meta, len(members["state.bin"]))
	}
	if string(members["SHA256SUMS.sealed"]) != placeholder {
		t.Errorf("SHA256SUMS.sealed is %q", members["SHA256SUMS.sealed"])
	}
	if left, err := os.ReadDir(filepath.Dir(path)); err != nil || len(left) != 1 {
		t.Errorf("left: %v, %v", left, err)
	}
	if fi, err := f.Stat(); err != nil || fi.Mode() != 0o600 || fi.Size() != r.Load.FileBytes {
		t.Errorf("the file: %v, %v, and %d bytes on record", fi, err, r.Load.FileBytes)
	}
}

// TestHead: the file's head has one length, up to sizes that no octal number of a header
// holds, and is read back.
func TestHead(t *testing.T) {
	s := &stage{run: "run-1"}
	empty, _, err := s.head(0)
	check(t, err)
	for _, size := range []int64{1, 511, 1 << 20, 8 << 30, 1<<63 - 1} {
		head, meta, err := s.head(size)
		check(t, err)
		z, err := gzip.NewReader(bytes.NewReader(head))
		check(t, err)
		in := tar.NewReader(z)
		_, err = in.Next()
		check(t, err)
		state, err := in.Next()
		check(t, err)
		if len(head) != len(empty) || len(meta) > 8000 || state.Size != size || state.Name != "state.bin" {
			t.Errorf("size %d: %d bytes, and %d for nothing; %+v", size, len(head), len(empty), state)
		}
	}
}

// TestProof has the engine refuse a file with one bit changed.
func TestProof(t *testing.T) {
	for name, damage := range map[string]func(b []byte){
		"a value":       func(b []byte) { b[len(b)/2] ^= 1 },
		"the id":        func(b []byte) { b[bytes.Index(b, []byte("dyn2raft-"))] ^= 1 },
		"its last byte": func(b []byte) { b[len(b)-1] ^= 1 },
	} {
		path := filepath.Join(t.TempDir(), "vault.snap")
		src := copiertest.NewSource(entries(500)...)
		r, err := copier.Copy(t.Context(), src, damaged{sink(t, path, nil), damage}, copier.Options{Uninitialized: true, Memory: copier.MinMemory})
		if !errors.Is(err, copier.ErrReadBack) || !errors.Is(err, copier.ErrDestination) || errors.Is(err, copier.ErrSource) || r.State != "" {
			t.Errorf("%s: the copy ends with %v, state %q", name, err, r.State)
		}
		if left, err := os.ReadDir(filepath.Dir(path)); err != nil || len(left) > 0 {
			t.Errorf("%s: left: %v, %v", name, left, err)
		}
	}
}

type damaged struct {
	*Sink
	damage func([]byte)
}

func (d damaged) Stage(ctx context.Context, run string) (copier.Stage, error) {
	s, err := d.Sink.Stage(ctx, run)
	return damagedStage{s.(copier.Loader), d}, err
}

type damagedStage struct {
	copier.Loader
	damaged
}

func (d damagedStage) Load(ctx context.Context, in copier.Stream) (copier.LoadStats, error) {
	stats, err := d.Loader.Load(ctx, in)
	if err != nil {
		return stats, err
	}
	b, err := os.ReadFile(d.aside(stagedName))
	if err == nil {
		d.damage(b)
		err = os.WriteFile(d.aside(stagedName), b, 0o600)
	}
	return stats, err
}

func (d damagedStage) Close(keep bool) error { return d.Loader.Close(keep) }

// TestForeign: a file that no copy has made is refused, ahead and at the commit, and stays
// as it is.
func TestForeign(t *testing.T) {
	path := filepath.Join(t.TempDir(), "vault.snap")
	put := func() { check(t, os.WriteFile(path, []byte("a backup"), 0o600)) }
	stays := func(when string, err error) {
		t.Helper()
		if got, rerr := os.ReadFile(path); string(got) != "a backup" || rerr != nil {
			t.Errorf("%s: it is %q now, %v", when, got, rerr)
		}
		if !errors.Is(err, copier.ErrDestination) {
			t.Errorf("%s: %v", when, err)
		}
		check(t, os.Remove(path))
	}
	put()
	_, err := copyTo(t, path, nil, entries(1))
	stays("ahead", err)
	for _, when := range []string{"create commit.json.tmp", "place vault.snap"} {
		_, err := copyTo(t, path, func(op durable.Op) error {
			if op.String() == when {
				put()
			}
			return nil
		}, entries(1))
		stays(when, err)
	}
}

// TestPowerLoss: whatever operation the power fails at, a whole snapshot is in place or
// none, and the next copy goes well, or finds the result.
func TestPowerLoss(t *testing.T) {
	want := entries(20)
	for at, ended := 0, false; !ended; at++ {
		for seed := range uint64(3) {
			dir := t.TempDir()
			path := filepath.Join(dir, "vault.snap")
			rec, err := durabletest.New(dir)
			check(t, err)
			rec.FailAt(at)
			_, first := copyTo(t, path, rec.Before, want)
			if ended = !rec.Failed(); ended && (at < 15 || first != nil) {
				t.Fatalf("only %d operations, %v", at, first)
			}
			check(t, rec.Lose(rand.New(rand.NewPCG(seed, uint64(at)))))
			got, there, err := inPlace(path)
			if err != nil || there && !slices.EqualFunc(got, want, same) {
				t.Fatalf("operation %d, seed %d, after %q: %d entries are in place, %v", at, seed, rec.Ops(), len(got), err)
			}
			_, err = copyTo(t, path, nil, want)
			if there != (err != nil) || there && !errors.Is(err, copier.ErrDestination) || there && first != nil && !errors.Is(err, copier.ErrInPlace) {
				t.Fatalf("operation %d, seed %d, after %q: a file is there: %v; the next copy: %v", at, seed, rec.Ops(), there, err)
			}
			if got, _, err = inPlace(path); err != nil || !slices.EqualFunc(got, want, same) {
				t.Fatalf("operation %d, seed %d: the next copy has %d entries, %v", at, seed, len(got), err)
			}
		}
	}
}

// TestPowerLossNeedsEverySync: each sync that is left out is noticed.
func TestPowerLossNeedsEverySync(t *testing.T) {
	want := entries(20)
	for _, left := range []string{"snapshot", "commit.json.tmp", "."} {
		noticed := false
		for i := 0; i < 400 && !noticed; i++ {
			dir := t.TempDir()
			path := filepath.Join(dir, "vault.snap")
			rec, err := durabletest.New(dir)
			check(t, err)
			rec.Ignore = func(op durable.Op) bool {
				return op.Verb == durable.Sync && (filepath.Base(op.Path) == left || op.Path == dir && left == ".")
			}
			at := 8 + i%30
			rec.FailAt(at)
			_, ended := copyTo(t, path, rec.Before, want)
			check(t, rec.Lose(rand.New(rand.NewPCG(uint64(i), uint64(at)))))
			got, there, err := inPlace(path)
			switch _, again := copyTo(t, path, nil, want); {
			case err != nil, there && !slices.EqualFunc(got, want, same):
				noticed = true // it is not whole
			case there:
				noticed = ended != nil && !errors.Is(again, copier.ErrInPlace) // and nobody knows whose it is
			default:
				noticed = ended == nil || again != nil // it was in place; or it is in the way
			}
		}
		if !noticed {
			t.Errorf("the sync of %q is left out, and nothing is wrong", left)
		}
	}
}

func TestOptions(t *testing.T) {
	for _, path := range []string{"", "/", ".", "a/.."} {
		if _, err := New(Options{Path: path}); !errors.Is(err, copier.ErrConfig) {
			t.Errorf("%q: %v", path, err)
		}
	}
	path := filepath.Join(t.TempDir(), "none", "vault.snap")
	if _, err := copyTo(t, path, nil, nil); !errors.Is(err, copier.ErrDestination) || !errors.Is(err, os.ErrNotExist) {
		t.Errorf("no directory: %v", err)
	}
}

// TestLarge warns of what a Vault can't write again.
func TestLarge(t *testing.T) {
	var warned []string
	s, err := New(Options{Path: filepath.Join(t.TempDir(), "vault.snap"), MaxEntrySize: 10, Notify: func(e copier.Event) {
		if w, ok := e.(copier.Warning); ok {
			warned = append(warned, w.Message)
		}
	}})
	check(t, err)
	_, err = copier.Copy(t.Context(), copiertest.NewSource(copier.Entry{Key: []byte("logical/large"), Value: make([]byte, 20)}), s, copier.Options{Uninitialized: true, Memory: copier.MinMemory})
	if err != nil || len(warned) != 1 {
		t.Errorf("%v, warnings %q", err, warned)
	}
}

func sink(t *testing.T, path string, before func(durable.Op) error) *Sink {
	t.Helper()
	o := Options{Path: path}
	if before != nil {
		o.Disk = &durable.Disk{Before: before}
	}
	s, err := New(o)
	check(t, err)
	return s
}

// copyTo makes a copy as a program does that calls the engine.
func copyTo(t *testing.T, path string, before func(durable.Op) error, all []copier.Entry) (copier.Record, error) {
	return copier.Copy(t.Context(), copiertest.NewSource(all...), sink(t, path, before), copier.Options{Uninitialized: true, Memory: copier.MinMemory})
}

// inPlace reads the snapshot at path, where there is one.
func inPlace(path string) (out []copier.Entry, there bool, err error) {
	if there, err := durable.Exists(path); err != nil || !there {
		return nil, false, err
	}
	src := snapshot.New(path)
	if _, err := src.Open(context.Background()); err != nil {
		return nil, true, err
	}
	err = copier.ReadAll(context.Background(), src, 1, func(_ int, b *copier.Batch) error {
		for i := range b.Len() {
			e := b.Entry(i)
			out = append(out, copier.Entry{Key: bytes.Clone(e.Key), Value: bytes.Clone(e.Value)})
		}
		return nil
	})
	return out, true, errors.Join(err, src.Close())
}

func entries(n int) (out []copier.Entry) {
	for i := range n {
		out = append(out, copier.Entry{Key: fmt.Appendf(nil, "logical/%05d", i), Value: bytes.Repeat([]byte{byte(i), 7}, i%300)})
	}
	return out
}

func same(a, b copier.Entry) bool { return bytes.Equal(a.Key, b.Key) && bytes.Equal(a.Value, b.Value) }

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
