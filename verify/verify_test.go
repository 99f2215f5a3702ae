package verify

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"pgregory.net/rapid"

	"github.com/dyn2raft/dyn2raft/copier"
)

func TestEqual(t *testing.T) {
	for _, n := range []int{0, 1, 300} {
		e := some(n)
		rep, err := compare(t, sourceOf(e), directory(t, e), Options{})
		if err != nil {
			t.Fatal(err)
		}
		if !rep.Equal() || !rep.Complete || rep.SourceEntries != int64(n) || rep.DestinationEntries != int64(n) || len(rep.Diffs) > 0 {
			t.Errorf("%d entries: %+v", n, rep)
		}
		if rep.Source.ID != "memory:1" || rep.Start.IsZero() || rep.Duration <= 0 || rep.Scan.Entries != int64(n) {
			t.Errorf("%+v", rep)
		}
		for _, p := range rep.Prefixes {
			if p.Source != p.Destination {
				t.Errorf("%+v", p)
			}
		}
	}
}

// TestEveryKindOfDamage is the proof that the oracle can fail.
func TestEveryKindOfDamage(t *testing.T) {
	const a, b, empty = "core/003/key", "sys/005/key", "core/006/key"
	good := some(100)
	if good[a] == "" || good[b] == "" || good[a] == good[b] || good[empty] != "" {
		t.Fatal("the entries are not as the test needs them")
	}
	flip := func(s string, i int) string {
		return s[:i] + string(s[i]^1) + s[i+1:]
	}
	type counts struct{ missing, extra, different int64 }
	for name, c := range map[string]struct {
		change func(dst entries)
		want   counts
		keys   string
	}{
		"one bit of a value":         {func(d entries) { d[a] = flip(d[a], 3) }, counts{0, 0, 1}, a},
		"last bit of a value":        {func(d entries) { d[a] = flip(d[a], len(d[a])-1) }, counts{0, 0, 1}, a},
		"one bit of a key":           {func(d entries) { d[flip(a, 7)] = d[a]; delete(d, a) }, counts{1, 1, 0}, "core/002/key " + a},
		"entry lost":                 {func(d entries) { delete(d, a) }, counts{1, 0, 0}, a},
		"first entry lost":           {func(d entries) { delete(d, "core/000/key") }, counts{1, 0, 0}, "core/000/key"},
		"last entry lost":            {func(d entries) { delete(d, "top-099") }, counts{1, 0, 0}, "top-099"},
		"empty entry lost":           {func(d entries) { delete(d, empty) }, counts{1, 0, 0}, empty},
		"all lost":                   {func(d entries) { clear(d) }, counts{100, 0, 0}, ""},
		"entry added":                {func(d entries) { d["core/new"] = "x" }, counts{0, 1, 0}, "core/new"},
		"empty entry added":          {func(d entries) { d["zzz"] = "" }, counts{0, 1, 0}, "zzz"},
		"first key added":            {func(d entries) { d["\x00"] = "" }, counts{0, 1, 0}, "\x00"},
		"values swapped":             {func(d entries) { d[a], d[b] = d[b], d[a] }, counts{0, 0, 2}, a + " " + b},
		"value emptied":              {func(d entries) { d[a] = "" }, counts{0, 0, 1}, a},
		"empty value filled":         {func(d entries) { d[empty] = "\x00" }, counts{0, 0, 1}, empty},
		"value cut":                  {func(d entries) { d[a] = d[a][:len(d[a])-1] }, counts{0, 0, 1}, a},
		"value longer":               {func(d entries) { d[a] += "\x00" }, counts{0, 0, 1}, a},
		"lost here and added there":  {func(d entries) { delete(d, a); d["core/zz"] = good[a] }, counts{1, 1, 0}, a + " core/zz"},
		"moved to another prefix":    {func(d entries) { delete(d, a); d["x/003/key"] = good[a] }, counts{1, 1, 0}, a + " x/003/key"},
		"the boundary of key, value": {func(d entries) { delete(d, a); d[a+good[a][:1]] = good[a][1:] }, counts{1, 1, 0}, a + " " + a + good[a][:1]},
	} {
		t.Run(name, func(t *testing.T) {
			if strings.HasPrefix(name, "one bit of a key") {
				delete(good, flip(a, 7)) // may be there
				defer func() { good = some(100) }()
			}
			dst := good.clone()
			c.change(dst)
			dir := directory(t, dst)
			// The same damage, seen from the other side.
			for _, swap := range []bool{false, true} {
				src := sourceOf(good)
				want, keys := c.want, c.keys
				if swap {
					src, dir = sourceOf(dst), directory(t, good)
					want.missing, want.extra = want.extra, want.missing
				}
				rep, err := compare(t, src, dir, Options{})
				if err != nil {
					t.Fatal(err)
				}
				if got := (counts{rep.Missing, rep.Extra, rep.Different}); rep.Equal() || got != want || !rep.Complete {
					t.Errorf("swapped %v: got %+v, want %+v", swap, got, want)
				}
				var found []string
				for _, d := range rep.Diffs {
					if d.KeyBytes == 1 { // a key that no Vault writes is not printed
						d.Key = "\x00"
					}
					found = append(found, d.Key)
				}
				if keys != "" && strings.Join(found, " ") != keys {
					t.Errorf("swapped %v: got keys %q, want %q", swap, found, keys)
				}
				same := true
				for _, p := range rep.Prefixes {
					same = same && p.Source == p.Destination
				}
				if same {
					t.Error("no prefix differs")
				}
				if rep.SourceEntries != int64(src.Len) {
					t.Errorf("%d entries in the source", rep.SourceEntries)
				}
			}
		})
	}
}

func TestDiffsDescribeValues(t *testing.T) {
	rep, err := compare(t, sourceOf(entries{"a": "1", "b": "secret of b"}), directory(t, entries{"b": "", "c": "3"}), Options{})
	if err != nil {
		t.Fatal(err)
	}
	value := func(s string) *Value {
		sum := sha256.Sum256([]byte(s))
		return &Value{Bytes: int64(len(s)), SHA256: hex.EncodeToString(sum[:])}
	}
	want := []Diff{
		{Kind: Missing, Key: "a", Source: value("1")},
		{Kind: Different, Key: "b", Source: value("secret of b"), Destination: value("")},
		{Kind: Extra, Key: "c", Destination: value("3")},
	}
	if !reflect.DeepEqual(rep.Diffs, want) {
		t.Errorf("got %+v", rep.Diffs)
	}
	b, err := json.Marshal(rep)
	if err != nil || strings.Contains(string(b), "secret") {
		t.Errorf("the report holds a value: %s, %v", b, err)
	}
}

func TestMaxDiffs(t *testing.T) {
	e := some(300)
	for limit, want := range map[int]int{0: 100, 1: 1, 299: 299, 300: 300, 301: 300, -1: 300} {
		rep, err := compare(t, sourceOf(e), directory(t, nil), Options{MaxDiffs: limit})
		if err != nil {
			t.Fatal(err)
		}
		if len(rep.Diffs) != want || rep.Missing != 300 {
			t.Errorf("at most %d: %d of %d are named", limit, len(rep.Diffs), rep.Missing)
		}
		if !slices.IsSortedFunc(rep.Diffs, func(a, b Diff) int { return strings.Compare(a.Key, b.Key) }) {
			t.Error("not in key order")
		}
	}
}

// TestOnDiff is told of all differences and holds none, and its error ends the
// comparison.
func TestOnDiff(t *testing.T) {
	e := some(300)
	for limit, want := range map[int]int{0: 300, -1: 300, 7: 7} {
		var got []string
		rep, err := compare(t, sourceOf(e), directory(t, nil), Options{MaxDiffs: limit, OnDiff: func(d Diff) error {
			got = append(got, d.Key)
			return nil
		}})
		if err != nil || len(got) != want || rep.Named != int64(want) || len(rep.Diffs) != 0 || rep.Missing != 300 || !slices.IsSorted(got) {
			t.Errorf("at most %d: %d named, %d told of, %d in the report, %v", limit, rep.Named, len(got), len(rep.Diffs), err)
		}
	}
	full := errors.New("no space")
	rep, err := compare(t, sourceOf(e), directory(t, nil), Options{OnDiff: func(Diff) error { return full }})
	if !errors.Is(err, full) || rep.Complete {
		t.Errorf("%v, complete %v", err, rep.Complete)
	}
}

// TestKeysThatNobodyWrites has keys that only the directory has, or that are
// not UTF-8: what may be a piece of a value is not shown, and the key can be
// told by its hash all the same.
func TestKeysThatNobodyWrites(t *testing.T) {
	src := entries{"a\tb": "1", "a\xffb": "1", "a/c": "1"}
	dst := entries{"core/keyring\x00\x00\x00\x01\x02secret": "1", "core/x\nsecret": "2", "a\xffb": "2", "sys/" + strings.Repeat("z", 3100) + "secret": "", "ü": ""}
	dir := directory(t, dst)
	rep, err := compare(t, sourceOf(src), dir, Options{})
	check(t, err)
	sum := func(key string) (int, string) {
		s := sha256.Sum256([]byte(key))
		return len(key), hex.EncodeToString(s[:])
	}
	got := map[string]Diff{}
	for _, d := range rep.Diffs {
		got[d.Key] = d
	}
	for shown, key := range map[string]string{
		"a\tb": "", "a/c": "", "ü": "", "a": "a\xffb",
		"core/keyring": "core/keyring\x00\x00\x00\x01\x02secret", "core/x": "core/x\nsecret",
		("sys/" + strings.Repeat("z", 3100))[:3073]: "sys/" + strings.Repeat("z", 3100) + "secret",
	} {
		d, ok := got[shown]
		length, hash := 0, ""
		if key != "" {
			length, hash = sum(key)
		}
		if !ok || d.KeyBytes != length || d.KeySHA256 != hash {
			t.Errorf("%.40q: %.200v", shown, d)
		}
	}
	in, err := Inspect(t.Context(), dir, InspectOptions{})
	check(t, err)
	for _, v := range []any{rep, in} {
		b, err := json.Marshal(v)
		if err != nil || len(got) != 7 || strings.Contains(string(b), "secret") || strings.Contains(string(b), "\ufffd") || strings.Contains(string(b), `\ufffd`) {
			t.Errorf("%v: %s", err, b)
		}
	}
	// No piece of a value is a prefix either.
	if name := copier.PrintablePrefix("a\x00secret/"); strings.Contains(name, "secret") {
		t.Error(name)
	}
}

// TestItemCount has the source report another number of items than are read.
func TestItemCount(t *testing.T) {
	dir := bigDirectory(t, 1000)
	for items, want := range map[int64]bool{1000: false, 960: false, 0: true, 500: true} {
		var got []copier.CountDiffers
		src := newBigSource(1000, 50, nil)
		src.Info.Items = items
		rep, err := compare(t, src, dir, Options{Events: func(e copier.Event) {
			if d, ok := e.(copier.CountDiffers); ok {
				got = append(got, d)
			}
		}})
		if err != nil || !rep.Equal() || want != slices.Equal(got, []copier.CountDiffers{{Reported: items, Read: 1000}}) || !want && got != nil {
			t.Errorf("%d items: %v, %v", items, got, err)
		}
	}
}

// TestHash computes the hash of a side from its definition, with nothing of
// this package.
func TestHash(t *testing.T) {
	e := entries{"a": "", "b": "12", "core/a": "x", "core/b/c": "", "/odd": "1"}
	rep, err := compare(t, sourceOf(e), directory(t, e), Options{})
	if err != nil {
		t.Fatal(err)
	}
	text := map[string]string{}
	want := map[string]Side{}
	for _, key := range slices.Sorted(maps.Keys(e)) {
		prefix, _, ok := strings.Cut(key, "/")
		if ok {
			prefix += "/"
		} else {
			prefix = ""
		}
		digest := sha256.Sum256([]byte(e[key]))
		text[prefix] += fmt.Sprintf("%016x%x%016x%x", len(key), key, len(e[key]), digest)
		side := want[prefix]
		side.Entries++
		side.Bytes += int64(len(key) + len(e[key]))
		want[prefix] = side
	}
	if len(rep.Prefixes) != len(want) || len(want) != 3 {
		t.Fatalf("%+v", rep.Prefixes)
	}
	for _, p := range rep.Prefixes {
		raw, err := hex.DecodeString(text[p.Prefix])
		if err != nil {
			t.Fatal(err)
		}
		sum := sha256.Sum256(raw)
		side := want[p.Prefix]
		side.SHA256 = hex.EncodeToString(sum[:])
		if p.Source != side || p.Destination != side {
			t.Errorf("%q: got %+v, want %+v", p.Prefix, p.Source, side)
		}
	}
	// The same by hand, for one entry: {"k": "v"}.
	rep, err = compare(t, sourceOf(entries{"k": "v"}), directory(t, nil), Options{})
	if err != nil {
		t.Fatal(err)
	}
	const known = "6d754136f026d03a1920f7c133cdef16a0a0dabc792a51b37b868436e9b05ba8"
	if got := rep.Prefixes[0]; got.Source.SHA256 != known || got.Destination.Entries != 0 ||
		got.Destination.SHA256 != "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855" {
		t.Errorf("%+v", got)
	}
}

func TestPrefixes(t *testing.T) {
	src := entries{"a": "", "sys/b": "2", "sys/c": "3", "core/x": ""}
	dst := entries{"sys/b": "2", "sys/d": "33", "new/y": "", "aa": "1"}
	rep, err := compare(t, sourceOf(src), directory(t, dst), Options{})
	if err != nil {
		t.Fatal(err)
	}
	got := ""
	for _, p := range rep.Prefixes {
		got += fmt.Sprintf("%q %d/%d %d/%d; ", p.Prefix, p.Source.Entries, p.Source.Bytes, p.Destination.Entries, p.Destination.Bytes)
	}
	const want = `"" 1/1 1/3; "core/" 1/6 0/0; "new/" 0/0 1/5; "sys/" 2/12 2/13; `
	if got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}

// TestAgainstSimpleComparison compares random sides with what maps say.
func TestAgainstSimpleComparison(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		rnd := rand.New(rand.NewPCG(rapid.Uint64().Draw(rt, "seed"), 0))
		src, dst := entries{}, entries{}
		for range rapid.IntRange(0, 60).Draw(rt, "n") {
			key := strings.Repeat("a/", rnd.IntN(2)) + string(rune('a'+rnd.IntN(26))) + strings.Repeat("x", rnd.IntN(3))
			value := strings.Repeat("v", rnd.IntN(3))
			switch rnd.IntN(6) {
			case 0:
				src[key] = value
			case 1:
				dst[key] = value
			case 2:
				src[key], dst[key] = value, strings.Repeat("v", rnd.IntN(3))
			default:
				src[key], dst[key] = value, value
			}
		}
		var missing, extra, different int64
		for k, v := range src {
			if d, ok := dst[k]; !ok {
				missing++
			} else if d != v {
				different++
			}
		}
		for k := range dst {
			if _, ok := src[k]; !ok {
				extra++
			}
		}
		rep, err := compare(t, sourceOf(src), directory(t, dst), Options{MaxDiffs: -1})
		if err != nil {
			rt.Fatal(err)
		}
		if rep.Missing != missing || rep.Extra != extra || rep.Different != different || rep.Equal() != maps.Equal(src, dst) ||
			int64(len(rep.Diffs)) != missing+extra+different {
			rt.Fatalf("got %+v, want %d missing, %d extra, %d different", rep, missing, extra, different)
		}
	})
}

func TestSpilling(t *testing.T) {
	// Long keys fill the least memory that is allowed. The destination has
	// only a few of them, since bbolt is slow with such keys.
	src, dst := entries{}, entries{"extra": ""}
	var want []string
	for i := range 900 {
		key := fmt.Sprintf("%05d%s", i*7919%100_000, strings.Repeat("k", 30_000))
		src[key] = "v"
		if i%30 == 0 {
			dst[key] = "v"
		} else {
			want = append(want, key)
		}
	}
	slices.Sort(want)
	rep, err := compare(t, sourceOf(src), directory(t, dst), Options{Memory: copier.MinMemory, MaxDiffs: -1})
	if err != nil || rep.Scan.Runs == 0 {
		t.Fatalf("%v, %d runs", err, rep.Scan.Runs)
	}
	if rep.Missing != 870 || rep.Extra != 1 || rep.Different != 0 || rep.Equal() {
		t.Errorf("%d missing, %d extra, %d different", rep.Missing, rep.Extra, rep.Different)
	}
	var got []string
	for _, d := range rep.Diffs {
		if d.Kind == Missing {
			got = append(got, d.Key)
		}
	}
	if !slices.Equal(got, want) {
		t.Error("other keys are named than those that are missing")
	}
}

func TestZeroReportIsNotEqual(t *testing.T) {
	if (&Report{}).Equal() {
		t.Error("nothing was compared, and it is equal")
	}
}

func TestSourceDuplicate(t *testing.T) {
	e := some(50)
	src := sourceOf(e, copier.Entry{Key: []byte("core/003/key"), Value: []byte(e["core/003/key"])})
	if _, err := compare(t, src, directory(t, e), Options{}); !errors.Is(err, copier.ErrDuplicateKey) {
		t.Errorf("got %v", err)
	}
}

func TestSourceFails(t *testing.T) {
	e := some(50)
	broken := &copier.Error{Kind: copier.ErrSource, Op: "read page", Err: errors.New("broken")}
	unfit := sourceOf(e)
	unfit.Unfit = broken
	if _, err := compare(t, unfit, directory(t, e), Options{}); !errors.Is(err, broken) {
		t.Errorf("prepare: %v", err)
	}
	var pages atomic.Int64
	src := sourceThat(e, func(context.Context) error {
		if pages.Add(1) == 5 {
			return broken
		}
		return nil
	})
	if _, err := compare(t, src, directory(t, e), Options{}); !errors.Is(err, broken) || !errors.Is(err, copier.ErrSource) {
		t.Errorf("page: %v", err)
	}
}

func TestOptionsAreRefused(t *testing.T) {
	e := some(5)
	if _, err := compare(t, sourceOf(e), directory(t, e), Options{Memory: 1}); !errors.Is(err, copier.ErrConfig) {
		t.Errorf("memory: %v", err)
	}
	gone := filepath.Join(t.TempDir(), "gone")
	if _, err := CompareDirectory(context.Background(), sourceOf(e), directory(t, e), Expected{}, Options{WorkDir: gone}); !errors.Is(err, copier.ErrConfig) || !errors.Is(err, os.ErrNotExist) {
		t.Errorf("work directory: %v", err)
	}
}

func TestCancelled(t *testing.T) {
	e := some(3000)
	dir := directory(t, e)
	why := errors.New("interrupted by a signal")
	whole, err := compare(t, sourceOf(e), dir, Options{})
	check(t, err)
	pages := whole.Scan.Pages
	for _, moment := range []int64{1, 2, pages / 2, pages} {
		ctx, cancel := context.WithCancelCause(context.Background())
		var n atomic.Int64
		src := sourceThat(e, func(ctx context.Context) error {
			if n.Add(1) == moment {
				cancel(why)
			}
			return ctx.Err()
		})
		work := t.TempDir()
		rep, err := CompareDirectory(ctx, src, dir, Expected{}, Options{WorkDir: work})
		if !errors.Is(err, why) || rep.Equal() {
			t.Errorf("at page %d: %v, equal %v", moment, err, rep.Equal())
		}
		leftBehind(t, work, &rep.Report)
		cancel(nil)
	}
}

// TestCancelledWhileWalking cancels after the source was read.
func TestCancelledWhileWalking(t *testing.T) {
	e := some(2500)
	ctx, cancel := context.WithCancelCause(context.Background())
	why := errors.New("why")
	in := &cancellingStream{keys: slices.Sorted(maps.Keys(e)), cancel: func() { cancel(why) }}
	rep := &Report{}
	if err := walkFile(ctx, rep, in, filepath.Join(directory(t, e), "vault.db"), t.TempDir(), nil); !errors.Is(err, why) || rep.SourceEntries < 1024 || rep.SourceEntries > 2048 {
		t.Errorf("%v after %d entries", err, rep.SourceEntries)
	}
}

type cancellingStream struct {
	keys   []string
	n      int
	cancel func()
}

func (s *cancellingStream) Next() (copier.Entry, error) {
	if s.n == 1000 {
		s.cancel()
	}
	s.n++
	sum := appendSummary(nil, nil)
	return copier.Entry{Key: []byte(s.keys[s.n-1]), Value: sum}, nil
}

// TestSourceStreamFails has an error come out of the sort, on either side of
// the destination's end.
func TestSourceStreamFails(t *testing.T) {
	broken := errors.New("broken")
	for _, e := range []entries{{}, {"a": "1"}, {"a": "", "b": "", "c": ""}} {
		rep := &Report{}
		err := walkFile(t.Context(), rep, &failingStream{err: broken}, filepath.Join(directory(t, e), "vault.db"), t.TempDir(), nil)
		if !errors.Is(err, broken) || rep.Equal() {
			t.Errorf("%v, equal %v", err, rep.Equal())
		}
	}
}

type failingStream struct {
	n   int
	err error
}

func (s *failingStream) Next() (copier.Entry, error) {
	if s.n++; s.n > 1 {
		return copier.Entry{}, s.err
	}
	sum := appendSummary(nil, nil)
	return copier.Entry{Key: []byte("a"), Value: sum}, nil
}

// A sortedStream yields entries as the sort does, with summaries for values.
type sortedStream struct {
	e    entries
	keys []string
}

func (s *sortedStream) reset() { s.keys = slices.Sorted(maps.Keys(s.e)) }

func (s *sortedStream) Next() (copier.Entry, error) {
	if len(s.keys) == 0 {
		return copier.Entry{}, io.EOF
	}
	key := s.keys[0]
	s.keys = s.keys[1:]
	sum := appendSummary(nil, []byte(s.e[key]))
	return copier.Entry{Key: []byte(key), Value: sum}, nil
}
