package verify

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"

	bolt "go.etcd.io/bbolt"

	"github.com/dyn2raft/dyn2raft/copier"
	"github.com/dyn2raft/dyn2raft/sinks/raft"
	"github.com/dyn2raft/dyn2raft/verify/vaultdb"
)

// A damagedSink damages what it has loaded, as a bad disk or a defect would.
type damagedSink struct {
	*raft.Sink
	damage func(dir string)
}

func (s damagedSink) Load(ctx context.Context, in copier.Stream) (copier.LoadStats, error) {
	stats, err := s.Sink.Load(ctx, in)
	if err == nil {
		s.damage(s.Loaded())
	}
	return stats, err
}

// TestReadBack damages a real vault.db between its being written and its being
// put in place: nothing is put in place, and the destination is as it was.
func TestReadBack(t *testing.T) {
	good := some(100)
	big := bytes.Repeat([]byte("v"), 20_000)
	good["sys/big"] = string(big)
	type damage struct {
		f    func(t *testing.T, dir string)
		want error // nil where there is no damage
	}
	raw := func(f func(b []byte) []byte) func(t *testing.T, dir string) {
		return func(t *testing.T, dir string) {
			path := filepath.Join(dir, "vault.db")
			b, err := os.ReadFile(path)
			check(t, err)
			check(t, os.WriteFile(path, f(b), 0o600))
		}
	}
	all := map[string]damage{
		"none":                  {func(*testing.T, string) {}, nil},
		"truncated":             {raw(func(b []byte) []byte { return b[:len(b)-1] }), vaultdb.ErrDamaged},
		"truncated at a page":   {raw(func(b []byte) []byte { return b[:len(b)-os.Getpagesize()] }), vaultdb.ErrDamaged},
		"one bit of a page":     {raw(func(b []byte) []byte { b[dataPage(t, b)] ^= 1; return b }), vaultdb.ErrDamaged},
		"one bit of a value":    {raw(func(b []byte) []byte { b[bytes.Index(b, big[:5000])+100] ^= 1; return b }), copier.ErrReadBack},
		"one bit of a raw key":  {raw(func(b []byte) []byte { b[bytes.LastIndex(b, []byte("core/012/key"))+11] ^= 1; return b }), copier.ErrReadBack},
		"one bit of the node":   {raw(func(b []byte) []byte { b[bytes.LastIndex(b, []byte("node-1"))+5] ^= 1; return b }), ErrRaft},
		"the log is gone":       {func(t *testing.T, dir string) { check(t, os.RemoveAll(filepath.Join(dir, "raft"))) }, ErrRaft},
		"the log is of nothing": {func(t *testing.T, dir string) { check(t, os.Truncate(filepath.Join(dir, "raft", "raft.db"), 0)) }, ErrRaft},
	}
	for name, change := range damages("core/003/key", "sys/005/key") {
		all[name] = damage{func(t *testing.T, dir string) {
			e := good.clone()
			change(e)
			update(t, filepath.Join(dir, "vault.db"), func(tx *bolt.Tx) error {
				b := tx.Bucket([]byte("data"))
				for k := range good {
					if _, ok := e[k]; !ok {
						check(t, b.Delete([]byte(k)))
					}
				}
				for k, v := range e {
					check(t, b.Put([]byte(k), []byte(v)))
				}
				return nil
			})
		}, copier.ErrReadBack}
	}
	for name, c := range all {
		t.Run(name, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "data")
			check(t, os.Mkdir(dir, 0o700))
			sink, err := raft.New(raft.Options{Path: dir, NodeID: "node-1", Address: "127.0.0.1:8201"})
			check(t, err)
			res, err := copier.Copy(t.Context(), &fakeSource{entries: good}, damagedSink{sink, func(dir string) { c.f(t, dir) }}, copier.Options{
				Memory: copier.MinMemory,
				ReadBack: func(ctx context.Context, dir string) (copier.Digests, error) {
					r, _, err := Expected{Index: raft.FSMIndex, Term: raft.FSMTerm, NodeID: "node-1", Address: "127.0.0.1:8201", LogStore: "raft.db"}.ReadBack(ctx, dir, 0)
					return r.Digests, err
				},
			})
			list, lerr := os.ReadDir(dir)
			check(t, lerr)
			if c.want == nil {
				if err != nil || !res.ReadBack || !res.Complete || len(list) == 0 {
					t.Errorf("undamaged: %+v, %v", res, err)
				}
				return
			}
			if !errors.Is(err, c.want) || !errors.Is(err, copier.ErrDestination) || res.Complete || res.ReadBack {
				t.Errorf("got %v, complete %v", err, res.Complete)
			}
			if len(list) != 0 {
				t.Errorf("the destination holds %v", list)
			}
		})
	}
}
