package copier

import (
	"context"
	"sync"
	"time"
)

// paceInterval is how often the number of workers that read is thought over.
const paceInterval = time.Second

// A pace lets a number of workers read pages at the same time. It begins with
// a few, adds more while that makes the source deliver more, and halves them
// when the source throttles.
type pace struct {
	mu      sync.Mutex
	wake    sync.Cond
	control control
	active  int
	stopped bool
	peak    int // the most workers that were let in at once
	events  func(Event)

	bytes, throttles int64 // since the last tick
}

func newPace(start, most int, events func(Event)) *pace {
	p := &pace{control: control{limit: min(start, most), most: most, growing: true}, events: events}
	p.wake.L = &p.mu
	return p
}

// enter waits until one more worker may read. It returns false when the pace
// was stopped.
func (p *pace) enter() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	for p.active >= p.control.limit && !p.stopped {
		p.wake.Wait()
	}
	if p.stopped {
		return false
	}
	p.active++
	p.peak = max(p.peak, p.active)
	return true
}

// leave says what a worker has read.
func (p *pace) leave(page Page) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.active--
	p.bytes += page.WireBytes
	p.throttles += page.Throttles
	p.wake.Signal()
}

func (p *pace) stop() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.stopped = true
	p.wake.Broadcast()
}

// run adapts the pace until ctx ends.
func (p *pace) run(ctx context.Context) {
	t := time.NewTicker(paceInterval)
	defer t.Stop()
	told := 0
	for {
		p.mu.Lock()
		limit := p.control.limit
		p.mu.Unlock()
		if limit != told {
			told = limit
			p.events(WorkersChanged{Workers: limit})
		}
		select {
		case <-ctx.Done():
			return
		case <-t.C:
		}
		p.mu.Lock()
		p.control.tick(p.bytes, p.throttles)
		p.bytes, p.throttles = 0, 0
		p.wake.Broadcast()
		p.mu.Unlock()
	}
}

// A control decides, at each tick, how many may read.
type control struct {
	limit, most int
	growing     bool  // more were let in at the last tick, to see what it brings
	before      int   // the limit before that
	last        int64 // bytes of the last interval
	throttled   bool  // the source has throttled once
	calm        int   // ticks since it was found that more bring nothing
}

// probeEvery is after how many ticks more workers are tried once more.
const probeEvery = 10

// worthwhile is by how much more, in percent, growing must make the source
// deliver.
const worthwhile = 10

func (c *control) tick(bytes, throttles int64) {
	switch {
	case throttles > 0:
		// Multiplicative decrease; from now on additive increase.
		c.limit = max(c.limit/2, 1)
		c.throttled, c.growing = true, false
	case c.throttled:
		c.limit = min(c.limit+1, c.most)
	case c.growing && c.before > 0 && bytes*100 < c.last*(100+worthwhile):
		c.limit, c.growing = c.before, false
	case c.growing:
		c.grow()
	default:
		// One bad second proves little: look again now and then.
		if c.calm++; c.calm == probeEvery {
			c.calm = 0
			c.grow()
		}
	}
	c.last = bytes
}

func (c *control) grow() {
	c.before, c.limit = c.limit, min(c.limit+(c.limit+1)/2, c.most)
	c.growing = c.limit > c.before
}
