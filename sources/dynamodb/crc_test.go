package dynamodb

import (
	"bytes"
	"context"
	"errors"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb/types"
	"github.com/aws/smithy-go/logging"

	"github.com/dyn2raft/dyn2raft/copier"
	"github.com/dyn2raft/dyn2raft/sources/dynamodb/dynamotest"
)

// faults are the ways in which one response can fail and the next one be good.
var faults = []struct {
	kind      dynamotest.FaultKind
	throttled bool
}{
	{dynamotest.CorruptByte, false},
	{dynamotest.WrongCRC, false},
	{dynamotest.Truncate, false},
	{dynamotest.ResetMidBody, false},
	{dynamotest.ResetConnection, false},
	{dynamotest.InternalServerError, false},
	{dynamotest.ServiceUnavailable, false},
	{dynamotest.ThroughputExceeded, true},
	{dynamotest.Throttling, true},
	{dynamotest.RequestLimitExceeded, true},
}

// TestBadResponsesAreReadAgain lets pages fail, both those that this package
// decodes and those that it leaves to the SDK.
func TestBadResponsesAreReadAgain(t *testing.T) {
	t.Parallel()
	for _, f := range faults {
		t.Run(string(f.kind), func(t *testing.T) {
			t.Parallel()
			for _, sdk := range []bool{false, true} {
				e := newEnv(t)
				want := e.fill(300)
				if sdk {
					odd := with("a", "odd", attrs{"Value": bin("v"), "m": &types.AttributeValueMemberM{Value: attrs{"x": null}}})
					e.put(odd)
					want["a/odd"] = "v"
				}
				fault := &dynamotest.Fault{Kind: f.kind, Operation: "Scan", After: 1, Count: 2}
				e.srv.SetFaults(fault)
				s, rec := e.source()
				var got found
				e.ok(got.read(t.Context(), s, segments(3)))
				got.exactly(t, want)
				if fault.Fired() != 2 {
					t.Errorf("the fault fired %d times", fault.Fired())
				}
				retried := eventsOf[copier.Retried](rec)
				if len(retried) != 2 {
					t.Errorf("%d events Retried", len(retried))
				}
				for _, r := range retried {
					if r.Throttled != f.throttled || r.Err == nil {
						t.Errorf("event %+v, expected Throttled %v", r, f.throttled)
					}
				}
			}
		})
	}
}

// TestLastingFaultEndsInAnError lets a page fail each time.
func TestLastingFaultEndsInAnError(t *testing.T) {
	t.Parallel()
	for _, f := range faults {
		if f.throttled {
			continue // which never ends a copy: see TestManyThrottles
		}
		t.Run(string(f.kind), func(t *testing.T) {
			t.Parallel()
			e := newEnv(t)
			e.fill(50)
			fault := &dynamotest.Fault{Kind: f.kind, Operation: "Scan"}
			e.srv.SetFaults(fault)
			s, _ := e.source(retries(2))
			var b copier.Batch
			b.Append([]byte("before"), []byte("x"))
			page, err := s.Read(t.Context(), copier.Span{}, &b)
			if !errors.Is(err, copier.ErrSource) || !strings.Contains(err.Error(), "Scan on table vault") {
				t.Errorf("error is %v", err)
			}
			if b.Len() != 1 || b.Bytes() != 7 || len(page.Next) != 0 {
				t.Errorf("%d entries in the batch, page %+v", b.Len(), page)
			}
			if fault.Fired() != 3 {
				t.Errorf("%d tries, expected 3", fault.Fired())
			}
			if !strings.Contains(err.Error(), "after 3 tries: ") || !strings.HasPrefix(coded(err), "gave-up map[limit:number ") {
				t.Errorf("error %v, %v", err, coded(err))
			}
			e.srv.SetFaults()
			var again found
			e.ok(again.read(t.Context(), s, []copier.Span{{}}))
		})
	}
}

// TestSDKAloneTakesDamagedPages shows that the faults of the tests above do
// damage: the SDK alone returns them as good.
func TestSDKAloneTakesDamagedPages(t *testing.T) {
	t.Parallel()
	for _, kind := range []dynamotest.FaultKind{dynamotest.CorruptByte, dynamotest.WrongCRC} {
		e := newEnv(t)
		value := bytes.Repeat([]byte("The quick brown fox "), 1000)
		e.put(with("a", "b", attrs{"Value": bin(string(value))}))
		fault := &dynamotest.Fault{Kind: kind, Operation: "Scan", Count: 1}
		e.srv.SetFaults(fault)
		plain := e.srv.Client(func(o *dynamodb.Options) { o.Logger = logging.Nop{} })
		out, err := plain.Scan(t.Context(), &dynamodb.ScanInput{TableName: aws.String("vault")})
		if err != nil || len(out.Items) != 1 {
			t.Fatalf("%s: the SDK alone returned %v: then wire may not be needed any more", kind, err)
		}
		same := bytes.Equal(out.Items[0]["Value"].(*types.AttributeValueMemberB).Value, value)
		if same != (kind == dynamotest.WrongCRC) || fault.Fired() != 1 {
			t.Errorf("%s: the value is the right one: %v; the fault fired %d times", kind, same, fault.Fired())
		}

		fault = &dynamotest.Fault{Kind: kind, Operation: "Scan", Count: 1}
		e.srv.SetFaults(fault)
		got, _, err := e.readOne()
		e.ok(err)
		if !maps.Equal(got, map[string]string{"a/b": string(value)}) || fault.Fired() != 1 {
			t.Errorf("%s: we read %d entries, the fault fired %d times", kind, len(got), fault.Fired())
		}
	}
}

// TestBadAnswersToOtherRequests: the checksum is checked for all of them.
func TestBadAnswersToOtherRequests(t *testing.T) {
	t.Parallel()
	for _, kind := range []dynamotest.FaultKind{dynamotest.CorruptByte, dynamotest.WrongCRC, dynamotest.Truncate} {
		e := newEnv(t)
		fault := &dynamotest.Fault{Kind: kind, Operation: "DescribeTable", Count: 1}
		e.srv.SetFaults(fault)
		s, _ := e.source(retries(1)) // so that Prepare keeps the quick retries
		info, err := s.Open(t.Context())
		e.ok(err)
		if info.Name != "vault" || fault.Fired() != 1 {
			t.Errorf("%s: info %+v, the fault fired %d times", kind, info, fault.Fired())
		}
	}
}

// TestNoChecksum reads through a proxy that drops the checksum.
func TestNoChecksum(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	want := e.fill(100)
	backend, err := url.Parse(e.url)
	e.ok(err)
	proxy := httputil.NewSingleHostReverseProxy(backend)
	transport := &http.Transport{}
	t.Cleanup(transport.CloseIdleConnections)
	proxy.Transport = transport
	fail := true
	proxy.ModifyResponse = func(r *http.Response) error {
		r.Header.Del("X-Amz-Crc32")
		return nil
	}
	front := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if fail { // the first request: a proxy's own error has no checksum either
			fail = false
			w.WriteHeader(http.StatusBadGateway)
			return
		}
		proxy.ServeHTTP(w, r)
	}))
	t.Cleanup(front.Close)
	s, rec := e.sourceAt(front.URL)
	var got found
	e.ok(got.read(t.Context(), s, []copier.Span{{}}))
	got.exactly(t, want)
	warnings := eventsOf[copier.Warning](rec)
	if len(warnings) != 1 || !strings.Contains(warnings[0].Message, "X-Amz-Crc32") {
		t.Errorf("warnings: %v", warnings)
	}
}

// TestNoResponse: a connection that fails is no response without a checksum.
func TestNoResponse(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	e.srv.Close()
	s, rec := e.source(retries(1))
	var b copier.Batch
	if _, err := s.Read(t.Context(), copier.Span{}, &b); !errors.Is(err, copier.ErrSource) {
		t.Errorf("error is %v", err)
	}
	if w := eventsOf[copier.Warning](rec); len(w) != 0 {
		t.Errorf("warnings: %v", w)
	}
}

// TestCancelledInTheBody: a read that is interrupted is not tried again.
func TestCancelledInTheBody(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Length", "100")
		_, _ = io.WriteString(w, `{"Count":`)
		_ = http.NewResponseController(w).Flush()
		time.AfterFunc(30*time.Millisecond, cancel)
		<-r.Context().Done()
	}))
	t.Cleanup(srv.Close)
	s, rec := e.sourceAt(srv.URL)
	var b copier.Batch
	_, err := s.Read(ctx, copier.Span{}, &b)
	if !errors.Is(err, context.Canceled) || b.Len() != 0 {
		t.Errorf("error %v, %d entries", err, b.Len())
	}
	if r := eventsOf[copier.Retried](rec); len(r) != 0 {
		t.Errorf("what was cancelled was retried: %v", r)
	}
}
