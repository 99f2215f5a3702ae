package command

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"al.essio.dev/pkg/shellescape"
	"github.com/hashicorp/go-hclog"
	"github.com/mattn/go-runewidth"

	"github.com/dyn2raft/dyn2raft/copier"
	sink "github.com/dyn2raft/dyn2raft/sinks/raft"
	"github.com/dyn2raft/dyn2raft/sources/dynamodb/dynamotest"
)

// A pane is a terminal of a real tmux.
type pane struct {
	*testing.T
	socket string
}

// newPane runs a shell command in a tmux of its own.
func newPane(t *testing.T, cols, rows int, command string) *pane {
	t.Helper()
	if _, err := exec.LookPath("tmux"); err != nil {
		if os.Getenv("DYN2RAFT_REQUIRE_REAL") != "" || os.Getenv("CI") == "true" {
			t.Fatal("no tmux, and nothing may be skipped here")
		}
		t.Skip("SKIPPED: the live block in a real tmux, since there is none; apt-get install tmux")
	}
	p := &pane{t, filepath.Join(t.TempDir(), "tmux")}
	p.tmux("-f", "/dev/null", "start-server", ";", "set", "-g", "exit-empty", "off", ";", "new-session", "-d",
		"-x", fmt.Sprint(cols), "-y", fmt.Sprint(rows), "env TERM=tmux-256color "+command)
	t.Cleanup(func() { p.tmux("kill-server") }) // which hangs up
	return p
}

func (p *pane) tmux(args ...string) string {
	p.Helper()
	cmd := exec.Command("tmux", append([]string{"-S", p.socket}, args...)...)
	cmd.Env = append(os.Environ(), "TERM=xterm-256color", "LC_ALL=C.UTF-8", "TMUX=", "SHELL=/bin/sh") // some users have none
	out, err := cmd.CombinedOutput()
	if err != nil {
		p.Fatalf("tmux %q: %v: %s", args, err, out)
	}
	return strings.TrimRight(string(out), "\n")
}

// screen are the lines on the screen, down to the last that is not empty, and all
// are those too that were pushed off it.
func (p *pane) screen() []string { return p.capture() }
func (p *pane) all() []string    { return p.capture("-S", "-") }

func (p *pane) capture(args ...string) (lines []string) {
	p.Helper()
	text := p.tmux(append([]string{"capture-pane", "-p"}, args...)...)
	for line := range strings.SplitSeq(strings.TrimRight(text, " \n"), "\n") {
		lines = append(lines, strings.TrimRight(line, " "))
	}
	return lines
}

// until waits until lines are as they should be.
func (p *pane) until(when string, look func() []string, good func(lines []string) error) []string {
	p.Helper()
	for end := time.Now().Add(2 * time.Minute); ; time.Sleep(20 * time.Millisecond) {
		lines := look()
		err := good(lines)
		if err == nil {
			return lines
		}
		if time.Now().After(end) {
			p.Fatalf("%s: %v:\n%s", when, err, strings.Join(lines, "\n"))
		}
	}
}

// await waits for a line that begins so.
func (p *pane) await(text string) []string {
	p.Helper()
	return p.until("waiting", p.all, func(lines []string) error {
		if !slices.ContainsFunc(lines, func(l string) bool { return strings.HasPrefix(l, text) }) {
			return fmt.Errorf("no line %q…", text)
		}
		return nil
	})
}

// blockLabels are how the lines of a block of the phase scan begin. Where the
// table tells how many items it has, the second one counts those.
var blockLabels = []string{"scan      ", "entries   ", "size      ", "requests  ", "segments  "}

// isOfBlock reports whether a line can be one of a block.
func isOfBlock(line string) bool {
	return slices.ContainsFunc(append([]string{"load      ", "check     ", "items     "}, blockLabels...),
		func(label string) bool { return strings.HasPrefix(line, label) })
}

// cutBlock returns the lines above a block of so many lines, of which nothing
// may be left anywhere else.
func cutBlock(lines []string, cols, high int) (above []string, err error) {
	n := len(lines) - high
	if n < 0 {
		return nil, errors.New("no block")
	}
	for i, label := range blockLabels[:high] {
		if line := lines[n+i]; !strings.HasPrefix(line, label) || runewidth.StringWidth(line) >= cols {
			return nil, fmt.Errorf("line %d of the block is %q, expected %q…", i, line, label)
		}
	}
	if i := slices.IndexFunc(lines[:n], isOfBlock); i >= 0 {
		return nil, fmt.Errorf("another block is left behind: %q", lines[i])
	}
	return lines[:n], nil
}

// A drawing is a program that the test binary is, too: it draws a block that
// counts its frames, and logs lines meanwhile. Its first argument says what
// becomes of the block, the second is the terminal's width.
const drawing = "dyn2raft-test-drawing"

func draw() {
	s := newScreen(os.Stderr, os.LookupEnv)
	p := &printer{screen: s}
	scan := copier.PhaseStarted{Phase: copier.PhaseScan, Segments: 8}
	p.tracker.Event(scan)
	p.note(scan)
	rows := func() []row {
		p.tracker.Event(copier.PageRead{Entries: 1, Bytes: 1})
		return p.block()
	}
	s.show(rows)
	cols, err := strconv.Atoi(os.Args[2])
	if err != nil {
		panic(err)
	}
	w := &hclog.LoggerOptions{Output: s, DisableTime: true}
	if os.Args[1] == "beside" {
		w.Output = os.Stderr
	}
	p.log = hclog.New(w)
	lines := longLines(cols)
	if os.Args[1] == "quiet" {
		lines = nil
	}
	for i, line := range lines {
		if i%3 == 0 { // else there is one frame for several lines
			s.draw(rows)
		}
		p.log.Warn(line)
	}
	if os.Args[1] == "hide" {
		s.hide()
	}
	fmt.Fprintln(s, "all is said")
	_, _ = io.Copy(io.Discard, os.Stdin) // until the terminal hangs up
}

// longLines are lines whose lengths lie about a terminal's width and its
// multiples, with runes of two columns too, which are not cut at the last one.
func longLines(cols int) (lines []string) {
	for _, rows := range []int{1, 2, 3, 30} { // 30 are more than the terminal has
		for off := -2; off <= 2; off++ {
			n := rows*cols + off - len(logPrefix)
			lines = append(lines, strings.Repeat("0123456789", n/10+1)[:n], "x"+strings.Repeat("宽", n/2))
		}
	}
	return append(lines, "short")
}

// logPrefix is what hclog writes before a warning.
const logPrefix = "[WARN]  "

// said is how a terminal shows what the drawing logs.
func said(cols int) (rows []string) {
	for _, line := range longLines(cols) {
		at := 0
		var row strings.Builder
		for _, r := range logPrefix + line {
			w := runewidth.RuneWidth(r)
			if at+w > cols {
				rows = append(rows, row.String())
				row.Reset()
				at = 0
			}
			row.WriteRune(r)
			at += w
		}
		rows = append(rows, row.String())
	}
	return append(rows, "all is said")
}

// differ names the first line that is not as expected.
func differ(got, want []string) error {
	for i := range max(len(got), len(want)) {
		if i >= len(got) || i >= len(want) || got[i] != want[i] {
			return fmt.Errorf("of %d lines, expected %d, line %d differs: %q, expected %q", len(got), len(want), i,
				got[min(i, len(got)):min(i+1, len(got))], want[min(i, len(want)):min(i+1, len(want))])
		}
	}
	return nil
}

// TestTmuxLongLines logs lines that take several rows, or more than the terminal
// has, above a block: all of them are there, whole and in order, and one block,
// and nothing of another.
func TestTmuxLongLines(t *testing.T) {
	t.Parallel()
	for _, cols := range []int{33, 80, 131, 200} {
		t.Run(fmt.Sprint(cols), func(t *testing.T) {
			t.Parallel()
			want := said(cols)
			check := func(lines []string) error {
				above, err := cutBlock(lines, cols, len(blockLabels))
				return errors.Join(err, differ(above, want))
			}
			p := newPane(t, cols, 24, fmt.Sprint(drawing, " show ", cols))
			p.until("below what is said", p.all, check)
			p = newPane(t, cols, 24, fmt.Sprint(drawing, " hide ", cols))
			p.until("without its block", p.all, func(lines []string) error { return differ(lines, want) })
			// Lines that the screen knows nothing of do garble what is seen.
			lines := newPane(t, cols, 24, fmt.Sprint(drawing, " beside ", cols)).await("all is said")
			if check(lines) == nil {
				t.Errorf("it is not seen that lines were written into the block:\n%s", strings.Join(lines, "\n"))
			}
		})
	}
}

// TestTmuxResize: nothing that is drawn gets into the history, from the screen's
// first rows on, and a window of another size, changed once or dragged, shows one block and nothing of another.
// What tmux itself puts into the history when lines get longer than a window, it
// does of any program's lines.
func TestTmuxResize(t *testing.T) {
	t.Parallel()
	for _, cols := range []int{80, 200} {
		t.Run(fmt.Sprint(cols), func(t *testing.T) {
			t.Parallel()
			p := newPane(t, cols, 24, drawing+" quiet 80")
			check := func(when string, cols, rows int) {
				t.Helper()
				high := min(len(blockLabels), rows-1)
				history := ""
				for range 2 { // frames that are all of the new size
					var first string
					p.until(when, p.screen, func(lines []string) error {
						_, err := cutBlock(lines, cols, high)
						if err != nil {
							return err
						}
						frame := strings.Join(lines[len(lines)-high:], "\n")
						if first == "" {
							first = frame
						}
						if frame == first {
							return errors.New("no other frame")
						}
						return nil
					})
					now := p.tmux("display", "-p", "#{history_size}")
					if history != "" && now != history {
						t.Fatalf("%s: the history had %s lines, and has %s", when, history, now)
					}
					history = now
				}
			}
			check("at the begin", cols, 24)
			if n := p.tmux("display", "-p", "#{history_size}"); n != "0" {
				t.Fatalf("the history has %s lines", n)
			}
			// A higher window would show again what went into the history.
			for _, rows := range []int{8, 4, 2, 30, 24} {
				p.tmux("resize-window", "-x", fmt.Sprint(cols), "-y", fmt.Sprint(rows))
				check(fmt.Sprintf("with %d rows", rows), cols, rows)
			}
			for _, cols := range []int{50, 200, 80} {
				p.tmux("resize-window", "-x", fmt.Sprint(cols), "-y", "24")
				check(fmt.Sprintf("with %d columns", cols), cols, 24)
			}
			// Dragged: tmux tells the size late then.
			for _, cols := range []int{76, 71, 65, 58, 50, 41, 33, 40, 52, 66, 81, 97, 80, 62, 45} {
				p.tmux("resize-window", "-x", fmt.Sprint(cols), "-y", "24")
				time.Sleep(refresh / 3) // some with a frame in between; it proves nothing
			}
			check("dragged", 45, 24)
		})
	}
}

// slowTable serves a table of a demo, of which some requests fail, and returns
// the configuration of a copy into an empty directory.
func slowTable(t *testing.T, entries int, faults ...*dynamotest.Fault) (file string) {
	t.Helper()
	srv := dynamotest.NewServer(dynamotest.Options{})
	t.Cleanup(srv.Close)
	if err := srv.CreateVaultTable(dynamotest.VaultTable); err != nil {
		t.Fatal(err)
	}
	if _, err := (dynamotest.VaultShape{Entries: entries, Seed: 1}).Load(srv, dynamotest.VaultTable); err != nil {
		t.Fatal(err)
	}
	srv.SetFaults(faults...)
	dir := t.TempDir()
	file = filepath.Join(dir, "migrate.hcl")
	text := fmt.Sprintf("storage_source \"dynamodb\" {\n endpoint = %q\n access_key = \"a\"\n secret_key = \"s\"\n}\n"+
		"storage_destination \"raft\" {\n path = %q\n}\ncluster_addr = \"https://127.0.0.1:8201\"\n", srv.URL, dir)
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

// newCopy runs a copy in a pane, and says its status behind it. At the end it
// waits until nobody is at work on the data directory any more.
func newCopy(t *testing.T, cols, rows int, file, flags string) *pane {
	t.Helper()
	dir := filepath.Dir(file)
	p := newPane(t, cols, rows, "AWS_EC2_METADATA_DISABLED=true GORACE=atexit_sleep_ms=0 HOME="+shellescape.Quote(dir)+
		" sh -c "+shellescape.Quote("trap : INT; seq 30; dyn2raft copy -config "+shellescape.Quote(file)+" "+flags+"; echo status $?; read forever"))
	t.Cleanup(func() {
		p.tmux("kill-session") // which hangs up
		for end := time.Now().Add(2 * time.Minute); ; time.Sleep(20 * time.Millisecond) {
			state, err := sink.Look(dir)
			if err != nil || time.Now().After(end) {
				t.Fatalf("the copy does not end: %s, %v", state, err)
			}
			if state != sink.StateRunning {
				return
			}
		}
	})
	return p
}

// TestTmuxCopy runs a copy as a person does, in a pane that is full: with its
// question answered, failing requests in between, and a result at the end.
// Nothing of a block is left behind.
func TestTmuxCopy(t *testing.T) {
	t.Parallel()
	for _, cols := range []int{60, 80} {
		t.Run(fmt.Sprint(cols), func(t *testing.T) {
			t.Parallel()
			file := slowTable(t, 300,
				&dynamotest.Fault{Kind: dynamotest.ResetConnection, Operation: "Scan", After: 5, Count: 3},
				&dynamotest.Fault{Kind: dynamotest.Delay, Operation: "Scan", Delay: 20 * time.Millisecond, Count: 1 << 30})
			p := newCopy(t, cols, 12, file, "-max-parallel 1")
			asked := p.until("asked", p.all, func(lines []string) error {
				if !strings.HasSuffix(lines[len(lines)-1], "(yes/no)") {
					return errors.New("no question")
				}
				return nil
			})
			if slices.ContainsFunc(asked, isOfBlock) {
				t.Errorf("beside the question there is a block:\n%s", strings.Join(asked, "\n"))
			}
			p.tmux("send-keys", "yes", "Enter")
			lines := p.await("status 0")
			for i := range 30 {
				if lines[i] != strconv.Itoa(i+1) {
					t.Errorf("line %d is %q", i, lines[i])
				}
			}
			text := strings.Join(lines, "\n")
			if slices.ContainsFunc(lines, isOfBlock) || lines[len(lines)-2] != "Success! All of the keys have been migrated." ||
				!strings.Contains(text, "[WARN]  request failed, trying") {
				t.Errorf("at the end\n%s", text)
			}
		})
	}
}

// TestTmuxInterrupted presses Ctrl-C.
func TestTmuxInterrupted(t *testing.T) {
	t.Parallel()
	file := slowTable(t, 300, &dynamotest.Fault{Kind: dynamotest.Delay, Operation: "Scan", Delay: time.Hour, After: 4, Count: 1 << 30})
	p := newCopy(t, 80, 24, file, "-source-stopped")
	p.await("scan ")
	p.tmux("send-keys", "C-c")
	lines := p.await("status 130")
	for _, want := range []string{"SIGINT: stopping in order; a second signal stops at once", "error: interrupted by SIGINT"} {
		if !slices.Contains(lines, want) {
			t.Errorf("no line %q", want)
		}
	}
	if text := strings.Join(lines, "\n"); slices.ContainsFunc(lines, isOfBlock) || strings.Contains(text, "^C") || !strings.Contains(text, "\nhint: ") {
		t.Errorf("at the end\n%s", text)
	}
}
