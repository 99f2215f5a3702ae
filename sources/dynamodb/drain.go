package dynamodb

import (
	"context"
	"crypto/rand"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/dyn2raft/dyn2raft/copier"
)

// A drain makes sure that all writes from before a moment have been hinted at, by
// sentinels: items of Paths of their own, so that they fall into all shards. A shard has
// its records in the order in which they were written: behind a sentinel comes nothing
// from before it. A drain has passed when all of this holds:
//
//   - Every sentinel has come back. One that has not may be in a shard that nobody knows.
//   - There is a shard, and each one without children has delivered a sentinel; or it is
//     one of a hot Path; or, at the start, where it is enough that it records at all, it has
//     delivered anything. And it has not ended. One that has ended has children, which were
//     not found yet; or the stream was disabled.
//   - Each shard with children was read to its end.
//   - Behind all that the shards were looked at again, and none is new, nor was for some
//     seconds: of two children one may be listed before the other. And the stream is still
//     the table's, and enabled.
//
// A shard of a hot Path is one into which none of many sentinels has fallen: DynamoDB has
// given a part of one Path's items a partition of their own. It may have items of those
// Paths that it has delivered, or that the shards have from which it has come, as long as
// those were few. What was written to them and was not delivered, nobody can name: they
// are [copier.Hints.Unsure], and the table is queried for them. Where none are known, the
// drain does not pass.
type drain struct {
	number   int // 0 is that of the start
	nonce    string
	waits    map[int]bool    // sentinels that have not come back
	written  int             // sentinels
	writing  bool            // some are being written
	at       time.Time       // when the last ones were begun
	shards   map[string]bool // those that have delivered one
	complete bool            // all of the above but the last holds
	over     bool            // it has passed
	told     bool            // it was said which shards no sentinel falls into
	err      error           // of writing
}

// sentinels are items at n Paths of a nonce.
type sentinels struct {
	Nonce string `json:"nonce"`
	N     int    `json:"n"`
}

const (
	sentinelKey    = "_sentinel"
	minSentinels   = 32
	perShard       = 16
	shardsSettle   = 3 * time.Second // for so long no shard may be new
	manySentinels  = 10 * perShard   // for each shard, after which it is strange that one has none
	mostSentinels  = 20_000          // of one drain
	sentinelAgain  = 250 * time.Millisecond
	sentinelsAside = 16 // written at the same time
)

func sentinelPath(nonce string, i int) string { return fmt.Sprintf("%s/%s/%d", ownPath, nonce, i) }

// back notes that a record has come from a Path of our own.
func (d *drain) back(shard, path string) {
	rest, ok := strings.CutPrefix(path, ownPath+"/"+d.nonce+"/")
	i, err := strconv.Atoi(rest)
	if ok && err == nil {
		delete(d.waits, i)
		d.shards[shard] = true
	}
}

// Drain implements [copier.Following]. It returns once the first sentinels are written.
func (f *following) Drain(ctx context.Context) error {
	f.mu.Lock()
	f.drains++
	number := f.drains
	f.mu.Unlock()
	return f.begin(ctx, number)
}

// begin begins a drain.
func (f *following) begin(ctx context.Context, number int) error {
	d := &drain{number: number, nonce: rand.Text(), waits: map[int]bool{}, shards: map[string]bool{}}
	f.mu.Lock()
	f.drain = d
	n := f.more(d)
	f.mu.Unlock()
	err := f.write(ctx, d, n)
	f.hurry()
	return err
}

// more says that some more sentinels are about to be written, and returns how many. The
// caller holds f.mu.
func (f *following) more(d *drain) int {
	n := max(minSentinels, perShard*len(f.leaves()))
	for i := range n {
		d.waits[d.written+i] = true
	}
	d.writing, d.complete, d.at = true, false, time.Now()
	f.note.Sentinels = append(slices.DeleteFunc(f.note.Sentinels, func(s sentinels) bool { return s.Nonce == d.nonce }), sentinels{d.nonce, d.written + n})
	return n
}

// write writes the next n sentinels of a drain. That they may be there is on record before.
func (f *following) write(ctx context.Context, d *drain, n int) error {
	err := f.keepNote(ctx)
	f.mu.Lock()
	first := d.written
	f.mu.Unlock()
	if err == nil {
		g, ctx := errgroup.WithContext(ctx)
		g.SetLimit(sentinelsAside)
		for i := range n {
			g.Go(func() error {
				return f.s.putOwn(ctx, sentinelPath(d.nonce, first+i), sentinelKey, f.run, []byte(d.nonce))
			})
		}
		err = g.Wait()
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	d.written += n
	d.writing = false
	if err != nil && ctx.Err() != nil && f.ctx.Err() == nil {
		d.over = true // given up by who began it; the source is followed on
	} else {
		d.err = err
	}
	return err
}

// judge looks how far the drain is. seen says that the shards and the table were looked at
// since all was complete, and that nothing is new. The caller holds f.mu.
func (f *following) judge(seen bool) error {
	d := f.drain
	if d.err != nil {
		return d.err
	}
	if d.writing || len(d.waits) > 0 {
		return nil
	}
	leaf := map[string]bool{}
	covered, whole := true, true
	leaves := f.leaves()
	var unknown []string     // shards into which no sentinel falls, and of which no Paths are known
	hot := map[string]bool{} // Paths of others
	many := d.number > 0 && d.written >= manySentinels*len(leaves)
	for _, id := range leaves {
		leaf[id] = true
		if paths := f.paths(id); d.shards[id] {
		} else if many && len(paths) > 0 {
			for _, path := range paths {
				hot[path] = true
			}
		} else {
			covered, unknown = false, append(unknown, id)
		}
		whole = whole && !f.at.Shards[id].Done
	}
	for id, sh := range f.at.Shards {
		whole = whole && (leaf[id] || sh.Done)
	}
	was := d.complete
	d.complete = covered && whole && len(leaf) > 0
	f.busy = f.busy || d.complete && !was // what is left to do is one more round
	switch {
	case d.complete && was && seen && wall().Sub(f.newest) >= shardsSettle:
		f.passed, f.unsure = max(f.passed, d.number), nil
		for _, path := range slices.Sorted(maps.Keys(hot)) {
			f.unsure = append(f.unsure, []byte(folderOf(path)))
		}
		d.over = true
		f.sweep()
	case !covered && !d.told && d.written >= manySentinels*len(leaf):
		d.told = true
		f.s.opts.Events(copier.Warning{Message: "of what was written before a moment nobody knows whether all has come: no sentinel falls into these shards of the stream, each of which may have a part of one Path only, and they have not delivered enough to know of which: " +
			strings.Join(unknown, ", ")})
	case !covered && d.written < mostSentinels && time.Since(d.at) >= sentinelAgain:
		n := f.more(d)
		f.wait.Go(func() { _ = f.write(f.ctx, d, n) }) // its error is d.err
	}
	return nil
}

// drainPassed reports whether the drain that was begun last has passed.
func (f *following) drainPassed() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.drain.over
}

// sweep removes all sentinels, beside what else is done. What it can't, Unfollow does. The
// caller holds f.mu.
func (f *following) sweep() {
	old := slices.Clone(f.note.Sentinels)
	f.wait.Go(func() {
		for _, batch := range old {
			if f.s.deleteSentinels(f.ctx, batch) != nil {
				return
			}
			f.mu.Lock()
			f.note.Sentinels = slices.DeleteFunc(f.note.Sentinels, func(s sentinels) bool { return s == batch })
			f.mu.Unlock()
		}
		_ = f.keepNote(f.ctx) // Unfollow removes them once more
	})
}

// keepNote writes the note as it is now.
func (f *following) keepNote(ctx context.Context) error {
	f.noting.Lock()
	defer f.noting.Unlock()
	f.mu.Lock()
	n := f.note
	n.Sentinels = slices.Clone(n.Sentinels)
	f.mu.Unlock()
	return f.s.writeNote(ctx, f.run, n)
}

func (s *Source) deleteSentinels(ctx context.Context, batch sentinels) error {
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(sentinelsAside)
	for i := range batch.N {
		g.Go(func() error { return s.deleteOwn(ctx, sentinelPath(batch.Nonce, i), sentinelKey) })
	}
	return g.Wait()
}
