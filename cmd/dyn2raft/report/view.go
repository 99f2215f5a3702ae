package report

import (
	"cmp"
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"
	"time"

	"gonum.org/v1/plot/plotter"

	"github.com/dyn2raft/dyn2raft/copier"
	"github.com/dyn2raft/dyn2raft/verify"
)

// A view is what the page shows, in its order. Texts in it are plain; the
// template escapes them.
type view struct {
	M *verify.Manifest
	V *verify.Report

	Verdict  verdict
	Facts    []fact
	Phases   []phaseRow
	Timeline *figure
	Rates    []*figure
	Requests []*figure
	RateRows []rateRow
	Throttle []string
	Prefixes []share
	Groups   []share
	Sizes    []share
	Largest  []fact
	// PrefixPlot, GroupPlot and SizePlot are nil where there is nothing to plot.
	PrefixPlot, GroupPlot, SizePlot *figure
	Compared                        *comparison
	Settings                        []fact
	Versions                        []fact
	Digests                         []digest
}

// A verdict is the first thing on the page. Level is good, warn or bad.
type verdict struct {
	Level, Word, Text string
	Points            []string
}

type fact struct{ Name, Value string }

type phaseRow struct {
	Phase, What string
	From, Took  string
}

type rateRow struct {
	Span, Phase                      string
	Read, Bytes, Written, Units      string
	Throttles                        string
	phases                           []string
	from, to                         time.Duration
	entries, bytes, loaded, throttle int64
	units                            float64
}

// A share is a part of the entries.
type share struct {
	Name, Role, Entries, Bytes, OfBytes string
}

type digest struct {
	Name    string
	Entries int64
	Bytes   int64
	Hash    string
}

func newView(in Input) (*view, error) {
	m := in.Manifest
	v := &view{M: m, V: in.Verification, Verdict: judge(m, in.Verification), Facts: facts(m), Throttle: throttling(m),
		Settings: settings(m), Versions: versions(m), Digests: digests(m), Compared: compared(in.Verification)}
	plots := []func() error{
		func() error { return v.phases(m) },
		func() error { return v.rates(m) },
		func() error { return v.prefixes(m) },
		func() error { return v.contents(m.Contents) },
	}
	for _, plot := range plots {
		if err := plot(); err != nil {
			return nil, fmt.Errorf("make report: %w", err)
		}
	}
	return v, nil
}

// judge says first what a reader has to know, and whether to worry. What is
// not proven is not called good.
func judge(m *verify.Manifest, c *verify.Report) verdict {
	v := verdict{Level: "good", Word: "Complete"}
	v.Text = fmt.Sprintf("All %s entries (%s) of the DynamoDB table %s were copied to the Raft data directory %s.",
		count(m.Total.Entries), size(m.Total.Bytes), show(m.Source.Name), show(m.Destination.Path))
	if m.Partial {
		v.Level, v.Word = "warn", "Partial"
		v.Text = fmt.Sprintf("%s entries (%s) of the DynamoDB table %s were copied to the Raft data directory %s: only keys from %s on. %s entries before it were left out. Do not start a Vault on this copy.",
			count(m.Total.Entries), size(m.Total.Bytes), show(m.Source.Name), show(m.Destination.Path), quoted(m.StartKey), count(m.Skipped.LeftOut))
	} else if n := len(m.Skipped.Locks); n > 0 {
		v.Text += fmt.Sprintf(" %d locks were skipped, which a copy must not have.", n)
	}
	proof := fmt.Sprintf("The digest of the entries read is %s…, in full in the appendix.", m.Total.Hash.String()[:16])
	switch m.ReadBack {
	case "device":
		proof += " vault.db was read back from the device and has the same digest."
	case "cache":
		proof += " vault.db was read back, by way of the operating system's cache, and has the same digest."
	default:
		proof += " vault.db was NOT read back: that it has this digest is not proven by the copy itself."
		if !proven(m, c) {
			v.Level = "warn"
			v.Word += ", not read back"
		}
	}
	v.Points = append(v.Points, proof)
	v.compare(m, c)
	return v
}

// proven tells whether the comparison shows that the copy is the table.
func proven(m *verify.Manifest, c *verify.Report) bool {
	return c != nil && c.Equal() && !c.Start.Before(m.End) && otherTotals(m, c) == ""
}

// otherTotals says, in words, in what a comparison that found no difference
// counted otherwise than the copy: then it is none of this copy as it was put
// in place. It returns nothing where both agree.
func otherTotals(m *verify.Manifest, c *verify.Report) string {
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

// compare adds what a comparison with the table has found.
func (v *verdict) compare(m *verify.Manifest, c *verify.Report) {
	worse := func(level, word string) {
		v.Word += ", " + word
		if v.Level != "bad" {
			v.Level = level
		}
	}
	switch {
	case c == nil:
		v.Points = append(v.Points, "No comparison with the table after the copy is part of this report.")
		return
	case !c.Complete:
		worse("warn", "comparison unfinished")
		v.Points = append(v.Points, "A comparison with the table was begun and did not end: it says nothing of the entries it did not come to.")
	case otherTotals(m, c) != "":
		worse("bad", "but the comparison counts OTHER ENTRIES")
		v.Points = append(v.Points, fmt.Sprintf("A comparison with the table on %s found no difference, but not what this copy has written: %s. Table and directory are not as they were when the copy was made, or the comparison is of another copy. Find out which before you use this copy: dyn2raft verify -manifest compares the directory with this copy's record.",
			at(c.Start), otherTotals(m, c)))
	case c.Sample != nil && c.NoDifference():
		v.Points = append(v.Points, sampled(c))
	case c.Equal():
		v.Points = append(v.Points, fmt.Sprintf("The table was read a second time on %s and compared with the data directory, entry by entry: all %s are equal, and there is nothing else.",
			at(c.Start), count(c.SourceEntries)))
	default:
		n := c.Missing + c.Extra + c.Different
		text := fmt.Sprintf("A comparison with the table on %s found %s keys that differ: %s missing in the copy, %s not in the table, %s with another value.",
			at(c.Start), count(n), count(c.Missing), count(c.Extra), count(c.Different))
		if c.Sample != nil {
			text = fmt.Sprintf("A comparison of a sample, %s of the table, on %s found %s keys that differ: %s missing in the copy, %s with another value. How many differ outside of the sample is not known.",
				percent(c.Sample.Share), at(c.Start), count(n), count(c.Missing), count(c.Different))
		}
		switch {
		case c.Started:
			worse("warn", "compared after Vault had run")
			text += fmt.Sprintf(" A Vault had run on the data directory by then, and writes: %s of the keys are such that it changes by itself, the rest can't be judged.", count(c.Known))
		case m.Partial && c.Extra == 0 && c.Different == 0:
			text += " In a partial copy entries are missing on purpose."
		default:
			worse("bad", "but DIFFERENT")
			text += " Do not use this copy, unless a Vault wrote to the table since it was made."
		}
		v.Points = append(v.Points, text)
	}
	if c.Start.Before(m.End) {
		worse("warn", "comparison older than the copy")
		v.Points = append(v.Points, fmt.Sprintf("That comparison began before this copy had ended (%s): it is of an earlier state of the directory, and proves nothing of this copy.", at(m.End)))
	}
	if c.Destination != m.Destination.Path {
		v.Points = append(v.Points, fmt.Sprintf("The directory that was compared is %s, and the one copied to %s. It is the same one only if it was moved.", show(c.Destination), show(m.Destination.Path)))
	}
}

// sampled says what a sample without a difference shows, and what it does not.
func sampled(c *verify.Report) string {
	return fmt.Sprintf("A sample of %s of the table, %s entries, was compared with the data directory on %s: no difference. If damage hits entries at random, no more than %s of all are missing or different (95%% certain). What lies outside of the sample, and entries that only the directory has, it can't show.",
		percent(c.Sample.Share), count(c.SourceEntries), at(c.Start), count(c.Sample.Undetected))
}

func quoted(key string) string { return "“" + show(key) + "”" }

func facts(m *verify.Manifest) []fact {
	took := took(m.End.Sub(m.Start))
	if m.Resumed > 0 {
		took += fmt.Sprintf(", with %d interruptions", m.Resumed)
	}
	f := []fact{
		{"From", "DynamoDB table " + show(m.Source.Name) + " (" + show(m.Source.ID) + ")"},
		{"To", show(m.Destination.Path) + ", as node " + show(m.Destination.NodeID) + " at " + show(m.Destination.Address)},
		{"Entries", count(m.Total.Entries) + ", keys and values " + size(m.Total.Bytes)},
		{"vault.db", size(m.Destination.FileBytes)},
		{"Begun", at(m.Start)},
		{"In place", at(m.End)},
		{"Took", took},
		{"Read capacity", perSecond(m.Scan.Units) + " units"},
	}
	if key := m.Load.LargestKey; key != "" {
		f = append(f, fact{"Largest value", size(m.Load.LargestBytes) + ", of " + show(key)})
	}
	backup := "none was made by dyn2raft"
	if m.Backup != "" {
		backup = show(m.Backup)
	}
	return append(f, fact{"Backup of the table", backup}, fact{"Run", show(m.RunID)})
}

const timeCaption = "Time since the process began, in hours, minutes and seconds."

// phaseOrder is the order of the phases that are known.
var phaseOrder = []copier.Phase{copier.PhasePrepare, copier.PhaseLock, copier.PhaseScan, copier.PhaseLoad, copier.PhaseCheck, copier.PhaseCommit}

// phases lays the phases of the last process one behind the other.
func (v *view) phases(m *verify.Manifest) error {
	order := slices.Clone(phaseOrder)
	for _, p := range slices.Sorted(maps.Keys(m.Phases)) {
		if !slices.Contains(order, p) {
			order = append(order, p)
		}
	}
	var from time.Duration
	var bars []bar
	for _, p := range order {
		d, ok := m.Phases[p]
		if d = max(d, 0); !ok {
			continue
		}
		v.Phases = append(v.Phases, phaseRow{show(string(p)), phases[p], took(from), took(d)})
		bars = append(bars, bar{show(string(p)), from.Seconds(), (from + d).Seconds()})
		from += d
	}
	if from <= 0 {
		return nil
	}
	var err error
	v.Timeline, err = frame{
		id: "timeline", title: "Phases of the copy", height: 40 + 26*len(bars),
		desc:    "One bar a phase, from its beginning to its end. The table that follows has the numbers.",
		caption: timeCaption,
		fill: func(d *drawing, narrow bool) error {
			d.timeAxis(from, narrow)
			return d.across(bars, narrow)
		},
	}.draw()
	return err
}

// An interval is what happened between two samples.
type interval struct {
	from, to               time.Duration
	phase                  copier.Phase
	entries, bytes, loaded int64
	units                  float64
	throttles              int64
}

// intervals takes samples apart. What a resumed copy found already read came
// from no table at that time: its first sample with entries is a beginning.
func intervals(m *verify.Manifest) []interval {
	var out []interval
	var last verify.Sample
	found := m.Resumed == 0
	for _, s := range m.Samples {
		if s.At <= last.At {
			continue
		}
		i := interval{from: last.At, to: s.At, phase: s.Phase, entries: max(s.Entries-last.Entries, 0), bytes: max(s.Bytes-last.Bytes, 0),
			loaded: max(s.Loaded-last.Loaded, 0), units: max(s.Units-last.Units, 0), throttles: max(s.Throttles-last.Throttles, 0)}
		if !found && s.Entries > 0 {
			found, i.entries, i.bytes = true, 0, 0
		}
		out = append(out, i)
		last = s
	}
	return out
}

// rates plots the samples.
func (v *view) rates(m *verify.Manifest) error {
	all := intervals(m)
	v.RateRows = rateRows(all)
	if len(all) < 3 {
		return nil // the table has it
	}
	end := all[len(all)-1].to
	points := func(value func(interval) float64) (p plotter.XYs) {
		for _, i := range all {
			if y := value(i) / (i.to - i.from).Seconds(); !math.IsInf(y, 0) {
				p = append(p, plotter.XY{X: (i.from + i.to).Seconds() / 2, Y: y})
			}
		}
		from := slices.IndexFunc(p, func(p plotter.XY) bool { return p.Y > 0 })
		if from < 0 {
			return nil
		}
		to := len(p)
		for p[to-1].Y == 0 {
			to--
		}
		return p[max(from-1, 0):min(to+1, len(p))]
	}
	for _, f := range []struct {
		id, title, desc string
		points          plotter.XYs
		request         bool
	}{
		{"read", "Read: entries a second", "how many entries were read from the table", points(func(i interval) float64 { return float64(i.entries) }), false},
		{"bytes", "Read: MiB a second", "how many MiB of keys and values were read from the table", points(func(i interval) float64 { return float64(i.bytes) / (1 << 20) }), false},
		{"written", "Written: entries a second", "how many entries were written to vault.db", points(func(i interval) float64 { return float64(i.loaded) }), false},
		{"units", "Read capacity units a second", "how many read capacity units were consumed", points(func(i interval) float64 { return i.units }), true},
		{"throttles", "Throttled requests a second", "how many requests the table refused, because it was asked for too much,", points(func(i interval) float64 { return float64(i.throttles) }), true},
	} {
		if len(f.points) == 0 {
			continue
		}
		fig, err := frame{id: f.id, title: f.title, desc: "A line of " + f.desc + " a second, over time. The table that follows has the numbers.", caption: timeCaption, height: 190,
			fill: func(d *drawing, narrow bool) error { return d.line(f.points, end, narrow) }}.draw()
		if err != nil {
			return err
		}
		if f.request {
			v.Requests = append(v.Requests, fig)
		} else {
			v.Rates = append(v.Rates, fig)
		}
	}
	return nil
}

// mostRates is how many rows the tables beside the plots have at the most.
const mostRates = 16

// rateRows takes intervals together, to rows of about the same time. A row
// names the phases that the copy was found in at the ends of its intervals.
func rateRows(all []interval) []rateRow {
	if len(all) == 0 {
		return nil
	}
	each := all[len(all)-1].to/mostRates + 1
	var rows []rateRow
	last := time.Duration(-1)
	for _, i := range all {
		if row := i.to / each; row != last {
			rows, last = append(rows, rateRow{from: i.from}), row
		}
		r := &rows[len(rows)-1]
		if !slices.Contains(r.phases, string(i.phase)) {
			r.phases = append(r.phases, string(i.phase))
		}
		r.to = i.to
		r.entries += i.entries
		r.bytes += i.bytes
		r.loaded += i.loaded
		r.units += i.units
		r.throttle += i.throttles
	}
	for n := range rows {
		r := &rows[n]
		s := (r.to - r.from).Seconds()
		r.Span = clock(r.from.Round(time.Second)) + " – " + clock(r.to.Round(time.Second))
		if all[len(all)-1].to < 2*time.Second {
			r.Span = clock(r.from) + " – " + clock(r.to)
		}
		r.Phase = show(strings.Join(r.phases, ", "))
		r.Read, r.Written, r.Units = perSecond(float64(r.entries)/s), perSecond(float64(r.loaded)/s), perSecond(r.units/s)
		r.Bytes, r.Throttles = size(int64(float64(r.bytes)/s)), count(r.throttle)
	}
	return rows
}

func throttling(m *verify.Manifest) []string {
	s := m.Scan
	text := "No request was throttled."
	if s.Throttles > 0 {
		text = fmt.Sprintf("%s requests were throttled and made again later; this costs time, and no entry.", count(s.Throttles))
	}
	if other := s.Retries - s.Throttles; other > 0 {
		text += fmt.Sprintf(" %s failed for other reasons and were made again.", count(other))
	}
	out := []string{text}
	if l := limits[s.Limit]; l != "" {
		out = append(out, l)
	}
	return append(out, fmt.Sprintf("%s pages, %s over the network, %s read capacity units, %s segments at first, at most %s pages at the same time, %s checkpoints.",
		count(s.Pages), size(s.WireBytes), perSecond(s.Units), count(int64(s.Segments)), count(int64(s.Workers)), count(int64(s.Checkpoints))))
}

// mostBars bounds the bars of a plot; the table has all.
const mostBars = 12

// shares makes rows and a plot of parts, the largest first.
func shares(id, title string, groups []verify.Group) (rows []share, fig *figure, err error) {
	groups = slices.Clone(groups)
	slices.SortStableFunc(groups, func(a, b verify.Group) int {
		return cmp.Or(cmp.Compare(b.Bytes, a.Bytes), cmp.Compare(b.Entries, a.Entries), cmp.Compare(a.Name, b.Name))
	})
	var total, others int64
	for _, g := range groups {
		total += g.Bytes
	}
	var bars []bar
	top, unit, factor := int64(0), "bytes", int64(1)
	for i, g := range groups {
		rows = append(rows, share{name(g.Name), show(g.Role), count(g.Entries), size(g.Bytes), fraction(g.Bytes, total)})
		if i < mostBars || len(groups) == mostBars+1 {
			bars = append(bars, bar{label: name(g.Name), to: float64(g.Bytes)})
			top = max(top, g.Bytes)
		} else {
			others += g.Bytes
		}
	}
	if n := len(groups) - len(bars); n > 0 {
		bars = append(bars, bar{label: fmt.Sprintf("%d others", n), to: float64(others)})
		top = max(top, others)
	}
	if top <= 0 {
		return rows, nil, nil
	}
	for _, u := range []string{"KiB", "MiB", "GiB", "TiB"} {
		if top/factor < 1<<10 {
			break
		}
		unit, factor = u, factor<<10
	}
	for i := range bars {
		bars[i].to /= float64(factor)
	}
	fig, err = frame{
		id: id, title: title, height: 40 + 22*len(bars),
		desc:    "One bar each, as long as what it holds. The table that follows has the numbers.",
		caption: "Size of keys and values, in " + unit + ".",
		fill: func(d *drawing, narrow bool) error {
			ticks := 7
			if narrow {
				ticks = 4
			}
			d.valueAxis(&d.plot.X, float64(top)/float64(factor), ticks)
			end := d.plot.X.Max
			err := d.across(bars, narrow)
			d.plot.X.Max = end
			return err
		},
	}.draw()
	return rows, fig, err
}

func (v *view) prefixes(m *verify.Manifest) (err error) {
	var groups []verify.Group
	for prefix, d := range m.Prefixes {
		groups = append(groups, verify.Group{Name: prefix, Entries: d.Entries, Bytes: d.Bytes})
	}
	v.Prefixes, v.PrefixPlot, err = shares("prefixes", "Size under each first segment of the keys", groups)
	return err
}

func (v *view) contents(c *verify.Contents) (err error) {
	if c == nil {
		return nil
	}
	if v.Groups, v.GroupPlot, err = shares("groups", "Size of each mount and part of Vault", c.Groups); err != nil {
		return err
	}
	for _, e := range c.Largest {
		v.Largest = append(v.Largest, fact{show(e.Key), size(e.Bytes)})
	}
	bins := slices.Clone(c.Sizes)
	slices.SortFunc(bins, func(a, b verify.Bin) int { return cmp.Compare(a.From, b.From) })
	var entries int64
	for _, b := range bins {
		entries += b.Entries
	}
	var bars []bar
	for i, b := range bins {
		v.Sizes = append(v.Sizes, share{Name: fmt.Sprintf("%s – %s", size(b.From), size(b.To)), Entries: count(b.Entries), Bytes: size(b.Bytes), OfBytes: fraction(b.Entries, entries)})
		if i > 0 { // sizes that no entry has
			for to := bins[i-1].To; to > 0 && to < b.From; to *= 2 {
				bars = append(bars, bar{label: size(to)})
			}
		}
		bars = append(bars, bar{label: size(b.From), to: float64(b.Entries)})
	}
	if entries <= 0 {
		return nil
	}
	v.SizePlot, err = frame{
		id: "sizes", title: "Entries by size", height: 210,
		desc:    "One bar for each range of sizes, as high as its number of entries. The table that follows has the numbers.",
		caption: "Number of entries whose key and value have together at least the size under the bar, and less than twice that.",
		fill:    func(d *drawing, narrow bool) error { return d.up(bars, narrow) },
	}.draw()
	return err
}

// A comparison is a result of verify.
type comparison struct {
	Title string
	Facts []fact
	Rows  []compareRow
	Diffs []verify.Diff
	// More is how many differences are not named.
	More int64
}

type compareRow struct {
	Name, Table, Directory, Same string
}

func compared(c *verify.Report) *comparison {
	if c == nil {
		return nil
	}
	out := &comparison{Title: "Comparison with the table, after the copy", Diffs: c.Diffs, More: c.Missing + c.Extra + c.Different - int64(len(c.Diffs))}
	out.Facts = []fact{
		{"Made", at(c.Start) + ", in " + took(c.Duration)},
		{"Table", show(c.Source.Name) + " (" + show(c.Source.ID) + "), " + count(c.SourceEntries) + " entries"},
		{"Directory", show(c.Destination) + ", " + count(c.DestinationEntries) + " entries"},
		{"Missing, extra, different", count(c.Missing) + ", " + count(c.Extra) + ", " + count(c.Different)},
	}
	if s := c.Sample; s != nil {
		out.Facts = append(out.Facts, fact{"Sample", fmt.Sprintf("%s of the table, in %s of %s segments chosen at random (seed %d)",
			percent(s.Share), count(int64(s.SegmentsRead)), count(int64(s.Segments)), s.Seed)})
		out.Title = "Comparison of a sample of the table, after the copy"
	}
	for _, p := range c.Prefixes {
		same := "equal"
		if p.Source != p.Destination {
			same = "DIFFERENT"
		}
		if !c.Complete {
			same = "unfinished"
		}
		out.Rows = append(out.Rows, compareRow{name(p.Prefix), count(p.Source.Entries), count(p.Destination.Entries), same})
	}
	return out
}

func settings(m *verify.Manifest) []fact {
	var out []fact
	for _, k := range slices.Sorted(maps.Keys(m.Settings)) {
		out = append(out, fact{show(k), setting(m.Settings[k])})
	}
	return out
}

func versions(m *verify.Manifest) []fact {
	vault := "the table does not tell; Vault records its versions from 1.9 on"
	if len(m.Vault.All) > 0 {
		all := make([]string, len(m.Vault.All))
		for i, s := range m.Vault.All {
			all[i] = show(s)
		}
		vault = show(m.Vault.Newest) + "; versions that have run on the table: " + strings.Join(all, ", ")
	}
	return []fact{
		{"Copied by", strings.TrimSpace(show(m.Tool.Name+" "+m.Tool.Version)) + ", " + show(m.Tool.Go) + ", " + show(m.Tool.OS) + "/" + show(m.Tool.Arch)},
		{"Newest Vault", vault},
		{"Node", show(m.Destination.NodeID)},
		{"Cluster address", show(m.Destination.Address)},
		{"Log store", show(m.Destination.LogStore)},
		{"Raft index and term", fmt.Sprintf("%d and %d", m.Destination.Index, m.Destination.Term)},
		{"Table, as found", show(m.Source.Incarnation)},
	}
}

func digests(m *verify.Manifest) []digest {
	out := []digest{{"all entries", m.Total.Entries, m.Total.Bytes, m.Total.Hash.String()}}
	for _, p := range slices.Sorted(maps.Keys(m.Prefixes)) {
		d := m.Prefixes[p]
		out = append(out, digest{name(p), d.Entries, d.Bytes, d.Hash.String()})
	}
	return out
}
