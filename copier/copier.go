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
//     loaded and the source's lease was found to be still ours.
//   - A copy that fails leaves the destination as it was, and gives the
//     source's locks back.
package copier

import (
	"context"
	"time"
)

// An Entry is one physical entry of a Vault storage backend.
//
// Key is a clean Vault key such as "sys/policy/default": no empty, "." or ".."
// segments, no slash at either end. Value is the bytes Vault stored, which are
// ciphertext for all but a few keys under core/; it may be empty.
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
	// and stays valid as long as Total does not change.
	Resume []byte `json:"resume,omitempty"`
}

// A Page tells what one call of [Source.ReadPage] found, beside the entries
// that it added to the batch.
type Page struct {
	// Next holds what is left to read of the segment: nothing when the page
	// was its last, otherwise usually one segment with a new resume token. A
	// source may return several, which are then read in any order and at the
	// same time; together they cover exactly the rest.
	Next []Segment
	// Markers counts directory markers, which are no entries.
	Markers int64
	// Locks holds the Vault keys of the items that are locks and therefore
	// were not copied.
	Locks []string
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
	// source. It is called from many goroutines, with a batch each.
	ReadPage(ctx context.Context, seg Segment, b *Batch) (Page, error)
}

// A Locker is a [Source] that can keep writers, and other copies, away.
type Locker interface {
	// Lock takes the source for the run with the given id, and holds it until
	// the lease is released. When the lease is lost, lost is called once with
	// the reason. An error wraps [ErrLocked] where somebody else holds the
	// source. A failed Lock leaves no lock of this run behind.
	Lock(ctx context.Context, runID string, lost func(error)) (Lease, error)
}

// A Lease is a held lock on a source.
type Lease interface {
	// Check asks the source whether the lease is still ours, and returns an
	// error that wraps [ErrLocked] if it is not.
	Check(ctx context.Context) error

	// Release gives the source back. done tells whether the copy is complete:
	// a source may be set up to stay closed to Vault after a complete copy.
	// It must be called exactly once, also after the lease was lost.
	Release(ctx context.Context, done bool) error
}

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
	// Prepare takes the destination for this run and refuses one that is
	// not fit: missing, not writable, in use, or holding data already.
	Prepare(ctx context.Context, runID string) error

	// WorkDir is a directory on the destination's file system for this
	// run's work files; it is gone after Close.
	WorkDir() string

	// Load writes all entries of the stream aside, durably, where nothing
	// would open them.
	Load(ctx context.Context, entries Stream) (LoadStats, error)

	// Commit puts what was loaded in place. When it returns nil the copy is
	// complete and durable; when it returns an error the destination holds
	// nothing that Vault would open.
	Commit(ctx context.Context) error

	// Close gives the destination back and removes everything that this run
	// has written and not committed. It may be called at any time after
	// Prepare returned, whatever Prepare returned, and once only.
	Close() error
}

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
	PhaseCommit  Phase = "commit"  // the result is put in place
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

	// Partial is set when Options.StartKey left entries out on purpose.
	Partial bool `json:"partial"`
	// Complete is set when the result is in place.
	Complete bool `json:"complete"`
}
