package bench

import (
	"runtime"
	"sync/atomic"
	"testing"
	"time"

	"github.com/dyn2raft/dyn2raft/copier"
	"github.com/dyn2raft/dyn2raft/sources/dynamodb"
	"github.com/dyn2raft/dyn2raft/sources/dynamodb/dynamotest"
	"github.com/dyn2raft/dyn2raft/verify"
)

// verifyWorkers read at the same time here: so few that the service's delays are
// the limit, and not the processors, which the server shares.
const verifyWorkers = 4

// BenchmarkVerify compares a comparison of a table with its copy with no more
// than draining the same scan, both with the service's delays.
func BenchmarkVerify(b *testing.B) { verifying(b, b.Loop, 1_000_000).report(b) }

func TestVerify(t *testing.T) {
	want(t, verifying(t, once(), 2000), "x-drain", "verify-s", "drain-s", "scan-s")
}

func verifying(tb testing.TB, loop func() bool, entries int) metrics {
	s := startServer(tb, tableSpec{Shape: dynamotest.VaultShape{Entries: entries, Seed: 1}, Options: delayed})
	dir := mkdir(tb)
	copyTable(tb, s.URL, dir)
	reqs, _ := requests(tb, s)
	var compared, scanned, drained []time.Duration
	for loop() {
		runtime.GC()
		src, err := dynamodb.New(tb.Context(), dynamodb.Options{Endpoint: s.URL, AccessKey: "a", SecretKey: "b"})
		if err != nil {
			tb.Fatal(err)
		}
		var read atomic.Int64 // when the last page came
		start := time.Now()
		rep, err := verify.CompareDirectory(tb.Context(), src, dir, verify.Expected{}, verify.Options{Workers: verifyWorkers, Events: func(e copier.Event) {
			if _, ok := e.(copier.PageRead); ok {
				read.Store(int64(time.Since(start)))
			}
		}})
		if err != nil || !rep.Equal() || rep.SourceEntries != int64(entries) {
			tb.Fatalf("%d entries, equal %v: %v", rep.SourceEntries, rep.Equal(), err)
		}
		compared, scanned = append(compared, time.Since(start)), append(scanned, time.Duration(read.Load()))

		start = time.Now()
		if err := drain(tb.Context(), s.URL, reqs, verifyWorkers); err != nil {
			tb.Fatal(err)
		}
		drained = append(drained, time.Since(start))
	}
	return metrics{
		"x-drain":  median(compared).Seconds() / median(drained).Seconds(),
		"verify-s": median(compared).Seconds(),
		"scan-s":   median(scanned).Seconds(),
		"drain-s":  median(drained).Seconds(),
		"spread":   spread(compared),
	}
}
