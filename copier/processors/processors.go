// Package processors reports what this program may use of the machine's
// processors, and what it has used of them.
package processors

import (
	"os"
	"runtime"
	"syscall"
	"time"
)

// atStart is what Go found: the machine's processors, those that a container may
// use, or what the variable GOMAXPROCS says.
var atStart = runtime.GOMAXPROCS(0)

// Count is how many processors the program may use. Overlap does not change it;
// a program that asks Go for fewer than it began with has fewer. It is safe for
// concurrent use.
func Count() int { return min(atStart, runtime.GOMAXPROCS(0)) }

// Overlap lets Go run one goroutine more at the same time than there are
// processors. Of what waits in a call of the system, for a disk above all, Go
// notices that only after some time, up to 10 ms, and nothing else runs in its
// place until then: on two processors a copy of 3 million entries took a tenth
// longer without. It is for the beginning of a program that does nothing else,
// since all of a process has it. Where the variable GOMAXPROCS is set, it does
// nothing: whoever runs the program has decided then.
func Overlap() {
	if os.Getenv("GOMAXPROCS") == "" {
		runtime.GOMAXPROCS(atStart + 1)
	}
}

// Time is the processor time that this process has used, in user mode and in the
// system; 0 where that can't be known. It is safe for concurrent use.
func Time() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
