package copier

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
)

// TestManyGroups: of more groups than anybody reads the first have a line of their
// own, and the others one, whoever has found which.
func TestManyGroups(t *testing.T) {
	const extra = 5000
	var keys []string
	for i := range mostGroups + extra {
		keys = append(keys, fmt.Sprintf("p%05d/x", i), fmt.Sprintf("p%05d/y", i))
	}
	var want *Contents
	for seed := range uint64(3) {
		rng := rand.New(rand.NewPCG(seed, 1))
		rng.Shuffle(len(keys), func(i, j int) { keys[i], keys[j] = keys[j], keys[i] })
		workers := make([]Collector, 3)
		for _, key := range keys {
			workers[rng.IntN(3)].Add(Entry{Key: []byte(key), Value: []byte("12")})
		}
		var all Collector
		for i := range workers {
			all.Join(&workers[i])
		}
		got := all.Contents()
		if len(got.Groups) != mostGroups+1 || got.Groups[0] != (Group{Name: "*", Entries: 2 * extra, Bytes: 2 * extra * 10}) {
			t.Fatalf("%d groups, the first is %+v", len(got.Groups), got.Groups[0])
		}
		if last := got.Groups[mostGroups]; last != (Group{Name: fmt.Sprintf("p%05d/", mostGroups-1), Entries: 2, Bytes: 20}) {
			t.Errorf("the last is %+v", last)
		}
		if want == nil {
			want = got
		} else if !slices.Equal(got.Groups, want.Groups) {
			t.Error("in another order they are others")
		}
	}
}
