package verify

import (
	"context"
	"errors"
	"path/filepath"

	"github.com/dyn2raft/dyn2raft/copier"
	"github.com/dyn2raft/dyn2raft/copier/processors"
	"github.com/dyn2raft/dyn2raft/sources/raft/vaultdb"
)

// A Reading is what the vault.db of a data directory was found to hold.
type Reading struct {
	Digests copier.Digests `json:"digests"`
	Raft    vaultdb.State  `json:"raft"`
	Pages   vaultdb.Stats  `json:"pages"`
	// NotVault is that of [DirectoryReport].
	NotVault []string `json:"not_vault,omitempty"`
}

// Digests reads the whole vault.db of the data directory at path, checks that
// it is sound, and computes the digests of its entries with as many goroutines
// as there are processors. Errors are those of [vaultdb.Open] and
// [vaultdb.File.Check], or the context's.
func Digests(ctx context.Context, path string) (Reading, error) {
	r, _, err := read(ctx, path, -1)
	return r, err
}

// read is Digests that also tells what the entries are for, in the same pass, and
// names so many of the largest; where that is negative it tells nothing.
func read(ctx context.Context, path string, largest int) (r Reading, contents *Contents, err error) {
	if err := copier.CheckDigest(); err != nil {
		return r, nil, &copier.Error{Op: "compute digests", Err: err}
	}
	src := &vaultdb.Source{Path: filepath.Join(path, vaultDBName), Kind: copier.ErrDestination}
	if _, err := src.Open(ctx); err != nil {
		return r, nil, err
	}
	defer func() { err = errors.Join(err, src.Close()) }()
	if r.Raft, err = src.State(); err != nil {
		return r, nil, err
	}
	type worker struct {
		copier.Digester
		collector
	}
	workers := make([]*worker, processors.Count())
	for i := range workers {
		workers[i] = &worker{collector: collector{most: max(largest, 0)}}
	}
	err = copier.ReadAll(ctx, src, len(workers), func(i int, entries *copier.Batch) error {
		w := workers[i]
		for j := range entries.Len() {
			e := entries.Entry(j)
			w.Digester.Add(e)
			if largest >= 0 {
				w.collector.add(e)
			}
		}
		return nil
	})
	r.Pages = src.Stats()
	r.Digests = copier.Digests{}
	all := collector{most: max(largest, 0)}
	for _, w := range workers {
		r.Digests.Add(w.Take())
		all.join(&w.collector)
	}
	if err == nil {
		r.NotVault, _, err = copier.Lacks(ctx, src)
	}
	return r, all.contents(), err
}

// DropCache makes the system forget what it holds in memory of the vault.db in
// the directory at path, so that what reads it next reads the device. Only
// Linux can do that, and not with every file system; it is an error where it
// was not done. An error wraps [copier.ErrDestination].
func DropCache(path string) error { return cacheError(dropCache(filepath.Join(path, vaultDBName))) }

// CanDropCache finds out what can be known before there is a file: whether
// DropCache can't work in the directory at path.
func CanDropCache(path string) error { return cacheError(canDropCache(path)) }

func cacheError(err error) error {
	if err == nil {
		return nil
	}
	return &copier.Error{Kind: copier.ErrDestination, Op: "read " + vaultDBName + " from the device", Err: err,
		Hint: "read it back from the system's memory: -readback=cache"}
}
