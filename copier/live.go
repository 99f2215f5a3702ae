package copier

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/go-uuid"
	"golang.org/x/sync/errgroup"
)

// Live has a copy follow its source, on which Vaults go on writing, until the caller
// has it cut over. The source must be a [Feed], and the stage an [Applier].
type Live struct {
	// Armed is asked at least four times a second whether to cut over, while the source is
	// followed and not read. It may change its mind until the source is taken.
	Armed func() Arm
	// DrainTimeout is how long the source is held at most until all changes have
	// arrived and are applied; 0 means 30 s. Then it is given back, and followed on. The
	// next try comes as much later.
	DrainTimeout time.Duration
	// Beyond is how long the feed is watched once the source was given back: what is
	// written then ends the copy with an error of the code [WrittenAfter], and Complete
	// is set all the same. 0 means 30 s.
	Beyond time.Duration
	// Buckets, where set, is given the buckets of the result once it is complete, to
	// keep them. Its error becomes a Warning.
	Buckets func(ctx context.Context, r Record, b *Buckets) error
}

// An Arm says what a copy that follows its source does once all is ready.
type Arm int

// The arms.
const (
	NotArmed Arm = iota
	// Armed has it cut over.
	Armed
	// Rehearse has it do all that a cut-over does up to the last look at the result, say
	// how long that took, and give the source back. It does so once, until it was
	// NotArmed.
	Rehearse
)

// A LiveRecord is what became of a copy that has followed its source. It is kept up to
// date while the copy follows, but for what a process that is killed did last.
type LiveRecord struct {
	// ID differs between two copies that had the same run id one after the other.
	ID string `json:"id"`
	// Gap says why all must be read again, where changes may have been missed: the next
	// process does. Repeated is how often that was done.
	Gap      string `json:"gap,omitempty"`
	Repeated int    `json:"repeated,omitempty"`
	// Noted is how many keys were noted as changed, and Applied how many entries were
	// read again for that and written to the stage.
	Noted   int64 `json:"noted"`
	Applied int64 `json:"applied"`
	// Twice is how many keys were read twice in the base scan.
	Twice int64 `json:"twice"`
	// Rehearsals are the rehearsals that have passed, and GivenBack how often the source
	// was taken for a cut-over and given back.
	Rehearsals int `json:"rehearsals"`
	GivenBack  int `json:"given_back"`
	// Drain is how long all changes took to arrive and be applied once the source was
	// taken, and Outage the time from there until the result was confirmed.
	Drain  time.Duration `json:"drain_ns"`
	Outage time.Duration `json:"outage_ns"`
}

const (
	// applyKeys is how many keys are read again and applied at a time, and rereadKeys
	// how many of them one Reread has, of which rereads run at the same time.
	applyKeys  = 500
	rereadKeys = 100
	rereads    = 4
	// moveProofAfter is how many entries are written to the stage before the proof moves
	// on: to compare so many takes some 50 ms where the stage is a file.
	moveProofAfter = 5000
	// armInterval is how often Live.Armed is asked.
	armInterval = 100 * time.Millisecond
	// defaultDrain and defaultBeyond are those of Live.
	defaultDrain  = 30 * time.Second
	defaultBeyond = 30 * time.Second
)

// A liveMark is what a stage is marked with.
type liveMark struct {
	// ID is that of the copy's LiveRecord: another one's mark is of one that was thrown
	// away.
	ID string `json:"id"`
	// Notes is up to where the notes are applied, and Digests are of what is there.
	Notes   notePlace `json:"notes"`
	Digests Digests   `json:"digests"`
	Applied int64     `json:"applied"`
}

// A live is a copy that follows its source.
type live struct {
	*copying
	caller    context.Context // ends with the caller's
	feed      Feed
	following Following
	follower  *follower
	notes     *notes
	applier   Applier
	loader    Loader
	mark      liveMark
	marked    bool      // the stage is, as this copy's
	keys      [][]byte  // that are to be read again
	upTo      notePlace // behind them
	caughtUp  bool      // the last look at the notes has found none

	proof  *Proof   // of what is pinned
	proven Digests  // the digests of that
	final  *Buckets // of the result

	drains  int
	expect  time.Duration
	ready   bool
	arm     Arm       // what has been done, and is not done again until NotArmed
	notFor  time.Time // no cut-over before
	taking  chan taken
	takes   Arm // what for
	giveUp  context.CancelFunc
	waitFor *Waiting
	told    time.Time
	noted   int64 // by earlier processes
	movedAt int64 // how many were applied when the present was pinned
}

// errGivenBack is wrapped by errors of a cut-over that has changed nothing: the source is
// followed on.
var errGivenBack = errors.New("the source is given back, and followed on")

// follow makes a copy of a source that is not held until its end. ctx is the caller's.
func (c *copying) follow(ctx context.Context, status *statusFile) (err error) {
	l := &live{copying: c, caller: ctx, noted: c.result.Live.Noted}
	var ok bool
	if l.feed, ok = c.src.(Feed); !ok {
		return &Error{Kind: ErrConfig, Op: "follow " + c.result.Source.Name, Err: errors.New("this source can't be followed")}
	}
	c.reach = holding
	if c.restart {
		if err := c.throwAway(ctx); err != nil {
			return err
		}
		if err := c.record(status); err != nil {
			return err
		}
	}
	defer func() { c.endLive(err) }()
	// A process that was killed at its end may have left the source held: Vaults serve it
	// until the next one gets there.
	if c.earlier != nil {
		if err := l.feed.Unlock(ctx, c.result.RunID, EndFailed); err != nil {
			return cause(ctx, err)
		}
	}
	if c.stage, err = c.dst.Stage(ctx, c.result.RunID); err != nil {
		return cause(ctx, err)
	}
	l.applier, ok = c.stage.(Applier)
	if l.loader, _ = c.stage.(Loader); !ok || l.loader == nil {
		return &Error{Kind: ErrConfig, Op: "stage", Err: errors.New("this destination can't be changed once it is loaded")}
	}
	lctx, fail := context.WithCancelCause(ctx)
	defer fail(nil)
	why := c.result.Live.Gap
	if why == "" {
		if err = l.open(lctx); c.earlier != nil && errors.Is(err, ErrGap) {
			why = err.Error()
		}
	}
	if why != "" {
		if err = c.readAgain(why); err == nil {
			err = l.open(lctx)
		}
	}
	if err != nil {
		return err
	}
	l.follower = &follower{following: l.following, notes: l.notes, changed: make(chan struct{}, 1),
		fail: func(err error) { fail(gapCode(err)) }}
	defer func() {
		fail(nil)
		l.follower.wait()
		if cerr := errors.Join(l.following.Close(), l.notes.close()); cerr != nil {
			c.opts.Events(Warning{Message: "stop following the source: " + cerr.Error()})
		}
	}()
	l.follower.start(lctx)
	if err := c.backUp(lctx); err != nil {
		return err
	}
	if err := l.start(lctx); err != nil {
		return cause(lctx, err)
	}
	return l.loop(lctx)
}

// open opens the notes, and follows the source from where they end. The first hints have a
// position, which must be on disk before anything is read. An error leaves nothing open.
func (l *live) open(ctx context.Context) (err error) {
	if l.notes, err = openNotes(l.journal); err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = cause(ctx, gapCode(err))
			_ = l.notes.close()
			if l.following != nil {
				_ = l.following.Close()
			}
			l.following = nil
		}
	}()
	data, err := l.applier.Mark(ctx)
	if err != nil {
		return err
	}
	l.marked = data != nil && json.Unmarshal(data, &l.mark) == nil && l.mark.ID == l.result.Live.ID
	// The position is on disk before anything is read: one that is not there was lost.
	if l.notes.position == nil && (l.journal.saved || l.marked || l.notes.number > 1) {
		return &Error{Kind: ErrDestination, Op: "read " + filepath.Join(l.journal.dir, positionName), Code: FeedGap,
			Err: fmt.Errorf("%w: the position is gone", ErrGap)}
	}
	f, err := l.feed.Follow(ctx, l.result.RunID, l.notes.position)
	if err != nil {
		return err
	}
	l.following = f
	h, err := f.Next(ctx)
	if err == nil {
		err = l.notes.add(h.Keys, h.Position)
	}
	if err == nil && l.notes.position == nil {
		err = &Error{Kind: ErrSource, Op: "follow " + l.result.Source.Name, Err: errors.New("it says of no position: this is a defect of the source")}
	}
	return err
}

// readAgain throws away what was read and noted, since changes may be missing there. What is
// set up in the source stays, and is followed anew. Until all is gone the record says why:
// a later process does the rest.
func (c *copying) readAgain(why string) (err error) {
	c.opts.Events(Warning{Message: "what was read and followed until now is thrown away, and all is read again: " + why})
	c.result.Live.Gap, c.result.Segments = why, 0
	if err := c.journal.writeSetup(); err != nil {
		return err
	}
	if c.journal.work != c.journal.dir {
		if err := c.journal.clear(c.journal.work); err != nil {
			return err
		}
	}
	if err := c.journal.clearBut(c.journal.dir, setupName); err != nil {
		return err
	}
	if err := c.opts.Disk.Sync(c.journal.dir); err != nil {
		return workError("sync "+c.journal.dir, err)
	}
	// What is marked is another one's from now on.
	id, err := uuid.GenerateUUID()
	if err != nil {
		return fmt.Errorf("make id: %w", err)
	}
	*c.result.Live = LiveRecord{ID: id, Repeated: c.result.Live.Repeated + 1}
	c.result.Scan, c.result.Load = ScanStats{}, LoadStats{}
	c.journal.spans, c.journal.next, c.journal.run, c.journal.saved = nil, 1, 1, false
	if err := c.journal.writeSetup(); err != nil {
		return err
	}
	return c.makeWork()
}

// gapCode gives an error that says of a gap its code.
func gapCode(err error) error {
	if code, _ := CodeOf(err); errors.Is(err, ErrGap) && code == "" {
		return &Error{Code: FeedGap, Err: err}
	}
	return err
}

// throwAway removes what an unfinished copy has in the source, and its work files apart.
func (c *copying) throwAway(ctx context.Context) error {
	was := c.earlier
	if was != nil && was.Live != nil {
		if err := c.unfollow(ctx); err != nil {
			return err
		}
	}
	return c.discardApart(was)
}

// unfollow removes what was set up in the source to follow it.
func (c *copying) unfollow(ctx context.Context) error {
	feed, ok := c.src.(Feed)
	if !ok {
		return &Error{Kind: ErrConfig, Op: "unfollow " + c.result.Source.Name, Err: errors.New("the source was followed, and can't be any more")}
	}
	return Unfollow(ctx, feed, c.journal.dir, c.result.RunID)
}

// Unfollow removes what a copy that follows its source has set up in that. dir is the
// work directory of the unfinished copy, see [WorkDirer]. It may be repeated. It is for
// whoever gives a copy up: [Copy] calls it for one that is complete or thrown away.
func Unfollow(ctx context.Context, src Feed, dir, runID string) error {
	saved, err := readPosition(dir)
	if err != nil {
		saved.Position = nil // it is of no use
	}
	if err := src.Unfollow(ctx, runID, saved.Position); err != nil {
		return fmt.Errorf("unfollow run %s: %w", runID, cause(ctx, err))
	}
	return nil
}

// endLive decides what becomes of a copy that has ended with err.
func (c *copying) endLive(err error) {
	switch {
	case err == nil, c.result.Complete, c.end == EndUnfinished:
		return // by release
	case c.result.State != "", errors.Is(err, ErrNotReleased), errors.Is(err, ErrUnconfirmed):
		c.end = EndUnfinished
		return
	}
	saved, perr := readPosition(c.journal.dir)
	begun := perr != nil || saved.Position != nil
	if errors.Is(err, ErrGap) && c.result.Live.Gap == "" {
		c.result.Live.Gap = err.Error()
		if werr := c.journal.writeSetup(); werr != nil {
			c.opts.Events(Warning{Message: werr.Error()}) // most gaps are seen again
		}
	}
	if (begun || c.result.Live.Gap != "") && !errors.Is(err, ErrReadBack) && !errors.Is(err, ErrMoved) {
		c.end = EndUnfinished
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), releaseTimeout)
	defer cancel()
	if _, ok := c.src.(Feed); !ok {
		return
	}
	if uerr := c.unfollow(ctx); uerr != nil {
		c.opts.Events(Warning{Message: uerr.Error()})
		if begun {
			c.end = EndUnfinished // its record says what is left in the source
		}
	}
}

// start takes over what an earlier process has marked, or reads and loads the base.
func (l *live) start(ctx context.Context) error {
	if l.marked {
		return l.notes.seek(l.mark.Notes)
	}
	if err := l.base(ctx); err != nil {
		return err
	}
	if err := l.journal.writeSetup(); err != nil {
		return err
	}
	return l.apply(ctx, nil, notePlace{})
}

// A tee computes the digests of what passes.
type tee struct {
	Stream
	digester Digester
}

func (t *tee) Next() (Entry, error) {
	e, err := t.Stream.Next()
	if err == nil {
		t.digester.Add(e)
	}
	return e, err
}

// base reads all of the source, and loads it.
func (l *live) base(ctx context.Context) error {
	opts := l.scanning()
	opts.digest = false
	l.result.Live.Twice = 0
	opts.twice = func(key []byte) error {
		l.result.Live.Twice++
		return l.notes.add([][]byte{key}, nil)
	}
	entries, stats, _, err := runScan(ctx, l.src, opts)
	l.result.Scan = stats
	if err != nil {
		return err
	}
	in := &tee{Stream: entries}
	err = l.load(ctx, l.loader, in)
	if cerr := entries.Close(); cerr != nil {
		err = errors.Join(err, &Error{Kind: ErrDestination, Op: "close work files", Err: cerr})
	}
	if err != nil {
		return err
	}
	l.mark = liveMark{Digests: Digests{}}
	l.mark.Digests.Add(in.digester.Take())
	total := l.mark.Digests.Total()
	return l.sameCount(total.Entries, total.Bytes)
}

// apply makes changes, and marks the stage as being up to a place in the notes.
func (l *live) apply(ctx context.Context, changes []Change, at notePlace) error {
	next := liveMark{ID: l.result.Live.ID, Notes: at, Applied: l.mark.Applied + int64(len(changes)), Digests: maps.Clone(l.mark.Digests)}
	var there Digester
	for _, c := range changes {
		if !c.Gone {
			there.Add(c.Entry)
		}
	}
	// Where it is to end, it is known what is there.
	if err := l.applier.Apply(context.WithoutCancel(ctx), changes, func(old []Entry) ([]byte, error) {
		var gone Digester
		for _, e := range old {
			gone.Add(e)
		}
		next.Digests.Sub(gone.Take())
		next.Digests.Add(there.Take())
		return json.Marshal(next)
	}); err != nil {
		return err
	}
	l.mark = next
	l.result.Live.Applied = next.Applied
	return nil
}

// catchUp reads again what the next notes name, and applies it. It notes whether there
// was nothing.
func (l *live) catchUp(ctx context.Context) error {
	if len(l.keys) == 0 {
		var err error
		if l.keys, l.upTo, err = l.notes.next(applyKeys); err != nil {
			return err
		}
	}
	keys := l.keys
	if l.caughtUp = len(keys) == 0; l.caughtUp {
		return nil
	}
	changes := make([]Change, 0, len(keys))
	chunks := slices.Collect(slices.Chunk(keys, rereadKeys))
	batches := make([]Batch, len(chunks))
	group, gctx := errgroup.WithContext(ctx)
	group.SetLimit(rereads)
	for i, chunk := range chunks {
		group.Go(func() error { return l.following.Reread(gctx, chunk, &batches[i]) })
	}
	if err := group.Wait(); err != nil {
		return err
	}
	index := map[string]int{}
	for _, key := range keys {
		index[string(key)] = len(changes)
		changes = append(changes, Change{Entry: Entry{Key: key}, Gone: true})
	}
	for i := range batches {
		for j := range batches[i].Len() {
			e := batches[i].Entry(j)
			at, ok := index[string(e.Key)]
			if !ok || !changes[at].Gone {
				return &Error{Kind: ErrSource, Op: "read " + NameKey(e.Key), Err: errors.New("it was not asked for, or came twice: this is a defect of the source")}
			}
			changes[at].Value, changes[at].Gone = e.Value, false
		}
	}
	if err := l.apply(ctx, changes, l.upTo); err != nil {
		return err
	}
	l.keys = nil
	return nil
}

// isProven reports whether what is pinned was read back.
func (l *live) isProven() bool { return l.proof != nil && l.applier.Pinned() }

// prove pins what is there, and reads it back.
func (l *live) prove(ctx context.Context) error {
	l.proof = nil
	if err := l.applier.Pin(ctx); err != nil {
		return err
	}
	l.buckets = new(Buckets)
	got, proof, err := l.examine(ctx)
	if err != nil {
		return err
	}
	if !got.same(l.mark.Digests) {
		return l.differs(got, l.mark.Digests)
	}
	l.proof, l.proven = proof, got
	return nil
}

// compare looks at what has changed since the proof: with that, what was proven must be
// what was kept along.
func (l *live) compare(ctx context.Context) error {
	now, buckets, err := l.sinceProof(ctx)
	if err != nil {
		return err
	}
	l.result.Prefixes, l.result.Total, l.result.Proof = now, now.Total(), l.proof
	l.result.Load.Entries, l.result.Load.Bytes = l.result.Total.Entries, l.result.Total.Bytes
	l.final = buckets
	return nil
}

// moveProof does what compare does while the source is followed, and pins what is there
// then. The comparison that Vaults wait for has only what has changed since.
func (l *live) moveProof(ctx context.Context) error {
	now, buckets, err := l.sinceProof(ctx)
	if err != nil {
		return err
	}
	if err := l.applier.Pin(ctx); err != nil {
		return err
	}
	l.proven, l.buckets, l.movedAt = now, buckets, l.result.Live.Applied
	return nil
}

// sinceProof returns the digests and buckets of what is there, by what was proven and
// what has changed since. They are those that were kept along.
func (l *live) sinceProof(ctx context.Context) (Digests, *Buckets, error) {
	now := Digests{}
	now.Add(l.proven)
	buckets := *l.buckets
	var gone, there Digester
	if err := l.applier.Delta(ctx, func(e Entry) error {
		gone.Add(e)
		buckets.Sub(e)
		return nil
	}, func(e Entry) error {
		there.Add(e)
		buckets.Add(e)
		return nil
	}); err != nil {
		return nil, nil, l.notAsRead(err)
	}
	// What is added first can't be missing when the rest is taken away.
	now.Add(there.Take())
	now.Sub(gone.Take())
	if !now.same(l.mark.Digests) || buckets.Total() != l.mark.Digests.Total() {
		return nil, nil, l.differs(now, l.mark.Digests)
	}
	return now, &buckets, nil
}

// loop follows the source until the cut-over.
func (l *live) loop(ctx context.Context) error {
	defer l.dropTake()
	tick := time.NewTicker(armInterval)
	defer tick.Stop()
	l.startPhase(PhaseFollow)
	for {
		if err := l.catchUp(ctx); err != nil {
			return cause(ctx, err)
		}
		if l.caughtUp && !l.isProven() {
			l.dropTake() // the source would be held meanwhile
			if err := l.prove(ctx); err != nil {
				return cause(ctx, err)
			}
			l.startPhase(PhaseFollow)
			l.caughtUp, l.movedAt = false, l.result.Live.Applied
		}
		if l.isProven() && l.result.Live.Applied-l.movedAt >= moveProofAfter {
			if err := l.moveProof(ctx); err != nil {
				return cause(ctx, err)
			}
		}
		l.tell()
		if err := context.Cause(ctx); err != nil {
			return err
		}
		l.armed(ctx)
		if !l.caughtUp {
			select {
			case got := <-l.taking:
				if done, err := l.cutOver(ctx, got); done || err != nil {
					return err
				}
			default:
			}
			continue
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-l.follower.changed:
		case <-tick.C:
		case got := <-l.taking:
			if done, err := l.cutOver(ctx, got); done || err != nil {
				return err
			}
		}
	}
}

// tell says how far it is.
func (l *live) tell() {
	was := l.ready
	l.ready = l.isProven() && (l.caughtUp || was)
	if !l.ready && time.Since(l.told) < armInterval {
		return
	}
	l.told = time.Now()
	records, delay := l.follower.lag()
	noted, left := l.notes.counts()
	l.result.Live.Noted = l.noted + noted
	expected := cmp.Or(l.expect, delay+time.Second)
	l.opts.Events(Followed{Records: records, Delay: delay, Pending: left, Noted: noted, Applied: l.mark.Applied, Ready: l.ready, Expected: expected})
	if l.ready && !was {
		l.opts.Events(ReadyToCutOver{Expected: expected})
	}
}

// A taken is what Take has returned.
type taken struct {
	arm   Arm
	lease Lease
	err   error
	ctx   context.Context // ends when the lease is lost
	lost  context.CancelCauseFunc
	at    time.Time
}

// armed begins to take the source where it is to be, or ends that.
func (l *live) armed(ctx context.Context) {
	arm := l.opts.Live.Armed()
	if arm == NotArmed {
		l.arm = NotArmed
		l.dropTake()
		return
	}
	if l.taking != nil && arm != l.takes {
		l.dropTake() // the word has changed
	}
	if l.taking != nil || !l.ready || arm == l.arm || time.Now().Before(l.notFor) {
		return
	}
	l.takes = arm
	out := make(chan taken, 1)
	tctx, cancel := context.WithCancel(ctx)
	l.taking, l.giveUp = out, cancel
	go func() {
		got := taken{arm: arm}
		got.ctx, got.lost = context.WithCancelCause(ctx)
		got.lease, got.err = l.feed.Take(tctx, l.result.RunID, l.waits, got.lost)
		got.at = time.Now()
		out <- got
	}()
}

// waits says what is waited for; nothing where that is over.
func (l *live) waits(t Turn) {
	l.waitOver()
	w := Waiting{For: WaitHeldLock, Name: t.Holder, Since: time.Now(), Until: t.Until}
	switch {
	case t.Expired:
		w.For = WaitExpiredLock
	case t.Holder == "":
		w.For = WaitOldHolder
	}
	l.waitFor = &w
	l.opts.Events(w)
}

func (l *live) waitOver() {
	if w := l.waitFor; w != nil {
		l.waitFor = nil
		l.opts.Events(WaitOver{For: w.For, Name: w.Name})
	}
}

// dropTake ends a Take that is under way, and gives back what it has got.
func (l *live) dropTake() {
	if l.taking == nil {
		return
	}
	l.giveUp()
	l.dropTaken(<-l.taking)
}

// dropTaken gives back what a Take has got.
func (l *live) dropTaken(got taken) {
	l.taking = nil
	l.waitOver()
	if got.err == nil {
		if err := l.giveBack(got.lease); err != nil {
			l.opts.Events(Warning{Message: err.Error()})
		}
	}
	got.lost(nil)
}

// giveBack gives the source back as it was found.
func (l *live) giveBack(lease Lease) error {
	ctx, cancel := outlive(l.caller)
	defer cancel()
	err := lease.Release(ctx, EndFailed)
	if err == nil || errors.Is(err, ErrMoved) {
		return nil // what another one holds is not ours to give back
	}
	if !errors.Is(err, ErrNotReleased) {
		err = fmt.Errorf("%w: %w", ErrNotReleased, err)
	}
	return err
}

// cutOver does what the source was taken for. done reports whether that was the end.
func (l *live) cutOver(ctx context.Context, got taken) (done bool, err error) {
	if l.opts.Live.Armed() != got.arm { // the word has changed while Take returned
		l.giveUp()
		l.dropTaken(got)
		return false, nil
	}
	l.taking = nil
	l.giveUp()
	l.waitOver()
	defer got.lost(nil)
	if got.err != nil {
		if errors.Is(got.err, ErrLocked) && context.Cause(ctx) == nil {
			l.later(got.err)
			return false, nil
		}
		return false, cause(ctx, got.err)
	}
	l.opts.Events(Taken{Rehearsal: got.arm == Rehearse})
	l.startPhase(PhaseDrain)
	err = l.drain(got)
	if err == nil && got.arm == Rehearse {
		err = l.compare(got.ctx)
	}
	drained := time.Since(got.at)
	if err == nil && got.arm == Armed {
		err = l.commitDrained(got, drained)
		if l.result.Complete || l.result.State != "" || errors.Is(err, ErrUnconfirmed) {
			return true, l.complete(got, err)
		}
	}
	if errors.Is(err, ErrLocked) && context.Cause(ctx) == nil && !errors.Is(err, ErrDestination) {
		err = fmt.Errorf("%w: %w", errGivenBack, err)
	}
	if rerr := l.giveBack(got.lease); rerr != nil {
		return false, errors.Join(cause(ctx, err), rerr)
	}
	outage := time.Since(got.at)
	switch {
	case err == nil: // a rehearsal
		l.arm = Rehearse
		l.expect = outage
		l.result.Live.Rehearsals++
		l.opts.Events(Rehearsed{Outage: outage, Drain: drained})
	case errors.Is(err, errGivenBack) && !errors.Is(err, ErrDestination):
		l.later(err)
	default:
		return false, cause(ctx, err)
	}
	l.result.Live.Drain = drained
	if err := l.journal.writeSetup(); err != nil {
		return false, err
	}
	l.follower.start(ctx)
	l.caughtUp = false
	l.startPhase(PhaseFollow)
	return false, nil
}

// later puts the next cut-over off.
func (l *live) later(why error) {
	l.result.Live.GivenBack++
	l.notFor = time.Now().Add(cmp.Or(l.opts.Live.DrainTimeout, defaultDrain))
	l.opts.Events(GivenBack{Err: why})
}

// drain waits until all changes have arrived and are applied.
func (l *live) drain(got taken) error {
	within := cmp.Or(l.opts.Live.DrainTimeout, defaultDrain)
	late := fmt.Errorf("%w: not all changes have arrived within %v", errGivenBack, within)
	ctx, cancel := context.WithTimeoutCause(got.ctx, within, late)
	defer cancel()
	l.drains++
	l.follower.want(l.drains)
	if err := l.following.Drain(ctx); err != nil {
		return cause(ctx, err)
	}
	for {
		passed := l.follower.passed() // and all was noted then
		if err := l.catchUp(ctx); err != nil {
			return cause(ctx, err)
		}
		if passed && l.caughtUp {
			break
		}
		if !l.caughtUp {
			continue
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-l.follower.changed:
		}
	}
	for _, folder := range l.follower.unsure { // nobody calls Next any more
		if err := l.compareFolder(ctx, folder); err != nil {
			return cause(ctx, err)
		}
	}
	if !l.isProven() {
		return fmt.Errorf("%w: what was read back must be read back once more", errGivenBack)
	}
	return nil
}

// commitDrained puts the result in place. Where that was not done, changes may follow.
func (l *live) commitDrained(got taken, drained time.Duration) error {
	if err := l.applier.Finish(got.ctx); err != nil {
		return cause(got.ctx, err)
	}
	if err := l.compare(got.ctx); err != nil {
		return cause(got.ctx, err)
	}
	// A process that finds the result in place looks for what is hinted at behind it.
	if err := l.notes.flush(); err != nil {
		return err
	}
	l.result.Live.Drain = drained
	l.lastLook = func(ctx context.Context) error {
		h, err := l.following.Poll(ctx)
		if err == nil && len(h.Keys) > 0 {
			err = l.notes.add(h.Keys, h.Position)
		}
		if err != nil {
			return gapCode(err)
		}
		if len(h.Keys) > 0 {
			return fmt.Errorf("%w: somebody has written to it meanwhile: %s", errGivenBack, nameKeys(h.Keys))
		}
		return nil
	}
	err := l.commit(got.ctx, got.lease)
	l.result.Live.Outage = time.Since(got.at)
	if l.result.Complete || l.result.State != "" || errors.Is(err, ErrUnconfirmed) {
		return err
	}
	l.result.Prefixes, l.result.Total, l.result.Proof = nil, Digest{}, nil
	if !errors.Is(err, ErrDestination) {
		err = errors.Join(err, l.apply(l.caller, nil, l.mark.Notes)) // for the mark
	}
	return err
}

// complete gives the source back, and watches it a little longer.
func (l *live) complete(got taken, err error) error {
	err = l.release(l.caller, got.lease, err)
	if err != nil || !l.result.Complete {
		return err
	}
	l.opts.Events(CutOver{Outage: l.result.Live.Outage})
	l.keepBuckets(l.caller, l.final)
	return l.watchOut(l.caller, l.following)
}

// keepBuckets has the caller keep the buckets of a result that is complete.
func (c *copying) keepBuckets(ctx context.Context, b *Buckets) {
	if c.opts.Live == nil || c.opts.Live.Buckets == nil || b == nil {
		return
	}
	if err := c.opts.Live.Buckets(context.WithoutCancel(ctx), c.snapshot(), b); err != nil {
		c.opts.Events(Warning{Message: "the copy is complete, but " + err.Error()})
	}
}

// unfollowComplete is unfollow behind a complete copy.
func (c *copying) unfollowComplete(ctx context.Context) {
	ctx, cancel := outlive(ctx)
	defer cancel()
	if err := c.unfollow(ctx); err != nil {
		c.opts.Events(Warning{Message: "the copy is complete, but its source is still set up to be followed: " + err.Error()})
	}
}

// finishLive does for a complete copy what a process that was killed behind its commit has
// left undone.
func (c *copying) finishLive(ctx context.Context) error {
	c.opts.Events(CutOver{Outage: c.result.Live.Outage})
	c.keepBuckets(ctx, c.buckets)
	feed, ok := c.src.(Feed)
	saved, why := readPosition(c.journal.dir)
	if why == nil && saved.Position == nil {
		why = fmt.Errorf("read %s: the position is gone", filepath.Join(c.journal.dir, positionName))
	}
	if ok && why == nil {
		var f Following
		if f, why = feed.Follow(ctx, c.result.RunID, saved.Position); why == nil {
			err := c.watchOut(ctx, f)
			if cerr := f.Close(); cerr != nil {
				c.opts.Events(Warning{Message: "stop following the source: " + cerr.Error()})
			}
			return err
		}
		if ctx.Err() != nil {
			return c.interrupted(ctx)
		}
	}
	if why != nil {
		c.unwatched(why)
	}
	c.unfollowComplete(ctx)
	return nil
}

// watchOut watches the source, and removes what was set up to follow it. Where the caller
// has interrupted it that stays, and so does the position: the next process watches on.
func (c *copying) watchOut(ctx context.Context, f Following) error {
	err := c.watch(ctx, f)
	if code, _ := CodeOf(err); err != nil && code != WrittenAfter {
		c.end = EndUnfinished
		return err
	}
	c.unfollowComplete(ctx)
	return err
}

// interrupted is the error of a watch that the caller has ended.
func (c *copying) interrupted(ctx context.Context) error {
	return fmt.Errorf("watch %s: %w", c.result.Source.Name, context.Cause(ctx))
}

func (c *copying) unwatched(why error) {
	c.opts.Events(Warning{Message: "the copy is complete, but nobody could look any longer whether somebody still writes to its source: " + why.Error()})
}

// watch looks for what is written behind the commit. An error without a code says that the
// caller has interrupted it, and nothing had come.
func (c *copying) watch(ctx context.Context, f Following) error {
	within := defaultBeyond
	if c.opts.Live != nil {
		within = cmp.Or(c.opts.Live.Beyond, within)
	}
	var keys [][]byte
	for until := time.Now().Add(within); time.Now().Before(until); {
		h, err := f.Next(ctx)
		if err != nil && ctx.Err() != nil && len(keys) == 0 {
			return c.interrupted(ctx)
		}
		if err != nil {
			c.unwatched(cause(ctx, err))
			break
		}
		keys = append(keys, h.Keys...)
	}
	if len(keys) == 0 {
		return nil
	}
	names := nameKeys(keys)
	return &Error{Kind: ErrSource, Op: "watch " + c.result.Source.Name, Code: WrittenAfter, Facts: map[string]string{"keys": names},
		Err: fmt.Errorf("somebody has written to it after the copy was complete, which does not have that: %s", names)}
}

// nameKeys names keys, the first ones.
func nameKeys(keys [][]byte) string {
	keys = slices.CompactFunc(slices.SortedFunc(slices.Values(keys), bytes.Compare), bytes.Equal)
	const some = 20
	var names []string
	for _, key := range keys[:min(len(keys), some)] {
		names = append(names, NameKey(key))
	}
	if more := len(keys) - some; more > 0 {
		names = append(names, fmt.Sprintf("and %d more", more))
	}
	return strings.Join(names, ", ")
}
