package plan

import (
	"context"
	"slices"

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
	{"seal", failure, none, copier.ErrSource, false, "how the Vault is unsealed"},
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
	{"disk", failure, failure, copier.ErrDestination, false, "free space; fails only where a sample, or what the copy has read so far, proves that it is too little"},
	{"work-files", failure, failure, copier.ErrDestination, false, "the directory for work files"},
	{"other-nodes", warning, none, nil, false, "what nodes need that join later"},
	{"memory", warning, warning, nil, false, "this machine's memory"},
	{"node-id", failure, failure, copier.ErrConfig, false, "whether Vault can start with the node's id"},
	{"cluster-addr", failure, failure, copier.ErrConfig, false, "whether other nodes can reach the address"},
	{"open-files", failure, failure, copier.ErrDestination, false, "the limit of open files"},
	{"disk-latency", warning, none, nil, false, "what a synced write takes on the destination's disk"},
	{"vault-version", failure, none, copier.ErrConfig, false, "the Vault program's version against the table's newest"},
	{"vault-unit", failure, none, copier.ErrConfig, false, "the user and the limits of Vault's unit"},
	{"audit", failure, none, copier.ErrConfig, false, "the files of audit devices"},
	{"server-configuration", failure, none, copier.ErrConfig, false, "whether the server's configuration can be read"},
	{"server-environment", failure, none, copier.ErrConfig, false, "whether the server's environment can be read"},
	{"server-storage", failure, none, copier.ErrConfig, false, "the server's storage is raft"},
	{"server-path", failure, none, copier.ErrConfig, false, "the server's path is the copy's"},
	{"server-node-id", failure, none, copier.ErrConfig, false, "the server's node_id is the copy's"},
	{"server-cluster-addr", failure, none, copier.ErrConfig, false, "the server's cluster_addr is the copy's"},
	{"server-api-addr", failure, none, copier.ErrConfig, false, "the server has an api_addr"},
	{"server-mlock", failure, none, copier.ErrConfig, false, "the server says whether memory is locked"},
	{"server-ha-storage", failure, none, copier.ErrConfig, false, "the server has no HA storage"},
	{"server-clustering", failure, none, copier.ErrConfig, false, "the server's clustering is not disabled"},
	{"server-listener", failure, none, copier.ErrConfig, false, "the server has a listener"},
	{"server-raft-wal", failure, none, copier.ErrConfig, false, "the server's log store is the copy's"},
	{"server-retry-join", warning, none, nil, false, "how other nodes join"},
	{"server-non-voter", warning, none, nil, false, "whether the first node may vote"},
	{"server-seal", failure, none, copier.ErrConfig, false, "the server's seal is the table's"},
	{"server-sealwrap", warning, none, nil, false, "the way back from Enterprise"},
	{"server-settings", failure, none, copier.ErrConfig, false, "the server's other settings"},
}

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
	case r.Status == failure && !c.Never && slices.Contains(p.Ignore, r.Check):
		r.Status, r.Ignored = warning, true
	}
	p.report.Checks = append(p.report.Checks, r)
}

// found adds what a checker has found.
func (p *planner) found(fs copier.Findings) {
	to := p.Config.Destination
	facts := map[string]string{"table": p.Config.Source.Table, "command": p.Command, "next": p.report.Next,
		"path": to.Path, "address": to.Address, "cluster_addr": p.Config.ClusterAddr}
	for _, f := range fs {
		r := check.Plan.Result(f, facts)
		if r.Hint == "" && (f.Status == copier.Warned || f.Status == copier.Failed) {
			r.Hint = hints.Of(f.Err)
		}
		p.add(r)
	}
}
