// Package copier moves Vault's physical entries from a [Source] to a [Sink].
//
// The engine reads the source's segments with several workers, collects the
// entries in bounded buffers, sorts them (spilling sorted runs to the work
// directory when they exceed the memory budget), and hands the sink one stream
// in strictly ascending key order. It knows neither DynamoDB nor Raft: sources
// and sinks are adapters that live in packages of their own and import this
// one, never the other way round.
//
// What holds at every moment of a copy:
//
//   - An entry is handed to the sink exactly once. A page that failed leaves
//     nothing behind in its batch, and two entries with one key end the copy
//     with [ErrDuplicateKey]: a source whose writers are stopped has none.
//   - The sink puts its result in place only after the whole sorted stream was
//     loaded and the source's lease was renewed, with nothing in between.
//   - A result that is in place does not count as complete until the source,
//     asked again, has said that the lease is still ours. Where it says
//     otherwise, or nothing, the result is taken back; where that can't be, the
//     error wraps [ErrUnconfirmed] and [ErrInUse]. See [CommitState].
//   - While a copy is unfinished the source stays locked in its name. A copy
//     that fails before it has saved anything, or because the source was
//     written to meanwhile, leaves the destination as it was and gives the
//     locks back. Where it can't, its record stays: a lock has a name as long
//     as it is there.
//
// What holds of checkpoints:
//
//   - A checkpoint names only runs that are synced, and of each the pages whose
//     entries are in it. It is written whole or not at all, and never changed.
//   - A page is on record only with the pages that led to it: what is left to
//     read is always known, and read exactly once more. So at any crash the
//     runs on record and what is read after them hold each entry once.
//   - What no checkpoint names does not count, and is removed at the next
//     start.
//   - A run that is damaged gives its own pages back to be read, and no other.
package copier

import (
	"context"
	"time"
)

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

// A Segment is a part of a source that is read page by page, each page after
// the one before it, independently of all other segments.
type Segment struct {
	// Index and Total identify the segment: Index counts from 0 to Total-1.
	Index int `json:"index"`
	Total int `json:"total"`
	// Resume is the source's own token for the place where the next page
	// starts; empty at the start of the segment. It is opaque to the engine
	// and stays valid as long as Total does not change. Segments share tokens:
	// nobody changes one.
	Resume []byte `json:"resume,omitempty"`
	// Until, where set, is a resume token behind Resume: what begins there is
	// not a part of the segment. Such a segment was read before, and what was
	// read of it is lost. It must yield the same entries once more.
	Until []byte `json:"until,omitempty"`
}

// A Page tells what one call of [Source.ReadPage] found, beside the entries
// that it added to the batch.
type Page struct {
	// Next holds what is left to read of the segment: nothing when the page
	// was its last, otherwise usually one segment with a new resume token. A
	// source may return several, which are then read in any order and at the
	// same time; together they cover exactly the rest. The first of them
	// begins where the page ended.
	Next []Segment
	// Markers counts directory markers, which are no entries.
	Markers int64
	// Locks holds the Vault keys of the items that are locks and therefore
	// were not copied.
	Locks []string
	// Refused says of each item of the page that can't be copied why, and names
	// it. A page that has any was not read: what the batch has of it, and of the
	// pages behind it, is incomplete.
	Refused []error
	// WireBytes is the size of the response in bytes.
	WireBytes int64
	// Units is what the page cost, in read capacity units.
	Units float64
	// Retries counts the tries that failed before the page was read, and
	// Throttles those among them in which the source asked for fewer requests.
	Retries, Throttles int64
}

// SourceInfo describes a source that was found fit to be copied.
type SourceInfo struct {
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
	// Items and Bytes are the source's own estimates; they may be hours old,
	// and zero where the source does not know.
	Items int64 `json:"items_estimate"`
	Bytes int64 `json:"bytes_estimate"`
}

// A Source is what entries are copied from.
//
// All methods retry what is worth retrying themselves: an error returned is
// final for the copy, and wraps [ErrSource], [ErrLocked] or [ErrConfig].
type Source interface {
	// Prepare checks that the source can be read and holds what Vault
	// stores. It changes nothing. It is called once, before all else.
	Prepare(ctx context.Context) (SourceInfo, error)

	// Segments divides the source into about n independent segments; the
	// source chooses their number where n is 0. It is called once.
	Segments(ctx context.Context, n int) ([]Segment, error)

	// ReadPage appends the entries of seg's next page to b and returns what
	// is left. On an error b is as it was before the call. Reading the same
	// segment twice yields the same entries as long as nobody writes to the
	// source; where a source notices that it does not, because it does not
	// come to the segment's Until, the error wraps [ErrMoved]. It is called
	// from many goroutines, with a batch each.
	ReadPage(ctx context.Context, seg Segment, b *Batch) (Page, error)
}

// A Locker is a [Source] that can keep writers, and other copies, away.
type Locker interface {
	// Lock takes the source for the run with the given id, and holds it until
	// the lease is released. When the lease is lost, lost is called once with
	// the reason. An error wraps [ErrLocked] where somebody else holds the
	// source.
	//
	// held tells that this run held the source before, in a process that has
	// ended, and that nobody may have had it since: where the source is not
	// locked as that process left it, the error wraps [ErrMoved] too, and the
	// locks stay as they are. Where held is false, a failed Lock leaves no
	// lock of this run behind, or the error wraps [ErrNotReleased] too, and
	// locks that a process of this run may have left are taken over.
	Lock(ctx context.Context, runID string, held bool, lost func(error)) (Lease, error)

	// Unlock ends the lease of a run whose process was killed: as Release
	// does, it removes the locks that the run with the given id left in the
	// source, if there are any. Those of others it leaves alone, which is no
	// error.
	Unlock(ctx context.Context, runID string, end End) error
}

// A Rechecker is a [Source] that can tell what it was prepared as from what took
// its place. A [Scan] asks when all is read, a copy by its [Lease].
type Rechecker interface {
	// Recheck returns an error that wraps [ErrMoved] unless the source is still
	// the one that Prepare has seen.
	Recheck(ctx context.Context) error
}

// A Lease is a held lock on a source.
type Lease interface {
	// Check renews the lease on the condition that it is still ours, and
	// returns an error that wraps [ErrLocked] and [ErrMoved] if it is not. The
	// condition is the source's to judge: no clock of this machine can make a
	// lost lease look held. When it returns nil the lease is good for some
	// seconds, and nobody else has had it since Lock.
	Check(ctx context.Context) error

	// Release ends the lease. It must be called exactly once, also after the
	// lease was lost. What it gives back it gives back on the condition that it
	// is ours: an error wraps [ErrMoved] where it is not, which is to say that
	// somebody else may have written to the source. On another error the source
	// may still be locked.
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

// A Stream yields entries in strictly ascending order of their keys' bytes.
type Stream interface {
	// Next returns the next entry, or [io.EOF] after the last. The entry is
	// valid until the following call. After an error the stream is spent. It
	// is not safe for concurrent use.
	Next() (Entry, error)
}

// A Sink is what entries are copied to.
//
// An error wraps [ErrDestination], [ErrLocked] or [ErrConfig]. Methods are
// called from one goroutine, in the order in which they stand here.
type Sink interface {
	// Identity tells this destination from others: a copy into it is resumed
	// only with the same one. It must hold "path".
	Identity() Identity

	// Prepare takes the destination and refuses one that is not fit: missing,
	// not writable, in use, or holding data already. Where that data is a
	// complete copy whose run was killed before Close, the error is a
	// [CompleteError]. What an unfinished copy left in WorkDir stays.
	Prepare(ctx context.Context) error

	// WorkDir is a directory on the destination's file system for the
	// engine's own files. It is there after Prepare, or a CompleteError.
	WorkDir() string

	// Load writes all entries of the stream aside, durably, where nothing
	// would open them.
	Load(ctx context.Context, entries Stream) (LoadStats, error)

	// PrepareCommit does all of a commit that can be done before its last step,
	// durably, in the name of a run. On an error it has undone that.
	PrepareCommit(ctx context.Context, runID string) error

	// Commit is the last step, which puts what was loaded in place, and what
	// makes it durable. It does nothing else: the time from its call to that
	// step is the time in which the source's lease may be lost unnoticed. From
	// then on a CompleteError names the run, with the state Unconfirmed. When
	// Commit returns an error the destination holds nothing that Vault would
	// open, or the error says what.
	Commit(ctx context.Context) error

	// Mark notes durably which state a committed result is in.
	Mark(state CommitState) error

	// Rollback takes back what PrepareCommit, or Commit, or the run that a
	// CompleteError names, has put in place, and does nothing where there is
	// none. An error wraps [ErrInUse] where a Vault runs on it already: then
	// all of it stays.
	Rollback() error

	// Close gives the destination back and, unless keep is set, removes
	// everything that this run and unfinished ones have written and not
	// committed, WorkDir included. It may be called at any time after Prepare
	// returned, whatever Prepare returned, and once only.
	Close(keep bool) error
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
	// Unconfirmed is a result of which nobody knows whether the source was
	// written to meanwhile. No Vault may be started on it.
	Unconfirmed CommitState = "unconfirmed"
	// Confirmed is a result of a source that was found to be still locked for
	// its run, by condition, after the result was in place: it is complete.
	Confirmed CommitState = "confirmed"
	// Released is a confirmed result whose source was given back, each lock on
	// the condition that it was still held.
	Released CommitState = "released"
)

// LoadStats tells what a sink has loaded.
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

// A Phase is a part of a copy.
type Phase string

// The phases of a copy, in their order.
const (
	PhasePrepare Phase = "prepare" // both ends are checked
	PhaseLock    Phase = "lock"    // the source is taken
	PhaseScan    Phase = "scan"    // entries are read and sorted
	PhaseLoad    Phase = "load"    // the sorted entries are written aside
	PhaseCheck   Phase = "check"   // what was written is read back
	PhaseCommit  Phase = "commit"  // the result is put in place
	PhaseCleanUp Phase = "cleanup" // it is, and the work files are removed
)

// Result is what a copy did. It is valid, as far as the copy came, also when
// the copy failed.
type Result struct {
	RunID    string        `json:"run_id"`
	Start    time.Time     `json:"start"`
	Duration time.Duration `json:"duration_ns"`
	// Phases holds how long each phase took, for those that were entered.
	Phases map[Phase]time.Duration `json:"phases_ns"`

	Source SourceInfo `json:"source"`
	Scan   ScanStats  `json:"scan"`
	Load   LoadStats  `json:"load"`

	// Digests are those of the entries copied, by prefix, where
	// Options.ReadBack is set, and ReadBack is set when they were found to be
	// those of the result as well.
	Digests  Digests `json:"digests"`
	ReadBack bool    `json:"read_back"`

	// Note is what Options.Begin returned, in this process or an earlier one.
	Note string `json:"-"`

	// Partial is set when a StartKey left entries out on purpose: that of Options,
	// or, of a complete copy that is finished, the one that it was made with.
	Partial  bool   `json:"partial"`
	StartKey string `json:"-"`
	// Complete is set when the result is in place and confirmed.
	Complete bool `json:"complete"`
	// Commit is the state of the result where it is in place, also if the copy
	// failed.
	Commit CommitState `json:"commit,omitempty"`
	// InPlace is set when the result was in place before: a process was killed then,
	// and what it had left to do is done, or was to be.
	InPlace bool `json:"-"`
	// Resumed counts how often the copy was resumed; Phases, Duration and
	// Start are those of the last process alone.
	Resumed int `json:"resumed"`
	// Began is when the copy was begun for the first time.
	Began time.Time `json:"began"`
	// Earlier are the processes that ended without completing the copy, as far
	// as they are known, and Samples tells how the last one got on. Both are for
	// Options.Finish, and only set from then on.
	Earlier []Process `json:"-"`
	Samples []Sample  `json:"-"`
	// Resumable is set when the copy failed, and can be gone on with.
	Resumable bool `json:"resumable"`
}
