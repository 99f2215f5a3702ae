package command

import (
	"errors"
	"os/exec"
	"strings"
	"testing"

	"github.com/creack/pty"
	"github.com/mattn/go-runewidth"
)

func TestHanging(t *testing.T) {
	const text = "nothing is cut: not `dyn2raft copy -config migrate.hcl -reset`, nor a/path/that/is/longer/than/the/line/itself größer"
	const want = "Hint  nothing is cut: not\n" +
		"      `dyn2raft copy -config migrate.hcl -reset`,\n" +
		"      nor\n" +
		"      a/path/that/is/longer/than/the/line/itself\n" +
		"      größer"
	if got := hanging("Hint  ", text, 36); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}

// What is printed for pasting does, in a shell, what it says: at any width its
// lines are one command.
func TestPasteable(t *testing.T) {
	words := []string{"printf", "'%s,'", "-config 'a  file.hcl'", "-resume", "-manifest 'x; y'", "-max-parallel 4", "-keep-source-locked"}
	const want = "-config,a  file.hcl,-resume,-manifest,x; y,-max-parallel,4,-keep-source-locked,"
	most := 0
	for columns := range 120 {
		text := pasteable("to resume:  ", words, columns)
		lines := strings.Split(text, "\n")
		most = max(most, len(lines))
		for _, l := range lines {
			if columns >= 40 && runewidth.StringWidth(l) >= columns || columns == 0 && len(lines) > 1 {
				t.Fatalf("%d columns: line %q", columns, l)
			}
		}
		out, err := exec.Command("sh", "-c", strings.TrimPrefix(text, "to resume:  ")).CombinedOutput()
		if err != nil || string(out) != want {
			t.Fatalf("%d columns: %v, %q of\n%s", columns, err, out, text)
		}
	}
	if most < 4 {
		t.Errorf("at most %d lines: nothing was broken", most)
	}
}

func TestResumableHint(t *testing.T) {
	e := &ending{error: errors.New("x"), kept: "it is kept", resume: []string{"dyn2raft", "copy", "-config migrate.hcl", "-resume", "-manifest /a/place/for/it.json", "-max-parallel 4"}, reset: []string{"dyn2raft", "copy", "-config migrate.hcl", "-reset"}}
	const want = "it is kept\n" +
		"to resume:  dyn2raft copy -config migrate.hcl -resume \\\n" +
		"              -manifest /a/place/for/it.json -max-parallel 4\n" +
		"to give up: dyn2raft copy -config migrate.hcl -reset\n" +
		"            (until then no Vault starts on the table)"
	if got := e.hint(80); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	if got := e.hint(0); strings.Count(got, "\n") != 2 {
		t.Errorf("without a terminal it is broken:\n%s", got)
	}
}

func TestOnTerminal(t *testing.T) {
	const text = "error: open a  b: it is not what a copy was to find there\n" +
		"  and so it ends at once, without anything that was written\n" +
		"hint: it belongs to root; run it as that user: sudo -u vault dyn2raft copy -config migrate.hcl\n" +
		"to resume:  dyn2raft copy -config migrate.hcl -resume \\\n" +
		"              -manifest /a/place/that/is/longer/than/a/line.json -max-parallel 4"
	const want = "error: open a  b: it is not what a\n" +
		"  copy was to find there\n" +
		"  and so it ends at once, without\n" +
		"  anything that was written\n" +
		"hint: it belongs to root; run it as\n" +
		"  that user:\n" +
		"  sudo -u vault dyn2raft copy -config migrate.hcl\n" +
		"to resume:  dyn2raft copy -config migrate.hcl -resume \\\n" +
		"              -manifest /a/place/that/is/longer/than/a/line.json -max-parallel 4"
	master, tty, err := pty.Open()
	if err != nil {
		t.Fatal(err)
	}
	defer master.Close()
	defer tty.Close()
	if err := pty.Setsize(tty, &pty.Winsize{Rows: 20, Cols: 40}); err != nil {
		t.Fatal(err)
	}
	if got := onTerminal(tty, text); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	if got := onTerminal(&strings.Builder{}, text); got != text {
		t.Errorf("without a terminal it is broken:\n%s", got)
	}
}

func TestEntries(t *testing.T) {
	for n, want := range map[int64]string{0: "0 entries, all 0 entries", 1: "1 entry, the one entry", 1234: "1,234 entries, all 1,234 entries"} {
		if got := entries(n) + ", " + allEntries(n); got != want {
			t.Errorf("%d: %q", n, got)
		}
	}
}
