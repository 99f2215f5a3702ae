package verify

import (
	"context"
	"errors"
	"path/filepath"
	"runtime"

	"github.com/dyn2raft/dyn2raft/copier"
	"github.com/dyn2raft/dyn2raft/verify/vaultdb"
)

// A Reading is what the vault.db of a data directory was found to hold.
type Reading struct {
	Digests copier.Digests `json:"digests"`
	Raft    vaultdb.State  `json:"raft"`
	Pages   vaultdb.Stats  `json:"pages"`
}

// Digests reads the whole vault.db of the data directory at path, checks that
// it is sound, and computes the digests of its entries with as many goroutines
// as there are processors. Errors are those of [vaultdb.Open] and
// [vaultdb.File.Check], or the context's.
func Digests(ctx context.Context, path string) (r Reading, err error) {
	if err := copier.CheckDigest(); err != nil {
		return r, &copier.Error{Op: "compute digests", Err: err}
	}
	file, err := vaultdb.Open(filepath.Join(path, vaultDBName))
	if err != nil {
		return r, err
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	if r.Raft, err = file.State(); err != nil {
		return r, err
	}
	digesters := make([]*copier.Digester, runtime.GOMAXPROCS(0))
	for i := range digesters {
		digesters[i] = new(copier.Digester)
	}
	r.Pages, err = file.ReadAll(ctx, vaultdb.DataBucket, len(digesters), func(worker, _ int, e copier.Entry) error {
		digesters[worker].Add(e)
		return nil
	})
	r.Digests = copier.Digests{}
	for _, d := range digesters {
		r.Digests.Add(d.Take())
	}
	return r, err
}

// DropCache makes the system forget what it holds in memory of the vault.db in
// the directory at path, so that what reads it next reads the device. Only
// Linux can do that. An error wraps [copier.ErrDestination].
func DropCache(path string) error {
	if err := dropCache(filepath.Join(path, vaultDBName)); err != nil {
		return &copier.Error{Kind: copier.ErrDestination, Op: "read " + vaultDBName + " from the device", Err: err}
	}
	return nil
}
