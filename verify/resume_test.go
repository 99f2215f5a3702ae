package verify

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	bolt "go.etcd.io/bbolt"

	"github.com/dyn2raft/dyn2raft/copier"
	"github.com/dyn2raft/dyn2raft/sources/raft/vaultdb"
)

const resumeEntries = 4000

func resumeSource() *bigSource {
	s := newBigSource(resumeEntries, 20, nil)
	s.Info = copier.Info{Name: "big", ID: "big:1", Incarnation: "first"}
	return s
}

// resumePages is how many pages a resumeSource has in 85 segments.
const resumePages = 85 * 3

// interrupted is a work directory with what a comparison had read when it was
// cancelled.
func interrupted(t *testing.T, dir string) (work string, pages int64) {
	t.Helper()
	work = t.TempDir()
	why := errors.New("interrupted")
	ctx, cancel := context.WithCancelCause(context.Background())
	defer cancel(nil)
	src := resumeSource()
	src.Before = func(ctx context.Context) error {
		if src.Pages() >= resumePages/2 {
			cancel(why)
		}
		return context.Cause(ctx)
	}
	rep, err := CompareDirectory(ctx, src, dir, Expected{}, Options{WorkDir: work, Memory: copier.MinMemory})
	if !errors.Is(err, why) || rep.Kept != WorkPath(work, dir) || rep.Equal() {
		t.Fatalf("got %v, kept %q", err, rep.Kept)
	}
	if src.segments != 85 {
		t.Fatalf("%d segments", src.segments)
	}
	return work, src.Pages()
}

func TestResume(t *testing.T) {
	dir := bigDirectory(t, resumeEntries)
	work, before := interrupted(t, dir)
	src := resumeSource()
	src.Info.Bytes = 1 << 40 // the segments are those of the beginning none the less
	rep, err := compare(t, src, dir, Options{WorkDir: work, Resume: true})
	if err != nil || !rep.Equal() {
		t.Fatalf("%v: %+v", err, rep)
	}
	if rep.Resumed != 1 || !rep.Began.Before(rep.Start) || src.segments != 0 || rep.Scan.Segments != 85 {
		t.Errorf("resumed %d times, begun at %s and resumed at %s, %d segments, asked for %d", rep.Resumed, rep.Began, rep.Start, rep.Scan.Segments, src.segments)
	}
	// What the first process has read is not read again.
	if got := src.Pages(); got+before != resumePages || rep.Scan.Pages != resumePages || rep.Scan.Entries != resumeEntries {
		t.Errorf("%d pages, then %d of %d; in all %d pages and %d entries", before, got, resumePages, rep.Scan.Pages, rep.Scan.Entries)
	}
	leftBehind(t, work, &rep.Report)
}

// TestResumeAfterFailure has the source fail again and again.
func TestResumeAfterFailure(t *testing.T) {
	dir := bigDirectory(t, resumeEntries)
	work := t.TempDir()
	broken := &copier.Error{Kind: copier.ErrSource, Op: "read page", Err: errors.New("broken")}
	var reads int64
	for n := 0; ; n++ {
		src := resumeSource()
		var tries atomic.Int64
		src.Before = func(context.Context) error {
			if tries.Add(1) > resumePages/3 {
				return broken
			}
			return nil
		}
		src.changed = func(i int) bool { return i == 1234 }
		rep, err := compare(t, src, dir, Options{WorkDir: work, Resume: true})
		reads += src.Pages()
		if err == nil {
			key, _ := bigEntry(1234)
			if rep.Resumed != n || n < 2 || rep.Different != 1 || rep.Diffs[0].Key != key || rep.Missing+rep.Extra != 0 || !rep.Complete || reads != resumePages {
				t.Errorf("%d failures, %d of %d pages: %+v", n, reads, resumePages, rep)
			}
			leftBehind(t, work, &rep.Report) // a difference is a result: nothing is kept
			return
		}
		if !errors.Is(err, broken) || rep.Kept == "" || n > 5 {
			t.Fatalf("%v, kept %q", err, rep.Kept)
		}
	}
}

// TestResumeDamaged has a work file change: what was in it is read again.
func TestResumeDamaged(t *testing.T) {
	dir := bigDirectory(t, resumeEntries)
	work, before := interrupted(t, dir)
	run := filepath.Join(WorkPath(work, dir), "run-000001")
	data, err := os.ReadFile(run)
	if err != nil {
		t.Fatal(err)
	}
	data[len(data)/2] ^= 1
	if err := os.WriteFile(run, data, 0o600); err != nil {
		t.Fatal(err)
	}
	var warned atomic.Bool
	src := resumeSource()
	rep, err := compare(t, src, dir, Options{WorkDir: work, Resume: true, Events: func(e copier.Event) {
		if w, ok := e.(copier.Warning); ok && strings.Contains(w.Message, "is damaged") {
			warned.Store(true)
		}
	}})
	if err != nil || !rep.Equal() || !warned.Load() || src.Pages()+before <= resumePages {
		t.Errorf("%v, equal %v, warned %v, %d pages", err, rep.Equal(), warned.Load(), src.Pages())
	}
}

func TestResumeIsRefused(t *testing.T) {
	dir := bigDirectory(t, resumeEntries)
	file := filepath.Join(dir, "vault.db")
	info, err := os.Stat(file)
	if err != nil {
		t.Fatal(err)
	}
	work, before := interrupted(t, dir)
	kept := snapshot(t, work)
	for name, c := range map[string]struct {
		change func(s *bigSource, o *Options)
		want   string
	}{
		"name":        {func(s *bigSource, _ *Options) { s.Info.Name = "other" }, `the source is "other" now, and was "big"`},
		"id":          {func(s *bigSource, _ *Options) { s.Info.ID = "big:2" }, `the source's id is "big:2" now, and was "big:1"`},
		"incarnation": {func(s *bigSource, _ *Options) { s.Info.Incarnation = "" }, `the source's incarnation is "" now, and was "first"`},
		"size": {func(*bigSource, *Options) { resize(t, file, info.Size()+4096); touch(t, file, info.ModTime()) },
			fmt.Sprintf(`the destination's incarnation is "%d bytes of `, info.Size()+4096)},
		"modified": {func(*bigSource, *Options) { touch(t, file, info.ModTime().Add(time.Nanosecond)) },
			fmt.Sprintf(`the destination's incarnation is "%d bytes of %s, `, info.Size(), info.ModTime().Add(time.Nanosecond).UTC().Format(time.RFC3339Nano))},
	} {
		t.Run(name, func(t *testing.T) {
			src, opts := resumeSource(), Options{WorkDir: work, Resume: true, Memory: copier.MinMemory}
			c.change(src, &opts)
			rep, err := CompareDirectory(context.Background(), src, dir, Expected{}, opts)
			if !errors.Is(err, copier.ErrOtherScan) || !errors.Is(err, copier.ErrConfig) || !strings.Contains(err.Error(), c.want) || src.Pages() > 0 || rep.Equal() {
				t.Errorf("got %v after %d pages", err, src.Pages())
			}
			if snapshot(t, work) != kept {
				t.Error("what was kept is touched")
			}
			resize(t, file, info.Size())
			touch(t, file, info.ModTime())
		})
	}
	// None of it has done any harm, and the source is not asked to split again.
	src := resumeSource()
	if rep, err := compare(t, src, dir, Options{WorkDir: work, Resume: true, Segments: 62}); err != nil || !rep.Equal() || src.Pages()+before != resumePages {
		t.Errorf("%v, equal %v, %d pages", err, rep.Equal(), src.Pages())
	}
}

func resize(t *testing.T, file string, size int64) {
	t.Helper()
	if err := os.Truncate(file, size); err != nil {
		t.Fatal(err)
	}
}

func touch(t *testing.T, file string, when time.Time) {
	t.Helper()
	if err := os.Chtimes(file, when, when); err != nil {
		t.Fatal(err)
	}
}

// TestResumeAfterVault has a Vault write to the directory.
func TestResumeAfterVault(t *testing.T) {
	dir := bigDirectory(t, resumeEntries)
	file := filepath.Join(dir, "vault.db")
	work, _ := interrupted(t, dir)
	db, err := bolt.Open(file, 0o600, nil)
	if err != nil {
		t.Fatal(err)
	}
	err = db.Update(func(tx *bolt.Tx) error {
		return tx.Bucket([]byte("config")).Put([]byte("latest_indexes"), []byte{8, 1, 16, 9})
	})
	if err := errors.Join(err, db.Close()); err != nil {
		t.Fatal(err)
	}
	_, err = CompareDirectory(context.Background(), resumeSource(), dir, Expected{}, Options{WorkDir: work, Resume: true, Memory: copier.MinMemory})
	if !errors.Is(err, copier.ErrOtherScan) || !strings.Contains(err.Error(), `Raft index 9" now, and was "`) {
		t.Errorf("got %v", err)
	}
}

// TestAfresh compares without Resume where something is left: all of it is read
// again, what is left goes, and what is somebody else's stays.
func TestAfresh(t *testing.T) {
	dir := bigDirectory(t, resumeEntries)
	work, _ := interrupted(t, dir)
	foreign := filepath.Join(WorkPath(work, dir), "notes.txt")
	if err := os.WriteFile(foreign, []byte("mine"), 0o600); err != nil {
		t.Fatal(err)
	}
	src := resumeSource()
	rep, err := CompareDirectory(context.Background(), src, dir, Expected{}, Options{WorkDir: work, Restart: true, Memory: copier.MinMemory})
	if err != nil || !rep.Equal() || rep.Resumed != 0 || src.Pages() != resumePages || rep.Kept != "" {
		t.Errorf("%v, %d pages: %+v", err, src.Pages(), rep)
	}
	list, err := os.ReadDir(WorkPath(work, dir))
	if err != nil || len(list) != 1 || list[0].Name() != "notes.txt" {
		t.Errorf("%v %v", list, err)
	}
}

// TestUnreadableSetup can't be resumed, and can be thrown away.
func TestUnreadableSetup(t *testing.T) {
	dir := bigDirectory(t, resumeEntries)
	work, _ := interrupted(t, dir)
	if err := os.WriteFile(filepath.Join(WorkPath(work, dir), "copy.json"), []byte("{}"), 0o600); err != nil {
		t.Fatal(err)
	}
	_, err := CompareDirectory(context.Background(), resumeSource(), dir, Expected{}, Options{WorkDir: work, Resume: true, Memory: copier.MinMemory})
	if err == nil || codeOf(err) != copier.NeedRestart {
		t.Errorf("%v, %q", err, codeOf(err))
	}
	if rep, err := compare(t, resumeSource(), dir, Options{WorkDir: work}); err != nil || !rep.Equal() {
		t.Errorf("%v, equal %v", err, rep.Equal())
	}
}

// TestDefaultPlace finds work files beside the data directory, and nowhere
// else, and nothing of them afterwards.
func TestDefaultPlace(t *testing.T) {
	parent := t.TempDir()
	dir := filepath.Join(parent, "data")
	if err := os.Rename(directory(t, some(50)), dir); err != nil {
		t.Fatal(err)
	}
	var during []string
	var once atomic.Bool
	src := sourceThat(some(50), func(context.Context) error {
		if once.CompareAndSwap(false, true) {
			list, err := os.ReadDir(parent)
			for _, f := range list {
				during = append(during, f.Name())
			}
			return err
		}
		return nil
	})
	rep, err := CompareDirectory(context.Background(), src, dir+"/", Expected{}, Options{Memory: copier.MinMemory})
	if err != nil || !rep.Equal() {
		t.Fatalf("%v: %+v", err, rep)
	}
	if got := fmt.Sprint(during); got != "[data data.dyn2raft-verify]" {
		t.Errorf("while reading: %s", got)
	}
	if list, err := os.ReadDir(parent); err != nil || len(list) != 1 {
		t.Errorf("%v %v", list, err)
	}
}

// TestOneAtATime runs a comparison during another one with the same directory.
func TestOneAtATime(t *testing.T) {
	dir := directory(t, some(50))
	work := t.TempDir()
	var second error
	var once atomic.Bool
	src := sourceThat(some(50), func(ctx context.Context) error {
		if once.CompareAndSwap(false, true) {
			_, second = CompareDirectory(ctx, sourceOf(some(50)), dir, Expected{}, Options{WorkDir: work, Memory: copier.MinMemory})
		}
		return nil
	})
	rep, err := compare(t, src, dir, Options{WorkDir: work})
	if err != nil || !rep.Equal() {
		t.Errorf("the first: %v, equal %v", err, rep.Equal())
	}
	if !errors.Is(second, copier.ErrLocked) {
		t.Errorf("the second: %v", second)
	}
}

// TestTakenName finds something at the place of the work directory.
func TestTakenName(t *testing.T) {
	dir := directory(t, some(5))
	elsewhere := t.TempDir()
	for name, put := range map[string]func(path string) error{
		"file":    func(path string) error { return os.WriteFile(path, nil, 0o600) },
		"link":    func(path string) error { return os.Symlink(elsewhere, path) },
		"dangles": func(path string) error { return os.Symlink(filepath.Join(elsewhere, "gone"), path) },
	} {
		work := t.TempDir()
		if err := put(WorkPath(work, dir)); err != nil {
			t.Fatal(err)
		}
		before := snapshot(t, work)
		if _, err := CompareDirectory(context.Background(), sourceOf(some(5)), dir, Expected{}, Options{WorkDir: work}); !errors.Is(err, copier.ErrConfig) {
			t.Errorf("%s: %v", name, err)
		}
		if snapshot(t, work) != before {
			t.Errorf("%s: it was changed", name)
		}
	}
	if os.Geteuid() == 0 { // nobody else can give a directory away
		work := t.TempDir()
		path := WorkPath(work, dir)
		if err := errors.Join(os.Mkdir(path, 0o700), os.Chown(path, 1, 1)); err != nil {
			t.Fatal(err)
		}
		if _, err := CompareDirectory(context.Background(), sourceOf(some(5)), dir, Expected{}, Options{WorkDir: work}); !errors.Is(err, copier.ErrConfig) || !strings.Contains(err.Error(), "another user") {
			t.Errorf("another user's: %v", err)
		}
	}
}

// A comparison that neither resumes nor restarts an unfinished one is refused,
// and touches nothing.
func TestUnfinishedIsRefused(t *testing.T) {
	dir := bigDirectory(t, resumeEntries)
	work, _ := interrupted(t, dir)
	kept := snapshot(t, work)
	src := resumeSource()
	if _, err := CompareDirectory(t.Context(), src, dir, Expected{}, Options{WorkDir: work, Memory: copier.MinMemory}); !errors.Is(err, ErrUnfinished) || !errors.Is(err, copier.ErrDestination) || src.Pages() > 0 {
		t.Errorf("error is %v, after %d pages", err, src.Pages())
	}
	if snapshot(t, work) != kept {
		t.Error("what was kept is touched")
	}
	if rep, err := compare(t, resumeSource(), dir, Options{WorkDir: work, Restart: true}); err != nil || !rep.Equal() || rep.Resumed > 0 {
		t.Errorf("%+v, %v", rep, err)
	}
}

// TestWorthKeeping has comparisons end for reasons that a second try would meet
// again.
func TestWorthKeeping(t *testing.T) {
	dir := bigDirectory(t, resumeEntries)
	for _, why := range []error{copier.ErrDuplicateKey, copier.ErrMoved, vaultdb.ErrDamaged} {
		work, _ := interrupted(t, dir)
		src := resumeSource()
		src.Before = func(context.Context) error { return why }
		rep, err := compare(t, src, dir, Options{WorkDir: work, Resume: true})
		if !errors.Is(err, why) || rep.Kept != "" {
			t.Errorf("%v: %v, kept %q", why, err, rep.Kept)
		}
		if code := codeOf(err); why != vaultdb.ErrDamaged && code != copier.SourceWritten {
			t.Errorf("%v: code %q", why, code)
		}
	}
}

func TestWorkPath(t *testing.T) {
	if got := WorkPath("", "/opt/vault/data/"); got != "/opt/vault/data.dyn2raft-verify" {
		t.Error(got)
	}
	a, b := WorkPath("/w", "/opt/a/data"), WorkPath("/w", "/opt/b/data")
	if a == b || a != WorkPath("/w/", "/opt/a//data") || !bytes.HasPrefix([]byte(a), []byte("/w/dyn2raft-verify-")) {
		t.Error(a, b)
	}
}
