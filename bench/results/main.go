// Command results reads what `go test -bench` prints for all packages, shows
// the measurements that have a goal as one table, and compares them with those
// of the committed bench/RESULTS.md, which it writes anew with -write. `make
// bench` runs it.
//
// It exits with 1 when a benchmark failed or is missing, or when a measurement
// is worse than the committed one by more than its margin. A goal that is not
// met is shown, and is no failure.
package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"runtime"
	"strings"
	"text/tabwriter"
	"time"
)

func main() {
	file := flag.String("file", "bench/RESULTS.md", "the committed results")
	write := flag.Bool("write", false, "write the results to -file")
	flag.Parse()
	if err := run(os.Stdin, os.Stdout, *file, *write, time.Now()); err != nil {
		fmt.Fprintf(os.Stderr, "results: %v\n", err)
		os.Exit(1)
	}
}

func run(in io.Reader, out io.Writer, file string, write bool, now time.Time) error {
	o, err := parse(in)
	if err != nil {
		return fmt.Errorf("read benchmarks: %w", err)
	}
	text, err := os.ReadFile(file)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	committed, err := parseTable(string(text))
	if err != nil {
		return fmt.Errorf("read %s: %w", file, err)
	}
	t := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	_, _ = fmt.Fprintln(t, "WHAT\tAGAINST\tMEASURED\tGOAL\tMET\tCOMMITTED") // kept until Flush
	var results []result
	var problems []error
	for _, row := range rows {
		old, known := committed[row.id()]
		before := "never"
		if known {
			before = number(old.value) + " of " + old.date
		}
		measured, met := "not this time", ""
		value, ok := row.value(o)
		switch {
		case ok:
			measured, met = number(value), yesNo(row.met(value))
			results = append(results, result{row: row, value: value, date: now.Format(time.DateOnly), details: row.fill(o)})
			if known && row.worse(value, old.value) {
				before += " (WORSE)"
				problems = append(problems, fmt.Errorf("%s, against %s: %s, and %s in %s, which is worse by more than the margin of %.0f%%",
					row.What, row.Against, measured, number(old.value), file, 100*row.Margin))
			}
		case known:
			results = append(results, old)
		}
		if !ok && !row.OnRequest {
			problems = append(problems, fmt.Errorf("%s, against %s: not measured", row.What, row.Against))
		}
		_, _ = fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\t%s\n", row.What, row.Against, measured, row.goalText(), met, before)
	}
	if err := t.Flush(); err != nil {
		return err
	}
	if o.failed != "" {
		problems = append(problems, fmt.Errorf("a benchmark failed: %s", o.failed))
	}
	if write && o.failed == "" {
		if err := os.WriteFile(file, []byte(markdown(results, o.cpu, now)), 0o644); err != nil {
			return err
		}
		_, _ = fmt.Fprintf(out, "\nwritten to %s\n", file) // a note only
	}
	return errors.Join(problems...)
}

// markdown is the whole file.
func markdown(results []result, cpu string, now time.Time) string {
	var b strings.Builder
	fmt.Fprintf(&b, "# Measured speed, memory and disk\n\nWritten by `make bench-results` on %s, on %s with %d cores, %s/%s, %s. Rows of another date were\n"+
		"measured on that day, and perhaps on another machine. All figures are ratios, from the same run on the same machine.\n\n",
		now.Format(time.DateOnly), cpu, runtime.NumCPU(), runtime.GOOS, runtime.GOARCH, runtime.Version())
	b.WriteString(tableHead)
	for _, r := range results {
		b.WriteString(r.markdown())
	}
	b.WriteString(how)
	return b.String()
}

func yesNo(b bool) string {
	if b {
		return "yes"
	}
	return "no"
}
