package dynamodb

import (
	"reflect"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/service/dynamodb"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb/types"

	"github.com/dyn2raft/dyn2raft/copier"
	"github.com/dyn2raft/dyn2raft/sources/dynamodb/dynamotest"
)

// checkedLive returns what CheckLive says of each check, and fails where it says two
// things.
func (e *env) checkedLive(opts ...func(*Options)) map[string]copier.Finding {
	e.Helper()
	s, _ := e.source(opts...)
	survey, err := s.Survey(e.Context())
	e.ok(err)
	out := map[string]copier.Finding{}
	for _, f := range s.CheckLive(e.Context(), survey) {
		if was, twice := out[f.Check]; twice {
			e.Errorf("%+v, and %+v", was, f)
		}
		out[f.Check] = f
	}
	return out
}

// The checks of a live copy pass with a stream and without one, and change nothing.
func TestCheckLive(t *testing.T) {
	t.Parallel()
	eachServer(t, map[string]func(*env){
		"without a stream": func(e *env) {
			before := e.description()
			got := e.checkedLive()
			if a := got["live-access"]; a.Status != copier.Passed || a.Message != "allowed: BatchGetItem, DescribeStream, GetShardIterator, UpdateTable; not tried: GetRecords" {
				e.Errorf("%+v", a)
			}
			if got["live-stream"].Status != copier.Noted || got["live-replicas"].Status != copier.Passed || got["live-cost"].Status != copier.Noted {
				e.Errorf("%+v", got)
			}
			if a := e.checkedLive(func(o *Options) { o.NoWriteProbes = true })["live-access"]; !strings.HasSuffix(a.Message, "; not tried: GetRecords, UpdateTable") {
				e.Errorf("%+v", a)
			}
			if now := e.description(); !reflect.DeepEqual(now, before) {
				e.Errorf("the table is %+v, and was %+v", now, before)
			}
		},
		"with a stream": func(e *env) {
			on := true
			_, err := e.db.UpdateTable(e.Context(), &dynamodb.UpdateTableInput{TableName: &e.table,
				StreamSpecification: &types.StreamSpecification{StreamEnabled: &on, StreamViewType: types.StreamViewTypeNewImage}})
			e.ok(err)
			before := e.description()
			got := e.checkedLive()
			if a := got["live-access"]; a.Status != copier.Passed || a.Message != "allowed: BatchGetItem, DescribeStream, GetShardIterator, GetRecords" {
				e.Errorf("%+v", a)
			}
			if f := got["live-stream"]; f.Status != copier.Warned || !strings.Contains(f.Message, "NEW_IMAGE") || f.Facts["stream"] != *before.LatestStreamArn {
				e.Errorf("%+v", f)
			}
			if now := e.description(); !reflect.DeepEqual(now, before) {
				e.Errorf("the table is %+v, and was %+v", now, before)
			}
		},
	})
}

func (e *env) description() *types.TableDescription {
	e.Helper()
	out, err := e.db.DescribeTable(e.Context(), &dynamodb.DescribeTableInput{TableName: &e.table})
	e.ok(err)
	return out.Table
}

// What is missing is named, and a table of several regions is refused.
func TestCheckLiveRefuses(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	for _, stream := range []bool{false, true} {
		actions := []string{"BatchGetItem", "DescribeStream", "GetShardIterator", "UpdateTable"}
		if stream {
			_, err := e.srv.EnableStream(e.table, types.StreamViewTypeKeysOnly)
			e.ok(err)
			actions[3] = "GetRecords"
		}
		for _, denied := range actions {
			e.srv.SetFaults(&dynamotest.Fault{Kind: dynamotest.AccessDenied, Operation: denied})
			a := e.checkedLive()["live-access"]
			if a.Status != copier.Failed || !strings.Contains(a.Message, "not allowed: dynamodb:"+denied) || strings.Count(a.Message, "dynamodb:") != 1 {
				t.Errorf("stream %v, %s is denied: %+v", stream, denied, a)
			}
		}
	}
	e.srv.SetFaults()
	e.ok(e.srv.SetTableDetails(e.table, dynamotest.TableDetails{Replicas: []string{"eu-west-1"}}))
	if f := e.checkedLive()["live-replicas"]; f.Status != copier.Failed || !strings.Contains(f.Message, "eu-west-1") {
		t.Errorf("%+v", f)
	}
	// Five requests a second and open shard: 18,000 an hour each.
	e.ok(e.srv.SetTableDetails(e.table, dynamotest.TableDetails{}))
	e.ok(e.srv.DisableStream(e.table))
	e.ok(e.srv.SetStreamSettings(e.table, dynamotest.StreamSettings{Shards: 4}))
	_, err := e.srv.EnableStream(e.table, types.StreamViewTypeKeysOnly)
	e.ok(err)
	if f := e.checkedLive()["live-cost"]; !strings.Contains(f.Message, "up to 72,000 streams read requests an hour for 4 open shards") || strings.Contains(f.Message, "US$") {
		t.Errorf("%+v", f)
	}
}
