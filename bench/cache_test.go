package bench

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// A filler keeps the memory that is free full of a file, as it is on a machine
// that has run for some time: then what a copy writes takes the place of what
// was cached, however much it is. Memory that is free is not all alike. A small
// copy gets what the one before it has given up; a large one has to get the rest
// from where it never was, and of a virtual machine whose host takes free memory
// back (free page reporting) a gigabyte of that took 2.75 s, and 0.07 s a second
// time.
type filler struct {
	f    *os.File
	at   int64 // what is behind it was never read
	free func() (int64, error)
}

// leftFree is how much memory is left free, in bytes: somewhat more than the kernel
// keeps free by itself.
const leftFree = 256 << 20

// newFiller returns a filler, or nil where the system does not tell what is free.
func newFiller(tb testing.TB) *filler {
	tb.Helper()
	if _, err := freeMemory(); err != nil {
		tb.Logf("memory is not filled before a copy: %v", err)
		return nil
	}
	f, err := os.Create(filepath.Join(tb.TempDir(), "fill"))
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { f.Close() })
	return &filler{f: f, free: freeMemory}
}

// fillerFor returns a filler for copies of so many entries, or nil where their files
// are so small that they find memory anyway.
func fillerFor(tb testing.TB, entries int) *filler {
	if entries <= 100_000 {
		return nil
	}
	return newFiller(tb)
}

// fill fills what has become free.
func (l *filler) fill() error {
	free, err := l.free()
	if err != nil {
		return err
	}
	n := max(free-leftFree, 0)
	// A hole takes memory when it is read, and nothing on disk.
	if err := l.f.Truncate(l.at + n); err != nil {
		return err
	}
	_, err = io.CopyBuffer(discard{}, io.NewSectionReader(l.f, l.at, n), make([]byte, 1<<20))
	l.at += n
	return err
}

// settle fills what has become free. A copy follows at once: Linux tells the host
// after 2 s what is free.
func (l *filler) settle(tb testing.TB) {
	tb.Helper()
	if l == nil {
		return
	}
	if err := l.fill(); err != nil {
		tb.Fatal(err)
	}
}

// discard has no ReadFrom, as io.Discard has, which reads in small pieces.
type discard struct{}

func (discard) Write(b []byte) (int, error) { return len(b), nil }

// freeMemory is how much memory nothing uses, in bytes.
func freeMemory() (int64, error) {
	text, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(text)) {
		var kb int64
		if n, _ := fmt.Sscanf(line, "MemFree: %d kB", &kb); n == 1 {
			return kb << 10, nil
		}
	}
	return 0, fmt.Errorf("/proc/meminfo has no line MemFree")
}

func TestFiller(t *testing.T) {
	l := newFiller(t)
	if l == nil {
		return // said so
	}
	if n, err := freeMemory(); err != nil || n <= 0 {
		t.Fatalf("%d bytes are free: %v", n, err)
	}
	for _, c := range []struct{ free, at int64 }{
		{leftFree + 8<<20, 8 << 20},
		{leftFree, 8 << 20},
		{leftFree / 2, 8 << 20},
		{leftFree + 3<<20, 11 << 20},
	} {
		l.free = func() (int64, error) { return c.free, nil }
		if err := l.fill(); err != nil || l.at != c.at {
			t.Errorf("with %d bytes free, %d were read, expected %d: %v", c.free, l.at, c.at, err)
		}
		if st, err := l.f.Stat(); err != nil || st.Size() != c.at {
			t.Errorf("the file has %d bytes, expected %d: %v", st.Size(), c.at, err)
		}
	}
}
