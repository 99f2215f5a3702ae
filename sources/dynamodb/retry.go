package dynamodb

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http/httptrace"
	"sync"
	"sync/atomic"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/aws/retry"
	"github.com/aws/smithy-go"
	"github.com/aws/smithy-go/middleware"
	"github.com/dustin/go-humanize/english"

	"github.com/dyn2raft/dyn2raft/copier"
)

// DefaultRetryFor is how long requests are tried again where Options.RetryFor
// is zero.
const DefaultRetryFor = 10 * time.Minute

// tries says how the requests of a source are tried again.
type tries struct {
	// lasting is for how long nothing may have succeeded, and max, where it is
	// not negative, how often a request may be tried again for other reasons
	// than being throttled.
	lasting time.Duration
	max     int
	// Of the waits between two tries the first is at most base, and each may
	// be twice as long as the one before, up to longest.
	base, longest time.Duration
	// timeout bounds one try, its response's body included. So does half of what is
	// left of lasting, where that is less: one connection that is dead shall not end
	// it all.
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

// These bound the tries of the very first request: a wrong endpoint shall be told
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

// A retrier is a middleware that tries requests again. The SDK's own retries
// count tries; but whether a copy shall go on does not depend on how many
// failed. It depends on whether the table still answers anybody, for which all
// requests of a source are looked at together: see [Options.RetryFor].
type retrier struct {
	tries
	events   func(copier.Event)
	creds    *credentialsLoader
	capacity *bucket

	mu       sync.Mutex
	progress time.Time // when a read succeeded last, or a request was throttled
	answered bool      // a request succeeded once
}

var _ middleware.InitializeMiddleware = (*retrier)(nil)

func (*retrier) ID() string { return "dyn2raft:Retry" }

// A triedBeforeError is the error of a request of which an earlier try may have
// had its effect: its answer was lost.
type triedBeforeError struct{ error }

func (e *triedBeforeError) Unwrap() error { return e.error }

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

// triesKey is the metadata's key of a triesMade.
type triesKey struct{}

// A triesMade counts the tries that failed before a response came, and those
// among them that were throttled.
type triesMade struct{ failed, throttled int64 }

// fewTriesKey is the context's key for a request that is not to be tried for
// long.
type fewTriesKey struct{}

// HandleInitialize sends a request until it succeeds, or until no try can help.
// It wraps all of the SDK's work, so that each try is signed anew.
func (r *retrier) HandleInitialize(ctx context.Context, in middleware.InitializeInput, next middleware.InitializeHandler) (
	middleware.InitializeOutput, middleware.Metadata, error,
) {
	t := r.tries
	few := ctx.Value(fewTriesKey{}) != nil
	if few {
		if t.max < 0 || t.max > prepareRetries {
			t.max = prepareRetries
		}
		t.longest, t.timeout = min(t.longest, prepareLongest), min(t.timeout, prepareTimeout)
	}
	askForCapacity(in.Parameters)
	w := newWatch(r.events, copier.WaitAnswer, middleware.GetOperationName(ctx))
	defer w.end()
	var made triesMade
	undecoded := 0
	var first time.Time // when the first try began that failed
	for {
		out, meta, began, err := r.try(ctx, in, next, t, first, w)
		if err == nil {
			r.succeeded(ctx)
			meta.Set(triesKey{}, made)
			return out, meta, nil
		}
		if ctx.Err() != nil {
			return out, meta, err
		}
		made.failed++
		throttled := isThrottle(err)
		switch {
		case throttled:
			w.now(copier.WaitThrottled)
			made.throttled++
			r.throttled()
		case !r.worthAnother(err):
			if made.failed-made.throttled > 1 {
				err = &triedBeforeError{err}
			}
			return out, meta, err
		case isUndecoded(err) && undecoded >= mostUndecoded:
			return out, meta, &GaveUpError{Tries: int(made.failed), Prepare: few, Err: err}
		case first.IsZero():
			first = began
		}
		if isUndecoded(err) {
			undecoded++
		}
		wait := t.wait(int(made.failed), throttled)
		event := copier.Retried{Err: plain(err), Throttled: throttled}
		if !throttled {
			w.now(copier.WaitRetry)
			nothing := r.nothingSince(first)
			switch {
			case t.max >= 0 && made.failed-made.throttled > int64(t.max):
				if made.failed > 1 {
					err = &GaveUpError{Tries: int(made.failed), Prepare: few, Err: err}
				}
				return out, meta, err
			case nothing >= t.lasting:
				return out, meta, &GaveUpError{Tries: int(made.failed), Nothing: nothing, Err: err}
			}
			wait = min(wait, t.lasting-nothing)
			event.Nothing, event.GiveUp = nothing, time.Now().Add(t.lasting-nothing)
		}
		r.events(event)
		if sleep(ctx, wait) != nil {
			return out, meta, err
		}
	}
}

// try makes one try of a request, another of which began at first and failed, if
// any has. It begins when there is capacity for it.
func (r *retrier) try(ctx context.Context, in middleware.InitializeInput, next middleware.InitializeHandler, t tries, first time.Time, w *watch) (
	out middleware.InitializeOutput, meta middleware.Metadata, began time.Time, err error,
) {
	cost, _ := ctx.Value(costKey{}).(float64)
	if r.capacity.rate > 0 && cost > 0 {
		before := w.now(copier.WaitCap)
		if err := r.capacity.take(ctx, cost); err != nil {
			return out, meta, began, err
		}
		w.now(before)
	}
	using := r.creds.current()
	began = time.Now()
	timeout := t.lasting
	if !first.IsZero() {
		timeout -= r.nothingSince(first)
	}
	timeout = min(t.timeout, max(timeout/2, lastTimeout))
	tctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	var connected atomic.Bool
	tctx = httptrace.WithClientTrace(tctx, &httptrace.ClientTrace{GotConn: func(httptrace.GotConnInfo) { connected.Store(true) }})
	out, meta, err = next.HandleInitialize(tctx, in)
	if err == nil || ctx.Err() != nil {
		return out, meta, began, err
	}
	switch {
	case tctx.Err() != nil:
		err = &timeoutError{timeout.Round(time.Millisecond), connected.Load()}
	}
	if costsNothing(err) {
		r.capacity.give(cost)
	}
	if isCredentials(err) {
		r.creds.reload(using)
	}
	return out, meta, began, err
}

// succeeded notes a success. Only reads count as progress: the lock is renewed
// all the time, also where no page can be read any more.
func (r *retrier) succeeded(ctx context.Context) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.answered = true
	if middleware.GetOperationName(ctx) != "UpdateItem" {
		r.progress = time.Now()
	}
}

// throttled notes that the service is there, and asks for fewer requests.
func (r *retrier) throttled() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.progress = time.Now()
}

// nothingSince is for how long nothing has succeeded, as far as a request knows
// whose first try that failed began at that time. A time at which nothing was asked for does
// not count.
func (r *retrier) nothingSince(first time.Time) time.Duration {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.progress.After(first) {
		first = r.progress
	}
	return time.Since(first)
}

// worthAnother reports whether another try can help: not where the service has
// understood the request and refuses it, nor where the request can't be sent
// at all. Everything else may be a fault on the way.
func (r *retrier) worthAnother(err error) bool {
	var own interface{ RetryableError() bool } // of a damaged response, or a clock that the SDK corrects
	if errors.As(err, &own) {
		return own.RetryableError()
	}
	if isCredentials(err) {
		r.mu.Lock()
		defer r.mu.Unlock()
		return r.answered && r.creds.canChange()
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

// isUndecoded reports whether a response came whole and can't be decoded.
func isUndecoded(err error) bool {
	bad, ok := errors.AsType[*badResponseError](err)
	return ok && bad.undecoded
}

// isCredentials reports whether the service does not take the credentials, which
// others, loaded anew, may cure.
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
