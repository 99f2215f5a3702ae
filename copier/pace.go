package copier

import (
	"context"
	"sync"
	"time"

	"github.com/dyn2raft/dyn2raft/copier/processors"
)

const (
	// PaceInterval is how often the number of workers that read is reconsidered.
	PaceInterval = time.Second
	// paceStep is the shorter interval while workers are being added and the rate
	// still rises, once paceSample pages for each worker have come: a copy of a
	// minute should not spend seconds on finding out that the source bears more.
	// That the source bears no more is concluded from a whole PaceInterval only.
	paceStep   = PaceInterval / 4
	paceSample = 4
)

// A pace lets a number of workers read pages at the same time. It begins with
// a few, adds more while that makes the source deliver more, and halves them
// when the source throttles.
type pace struct {
	mu      sync.Mutex
	wake    sync.Cond
	control control
	active  int
	dealing int // workers that have read a page and still have it
	beside  int // the most that do, beside as many as may read
	stopped bool
	peak    int // the most workers that were let in at once
	told    func(workers int)

	since     time.Time // the last tick
	throttles int64     // since then
	// Of the pages that were asked for since then: how many came, with how many
	// bytes, and how long workers waited for them.
	pages int
	bytes int64
	took  time.Duration
	busy  time.Duration // of all workers together, up to noted
	noted time.Time
}

func newPace(start, most int, told func(workers int)) *pace {
	p := &pace{control: control{limit: min(start, most), most: most, growing: true}, beside: processors.Count(), told: told}
	p.wake.L = &p.mu
	return p
}

// enter waits until one more worker may read. Where pages are read faster than
// they are taken over, it waits for that: those that wait with a page take memory,
// and make nothing faster. It returns false when the pace was stopped.
func (p *pace) enter() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	for (p.active >= p.control.limit || p.active+p.dealing >= p.control.limit+p.beside) && !p.stopped {
		p.wake.Wait()
	}
	if p.stopped {
		return false
	}
	p.note()
	p.active++
	p.peak = max(p.peak, p.active)
	return true
}

// leave says what a worker has read, and when it asked for it.
func (p *pace) leave(page Page, asked time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.note()
	p.active--
	p.dealing++
	if asked.After(p.since) {
		p.pages++
		p.bytes += page.WireBytes
		p.took += time.Since(asked)
	}
	p.throttles += page.Throttles
	p.wake.Signal()
}

// done says that a worker has no page any more.
func (p *pace) done() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.dealing--
	p.wake.Signal()
}

// note adds the time for which as many have read as do now. The caller holds
// p.mu.
func (p *pace) note() {
	now := time.Now()
	p.busy += now.Sub(p.noted) * time.Duration(p.active)
	p.noted = now
}

func (p *pace) stop() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.stopped = true
	p.wake.Broadcast()
}

// run adapts the pace until ctx ends.
func (p *pace) run(ctx context.Context) {
	t := time.NewTicker(paceStep)
	defer t.Stop()
	told := 0
	p.mu.Lock()
	p.begin()
	p.mu.Unlock()
	for {
		p.mu.Lock()
		limit := p.control.limit
		p.mu.Unlock()
		if limit != told {
			told = limit
			p.told(limit)
		}
		select {
		case <-ctx.Done():
			return
		case <-t.C:
		}
		p.mu.Lock()
		if p.ripe() {
			p.control.tick(p.rate(), p.throttles)
			p.begin()
			p.wake.Broadcast()
		}
		p.mu.Unlock()
	}
}

// begin forgets what was seen so far. The caller holds p.mu.
func (p *pace) begin() {
	p.since = time.Now()
	p.noted, p.busy = p.since, 0
	p.throttles, p.pages, p.bytes, p.took = 0, 0, 0, 0
}

// rate is how many bytes a second all workers read together: the bytes of a page
// over the time that a worker waited for it, times the workers that read at once.
// Counting what came within an interval would say little, since pages that take
// seconds come in bunches. The caller holds p.mu.
func (p *pace) rate() int64 {
	p.note()
	if p.took <= 0 || !p.noted.After(p.since) {
		return 0
	}
	readers := p.busy.Seconds() / p.noted.Sub(p.since).Seconds()
	return int64(float64(p.bytes) / p.took.Seconds() * readers)
}

// ripe reports whether the current number of workers has been measured: each has
// read a page that was asked for since there are that many. The caller holds p.mu.
func (p *pace) ripe() bool {
	c := &p.control
	if c.growing && p.throttles == 0 && p.pages >= paceSample*c.limit && c.pays(p.rate()) {
		return true
	}
	return time.Since(p.since) > PaceInterval-paceStep/2 && (p.throttles > 0 || c.throttled || p.pages >= c.limit)
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
	case c.growing && c.pays(bytes):
		c.grow()
	case c.growing:
		c.limit, c.growing = c.before, false
	default:
		// One bad second proves little: look again now and then.
		if c.calm++; c.calm == probeEvery {
			c.calm = 0
			c.grow()
		}
	}
	c.last = bytes
}

// pays reports whether those that were let in last have brought enough.
func (c *control) pays(bytes int64) bool {
	return c.before == 0 || bytes*100 >= c.last*(100+worthwhile)
}

// MoreWorkers is how many workers a scan tries after so many, where these have brought
// more than those before.
func MoreWorkers(n int) int { return n + (n+1)/2 }

func (c *control) grow() {
	c.before, c.limit = c.limit, min(MoreWorkers(c.limit), c.most)
	c.growing = c.limit > c.before
}
