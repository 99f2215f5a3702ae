package dynamodb

import (
	"time"

	"golang.org/x/sys/unix"
)

// bootTime is how long the machine runs, the time in which it slept included.
// Go's monotonic clock (CLOCK_MONOTONIC) stands still then.
func bootTime() time.Duration {
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &now); err != nil {
		return 0 // then no clock stops anything, and the service decides alone
	}
	return time.Duration(now.Nano())
}
