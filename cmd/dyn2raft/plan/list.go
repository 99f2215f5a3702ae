package plan

import (
	"context"
	_ "embed"
	"slices"
	"strings"

	"github.com/dyn2raft/dyn2raft/cmd/dyn2raft/check"
	"github.com/dyn2raft/dyn2raft/cmd/dyn2raft/hints"
	"github.com/dyn2raft/dyn2raft/copier"
)

// A Check is one line of the list that plan and copy share. Its name is stable:
// reports and manifests have it, and a failure is let pass by it.
type Check struct {
	Name string
	// Before and AtCopy say how much it matters at most when something is
	// wrong: days before the window, or with every Vault stopped and the copy
	// about to lock the table. A check without AtCopy is plan's alone.
	Before, AtCopy copier.Outcome
	// Kind is the sentinel of package copier that the error of a copy wraps
	// which the check has stopped.
	Kind error
	// Never says that the failure can't be let pass. The engine of the copy makes
	// these checks, with the destination or the locks in its hands.
	Never bool
	// What says in a few words what is looked at.
	What string
}

const (
	warning = copier.Warned
	failure = copier.Failed
	none    = copier.Outcome("")
)

//go:embed list.txt
var listText string

var list = func() (list []Check) {
	outcomes := map[string]copier.Outcome{"fails": failure, "warns": warning, "-": none}
	kinds := map[string]error{"source": copier.ErrSource, "locked": copier.ErrLocked, "destination": copier.ErrDestination, "config": copier.ErrConfig, "-": nil}
	for line := range strings.Lines(listText) {
		f := strings.Fields(line)
		before, ok1 := outcomes[f[1]]
		atCopy, ok2 := outcomes[f[2]]
		kind, ok3 := kinds[f[3]]
		if f[0] == "#" { // names the columns
			continue
		}
		if !ok1 || !ok2 || !ok3 {
			panic("a check without an outcome or a kind: " + line)
		}
		list = append(list, Check{f[0], before, atCopy, kind, f[4] == "never", strings.Join(f[5:], " ")})
	}
	return list
}()

// Checks returns the list.
func Checks() []Check { return slices.Clone(list) }

// byName returns a check of the list. One that somebody forgot to enter counts as
// plan's alone.
func byName(name string) Check {
	if i := slices.IndexFunc(list, func(c Check) bool { return c.Name == name }); i >= 0 {
		return list[i]
	}
	return Check{Name: name, Before: failure, Kind: copier.ErrConfig}
}

// Kind is the sentinel of package copier for a check that has failed.
func Kind(check string) error { return byName(check).Kind }

// Ignorable returns the names of the checks whose failure can be let pass: all of
// them, or those that a copy makes.
func Ignorable(atCopy bool) (names []string) {
	for _, c := range list {
		if !c.Never && (c.AtCopy == failure || c.Before == failure && !atCopy) {
			names = append(names, c.Name)
		}
	}
	return names
}

// Refused reports whether a copy ends with what a check of its list has found, even
// where that is to be let pass: it does not work as root, or become another user, then.
func Refused(r Result) bool {
	return r.Check == "owner" && (r.Code == "open" || r.Code == "not-root")
}

// BeforeCopy makes the checks of the list that need no sample and that a copy
// does not make itself. Options.Source is prepared, and the destination is held.
// It returns those that warn or fail. An error is the source's, or the
// context's cause.
func BeforeCopy(ctx context.Context, opts Options) ([]Result, error) {
	p := newPlanner(opts)
	p.When = copier.AtCopy
	if err := p.run(ctx); err != nil {
		return nil, err
	}
	if err := context.Cause(ctx); err != nil {
		return nil, err
	}
	return slices.DeleteFunc(p.report.Checks, func(r Result) bool { return r.Status == copier.Passed || r.Status == copier.Noted }), nil
}

// add adds what was found. What is wrong counts as much as the list says for the
// moment, and less where it is to be ignored.
func (p *planner) add(r Result) {
	c := byName(r.Check)
	most := c.Before
	if p.When != copier.Ahead && c.AtCopy != none {
		most = c.AtCopy
	}
	switch {
	case p.When == copier.AtCopy && (c.Never || c.AtCopy == none):
		return
	case r.Status == failure && most == warning:
		r.Status = warning
	case r.Status == failure && !c.Never && !Refused(r) && slices.Contains(p.Ignore, r.Check):
		r.Status, r.Ignored = warning, true
	}
	p.report.Checks = append(p.report.Checks, r)
}

// found adds what a checker has found.
func (p *planner) found(fs copier.Findings) {
	to := p.Config.Destination
	facts := map[string]string{"table": p.Config.Source.Table, "command": p.Command, "next": p.report.Next,
		"path": to.Path, "destination": to.Name(), "address": to.Address, "cluster_addr": p.Config.ClusterAddr}
	for _, f := range fs {
		r := check.Plan.Result(f, facts)
		if r.Hint == "" && (f.Status == copier.Warned || f.Status == copier.Failed) {
			r.Hint = hints.Of(f.Err)
		}
		p.add(r)
	}
}
