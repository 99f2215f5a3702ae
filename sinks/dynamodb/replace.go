package dynamodb

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/hashicorp/go-uuid"

	"github.com/dyn2raft/dyn2raft/copier"
	"github.com/dyn2raft/dyn2raft/copier/durable"
)

// Replace says how a table is written in place that holds a Vault's data: what differs is
// written, what is in it and not in the source is deleted, and the rest stays.
//
// The table must be there, and be of the Vault that the source is of. It is locked as a
// table that is copied from. All that is to be changed is known, and can be written, before
// anything is; and there is a backup. From the first change on the table is neither what it
// was nor what it is to become: it stays locked, whatever happens, until a copy into it is
// complete, of this run or of another one with these options; or until it is restored.
type Replace struct {
	// WorkDir is an existing directory for what differs, as large as the data in the worst
	// case. What is in its folder dyn2raft-replace is removed.
	WorkDir string
	// Memory is how much of it the comparison may use, in bytes, and thereby how many pages
	// it reads at the same time; less than [copier.MinMemory] means that.
	Memory int64
	// Backup is the name of an on-demand backup that is made before the first change;
	// BackupARN is one that there is, which must be of this table, and have it as it is:
	// nobody has written to the table since. One of the two must be set.
	Backup, BackupARN string
	// TakeOver is the id of the copy from this table that has left it locked, if one has.
	TakeOver string
	// HAEnabled, HAStorage and Stopped are what a source is told of the Vaults on the
	// table: see Options of the package that reads one.
	HAEnabled bool
	HAStorage string
	Stopped   func(ctx context.Context, reason string) (bool, error)
	// Begin, where set, is called before the first change, with all that will be changed.
	// Its error ends the copy, and the table is as it was. A copy that is resumed once it
	// has changed something does not ask again.
	Begin func(context.Context, Changes) error
}

// Changes are what makes a table the copy of a source. Directory markers count as items.
type Changes struct {
	// Put is the number of items that are written, Delete that of those that are deleted,
	// and Same that of those which stay.
	Put    int64 `json:"put"`
	Delete int64 `json:"delete"`
	Same   int64 `json:"same"`
	// Backup is the ARN of the backup that has the table as it was; empty where nothing
	// has to be changed.
	Backup string `json:"backup,omitempty"`
}

// ReplacedFact is the name of the fact by which a result says that it was written in
// place. It holds [Changes], those of the last process that has made any.
const ReplacedFact = "dynamodb_replaced"

func (r *Replace) validate() error {
	switch {
	case r.WorkDir == "":
		return errors.New("a table is to be replaced, and no directory for work files is named")
	case (r.Backup == "") == (r.BackupARN == ""):
		return errors.New("a table is to be replaced: name a backup that is to be made, or one that there is")
	}
	return nil
}

// A lease holds the table whose content is replaced.
type lease interface {
	copier.Lease
	// Backup is what Begin was given, in this process or an earlier one.
	Backup() string
	// Begin puts on record that the content is about to be changed.
	Begin(ctx context.Context, backup string) error
	// Still makes sure that the table is held, before something is written.
	Still(ctx context.Context) error
}

// A replacing is the stage of one run that writes a table in place.
type replacing struct {
	*Sink
	run       string
	lease     lease // until it has ended
	alive     context.Context
	lose      context.CancelCauseFunc // ends alive, when the lease is lost
	committed bool
	changes   Changes
	untold    copier.Loaded // how far loading is, and nobody was told
}

var (
	_ copier.Loader     = (*replacing)(nil)
	_ copier.Overwriter = (*replacing)(nil)
)

// openOld is Open of a table that is replaced.
func (s *Sink) openOld(ctx context.Context) (found copier.State, err error) {
	if err := s.old.open(ctx); err != nil {
		return found, err
	}
	if s.seen, err = s.readLocks(ctx); err != nil || s.seen.migration != nil || s.seen.record == nil {
		return found, err
	}
	if s.state.Record, err = decodeRecord(binary(s.seen.record, attrValue)); err != nil {
		return found, &copier.Error{Kind: copier.ErrDestination, Op: "read the record of the copy in table " + s.opts.Table, Err: err}
	}
	s.state.InUse = s.seen.foreign() != "" && s.seen.leader != nil
	return s.state, nil
}

// stageOld is Stage of such a table.
func (s *Sink) stageOld(ctx context.Context, runID string) (copier.Stage, error) {
	r := &replacing{Sink: s, run: runID, committed: s.state.Record != nil}
	r.alive, r.lose = context.WithCancelCause(context.Background())
	switch {
	case !r.committed:
		if err := r.lock(ctx); err != nil {
			return nil, err
		}
	case s.state.Record.Proof != nil:
		if _, err := s.state.Record.Proof.Facts.Get(ReplacedFact, 1, &r.changes); err != nil {
			return nil, &copier.Error{Kind: copier.ErrDestination, Op: "read the record of the copy in table " + s.opts.Table, Err: err}
		}
	}
	return r, nil
}

// lock takes the table. What a run has begun to replace, that is no longer there, is taken
// over with its backup.
func (r *replacing) lock(ctx context.Context) error {
	nonce, err := uuid.GenerateUUID()
	if err != nil {
		return err
	}
	takeOver := []string{r.run, r.opts.Replace.TakeOver}
	if m, ok := r.seen.replacing(); ok && m.Backup != "" {
		takeOver = append(takeOver, m.Run)
	}
	r.lease, err = r.old.lock(ctx, r.run+" "+nonce, takeOver, func(err error) {
		r.lose(r.taken(errors.New(err.Error())))
	})
	if err != nil {
		return err
	}
	l := r.lease
	still := func(ctx context.Context) error { return r.heldError(l.Still(ctx)) }
	r.fence.Store(&still)
	return nil
}

// while returns a context that ends with the lease too.
func (r *replacing) while(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancelCause(ctx)
	stop := context.AfterFunc(r.alive, func() { cancel(context.Cause(r.alive)) })
	return ctx, func() { stop(); cancel(nil) }
}

// Load implements [copier.Loader]. It compares what is to be in the table with what is, and
// changes what differs. It may be repeated: what is done is found to be done.
func (r *replacing) Load(ctx context.Context, entries copier.Stream) (stats copier.LoadStats, err error) {
	ctx, cancel := r.while(ctx)
	defer cancel()
	defer func() {
		if err != nil && ctx.Err() != nil {
			err = context.Cause(ctx)
		}
	}()
	if _, _, err := r.change(ctx, change{key: recordKey}); err != nil { // of one that was not committed
		return stats, err
	}
	dir, remove, err := r.workDir()
	if err != nil {
		return stats, err
	}
	defer func() { err = errors.Join(err, remove()) }()
	d, changes, err := r.compare(ctx, dir, entries)
	if err != nil {
		return stats, err
	}
	defer func() { err = errors.Join(err, changes.Close()) }()
	r.changes = d.changes
	r.changes.Backup = r.lease.Backup()
	if d.changes.Put+d.changes.Delete == 0 {
		return d.stats, nil
	}
	if err := r.begin(ctx); err != nil {
		return stats, err
	}
	return d.stats, r.apply(ctx, changes)
}

// Overwritten implements [copier.Overwriter].
func (r *replacing) Overwritten() bool { return r.lease != nil && r.lease.Backup() != "" }

// workName is the folder with the work files.
const workName = "dyn2raft-replace"

// workDir makes the folder for work files anew.
func (r *replacing) workDir() (dir string, remove func() error, err error) {
	failed := func(err error) error {
		return &copier.Error{Kind: copier.ErrDestination, Op: "make work files in " + r.opts.Replace.WorkDir, Err: err}
	}
	root, err := os.OpenRoot(r.opts.Replace.WorkDir)
	if err != nil {
		return "", nil, failed(err)
	}
	disk := new(durable.Disk)
	err = disk.Remove(root, workName)
	if err == nil {
		err = root.Mkdir(workName, 0o700)
	}
	if err != nil {
		return "", nil, failed(errors.Join(err, root.Close()))
	}
	return filepath.Join(root.Name(), workName), func() error {
		if err := errors.Join(disk.Remove(root, workName), root.Close()); err != nil {
			return failed(err)
		}
		return nil
	}, nil
}

// compare returns what has to be changed, as the entries of a work file, once all of it is
// known and can be written, and the table is known to be the right one.
func (r *replacing) compare(ctx context.Context, dir string, entries copier.Stream) (*differences, *copier.Sorted, error) {
	have, _, err := copier.Scan(ctx, summaries{r.old.items()}, copier.ScanOptions{WorkDir: dir, Memory: max(r.opts.Replace.Memory, copier.MinMemory), Workers: cap(r.slots), Events: func(e copier.Event) {
		if refused, ok := e.(copier.ItemRefused); ok {
			r.opts.Events(refused)
		}
	}})
	if err != nil {
		return nil, nil, err
	}
	d := &differences{want: side{in: &closure{in: untilEnd{ctx, entries}}}, have: side{in: have}, tell: r.tell,
		vet: func(e copier.Entry) error {
			err := r.vet(e)
			if err != nil {
				r.opts.Events(copier.ItemRefused{Err: err})
			}
			return err
		}}
	changes, err := copier.Spool(ctx, filepath.Join(dir, "differences"), d, func(e copier.Entry, out *copier.Batch) { out.Append(e.Key, e.Value) })
	err = errors.Join(err, have.Close())
	if err == nil {
		r.tell(0, 0)
		d.hidden.warn(r.opts.Events)
		if err = d.refusedError(); err == nil && !d.same {
			err = &copier.Error{Kind: copier.ErrDestination, Op: "compare table " + r.opts.Table + " with the source", Code: TableOtherVault, Facts: r.where(),
				Err: fmt.Errorf("it is not the table of this Vault, or of none: neither %s is the same in both", strings.Join(sameVault, " nor "))}
		}
	}
	if err != nil && changes != nil {
		err = errors.Join(err, changes.Close())
	}
	return d, changes, err
}

// untilEnd is a stream that ends with a context.
type untilEnd struct {
	ctx context.Context
	copier.Stream
}

func (s untilEnd) Next() (copier.Entry, error) {
	if s.ctx.Err() != nil {
		return copier.Entry{}, context.Cause(s.ctx)
	}
	return s.Stream.Next()
}

// tell says how far loading is, from time to time, and in any case when there is nothing
// more to say.
func (r *replacing) tell(entries, bytes int64) {
	const every = 1000
	r.untold.Entries += entries
	r.untold.Bytes += bytes
	if r.untold.Entries >= every || entries == 0 && r.untold.Entries > 0 {
		r.opts.Events(r.untold)
		r.untold = copier.Loaded{}
	}
}

// begin makes sure of a backup, asks, and puts on record that the table is changed from
// here on. Where an earlier process has begun all of that is done.
func (r *replacing) begin(ctx context.Context) error {
	if r.changes.Backup != "" {
		return nil
	}
	backup, err := r.old.backUp(ctx, r.opts.Replace)
	if err != nil {
		return err
	}
	changes := r.changes
	changes.Backup = backup
	if r.opts.Replace.Begin != nil {
		if err := r.opts.Replace.Begin(ctx, changes); err != nil {
			return err
		}
	}
	if err := r.check(ctx); err != nil {
		return err
	}
	if err := destination(r.lease.Begin(ctx, backup)); err != nil {
		return err
	}
	r.changes = changes
	return nil
}

// apply makes changes.
func (r *replacing) apply(ctx context.Context, changes copier.Stream) error {
	const mostBytes = 16 << 20
	var chunk []item
	var entries, size int64
	for {
		e, err := changes.Next()
		if err != nil && err != io.EOF {
			return err
		}
		if err == io.EOF || len(chunk) == cap(r.slots)*batchItems || size >= mostBytes {
			if err := r.writeAll(ctx, chunk); err != nil {
				return err
			}
			r.tell(entries, size)
			r.tell(0, 0)
			chunk, entries, size = chunk[:0], 0, 0
		}
		if err == io.EOF {
			return nil
		}
		it, err := itemOf(e)
		if err != nil {
			return &copier.Error{Kind: copier.ErrDestination, Op: "read work file", Err: err}
		}
		chunk = append(chunk, it)
		if it.request.PutRequest != nil && !bytes.HasSuffix(e.Key, []byte("/")) {
			entries++
			size += int64(len(e.Key) + len(e.Value) - differenceHeader)
		}
	}
}

// Reader implements [copier.Stage].
func (r *replacing) Reader(ctx context.Context) (copier.Source, error) {
	changed, err := copier.NewFact(1, r.changes)
	if err != nil {
		return nil, err
	}
	return r.reader(ctx, copier.Facts{ReplacedFact: changed})
}

// Prepare implements [copier.Stage]: it puts the record into the table, whose locks are
// made sure of.
func (r *replacing) Prepare(ctx context.Context, rec copier.Record) error {
	ctx, cancel := r.while(ctx)
	defer cancel()
	if err := r.check(ctx); err != nil {
		return err
	}
	return r.putRecord(ctx, r.run, rec)
}

// check makes sure that the table is held.
func (r *replacing) check(ctx context.Context) error {
	if err := context.Cause(r.alive); err != nil {
		return err
	}
	return r.heldError(r.lease.Check(ctx))
}

// heldError is an error of the lease as one of the destination.
func (r *replacing) heldError(err error) error {
	if errors.Is(err, copier.ErrMoved) {
		return r.taken(errors.New(err.Error()))
	}
	return destination(err)
}

// Commit implements [copier.Stage]: the locks are removed, the migration lock last.
func (r *replacing) Commit(ctx context.Context) error {
	if err := r.check(ctx); err != nil {
		return err
	}
	err := r.release(ctx, copier.EndComplete)
	if err == nil {
		r.committed = true
		return nil
	}
	// Whether the migration lock is gone is all that counts.
	actx, cancel := after(ctx)
	defer cancel()
	switch m, rerr := r.read(actx, migrationLockKey); {
	case rerr != nil:
		return fmt.Errorf("%w: %w", copier.ErrUnconfirmed, errors.Join(err, rerr))
	case m == nil:
		r.committed = true
		return nil
	}
	return err
}

// release ends the lease.
func (r *replacing) release(ctx context.Context, end copier.End) error {
	l := r.lease
	r.lease = nil
	return destination(l.Release(ctx, end))
}

// Amend implements [copier.Stage].
func (r *replacing) Amend(rec copier.Record) error {
	ctx, cancel := after(context.Background())
	defer cancel()
	return r.putRecord(ctx, r.run, rec)
}

// Rollback implements [copier.Stage]: the table is locked again. It is not what it was: as
// it was it is in the backup.
func (r *replacing) Rollback() error {
	ctx, cancel := after(context.Background())
	defer cancel()
	if r.committed {
		l, err := r.readLocks(ctx)
		if err != nil {
			return err
		}
		if holder := l.foreign(); holder != "" && (l.migration != nil || l.expires().After(time.Now())) {
			return fmt.Errorf("%w: %w", copier.ErrInUse, r.busyWith(l))
		}
		r.seen = l
		if err := r.lock(ctx); err != nil {
			return err
		}
		r.committed = false
		if r.changes.Backup != "" {
			if err := destination(r.lease.Begin(ctx, r.changes.Backup)); err != nil {
				return err
			}
		}
	}
	_, _, err := r.change(ctx, change{key: recordKey})
	return err
}

// Close implements [copier.Stage]. A table that was changed and is not complete stays
// locked, and the error says so where the run is not kept.
func (r *replacing) Close(keep bool) error {
	ctx, cancel := after(context.Background())
	defer cancel()
	if r.committed {
		if keep {
			return nil
		}
		_, _, err := r.change(ctx, change{key: recordKey})
		return err
	}
	if r.lease == nil {
		return nil
	}
	backup := r.lease.Backup()
	end := copier.EndUnfinished
	if !keep && backup == "" && context.Cause(r.alive) == nil {
		end = copier.EndFailed
		if _, _, err := r.change(ctx, change{key: recordKey}); err != nil {
			return errors.Join(err, r.release(ctx, copier.EndUnfinished))
		}
	}
	err := r.release(ctx, end)
	if !keep && backup != "" {
		err = errors.Join(err, r.halfReplaced(backup))
	}
	return err
}

// giveUp is GiveUp of a run that replaces what is in the table, and has not begun to.
func (s *Sink) giveUp(ctx context.Context, m migration) (out GivenUp, err error) {
	if m.Backup != "" {
		return out, s.halfReplaced(m.Backup)
	}
	o := s.opts
	if o.Replace == nil {
		o.Replace = new(Replace) // of a table that is locked nobody is asked
	}
	if s.old, err = newOldTable(ctx, o); err != nil {
		return out, err
	}
	if err := s.old.open(ctx); err != nil {
		return out, err
	}
	defer func() { err = errors.Join(err, s.old.close()) }()
	l, err := s.old.lock(ctx, m.Run, []string{m.Run}, func(error) {})
	if err != nil {
		return out, err
	}
	_, _, err = s.change(ctx, change{key: recordKey})
	if err := errors.Join(err, destination(l.Release(ctx, copier.EndFailed))); err != nil {
		return out, err
	}
	run, _, _ := strings.Cut(m.Run, " ")
	return GivenUp{Run: run, InPlace: true}, nil
}

// checkOld looks at a table that is to be replaced, as checkState does.
func (s *Sink) checkOld(ctx context.Context, l locks, found *copier.Findings) {
	const check = "destination"
	m, ours := l.replacing()
	if !ours && l.migration != nil {
		_ = json.Unmarshal(binary(l.migration, attrValue), &m) // what it does not say is not known
	}
	leader := l.leader != nil && !strings.HasPrefix(string(binary(l.leader, attrValue)), holderPrefix)
	if arn := s.opts.Replace.BackupARN; arn != "" && m.Backup == "" {
		if _, err := s.old.src.FindBackup(ctx, arn); err != nil {
			found.Fail(check, "", "%w", destination(err))
			return
		}
	}
	switch name := s.opts.Table; {
	case leader && l.expires().After(time.Now()):
		found.Fail(check, "", "%w", s.busy(fmt.Sprintf("the Vault with leader id %q", binary(l.leader, attrValue)), ""))
	case ours && m.Backup != "":
		found.Warn(check, "unfinished", "a copy has begun to replace what is in table %s, and this one resumes that; what the table held before is in the backup %s", name, m.Backup).With("run", m.Run)
	case ours:
		found.Warn(check, "unfinished", "table %s is locked for run %s, which is to replace what is in it, and has not begun", name, m.Run).With("run", m.Run)
	case l.migration == nil && l.record != nil:
		found.Fail(check, "finished", "table %s holds a complete copy that has not cleaned up behind itself", name)
	case l.migration != nil && m.Run == "":
		found.Fail(check, "", "%w", s.busy("the entry "+migrationLockKey, ""))
	case l.migration != nil && m.Run != s.opts.Replace.TakeOver:
		found.Fail(check, "", "%w", s.old.locked(TableLocked, fmt.Sprintf("dyn2raft run %s on %s holds it", m.Run, m.Host)))
	case l.migration != nil:
		found.Pass(check, "table %s is there, and locked by run %s, whose lock is taken over", name, m.Run)
	default:
		found.Pass(check, "table %s is there; what is in it and not in the source will be deleted", name)
	}
}
