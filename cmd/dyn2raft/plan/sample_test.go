package plan

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/dynamodb/types"

	"github.com/dyn2raft/dyn2raft/copier"
	"github.com/dyn2raft/dyn2raft/copier/copiertest"
	"github.com/dyn2raft/dyn2raft/sources/dynamodb/dynamotest"
)

// hot is a source of which one segment has many pages, as that of a Path with all
// tokens has, and each of the others one.
type hot struct {
	pages int // of segment 0
	value []byte
}

func (h hot) Open(context.Context) (copier.Info, error) { return copier.Info{}, nil }

func (h hot) Split(context.Context, int) ([]copier.Span, error) { return nil, nil }

func (h hot) Read(_ context.Context, seg copier.Span, b *copier.Batch) (copier.Page, error) {
	n := len(seg.From)
	b.Append(fmt.Appendf(nil, "logical/%03d/%06d", seg.Index, n), h.value)
	if seg.Index == 0 && n+1 < h.pages {
		seg.From = bytes.Repeat([]byte{'x'}, n+1)
		return copier.Page{Next: []copier.Span{seg}}, nil
	}
	return copier.Page{}, nil
}

// What was sampled is copied again, as an estimate: it is a source like any other.
func TestAgainKeepsContract(t *testing.T) {
	t.Parallel()
	var batch copier.Batch
	var want []copier.Entry
	for i := range 40 {
		e := copier.Entry{Key: fmt.Appendf(nil, "logical/%03d", i*7%40), Value: make([]byte, 100<<10)}
		batch.Append(e.Key, e.Value)
		want = append(want, e)
	}
	copiertest.TestSource(t, func() copier.Source { return newAgain(&batch, batch.Bytes()) }, want)
}

// A sample of a table, most of which is in one segment, is not of first pages only.
func TestSampleOfHotPath(t *testing.T) {
	t.Parallel()
	s := &sampler{limit: 1, src: hot{pages: 200, value: make([]byte, 1<<20)}, end: func(error) {}, events: func(copier.Event) {}}
	for i := range 64 {
		s.queue = append(s.queue, copier.Span{Index: i})
	}
	s.segments = 64
	if err := s.run(t.Context()); err != nil && !errors.Is(err, errSampleOver) {
		t.Fatal(err)
	}
	var begun int64
	for i := range s.batch.Len() {
		if bytes.HasPrefix(s.batch.Entry(i).Key, []byte("logical/000/")) {
			begun++
		}
	}
	if s.complete || s.entries < 40 || begun < s.entries*4/10 || begun > s.entries*6/10 {
		t.Errorf("%d of %d entries are of the segment that has most, complete %v", begun, s.entries, s.complete)
	}
}

// What is made of a sample is as large as it is asked for, has no key twice, and has
// the order within a Path that a table has.
func TestAgain(t *testing.T) {
	t.Parallel()
	var sample copier.Batch
	for path := range 50 {
		for i := range 20 {
			sample.Append(fmt.Appendf(nil, "logical/%d/%03d", path*7%50, i), make([]byte, 1000))
		}
	}
	sample.Append([]byte("root"), []byte("x"))
	for _, size := range []int64{1, 100_000, 1 << 20, 10 << 20} {
		a := newAgain(&sample, size)
		segs, err := a.Split(t.Context(), 0)
		if err != nil {
			t.Fatal(err)
		}
		var all copier.Batch
		var keys [][]byte
		turns := map[string]int{} // of each Path
		breaks := 0
		for _, seg := range segs {
			var b copier.Batch
			page, err := a.Read(t.Context(), seg, &b)
			if err != nil || len(page.Next) > 0 || b.Len() == 0 || b.Bytes() > 1<<20+2000 {
				t.Fatalf("%d entries of %d bytes, %+v, %v", b.Len(), b.Bytes(), page, err)
			}
			var before []byte
			for i := range b.Len() {
				key := b.Entry(i).Key
				dir := key[:bytes.LastIndexByte(key, '/')+1]
				if !bytes.HasPrefix(before, dir) || bytes.Compare(before, key) >= 0 {
					breaks++
				}
				before = key
				turn := a.pages[seg.Index].turn
				if was, ok := turns[string(dir)]; ok && was != turn && len(dir) > 0 {
					t.Fatalf("%s is in the turns %d and %d", key, was, turn)
				}
				turns[string(dir)] = turn
				keys = append(keys, slices.Clone(key))
				all.Append(key, b.Entry(i).Value)
			}
		}
		if all.Bytes() < size || all.Bytes() > size+size/100+2000 {
			t.Errorf("%d bytes, expected %d", all.Bytes(), size)
		}
		if most := len(keys)/20 + 2*len(segs) + int(size/sample.Bytes()) + 1; breaks > most {
			t.Errorf("the order of Paths is broken %d times in %d entries, expected at most %d", breaks, len(keys), most)
		}
		slices.SortFunc(keys, bytes.Compare)
		if n := len(slices.CompactFunc(slices.Clone(keys), bytes.Equal)); n != len(keys) {
			t.Errorf("%d keys of %d are there twice", len(keys)-n, len(keys))
		}
	}
}

// A table of markers has a sample without entries.
func TestAgainWithoutEntries(t *testing.T) {
	t.Parallel()
	a := newAgain(new(copier.Batch), 1<<20)
	segs, err := a.Split(t.Context(), 0)
	if err != nil || len(segs) != 1 {
		t.Fatalf("%v, %v", segs, err)
	}
	var b copier.Batch
	if page, err := a.Read(t.Context(), segs[0], &b); err != nil || b.Len() != 0 || len(page.Next) != 0 {
		t.Errorf("%d entries, %+v, %v", b.Len(), page, err)
	}
}

// refuse puts n items into the table that a copy refuses, far from one another.
func (e *env) refuse(n int) {
	e.Helper()
	for i := range n {
		e.item(fmt.Sprintf("foreign/%03d", i), "k", map[string]types.AttributeValue{"Value": &types.AttributeValueMemberS{Value: "SECRET"}})
	}
}

// What the sample meets and a copy refuses is a failure, and every such item of
// the sample is named.
func TestSampleNamesRefusedItems(t *testing.T) {
	t.Parallel()
	e := newEnv(t, dynamotest.Options{})
	e.refuse(7)
	rep, err := Run(t.Context(), e.options())
	e.ok(err)
	got := find(t, rep, "items")
	if got.Status != copier.Failed || !strings.HasPrefix(got.Message, "a copy refuses 7 items that are not Vault's: ") || strings.Contains(got.Message, "SECRET") || rep.Ready() {
		t.Errorf("%+v", got)
	}
	for i := range 7 {
		if want := fmt.Sprintf(`Path "foreign/%03d", Key "k" has a Value of type S`, i); !strings.Contains(got.Message, want) {
			t.Errorf("%q does not say %q", got.Message, want)
		}
	}
	if !rep.Estimate.Sample.Complete {
		t.Error("the sample ended at such an item")
	}
}

// TestFull reads the whole table, and names all that a copy refuses, each once and
// when it is met; it takes a tenth of the table's units at the most.
func TestFull(t *testing.T) {
	t.Parallel()
	e := newEnv(t, dynamotest.Options{Provisioned: true})
	for i := range 4_000 {
		e.ok(e.srv.PutVaultEntry(dynamotest.VaultTable, fmt.Sprintf("logical/%03d/%02d", i/100, i%100), make([]byte, 800)))
	}
	e.refuse(150)
	const units = 1500
	e.ok(e.srv.SetCapacity(dynamotest.VaultTable, units, 10))
	var strong atomic.Int64
	e.srv.SetFaults(&dynamotest.Fault{Kind: dynamotest.Delay, Delay: time.Nanosecond, Operation: "Scan", Match: func(r *dynamotest.Request) bool {
		if bytes.Contains(r.Body, []byte(`"ConsistentRead":true`)) {
			strong.Add(1)
		}
		return false
	}})
	opts := e.options()
	opts.Full, opts.SampleTime = true, time.Nanosecond // which does not count
	var mu sync.Mutex
	named := map[string]int{}
	var entries int64
	opts.Events = func(ev copier.Event) {
		mu.Lock()
		defer mu.Unlock()
		switch ev := ev.(type) {
		case copier.ItemRefused:
			named[ev.Err.Error()]++
		case copier.PageRead:
			entries += ev.Entries
		}
	}
	rep, err := Run(t.Context(), opts)
	e.ok(err)
	got := find(t, rep, "items")
	if got.Status != copier.Failed || !strings.HasPrefix(got.Message, "a copy refuses 150 items") || strings.Contains(got.Hint, "-full") {
		t.Errorf("%+v", got)
	}
	s := rep.Estimate.Sample
	if len(named) != 150 || !s.Complete || entries != s.Entries || strong.Load() != 0 {
		t.Errorf("%d items were named, %d entries, %d strongly consistent requests, %+v", len(named), entries, strong.Load(), s)
	}
	// One second's worth is there at the start. What each worker's page costs beyond
	// what was taken for it is owed, at the end too.
	if most := units*sampleShare*(s.Seconds+1) + 5*fullWorkers; s.Units > most || s.Units < 400 {
		t.Errorf("%.1f units in %.1f s, expected at most %.1f", s.Units, s.Seconds, most)
	}
}

// TestFullOfSoundTable says so, and wants a cap where the table has none.
func TestFullOfSoundTable(t *testing.T) {
	t.Parallel()
	e := newEnv(t, dynamotest.Options{})
	opts := e.options()
	opts.Full = true
	if _, err := Run(t.Context(), opts); !errors.Is(err, ErrFullCapacity) {
		t.Fatalf("error is %v", err)
	}
	opts = e.options()
	opts.Full, opts.ReadCapacity = true, 1000
	rep, err := Run(t.Context(), opts)
	e.ok(err)
	if got := find(t, rep, "items"); got.Status != copier.Passed || !strings.HasPrefix(got.Message, "the whole table was read: all ") {
		t.Errorf("%+v", got)
	}
	// A table that can't be read to its end proves nothing.
	e.srv.SetFaults(&dynamotest.Fault{Kind: dynamotest.AccessDenied, Operation: "Scan", After: 3})
	opts = e.options()
	opts.Full, opts.ReadCapacity = true, 1000
	rep, err = Run(t.Context(), opts)
	e.ok(err)
	if got := find(t, rep, "items"); got.Status != copier.Failed || !strings.HasPrefix(got.Message, "the table could not be read to its end: ") {
		t.Errorf("%+v", got)
	}
}
