package command

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/urfave/cli/v3"
)

// complete prints what may stand at the end of the command line, a line each,
// as the library's scripts for the shells want it. The library's own function
// gives every flag two dashes, where a shell that has one typed drops them all.
// Where nothing is printed the shells offer files.
func complete(_ context.Context, cmd *cli.Command) {
	out := cmd.Root().Writer
	// What could not be parsed is among the arguments. A whole flag that wants
	// a value is followed by that.
	last := ""
	if args := cmd.Args().Slice(); len(args) > 0 {
		last = args[len(args)-1]
	}
	name := strings.TrimLeft(last, "-")
	if name == last {
		if cmd == cmd.Root() {
			for _, c := range cmd.VisibleCommands() {
				_, _ = fmt.Fprintf(out, "%s:%s\n", c.Name, c.Usage)
			}
		}
		return
	}
	whole := func(f cli.Flag) bool { return slices.Contains(f.Names(), name) }
	if slices.ContainsFunc(cmd.Flags, whole) {
		return
	}
	dashes := last[:len(last)-len(name)]
	for _, f := range cmd.VisibleFlags() {
		if doc, ok := f.(cli.DocGenerationFlag); ok && strings.HasPrefix(f.Names()[0], name) {
			_, _ = fmt.Fprintf(out, "%s%s:%s\n", dashes, f.Names()[0], strings.ReplaceAll(doc.GetUsage(), "`", ""))
		}
	}
}

// configureCompletion shows the library's command, and leaves the shells that
// it was tried with.
func configureCompletion(c *cli.Command) {
	c.Hidden = false
	c.Usage = "print the completion script of a shell: bash, zsh or fish"
	c.UsageText = "dyn2raft completion bash|zsh|fish"
	c.Description = "The command reference says where the script belongs."
	c.Commands = slices.DeleteFunc(c.Commands, func(shell *cli.Command) bool { return shell.Name == "pwsh" })
	c.Action = func(_ context.Context, cmd *cli.Command) error {
		if shell := cmd.Args().First(); shell != "" {
			return &usageError{fmt.Sprintf("there is no completion for %q", shell), "it is for bash, zsh and fish"}
		}
		return cli.ShowSubcommandHelp(cmd)
	}
	c.OnUsageError = onUsageError
	for _, shell := range c.Commands {
		shell.Usage = "print the script for " + shell.Name
	}
	fish := c.Command("fish")
	script := fish.Action
	fish.Action = func(ctx context.Context, cmd *cli.Command) error {
		if err := script(ctx, cmd); err != nil {
			return err
		}
		// The library's script forbids files altogether.
		_, err := fmt.Fprint(cmd.Root().Writer, "\n# Files, where there is nothing else\n"+
			"complete -c dyn2raft -n 'test -z \"$(__dyn2raft_perform_completion)\"' -F\n")
		return err
	}
}
