package report

import (
	"fmt"
	"regexp"
	"strings"
	"testing"

	"golang.org/x/net/html"

	"github.com/dyn2raft/dyn2raft/copier"
	todynamodb "github.com/dyn2raft/dyn2raft/sinks/dynamodb"
)

// wrongNumber matches what is said of one in the form for many, or the other way round.
var wrongNumber = regexp.MustCompile(`\b(?:[02-9]|\d[\d,]*\d) (?:entry|lock|item|key|change|request|page|segment|directory marker|more key)\b(?: |,|\.|$)(?:was|is)?|` +
	`(?:^|[^\d,.])1 (?:entries|locks|items|keys|changes|requests|pages|segments|directory markers|more keys)\b|` +
	`(?:^|[^\d,.])1 [^.;:]{0,20}\b(?:were|are|have)\b`)

// sentences are the texts of a page, with one space between words.
func sentences(doc *html.Node) string {
	var out []string
	for _, n := range elements(doc, func(n *html.Node) bool { return n.Data == "p" || n.Data == "li" || n.Data == "td" || n.Data == "th" }) {
		out = append(out, strings.Join(strings.Fields(words(n)), " "))
	}
	return strings.Join(out, "\n")
}

// Each sentence with a number is right for none, one, two and many.
func TestNumbers(t *testing.T) {
	for _, n := range []int64{0, 1, 2, 1000} {
		in := numbered(t, n)
		_, doc := write(t, in)
		if found := wrongNumber.FindAllString(sentences(doc), -1); found != nil {
			t.Errorf("of %d it says %q", n, found)
		}
	}
	for _, bad := range []string{"1 locks were skipped", "2 entry", "1,000 key was", "found 1 keys that differ", "1 entry were"} {
		if !wrongNumber.MatchString(bad) {
			t.Errorf("%q is taken for right", bad)
		}
	}
}

// numbered is a copy of which all that is counted is n.
func numbered(t *testing.T, n int64) Input {
	m := record(60, "sys/")
	d := m.Prefixes["sys/"]
	d.Entries, d.Bytes = n, n
	m.Prefixes["sys/"], m.Total = d, d
	m.Scan.Markers, m.Scan.Pages, m.Scan.Segments, m.Scan.Workers, m.Scan.Throttles, m.Scan.Retries = n, n, int(n), int(n), n, 2*n
	m.Scan.Locks = make([]string, n)
	m.Resumed = int(n)
	m.Live = &copier.LiveRecord{Noted: n, Applied: n}
	replaced, err := copier.NewFact(1, todynamodb.Changes{Put: n, Delete: n, Same: n, Backup: "arn:backup"})
	if err != nil {
		t.Fatal(err)
	}
	m.Proof.Facts[todynamodb.ReplacedFact] = replaced
	c := sampleOf(m)
	c.Missing, c.Different, c.SourceEntries, c.Known, c.Sample.Undetected, c.Sample.Segments, c.Sample.SegmentsRead = n, n, n, n, n, int(n), int(n)
	c.Started = true
	return Input{m, c}
}

// What is said first, and what comes next, is right for each way that a copy can go.
func TestWays(t *testing.T) {
	table := copier.Identity{"table": "vault-old", "region": "eu-west-1"}
	for name, c := range map[string]struct {
		change        func(*copier.Record)
		says, saysNot []string
	}{
		"offline": {func(*copier.Record) {}, []string{
			"All 1,007 entries (965 KiB) of the DynamoDB table vault-table were copied to the Raft data directory /opt/vault/data. 2 locks were skipped",
			"Compare it with the table", "Start Vault on this node", "Backup of the table"}, []string{"Vault served", "replaced"}},
		"live": {func(m *copier.Record) { m.Live = &copier.LiveRecord{Noted: 40, Applied: 1, Outage: 1.2e9} }, []string{
			"Vault served while it was copied: 40 keys were noted as changed, and 1 change was applied. From when the table was taken until Vault could be started it took 1.2s."}, nil},
		"back": {func(m *copier.Record) { back(m, table) }, []string{
			"of integrated storage /opt/a were copied to table vault-old in eu-west-1.", "The copy was read back", "table = \"vault-old\"", "were read from the source"},
			[]string{"vault.db", "data directory", "Backup of the table", "throttled", "capacity units", ". the ", "read from the table", "Written"}},
		"in place": {func(m *copier.Record) {
			back(m, table)
			m.Proof.Facts = facts(t, todynamodb.ReplacedFact, todynamodb.Changes{Put: 3, Delete: 1, Same: 5, Backup: "arn:aws:backup/7"})
		}, []string{"its content was replaced: 3 items were written, 1 item was deleted, 5 items stayed. The table as it was is in the backup arn:aws:backup/7.", "Backup of the table replaced"},
			[]string{"none was made"}},
		"snapshot": {func(m *copier.Record) { m.Destination = copier.Identity{"path": "/b/v.snap", "form": "raft snapshot"} }, []string{
			"were copied to the snapshot /b/v.snap", "The snapshot was read back", "raft snapshot restore -force /b/v.snap"}, []string{"vault.db", "the Raft data directory"}},
		"of a snapshot": {func(m *copier.Record) {
			m.Source.Facts = facts(t, "raft_snapshot", struct{}{})
			m.Warnings = []copier.Warning{{Check: "moment", Message: "the snapshot is of one moment, Raft's index 12"}}
		}, []string{"of snapshot vault-table were", "The snapshot is of one moment, Raft's index 12."}, []string{"Backup of the table"}},
		"of a minority": {func(m *copier.Record) {
			back(m, table)
			m.Warnings = []copier.Warning{{Check: "log", Message: "accepted on demand: directories of 1 of 3"}}
		}, []string{"Complete, with an accepted gap", "Accepted on demand: directories of 1 of 3."}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			m := record(60, "sys/")
			c.change(m)
			page, doc := write(t, Input{m, nil})
			text := strings.Join(strings.Fields(words(elements(doc, tagged("body"))[0])), " ")
			for _, want := range c.says {
				if !strings.Contains(text, want) {
					t.Errorf("it does not say %q:\n%.1500s", want, text)
				}
			}
			for _, not := range c.saysNot {
				if strings.Contains(text, not) {
					t.Errorf("it says %q", not)
				}
			}
			if first, _, _ := strings.Cut(page, "<h2>What happened"); name == "of a minority" && !strings.Contains(first, "directories of 1 of 3") {
				t.Error("what was accepted is not said first")
			}
		})
	}
}

// back makes a copy one of a stopped node's directory to a table, which takes entries
// without telling how far it is.
func back(m *copier.Record, to copier.Identity) {
	m.Source = copier.Info{Name: "/opt/a", ID: "/opt/a", Facts: copier.Facts{"raft_source": {Version: 1, Data: []byte("{}")}}}
	m.Destination, m.Backup, m.Load.FileBytes, m.Load.LargestKey = to, "", 0, ""
	m.Scan.Locks, m.Scan.Markers, m.Scan.Limit, m.Scan.Retries, m.Scan.Throttles = nil, 0, "", 0, 0
	m.Settings = map[string]string{"work-dir": "/w"}
	for i := range last(m).Samples {
		s := &last(m).Samples[i]
		s.Loaded, s.Counts, s.Throttles = 0, nil, 0
	}
}

func facts(t *testing.T, name string, v any) copier.Facts {
	fact, err := copier.NewFact(1, v)
	if err != nil {
		t.Fatal(err)
	}
	return copier.Facts{name: fact}
}

// Who has copied, where and how, is said, and what nobody recorded is left out.
func TestCaller(t *testing.T) {
	for want, c := range map[string]copier.Caller{
		"By vault on node-1 Command dyn2raft copy": {Host: "node-1", User: "vault", Command: "dyn2raft copy"},
		"By node-1 Run": {Host: "node-1"},
		"7m31s Run":     {},
	} {
		m := record(450, "sys/")
		m.Backup = ""
		m.Source.Facts = facts(t, "raft_snapshot", struct{}{})
		last(m).Caller = c
		_, doc := write(t, Input{m, nil})
		var rows []string
		for _, n := range elements(byID(t, doc, "facts"), func(n *html.Node) bool { return n.Data == "th" || n.Data == "td" }) {
			rows = append(rows, words(n))
		}
		if got := fmt.Sprint(strings.Join(rows, " ")); !strings.Contains(got, want) {
			t.Errorf("it does not say %q: %s", want, got)
		}
	}
}
