package command

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/dustin/go-humanize"
	"github.com/urfave/cli/v3"

	"github.com/dyn2raft/dyn2raft/cmd/dyn2raft/figures"
	"github.com/dyn2raft/dyn2raft/cmd/dyn2raft/plan"
	"github.com/dyn2raft/dyn2raft/cmd/dyn2raft/visible"
	"github.com/dyn2raft/dyn2raft/copier"
	"github.com/dyn2raft/dyn2raft/copier/vaultconfig"
	"github.com/dyn2raft/dyn2raft/sinks/raft/node"
	"github.com/dyn2raft/dyn2raft/sources/dynamodb"
	estimation "github.com/dyn2raft/dyn2raft/sources/dynamodb/estimate"
)

// errNotReady is returned when a check of the plan has failed and the report
// says which.
var errNotReady = fmt.Errorf("a copy would fail: %w", errDifferent)

func planCommand(std Streams) *cli.Command {
	return newCommand(std, "plan", runPlan,
		shared("config"),
		[]cli.Flag{
			&cli.StringFlag{Name: "vault-config", Usage: "ask whether Vault starts on the copy from the server's configuration, a `file` or a directory"},
			&cli.StringFlag{Name: "vault-env", Usage: "with -vault-config: `file` of the server's environment, its unit's EnvironmentFile"},
			&cli.StringFlag{Name: "vault-bin", Usage: "`path` of the Vault that will start on the copy: compare its version with the table's; nothing but 'version' is run"},
			&cli.StringFlag{Name: "vault-unit", Usage: "`name` of the server's systemd unit: look at its limits"},
			&cli.StringSliceFlag{Name: "audit-path", Usage: "`file` of an audit device: see that Vault's user can write it on this node; may be repeated"},
			&cli.BoolFlag{Name: "no-sample", Usage: "read no sample: estimate by what the table says of itself"},
			&cli.BoolFlag{Name: "full", Usage: "read the whole table in place of a sample, eventually consistent, and name every item that a copy refuses: with at most a tenth of a provisioned table's read units, and of one on demand with what -read-capacity says"},
			&cli.DurationFlag{Name: "sample", Value: 4 * time.Second, Usage: "`time` for which the sample is read"},
			&cli.BoolFlag{Name: "live", Usage: "plan a copy while Vault serves (copy -live): look at the stream, the replicas, the IAM actions and the cost of following the table too"},
			&cli.BoolFlag{Name: "replace", Usage: "of storage_destination \"dynamodb\": plan a copy into the table that this Vault had before"},
			&cli.StringFlag{Name: "backup-arn", Usage: "with -replace: the backup that copy will be given, by its `ARN`"},
			&cli.StringFlag{Name: "take-over", Usage: "with -replace: the run that copy will be given, by its `id`"},
			&cli.BoolFlag{Name: "seal-wrapped", Hidden: true},
			&cli.BoolFlag{Name: "source-stopped", Usage: "say that every Vault on the source is stopped: one that runs is a failure then"},
		},
		shared("backup", "at-least-index", "ignore-peer", "max-parallel", "memory", "read-capacity", "write-capacity", "retry-for"),
		[]cli.Flag{
			&cli.StringFlag{Name: "work-dir", Usage: "`directory` for work files that copy will be given"},
			manifestFlag("`file` for the record of the copy that copy will be given"),
			&cli.StringFlag{Name: "owner", Usage: "`user[:group]` that copy will be given"},
			ignoreFlag("by the name that it has in the report"),
			&cli.BoolFlag{Name: "no-write-probes", Usage: "send no request that could write: whether PutItem, UpdateItem and DeleteItem are allowed is not tried; nor how fast the destination's disk is"},
			&cli.BoolFlag{Name: "v", Usage: "show the checks that passed too"},
		},
		shared("strict", "log-level", "format"),
	)
}

// backupName is the error of a backup's name that DynamoDB does not take.
func backupName(cmd *cli.Command) error {
	if !cmd.IsSet("backup") {
		return nil
	}
	return dynamodb.CheckBackupName(cmd.String("backup"))
}

// A backedUpSource tells of its backups.
type backedUpSource struct {
	*dynamodb.Source
	p *printer
}

// Snapshot makes a backup.
func (s backedUpSource) Snapshot(ctx context.Context, name string) (arn string, err error) {
	s.p.log.Info("making a backup of the table", "name", name)
	if arn, err = s.Source.Snapshot(ctx, name); err != nil {
		return "", err
	}
	s.p.log.Info("the backup is available", "arn", arn)
	return arn, nil
}

func runPlan(ctx context.Context, cmd *cli.Command, std Streams, out *printer) error {
	sample, full := cmd.Duration("sample"), cmd.Bool("full")
	if err := cmp.Or(
		mistake(sample < time.Second || sample > 5*time.Minute, flagIs(cmd, "sample"), "it takes a time from 1s to 5m"),
		backupName(cmd),
		mistake(cmd.Bool("live") && cmd.Bool("source-stopped"), "-live plans a copy while Vault serves, and does not go with -source-stopped", "leave one of them out"),
		mistake(cmd.IsSet("vault-env") && !cmd.IsSet("vault-config"), "-vault-env has no meaning without -vault-config", "give the server's configuration too"),
		mistake(full && (cmd.Bool("no-sample") || cmd.IsSet("sample")), "-full reads the whole table, and -sample and -no-sample a part or nothing", "leave one out"),
	); err != nil {
		return err
	}
	ignore, err := ignored(cmd)
	if err != nil {
		return err
	}
	memory, err := memoryBudget(cmd)
	if err != nil {
		return err
	}
	cfg, err := loadConfig(cmd, std, out)
	if err != nil {
		return err
	}
	src, err := newSource(ctx, cmd, std, cfg, out, nil)
	if err != nil {
		return err
	}
	dst, err := newSink(ctx, cmd, std, cfg, out, ignore, nil)
	if err != nil && cfg.Destination.Type != vaultconfig.Raft { // whose checks say that too
		return err
	}
	if _, ok := src.(*dynamodb.Source); ok {
		defer func() { _ = src.Close() }() // it holds no more than connections
	}
	defer out.sayWaits()()
	arn := ""
	if table, ok := src.(*dynamodb.Source); ok && cmd.IsSet("backup") {
		if arn, err = (backedUpSource{table, out}).Snapshot(ctx, cmd.String("backup")); err != nil {
			return err
		}
	}
	stop := func() {}
	switch {
	case full:
		out.log.Info("making checks, and reading the whole table")
		stop = out.progress()
	case cfg.Source.Type != vaultconfig.DynamoDB:
		out.log.Info("making checks")
	case !cmd.Bool("no-sample"):
		out.log.Info("making checks, and reading a sample", "for", sample)
	}
	when := copier.Ahead
	if cmd.Bool("source-stopped") {
		when = copier.Stopped
	}
	rep, err := plan.Run(ctx, plan.Options{
		Config: cfg, Source: src, Destination: dst, State: stateOf(cfg.Destination), Command: copyOf(cmd, std), Manifest: cmd.String("manifest"), Ignore: ignore, When: when, Live: cmd.Bool("live"),
		Estimate: estimation.Options{
			Workers: workers(cmd, cfg), Memory: memory, ReadCapacity: cmd.Float("read-capacity"),
			NoSample: cmd.Bool("no-sample"), SampleTime: sample, Full: full, Events: out.event,
		},
		Node: node.Node{
			Workers: workers(cmd, cfg), Memory: memory, Owner: cmd.String("owner"), WorkDir: cmd.String("work-dir"), NoProbes: cmd.Bool("no-write-probes"),
			ServerConfig: cmd.String("vault-config"), ServerEnv: cmd.String("vault-env"),
			Program: cmd.String("vault-bin"), Unit: cmd.String("vault-unit"), AuditPaths: cmd.StringSlice("audit-path"),
		},
	})
	stop()
	if errors.Is(err, plan.ErrFullCapacity) {
		return &usageError{"-full: " + err.Error(), "say it with -read-capacity N: a Vault at work needs what is left"}
	}
	if rep == nil {
		return err
	}
	if err != nil && !out.json {
		err = saidAbove{err}
	}
	return errors.Join(err, out.planned(rep, arn, cmd.Bool("v"), cmd.Bool("source-stopped") || cmd.Bool("live")))
}

// A saidAbove is an error that a failed check has told of, with what to do about it.
type saidAbove struct{ error }

func (e saidAbove) Error() string {
	if errors.Is(e.error, copier.ErrDestination) {
		return "the destination can't be asked: the check that says FAILURE tells why"
	}
	return "the source can't be asked: the check that says FAILURE tells why"
}
func (e saidAbove) Is(target error) bool { return errors.Is(e.error, target) }

// copyOf is the command of the copy that was planned, with the flags that plan was
// given for it.
func copyOf(cmd *cli.Command, std Streams) string {
	but := []string{"format", "log-level"}
	if !cmd.Bool("replace") {
		but = append(but, "backup") // one that was asked for is made
	}
	return alike(cmd, copyCommand(std), nil, but...)
}

// planned writes a report of plan: what failed comes last, and what passed only
// on demand. What comes next is the copy at once where no Vault is to be stopped first.
func (p *printer) planned(rep *plan.Report, backup string, passed, stopped bool) error {
	var result error
	if !rep.Ready() {
		result = errNotReady
	}
	if p.json {
		return errors.Join(p.encode(struct {
			*plan.Report
			Ready  bool   `json:"ready"`
			Backup string `json:"backup,omitempty"`
		}{rep, rep.Ready(), backup}), result)
	}
	names := 0
	for _, c := range rep.Checks {
		names = max(names, len(c.Check))
	}
	var errs []error
	say := func(status, name, text string) {
		errs = append(errs, p.line(hanging(fmt.Sprintf("%-7s  %-*s  ", status, names, name), visible.Text(strings.Join(strings.FieldsFunc(text, func(r rune) bool { return r == ' ' || r == '\n' }), " ")), p.columns())))
	}
	hintOf := func(c plan.Result) string {
		if how := ignoreHint(c.Check); how != "" && c.Status == copier.Failed && !c.Ignored && !plan.Refused(c) && !strings.Contains(c.Hint, how) {
			return c.Hint + "; or let it pass: " + how
		}
		return c.Hint
	}
	tell := func(c plan.Result, hint string) {
		status, message := string(c.Status), c.Message
		if c.Status == copier.Warned || c.Status == copier.Failed {
			status = strings.ToUpper(status)
		}
		if c.Ignored {
			message = "ignored: " + message
		}
		say(status, c.Check, message)
		if hint != "" {
			say("", "", "hint: "+hint)
		}
	}
	var failed []string
	for _, c := range rep.Checks {
		switch {
		case c.Status == copier.Failed:
			failed = append(failed, c.Check)
		case c.Status != copier.Passed || passed:
			tell(c, hintOf(c))
		}
	}
	if e := rep.Estimate; e != nil {
		errs = append(errs, p.line("\nEstimate"))
		for _, row := range estimateRows(e) {
			say("", row[0], row[1])
		}
		errs = append(errs, p.line(""))
	}
	first, before := rep.Next, []string{}
	if rep.Count(copier.Warned) > 0 {
		before = append(before, "look at the warnings above")
	}
	if !stopped && rep.Source == "" { // nobody says so, and it has to be
		before = append(before, "stop every Vault in the window")
	}
	if len(before) > 0 {
		first = strings.Join(before, "; ") + ". Then: " + first
	}
	told := false
	for _, c := range rep.Checks { // what is seen last is what is to do
		switch {
		case c.Status != copier.Failed:
		case told:
			tell(c, hintOf(c))
		default:
			told, first = true, c.Check+": "+cmp.Or(hintOf(c), "see above")
			tell(c, "")
		}
	}
	if backup != "" {
		errs = append(errs, p.sentence("Backup: %s", backup))
	}
	head := "First: "
	for line := range strings.SplitSeq(first, "\n") {
		errs = append(errs, p.line(hanging(head, visible.Text(strings.TrimSpace(line)), p.columns())))
		head = strings.Repeat(" ", len(head))
	}
	verdict, which := "Ready", ""
	if result != nil {
		verdict, which = "NOT READY", ": "+strings.Join(slices.Compact(failed), ", ")
	}
	errs = append(errs, p.line(hanging("", fmt.Sprintf("%s: %d passed, %d with a warning, %d failed%s.", verdict, rep.Count(copier.Passed), rep.Count(copier.Warned), len(failed), which), p.columns())))
	return errors.Join(append(errs, result)...)
}

// estimateRows are the lines of an estimate.
func estimateRows(e *plan.Estimate) [][2]string {
	rows := [][2]string{
		{"size", fmt.Sprintf("about %s, %s of keys and values; vault.db will have about %s", entries(e.Entries), figures.Size(e.Bytes), figures.Size(e.FileBytes))},
	}
	var mix []string
	for _, c := range e.Sizes {
		if c.Share == 0 {
			continue
		}
		share := fmt.Sprintf("%.0f%%", 100*c.Share)
		if c.Share < 0.01 {
			share = "under 1%"
		}
		if c.UpTo == 0 {
			mix = append(mix, share+" above")
		} else {
			mix = append(mix, share+" up to "+figures.Size(c.UpTo))
		}
	}
	if len(mix) > 0 {
		rows = append(rows, [2]string{"entries", strings.Join(mix, ", ") + "; largest seen " + figures.Size(e.Largest)})
	}
	rows = append(rows, [2]string{"cost", humanize.Comma(int64(e.Units)) + " read units, strongly consistent"},
		[2]string{"time", fmt.Sprintf("until the copy is in place probably %s, and by all that is known from %s to %s; reading takes %s of it", estimation.Duration(e.Seconds), estimation.Duration(e.Low), estimation.Duration(e.High), estimation.Duration(e.Reading))})
	for _, o := range e.Others {
		rows = append(rows, [2]string{"", o.Setting + ": " + estimation.Duration(o.Seconds)})
	}
	rows = append(rows, downtimeRows(e.Downtime)...)
	by := "the table's own figures and common speeds: no sample was read"
	if s := e.Sample; s != nil && len(e.Sizes) == 0 {
		by = fmt.Sprintf("the table's own figures and common speeds: a sample of %s, read in %s, tells too little", entries(s.Entries), estimation.Duration(s.Seconds))
	} else if s != nil {
		by = fmt.Sprintf("a sample of %s, %s, read in %s for %s units", entries(s.Entries), figures.Size(s.Bytes), estimation.Duration(s.Seconds), humanize.CommafWithDigits(s.Units, 1))
		if s.Complete {
			by += ": the whole table"
		} else if s.Throttled {
			by += ", until the table throttled"
		}
	}
	return append(rows, [2]string{"made from", by})
}

// downtimeRows compare an offline copy with a live one.
func downtimeRows(d *estimation.Downtime) [][2]string {
	var offline []string
	for _, o := range d.Offline {
		units := humanize.Comma(o.Units) + " read units/s"
		var with string
		switch {
		case o.Capacity == estimation.AtWarm:
			with = "at its warm throughput, " + units
		case o.Capacity == estimation.AtQuota:
			with = "at " + units + ", a table's default quota (your own was not asked)"
		case o.Units == 0:
			with = "at present, on demand"
		default:
			with = "at present, " + units
		}
		offline = append(offline, estimation.Duration(o.Seconds)+" "+with)
	}
	short := d.Offline[len(d.Offline)-1]
	why := map[estimation.Reason]string{
		estimation.Short:      "an offline copy, which is simpler",
		estimation.Large:      "a live copy (copy -live; plan -live looks at what that needs): with so many entries it pays at any capacity",
		estimation.Slow:       fmt.Sprintf("a live copy (copy -live; plan -live looks at what that needs), unless the capacity can be raised for the window: then an offline one, which is simpler (%s at %s read units/s)", estimation.Duration(short.Seconds), humanize.Comma(short.Units)),
		estimation.Replicated: "an offline copy: no live one can be made of a table with replicas in other regions",
	}[d.Because]
	return [][2]string{
		{"downtime", fmt.Sprintf("offline %s; live about %s; Vault's own stop, start, unsealing and election come on top of each", strings.Join(offline, "; "), estimation.Duration(d.Live))},
		{"best", why},
	}
}
