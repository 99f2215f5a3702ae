package dynamodb

import (
	"strings"
	"testing"

	"github.com/dyn2raft/dyn2raft/copier"
)

// What a table rarely shows. The rest is in the tests of plan, with the words for it.
func TestInspectRare(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		in     Inspection
		check  func(*Inspection)
		status copier.Outcome
		want   string
	}{
		"no clock": {Inspection{Survey: &Survey{}}, (*Inspection).clock, copier.Warned, "does not tell its time"},
		"another copy": {Inspection{Locks: &Locks{Leader: &LockHolder{Name: "dyn2raft run x", Run: "x"}}}, (*Inspection).leader,
			copier.Failed, "another copy is at work: dyn2raft run x"},
		"said to be stopped": {Inspection{Locks: &Locks{Doubt: "no lock"}, when: copier.Stopped}, (*Inspection).leader, copier.Passed, "said to be stopped"},
	} {
		c.check(&c.in)
		if f := c.in.Findings; len(f) != 1 || f[0].Status != c.status || !strings.Contains(f[0].Message, c.want) {
			t.Errorf("%s: %+v, expected a %s with %q", name, f, c.status, c.want)
		}
	}
}
