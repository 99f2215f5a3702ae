package copier

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"testing"

	"pgregory.net/rapid"
)

func checkBatch(t *rapid.T, b *Batch, want []Entry) {
	t.Helper()
	var got []Entry
	size := int64(0)
	for i := range b.Len() {
		e := b.Entry(i)
		if cap(e.Key) != len(e.Key) || cap(e.Value) != len(e.Value) {
			t.Fatalf("entry %d leaves room to append into its neighbour", i)
		}
		got = append(got, e)
		size += int64(len(e.Key) + len(e.Value))
	}
	if d := differ(got, want); d != "" {
		t.Fatal(d)
	}
	if b.Bytes() != size {
		t.Fatalf("Bytes() is %d, want %d", b.Bytes(), size)
	}
	if want := int64(len(b.arena)) + int64(b.Len())*refBytes; b.memory() != want {
		t.Fatalf("memory() is %d, want %d", b.memory(), want)
	}
}

func TestBatchProperty(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var b Batch
		var want []Entry
		bytesGen := rapid.SliceOfN(rapid.Byte(), 0, 20)
		t.Repeat(map[string]func(*rapid.T){
			"append": func(t *rapid.T) {
				k, v := bytesGen.Draw(t, "key"), bytesGen.Draw(t, "value")
				b.Append(k, v)
				want = append(want, Entry{bytes.Clone(k), bytes.Clone(v)})
				for i := range k { // it must have been copied
					k[i]++
				}
				for i := range v {
					v[i]++
				}
			},
			"truncate": func(t *rapid.T) {
				n := rapid.IntRange(0, len(want)+2).Draw(t, "n")
				b.Truncate(n)
				want = want[:min(n, len(want))]
			},
			"reset": func(t *rapid.T) { b.Reset(); want = nil },
			"sort and reset": func(t *rapid.T) {
				b.sort()
				checkBatch(t, &b, sortedCopy(want))
				b.Reset()
				want = nil
				if len(b.arena) != 0 {
					t.Fatalf("%d bytes of the arena are lost", len(b.arena))
				}
			},
			"append batch": func(t *rapid.T) {
				n := rapid.IntRange(0, 4).Draw(t, "n")
				more := randomEntries(rand.New(rand.NewPCG(1, uint64(n))), n)
				b.appendBatch(batchOf(more...))
				want = append(want, more...)
			},
			"": func(t *rapid.T) { checkBatch(t, &b, want) },
		})
	})
}

func TestBatchSizeIsChecked(t *testing.T) {
	b := Batch{bytes: maxBatch}
	if err := b.checkSize(); err != nil {
		t.Errorf("at the limit: %v", err)
	}
	b.bytes++
	if err := b.checkSize(); !errors.Is(err, ErrSource) {
		t.Errorf("above the limit: %v", err)
	}
}
