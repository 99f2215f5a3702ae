package report

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/net/html"

	"github.com/dyn2raft/dyn2raft/cmd/dyn2raft/figures"
	"github.com/dyn2raft/dyn2raft/cmd/dyn2raft/visible"
	"github.com/dyn2raft/dyn2raft/copier"
	"github.com/dyn2raft/dyn2raft/sources/dynamodb"
	"github.com/dyn2raft/dyn2raft/verify"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// hostile are names as nobody should have chosen them.
var hostile = []string{
	`<script>alert(1)</script>/`, `"><img src=x onerror=alert(2)>/`, `</style><b>/`, `</svg></title></desc>/`,
	"{{.M}}/", "]]>&amp;&lt;/", "javascript:alert(3)/", "new\nline/", "turn\u202earound/", "nul\x00/", "名前のとても長い接頭辞とても長い接頭辞/", "😀👩‍👩‍👧/",
	strings.Repeat("long", 300) + "/", "",
}

var began = time.Date(2026, 11, 24, 1, 2, 3, 0, time.UTC)

// record is the manifest of a copy of some prefixes, with n samples a second.
func record(n int, prefixes ...string) *copier.Record {
	m := &copier.Record{
		RunID: "3f0c9a52-6a7e-4f0e-9a53-1d9d6f0d7d11", Start: began, End: began.Add(time.Duration(n+1) * time.Second),
		Tool:        copier.Tool{Name: "dyn2raft", Version: "1.2.3", Go: "go1.26", OS: "linux", Arch: "amd64"},
		Source:      copier.Info{Name: "vault-table", ID: "arn:aws:dynamodb:eu-west-1:123456789012:table/vault-table", Incarnation: "9d1c/2021-03-04"},
		Backup:      "arn:aws:dynamodb:eu-west-1:123456789012:table/vault-table/backup/01700000000000-abcdef",
		Destination: copier.Identity{"path": "/opt/vault/data", "node_id": "vault-1", "cluster_addr": "https://vault-1.example:8201", "log store": "raft.db"},
		Prefixes:    copier.Digests{},
		Processes:   []copier.Process{{Start: began, Phases: map[copier.Phase]time.Duration{}}},
		Settings:    map[string]string{"max-parallel": "10", "memory": "512 MiB", "ha_enabled": "true", "retry-for": "10m0s"},
	}
	now := last(m)
	prove(m, true, nil)
	for i, p := range prefixes {
		// Sums as hexadecimal as real ones are.
		h := uint64(i+1) * 0x9e3779b97f4a7c15
		m.Prefixes[p] = copier.Digest{Entries: int64(1000*(i+1)) + 7, Bytes: int64(i+1) * 987654, Hash: copier.Sum{h, h * 3, h * 5, h * 7}}
	}
	m.Total = m.Prefixes.Total()
	m.Load = copier.LoadStats{Entries: m.Total.Entries, Bytes: m.Total.Bytes, FileBytes: 3 << 30, LargestKey: "sys/policy/largest", LargestBytes: 300_000}
	m.Scan = copier.ScanStats{Entries: m.Total.Entries, Bytes: m.Total.Bytes, Pages: 321, WireBytes: 2 << 30, Counts: copier.Counts{dynamodb.ReadCapacityUnits: 54321.5}, Segments: 16, Workers: 10, Limit: copier.LimitNetwork,
		Markers: 1234, Locks: []string{"core/lock", "core/migration"}}
	scan := max(n*7/10, 1)
	for i := range n {
		s := copier.Sample{At: time.Duration(i+1) * time.Second, Phase: copier.PhaseScan, Workers: int64(4 + i%7)}
		read := min(float64(i+1)/float64(scan), 1)
		read += 0.03 * math.Sin(float64(i)/3) * read * (1 - read)
		s.Entries, s.Bytes = int64(read*float64(m.Total.Entries)), int64(read*float64(m.Total.Bytes))
		s.Counts = copier.Counts{dynamodb.ReadCapacityUnits: read * m.Scan.Counts[dynamodb.ReadCapacityUnits]}
		s.Throttles = int64(i / 20)
		if i >= scan {
			s.Phase = copier.PhaseLoad
			s.Loaded = m.Total.Entries * int64(i+1-scan) / int64(max(n-scan, 1))
		}
		now.Samples = append(now.Samples, s)
		m.Scan.Throttles, m.Scan.Retries = s.Throttles, s.Throttles+2
	}
	second := float64(time.Second)
	for p, share := range map[copier.Phase]float64{copier.PhasePrepare: 0.002, copier.PhaseLock: 0.01, copier.PhaseScan: 0.7, copier.PhaseLoad: 0.2, copier.PhaseCheck: 0.08, copier.PhaseCommit: 0.0001} {
		now.Phases[p] = time.Duration(share * float64(n+1) * second)
	}
	return m
}

// last is the last process of a copy.
func last(m *copier.Record) *copier.Process { return &m.Processes[len(m.Processes)-1] }

// prove says of a copy that it was read back, and what it was found to hold.
func prove(m *copier.Record, device bool, c *copier.Contents) {
	node := verify.NodeOf(m)
	node.Device = device
	fact, err := copier.NewFact(1, node)
	if err != nil {
		panic(err)
	}
	m.Proof = &copier.Proof{Contents: c, Facts: copier.Facts{"raft": fact}}
}

func contents() *copier.Contents {
	c := &copier.Contents{Versions: []string{"1.15.0", "1.21.1"}, Largest: []copier.Sized{{Key: "sys/policy/largest", Bytes: 300_000}, {Key: "logical/next", Bytes: 2}}, Groups: []copier.Group{
		{Name: "core/", Role: "Vault's own state", Entries: 40, Bytes: 80_000},
		{Name: "logical/0d8d0b7e-93c4-5c5e-2d8f-3b1b7d7f9a10/", Role: "secrets engine", Entries: 700_000, Bytes: 900 << 20},
		{Name: "auth/9b1c2d3e-0000-4c5e-2d8f-3b1b7d7f9a10/", Role: "auth method", Entries: 1200, Bytes: 3 << 20},
		{Name: "sys/expire/", Role: "leases", Entries: 300_000, Bytes: 400 << 20},
	}}
	for i := 5; i < 19; i++ {
		if i != 16 {
			c.Sizes = append(c.Sizes, copier.Bin{From: 1 << i, To: 2 << i, Entries: int64(100_000 / (1 + (i-9)*(i-9))), Bytes: 1 << 25})
		}
	}
	return c
}

func comparisonOf(m *copier.Record) *verify.DirectoryReport {
	c := &verify.DirectoryReport{Report: verify.Report{Source: m.Source, Destination: copier.Info{Name: m.Destination["path"]}, Start: m.End.Add(time.Minute), Duration: 5 * time.Minute,
		SourceEntries: m.Total.Entries, DestinationEntries: m.Total.Entries, Complete: true}}
	for p, d := range m.Prefixes {
		s := verify.Side{Entries: d.Entries, Bytes: d.Bytes, SHA256: strings.Repeat("ab", 32)}
		c.Prefixes = append(c.Prefixes, verify.Prefix{Prefix: p, Source: s, Destination: s})
	}
	return c
}

// cases are copies that a report can be made of. The browser looks at the same
// ones.
func cases() map[string]Input {
	typical := record(120, "core/", "sys/", "logical/", "auth/", "audit/", "wal/")
	many := make([]string, 200)
	for i := range many {
		many[i] = fmt.Sprintf("prefix-%03d/", i)
	}
	evil := record(5, hostile...)
	evil.Warnings = []copier.Warning{{Check: hostile[0], Message: hostile[1]}}
	evil.Scan.Locks = hostile
	evil.Source.Name, evil.Destination["path"], evil.Destination["node_id"], evil.RunID = hostile[0], hostile[1], hostile[2], hostile[3]
	evil.Backup, evil.Tool.Version, evil.Load.LargestKey = hostile[4], hostile[5], hostile[6]
	evil.Settings = map[string]string{hostile[0]: hostile[1], hostile[2]: "", "read-capacity": hostile[3]}
	last(evil).Phases[copier.Phase(hostile[0])] = time.Second
	last(evil).Samples[2].Phase = copier.Phase(hostile[1])
	evilCompared := comparisonOf(evil)
	evilCompared.Extra = int64(len(hostile)) + 3
	for _, h := range hostile {
		evilCompared.Diffs = append(evilCompared.Diffs, verify.Diff{Kind: verify.DiffKind(h), Key: h, Known: h})
	}
	held := &copier.Contents{Versions: hostile, Sizes: []copier.Bin{{From: -5, To: 0, Entries: 1}, {From: 1, To: math.MaxInt64, Entries: 1}, {From: math.MaxInt64, To: 0, Entries: 5}}}
	for i, h := range hostile {
		held.Groups = append(held.Groups, copier.Group{Name: h, Role: h, Entries: 1, Bytes: int64(i)})
		held.Largest = append(held.Largest, copier.Sized{Key: h, Bytes: 9})
	}
	evil.Proof = nil // else the node is not the hostile one
	prove(evil, true, held)
	empty := record(0)
	empty.Scan.Markers, empty.Scan.Locks, empty.Settings, last(empty).Phases = 0, nil, nil, nil
	unsampled := record(120, "core/", "sys/")
	last(unsampled).Samples = nil
	uncompared := record(60, "sys/", "logical/")
	prove(uncompared, false, nil)
	sampled := record(60, "sys/", "logical/")
	huge := record(600, many...)
	for i := range last(huge).Samples {
		last(huge).Samples[i].At *= 97 // sixteen hours
	}
	huge.Resumed = 3
	prove(typical, true, contents())
	prove(huge, true, contents())
	prove(empty, true, &copier.Contents{})
	return map[string]Input{
		"typical":    {typical, comparisonOf(typical)},
		"empty":      {empty, nil},
		"unsampled":  {unsampled, nil},
		"uncompared": {uncompared, nil},
		"resumed":    {resumed(), nil},
		"sampled":    {sampled, sampleOf(sampled)},
		"huge":       {huge, comparisonOf(huge)},
		"hostile":    {evil, evilCompared},
	}
}

// resumed is a copy of three processes: one was killed after 40 s, one
// interrupted ten hours later, and the last began at once.
func resumed() *copier.Record {
	m := record(60, "sys/", "logical/")
	all := last(m).Samples
	m.Resumed = 2
	part := func(start time.Time, from, to int, reason string) copier.Process {
		p := copier.Process{Start: start, End: start.Add(time.Duration(to-from) * time.Second), Reason: reason,
			Phases: map[copier.Phase]time.Duration{copier.PhasePrepare: 100 * time.Millisecond, copier.PhaseScan: time.Duration(to-from)*time.Second - 100*time.Millisecond}}
		for i, s := range all[from:to] {
			s.At = time.Duration(i+1) * time.Second
			if from > 0 { // these a process counts by itself
				last := all[from-1]
				s.Counts = copier.Counts{dynamodb.ReadCapacityUnits: s.Counts[dynamodb.ReadCapacityUnits] - last.Counts[dynamodb.ReadCapacityUnits]}
				s.Throttles -= last.Throttles
			}
			p.Samples = append(p.Samples, s)
		}
		return p
	}
	phases := last(m).Phases
	phases[copier.PhaseScan], phases[copier.PhaseLoad] = 6*time.Second, 17*time.Second
	m.Processes = []copier.Process{part(began, 0, 25, ""), part(began.Add(10*time.Hour), 25, 35, "interrupted by SIGINT")}
	m.Processes = append(m.Processes, part(m.Processes[1].End.Add(time.Second), 35, 60, ""))
	last(m).Phases, m.End = phases, last(m).End
	for i := range m.Processes {
		m.Processes[i].Caller = copier.Caller{Host: "node-1", User: "root", Command: "dyn2raft copy -resume"}
	}
	return m
}

// sampleOf is a comparison of a part of the table that found no difference.
func sampleOf(m *copier.Record) *verify.DirectoryReport {
	c := comparisonOf(m)
	c.Sample = &verify.Part{Share: 0.05, Seed: 4711, Segments: 1000, SegmentsRead: 50, Undetected: 58}
	for i := range c.Prefixes {
		p := &c.Prefixes[i]
		p.Source.Entries, p.Source.Bytes = p.Source.Entries/20, p.Source.Bytes/20
		p.Destination = p.Source
	}
	c.SourceEntries = m.Total.Entries / 20
	return c
}

func write(t *testing.T, in Input) (string, *html.Node) {
	t.Helper()
	var b bytes.Buffer
	if err := Write(&b, in); err != nil {
		t.Fatal(err)
	}
	doc, err := html.Parse(bytes.NewReader(b.Bytes()))
	if err != nil {
		t.Fatal(err)
	}
	return b.String(), doc
}

func elements(n *html.Node, ok func(*html.Node) bool) (out []*html.Node) {
	for d := range n.Descendants() {
		if d.Type == html.ElementNode && ok(d) {
			out = append(out, d)
		}
	}
	return out
}

func attr(n *html.Node, name string) string {
	for _, a := range n.Attr {
		if a.Key == name {
			return a.Val
		}
	}
	return ""
}

func byID(t *testing.T, doc *html.Node, id string) *html.Node {
	t.Helper()
	found := elements(doc, func(n *html.Node) bool { return attr(n, "id") == id })
	if len(found) != 1 {
		t.Fatalf("%d elements have the id %q, want 1", len(found), id)
	}
	return found[0]
}

func tagged(tag string) func(*html.Node) bool {
	return func(n *html.Node) bool { return n.Data == tag }
}

func words(n *html.Node) string {
	var b strings.Builder
	for d := range n.Descendants() {
		if d.Type == html.TextNode {
			b.WriteString(d.Data)
		}
	}
	return b.String()
}

// allowed are the elements and the attributes that the page is made of. None
// of the attributes takes an address, but for the icon's.
var (
	allowed = strings.Fields("html head div meta link title style body main section strong p ul li table thead tbody tr th td code small br ol details summary h1 h2 h3 figure figcaption svg desc g path text pre sup")
	plain   = strings.Fields("lang charset name content http-equiv rel class id aria-label aria-labelledby role scope colspan open viewbox viewBox style d transform x y text-anchor")
)

// selfContained tells what of a page would leave it, or run.
func selfContained(doc *html.Node) error {
	var errs []error
	for _, n := range elements(doc, func(*html.Node) bool { return true }) {
		if !slices.Contains(allowed, n.Data) {
			errs = append(errs, fmt.Errorf("there is an element %s", n.Data))
		}
		for _, a := range n.Attr {
			icon := n.Data == "link" && a.Key == "href" && a.Val == "data:,"
			if !slices.Contains(plain, a.Key) && !icon || a.Key == "style" && strings.Contains(a.Val, "url(") {
				errs = append(errs, fmt.Errorf("%s has an attribute %s=%q", n.Data, a.Key, a.Val))
			}
		}
		if n.Data == "style" && strings.Contains(words(n), "url(") {
			errs = append(errs, errors.New("the style sheet names an address"))
		}
		if n.Data == "style" && strings.Contains(words(n), "@import") {
			errs = append(errs, errors.New("the style sheet imports another one"))
		}
	}
	return errors.Join(errs...)
}

func TestSelfContained(t *testing.T) {
	for name, in := range cases() {
		t.Run(name, func(t *testing.T) {
			text, doc := write(t, in)
			if err := selfContained(doc); err != nil {
				t.Error(err)
			}
			if strings.Contains(text, "ZgotmplZ") {
				t.Error("the template refused a value")
			}
			for _, bad := range []string{"NaN", "Inf", "#010", "<nil>", "%!"} {
				if strings.Contains(text, bad) {
					t.Errorf("the page has a %q in it", bad)
				}
			}
			seen := map[string]bool{}
			for _, n := range elements(doc, func(n *html.Node) bool { return attr(n, "id") != "" }) {
				if id := attr(n, "id"); seen[id] {
					t.Errorf("the id %q is there twice", id)
				} else {
					seen[id] = true
				}
			}
			for _, svg := range elements(doc, tagged("svg")) {
				for _, id := range strings.Fields(attr(svg, "aria-labelledby")) {
					if words(byID(t, doc, id)) == "" {
						t.Errorf("a plot's %s is empty", id)
					}
				}
				if attr(svg, "role") != "img" || len(strings.Fields(attr(svg, "aria-labelledby"))) != 2 {
					t.Error("a plot does not say what it is")
				}
			}
		})
	}
}

// TestSelfContainedOracle shows that the check above finds what it looks for.
func TestSelfContainedOracle(t *testing.T) {
	for _, bad := range []string{`<script>1</script>`, `<img src="x">`, `<a href="https://example.com">x</a>`, `<p onclick="x">`,
		`<p style="background:url(x)">`, `<style>@import "x"</style>`, `<style>p{background:url(x)}</style>`, `<svg><use href="#x"/></svg>`, `<link rel="stylesheet" href="x">`} {
		doc, err := html.Parse(strings.NewReader(bad))
		if err != nil {
			t.Fatal(err)
		}
		if selfContained(doc) == nil {
			t.Errorf("%s is called self-contained", bad)
		}
	}
}

func TestVerdictAndTables(t *testing.T) {
	for name, in := range cases() {
		t.Run(name, func(t *testing.T) {
			_, doc := write(t, in)
			m := in.Manifest
			v := words(byID(t, doc, "verdict"))
			for _, want := range []string{visible.Text(m.Source.Name), visible.Text(m.Destination["path"]), count(m.Total.Entries) + " entries", m.Total.Hash.String()[:16]} {
				if !strings.Contains(v, want) {
					t.Errorf("the verdict lacks %q:\n%s", want, v)
				}
			}
			if h1 := elements(doc, tagged("h1")); len(h1) != 1 {
				t.Errorf("%d h1", len(h1))
			}
			rows := map[string]string{}
			for _, r := range elements(doc, tagged("tr")) {
				if th := elements(r, tagged("code")); len(th) > 0 {
					rows[words(th[0])] += words(r)
				}
			}
			all := words(byID(t, doc, "digests"))
			for p, d := range m.Prefixes {
				if p == "" {
					p = "(no slash)"
				} else {
					p = visible.Text(p)
				}
				if !strings.Contains(rows[p], count(d.Entries)) || !strings.Contains(rows[p], figures.Size(d.Bytes)) {
					t.Errorf("the tables lack %q with %d entries: %s", p, d.Entries, rows[p])
				}
				if !strings.Contains(all, d.Hash.String()) {
					t.Errorf("the appendix lacks the digest of %q", p)
				}
			}
			if !strings.Contains(all, m.Total.Hash.String()) {
				t.Error("the appendix lacks the digest of all")
			}
			for _, l := range m.Scan.Locks {
				if !strings.Contains(words(byID(t, doc, "skipped")), visible.Text(l)) {
					t.Errorf("the lock %q is not named", l)
				}
			}
			if c := m.Contents(); c != nil && len(c.Groups) > 0 {
				groups, largest := words(byID(t, doc, "groups-table")), words(byID(t, doc, "largest"))
				for _, e := range c.Largest {
					if !strings.Contains(largest, visible.Text(e.Key)) {
						t.Errorf("the largest entries lack %q", e.Key)
					}
				}
				for _, g := range c.Groups {
					if !strings.Contains(groups, visible.Text(g.Name)) || !strings.Contains(groups, visible.Text(g.Role)) {
						t.Errorf("the groups lack %q", g.Name)
					}
				}
			}
			if in.Verification != nil {
				compared := words(byID(t, doc, "compared"))
				for _, p := range in.Verification.Prefixes {
					if !strings.Contains(compared, visible.Text(p.Prefix)) {
						t.Errorf("the comparison lacks %q", p.Prefix)
					}
				}
			}
		})
	}
}

// TestHostileNamesAreShown says that what was escaped can still be read.
func TestHostileNamesAreShown(t *testing.T) {
	in := cases()["hostile"]
	_, doc := write(t, in)
	text := words(elements(doc, tagged("body"))[0])
	for _, h := range hostile {
		if !strings.Contains(text, visible.Text(h)) {
			t.Errorf("%q is not on the page", h)
		}
	}
	for _, r := range "\u202e\x00" {
		if strings.ContainsRune(text, r) {
			t.Errorf("%q is on the page as it is", r)
		}
	}
	// In plots as well.
	var plots string
	for _, n := range elements(doc, tagged("text")) {
		plots += words(n) + "\n"
	}
	if !strings.Contains(plots, "<script>alert") {
		t.Errorf("no plot names the script:\n%s", plots)
	}
}

func TestVerdicts(t *testing.T) {
	for name, c := range map[string]struct {
		change func(*Input)
		level  string
		says   string
	}{
		"proven twice":      {func(*Input) {}, "good", "all 6,021 are equal"},
		"not compared":      {func(in *Input) { in.Verification = nil }, "good", "No comparison"},
		"from the device":   {func(in *Input) { prove(in.Manifest, true, nil) }, "good", "read back from the device and has the same digest"},
		"by way of a cache": {func(in *Input) { prove(in.Manifest, false, nil) }, "good", "operating system's cache"},
		"not read back":     {func(in *Input) { in.Manifest.Proof, in.Verification = nil, nil }, "warn", "NOT read back"},
		"compared instead":  {func(in *Input) { in.Manifest.Proof = nil }, "good", "NOT read back"},
		"unconfirmed, not read back": {func(in *Input) {
			in.Manifest.State, in.Manifest.Proof, in.Verification = copier.Unconfirmed, nil, nil
		}, "bad", "Do not start a Vault on this copy"},
		"not a Vault":           {func(in *Input) { in.Manifest.Warnings = []copier.Warning{{Check: "initialized", Ignored: true}} }, "bad", "finds itself not initialized"},
		"not a Vault, compared": {func(in *Input) { in.Verification.NotVault = []string{"core/keyring"} }, "bad", "finds itself not initialized"},
		"different":             {func(in *Input) { in.Verification.Different = 1 }, "bad", "Do not use this copy"},
		"missing":               {func(in *Input) { in.Verification.Missing = 1 }, "bad", "1 missing in the copy"},
		"a Vault has run":       {func(in *Input) { in.Verification.Extra, in.Verification.Started = 2, true }, "warn", "A Vault had run"},
		"comparison cut off":    {func(in *Input) { in.Verification.Complete = false }, "warn", "did not end"},
		"older comparison": {func(in *Input) {
			in.Verification.Start = in.Manifest.Start
		}, "warn", "proves nothing of this copy"},
		"another directory": {func(in *Input) { in.Verification.Destination.Name = "/elsewhere" }, "good", "only if it was moved"},
		"sample": {func(in *Input) {
			in.Verification = sampleOf(in.Manifest)
		}, "good", "A sample of 5% of the table, 301 entries, was compared"},
		"sample, not read back": {func(in *Input) {
			in.Manifest.Proof, in.Verification = nil, sampleOf(in.Manifest)
		}, "warn", "no more than 58 of all are missing or different (95% certain)"},
		"sample, different": {func(in *Input) {
			in.Verification = sampleOf(in.Manifest)
			in.Verification.Missing, in.Verification.Different = 1, 2
		}, "bad", "A comparison of a sample, 5% of the table, on 2026-11-24 01:03:07 UTC found 3 keys that differ: 1 missing in the copy, 2 with another value. How many differ outside"},
		"sample of another copy": {func(in *Input) {
			in.Verification = sampleOf(in.Manifest)
			in.Verification.DestinationEntries--
		}, "bad", "6,020 entries in the directory, and the copy has 6,021"},
		"one entry fewer": {func(in *Input) {
			in.Verification.SourceEntries--
			in.Verification.DestinationEntries--
			in.Verification.Prefixes[0].Source.Entries--
			in.Verification.Prefixes[0].Destination.Entries--
		}, "bad", "6,020 entries in the directory, and the copy has 6,021"},
		"other bytes": {func(in *Input) {
			p := in.Verification.Prefixes
			i := slices.IndexFunc(p, func(p verify.Prefix) bool { return p.Prefix == "sys/" })
			p[i].Source.Bytes++
			p[i].Destination.Bytes++
		}, "bad", "2,007 entries of 1,975,309 bytes under sys/, and the copy has 2,007 of 1,975,308 bytes"},
		"other entries, not read back": {func(in *Input) {
			in.Manifest.Proof = nil
			in.Verification.DestinationEntries++
		}, "bad", "not read back"},
	} {
		t.Run(name, func(t *testing.T) {
			m := record(3, "core/", "sys/", "auth/")
			in := Input{m, comparisonOf(m)}
			c.change(&in)
			_, doc := write(t, in)
			v := byID(t, doc, "verdict")
			if got := attr(v, "class"); got != "verdict "+c.level {
				t.Errorf("it is %q, want %s", got, c.level)
			}
			if c.level != "bad" && strings.Contains(words(v), "DIFFERENT") {
				t.Errorf("it is %s, and DIFFERENT:\n%s", c.level, words(v))
			}
			if !strings.Contains(words(v), c.says) {
				t.Errorf("%q is not said:\n%s", c.says, words(v))
			}
		})
	}
}

func TestPlots(t *testing.T) {
	all := cases()
	for name, want := range map[string]string{
		"typical":    "timeline read written bytes units throttles groups sizes",
		"empty":      "",
		"unsampled":  "timeline prefixes",
		"uncompared": "timeline read written bytes units throttles prefixes",
	} {
		_, doc := write(t, all[name])
		var got []string
		for _, svg := range elements(doc, tagged("svg")) {
			if id, _, _ := strings.Cut(attr(svg, "aria-labelledby"), "-t "); attr(svg, "class") == "wide" {
				got = append(got, id)
			}
			if len(elements(svg, func(n *html.Node) bool { return attr(n, "class") == "bars" || attr(n, "class") == "line" })) == 0 {
				t.Errorf("%s: a plot is empty", name)
			}
		}
		if strings.Join(got, " ") != want {
			t.Errorf("%s has the plots %v, want %s", name, got, want)
		}
	}
	_, doc := write(t, all["resumed"])
	drawn := byID(t, doc, "read-t").Parent
	lines := elements(drawn, func(n *html.Node) bool { return n.Data == "path" && attr(n, "class") == "line" })
	if len(lines) != 3 {
		t.Errorf("what was read has %d lines, want one for each process", len(lines))
	}
	text, _ := write(t, all["huge"])
	if n := len(text); n > 1<<20 {
		t.Errorf("a huge copy's page has %d bytes", n)
	}
}

// TestResumedIsNoThroughput says that what an earlier process has read is not
// taken for the speed of this one.
func TestResumedIsNoThroughput(t *testing.T) {
	m := record(0)
	m.Resumed = 1
	// The process before it is not on record.
	for i := range 10 {
		last(m).Samples = append(last(m).Samples, copier.Sample{At: time.Duration(i+1) * time.Second, Phase: copier.PhaseScan})
		if i > 2 {
			last(m).Samples[i].Entries = 1_000_000 + int64(i)*10
		}
	}
	for _, i := range intervals(m) {
		if i.entries > 10 {
			t.Errorf("%d entries from %s to %s", i.entries, i.from, i.to)
		}
	}
	m.Resumed = 0
	if got := intervals(m)[3].entries; got < 1_000_000 {
		t.Errorf("%d entries were read", got)
	}
}

// TestAllProcessesAreShown says that what was before an interruption is not
// left out.
func TestAllProcessesAreShown(t *testing.T) {
	m := resumed()
	_, doc := write(t, Input{m, nil})
	text := words(byID(t, doc, "processes"))
	for _, want := range []string{"2026-11-24 01:02:28 UTC", "killed, or the machine stopped", "9h59m35s", "2026-11-24 11:02:13 UTC", "interrupted by SIGINT", "1s", "It completed the copy", "root on node-1", "dyn2raft copy -resume"} {
		if !strings.Contains(text, want) {
			t.Errorf("the processes lack %q:\n%s", want, text)
		}
	}
	text = words(byID(t, doc, "phases"))
	for _, want := range []string{"Process 1 of 3", "Process 2 of 3", "Process 3 of 3", "10h0m0s"} {
		if !strings.Contains(text, want) {
			t.Errorf("the phases lack %q:\n%s", want, text)
		}
	}
	var read, loaded int64
	for _, i := range intervals(m) {
		read, loaded = read+i.entries, loaded+i.loaded
	}
	// What a process finds counts once, when it was read; of what was read in
	// the second before its first sample nobody knows more.
	p := m.Processes
	lost := p[1].Samples[0].Entries - p[0].Samples[24].Entries + p[2].Samples[0].Entries - p[1].Samples[9].Entries
	if read != m.Total.Entries-lost || loaded != m.Total.Entries {
		t.Errorf("%d entries were read and %d written, want %d and %d", read, loaded, m.Total.Entries-lost, m.Total.Entries)
	}

	line := newTimeline(processes(m))
	if !line.cut || line.end > 75*time.Second || line.end < 60*time.Second {
		t.Errorf("the axis has %s, cut: %v", line.end, line.cut)
	}
	if short := newTimeline([]process{{to: 20 * time.Second}, {from: 30 * time.Second, to: 50 * time.Second}}); short.cut || short.end != 50*time.Second {
		t.Errorf("short pauses: the axis has %s, cut: %v", short.end, short.cut)
	}
	for at, want := range map[time.Duration]time.Duration{0: 0, 10 * time.Second: 10 * time.Second, time.Hour: 25 * time.Second,
		10*time.Hour + 5*time.Second: line.parts[1].at + 5*time.Second, 100 * time.Hour: line.end} {
		if got := line.place(at); got != want {
			t.Errorf("%s is at %s, want %s", at, got, want)
		}
	}
	for _, narrow := range []bool{false, true} {
		var labels []string
		for _, tick := range line.axis(narrow).ticks {
			labels = append(labels, tick.label)
		}
		if n := len(labels); n < 2 || n > 9 || !strings.HasPrefix(labels[n-1], "10:00:") {
			t.Errorf("the marks are %v", labels)
		}
	}

	// Of a record of another time what is missing is said.
	m.Resumed = 4
	_, doc = write(t, Input{m, nil})
	if text := words(doc); !strings.Contains(text, "The first 2 of its processes are not on record") || !strings.Contains(text, "Process 5 of 5") {
		t.Error("that processes are missing is not said")
	}
}

// TestManyProcesses: twice the processes take about twice the memory, and not four times.
func TestManyProcesses(t *testing.T) {
	allocated := func(n int) uint64 {
		m := record(1)
		m.Resumed, m.Processes = n-1, nil
		for i := range n {
			start := m.Start.Add(time.Duration(i) * time.Minute)
			m.Processes = append(m.Processes, copier.Process{Start: start, End: start.Add(time.Second), Phases: map[copier.Phase]time.Duration{copier.PhaseScan: time.Second}})
		}
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		v := view{}
		v.phases(m)
		runtime.ReadMemStats(&after)
		if len(v.Phases) != n {
			t.Errorf("%d processes are shown of %d", len(v.Phases), n)
		}
		return after.TotalAlloc - before.TotalAlloc
	}
	if once, twice := allocated(4000), allocated(8000); twice > 3*once {
		t.Errorf("4,000 processes take %d bytes, 8,000 take %d", once, twice)
	}
}

// TestRowsNameAllPhases says that a row of the last sample, between which and
// the one before several phases were, names them all.
func TestRowsNameAllPhases(t *testing.T) {
	m := record(0)
	last(m).Samples = []copier.Sample{{At: time.Second, Phase: copier.PhaseScan, Entries: 1}, {At: 10 * time.Second, Phase: copier.PhaseCommit, Entries: 1, Loaded: 1}}
	rows := rateRows(intervals(m), newTimeline(processes(m)))
	if len(rows) != 2 || rows[0].Phase != "prepare, lock, scan" || rows[1].Phase != "scan, load, check, commit" {
		t.Errorf("the rows are %+v", rows)
	}
	last(m).Phases[copier.PhaseFollow], last(m).Phases[copier.PhaseDrain] = time.Minute, time.Second
	if rows := rateRows(intervals(m), newTimeline(processes(m))); rows[1].Phase != "scan, load, check, follow, drain, commit" {
		t.Errorf("of a copy that has followed its table the rows are %+v", rows)
	}
}

func TestRateRowsAddUp(t *testing.T) {
	for name, in := range cases() {
		if in.Manifest.Resumed > 0 || len(last(in.Manifest).Samples) == 0 {
			continue
		}
		rows := rateRows(intervals(in.Manifest), newTimeline(processes(in.Manifest)))
		var entries, loaded, throttles int64
		for _, r := range rows {
			entries, loaded, throttles = entries+r.entries, loaded+r.loaded, throttles+r.throttles
		}
		all := last(in.Manifest).Samples
		last := all[len(all)-1]
		if entries != last.Entries || loaded != last.Loaded || throttles != last.Throttles {
			t.Errorf("%s: the rows have %d read, %d written, %d throttled; the samples %d, %d, %d", name, entries, loaded, throttles, last.Entries, last.Loaded, last.Throttles)
		}
		if len(rows) > mostRates+1 {
			t.Errorf("%s: %d rows", name, len(rows))
		}
	}
}

func TestOtherTable(t *testing.T) {
	in := cases()["typical"]
	in.Verification.Source.ID = "arn:other"
	var b bytes.Buffer
	err := Write(&b, in)
	if !errors.Is(err, ErrOtherSource) || !errors.Is(err, copier.ErrConfig) || b.Len() > 0 {
		t.Errorf("error %v, and %d bytes were written", err, b.Len())
	}
}

func TestSettings(t *testing.T) {
	for _, x := range []struct{ name, value, want string }{
		{"memory", "512 MiB", "512 MiB"}, {"max-parallel", "0", "default (64, or as many as the memory allows)"}, {"max-parallel", "10", "10"},
		{"segments", "", "default (by the size of the table)"}, {"segments", "4096", "4096"}, {"read-capacity", "0", "no limit"}, {"read-capacity", "5000.5", "5000.5 units a second"},
		{"work-dir", "", "default (in the destination)"}, {"work-dir", "/work", "/work"},
		{"other", "0", "0"}, {"other", "<b>\x00", `<b>\u0000`}, {"retry-for", "10m0s", "10m0s"},
	} {
		if got := setting(x.name, x.value); got != x.want {
			t.Errorf("%s = %v is %q, want %q", x.name, x.value, got, x.want)
		}
	}
}

type brokenWriter struct{}

func (brokenWriter) Write([]byte) (int, error) { return 0, io.ErrClosedPipe }

func TestWriteError(t *testing.T) {
	if err := Write(brokenWriter{}, cases()["typical"]); !errors.Is(err, io.ErrClosedPipe) {
		t.Errorf("error %v", err)
	}
}

func TestReadVerification(t *testing.T) {
	file := filepath.Join(t.TempDir(), "verify.json")
	m := record(1, "sys/")
	want := comparisonOf(m)
	data, err := json.Marshal(want)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, data, 0o600); err != nil {
		t.Fatal(err)
	}
	got, err := ReadVerification(file)
	if err != nil || !got.Equal() || got.SourceEntries != want.SourceEntries || !got.Start.Equal(want.Start) {
		t.Errorf("read %+v, error %v", got, err)
	}
	for _, bad := range []string{"", "{}", "[]", "no json", `{"complete":true}`, `{"complete":"yes","prefixes":[],"source":{"id":"x"}}`, `{"complete":true,"prefixes":[],"source":{}}`} {
		if err := os.WriteFile(file, []byte(bad), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := ReadVerification(file); !errors.Is(err, ErrNotVerification) || !errors.Is(err, copier.ErrConfig) {
			t.Errorf("%q: error %v", bad, err)
		}
	}
	if _, err := ReadVerification(file + "x"); !errors.Is(err, copier.ErrConfig) || !errors.Is(err, os.ErrNotExist) {
		t.Errorf("error %v", err)
	}
}

func TestAxes(t *testing.T) {
	for _, end := range []time.Duration{0, 1, time.Millisecond, time.Second, 90 * time.Second, 5 * time.Hour, 40 * 24 * time.Hour, math.MaxInt64} {
		for _, narrow := range []bool{false, true} {
			if n := len(newTimeline([]process{{to: end}}).axis(narrow).ticks); n < 2 || n > 9 {
				t.Errorf("%s has %d marks", end, n)
			}
		}
	}
	for _, top := range []float64{-1, 0, 1e-9, 0.3, 1, 7, 99, 101, 123456, 1e18} {
		a := values(top, 5)
		if n := len(a.ticks); n < 2 || n > 6 || a.to < top {
			t.Errorf("%g has %d marks up to %g", top, n, a.to)
		}
	}
	for in, want := range map[string]string{"short": "short", "exactly ten": "exactly t…", "名前のとても長い": "名前のと…", "": ""} {
		if got := shorten(in, 10); got != want {
			t.Errorf("shorten(%q) is %q, want %q", in, got, want)
		}
	}
	for in, want := range map[time.Duration]string{0: "0:00", 250 * time.Millisecond: "0.25 s", 15 * time.Second: "0:15", time.Hour + time.Second: "1:00:01"} {
		if got := clock(in); got != want {
			t.Errorf("clock(%s) is %q, want %q", in, got, want)
		}
	}
}
