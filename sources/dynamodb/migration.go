package dynamodb

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/dynamodb/types"

	"github.com/dyn2raft/dyn2raft/copier"
)

// ErrMigrationLock is returned when the table has a migration lock.
var ErrMigrationLock = errors.New("the entry " + migrationLockKey + " is in the table")

// migration is the JSON of the migration lock. Vault reads "start" only.
type migration struct {
	Start time.Time `json:"start"`
	// Run and Host are set on ours.
	Run  string `json:"dyn2raft_run,omitempty"`
	Host string `json:"dyn2raft_host,omitempty"`
	// Replaces is set on that of a copy which writes into the table: see LockToReplace.
	// Found is then the value that the lock had before, and Backup is set once what is in
	// the table is not what it was: the backup that has that.
	Replaces bool   `json:"dyn2raft_replaces,omitempty"`
	Found    string `json:"dyn2raft_found,omitempty"`
	Backup   string `json:"dyn2raft_backup,omitempty"`
	// Ended is set once its process has said that it does nothing more.
	Ended bool `json:"dyn2raft_ended,omitempty"`
}

// A migrationLock is the entry core/migration as it was read.
type migrationLock struct {
	migration
	value types.AttributeValue
	err   error // it can't be read
}

// migrationOf reads an item; it returns nil where there is none.
func migrationOf(item attributes) *migrationLock {
	if item == nil {
		return nil
	}
	m := &migrationLock{value: item[attrValue]}
	if m.err = json.Unmarshal(binaryOf(m.value), &m.migration); m.err != nil {
		m.migration = migration{}
	}
	return m
}

func (s *Source) readMigration(ctx context.Context, q request) (*migrationLock, error) {
	item, err := s.getItem(ctx, q, migrationLockKey)
	return migrationOf(item), err
}

// of reports whether the lock was put by the run with the given id.
func (m *migrationLock) of(run string) bool {
	return m != nil && m.err == nil && m.Run != "" && m.Run == run
}

// holder names who put the lock, as far as it tells.
func (m *migrationLock) holder() string {
	switch {
	case m.err != nil:
		return "somebody unknown: it can't be read"
	case m.Run != "":
		return holderPrefix + shown(m.Run) + " on " + shown(m.Host) + " at " + m.since()
	}
	return "`vault operator migrate` at " + m.since()
}

func (m *migrationLock) since() string { return m.Start.UTC().Format(time.RFC3339) }

func (s *Source) migrationLocked(m *migrationLock) error {
	const op = "take the migration lock"
	switch {
	case m.err != nil:
		return s.locked(op, LockUnknown, fmt.Errorf("%w, and can't be read: %w", ErrMigrationLock, m.err))
	case m.Backup != "":
		return s.halfReplaced(op, m)
	case m.Run != "":
		return &copier.Error{Kind: copier.ErrLocked, Op: op, Code: LockedByCopy, Facts: map[string]string{"run": m.Run},
			Err: fmt.Errorf("%w: dyn2raft run %s on %s took it at %s", ErrMigrationLock, shown(m.Run), shown(m.Host), m.since())}
	}
	return s.locked(op, LockedByMigration, fmt.Errorf("%w: `vault operator migrate` took it at %s", ErrMigrationLock, m.since()))
}

// lostMigration is the error of a run whose migration lock is not there any more.
func (s *Source) lostMigration() error {
	return s.locked("hold the migration lock", LockRemoved,
		fmt.Errorf("somebody removed it, so that a Vault may have been started: %w since it was read", copier.ErrMoved))
}

// deleteMigration deletes the migration lock on the condition that it has the
// given value, or none where that is nil. Where it has not, the error wraps
// [copier.ErrMoved].
func (s *Source) deleteMigration(ctx context.Context, value types.AttributeValue) error {
	c := change{key: migrationLockKey, cond: "attribute_not_exists(#Value)"}
	if value != nil {
		c.cond, c.values = "#Value = :value", attributes{":value": value}
	}
	got, err := s.write(ctx, c)
	if got.refused && !(got.repeated && got.there == nil) { // as in restoreLeader
		return s.lostMigration()
	}
	return err
}
