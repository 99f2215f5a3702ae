package raft

import (
	"errors"
	"io"
	"time"

	"github.com/dyn2raft/dyn2raft/copier"
	"go.etcd.io/bbolt"
)

const (
	// batchBytes is the size of the entries of one transaction.
	batchBytes = 16 << 20
	// fill is how full pages get. Keys only ever come at the end, so there
	// is no use in room for more; a little is left for Vault's updates.
	fill = 0.9
)

// writeVaultDB makes the bbolt file at path, with the buckets config and data.
// It syncs the file once, at the end.
func writeVaultDB(path string, config []pair, data copier.Stream) (err error) {
	db, err := bbolt.Open(path, 0o600, &bbolt.Options{
		Timeout:        10 * time.Second,
		NoSync:         true,
		NoFreelistSync: true,
		FreelistType:   bbolt.FreelistMapType,
	})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, db.Close()) }()

	err = db.Update(func(tx *bbolt.Tx) error {
		b, err := tx.CreateBucket([]byte(configBucketName))
		if err != nil {
			return err
		}
		for _, p := range config {
			if err := b.Put([]byte(p.key), p.value); err != nil {
				return err
			}
		}
		_, err = tx.CreateBucket([]byte(dataBucketName))
		return err
	})
	if err != nil {
		return err
	}
	// bbolt wants values to stay until the end of the transaction, and the
	// stream keeps an entry only until the next one.
	values := make([]byte, 0, batchBytes)
	for done := false; !done; {
		err := db.Update(func(tx *bbolt.Tx) error {
			b := tx.Bucket([]byte(dataBucketName))
			b.FillPercent = fill
			values = values[:0]
			for size := 0; size < batchBytes; {
				e, err := data.Next()
				if errors.Is(err, io.EOF) {
					done = true
					return nil
				}
				if err != nil {
					return err
				}
				start := len(values)
				values = append(values, e.Value...)
				if err := b.Put(e.Key, values[start:len(values):len(values)]); err != nil {
					return err
				}
				size += len(e.Key) + len(e.Value)
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	return db.Sync()
}
