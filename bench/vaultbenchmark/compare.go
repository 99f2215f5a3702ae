package vaultbenchmark

import (
	"fmt"
	"math"
	"slices"
	"strings"

	"github.com/dyn2raft/dyn2raft/copier"
)

// DefaultThreshold is the part by which a number has to differ to count: 10%.
const DefaultThreshold = 0.1

// fewRequests is below what a 99th percentile means anything: it would be the
// slowest request or the one before.
const fewRequests = 1000

// resolution is what a terse report's success ratio, 99.98%, can tell apart.
const resolution = 0.00005

// A Verdict is what the comparison of one operation comes to.
type Verdict string

// Errors is a larger part of failed requests in B, and comes before Slower.
// OnlyInA and OnlyInB are operations that the other report lacks.
const (
	Same    Verdict = "same"
	Faster  Verdict = "faster"
	Slower  Verdict = "slower"
	Errors  Verdict = "errors"
	OnlyInA Verdict = "only in A"
	OnlyInB Verdict = "only in B"
	// NoData is an operation without requests in A.
	NoData Verdict = "no data"
)

// Worse reports whether B can't be called as good as A.
func (v Verdict) Worse() bool { return v == Slower || v == Errors || v == OnlyInA }

// Ratios are B's numbers divided by A's, and 0 where A's is 0.
type Ratios struct {
	Count      float64 `json:"count"`
	Rate       float64 `json:"rate"`
	Throughput float64 `json:"throughput"`
	Mean       float64 `json:"mean"`
	P95        float64 `json:"p95"`
	P99        float64 `json:"p99"`
	Success    float64 `json:"success"`
}

// A Line compares one operation.
type Line struct {
	Name string `json:"name"`
	// A or B is nil where the report lacks the operation, and Ratio is then too.
	A     *Operation `json:"a"`
	B     *Operation `json:"b"`
	Ratio *Ratios    `json:"ratio"`
	// Verdict compares throughput and latencies, and the requests that failed.
	Verdict Verdict `json:"verdict"`
	// Reasons are the numbers that made the verdict: "99th +31%".
	Reasons []string `json:"reasons,omitempty"`
	// Note says what weakens the verdict.
	Note string `json:"note,omitempty"`
}

// A Comparison is the outcome for two reports.
type Comparison struct {
	Threshold float64 `json:"threshold"`
	// Lines are in A's order, then those that only B has, then the total.
	Lines []Line `json:"lines"`
	// Worse says that B is not as good as A in at least one operation, or that
	// nothing could be compared. The total decides nothing: it moves with the
	// mix of operations.
	Worse bool `json:"worse"`
	// Verdict is that of the operations together: Errors, Slower or OnlyInA,
	// whichever the worst has; NoData where nothing could be compared; Faster
	// where one is faster; else Same.
	Verdict Verdict `json:"verdict"`
}

// Compare compares B's report with A's. Numbers that differ by less than the
// threshold, such as 0.1, are the same: latencies count that are more than 10%
// higher or lower, and a throughput likewise. An operation is slower when one of
// throughput, mean, 95th and 99th percentile is worse, and faster when none is
// and one is better. The error is [copier.ErrConfig].
func Compare(a, b *Report, threshold float64) (*Comparison, error) {
	if !(threshold > 0 && threshold < 1) {
		return nil, &copier.Error{Kind: copier.ErrConfig, Op: "compare reports", Code: Threshold,
			Err: fmt.Errorf("the threshold is %g%%, expected more than 0%% and less than 100%%", threshold*100)}
	}
	c := &Comparison{Threshold: threshold}
	named := func(r *Report, name string) *Operation {
		if i := slices.IndexFunc(r.Operations, func(o Operation) bool { return o.Name == name }); i >= 0 {
			return &r.Operations[i]
		}
		return nil
	}
	names := map[string]bool{}
	var totals []Line
	for _, o := range slices.Concat(a.Operations, b.Operations) {
		if names[o.Name] {
			continue
		}
		names[o.Name] = true
		l := compare(o.Name, named(a, o.Name), named(b, o.Name), threshold)
		if !isTotal(o.Name) {
			c.Lines = append(c.Lines, l)
		} else if l.Ratio != nil { // terse reports have none, which means nothing
			totals = append(totals, l)
		}
	}
	c.Verdict = verdict(c.Lines)
	c.Worse = c.Verdict.Worse() || c.Verdict == NoData
	c.Lines = append(c.Lines, totals...)
	return c, nil
}

// isTotal reports whether an operation is the sum of a section.
func isTotal(name string) bool { return name == Total || strings.HasPrefix(name, Total+" #") }

// verdict is the first of these that an operation has.
func verdict(lines []Line) Verdict {
	for _, v := range []Verdict{Errors, Slower, OnlyInA, Faster, Same} {
		if slices.ContainsFunc(lines, func(l Line) bool { return l.Verdict == v }) {
			return v
		}
	}
	return NoData
}

func compare(name string, a, b *Operation, threshold float64) Line {
	l := Line{Name: name, A: a, B: b, Verdict: Same}
	if b == nil {
		l.Verdict = OnlyInA
		return l
	}
	if a == nil {
		l.Verdict = OnlyInB
		return l
	}
	l.Ratio = &Ratios{
		Count:      ratio(float64(a.Count), float64(b.Count)),
		Rate:       ratio(a.Rate, b.Rate),
		Throughput: ratio(a.Throughput, b.Throughput),
		Mean:       ratio(float64(a.Mean), float64(b.Mean)),
		P95:        ratio(float64(a.P95), float64(b.P95)),
		P99:        ratio(float64(a.P99), float64(b.P99)),
		Success:    ratio(a.Success, b.Success),
	}
	if a.Count == 0 {
		l.Verdict = NoData
		return l
	}
	if b.Count == 0 {
		l.Verdict, l.Reasons = Errors, []string{"no request in B"}
		return l
	}
	if n := min(a.Count, b.Count); n < fewRequests {
		l.Note = fmt.Sprintf("only %d requests: the 99th percentile is uncertain; let the benchmark run longer", n)
	}
	slower, faster := l.Ratio.judge(a, threshold)
	switch failedA, failedB := 1-a.Success, 1-b.Success; {
	case failedB > failedA*(1+threshold)+resolution:
		l.Verdict = Errors
		l.Reasons = append([]string{fmt.Sprintf("failed %.2f%%, was %.2f%%", failedB*100, failedA*100)}, slower...)
	case len(slower) > 0:
		l.Verdict, l.Reasons = Slower, slower
	case len(faster) > 0:
		l.Verdict, l.Reasons = Faster, faster
	}
	return l
}

func ratio(a, b float64) float64 {
	if r := b / a; a > 0 && !math.IsInf(r, 0) {
		return r
	}
	return 0
}

// judge names the numbers that differ by more than the threshold. What A has
// not is not compared.
func (r *Ratios) judge(a *Operation, threshold float64) (slower, faster []string) {
	for _, x := range []struct {
		name   string
		ratio  float64
		known  bool
		higher bool // is better
	}{
		{"throughput", r.Throughput, a.Throughput > 0, true},
		{"mean", r.Mean, a.Mean > 0, false},
		{"95th", r.P95, a.P95 > 0, false},
		{"99th", r.P99, a.P99 > 0, false},
	} {
		change := x.ratio - 1
		if !x.known || math.Abs(change) <= threshold+1e-9 { // 1.1 - 1 is a bit more than 0.1
			continue
		}
		reason := fmt.Sprintf("%s %+.0f%%", x.name, change*100)
		if (change > 0) == x.higher {
			faster = append(faster, reason)
		} else {
			slower = append(slower, reason)
		}
	}
	return slower, faster
}
