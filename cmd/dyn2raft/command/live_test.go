package command

import (
	"bytes"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/creack/pty"
	"github.com/mattn/go-runewidth"

	"github.com/dyn2raft/dyn2raft/copier"
	"github.com/dyn2raft/dyn2raft/sources/dynamodb"
)

func env(pairs ...string) func(string) (string, bool) {
	return func(name string) (string, bool) {
		for _, p := range pairs {
			if v, ok := strings.CutPrefix(p, name+"="); ok {
				return v, true
			}
		}
		return "", false
	}
}

// paint is what makes a terminal change its colour.
var paint = regexp.MustCompile(`\x1b\[[0-9;]*m`)

// TestLiveColor looks at when there is colour.
func TestLiveColor(t *testing.T) {
	for _, c := range []struct {
		env   []string
		live  bool
		color bool
	}{
		{[]string{"TERM=xterm"}, true, true},
		{nil, true, true},
		{[]string{"TERM=xterm", "NO_COLOR=1"}, true, false},
		{[]string{"TERM=xterm", "NO_COLOR="}, true, true}, // as no-color.org has it
		{[]string{"TERM=dumb"}, false, false},
	} {
		ptm, tty, err := pty.Open()
		if err != nil {
			t.Fatal(err)
		}
		s := newScreen(tty, env(c.env...))
		p := &printer{screen: s}
		p.tracker.Event(copier.PhaseStarted{Phase: copier.PhaseScan, Segments: 8, Source: copier.Info{Name: "table", Items: 10}})
		p.tracker.Event(copier.PageRead{Entries: 5})
		s.show(p.block)
		s.show(p.block) // does nothing
		if was := s.hide(); was != c.live || s.hide() {
			t.Errorf("%q: a block was shown: %v", c.env, was)
		}
		_ = tty.Close()
		got, _ := io.ReadAll(ptm) // fails at the end of a terminal
		_ = ptm.Close()
		if bytes.Contains(got, []byte("segments ")) != c.live || paint.Match(got) != c.color {
			t.Errorf("%q: live %v and colour %v expected of %q", c.env, c.live, c.color, got)
		}
	}
	f, err := os.Create(filepath.Join(t.TempDir(), "log"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for _, w := range []io.Writer{f, io.Discard} {
		if s := newScreen(w, env("TERM=xterm")); s.live || s.color || s.tty != nil {
			t.Errorf("%T is no terminal: %+v", w, s)
		}
	}
}

// TestRows holds every width, height and state to the terminal's.
func TestRows(t *testing.T) {
	now := time.Now()
	states := []view{
		{},
		{Status: copier.Status{Phase: copier.PhasePrepare}, since: now.Add(-time.Second)},
		{Status: copier.Status{Phase: copier.PhaseScan, Start: now.Add(-100 * time.Hour), Source: copier.Info{Items: 12_345_678_901},
			Entries: 9_876_543_210, Bytes: 1 << 50, Segments: 123_456, SegmentsDone: 123_455, Counts: copier.Counts{dynamodb.ReadCapacityUnits: 98_765_432_109.5}, Throttles: 1e9, Retries: 1e9,
			Workers: 64, Left: 99 * time.Hour, EntryRate: 1e7, ByteRate: 1e12, Checkpoint: now.Add(-time.Hour), Saved: 9_876_543_210}, since: now.Add(-time.Hour)},
		{Status: copier.Status{Phase: copier.PhaseLoad, Entries: 100, Loaded: 50, Left: time.Minute, EntryRate: 1}, since: now.Add(-time.Hour)},
		{Status: copier.Status{Phase: copier.PhaseCheck}, since: now.Add(-time.Hour), wait: "宽宽宽 for a while"},
	}
	for i, v := range states {
		v.now = now
		for width := -1; width <= 250; width++ {
			lines, colored := cut(v.rows(), width, 5, false), cut(v.rows(), width, 5, true)
			if len(lines) != 5 || len(colored) != 5 {
				t.Fatalf("state %d: %d lines", i, len(lines))
			}
			for j, line := range lines {
				if w := runewidth.StringWidth(line); w > max(width, 1) || strings.ContainsAny(line, "\n\r\x1b\t") {
					t.Fatalf("state %d at %d columns: %d in %q", i, width, w, line)
				}
				if got := paint.ReplaceAllString(colored[j], ""); got != line {
					t.Fatalf("state %d at %d columns: in colour %q, expected %q", i, width, got, line)
				}
			}
		}
		for high := -1; high < 8; high++ {
			if n := len(cut(v.rows(), 80, high, true)); n != min(max(high, 0), 5) {
				t.Errorf("state %d: %d lines of at most %d", i, n, high)
			}
		}
	}
	const want = "load      [=============            ]  50%  about 1m0s left\n" +
		"entries   50 of 100, 1/s now, 0/s average\n" +
		"size      0 B read\n" +
		"requests  0 workers, 0.0 read units, 0 throttled, 0 tried again\n" +
		"segments  0 of 0"
	load := states[3]
	load.now = now
	if got := strings.Join(cut(load.rows(), 79, 5, false), "\n"); got != want {
		t.Errorf("the block is\n%s\nexpected\n%s", got, want)
	}
}

// TestItems: of a table whose own count is right, all is read when its items
// are, and that is what the block shows.
func TestItems(t *testing.T) {
	now := time.Now()
	v := view{Status: copier.Status{Phase: copier.PhaseScan, Source: copier.Info{Items: 72_706}, Entries: 58_520, Markers: 14_186, Bytes: 48 << 20,
		EntryRate: 2926, ByteRate: 1 << 20, Segments: 64, SegmentsDone: 64}, now: now, since: now.Add(-20 * time.Second)}
	rows := v.rows()
	for i, want := range []string{
		"scan      [=========================] 100%  all is read, finishing",
		"items     72,706 of about 72,706, 3,635/s now, 3,635/s average",
		"size      48 MiB in 58,520 entries, 1.0 MiB/s now, 2.4 MiB/s average",
	} {
		if rows[i].text != want {
			t.Errorf("line %q, expected %q", rows[i].text, want)
		}
	}
	v.before = copier.Resuming{Entries: 50_000, Markers: 12_706, Bytes: 28 << 20} // these were read before
	for i, want := range map[int]string{1: " now, 500/s average", 2: " now, 1.0 MiB/s average"} {
		if got := v.rows()[i].text; !strings.HasSuffix(got, want) {
			t.Errorf("line %q, expected …%q", got, want)
		}
	}
	v.Phase, v.Loaded = copier.PhaseLoad, 1000
	if got := v.rows()[1].text; got != "entries   1,000 of 58,520, 2,926/s now, 50/s average" {
		t.Errorf("line %q", got)
	}
}

// TestLeft looks at what is said of the time that is left.
func TestLeft(t *testing.T) {
	now := time.Now()
	scan := func(after time.Duration, s copier.Status) view {
		s.Phase = copier.PhaseScan
		if s.Segments == 0 {
			s.Segments, s.SegmentsDone = 10, 5
		}
		return view{Status: s, now: now, since: now.Add(-after)}
	}
	items := copier.Info{Items: 100}
	for _, c := range []struct {
		v    view
		want string
		done float64
	}{
		{scan(time.Second, copier.Status{Left: time.Hour, EntryRate: 1, Entries: 1, Source: items}), "estimating", 0.01},
		{scan(time.Minute, copier.Status{Left: 3*time.Hour + 29*time.Second, EntryRate: 1, Source: items}), "about 3h0m left", 0},
		{scan(time.Minute, copier.Status{Left: 62 * time.Second, EntryRate: 1, Entries: 60, Markers: 15, Source: items}), "about 1m0s left", 0.75},
		{scan(time.Minute, copier.Status{Left: 12345 * time.Millisecond, EntryRate: 1, Source: items}), "about 12s left", 0},
		{scan(time.Minute, copier.Status{Left: time.Millisecond, EntryRate: 1, Entries: 100, Source: items}), "about 1s left", 0.99},
		{scan(time.Minute, copier.Status{EntryRate: 1, Source: items}), "estimating", 0},
		{scan(time.Minute, copier.Status{Entries: 50, Source: items}), "nothing for 10s", 0.5},
		{scan(time.Minute, copier.Status{Left: time.Hour, EntryRate: 1, Segments: 3, SegmentsDone: 3, Source: items}), "all is read, finishing", 1},
		{view{Status: copier.Status{Phase: copier.PhaseLoad, Entries: 4, Loaded: 1, EntryRate: 1, Left: time.Minute}, now: now, since: now.Add(-time.Minute)}, "about 1m0s left", 0.25},
	} {
		done, ok := c.v.done()
		if got := c.v.left(); got != c.want || !ok || done != c.done {
			t.Errorf("%q and %v done, expected %q and %v", got, done, c.want, c.done)
		}
	}
	// Where nobody knows there is no bar, and no estimate: segments are split
	// as they are read, and the table's own count is hours old.
	for want, v := range map[string]view{
		"reading, and the table does not say how much it has":           scan(time.Minute, copier.Status{Left: time.Minute, EntryRate: 1}),
		"reading, already more than the table had when it last counted": scan(time.Minute, copier.Status{Left: time.Minute, EntryRate: 1, Entries: 99, Markers: 2, Source: items}),
		"reading back what was written":                                 {Status: copier.Status{Phase: copier.PhaseCheck, EntryRate: 1}},
	} {
		_, ok := v.done()
		if got := v.doing(); ok || got != want || left(v.Status) != 0 {
			t.Errorf("%q, a bar %v, %s left; expected %q", got, ok, left(v.Status), want)
		}
	}
}
