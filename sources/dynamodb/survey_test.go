package dynamodb

import (
	"errors"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/dynamodb/types"

	"github.com/dyn2raft/dyn2raft/copier"
	"github.com/dyn2raft/dyn2raft/sources/dynamodb/dynamotest"
)

func TestSurvey(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	e.put(with("core", "keyring", attrs{attrValue: bin("k")}))
	e.ok(e.srv.SetCapacity(e.table, 5, 6))
	e.ok(e.srv.SetTableDetails(e.table, dynamotest.TableDetails{DeletionProtection: true, Replicas: []string{"eu-west-1", "ap-east-1"}, WarmReadUnits: 12_000}))
	_, err := e.srv.EnableStream(e.table, types.StreamViewTypeNewImage)
	e.ok(err)
	s, _ := e.source()
	v, err := s.Survey(t.Context())
	e.ok(err)
	if v.Problem != nil || v.OnDemand || v.ReadUnits != 5 || v.WriteUnits != 6 || v.WarmReadUnits != 12_000 || !v.DeletionProtection ||
		v.Stream != "NEW_IMAGE" || !slices.Equal(v.Replicas, []string{"ap-east-1", "eu-west-1"}) || v.Items != 1 || v.Bytes == 0 || v.Status != "ACTIVE" || v.ID == "" {
		t.Errorf("%+v", v)
	}
	if !v.Clock || v.Skew.Abs() > 3*time.Second {
		t.Errorf("clock %v, skew %v", v.Clock, v.Skew)
	}
	e.ok(e.srv.SetCapacity(e.table, 0, 0))
	if v, err = s.Survey(t.Context()); err != nil || !v.OnDemand || v.ReadUnits != 0 {
		t.Errorf("on demand: %+v, %v", v, err)
	}
	e.ok(e.srv.SetTableStatus(e.table, types.TableStatusDeleting))
	if v, err = s.Survey(t.Context()); err != nil || v.Problem == nil || v.Status != "DELETING" {
		t.Errorf("a table that is deleted: %+v, %v", v, err)
	}
}

func TestSurveyOfOtherTables(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	s, _ := e.source(func(o *Options) { o.Table = "no-such" })
	if _, err := s.Survey(t.Context()); !errors.Is(err, copier.ErrSource) {
		t.Errorf("no table: %v", err)
	}
	dead, err := net.Listen("tcp", "127.0.0.1:0")
	e.ok(err)
	e.ok(dead.Close())
	s, _ = e.sourceAt("http://" + dead.Addr().String())
	if _, err := s.Survey(t.Context()); !errors.Is(err, copier.ErrSource) {
		t.Errorf("no server: %v", err)
	}
	e.srv.SetFaults(&dynamotest.Fault{Kind: dynamotest.AccessDenied, Operation: "DescribeTable"})
	s, _ = e.source()
	if _, err := s.Survey(t.Context()); !IsDenied(err) {
		t.Errorf("denied: %v", err)
	}
}

func TestSurveySeesTheClock(t *testing.T) { inBubble(t, surveySeesTheClock) }

func surveySeesTheClock(t *testing.T) {
	e := bubbleEnv(t, dynamotest.Options{Clock: -2 * time.Minute})
	s, _ := e.source()
	v, err := s.Survey(t.Context())
	e.ok(err)
	if off := v.Skew - 2*time.Minute; !v.Clock || off.Abs() > time.Second {
		t.Errorf("skew %v, expected about 2 min", v.Skew)
	}
}

func TestRecovery(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	s, _ := e.source()
	if from, until, err := s.Recovery(t.Context()); err != nil || !from.IsZero() || !until.IsZero() {
		t.Errorf("off: %v to %v, %v", from, until, err)
	}
	e.ok(e.srv.SetTableDetails(e.table, dynamotest.TableDetails{Recovery: true}))
	if from, until, err := s.Recovery(t.Context()); err != nil || from.IsZero() || until.IsZero() {
		t.Errorf("on: %v to %v, %v", from, until, err)
	}
}

// Every action that is denied is found, and nothing is changed, whether or not
// there is an entry core/migration.
func TestProbeChangesNothing(t *testing.T) {
	t.Parallel()
	actions := []string{"Scan", "Query", "GetItem", "PutItem", "UpdateItem", "DeleteItem"}
	eachServer(t, map[string]func(*env){
		"nothing changes": func(e *env) {
			e.put(with("a", "b", attrs{attrValue: bin("c")}))
			for _, value := range []string{"", `{"start":"2026-11-01T02:03:04Z"}`} {
				if value != "" {
					e.put(with("core", "migration", attrs{attrValue: bin(value)}))
				}
				s, _ := e.source()
				var got []string
				for _, a := range s.Probe(e.Context(), false) {
					got = append(got, a.Action)
					if a.Err != nil || a.Denied() {
						e.Errorf("%s: %v", a.Action, a.Err)
					}
				}
				if !slices.Equal(got, actions) {
					e.Errorf("tried %v", got)
				}
				for _, a := range s.Probe(e.Context(), true) {
					if a.Writes || !slices.Contains([]string{"Scan", "Query", "GetItem"}, a.Action) {
						e.Errorf("%s is tried, though nothing may be sent that could write", a.Action)
					}
				}
				if there := e.get(migrationLockKey); (there != nil) != (value != "") || string(binaryOf(there[attrValue])) != value {
					e.Errorf("core/migration is %v", there)
				}
			}
		},
	})
	e := newEnv(t)
	for _, denied := range actions {
		e.srv.SetFaults(&dynamotest.Fault{Kind: dynamotest.AccessDenied, Operation: denied})
		s, _ := e.source()
		for _, a := range s.Probe(t.Context(), false) {
			if a.Denied() != (a.Action == denied) {
				t.Errorf("%s is denied, and %s says %v", denied, a.Action, a.Err)
			}
			if a.Denied() && coded(a.Err) != "denied map[action:dynamodb:"+denied+" policy:]" {
				t.Errorf("code %v does not name the action", coded(a.Err))
			}
		}
	}
}

func TestLocks(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	s, _ := e.source()
	if l, err := s.Locks(t.Context()); err != nil || l.Leader != nil || l.Migration != nil {
		t.Errorf("none: %+v, %v", l, err)
	}
	soon := time.Now().Add(time.Hour)
	e.put(with("core", "_lock", attrs{attrValue: bin("the-id"), attrIdentity: bin("x"), attrExpires: num(soon.UnixNano())}),
		with("core", "migration", attrs{attrValue: bin(`{"start":"2026-11-01T02:03:04Z","dyn2raft_run":"r1","dyn2raft_host":"h"}`)}))
	l, err := s.Locks(t.Context())
	e.ok(err)
	if l.Leader == nil || l.Leader.Expired || !l.Leader.Expires.Equal(soon) || !strings.Contains(l.Leader.Name, "the-id") || l.Leader.Run != "" {
		t.Errorf("leader %+v", l.Leader)
	}
	if l.Migration == nil || l.Migration.Run != "r1" {
		t.Errorf("migration %+v", l.Migration)
	}
	e.put(with("core", "_lock", attrs{attrValue: bin(holderPrefix + "r2"), attrIdentity: bin("r2"), attrExpires: num(time.Now().Add(-time.Hour).UnixNano())}),
		with("core", "migration", attrs{attrValue: bin("no JSON")}))
	if l, err = s.Locks(t.Context()); err != nil || !l.Leader.Expired || l.Leader.Run != "r2" || l.Migration.Run != "" {
		t.Errorf("%+v %+v, %v", l.Leader, l.Migration, err)
	}
}

func TestValue(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	e.put(with("core", "seal-config", attrs{attrValue: bin("{}")}))
	s, _ := e.source()
	if v, ok, err := s.Value(t.Context(), "core/seal-config"); err != nil || !ok || string(v) != "{}" {
		t.Errorf("%q, %v, %v", v, ok, err)
	}
	if v, ok, err := s.Value(t.Context(), "core/keyring"); err != nil || ok || v != nil {
		t.Errorf("%q, %v, %v", v, ok, err)
	}
}

// The sample costs half, tells throttles to whoever wants to know, and leaves
// the source that it came from as it is.
func TestSampler(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	e.put(with("a", "b", attrs{attrValue: bin("c")}))
	s, rec := e.source()
	var told recorder
	sampler, err := s.Sampler(t.Context(), 0, told.record)
	e.ok(err)
	quick(sampler)
	e.srv.SetFaults(&dynamotest.Fault{Kind: dynamotest.ThroughputExceeded, Operation: "Scan", Count: 1})
	var b copier.Batch
	page, err := sampler.Read(t.Context(), copier.Span{}, &b)
	e.ok(err)
	if page.Counts[ReadCapacityUnits] != 0.5 || b.Len() != 1 {
		t.Errorf("%v units for %d entries", page.Counts[ReadCapacityUnits], b.Len())
	}
	if got := eventsOf[copier.Retried](&told); len(got) != 1 || !got[0].Throttled {
		t.Errorf("told %v", got)
	}
	if got := eventsOf[copier.Retried](rec); len(got) != 0 {
		t.Errorf("the source was told %v", got)
	}
	if s.opts.EventuallyConsistent {
		t.Error("the source reads eventually consistent now")
	}
}
