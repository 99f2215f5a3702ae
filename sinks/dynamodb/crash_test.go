package dynamodb

import (
	"context"
	"errors"
	"net/http"
	"sync/atomic"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb/types"

	"github.com/dyn2raft/dyn2raft/copier"
	"github.com/dyn2raft/dyn2raft/copier/copiertest"
	"github.com/dyn2raft/dyn2raft/copier/durable"
	"github.com/dyn2raft/dyn2raft/sources/dynamodb/dynamotest"
)

func describeTable() *dynamodb.DescribeTableInput {
	return &dynamodb.DescribeTableInput{TableName: aws.String(table)}
}

func otherTable() *dynamodb.CreateTableInput {
	in := &dynamodb.CreateTableInput{TableName: aws.String(table), BillingMode: "PAY_PER_REQUEST"}
	in.KeySchema = append(in.KeySchema, keySchema("ID", "HASH"))
	in.AttributeDefinitions = append(in.AttributeDefinitions, definition("ID"))
	return in
}

// closeConnections lets a test end without goroutines of connections.
func (s *Sink) closeConnections() {
	if c, ok := s.client.Options().HTTPClient.(interface{ CloseIdleConnections() }); ok {
		c.CloseIdleConnections()
	}
}

var errKilled = errors.New("killed")

// A killer ends a process at one of its requests: in front of it, or once the table has
// dealt with it and before the answer is there. From then on the process does nothing.
type killer struct {
	dynamodb.HTTPClient
	at     int // the request, counted from 0; less than 0 for never
	behind bool
	n      int
	dead   atomic.Bool
	end    context.CancelFunc
}

func (k *killer) Do(r *http.Request) (*http.Response, error) {
	if k.dead.Load() {
		return nil, errKilled
	}
	k.n++
	if k.n-1 != k.at {
		return k.HTTPClient.Do(r)
	}
	if k.behind {
		if res, err := k.HTTPClient.Do(r); err == nil {
			_ = res.Body.Close()
		}
	}
	k.dead.Store(true)
	k.end()
	return nil, errKilled
}

// A mortal source is not given back by a process that is dead.
type mortal struct {
	*copiertest.Source
	dead func() bool
}

func (s mortal) Lock(ctx context.Context, runID string, held bool, lost func(error)) (copier.Lease, error) {
	l, err := s.Source.Lock(ctx, runID, held, lost)
	return mortalLease{l, s.dead}, err
}

type mortalLease struct {
	copier.Lease
	dead func() bool
}

func (l mortalLease) Release(ctx context.Context, end copier.End) error {
	if l.dead() {
		return nil
	}
	return l.Lease.Release(ctx, end)
}

// TestKilledAtEveryRequest kills a copy in front of each of its requests, and behind it,
// and has another process resume it: the table has each entry and marker, and no lock; and
// as long as it is not complete, no Vault starts on it.
func TestKilledAtEveryRequest(t *testing.T) {
	entries := shape(60)
	anew := 0
	for _, behind := range []bool{false, true} {
		for at := 0; ; at++ {
			srv := dynamotest.NewServer(dynamotest.Options{})
			src := copiertest.NewSource(entries...)
			src.PageEntries = 10
			o := copyOptions(t)
			process := func(at int, change func(*copier.Options)) (copier.Record, *killer, error) {
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				s := open(t, srv.URL, func(o *Options) { o.Requests = 1 })
				s.timing = timing{lease: 20 * time.Millisecond, renew: time.Hour, poll: 5 * time.Millisecond}
				co := s.client.Options()
				k := &killer{HTTPClient: co.HTTPClient, at: at, behind: behind, end: cancel}
				co.HTTPClient, co.Retryer = k, aws.NopRetryer{}
				s.client = dynamodb.New(co)
				o := o
				o.Workers, o.Segments, o.CheckpointInterval = 1, 2, time.Microsecond
				o.Disk = &durable.Disk{Before: func(durable.Op) error {
					if k.dead.Load() {
						return errKilled
					}
					return nil
				}}
				if change != nil {
					change(&o)
				}
				r, err := copier.Copy(ctx, mortal{src, k.dead.Load}, s, o)
				return r, k, err
			}
			_, k, err := process(at, nil)
			if !k.dead.Load() {
				check(t, err)
				srv.Close()
				if at < 20 {
					t.Errorf("there were %d requests", at)
				}
				break
			}
			if err == nil {
				err = errors.New("it was complete") // killed while it cleaned up
			}
			if got, there, ierr := inPlace(srv); there && (ierr != nil || len(got) > 0 && len(got) != len(entries)) {
				t.Fatalf("killed at request %d (behind: %v), %v: a Vault would find %d entries, %v", at, behind, err, len(got), ierr)
			}
			_, _, rerr := process(-1, func(o *copier.Options) { o.Resume = true })
			if errors.Is(rerr, copier.ErrUnconfirmed) && errors.Is(rerr, copier.ErrMoved) && src.Holder() == "" {
				// It was killed behind the source was given back, and before that was on record.
				anew++
				_, _, rerr = process(-1, func(o *copier.Options) { o.Restart = true })
			}
			if code, _ := copier.CodeOf(rerr); code == TableNotEmpty {
				rerr = nil // nothing was left to do
			}
			got, there, ierr := inPlace(srv)
			if rerr != nil || ierr != nil || !there || len(got) != len(entries) || src.Holder() != "" || srv.GetItem(table, "core", "_dyn2raft") != nil {
				t.Fatalf("killed at request %d (behind: %v), %v: resumed with %v; %d entries are in place, %v; run %q holds the source", at, behind, err, rerr, len(got), ierr, src.Holder())
			}
			srv.Close()
		}
	}
	if anew > 2 {
		t.Errorf("%d were made anew", anew)
	}
}

func keySchema(name, kind string) types.KeySchemaElement {
	return types.KeySchemaElement{AttributeName: &name, KeyType: types.KeyType(kind)}
}

func definition(name string) types.AttributeDefinition {
	return types.AttributeDefinition{AttributeName: &name, AttributeType: types.ScalarAttributeTypeS}
}
