package raft

import (
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/dyn2raft/dyn2raft/copier"
	"golang.org/x/sys/unix"
)

// asNobody calls f without root's power over files.
func asNobody(t *testing.T, f func()) {
	t.Helper()
	if os.Geteuid() == 0 {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		// The kernel keeps this id for every thread, and drops root's
		// capabilities over files as long as it is another's.
		if _, err := unix.SetfsuidRetUid(65534); err != nil {
			t.Fatal(err)
		}
		defer func() {
			if _, err := unix.SetfsuidRetUid(0); err != nil {
				panic(err) // the thread is of no use to the next test
			}
		}()
	}
	f()
}

func TestNotWritable(t *testing.T) {
	o := testOptions(t.TempDir())
	if err := os.Chmod(filepath.Dir(o.Path), 0o755); err != nil {
		t.Fatal(err)
	}
	for _, mode := range []os.FileMode{0o555, 0} {
		if err := os.Chmod(o.Path, mode); err != nil {
			t.Fatal(err)
		}
		var err error
		asNobody(t, func() { err = prepare(o) })
		if !errors.Is(err, copier.ErrDestination) || !errors.Is(err, os.ErrPermission) ||
			!strings.HasPrefix(coded(t, err), "not-permitted ") {
			t.Errorf("mode %o: Prepare returns %v, %s", mode, err, coded(t, err))
		}
	}
}
