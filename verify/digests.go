package verify

import (
	"context"
	"errors"
	"path/filepath"

	"github.com/dyn2raft/dyn2raft/copier"
	"github.com/dyn2raft/dyn2raft/sources/raft/vaultdb"
)

// A Reading is what the vault.db of a data directory was found to hold.
type Reading struct {
	copier.Reading
	Raft  vaultdb.State `json:"raft"`
	Pages vaultdb.Stats `json:"pages"`
	// NotVault is that of [DirectoryReport].
	NotVault []string `json:"not_vault,omitempty"`
}

// Digests reads the whole vault.db of the data directory at path, checks that
// it is sound, and computes the digests of its entries with as many goroutines
// as there are processors. Errors are those of [vaultdb.Open] and
// [vaultdb.File.Check], or the context's.
func Digests(ctx context.Context, path string) (Reading, error) { return read(ctx, path, -1) }

// read is Digests. Unless largest is negative, it also finds out, in the same pass,
// what the entries are for, and names that many of the largest.
func read(ctx context.Context, path string, largest int) (r Reading, err error) {
	src := &vaultdb.Source{Path: filepath.Join(path, vaultDBName), Kind: copier.ErrDestination}
	if _, err := src.Open(ctx); err != nil {
		return r, err
	}
	defer func() { err = errors.Join(err, src.Close()) }()
	if r.Raft, err = src.State(); err != nil {
		return r, err
	}
	r.Reading, err = copier.Examine(ctx, src, largest)
	r.Pages = src.Stats()
	if err == nil {
		r.NotVault, _, err = copier.Lacks(ctx, src)
	}
	return r, err
}
