package dynamodb

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http/httptrace"
	"reflect"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/aws/retry"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb"
	"github.com/aws/aws-sdk-go-v2/service/dynamodbstreams"
	"github.com/aws/smithy-go"
	"github.com/dustin/go-humanize/english"

	"github.com/dyn2raft/dyn2raft/copier"
	"github.com/dyn2raft/dyn2raft/copier/ownbody"
)

// DefaultRetryFor is how long requests are tried again where Options.RetryFor
// is zero.
const DefaultRetryFor = 10 * time.Minute

// tries says how the requests of a source are tried again.
type tries struct {
	// lasting is how long the source tries while nothing succeeds. max bounds how
	// often one request is retried for other reasons than being throttled; a negative
	// number is no bound.
	lasting time.Duration
	max     int
	// base is the longest first wait between two tries. The bound doubles with each
	// wait, up to longest.
	base, longest time.Duration
	// timeout bounds one try, its response's body included. Half of what is left of
	// lasting bounds it too: one dead connection must not end the copy.
	timeout time.Duration
}

// defaultTries has waits of up to 20 s, or a second where a request was throttled,
// and a minute for one try.
var defaultTries = tries{
	lasting: DefaultRetryFor,
	max:     -1,
	base:    50 * time.Millisecond,
	longest: 20 * time.Second,
	timeout: time.Minute,
}

// These bound the tries of the very first request: a wrong endpoint must be reported
// at once.
const (
	prepareRetries = 3
	prepareLongest = time.Second
	prepareTimeout = 10 * time.Second
)

// lastTimeout is how long a try may take at least: the last one begins when
// nothing is left of the time.
const lastTimeout = time.Second

// throttledLongest bounds the wait of a throttled request. A table's capacity comes
// anew each second, and fewer workers ask for it after each throttling: whoever waits
// much longer leaves it unused, the last pages of a copy most of all.
const throttledLongest = time.Second

// wait is how long to wait after the nth try that failed: anything up to a
// bound that doubles, so that workers which failed together do not come back
// together.
func (t tries) wait(n int, throttled bool) time.Duration {
	bound := t.longest
	if throttled {
		bound = min(bound, throttledLongest)
	}
	if n <= 30 {
		bound = min(bound, t.base<<(n-1))
	}
	return rand.N(bound + 1)
}

// A request is one call of the API, with all of its tries. It belongs to one
// goroutine.
//
// The SDK's own retry loop is not used, though an aws.RetryerV2 can ask for unlimited
// tries. The loop keeps the error and the response of each try until the last one
// (aws/retry v1.48.0: 4 to 6 KB a try, measured): workers that are throttled for an
// hour would need gigabytes. And a RetryerV2 does not get the request's context, so it
// can't bound a try, which includes fetching credentials.
type request struct {
	// brief requests are given up within seconds.
	brief bool
	// units are the read capacity units that a try will probably cost: it waits
	// until those are there, see bucket.
	units float64
	// paths are how many of them are of items of each Path, see pathBound.
	paths map[string]float64
	// page is what the answer's items are decoded into; nil leaves them to the SDK.
	page *scanTarget
	// counts is where the tries that failed are counted, once one has succeeded.
	counts *copier.Page

	action            string // of the API, which is also the IAM action's name
	asked             bool   // it asks what it costs
	failed, throttled int64  // tries that failed, and those among them that were throttled
}

// briefly is a request that is given up within seconds.
var briefly = request{brief: true}

// repeated reports whether an earlier try of a refused request may have had its
// effect, and only its answer was lost.
func (q *request) repeated() bool { return q.failed-q.throttled > 1 }

// ask sends a request of the client until it succeeds, or until no try can help,
// and returns its answer. An error says what it means to the person who reads it,
// but for a condition that did not hold, which [conditionFailed] knows.
func ask[I, O any](ctx context.Context, s *Source, q *request, call func(context.Context, *I, ...func(*dynamodb.Options)) (*O, error), in *I) (*O, error) {
	return asking(ctx, s, q, in, func(ctx context.Context, through via) (*O, error) {
		return call(ctx, in, func(o *dynamodb.Options) { o.HTTPClient = through(o.HTTPClient) })
	})
}

// askStream is ask, for a request of the client of DynamoDB Streams.
func askStream[I, O any](ctx context.Context, s *Source, call func(context.Context, *I, ...func(*dynamodbstreams.Options)) (*O, error), in *I) (*O, error) {
	return asking(ctx, s, new(request), in, func(ctx context.Context, through via) (*O, error) {
		return call(ctx, in, func(o *dynamodbstreams.Options) { o.HTTPClient = through(o.HTTPClient) })
	})
}

func asking[I, O any](ctx context.Context, s *Source, q *request, in *I, call func(context.Context, via) (*O, error)) (out *O, err error) {
	q.action = strings.TrimSuffix(reflect.TypeFor[I]().Name(), "Input")
	q.asked = askForCapacity(in)
	err = s.send(ctx, q, func(ctx context.Context, through via) (err error) {
		out, err = call(ctx, through)
		return err
	})
	if _, refused := conditionFailed(err); err != nil && !refused {
		err = s.fail(ctx, q.action, err)
	}
	return out, err
}

// A pulse records whether the table still answers any request of a source. That
// decides whether a copy continues, and not how many tries of one request failed: see
// [Options.RetryFor].
type pulse struct {
	mu       sync.Mutex
	progress time.Time // when a read succeeded last, or a request was throttled
	answered bool      // a request succeeded once
}

// beat notes an answer: whether it was a good one, and whether it is progress.
func (p *pulse) beat(good, progress bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.answered = p.answered || good
	if progress {
		p.progress = time.Now()
	}
}

// nothingSince is how long nothing has succeeded. first is when the request that asks
// began its first failed try: time in which nothing was asked for does not count.
func (p *pulse) nothingSince(first time.Time) time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.progress.After(first) {
		first = p.progress
	}
	return time.Since(first)
}

// aside are the actions whose success is no progress: locks are renewed, and a stream
// is followed, all the time, also where no page can be read any more.
var aside = map[string]bool{"UpdateItem": true, "PutItem": true, "DescribeTable": true, "DescribeStream": true, "GetShardIterator": true, "GetRecords": true}

// ofStream are the actions that the capacity of a table does not bound.
var ofStream = map[string]bool{"DescribeStream": true, "GetShardIterator": true, "GetRecords": true}

// hasAnswered reports whether a request ever succeeded.
func (p *pulse) hasAnswered() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.answered
}

// A GaveUpError is the last error of a request that was given up.
type GaveUpError struct {
	Tries int
	// Nothing is for how long nothing succeeded, where that ended it.
	Nothing time.Duration
	// Prepare is set of the first requests, which are tried a few times only.
	Prepare bool
	Err     error
}

func (e *GaveUpError) Error() string { return e.what() + ": " + e.Err.Error() }

// Unwrap returns the last try's error.
func (e *GaveUpError) Unwrap() error { return e.Err }

func (e *GaveUpError) what() string {
	if e.Nothing > 0 {
		return fmt.Sprintf("nothing succeeded for %v (%s)", e.Nothing.Round(time.Millisecond), english.Plural(e.Tries, "try", "tries"))
	}
	return "after " + english.Plural(e.Tries, "try", "tries")
}

// A timeoutError is a try that took too long.
type timeoutError struct {
	after     time.Duration
	connected bool // there was a connection, TLS included
}

func (e *timeoutError) Error() string {
	if !e.connected {
		return fmt.Sprintf("no connection within %v", e.after)
	}
	return fmt.Sprintf("no complete answer within %v", e.after)
}
func (*timeoutError) Timeout() bool { return true }

// A sending is one try of a request. Its HTTP client leads through the source's [wire].
type sending func(ctx context.Context, through via) error

// A via puts something between a client of the SDK and its HTTP client. Those of
// DynamoDB and of DynamoDB Streams are of one interface.
type via func(dynamodb.HTTPClient) dynamodb.HTTPClient

// send sends a request until it succeeds, or until no try can help.
func (s *Source) send(ctx context.Context, q *request, call sending) error {
	t := s.tries
	if q.brief {
		if t.max < 0 || t.max > prepareRetries {
			t.max = prepareRetries
		}
		t.longest, t.timeout = min(t.longest, prepareLongest), min(t.timeout, prepareTimeout)
	}
	w := newWatch(s.opts.Events, copier.WaitAnswer, q.action)
	defer w.end()
	undecoded := 0
	var first time.Time // when the first try began that failed
	for {
		began, err := s.try(ctx, q, t, first, w, call)
		if err == nil {
			s.pulse.beat(true, !aside[q.action])
			if q.counts != nil {
				q.counts.Retries += q.failed
				q.counts.Throttles += q.throttled
			}
			return nil
		}
		if ctx.Err() != nil {
			return err
		}
		q.failed++
		throttled := isThrottle(err)
		switch {
		case throttled:
			w.now(copier.WaitThrottled)
			q.throttled++
			if !ofStream[q.action] {
				s.capacity.slow()
			}
			s.pulse.beat(false, true) // the service is there, and asks for fewer requests
		case !s.worthAnother(err):
			return err
		case isUndecoded(err) && undecoded >= mostUndecoded:
			return &GaveUpError{Tries: int(q.failed), Prepare: q.brief, Err: err}
		case first.IsZero():
			first = began
		}
		if isUndecoded(err) {
			undecoded++
		}
		wait := t.wait(int(q.failed), throttled)
		event := copier.Retried{Err: plain(err), Throttled: throttled}
		if !throttled {
			w.now(copier.WaitRetry)
			nothing := s.pulse.nothingSince(first)
			switch {
			case t.max >= 0 && q.failed-q.throttled > int64(t.max):
				if q.failed > 1 {
					err = &GaveUpError{Tries: int(q.failed), Prepare: q.brief, Err: err}
				}
				return err
			case nothing >= t.lasting:
				return &GaveUpError{Tries: int(q.failed), Nothing: nothing, Err: err}
			}
			wait = min(wait, t.lasting-nothing)
			event.Nothing, event.GiveUp = nothing, time.Now().Add(t.lasting-nothing)
		}
		s.opts.Events(event)
		if sleep(ctx, wait) != nil {
			return err
		}
	}
}

// try makes one try of a request, once there is capacity for it. first is when the
// first failed try began, and zero where none has failed.
func (s *Source) try(ctx context.Context, q *request, t tries, first time.Time, w *watch, call sending) (began time.Time, err error) {
	if len(q.paths) > 0 {
		before := w.now(copier.WaitCap)
		if err := s.paths.take(ctx, q.paths); err != nil {
			return began, err
		}
		w.now(before)
	}
	if s.capacity.rate > 0 && q.units > 0 {
		before := w.now(copier.WaitCap)
		if err := s.capacity.take(ctx, q.units); err != nil {
			return began, err
		}
		w.now(before)
	}
	using := s.creds.current()
	began = time.Now()
	timeout := t.lasting
	if !first.IsZero() {
		timeout -= s.pulse.nothingSince(first)
	}
	timeout = min(t.timeout, max(timeout/2, lastTimeout))
	tctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	var connected atomic.Bool
	tctx = httptrace.WithClientTrace(tctx, &httptrace.ClientTrace{GotConn: func(httptrace.GotConnInfo) { connected.Store(true) }})
	err = call(tctx, func(c dynamodb.HTTPClient) dynamodb.HTTPClient { return wire{ownbody.Client{HTTPClient: c}, s, q} })
	if err == nil || ctx.Err() != nil {
		return began, err
	}
	if tctx.Err() != nil {
		err = &timeoutError{timeout.Round(time.Millisecond), connected.Load()}
	}
	if costsNothing(err) {
		s.capacity.give(q.units)
	}
	if isCredentials(err) {
		s.creds.reload(using)
	}
	return began, err
}

// worthAnother reports whether another try can help: not where the service has
// understood the request and refuses it, nor where the request can't be sent
// at all. Everything else may be a fault on the way.
func (s *Source) worthAnother(err error) bool {
	var own interface{ RetryableError() bool } // of a damaged response, or a clock that the SDK corrects
	if errors.As(err, &own) {
		return own.RetryableError()
	}
	if isCredentials(err) {
		return s.pulse.hasAnswered() && s.creds.canChange()
	}
	var api smithy.APIError
	var status interface{ HTTPStatusCode() int }
	var cert *tls.CertificateVerificationError
	var params *smithy.InvalidParamsError
	var request *smithy.SerializationError
	switch {
	case errors.As(err, &cert), errors.As(err, &params), errors.As(err, &request):
		return false
	case !errors.As(err, &api):
		return true
	case errors.As(err, &status) && (status.HTTPStatusCode() >= 500 || status.HTTPStatusCode() == 429 || status.HTTPStatusCode() == 408):
		return true
	default:
		return retry.IsErrorRetryables(retry.DefaultRetryables).IsErrorRetryable(err) == aws.TrueTernary
	}
}

// isThrottle reports whether the service asked for fewer requests.
func isThrottle(err error) bool {
	return retry.IsErrorThrottles(retry.DefaultThrottles).IsErrorThrottle(err).Bool()
}

// isUndecoded reports whether a response came whole and can't be decoded.
func isUndecoded(err error) bool {
	bad, ok := errors.AsType[*badResponseError](err)
	return ok && bad.undecoded
}

// isCredentials reports whether the service refuses the credentials. Loading them
// anew may fix that.
func isCredentials(err error) bool {
	var api smithy.APIError
	if !errors.As(err, &api) {
		return false
	}
	switch api.ErrorCode() {
	case "ExpiredTokenException", "ExpiredToken", "UnrecognizedClientException", "InvalidSignatureException", "InvalidClientTokenId":
		return true
	}
	return false
}

// costsNothing reports whether a request that failed can't have consumed
// capacity: it was refused, or the service was not reached. One whose answer
// was lost or damaged has consumed it.
func costsNothing(err error) bool {
	var api smithy.APIError
	return errors.As(err, &api) || isDial(err)
}
