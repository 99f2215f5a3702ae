package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// An output is what benchmarks printed.
type output struct {
	cpu    string
	failed string // the line that says so
	// values holds each benchmark's results by its name and unit, one for
	// each time that it ran.
	values map[metric][]float64
}

type metric struct{ bench, unit string }

// UnmarshalText reads the two words of a metric.
func (m *metric) UnmarshalText(text []byte) error {
	var ok bool
	if m.bench, m.unit, ok = strings.Cut(string(text), " "); !ok {
		return fmt.Errorf("%q is no benchmark and unit", text)
	}
	return nil
}

// get returns the median of a metric.
func (o output) get(m metric) (float64, bool) {
	v := slices.Sorted(slices.Values(o.values[m]))
	if len(v) == 0 {
		return 0, false
	}
	return v[len(v)/2], true
}

// The number of processors at the end of a benchmark's name.
var procs = regexp.MustCompile(`-\d+$`)

// parse reads the format of Go's benchmarks
// (https://go.googlesource.com/proposal/+/master/design/14313-benchmark-format.md):
// a name, the number of iterations, and pairs of value and unit. All other
// lines are left out, but for those that name the processor or tell of a failure.
func parse(in io.Reader) (output, error) {
	o := output{values: map[metric][]float64{}, cpu: "an unknown processor"}
	lines := bufio.NewScanner(in)
	for lines.Scan() {
		line := lines.Text()
		if cpu, ok := strings.CutPrefix(line, "cpu: "); ok {
			o.cpu = strings.Join(strings.Fields(cpu), " ") // some come padded
		}
		if strings.HasPrefix(line, "FAIL") || strings.HasPrefix(strings.TrimSpace(line), "--- FAIL") {
			o.failed = strings.TrimSpace(line)
		}
		f := strings.Fields(line)
		if len(f) < 4 || len(f)%2 != 0 || !strings.HasPrefix(f[0], "Benchmark") {
			continue
		}
		if _, err := strconv.Atoi(f[1]); err != nil {
			continue
		}
		name := procs.ReplaceAllString(f[0], "")
		for i := 2; i < len(f); i += 2 {
			v, err := strconv.ParseFloat(f[i], 64)
			if err != nil {
				return o, fmt.Errorf("%q: %w", line, err)
			}
			m := metric{name, f[i+1]}
			o.values[m] = append(o.values[m], v)
		}
	}
	if err := lines.Err(); err != nil {
		return o, err
	}
	if len(o.values) == 0 {
		return o, errors.New("there is not one benchmark in the input")
	}
	return o, nil
}

// A result is a row of the table, measured.
type result struct {
	row
	value   float64
	date    string
	details string
}

const tableHead = "| what | against | measured | goal | met | on | in figures |\n|---|---|---|---|---|---|---|\n"

func (r result) markdown() string {
	return fmt.Sprintf("| %s | %s | %s | %s | %s | %s | %s |\n", r.What, r.Against, number(r.value), r.goalText(), yesNo(r.met(r.value)), r.date, r.details)
}

// parseTable reads the rows that markdown has written, by their id. Rows that
// are not known any more are left out.
func parseTable(text string) (map[string]result, error) {
	results := map[string]result{}
	for line := range strings.Lines(text) {
		cells := strings.Split(strings.TrimSpace(line), "|")
		if len(cells) != 9 {
			continue
		}
		for i := range cells {
			cells[i] = strings.TrimSpace(cells[i])
		}
		for _, row := range rows {
			if row.id() != cells[1]+"|"+cells[2] {
				continue
			}
			v, err := strconv.ParseFloat(cells[3], 64)
			if err != nil {
				return nil, fmt.Errorf("row %q: %w", line, err)
			}
			results[row.id()] = result{row: row, value: v, date: cells[6], details: cells[7]}
		}
	}
	return results, nil
}

// number writes a ratio with three digits.
func number(v float64) string {
	switch {
	case v >= 100:
		return fmt.Sprintf("%.0f", v)
	case v >= 10:
		return fmt.Sprintf("%.1f", v)
	case v >= 0.1:
		return fmt.Sprintf("%.2f", v)
	default:
		return fmt.Sprintf("%.2g", v) // not 0.00, which everything is worse than
	}
}
