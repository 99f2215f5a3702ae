package copier

import "time"

// An Event tells what goes on while it goes on. The library prints and logs
// nothing: whoever wants to know passes a function that takes events, and
// switches on their types. Such a function is called from many goroutines at
// once and must return quickly.
type Event interface{ event() }

// PhaseStarted says that a copy entered a phase.
type PhaseStarted struct {
	Phase Phase
	// Source is set from the lock phase of a copy on.
	Source SourceInfo
	// Segments and Workers are set in the scan phase: how many segments there
	// are at first, and how many workers may read at the most.
	Segments, Workers int
}

// PageRead says that a page was read and its entries were taken over.
type PageRead struct {
	Entries, Bytes int64
	Markers        int64
	// WireBytes is the size of the response, in bytes.
	WireBytes int64
	// Units is what the page cost, in read capacity units.
	Units float64
	// SegmentDone is set on the last page of a segment.
	SegmentDone bool
	// Split counts the segments that came in addition, because the rest of
	// this one was split.
	Split int
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
	// Pending is the number of segments that are left to read.
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
	// Nothing is for how long no request has succeeded, and GiveUp when the
	// source will end the copy if that stays so. Both are zero of a request that
	// was throttled.
	Nothing time.Duration
	GiveUp  time.Time
}

// Waiting says that the copy waits on purpose, for what, and for how long.
type Waiting struct {
	For   string
	Until time.Time
}

// ItemRefused says that the source has an item that can't be copied, so that the
// copy will fail: what follows is read for the sake of naming others like it. Err
// names the item.
type ItemRefused struct {
	Err error
}

// Warning is something that a person should know and that does not stop the
// copy.
type Warning struct {
	Message string
}

func (PhaseStarted) event()   {}
func (PageRead) event()       {}
func (RunWritten) event()     {}
func (Checkpointed) event()   {}
func (WorkersChanged) event() {}
func (Resuming) event()       {}
func (Loaded) event()         {}
func (Retried) event()        {}
func (Waiting) event()        {}
func (ItemRefused) event()    {}
func (Warning) event()        {}
