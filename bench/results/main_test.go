package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// benchmarks is what `go test -bench` prints when each row measures f times its
// goal, in the good direction for f > 1.
func benchmarks(f float64, skip func(row) bool) string {
	var b strings.Builder
	b.WriteString("goos: linux\ncpu: A Processor @ 1 GHz\npkg: x\n")
	for _, r := range rows {
		if skip != nil && skip(r) {
			continue
		}
		v := r.Goal / f
		if r.AtLeast {
			v = r.Goal * f
		}
		fmt.Fprintf(&b, "%s-2 \t 3\t %v %s\t 7.00 copy-s\n", r.Over.bench, v, r.Over.unit)
		if r.Under != (metric{}) {
			fmt.Fprintf(&b, "%s-2 \t 3\t 1 %s\n", r.Under.bench, r.Under.unit)
		}
	}
	b.WriteString("PASS\nok  \tx\t1.0s\n")
	return b.String()
}

func runText(t *testing.T, in, file string, write bool, day int) (string, error) {
	t.Helper()
	var out strings.Builder
	err := run(strings.NewReader(in), &out, file, write, time.Date(2026, 11, day, 0, 0, 0, 0, time.UTC))
	return out.String(), err
}

func TestResults(t *testing.T) {
	file := filepath.Join(t.TempDir(), "RESULTS.md")
	good := benchmarks(1.5, nil)
	if out, err := runText(t, good, file, true, 1); err != nil || strings.Contains(out, "WORSE") {
		t.Fatalf("%v\n%s", err, out)
	}
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"A Processor @ 1 GHz", "| ≥ 100 | yes | 2026-11-01 | 7.00 s", "| 150 |"} {
		if !strings.Contains(string(text), want) {
			t.Errorf("no %q in\n%s", want, text)
		}
	}

	// Within the noise nothing is said, and nothing is written.
	if out, err := runText(t, benchmarks(1.45, nil), file, false, 2); err != nil || strings.Contains(out, "WORSE") {
		t.Errorf("%v\n%s", err, out)
	}
	if now, _ := os.ReadFile(file); string(now) != string(text) {
		t.Error("the file was written without -write")
	}
	// Better is never a failure, and a goal missed is none as long as it was so before.
	if _, err := runText(t, benchmarks(5, nil), file, false, 2); err != nil {
		t.Error(err)
	}

	// Beyond it every row is named.
	_, err = runText(t, benchmarks(0.7, nil), file, false, 2)
	for _, r := range rows {
		if err == nil || !strings.Contains(err.Error(), r.What+", against "+r.Against) {
			t.Errorf("no error for %s: %v", r.id(), err)
		}
	}

	// What is only measured on request keeps its row and its date; other rows
	// must be there.
	out, err := runText(t, benchmarks(1.5, func(r row) bool { return r.OnRequest }), file, true, 3)
	if err != nil || !strings.Contains(out, "of 2026-11-01") {
		t.Errorf("%v\n%s", err, out)
	}
	text, _ = os.ReadFile(file)
	if old, fresh := strings.Count(string(text), "| 2026-11-01 |"), strings.Count(string(text), "| 2026-11-03 |"); old == 0 || fresh == 0 || old+fresh != len(rows) {
		t.Errorf("%d rows kept and %d new of %d:\n%s", old, fresh, len(rows), text)
	}
	if _, err := runText(t, benchmarks(1.5, func(r row) bool { return r.Over.bench == "BenchmarkHotPath" }), file, false, 3); err == nil {
		t.Error("a missing benchmark is no error")
	}
}

func TestResultsRefuse(t *testing.T) {
	file := filepath.Join(t.TempDir(), "RESULTS.md")
	for name, in := range map[string]string{
		"nothing":            "PASS\nok x 1s\n",
		"a failed benchmark": benchmarks(1.5, nil) + "--- FAIL: BenchmarkX\nFAIL\n",
		"a broken line":      benchmarks(1.5, nil) + "BenchmarkX 3 x ns/op\n",
	} {
		if _, err := runText(t, in, file, true, 1); err == nil {
			t.Errorf("%s: no error", name)
		}
		if _, err := os.Stat(file); err == nil {
			t.Errorf("%s: the file was written", name)
		}
	}
	if err := os.WriteFile(file, []byte(tableHead+"| "+rows[0].What+" | "+rows[0].Against+" | fast | x | yes | x | |\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := runText(t, benchmarks(1.5, nil), file, false, 1); err == nil {
		t.Error("a damaged file is no error")
	}
}

// TestOtherSize leaves out what was measured on a table of another size.
func TestOtherSize(t *testing.T) {
	for _, r := range rows {
		if r.Entries == 0 {
			continue
		}
		for n, want := range map[float64]bool{r.Entries: true, r.Entries / 10: false} {
			o, err := parse(strings.NewReader(fmt.Sprintf("%s-2 1 5 %s %v entries\n", r.Over.bench, r.Over.unit, n)))
			if v, ok := r.value(o); err != nil || ok != want || ok && v != 5 {
				t.Errorf("%s with %v entries: %v, %v, %v", r.id(), n, v, ok, err)
			}
		}
	}
}

// TestSmallNumber keeps a small measurement apart from nothing.
func TestSmallNumber(t *testing.T) {
	for v, want := range map[float64]string{0.00231: "0.0023", 0.123: "0.12", 1.055: "1.05", 12.34: "12.3", 123.4: "123"} {
		if got := number(v); got != want {
			t.Errorf("%v is written as %s, expected %s", v, got, want)
		}
	}
}

// TestMedian takes the middle of several runs.
func TestMedian(t *testing.T) {
	o, err := parse(strings.NewReader("BenchmarkA-8 1 5 x\nBenchmarkA-8 1 1 x\nBenchmarkA-8 1 2 x 9 y\nBenchmarkA says something else\n"))
	if v, ok := o.get(metric{"BenchmarkA", "x"}); err != nil || !ok || v != 2 {
		t.Errorf("%v %v %v", v, ok, err)
	}
	if _, ok := o.get(metric{"BenchmarkA", "z"}); ok {
		t.Error("an unknown unit has a value")
	}
}
