package memory

import (
	"os"
	"runtime"
	"strconv"
	"strings"
	"testing"
)

func TestMake(t *testing.T) {
	var all [][]byte
	for _, n := range []int{0, 1, 4096, 3 << 19, 32 << 20} {
		b := Make(n)
		if len(b) != 0 || cap(b) < n {
			t.Errorf("length %d and capacity %d of %d", len(b), cap(b), n)
		}
		for i := range b[:n] {
			if b[:n][i] != 0 {
				t.Fatalf("byte %d of %d is %d", i, n, b[:n][i])
			}
			b[:n][i] = byte(len(all))
		}
		all = append(all, b[:n])
	}
	for i, b := range all {
		for at, x := range b {
			if x != byte(i) {
				t.Fatalf("byte %d of piece %d is %d", at, i, x)
			}
		}
	}
}

// What is touched is in huge pages, from the first byte to the last.
func TestMakeHuge(t *testing.T) {
	mode, err := os.ReadFile("/sys/kernel/mm/transparent_hugepage/enabled")
	if err != nil || strings.Contains(string(mode), "[never]") {
		t.Logf("NOT LOOKED AT: %s has no huge pages to give: %s%v", runtime.GOOS, mode, err)
		return
	}
	const n = 64 << 20
	before := anonHuge(t)
	b := Make(n)[:n]
	for i := 0; i < n; i += 4096 {
		b[i] = 1
	}
	// A memory too fragmented to have any is not our fault, but it has some.
	if got := anonHuge(t) - before; got < n/2 {
		t.Errorf("%d of %d bytes are in huge pages", got, n)
	}
	runtime.KeepAlive(b)
}

// anonHuge is how much of this process is in huge pages, in bytes.
func anonHuge(t *testing.T) int {
	text, err := os.ReadFile("/proc/self/smaps_rollup")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		if f := strings.Fields(line); f[0] == "AnonHugePages:" {
			kb, err := strconv.Atoi(f[1])
			if err != nil {
				t.Fatal(err)
			}
			return kb << 10
		}
	}
	t.Fatalf("no AnonHugePages in %s", text)
	return 0
}
