package plan

import (
	"bytes"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/dynamodb/types"

	"github.com/dyn2raft/dyn2raft/copier"
	"github.com/dyn2raft/dyn2raft/sources/dynamodb/dynamotest"
)

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
	opts.Estimate.Full, opts.Estimate.SampleTime = true, time.Nanosecond // which does not count
	var mu sync.Mutex
	named := map[string]int{}
	var entries int64
	opts.Estimate.Events = func(ev copier.Event) {
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
	if most := units*0.1*(s.Seconds+1) + 5*8; s.Units > most || s.Units < 400 {
		t.Errorf("%.1f units in %.1f s, expected at most %.1f", s.Units, s.Seconds, most)
	}
}

// TestFullOfSoundTable says so, and wants a cap where the table has none.
func TestFullOfSoundTable(t *testing.T) {
	t.Parallel()
	e := newEnv(t, dynamotest.Options{})
	opts := e.options()
	opts.Estimate.Full = true
	if _, err := Run(t.Context(), opts); !errors.Is(err, ErrFullCapacity) {
		t.Fatalf("error is %v", err)
	}
	opts = e.options()
	opts.Estimate.Full, opts.Estimate.ReadCapacity = true, 1000
	rep, err := Run(t.Context(), opts)
	e.ok(err)
	if got := find(t, rep, "items"); got.Status != copier.Passed || !strings.HasPrefix(got.Message, "the whole table was read: all ") {
		t.Errorf("%+v", got)
	}
	// A table that can't be read to its end proves nothing.
	e.srv.SetFaults(&dynamotest.Fault{Kind: dynamotest.AccessDenied, Operation: "Scan", After: 3})
	opts = e.options()
	opts.Estimate.Full, opts.Estimate.ReadCapacity = true, 1000
	rep, err = Run(t.Context(), opts)
	e.ok(err)
	if got := find(t, rep, "items"); got.Status != copier.Failed || !strings.HasPrefix(got.Message, "the table could not be read to its end: ") {
		t.Errorf("%+v", got)
	}
}

// A sample reads eventually consistent and takes a tenth of what is
// provisioned.
func TestSampleIsModest(t *testing.T) {
	t.Parallel()
	e := newEnv(t, dynamotest.Options{Provisioned: true})
	// All alike: what a page costs is known before. One with larger entries than
	// those before it costs more, and the next ones wait for that; see the
	// source's tests.
	for i := range 20_000 {
		e.ok(e.srv.PutVaultEntry(dynamotest.VaultTable, fmt.Sprintf("logical/%03d/%02d", i/100, i%100), make([]byte, 800)))
	}
	const units = 400
	e.ok(e.srv.SetCapacity(dynamotest.VaultTable, units, 10))
	var strong atomic.Int64
	e.srv.SetFaults(&dynamotest.Fault{Kind: dynamotest.Delay, Delay: time.Nanosecond, Operation: "Scan", Match: func(r *dynamotest.Request) bool {
		if bytes.Contains(r.Body, []byte(`"ConsistentRead":true`)) {
			strong.Add(1)
		}
		return false
	}})
	opts := e.options()
	opts.Estimate.SampleTime = 2 * time.Second
	rep, err := Run(t.Context(), opts)
	e.ok(err)
	s := rep.Estimate.Sample
	// One second's worth is there at the start. What the first pages cost, of an
	// item and of a few, is rounded up and learnt from.
	if most := units*0.1*(s.Seconds+1) + 10; s.Units > most || s.Units <= 0 || s.Throttled || s.Complete {
		t.Errorf("%+v, expected at most %f units", s, most)
	}
	if strong.Load() != 0 {
		t.Errorf("%d requests were strongly consistent", strong.Load())
	}
}

// A sample of a few entries tells less than the table.
func TestTinySample(t *testing.T) {
	t.Parallel()
	e := newEnv(t, dynamotest.Options{})
	if _, err := (dynamotest.VaultShape{Entries: 20_000, Seed: 7}).Load(e.srv, dynamotest.VaultTable); err != nil {
		t.Fatal(err)
	}
	e.ok(e.srv.SetCapacity(dynamotest.VaultTable, 5, 5))
	opts := e.options()
	opts.Estimate.SampleTime = time.Second
	rep, err := Run(t.Context(), opts)
	e.ok(err)
	est := rep.Estimate
	if est.Sample == nil || est.Sample.Units > 4 || est.Entries < 20_000 || est.Entries > 30_000 || len(est.Sizes) != 0 || est.Limit != copier.LimitTable {
		t.Errorf("%+v, sample %+v", est, est.Sample)
	}
}

// The first throttle ends it.
func TestSampleEndsWhenThrottled(t *testing.T) {
	t.Parallel()
	e := newEnv(t, dynamotest.Options{Latency: 20 * time.Millisecond})
	if _, err := (dynamotest.VaultShape{Entries: 20_000, Seed: 7}).Load(e.srv, dynamotest.VaultTable); err != nil {
		t.Fatal(err)
	}
	throttle := &dynamotest.Fault{Kind: dynamotest.ThroughputExceeded, Operation: "Scan", After: 12} // one is a probe
	e.srv.SetFaults(throttle)
	opts := e.options()
	opts.Estimate.SampleTime = time.Hour
	rep, err := Run(t.Context(), opts)
	e.ok(err)
	if s := rep.Estimate.Sample; s == nil || !s.Throttled || s.Entries == 0 || throttle.Fired() > s.Workers {
		t.Errorf("%+v, throttled %d times", s, throttle.Fired())
	}
	if got := find(t, rep, "sample"); got.Status != copier.Warned {
		t.Errorf("%+v", got)
	}
}

func TestSizeMix(t *testing.T) {
	t.Parallel()
	e := newEnv(t, dynamotest.Options{})
	for i, n := range []int{10, 2000, 9000, 9001, 50_000, 200_000} {
		e.ok(e.srv.PutVaultEntry(dynamotest.VaultTable, fmt.Sprintf("x/%d", i), make([]byte, n)))
	}
	rep, err := Run(t.Context(), e.options())
	e.ok(err)
	var got []float64
	for _, c := range rep.Estimate.Sizes {
		got = append(got, math.Round(c.Share*11)) // 5 small ones of newEnv
	}
	if want := []float64{6, 1, 2, 1, 1}; !slices.Equal(got, want) || rep.Estimate.Largest != 200_003 {
		t.Errorf("%v of %+v, expected %v", got, rep.Estimate, want)
	}
}
