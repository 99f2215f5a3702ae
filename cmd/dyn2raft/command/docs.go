package command

import (
	"bytes"
	"context"
	_ "embed"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"text/template"
	"time"

	"github.com/urfave/cli/v3"

	"github.com/dyn2raft/dyn2raft/cmd/dyn2raft/hints"
	"github.com/dyn2raft/dyn2raft/cmd/dyn2raft/plan"
	"github.com/dyn2raft/dyn2raft/copier"
	"github.com/dyn2raft/dyn2raft/copier/vaultconfig"
)

// docsCommand prints what is made of the tree of commands, docs/commands.md and the manual
// page, and docs/errors.md, which is made of the errors' codes.
//
// The templates are ours: urfave's cli-docs leaves a command's description
// out, sorts flags by name, gives them two dashes, shows hidden defaults, and
// panics on a "|" in a description.
func docsCommand(std Streams) *cli.Command {
	docs := newCommand(std, "docs", runDocs)
	docs.Hidden = true
	return docs
}

func runDocs(_ context.Context, cmd *cli.Command, std Streams, _ *printer) error {
	form, known := map[string]func() ([]byte, error){"markdown": markdown, "errors": errorsPage, "man": man}[cmd.Args().First()]
	if !known || cmd.Args().Len() != 1 {
		return &usageError{"which form?", "run `dyn2raft docs markdown`, `dyn2raft docs errors` or `dyn2raft docs man`"}
	}
	text, err := form()
	if err != nil {
		return err
	}
	_, err = std.Out.Write(text)
	return err
}

//go:embed docs.md.tmpl
var markdownTemplate string

//go:embed errors.md.tmpl
var errorsTemplate string

//go:embed docs.1.tmpl
var manTemplate string

// markdown is docs/commands.md. Nothing in it depends on the machine or on
// the version, since it is compared with the committed file.
func markdown() ([]byte, error) {
	return execute(markdownTemplate, template.FuncMap{
		"cell":   func(s string) string { return strings.ReplaceAll(s, "|", `\|`) },
		"code":   func(s string) string { return variableName.ReplaceAllString(s, "`$0`") },
		"indent": func(s string) string { return "    " + strings.ReplaceAll(s, "\n", "\n    ") },
	})
}

// errorsPage is docs/errors.md.
func errorsPage() ([]byte, error) {
	entries, err := hints.Entries()
	if err != nil {
		return nil, err
	}
	return executeOn(errorsTemplate, template.FuncMap{"text": inMarkdown, "withStatus": func(status string) (codes []string) {
		for _, e := range entries {
			if slices.Contains(strings.Split(e.Status, " or "), status) {
				codes = append(codes, fmt.Sprintf("[%s](#%[1]s)", e.Code))
			}
		}
		return codes
	}}, entries)
}

var flagInText = regexp.MustCompile(`(^|[ (])(-[a-z][a-z-]*[a-z](?:=[a-z]+)?)\b`)

// inMarkdown puts the flags in a text for people into spans of code.
func inMarkdown(text string) string {
	parts := strings.Split(strings.ReplaceAll(text, "<", "&lt;"), "`")
	for i := 0; i < len(parts); i += 2 {
		parts[i] = flagInText.ReplaceAllString(parts[i], "$1`$2`")
	}
	return strings.Join(parts, "`")
}

// man is the manual page dyn2raft(1), with the version and the date of this
// build.
func man() ([]byte, error) {
	return execute(manTemplate, template.FuncMap{"roff": roff, "lines": strings.Lines, "version": versionString, "date": func() string {
		day, err := time.Parse(time.RFC3339, date)
		if err != nil {
			return "" // not a release
		}
		return day.Format(time.DateOnly)
	}})
}

func execute(text string, functions template.FuncMap) ([]byte, error) {
	functions["paragraphs"] = paragraphs
	return executeOn(text, functions, newReference())
}

func executeOn(text string, functions template.FuncMap, data any) ([]byte, error) {
	t, err := template.New("").Funcs(functions).Parse(text)
	if err != nil {
		return nil, fmt.Errorf("parse template of the reference: %w", err)
	}
	var out bytes.Buffer
	if err := t.Execute(&out, data); err != nil {
		return nil, fmt.Errorf("write the reference: %w", err)
	}
	return out.Bytes(), nil
}

// A reference is what the templates show.
type reference struct {
	*cli.Command
	Documented  []documented
	Variables   []variable
	AWS         []awsInput
	ExitMeaning []exitMeaning
	Checks      []documentedCheck
}

// A documentedCheck is a check with the exit status of a copy that it stops.
type documentedCheck struct {
	plan.Check
	Status string
}

type documented struct {
	*cli.Command
	Options, Advanced []option
	Examples          []example
}

// An option is a flag without its dash. Default is empty where there is none.
type option struct{ Name, Value, Type, Default, Usage string }

// Full is the usage with the default.
func (o option) Full() string {
	if o.Default == "" {
		return o.Usage
	}
	return o.Usage + " (default: " + o.Default + ")"
}

type variable struct{ Names, Meaning string }

func newReference() reference {
	r := reference{Command: root(Streams{}), ExitMeaning: exitMeanings, AWS: awsInputs}
	for _, c := range plan.Checks() {
		d := documentedCheck{Check: c}
		if c.AtCopy == copier.Failed {
			d.Status = strconv.Itoa(exitStatus(c.Kind))
		}
		r.Checks = append(r.Checks, d)
	}
	for _, c := range r.Commands {
		if c.Hidden {
			continue
		}
		d := documented{Command: c, Examples: helps[c.Name].Examples}
		d.Options, d.Advanced = options(c)
		r.Documented = append(r.Documented, d)
	}
	var keys []string
	names := map[string][]string{}
	for _, v := range vaultconfig.Environment() {
		if names[v.Key] == nil {
			keys = append(keys, v.Key)
		}
		names[v.Key] = append(names[v.Key], v.Name)
	}
	for _, key := range keys {
		r.Variables = append(r.Variables, variable{strings.Join(names[key], ", else "), "beats " + key + " of the configuration"})
	}
	r.Variables = append(r.Variables, otherVariables...)
	return r
}

// otherVariables are those that are not read by package vaultconfig.
var otherVariables = []variable{
	{"VAULT_CLUSTER_ADDR", "must not differ from the configuration's cluster_addr: a Vault server would take the variable"},
	{"AWS_ACCESS_KEY_ID, AWS_ENDPOINT_URL, HTTPS_PROXY, AWS_PROFILE, …", "what the AWS SDK reads: see \"AWS configuration\""},
	{"VAULT_ADDR, VAULT_TOKEN, VAULT_CACERT, …", "of check-cluster: the server, as the vault command takes it"},
	{"GOMEMLIMIT", "beats the default of -memory as the limit of the garbage collector"},
	{"GOGC", "how much garbage there may be, in percent of the memory in use, instead of 10"},
	{"NO_COLOR, TERM", "no colours where NO_COLOR is not empty; neither colours nor a live block where TERM is dumb"},
}

var (
	variableName = regexp.MustCompile(`[A-Z][A-Z0-9_]{3,}`)
	quotedWord   = regexp.MustCompile("`([^`]+)`")
	defaultText  = regexp.MustCompile(`[ ]\(default: ([^()]*)\)$`)
)

// newOption takes a flag apart. As in its help, the first quoted word of its
// usage names the value; a default that is no plain value stands at the
// usage's end.
func newOption(name string, flag cli.DocGenerationFlag) option {
	o := option{Name: name, Type: flag.TypeName(), Usage: flag.GetUsage()}
	if found := quotedWord.FindStringSubmatchIndex(o.Usage); found != nil && flag.TakesValue() {
		o.Value = o.Usage[found[2]:found[3]]
		o.Usage = o.Usage[:found[0]] + o.Value + o.Usage[found[1]:]
	} else if flag.TakesValue() {
		o.Value = o.Type
	}
	if found := defaultText.FindStringSubmatchIndex(o.Usage); found != nil {
		o.Default = o.Usage[found[2]:found[3]]
		o.Usage = o.Usage[:found[0]]
	} else if visible, ok := flag.(interface{ IsDefaultVisible() bool }); flag.TakesValue() && ok && visible.IsDefaultVisible() {
		o.Default = flag.GetValue()
		if o.Type == "string" {
			o.Default = strings.Trim(o.Default, `"`)
		}
		o.Default = strings.TrimSuffix(o.Default, "m0s") + map[bool]string{true: "m"}[strings.HasSuffix(o.Default, "m0s")]
	}
	return o
}

// paragraphs joins lines that were broken for the help.
func paragraphs(text string) []string {
	all := strings.Split(text, "\n\n")
	for i := range all {
		all[i] = strings.ReplaceAll(all[i], "\n", " ")
	}
	return all
}

var roffQuoted = strings.NewReplacer(`\`, `\e`, "-", `\-`, "'", `\(aq`, "`", "", "…", "...")

// roff writes text for a manual page, in lines of at most 80 characters that
// don't begin with a control character.
func roff(text string) string {
	text = hanging("", strings.Join(strings.Fields(roffQuoted.Replace(text)), " "), 80)
	return strings.TrimPrefix(strings.ReplaceAll("\n"+text, "\n.", "\n"+`\&.`), "\n")
}
