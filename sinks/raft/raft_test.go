package raft

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/dyn2raft/dyn2raft/copier"
	"github.com/dyn2raft/dyn2raft/copier/durable"
	hraft "github.com/hashicorp/raft"
	raftboltdb "github.com/hashicorp/raft-boltdb/v2"
	"go.etcd.io/bbolt"
	"go.uber.org/goleak"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/encoding/protowire"
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
	copier.Stage
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
		p.Stage, err = s.Stage(context.Background(), "run-1")
	}
	switch {
	case err == nil && p.found.InUse:
		err = errors.Join(copier.ErrInPlace, copier.ErrLocked)
	case err == nil && p.found.Commit != "":
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
	if err := p.Prepare(ctx); err != nil {
		return err
	}
	return p.Commit(ctx)
}

func (p *process) Close(keep bool) (err error) {
	if p.Stage != nil {
		err = p.Stage.Close(keep)
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

// inspect reads a finished directory with the libraries that Vault reads it
// with, and returns everything that is wrong with it.
func inspect(o Options, want []copier.Entry) error {
	return errors.Join(inspectModes(o.Path), inspectVaultDB(o, want), inspectLogStore(o))
}

func inspectModes(dir string) error {
	var errs []error
	for _, name := range []string{vaultDBName, raftName, nodeIDName} {
		err := filepath.WalkDir(filepath.Join(dir, name), func(path string, d fs.DirEntry, err error) error {
			if err != nil {
				if name == nodeIDName && errors.Is(err, fs.ErrNotExist) {
					return nil
				}
				return err
			}
			fi, err := d.Info()
			if err != nil {
				return err
			}
			want := fs.FileMode(0o600)
			if d.IsDir() {
				want = 0o700
			}
			if fi.Mode().Perm() != want {
				errs = append(errs, fmt.Errorf("mode of %s is %o, want %o", path, fi.Mode().Perm(), want))
			}
			return nil
		})
		errs = append(errs, err)
	}
	snapshots, err := os.ReadDir(filepath.Join(dir, raftName, snapshotsName))
	if err != nil || len(snapshots) != 0 {
		errs = append(errs, fmt.Errorf("snapshots: %d, %w", len(snapshots), err))
	}
	return errors.Join(errs...)
}

func inspectVaultDB(o Options, want []copier.Entry) error {
	db, err := bbolt.Open(filepath.Join(o.Path, vaultDBName), 0, &bbolt.Options{ReadOnly: true})
	if err != nil {
		return err
	}
	defer db.Close()
	nodeID := o.NodeID
	if nodeID == "" {
		b, err := os.ReadFile(filepath.Join(o.Path, nodeIDName))
		if err != nil {
			return err
		}
		nodeID = string(b)
	}
	return db.View(func(tx *bbolt.Tx) error {
		var errs []error
		for err := range tx.Check() {
			errs = append(errs, err)
		}
		var buckets []string
		if err := tx.ForEach(func(name []byte, _ *bbolt.Bucket) error {
			buckets = append(buckets, string(name))
			return nil
		}); err != nil {
			return err
		}
		if !slices.Equal(buckets, []string{"config", "data"}) {
			return fmt.Errorf("buckets %q", buckets)
		}
		i := 0
		if err := tx.Bucket([]byte("data")).ForEach(func(k, v []byte) error {
			if i >= len(want) {
				return fmt.Errorf("entry %q is too many", k)
			}
			if e := want[i]; !bytes.Equal(k, e.Key) || !bytes.Equal(v, e.Value) {
				return fmt.Errorf("entry %d is %q (%d bytes), want %q (%d bytes)", i, k, len(v), e.Key, len(e.Value))
			}
			i++
			return nil
		}); err != nil {
			errs = append(errs, err)
		} else if i != len(want) {
			errs = append(errs, fmt.Errorf("%d entries, want %d", i, len(want)))
		}

		config := tx.Bucket([]byte("config"))
		if n := config.Stats().KeyN; n != 2 {
			errs = append(errs, fmt.Errorf("config holds %d keys, want 2", n))
		}
		term, index, err := decodeIndexes(config.Get([]byte("latest_indexes")))
		if err != nil || term != 1 || index < 2 {
			errs = append(errs, fmt.Errorf("latest_indexes: term %d, index %d, %w", term, index, err))
		}
		c, err := decodeConfiguration(config.Get([]byte("latest_config")))
		if err != nil || c != (configurationValue{index: index, servers: 1, id: nodeID, address: o.Address}) {
			errs = append(errs, fmt.Errorf("latest_config: %+v, %w; want node %q at %q", c, err, nodeID, o.Address))
		}
		return errors.Join(errs...)
	})
}

// fields calls f with every field of a protobuf message.
func fields(b []byte, f func(num protowire.Number, v uint64, s []byte) error) error {
	for len(b) > 0 {
		num, typ, n := protowire.ConsumeTag(b)
		if n < 0 {
			return protowire.ParseError(n)
		}
		b = b[n:]
		var v uint64
		var s []byte
		switch typ {
		case protowire.VarintType:
			v, n = protowire.ConsumeVarint(b)
		case protowire.BytesType:
			s, n = protowire.ConsumeBytes(b)
		default:
			return fmt.Errorf("field %d has wire type %d", num, typ)
		}
		if n < 0 {
			return protowire.ParseError(n)
		}
		b = b[n:]
		if err := f(num, v, s); err != nil {
			return err
		}
	}
	return nil
}

func decodeIndexes(b []byte) (term, index uint64, err error) {
	err = fields(b, func(num protowire.Number, v uint64, _ []byte) error {
		switch num {
		case 1:
			term = v
		case 2:
			index = v
		default:
			return fmt.Errorf("field %d", num)
		}
		return nil
	})
	return term, index, err
}

type configurationValue struct {
	index, suffrage uint64
	servers         int
	id, address     string
}

func decodeConfiguration(b []byte) (c configurationValue, err error) {
	err = fields(b, func(num protowire.Number, v uint64, s []byte) error {
		switch num {
		case 1:
			c.index = v
			return nil
		case 2:
			c.servers++
			return fields(s, func(num protowire.Number, v uint64, s []byte) error {
				switch num {
				case 1:
					c.suffrage = v
				case 2:
					c.id = string(s)
				case 3:
					c.address = string(s)
				default:
					return fmt.Errorf("field %d of a server", num)
				}
				return nil
			})
		}
		return fmt.Errorf("field %d", num)
	})
	return c, err
}

type logStore interface {
	hraft.LogStore
	hraft.StableStore
	Close() error
}

// openLogStore opens the log store as Vault does. It may write to it.
func openLogStore(o Options) (logStore, error) {
	dir := filepath.Join(o.Path, raftName)
	if o.WAL {
		if there, err := durable.Exists(filepath.Join(dir, raftDBName)); there || err != nil {
			return nil, fmt.Errorf("raft.db beside the WAL, %w", err)
		}
		return openWAL(filepath.Join(dir, walName))
	}
	path := filepath.Join(dir, raftDBName)
	if _, err := os.Stat(path); err != nil {
		return nil, err
	}
	return raftboltdb.New(raftboltdb.Options{Path: path, MsgpackUseNewTimeFormat: true})
}

func inspectLogStore(o Options) error {
	store, err := openLogStore(o)
	if err != nil {
		return err
	}
	defer store.Close()
	first, err1 := store.FirstIndex()
	last, err2 := store.LastIndex()
	term, err3 := store.GetUint64([]byte("CurrentTerm"))
	if err := errors.Join(err1, err2, err3); err != nil {
		return err
	}
	if first != 0 || last != 0 || term != 1 {
		return fmt.Errorf("log store: first index %d, last index %d, term %d; want 0, 0, 1", first, last, term)
	}
	return nil
}

func TestCopy(t *testing.T) {
	for _, withWAL := range []bool{false, true} {
		for _, n := range []int{0, 1, 2000} {
			t.Run(fmt.Sprintf("wal=%v/%d", withWAL, n), func(t *testing.T) {
				o := testOptions(t.TempDir())
				o.WAL = withWAL
				if err := os.Mkdir(filepath.Join(o.Path, "lost+found"), 0o700); err != nil {
					t.Fatal(err)
				}
				var told copier.Loaded
				o.Notify = func(e copier.Event) {
					switch e := e.(type) {
					case copier.Loaded:
						told.Entries += e.Entries
						told.Bytes += e.Bytes
					default:
						t.Errorf("event %T %+v", e, e)
					}
				}
				entries := testEntries(n)
				stats, err := run(o, entries, nil)
				if err != nil {
					t.Fatal(err)
				}
				if got, want := names(t, o.Path), []string{"lost+found", "raft", "vault.db"}; !slices.Equal(got, want) {
					t.Errorf("directory holds %q, want %q", got, want)
				}
				if err := inspect(o, entries); err != nil {
					t.Error(err)
				}
				var want copier.LoadStats
				for _, e := range entries {
					want.Entries++
					want.Bytes += int64(len(e.Key) + len(e.Value))
					if want.LargestKey == "" || int64(len(e.Value)) > want.LargestBytes {
						want.LargestKey, want.LargestBytes = string(e.Key), int64(len(e.Value))
					}
				}
				fi, err := os.Stat(filepath.Join(o.Path, vaultDBName))
				if err != nil {
					t.Fatal(err)
				}
				want.FileBytes = fi.Size()
				if stats != want {
					t.Errorf("stats %+v, want %+v", stats, want)
				}
				if told.Entries != want.Entries || told.Bytes != want.Bytes {
					t.Errorf("events told of %+v, want %d and %d", told, want.Entries, want.Bytes)
				}
			})
		}
	}
}

// The oracle of these tests sees what it should see.
func TestInspectFails(t *testing.T) {
	entries := testEntries(100)
	inDB := func(f func(tx *bbolt.Tx) error) func(Options) error {
		return func(o Options) error {
			db, err := bbolt.Open(filepath.Join(o.Path, vaultDBName), 0o600, nil)
			if err != nil {
				return err
			}
			return errors.Join(db.Update(f), db.Close())
		}
	}
	inLog := func(f func(logStore) error) func(Options) error {
		return func(o Options) error {
			s, err := openLogStore(o)
			if err != nil {
				return err
			}
			return errors.Join(f(s), s.Close())
		}
	}
	for name, spoil := range map[string]func(Options) error{
		"one byte of a value": inDB(func(tx *bbolt.Tx) error {
			b := tx.Bucket([]byte("data"))
			v := bytes.Clone(b.Get([]byte("logical/big")))
			v[1000] ^= 1
			return b.Put([]byte("logical/big"), v)
		}),
		"one entry less": inDB(func(tx *bbolt.Tx) error { return tx.Bucket([]byte("data")).Delete(entries[50].Key) }),
		"one entry more": inDB(func(tx *bbolt.Tx) error { return tx.Bucket([]byte("data")).Put([]byte("zzz"), nil) }),
		"index 1": inDB(func(tx *bbolt.Tx) error {
			return tx.Bucket([]byte("config")).Put([]byte("latest_indexes"), indexes(1, 1))
		}),
		"another address": inDB(func(tx *bbolt.Tx) error {
			return tx.Bucket([]byte("config")).Put([]byte("latest_config"), configuration(2, "node-1", "x:1"))
		}),
		"another node": inDB(func(tx *bbolt.Tx) error {
			return tx.Bucket([]byte("config")).Put([]byte("latest_config"), configuration(2, "node-2", "10.0.0.1:8201"))
		}),
		"a log entry":    inLog(func(s logStore) error { return s.StoreLog(&hraft.Log{Index: 1, Term: 1}) }),
		"another term":   inLog(func(s logStore) error { return s.SetUint64([]byte("CurrentTerm"), 7) }),
		"mode of a file": func(o Options) error { return os.Chmod(filepath.Join(o.Path, vaultDBName), 0o644) },
		"mode of a dir":  func(o Options) error { return os.Chmod(filepath.Join(o.Path, raftName, snapshotsName), 0o755) },
		"no snapshots":   func(o Options) error { return os.Remove(filepath.Join(o.Path, raftName, snapshotsName)) },
	} {
		t.Run(name, func(t *testing.T) {
			o := testOptions(t.TempDir())
			if _, err := run(o, entries, nil); err != nil {
				t.Fatal(err)
			}
			if err := inspect(o, entries); err != nil {
				t.Fatal(err)
			}
			if err := spoil(o); err != nil {
				t.Fatal(err)
			}
			if err := inspect(o, entries); err == nil {
				t.Error("inspect finds nothing wrong")
			}
		})
	}
}

// The first entry that Raft will append has an index far from the log's start.
func TestLogStoreTakesFirstEntryAfterFSM(t *testing.T) {
	for _, withWAL := range []bool{false, true} {
		o := testOptions(t.TempDir())
		o.WAL = withWAL
		if _, err := run(o, nil, nil); err != nil {
			t.Fatal(err)
		}
		s, err := openLogStore(o)
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		if err := s.StoreLog(&hraft.Log{Index: FSMIndex + 1, Term: FSMTerm + 1, Data: []byte("x")}); err != nil {
			t.Fatal(err)
		}
		first, err := s.FirstIndex()
		if err != nil || first != FSMIndex+1 {
			t.Errorf("wal=%v: first index %d, %v; want %d", withWAL, first, err, FSMIndex+1)
		}
	}
}

// What Vault parses, byte by byte, so that encoder and decoder of these tests
// can't be wrong together.
func TestConfigBucketBytes(t *testing.T) {
	want := map[string]string{
		"latest_indexes": "0801" + "1002",
		"latest_config":  "0802" + "120c" + "1203" + "6e2d31" + "1a05" + "683a313233",
	}
	got := map[string]string{}
	for _, p := range configBucket("n-1", "h:123") {
		got[p.key] = hex.EncodeToString(p.value)
	}
	if !maps.Equal(got, want) {
		t.Errorf("config bucket %q, want %q", got, want)
	}
}

func TestValidate(t *testing.T) {
	good := testOptions("/x")
	if err := good.Validate(); err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string]func(*Options){
		"no path":       func(o *Options) { o.Path = "" },
		"no address":    func(o *Options) { o.Address = "" },
		"no port":       func(o *Options) { o.Address = "10.0.0.1" },
		"no host":       func(o *Options) { o.Address = ":8201" },
		"port 0":        func(o *Options) { o.Address = "10.0.0.1:0" },
		"port a name":   func(o *Options) { o.Address = "10.0.0.1:vault" },
		"a URL":         func(o *Options) { o.Address = "https://10.0.0.1:8201" },
		"negative size": func(o *Options) { o.MaxEntrySize = -1 },
	} {
		o := good
		change(&o)
		s, err := New(o)
		if !errors.Is(err, copier.ErrConfig) || s != nil {
			t.Errorf("%s: New returns %v, %v", name, s, err)
		}
	}
	for _, address := range []string{"[::1]:8201", "vault-1.internal:8201"} {
		o := good
		o.Address = address
		if err := o.Validate(); err != nil {
			t.Errorf("%s: %v", address, err)
		}
	}
}

// prepare runs Prepare and Close only.
func prepare(o Options) error {
	p, err := open(o)
	if p == nil {
		return err
	}
	return errors.Join(err, p.Close(false))
}

func TestPrepareRefuses(t *testing.T) {
	file := func(name, content string) func(t *testing.T, o *Options) {
		return func(t *testing.T, o *Options) {
			if err := os.WriteFile(filepath.Join(o.Path, name), []byte(content), 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	for name, c := range map[string]struct {
		setup func(t *testing.T, o *Options)
		kind  error
		says  string // in the error or its hint
	}{
		"missing": {func(t *testing.T, o *Options) { o.Path += "/a b" }, copier.ErrDestination, "mkdir -p '"},
		"a file": {func(t *testing.T, o *Options) {
			file("f", "")(t, o)
			o.Path += "/f"
		}, copier.ErrDestination, "must be a directory"},
		"vault.db":     {file(vaultDBName, "x"), copier.ErrDestination, "mv "},
		"raft, a file": {file(raftName, "x"), copier.ErrDestination, "already holds Vault's data (raft)"},
		"raft, a broken link": {func(t *testing.T, o *Options) {
			if err := os.Symlink("nowhere", filepath.Join(o.Path, raftName)); err != nil {
				t.Fatal(err)
			}
		}, copier.ErrDestination, "already holds Vault's data (raft)"},
		"vault.db in use": {func(t *testing.T, o *Options) {
			db, err := bbolt.Open(filepath.Join(o.Path, vaultDBName), 0o600, nil)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { db.Close() })
		}, copier.ErrLocked, "running Vault"},
		"a complete copy in use": {func(t *testing.T, o *Options) {
			if err := os.Mkdir(filepath.Join(o.Path, stagingName), 0o700); err != nil {
				t.Fatal(err)
			}
			if err := (&Sink{opts: *o}).writeRecord(record{RunID: "run-9"}); err != nil {
				t.Fatal(err)
			}
			db, err := bbolt.Open(filepath.Join(o.Path, vaultDBName), 0o600, nil)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { db.Close() })
		}, copier.ErrLocked, copier.ErrInPlace.Error()},
		"another node-id":        {file(nodeIDName, "node-2"), copier.ErrDestination, `"node-2"`},
		"node-id with a newline": {file(nodeIDName, "node-1\n"), copier.ErrDestination, `"node-1\n"`},
		"empty node-id":          {file(nodeIDName, ""), copier.ErrDestination, "rm "},
		"node-id by echo": {func(t *testing.T, o *Options) {
			o.NodeID = ""
			file(nodeIDName, "node-1\n")(t, o)
		}, ErrNodeID, "line ends"},
		"node-id with a colon": {func(t *testing.T, o *Options) {
			o.NodeID = ""
			file(nodeIDName, "zone:instance")(t, o)
		}, ErrNodeID, "zone:instance"},
		"staging not a directory": {file(stagingName, "x"), copier.ErrDestination,
			"move it away"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			o := testOptions(dir)
			c.setup(t, &o)
			before := names(t, dir)
			err := prepare(o)
			if !errors.Is(err, c.kind) {
				t.Fatalf("error is %v, want one of kind %v", err, c.kind)
			}
			if text := err.Error() + "\n" + hint(err); !strings.Contains(text, c.says) {
				t.Errorf("error and hint do not say %q:\n%s", c.says, text)
			}
			if after := names(t, dir); !slices.Equal(after, before) {
				t.Errorf("directory held %q and now %q", before, after)
			}
		})
	}
}

// hint finds the hint also in joined errors.
func hint(err error) string {
	if e, ok := errors.AsType[*copier.Error](err); ok {
		return e.Hint
	}
	return ""
}

func TestSecondRunIsRefused(t *testing.T) {
	o := testOptions(t.TempDir())
	first := mustOpen(t, o)
	if err := prepare(o); !errors.Is(err, copier.ErrLocked) || !strings.Contains(err.Error(), "another dyn2raft") {
		t.Errorf("second Prepare returns %v", err)
	}
	// The second run's Close has left the first run's work alone.
	if fi, err := os.Stat(first.WorkDir()); err != nil || fi.Mode().Perm() != 0o700 {
		t.Errorf("work directory: %v, %v", fi, err)
	}
	entries := testEntries(20)
	if _, err := first.Load(context.Background(), &sliceStream{entries: entries}); err != nil {
		t.Fatal(err)
	}
	if err := first.commit(context.Background()); err != nil {
		t.Fatal(err)
	}
	if err := first.Close(false); err != nil {
		t.Fatal(err)
	}
	if err := inspect(o, entries); err != nil {
		t.Error(err)
	}
	if err := prepare(o); !errors.Is(err, copier.ErrDestination) {
		t.Errorf("Prepare on a finished copy returns %v", err)
	}
}

func TestNodeID(t *testing.T) {
	t.Run("made", func(t *testing.T) {
		o := testOptions(t.TempDir())
		o.NodeID = ""
		if _, err := run(o, nil, nil); err != nil {
			t.Fatal(err)
		}
		id, err := os.ReadFile(filepath.Join(o.Path, nodeIDName))
		if err != nil {
			t.Fatal(err)
		}
		if len(id) != 36 || strings.Count(string(id), "-") != 4 || bytes.ContainsAny(id, "\n ") {
			t.Errorf("node-id is %q, want a UUID without a newline", id)
		}
		if err := inspect(o, nil); err != nil { // and it is the voter's id
			t.Error(err)
		}
	})
	t.Run("found", func(t *testing.T) {
		for _, content := range []string{"from-file", "from-file\n"} {
			o := testOptions(t.TempDir())
			o.NodeID, o.AnyNodeID = "", strings.HasSuffix(content, "\n")
			if err := os.WriteFile(filepath.Join(o.Path, nodeIDName), []byte(content), 0o600); err != nil {
				t.Fatal(err)
			}
			if _, err := run(o, nil, nil); err != nil {
				t.Fatal(err)
			}
			if err := inspect(o, nil); err != nil { // as it is in the file
				t.Error(err)
			}
		}
	})
	t.Run("given and the same", func(t *testing.T) {
		o := testOptions(t.TempDir())
		if err := os.WriteFile(filepath.Join(o.Path, nodeIDName), []byte(o.NodeID), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := run(o, nil, nil); err != nil {
			t.Fatal(err)
		}
		if err := inspect(o, nil); err != nil {
			t.Error(err)
		}
	})
}

// Each id is given to a real Vault by the end-to-end suite.
func TestCheckNodeID(t *testing.T) {
	for id, good := range map[string]bool{
		"": true, "node-1": true, "vault_1": true, "eu-central-1a.i-0abc": true, "9c3d4a55-8e0f-4b47-9d05-0d4cf3a3a1f2": true, "ünïcode": true, "a/b": true,
		"a:8201":  true, // a port, by its form
		"vault 1": false, "zone:instance": false, "rack%1": false, `host\1`: false, "[1]": false, "{{ GetPrivateIP }}": false, "node-1\n": false, "\tnode": false, "a\x7f": false,
	} {
		if err := CheckNodeID(id); (err == nil) != good || !good && !errors.Is(err, ErrNodeID) {
			t.Errorf("%q: %v", id, err)
		}
		o := testOptions(t.TempDir())
		o.NodeID = id
		err := o.Validate()
		if (err == nil) != good || !good && (!errors.Is(err, ErrNodeID) || !errors.Is(err, copier.ErrConfig) || hint(err) == "") {
			t.Errorf("%q in the options: %v", id, err)
		}
		o.AnyNodeID = true
		if err := o.Validate(); err != nil {
			t.Errorf("%q is to be let through: %v", id, err)
		}
	}
}

// What appears, changes or goes in the directory during the copy stops the
// commit, and stays as it is.
func TestCommitRefuses(t *testing.T) {
	for name, c := range map[string]struct {
		nodeID         string
		before, during func(dir string) error
	}{
		"vault.db appeared": {"node-1", nil, func(dir string) error {
			return os.WriteFile(filepath.Join(dir, vaultDBName), nil, 0o600)
		}},
		"raft appeared": {"node-1", nil, func(dir string) error { return os.Mkdir(filepath.Join(dir, raftName), 0o700) }},
		"node-id appeared": {"", nil, func(dir string) error {
			return os.WriteFile(filepath.Join(dir, nodeIDName), []byte("other"), 0o600)
		}},
		"node-id changed": {"", func(dir string) error {
			return os.WriteFile(filepath.Join(dir, nodeIDName), []byte("one"), 0o600)
		}, func(dir string) error {
			return os.WriteFile(filepath.Join(dir, nodeIDName), []byte("two"), 0o600)
		}},
		"node-id went": {"", func(dir string) error {
			return os.WriteFile(filepath.Join(dir, nodeIDName), []byte("one"), 0o600)
		}, func(dir string) error { return os.Remove(filepath.Join(dir, nodeIDName)) }},
	} {
		t.Run(name, func(t *testing.T) {
			o := testOptions(t.TempDir())
			o.NodeID = c.nodeID
			if c.before != nil {
				if err := c.before(o.Path); err != nil {
					t.Fatal(err)
				}
			}
			s, ctx := mustOpen(t, o), context.Background()
			if _, err := s.Load(ctx, &sliceStream{entries: testEntries(10)}); err != nil {
				t.Fatal(err)
			}
			if err := c.during(o.Path); err != nil {
				t.Fatal(err)
			}
			want := names(t, o.Path)
			if err := s.commit(ctx); !errors.Is(err, copier.ErrDestination) {
				t.Errorf("Commit returns %v", err)
			}
			if err := s.Close(false); err != nil {
				t.Error(err)
			}
			want = slices.DeleteFunc(want, func(n string) bool { return n == stagingName })
			if got := names(t, o.Path); !slices.Equal(got, want) {
				t.Errorf("directory holds %q, want %q", got, want)
			}
		})
	}
}

// A sync that fails behind the name of vault.db: it is taken back, and no Vault can
// start meanwhile, nor on what was taken back: one waits a second for the lock of a
// file that it has opened. If one has started before, the copy is its, and stays. A
// reader is no Vault.
func TestVaultStartsBeforeTheLastSync(t *testing.T) {
	for name, starts := range map[string]string{"none": "", "before": "sync", "meanwhile": "rename", "a reader": "read"} {
		t.Run(name, func(t *testing.T) {
			o := testOptions(t.TempDir())
			var warnings []string
			o.Notify = func(e copier.Event) {
				if w, ok := e.(copier.Warning); ok {
					warnings = append(warnings, w.Message)
				}
			}
			path := filepath.Join(o.Path, vaultDBName)
			var vault *bbolt.DB
			opened := make(chan struct{}, 2)
			start := func() (err error) {
				vault, err = bbolt.Open(path, 0o600, &bbolt.Options{Timeout: time.Minute, OpenFile: func(name string, flag int, mode os.FileMode) (*os.File, error) {
					defer func() { opened <- struct{}{} }()
					return os.OpenFile(name, flag, mode)
				}})
				return err
			}
			waits := make(chan error, 1)
			placed, failed := false, false
			o.Disk = &durable.Disk{Before: func(op durable.Op) error {
				switch {
				case op.Verb == durable.Place && op.Path == path:
					placed = true
				case placed && !failed && op.Verb == durable.Sync && op.Path == o.Path:
					failed = true
					if starts == "sync" {
						if err := start(); err != nil {
							t.Error(err)
						}
					}
					if starts == "read" {
						reader, err := bbolt.Open(path, 0o600, &bbolt.Options{ReadOnly: true})
						if err != nil {
							t.Error(err)
						}
						t.Cleanup(func() { reader.Close() })
					}
					return fmt.Errorf("injected: %w", syscall.EIO)
				case failed && op.Verb == durable.Rename && op.From == path && starts == "rename":
					go func() { waits <- start() }()
					<-opened
				}
				return nil
			}}
			_, err := run(o, testEntries(10), nil)
			if starts != "sync" {
				if !errors.Is(err, syscall.EIO) || !errors.Is(err, copier.ErrDestination) || len(warnings) > 0 {
					t.Errorf("the copy returns %v, with warnings %q", err, warnings)
				}
				if got := names(t, o.Path); len(got) > 0 {
					t.Errorf("left in place: %q", got)
				}
				if starts == "rename" {
					if err := <-waits; err == nil {
						t.Error("a Vault that waits for vault.db runs on what was taken back")
						vault.Close()
					} else {
						t.Log(err)
					}
				}
				return
			}
			defer vault.Close()
			if err != nil || len(warnings) != 1 || !strings.Contains(warnings[0], "input/output error") {
				t.Errorf("the copy returns %v, with warnings %q", err, warnings)
			}
			if got := names(t, o.Path); !slices.Equal(got, []string{raftName, vaultDBName}) {
				t.Fatalf("directory holds %q", got)
			}
			if err := vault.Update(func(tx *bbolt.Tx) error {
				return tx.Bucket([]byte("data")).Put([]byte("written/by/vault"), []byte("kept"))
			}); err != nil {
				t.Fatal(err)
			}
			if err := vault.Close(); err != nil {
				t.Fatal(err)
			}
			if err := start(); err != nil {
				t.Fatal(err)
			}
			if err := vault.View(func(tx *bbolt.Tx) error {
				if v := tx.Bucket([]byte("data")).Get([]byte("written/by/vault")); string(v) != "kept" {
					t.Errorf("what the Vault wrote is now %q", v)
				}
				return nil
			}); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestLoadErrors(t *testing.T) {
	e := func(key string) copier.Entry { return copier.Entry{Key: []byte(key), Value: []byte("v")} }
	streamErr := &copier.Error{Kind: copier.ErrSource, Op: "merge runs"}
	cancelled, cancel := context.WithCancel(context.Background())
	cancel()
	for name, c := range map[string]struct {
		ctx     context.Context
		entries []copier.Entry
		err     error
		want    error
	}{
		"same key twice": {nil, []copier.Entry{e("a"), e("b"), e("b")}, nil, copier.ErrDuplicateKey},
		"out of order":   {nil, []copier.Entry{e("b"), e("a")}, nil, copier.ErrDestination},
		"empty key":      {nil, []copier.Entry{e("")}, nil, copier.ErrDestination},
		"key too large":  {nil, []copier.Entry{e(strings.Repeat("k", bbolt.MaxKeySize+1))}, nil, copier.ErrDestination},
		"stream fails":   {nil, testEntries(10), streamErr, copier.ErrSource},
		"cancelled":      {cancelled, testEntries(10), nil, context.Canceled},
	} {
		t.Run(name, func(t *testing.T) {
			o := testOptions(t.TempDir())
			s := mustOpen(t, o)
			ctx := c.ctx
			if ctx == nil {
				ctx = context.Background()
			}
			_, err := s.Load(ctx, &sliceStream{entries: c.entries, err: c.err})
			if !errors.Is(err, c.want) {
				t.Errorf("Load returns %v, want %v", err, c.want)
			}
			if c.want != copier.ErrDestination && errors.Is(err, copier.ErrDestination) {
				t.Errorf("Load blames the destination: %v", err)
			}
			if err := s.commit(context.Background()); !errors.Is(err, copier.ErrDestination) {
				t.Errorf("Commit after a failed Load returns %v", err)
			}
			if err := s.Close(false); err != nil {
				t.Error(err)
			}
			if err := s.Sink.Close(); err != nil {
				t.Errorf("second Close: %v", err)
			}
			if got := names(t, o.Path); len(got) != 0 {
				t.Errorf("directory holds %q", got)
			}
		})
	}
}

func TestLargeEntriesAreNamed(t *testing.T) {
	o := testOptions(t.TempDir())
	o.MaxEntrySize = 100
	var warnings []string
	o.Notify = func(e copier.Event) {
		if w, ok := e.(copier.Warning); ok {
			warnings = append(warnings, w.Message)
		}
	}
	var entries []copier.Entry
	for i := range 15 {
		entries = append(entries, copier.Entry{Key: fmt.Appendf(nil, "key-%02d", i), Value: make([]byte, 95)})
	}
	entries[0].Value = make([]byte, 94) // just fits
	if _, err := run(o, entries, nil); err != nil {
		t.Fatal(err)
	}
	if len(warnings) != 11 || !strings.Contains(warnings[0], `"key-01"`) || !strings.Contains(warnings[0], "101 bytes") ||
		!strings.Contains(warnings[0], "100 bytes") || !strings.HasPrefix(warnings[10], "4 more") {
		t.Errorf("warnings: %q", warnings)
	}
	if err := inspect(o, entries); err != nil {
		t.Error(err)
	}
}

// A directory of another user's is warned of, unless it is a group's of this user's
// too, as a volume of Kubernetes (fsGroup) is. A staging directory of another user's
// is refused, before anything in it is touched.
func TestOwner(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("NOT TESTED: directories of other users, which only root can make")
	}
	var warnings []string
	o := testOptions(t.TempDir())
	o.Notify = func(e copier.Event) {
		if e, ok := e.(copier.Warning); ok {
			warnings = append(warnings, e.Message)
		}
	}
	for _, c := range []struct {
		uid, gid int
		mode     os.FileMode
		warned   bool
	}{
		{0, 0, 0o700, false},
		{12345, 23456, 0o700, true},
		{12345, os.Getegid(), 0o755, true},
		{12345, os.Getegid(), 0o2775, false},
		{12345, 23456, 0o2775, true},
	} {
		warnings = nil
		if err := errors.Join(os.Chown(o.Path, c.uid, c.gid), os.Chmod(o.Path, c.mode)); err != nil {
			t.Fatal(err)
		}
		if err := prepare(o); err != nil || (len(warnings) == 1) != c.warned || len(warnings) > 1 {
			t.Errorf("%+v: %v, warnings %q", c, err, warnings)
		}
		if c.warned && len(warnings) == 1 && !strings.Contains(warnings[0], "belongs to 12345, but what is put there will belong to root, and a Vault that runs as 12345 can't") {
			t.Errorf("warning is %q", warnings[0])
		}
	}

	for _, at := range []string{stagingName, stagingName + "/" + workName} {
		o := testOptions(t.TempDir())
		left := filepath.Join(o.Path, stagingName, "vault.db")
		if err := errors.Join(os.MkdirAll(filepath.Join(o.Path, stagingName, workName), 0o700), os.WriteFile(left, nil, 0o600),
			os.Chown(filepath.Join(o.Path, at), 12345, 23456)); err != nil {
			t.Fatal(err)
		}
		if err := prepare(o); !errors.Is(err, copier.ErrNotOurs) || !errors.Is(err, copier.ErrDestination) || !strings.Contains(err.Error(), "it is 12345's, and this process runs as root") {
			t.Errorf("%s: %v", at, err)
		}
		if _, err := os.Lstat(left); err != nil {
			t.Error(err)
		}
	}
	o = testOptions(t.TempDir())
	elsewhere := t.TempDir()
	if err := errors.Join(os.Mkdir(filepath.Join(o.Path, stagingName), 0o700), os.Symlink(elsewhere, filepath.Join(o.Path, stagingName, workName))); err != nil {
		t.Fatal(err)
	}
	if err := prepare(o); !errors.Is(err, unix.ENOTDIR) {
		t.Errorf("a work directory that is a link: %v", err)
	}
}

// What stands in place of a state file is not waited for, and not taken whole.
func TestOddStateFiles(t *testing.T) {
	for name, plant := range map[string]func(string) error{
		"pipe":   func(path string) error { return unix.Mkfifo(path, 0o600) },
		"device": func(path string) error { return os.Symlink("/dev/zero", path) },
		"too big": func(path string) error {
			return errors.Join(os.WriteFile(path, nil, 0o600), os.Truncate(path, 200<<20))
		},
	} {
		o := testOptions(t.TempDir())
		o.NodeID = ""
		if err := plant(filepath.Join(o.Path, nodeIDName)); err != nil {
			t.Fatal(err)
		}
		if err := prepare(o); !errors.Is(err, copier.ErrDestination) || !strings.Contains(err.Error(), "node-id") {
			t.Errorf("node-id, %s: %v", name, err)
		}
		o = testOptions(t.TempDir())
		if err := errors.Join(os.Mkdir(filepath.Join(o.Path, stagingName), 0o700), plant(filepath.Join(o.Path, stagingName, recordName))); err != nil {
			t.Fatal(err)
		}
		if err := prepare(o); !errors.Is(err, copier.ErrDestination) || !strings.Contains(err.Error(), recordName) {
			t.Errorf("record, %s: %v", name, err)
		}
	}
}

func TestHints(t *testing.T) {
	s, err := New(testOptions(t.TempDir()))
	if err != nil {
		t.Fatal(err)
	}
	for errno, says := range map[error]string{
		unix.ENOSPC: "Written so far: 0 B. Free: ",
		unix.EDQUOT: "Written so far: 0 B. Free: ",
		unix.EROFS:  "remount,rw",
		unix.EACCES: "this process runs as ",
		unix.EEXIST: "during the copy",
		unix.EIO:    "",
	} {
		err := s.fail("write", &fs.PathError{Op: "write", Path: "x", Err: errno})
		if !errors.Is(err, copier.ErrDestination) || !errors.Is(err, errno) {
			t.Errorf("%v: kind is lost in %v", errno, err)
		}
		if h := copier.Hint(err); !strings.Contains(h, says) || says == "" && h != "" {
			t.Errorf("%v: hint is %q, want %q", errno, h, says)
		}
	}
}

func TestTreeBytes(t *testing.T) {
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, "sub"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "sub", "f"), make([]byte, 1<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	hole := filepath.Join(dir, "hole")
	if err := os.WriteFile(hole, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(hole, 1<<30); err != nil { // takes no room
		t.Fatal(err)
	}
	f, err := os.Open(filepath.Join(dir, "sub", "f"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := f.Sync(); err != nil { // some file systems give room only now
		t.Fatal(err)
	}
	if n := treeBytes(dir); n < 1<<20 || n > 2<<20 {
		t.Errorf("%d bytes, want 1 MiB and a little", n)
	}
}
