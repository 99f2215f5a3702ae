package bench

import (
	"os"
	"runtime"
	"slices"
	"testing"
	"time"

	"github.com/dyn2raft/dyn2raft/cmd/dyn2raft/plan"
	"github.com/dyn2raft/dyn2raft/copier"
	"github.com/dyn2raft/dyn2raft/copier/vaultconfig"
	"github.com/dyn2raft/dyn2raft/sources/dynamodb"
	"github.com/dyn2raft/dyn2raft/sources/dynamodb/dynamotest"
	"github.com/dyn2raft/dyn2raft/sources/dynamodb/estimate"
)

// An estimated is a table whose copy is estimated and made.
type estimated struct {
	entries int
	server  dynamotest.Options
	read    int64   // provisioned units, 0 is on demand
	cap     float64 // the copy's own limit
	workers int
	limit   copier.Limit
	one     bool // of the processors; the others are left to whoever uses the machine
}

// BenchmarkEstimate compares what plan says of a copy's time with the copy, under
// each of the three limits. "x-copy" is the median of estimate to copy, and
// "x-off" by how many times that is too much or too little. "named" is the part
// of the estimates that named the limit.
func BenchmarkEstimate(b *testing.B) {
	b.Run("network", func(b *testing.B) {
		estimates(b, b.Loop, 5, estimated{entries: 50_000, server: dynamotest.Options{Latency: 10 * time.Millisecond, Throughput: 2e6}, workers: 8, limit: copier.LimitNetwork}).report(b)
	})
	b.Run("table", func(b *testing.B) {
		estimates(b, b.Loop, 5, estimated{entries: 30_000, read: 2500, cap: 2000, limit: copier.LimitTable}).report(b)
	})
	b.Run("throttles", func(b *testing.B) {
		estimates(b, b.Loop, 5, estimated{entries: 40_000, server: dynamotest.Options{Provisioned: true}, read: 2000, limit: copier.LimitTable}).report(b)
	})
	b.Run("processor", func(b *testing.B) {
		estimates(b, b.Loop, 5, estimated{entries: 200_000, limit: copier.LimitProcessor, one: true}).report(b)
	})
}

func TestEstimates(t *testing.T) {
	want(t, estimates(t, once(), 1, estimated{entries: 3000, read: 2500, cap: 2000, limit: copier.LimitTable}),
		"x-copy", "x-off", "estimate-s", "copy-s", "units-x")
}

// estimates serves the table in this process: what it takes of the processors
// belongs to what a sample measures and to the copy alike.
func estimates(tb testing.TB, loop func() bool, tries int, e estimated) metrics {
	if e.one {
		defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1))
	}
	srv := dynamotest.NewServer(e.server)
	defer srv.Close()
	err := srv.CreateVaultTable(dynamodb.DefaultTable)
	if err == nil {
		_, err = dynamotest.VaultShape{Entries: e.entries, Seed: 7}.Load(srv, dynamodb.DefaultTable)
	}
	if err == nil && e.read > 0 {
		err = srv.SetCapacity(dynamodb.DefaultTable, e.read, 100)
	}
	if err != nil {
		tb.Fatal(err)
	}
	memory := fillerFor(tb, e.entries)
	source := func() *dynamodb.Source {
		src, err := dynamodb.New(tb.Context(), dynamodb.Options{Endpoint: srv.URL, AccessKey: "a", SecretKey: "b", ReadCapacity: e.cap, HAEnabled: true})
		if err != nil {
			tb.Fatal(err)
		}
		return src
	}
	copied := func() (copier.Record, time.Duration) {
		memory.settle(tb)
		dir := mkdir(tb)
		res, d, err := copyFrom(tb, source(), dir, copier.Options{Workers: e.workers, NoProof: true})
		if err == nil {
			err = os.RemoveAll(dir)
		}
		if err != nil {
			tb.Fatal(err)
		}
		return res, d
	}
	if e.one {
		for range 3 { // they touch memory that the system has yet to find
			copied()
		}
	}
	var ratios, units []float64
	var says, took []time.Duration
	named := 0
	for loop() {
		for range tries {
			cfg := &vaultconfig.Config{ClusterAddr: "https://127.0.0.1:8201"}
			cfg.Source.Table, cfg.Source.Region = dynamodb.DefaultTable, "us-east-1"
			cfg.Destination = vaultconfig.Destination{Type: vaultconfig.Raft, Path: tb.TempDir(), NodeID: "n", Address: "127.0.0.1:8201"}
			memory.settle(tb)
			rep, err := plan.Run(tb.Context(), plan.Options{Config: cfg, Source: source(),
				Estimate: estimate.Options{TempDir: tb.TempDir(), Workers: e.workers, ReadCapacity: e.cap, SampleTime: 1500 * time.Millisecond}})
			if err != nil {
				tb.Fatal(err)
			}
			if rep.Estimate == nil {
				tb.Fatalf("no estimate: %+v", rep.Checks)
			}
			res, d := copied()
			says, took = append(says, time.Duration(rep.Estimate.Seconds*float64(time.Second))), append(took, d)
			ratios = append(ratios, rep.Estimate.Seconds/d.Seconds())
			units = append(units, rep.Estimate.Units/res.Scan.Counts[dynamodb.ReadCapacityUnits])
			if rep.Estimate.Limit == e.limit {
				named++
			}
		}
	}
	slices.Sort(ratios)
	slices.Sort(units)
	ratio := ratios[len(ratios)/2]
	return metrics{
		"x-copy": ratio, "x-off": max(ratio, 1/ratio), "x-lowest": ratios[0], "x-highest": ratios[len(ratios)-1],
		"estimate-s": median(says).Seconds(), "copy-s": median(took).Seconds(),
		"units-x": units[len(units)/2], "named": float64(named) / float64(len(ratios)),
	}
}
