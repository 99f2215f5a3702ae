package copier

import (
	"errors"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/dyn2raft/dyn2raft/copier/durable"
)

// A Sample is how far a copy was at one time.
type Sample struct {
	// At is the time since the process began.
	At      time.Duration `json:"at_ns"`
	Phase   Phase         `json:"phase"`
	Entries int64         `json:"entries"`
	Bytes   int64         `json:"bytes"`
	Loaded  int64         `json:"loaded"`
	// Counts are the source's own counters, Throttles the requests throttled, and
	// Workers the pages read at the same time.
	Counts    Counts `json:"counts,omitempty"`
	Throttles int64  `json:"throttles"`
	Workers   int64  `json:"workers"`
}

// A Process is what one process did for a copy.
type Process struct {
	// Caller is Options.Caller.
	Caller
	Start time.Time `json:"start"`
	// End is when it ended, or, where Reason is empty, when it was last heard
	// of.
	End time.Time `json:"end"`
	// Reason is the error that it ended with. It is empty of the last process of a
	// record, and where a process had no time to tell: it was killed, or the machine
	// stopped.
	Reason string `json:"reason,omitempty"`
	// Phases is how long its phases took, and Samples how it got on.
	Phases  map[Phase]time.Duration `json:"phases_ns"`
	Samples []Sample                `json:"samples"`
}

// A Caller says where a process ran, as whom, and by which command. What is not known
// is empty.
type Caller struct {
	Host    string `json:"host,omitempty"`
	User    string `json:"user,omitempty"`
	Command string `json:"command,omitempty"`
}

// Took is how long the process took.
func (p Process) Took() time.Duration { return p.End.Sub(p.Start) }

const (
	historyName = "history.json"
	// maxSamples bounds the samples of a process, and those of all earlier ones
	// together: enough for a plot.
	maxSamples = 600
	// maxProcesses bounds the processes that are told of: the last ones.
	maxProcesses = 50
	// maxReason bounds a reason, in bytes.
	maxReason = 500
)

// A history keeps, in a file beside the journal, what the processes of a copy
// did. Like the status it is not synced: nothing but a report depends on it.
type history struct {
	path     string
	progress *Progress

	mu        sync.Mutex
	start     time.Time // of this process, by the monotonic clock too
	processes []Process // the last is this one
	every     int       // of the seconds that a sample is kept for
	seconds   int
}

// readHistory reads what earlier processes did. What can't be read is left out: it
// is no reason to stop.
func readHistory(dir string) []Process {
	var all []Process
	if durable.ReadSealed(filepath.Join(dir, historyName), maxState, kindProcesses, RecordFormat, &all) != nil || len(all) == 0 {
		return nil
	}
	if last := &all[len(all)-1]; last.Reason == "" {
		// A process that was killed may have told of itself since.
		if s, _, err := ReadStatus(dir); err == nil && s != nil && s.Updated.After(last.End) {
			last.End = s.Updated.UTC()
		}
	}
	all = all[max(0, len(all)-maxProcesses):]
	for total := maxSamples + 1; total > maxSamples; {
		total = 0
		most := 0
		for i, p := range all {
			if total += len(p.Samples); len(p.Samples) > len(all[most].Samples) {
				most = i
			}
		}
		if total > maxSamples {
			all[most].Samples = thin(all[most].Samples)
		}
	}
	return all
}

// thin leaves every second sample, the last among them.
func thin(all []Sample) []Sample {
	var out []Sample
	for i := (len(all) + 1) % 2; i < len(all); i += 2 {
		out = append(out, all[i])
	}
	return out
}

// begin adds this process.
func (h *history) begin(start time.Time, caller Caller) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.start = start
	h.processes = append(h.processes, Process{Caller: caller, Start: start.UTC(), End: start.UTC()})
	h.write()
}

// sample is called every second.
func (h *history) sample(s Status) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.seconds++; h.seconds%max(h.every, 1) != 0 {
		return
	}
	p := h.take(s)
	if len(p.Samples) >= maxSamples {
		p.Samples, h.every = thin(p.Samples), 2*max(h.every, 1) // half as many, and from now on half as often
	}
	h.write()
}

// take adds a sample to this process. The caller holds the lock.
func (h *history) take(s Status) *Process {
	p := &h.processes[len(h.processes)-1]
	at := s.Updated.Sub(h.start) // however the clock is set meanwhile
	p.End, p.Phases = p.Start.Add(at), h.progress.phases(s.Updated)
	p.Samples = append(p.Samples, Sample{At: at, Phase: s.Phase, Entries: s.Entries, Bytes: s.Bytes, Loaded: s.Loaded,
		Counts: s.Counts, Throttles: s.Throttles, Workers: s.Workers})
	return p
}

// end says with which error this process ended.
func (h *history) end(err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	p := h.take(h.progress.Status())
	if p.Reason = err.Error(); len(p.Reason) > maxReason {
		p.Reason = p.Reason[:maxReason] + "…"
	}
	h.write()
}

// now returns what earlier processes did, and the samples of this one.
func (h *history) now() (earlier []Process, samples []Sample) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.start.IsZero() {
		return h.processes, nil // it has not begun
	}
	last := len(h.processes) - 1
	samples = append(samples, h.take(h.progress.Status()).Samples...)
	return h.processes[:last:last], samples
}

// write writes the file as far as that is possible. The caller holds the lock.
func (h *history) write() {
	if data, err := durable.Seal(kindProcesses, RecordFormat, h.processes); err == nil {
		writeUnsynced(h.path, data)
	}
}

// writeUnsynced writes a file whole, but not durably, as far as that is possible: a
// copy does not fail for it. Whatever has the name that is written on the way is
// not written to.
func writeUnsynced(path string, data []byte) {
	tmp := path + ".tmp"
	_ = os.Remove(tmp)
	f, err := os.OpenFile(tmp, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return
	}
	_, err = f.Write(data)
	if errors.Join(err, f.Close()) == nil {
		_ = os.Rename(tmp, path)
	}
}
