// Package dynamodb writes a table of Vault's dynamodb storage: a new one, or, see [Replace],
// one that holds an earlier state of the same Vault.
//
// [Sink] is a [copier.Sink] whose stages are [copier.Unordered]: entries are written as
// they come, with BatchWriteItem, many at the same time, and each directory marker once,
// as Vault would have written it. The table is made, on demand unless [Options] say
// otherwise, or is there and empty: one that holds anything else is refused.
//
// What keeps Vaults off a table that is not complete are Vault's own locks. The entry
// core/migration, on which no Vault starts, and the leader lock core/_lock are taken
// before anything is written, both with the id of the run, and removed behind all else,
// core/migration last: that is the commit. Until a copy has cleaned up behind itself its
// record is in the item core/_dyn2raft, which has the form of a lock, so that nobody
// takes it for an entry. A copy that is given up leaves an empty table: none is deleted.
package dynamodb

import (
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/dynamodb"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb/types"
	"github.com/hashicorp/go-uuid"
	"golang.org/x/time/rate"

	"github.com/dyn2raft/dyn2raft/copier"
	"github.com/dyn2raft/dyn2raft/copier/boottime"
	"github.com/dyn2raft/dyn2raft/sinks/internal/hold"
)

// Options say which table is written, and how.
type Options struct {
	// Table is the table's name, Region an AWS region. Endpoint is a URL used instead of
	// the region's own.
	Table, Region, Endpoint string
	// AccessKey, SecretKey and SessionToken are used instead of the SDK's credential
	// chain where AccessKey and SecretKey are set.
	AccessKey, SecretKey, SessionToken string
	// ReadUnits and WriteUnits are the capacity that the table is made with, in units a
	// second; both 0 make it on demand. A table that is there stays as it is.
	ReadUnits, WriteUnits int64
	// WriteCapacity caps the write units a second that are asked for; 0 is no cap.
	WriteCapacity float64
	// Requests is how many are under way at the same time; 0 means 64.
	Requests int
	// RetryFor is for how long a request that fails, or is throttled, is tried again; 0
	// means 15 minutes. It bounds how long it takes to make the table too.
	RetryFor time.Duration
	// SealWrapped accepts values that Vault Enterprise has seal-wrapped, which no other
	// Vault can read: they are refused otherwise.
	SealWrapped bool
	// NoWriteProbes has Check send nothing that could write, whatever its condition.
	NoWriteProbes bool
	// Dir, where set, is a directory of this machine that is held from Open to Close, with a
	// lock (flock): two copies do not share work files in it, and others can see that one runs.
	Dir string
	// Replace, where set, makes the sink write into a table that holds a Vault's data.
	Replace *Replace
	// Events, where set, is told of throttling and of waits, of entries that Vault will not
	// list, and of how far a table is that is replaced.
	Events func(copier.Event)
}

// Validate checks the options. An error wraps [copier.ErrConfig].
func (o *Options) Validate() error {
	var err error
	switch {
	case o.Table == "" || o.Region == "":
		err = errors.New("no table, or no region")
	case (o.AccessKey == "") != (o.SecretKey == ""):
		err = errors.New("one of access key and secret key is set, and the other is not")
	case (o.ReadUnits > 0) != (o.WriteUnits > 0) || o.ReadUnits < 0 || o.WriteUnits < 0:
		err = fmt.Errorf("%d read and %d write units: both must be set, or neither", o.ReadUnits, o.WriteUnits)
	case o.WriteCapacity < 0 || math.IsNaN(o.WriteCapacity) || math.IsInf(o.WriteCapacity, 0) || o.Requests < 0 || o.RetryFor < 0:
		err = errors.New("a write capacity, a number of requests or a time is less than 0, or without end")
	}
	if err == nil && o.Replace != nil {
		err = o.Replace.validate()
	}
	if err != nil {
		return &copier.Error{Kind: copier.ErrConfig, Op: "read options of the destination", Err: err}
	}
	return nil
}

// A Sink writes one table.
type Sink struct {
	opts   Options
	client *dynamodb.Client
	timing timing
	limit  *rate.Limiter // nil: none
	slots  chan struct{} // taken by requests
	there  bool          // the table is
	seen   locks
	state  copier.State
	old    *oldTable // where its content is replaced
	held   hold.Hold // of Options.Dir

	boot  func() time.Duration                        // runs on while the machine sleeps
	fence atomic.Pointer[func(context.Context) error] // says whether the table is still held
}

var (
	_ copier.Sink      = (*Sink)(nil)
	_ copier.Unordered = (*stage)(nil)
)

// New returns a sink for the table that the options name. It loads the AWS configuration,
// and asks nothing of the network. An error wraps [copier.ErrConfig].
func New(ctx context.Context, opts Options) (*Sink, error) {
	if err := opts.Validate(); err != nil {
		return nil, err
	}
	if opts.Requests == 0 {
		opts.Requests = 64
	}
	if opts.RetryFor == 0 {
		opts.RetryFor = 15 * time.Minute
	}
	if opts.Events == nil {
		opts.Events = func(copier.Event) {}
	}
	s := &Sink{opts: opts, timing: vaultTiming, slots: make(chan struct{}, opts.Requests), boot: boottime.Now}
	var err error
	if s.client, err = newClient(ctx, opts, s.stillHeld); err != nil {
		return nil, err
	}
	if opts.Replace != nil {
		if s.old, err = newOldTable(ctx, opts); err != nil {
			return nil, err
		}
	}
	if opts.WriteCapacity > 0 {
		s.limit = rate.NewLimiter(rate.Limit(opts.WriteCapacity), max(int(opts.WriteCapacity), 1))
	}
	return s, nil
}

// Identity implements [copier.Sink].
func (s *Sink) Identity() copier.Identity {
	id := copier.Identity{"table": s.opts.Table, "region": s.opts.Region}
	if s.opts.Endpoint != "" {
		id["endpoint"] = s.opts.Endpoint
	}
	if s.old != nil {
		id["in_place"] = "yes"
	}
	return id
}

// Open implements [copier.Sink]. It writes nothing: a table that is missing, or empty, is
// taken by Stage. Where a process of a copy was killed that has written to the table,
// Open waits until its lock has not been renewed for a lease, 15 s.
func (s *Sink) Open(ctx context.Context) (found copier.State, err error) {
	if s.opts.Dir != "" {
		if err := s.held.Take(s.opts.Dir); err != nil {
			return found, err
		}
	}
	if s.old != nil {
		return s.openOld(ctx)
	}
	if err := s.reach(ctx); err != nil {
		return found, err
	}
	if s.there, err = s.active(ctx); err != nil || !s.there {
		return found, err
	}
	l, err := s.readLocks(ctx)
	if err != nil {
		return found, err
	}
	if _, ok := l.staged(); ok {
		if holder := l.foreign(); holder != "" {
			return found, s.busyWith(l)
		}
		s.seen, err = s.watch(ctx, l)
		return found, err
	}
	if l.migration == nil && l.record != nil {
		s.state.Record, err = decodeRecord(binary(l.record, attrValue))
		if err != nil {
			return found, &copier.Error{Kind: copier.ErrDestination, Op: "read the record of the copy in table " + s.opts.Table, Err: err}
		}
		s.state.InUse = l.foreign() != "" && l.expires().After(time.Now())
		return s.state, nil
	}
	if holder := l.foreign(); holder != "" {
		return found, s.busyWith(l)
	}
	return found, s.empty(ctx)
}

// Stage implements [copier.Sink]: it makes the table, and takes its locks.
func (s *Sink) Stage(ctx context.Context, runID string) (copier.Stage, error) {
	if s.old != nil {
		return s.stageOld(ctx, runID)
	}
	nonce, err := uuid.GenerateUUID()
	if err != nil {
		return nil, err
	}
	st := &stage{Sink: s, run: runID, identity: runID + " " + nonce, stopRenewing: func() {}}
	if s.state.Record != nil {
		st.committed = true
		return st, nil
	}
	if !s.there {
		if err := s.create(ctx); err != nil {
			return nil, err
		}
	}
	if err := st.lock(ctx, s.seen); err != nil {
		return nil, err
	}
	run, _ := s.seen.staged()
	st.whole.Store(run == runID)
	if s.seen.migration == nil {
		// Nobody has begun to write to it since it was looked at, or it was made.
		if err := s.empty(ctx); err != nil {
			st.stopRenewing()
			return nil, errors.Join(err, st.unlock(context.WithoutCancel(ctx)))
		}
	}
	return st, nil
}

// Close implements [copier.Sink]. What is held, a stage holds.
func (s *Sink) Close() error {
	err := s.held.Release()
	if s.old == nil {
		return err
	}
	return errors.Join(err, s.old.close())
}

// A stage is what one run writes to the table.
type stage struct {
	*Sink
	run      string
	identity string               // of the leader lock: the run's and this process's
	value    types.AttributeValue // of the migration lock
	marked   sync.Map             // directories whose markers somebody writes, or has written

	stopRenewing func()
	lost         atomic.Pointer[error] // why the lock is not ours any more
	renewed      atomic.Int64          // when the last renewal was sent that had an answer, by boot, in ns
	asking       sync.Mutex            // held by still

	hidden    hidden // of what Vet was given
	committed bool
	whole     atomic.Bool // what the run has put, as far as the engine knows, is there
}

// Vet implements [copier.Unordered].
func (s *stage) Vet(entries *copier.Batch) (refused []error) {
	for i := range entries.Len() {
		e := entries.Entry(i)
		s.hidden.note(e.Key)
		if err := s.vet(e); err != nil {
			refused = append(refused, err)
		}
	}
	return refused
}

// vet says why an entry can't be written, or must not be.
func (s *Sink) vet(e copier.Entry) error {
	key := string(e.Key)
	if len(key) > 200 {
		key = key[:200] + "…"
	}
	out := &copier.Error{Kind: copier.ErrDestination, Code: EntryRefused, Op: fmt.Sprintf("write entry %q", key), Err: refusal(e)}
	if out.Err == nil && !s.opts.SealWrapped && sealWrapped(e.Value) {
		out.Code, out.Err = EntrySealWrapped, errors.New("its value is seal-wrapped by Vault Enterprise, and no other Vault can read it")
	}
	if out.Err == nil {
		return nil
	}
	return out
}

// Clear implements [copier.Unordered].
func (s *stage) Clear(ctx context.Context) error {
	if err := s.held(); err != nil {
		return err
	}
	s.hidden.warn(s.opts.Events)
	s.marked.Clear()
	if err := s.clear(ctx); err != nil {
		return err
	}
	s.whole.Store(true)
	return nil
}

// ready returns an error where the table can't have what the run has put before.
func (s *stage) ready() error {
	if !s.whole.Load() {
		return s.taken(errors.New("what the copy had written is gone: the table was deleted since, or another copy took it"))
	}
	return s.held()
}

// Put implements [copier.Unordered].
func (s *stage) Put(ctx context.Context, entries *copier.Batch) error {
	if err := context.Cause(ctx); err != nil {
		return err
	}
	if err := s.ready(); err != nil {
		return err
	}
	return s.writeAll(ctx, s.items(entries))
}

// Prepare implements [copier.Stage]: it puts the record into the table. It looks whether
// somebody removed the migration lock: then a Vault may have been started.
func (s *stage) Prepare(ctx context.Context, r copier.Record) error {
	if err := s.ready(); err != nil {
		return err
	}
	m, err := s.read(ctx, migrationLockKey)
	if err != nil {
		return err
	}
	if is, ok := s.value.(*types.AttributeValueMemberB); !ok || !bytes.Equal(binary(m, attrValue), is.Value) {
		err := s.taken(errors.New("somebody removed the entry " + migrationLockKey + ", so that a Vault may have been started on it"))
		s.lost.Store(&err)
		return err
	}
	return s.putRecord(ctx, s.run, r)
}

// Commit implements [copier.Stage]: the locks are removed, the migration lock last.
func (s *stage) Commit(ctx context.Context) error {
	s.stopRenewing()
	if err := s.held(); err != nil {
		return err
	}
	if err := s.unlockLeader(ctx); err != nil {
		return err
	}
	err := s.unlockMigration(ctx)
	if err == nil {
		s.committed = true
		return nil
	}
	// Whether it is gone is all that counts.
	actx, cancel := after(ctx)
	defer cancel()
	switch m, rerr := s.read(actx, migrationLockKey); {
	case rerr != nil:
		return fmt.Errorf("%w: %w", copier.ErrUnconfirmed, errors.Join(err, rerr))
	case m == nil:
		s.committed = true
		return nil
	}
	return err
}

// Amend implements [copier.Stage].
func (s *stage) Amend(r copier.Record) error {
	ctx, cancel := after(context.Background())
	defer cancel()
	return s.putRecord(ctx, s.run, r)
}

// Rollback implements [copier.Stage]: the table is locked again.
func (s *stage) Rollback() error {
	ctx, cancel := after(context.Background())
	defer cancel()
	if s.committed {
		l, err := s.readLocks(ctx)
		if err != nil {
			return err
		}
		if holder := l.foreign(); holder != "" {
			return fmt.Errorf("%w: %w", copier.ErrInUse, s.busyWith(l))
		}
		if err := s.lock(ctx, l); err != nil {
			return err
		}
		s.committed = false
	}
	_, _, err := s.change(ctx, change{key: recordKey})
	return err
}

// Close implements [copier.Stage]. With keep, a result that is not in place stays locked
// for the run, and a later process of it need not wait for this one's lock to expire.
func (s *stage) Close(keep bool) error {
	s.stopRenewing()
	ctx, cancel := after(context.Background())
	defer cancel()
	switch {
	case s.committed && keep:
		return nil
	case s.committed:
		_, _, err := s.change(ctx, change{key: recordKey})
		return err
	}
	if err := s.held(); err != nil {
		return err // it is another's
	}
	if keep {
		_, err := s.setExpiry(ctx, time.Time{})
		return err
	}
	if err := s.clear(context.Background()); err != nil {
		return err
	}
	return s.unlock(ctx)
}

// unlock removes both locks.
func (s *stage) unlock(ctx context.Context) error {
	if err := s.unlockLeader(ctx); err != nil {
		return err
	}
	return s.unlockMigration(ctx)
}

// endTime is how long what a copy does at its end may take.
const endTime = time.Minute

// after returns a context for what has to be done although ctx has ended.
func after(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.WithoutCancel(ctx), endTime)
}

// recordKey is where the record of a copy is, from before its commit until it has cleaned
// up behind itself. The item has the form of a lock.
const recordKey = "core/_dyn2raft"

// putRecord puts a record, in a compressed form: an item has 400 KB at the most.
func (s *Sink) putRecord(ctx context.Context, run string, r copier.Record) error {
	data, err := r.Encode()
	if err != nil {
		return err
	}
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	if _, err := w.Write(data); err != nil {
		return err
	}
	if err := w.Close(); err != nil {
		return err
	}
	_, _, err = s.change(ctx, change{key: recordKey, put: attributes{
		attrValue:    &types.AttributeValueMemberB{Value: b.Bytes()},
		attrIdentity: &types.AttributeValueMemberB{Value: []byte(holderPrefix + run)},
		attrExpires:  expires(time.Time{}),
	}})
	return err
}

// maxRecord bounds what is read of a record, in bytes.
const maxRecord = 64 << 20

func decodeRecord(data []byte) (*copier.Record, error) {
	r, err := gzip.NewReader(bytes.NewReader(data))
	if err != nil {
		return nil, err
	}
	var text strings.Builder
	if _, err := io.Copy(&text, io.LimitReader(r, maxRecord)); err != nil {
		return nil, err
	}
	return copier.DecodeRecord([]byte(text.String()))
}
