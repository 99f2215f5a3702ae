package dynamodb

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb/types"
	"github.com/aws/smithy-go"

	"github.com/dyn2raft/dyn2raft/copier"
)

var _ copier.Checker = (*Sink)(nil)

// checkTime bounds how long checks wait for answers.
const checkTime = 2 * soonTime

// Check implements [copier.Checker]: whether the table can be made or is there and free,
// which IAM actions are missing, and what bounds the writing. An error says that the table
// can't be reached.
func (s *Sink) Check(ctx context.Context, when copier.Moment) (found copier.Findings, err error) {
	ctx, cancel := bounded(ctx, checkTime)
	defer cancel()
	var table *types.TableDescription
	if err = s.reach(ctx); err == nil {
		table, err = s.describe(ctx)
	}
	switch {
	case isDenied(err):
		found.Fail("destination-access", "", "the IAM action dynamodb:DescribeTable on table %s is not allowed", s.opts.Table)
		return found, nil
	case err != nil:
		found.Fail("destination", "", "%w", err)
		return found, err
	}
	if when != copier.AtCopy { // which has opened it
		s.checkState(ctx, table, &found)
	}
	s.checkAccess(ctx, table, &found)
	s.checkCapacity(table, &found)
	return found, nil
}

// checkState looks at what is in the table, as Open does, but waits for nobody.
func (s *Sink) checkState(ctx context.Context, table *types.TableDescription, found *copier.Findings) {
	const check = "destination"
	fail := func(code string, err error) { found.Fail(check, code, "%w", err) }
	if table == nil && s.old != nil {
		found.Fail(check, "", "%w", &copier.Error{Kind: copier.ErrDestination, Op: "check table " + s.opts.Table, Code: TableNotThere, Facts: s.where(), Err: errors.New("it is not there, and what is in it is to be replaced")})
		return
	}
	if table == nil {
		found.Pass(check, "there is no table %s yet: the copy makes it", s.opts.Table)
		return
	}
	if table.TableStatus != types.TableStatusActive && table.TableStatus != types.TableStatusUpdating {
		found.Fail(check, "status", "table %s is %s", s.opts.Table, table.TableStatus)
		return
	}
	if err := s.checkSchema(table); err != nil {
		fail("", err)
		return
	}
	l, err := s.readLocks(ctx)
	if err != nil {
		fail("unread", err)
		return
	}
	if s.old != nil {
		s.checkOld(ctx, l, found)
		return
	}
	run, staged := l.staged()
	switch holder := l.foreign(); {
	case holder != "":
		fail("", s.busyWith(l))
	case staged:
		found.Warn(check, "unfinished", "table %s is locked for run %s, which copies to it or has until it ended", s.opts.Table, run).With("run", run)
	case l.record != nil:
		found.Fail(check, "finished", "table %s holds a complete copy that has not cleaned up behind itself", s.opts.Table)
	default:
		if err := s.empty(ctx); err != nil {
			fail("", err)
			return
		}
		found.Pass(check, "table %s is there, has the keys of Vault's storage, and is empty", s.opts.Table)
	}
}

// checkAccess tries the IAM actions that a copy needs. What writes has a condition that
// never holds, or deletes what is not there. Of a table that is missing AWS tells too
// whether an action is allowed, but for the one that makes it.
func (s *Sink) checkAccess(ctx context.Context, table *types.TableDescription, found *copier.Findings) {
	const check = "destination-access"
	key := at(migrationLockKey)
	never, names := aws.String("attribute_exists(#Path) AND attribute_not_exists(#Path)"), map[string]string{"#Path": attrPath}
	name := &s.opts.Table
	probes := []struct {
		action string
		writes bool
		try    func() error
	}{
		{"Scan", false, func() error {
			_, err := s.client.Scan(ctx, &dynamodb.ScanInput{TableName: name, Limit: aws.Int32(1)})
			return err
		}},
		{"Query", false, func() error { // how Vaults announce themselves, and, later, large Paths
			_, err := s.client.Query(ctx, &dynamodb.QueryInput{TableName: name, Limit: aws.Int32(1), KeyConditionExpression: aws.String("#Path = :path"),
				ExpressionAttributeNames: map[string]string{"#Path": attrPath}, ExpressionAttributeValues: attributes{":path": &types.AttributeValueMemberS{Value: "core"}}})
			return err
		}},
		{"GetItem", false, func() error {
			_, err := s.client.GetItem(ctx, &dynamodb.GetItemInput{TableName: name, Key: key})
			return err
		}},
		{"PutItem", true, func() error {
			_, err := s.client.PutItem(ctx, &dynamodb.PutItemInput{TableName: name, Item: key, ConditionExpression: never, ExpressionAttributeNames: names})
			return err
		}},
		{"UpdateItem", true, func() error {
			_, err := s.client.UpdateItem(ctx, &dynamodb.UpdateItemInput{TableName: name, Key: key, UpdateExpression: aws.String("REMOVE #Value"),
				ConditionExpression: never, ExpressionAttributeNames: map[string]string{"#Path": attrPath, "#Value": attrValue}})
			return err
		}},
		{"DeleteItem", true, func() error {
			_, err := s.client.DeleteItem(ctx, &dynamodb.DeleteItemInput{TableName: name, Key: key, ConditionExpression: never, ExpressionAttributeNames: names})
			return err
		}},
		{"BatchWriteItem", true, func() error {
			gone := types.WriteRequest{DeleteRequest: &types.DeleteRequest{Key: itemKey("core", "_dyn2raft_probe")}}
			_, err := s.client.BatchWriteItem(ctx, &dynamodb.BatchWriteItemInput{RequestItems: map[string][]types.WriteRequest{*name: {gone}}})
			return err
		}},
	}
	var allowed, missing []string
	for _, p := range probes {
		if p.writes && s.opts.NoWriteProbes {
			continue
		}
		err := p.try()
		_, refused := errors.AsType[*types.ConditionalCheckFailedException](err)
		_, none := errors.AsType[*types.ResourceNotFoundException](err)
		switch {
		case isDenied(err):
			missing = append(missing, "dynamodb:"+p.action)
		case err == nil, refused, none && table == nil:
			allowed = append(allowed, p.action)
		default:
			found.Fail(check, "untried", "%w", s.fail(ctx, p.action, err))
		}
	}
	untried := ""
	if s.opts.NoWriteProbes {
		untried = "; those that write were not tried"
	}
	if table == nil {
		untried += "; dynamodb:CreateTable was not tried"
	}
	if len(missing) > 0 {
		found.Fail(check, "", "these IAM actions on table %s are not allowed: %s%s", s.opts.Table, strings.Join(missing, ", "), untried)
	} else {
		found.Pass(check, "allowed: %s%s", strings.Join(allowed, ", "), untried)
	}
}

// checkCapacity says what bounds the writing.
func (s *Sink) checkCapacity(table *types.TableDescription, found *copier.Findings) {
	const check = "destination-capacity"
	units, onDemand := s.opts.WriteUnits, s.opts.WriteUnits == 0
	if table != nil {
		onDemand = table.BillingModeSummary != nil && table.BillingModeSummary.BillingMode == types.BillingModePayPerRequest
		if p := table.ProvisionedThroughput; p != nil && !onDemand {
			units = aws.ToInt64(p.WriteCapacityUnits)
		}
	}
	switch limit := s.opts.WriteCapacity; {
	case !onDemand && limit > float64(units):
		found.Warn(check, "", "the table has %d write units a second, less than the %g that the copy may ask for", units, limit)
	case !onDemand && units < fewUnits:
		found.Warn(check, "few", "the table has %d write units a second, and an entry takes one for each 1,024 bytes: 20,000 small entries take about %d min",
			units, 20_000/60/max(units, 1))
	case !onDemand:
		found.Pass(check, "provisioned: %d write units a second", units)
	default:
		text := "on demand: a new table takes 4,000 write units a second at first, and 1,000 of one Path's"
		if limit > 0 {
			text = fmt.Sprintf("on demand, and no more than %g write units a second are asked for", limit)
		}
		found.Pass(check, "%s", text)
	}
}

// fewUnits are so few write units a second that a copy takes long.
const fewUnits = 500

// isDenied reports whether an error says that an IAM action is not allowed.
func isDenied(err error) bool {
	api, ok := errors.AsType[smithy.APIError](err)
	return ok && api.ErrorCode() == "AccessDeniedException"
}
