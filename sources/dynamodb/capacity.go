package dynamodb

import (
	"context"
	"math"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/time/rate"
)

// unitBytes is what one read capacity unit reads consistently.
const unitBytes = 4096

// fullPage is the size at which DynamoDB ends a page.
const fullPage = 1 << 20

// A bucket is a token bucket for the read capacity units that a source consumes. It
// fills at a fixed rate, up to one second's worth. A request takes its estimated cost
// before it is sent, and waits until the bucket has that. The response says what it
// cost. If that was less, the difference is put back; if it was more, the difference
// is taken too, and the bucket may be below zero.
//
// Where a full page costs more than two seconds' worth, Limit makes pages smaller: a
// small table is not hit by 256 units at once. The first page has one item. The size of
// the items read so far says how many fit into the next.
//
// A bucket without a rate caps nothing.
type bucket struct {
	rate float64 // units a second; 0 is no cap
	full float64 // units of a full page

	tokens *rate.Limiter // in thousandths of a unit: it counts in whole ones
	turn   chan struct{} // held by the one who waits for tokens; others wait for it in the order in which they came
	given  chan struct{} // has room for one: wakes the one who waits
	waited atomic.Int64  // in ns

	// adapts has it fill more slowly once a request was throttled: see slow.
	adapts bool
	// open has it hold nothing back: nobody else needs the capacity now.
	open atomic.Bool

	mu      sync.Mutex
	slowed  time.Time // when it was last made slower
	changed time.Time // when it was last made slower or faster
	page    float64   // running mean of a page's units
	item    float64   // units of an item: up at once, down as a running mean; 0 until one was read
	limit   int       // items of the last page that was asked for
}

const thousandths = 1000

func newBucket(unitsPerSecond float64, consistent bool) *bucket {
	full := float64(fullPage) / unitBytes
	if !consistent {
		full /= 2
	}
	perSecond := unitsPerSecond * thousandths
	return &bucket{rate: unitsPerSecond, full: full, page: full, turn: make(chan struct{}, 1), given: make(chan struct{}, 1),
		tokens: rate.NewLimiter(rate.Limit(perSecond), max(1, int(min(perSecond, math.MaxInt32))))}
}

// newAdaptingBucket is a bucket that fills at a rate of its own at first, and then between
// a hundredth of the highest one and that.
func newAdaptingBucket(first, most float64, consistent bool) *bucket {
	b := newBucket(most, consistent)
	b.adapts = true
	b.tokens.SetLimit(rate.Limit(min(first, most) * thousandths))
	return b
}

const (
	slowAgain = time.Second      // how often it is made slower at most
	fastAgain = 10 * time.Second // how often it is made faster, by a tenth
)

// slow halves the rate: what throttles our requests may throttle a Vault's, which then
// can't renew its lock.
func (b *bucket) slow() {
	if !b.adapts {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if now := time.Now(); now.Sub(b.slowed) >= slowAgain {
		b.slowed, b.changed = now, now
		b.tokens.SetLimit(max(b.tokens.Limit()/2, rate.Limit(b.rate*thousandths/100)))
	}
}

// quicken makes the rate a little higher, where it was not changed for a while.
func (b *bucket) quicken() {
	if !b.adapts {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if now := time.Now(); now.Sub(b.changed) >= fastAgain {
		b.changed = now
		b.tokens.SetLimit(min(b.tokens.Limit()*1.1, rate.Limit(b.rate*thousandths)))
	}
}

// plan returns the Limit of the next page, 0 for none, and what it will
// probably cost.
func (b *bucket) plan() (limit int, units float64) {
	if b.rate <= 0 {
		return 0, 0
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	switch {
	case b.full <= 2*b.rate:
		return 0, b.page
	case b.item <= 0:
		b.limit = 1
		return 1, max(b.rate, 1)
	}
	// Twice as many as the last time at the most: the next items may be larger.
	fit := int(min(max(b.rate, 1)/b.item, math.MaxInt32/2))
	b.limit = max(1, min(fit, 2*b.limit))
	return b.limit, max(1, float64(b.limit)*b.item)
}

// learn accounts for a page: the units taken for it, and the units that it cost. The
// cost is rounded up. The size of the response, which is a little larger than its
// items, narrows down what the cost was before rounding.
func (b *bucket) learn(taken, units float64, items, wireBytes int64) {
	if b.rate <= 0 {
		return
	}
	b.give(taken - units)
	b.mu.Lock()
	defer b.mu.Unlock()
	const weight = 0.2 // of the newest page
	b.page += weight * (units - b.page)
	if items == 0 {
		return
	}
	one := b.full * unitBytes / fullPage // what the price goes up by
	exact := min(units, max(units-one, float64(wireBytes)/fullPage*b.full))
	if each := exact / float64(items); each > b.item {
		b.item = each // at once: what comes next is probably as large
	} else {
		b.item += weight * (each - b.item)
	}
}

// take takes units, and waits until they are there.
func (b *bucket) take(ctx context.Context, units float64) error {
	if b.rate <= 0 || units == 0 {
		return nil
	}
	if b.open.Load() {
		return nil
	}
	b.quicken()
	began := time.Now()
	defer func() { b.waited.Add(int64(time.Since(began))) }()
	select {
	case b.turn <- struct{}{}:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	defer func() { <-b.turn }()
	b.spend(units)
	for {
		owed := -b.tokens.Tokens()
		if owed <= 0 {
			return nil
		}
		t := time.NewTimer(time.Duration(math.Ceil(owed / float64(b.tokens.Limit()) * float64(time.Second))))
		select {
		case <-t.C:
		case <-b.given:
		case <-ctx.Done():
			t.Stop()
			b.spend(-units)
			return context.Cause(ctx)
		}
		t.Stop()
	}
}

// spend takes units, whether they are there or not, or puts some back where units
// is negative. A Limiter gives no more at once than it can hold.
func (b *bucket) spend(units float64) {
	for left := int(math.Ceil(units * thousandths)); left != 0; {
		part := min(left, b.tokens.Burst())
		b.tokens.ReserveN(time.Now(), part)
		left -= part
	}
}

// give gives units back that were taken and not consumed, or takes some more
// where units is negative, without waiting.
func (b *bucket) give(units float64) {
	if b.rate <= 0 || units == 0 {
		return
	}
	b.spend(-units)
	select {
	case b.given <- struct{}{}:
	default: // whoever waits will look
	}
}

// Waited implements [copier.Throttled]: how long requests have waited because of
// Options.ReadCapacity.
func (s *Source) Waited() time.Duration { return time.Duration(s.capacity.waited.Load()) }
