package boltfile

import (
	"bytes"
	"flag"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"go.etcd.io/bbolt"
)

var (
	seedFlag = flag.Uint64("seed", 0, "seed of the random tests; 0 takes one from the clock")
	runsFlag = flag.Int("runs", 10, "number of random files of TestLikeBolt")
)

// newRand returns a source of randomness, and prints its seed for a failure.
func newRand(t testing.TB) *rand.Rand {
	t.Helper()
	seed := *seedFlag
	if seed == 0 {
		seed = uint64(time.Now().UnixNano())
	}
	t.Logf("repeat with -seed %d", seed)
	return rand.New(rand.NewPCG(seed, 1))
}

func sortedMap(es []pair) map[string][]byte {
	m := make(map[string][]byte, len(es))
	for _, e := range es {
		m[string(e.key)] = e.value
	}
	return m
}

func maps(m map[string][]byte) map[string][]byte {
	out := make(map[string][]byte, len(m))
	for k, v := range m {
		out[k] = v
	}
	return out
}

// fromMap returns m's entries in the order of their keys.
func fromMap(m map[string][]byte) []pair {
	out := make([]pair, 0, len(m))
	for k, v := range m {
		out = append(out, pair{[]byte(k), v})
	}
	slices.SortFunc(out, func(a, b pair) int { return bytes.Compare(a.key, b.key) })
	return out
}

// live does to a bucket what a Vault may do in its life: it deletes every key
// of m through bbolt, in random or in key order and in several transactions,
// puts and changes others between, and checks and compares everything on the
// way. It leaves the bucket empty.
func live(t testing.TB, db *bbolt.DB, name string, m map[string][]byte, rnd *rand.Rand, inOrder bool) {
	t.Helper()
	others := func() []bucketOf { // the other buckets stay as they are
		var out []bucketOf
		must(t, db.View(func(tx *bbolt.Tx) error {
			return tx.ForEach(func(n []byte, b *bbolt.Bucket) error {
				o := bucketOf{name: string(n)}
				if o.name != name {
					_ = b.ForEach(func(k, v []byte) error {
						o.entries = append(o.entries, pair{bytes.Clone(k), bytes.Clone(v)})
						return nil
					})
				}
				out = append(out, o)
				return nil
			})
		}))
		return out
	}()
	check := func() {
		t.Helper()
		want := slices.Clone(others)
		for i := range want {
			if want[i].name == name {
				want[i].entries = fromMap(m)
			}
		}
		checkBolt(t, db, want...)
	}
	keys := make([]string, 0, len(m))
	for _, e := range fromMap(m) {
		keys = append(keys, string(e.key))
	}
	if !inOrder {
		rnd.Shuffle(len(keys), func(i, j int) { keys[i], keys[j] = keys[j], keys[i] })
	}
	var added []string
	rounds := 4
	per := (len(keys) + rounds - 1) / rounds
	for round := 0; len(keys) > 0; round++ {
		n := min(per, len(keys))
		must(t, db.Update(func(tx *bbolt.Tx) error {
			b := tx.Bucket([]byte(name))
			for i, k := range keys[:n] {
				if round < rounds-1 && i%4 == 0 { // new and changed ones between
					k := fmt.Sprintf("%.40s/new-%d-%d", k, round, i)
					m[k] = make([]byte, rnd.IntN(900))
					added = append(added, k)
					if err := b.Put([]byte(k), m[k]); err != nil {
						return err
					}
					if rest := keys[n:]; len(rest) > 0 {
						k := rest[rnd.IntN(len(rest))]
						m[k] = make([]byte, rnd.IntN(2*len(m[k])+50))
						if err := b.Put([]byte(k), m[k]); err != nil {
							return err
						}
					}
				}
				if err := b.Delete([]byte(k)); err != nil {
					return err
				}
				delete(m, k)
			}
			return nil
		}))
		keys = keys[n:]
		check()
	}
	must(t, db.Update(func(tx *bbolt.Tx) error {
		for _, k := range added {
			if err := tx.Bucket([]byte(name)).Delete([]byte(k)); err != nil {
				return err
			}
			delete(m, k)
		}
		return nil
	}))
	check()
	if len(m) > 0 {
		t.Fatalf("%d keys left", len(m))
	}
}

// TestLikeBolt compares files with what bbolt itself makes of the same random
// entries, and does the same to both for the rest of their lives.
func TestLikeBolt(t *testing.T) {
	rnd := newRand(t)
	for i := range *runsFlag {
		pageSize := []int{1024, 1024, 4096, 8192}[rnd.IntN(4)]
		fill := 0.3 + 0.7*rnd.Float64()
		n := int(float64(1500) * rnd.Float64() * rnd.Float64())
		m := randomEntries(rnd, n)
		t.Run(fmt.Sprintf("%d/%d entries of pages of %d at %.2f", i, n, pageSize, fill), func(t *testing.T) {
			data := bucketOf{"data", fromMap(m)}
			config := bucketOf{"config", numbered(rnd.IntN(4), 20, 50)}
			b, _ := writeMem(t, Options{PageSize: pageSize, Fill: fill}, config, data)
			ours := openBolt(t, store(t, b))
			defer ours.Close()

			theirs, err := bbolt.Open(filepath.Join(t.TempDir(), "bolt.db"), 0o600, &bbolt.Options{
				PageSize: pageSize, NoSync: true, NoGrowSync: true, NoFreelistSync: true,
				FreelistType: bbolt.FreelistMapType, Timeout: time.Second,
			})
			must(t, err)
			defer theirs.Close()
			must(t, theirs.Update(func(tx *bbolt.Tx) error {
				for _, bucket := range []bucketOf{config, data} {
					b, err := tx.CreateBucket([]byte(bucket.name))
					if err != nil {
						return err
					}
					for k, v := range sortedMap(bucket.entries) {
						if err := b.Put([]byte(k), v); err != nil {
							return err
						}
					}
				}
				return nil
			}))
			checkBolt(t, theirs, config, data)
			checkBolt(t, ours, config, data)

			// The same life for both.
			a, b2 := rnd.Uint64(), rnd.Uint64()
			inOrder := rnd.IntN(2) == 0
			for _, db := range []*bbolt.DB{ours, theirs} {
				live(t, db, "data", maps(m), rand.New(rand.NewPCG(a, b2)), inOrder)
			}
			// And a file that was closed and opened again between.
			path := ours.Path()
			must(t, ours.Close())
			again := openBolt(t, path)
			checkBolt(t, again, config, bucketOf{name: "data"})
			must(t, again.Close())
		})
		if t.Failed() {
			return
		}
	}
}

// randomEntries returns n entries, of one kind or mixed.
func randomEntries(rnd *rand.Rand, n int) map[string][]byte {
	m := make(map[string][]byte, n)
	kind := rnd.IntN(5)
	for len(m) < n {
		var k []byte
		switch {
		case kind == 0: // dense small keys
			k = fmt.Appendf(nil, "%x", rnd.IntN(4*n))
		case kind == 1: // Vault's
			k = fmt.Appendf(nil, "logical/%08x/secret/%x", rnd.IntN(3), rnd.Uint64())
		case kind == 2 || rnd.IntN(20) == 0: // long
			k = fmt.Appendf(bytes.Repeat([]byte("p"), rnd.IntN(3000)), "%x", rnd.Uint32())
		default: // any bytes
			k = make([]byte, 1+rnd.IntN(60))
			for i := range k {
				k[i] = byte(rnd.IntN(256))
			}
		}
		size := rnd.IntN(400)
		switch rnd.IntN(40) {
		case 0:
			size = 0
		case 1:
			size = rnd.IntN(10_000)
		case 2:
			if rnd.IntN(5) == 0 {
				size = rnd.IntN(200_000)
			}
		}
		v := make([]byte, size)
		for i := range v {
			v[i] = byte(rnd.Uint32())
		}
		m[string(k)] = v
	}
	return m
}

// FuzzWriter takes its input for pairs of bytes: each is an entry's size.
func FuzzWriter(f *testing.F) {
	f.Add(uint8(0), uint8(90), []byte{})
	f.Add(uint8(0), uint8(100), []byte{1, 1})
	f.Add(uint8(1), uint8(50), bytes.Repeat([]byte{40, 200}, 60))
	f.Add(uint8(0), uint8(1), bytes.Repeat([]byte{255, 3, 0, 255}, 30))
	f.Add(uint8(2), uint8(100), bytes.Repeat([]byte{3, 0}, 150))
	f.Fuzz(func(t *testing.T, size, fill uint8, shape []byte) {
		if len(shape) > 300 {
			return
		}
		opts := Options{PageSize: 1024 << (size % 4), Fill: float64(fill%100+1) / 100}
		buckets := []bucketOf{{name: "data"}}
		for i := 0; i+1 < len(shape); i += 2 {
			if shape[i] == 254 { // another bucket
				buckets = append(buckets, bucketOf{name: fmt.Sprintf("data%05d", i)})
			}
			k := fmt.Appendf(nil, "%04x", i)
			k = append(k, make([]byte, int(shape[i])*int(shape[i])/10)...) // up to 6 KB
			v := bytes.Repeat([]byte{byte(i)}, int(shape[i+1])*int(shape[i+1])/8)
			b := &buckets[len(buckets)-1]
			b.entries = append(b.entries, pair{k, v})
		}
		b, _ := writeMem(t, opts, buckets...)
		db := openBolt(t, store(t, b))
		defer db.Close()
		checkBolt(t, db, buckets...)
		live(t, db, "data", sortedMap(buckets[0].entries), rand.New(rand.NewPCG(uint64(size), uint64(fill))), size%2 == 0)
	})
}
