// Package check adds to what a check has found what the command says about it.
package check

import (
	_ "embed"
	"fmt"
	"os"
	"strings"

	"github.com/dyn2raft/dyn2raft/copier"
)

// A Result is what one check has found, and what to do about it.
type Result struct {
	copier.Finding
	// Hint says what to do, and is empty after a pass and most notes.
	Hint string `json:"hint,omitempty"`
	// Ignored says that a failure was let pass on demand: it is a warning now.
	Ignored bool `json:"ignored,omitempty"`
}

// Words are what to do about a finding, by its check and, behind a slash, its code;
// "*" stands for any check. Names in ${ } are facts.
type Words map[string]string

var (
	//go:embed plan.txt
	plan string
	//go:embed cluster.txt
	cluster string

	// Plan has the words for what the checkers of a copy find, and Cluster those for
	// what package cluster finds.
	Plan, Cluster = words(plan), words(cluster)
)

// words reads lines of "check/code: what to do".
func words(text string) Words {
	w := Words{}
	for line := range strings.Lines(text) {
		if line = strings.TrimSpace(line); line == "" {
			continue
		}
		key, said, ok := strings.Cut(line, ": ")
		if !ok || w[key] != "" {
			panic(fmt.Sprintf("words of a check that are none, or are there twice: %s", line))
		}
		w[key] = said
	}
	return w
}

// Result adds the words to a finding, where there are some. more knows facts that the
// finding has not.
func (w Words) Result(f copier.Finding, more map[string]string) Result {
	r := Result{Finding: f}
	if f.Status == copier.Passed || f.Status == copier.Noted && f.Code == "" {
		return r
	}
	text, ok := w[strings.TrimSuffix(f.Check+"/"+f.Code, "/")]
	if !ok {
		text = w["*/"+f.Code]
	}
	r.Hint = os.Expand(text, func(name string) string {
		if fact, ok := f.Facts[name]; ok {
			return fact
		}
		return more[name]
	})
	return r
}

// Results adds the words to findings.
func (w Words) Results(fs copier.Findings) []Result {
	out := make([]Result, len(fs))
	for i, f := range fs {
		out[i] = w.Result(f, nil)
	}
	return out
}

// Count is the number of results with a status.
func Count(results []Result, s copier.Outcome) (n int) {
	for _, r := range results {
		if r.Status == s {
			n++
		}
	}
	return n
}
