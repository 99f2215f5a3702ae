package command

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/urfave/cli/v3"

	"github.com/dyn2raft/dyn2raft/cmd/dyn2raft/hints"
)

// helpCommand is the library's command help, which tells of errors too.
func helpCommand() *cli.Command {
	return &cli.Command{Name: "help", Aliases: []string{"h"}, Hidden: true, HideHelp: true, ShellComplete: completeHelp, OnUsageError: onUsageError,
		Action: func(ctx context.Context, cmd *cli.Command) error {
			switch name, out := cmd.Args().First(), cmd.Root().Writer; name {
			case "":
				return cli.ShowRootCommandHelp(cmd.Root())
			case "errors":
				return helpErrors(out, cmd.Args().Tail())
			default:
				return cli.ShowCommandHelp(ctx, cmd.Root(), name)
			}
		}}
}

func completeHelp(ctx context.Context, cmd *cli.Command) {
	if cmd.Args().First() != "errors" {
		complete(ctx, cmd.Root())
		return
	}
	entries, _ := hints.Entries() // a test has read them all
	for _, e := range entries {
		_, _ = fmt.Fprintf(cmd.Root().Writer, "%s:%s\n", e.Code, e.Means)
	}
}

// helpErrors writes what there is to know about each of these codes, or a list of all.
func helpErrors(out io.Writer, codes []string) error {
	entries, err := hints.Entries()
	if err != nil {
		return err
	}
	width := min(cmp.Or(terminalWidth(out), 80), 100)
	var b strings.Builder
	say := func(head, text string) { b.WriteString(hanging(head, text, width) + "\n") }
	for _, code := range codes {
		i := slices.IndexFunc(entries, func(e hints.Entry) bool { return string(e.Code) == code })
		if i < 0 {
			return &usageError{fmt.Sprintf("there is no error code %q", code), "run `dyn2raft help errors` for the codes"}
		}
		e := entries[i]
		say("", code+": "+e.Means)
		b.WriteString("\n")
		for _, says := range e.Says {
			say("  ", says)
		}
		b.WriteString("\n")
		say("Lost?       ", e.Lost)
		say("Try again?  ", e.Again)
		say("What to do  ", e.Do)
		say("Status      ", e.Status)
		for _, text := range e.More {
			b.WriteString("\n")
			say("", text)
		}
		b.WriteString("\n")
	}
	if len(codes) == 0 {
		for _, e := range entries {
			say(fmt.Sprintf("%-22s", e.Code), e.Means)
		}
		b.WriteString("\n")
		say("", "`dyn2raft help errors CODE` has what is lost, whether to try again, and what to do.")
	}
	_, err = io.WriteString(out, strings.TrimRight(b.String(), "\n")+"\n")
	return err
}
