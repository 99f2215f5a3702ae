package command

import (
	"cmp"
	"fmt"
	"io"
	"math"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/dustin/go-humanize"
	"github.com/dustin/go-humanize/english"
	"github.com/hashicorp/go-hclog"
	"github.com/mattn/go-runewidth"
	"golang.org/x/term"

	"github.com/dyn2raft/dyn2raft/cmd/dyn2raft/figures"
	"github.com/dyn2raft/dyn2raft/cmd/dyn2raft/visible"
	"github.com/dyn2raft/dyn2raft/copier"
	"github.com/dyn2raft/dyn2raft/sources/dynamodb"
)

// A screen is standard error: everything that is not a result goes through it,
// so that log lines and the live block don't garble each other. It is safe for
// concurrent use.
type screen struct {
	out   io.Writer
	tty   *os.File // out, where it is a terminal
	live  bool     // a block can be drawn on it
	color bool

	mu    sync.Mutex
	json  hclog.Logger // set where all lines are JSON
	frame string       // the block as it was written; empty where there is none
	stop  func()       // ends what draws the block; nil where nothing does
}

// newScreen returns out as a screen. An out that is one already is returned
// itself. Of the environment it takes TERM and NO_COLOR (no-color.org).
func newScreen(out io.Writer, env func(string) (string, bool)) *screen {
	if s, ok := out.(*screen); ok {
		return s
	}
	s := &screen{out: out}
	if f, ok := out.(*os.File); ok && term.IsTerminal(int(f.Fd())) {
		kind, _ := env("TERM")
		none, _ := env("NO_COLOR")
		s.tty, s.live, s.color = f, kind != "dumb", kind != "dumb" && none == ""
	}
	return s
}

// Write writes whole lines, above the live block where there is one.
func (s *screen) Write(b []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, err := io.WriteString(s.out, s.erase()+string(visible.Lines(b))+s.frame); err != nil {
		return 0, err
	}
	return len(b), nil
}

// passStderr has what a program says that inherits os.Stderr, as the SDK's
// credential_process does, go through w, until the returned function is called.
func passStderr(w io.Writer) (stop func()) {
	s, ok := w.(*screen)
	if !ok || s.out != os.Stderr {
		return func() {}
	}
	r, in, err := os.Pipe()
	if err != nil {
		return func() {} // then it is seen as it is
	}
	was := os.Stderr
	os.Stderr = in
	done := make(chan struct{})
	go func() {
		defer close(done)
		_, _ = io.Copy(visible.Writer(inherited{s}), r)
	}()
	return func() {
		os.Stderr = was
		_ = in.Close()
		select {
		case <-done:
		case <-time.After(time.Second): // a program that runs on has the other end still
		}
	}
}

// inherited takes what a program says on standard error, which may be a question
// that no line ends.
type inherited struct{ s *screen }

func (i inherited) Write(b []byte) (int, error) {
	if log := jsonLog(i.s); log != nil {
		log.Info("a program says", "stderr", strings.TrimSpace(string(b)))
		return len(b), nil
	}
	return i.s.Write(b)
}

// logJSON makes all that says something on the screen log it.
func (s *screen) logJSON(l hclog.Logger) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.json = l
}

// jsonLog is where messages on w have to go, and nil if w takes text.
func jsonLog(w io.Writer) hclog.Logger {
	s, ok := w.(*screen)
	if !ok {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.json
}

// refresh is how often the block is drawn.
const refresh = 200 * time.Millisecond

// A row is a line of the block, with its colour or none.
type row struct{ color, text string }

// show draws a block until hide is called. rows returns its lines. It may be called
// while a block is shown, and does nothing then.
func (s *screen) show(rows func() []row) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stop != nil || !s.live {
		return
	}
	done := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		tick := time.NewTicker(refresh)
		defer tick.Stop()
		for {
			s.draw(rows)
			select {
			case <-tick.C:
			case <-done:
				return
			}
		}
	})
	s.stop = func() { close(done); wg.Wait() }
}

// hide removes the block, and leaves the cursor where it began. It reports
// whether there was one.
func (s *screen) hide() bool {
	s.mu.Lock()
	stop := s.stop
	s.stop = nil
	s.mu.Unlock()
	if stop == nil {
		return false
	}
	stop()
	s.mu.Lock()
	defer s.mu.Unlock()
	_, _ = io.WriteString(s.out, s.erase()) // a terminal that is gone takes nothing more
	s.frame = ""
	return true
}

// pause removes the live block, for a question on the terminal, until the
// returned function is called.
func (p *printer) pause() (resume func()) {
	if !p.screen.hide() {
		return func() {}
	}
	return func() { p.screen.show(p.block) }
}

const (
	eraseRow   = "\x1b[2K"
	downOne    = "\x1b[B" // stays on the last row
	saveCursor = "\x1b7"
	backToIt   = "\x1b8"
	breakNone  = "\x1b[?7l" // lines that are too long are cut
	breakLong  = "\x1b[?7h"
)

// draw replaces the block. The last column stays free, since terminals differ in
// what they do behind it, and so does a row: a block that scrolls can't be erased.
// The cursor is left where the block begins, and no line of it is broken. A
// terminal that changes its size keeps the cursor with its line, and all that is
// below is the block, however many rows its lines take by now: neither these nor
// the rows of a long line above them are counted. Only what a window that is made
// narrow pushes off the screen can't be erased.
func (s *screen) draw(rows func() []row) {
	cols, high := s.size()
	lines := cut(rows(), cols-1, high-1, s.color)

	s.mu.Lock()
	defer s.mu.Unlock()
	text := s.erase()
	s.frame = ""
	if len(lines) > 0 {
		s.frame = breakNone + strings.Join(lines, "\n") + breakLong + "\r"
	}
	if len(lines) > 1 {
		s.frame += fmt.Sprintf("\x1b[%dA", len(lines)-1)
	}
	_, _ = io.WriteString(s.out, text+s.frame) // a terminal that is gone takes nothing more
}

// cut makes lines of rows: of at most so many columns each, and so many of them.
func cut(rows []row, cols, high int, color bool) (lines []string) {
	for _, r := range rows[:min(len(rows), max(high, 0))] {
		line := runewidth.Truncate(r.text, max(cols, 1), "…")
		if color && r.color != "" {
			line = r.color + line + normal
		}
		lines = append(lines, line)
	}
	return lines
}

// erase is what removes the block from the terminal. It goes row by row: what
// tmux is told to erase from the screen's first place to its end, it puts into
// its history.
func (s *screen) erase() string {
	if s.frame == "" {
		return ""
	}
	_, high := s.size()
	return "\r" + saveCursor + strings.Repeat(eraseRow+downOne, high) + backToIt
}

// size is that of the terminal. One that knows no size is assumed to have 80
// columns and 24 rows.
func (s *screen) size() (cols, rows int) {
	cols, rows, err := term.GetSize(int(s.tty.Fd()))
	if err != nil || cols == 0 || rows == 0 {
		return 80, 24
	}
	return cols, rows
}

// up puts the cursor so many lines up, and removes what is below.
func (s *screen) up(lines int) {
	if lines > 0 {
		s.mu.Lock()
		defer s.mu.Unlock()
		_, _ = fmt.Fprintf(s.out, "\x1b[%dA\x1b[J", lines)
	}
}

// leave puts the cursor below the block, for a process that ends at once.
func (s *screen) leave() {
	if !s.mu.TryLock() {
		return // somebody is writing
	}
	defer s.mu.Unlock()
	if s.frame != "" {
		_, _ = io.WriteString(s.out, strings.Repeat(downOne, strings.Count(s.frame, "\n"))+"\r\n")
	}
}

// settle is for how long a phase runs before something is said of its end: the
// first seconds are not like the others, with few workers and cold connections. A
// copy that is resumed begins with as many workers as read before.
const settle = 5 * time.Second

// A view is what the block shows.
type view struct {
	copier.Status
	now, since time.Time // since is when the phase began
	// before are entries and bytes that an earlier process has read.
	before copier.Resuming
	wait   string // what is waited for, or empty
}

const (
	bold   = "\x1b[1m"
	yellow = "\x1b[33m"
	normal = "\x1b[0m"
)

// phases says in words what is done in a phase.
var phases = map[copier.Phase]string{
	"":                  "starting",
	copier.PhasePrepare: "checking source and destination",
	copier.PhaseLock:    "taking the source's locks",
	copier.PhaseScan:    "reading the source",
	copier.PhaseCheck:   "reading back what was written",
	copier.PhaseFollow:  "following the table",
	copier.PhaseDrain:   "waiting for the last changes",
	copier.PhaseLoad:    "writing what was read",
	copier.PhaseCommit:  "putting the result in place",
	copier.PhaseCleanUp: "it is in place: removing work files",
	watching:            "watching whether somebody still writes to the table: Vault may be started",
}

// watching is what a copy that has cut over does, and no phase of the engine's.
const watching copier.Phase = "watch"

// rows are the lines of the block.
func (v view) rows() []row {
	doing := fmt.Sprintf("%s, %s", v.doing(), v.now.Sub(v.since).Truncate(time.Second))
	if done, ok := v.done(); ok {
		doing = fmt.Sprintf("[%-25s] %3.0f%%  %s", strings.Repeat("=", int(math.Round(25*done))), 100*done, v.left())
	}
	if v.wait != "" {
		doing = v.wait
	}

	// The table counts its items, markers too: entries alone never come to that.
	label, read, of, before, rate := "entries", v.Entries, "", v.before.Entries, v.EntryRate
	bytes := figures.Size(v.Bytes) + " read"
	switch {
	case v.Phase == copier.PhaseLoad, v.Phase == copier.PhaseCheck, v.Phase == copier.PhaseCommit, v.Phase == copier.PhaseCleanUp:
		read, before, of = v.Loaded, 0, " of "+humanize.Comma(v.Entries)
	case v.Source.Items > 0:
		label, read, of, before = "items", v.seen(), " of about "+humanize.Comma(v.Source.Items), before+v.before.Markers
		rate *= float64(read) / float64(max(v.Entries, 1))
		bytes = fmt.Sprintf("%s in %s", figures.Size(v.Bytes), entries(v.Entries))
	}
	if v.Phase == copier.PhaseScan || v.Phase == "" { // the sink tells no bytes
		bytes += v.pace(v.ByteRate, v.Bytes-v.before.Bytes, func(r float64) string { return figures.Size(int64(r)) + "/s" })
	}

	requests := row{"", fmt.Sprintf("requests  %d workers, %s read units, %s throttled, %s tried again",
		v.Workers, humanize.CommafWithDigits(v.Counts[dynamodb.ReadCapacityUnits], 1), humanize.Comma(v.Throttles), humanize.Comma(v.Retries))}
	if v.Throttles > 0 {
		requests.color = yellow
	}
	segments := fmt.Sprintf("segments  %s of %s", humanize.Comma(v.SegmentsDone), humanize.Comma(v.Segments))
	if !v.Checkpoint.IsZero() {
		segments += fmt.Sprintf("; checkpoint %s ago, %s %s safe", max(v.now.Sub(v.Checkpoint), 0).Truncate(time.Second), entries(v.Saved), one(v.Saved, "is", "are"))
	}
	if !v.Start.IsZero() {
		segments += "; in " + v.now.Sub(v.Start).Truncate(time.Second).String()
	}
	if l := v.Live; l != nil && (v.Phase == copier.PhaseFollow || v.Phase == copier.PhaseDrain) {
		return append([]row{{bold, fmt.Sprintf("%-10s%s", v.Phase, doing)}}, following(l, v.now)...)
	}
	return []row{
		{bold, fmt.Sprintf("%-10s%s", cmp.Or(string(v.Phase), "start"), doing)},
		{"", fmt.Sprintf("%-10s%s%s%s", label, humanize.Comma(read), of, v.pace(rate, read-before, func(r float64) string { return perSecond(r).String() }))},
		{"", "size      " + bytes},
		requests,
		{"", segments},
	}
}

// following are the lines of a copy that follows its source.
func following(l *copier.LiveStatus, now time.Time) []row {
	state, color := "not ready: what was loaded is being caught up with and read back", yellow
	switch {
	case !l.CutOver.IsZero():
		state, color = "Vault may be started", bold
	case l.Ready:
		state, color = "ready to cut over, expected downtime "+figures.Round(l.Expected).String(), bold
	}
	rows := []row{
		{color, "state     " + state},
		{"", fmt.Sprintf("behind    %s to apply; the last hint was %s on its way", english.Plural(int(l.Pending), "key", ""), figures.Round(l.Delay))},
		{"", fmt.Sprintf("changes   %s noted, %s applied", humanize.Comma(l.Noted), humanize.Comma(l.Applied))},
	}
	if !l.Rehearsed.IsZero() {
		rows = append(rows, row{"", fmt.Sprintf("rehearsed %s ago, %s without the table", now.Sub(l.Rehearsed).Truncate(time.Second), figures.Round(l.Outage))})
	}
	if l.GivenBack.After(l.Rehearsed) {
		rows = append(rows, row{yellow, "tried     " + now.Sub(l.GivenBack).Truncate(time.Second).String() + " ago, and given back: " + visible.Text(l.Reason)})
	}
	return rows
}

// pace are the rates of a line, over the last ten seconds and since the phase began,
// once it is old enough to have one.
func (v view) pace(now float64, n int64, words func(rate float64) string) string {
	running := v.now.Sub(v.since)
	if running < time.Second {
		return ""
	}
	return fmt.Sprintf(", %s now, %s average", words(now), words(float64(n)/running.Seconds()))
}

// seen is how many of the items that the table reports were read.
func (v view) seen() int64 { return v.Entries + v.Markers }

// done is the part of the phase that is done, from 0 to 1, where that is known.
// It is 1 only when all of it is done. Segments say nothing of it: some turn out to
// be far larger than others.
func (v view) done() (part float64, ok bool) {
	switch {
	case v.Phase == copier.PhaseLoad && v.Entries > 0:
		return min(float64(v.Loaded)/float64(v.Entries), 1), true
	case v.Phase != copier.PhaseScan:
		return 0, false
	case v.allRead():
		return 1, true
	case counted(v.Status):
		return min(float64(v.seen())/float64(v.Source.Items), 0.99), true
	}
	return 0, false
}

func (v view) allRead() bool {
	return v.Phase == copier.PhaseScan && v.Segments > 0 && v.SegmentsDone == v.Segments
}

// doing says what is done in a phase, or in a part of one, that has no bar.
func (v view) doing() string {
	switch {
	case v.Phase != copier.PhaseScan:
		return phases[v.Phase]
	case v.Source.Items > 0:
		return "reading, already more than the table had when it last counted"
	default:
		return "reading, and the table does not say how much it has"
	}
}

// left says when the phase will end, or why that is not known.
func (v view) left() string {
	left := left(v.Status)
	switch {
	case v.allRead():
		return "all is read, finishing"
	case v.now.Sub(v.since) < settle && v.before.Entries == 0, v.now.Sub(v.since) < time.Second:
		return "estimating"
	case v.EntryRate <= 0:
		return "nothing for 10s"
	case left <= 0:
		return "estimating"
	}
	return "about " + roughly(left) + " left"
}

// left is the time that is left of a phase, 0 where it is not known.
func left(s copier.Status) time.Duration {
	if s.Phase == copier.PhaseScan && !counted(s) {
		return 0
	}
	return s.Left
}

// counted reports whether the table's own count of its items is of use: it may be
// hours old, and a new table has none.
func counted(s copier.Status) bool {
	return s.Source.Items > 0 && s.Entries+s.Markers <= s.Source.Items
}

// roughly is an estimated time, no more precise than it can be.
func roughly(d time.Duration) string {
	switch {
	case d >= time.Hour:
		return strings.TrimSuffix(d.Round(time.Minute).String(), "0s")
	case d >= time.Minute:
		return d.Round(5 * time.Second).String()
	default:
		return max(d.Round(time.Second), time.Second).String()
	}
}
