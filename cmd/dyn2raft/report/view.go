package report

import (
	"cmp"
	"fmt"
	"maps"
	"math"
	"slices"
	"sort"
	"strings"
	"time"

	"github.com/dyn2raft/dyn2raft/cmd/dyn2raft/figures"
	"github.com/dyn2raft/dyn2raft/cmd/dyn2raft/hints"
	"github.com/dyn2raft/dyn2raft/cmd/dyn2raft/visible"
	"github.com/dyn2raft/dyn2raft/copier"
	"github.com/dyn2raft/dyn2raft/copier/vaultconfig"
	todynamodb "github.com/dyn2raft/dyn2raft/sinks/dynamodb"
	"github.com/dyn2raft/dyn2raft/sources/dynamodb"
	"github.com/dyn2raft/dyn2raft/verify"
)

// A view is what the page shows, beside the record and the comparison themselves.
type view struct {
	M        *copier.Record
	V        *verify.DirectoryReport
	Contents *copier.Contents

	Verdict verdict
	// NotVault is set where no initialized Vault has used the source. OtherTotals says in
	// what the comparison counts otherwise than the copy. Equal is set where it found no
	// difference in what it compared, and Differ is the number of keys that do.
	NotVault, Equal bool
	OtherTotals     string
	Differ, Unnamed int64 // and those that V does not name
	// Node is the node of the copy, and EarlierNodes are what it was before it was
	// corrected.
	Node         verify.Node
	EarlierNodes []earlierNode
	// Copied is the beginning of the sentence that says what was copied, Noted is what a
	// person should know before all else, and By who has completed the copy, and where.
	Copied string
	Noted  []string
	By     string
	Next   []string
	// Table is set where the source is a table, and Replaced where the destination is one
	// whose content was replaced.
	Table    bool
	Replaced *todynamodb.Changes
	// Lost is how many processes nothing is recorded of.
	Lost         int
	Processes    []processRow
	Phases       []processRows
	Timeline     *figure
	Rates        []*figure
	Folded       []*figure // less important ones
	RateRows     []rateRow
	Writes       bool  // RateRows say what was written
	OtherRetries int64 // that are none of throttled requests
	Prefixes     parts
	Groups       parts
	// Sizes are in ascending order, and Sized is the number of their entries. SizePlot
	// is nil where there is nothing to plot.
	Sizes    []copier.Bin
	Sized    int64
	SizePlot *figure
	Settings map[string]string
	// Versions are those of the Vaults that have run on the source, the Newest one last.
	Versions []string
	Newest   string
}

// A verdict is the first thing on the page. Level is good, warn or bad.
type verdict struct{ Level, Word string }

// worse adds to the verdict. What is bad stays so.
func (v *verdict) worse(level, word string) {
	v.Word += ", " + word
	if v.Level != "bad" {
		v.Level = level
	}
}

// A processRow is a process of a copy that was resumed. Pause is the time until the next.
type processRow struct {
	copier.Process
	Number int
	By     string
	Last   bool
	Pause  time.Duration
}

type earlierNode struct {
	verify.Node
	Until time.Time
}

// A processRows has the phases of one process; Title is empty where it is the
// only one.
type processRows struct {
	Title string
	Rows  []phaseRow
}

type phaseRow struct {
	Phase, What string
	From, Took  string
}

type rateRow struct {
	interval
	Span, Phase, Read, Bytes, Written, Units, Throttles string
}

// parts are the entries by what they belong to, the largest part first, and the Bytes of
// all. Plot is nil where there is nothing to plot.
type parts struct {
	Groups []copier.Group
	Bytes  int64
	Plot   *figure
}

func newView(in Input) *view {
	m, c := in.Manifest, in.Verification
	v := &view{M: m, V: c, Contents: m.Contents(), OtherRetries: m.Scan.Retries - m.Scan.Throttles, Settings: map[string]string{}}
	for name := range unset {
		v.Settings[name] = ""
	}
	maps.Copy(v.Settings, m.Settings)
	if c != nil {
		v.OtherTotals = otherTotals(m, c)
		v.Equal = c.Equal() || c.Sample != nil && c.NoDifference()
		v.Differ = c.Missing + c.Extra + c.Different + c.NoMarker
		v.Unnamed = v.Differ - int64(len(c.Diffs))
	}
	v.NotVault = m.NotVault() || c != nil && c.NotVault != nil
	v.Table = hints.SourceType(m.Source) == vaultconfig.DynamoDB
	if m.Proof != nil {
		var changes todynamodb.Changes
		if ok, err := m.Proof.Facts.Get(todynamodb.ReplacedFact, 1, &changes); ok && err == nil {
			v.Replaced = &changes
		}
	}
	for _, w := range m.Warnings {
		switch {
		case w.Ignored:
			v.Noted = append(v.Noted, "Let pass on demand: "+w.Check+": "+w.Message+".")
		case slices.Contains(limited, w.Check):
			v.Noted = append(v.Noted, capital(w.Message)+".")
		}
	}
	v.Copied, v.By, v.Verdict = copied(m), by(m.Process().Caller), v.judge()
	if v.Verdict.Level != "bad" {
		v.Next = next(m, v.V)
	}
	nodes, since := verify.Nodes(m)
	v.Node = nodes[len(nodes)-1]
	for i, n := range nodes[:len(nodes)-1] {
		v.EarlierNodes = append(v.EarlierNodes, earlierNode{n, since[i+1]})
	}
	v.history(m)
	v.phases(m)
	v.rates(m)
	v.prefixes(m)
	if v.Contents != nil {
		v.contents(v.Contents)
	}
	return v
}

// sourceOf is what the source of a copy is called.
func sourceOf(m *copier.Record) string {
	name := hints.Source(m.Source)
	if strings.HasPrefix(name, "table ") {
		name = "the DynamoDB " + name
	}
	return visible.Text(name)
}

// limited are the checks that warn of what a copy may lack: what was accepted of stopped
// nodes, and that a snapshot or an export is of one moment.
var limited = []string{gap, "moment"}

const gap = "log"

// copied begins the sentence that says what was copied.
func copied(m *copier.Record) string {
	to := visible.Text(hints.Destination(m.Destination))
	if isRaft(m) {
		to = "the Raft data directory " + visible.Text(m.Destination["path"])
	}
	entries := some(m.Total.Entries, "entry", "entries") + " (" + figures.Size(m.Total.Bytes) + ") of "
	switch {
	case m.Total.Entries == 0:
		return capital(sourceOf(m)) + " has 0 entries: nothing was copied to " + to
	case m.Total.Entries == 1:
		return "The " + entries + sourceOf(m) + " was copied to " + to
	case m.State == copier.Unconfirmed:
		return entries + sourceOf(m) + " were copied to " + to
	}
	return "All " + entries + sourceOf(m) + " were copied to " + to
}

func isRaft(m *copier.Record) bool { return hints.DestinationType(m.Destination) == vaultconfig.Raft }

// by is who ran a process, and where.
func by(c copier.Caller) string {
	if c.User != "" && c.Host != "" {
		return c.User + " on " + c.Host
	}
	return c.User + c.Host
}

// next is what to do with a copy now: the comparison first, where none was made.
func next(m *copier.Record, c *verify.DirectoryReport) []string {
	var steps []string
	if c == nil && isRaft(m) {
		steps = append(steps, "Compare it with the "+hints.SourceWord(m.Source)+", before a Vault is started on either: dyn2raft verify -config FILE, with the configuration of the copy.")
	}
	for _, s := range hints.Next(m.Destination, "dyn2raft verify -config FILE, with the configuration of the copy") {
		steps = append(steps, strings.ToUpper(s[:1])+s[1:]+".")
	}
	return steps
}

// judge says first what a reader has to know, and whether to worry. What is
// not proven is not called good. The page has the words for why.
func (v *view) judge() verdict {
	m, c := v.M, v.V
	out := verdict{Level: "good", Word: "Complete"}
	switch m.State {
	case copier.Unconfirmed:
		out = verdict{"bad", "Unconfirmed"}
	case copier.Confirmed:
		out = verdict{"bad", "Not given back"}
	}
	if m.Proof == nil && !v.proven() {
		out.worse("warn", "not read back")
	}
	if slices.ContainsFunc(m.Warnings, func(w copier.Warning) bool { return w.Check == gap }) {
		out.worse("warn", "with an accepted gap")
	}
	switch {
	case c == nil:
	case !c.Complete:
		out.worse("warn", "comparison unfinished")
	case v.OtherTotals != "":
		out.worse("bad", "but the comparison counts OTHER ENTRIES")
	case v.Equal:
	case c.Started:
		out.worse("warn", "compared after Vault had run")
	default:
		out.worse("bad", "but DIFFERENT")
	}
	if c != nil && c.Start.Before(m.End) {
		out.worse("warn", "comparison older than the copy")
	}
	if v.NotVault {
		out = verdict{"bad", "Not a Vault"}
	}
	return out
}

// proven reports whether the comparison shows that the copy is the table.
func (v *view) proven() bool {
	return v.V != nil && v.V.Equal() && !v.V.Start.Before(v.M.End) && v.OtherTotals == ""
}

// otherTotals says, in words, in what a comparison that found no difference
// counted otherwise than the copy: then it is none of this copy as it was put
// in place. It returns nothing where both agree.
func otherTotals(m *copier.Record, c *verify.DirectoryReport) string {
	if !c.NoDifference() || c.Started {
		return ""
	}
	if c.DestinationEntries != m.Total.Entries {
		return fmt.Sprintf("%s entries in the directory, and the copy has %s", count(c.DestinationEntries), count(m.Total.Entries))
	}
	if c.Sample != nil { // its prefixes count what was looked up
		return ""
	}
	found := copier.Digests{}
	for _, p := range c.Prefixes {
		found[p.Prefix] = copier.Digest{Entries: p.Destination.Entries, Bytes: p.Destination.Bytes}
	}
	for _, p := range slices.Sorted(maps.Keys(m.Prefixes)) {
		want, got := m.Prefixes[p], found[p]
		if got.Entries != want.Entries || got.Bytes != want.Bytes {
			return fmt.Sprintf("%s entries of %s bytes under %s, and the copy has %s of %s bytes",
				count(got.Entries), count(got.Bytes), name(p), count(want.Entries), count(want.Bytes))
		}
	}
	return ""
}

// phaseOrder is the order of the phases that are known.
var phaseOrder = []copier.Phase{copier.PhasePrepare, copier.PhaseLock, copier.PhaseScan, copier.PhaseLoad, copier.PhaseCheck, copier.PhaseFollow, copier.PhaseDrain, copier.PhaseCommit, copier.PhaseCleanUp}

// ordered are the phases of a process in their order, those that nobody knows
// last.
func ordered[T any](took map[copier.Phase]T) []copier.Phase {
	var out []copier.Phase
	for _, p := range phaseOrder {
		if _, ok := took[p]; ok {
			out = append(out, p)
		}
	}
	for _, p := range slices.Sorted(maps.Keys(took)) {
		if !slices.Contains(out, p) {
			out = append(out, p)
		}
	}
	return out
}

// A process is one of those that a copy took.
type process struct {
	from, to time.Duration // since the copy was begun
	first    bool          // it found nothing that an earlier one had read
	phases   map[copier.Phase]time.Duration
	samples  []copier.Sample
}

// processes are those that the record tells of.
func processes(m *copier.Record) []process {
	var out []process
	var end time.Duration
	for i, e := range m.Processes {
		p := process{phases: e.Phases, samples: e.Samples}
		p.from = max(e.Start.Sub(m.Start), end) // clocks can be set back
		var took, sum time.Duration
		for _, d := range e.Phases {
			sum += max(d, 0)
		}
		if n := len(e.Samples); n > 0 {
			took = e.Samples[n-1].At
		}
		if i+1 < len(m.Processes) {
			took = max(took, e.End.Sub(e.Start))
		}
		p.to = p.from + max(took, sum)
		end = p.to
		out = append(out, p)
	}
	if len(out) > 0 {
		out[0].first = m.Resumed+1 == len(out)
	}
	return out
}

// A timeline is the time since a copy was begun, as an axis shows it. Where the
// pauses between processes are longer than their work, each is drawn as long as
// an eighth of that at the most.
type timeline struct {
	parts []part
	end   time.Duration // of the axis
	cut   bool          // a pause is drawn shorter
}

// A part is a process, which begins where the one before it has ended, or later. at is the place of its beginning on the axis.
type part struct{ from, to, at time.Duration }

func newTimeline(all []process) timeline {
	var t timeline
	var work, pauses, last time.Duration
	for _, p := range all {
		work, pauses, last = work+p.to-p.from, pauses+p.from-last, p.to
	}
	most := max(work/8, time.Second)
	last = 0
	for _, p := range all {
		pause := p.from - last
		if pauses > work && pause > most {
			pause, t.cut = most, true
		}
		at := t.end + pause
		t.parts = append(t.parts, part{p.from, p.to, at})
		last, t.end = p.to, at+p.to-p.from
	}
	return t
}

// place is where a time is on the axis.
func (t timeline) place(at time.Duration) time.Duration {
	n := sort.Search(len(t.parts), func(i int) bool { return t.parts[i].from > at })
	if n == 0 {
		return 0
	}
	p := t.parts[n-1]
	return p.at + min(at, p.to) - p.from
}

func (t timeline) caption() string {
	switch {
	case t.cut:
		return "Time since the copy was begun, in hours, minutes and seconds. Where it was interrupted there is a gap, drawn shorter than it lasted."
	case len(t.parts) > 1:
		return "Time since the copy was begun, in hours, minutes and seconds. Where it was interrupted there is a gap."
	default:
		return "Time since the copy was begun, in hours, minutes and seconds."
	}
}

// history lists the processes of a copy that was resumed.
func (v *view) history(m *copier.Record) {
	if m.Resumed == 0 {
		return
	}
	v.Lost = m.Resumed + 1 - len(m.Processes)
	for i, p := range m.Processes {
		row := processRow{Process: p, Number: v.Lost + i + 1, By: by(p.Caller), Last: i == len(m.Processes)-1}
		if !row.Last {
			row.Pause = max(m.Processes[i+1].Start.Sub(p.End), 0)
		}
		v.Processes = append(v.Processes, row)
	}
}

// phases lays the phases of all processes one behind the other.
func (v *view) phases(m *copier.Record) {
	all := processes(m)
	line := newTimeline(all)
	spans := map[copier.Phase][][2]time.Duration{} // on the axis
	for i, p := range all {
		from := p.from
		rows := processRows{}
		if len(all) > 1 {
			rows.Title = fmt.Sprintf("Process %d of %d", m.Resumed+1-len(m.Processes)+i+1, m.Resumed+1)
		}
		for _, phase := range ordered(p.phases) {
			d := max(p.phases[phase], 0)
			rows.Rows = append(rows.Rows, phaseRow{visible.Text(string(phase)), phases[phase], took(from), took(d)})
			spans[phase] = append(spans[phase], [2]time.Duration{line.place(from), line.place(from + d)})
			from += d
		}
		if len(rows.Rows) > 0 {
			v.Phases = append(v.Phases, rows)
		}
	}
	if line.end <= 0 || len(spans) == 0 {
		return
	}
	var labels []string
	var bars [][2]point
	for i, phase := range ordered(spans) {
		labels = append(labels, visible.Text(string(phase)))
		for _, s := range spans[phase] {
			bars = append(bars, across(len(spans)-1-i, s[0].Seconds(), s[1].Seconds()))
		}
	}
	v.Timeline = plot{
		figure: figure{ID: "timeline", Title: "Phases of the copy", Caption: line.caption(),
			Desc: "One bar a phase, from its beginning to its end. The numbers are folded below."},
		height: 40 + 26*len(labels), bars: bars,
		x: line.axis, y: func(narrow bool) axis { return names(labels, narrow) },
	}.draw()
}

// across is a bar from left to right, in row at of an axis of names.
func across(at int, from, to float64) [2]point {
	return [2]point{{from, float64(at) - 0.32}, {to, float64(at) + 0.32}}
}

// An interval is what happened between two samples of a process.
type interval struct {
	process                int
	from, to               time.Duration // since the copy was begun
	phases                 []string
	entries, bytes, loaded int64
	units                  float64
	throttles              int64
}

// intervals takes samples apart. What a resumed copy found already read came
// from no table at that time: its first sample with entries is a beginning.
func intervals(m *copier.Record) []interval {
	var out []interval
	for n, p := range processes(m) {
		var last copier.Sample
		found := p.first
		for _, s := range p.samples {
			if s.At <= last.At {
				continue
			}
			i := interval{process: n, from: p.from + last.At, to: p.from + s.At, phases: between(last.Phase, s.Phase, p.phases),
				entries: max(s.Entries-last.Entries, 0), bytes: max(s.Bytes-last.Bytes, 0),
				loaded: max(s.Loaded-last.Loaded, 0), units: max(s.Counts[dynamodb.ReadCapacityUnits]-last.Counts[dynamodb.ReadCapacityUnits], 0), throttles: max(s.Throttles-last.Throttles, 0)}
			if !found && s.Entries > 0 {
				found, i.entries, i.bytes = true, 0, 0
			}
			out = append(out, i)
			last = s
		}
	}
	return out
}

// between are the phases that a process went through from one to another. Of took, where
// it has them, are those that it went through at all.
func between(from, to copier.Phase, took map[copier.Phase]time.Duration) []string {
	first, last := max(slices.Index(phaseOrder, from), 0), slices.Index(phaseOrder, to)
	if last < first {
		return []string{string(to)}
	}
	var out []string
	for _, p := range phaseOrder[first : last+1] {
		if _, ok := took[p]; ok || p == from || p == to {
			out = append(out, string(p))
		}
	}
	return out
}

// rates plots the samples.
func (v *view) rates(m *copier.Record) {
	all := intervals(m)
	line := newTimeline(processes(m))
	v.RateRows = rateRows(all, line)
	v.Writes = slices.ContainsFunc(all, func(i interval) bool { return i.loaded > 0 })
	if len(all) < 3 {
		return // the table has it
	}
	add := func(to *[]*figure, id, title, desc string, value func(interval) float64) {
		lines, top := rateLines(all, line, value)
		if len(lines) > 0 {
			*to = append(*to, plot{
				figure: figure{ID: id, Title: title, Caption: line.caption(),
					Desc: "A line of how many " + desc + " a second, over time. The numbers are folded below."},
				height: 190, lines: lines,
				x: line.axis, y: func(bool) axis { return values(top, 5) },
			}.draw())
		}
	}
	from, to := hints.SourceWord(m.Source), hints.DestinationWord(hints.DestinationType(m.Destination))
	add(&v.Rates, "read", "Read: entries a second", "entries were read from the "+from, func(i interval) float64 { return float64(i.entries) })
	add(&v.Rates, "written", "Written: entries a second", "entries were written to the "+to, func(i interval) float64 { return float64(i.loaded) })
	add(&v.Folded, "bytes", "Read: MiB a second", "MiB of keys and values were read from the "+from, func(i interval) float64 { return float64(i.bytes) / (1 << 20) })
	add(&v.Folded, "units", "Read capacity units a second", "read capacity units were consumed", func(i interval) float64 { return i.units })
	add(&v.Folded, "throttles", "Throttled requests a second", "requests the table refused, because it was asked for too much,", func(i interval) float64 { return float64(i.throttles) })
}

// rateLines are the lines of a rate, one for each process that has any, from where it
// leaves zero to where it is there for good, and the highest rate.
func rateLines(all []interval, line timeline, value func(interval) float64) (lines [][]point, top float64) {
	each := make([][]point, len(line.parts))
	for _, i := range all {
		if y := value(i) / (i.to - i.from).Seconds(); !math.IsInf(y, 0) {
			each[i.process] = append(each[i.process], point{(line.place(i.from) + line.place(i.to)).Seconds() / 2, y})
			top = max(top, y)
		}
	}
	for _, p := range each {
		from := slices.IndexFunc(p, func(p point) bool { return p.y > 0 })
		if from < 0 {
			continue
		}
		to := len(p)
		for p[to-1].y == 0 {
			to--
		}
		lines = append(lines, p[max(from-1, 0):min(to+1, len(p))])
	}
	return lines, top
}

// mostRates is how many rows the tables beside the plots have at the most, and
// one more for each process.
const mostRates = 16

// rateRows takes intervals together, to rows of about the same time. A row
// names the phases that the copy went through meanwhile.
func rateRows(all []interval, line timeline) []rateRow {
	if len(all) == 0 {
		return nil
	}
	each := line.end/mostRates + 1
	var rows []rateRow
	last, process := time.Duration(-1), -1
	for _, i := range all {
		if row := line.place(i.to) / each; row != last || i.process != process {
			rows, last, process = append(rows, rateRow{interval: interval{from: i.from}}), row, i.process
		}
		r := &rows[len(rows)-1]
		for _, p := range i.phases {
			if !slices.Contains(r.phases, p) {
				r.phases = append(r.phases, p)
			}
		}
		r.to = i.to
		r.entries += i.entries
		r.bytes += i.bytes
		r.loaded += i.loaded
		r.units += i.units
		r.throttles += i.throttles
	}
	for n := range rows {
		r := &rows[n]
		s := (r.to - r.from).Seconds()
		r.Span = clock(r.from.Round(time.Second)) + " – " + clock(r.to.Round(time.Second))
		if all[len(all)-1].to < 2*time.Second {
			r.Span = clock(r.from) + " – " + clock(r.to)
		}
		r.Phase = visible.Text(strings.Join(r.phases, ", "))
		r.Read, r.Written, r.Units = perSecond(float64(r.entries)/s), perSecond(float64(r.loaded)/s), perSecond(r.units/s)
		r.Bytes, r.Throttles = figures.Size(int64(float64(r.bytes)/s)), count(r.throttles)
	}
	return rows
}

// mostBars bounds the bars of a plot; the table has all.
const mostBars = 12

// plotted sorts parts, and plots them.
func plotted(id, title string, groups []copier.Group) parts {
	groups = slices.SortedFunc(slices.Values(groups), func(a, b copier.Group) int {
		return cmp.Or(cmp.Compare(b.Bytes, a.Bytes), cmp.Compare(b.Entries, a.Entries), cmp.Compare(a.Name, b.Name))
	})
	out := parts{Groups: groups}
	var labels []string
	var lengths []int64
	for i, g := range groups {
		out.Bytes += g.Bytes
		switch {
		case i < mostBars || len(groups) == mostBars+1:
			labels, lengths = append(labels, name(g.Name)), append(lengths, g.Bytes)
		case i == mostBars:
			labels, lengths = append(labels, fmt.Sprintf("%d others", len(groups)-mostBars)), append(lengths, g.Bytes)
		default:
			lengths[mostBars] += g.Bytes
		}
	}
	if out.Bytes <= 0 {
		return out
	}
	top, unit, factor := slices.Max(lengths), "bytes", int64(1)
	for _, u := range []string{"KiB", "MiB", "GiB", "TiB"} {
		if top/factor < 1<<10 {
			break
		}
		unit, factor = u, factor<<10
	}
	var bars [][2]point
	for i, n := range lengths {
		bars = append(bars, across(len(lengths)-1-i, 0, float64(n)/float64(factor)))
	}
	out.Plot = plot{
		figure: figure{ID: id, Title: title, Caption: "Size of keys and values, in " + unit + ".",
			Desc: "One bar each, as long as what it holds. The numbers are folded below."},
		height: 40 + 22*len(bars), bars: bars,
		x: func(narrow bool) axis { return values(float64(top)/float64(factor), fits(7, 4, narrow)) },
		y: func(narrow bool) axis { return names(labels, narrow) },
	}.draw()
	return out
}

func (v *view) prefixes(m *copier.Record) {
	var groups []copier.Group
	for prefix, d := range m.Prefixes {
		groups = append(groups, copier.Group{Name: prefix, Entries: d.Entries, Bytes: d.Bytes})
	}
	v.Prefixes = plotted("prefixes", "Size under each first segment of the keys", groups)
}

func (v *view) contents(c *copier.Contents) {
	if n := len(c.Versions); n > 0 {
		v.Versions, v.Newest = c.Versions, c.Versions[n-1]
	}
	v.Groups = plotted("groups", "Size of each mount and part of Vault", c.Groups)
	v.Sizes = slices.SortedFunc(slices.Values(c.Sizes), func(a, b copier.Bin) int { return cmp.Compare(a.From, b.From) })
	var top int64
	var labels []string
	var bars [][2]point
	add := func(from, entries int64) {
		at := float64(len(labels))
		labels, bars = append(labels, figures.Size(from)), append(bars, [2]point{{at - 0.4, 0}, {at + 0.4, float64(entries)}})
	}
	for i, b := range v.Sizes {
		v.Sized, top = v.Sized+b.Entries, max(top, b.Entries)
		if i > 0 { // sizes that no entry has
			for to := v.Sizes[i-1].To; to > 0 && to < b.From; to *= 2 {
				add(to, 0)
			}
		}
		add(b.From, b.Entries)
	}
	if v.Sized <= 0 {
		return
	}
	v.SizePlot = plot{
		figure: figure{ID: "sizes", Title: "Entries by size",
			Desc:    "One bar for each range of sizes, as high as its number of entries. The numbers are folded below.",
			Caption: "Number of entries whose key and value have together at least the size under the bar, and less than twice that."},
		height: 210, bars: bars,
		x: func(narrow bool) axis {
			each := (len(labels)-1)/fits(10, 5, narrow) + 1 // a text for as many as there is room for
			a := axis{from: -0.6, to: float64(len(labels)) - 0.4}
			for i := 0; i < len(labels); i += each {
				a.ticks = append(a.ticks, tick{float64(i), labels[i]})
			}
			return a
		},
		y: func(bool) axis { return values(float64(top), 5) },
	}.draw()
}
