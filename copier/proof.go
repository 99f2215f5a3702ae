package copier

import (
	"context"

	"github.com/dyn2raft/dyn2raft/copier/processors"
)

// A Reading is what a source was found to hold.
type Reading struct {
	Digests  Digests   `json:"digests"`
	Contents *Contents `json:"contents,omitempty"`
}

// Examine reads an open source once, as [ReadAll] does with as many goroutines as there
// are processors. Its Contents name so many of the largest entries; they are nil where
// that is negative.
func Examine(ctx context.Context, src Source, largest int) (Reading, error) {
	return readWhole(ctx, src, largest, nil)
}

// readWhole is Examine, which adds the entries to buckets too, where there are any.
func readWhole(ctx context.Context, src Source, largest int, buckets *Buckets) (r Reading, err error) {
	if err := CheckDigest(); err != nil {
		return r, &Error{Op: "compute digests", Err: err}
	}
	type worker struct {
		Digester
		Collector
		buckets *Buckets
	}
	workers := make([]*worker, processors.Count())
	for i := range workers {
		workers[i] = &worker{Collector: Collector{Largest: max(largest, 0)}}
		if buckets != nil {
			workers[i].buckets = new(Buckets)
		}
	}
	err = ReadAll(ctx, src, len(workers), func(i int, entries *Batch) error {
		w := workers[i]
		for j := range entries.Len() {
			e := entries.Entry(j)
			w.Digester.Add(e)
			if largest >= 0 {
				w.Collector.Add(e)
			}
			if buckets != nil {
				w.buckets.Add(e)
			}
		}
		return nil
	})
	r.Digests = Digests{}
	all := Collector{Largest: max(largest, 0)}
	for _, w := range workers {
		r.Digests.Add(w.Take())
		all.Join(&w.Collector)
		if buckets != nil {
			buckets.join(w.buckets)
		}
	}
	if largest >= 0 {
		r.Contents = all.Contents()
	}
	return r, err
}
