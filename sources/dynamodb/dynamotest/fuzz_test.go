package dynamotest

import (
	"bytes"
	"encoding/json"
	"errors"
	"math/big"
	"slices"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/service/dynamodb/types"
)

// FuzzCondition holds that no text makes the parser panic, and that a condition
// and its negation never agree, whatever the item is.
func FuzzCondition(f *testing.F) {
	for _, text := range []string{
		"attribute_not_exists(#p) or attribute_not_exists(#k) or (attribute_not_exists(#i) or #i = :i or #e <= :n)",
		"#i = :i AND #e = :n", "not (#e BETWEEN :n and :n)", "begins_with(#i, :i)", "((#p = :i))", "#p <> :i and not #k >= :i", "#p.#k[0] = :i", "size(#p) > :n", "(((", "\xff", "#", ":", "a.b",
	} {
		f.Add(text, int64(5), []byte("id"))
	}
	names := map[string]string{"#p": "Path", "#k": "Key", "#i": "Identity", "#e": "Expires"}
	f.Fuzz(func(t *testing.T, text string, expires int64, identity []byte) {
		values := attributes{":i": &types.AttributeValueMemberB{Value: identity}, ":n": &types.AttributeValueMemberN{Value: "5"}}
		c, err := newExpressions(names, values).condition("ConditionExpression", text)
		var refused *apiError
		if err != nil {
			if !errors.As(err, &refused) || refused.kind != validationError {
				t.Fatalf("%q: %v", text, err)
			}
			return
		}
		// The keyword is in its own parentheses' way only where the text has some.
		negated, err := newExpressions(names, values).condition("ConditionExpression", "NOT ("+text+")")
		if err != nil && !strings.Contains(err.Error(), "redundant parentheses") && !strings.Contains(err.Error(), "maximum allowed size") {
			t.Fatalf("%q parses, its negation does not: %v", text, err)
		}
		items := []attributes{nil, {}, {"Path": &types.AttributeValueMemberS{Value: "core"}, "Key": &types.AttributeValueMemberS{Value: "_lock"}},
			{"Path": &types.AttributeValueMemberS{Value: "core"}, "Identity": &types.AttributeValueMemberB{Value: []byte("id")}, "Expires": &types.AttributeValueMemberN{Value: big.NewInt(expires).String()}}}
		for _, item := range items {
			holds := c.holds(item)
			if negated != nil && negated.holds(item) == holds {
				t.Fatalf("%q and its negation are both %v", text, holds)
			}
		}
	})
}

// FuzzUpdate holds that no text makes the parser panic, and that an update
// changes no attribute that it does not name.
func FuzzUpdate(f *testing.F) {
	for _, text := range []string{"SET #v=:v, #i=:i REMOVE #e", "REMOVE #e,#v SET #i = #v", "SET #v = #v + :v", "ADD #v :v", "SET", "SET #v = if_not_exists(#v, :v)"} {
		f.Add(text)
	}
	names := map[string]string{"#v": "Value", "#i": "Identity", "#e": "Expires"}
	values := attributes{":v": &types.AttributeValueMemberN{Value: "1"}, ":i": &types.AttributeValueMemberNULL{Value: true}}
	f.Fuzz(func(t *testing.T, text string) {
		u, err := newExpressions(names, values).update(text)
		if err != nil {
			return
		}
		item := attributes{"Path": values[":v"], "Value": values[":v"]}
		if err := u.apply(item); err != nil {
			return
		}
		if item["Path"] != values[":v"] {
			t.Fatalf("%q changed Path", text)
		}
		for name := range u.set {
			if item[name] == nil || !strings.Contains(text, "#") {
				t.Fatalf("%q did not set %s", text, name)
			}
		}
		for _, name := range u.remove {
			if item[name] != nil {
				t.Fatalf("%q did not remove %s", text, name)
			}
		}
	})
}

// FuzzNumber compares numbers with math/big.
func FuzzNumber(f *testing.F) {
	for _, pair := range [][2]string{{"1", "2"}, {"-1.5", "0.015e2"}, {"1E125", "1e-130"}, {"0", "-0.0"}, {"1700000000000000001", "1700000000000000000"}, {"00012.3400", "+12.34"}, {"-10", "-9.5"}, {"-10", "-100"}} {
		f.Add(pair[0], pair[1])
	}
	f.Fuzz(func(t *testing.T, a, b string) {
		x, err := parseNumber(a)
		if err != nil {
			return
		}
		if again, err := parseNumber(x.String()); err != nil || again != x {
			t.Fatalf("%q reads as %s and that as %s, %v", a, x, again, err)
		}
		exactX, ok := new(big.Rat).SetString(x.String())
		given, okGiven := new(big.Rat).SetString(a)
		if !ok || okGiven && given.Cmp(exactX) != 0 {
			t.Fatalf("%q became %s", a, x)
		}
		y, err := parseNumber(b)
		if err != nil {
			return
		}
		exactY, _ := new(big.Rat).SetString(y.String())
		if got, want := strings.Compare(x.order(), y.order()), exactX.Cmp(exactY); got != want {
			t.Fatalf("%s and %s compare as %d, want %d", x, y, got, want)
		}
	})
}

// FuzzRequest holds that no body makes an operation panic or fail otherwise
// than by a refusal, that every response is JSON, and that what the table
// counts is what it holds.
func FuzzRequest(f *testing.F) {
	for operation, body := range map[string]string{
		"PutItem":          `{"TableName":"vault","Item":{"Path":{"S":"a"},"Key":{"S":"b"},"Value":{"B":"AAE="},"X":{"M":{"y":{"L":[{"NS":["1","2"]}]}}}},"ReturnValues":"ALL_OLD"}`,
		"UpdateItem":       `{"TableName":"vault","Key":{"Path":{"S":"a"},"Key":{"S":"b"}},"UpdateExpression":"SET #v = :v","ExpressionAttributeNames":{"#v":"V"},"ExpressionAttributeValues":{":v":{"N":"1"}},"ReturnValues":"ALL_NEW"}`,
		"DeleteItem":       `{"TableName":"vault","Key":{"Path":{"S":"a"},"Key":{"S":"b"}},"ConditionExpression":"attribute_exists(#p)","ExpressionAttributeNames":{"#p":"Path"}}`,
		"GetItem":          `{"TableName":"vault","Key":{"Path":{"S":"a"},"Key":{"S":"b"}},"ProjectionExpression":"#p","ExpressionAttributeNames":{"#p":"Path"}}`,
		"BatchWriteItem":   `{"RequestItems":{"vault":[{"PutRequest":{"Item":{"Path":{"S":"x"},"Key":{"S":"y"}}}},{"DeleteRequest":{"Key":{"Path":{"S":"a"},"Key":{"S":"b"}}}}]}}`,
		"Query":            `{"TableName":"vault","KeyConditions":{"Path":{"ComparisonOperator":"EQ","AttributeValueList":[{"S":"a"}]}},"Limit":1,"ScanIndexForward":false,"ExclusiveStartKey":{"Path":{"S":"a"},"Key":{"S":"c"}}}`,
		"Scan":             `{"TableName":"vault","Segment":1,"TotalSegments":2,"Limit":1,"ReturnConsumedCapacity":"TOTAL","ExclusiveStartKey":{"Path":{"S":"a"},"Key":{"S":"c"}}}`,
		"CreateTable":      `{"TableName":"other","KeySchema":[{"AttributeName":"k","KeyType":"HASH"}],"AttributeDefinitions":[{"AttributeName":"k","AttributeType":"N"}],"BillingMode":"PAY_PER_REQUEST"}`,
		"DescribeStream":   `{"StreamArn":"ARN","Limit":1,"ExclusiveStartShardId":"SHARD"}`,
		"GetShardIterator": `{"StreamArn":"ARN","ShardId":"SHARD","ShardIteratorType":"AT_SEQUENCE_NUMBER","SequenceNumber":"100000000000000000021"}`,
		"GetRecords":       `{"ShardIterator":"ITERATOR","Limit":2}`,
		"ListStreams":      `{"TableName":"vault","Limit":1}`,
		"UpdateTable":      `{"TableName":"vault","ProvisionedThroughput":{"ReadCapacityUnits":1,"WriteCapacityUnits":1}}`,
		"ListTables":       `{"Limit":1}`,
		"BatchGetItem":     `{"RequestItems":{"vault":{"Keys":[{"Path":{"S":"a"},"Key":{"S":"b"}},{"Path":{"S":"a"},"Key":{"S":"x"}}],"ConsistentRead":true}},"ReturnConsumedCapacity":"TOTAL"}`,
		"DescribeTable":    `{"TableName":"vault"}`,
		"DeleteTable":      `{"TableName":"vault"}`,
	} {
		f.Add(operation, []byte(body))
	}
	f.Add("UpdateTable", []byte(`{"TableName":"vault","StreamSpecification":{"StreamEnabled":false}}`))
	f.Fuzz(func(t *testing.T, operation string, body []byte) {
		run := operations[operation]
		if run == nil {
			run = streamOperations[operation]
		}
		if run == nil {
			return
		}
		s := &Server{tables: map[string]*table{}}
		if err := s.CreateVaultTable("vault"); err != nil {
			t.Fatal(err)
		}
		for _, key := range []string{"a/b", "a/c", "a/d/e"} {
			if err := s.PutVaultEntry("vault", key, []byte(key)); err != nil {
				t.Fatal(err)
			}
		}
		stream, err := s.EnableStream("vault", types.StreamViewTypeNewAndOldImages)
		if err != nil {
			t.Fatal(err)
		}
		for _, key := range []string{"a/b", "a/e"} {
			if err := s.PutVaultEntry("vault", key, []byte("new")); err != nil {
				t.Fatal(err)
			}
		}
		shard := stream.Shards()[0].ID
		token := iterator{arn: stream.ARN, shard: shard, granted: stream.clock()}.String()
		body = []byte(strings.NewReplacer("ARN", stream.ARN, "SHARD", shard, "ITERATOR", token).Replace(string(body)))
		vault := s.tables["vault"]
		out, err := run(&call{server: s, body: body})
		var refused *apiError
		if err != nil {
			if !errors.As(err, &refused) || refused.status != 400 {
				t.Fatalf("%s %s: %v", operation, body, err)
			}
			out = refused.body()
		}
		if !json.Valid(out) {
			t.Fatalf("%s %s answers %s", operation, body, out)
		}
		var count, size int64
		for i, p := range vault.parts {
			if vault.byValue[p.value] != p || i > 0 && vault.parts[i-1].hash > p.hash || len(p.records) == 0 {
				t.Fatalf("%s %s leaves the partitions in disorder", operation, body)
			}
			if !slices.IsSortedFunc(p.records, func(a, b *record) int { return strings.Compare(a.sort, b.sort) }) {
				t.Fatalf("%s %s leaves records in disorder", operation, body)
			}
			for _, r := range p.records {
				count++
				size += int64(r.size)
				item := r.item()
				k, err := vault.key(item, false)
				if err != nil || k != (key{p.value, r.sort}) || itemSize(item) != r.size {
					t.Fatalf("%s %s leaves the item %s at %q %q: %v", operation, body, r.json, p.value, r.sort, err)
				}
				again, err := vault.record(item, k)
				if err != nil || !bytes.Equal(again.json, r.json) || again.keyLen != r.keyLen {
					t.Fatalf("%s renders as %s", r.json, again.json)
				}
			}
		}
		if count != vault.count || size != vault.bytes {
			t.Fatalf("%s %s: counts %d items of %d bytes, holds %d of %d", operation, body, vault.count, vault.bytes, count, size)
		}
	})
}
