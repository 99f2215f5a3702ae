package dynamodb

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb/types"

	"github.com/dyn2raft/dyn2raft/copier"
	"github.com/dyn2raft/dyn2raft/sources/dynamodb/dynamotest"
)

// readOne reads the one page of a small table.
func (e *env) readOne() (map[string]string, copier.Page, error) {
	e.Helper()
	s, _ := e.source()
	var b copier.Batch
	b.Append([]byte("before"), []byte("x"))
	page, err := s.Read(e.Context(), copier.Span{}, &b)
	err = errors.Join(append(page.Refused, err)...)
	if len(page.Refused) > 0 {
		b.Truncate(1) // what a caller does with such a page
	}
	if first := b.Entry(0); string(first.Key) != "before" || string(first.Value) != "x" {
		e.Errorf("the entry that was in the batch is now %q: %q", first.Key, first.Value)
	}
	if err != nil && (b.Len() != 1 || b.Bytes() != 7) {
		e.Errorf("after the error the batch has %d entries", b.Len())
	}
	out := map[string]string{}
	for i := 1; i < b.Len(); i++ {
		out[string(b.Entry(i).Key)] = string(b.Entry(i).Value)
	}
	return out, page, err
}

// TestItems holds what each kind of item is taken for.
func TestItems(t *testing.T) {
	cases := map[string]struct {
		item    attrs
		entry   string // the Vault key, for an entry
		value   string
		lock    string // the Vault key, for a lock
		marker  bool
		refused []string // words of the error
	}{
		"entry":                          {item: with("a/b", "c", attrs{"Value": bin("v")}), entry: "a/b/c", value: "v"},
		"entry at the root":              {item: with(" ", "c", attrs{"Value": bin("v")}), entry: "c", value: "v"},
		"null value":                     {item: with("a", "c", attrs{"Value": null}), entry: "a/c"},
		"empty binary":                   {item: with("a", "c", attrs{"Value": bin("")}), entry: "a/c"},
		"leader's address":               {item: with("core/leader", "6f3a", attrs{"Value": bin("v")}), entry: "core/leader/6f3a", value: "v"},
		"version":                        {item: with("core/versions", "1.21.1", attrs{"Value": bin("v")}), entry: "core/versions/1.21.1", value: "v"},
		"Raft TLS":                       {item: with("core/raft", "tls", attrs{"Value": bin("v")}), entry: "core/raft/tls", value: "v"},
		"a user's lock":                  {item: with("logical/u/core", "lock", attrs{"Value": bin("v")}), entry: "logical/u/core/lock", value: "v"},
		"a user's migration":             {item: with(" ", "migration", attrs{"Value": bin("v")}), entry: "migration", value: "v"},
		"attributes of AWS's":            {item: with("a", "c", attrs{"Value": bin("v"), "aws:rep:deleting": &types.AttributeValueMemberBOOL{}, "aws:rep:updatetime": num(17), "aws:rep:updateregion": str("us-east-1"), "ttl": num(1)}), entry: "a/c", value: "v"},
		"a map beside":                   {item: with("a", "c", attrs{"Value": bin("v"), "m": &types.AttributeValueMemberM{Value: attrs{"x": null}}}), entry: "a/c", value: "v"},
		"user data":                      {item: with("a", "_x", attrs{"Value": bin("v")}), entry: "a/_x", value: "v"},
		"user data, null":                {item: with("a", "_x", attrs{"Value": null}), entry: "a/_x"},
		"user data with Expires":         {item: with("a", "_x", attrs{"Value": bin("v"), "Expires": num(1)}), entry: "a/_x", value: "v"},
		"user data with text Identity":   {item: with("a", "_x", attrs{"Value": bin("v"), "Identity": str("me")}), entry: "a/_x", value: "v"},
		"user data with AWS's":           {item: with("a", "_x", attrs{"Value": bin("v"), "aws:rep:updatetime": num(17), "ttl": num(1)}), entry: "a/_x", value: "v"},
		"Identity without underscore":    {item: with("a", "x", attrs{"Value": bin("v"), "Identity": bin("me")}), entry: "a/x", value: "v"},
		"underscore in Path only":        {item: with("_a", "x", attrs{"Value": bin("v"), "Identity": bin("me")}), entry: "_a/x", value: "v"},
		"leader lock":                    {item: with("core", "_lock", attrs{"Value": bin("v"), "Identity": bin("me"), "Expires": num(1)}), lock: "core/_lock"},
		"leader lock of an old Vault":    {item: with("core", "_lock", attrs{"Value": bin("v"), "Expires": num(1)}), lock: "core/_lock"},
		"leader lock, bare":              {item: with("core", "_lock", nil), lock: "core/_lock"},
		"leader lock, text":              {item: with("core", "_lock", attrs{"Value": str("v")}), lock: "core/_lock"},
		"leader lock, ours":              {item: with("core", "_lock", attrs{"Value": bin("v"), "Identity": bin("me"), attrFound: &types.AttributeValueMemberM{Value: attrs{}}}), lock: "core/_lock"},
		"another lock":                   {item: with("sys/x", "_y", attrs{"Value": bin("v"), "Identity": bin("me"), "Expires": num(1)}), lock: "sys/x/_y"},
		"another lock without a value":   {item: with("sys/x", "_y", attrs{"Identity": bin("me")}), lock: "sys/x/_y"},
		"another lock at the root":       {item: with(" ", "_y", attrs{"Value": bin("v"), "Identity": bin("me")}), lock: "_y"},
		"core/lock":                      {item: with("core", "lock", attrs{"Value": bin("v")}), lock: "core/lock"},
		"core/migration":                 {item: with("core", "migration", attrs{"Value": bin("{}")}), lock: "core/migration"},
		"marker, null":                   {item: with("a", "b/", attrs{"Value": null}), marker: true},
		"marker, bare":                   {item: with("a", "b/", nil), marker: true},
		"marker, empty binary":           {item: with("a", "b/", attrs{"Value": bin("")}), marker: true},
		"marker at the root":             {item: with(" ", "b/", attrs{"Value": null}), marker: true},
		"marker of underscore":           {item: with("a", "_b/", attrs{"Value": null}), marker: true},
		"marker of the lock's name":      {item: with("core", "_lock/", attrs{"Value": null}), marker: true},
		"marker with a value":            {item: with("a", "b/", attrs{"Value": bin("v")}), refused: []string{`"a"`, `"b/"`, "marker"}},
		"marker with a text":             {item: with("a", "b/", attrs{"Value": str("v")}), refused: []string{`"a"`, `"b/"`, "type S"}},
		"no value":                       {item: with("a", "b", nil), refused: []string{`"a"`, `"b"`, "no Value"}},
		"no value, underscore":           {item: with("a", "_b", attrs{"Expires": num(1)}), refused: []string{`"a"`, `"_b"`, "no Value"}},
		"text value":                     {item: with("a", "b", attrs{"Value": str("SECRET")}), refused: []string{`"a"`, `"b"`, "type S", "B (binary)"}},
		"number value":                   {item: with("a", "b", attrs{"Value": num(17)}), refused: []string{`"a"`, `"b"`, "type N"}},
		"boolean value":                  {item: with("a", "b", attrs{"Value": &types.AttributeValueMemberBOOL{Value: true}}), refused: []string{`"b"`, "type BOOL"}},
		"map value":                      {item: with("a", "b", attrs{"Value": &types.AttributeValueMemberM{Value: attrs{"x": str("SECRET")}}}), refused: []string{`"b"`, "type M"}},
		"list value":                     {item: with("a", "b", attrs{"Value": &types.AttributeValueMemberL{Value: []types.AttributeValue{bin("SECRET")}}}), refused: []string{`"b"`, "type L"}},
		"set value, text":                {item: with("a", "b", attrs{"Value": &types.AttributeValueMemberSS{Value: []string{"SECRET"}}}), refused: []string{`"b"`, "type SS"}},
		"set value, numbers":             {item: with("a", "b", attrs{"Value": &types.AttributeValueMemberNS{Value: []string{"1"}}}), refused: []string{`"b"`, "type NS"}},
		"set value, binary":              {item: with("a", "b", attrs{"Value": &types.AttributeValueMemberBS{Value: [][]byte{[]byte("SECRET")}}}), refused: []string{`"b"`, "type BS"}},
		"unclean Path":                   {item: with("a//b", "c", attrs{"Value": bin("v")}), refused: []string{`"a//b"`, `"c"`}},
		"Key with a slash":               {item: with("a", "b/c", attrs{"Value": bin("v")}), refused: []string{`"b/c"`}},
		"entry .":                        {item: with("a", ".", attrs{"Value": bin("v")}), entry: "a/.", value: "v"},
		"entry ..":                       {item: with("a", "..", attrs{"Value": bin("v")}), entry: "a/..", value: "v"},
		"entry . at the root":            {item: with(" ", ".", attrs{"Value": bin("v")}), entry: ".", value: "v"},
		"entry of spaces":                {item: with("a", "  ", attrs{"Value": bin("v")}), entry: "a/  ", value: "v"},
		"marker ./":                      {item: with("a", "./", attrs{"Value": null}), marker: true},
		"marker ./ at the root":          {item: with(" ", "./", attrs{"Value": null}), marker: true},
		"marker of nothing":              {item: with("a", "/", attrs{"Value": null}), refused: []string{`"/"`}},
		"absolute":                       {item: with("/", "a", attrs{"Value": bin("v")}), entry: "/a", value: "v"},
		"below .":                        {item: with(".", "a", attrs{"Value": bin("v")}), entry: "./a", value: "v"},
		"unclean Path, .":                {item: with("a/.", "c", attrs{"Value": bin("v")}), refused: []string{`"a/."`, `"c"`}},
		"lock with a text for its value": {item: with("a", "_b", attrs{"Value": str("v"), "Identity": bin("me")}), refused: []string{`"_b"`, "type S"}},
	}
	tests := map[string]func(*env){}
	for name, c := range cases {
		tests[name] = func(e *env) {
			e.put(c.item)
			got, page, err := e.readOne()
			if c.refused != nil {
				if !errors.Is(err, ErrNotVaultItem) || !errors.Is(err, copier.ErrSource) || coded(err) != "not-vaults-item map[]" {
					e.Fatalf("error is %v, code %v, expected ErrNotVaultItem", err, coded(err))
				}
				for _, word := range c.refused {
					if !strings.Contains(err.Error(), word) {
						e.Errorf("error %q does not say %q", err, word)
					}
				}
				if strings.Contains(err.Error(), "SECRET") {
					e.Errorf("error %q tells the value", err)
				}
				return
			}
			e.ok(err)
			want := map[string]string{}
			if c.entry != "" {
				want[c.entry] = c.value
			}
			var locks []string
			if c.lock != "" {
				locks = []string{c.lock}
			}
			var markers int64
			if c.marker {
				markers = 1
			}
			if !maps.Equal(got, want) || !slices.Equal(page.Locks, locks) || page.Markers != markers || len(page.Next) != 0 {
				e.Errorf("entries %q, locks %q, %d markers, next %v; expected entries %q, locks %q, %d markers",
					got, page.Locks, page.Markers, page.Next, want, locks, markers)
			}
		}
	}
	eachServer(t, tests)
}

// fill puts a table of many pages: entries of all sizes, a hot Path, markers,
// and a lock. It returns its entries.
func (e *env) fill(n int) map[string]string {
	e.Helper()
	source := rand.NewChaCha8([32]byte{byte(n)})
	rng := rand.New(source)
	want := map[string]string{}
	var items []attrs
	for i := range n {
		path := "sys/token/id" // the hot one
		switch i % 5 {
		case 0:
			path = fmt.Sprintf("logical/u-%d/größe", i)
		case 1:
			path = fmt.Sprintf("logical/v/dir %d", i%17)
		}
		value := make([]byte, rng.IntN(1800))
		if i%200 == 0 {
			value = make([]byte, 100_000+rng.IntN(250_000))
		}
		_, err := source.Read(value)
		e.ok(err)
		key := fmt.Sprintf("_h%06d", i)
		v := bin(string(value))
		if len(value) == 0 {
			v = null
		}
		items = append(items, with(path, key, attrs{"Value": v}))
		want[path+"/"+key] = string(value)
		if i%7 == 0 {
			items = append(items, with(path, fmt.Sprintf("d%d/", i), attrs{"Value": null}))
		}
	}
	items = append(items, with("core", "_lock", attrs{"Value": bin("x"), "Identity": bin("x"), "Expires": num(1)}))
	e.put(items...)
	return want
}

// A found is what a scan found, each key as often as it came.
type found struct {
	mu      sync.Mutex
	times   map[string]int
	values  map[string]string
	markers int64
	locks   []string
	pages   int
	units   float64
	wire    int64

	retries, throttles int64
}

// read reads segments to their ends, some at a time.
func (f *found) read(ctx context.Context, s *Source, segs []copier.Span) error {
	if f.times == nil {
		f.times, f.values = map[string]int{}, map[string]string{}
	}
	var wg sync.WaitGroup
	errs := make(chan error, len(segs))
	work := make(chan copier.Span, len(segs))
	for _, seg := range segs {
		work <- seg
	}
	close(work)
	for range 6 {
		wg.Go(func() {
			var b copier.Batch
			for seg := range work {
				for todo := []copier.Span{seg}; len(todo) > 0; {
					b.Reset()
					page, err := s.Read(ctx, todo[0], &b)
					if err != nil {
						errs <- err
						break
					}
					todo = append(todo[1:], page.Next...)
					f.add(&b, page)
				}
			}
		})
	}
	wg.Wait()
	close(errs)
	return <-errs
}

// segment is a part of the table that nothing was read of.
func segment(i, of int) copier.Span {
	return copier.Span{Index: i, From: token{Segment: i, Of: of}.encode()}
}

// segments are all parts of the table.
func segments(of int) (out []copier.Span) {
	for i := range of {
		out = append(out, segment(i, of))
	}
	return out
}

func (f *found) add(b *copier.Batch, page copier.Page) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for i := range b.Len() {
		e := b.Entry(i)
		f.times[string(e.Key)]++
		f.values[string(e.Key)] = string(e.Value)
	}
	f.markers += page.Markers
	f.locks = append(f.locks, page.Locks...)
	f.pages++
	f.units += page.Counts[ReadCapacityUnits]
	f.wire += page.WireBytes
	f.retries += page.Retries
	f.throttles += page.Throttles
}

// exactly fails the test unless each wanted entry was found once.
func (f *found) exactly(t testing.TB, want map[string]string) {
	t.Helper()
	for key, value := range want {
		if f.times[key] != 1 {
			t.Errorf("%q was read %d times", key, f.times[key])
		}
		if f.values[key] != value {
			t.Errorf("%q has a value of %d bytes, expected other %d bytes", key, len(f.values[key]), len(value))
		}
	}
	if len(f.times) != len(want) {
		t.Errorf("%d keys were read, expected %d", len(f.times), len(want))
	}
}

// TestDotMarker: a key that no copy can save is told of, once, be the page read
// by the fast decoder or by the other one.
func TestDotMarker(t *testing.T) {
	t.Parallel()
	for _, more := range []attrs{{"Value": null}, {"Value": null, "m": &types.AttributeValueMemberM{Value: attrs{}}}} {
		e := newEnv(t)
		e.put(with("logical/1111", "./", more), with("logical/1112", "./", more), with("logical/1111", ".", attrs{"Value": bin("x")}))
		s, rec := e.source()
		var got found
		e.ok(got.read(t.Context(), s, []copier.Span{{}, {}}))
		if w := eventsOf[copier.Warning](rec); len(w) != 1 || !strings.Contains(w[0].Message, `Path "logical/111`) || got.markers != 4 {
			t.Errorf("warnings %v, %d markers", w, got.markers)
		}
	}
}

func TestScan(t *testing.T) {
	eachServer(t, map[string]func(*env){
		"every entry once": func(e *env) {
			entries, totals := 1500, []int{1, 3, 64, 1000}
			if e.srv == nil {
				entries, totals = 900, []int{1, 3, 64}
			}
			want := e.fill(entries)
			s, _ := e.source()
			for _, total := range totals {
				segs, err := s.Split(e.Context(), total)
				e.ok(err)
				var f found
				e.ok(f.read(e.Context(), s, segs))
				f.exactly(e, want)
				if wantMarkers := int64((entries + 6) / 7); f.markers != wantMarkers || !slices.Equal(f.locks, []string{"core/_lock"}) {
					e.Errorf("%d segments: %d markers and locks %q, expected %d and core/_lock", total, f.markers, f.locks, wantMarkers)
				}
				if total == 1 && f.pages < 2 {
					e.Errorf("the table has %d pages: too few for this test", f.pages)
				}
				var bytes int64
				for k, v := range want {
					bytes += int64(len(k) + len(v))
				}
				if f.wire <= bytes {
					e.Errorf("%d segments: the responses had %d bytes, the entries %d", total, f.wire, bytes)
				}
				if total == 1 {
					if units := e.unitsOfScan(); f.units != units || units == 0 {
						e.Errorf("%v units were summed up, expected %v", f.units, units)
					}
				}
			}
		},
		"resume anywhere": func(e *env) {
			want := e.fill(700)
			s, _ := e.source()
			seen := map[string]string{}
			var b copier.Batch
			pages := 0
			for todo := []copier.Span{{}}; len(todo) > 0; pages++ {
				// What is left from here on, by another source and a token
				// that went through a file.
				saved, err := json.Marshal(todo)
				e.ok(err)
				var again []copier.Span
				e.ok(json.Unmarshal(saved, &again))
				other, _ := e.source()
				var rest found
				e.ok(rest.read(e.Context(), other, again))
				left := maps.Clone(want)
				for key := range seen {
					delete(left, key)
				}
				rest.exactly(e, left)

				b.Reset()
				page, err := s.Read(e.Context(), todo[0], &b)
				e.ok(err)
				for i := range b.Len() {
					seen[string(b.Entry(i).Key)] = string(b.Entry(i).Value)
				}
				todo = append(todo[1:], page.Next...)
			}
			if pages < 2 || !maps.Equal(seen, want) {
				e.Errorf("%d entries in %d pages, expected %d in several", len(seen), pages, len(want))
			}
		},
		"empty table": func(e *env) {
			got, page, err := e.readOne()
			e.ok(err)
			if len(got) != 0 || len(page.Next) != 0 || page.Markers != 0 || page.Locks != nil {
				e.Errorf("found %v, %+v", got, page)
			}
		},
		"prepared": func(e *env) {
			s, _ := e.source()
			info, err := s.Open(e.Context())
			e.ok(err)
			if info.Name != e.table || !strings.Contains(info.ID, "table/"+e.table) {
				e.Errorf("info is %+v", info)
			}
			id, created, _ := strings.Cut(info.Incarnation, "created ")
			at, err := time.Parse(time.RFC3339, created)
			// DynamoDB Local gives a table no id.
			if err != nil || (id == "") != (e.srv == nil) || !strings.HasSuffix(created, "Z") || time.Since(at) > time.Hour || time.Since(at) < 0 {
				e.Errorf("the incarnation is %q", info.Incarnation)
			}
			var facts Facts
			if ok, err := info.Facts.Get(FactsName, FactsVersion, &facts); err != nil || !ok || facts.TableID != strings.TrimSpace(id) ||
				!facts.Created.Equal(at) || facts.BillingMode != "PAY_PER_REQUEST" || facts.ReadUnits != 0 {
				e.Errorf("the facts are %+v, %v, %v", facts, ok, err)
			}
			again, err := s.Open(e.Context())
			if err != nil || !reflect.DeepEqual(again, info) {
				e.Errorf("info is now %+v, error %v", again, err)
			}
			_, err = e.db.DeleteTable(e.Context(), &dynamodb.DeleteTableInput{TableName: &e.table})
			e.ok(err)
			e.createTable()
			again, err = s.Open(e.Context())
			e.ok(err)
			if again.ID != info.ID || again.Incarnation == info.Incarnation {
				e.Errorf("a table of the same name has ID %q, incarnation %q; before %q, %q", again.ID, again.Incarnation, info.ID, info.Incarnation)
			}
		},
	})
}

// unitsOfScan is what a consistent scan costs, by the plain SDK.
func (e *env) unitsOfScan() (units float64) {
	e.Helper()
	pages := dynamodb.NewScanPaginator(e.db, &dynamodb.ScanInput{
		TableName: &e.table, ConsistentRead: aws.Bool(true), ReturnConsumedCapacity: types.ReturnConsumedCapacityTotal,
	})
	for pages.HasMorePages() {
		out, err := pages.NextPage(e.Context())
		e.ok(err)
		units += aws.ToFloat64(out.ConsumedCapacity.CapacityUnits)
	}
	return units
}

// TestScanRequest looks at what is asked for.
func TestScanRequest(t *testing.T) {
	t.Parallel()
	for _, eventually := range []bool{false, true} {
		e := newEnv(t)
		e.put(with("a", "b", attrs{"Value": bin("v")}))
		var mu sync.Mutex
		var bodies [][]byte
		e.srv.SetFaults(&dynamotest.Fault{Kind: dynamotest.Delay, Operation: "Scan", Match: func(r *dynamotest.Request) bool {
			mu.Lock()
			defer mu.Unlock()
			bodies = append(bodies, bytes.Clone(r.Body))
			return false
		}})
		s, _ := e.source(func(o *Options) { o.EventuallyConsistent = eventually })
		var b copier.Batch
		_, err := s.Read(t.Context(), segment(2, 5), &b)
		e.ok(err)
		_, err = s.Read(t.Context(), copier.Span{From: []byte(`{"segment":0,"of":1,"behind":{"path":"p","key":"k"}}`)}, &b)
		e.ok(err)
		mu.Lock()
		if len(bodies) != 2 {
			t.Fatalf("%d Scan requests", len(bodies))
		}
		var in, resumed struct {
			TableName, ReturnConsumedCapacity string
			ConsistentRead                    bool
			Segment, TotalSegments            int
			ExclusiveStartKey                 map[string]map[string]string
		}
		e.ok(json.Unmarshal(bodies[0], &in))
		e.ok(json.Unmarshal(bodies[1], &resumed))
		mu.Unlock()
		if in.TableName != "vault" || in.ConsistentRead == eventually || in.ReturnConsumedCapacity != "TOTAL" || in.Segment != 2 || in.TotalSegments != 5 ||
			in.ExclusiveStartKey != nil || resumed.Segment != 0 || resumed.TotalSegments != 1 || resumed.ExclusiveStartKey["Path"]["S"] != "p" || resumed.ExclusiveStartKey["Key"]["S"] != "k" {
			t.Errorf("the requests were %s", bodies)
		}
	}
}

func TestSegments(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	s, _ := e.source()
	for _, c := range []struct {
		bytes int64
		n     int
		want  int
	}{
		{0, 0, 64}, {64 * 8 << 20, 0, 64}, {100 * 8 << 20, 0, 100}, {1 << 50, 0, 4096},
		{1 << 50, 1, 1}, {0, 1_000_000, 1_000_000},
	} {
		s.info.Bytes = c.bytes
		segs, err := s.Split(t.Context(), c.n)
		e.ok(err)
		if len(segs) != c.want {
			t.Errorf("%d bytes, %d asked for: %d segments, expected %d", c.bytes, c.n, len(segs), c.want)
		}
		for i, seg := range segs {
			if at, err := parseToken(seg.From); err != nil || seg.Index != i || at != (token{Segment: i, Of: c.want}) {
				t.Fatalf("segment %d is %+v", i, seg)
			}
		}
	}
	if _, err := s.Split(t.Context(), 1_000_001); !errors.Is(err, copier.ErrConfig) {
		t.Errorf("1,000,001 segments: %v", err)
	}
}

func TestScanCancelled(t *testing.T) { inBubble(t, scanCancelled) }

func scanCancelled(t *testing.T) {
	e := bubbleEnv(t, dynamotest.Options{})
	e.fill(50)
	e.srv.SetFaults(&dynamotest.Fault{Kind: dynamotest.Delay, Delay: time.Minute, Operation: "Scan"})
	s, rec := e.source()
	why := errors.New("the operator said so")
	ctx, cancel := context.WithCancelCause(t.Context())
	time.AfterFunc(30*time.Millisecond, func() { cancel(why) })
	var b copier.Batch
	start := time.Now()
	_, err := s.Read(ctx, copier.Span{}, &b)
	if !errors.Is(err, why) || b.Len() != 0 {
		t.Errorf("error %v, %d entries", err, b.Len())
	}
	if d := time.Since(start); d > time.Second {
		t.Errorf("it took %v", d)
	}
	if r := eventsOf[copier.Retried](rec); len(r) != 0 {
		t.Errorf("what was cancelled was retried: %v", r)
	}
}

func TestBadResumeToken(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	s, _ := e.source()
	var b copier.Batch
	for _, token := range []string{"{", `{"segment":0,"of":1,"behind":{"path":"","key":""}}`, "null", "{}", `{"segment":3,"of":3}`, `{"segment":-1,"of":3}`,
		`{"segment":0,"of":1000001}`} {
		if _, err := s.Read(t.Context(), copier.Span{From: []byte(token)}, &b); !errors.Is(err, copier.ErrSource) {
			t.Errorf("token %q: %v", token, err)
		}
	}
}
