package verify

import (
	"context"
	"errors"
	"io"
	"path/filepath"
	"runtime"
	"sync"

	"golang.org/x/sync/errgroup"

	"github.com/dyn2raft/dyn2raft/copier"
	"github.com/dyn2raft/dyn2raft/verify/vaultdb"
)

// A Reading is what the vault.db of a data directory was found to hold.
type Reading struct {
	Digests copier.Digests `json:"digests"`
	Raft    vaultdb.State  `json:"raft"`
	Pages   vaultdb.Stats  `json:"pages"`
}

// digestBatch is how many bytes of entries a goroutine takes at a time.
const digestBatch = 128 << 10

// Digests reads the whole vault.db of the data directory at path, checks that
// it is sound, and computes the digests of its entries with as many goroutines
// as there are processors. Errors are those of [vaultdb.Open] and
// [vaultdb.File.Check], or the context's.
func Digests(ctx context.Context, path string) (r Reading, err error) {
	file, err := vaultdb.Open(filepath.Join(path, vaultDBName))
	if err != nil {
		return r, err
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	if r.Raft, err = file.State(); err != nil {
		return r, err
	}
	var group errgroup.Group // an error of the stream ends them all
	in := &sharedStream{entries: file.Entries(ctx)}
	var mu sync.Mutex
	r.Digests = copier.Digests{}
	for range runtime.GOMAXPROCS(0) {
		group.Go(func() error {
			var digester copier.Digester
			var batch copier.Batch
			for {
				err := in.take(&batch)
				for i := range batch.Len() {
					digester.Add(batch.Entry(i))
				}
				if errors.Is(err, io.EOF) {
					mu.Lock()
					defer mu.Unlock()
					r.Digests.Add(digester.Take())
					return nil
				}
				if err != nil {
					return err
				}
			}
		})
	}
	if err := group.Wait(); err != nil {
		return r, err
	}
	r.Pages, err = in.entries.Check()
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

// A sharedStream hands entries to several goroutines. Whoever needs some reads
// them: reading is fast next to hashing, so that nobody waits for long.
type sharedStream struct {
	mu      sync.Mutex
	entries *vaultdb.Entries
}

// take fills a batch. It may return entries and [io.EOF], or another error.
func (s *sharedStream) take(b *copier.Batch) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	b.Reset()
	for b.Bytes() < digestBatch {
		e, err := s.entries.Next()
		if err != nil {
			return err
		}
		b.Append(e.Key, e.Value)
	}
	return nil
}
