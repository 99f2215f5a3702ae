package bench

import (
	"errors"
	"os"
	"runtime"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/dyn2raft/dyn2raft/copier"
	"github.com/dyn2raft/dyn2raft/copier/durable"
	sink "github.com/dyn2raft/dyn2raft/sinks/raft"
	"github.com/dyn2raft/dyn2raft/sources/dynamodb"
	"github.com/dyn2raft/dyn2raft/sources/dynamodb/dynamotest"
)

// never is a checkpoint interval that no copy here reaches.
const never = time.Hour

// copyWith copies the table once into dir.
func copyWith(tb testing.TB, s server, dir string, opts copier.Options) (copier.Record, time.Duration, error) {
	tb.Helper()
	src, err := dynamodb.New(tb.Context(), dynamodb.Options{Endpoint: s.URL, AccessKey: "a", SecretKey: "b", HAEnabled: true})
	if err != nil {
		tb.Fatal(err)
	}
	return copyFrom(tb, src, dir, opts)
}

func copyFrom(tb testing.TB, src *dynamodb.Source, dir string, opts copier.Options) (copier.Record, time.Duration, error) {
	tb.Helper()
	dst, err := sink.New(sink.Options{Path: dir, NodeID: "n", Address: "127.0.0.1:8201", Disk: opts.Disk})
	if err != nil {
		tb.Fatal(err)
	}
	runtime.GC()
	start := time.Now()
	res, err := copier.Copy(tb.Context(), src, dst, opts)
	return res, time.Since(start), err
}

// whole copies the table once and removes the result.
func whole(tb testing.TB, s server, opts copier.Options) (copier.Record, time.Duration) {
	tb.Helper()
	dir := mkdir(tb)
	res, took, err := copyWith(tb, s, dir, opts)
	if err == nil {
		err = os.RemoveAll(dir)
	}
	if err != nil {
		tb.Fatal(err)
	}
	return res, took
}

// BenchmarkProof compares a copy that proves itself, with digests and a
// read-back, with one that does not. "check-s" is the read-back alone.
func BenchmarkProof(b *testing.B) { proof(b, b.Loop, 1_200_000).report(b) }

func TestProof(t *testing.T) {
	want(t, proof(t, once(), 2000), "x-copy", "with-s", "without-s", "check-s")
}

func proof(tb testing.TB, loop func() bool, entries int) metrics {
	s := startServer(tb, tableSpec{Shape: dynamotest.VaultShape{Entries: entries, Seed: 1}})
	memory := fillerFor(tb, entries)
	var with, without, check []time.Duration
	copies := []func(){
		func() {
			_, took := whole(tb, s, copier.Options{CheckpointInterval: never, NoProof: true})
			without = append(without, took)
		},
		func() {
			res, took := whole(tb, s, copier.Options{CheckpointInterval: never})
			with, check = append(with, took), append(check, res.Process().Phases[copier.PhaseCheck])
			if res.Proof == nil || res.Total.Entries != int64(entries) {
				tb.Fatalf("read back: %v, %d entries", res.Proof != nil, res.Total.Entries)
			}
		},
	}
	for loop() {
		for range 3 {
			for _, c := range copies {
				memory.settle(tb)
				c()
			}
			slices.Reverse(copies) // neither always comes after the other
		}
	}
	return metrics{
		"x-copy":    median(with).Seconds() / median(without).Seconds(),
		"with-s":    median(with).Seconds(),
		"without-s": median(without).Seconds(),
		"check-s":   median(check).Seconds(),
	}
}

// BenchmarkCheckpoints compares a copy that saves what it reads, as often as it
// does by default, with one that never does, of a table larger than the memory
// budget, with the service's delays. "long" reads two pages at a time, and so
// takes ten intervals. "short" reads as fast as it can, and ends just behind the
// first checkpoint. There they cost most: what a copy of this size sorts by way of
// files is gone before it goes to disk, if nothing saves it.
func BenchmarkCheckpoints(b *testing.B) {
	b.Run("long", func(b *testing.B) {
		checkpoints(b, b.Loop, 2_000_000, delayed, copier.Options{Workers: 2, NoProof: true}).report(b)
	})
	b.Run("short", func(b *testing.B) {
		checkpoints(b, b.Loop, 2_000_000, delayed, copier.Options{NoProof: true}).report(b)
	})
}

func TestCheckpoints(t *testing.T) {
	want(t, checkpoints(t, once(), 20_000, dynamotest.Options{}, copier.Options{CheckpointInterval: 20 * time.Millisecond, NoProof: true}),
		"x-copy", "with-s", "without-s", "checkpoints")
}

func checkpoints(tb testing.TB, loop func() bool, entries int, server dynamotest.Options, opts copier.Options) metrics {
	s := startServer(tb, tableSpec{Shape: dynamotest.VaultShape{Entries: entries, Seed: 1}, Options: server})
	memory := fillerFor(tb, entries)
	var with, without []time.Duration
	count := 0
	for loop() {
		memory.settle(tb)
		unsaved := opts
		unsaved.CheckpointInterval = never
		_, took := whole(tb, s, unsaved)
		without = append(without, took)
		memory.settle(tb)
		res, took := whole(tb, s, opts)
		with, count = append(with, took), res.Scan.Checkpoints
	}
	return metrics{
		"x-copy":      median(with).Seconds() / median(without).Seconds(),
		"with-s":      median(with).Seconds(),
		"without-s":   median(without).Seconds(),
		"checkpoints": float64(count),
	}
}

// BenchmarkResume compares a copy that dies when half is read, and is resumed,
// with one that is not interrupted. Both have the service's delays, read so few
// pages at a time that these are the limit, and save what they read twenty times:
// a copy of a minute and a half by default.
func BenchmarkResume(b *testing.B) { resume(b, b.Loop, 2_000_000).report(b) }

func TestResume(t *testing.T) {
	want(t, resume(t, once(), 10_000), "x-copy", "resumed-s", "whole-s", "read-again")
}

const resumeWorkers = 4

var errDead = errors.New("dead")

func resume(tb testing.TB, loop func() bool, entries int) metrics {
	s := startServer(tb, tableSpec{Shape: dynamotest.VaultShape{Entries: entries, Seed: 1}, Options: delayed})
	memory := fillerFor(tb, entries)
	var uninterrupted, resumed []time.Duration
	again := 0.0
	memory.settle(tb)
	first, _ := whole(tb, s, copier.Options{Workers: resumeWorkers, NoProof: true, CheckpointInterval: never})
	interval := first.Process().Phases[copier.PhaseScan] / 20
	for loop() {
		memory.settle(tb)
		_, took := whole(tb, s, copier.Options{Workers: resumeWorkers, NoProof: true, CheckpointInterval: interval})
		uninterrupted = append(uninterrupted, took)
		memory.settle(tb)

		// A dead disk keeps nothing of what comes after: as a kill does.
		dir := mkdir(tb)
		// At another part of an interval each time.
		at := int64(entries/2 + len(resumed)%4*entries/20/4)
		var dead atomic.Bool
		var read atomic.Int64
		_, died, err := copyWith(tb, s, dir, copier.Options{Workers: resumeWorkers, NoProof: true, CheckpointInterval: interval,
			Disk: &durable.Disk{Before: func(durable.Op) error {
				if dead.Load() {
					return errDead
				}
				return nil
			}},
			Events: func(e copier.Event) {
				if p, ok := e.(copier.PageRead); ok && read.Add(p.Entries) > at {
					dead.Store(true)
				}
			}})
		if !errors.Is(err, errDead) {
			tb.Fatalf("the copy did not die: %v", err)
		}
		res, second, err := copyWith(tb, s, dir, copier.Options{Workers: resumeWorkers, NoProof: true, CheckpointInterval: interval, Resume: true, Events: func(e copier.Event) {
			if p, ok := e.(copier.PageRead); ok {
				read.Add(p.Entries)
			}
		}})
		if err == nil {
			err = os.RemoveAll(dir)
		}
		if err != nil || res.Load.Entries != int64(entries) || res.Resumed != 1 {
			tb.Fatalf("%d entries, resumed %d times: %v", res.Load.Entries, res.Resumed, err)
		}
		resumed = append(resumed, died+second)
		again = float64(read.Load())/float64(entries) - 1
	}
	return metrics{
		"x-copy":     median(resumed).Seconds() / median(uninterrupted).Seconds(),
		"resumed-s":  median(resumed).Seconds(),
		"whole-s":    median(uninterrupted).Seconds(),
		"read-again": again,
	}
}
