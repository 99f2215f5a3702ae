package dynamodb

import (
	"context"
	"sync"
	"sync/atomic"
	"time"
)

// partitionUnits is how many read units a second a partition serves (Developer Guide,
// "Designing partition keys to distribute your workload"). All items of a Path lie in one,
// unless it was split for them. Vault renews its leader lock in the Path "core", and
// loses it where that is throttled.
const partitionUnits = 3000

// A pathBound bounds what is read of one Path in a second, by all requests together that
// name it. The zero value bounds nothing.
type pathBound struct {
	open atomic.Bool // nobody else needs the capacity now

	mu    sync.Mutex
	most  float64 // units of a Path in a second; 0 is no bound
	until time.Time
	spent map[string]float64 // in the second that ends then
}

// set bounds what is read from now on.
func (p *pathBound) set(most float64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.most, p.spent = most, map[string]float64{}
}

// take takes units of each Path, and waits as long as one has too few. One request a
// second is made whatever it costs.
func (p *pathBound) take(ctx context.Context, paths map[string]float64) error {
	for path, units := range paths {
		for !p.open.Load() {
			wait := p.try(path, units)
			if wait == 0 {
				break
			}
			if err := sleep(ctx, wait); err != nil {
				return err
			}
		}
	}
	return nil
}

// try takes units, or returns for how long there are none.
func (p *pathBound) try(path string, units float64) time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.most == 0 {
		return 0
	}
	now := time.Now()
	if !now.Before(p.until) {
		p.until = now.Add(time.Second)
		clear(p.spent)
	}
	if spent := p.spent[path]; spent > 0 && spent+units > p.most {
		return p.until.Sub(now)
	}
	p.spent[path] += units
	return 0
}

// cost says that the Paths of a request cost so many times what was taken.
func (p *pathBound) cost(paths map[string]float64, times float64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for path, units := range paths {
		if p.most > 0 {
			p.spent[path] += units * (times - 1)
		}
	}
}
