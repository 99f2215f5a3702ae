package verify

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"testing"

	raftboltdb "github.com/hashicorp/raft-boltdb/v2"
	bolt "go.etcd.io/bbolt"
	"go.uber.org/goleak"

	"github.com/dyn2raft/dyn2raft/copier"
	"github.com/dyn2raft/dyn2raft/copier/copiertest"
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

// sourceOf serves entries in pages of a few, in the random order of a map, and more.
func sourceOf(e entries, more ...copier.Entry) *copiertest.Source {
	for k, v := range e {
		more = append(more, copier.Entry{Key: []byte(k), Value: []byte(v)})
	}
	s := copiertest.NewSource(more...)
	s.PageEntries = 7
	return s
}

// sourceThat is sourceOf, and asks before it reads a page.
func sourceThat(e entries, before func(context.Context) error) *copiertest.Source {
	s := sourceOf(e)
	s.Before = before
	return s
}

// A bigSource makes up its entries: entry i is the one that bigEntry returns, and
// changed alters its value. All are read in the same order, and on the same
// pages, each time.
type bigSource struct {
	*copiertest.Source
	changed  func(i int) bool
	segments int
}

func newBigSource(count, perPage int, changed func(i int) bool) *bigSource {
	s := &bigSource{changed: changed}
	s.Source = &copiertest.Source{Len: count, PageEntries: perPage, At: func(i int) copier.Entry {
		key, value := bigEntry(i)
		if s.changed != nil && s.changed(i) {
			value = "changed " + value
		}
		return copier.Entry{Key: []byte(key), Value: []byte(value)}
	}}
	return s
}

func (s *bigSource) Split(ctx context.Context, n int) ([]copier.Span, error) {
	if n == 0 {
		return nil, errors.New("verify leaves it to the source")
	}
	s.segments = n
	return s.Source.Split(ctx, n)
}

func bigEntry(i int) (key, value string) {
	text := strconv.AppendUint([]byte("logical/"), bigHash(i), 16)
	text = append(text, '/')
	text = strconv.AppendInt(text, int64(i), 10)
	return string(text), "value " + strconv.Itoa(i)
}

// bigHash puts entries in no order. No two are alike, and all have 16 digits.
func bigHash(i int) uint64 { return uint64(i+1)*0x9e3779b97f4a7c15>>1 | 1<<63 }

// bigOrder is the numbers of a bigSource's entries in the order of their keys.
func bigOrder(count int) []int {
	out := make([]int, count)
	for i := range out {
		out[i] = i
	}
	slices.SortFunc(out, func(a, b int) int { return cmp.Compare(bigHash(a), bigHash(b)) })
	return out
}

// bigDirectory is a data directory with all entries of a bigSource.
func bigDirectory(t testing.TB, count int) string {
	t.Helper()
	return bigDirectoryOf(t, bigOrder(count))
}

func bigDirectoryOf(t testing.TB, order []int) string {
	t.Helper()
	dir := directory(t, nil)
	db, err := bolt.Open(filepath.Join(dir, "vault.db"), 0o600, &bolt.Options{NoFreelistSync: true, FreelistType: bolt.FreelistMapType, NoSync: true})
	if err != nil {
		t.Fatal(err)
	}
	for part := range slices.Chunk(order, 100_000) {
		err = errors.Join(err, db.Update(func(tx *bolt.Tx) error {
			data := tx.Bucket([]byte("data"))
			data.FillPercent = 1
			for _, i := range part {
				key, value := bigEntry(i)
				if err := data.Put([]byte(key), []byte(value)); err != nil {
					return err
				}
			}
			return nil
		}))
	}
	if err := errors.Join(err, db.Close()); err != nil {
		t.Fatal(err)
	}
	return dir
}

// directory makes a data directory as a copy leaves it, whose vault.db holds
// the entries.
func directory(t testing.TB, e entries) string {
	t.Helper()
	dir := t.TempDir()
	writeFile(t, filepath.Join(dir, "vault.db"), e)
	writeRaftDB(t, dir, 1)
	return dir
}

// writeRaftDB makes the log of a data directory, without entries.
func writeRaftDB(t testing.TB, dir string, term uint64) {
	t.Helper()
	path := filepath.Join(dir, "raft")
	check(t, os.RemoveAll(path))
	check(t, os.Mkdir(path, 0o700))
	s, err := raftboltdb.New(raftboltdb.Options{Path: filepath.Join(path, "raft.db"), NoSync: true, MsgpackUseNewTimeFormat: true,
		BoltOptions: &bolt.Options{NoFreelistSync: true, FreelistType: bolt.FreelistMapType}})
	check(t, err)
	check(t, errors.Join(s.SetUint64([]byte("CurrentTerm"), term), s.Close()))
}

// configuration is Raft's with one server, as vault.db has it.
func configuration(index byte, id, address string) []byte {
	server := append([]byte{18, byte(len(id))}, id...)
	server = append(append(server, 26, byte(len(address))), address...)
	return append([]byte{8, index, 18, byte(len(server))}, server...)
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
		if err := errors.Join(config.Put([]byte("latest_indexes"), []byte{8, 1, 16, 2}),
			config.Put([]byte("latest_config"), configuration(2, "n1", "127.0.0.1:8201"))); err != nil {
			return err
		}
		for _, k := range slices.Sorted(maps.Keys(e)) {
			if err := data.Put([]byte(k), []byte(e[k])); err != nil {
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

// leftBehind notices anything in a work directory but what the report names.
func leftBehind(t testing.TB, work string, rep *Report) {
	t.Helper()
	list, err := os.ReadDir(work)
	if err != nil {
		t.Error(err)
	}
	for _, f := range list {
		if filepath.Join(work, f.Name()) != rep.Kept {
			t.Errorf("%s is left in the work directory, and the report names %q", f.Name(), rep.Kept)
		}
	}
	if rep.Kept != "" && len(list) == 0 {
		t.Errorf("%s is not there", rep.Kept)
	}
}

// compare compares a source with a directory, and its Raft with raft. Whatever comes
// out of it, the directory must be as before, and no work file may be left
// that the report does not name.
func compare(t testing.TB, src copier.Source, dir string, opts Options, raft ...Expected) (*DirectoryReport, error) {
	t.Helper()
	if opts.Memory == 0 {
		opts.Memory = copier.MinMemory // quickly allocated
	}
	if opts.WorkDir == "" {
		opts.WorkDir = t.TempDir()
	}
	before := snapshot(t, dir)
	rep, err := CompareDirectory(context.Background(), src, dir, append(raft, Expected{})[0], opts)
	if snapshot(t, dir) != before {
		t.Error("the directory has changed")
	}
	leftBehind(t, opts.WorkDir, &rep.Report)
	if err != nil && rep.Equal() {
		t.Errorf("the report says equal beside the error %v", err)
	}
	return rep, err
}

func codeOf(err error) copier.Code {
	code, _ := copier.CodeOf(err)
	return code
}
