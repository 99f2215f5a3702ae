package hints

import (
	_ "embed"
	"fmt"
	"maps"
	"slices"
	"strings"
	"text/template"

	"github.com/dyn2raft/dyn2raft/copier"
	"github.com/dyn2raft/dyn2raft/sources/dynamodb"
)

//go:embed errors.txt
var entriesText string

// An Entry is what a person can look up about a code.
type Entry struct {
	Code copier.Code
	// Status is the exit status, or two of them: "10 or 12".
	Status string
	// Says are the forms of the message, with … for what differs.
	Says []string
	// Means is what has happened. Lost and Again say what is lost, and whether to try
	// again.
	Means, Lost, Again string
	// Do is what to do: the words of the hint, with each fact's name in capitals.
	Do string
	// More are paragraphs, where there is something to judge.
	More []string
}

// Entries are those of all codes, sorted. An error is a fault of errors.txt.
func Entries() ([]Entry, error) {
	_, text, _ := strings.Cut(entriesText, "\n## ")
	codes := copier.Codes()
	var all []Entry
	for part := range strings.SplitSeq(strings.TrimSpace(text), "\n\n## ") {
		e, err := parseEntry(part)
		if err == nil {
			e.Do, err = wordsInGeneral(e.Code, codes)
		}
		if err != nil {
			return nil, fmt.Errorf("entry %s: %w", e.Code, err)
		}
		delete(codes, e.Code)
		all = append(all, e)
	}
	if len(codes) > 0 {
		return nil, fmt.Errorf("these codes have no entry in errors.txt: %s", slices.Sorted(maps.Keys(codes)))
	}
	if !slices.IsSortedFunc(all, func(a, b Entry) int { return strings.Compare(string(a.Code), string(b.Code)) }) {
		return nil, fmt.Errorf("errors.txt is not sorted by code")
	}
	return all, nil
}

// parseEntry reads an entry: its code, lines of "name: text", and paragraphs.
func parseEntry(part string) (e Entry, err error) {
	blocks := strings.Split(part, "\n\n")
	lines := strings.Split(blocks[0], "\n")
	e.Code, e.More = copier.Code(lines[0]), blocks[1:]
	for _, line := range lines[1:] {
		name, text, _ := strings.Cut(line, ": ")
		if name == "says" {
			e.Says = append(e.Says, text)
			continue
		}
		field := map[string]*string{"status": &e.Status, "means": &e.Means, "lost": &e.Lost, "again": &e.Again}[name]
		if field == nil || *field != "" || text == "" {
			return e, fmt.Errorf("unknown or repeated line %q", line)
		}
		*field = text
	}
	if slices.Contains([]string{e.Status, e.Means, e.Lost, e.Again}, "") || e.Says == nil {
		return e, fmt.Errorf("a line is missing: status, says, means, lost or again")
	}
	return e, nil
}

// wordsInGeneral are the words for a code without an error: with each fact's name in
// capitals.
func wordsInGeneral(code copier.Code, codes map[copier.Code][]string) (string, error) {
	names, ok := codes[code]
	if !ok {
		return "", fmt.Errorf("there is no such code, or it comes twice")
	}
	facts := map[string]string{}
	for _, name := range names {
		facts[name] = strings.ToUpper(name)
	}
	if code == dynamodb.Denied {
		facts["policy"] = " POLICY" // it is what comes behind AWS's "a"
	}
	words, err := parseWords(&copier.Error{Code: code})
	if err != nil {
		return "", err
	}
	var said strings.Builder
	words.Funcs(template.FuncMap{
		"size": func(s string) string { return s },
		"aws":  func() string { return "correct the setting or variable that the hint names" },
	})
	err = words.Execute(&said, facts)
	return said.String(), err
}
