package command

import (
	"strings"
	"testing"

	"github.com/dyn2raft/dyn2raft/copier"
)

func TestCountDiffers(t *testing.T) {
	for e, want := range map[copier.CountDiffers][2]string{
		{Reported: 2, Read: 3}: {"3 items were read, and the source says that it holds 2;", "find out why they differ"},
		{Read: 3}:              {"3 items were read, and the source says that it holds none:", "could not be compared"},
	} {
		if got := countDiffers(e); !strings.Contains(got, want[0]) || !strings.Contains(got, want[1]) || !strings.Contains(got, "6 hours") {
			t.Errorf("%+v: %s", e, got)
		}
	}
}
