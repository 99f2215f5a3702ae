// Package physical writes to any storage backend of Vault through the interface that all of
// them have, physical.Backend of Vault's SDK, as a [copier.Sink] that takes entries in any
// order. The backend is the caller's, see sources/physical, which reads it back.
//
// Entries are put where they belong. Until the commit core/migration keeps every Vault from
// starting on them: it says whose it is, is the first thing that is put, and to delete it is
// the commit. A Vault that runs already is not kept away: where the backend elects
// leaders, one that is active is refused; elsewhere that none runs is the caller's word.
//
// A backend has no place for what a copy has to know of itself, so that is in a directory
// of this machine: the record, the engine's work files, and a lock. Without it an unfinished
// copy can't be resumed, and a result in place is taken for data of somebody else.
//
// What was put is as durable as the backend's Put. The SDK's file backend syncs nothing:
// with Options.Sync a result in place is durable all the same, and a loss of power during a
// copy may cost what was put. That a key can't be stored, or is not
// listed, as one that begins with "_" is not on DynamoDB, is noticed when all is read back;
// nothing is committed then.
package physical

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"
	"time"

	sdk "github.com/hashicorp/vault/sdk/physical"
	"golang.org/x/sync/errgroup"

	"github.com/dyn2raft/dyn2raft/copier"
	"github.com/dyn2raft/dyn2raft/copier/durable"
	"github.com/dyn2raft/dyn2raft/sinks/internal/hold"
)

const (
	defaultParallel = 32

	migrationKey = "core/migration" // a Vault that finds it does not start
	leaderKey    = "core/lock"      // of the active node

	recordName = "commit.json"
	runName    = "run"
	workName   = "work"
	maxRecord  = 64 << 20 // what is read of a record, in bytes
)

// Options say where entries go.
type Options struct {
	Backend sdk.Backend
	// Name and ID are as in sources/physical.
	Name, ID string
	// Dir is a directory of this machine that exists, for this destination alone.
	Dir string
	// Sync, where set, makes durable what was put; it is called before the commit and
	// behind it. A backend whose Put is durable needs none.
	Sync func() error
	// Parallel is how many entries of one call of Put are put at the same time; 0 means 32.
	Parallel int
	// Disk is what is written through in Dir; nil is the real one.
	Disk *durable.Disk
}

// A Sink writes to one backend. Put apart, it is used from one goroutine.
type Sink struct {
	opts   Options
	disk   *durable.Disk
	held   hold.Hold
	placed bool // Open has found a run's result in place
}

// A stage is what one run writes, or has put in place.
type stage struct {
	*Sink
	run       string
	committed bool
}

var (
	_ copier.Sink      = (*Sink)(nil)
	_ copier.WorkDirer = (*Sink)(nil)
	_ copier.Checker   = (*Sink)(nil)
	_ copier.Unordered = (*stage)(nil)
)

// New returns a sink. It does nothing yet. An error wraps [copier.ErrConfig].
func New(o Options) (*Sink, error) {
	if o.Backend == nil || o.Name == "" || o.ID == "" || o.Dir == "" {
		return nil, &copier.Error{Kind: copier.ErrConfig, Op: "write backend", Err: errors.New("it has no backend, no name, no id or no directory")}
	}
	if o.Parallel <= 0 {
		o.Parallel = defaultParallel
	}
	return &Sink{opts: o, disk: o.Disk}, nil
}

func (s *Sink) path(name string) string { return filepath.Join(s.opts.Dir, name) }

// Identity implements [copier.Sink].
func (s *Sink) Identity() copier.Identity {
	return copier.Identity{"backend": s.opts.Name, "id": s.opts.ID}
}

// WorkDir implements [copier.WorkDirer].
func (s *Sink) WorkDir() string { return s.path(workName) }

// failed makes the error of a request to the backend.
func failed(ctx context.Context, op, key string, err error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return &copier.Error{Kind: copier.ErrDestination, Op: op + " " + copier.NameKey([]byte(key)), Err: err}
}

// coded makes an error with a code.
func (s *Sink) coded(kind error, code copier.Code, op string, err error) error {
	return &copier.Error{Kind: kind, Op: op, Code: code, Facts: map[string]string{"backend": s.opts.Name}, Err: err}
}

// diskFailed makes the error of an operation in the directory.
func (s *Sink) diskFailed(op string, err error) error {
	return s.held.Fail(op, s.opts.Dir, s.opts.Dir, err)
}

// A migration is what core/migration holds: Vault's own begins with the same name.
type migration struct {
	Start time.Time `json:"start"`
	Run   string    `json:"dyn2raft_run"`
}

// migrating returns the run that core/migration is of, "" where it is somebody else's. It
// reports whether it is there.
func (s *Sink) migrating(ctx context.Context) (run string, there bool, err error) {
	e, err := s.opts.Backend.Get(ctx, migrationKey)
	if err != nil {
		return "", false, failed(ctx, "get", migrationKey, err)
	}
	if e == nil {
		return "", false, nil
	}
	var m migration
	if err := json.Unmarshal(e.Value, &m); err != nil {
		return "", true, nil //nolint:nilerr // whatever it is, it is not ours
	}
	return m.Run, true, nil
}

func (s *Sink) putMigration(ctx context.Context, run string) error {
	value, err := json.Marshal(migration{Start: time.Now().UTC(), Run: run})
	if err == nil {
		err = s.opts.Backend.Put(ctx, &sdk.Entry{Key: migrationKey, Value: value})
	}
	if err != nil {
		return failed(ctx, "put", migrationKey, err)
	}
	return nil
}

func (s *Sink) deleteKey(ctx context.Context, key string) error {
	if err := s.opts.Backend.Delete(ctx, key); err != nil {
		return failed(ctx, "delete", key, err)
	}
	return nil
}

// inUse reports whether a Vault is active on the backend. It can tell where the backend
// elects leaders.
func (s *Sink) inUse() (bool, error) {
	ha, ok := s.opts.Backend.(sdk.HABackend)
	if !ok || !ha.HAEnabled() {
		return false, nil
	}
	lock, err := ha.LockWith(leaderKey, "dyn2raft")
	if err == nil {
		var held bool
		if held, _, err = lock.Value(); err == nil {
			return held, nil
		}
	}
	return false, &copier.Error{Kind: copier.ErrDestination, Op: "look at " + leaderKey, Err: err}
}

// Open implements [copier.Sink]. An error wraps [copier.ErrLocked] where another copy holds
// the directory or the backend, or a Vault is active on it, else [copier.ErrDestination].
func (s *Sink) Open(ctx context.Context) (found copier.State, err error) {
	if ctx.Err() != nil {
		return found, context.Cause(ctx)
	}
	if err := s.held.Take(s.opts.Dir); err != nil {
		return found, err
	}
	if there, err := durable.Exists(s.WorkDir()); err != nil || !there {
		if err == nil {
			err = s.disk.Mkdir(s.WorkDir())
		}
		if err != nil {
			return found, s.diskFailed("write to "+s.opts.Dir, err)
		}
	}
	run, locked, err := s.migrating(ctx)
	if err != nil {
		return found, err
	}
	used, err := s.inUse()
	if err != nil {
		return found, err
	}
	if locked {
		ours, err := durable.ReadFile(s.path(runName), maxRecord)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return found, s.diskFailed("read "+s.path(runName), err)
		}
		if !slices.Contains(strings.Fields(string(ours)), run) {
			return found, s.coded(copier.ErrLocked, BackendBusy, "look at "+migrationKey, fmt.Errorf("another migration holds %s", s.opts.Name))
		}
	} else if found.Record, err = s.record(); err != nil {
		return copier.State{}, err
	}
	found.InUse, s.placed = used && found.Record != nil, found.Record != nil
	switch {
	case s.placed:
	case used:
		err = s.coded(copier.ErrLocked, BackendUsed, "look at "+leaderKey, copier.ErrInUse)
	case !locked:
		err = s.empty(ctx)
	}
	return found, err
}

// record returns what Prepare or Amend has written last, or nil where there is nothing.
func (s *Sink) record() (*copier.Record, error) {
	data, err := durable.ReadFile(s.path(recordName), maxRecord)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	var r *copier.Record
	if err == nil {
		r, err = copier.DecodeRecord(data)
	}
	if err != nil {
		return nil, s.diskFailed("read "+s.path(recordName), err)
	}
	return r, nil
}

// empty returns an error unless nothing is in the backend.
func (s *Sink) empty(ctx context.Context) error {
	names, err := s.opts.Backend.List(ctx, "")
	if err != nil {
		return failed(ctx, "list", "", err)
	}
	if len(names) > 0 {
		return s.coded(copier.ErrDestination, BackendNotEmpty, "check "+s.opts.Name, fmt.Errorf("it holds %s already: %w", copier.NameKey([]byte(names[0])), fs.ErrExist))
	}
	return nil
}

// Stage implements [copier.Sink]. From here on no Vault starts on the backend.
func (s *Sink) Stage(ctx context.Context, runID string) (copier.Stage, error) {
	st := &stage{Sink: s, run: runID, committed: s.placed}
	if s.placed {
		return st, nil
	}
	// A record beside a backend that is not locked is that of a result in place.
	if err := s.remove(recordName); err != nil {
		return nil, err
	}
	// Whose core/migration is has to be known at any moment, and it stays where it is.
	was, _, err := s.migrating(ctx)
	if err != nil || was == runID {
		return st, err
	}
	if err := s.disk.Replace(s.path(runName), []byte(runID+"\n"+was)); err != nil {
		return nil, s.diskFailed("write "+s.path(runName), err)
	}
	return st, s.putMigration(ctx, runID)
}

// remove removes a name in the directory, durably.
func (s *Sink) remove(name string) error {
	err := s.disk.Remove(s.held.Root(), name)
	if err == nil {
		err = s.disk.Sync(s.opts.Dir)
	}
	if err != nil {
		return s.diskFailed("remove "+s.path(name), err)
	}
	return nil
}

// Vet implements [copier.Unordered]. What a backend refuses besides is told by its Put.
func (s *stage) Vet(entries *copier.Batch) (refused []error) {
	for i := range entries.Len() {
		if key := string(entries.Entry(i).Key); copier.IsLock(key) {
			refused = append(refused, failed(context.Background(), "put", key, errors.New("it is a lock, and not data")))
		}
	}
	return refused
}

// Clear implements [copier.Unordered].
func (s *stage) Clear(ctx context.Context) error {
	keys := make(chan string)
	group, gctx := errgroup.WithContext(ctx)
	group.Go(func() error {
		defer close(keys)
		return s.walk(gctx, "", keys)
	})
	for range s.opts.Parallel {
		group.Go(func() error {
			for key := range keys {
				if err := s.deleteKey(gctx, key); err != nil {
					return err
				}
			}
			return nil
		})
	}
	return group.Wait()
}

// walk sends each key in a folder, but for core/migration.
func (s *stage) walk(ctx context.Context, folder string, keys chan<- string) error {
	names, err := s.opts.Backend.List(ctx, folder)
	if err != nil {
		return failed(ctx, "list", folder, err)
	}
	for _, name := range names {
		key := folder + name
		switch {
		case key == migrationKey:
		case strings.HasSuffix(key, "/"):
			if err := s.walk(ctx, key, keys); err != nil {
				return err
			}
		default:
			select {
			case keys <- key:
			case <-ctx.Done():
				return context.Cause(ctx)
			}
		}
	}
	return nil
}

// Put implements [copier.Unordered].
func (s *stage) Put(ctx context.Context, entries *copier.Batch) error {
	group, gctx := errgroup.WithContext(ctx)
	group.SetLimit(s.opts.Parallel)
	for i := range entries.Len() {
		if gctx.Err() != nil {
			break
		}
		// A backend in memory keeps the value.
		e := &sdk.Entry{Key: string(entries.Entry(i).Key), Value: bytes.Clone(entries.Entry(i).Value)}
		group.Go(func() error {
			if err := s.opts.Backend.Put(gctx, e); err != nil {
				return failed(gctx, "put", e.Key, err)
			}
			return nil
		})
	}
	if err := group.Wait(); err != nil || ctx.Err() == nil {
		return err
	}
	return context.Cause(ctx)
}

// Prepare implements [copier.Stage].
func (s *stage) Prepare(ctx context.Context, r copier.Record) error {
	run, _, err := s.migrating(ctx)
	if err == nil && run != s.run {
		err = s.coded(copier.ErrLocked, BackendTaken, "look at "+migrationKey, errors.New("it is not this copy's any more"))
	}
	if err == nil {
		err = s.sync()
	}
	if err != nil {
		return err
	}
	return s.Amend(r)
}

func (s *Sink) sync() error {
	if s.opts.Sync == nil {
		return nil
	}
	if err := s.opts.Sync(); err != nil {
		return &copier.Error{Kind: copier.ErrDestination, Op: "sync " + s.opts.Name, Err: err}
	}
	return nil
}

// Commit implements [copier.Stage]: it deletes core/migration.
func (s *stage) Commit(ctx context.Context) error {
	s.committed = true // or it may be so
	err := s.deleteKey(ctx, migrationKey)
	if err == nil {
		err = s.sync()
	}
	if err != nil {
		if back := s.Rollback(); back != nil {
			err = errors.Join(err, copier.ErrUnconfirmed, back)
		}
		return err
	}
	return nil
}

// Amend implements [copier.Stage].
func (s *stage) Amend(r copier.Record) error {
	data, err := r.Encode()
	if err == nil {
		err = s.disk.Replace(s.path(recordName), data)
	}
	if err != nil {
		return s.diskFailed("write "+s.path(recordName), err)
	}
	return nil
}

// Rollback implements [copier.Stage]: no Vault starts from then on. That one has started
// meanwhile shows only where the backend elects leaders.
func (s *stage) Rollback() error {
	if !s.committed {
		return nil
	}
	used, err := s.inUse()
	if err == nil && used {
		err = s.coded(copier.ErrDestination, BackendUsed, "take back "+s.opts.Name, copier.ErrInUse)
	}
	if err == nil {
		err = s.putMigration(context.Background(), s.run)
	}
	if err == nil {
		s.committed = false
	}
	return err
}

// Close implements [copier.Stage]. Of what is not in place core/migration goes last, and
// then the file that says whose it is.
func (s *stage) Close(keep bool) error {
	if keep {
		return nil
	}
	if !s.committed {
		ctx := context.Background()
		if err := s.remove(recordName); err != nil {
			return err
		}
		if err := s.Clear(ctx); err != nil {
			return err
		}
		if err := s.deleteKey(ctx, migrationKey); err != nil {
			return err
		}
	}
	for _, name := range []string{workName, recordName, runName} {
		if err := s.remove(name); err != nil {
			return err
		}
	}
	return nil
}

// Close implements [copier.Sink]. The backend is the caller's to close.
func (s *Sink) Close() error {
	if !s.held.Held() {
		return nil
	}
	_ = s.disk.RemoveFile(s.WorkDir()) // it stays where it is not empty
	if err := s.held.Release(); err != nil {
		return s.diskFailed("unlock "+s.opts.Dir, err)
	}
	return nil
}

// Check implements [copier.Checker]: whether the backend answers, holds nothing, and no
// Vault is active on it. Open has done so at a copy.
func (s *Sink) Check(ctx context.Context, when copier.Moment) (found copier.Findings, _ error) {
	if when == copier.AtCopy {
		return nil, nil
	}
	const check = "destination"
	run, locked, err := s.migrating(ctx)
	used := false
	if err == nil {
		used, err = s.inUse()
	}
	if err == nil && !locked {
		err = s.empty(ctx)
	}
	switch {
	case err != nil:
		found.Fail(check, "", "%w", err)
	case used:
		found.Fail(check, "", "%w", s.coded(copier.ErrLocked, BackendUsed, "look at "+leaderKey, copier.ErrInUse))
	case locked && run == "":
		found.Fail(check, "", "%w", s.coded(copier.ErrLocked, BackendBusy, "look at "+migrationKey, errors.New("another migration holds it")))
	case locked:
		found.Warn(check, "unfinished", "%s holds a part of the copy of run %s", s.opts.Name, run).With("run", run)
	default:
		found.Pass(check, "%s holds nothing", s.opts.Name)
	}
	return found, nil
}
