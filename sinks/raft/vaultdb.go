package raft

import (
	"errors"
	"io"

	"github.com/dyn2raft/dyn2raft/copier"
	"github.com/dyn2raft/dyn2raft/copier/durable"
	"github.com/dyn2raft/dyn2raft/sinks/raft/boltfile"
)

// writeVaultDB makes the bbolt file at path, with the buckets config and data,
// and syncs it. The pairs of config are sorted.
func writeVaultDB(disk *durable.Disk, path string, config []pair, data copier.Stream) (err error) {
	f, err := disk.Create(path)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	w, err := boltfile.NewWriter(f, boltfile.Options{})
	if err != nil {
		return err
	}
	defer w.Stop()
	if err := w.Bucket([]byte(configBucketName)); err != nil {
		return err
	}
	for _, p := range config {
		if err := w.Put([]byte(p.key), p.value); err != nil {
			return err
		}
	}
	if err := w.Bucket([]byte(dataBucketName)); err != nil {
		return err
	}
	for {
		e, err := data.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return err
		}
		if err := w.Put(e.Key, e.Value); err != nil {
			return err
		}
	}
	_, err = w.Finish()
	return err
}
