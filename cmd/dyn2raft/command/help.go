package command

import (
	"cmp"
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

// An example is a command line and what it does.
type example struct{ Line, What string }

var examples = map[string][]example{
	"plan": {
		{"dyn2raft plan -config migrate.hcl", "Days before: what is in the way, and how long a copy takes."},
		{"dyn2raft plan -config migrate.hcl -source-stopped -vault-config vault.hcl", "In the window, with every Vault stopped."},
	},
	"copy": {
		{"dyn2raft copy -config migrate.hcl -keep-source-locked", "Copy, and let no old Vault start on the table any more."},
		{"dyn2raft copy -config migrate.hcl -resume", "Resume after an interruption, a crash or an error."},
	},
	"status": {
		{"dyn2raft status -config migrate.hcl", "How far the copy is."},
		{"dyn2raft status -config migrate.hcl -watch", "The same, until it has ended."},
	},
	"verify": {
		{"dyn2raft verify -config migrate.hcl", "Read the table again, and compare every entry."},
		{"dyn2raft verify -manifest data.dyn2raft.json", "Compare the directory with the copy's record, without the table."},
	},
	"inspect": {
		{"dyn2raft inspect /opt/vault/data", "What is in a data directory."},
		{"dyn2raft inspect /opt/vault/data -redact", "The same, for others to read."},
	},
	"readdress": {
		{"dyn2raft readdress /opt/vault/data -node-id vault-2", "The server has another node_id."},
		{"dyn2raft readdress /opt/vault/data -cluster-addr https://10.0.0.5:8201", "It has another cluster_addr."},
	},
	"report": {
		{"dyn2raft report -manifest data.dyn2raft.json -o report.html", "A page of the copy."},
		{"dyn2raft report -manifest data.dyn2raft.json -verify v.json -o report.html", "With the comparison that `verify -o` has written."},
	},
	"check-cluster": {
		{"dyn2raft check-cluster -manifest data.dyn2raft.json", "On the first node, once it is unsealed."},
		{"dyn2raft check-cluster -manifest data.dyn2raft.json -expect-peers 3", "Once all three have joined."},
	},
	"bench-compare": {
		{"dyn2raft bench-compare old.json new.json", "Is the new cluster slower than the old one?"},
		{"dyn2raft bench-compare old.json new.json -threshold 20%", "By more than 20 %?"},
	},
	"demo": {
		{"dyn2raft demo", "See a copy, on this machine alone."},
		{"dyn2raft demo -serve -listen 127.0.0.1:8000", "Serve a table to try the other commands with."},
	},
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
	if found := examples[cmd.Name]; found != nil {
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
