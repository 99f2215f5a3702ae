package dynamodb

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"testing"
	"unicode/utf8"

	"pgregory.net/rapid"

	"github.com/dyn2raft/dyn2raft/copier"
	"github.com/dyn2raft/dyn2raft/sources/dynamodb/dynamotest"
)

func TestBetween(t *testing.T) {
	for _, c := range []struct {
		lo, hi string
		ok     bool
	}{
		{"a", "c", true}, {"h0", "hf", true}, {"", "b", true}, {"a", "aa", true}, {"a1", "b", true},
		{"a\x7f", "b", true}, {"é", "日", true}, {"\ud7ff", "\ue000", false},
		{"a", "a", false}, {"b", "a", false}, {"a", "a\x00", false}, {"", "", false},
	} {
		mid, ok := between(c.lo, c.hi)
		if ok != c.ok {
			t.Errorf("between(%q, %q) = %q, %v, expected %v", c.lo, c.hi, mid, ok, c.ok)
		}
	}
	rapid.Check(t, func(t *rapid.T) {
		lo, hi := rapid.String().Draw(t, "lo"), rapid.String().Draw(t, "hi")
		if mid, ok := between(lo, hi); ok && (mid <= lo || mid >= hi || !utf8.ValidString(mid)) {
			t.Fatalf("between(%q, %q) = %q", lo, hi, mid)
		}
	})
}

// TestSplitCovers holds split to ranges that are exactly the one given.
func TestSplitCovers(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		r := position{Path: "p", Key: rapid.String().Draw(t, "key"), To: rapid.String().Draw(t, "to")}
		key := rapid.String().Draw(t, "any")
		in := func(r position) bool { return key > r.Key && key <= r.To }
		n := 0
		for _, part := range split(r, 16) {
			if part.Path != r.Path {
				t.Fatalf("%+v has another Path", part)
			}
			if in(part) {
				n++
			}
		}
		if want := map[bool]int{true: 1, false: 0}[in(r)]; n != want {
			t.Fatalf("%q is in %d parts of %+v, expected %d", key, n, r, want)
		}
	})
}

// TestHotPath reads a table of which one Path fills many pages: every entry
// once, from ranges that several workers can read at the same time.
func TestHotPath(t *testing.T) {
	const table = "hot"
	srv := dynamotest.NewServer(dynamotest.Options{})
	t.Cleanup(srv.Close)
	if err := srv.CreateVaultTable(table); err != nil {
		t.Fatal(err)
	}
	rng := rand.New(rand.NewPCG(5, 6))
	want := map[string]int{}
	add := func(key string, size int) {
		t.Helper()
		if err := srv.PutVaultEntry(table, key, make([]byte, size)); err != nil {
			t.Fatal(err)
		}
		want[key] = size
	}
	for i := range 1500 {
		add(fmt.Sprintf("sys/token/id/h%016x", rng.Uint64()), 10_000)
		if i%100 == 0 {
			add(fmt.Sprintf("sys/token/id/ü%d", i), 10) // not what the split expects
		}
		add(fmt.Sprintf("logical/%d/x", i), 100)
	}
	src, err := New(t.Context(), Options{Table: table, Endpoint: srv.URL, AccessKey: "a", SecretKey: "b"})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := src.Prepare(t.Context()); err != nil {
		t.Fatal(err)
	}
	segs, err := src.Segments(t.Context(), 3)
	if err != nil {
		t.Fatal(err)
	}
	ranges, most := 0, 0
	for len(segs) > 0 {
		// Resume tokens survive being written and read.
		raw, err := json.Marshal(segs[0])
		if err != nil {
			t.Fatal(err)
		}
		var seg copier.Segment
		if err := json.Unmarshal(raw, &seg); err != nil {
			t.Fatal(err)
		}
		segs = segs[1:]
		var b copier.Batch
		page, err := src.ReadPage(t.Context(), seg, &b)
		if err != nil {
			t.Fatal(err)
		}
		for i := range b.Len() {
			e := b.Entry(i)
			if size, ok := want[string(e.Key)]; !ok || size != len(e.Value) {
				t.Fatalf("entry %q of %d bytes came twice, or was never there", e.Key, len(e.Value))
			}
			delete(want, string(e.Key))
		}
		if len(page.Next) > 1 {
			ranges++
		}
		segs = append(segs, page.Next...)
		most = max(most, len(segs))
	}
	if len(want) > 0 {
		t.Errorf("%d entries are missing", len(want))
	}
	if ranges == 0 || most < 8 {
		t.Errorf("the hot Path was split %d times, into at most %d parts at once", ranges, most)
	}
	if n := srv.Requests()["Query"]; n > 120 {
		t.Errorf("%d Query requests for 15 MB", n)
	}
}
