package dynamodb

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/dyn2raft/dyn2raft/copier"
	"github.com/dyn2raft/dyn2raft/sources/dynamodb/dynamotest"
)

func newBackupEnv(t *testing.T, takes time.Duration) *env {
	t.Helper()
	return bubbleEnv(t, dynamotest.Options{BackupTime: takes})
}

func TestBackupWaits(t *testing.T) { inBubble(t, backupWaits) }

func backupWaits(t *testing.T) {
	const takes = 500 * time.Millisecond
	e := newBackupEnv(t, takes)
	s, rec := e.source()
	began := time.Now()
	arn, err := s.Snapshot(t.Context(), "before-raft")
	e.ok(err)
	if took := time.Since(began); took < takes {
		t.Errorf("it returned after %v, before the backup was available", took)
	}
	if len(eventsOf[copier.Waiting](rec)) == 0 {
		t.Error("nobody was told of the wait")
	}
	list, err := s.Backups(t.Context())
	e.ok(err)
	if len(list) != 1 || list[0].ARN != arn || list[0].Name != "before-raft" || time.Since(list[0].Created) > time.Minute {
		t.Errorf("%q is not among %+v", arn, list)
	}
	if n := e.srv.Requests(); n["Scan"]+n["GetItem"]+n["Query"] != 0 {
		t.Errorf("something was read: %v", n)
	}
}

// A backup that is not available is not one.
func TestBackupsLeavesOutTheUnfinished(t *testing.T) { inBubble(t, backupsLeavesOutTheUnfinished) }

func backupsLeavesOutTheUnfinished(t *testing.T) {
	e := newBackupEnv(t, time.Hour)
	s, _ := e.source()
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	if arn, err := s.Snapshot(ctx, "slow"); !errors.Is(err, context.DeadlineExceeded) || arn == "" {
		t.Errorf("%q, %v", arn, err)
	}
	if list, err := s.Backups(t.Context()); err != nil || len(list) != 0 {
		t.Errorf("%v, %v", list, err)
	}
}

// Those of AWS Backup are only listed on demand.
func TestBackupsOfAWSBackup(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	e.ok(e.srv.SetTableDetails(e.table, dynamotest.TableDetails{AWSBackup: time.Now()}))
	s, _ := e.source()
	if list, err := s.Backups(t.Context()); err != nil || len(list) != 1 || list[0].Name != "aws-backup" {
		t.Errorf("%v, %v", list, err)
	}
}

func TestBackupDenied(t *testing.T) { inBubble(t, backupDenied) }

func backupDenied(t *testing.T) {
	for _, action := range []string{"CreateBackup", "DescribeBackup"} {
		e := newBackupEnv(t, time.Minute)
		e.srv.SetFaults(&dynamotest.Fault{Kind: dynamotest.AccessDenied, Operation: action})
		s, _ := e.source()
		arn, err := s.Snapshot(t.Context(), "before-raft")
		if !errors.Is(err, ErrBackup) || !errors.Is(err, copier.ErrSource) || coded(err) != "backup-denied map[action:dynamodb:"+action+" table:"+e.table+"]" {
			t.Errorf("%s: %v, %v", action, err, coded(err))
		}
		if (arn != "") != (action == "DescribeBackup") {
			t.Errorf("%s: ARN %q", action, arn)
		}
	}
}

func TestBackupFails(t *testing.T) {
	t.Parallel()
	e := newBackupEnv(t, 0)
	for _, name := range []string{"", "ab", "with space", strings.Repeat("x", 256)} {
		s, _ := e.source()
		if _, err := s.Snapshot(t.Context(), name); !errors.Is(err, copier.ErrConfig) || !strings.Contains(err.Error(), "3 to 255 letters") {
			t.Errorf("%q: %v", name, err)
		}
	}
	if n := e.srv.Requests()["CreateBackup"]; n != 0 {
		t.Errorf("%d requests for names that no backup can have", n)
	}
	s, _ := e.source(func(o *Options) { o.Table = "no-such" })
	if _, err := s.Snapshot(t.Context(), "before-raft"); !errors.Is(err, ErrBackup) || coded(err) != "backup-failed map[]" {
		t.Errorf("no table: %v", err)
	}
}
