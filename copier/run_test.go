package copier

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
	"testing/iotest"

	"pgregory.net/rapid"

	"github.com/dyn2raft/dyn2raft/sources/dynamodb/dynamotest"
)

// writeEntries writes sorted entries to a new run in dir.
func writeEntries(t interface{ Fatal(...any) }, dir string, entries []Entry) sortedRun {
	run, err := writeRun(context.Background(), func() (runFile, error) { return os.CreateTemp(dir, "run-*") }, &batchStream{b: batchOf(entries...)})
	if err != nil {
		t.Fatal(err)
	}
	return run
}

func readBytes(b []byte) ([]Entry, error) {
	return drain(&runReader{name: "run", r: io.NopCloser(bytes.NewReader(b))})
}

// withLarge adds entries around and above the size of a block.
func withLarge(rnd *rand.Rand, entries []Entry) []Entry {
	for i, size := range []int{runBlockSize - 30, runBlockSize - runHeader, runBlockSize, 3*runBlockSize + 1, 400 << 10} {
		if rnd.IntN(6) == 0 {
			value := bytes.Repeat([]byte{byte(rnd.Uint32()), byte(rnd.Uint32()), 1, 2, 3}, size/5+1)[:size]
			entries = append(entries, Entry{Key: []byte{'L', byte(i)}, Value: value})
		}
	}
	return entries
}

func TestRunRoundTrip(t *testing.T) {
	dir := t.TempDir()
	rapid.Check(t, func(t *rapid.T) {
		rnd := rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "seed"), 0))
		want := sortedCopy(withLarge(rnd, randomEntries(rnd, rapid.IntRange(0, 500).Draw(t, "n"))))
		run := writeEntries(t, dir, want)
		in, err := openRun(run.path, false)
		if err != nil {
			t.Fatal(err)
		}
		got, err := drain(in)
		if err != nil {
			t.Fatal(err)
		}
		if d := differ(got, want); d != "" {
			t.Fatal(d)
		}
		if int64(cap(in.buf)) > max(run.block, runBlockSize) {
			t.Fatalf("the reader holds %d bytes for blocks of at most %d", cap(in.buf), run.block)
		}
		if err := in.Close(); err != nil {
			t.Fatal(err)
		}
		st, err := os.Stat(run.path)
		if err != nil || st.Size() != run.size || run.entries != int64(len(want)) {
			t.Fatalf("%+v of %d entries: file has %d bytes, %v", run, len(want), st.Size(), err)
		}
		if err := os.Remove(run.path); err != nil {
			t.Fatal(err)
		}
	})
}

// manyBlocks is a run of several blocks.
func manyBlocks(t testing.TB) (want []Entry, file []byte) {
	rnd := rand.New(rand.NewPCG(3, 0))
	want = randomEntries(rnd, 40)
	for i := range 4 {
		want = append(want, Entry{Key: []byte{'M', byte(i)}, Value: bytes.Repeat([]byte{byte(i)}, runBlockSize/2)})
	}
	want = sortedCopy(want)
	run := writeEntries(t, t.TempDir(), want)
	file, err := os.ReadFile(run.path)
	if err != nil {
		t.Fatal(err)
	}
	return want, file
}

// mustBeDamaged reads a damaged run: whatever comes before the error must be
// the beginning of what was written.
func mustBeDamaged(t *testing.T, what string, file []byte, want []Entry) {
	t.Helper()
	got, err := readBytes(file)
	if !errors.Is(err, errRunDamaged) || !errors.Is(err, ErrDestination) {
		t.Fatalf("%s: %d entries, error %v", what, len(got), err)
	}
	if len(got) > len(want) {
		t.Fatalf("%s: %d entries of %d", what, len(got), len(want))
	}
	if d := differ(got, want[:len(got)]); d != "" {
		t.Fatalf("%s: %s", what, d)
	}
}

func TestRunEveryFlippedByte(t *testing.T) {
	want := sortedCopy(randomEntries(rand.New(rand.NewPCG(1, 0)), 30))
	run := writeEntries(t, t.TempDir(), want)
	file, err := os.ReadFile(run.path)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := readBytes(file); err != nil || differ(got, want) != "" {
		t.Fatalf("undamaged: %v %s", err, differ(got, want))
	}
	for i := range file {
		for bit := range 8 {
			bad := bytes.Clone(file)
			bad[i] ^= 1 << bit
			mustBeDamaged(t, "flipped bit", bad, want)
		}
	}

	// In a run of many blocks, the headers and a part of the rest.
	want, file = manyBlocks(t)
	for i := 0; i < len(file); i += 1 + i%1009 {
		bad := bytes.Clone(file)
		bad[i] ^= 0x10
		mustBeDamaged(t, "flipped bit in blocks", bad, want)
	}
}

func TestRunEveryTruncation(t *testing.T) {
	want := sortedCopy(randomEntries(rand.New(rand.NewPCG(2, 0)), 30))
	run := writeEntries(t, t.TempDir(), want)
	file, err := os.ReadFile(run.path)
	if err != nil {
		t.Fatal(err)
	}
	for n := range file {
		mustBeDamaged(t, "truncated", file[:n], want)
	}
	mustBeDamaged(t, "longer", append(bytes.Clone(file), 0), want)

	// Whole blocks that are missing, doubled or swapped.
	want, file = manyBlocks(t)
	var blocks [][]byte
	for rest := file; len(rest) > 0; {
		n := runHeader + int(binary.LittleEndian.Uint32(rest[4:]))
		if n == runHeader {
			n += 8
		}
		blocks = append(blocks, rest[:n])
		rest = rest[n:]
	}
	if len(blocks) < 4 {
		t.Fatalf("the file has only %d blocks", len(blocks))
	}
	for i := range blocks {
		mustBeDamaged(t, "ends after a block", bytes.Join(blocks[:i], nil), want)
		missing := append(bytes.Clone(bytes.Join(blocks[:i], nil)), bytes.Join(blocks[i+1:], nil)...)
		if _, err := readBytes(missing); !errors.Is(err, errRunDamaged) {
			t.Errorf("block %d missing: %v", i, err)
		}
		doubled := append(bytes.Clone(bytes.Join(blocks[:i+1], nil)), bytes.Join(blocks[i:], nil)...)
		if _, err := readBytes(doubled); !errors.Is(err, errRunDamaged) {
			t.Errorf("block %d doubled: %v", i, err)
		}
	}
	// A reader of one run can't tell that blocks are swapped; the merge can.
	blocks[0], blocks[1] = blocks[1], blocks[0]
	s := &Sorted{heads: []head{{in: &runReader{name: "run", r: io.NopCloser(bytes.NewReader(bytes.Join(blocks, nil)))}}}, want: int64(len(want))}
	if _, err := drain(s); !errors.Is(err, errRunDamaged) {
		t.Errorf("swapped blocks: %v", err)
	}
}

// sealed gives a payload a good header, so that what is within is looked at.
func sealed(payload []byte) []byte {
	b := binary.LittleEndian.AppendUint32(make([]byte, 4), uint32(len(payload)))
	b = append(b, payload...)
	binary.LittleEndian.PutUint32(b, crc32.Checksum(b[4:], castagnoli))
	return b
}

func TestRunDamagedWithinGoodBlock(t *testing.T) {
	for name, payload := range map[string][]byte{
		"unended shared length": {0x80},
		"unended key length":    {0x00, 0x80},
		"unended value length":  {0x00, 0x01, 0x80},
		"no lengths":            {0x00},
		"key too long":          {0x00, 0x05, 0x00, 'a'},
		"value too long":        {0x00, 0x01, 0x05, 'a'},
		"shares with nothing":   {0x01, 0x01, 0x00, 'a'},
		"shares too much":       {0x00, 0x01, 0x00, 'a', 0x02, 0x01, 0x00, 'a'},
		"shares more than all":  {0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01, 0x01, 0x00, 'a'},
		"both overflow":         {0x00, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01, 'a'},
		"length of 11 bytes":    {0x00, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01, 0x00},
	} {
		if _, err := readBytes(sealed(payload)); !errors.Is(err, errRunDamaged) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if got, err := readBytes(sealed([]byte{0, 1, 1, 'k', 'v'})); len(got) != 1 || !errors.Is(err, errRunDamaged) {
		t.Errorf("good block without an end: %d entries, %v", len(got), err)
	}
}

// TestRunOfVault measures a run of a comparison, whose values are a length and
// a SHA-256, with keys as Vault's.
func TestRunOfVault(t *testing.T) {
	batch := &Batch{}
	for key := range (dynamotest.VaultShape{Entries: 50_000, ValueSize: 16}).All() {
		sum := sha256.Sum256([]byte(key))
		batch.Append([]byte(key), append([]byte{0xa0, 0x06}, sum[:]...))
	}
	new(batchSorter).sort(batch)
	var file memoryFile
	run, err := writeRun(t.Context(), func() (runFile, error) { return &file, nil }, &batchStream{b: batch})
	if err != nil {
		t.Fatal(err)
	}
	each, whole := run.size/run.entries, batch.Bytes()/run.entries
	t.Logf("%d bytes an entry, of which the key and the summary have %d", each, whole)
	if each > 100 {
		t.Errorf("%d bytes an entry", each)
	}
}

func TestShared(t *testing.T) {
	for _, c := range []struct {
		a, b string
		want int
	}{
		{"", "", 0}, {"a", "", 0}, {"a", "b", 0}, {"abc", "abd", 2}, {"abc", "abcd", 3}, {"12345678", "12345678", 8},
		{"1234567x", "12345678", 7}, {"123456781", "123456782", 8}, {"12345678abcdefgh", "12345678abcdxfgh", 12},
	} {
		if got, back := Shared([]byte(c.a), []byte(c.b)), Shared([]byte(c.b), []byte(c.a)); got != c.want || back != c.want {
			t.Errorf("%q and %q: %d and %d, want %d", c.a, c.b, got, back, c.want)
		}
	}
}

func TestRunReadErrorIsKept(t *testing.T) {
	_, file := manyBlocks(t)
	broken := errors.New("input/output error")
	for _, n := range []int{0, 3, runHeader, 1000, runBlockSize + 5, len(file)} {
		in := io.MultiReader(bytes.NewReader(file[:n]), iotest.ErrReader(broken))
		_, err := drain(&runReader{name: "run", r: io.NopCloser(in)})
		if !errors.Is(err, broken) || !errors.Is(err, ErrDestination) {
			t.Errorf("after %d bytes: %v", n, err)
		}
	}
}

func TestRunLengthIsNotBelieved(t *testing.T) {
	b := make([]byte, runHeader, runHeader+100)
	binary.LittleEndian.PutUint32(b[4:], runBlockMax)
	r := &runReader{name: "run", r: io.NopCloser(bytes.NewReader(b[:cap(b)]))}
	if _, err := r.Next(); !errors.Is(err, errRunDamaged) {
		t.Fatal(err)
	}
	if cap(r.buf) > runBlockSize {
		t.Errorf("a damaged length made the reader take %d bytes", cap(r.buf))
	}
}

func TestWriteRunRemovesWhatFailed(t *testing.T) {
	dir := t.TempDir()
	create := func() (runFile, error) { return os.CreateTemp(dir, "run-*") }
	broken := &Error{Kind: ErrSource, Err: ErrDuplicateKey}
	if _, err := writeRun(context.Background(), create, &failingStream{after: 5, err: broken}); !errors.Is(err, ErrDuplicateKey) || errors.Is(err, ErrDestination) {
		t.Errorf("failing stream: %v", err)
	}
	ctx, cancel := context.WithCancelCause(context.Background())
	why := errors.New("why")
	cancel(why)
	if _, err := writeRun(ctx, create, &batchStream{b: batchOf(Entry{})}); !errors.Is(err, why) {
		t.Errorf("cancelled: %v", err)
	}
	if files := filesIn(t, dir); len(files) > 0 {
		t.Errorf("left behind: %v", files)
	}
	gone := func() (runFile, error) { return os.CreateTemp(filepath.Join(dir, "gone"), "run-*") }
	if _, err := writeRun(context.Background(), gone, &batchStream{b: &Batch{}}); !errors.Is(err, ErrDestination) || !errors.Is(err, os.ErrNotExist) {
		t.Errorf("no directory: %v", err)
	}
}

type failingStream struct {
	after int
	err   error
}

func (s *failingStream) Next() (Entry, error) {
	if s.after == 0 {
		return Entry{}, s.err
	}
	s.after--
	return Entry{Key: []byte("k"), Value: []byte("v")}, nil
}

// A memoryFile is a run that touches no disk.
type memoryFile struct{ bytes.Buffer }

func (*memoryFile) Close() error { return nil }
func (*memoryFile) Name() string { return "memory" }

// FuzzRunReader reads any bytes: there must be entries, then a clean end or an
// error, and what was read cleanly must be what a run of those entries holds.
func FuzzRunReader(f *testing.F) {
	_, file := manyBlocks(f)
	f.Add(file[:500])
	run := writeEntries(f, f.TempDir(), sortedCopy(randomEntries(rand.New(rand.NewPCG(1, 0)), 10)))
	small, err := os.ReadFile(run.path)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(small)
	f.Add(small[:len(small)-1])
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		check := func(b []byte) {
			got, err := readBytes(b)
			if err != nil && !errors.Is(err, errRunDamaged) {
				t.Fatal(err)
			}
			size := 0
			for _, e := range got {
				size += 3 + len(e.Value) // of a key there may be nothing but what it shares
			}
			if size > len(b) {
				t.Fatalf("%d bytes of entries from %d bytes", size, len(b))
			}
			if err != nil {
				return
			}
			var again memoryFile
			if _, err := writeRun(t.Context(), func() (runFile, error) { return &again, nil }, &batchStream{b: batchOf(got...)}); err != nil {
				t.Fatal(err)
			}
			back, err := readBytes(again.Bytes())
			if err != nil || differ(back, got) != "" {
				t.Fatalf("written again: %v %s", err, differ(back, got))
			}
		}
		check(b)
		// The same bytes behind a good header reach the decoding of entries.
		end := sealed(nil)[:runHeader]
		end = binary.LittleEndian.AppendUint64(end, 1)
		binary.LittleEndian.PutUint32(end, crc32.Checksum(end[4:], castagnoli))
		check(append(sealed(b), end...))
	})
}

// TestRunForgotten reads a run once, letting go of it on the way, and again.
func TestRunForgotten(t *testing.T) {
	entries := sortedCopy(randomEntries(rand.New(rand.NewPCG(8, 8)), 3000))
	for i := range entries {
		entries[i].Value = bytes.Repeat([]byte{byte(i)}, 1000)
	}
	create := func() (runFile, error) { return os.CreateTemp(t.TempDir(), "run-*") }
	run, err := writeRun(t.Context(), create, &batchStream{b: batchOf(entries...)})
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		in, err := openRun(run.path, true)
		if err != nil {
			t.Fatal(err)
		}
		got, err := drain(in)
		if d := differ(got, entries); d != "" || err != nil {
			t.Errorf("%s, %v", d, err)
		}
		if in.at != run.size || in.at-in.forgotten >= forgetSize || in.forgotten == 0 {
			t.Errorf("%d bytes read of %d, %d let go of", in.at, run.size, in.forgotten)
		}
		if err := in.Close(); err != nil {
			t.Error(err)
		}
	}
}
