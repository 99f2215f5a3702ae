package estimate

import (
	"bytes"
	"context"
	"fmt"
	"math"
	"os"
	"slices"
	"sync/atomic"
	"time"

	"github.com/dyn2raft/dyn2raft/copier"
	"github.com/dyn2raft/dyn2raft/copier/processors"
)

// local is how long this machine takes for what is done with the entries once
// they are read: a fixed time, and seconds a byte.
type local struct {
	fixed      time.Duration
	sort       float64 // processor seconds a byte, while reading goes on
	after      float64 // seconds a byte: to write vault.db and to read it back
	fileFactor float64 // vault.db's size as a multiple of keys and values
}

// trialBytes is how much data the trial has, made from the sample.
const trialBytes = 32 << 20

// try copies entries like those of the sample, from memory into a directory
// that is removed again, with the code of a copy.
func (p *estimator) try(ctx context.Context, s *sample) (local, error) {
	small, smallSort, smallAfter, err := p.trial(ctx, s, 1)
	if err != nil {
		return local{}, err
	}
	out := local{fixed: small.Process().Took(), sort: math.Inf(1), after: math.Inf(1)}
	for range 3 { // the first one finds memory and files cold
		large, sort, after, err := p.trial(ctx, s, trialBytes)
		if err != nil {
			return local{}, err
		}
		more := float64(max(large.Load.Bytes-small.Load.Bytes, 1))
		out.after = min(out.after, max(after-smallAfter, 0).Seconds()/more)
		out.sort = min(out.sort, max(sort-smallSort, 0).Seconds()/more)
		out.fileFactor = max(float64(large.Load.FileBytes)/float64(max(large.Load.Bytes, 1)), 1)
	}
	return out, nil
}

// trial also returns how long the copy took to sort, and to write.
func (p *estimator) trial(ctx context.Context, s *sample, bytes int64) (res copier.Record, sort, after time.Duration, err error) {
	dir, err := os.MkdirTemp(p.TempDir, "dyn2raft-estimate-")
	if err != nil {
		return res, 0, 0, fmt.Errorf("write a sample: %w", err)
	}
	defer os.RemoveAll(dir)
	dst, err := p.Sink(dir)
	if err != nil {
		return res, 0, 0, err
	}
	src, workers := newAgain(&s.batch, bytes), processors.Count()
	res, err = copier.Copy(ctx, src, dst, copier.Options{Workers: workers, Memory: p.Memory, NoProof: true, Uninitialized: true})
	if err != nil {
		return res, 0, 0, fmt.Errorf("copy a sample to %s: %w", dir, err)
	}
	last := res.Process()
	scan := last.Phases[copier.PhaseScan]
	return res, scan - time.Duration(src.spent.Load())/time.Duration(workers), last.Took() - scan, nil
}

// again yields the entries of a batch again and again, until they are so many bytes,
// each turn under other Paths: a table has a Path in one place too, and that its
// entries come in order is most of what makes sorting cheap.
type again struct {
	batch *copier.Batch
	pages []againPage
	spent atomic.Int64 // nanoseconds of all workers, on what a copy spends in its source
}

// An againPage is the entries from one up to another, in one of the turns.
type againPage struct{ from, to, turn int }

// mostPages bounds the pages that are made of a sample of a few entries.
const mostPages = 100_000

// newAgain makes pages of about 1 MiB, and an empty one of no entries.
func newAgain(batch *copier.Batch, size int64) *again {
	a := &again{batch: batch}
	var all int64
	for turn := 0; batch.Len() > 0 && all < size && len(a.pages) < mostPages; turn++ {
		for p := (againPage{turn: turn}); p.from < batch.Len() && all < size; p.from = p.to {
			for end := min(all+1<<20, size); p.to < batch.Len() && all < end; p.to++ {
				e := batch.Entry(p.to)
				all += int64(len(e.Key) + len(e.Value))
			}
			a.pages = append(a.pages, p)
		}
	}
	if len(a.pages) == 0 {
		a.pages = []againPage{{}}
	}
	return a
}

func (a *again) Close() error { return nil }

func (a *again) Open(context.Context) (copier.Info, error) {
	return copier.Info{Name: "sample", ID: "sample"}, nil
}

func (a *again) Split(context.Context, int) ([]copier.Span, error) {
	out := make([]copier.Span, len(a.pages))
	for i := range out {
		out[i] = copier.Span{Index: i}
	}
	return out, nil
}

// Read gives the whole segment, which is one page.
func (a *again) Read(ctx context.Context, seg copier.Span, b *copier.Batch) (copier.Page, error) {
	if err := ctx.Err(); err != nil {
		return copier.Page{}, err
	}
	began := time.Now()
	defer func() { a.spent.Add(int64(time.Since(began))) }()
	p := a.pages[seg.Index]
	suffix := fmt.Appendf(nil, ".%d", p.turn)
	var key []byte
	for i := p.from; i < p.to; i++ {
		e := a.batch.Entry(i)
		if key = append(key[:0], e.Key...); p.turn > 0 {
			path := bytes.LastIndexByte(key, '/')
			if path < 0 {
				path = len(key)
			}
			key = slices.Insert(key, path, suffix...)
		}
		b.Append(key, e.Value)
	}
	return copier.Page{}, nil
}
