package physical

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/hashicorp/go-hclog"
	sdk "github.com/hashicorp/vault/sdk/physical"
	"github.com/hashicorp/vault/sdk/physical/file"
	"github.com/hashicorp/vault/sdk/physical/inmem"
	"go.uber.org/goleak"

	"github.com/dyn2raft/dyn2raft/copier"
	"github.com/dyn2raft/dyn2raft/copier/copiertest"
	"github.com/dyn2raft/dyn2raft/copier/durable"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// backends make empty ones of Vault's SDK.
func backends() map[string]func(t *testing.T) sdk.Backend {
	return map[string]func(t *testing.T) sdk.Backend{
		"inmem": func(t *testing.T) sdk.Backend {
			b, err := inmem.NewInmem(nil, hclog.NewNullLogger())
			check(t, err)
			return b
		},
		"file": func(t *testing.T) sdk.Backend {
			b, err := file.NewFileBackend(map[string]string{"path": filepath.Join(t.TempDir(), "files")}, hclog.NewNullLogger())
			check(t, err)
			return b
		},
	}
}

// A backend under test fails as it is told to, and knows whether it was ever unlocked.
type backend struct {
	sdk.Backend
	mu       sync.Mutex
	unlocked bool
	drop     string // a key that is not put
	before   func(op, key string) error
}

func (b *backend) ask(op, key string) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.before != nil {
		if err := b.before(op, key); err != nil {
			return err
		}
	}
	b.unlocked = b.unlocked || op == "delete" && key == migrationKey
	return nil
}

func (b *backend) Put(ctx context.Context, e *sdk.Entry) error {
	if err := b.ask("put", e.Key); err != nil {
		return err
	}
	if e.Key == b.drop {
		return nil
	}
	return b.Backend.Put(ctx, e)
}

func (b *backend) Delete(ctx context.Context, key string) error {
	if err := b.ask("delete", key); err != nil {
		return err
	}
	return b.Backend.Delete(ctx, key)
}

// found is what a Vault would find, and whether it would start on it.
func (b *backend) found() (out []copier.Entry, there bool, err error) {
	ctx := context.Background()
	if e, err := b.Get(ctx, migrationKey); err != nil || e != nil {
		return nil, false, err
	}
	var walk func(folder string) error
	walk = func(folder string) error {
		names, err := b.List(ctx, folder)
		for _, name := range names {
			if strings.HasSuffix(name, "/") {
				err = errors.Join(err, walk(folder+name))
				continue
			}
			e, gerr := b.Get(ctx, folder+name)
			if gerr != nil || e == nil {
				return errors.Join(err, gerr, fmt.Errorf("%s is listed", folder+name))
			}
			out = append(out, copier.Entry{Key: []byte(e.Key), Value: append([]byte{}, e.Value...)})
		}
		return err
	}
	err = walk("")
	return out, len(out) > 0 || b.unlocked, err
}

func TestContract(t *testing.T) {
	for name, empty := range backends() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			copiertest.TestSink(t, func() copiertest.Destination {
				b, dir := &backend{Backend: empty(t)}, t.TempDir()
				return copiertest.Destination{Open: func() copier.Sink { return sink(t, b, dir, nil) }, Read: b.found}
			})
		})
	}
}

// TestKilled ends a process at any request to the backend and any operation on the disk:
// a Vault finds all of it or does not start, and a later process ends the copy.
func TestKilled(t *testing.T) {
	want := entries(30)
	killed := errors.New("killed")
	for name, c := range map[string]struct {
		before  int              // operations of a process before that one, which was killed too
		options copier.Options   // of all but the first
		lossy   func(b *backend) // makes the copy fail
		least   int              // operations
	}{
		"and resumed":             {0, copier.Options{Resume: true}, nil, 40},
		"after another, and anew": {30, copier.Options{Restart: true}, nil, 40},
		"failing":                 {0, copier.Options{Restart: true}, func(b *backend) { b.drop = "logical/1/00001" }, 70},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for at, ended := 0, false; !ended; at++ {
				b, dir := &backend{Backend: backends()["inmem"](t)}, t.TempDir()
				src := copiertest.NewSource(want...)
				copyUntil := func(at int, o copier.Options) (ended bool, err error) {
					var n atomic.Int64
					step := func() error {
						if n.Add(1) > int64(at) {
							return killed
						}
						return nil
					}
					b.before = func(string, string) error { return step() }
					defer func() { b.before = nil }()
					_, err = copyTo(t, src, sink(t, b, dir, func(durable.Op) error { return step() }), o)
					return n.Load() <= int64(at), err
				}
				if c.before > 0 {
					if ended, err := copyUntil(c.before, c.options); ended || err == nil {
						t.Fatalf("it was not killed: %v", err)
					}
					// And what it was is not known any more.
					check(t, os.RemoveAll(filepath.Join(dir, workName)))
					src = copiertest.NewSource(want...)
				}
				if c.lossy != nil {
					c.lossy(b)
				}
				var first error
				ended, first = copyUntil(at, c.options)
				got, there, err := b.found()
				if err != nil || there && len(got) > 0 && (len(got) != len(want) || c.lossy != nil) {
					t.Fatalf("killed at %d: a Vault finds %d entries, %v", at, len(got), err)
				}
				b.drop = ""
				if first != nil {
					if _, err := copyTo(t, src, sink(t, b, dir, nil), c.options); err != nil {
						t.Fatalf("killed at %d (%v): the next process: %v", at, first, err)
					}
				}
				if got, there, err = b.found(); err != nil || !there || !equal(got, want) {
					t.Fatalf("killed at %d (%v): in the end %d entries are there, %v", at, first, len(got), err)
				}
				if ended && at < c.least {
					t.Fatalf("only %d operations", at)
				}
			}
		})
	}
}

// TestVoidRecord: the record of a commit that did not come to be is not taken for that of a
// result, should somebody delete core/migration.
func TestVoidRecord(t *testing.T) {
	b, dir := &backend{Backend: backends()["inmem"](t)}, t.TempDir()
	var batch copier.Batch
	batch.Append([]byte("logical/a"), []byte("1"))
	for i, run := range []string{"run-1", "run-2"} {
		s := sink(t, b, dir, nil)
		_, err := s.Open(t.Context())
		check(t, err)
		stage, err := s.Stage(t.Context(), run)
		check(t, err)
		check(t, stage.(copier.Unordered).Put(t.Context(), &batch))
		if i == 0 {
			check(t, stage.Prepare(t.Context(), copier.Record{RunID: run, State: copier.Unconfirmed, Prefixes: copier.Digests{}}))
		}
		check(t, errors.Join(stage.Close(true), s.Close()))
	}
	check(t, b.Delete(t.Context(), migrationKey))
	s := sink(t, b, dir, nil)
	if found, err := s.Open(t.Context()); found.Record != nil || !errors.Is(err, copier.ErrDestination) {
		t.Errorf("it finds %+v, %v", found, err)
	}
	check(t, s.Close())
}

// TestRefused: what is not this copy's is not touched.
func TestRefused(t *testing.T) {
	held, err := inmem.NewInmemHA(nil, hclog.NewNullLogger())
	check(t, err)
	lock, err := held.(sdk.HABackend).LockWith(leaderKey, "node-1")
	check(t, err)
	_, err = lock.Lock(nil)
	check(t, err)
	for name, c := range map[string]struct {
		put  map[string]string
		b    sdk.Backend
		want error
	}{
		"data":                    {put: map[string]string{"sys/a": "1"}, want: copier.ErrDestination},
		"Vault's migration":       {put: map[string]string{migrationKey: `{"start":"2026-01-01T00:00:00Z"}`}, want: copier.ErrLocked},
		"another one's":           {put: map[string]string{migrationKey: `{"start":"2026-01-01T00:00:00Z","dyn2raft_run":"run-9"}`}, want: copier.ErrLocked},
		"something":               {put: map[string]string{migrationKey: `x`}, want: copier.ErrLocked},
		"a Vault is active on it": {b: held, want: copier.ErrInUse},
	} {
		b := &backend{Backend: c.b}
		if c.b == nil {
			b.Backend = backends()["inmem"](t)
		}
		for key, value := range c.put {
			check(t, b.Put(t.Context(), &sdk.Entry{Key: key, Value: []byte(value)}))
		}
		s := sink(t, b.Backend, t.TempDir(), nil)
		if _, err := copyTo(t, copiertest.NewSource(entries(3)...), s, copier.Options{}); !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", name, err, c.want)
		}
		for key, value := range c.put {
			if e, err := b.Get(t.Context(), key); err != nil || e == nil || string(e.Value) != value {
				t.Errorf("%s: %s is %v now, %v", name, key, e, err)
			}
		}
	}
	if _, err := New(Options{}); !errors.Is(err, copier.ErrConfig) {
		t.Errorf("no options: %v", err)
	}
}

// TestLossy: a key that the backend drops, or does not list, ends the copy, and leaves
// nothing that a Vault starts on.
func TestLossy(t *testing.T) {
	b := &backend{Backend: backends()["file"](t)}
	src := copiertest.NewSource(append(entries(5), copier.Entry{Key: []byte("logical/x/."), Value: []byte("kept as logical/x")})...)
	if _, err := copyTo(t, src, sink(t, b, t.TempDir(), nil), copier.Options{}); !errors.Is(err, copier.ErrReadBack) {
		t.Errorf("the copy ends with %v", err)
	}
	if got, _, err := b.found(); err != nil || len(got) > 0 {
		t.Errorf("%d entries are left, %v", len(got), err)
	}
	src = copiertest.NewSource(append(entries(5), copier.Entry{Key: []byte(leaderKey), Value: []byte("x")})...)
	if _, err := copyTo(t, src, sink(t, b, t.TempDir(), nil), copier.Options{}); err == nil || !strings.Contains(err.Error(), `put "core/lock": it is a lock`) {
		t.Errorf("a lock: the copy ends with %v", err)
	}
}

func sink(t testing.TB, b sdk.Backend, dir string, before func(durable.Op) error) *Sink {
	t.Helper()
	o := Options{Backend: b, Name: "vault", ID: "test 1", Dir: dir}
	if before != nil {
		o.Disk = &durable.Disk{Before: before}
	}
	s, err := New(o)
	check(t, err)
	return s
}

// copyTo makes a copy, as a program does that calls the engine.
func copyTo(t *testing.T, src copier.Source, s *Sink, o copier.Options) (copier.Record, error) {
	o.Memory, o.Uninitialized = copier.MinMemory, true
	return copier.Copy(t.Context(), src, s, o)
}

func equal(got, want []copier.Entry) bool {
	values := map[string]string{}
	for _, e := range got {
		values[string(e.Key)] = string(e.Value)
	}
	for _, e := range want {
		if v, ok := values[string(e.Key)]; !ok || v != string(e.Value) {
			return false
		}
	}
	return len(got) == len(want)
}

func entries(n int) (out []copier.Entry) {
	for i := range n {
		out = append(out, copier.Entry{Key: fmt.Appendf(nil, "logical/%d/%05d", i%3, i), Value: []byte(strings.Repeat("v", i*7))})
	}
	return out
}

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
