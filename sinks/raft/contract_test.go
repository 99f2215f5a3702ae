package raft

import (
	"errors"
	"path/filepath"
	"testing"

	"go.etcd.io/bbolt"

	"github.com/dyn2raft/dyn2raft/copier"
	"github.com/dyn2raft/dyn2raft/copier/copiertest"
	"github.com/dyn2raft/dyn2raft/copier/durable"
)

// TestContract holds the sink to what the engine demands of one, with either log
// and with a node id that it makes itself.
func TestContract(t *testing.T) {
	for name, change := range map[string]func(*Options){
		"raft.db":      func(*Options) {},
		"wal":          func(o *Options) { o.WAL = true },
		"its own node": func(o *Options) { o.NodeID = "" },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			copiertest.TestSink(t, func() copiertest.Destination {
				o := testOptions(t.TempDir())
				change(&o)
				return copiertest.Destination{
					Open: func() copier.Sink {
						s, err := New(o)
						if err != nil {
							t.Fatal(err)
						}
						return s
					},
					Read: func() ([]copier.Entry, bool, error) { return inPlace(o.Path) },
				}
			})
		})
	}
}

// inPlace reads the entries of a directory's vault.db, where there is one.
func inPlace(dir string) (out []copier.Entry, there bool, err error) {
	path := filepath.Join(dir, vaultDBName)
	if there, err := durable.Exists(path); err != nil || !there {
		return nil, false, err
	}
	db, err := bbolt.Open(path, 0, &bbolt.Options{ReadOnly: true})
	if err != nil {
		return nil, true, err
	}
	err = db.View(func(tx *bbolt.Tx) error {
		return tx.Bucket([]byte("data")).ForEach(func(k, v []byte) error {
			out = append(out, copier.Entry{Key: append([]byte{}, k...), Value: append([]byte{}, v...)})
			return nil
		})
	})
	return out, true, errors.Join(err, db.Close())
}
