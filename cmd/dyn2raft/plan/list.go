package plan

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/dyn2raft/dyn2raft/copier"
)

// A Check is one line of the list that plan and copy share. Its name is stable:
// reports and manifests have it, and a failure is let pass by it.
type Check struct {
	Name string
	// Before and AtCopy say how much it matters at most when something is
	// wrong: days before the window, or with every Vault stopped and the copy
	// about to lock the table. A check without AtCopy is plan's alone.
	Before, AtCopy Status
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
	warning = Warning
	failure = Failure
	none    = Status("")
)

var list = []Check{
	{"table", failure, failure, copier.ErrSource, true, "the table can be reached and described, is active, and has the key schema of Vault's"},
	{"access", failure, failure, copier.ErrSource, false, "the IAM actions that read"},
	{"write-access", warning, failure, copier.ErrSource, false, "the IAM actions that lock the table and free it"},
	{"clock", failure, failure, copier.ErrSource, false, "this machine's clock against the table's; 4 s warn, 5 min fail"},
	{"capacity", warning, none, nil, false, "the table's read and write units"},
	{"recovery", warning, none, nil, false, "point-in-time recovery"},
	{"backup", warning, warning, nil, false, "a backup of the last 24 hours; at the copy point-in-time recovery does as well"},
	{"deletion", warning, none, nil, false, "whether the table is protected from being deleted"},
	{"stream", warning, none, nil, false, "who reads the table's stream"},
	{"replicas", warning, warning, nil, false, "other regions of a global table"},
	{"locks", failure, failure, copier.ErrSource, true, "whether the locks can be read"},
	{"running-vault", warning, failure, copier.ErrLocked, true, "a Vault that runs on the table"},
	{"migration-lock", failure, failure, copier.ErrLocked, true, "an entry core/migration that is another's"},
	{"initialized", failure, failure, copier.ErrSource, false, "core/keyring and core/seal-config"},
	{"seal", warning, none, nil, false, "how the Vault is unsealed"},
	{"version", warning, none, nil, false, "which Vaults have run on the table"},
	{"items", failure, none, copier.ErrSource, true, "whether a copy takes the table's items, as far as they were read: those of the sample, or all with -full"},
	{"sample", warning, none, nil, false, "what a sample of the table shows"},
	{"size", warning, none, nil, false, "how large the table is"},
	{"estimate", warning, none, nil, false, "what there is to estimate by"},
	{"duration", warning, none, nil, false, "how long the copy takes"},
	{"destination", failure, failure, copier.ErrDestination, true, "whether the data directory is there and holds no data"},
	{"owner", failure, failure, copier.ErrDestination, false, "whose the data directory is, and who can write there"},
	{"manifest", failure, failure, copier.ErrDestination, false, "whether the manifest can be written"},
	{"file-system", warning, warning, nil, false, "whether the data directory is on a local disk"},
	{"disk", failure, failure, copier.ErrDestination, false, "free space; fails only where a sample proves that it is too little"},
	{"work-files", failure, failure, copier.ErrDestination, false, "the directory for work files"},
	{"other-nodes", warning, none, nil, false, "what nodes need that join later"},
	{"memory", warning, warning, nil, false, "this machine's memory"},
	{"node-id", failure, failure, copier.ErrConfig, false, "whether Vault can start with the node's id"},
	{"cluster-addr", failure, failure, copier.ErrConfig, false, "whether other nodes can reach the address"},
	{"open-files", failure, failure, copier.ErrDestination, false, "the limit of open files"},
}

// Checks returns the list, in the order in which the checks are made. Those of
// a server's configuration, whose names begin with "server-", are plan's alone.
func Checks() []Check { return slices.Clone(list) }

// byName returns a check. One that is not in the list is of a server's
// configuration, which plan alone looks at.
func byName(name string) Check {
	if i := slices.IndexFunc(list, func(c Check) bool { return c.Name == name }); i >= 0 {
		return list[i]
	}
	return Check{Name: name, Before: Failure, Kind: copier.ErrConfig}
}

// Kind is the sentinel of package copier for a check that has failed.
func Kind(check string) error { return byName(check).Kind }

// Ignorable returns the names of the checks whose failure can be let pass.
func Ignorable() (names []string) {
	for _, c := range list {
		if !c.Never && (c.Before == Failure || c.AtCopy == Failure) {
			names = append(names, c.Name)
		}
	}
	return names
}

// BeforeCopy makes the checks of the list that need no sample and that a copy
// does not make itself. Options.Source is prepared, and the destination is held.
// It returns those that warn or fail. An error is the source's, or the
// context's cause.
func BeforeCopy(ctx context.Context, opts Options) ([]Result, error) {
	p := newPlanner(opts)
	p.atCopy = true
	if err := p.run(ctx); err != nil {
		return nil, err
	}
	if err := context.Cause(ctx); err != nil {
		return nil, err
	}
	return slices.DeleteFunc(p.report.Checks, func(r Result) bool { return r.Status == Pass || r.Status == Note }), nil
}

// add adds a result. What is wrong counts as much as the list says for the
// moment, and less where it is to be ignored.
func (p *planner) add(s Status, check, hint, format string, a ...any) {
	check = strings.NewReplacer(" ", "-", "_", "-").Replace(check) // of a server's configuration
	c := byName(check)
	r := Result{Check: check, Status: s, Message: fmt.Sprintf(format, a...), Hint: hint}
	most := c.Before
	if (p.atCopy || p.Stopped) && c.AtCopy != none {
		most = c.AtCopy
	}
	switch {
	case p.atCopy && (c.Never || c.AtCopy == none):
		return
	case s == Failure && most == Warning:
		r.Status = Warning
	case s == Failure && !c.Never && slices.Contains(p.Ignore, check):
		r.Status, r.Ignored = Warning, true
	}
	p.report.Checks = append(p.report.Checks, r)
}

func (p *planner) pass(check, format string, a ...any) { p.add(Pass, check, "", format, a...) }
func (p *planner) note(check, format string, a ...any) { p.add(Note, check, "", format, a...) }
func (p *planner) warn(check, message, hint string)    { p.add(Warning, check, hint, "%s", message) }
func (p *planner) fail(check, message, hint string)    { p.add(Failure, check, hint, "%s", message) }
