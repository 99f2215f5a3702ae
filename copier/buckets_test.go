package copier

import (
	"bytes"
	"math/rand/v2"
	"testing"
)

// Buckets are what was added, in any order and however it was taken away meanwhile, and
// come back from their sealed form only as the record's.
func TestBuckets(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 2))
	entries := randomEntries(rnd, 500)
	one, other := new(Buckets), new(Buckets)
	var all Digester
	for i, e := range entries {
		one.Add(e)
		all.Add(e)
		other.Add(entries[len(entries)-1-i])
		old := Entry{Key: e.Key, Value: []byte("old")}
		other.Add(old)
		other.Sub(old)
	}
	total := all.Take().Total()
	if *one != *other || one.Total() != total {
		t.Error("they depend on the order")
	}
	other.Sub(entries[7])
	differ := 0
	for i := range one {
		if one[i] != other[i] {
			differ++
			if i != BucketOf(entries[7].Key) {
				t.Errorf("bucket %d differs", i)
			}
		}
	}
	if differ != 1 {
		t.Errorf("%d buckets differ for one entry", differ)
	}

	r := &Record{RunID: "run-1", Total: total}
	data, err := one.Encode(r.RunID)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := DecodeBuckets(data, r); err != nil || *got != *one {
		t.Errorf("decoded: %v", err)
	}
	flipped := bytes.Clone(data)
	flipped[len(flipped)/2] ^= 1
	for name, err := range map[string]error{
		"flipped":     func() error { _, err := DecodeBuckets(flipped, r); return err }(),
		"another run": func() error { _, err := DecodeBuckets(data, &Record{RunID: "run-2", Total: total}); return err }(),
		"total":       func() error { _, err := DecodeBuckets(data, &Record{RunID: "run-1"}); return err }(),
	} {
		if err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

// Digests that were kept along are those of what is there, also where there are more
// prefixes than have one of their own.
func TestDigestsKeptAlong(t *testing.T) {
	rnd := rand.New(rand.NewPCG(3, 4))
	for _, prefixes := range []int{5, MostPrefixes + 300} {
		there := map[string]Entry{}
		kept := Digests{}
		for range 6000 {
			e := Entry{Key: append(randomKey(rnd, prefixes), byte('a'+rnd.IntN(4))), Value: []byte{byte(rnd.Uint32())}}
			var gone, now Digester
			if old, ok := there[string(e.Key)]; ok {
				gone.Add(old)
				delete(there, string(e.Key))
			}
			if rnd.IntN(3) > 0 {
				now.Add(e)
				there[string(e.Key)] = e
			}
			kept.Sub(gone.Take())
			kept.Add(now.Take())
		}
		var fresh Digester
		for _, e := range there {
			fresh.Add(e)
		}
		want := fresh.Take()
		if !kept.same(want) || prefixes < MostPrefixes && !kept.Equal(want) {
			t.Errorf("%d prefixes: %+v, want %+v", prefixes, kept.Total(), want.Total())
		}
		want.Sub(Digests{"": Digest{Entries: 1}})
		if kept.same(want) {
			t.Errorf("%d prefixes: one entry less is the same", prefixes)
		}
	}
}

func randomKey(rnd *rand.Rand, prefixes int) []byte {
	return append([]byte{byte('a' + rnd.IntN(26))}, []byte(randomName(rnd, prefixes))...)
}

func randomName(rnd *rand.Rand, prefixes int) string {
	n := rnd.IntN(prefixes)
	return string([]byte{byte('0' + n%10), byte('0' + n/10%10), byte('0' + n/100%10), byte('0' + n/1000), '/'})
}
