package dynamotest

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"slices"
	"sort"
	"strconv"
	"strings"
	"time"

	streams "github.com/aws/aws-sdk-go-v2/service/dynamodbstreams/types"
)

// streamsTarget stands before the operations of DynamoDB Streams in X-Amz-Target. They
// have the table's endpoint here, as with DynamoDB Local.
const streamsTarget = "DynamoDBStreams_20120810."

// streamOperations are those of DynamoDB Streams that dynamotest knows.
var streamOperations = map[string]func(*call) ([]byte, error){
	"DescribeStream":   (*call).describeStream,
	"GetRecords":       (*call).getRecords,
	"GetShardIterator": (*call).getShardIterator,
	"ListStreams":      (*call).listStreams,
}

// limit checks the Limit of a request and returns what holds.
func limit(given *int, most int) (int, error) {
	switch {
	case given == nil:
		return most, nil
	case *given < 1:
		return 0, validation("1 validation error detected: Value '%d' at 'limit' failed to satisfy constraint: Member must have value greater than or equal to 1", *given)
	case *given > most:
		return 0, validation("One or more parameter values were invalid: Limit cannot be greater than the maximum: %d", most)
	}
	return *given, nil
}

// find returns a stream that can still be read, with its lock held.
func (s *Server) find(arn string) (*Stream, error) {
	if arn == "" {
		return nil, validation("Invalid StreamArn")
	}
	if found, ok := s.streams.Load(arn); ok {
		st := found.(*Stream)
		st.mu.Lock()
		now := st.clock()
		st.settle(now)
		if st.disabled.IsZero() || now.Sub(st.gone) <= streamRetention {
			return st, nil
		}
		st.mu.Unlock()
		s.streams.Delete(arn)
	}
	return nil, notFound("Requested resource not found: Stream: " + arn + " not found")
}

// listStreams returns streams in the order of their ARNs.
func (c *call) listStreams() ([]byte, error) {
	var in struct {
		TableName               string
		ExclusiveStartStreamArn string
		Limit                   *int
	}
	if err := c.decode(&in); err != nil {
		return nil, err
	}
	most, err := limit(in.Limit, maxShardPage)
	if err != nil {
		return nil, err
	}
	type entry struct{ StreamArn, StreamLabel, TableName string }
	out := struct {
		LastEvaluatedStreamArn string `json:",omitempty"`
		Streams                []entry
	}{Streams: []entry{}}
	var arns []string
	for arn := range c.server.streams.Range {
		arns = append(arns, arn.(string))
	}
	slices.Sort(arns)
	for _, arn := range arns {
		st, err := c.server.find(arn)
		if err != nil {
			continue
		}
		e := entry{arn, st.label, st.table}
		st.mu.Unlock()
		if arn <= in.ExclusiveStartStreamArn || in.TableName != "" && e.TableName != in.TableName {
			continue
		}
		if len(out.Streams) == most {
			out.LastEvaluatedStreamArn = out.Streams[most-1].StreamArn
			break
		}
		out.Streams = append(out.Streams, e)
	}
	return json.Marshal(out)
}

type (
	sequenceRange struct {
		StartingSequenceNumber string
		EndingSequenceNumber   string `json:",omitempty"`
	}
	shardDescription struct {
		ShardId             string
		ParentShardId       string `json:",omitempty"`
		SequenceNumberRange sequenceRange
	}
	streamDescription struct {
		CreationRequestDateTime json.Number
		KeySchema               []keyElement
		LastEvaluatedShardId    string `json:",omitempty"`
		Shards                  []shardDescription
		StreamArn               string
		StreamLabel             string
		StreamStatus            streams.StreamStatus
		StreamViewType          streams.StreamViewType
		TableName               string
	}
)

func (c *call) describeStream() ([]byte, error) {
	var in struct {
		StreamArn             string
		ExclusiveStartShardId *string
		Limit                 *int
	}
	if err := c.decode(&in); err != nil {
		return nil, err
	}
	most, err := limit(in.Limit, maxShardPage)
	if err != nil {
		return nil, err
	}
	if start := in.ExclusiveStartShardId; start != nil && (len(*start) < 28 || len(*start) > 65) {
		return nil, validation("1 validation error detected: Value '%s' at 'exclusiveStartShardId' failed to satisfy constraint: Member must have length between 28 and 65", *start)
	}
	st, err := c.server.find(in.StreamArn)
	if err != nil {
		return nil, err
	}
	defer st.mu.Unlock()
	if c.server.options.Provisioned {
		if st.describes.usedUp(describesPerSecond, st.clock()) {
			return nil, (&Fault{Kind: LimitExceeded}).refusal("", "")
		}
		st.describes.units--
	}
	if page := st.settings.Page; page > 0 {
		most = min(most, page)
	}
	d := streamDescription{
		CreationRequestDateTime: seconds(st.created), KeySchema: keySchema(st.keys), Shards: []shardDescription{},
		StreamArn: st.ARN, StreamLabel: st.label, StreamStatus: st.status(st.clock()), StreamViewType: st.view, TableName: st.table,
	}
	shards := st.shards
	if d.StreamStatus == streams.StreamStatusEnabling {
		shards = nil
	}
	if in.ExclusiveStartShardId != nil {
		if i := slices.IndexFunc(shards, func(sh *shard) bool { return sh.id == *in.ExclusiveStartShardId }); i >= 0 {
			shards = shards[i+1:]
		}
	}
	for _, sh := range shards {
		if slices.Contains(st.settings.Hidden, sh.id) {
			continue
		}
		if len(d.Shards) == most {
			d.LastEvaluatedShardId = d.Shards[most-1].ShardId
			break
		}
		described := shardDescription{sh.id, sh.parent, sequenceRange{StartingSequenceNumber: sequenceNumber(sh.first)}}
		if sh.last != 0 && !st.settings.OpenParents {
			described.SequenceNumberRange.EndingSequenceNumber = sequenceNumber(sh.last)
		}
		d.Shards = append(d.Shards, described)
	}
	return json.Marshal(map[string]any{"StreamDescription": d})
}

// An iterator is a place in a shard: behind the record with a sequence number.
type iterator struct {
	arn, shard string
	after      uint64
	granted    time.Time // by the stream's age
}

// String is the iterator as clients carry it.
func (i iterator) String() string {
	inner := fmt.Sprintf("%s|%d|%d", i.shard, i.after, i.granted.UnixNano())
	return i.arn + "|1|" + base64.StdEncoding.EncodeToString([]byte(inner))
}

func parseIterator(token string) (iterator, error) {
	arn, rest, ok := strings.Cut(token, "|1|")
	inner, err := base64.StdEncoding.DecodeString(rest)
	parts := strings.Split(string(inner), "|")
	if !ok || err != nil || len(parts) != 3 {
		return iterator{}, validation("Invalid ShardIterator")
	}
	after, err := strconv.ParseUint(parts[1], 10, 64)
	granted, err2 := strconv.ParseInt(parts[2], 10, 64)
	if err != nil || err2 != nil {
		return iterator{}, validation("Invalid ShardIterator")
	}
	return iterator{arn, parts[0], after, time.Unix(0, granted)}, nil
}

func (c *call) getShardIterator() ([]byte, error) {
	var in struct {
		StreamArn         string
		ShardId           string
		ShardIteratorType streams.ShardIteratorType
		SequenceNumber    *string
	}
	if err := c.decode(&in); err != nil {
		return nil, err
	}
	if in.ShardId == "" {
		return nil, validation("No ShardId specified.")
	}
	var number uint64
	numbered := in.ShardIteratorType == streams.ShardIteratorTypeAtSequenceNumber || in.ShardIteratorType == streams.ShardIteratorTypeAfterSequenceNumber
	switch {
	case in.ShardIteratorType == streams.ShardIteratorTypeAtTimestamp:
		return nil, unsupported("ShardIteratorType=AT_TIMESTAMP")
	case !slices.Contains(in.ShardIteratorType.Values(), in.ShardIteratorType):
		return nil, validation("1 validation error detected: Value '%s' at 'shardIteratorType' failed to satisfy constraint: Member must satisfy enum value set: [AFTER_SEQUENCE_NUMBER, LATEST, AT_SEQUENCE_NUMBER, TRIM_HORIZON]", in.ShardIteratorType)
	case numbered && in.SequenceNumber == nil:
		return nil, validation("One or more parameter values were invalid: Invalid SequenceNumber")
	case numbered:
		var err error
		if number, err = parseSequence(*in.SequenceNumber); err != nil {
			return nil, err
		}
	case in.SequenceNumber != nil:
		return nil, validation("One or more parameter values were invalid: SequenceNumber should not be passed for this iterator type")
	}
	st, err := c.server.find(in.StreamArn)
	if err != nil {
		return nil, err
	}
	defer st.mu.Unlock()
	sh := st.shard(in.ShardId)
	if sh == nil {
		return nil, notFound("Shard does not exist")
	}
	if numbered && (number < sh.first || sh.last != 0 && number > sh.last) {
		return nil, validation("Invalid SequenceNumber for the shard")
	}
	it := iterator{arn: st.ARN, shard: sh.id, granted: st.clock().Add(st.aged)}
	switch in.ShardIteratorType {
	case streams.ShardIteratorTypeTrimHorizon:
		it.after = sh.trimmed
	case streams.ShardIteratorTypeLatest:
		it.after = st.sequence
	case streams.ShardIteratorTypeAtSequenceNumber:
		it.after = number - 1
	case streams.ShardIteratorTypeAfterSequenceNumber:
		it.after = number
	}
	return json.Marshal(map[string]string{"ShardIterator": it.String()})
}

// getRecords returns records up to the one that takes the page over 1 MB.
func (c *call) getRecords() ([]byte, error) {
	var in struct {
		ShardIterator string
		Limit         *int
	}
	if err := c.decode(&in); err != nil {
		return nil, err
	}
	most, err := limit(in.Limit, maxRecordsPage)
	if err != nil {
		return nil, err
	}
	it, err := parseIterator(in.ShardIterator)
	if err != nil {
		return nil, err
	}
	st, err := c.server.find(it.arn)
	if err != nil {
		return nil, err
	}
	defer st.mu.Unlock()
	now := st.clock().Add(st.aged)
	if now.Sub(it.granted) > iteratorLifetime {
		return nil, (&Fault{Kind: ExpiredIterator}).refusal("", "")
	}
	sh := st.shard(it.shard)
	if sh == nil {
		return nil, notFound("Shard does not exist")
	}
	if st.settings.TrimErrors && it.after < sh.trimmed {
		return nil, (&Fault{Kind: TrimmedDataAccess}).refusal("", "")
	}
	out := append(c.out, `{"Records":[`...)
	from := sort.Search(len(sh.records), func(i int) bool { return sh.records[i].sequence > it.after })
	if c.fault == EmptyPage {
		from = len(sh.records)
	}
	c.reads = true
	more := false
	for i, r := range sh.records[from:] {
		if more = i == most || c.read >= maxPageBytes; more {
			break
		}
		if i > 0 {
			out = append(out, ',')
		}
		out = st.appendRecord(out, r)
		c.read += r.size
		it.after = r.sequence
	}
	out = append(out, ']')
	if more || sh.last == 0 || st.settings.OpenParents || c.fault == EmptyPage {
		it.granted = now
		out = append(out, `,"NextShardIterator":`...)
		out = appendString(out, it.String())
	}
	return append(out, '}'), nil
}

func (st *Stream) appendRecord(b []byte, r *streamRecord) []byte {
	number := sequenceNumber(r.sequence)
	b = append(b, `{"awsRegion":"`+region+`","dynamodb":{"ApproximateCreationDateTime":`...)
	b = strconv.AppendInt(b, r.written.Unix(), 10)
	b = append(b, `,"Keys":`...)
	b = append(b, r.keys...)
	if r.next != nil {
		b = r.next.appendJSON(append(b, `,"NewImage":`...))
	}
	if r.old != nil {
		b = r.old.appendJSON(append(b, `,"OldImage":`...))
	}
	b = append(b, `,"SequenceNumber":"`+number+`","SizeBytes":`...)
	b = strconv.AppendInt(b, int64(r.size), 10)
	b = append(b, `,"StreamViewType":"`+string(st.view)+`"},"eventID":"`+st.label+"-"+number...)
	return append(b, `","eventName":"`+string(r.event)+`","eventSource":"aws:dynamodb","eventVersion":"1.1"}`...)
}
