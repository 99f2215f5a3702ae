package boltfile

import (
	"bytes"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"go.etcd.io/bbolt"

	"github.com/dyn2raft/dyn2raft/copier/processors"
)

// entriesFlag is the size of the benchmarks' files: 1,000,000 entries of 800
// bytes make a file of about 0.9 GB.
var entriesFlag = flag.Int("entries", 100_000, "number of entries of the benchmarks")

// A sorted is a stream of entries like Vault's, made without allocations so
// that it hardly counts.
type sorted struct {
	i, valueSize int
	key, value   []byte
}

func newSorted(valueSize int) *sorted {
	s := &sorted{valueSize: valueSize, key: []byte("logical/0c33b2b8-3b8f-4f0c/00000000/metadata"), value: make([]byte, 2*valueSize)}
	rnd := rand.NewChaCha8([32]byte{})
	_, _ = rnd.Read(s.value)
	return s
}

// hexes are the four hexadecimal digits of each number.
var hexes = func() (out [1 << 16][4]byte) {
	for i := range out {
		copy(out[i][:], fmt.Sprintf("%04x", i))
	}
	return out
}()

// next returns the next entry; values vary around valueSize by a half. With each
// digit by itself, and a division, it took a quarter of what is measured.
func (s *sorted) next() (key, value []byte) {
	const at = 27
	i := uint32(s.i)
	copy(s.key[at:], hexes[i>>16][:])
	copy(s.key[at+4:], hexes[i&0xffff][:])
	n := s.valueSize/2 + int(i*2654435761>>16)*(s.valueSize+1)>>16
	s.i++
	return s.key, s.value[:n]
}

func createFile(b *testing.B, dir string) *os.File {
	f, err := os.OpenFile(filepath.Join(dir, fmt.Sprint(b.N, time.Now().UnixNano())), os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	must(b, err)
	return f
}

func discard(b *testing.B, f *os.File) {
	must(b, f.Close())
	must(b, os.Remove(f.Name()))
}

func writeSorted(b *testing.B, f File, n, valueSize int) Stats {
	w, err := NewWriter(f, Options{})
	must(b, err)
	must(b, w.Bucket([]byte("data")))
	s := newSorted(valueSize)
	for range n {
		if err := w.Put(s.next()); err != nil {
			b.Fatal(err)
		}
	}
	stats, err := w.Finish()
	must(b, err)
	return stats
}

// A nullFile takes everything.
type nullFile struct{ memFile }

func (nullFile) WriteAt(b []byte, _ int64) (int, error) { return len(b), nil }

// writePlain writes size bytes to f in the simplest way.
func writePlain(b *testing.B, f *os.File, size int64) {
	buf := make([]byte, bufferSize)
	_, _ = rand.NewChaCha8([32]byte{}).Read(buf)
	for off := int64(0); off < size; off += bufferSize {
		if _, err := f.WriteAt(buf[:min(bufferSize, size-off)], off); err != nil {
			b.Fatal(err)
		}
	}
	must(b, f.Sync())
}

// writeBolt puts n entries into a new database through bbolt, in their order,
// in batches of about 8 MB and without syncing but at the end.
func writeBolt(b *testing.B, path string, n, valueSize int) {
	db, err := bbolt.Open(path, 0o600, &bbolt.Options{
		NoSync: true, NoFreelistSync: true, FreelistType: bbolt.FreelistMapType, Timeout: time.Second,
	})
	must(b, err)
	s := newSorted(valueSize)
	for done := 0; done < n; {
		must(b, db.Update(func(tx *bbolt.Tx) error {
			bucket, err := tx.CreateBucketIfNotExists([]byte("data"))
			if err != nil {
				return err
			}
			bucket.FillPercent = DefaultFill
			for size := 0; done < n && size < 8<<20; done++ {
				k, v := s.next()
				size += len(k) + len(v)
				if err := bucket.Put(k, bytes.Clone(v)); err != nil {
					return err
				}
			}
			return nil
		}))
	}
	must(b, db.Sync())
	must(b, db.Close())
}

// BenchmarkLoad compares the writer with a plain sequential write and sync of
// as many bytes ("x-plain", the goal is 1.25 at most), and with bbolt's Put in
// sorted order ("bbolt-x", the goal is at least 2). The three take turns, so
// that they share the disturbances of the machine, and the metrics are the
// ratios of medians. Each has its MB/s of the writer's file; "cpu" is the
// writer without a disk.
func BenchmarkLoad(b *testing.B) {
	for _, valueSize := range []int{756, 60} {
		n := *entriesFlag
		if valueSize < 100 {
			n *= 8
		}
		b.Run(fmt.Sprintf("%d-byte entries", valueSize+44), func(b *testing.B) {
			dir := b.TempDir()
			size := writeSorted(b, new(nullFile), n, valueSize).Bytes
			var cpu, plain, ours, bolt []time.Duration
			timed := func(to *[]time.Duration, do func()) {
				start := time.Now()
				do()
				*to = append(*to, time.Since(start))
			}
			for i := range b.N {
				timed(&cpu, func() { writeSorted(b, new(nullFile), n, valueSize) })
				f := createFile(b, dir)
				timed(&plain, func() { writePlain(b, f, size) })
				discard(b, f)
				f = createFile(b, dir)
				timed(&ours, func() { writeSorted(b, f, n, valueSize) })
				discard(b, f)
				if i%4 == 0 {
					path := filepath.Join(dir, "bbolt.db")
					timed(&bolt, func() { writeBolt(b, path, n, valueSize) })
					must(b, os.Remove(path))
				}
			}
			median := func(d []time.Duration) float64 {
				slices.Sort(d)
				return d[len(d)/2].Seconds()
			}
			rate := func(d []time.Duration) float64 { return float64(size) / median(d) / 1e6 }
			b.ReportMetric(0, "ns/op")
			b.ReportMetric(rate(cpu), "cpu-MB/s")
			b.ReportMetric(rate(plain), "plain-MB/s")
			b.ReportMetric(rate(ours), "MB/s")
			b.ReportMetric(rate(bolt), "bbolt-MB/s")
			b.ReportMetric(median(ours)/median(plain), "x-plain")
			b.ReportMetric(median(bolt)/median(ours), "bbolt-x")
		})
	}
}

// BenchmarkWriter is the writer without a disk, for profiles.
func BenchmarkWriter(b *testing.B) {
	for _, valueSize := range []int{756, 60} {
		b.Run(fmt.Sprintf("%d-byte entries", valueSize+44), func(b *testing.B) {
			b.ReportAllocs()
			b.SetBytes(int64(valueSize + 44))
			writeSorted(b, new(nullFile), b.N, valueSize)
		})
	}
}

// BenchmarkFill measures what Vault does next on files of different fills:
// a tenth of the entries is updated at random places (the size changes by up
// to a tenth), then a tenth as many are inserted at random places, through
// bbolt with Vault's options, 64 to a transaction as Vault's log batches are,
// without syncs. It reports the size of the file before and after, what of it
// is in use then, operations a second, and the pages written per operation.
// The package's documentation has its numbers.
func BenchmarkFill(b *testing.B) {
	const batch = 64
	for _, valueSize := range []int{756, 60} {
		n := *entriesFlag
		if valueSize < 100 {
			n *= 4
		}
		for _, fill := range []float64{0.5, 0.6, 0.7, 0.75, 0.8, 0.85, 0.9, 1} {
			b.Run(fmt.Sprintf("%d-byte entries/%v", valueSize+44, fill), func(b *testing.B) {
				for range b.N {
					dir := b.TempDir()
					f := createFile(b, dir)
					w, err := NewWriter(f, Options{Fill: fill})
					must(b, err)
					must(b, w.Bucket([]byte("data")))
					s := newSorted(valueSize)
					for range n {
						// Every other key is left for the inserts.
						k, v := s.next()
						must(b, w.Put(k, v))
						s.i++
					}
					stats, err := w.Finish()
					must(b, err)
					must(b, f.Close())
					db := openBolt(b, f.Name())
					rnd := rand.New(rand.NewPCG(1, 1))
					var pages int64
					size := int64(os.Getpagesize())
					run := func(ops int, op func(*bbolt.Bucket) error) time.Duration {
						start := processors.Time()
						before := db.Stats().TxStats
						for done := 0; done < ops; done += batch {
							must(b, db.Update(func(tx *bbolt.Tx) error {
								bucket := tx.Bucket([]byte("data"))
								for range batch {
									if err := op(bucket); err != nil {
										return err
									}
								}
								return nil
							}))
						}
						after := db.Stats().TxStats
						pages = (after.GetPageAlloc() - before.GetPageAlloc()) / size
						return processors.Time() - start
					}
					fileSize := func() (all, used float64) {
						must(b, db.View(func(tx *bbolt.Tx) error {
							free := int64(db.Stats().FreePageN + db.Stats().PendingPageN)
							all, used = float64(tx.Size())/1e6, float64(tx.Size()-free*size)/1e6
							return nil
						}))
						return all, used
					}
					ops := n / 10
					took := run(ops, func(bucket *bbolt.Bucket) error {
						s.i = 2 * rnd.IntN(n)
						k, v := s.next()
						return bucket.Put(k, s.value[:len(v)*(90+rnd.IntN(21))/100])
					})
					b.ReportMetric(float64(stats.Bytes)/1e6, "MB-new")
					all, _ := fileSize()
					b.ReportMetric(all, "MB-updated")
					b.ReportMetric(float64(took.Microseconds())/float64(ops), "us/update")
					b.ReportMetric(float64(pages)/float64(ops), "pages/update")
					took = run(ops, func(bucket *bbolt.Bucket) error {
						s.i = 2*rnd.IntN(n) + 1
						k, v := s.next()
						return bucket.Put(k, v)
					})
					all, used := fileSize()
					b.ReportMetric(all, "MB-inserted")
					b.ReportMetric(used, "MB-used")
					b.ReportMetric(float64(took.Microseconds())/float64(ops), "us/insert")
					b.ReportMetric(float64(pages)/float64(ops), "pages/insert")
					b.ReportMetric(0, "ns/op")
					must(b, db.Close())
					must(b, os.Remove(f.Name()))
				}
			})
		}
	}
}
