package copier

import (
	"crypto/sha256"
	"fmt"
	"io"
	"math/rand/v2"
	"testing"

	"github.com/dyn2raft/dyn2raft/copier/processors"
)

// BenchmarkRun writes a run to memory and reads it: entries as a copy has them,
// and summaries of values as a comparison has them, with keys as Vault's.
func BenchmarkRun(b *testing.B) {
	for _, size := range []int{800, 34} {
		b.Run(fmt.Sprintf("%d-byte values", size), func(b *testing.B) {
			rnd := rand.New(rand.NewPCG(1, 1))
			value := make([]byte, size)
			batch := &Batch{}
			for i := range 50_000 {
				for j := range value {
					value[j] = byte(rnd.Uint32())
				}
				sum := sha256.Sum256(value)
				path := []string{"sys/token/id/h", "sys/expire/id/auth/approle/login/h", "logical/6b4a1f2e-81d3-4b6c-9b1e-22a0c7d3e6f1/"}[i%3]
				batch.Append(fmt.Appendf(nil, "%s%x", path, sum), value)
			}
			new(batchSorter).sort(batch)
			var file memoryFile
			create := func() (runFile, error) { file.Reset(); return &file, nil }
			b.SetBytes(batch.Bytes())
			for b.Loop() {
				if _, err := writeRun(b.Context(), create, &batchStream{b: batch}); err != nil {
					b.Fatal(err)
				}
				in := &runReader{name: "run", r: io.NopCloser(&file.Buffer)}
				size := file.Len()
				for {
					if _, err := in.Next(); err == io.EOF {
						break
					} else if err != nil {
						b.Fatal(err)
					}
				}
				b.ReportMetric(float64(size)/float64(batch.Len()), "B/entry")
			}
		})
	}
}

// BenchmarkMerge merges sorted batches, as many as a scan holds or has runs of, with
// keys as Vault's.
func BenchmarkMerge(b *testing.B) {
	for _, n := range []int{6, 40, 300} {
		b.Run(fmt.Sprintf("%d streams", n), func(b *testing.B) {
			batches := make([]*Batch, n)
			for i := range batches {
				batches[i] = &Batch{}
			}
			rnd := rand.New(rand.NewPCG(1, 1))
			const entries = 300_000
			for i := range entries {
				path := []string{"sys/token/id/h", "sys/expire/id/auth/approle/login/h", "logical/6b4a1f2e-81d3-4b6c-9b1e-22a0c7d3e6f1/"}[i%3]
				batches[rnd.IntN(n)].Append(fmt.Appendf(nil, "%s%x", path, sha256.Sum256([]byte{byte(i), byte(i >> 8), byte(i >> 16)})), nil)
			}
			for _, batch := range batches {
				new(batchSorter).sort(batch)
			}
			cpu := processors.Time()
			for b.Loop() {
				in, err := merge(batches, nil, false)
				if err != nil {
					b.Fatal(err)
				}
				for err == nil {
					_, err = in.Next()
				}
				if err != io.EOF {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(processors.Time()-cpu)/float64(b.N)/entries, "cpu-ns/entry")
		})
	}
}
