package copier

import (
	"maps"
	"testing"
)

// Counters are added up by name, and who has been told some does not see them grow.
func TestCounts(t *testing.T) {
	var p Progress
	first := Counts{"units": 1.5}
	p.Event(PageRead{Counts: first})
	told := p.Status().Counts
	p.Event(PageRead{Counts: Counts{"units": 2, "cents": 1}})
	for _, c := range []struct{ got, want Counts }{
		{first, Counts{"units": 1.5}},
		{told, Counts{"units": 1.5}},
		{p.Status().Counts, Counts{"units": 3.5, "cents": 1}},
		{new(Progress).Status().Counts, nil},
	} {
		if !maps.Equal(c.got, c.want) {
			t.Errorf("%v, want %v", c.got, c.want)
		}
	}
}
