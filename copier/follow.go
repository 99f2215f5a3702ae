package copier

import (
	"context"
	"sync"
	"time"
)

// A follower asks a feed for hints, and notes them.
type follower struct {
	following Following
	notes     *notes
	fail      func(error)   // is told of an error, which ends it
	changed   chan struct{} // has one where there is news

	mu      sync.Mutex
	running chan struct{} // closed once nobody calls Next; nil where it never ran
	wanted  int           // it ends once this drain has passed; 0 where none is wanted
	ended   bool
	drained int
	unsure  [][]byte // of what has drained
	records int64
	delay   time.Duration
}

// start calls Next until an error, until ctx ends, or until the drain that is wanted has
// passed. It does nothing where that runs already.
func (f *follower) start(ctx context.Context) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.wanted = 0
	if f.running != nil && !f.ended {
		return
	}
	f.ended, f.running = false, make(chan struct{})
	running := f.running
	go func() {
		defer close(running)
		for {
			h, err := f.following.Next(ctx)
			if err == nil {
				err = f.notes.add(h.Keys, h.Position)
			}
			f.mu.Lock()
			f.drained, f.unsure, f.records, f.delay = max(f.drained, h.Drained), h.Unsure, h.Records, h.Delay
			f.ended = err != nil || f.wanted > 0 && f.drained >= f.wanted
			ended := f.ended
			f.mu.Unlock()
			if err != nil {
				f.fail(err)
			}
			select {
			case f.changed <- struct{}{}:
			default:
			}
			if ended {
				return
			}
		}
	}()
}

// want has it end once a drain has passed.
func (f *follower) want(drain int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.wanted = drain
}

// passed reports whether the drain that is wanted has passed: nobody calls Next then.
func (f *follower) passed() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.ended && f.wanted > 0 && f.drained >= f.wanted
}

// wait waits until nobody calls Next.
func (f *follower) wait() {
	f.mu.Lock()
	running := f.running
	f.mu.Unlock()
	if running != nil {
		<-running
	}
}

// lag is how far the feed is behind.
func (f *follower) lag() (records int64, delay time.Duration) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.records, f.delay
}
