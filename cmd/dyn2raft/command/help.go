package command

import (
	"cmp"
	"context"
	_ "embed"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/urfave/cli/v3"
)

// advancedFlags are those that few need: they come last in every help.
var advancedFlags = []string{"ignore", "max-parallel", "memory", "retry-for", "work-dir", "readback", "owner", "strict", "log-level", "log-format",
	"metrics-listen", "sample", "no-sample", "no-write-probes", "vault-env", "vault-bin", "vault-unit", "audit-path", "insecure-http",
	"seed", "value-size", "latency", "throughput", "threshold", "largest"}

//go:embed help.txt
var helpText string

// helps are the commands' helps by their names.
var helps = parseHelps(helpText)

// A help is what a person reads of a command, besides its flags.
type help struct {
	Usage, Lines, Description string
	Examples                  []example
}

// An example is a command line and what it does.
type example struct{ Line, What string }

// parseHelps reads helps: each begins with "# NAME: " and its usage, and of the blocks
// that follow the first has the command lines, those with "$ " are examples, and the
// others the description.
func parseHelps(text string) map[string]help {
	all := map[string]help{}
	for part := range strings.SplitSeq(strings.TrimPrefix(strings.TrimSpace(text), "# "), "\n\n# ") {
		blocks := strings.Split(part, "\n\n")
		name, usage, _ := strings.Cut(blocks[0], ": ")
		h := help{Usage: usage, Lines: strings.ReplaceAll(strings.TrimSpace(blocks[1]), "\n    ", "\n")}
		for _, block := range blocks[2:] {
			if line, ok := strings.CutPrefix(block, "$ "); ok {
				line, what, _ := strings.Cut(line, "\n")
				h.Examples = append(h.Examples, example{line, what})
				continue
			}
			h.Description = strings.TrimPrefix(h.Description+"\n\n"+block, "\n\n")
		}
		all[name] = h
	}
	return all
}

// newCommand makes a command with the help of its name, which run does with a printer
// made by its flags.
func newCommand(std Streams, name string, run func(context.Context, *cli.Command, Streams, *printer) error, flags ...cli.Flag) *cli.Command {
	h := helps[name]
	return &cli.Command{Name: name, Usage: h.Usage, UsageText: h.Lines, Description: h.Description, Flags: flags, ShellComplete: complete, OnUsageError: onUsageError,
		Action: func(ctx context.Context, cmd *cli.Command) error {
			out, err := newPrinter(cmd, std)
			if err != nil {
				return err
			}
			return run(ctx, cmd, std, out)
		}}
}

// advanced reports whether a flag is one of those that come last.
func advanced(f cli.Flag) bool { return slices.Contains(advancedFlags, f.Names()[0]) }

// printHelp writes the help of a command in lines of the terminal's width, or of 80
// columns.
func printHelp(w io.Writer, _ string, data any) {
	cmd := data.(*cli.Command) //nolint:errcheck // the library gives nothing else
	width := min(cmp.Or(terminalWidth(w), 80), 100)
	var b strings.Builder
	say := func(head, text string) { b.WriteString(hanging(head, text, width) + "\n") }

	say("", cmd.FullName()+": "+cmd.Usage)
	b.WriteString("\n")
	for line := range strings.Lines(cmd.UsageText) {
		say("  ", line)
	}
	for _, text := range paragraphs(cmd.Description) {
		b.WriteString("\n")
		say("", text)
	}
	if commands := cmd.VisibleCommands(); len(commands) > 0 {
		b.WriteString("\nCommands:\n")
		for _, c := range commands {
			say(fmt.Sprintf("  %-15s", c.Name), c.Usage)
		}
	}
	if found := helps[cmd.Name].Examples; found != nil {
		b.WriteString("\nExamples:\n")
		for _, e := range found {
			b.WriteString("  " + e.Line + "\n")
			say("      ", e.What)
		}
	}
	for _, group := range []struct {
		title string
		last  bool
	}{{"Flags", false}, {"Advanced flags", true}} {
		title := "\n" + group.title + ":\n"
		for _, f := range cmd.VisibleFlags() {
			doc, ok := f.(cli.DocGenerationFlag)
			if !ok || advanced(f) != group.last {
				continue
			}
			o := newOption(f.Names()[0], doc)
			b.WriteString(title + strings.TrimRight("  -"+o.Name+" "+o.Value, " ") + "\n")
			say("      ", o.Full())
			title = ""
		}
	}
	_, _ = io.WriteString(w, b.String()) // nothing follows it
}
