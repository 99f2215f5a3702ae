package command

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/go-hclog"
	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
	"github.com/rogpeppe/go-internal/testscript"

	"github.com/dyn2raft/dyn2raft/copier"
	"github.com/dyn2raft/dyn2raft/sources/dynamodb"
)

// busy is a printer of a copy that has been through everything that there are
// metrics of.
func busy() *printer {
	p := &printer{log: hclog.NewNullLogger()}
	for _, e := range []copier.Event{
		copier.PhaseStarted{Phase: copier.PhaseLock, Source: copier.Info{Name: "table", ID: "arn", Items: 100_000, Bytes: 1 << 30}},
		copier.PhaseStarted{Phase: copier.PhaseScan, Segments: 4},
		copier.Resuming{Entries: 1000, Bytes: 5000, Markers: 3, Saved: time.Now().Add(-time.Minute)},
		copier.WorkersChanged{Workers: 7},
		copier.PageRead{Entries: 10, Bytes: 50, Markers: 2, Counts: copier.Counts{dynamodb.ReadCapacityUnits: 12.5}, SegmentDone: true},
		copier.Retried{Err: errors.New("reset by peer")},
		copier.Retried{Err: errors.New("slow down"), Throttled: true},
		copier.Retried{Err: errors.New("slow down"), Throttled: true},
		copier.Checkpointed{Entries: 5, Bytes: 25, Time: time.Now().Add(-2 * time.Second)},
		copier.Loaded{Entries: 6},
		copier.Followed{Records: 21, Delay: 1500 * time.Millisecond, Noted: 22, Pending: 23, Applied: 24, Ready: true, Expected: 2500 * time.Millisecond},
	} {
		p.event(e)
	}
	time.Sleep(time.Millisecond) // so that there is a rate
	return p
}

func get(t *testing.T, h http.Handler, path string) (status int, body string) {
	t.Helper()
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequest(http.MethodGet, path, nil))
	return w.Code, w.Body.String()
}

// exported is what /metrics has.
func exported(t *testing.T, p *printer) map[string]*dto.MetricFamily {
	t.Helper()
	status, body := get(t, p.handler(time.Minute), "/metrics")
	if status != http.StatusOK {
		t.Fatalf("status %d: %s", status, body)
	}
	parser := expfmt.NewTextParser(model.LegacyValidation)
	families, err := parser.TextToMetricFamilies(strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	return families
}

// TestMetrics compares each metric with the events.
func TestMetrics(t *testing.T) { synctest.Test(t, testMetrics) }

func testMetrics(t *testing.T) {
	families := exported(t, busy())
	want := map[string]float64{
		`dyn2raft_source_info{id="arn",table="table"}`: 1,
		`dyn2raft_phase{phase="prepare"}`:              0,
		`dyn2raft_phase{phase="lock"}`:                 0,
		`dyn2raft_phase{phase="scan"}`:                 1,
		`dyn2raft_phase{phase="load"}`:                 0,
		`dyn2raft_phase{phase="check"}`:                0,
		`dyn2raft_phase{phase="follow"}`:               0,
		`dyn2raft_phase{phase="drain"}`:                0,
		`dyn2raft_phase{phase="commit"}`:               0,
		`dyn2raft_phase{phase="cleanup"}`:              0,
		"dyn2raft_resumed":                             1,
		"dyn2raft_source_items":                        100_000,
		"dyn2raft_source_bytes":                        1 << 30,
		"dyn2raft_entries_read_total":                  1010,
		"dyn2raft_bytes_read_total":                    5050,
		"dyn2raft_markers_read_total":                  5,
		"dyn2raft_entries_loaded_total":                6,
		"dyn2raft_read_capacity_units_total":           12.5,
		"dyn2raft_throttles_total":                     2,
		"dyn2raft_retries_total":                       1,
		"dyn2raft_segments":                            4,
		"dyn2raft_segments_done":                       1,
		"dyn2raft_workers":                             7,
		"dyn2raft_checkpoint_entries":                  1005,
		"dyn2raft_live_ready":                          1,
		"dyn2raft_live_expected_downtime_seconds":      2.5,
		"dyn2raft_live_lag_records":                    21,
		"dyn2raft_live_lag_seconds":                    1.5,
		"dyn2raft_live_pending_keys":                   23,
		"dyn2raft_live_noted_keys_total":               22,
		"dyn2raft_live_applied_changes_total":          24,
	}
	about := map[string][2]float64{ // that depend on the time
		"dyn2raft_checkpoint_age_seconds": {2, 30},
		"dyn2raft_estimated_seconds_left": {1e-9, 1e9},
		"dyn2raft_idle_seconds":           {1e-9, 30},
		"dyn2raft_start_time_seconds":     {float64(time.Now().Add(-time.Minute).Unix()), float64(time.Now().Unix() + 1)},
		fmt.Sprintf("dyn2raft_build_info{go=%q,version=%q}", runtime.Version(), versionString()): {1, 1},
	}
	for name, family := range families {
		for _, m := range family.Metric {
			var labels []string
			for _, l := range m.Label {
				labels = append(labels, fmt.Sprintf("%s=%q", l.GetName(), l.GetValue()))
			}
			slices.Sort(labels)
			full := name
			if labels != nil {
				full += "{" + strings.Join(labels, ",") + "}"
			}
			value := m.GetGauge().GetValue() + m.GetCounter().GetValue()
			exact, ok := want[full]
			if between, also := about[full]; also && value >= between[0] && value <= between[1] || ok && exact == value {
				delete(want, full)
				delete(about, full)
			} else {
				t.Errorf("%s is %v", full, value)
			}
		}
	}
	if len(want)+len(about) > 0 {
		t.Errorf("missing: %v %v", want, about)
	}

	// A name that nobody should have chosen is a label's value all the same.
	odd := &printer{}
	odd.tracker.Event(copier.PhaseStarted{Phase: copier.PhaseLock, Source: copier.Info{Name: "a\"} 1\n\\b\xff", ID: "é"}})
	if got := exported(t, odd)["dyn2raft_source_info"].Metric[0].Label; got[0].GetValue() != "é" || got[1].GetValue() != "a\"} 1\n\\b?" {
		t.Errorf("labels %v", got)
	}

	// What is not known yet is not there.
	families = exported(t, &printer{})
	for _, name := range []string{"dyn2raft_source_info", "dyn2raft_start_time_seconds", "dyn2raft_checkpoint_age_seconds", "dyn2raft_estimated_seconds_left"} {
		if families[name] != nil {
			t.Errorf("%s is there before anything happened", name)
		}
	}
	if got := families["dyn2raft_resumed"].Metric[0].GetGauge().GetValue(); got != 0 {
		t.Errorf("resumed: %v", got)
	}
}

// TestMetricsDocumented compares docs/metrics.md with what is exported.
func TestMetricsDocumented(t *testing.T) {
	text, err := os.ReadFile(filepath.Join("..", "..", "..", "docs", "metrics.md"))
	if err != nil {
		t.Fatal(err)
	}
	documented := map[string]string{}
	for _, m := range regexp.MustCompile("(?m)^\\| `(\\w+)` \\| (\\w+) \\| .+ \\|$").FindAllStringSubmatch(string(text), -1) {
		documented[m[1]] = m[2]
	}
	got := map[string]string{}
	for name, family := range exported(t, busy()) {
		got[name] = strings.ToLower(family.GetType().String())
		if family.GetHelp() == "" {
			t.Errorf("%s has no help", name)
		}
	}
	if !maps.Equal(got, documented) {
		t.Errorf("exported\n%v\ndocumented\n%v", got, documented)
	}
	for _, name := range regexp.MustCompile(`dyn2raft_\w+`).FindAllString(string(text), -1) {
		if got[name] == "" {
			t.Errorf("the document speaks of %s, which is not exported", name)
		}
	}
	if len(got) != len(metrics) {
		t.Errorf("%d metrics are exported, and there are %d", len(got), len(metrics))
	}
}

// TestDashboard looks at each query of the dashboard, and its layout.
func TestDashboard(t *testing.T) {
	text, err := os.ReadFile(filepath.Join("..", "..", "..", "docs", "grafana-dashboard.json"))
	if err != nil {
		t.Fatal(err)
	}
	var dashboard struct {
		Title, UID string
		Panels     []struct {
			ID      int
			Title   string
			Type    string
			GridPos struct{ X, Y, W, H int }
			Targets []struct{ Expr, RefID string }
		}
		Templating struct {
			List []struct{ Name, Query string }
		}
		Annotations struct{ List []struct{ Expr string } }
	}
	if err := json.Unmarshal(text, &dashboard); err != nil {
		t.Fatal(err)
	}
	families := exported(t, busy())
	used := map[string]bool{}
	check := func(where, expr string) {
		names := regexp.MustCompile(`dyn2raft_\w+`).FindAllString(expr, -1)
		if len(names) == 0 {
			t.Errorf("%s asks for no metric: %q", where, expr)
		}
		for _, name := range names {
			used[name] = true
			if families[name] == nil {
				t.Errorf("%s asks for %s, which is not exported", where, name)
			}
		}
		for _, m := range regexp.MustCompile(`rate\((\w+)`).FindAllStringSubmatch(expr, -1) {
			if families[m[1]].GetType() != dto.MetricType_COUNTER {
				t.Errorf("%s asks for the rate of %s, which is no counter", where, m[1])
			}
		}
		if strings.Count(expr, "(") != strings.Count(expr, ")") || strings.Count(expr, "{") != strings.Count(expr, "}") {
			t.Errorf("%s: brackets in %q", where, expr)
		}
	}
	cells, ids := map[[2]int]string{}, map[int]bool{}
	for _, p := range dashboard.Panels {
		if p.Title == "" || p.Type == "" || ids[p.ID] || len(p.Targets) == 0 {
			t.Errorf("panel %+v", p)
		}
		ids[p.ID] = true
		refs := map[string]bool{}
		for _, target := range p.Targets {
			check(p.Title, target.Expr)
			if refs[target.RefID] {
				t.Errorf("%s has two queries %s", p.Title, target.RefID)
			}
			refs[target.RefID] = true
		}
		for x := p.GridPos.X; x < p.GridPos.X+p.GridPos.W; x++ {
			for y := p.GridPos.Y; y < p.GridPos.Y+p.GridPos.H; y++ {
				if at := [2]int{x, y}; cells[at] != "" || x >= 24 {
					t.Fatalf("%s and %s are both at %v, or it is outside", p.Title, cells[at], at)
				}
				cells[[2]int{x, y}] = p.Title
			}
		}
	}
	for _, v := range dashboard.Templating.List {
		if v.Name != "datasource" {
			check("variable "+v.Name, v.Query)
		}
	}
	for _, a := range dashboard.Annotations.List {
		check("annotation", a.Expr)
	}
	for _, m := range metrics {
		if !used[m.name] {
			t.Errorf("the dashboard does not show %s", m.name)
		}
	}
}

// TestHealth looks at when a command is healthy.
func TestHealth(t *testing.T) { synctest.Test(t, testHealth) }

func testHealth(t *testing.T) {
	p := busy()
	ask := func(patience time.Duration) (int, string) { return get(t, p.handler(patience), "/healthz") }
	if status, body := ask(time.Minute); status != http.StatusOK || body != "ok, in phase scan\n" {
		t.Errorf("%d %q", status, body)
	}
	p.mu.Lock()
	p.moved = time.Now().Add(-time.Minute)
	p.mu.Unlock()
	p.event(copier.Retried{Err: errors.New("no such host")}) // is nothing new
	if status, body := ask(time.Minute); status != http.StatusServiceUnavailable || !regexp.MustCompile(`^nothing was done for 1m0s in phase scan; last error: no such host\n$`).MatchString(body) {
		t.Errorf("%d %q", status, body)
	}
	if status, _ := ask(2 * time.Minute); status != http.StatusOK {
		t.Errorf("status %d before its time", status)
	}
	p.event(copier.PageRead{})
	if status, _ := ask(time.Minute); status != http.StatusOK {
		t.Errorf("status %d with a page read", status)
	}
	p.event(copier.PhaseStarted{Phase: copier.PhaseCheck}) // in which there is no event
	p.mu.Lock()
	p.moved = time.Now().Add(-time.Hour)
	p.mu.Unlock()
	if status, _ := ask(time.Minute); status != http.StatusOK {
		t.Errorf("status %d in the check phase", status)
	}
}

func TestMetricsAddress(t *testing.T) {
	for value, want := range map[string]struct {
		addr     string
		wildcard bool
	}{
		"9100": {"127.0.0.1:9100", false}, ":9100": {"127.0.0.1:9100", false}, ":0": {"127.0.0.1:0", false},
		"localhost:1": {"localhost:1", false}, "10.1.2.3:1": {"10.1.2.3:1", false}, "[::1]:1": {"[::1]:1", false},
		"0.0.0.0:9100": {"0.0.0.0:9100", true}, "[::]:9100": {"[::]:9100", true},
	} {
		if addr, wildcard, err := metricsAddress(value); err != nil || addr != want.addr || wildcard != want.wildcard {
			t.Errorf("%s: %s, wildcard %v, expected %v (%v)", value, addr, wildcard, want, err)
		}
	}
	for _, value := range []string{"::1:9100", "[::1"} {
		if addr, _, err := metricsAddress(value); err == nil {
			t.Errorf("%s is %s, expected an error", value, addr)
		}
	}
}

// Commands of the scripts about progress and metrics.
func init() {
	// fetch NAME PATH STATUS: ask a command that runs for a page of its
	// -metrics-listen, and leave it in the file fetched.
	scriptCommands["fetch"] = func(ts *testscript.TestScript, neg bool, args []string) {
		need(ts, !neg && len(args) == 3, "fetch NAME PATH STATUS")
		m := regexp.MustCompile(`(http://[^/\s"]+)/metrics`).FindStringSubmatch(ts.ReadFile(args[0] + ".err"))
		need(ts, m != nil, "fetch behind await NAME.err 'serving metrics'")
		client := http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
		resp, err := client.Get(m[1] + args[1])
		ts.Check(err)
		body, err := io.ReadAll(resp.Body)
		ts.Check(errors.Join(err, resp.Body.Close()))
		if got := fmt.Sprint(resp.StatusCode); got != args[2] {
			ts.Fatalf("status %s, expected %s: %s", got, args[2], body)
		}
		ts.Check(os.WriteFile(ts.MkAbs("fetched"), body, 0o600))
	}
	// occupy NAME: listen somewhere, and set $NAME to the address.
	scriptCommands["occupy"] = func(ts *testscript.TestScript, neg bool, args []string) {
		need(ts, !neg && len(args) == 1, "occupy NAME")
		l, err := net.Listen("tcp", "127.0.0.1:0")
		ts.Check(err)
		ts.Defer(func() { _ = l.Close() })
		ts.Setenv(args[0], l.Addr().String())
	}
	// usr1 NAME: ask a command that runs how far it is.
	scriptCommands["usr1"] = func(ts *testscript.TestScript, neg bool, args []string) {
		need(ts, !neg && len(args) == 1, "usr1 NAME")
		ts.Check(of(ts).running[args[0]].cmd.Process.Signal(syscall.SIGUSR1))
	}
	// jsonlines FILE: each line of the file is a JSON object with a level, and
	// there is one.
	scriptCommands["jsonlines"] = func(ts *testscript.TestScript, neg bool, args []string) {
		need(ts, !neg && len(args) == 1, "jsonlines FILE")
		for line := range strings.SplitSeq(strings.TrimSuffix(ts.ReadFile(args[0]), "\n"), "\n") {
			var v map[string]any
			if err := json.Unmarshal([]byte(line), &v); err != nil || v["@level"] == nil || v["@message"] == nil {
				ts.Fatalf("line %q: %v", line, err)
			}
		}
	}
}
