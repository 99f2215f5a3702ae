package copiertest

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"

	"github.com/dyn2raft/dyn2raft/copier"
)

// A Destination is an empty place to copy to.
type Destination struct {
	// Open returns a sink for it, as a new process would.
	Open func() copier.Sink
	// Read returns what a Vault would find there, and whether it would find
	// anything.
	Read func() ([]copier.Entry, bool, error)
}

// TestSink fails a test unless the sinks of destinations keep their contract. Each
// call of destination returns one more empty place. A process that is killed is
// one that closes its sink and keeps everything: so locks that end with a process
// are let go.
func TestSink(t testing.TB, destination func() Destination) {
	t.Helper()
	for _, err := range checkSink(t.Context(), destination) {
		t.Error(err)
	}
}

// sinkEntries are what is loaded.
func sinkEntries() (out []copier.Entry) {
	for i := range 700 {
		out = append(out, copier.Entry{Key: fmt.Appendf(nil, "logical/%03d", i), Value: make([]byte, i%5*i)})
	}
	return out
}

// A stream yields entries, and spoils each when it is asked for the next.
type stream struct {
	entries []copier.Entry
	last    copier.Entry
	err     error // at its end, in place of io.EOF
}

func (s *stream) Next() (copier.Entry, error) {
	for _, b := range [][]byte{s.last.Key, s.last.Value} {
		for i := range b {
			b[i] = '!'
		}
	}
	if len(s.entries) == 0 {
		if s.err != nil {
			return copier.Entry{}, s.err
		}
		return copier.Entry{}, io.EOF
	}
	s.last, s.entries = clone(s.entries[0]), s.entries[1:]
	return s.last, nil
}

type sinkSuite struct {
	suite
	name string
	d    Destination
}

func checkSink(ctx context.Context, destination func() Destination) (errs []error) {
	for _, test := range []struct {
		name string
		run  func(*sinkSuite)
	}{
		{"a copy", (*sinkSuite).whole},
		{"a copy of nothing", (*sinkSuite).nothing},
		{"two at a time", (*sinkSuite).held},
		{"killed before Load", func(s *sinkSuite) { s.killed(0) }},
		{"killed behind Load", func(s *sinkSuite) { s.killed(1) }},
		{"killed behind Prepare", func(s *sinkSuite) { s.killed(2) }},
		{"killed behind Commit", (*sinkSuite).complete},
		{"taken back before Commit", func(s *sinkSuite) { s.takenBack(false) }},
		{"taken back behind Commit", func(s *sinkSuite) { s.takenBack(true) }},
		{"a stream that fails", (*sinkSuite).broken},
		{"changes", (*sinkSuite).changed},
		{"changes, and killed", (*sinkSuite).changedAndKilled},
		{"changes, and taken back", (*sinkSuite).changedAndTakenBack},
	} {
		s := &sinkSuite{suite{ctx: ctx}, test.name, destination()}
		test.run(s)
		for _, err := range s.errs {
			errs = append(errs, fmt.Errorf("%s: %w", test.name, err))
		}
	}
	return errs
}

const sinkRun = "run-1"

// sinkRecord is the record of a copy whose result is in a state.
func sinkRecord(state copier.CommitState) copier.Record {
	return copier.Record{RunID: sinkRun, State: state, Backup: "backup of " + string(state), Prefixes: copier.Digests{}}
}

// reads notes what a Vault would find that it should not, or not find that it should.
func (s *sinkSuite) reads(when string, want []copier.Entry, inPlace bool) {
	got, there, err := s.d.Read()
	switch {
	case !s.ok(when, err):
	case there != inPlace:
		s.fail("%s: there is something in place: %v, and should be: %v", when, there, inPlace)
	case there:
		s.same(when, got, want)
	}
}

// A process has opened a sink.
type process struct {
	sink copier.Sink
	copier.Stage
	work string // the work directory, where the sink has one
}

// process opens the sink of a new process, and the stage of a run. It returns nil
// where that fails, and notes a state that is another one than found.
func (s *sinkSuite) process(run string, found *copier.Record) *process {
	p := &process{sink: s.d.Open()}
	state, err := p.sink.Open(s.ctx)
	if s.ok("Open", err) {
		got, gerr := json.Marshal(state.Record)
		want, werr := json.Marshal(found)
		if s.ok("Open", errors.Join(gerr, werr)) && !bytes.Equal(got, want) {
			s.fail("Open: it finds %s, and must find %s", got, want)
		}
		if d, ok := p.sink.(copier.WorkDirer); ok {
			p.work = d.WorkDir()
			if fi, err := os.Stat(p.work); !s.ok("WorkDir", err) || !fi.IsDir() {
				s.fail("WorkDir: %q is no directory behind Open", p.work)
			}
		}
		p.Stage, err = p.sink.Stage(s.ctx, run)
	}
	if p.Stage == nil || !s.ok("Stage", err) {
		s.ok("Close", p.sink.Close())
		return nil
	}
	return p
}

// begin opens the sink of a new process, which finds nothing in place.
func (s *sinkSuite) begin() *process { return s.process(sinkRun, nil) }

// load does the first steps of a copy: Load, Prepare and Commit.
func (s *sinkSuite) load(sink *process, entries []copier.Entry, steps int) bool {
	if steps > 0 {
		if !s.written(sink, entries) {
			return false
		}
		s.readsBack("behind Load", sink, entries)
		s.reads("behind Load", nil, false)
	}
	if steps > 1 {
		if !s.ok("Prepare", sink.Prepare(s.ctx, sinkRecord(copier.Unconfirmed))) {
			return false
		}
		s.reads("behind Prepare", nil, false)
	}
	if steps > 2 {
		if !s.ok("Commit", sink.Commit(s.ctx)) {
			return false
		}
		s.readsBack("behind Commit", sink, entries)
		s.reads("behind Commit", entries, true)
	}
	return true
}

// written writes entries to a stage, in the way that it has.
func (s *sinkSuite) written(sink *process, entries []copier.Entry) bool {
	switch stage := sink.Stage.(type) {
	case copier.Unordered:
		return s.put(stage, entries)
	case copier.Loader:
		stats, err := stage.Load(s.ctx, &stream{entries: entries})
		if !s.ok("Load", err) {
			return false
		}
		var bytes int64
		for _, e := range entries {
			bytes += int64(len(e.Key) + len(e.Value))
		}
		if stats.Entries != int64(len(entries)) || stats.Bytes != bytes {
			s.fail("Load: it says that it has loaded %d entries of %d bytes, and not %d of %d", stats.Entries, stats.Bytes, len(entries), bytes)
		}
		return true
	}
	s.fail("Stage: it can't be written")
	return false
}

// put writes entries to a stage that takes them in any order, from several goroutines,
// each batch twice. What was put before is cleared.
func (s *sinkSuite) put(stage copier.Unordered, entries []copier.Entry) bool {
	var old copier.Batch
	old.Append([]byte("sys/of-an-earlier-copy"), []byte("v"))
	if !s.ok("Clear", stage.Clear(s.ctx)) || !s.ok("Put", stage.Put(s.ctx, &old)) || !s.ok("Clear", stage.Clear(s.ctx)) {
		return false
	}
	const goroutines = 4
	errs := make([]error, goroutines)
	var wg sync.WaitGroup
	for i := range errs {
		wg.Go(func() {
			for at := range slices.Chunk(entries, 50) {
				var b copier.Batch
				for j, e := range at {
					if j%goroutines == i {
						b.Append(e.Key, e.Value)
					}
				}
				errs[i] = errors.Join(errs[i], errors.Join(stage.Vet(&b)...), stage.Put(s.ctx, &b), stage.Put(s.ctx, &b))
				for j := range b.Len() { // it is the caller's again
					e := b.Entry(j)
					for _, bytes := range [][]byte{e.Key, e.Value} {
						for k := range bytes {
							bytes[k] = '!'
						}
					}
				}
			}
		})
	}
	wg.Wait()
	return s.ok("Put", errors.Join(errs...))
}

// readsBack notes what the stage's reader yields that it should not, or does not yield
// that it should.
func (s *sinkSuite) readsBack(when string, sink *process, want []copier.Entry) {
	src, err := sink.Reader(s.ctx)
	if !s.ok(when+": Reader", err) {
		return
	}
	if _, err = src.Open(s.ctx); !s.ok(when+": Open of the reader", err) {
		return
	}
	var mu sync.Mutex
	var got []copier.Entry
	err = copier.ReadAll(s.ctx, src, 3, func(_ int, b *copier.Batch) error {
		mu.Lock()
		defer mu.Unlock()
		for i := range b.Len() {
			got = append(got, clone(b.Entry(i)))
		}
		return nil
	})
	err = errors.Join(err, src.Close())
	if s.ok(when+": read back", err) {
		s.same(when+", read back", got, want)
	}
}

func (s *sinkSuite) closed(sink *process, keep bool) {
	s.ok(fmt.Sprintf("Close(%v)", keep), sink.Stage.Close(keep))
	s.ok("Close of the sink", sink.sink.Close())
}

func (s *sinkSuite) copied(entries []copier.Entry) {
	sink := s.begin()
	if sink == nil {
		return
	}
	if s.load(sink, entries, 3) {
		s.ok("Amend", sink.Amend(sinkRecord(copier.Confirmed)))
		s.ok("Amend", sink.Amend(sinkRecord(copier.Released)))
	}
	s.closed(sink, false)
	if _, err := os.Lstat(sink.work); sink.work != "" && !errors.Is(err, os.ErrNotExist) {
		s.fail("Close(false): %q is still there", sink.work)
	}
	s.reads("behind Close", entries, true)
}

func (s *sinkSuite) whole() {
	sink, other := s.d.Open(), s.d.Open()
	if id := sink.Identity(); len(id) == 0 || fmt.Sprint(id) != fmt.Sprint(other.Identity()) {
		s.fail("Identity: %v, and of another process %v", id, other.Identity())
	}
	s.copied(sinkEntries())
	// What is complete is not overwritten, nor resumed.
	sink = s.d.Open()
	found, err := sink.Open(s.ctx)
	s.refused("Open of what holds data", err, copier.ErrDestination)
	if found.Record != nil {
		s.fail("Open: run %s has cleaned up, and has not come to it", found.Record.RunID)
	}
	s.ok("Close", sink.Close())
	s.reads("behind Close of one that was refused", sinkEntries(), true)
}

func (s *sinkSuite) nothing() { s.copied(nil) }

func (s *sinkSuite) held() {
	sink := s.begin()
	if sink == nil {
		return
	}
	for range 2 {
		other := s.d.Open()
		_, err := other.Open(s.ctx)
		s.refused("Open of what another process holds", err, copier.ErrLocked)
		s.ok("Close", other.Close())
	}
	s.load(sink, sinkEntries(), 3)
	s.closed(sink, false)
}

// killed ends a process behind so many steps, before its commit. A later one finds
// what the engine has kept, and makes the copy.
func (s *sinkSuite) killed(steps int) {
	sink := s.begin()
	if sink == nil {
		return
	}
	kept := filepath.Join(sink.work, "kept")
	if sink.work != "" {
		s.ok("write a work file", os.WriteFile(kept, []byte("kept"), 0o600))
	}
	s.load(sink, sinkEntries(), steps)
	s.closed(sink, true)
	s.reads("behind a process that was killed", nil, false)
	if sink = s.begin(); sink == nil {
		return
	}
	s.reads("behind Open", nil, false)
	if _, ok := sink.Stage.(copier.Unordered); ok && steps > 0 {
		s.readsBack("by a later process", sink, sinkEntries())
	}
	if _, err := os.Stat(kept); sink.work != "" && err != nil {
		s.fail("what an unfinished copy has left in WorkDir is gone: %w", err)
	}
	s.closed(sink, false)
	if _, err := os.Stat(kept); sink.work != "" && err == nil {
		s.fail("Close(false): %s is still there", kept)
	}
	s.copied(sinkEntries())
}

// found opens the sink of a process that finds the result of an earlier one.
func (s *sinkSuite) found(state copier.CommitState) *process {
	record := sinkRecord(state)
	sink := s.process(sinkRun, &record)
	if sink != nil {
		s.readsBack("found in place", sink, sinkEntries())
		s.reads("found in place", sinkEntries(), true)
	}
	return sink
}

func (s *sinkSuite) complete() {
	sink := s.begin()
	if sink == nil {
		return
	}
	if !s.load(sink, sinkEntries(), 3) {
		s.closed(sink, true)
		return
	}
	state := copier.Unconfirmed
	for _, next := range []copier.CommitState{copier.Confirmed, copier.Unconfirmed, copier.Released} {
		s.closed(sink, true)
		if sink = s.found(state); sink == nil {
			return
		}
		s.ok("Amend", sink.Amend(sinkRecord(next)))
		state = next
	}
	s.closed(sink, false)
	s.reads("behind Close", sinkEntries(), true)
}

func (s *sinkSuite) takenBack(committed bool) {
	sink := s.begin()
	if sink == nil {
		return
	}
	steps := 2
	if committed {
		steps = 3
	}
	s.load(sink, sinkEntries(), steps)
	if committed { // by a later process
		s.closed(sink, true)
		if sink = s.found(copier.Unconfirmed); sink == nil {
			return
		}
	}
	s.ok("Rollback", sink.Rollback())
	s.reads("behind Rollback", nil, false)
	s.closed(sink, false)
	s.copied(sinkEntries())
}

func (s *sinkSuite) broken() {
	sink := s.begin()
	if sink == nil {
		return
	}
	if loader, ok := sink.Stage.(copier.Loader); ok {
		broken := errors.New("the stream is broken")
		_, err := loader.Load(s.ctx, &stream{entries: sinkEntries(), err: broken})
		s.refused("Load of a stream that fails", err, broken)
		s.reads("behind Load", nil, false)
	}
	s.closed(sink, false)

	if sink = s.begin(); sink == nil {
		return
	}
	ctx, cancel := context.WithCancel(s.ctx)
	cancel()
	var err error
	switch stage := sink.Stage.(type) {
	case copier.Loader:
		_, err = stage.Load(ctx, &stream{entries: sinkEntries()})
	case copier.Unordered:
		var b copier.Batch
		b.Append([]byte("sys/late"), nil)
		err = stage.Put(ctx, &b)
	}
	s.refused("Load with a context that has ended", err, context.Canceled)
	s.reads("behind Load", nil, false)
	s.closed(sink, false)
	s.copied(sinkEntries())
}

// applier opens the sink of a new process, and returns its stage where that is an
// [copier.Applier]. With load, it has the entries of the suite.
func (s *sinkSuite) applier(load bool) (*process, copier.Applier) {
	p := s.begin()
	if p == nil {
		return nil, nil
	}
	stage, ok := p.Stage.(copier.Applier)
	if !ok || load && !s.written(p, sinkEntries()) {
		s.closed(p, false)
		return nil, nil
	}
	return p, stage
}

// A model is what a stage must hold, by key.
type model map[string][]byte

func modelOf(entries []copier.Entry) model {
	m := model{}
	for _, e := range entries {
		m[string(e.Key)] = e.Value
	}
	return m
}

func (m model) entries() (out []copier.Entry) {
	for key, value := range m {
		out = append(out, copier.Entry{Key: []byte(key), Value: value})
	}
	return out
}

// changes are some of a round: other values, entries that were not there, and some that
// go, of which not all were there.
func changes(round int) (out []copier.Change) {
	for i := range 120 {
		key := fmt.Appendf(nil, "logical/%03d", (i*7+round*31)%900)
		switch i % 3 {
		case 0:
			out = append(out, copier.Change{Entry: copier.Entry{Key: key}, Gone: true})
		default:
			out = append(out, copier.Change{Entry: copier.Entry{Key: key, Value: bytes.Repeat([]byte{byte(round)}, 1+i*round)}})
		}
	}
	return out
}

// apply makes changes to a stage and to its model.
func (s *sinkSuite) apply(stage copier.Applier, m model, round int) {
	made := changes(round)
	var old, was []copier.Entry
	for _, c := range made {
		if value, ok := m[string(c.Key)]; ok {
			was = append(was, copier.Entry{Key: c.Key, Value: value})
		}
		if m[string(c.Key)] = c.Value; c.Gone {
			delete(m, string(c.Key))
		}
	}
	mark := fmt.Appendf(nil, "mark %d", round)
	s.ok("Apply", stage.Apply(s.ctx, made, func(entries []copier.Entry) ([]byte, error) {
		for _, e := range entries {
			old = append(old, clone(e))
		}
		return mark, nil
	}))
	s.same("Apply: what was there before", old, was)
	s.marked(stage, mark)
}

func (s *sinkSuite) marked(stage copier.Applier, want []byte) {
	got, err := stage.Mark(s.ctx)
	if s.ok("Mark", err) && !bytes.Equal(got, want) {
		s.fail("Mark: it is %q, and must be %q", got, want)
	}
}

// delta notes where what a stage says of the difference of two models is wrong.
func (s *sinkSuite) delta(stage copier.Applier, was, is model) {
	got := model{}
	for key, value := range was {
		got[key] = value
	}
	var there []copier.Entry
	err := stage.Delta(s.ctx, func(e copier.Entry) error {
		if value, ok := was[string(e.Key)]; !ok || !bytes.Equal(value, e.Value) {
			s.fail("Delta: %q is gone, and was not there", e.Key)
		}
		delete(got, string(e.Key))
		return nil
	}, func(e copier.Entry) error {
		there = append(there, clone(e))
		return nil
	})
	for _, e := range there {
		if _, ok := got[string(e.Key)]; ok {
			s.fail("Delta: %q is there now, and was before", e.Key)
		}
		got[string(e.Key)] = e.Value
	}
	if s.ok("Delta", err) {
		s.same("Delta", got.entries(), is.entries())
	}
}

func (m model) clone() model { return modelOf(m.entries()) }

func (s *sinkSuite) changed() {
	p, stage := s.applier(true)
	if stage == nil {
		return
	}
	m := modelOf(sinkEntries())
	s.marked(stage, nil)
	s.ok("Apply of nothing", stage.Apply(s.ctx, nil, func([]copier.Entry) ([]byte, error) { return []byte("first"), nil }))
	s.marked(stage, []byte("first"))
	s.readsBack("behind an Apply of nothing", p, m.entries())
	s.apply(stage, m, 1)
	broken := errors.New("broken")
	s.refused("Apply whose mark can't be made", stage.Apply(s.ctx, changes(2), func([]copier.Entry) ([]byte, error) { return nil, broken }), broken)
	s.marked(stage, []byte("mark 1"))
	s.readsBack("behind an Apply that fails", p, m.entries())
	pinned := m.clone()
	s.ok("Pin", stage.Pin(s.ctx))
	if !stage.Pinned() {
		s.fail("Pinned: nothing is, behind Pin")
	}
	s.delta(stage, pinned, m)
	for round := 2; round < 6; round++ {
		s.apply(stage, m, round)
		if stage.Pinned() {
			s.delta(stage, pinned, m)
		}
		if round == 3 || !stage.Pinned() {
			pinned = m.clone()
			s.ok("Pin, again", stage.Pin(s.ctx))
		}
	}
	s.readsBack("behind Apply", p, m.entries())
	for _, folder := range []string{"", "logical/", "none/"} {
		in := model{}
		for key, value := range m {
			if folderOf(key) == folder {
				in[key] = value
			}
		}
		s.listed("List", stage, folder, in.entries())
	}
	held := stage.Pinned()
	s.ok("Finish", stage.Finish(s.ctx))
	s.marked(stage, []byte("mark 5"))
	if held && stage.Pinned() {
		s.delta(stage, pinned, m)
	}
	s.ok("Prepare", p.Prepare(s.ctx, sinkRecord(copier.Unconfirmed)))
	s.reads("behind Prepare", nil, false)
	s.ok("Commit", p.Commit(s.ctx))
	s.reads("behind Commit", m.entries(), true)
	s.readsBack("behind Commit", p, m.entries())
	s.ok("Amend", p.Amend(sinkRecord(copier.Released)))
	s.closed(p, false)
	s.reads("behind Close", m.entries(), true)
}

// changedAndKilled ends processes behind what they have applied. The next one has it.
func (s *sinkSuite) changedAndKilled() {
	p, stage := s.applier(true)
	if stage == nil {
		return
	}
	m := modelOf(sinkEntries())
	for round := 1; round < 4; round++ {
		s.apply(stage, m, round)
		s.closed(p, true)
		s.reads("behind a process that was killed", nil, false)
		if p, stage = s.applier(false); stage == nil {
			return
		}
		s.marked(stage, fmt.Appendf(nil, "mark %d", round))
		s.readsBack("by a later process", p, m.entries())
	}
	s.ok("Finish", stage.Finish(s.ctx))
	s.closed(p, true)
	if p, stage = s.applier(false); stage == nil {
		return
	}
	s.marked(stage, []byte("mark 3"))
	s.readsBack("by a process behind Finish", p, m.entries())
	s.closed(p, false)
	if p, stage = s.applier(false); stage == nil {
		return
	}
	s.marked(stage, nil)
	if !s.written(p, sinkEntries()) {
		return
	}
	// What another copy of the run loads takes its place.
	s.apply(stage, modelOf(sinkEntries()), 4)
	s.closed(p, true)
	if p, stage = s.applier(true); stage == nil {
		return
	}
	s.marked(stage, nil)
	s.readsBack("loaded anew", p, sinkEntries())
	s.closed(p, true)
	if p, stage = s.applier(false); stage == nil {
		return
	}
	s.marked(stage, nil)
	s.closed(p, false)
	s.copied(sinkEntries())
}

// changedAndTakenBack takes back what was prepared. More changes follow.
func (s *sinkSuite) changedAndTakenBack() {
	p, stage := s.applier(true)
	if stage == nil {
		return
	}
	m := modelOf(sinkEntries())
	s.apply(stage, m, 1)
	s.ok("Pin", stage.Pin(s.ctx))
	s.ok("Finish", stage.Finish(s.ctx))
	s.ok("Prepare", p.Prepare(s.ctx, sinkRecord(copier.Unconfirmed)))
	s.ok("Rollback", p.Rollback())
	s.reads("behind Rollback", nil, false)
	s.apply(stage, m, 2)
	s.readsBack("behind Rollback", p, m.entries())
	s.closed(p, true)
	if p, stage = s.applier(false); stage == nil {
		return
	}
	s.marked(stage, []byte("mark 2"))
	s.apply(stage, m, 3)
	s.ok("Finish", stage.Finish(s.ctx))
	s.ok("Prepare", p.Prepare(s.ctx, sinkRecord(copier.Unconfirmed)))
	s.ok("Commit", p.Commit(s.ctx))
	s.reads("behind Commit", m.entries(), true)
	s.closed(p, false)
}
