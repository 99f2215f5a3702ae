package dynamotest_test

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb/types"
	"github.com/aws/aws-sdk-go-v2/service/dynamodbstreams"
	streams "github.com/aws/aws-sdk-go-v2/service/dynamodbstreams/types"

	"github.com/dyn2raft/dyn2raft/sources/dynamodb/dynamotest/local"
)

func (x *fixture) describe() *types.TableDescription {
	x.Helper()
	out, err := x.db.DescribeTable(x.Context(), &dynamodb.DescribeTableInput{TableName: &x.table})
	x.must(err)
	return out.Table
}

func (x *fixture) setStream(spec types.StreamSpecification) error {
	_, err := x.db.UpdateTable(x.Context(), &dynamodb.UpdateTableInput{TableName: &x.table, StreamSpecification: &spec})
	return err
}

// enable enables a stream and returns its ARN.
func (x *fixture) enable(view types.StreamViewType) string {
	x.Helper()
	x.must(x.setStream(types.StreamSpecification{StreamEnabled: aws.Bool(true), StreamViewType: view}))
	arn := *x.describe().LatestStreamArn
	for deadline := time.Now().Add(2 * time.Minute); x.stream(arn).StreamStatus != streams.StreamStatusEnabled && time.Now().Before(deadline); time.Sleep(50 * time.Millisecond) {
	}
	x.is("stream", x.stream(arn).StreamStatus, streams.StreamStatusEnabled)
	return arn
}

func (x *fixture) stream(arn string) *streams.StreamDescription {
	x.Helper()
	out, err := x.streams.DescribeStream(x.Context(), &dynamodbstreams.DescribeStreamInput{StreamArn: &arn})
	x.must(err)
	return out.StreamDescription
}

func (x *fixture) iterator(arn, shard string, kind streams.ShardIteratorType, number *string) *string {
	x.Helper()
	out, err := x.streams.GetShardIterator(x.Context(), &dynamodbstreams.GetShardIteratorInput{StreamArn: &arn, ShardId: &shard, ShardIteratorType: kind, SequenceNumber: number})
	x.must(err)
	return out.ShardIterator
}

func (x *fixture) page(iterator *string, limit *int32) ([]streams.Record, *string) {
	x.Helper()
	out, err := x.streams.GetRecords(x.Context(), &dynamodbstreams.GetRecordsInput{ShardIterator: iterator, Limit: limit})
	x.must(err)
	return out.Records, out.NextShardIterator
}

// records reads all shards from their beginnings until there are n records.
func (x *fixture) records(arn string, n int) []streams.Record {
	x.Helper()
	for deadline := time.Now().Add(2 * time.Minute); ; time.Sleep(50 * time.Millisecond) {
		var all []streams.Record
		for _, shard := range x.stream(arn).Shards {
			iterator := x.iterator(arn, *shard.ShardId, streams.ShardIteratorTypeTrimHorizon, nil)
			for iterator != nil {
				records, next := x.page(iterator, nil)
				all, iterator = append(all, records...), next
				if len(records) == 0 {
					break
				}
			}
		}
		if len(all) >= n || time.Now().After(deadline) {
			x.is("records", len(all), n)
			return all
		}
	}
}

// change renders a record: the event, the key, the images.
func change(r streams.Record) string {
	image := func(i map[string]streams.AttributeValue) string {
		var b strings.Builder
		for _, name := range slices.Sorted(maps.Keys(i)) {
			text, _ := json.Marshal(i[name])
			fmt.Fprintf(&b, "%s%s", name, text)
		}
		return b.String()
	}
	return fmt.Sprintf("%s %s new=%s old=%s", r.EventName, image(r.Dynamodb.Keys), image(r.Dynamodb.NewImage), image(r.Dynamodb.OldImage))
}

// streamCases are those of DynamoDB Streams, and of BatchGetItem.
var streamCases = map[string]func(*fixture){
	"stream, enabled and disabled": func(x *fixture) {
		if d := x.describe(); d.StreamSpecification != nil || d.LatestStreamArn != nil || d.LatestStreamLabel != nil {
			x.Errorf("a table without a stream: %+v", d)
		}
		x.fails("ValidationException", x.setStream(types.StreamSpecification{StreamEnabled: aws.Bool(false)}), "disable none")
		x.fails("ValidationException", x.setStream(types.StreamSpecification{StreamEnabled: aws.Bool(true)}), "no view")
		x.fails("ValidationException", x.setStream(types.StreamSpecification{StreamEnabled: aws.Bool(false), StreamViewType: types.StreamViewTypeKeysOnly}), "disable with a view")

		first := x.enable(types.StreamViewTypeKeysOnly)
		d := x.describe()
		x.is("enabled", *d.StreamSpecification.StreamEnabled, true)
		x.is("view", d.StreamSpecification.StreamViewType, types.StreamViewTypeKeysOnly)
		x.is("ARN", *d.LatestStreamArn, *d.TableArn+"/stream/"+*d.LatestStreamLabel)
		if _, err := time.Parse("2006-01-02T15:04:05.000", *d.LatestStreamLabel); err != nil {
			x.Error(err)
		}
		x.fails("ValidationException", x.setStream(types.StreamSpecification{StreamEnabled: aws.Bool(true), StreamViewType: types.StreamViewTypeKeysOnly}), "enable twice")
		s := x.stream(first)
		x.is("stream", fmt.Sprint(*s.StreamArn, *s.StreamLabel, s.StreamStatus, s.StreamViewType, *s.TableName),
			fmt.Sprint(first, *d.LatestStreamLabel, streams.StreamStatusEnabled, streams.StreamViewTypeKeysOnly, x.table))
		x.is("keys", fmt.Sprint(*s.KeySchema[0].AttributeName, s.KeySchema[0].KeyType, *s.KeySchema[1].AttributeName, s.KeySchema[1].KeyType), "PathHASHKeyRANGE")
		if age := time.Since(*s.CreationRequestDateTime); age < -time.Minute || age > time.Hour {
			x.Errorf("created %v ago", age)
		}
		x.is("shards", len(s.Shards), 1)
		x.is("parent", s.Shards[0].ParentShardId == nil, true)
		x.is("ending", s.Shards[0].SequenceNumberRange.EndingSequenceNumber == nil, true)

		x.put(at("p", "k"))
		x.must(x.setStream(types.StreamSpecification{StreamEnabled: aws.Bool(false)}))
		d = x.describe()
		x.is("specification of a disabled one", d.StreamSpecification == nil, true)
		x.is("latest", aws.ToString(d.LatestStreamArn), first)
		s = x.stream(first)
		x.is("status", s.StreamStatus, streams.StreamStatusDisabled)
		x.is("ended", s.Shards[0].SequenceNumberRange.EndingSequenceNumber != nil, true)
		x.put(at("p", "after"))
		x.records(first, 1)
		records, next := x.page(x.iterator(first, *s.Shards[0].ShardId, streams.ShardIteratorTypeTrimHorizon, nil), nil)
		x.is("what was written before", len(records), 1)
		x.is("and no more", next == nil, true)
		_, next = x.page(x.iterator(first, *s.Shards[0].ShardId, streams.ShardIteratorTypeLatest, nil), nil)
		x.is("the end", next == nil, true)
		number := s.Shards[0].SequenceNumberRange.EndingSequenceNumber
		if last := *records[0].Dynamodb.SequenceNumber; *number < last {
			x.Errorf("ends with %s, behind it is %s", *number, last)
		}

		second := x.enable(types.StreamViewTypeNewImage)
		x.is("another ARN", first == second, false)
		x.records(second, 0)
		x.records(first, 1)
		var listed []string
		in := &dynamodbstreams.ListStreamsInput{TableName: &x.table, Limit: aws.Int32(1)}
		for {
			out, err := x.streams.ListStreams(x.Context(), in)
			x.must(err)
			for _, s := range out.Streams {
				listed = append(listed, *s.StreamArn)
				x.is("stream", *s.TableName+*s.StreamLabel, x.table+(*s.StreamArn)[strings.LastIndexByte(*s.StreamArn, '/')+1:])
			}
			if in.ExclusiveStartStreamArn = out.LastEvaluatedStreamArn; out.LastEvaluatedStreamArn == nil {
				break
			}
		}
		x.is("listed", listed, []string{first, second})
		out, err := x.streams.ListStreams(x.Context(), &dynamodbstreams.ListStreamsInput{TableName: aws.String("no-such-table")})
		x.must(err)
		x.is("streams of no table", len(out.Streams), 0)
	},

	"stream views": func(x *fixture) {
		for view, want := range map[types.StreamViewType][]string{
			types.StreamViewTypeKeysOnly:        {"INSERT K new= old=", "MODIFY K new= old=", "REMOVE K new= old="},
			types.StreamViewTypeNewImage:        {"INSERT K new=1 old=", "MODIFY K new=2 old=", "REMOVE K new= old="},
			types.StreamViewTypeOldImage:        {"INSERT K new= old=", "MODIFY K new= old=1", "REMOVE K new= old=2"},
			types.StreamViewTypeNewAndOldImages: {"INSERT K new=1 old=", "MODIFY K new=2 old=1", "REMOVE K new= old=2"},
		} {
			arn := x.enable(view)
			one, two := with(at("p", "k"), "V", num("1")), with(at("p", "k"), "V", str("größe 🔑"), "B", bin("\x00"), "Null", null())
			x.put(one)
			x.put(two)
			_, err := x.db.DeleteItem(x.Context(), &dynamodb.DeleteItemInput{TableName: &x.table, Key: at("p", "k")})
			x.must(err)
			key := `Key{"Value":"k"}Path{"Value":"p"}`
			expand := strings.NewReplacer(" K ", " "+key+" ", "=1", "="+key+`V{"Value":"1"}`, "=2", `=B{"Value":"AA=="}Key{"Value":"k"}Null{"Value":true}Path{"Value":"p"}V{"Value":"größe 🔑"}`)
			var sizes []int64
			for i, r := range x.records(arn, 3) {
				x.is(string(view), change(r), expand.Replace(want[i]))
				x.is("view", r.Dynamodb.StreamViewType, view)
				x.is("origin", *r.EventSource+*r.EventVersion, "aws:dynamodb1.1")
				x.is("identity", r.UserIdentity == nil, true)
				if age := time.Since(*r.Dynamodb.ApproximateCreationDateTime); age < -time.Minute || age > time.Hour {
					x.Errorf("created %v ago", age)
				}
				sizes = append(sizes, *r.Dynamodb.SizeBytes)
			}
			x.is(string(view)+" sizes", sizes, map[types.StreamViewType][]int64{
				types.StreamViewTypeKeysOnly: {9, 9, 9}, types.StreamViewTypeNewImage: {21, 38, 9}, types.StreamViewTypeOldImage: {9, 21, 38}, types.StreamViewTypeNewAndOldImages: {21, 50, 38},
			}[view])
			x.must(x.setStream(types.StreamSpecification{StreamEnabled: aws.Bool(false)}))
		}
	},

	"stream of what changes": func(x *fixture) {
		x.put(with(at("p", "before"), "V", num("1")))
		arn := x.enable(types.StreamViewTypeKeysOnly)
		put := func(i item) {
			_, err := x.db.PutItem(x.Context(), &dynamodb.PutItemInput{TableName: &x.table, Item: i})
			x.must(err)
		}
		update := func(key, expression string, values item) {
			_, err := x.db.UpdateItem(x.Context(), &dynamodb.UpdateItemInput{TableName: &x.table, Key: at("p", key), UpdateExpression: &expression,
				ExpressionAttributeNames: map[string]string{"#v": "V"}, ExpressionAttributeValues: values})
			x.must(err)
		}
		remove := func(key string) {
			_, err := x.db.DeleteItem(x.Context(), &dynamodb.DeleteItemInput{TableName: &x.table, Key: at("p", key)})
			x.must(err)
		}
		put(with(at("p", "before"), "V", num("1"))) // as it is
		put(with(at("p", "before"), "V", num("1.0")))
		update("before", "SET #v = :v", item{":v": num("1")})
		remove("not there")
		_, err := x.db.PutItem(x.Context(), &dynamodb.PutItemInput{TableName: &x.table, Item: at("p", "a"), ConditionExpression: aws.String("attribute_exists(#p)"), ExpressionAttributeNames: map[string]string{"#p": "Path"}})
		x.fails("ConditionalCheckFailedException", err)
		put(at("p", "a"))
		put(with(at("p", "a"), "V", null()))
		update("b", "SET #v = :v", item{":v": num("1")})
		update("b", "REMOVE #v", nil)
		remove("a")
		_, err = x.db.BatchWriteItem(x.Context(), &dynamodb.BatchWriteItemInput{RequestItems: map[string][]types.WriteRequest{x.table: {
			{PutRequest: &types.PutRequest{Item: at("p", "b")}}, // as it is
			{DeleteRequest: &types.DeleteRequest{Key: at("p", "before")}},
			{DeleteRequest: &types.DeleteRequest{Key: at("p", "not there")}},
		}}})
		x.must(err)
		var got []string
		last := ""
		for _, r := range x.records(arn, 6) {
			got = append(got, string(r.EventName)+" "+r.Dynamodb.Keys["Key"].(*streams.AttributeValueMemberS).Value)
			if n := *r.Dynamodb.SequenceNumber; n <= last || len(n) != 21 {
				x.Errorf("sequence number %s behind %s", n, last)
			} else {
				last = n
			}
		}
		x.is("changes", strings.Join(got, ", "), "INSERT a, MODIFY a, INSERT b, MODIFY b, REMOVE a, REMOVE before")
	},

	"stream iterators": func(x *fixture) {
		arn := x.enable(types.StreamViewTypeKeysOnly)
		for i := range 5 {
			x.put(at("p", strconv.Itoa(i)))
		}
		all := x.records(arn, 5)
		shard := *x.stream(arn).Shards[0].ShardId
		read := func(iterator *string) (out string) {
			x.Helper()
			records, next := x.page(iterator, nil)
			x.is("next of an open shard", next != nil, true)
			for _, r := range records {
				out += r.Dynamodb.Keys["Key"].(*streams.AttributeValueMemberS).Value
			}
			return out
		}
		third := all[2].Dynamodb.SequenceNumber
		x.is("from the beginning", read(x.iterator(arn, shard, streams.ShardIteratorTypeTrimHorizon, nil)), "01234")
		x.is("at", read(x.iterator(arn, shard, streams.ShardIteratorTypeAtSequenceNumber, third)), "234")
		x.is("after", read(x.iterator(arn, shard, streams.ShardIteratorTypeAfterSequenceNumber, third)), "34")
		x.is("after the last", read(x.iterator(arn, shard, streams.ShardIteratorTypeAfterSequenceNumber, all[4].Dynamodb.SequenceNumber)), "")
		latest := x.iterator(arn, shard, streams.ShardIteratorTypeLatest, nil)
		x.is("latest", read(latest), "")
		_, behind := x.page(latest, nil)
		x.put(at("p", "5"))
		x.records(arn, 6)
		x.is("behind the latest", read(latest), "5")
		x.is("again", read(latest), "5")
		x.is("and on", read(behind), "5")

		got, iterator := "", x.iterator(arn, shard, streams.ShardIteratorTypeTrimHorizon, nil)
		for range 3 {
			records, next := x.page(iterator, aws.Int32(2))
			for _, r := range records {
				got += r.Dynamodb.Keys["Key"].(*streams.AttributeValueMemberS).Value
			}
			got, iterator = got+"|", next
		}
		x.is("by twos", got, "01|23|45|")

		grant := func(in dynamodbstreams.GetShardIteratorInput) error {
			in.StreamArn, in.ShardId = cmp.Or(in.StreamArn, &arn), cmp.Or(in.ShardId, &shard)
			_, err := x.streams.GetShardIterator(x.Context(), &in)
			return err
		}
		at := streams.ShardIteratorTypeAtSequenceNumber
		x.fails("ValidationException", grant(dynamodbstreams.GetShardIteratorInput{ShardIteratorType: at}), "no number")
		x.fails("ValidationException", grant(dynamodbstreams.GetShardIteratorInput{ShardIteratorType: at, SequenceNumber: aws.String("12")}), "short number")
		x.fails("ValidationException", grant(dynamodbstreams.GetShardIteratorInput{ShardIteratorType: at, SequenceNumber: aws.String("000000000000000000000")}), "before the shard")
		x.fails("ValidationException", grant(dynamodbstreams.GetShardIteratorInput{ShardIteratorType: streams.ShardIteratorTypeLatest, SequenceNumber: third}), "needless number")
		x.fails("ResourceNotFoundException", grant(dynamodbstreams.GetShardIteratorInput{ShardIteratorType: streams.ShardIteratorTypeLatest, ShardId: aws.String("shardId-00000001796085642083-00000000")}), "shard")
		x.fails("ResourceNotFoundException", grant(dynamodbstreams.GetShardIteratorInput{ShardIteratorType: streams.ShardIteratorTypeLatest, StreamArn: aws.String(arn + "0")}), "stream")
		for limit, code := range map[int32]string{0: "ValidationException", 1001: "ValidationException"} {
			_, err := x.streams.GetRecords(x.Context(), &dynamodbstreams.GetRecordsInput{ShardIterator: latest, Limit: &limit})
			x.fails(code, err, strconv.Itoa(int(limit)))
		}
		_, err := x.streams.GetRecords(x.Context(), &dynamodbstreams.GetRecordsInput{ShardIterator: aws.String("nonsense")})
		x.fails("ValidationException", err)
		describe := func(in dynamodbstreams.DescribeStreamInput) error {
			in.StreamArn = cmp.Or(in.StreamArn, &arn)
			_, err := x.streams.DescribeStream(x.Context(), &in)
			return err
		}
		x.fails("ResourceNotFoundException", describe(dynamodbstreams.DescribeStreamInput{StreamArn: aws.String(arn + "0")}))
		x.fails("ValidationException", describe(dynamodbstreams.DescribeStreamInput{Limit: aws.Int32(0)}), "0")
		x.fails("ValidationException", describe(dynamodbstreams.DescribeStreamInput{Limit: aws.Int32(101)}), "101")
		x.fails("ValidationException", describe(dynamodbstreams.DescribeStreamInput{ExclusiveStartShardId: aws.String("x")}), "x")
		_, err = x.streams.ListStreams(x.Context(), &dynamodbstreams.ListStreamsInput{Limit: aws.Int32(0)})
		x.fails("ValidationException", err)
	},

	"stream that rolls over": func(x *fixture) {
		arn := x.enable(types.StreamViewTypeKeysOnly)
		roll := func() {
			x.Helper()
			if err := x.roll(x.table); errors.Is(err, local.ErrNoCompiler) {
				x.Skip("NOT CHECKED AGAINST AWS: shards that roll over. It takes a JDK: apt-get install openjdk-17-jdk-headless")
			} else {
				x.must(err)
			}
		}
		x.put(at("p", "a"), at("p", "b"))
		x.records(arn, 2)
		first := *x.stream(arn).Shards[0].ShardId
		early := x.iterator(arn, first, streams.ShardIteratorTypeTrimHorizon, nil)
		tip := x.iterator(arn, first, streams.ShardIteratorTypeLatest, nil)
		roll()
		x.put(at("p", "c"))
		x.records(arn, 3)
		roll()
		x.put(at("p", "d"))
		x.records(arn, 4)

		shards := x.stream(arn).Shards
		x.is("shards", len(shards), 3)
		want, parent := []string{"ab", "c", "d"}, ""
		for i, shard := range shards {
			x.is("parent", aws.ToString(shard.ParentShardId), parent)
			parent = *shard.ShardId
			r := shard.SequenceNumberRange
			x.is("ended", r.EndingSequenceNumber != nil, i < 2)
			if i > 0 && *shards[i-1].SequenceNumberRange.EndingSequenceNumber >= *r.StartingSequenceNumber {
				x.Errorf("shard %d begins at %s, its parent ends at %s", i, *r.StartingSequenceNumber, *shards[i-1].SequenceNumberRange.EndingSequenceNumber)
			}
			records, next := x.page(x.iterator(arn, *shard.ShardId, streams.ShardIteratorTypeTrimHorizon, nil), nil)
			got := ""
			for _, record := range records {
				got += record.Dynamodb.Keys["Key"].(*streams.AttributeValueMemberS).Value
				if n := *record.Dynamodb.SequenceNumber; n < *r.StartingSequenceNumber || r.EndingSequenceNumber != nil && n > *r.EndingSequenceNumber {
					x.Errorf("record %s in a shard from %s to %s", n, *r.StartingSequenceNumber, *r.EndingSequenceNumber)
				}
			}
			x.is("records", got, want[i])
			x.is("goes on", next != nil, i == 2)
		}
		records, next := x.page(early, aws.Int32(1))
		x.is("iterator from before", fmt.Sprint(len(records), next != nil), "1 true")
		records, next = x.page(next, aws.Int32(1))
		x.is("the last of a shard", fmt.Sprint(len(records), next != nil), "1 false")
		records, next = x.page(tip, nil)
		x.is("the tip", fmt.Sprint(len(records), next != nil), "0 false")
		records, next = x.page(x.iterator(arn, first, streams.ShardIteratorTypeLatest, nil), nil)
		x.is("the latest of a shard that has ended", fmt.Sprint(len(records), next != nil), "0 false")

		page, err := x.streams.DescribeStream(x.Context(), &dynamodbstreams.DescribeStreamInput{StreamArn: &arn, Limit: aws.Int32(2)})
		x.must(err)
		x.is("two of them", len(page.StreamDescription.Shards), 2)
		x.is("where it stopped", aws.ToString(page.StreamDescription.LastEvaluatedShardId), *shards[1].ShardId)
		page, err = x.streams.DescribeStream(x.Context(), &dynamodbstreams.DescribeStreamInput{StreamArn: &arn, ExclusiveStartShardId: page.StreamDescription.LastEvaluatedShardId})
		x.must(err)
		x.is("the rest", len(page.StreamDescription.Shards), 1)
		x.is("the end", page.StreamDescription.LastEvaluatedShardId == nil, true)
	},

	"stream that ages": func(x *fixture) {
		arn := x.enable(types.StreamViewTypeKeysOnly)
		age := func(hours int) {
			x.Helper()
			if err := x.age(x.table, hours); errors.Is(err, local.ErrNoCompiler) {
				x.Skip("NOT CHECKED AGAINST AWS: streams that age. It takes a JDK: apt-get install openjdk-17-jdk-headless")
			} else {
				x.must(err)
			}
		}
		x.put(at("p", "a"))
		x.records(arn, 1)
		first := *x.stream(arn).Shards[0].ShardId
		old := x.iterator(arn, first, streams.ShardIteratorTypeTrimHorizon, nil)
		records, _ := x.page(old, nil)
		number := records[0].Dynamodb.SequenceNumber
		if !x.local { // there they roll over at the age of four hours
			x.must(x.roll(x.table))
		}
		age(5)
		_, err := x.streams.GetRecords(x.Context(), &dynamodbstreams.GetRecordsInput{ShardIterator: old})
		x.fails("ExpiredIteratorException", err)
		x.records(arn, 1)
		x.put(at("p", "b"))
		x.records(arn, 2)
		age(21)
		// What is over 24 hours old can't be had, one way or another.
		at := streams.ShardIteratorTypeAtSequenceNumber
		granted, err := x.streams.GetShardIterator(x.Context(), &dynamodbstreams.GetShardIteratorInput{StreamArn: &arn, ShardId: &first, ShardIteratorType: at, SequenceNumber: number})
		if !x.localDeviates("a shard that ended over 24 hours ago is there, and its iterators are granted: its records are not") {
			x.fails("ResourceNotFoundException", err)
			return
		}
		x.must(err)
		_, err = x.streams.GetRecords(x.Context(), &dynamodbstreams.GetRecordsInput{ShardIterator: granted.ShardIterator})
		x.fails("TrimmedDataAccessException", err)
	},

	"stream of a deleted table": func(x *fixture) {
		arn := x.enable(types.StreamViewTypeKeysOnly)
		x.put(at("p", "k"))
		x.records(arn, 1)
		_, err := x.db.DeleteTable(x.Context(), &dynamodb.DeleteTableInput{TableName: &x.table})
		x.must(err)
		x.is("status", x.stream(arn).StreamStatus, streams.StreamStatusDisabled)
		x.records(arn, 1)
		_, err = x.db.CreateTable(x.Context(), vaultTable(x.table))
		x.must(err)
		if !x.localDeviates("a new table of the same name has the stream of the old one as its latest") {
			x.is("stream of the new table", x.describe().LatestStreamArn == nil, true)
		}
	},

	"batch get": func(x *fixture) {
		var items []item
		for i := range 120 {
			items = append(items, with(at("p"+strconv.Itoa(i%3), strconv.Itoa(i)), "V", num(strconv.Itoa(i))))
		}
		x.put(items...)
		get := func(keys ...item) (*dynamodb.BatchGetItemOutput, error) {
			return x.db.BatchGetItem(x.Context(), &dynamodb.BatchGetItemInput{ReturnConsumedCapacity: types.ReturnConsumedCapacityTotal,
				RequestItems: map[string]types.KeysAndAttributes{x.table: {Keys: keys, ConsistentRead: aws.Bool(true)}}})
		}
		keysOf := func(items []item) (out []item) {
			for _, i := range items {
				out = append(out, item{"Path": i["Path"], "Key": i["Key"]})
			}
			return out
		}
		out, err := get(append(keysOf(items[:99]), at("p", "none"))...)
		x.must(err)
		var want, got []string
		for _, i := range items[:99] {
			want = append(want, show(i))
		}
		for _, i := range out.Responses[x.table] {
			got = append(got, show(i))
		}
		slices.Sort(want)
		slices.Sort(got)
		x.is("items", got, want)
		x.is("unprocessed", len(out.UnprocessedKeys), 0)
		if !x.localDeviates("nothing is asked for an item that is not there, where the service asks for a unit") {
			x.is("capacity", *out.ConsumedCapacity[0].CapacityUnits, 100)
		}

		out, err = x.db.BatchGetItem(x.Context(), &dynamodb.BatchGetItemInput{RequestItems: map[string]types.KeysAndAttributes{x.table: {Keys: keysOf(items[:1]),
			ProjectionExpression: aws.String("#v"), ExpressionAttributeNames: map[string]string{"#v": "V"}}}})
		x.must(err)
		x.is("projected", show(out.Responses[x.table][0]), show(item{"V": num("0")}))

		_, err = get(keysOf(items[:101])...)
		x.fails("ValidationException", err, "101 keys")
		_, err = get(at("p", "k"), at("p", "k"))
		x.fails("ValidationException", err, "twice")
		_, err = get(item{"Path": str("p")})
		x.fails("ValidationException", err, "half a key")
		_, err = get([]item{}...)
		x.fails("ValidationException", err, "no key")
		_, err = x.db.BatchGetItem(x.Context(), &dynamodb.BatchGetItemInput{RequestItems: map[string]types.KeysAndAttributes{}})
		x.fails("ValidationException", err, "no table")
		_, err = x.db.BatchGetItem(x.Context(), &dynamodb.BatchGetItemInput{RequestItems: map[string]types.KeysAndAttributes{"no-such-table": {Keys: []item{at("p", "k")}}}})
		x.fails("ResourceNotFoundException", err)

		// 16 MB: what is beyond comes back as it was asked for.
		var large []item
		for i := range 50 {
			large = append(large, with(at("large", strconv.Itoa(i)), "V", bin(strings.Repeat("x", 390<<10))))
			x.put(large[i])
		}
		left, read := keysOf(large), 0
		for rounds := 0; len(left) > 0 && rounds < 3; rounds++ {
			out, err := get(left...)
			x.must(err)
			read += len(out.Responses[x.table])
			rest := out.UnprocessedKeys[x.table]
			if rounds == 0 {
				x.is("on the first page", len(out.Responses[x.table]) < 50 && len(out.Responses[x.table]) > 35, true)
				x.is("consistent", aws.ToBool(rest.ConsistentRead), true)
			}
			left = rest.Keys
		}
		x.is("read", fmt.Sprint(read, len(left)), "50 0")
	},
}
