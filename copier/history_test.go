package copier

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
	"unsafe"
)

// TestHistory follows three processes of a copy: one that is killed, one that
// ends with an error, and one that tells of both.
func TestHistory(t *testing.T) {
	dir := t.TempDir()
	if got := readHistory(dir); got != nil {
		t.Errorf("there is a history of %v", got)
	}
	if err := (&journal{dir: dir, work: dir}).writeSetup(); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	process := func() (*history, *Progress) {
		p := &Progress{}
		h := &history{path: filepath.Join(dir, historyName), progress: p, processes: readHistory(dir)}
		h.begin(began, Caller{Host: "node-1"})
		p.Event(PhaseStarted{Phase: PhaseScan})
		p.Event(PageRead{Entries: 7})
		return h, p
	}

	h, p := process()
	h.sample(p.Status())
	s := p.Status()
	s.Updated = s.Updated.Add(time.Minute) // the last that it told of itself
	(&statusFile{path: filepath.Join(dir, StatusName)}).write(s)

	h, p = process()
	p.Event(PhaseStarted{Phase: PhaseLoad})
	h.end(errors.New("no more " + strings.Repeat("x", 1000)))

	h, p = process()
	p.Event(PageRead{Entries: 1})
	earlier, samples := h.now()
	if len(earlier) != 2 || len(samples) != 1 || samples[0].Entries != 8 {
		t.Fatalf("earlier %+v, samples %+v", earlier, samples)
	}
	killed, failed := earlier[0], earlier[1]
	if killed.Reason != "" || !killed.End.Equal(s.Updated) || len(killed.Samples) != 1 || killed.Samples[0].Entries != 7 || killed.Samples[0].Phase != PhaseScan {
		t.Errorf("the killed one: %+v", killed)
	}
	if killed.Host != "node-1" {
		t.Errorf("the killed one ran on %q", killed.Host)
	}
	if !strings.HasPrefix(failed.Reason, "no more x") || len(failed.Reason) > maxReason+3 {
		t.Errorf("the failed one: %q", failed.Reason)
	}
	if _, ok := failed.Phases[PhaseScan]; !ok || len(failed.Phases) != 2 || failed.Phases[PhaseLoad] < 0 {
		t.Errorf("the failed one's phases: %v", failed.Phases)
	}

	// A copy that is over leaves nothing of it, and what is torn is no history.
	if err := os.WriteFile(h.path, []byte("[{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if got := readHistory(dir); got != nil {
		t.Errorf("torn: %v", got)
	}
	if err := (&journal{dir: dir, work: dir}).clear(dir); err != nil {
		t.Fatal(err)
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
		t.Errorf("left: %v, error %v", left, err)
	}
}

// TestHistoryIsBounded runs a process for a day, and resumes often.
func TestHistoryIsBounded(t *testing.T) {
	dir := t.TempDir()
	now := time.Now()
	for range maxProcesses + 5 {
		h := &history{path: filepath.Join(dir, historyName), progress: &Progress{}, processes: readHistory(dir)}
		h.begin(now, Caller{})
		for range 50 {
			now = now.Add(time.Second)
			h.sample(Status{Updated: now})
		}
	}
	all := readHistory(dir)
	total := 0
	for _, p := range all {
		total += len(p.Samples)
	}
	if len(all) != maxProcesses || total > maxSamples {
		t.Errorf("%d processes with %d samples", len(all), total)
	}
	h := &history{path: filepath.Join(t.TempDir(), historyName), progress: &Progress{}}
	h.begin(now, Caller{})
	for s := range 24 * 3600 {
		h.sample(Status{Updated: now.Add(time.Duration(s+1) * time.Second)})
	}
	_, samples := h.now()
	if n := len(samples); n > maxSamples || n < maxSamples/2 {
		t.Errorf("%d samples", n)
	}
	var last time.Duration
	for _, s := range samples[:len(samples)-1] {
		if s.At <= last || last > 0 && s.At-last != time.Duration(h.every)*time.Second {
			t.Fatalf("samples at %s and %s, one every %d s", last, s.At, h.every)
		}
		last = s.At
	}
}

// A clock that is set back by two hours makes no time negative.
func TestHistoryOfAClockSetBack(t *testing.T) {
	start := time.Now()
	// As it was read before: the wall's seconds are in the bits from 30 on, what the
	// monotonic clock says stays.
	(*(*[2]uint64)(unsafe.Pointer(&start)))[0] += uint64(2*time.Hour/time.Second) << 30
	if d := start.Round(0).Sub(time.Now().Round(0)); d < time.Hour || time.Since(start) > time.Minute {
		t.Fatalf("the test can't set a clock: %v, %v", d, time.Since(start))
	}
	p := &Progress{}
	p.Event(PhaseStarted{Phase: PhaseScan})
	h := &history{path: filepath.Join(t.TempDir(), historyName), progress: p}
	h.begin(start, Caller{})
	h.sample(p.Status())
	_, samples := h.now()
	for _, s := range samples {
		if s.At < 0 || s.At > time.Minute {
			t.Errorf("a sample at %v", s.At)
		}
	}
	if all := readHistory(filepath.Dir(h.path)); len(all) != 1 || all[0].End.Before(all[0].Start) {
		t.Errorf("%+v", all)
	}
}
