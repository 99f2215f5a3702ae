package dynamodb

import (
	"sync"
	"time"

	"github.com/dyn2raft/dyn2raft/copier"
)

// noticeable is how long something may take before it is said that it is waited
// for.
const noticeable = 5 * time.Second

// A watch says what is waited for, once that has taken a while.
type watch struct {
	events func(copier.Event)
	name   string
	since  time.Time
	timer  *time.Timer

	mu   sync.Mutex
	what copier.Wait
	told bool // what is said
	over bool
}

// newWatch begins a wait, until end is called.
func newWatch(events func(copier.Event), what copier.Wait, name string) *watch {
	w := &watch{events: events, what: what, name: name, since: time.Now()}
	w.timer = time.AfterFunc(noticeable, func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		if !w.over {
			w.tell()
		}
	})
	return w
}

// tell says what is waited for now. The caller holds the lock.
func (w *watch) tell() {
	w.told = true
	w.events(copier.Waiting{For: w.what, Name: w.name, Since: w.since})
}

// now says that something else is waited for, and returns what it was before.
func (w *watch) now(what copier.Wait) (before copier.Wait) {
	w.mu.Lock()
	defer w.mu.Unlock()
	before, w.what = w.what, what
	if w.told && what != before {
		w.events(copier.WaitOver{For: before, Name: w.name})
		w.tell()
	}
	return before
}

// end ends the wait.
func (w *watch) end() {
	w.timer.Stop()
	w.mu.Lock()
	defer w.mu.Unlock()
	w.over = true
	if w.told {
		w.events(copier.WaitOver{For: w.what, Name: w.name})
	}
}

// wait says that something is waited for on purpose, for a time, or, where that is
// 0, as long as it takes; until the returned function is called.
func (s *Source) wait(what copier.Wait, name string, d time.Duration) (over func()) {
	e := copier.Waiting{For: what, Name: name, Since: time.Now()}
	if d > 0 {
		e.Until = e.Since.Add(d)
	}
	s.opts.Events(e)
	return func() { s.opts.Events(copier.WaitOver{For: what, Name: name}) }
}
