package copier

import (
	"fmt"
	"time"
)

// An Event reports progress. The library prints and logs nothing: a caller who
// wants to know passes a function that takes events and switches on their types.
// Such a function is called from many goroutines at once and must return quickly.
type Event interface{ event() }

// PhaseStarted says that a copy entered a phase.
type PhaseStarted struct {
	Phase Phase
	// Source is set from the lock phase of a copy on.
	Source Info
	// Segments, Done and Workers are set in the scan phase: how many spans the
	// source was split into, how many of them earlier processes have read to their
	// end, and how many workers may read at the most.
	Segments, Done, Workers int
}

// PageRead says that a page was read and its entries were taken over.
type PageRead struct {
	Entries, Bytes int64
	Markers        int64
	// WireBytes is the size of the response, in bytes.
	WireBytes int64
	// Counts are the page's.
	Counts Counts
	// SegmentDone is set on the last page of one of the spans that the source was
	// split into.
	SegmentDone bool
}

// WorkersChanged says how many pages may be read at the same time now.
type WorkersChanged struct {
	Workers int
}

// RunWritten says that the memory budget was full and a sorted run of entries
// went to the work directory.
type RunWritten struct {
	Entries, Bytes int64
}

// Checkpointed says that what was read so far is safe on disk: so many entries,
// in work files of so many bytes, since the last such event.
type Checkpointed struct {
	Entries, Bytes int64
	Time           time.Time
}

// Resuming says what an earlier process of this run has left: the entries and
// bytes that need not be read again.
type Resuming struct {
	Entries, Bytes int64
	// Markers are the directory markers among what was read.
	Markers int64
	// Pending is how many of the source's spans are not read to their end.
	Pending int
	// Saved is the time of the last checkpoint, zero if there is none.
	Saved time.Time
}

// Loaded says how far a sink is with loading: so many entries and bytes since
// the last such event.
type Loaded struct {
	Entries, Bytes int64
}

// Retried says that a request failed and is tried again.
type Retried struct {
	// Err is what was wrong with it.
	Err error
	// Throttled is set when the source asked for fewer requests.
	Throttled bool
	// Nothing is for how long no request has succeeded. If none does before GiveUp,
	// the source ends the copy. Both are zero where Throttled is set.
	Nothing time.Duration
	GiveUp  time.Time
}

// Waiting says that the copy waits, and for what. A [WaitOver] follows.
type Waiting struct {
	For Wait
	// Name is what is waited for: the holder of a lock, a backup, the action of a
	// request.
	Name string
	// Since is when it began, and Until when it ends; zero where that is not known.
	Since, Until time.Time
}

// WaitOver ends one [Waiting] of the same For and Name.
type WaitOver struct {
	For  Wait
	Name string
}

// A Wait says what is waited for.
type Wait string

// What is waited for. Waits for requests are said once they have taken 5 s.
const (
	WaitHeldLock    Wait = "held lock"    // that the leader lock is renewed or not, which has not expired
	WaitExpiredLock Wait = "expired lock" // the same, of one that has
	WaitOldHolder   Wait = "old holder"   // that who held the leader lock notices the loss
	WaitStream      Wait = "stream"       // that it is known to have all changes
	WaitBackup      Wait = "backup"       // that it is available
	WaitAnswer      Wait = "answer"       // to a request
	WaitThrottled   Wait = "throttled"    // that the source takes a request that it has throttled
	WaitRetry       Wait = "retry"        // that a request succeeds that has failed
	WaitCap         Wait = "cap"          // that a cap on what is asked of the source lets a request go
	WaitCredentials Wait = "credentials"  // that they are found
)

// ItemRefused says that the source has an item that can't be copied. The copy will
// fail; it reads on to name other such items. Err names this one.
type ItemRefused struct {
	Err error
}

// HiddenLeases says that so many leases were loaded of which [Unlisted] is true, and names
// the first of them.
type HiddenLeases struct {
	Count int64
	Keys  []string
}

// Add counts an entry, where it is one.
func (h *HiddenLeases) Add(key []byte) {
	const named = 3
	if _, lease := Unlisted(key); !lease {
		return
	}
	if h.Count++; h.Count <= named {
		h.Keys = append(h.Keys, string(key))
	}
}

func (h HiddenLeases) String() string {
	return fmt.Sprintf("%d leases are below a name that begins with _, such as %q: on DynamoDB Vault never lists them, and so has neither restored nor revoked them; "+
		"on integrated storage it does both, at its first start", h.Count, h.Keys)
}

// CountDiffers says that many more or fewer items were read of a source than it has
// reported, by an estimate of its own; Reported is 0 where that counts none.
type CountDiffers struct {
	Reported, Read int64
}

func (e CountDiffers) String() string {
	if e.Reported == 0 {
		return fmt.Sprintf("%d items were read, and the source says that it holds none", e.Read)
	}
	return fmt.Sprintf("%d items were read, and the source says that it holds %d", e.Read, e.Reported)
}

// Warning is something that a person should know and that does not stop the
// copy.
type Warning struct {
	// Check is the short name of the check that found it, such as "cluster-addr"; empty
	// where none did.
	Check   string `json:"check,omitempty"`
	Message string `json:"message"`
	// Ignored is set where that had ended the copy, had the check not been let
	// pass on demand.
	Ignored bool `json:"ignored,omitempty"`
}

// Followed says how far a copy is behind the source that it follows.
type Followed struct {
	// Records is how many records of the feed are ahead, as far as it can say, and Delay
	// how long what it has delivered last was on its way.
	Records int64
	Delay   time.Duration
	// Noted is how many keys this process was told of, Pending how many of those are not
	// applied yet, and Applied the changes applied, by earlier processes too.
	Noted, Pending, Applied int64
	// Ready is set while nothing but the caller's word is missing for a cut-over, and
	// Expected is how long that may take: as the last rehearsal, or else an estimate.
	Ready    bool
	Expected time.Duration
}

// ReadyToCutOver says that nothing but the caller's word is missing for a cut-over, of
// which the source's outage may take as long.
type ReadyToCutOver struct {
	Expected time.Duration
}

// Taken says that the source was taken for a cut-over, or for a rehearsal of one: the
// outage begins.
type Taken struct {
	Rehearsal bool
}

// GivenBack says that a cut-over was not made, and why. The source is given back where it
// was taken, and followed on. It is tried again later.
type GivenBack struct {
	Err error
}

// Rehearsed says that a rehearsal has passed, and the source was given back. Outage is
// from when it was taken until then; in Drain of it all changes arrived and were applied.
type Rehearsed struct {
	Outage, Drain time.Duration
}

// CutOver says that the copy is complete, and that a Vault may be started on it. The
// source is still watched for a while. Outage is from when it was taken until the result
// was confirmed; 0 where a process that was killed behind the commit has not noted it.
type CutOver struct {
	Outage time.Duration
}

func (Followed) event()       {}
func (ReadyToCutOver) event() {}
func (Taken) event()          {}
func (GivenBack) event()      {}
func (Rehearsed) event()      {}
func (CutOver) event()        {}
func (PhaseStarted) event()   {}
func (PageRead) event()       {}
func (RunWritten) event()     {}
func (Checkpointed) event()   {}
func (WorkersChanged) event() {}
func (Resuming) event()       {}
func (Loaded) event()         {}
func (Retried) event()        {}
func (Waiting) event()        {}
func (WaitOver) event()       {}
func (ItemRefused) event()    {}
func (HiddenLeases) event()   {}
func (CountDiffers) event()   {}
func (Warning) event()        {}
