package command

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/dustin/go-humanize"
	"github.com/hashicorp/go-hclog"
	"github.com/mattn/go-runewidth"
	"github.com/vbauerster/mpb/v8"
	"github.com/vbauerster/mpb/v8/decor"
	"golang.org/x/term"

	"github.com/dyn2raft/dyn2raft/cmd/dyn2raft/visible"
	"github.com/dyn2raft/dyn2raft/copier"
	"github.com/dyn2raft/dyn2raft/sources/dynamodb"
)

// The live block is drawn by mpb: it takes several lines of any content, prints
// what is written meanwhile above them, asks for the terminal's size at each
// frame, and lets us replace how it writes to the terminal, see console. Of the
// others that are kept, pb and progressbar draw bars of one line and know
// nothing of log lines, and bubbletea takes over the keyboard and the signals.

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
	block *mpb.Progress
	con   *console
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

// Write writes lines, above the live block where there is one.
func (s *screen) Write(b []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	text := visible.Lines(b)
	if s.block != nil {
		if _, err := s.block.Write(text); err == nil {
			return len(b), nil
		} // it has ended, as it does on a terminal that hung up
	}
	if _, err := s.out.Write(text); err != nil {
		return 0, err
	}
	return len(b), nil
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

// blockLines is how many lines a block has.
const blockLines = 5

// show draws a block until hide is called. rows returns its lines, of at most
// width columns each; it must not write to the screen.
func (s *screen) show(rows func(width int) [blockLines]string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.block != nil || !s.live {
		return
	}
	s.con = &console{out: s.out, size: func() (int, int, error) { return term.GetSize(int(s.tty.Fd())) }}
	s.block = mpb.New(mpb.WithConsoleWriter(s.con), mpb.WithRefreshRate(refresh))
	var frame [blockLines]string // of the rows, the first is asked for first
	var fillers []mpb.BarFiller
	for i := range blockLines {
		fillers = append(fillers, mpb.BarFillerFunc(func(w io.Writer, stat decor.Statistics) error {
			if i == 0 {
				frame = rows(stat.AvailableWidth)
				_, err := io.WriteString(w, frame[0])
				return err
			}
			_, err := io.WriteString(w, frame[i]+"\n")
			return err
		}))
	}
	_, _ = s.block.Add(0, fillers[0], mpb.BarFillerTrim(), mpb.BarBtmExtender(fillers[1:]...)) // fails only after its end
}

// hide removes the block, and leaves the cursor where it began. It may be
// called when there is none.
func (s *screen) hide() (was bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.block == nil {
		return false
	}
	s.block.Shutdown()
	s.con.end()
	s.block, s.con = nil, nil
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

// A tellingSource tells of the source when it is prepared. Copy does that
// itself, and package verify does not.
type tellingSource struct {
	*dynamodb.Source
	p *printer
}

// Prepare prepares the source.
func (s tellingSource) Prepare(ctx context.Context) (copier.SourceInfo, error) {
	s.p.event(copier.PhaseStarted{Phase: copier.PhasePrepare})
	info, err := s.Source.Prepare(ctx)
	if err == nil {
		s.p.tracker.Event(copier.PhaseStarted{Phase: copier.PhasePrepare, Source: info})
	}
	return info, err
}

// A console writes frames of a block to a terminal, for mpb. In place of mpb's
// own it leaves the cursor where the block begins, and breaks no line of it:
// a terminal that changes its size keeps the cursor with its line, and all that
// is below is the block, however many rows its lines take by now. So it does not
// matter either that a terminal in a window that is being dragged tells its size
// late, as tmux does. It erases row by row: what tmux is told to erase from the
// screen's first place to its end, it puts into its history.
// mpb calls all methods from one goroutine.
type console struct {
	out  io.Writer
	size func() (columns, rows int, err error)

	above bytes.Buffer // lines that go above the block
	rows  bytes.Buffer // the block
	high  int          // how many rows the terminal has
	drawn bool         // there is a block below the cursor
}

// maxWidth bounds the block's width on a wide terminal: a bar is no clearer for
// being longer, and the figures are to be close to each other.
const maxWidth = 110

// Write takes lines for above the block.
func (c *console) Write(b []byte) (int, error) { return c.above.Write(b) }

// ReadFrom takes lines of the block.
func (c *console) ReadFrom(r io.Reader) (int64, error) { return c.rows.ReadFrom(r) }

// IsTerminal makes mpb draw.
func (c *console) IsTerminal() bool { return true }

// GetTermSize returns what there is room for: the last column stays free, since
// terminals differ in what they do behind it, and so does a row. A terminal that
// knows no size is taken for one of 80 columns.
func (c *console) GetTermSize() (width, height int, err error) {
	cols, rows, err := c.size()
	if err != nil {
		return 0, 0, err
	}
	if cols == 0 || rows == 0 {
		cols, rows = 80, 24
	}
	c.high = rows
	return max(min(cols-1, maxWidth), 1), max(rows-1, 0), nil
}

const (
	eraseRow   = "\x1b[2K"
	downOne    = "\x1b[B" // stays on the last row
	saveCursor = "\x1b7"
	backToIt   = "\x1b8"
	breakNone  = "\x1b[?7l" // lines that are too long are cut
	breakLong  = "\x1b[?7h"
)

// Flush replaces the block by what was written since the last call. How many
// lines the block has is counted here: mpb's own count is wrong where the
// terminal has fewer rows than the block.
func (c *console) Flush(int) error {
	text := c.erase() + c.above.String()
	if block := strings.TrimSuffix(c.rows.String(), "\n"); block != "" {
		text += breakNone + block + breakLong + "\r"
		if up := strings.Count(block, "\n"); up > 0 {
			text += fmt.Sprintf("\x1b[%dA", up)
		}
		c.drawn = true
	}
	c.above.Reset()
	c.rows.Reset()
	_, err := io.WriteString(c.out, text)
	return err
}

// end removes the block and writes what is left to go above it.
func (c *console) end() {
	_, _ = io.WriteString(c.out, c.erase()+c.above.String()) // a terminal that is gone takes nothing more
}

// erase is what removes the block from the terminal.
func (c *console) erase() string {
	if !c.drawn {
		return ""
	}
	c.drawn = false
	return "\r" + saveCursor + strings.Repeat(eraseRow+downOne, c.high) + backToIt
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
	if s.block != nil {
		_, _ = io.WriteString(s.out, strings.Repeat(downOne, blockLines-1)+"\r\n")
	}
}

// settle is for how long a phase runs before something is said of its end: the
// first seconds are not like the others, with few workers and cold connections.
const settle = 5 * time.Second

// A view is what the block shows.
type view struct {
	copier.Status
	now, since time.Time // since is when the phase began
	// before are entries and bytes that an earlier process has read.
	before copier.Resuming
	color  bool
}

const (
	bold   = "\x1b[1m"
	green  = "\x1b[32m"
	yellow = "\x1b[33m"
	normal = "\x1b[0m"
)

// phases says in words what is done in those phases that have no bar.
var phases = map[copier.Phase]string{
	"":                  "starting",
	copier.PhasePrepare: "checking source and destination",
	copier.PhaseLock:    "taking the source's locks",
	copier.PhaseCheck:   "reading back what was written",
	copier.PhaseLoad:    "writing the destination aside", // of no entries
	copier.PhaseCommit:  "putting the result in place",
	copier.PhaseCleanUp: "it is in place: removing work files",
}

// rows are the lines of the block, at most width columns each.
func (v view) rows(width int) (out [blockLines]string) {
	phase := string(v.Phase)
	if phase == "" {
		phase = "start"
	}
	running := v.now.Sub(v.since).Truncate(time.Second)
	out[0] = v.fit(width, bold, fmt.Sprintf("%-9s ", phase), fmt.Sprintf("%s, %s", v.doing(), running))
	if done, ok := v.done(); ok {
		const room = 30 // for what is behind the bar
		end := fmt.Sprintf(" %3.0f%%  %s", 100*done, v.left())
		out[0] = v.fit(width, bold, fmt.Sprintf("%-9s ", phase), end)
		if bar := v.bar(width-10-room, done); bar != "" {
			out[0] = v.fit(10, bold, fmt.Sprintf("%-9s ", phase), "") + bar + v.fit(room, "", "", end)
		}
	}

	// The table counts its items, markers too: entries alone never come to that.
	label, text := "entries   ", humanize.Comma(v.Entries)
	switch {
	case v.Phase == copier.PhaseLoad, v.Phase == copier.PhaseCheck, v.Phase == copier.PhaseCommit, v.Phase == copier.PhaseCleanUp:
		text = humanize.Comma(v.Loaded) + " of " + humanize.Comma(v.Entries)
	case v.Source.Items > 0:
		label, text = "items     ", fmt.Sprintf("%s of about %s", humanize.Comma(v.seen()), humanize.Comma(v.Source.Items))
	}
	rate, average := v.rates()
	ofItems := 1.0
	if label != "entries   " {
		ofItems = float64(v.seen()) / float64(max(v.Entries, 1))
	}
	out[1] = v.fit(width, "", label, fmt.Sprintf("%-32s%s", text, v.pace(perSecond(rate.entries*ofItems).String(), perSecond(average.entries*ofItems).String())))
	read := size(v.Bytes) + " read"
	if label != "entries   " {
		read = fmt.Sprintf("%s in %s entries", size(v.Bytes), humanize.Comma(v.Entries))
	}
	out[2] = v.fit(width, "", "size      ", fmt.Sprintf("%-32s%s", read, v.pace(size(int64(rate.bytes))+"/s", size(int64(average.bytes))+"/s")))
	if v.Phase != copier.PhaseScan && v.Phase != "" {
		out[2] = v.fit(width, "", "size      ", read) // the sink tells no bytes
	}

	color := ""
	if v.Throttles > 0 {
		color = yellow
	}
	out[3] = v.fit(width, color, "requests  ", fmt.Sprintf("%d workers   %s read units   %s throttled   %s tried again",
		v.Workers, humanize.CommafWithDigits(v.Units, 1), humanize.Comma(v.Throttles), humanize.Comma(v.Retries)))

	text = fmt.Sprintf("%s of %s", humanize.Comma(v.SegmentsDone), humanize.Comma(v.Segments))
	if !v.Checkpoint.IsZero() {
		text += fmt.Sprintf("   checkpoint %s ago, %s entries are safe", max(v.now.Sub(v.Checkpoint), 0).Truncate(time.Second), humanize.Comma(v.Saved))
	}
	if !v.Start.IsZero() {
		text += "   in " + v.now.Sub(v.Start).Truncate(time.Second).String()
	}
	out[4] = v.fit(width, "", "segments  ", text)
	return out
}

// fit puts a line together, cut to width, with the label in a colour.
func (v view) fit(width int, color, label, text string) string {
	line := runewidth.Truncate(label+text, width, "…")
	if rest, ok := strings.CutPrefix(line, label); ok && v.color && color != "" {
		return color + label + normal + rest
	}
	return line
}

// pace is the two rates of a line, once the phase is old enough to have one.
func (v view) pace(now, average string) string {
	if v.now.Sub(v.since) < time.Second {
		return ""
	}
	return fmt.Sprintf("%12s now%12s average", now, average)
}

type rates struct{ entries, bytes float64 }

// rates are those over the last ten seconds, and since the phase began.
func (v view) rates() (now, average rates) {
	now = rates{v.EntryRate, v.ByteRate}
	secs := v.now.Sub(v.since).Seconds()
	if secs <= 0 {
		return now, average
	}
	if v.Phase == copier.PhaseLoad {
		return now, rates{entries: float64(v.Loaded) / secs}
	}
	return now, rates{float64(v.Entries-v.before.Entries) / secs, float64(v.Bytes-v.before.Bytes) / secs}
}

// seen is how many of the items that the table reports were read.
func (v view) seen() int64 { return v.Entries + v.Markers }

// done is the part of the phase that is done, from 0 to 1, where that is known.
// It is 1 only when all of it is done. Segments say nothing of it: those that
// turn out to be large are split as they are read, which makes more of them.
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
	case v.now.Sub(v.since) < settle:
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

// counted tells whether the table's own count of its items is of use: it may be
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

// bar is mpb's bar.
func (v view) bar(width int, done float64) string {
	if width < 10 {
		return ""
	}
	var b strings.Builder
	style := mpb.BarStyle().Padding(" ")
	if v.color {
		paint := func(s string) string { return green + s + normal }
		style = style.FillerMeta(paint).TipMeta(paint)
	}
	_ = style.Build().Fill(&b, decor.Statistics{AvailableWidth: width, Total: 1000, Current: int64(1000 * done), Completed: done >= 1}) // a builder takes all
	return b.String()
}
