package command

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/urfave/cli/v3"

	"github.com/dyn2raft/dyn2raft/cmd/dyn2raft/hints"
	"github.com/dyn2raft/dyn2raft/cmd/dyn2raft/plan"
	"github.com/dyn2raft/dyn2raft/copier"
	sink "github.com/dyn2raft/dyn2raft/sinks/raft"
)

func ignoreFlag(usage string) cli.Flag {
	return &cli.StringSliceFlag{Name: "ignore", Usage: "let this `check` pass although it fails, " + usage + "; may be given several times"}
}

// nodeChecks are the checks of stopped nodes as a source, which verify makes too.
var nodeChecks = []string{"majority", "torn-log"}

// ignored are the values of -ignore.
func ignored(cmd *cli.Command) ([]string, error) {
	names := cmd.StringSlice("ignore")
	known := plan.Ignorable(cmd.Name == "copy")
	if cmd.Name == "verify" {
		known = nodeChecks
	}
	for _, name := range names {
		if slices.Contains(known, name) {
			continue
		}
		for _, c := range plan.Checks() {
			if c.Name == name && c.Never {
				return nil, &usageError{fmt.Sprintf("-ignore %s: this check can't be let pass: %s", name, c.What), "clear the cause; these can be: " + strings.Join(known, ", ")}
			}
		}
		var flags []cli.Flag // what the library finds the nearest of
		for _, k := range known {
			flags = append(flags, &cli.BoolFlag{Name: k})
		}
		return nil, &usageError{fmt.Sprintf("-ignore %s: no check of that name can stop %s", name, cmd.Name), didYouMean("-ignore ", name, cli.SuggestFlag(flags, name, true)) + "these can be let pass: " + strings.Join(known, ", ")}
	}
	return slices.Compact(slices.Sorted(slices.Values(names))), nil
}

// ignoreHint says how a failed check is let pass, where it can be.
func ignoreHint(check string) string {
	if !slices.Contains(plan.Ignorable(false), check) {
		return ""
	}
	return "-ignore " + check
}

// inSpite adds to a hint how a failed check is let pass, where it can be.
func inSpite(hint, check string) string {
	if how := ignoreHint(check); how != "" {
		hint = strings.TrimPrefix(hint+"\nto copy in spite of it: the same command with "+how, "\n")
	}
	return hint
}

// errNotAVault is returned where nothing differs, and what is equal is no
// initialized Vault's. The result says so.
var errNotAVault = fmt.Errorf("no initialized Vault: %w", errDifferent)

// notAVault says what is equal and yet of no use.
func notAVault(missing []string) string {
	return "no initialized Vault has used it: it has no " + strings.Join(missing, " and no ") + ". A Vault that starts on the directory finds itself not initialized, or ends"
}

// beforeCopy makes the checks that a copy shares with plan, before anything is
// locked. Warnings go on record; a failure ends the copy.
func (p *printer) beforeCopy(ctx context.Context, opts plan.Options) error {
	results, err := plan.BeforeCopy(ctx, opts)
	if err != nil {
		return err
	}
	var failed []error
	for _, r := range results {
		if r.Status == copier.Failed {
			failed = append(failed, hints.With(&copier.Error{Kind: plan.Kind(r.Check), Op: "check " + r.Check, Err: errors.New(r.Message)}, inSpite(r.Hint, r.Check)))
			continue
		}
		p.warn(copier.Warning{Check: r.Check, Message: r.Message, Ignored: r.Ignored}, r.Hint)
	}
	return errors.Join(failed...)
}

// letPass makes a warning of the error of a check that is to be ignored, and says
// of any other how it would be.
func (p *printer) letPass(check string, err error, ignore []string) error {
	if slices.Contains(ignore, check) {
		p.warn(copier.Warning{Check: check, Message: err.Error(), Ignored: true}, "")
		return nil
	}
	return hints.With(err, inSpite(hints.Of(err), check))
}

// ignorable adds to the refusal of a node's id, which the sink looks at for
// itself, how it is let pass.
func ignorable(err error) error {
	if !errors.Is(err, sink.ErrNodeID) {
		return err
	}
	return hints.With(err, hints.Of(err)+"\nto copy in spite of it, for a Vault before 1.16: the same command with "+ignoreHint("node-id"))
}

// warningText is a warning in one line.
func warningText(w copier.Warning) string {
	switch {
	case w.Ignored:
		return w.Check + ": ignored: " + w.Message
	case w.Check == duringCopy, w.Check == inConfig:
		return w.Message
	default:
		return w.Check + ": " + w.Message
	}
}

// Names in the place of a check's, for warnings of the copy itself and of the
// configuration.
const (
	duringCopy = "copy"
	inConfig   = "configuration"
)
