package verify

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"testing"

	bolt "go.etcd.io/bbolt"
	"go.uber.org/goleak"

	"github.com/dyn2raft/dyn2raft/copier"
)

func TestMain(m *testing.M) {
	if file := os.Getenv(holdVariable); file != "" {
		hold(file)
		return
	}
	goleak.VerifyTestMain(m)
}

// entries are what one side holds.
type entries map[string]string

func (e entries) clone() entries {
	out := entries{}
	for k, v := range e {
		out[k] = v
	}
	return out
}

// some returns n entries below a few prefixes, with keys without a slash and
// empty values among them.
func some(n int) entries {
	out := entries{}
	for i := range n {
		key := fmt.Sprintf("%s/%03d/key", []string{"core", "logical", "sys"}[i%3], i)
		if i%10 == 9 {
			key = fmt.Sprintf("top-%03d", i)
		}
		out[key] = fmt.Sprintf("value %d %s", i, bytes.Repeat([]byte{'x'}, i%50))
		if i%7 == 6 {
			out[key] = ""
		}
	}
	return out
}

// A fakeSource serves entries in pages of a few, in the random order of a map.
type fakeSource struct {
	entries  entries
	extra    []copier.Entry // served on a page of their own
	prepare  error
	readPage func(ctx context.Context) error

	pages [][]copier.Entry
}

func (s *fakeSource) Prepare(context.Context) (copier.SourceInfo, error) {
	return copier.SourceInfo{Name: "fake", ID: "fake:1"}, s.prepare
}

// A fakeSource has pageEntries entries on a page and reads every
// fakeSegments-th page in the same segment.
const (
	pageEntries  = 7
	fakeSegments = 4
)

func (s *fakeSource) Segments(context.Context, int) ([]copier.Segment, error) {
	s.pages = [][]copier.Entry{s.extra}
	for k, v := range s.entries {
		last := len(s.pages) - 1
		if last == 0 || len(s.pages[last]) == pageEntries {
			s.pages = append(s.pages, nil)
			last++
		}
		s.pages[last] = append(s.pages[last], copier.Entry{Key: []byte(k), Value: []byte(v)})
	}
	var out []copier.Segment
	for i := range min(fakeSegments, len(s.pages)) {
		out = append(out, copier.Segment{Index: i, Total: fakeSegments, Resume: strconv.AppendInt(nil, int64(i), 10)})
	}
	return out, nil
}

func (s *fakeSource) ReadPage(ctx context.Context, seg copier.Segment, b *copier.Batch) (copier.Page, error) {
	if s.readPage != nil {
		if err := s.readPage(ctx); err != nil {
			return copier.Page{}, err
		}
	}
	page, err := strconv.Atoi(string(seg.Resume))
	if err != nil {
		return copier.Page{}, err
	}
	for _, e := range s.pages[page] {
		b.Append(e.Key, e.Value)
	}
	if page += fakeSegments; page >= len(s.pages) {
		return copier.Page{}, nil
	}
	next := seg
	next.Resume = strconv.AppendInt(nil, int64(page), 10)
	return copier.Page{Next: []copier.Segment{next}}, nil
}

// directory makes a data directory whose vault.db holds the entries.
func directory(t testing.TB, e entries) string {
	t.Helper()
	dir := t.TempDir()
	writeFile(t, filepath.Join(dir, "vault.db"), e)
	return dir
}

func writeFile(t testing.TB, file string, e entries) {
	t.Helper()
	db, err := bolt.Open(file, 0o600, &bolt.Options{NoFreelistSync: true, FreelistType: bolt.FreelistMapType, NoSync: true})
	if err != nil {
		t.Fatal(err)
	}
	err = db.Update(func(tx *bolt.Tx) error {
		data, err := tx.CreateBucketIfNotExists([]byte("data"))
		if err != nil {
			return err
		}
		config, err := tx.CreateBucketIfNotExists([]byte("config"))
		if err != nil {
			return err
		}
		if err := config.Put([]byte("latest_indexes"), []byte{8, 1, 16, 2}); err != nil {
			return err
		}
		for k, v := range e {
			if err := data.Put([]byte(k), []byte(v)); err != nil {
				return err
			}
		}
		return nil
	})
	if err := errors.Join(err, db.Close()); err != nil {
		t.Fatal(err)
	}
}

// snapshot describes all that is below a directory: names, modes, times of
// modification, and content.
func snapshot(t testing.TB, dir string) string {
	t.Helper()
	var out bytes.Buffer
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		fmt.Fprintln(&out, path, info.Mode(), info.ModTime().UnixNano(), info.Size())
		if info.Mode().IsRegular() {
			b, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			out.Write(b)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return out.String()
}

// compare compares a source with a directory. Whatever comes out of it, the
// directory must be as before, and no work file may be left.
func compare(t testing.TB, src copier.Source, dir string, opts Options) (*Report, error) {
	t.Helper()
	if opts.Memory == 0 {
		opts.Memory = copier.MinMemory // quickly allocated
	}
	if opts.WorkDir == "" {
		opts.WorkDir = t.TempDir()
	}
	before := snapshot(t, dir)
	rep, err := Compare(context.Background(), src, dir, opts)
	if snapshot(t, dir) != before {
		t.Error("the directory has changed")
	}
	if left, rerr := os.ReadDir(opts.WorkDir); rerr != nil || len(left) > 0 {
		t.Errorf("left in the work directory: %v %v", left, rerr)
	}
	if err != nil && rep.Equal() {
		t.Errorf("the report says equal beside the error %v", err)
	}
	return rep, err
}
