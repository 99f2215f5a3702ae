package copier

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/dyn2raft/dyn2raft/copier/durable"
)

// A journal is the state of a scan on disk. It consists of
//
//   - copy.json, the setup: what is copied, from where to where;
//   - spans.json, what the source was split into, written once, before any of it
//     is read: it may be megabytes, and the setup is written often;
//   - history.json, what the processes of a copy did, which nothing but its
//     manifest depends on;
//   - run-000001 and so on: sorted entries, see run.go;
//   - checkpoint-000001.json and so on, each written once: which runs were
//     synced since the checkpoint before, and of each run, the pages that are
//     in it, with the span that each page was read from and those that it led
//     to. Of a copy to a stage that is [Unordered] there are no files of runs: what
//     counts as one there is all that the stage has acknowledged meanwhile.
//
// What is left to read follows from that alone: it is each span that the source
// was split into or that a page led to, and from which no page in a run was
// read. So there is no second account of what was read that could disagree
// with the runs, and a run that is lost gives its pages, and nothing else,
// back to be read.
//
// All but the runs are sealed, see [durable.Seal].
type journal struct {
	disk *durable.Disk
	dir  string // of setup and checkpoints
	work string // of runs

	setup *Record
	spans []Span     // what the source was split into, where setup.Segments is set
	mu    sync.Mutex // guards next and run
	next  int        // number of the next checkpoint
	run   int        // number of the next run
	saved bool       // there is something that need not be read again

	workers atomic.Int64 // that read now
}

const (
	kindCopy         = "dyn2raft copy"
	kindCheckpoint   = "dyn2raft checkpoint"
	kindSpans        = "dyn2raft spans"
	kindProcesses    = "dyn2raft processes"
	setupName        = "copy.json"
	spansName        = "spans.json"
	checkpointPrefix = "checkpoint-"
	checkpointSuffix = ".json"
	runPrefix        = "run-"
	putPrefix        = "put-" // of what an [Unordered] has, which is no file
)

// Differs says, in words, in what a copy that is set up now is another one than
// s: source or destination. It returns nothing where they are the same.
func (r *Record) Differs(now *Record) string {
	for _, x := range [][3]string{
		{"source", r.Source.Name, now.Source.Name},
		{"source's id", r.Source.ID, now.Source.ID},
		{"source's incarnation", r.Source.Incarnation, now.Source.Incarnation},
	} {
		if x[1] != x[2] {
			return changed(x[0], x[1], x[2])
		}
	}
	for _, name := range slices.Sorted(maps.Keys(now.Destination)) {
		if was, now := r.Destination[name], now.Destination[name]; was != now {
			return changed("destination's "+name, was, now)
		}
	}
	return ""
}

func changed(what, was, now string) string {
	return fmt.Sprintf("the %s is %q now, and was %q", what, now, was)
}

// An origin says which copy a file of a journal is of, and which of its checkpoints: a
// copy that is thrown away leaves its RunID to the next, but not its Start.
type origin struct {
	RunID  string    `json:"run_id,omitempty"`
	Start  time.Time `json:"start"`
	Number int       `json:"number,omitempty"`
}

func (j *journal) origin(number int) origin { return origin{j.setup.RunID, j.setup.Start, number} }

// errOther is the error of a file of a journal that has another one's place.
var errOther = errors.New("it is another copy's, or has another one's name")

// from returns errOther unless a file is of that copy, and has that number. Without a
// setup nothing is known.
func (j *journal) from(o origin, number int) error {
	if j.setup == nil || o.RunID == j.setup.RunID && o.Start.Equal(j.setup.Start) && o.Number == number {
		return nil
	}
	return errOther
}

// A checkpoint is one addition to a journal.
type checkpoint struct {
	origin
	Time time.Time   `json:"time"`
	Runs []runRecord `json:"runs,omitempty"`
	// Dropped names runs that count no longer: their entries are in Runs now,
	// or nothing leads to their pages any more.
	Dropped []string `json:"dropped,omitempty"`
	// Lost names runs that were found damaged. Their pages are to be read
	// once more, each alone.
	Lost []string `json:"lost,omitempty"`
	// Workers is how many read at that time. A resumed scan begins with as many.
	Workers int `json:"workers,omitempty"`
}

// A runRecord describes a synced run.
type runRecord struct {
	File    string `json:"file"` // its name, see isPut too
	Size    int64  `json:"size"`
	Entries int64  `json:"entries"`
	Block   int64  `json:"block"`
	coverage
}

// isPut reports whether the run is what a stage that is [Unordered] has: there is no
// file then.
func (r *runRecord) isPut() bool { return strings.HasPrefix(r.File, putPrefix) }

// A coverage is what was read for a run.
type coverage struct {
	Pages   []pageRead `json:"pages"`
	Stats   ScanStats  `json:"stats"`
	Digests Digests    `json:"digests,omitempty"`
}

func (c *coverage) add(o coverage) {
	c.Pages = append(c.Pages, o.Pages...)
	c.Stats.add(o.Stats)
	if len(o.Digests) > 0 && c.Digests == nil {
		c.Digests = Digests{}
	}
	c.Digests.Add(o.Digests)
}

// A pageRead is a page whose entries are in a run.
type pageRead struct {
	From Span   `json:"from"`
	Next []Span `json:"next,omitempty"`
}

// again is the part of a span that the page covered.
func (p pageRead) again() Span {
	s := p.From
	if len(p.Next) > 0 {
		s.Until = p.Next[0].From
	}
	return s
}

// key identifies a span.
func (s Span) key() string {
	return strconv.Itoa(s.Index) + "\x00" + string(s.From) + "\x00" + string(s.Until)
}

// readSetup reads the setup of an unfinished copy, and returns nil where there
// is none.
func readSetup(dir string) (*Record, error) {
	var s Record
	if fi, err := os.Lstat(dir); err == nil && !fi.IsDir() {
		return nil, workError("read "+dir, syscall.ENOTDIR) // a link is not followed
	}
	file := filepath.Join(dir, setupName)
	err := durable.ReadSealed(file, maxSetup, kindCopy, RecordFormat, &s)
	if err == nil {
		err = s.Check()
	}
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, nil
	case errors.Is(err, fs.ErrPermission):
		return nil, workError("read "+file, err)
	case errors.Is(err, durable.ErrNotFile):
		return nil, notFile(file)
	case err != nil:
		out := &Error{Kind: ErrDestination, Op: "read " + file, Code: RecordDamaged, Facts: leftBy(dir), Err: err}
		if _, ok := errors.AsType[*durable.FormatError](err); ok || errors.Is(err, ErrUnknownState) {
			out.Code = OtherVersion
		}
		return nil, out
	}
	return &s, nil
}

// leftBy is what a setup that can't be used seems to say of the copy, for a person to
// look after: nothing is done by what it says.
func leftBy(dir string) map[string]string {
	out := map[string]string{"run": "", "work_dir": ""}
	data, err := durable.ReadFile(filepath.Join(dir, setupName), maxSetup)
	if err != nil {
		return out
	}
	if m := setupRunID.FindSubmatch(data); m != nil {
		out["run"] = string(m[1])
	}
	var work string
	if m := setupWorkDir.FindSubmatch(data); m != nil && json.Unmarshal(m[1], &work) == nil && work != dir {
		out["work_dir"] = work
	}
	return out
}

var (
	setupRunID   = regexp.MustCompile(`"run_id":"([0-9A-Za-z-]{1,64})"`)
	setupWorkDir = regexp.MustCompile(`"work_dir":("(?:[^"\\]|\\.)*")`)
)

func (j *journal) writeSetup() error {
	if err := j.writeSealed(setupName, kindCopy, j.setup); err != nil {
		return workError("write "+filepath.Join(j.dir, setupName), err)
	}
	return nil
}

// A splitRecord is what a source was split into: the token of each span, which has
// its place in the list as its Index.
type splitRecord struct {
	origin
	From [][]byte `json:"from"`
}

// saveSpans puts on record what the source was split into. The number of spans, in
// the setup, says that it is there.
func (j *journal) saveSpans(spans []Span) error {
	rec := splitRecord{j.origin(0), make([][]byte, len(spans))}
	for i, s := range spans {
		rec.From[i] = s.From
	}
	if err := j.writeSealed(spansName, kindSpans, rec); err != nil {
		return workError("write "+filepath.Join(j.dir, spansName), err)
	}
	j.spans, j.setup.Segments = spans, len(spans)
	return j.writeSetup()
}

// readSpans reads the n spans that the source was split into; 0 if it was not.
func (j *journal) readSpans(n int) error {
	if n == 0 {
		return nil
	}
	var rec splitRecord
	path := filepath.Join(j.dir, spansName)
	err := durable.ReadSealed(path, maxState, kindSpans, RecordFormat, &rec)
	if errors.Is(err, fs.ErrNotExist) {
		// It was removed behind the checkpoints: none of what was read counts.
		if saved, err := j.any(); err != nil || !saved {
			return err
		}
	}
	if err == nil {
		err = j.from(rec.origin, 0)
	}
	if err == nil && len(rec.From) != n {
		err = fmt.Errorf("it has %d spans, and the source was split into %d", len(rec.From), n)
	}
	if err != nil {
		return &Error{Kind: ErrDestination, Op: "read " + path, Code: JournalGone, Err: err}
	}
	j.spans = make([]Span, len(rec.From))
	for i, from := range rec.From {
		j.spans[i] = Span{Index: i, From: from}
	}
	return nil
}

// GiveUp notes that the source of the unfinished copy whose work directory, see
// [Sink.WorkDir], is dir was freed, for [ReadStatus] to say so. It does nothing where
// there is none that has held its source. No copy may run there. An error wraps
// [ErrDestination].
func GiveUp(dir string, tool Tool) error {
	setup, err := readSetup(dir)
	if err != nil || setup == nil || !setup.Held && setup.Live == nil {
		return err
	}
	setup.Amend(tool, AmendGivenUp, nil)
	return (&journal{dir: dir, setup: setup}).writeSetup()
}

// write adds a checkpoint. What it names is synced already.
func (j *journal) write(c checkpoint) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	// The names of the runs must be on disk before a checkpoint says so.
	if len(c.Runs) > 0 {
		if err := j.disk.Sync(j.work); err != nil {
			return workError("sync "+j.work, err)
		}
	}
	c.origin, c.Time, c.Workers = j.origin(j.next), time.Now().UTC(), int(j.workers.Load())
	if err := j.writeSealed(fmt.Sprintf("%s%06d%s", checkpointPrefix, j.next, checkpointSuffix), kindCheckpoint, c); err != nil {
		return workError("write checkpoint", err)
	}
	j.next++
	j.saved = j.saved || len(c.Runs) > 0
	return nil
}

// nextRun is a name that no run has had.
func (j *journal) nextRun(prefix string) string {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.run++
	return fmt.Sprintf("%s%06d", prefix, j.run-1)
}

// createRun makes the file of the next run.
func (j *journal) createRun() (runFile, error) {
	f, err := j.disk.Create(filepath.Join(j.work, j.nextRun(runPrefix)))
	if err != nil {
		return nil, err
	}
	return f, nil
}

// writeSealed writes a sealed record, durably and whole.
func (j *journal) writeSealed(name, kind string, v any) error {
	data, err := durable.Seal(kind, RecordFormat, v)
	if err != nil {
		return err
	}
	return j.disk.Replace(filepath.Join(j.dir, name), data)
}

// maxState bounds what is read of a state file, in bytes: far more than any has.
const maxState = 256 << 20

// maxSetup is that of a setup and of a status, which name no pages.
const maxSetup = 16 << 20

// A restored is what a journal says about a scan.
type restored struct {
	runs    []runRecord
	pending []Span    // what is left to read
	total   coverage  // of the runs, without their pages
	saved   time.Time // of the last checkpoint
	workers int       // that read then, 0 if it is not known
}

// restore reads the journal of a scan that has begun. It checks every run, gives
// the pages of damaged ones back to be read, and removes what belongs to nothing.
// warn is told of what was lost.
func (j *journal) restore(ctx context.Context, warn func(string)) (*restored, error) {
	all, err := j.readCheckpoints(warn)
	if err != nil {
		return nil, err
	}
	alive, lost := replay(all)
	damaged, err := j.checkRuns(ctx, alive)
	if err != nil {
		return nil, err
	}
	alive = slices.DeleteFunc(alive, func(r runRecord) bool {
		why, bad := damaged[r.File]
		if bad {
			warn(fmt.Sprintf("work file %s %s: its %d pages are read again", r.File, why, len(r.Pages)))
			lost = append(lost, r)
		}
		return bad
	})
	var c checkpoint
	for name := range damaged {
		c.Lost = append(c.Lost, name)
	}
	slices.Sort(c.Lost)
	out := &restored{}
	var orphans []runRecord
	out.pending, orphans = pending(j.spans, &alive, &lost)
	for _, r := range orphans {
		warn(fmt.Sprintf("work file %s follows on a damaged checkpoint: its %d pages are read again", r.File, len(r.Pages)))
	}
	for _, r := range orphans {
		c.Dropped = append(c.Dropped, r.File)
	}
	if len(c.Lost)+len(c.Dropped) > 0 {
		if err := j.write(c); err != nil {
			return nil, err
		}
	}
	out.runs = alive
	for _, c := range all {
		out.saved, out.workers = c.Time, cmp.Or(c.Workers, out.workers)
	}
	for _, r := range alive {
		out.total.Stats.add(r.Stats)
		if out.total.Digests == nil {
			out.total.Digests = Digests{}
		}
		out.total.Digests.Add(r.Digests)
	}
	return out, j.sweep(alive)
}

// readCheckpoints returns all checkpoints in order. One that can't be read is
// left out: what it accounts for is read again.
func (j *journal) readCheckpoints(warn func(string)) ([]checkpoint, error) {
	names, err := os.ReadDir(j.dir)
	if err != nil {
		return nil, workError("read "+j.dir, err)
	}
	var out []checkpoint
	for _, f := range names { // in the order of their names
		digits, ok := strings.CutPrefix(f.Name(), checkpointPrefix)
		digits, ok2 := strings.CutSuffix(digits, checkpointSuffix)
		n, err := strconv.Atoi(digits)
		if !ok || !ok2 || err != nil {
			continue
		}
		j.next = max(j.next, n+1)
		var c checkpoint
		err = durable.ReadSealed(filepath.Join(j.dir, f.Name()), maxState, kindCheckpoint, RecordFormat, &c)
		if err == nil {
			err = j.from(c.origin, n)
		}
		if err != nil {
			warn(fmt.Sprintf("checkpoint %s can't be used (%v): what it accounts for is read again", f.Name(), err))
			continue
		}
		out = append(out, c)
		// A name is never used twice: also where a file is gone, a checkpoint says
		// what became of the run that had it.
		for _, r := range c.Runs {
			j.used(r.File)
		}
		for _, name := range slices.Concat(c.Lost, c.Dropped) {
			j.used(name)
		}
	}
	return out, nil
}

// savedBy is how many entries the checkpoints of a copy in a directory account for, and
// the time of the last one.
func savedBy(dir string, setup *Record) (entries int64, at time.Time) {
	j := &journal{dir: dir, setup: setup}
	all, err := j.readCheckpoints(func(string) {})
	if err != nil {
		return 0, at // who resumes is told
	}
	alive, _ := replay(all)
	for _, r := range alive {
		entries += r.Stats.Entries
	}
	for _, c := range all {
		at = c.Time
	}
	return entries, at
}

// used makes the next run's number greater than that of a run, and reports whether
// the name is one.
func (j *journal) used(name string) bool {
	digits, ok := strings.CutPrefix(name, runPrefix)
	if !ok {
		digits, ok = strings.CutPrefix(name, putPrefix)
	}
	n, err := strconv.Atoi(digits)
	if !ok || err != nil {
		return false
	}
	j.run = max(j.run, n+1)
	return true
}

// any reports whether there is a checkpoint, sound or damaged.
func (j *journal) any() (bool, error) {
	list, err := os.ReadDir(j.dir)
	if err != nil {
		return false, workError("read "+j.dir, err)
	}
	return slices.ContainsFunc(list, func(f os.DirEntry) bool {
		return strings.HasPrefix(f.Name(), checkpointPrefix) && strings.HasSuffix(f.Name(), checkpointSuffix)
	}), nil
}

// replay returns the runs that count, and those that were lost.
func replay(all []checkpoint) (alive, lost []runRecord) {
	for _, c := range all {
		alive = append(alive, c.Runs...)
		dropped := func(r runRecord) bool { return slices.Contains(c.Dropped, r.File) }
		alive, lost = slices.DeleteFunc(alive, dropped), slices.DeleteFunc(lost, dropped)
		alive = slices.DeleteFunc(alive, func(r runRecord) bool {
			gone := slices.Contains(c.Lost, r.File)
			if gone {
				lost = append(lost, r)
			}
			return gone
		})
	}
	return alive, lost
}

// pending returns the spans that are left to read. It takes two kinds of runs out
// of both lists, and returns them as orphans, where a damaged checkpoint has left
// no record of what became of them:
//
//   - Nothing leads to one of its pages: the record of the page before is gone.
//   - A later run has a page from the same place: the record is gone that says
//     that this run was dropped.
//
// So one page at most begins at each place, and every entry of a span is in one
// run or left to read.
func pending(initial []Span, alive, lost *[]runRecord) (left []Span, orphans []runRecord) {
	last := map[string]string{} // of a place, the last run with a page from there
	for _, r := range *alive {
		for _, p := range r.Pages {
			last[p.From.key()] = r.File
		}
	}
	*alive = slices.DeleteFunc(*alive, func(r runRecord) bool {
		earlier := slices.ContainsFunc(r.Pages, func(p pageRead) bool { return last[p.From.key()] != r.File })
		if earlier {
			orphans = append(orphans, r)
		}
		return earlier
	})
	for {
		reached := map[string]Span{} // spans known to exist
		for _, s := range initial {
			reached[s.key()] = s
		}
		taken := map[string]bool{} // those from which a page was read
		for _, r := range *alive {
			for _, p := range r.Pages {
				taken[p.From.key()] = true
				for _, n := range p.Next {
					reached[n.key()] = n
				}
			}
		}
		// A lost page from whose place another was read later is none of this
		// scan's any more: the checkpoint that said so is damaged.
		read := maps.Clone(taken)
		for _, r := range slices.Backward(*lost) {
			for _, p := range r.Pages {
				if read[p.From.key()] {
					continue
				}
				read[p.From.key()] = true
				for _, n := range p.Next {
					reached[n.key()] = n
				}
				if again := p.again(); again.key() != p.From.key() {
					taken[p.From.key()] = true
					reached[again.key()] = again
				}
			}
		}
		found := len(orphans)
		for _, list := range []*[]runRecord{alive, lost} {
			*list = slices.DeleteFunc(*list, func(r runRecord) bool {
				orphan := slices.ContainsFunc(r.Pages, func(p pageRead) bool {
					_, ok := reached[p.From.key()]
					return !ok
				})
				if orphan {
					orphans = append(orphans, r)
				}
				return orphan
			})
		}
		if len(orphans) > found {
			continue // others may have followed on these
		}
		for key, s := range reached {
			if !taken[key] {
				left = append(left, s)
			}
		}
		slices.SortFunc(left, func(a, b Span) int { return strings.Compare(a.key(), b.key()) })
		slices.SortStableFunc(left, func(a, b Span) int { return a.Index - b.Index })
		return left, orphans
	}
}

// checkRuns reads all runs and returns what is wrong with those that are
// damaged.
func (j *journal) checkRuns(ctx context.Context, runs []runRecord) (map[string]string, error) {
	var mu sync.Mutex
	damaged := map[string]string{}
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(sortWorkers * 2)
	for _, r := range runs {
		if r.isPut() {
			continue // reading back will tell
		}
		group.Go(func() error {
			if err := context.Cause(ctx); err != nil {
				return err
			}
			err := checkRun(filepath.Join(j.work, r.File), r)
			if err == nil {
				return nil
			}
			if !errors.Is(err, errRunDamaged) && !errors.Is(err, fs.ErrNotExist) {
				return err // the disk's fault, maybe for now only
			}
			mu.Lock()
			defer mu.Unlock()
			damaged[r.File] = "is damaged"
			if errors.Is(err, fs.ErrNotExist) {
				damaged[r.File] = "is gone"
			}
			return nil
		})
	}
	return damaged, group.Wait()
}

// checkRun reads a run to its end.
func checkRun(path string, r runRecord) error {
	fi, err := os.Lstat(path)
	if err != nil {
		return workError("look at work file", err)
	}
	if !fi.Mode().IsRegular() || fi.Size() != r.Size {
		return errRunDamaged
	}
	in, err := openRun(path, false)
	if err != nil {
		return err
	}
	for {
		_, err := in.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			return errors.Join(err, in.Close())
		}
	}
	if in.entries != uint64(r.Entries) {
		return errors.Join(errRunDamaged, in.Close())
	}
	return in.Close()
}

// sweep removes files that no checkpoint names: a process was killed before it
// could write one, or after one that said they are not needed.
func (j *journal) sweep(alive []runRecord) error {
	names, err := os.ReadDir(j.work)
	if err != nil {
		return workError("read "+j.work, err)
	}
	for _, f := range names {
		if !j.used(f.Name()) {
			continue
		}
		if slices.ContainsFunc(alive, func(r runRecord) bool { return r.File == f.Name() }) {
			continue
		}
		if err := j.remove(filepath.Join(j.work, f.Name())); err != nil {
			return err
		}
	}
	return nil
}

// remove removes a file of a journal. Whatever else has its name is refused:
// nobody but the owner of the files, who runs this, has made it.
func (j *journal) remove(path string) error {
	fi, err := os.Lstat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err == nil && !fi.Mode().IsRegular():
		return notFile(path)
	case err == nil:
		err = ours(fi)
	}
	if err == nil {
		err = j.disk.RemoveFile(path)
	}
	if err != nil {
		return workError("remove "+path, err)
	}
	return nil
}

// notFile is the error of what has the name of a journal's file and is none, such as a
// directory or a pipe.
func notFile(path string) error {
	facts := map[string]string{"path": path, "setup": ""}
	if filepath.Base(path) == setupName {
		facts["setup"] = "yes"
	}
	return &Error{Kind: ErrDestination, Op: "look at " + path, Code: WorkNotFile, Facts: facts, Err: durable.ErrNotFile}
}

// onlyFiles refuses a directory in which something has the name of a journal's file and
// is none: before the source is locked, since it can be neither written nor removed.
func onlyFiles(dir string) error {
	list, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return workError("read "+dir, err)
	}
	for _, f := range list {
		if journalFile.MatchString(f.Name()) && !f.Type().IsRegular() {
			return notFile(filepath.Join(dir, f.Name()))
		}
	}
	return nil
}

// ErrNotOurs is returned, together with [ErrDestination], where what an
// unfinished copy left belongs to another user than the one who runs this: what
// is written by two users, neither can read.
var ErrNotOurs = errors.New("it belongs to another user")

// ours returns an error that wraps ErrNotOurs unless a file belongs to the user
// of this process.
func ours(fi fs.FileInfo) error {
	if st, ok := fi.Sys().(*syscall.Stat_t); ok && int(st.Uid) != os.Geteuid() {
		return fmt.Errorf("%w: its owner is uid %d, this process runs as uid %d", ErrNotOurs, st.Uid, os.Geteuid())
	}
	return nil
}

// ownDir refuses a work directory that is a link, or another user's: what
// would be written and removed through it is not this copy's. There may be
// none.
func ownDir(dir string) error {
	fi, err := os.Lstat(dir)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
	case !fi.IsDir():
		err = syscall.ENOTDIR
	default:
		err = ours(fi)
	}
	if err != nil {
		return workError("use "+dir, err)
	}
	return nil
}

// journalFile matches the names of a journal's files, as they are while they
// are written too.
var journalFile = regexp.MustCompile(`^(?:` + runPrefix + `\d{6,}|` + notesPrefix + `\d{6,}|(?:` + checkpointPrefix + `\d{6,}|copy|spans|status|history|position)\.json(?:\.tmp)?)$`)

// clear removes the files of a journal from a directory, and nothing else. The
// setup goes last: without it nobody would look for the rest. Before it go the
// spans, without which nobody could make anything of the rest. A directory that was
// made for the run goes too, once it is empty.
func (j *journal) clear(dir string) error { return j.clearBut(dir, "") }

// clearBut is clear for all files but one.
func (j *journal) clearBut(dir, but string) error {
	if err := ownDir(dir); err != nil {
		return err
	}
	list, err := os.ReadDir(dir)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return workError("read "+dir, err)
	}
	last := []string{spansName, setupName}
	slices.SortStableFunc(list, func(a, b os.DirEntry) int {
		return cmp.Or(slices.Index(last, a.Name())-slices.Index(last, b.Name()), strings.Compare(b.Name(), a.Name()))
	})
	foreign := 0
	for _, f := range list {
		if !journalFile.MatchString(f.Name()) || f.Name() == but {
			foreign++
			continue
		}
		if err := j.remove(filepath.Join(dir, f.Name())); err != nil {
			return err
		}
	}
	if dir == j.dir || foreign > 0 {
		return nil
	}
	if err := j.disk.RemoveFile(dir); err != nil {
		return workError("remove "+dir, err)
	}
	// For good, before the setup goes that says where it was.
	if err := j.disk.Sync(filepath.Dir(dir)); err != nil {
		return workError("sync "+filepath.Dir(dir), err)
	}
	return nil
}

// workDirOf is where the runs of a copy are that was told to have its work files
// below dir.
func workDirOf(dir, runID string) string { return filepath.Join(dir, "dyn2raft-"+runID) }

// apart reports whether the runs are in a directory of the copy's own name, and
// below which one. If not, they are beside the setup: a setup that says anything
// else is not to be believed.
func (r *Record) apart() (below string, ok bool) {
	below = filepath.Dir(r.WorkDir)
	return below, setupID.MatchString(r.RunID) && filepath.IsAbs(r.WorkDir) && r.WorkDir == workDirOf(below, r.RunID)
}

var setupID = regexp.MustCompile(`^[0-9A-Za-z-]{1,64}$`)

// A Journal keeps what a [Scan] has read, in a directory, so that another process
// can resume the scan. It works as that of a [Copy] does, which has its own.
type Journal struct {
	j *journal
}

// OpenJournal opens the journal in an existing directory. Nobody else may write to
// the directory meanwhile. setup says what will be read. With resume, the scan that
// the journal holds is resumed: its setup must be the same, or the error wraps
// [ErrOtherScan] and [ErrConfig]. Without resume, or where there is no journal, a
// new one is begun. The files of an earlier journal are removed first, and no others.
func OpenJournal(dir string, setup Record, resume bool) (*Journal, error) {
	j := &journal{dir: dir, work: dir, next: 1, run: 1}
	if resume {
		was, err := readSetup(dir)
		if e, ok := errors.AsType[*Error](err); ok {
			e.Code, e.Facts = NeedRestart, nil
		}
		if err != nil {
			return nil, err
		}
		if was != nil {
			if what := was.Differs(&setup); what != "" {
				return nil, &Error{Kind: ErrConfig, Op: "resume in " + dir, Err: fmt.Errorf("%w: %s", ErrOtherScan, what)}
			}
			j.setup = was
			j.setup.WorkDir = dir
			if err := j.readSpans(was.Segments); err != nil {
				return nil, err
			}
			if j.saved, err = j.any(); err != nil {
				return nil, err
			}
			if j.saved {
				j.setup.Resumed++ // otherwise there is nothing to resume
			}
			return &Journal{j}, j.writeSetup()
		}
	}
	if err := j.clear(dir); err != nil {
		return nil, err
	}
	if err := j.disk.Sync(dir); err != nil {
		return nil, workError("sync "+dir, err)
	}
	j.setup = &setup
	j.setup.WorkDir, j.setup.Segments = dir, 0 // the scan will know
	return &Journal{j}, j.writeSetup()
}

// Unfinished returns the setup of the journal in a directory, if a scan has saved
// something in it, and nil otherwise.
func Unfinished(dir string) (*Record, error) {
	was, err := readSetup(dir)
	if err != nil || was == nil {
		return nil, err
	}
	if saved, err := (&journal{dir: dir}).any(); err != nil || !saved {
		return nil, err
	}
	return was, nil
}

// Setup is what the journal says of its scan. Segments is 0 as long as nothing
// was read.
func (j *Journal) Setup() Record { return *j.j.setup }

// Saved reports whether there is something that a later scan need not read
// again. It is valid before a scan and after it.
func (j *Journal) Saved() bool { return j.j.saved }

// Remove removes the journal's files, and nothing else. The stream that a scan
// made of it must be closed.
func (j *Journal) Remove() error { return j.j.clear(j.j.dir) }

// ErrOtherScan is returned, together with ErrConfig, when a journal is one of
// another scan.
var ErrOtherScan = errors.New("what was read before is of something else")
