// Package boottime has a clock that runs on while the machine sleeps: how old a lease is
// must be known to a process that was asleep.
package boottime

import (
	"time"

	"golang.org/x/sys/unix"
)

// Now is how long the machine runs, the time in which it slept included.
// Go's monotonic clock (CLOCK_MONOTONIC) stands still then.
func Now() time.Duration {
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &now); err != nil {
		return 0 // then no clock stops anything, and the service decides alone
	}
	return time.Duration(now.Nano())
}
