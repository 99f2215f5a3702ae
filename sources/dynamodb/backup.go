package dynamodb

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb/types"
	"github.com/aws/smithy-go"

	"github.com/dyn2raft/dyn2raft/copier"
)

// ErrBackup is returned when an on-demand backup of the table can't be made.
var ErrBackup = errors.New("no backup")

// backupName follows the naming rules of the DynamoDB API reference.
var backupName = regexp.MustCompile(`^[a-zA-Z0-9_.-]{3,255}$`)

// CheckBackupName returns an error that wraps [copier.ErrConfig] for a name that
// no backup can have.
func CheckBackupName(name string) error {
	if backupName.MatchString(name) {
		return nil
	}
	return &copier.Error{Kind: copier.ErrConfig, Op: "name the backup",
		Err: fmt.Errorf("%q is no name of a backup, which has 3 to 255 letters, digits, _ . or -", name)}
}

// How long Snapshot waits before it asks again whether the backup is there: at
// first, and at the most.
const (
	backupPoll    = 200 * time.Millisecond
	backupLongest = 5 * time.Second
)

// Snapshot makes an on-demand backup of the table under the given name, waits
// until it is available, and returns its ARN. That is also returned with an
// error where the backup was begun. It reads nothing of the table and consumes
// none of its capacity. The service makes a backup within seconds, whatever the
// table's size. An error wraps ErrBackup and [copier.ErrSource], or
// [copier.ErrConfig] for a bad name.
func (s *Source) Snapshot(ctx context.Context, name string) (arn string, err error) {
	if err := CheckBackupName(name); err != nil {
		return "", err
	}
	q := briefly
	out, err := ask(ctx, s, &q, s.client.CreateBackup, &dynamodb.CreateBackupInput{TableName: &s.opts.Table, BackupName: &name})
	if err == nil && (out.BackupDetails == nil || aws.ToString(out.BackupDetails.BackupArn) == "") {
		err = s.fail(ctx, q.action, errors.New("the response names no backup"))
	}
	if err != nil {
		return "", s.backupFailed(q.action, name, err)
	}
	arn = *out.BackupDetails.BackupArn
	status := out.BackupDetails.BackupStatus
	if status != types.BackupStatusAvailable {
		defer s.wait(copier.WaitBackup, name, 0)()
	}
	for wait := backupPoll; status != types.BackupStatusAvailable; wait = min(wait*2, backupLongest) {
		if status != types.BackupStatusCreating {
			return arn, s.backupFailed(q.action, name, s.fail(ctx, q.action, fmt.Errorf("its status is %s, expected AVAILABLE", status)))
		}
		if err := sleep(ctx, wait); err != nil {
			return arn, err
		}
		q = briefly
		out, err := ask(ctx, s, &q, s.client.DescribeBackup, &dynamodb.DescribeBackupInput{BackupArn: &arn})
		if err == nil && (out.BackupDescription == nil || out.BackupDescription.BackupDetails == nil) {
			err = s.fail(ctx, q.action, errors.New("the response describes no backup"))
		}
		if err != nil {
			return arn, s.backupFailed(q.action, name, err)
		}
		status = out.BackupDescription.BackupDetails.BackupStatus
	}
	return arn, nil
}

// backupFailed is what an error of fail means for a backup.
func (s *Source) backupFailed(action, name string, err error) error {
	e, ok := errors.AsType[*copier.Error](err)
	if !ok {
		return err // the context's
	}
	out := &copier.Error{Kind: copier.ErrSource, Op: "back up table " + s.opts.Table + " as " + name,
		Code: BackupFailed, Err: fmt.Errorf("%w: %w", ErrBackup, e)}
	switch {
	case IsDenied(err):
		out.Code, out.Facts = BackupDenied, map[string]string{"action": deniedAction(action, apiMessage(err)), "table": s.opts.Table}
	case isUnsupported(err):
		out.Code = BackupUnsupported
	}
	return out
}

// isUnsupported reports whether the endpoint does not know an operation, as AWS's own
// emulator does not know those of backups.
func isUnsupported(err error) bool {
	var api smithy.APIError
	return errors.As(err, &api) && api.ErrorCode() == "UnknownOperationException"
}

func apiMessage(err error) string {
	var api smithy.APIError
	if !errors.As(err, &api) {
		return ""
	}
	return api.ErrorMessage()
}

// A BackupInfo is one on-demand backup of the table.
type BackupInfo struct {
	Name    string    `json:"name"`
	ARN     string    `json:"arn"`
	Created time.Time `json:"created"`
}

// Backups returns the table's backups that can be restored, the oldest first:
// those on demand, and those of AWS Backup.
func (s *Source) Backups(ctx context.Context) ([]BackupInfo, error) {
	var out []BackupInfo
	in := &dynamodb.ListBackupsInput{TableName: &s.opts.Table, BackupType: types.BackupTypeFilterAll}
	var way trail
	for {
		q := briefly
		page, err := ask(ctx, s, &q, s.client.ListBackups, in)
		if err != nil {
			return nil, err
		}
		for _, b := range page.BackupSummaries {
			if b.BackupStatus == types.BackupStatusAvailable {
				out = append(out, BackupInfo{aws.ToString(b.BackupName), aws.ToString(b.BackupArn), aws.ToTime(b.BackupCreationDateTime)})
			}
		}
		last := aws.ToString(page.LastEvaluatedBackupArn)
		if last == "" {
			slices.SortFunc(out, func(a, b BackupInfo) int { return a.Created.Compare(b.Created) })
			return out, nil
		}
		if way, err = way.step(last); err != nil {
			return nil, s.fail(ctx, q.action, err)
		}
		in.ExclusiveStartBackupArn = &last
	}
}
