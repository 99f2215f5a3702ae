// Package verify compares a source, entry by entry, with a Raft data directory
// that was copied from it.
//
// It reads the source again, with the engine of package copier but keeping of
// each value only its length and its SHA-256, sorts that, and walks it side by
// side with the data bucket of vault.db. The file is read by package vaultdb,
// which shares no code with the sink that wrote it, and whose rules prove that
// what is read in order is also what a Vault finds by its key. Nothing is
// written but work files.
//
// [CheckManifest] compares a directory with the figures of the copy that made
// it, without the source, and [Inspect] tells what a directory holds.
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
	"time"
	"unicode/utf8"

	"github.com/dyn2raft/dyn2raft/copier"
	"github.com/dyn2raft/dyn2raft/sources/raft/vaultdb"
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
	// NotSegments is a number that is not asked for by itself, but a third more
	// instead: that of the copy, where it is known, else what it asks for by
	// itself.
	NotSegments int
	// WorkDir is an existing directory for work files, about 170 bytes an
	// entry of both sides together. See [WorkPath] for where they are in it, and where they are if it
	// is empty; the work files of a sample go to the system's directory for
	// temporary files then.
	WorkDir string
	// Resume goes on with a comparison that was interrupted, killed or failed:
	// what it has read of the source is not read again. It is refused with
	// [copier.ErrOtherScan] where the source or the directory is another one
	// now. Where there is nothing to go on with, a comparison begins. Restart
	// removes what an earlier one has left, and begins. Without either, a
	// comparison is refused with [ErrUnfinished] where one has left what it
	// has read.
	Resume, Restart bool
	// Sample, where set, is the share of the source to compare, above 0 and
	// below 1, in segments that SampleSeed chooses; 0 means a seed of its own.
	Sample     float64
	SampleSeed uint64
	// MaxDiffs bounds how many differing keys are named; 0 means 100, or all
	// where OnDiff is set, and a negative number all. All are counted. Each
	// takes some 400 bytes of memory in Report.Diffs.
	MaxDiffs int
	// OnDiff, where set, is told of each key that differs, in the order of
	// keys, instead of Report.Diffs, so that there may be any number of them.
	// Its error ends the comparison.
	OnDiff func(Diff) error
	// Raft is what a copy leaves of Raft's state, with which that of the
	// directory is compared unless Raft has gone on since; its digests are left
	// alone. Index 0 means 2 and Term 0 means 1; an empty NodeID means the one
	// in the directory's file node-id, if there is that file.
	Raft Expected
	// Events, where set, is told what goes on.
	Events func(copier.Event)
}

// A DiffKind says how a key differs.
type DiffKind string

// The kinds of difference.
const (
	Missing   DiffKind = "missing"   // in the source only
	Extra     DiffKind = "extra"     // in the destination only
	Different DiffKind = "different" // in both, with different values
)

// A Diff is one key that differs. It never holds a value.
type Diff struct {
	Kind DiffKind `json:"kind"`
	// Key is the key, and exactly that where KeyBytes is 0. Otherwise it is its
	// beginning, and KeyBytes its length and KeySHA256 its SHA-256: what is no
	// UTF-8 can't be written down as a text, and where the directory alone has
	// a key that no Vault writes, the rest may be a piece of a value. See
	// [vaultdb.Printable].
	Key       string `json:"key"`
	KeyBytes  int    `json:"key_bytes,omitempty"`
	KeySHA256 string `json:"key_sha256,omitempty"`
	// Source and Destination describe the values; nil where there is none.
	Source      *Value `json:"source,omitempty"`
	Destination *Value `json:"destination,omitempty"`
	// Known says why a Vault that was started on the directory changes this
	// key by itself. It is empty where no Vault was started on it, and where
	// nobody can tell whether Vault or the copy is the cause.
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

// A Report is the result of a comparison.
type Report struct {
	Source      copier.Info      `json:"source"`
	Destination string           `json:"destination"`
	Start       time.Time        `json:"start"`
	Duration    time.Duration    `json:"duration_ns"`
	Scan        copier.ScanStats `json:"scan"`

	// Raft is where the directory's FSM stands, and Started is set when that
	// is further than a copy leaves it: a Vault has run on the directory, and
	// writes, or another program has made it. Equal can then not be expected, and the differences that are not
	// Known can't be judged: they are Vault's, or they were made by the copy.
	Raft    vaultdb.State `json:"raft"`
	Started bool          `json:"started"`
	// Log is Raft's log, and RaftDiffs tells what a Vault can't use of either
	// and what is not as a copy leaves it. Where Raft has gone on since that
	// can be nothing but a damaged log.
	Log       Log        `json:"log"`
	RaftDiffs []RaftDiff `json:"raft_diffs"`

	Prefixes []Prefix `json:"prefixes"`
	// SourceEntries and DestinationEntries count both sides.
	SourceEntries      int64 `json:"source_entries"`
	DestinationEntries int64 `json:"destination_entries"`
	// Missing, Extra and Different count the keys that differ.
	Missing   int64 `json:"missing"`
	Extra     int64 `json:"extra"`
	Different int64 `json:"different"`
	// Known counts those of them that a started Vault changes by itself.
	Known int64 `json:"known"`
	// Diffs names them, as many as Options.MaxDiffs allows, in key order, unless
	// Options.OnDiff is told. Named is how many were named.
	Diffs []Diff `json:"diffs"`
	Named int64  `json:"named"`
	// NotVault are the keys which every initialized Vault has and the directory
	// has not, or not with a value that a Vault takes, which is said behind the
	// key then: see [copier.Lack]. One that is equal all the same is no copy that
	// a Vault can use.
	NotVault []string `json:"not_vault,omitempty"`
	// Complete is set when both sides were read to their end, of the source
	// no more than the sample if there is one.
	Complete bool `json:"complete"`

	// Sample is set when a part of the source only was compared. The prefixes
	// count, on both sides, what was looked up; DestinationEntries counts all
	// that the destination holds.
	Sample *Part `json:"sample,omitempty"`
	// Resumed counts how often the comparison was gone on with. Nothing keeps
	// a Vault from writing to the source meanwhile: where it is not 0, a
	// difference may be an entry that was written between two readings.
	Resumed int `json:"resumed"`
	// Began is when the comparison was begun for the first time; Start and
	// Duration are those of the last process.
	Began time.Time `json:"began"`
	// Kept names, beside an error, the directory with what was read, for a
	// later call with Options.Resume. It is empty where nothing is kept.
	Kept string `json:"kept,omitempty"`
}

// Equal reports whether both sides hold the same keys with the same values, and
// Raft's state is one that a Vault can use. It is false as long as that is not known, and always for a sample.
func (r *Report) Equal() bool { return r.NoDifference() && r.Sample == nil }

// NoDifference reports whether nothing differs in what was compared: in all, or
// in the sample.
func (r *Report) NoDifference() bool {
	return r.Complete && len(r.RaftDiffs) == 0 && r.Missing == 0 && r.Extra == 0 && r.Different == 0
}

// Compare compares src, which it prepares, with the Raft data directory at
// path. Entries that differ are no error: they are in the report, which is
// valid, as far as the comparison came, also beside an error. An error wraps
// one of package copier's sentinels, or the context's error: that a Vault runs
// on the directory is [ErrInUse], at once, and a file that is not sound is
// [vaultdb.ErrDamaged]. The directory is only read, and no Vault can start on
// it meanwhile.
//
// What was read of the source is saved every few seconds in the work directory.
// When the comparison has come to its end, all of that is removed, whatever the
// result; after an error Report.Kept reports whether a later call can go on.
func Compare(ctx context.Context, src copier.Source, path string, opts Options) (rep *Report, err error) {
	if opts.MaxDiffs == 0 {
		opts.MaxDiffs = 100
		if opts.OnDiff != nil {
			opts.MaxDiffs = -1
		}
	}
	if opts.Events == nil {
		opts.Events = func(copier.Event) {}
	}
	rep = &Report{Destination: path, Start: time.Now(), Diffs: []Diff{}, RaftDiffs: []RaftDiff{}, Prefixes: []Prefix{}}
	rep.Began = rep.Start
	defer func() { rep.Duration = time.Since(rep.Start) }()
	if err := opts.validate(); err != nil {
		return rep, err
	}

	dst, err := open(filepath.Join(path, vaultDBName))
	if err != nil {
		return rep, err
	}
	defer func() { err = errors.Join(err, dst.close()) }()
	if rep.Raft, err = dst.file.State(); err != nil {
		return rep, err
	}
	if err := rep.lookAtRaft(ctx, path, opts.Raft); err != nil {
		return rep, err
	}
	scan := copier.ScanOptions{Workers: opts.Workers, Segments: opts.Segments, Memory: opts.Memory, Map: digest, Events: opts.Events}
	if opts.Sample != 0 {
		return rep, rep.compareSample(ctx, src, dst, scan, opts)
	}

	work, err := openWork(WorkPath(opts.WorkDir, path))
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
	if rep.Source, err = src.Open(ctx); err != nil {
		return rep, err
	}
	if err := work.begin(rep.Source, path, rep.Raft.Index, opts); err != nil {
		return rep, err
	}
	setup := work.journal.Setup()
	rep.Resumed, rep.Began = setup.Resumed, setup.Start
	if scan.Segments == 0 {
		scan.Segments = segments(rep.Source, minSegments, opts.NotSegments)
	}
	scan.Journal = work.journal
	return rep, rep.compare(ctx, src, dst, work.path, scan, opts)
}

// lookAtRaft compares the state of Raft and its log with what a copy leaves.
func (r *Report) lookAtRaft(ctx context.Context, path string, want Expected) (err error) {
	want.Index, want.Term = cmp.Or(want.Index, fsmIndex), cmp.Or(want.Term, fsmTerm)
	if r.Log, err = readLog(ctx, filepath.Join(path, "raft")); err != nil {
		return err
	}
	if r.Started = want.started(r.Raft, r.Log); !r.Started {
		r.RaftDiffs, err = want.compare(path, r.Raft, r.Log)
	} else if d := r.Log.damage(""); d != nil {
		r.RaftDiffs = append(r.RaftDiffs, *d)
	}
	return err
}

// compareSample compares a part of src, and keeps nothing if that fails.
func (r *Report) compareSample(ctx context.Context, src copier.Source, dst *destination, scan copier.ScanOptions, opts Options) (err error) {
	if r.Source, err = src.Open(ctx); err != nil {
		return err
	}
	if scan.WorkDir, err = os.MkdirTemp(opts.WorkDir, "dyn2raft-verify-"); err != nil {
		return &copier.Error{Kind: copier.ErrConfig, Op: "create work directory", Err: err}
	}
	defer func() { err = errors.Join(err, os.RemoveAll(scan.WorkDir)) }()
	if scan.Segments == 0 {
		scan.Segments = segments(r.Source, sampleSegments, opts.NotSegments)
	}
	sampled := newSample(src, opts)
	r.Sample = sampled.sample
	entries, stats, err := copier.Scan(ctx, sampled, scan)
	r.Scan = stats
	if err != nil {
		return moved(err)
	}
	defer func() { err = errors.Join(err, entries.Close()) }()
	dst.stream(ctx)
	err = r.walk(ctx, entries, dst, opts)
	sampled.sample.prove(r.SourceEntries, r.DestinationEntries)
	return moved(err)
}

// compare reads the source and the destination at the same time, and then walks
// them side by side. Work files are in dir.
func (r *Report) compare(ctx context.Context, src copier.Source, dst *destination, dir string, scan copier.ScanOptions, opts Options) (err error) {
	rctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	defer func() { err = errors.Join(err, dst.discard()) }()
	summarised := make(chan error, 1)
	go func() {
		err := dst.summarise(rctx, dir)
		if err != nil {
			stop(err)
		}
		summarised <- err
	}()
	entries, stats, err := copier.Scan(rctx, src, scan)
	r.Scan = stats
	if err != nil {
		stop(err)
	}
	derr := <-summarised
	if err != nil {
		if derr != nil && !errors.Is(derr, context.Cause(rctx)) {
			err = errors.Join(err, derr) // both have failed by themselves
		}
		return moved(err)
	}
	defer func() { err = errors.Join(err, entries.Close()) }()
	if derr != nil {
		return derr
	}
	if text := copier.CountWarning(r.Source, stats); text != "" {
		opts.Events(copier.Warning{Message: text})
	}
	return moved(r.walk(ctx, entries, dst, opts))
}

// moved says what to do where a source was written to, which keeps nobody from
// comparing it: the hints of a copy are of no use then.
func moved(err error) error {
	if errors.Is(err, copier.ErrDuplicateKey) || errors.Is(err, copier.ErrMoved) {
		return &copier.Error{Err: err, Hint: "somebody wrote to the source meanwhile: stop every Vault that uses it, then compare afresh"}
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

// nameKey returns the three fields for a key, of which theirs tells that the
// directory alone has it.
func nameKey(key []byte, theirs bool) (text string, length int, sum string) {
	text, whole := vaultdb.Printable(key)
	switch {
	case whole:
		return text, 0, ""
	case !theirs && utf8.Valid(key):
		return string(key), 0, ""
	default:
		return text, len(key), fmt.Sprintf("%x", sha256.Sum256(key))
	}
}

// walk compares the sorted entries, whose values are summaries, with the
// destination.
func (r *Report) walk(ctx context.Context, src copier.Stream, dst *destination, opts Options) error {
	name := func(kind DiffKind, key, src, dst []byte) error {
		d := Diff{Kind: kind}
		d.Key, d.KeyBytes, d.KeySHA256 = nameKey(key, kind == Extra)
		if r.Started && d.KeyBytes == 0 {
			if d.Known = known(kind, d.Key); d.Known != "" {
				r.Known++
			}
		}
		if opts.MaxDiffs >= 0 && r.Named >= int64(opts.MaxDiffs) {
			return nil
		}
		if src != nil {
			d.Source = describe(src)
		}
		if dst != nil {
			d.Destination = describe(dst)
		}
		r.Named++
		if opts.OnDiff != nil {
			return opts.OnDiff(d)
		}
		r.Diffs = append(r.Diffs, d)
		return nil
	}
	both := sums{}
	s, serr := src.Next()
	key, derr := dst.next()
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
			r.NotVault = dst.vault.missing()
			r.Complete = true
			return nil
		case serr == io.EOF:
			order = 1
		case derr == io.EOF:
			order = -1
		default:
			order = bytes.Compare(s.Key, key)
		}
		d := copier.Entry{Key: key}
		if order == 0 || order > 0 && r.Sample == nil { // else it is not in the sample
			d.Value = dst.summary()
		}
		same := order == 0 && bytes.Equal(s.Value, d.Value)
		if same {
			both.add(s)
		} else {
			if order <= 0 {
				both.apart(s.Key).src.add(s)
			}
			if d.Value != nil {
				both.apart(d.Key).dst.add(d)
			}
		}
		if order >= 0 {
			r.DestinationEntries++
		}
		if order <= 0 {
			r.SourceEntries++
		}
		var err error
		switch {
		case order < 0:
			r.Missing++
			err = name(Missing, s.Key, s.Value, nil)
		case order > 0 && d.Value == nil: // or not in the source
		case order > 0:
			r.Extra++
			err = name(Extra, d.Key, nil, d.Value)
		case !same:
			r.Different++
			err = name(Different, d.Key, s.Value, d.Value)
		}
		if err != nil {
			return err
		}
		if order <= 0 {
			s, serr = src.Next()
		}
		if order >= 0 {
			key, derr = dst.next()
		}
	}
}

// sums adds up the entries of both sides by prefix.
type sums map[string]*pair

// A pair is both sides' sums of what is under a prefix: the same one as long as
// they have had the same entries, which is nearly always and saves half of the
// time.
type pair struct{ src, dst *sum }

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
	if p.src.add(e); p.dst != p.src {
		p.dst.add(e)
	}
}

// apart returns the pair for a key that is not the same on both sides.
func (s sums) apart(key []byte) *pair {
	p := s.of(key)
	if p.dst == p.src {
		twin, err := p.src.hash.Clone()
		if err != nil {
			panic("a SHA-256 can't be cloned: " + err.Error()) // Go's own can, see hash.Cloner
		}
		p.dst = &sum{side: p.src.side, hash: twin}
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
		out = append(out, Prefix{Prefix: printable(p), Source: s[p].src.total(), Destination: s[p].dst.total()})
	}
	return out
}
