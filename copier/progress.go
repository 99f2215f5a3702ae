package copier

import (
	"encoding/json"
	"errors"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/dyn2raft/dyn2raft/copier/durable"
)

// StatusName is the name, in a sink's work directory, of the file that says
// how far a copy is. It is JSON, see [Status].
const StatusName = "status.json"

// A Status says how far a copy is.
type Status struct {
	RunID string `json:"run_id,omitempty"`
	// Host and PID name the process that wrote the status.
	Host    string    `json:"host,omitempty"`
	PID     int       `json:"pid,omitempty"`
	Start   time.Time `json:"start"`
	Updated time.Time `json:"updated"`
	Phase   Phase     `json:"phase"`
	Source  Info      `json:"source"`
	Resumed int       `json:"resumed"`
	// SegmentsDone of Segments are read to their end, by earlier processes too.
	SegmentsDone int64 `json:"segments_done"`
	Segments     int64 `json:"segments"`
	// Entries and Bytes are what was read, by earlier processes of the run
	// too, and Loaded the entries written to the destination.
	Entries int64 `json:"entries"`
	Bytes   int64 `json:"bytes"`
	Markers int64 `json:"markers"`
	Loaded  int64 `json:"loaded"`
	// EntryRate and ByteRate are the entries and bytes a second over the last
	// ten seconds, read or, in the load phase, loaded (entries only).
	EntryRate float64 `json:"entry_rate"`
	ByteRate  float64 `json:"byte_rate"`
	// Counts are the source's own counters, of this process.
	Counts    Counts `json:"counts,omitempty"`
	Retries   int64  `json:"retries"`
	Throttles int64  `json:"throttles"`
	// Workers is how many pages are read at the same time.
	Workers int64 `json:"workers"`
	// Live is set of a copy that follows its source, once it is loaded.
	Live *LiveStatus `json:"live,omitempty"`
	// Left is the estimated time until the phase's end, 0 where nothing is
	// known. Reading is estimated by the items that the table reports, a
	// figure that may be hours old.
	Left time.Duration `json:"left_ns"`
	// Checkpoint is the time of the last checkpoint, and Saved the entries
	// that need not be read again.
	Checkpoint time.Time `json:"checkpoint,omitzero"`
	Saved      int64     `json:"saved_entries"`
	// LastError is the last thing that went wrong, at LastErrorAt. It may be fixed
	// by now.
	LastError   string    `json:"last_error,omitempty"`
	LastErrorAt time.Time `json:"last_error_at,omitzero"`
	// LastWarning is the last [Warning], at LastWarningAt.
	LastWarning   string    `json:"last_warning,omitempty"`
	LastWarningAt time.Time `json:"last_warning_at,omitzero"`
	// Ended is when the process ended, and Error its error. Both are zero of a
	// process that runs, or was killed.
	Ended time.Time `json:"ended,omitzero"`
	Error string    `json:"error,omitempty"`
}

// A LiveStatus says how far a copy is that follows its source: see [Followed].
type LiveStatus struct {
	Records int64         `json:"records"`
	Delay   time.Duration `json:"delay_ns"`
	Noted   int64         `json:"noted"`
	Pending int64         `json:"pending"`
	Applied int64         `json:"applied"`
	// Ready is set while only the word is missing to cut over, and Expected how long the
	// source will not be served then.
	Ready    bool          `json:"ready"`
	Expected time.Duration `json:"expected_ns"`
	// Waiting is set while a cut-over waits for whoever holds the source, and Holder is
	// who that is, as it says itself.
	Waiting bool   `json:"waiting,omitempty"`
	Holder  string `json:"holder,omitempty"`
	// Taken is when the source was taken, while it is: see [Taken].
	Taken     time.Time `json:"taken,omitzero"`
	Rehearsal bool      `json:"rehearsal,omitempty"`
	// Rehearsed is when a rehearsal has last passed, and Outage how long that took, or the
	// cut-over; GivenBack and Reason are when a cut-over was last not made, and why.
	Rehearsed time.Time     `json:"rehearsed,omitzero"`
	Outage    time.Duration `json:"outage_ns,omitempty"`
	GivenBack time.Time     `json:"given_back,omitzero"`
	Reason    string        `json:"reason,omitempty"`
	// CutOver is when a Vault might be started.
	CutOver time.Time `json:"cut_over,omitzero"`
}

// A Progress makes a [Status] of events. It is safe for concurrent use; the
// zero value is ready.
type Progress struct {
	mu     sync.Mutex
	status Status
	rate   [rateWindow]sample
	next   int
	took   map[Phase]time.Duration // of phases that have ended
	since  time.Time               // when the current one began
	warned []Warning
}

// mostWarnings bounds the warnings that are kept.
const mostWarnings = 1000

// rateWindow is over how many samples, taken at most once a second, a rate is
// computed.
const rateWindow = 11

type sample struct {
	at             time.Time
	entries, bytes int64
}

// Event takes an event of [Options.Events].
func (p *Progress) Event(e Event) {
	p.mu.Lock()
	defer p.mu.Unlock()
	s := &p.status
	if s.Start.IsZero() {
		s.Start = time.Now()
	}
	switch e := e.(type) {
	case PhaseStarted:
		now := time.Now()
		p.took, p.since = p.phasesAt(now), now
		s.Phase = e.Phase
		if e.Source.Name != "" {
			s.Source = e.Source
		}
		if e.Phase == PhaseScan {
			s.Segments, s.SegmentsDone = int64(e.Segments), int64(e.Done)
		}
		p.rate, p.next = [rateWindow]sample{}, 0
		p.sample(time.Now())
	case Resuming:
		s.Entries, s.Bytes, s.Saved, s.Checkpoint = e.Entries, e.Bytes, e.Entries, e.Saved
		s.Markers = e.Markers
	case PageRead:
		s.Entries += e.Entries
		s.Bytes += e.Bytes
		s.Markers += e.Markers
		s.Counts.add(e.Counts)
		if e.SegmentDone {
			s.SegmentsDone++
		}
	case Followed:
		l := s.live()
		l.Records, l.Delay, l.Noted, l.Pending, l.Applied = e.Records, e.Delay, e.Noted, e.Pending, e.Applied
		l.Ready, l.Expected = e.Ready, e.Expected
	case Waiting:
		if s.Live != nil && (e.For == WaitHeldLock || e.For == WaitExpiredLock) {
			s.Live.Waiting, s.Live.Holder = true, e.Name
		}
	case WaitOver:
		if s.Live != nil && (e.For == WaitHeldLock || e.For == WaitExpiredLock) {
			s.Live.Waiting, s.Live.Holder = false, ""
		}
	case Taken:
		l := s.live()
		l.Taken, l.Rehearsal = time.Now(), e.Rehearsal
	case Rehearsed:
		l := s.live()
		l.Taken, l.Rehearsed, l.Outage = time.Time{}, time.Now(), e.Outage
	case GivenBack:
		l := s.live()
		l.Taken, l.GivenBack, l.Reason = time.Time{}, time.Now(), e.Err.Error()
	case CutOver:
		l := s.live()
		l.Taken, l.CutOver, l.Outage = time.Time{}, time.Now(), e.Outage
	case WorkersChanged:
		s.Workers = int64(e.Workers)
	case Checkpointed:
		s.Checkpoint = e.Time
		s.Saved += e.Entries
	case Loaded:
		s.Loaded += e.Entries
	case Retried:
		if e.Throttled {
			s.Throttles++
			break
		}
		s.Retries++
		s.LastError, s.LastErrorAt = e.Err.Error(), time.Now()
	case CountDiffers:
		s.LastError, s.LastErrorAt = e.String(), time.Now()
	case Warning:
		if !slices.Contains(p.warned, e) && len(p.warned) < mostWarnings {
			p.warned = append(p.warned, e)
		}
		s.LastWarning, s.LastWarningAt = e.Message, time.Now()
	}
}

// live is the part of a copy that follows its source.
func (s *Status) live() *LiveStatus {
	if s.Live == nil {
		s.Live = new(LiveStatus)
	}
	return s.Live
}

// warnings are those that events have told of.
func (p *Progress) warnings() []Warning {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.warned)
}

// phases is how long each phase took until now.
func (p *Progress) phases(now time.Time) map[Phase]time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.phasesAt(now)
}

func (p *Progress) phasesAt(now time.Time) map[Phase]time.Duration {
	out := map[Phase]time.Duration{}
	maps.Copy(out, p.took)
	if p.status.Phase != "" {
		out[p.status.Phase] += max(now.Sub(p.since), 0)
	}
	return out
}

// identify says whose progress it is.
func (p *Progress) identify(r *Record) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.status.RunID, p.status.Resumed, p.status.PID = r.RunID, r.Resumed, os.Getpid()
	p.status.Host, _ = os.Hostname() // or nothing
}

// Status returns how far the copy is now.
func (p *Progress) Status() Status {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := time.Now()
	p.sample(now)
	s := p.status
	s.Updated, s.Counts = now, maps.Clone(s.Counts)
	if s.Live != nil {
		live := *s.Live
		s.Live = &live
	}
	first := p.rate[p.next%rateWindow] // the oldest, once the window is full
	if first.at.IsZero() {
		first = p.rate[0]
	}
	entries, bytes := p.done()
	if secs := now.Sub(first.at).Seconds(); !first.at.IsZero() && secs > 0 {
		s.EntryRate, s.ByteRate = float64(entries-first.entries)/secs, float64(bytes-first.bytes)/secs
	}
	s.Left = s.left()
	return s
}

// done is what the current phase has done. The caller holds the lock.
func (p *Progress) done() (entries, bytes int64) {
	if p.status.Phase == PhaseLoad || p.status.Phase == PhaseCheck {
		return p.status.Loaded, 0
	}
	return p.status.Entries, p.status.Bytes
}

func (p *Progress) sample(now time.Time) {
	last := p.rate[(p.next+rateWindow-1)%rateWindow]
	if p.next > 0 && now.Sub(last.at) < time.Second {
		return
	}
	entries, bytes := p.done()
	p.rate[p.next%rateWindow] = sample{now, entries, bytes}
	p.next++
}

// left estimates the time until the end of the phase.
func (s *Status) left() time.Duration {
	var left float64 // entries
	switch {
	case s.EntryRate <= 0:
		return 0
	case s.Phase == PhaseLoad:
		left = float64(s.Entries - s.Loaded)
	case s.Phase != PhaseScan:
		return 0
	case s.Source.Items > 0:
		// Of the items some are markers.
		seen := float64(s.Entries + s.Markers)
		left = max(float64(s.Source.Items)-seen, 0) * float64(s.Entries) / max(seen, 1)
	default:
		return 0 // segments tell nothing: they are split while they are read
	}
	return time.Duration(left / s.EntryRate * float64(time.Second))
}

// statusInterval is how often a running copy writes its status.
const statusInterval = time.Second

// A statusFile keeps the status of a running copy on disk, for others to read.
// It is not synced: who reads it after a crash of the machine learns of the
// copy from its checkpoints.
type statusFile struct {
	path     string
	progress *Progress
	history  *history
	stop     chan struct{}
	done     sync.WaitGroup
}

func (f *statusFile) start() {
	f.stop = make(chan struct{})
	f.done.Go(func() {
		t := time.NewTicker(statusInterval)
		defer t.Stop()
		f.write(f.progress.Status())
		for {
			select {
			case <-f.stop:
				return
			case <-t.C:
			}
			s := f.progress.Status()
			f.write(s)
			f.history.sample(s)
		}
	})
}

func (f *statusFile) write(s Status) {
	if data, err := json.Marshal(s); err == nil {
		writeUnsynced(f.path, append(data, '\n'))
	}
}

// end writes a last status, with the error that the copy ended with. It does
// nothing where start was not called.
func (f *statusFile) end(err error) {
	if f.stop == nil {
		return
	}
	close(f.stop)
	f.done.Wait()
	if err != nil {
		s := f.progress.Status()
		s.Ended, s.Error = s.Updated, err.Error()
		f.write(s)
		f.history.end(err)
	}
}

// ReadStatus returns the status and the record of the unfinished copy whose
// work directory, see [WorkDirer], is dir. Both are nil if there is none;
// the status is nil too if there was no time to write one. It changes nothing,
// and may be called while the copy runs.
func ReadStatus(dir string) (*Status, *Record, error) {
	setup, err := readSetup(dir)
	if err != nil || setup == nil {
		return nil, setup, err
	}
	data, err := durable.ReadFile(filepath.Join(dir, StatusName), maxSetup)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, durable.ErrNotFile) || errors.Is(err, durable.ErrTooLarge) {
		return nil, setup, nil
	}
	if err != nil {
		return nil, setup, &Error{Kind: ErrDestination, Op: "read status", Err: err}
	}
	var s Status
	if json.Unmarshal(data, &s) != nil {
		return nil, setup, nil // it is not synced, and may be torn when the machine has crashed
	}
	// What is safe is on record, however long before its end a process has last told
	// of itself.
	if saved, at := savedBy(dir, setup); s.Saved == 0 || !at.Before(s.Checkpoint) {
		s.Saved, s.Checkpoint = saved, at
	}
	return &s, setup, nil
}
