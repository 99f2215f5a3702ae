package dynamotest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"math/rand/v2"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb/types"
	"github.com/aws/aws-sdk-go-v2/service/dynamodbstreams"
	streams "github.com/aws/aws-sdk-go-v2/service/dynamodbstreams/types"
	"github.com/aws/smithy-go"
)

// A streamTest is a server with a Vault table, and clients that try once.
type streamTest struct {
	*testing.T
	srv     *Server
	db      *dynamodb.Client
	streams *dynamodbstreams.Client
	*Stream
}

// newStreamTest serves in a bubble, with a stream of keys.
func newStreamTest(t *testing.T, options Options, settings StreamSettings) *streamTest {
	t.Helper()
	srv, db := serveBubble(t, options)
	x := &streamTest{T: t, srv: srv, db: db}
	x.streams = srv.StreamsClient(func(o *dynamodbstreams.Options) {
		o.RetryMaxAttempts, o.HTTPClient = 1, db.Options().HTTPClient
	})
	x.ok(srv.CreateVaultTable(VaultTable))
	x.ok(srv.SetStreamSettings(VaultTable, settings))
	var err error
	x.Stream, err = srv.EnableStream(VaultTable, types.StreamViewTypeKeysOnly)
	x.ok(err)
	return x
}

func (x *streamTest) ok(err error) {
	x.Helper()
	if err != nil {
		x.Fatal(err)
	}
}

func (x *streamTest) is(what string, got, want any) {
	x.Helper()
	if fmt.Sprint(got) != fmt.Sprint(want) {
		x.Errorf("%s: got %v, want %v", what, got, want)
	}
}

func (x *streamTest) fails(code string, err error) {
	x.Helper()
	if api := smithy.APIError(nil); !errors.As(err, &api) || api.ErrorCode() != code {
		x.Errorf("got %v, want %s", err, code)
	}
}

// write writes an item with a value of its own.
func (x *streamTest) write(path, key string) {
	x.Helper()
	x.ok(x.srv.PutItem(VaultTable, attributes{"Path": &types.AttributeValueMemberS{Value: path}, "Key": &types.AttributeValueMemberS{Value: key},
		"V": &types.AttributeValueMemberN{Value: strconv.FormatUint(rand.Uint64(), 10)}}))
}

func (x *streamTest) settings(s StreamSettings) {
	x.Helper()
	x.ok(x.srv.SetStreamSettings(VaultTable, s))
}

func (x *streamTest) describe() *streams.StreamDescription {
	x.Helper()
	out, err := x.streams.DescribeStream(context.Background(), &dynamodbstreams.DescribeStreamInput{StreamArn: &x.ARN})
	x.ok(err)
	return out.StreamDescription
}

func (x *streamTest) iterator(shard string, kind streams.ShardIteratorType, number *string) *string {
	x.Helper()
	out, err := x.streams.GetShardIterator(context.Background(), &dynamodbstreams.GetShardIteratorInput{StreamArn: &x.ARN, ShardId: &shard, ShardIteratorType: kind, SequenceNumber: number})
	x.ok(err)
	return out.ShardIterator
}

// get returns the keys of a page, and its last sequence number.
func (x *streamTest) get(iterator *string) (keys string, number, next *string) {
	x.Helper()
	out, err := x.streams.GetRecords(context.Background(), &dynamodbstreams.GetRecordsInput{ShardIterator: iterator})
	x.ok(err)
	for _, r := range out.Records {
		keys += r.Dynamodb.Keys["Key"].(*streams.AttributeValueMemberS).Value
		number = r.Dynamodb.SequenceNumber
	}
	return keys, number, out.NextShardIterator
}

// all returns the keys that a shard holds.
func (x *streamTest) all(shard string) string {
	x.Helper()
	keys, _, _ := x.get(x.iterator(shard, streams.ShardIteratorTypeTrimHorizon, nil))
	return keys
}

// ofPath returns the id of the shard that records a Path.
func (x *streamTest) ofPath(path string) string {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.open(place{hash: hashOf(path)}).id
}

func TestStreamShards(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		x := newStreamTest(t, Options{}, StreamSettings{Shards: 4})
		x.is("shards", len(x.describe().Shards), 4)
		used := map[string]string{} // shard to keys
		for i := range 20 {
			path := "p" + strconv.Itoa(i)
			for _, key := range []string{"a", "b"} {
				x.write(path, key)
			}
			used[x.ofPath(path)] += "ab"
		}
		x.is("shards in use", len(used), 4)
		for shard, keys := range used {
			x.is("records of "+shard, x.all(shard), keys)
		}

		// A part of one Path alone.
		first, _, err := x.Split("hot", "m")
		x.ok(err)
		_, middle, err := x.Split("hot", "x")
		x.ok(err)
		for _, key := range []string{"l", "m", "w", "x"} {
			x.write("hot", key)
		}
		for i := range 20 {
			x.write("p"+strconv.Itoa(i), "c")
		}
		x.is("the middle of the Path", x.all(middle[0]), "mw")
		for _, sh := range x.describe().Shards {
			ended := sh.SequenceNumberRange.EndingSequenceNumber != nil
			x.is("ended", ended, *sh.ShardId == first || *sh.ShardId == aws.ToString(shardOf(x.describe(), middle[0]).ParentShardId))
			if parent := shardOf(x.describe(), aws.ToString(sh.ParentShardId)); parent != nil {
				if *parent.SequenceNumberRange.EndingSequenceNumber > *sh.SequenceNumberRange.StartingSequenceNumber && *sh.ShardId != middle[0] {
					x.Errorf("%s ends behind the beginning of its child", *parent.ShardId)
				}
			}
		}
		if _, _, err := x.Split("hot", "x"); err == nil {
			x.Error("split where a shard begins")
		}
		last := ""
		for iterator := x.iterator(first, streams.ShardIteratorTypeTrimHorizon, nil); iterator != nil; {
			_, _, iterator = x.get(iterator)
			last += "."
		}
		x.is("pages to the end", last, ".")

		before := len(x.describe().Shards)
		x.Roll()
		after := x.describe().Shards
		x.is("shards once they rolled over", len(after), before+len(x.openShards())) // one for each open one
		for _, sh := range after[before:] {
			x.is("parent's end", shardOf(x.describe(), *sh.ParentShardId).SequenceNumberRange.EndingSequenceNumber != nil, true)
		}

		x.settings(StreamSettings{OpenParents: true})
		for _, sh := range x.describe().Shards {
			x.is("looks open", sh.SequenceNumberRange.EndingSequenceNumber == nil, true)
		}
		_, _, next := x.get(x.iterator(first, streams.ShardIteratorTypeTrimHorizon, nil))
		x.is("next", next != nil, true)

		x.settings(StreamSettings{Hidden: []string{first}, Page: 3})
		var seen []string
		in := &dynamodbstreams.DescribeStreamInput{StreamArn: &x.ARN}
		for {
			out, err := x.streams.DescribeStream(context.Background(), in)
			x.ok(err)
			if n := len(out.StreamDescription.Shards); n > 3 {
				x.Errorf("%d shards on a page", n)
			}
			for _, sh := range out.StreamDescription.Shards {
				seen = append(seen, *sh.ShardId)
			}
			if in.ExclusiveStartShardId = out.StreamDescription.LastEvaluatedShardId; in.ExclusiveStartShardId == nil {
				break
			}
		}
		x.is("shards on pages", len(seen), len(after)-1)
		x.is("hidden", slices.Contains(seen, first), false)
		x.all(first)
	})
}

func (x *streamTest) openShards() (open []string) {
	for _, sh := range x.Shards() {
		if !sh.Ended {
			open = append(open, sh.ID)
		}
	}
	return open
}

func shardOf(d *streams.StreamDescription, id string) *streams.Shard {
	if i := slices.IndexFunc(d.Shards, func(sh streams.Shard) bool { return *sh.ShardId == id }); i >= 0 {
		return &d.Shards[i]
	}
	return nil
}

func TestStreamDelay(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		delays := map[string]time.Duration{"slow": 10 * time.Second, "lost": -1}
		delay := func(w StreamWrite) time.Duration { return delays[w.Key] }
		x := newStreamTest(t, Options{}, StreamSettings{Delay: delay})
		shard := x.Shards()[0].ID
		x.write("p", "fast")
		x.is("at once", x.all(shard), "fast")
		latest := x.iterator(shard, streams.ShardIteratorTypeLatest, nil)
		x.write("p", "slow")
		time.Sleep(time.Second)
		x.write("p", "fast")
		x.write("p", "lost")
		x.is("not yet", x.all(shard), "fast")
		time.Sleep(9 * time.Second)
		x.is("in order", x.all(shard), "fastslowfast")
		keys, _, _ := x.get(latest)
		x.is("from before they arrived", keys, "slowfast")

		x.settings(StreamSettings{Delay: delay, Reorder: true})
		x.write("p", "slow")
		time.Sleep(time.Second)
		x.write("p", "fast")
		delays["slow"] = 0
		x.write("p", "slow") // behind the first of it
		keys, _, _ = x.get(latest)
		x.is("others overtake", keys, "slowfast"+"fast")
		parent, children, err := x.Split("p", "")
		x.ok(err)
		x.write("p", "slow")
		x.is("parent with records on their way", shardOf(x.describe(), parent).SequenceNumberRange.EndingSequenceNumber == nil, true)
		x.is("child waits for the item's", x.all(children[1]), "")
		time.Sleep(9 * time.Second)
		keys, number, next := x.get(latest)
		x.is("all of the parent", keys, "slowfastfastslowslow")
		x.is("parent's end", next == nil, true)
		x.is("child", x.all(children[1]), "slow")
		_, childs, _ := x.get(x.iterator(children[1], streams.ShardIteratorTypeTrimHorizon, nil))
		if *childs <= *number {
			x.Errorf("child's record %s is not behind its parent's %s", *childs, *number)
		}

		// Disabled by somebody else: what was on its way arrives.
		delays["slow"] = 10 * time.Second
		x.write("p", "slow")
		x.ok(x.srv.DisableStream(VaultTable))
		x.write("p", "fast")
		time.Sleep(10 * time.Second)
		x.is("child", x.all(children[1]), "slowslow")
		x.is("status", x.describe().StreamStatus, streams.StreamStatusDisabled)
	})
}

func TestStreamAges(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		x := newStreamTest(t, Options{}, StreamSettings{})
		shard := x.Shards()[0].ID
		x.write("p", "a")
		old := x.iterator(shard, streams.ShardIteratorTypeTrimHorizon, nil)
		_, number, _ := x.get(old)
		time.Sleep(15 * time.Minute)
		keys, _, next := x.get(old)
		x.is("after 15 minutes", keys, "a")
		time.Sleep(time.Second)
		_, err := x.streams.GetRecords(context.Background(), &dynamodbstreams.GetRecordsInput{ShardIterator: old})
		x.fails("ExpiredIteratorException", err)
		x.get(next)

		time.Sleep(23 * time.Hour)
		x.write("p", "b")
		x.is("within a day", x.all(shard), "ab")
		time.Sleep(time.Hour)
		x.is("after a day", x.all(shard), "b")
		keys, _, _ = x.get(x.iterator(shard, streams.ShardIteratorTypeAtSequenceNumber, number))
		x.is("from what was trimmed", keys, "b")
		x.Trim()
		keys, _, _ = x.get(x.iterator(shard, streams.ShardIteratorTypeAfterSequenceNumber, number))
		x.is("trimmed at once", keys, "")
		x.settings(StreamSettings{TrimErrors: true})
		_, err = x.streams.GetRecords(context.Background(), &dynamodbstreams.GetRecordsInput{ShardIterator: x.iterator(shard, streams.ShardIteratorTypeAtSequenceNumber, number)})
		x.fails("TrimmedDataAccessException", err)
		x.get(x.iterator(shard, streams.ShardIteratorTypeTrimHorizon, nil))
		x.write("p", "c")
		x.is("and behind that", x.all(shard), "c")

		x.Roll()
		time.Sleep(24*time.Hour + time.Second)
		for i := range 10 {
			x.write("p", strconv.Itoa(i))
		}
		x.is("shards", len(x.describe().Shards), 1)
		x.is("the old one", shardOf(x.describe(), shard) == nil, true)
		_, err = x.streams.GetShardIterator(context.Background(), &dynamodbstreams.GetShardIteratorInput{StreamArn: &x.ARN, ShardId: &shard, ShardIteratorType: streams.ShardIteratorTypeTrimHorizon})
		x.fails("ResourceNotFoundException", err)
		x.is("records that are kept", x.Shards()[0].Records, 10)

		x.ok(x.srv.DisableStream(VaultTable))
		time.Sleep(24 * time.Hour)
		x.describe()
		time.Sleep(time.Second)
		_, err = x.streams.DescribeStream(context.Background(), &dynamodbstreams.DescribeStreamInput{StreamArn: &x.ARN})
		x.fails("ResourceNotFoundException", err)
	})
}

func TestStreamIsBeingEnabled(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		x := newStreamTest(t, Options{}, StreamSettings{Change: 5 * time.Second})
		status := func() types.TableStatus {
			out, err := x.db.DescribeTable(context.Background(), &dynamodb.DescribeTableInput{TableName: aws.String(VaultTable)})
			x.ok(err)
			return out.Table.TableStatus
		}
		update := func(on bool) error {
			spec := &types.StreamSpecification{StreamEnabled: &on}
			if on {
				spec.StreamViewType = types.StreamViewTypeKeysOnly
			}
			_, err := x.db.UpdateTable(context.Background(), &dynamodb.UpdateTableInput{TableName: aws.String(VaultTable), StreamSpecification: spec})
			return err
		}
		x.write("p", "before")
		x.is("table", status(), types.TableStatusUpdating)
		x.is("stream", x.describe().StreamStatus, streams.StreamStatusEnabling)
		x.is("shards", len(x.describe().Shards), 0)
		x.fails("ResourceInUseException", update(false))
		time.Sleep(5 * time.Second)
		x.write("p", "a")
		x.is("table", status(), types.TableStatusActive)
		x.is("stream", x.describe().StreamStatus, streams.StreamStatusEnabled)
		shard := *x.describe().Shards[0].ShardId
		x.is("records", x.all(shard), "a")
		x.ok(update(false))
		x.write("p", "after")
		x.is("table", status(), types.TableStatusUpdating)
		x.is("stream", x.describe().StreamStatus, streams.StreamStatusDisabling)
		x.fails("ResourceInUseException", update(true))
		time.Sleep(5 * time.Second)
		x.is("stream", x.describe().StreamStatus, streams.StreamStatusDisabled)
		x.is("records", x.all(shard), "a")
		x.ok(update(true))
		x.is("another", x.srv.Stream(VaultTable).ARN == x.ARN, false)
	})
}

func TestStreamFaults(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		x := newStreamTest(t, Options{Provisioned: true}, StreamSettings{})
		shard := x.Shards()[0].ID
		for kind, fits := range map[FaultKind]any{
			LimitExceeded: new(*streams.LimitExceededException), ExpiredIterator: new(*streams.ExpiredIteratorException),
			TrimmedDataAccess: new(*streams.TrimmedDataAccessException), InternalServerError: new(*streams.InternalServerError),
		} {
			x.write("p", "a")
			iterator := x.iterator(shard, streams.ShardIteratorTypeTrimHorizon, nil)
			x.srv.SetFaults(&Fault{Kind: kind, Operation: "GetRecords", Count: 1})
			if _, err := x.streams.GetRecords(context.Background(), &dynamodbstreams.GetRecordsInput{ShardIterator: iterator}); !errors.As(err, fits) {
				x.Errorf("%s: %v", kind, err)
			}
			x.get(iterator)
		}
		for _, kind := range []FaultKind{ThroughputExceeded, AccessDenied} {
			x.srv.SetFaults(&Fault{Kind: kind, Operation: "GetRecords", Count: 1})
			_, err := x.streams.GetRecords(context.Background(), &dynamodbstreams.GetRecordsInput{ShardIterator: x.iterator(shard, streams.ShardIteratorTypeLatest, nil)})
			x.fails(string(kind), err)
			if kind == AccessDenied && !strings.Contains(err.Error(), x.ARN) {
				x.Errorf("does not name the stream: %v", err)
			}
		}

		x.Trim()
		x.write("p", "a")
		x.srv.SetFaults(&Fault{Kind: EmptyPage, Operation: "GetRecords", Count: 1})
		keys, _, next := x.get(x.iterator(shard, streams.ShardIteratorTypeTrimHorizon, nil))
		x.is("on an empty page", keys, "")
		keys, _, _ = x.get(next)
		x.is("behind it", keys, "a")

		var refused int
		for range 20 {
			if _, err := x.streams.DescribeStream(context.Background(), &dynamodbstreams.DescribeStreamInput{StreamArn: &x.ARN}); err != nil {
				x.fails("LimitExceededException", err)
				refused++
			}
		}
		x.is("refused", refused, 10)

		for kind, sound := range map[FaultKind]bool{"": true, WrongCRC: false, CorruptByte: false} {
			x.srv.SetFaults(&Fault{Kind: kind, Operation: "GetRecords"})
			if kind == "" {
				x.srv.SetFaults()
			}
			body := `{"ShardIterator":"` + *x.iterator(shard, streams.ShardIteratorTypeTrimHorizon, nil) + `"}`
			request, err := http.NewRequest("POST", x.srv.URL, strings.NewReader(body))
			x.ok(err)
			request.Header.Set("X-Amz-Target", "DynamoDBStreams_20120810.GetRecords")
			request.Header.Set("Authorization", "any")
			response, err := x.db.Options().HTTPClient.Do(request)
			x.ok(err)
			got, err := io.ReadAll(response.Body)
			response.Body.Close()
			x.ok(err)
			x.is("CRC fits with "+string(kind), response.Header.Get("X-Amz-Crc32") == strconv.FormatUint(uint64(crc32.ChecksumIEEE(got)), 10), sound)
		}
	})
}

// The operations of one service are not those of the other, at the same endpoint.
func TestStreamTarget(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		x := newStreamTest(t, Options{}, StreamSettings{})
		for target, want := range map[string]bool{
			"DynamoDBStreams_20120810.ListStreams": true, "DynamoDB_20120810.ListTables": true,
			"DynamoDB_20120810.ListStreams": false, "DynamoDBStreams_20120810.ListTables": false, "DynamoDBStreams_20120810.": false,
		} {
			request, err := http.NewRequest("POST", x.srv.URL, strings.NewReader(`{}`))
			x.ok(err)
			request.Header.Set("X-Amz-Target", target)
			request.Header.Set("Authorization", "any")
			response, err := x.db.Options().HTTPClient.Do(request)
			x.ok(err)
			got, _ := io.ReadAll(response.Body)
			response.Body.Close()
			x.is(target, response.StatusCode == 200 && !bytes.Contains(got, []byte("UnknownOperation")), want)
		}
	})
}

// A page ends with the record that takes it to 1 MB, or with the thousandth.
func TestStreamPageSize(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		x := newStreamTest(t, Options{}, StreamSettings{})
		for range 1001 {
			x.write("p", "k")
		}
		keys, _, next := x.get(x.iterator(x.Shards()[0].ID, streams.ShardIteratorTypeTrimHorizon, nil))
		x.is("records", len(keys), 1000)
		keys, _, _ = x.get(next)
		x.is("and on", len(keys), 1)

		x.ok(x.srv.DisableStream(VaultTable))
		st, err := x.srv.EnableStream(VaultTable, types.StreamViewTypeNewImage)
		x.ok(err)
		x.Stream = st
		for i := range 5 {
			x.ok(x.srv.PutVaultEntry(VaultTable, "large/"+strconv.Itoa(i), make([]byte, 350<<10)))
		}
		keys, _, _ = x.get(x.iterator(x.Shards()[0].ID, streams.ShardIteratorTypeTrimHorizon, nil))
		x.is("large ones", keys, "0large/12") // the directory's marker is among them
	})
}

// What is changed by many at a time, while shards split, has one record each, and each
// item's are in order.
func TestStreamLosesNothing(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		const writers, writes, hot = 4, 200, 5
		seed := rand.Uint64()
		t.Logf("seed %d", seed)
		random := rand.New(rand.NewPCG(seed, 0))
		x := newStreamTest(t, Options{}, StreamSettings{Shards: 3, Reorder: true,
			Delay: func(StreamWrite) time.Duration { return time.Duration(random.IntN(2000)) * time.Millisecond }})
		x.ok(x.srv.DisableStream(VaultTable))
		var err error
		x.Stream, err = x.srv.EnableStream(VaultTable, types.StreamViewTypeNewImage)
		x.ok(err)
		var running sync.WaitGroup
		for w := range writers {
			running.Go(func() {
				for i := range writes {
					_, err := x.db.PutItem(context.Background(), &dynamodb.PutItemInput{TableName: aws.String(VaultTable), Item: attributes{
						"Path": &types.AttributeValueMemberS{Value: "p" + strconv.Itoa(i%hot)}, "Key": &types.AttributeValueMemberS{Value: strconv.Itoa(w)},
						"N": &types.AttributeValueMemberN{Value: strconv.Itoa(i)}}})
					if err != nil {
						x.Error(err)
					}
					time.Sleep(10 * time.Millisecond)
				}
			})
		}
		for i := range 6 {
			time.Sleep(300 * time.Millisecond)
			if _, _, err := x.Split("p"+strconv.Itoa(i%hot), strconv.Itoa(i)); err != nil {
				x.Error(err)
			}
			x.Roll()
		}
		running.Wait()
		time.Sleep(3 * time.Second)

		var records []streams.Record
		for _, sh := range x.Shards() {
			for iterator := x.iterator(sh.ID, streams.ShardIteratorTypeTrimHorizon, nil); iterator != nil; {
				out, err := x.streams.GetRecords(context.Background(), &dynamodbstreams.GetRecordsInput{ShardIterator: iterator, Limit: aws.Int32(7)})
				x.ok(err)
				if records = append(records, out.Records...); len(out.Records) == 0 {
					break
				}
				iterator = out.NextShardIterator
			}
		}
		slices.SortFunc(records, func(a, b streams.Record) int {
			return strings.Compare(*a.Dynamodb.SequenceNumber, *b.Dynamodb.SequenceNumber)
		})
		last, overtaken := map[string]int{}, 0
		for i, r := range records {
			image := r.Dynamodb.NewImage
			item := image["Path"].(*streams.AttributeValueMemberS).Value + "/" + image["Key"].(*streams.AttributeValueMemberS).Value
			n, _ := strconv.Atoi(image["N"].(*streams.AttributeValueMemberN).Value)
			if before, seen := last[item]; seen && n != before+hot || !seen && n >= hot {
				x.Errorf("%s: %d behind %d", item, n, before)
			}
			last[item] = n
			if i > 0 && r.Dynamodb.ApproximateCreationDateTime.Before(*records[i-1].Dynamodb.ApproximateCreationDateTime) {
				overtaken++
			}
		}
		x.is("records", len(records), writers*writes)
		x.is("reordered", overtaken > 0, true)
	})
}

// A batch of reads that a table has no capacity for is left, as a batch of writes is.
func TestBatchGetLeavesKeys(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		x := newStreamTest(t, Options{Provisioned: true}, StreamSettings{})
		var keys []map[string]types.AttributeValue
		for i := range 30 {
			x.write("p", strconv.Itoa(i))
			keys = append(keys, attributes{"Path": &types.AttributeValueMemberS{Value: "p"}, "Key": &types.AttributeValueMemberS{Value: strconv.Itoa(i)}})
		}
		get := func() (int, types.KeysAndAttributes, error) {
			out, err := x.db.BatchGetItem(context.Background(), &dynamodb.BatchGetItemInput{RequestItems: map[string]types.KeysAndAttributes{VaultTable: {Keys: keys, ConsistentRead: aws.Bool(true)}}})
			if err != nil {
				return 0, types.KeysAndAttributes{}, err
			}
			return len(out.Responses[VaultTable]), out.UnprocessedKeys[VaultTable], nil
		}
		x.ok(x.srv.SetCapacity(VaultTable, 10, 10))
		read, left, err := get()
		x.ok(err)
		x.is("read", fmt.Sprint(read, len(left.Keys), aws.ToBool(left.ConsistentRead)), "10 20 true")
		_, _, err = get()
		x.fails("ProvisionedThroughputExceededException", err)
		x.ok(x.srv.SetCapacity(VaultTable, 0, 0))
		x.srv.SetFaults(&Fault{Kind: Unprocessed, Operation: "BatchGetItem", Count: 1})
		read, left, err = get()
		x.ok(err)
		x.is("by a fault", fmt.Sprint(read, len(left.Keys)), "15 15")
	})
}

func TestStreamsNeedTheirTable(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		s, _ := serveBubble(t, Options{})
		for what, err := range map[string]error{
			"settings": s.SetStreamSettings("no-such", StreamSettings{}),
			"disable":  s.DisableStream("no-such"),
		} {
			if err == nil {
				t.Errorf("%s of no table", what)
			}
		}
		if _, err := s.EnableStream("no-such", types.StreamViewTypeKeysOnly); err == nil || s.Stream("no-such") != nil {
			t.Error("a stream of no table")
		}
	})
}
