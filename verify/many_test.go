package verify

import (
	"context"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/dyn2raft/dyn2raft/copier"
)

// TestMany compares many entries, of which one, a thousand, and all differ.
func TestMany(t *testing.T) {
	order := bigOrder(manyEntries)
	dir := bigDirectoryOf(t, order)
	for _, c := range []struct {
		name  string
		every int
	}{{"one", manyEntries}, {"a thousand", manyEntries / 1000}, {"all", 1}} {
		t.Run(c.name, func(t *testing.T) {
			changed := func(i int) bool { return i%c.every == 0 }
			src := newBigSource(manyEntries, 1000, changed)
			work := t.TempDir()
			peak := watch(work)
			var n int
			left := order
			rep, err := CompareDirectory(context.Background(), src, dir, Expected{}, Options{Memory: copier.MinMemory, WorkDir: work, OnDiff: func(d Diff) error {
				for len(left) > 0 && !changed(left[0]) {
					left = left[1:]
				}
				if len(left) == 0 {
					return fmt.Errorf("difference %d is %+v, and all were named", n, d)
				}
				key, value := bigEntry(left[0])
				if d.Kind != Different || d.Key != key || d.Source.Bytes != int64(len("changed "+value)) || d.Destination.Bytes != int64(len(value)) {
					return fmt.Errorf("difference %d is %+v, want %q", n, d, key)
				}
				n, left = n+1, left[1:]
				return nil
			}})
			heap, files := peak()
			if err != nil {
				t.Fatal(err)
			}
			if n != (manyEntries+c.every-1)/c.every || rep.Different != int64(n) || rep.Named != int64(n) || rep.Missing+rep.Extra != 0 || rep.SourceEntries != manyEntries || !rep.Complete {
				t.Errorf("%d of %d differences are named; %d missing, %d extra, %d different", rep.Named, n, rep.Missing, rep.Extra, rep.Different)
			}
			t.Logf("%d entries, %d different: %s, heap %d MiB, work files %d MiB (%d bytes an entry)", manyEntries, n,
				rep.Duration.Round(10*time.Millisecond), heap>>20, files>>20, files/manyEntries)
			// The budget is of what the scan uses; the collector lets as much
			// again pile up before it runs.
			if limit := uint64(2 * copier.MinMemory); heap > limit {
				t.Errorf("a heap of %d bytes, more than %d", heap, limit)
			}
			if files > 2*75*manyEntries { // keys of 32 bytes, on both sides
				t.Errorf("work files of %d bytes", files)
			}
			leftBehind(t, work, &rep.Report)
		})
	}
}

// watch measures, until the returned function is called, by how much the heap
// in use grows, and how large the files below a directory become.
func watch(dir string) (stop func() (heap uint64, files int64)) {
	var before runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	var heap uint64
	var files int64
	done := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		t := time.NewTicker(20 * time.Millisecond)
		defer t.Stop()
		for {
			select {
			case <-done:
				return
			case <-t.C:
			}
			var now runtime.MemStats
			runtime.ReadMemStats(&now)
			heap = max(heap, now.HeapInuse-min(now.HeapInuse, before.HeapInuse))
			var size int64
			// A file that goes meanwhile counts nothing.
			_ = filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
				if err == nil && !d.IsDir() && !strings.HasSuffix(path, ".tmp") {
					if info, err := os.Lstat(path); err == nil {
						size += info.Size()
					}
				}
				return nil
			})
			files = max(files, size)
		}
	})
	return func() (uint64, int64) {
		close(done)
		wg.Wait()
		return heap, files
	}
}
