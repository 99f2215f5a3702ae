package dynamodb

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/aws/aws-sdk-go-v2/service/dynamodb/types"

	"github.com/dyn2raft/dyn2raft/copier"
)

// A Replacement is the lease of a table whose content a copy replaces, in place. It is
// used from one goroutine.
type Replacement struct{ *lease }

// LockToReplace is [Source.Lock] for who writes to the table. Beside the locks of the run
// it takes over those of the runs in takeOver, or of a run whose id begins with one of
// theirs and a space: one that has left the table locked on purpose, or was killed while
// it replaced the same table. One that renews its leader lock is refused all the same.
// What the table was locked by goes back into it where the lease ends with
// [copier.EndFailed].
func (s *Source) LockToReplace(ctx context.Context, runID string, takeOver []string, lost func(error)) (*Replacement, error) {
	l := &lease{s: s, run: runID, identity: []byte(runID), lost: lost, replaces: true, takeOver: takeOver}
	if err := l.acquire(ctx); err != nil {
		return nil, err
	}
	return &Replacement{l}, nil
}

// takesOver reports whether a migration lock is of a run that is taken over.
func (l *lease) takesOver(m *migrationLock) bool {
	return slices.ContainsFunc(l.takeOver, func(run string) bool {
		return m.of(run) || m.err == nil && run != "" && strings.HasPrefix(m.Run, run+" ")
	})
}

// over makes m, which is about to be put, follow the lock that is taken over.
func (m *migration) over(was *migrationLock) {
	if was.Replaces { // by a process that was killed: it has found what this one finds
		m.Found, m.Backup = was.Found, was.Backup
		return
	}
	m.Found = string(binaryOf(was.value))
}

// Backup is the backup that Begin was given, in this process or an earlier one; "" where
// nothing in the table was changed.
func (r *Replacement) Backup() string { return r.put.Backup }

// Begin puts on record, in the table, that its content is about to be changed, and which
// backup has it as it was. From then on the locks stay until the lease ends with
// [copier.EndComplete], the leader lock for years, and [Source.Reset] refuses to remove
// them: a Vault that stands by would otherwise serve what is neither.
func (r *Replacement) Begin(ctx context.Context, backup string) error {
	m := r.put
	m.Backup = backup
	if err := r.rewrite(ctx, m); err != nil {
		return err
	}
	r.closed.Store(true)
	_, got, err := r.renew(ctx)
	if got.refused {
		return r.s.lostLeader(got.there)
	}
	return err
}

// Still makes sure, before something is written, that the table is still held: the leader
// lock was renewed less than 10 s ago, by a clock that runs on while the machine sleeps, or
// is now. A process that was stopped for longer may have lost it to another one, and its
// error wraps [copier.ErrLocked] and [copier.ErrMoved]. It may be called from any goroutine.
func (r *Replacement) Still(ctx context.Context) error { return r.still(ctx) }

// rewrite changes what our migration lock says.
func (l *lease) rewrite(ctx context.Context, m migration) error {
	data, err := json.Marshal(m)
	if err != nil {
		return fmt.Errorf("write migration lock: %w", err)
	}
	value := &types.AttributeValueMemberB{Value: data}
	got, err := l.s.write(ctx, change{key: migrationLockKey, put: attributes{attrValue: value}, cond: "#Value = :was", values: attributes{":was": l.value}})
	if got.refused && !(got.repeated && bytes.Equal(binaryOf(got.there[attrValue]), data)) {
		return l.s.lostMigration()
	}
	if err == nil {
		l.put, l.value = m, value
	}
	return err
}

// ended says in the locks, which stay, that this process does nothing more. Where that
// fails the next one waits until it is certain.
func (l *lease) ended(ctx context.Context) {
	if l.replaces && l.migration == ours {
		m := l.put
		m.Ended = true
		_ = l.rewrite(ctx, m)
	}
}

// restoreMigration puts back what the migration lock was found as, or removes it.
func (l *lease) restoreMigration(ctx context.Context, value types.AttributeValue) error {
	if l.put.Found == "" {
		return l.s.deleteMigration(ctx, value)
	}
	found := &types.AttributeValueMemberB{Value: []byte(l.put.Found)}
	got, err := l.s.write(ctx, change{key: migrationLockKey, put: attributes{attrValue: found}, cond: "#Value = :was", values: attributes{":was": value}})
	if got.refused && !(got.repeated && string(binaryOf(got.there[attrValue])) == l.put.Found) {
		return l.s.lostMigration()
	}
	return err
}

// ErrHalfReplaced is returned, together with [copier.ErrLocked], when a copy has begun to
// replace the table's content, and did not end: it is neither what it was nor what it was
// to become.
var ErrHalfReplaced = errors.New("a copy has begun to replace what is in the table, and has not ended")

// halfReplaced refuses a table that is neither its old content nor its new one.
func (s *Source) halfReplaced(op string, m *migrationLock) error {
	return &copier.Error{Kind: copier.ErrLocked, Op: op, Code: HalfReplaced, Facts: map[string]string{"table": s.opts.Table, "backup": m.Backup},
		Err: fmt.Errorf("%w: dyn2raft run %s on %s, at %s; as it was it is in the backup %s", ErrHalfReplaced, shown(m.Run), shown(m.Host), m.since(), shown(m.Backup))}
}

// FindBackup returns the on-demand backup, or that of AWS Backup, of this table that has
// the given ARN. An error wraps [ErrBackup] where the table has none that can be restored.
func (s *Source) FindBackup(ctx context.Context, arn string) (BackupInfo, error) {
	list, err := s.Backups(ctx)
	if err != nil {
		return BackupInfo{}, err
	}
	i := slices.IndexFunc(list, func(b BackupInfo) bool { return b.ARN == arn })
	if i < 0 {
		return BackupInfo{}, &copier.Error{Kind: copier.ErrSource, Op: "look for a backup of table " + s.opts.Table, Code: BackupMissing,
			Facts: map[string]string{"table": s.opts.Table}, Err: fmt.Errorf("%w: among its %d backups that can be restored there is none with the ARN %q", ErrBackup, len(list), arn)}
	}
	return list[i], nil
}
