package copier

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"testing"
)

// noted opens the notes in a directory, as a new process does.
func noted(t *testing.T, dir string) *notes {
	t.Helper()
	n, err := openNotes(&journal{dir: dir, work: dir})
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func keysOf(from, to int) (out [][]byte) {
	for i := from; i < to; i++ {
		out = append(out, fmt.Appendf(nil, "key/%d", i))
	}
	return out
}

// names reads notes to their end, so many keys at a time.
func (n *notes) names(t *testing.T, limit int) (out []string) {
	t.Helper()
	for {
		keys, _, err := n.next(limit)
		if err != nil {
			t.Fatal(err)
		}
		if len(keys) == 0 {
			return out
		}
		for _, key := range keys {
			out = append(out, string(key))
		}
	}
}

func strs(keys [][]byte) (out []string) {
	for _, key := range keys {
		out = append(out, string(key))
	}
	return out
}

// What was noted is read once by the process that has noted it, from any place by a later
// one, and again once it was noted again.
func TestNotes(t *testing.T) {
	dir := t.TempDir()
	n := noted(t, dir)
	add := func(from, to int) {
		t.Helper()
		if err := n.add(keysOf(from, to), Position(`{"at":1}`)); err != nil {
			t.Fatal(err)
		}
	}
	read := func(limit, from, to int) {
		t.Helper()
		if got, want := n.names(t, limit), strs(keysOf(from, to)); !slices.Equal(got, want) {
			t.Fatalf("read %q, want %q", got, want)
		}
	}
	read(10, 0, 0)
	add(0, 7)
	add(3, 9) // of which some are noted
	if count, left := n.counts(); count != 9 || left != 9 {
		t.Errorf("%d noted, %d left", count, left)
	}
	read(4, 0, 9)
	add(3, 5) // they were read, and may have changed since
	keys, at, err := n.next(1)
	if err != nil || len(keys) != 1 {
		t.Fatal(keys, err)
	}
	read(10, 4, 5)
	if err := n.close(); err != nil {
		t.Fatal(err)
	}

	n = noted(t, dir)
	if string(n.position) != `{"at":1}` {
		t.Errorf("the position is %s", n.position)
	}
	add(20, 22)
	if err := n.seek(at); err != nil {
		t.Fatal(err)
	}
	if got, want := n.names(t, 10), []string{"key/4", "key/20", "key/21"}; !slices.Equal(got, want) {
		t.Errorf("behind a place: %q, want %q", got, want)
	}
	if err := n.close(); err != nil {
		t.Fatal(err)
	}

	// A place is behind a key, and not ahead of another: it stays where it is, whatever a
	// later process notes.
	n = noted(t, dir)
	keys, at, err = n.next(100)
	if err != nil || len(keys) != 11 {
		t.Fatalf("%q, %v", keys, err)
	}
	add(30, 31)
	if err := n.close(); err != nil {
		t.Fatal(err)
	}
	n = noted(t, dir)
	if err := n.seek(at); err != nil {
		t.Error(err)
	}
	read(10, 30, 31)
	if err := n.close(); err != nil {
		t.Fatal(err)
	}

	// One that has noted nothing leaves no file.
	if err := noted(t, dir).close(); err != nil {
		t.Fatal(err)
	}
	n = noted(t, dir)
	if got, want := n.names(t, 1000), strs(slices.Concat(keysOf(0, 9), keysOf(20, 22), keysOf(30, 31))); !slices.Equal(got, want) {
		t.Errorf("all of them: %q, want %q", got, want)
	}
	if err := n.close(); err != nil {
		t.Fatal(err)
	}
}

// What was cut off, or damaged, behind what a position was saved for, was never relied
// on. Where it was, that is a gap.
func TestNotesDamaged(t *testing.T) {
	for name, c := range map[string]struct {
		damage func(data []byte, synced int) []byte
		want   int // keys that are left, -1 where that is a gap
	}{
		"torn":            {func(b []byte, _ int) []byte { return b[:len(b)-1] }, 5},
		"flipped behind":  {func(b []byte, _ int) []byte { b[len(b)-1] ^= 1; return b }, 5},
		"a wrong length":  {func(b []byte, n int) []byte { b[n+6] = 0xff; return b }, 5},
		"torn early":      {func(b []byte, n int) []byte { return b[:n-1] }, -1},
		"flipped early":   {func(b []byte, n int) []byte { b[n-1] ^= 1; return b }, -1},
		"flipped at once": {func(b []byte, _ int) []byte { b[0] ^= 1; return b }, -1},
		"gone":            {func([]byte, int) []byte { return nil }, -1},
	} {
		dir := t.TempDir()
		n := noted(t, dir)
		if err := n.add(keysOf(0, 5), Position(`1`)); err != nil {
			t.Fatal(err)
		}
		synced := n.size
		if err := n.add(keysOf(5, 9), nil); err != nil { // the process is killed then
			t.Fatal(err)
		}
		path := n.path(1)
		data, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if data = c.damage(data, int(synced)); data == nil {
			err = os.Remove(path)
		} else {
			err = os.WriteFile(path, data, 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
		later := noted(t, dir)
		if err := later.add(keysOf(50, 51), nil); err != nil {
			t.Fatal(err)
		}
		keys, _, err := later.next(1000)
		if c.want < 0 {
			if code, _ := CodeOf(err); !errors.Is(err, ErrGap) || code != FeedGap {
				t.Errorf("%s: %d keys, %v", name, len(keys), err)
			}
		} else if err != nil || len(keys) != c.want+1 {
			t.Errorf("%s: %d keys, %v", name, len(keys), err)
		}
		if err := errors.Join(n.close(), later.close()); err != nil {
			t.Fatal(err)
		}
	}
}

// TestNotesCut: notes that are cut off while their process runs are a gap, and not read
// to their end.
func TestNotesCut(t *testing.T) {
	n := noted(t, t.TempDir())
	if err := n.add(keysOf(0, 5), Position(`1`)); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(n.path(1), 0); err != nil {
		t.Fatal(err)
	}
	if keys, _, err := n.next(10); !errors.Is(err, ErrGap) {
		t.Errorf("%d keys are read, and then: %v", len(keys), err)
	}
}

// A place that the notes do not have any more is a gap, too.
func TestNotesSeek(t *testing.T) {
	dir := t.TempDir()
	n := noted(t, dir)
	if err := n.add(keysOf(0, 5), nil); err != nil {
		t.Fatal(err)
	}
	for _, at := range []notePlace{{1, 6}, {2, 1}} {
		if err := n.seek(at); !errors.Is(err, ErrGap) {
			t.Errorf("%+v: %v", at, err)
		}
	}
	if err := n.close(); err != nil {
		t.Fatal(err)
	}
}
