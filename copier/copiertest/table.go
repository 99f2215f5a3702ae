package copiertest

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"hash/fnv"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/dyn2raft/dyn2raft/copier"
)

// A Table is a source in memory that Vaults write to while it is read, and a
// [copier.Feed]. Its records go to shards, each in order, as those of a table's stream
// do. It is its own storage: whoever uses the same one is another process. Its exported
// fields are set before it is used; it is safe for concurrent use then.
type Table struct {
	// Info is what Open returns. A name and an id are added where there are none.
	Info copier.Info
	// PageEntries is how many a page has; 0 means 100.
	PageEntries int
	// Shards is how many there are; 0 means 3.
	Shards int
	// Late, where set, says for each record how long it is on its way.
	Late func() time.Duration
	// Before, where set, is asked before a page is read.
	Before func(ctx context.Context) error

	locks
	vault   bool // the holder is one
	entries map[string][]byte

	stream  int // the number of the one that is there; 0 where there is none
	numbers int // that streams and drains were given
	owner   string
	shards  [][]record
	trimmed []int           // so many of each shard are lost
	hidden  map[string]bool // folders
}

// A record says that a key has changed, or is a sentinel.
type record struct {
	key      string
	sentinel int // of the drain with this number, of any process
	due      time.Time
}

var (
	_ copier.Feed   = (*Table)(nil)
	_ copier.Source = (*Table)(nil)
)

// NewTable returns a table with the given entries.
func NewTable(entries ...copier.Entry) *Table {
	t := &Table{entries: map[string][]byte{}}
	for _, e := range entries {
		t.entries[string(e.Key)] = bytes.Clone(e.Value)
	}
	return t
}

// Entries returns what is there, in order.
func (t *Table) Entries() (out []copier.Entry) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, key := range slices.Sorted(maps.Keys(t.entries)) {
		out = append(out, copier.Entry{Key: []byte(key), Value: t.entries[key]})
	}
	return out
}

// Serve has a Vault of that name take the table. An error wraps [copier.ErrLocked] where
// another one, or a run, holds it.
func (t *Table) Serve(name string) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.holder != "" {
		return &copier.Error{Kind: copier.ErrLocked, Op: "serve", Err: fmt.Errorf("%q holds it", t.holder)}
	}
	t.holder, t.vault = name, true
	return nil
}

// StepDown has the Vault that holds the table give it back.
func (t *Table) StepDown() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.vault {
		t.holder, t.vault = "", false
	}
}

// Put writes an entry as the Vault that holds the table. An error wraps
// [copier.ErrLocked] where none does: nothing was written.
func (t *Table) Put(e copier.Entry) error {
	return t.write(e.Key, func() { t.entries[string(e.Key)] = bytes.Clone(e.Value) })
}

// Delete is Put for an entry that is to go.
func (t *Table) Delete(key []byte) error {
	return t.write(key, func() { delete(t.entries, string(key)) })
}

func (t *Table) write(key []byte, change func()) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.vault {
		return &copier.Error{Kind: copier.ErrLocked, Op: "write", Err: errors.New("no Vault holds it")}
	}
	t.force(key, change)
	return nil
}

// Force writes an entry as somebody does who keeps to no lock.
func (t *Table) Force(e copier.Entry) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.force(e.Key, func() { t.entries[string(e.Key)] = bytes.Clone(e.Value) })
}

// force makes a change, and a record of it. The caller holds t.mu.
func (t *Table) force(key []byte, change func()) {
	change()
	if t.stream > 0 && !t.hidden[folderOf(string(key))] {
		t.append(t.shardOf(key), record{key: string(key)})
	}
}

func (t *Table) append(shard int, r record) {
	r.due = time.Now()
	if t.Late != nil {
		r.due = r.due.Add(t.Late())
	}
	if n := len(t.shards[shard]); n > 0 && t.shards[shard][n-1].due.After(r.due) {
		r.due = t.shards[shard][n-1].due
	}
	t.shards[shard] = append(t.shards[shard], r)
}

func hashOf(key []byte) int {
	h := fnv.New32a()
	_, _ = h.Write(key)
	return int(h.Sum32() >> 1)
}

func (t *Table) shardOf(key []byte) int { return hashOf(key) % len(t.shards) }

// Replace has another stream take the place of the one that is there.
func (t *Table) Replace() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.enable("somebody else")
}

func (t *Table) enable(owner string) {
	t.numbers++
	n := cmp.Or(t.Shards, 3)
	t.stream, t.owner, t.shards, t.trimmed = t.numbers, owner, make([][]record, n), make([]int, n)
}

// Trim drops all records that there are.
func (t *Table) Trim() {
	t.mu.Lock()
	defer t.mu.Unlock()
	for i, s := range t.shards {
		t.trimmed[i] = len(s)
	}
}

// Hide has the table deliver nothing from now on of what is written to the keys directly
// in a folder. It says so: see [copier.Hints.Unsure].
func (t *Table) Hide(folder string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.hidden == nil {
		t.hidden = map[string]bool{}
	}
	t.hidden[folder] = true
}

// folderOf is what a key is directly in.
func folderOf(key string) string { return key[:strings.LastIndexByte(key, '/')+1] }

// Followed is the run that has set up the stream; "" where there is none.
func (t *Table) Followed() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.owner
}

// Open implements [copier.Source].
func (t *Table) Open(context.Context) (copier.Info, error) {
	info := t.Info
	if info.ID == "" {
		info.Name, info.ID = "table", "table:1"
	}
	return info, nil
}

// Close implements [copier.Source].
func (t *Table) Close() error { return nil }

// A stretch is what a token says: the entries of one of n spans behind a key.
type stretch struct {
	I     int    `json:"i"`
	N     int    `json:"n"`
	After []byte `json:"after,omitempty"`
}

func (s stretch) token() []byte {
	data, _ := json.Marshal(s) //nolint:errchkjson // it can't fail
	return data
}

func stretchOf(token []byte) (s stretch, err error) {
	if err = json.Unmarshal(token, &s); err == nil && s.N < 1 {
		err = errors.New("it is of no span")
	}
	if err != nil {
		err = &copier.Error{Kind: copier.ErrSource, Op: fmt.Sprintf("read token %q", token), Err: err}
	}
	return s, err
}

// Split returns n spans, or four.
func (t *Table) Split(_ context.Context, n int) ([]copier.Span, error) {
	out := make([]copier.Span, cmp.Or(n, 4))
	for i := range out {
		out[i] = copier.Span{Index: i, From: stretch{I: i, N: len(out)}.token()}
	}
	return out, nil
}

// Read implements [copier.Source].
func (t *Table) Read(ctx context.Context, span copier.Span, b *copier.Batch) (page copier.Page, err error) {
	if ctx.Err() != nil {
		return page, context.Cause(ctx)
	}
	if t.Before != nil {
		if err := t.Before(ctx); err != nil {
			return page, err
		}
	}
	from, err := stretchOf(span.From)
	if err != nil {
		return page, err
	}
	var until stretch
	if len(span.Until) > 0 {
		if until, err = stretchOf(span.Until); err != nil {
			return page, err
		}
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	left := cmp.Or(t.PageEntries, 100)
	for _, key := range slices.Sorted(maps.Keys(t.entries)) {
		switch {
		case hashOf([]byte(key))%from.N != from.I, from.After != nil && key <= string(from.After):
			continue
		case until.After != nil && key > string(until.After):
			return page, nil
		case left == 0:
			page.Next = []copier.Span{{Index: span.Index, From: from.token(), Until: span.Until}}
			return page, nil
		}
		b.Append([]byte(key), t.entries[key])
		page.WireBytes += int64(len(key) + len(t.entries[key]))
		from.After = []byte(key)
		left--
	}
	return page, nil
}

// Take implements [copier.Taker].
func (t *Table) Take(ctx context.Context, runID string, waiting func(copier.Turn), lost func(error)) (copier.Lease, error) {
	told := ""
	for {
		lease, err := t.Lock(ctx, runID, false, lost)
		if err == nil || !errors.Is(err, copier.ErrLocked) {
			return lease, err
		}
		if holder := t.Holder(); holder != told {
			told = holder
			waiting(copier.Turn{Holder: holder})
		}
		if err := pause(ctx); err != nil {
			return nil, err
		}
	}
}

// pause waits for a moment.
func pause(ctx context.Context) error {
	timer := time.NewTimer(time.Millisecond)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-timer.C:
		return nil
	}
}

// A place is where a process is in the stream.
type place struct {
	Stream int   `json:"stream"`
	At     []int `json:"at"` // of each shard
}

func (p place) position() copier.Position {
	data, _ := json.Marshal(p) //nolint:errchkjson // it can't fail
	return data
}

func gap(why string) error {
	return &copier.Error{Kind: copier.ErrSource, Op: "follow", Err: fmt.Errorf("%w: %s", copier.ErrGap, why)}
}

// Follow implements [copier.Feed].
func (t *Table) Follow(ctx context.Context, runID string, from copier.Position) (copier.Following, error) {
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	f := &following{t: t}
	if from != nil {
		if err := json.Unmarshal(from, &f.place); err != nil {
			return nil, &copier.Error{Kind: copier.ErrSource, Op: "read position", Err: err}
		}
		return f, f.look()
	}
	if t.stream == 0 {
		t.enable(runID)
	}
	f.place = place{Stream: t.stream, At: make([]int, len(t.shards))}
	for i, s := range t.shards {
		f.place.At[i] = len(s)
	}
	return f, nil
}

// Unfollow implements [copier.Feed].
func (t *Table) Unfollow(_ context.Context, runID string, _ copier.Position) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.owner == runID {
		t.stream, t.owner, t.shards = 0, "", nil
	}
	return nil
}

// A following is a process that follows a table.
type following struct {
	t *Table
	// What follows is guarded by t.mu.
	place  place
	told   bool // it has told of a place
	drains int
	drain  int // the number of the sentinels of the last one
	wait   map[int]bool
	passed int
}

// look makes sure that no record is missing. The caller holds t.mu.
func (f *following) look() error {
	if f.place.Stream != f.t.stream {
		return gap(fmt.Sprintf("it has stream %d, and had %d", f.t.stream, f.place.Stream))
	}
	for i, at := range f.place.At {
		if at < f.t.trimmed[i] {
			return gap(fmt.Sprintf("shard %d has lost records", i))
		}
	}
	return nil
}

// Poll implements [copier.Following].
func (f *following) Poll(ctx context.Context) (copier.Hints, error) {
	if ctx.Err() != nil {
		return copier.Hints{}, context.Cause(ctx)
	}
	f.t.mu.Lock()
	defer f.t.mu.Unlock()
	var h copier.Hints
	if err := f.look(); err != nil {
		return h, err
	}
	now := time.Now()
	moved := !f.told
	for i, s := range f.t.shards {
		at := f.place.At[i]
		for ; at < len(s) && !s[at].due.After(now); at++ {
			if s[at].sentinel == 0 {
				h.Keys = append(h.Keys, []byte(s[at].key))
			} else if s[at].sentinel == f.drain {
				delete(f.wait, i)
			}
		}
		moved = moved || at > f.place.At[i]
		f.place.At[i] = at
		h.Records += int64(len(s) - at)
	}
	if f.drains > 0 && len(f.wait) == 0 {
		f.passed = f.drains
	}
	h.Drained = f.passed
	for folder := range f.t.hidden {
		h.Unsure = append(h.Unsure, []byte(folder))
	}
	if moved {
		f.told = true
		h.Position = f.place.position()
	}
	return h, nil
}

// Next implements [copier.Following].
func (f *following) Next(ctx context.Context) (copier.Hints, error) {
	f.t.mu.Lock()
	passed := f.passed
	f.t.mu.Unlock()
	for range 1000 {
		h, err := f.Poll(ctx)
		if err != nil || h.Position != nil || h.Drained != passed {
			return h, err
		}
		if err := pause(ctx); err != nil {
			return h, err
		}
	}
	return f.Poll(ctx)
}

// Reread implements [copier.Following].
func (f *following) Reread(ctx context.Context, keys [][]byte, b *copier.Batch) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	f.t.mu.Lock()
	defer f.t.mu.Unlock()
	for _, key := range keys {
		if value, ok := f.t.entries[string(key)]; ok {
			b.Append(key, value)
		}
	}
	return nil
}

// listEntries is how many entries a List has at most.
const listEntries = 7

// List implements [copier.Following].
func (f *following) List(ctx context.Context, folder, after []byte, b *copier.Batch) ([]byte, error) {
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	return list(f.t.Entries(), folder, after, b), nil
}

// list implements [copier.Lister] for entries that are in order.
func list(entries []copier.Entry, folder, after []byte, b *copier.Batch) (next []byte) {
	n := 0
	for _, e := range entries {
		if folderOf(string(e.Key)) != string(folder) || after != nil && bytes.Compare(e.Key, after) <= 0 {
			continue
		}
		if n == listEntries {
			return next
		}
		b.Append(e.Key, e.Value)
		next = bytes.Clone(e.Key)
		n++
	}
	return nil
}

// Drain implements [copier.Following].
func (f *following) Drain(ctx context.Context) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	f.t.mu.Lock()
	defer f.t.mu.Unlock()
	f.t.numbers++
	f.drain, f.wait = f.t.numbers, map[int]bool{}
	f.drains++
	for i := range f.t.shards {
		f.wait[i] = true
		f.t.append(i, record{sentinel: f.drain})
	}
	return nil
}

// Close implements [copier.Following].
func (f *following) Close() error { return nil }
