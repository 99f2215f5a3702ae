package command

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/urfave/cli/v3"

	"github.com/dyn2raft/dyn2raft/cmd/dyn2raft/check"
	"github.com/dyn2raft/dyn2raft/cmd/dyn2raft/hints"
	"github.com/dyn2raft/dyn2raft/cmd/dyn2raft/visible"
	"github.com/dyn2raft/dyn2raft/copier"
	"github.com/dyn2raft/dyn2raft/copier/vaultconfig"
	"github.com/dyn2raft/dyn2raft/verify"
	"github.com/dyn2raft/dyn2raft/verify/cluster"
)

// errUnhealthy is returned when a check of the cluster has failed and the
// report says which.
var errUnhealthy = fmt.Errorf("the cluster is not as it should be: %w", errDifferent)

func checkClusterCommand(std Streams) *cli.Command {
	return newCommand(std, "check-cluster", runCheckCluster,
		[]cli.Flag{
			&cli.StringFlag{Name: "address", Usage: "`URL` of one server, which is better than a load balancer's (default: VAULT_ADDR, else https://127.0.0.1:8200)"},
			&cli.BoolFlag{Name: "insecure-http", Usage: "send the token to an http:// address of another machine too, where everybody on the way can read it"},
			&cli.StringFlag{Name: "config", Usage: "the `file` the copy was made with: its node_id and cluster_addr should be a peer's"},
			manifestFlag("the copy's manifest, a `file`: what it tells of the copy is expected; instead of -config"),
			expectFlag("peers", "servers in the Raft configuration, which should all vote"),
			expectFlag("voters", "voters, where not all peers are"),
			&cli.IntFlag{Name: "expect-mounts", Hidden: true},
			&cli.IntFlag{Name: "expect-auth", Hidden: true},
			expectFlag("audit", "audit devices, as 'vault audit list' showed on the old cluster"),
			&cli.StringFlag{Name: "expect-version", Hidden: true},
			&cli.DurationFlag{Name: "sample", Value: cluster.DefaultSample, Usage: "`time` between the two looks at the applied index"},
		},
		shared("log-level", "format"),
	)
}

func expectFlag(what, usage string) cli.Flag {
	return &cli.IntFlag{Name: "expect-" + what, Usage: "fail unless there are this `number` of " + usage, HideDefault: true}
}

func runCheckCluster(ctx context.Context, cmd *cli.Command, std Streams, out *printer) error {
	opts, err := clusterOptions(cmd, std, out)
	if err != nil {
		return err
	}
	client, err := cluster.Connect(cmd.String("address"), cmd.Bool("insecure-http"))
	if err != nil {
		return err
	}
	stop := out.during("the checks of the cluster to end")
	rep, err := cluster.Check(ctx, client, opts)
	stop()
	if err != nil {
		return err
	}
	return out.clusterChecked(rep)
}

func clusterOptions(cmd *cli.Command, std Streams, out *printer) (o cluster.Options, err error) {
	if err := noArguments(cmd); err != nil {
		return o, err
	}
	o.Expect.Version = strings.TrimPrefix(cmd.String("expect-version"), "v")
	for name, field := range map[string]*int{
		"expect-peers": &o.Expect.Peers, "expect-voters": &o.Expect.Voters, "expect-mounts": &o.Expect.Mounts,
		"expect-auth": &o.Expect.Auth, "expect-audit": &o.Expect.Audit,
	} {
		if *field = cmd.Int(name); cmd.IsSet(name) && *field < 1 {
			return o, &usageError{flagIs(cmd, name) + ", expected at least 1", "leave it out to compare nothing"}
		}
	}
	o.Sample = cmd.Duration("sample")
	if err := cmp.Or(
		mistake(o.Expect.Peers != 0 && o.Expect.Voters > o.Expect.Peers, fmt.Sprintf("-expect-voters is %d, more than -expect-peers %d", o.Expect.Voters, o.Expect.Peers), "voters are peers"),
		mistake(o.Sample <= 0 || o.Sample > time.Hour, flagIs(cmd, "sample"), "it takes a time such as 5s, of at most an hour"),
		mistake(cmd.IsSet("config") && cmd.IsSet("manifest"), "-config and -manifest both tell of the copy", "give -manifest, which tells more"),
	); err != nil {
		return o, err
	}
	switch {
	case cmd.IsSet("manifest"):
		return o, expectManifest(&o.Expect, cmd.String("manifest"), out)
	case !cmd.IsSet("config"):
		return o, nil
	}
	cfg, err := vaultconfig.Load(cmd.String("config"), std.Env)
	if err != nil {
		return o, err
	}
	for _, w := range cfg.Warnings {
		out.log.Warn(w.Error())
	}
	if cfg.Destination.Type != vaultconfig.Raft {
		return o, &usageError{fmt.Sprintf("%s names storage_destination %q, and check-cluster is for integrated storage", cmd.String("config"), cfg.Destination.Type), "leave -config out"}
	}
	if cfg.Destination.NodeID == "" {
		out.log.Warn("no node_id in the configuration: whether the copied node is a peer is not checked")
	}
	o.Expect.NodeID, o.Expect.Address = cfg.Destination.NodeID, cfg.Destination.Address
	return o, nil
}

// expectManifest expects what a copy's manifest says, besides what flags say.
func expectManifest(e *cluster.Expect, file string, out *printer) error {
	m, err := verify.ReadManifest(file)
	if err != nil {
		return err
	}
	if m.State == copier.Unconfirmed {
		return hints.With(fmt.Errorf("%s: %w", file, copier.ErrUnconfirmed), notYet[m.State])
	}
	if m.State == copier.Confirmed {
		return hints.With(fmt.Errorf("%s: the table of the copy was not given back", file), notYet[m.State])
	}
	if hints.DestinationType(m.Destination) != vaultconfig.Raft {
		return &usageError{file + " is the manifest of a copy to " + hints.Destination(m.Destination) + ", and check-cluster is for integrated storage", "leave -manifest out"}
	}
	node, contents := verify.NodeOf(m), m.Contents()
	e.NodeID, e.Address = node.ID, node.Address
	if contents == nil {
		out.log.Warn("the manifest does not tell the contents by mount: whether the copied mounts are there is not checked")
		return nil
	}
	if n := len(contents.Versions); e.Version == "" && n > 0 {
		e.Version = contents.Versions[n-1]
	}
	for _, g := range contents.Groups {
		switch kind, id, _ := strings.Cut(strings.TrimSuffix(g.Name, "/"), "/"); {
		case id == "": // not below a mount
		case kind == "logical":
			e.MountIDs = append(e.MountIDs, id)
		case kind == "auth":
			e.AuthIDs = append(e.AuthIDs, id)
		}
	}
	return nil
}

// clusterChecked writes a report of check-cluster.
func (p *printer) clusterChecked(rep *cluster.Report) error {
	var result error
	if !rep.Healthy() {
		result = errUnhealthy
	}
	checks := check.Cluster.Results(rep.Checks)
	if p.json {
		return errors.Join(p.encode(struct {
			*cluster.Report
			Checks  []check.Result `json:"checks"`
			Healthy bool           `json:"healthy"`
		}{rep, checks, rep.Healthy()}), result)
	}
	names := 0
	for _, c := range rep.Checks {
		names = max(names, min(len(visible.Text(c.Check)), mostName))
	}
	var errs []error
	say := func(head, text string) {
		errs = append(errs, p.line(hanging(head, visible.Text(text), p.columns())))
	}
	for _, c := range checks {
		status := string(c.Status)
		if c.Status != copier.Passed {
			status = strings.ToUpper(status)
		}
		say(fmt.Sprintf("%-7s  %-*s  ", status, names, visible.Text(c.Check)), c.Message)
		if c.Hint != "" { // as far to the left as can be: many are commands
			say(strings.Repeat(" ", 9), "hint: "+c.Hint)
		}
	}
	say("", clusterVerdict(rep))
	return errors.Join(append(errs, result)...)
}

// clusterVerdict is the last line of check-cluster. Nothing is called healthy
// that was not looked at.
func clusterVerdict(rep *cluster.Report) string {
	passed, warned, failed := rep.Checks.Count(copier.Passed), rep.Checks.Count(copier.Warned), rep.Checks.Count(copier.Failed)
	counts := fmt.Sprintf("%d passed, %d with a warning, %d failed", passed, warned, failed)
	if n := rep.Unchecked(); n > 0 {
		counts += fmt.Sprintf(", %d of these could not be checked", n)
	}
	verdict := "Healthy"
	switch {
	case failed > 0:
		verdict = "NOT HEALTHY"
	case rep.Unchecked() > 0:
		verdict = "No failure, but not all was checked"
	}
	return fmt.Sprintf("%s: %s, at %s.", verdict, counts, visible.Text(rep.Address))
}
