package copier_test

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/dyn2raft/dyn2raft/copier"
	"github.com/dyn2raft/dyn2raft/copier/copiertest"
)

// A comparedSink notes how many entries each Delta of its stage has yielded.
type comparedSink struct {
	*copiertest.Sink
	deltas *[]int
}

func (s comparedSink) Stage(ctx context.Context, runID string) (copier.Stage, error) {
	stage, err := s.Sink.Stage(ctx, runID)
	return comparedStage{stage.(applier), s.deltas}, err //nolint:errcheck // it is one
}

type comparedStage struct {
	applier
	deltas *[]int
}

func (s comparedStage) Delta(ctx context.Context, gone, there func(copier.Entry) error) error {
	n := 0
	count := func(f func(copier.Entry) error) func(copier.Entry) error {
		return func(e copier.Entry) error { n++; return f(e) }
	}
	err := s.applier.Delta(ctx, count(gone), count(there))
	*s.deltas = append(*s.deltas, n)
	return err
}

// However much has changed since all was read back, the last comparison, which Vaults
// wait for, has little to do.
func TestProofMovesOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var all []copier.Entry
		for i := range 20_000 {
			all = append(all, copier.Entry{Key: fmt.Appendf(nil, "logical/%05d", i), Value: []byte("base")})
		}
		table := copiertest.NewTable(all...)
		table.PageEntries = 1000
		if err := table.Serve("vault-1"); err != nil {
			t.Fatal(err)
		}
		var armed atomic.Bool
		stop := make(chan struct{})
		var writer sync.WaitGroup
		writer.Go(func() {
			for some := range slices.Chunk(all, 400) {
				select {
				case <-stop:
					return
				case <-time.After(2 * time.Second):
				}
				for _, e := range some {
					if err := table.Put(copier.Entry{Key: e.Key, Value: []byte("changed")}); err != nil {
						t.Error(err)
					}
				}
			}
			armed.Store(true)
			table.StepDown()
		})
		var deltas []int
		res, err := copier.Copy(t.Context(), table, comparedSink{copiertest.NewStore(t.TempDir()).Open(), &deltas}, copier.Options{
			Uninitialized: true, Memory: copier.MinMemory, Live: &copier.Live{Beyond: time.Second, Armed: func() copier.Arm {
				if armed.Load() {
					return copier.Armed
				}
				return copier.NotArmed
			}}})
		close(stop)
		writer.Wait()
		if err != nil || !res.Complete || res.Live.Applied < 15_000 {
			t.Fatalf("%v, %+v", err, res.Live)
		}
		// An entry that has changed is gone, and there.
		if n := len(deltas); n < 3 || deltas[n-1] > 12_000 || slices.Max(deltas) > 15_000 {
			t.Errorf("%d entries applied, and the comparisons had %d", res.Live.Applied, deltas)
		}
		if got := table.Entries(); res.Total.Entries != int64(len(got)) || !bytes.Equal(got[0].Value, []byte("changed")) {
			t.Errorf("%d entries, want %d", res.Total.Entries, len(got))
		}
	})
}
