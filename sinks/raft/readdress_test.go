package raft

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	hraft "github.com/hashicorp/raft"
	"go.etcd.io/bbolt"

	"github.com/dyn2raft/dyn2raft/copier"
	"github.com/dyn2raft/dyn2raft/sources/raft/vaultdb"
)

// checkLog is what a command gives to Readdress.
func checkLog(ctx context.Context, path string) error {
	return vaultdb.Raft{Index: FSMIndex, Term: FSMTerm}.CheckLog(ctx, path)
}

// readdress changes a copy that o has made, and o too.
func readdress(o *Options, before func(string) error) (Peer, error) {
	r := ReaddressOptions{Path: o.Path, NodeID: "node-2", Address: "vault-2.example.com:8203", NodeIDFile: o.NodeID == "", CheckLog: checkLog}
	if before != nil {
		r.Disk = hooked(before)
	}
	was, err := Readdress(context.Background(), r)
	if err == nil {
		o.NodeID, o.Address = r.NodeID, r.Address
	}
	return was, err
}

// readdressable are kinds of directories.
var readdressable = map[string]func(dir string) Options{
	"raft.db": testOptions,
	"wal": func(dir string) Options {
		o := testOptions(dir)
		o.WAL = true
		return o
	},
	"node-id": func(dir string) Options {
		o := testOptions(dir)
		o.NodeID = ""
		return o
	},
}

func TestReaddress(t *testing.T) {
	entries := testEntries(200)
	for name, options := range readdressable {
		t.Run(name, func(t *testing.T) {
			o := options(t.TempDir())
			if _, err := run(o, entries, nil); err != nil {
				t.Fatal(err)
			}
			file := o.NodeID == ""
			id := "node-1"
			if file {
				b, err := os.ReadFile(filepath.Join(o.Path, nodeIDName))
				if err != nil {
					t.Fatal(err)
				}
				id = string(b)
			}
			was, err := readdress(&o, nil)
			if err != nil || was != (Peer{ID: id, Address: "10.0.0.1:8201"}) {
				t.Fatalf("%+v, %v", was, err)
			}
			if err := inspect(o, entries); err != nil {
				t.Error(err)
			}
			b, err := os.ReadFile(filepath.Join(o.Path, nodeIDName))
			if file && string(b) != "node-2" || !file && err == nil {
				t.Errorf("node-id holds %q, %v", b, err)
			}
			// Again, there is nothing to do.
			before, err := os.ReadFile(filepath.Join(o.Path, vaultDBName))
			if err != nil {
				t.Fatal(err)
			}
			if was, err := readdress(&o, nil); err != nil || was.ID != "node-2" {
				t.Errorf("again: %+v, %v", was, err)
			}
			if after, err := os.ReadFile(filepath.Join(o.Path, vaultDBName)); err != nil || !slices.Equal(before, after) {
				t.Errorf("written again, %v", err)
			}
		})
	}
}

// At whatever step it fails or is killed, vault.db has the old node or the new one, and
// the same call finishes the work.
func TestReaddressStopsAtEveryStep(t *testing.T) {
	entries := testEntries(50)
	for name, options := range readdressable {
		for _, kill := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, killed %v", name, kill), func(t *testing.T) {
				for n := 0; ; n++ {
					o := options(t.TempDir())
					if _, err := run(o, entries, nil); err != nil {
						t.Fatal(err)
					}
					if !stopAt(t, o, n, kill) {
						if least := map[bool]int{true: 6, false: 1}[o.NodeID == ""]; n < least {
							t.Errorf("only %d steps", n)
						}
						return
					}
					if o.NodeID != "" { // with the file, it may have the new id already
						if err := inspect(o, entries); err != nil {
							t.Errorf("after step %d: %v", n, err)
						}
					} else if b, err := os.ReadFile(filepath.Join(o.Path, nodeIDName)); err != nil || len(b) == 0 {
						t.Errorf("after step %d: node-id is %q, %v", n, b, err)
					}
					if _, err := readdress(&o, nil); err != nil {
						t.Errorf("after step %d: %v", n, err)
					}
					if err := inspect(o, entries); err != nil {
						t.Errorf("finished after step %d: %v", n, err)
					}
					if left, err := filepath.Glob(filepath.Join(o.Path, "*tmp")); err != nil || len(left) > 0 {
						t.Errorf("left after step %d: %q, %v", n, left, err)
					}
				}
			})
		}
	}
}

// stopAt readdresses up to a step, and reports whether there is that step.
func stopAt(t *testing.T, o Options, step int, kill bool) bool {
	t.Helper()
	if kill {
		err := childRun{Path: o.Path, NodeID: o.NodeID, WAL: o.WAL, Readdress: true, Step: step}.start()
		if err != nil && !strings.Contains(err.Error(), "not killed: <nil>") {
			t.Error(err)
		}
		return err == nil
	}
	stop, n := errors.New("stopped"), 0
	_, err := readdress(&o, func(string) error {
		if n++; n > step {
			return stop
		}
		return nil
	})
	if err != nil && (!errors.Is(err, stop) || !errors.Is(err, copier.ErrDestination)) {
		t.Error(err)
	}
	return err != nil
}

func TestReaddressRefuses(t *testing.T) {
	entries := testEntries(20)
	store := func(f func(logStore) error) func(Options) error {
		return func(o Options) error {
			s, err := openLogStore(o)
			if err != nil {
				return err
			}
			return errors.Join(f(s), s.Close())
		}
	}
	config := func(key string, value []byte) func(Options) error {
		return func(o Options) error {
			db, err := bbolt.Open(filepath.Join(o.Path, vaultDBName), 0o600, &bbolt.Options{NoFreelistSync: true})
			if err != nil {
				return err
			}
			return errors.Join(db.Update(func(tx *bbolt.Tx) error { return tx.Bucket([]byte(configBucketName)).Put([]byte(key), value) }), db.Close())
		}
	}
	two := append(configuration(FSMIndex, "node-1", "10.0.0.1:8201"), configuration(FSMIndex, "node-3", "10.0.0.3:8201")[2:]...)
	replaced := func(name string, with func(path string) error) func(Options) error {
		return func(o Options) error {
			path := filepath.Join(o.Path, name)
			if err := os.Rename(path, path+".kept"); err != nil && !errors.Is(err, os.ErrNotExist) {
				return err
			}
			return with(path)
		}
	}
	link := func(path string) error { return os.Symlink(filepath.Base(path)+".kept", path) }
	fifo := func(path string) error { return syscall.Mkfifo(path, 0o600) }
	for name, c := range map[string]struct {
		change func(o Options) error
		want   error
		says   string
	}{
		"an entry in the log": {store(func(s logStore) error { return s.StoreLog(&hraft.Log{Index: FSMIndex + 1, Term: FSMTerm}) }), copier.ErrChanged, "the log has entries 3 to 3"},
		"a later term":        {store(func(s logStore) error { return s.SetUint64([]byte("CurrentTerm"), 2) }), copier.ErrChanged, "term is 2"},
		"a vote":              {store(func(s logStore) error { return s.SetUint64([]byte("LastVoteTerm"), 1) }), copier.ErrChanged, "voted in term 1"},
		"a later FSM":         {config(latestIndexesKey, indexes(FSMTerm, FSMIndex+1)), copier.ErrChanged, "not at index 2"},
		"a later FSM's term":  {config(latestIndexesKey, indexes(FSMTerm+1, FSMIndex)), copier.ErrChanged, "not at index 2"},
		"another server":      {config(latestConfigKey, two), copier.ErrChanged, "2 servers"},
		"later servers":       {config(latestConfigKey, configuration(FSMIndex+1, "node-1", "10.0.0.1:8201")), copier.ErrChanged, "that of index 3"},
		"no voter":            {config(latestConfigKey, []byte{8, 2, 18, 2, 8, 1}), copier.ErrChanged, "1 servers"},
		"damaged servers":     {config(latestConfigKey, []byte{8, 2, 18, 9}), copier.ErrDestination, "latest_config"},
		"no log":              {func(o Options) error { return os.RemoveAll(filepath.Join(o.Path, raftName, raftDBName)) }, copier.ErrDestination, "not there"},
		"damaged log":         {func(o Options) error { return os.Truncate(filepath.Join(o.Path, raftName, raftDBName), 5000) }, copier.ErrDestination, "must be sound"},
		"peers.json":          {func(o Options) error { return os.WriteFile(filepath.Join(o.Path, raftName, "peers.json"), nil, 0o600) }, copier.ErrDestination, "peers.json is there"},
		"an unfinished copy":  {leaveWork, copier.ErrDestination, "not come to its end"},
		"no copy":             {func(o Options) error { return os.Remove(filepath.Join(o.Path, vaultDBName)) }, copier.ErrDestination, "no complete copy"},
		"vault.db is a link":  {replaced(vaultDBName, link), copier.ErrDestination, "not a regular file"},
		"vault.db is a pipe":  {replaced(vaultDBName, fifo), copier.ErrDestination, "not a regular file"},
		"node-id is a link":   {replaced(nodeIDName, link), copier.ErrDestination, "not a regular file"},
		"node-id is a pipe":   {replaced(nodeIDName, fifo), copier.ErrDestination, "not a regular file"},
	} {
		t.Run(name, func(t *testing.T) {
			o := testOptions(t.TempDir())
			if _, err := run(o, entries, nil); err != nil {
				t.Fatal(err)
			}
			if err := c.change(o); err != nil {
				t.Fatal(err)
			}
			before := contents(t, o.Path)
			_, err := readdress(&o, nil)
			if !errors.Is(err, c.want) || !errors.Is(err, copier.ErrDestination) || !strings.Contains(err.Error(), c.says) {
				t.Errorf("%v, expected %v with %q", err, c.want, c.says)
			}
			if c.want != copier.ErrChanged && errors.Is(err, copier.ErrChanged) {
				t.Errorf("%v: nothing has run", err)
			}
			if after := contents(t, o.Path); after != before {
				t.Errorf("changed: %s\nwas %s", after, before)
			}
		})
	}
	// In the log of the other kind, too, whose numbers have another order.
	for key, says := range map[string]string{"LastVoteTerm": "voted in term 7", "CurrentTerm": "term is 7"} {
		o := readdressable["wal"](t.TempDir())
		if _, err := run(o, entries, nil); err != nil {
			t.Fatal(err)
		}
		if err := store(func(s logStore) error { return s.SetUint64([]byte(key), 7) })(o); err != nil {
			t.Fatal(err)
		}
		if _, err := readdress(&o, nil); !errors.Is(err, copier.ErrChanged) || !strings.Contains(err.Error(), says) {
			t.Errorf("%s in the WAL: %v", key, err)
		}
	}
}

// contents is what is in a directory: names, sizes, modes and a sum.
func contents(t *testing.T, dir string) string {
	t.Helper()
	var out []string
	for _, name := range names(t, dir) {
		fi, err := os.Lstat(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		sum := uint64(0)
		if fi.Mode().IsRegular() {
			b, err := os.ReadFile(filepath.Join(dir, name))
			if err != nil {
				t.Fatal(err)
			}
			for len(b) >= 8 {
				sum, b = sum*31+binary.LittleEndian.Uint64(b), b[8:]
			}
		}
		out = append(out, fmt.Sprintf("%s %s %d %x", name, fi.Mode(), fi.Size(), sum))
	}
	return strings.Join(out, "\n")
}

func TestReaddressLocks(t *testing.T) {
	o := testOptions(t.TempDir())
	if _, err := run(o, testEntries(5), nil); err != nil {
		t.Fatal(err)
	}
	db, err := bbolt.Open(filepath.Join(o.Path, vaultDBName), 0o600, nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := readdress(&o, nil); !errors.Is(err, copier.ErrLocked) {
		t.Errorf("a running Vault: %v", err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	s, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.held.Take(s.opts.Path); err != nil {
		t.Fatal(err)
	}
	if _, err := readdress(&o, nil); !errors.Is(err, copier.ErrLocked) {
		t.Errorf("another dyn2raft: %v", err)
	}
	if err := s.held.Release(); err != nil {
		t.Fatal(err)
	}
	// And no Vault starts while it works.
	r := ReaddressOptions{Path: o.Path, NodeID: "node-2", Address: o.Address, CheckLog: func(context.Context, string) error {
		if !inUse(filepath.Join(o.Path, vaultDBName)) {
			t.Error("vault.db can be opened meanwhile")
		}
		return nil
	}}
	if _, err := Readdress(t.Context(), r); err != nil {
		t.Error(err)
	}
	for _, bad := range []ReaddressOptions{
		{Path: o.Path, Address: o.Address},
		{Path: o.Path, NodeID: "zone:instance", Address: o.Address},
		{Path: o.Path, NodeID: "50%", Address: o.Address},
		{Path: o.Path, NodeID: "node-2\n", Address: o.Address},
		{Path: o.Path, NodeID: "node-2", Address: "10.0.0.1"},
		{Path: o.Path, NodeID: "node-2"},
		{NodeID: "node-2", Address: o.Address},
	} {
		bad.CheckLog = checkLog
		if _, err := Readdress(t.Context(), bad); !errors.Is(err, copier.ErrConfig) {
			t.Errorf("%+v: %v", bad, err)
		}
	}
}

// Run as root for a directory of another's, the files stay his.
func TestReaddressKeepsOwners(t *testing.T) {
	uid, gid := os.Geteuid(), os.Getegid()
	if uid == 0 {
		uid, gid = 1234, 5678
	}
	o := testOptions(t.TempDir())
	o.NodeID = ""
	if _, err := run(o, testEntries(5), nil); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{nodeIDName, vaultDBName} {
		if err := os.Chown(filepath.Join(o.Path, name), uid, gid); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Chmod(filepath.Join(o.Path, nodeIDName), 0o640); err != nil {
		t.Fatal(err)
	}
	if _, err := readdress(&o, nil); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{nodeIDName, vaultDBName} {
		fi, err := os.Stat(filepath.Join(o.Path, name))
		if err != nil {
			t.Fatal(err)
		}
		if st := fi.Sys().(*syscall.Stat_t); int(st.Uid) != uid || int(st.Gid) != gid {
			t.Errorf("%s belongs to %d:%d", name, st.Uid, st.Gid)
		}
		if want := map[string]os.FileMode{nodeIDName: 0o640, vaultDBName: 0o600}[name]; fi.Mode() != want {
			t.Errorf("%s has mode %s", name, fi.Mode())
		}
	}
}
