// Package visible makes text harmless for a terminal: what a table, a service or
// a file has a part in may hold characters that move the cursor, set a title, or
// turn the direction of what follows.
//
// They are escaped as JSON does it, so that JSON stays the same JSON.
package visible

import (
	"bytes"
	"fmt"
	"io"
	"strings"
	"sync"
	"unicode"
	"unicode/utf16"
	"unicode/utf8"
)

// Text is s with escapes for all that can't be seen, line breaks and tabs too,
// and for bytes that are no UTF-8. It is for names within a line or a table.
func Text(s string) string { return escape(s, hidden) }

// Writer returns a writer that passes text on to w, with escapes for all that
// can't be seen but line breaks and tabs. It is safe for concurrent use, and has a
// method Fd if w has one. A character that was begun at the end of a Write is
// passed on with its rest.
func Writer(w io.Writer) io.Writer {
	if f, ok := w.(interface{ Fd() uintptr }); ok {
		return &fileWriter{writer{w: w}, f.Fd}
	}
	return &writer{w: w}
}

type writer struct {
	w io.Writer

	mu    sync.Mutex
	begun []byte // the first bytes of a character
}

// Write implements [io.Writer].
func (w *writer) Write(b []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	text := append(w.begun, b...)
	whole := len(text)
	for i := 1; i < utf8.UTFMax && i <= len(text); i++ {
		if at := len(text) - i; utf8.RuneStart(text[at]) {
			if !utf8.FullRune(text[at:]) {
				whole = at
			}
			break
		}
	}
	w.begun = append([]byte(nil), text[whole:]...)
	if _, err := w.w.Write(Lines(text[:whole])); err != nil {
		return 0, err
	}
	return len(b), nil
}

type fileWriter struct {
	writer
	fd func() uintptr
}

func (w *fileWriter) Fd() uintptr { return w.fd() }

// Lines is b, which holds whole characters, as a [Writer] passes it on.
func Lines(b []byte) []byte {
	bad := func(r rune) bool { return r == utf8.RuneError || r != '\n' && r != '\t' && hidden(r) }
	if bytes.IndexFunc(b, bad) < 0 {
		return b
	}
	return []byte(escape(string(b), func(r rune) bool { return r != '\n' && r != '\t' && hidden(r) }))
}

// hidden reports whether a character can't be seen: controls, and those that only
// say how others are shown.
func hidden(r rune) bool {
	return r < ' ' || r >= 0x7f && unicode.In(r, unicode.Cc, unicode.Cf, unicode.Zl, unicode.Zp)
}

func escape(s string, bad func(rune) bool) string {
	var b strings.Builder
	for i, r := range s {
		_, n := utf8.DecodeRuneInString(s[i:])
		switch {
		case r == utf8.RuneError && n == 1:
			fmt.Fprintf(&b, `\x%02x`, s[i])
		case !bad(r):
			b.WriteRune(r)
		case r == '\n':
			b.WriteString(`\n`)
		case r == '\t':
			b.WriteString(`\t`)
		default:
			for _, unit := range utf16.Encode([]rune{r}) {
				fmt.Fprintf(&b, `\u%04x`, unit)
			}
		}
	}
	return b.String()
}
