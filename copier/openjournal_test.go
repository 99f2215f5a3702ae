package copier

import (
	"context"
	"errors"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// TestJournal has a scan fail and another one resume it.
func TestJournal(t *testing.T) {
	watch(t)
	rnd := rand.New(rand.NewPCG(5, 0))
	entries := randomEntries(rnd, 2000)
	src := newFakeSource(rnd, entries, 60, 4)
	dir := t.TempDir()
	setup := Record{Start: time.Now(), Source: Info{Name: "fake"}, Destination: Identity{"path": "/p"}}
	j, err := OpenJournal(dir, setup, true)
	if err != nil || j.Saved() || j.Setup().Resumed != 0 || j.Setup().Segments != 0 {
		t.Fatalf("%v: %+v", err, j)
	}
	src.before = func(_ context.Context, id int) error {
		if id == 40 {
			return errFake
		}
		return nil
	}
	opts := ScanOptions{Workers: 1, Memory: MinMemory, Journal: j}
	if _, _, err := Scan(context.Background(), src, opts); !errors.Is(err, errFake) || !j.Saved() {
		t.Fatalf("%v, saved %v", err, j.Saved())
	}

	if _, err := OpenJournal(dir, Record{Source: Info{Name: "other"}}, true); !errors.Is(err, ErrOtherScan) || !errors.Is(err, ErrConfig) {
		t.Errorf("another source: %v", err)
	}
	if j, err = OpenJournal(dir, setup, true); err != nil || !j.Saved() || j.Setup().Resumed != 1 || j.Setup().Segments != 4 {
		t.Fatalf("%v: %+v", err, j.Setup())
	}
	src.before, src.segmentsErr = nil, errors.New("it is split again")
	opts.Journal = j
	sorted, stats, err := Scan(context.Background(), src, opts)
	if err != nil {
		t.Fatal(err)
	}
	got, err := drain(sorted)
	if d := differ(got, sortedCopy(entries)); err != nil || d != "" || stats.Entries != 2000 {
		t.Errorf("%v %s, %d entries", err, d, stats.Entries)
	}
	for id, n := range src.reads {
		if n != 1 {
			t.Errorf("page %d was read %d times", id, n)
		}
	}
	if err := sorted.Close(); err != nil {
		t.Error(err)
	}

	// Nothing but its own files goes.
	if err := os.WriteFile(filepath.Join(dir, "notes"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if !slices.ContainsFunc(filesIn(t, dir), func(f string) bool { return strings.HasPrefix(f, runPrefix) }) {
		t.Error("there is no run to remove")
	}
	if err := j.Remove(); err != nil || !slices.Equal(filesIn(t, dir), []string{"notes"}) {
		t.Errorf("%v, left: %q", err, filesIn(t, dir))
	}
}

// TestJournalWorkers has a scan begin with as many workers as the one before
// read with when it was saved: it need not find out once more.
func TestJournalWorkers(t *testing.T) {
	watch(t)
	dir := t.TempDir()
	entries := randomEntries(rand.New(rand.NewPCG(6, 0)), 2000)
	begun := func(workers int, allowed int) (first int) {
		src := newFakeSource(rand.New(rand.NewPCG(6, 1)), entries, 60, 4)
		j, err := OpenJournal(dir, Record{Source: Info{Name: "fake"}}, true)
		if err != nil {
			t.Fatal(err)
		}
		told := make(chan struct{}) // closed when the number of workers is on record
		src.before = func(_ context.Context, id int) error {
			if id != 40 {
				return nil
			}
			<-told
			if workers != 0 {
				j.j.workers.Store(int64(workers)) // as if the source had shown that it bears so many
			}
			return errFake
		}
		_, _, err = Scan(context.Background(), src, ScanOptions{Workers: allowed, Journal: j, Events: func(e Event) {
			if w, ok := e.(WorkersChanged); ok && first == 0 {
				first = w.Workers
				close(told)
			}
		}})
		if !errors.Is(err, errFake) {
			t.Fatal(err)
		}
		return first
	}
	if n := begun(19, 0); n != min(FirstWorkers(), DefaultMemory/pageShare/pageMemory) {
		t.Errorf("at first %d", n)
	}
	if n := begun(0, 0); n != 19 {
		t.Errorf("afterwards %d", n)
	}
	if n := begun(0, 5); n != 5 {
		t.Errorf("of at most 5, %d", n)
	}
}

// TestJournalAfresh opens a journal without resuming what is there.
func TestJournalAfresh(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{"run-000001", "checkpoint-000001.json", "copy.json", "copy.json.tmp", "spans.json", "other"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte("x"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := OpenJournal(dir, Record{}, true); !errors.Is(err, ErrDestination) {
		t.Errorf("a setup that can't be read: %v", err)
	}
	j, err := OpenJournal(dir, Record{Segments: 7}, false)
	if err != nil || j.Saved() || j.Setup().Segments != 0 || j.Setup().WorkDir != dir {
		t.Fatalf("%v: %+v", err, j)
	}
	if got := filesIn(t, dir); !slices.Equal(got, []string{"copy.json", "other"}) {
		t.Errorf("left: %q", got)
	}
	if _, err := OpenJournal(filepath.Join(dir, "gone"), Record{}, false); !errors.Is(err, ErrDestination) {
		t.Errorf("no directory: %v", err)
	}
}
