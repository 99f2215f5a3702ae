package verify

import (
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	bolt "go.etcd.io/bbolt"

	"github.com/dyn2raft/dyn2raft/copier"
)

// TestSample damages a directory all over, and expects what lies in the sample
// to be found, every bit of it, and nothing else.
func TestSample(t *testing.T) {
	const count = 20_000
	dir := bigDirectory(t, count)
	lost, extra := map[int]bool{}, 0
	db, err := bolt.Open(filepath.Join(dir, "vault.db"), 0o600, &bolt.Options{NoSync: true, NoFreelistSync: true})
	if err != nil {
		t.Fatal(err)
	}
	err = db.Update(func(tx *bolt.Tx) error {
		data := tx.Bucket([]byte("data"))
		for i := 0; i < count; i += 7 {
			key, _ := bigEntry(i)
			lost[i] = true
			extra++
			if err := errors.Join(data.Delete([]byte(key)), data.Put([]byte("logical/zz"+key), nil)); err != nil {
				return err
			}
		}
		return nil
	})
	if err := errors.Join(err, db.Close()); err != nil {
		t.Fatal(err)
	}
	source := func() *bigSource {
		return newBigSource(count, 50, func(i int) bool { return i%5 == 0 })
	}
	for seed := range uint64(4) {
		rep, err := compare(t, source(), dir, Options{Sample: 0.05, SampleSeed: seed, MaxDiffs: -1})
		if err != nil {
			t.Fatal(err)
		}
		p := rep.Sample
		if p == nil || p.Segments != 1000 || p.SegmentsRead != 50 || p.Share != 0.05 || p.Undetected != 58 || p.Seed == 0 || seed != 0 && p.Seed != seed {
			t.Fatalf("%+v", p)
		}
		var missing, different int64
		var keys []string
		for _, k := range pick(p.Segments, p.Share, p.Seed) {
			for i := k; i < count; i += p.Segments {
				key, _ := bigEntry(i)
				switch {
				case lost[i]:
					missing++
				case i%5 == 0:
					different++
				default:
					continue
				}
				keys = append(keys, key)
			}
		}
		slices.Sort(keys)
		var got []string
		for _, d := range rep.Diffs {
			got = append(got, d.Key)
		}
		if rep.Missing != missing || rep.Different != different || rep.Extra != 0 || !slices.Equal(got, keys) || missing == 0 || different == 0 {
			t.Errorf("seed %d: %d missing, %d different, %d extra; want %d and %d", p.Seed, rep.Missing, rep.Different, rep.Extra, missing, different)
		}
		if rep.SourceEntries != 50*count/1000 || rep.DestinationEntries != count || rep.Equal() || rep.NoDifference() || !rep.Complete {
			t.Errorf("%d of %d entries, %+v", rep.SourceEntries, rep.DestinationEntries, rep)
		}
		// The same seed, the same sample.
		again, err := compare(t, source(), dir, Options{Sample: 0.05, SampleSeed: p.Seed, Segments: p.Segments, MaxDiffs: -1})
		if err != nil || !slices.EqualFunc(again.Diffs, rep.Diffs, func(a, b Diff) bool { return a.Key == b.Key }) {
			t.Errorf("seed %d: another sample, %v", p.Seed, err)
		}
	}
	if extra == 0 {
		t.Error("nothing is extra")
	}
}

// TestSampleWithoutDifference is never called equal.
func TestSampleWithoutDifference(t *testing.T) {
	const count = 5000
	dir := bigDirectory(t, count)
	left := filepath.Join(WorkPath("", dir), "notes.txt")
	if err := errors.Join(os.Mkdir(filepath.Dir(left), 0o700), os.WriteFile(left, nil, 0o600)); err != nil {
		t.Fatal(err)
	}
	before := snapshot(t, filepath.Dir(left))
	rep, err := compare(t, newBigSource(count, 50, nil), dir, Options{Sample: 0.2})
	if err != nil || rep.Equal() || !rep.NoDifference() || rep.SourceEntries != count/5 || rep.Kept != "" {
		t.Errorf("%v: %+v", err, rep)
	}
	for _, p := range rep.Prefixes {
		if p.Source != p.Destination || p.Source.Entries != count/5 {
			t.Errorf("%+v", p)
		}
	}
	if snapshot(t, filepath.Dir(left)) != before {
		t.Error("what an unfinished comparison has left is touched")
	}
	if (&Report{Sample: &Part{}}).NoDifference() {
		t.Error("nothing was compared, and nothing differs")
	}
}

func TestSampleOptions(t *testing.T) {
	dir := directory(t, some(5))
	for _, o := range []Options{
		{Sample: -0.1}, {Sample: 1}, {Sample: 1.5}, {Sample: math.NaN()}, {Sample: math.Inf(1)},
		{Sample: 0.5, Resume: true}, {SampleSeed: 1},
	} {
		if _, err := compare(t, sourceOf(some(5)), dir, o); !errors.Is(err, copier.ErrConfig) {
			t.Errorf("%+v: %v", o, err)
		}
	}
}

func TestPick(t *testing.T) {
	for _, c := range []struct {
		n     int
		share float64
		want  int
	}{{1000, 0.05, 50}, {1000, 0.999, 999}, {1000, 0.000001, 1}, {1, 0.5, 1}, {0, 0.5, 0}, {4093, 0.1, 409}} {
		got := pick(c.n, c.share, 7)
		if len(got) != c.want || !slices.IsSorted(got) || len(slices.Compact(slices.Clone(got))) != len(got) ||
			len(got) > 0 && (got[0] < 0 || got[len(got)-1] >= c.n) {
			t.Errorf("%+v: %v", c, got)
		}
	}
	// A change of these would make old seeds worthless.
	if got := pick(1000, 0.005, 42); !slices.Equal(got, []int{153, 210, 271, 653, 720}) {
		t.Errorf("%v", got)
	}
	// Every segment is picked now and then.
	seen := map[int]bool{}
	for seed := range uint64(200) {
		for _, k := range pick(100, 0.05, seed) {
			seen[k] = true
		}
	}
	if len(seen) != 100 {
		t.Errorf("%d of 100 segments are ever picked", len(seen))
	}
}

// TestUndetected compares the figure with its definition.
func TestUndetected(t *testing.T) {
	for _, share := range []float64{0.001, 0.01, 0.05, 0.2, 0.5, 0.9} {
		n := float64(undetected(share))
		if math.Pow(1-share, n) <= 0.05 || math.Pow(1-share, n+1) > 0.05 {
			t.Errorf("%v: %v", share, n)
		}
	}
	if undetected(0.05) != 58 || undetected(1) != 0 {
		t.Error(undetected(0.05), undetected(1))
	}
}

// A hotSource has nine of ten entries in its first segment, as where all leases
// of a login mount lie in one Path.
type hotSource struct{ *bigSource }

func (s *hotSource) Read(_ context.Context, span copier.Span, b *copier.Batch) (copier.Page, error) {
	var first int
	if _, err := fmt.Sscanf(string(span.From), "%d:", &first); err != nil {
		return copier.Page{}, err
	}
	for i := range s.Len {
		if max(0, i-s.Len*9/10)%s.segments == first {
			key, value := bigEntry(i)
			b.Append([]byte(key), []byte(value))
		}
	}
	return copier.Page{}, nil
}

// TestSampleOfUnequalSegments counts entries for what a sample proves, and not
// segments.
func TestSampleOfUnequalSegments(t *testing.T) {
	const count = 20_000
	dir := bigDirectory(t, count)
	hot := 0
	for seed := uint64(1); seed < 30; seed++ {
		rep, err := compare(t, &hotSource{newBigSource(count, 0, nil)}, dir, Options{Sample: 0.1, SampleSeed: seed, Segments: 50})
		check(t, err)
		p, share := rep.Sample, float64(rep.SourceEntries)/count
		if p.SegmentsRead != 5 || p.EntriesShare != share || p.Undetected != undetected(share) {
			t.Fatalf("%d entries: %+v", rep.SourceEntries, p)
		}
		if p.EntriesShare > 0.9 {
			hot++
		} else if p.EntriesShare > 0.02 || p.Undetected < 148 {
			t.Errorf("%d entries prove %+v", rep.SourceEntries, p)
		}
	}
	if hot == 0 || hot > 20 {
		t.Errorf("the hot segment is in %d of 29 samples", hot)
	}
	for _, c := range []struct{ compared, all, undetected int64 }{{0, 0, 0}, {0, 100, 100}, {100, 100, 0}, {100, 90, 0}, {1, 10, 10}} {
		var p Part
		if p.prove(c.compared, c.all); p.Undetected != c.undetected {
			t.Errorf("%+v: %+v", c, p)
		}
	}
}

// A movingSource holds its requests back, and is another one when it is asked.
type movingSource struct{ *bigSource }

func (*movingSource) Waited() time.Duration         { return time.Hour }
func (*movingSource) Recheck(context.Context) error { return copier.ErrMoved }

// TestSampleKeepsPowers: a sample of a source has its optional powers.
func TestSampleKeepsPowers(t *testing.T) {
	rep, err := compare(t, &movingSource{newBigSource(100, 7, nil)}, bigDirectory(t, 100), Options{Sample: 0.5, SampleSeed: 1})
	if !errors.Is(err, copier.ErrMoved) || rep.Scan.Limit != copier.LimitCap {
		t.Errorf("%v, bounded by the %q", err, rep.Scan.Limit)
	}
}

// TestSegments asks for other numbers of segments than a copy, whose rule is
// that of package dynamodb: one for each 8 MiB, from 64 to 4,096.
func TestSegments(t *testing.T) {
	for bytes, want := range map[int64]int{0: 85, 680 << 20: 114, 935 << 20: 85, 1100 << 20: 100, 11 << 30: 1024, 1 << 50: 3072} {
		if got := segments(copier.Info{Bytes: bytes}, minSegments, 0); got != want {
			t.Errorf("%d bytes: %d segments, want %d", bytes, got, want)
		}
	}
	if got := segments(copier.Info{}, sampleSegments, 0); got != 1000 {
		t.Errorf("%d segments for a sample", got)
	}
	for not, want := range map[int]int{0: 85, 64: 85, 84: 85, 85: 114} {
		if got := segments(copier.Info{}, minSegments, not); got != want {
			t.Errorf("%d segments, want %d and not %d", got, want, not)
		}
	}
	for bytes := int64(0); bytes < 64<<30; bytes += 1 << 20 {
		for _, least := range []int64{minSegments, sampleSegments} {
			if n := segments(copier.Info{Bytes: bytes}, least, 0); int64(n) == min(max(bytes/(8<<20), 64), 4096) {
				t.Fatalf("%d bytes: %d segments, as a copy", bytes, n)
			}
		}
	}
}
