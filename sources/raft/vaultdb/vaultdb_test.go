package vaultdb

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	bolt "go.etcd.io/bbolt"
	"go.uber.org/goleak"
	"golang.org/x/sync/errgroup"
	"google.golang.org/protobuf/encoding/protowire"

	"github.com/dyn2raft/dyn2raft/copier"
	"github.com/dyn2raft/dyn2raft/sinks/raft/boltfile"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// written makes a file in one pass, as a copy does.
func written(t testing.TB, entries map[string]string, opts boltfile.Options) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "vault.db")
	f, err := os.Create(path)
	check(t, err)
	defer f.Close()
	w, err := boltfile.NewWriter(f, opts)
	check(t, err)
	check(t, w.Bucket([]byte(ConfigBucket)))
	check(t, w.Put([]byte("latest_indexes"), []byte{8, 1, 16, 2}))
	check(t, w.Bucket([]byte(DataBucket)))
	for _, k := range slices.Sorted(maps.Keys(entries)) {
		check(t, w.Put([]byte(k), []byte(entries[k])))
	}
	_, err = w.Finish()
	check(t, err)
	return path
}

// lived makes a file with bbolt in many transactions, with Vault's options or
// with a list of free pages, and returns what it holds at the end.
func lived(t testing.TB, seed uint64, pageSize, turns int, noFreelist bool) (string, map[string]string) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "vault.db")
	db, err := bolt.Open(path, 0o600, &bolt.Options{NoFreelistSync: noFreelist, FreelistType: bolt.FreelistMapType,
		NoSync: true, PageSize: pageSize})
	check(t, err)
	rnd := rand.New(rand.NewPCG(seed, 0))
	want := map[string]string{}
	for range turns {
		check(t, db.Update(func(tx *bolt.Tx) error {
			data, err := tx.CreateBucketIfNotExists([]byte(DataBucket))
			check(t, err)
			_, err = tx.CreateBucketIfNotExists([]byte(ConfigBucket))
			check(t, err)
			keys := slices.Sorted(maps.Keys(want))
			switch rnd.IntN(4) {
			case 0: // a range of keys goes
				if len(keys) > 0 {
					from := rnd.IntN(len(keys))
					for _, k := range keys[from:min(len(keys), from+rnd.IntN(200))] {
						check(t, data.Delete([]byte(k)))
						delete(want, k)
					}
				}
			case 1: // some keys go
				for _, k := range keys {
					if rnd.IntN(5) == 0 {
						check(t, data.Delete([]byte(k)))
						delete(want, k)
					}
				}
			default:
				for range rnd.IntN(150) {
					key := fmt.Sprintf("%03d/%s%d", rnd.IntN(40), strings.Repeat("k", rnd.IntN(80)), rnd.IntN(1000))
					if rnd.IntN(30) == 0 {
						key = strings.Repeat(key, 1+rnd.IntN(2*pageSize)/len(key)) // a branch with overflow
					}
					size := rnd.IntN(200)
					if rnd.IntN(40) == 0 {
						size = rnd.IntN(10 * pageSize)
					}
					value := strings.Repeat("v", size)
					check(t, data.Put([]byte(key), []byte(value)))
					want[key] = value
				}
			}
			return nil
		}))
	}
	check(t, db.Close())
	return path, want
}

// read returns all entries, and what Check says behind them.
func read(f *File) (map[string]string, Stats, error) {
	out := map[string]string{}
	e := f.Entries(context.Background())
	for {
		entry, err := e.Next()
		if err != nil {
			stats, err := e.Check()
			return out, stats, err
		}
		out[string(entry.Key)] = string(entry.Value)
	}
}

// alike reads a file as a source, with several goroutines: what comes of it must be
// what one of them finds alone, be it entries or damage.
func alike(t testing.TB, f *File, want map[string]string, wantStats Stats, wantErr error) {
	t.Helper()
	if errors.Is(wantErr, ErrNoBucket) {
		return // Open refuses it
	}
	for _, n := range []int{1, 2, 5} {
		got, sum, stats, err := readSpans(t, f, n)
		if wantErr != nil {
			for _, kind := range []error{ErrDamaged, copier.ErrDestination} {
				if errors.Is(err, kind) != errors.Is(wantErr, kind) {
					t.Errorf("%d spans: %v, one alone finds %v", n, err, wantErr)
				}
			}
			continue
		}
		if err != nil || sum != len(want) || !maps.Equal(got, want) || stats != wantStats {
			t.Fatalf("%d spans: %d entries of %d, %+v, want %+v, %v", n, sum, len(want), stats, wantStats, err)
		}
	}
}

// sourceOf is a file that is open as a source.
func sourceOf(f *File) *Source {
	return &Source{Kind: copier.ErrDestination, file: f, used: newUsage(f.meta.highWater)}
}

// readSpans reads n spans at the same time, and then checks the rest of the file.
func readSpans(t testing.TB, f *File, n int) (got map[string]string, sum int, stats Stats, err error) {
	src, ctx := sourceOf(f), context.Background()
	spans, err := src.Split(ctx, n)
	if err != nil {
		return nil, 0, stats, err
	}
	if len(spans) > n {
		t.Errorf("%d spans of %d", len(spans), n)
	}
	parts := make([]map[string]string, len(spans))
	var group errgroup.Group
	group.SetLimit(4)
	for i, span := range spans {
		parts[i] = map[string]string{}
		group.Go(func() error {
			var b copier.Batch
			for last := ""; ; b.Reset() {
				page, err := src.Read(ctx, span, &b)
				if err != nil {
					return err
				}
				for j := range b.Len() {
					e := b.Entry(j)
					if last >= string(e.Key) {
						t.Errorf("key %.20q behind %.20q", e.Key, last)
					}
					last = string(e.Key)
					parts[i][last] = string(e.Value)
				}
				if len(page.Next) == 0 {
					return nil
				}
				span = page.Next[0]
			}
		})
	}
	if err := group.Wait(); err != nil {
		return nil, 0, stats, err
	}
	got = map[string]string{}
	for _, part := range parts {
		maps.Copy(got, part)
		sum += len(part)
	}
	err = src.Recheck(ctx)
	return got, sum, src.Stats(), err
}

// boltSays returns what bbolt reads, and what its Check says.
func boltSays(t testing.TB, path string) (out map[string]string, free int, err error) {
	t.Helper()
	db, err := bolt.Open(path, 0o600, &bolt.Options{ReadOnly: true, PreLoadFreelist: true})
	check(t, err)
	defer db.Close()
	out = map[string]string{}
	check(t, db.View(func(tx *bolt.Tx) error {
		for e := range tx.Check() {
			err = errors.Join(err, e)
		}
		return tx.Bucket([]byte(DataBucket)).ForEach(func(k, v []byte) error {
			out[string(k)] = string(v)
			return nil
		})
	}))
	return out, db.Stats().FreePageN, err
}

func open(t testing.TB, path string) *File {
	t.Helper()
	f, err := Open(path)
	check(t, err)
	t.Cleanup(func() { check(t, f.Close()) })
	return f
}

// TestAgainstBbolt reads files that bbolt has changed in every way: it must
// find the same, and no rule of this package may be one that bbolt breaks.
func TestAgainstBbolt(t *testing.T) {
	depth := 0
	for seed := range uint64(16) {
		pageSize := []int{1024, 4096, 1024, 16384}[seed%4]
		path, want := lived(t, seed, pageSize, 5+int(seed)*3, seed%3 != 0)
		f := open(t, path)
		got, stats, err := read(f)
		if err != nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
		alike(t, f, got, stats, nil)
		there, free, err := boltSays(t, path)
		check(t, err)
		if !maps.Equal(got, want) || !maps.Equal(there, want) {
			t.Fatalf("seed %d: %d entries, bbolt has %d, put were %d", seed, len(got), len(there), len(want))
		}
		if stats.FreePages != int64(free) || stats.PageSize != int64(pageSize) {
			t.Errorf("seed %d: %d free pages, bbolt counts %d", seed, stats.FreePages, free)
		}
		if sum := 2 + stats.BranchPages + stats.LeafPages + stats.OverflowPages + stats.FreePages + stats.FreelistPages; sum != stats.HighWater {
			t.Errorf("seed %d: %d pages of %d are accounted for", seed, sum, stats.HighWater)
		}
		if (stats.FreelistPages > 0) != (seed%3 == 0) {
			t.Errorf("seed %d: %d pages of freelist", seed, stats.FreelistPages)
		}
		first, last, err := f.Ends(t.Context(), DataBucket)
		check(t, err)
		if keys := slices.Sorted(maps.Keys(want)); len(keys) > 0 && (string(first) != keys[0] || string(last) != keys[len(keys)-1]) {
			t.Errorf("seed %d: ends %.20q %.20q, want %.20q %.20q", seed, first, last, keys[0], keys[len(keys)-1])
		}
		depth = max(depth, stats.Depth)
	}
	if depth < 3 {
		t.Errorf("no tree has more than %d levels", depth)
	}
}

func some(n int) map[string]string {
	out := map[string]string{}
	for i := range n {
		key := fmt.Sprintf("sys/%05d%s", i, strings.Repeat("k", i%90))
		out[key] = strings.Repeat("v", i*i%700)
		if i%100 == 50 {
			out[key] = strings.Repeat("V", 20_000+i*300)
		}
	}
	return out
}

func TestAgainstWriter(t *testing.T) {
	for _, n := range []int{0, 1, 2, 3, 100, 5000} {
		for _, size := range []int{1024, 4096, 65536} {
			want := some(n)
			f := open(t, written(t, want, boltfile.Options{PageSize: size}))
			got, stats, err := read(f)
			if err != nil || !maps.Equal(got, want) || stats.FreePages != 0 || stats.TxID != 1 {
				t.Fatalf("%d entries, %d a page: %d, %+v, %v", n, size, len(got), stats, err)
			}
			alike(t, f, want, stats, nil)
			whole, err := f.Check(t.Context())
			if err != nil || whole != stats {
				t.Errorf("Check found %+v, reading %+v, %v", whole, stats, err)
			}
			if n == 5000 && size == 4096 && (stats.Fill() < 0.7 || stats.Fill() > 0.99 || stats.Depth < 3) {
				t.Errorf("fill %v, depth %d", stats.Fill(), stats.Depth)
			}
			first, last, err := f.Ends(t.Context(), DataBucket)
			keys := slices.Sorted(maps.Keys(want))
			if err != nil || n > 0 && (string(first) != keys[0] || string(last) != keys[n-1]) || n == 0 && (first != nil || last != nil) {
				t.Errorf("ends %q %q, %v", first, last, err)
			}
		}
	}
}

// TestOrderAndEnd shows that an entry is valid until the following call.
func TestOrderAndEnd(t *testing.T) {
	want := some(3000)
	f := open(t, written(t, want, boltfile.Options{}))
	e := f.Entries(t.Context())
	if _, err := e.Check(); !errors.Is(err, copier.ErrDestination) {
		t.Errorf("Check before the end: %v", err)
	}
	for _, k := range slices.Sorted(maps.Keys(want)) {
		entry, err := e.Next()
		if err != nil || string(entry.Key) != k || string(entry.Value) != want[k] {
			t.Fatalf("got %.20q, %v, want %.20q", entry.Key, err, k)
		}
		_ = append(entry.Key, 'x') // must not write into the value
		_ = append(entry.Value, 'x')
	}
	for range 3 {
		if _, err := e.Next(); err != io.EOF {
			t.Errorf("at the end: %v", err)
		}
	}
}

func TestCancelled(t *testing.T) {
	f := open(t, written(t, some(20000), boltfile.Options{}))
	why := errors.New("why")
	ctx, cancel := context.WithCancelCause(t.Context())
	e := f.Entries(ctx)
	_, err := e.Next()
	check(t, err)
	cancel(why)
	for err == nil {
		_, err = e.Next()
	}
	if err != why {
		t.Errorf("got %v", err)
	}
	if _, err := f.Check(ctx); err != why {
		t.Errorf("Check: %v", err)
	}
}

func TestOpen(t *testing.T) {
	for name, make := range map[string]func(t *testing.T, path string){
		"missing":     func(*testing.T, string) {},
		"a directory": func(t *testing.T, path string) { check(t, os.Mkdir(path, 0o700)) },
		"a pipe":      func(t *testing.T, path string) { check(t, syscall.Mkfifo(path, 0o600)) },
		"empty":       func(t *testing.T, path string) { check(t, os.WriteFile(path, nil, 0o600)) },
		"short":       func(t *testing.T, path string) { check(t, os.WriteFile(path, []byte("vault"), 0o600)) },
		"zeros":       func(t *testing.T, path string) { check(t, os.WriteFile(path, bytes.Repeat([]byte{0}, 1<<17), 0o600)) },
		"other buckets": func(t *testing.T, path string) {
			db, err := bolt.Open(path, 0o600, nil)
			check(t, err)
			check(t, db.Update(func(tx *bolt.Tx) error { _, err := tx.CreateBucket([]byte("logs")); return err }))
			check(t, db.Close())
		},
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "vault.db")
			make(t, path)
			f, err := Open(path)
			if !errors.Is(err, copier.ErrDestination) || !strings.Contains(err.Error(), path) || f != nil {
				t.Errorf("got %v", err)
			}
			if name == "other buckets" {
				if !errors.Is(err, ErrNoBucket) || !errors.Is(err, ErrDamaged) {
					t.Errorf("got %v", err)
				}
				f, err := OpenBolt(path)
				check(t, err)
				if _, err := f.Check(t.Context()); err != nil {
					t.Error(err)
				}
				if _, err := f.Entries(t.Context()).Next(); !errors.Is(err, ErrNoBucket) {
					t.Errorf("got %v", err)
				}
				if _, err := (&Source{Path: path}).Open(t.Context()); !errors.Is(err, ErrNoBucket) || !errors.Is(err, copier.ErrSource) {
					t.Errorf("got %v", err)
				}
				check(t, f.Close())
			}
		})
	}
}

func TestInUse(t *testing.T) {
	path := written(t, some(10), boltfile.Options{})
	db, err := bolt.Open(path, 0o600, nil)
	check(t, err)
	if _, err := Open(path); !errors.Is(err, ErrInUse) || !errors.Is(err, copier.ErrLocked) || errors.Is(err, copier.ErrDestination) || codeOf(err) != copier.InUse {
		t.Errorf("got %v", err)
	}
	check(t, db.Close())
	f := open(t, path)
	open(t, path) // readers do not exclude each other
	if _, err := f.Check(t.Context()); err != nil {
		t.Error(err)
	}
	if db, err := bolt.Open(path, 0o600, &bolt.Options{Timeout: 1}); err == nil {
		db.Close()
		t.Error("a Vault could open it meanwhile")
	}
}

func TestState(t *testing.T) {
	path := written(t, nil, boltfile.Options{})
	f, err := Open(path)
	check(t, err)
	got, err := f.State()
	check(t, f.Close())
	if err != nil || got.Index != 2 || got.Term != 1 || len(got.Servers) != 0 {
		t.Errorf("%+v, %v", got, err)
	}
	put := func(key string, value []byte) {
		db, err := bolt.Open(path, 0o600, &bolt.Options{Timeout: time.Second})
		check(t, err)
		check(t, db.Update(func(tx *bolt.Tx) error { return tx.Bucket([]byte(ConfigBucket)).Put([]byte(key), value) }))
		check(t, db.Close())
	}
	server := func(suffrage uint64, id, address string) []byte {
		b := protowire.AppendVarint(protowire.AppendTag(nil, 1, protowire.VarintType), suffrage)
		b = protowire.AppendString(protowire.AppendTag(b, 2, protowire.BytesType), id)
		return protowire.AppendString(protowire.AppendTag(b, 3, protowire.BytesType), address)
	}
	config := protowire.AppendVarint(protowire.AppendTag(nil, 1, protowire.VarintType), 77)
	for i, id := range []string{"a", "b"} {
		config = protowire.AppendBytes(protowire.AppendTag(config, 2, protowire.BytesType), server(uint64(i), id, id+":8201"))
	}
	put("latest_config", config)
	put("local_node_config", append([]byte{10, 5}, "voter"...))
	got, err = open(t, path).State()
	want := State{Index: 2, Term: 1, ConfigIndex: 77, DesiredSuffrage: "voter", Servers: []Server{{"a", "a:8201", "voter"}, {"b", "b:8201", "non-voter"}}}
	if err != nil || fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("got %+v, %v", got, err)
	}
	for _, bad := range [][]byte{{8}, {18, 200}, append([]byte{18, 2}, 8, 9)} {
		path = written(t, nil, boltfile.Options{})
		put("latest_config", bad)
		if got, err := open(t, path).State(); !errors.Is(err, ErrDamaged) {
			t.Errorf("% x: %+v, %v", bad, got, err)
		}
	}
}

// reseal makes a changed meta page valid again.
func reseal(b []byte, at int) {
	h := fnv.New64a()
	h.Write(b[at : at+56])
	binary.NativeEndian.PutUint64(b[at+56:], h.Sum64())
}

// TestDamage damages a file in every way that a rule forbids, and wants that
// rule's words.
func TestDamage(t *testing.T) {
	const size = 4096
	good, err := os.ReadFile(written(t, some(3000), boltfile.Options{PageSize: size}))
	check(t, err)
	f, err := NewFile("good", bytes.NewReader(good), int64(len(good)))
	check(t, err)
	ne := binary.NativeEndian
	root := int(f.buckets[DataBucket].root) * size
	branch, leaf := 0, root
	for ne.Uint16(good[leaf+8:]) == branchFlag {
		branch, leaf = leaf, int(ne.Uint64(good[leaf+16+8:]))*size
	}
	if branch == 0 || branch == root {
		t.Fatal("the tree is too small")
	}
	second := int(ne.Uint64(good[branch+16+16+8:])) * size
	element := leaf + 16
	key := element + int(ne.Uint32(good[element+4:]))
	rootBucket := int(f.meta.root) * size
	bucketAt := rootBucket + 16 + int(ne.Uint32(good[rootBucket+16+4:])) + len(ConfigBucket)
	big := 0 // a leaf with overflow
	for at := 2 * size; at < len(good); at += size * (1 + int(ne.Uint32(good[at+12:]))) {
		if ne.Uint32(good[at+12:]) > 0 {
			big = at
			break
		}
	}
	meta := func(b []byte, field int, v uint64) {
		for _, at := range []int{16, size + 16} {
			ne.PutUint64(b[at+field:], v)
			reseal(b, at)
		}
	}
	for name, c := range map[string]struct {
		damage func(b []byte) []byte
		says   string
	}{
		"truncated":              {func(b []byte) []byte { return b[:len(b)-1] }, "it must have"},
		"half":                   {func(b []byte) []byte { return b[:len(b)/2] }, "it must have"},
		"one page":               {func(b []byte) []byte { return b[:size] }, "it must have"},
		"both metas":             {func(b []byte) []byte { b[20]++; b[size+20]++; return b }, "no valid meta page: version 3"},
		"meta checksum":          {func(b []byte) []byte { b[16+30]++; return b }, "page 0: the meta page is not valid: its checksum"},
		"meta magic":             {func(b []byte) []byte { b[size+16]++; return b }, "page 1: the meta page is not valid: it is not a bbolt"},
		"meta page id":           {func(b []byte) []byte { b[0]++; return b }, "page 0: the meta page has the header"},
		"meta transaction":       {func(b []byte) []byte { ne.PutUint64(b[16+48:], 3); reseal(b, 16); return b }, "page 0: the meta page is of transaction 3"},
		"meta transactions":      {func(b []byte) []byte { ne.PutUint64(b[16+48:], 40); reseal(b, 16); return b }, "of transactions 40 and 1"},
		"meta root":              {func(b []byte) []byte { ne.PutUint64(b[16+16:], 3); reseal(b, 16); return b }, "new file differ"},
		"meta page size":         {func(b []byte) []byte { ne.PutUint32(b[16+8:], 1000); reseal(b, 16); return b }, "page size is 1000"},
		"high water above":       {func(b []byte) []byte { meta(b, 40, 1<<60); return b }, "it must have"},
		"high water 0":           {func(b []byte) []byte { meta(b, 40, 0); return b }, "there is no such page"},
		"high water below":       {func(b []byte) []byte { meta(b, 40, f.meta.highWater-2); return b }, "page"},
		"root above":             {func(b []byte) []byte { meta(b, 16, 1<<40); return b }, "there is no such page"},
		"freelist above":         {func(b []byte) []byte { meta(b, 32, 1<<40); return b }, "list of free pages is said to be"},
		"freelist is a leaf":     {func(b []byte) []byte { meta(b, 32, uint64(leaf/size)); return b }, "no list of free pages"},
		"root is no bucket's":    {func(b []byte) []byte { meta(b, 16, uint64(leaf/size)); return b }, "has the flags 0x0"},
		"bucket sequence":        {func(b []byte) []byte { b[bucketAt+8] = 1; return b }, "sequence 1"},
		"bucket root":            {func(b []byte) []byte { ne.PutUint64(b[bucketAt:], uint64(leaf/size)); return b }, "used twice"},
		"one root, two buckets":  {func(b []byte) []byte { ne.PutUint64(b[bucketAt:], uint64(root/size)); return b }, "used twice"},
		"page id":                {func(b []byte) []byte { b[leaf]++; return b }, "it says that it is page"},
		"page flags":             {func(b []byte) []byte { b[leaf+8] = 64; return b }, "neither a branch nor a leaf"},
		"two flags":              {func(b []byte) []byte { b[leaf+8] = 3; return b }, "neither a branch nor a leaf"},
		"leaf is a branch":       {func(b []byte) []byte { b[leaf+8] = 1; return b }, "page"},
		"overflow behind":        {func(b []byte) []byte { ne.PutUint32(b[leaf+12:], 1<<31); return b }, "behind the last one"},
		"overflow over others":   {func(b []byte) []byte { b[leaf+12] = 2; return b }, "pages for"},
		"overflow less":          {func(b []byte) []byte { b[big+12]--; return b }, "and the page at"},
		"count more":             {func(b []byte) []byte { b[leaf+10]++; return b }, "begins at byte"},
		"count less":             {func(b []byte) []byte { b[leaf+10]--; return b }, "begins at byte"},
		"count huge":             {func(b []byte) []byte { ne.PutUint16(b[leaf+10:], 65535); return b }, "can't hold"},
		"leaf empty":             {func(b []byte) []byte { ne.PutUint16(b[leaf+10:], 0); return b }, "empty, and not the root"},
		"branch empty":           {func(b []byte) []byte { ne.PutUint16(b[branch+10:], 0); return b }, "empty, and not the root"},
		"entry is a bucket":      {func(b []byte) []byte { b[element] = 1; return b }, "is a bucket among entries"},
		"entry flags":            {func(b []byte) []byte { b[element] = 4; return b }, "flags 0x4"},
		"position":               {func(b []byte) []byte { b[element+4]++; return b }, "element 0 begins at byte"},
		"position far":           {func(b []byte) []byte { ne.PutUint32(b[element+4:], 1<<32-1); return b }, "element 0 begins at byte"},
		"key size 0":             {func(b []byte) []byte { ne.PutUint32(b[element+8:], 0); return b }, "has 0 bytes"},
		"key size huge":          {func(b []byte) []byte { ne.PutUint32(b[element+8:], 1<<31); return b }, "the key of element 0 has"},
		"key size more":          {func(b []byte) []byte { b[element+8]++; return b }, "element 1 begins"},
		"value size":             {func(b []byte) []byte { ne.PutUint32(b[element+12:], 1<<32-1); return b }, "ends at byte"},
		"first key":              {func(b []byte) []byte { b[key+2] = 'a'; return b }, "its first key is"},
		"second key below":       {func(b []byte) []byte { k := second + 16 + 16; b[k+int(ne.Uint32(b[k+4:]))] = 'a'; return b }, "stands behind key"},
		"last key above":         {lastKeyAbove(leaf), "stands behind key"},
		"branch key":             {func(b []byte) []byte { b[branch+32+int(ne.Uint32(b[branch+32:]))+5] = 'z'; return b }, "in branch page"},
		"branch key position":    {func(b []byte) []byte { b[branch+32]++; return b }, "element 1 begins at byte"},
		"branch to itself":       {func(b []byte) []byte { ne.PutUint64(b[branch+16+8:], uint64(branch/size)); return b }, "used twice"},
		"branch to its parent":   {func(b []byte) []byte { ne.PutUint64(b[branch+16+8:], uint64(root/size)); return b }, "used twice"},
		"branch to nowhere":      {func(b []byte) []byte { ne.PutUint64(b[branch+16+8:], 1<<50); return b }, "which is not there"},
		"branch to a meta":       {func(b []byte) []byte { ne.PutUint64(b[branch+16+8:], 0); return b }, "which is not there"},
		"branch twice to a leaf": {func(b []byte) []byte { copy(b[branch+32+8:branch+40+8], b[branch+16+8:]); return b }, "used twice"},
		"branch with one child":  {oneChild(branch), "a branch with 1 children"},
		"root below":             {func(b []byte) []byte { ne.PutUint64(b[branch+16+8:], uint64(rootBucket/size)); return b }, "first key is"},
	} {
		t.Run(name, func(t *testing.T) {
			bad := c.damage(bytes.Clone(good))
			if bytes.Equal(bad, good) {
				t.Fatal("nothing was damaged")
			}
			f, err := NewFile("file", bytes.NewReader(bad), int64(len(bad)))
			if err == nil {
				_, err = f.Check(t.Context())
				alike(t, f, nil, Stats{}, err)
			}
			if !errors.Is(err, ErrDamaged) || !errors.Is(err, copier.ErrDestination) || codeOf(err) != Damaged || !strings.Contains(err.Error(), c.says) {
				t.Errorf("got %v, want %q", err, c.says)
			}
		})
	}
}

// lastKeyAbove makes the last key of a leaf larger than the next leaf's first.
func lastKeyAbove(leaf int) func(b []byte) []byte {
	return func(b []byte) []byte {
		e := leaf + 16*int(binary.NativeEndian.Uint16(b[leaf+10:]))
		b[e+int(binary.NativeEndian.Uint32(b[e+4:]))] = 'z'
		return b
	}
}

// oneChild leaves a branch its first child only.
func oneChild(branch int) func(b []byte) []byte {
	return func(b []byte) []byte {
		ne := binary.NativeEndian
		h := branch + 16
		key := bytes.Clone(b[h+int(ne.Uint32(b[h:])):][:ne.Uint32(b[h+4:])])
		ne.PutUint16(b[branch+10:], 1)
		ne.PutUint32(b[h:], 16)
		copy(b[h+16:], key)
		return b
	}
}

// TestEveryBit flips a bit of each byte that a file uses: either a rule is
// broken, or the entries are others. In what it does not use nothing is noticed.
func TestEveryBit(t *testing.T) {
	want := map[string]string{}
	for i := range 40 {
		want[fmt.Sprintf("k%03d%s", i, strings.Repeat("x", i*7%100))] = strings.Repeat("v", i*13%300)
	}
	const size = 1024
	path := written(t, want, boltfile.Options{PageSize: size})
	good, err := os.ReadFile(path)
	check(t, err)
	f := open(t, path)
	used := make([]bool, len(good))
	mark := func(from, n int) {
		for i := range n {
			used[from+i] = true
		}
	}
	mark(0, 80)
	mark(size, 80)
	for at := 2 * size; at < int(f.meta.highWater)*size; {
		p := f.header(good[at:])
		n, err := f.measure(&p, good[at:], int64(1+p.overflow)*size)
		check(t, err)
		mark(at, int(n))
		at += int(1+p.overflow) * size
	}
	noticed, silent := 0, 0
	bad := bytes.Clone(good)
	for i := range good {
		bad[i] ^= 1 << (i % 8)
		f, err := NewFile("file", bytes.NewReader(bad), int64(len(bad)))
		var got map[string]string
		if err == nil {
			got, _, err = read(f)
		}
		var raft State
		if err == nil {
			raft, err = f.State()
		}
		if err != nil && !errors.Is(err, ErrDamaged) && !errors.Is(err, ErrNoBucket) {
			t.Errorf("byte %d: %v", i, err)
		}
		switch same := err == nil && maps.Equal(got, want) && raft.Index == 2 && raft.Term == 1; {
		case same && used[i]:
			t.Errorf("byte %d is used, and a flipped bit was not noticed", i)
		case !same && !used[i]:
			t.Errorf("byte %d is not used, and was noticed: %v", i, err)
		case same:
			silent++
		default:
			noticed++
		}
		bad[i] = good[i]
	}
	if noticed < 5000 || silent == 0 {
		t.Errorf("%d noticed, %d silent: the test proves nothing", noticed, silent)
	}
}

// TestFreelist damages a list of free pages.
func TestFreelist(t *testing.T) {
	path, _ := lived(t, 3, 4096, 30, false)
	good, err := os.ReadFile(path)
	check(t, err)
	f, err := NewFile("file", bytes.NewReader(good), int64(len(good)))
	check(t, err)
	if stats, err := f.Check(t.Context()); err != nil || stats.FreePages < 3 {
		t.Fatalf("%+v, %v", stats, err)
	}
	ne := binary.NativeEndian
	at := int(f.meta.freelist) * 4096
	for says, damage := range map[string]func(b []byte){
		"neither used nor listed": func(b []byte) { b[at+10]-- },
		"can't list":              func(b []byte) { ne.PutUint16(b[at+10:], 65534) },
		"can't list 1844":         func(b []byte) { ne.PutUint16(b[at+10:], 65535); ne.PutUint64(b[at+16:], 1<<64-1) },
		"listed twice":            func(b []byte) { copy(b[at+16:at+24], b[at+24:]) },
		"it lists page":           func(b []byte) { ne.PutUint64(b[at+16:], f.buckets[DataBucket].root) },
		"it lists page 0":         func(b []byte) { ne.PutUint64(b[at+16:], 0) },
		"it is no list":           func(b []byte) { b[at+8] = 2 },
		"behind the last":         func(b []byte) { ne.PutUint32(b[at+12:], 1<<31) },
	} {
		bad := bytes.Clone(good)
		damage(bad)
		f, err := NewFile("file", bytes.NewReader(bad), int64(len(bad)))
		check(t, err)
		if _, err := f.Check(t.Context()); !errors.Is(err, ErrDamaged) || !strings.Contains(err.Error(), says) {
			t.Errorf("%s: %v", says, err)
		}
		if _, err := f.Entries(t.Context()).Next(); err != nil {
			t.Errorf("%s: the entries can be read all the same: %v", says, err)
		}
	}
}

// TestStaleMeta reads a file whose last transaction did not get as far as its
// meta page, as a crash leaves it: it is the state before.
func TestStaleMeta(t *testing.T) {
	path, want := lived(t, 1, 4096, 20, true)
	content, err := os.ReadFile(path)
	check(t, err)
	f, err := NewFile("file", bytes.NewReader(content), int64(len(content)))
	check(t, err)
	old := int(f.meta.txid+1) % 2 * 4096
	clear(content[old : old+100])
	f, err = NewFile("file", bytes.NewReader(content), int64(len(content)))
	check(t, err)
	e, got := f.Entries(t.Context()), 0
	for ; err == nil; got++ {
		_, err = e.Next()
	}
	if err != io.EOF || got-1 != len(want) {
		t.Errorf("%d entries, %v", got-1, err)
	}
	if _, err := f.Check(t.Context()); !errors.Is(err, ErrDamaged) {
		t.Errorf("Check: %v", err)
	}
}

// failing fails as a broken disk does.
type failing struct {
	io.ReaderAt
	from int64
}

var errIO = errors.New("input/output error")

func (r failing) ReadAt(b []byte, at int64) (int, error) {
	if at+int64(len(b)) > r.from {
		return 0, errIO
	}
	return r.ReaderAt.ReadAt(b, at)
}

func TestBrokenDisk(t *testing.T) {
	b, err := os.ReadFile(written(t, some(1000), boltfile.Options{}))
	check(t, err)
	f, err := NewFile("file", bytes.NewReader(b), int64(len(b)))
	check(t, err)
	f.r = failing{bytes.NewReader(b), int64(len(b) / 2)}
	if _, err := f.Check(t.Context()); !errors.Is(err, errIO) || errors.Is(err, ErrDamaged) || !errors.Is(err, copier.ErrDestination) {
		t.Errorf("got %v", err)
	}
	if _, err := NewFile("file", failing{bytes.NewReader(b), 0}, int64(len(b))); !errors.Is(err, errIO) {
		t.Errorf("got %v", err)
	}
	// It is cut while it is read.
	f.r = bytes.NewReader(b[:len(b)/2])
	if _, err := f.Check(t.Context()); !errors.Is(err, ErrDamaged) {
		t.Errorf("got %v", err)
	}
}

// TestMemory reads a page that claims to be huge in a file that is.
func TestMemory(t *testing.T) {
	path := written(t, some(300), boltfile.Options{PageSize: 4096})
	b, err := os.ReadFile(path)
	check(t, err)
	ne := binary.NativeEndian
	const pages = 1 << 18
	for _, at := range []int{16, 4096 + 16} {
		ne.PutUint64(b[at+40:], pages)
		reseal(b, at)
	}
	leaf := 3 * 4096
	ne.PutUint32(b[leaf+12:], pages-100)
	f, err := NewFile("file", sparse{b}, pages*4096)
	check(t, err)
	e := f.Entries(t.Context())
	for err == nil {
		_, err = e.Next()
	}
	if !errors.Is(err, ErrDamaged) || cap(e.window.buf) > 4<<20 {
		t.Errorf("%v, with %d bytes of memory", err, cap(e.window.buf))
	}

	// A value that is as large as its page claims to be.
	root := len(b)
	huge := append(bytes.Clone(b), make([]byte, 4096)...)
	element := int(f.meta.root)*4096 + 16 + 16 // of the bucket "data", behind "config"
	ne.PutUint64(huge[element+int(ne.Uint32(huge[element+4:]))+len(DataBucket):], uint64(root/4096))
	const overflow = 150_000 // pages, 586 MiB
	ne.PutUint64(huge[root:], uint64(root/4096))
	ne.PutUint16(huge[root+8:], leafFlag)
	ne.PutUint16(huge[root+10:], 1)
	ne.PutUint32(huge[root+12:], overflow)
	ne.PutUint32(huge[root+16+4:], 16)
	ne.PutUint32(huge[root+16+8:], 1)
	ne.PutUint32(huge[root+16+12:], overflow*4096)
	huge[root+32] = 'k'
	f, err = NewFile("file", sparse{huge}, pages*4096)
	check(t, err)
	e = f.Entries(t.Context())
	for err == nil {
		_, err = e.Next()
	}
	if !errors.Is(err, ErrDamaged) || !strings.Contains(err.Error(), "and no page of a Vault's has more than") || cap(e.window.buf) > 4<<20 {
		t.Errorf("%v, with %d bytes of memory", err, cap(e.window.buf))
	}

	// A branch with as many children as its count can say.
	const children = 0xFFFF
	big := append(bytes.Clone(b), make([]byte, 2<<20)...)
	ne.PutUint64(big[element+int(ne.Uint32(big[element+4:]))+len(DataBucket):], uint64(root/4096))
	ne.PutUint64(big[root:], uint64(root/4096))
	ne.PutUint16(big[root+8:], branchFlag)
	ne.PutUint16(big[root+10:], children)
	for i := range children {
		h := big[root+16+16*i:]
		ne.PutUint32(h, uint32(16*(children-i)+2*i))
		ne.PutUint32(h[4:], 2)
		ne.PutUint64(h[8:], uint64(root/4096+1000+i))
		key := big[root+16+16*children+2*i:]
		key[0], key[1] = byte(i>>8), byte(i)
	}
	size := 16 + 18*children
	ne.PutUint32(big[root+12:], uint32((size-1)/4096))
	f, err = NewFile("file", sparse{big}, pages*4096)
	check(t, err)
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	_, _, _, err = readSpans(t, f, 32)
	runtime.ReadMemStats(&after)
	if used := after.TotalAlloc - before.TotalAlloc; !errors.Is(err, ErrDamaged) || !strings.Contains(err.Error(), "it says that it is page 0") || used > 64<<20 {
		t.Errorf("%v, with %d bytes of memory", err, used)
	}
}

// TestNameOfPiece has a piece of a value taken for a part of a key: it is not printed.
func TestNameOfPiece(t *testing.T) {
	// A flipped bit of a key's length, in a file that goes on to be sound up to there.
	path := written(t, map[string]string{"a/b": "\x00top secret value, of which a part is taken for the key", "a/c": "x"}, boltfile.Options{PageSize: 4096})
	b, err := os.ReadFile(path)
	check(t, err)
	at := bytes.Index(b, []byte("a/b\x00top")) - 2*16
	ne := binary.NativeEndian
	key, value := ne.Uint32(b[at+8:]), ne.Uint32(b[at+12:])
	ne.PutUint32(b[at+8:], key+32)
	ne.PutUint32(b[at+12:], value-32)
	ne.PutUint32(b[at+16:], 7) // flags of the next one, for an error that names the key
	b[at] = 5
	f, err := NewFile("file", bytes.NewReader(b), int64(len(b)))
	check(t, err)
	_, err = f.Entries(t.Context()).Next()
	if !errors.Is(err, ErrDamaged) || strings.Contains(err.Error(), "secret") || !strings.Contains(err.Error(), `"a/b"… (35 bytes, sha256 `) {
		t.Errorf("%v", err)
	}
}

// A sparse file ends with zeros.
type sparse struct{ b []byte }

func (s sparse) ReadAt(b []byte, at int64) (int, error) {
	clear(b)
	if at < int64(len(s.b)) {
		copy(b, s.b[at:])
	}
	return len(b), nil
}

// bounded fails a test that reads outside of the file.
type bounded struct {
	t testing.TB
	b []byte
}

func (r bounded) ReadAt(b []byte, at int64) (int, error) {
	if at < 0 || at > int64(len(r.b)) {
		r.t.Errorf("%d bytes at %d are read of a file of %d", len(b), at, len(r.b)) // from any goroutine
		return 0, io.EOF
	}
	n := copy(b, r.b[at:])
	if n < len(b) {
		return n, io.EOF
	}
	return n, nil
}

// FuzzFile changes bytes of real files, two numbers an edit: whatever comes of
// it is read without a panic and to an end, and where no rule is broken bbolt
// finds every entry by its key.
func FuzzFile(f *testing.F) {
	var files [][]byte
	for _, path := range []string{
		written(f, some(60), boltfile.Options{PageSize: 1024}),
		written(f, some(2), boltfile.Options{PageSize: 4096}),
	} {
		b, err := os.ReadFile(path)
		check(f, err)
		files = append(files, b)
	}
	for seed := range uint64(3) {
		path, _ := lived(f, seed, 1024, 12, seed != 0)
		b, err := os.ReadFile(path)
		check(f, err)
		files = append(files, b)
	}
	f.Add(uint8(0), []byte{0, 0, 20, 1}, true)
	f.Add(uint8(3), []byte{8, 0, 2, 255, 8, 0, 12, 7}, false)
	f.Fuzz(func(t *testing.T, which uint8, edits []byte, seal bool) {
		b := bytes.Clone(files[int(which)%len(files)])
		for len(edits) >= 4 {
			at := int(edits[0])<<16 | int(edits[1])<<8 | int(edits[2])
			b[at%len(b)] ^= edits[3]
			edits = edits[4:]
		}
		if seal {
			reseal(b, 16)
			reseal(b, 1024+16)
		}
		file, err := NewFile("file", bounded{t, b}, int64(len(b)))
		if err != nil {
			return
		}
		_, _ = file.State()
		_, _, _ = file.Ends(t.Context(), DataBucket)
		got, stats, err := read(file)
		alike(t, file, got, stats, err)
		if err != nil {
			if !errors.Is(err, ErrDamaged) && !errors.Is(err, ErrNoBucket) {
				t.Fatal(err)
			}
			return
		}
		path := filepath.Join(t.TempDir(), "vault.db")
		check(t, os.WriteFile(path, b, 0o600))
		db, err := bolt.Open(path, 0o600, &bolt.Options{ReadOnly: true})
		check(t, err)
		defer db.Close()
		check(t, db.View(func(tx *bolt.Tx) error {
			for k, v := range got {
				if found := tx.Bucket([]byte(DataBucket)).Get([]byte(k)); string(found) != v {
					return fmt.Errorf("key %.100q is read in order and not found", k)
				}
			}
			for err := range tx.Check() {
				return err
			}
			return nil
		}))
	})
}

func BenchmarkEntries(b *testing.B) {
	for _, c := range []struct{ n, size int }{{300_000, 750}, {1_500_000, 60}, {300, 400_000}} {
		b.Run(fmt.Sprintf("%d-byte values", c.size), func(b *testing.B) {
			path := filepath.Join(b.TempDir(), "vault.db")
			out, err := os.Create(path)
			check(b, err)
			w, err := boltfile.NewWriter(out, boltfile.Options{})
			check(b, err)
			check(b, w.Bucket([]byte(DataBucket)))
			value := bytes.Repeat([]byte("v"), c.size)
			for i := range c.n {
				check(b, w.Put(fmt.Appendf(nil, "logical/8a1d7a30-c7f0-4f2c/%08d", i), value))
			}
			stats, err := w.Finish()
			check(b, err)
			check(b, out.Close())
			f := open(b, path)
			b.SetBytes(stats.Bytes)
			b.ResetTimer()
			for b.Loop() {
				e, n := f.Entries(b.Context()), 0
				var err error
				for ; err == nil; n++ {
					_, err = e.Next()
				}
				if err != io.EOF || n-1 != c.n {
					b.Fatal(n, err)
				}
			}
		})
	}
}

func codeOf(err error) copier.Code {
	code, _ := copier.CodeOf(err)
	return code
}
