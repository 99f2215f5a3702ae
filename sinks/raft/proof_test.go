package raft

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"go.etcd.io/bbolt"

	"github.com/dyn2raft/dyn2raft/copier"
	"github.com/dyn2raft/dyn2raft/copier/copiertest"
	"github.com/dyn2raft/dyn2raft/sources/raft/vaultdb"
)

// A damaged sink has something happen to what it has written.
type damaged struct {
	*Sink
	damage func(dir string)
}

func (s damaged) Stage(ctx context.Context, runID string) (copier.Stage, error) {
	stage, err := s.Sink.Stage(ctx, runID)
	return damagedStage{stage.(copier.Loader), func() { s.damage(s.aside("")) }}, err
}

type damagedStage struct {
	copier.Loader
	damage func()
}

func (s damagedStage) Load(ctx context.Context, in copier.Stream) (copier.LoadStats, error) {
	stats, err := s.Loader.Load(ctx, in)
	s.damage()
	return stats, err
}

// TestProof has the engine refuse what is not as it was written, with no more than the
// source, the sink and copier.Copy: one bit of an entry, of Raft's state, of its log, or
// the log as a whole.
func TestProof(t *testing.T) {
	flip := func(name, text string, last bool) func(dir string) {
		return func(dir string) {
			path := filepath.Join(dir, filepath.FromSlash(name))
			b, err := os.ReadFile(path)
			check(t, err)
			at := bytes.Index(b, []byte(text))
			if last {
				at = bytes.LastIndex(b, []byte(text))
			}
			if at < 0 {
				t.Fatalf("%s has no %q", name, text)
			}
			b[at+len(text)-1] ^= 1
			check(t, os.WriteFile(path, b, 0o600))
		}
	}
	put := func(name, bucket, key string, value []byte) func(dir string) {
		return func(dir string) {
			db, err := bbolt.Open(filepath.Join(dir, filepath.FromSlash(name)), 0o600, nil)
			check(t, err)
			check(t, db.Update(func(tx *bbolt.Tx) error { return tx.Bucket([]byte(bucket)).Put([]byte(key), value) }))
			check(t, db.Close())
		}
	}
	for name, c := range map[string]struct {
		damage func(dir string)
		raft   bool
	}{
		"a value":        {flip(vaultDBName, "big!big!", true), false},
		"an entry more":  {put(vaultDBName, dataBucketName, "sys/more", []byte("v")), false},
		"the index":      {put(vaultDBName, configBucketName, latestIndexesKey, indexes(FSMTerm, FSMIndex+1)), true},
		"the node":       {flip(vaultDBName, "node-1", true), true},
		"the term":       {put("raft/raft.db", "conf", "CurrentTerm", []byte{0, 0, 0, 0, 0, 0, 0, 3}), true},
		"a vote":         {put("raft/raft.db", "conf", "LastVoteTerm", make([]byte, 8)), true},
		"no log":         {func(dir string) { check(t, os.RemoveAll(filepath.Join(dir, raftName))) }, true},
		"an empty log":   {func(dir string) { check(t, os.Truncate(filepath.Join(dir, raftName, raftDBName), 0)) }, true},
		"another server": {put(vaultDBName, configBucketName, latestConfigKey, configuration(FSMIndex, "node-1", "10.9.9.9:8201")), true},
	} {
		t.Run(name, func(t *testing.T) {
			o := testOptions(t.TempDir())
			sink, err := New(o)
			check(t, err)
			src := copiertest.NewSource(testEntries(300)...)
			res, err := copier.Copy(t.Context(), src, damaged{sink, c.damage}, copier.Options{Uninitialized: true, Memory: copier.MinMemory})
			if !errors.Is(err, copier.ErrReadBack) || !errors.Is(err, copier.ErrDestination) || errors.Is(err, vaultdb.ErrRaft) != c.raft || res.Complete || res.Proof != nil {
				t.Errorf("the copy ends with %v, %+v", err, res)
			}
			if left := names(t, o.Path); len(left) > 0 || src.Holder() != "" {
				t.Errorf("left: %q, and the source is held by %q", left, src.Holder())
			}
		})
	}
	o := testOptions(t.TempDir())
	sink, err := New(o)
	check(t, err)
	res, err := copier.Copy(t.Context(), copiertest.NewSource(testEntries(300)...), sink, copier.Options{Uninitialized: true, Memory: copier.MinMemory})
	if err != nil || res.Proof == nil || len(res.Proof.Contents.Groups) == 0 ||
		string(res.Proof.Facts[FactsName].Data) != `{"index":2,"term":1,"node_id":"node-1","cluster_addr":"10.0.0.1:8201","node_id_file":false,"log_store":"raft.db","device":false}` {
		t.Errorf("undamaged: %v, %+v", err, res.Proof)
	}
}
