package verify

import (
	"context"
	"sync"

	"github.com/dyn2raft/dyn2raft/copier"
)

// A ClosedReport says what a source holds that was followed, cut over, and left locked:
// nothing else than what was copied, unless somebody wrote to it since.
type ClosedReport struct {
	// Source and Copied are the entries there now, and in the copy.
	Source copier.Digest `json:"source"`
	Copied copier.Digest `json:"copied"`
	// Buckets is how many of the copy's buckets differ, see [copier.Buckets]. Keys are
	// the source's keys in those, in no order, up to MostKeys: what differs is among
	// them, or was deleted. All is how many there are.
	Buckets int      `json:"buckets"`
	Keys    []string `json:"keys"`
	All     int64    `json:"all"`
	// Closed is set where the source was closed to Vaults by the copy's run before it was
	// read, and behind that; else Where says what was there instead. What is read of a
	// source that is open may be otherwise a moment later.
	Closed bool   `json:"closed"`
	Where  string `json:"where,omitempty"`
}

// A Closer is a source that says whether the run that copied it has left it closed to
// Vaults, and it is so still. where says what is there instead where it is not.
type Closer interface {
	copier.Source
	Closed(ctx context.Context, runID string) (closed bool, where string, err error)
}

// MostKeys is the most keys that a [ClosedReport] names.
const MostKeys = 1000

// Equal reports whether the source is what was copied. That it stays so is known only
// where it is Closed.
func (r *ClosedReport) Equal() bool { return r.Buckets == 0 }

// Closed reads the source, with as many workers, and compares it with the buckets of its
// copy by the given run, which may be in use by now. It reads it a second time where they
// differ. The source is open. An error is that of the source.
func Closed(ctx context.Context, src Closer, runID string, workers int, copied *copier.Buckets) (ClosedReport, error) {
	closed, where, err := src.Closed(ctx, runID)
	if err != nil {
		return ClosedReport{}, err
	}
	r, err := compareClosed(ctx, src, workers, copied)
	if err == nil && closed {
		closed, where, err = src.Closed(ctx, runID)
	}
	r.Closed, r.Where = closed, where
	return r, err
}

func compareClosed(ctx context.Context, src copier.Source, workers int, copied *copier.Buckets) (ClosedReport, error) {
	there, err := bucketsOf(ctx, src, workers)
	if err != nil {
		return ClosedReport{}, err
	}
	r := ClosedReport{Source: there.Total(), Copied: copied.Total(), Keys: []string{}}
	differs := map[int]bool{}
	for i := range copied {
		if there[i] != copied[i] {
			differs[i] = true
		}
	}
	if r.Buckets = len(differs); r.Equal() {
		return r, nil
	}
	var mu sync.Mutex
	err = copier.ReadAll(ctx, src, workers, func(_ int, entries *copier.Batch) error {
		for i := range entries.Len() {
			if key := entries.Entry(i).Key; differs[copier.BucketOf(key)] {
				mu.Lock()
				if r.All++; len(r.Keys) < MostKeys {
					r.Keys = append(r.Keys, string(key))
				}
				mu.Unlock()
			}
		}
		return nil
	})
	return r, err
}

// bucketsOf are the buckets of all entries of a source.
func bucketsOf(ctx context.Context, src copier.Source, workers int) (*copier.Buckets, error) {
	each := make([]copier.Buckets, workers)
	if err := copier.ReadAll(ctx, src, workers, func(worker int, entries *copier.Batch) error {
		for i := range entries.Len() {
			each[worker].Add(entries.Entry(i))
		}
		return nil
	}); err != nil {
		return nil, err
	}
	all := new(copier.Buckets)
	for i := range each {
		for j := range all {
			all[j].Add(each[i][j])
		}
	}
	return all, nil
}
