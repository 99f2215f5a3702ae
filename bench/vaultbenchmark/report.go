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
	var b builder
	var err error
	if start := jsonStart(text); start >= 0 {
		err = b.json(text[start:])
	} else {
		err = b.text(text)
	}
	if err != nil {
		return nil, err
	}
	if len(b.report.Operations) == 0 {
		return nil, errors.New("no operation of a benchmark is in it")
	}
	return &b.report, nil
}

// jsonStart is where the first line begins that begins with a brace, or -1.
func jsonStart(text []byte) int {
	for at := 0; at < len(text); {
		line, _, _ := bytes.Cut(text[at:], []byte("\n"))
		if bytes.HasPrefix(bytes.TrimLeft(line, " \t\r\xef\xbb\xbf"), []byte("{")) {
			return at + bytes.IndexByte(line, '{')
		}
		at += len(line) + 1
	}
	return -1
}

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
	if b.seen == nil {
		b.seen = map[string]bool{}
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
			if err := b.operation(name, operations[name]); err != nil {
				return err
			}
		}
	}
}

func (b *builder) operation(name string, value []byte) error {
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

// text reads the terse and the verbose mode.
func (b *builder) text(text []byte) error {
	var (
		table   bool      // the last header was a terse table's
		target  string    // the last one named
		last    string    // the last line with something in it, maybe a name
		verbose Operation // the one being read
		have    map[string]bool
	)
	lines := bufio.NewScanner(bytes.NewReader(text))
	lines.Buffer(nil, MaxSize+1)
	for n := 1; lines.Scan(); n++ {
		line := strings.TrimSpace(strings.ReplaceAll(lines.Text(), "|", " "))
		fields := strings.Fields(line)
		label, values, isVerbose := verboseLine(line)
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
			o, err := row(fields)
			if err == nil {
				err = b.add(o)
			} else if logLine.MatchString(line) {
				err, table = nil, false // the log goes on behind the report
			}
			if err != nil {
				return fmt.Errorf("line %d: %w", n, err)
			}
		case isVerbose:
			if label == "Requests" {
				if b.section == 0 || last == Total { // which is the first of a section
					b.begin("")
				}
				verbose, have = Operation{Name: last}, map[string]bool{}
			}
			if have == nil {
				break
			}
			if err := verbose.set(label, values); err != nil {
				return fmt.Errorf("line %d: %w", n, err)
			}
			have[label] = true
			if label == "Success" { // it comes last
				if !have["Latencies"] {
					return fmt.Errorf("line %d: operation %q lacks its latencies", n, verbose.Name)
				}
				have = nil
				if err := b.add(verbose); err != nil {
					return fmt.Errorf("line %d: %w", n, err)
				}
			}
		}
		last = line
	}
	if have != nil {
		return fmt.Errorf("it ends in the middle of operation %q", verbose.Name)
	}
	return lines.Err()
}

// row reads a line of a terse table. A name may have spaces.
func row(fields []string) (o Operation, err error) {
	const behind = 7
	if len(fields) <= behind {
		return o, fmt.Errorf("a row has %d columns, expected %d", len(fields), behind+1)
	}
	v := fields[len(fields)-behind:]
	o.Name = strings.Join(fields[:len(fields)-behind], " ")
	var errs [behind]error
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
// apart: the label, and the values by their names. The form is that of vegeta,
// which vault-benchmark measures with: https://github.com/tsenart/vegeta.
func verboseLine(line string) (label string, values map[string]string, ok bool) {
	label, rest, ok1 := strings.Cut(line, "[")
	names, rest, ok2 := strings.Cut(rest, "]")
	label = strings.TrimSpace(label)
	if !ok1 || !ok2 || (label != "Requests" && label != "Latencies" && label != "Success") {
		return "", nil, false
	}
	values = map[string]string{}
	found := strings.Split(rest, ",")
	for i, name := range strings.Split(names, ",") {
		if i < len(found) {
			values[strings.TrimSpace(name)] = strings.TrimSpace(found[i])
		}
	}
	return label, values, true
}

func (o *Operation) set(label string, values map[string]string) error {
	var errs []error
	number := func(name string) float64 {
		v, err := strconv.ParseFloat(values[name], 64)
		errs = append(errs, err)
		return v
	}
	duration := func(name string) time.Duration {
		v, err := time.ParseDuration(values[name])
		errs = append(errs, err)
		return v
	}
	switch label {
	case "Requests":
		n, err := strconv.ParseInt(values["total"], 10, 64)
		errs = append(errs, err)
		o.Count, o.Rate, o.Throughput = n, number("rate"), number("throughput")
	case "Latencies":
		o.Mean, o.P95, o.P99 = duration("mean"), duration("95"), duration("99")
	case "Success":
		v, err := percent(values["ratio"])
		errs = append(errs, err)
		o.Success = v
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("%s of operation %q: %w", label, o.Name, err)
	}
	return nil
}
