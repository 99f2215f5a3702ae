package copier

import (
	"crypto/sha256"
	"fmt"
	"io"
	"math/rand/v2"
	"testing"
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
