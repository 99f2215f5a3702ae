package report

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/dustin/go-humanize"
	"github.com/dustin/go-humanize/english"

	"github.com/dyn2raft/dyn2raft/cmd/dyn2raft/figures"
	"github.com/dyn2raft/dyn2raft/cmd/dyn2raft/visible"
	"github.com/dyn2raft/dyn2raft/copier"
)

// name is a prefix or a group as a person reads it.
func name(prefix string) string {
	if prefix == "" {
		return "(no slash)"
	}
	return visible.Text(prefix)
}

func count(n int64) string { return humanize.Comma(n) }

// some is a number of what one and many name.
func some(n any, one, many string) string {
	return fmt.Sprintf("%s %s", count(whole(n)), word(n, one, many))
}

// word is one for 1, and many for all other numbers.
func word(n any, one, many string) string { return english.PluralWord(int(whole(n)), one, many) }

func whole(n any) int64 {
	if n, ok := n.(int); ok {
		return int64(n)
	}
	return n.(int64) //nolint:errcheck // the page has no others
}

// capital begins a sentence, unless it begins with a file's name.
func capital(s string) string {
	if s == "" || strings.Contains(s, ".") {
		return s
	}
	return strings.ToUpper(s[:1]) + s[1:]
}

func took(d time.Duration) string { return figures.Round(d).String() }

// at is a moment.
func at(t time.Time) string {
	if t.IsZero() {
		return "unknown"
	}
	return t.UTC().Format("2006-01-02 15:04:05 UTC")
}

// fraction is a percentage of two numbers.
func fraction(part, whole int64) string {
	if whole <= 0 {
		return "–"
	}
	p := 100 * float64(part) / float64(whole)
	if p > 0 && p < 0.1 {
		return "< 0.1%"
	}
	return fmt.Sprintf("%.1f%%", p)
}

// perSecond is a rate as text.
func perSecond(v float64) string {
	if v > 0 && v < 10 {
		return strconv.FormatFloat(v, 'f', 1, 64)
	}
	return humanize.Comma(int64(v + 0.5))
}

// unset says what a setting that is 0, or not there, means.
var unset = map[string]string{
	"max-parallel":  "default (64, or as many as the memory allows)",
	"segments":      "default (by the size of the table)",
	"read-capacity": "no limit",
	"work-dir":      "default (in the destination)",
}

// setting is the value of a setting, in words where it has a unit or stands for
// something else.
func setting(name, value string) string {
	switch text := unset[name]; {
	case text != "" && (value == "" || value == "0"):
		return text
	case name == "read-capacity":
		return visible.Text(value) + " units a second"
	}
	return visible.Text(value)
}

// phases says what each phase does.
var phases = map[copier.Phase]string{
	copier.PhasePrepare: "both ends are checked",
	copier.PhaseLock:    "the source is locked against Vault and other copies",
	copier.PhaseScan:    "the source is read and sorted",
	copier.PhaseLoad:    "the result is written, aside",
	copier.PhaseCheck:   "what was written is read back",
	copier.PhaseFollow:  "what changes in the table is written, too",
	copier.PhaseDrain:   "the table is held, and the last changes arrive",
	copier.PhaseCommit:  "the result is put in place",
	copier.PhaseCleanUp: "work files are removed",
}

// limits says what bounded the reading.
var limits = map[copier.Limit]string{
	copier.LimitTable:       "The table bounded the reading: it throttled. More read capacity makes a copy faster.",
	copier.LimitCap:         "The cap on what is asked of the table (-read-capacity) bounded the reading. A higher one makes a copy faster as long as the table does not throttle.",
	copier.LimitNetwork:     "The network bounded the reading, or how fast the table answers. The processor and the disk had time to spare.",
	copier.LimitProcessor:   "This machine's processor bounded the reading. One with more cores makes a copy faster.",
	copier.LimitDisk:        "The disk with the work files bounded the reading. A faster one, or more memory, makes a copy faster.",
	copier.LimitDestination: "The destination bounded the reading: it took entries while they were read.",
}
