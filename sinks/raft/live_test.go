package raft

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/dyn2raft/dyn2raft/copier"
	"github.com/dyn2raft/dyn2raft/copier/copiertest"
)

var errEnded = errors.New("the process has ended")

// A table that a Vault writes to all the time is copied by several processes, each of
// which ends at some moment. The last one cuts over. What is in place is the table.
func TestLiveCopy(t *testing.T) {
	for seed := range uint64(4) {
		synctest.Test(t, func(t *testing.T) {
			rnd := rand.New(rand.NewPCG(seed, 1))
			table := copiertest.NewTable(testEntries(1500)...)
			late := rand.New(rand.NewPCG(seed, 2))
			table.Late = func() time.Duration { return time.Duration(late.IntN(int(100 * time.Millisecond))) } // under its lock
			table.PageEntries = 40
			table.Before = func(context.Context) error { time.Sleep(50 * time.Millisecond); return nil }
			check(t, table.Serve("vault-1"))
			stop := make(chan struct{})
			var ready atomic.Bool // for the cut-over
			var writer sync.WaitGroup
			writer.Go(func() {
				m := modelOf(testEntries(1500))
				rnd := rand.New(rand.NewPCG(seed, 3))
				for n := 1; ; n++ {
					select {
					case <-stop:
						return
					case <-time.After(20 * time.Millisecond):
					}
					if n%20 == 0 && ready.Load() {
						table.StepDown()
					}
					changes, _ := m.random(rnd, 4)
					for _, c := range changes { // an error says that nobody serves
						if c.Gone {
							_ = table.Delete(c.Key)
						} else {
							_ = table.Put(c.Entry)
						}
					}
				}
			})
			o := testOptions(t.TempDir())
			if seed%2 == 1 {
				o.NodeID = ""
			}
			const processes = 8
			var mu sync.Mutex // of what the hooks of a disk use
			last := ""
			for process := range processes {
				ctx, cancel := context.WithCancelCause(t.Context())
				killAt, timer := -1, time.AfterFunc(time.Hour, func() {})
				switch {
				case process == processes-1: // it has all the time
				case seed%4 < 2:
					timer = time.AfterFunc(time.Duration(rnd.IntN(int(1500*time.Millisecond))), func() { cancel(errEnded) })
				default: // nothing that it does then has an effect
					killAt = rnd.IntN(250)
				}
				ops := 0
				disk := hooked(func(op string) error {
					mu.Lock()
					defer mu.Unlock()
					if ops++; killAt >= 0 && ops > killAt {
						cancel(errEnded)
						last = op
						return errEnded
					}
					return nil
				})
				with := o
				with.Disk = disk
				sink, err := New(with)
				check(t, err)
				rehearsed := false
				ready.Store(false)
				res, err := copier.Copy(ctx, table, sink, copier.Options{RunID: "run-1", Resume: process > 0, Uninitialized: true,
					Disk: disk, Memory: copier.MinMemory, CheckpointInterval: 100 * time.Millisecond,
					Live: &copier.Live{Beyond: time.Second, Armed: func() copier.Arm {
						if process < processes-1 && process%3 < 2 || !rehearsed && process == processes-1 {
							return copier.Rehearse
						}
						return copier.Armed
					}},
					Events: func(e copier.Event) {
						switch e.(type) {
						case copier.ReadyToCutOver:
							ready.Store(true)
						case copier.Rehearsed:
							rehearsed = true
							ready.Store(process == processes-1)
							_ = table.Serve("vault-1")
						case copier.GivenBack:
							_ = table.Serve("vault-1")
						}
					}})
				timer.Stop()
				cancel(nil)
				t.Logf("seed %d, process %d: rehearsed %v, %+v, at %s: %v", seed, process, rehearsed, res.Live, last, err)
				if err == nil {
					if res.Live == nil || !res.Complete {
						t.Errorf("complete: %v, %+v", res.Complete, res.Live)
					}
					break
				}
				if errors.Is(err, copier.ErrInPlace) { // by the process before
					break
				}
				if !errors.Is(err, errEnded) || process == processes-1 {
					t.Fatalf("seed %d, process %d: %v", seed, process, err)
				}
				if table.Holder() == "" && !res.Complete { // else it was ended while it watched
					_ = table.Serve("vault-1")
				}
			}
			close(stop)
			writer.Wait()
			got, there, err := inPlace(o.Path)
			if want := modelOf(table.Entries()); err != nil || !there || !maps.Equal(modelOf(got), want) {
				t.Errorf("seed %d: in place are %d entries, %v, want %d, %v", seed, len(got), there, len(want), err)
			}
			if by := table.Followed(); by != "" {
				t.Errorf("it is followed by %s", by)
			}
			check(t, inspectBuckets(fmt.Sprint(o.Path, "/", vaultDBName)))
		})
	}
}
