package dynamodb

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/dynamodbstreams"
	streamtypes "github.com/aws/aws-sdk-go-v2/service/dynamodbstreams/types"
	"golang.org/x/sync/errgroup"

	"github.com/dyn2raft/dyn2raft/copier"
)

const (
	// mostUnread is for how long a shard may go without having been read to its tip. The
	// service keeps records for 24 hours. The hour less is for clocks that differ.
	mostUnread = 23 * time.Hour
	clockSlack = time.Hour

	nextLimit    = time.Second            // how long Next waits
	shardPause   = 200 * time.Millisecond // between two reads of a shard at its tip: five a second may be made
	drainPause   = 20 * time.Millisecond  // the same, while a drain is under way
	tableEvery   = 3 * time.Second        // how often the table is looked at
	shardsEvery  = 5 * time.Second        // how often the shards are
	shardsOften  = 500 * time.Millisecond // the same, where some must be about to appear
	placeEvery   = time.Minute            // how often a position is told of where nothing has come
	beatEvery    = 5 * time.Second        // the default of Options.Heartbeat
	beatWithin   = time.Second            // how long a heartbeat may take to be written
	shardReaders = 16                     // how many shards are read at the same time
	// A page of so many records, or of so many bytes of them, is full or nearly so: the
	// service returns up to 1,000, or 1 MB.
	fullRecords     = 1000
	fullRecordBytes = 900_000
	emptyPages      = 2 // so many in a row are the tip of a shard: one may be empty anywhere
)

// A place is where a process is in a stream: a [copier.Position].
type place struct {
	Table  string                 `json:"table"` // its incarnation
	ARN    string                 `json:"arn"`   // with the stream's label
	Ours   bool                   `json:"ours,omitempty"`
	Listed time.Time              `json:"listed"` // when the shards were looked at last
	Shards map[string]*shardPlace `json:"shards"`
}

type shardPlace struct {
	Parent string `json:"parent,omitempty"`
	// After is the sequence number of the last record that was read; without one all of
	// the shard is to be read.
	After string `json:"after,omitempty"`
	// Done says that it was read to its end.
	Done bool `json:"done,omitempty"`
	// Tip is a time before which all that the shard has was read.
	Tip time.Time `json:"tip"`
	// Paths are those of all items that it has delivered, and Many says that there are
	// more than mostPaths of them: then it has none.
	Paths []string `json:"paths,omitempty"`
	Many  bool     `json:"many,omitempty"`
}

// mostPaths is how many Paths are kept of a shard: one into which no sentinel falls has
// few.
const mostPaths = 16

// saw notes that an item of a Path was delivered.
func (sh *shardPlace) saw(path string) {
	switch {
	case sh.Many || slices.Contains(sh.Paths, path):
	case len(sh.Paths) == mostPaths:
		sh.Paths, sh.Many = nil, true
	default:
		sh.Paths = append(sh.Paths, path)
	}
}

// A following follows one stream. Its requests are made in rounds, one at a time, in a
// goroutine that outlives the Next which has begun it.
type following struct {
	s    *Source
	run  string
	ctx  context.Context // of what is under way, until Close
	stop context.CancelFunc
	wait sync.WaitGroup
	// done has the error of the round that is under way; nil where there is none.
	done chan error
	wake chan struct{} // has room for one: ends the pause before a round

	// These are a round's alone.
	iterators map[string]*iterator
	looked    time.Time // when the table was looked at last
	listNow   bool      // the shards are to be looked at in the next round
	busy      bool      // the last round has found something
	beat      string    // the Key of this process's heartbeat
	beatAt    time.Time // when the last one was sent

	mu       sync.Mutex
	at       place
	note     note
	keys     map[string]bool // hints that nobody was told of
	told     bool            // somebody was told of a position
	moved    bool            // the position is another one than the one told of
	newest   time.Time       // when a shard was found last that is new, or this process began
	toldAt   time.Time       // when that was
	records  int64
	delay    time.Duration
	beatSent time.Time // when the heartbeat was sent that has not come back; zero where there is none
	drain    *drain
	drains   int
	passed   int      // the last drain that has
	unsure   [][]byte // folders of which that is not known
	saidPass int      // the one that somebody was told of

	noting sync.Mutex // held while the note is written
}

var _ copier.Following = (*following)(nil)

// An iterator is where a shard is read next.
type iterator struct {
	token  string
	latest bool // none was made yet, and it shall begin at the tip
	empty  int  // pages without a record, in a row
}

func newFollowing(s *Source, run string) *following {
	f := &following{s: s, run: run, wake: make(chan struct{}, 1), iterators: map[string]*iterator{}, keys: map[string]bool{}, newest: wall(), beat: ownKey(beatKind, run) + " " + rand.Text()}
	f.ctx, f.stop = context.WithCancel(context.Background())
	return f
}

// wall is the time of day, without the clock that stands still while a machine sleeps.
func wall() time.Time { return time.Now().Round(0).UTC() }

// resume takes up the position of an earlier process.
func (f *following) resume(st streamState, from copier.Position) error {
	if err := json.Unmarshal(from, &f.at); err != nil || f.at.ARN == "" {
		return &copier.Error{Kind: copier.ErrSource, Op: "read position", Err: cmp.Or(err, errors.New("it names no stream"))}
	}
	if err := f.s.sameStream(st, f.at); err != nil {
		return err
	}
	for id, sh := range f.at.Shards {
		if sh == nil {
			return &copier.Error{Kind: copier.ErrSource, Op: "read position", Err: fmt.Errorf("shard %q has no place", id)}
		}
	}
	return f.late()
}

// sameStream returns a gap where a table or its stream is not what was followed.
func (s *Source) sameStream(st streamState, at place) error {
	switch {
	case st.table != at.Table:
		return s.gap("the table was deleted and made anew: its id is %s now, and was %s", st.table, at.Table)
	case !st.on:
		return s.gap("its stream %s was disabled", at.ARN)
	case st.arn != at.ARN:
		return s.gap("its stream is %s now, and was %s", st.arn, at.ARN)
	case len(st.copies) > 0:
		return s.gap("it has replicas in other regions now")
	}
	return nil
}

// late returns a gap where records may have been trimmed before they were read.
func (f *following) late() error {
	now := wall()
	old := func(t time.Time) bool { return now.Sub(t) > mostUnread || t.Sub(now) > clockSlack }
	if old(f.at.Listed) {
		return f.s.gap("its shards were looked at last at %s", f.at.Listed.Format(time.RFC3339))
	}
	for id, sh := range f.at.Shards {
		if !sh.Done && old(sh.Tip) {
			return f.s.gap("its shard %s was read to its tip last at %s, and the service keeps records for 24 hours", id, sh.Tip.Format(time.RFC3339))
		}
	}
	return nil
}

// start begins at the tips of all shards, and returns once all of them are known to
// record. Nothing that comes until then matters: who reads the table after that finds it
// there.
func (f *following) start(ctx context.Context) error {
	defer f.s.wait(copier.WaitStream, f.s.opts.Table, 0)()
	now := wall()
	shards, err := f.s.shards(ctx, f.at.ARN)
	if err != nil {
		return err
	}
	parents := map[string]bool{}
	for _, sh := range shards {
		parents[aws.ToString(sh.ParentShardId)] = true
	}
	for _, sh := range shards {
		id := aws.ToString(sh.ShardId)
		ended := parents[id] || sh.SequenceNumberRange != nil && sh.SequenceNumberRange.EndingSequenceNumber != nil
		f.at.Shards[id] = &shardPlace{Parent: aws.ToString(sh.ParentShardId), Tip: now, Done: ended}
		f.iterators[id] = &iterator{latest: true}
	}
	f.at.Listed, f.looked = now, now
	for {
		if err := f.round(ctx, false); err != nil { // the iterators of the tips, before the first sentinel
			return err
		}
		if err := f.begin(ctx, 0); err != nil {
			return err
		}
		for again := wall().Add(startAgain); !f.drainPassed() && wall().Before(again); {
			if err := sleep(ctx, drainPause); err != nil {
				return err
			}
			if err := f.round(ctx, false); err != nil {
				return err
			}
		}
		if f.drainPassed() {
			break
		} // a sentinel may have been written before a shard has recorded anything
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.drain, f.keys, f.moved = nil, map[string]bool{}, true
	return nil
}

// startAgain is after how long other sentinels are written at the start.
const startAgain = 30 * time.Second

// Next implements [copier.Following].
func (f *following) Next(ctx context.Context) (copier.Hints, error) {
	limit := time.NewTimer(nextLimit)
	defer limit.Stop()
	for {
		if ctx.Err() != nil {
			return copier.Hints{}, context.Cause(ctx)
		}
		if h, ok, err := f.take(); ok || err != nil {
			return h, err
		}
		f.goRound()
		select {
		case err := <-f.done:
			f.done = nil
			if err != nil {
				return copier.Hints{}, err
			}
		case <-limit.C:
			h, _, err := f.take()
			return h, err
		case <-ctx.Done():
		}
	}
}

// goRound has a round be under way.
func (f *following) goRound() {
	if f.done != nil {
		return
	}
	done := make(chan error, 1)
	f.done = done
	pause := f.pause()
	f.wait.Go(func() {
		t := time.NewTimer(pause)
		defer t.Stop()
		select {
		case <-t.C:
		case <-f.wake:
		case <-f.ctx.Done():
		}
		done <- f.round(f.ctx, false)
	})
}

func (f *following) pause() time.Duration {
	f.mu.Lock()
	defer f.mu.Unlock()
	switch {
	case f.busy:
		return 0
	case f.drain != nil && !f.drain.over: // soon at first
		return min(max(drainPause, time.Since(f.drain.at)/10), shardPause)
	}
	return shardPause
}

// Poll implements [copier.Following].
func (f *following) Poll(ctx context.Context) (copier.Hints, error) {
	if ctx.Err() != nil {
		return copier.Hints{}, context.Cause(ctx)
	}
	if f.done != nil {
		f.hurry()
		select {
		case err := <-f.done:
			f.done = nil
			if err != nil {
				return copier.Hints{}, err
			}
		case <-ctx.Done():
			return copier.Hints{}, context.Cause(ctx)
		}
	}
	if err := f.round(ctx, true); err != nil {
		return copier.Hints{}, err
	}
	h, _, err := f.take()
	return h, err
}

// hurry ends the pause before a round.
func (f *following) hurry() {
	select {
	case f.wake <- struct{}{}:
	default:
	}
}

// take returns what there is to tell, and whether that is anything.
func (f *following) take() (h copier.Hints, ok bool, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	h = copier.Hints{Drained: f.passed, Unsure: f.unsure, Records: f.records, Delay: f.delay}
	if !f.beatSent.IsZero() {
		h.Delay = max(h.Delay, time.Since(f.beatSent))
	}
	ok = len(f.keys) > 0 || f.moved || f.passed != f.saidPass || !f.told
	if ok {
		if h.Position, err = json.Marshal(f.at); err != nil {
			return copier.Hints{}, false, fmt.Errorf("write position: %w", err)
		}
		h.Keys = make([][]byte, 0, len(f.keys))
		for key := range f.keys {
			h.Keys = append(h.Keys, []byte(key))
		}
		clear(f.keys)
		f.told, f.moved, f.toldAt, f.saidPass = true, false, wall(), f.passed
	}
	return h, ok, nil
}

// Close implements [copier.Following].
func (f *following) Close() error {
	f.stop()
	f.wait.Wait()
	return nil
}

// A read is what a round has found in a shard.
type read struct {
	id      string
	asked   time.Time
	records []streamtypes.Record
	ended   bool
}

// round asks every shard for its next page. all has it look at everything else, too.
func (f *following) round(ctx context.Context, all bool) error {
	now := wall()
	var g errgroup.Group
	g.SetLimit(shardReaders)
	var reads []*read
	for _, id := range slices.Sorted(maps.Keys(f.at.Shards)) {
		sh := f.at.Shards[id]
		if sh.Done {
			delete(f.iterators, id)
			continue
		}
		it := f.iterators[id]
		if it == nil {
			it = new(iterator)
			f.iterators[id] = it
		}
		r := &read{id: id}
		reads = append(reads, r)
		g.Go(func() error { return f.readShard(ctx, r, sh, it) })
	}
	f.mu.Lock()
	draining := f.drain != nil && !f.drain.over
	confirming := draining && f.drain.complete
	parted := f.parted()
	starting := f.drain == nil && !f.told || draining && f.drain.number == 0 // what is written now need not come
	f.mu.Unlock()
	if all || confirming || now.Sub(f.looked) >= tableEvery {
		f.looked = now
		g.Go(func() error {
			st, err := f.s.streamState(ctx)
			if err != nil {
				return err
			}
			return f.s.sameStream(st, f.at)
		})
	}
	var listed []streamtypes.Shard
	list := all || confirming || f.listNow || now.Sub(f.at.Listed) >= shardsEvery || parted && now.Sub(f.at.Listed) >= shardsOften
	if list {
		g.Go(func() (err error) {
			listed, err = f.s.shards(ctx, f.at.ARN)
			return err
		})
	}
	if !starting && now.Sub(f.beatAt) >= cmp.Or(f.s.opts.Heartbeat, beatEvery) {
		g.Go(func() error {
			f.sendBeat(ctx)
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		return err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.busy, f.records = false, 0
	for _, r := range reads {
		if err := f.see(r); err != nil {
			return err
		}
	}
	fresh := false
	if list {
		fresh = f.seeShards(listed, now)
		f.listNow = fresh
	}
	f.moved = f.moved || now.Sub(f.toldAt) >= placeEvery
	if err := f.late(); err != nil {
		return err
	}
	if draining {
		return f.judge(confirming && !fresh)
	}
	return nil
}

// readShard reads the next page of a shard.
func (f *following) readShard(ctx context.Context, r *read, sh *shardPlace, it *iterator) error {
	for try := 0; ; try++ {
		r.asked = wall()
		err := f.grant(ctx, r.id, sh, it)
		if err == nil {
			var out *dynamodbstreams.GetRecordsOutput
			out, err = askStream(ctx, f.s, f.s.streams.GetRecords, &dynamodbstreams.GetRecordsInput{ShardIterator: &it.token})
			if err == nil {
				r.records, r.ended, it.token = out.Records, out.NextShardIterator == nil, aws.ToString(out.NextShardIterator)
				return nil
			}
		}
		_, expired := errors.AsType[*streamtypes.ExpiredIteratorException](err)
		_, trimmed := errors.AsType[*streamtypes.TrimmedDataAccessException](err)
		_, gone := errors.AsType[*streamtypes.ResourceNotFoundException](err)
		switch {
		case gone:
			return f.s.gap("its shard %s is gone, and was not read to its end: %w", r.id, err)
		case try == 3 || !expired && !trimmed:
			return err
		case trimmed:
			// What was read last is not there any more. All that came since the shard
			// was read to its tip still is: that was less than 23 hours ago.
			f.mu.Lock()
			sh.After = ""
			f.mu.Unlock()
		}
		it.token, it.latest = "", false
	}
}

// grant makes sure that there is an iterator.
func (f *following) grant(ctx context.Context, id string, sh *shardPlace, it *iterator) error {
	if it.token != "" {
		return nil
	}
	in := &dynamodbstreams.GetShardIteratorInput{StreamArn: &f.at.ARN, ShardId: &id, ShardIteratorType: streamtypes.ShardIteratorTypeTrimHorizon}
	switch {
	case sh.After != "":
		in.ShardIteratorType, in.SequenceNumber = streamtypes.ShardIteratorTypeAfterSequenceNumber, &sh.After
	case it.latest:
		in.ShardIteratorType = streamtypes.ShardIteratorTypeLatest
	}
	out, err := askStream(ctx, f.s, f.s.streams.GetShardIterator, in)
	if err == nil {
		it.token, it.latest = aws.ToString(out.ShardIterator), false
	}
	return err
}

// see takes up what was read of a shard. The caller holds f.mu.
func (f *following) see(r *read) error {
	sh, it := f.at.Shards[r.id], f.iterators[r.id]
	if it.empty++; len(r.records) > 0 {
		it.empty = 0
		f.busy, f.moved = true, true
		if f.drain != nil && f.drain.number == 0 {
			f.drain.shards[r.id] = true
		}
	}
	size := int64(0)
	if it.empty >= emptyPages || r.ended {
		sh.Tip = r.asked
	}
	if r.ended {
		sh.Done, f.listNow, f.moved = true, true, true
	}
	for i := range r.records {
		rec := &r.records[i]
		if rec.Dynamodb == nil || aws.ToString(rec.Dynamodb.SequenceNumber) == "" {
			return f.s.fail(f.ctx, "GetRecords", errors.New("the response has a record without a sequence number"))
		}
		path, ok1 := rec.Dynamodb.Keys[attrPath].(*streamtypes.AttributeValueMemberS)
		key, ok2 := rec.Dynamodb.Keys[attrKey].(*streamtypes.AttributeValueMemberS)
		if !ok1 || !ok2 {
			return f.s.fail(f.ctx, "GetRecords", errors.New("the response has a record without a Path and a Key of type S"))
		}
		if err := f.hint(r.id, path.Value, key.Value, rec.EventName); err != nil {
			return err
		}
		sh.After = *rec.Dynamodb.SequenceNumber
		if t := rec.Dynamodb.ApproximateCreationDateTime; t != nil && t.After(sh.Tip) && t.Before(r.asked) {
			sh.Tip = t.UTC()
		}
		size += aws.ToInt64(rec.Dynamodb.SizeBytes)
	}
	if len(r.records) >= fullRecords || size >= fullRecordBytes {
		f.records += int64(len(r.records)) // there may be as many more
	}
	return nil
}

// hint takes up the record of an item. The caller holds f.mu.
func (f *following) hint(shard, path, key string, event streamtypes.OperationType) error {
	if owned(path) {
		switch {
		case path == ownPath && key == f.beat && !f.beatSent.IsZero():
			f.delay, f.beatSent = time.Since(f.beatSent), time.Time{}
		case f.drain != nil && event != streamtypes.OperationTypeRemove:
			f.drain.back(shard, path)
		}
		return nil
	}
	f.at.Shards[shard].saw(path)
	it := record{path: path, key: key, value: valueNull} // what it holds is found when it is read
	kind, vaultKey, err := it.classify()
	switch {
	case err != nil && event == streamtypes.OperationTypeRemove: // whatever it was
	case err != nil:
		return &copier.Error{Kind: copier.ErrSource, Op: "follow table " + f.s.opts.Table, Code: NotVaultsItem, Err: err}
	case kind == kindEntry:
		f.keys[vaultKey] = true
	}
	return nil
}

// seeShards takes up the shards of a stream as they were at a time or later, and reports
// whether one is among them that was not known. The caller holds f.mu.
func (f *following) seeShards(shards []streamtypes.Shard, at time.Time) (fresh bool) {
	there := make(map[string]bool, len(shards))
	for _, sh := range shards {
		id := aws.ToString(sh.ShardId)
		there[id] = true
		if f.at.Shards[id] == nil {
			fresh, f.moved, f.newest = true, true, at
			// All that it has was written since it was not there, or since the start.
			f.at.Shards[id] = &shardPlace{Parent: aws.ToString(sh.ParentShardId), Tip: f.at.Listed}
		}
	}
	for id, sh := range f.at.Shards {
		if sh.Done && !there[id] { // the service has forgotten it
			for _, child := range f.at.Shards {
				if child.Parent == id && !sh.Many {
					for _, path := range sh.Paths {
						child.saw(path)
					}
				}
			}
			delete(f.at.Shards, id)
		}
	}
	f.at.Listed = at
	return fresh
}

// leaves returns the shards that have no child. The caller holds f.mu.
func (f *following) leaves() []string {
	parents := map[string]bool{}
	for _, sh := range f.at.Shards {
		parents[sh.Parent] = true
	}
	var out []string
	for id := range f.at.Shards {
		if !parents[id] {
			out = append(out, id)
		}
	}
	return out
}

// paths returns the Paths of which a shard may have items, as far as it, and those that it
// has come from, have delivered few. The caller holds f.mu.
func (f *following) paths(id string) (out []string) {
	sh := f.at.Shards[id]
	if sh.Many {
		return nil
	}
	for ; sh != nil && !sh.Many; sh = f.at.Shards[sh.Parent] {
		out = append(out, sh.Paths...)
	}
	return out
}

// parted reports whether a shard has ended and has no child yet. The caller holds f.mu.
func (f *following) parted() bool {
	return slices.ContainsFunc(f.leaves(), func(id string) bool { return f.at.Shards[id].Done })
}

// shards returns all shards of a stream.
func (s *Source) shards(ctx context.Context, arn string) (out []streamtypes.Shard, err error) {
	in := &dynamodbstreams.DescribeStreamInput{StreamArn: &arn}
	for {
		page, err := askStream(ctx, s, s.streams.DescribeStream, in)
		if _, gone := errors.AsType[*streamtypes.ResourceNotFoundException](err); gone {
			return nil, s.gap("its stream is gone: %w", err)
		}
		if err != nil {
			return nil, err
		}
		if status := page.StreamDescription.StreamStatus; status != streamtypes.StreamStatusEnabled {
			return nil, s.gap("its stream %s is %s", arn, shown(string(status)))
		}
		out = append(out, page.StreamDescription.Shards...)
		last := page.StreamDescription.LastEvaluatedShardId
		if last == nil {
			return out, nil
		}
		if in.ExclusiveStartShardId != nil && *last == *in.ExclusiveStartShardId {
			return nil, s.fail(ctx, "DescribeStream", errors.New("a page of its answer leads back to itself"))
		}
		in.ExclusiveStartShardId = last
	}
}

// sendBeat writes a heartbeat, unless the last one has not come back. That it can't be
// written is no error: it shows how late records are, and nothing depends on it.
func (f *following) sendBeat(ctx context.Context) {
	f.mu.Lock()
	waits := !f.beatSent.IsZero()
	f.beatAt = wall()
	if !waits {
		f.beatSent = time.Now()
	}
	f.mu.Unlock()
	if waits {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, beatWithin)
	defer cancel()
	if err := f.s.putOwn(ctx, ownPath, f.beat, f.run, []byte(rand.Text())); err != nil { // another value each time: one that changes nothing makes no record
		f.mu.Lock()
		f.beatSent = time.Time{}
		f.mu.Unlock()
	}
}
