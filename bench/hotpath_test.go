package bench

import (
	"testing"
	"time"

	"github.com/dyn2raft/dyn2raft/sources/dynamodb/dynamotest"
)

// BenchmarkHotPath compares a copy of a table that has half of its entries in
// one Path with one that has them spread over 5,000, both from a server with
// the real service's delays.
func BenchmarkHotPath(b *testing.B) { hotPath(b, b.Loop, *peerEntriesFlag).report(b) }

func TestHotPath(t *testing.T) {
	want(t, hotPath(t, once(), 5000), "x-spread", "hot-s", "spread-s")
}

func hotPath(tb testing.TB, loop func() bool, entries int) metrics {
	shape := dynamotest.VaultShape{Entries: entries, Seed: 1}
	hot := startServer(tb, tableSpec{Shape: shape, Options: delayed, HotPaths: 1})
	even := startServer(tb, tableSpec{Shape: shape, Options: delayed, HotPaths: 5000})
	var hots, evens []time.Duration
	var requests int64
	for loop() {
		res, took := timedCopy(tb, hot)
		hots, requests = append(hots, took), res.Scan.Pages
		_, took = timedCopy(tb, even)
		evens = append(evens, took)
	}
	return metrics{
		"x-spread": median(hots).Seconds() / median(evens).Seconds(),
		"hot-s":    median(hots).Seconds(),
		"spread-s": median(evens).Seconds(),
		"pages":    float64(requests),
		"entries":  float64(entries),
	}
}
