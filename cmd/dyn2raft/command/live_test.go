package command

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/acarl005/stripansi"
	"github.com/creack/pty"
	"github.com/hashicorp/go-hclog"
	"github.com/hinshun/vt10x"
	"github.com/mattn/go-runewidth"

	"github.com/dyn2raft/dyn2raft/copier"
	"github.com/dyn2raft/dyn2raft/sources/dynamodb/dynamotest"
)

// A monitor is a terminal: what was written to it, and what is seen on it.
type monitor struct {
	tty *os.File // the program's end
	ptm *os.File
	mu  sync.Mutex
	raw strings.Builder
	vt  vt10x.Terminal
	end chan struct{}
}

// newMonitor has so many rows that nothing scrolls away.
func newMonitor(t *testing.T, cols int) *monitor {
	t.Helper()
	const rows = 400
	ptm, tty, err := pty.Open()
	if err != nil {
		t.Fatal(err)
	}
	m := &monitor{tty: tty, ptm: ptm, vt: vt10x.New(vt10x.WithSize(cols, rows)), end: make(chan struct{})}
	m.resize(t, cols, rows)
	go func() {
		defer close(m.end)
		buf := make([]byte, 4096)
		for {
			n, err := ptm.Read(buf)
			m.mu.Lock()
			m.raw.Write(buf[:n])
			_, _ = m.vt.Write(buf[:n])
			m.mu.Unlock()
			if err != nil {
				return // all ends of the program's side are closed
			}
		}
	}()
	t.Cleanup(func() { m.close() })
	return m
}

func (m *monitor) resize(t *testing.T, cols, rows int) {
	t.Helper()
	if err := pty.Setsize(m.ptm, &pty.Winsize{Cols: uint16(cols), Rows: uint16(rows)}); err != nil {
		t.Fatal(err)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.vt.Resize(cols, rows)
}

// close waits until all that was written is on the screen.
func (m *monitor) close() {
	_ = m.tty.Close()
	<-m.end
	_ = m.ptm.Close()
}

// lines are those on the screen, down to the last that is not empty.
func (m *monitor) lines() []string {
	m.mu.Lock()
	defer m.mu.Unlock()
	var out []string
	for line := range strings.SplitSeq(strings.TrimRight(m.vt.String(), " \n"), "\n") {
		out = append(out, strings.TrimRight(line, " "))
	}
	return out
}

// await waits until the screen has a match.
func (m *monitor) await(t *testing.T, pattern string) []string {
	t.Helper()
	re := regexp.MustCompile("(?m)" + pattern)
	for end := time.Now().Add(30 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		lines := m.lines()
		if re.MatchString(strings.Join(lines, "\n")) {
			return lines
		}
		if time.Now().After(end) {
			t.Fatalf("no %q on the screen:\n%s", pattern, strings.Join(lines, "\n"))
		}
	}
}

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

// wrapped is how a terminal shows lines.
func wrapped(cols int, lines ...string) (out []string) {
	for _, l := range lines {
		for len(l) > cols {
			out, l = append(out, strings.TrimRight(l[:cols], " ")), l[cols:]
		}
		out = append(out, l)
	}
	return out
}

// blockLabels are how the block's lines behind the first begin. Where the table
// tells how many items it has, the second one counts those.
var (
	blockLabels = []string{"entries   ", "size      ", "requests  ", "segments  "}
	itemsLabel  = "items     "
)

// checkBlock looks for one block, whole, at the end of a screen.
func checkBlock(t *testing.T, lines []string, cols int, phase string) {
	t.Helper()
	n := len(lines) - blockLines
	if n < 0 {
		t.Fatalf("no block in\n%s", strings.Join(lines, "\n"))
	}
	for i, label := range append([]string{fmt.Sprintf("%-10s", phase)}, blockLabels...) {
		if strings.HasPrefix(lines[n+1], itemsLabel) && i == 1 {
			label = itemsLabel
		}
		if line := lines[n+i]; !strings.HasPrefix(line, label) || runewidth.StringWidth(line) >= cols {
			t.Errorf("line %d of the block is %q, expected %q…", i, line, label)
		}
		for _, line := range lines[:n] {
			if strings.HasPrefix(line, label) {
				t.Errorf("another block is left behind:\n%s", strings.Join(lines, "\n"))
			}
		}
	}
}

// TestLive draws on a terminal while much is logged, and looks at it.
func TestLive(t *testing.T) {
	for _, cols := range []int{80, 200, 40} {
		t.Run(fmt.Sprint(cols), func(t *testing.T) {
			t.Parallel()
			m := newMonitor(t, cols)
			s := newScreen(m.tty, env("TERM=xterm-256color"))
			p := &printer{screen: s, log: hclog.New(&hclog.LoggerOptions{Output: s, DisableTime: true})}
			s.show(p.block)
			s.show(p.block) // does nothing
			checkBlock(t, m.await(t, "^segments"), cols, "start")
			var want []string
			for i := range 30 {
				p.event(copier.PageRead{Entries: 12345, Bytes: 1 << 20, Units: 128.5})
				message := fmt.Sprintf("%d: %s", i, strings.Repeat("message ", i%9*3))
				p.log.Warn(message)
				want = append(want, "[WARN]  "+message)
				if i == 10 {
					p.tracker.Event(copier.PhaseStarted{Phase: copier.PhaseScan, Segments: 8})
				}
				if i%8 == 0 {
					time.Sleep(refresh + 50*time.Millisecond)
				}
			}
			for i := range want {
				want[i] = strings.TrimRight(want[i], " ")
			}
			lines := m.await(t, "^scan ")
			checkBlock(t, lines, cols, "scan")
			if !s.hide() || s.hide() {
				t.Error("it is not known whether there was a block")
			}
			fmt.Fprintln(s, "error: the end")
			m.close()
			if strings.Contains(m.raw.String(), "\x1b[J") {
				t.Error("it erases to the screen's end, which fills tmux's history")
			}
			var expected []string
			for _, l := range want {
				expected = append(expected, wrapped(cols, l)...)
			}
			if got := m.lines(); !slices.Equal(got, append(expected, "error: the end")) {
				t.Errorf("the screen at the end\n%s\nexpected\n%s", strings.Join(got, "\n"), strings.Join(expected, "\n"))
			}
		})
	}
}

// TestLiveResize makes a terminal that does not reflow narrower and wider, and
// types on it. TestTmux is about one that does.
func TestLiveResize(t *testing.T) {
	t.Parallel()
	m := newMonitor(t, 200)
	s := newScreen(m.tty, env("TERM=xterm"))
	p := &printer{screen: s}
	s.show(p.block)
	defer s.hide()
	p.tracker.Event(copier.PhaseStarted{Phase: copier.PhaseScan, Segments: 8})
	for _, cols := range []int{200, 60, 100, 80, 81} {
		m.resize(t, cols, 400)
		if _, err := io.WriteString(m.ptm, "xy"); err != nil { // which the terminal shows
			t.Fatal(err)
		}
		time.Sleep(3 * refresh)
		fmt.Fprintf(s, "%d columns\n", cols)
		checkBlock(t, m.await(t, fmt.Sprintf(`^%d columns\n(.*\n){4}segments.*$`, cols)), cols, "scan")
	}
}

// TestLiveSmall has a terminal with fewer rows than the block.
func TestLiveSmall(t *testing.T) {
	t.Parallel()
	m := newMonitor(t, 80)
	m.resize(t, 80, 4)
	s := newScreen(m.tty, env("TERM=xterm"))
	p := &printer{screen: s}
	s.show(p.block)
	for i := range 4 {
		time.Sleep(2 * refresh)
		p.tracker.Event(copier.PageRead{Split: i + 1})
	}
	lines := m.await(t, "^segments  0 of 10")
	if len(lines) != 3 || !strings.HasPrefix(lines[0], "size ") || !strings.HasPrefix(lines[1], "requests ") {
		t.Errorf("on the screen\n%s", strings.Join(lines, "\n"))
	}
	m.mu.Lock()
	scrolled := strings.Count(m.raw.String(), "\n") - strings.Count(m.raw.String(), "\x1b[2A")*2
	m.mu.Unlock()
	if scrolled != 0 {
		t.Errorf("%d rows more were written than taken back: what scrolls away is never erased", scrolled)
	}
	s.hide()
}

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
		m := newMonitor(t, 80)
		s := newScreen(m.tty, env(c.env...))
		p := &printer{screen: s}
		p.tracker.Event(copier.PhaseStarted{Phase: copier.PhaseScan, Segments: 8, Source: copier.SourceInfo{Name: "table", Items: 10}})
		p.tracker.Event(copier.PageRead{Entries: 5})
		s.show(p.block)
		if c.live {
			m.await(t, "^segments")
		}
		s.hide()
		m.close()
		if got := m.raw.String(); (got != "") != c.live || regexp.MustCompile(`\x1b\[[0-9;]*m`).MatchString(got) != c.color {
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

// TestErase looks at what is written: the cursor goes back to where the block
// begins, and rows are erased one by one. What tmux is told to erase to the
// screen's end goes into its history.
func TestErase(t *testing.T) {
	var out strings.Builder
	con := &console{out: &out, size: func() (int, int, error) { return 80, 3, nil }}
	if _, _, err := con.GetTermSize(); err != nil {
		t.Fatal(err)
	}
	const gone = "\r\x1b7\x1b[2K\x1b[B\x1b[2K\x1b[B\x1b[2K\x1b[B\x1b8"
	for _, c := range []struct{ above, rows, want string }{
		{"", "", ""},
		{"log\n", "a\nb\n", "log\n\x1b[?7la\nb\x1b[?7h\r\x1b[1A"},
		{"", "a\n", gone + "\x1b[?7la\x1b[?7h\r"},
		{"log\n", "", gone + "log\n"},
		{"", "", ""},
	} {
		out.Reset()
		_, _ = io.WriteString(con, c.above)
		_, _ = con.ReadFrom(strings.NewReader(c.rows))
		if err := con.Flush(0); err != nil || out.String() != c.want {
			t.Errorf("above %q, rows %q: %q, expected %q (%v)", c.above, c.rows, out.String(), c.want, err)
		}
	}
}

// TestRows holds every width and every state to the width.
func TestRows(t *testing.T) {
	now := time.Now()
	states := []view{
		{},
		{Status: copier.Status{Phase: copier.PhasePrepare}, since: now.Add(-time.Second)},
		{Status: copier.Status{Phase: copier.PhaseScan, Start: now.Add(-100 * time.Hour), Source: copier.SourceInfo{Items: 12_345_678_901},
			Entries: 9_876_543_210, Bytes: 1 << 50, Segments: 123_456, SegmentsDone: 123_455, Units: 98_765_432_109.5, Throttles: 1e9, Retries: 1e9,
			Workers: 64, Left: 99 * time.Hour, EntryRate: 1e7, ByteRate: 1e12, Checkpoint: now.Add(-time.Hour), Saved: 9_876_543_210}, since: now.Add(-time.Hour)},
		{Status: copier.Status{Phase: copier.PhaseLoad, Entries: 100, Loaded: 50, Left: time.Minute, EntryRate: 1}, since: now.Add(-time.Hour)},
		{Status: copier.Status{Phase: copier.PhaseCheck}, since: now.Add(-time.Hour)},
	}
	for i, v := range states {
		v.now = now
		for width := 1; width <= 250; width++ {
			plain := v
			plain.color = true
			colored := plain.rows(width)
			for j, row := range v.rows(width) {
				if w := runewidth.StringWidth(row); w > width || strings.ContainsAny(row, "\n\r\x1b\t") {
					t.Fatalf("state %d at %d columns: %d in %q", i, width, w, row)
				}
				if got := stripansi.Strip(colored[j]); got != row {
					t.Fatalf("state %d at %d columns: in colour %q, expected %q", i, width, got, row)
				}
			}
		}
		if w := 79; i == 3 {
			got := strings.Join(slices.Collect(func(yield func(string) bool) {
				for _, r := range v.rows(w) {
					yield(r)
				}
			}), "\n")
			const want = "load      [==================>                  ]  50%  about 1m0s left\n" +
				"entries   50 of 100                                1/s now         0/s average\n" +
				"size      0 B read\n" +
				"requests  0 workers   0.0 read units   0 throttled   0 tried again\n" +
				"segments  0 of 0"
			if got != want {
				t.Errorf("the block is\n%s\nexpected\n%s", got, want)
			}
		}
	}
}

// TestItems: of a table whose own count is right, all is read when its items
// are, and that is what the block shows.
func TestItems(t *testing.T) {
	now := time.Now()
	v := view{Status: copier.Status{Phase: copier.PhaseScan, Source: copier.SourceInfo{Items: 72_706}, Entries: 58_520, Markers: 14_186, Bytes: 48 << 20,
		EntryRate: 2926, ByteRate: 1 << 20, Segments: 64, SegmentsDone: 64}, now: now, since: now.Add(-20 * time.Second)}
	rows := v.rows(79)
	for i, want := range []string{
		"scan      [====================================] 100%  all is read, finishing",
		"items     72,706 of about 72,706               3,635/s now     3,635/s average",
		"size      48 MiB in 58,520 entries           1.0 MiB/s now   2.4 MiB/s average",
	} {
		if got := strings.TrimRight(rows[i], " "); i != 0 && got != want || i == 0 && !strings.HasSuffix(got, "] 100%  all is read, finishing") {
			t.Errorf("line %q, expected %q", got, want)
		}
	}
	v.Phase, v.Loaded = copier.PhaseLoad, 1000
	if rows := v.rows(79); !strings.HasPrefix(rows[1], "entries   1,000 of 58,520 ") {
		t.Errorf("line %q", rows[1])
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
	items := copier.SourceInfo{Items: 100}
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

// slowTable serves a table of a demo, of which some requests fail, and returns
// the configuration of a copy into an empty directory.
func slowTable(t *testing.T, entries int, opts dynamotest.Options) (file string) {
	t.Helper()
	srv := dynamotest.NewServer(opts)
	t.Cleanup(srv.Close)
	if err := srv.CreateVaultTable(dynamotest.VaultTable); err != nil {
		t.Fatal(err)
	}
	if _, err := (dynamotest.VaultShape{Entries: entries, Seed: 1}).Load(srv, dynamotest.VaultTable); err != nil {
		t.Fatal(err)
	}
	srv.SetFaults(&dynamotest.Fault{Kind: dynamotest.ResetConnection, Operation: "Scan", After: 5, Count: 3})
	dir := t.TempDir()
	file = filepath.Join(dir, "migrate.hcl")
	text := fmt.Sprintf("storage_source \"dynamodb\" {\n endpoint = %q\n access_key = \"a\"\n secret_key = \"s\"\n}\n"+
		"storage_destination \"raft\" {\n path = %q\n}\ncluster_addr = \"https://127.0.0.1:8201\"\n", srv.URL, dir)
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

// onTerminal runs dyn2raft on a terminal of its own, with a table of a demo.
func onTerminal(t *testing.T, m *monitor, entries int, opts dynamotest.Options, args ...string) *exec.Cmd {
	t.Helper()
	file := slowTable(t, entries, opts)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	t.Cleanup(cancel)
	cmd := exec.CommandContext(ctx, "dyn2raft", append([]string{"copy", "-config", file}, args...)...)
	cmd.Env = []string{"HOME=" + filepath.Dir(file), "AWS_EC2_METADATA_DISABLED=true", "GORACE=atexit_sleep_ms=0", "TERM=xterm"}
	cmd.Stdin, cmd.Stdout, cmd.Stderr = m.tty, m.tty, m.tty
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true} // its standard input is
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	return cmd
}

// TestLiveCopy runs a copy as a person does: on a terminal, with its question
// answered, failing requests in between, and a result at the end.
func TestLiveCopy(t *testing.T) {
	t.Parallel()
	const cols = 80
	m := newMonitor(t, cols)
	cmd := onTerminal(t, m, 400, dynamotest.Options{Latency: 20 * time.Millisecond}, "-max-parallel", "1")
	lines := m.await(t, `\(yes/no\)$`)
	time.Sleep(2 * refresh) // the block stays away
	if now := m.lines(); !slices.Equal(now, lines) || slices.ContainsFunc(now, func(l string) bool { return strings.HasPrefix(l, "requests ") }) {
		t.Errorf("beside the question there is a block:\n%s", strings.Join(now, "\n"))
	}
	if _, err := io.WriteString(m.ptm, "yes\n"); err != nil {
		t.Fatal(err)
	}
	checkBlock(t, m.await(t, "^scan "), cols, "scan")
	if err := cmd.Wait(); err != nil {
		t.Error(err)
	}
	m.close()
	lines = m.lines()
	text := strings.Join(lines, "\n")
	if strings.Contains(text, "requests  ") || lines[len(lines)-1] != "Success! All of the keys have been migrated." {
		t.Errorf("at the end\n%s", text)
	}
	if n := strings.Count(text, "[WARN]  request failed, trying again"); n != 1 { // of 3 within 30 s
		t.Errorf("%d warnings, expected 1:\n%s", n, text)
	}
	// All that is on the screen is lines that begin as lines do, and what was
	// too long for one.
	begin := regexp.MustCompile(`^(20\d\d-\S+Z? \[|Nothing tells|A Vault that|Copied  |From  |To  |Time  |Rate  |Read  |Limit  |Skipped  |Proof  |Manifest  |Warnings  | {10}\S|Success!)`)
	for i, l := range lines {
		if !begin.MatchString(l) && (i == 0 || len(lines[i-1]) < cols-1) {
			t.Errorf("line %q follows %q", l, lines[max(i-1, 0)])
		}
	}
}

// TestLiveInterrupted presses Ctrl-C.
func TestLiveInterrupted(t *testing.T) {
	t.Parallel()
	m := newMonitor(t, 80)
	cmd := onTerminal(t, m, 400, dynamotest.Options{Latency: 100 * time.Millisecond}, "-max-parallel", "1", "-source-stopped")
	m.await(t, "^scan ")
	if _, err := m.ptm.Write([]byte{3}); err != nil {
		t.Fatal(err)
	}
	err := cmd.Wait()
	if exit, ok := errors.AsType[*exec.ExitError](err); !ok || exit.ExitCode() != 130 {
		t.Errorf("%v, expected status 130", err)
	}
	m.close()
	lines := m.lines()
	for _, want := range []string{"SIGINT: stopping in order; a second signal stops at once", "error: interrupted by SIGINT"} {
		if !slices.Contains(lines, want) {
			t.Errorf("no line %q", want)
		}
	}
	if text := strings.Join(lines, "\n"); strings.Contains(text, "requests  ") || strings.Contains(text, "^C") || !strings.Contains(text, "\nhint: ") {
		t.Errorf("at the end\n%s", text)
	}
}
