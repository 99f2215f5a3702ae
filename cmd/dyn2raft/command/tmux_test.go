package command

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"al.essio.dev/pkg/shellescape"

	sink "github.com/dyn2raft/dyn2raft/sinks/raft"
	"github.com/dyn2raft/dyn2raft/sources/dynamodb/dynamotest"
)

// A pane is a terminal of a real tmux.
type pane struct {
	*testing.T
	socket string
}

// newPane runs a command in a tmux of its own, and at the end waits until nobody
// is at work on the data directory any more.
func newPane(t *testing.T, cols, rows int, data, command string) *pane {
	t.Helper()
	if _, err := exec.LookPath("tmux"); err != nil {
		if os.Getenv("DYN2RAFT_REQUIRE_REAL") != "" || os.Getenv("CI") == "true" {
			t.Fatal("no tmux, and nothing may be skipped here")
		}
		t.Skip("SKIPPED: the live block in a real tmux, since there is none; apt-get install tmux")
	}
	p := &pane{t, filepath.Join(t.TempDir(), "tmux")}
	p.tmux("-f", "/dev/null", "new-session", "-d", "-x", fmt.Sprint(cols), "-y", fmt.Sprint(rows), command)
	t.Cleanup(func() {
		p.tmux("kill-server") // which hangs up
		for end := time.Now().Add(20 * time.Second); ; time.Sleep(20 * time.Millisecond) {
			state, err := sink.Look(data)
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

func (p *pane) tmux(args ...string) string {
	p.Helper()
	cmd := exec.Command("tmux", append([]string{"-S", p.socket}, args...)...)
	cmd.Env = append(os.Environ(), "TERM=xterm-256color", "LC_ALL=C.UTF-8", "TMUX=")
	out, err := cmd.CombinedOutput()
	if err != nil {
		p.Fatalf("tmux %q: %v: %s", args, err, out)
	}
	return strings.TrimRight(string(out), "\n")
}

// lines are those on the screen, and with history those that were pushed off it.
func (p *pane) lines(history bool) []string {
	p.Helper()
	args := []string{"capture-pane", "-p"}
	if history {
		args = append(args, "-S", "-")
	}
	var out []string
	for line := range strings.SplitSeq(strings.TrimRight(p.tmux(args...), " \n"), "\n") {
		out = append(out, strings.TrimRight(line, " "))
	}
	return out
}

func (p *pane) await(text string) {
	p.Helper()
	for end := time.Now().Add(30 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		lines := p.lines(false)
		if slices.ContainsFunc(lines, func(l string) bool { return strings.HasPrefix(l, text) }) {
			return
		}
		if time.Now().After(end) {
			p.Fatalf("no line %q…:\n%s", text, strings.Join(lines, "\n"))
		}
	}
}

// TestTmux runs a copy in a real tmux, from the first place of the screen on:
// nothing that is drawn gets into the history, and a window of another size,
// changed once or dragged, shows one block and nothing of another. What tmux
// itself puts into the history when lines get longer than a window, it does of
// any program's lines.
func TestTmux(t *testing.T) {
	for _, cols := range []int{80, 200} {
		t.Run(fmt.Sprint(cols), func(t *testing.T) {
			t.Parallel()
			file := slowTable(t, 4000, dynamotest.Options{Latency: 100 * time.Millisecond})
			p := newPane(t, cols, 24, filepath.Dir(file), paneCopy(file, "-segments 600 -log-level error"))
			check := func(when string, cols int) {
				t.Helper()
				p.await("scan ")
				time.Sleep(3 * refresh) // a frame or two
				before := p.tmux("display", "-p", "#{history_size}")
				time.Sleep(5 * refresh)
				lines, after := p.lines(false), p.tmux("display", "-p", "#{history_size}")
				checkBlock(t, lines, cols, "scan")
				if after != before || when == "at the begin" && after != "0" {
					t.Errorf("the history had %s lines, and has %s", before, after)
				}
				if t.Failed() {
					t.Fatalf("%s:\n%s", when, strings.Join(lines, "\n"))
				}
			}
			check("at the begin", cols)
			// A higher window would show again what went into the history.
			for _, rows := range []int{8, 30, 24} {
				p.tmux("resize-window", "-x", fmt.Sprint(cols), "-y", fmt.Sprint(rows))
				check(fmt.Sprintf("with %d rows", rows), cols)
			}
			for _, cols := range []int{50, 200, 80} {
				p.tmux("resize-window", "-x", fmt.Sprint(cols), "-y", "24")
				check(fmt.Sprintf("with %d columns", cols), cols)
			}
			// Dragged: tmux tells the size late then.
			for _, cols := range []int{76, 71, 65, 58, 50, 41, 33, 40, 52, 66, 81, 97, 80, 62, 45} {
				p.tmux("resize-window", "-x", fmt.Sprint(cols), "-y", "24")
				time.Sleep(70 * time.Millisecond)
			}
			check("dragged", 45)
		})
	}
}

// paneCopy is the command line of a copy, and of a wait behind it.
func paneCopy(file, flags string) string {
	return "env TERM=tmux-256color AWS_EC2_METADATA_DISABLED=true HOME=" + shellescape.Quote(filepath.Dir(file)) +
		" dyn2raft copy -config " + shellescape.Quote(file) + " -source-stopped -max-parallel 1 " + flags + "; sleep 1000"
}

// In a pane that is full, log lines and the block's end leave nothing of it
// behind.
func TestTmuxEnd(t *testing.T) {
	t.Parallel()
	file := slowTable(t, 300, dynamotest.Options{Latency: 50 * time.Millisecond})
	p := newPane(t, 80, 12, filepath.Dir(file), "seq 30; "+paneCopy(file, ""))
	p.await("scan ")
	p.tmux("resize-window", "-x", "70", "-y", "12")
	p.await("Success! ")
	lines := p.lines(true)
	for _, l := range lines {
		if slices.Contains(append([]string{"scan      ", "load      ", itemsLabel}, blockLabels...), l[:min(len(l), 10)]) {
			t.Errorf("left behind: %q", l)
		}
	}
	if lines[0] != "1" || lines[29] != "30" || t.Failed() {
		t.Errorf("at the end\n%s", strings.Join(lines, "\n"))
	}
}
