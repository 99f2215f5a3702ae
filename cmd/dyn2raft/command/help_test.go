package command

import (
	"bytes"
	"context"
	"os"
	"strings"
	"testing"

	"github.com/creack/pty"
	"github.com/mattn/go-runewidth"
	"github.com/urfave/cli/v3"
)

// helpOf is what the help of a command, or of errors, writes to a file.
func helpOf(t *testing.T, out *os.File, name string) {
	t.Helper()
	if err := root(Streams{Out: out}).Run(context.Background(), append([]string{"dyn2raft", "help"}, strings.Fields(name)...)); err != nil {
		t.Fatal(err)
	}
}

// No help is wider than the terminal, or than 80 columns where there is none.
func TestHelpWidth(t *testing.T) {
	names := []string{"errors", "errors not-stopped disk-full vault-runs"}
	for _, c := range root(Streams{}).VisibleCommands() {
		names = append(names, c.Name)
	}
	for _, name := range names {
		for _, cols := range []int{0, 80, 100, 250} {
			var text []byte
			if cols == 0 {
				file := t.TempDir() + "/help"
				out, err := os.Create(file)
				if err != nil {
					t.Fatal(err)
				}
				helpOf(t, out, name)
				text, err = os.ReadFile(file)
				if err != nil || out.Close() != nil {
					t.Fatal(err)
				}
			} else {
				master, tty, err := pty.Open()
				if err != nil {
					t.Fatal(err)
				}
				if err := pty.Setsize(tty, &pty.Winsize{Rows: 24, Cols: uint16(cols)}); err != nil {
					t.Fatal(err)
				}
				read := make(chan []byte)
				go func() {
					var b bytes.Buffer
					_, _ = b.ReadFrom(master) // fails at the end of a terminal
					read <- b.Bytes()
				}()
				helpOf(t, tty, name)
				_ = tty.Close()
				text = <-read
				_ = master.Close()
			}
			most, lines := 0, 0
			for line := range strings.Lines(string(text)) {
				lines++
				most = max(most, runewidth.StringWidth(strings.TrimRight(line, "\r\n")))
			}
			if want := map[int]int{0: 80, 80: 80, 100: 100, 250: 100}[cols]; most > want || most < 30 || lines < 5 {
				t.Errorf("%s at %d columns: %d lines of up to %d", name, cols, lines, most)
			}
		}
	}
}

// Each command has two examples, of flags that it has.
func TestExamples(t *testing.T) {
	r := root(Streams{})
	for _, c := range r.VisibleCommands() {
		found := helps[c.Name].Examples
		if len(found) < 2 && c.Name != "version" {
			t.Errorf("%s has %d examples", c.Name, len(found))
		}
		for _, e := range found {
			var ran bool
			c.Action = func(_ context.Context, cmd *cli.Command) error {
				ran = true
				return nil
			}
			args := strings.Fields(e.Line)
			if args[1] != c.Name || e.What == "" {
				t.Errorf("%s: %q, %q", c.Name, e.Line, e.What)
			}
			if err := r.Run(t.Context(), args); err != nil || !ran {
				t.Errorf("%s: %v, ran %v", e.Line, err, ran)
			}
		}
	}
	for _, name := range advancedFlags {
		known := 0
		for _, c := range r.Commands {
			if hasFlag(c, name) {
				known++
			}
		}
		if known == 0 {
			t.Errorf("no command has a flag -%s", name)
		}
	}
}
