package dynamodb

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	"github.com/dyn2raft/dyn2raft/copier"
	"github.com/dyn2raft/dyn2raft/sources/dynamodb/dynamotest"
)

// TestBucket lets one worker read pages of all sizes: what it has consumed is
// never more than the rate allows, and one second's worth, and by how much the
// last page cost more than was thought.
func TestBucket(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		rapid.Check(struct{ rapid.TB }{t}, testBucket) // without a Deadline, which a bubble has not
	})
}

func testBucket(t *rapid.T) {
	rate := rapid.Float64Range(0.5, 2000).Draw(t, "rate")
	b := newBucket(rate, rapid.Bool().Draw(t, "consistent"))
	start := time.Now()
	item := rapid.Float64Range(0.02, 100).Draw(t, "units of an item")
	var used float64
	for range rapid.IntRange(1, 200).Draw(t, "pages") {
		limit, cost := b.plan()
		if limit > 0 != (b.full > 2*rate) {
			t.Fatalf("limit %d at %v units a second", limit, rate)
		}
		if cost <= 0 {
			t.Fatalf("a page shall cost %v", cost)
		}
		if err := b.take(t.Context(), cost); err != nil {
			t.Fatal(err)
		}
		if rapid.IntRange(0, 9).Draw(t, "fails") == 0 {
			b.give(cost)
			continue
		}
		items := math.Ceil(b.full / item)
		if limit > 0 {
			items = min(items, float64(limit))
		}
		items = float64(rapid.IntRange(0, int(items)).Draw(t, "items"))
		units := max(1, math.Ceil(2*items*item)/2) // DynamoDB counts in halves
		used += units
		b.learn(cost, units, int64(items), int64(items*item*5000))
		over := max(0, units-cost)
		if allowed := rate*(time.Since(start).Seconds()+1) + over + 0.01*(1+used/1000); used > allowed {
			t.Fatalf("%v units within %v, allowed are %v", used, time.Since(start), allowed)
		}
	}
	if got, want := time.Duration(b.waited.Load()), time.Since(start); got != want {
		t.Fatalf("waited %v, %v have passed", got, want)
	}
}

// TestBucketGivesAll: what is allowed can be used, so that a cap does not cost
// more than it must.
func TestBucketGivesAll(t *testing.T) { inBubble(t, bucketGivesAll) }

func bucketGivesAll(t *testing.T) {
	for _, rate := range []float64{1, 5, 40, 200, 1000} {
		b := newBucket(rate, true)
		start := time.Now()
		const item = 0.25 // units
		left, pages := 100_000, 0
		for ; left > 0; pages++ {
			limit, cost := b.plan()
			if err := b.take(t.Context(), cost); err != nil {
				t.Fatal(err)
			}
			items := min(left, int(256/item))
			if limit > 0 {
				items = min(items, limit)
			}
			left -= items
			b.learn(cost, max(1, math.Ceil(float64(items)*item)), int64(items), int64(float64(items)*item*5000))
		}
		took, least := time.Since(start).Seconds(), 100_000*item/rate
		if slack := 1.05 + 1/(rate+2); took > slack*least+2 || // by the rounding of small pages
			float64(pages) > 2*max(100_000*item/256, 1.3*least)+20 {
			t.Errorf("%v units a second: %d pages in %.0f s, %.0f s are enough", rate, pages, took, least)
		}
	}
}

// TestBucketIsFair: those who wait get what is there in the order in which they
// came, however much each of them takes.
func TestBucketIsFair(t *testing.T) { inBubble(t, bucketIsFair) }

func bucketIsFair(t *testing.T) {
	b := newBucket(10, true)
	var mu sync.Mutex
	var order []int
	var wg sync.WaitGroup
	for i, units := range []float64{30, 5, 0.5, 50, 1} {
		wg.Go(func() {
			if err := b.take(t.Context(), units); err != nil {
				t.Error(err)
			}
			mu.Lock()
			defer mu.Unlock()
			order = append(order, i)
		})
		synctest.Wait()
	}
	wg.Wait()
	if !slices.Equal(order, []int{0, 1, 2, 3, 4}) {
		t.Errorf("served in the order %v", order)
	}
}

// TestBucketDebt: what a page has cost more than was thought is paid by those who
// wait already, and what it has cost less comes to them.
func TestBucketDebt(t *testing.T) { inBubble(t, bucketDebt) }

func bucketDebt(t *testing.T) {
	for given, want := range map[float64]time.Duration{0: 2 * time.Second, -15: 3500 * time.Millisecond, 15.5: 450 * time.Millisecond, 25: 0} {
		b := newBucket(10, true)
		start := time.Now()
		if err := b.take(t.Context(), 10); err != nil { // what is there
			t.Fatal(err)
		}
		var wg sync.WaitGroup
		wg.Go(func() {
			if err := b.take(t.Context(), 20); err != nil {
				t.Error(err)
			}
			if got := time.Since(start).Round(time.Millisecond); got != want {
				t.Errorf("%v given back: it waited for %v, expected %v", given, got, want)
			}
		})
		synctest.Wait()
		b.give(given)
		wg.Wait()
	}
}

// TestBucketOfMany: workers that begin at the same time, when nobody knows what
// a page costs, use what the cap allows from the first second on, and no more.
func TestBucketOfMany(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ rate, item, page float64 }{
		{40, 0.25, 256}, {50, 0.25, 256}, {5, 0.05, 256}, {50, 30, 256}, {200, 0.25, 8}, {1000, 0.25, 256},
	} {
		synctest.Test(t, func(t *testing.T) {
			b := newBucket(c.rate, true)
			start := time.Now()
			var mu sync.Mutex
			var used, over float64
			first := map[int]float64{} // used by the end of that second
			var wg sync.WaitGroup
			for range 8 {
				wg.Go(func() {
					for time.Since(start) < 20*time.Second {
						limit, cost := b.plan()
						if err := b.take(t.Context(), cost); err != nil {
							t.Error(err)
							return
						}
						items := c.page / c.item
						if limit > 0 {
							items = min(items, float64(limit))
						}
						units := max(1, math.Ceil(items*c.item))
						mu.Lock() // it is consumed when it is sent, whenever that is learnt
						used += units
						over += max(0, units-cost)
						since := time.Since(start).Seconds()
						if allowed := c.rate*(since+1) + over + 1e-3; used > allowed {
							t.Errorf("%+v: %v units within %v s, allowed are %v", c, used, since, allowed)
						}
						first[int(since)] = used
						mu.Unlock()
						time.Sleep(5 * time.Millisecond)
						b.learn(cost, units, int64(items), int64(items*c.item*5000))
					}
				})
			}
			wg.Wait()
			// A page may cost a second's worth, and the last ones are under way.
			largest := max(c.rate, c.item, min(c.page, 2*c.rate))
			for _, second := range []int{6, 19} {
				if least := 0.85*c.rate*float64(second+1) - 2*largest; first[second] < least {
					t.Errorf("%+v: %v units within %d s, expected at least %v", c, first[second], second+1, least)
				}
			}
		})
	}
}

// TestBucketCancelled: what was waited for and not used is not owed.
func TestBucketCancelled(t *testing.T) { inBubble(t, bucketCancelled) }

func bucketCancelled(t *testing.T) {
	b := newBucket(1, true)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := b.take(ctx, 1000); !errors.Is(err, context.Canceled) {
		t.Errorf("error is %v", err)
	}
	start := time.Now()
	if err := b.take(t.Context(), 0.5); err != nil || time.Since(start) != 0 {
		t.Errorf("what was not used is owed: %v, %v", time.Since(start), err)
	}
	if err := newBucket(0, true).take(ctx, 1000); err != nil {
		t.Errorf("no cap: %v", err)
	}
}

// TestReadCapacity measures what a table is asked for, on each server.
func TestReadCapacity(t *testing.T) {
	eachServer(t, map[string]func(*env){
		"consumed": func(e *env) {
			const rate = 60.0
			var want map[string]string
			for n := 500; ; n += 100 { // about 150 units of items
				if want = e.fill(n); e.unitsOfScan() > 150 {
					break
				}
			}
			s, _ := e.source(func(o *Options) { o.ReadCapacity = rate })
			start := time.Now()
			type use struct {
				at    time.Duration
				units float64
			}
			var mu sync.Mutex
			var uses []use
			var wg sync.WaitGroup
			var got found
			got.times, got.values = map[string]int{}, map[string]string{}
			for _, seg := range segments(6) {
				wg.Go(func() {
					for todo := []copier.Span{seg}; len(todo) > 0; {
						var b copier.Batch
						page, err := s.Read(e.Context(), todo[0], &b)
						if err != nil {
							e.Error(err)
							return
						}
						mu.Lock()
						uses = append(uses, use{time.Since(start), page.Counts[ReadCapacityUnits]})
						mu.Unlock()
						got.add(&b, page)
						todo = append(todo[1:], page.Next...)
					}
				})
			}
			wg.Wait()
			got.exactly(e, want)
			var sum, most float64
			for _, u := range uses {
				sum += u.units
				most = max(most, u.units)
				// An item of 350 kB is 86 units, whatever the Limit.
				if allowed := rate*(u.at.Seconds()+1) + 6*90; sum > allowed {
					e.Errorf("%v units within %v, allowed are %v", sum, u.at, allowed)
				}
			}
			took := time.Since(start).Seconds()
			if least := sum/rate - 2; took < least {
				e.Errorf("%v units within %v s, expected at least %v", sum, took, least)
			}
			if most > 256/2+90 || sum > 3*e.unitsOfScan() {
				e.Errorf("a page cost %v units, all of them %v", most, sum)
			}
			if e.srv != nil && s.Waited() < 500*time.Millisecond {
				e.Errorf("waited %v", s.Waited())
			}
		},
		"no cap": func(e *env) {
			want := e.fill(100)
			s, _ := e.source()
			var got found
			e.ok(got.read(e.Context(), s, segments(6)))
			got.exactly(e, want)
			if s.Waited() != 0 {
				e.Errorf("waited %v", s.Waited())
			}
		},
	})
}

// TestReadCapacityOfTries: what was refused costs nothing, and what was lost on
// the way back does.
func TestReadCapacityOfTries(t *testing.T) { inBubble(t, readCapacityOfTries) }

func readCapacityOfTries(t *testing.T) {
	for kind, costs := range map[dynamotest.FaultKind]bool{
		dynamotest.ThroughputExceeded: false, dynamotest.InternalServerError: false,
		dynamotest.WrongCRC: true, dynamotest.Truncate: true,
	} {
		e := bubbleEnv(t, dynamotest.Options{})
		e.put(with("a", "b", attrs{"Value": bin("v")}))
		s, _ := e.source(func(o *Options) { o.ReadCapacity = 10 })
		e.srv.SetFaults(&dynamotest.Fault{Kind: kind, Count: 20})
		var b copier.Batch
		_, err := s.Read(t.Context(), copier.Span{}, &b)
		e.ok(err)
		if (s.Waited() > 10*time.Second) != costs {
			t.Errorf("%s: waited %v", kind, s.Waited())
		}
	}
}

// TestReadCapacitySplits: a hot Path is not split because of pages that are
// small on purpose, and is where they are large.
func TestReadCapacitySplits(t *testing.T) {
	t.Parallel()
	for rate, split := range map[float64]bool{30: false, 1000: true} {
		t.Run(fmt.Sprint(rate), func(t *testing.T) {
			inBubble(t, func(t *testing.T) { readCapacitySplits(t, rate, split) })
		})
	}
}

func readCapacitySplits(t *testing.T, rate float64, split bool) {
	e := bubbleEnv(t, dynamotest.Options{})
	want := e.fillHot(300)
	var mu sync.Mutex
	limits := 0
	e.srv.SetFaults(&dynamotest.Fault{Kind: dynamotest.Delay, Match: func(r *dynamotest.Request) bool {
		mu.Lock()
		defer mu.Unlock()
		if r.Operation == "Scan" && bytes.Contains(r.Body, []byte(`"Limit"`)) {
			limits++
		}
		return false
	}})
	s, _ := e.source(func(o *Options) { o.ReadCapacity = rate })
	splits := 0
	for todo := []copier.Span{{}}; len(todo) > 0; {
		var b copier.Batch
		page, err := s.Read(t.Context(), todo[0], &b)
		e.ok(err)
		if len(page.Next) > 1 {
			splits++
		}
		todo = append(todo[1:], page.Next...)
		for i := range b.Len() {
			delete(want, string(b.Entry(i).Key))
		}
	}
	mu.Lock()
	defer mu.Unlock()
	if len(want) > 0 || (splits > 0) != split || (limits > 0) == split {
		t.Errorf("%d entries are missing, %d splits, %d limits", len(want), splits, limits)
	}
}

// TestReadCapacityOfARange: a range of Keys read with a Limit stays one range.
func TestReadCapacityOfARange(t *testing.T) { inBubble(t, readCapacityOfARange) }

func readCapacityOfARange(t *testing.T) {
	e := bubbleEnv(t, dynamotest.Options{})
	e.fillHot(50)
	s, _ := e.source(func(o *Options) { o.ReadCapacity = 5 })
	from := token{Of: 1, Behind: &position{Path: "sys/token/id", Key: "a", To: "z"}}
	seg, pages := copier.Span{From: from.encode()}, 0
	for ; ; pages++ {
		var b copier.Batch
		page, err := s.Read(t.Context(), seg, &b)
		e.ok(err)
		if len(page.Next) == 0 {
			break
		}
		if len(page.Next) > 1 {
			t.Fatalf("split into %d", len(page.Next))
		}
		seg = page.Next[0]
		if !strings.Contains(string(seg.From), `"to":"z"`) {
			t.Fatalf("the range became %s", seg.From)
		}
	}
	if pages < 5 {
		t.Errorf("%d pages", pages)
	}
}
