package bench

import (
	"path/filepath"
	"testing"
	"time"

	"github.com/dyn2raft/dyn2raft/copier"
	sink "github.com/dyn2raft/dyn2raft/sinks/dynamodb"
	"github.com/dyn2raft/dyn2raft/sources/dynamodb"
	"github.com/dyn2raft/dyn2raft/sources/dynamodb/dynamotest"
	"github.com/dyn2raft/dyn2raft/sources/raft"
)

// BenchmarkReplace writes a copy back into the table that it is of, in place: nearly nothing
// differs, so that it is the comparison and the read-back that take the time. "x-copy" is that
// against the copy of the table.
func BenchmarkReplace(b *testing.B) { replacing(b, b.Loop, 300_000).report(b) }

func TestReplace(t *testing.T) {
	want(t, replacing(t, once(), 2000), "x-copy", "replace-s", "copy-s")
}

func replacing(tb testing.TB, loop func() bool, entries int) metrics {
	s := startServer(tb, tableSpec{Shape: dynamotest.VaultShape{Entries: entries, Seed: 1}})
	var there, back []time.Duration
	for loop() {
		dir := mkdir(tb)
		start := time.Now()
		copyTable(tb, s.URL, dir)
		there = append(there, time.Since(start))

		src, err := raft.New(raft.Options{Paths: []string{dir}})
		if err != nil {
			tb.Fatal(err)
		}
		work := filepath.Dir(dir)
		dst, err := sink.New(tb.Context(), sink.Options{Table: dynamodb.DefaultTable, Region: dynamodb.DefaultRegion, Endpoint: s.URL, AccessKey: "a", SecretKey: "b",
			Replace: &sink.Replace{WorkDir: work, Backup: "before", HAEnabled: true}})
		if err != nil {
			tb.Fatal(err)
		}
		start = time.Now()
		rec, err := copier.Copy(tb.Context(), src, dst, copier.Options{WorkDir: work})
		if err != nil || rec.Load.Entries != int64(s.Loaded.Entries) || rec.Proof == nil {
			tb.Fatalf("%d entries, expected %d: %v", rec.Load.Entries, s.Loaded.Entries, err)
		}
		back = append(back, time.Since(start))
	}
	return metrics{
		"x-copy":    median(back).Seconds() / median(there).Seconds(),
		"replace-s": median(back).Seconds(),
		"copy-s":    median(there).Seconds(),
		"spread":    spread(back),
	}
}
