package raft

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
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
	"github.com/dyn2raft/dyn2raft/sinks/internal/hold"
	hraft "github.com/hashicorp/raft"
	"go.etcd.io/bbolt"
	"golang.org/x/sys/unix"
)

func TestCopy(t *testing.T) {
	for _, withWAL := range []bool{false, true} {
		for _, n := range []int{0, 1, 2000} {
			t.Run(fmt.Sprintf("wal=%v/%d", withWAL, n), func(t *testing.T) {
				o, entries := testOptions(t.TempDir()), testEntries(n)
				o.WAL = withWAL
				check(t, os.Mkdir(filepath.Join(o.Path, "lost+found"), 0o700))
				var told copier.Loaded
				o.Notify = func(e copier.Event) {
					l, ok := e.(copier.Loaded)
					if !ok {
						t.Errorf("event %T %+v", e, e)
					}
					told.Entries += l.Entries
					told.Bytes += l.Bytes
				}
				stats, err := run(o, entries, nil)
				check(t, err)
				if err := inspect(o, entries); err != nil {
					t.Error(err)
				}
				if got, want := names(t, o.Path), []string{"lost+found", "raft", "vault.db"}; !slices.Equal(got, want) {
					t.Errorf("directory holds %q, want %q", got, want)
				}
				if want := statsOf(t, o, entries); stats != want || told.Entries != want.Entries || told.Bytes != want.Bytes {
					t.Errorf("stats %+v, events told of %+v, want %+v", stats, told, want)
				}
			})
		}
	}
}

// statsOf counts what a directory must hold.
func statsOf(t *testing.T, o Options, entries []copier.Entry) (want copier.LoadStats) {
	for _, e := range entries {
		want.Entries++
		want.Bytes += int64(len(e.Key) + len(e.Value))
		if want.LargestKey == "" || int64(len(e.Value)) > want.LargestBytes {
			want.LargestKey, want.LargestBytes = string(e.Key), int64(len(e.Value))
		}
	}
	fi, err := os.Stat(filepath.Join(o.Path, vaultDBName))
	check(t, err)
	want.FileBytes = fi.Size()
	return want
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
		check(t, err)
		defer s.Close()
		check(t, s.StoreLog(&hraft.Log{Index: FSMIndex + 1, Term: FSMTerm + 1, Data: []byte("x")}))
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
	check(t, good.Validate())
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

func TestPrepareRefuses(t *testing.T) {
	file := func(name, content string) func(t *testing.T, o *Options) {
		return func(t *testing.T, o *Options) {
			check(t, os.WriteFile(filepath.Join(o.Path, name), []byte(content), 0o600))
		}
	}
	for name, c := range map[string]struct {
		setup func(t *testing.T, o *Options)
		kind  error
		says  string // in the error or its hint
	}{
		"missing": {func(t *testing.T, o *Options) { o.Path += "/a b" }, copier.ErrDestination, "no-directory map[path:"},
		"a file": {func(t *testing.T, o *Options) {
			file("f", "")(t, o)
			o.Path += "/f"
		}, copier.ErrDestination, "not-a-directory map[]"},
		"vault.db":     {file(vaultDBName, "x"), copier.ErrDestination, "holds-data map[aside:"},
		"raft, a file": {file(raftName, "x"), copier.ErrDestination, "already holds Vault's data (raft)"},
		"raft, a broken link": {func(t *testing.T, o *Options) {
			check(t, os.Symlink("nowhere", filepath.Join(o.Path, raftName)))
		}, copier.ErrDestination, "already holds Vault's data (raft)"},
		"vault.db in use": {func(t *testing.T, o *Options) {
			db, err := bbolt.Open(filepath.Join(o.Path, vaultDBName), 0o600, nil)
			check(t, err)
			t.Cleanup(func() { db.Close() })
		}, copier.ErrLocked, "running Vault"},
		"a complete copy in use": {func(t *testing.T, o *Options) {
			check(t, os.Mkdir(filepath.Join(o.Path, stagingName), 0o700))
			check(t, (&Sink{opts: *o}).writeRecord(record{Copy: copier.Record{RunID: "run-9", State: copier.Unconfirmed}}))
			db, err := bbolt.Open(filepath.Join(o.Path, vaultDBName), 0o600, nil)
			check(t, err)
			t.Cleanup(func() { db.Close() })
		}, copier.ErrLocked, copier.ErrInPlace.Error()},
		"another node-id":        {file(nodeIDName, "node-2"), copier.ErrDestination, `"node-2"`},
		"node-id with a newline": {file(nodeIDName, "node-1\n"), copier.ErrDestination, `"node-1\n"`},
		"empty node-id":          {file(nodeIDName, ""), copier.ErrDestination, "node-id-empty map[file:"},
		"node-id by echo": {func(t *testing.T, o *Options) {
			o.NodeID = ""
			file(nodeIDName, "node-1\n")(t, o)
		}, ErrNodeID, "node-id-blanks"},
		"node-id with a colon": {func(t *testing.T, o *Options) {
			o.NodeID = ""
			file(nodeIDName, "zone:instance")(t, o)
		}, ErrNodeID, "zone:instance"},
		"staging not a directory": {file(stagingName, "x"), copier.ErrDestination,
			"name-taken"},
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
			if text := err.Error() + "\n" + coded(t, err); !strings.Contains(text, c.says) {
				t.Errorf("error and code do not say %q:\n%s", c.says, text)
			}
			if after := names(t, dir); !slices.Equal(after, before) {
				t.Errorf("directory held %q and now %q", before, after)
			}
		})
	}
}

// coded is the code of an error, and its facts, which must be those of the code.
func coded(t *testing.T, err error) string {
	code, facts := copier.CodeOf(err)
	if names := copier.Codes()[code]; !slices.Equal(slices.Sorted(maps.Keys(facts)), slices.Sorted(slices.Values(names))) {
		t.Errorf("code %q with facts %q, expected %q", code, facts, names)
	}
	return fmt.Sprint(string(code), " ", facts)
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
	check(t, first.commit(context.Background()))
	check(t, first.Close(false))
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
		check(t, err)
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
			check(t, os.WriteFile(filepath.Join(o.Path, nodeIDName), []byte(content), 0o600))
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
		check(t, os.WriteFile(filepath.Join(o.Path, nodeIDName), []byte(o.NodeID), 0o600))
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
		if (err == nil) != good || !good && (!errors.Is(err, ErrNodeID) || !errors.Is(err, copier.ErrConfig) || !strings.HasPrefix(coded(t, err), "node-id-")) {
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
	put := func(name, content string) func(dir string) error {
		return func(dir string) error { return os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600) }
	}
	for name, c := range map[string]struct {
		nodeID         string
		before, during func(dir string) error
	}{
		"vault.db appeared": {"node-1", nil, put(vaultDBName, "")},
		"raft appeared":     {"node-1", nil, func(dir string) error { return os.Mkdir(filepath.Join(dir, raftName), 0o700) }},
		"node-id appeared":  {"", nil, put(nodeIDName, "other")},
		"node-id changed":   {"", put(nodeIDName, "one"), put(nodeIDName, "two")},
		"node-id went":      {"", put(nodeIDName, "one"), func(dir string) error { return os.Remove(filepath.Join(dir, nodeIDName)) }},
	} {
		t.Run(name, func(t *testing.T) {
			o := testOptions(t.TempDir())
			o.NodeID = c.nodeID
			if c.before != nil {
				check(t, c.before(o.Path))
			}
			s, ctx := mustOpen(t, o), context.Background()
			if _, err := s.Load(ctx, &sliceStream{entries: testEntries(10)}); err != nil {
				t.Fatal(err)
			}
			check(t, c.during(o.Path))
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
			check(t, vault.Close())
			check(t, start())
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
		check(t, errors.Join(os.Chown(o.Path, c.uid, c.gid), os.Chmod(o.Path, c.mode)))
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
	check(t, errors.Join(os.Mkdir(filepath.Join(o.Path, stagingName), 0o700), os.Symlink(elsewhere, filepath.Join(o.Path, stagingName, workName))))
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
		check(t, plant(filepath.Join(o.Path, nodeIDName)))
		if err := prepare(o); !errors.Is(err, copier.ErrDestination) || !strings.Contains(err.Error(), "node-id") {
			t.Errorf("node-id, %s: %v", name, err)
		}
		o = testOptions(t.TempDir())
		check(t, errors.Join(os.Mkdir(filepath.Join(o.Path, stagingName), 0o700), plant(filepath.Join(o.Path, stagingName, recordName))))
		if err := prepare(o); !errors.Is(err, copier.ErrDestination) || !strings.Contains(err.Error(), recordName) {
			t.Errorf("record, %s: %v", name, err)
		}
	}
}

func TestCodes(t *testing.T) {
	s, err := New(testOptions(t.TempDir()))
	check(t, err)
	for errno, says := range map[error]string{
		unix.ENOSPC: "written:0]",
		unix.EDQUOT: "disk-full map[free:",
		unix.EROFS:  "read-only",
		unix.EACCES: "not-permitted",
		unix.EEXIST: "started-on",
		unix.EIO:    " map[]",
	} {
		err := s.fail("write", &fs.PathError{Op: "write", Path: "x", Err: errno})
		if !errors.Is(err, copier.ErrDestination) || !errors.Is(err, errno) {
			t.Errorf("%v: kind is lost in %v", errno, err)
		}
		if got := coded(t, err); !strings.Contains(got, says) || errno == unix.EIO && got != says {
			t.Errorf("%v: code is %q, want %q", errno, got, says)
		}
	}
}

func TestTreeBytes(t *testing.T) {
	dir := t.TempDir()
	check(t, os.Mkdir(filepath.Join(dir, "sub"), 0o700))
	check(t, os.WriteFile(filepath.Join(dir, "sub", "f"), make([]byte, 1<<20), 0o600))
	hole := filepath.Join(dir, "hole")
	check(t, os.WriteFile(hole, nil, 0o600))
	if err := os.Truncate(hole, 1<<30); err != nil { // takes no room
		t.Fatal(err)
	}
	f, err := os.Open(filepath.Join(dir, "sub", "f"))
	check(t, err)
	defer f.Close()
	if err := f.Sync(); err != nil { // some file systems give room only now
		t.Fatal(err)
	}
	if n := hold.TreeBytes(dir); n < 1<<20 || n > 2<<20 {
		t.Errorf("%d bytes, want 1 MiB and a little", n)
	}
}
