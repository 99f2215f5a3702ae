package boltfile

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// A memFile is a file in memory.
type memFile struct {
	b     []byte
	syncs int
}

func (f *memFile) WriteAt(b []byte, off int64) (int, error) {
	if need := int(off) + len(b); need > len(f.b) {
		f.b = append(f.b, make([]byte, need-len(f.b))...)
	}
	return copy(f.b[off:], b), nil
}

func (f *memFile) Sync() error                { f.syncs++; return nil }
func (f *memFile) Stat() (os.FileInfo, error) { return memInfo{f}, nil }

type memInfo struct{ f *memFile }

func (i memInfo) Name() string       { return "mem" }
func (i memInfo) Size() int64        { return int64(len(i.f.b)) }
func (i memInfo) Mode() fs.FileMode  { return 0o600 }
func (i memInfo) ModTime() time.Time { return time.Time{} }
func (i memInfo) IsDir() bool        { return false }
func (i memInfo) Sys() any           { return nil }

// write writes the buckets to f.
func write(t testing.TB, f File, opts Options, buckets ...bucketOf) Stats {
	t.Helper()
	w, err := NewWriter(f, opts)
	must(t, err)
	for _, b := range buckets {
		must(t, w.Bucket([]byte(b.name)))
		for _, e := range b.entries {
			must(t, w.Put(e.key, e.value))
		}
	}
	stats, err := w.Finish()
	must(t, err)
	return stats
}

// compare fails the test unless got and want hold the same.
func compare(t testing.TB, got, want []bucketOf) {
	t.Helper()
	if len(got) != len(want) {
		t.Fatalf("%d buckets, want %d", len(got), len(want))
	}
	for i, w := range want {
		g := got[i]
		if g.name != w.name || len(g.entries) != len(w.entries) {
			t.Fatalf("bucket %q with %d entries, want %q with %d", g.name, len(g.entries), w.name, len(w.entries))
		}
		for j, e := range w.entries {
			if !bytes.Equal(g.entries[j].key, e.key) || !bytes.Equal(g.entries[j].value, e.value) {
				t.Fatalf("bucket %q entry %d: %.80q = %d bytes, want %.80q = %d bytes", w.name, j,
					g.entries[j].key, len(g.entries[j].value), e.key, len(e.value))
			}
		}
	}
}

// writeMem writes the buckets to memory, checks what was written and that it
// is what the Stats say, and returns both.
func writeMem(t testing.TB, opts Options, buckets ...bucketOf) ([]byte, Stats) {
	t.Helper()
	f := new(memFile)
	stats := write(t, f, opts, buckets...)
	got, err := checkFile(f.b)
	must(t, err)
	compare(t, got, buckets)
	if f.syncs != 2 {
		t.Fatalf("%d syncs, want one of the data and one of the metas", f.syncs)
	}
	if stats.Bytes != int64(len(f.b)) || stats.Buckets != len(buckets) {
		t.Fatalf("stats %+v of a file of %d bytes with %d buckets", stats, len(f.b), len(buckets))
	}
	if pages := 2 + stats.LeafPages + stats.BranchPages + stats.OverflowPages; pages*int64(opts.PageSize) != stats.Bytes && stats.Bytes != 4096 {
		t.Fatalf("stats %+v: %d pages", stats, pages)
	}
	return f.b, stats
}

// openBolt opens a file as Vault does, but without syncing, for speed.
func openBolt(t testing.TB, path string) *bbolt.DB {
	t.Helper()
	db, err := bbolt.Open(path, 0o600, &bbolt.Options{
		Timeout:        10 * time.Second,
		NoFreelistSync: true,
		FreelistType:   bbolt.FreelistMapType,
		NoSync:         true,
		NoGrowSync:     true,
	})
	must(t, err)
	return db
}

// checkBolt runs bbolt's Check and fails the test unless db holds the same as
// want.
func checkBolt(t testing.TB, db *bbolt.DB, want ...bucketOf) {
	t.Helper()
	must(t, db.View(func(tx *bbolt.Tx) error {
		for err := range tx.Check() {
			t.Errorf("bbolt's check: %v", err)
		}
		var got []bucketOf
		err := tx.ForEach(func(name []byte, b *bbolt.Bucket) error {
			g := bucketOf{name: string(name)}
			err := b.ForEach(func(k, v []byte) error {
				if v == nil {
					return fmt.Errorf("key %q is a bucket", k)
				}
				if !bytes.Equal(b.Get(k), v) {
					return fmt.Errorf("key %.80q is not found", k)
				}
				g.entries = append(g.entries, pair{k, v})
				return nil
			})
			got = append(got, g)
			return err
		})
		if err == nil {
			compare(t, got, want)
		}
		return err
	}))
	if t.Failed() {
		t.FailNow()
	}
}

// numbered returns n entries with keys of the given size (at least 8) and
// values of the given size.
func numbered(n, keySize, valueSize int) []pair {
	out := make([]pair, n)
	for i := range out {
		k := append(bytes.Repeat([]byte("k"), keySize-8), fmt.Sprintf("%08d", i)...)
		out[i] = pair{k, bytes.Repeat([]byte{byte(i)}, valueSize)}
	}
	return out
}

func TestEmpty(t *testing.T) {
	for _, size := range []int{1024, 4096, 65536} {
		for _, buckets := range [][]bucketOf{
			nil,
			{{name: "data"}},
			{{name: "config"}, {name: "data"}},
			{{name: "config", entries: numbered(1, 8, 0)}, {name: "data"}},
		} {
			b, stats := writeMem(t, Options{PageSize: size}, buckets...)
			if stats.BranchPages != 0 || stats.LeafPages != int64(1+len(buckets)) {
				t.Errorf("stats %+v", stats)
			}
			db := openBolt(t, store(t, b))
			if got := db.Info().PageSize; got != size {
				t.Errorf("bbolt uses pages of %d bytes, want %d", got, size)
			}
			checkBolt(t, db, buckets...)
			for _, b := range buckets {
				live(t, db, b.name, sortedMap(b.entries), rand.New(rand.NewPCG(1, 2)), false)
			}
			must(t, db.Close())
		}
	}
}

// store puts b into a file of its own.
func store(t testing.TB, b []byte) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "vault.db")
	must(t, os.WriteFile(path, b, 0o600))
	return path
}

// TestEveryCount writes every number of entries from 0 up to a tree of several
// levels, so that none of their boundaries is missed.
func TestEveryCount(t *testing.T) {
	for _, tc := range []struct {
		name             string
		keySize, valSize int
		upTo             int
	}{
		// 3 leaf elements and 3 branch elements a page.
		{"deep", 270, 20, 250},
		// Two keys are more than a page: all branches overflow.
		{"overflowing branches", 600, 0, 130},
		{"overflowing leaves", 40, 1500, 150},
		{"wide", 8, 0, 1800},
	} {
		t.Run(tc.name, func(t *testing.T) {
			all := numbered(tc.upTo, tc.keySize, tc.valSize)
			step := 1
			if tc.upTo > 1000 {
				step = 11
			}
			var depth int
			for n := 0; n <= tc.upTo; n += step {
				_, stats := writeMem(t, Options{PageSize: 1024, Fill: 1}, bucketOf{"data", all[:n]})
				if stats.Entries != int64(n) || stats.Depth < depth {
					t.Fatalf("%d entries: stats %+v", n, stats)
				}
				depth = stats.Depth
			}
			if depth < 3 {
				t.Errorf("a tree of %d levels proves too little", depth)
			}
		})
	}
}

// TestBoundaries lives on, through bbolt, with files of every number of
// entries near which a tree gets another leaf, branch page or level.
func TestBoundaries(t *testing.T) {
	for _, tc := range []struct {
		name             string
		pageSize         int
		keySize, valSize int
		fill             float64
		upTo             int
	}{
		{"deep", 1024, 270, 20, 1, 100},
		{"overflowing branches", 1024, 600, 0, 1, 34},
		{"overflowing leaves", 1024, 12, 1500, 0.9, 90},
		{"4k", 4096, 700, 500, 0.9, 60},
		{"4k half full", 4096, 900, 50, 0.5, 40},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			all := numbered(tc.upTo+3, tc.keySize, tc.valSize)
			opts := Options{PageSize: tc.pageSize, Fill: tc.fill}
			near := make(map[int]bool)
			var before Stats
			for n := 0; n <= tc.upTo; n++ {
				_, stats := writeMem(t, opts, bucketOf{"data", all[:n]})
				if stats.BranchPages != before.BranchPages || stats.Depth != before.Depth ||
					(stats.LeafPages != before.LeafPages && stats.LeafPages <= 4) {
					for m := max(0, n-3); m <= n+2; m++ { // n-1 is the last before
						near[m] = true
					}
				}
				before = stats
			}
			if before.Depth < 3 {
				t.Fatalf("a tree of %d levels proves too little", before.Depth)
			}
			for n := range tc.upTo + 3 {
				if !near[n] {
					continue
				}
				b, _ := writeMem(t, opts, bucketOf{"data", all[:n]})
				for _, inOrder := range []bool{true, false} {
					db := openBolt(t, store(t, b))
					checkBolt(t, db, bucketOf{"data", all[:n]})
					live(t, db, "data", sortedMap(all[:n]), rand.New(rand.NewPCG(uint64(n), 5)), inOrder)
					must(t, db.Close())
				}
			}
		})
	}
}

// TestLimits writes the largest keys bbolt takes, and values of many pages.
func TestLimits(t *testing.T) {
	rnd := rand.New(rand.NewPCG(3, 4))
	var es []pair
	for i, n := range []int{bbolt.MaxKeySize, 1, bbolt.MaxKeySize, bbolt.MaxKeySize - 1, 2, 2048 + 1 + 1024, 2048 + 1 + 1024, 3, 4096, bbolt.MaxKeySize} {
		for j, v := range []int{0, 1, 4096 - 33 - n, 4096 - 32 - n, 4097 - 32 - n, 40_000, 400 << 10 / (i + 1), 5000, 0} {
			k := bytes.Repeat([]byte{byte('a' + i)}, n)
			if n < 2 && j > 0 {
				continue
			}
			k[n-1] = byte(j + 1)
			if n > 1 {
				k[n-2] = byte('A' + i)
			}
			es = append(es, pair{k, bytes.Repeat([]byte{byte(j)}, max(v, 0))})
		}
	}
	es = append(es, pair{[]byte("three megabytes"), make([]byte, 3<<20+17)})
	m := make(map[string][]byte)
	for _, e := range es {
		m[string(e.key)] = e.value
	}
	want := bucketOf{"data", fromMap(m)}
	for _, size := range []int{1024, 4096, 65536} {
		for _, fill := range []float64{0.001, 0.9, 1} {
			b, _ := writeMem(t, Options{PageSize: size, Fill: fill}, want)
			db := openBolt(t, store(t, b))
			checkBolt(t, db, want)
			if fill == 0.9 {
				live(t, db, "data", maps(m), rnd, size == 4096)
			}
			must(t, db.Close())
		}
	}
}

// TestManyBuckets has more buckets than a page of the root bucket holds.
func TestManyBuckets(t *testing.T) {
	var buckets []bucketOf
	for i := range 300 {
		buckets = append(buckets, bucketOf{fmt.Sprintf("bucket-%05d", i), numbered(i%5, 8, 300)})
	}
	b, stats := writeMem(t, Options{PageSize: 1024}, buckets...)
	if stats.BranchPages == 0 {
		t.Error("the root bucket is one page")
	}
	db := openBolt(t, store(t, b))
	checkBolt(t, db, buckets...)
	must(t, db.Close())
}

// TestDefaults uses a real file and what zero Options mean.
func TestDefaults(t *testing.T) {
	path := filepath.Join(t.TempDir(), "vault.db")
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	must(t, err)
	buckets := []bucketOf{{"config", numbered(2, 20, 20)}, {"data", numbered(5000, 40, 800)}}
	stats := write(t, f, Options{}, buckets...)
	must(t, f.Close())
	b, err := os.ReadFile(path)
	must(t, err)
	got, err := checkFile(b)
	must(t, err)
	compare(t, got, buckets)
	if int64(len(b)) != stats.Bytes {
		t.Errorf("%d bytes, stats say %d", len(b), stats.Bytes)
	}
	db := openBolt(t, path)
	defer db.Close()
	if got, want := db.Info().PageSize, os.Getpagesize(); got != want {
		t.Errorf("pages of %d bytes, want %d", got, want)
	}
	checkBolt(t, db, buckets...)

	f, err = os.OpenFile(path, os.O_WRONLY, 0o600)
	must(t, err)
	defer f.Close()
	if _, err := NewWriter(f, Options{}); !errors.Is(err, ErrNotEmpty) {
		t.Errorf("a file that is not empty: error %v", err)
	}
}

// TestFill shows that entries take the pages that the fill asks for, within
// what packing them in order into such pages takes at best.
func TestFill(t *testing.T) {
	rnd := rand.New(rand.NewPCG(9, 9))
	for _, fill := range []float64{0.5, 0.7, 0.9, 1} {
		m := make(map[string][]byte)
		var used int
		for range 8_000 {
			k := fmt.Sprintf("logical/%x/%x", rnd.Uint64(), rnd.Uint64())
			m[k] = make([]byte, 30+rnd.IntN(300))
			used += elemSize + len(k) + len(m[k])
		}
		_, stats := writeMem(t, Options{PageSize: 4096, Fill: fill}, bucketOf{"data", fromMap(m)})
		got := float64(used) / float64(stats.Bytes)
		// What a page lacks is its header and half an entry on average: 0.04;
		// branch pages take another 0.02.
		if got > fill || got < fill-0.07 {
			t.Errorf("fill %v: %.3f of the file is used", fill, got)
		}
	}
	// Entries of one and a quarter pages share leaves instead of wasting most of a
	// page each.
	es := numbered(1000, 100, 4884)
	_, stats := writeMem(t, Options{PageSize: 4096, Fill: 1}, bucketOf{"data", es})
	if got := float64(1000*5000) / float64(stats.Bytes); got < 0.9 {
		t.Errorf("entries of 5000 bytes use %.3f of the file", got)
	}
	// But not more of them than one change may have to write again.
	if stats.OverflowPages > (maxSharedPages-1)*stats.LeafPages {
		t.Errorf("leaves of more than %d pages: %+v", maxSharedPages, stats)
	}
}

func TestRefusals(t *testing.T) {
	for _, opts := range []Options{
		{PageSize: 512}, {PageSize: 1 << 17}, {PageSize: 4097}, {PageSize: -4096},
		{Fill: -0.1}, {Fill: 1.01}, {Fill: nan()},
	} {
		if _, err := NewWriter(new(memFile), opts); !errors.Is(err, ErrOptions) {
			t.Errorf("%+v: error %v", opts, err)
		}
	}
	null, err := os.OpenFile(os.DevNull, os.O_WRONLY, 0)
	must(t, err)
	defer null.Close()
	if _, err := NewWriter(null, Options{}); !errors.Is(err, ErrNotEmpty) {
		t.Errorf("a device: error %v", err)
	}
	closed, err := os.Create(filepath.Join(t.TempDir(), "closed"))
	must(t, err)
	must(t, closed.Close())
	if _, err := NewWriter(closed, Options{}); !errors.Is(err, fs.ErrClosed) {
		t.Errorf("a closed file: error %v", err)
	}
	if _, err := NewWriter(&memFile{b: []byte{0}}, Options{}); !errors.Is(err, ErrNotEmpty) {
		t.Errorf("a file of one byte: error %v", err)
	}

	// A value that is larger than bbolt takes, of memory that nobody touches.
	huge, err := syscall.Mmap(-1, 0, bbolt.MaxValueSize+1, syscall.PROT_NONE, syscall.MAP_ANON|syscall.MAP_PRIVATE)
	must(t, err)
	defer func() { must(t, syscall.Munmap(huge)) }()

	put := func(keys ...string) func(*Writer) error {
		return func(w *Writer) error {
			for i, k := range keys {
				if err := w.Put([]byte(k), nil); err != nil {
					if i < len(keys)-1 {
						t.Errorf("key %d: %v", i, err)
					}
					return err
				}
			}
			return nil
		}
	}
	bucket := func(name string) func(*Writer) error {
		return func(w *Writer) error { return w.Bucket([]byte(name)) }
	}
	large := string(make([]byte, bbolt.MaxKeySize+1))
	for _, tc := range []struct {
		name string
		do   func(*Writer) error
		want error
	}{
		{"same key", put("a", "b", "b"), ErrTwice},
		{"smaller key", put("b", "ba", "b"), ErrOrder},
		{"empty key", put("a", ""), bolterrors.ErrKeyRequired},
		{"large key", put("a", large), bolterrors.ErrKeyTooLarge},
		{"large value", func(w *Writer) error { return w.Put([]byte("a"), huge) }, bolterrors.ErrValueTooLarge},
		{"same bucket", bucket("m"), ErrOrder},
		{"smaller bucket", bucket("l"), ErrOrder},
		{"empty bucket name", bucket(""), bolterrors.ErrBucketNameRequired},
		{"large bucket name", bucket("n" + large), bolterrors.ErrKeyTooLarge},
	} {
		t.Run(tc.name, func(t *testing.T) {
			f := new(memFile)
			w, err := NewWriter(f, Options{})
			must(t, err)
			must(t, w.Bucket([]byte("m")))
			if err := tc.do(w); !errors.Is(err, tc.want) {
				t.Fatalf("error %v, want %v", err, tc.want)
			}
			// There is no way on to a file that lacks the entry.
			for i, err := range allMethods(w) {
				if !errors.Is(err, tc.want) {
					t.Errorf("call %d afterwards: error %v", i, err)
				}
			}
			if _, err := checkFile(f.b); err == nil {
				t.Error("the file is a database")
			}
		})
	}
	w, err := NewWriter(new(memFile), Options{})
	must(t, err)
	if err := w.Put([]byte("a"), nil); !errors.Is(err, ErrNoBucket) {
		t.Errorf("no bucket: error %v", err)
	}
	w, err = NewWriter(new(memFile), Options{})
	must(t, err)
	// Keys start anew in each bucket.
	must(t, w.Bucket([]byte("a")))
	must(t, w.Put([]byte("z"), nil))
	must(t, w.Bucket([]byte("b")))
	must(t, w.Put([]byte("a"), nil))
	_, err = w.Finish()
	must(t, err)
	for i, err := range allMethods(w) {
		if !errors.Is(err, ErrFinished) {
			t.Errorf("call %d after Finish: error %v", i, err)
		}
	}
}

func nan() float64 { z := 0.0; return z / z }

func allMethods(w *Writer) []error {
	_, err := w.Finish()
	return []error{err, w.Put([]byte("zzz"), nil), w.Bucket([]byte("zzz"))}
}

// A faultyFile fails the call of the given number, and all behind it unless
// once is set.
type faultyFile struct {
	memFile
	fail    int // counts down
	once    bool
	partial bool  // half of what is written by the failing call arrives
	err     error // nil: a short write
}

func (f *faultyFile) fails() bool {
	f.fail--
	return f.fail == -1 || f.fail < 0 && !f.once
}

func (f *faultyFile) WriteAt(b []byte, off int64) (int, error) {
	if !f.fails() {
		return f.memFile.WriteAt(b, off)
	}
	n := 0
	if f.partial {
		n, _ = f.memFile.WriteAt(b[:len(b)/2], off)
	}
	return n, f.err
}

func (f *faultyFile) Sync() error {
	if f.fails() && f.err != nil {
		return f.err
	}
	return f.memFile.Sync()
}

// TestFailingFile fails each write and each sync in turn.
func TestFailingFile(t *testing.T) {
	want := bucketOf{"data", append(numbered(700, 20, 1500), pair{[]byte("l"), make([]byte, 1<<20)})}
	boom := errors.New("boom")
	// try writes to f, and returns what Finish says.
	try := func(f *faultyFile) error {
		w, err := NewWriter(f, Options{PageSize: 4096})
		must(t, err)
		err = w.Bucket([]byte(want.name))
		for _, e := range want.entries {
			if err == nil {
				err = w.Put(e.key, e.value)
			}
		}
		_, ferr := w.Finish()
		if err != nil && ferr != err {
			t.Fatalf("error %v, and Finish says %v", err, ferr)
		}
		return ferr
	}
	sound := &faultyFile{fail: 1 << 30}
	must(t, try(sound))
	calls := 1<<30 - sound.fail
	if calls < 6 { // at least 2 MB of data, the metas, and two syncs
		t.Fatalf("only %d calls", calls)
	}
	for _, tc := range []struct {
		name          string
		once, partial bool
		err, want     error
	}{
		{"for good", false, false, boom, boom},
		{"once", true, false, boom, boom},
		{"once and partly", true, true, boom, boom},
		{"for good and partly", false, true, boom, boom},
		{"short write", true, true, nil, io.ErrShortWrite},
	} {
		t.Run(tc.name, func(t *testing.T) {
			for call := range calls {
				// The last calls sync the data, write the metas and sync those.
				metaSync := call == calls-1
				if tc.err == nil && (metaSync || call == calls-3) {
					continue // a sync can't be short
				}
				f := &faultyFile{fail: call, once: tc.once, partial: tc.partial, err: tc.err}
				if err := try(f); !errors.Is(err, tc.want) {
					t.Fatalf("call %d: error %v, want %v", call, err, tc.want)
				}
				db, err := bbolt.Open(store(t, padded(f.b)), 0o600, &bbolt.Options{ReadOnly: true, Timeout: time.Second})
				if err == nil {
					must(t, db.Close())
				} else if !errors.Is(err, bolterrors.ErrInvalid) {
					t.Errorf("call %d: bbolt says %v", call, err)
				}
				// A disk that took the meta pages and then nothing more, not even
				// their removal, can't be helped; all the data is there by then.
				beyondHelp := !tc.once && metaSync
				if opens := err == nil; opens != beyondHelp {
					t.Errorf("call %d of %d failed; bbolt opens the file: %t, want %t", call, calls, opens, beyondHelp)
				} else if opens && !bytes.Equal(f.b[2*4096:], sound.b[2*4096:]) {
					t.Errorf("call %d of %d failed; bbolt opens the file, which is not complete", call, calls)
				}
			}
		})
	}
}

// A syncedFile is one whose syncs do what a test says, and whose bytes nobody needs.
type syncedFile struct {
	nullFile
	sync  func() error
	pause time.Duration // that a write takes

	mu      sync.Mutex
	written int64
}

func (f *syncedFile) WriteAt(b []byte, off int64) (int, error) {
	time.Sleep(f.pause)
	f.mu.Lock()
	defer f.mu.Unlock()
	f.written = max(f.written, off+int64(len(b)))
	return len(b), nil
}

func (f *syncedFile) reached() int64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.written
}

func (f *syncedFile) Sync() error { return f.sync() }

// putMB puts n entries of a megabyte.
func putMB(w *Writer, n int) error {
	err := w.Bucket([]byte("data"))
	value := make([]byte, 1<<20)
	for i := 0; i < n && err == nil; i++ {
		err = w.Put(fmt.Appendf(nil, "%06d", i), value)
	}
	return err
}

// Writes go on beside a sync, one sync is under way at a time, and the one that
// counts comes when all is written.
func TestSyncBeside(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &syncedFile{pause: 100 * time.Microsecond} // so that a sync runs when it is begun
		var underWay, syncs atomic.Int32
		var last int64
		beside := false
		f.sync = func() error {
			if underWay.Add(1) != 1 {
				t.Error("two syncs at a time")
			}
			defer underWay.Add(-1)
			last = f.reached()
			syncs.Add(1)
			// One that is run late may be waited for already.
			for begun := time.Now(); !beside && time.Since(begun) < 200*time.Millisecond; time.Sleep(time.Millisecond) {
				beside = f.reached() >= last+4<<20
			}
			return nil
		}
		w, err := NewWriter(f, Options{})
		must(t, err)
		must(t, putMB(w, 100))
		before := syncs.Load()
		stats, err := w.Finish()
		must(t, err)
		if !beside {
			t.Error("nothing was written beside a sync")
		}
		if before < 1 || before > 100>>4 {
			t.Errorf("%d syncs beside the writes of 100 MB", before)
		}
		if n := syncs.Load(); n < before+2 || last != stats.Bytes {
			t.Errorf("%d syncs in the end, the last with %d bytes of %d written", n-before, last, stats.Bytes)
		}
	})
}

// The system tells of a failed write to disk once, to whoever syncs next. That
// may be a sync that nobody waits for, so it must count.
func TestSyncBesideFails(t *testing.T) {
	boom := errors.New("boom")
	for fail := range 4 {
		f := new(syncedFile)
		n := 0
		f.sync = func() error {
			n++
			if n == fail+1 {
				return boom
			}
			return nil
		}
		w, err := NewWriter(f, Options{})
		must(t, err)
		perr := putMB(w, 100)
		if _, err := w.Finish(); !errors.Is(err, boom) || perr != nil && err != perr {
			t.Errorf("sync %d of %d failed: Put says %v, Finish %v", fail, n, perr, err)
		}
	}
}

// However slow the disk, what has yet to be synced is bounded: the end of a program
// waits for it.
func TestSyncBesideIsWaitedFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := new(syncedFile)
		stopped := int64(0) // where the writer was when it wrote no more beside the first sync
		f.sync = func() error {
			for since := time.Now(); time.Since(since) < 300*time.Millisecond; time.Sleep(time.Millisecond) {
				if now := f.reached(); now != stopped {
					stopped, since = now, time.Now()
				}
			}
			f.sync = func() error { return nil }
			return nil
		}
		w, err := NewWriter(f, Options{})
		must(t, err)
		must(t, putMB(w, 400))
		_, err = w.Finish()
		must(t, err)
		// The sync was begun with syncSize written, whenever it came to run.
		if stopped > syncSize+syncMost+2*bufferSize || stopped < syncSize {
			t.Errorf("beside the first sync the file came to have %d MB", stopped>>20)
		}
	})
}

// Behind Stop nothing is done to the file any more: its owner may close it.
func TestStopWaitsForSync(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := new(syncedFile)
		begun, ended := make(chan bool, 8), atomic.Bool{}
		f.sync = func() error {
			begun <- true
			time.Sleep(20 * time.Millisecond)
			ended.Store(true)
			return nil
		}
		w, err := NewWriter(f, Options{})
		must(t, err)
		must(t, putMB(w, 20))
		<-begun
		w.Stop()
		if !ended.Load() {
			t.Error("a sync is still under way")
		}
	})
}

// padded returns b with at least the few bytes that bbolt looks at: it takes
// an empty file for one that it shall create.
func padded(b []byte) []byte {
	if len(b) < 4*4096 {
		b = append(bytes.Clone(b), make([]byte, 4*4096-len(b))...)
	}
	return b
}
