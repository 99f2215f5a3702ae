package dynamodb

import (
	"cmp"
	"context"
	"errors"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb/types"
	"github.com/aws/aws-sdk-go-v2/service/dynamodbstreams"
	streamtypes "github.com/aws/aws-sdk-go-v2/service/dynamodbstreams/types"
	"github.com/aws/smithy-go"
	"github.com/dustin/go-humanize"
	"github.com/dustin/go-humanize/english"

	"github.com/dyn2raft/dyn2raft/copier"
)

// CheckLive makes the checks of a table that is to be followed while Vaults write to it,
// beside those of Check: its stream, its replicas, the actions that follow it, and what
// following costs. It changes nothing. The survey is of this table.
func (s *Source) CheckLive(ctx context.Context, survey *Survey) copier.Findings {
	var found copier.Findings
	ctx, cancel := context.WithTimeout(ctx, liveChecks)
	defer cancel()
	if len(survey.Replicas) > 0 {
		found.Fail("live-replicas", "", "the table is global, with replicas in %s, and can't be copied live: a lock here does not hold there", strings.Join(survey.Replicas, ", "))
	} else {
		found.Pass("live-replicas", "none: the table is in this region only")
	}
	open := 1 // shards at least
	if survey.Stream != "" {
		shards, err := s.shards(ctx, survey.StreamARN)
		switch {
		case IsDenied(err): // which is said below
		case err != nil:
			found.Fail("live-stream", "unread", "%w", err)
			return found
		default:
			open = openShards(shards)
			found.Warn("live-stream", "", "the table has a stream (%s) with %s, which a live copy follows and leaves as it is: somebody may read it, and DynamoDB serves two readers of a shard",
				survey.Stream, english.Plural(open, "open shard", "")).With("stream", survey.StreamARN)
		}
		s.checkFollowing(ctx, survey, shards, &found)
	} else {
		found.Note("live-stream", "none", "the table has no stream: a live copy asks, then enables one of keys, and disables that one again")
		s.checkFollowing(ctx, survey, nil, &found)
	}
	if most := s.liveBucket(survey.ReadUnits).rate; !survey.OnDemand && most < enoughLive {
		found.Warn("live-capacity", "", "the table has %s read units a second, of which a live copy takes at most %g: it catches up with fewer changed entries than that a second, and never with more",
			humanize.Comma(survey.ReadUnits), most)
	}
	hourly := open * int(time.Hour/shardPause)
	found.Note("live-cost", "", "following makes up to %s streams read requests an hour for %s of its stream at present. "+
		"It also makes a strongly consistent read of each entry that changes (a read unit for each 4 KB, BatchGetItem), and a write every %s. See the price page of DynamoDB for your region",
		humanize.Comma(int64(hourly)), english.Plural(open, "open shard", ""), cmp.Or(s.opts.Heartbeat, beatEvery))
	return found
}

// enoughLive is how many read units a second are enough for what a busy Vault writes.
const enoughLive = 50

// liveChecks is how long the checks may take: the streams have an endpoint of their own,
// which may be out of reach.
const liveChecks = 20 * time.Second

// openShards counts those that have not ended.
func openShards(shards []streamtypes.Shard) (n int) {
	for _, sh := range shards {
		if r := sh.SequenceNumberRange; r == nil || r.EndingSequenceNumber == nil {
			n++
		}
	}
	return max(n, 1)
}

// checkFollowing tries the actions that follow a table. Without a stream it asks about one
// that does not exist: AWS says whether an action is allowed before it looks.
func (s *Source) checkFollowing(ctx context.Context, survey *Survey, shards []streamtypes.Shard, found *copier.Findings) {
	var allowed, missing, untried []string
	for _, a := range s.probeFollowing(ctx, survey, shards) {
		switch {
		case a.Err == nil:
			allowed = append(allowed, a.Action)
		case a.Denied():
			missing = append(missing, "dynamodb:"+a.Action)
		case errors.Is(a.Err, errUntried):
			untried = append(untried, a.Action)
		default:
			found.Fail("live-access", "untried", "%w", a.Err)
			return
		}
	}
	and := ""
	if len(untried) > 0 {
		and = "; not tried: " + strings.Join(untried, ", ")
	}
	if len(missing) > 0 {
		found.Fail("live-access", "", "these IAM actions, with which a live copy follows the table, are not allowed: %s%s", strings.Join(missing, ", "), and)
	} else if len(allowed) > 0 {
		found.Pass("live-access", "allowed: %s%s", strings.Join(allowed, ", "), and)
	}
}

// errUntried is the error of an action that can't be tried without changing something.
var errUntried = errors.New("not tried")

// noLabel and noShard are of no stream, in the form of one, and noIndex is of no table.
const (
	noLabel = "1970-01-01T00:00:00.000"
	noShard = "shardId-00000000000000000000-00000000"
	noIndex = "dyn2raft-probes-and-has-no-such-index"
)

// probeFollowing tries each action that follows the table by its stream, if it has one. A
// page of records is read where it has a shard, and costs one streams read request.
func (s *Source) probeFollowing(ctx context.Context, survey *Survey, shards []streamtypes.Shard) []Access {
	path, key := KeyItem(migrationLockKey)
	out := []Access{access(ctx, s, false, s.client.BatchGetItem, &dynamodb.BatchGetItemInput{
		RequestItems: map[string]types.KeysAndAttributes{s.opts.Table: {Keys: []map[string]types.AttributeValue{itemKey(path, key)}}}})}
	arn, shard := survey.StreamARN, noShard
	if arn == "" {
		arn = survey.ID + "/stream/" + noLabel
	}
	if len(shards) > 0 {
		shard = aws.ToString(shards[len(shards)-1].ShardId) // the one that has begun last
	}
	tried := func(action string, err error) {
		if _, none := errors.AsType[*streamtypes.ResourceNotFoundException](err); none && len(shards) == 0 {
			err = nil
		}
		out = append(out, Access{Action: action, Err: err})
	}
	_, err := askStream(ctx, s, s.streams.DescribeStream, &dynamodbstreams.DescribeStreamInput{StreamArn: &arn, Limit: aws.Int32(1)})
	tried("DescribeStream", err)
	it, err := askStream(ctx, s, s.streams.GetShardIterator, &dynamodbstreams.GetShardIteratorInput{StreamArn: &arn, ShardId: &shard, ShardIteratorType: streamtypes.ShardIteratorTypeLatest})
	tried("GetShardIterator", err)
	err = errUntried // it takes an iterator
	if it != nil && it.ShardIterator != nil {
		_, err = askStream(ctx, s, s.streams.GetRecords, &dynamodbstreams.GetRecordsInput{ShardIterator: it.ShardIterator, Limit: aws.Int32(1)})
	}
	tried("GetRecords", err)
	if survey.Stream != "" { // which is used as it is
		return out
	}
	if s.opts.NoWriteProbes {
		return append(out, Access{Action: "UpdateTable", Writes: true, Err: errUntried})
	}
	// The index that it would delete is none: so nothing can change, whatever else is
	// done to the table meanwhile.
	update := access(ctx, s, true, s.client.UpdateTable, &dynamodb.UpdateTableInput{TableName: &s.opts.Table,
		GlobalSecondaryIndexUpdates: []types.GlobalSecondaryIndexUpdate{{Delete: &types.DeleteGlobalSecondaryIndexAction{IndexName: aws.String(noIndex)}}}})
	if api := smithy.APIError(nil); errors.As(update.Err, &api) && (api.ErrorCode() == "ResourceNotFoundException" || api.ErrorCode() == "ValidationException") {
		update.Err = nil
	}
	return append(out, update)
}
