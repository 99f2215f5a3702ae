package verify

import (
	"context"
	"errors"
	"math"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/dyn2raft/dyn2raft/copier"
)

// A Part says what part of a source was compared. That proves nothing of the rest, and
// nothing of what only the destination has.
type Part struct {
	// Share is the part of the source that was asked for, above 0 and below 1.
	Share float64 `json:"share"`
	// Seed and Segments choose the same part of the same source again: of so
	// many segments those that the seed picks, SegmentsRead of them.
	Seed         uint64 `json:"seed"`
	Segments     int    `json:"segments"`
	SegmentsRead int    `json:"segments_read"`
	// EntriesShare is the part of all entries that was compared. Segments are
	// not of one size: all entries of one Path are in one of them.
	EntriesShare float64 `json:"entries_share"`
	// Undetected is how many entries may be missing or different at the most
	// where the sample shows none, with 95% certainty and only if damage hits
	// entries at random: for damage that hits whole segments nothing follows.
	Undetected int64 `json:"undetected_95"`
}

// sampleSegments is the least number of segments from which a sample is taken:
// with fewer, it is a sample of few things.
const sampleSegments = 1000

// A sampledSource is a random part of a source's segments.
type sampledSource struct {
	copier.Source
	sample *Part
}

func newSample(src copier.Source, opts Options) sampledSource {
	s := &Part{Share: opts.Sample, Seed: opts.SampleSeed}
	if s.Seed == 0 {
		s.Seed = 1 + uint64(rand.Uint32()) // short enough for any JSON reader, and for people
	}
	return sampledSource{src, s}
}

// Split picks from the source's spans.
func (s sampledSource) Split(ctx context.Context, n int) ([]copier.Span, error) {
	all, err := s.Source.Split(ctx, n)
	if err != nil {
		return nil, err
	}
	picked := pick(len(all), s.sample.Share, s.sample.Seed)
	out := make([]copier.Span, len(picked))
	for i, k := range picked {
		out[i] = copier.Span{Index: i, From: all[k].From}
	}
	s.sample.Segments, s.sample.SegmentsRead = len(all), len(out)
	return out, nil
}

// Recheck implements [copier.Rechecker], as far as the source does.
func (s sampledSource) Recheck(ctx context.Context) error {
	if r, ok := s.Source.(copier.Rechecker); ok {
		return r.Recheck(ctx)
	}
	return nil
}

// Waited implements [copier.Throttled], as far as the source does.
func (s sampledSource) Waited() time.Duration {
	if w, ok := s.Source.(copier.Throttled); ok {
		return w.Waited()
	}
	return 0
}

var (
	_ copier.Rechecker = sampledSource{}
	_ copier.Throttled = sampledSource{}
)

// prove says what follows from so many entries of so many, about, being
// compared.
func (p *Part) prove(compared, all int64) {
	if all = max(compared, all); all == 0 {
		return
	}
	p.EntriesShare = float64(compared) / float64(all)
	p.Undetected = min(undetected(p.EntriesShare), all)
}

// pick returns the indices of a share of n segments, at least one, in ascending
// order. They depend on nothing else than n, the share and the seed.
func pick(n int, share float64, seed uint64) []int {
	k := min(max(int(math.Round(share*float64(n))), 1), n)
	out := rand.New(rand.NewPCG(seed, 0)).Perm(n)[:k]
	slices.Sort(out)
	return out
}

// undetected is the greatest number of bad entries that a random sample of the given
// share misses altogether with a probability above 5%.
func undetected(share float64) int64 {
	switch {
	case share >= 1:
		return 0
	case share <= 0:
		return math.MaxInt64
	}
	return int64(math.Log(0.05) / math.Log1p(-share))
}

func (o *Options) validate() error {
	fail := func(text string) error {
		return &copier.Error{Kind: copier.ErrConfig, Op: "compare", Err: errors.New(text)}
	}
	switch {
	case o.Sample != 0 && !(o.Sample > 0 && o.Sample < 1):
		return fail("the share of a sample must be above 0 and below 1")
	case o.Sample != 0 && o.Resume:
		return fail("a sample can't be resumed: it reads little")
	case o.Sample == 0 && o.SampleSeed != 0:
		return fail("a seed has no meaning without a sample")
	}
	return nil
}
