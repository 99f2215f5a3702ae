package raft

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/dyn2raft/dyn2raft/copier"
	"github.com/dyn2raft/dyn2raft/copier/durable"
	hraft "github.com/hashicorp/raft"
	raftboltdb "github.com/hashicorp/raft-boltdb/v2"
	"go.etcd.io/bbolt"
)

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
			check(t, inspect(o, entries))
			check(t, spoil(o))
			if err := inspect(o, entries); err == nil {
				t.Error("inspect finds nothing wrong")
			}
		})
	}
}

// inspect reads a finished directory with the libraries that Vault reads it
// with, and returns everything that is wrong with it.
func inspect(o Options, want []copier.Entry) error {
	return errors.Join(inspectModes(o.Path), inspectVaultDB(o, want), inspectLogStore(o))
}

func inspectModes(dir string) error {
	var errs []error
	for _, name := range []string{vaultDBName, raftName, nodeIDName} {
		err := filepath.Walk(filepath.Join(dir, name), func(path string, fi fs.FileInfo, err error) error {
			if err != nil {
				return err
			}
			want := fs.FileMode(0o600)
			if fi.IsDir() {
				want = 0o700
			}
			if fi.Mode().Perm() != want {
				err = fmt.Errorf("mode of %s is %o, want %o", path, fi.Mode().Perm(), want)
			}
			return err
		})
		if name != nodeIDName || !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, err)
		}
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
		buckets := map[string][]copier.Entry{}
		if err := tx.ForEach(func(name []byte, b *bbolt.Bucket) error {
			buckets[string(name)] = nil
			return b.ForEach(func(k, v []byte) error {
				buckets[string(name)] = append(buckets[string(name)], copier.Entry{Key: k, Value: v})
				return nil
			})
		}); err != nil {
			return err
		}
		if names := slices.Sorted(maps.Keys(buckets)); !slices.Equal(names, []string{"config", "data"}) {
			return fmt.Errorf("buckets %q", names)
		}
		index := byte(FSMIndex) // or what readdress has made of it, which is more
		if b := tx.Bucket([]byte("config")).Get([]byte("latest_indexes")); len(b) == 4 {
			index = max(index, b[3])
		}
		return errors.Join(append(errs, differ(buckets["data"], want), differ(buckets["config"], []copier.Entry{
			{Key: []byte("latest_config"), Value: configurationOf(index, nodeID, o.Address)},
			{Key: []byte("latest_indexes"), Value: []byte{1 << 3, 1, 2 << 3, index}},
		}))...)
	})
}

// differ returns how entries differ from what they should be.
func differ(got, want []copier.Entry) error {
	for i := range min(len(got), len(want)) {
		if g, w := got[i], want[i]; !bytes.Equal(g.Key, w.Key) || !bytes.Equal(g.Value, w.Value) {
			return fmt.Errorf("entry %d is %q (%d bytes), want %q (%d bytes)", i, g.Key, len(g.Value), w.Key, len(w.Value))
		}
	}
	if len(got) != len(want) {
		return fmt.Errorf("%d entries, want %d", len(got), len(want))
	}
	return nil
}

// configurationOf is Raft's with one voter, as Vault reads it: the protobuf message
// {1: index, 2: {2: id, 3: address}}. No number in it needs a second byte.
func configurationOf(index byte, id, address string) []byte {
	server := fmt.Sprintf("\x12%c%s\x1a%c%s", len(id), id, len(address), address)
	return fmt.Appendf(nil, "\x08%c\x12%c%s", index, len(server), server)
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
	if err := errors.Join(err1, err2, err3); err != nil || first != 0 || last != 0 || term != 1 {
		return fmt.Errorf("log store: first index %d, last index %d, term %d, want 0, 0, 1; %w", first, last, term, err)
	}
	return nil
}
