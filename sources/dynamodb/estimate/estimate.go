// Package estimate says how long a copy of a table will take. It reads a sample with
// the scan of a copy, and copies that to measure this machine.
package estimate

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math"
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
	// AtLeast is what a sample has shown the table to hold, in bytes of keys and
	// values.
	AtLeast int64 `json:"-"`
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
	// Downtime compares this copy with a live one.
	Downtime *Downtime `json:"downtime"`
	// Others is what other settings would give.
	Others []Other `json:"-"`
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
	Setting Setting
	// Value is how many workers or read units a second it is.
	Value   int64
	Seconds float64
}

// A Setting is what a copy could be made with.
type Setting int

// The settings.
const (
	Uncapped        Setting = iota // without the cap on read units
	ReadUnits                      // with a provisioned capacity of so many
	OnDemand                       // with a table on demand, which serves so many at first
	Workers                        // with so many at most
	TwiceProcessors                // twice as many
)

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

// units is how many units a second may be read, 0 is as many as are asked for.
func (s settings) units() float64 {
	if s.cap > 0 && (s.table == 0 || s.cap < s.table) {
		return s.cap
	}
	return s.table
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

// predict returns how long a copy takes with the settings, in seconds, how much
// of that is reading, and what bounds it.
func (m *model) predict(s settings) (total, reading float64, limit copier.Limit) {
	bound, limit := math.Inf(1), copier.LimitNetwork
	if m.cpu > 0 {
		bound, limit = s.cores/m.cpu, copier.LimitProcessor
	}
	units := s.units()
	// What a table serves does not depend on workers. One second's worth is
	// there at the start, in the table and in the bucket of -read-capacity.
	if units > 0 {
		took := max(m.units(s)/units-1, 0)
		if byTable := m.bytes / max(took, 1e-3); byTable < bound {
			bound, limit = byTable, copier.LimitTable
		}
	}
	growSeconds := copier.PaceInterval.Seconds()
	workers, left := float64(min(copier.FirstWorkers(), s.workers)), m.bytes
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
		workers = min(float64(copier.MoreWorkers(int(workers))), float64(s.workers))
	}
	// The last pages leave workers idle, and of a Path that fills many the
	// first two come one after the other.
	if limit == copier.LimitNetwork {
		reading += 2 * min(pageBytes, m.bytes) / m.perWorker
	}
	total = m.waits + m.local.fixed.Seconds() + reading + m.bytes*m.local.after/s.cores
	return total, reading, limit
}

// Options say what is estimated. Source and Survey are of one table.
type Options struct {
	Source *dynamodb.Source
	Survey *dynamodb.Survey
	// Workers, Memory and ReadCapacity are those of the copy: see
	// [copier.ScanOptions] and [dynamodb.Options].
	Workers      int
	Memory       int64
	ReadCapacity float64
	// Waits is how long the copy will wait for locks that somebody left.
	Waits time.Duration
	// NoSample leaves the sample out: the estimate is then made of what the table
	// says of itself. SampleTime bounds it; 0 means 4 s.
	NoSample   bool
	SampleTime time.Duration
	// Full reads the whole table in place of a sample, however long that takes, and
	// names every item that a copy refuses. Events, where set, is told how it gets on.
	Full   bool
	Events func(copier.Event)
	// Sink makes the destination of a trial in a directory, which is removed again.
	Sink func(dir string) (copier.Sink, error)
	// TempDir is where that directory is made; empty means the system's own.
	TempDir string
}

type estimator struct {
	Options
	copier.Findings
	result *Estimate
}

// Make reads a sample, unless it is not wanted, and predicts the copy. The estimate is
// nil where there is nothing to make it of, and where the context ends. What a person
// should know of it is in the findings.
func Make(ctx context.Context, opts Options) (*Estimate, copier.Findings) {
	p := &estimator{Options: opts}
	p.SampleTime = cmp.Or(p.SampleTime, defaultSample)
	if p.Events == nil {
		p.Events = func(copier.Event) {}
	}
	p.make(ctx)
	return p.result, p.Findings
}

func (p *estimator) make(ctx context.Context) {
	e := &Estimate{Entries: p.Survey.Items}
	m := model{perWorker: commonWorker, cpu: commonCPU / float64(processors.Count()), local: commonLocal,
		bytes: float64(p.Survey.Bytes), items: float64(p.Survey.Bytes), segments: 64, waits: p.Waits.Seconds()}
	if !p.NoSample {
		s, err := p.take(ctx)
		p.items(s, err)
		switch {
		case ctx.Err() != nil:
			return
		case err != nil && p.Full:
			p.Fail("items", "unread", "the table could not be read to its end: %w", err)
		case err != nil:
			p.Warn("sample", "unread", "no sample could be read: %w", err)
		default:
			p.sampled(ctx, e, &m, s)
			if ctx.Err() != nil {
				return
			}
		}
	}
	if m.items == 0 && e.Sample == nil {
		p.Warn("estimate", "", "nothing tells how large the table is: it reports no items, and no sample was read")
		return
	}
	p.result = e
	p.predict(e, &m)
}

// items reports what a copy refuses, as far as a sample, or the whole table, was read.
func (p *estimator) items(s *sample, err error) {
	for _, w := range s.warnings {
		p.Warn("items", "warned", "%s", w)
	}
	if s.hidden.Count > 0 {
		part := ""
		if !s.Complete {
			part = " (of a sample)"
		}
		p.Warn("hidden-leases", "", "%v%s", s.hidden, part)
	}
	if len(s.refused) == 0 {
		if p.Full && err == nil && s.Complete {
			p.Pass("items", "the whole table was read: all %s items are what Vault writes", humanize.Comma(s.items))
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
	code := ""
	if !s.Complete {
		code = "sample"
	}
	p.Fail("items", code, "a copy refuses %s: %s", english.Plural(n, "item that is not Vault's", "items that are not Vault's"), strings.Join(names, "; "))
}

// enoughEntries is how many entries a sample needs to tell anything of the rest.
// A table with few read units gives less in some seconds.
const enoughEntries = 200

// sampled takes a sample over into the estimate and the model.
func (p *estimator) sampled(ctx context.Context, e *Estimate, m *model, s *sample) {
	read := s.Sample // without the entries that s holds
	e.Sample = &read
	m.segments = max(s.spans, m.segments)
	if s.Throttled {
		p.Warn("sample", "throttled", "the table throttled the sample")
	}
	if !s.Complete && s.Entries < enoughEntries && p.Survey.Items > 0 {
		return // of what the table holds the table itself tells more
	}
	if s.items == 0 {
		return
	}
	e.Largest, e.AtLeast = s.largest, s.atLeast()
	for i, n := range s.sizes {
		c := SizeClass{Share: float64(n) / float64(max(s.Entries, 1))}
		if i < len(sizeClasses) {
			c.UpTo = sizeClasses[i]
		}
		e.Sizes = append(e.Sizes, c)
	}
	// The names of the attributes belong to an item's size; a marker has
	// little more.
	const names, marker = 11, 60
	items := float64(s.Bytes + names*s.Entries + marker*(s.items-s.Entries))
	e.Entries, m.bytes, m.items = s.Entries, float64(s.Bytes), items
	switch {
	case s.Complete:
	case p.Survey.Items > 0 && p.Survey.Bytes > 0:
		m.items = max(float64(p.Survey.Bytes), items)
		m.bytes = m.items * float64(s.Bytes) / items
		// Markers lie together, so that their share in a sample tells little
		// of that in the table.
		e.Entries = p.Survey.Items
		if s.Entries > 0 {
			e.Entries = min(int64(m.bytes*float64(s.Entries)/float64(s.Bytes)), p.Survey.Items)
		}
	case s.done > 0:
		scale := float64(s.spans) / float64(s.done)
		e.Entries, m.bytes, m.items = int64(float64(s.Entries)*scale), m.bytes*scale, m.items*scale
		p.Warn("size", "", "the table does not tell its size yet: it is estimated by the part that was read")
	default:
		p.Warn("size", "", "the table does not tell its size yet: the estimate is of what was read, and too low")
	}
	trial, err := p.try(ctx, s)
	if err != nil {
		if ctx.Err() == nil {
			p.Warn("sample", "unread", "this machine's speed could not be measured: %w", err)
		}
		return
	}
	m.local = trial
	if s.Bytes > 0 && !s.capped {
		if m.perWorker = s.perWorker(); s.processor {
			m.perWorker = max(m.perWorker, commonWorker)
		}
		m.cpu = s.cpu/float64(processors.Count()) + trial.sort
		if (s.saturated || s.processor) && s.most > 0 {
			m.cpu = max(m.cpu, 1/s.most+trial.sort)
		}
	}
}

// predict fills in what the model says.
func (p *estimator) predict(e *Estimate, m *model) {
	now := settings{workers: copier.ScanOptions{Workers: p.Workers, Memory: p.Memory}.MaxWorkers(), cap: p.ReadCapacity, cores: 1}
	if !p.Survey.OnDemand {
		now.table = float64(p.Survey.ReadUnits)
	}
	e.Bytes, e.FileBytes = int64(m.bytes), int64(m.bytes*m.local.fileFactor)
	e.Units = math.Ceil(m.units(now))
	e.Seconds, e.Reading, e.Limit = m.predict(now)
	p.bounds(e, m, now)
	p.alternatives(e, m, now)
	p.downtime(e, m, now)
	p.capacity(e, now)
}

// bounds fills in how long the copy may take.
func (p *estimator) bounds(e *Estimate, m *model, now settings) {
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
	case p.Survey.OnDemand:
		first := now
		first.table = onDemandUnits
		if longer, _, _ := m.predict(first); longer > e.High {
			e.High = from(longer, 1.3)
		}
	}
}

// alternatives fills in what other settings would give.
func (p *estimator) alternatives(e *Estimate, m *model, now settings) {
	add := func(what Setting, value int64, change func(s *settings)) {
		s := now
		change(&s)
		if total, _, _ := m.predict(s); math.Abs(total-e.Seconds) > 0.02*e.Seconds {
			e.Others = append(e.Others, Other{what, value, total})
		}
	}
	if now.cap > 0 {
		add(Uncapped, 0, func(s *settings) { s.cap = 0 })
	}
	if !p.Survey.OnDemand {
		for _, factor := range []float64{2, 10} {
			add(ReadUnits, int64(now.table*factor), func(s *settings) { s.table, s.cap = now.table*factor, 0 })
		}
		add(OnDemand, onDemandUnits, func(s *settings) { s.table, s.cap = onDemandUnits, 0 })
	}
	switch e.Limit {
	case copier.LimitNetwork:
		add(Workers, int64(2*now.workers), func(s *settings) { s.workers *= 2 })
	case copier.LimitProcessor:
		add(TwiceProcessors, 0, func(s *settings) { s.cores = 2 })
	}
}

// longCopy is how long the table's capacity may make a copy without a warning, and
// enoughTime for how long it may be read once there is enough of it.
const (
	longCopy   = time.Hour
	enoughTime = 10 * time.Minute
)

// capacity warns of a table that serves too little.
func (p *estimator) capacity(e *Estimate, now settings) {
	took := Duration(e.Seconds)
	switch {
	case e.Limit != copier.LimitTable:
		p.Pass("duration", "about %s; the bottleneck is %s", took, bottlenecks[e.Limit])
	case e.Seconds <= longCopy.Seconds():
		p.Pass("duration", "about %s; the bottleneck is the table's capacity, or the cap on what is read of it", took)
	case now.cap > 0 && (now.table == 0 || now.cap < now.table):
		p.Warn("duration", "cap", "about %s: a cap of %g read units a second makes it long", took, now.cap)
	default:
		p.Warn("duration", "", "about %s: %s read units a second are little for %s of them", took, humanize.Comma(p.Survey.ReadUnits), humanize.Comma(int64(e.Units))).
			With("units", humanize.Comma(roundUp(e.Units/enoughTime.Seconds())), "minutes", fmt.Sprint(enoughTime.Minutes()))
	}
}

var bottlenecks = map[copier.Limit]string{
	copier.LimitNetwork:   "how fast the table answers",
	copier.LimitProcessor: "this machine's processor",
	copier.LimitDisk:      "the disk",
}

// roundUp makes a number one that people write.
func roundUp(x float64) int64 {
	step := math.Pow(10, math.Floor(math.Log10(max(x, 1))))
	if x/step < 3 {
		step /= 2
	}
	return int64(max(math.Ceil(x/max(step, 1))*max(step, 1), 1))
}

// Duration is a number of seconds as people say it.
func Duration(seconds float64) string {
	switch {
	case seconds >= 48*3600:
		return fmt.Sprintf("%.1f days", seconds/24/3600)
	case seconds >= 100*60:
		return fmt.Sprintf("%.1f h", seconds/3600)
	case seconds >= 100:
		return fmt.Sprintf("%.0f min", seconds/60)
	case seconds >= 10:
		return fmt.Sprintf("%.0f s", seconds)
	default:
		return fmt.Sprintf("%.1f s", seconds)
	}
}
