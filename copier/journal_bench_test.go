package copier

import (
	"fmt"
	"testing"
)

// A checkpoint of 10,000 pages.
func BenchmarkCheckpoint(b *testing.B) {
	var c checkpoint
	for r := range 10 {
		run := runRecord{File: fmt.Sprintf("run-%06d", r), Size: 1 << 28, Entries: 1e6, Block: 1 << 20}
		for p := range 1000 {
			from := Span{Index: p % 64, From: fmt.Appendf(nil, "logical/8a1d7a30-c7f0-4f2c-9d8e/%040d", p)}
			next := from
			next.From = fmt.Appendf(nil, "logical/8a1d7a30-c7f0-4f2c-9d8e/%040d", p+1)
			run.Pages = append(run.Pages, pageRead{From: from, Next: []Span{next}})
		}
		c.Runs = append(c.Runs, run)
	}
	j := &journal{dir: b.TempDir(), next: 1}
	b.Run("write", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			j.next = 1
			if err := j.writeSealed("checkpoint-000001.json", kindCheckpoint, c); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("read", func(b *testing.B) {
		for b.Loop() {
			all, err := (&journal{dir: j.dir}).readCheckpoints(func(s string) { b.Fatal(s) })
			if err != nil || len(all) != 1 {
				b.Fatal(err)
			}
		}
	})
}
