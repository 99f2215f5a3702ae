package dynamodb

import (
	"context"
	"math"
	"sync"
	"time"
)

// unitBytes is what one read capacity unit reads consistently.
const unitBytes = 4096

// fullPage is the size at which DynamoDB ends a page.
const fullPage = 1 << 20

// A bucket caps the read capacity units that a source consumes: it fills by a
// number of units a second, up to one second's worth. A request takes what it
// will probably cost before it is sent, and waits until that is there; what it
// cost is known afterwards, and the difference is given back, or owed, so that
// those who wait, or come later, wait less, or more.
//
// Where a full page costs more than two seconds' worth, pages are made smaller
// with Limit, so that a small table is not hit by 256 units at once. How many
// items make a page is learnt from those read so far, beginning with one.
//
// A bucket without a rate caps nothing.
type bucket struct {
	rate float64 // units a second; 0 is no cap
	full float64 // units of a full page

	now   func() time.Time
	sleep func(ctx context.Context, d time.Duration, wake <-chan struct{}) error

	mu     sync.Mutex
	given  float64       // units given back until now, less those owed: who waits sees what has changed
	change chan struct{} // closed, and replaced, when given changes
	tokens float64       // units there at the time at; below 0 is what is owed
	at     time.Time     // zero until the first request
	page   float64       // running mean of a page's units
	item   float64       // units of an item: up at once, down as a running mean; 0 until one was read
	limit  int           // items of the last page that was asked for
	waited time.Duration
}

func newBucket(rate float64, consistent bool) *bucket {
	full := float64(fullPage) / unitBytes
	if !consistent {
		full /= 2
	}
	return &bucket{rate: rate, full: full, now: time.Now, sleep: sleepOr, change: make(chan struct{}), page: full}
}

// costKey is the context's key for what a request will probably cost.
type costKey struct{}

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

// learn takes over what a page has cost, of which so much was taken for it. A
// page's units are rounded up; how many it was before lies between by the size
// of the response, which is a little larger than its items.
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
	b.mu.Lock()
	defer b.mu.Unlock()
	wait, since, before := b.owe(units), b.now(), b.given
	for {
		// What others have given back since comes to those who wait, in the
		// order in which they came.
		now := b.now()
		left := wait - time.Duration((b.given-before)/b.rate*float64(time.Second)) - now.Sub(since)
		if left <= 0 {
			return nil
		}
		change := b.change
		b.mu.Unlock()
		err := b.sleep(ctx, left, change)
		b.mu.Lock()
		b.waited += b.now().Sub(now)
		if err != nil {
			b.owe(-units) // those ahead have nothing of it
			return err
		}
	}
}

// owe takes units, and returns how long it takes until they are there. The
// caller holds the lock.
func (b *bucket) owe(units float64) time.Duration {
	now := b.now()
	if b.at.IsZero() {
		b.at, b.tokens = now, b.rate
	}
	b.tokens = min(b.rate, b.tokens+b.rate*now.Sub(b.at).Seconds()) - units
	b.at = now
	return time.Duration(max(0, -b.tokens/b.rate) * float64(time.Second))
}

// give gives units back that were taken and not consumed, or takes some more
// where units is negative, without waiting.
func (b *bucket) give(units float64) {
	if b.rate <= 0 || units == 0 {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.owe(-units)
	b.given += units
	close(b.change)
	b.change = make(chan struct{})
}

// sleepOr is sleep that ends early, too, when wake is closed.
func sleepOr(ctx context.Context, d time.Duration, wake <-chan struct{}) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-wake:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// Waited implements [copier.Throttled]: how long requests have waited because of
// Options.ReadCapacity.
func (s *Source) Waited() time.Duration {
	s.capacity.mu.Lock()
	defer s.capacity.mu.Unlock()
	return s.capacity.waited
}
