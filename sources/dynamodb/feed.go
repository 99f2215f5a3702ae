package dynamodb

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb/types"
	"github.com/aws/aws-sdk-go-v2/service/dynamodbstreams"
	streamtypes "github.com/aws/aws-sdk-go-v2/service/dynamodbstreams/types"

	"github.com/dyn2raft/dyn2raft/copier"
)

// A table is followed by its stream (DynamoDB Streams). A record of the stream is only
// a hint that an item has changed: what is there now is read again. So the order of
// records, their repetition, and the family of a stream's shards do not matter, nor what
// a stream's records hold. Completeness does:
//
//   - All shards are read, each from its start, or from behind the record that was
//     read last.
//   - The service trims records after 24 hours, and says nothing. So a shard that was not
//     read to its tip for 23 hours is a gap, and so is one that is gone before it was
//     read to its end.
//   - The stream, the table and the shards are looked at again every few seconds. A stream
//     that was disabled, or replaced, is a gap.
//   - That all writes from before a moment have been hinted at is known by sentinels,
//     see drain.go. It assumes that a shard has its records in the order in which they
//     were written, which the service promises for the records of one item only.

// ownPath is the first segment of the Paths of all items that a [Following] writes. Each
// has a Key that begins with "_" and a binary Identity, as Vault's locks have, so that
// no reader of a table takes it for an entry. Vault has nothing there, and finds no marker
// that would lead it there.
const ownPath = "_dyn2raft"

// owned reports whether the items of a Path are our own.
func owned(path string) bool { return path == ownPath || strings.HasPrefix(path, ownPath+"/") }

// ownKey is the Key of an item of a run below ownPath.
func ownKey(kind, run string) string { return "_" + kind + " " + url.PathEscape(run) }

// A note is the item that says what a run has set up, and must take away again.
type note struct {
	// Enabling is set before a stream is enabled: one that is not Before, the last
	// stream that the table had until then, is ours.
	Enabling bool   `json:"enabling,omitempty"`
	Before   string `json:"before,omitempty"`
	// ARN is the stream that is followed, and Ours says that the run has enabled it.
	ARN  string `json:"arn,omitempty"`
	Ours bool   `json:"ours,omitempty"`
	// Sentinels may be in the table.
	Sentinels []sentinels `json:"sentinels,omitempty"`
}

// A streamState is what a table's description says of its stream.
type streamState struct {
	on     bool
	arn    string   // of the latest one, which may be off
	keys   bool     // it has keys only
	table  string   // the table's incarnation
	copies []string // in other regions
	units  int64    // of read capacity that are provisioned; 0 on demand
}

func streamOf(t *types.TableDescription) streamState {
	st := streamState{arn: aws.ToString(t.LatestStreamArn), table: incarnation(t), copies: replicas(t)}
	if p := t.ProvisionedThroughput; p != nil {
		st.units = aws.ToInt64(p.ReadCapacityUnits)
	}
	if spec := t.StreamSpecification; spec != nil {
		st.on, st.keys = aws.ToBool(spec.StreamEnabled), spec.StreamViewType == types.StreamViewTypeKeysOnly
	}
	return st
}

func (s *Source) streamState(ctx context.Context) (streamState, error) {
	out, err := s.describe(ctx, request{})
	if err != nil {
		return streamState{}, err
	}
	return streamOf(out.Table), nil
}

// gap is the error of a feed that may have missed something.
func (s *Source) gap(format string, args ...any) error {
	return &copier.Error{Kind: copier.ErrSource, Op: "follow table " + s.opts.Table, Code: StreamGap,
		Err: fmt.Errorf("%w: %w", copier.ErrGap, fmt.Errorf(format, args...))}
}

// Follow implements [copier.Feed]. A table that has a stream is followed by that,
// whatever its records hold. On another one a stream of keys is enabled, where
// Options.EnableStream says so. From then on all that the source reads is bounded by
// Options.LiveShare, and what it reads of one Path by that share of what a partition
// serves, so no other call may be under way. A table with replicas in other regions is refused: its
// locks do not hold there. Where there is no position, so
// is a table that Take would refuse once all is read: one with a migration lock of
// somebody else's, or closed by another run.
func (s *Source) Follow(ctx context.Context, runID string, from copier.Position) (copier.Following, error) {
	st, err := s.streamState(ctx)
	if err != nil {
		return nil, err
	}
	if len(st.copies) > 0 {
		return nil, &copier.Error{Kind: copier.ErrSource, Op: "follow table " + s.opts.Table, Code: StreamReplicated,
			Err: fmt.Errorf("%w (%s)", ErrReplicated, strings.Join(st.copies, ", "))}
	}
	if from == nil {
		if err := s.mayTake(ctx, runID); err != nil {
			return nil, err
		}
	}
	n, err := s.readNote(ctx, runID)
	if err != nil {
		return nil, err
	}
	s.capacity = s.liveBucket(st.units)
	s.paths.set(partitionUnits * s.liveShare())
	f := newFollowing(s, runID)
	if from != nil {
		if err := f.resume(st, from); err != nil {
			return nil, err
		}
		f.note = n
		f.note.ARN, f.note.Ours = f.at.ARN, f.at.Ours
		return f, nil
	}
	if st, err = s.enable(ctx, runID, st, &n); err != nil {
		return nil, err
	}
	f.note, f.at = n, place{Table: st.table, ARN: st.arn, Ours: n.Ours, Shards: map[string]*shardPlace{}}
	if err := f.start(ctx); err != nil {
		_ = f.Close() // it has no error
		return nil, err
	}
	return f, nil
}

// liveShare is which share is taken of what a table, or a partition of it, serves.
func (s *Source) liveShare() float64 { return cmp.Or(s.opts.LiveShare, 0.25) }

// leastLive is how many units a second are taken at the least of a table that has them:
// Vault makes one with 5.
const leastLive = 5

// liveBucket bounds what is read while Vaults serve. The units are those that are
// provisioned, 0 on demand.
func (s *Source) liveBucket(units int64) *bucket {
	first, most := 1000.0, 10_000.0
	switch {
	case s.opts.ReadCapacity > 0:
		first, most = s.opts.ReadCapacity, s.opts.ReadCapacity
	case units > 0:
		// Of a small table the share would be less than what is written to it.
		most = max(min(float64(units), leastLive), float64(units)*s.liveShare())
		first = most
	}
	return newAdaptingBucket(first, most, !s.opts.EventuallyConsistent)
}

const (
	// streamPoll is how often a stream that is being enabled is looked at.
	streamPoll = time.Second
	// streamKnown is how long one that was just made may be unknown to DynamoDB Streams.
	streamKnown = time.Minute
)

// mayEnable asks whether a stream may be enabled.
func (s *Source) mayEnable(ctx context.Context) (bool, error) {
	if s.opts.EnableStream == nil {
		return false, nil
	}
	return s.opts.EnableStream(ctx)
}

// enable returns once the table has a stream that records, which n says whose it is.
func (s *Source) enable(ctx context.Context, run string, st streamState, n *note) (streamState, error) {
	ours, did := n.mine(st), false
	for !st.on || st.arn == "" || did && st.arn == n.Before {
		if !st.on && !did {
			may, err := s.mayEnable(ctx)
			if err != nil {
				return st, err
			}
			if !may {
				return st, &copier.Error{Kind: copier.ErrSource, Op: "follow table " + s.opts.Table, Code: StreamNotEnabled, Facts: map[string]string{"table": s.opts.Table},
					Err: errors.New("it has no stream, and none may be enabled")}
			}
			*n = note{Enabling: true, Before: st.arn, Sentinels: n.Sentinels}
			err = s.writeNote(ctx, run, *n)
			if err == nil {
				did, err = s.setStream(ctx, true)
			}
			if err != nil {
				return st, err
			}
			ours = did
		} else if err := sleep(ctx, streamPoll); err != nil {
			return st, err
		}
		var err error
		if st, err = s.streamState(ctx); err != nil {
			return st, err
		}
	}
	*n = note{ARN: st.arn, Ours: ours, Sentinels: n.Sentinels}
	if err := s.writeNote(ctx, run, *n); err != nil {
		return st, err
	}
	defer s.wait(copier.WaitStream, s.opts.Table, 0)()
	for began := time.Now(); ; {
		out, err := askStream(ctx, s, s.streams.DescribeStream, &dynamodbstreams.DescribeStreamInput{StreamArn: &st.arn, Limit: aws.Int32(1)})
		_, unknown := errors.AsType[*streamtypes.ResourceNotFoundException](err)
		switch {
		case unknown && time.Since(began) < streamKnown:
		case err != nil:
			return st, err
		case out.StreamDescription.StreamStatus == streamtypes.StreamStatusEnabled:
			return st, nil
		case out.StreamDescription.StreamStatus != streamtypes.StreamStatusEnabling:
			return st, s.gap("its stream %s is %s", st.arn, shown(string(out.StreamDescription.StreamStatus)))
		}
		if err := sleep(ctx, streamPoll); err != nil {
			return st, err
		}
	}
}

// mine reports whether the run that has left the note has enabled a table's stream.
func (n *note) mine(st streamState) bool {
	return st.on && (n.Ours && n.ARN == st.arn || n.Enabling && st.arn != n.Before && st.keys)
}

// setStream enables a stream of keys, or disables the stream. It reports whether that was
// done by this call: false means that it was so already.
func (s *Source) setStream(ctx context.Context, on bool) (bool, error) {
	for {
		spec := &types.StreamSpecification{StreamEnabled: &on}
		if on {
			spec.StreamViewType = types.StreamViewTypeKeysOnly
		}
		var q request
		_, err := ask(ctx, s, &q, s.client.UpdateTable, &dynamodb.UpdateTableInput{TableName: &s.opts.Table, StreamSpecification: spec})
		if err == nil {
			return true, nil
		}
		if ctx.Err() != nil {
			return false, err
		}
		st, again := s.streamState(ctx)
		switch _, inUse := errors.AsType[*types.ResourceInUseException](err); {
		case again != nil:
			return false, errors.Join(err, again)
		case st.on == on:
			return q.repeated(), nil // by a try whose answer was lost, if there was one
		case !inUse:
			return false, err
		}
		if err := sleep(ctx, streamPoll); err != nil { // something else of the table is being changed
			return false, err
		}
	}
}

// Unfollow implements [copier.Feed]: it disables the stream, if the run has enabled it and
// it is still the table's, and removes what the run has written.
func (s *Source) Unfollow(ctx context.Context, runID string, last copier.Position) error {
	var at place
	if last != nil {
		if err := json.Unmarshal(last, &at); err != nil {
			return &copier.Error{Kind: copier.ErrSource, Op: "read position", Err: err}
		}
	}
	st, err := s.streamState(ctx)
	if err != nil {
		return err
	}
	if at.Table != "" && at.Table != st.table {
		return nil // all of it is gone with the table
	}
	n, err := s.readNote(ctx, runID)
	if err != nil {
		return err
	}
	if n.mine(st) || st.on && at.Ours && at.ARN == st.arn {
		if _, err := s.setStream(ctx, false); err != nil {
			return err
		}
	}
	for _, batch := range n.Sentinels {
		if err := s.deleteSentinels(ctx, batch); err != nil {
			return err
		}
	}
	beats, err := ask(ctx, s, new(request), s.client.Query, s.keysOf(ownPath)) // there is one for each process
	if err != nil {
		return err
	}
	for _, item := range beats.Items {
		key, ok := item[attrKey].(*types.AttributeValueMemberS)
		if !ok || !strings.HasPrefix(key.Value, ownKey(beatKind, runID)+" ") {
			continue
		}
		if err := s.deleteOwn(ctx, ownPath, key.Value); err != nil {
			return err
		}
	}
	return s.deleteOwn(ctx, ownPath, ownKey(noteKind, runID))
}

// The kinds of items of a run below ownPath.
const (
	noteKind = "follows"
	beatKind = "beat"
)

// readNote returns what a run has noted, or an empty note.
func (s *Source) readNote(ctx context.Context, run string) (n note, err error) {
	item, err := s.getItem(ctx, request{}, ownPath+"/"+ownKey(noteKind, run))
	if err != nil || item == nil {
		return n, err
	}
	if err := json.Unmarshal(binaryOf(item[attrValue]), &n); err != nil {
		return n, &copier.Error{Kind: copier.ErrSource, Op: "read what run " + shown(run) + " has set up in table " + s.opts.Table, Err: err}
	}
	return n, nil
}

func (s *Source) writeNote(ctx context.Context, run string, n note) error {
	data, err := json.Marshal(n)
	if err != nil {
		return fmt.Errorf("write note: %w", err)
	}
	return s.putOwn(ctx, ownPath, ownKey(noteKind, run), run, data)
}

// putOwn puts an item of a run.
func (s *Source) putOwn(ctx context.Context, path, key, run string, value []byte) error {
	item := itemKey(path, key)
	item[attrIdentity] = &types.AttributeValueMemberB{Value: []byte(run)}
	item[attrValue] = &types.AttributeValueMemberB{Value: value}
	_, err := ask(ctx, s, new(request), s.client.PutItem, &dynamodb.PutItemInput{TableName: &s.opts.Table, Item: item})
	return err
}

func (s *Source) deleteOwn(ctx context.Context, path, key string) error {
	_, err := ask(ctx, s, new(request), s.client.DeleteItem, &dynamodb.DeleteItemInput{TableName: &s.opts.Table, Key: itemKey(path, key)})
	return err
}
