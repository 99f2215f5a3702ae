package dynamotest

import (
	"cmp"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"math/bits"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/dynamodb/types"
	streams "github.com/aws/aws-sdk-go-v2/service/dynamodbstreams/types"
)

// Limits of DynamoDB Streams (API Reference, "DescribeStream" and "GetRecords";
// Developer Guide, "Change data capture for DynamoDB Streams").
const (
	describesPerSecond = 10
	streamRetention    = 24 * time.Hour   // of records, of shards that have ended, and of streams that are disabled
	iteratorLifetime   = 15 * time.Minute // of what GetShardIterator and GetRecords return
	maxShardPage       = 100
	maxRecordsPage     = 1000
)

// StreamSettings are how the streams of a table behave. The zero value is one shard
// that has each record at once.
type StreamSettings struct {
	Shards int           // how many a new stream begins with; 0 is 1
	Change time.Duration // how long it takes to enable or to disable a stream. What is written meanwhile has no record
	Page   int           // how many shards DescribeStream returns at most; 0 is the service's 100

	// Delay is how long a record is on its way; below 0 it is lost, as where a shard
	// does not record yet. A nil Delay is none. Those behind it in its shard wait for
	// it, so that they arrive in the order in which they were written. It is called
	// with locks held.
	Delay func(StreamWrite) time.Duration
	// Reorder has only the records of one item wait for each other.
	Reorder bool
	// OpenParents has shards that have ended look open: DescribeStream gives no end, and
	// GetRecords always a next iterator.
	OpenParents bool
	// TrimErrors has GetRecords answer a TrimmedDataAccessException to an iterator of a place
	// that was trimmed since, as it is documented. Otherwise it returns what is left.
	TrimErrors bool
	// Hidden are shards that DescribeStream leaves out. They can be read.
	Hidden []string
}

// A StreamWrite is a change of an item that a stream records.
type StreamWrite struct {
	Path, Key string // of the item, where they are strings or binary
	Shard     string
	Number    int // this is the how-manieth change that the stream records, from 1
	Event     streams.OperationType
}

// A StreamShard is a shard as it is, whatever DescribeStream says of it.
type StreamShard struct {
	ID, Parent string
	Ended      bool
	Records    int // those that have arrived and that can be read
}

// A Stream is the stream of a table, which it outlives.
type Stream struct {
	ARN string

	label, table string
	keys         []keyAttribute
	view         streams.StreamViewType
	clock        func() time.Time
	created      time.Time
	enabled      time.Time // from when on it records

	mu        sync.Mutex
	settings  StreamSettings
	aged      time.Duration
	disabled  time.Time // when it was asked to end; zero where it is on
	gone      time.Time // from when on it is DISABLED
	shards    []*shard  // in the order in which they began
	sequence  uint64    // the last number given
	changes   int
	describes budget          // for DescribeStream
	pending   []*streamRecord // in the order in which they will arrive
}

// A shard records the items of a range of places: those from low on, and before high,
// where there is one.
type shard struct {
	id, parent string
	low        place
	high       *place
	first      uint64 // sequence number
	last       uint64 // sequence number of the end; 0 is none yet
	trimmed    uint64 // sequence number of the last record that was removed
	ending     bool   // it records nothing more, but some may be on its way
	ended      time.Time
	records    []*streamRecord
}

// A place is where an item lies in a table, in the order of a Scan.
type place struct {
	hash uint64
	sort string
}

func (p place) compare(o place) int {
	return cmp.Or(cmp.Compare(p.hash, o.hash), strings.Compare(p.sort, o.sort))
}

type streamRecord struct {
	k         key
	shard     *shard
	event     streams.OperationType
	keys      []byte  // DynamoDB JSON
	old, next *record // those that the view has
	size      int
	written   time.Time
	due       time.Time // when it arrives
	sequence  uint64    // from then on
}

// sequenceNumber renders a number as long as the service's are.
func sequenceNumber(n uint64) string { return fmt.Sprintf("1%020d", n) }

func parseSequence(s string) (uint64, error) {
	if len(s) < 21 || len(s) > 40 {
		return 0, validation("1 validation error detected: Value '%s' at 'sequenceNumber' failed to satisfy constraint: Member must have length between 21 and 40", s)
	}
	n, err := strconv.ParseUint(strings.TrimPrefix(s, "1"), 10, 64)
	if err != nil || len(s) != 21 || s[0] != '1' {
		return 0, validation("Invalid SequenceNumber for the shard")
	}
	return n, nil
}

// now is the server's clock.
func (s *Server) now() time.Time { return time.Now().Add(s.options.Clock) }

// SetStreamSettings sets how the streams of a table behave: the one that it has, from
// now on, and those that it will have.
func (s *Server) SetStreamSettings(name string, settings StreamSettings) error {
	t, err := s.anyTable(name)
	if err != nil {
		return err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.streams = settings
	if st := t.stream; st != nil {
		st.mu.Lock()
		defer st.mu.Unlock()
		st.settings = settings
	}
	return nil
}

// EnableStream does what an UpdateTable does that enables a stream.
func (s *Server) EnableStream(name string, view types.StreamViewType) (*Stream, error) {
	t, err := s.anyTable(name)
	if err != nil {
		return nil, err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if err := s.setStream(t, &streamSpecification{true, view}); err != nil {
		return nil, err
	}
	return t.stream, nil
}

// DisableStream does what an UpdateTable does that disables the stream.
func (s *Server) DisableStream(name string) error {
	t, err := s.anyTable(name)
	if err != nil {
		return err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	return s.setStream(t, &streamSpecification{})
}

// Stream returns the latest stream of a table, or nil if it never had one.
func (s *Server) Stream(name string) *Stream {
	t, err := s.anyTable(name)
	if err != nil {
		return nil
	}
	t.mu.RLock()
	defer t.mu.RUnlock()
	return t.stream
}

// setStream enables or disables a table's stream. The caller holds t.mu for writing.
func (s *Server) setStream(t *table, want *streamSpecification) error {
	on := t.stream != nil && t.stream.on()
	switch {
	case want.StreamEnabled && want.StreamViewType == "":
		return validation("Invalid StreamViewType: Stream ViewType must not be null or empty when enabling streams.")
	case !want.StreamEnabled && want.StreamViewType != "":
		return validation("Invalid StreamViewType: Stream StreamEnabled was false but a StreamViewType was present.")
	case want.StreamEnabled && !slices.Contains(want.StreamViewType.Values(), want.StreamViewType):
		return validation("1 validation error detected: Value '%s' at 'streamSpecification.streamViewType' failed to satisfy constraint: Member must satisfy enum value set: [NEW_IMAGE, OLD_IMAGE, NEW_AND_OLD_IMAGES, KEYS_ONLY]", want.StreamViewType)
	case want.StreamEnabled && on:
		return validation("Table already has an enabled stream: TableName: %s", t.name)
	case !want.StreamEnabled && !on:
		return validation("Table has no stream to disable: TableName: %s", t.name)
	case !want.StreamEnabled:
		t.stream.disable()
		return nil
	}
	now := s.now()
	st := &Stream{
		table: t.name, keys: t.keys, view: streams.StreamViewType(want.StreamViewType), clock: s.now,
		created: now, enabled: now.Add(t.streams.Change), settings: t.streams,
	}
	n := max(1, st.settings.Shards)
	var low place
	for i := range n - 1 {
		high := place{hash: cut(i+1, n)}
		st.begin("", low, &high)
		low = high
	}
	st.begin("", low, nil)
	for at := now; ; at = at.Add(time.Millisecond) { // a label is unique
		st.label = at.UTC().Format("2006-01-02T15:04:05.000")
		st.ARN = t.arn() + "/stream/" + st.label
		if _, taken := s.streams.LoadOrStore(st.ARN, st); !taken {
			break
		}
	}
	t.stream = st
	return nil
}

// cut is where part i of n equal parts of the hashes begins.
func cut(i, n int) uint64 {
	q, _ := bits.Div64(uint64(i), 0, uint64(n))
	return q
}

// changing reports whether a stream is being enabled or disabled.
func (st *Stream) changing() bool {
	st.mu.Lock()
	defer st.mu.Unlock()
	status := st.status(st.clock())
	return status == streams.StreamStatusEnabling || status == streams.StreamStatusDisabling
}

// on reports whether it is the stream of its table.
func (st *Stream) on() bool {
	st.mu.Lock()
	defer st.mu.Unlock()
	return st.disabled.IsZero()
}

// status is called with st.mu held.
func (st *Stream) status(now time.Time) streams.StreamStatus {
	switch {
	case st.disabled.IsZero() && now.Before(st.enabled):
		return streams.StreamStatusEnabling
	case st.disabled.IsZero():
		return streams.StreamStatusEnabled
	case now.Before(st.gone):
		return streams.StreamStatusDisabling
	}
	return streams.StreamStatusDisabled
}

// disable ends all shards. What is on its way still arrives.
func (st *Stream) disable() {
	st.mu.Lock()
	defer st.mu.Unlock()
	now := st.clock()
	st.settle(now)
	st.disabled, st.gone = now, now.Add(st.settings.Change)
	for _, sh := range st.shards {
		sh.ending = true
	}
	st.settle(now)
}

// begin adds a shard. The caller holds st.mu, or nobody else has the stream yet.
func (st *Stream) begin(parent string, low place, high *place) *shard {
	var suffix [4]byte
	_, _ = rand.Read(suffix[:]) // never fails
	sh := &shard{
		id:     fmt.Sprintf("shardId-%020d-%s", st.clock().UnixMilli(), hex.EncodeToString(suffix[:])),
		parent: parent, low: low, high: high, first: st.next(),
	}
	st.shards = append(st.shards, sh)
	return sh
}

// next gives a sequence number. Like the service's they leave gaps.
func (st *Stream) next() uint64 {
	st.sequence += 7
	return st.sequence
}

// open returns the shard that records an item. The caller holds st.mu.
func (st *Stream) open(at place) *shard {
	i := slices.IndexFunc(st.shards, func(sh *shard) bool {
		return !sh.ending && sh.low.compare(at) <= 0 && (sh.high == nil || at.compare(*sh.high) < 0)
	})
	if i < 0 {
		return nil
	}
	return st.shards[i]
}

// shard returns nil where there is none of that id. The caller holds st.mu.
func (st *Stream) shard(id string) *shard {
	if i := slices.IndexFunc(st.shards, func(sh *shard) bool { return sh.id == id }); i >= 0 {
		return st.shards[i]
	}
	return nil
}

// record takes a change of an item. The caller holds the table's lock for writing, so
// that the changes of an item come in their order.
func (st *Stream) record(k key, old, next *record) {
	st.mu.Lock()
	defer st.mu.Unlock()
	now := st.clock()
	st.settle(now)
	if !st.disabled.IsZero() || now.Before(st.enabled) || old == nil && next == nil || old != nil && next != nil && old.same(next) {
		return
	}
	st.changes++
	r := &streamRecord{k: k, shard: st.open(place{hash: hashOf(k.value), sort: k.sort}), written: now, due: now}
	present := next
	switch {
	case old == nil:
		r.event = streams.OperationTypeInsert
	case next == nil:
		r.event, present = streams.OperationTypeRemove, old
	default:
		r.event = streams.OperationTypeModify
	}
	if delay := st.settings.Delay; delay != nil {
		d := delay(StreamWrite{k.value, k.sort, r.shard.id, st.changes, r.event})
		if d < 0 {
			return
		}
		r.due = now.Add(d)
	}
	r.keys = present.appendKey(nil)
	r.size = present.keySize()
	if st.view == streams.StreamViewTypeOldImage || st.view == streams.StreamViewTypeNewAndOldImages {
		r.old = old
	}
	if st.view == streams.StreamViewTypeNewImage || st.view == streams.StreamViewTypeNewAndOldImages {
		r.next = next
	}
	for _, image := range []*record{r.old, r.next} {
		if image != nil {
			r.size += image.size
		}
	}
	for _, p := range st.pending {
		if (p.k == k || p.shard == r.shard && !st.settings.Reorder) && p.due.After(r.due) {
			r.due = p.due
		}
	}
	i, _ := slices.BinarySearchFunc(st.pending, r.due, func(p *streamRecord, due time.Time) int {
		return cmp.Or(p.due.Compare(due), -1) // behind those of the same time
	})
	st.pending = slices.Insert(st.pending, i, r)
	st.settle(now)
}

// same reports whether two records of one place are the same item.
func (r *record) same(o *record) bool {
	return r.size == o.size && string(r.appendJSON(nil)) == string(o.appendJSON(nil))
}

// keySize is the size of the key in bytes, as the service counts it.
func (r *record) keySize() int {
	whole := record{json: r.appendKey(nil)}
	return itemSize(whole.item())
}

// settle lets arrive what is due, ends the shards that nothing is on its way to any
// more, and trims what is too old. The caller holds st.mu.
func (st *Stream) settle(now time.Time) {
	for len(st.pending) > 0 && !st.pending[0].due.After(now) {
		r := st.pending[0]
		st.pending = slices.Delete(st.pending, 0, 1)
		r.sequence = st.next()
		r.shard.records = append(r.shard.records, r)
	}
	for _, sh := range st.shards {
		if sh.ending && sh.last == 0 && !slices.ContainsFunc(st.pending, func(r *streamRecord) bool { return r.shard == sh }) {
			sh.last, sh.ended = st.next(), now
		}
		old := 0
		for old < len(sh.records) && now.Sub(sh.records[old].written) > streamRetention {
			old++
		}
		sh.trim(old)
	}
	st.shards = slices.DeleteFunc(st.shards, func(sh *shard) bool { return sh.last != 0 && now.Sub(sh.ended) > streamRetention })
}

// trim removes the first n records.
func (sh *shard) trim(n int) {
	if n > 0 {
		sh.trimmed = sh.records[n-1].sequence
	}
	clear(sh.records[:n])
	sh.records = sh.records[n:]
}

// Split ends the shard that records the item of a Path and a Key, and begins two in its
// place: one of what lies before that item in the order of a Scan, and one of the rest.
// Two calls with one Path make a shard that has a part of that Path alone. It returns
// the ids of the ended one and of its children.
func (st *Stream) Split(path, sortKey string) (parent string, children [2]string, err error) {
	st.mu.Lock()
	defer st.mu.Unlock()
	st.settle(st.clock())
	at := place{hash: hashOf(path), sort: sortKey}
	sh := st.open(at)
	if sh == nil {
		return "", children, errors.New("split shard: the stream is disabled")
	}
	if sh.low == at {
		return "", children, fmt.Errorf("split shard: %s begins there", sh.id)
	}
	sh.ending = true
	st.settle(st.clock())
	children = [2]string{st.begin(sh.id, sh.low, &at).id, st.begin(sh.id, at, sh.high).id}
	return sh.id, children, nil
}

// Roll ends all open shards, and begins one in the place of each, as the service does
// every few hours.
func (st *Stream) Roll() {
	st.mu.Lock()
	defer st.mu.Unlock()
	st.settle(st.clock())
	for _, sh := range slices.Clone(st.shards) {
		if !sh.ending {
			sh.ending = true
			st.settle(st.clock())
			st.begin(sh.id, sh.low, sh.high)
		}
	}
}

// Trim removes all records that have arrived. Iterators of places among them are granted
// as before.
func (st *Stream) Trim() {
	st.mu.Lock()
	defer st.mu.Unlock()
	st.settle(st.clock())
	for _, sh := range st.shards {
		sh.trim(len(sh.records))
	}
}

// Age makes all that the stream holds older, and the iterators that were granted for it.
func (st *Stream) Age(by time.Duration) {
	st.mu.Lock()
	defer st.mu.Unlock()
	st.settle(st.clock())
	st.aged += by
	if !st.disabled.IsZero() {
		st.gone = st.gone.Add(-by)
	}
	for _, sh := range st.shards {
		sh.ended = sh.ended.Add(-by)
		for _, r := range sh.records {
			r.written = r.written.Add(-by)
		}
	}
	for _, r := range st.pending {
		r.written = r.written.Add(-by)
	}
	st.settle(st.clock())
}

// Shards returns the shards, in the order in which they began.
func (st *Stream) Shards() []StreamShard {
	st.mu.Lock()
	defer st.mu.Unlock()
	st.settle(st.clock())
	out := make([]StreamShard, 0, len(st.shards))
	for _, sh := range st.shards {
		out = append(out, StreamShard{sh.id, sh.parent, sh.ending, len(sh.records)})
	}
	return out
}
