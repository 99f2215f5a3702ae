package command

import (
	"cmp"
	"context"
	_ "embed"
	"fmt"
	"io"
	"maps"
	"regexp"
	"slices"
	"strings"

	"github.com/urfave/cli/v3"

	"github.com/dyn2raft/dyn2raft/cmd/dyn2raft/figures"
	"github.com/dyn2raft/dyn2raft/copier"
	"github.com/dyn2raft/dyn2raft/sources/dynamodb"
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
func newCommand(std Streams, name string, run func(context.Context, *cli.Command, Streams, *printer) error, flags ...[]cli.Flag) *cli.Command {
	h := helps[name]
	return &cli.Command{Name: name, Usage: h.Usage, UsageText: h.Lines, Description: h.Description, Flags: slices.Concat(flags...), ShellComplete: complete, OnUsageError: onUsageError,
		Action: func(ctx context.Context, cmd *cli.Command) error {
			out, err := newPrinter(cmd, std)
			if err != nil {
				return err
			}
			return run(ctx, cmd, std, out)
		}}
}

// shared makes flags that several commands have, in this order. Each command has its
// own, because a flag keeps its value.
func shared(names ...string) (flags []cli.Flag) {
	for _, f := range []cli.Flag{
		&cli.StringFlag{Name: "config", Usage: "the `file` that 'vault operator migrate' takes; needed"},
		&cli.BoolFlag{Name: "redact", Usage: "leave out the names of keys, which can name users: of each is told what it is for"},
		&cli.StringFlag{Name: "backup", Usage: "make an on-demand backup of the table under this `name`, and wait for it: plan at once, copy once the table is locked and before anything is read; with -replace, of the destination's, by copy only, before it is changed"},
		&cli.Uint64Flag{Name: "at-least-index", Usage: "of storage_source \"raft\": refuse directories whose log ends before this `index`, the last \"Raft Committed Index\" that a Vault told (vault status); it is a lower bound, no proof", HideDefault: true},
		&cli.StringSliceFlag{Name: "ignore-peer", Usage: "of storage_source \"raft\": let the cluster's member of this `node_id` answer, although it might be writing; repeat the flag for more members"},
		&cli.IntFlag{Name: "max-parallel", Usage: "read at most this `number` of pages at the same time (default: max_parallel of storage_source, else 64, or as many as -memory allows)", HideDefault: true},
		&cli.IntFlag{Name: "segments", Hidden: true},
		&cli.StringFlag{Name: "memory", Value: figures.Size(copier.DefaultMemory), Usage: "`size` of the memory to use; what is too much for it is sorted in work files"},
		&cli.FloatFlag{Name: "read-capacity", Usage: "consume at most this `number` of read capacity units a second; 0 is no limit (default: 0)", HideDefault: true},
		&cli.FloatFlag{Name: "write-capacity", Usage: "of storage_destination \"dynamodb\": ask for at most this `number` of write capacity units a second; 0 is no limit (default: 0)", HideDefault: true},
		&cli.DurationFlag{Name: "retry-for", Value: dynamodb.DefaultRetryFor, Usage: "end with status 10 when no request has succeeded for this `time`; being throttled never ends a copy, and a table that does not answer at the start ends it at once"},
		&cli.BoolFlag{Name: "strict", Usage: "refuse a configuration with keys that Vault does not know"},
		&cli.StringFlag{Name: "log-level", Value: "info", Usage: "trace, debug, info, warn or error"},
		&cli.StringFlag{Name: "log-format", Usage: "of everything on standard error: text, or json for one object a line, with plain numbers (default: that of -format)", Value: "text", HideDefault: true},
		&cli.StringFlag{Name: "metrics-listen", Usage: "serve Prometheus metrics and /healthz at this `address`; :9100 is 127.0.0.1:9100, 0.0.0.0:9100 is every interface"},
		&cli.StringFlag{Name: "format", Value: "table", Usage: "of the result on standard output: table or json"},
	} {
		if slices.Contains(names, f.Names()[0]) {
			flags = append(flags, f)
		}
	}
	return flags
}

// options are the visible flags of a command, those that come last apart.
func options(cmd *cli.Command) (common, advanced []option) {
	for _, f := range cmd.VisibleFlags() {
		doc, ok := f.(cli.DocGenerationFlag)
		switch name := f.Names()[0]; {
		case !ok:
		case slices.Contains(advancedFlags, name):
			advanced = append(advanced, newOption(name, doc))
		default:
			common = append(common, newOption(name, doc))
		}
	}
	return common, advanced
}

// A commandGroup is a part of the list of commands.
type commandGroup struct {
	title string
	names []string
}

// commandGroups are in the order of a move. The last has all that are in no other.
var commandGroups = []commandGroup{
	{"Move", []string{"plan", "copy", "cutover", "status", "verify"}},
	{"Afterwards", []string{"check-cluster", "bench-compare", "report", "inspect", "readdress"}},
	{"Other", nil},
}

// groupOf is the title of the group that a command is in.
func groupOf(name string) string {
	for _, g := range commandGroups {
		if slices.Contains(g.names, name) || g.names == nil {
			return g.title
		}
	}
	return ""
}

// useOf matches the usage of a flag that means something for one use only.
var useOf = regexp.MustCompile(`^(?:of|with) (-[a-z]+|storage_[a-z]+ "[a-z]+"): `)

// byUse are flags in groups, those that belong to another flag, or to a stanza, apart.
func byUse(all []option) map[string][]option {
	groups := map[string][]option{}
	for _, o := range all {
		title := "Flags"
		if found := useOf.FindStringSubmatch(o.Usage); found != nil {
			title += " of " + found[1]
			o.Usage = strings.TrimPrefix(o.Usage, found[0])
		}
		groups[title] = append(groups[title], o)
	}
	return groups
}

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
		if text == "" {
			continue
		}
		b.WriteString("\n")
		say("", text)
	}
	commands := cmd.VisibleCommands()
	for _, g := range commandGroups {
		if len(commands) > 0 {
			b.WriteString("\n" + g.title + ":\n")
		}
		for _, c := range commands {
			if groupOf(c.Name) == g.title {
				say(fmt.Sprintf("  %-15s", c.Name), c.Usage)
			}
		}
	}
	if found := helps[cmd.Name].Examples; found != nil {
		b.WriteString("\nExamples:\n")
		for _, e := range found {
			b.WriteString("  " + e.Line + "\n")
			say("      ", e.What)
		}
	}
	common, advanced := options(cmd)
	list := func(title string, options []option) {
		if options != nil {
			b.WriteString("\n" + title + ":\n")
		}
		for _, o := range options {
			b.WriteString(strings.TrimRight("  -"+o.Name+" "+o.Value, " ") + "\n")
			say("      ", o.Full())
		}
	}
	groups := byUse(common)
	for _, title := range slices.Sorted(maps.Keys(groups)) { // "Flags" comes before "Flags of …"
		list(title, groups[title])
	}
	list("Advanced flags", advanced)
	_, _ = io.WriteString(w, b.String()) // nothing follows it
}
