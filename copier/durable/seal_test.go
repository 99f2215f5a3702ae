package durable

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
)

type story struct {
	Name  string            `json:"name"`
	Count int64             `json:"count"`
	Share float64           `json:"share"`
	Empty map[string]string `json:"empty"`
	List  []string          `json:"list"`
	Raw   json.RawMessage   `json:"raw"`
}

var aStory = story{"<a&b> \u2028 é", -7, 1e21, map[string]string{}, []string{"x", ""}, json.RawMessage(`{"a": [1, 2]}`)}

func sealBoth(t testing.TB, record any) map[string][]byte {
	t.Helper()
	compact, err := Seal("story", 3, record)
	if err != nil {
		t.Fatal(err)
	}
	read, err := SealIndented("story", 3, record)
	if err != nil {
		t.Fatal(err)
	}
	return map[string][]byte{"compact": compact, "indented": read}
}

// Whatever byte is changed, to whatever else, taken out or put in: it is refused.
func TestSeal(t *testing.T) {
	for form, good := range sealBoth(t, aStory) {
		t.Run(form, func(t *testing.T) {
			var got story
			if err := Unseal(good, "story", 3, &got); err != nil || got.Name != aStory.Name || got.Share != aStory.Share || string(got.Raw) != `{"a":[1,2]}` {
				t.Fatalf("%+v, %v", got, err)
			}
			if !json.Valid(good) || bytes.Contains(good, []byte(`\u003c`)) || good[len(good)-1] != '\n' {
				t.Errorf("%s", good)
			}
			refused := func(data []byte) {
				t.Helper()
				if err := Unseal(data, "story", 3, new(story)); err == nil {
					t.Errorf("read: %s", data)
				}
			}
			for i := range good {
				for b := range 256 {
					bad := bytes.Clone(good)
					if bad[i] = byte(b); bad[i] != good[i] {
						refused(bad)
					}
				}
				refused(good[:i])
				refused(append(bytes.Clone(good[:i]), good[i+1:]...))
				for _, more := range []string{" ", "\n", "0"} {
					refused([]byte(string(good[:i]) + more + string(good[i:])))
				}
			}
			refused(append(bytes.Clone(good), '\n'))
		})
	}
}

func TestUnsealErrors(t *testing.T) {
	good := sealBoth(t, aStory)["compact"]
	read := func(data []byte, kind string, format int) error { return Unseal(data, kind, format, new(story)) }
	if kind, ok := errors.AsType[*KindError](read(good, "tale", 3)); !ok || kind.Kind != "story" || kind.Want != "tale" {
		t.Error(kind)
	}
	if format, ok := errors.AsType[*FormatError](read(good, "story", 4)); !ok || format.Format != 3 || format.Want != 4 {
		t.Error(format)
	}
	for _, none := range []string{"", "{}", "[]", "null", "x", `{"kind":"story","format":3,"sha256":"","record":{}}`, string(good[:len(good)-3])} {
		if err := read([]byte(none), "story", 3); !errors.Is(err, ErrNotSealed) {
			t.Errorf("%s: %v", none, err)
		}
	}
	if err := read([]byte(strings.Replace(string(good), `"count":-7`, `"count":-6`, 1)), "story", 3); !errors.Is(err, ErrDamaged) {
		t.Error(err)
	}
	// Sound, and of another type.
	if err := Unseal(good, "story", 3, new([]int)); !errors.Is(err, ErrNotSealed) {
		t.Error(err)
	}
	path := filepath.Join(t.TempDir(), "story.json")
	if err := os.WriteFile(path, good, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := ReadSealed(path, int64(len(good))-1, "story", 3, new(story)); !errors.Is(err, ErrTooLarge) {
		t.Error(err)
	}
	if err := ReadSealed(path, int64(len(good)), "story", 3, new(story)); err != nil {
		t.Error(err)
	}
}

// What is read is what Seal would write, in one of its two forms.
func FuzzUnseal(f *testing.F) {
	for _, good := range sealBoth(f, aStory) {
		f.Add(good)
	}
	f.Add([]byte(`{"kind":"story","format":3,"sha256":"44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a","record":{}}` + "\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		var got any
		if Unseal(data, "story", 3, &got) != nil {
			return
		}
		_, _, record, err := Peek(data)
		if err != nil {
			t.Fatal(err)
		}
		for _, form := range sealBoth(t, record) {
			if bytes.Equal(form, data) {
				return
			}
		}
		// Only the escapes within strings may be others than Seal's own.
		var again any
		if err := json.Unmarshal(record, &again); err != nil || !reflect.DeepEqual(again, got) {
			t.Errorf("%s: %v, %v", data, again, err)
		}
	})
}

func BenchmarkSeal(b *testing.B) {
	record := make([]story, 5000)
	for i := range record {
		record[i] = aStory
	}
	for b.Loop() {
		if _, err := Seal("story", 1, record); err != nil {
			b.Fatal(err)
		}
	}
}
