package command

import (
	"fmt"
	"os"
	"time"

	"github.com/dyn2raft/dyn2raft/cmd/dyn2raft/visible"
	"github.com/dyn2raft/dyn2raft/copier"
)

// waitWords says what is waited for; %s is its name.
var waitWords = map[copier.Wait]string{
	copier.WaitHeldLock:    "the leader lock, held by %s, to be renewed or not",
	copier.WaitExpiredLock: "the leader lock, last held by %s, to be renewed or not",
	copier.WaitOldHolder:   "a Vault that may have lost the leader lock without noticing to step down: %s",
	copier.WaitStream:      "the stream of table %s to have all changes",
	copier.WaitBackup:      "the backup %s to become available",
	copier.WaitAnswer:      "an answer to %s",
	copier.WaitThrottled:   "%s, which the table throttles: more read or write capacity ends that",
	copier.WaitRetry:       "%s, which fails and is tried again",
	copier.WaitCap:         "%s, held back to spare the table (-read-capacity, or -live-share)",
	copier.WaitCredentials: "AWS credentials%s",
	waitOwn:                "%s",
}

// waitOwn is a wait of a command, whose name says all.
const waitOwn copier.Wait = "own"

const (
	// quiet is how long nothing may happen before it is said what is waited for, and
	// silent where that is not known: the library says after 5 s what it is.
	quiet  = 5 * time.Second
	silent = 6 * time.Second
	// countdown is how often a wait is said whose end is known.
	countdown = 5 * time.Second
)

// waits are the waits that have begun and are not over.
type waits struct {
	all  map[copier.WaitOver]*waiting
	over time.Time // when one ended last
	// throttled and failed are when that happened to a request last.
	throttled, failed time.Time
	// said is what a line said last, and when.
	said   string
	saidAt time.Time
}

// waiting are the waits of one kind and name.
type waiting struct {
	copier.Waiting
	n int // so many at once
}

// note takes the events that begin and end waits, and those of requests that are
// tried again, and reports whether e was one.
func (w *waits) note(e copier.Event) bool {
	switch e := e.(type) {
	case copier.Waiting:
		key := copier.WaitOver{For: e.For, Name: e.Name}
		if w.all == nil {
			w.all = map[copier.WaitOver]*waiting{}
		}
		if x := w.all[key]; x != nil {
			x.n++
		} else {
			w.all[key] = &waiting{e, 1}
		}
	case copier.WaitOver:
		w.over = time.Now()
		if x := w.all[e]; x != nil {
			if x.n--; x.n == 0 {
				delete(w.all, e)
			}
		}
	case copier.Retried:
		if e.Throttled {
			w.throttled = time.Now()
		} else {
			w.failed = time.Now()
		}
	default:
		return false
	}
	return true
}

// longest is the wait that counts: one on purpose, else the longest. It is nil
// where there is none.
func (w *waits) longest() (best *waiting) {
	for _, x := range w.all {
		if best == nil || x.Until.IsZero() == best.Until.IsZero() && x.Since.Before(best.Since) || best.Until.IsZero() && !x.Until.IsZero() {
			best = x
		}
	}
	return best
}

// wait says what is waited for now, since when or how long still, in words, and
// how often that is to be said; "" where something happens. what is the same as
// long as the wait is. The caller holds p.mu.
func (p *printer) wait(now time.Time) (text, what string, every time.Duration) {
	w := p.waits.longest()
	idle := now.Sub(p.moved)
	reads := p.phase == copier.PhaseScan || p.phase == copier.PhaseLoad
	switch {
	case w != nil && !w.Until.IsZero():
		what = waitText(w.Waiting)
		text = "waiting for " + what
		if left := w.Until.Sub(now).Round(time.Second); left > 0 {
			text = fmt.Sprintf("waiting %s for %s", left, what)
		}
		return text, what, countdown
	case w != nil && now.Sub(w.Since) >= quiet && (!reads || idle >= quiet):
		what = waitText(w.Waiting)
		return fmt.Sprintf("waiting for %s, for %s so far", what, now.Sub(w.Since).Round(time.Second)), what, p.every
	case idle >= silent && now.Sub(p.waits.over) >= silent && !p.moved.IsZero():
		what = phases[p.phase]
		text = fmt.Sprintf("still %s: nothing new for %s", what, idle.Round(time.Second))
		switch { // of requests that take less than 5 s each
		case now.Sub(p.waits.throttled) < quiet:
			text += ", the table throttles"
		case now.Sub(p.waits.failed) < quiet:
			text += ", requests fail and are tried again"
		}
		return text, what, p.every
	}
	return "", "", 0
}

func waitText(w copier.Waiting) string {
	return visible.Text(fmt.Sprintf(waitWords[w.For], w.Name))
}

// sayWait writes a line that says what is waited for, if it is time for one.
func (p *printer) sayWait() {
	now := time.Now()
	p.mu.Lock()
	text, what, every := p.wait(now)
	due := text != "" && (what != p.waits.said || now.Sub(p.waits.saidAt) >= max(every, countdown))
	if due {
		p.waits.said, p.waits.saidAt = what, now
	}
	p.mu.Unlock()
	if due {
		p.log.Info(text)
	}
}

// during says, where that takes long, that the command waits for something, until
// the returned function is called.
func (p *printer) during(what string) (stop func()) {
	p.event(copier.Waiting{For: waitOwn, Name: what, Since: time.Now()})
	quieten := p.sayWaits()
	return func() {
		quieten()
		p.event(copier.WaitOver{For: waitOwn, Name: what})
	}
}

// sayWaits says what is waited for until the returned function is called, in a
// command that tells no progress.
func (p *printer) sayWaits() (stop func()) {
	return p.watch(p.every, make(chan os.Signal))
}
