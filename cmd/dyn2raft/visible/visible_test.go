package visible

import (
	"encoding/json"
	"os"
	"slices"
	"strings"
	"testing"
)

func TestText(t *testing.T) {
	for text, want := range map[string]string{
		"core/_lock": "core/_lock", "ключ/ü \u00a0x": "ключ/ü \u00a0x", `a\b"`: `a\b"`, "": "", "�": "�",
		"a\tb\nc\r": `a\tb\nc\u000d`, "\x1b]0;owned\a": `\u001b]0;owned\u0007`, "\x7f\u0085\u009b31m": `\u007f\u0085\u009b31m`,
		"a\u202eb\u2066\u200b\ufeff\u2028": `a\u202eb\u2066\u200b\ufeff\u2028`, "\xff\xc3": `\xff\xc3`, "\U000e0041": `\udb40\udc41`,
	} {
		if got := Text(text); got != want {
			t.Errorf("Text(%q) = %s, expected %s", text, got, want)
		}
	}
}

func TestWriter(t *testing.T) {
	const text = "a\tb\n\x1b[2J\u202e\xff é\n"
	var out strings.Builder
	n, err := Writer(&out).Write([]byte(text))
	if want := "a\tb\n" + `\u001b[2J\u202e\xff é` + "\n"; out.String() != want || n != len(text) || err != nil {
		t.Errorf("%q, %d bytes of %d, %v, expected %q", out.String(), n, len(text), err, want)
	}
	if b := []byte("nothing to do\n"); &Lines(b)[0] != &b[0] {
		t.Error("a text without such characters was copied")
	}
}

func TestWriterOfParts(t *testing.T) {
	const text = "é名😀\xf0\x9f|"
	for size := 1; size < 5; size++ {
		var out strings.Builder
		w := Writer(&out)
		for part := range slices.Chunk([]byte(text), size) {
			if n, err := w.Write(part); n != len(part) || err != nil {
				t.Fatal(n, err)
			}
		}
		if want := `é名😀\xf0\x9f|`; out.String() != want {
			t.Errorf("by %d: %s", size, out.String())
		}
	}
}

// JSON means the same afterwards.
func TestWriterOfJSON(t *testing.T) {
	want := "\x00\x1b\x7f\u0085\u202e\U000e0041 é\n"
	var out strings.Builder
	if err := json.NewEncoder(Writer(&out)).Encode(want); err != nil {
		t.Fatal(err)
	}
	var got string
	if err := json.Unmarshal([]byte(out.String()), &got); err != nil || got != want {
		t.Errorf("%q, %v", got, err)
	}
}

func TestWriterOfFile(t *testing.T) {
	if f, ok := Writer(os.Stdout).(interface{ Fd() uintptr }); !ok || f.Fd() != os.Stdout.Fd() {
		t.Error("the file is not known any more")
	}
	if _, ok := Writer(&strings.Builder{}).(interface{ Fd() uintptr }); ok {
		t.Error("a file was made up")
	}
}
