// Package vaultbenchmark compares two reports of vault-benchmark, one from before
// a migration and one from after it: https://github.com/hashicorp/vault-benchmark.
package vaultbenchmark

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/dyn2raft/dyn2raft/copier"
)

// MaxSize is how many bytes of a report are looked at. Real ones have some
// kilobytes; JSON ones grow with the different errors that they list.
const MaxSize = 64 << 20

// Total is the name of the operation that JSON and verbose reports add: all
// the others together.
const Total = "total"

// An Operation is one test of the benchmark's configuration.
type Operation struct {
	// Name is the second label of the test: "static_secret_writes".
	Name string `json:"name"`
	// Count is the number of requests, and Rate how many a second were sent.
	Count int64   `json:"count"`
	Rate  float64 `json:"rate"`
	// Throughput is how many a second succeeded.
	Throughput float64 `json:"throughput"`
	// Latencies of all requests.
	Mean time.Duration `json:"mean_ns"`
	P95  time.Duration `json:"p95_ns"`
	P99  time.Duration `json:"p99_ns"`
	// Success is the part of the requests that succeeded, from 0 to 1.
	Success float64 `json:"success"`
}

// A Report is what one run of vault-benchmark has measured.
type Report struct {
	// Targets are the addresses of the servers, where the report has them.
	Targets []string `json:"targets,omitempty"`
	// Operations are in the order of the report, each name once. When several
	// targets were measured, the second one's names end with " #2", and so on.
	Operations []Operation `json:"operations"`
}

// The codes of this package's errors: a threshold that can't be, and a text with no
// report in it.
var (
	Threshold = copier.NewCode("benchmark-threshold")
	NoReport  = copier.NewCode("no-benchmark-report")
)

// Parse reads a report in any of vault-benchmark's modes, json, terse and
// verbose, and the table with vertical bars that documents use. Other lines
// around it, such as the log, do no harm. name is for errors, which are
// [copier.ErrConfig].
func Parse(name string, text []byte) (*Report, error) {
	r, err := parse(text)
	if err != nil {
		return nil, &copier.Error{Kind: copier.ErrConfig, Op: "read report " + name, Code: NoReport, Err: err}
	}
	return r, nil
}

func parse(text []byte) (*Report, error) {
	if len(text) > MaxSize {
		return nil, fmt.Errorf("it is larger than %d bytes", MaxSize)
	}
	b := builder{seen: map[string]bool{}}
	var err error
	if start := jsonStart.FindIndex(text); start != nil {
		err = b.json(text[start[1]-1:])
	} else {
		err = b.text(text)
	}
	if err == nil && len(b.report.Operations) == 0 {
		err = errors.New("no operation of a benchmark is in it")
	}
	return &b.report, err
}

// jsonStart finds the first line that begins with a brace.
var jsonStart = regexp.MustCompile(`(?m)^[ \t\r\x{feff}]*\{`)

// A builder collects the operations of a report's sections, one for each target.
type builder struct {
	report  Report
	section int
	seen    map[string]bool
}

func (b *builder) begin(target string) {
	b.section++
	if target != "" && target != "N/A" {
		b.report.Targets = append(b.report.Targets, target)
	}
}

func (b *builder) add(o Operation) error {
	if o.Count == 0 { // what there is of nothing is NaN
		o.Rate, o.Throughput, o.Mean, o.P95, o.P99, o.Success = 0, 0, 0, 0, 0, 0
	}
	for _, v := range []float64{o.Rate, o.Throughput, o.Success} {
		if math.IsNaN(v) || math.IsInf(v, 0) || v < 0 {
			return fmt.Errorf("operation %q has the number %v", o.Name, v)
		}
	}
	if o.Count < 0 || o.Mean < 0 || o.P95 < 0 || o.P99 < 0 || o.Success > 1 {
		return fmt.Errorf("operation %q has numbers that can't be", o.Name)
	}
	if o.Name == "" {
		return errors.New("an operation has no name")
	}
	if b.section > 1 {
		o.Name += fmt.Sprintf(" #%d", b.section)
	}
	if b.seen[o.Name] {
		return fmt.Errorf("operation %q is in it twice", o.Name)
	}
	b.seen[o.Name] = true
	b.report.Operations = append(b.report.Operations, o)
	return nil
}

// metrics are the fields that are compared, of an operation in JSON. Times are
// in nanoseconds.
type metrics struct {
	Latencies *struct {
		Mean *int64 `json:"mean"`
		P95  *int64 `json:"95th"`
		P99  *int64 `json:"99th"`
	} `json:"latencies"`
	Requests   *int64   `json:"requests"`
	Rate       *float64 `json:"rate"`
	Throughput *float64 `json:"throughput"`
	Success    *float64 `json:"success"`
}

// json reads objects one after the other, one for each target. In newer
// reports "metrics" holds the operations, in older ones the object itself.
func (b *builder) json(text []byte) error {
	dec := json.NewDecoder(bytes.NewReader(text))
	for {
		rest := bytes.TrimSpace(text[dec.InputOffset():])
		if !bytes.HasPrefix(rest, []byte("{")) {
			return nil // the log goes on behind the report
		}
		var operations map[string]json.RawMessage
		if err := dec.Decode(&operations); err != nil {
			return fmt.Errorf("read JSON: %w", err)
		}
		var target string
		if addr, m := operations["target_addr"], operations["metrics"]; addr != nil && m != nil {
			operations = nil
			if err := errors.Join(json.Unmarshal(addr, &target), json.Unmarshal(m, &operations)); err != nil {
				return fmt.Errorf("read JSON: %w", err)
			}
		}
		b.begin(target)
		for _, name := range slices.Sorted(maps.Keys(operations)) {
			if err := b.metrics(name, operations[name]); err != nil {
				return err
			}
		}
	}
}

func (b *builder) metrics(name string, value []byte) error {
	var m metrics
	if err := json.Unmarshal(value, &m); err != nil {
		return fmt.Errorf("read operation %q: %w", name, err)
	}
	l := m.Latencies
	if l == nil || l.Mean == nil || l.P95 == nil || l.P99 == nil ||
		m.Requests == nil || m.Rate == nil || m.Throughput == nil || m.Success == nil {
		return fmt.Errorf("operation %q lacks one of latencies.mean, latencies.95th, latencies.99th, requests, rate, throughput, success", name)
	}
	return b.add(Operation{name, *m.Requests, *m.Rate, *m.Throughput,
		time.Duration(*l.Mean), time.Duration(*l.P95), time.Duration(*l.P99), *m.Success})
}

// columns are a terse report's, behind the operation's name.
const columns = "count rate throughput mean 95th% 99th% successRatio"

var logLine = regexp.MustCompile(`\[(TRACE|DEBUG|INFO|WARN|ERROR)\]`)

// verboseFields are what a verbose report tells of an operation, by the labels of its
// lines, which are those of a terse report's columns together.
var verboseFields = map[string][]string{
	"Requests":  {"total", "rate", "throughput"},
	"Latencies": {"mean", "95", "99"},
	"Success":   {"ratio"},
}

// text reads the terse and the verbose mode.
func (b *builder) text(text []byte) error {
	var (
		table   bool                // the last header was a terse table's
		target  string              // the last one named
		last    string              // the last line with something in it, maybe a name
		name    string              // of the operation in a verbose report
		verbose map[string][]string // its lines so far; nil behind the last
	)
	lines := bufio.NewScanner(bytes.NewReader(text))
	lines.Buffer(nil, MaxSize+1)
	for n := 1; lines.Scan(); n++ {
		line := strings.TrimSpace(strings.ReplaceAll(lines.Text(), "|", " "))
		fields := strings.Fields(line)
		label, values := verboseLine(line)
		var err error
		switch {
		case len(fields) == 0:
			table = false
			continue
		case fields[0] == "Target:":
			target = strings.TrimSpace(strings.TrimPrefix(line, "Target:"))
		case fields[0] == "op" && strings.Join(fields[1:], " ") == columns:
			table = true
			b.begin(target)
			target = ""
		case table && strings.Trim(line, "-:+ ") == "": // below the header
		case table:
			// A name may have spaces.
			behind := max(len(fields)-len(strings.Fields(columns)), 0)
			var o Operation
			if o, err = operation(strings.Join(fields[:behind], " "), fields[behind:]); err == nil {
				err = b.add(o)
			} else if logLine.MatchString(line) {
				err, table = nil, false // the log goes on behind the report
			}
		case label == "Requests": // which is the first of an operation
			if b.section == 0 || last == Total { // which is the last of a section
				b.begin("")
			}
			name, verbose = last, map[string][]string{label: values}
		case label != "" && verbose != nil:
			verbose[label] = values
		}
		switch {
		case label == "" || verbose == nil || table:
		case slices.Contains(values, ""):
			err = fmt.Errorf("%s of operation %q: one of %s is missing", label, name, strings.Join(verboseFields[label], ", "))
		case label == "Success" && verbose["Latencies"] == nil:
			err = fmt.Errorf("operation %q lacks its latencies", name)
		case label == "Success": // it comes last
			var o Operation
			if o, err = operation(name, slices.Concat(verbose["Requests"], verbose["Latencies"], values)); err == nil {
				err = b.add(o)
			}
			verbose = nil
		}
		if err != nil {
			return fmt.Errorf("line %d: %w", n, err)
		}
		last = line
	}
	if verbose != nil {
		return fmt.Errorf("it ends in the middle of operation %q", name)
	}
	return lines.Err()
}

// operation reads the values of a terse report's columns.
func operation(name string, v []string) (Operation, error) {
	o := Operation{Name: name}
	if want := len(strings.Fields(columns)); name == "" && len(v) < want {
		return o, fmt.Errorf("a row has %d columns, expected %d", len(v), want+1)
	}
	var errs [7]error
	o.Count, errs[0] = strconv.ParseInt(v[0], 10, 64)
	o.Rate, errs[1] = strconv.ParseFloat(v[1], 64)
	o.Throughput, errs[2] = strconv.ParseFloat(v[2], 64)
	o.Mean, errs[3] = time.ParseDuration(v[3])
	o.P95, errs[4] = time.ParseDuration(v[4])
	o.P99, errs[5] = time.ParseDuration(v[5])
	o.Success, errs[6] = percent(v[6])
	return o, errors.Join(errs[:]...)
}

func percent(s string) (float64, error) {
	number, ok := strings.CutSuffix(s, "%")
	if !ok {
		return 0, fmt.Errorf("%q is no percentage", s)
	}
	v, err := strconv.ParseFloat(number, 64)
	return v / 100, err
}

// verboseLine takes lines such as
//
//	Requests      [total, rate, throughput]         2619, 87.35, 87.20
//
// apart: the label, and the values of its [verboseFields]. The form is that of vegeta,
// which vault-benchmark measures with: https://github.com/tsenart/vegeta.
func verboseLine(line string) (label string, values []string) {
	label, rest, _ := strings.Cut(line, "[")
	names, found, ok := strings.Cut(rest, "]")
	label = strings.TrimSpace(label)
	if !ok || verboseFields[label] == nil {
		return "", nil
	}
	have := strings.Split(strings.ReplaceAll(found, " ", ""), ",")
	all := strings.Split(strings.ReplaceAll(names, " ", ""), ",")
	for _, name := range verboseFields[label] {
		value := ""
		if i := slices.Index(all, name); i >= 0 && i < len(have) {
			value = have[i]
		}
		values = append(values, value)
	}
	return label, values
}
