package command

import (
	"errors"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strings"

	"github.com/mattn/go-runewidth"
	"golang.org/x/term"
)

// columns is the width of standard output: the terminal's, else that of the
// usual page.
func (p *printer) columns() int {
	if w := terminalWidth(p.stdout); w > 0 {
		return max(w, 60)
	}
	return 80
}

// terminalWidth is the width of the terminal that w writes to, and 0 where that
// is none or does not know.
func terminalWidth(w io.Writer) int {
	switch inner := w.(type) {
	case *screen:
		w = inner.out
	case *lineCounter:
		w = inner.Writer
	}
	if f, ok := w.(interface{ Fd() uintptr }); ok {
		if cols, _, err := term.GetSize(int(f.Fd())); err == nil {
			return cols
		}
	}
	return 0
}

// mostName is how wide a column with names is at the most: a server's name, or an
// operation's, may be a long one.
const mostName = 24

// A summary lines up names and what is said of them, in lines of the terminal's
// width.
type summary struct {
	p    *printer
	rows [][2]string
}

func (p *printer) summary() *summary { return &summary{p: p} }

func (s *summary) row(name, format string, a ...any) {
	s.rows = append(s.rows, [2]string{name, fmt.Sprintf(format, a...)})
}

// known is a row, unless there is nothing to say.
func (s *summary) known(name, text string) {
	if text != "" {
		s.row(name, "%s", text)
	}
}

func (s *summary) flush() error {
	names := 0
	for _, r := range s.rows {
		names = max(names, min(len(r[0]), mostName))
	}
	var errs []error
	for _, r := range s.rows {
		errs = append(errs, s.p.line(hanging(fmt.Sprintf("%-*s  ", names, r[0]), r[1], s.p.columns())))
	}
	return errors.Join(errs...)
}

// words are what a text is broken between: a command in backquotes stays whole,
// so that it can be copied.
var words = regexp.MustCompile("(?:`[^`]*`|[^ \n])+")

// hanging is a text in lines of at most so many columns, those behind the first
// indented as far as head is long. A word is never cut: it may be a command.
func hanging(head, text string, columns int) string {
	var gaps, all []string
	end := 0
	for _, found := range words.FindAllStringIndex(text, -1) {
		gaps, all = append(gaps, strings.ReplaceAll(text[end:found[0]], "\n", " ")), append(all, text[found[0]:found[1]])
		end = found[1]
	}
	return strings.TrimRight(fold(head, gaps, all, max(columns, len(head)+20), "\n"+strings.Repeat(" ", len(head))), " ")
}

// fold writes words, with the gaps before them, behind a head. Where a line would have
// more than so many columns it has a line break, and what is around that, for a gap.
func fold(head string, gaps, words []string, columns int, lineBreak string) string {
	var b strings.Builder
	b.WriteString(head)
	at := len(head)
	for i, word := range words {
		n := runewidth.StringWidth(word)
		switch {
		case i == 0:
		case at+len(gaps[i])+n > columns:
			b.WriteString(lineBreak)
			_, indent, _ := strings.Cut(lineBreak, "\n")
			at = len(indent)
		default:
			b.WriteString(gaps[i])
			at += len(gaps[i])
		}
		b.WriteString(word)
		at += n
	}
	return b.String()
}

// ownLine is a command at the end of a text, which stays whole, so that it can be
// copied.
var ownLine = regexp.MustCompile(`: +((?:sudo|dyn2raft|chmod|chown|mkdir|mount|iconv|tail|aws|eval|vault) .*)$`)

// onTerminal is a text in lines of w's width, if w is a terminal: what is behind the
// first of a line is indented by 2. Lines that a shell joins stay as they are.
func onTerminal(w io.Writer, text string) string {
	columns := terminalWidth(w)
	if columns == 0 {
		return text
	}
	lines := strings.Split(text, "\n")
	for i, line := range lines {
		if runewidth.StringWidth(line) < columns || strings.HasSuffix(line, `\`) || i > 0 && strings.HasSuffix(lines[i-1], `\`) {
			continue
		}
		command := ""
		if at := ownLine.FindStringSubmatchIndex(line); at != nil && !strings.HasPrefix(line, "error: ") {
			line, command = line[:at[0]+1], "\n  "+line[at[2]:]
		}
		lead := line[:len(line)-len(strings.TrimLeft(line, " "))]
		lines[i] = lead + strings.TrimPrefix(hanging("  ", line, columns-1), "  ") + command
	}
	return strings.Join(lines, "\n")
}

// text writes a text for people, in lines of the terminal's width.
func (p *printer) text(s string) error { return p.line(onTerminal(p.stdout, s)) }

// pasteable is a command in lines of at most so many columns, as far as its
// words allow: each line but the last ends as a shell wants it. No columns are
// as many as it takes.
func pasteable(head string, words []string, columns int) string {
	if columns == 0 {
		return head + strings.Join(words, " ")
	}
	// 3 are for the backslash, and the last column
	return fold(head, slices.Repeat([]string{" "}, len(words)), words, columns-3, " \\\n"+strings.Repeat(" ", len(head)+2))
}
