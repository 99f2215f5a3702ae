package plan

import (
	"context"
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"

	"github.com/dustin/go-humanize"
	"github.com/dustin/go-humanize/english"

	"github.com/dyn2raft/dyn2raft/copier"
	"github.com/dyn2raft/dyn2raft/copier/processors"
	"github.com/dyn2raft/dyn2raft/sources/dynamodb"
)

// An Estimate says how large the copy is and how long it will take.
type Estimate struct {
	// Sample is what the estimate was made from; nil where nothing was read,
	// and only the table's own figures and common speeds were taken.
	Sample *Sample `json:"sample,omitempty"`
	// Entries and Bytes are those of the copy, keys and values, and FileBytes
	// is the size of its vault.db.
	Entries   int64 `json:"entries"`
	Bytes     int64 `json:"bytes"`
	FileBytes int64 `json:"file_bytes"`
	// atLeast is what a sample has shown the table to hold, in bytes of keys and
	// values.
	atLeast int64
	// Sizes is the mix of the entries' sizes, empty without a sample, and
	// Largest the largest of the sample, in bytes.
	Sizes   []SizeClass `json:"sizes,omitempty"`
	Largest int64       `json:"largest_bytes,omitempty"`
	// Units is what the copy will cost, in read capacity units.
	Units float64 `json:"read_capacity_units"`
	// Seconds is how long the copy will probably take, with the settings given,
	// and Low and High how long it may.
	Seconds float64 `json:"seconds"`
	Low     float64 `json:"seconds_low"`
	High    float64 `json:"seconds_high"`
	// Limit is the bottleneck of reading, which takes Reading seconds.
	Limit   copier.Limit `json:"limit"`
	Reading float64      `json:"reading_seconds"`
	// Others is what other settings would give.
	Others []Other `json:"others"`
}

// A Sample is what a short scan has read. Its units are those that were
// consumed, eventually consistent.
type Sample struct {
	Entries   int64   `json:"entries"`
	Bytes     int64   `json:"bytes"`
	Units     float64 `json:"read_capacity_units"`
	Seconds   float64 `json:"seconds"`
	Workers   int     `json:"workers"`
	Throttled bool    `json:"throttled"`
	Complete  bool    `json:"complete"`
}

// A SizeClass is a share of the entries: those of up to so many bytes of key
// and value that are in no smaller class. The last class has no bound, 0.
type SizeClass struct {
	UpTo  int64   `json:"up_to_bytes,omitempty"`
	Share float64 `json:"share"`
}

// An Other is another setting, and how long a copy would probably take with it.
type Other struct {
	Setting string  `json:"setting"`
	Seconds float64 `json:"seconds"`
}

// Figures of DynamoDB, from its Developer Guide: what an on-demand table serves
// at once, in read units a second, and for how long unused provisioned capacity
// is kept as burst, in seconds.
const (
	onDemandUnits = 12_000
	burstSeconds  = 300
)

const (
	unitBytes = 4096    // of a read unit, strongly consistent
	pageBytes = 1 << 20 // of a full page
	fullUnits = pageBytes / unitBytes
)

// Common speeds, where nothing was measured: a page of 1 MB in 35 ms, and of
// this machine what two cores of a server gave.
var (
	commonWorker = float64(pageBytes) / 0.035
	commonLocal  = local{fixed: 300 * time.Millisecond, sort: 1 / 150e6, after: 1 / 100e6, fileFactor: 1.4}
)

const commonCPU = 1 / 100e6 // processor seconds a byte, for reading

// A model is what predictions are made of.
type model struct {
	bytes     float64 // of keys and values
	items     float64 // bytes of the items, as DynamoDB counts them
	segments  int
	perWorker float64 // bytes a second
	cpu       float64 // seconds a byte for all processors together, while reading
	local     local
	waits     float64 // seconds for locks that somebody left
}

// Settings are what a prediction is asked for.
type settings struct {
	workers int
	cap     float64 // of -read-capacity, in units a second; 0 is none
	table   float64 // units a second that the table serves; 0 is as many as are asked for
	cores   float64 // as a multiple of this machine's
}

// units is what reading costs: rounded up with each page, for at least one page
// a segment.
func (m *model) units(s settings) float64 {
	exact := m.items / unitBytes
	page := float64(fullUnits)
	if s.cap > 0 && page > 2*s.cap {
		page = max(s.cap, 1) // pages are made smaller then
	}
	return exact + (exact/page+float64(m.segments))/2
}

// growSeconds is how often a copy lets more workers read, by growth times as
// many, beginning with startWorkers.
const (
	growSeconds = 1.0
	growth      = 1.5
)

func startWorkers() float64 { return float64(max(4*processors.Count(), 8)) }

// predict returns how long a copy takes with the settings, in seconds, how much
// of that is reading, and what bounds it.
func (m *model) predict(s settings) (total, reading float64, limit copier.Limit) {
	bound, limit := math.Inf(1), copier.LimitNetwork
	if m.cpu > 0 {
		bound, limit = s.cores/m.cpu, copier.LimitProcessor
	}
	units := s.table
	if s.cap > 0 && (units == 0 || s.cap < units) {
		units = s.cap
	}
	// What a table serves does not depend on workers. One second's worth is
	// there at the start, in the table and in the bucket of -read-capacity.
	if units > 0 {
		took := max(m.units(s)/units-1, 0)
		if byTable := m.bytes / max(took, 1e-3); byTable < bound {
			bound, limit = byTable, copier.LimitTable
		}
	}
	workers, left := min(startWorkers(), float64(s.workers)), m.bytes
	for left > 0 {
		rate := min(workers*m.perWorker, bound)
		if workers >= float64(s.workers) || rate >= bound || rate*growSeconds >= left {
			if rate < bound {
				limit = copier.LimitNetwork
			}
			reading += left / rate
			break
		}
		reading += growSeconds
		left -= rate * growSeconds
		workers = min(math.Ceil(workers*growth), float64(s.workers))
	}
	// The last pages leave workers idle, and of a Path that fills many the
	// first two come one after the other.
	if limit == copier.LimitNetwork {
		reading += 2 * min(pageBytes, m.bytes) / m.perWorker
	}
	total = m.waits + m.local.fixed.Seconds() + reading + m.bytes*m.local.after/s.cores
	return total, reading, limit
}

// estimate reads a sample, unless it is not wanted, and predicts the copy.
// Where the context ends there is no estimate.
func (p *planner) estimate(ctx context.Context) {
	e := &Estimate{Others: []Other{}}
	m := model{perWorker: commonWorker, cpu: commonCPU / float64(processors.Count()), local: commonLocal,
		bytes: float64(p.table.Survey.Bytes), items: float64(p.table.Survey.Bytes), segments: 64}
	e.Entries = p.table.Survey.Items
	if l := p.table.Locks; l != nil && l.Leader != nil && l.Leader.Expired {
		m.waits = 41 // a copy watches the lock for 11 s, and holds it for 30 s
	}
	switch {
	case p.table.Denied["Scan"] || p.table.Denied["Query"]:
		if p.Full {
			p.fail("items", "the table could not be read: see access", "")
		}
	case !p.NoSample:
		s, err := p.take(ctx)
		p.items(s, err)
		switch {
		case ctx.Err() != nil:
			return
		case err != nil && p.Full:
			p.fail("items", "the table could not be read to its end: "+err.Error(), copier.Hint(err))
		case err != nil:
			p.warn("sample", "no sample could be read: "+err.Error(), copier.Hint(err))
		default:
			p.sampled(ctx, e, &m, s)
			if ctx.Err() != nil {
				return
			}
		}
	}
	if m.items == 0 && e.Sample == nil {
		p.warn("estimate", "nothing tells how large the table is: it reports no items, and no sample was read",
			"the table's own count is renewed every 6 hours: read a sample (without -no-sample), or plan again later")
		return
	}
	p.report.Estimate = e
	p.predict(e, &m)
}

// items tells of what a copy refuses, as far as a sample, or the whole table, was
// read.
func (p *planner) items(s *sample, err error) {
	for _, w := range s.warnings {
		p.warn("items", w, "")
	}
	if len(s.refused) == 0 {
		if p.Full && err == nil && s.complete {
			p.pass("items", "the whole table was read: all %s items are what Vault writes", humanize.Comma(s.items))
		}
		return
	}
	var names []string
	for _, err := range s.refused {
		if e, ok := errors.AsType[*copier.Error](err); ok {
			err = e.Err // which says the rest
		}
		names = append(names, strings.TrimPrefix(err.Error(), dynamodb.ErrNotVaultItem.Error()+": "))
	}
	if s.more > 0 {
		names = append(names, fmt.Sprintf("and %s more", humanize.Comma(s.more)))
	}
	n := int(s.more) + len(s.refused)
	hint := "find out who wrote " + english.PluralWord(n, "it", "them") + ", and delete what is not Vault's, or name the right table"
	if !s.complete {
		hint += "; -full reads the whole table, and names all"
	}
	p.fail("items", fmt.Sprintf("a copy refuses %s: %s", english.Plural(n, "item that is not Vault's", "items that are not Vault's"), strings.Join(names, "; ")), hint)
}

// enoughEntries is how many entries a sample needs to tell anything of the rest.
// A table with few read units gives less in some seconds.
const enoughEntries = 200

// sampled takes a sample over into the estimate and the model.
func (p *planner) sampled(ctx context.Context, e *Estimate, m *model, s *sample) {
	e.Sample = &Sample{Entries: s.entries, Bytes: s.bytes, Units: s.units, Seconds: s.took.Seconds(), Workers: s.workers, Throttled: s.throttled, Complete: s.complete}
	m.segments = max(s.segments, m.segments)
	if s.throttled {
		p.warn("sample", "the table throttled the sample", "a Vault may be at work on it; whatever the copy reads in the window is taken from the same capacity")
	}
	if !s.complete && s.entries < enoughEntries && p.table.Survey.Items > 0 {
		return // of what the table holds the table itself tells more
	}
	if s.items == 0 {
		return
	}
	e.Largest, e.atLeast = s.largest, s.atLeast()
	for i, n := range s.sizes {
		c := SizeClass{Share: float64(n) / float64(max(s.entries, 1))}
		if i < len(sizeClasses) {
			c.UpTo = sizeClasses[i]
		}
		e.Sizes = append(e.Sizes, c)
	}
	// The names of the attributes belong to an item's size; a marker has
	// little more.
	const names, marker = 11, 60
	items := float64(s.bytes + names*s.entries + marker*(s.items-s.entries))
	switch {
	case s.complete:
		e.Entries, m.bytes, m.items = s.entries, float64(s.bytes), items
	case p.table.Survey.Items > 0 && p.table.Survey.Bytes > 0:
		m.items = max(float64(p.table.Survey.Bytes), items)
		m.bytes = m.items * float64(s.bytes) / items
		// Markers lie together, so that their share in a sample tells little
		// of that in the table.
		if s.entries > 0 {
			e.Entries = min(int64(m.bytes*float64(s.entries)/float64(s.bytes)), p.table.Survey.Items)
		}
	case s.done > 0:
		scale := float64(s.segments) / float64(s.done)
		e.Entries, m.bytes, m.items = int64(float64(s.entries)*scale), float64(s.bytes)*scale, items*scale
		p.warn("size", "the table does not tell its size yet: it is estimated by the part that was read", "plan again in some hours")
	default:
		e.Entries, m.bytes, m.items = s.entries, float64(s.bytes), items
		p.warn("size", "the table does not tell its size yet: the estimate is of what was read, and too low", "plan again in some hours")
	}
	trial, err := p.try(ctx, s)
	if err != nil {
		if ctx.Err() == nil {
			p.warn("sample", "this machine's speed could not be measured: "+err.Error(), copier.Hint(err))
		}
		return
	}
	m.local = trial
	if s.perWorker > 0 && !s.capped {
		m.perWorker = s.perWorker
		m.cpu = s.cpu/float64(processors.Count()) + trial.sort
		if s.saturated && s.most > 0 {
			m.cpu = max(m.cpu, 1/s.most+trial.sort)
		}
	}
}

// predict fills in what the model says.
func (p *planner) predict(e *Estimate, m *model) {
	now := settings{workers: p.workers(), cap: p.ReadCapacity, cores: 1}
	if !p.table.Survey.OnDemand {
		now.table = float64(p.table.Survey.ReadUnits)
	}
	e.Bytes, e.FileBytes = int64(m.bytes), int64(m.bytes*m.local.fileFactor)
	e.Units = math.Ceil(m.units(now))
	e.Seconds, e.Reading, e.Limit = m.predict(now)
	p.bounds(e, m, now)
	p.alternatives(e, m, now)
	p.capacity(e, m, now)
}

// bounds fills in how long the copy may take.
func (p *planner) bounds(e *Estimate, m *model, now settings) {
	low, high := 0.5, 3.0
	if s := e.Sample; s != nil {
		low, high = 0.75, 1.5
		if s.Complete || float64(s.Bytes) > 0.02*m.bytes {
			low, high = 0.8, 1.3
		}
	}
	// How long a copy waits for a lock is known.
	from := func(seconds, factor float64) float64 { return m.waits + (seconds-m.waits)*factor }
	e.Low, e.High = from(e.Seconds, low), from(e.Seconds, high)
	switch {
	case e.Limit == copier.LimitTable && now.table > 0 && (now.cap == 0 || now.cap >= now.table):
		// Size and capacity are known; what is not used before is kept.
		burst := min(now.table*burstSeconds, e.Units)
		e.Low = min(e.Seconds, max(m.waits+(e.Units-burst)/now.table, (e.Seconds-e.Reading)+m.bytes*m.cpu))
		e.High = from(e.Seconds, 1.3)
	case p.table.Survey.OnDemand:
		first := now
		first.table = onDemandUnits
		if longer, _, _ := m.predict(first); longer > e.High {
			e.High = from(longer, 1.3)
		}
	}
}

// alternatives fills in what other settings would give.
func (p *planner) alternatives(e *Estimate, m *model, now settings) {
	add := func(setting string, s settings) {
		if total, _, _ := m.predict(s); math.Abs(total-e.Seconds) > 0.02*e.Seconds {
			e.Others = append(e.Others, Other{setting, total})
		}
	}
	if now.cap > 0 {
		s := now
		s.cap = 0
		add("without -read-capacity", s)
	}
	if !p.table.Survey.OnDemand {
		for _, factor := range []float64{2, 10} {
			s := now
			s.table, s.cap = now.table*factor, 0
			add(humanize.Comma(int64(s.table))+" read units", s)
		}
		s := now
		s.table, s.cap = onDemandUnits, 0
		add("on demand ("+humanize.Comma(onDemandUnits)+" units/s at first)", s)
	}
	if e.Limit == copier.LimitNetwork {
		s := now
		s.workers *= 2
		add("-max-parallel "+strconv.Itoa(s.workers), s)
	}
	if e.Limit == copier.LimitProcessor {
		s := now
		s.cores = 2
		add("twice the processors", s)
	}
}

// longCopy is how long the table's capacity may make a copy without a warning.
const longCopy = time.Hour

// capacity warns of a table that serves too little, and says what to set.
func (p *planner) capacity(e *Estimate, m *model, now settings) {
	took := longTime(seconds(e.Seconds))
	switch {
	case e.Limit != copier.LimitTable:
		p.pass("duration", "about %s; the bottleneck is %s", took, bottlenecks[e.Limit])
	case seconds(e.Seconds) <= longCopy:
		p.pass("duration", "about %s; the bottleneck is the table's capacity, or -read-capacity", took)
	case now.cap > 0 && (now.table == 0 || now.cap < now.table):
		p.warn("duration", fmt.Sprintf("about %s: -read-capacity %g makes it long", took, now.cap), "leave -read-capacity out in the window, when no Vault needs the units")
	default:
		enough := roundUp(e.Units / 600)
		p.warn("duration", fmt.Sprintf("about %s: %s read units a second are little for %s of them", took, humanize.Comma(p.table.Survey.ReadUnits), humanize.Comma(int64(e.Units))),
			fmt.Sprintf("before the window raise the capacity to %s read units, for about 10 min of reading, or switch to on demand: aws dynamodb update-table --table-name %s --billing-mode PAY_PER_REQUEST", humanize.Comma(enough), p.table.Survey.Name))
	}
}

var bottlenecks = map[copier.Limit]string{
	copier.LimitTable:     "the table's capacity",
	copier.LimitNetwork:   "how fast the table answers",
	copier.LimitProcessor: "this machine's processor",
	copier.LimitDisk:      "the disk",
}

func seconds(s float64) time.Duration {
	return time.Duration(min(s, 1e9) * float64(time.Second))
}

// roundUp makes a number one that people write.
func roundUp(x float64) int64 {
	step := math.Pow(10, math.Floor(math.Log10(max(x, 1))))
	if x/step < 3 {
		step /= 2
	}
	return int64(max(math.Ceil(x/max(step, 1))*max(step, 1), 1))
}

func size(n int64) string { return humanize.IBytes(uint64(max(n, 0))) }

// longTime is a duration as people say it.
func longTime(d time.Duration) string {
	switch {
	case d >= 48*time.Hour:
		return fmt.Sprintf("%.0f days", d.Hours()/24)
	case d >= 100*time.Minute:
		return fmt.Sprintf("%.1f h", d.Hours())
	case d >= 100*time.Second:
		return fmt.Sprintf("%.0f min", d.Minutes())
	case d >= 10*time.Second:
		return fmt.Sprintf("%.0f s", d.Seconds())
	default:
		return fmt.Sprintf("%.1f s", d.Seconds())
	}
}

// workers is how many pages the copy reads at the same time, at the most.
func (p *planner) workers() int {
	return copier.ScanOptions{Workers: p.Workers, Memory: p.Memory}.MaxWorkers()
}
