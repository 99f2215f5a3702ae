package dynamodb

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	awsmiddleware "github.com/aws/aws-sdk-go-v2/aws/middleware"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb/types"
	"github.com/aws/smithy-go"

	"github.com/dyn2raft/dyn2raft/copier"
)

// A Survey is what the service says of a table, beyond what a copy needs.
type Survey struct {
	copier.Info
	// Problem is why [Source.Open] would refuse the table: its status or
	// its schema. Nil is a table that can be copied.
	Problem error
	Status  string
	// OnDemand says that the table has no provisioned capacity. Otherwise
	// ReadUnits and WriteUnits are what it has, in units a second.
	OnDemand              bool
	ReadUnits, WriteUnits int64
	// WarmReadUnits is how many read units a second the table can serve at once, where it
	// has, or is given, so many; 0 where the service does not tell.
	WarmReadUnits      int64
	DeletionProtection bool
	// Stream is what the table's stream holds, as "NEW_AND_OLD_IMAGES", and StreamARN is
	// its name; empty where there is none.
	Stream, StreamARN string
	// Replicas are the other regions of a global table.
	Replicas []string
	// Skew is how far our clock is ahead of the service's, which sends whole seconds.
	// Clock says that it sent its time.
	Skew  time.Duration
	Clock bool
}

// Survey asks the service about the table, before anything else is asked of the
// source. It changes nothing. An error says that the table can't be reached, or may
// not be described. Why a table can't be copied is in Problem.
func (s *Source) Survey(ctx context.Context) (*Survey, error) {
	_, problem := s.Open(ctx)
	if e, ok := errors.AsType[*copier.Error](problem); problem != nil && (!ok || e.Op != "read table "+s.opts.Table) {
		return nil, problem
	}
	out, err := s.describe(ctx, briefly)
	if err != nil {
		return nil, err
	}
	t := out.Table
	v := &Survey{
		Info: copier.Info{Name: s.opts.Table, ID: aws.ToString(t.TableArn), Items: aws.ToInt64(t.ItemCount),
			Bytes: aws.ToInt64(t.TableSizeBytes), Incarnation: incarnation(t)},
		Problem:            problem,
		Status:             string(t.TableStatus),
		DeletionProtection: aws.ToBool(t.DeletionProtectionEnabled),
	}
	if b := t.BillingModeSummary; b != nil {
		v.OnDemand = b.BillingMode == types.BillingModePayPerRequest
	}
	if p := t.ProvisionedThroughput; p != nil && !v.OnDemand {
		v.ReadUnits, v.WriteUnits = aws.ToInt64(p.ReadCapacityUnits), aws.ToInt64(p.WriteCapacityUnits)
	}
	if w := t.WarmThroughput; w != nil {
		v.WarmReadUnits = aws.ToInt64(w.ReadUnitsPerSecond)
	}
	if t.StreamSpecification != nil && aws.ToBool(t.StreamSpecification.StreamEnabled) {
		v.Stream, v.StreamARN = string(t.StreamSpecification.StreamViewType), aws.ToString(t.LatestStreamArn)
	}
	v.Replicas = replicas(t)
	if at, ok := awsmiddleware.GetServerTime(out.ResultMetadata); ok {
		if here, ok := awsmiddleware.GetResponseAt(out.ResultMetadata); ok {
			v.Skew, v.Clock = here.Sub(at), true
		}
	}
	return v, nil
}

// replicas are the other regions of a global table.
func replicas(t *types.TableDescription) (regions []string) {
	for _, r := range t.Replicas {
		regions = append(regions, aws.ToString(r.RegionName))
	}
	slices.Sort(regions)
	return regions
}

// Recovery returns since when, and until when, the table can be restored to any
// point in time; zero times where that is switched off.
func (s *Source) Recovery(ctx context.Context) (from, until time.Time, err error) {
	q := briefly
	out, err := ask(ctx, s, &q, s.client.DescribeContinuousBackups, &dynamodb.DescribeContinuousBackupsInput{TableName: &s.opts.Table})
	if err != nil {
		return from, until, err
	}
	d := out.ContinuousBackupsDescription
	if d == nil || d.PointInTimeRecoveryDescription == nil ||
		d.PointInTimeRecoveryDescription.PointInTimeRecoveryStatus != types.PointInTimeRecoveryStatusEnabled {
		return from, until, nil
	}
	p := d.PointInTimeRecoveryDescription
	return aws.ToTime(p.EarliestRestorableDateTime), aws.ToTime(p.LatestRestorableDateTime), nil
}

// An Access is whether the credentials may do what a copy does.
type Access struct {
	// Action is an IAM action without its prefix, such as "Scan".
	Action string
	// Writes says that the action would change the table.
	Writes bool
	// Err is nil where it is allowed.
	Err error
}

// Denied reports whether the action is not allowed. It is false where something else
// went wrong.
func (a Access) Denied() bool { return IsDenied(a.Err) }

// IsDenied reports whether an error says that an IAM action is not allowed.
func IsDenied(err error) bool {
	var api smithy.APIError
	return errors.As(err, &api) && api.ErrorCode() == "AccessDeniedException"
}

// Probe tries each action that a copy needs besides DescribeTable, and changes
// nothing: what it writes has the condition that the entry core/migration both
// is there and is not. Each request costs a unit or less. With readOnly it sends
// nothing that would write, whatever its condition.
func (s *Source) Probe(ctx context.Context, readOnly bool) []Access {
	path, key := KeyItem(migrationLockKey)
	item := itemKey(path, key)
	never := aws.String("attribute_exists(#path) AND attribute_not_exists(#path)")
	names := map[string]string{"#path": attrPath}
	out := []Access{
		access(ctx, s, false, s.client.Scan, &dynamodb.ScanInput{TableName: &s.opts.Table, Limit: aws.Int32(1)}),
		access(ctx, s, false, s.client.Query, &dynamodb.QueryInput{TableName: &s.opts.Table, Limit: aws.Int32(1),
			KeyConditionExpression: aws.String("#path = :path"), ExpressionAttributeNames: names,
			ExpressionAttributeValues: map[string]types.AttributeValue{":path": item[attrPath]}}),
		access(ctx, s, false, s.client.GetItem, &dynamodb.GetItemInput{TableName: &s.opts.Table, Key: item}),
	}
	if readOnly {
		return out
	}
	return append(out,
		access(ctx, s, true, s.client.PutItem, &dynamodb.PutItemInput{TableName: &s.opts.Table, Item: item,
			ConditionExpression: never, ExpressionAttributeNames: names}),
		access(ctx, s, true, s.client.UpdateItem, &dynamodb.UpdateItemInput{TableName: &s.opts.Table, Key: item,
			UpdateExpression: aws.String("REMOVE #found"), ConditionExpression: never,
			ExpressionAttributeNames: map[string]string{"#path": attrPath, "#found": attrFound}}),
		access(ctx, s, true, s.client.DeleteItem, &dynamodb.DeleteItemInput{TableName: &s.opts.Table, Key: item,
			ConditionExpression: never, ExpressionAttributeNames: names}))
}

// access tries one action. Who may not do it is told so before the condition is
// looked at.
func access[I, O any](ctx context.Context, s *Source, writes bool, call func(context.Context, *I, ...func(*dynamodb.Options)) (*O, error), in *I) Access {
	q := briefly
	_, err := ask(ctx, s, &q, call, in)
	if _, refused := conditionFailed(err); refused {
		err = nil
	}
	return Access{Action: q.action, Writes: writes, Err: err}
}

// Locks are the locks in a table, each nil where there is none.
type Locks struct {
	// Leader is Vault's leader lock, and Migration the entry core/migration.
	Leader, Migration *LockHolder
	// Doubt is why the leader lock does not show whether a Vault is running,
	// and empty where it does.
	Doubt string
}

// A LockHolder is whose a lock is.
type LockHolder struct {
	// Name says who holds the lock, as far as the lock says.
	Name string
	// Run is the id of the dyn2raft run that holds it, else empty.
	Run string
	// Expires is when a leader lock expires, or has expired, by its own word;
	// Expired compares that with our clock. That it has expired does not prove
	// that its holder has stopped.
	Expires time.Time
	Expired bool
}

// Locks reads the locks and changes nothing.
func (s *Source) Locks(ctx context.Context) (out Locks, err error) {
	leader, err := s.readLeader(ctx, briefly)
	if err != nil {
		return out, err
	}
	if leader != nil {
		out.Leader = &LockHolder{Name: leader.holder(), Expired: leader.expired()}
		if run, ours := leader.run(); ours {
			out.Leader.Run = run
		}
		out.Leader.Expires, _ = leader.expiry()
	}
	m, err := s.readMigration(ctx, briefly)
	if err != nil {
		return out, err
	}
	if m != nil {
		out.Migration = &LockHolder{Name: m.holder(), Run: m.Run}
	}
	if _, ours := leader.run(); ours {
		leader = leader.found()
	}
	if out.Doubt, err = s.doubt(ctx, briefly, leader); err != nil {
		return out, err
	}
	return out, nil
}

// Value returns what is stored under a Vault key, and false where nothing is.
func (s *Source) Value(ctx context.Context, vaultKey string) ([]byte, bool, error) {
	item, err := s.getItem(ctx, briefly, vaultKey)
	if err != nil || item == nil {
		return nil, false, err
	}
	return binaryOf(item[attrValue]), true, nil
}

// Sampler returns a source of the same table for reading a sample of it: it
// reads eventually consistent, consumes at most the given read capacity units
// a second, 0 being no cap, and tells its own events. It is prepared.
func (s *Source) Sampler(ctx context.Context, readCapacity float64, events func(copier.Event)) (*Source, error) {
	opts := s.opts
	opts.EventuallyConsistent, opts.ReadCapacity, opts.Events = true, readCapacity, events
	out, err := New(ctx, opts)
	if err != nil {
		return nil, err
	}
	if _, err := out.Open(ctx); err != nil {
		return nil, fmt.Errorf("prepare the sample: %w", err)
	}
	return out, nil
}
