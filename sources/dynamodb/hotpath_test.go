package dynamodb

import (
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	"pgregory.net/rapid"

	"github.com/dyn2raft/dyn2raft/copier"
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
	keys := rapid.OneOf(rapid.String(), rapid.StringMatching("h?[0-9a-f]{0,20}"), rapid.StringMatching("h0{0,13}[0-9a-f]{0,2}"), rapid.StringMatching("[0-9a-f]{0,3}-[0-9a-f]{0,3}"))
	rapid.Check(t, func(t *rapid.T) {
		from := keys.Draw(t, "from")
		r := position{Path: "p", Key: keys.Draw(t, "key"), To: keys.Draw(t, "to")}
		key := keys.Draw(t, "any")
		in := func(r position) bool { return key > r.Key && key <= r.To }
		n := 0
		parts := split(from, r, laterParts)
		for _, part := range parts {
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
		if len(parts) > mostParts || parts[0].Key != r.Key || parts[len(parts)-1].To != r.To {
			t.Fatalf("%d parts, %+v", len(parts), parts)
		}
	})
}

// TestSplitByPages has as many parts as pages are left.
func TestSplitByPages(t *testing.T) {
	for _, c := range []struct {
		from, last, to string
		parts          int
	}{
		{"h0", "h8", "hf", 1},               // 7/8 of a page
		{"h00", "h10", "h19", 1},            // 9/16
		{"h00", "h10", "h30", 3},            // two, with room
		{"h00000000000", "h0f", "hff", 16},  // as many, without
		{"h0", "h0001", "hf", 16},           // more than are split off at once
		{"h10ab", "h10ac", "h10b0", 5},      // four
		{"sys-0c8", "sys-0d8", "sys-0e", 1}, // a half
		{"11-35-87", "98-76-ab", "ff-f9", 1},
		{"11-35-87", "18-76-ab", "ff-f9", 16},
		{"h0", "h1", "ü", 4}, // not known
		{"", "A", "Z", 4},
	} {
		left := position{Path: "p", Key: c.last, To: c.to}
		if parts := split(c.from, left, laterParts); len(parts) != c.parts {
			t.Errorf("%s, %s, %s: %d parts, expected %d: %+v", c.from, c.last, c.to, len(parts), c.parts, parts)
		}
	}
	// DynamoDB takes no Key of more than 1,024 bytes.
	long := strings.Repeat("x", maxKeyBytes-5)
	for _, p := range split(long+"h0", position{Path: "p", Key: long + "h4", To: long + "hf"}, laterParts) {
		if len(p.To) > maxKeyBytes {
			t.Errorf("a part ends with a Key of %d bytes", len(p.To))
		}
	}
	// Of hashes each part is about a page.
	parts := split("h00", position{Path: "p", Key: "h10", To: "ha0"}, laterParts)
	for i, p := range parts {
		d, ok := digitsOf("h00", p.Key, p.To)
		if pages := float64(d.at[2]-d.at[1]) / (1 << 44); !ok || pages < 0.85 || pages > 1 {
			t.Errorf("part %d of %d, %+v, is of %.2f pages", i, len(parts), p, pages)
		}
	}
}

// TestHotPath reads a table of which one Path fills many pages: every entry
// once, from ranges that several workers can read at the same time.
func TestHotPath(t *testing.T) {
	eachServer(t, map[string]func(*env){"split": func(e *env) {
		want := e.fillHot(600)
		ranges, most := readHot(e, want)
		if ranges == 0 || most < 8 {
			e.Errorf("the hot Path was split %d times, into at most %d parts at once", ranges, most)
		}
		if e.srv != nil && e.srv.Requests()["Query"] > 80 {
			e.Errorf("%d Query requests for 6 MB", e.srv.Requests()["Query"])
		}
	}})
}

// TestHotPathOutOfOrder reads from a service whose Scan does not go by Keys:
// then what lies behind a Key is not what is left, and nothing may be split.
func TestHotPathOutOfOrder(t *testing.T) {
	e := newEnv(t)
	want := e.fillHot(600)
	shuffled := e.proxy(func(r *http.Request, send func(*http.Request)) { send(r) })
	shuffled.Config.Handler = reverseItems(e, shuffled.Config.Handler)
	e.url = shuffled.URL
	if ranges, _ := readHot(e, want); ranges > 0 {
		e.Errorf("the hot Path was split %d times", ranges)
	}
}

// reverseItems answers a Scan with the items of each page in reverse.
func reverseItems(e *env, next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		rec := httptest.NewRecorder()
		next.ServeHTTP(rec, r)
		body := rec.Body.Bytes()
		if strings.HasSuffix(r.Header.Get("X-Amz-Target"), ".Scan") {
			var page map[string]any
			e.ok(json.Unmarshal(body, &page))
			items, _ := page["Items"].([]any)
			slices.Reverse(items)
			var err error
			body, err = json.Marshal(page)
			e.ok(err)
		}
		w.WriteHeader(rec.Code)
		_, _ = w.Write(body) // without a checksum, which is accepted
	})
}

// fillHot puts a table of which most is in one Path, n items of 10 kB, and
// returns the sizes of its values.
func (e *env) fillHot(n int) map[string]int {
	e.Helper()
	rng := rand.New(rand.NewPCG(5, 6))
	want := map[string]int{}
	var items []attrs
	add := func(path, key string, size int) {
		items = append(items, with(path, key, attrs{"Value": bin(strings.Repeat("x", size))}))
		want[path+"/"+key] = size
	}
	for i := range n {
		add("sys/token/id", fmt.Sprintf("h%016x", rng.Uint64()), 10_000)
		if i%100 == 0 {
			add("sys/token/id", fmt.Sprintf("ü%d", i), 10) // not what the split expects
		}
		add(fmt.Sprintf("logical/%d", i), "x", 100)
	}
	e.put(items...)
	return want
}

// readHot reads all of a table and fails where an entry is missing or comes
// twice. It returns how often a segment was split, and how many there were at
// most.
func readHot(e *env, want map[string]int) (ranges, most int) {
	e.Helper()
	src, _ := e.source()
	_, err := src.Open(e.Context())
	e.ok(err)
	segs, err := src.Split(e.Context(), 3)
	e.ok(err)
	for len(segs) > 0 {
		// Resume tokens survive being written and read.
		raw, err := json.Marshal(segs[0])
		e.ok(err)
		var seg copier.Span
		e.ok(json.Unmarshal(raw, &seg))
		segs = segs[1:]
		var b copier.Batch
		page, err := src.Read(e.Context(), seg, &b)
		e.ok(err)
		for i := range b.Len() {
			entry := b.Entry(i)
			if size, ok := want[string(entry.Key)]; !ok || size != len(entry.Value) {
				e.Fatalf("entry %q of %d bytes came twice, or was never there", entry.Key, len(entry.Value))
			}
			delete(want, string(entry.Key))
		}
		if len(page.Next) > 1 {
			ranges++
		}
		segs = append(segs, page.Next...)
		most = max(most, len(segs))
	}
	if len(want) > 0 {
		e.Errorf("%d entries are missing", len(want))
	}
	return ranges, most
}

// TestRestMovesOn refuses a service that sends the same place again and again.
func TestRestMovesOn(t *testing.T) {
	e := newEnv(t)
	s, _ := e.source()
	at := position{Path: "a", Key: "b"}
	if _, err := s.rest(t.Context(), &at, &decoded{last: &position{Path: "a", Key: "b"}}, true); !errors.Is(err, copier.ErrSource) {
		t.Errorf("error is %v", err)
	}
	if rest, err := s.rest(t.Context(), &at, &decoded{last: &position{Path: "b", Key: "b"}}, true); err != nil || len(rest) != 1 {
		t.Errorf("rest %v, error %v", rest, err)
	}
}
