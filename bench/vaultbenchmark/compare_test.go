package vaultbenchmark

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/dyn2raft/dyn2raft/copier"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// The table that the migration guide of HashiCorp shows.
const guide = `
| op                   | count | rate      | throughput | mean        | 95th%       | 99th%        | successRatio |
|----------------------|-------|-----------|------------|-------------|-------------|--------------|--------------|
| approle_logins       | 2619  | 87.350307 | 87.195473  | 61.307741ms | 78.387069ms | 94.788229ms  | 100.00%      |
| static_secret_writes | 2536  | 84.530378 | 84.369422  | 55.059506ms | 82.072336ms | 109.441173ms | 100.00%      |
`

const terse = `2026-11-24T00:21:37.000Z [INFO]  vault-benchmark: setting up targets
Target: http://127.0.0.1:8200
op                    count  rate       throughput  mean         95th%        99th%         successRatio
approle_logins        2619   87.350307  87.195473   61.307741ms  78.387069ms  94.788229ms   100.00%
static_secret_writes  2536   84.530378  84.369422   55.059506ms  82.072336ms  109.441173ms  100.00%
2026-11-24T00:22:07.000Z [INFO]  vault-benchmark: cleaning up targets
`

// Written by hand to the form of vegeta's text report.
const verbose = `
total
Requests      [total, rate, throughput]         5155, 171.88, 171.57
Duration      [total, attack, wait]             30.047s, 29.992s, 55ms
Latencies     [min, mean, 50, 90, 95, 99, max]  10ms, 58.23ms, 55ms, 75ms, 80.1ms, 102.5ms, 1m0.5s
Bytes In      [total, mean]                     100, 0.02
Bytes Out     [total, mean]                     0, 0.00
Success       [ratio]                           100.00%
Status Codes  [code:count]                      200:5155  
Error Set:

approle_logins
Requests      [total, rate, throughput]         2619, 87.350307, 87.195473
Duration      [total, attack, wait]             30.047s, 29.992s, 55ms
Latencies     [min, mean, 50, 90, 95, 99, max]  10ms, 61.307741ms, 55ms, 75ms, 78.387069ms, 94.788229ms, 1m0.5s
Bytes In      [total, mean]                     100, 0.02
Bytes Out     [total, mean]                     0, 0.00
Success       [ratio]                           100.00%
Status Codes  [code:count]                      200:2618  500:1  
Error Set:
500 Internal Server Error

static_secret_writes
Requests      [total, rate, throughput]         2536, 84.530378, 84.369422
Duration      [total, attack, wait]             30.047s, 29.992s, 55ms
Latencies     [min, mean, 50, 90, 95, 99, max]  10ms, 55.059506ms, 55ms, 75ms, 82.072336ms, 109.441173ms, 1m0.5s
Bytes In      [total, mean]                     100, 0.02
Bytes Out     [total, mean]                     0, 0.00
Success       [ratio]                           100.00%
Status Codes  [code:count]                      200:2536  
Error Set:
`

func jsonOperation(mean, p95, p99 time.Duration, count int, rate, throughput, success float64) string {
	return fmt.Sprintf(`{"latencies":{"total":1,"mean":%d,"50th":2,"90th":3,"95th":%d,"99th":%d,"max":4,"min":1},
 "bytes_in":{"total":1,"mean":0.1},"earliest":"2026-11-24T00:26:05.016666748Z","duration":30000000000,"wait":1,
 "requests":%d,"rate":%v,"throughput":%v,"success":%v,"status_codes":{"200":%[4]d},"errors":[]}`,
		mean, p95, p99, count, rate, throughput, success)
}

var jsonOperations = fmt.Sprintf(`{"approle_logins":%s,"static_secret_writes":%s,"total":%s}`,
	jsonOperation(61307741, 78387069, 94788229, 2619, 87.350307, 87.195473, 1),
	jsonOperation(55059506, 82072336, 109441173, 2536, 84.530378, 84.369422, 1),
	jsonOperation(58230000, 80100000, 102500000, 5155, 171.88, 171.57, 1))

var newJSON = `{"target_addr":"http://127.0.0.1:8200","metrics":` + jsonOperations + "}\n"

var want = []Operation{
	{"approle_logins", 2619, 87.350307, 87.195473, 61307741, 78387069, 94788229, 1},
	{"static_secret_writes", 2536, 84.530378, 84.369422, 55059506, 82072336, 109441173, 1},
	{"total", 5155, 171.88, 171.57, 58230000, 80100000, 102500000, 1},
}

// Every mode tells the same of the same run.
func TestModes(t *testing.T) {
	for name, c := range map[string]struct {
		text    string
		total   bool
		targets []string
	}{
		"guide":        {guide, false, nil},
		"terse":        {terse, false, []string{"http://127.0.0.1:8200"}},
		"CRLF":         {strings.ReplaceAll(terse, "\n", "\r\n"), false, []string{"http://127.0.0.1:8200"}},
		"verbose":      {verbose, true, nil},
		"JSON":         {newJSON, true, []string{"http://127.0.0.1:8200"}},
		"old JSON":     {jsonOperations, true, nil},
		"JSON in logs": {"2026 [INFO]  vault-benchmark: setting up\n" + newJSON + "2026 [INFO]  done\n", true, []string{"http://127.0.0.1:8200"}},
	} {
		t.Run(name, func(t *testing.T) {
			r, err := Parse("x", []byte(c.text))
			if err != nil {
				t.Fatal(err)
			}
			if !slices.Equal(r.Targets, c.targets) {
				t.Errorf("targets %q, expected %q", r.Targets, c.targets)
			}
			want := want
			if !c.total {
				want = want[:2]
			}
			got := slices.Clone(r.Operations)
			slices.SortFunc(got, func(a, b Operation) int { return strings.Compare(a.Name, b.Name) })
			if !slices.Equal(got, want) {
				t.Errorf("got\n%+v, expected\n%+v", got, want)
			}
		})
	}
}

func TestSeveralTargets(t *testing.T) {
	for name, text := range map[string]string{"JSON": newJSON + newJSON, "terse": terse + terse, "verbose": verbose + verbose} {
		r, err := Parse("x", []byte(text))
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		var names []string
		for _, o := range r.Operations {
			names = append(names, o.Name)
		}
		if !slices.Contains(names, "approle_logins") || !slices.Contains(names, "approle_logins #2") || slices.Contains(names, "approle_logins #3") {
			t.Errorf("%s: operations %q", name, names)
		}
		c, err := Compare(r, r, DefaultThreshold)
		if err != nil {
			t.Fatal(err)
		}
		for i, l := range c.Lines {
			if total := strings.HasPrefix(l.Name, Total); total != (i >= 4) {
				t.Errorf("%s: line %d is %q: totals come last", name, i, l.Name)
			}
		}
	}
}

func TestNames(t *testing.T) {
	text := strings.ReplaceAll(terse, "approle_logins      ", "logins of the night ")
	r, err := Parse("x", []byte(text))
	if err != nil || r.Operations[0].Name != "logins of the night" {
		t.Fatalf("%+v, %v", r, err)
	}
}

// No requests leave NaN in a table.
func TestNoRequests(t *testing.T) {
	text := "op count rate throughput mean 95th% 99th% successRatio\nidle 0 NaN 0.000000 0s 0s 0s NaN%\n"
	r, err := Parse("x", []byte(text))
	if err != nil || r.Operations[0] != (Operation{Name: "idle"}) {
		t.Fatalf("%+v, %v", r, err)
	}
	if _, err := Parse("x", []byte(strings.Replace(text, "idle 0", "idle 1", 1))); err == nil {
		t.Error("NaN of a request was taken")
	}
}

func TestBadReports(t *testing.T) {
	for name, c := range map[string]struct{ text, want string }{
		"empty":           {"", "no operation"},
		"log only":        {"2026 [INFO] vault-benchmark: setting up\n", "no operation"},
		"empty JSON":      {"{}", "no operation"},
		"cut JSON":        {newJSON[:len(newJSON)/2], "read JSON"},
		"second cut":      {newJSON + newJSON[:99], "read JSON"},
		"other JSON":      {`{"a":1}`, `operation "a"`},
		"missing field":   {strings.Replace(newJSON, `"99th"`, `"98th"`, 1), "lacks"},
		"no throughput":   {strings.Replace(newJSON, `"throughput"`, `"through"`, 1), "lacks"},
		"null operation":  {`{"a":null}`, "lacks"},
		"wrong type":      {strings.Replace(newJSON, `"mean":61307741`, `"mean":"61ms"`, 1), "approle_logins"},
		"negative":        {strings.Replace(newJSON, `"mean":61307741`, `"mean":-5`, 1), "can't be"},
		"two successes":   {strings.Replace(newJSON, `"success":1`, `"success":2`, 1), "can't be"},
		"bad target":      {strings.Replace(newJSON, `"http://127.0.0.1:8200"`, `5`, 1), "read JSON"},
		"short row":       {terse[:strings.Index(terse, "static_secret_writes  2536")] + "static_secr\n", "line 5: a row has 1 columns"},
		"bad number":      {strings.Replace(terse, "87.350307", "fast", 1), "line 4"},
		"bad duration":    {strings.Replace(terse, "61.307741ms", "61", 1), "missing unit"},
		"no percentage":   {strings.Replace(terse, "100.00%", "1.00", 1), "percentage"},
		"twice":           {strings.Replace(terse, "static_secret_writes", "approle_logins", 1), "twice"},
		"cut verbose":     {verbose[:strings.LastIndex(verbose, "Success")], "in the middle"},
		"no latencies":    {strings.Replace(verbose, "Latencies", "Latency", 1), "lacks its latencies"},
		"old vegeta":      {strings.ReplaceAll(verbose, ", throughput", ""), "Requests of operation"},
		"verbose no name": {strings.TrimPrefix(verbose, "\ntotal\n"), "no name"},
	} {
		t.Run(name, func(t *testing.T) {
			r, err := Parse("a.json", []byte(c.text))
			if err == nil || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), "a.json") {
				t.Fatalf("got %+v, %v, expected %q", r, err, c.want)
			}
			if code, _ := copier.CodeOf(err); !errors.Is(err, copier.ErrConfig) || code != NoReport {
				t.Errorf("kind or hint missing: %#v", err)
			}
		})
	}
	if _, err := Parse("x", make([]byte, MaxSize+1)); err == nil || !strings.Contains(err.Error(), "larger") {
		t.Errorf("too large: %v", err)
	}
}

func base() Operation {
	return Operation{"op", 5000, 100, 100, 50 * time.Millisecond, 80 * time.Millisecond, 100 * time.Millisecond, 1}
}

func TestVerdicts(t *testing.T) {
	for name, c := range map[string]struct {
		change  func(a, b *Operation)
		verdict Verdict
		reasons []string
		note    bool
	}{
		"same":              {func(a, b *Operation) {}, Same, nil, false},
		"exactly at it":     {func(a, b *Operation) { b.Mean, b.Throughput = 55*time.Millisecond, 90 }, Same, nil, false},
		"mean":              {func(a, b *Operation) { b.Mean = 56 * time.Millisecond }, Slower, []string{"mean +12%"}, false},
		"95th":              {func(a, b *Operation) { b.P95 = 89 * time.Millisecond }, Slower, []string{"95th +11%"}, false},
		"99th":              {func(a, b *Operation) { b.P99 = 200 * time.Millisecond }, Slower, []string{"99th +100%"}, false},
		"throughput":        {func(a, b *Operation) { b.Throughput = 80 }, Slower, []string{"throughput -20%"}, false},
		"stopped":           {func(a, b *Operation) { b.Throughput = 0 }, Slower, []string{"throughput -100%"}, false},
		"rate decides not":  {func(a, b *Operation) { b.Rate, b.Count = 10, 1000 }, Same, nil, false},
		"faster":            {func(a, b *Operation) { b.Throughput, b.Mean = 200, 25*time.Millisecond }, Faster, []string{"throughput +100%", "mean -50%"}, false},
		"mixed":             {func(a, b *Operation) { b.Throughput, b.P99 = 200, time.Second }, Slower, []string{"99th +900%"}, false},
		"errors":            {func(a, b *Operation) { b.Success = 0.999 }, Errors, []string{"failed 0.10%, was 0.00%"}, false},
		"errors and slower": {func(a, b *Operation) { b.Success, b.Mean = 0.9, time.Second }, Errors, []string{"failed 10.00%, was 0.00%", "mean +1900%"}, false},
		"as many errors":    {func(a, b *Operation) { a.Success, b.Success = 0.9, 0.895 }, Same, nil, false},
		"fewer errors":      {func(a, b *Operation) { a.Success = 0.9 }, Same, nil, false},
		"few requests":      {func(a, b *Operation) { b.Count = 99 }, Same, nil, true},
		"none in A":         {func(a, b *Operation) { *a = Operation{Name: "op"} }, NoData, nil, false},
		"none in B":         {func(a, b *Operation) { *b = Operation{Name: "op"} }, Errors, []string{"no request in B"}, false},
		"unknown in A":      {func(a, b *Operation) { a.P99 = 0 }, Same, nil, false},
	} {
		t.Run(name, func(t *testing.T) {
			a, b := base(), base()
			c.change(&a, &b)
			got, err := Compare(&Report{Operations: []Operation{a}}, &Report{Operations: []Operation{b}}, DefaultThreshold)
			if err != nil {
				t.Fatal(err)
			}
			l := got.Lines[0]
			if l.Verdict != c.verdict || !slices.Equal(l.Reasons, c.reasons) || (l.Note != "") != c.note {
				t.Errorf("got %s %q %q, expected %s %q", l.Verdict, l.Reasons, l.Note, c.verdict, c.reasons)
			}
			if worse := c.verdict != Same && c.verdict != Faster; got.Worse != worse || got.Verdict != c.verdict {
				t.Errorf("in all %s, worse %v", got.Verdict, got.Worse)
			}
			if _, err := json.Marshal(got); err != nil {
				t.Errorf("no JSON: %v", err)
			}
		})
	}
}

func TestMissing(t *testing.T) {
	op := func(name string) Operation { o := base(); o.Name = name; return o }
	report := func(names ...string) *Report {
		r := &Report{}
		for _, n := range names {
			r.Operations = append(r.Operations, op(n))
		}
		return r
	}
	for name, c := range map[string]struct {
		a, b    *Report
		lines   string
		verdict Verdict
		worse   bool
	}{
		"in B":          {report("x", "y"), report("x"), "x same,y only in A", OnlyInA, true},
		"in A":          {report("x"), report("y", "x"), "x same,y only in B", Same, false},
		"all":           {report("x"), report("y"), "x only in A,y only in B", OnlyInA, true},
		"total in A":    {report("total", "x"), report("x"), "x same", Same, false},
		"total in B":    {report("x"), report("total", "x"), "x same", Same, false},
		"total is last": {report("total", "x"), report("total", "x"), "x same,total same", Same, false},
		"only totals":   {report("total"), report("total"), "total same", NoData, true},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := Compare(c.a, c.b, DefaultThreshold)
			if err != nil {
				t.Fatal(err)
			}
			var lines []string
			for _, l := range got.Lines {
				lines = append(lines, l.Name+" "+string(l.Verdict))
			}
			if strings.Join(lines, ",") != c.lines || got.Verdict != c.verdict || got.Worse != c.worse {
				t.Errorf("%q, %s, worse %v", lines, got.Verdict, got.Worse)
			}
		})
	}
	// A total that is slower decides nothing.
	a, b := report("x", "total"), report("x", "total")
	b.Operations[1].Mean *= 10
	if got, err := Compare(a, b, DefaultThreshold); err != nil || got.Worse || got.Lines[1].Verdict != Slower {
		t.Errorf("%+v, %v", got, err)
	}
}

func TestThreshold(t *testing.T) {
	a, b := base(), base()
	b.Mean = 60 * time.Millisecond
	for threshold, worse := range map[float64]bool{0.05: true, 0.19: true, 0.21: false, 0.5: false} {
		got, err := Compare(&Report{Operations: []Operation{a}}, &Report{Operations: []Operation{b}}, threshold)
		if err != nil || got.Worse != worse {
			t.Errorf("threshold %v: worse %v, %v", threshold, got.Worse, err)
		}
	}
	for _, bad := range []float64{0, -1, 1, 2, math.NaN(), math.Inf(1)} {
		if _, err := Compare(&Report{}, &Report{}, bad); !errors.Is(err, copier.ErrConfig) {
			t.Errorf("threshold %v: %v", bad, err)
		}
	}
}

// What is parsed has names, and numbers that can be, and is the same as itself.
func FuzzParse(f *testing.F) {
	for _, text := range []string{guide, terse, verbose, newJSON, jsonOperations, newJSON + newJSON} {
		f.Add([]byte(text))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		r, err := Parse("x", text)
		if err != nil {
			return
		}
		if len(r.Operations) == 0 {
			t.Fatal("a report without operations")
		}
		for _, o := range r.Operations {
			if o.Name == "" || o.Count < 0 || o.Mean < 0 || o.P95 < 0 || o.P99 < 0 || !(o.Success >= 0 && o.Success <= 1) ||
				!(o.Rate >= 0) || !(o.Throughput >= 0) {
				t.Fatalf("operation %+v", o)
			}
		}
		c, err := Compare(r, r, DefaultThreshold)
		if err != nil {
			t.Fatal(err)
		}
		if c.Worse && c.Verdict != NoData || c.Verdict == Faster {
			t.Fatalf("differs from itself: %+v", c)
		}
		if _, err := json.Marshal(c); err != nil {
			t.Fatal(err)
		}
	})
}
