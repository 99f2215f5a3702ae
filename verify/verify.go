// Package verify compares two sources, entry by entry.
//
// [Compare] reads both, with the engine of package copier but keeping of each value
// only its length and its SHA-256, and walks them side by side in the order of
// their keys. Nothing is written but work files. [CompareDirectory] does that with
// a Raft data directory, and looks at Raft's state and log too. Its vault.db is read
// by package vaultdb, which shares no code with the sink that wrote it, and whose
// rules prove that what is read in order is also what a Vault finds by its key.
//
// [CheckManifest] compares a directory with the figures of the copy that made
// it, without the source, and [Inspect] says what a directory holds.
package verify

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"
	"unicode/utf8"

	"github.com/dyn2raft/dyn2raft/copier"
)

// Options say how a comparison is made. The zero value is fit for use.
type Options struct {
	// Workers and Memory are those of [copier.ScanOptions].
	Workers int
	Memory  int64
	// Segments is the number of segments the source is asked for. 0 means one
	// for each 11 MiB that it reports, from 85 to 3,072, and for a sample at
	// least 1,000: another number than a copy of a table asks for, so that a
	// mistake in how the source was divided is not made twice.
	Segments int
	// NotSegments is a number of segments to avoid: that of the copy, where it is
	// known, else the copy's default. Where Segments is 0 and would come to this
	// number, a third more are asked for.
	NotSegments int
	// WorkDir is an existing directory for work files, about 170 bytes an
	// entry of both sides together; see [WorkPath] for where they are in it. It is
	// the system's directory for temporary files if it is empty.
	WorkDir string
	// Resume resumes a comparison that was interrupted, killed or failed: what it
	// has read of the source is not read again. Where one of the sources is another
	// one now, the error wraps [copier.ErrOtherScan]. Where there is nothing to
	// resume, a comparison begins. Restart removes what an earlier comparison has
	// left, and begins another. Without either, an unfinished comparison is refused
	// with [ErrUnfinished].
	Resume, Restart bool
	// Sample, where set, is the share of the source to compare, above 0 and
	// below 1, in segments that SampleSeed chooses; 0 means a seed of its own.
	Sample     float64
	SampleSeed uint64
	// MaxDiffs bounds how many differing keys are named; 0 means 100, or all
	// where OnDiff is set, and a negative number all. All are counted. Each
	// takes some 400 bytes of memory in Report.Diffs.
	MaxDiffs int
	// OnDiff, where set, is called for each key that differs, in the order of keys.
	// Report.Diffs stays empty then, so that there may be any number of them. An
	// error of OnDiff ends the comparison.
	OnDiff func(Diff) error
	// Known, where set, says why a key may differ though nothing is wrong, or
	// returns "". It is called only for keys that Diff.Key holds whole.
	Known func(kind DiffKind, key string) string
	// Events, where set, is called with the comparison's events.
	Events func(copier.Event)

	work string // the directory of work files; empty for the one that WorkPath names
}

// A DiffKind says how a key differs.
type DiffKind string

// The kinds of difference.
const (
	Missing   DiffKind = "missing"   // in the source only
	Extra     DiffKind = "extra"     // in the destination only
	Different DiffKind = "different" // in both, with different values
	NoMarker  DiffKind = "no-marker" // a directory of a [Marked] destination, without its marker
)

// A Diff is one key that differs. It never holds a value.
type Diff struct {
	Kind DiffKind `json:"kind"`
	// Key is the whole key where KeyBytes is 0. Otherwise Key is its beginning,
	// KeyBytes its length and KeySHA256 its SHA-256. A key is shortened where it is
	// not UTF-8, which a text can't hold. So is one that no Vault writes and only
	// the directory has: the rest may be a piece of a value. See [copier.Printable].
	Key       string `json:"key"`
	KeyBytes  int    `json:"key_bytes,omitempty"`
	KeySHA256 string `json:"key_sha256,omitempty"`
	// Source and Destination describe the values; nil where there is none.
	Source      *Value `json:"source,omitempty"`
	Destination *Value `json:"destination,omitempty"`
	// Known is what Options.Known says of it. For a directory that a Vault was
	// started on, that is why Vault changes this key by itself. It is empty where no
	// Vault was started, and where the cause may be Vault or the copy.
	Known string `json:"known,omitempty"`
}

// A Value describes a value by its length in bytes and its SHA-256 in
// hexadecimal digits.
type Value struct {
	Bytes  int64  `json:"bytes"`
	SHA256 string `json:"sha256"`
}

// A Side is what one side holds under a prefix.
type Side struct {
	Entries int64 `json:"entries"`
	// Bytes is the size of all keys and values.
	Bytes int64 `json:"bytes"`
	// SHA256 is the hash, in hexadecimal digits, of the entries in key order,
	// each as four fields: the length of the key (8 bytes, big-endian), the
	// key, the length of the value (8 bytes, big-endian), and the SHA-256 of
	// the value (32 bytes).
	SHA256 string `json:"sha256"`
}

// A Prefix compares everything under one first segment of the keys, such as
// "sys/", or "" for keys without a slash.
type Prefix struct {
	Prefix      string `json:"prefix"`
	Source      Side   `json:"source"`
	Destination Side   `json:"destination"`
}

// A Report is the result of a comparison: of what must be there, the source, with
// what is, the destination.
type Report struct {
	Source      copier.Info   `json:"source"`
	Destination copier.Info   `json:"destination"`
	Start       time.Time     `json:"start"`
	Duration    time.Duration `json:"duration_ns"`
	// Scan is of the source, or of the destination where the source alone is
	// [copier.Ordered].
	Scan copier.ScanStats `json:"scan"`

	Prefixes []Prefix `json:"prefixes"`
	// SourceEntries and DestinationEntries count both sides.
	SourceEntries      int64 `json:"source_entries"`
	DestinationEntries int64 `json:"destination_entries"`
	// Missing, Extra and Different count the keys that differ.
	Missing   int64 `json:"missing"`
	Extra     int64 `json:"extra"`
	Different int64 `json:"different"`
	// NoMarker counts the directories of a [Marked] destination that have no marker, and
	// ExtraMarkers the markers of directories in which nothing is, which do no harm.
	NoMarker     int64 `json:"no_marker"`
	ExtraMarkers int64 `json:"extra_markers"`
	// Known counts those of them that have a Diff.Known.
	Known int64 `json:"known"`
	// Diffs names them, as many as Options.MaxDiffs allows, in key order, unless
	// Options.OnDiff is told. Named is how many were named.
	Diffs []Diff `json:"diffs"`
	Named int64  `json:"named"`
	// Complete is set when both sides were read to their end, of the source
	// no more than the sample if there is one.
	Complete bool `json:"complete"`

	// Sample is set when a part of the source only was compared. The prefixes
	// count, on both sides, what was looked up; DestinationEntries counts all
	// that the destination holds.
	Sample *Part `json:"sample,omitempty"`
	// Resumed counts how often the comparison was resumed. Nothing keeps a Vault
	// from writing to the source meanwhile. Where Resumed is not 0, a difference
	// may be an entry that was written between two readings.
	Resumed int `json:"resumed"`
	// Began is when the comparison was begun for the first time; Start and
	// Duration are those of the last process.
	Began time.Time `json:"began"`
	// Kept names, beside an error, the directory with what was read, for a
	// later call with Options.Resume. It is empty where nothing is kept.
	Kept string `json:"kept,omitempty"`
}

// Equal reports whether both sides hold the same keys with the same values. It is
// false as long as that is not known, and always for a sample.
func (r *Report) Equal() bool { return r.NoDifference() && r.Sample == nil }

// NoDifference reports whether nothing differs in what was compared: in all, or
// in the sample.
func (r *Report) NoDifference() bool {
	return r.Complete && r.Missing == 0 && r.Extra == 0 && r.Different == 0 && r.NoMarker == 0
}

// A Marked is a source whose storage lists what directory markers lead to, and nothing else.
// It yields them as entries without a value, whose key ends in a slash. As the destination of
// [Compare] each directory must have its marker; they are no entries.
type Marked interface {
	copier.Source
	MarkersIncluded()
}

// Compare opens two sources, compares what is there, got, with what must be, want, and
// closes them. Entries that differ are no error: they are in the report, which is
// valid, as far as the comparison came, also beside an error. An error wraps one of
// package copier's sentinels, or the context's error. Both sources are only read.
//
// A source is scanned, by its spans, and sorted. One that is [copier.Ordered] is read
// in its order instead, beside the other. What was scanned is saved every few seconds
// in the work directory. When the comparison has come to its end, all of that is
// removed, whatever the result; after an error Report.Kept says where a later call
// can resume.
func Compare(ctx context.Context, want, got copier.Source, opts Options) (rep *Report, err error) {
	if opts.MaxDiffs == 0 {
		opts.MaxDiffs = 100
		if opts.OnDiff != nil {
			opts.MaxDiffs = -1
		}
	}
	if opts.Events == nil {
		opts.Events = func(copier.Event) {}
	}
	rep = &Report{Start: time.Now(), Diffs: []Diff{}, Prefixes: []Prefix{}}
	rep.Began = rep.Start
	defer func() { rep.Duration = time.Since(rep.Start) }()
	if err := opts.validate(); err != nil {
		return rep, err
	}
	if rep.Destination, err = got.Open(ctx); err != nil {
		return rep, err
	}
	defer func() { err = errors.Join(err, got.Close()) }()
	dir := opts.work
	if dir == "" {
		dir = WorkPath(cmp.Or(opts.WorkDir, os.TempDir()), rep.Destination.ID)
	}
	if opts.Sample != 0 {
		return rep, rep.compareSample(ctx, want, got, opts)
	}

	work, err := openWork(dir)
	if err != nil {
		return rep, err
	}
	defer func() {
		keep := work.worthKeeping(err)
		if keep {
			rep.Kept = work.path
		}
		err = errors.Join(err, work.close(keep))
	}()
	if rep.Source, err = want.Open(ctx); err != nil {
		return rep, err
	}
	defer func() { err = errors.Join(err, want.Close()) }()
	return rep, rep.compare(ctx, want, got, work, opts)
}

// compare reads both sources at the same time, and then walks them side by side.
func (r *Report) compare(ctx context.Context, want, got copier.Source, work *workDir, opts Options) (err error) {
	wantOrdered, gotOrdered := ordered(want), ordered(got)
	if wantOrdered != nil && gotOrdered != nil {
		w, werr := wantOrdered.Stream(ctx)
		g, gerr := gotOrdered.Stream(ctx)
		if err := errors.Join(werr, gerr); err != nil {
			return err
		}
		return r.walk(ctx, side{Stream: w, raw: true}, side{Stream: g, raw: true}, opts)
	}
	sides := []*reading{{src: want, info: r.Source, dir: work.path}, {src: got, info: r.Destination, dir: work.path, quiet: wantOrdered == nil}}
	if wantOrdered == nil && gotOrdered == nil {
		opts.Memory = max(cmp.Or(opts.Memory, copier.DefaultMemory)/2, copier.MinMemory)
		sides[1].dir = filepath.Join(work.path, "destination")
	}
	for i, x := range sides {
		if ordered(x.src) == nil {
			if err := work.begin(x, sides[1-i].info, opts); err != nil {
				return err
			}
		}
	}
	r.Resumed, r.Began = work.resumed()

	rctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	var reading sync.WaitGroup
	for _, x := range sides {
		reading.Go(func() {
			if x.err = x.read(rctx, opts); x.err != nil {
				stop(x.err)
			}
		})
	}
	reading.Wait()
	for _, x := range sides {
		if x.entries != nil {
			defer func() { err = errors.Join(err, x.entries.Close()) }()
		}
	}
	if r.Scan = sides[0].stats; wantOrdered != nil {
		r.Scan = sides[1].stats
	}
	// Where one has ended the other, it is said once.
	if a, b := sides[0].err, sides[1].err; a != nil && b != nil && errors.Is(b, a) {
		return moved(a)
	} else if a != nil && b != nil && errors.Is(a, b) {
		return moved(b)
	} else if err := errors.Join(a, b); err != nil {
		return moved(err)
	}
	err = r.walk(ctx, side{Stream: sides[0].entries}, side{Stream: sides[1].entries, marked: isMarked(got)}, opts)
	return moved(err)
}

func isMarked(src copier.Source) bool {
	_, ok := src.(Marked)
	return ok
}

func ordered(src copier.Source) copier.Ordered {
	o, _ := src.(copier.Ordered)
	return o
}

// A reading is what is made of a source: its entries in order, with summaries for
// values.
type reading struct {
	src     copier.Source
	info    copier.Info
	dir     string // for work files
	journal *copier.Journal
	quiet   bool // nobody is told of its progress

	entries *copier.Sorted
	stats   copier.ScanStats
	err     error
}

func (x *reading) read(ctx context.Context, opts Options) error {
	if o := ordered(x.src); o != nil {
		in, err := o.Stream(ctx)
		if err == nil {
			x.entries, err = copier.Spool(ctx, filepath.Join(x.dir, spoolName), in, digest)
		}
		return err
	}
	scan := copier.ScanOptions{Workers: opts.Workers, Memory: opts.Memory, Map: digest, Events: opts.Events, WorkDir: x.dir, Journal: x.journal}
	if x.quiet {
		scan.Events = func(e copier.Event) {
			if _, ok := e.(copier.Warning); ok {
				opts.Events(e)
			}
		}
	} else if scan.Segments = opts.Segments; scan.Segments == 0 {
		scan.Segments = segments(x.info, minSegments, opts.NotSegments)
	}
	var err error
	if x.entries, x.stats, err = copier.Scan(ctx, x.src, scan); err != nil {
		return err
	}
	return x.stats.CheckCount(x.info, opts.Events)
}

// compareSample compares a part of want, and keeps nothing if that fails.
func (r *Report) compareSample(ctx context.Context, want, got copier.Source, opts Options) (err error) {
	if r.Source, err = want.Open(ctx); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, want.Close()) }()
	scan := copier.ScanOptions{Workers: opts.Workers, Memory: opts.Memory, Segments: opts.Segments, Map: digest, Events: opts.Events}
	if scan.WorkDir, err = os.MkdirTemp(opts.WorkDir, "dyn2raft-verify-"); err != nil {
		return &copier.Error{Kind: copier.ErrConfig, Op: "create work directory", Err: err}
	}
	defer func() { err = errors.Join(err, os.RemoveAll(scan.WorkDir)) }()
	if scan.Segments == 0 {
		scan.Segments = segments(r.Source, sampleSegments, opts.NotSegments)
	}
	sampled := newSample(want, opts)
	r.Sample = sampled.sample
	entries, stats, err := copier.Scan(ctx, sampled, scan)
	r.Scan = stats
	if err != nil {
		return moved(err)
	}
	defer func() { err = errors.Join(err, entries.Close()) }()
	found := side{raw: true}
	if o := ordered(got); o != nil {
		if found.Stream, err = o.Stream(ctx); err != nil {
			return err
		}
	} else {
		all := &reading{src: got, info: r.Destination, dir: scan.WorkDir, quiet: true}
		if err := all.read(ctx, opts); err != nil {
			return moved(err)
		}
		defer func() { err = errors.Join(err, all.entries.Close()) }()
		found = side{Stream: all.entries, marked: isMarked(got)}
	}
	err = r.walk(ctx, side{Stream: entries}, found, opts)
	sampled.sample.prove(r.SourceEntries, r.DestinationEntries)
	return moved(err)
}

// moved gives the error one code where a source was written to, which keeps nobody
// from comparing it: what a copy has to do about its locks is of no use then.
func moved(err error) error {
	if errors.Is(err, copier.ErrDuplicateKey) || errors.Is(err, copier.ErrMoved) {
		return &copier.Error{Code: copier.SourceWritten, Err: err}
	}
	return err
}

// Each segment ends with a part of a page: of a table that is not small there are
// fewer segments than for a copy.
const (
	segmentBytes = 11 << 20
	minSegments  = 85
	maxSegments  = 3072
)

// segments is the number of segments that a source is asked for, unless the
// caller says it. See Options.Segments and Options.NotSegments.
func segments(info copier.Info, least int64, not int) int {
	n := int(min(max(info.Bytes/segmentBytes, least), maxSegments))
	if not == 0 { // sources/dynamodb's own
		not = int(min(max(info.Bytes/(8<<20), 64), 4096))
	}
	if n == not {
		n += n/3 + 1
	}
	return n
}

// A summary is what is kept of a value: its length (uvarint) and its SHA-256.

func digest(e copier.Entry, out *copier.Batch) {
	var buf [binary.MaxVarintLen64 + sha256.Size]byte
	out.Append(e.Key, appendSummary(buf[:0], e.Value))
}

func appendSummary(b, value []byte) []byte {
	sum := sha256.Sum256(value)
	return append(binary.AppendUvarint(b, uint64(len(value))), sum[:]...)
}

// parse returns the two parts of a summary.
func parse(summary []byte) (length uint64, sum []byte) {
	length, n := binary.Uvarint(summary)
	return length, summary[n:]
}

func describe(summary []byte) *Value {
	length, sum := parse(summary)
	return &Value{Bytes: int64(length), SHA256: hex.EncodeToString(sum)}
}

// nameKey returns the three fields of a Diff for a key. theirs says that only the
// directory has it.
func nameKey(key []byte, theirs bool) (text string, length int, sum string) {
	text, whole := copier.Printable(key)
	switch {
	case whole:
		return text, 0, ""
	case !theirs && utf8.Valid(key):
		return string(key), 0, ""
	default:
		return text, len(key), fmt.Sprintf("%x", sha256.Sum256(key))
	}
}

// A side is a stream of entries in order. Their values are summaries, or raw values
// that are summarised when asked for.
type side struct {
	copier.Stream
	raw bool
	sum []byte

	// Of a [Marked] source, whose markers Next leaves out.
	marked            bool
	missing           func(dir []byte) error
	needless, markers int64
	open              []openDir // the directories that the last key is in, each in the one before
	from              []byte    // the last entry's key
}

// An openDir is a directory that has a marker.
type openDir struct {
	key  string
	used bool // by an entry
}

// Next implements [copier.Stream]. In the order of keys a marker comes right before what is
// in its directory.
func (s *side) Next() (copier.Entry, error) {
	for {
		e, err := s.Stream.Next()
		if !s.marked || err != nil {
			s.leave(nil)
			return e, err
		}
		s.leave(e.Key)
		if bytes.HasSuffix(e.Key, []byte("/")) {
			s.markers++
			s.open = append(s.open, openDir{key: string(e.Key)})
			continue
		}
		for i := range s.open {
			s.open[i].used = true
		}
		for n := range e.Key {
			dir := e.Key[:n+1]
			if e.Key[n] != '/' || bytes.HasPrefix(s.from, dir) || slices.ContainsFunc(s.open, func(o openDir) bool { return o.key == string(dir) }) {
				continue
			}
			if err := s.missing(dir); err != nil {
				return e, err
			}
		}
		s.from = append(s.from[:0], e.Key...)
		return e, nil
	}
}

// leave closes the directories that a key is not in.
func (s *side) leave(key []byte) {
	for n := len(s.open); n > 0 && !bytes.HasPrefix(key, []byte(s.open[n-1].key)); n-- {
		if !s.open[n-1].used {
			s.needless++
		}
		s.open = s.open[:n-1]
	}
}

// summarised returns an entry with its summary.
func (s *side) summarised(e copier.Entry) copier.Entry {
	if s.raw {
		s.sum = appendSummary(s.sum[:0], e.Value)
		e.Value = s.sum
	}
	return e
}

// walk compares two sides.
func (r *Report) walk(ctx context.Context, want, got side, opts Options) error {
	name := func(kind DiffKind, key, want, got []byte) error {
		d := Diff{Kind: kind}
		d.Key, d.KeyBytes, d.KeySHA256 = nameKey(key, kind == Extra)
		if opts.Known != nil && d.KeyBytes == 0 {
			if d.Known = opts.Known(kind, d.Key); d.Known != "" {
				r.Known++
			}
		}
		if opts.MaxDiffs >= 0 && r.Named >= int64(opts.MaxDiffs) {
			return nil
		}
		if want != nil {
			d.Source = describe(want)
		}
		if got != nil {
			d.Destination = describe(got)
		}
		r.Named++
		if opts.OnDiff != nil {
			return opts.OnDiff(d)
		}
		r.Diffs = append(r.Diffs, d)
		return nil
	}
	both := sums{}
	got.missing = func(dir []byte) error {
		r.NoMarker++
		return name(NoMarker, dir, nil, nil)
	}
	defer func() {
		r.ExtraMarkers = got.needless
		if r.Scan.Entries == r.DestinationEntries+got.markers { // it is the destination's
			r.Scan.Entries, r.Scan.Markers = r.DestinationEntries, got.markers
		}
	}()
	s, serr := want.Next()
	d, derr := got.Next()
	for n := 0; ; n++ {
		if n%1024 == 0 {
			if err := context.Cause(ctx); err != nil {
				return err
			}
		}
		if serr != nil && serr != io.EOF {
			return serr
		}
		if derr != nil && derr != io.EOF {
			return derr
		}
		order := 0
		switch {
		case serr == io.EOF && derr == io.EOF:
			r.Prefixes = both.prefixes()
			r.Complete = true
			return nil
		case serr == io.EOF:
			order = 1
		case derr == io.EOF:
			order = -1
		default:
			order = bytes.Compare(s.Key, d.Key)
		}
		if order <= 0 {
			r.SourceEntries++
			s = want.summarised(s)
		}
		if order >= 0 {
			r.DestinationEntries++
			if order == 0 || r.Sample == nil { // else it is not in the sample
				d = got.summarised(d)
			}
		}
		var err error
		switch {
		case order < 0:
			r.Missing++
			both.apart(s.Key).want.add(s)
			err = name(Missing, s.Key, s.Value, nil)
		case order > 0 && r.Sample != nil: // not in the sample, or not in the source
		case order > 0:
			r.Extra++
			both.apart(d.Key).got.add(d)
			err = name(Extra, d.Key, nil, d.Value)
		case bytes.Equal(s.Value, d.Value):
			both.add(s)
		default:
			r.Different++
			p := both.apart(s.Key)
			p.want.add(s)
			p.got.add(d)
			err = name(Different, d.Key, s.Value, d.Value)
		}
		if err != nil {
			return err
		}
		if order <= 0 {
			s, serr = want.Next()
		}
		if order >= 0 {
			d, derr = got.Next()
		}
	}
}

// sums adds up the entries of both sides by prefix.
type sums map[string]*pair

// A pair is both sides' sums of what is under a prefix: the same one as long as
// they have had the same entries, which is nearly always and saves half of the
// time.
type pair struct{ want, got *sum }

type sum struct {
	side Side
	hash hash.Cloner
	size [8]byte
}

func newSum() *sum { return &sum{hash: sha256.New().(hash.Cloner)} }

// of returns the pair of the prefix of a key. Keys come in ascending order, so
// prefixes do, and those that share a digest come last: see [copier.Digests].
func (s sums) of(key []byte) *pair {
	prefix := copier.Prefix(key)
	p := s[string(prefix)]
	if p == nil && len(prefix) > 0 && len(s) >= copier.MostPrefixes {
		own := len(s)
		for _, name := range []string{"", copier.OtherPrefixes} {
			if s[name] != nil {
				own--
			}
		}
		if own >= copier.MostPrefixes {
			prefix = []byte(copier.OtherPrefixes)
			p = s[string(prefix)]
		}
	}
	if p == nil {
		both := newSum()
		p = &pair{both, both}
		s[string(prefix)] = p
	}
	return p
}

// add takes an entry that both sides have.
func (s sums) add(e copier.Entry) {
	p := s.of(e.Key)
	if p.want.add(e); p.got != p.want {
		p.got.add(e)
	}
}

// apart returns the pair for a key that is not the same on both sides.
func (s sums) apart(key []byte) *pair {
	p := s.of(key)
	if p.got == p.want {
		twin, err := p.want.hash.Clone()
		if err != nil {
			panic("a SHA-256 can't be cloned: " + err.Error()) // Go's own can, see hash.Cloner
		}
		p.got = &sum{side: p.want.side, hash: twin}
	}
	return p
}

// add takes an entry whose value is a summary.
func (s *sum) add(e copier.Entry) {
	length, sum := parse(e.Value)
	s.side.Entries++
	s.side.Bytes += int64(len(e.Key)) + int64(length)
	binary.BigEndian.PutUint64(s.size[:], uint64(len(e.Key)))
	s.hash.Write(s.size[:])
	s.hash.Write(e.Key)
	binary.BigEndian.PutUint64(s.size[:], length)
	s.hash.Write(s.size[:])
	s.hash.Write(sum)
}

func (s *sum) total() Side {
	side := s.side
	side.SHA256 = hex.EncodeToString(s.hash.Sum(nil))
	return side
}

// prefixes puts both sides' prefixes side by side, in order.
func (s sums) prefixes() []Prefix {
	out := []Prefix{}
	for _, p := range slices.Sorted(maps.Keys(s)) {
		out = append(out, Prefix{Prefix: copier.PrintablePrefix(p), Source: s[p].want.total(), Destination: s[p].got.total()})
	}
	return out
}
