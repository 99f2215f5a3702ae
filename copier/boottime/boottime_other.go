//go:build !linux

package boottime

import (
	"time"

	"golang.org/x/sys/unix"
)

// Now is how long the machine runs. On macOS CLOCK_MONOTONIC runs on while
// the system is asleep (clock_gettime(3)).
func Now() time.Duration {
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &now); err != nil {
		return 0 // then no clock stops anything, and the service decides alone
	}
	return time.Duration(now.Nano())
}
