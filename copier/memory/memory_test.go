package memory

import (
	"fmt"
	"os"
	"runtime"
	"slices"
	"strings"
	"testing"
	"unsafe"
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

// The kernel is asked for huge pages from the first byte to the last. Whether it has
// them is its business.
func TestMakeHuge(t *testing.T) {
	if _, err := os.Stat("/sys/kernel/mm/transparent_hugepage"); err != nil {
		t.Logf("NOT LOOKED AT: this system has no huge pages to ask for: %v", err)
		return
	}
	const n = 9<<20 + 4096 // not whole huge pages
	b := Make(n)[:n]
	for _, at := range []int{0, n / 2, n - 1} {
		if flags := flagsOf(t, uintptr(unsafe.Pointer(&b[at]))); !slices.Contains(flags, "hg") {
			t.Errorf("the memory of byte %d has the flags %q", at, flags)
		}
	}
	runtime.KeepAlive(b)
}

// flagsOf returns the kernel's flags of the memory at an address.
func flagsOf(t *testing.T, at uintptr) []string {
	text, err := os.ReadFile("/proc/self/smaps")
	if err != nil {
		t.Fatal(err)
	}
	found := false
	for line := range strings.Lines(string(text)) {
		var from, to uintptr
		if n, _ := fmt.Sscanf(line, "%x-%x ", &from, &to); n == 2 {
			found = from <= at && at < to
		} else if flags, ok := strings.CutPrefix(line, "VmFlags:"); ok && found {
			return strings.Fields(flags)
		}
	}
	t.Fatalf("no flags of the memory at %x", at)
	return nil
}
