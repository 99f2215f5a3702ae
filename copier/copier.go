// Package copier moves Vault's physical entries from a [Source] to a [Sink].
//
// The engine reads the source's spans with several workers, collects the
// entries in bounded buffers, sorts them (spilling sorted runs to the work
// directory when they exceed the memory budget), and hands the sink one stream
// in strictly ascending key order. It knows neither DynamoDB nor Raft: sources
// and sinks are adapters that live in packages of their own and import this
// one, never the other way round. The file contract.go is all that an adapter's
// author has to read, and package copiertest tests what they write.
//
// The words of this package:
//
//   - Entry: a key and a value, as Vault's storage holds them.
//   - Marker: an item with which a source's storage marks a directory. It is no
//     entry, and is only counted.
//   - Span: a part of a source that is read by itself. What is left of one is a
//     span again. Status and events count as segments those that the source was
//     split into.
//   - Page: what one call reads of a span.
//   - Copy: what has one run id (RunID), from its first process to its last.
//   - Process: one call of [Copy]. A copy that was interrupted, or killed, is
//     resumed by another one.
//   - Run: a work file of sorted entries. Only a run id is of a copy.
//   - Merge: reading all runs at once, as one sorted stream.
//   - Checkpoint: a file that names runs, and the pages whose entries are in them.
//   - Lease: a source's lock, held by a copy and renewed by a process.
//   - Staged: written where no Vault would open it, by a [Stage].
//   - In place: where a Vault would open the result, from [Stage.Commit] on.
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
// A copy that follows its source, see [Live], differs in this:
//
//   - The source is held for the end of the copy alone. Until the commit all is
//     reversible: the source is given back, and followed on.
//   - A key that is read twice is noted, as those are that the feed names. What is stored
//     under noted keys is read again, and applied to what is loaded.
//   - Notes are on disk before the feed's position is, and stay as long as the copy does:
//     so the base and all notes, or the stage and the notes behind its mark, are the
//     source as it is.
//   - The result is put in place only after all of the feed's hints up to a moment at
//     which the source was held were applied, what was loaded was read back, and what
//     has changed since fits the digests that were kept along.
//   - The record stays until what was set up in the source is removed.
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

// A Phase is a part of a copy.
type Phase string

// The phases of a copy, in their order.
const (
	PhasePrepare Phase = "prepare" // both ends are checked
	PhaseLock    Phase = "lock"    // the source is taken
	PhaseScan    Phase = "scan"    // entries are read and sorted
	PhaseLoad    Phase = "load"    // the sorted entries are written aside
	PhaseCheck   Phase = "check"   // what was written is read back
	PhaseFollow  Phase = "follow"  // what changes in the source is written, too
	PhaseDrain   Phase = "drain"   // the source is taken, and the last changes arrive
	PhaseCommit  Phase = "commit"  // the result is put in place
	PhaseCleanUp Phase = "cleanup" // it is, and the work files are removed
)
