package copier

import (
	"errors"
	"fmt"
)

// An Outcome is how a check ends.
type Outcome string

// Noted is what a person should know and what is not wrong. Warned is what a person
// should look at, and what could not be checked. Failed is what must not be so.
const (
	Passed Outcome = "pass"
	Noted  Outcome = "note"
	Warned Outcome = "warning"
	Failed Outcome = "failure"
)

// A Finding is what one check has found. What to do about it is not a part of it:
// Check and Code, or the code of Err, are what a program finds words by.
type Finding struct {
	// Check names the check: "clock", "server vault-2". It is stable.
	Check  string  `json:"check"`
	Status Outcome `json:"status"`
	// Message says what was found, in one line.
	Message string `json:"message"`
	// Unchecked is set where the check could not be made: whoever asks may not,
	// or there is no answer.
	Unchecked bool `json:"unchecked,omitempty"`
	// Code distinguishes the findings of one check. It is empty for the most common
	// one. Facts are the values that its words need.
	Code  string            `json:"-"`
	Facts map[string]string `json:"-"`
	// Err is the error that the message is about, if any.
	Err error `json:"-"`
}

// With adds facts: names, each with its value behind it.
func (f *Finding) With(facts ...string) {
	if f.Facts == nil {
		f.Facts = map[string]string{}
	}
	for i := 0; i+1 < len(facts); i += 2 {
		f.Facts[facts[i]] = facts[i+1]
	}
}

// Findings are what a [Checker] has found, in the order of its checks. Its methods
// add a finding; a %w in the format sets its Err.
type Findings []Finding

func (f *Findings) add(s Outcome, check, code, format string, a ...any) *Finding {
	err := fmt.Errorf(format, a...)
	*f = append(*f, Finding{Check: check, Status: s, Message: err.Error(), Code: code, Err: errors.Unwrap(err)})
	return &(*f)[len(*f)-1]
}

// Pass adds what is as it should be.
func (f *Findings) Pass(check, format string, a ...any) { f.add(Passed, check, "", format, a...) }

// Note adds what is not wrong. A code says that there is more to say about it.
func (f *Findings) Note(check, code, format string, a ...any) {
	f.add(Noted, check, code, format, a...)
}

// Warn adds what a person should look at.
func (f *Findings) Warn(check, code, format string, a ...any) *Finding {
	return f.add(Warned, check, code, format, a...)
}

// Fail adds what is wrong.
func (f *Findings) Fail(check, code, format string, a ...any) *Finding {
	return f.add(Failed, check, code, format, a...)
}

// Count is the number of findings with a status.
func (f Findings) Count(s Outcome) (n int) {
	for i := range f {
		if f[i].Status == s {
			n++
		}
	}
	return n
}
