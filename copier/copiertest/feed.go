package copiertest

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/dyn2raft/dyn2raft/copier"
)

// A Served is the storage of a Vault that serves.
type Served struct {
	// Open returns a source of it, as a new process would: a [copier.Feed].
	Open func() copier.Source
	// Serve has a Vault take it, and StepDown has that give it back. Put and Delete
	// write as that Vault, and return once the storage has acknowledged it. A key that
	// was not there before may be deleted.
	Serve    func() error
	StepDown func() error
	Put      func(copier.Entry) error
	Delete   func(key []byte) error
	// Replace has somebody else replace what Follow has set up: hints may be missing
	// from then on.
	Replace func() error
	// Hide has the feed deliver nothing from now on of what is written to the entries
	// directly in a folder, which it has delivered until then. It is nil where that
	// can't be had.
	Hide func(folder string) error
}

// TestFeed fails a test unless the sources of storages keep the contract of a
// [copier.Feed]. Each call of served returns one more storage, with no entry of which the
// key begins with "copiertest/", and with a Vault that serves.
func TestFeed(t testing.TB, served func() Served) {
	t.Helper()
	for _, err := range checkFeed(t.Context(), served) {
		t.Error(err)
	}
}

type feedSuite struct {
	suite
	Served
	src feed
	at  copier.Position // the last that was returned
}

type feed interface {
	copier.Source
	copier.Feed
}

const feedRun = "run-1"

// feedWait is how long the suite waits for what a feed must do.
const feedWait = 2 * time.Minute

func checkFeed(ctx context.Context, served func() Served) (errs []error) {
	for _, test := range []struct {
		name string
		run  func(*feedSuite)
	}{
		{"hints", (*feedSuite).hints},
		{"resumed", (*feedSuite).resumed},
		{"drained", (*feedSuite).drained},
		{"reread", (*feedSuite).reread},
		{"unsure", (*feedSuite).unsure},
		{"replaced", (*feedSuite).replaced},
		{"unfollowed", (*feedSuite).unfollowed},
		{"taken", (*feedSuite).taken},
	} {
		within, cancel := context.WithTimeoutCause(ctx, feedWait, errors.New("it takes too long"))
		s := &feedSuite{suite: suite{ctx: within}, Served: served()}
		if s.process() {
			test.run(s)
			s.ok("Unfollow", s.src.Unfollow(s.ctx, feedRun, s.at))
			s.ok("Close", s.src.Close())
		}
		cancel()
		for _, err := range s.errs {
			errs = append(errs, fmt.Errorf("%s: %w", test.name, err))
		}
	}
	return errs
}

// process opens the source of a new process.
func (s *feedSuite) process() bool {
	if s.src != nil {
		s.ok("Close", s.src.Close())
	}
	src := s.Open()
	feed, ok := src.(feed)
	if !ok {
		s.fail("Open: %T is no Feed", src)
		return false
	}
	s.src = feed
	_, err := src.Open(s.ctx)
	return s.ok("Open", err)
}

// follow follows from the last position that was returned.
func (s *feedSuite) follow() copier.Following {
	f, err := s.src.Follow(s.ctx, feedRun, s.at)
	if !s.ok("Follow", err) {
		return nil
	}
	h, err := f.Next(s.ctx)
	if s.ok("Next", err) && h.Position == nil {
		s.fail("Next: the first one has no position")
	}
	s.keep(h)
	if len(h.Keys) > 0 && s.at == nil {
		s.fail("Next: hints, and no position behind them")
	}
	return &told{Following: f, first: h}
}

// A told is a feed whose first hints were asked for already.
type told struct {
	copier.Following
	first copier.Hints
}

func (f *told) Next(ctx context.Context) (copier.Hints, error) {
	if h := f.first; h.Keys != nil {
		f.first = copier.Hints{}
		return h, nil
	}
	return f.Following.Next(ctx)
}

// keep keeps the position, as a later process finds it.
func (s *feedSuite) keep(h copier.Hints) {
	if h.Position != nil {
		if !json.Valid(h.Position) {
			s.fail("Next: the position is no JSON: %s", h.Position)
		}
		s.at = bytes.Clone(h.Position)
	}
}

// write writes entries, some of them twice, and deletes some. It returns their keys.
func (s *feedSuite) write(name string, n int) map[string]bool {
	keys := map[string]bool{}
	for i := range n {
		e := copier.Entry{Key: fmt.Appendf(nil, "copiertest/%s/%d", name, i), Value: []byte(name)}
		keys[string(e.Key)] = true
		err := s.Put(e)
		switch i % 4 {
		case 1:
			err = errors.Join(err, s.Put(copier.Entry{Key: e.Key, Value: []byte("again")}))
		case 2:
			err = errors.Join(err, s.Delete(e.Key))
		}
		if !s.ok("write", err) {
			return nil
		}
	}
	return keys
}

// hinted asks for hints until all keys are hinted at, or until done says so.
func (s *feedSuite) hinted(f copier.Following, keys map[string]bool, done func(copier.Hints) bool) bool {
	for {
		h, err := f.Next(s.ctx)
		if err != nil {
			s.fail("Next: %d keys are not hinted at: %w", len(keys), err)
			return false
		}
		s.keep(h)
		for _, key := range h.Keys {
			delete(keys, string(key))
		}
		if done(h) {
			return true
		}
	}
}

func (s *feedSuite) hints() {
	f := s.follow()
	if f == nil {
		return
	}
	for round := range 3 {
		keys := s.write(fmt.Sprint("hints", round), 60)
		s.hinted(f, keys, func(copier.Hints) bool { return len(keys) == 0 })
	}
	_, err := f.Next(s.ctx)
	s.ok("Next, with nothing written", err)
	ctx, cancel := context.WithCancel(s.ctx)
	cancel()
	_, err = f.Next(ctx)
	s.refused("Next with a context that has ended", err, context.Canceled)
	s.ok("Close", f.Close())
}

// resumed ends a process behind its first hints. The next one has the rest.
func (s *feedSuite) resumed() {
	f := s.follow()
	if f == nil {
		return
	}
	keys := s.write("resumed", 60)
	some := len(keys)
	s.hinted(f, keys, func(copier.Hints) bool { return len(keys) < some })
	s.ok("Close", f.Close())
	for key := range s.write("meanwhile", 20) {
		keys[key] = true
	}
	if !s.process() {
		return
	}
	if f = s.follow(); f == nil {
		return
	}
	s.ok("Drain", f.Drain(s.ctx))
	s.hinted(f, keys, func(h copier.Hints) bool { return len(keys) == 0 || h.Drained > 0 })
	for key := range keys {
		s.fail("Follow from a position: it has drained, and %q was not hinted at", key)
		break
	}
	s.ok("Close", f.Close())
}

func (s *feedSuite) drained() {
	f := s.follow()
	if f == nil {
		return
	}
	for drain := 1; drain <= 3; drain++ {
		keys := s.write(fmt.Sprint("drained", drain), 40)
		s.ok("Drain", f.Drain(s.ctx))
		if !s.hinted(f, keys, func(h copier.Hints) bool {
			if h.Drained > drain {
				s.fail("Next: %d drains have passed, of %d", h.Drained, drain)
			}
			return h.Drained >= drain
		}) {
			return
		}
		for key := range keys {
			s.fail("Next: drain %d has passed, and %q was not hinted at", drain, key)
			break
		}
	}
	h, err := f.Poll(s.ctx)
	if s.ok("Poll", err) && h.Drained != 3 {
		s.fail("Poll: %d drains have passed, of 3", h.Drained)
	}
	for _, key := range h.Keys {
		s.fail("Poll: %q is hinted at, which nobody has written", key)
	}
	s.keep(h)
	s.ok("Close", f.Close())
}

func (s *feedSuite) reread() {
	f := s.follow()
	if f == nil {
		return
	}
	var keys [][]byte
	for i := range 250 {
		keys = append(keys, fmt.Appendf(nil, "copiertest/reread/%d", i))
	}
	for round := range 3 {
		var want []copier.Entry
		for i, key := range keys {
			e := copier.Entry{Key: key, Value: fmt.Appendf(nil, "%d", round)}
			switch (i + round) % 3 {
			case 0:
				s.ok("Delete", s.Delete(key))
				continue
			case 1:
				s.ok("Put", s.Put(copier.Entry{Key: key, Value: []byte("old")}))
			}
			s.ok("Put", s.Put(e))
			want = append(want, e)
		}
		var b copier.Batch
		b.Append(before.Key, before.Value)
		if !s.ok("Reread", f.Reread(s.ctx, keys, &b)) {
			return
		}
		if b.Len() < 1 || !equal(b.Entry(0), before) {
			s.fail("Reread: what was in the batch before is not there any more")
			return
		}
		s.same("Reread", entriesIn(&b), want)
	}
	s.ok("Close", f.Close())
}

// unsure: what a feed is not sure of can be compared.
func (s *feedSuite) unsure() {
	if s.Hide == nil {
		return
	}
	f := s.follow()
	if f == nil {
		return
	}
	const folder = "copiertest/unsure/"
	keys := s.write("unsure", 20)
	s.hinted(f, keys, func(copier.Hints) bool { return len(keys) == 0 })
	s.ok("Hide", s.Hide(folder))
	keys = s.write("unsure", 60)
	s.ok("Put", s.Put(copier.Entry{Key: []byte(folder + "deeper/1"), Value: []byte("v")}))
	s.ok("Drain", f.Drain(s.ctx))
	var unsure [][]byte
	if !s.hinted(f, keys, func(h copier.Hints) bool { unsure = h.Unsure; return h.Drained > 0 }) {
		return
	}
	if len(keys) == 0 {
		s.fail("Hide: all was hinted at")
	}
	if len(unsure) != 1 || string(unsure[0]) != folder {
		s.fail("Next: drain 1 has passed, %d hints of %s are missing, and unsure are %q", len(keys), folder, unsure)
		return
	}
	var want []copier.Entry
	for i := range 60 {
		e := copier.Entry{Key: fmt.Appendf(nil, "%s%d", folder, i), Value: []byte("unsure")}
		switch i % 4 {
		case 1:
			e.Value = []byte("again")
		case 2:
			continue
		}
		want = append(want, e)
	}
	s.listed("List", f, folder, want)
	s.listed("List of a folder that is not there", f, folder+"none/", nil)
	s.ok("Close", f.Close())
}

// listed notes where what is listed of a folder is wrong.
func (s *suite) listed(what string, l copier.Lister, folder string, want []copier.Entry) {
	var b copier.Batch
	b.Append(before.Key, before.Value)
	var after []byte
	for {
		from := b.Len()
		next, err := l.List(s.ctx, []byte(folder), after, &b)
		if !s.ok(what, err) {
			return
		}
		for i := from; i < b.Len(); i++ {
			if key := b.Entry(i).Key; bytes.Compare(key, after) <= 0 || next != nil && bytes.Compare(key, next) > 0 || i > 1 && bytes.Compare(key, b.Entry(i-1).Key) <= 0 {
				s.fail("%s of what is behind %q: %q is not in order, up to %q", what, after, key, next)
			}
		}
		if next == nil {
			break
		}
		if bytes.Compare(next, after) <= 0 {
			s.fail("%s of what is behind %q: the next one is of what is behind %q", what, after, next)
			return
		}
		after = next
	}
	if b.Len() < 1 || !equal(b.Entry(0), before) {
		s.fail("%s: what was in the batch before is not there any more", what)
		return
	}
	s.same(what, entriesIn(&b), want)
}

func (s *feedSuite) replaced() {
	f := s.follow()
	if f == nil {
		return
	}
	h, err := f.Poll(s.ctx)
	s.ok("Poll", err)
	s.keep(h)
	s.ok("Replace", s.Replace())
	s.write("replaced", 5)
	_, err = f.Poll(s.ctx)
	s.refused("Poll of what was replaced", err, copier.ErrGap, copier.ErrSource)
	s.ok("Close", f.Close())
	if s.process() {
		_, err = s.src.Follow(s.ctx, feedRun, s.at)
		s.refused("Follow of what was replaced", err, copier.ErrGap, copier.ErrSource)
		s.at = nil
		if f = s.follow(); f == nil {
			return
		}
		keys := s.write("anew", 20)
		s.hinted(f, keys, func(copier.Hints) bool { return len(keys) == 0 })
		s.ok("Close", f.Close())
	}
}

func (s *feedSuite) unfollowed() {
	for round := range 2 {
		f := s.follow()
		if f == nil {
			return
		}
		s.ok("Unfollow of a run that follows nothing", s.src.Unfollow(s.ctx, "run-2", nil))
		keys := s.write(fmt.Sprint("unfollowed", round), 5) // what changes nothing need not be hinted at
		s.hinted(f, keys, func(copier.Hints) bool { return len(keys) == 0 })
		s.ok("Close", f.Close())
		if !s.process() {
			return
		}
		s.ok("Unfollow", s.src.Unfollow(s.ctx, feedRun, s.at))
		s.ok("Unfollow, again", s.src.Unfollow(s.ctx, feedRun, s.at))
		s.at = nil
	}
}

func (s *feedSuite) taken() {
	for range 2 {
		waits := make(chan copier.Turn, 100)
		type taken struct {
			lease copier.Lease
			err   error
		}
		done := make(chan taken, 1)
		go func() {
			lease, err := s.src.Take(s.ctx, feedRun, func(t copier.Turn) {
				select {
				case waits <- t:
				default:
				}
			}, func(error) {})
			done <- taken{lease, err}
		}()
		select {
		case <-waits:
		case got := <-done:
			s.fail("Take of what a Vault holds: it did not wait, and its error is %v", got.err)
			return
		}
		s.ok("Put", s.Put(copier.Entry{Key: []byte("copiertest/taken"), Value: []byte("v")}))
		s.ok("StepDown", s.StepDown())
		got := <-done
		if !s.ok("Take", got.err) {
			return
		}
		s.ok("Check", got.lease.Check(s.ctx))
		s.ok("Release", got.lease.Release(s.ctx, copier.EndFailed))
		s.ok("Serve", s.Serve())
	}
	ctx, cancel := context.WithCancel(s.ctx)
	cancel()
	lease, err := s.src.Take(ctx, feedRun, func(copier.Turn) {}, func(error) {})
	s.refused("Take with a context that has ended", err, context.Canceled)
	if lease != nil {
		s.fail("Take with a context that has ended: there is a lease")
	}
}
