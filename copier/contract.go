package copier

import (
	"context"
	"encoding/json"
	"time"
)

// This file is what an adapter's author reads: the interfaces that the engine
// consumes, the values that pass through them, and what each side owes the other.
// copiertest.TestSource and TestSink test an adapter for it.
//
// A copy calls its adapters in this order. What is in brackets is an optional
// power, an interface of this file, and left out where an adapter lacks it.
//
//	Sink.Open            the destination is held from here to Close
//	Source.Open          [Getter.Value] of what every Vault has
//	[Locker.Lock]           the source is held from here on, too
//	[Snapshotter.Snapshot]
//	Sink.Stage           what an earlier process has staged goes
//	Source.Split         then Read, from many goroutines
//	[Loader.Load]           or [Unordered.Put], while the source is read
//	Stage.Reader            what was written is read back, and compared
//	Stage.Prepare
//	[Lease.Check]           if it fails: Rollback
//	Stage.Commit
//	[Lease.Check]           if it fails: Rollback
//	Stage.Amend(Confirmed)
//	[Lease.Release]         if it wraps [ErrMoved]: Amend(Unconfirmed), Rollback
//	Stage.Amend(Released)
//	Source.Close, Stage.Close, Sink.Close
//
// A copy that follows a [Feed] into an [Applier] does without the lock until its end:
//
//	Sink.Open, Source.Open, Sink.Stage
//	Feed.Follow             hints are noted from here on, durably
//	Source.Split, Read, Loader.Load
//	Applier.Apply           again and again: what hints name is reread. Positions are
//	                        saved behind that: they lag, and never lead
//	Applier.Pin, Reader     what is there is read back, while Vaults go on writing
//	                        until the caller arms the end
//	Taker.Take
//	Following.Drain         and Next, until it is drained; Apply
//	[Lister.List]           of both, where Hints.Unsure names folders; Apply
//	Applier.Finish, Delta   the digests of what was proven and of what changed since
//	                        must be those that were kept along
//	Stage.Prepare, [Lease.Check], Following.Poll
//	                        any hint: back to Apply, with the lock given back
//	Stage.Commit            and on as above; the feed is watched a little longer
//	Feed.Unfollow
//
// A copy whose feed has a gap, see [ErrGap], ends with that; the process that resumes it
// follows anew, from no position, and reads all again.
//
// After an error nothing but [Lease.Release], where Lock succeeded, Source.Close,
// where Open did, Stage.Close, where there is one, and Sink.Close follows, unless the
// table says so. A process that finds a result in place, see [State], begins behind Commit: it opens the
// source, reopens the stage, locks the source, and confirms the result or takes
// it back.
//
// What the engine guarantees:
//
//   - Retries are the adapter's. The engine repeats no call that has failed: an
//     error ends the copy. Those of Amend and Close, and of Release but for
//     [ErrMoved], are warnings once the result is confirmed.
//   - The destination is held before the source is locked, and what an unfinished
//     copy has read is thrown away only when both are.
//   - A source is split once. What the first Split returned is on disk before any
//     of it is read, and later processes read those spans: they never ask again.
//   - A copy reads each span once, but for pages that are on no checkpoint when a
//     process ends, or in a work file that is damaged later. A later process reads
//     those again; see Span.Until. For a stage that is [Unordered] all is read once
//     before that.
//   - A Stage is loaded once, in one goroutine, with each key once. One that is
//     Unordered is given each page at least once.
//   - Nothing happens between a Lease.Check that succeeds and Commit, but for the
//     Poll of a feed.
//
// What it demands:
//
//   - A span's tokens mean the same to a later process, which has not called Split,
//     with the same source and options, as long as nobody writes to the source.
//   - All spans together hold each entry once.
//   - What has returned is true after a loss of power: what Load, Put, Prepare,
//     Commit, Amend and Rollback have written is synced.
//   - A method ends soon after its context does, and its error is then that of the
//     context, or wraps it.
//   - An error wraps a sentinel of this package, as each method says; with an
//     [Error], it says what a person can do.
//   - Nothing is logged or printed. What an adapter has to tell while it works
//     ([Retried], [Waiting], [Loaded], [Warning]) it passes to a function that its
//     own options have.

// An Entry is one physical entry of a Vault storage backend.
//
// Key is a Vault key such as "sys/policy/default", as the source's storage keeps
// it: not empty, and with no slash at its end. A last segment "." is data. Value
// is the bytes Vault stored, which are ciphertext for all but a few keys under
// core/; it may be empty.
//
// Entries handed out by a [Batch] or a [Stream] alias its memory; each says
// until when they are valid.
type Entry struct {
	Key   []byte
	Value []byte
}

// A Span is a part of a source that is read page by page, independently of all
// other spans. It is kept on disk between the processes of a copy, as JSON.
type Span struct {
	// Index counts the spans that Split returned, from 0. What is left of a span
	// keeps its Index.
	Index int `json:"index"`
	// From is the source's own token for the place where the next page starts. It
	// is opaque to the engine, and all that a later process needs to read the span.
	// Spans share tokens: nobody changes one.
	From []byte `json:"from,omitempty"`
	// Until, where set, is the From of another span of this Index: what begins
	// there is not a part of this one. The engine sets it where pages were read
	// before and lost. The span must yield the entries of those pages once more.
	// What is left of it has the same Until.
	Until []byte `json:"until,omitempty"`
}

// MaxSpans is the most spans that a source may be split into.
const MaxSpans = 1_000_000

// A Page is what one call of [Source.Read] found, beside the entries that it
// added to the batch. The engine owns it and what it refers to from then on, but
// for the tokens, which nobody changes.
type Page struct {
	// Next holds what is left to read of the span: nothing when the page was its
	// last, otherwise usually one span with a new From. A source may return
	// several, which are then read in any order and at the same time; together
	// they cover exactly the rest. The first of them begins where the page ended.
	// All have the Index and the Until of the span.
	Next []Span
	// Markers counts directory markers, which are no entries.
	Markers int64
	// Locks holds the Vault keys of the items that are locks and therefore
	// were not copied.
	Locks []string
	// Refused says of each item of the page that can't be copied why, and names
	// it. A page that has any was not read: what the batch has of it, and of the
	// pages behind it, is incomplete. The engine reads on to name others, and
	// then fails.
	Refused []error
	// WireBytes is the size of the response in bytes.
	WireBytes int64
	// Counts are the source's own counters, of this page alone.
	Counts Counts
	// Retries counts the tries that failed before the page was read, and
	// Throttles those among them in which the source asked for fewer requests:
	// the engine then reads with fewer workers.
	Retries, Throttles int64
}

// Counts are what only a source counts, by name, such as "read_capacity_units". The
// engine adds them up. Those of an event or a page are shared: nobody changes them.
type Counts map[string]float64

// add adds others, which it does not keep.
func (c *Counts) add(o Counts) {
	if *c == nil && len(o) > 0 {
		*c = make(Counts, len(o))
	}
	for name, n := range o {
		(*c)[name] += n
	}
}

// Info describes a source that was found fit to be copied. A copy is
// resumed, and its locks given back, only with a source of the same Name, ID and
// Incarnation.
type Info struct {
	// Name is what a person calls the source, for instance a table name.
	Name string `json:"name"`
	// ID identifies the source beyond its name, for instance a table ARN.
	ID string `json:"id"`
	// Incarnation differs between two sources that had the same ID one after
	// the other, for instance by a table's id and the time of its creation.
	Incarnation string `json:"incarnation,omitempty"`
	// Endpoint is where the source was asked, for instance a URL. It is a record:
	// a copy may be resumed by another one.
	Endpoint string `json:"endpoint,omitempty"`
	// Items and Bytes are how much the source says it holds, markers and locks
	// included; zero where it does not know. They are estimates unless Exact is set:
	// then a copy must read exactly that many items.
	Items int64 `json:"items"`
	Bytes int64 `json:"bytes"`
	Exact bool  `json:"exact,omitempty"`
	// Facts are what else the adapter knows of the source. The engine keeps them.
	Facts Facts `json:"facts,omitempty"`
}

// Facts are what only an adapter knows, under the adapter's name, such as
// "dynamodb". Nobody else interprets them.
type Facts map[string]Fact

// A Fact is a JSON document in a form of the adapter's own. Version numbers
// that form.
type Fact struct {
	Version int             `json:"version"`
	Data    json.RawMessage `json:"data"`
}

// NewFact makes a fact of a value that JSON can hold.
func NewFact(version int, v any) (Fact, error) {
	data, err := json.Marshal(v)
	return Fact{version, data}, err
}

// Get decodes the fact of a name into v. It reports whether there is one of that
// version; where there is not, v stays as it is.
func (f Facts) Get(name string, version int, v any) (bool, error) {
	fact, ok := f[name]
	if !ok || fact.Version != version {
		return false, nil
	}
	return true, json.Unmarshal(fact.Data, v)
}

// A Source is what entries are copied from.
//
// All methods retry what is worth retrying themselves: an error returned is
// final for the copy, and wraps [ErrSource], [ErrLocked] or [ErrConfig], or a
// context's error. A wrapper of a Source implements the optional powers too, and
// passes them on: those that it lacks are lost.
type Source interface {
	// Open checks that the source can be read and holds what Vault
	// stores. It changes nothing. Every process of a copy calls it once, before
	// all else.
	Open(ctx context.Context) (Info, error)

	// Split divides the source into about n independent spans, at most [MaxSpans];
	// the source chooses their number where n is 0. They have the Index 0, 1, 2 and
	// so on, in this order, and no Until. It is called once a copy: a process that
	// resumes one reads the spans that the first Split returned.
	Split(ctx context.Context, n int) ([]Span, error)

	// Read appends the entries of the span's next page, in any order, to b, which
	// may hold others, and returns what is left. A page may be empty and have a
	// next one. Read keeps neither b nor what it appended: Append copies, and
	// Extend hands out b's memory until b is changed. On an error b is as it was
	// before the call.
	//
	// Reading the same span twice yields the same entries as long as nobody writes
	// to the source, though maybe on other pages. Where a source notices that it
	// does not, because it does not come to the span's Until, the error wraps
	// [ErrMoved]. A page has at most 512 MiB.
	//
	// It is called from many goroutines, with a batch each.
	Read(ctx context.Context, span Span, b *Batch) (Page, error)

	// Close gives up what the source holds on this machine, such as connections and
	// files. Whoever has opened it calls it: once behind each Open that succeeded,
	// last of all and behind Lease.Release. An Open that fails leaves nothing to
	// close. An error is a warning. What a Lock has left in the source stays.
	Close() error
}

// A Locker is a [Source] that can keep writers, and other copies, away. Without it
// nothing but the caller's word keeps writers away.
type Locker interface {
	// Lock takes the source for the run with the given id, and holds it until
	// the lease is released, whatever becomes of ctx. When the lease is lost,
	// lost is called once with the reason, from any goroutine; it returns at
	// once. An error wraps [ErrLocked] where somebody else holds the source.
	//
	// held says that this run held the source before, in a process that has
	// ended, and that nobody may have had it since: where the source is not
	// locked as that process left it, the error wraps [ErrMoved] too, and the
	// locks stay as they are. Where held is false, a failed Lock leaves no
	// lock of this run behind, or the error wraps [ErrNotReleased] too. Locks
	// that a process of this run may have left are taken over.
	Lock(ctx context.Context, runID string, held bool, lost func(error)) (Lease, error)

	// Unlock ends the lease of a run whose process was killed: as Release
	// does, it removes the locks that the run with the given id left in the
	// source, if there are any. Those of others it leaves alone, which is no
	// error. It may be repeated. The engine does not call it: it is for whoever
	// gives a copy up.
	Unlock(ctx context.Context, runID string, end End) error
}

// A Lease is a held lock on a source. It is used from one goroutine.
type Lease interface {
	// Check renews the lease on the condition that it is still ours, and
	// returns an error that wraps [ErrLocked] and [ErrMoved] if it is not. The
	// condition is the source's to judge: no clock of this machine can make a
	// lost lease look held. When it returns nil the lease is good for some
	// seconds, and nobody else has had it since Lock. It may be repeated.
	Check(ctx context.Context) error

	// Release ends the lease. It must be called exactly once, also after the
	// lease was lost. ctx has a deadline of its own: it is not ended by the
	// copy's. A lock is given back on the condition that it is ours. Where it is
	// not, the error wraps [ErrMoved]: somebody else may have written to the
	// source. On another error the source may still be locked.
	Release(ctx context.Context, end End) error
}

// An End is how a run ends.
type End int

// The ends of a run.
const (
	// EndFailed is the end of a run that leaves nothing: the source is given
	// back as it was found.
	EndFailed End = iota
	// EndUnfinished is the end of a run that will be resumed: the source
	// stays locked for it.
	EndUnfinished
	// EndComplete is the end of a complete copy. The source is given back,
	// but it may be set up to stay closed to Vault.
	EndComplete
)

// A Rechecker is a [Source] that notices when another source has taken its place, or
// that has checks of its own of all that was read. A [Scan] asks once, when all is
// read. A copy relies on its [Lease].
type Rechecker interface {
	// Recheck returns an error that wraps [ErrMoved] where the source is no longer
	// the one that Open has seen. It returns another error where that can't be
	// known, or the source is damaged.
	Recheck(ctx context.Context) error
}

// A Getter is a [Source] that can be asked for one entry. A copy asks it, before
// the source is locked, for what every Vault has: see [CheckVault].
type Getter interface {
	// Value returns what is stored under a Vault key, and false where nothing is.
	// What is there and is not binary has an empty value.
	Value(ctx context.Context, key string) ([]byte, bool, error)
}

// An Ordered is a [Source] that has its entries in order, and yields them so: a
// comparison then need not sort them.
type Ordered interface {
	// Stream returns all entries. One that ends with [io.EOF] has read all, and
	// found it sound.
	Stream(ctx context.Context) (Stream, error)
}

// A Throttled is a [Source] that holds its own requests back, to stay below a
// limit that it was given. That it did is said of a scan as [LimitCap].
type Throttled interface {
	// Waited returns for how long calls of Read have waited so far, summed
	// over those that waited at the same time. It never becomes less, and may be
	// called at any time, from any goroutine.
	Waited() time.Duration
}

// A Feed is a [Source] that says which of its entries may have changed while Vaults
// write to it. A copy that follows one holds no lock until its end: what it has read
// stays good as long as the feed has no gap.
//
// A hint is a key, never a value: what is stored under it is read again, by
// [Following.Reread]. So hints may be late, in any order, repeated or needless. None
// may be missing.
type Feed interface {
	Taker

	// Follow begins to follow the source for the run with the given id, and returns once
	// all that is written from then on will be hinted at: a [Source.Read] that begins
	// behind Follow has the rest. It sets up in the source what it needs for that.
	// With the position of an earlier process it resumes behind that, and misses
	// nothing; where it would, or can't know, the error wraps [ErrGap], and what was
	// set up stays: without a position it is followed anew. What the source has lost of
	// it is set up again.
	Follow(ctx context.Context, runID string, from Position) (Following, error)

	// Unfollow removes what Follow has set up in the source for that run, in this
	// process or an earlier one, and nothing that was there before or is somebody
	// else's, which is no error. It may be repeated. The position, where there is one, is
	// the last that is known. The engine calls it once a copy is complete or thrown away.
	Unfollow(ctx context.Context, runID string, last Position) error
}

// A Position is a place in a [Feed], in a form of its own, as JSON. It says what was set
// up there, too.
type Position = json.RawMessage

// A Lister lists the entries that are directly in a folder, in the order of keys.
type Lister interface {
	// List appends some entries of a folder, such as "logical/x/", or "" for the keys
	// without a slash, to b: the next ones behind the key after, or the first ones where
	// that is nil. An entry in a folder of the folder is not among them. next is the after
	// of the next call, and nil where there are no more; what was appended is not behind
	// it. There may be a next call though nothing was appended.
	List(ctx context.Context, folder, after []byte, b *Batch) (next []byte, err error)
}

// A Following is a [Feed] that is being followed. Reread is called from many
// goroutines, beside all others, and Drain while Next waits; the rest from one.
type Following interface {
	// List reads as Reread does. It is called while nobody writes to the source, and
	// reads all that was written before.
	Lister

	// Next waits until there are hints, or until something else in Hints has changed,
	// and returns it. It returns at least every second, and the first time at once: with
	// a Position. An error that wraps [ErrGap]
	// says that hints may be missing: the entries must all be read again. After any
	// error there is no further call but Close.
	Next(ctx context.Context) (Hints, error)

	// Poll is Next without the waiting: it asks everywhere once, and returns what there
	// is. It also makes sure that what Follow has set up is as Follow left it, and that
	// the source is still the same one; where not, the error wraps [ErrGap].
	Poll(ctx context.Context) (Hints, error)

	// Reread reads what is stored under the keys now, at least as new as all writes that
	// were acknowledged before the call, and appends the entries that there are to b, in
	// any order. A key that is not among them has no entry.
	Reread(ctx context.Context, keys [][]byte, b *Batch) error

	// Drain begins to make sure that all writes from before the call have been hinted
	// at. Where they have, the Hints of a later Next say so: see Hints.Drained. Another
	// call begins anew.
	Drain(ctx context.Context) error

	// Close ends it on this machine, in any state. What is set up in the source stays.
	Close() error
}

// Hints are what a feed has delivered since the last call of [Following.Next].
type Hints struct {
	// Keys are Vault keys of entries that may have changed. Those of the source's own
	// locks, and what the feed itself has written, are not among them. The engine owns
	// them.
	Keys [][]byte
	// Position is the place behind these hints, and not behind any other. Once the
	// hints are on disk it may be, too. It is nil where it is as before.
	Position Position
	// Drained is the number of the last Drain, counted from 1, before which all writes
	// have been hinted at, in this call or an earlier one. It is 0 where there is none,
	// and never becomes less.
	Drained int
	// Unsure are folders of which that is not known, see [Lister]: the feed can't tell
	// whether it has delivered all that was written to the entries directly in them. They
	// belong to Drained. Whoever relies on that compares the folders, and applies what
	// differs.
	Unsure [][]byte
	// Records is how many records the feed knows to be ahead, as far as it can say, and
	// Delay how long what it delivered last was on its way: by what the feed writes
	// itself, where nobody else writes.
	Records int64
	Delay   time.Duration
}

// A Taker is a [Locker] that can wait for its turn.
type Taker interface {
	Locker

	// Take is Lock, but waits as long as somebody else holds the source, also where
	// another one has got it first. It returns once no earlier holder can write any
	// more. waiting is told what it waits for, whenever that changes.
	// Lease.Release with [EndFailed] gives the source back, and Take may be called
	// again.
	Take(ctx context.Context, runID string, waiting func(Turn), lost func(error)) (Lease, error)
}

// A Turn is what [Taker.Take] waits for.
type Turn struct {
	// Holder is who holds the source, as it says itself: empty where nobody does.
	Holder string
	// Expired is set where the holder has not renewed its lock in time and has not
	// given it back: it may be paused, and still write.
	Expired bool
	// Until is when what is waited for will have passed, where that is known.
	Until time.Time
}

// A Moment is when something is checked.
type Moment int

// The moments.
const (
	// Ahead is days before the copy, while Vaults run on the source.
	Ahead Moment = iota
	// Stopped is when somebody says that every Vault on the source is stopped.
	Stopped
	// AtCopy is when a copy is about to begin. What a copy makes sure of by itself
	// need not be checked, and nothing that takes long.
	AtCopy
)

// A Checker is a [Source] or a [Sink], or what stands beside one, that can say what
// would keep a copy, or the Vault that starts on it, from working. It changes nothing,
// and opens what it needs by itself. The engine does not call it: it is for whoever
// plans a copy.
type Checker interface {
	// Check returns what it has found, what is in order too. An error says that
	// there is no answer at all; what was found until then comes with it.
	Check(ctx context.Context, when Moment) (Findings, error)
}

// A Snapshotter is a [Source] that can make a backup of itself, for Options.Backup.
type Snapshotter interface {
	// Snapshot makes a backup with the given name, waits until it is there, and
	// returns what it can be found by. The source is locked meanwhile.
	Snapshot(ctx context.Context, name string) (ref string, err error)
}

// A Stream yields entries in strictly ascending order of their keys' bytes.
type Stream interface {
	// Next returns the next entry, or [io.EOF], as it is, after the last. The
	// entry is valid until the following call, and may be changed by nobody.
	// After an error the stream is spent. It is not safe for concurrent use.
	Next() (Entry, error)
}

// An Identity distinguishes destinations: names of what matters, such
// as "path", and their values.
type Identity map[string]string

// A Sink is what entries are copied to.
//
// An error of a Sink or a [Stage] wraps [ErrDestination], [ErrLocked] or
// [ErrConfig], or a context's error; an error of the stream is passed on. Methods
// are called from one goroutine, but for Identity, which may be called at any time.
type Sink interface {
	// Identity identifies this destination: a copy into it is resumed
	// only with the same one.
	Identity() Identity

	// Open takes the destination, which is held from here to Close, and reports
	// what it holds. It removes at most what a run has staged and not committed,
	// which no run reads again: that is what has no mark, see [Applier]. It refuses a
	// destination that is not fit: missing, not writable, held by another process (ErrLocked), or holding data that
	// State does not report: somebody else's, or the result of a run that has cleaned
	// up behind itself with Stage.Close (ErrDestination).
	Open(ctx context.Context) (State, error)

	// Stage makes the place where a run's result is written aside. It reopens what
	// that run has committed, as the State said, and throws away what any run has
	// staged and not committed, with what it had put in place of it; a stage that is
	// [Unordered] leaves that to Clear, and an [Applier] keeps what that run has put a
	// mark on. It is called once, behind Open, for a fresh copy not before the source is locked.
	Stage(ctx context.Context, runID string) (Stage, error)

	// Close gives the destination back. It may be called at any time after Open
	// returned, whatever Open returned, and once only; behind Stage.Close, where
	// there is a Stage.
	Close() error
}

// A State is what [Sink.Open] has found.
type State struct {
	// Record is that of the run whose result is in place, and that has not cleaned up
	// behind itself, as Prepare or Amend was given it last: its RunID and State are
	// needed. It is nil where there is none: what is staged does not count.
	Record *Record
	// InUse is set where a Vault runs on the result: nothing can be done with
	// it until that is stopped, and Stage is not called.
	InUse bool
}

// A Stage is what one run writes to a [Sink]. It is a [Loader] or an [Unordered], which
// is how it is written. Methods are called in the order in which they stand here,
// behind those, each at most once, except for Reader and Amend.
type Stage interface {
	// Reader returns a source that reads what was written: what is staged, or what is
	// in place after a Commit in this process or an earlier one. It shares no code with
	// the writer, and relies only on what it reads. Where that is not what was written,
	// its Open, Read or Recheck returns an error that wraps [ErrReadBack] and
	// ErrDestination. Where a result in place was used since, its Recheck returns an
	// error that wraps [ErrChanged]. The facts of its Info are what only the adapter
	// knows of the result. It may be called often. The engine closes what it has opened
	// before it calls another method.
	Reader(ctx context.Context) (Source, error)

	// Prepare does all of a commit that can be done before its last step,
	// durably. The record lies with it, for [Sink.Open] to find as it is: the engine has
	// set its State to Unconfirmed. On an error Prepare has undone all of that.
	Prepare(ctx context.Context, r Record) error

	// Commit puts what was loaded in place, in one last step, and makes that
	// durable. It does nothing else: from its call to that step the source's lease
	// may be lost unnoticed. From then on [Sink.Open] finds the record that
	// Prepare was given. When Commit returns an error, the destination holds nothing that
	// Vault would open, or the error wraps ErrUnconfirmed.
	Commit(ctx context.Context) error

	// Amend durably replaces the record of a result that is in place, and its state
	// with it. It may be repeated, with states in any order.
	Amend(r Record) error

	// Rollback takes back what Prepare or Commit has put in place, in this process
	// or an earlier one, and does nothing where there is none. An error wraps
	// [ErrInUse] where a Vault runs on it already: then all of it stays.
	Rollback() error

	// Close removes, unless keep is set, all that the run has written and that is
	// not in place, and the note of its state last. A run that overwrites what was there
	// before can't: then no Vault can open what is there, and the error says so. It may be
	// called at any time, and once only.
	Close(keep bool) error
}

// A Loader is a [Stage] that is written at once, in the order of keys.
type Loader interface {
	Stage

	// Load reads the stream to its end and writes all its entries aside,
	// durably, where nothing would open them. It keeps no entry beyond the next
	// call of Next. What it returns is compared with what was read. What a stage holds
	// that was reopened, see [Applier], goes first.
	Load(ctx context.Context, entries Stream) (LoadStats, error)
}

// An Overwriter is a [Stage] that overwrites what was there before.
type Overwriter interface {
	Stage

	// Overwritten reports whether it has begun to, in this process or an earlier one. Such
	// a run is kept, whatever ends it, unless what it has read can't be trusted: resuming it
	// is the way out.
	Overwritten() bool
}

// An Unordered is a [Stage] that takes entries in any order, while the source is read.
// Entries are on record once their Put has returned. A later process does not read
// those again; others may be put twice. Entries of one key overwrite each other: a
// source that yields a key twice is noticed when the stage is read back.
type Unordered interface {
	Stage

	// Vet says of each entry that can't be written why, and names it. It changes
	// nothing. It is called from many goroutines, with all entries of the source,
	// before anything is written.
	Vet(entries *Batch) []error

	// Clear removes all that was put, in this process or an earlier one. It is called
	// before the first Put of a copy that has nothing on record.
	Clear(ctx context.Context) error

	// Put writes entries aside, where no Vault would start on them, and returns once
	// that is durable. It may be repeated. Without Clear before it, it adds to what an
	// earlier process of the run has put, and fails where that is gone. It keeps nothing
	// of the batch, and is called from many goroutines. After an error the engine puts
	// no more, and some of the entries may have been written.
	Put(ctx context.Context, entries *Batch) error
}

// A Change is what has become of an entry: it has another value, or is gone.
type Change struct {
	Entry
	// Gone is set where there is no such entry any more; Value is nil then.
	Gone bool
}

// An Applier is a [Stage] that can be changed once it is loaded, and before Prepare. Its
// methods are called from one goroutine.
//
// A stage that has a mark survives its process: [Sink.Stage] with the same run's id
// reopens it, as it was after the last Apply that returned or began, and throws
// nothing away.
type Applier interface {
	Stage
	// List lists what the stage holds: each call as it is then.
	Lister

	// Apply makes the changes, each key once, and puts a mark beside them, in one step:
	// after a crash both are there or neither is. It is durable once it returns. update
	// is given what was stored under the keys before, an entry for each that there was,
	// in any order and valid until it returns, and returns the mark, which is not
	// empty. Its error ends Apply, and nothing is changed.
	Apply(ctx context.Context, changes []Change, update func(old []Entry) (mark []byte, err error)) error

	// Mark returns the mark of the last Apply, in this process or an earlier one, also
	// behind Finish, and nil where there is none: what was loaded then, if anything, was
	// never complete.
	Mark(ctx context.Context) ([]byte, error)

	// Pin keeps what is there now, for Delta to compare with. A [Stage.Reader] that is
	// opened before the next Apply reads exactly that. It lets go of an earlier pin. Where a
	// Delta has just shown that what is there is as it must be, nothing need be read again:
	// Pin moves on to it, so that the next Delta has less to read.
	Pin(ctx context.Context) error

	// Pinned reports whether Pin still holds: an Apply lets go of it where it could not
	// be made otherwise.
	Pinned() bool

	// Delta compares what is there with what was pinned, by what it reads alone, as
	// Reader does: it yields the entries that are no longer there, and those that are
	// there now. An entry that is in both may be yielded to both. It reads only what
	// changed.
	Delta(ctx context.Context, gone, there func(Entry) error) error

	// Finish removes the mark, and all that is not the result's, from what Commit puts in
	// place, durably. Prepare comes next, but for Delta, which it leaves possible; or
	// Apply, which makes another mark, and lets go of the pin. Until Commit a later process
	// reopens the stage with its mark all the same.
	Finish(ctx context.Context) error
}

// A WorkDirer is a [Sink] that has a place for the engine's own files. Without it
// Options.WorkDir is needed.
type WorkDirer interface {
	// WorkDir is a directory on the destination's file system, always the same.
	// Sink.Open makes it, where it is not there. Stage.Close removes it with all that
	// is in it, unless keep is set. Until then what the engine writes into it is not
	// the sink's to touch: a later process resumes from that.
	WorkDir() string
}

// A CommitState is how far a result has come that is in place:
//
//	          Commit                Check              Release
//	loaded ───────────▶ Unconfirmed ──────▶ Confirmed ──────────▶ Released
//	   ▲                     │                  │
//	   └────── Rollback ─────┴──────────────────┘
//	           the lease was lost, or the source does not answer
//
// What is loaded, and in no state, lies aside, where no Vault opens it. Each
// state is on disk before the next is asked for, so that a process that is
// killed leaves one of them, and the next one asks again.
type CommitState string

// The states of a result that is in place.
const (
	// Unconfirmed is a result whose source may have been written to meanwhile:
	// nobody knows. No Vault may be started on it.
	Unconfirmed CommitState = "unconfirmed"
	// Confirmed is a result whose source was still locked for its run after the
	// result was in place: a conditional write has shown it. No Vault may be started
	// on it before it is Released: until then the lock may have been lost.
	Confirmed CommitState = "confirmed"
	// Released is a confirmed result whose source was given back, each lock on
	// the condition that it was still held.
	Released CommitState = "released"
)

// LoadStats says what a sink has loaded.
type LoadStats struct {
	// Entries is the number of entries, and Bytes the size of their keys and
	// values together.
	Entries int64 `json:"entries"`
	Bytes   int64 `json:"bytes"`
	// FileBytes is the size of what was written.
	FileBytes int64 `json:"file_bytes"`
	// LargestKey names the entry with the largest value, of LargestBytes.
	LargestKey   string `json:"largest_key,omitempty"`
	LargestBytes int64  `json:"largest_bytes"`
}
