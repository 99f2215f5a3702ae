// Package plan looks at everything that a copy depends on, days before the
// maintenance window or in it, and estimates how long it will take. It changes
// nothing: not in the table, not in the destination.
//
// The result is a value; who prints it is not this package's business.
package plan

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/dustin/go-humanize"

	"github.com/dyn2raft/dyn2raft/cmd/dyn2raft/check"
	"github.com/dyn2raft/dyn2raft/copier"
	"github.com/dyn2raft/dyn2raft/copier/vaultconfig"
	"github.com/dyn2raft/dyn2raft/sinks/raft"
	"github.com/dyn2raft/dyn2raft/sinks/raft/node"
	"github.com/dyn2raft/dyn2raft/sources/dynamodb"
	"github.com/dyn2raft/dyn2raft/sources/dynamodb/estimate"
)

// Result is that of package check.
type Result = check.Result

// A Report holds the results in the order of the checks. A check that another
// one makes pointless is not in it.
type Report struct {
	// Table and Region, or Source, a path, say what would be copied, and Destination where
	// to.
	Table       string   `json:"table"`
	Region      string   `json:"region"`
	Source      string   `json:"source,omitempty"`
	ID          string   `json:"id,omitempty"`
	Destination string   `json:"destination"`
	Checks      []Result `json:"checks"`
	// Estimate is nil where nothing could be read.
	Estimate *Estimate `json:"estimate,omitempty"`
	// Next is the command that comes next: Options.Command, with the flag that an
	// unfinished copy in the destination wants.
	Next string `json:"-"`
}

// Count is the number of checks that ended so.
func (r *Report) Count(s copier.Outcome) int { return check.Count(r.Checks, s) }

// Ready reports that no check failed.
func (r *Report) Ready() bool { return r.Count(copier.Failed) == 0 }

// Options are for [Run].
type Options struct {
	// Config is the configuration of the copy, and Source its source; that is
	// not opened yet, and reads strongly consistent. At the copy it is open, as what Info
	// says.
	Config *vaultconfig.Config
	Source copier.Source
	Info   copier.Info
	// Destination is asked what would keep a copy from working, where that is no data
	// directory, and is a [copier.Checker]. State is the directory with the record of an
	// unfinished copy; empty is the one in a data directory.
	Destination copier.Sink
	State       string
	// Command is the command of the copy, for a person to run.
	Command string
	// Estimate and Node say how the copy is estimated, and what is known of the node
	// that gets it. What the configuration and the table tell of both is added. A
	// table on demand that is to be read in full wants a ReadCapacity, or Run returns
	// ErrFullCapacity.
	Estimate estimate.Options
	Node     node.Node
	// Manifest is the file for the copy's record; empty is its usual place.
	// ManifestTried says that it was found that it can be written.
	Manifest      string
	ManifestTried bool
	Backup        bool // the copy makes a backup first
	// Ignore names checks of the list whose failure is let pass, as a warning.
	Ignore []string
	// Live says that the copy is to be one of a table that Vaults go on writing to.
	Live bool
	// When says whether every Vault on the table is stopped. Then one that runs is a
	// failure; before the window it is what is expected.
	When copier.Moment
}

// ErrFullCapacity is returned when a whole table on demand is to be read, which
// has no capacity to take a part of, and no cap is given.
var ErrFullCapacity = errors.New("the table is on demand: nothing says how many read units a second may be taken of it")

// Run makes the checks and the estimate. What is wrong is in the report. Where
// the table can't be reached that is a failed check, the others are made as far
// as they don't need it, and an error ([copier.ErrSource]) comes with the report.
// The context's cause comes without one.
//
// [copier.ErrSource]: https://pkg.go.dev/github.com/dyn2raft/dyn2raft/copier#ErrSource
func Run(ctx context.Context, opts Options) (*Report, error) {
	p := newPlanner(opts)
	err := p.run(ctx)
	if cause := context.Cause(ctx); cause != nil {
		return nil, cause
	}
	return p.report, err
}

func newPlanner(opts Options) *planner {
	opts.State = cmp.Or(opts.State, raft.WorkDir(opts.Config.Destination.Path))
	return &planner{Options: opts, table: &dynamodb.Inspection{}, report: &Report{
		Table: opts.Config.Source.Table, Region: opts.Config.Source.Region, Source: strings.Join(opts.Config.Source.Paths, ", "),
		Destination: opts.Config.Destination.Name(), Next: opts.Command,
	}}
}

func (p *planner) run(ctx context.Context) error {
	src, ok := p.Source.(*dynamodb.Source)
	if !ok {
		err := p.files(ctx)
		return errors.Join(err, p.destination(ctx))
	}
	table, err := src.Inspect(ctx, p.When)
	if err != nil && context.Cause(ctx) == nil {
		table.Fail("table", "", "%w", err)
	}
	p.table = table
	if p.ownLock(); p.Backup { // there will be one
		table.Findings = slices.DeleteFunc(table.Findings, func(f copier.Finding) bool { return f.Check == "recovery" || f.Check == "backup" })
	}
	if p.Live && table.Survey != nil && table.Survey.Problem == nil {
		table.Findings = slices.DeleteFunc(table.Findings, func(f copier.Finding) bool { return f.Check == "stream" || f.Check == "replicas" })
		for i := range table.Findings {
			if f := &table.Findings[i]; f.Check == "running-vault" && f.Status == copier.Failed && f.Code == "" { // as it should be
				f.Status, f.Code = copier.Noted, "live"
			}
		}
		table.Findings = append(table.Findings, src.CheckLive(ctx, table.Survey)...)
	}
	p.found(table.Findings)
	if table.Survey != nil {
		p.report.ID = table.Survey.ID
		if p.Estimate.Full && table.Survey.OnDemand && p.Estimate.ReadCapacity == 0 {
			return ErrFullCapacity
		}
		if p.When != copier.AtCopy && p.Config.Destination.Type == vaultconfig.Raft && table.Survey.Problem == nil && !table.Denied["GetItem"] {
			p.estimate(ctx, src)
		}
	}
	return errors.Join(err, p.destination(ctx))
}

// estimate predicts the copy.
func (p *planner) estimate(ctx context.Context, src *dynamodb.Source) {
	opts := p.Estimate
	opts.Source, opts.Survey = src, p.table.Survey
	opts.NoSample = opts.NoSample || p.table.Denied["Scan"] || p.table.Denied["Query"]
	opts.Sink = func(dir string) (copier.Sink, error) {
		return raft.New(raft.Options{Path: dir, NodeID: "plan", Address: "127.0.0.1:8201"})
	}
	if l := p.table.Locks; l != nil && l.Leader != nil && l.Leader.Expired {
		opts.Waits = 41 * time.Second // a copy watches the lock for 11 s, and holds it for 30 s
	}
	e, found := estimate.Make(ctx, opts)
	if opts.Full && opts.NoSample {
		found.Fail("items", "denied", "the table could not be read: see access")
	}
	p.found(found)
	if e == nil {
		return
	}
	p.report.Estimate = &Estimate{Estimate: e, Others: []Other{}}
	for _, o := range e.Others {
		p.report.Estimate.Others = append(p.report.Estimate.Others, Other{settingText(o), o.Seconds})
	}
}

// An Estimate has words for the other settings.
type Estimate struct {
	*estimate.Estimate
	Others []Other `json:"others"`
}

// An Other is another setting, and how long a copy would probably take with it.
type Other struct {
	Setting string  `json:"setting"`
	Seconds float64 `json:"seconds"`
}

func settingText(o estimate.Other) string {
	n := humanize.Comma(o.Value)
	return map[estimate.Setting]string{
		estimate.Uncapped:        "without -read-capacity",
		estimate.ReadUnits:       n + " read units",
		estimate.OnDemand:        "on demand (" + n + " units/s at first)",
		estimate.Workers:         fmt.Sprintf("-max-parallel %d", o.Value),
		estimate.TwiceProcessors: "twice the processors",
	}[o.Setting]
}

// ownLock recognises the lock of the copy that the destination holds.
func (p *planner) ownLock() {
	i := slices.IndexFunc(p.table.Findings, func(f copier.Finding) bool { return f.Check == "migration-lock" && f.Status == copier.Failed })
	if i < 0 {
		return
	}
	f, run := &p.table.Findings[i], p.table.Locks.Migration.Run
	said := "core/migration is in the table, put by " + p.table.Locks.Migration.Name
	_, setup, err := copier.ReadStatus(p.State)
	switch done := p.finished(); {
	case run == "":
	case err == nil && setup != nil && setup.RunID == run:
		f.Status, f.Code, f.Message = copier.Warned, "ours", said+", which has an unfinished copy in the destination"
	case done != nil && done.RunID == run:
		f.Status, f.Code = copier.Warned, "kept"
		f.Message = said + ": left on purpose by the finished copy, in " + p.Config.Destination.Name() + " since " + done.End.UTC().Format(time.RFC3339)
	default:
		f.Code = "copy"
	}
}

// A planner is one run.
type planner struct {
	Options
	report *Report
	table  *dynamodb.Inspection
}
