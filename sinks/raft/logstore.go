package raft

import (
	"errors"
	"path/filepath"
	"time"

	"github.com/dyn2raft/dyn2raft/copier/durable"
	"github.com/hashicorp/go-hclog"
	raftboltdb "github.com/hashicorp/raft-boltdb/v2"
	wal "github.com/hashicorp/raft-wal"
	"github.com/hashicorp/raft-wal/metadb"
	"go.etcd.io/bbolt"
)

// currentTermKey is the key under which hashicorp/raft keeps its term in the
// stable store.
var currentTermKey = []byte("CurrentTerm")

// A stableStore is the part of a log store that has to be written.
type stableStore interface {
	SetUint64(key []byte, value uint64) error
	Close() error
}

// writeRaftDir makes the staged raft/ with an empty log store that knows its
// term, and the empty snapshots/. Modes and syncing are left to seal: raft-wal
// makes its wal-meta.db readable for everybody.
func (s *Sink) writeRaftDir() error {
	dir := s.aside(raftName)
	for _, d := range []string{dir, filepath.Join(dir, snapshotsName)} {
		if err := s.disk.Mkdir(d); err != nil {
			return err
		}
	}
	var store stableStore
	var err error
	if s.opts.WAL {
		store, err = s.createWAL(filepath.Join(dir, walName))
	} else {
		store, err = s.createRaftDB(filepath.Join(dir, raftDBName))
	}
	if err != nil {
		return err
	}
	return errors.Join(store.SetUint64(currentTermKey, FSMTerm), store.Close())
}

// createRaftDB makes raft.db with the options that Vault opens it with, but for
// syncs: seal does that once for all.
func (s *Sink) createRaftDB(path string) (stableStore, error) {
	if err := s.disk.Step(durable.Write, path); err != nil {
		return nil, err
	}
	return raftboltdb.New(raftboltdb.Options{
		Path: path,
		BoltOptions: &bbolt.Options{
			Timeout:        10 * time.Second,
			NoFreelistSync: true,
			FreelistType:   bbolt.FreelistMapType,
		},
		NoSync:                  true,
		MsgpackUseNewTimeFormat: true,
	})
}

func (s *Sink) createWAL(dir string) (stableStore, error) {
	if err := s.disk.Mkdir(dir); err != nil {
		return nil, err
	}
	if err := s.disk.Step(durable.Write, dir); err != nil {
		return nil, err
	}
	return openWAL(dir)
}

// A walStore is a WAL that closes all of its files. The library's own Close
// leaves wal-meta.db open, and with it locked: a Vault on the same machine
// would wait for the end of this process.
type walStore struct {
	*wal.WAL
	meta *metadb.BoltMetaDB
}

func openWAL(dir string) (walStore, error) {
	meta := &metadb.BoltMetaDB{}
	w, err := wal.Open(dir, wal.WithMetaStore(meta), wal.WithLogger(hclog.NewNullLogger()))
	if err != nil {
		return walStore{}, errors.Join(err, meta.Close())
	}
	return walStore{w, meta}, nil
}

// Close closes the log and then its meta store.
func (w walStore) Close() error { return errors.Join(w.WAL.Close(), w.meta.Close()) }
