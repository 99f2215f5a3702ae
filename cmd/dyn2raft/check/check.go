// Package check has what commands that look at many things say of each.
package check

// A Status is the outcome of a check.
type Status string

// A Note is what a person should know, and nothing is wrong with it; a Warning is
// what a person should look at and what could not be checked; a Failure is what
// must not be as it is.
const (
	Pass    Status = "pass"
	Note    Status = "note"
	Warning Status = "warning"
	Failure Status = "failure"
)

// A Result is what one check has found.
type Result struct {
	// Check names the check: "unsealed", "disk", "server vault-2".
	Check  string `json:"check"`
	Status Status `json:"status"`
	// Message is what was found, in one line.
	Message string `json:"message"`
	// Hint says what to do, and is empty after a pass.
	Hint string `json:"hint,omitempty"`
	// Unchecked says that the check could not be made: whoever asks may not,
	// or there is no answer. That is a warning, and a failure where something
	// was expected.
	Unchecked bool `json:"unchecked,omitempty"`
	// Ignored says that a failure was let pass on demand: it is a warning now.
	Ignored bool `json:"ignored,omitempty"`
}

// Count is the number of results with a status.
func Count(results []Result, s Status) int {
	n := 0
	for _, r := range results {
		if r.Status == s {
			n++
		}
	}
	return n
}
