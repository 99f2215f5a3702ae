package copier

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/go-uuid"

	"github.com/dyn2raft/dyn2raft/copier/durable"
)

// Options say how a copy is made. The zero value is fit for use.
type Options struct {
	// RunID identifies this copy in the source's locks and in every record of
	// it; empty means a new UUID. A copy that is resumed keeps its own.
	RunID string
	// Workers, Segments and Memory are those of [ScanOptions].
	Workers  int
	Segments int
	Memory   int64
	// Resume resumes an unfinished copy, or begins one where there is none.
	// Restart throws an unfinished copy away and begins another. Without either,
	// an unfinished copy is refused with [ErrUnfinished].
	Resume  bool
	Restart bool
	// WorkDir is an existing directory for work files, as large as the data;
	// empty means the sink's own. It is needed where the sink is no [WorkDirer],
	// and may then be used by no other copy.
	WorkDir string
	// Tool is the program that makes the copy, and Settings what it wants on record
	// of how, by name: its flags, say. A copy that is resumed has what Settings says from
	// then on, unless it is nil: see [ReadStatus].
	Tool     Tool
	Settings map[string]string
	// Caller is kept with this process: see [Process]. It must name no secret.
	Caller Caller
	// Backup, where set, is the name of a backup that is made of the source once that
	// is locked, and before anything is read. The source must be a [Snapshotter]. A copy
	// that has one is resumed without another.
	Backup string
	// CheckpointInterval is how often what was read is saved; 0 means 4 s.
	CheckpointInterval time.Duration
	// Check, where set, is called before the source is locked, with both ends
	// found fit and the destination held. What it warns of is kept with the copy. Its
	// error ends the copy; an unfinished one stays.
	Check func(ctx context.Context, source Info) ([]Warning, error)
	// Uninitialized accepts a source that no initialized Vault has used, which
	// is refused with [ErrNotAVault] otherwise: before it is locked, or, where it is no
	// [Getter], once it is loaded, and before the result is put in place.
	Uninitialized bool
	// NoProof leaves out reading back what was written, and the digests for it: of the
	// result nothing is compared but its size.
	NoProof bool
	// Live, where set, has the copy follow its source until it is told to cut over.
	Live *Live
	// Record, where set, is given the record of the copy to keep it: as a draft, which
	// is Unconfirmed, before the result is put in place; once that is Confirmed; once the
	// source is given back, which makes it Released; and once the work files are removed.
	// Where a confirmed result turns out not to be one, it is Unconfirmed again. If the
	// process is killed meanwhile, a later call with Resume calls it again. Its error
	// becomes a Warning.
	Record func(ctx context.Context, r Record) error
	// Events, where set, is called with the engine's events.
	Events func(Event)
	// Progress, where set, is what the status file is made of. The caller then
	// passes it all events: the engine's, the source's and the sink's. Where it is
	// nil, the status file has the engine's events only.
	Progress *Progress
	// Disk is what work files are written through; nil is the real one.
	Disk *durable.Disk

	tune  func(*sorter)    // as ScanOptions has it
	ticks <-chan time.Time // as well
}

// Validate checks the options. An error wraps [ErrConfig].
func (o *Options) Validate() error {
	if o.Resume && o.Restart {
		return &Error{Kind: ErrConfig, Op: "copy", Err: errors.New("an unfinished copy can't be resumed and thrown away")}
	}
	switch l := o.Live; {
	case l == nil:
	case l.Armed == nil:
		return &Error{Kind: ErrConfig, Op: "copy", Err: errors.New("nobody says when to cut over")}
	case o.NoProof:
		return &Error{Kind: ErrConfig, Op: "copy", Err: errors.New("a source can't be followed without a proof")}
	case l.DrainTimeout < 0 || l.Beyond < 0:
		return &Error{Kind: ErrConfig, Op: "copy", Err: errors.New("a time to wait is negative")}
	}
	scan := o.scanOptions()
	return scan.validate()
}

func (o *Options) scanOptions() ScanOptions {
	return ScanOptions{Workers: o.Workers, Segments: o.Segments, Memory: o.Memory, Events: o.Events,
		digest: !o.NoProof, every: o.CheckpointInterval, tune: o.tune, ticks: o.ticks}
}

// releaseTimeout bounds how long a copy that ends tries to give the source's
// locks back, and interruptedRelease how long one does that whose caller has
// cancelled it, so that it ends within 2 s.
const (
	releaseTimeout     = 15 * time.Second
	interruptedRelease = 1300 * time.Millisecond
)

// Copy copies all entries of src to dst.
//
// It returns nil only when the result is complete, durable, in place and
// confirmed by the source, and the source is given back; otherwise nothing is in
// place, unless Record.State says so, and the error wraps one of this package's
// sentinels or the context's error. Where the source does not answer when it is
// given back, the result stays, Confirmed, and the error wraps [ErrNotReleased]:
// a later call with Options.Resume has the source asked again. Record.Resumable reports whether the work
// done is kept, and the source locked, for a later call with Options.Resume;
// where it is not, the source's locks are given back and the destination is as
// it was, unless the error wraps [ErrNotReleased], or [ErrWorkGone]. The record
// is valid as far as the copy came.
func Copy(ctx context.Context, src Source, dst Sink, opts Options) (Record, error) {
	c := &copying{src: src, dst: dst, opts: opts}
	if c.opts.Events == nil {
		c.opts.Events = func(Event) {}
	}
	if c.opts.Progress == nil {
		events := c.opts.Events
		c.opts.Progress = new(Progress)
		c.opts.Events = func(e Event) {
			c.opts.Progress.Event(e)
			events(e)
		}
	}
	c.start = time.Now()
	c.result = Record{Tool: opts.Tool, Start: c.start.UTC(), Destination: dst.Identity()}
	c.took = map[Phase]time.Duration{}
	err := c.run(ctx)
	return c.snapshot(), err
}

type copying struct {
	src     Source
	dst     Sink
	stage   Stage // once there is one
	opts    Options
	home    string // the directory of the engine's own files, but for runs that are to be elsewhere
	result  Record
	start   time.Time // by the monotonic clock too
	before  []Process // earlier processes, of a result that is in place
	journal *journal
	history *history

	warned []Warning // of Options.Check

	buckets  *Buckets                    // of what is read back, where they are wanted
	lastLook func(context.Context) error // where set, is asked ahead of Commit; its error undoes Prepare

	reach   reach
	earlier *Record // of an unfinished copy
	started bool    // there is a setup, of this process or of one that it resumes
	restart bool    // there is something to throw away, once the source is locked
	held    bool    // an unfinished copy has read from the source, and locked it
	end     End     // how the source was given back

	phase      Phase
	phaseStart time.Time
	took       map[Phase]time.Duration // of phases that have ended
}

// snapshot is the record as it is now.
func (c *copying) snapshot() Record {
	r := c.result
	now := Process{Caller: c.opts.Caller, Start: c.start.UTC(), End: c.start.UTC().Add(time.Since(c.start)), Phases: maps.Clone(c.took)}
	if c.phase != "" {
		now.Phases[c.phase] += time.Since(c.phaseStart)
	}
	earlier := c.before
	if c.history != nil {
		earlier, now.Samples = c.history.now()
	}
	r.Processes = append(slices.Clone(earlier), now)
	r.Warnings = slices.Clone(r.Warnings)
	if r.Live != nil {
		live := *r.Live
		r.Live = &live
	}
	for _, w := range c.opts.Progress.warnings() {
		w.Check = cmp.Or(w.Check, "copy")
		if !slices.Contains(r.Warnings, w) {
			r.Warnings = append(r.Warnings, w)
		}
	}
	return r
}

func (c *copying) startPhase(p Phase) {
	c.endPhase()
	c.phase, c.phaseStart = p, time.Now()
	if p != PhaseScan { // Scan says so itself, with more to say
		c.opts.Events(PhaseStarted{Phase: p, Source: c.result.Source})
	}
}

func (c *copying) endPhase() {
	if c.phase != "" {
		c.took[c.phase] += time.Since(c.phaseStart)
		c.phase = ""
	}
}

// run makes the copy. What becomes of what was done is decided in keeps and endOf, by
// how far it came and by its error.
func (c *copying) run(ctx context.Context) (err error) {
	if err := c.opts.Validate(); err != nil {
		return err
	}
	if !c.opts.NoProof {
		if err := CheckDigest(); err != nil {
			return &Error{Op: "compute digests", Err: err}
		}
	}
	if d, ok := c.dst.(WorkDirer); ok {
		c.home = d.WorkDir()
	} else if c.home, err = filepath.Abs(c.opts.WorkDir); err != nil || c.opts.WorkDir == "" {
		return &Error{Kind: ErrConfig, Op: "copy", Err: errors.Join(errors.New("the destination has no place for work files, and no directory is named for them"), err)}
	}
	c.startPhase(PhasePrepare)
	err = c.prepare(ctx)

	keep := c.keeps(err)
	if keep && c.started {
		err = c.stillThere(err)
	}
	c.result.Resumable = keep && (c.started || c.notThrownAway()) && c.canGoOn(err)
	c.result.Overwritten = !c.result.Complete && c.overwritten()
	if c.result.Complete && !keep {
		c.startPhase(PhaseCleanUp)
	}
	switch cerr := c.cleanUp(ctx, keep); {
	case cerr == nil:
	case c.result.Complete:
		c.opts.Events(Warning{Message: "the copy is complete, but its work files are not all removed: " + cerr.Error()})
	default:
		err = errors.Join(err, cerr)
	}
	return err
}

// A reach is how far a process has come.
type reach int

const (
	looking  reach = iota // at the destination: what is there is another process's
	checking              // the source: what is there was read, and nobody has touched it
	locking               // the source
	holding               // it: what is there is this process's
)

// keeps reports whether the work files stay, of a process that ended with err.
func (c *copying) keeps(err error) bool {
	switch {
	case err == nil:
		return false
	case c.reach == looking, errors.Is(err, ErrNotReleased), c.restart && !c.started:
		return true // others', or the record has the name of the locks, or not all of it is thrown away
	case c.reach == checking:
		return c.earlier != nil
	case c.reach == locking:
		return c.held
	default:
		return c.end == EndUnfinished || errors.Is(err, ErrUnconfirmed)
	}
}

// endOf is how the lease ends of a process that has held the source and ended with err.
func (c *copying) endOf(err error) End {
	switch {
	case c.result.Complete:
		return EndComplete
	case c.result.InPlace, c.worthKeeping(err), c.notThrownAway():
		return EndUnfinished
	default:
		return EndFailed
	}
}

// notThrownAway reports whether there is an unfinished copy to be thrown away, in whose
// name the source is locked.
func (c *copying) notThrownAway() bool {
	return c.reach == holding && c.earlier != nil && c.restart && !c.started
}

// prepare looks at both ends, locks the source, and has the copy made.
func (c *copying) prepare(ctx context.Context) (err error) {
	found, err := c.dst.Open(ctx)
	if err == nil && found.Record != nil {
		err = c.inPlace(ctx, found)
		return cause(ctx, err)
	}
	if err == nil {
		c.earlier, err = c.unfinished(ctx)
	}
	if err != nil {
		return cause(ctx, err)
	}
	c.reach, c.started = checking, c.earlier != nil && c.opts.Resume
	if c.result.Source, err = c.src.Open(ctx); err != nil {
		return cause(ctx, err)
	}
	defer c.closeSource()
	if err := c.check(ctx); err != nil {
		return cause(ctx, err)
	}
	if c.earlier != nil && c.restart {
		was := *c.earlier
		if was.Source.ID == c.result.Source.ID {
			was.Source.Incarnation = c.result.Source.Incarnation // one that is gone, and its locks with it
		}
		if err := c.sameSource("throw away", was); err != nil {
			return err
		}
	}
	if err := c.begin(c.earlier); err != nil {
		return err
	}
	status := &statusFile{path: filepath.Join(c.journal.dir, StatusName), progress: c.opts.Progress, history: c.history}
	defer func() { status.end(err) }()
	if !c.restart {
		if err := c.record(status); err != nil {
			return err
		}
	}

	if c.opts.Live != nil {
		return c.follow(ctx, status)
	}
	// Where nothing was saved, nothing can have changed since.
	c.reach, c.held = locking, c.journal.setup.Held && c.journal.saved
	var lease Lease
	caller := ctx
	if locker, ok := c.src.(Locker); ok {
		c.startPhase(PhaseLock)
		// From here on the loss of the lease ends whatever is under way.
		var lost context.CancelCauseFunc
		ctx, lost = context.WithCancelCause(ctx)
		defer lost(nil)
		if lease, err = locker.Lock(ctx, c.result.RunID, c.held, lost); err != nil {
			return cause(ctx, err)
		}
	}
	c.reach = holding
	err = c.make(ctx, lease, status)
	if lease != nil {
		return c.release(caller, lease, err)
	}
	c.end = c.endOf(err)
	return err
}

// make makes the copy of a source that is held.
func (c *copying) make(ctx context.Context, lease Lease, status *statusFile) (err error) {
	if c.restart {
		if err := c.throwAway(ctx); err != nil {
			return err
		}
		if err := c.record(status); err != nil {
			return err
		}
	}
	if !c.held {
		// It is on record before anything is: with the number of segments.
		c.journal.setup.Held = true
		if c.journal.setup.Segments != 0 {
			if err := c.journal.writeSetup(); err != nil {
				return err
			}
		}
	}
	if c.stage, err = c.dst.Stage(ctx, c.result.RunID); err != nil {
		return cause(ctx, err)
	}
	if err := c.backUp(ctx); err != nil {
		return err
	}
	return c.transfer(ctx, lease)
}

func (c *copying) closeSource() {
	if err := c.src.Close(); err != nil {
		c.opts.Events(Warning{Message: "close the source: " + err.Error()})
	}
}

// check calls Options.Check, and looks whether the source is a Vault's.
func (c *copying) check(ctx context.Context) (err error) {
	if c.opts.Backup != "" {
		if _, ok := c.src.(Snapshotter); !ok {
			return &Error{Kind: ErrConfig, Op: "back up " + c.result.Source.Name, Err: errors.New("this source makes no backups")}
		}
	}
	if c.opts.Check != nil {
		if c.warned, err = c.opts.Check(ctx, c.result.Source); err != nil {
			return err
		}
	}
	src, ok := c.src.(Getter)
	if !ok || c.opts.Uninitialized {
		return nil
	}
	return c.checkVault(ctx, src)
}

// checkVault refuses what is no Vault's.
func (c *copying) checkVault(ctx context.Context, src Getter) error {
	if _, err := CheckVault(ctx, src); err != nil {
		return fmt.Errorf("check %s: %w", c.result.Source.Name, err)
	}
	return nil
}

// checkLoaded is checkVault of what was loaded. Where it was asked for, what is no
// Vault's is on record as that.
func (c *copying) checkLoaded(ctx context.Context, src Getter) error {
	err := c.checkVault(ctx, src)
	if c.opts.Uninitialized && errors.Is(err, ErrNotAVault) {
		c.opts.Events(Warning{Check: "initialized", Message: err.Error(), Ignored: true})
		return nil
	}
	return err
}

// askStage is checkLoaded of a stage that no stream was loaded into, as far as what reads
// it back can be asked.
func (c *copying) askStage(ctx context.Context) error {
	src, err := c.stage.Reader(ctx)
	if err != nil {
		return cause(ctx, err)
	}
	getter, ok := src.(Getter)
	if !ok {
		return nil
	}
	if _, err := src.Open(ctx); err != nil {
		return cause(ctx, err)
	}
	return errors.Join(c.checkLoaded(ctx, getter), src.Close())
}

// backUp makes the backup that is asked for, unless an earlier process has.
func (c *copying) backUp(ctx context.Context) (err error) {
	src, ok := c.src.(Snapshotter)
	if c.opts.Backup == "" || c.result.Backup != "" || !ok {
		return nil
	}
	if c.result.Backup, err = src.Snapshot(ctx, c.opts.Backup); err != nil {
		return cause(ctx, err)
	}
	return c.journal.writeSetup()
}

// canGoOn reports whether a run that ended with err, and whose record is kept, can
// be resumed.
func (c *copying) canGoOn(err error) bool {
	switch {
	case errors.Is(err, ErrMoved), errors.Is(err, ErrOtherCopy), errors.Is(err, ErrWorkGone):
		return false
	case errors.Is(err, ErrNotReleased) && c.journal.saved:
		return c.worthKeeping(err)
	default:
		return true
	}
}

// ErrWorkGone is returned, together with the reason why a copy ended, when the
// work files that are to be kept can't be found: their file system was
// unmounted, or somebody removed them.
var ErrWorkGone = errors.New("the directory with the work files is gone")

// stillThere adds to the error of a run that is kept where nothing of it can be
// found.
func (c *copying) stillThere(err error) error {
	_, gone := os.Lstat(filepath.Join(c.journal.dir, setupName))
	if gone == nil && c.journal.work != "" {
		_, gone = os.Lstat(c.journal.work)
	}
	if gone == nil || errors.Is(err, ErrWorkGone) {
		return err
	}
	return errors.Join(err, &Error{Kind: ErrDestination, Op: "look for what was read", Code: WorkGone, Err: fmt.Errorf("%w: %w", ErrWorkGone, gone)})
}

// worthKeeping reports whether a run that ended with err can be resumed.
func (c *copying) worthKeeping(err error) bool {
	switch {
	case errors.Is(err, ErrUnconfirmed):
		return true // the record has the name of the locks, which stay
	case errors.Is(err, ErrDuplicateKey), errors.Is(err, ErrLocked), errors.Is(err, ErrMoved):
		return false // what was read can't be trusted
	case !c.journal.saved:
		return c.overwritten() // all of it is read again
	case errors.Is(err, ErrReadBack):
		_, put := c.stage.(Unordered)
		return !put // it is on record, and would not be written again
	default:
		return true
	}
}

// overwritten reports whether the run has begun to overwrite what the destination held.
func (c *copying) overwritten() bool {
	o, ok := c.stage.(Overwriter)
	return ok && o.Overwritten()
}

// release ends the lease of a run that ended with err. ctx is the caller's.
func (c *copying) release(ctx context.Context, lease Lease, err error) error {
	c.end = c.endOf(err)
	rctx, cancel := outlive(ctx)
	defer cancel()
	rerr := lease.Release(rctx, c.end)
	switch {
	case rerr == nil && c.result.Complete:
		c.mark(Released)
		c.tell(ctx)
		return err
	case rerr == nil, errors.Is(rerr, ErrMoved) && errors.Is(err, ErrLocked): // which says the same
		return err
	case errors.Is(rerr, ErrMoved) && c.result.Complete:
		return c.unconfirm(ctx, rerr)
	case errors.Is(rerr, ErrMoved): // what another one holds is not ours to give back
		return errors.Join(err, rerr)
	case !errors.Is(rerr, ErrNotReleased):
		rerr = fmt.Errorf("%w: %w", ErrNotReleased, rerr)
	}
	if c.result.Complete {
		// Nobody knows whose the source is by now: a later process asks it again.
		c.result.Complete = false
		return cause(ctx, rerr)
	}
	return errors.Join(err, rerr)
}

// unfinished returns the setup of an unfinished copy in the destination, if
// there is one and it is to be resumed or thrown away.
func (c *copying) unfinished(ctx context.Context) (*Record, error) {
	c.journal = &journal{disk: c.opts.Disk, dir: c.home, next: 1, run: 1}
	if err := errors.Join(ownDir(c.journal.dir), onlyFiles(c.journal.dir)); err != nil {
		return nil, err
	}
	earlier, err := readSetup(c.journal.dir)
	if err != nil && c.opts.Restart && !errors.Is(err, fs.ErrPermission) {
		// What it says can't be known; its locks are for -reset to remove.
		text, left := err.Error(), leftBy(c.journal.dir)
		if left["run"] != "" {
			text += "; it seems to be of run " + left["run"]
		}
		if left["work_dir"] != "" {
			text += fmt.Sprintf("; its work files seem to be in %q, which is yours to remove", left["work_dir"])
		}
		c.opts.Events(Warning{Message: text})
		c.restart = true
		return nil, nil
	}
	if err != nil || earlier == nil {
		return nil, err
	}
	c.result.RunID = earlier.RunID
	if a := earlier.Amended(AmendGivenUp); a != nil && !c.opts.Restart {
		return nil, &Error{Kind: ErrLocked, Op: "resume run " + earlier.RunID, Code: WasGivenUp, Err: fmt.Errorf("it was given up at %s", a.At.UTC().Format(time.RFC3339))}
	}
	if !c.opts.Resume && !c.opts.Restart {
		return nil, &Error{Kind: ErrDestination, Op: "check " + c.home,
			Err: fmt.Errorf("%w: run %s, begun at %s, of %s", ErrUnfinished, earlier.RunID,
				earlier.Start.UTC().Format(time.RFC3339), earlier.Source.Name),
			Code: NeedResume}
	}
	if c.restart = c.opts.Restart; c.restart {
		return earlier, nil
	}
	c.journal.setup = earlier
	return earlier, c.journal.readSpans(earlier.Segments)
}

// ErrUnfinished is returned, together with ErrDestination, when the destination
// holds an unfinished copy, and neither Options.Resume nor Options.Restart is set.
var ErrUnfinished = errors.New("an unfinished copy is there")

// sameSource refuses an unfinished copy of another source than this run's. Its
// record names the locks in that source: without the record nobody could remove them.
func (c *copying) sameSource(op string, was Record) error {
	now := c.result.Source
	what := (&Record{Source: was.Source}).Differs(&Record{Source: now})
	if what == "" {
		return nil
	}
	if was.Source.Name == now.Name && was.Source.ID == now.ID {
		held := ""
		if _, ok := c.src.(Locker); ok && was.Held {
			held = "yes"
		}
		return &Error{Kind: ErrConfig, Op: op + " run " + was.RunID, Code: SourceRemade, Facts: map[string]string{"held": held}, Err: fmt.Errorf("%w: %s", ErrOtherCopy, what)}
	}
	files := c.journal.dir
	if was.WorkDir != files {
		files += " and " + was.WorkDir
	}
	return &Error{Kind: ErrConfig, Op: op + " run " + was.RunID, Err: fmt.Errorf("%w: %s", ErrOtherCopy, what),
		Code: OtherSource, Facts: map[string]string{"source": was.Source.ID, "files": files}}
}

// discardApart removes the work files of an unfinished copy that are not beside its
// setup. Its locks are taken; earlier is nil where its setup is damaged.
func (c *copying) discardApart(earlier *Record) error {
	if earlier == nil || earlier.WorkDir == c.journal.dir {
		return nil
	}
	// Only where this run is told of the directory too is it certain that the setup
	// was not made up to have others' files removed.
	asked, err := filepath.Abs(c.opts.WorkDir)
	if below, ok := earlier.apart(); ok && err == nil && c.opts.WorkDir != "" && below == asked {
		return c.journal.clear(earlier.WorkDir)
	}
	c.opts.Events(Warning{Message: fmt.Sprintf("the work files of the copy that is thrown away stay in %q, a directory that this run was not told of: remove them yourself", earlier.WorkDir)})
	return nil
}

// begin makes the setup of a new copy, or compares that of an unfinished one. A
// copy that replaces an unfinished one has its id, under which the source is
// locked: so there is always a record of who has locked it. One that was given up is not
// in the source any more, and its id goes with it.
func (c *copying) begin(earlier *Record) (err error) {
	c.history = &history{path: filepath.Join(c.journal.dir, historyName), progress: c.opts.Progress}
	c.journal.setup = &c.result
	if earlier != nil && !c.restart {
		if err := c.compare(*earlier); err != nil {
			return err
		}
		if _, ok := earlier.apart(); !ok && earlier.WorkDir != c.journal.dir {
			return &Error{Kind: ErrDestination, Op: "resume run " + earlier.RunID,
				Err: fmt.Errorf("its record says that its work files are in %q, where no copy has put them", earlier.WorkDir)}
		}
		if err := onlyFiles(earlier.WorkDir); err != nil {
			return err
		}
		source := c.result.Source
		c.result = *earlier
		c.result.Tool, c.result.Source, c.result.Warnings = c.opts.Tool, source, c.warned
		c.result.Resumed++
		if c.opts.Settings != nil {
			c.result.Settings = c.opts.Settings
		}
		c.journal.work = earlier.WorkDir
		c.history.processes = readHistory(c.journal.dir)
		c.journal.saved, err = c.journal.any()
		return err
	}
	switch {
	case earlier != nil && earlier.Amended(AmendGivenUp) == nil: // else nothing is locked
		c.result.RunID = earlier.RunID
	case c.opts.RunID != "":
		c.result.RunID = c.opts.RunID
	default:
		if c.result.RunID, err = uuid.GenerateUUID(); err != nil {
			return fmt.Errorf("make run id: %w", err)
		}
	}
	if c.opts.Live != nil {
		c.result.Live = new(LiveRecord)
		if c.result.Live.ID, err = uuid.GenerateUUID(); err != nil {
			return fmt.Errorf("make id: %w", err)
		}
	}
	c.result.Digest, c.result.Settings, c.result.Warnings = !c.opts.NoProof, c.opts.Settings, c.warned
	c.result.WorkDir = c.journal.dir
	if c.opts.WorkDir != "" {
		dir, err := filepath.Abs(c.opts.WorkDir)
		if err != nil {
			return &Error{Kind: ErrConfig, Op: "find " + c.opts.WorkDir, Err: err}
		}
		c.result.WorkDir = workDirOf(dir, c.result.RunID)
	}
	c.journal.work = c.result.WorkDir
	return nil
}

// record writes the setup, makes the directory for runs and begins to tell how
// far the copy is.
func (c *copying) record(status *statusFile) error {
	if c.journal.setup.Resumed == 0 {
		// What another run has left would be taken for this run's. Its setup stands
		// until this one is in its place: it has the name of the locks.
		if err := c.journal.clearBut(c.journal.dir, setupName); err != nil {
			return err
		}
		if err := c.opts.Disk.Sync(c.journal.dir); err != nil {
			return workError("sync "+c.journal.dir, err)
		}
		if err := c.journal.writeSetup(); err != nil {
			return err
		}
	}
	if err := c.makeWork(); err != nil {
		return err
	}
	if c.journal.setup.Resumed > 0 {
		if err := c.journal.writeSetup(); err != nil {
			return err
		}
	}
	c.started = true
	c.history.begin(c.start, c.opts.Caller)
	c.opts.Progress.identify(&c.result)
	status.start()
	return nil
}

// makeWork makes the directory for runs, if there is none and none was needed
// so far. The setup that names it is written first, so that somebody knows of
// it.
func (c *copying) makeWork() error {
	dir := c.journal.work
	there, err := durable.Exists(dir)
	if err == nil && there {
		err = ownDir(dir)
	}
	switch {
	case err != nil:
		return workError("look at "+dir, err)
	case there:
		return nil
	case c.journal.setup.Segments != 0:
		return &Error{Kind: ErrDestination, Op: "look at " + dir, Code: WorkGone, Err: fmt.Errorf("%w: %w", ErrWorkGone, os.ErrNotExist)}
	}
	if err := c.opts.Disk.Mkdir(dir); err != nil {
		return workError("make "+dir, err)
	}
	if err := c.opts.Disk.Sync(filepath.Dir(dir)); err != nil {
		return workError("sync "+filepath.Dir(dir), err)
	}
	return nil
}

// compare refuses to resume a copy of something else.
func (c *copying) compare(was Record) error {
	differs := func(what string) error {
		return &Error{Kind: ErrConfig, Op: "resume run " + c.result.RunID,
			Code: OtherCopy, Err: fmt.Errorf("%w: %s", ErrOtherCopy, what)}
	}
	if err := c.sameSource("resume", was); err != nil {
		return err
	}
	if (was.Live != nil) != (c.opts.Live != nil) {
		return differs(changed("way", way(was.Live != nil), way(c.opts.Live != nil)))
	}
	if what := was.Differs(&Record{Source: c.result.Source, Destination: c.result.Destination}); what != "" {
		return differs(what)
	}
	if c.opts.WorkDir != "" {
		below := was.WorkDir
		if below != c.home {
			below = filepath.Dir(below)
		}
		if dir, err := filepath.Abs(c.opts.WorkDir); err != nil || dir != below {
			return differs(changed("work directory", below, dir))
		}
	}
	return nil
}

// way names the way of a copy.
func way(live bool) string {
	if live {
		return "following the source"
	}
	return "with the source locked"
}

// ErrOtherCopy is returned, together with ErrConfig, when an unfinished copy
// is one of another source, to another destination, or with other filters.
var ErrOtherCopy = errors.New("the unfinished copy is another one")

// scanning says how the source is read.
func (c *copying) scanning() ScanOptions {
	c.startPhase(PhaseScan)
	opts := c.opts.scanOptions()
	opts.source, opts.WorkDir, opts.journal = c.result.Source, c.journal.work, c.journal
	opts.digest = c.journal.setup.Digest
	return opts
}

// transfer reads, loads and commits.
func (c *copying) transfer(ctx context.Context, lease Lease) (err error) {
	opts := c.scanning()
	opts.unordered, _ = c.stage.(Unordered)
	entries, stats, digests, err := runScan(ctx, c.src, opts)
	c.result.Scan = stats
	if err != nil {
		return err
	}
	defer func() {
		if entries == nil {
			return
		}
		if cerr := entries.Close(); cerr != nil && !c.result.Complete {
			err = errors.Join(err, &Error{Kind: ErrDestination, Op: "close work files", Err: cerr})
		}
	}()
	if err := stats.CheckCount(c.result.Source, c.opts.Events); err != nil {
		return err
	}

	if loader, ok := c.stage.(Loader); ok && opts.unordered == nil {
		err = c.load(ctx, loader, entries)
	} else {
		c.result.Load = LoadStats{Entries: stats.Entries, Bytes: stats.Bytes} // as it was acknowledged
		if _, asked := c.src.(Getter); !asked {
			err = c.askStage(ctx)
		}
	}
	if err == nil {
		err = c.sameCount(stats.Entries, stats.Bytes)
	}
	if err != nil {
		return err
	}

	if c.result.Digest {
		c.result.Prefixes = Digests{} // of a source without entries too
		c.result.Prefixes.Add(digests)
		c.result.Total = digests.Total()
	}
	if err := c.readBack(ctx, digests); err != nil {
		return err
	}
	return c.commit(ctx, lease)
}

// load writes entries to the stage. Of a source that can't be asked whether it is a
// Vault's, they show it.
func (c *copying) load(ctx context.Context, loader Loader, entries Stream) (err error) {
	c.startPhase(PhaseLoad)
	watch := &keyWatch{entries, map[string][]byte{}}
	_, asked := c.src.(Getter)
	if !asked {
		entries = watch
	}
	if c.result.Load, err = loader.Load(ctx, entries); err != nil {
		return cause(ctx, err)
	}
	if !asked {
		return c.checkLoaded(ctx, watch)
	}
	return nil
}

// sameCount makes sure that what was written is as much as was read.
func (c *copying) sameCount(entries, bytes int64) error {
	if got := c.result.Load; got.Entries != entries || got.Bytes != bytes {
		return &Error{Kind: ErrDestination, Op: "load entries",
			Err: fmt.Errorf("%d entries (%d bytes in all) were read, and %d (%d bytes) were written: this is a defect of dyn2raft, and nothing was put in place",
				entries, bytes, got.Entries, got.Bytes)}
	}
	return nil
}

// readBack compares what is in the stage with what was read.
func (c *copying) readBack(ctx context.Context, want Digests) error {
	if !c.result.Digest {
		return nil
	}
	got, proof, err := c.examine(ctx)
	if err != nil {
		return err
	}
	if got.Equal(want) {
		c.result.Proof = proof
		return nil
	}
	return c.differs(got, want)
}

// differs is the error of what was read back and has other digests than it should.
func (c *copying) differs(got, want Digests) error {
	var differ []string
	for _, prefix := range slices.Sorted(maps.Keys(want)) {
		if got[prefix] != want[prefix] {
			differ = append(differ, fmt.Sprintf("%q", prefix))
		}
	}
	for prefix := range got {
		if _, ok := want[prefix]; !ok {
			differ = append(differ, "one that was not read") // it may be a piece of a value
		}
	}
	return c.notAsRead(&Error{Kind: ErrDestination, Op: "read back what was written",
		Err: fmt.Errorf("%w: it has %d entries and %d were read from the source; the digests differ under %s", ErrReadBack, got.Total().Entries, want.Total().Entries, strings.Join(differ, ", "))})
}

// largestEntries is how many of the largest entries a proof names.
const largestEntries = 20

// examine reads what is in the stage, not with what has written it. It adds what there is
// to c.buckets, where there are any.
func (c *copying) examine(ctx context.Context) (Digests, *Proof, error) {
	c.startPhase(PhaseCheck)
	src, err := c.stage.Reader(ctx)
	if err != nil {
		return nil, nil, c.notAsRead(cause(ctx, err))
	}
	info, err := src.Open(ctx)
	var got Reading
	if err == nil {
		got, err = readWhole(ctx, src, largestEntries, c.buckets)
		err = errors.Join(err, src.Close())
	}
	if err != nil {
		return nil, nil, c.notAsRead(cause(ctx, err))
	}
	return got.Digests, &Proof{At: time.Now().UTC(), Contents: got.Contents, Facts: info.Facts}, nil
}

// notAsRead gives the error of a read-back its code, by what is in place, unless the stage
// knows better what is wrong.
func (c *copying) notAsRead(err error) error {
	out := &Error{Kind: ErrDestination, Code: NotAsRead, Err: err}
	if e, ok := errors.AsType[*Error](err); ok && errors.Is(e.Kind, ErrReadBack) && e.Code != "" && !c.result.InPlace {
		return err
	}
	switch {
	case errors.Is(err, ErrChanged): // and nobody knows what was read for it
		out.Code = ResultUsed
	case !errors.Is(err, ErrReadBack):
		return err
	case c.result.InPlace:
		out.Code, out.Facts = ResultDamaged, map[string]string{"known": ""}
		if c.result.Prefixes != nil {
			out.Facts["known"] = "yes"
		}
	}
	return out
}

// ErrChanged is returned by what reads a result back, together with ErrDestination, where
// a result that is in place was in use: it can't be compared any more with what
// was read for it.
var ErrChanged = errors.New("a Vault has run on it since the copy")

// ErrReadBack is returned, together with ErrDestination, when what was written
// is not what was read from the source, or is damaged.
var ErrReadBack = errors.New("what was written is not what was read")

// look reads a result whose expected content is no longer known. It shows that the
// result is sound, and proves no more.
func (c *copying) look(ctx context.Context) error {
	if c.opts.NoProof {
		return nil
	}
	c.opts.Events(Warning{Message: "the copy is complete, but the record of what was read for it is gone or damaged: its result is checked for being sound, and not for being all that was read; compare it with the source"})
	got, _, err := c.examine(ctx)
	if err != nil {
		return err
	}
	c.result.Prefixes, c.result.Total = got, got.Total()
	c.result.Load.Entries, c.result.Load.Bytes = c.result.Total.Entries, c.result.Total.Bytes
	return nil
}

// cleanUp gives the destination back, with or without the work done.
func (c *copying) cleanUp(ctx context.Context, keep bool) error {
	var err error
	if c.journal != nil && !keep && c.journal.work != "" && c.journal.work != c.journal.dir {
		err = c.journal.clear(c.journal.work)
	}
	if c.journal != nil && !keep && err == nil {
		err = c.journal.clear(c.journal.dir)
	}
	if c.stage != nil {
		err = errors.Join(err, c.stage.Close(keep))
	}
	if c.result.Complete && !keep && err == nil {
		c.result.Amend(c.opts.Tool, AmendCleanedUp, nil)
		c.tell(ctx)
	}
	return errors.Join(err, c.dst.Close())
}

// cause returns why ctx was cancelled, if it was, and err otherwise. What a
// cancelled call reports is a consequence, and left out where it says no more
// than that; an error of its own is kept, so that nothing is hidden, and so is what
// says how the source or the result was left.
func cause(ctx context.Context, err error) error {
	c := context.Cause(ctx)
	switch {
	case c == nil:
		return err
	case errors.Is(err, ErrNotReleased), errors.Is(err, ErrUnconfirmed), errors.Is(err, ErrMoved):
		if errors.Is(err, c) {
			return err
		}
		return errors.Join(c, err)
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded), errors.Is(err, c):
		return c
	default:
		return errors.Join(c, err)
	}
}
