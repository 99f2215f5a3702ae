package command

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/dustin/go-humanize"
	"github.com/urfave/cli/v3"

	"github.com/dyn2raft/dyn2raft/bench/vaultbenchmark"
	"github.com/dyn2raft/dyn2raft/cmd/dyn2raft/hints"
	"github.com/dyn2raft/dyn2raft/cmd/dyn2raft/visible"
	"github.com/dyn2raft/dyn2raft/copier"
)

// errWorse is returned when the second benchmark is worse than the first and
// the comparison says where.
var errWorse = fmt.Errorf("the second benchmark is worse than the first: %w", errDifferent)

func benchCompareCommand(std Streams) *cli.Command {
	return newCommand(std, "bench-compare", runBenchCompare,
		[]cli.Flag{
			&cli.StringFlag{Name: "threshold", Value: "10%", Usage: "`percent` by which a number has to differ to count"},
		},
		shared("format"),
	)
}

func runBenchCompare(_ context.Context, cmd *cli.Command, _ Streams, out *printer) error {
	if cmd.NArg() != 2 {
		return &usageError{fmt.Sprintf("%s takes two files, and got %d", cmd.FullName(), cmd.NArg()),
			fmt.Sprintf("as in: %s cluster_a.json cluster_b.json", cmd.FullName())}
	}
	threshold, err := strconv.ParseFloat(strings.TrimSpace(strings.TrimSuffix(cmd.String("threshold"), "%")), 64)
	if err != nil || !(threshold > 0 && threshold < 100) {
		return &usageError{fmt.Sprintf("-threshold is %q", cmd.String("threshold")), "it takes a percentage above 0% and below 100%, such as 10%"}
	}
	a, err := readBenchmark(cmd.Args().Get(0))
	if err != nil {
		return err
	}
	b, err := readBenchmark(cmd.Args().Get(1))
	if err != nil {
		return err
	}
	c, err := vaultbenchmark.Compare(a, b, threshold/100)
	if err != nil {
		return err
	}
	return out.benchmarksCompared(c)
}

func readBenchmark(path string) (*vaultbenchmark.Report, error) {
	bad := func(err error) error {
		return hints.With(&copier.Error{Kind: copier.ErrConfig, Op: "read report", Err: err}, "give the two files that hold what vault-benchmark has printed")
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, bad(err)
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, vaultbenchmark.MaxSize+1))
	if err != nil {
		return nil, bad(err)
	}
	return vaultbenchmark.Parse(path, text)
}

// benchmarksCompared writes the result of bench-compare.
func (p *printer) benchmarksCompared(c *vaultbenchmark.Comparison) error {
	var result error
	if c.Worse {
		result = errWorse
	}
	if p.json {
		return errors.Join(p.encode(c), result)
	}
	// An operation's name has a line of its own, since it may be long.
	var text strings.Builder
	above := map[int]string{} // by the row that it stands above
	rows := 1
	t := &table{w: columns(&text)}
	t.row("", "COUNT\tRATE/S\tTHROUGHPUT/S\tMEAN\t95TH\t99TH\tSUCCESS")
	for _, l := range c.Lines {
		above[rows] = visible.Text(l.Name)
		rows += 2
		for _, side := range []struct {
			name string
			op   *vaultbenchmark.Operation
		}{{"A", l.A}, {"B", l.B}} {
			if o := side.op; o != nil {
				t.row("  "+side.name, "%s\t%.2f\t%.2f\t%s\t%s\t%s\t%.2f%%", humanize.Comma(o.Count), o.Rate, o.Throughput,
					latency(o.Mean), latency(o.P95), latency(o.P99), o.Success*100)
			} else {
				t.row("  "+side.name, "-\t-\t-\t-\t-\t-\t-")
			}
		}
		if r := l.Ratio; r != nil {
			rows++
			t.row("  B/A", "%s\t%s\t%s\t%s\t%s\t%s\t%s", times(r.Count), times(r.Rate), times(r.Throughput),
				times(r.Mean), times(r.P95), times(r.P99), times(r.Success))
		}
	}
	errs := []error{t.flush()}
	for i, line := range strings.Split(text.String(), "\n") {
		if name, ok := above[i]; ok {
			errs = append(errs, p.line(name))
		}
		errs = append(errs, p.line(line))
	}
	verdicts := p.summary()
	for _, l := range c.Lines {
		text := string(l.Verdict)
		if l.Verdict.Worse() {
			text = strings.ToUpper(text)
		}
		if len(l.Reasons) > 0 {
			text += ": " + strings.Join(l.Reasons, ", ")
		}
		if l.Note != "" {
			text += " (" + l.Note + ")"
		}
		verdicts.row(visible.Text(l.Name), "%s", text)
	}
	errs = append(errs, verdicts.flush(), p.line(hanging("", inAll(c), p.columns())))
	return errors.Join(append(errs, result)...)
}

// inAll is the last line: what the comparison comes to.
func inAll(c *vaultbenchmark.Comparison) string {
	limit := strconv.FormatFloat(c.Threshold*100, 'g', 6, 64) + "%"
	switch c.Verdict {
	case vaultbenchmark.Errors:
		return "WORSE: more requests fail in B than in A."
	case vaultbenchmark.Slower:
		return fmt.Sprintf("WORSE: B is slower than A by more than %s in at least one operation.", limit)
	case vaultbenchmark.OnlyInA:
		return "NOT COMPARABLE: B lacks an operation of A. Run the same tests on both."
	case vaultbenchmark.NoData:
		return "NOT COMPARABLE: no operation has requests in both."
	case vaultbenchmark.Faster:
		return fmt.Sprintf("Faster: B is nowhere worse than A by more than %s, and better in at least one operation.", limit)
	default:
		return fmt.Sprintf("Same: B and A differ by at most %s.", limit)
	}
}

// latency has three digits or so.
func latency(d time.Duration) string {
	for unit := time.Duration(1); unit < time.Hour; unit *= 10 {
		if d < 1000*unit {
			return d.Round(unit).String()
		}
	}
	return d.Round(time.Second).String()
}

// times is a ratio, or a dash where there is none.
func times(ratio float64) string {
	if ratio == 0 {
		return "-"
	}
	return strconv.FormatFloat(ratio, 'f', 2, 64) + "x"
}
