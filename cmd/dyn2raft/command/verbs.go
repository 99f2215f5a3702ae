package command

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"al.essio.dev/pkg/shellescape"
	"github.com/urfave/cli/v3"
)

// This file has the words for command lines that begin with what others call a
// command or a flag.

// verbs are commands that others have, or that come to mind, and what does it here.
var verbs = map[string]string{
	"migrate": "copy", "operator migrate": "copy", "start": "copy", "run": "copy", "clone": "copy", "import": "copy",
	"resume": "copy -resume", "continue": "copy -resume", "restart": "copy -restart",
	"reset": "copy -reset", "unlock": "copy -reset", "force-unlock": "copy -reset", "abort": "copy -reset", "release": "copy -reset",
	"check": "plan", "validate": "plan", "preflight": "plan", "dry-run": "plan", "dryrun": "plan", "estimate": "plan", "test": "plan", "doctor": "plan",
	"compare": "verify", "diff": "verify", "progress": "status", "watch": "status -watch", "follow": "status -watch",
	"show": "inspect", "info": "inspect", "ls": "inspect", "list": "inspect", "cluster": "check-cluster", "peers": "check-cluster", "html": "report",
}

// noCommand is the error of a command line that begins with what is no command of
// root, and nil of any other.
func noCommand(root *cli.Command, args []string) error {
	help := len(args) > 1 && (args[0] == "help" || args[0] == "h")
	if i := slices.IndexFunc(args, func(arg string) bool { return strings.HasPrefix(arg, "-") }); help && i > 0 && args[i] != "--generate-shell-completion" {
		return &usageError{"help takes the name of a command, and no " + args[i], "run `dyn2raft help` for the commands, or `dyn2raft COMMAND -help` for the flags of one"}
	}
	if help && verbs[strings.ToLower(args[1])] != "" {
		args = args[1:]
	}
	if len(args) == 0 || strings.HasPrefix(args[0], "-") || root.Command(args[0]) != nil || slices.Contains([]string{"help", "h", "completion"}, args[0]) ||
		args[len(args)-1] == "--generate-shell-completion" {
		return nil
	}
	name, rest := args[0], args[1:]
	if name == "operator" && len(rest) > 0 {
		name, rest = name+" "+rest[0], rest[1:]
	}
	e := &usageError{msg: fmt.Sprintf("there is no command %q", name)}
	if e.hint = typographicDash(name); e.hint != "" {
		return e
	}
	if meant := verbs[strings.ToLower(strings.ReplaceAll(name, "_", "-"))]; meant != "" {
		command, _, _ := strings.Cut(meant, " ")
		if other := unknownFlag(root.Command(command), rest); other != "" {
			e.hint = fmt.Sprintf("did you mean %s? it has no flag %s: run `dyn2raft %s -help` for what it takes", command, other, command)
			return e
		}
		e.hint = fmt.Sprintf("did you mean %s? run `%s`", command, strings.Join(program(), " ")+" "+shellLine(append(strings.Fields(meant), rest...)))
		return e
	}
	e.hint = didYouMean("", strings.ToLower(name), cli.SuggestCommand(root.VisibleCommands(), strings.ToLower(name))) + "run `dyn2raft help` for the commands"
	return e
}

// unknownFlag is the first of args that cmd has no flag for, as it is written, or "".
func unknownFlag(cmd *cli.Command, args []string) string {
	for _, arg := range args {
		name, _, _ := strings.Cut(strings.TrimLeft(arg, "-"), "=")
		if strings.HasPrefix(arg, "-") && name != "" && name != "help" && name != "h" && !hasFlag(cmd, name) {
			return arg
		}
	}
	return ""
}

// shellLine is a command line that can be pasted into a shell.
func shellLine(args []string) string { return shellescape.QuoteCommand(args) }

// otherFlags are flags that others have, or that come to mind, and what to do here.
var otherFlags = []struct {
	names []string
	hint  string
}{
	{[]string{"dry-run", "dryrun", "noop", "check", "what-if", "simulate", "validate"}, "plan checks everything and changes nothing: run `dyn2raft plan -config FILE`"},
	{[]string{"c", "f", "file", "config-file"}, "-config names the file"},
	{[]string{"table", "region", "endpoint", "path", "node-id", "profile"}, "it stands in the file that -config names, or in a variable of the environment: see docs/commands.md"},
	{[]string{"verbose", "debug", "v"}, "-log-level debug says more"},
	{[]string{"quiet", "q"}, "-log-level warn says less"},
	{[]string{"json", "output"}, "-format json writes JSON"},
}

// noFlag is what to do where cmd has no flag of that name, or "".
func noFlag(cmd *cli.Command, name string) string {
	for _, o := range otherFlags {
		if slices.Contains(o.names, name) {
			return o.hint
		}
	}
	for _, other := range cmd.Root().VisibleCommands() {
		if other != cmd && hasFlag(other, name) {
			return fmt.Sprintf("it is a flag of %s: run `dyn2raft %s -help`", other.Name, other.Name)
		}
	}
	return ""
}

// typographicDash is set where a word begins with a dash that is none of a flag's, as
// documents and chats make it of one, or of two.
func typographicDash(word string) string {
	r, n := utf8.DecodeRuneInString(word)
	if !unicode.Is(unicode.Pd, r) || r == '-' {
		return ""
	}
	return fmt.Sprintf("%s begins with %c (U+%04X), as documents have it, and a flag with -: write -%s", word, r, r, strings.TrimLeft(word[n:], "-"))
}

// noArgument is what to do about an argument of a command that takes none.
func noArgument(cmd *cli.Command, arg string) string {
	if hint := typographicDash(arg); hint != "" {
		return hint
	}
	if hasFlag(cmd, strings.ToLower(arg)) {
		return fmt.Sprintf("did you mean -%s? run `%s -help` for its flags", strings.ToLower(arg), cmd.FullName())
	}
	if name, value, ok := strings.Cut(arg, "="); ok && hasFlag(cmd, name) {
		return fmt.Sprintf("a flag begins with -: `%s`", strings.Join(program(), " ")+" "+shellLine([]string{cmd.Name, "-" + name + "=" + value}))
	}
	flag := "config"
	if strings.HasSuffix(arg, ".dyn2raft.json") && hasFlag(cmd, "manifest") {
		flag = "manifest"
	}
	info, err := os.Stat(arg)
	file := err == nil && info.Mode().IsRegular() || strings.HasSuffix(arg, ".hcl") || strings.HasSuffix(arg, ".json")
	if file && hasFlag(cmd, flag) && !cmd.IsSet(flag) {
		return fmt.Sprintf("name the file with -%s: `%s`", flag, strings.Join(program(), " ")+" "+shellLine([]string{cmd.Name, "-" + flag, arg}))
	}
	return fmt.Sprintf("run `%s -help` for its flags", cmd.FullName())
}
