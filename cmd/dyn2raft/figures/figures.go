// Package figures writes numbers as people read them.
package figures

import (
	"strconv"
	"time"

	"github.com/dustin/go-humanize"
)

// Size is a number of bytes, such as 1.5 GiB.
func Size(n int64) string { return humanize.IBytes(uint64(max(n, 0))) }

// Times is how often something was done.
func Times(n int) string {
	switch n {
	case 1:
		return "once"
	case 2:
		return "twice"
	default:
		return strconv.Itoa(n) + " times"
	}
}

// Percent is a share, from 0 to 1, with as many digits as count.
func Percent(share float64, digits int) string {
	return strconv.FormatFloat(share*100, 'g', digits, 64) + "%"
}

// Round makes a duration readable: three digits or so.
func Round(d time.Duration) time.Duration {
	switch {
	case d >= time.Minute:
		return d.Round(time.Second)
	case d >= time.Second:
		return d.Round(10 * time.Millisecond)
	case d >= 10*time.Millisecond:
		return d.Round(time.Millisecond)
	default:
		return d.Round(10 * time.Microsecond)
	}
}
