package dynamodb

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/aws/aws-sdk-go-v2/service/dynamodb"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb/types"
	"github.com/aws/smithy-go"
	"github.com/aws/smithy-go/middleware"
	smithyhttp "github.com/aws/smithy-go/transport/http"
	"github.com/go-json-experiment/json/jsontext"

	"github.com/dyn2raft/dyn2raft/copier"
	"github.com/dyn2raft/dyn2raft/copier/memory"
)

// crcHeader carries the CRC-32 (IEEE) of a response's body in decimal.
const crcHeader = "X-Amz-Crc32"

// A crcCheck is a middleware that reads a response to its end and compares it
// with its checksum before anything is decoded. The SDK (seen with
// service/dynamodb v1.73.2) only logs a mismatch and decodes the damaged body.
// A page that passes is decoded right here, see [scanTarget]. Of any other
// response it makes sure that it is an answer at all: of an empty body the SDK
// makes an empty answer, which would mean "no such item", or "done".
type crcCheck struct {
	events  func(copier.Event)
	missing sync.Once
	// told is set once an answer said what the request had cost.
	told atomic.Bool
	// large is held by the one response at a time that is larger than any page
	// of Vault's items. It has room for one.
	large chan struct{}
}

var _ middleware.DeserializeMiddleware = (*crcCheck)(nil)

func (*crcCheck) ID() string { return "dyn2raft:CheckCRC32" }

func (c *crcCheck) HandleDeserialize(ctx context.Context, in middleware.DeserializeInput, next middleware.DeserializeHandler) (
	middleware.DeserializeOutput, middleware.Metadata, error,
) {
	out, meta, err := next.HandleDeserialize(ctx, in)
	resp, ok := out.RawResponse.(*smithyhttp.Response)
	if err != nil || !ok || resp.Response == nil || resp.Body == nil {
		return out, meta, err // without a response there is nothing to check
	}
	buf := bodies.Get().(*bytes.Buffer) //nolint:errcheck // it holds nothing else
	buf.Reset()
	done, err := c.readBody(ctx, buf, resp.Response)
	defer done()
	resp.Body = http.NoBody // it is closed, and the SDK complains where it can't read on
	if err != nil {
		if ctx.Err() != nil {
			return out, meta, &smithy.CanceledError{Err: ctx.Err()} // not to be retried
		}
		return out, meta, &badResponseError{err: fmt.Errorf("read response: %w", err), final: errors.Is(err, errTooLarge)}
	}
	sum := resp.Header.Get(crcHeader)
	if err := c.check(buf.Bytes(), sum, resp.StatusCode); err != nil {
		return out, meta, err
	}
	if resp.StatusCode != http.StatusOK {
		resp.Body = io.NopCloser(bytes.NewReader(bytes.Clone(buf.Bytes())))
		return out, meta, nil
	}
	t, page := ctx.Value(scanTargetKey{}).(*scanTarget)
	told := false
	if page {
		if err := t.decode(buf.Bytes(), sum != ""); err != nil {
			return out, meta, err
		}
		told = t.told
		resp.Body = io.NopCloser(strings.NewReader("{}")) // nothing is left for the SDK
	} else {
		if told, err = checkAnswer(buf.Bytes(), middleware.GetOperationName(ctx), sum != ""); err != nil {
			return out, meta, &badResponseError{err: fmt.Errorf("response of %d bytes: %w", buf.Len(), err), final: sum != "", undecoded: true}
		}
		resp.Body = io.NopCloser(bytes.NewReader(bytes.Clone(buf.Bytes())))
	}
	switch {
	case told:
		c.told.Store(true)
	case asksForCapacity(middleware.GetOperationName(ctx)) && c.told.Load():
		return out, meta, &badResponseError{err: errNotTold, undecoded: true}
	}
	return out, meta, nil
}

// errNoItems is returned for what is no answer to a Scan or a Query.
var errNoItems = errors.New("it has no Items and Count, as each answer of DynamoDB to a Scan has: something between may have answered (a proxy, a gateway, a wrong endpoint)")

// errNotTold is returned for an answer that does not say what the request has
// cost, where earlier ones did. An emulator that never says it is taken as it is.
var errNotTold = errors.New("the response has no ConsumedCapacity, which those before it had: something between may have answered (a proxy, a gateway)")

// errNoAnswer is returned for a body that is no JSON object.
var errNoAnswer = errors.New("it is not the JSON object that each answer of DynamoDB is: something between may have answered (a proxy, a gateway, a wrong endpoint)")

// answerMembers are what an answer to a Scan or a Query has, as far as it is known.
var answerMembers = []string{"Items", "Count", "ScannedCount", "LastEvaluatedKey", "ConsumedCapacity"}

// checkAnswer looks whether a body that the SDK will decode is an answer to the
// operation, and returns whether it says what the request has cost.
func checkAnswer(body []byte, op string, checked bool) (told bool, err error) {
	if op == "Scan" || op == "Query" {
		a, err := readAnswer(body, checked)
		for _, item := range append(a.items, readItem{err: a.lastErr}) {
			err = cmp.Or(err, item.err)
		}
		return a.told, err
	}
	var answer map[string]json.RawMessage // names as they are; a struct takes others too
	if json.Unmarshal(body, &answer) != nil || answer == nil {
		return false, errNoAnswer
	}
	// Of a member that comes twice the SDK takes one, and what is no text in UTF-8
	// it replaces.
	if !jsontext.Value(body).IsValid() {
		return false, errors.New("a member of it comes twice, or a text is not UTF-8")
	}
	return answer["ConsumedCapacity"] != nil, nil
}

// asksForCapacity reports whether requests of an operation ask what they cost,
// see askForCapacity.
func asksForCapacity(op string) bool {
	switch op {
	case "Scan", "Query", "GetItem", "PutItem", "UpdateItem", "DeleteItem":
		return true
	}
	return false
}

// askForCapacity lets a request ask what it costs. All that can do: the cap on
// read capacity needs it, and who answers in the service's place is noticed.
func askForCapacity(in any) {
	const total = types.ReturnConsumedCapacityTotal
	switch in := in.(type) {
	case *dynamodb.ScanInput:
		in.ReturnConsumedCapacity = total
	case *dynamodb.QueryInput:
		in.ReturnConsumedCapacity = total
	case *dynamodb.GetItemInput:
		in.ReturnConsumedCapacity = total
	case *dynamodb.PutItemInput:
		in.ReturnConsumedCapacity = total
	case *dynamodb.UpdateItemInput:
		in.ReturnConsumedCapacity = total
	case *dynamodb.DeleteItemInput:
		in.ReturnConsumedCapacity = total
	}
}

// check compares a body with its checksum. Errors without one are a proxy's,
// and tell nothing about how the table's responses arrive.
func (c *crcCheck) check(body []byte, want string, status int) error {
	if want == "" {
		if status != http.StatusOK {
			return nil
		}
		c.missing.Do(func() {
			c.events(copier.Warning{Message: "responses come without " + crcHeader +
				", so what a faulty network changes on the way can't be noticed: use an https endpoint, or a proxy that passes the header on"})
		})
		return nil
	}
	if got := strconv.FormatUint(uint64(crc32.ChecksumIEEE(body)), 10); got != want {
		return &badResponseError{err: fmt.Errorf("response of %d bytes has CRC-32 %s, its header says %s", len(body), got, want)}
	}
	return nil
}

// bodies keeps the memory of response bodies for the next ones.
var bodies = sync.Pool{New: func() any { return new(bytes.Buffer) }}

const (
	// bodyMemory has room for the body of a page of 1 MB, and of some more.
	bodyMemory = 3 << 19
	// usualBody is more than a page of Vault's items has, be they ever so small.
	usualBody = 4 << 20
	// mostBody is more than DynamoDB can send: a page is 1 MB of items, and JSON
	// makes at the most 14 times as many bytes of it (of lists of NULLs).
	mostBody = 16 << 20
)

// errTooLarge is returned for a body of more than mostBody bytes.
var errTooLarge = errors.New("it has more than 16 MiB, which is more than DynamoDB sends: something else answers there")

// readBody reads the whole body into buf and closes it. done gives the buffer
// back, and must be called.
func (c *crcCheck) readBody(ctx context.Context, buf *bytes.Buffer, r *http.Response) (done func(), err error) {
	defer func() { _ = r.Body.Close() }() // read to its end, or given up; nothing is left to fail
	done = func() { bodies.Put(buf) }
	if r.ContentLength > mostBody {
		return done, errTooLarge
	}
	var n int64
	for _, room := range []int64{bodyMemory, usualBody, mostBody + 1} {
		if room > usualBody {
			// One such body at a time, so that as many as there are workers don't
			// come to more than the budget of memory has room for.
			select {
			case c.large <- struct{}{}:
			case <-ctx.Done():
				return done, ctx.Err()
			}
			done = func() { <-c.large } // and the buffer is not kept
		}
		more := room - n
		if r.ContentLength >= 0 {
			more = min(more, r.ContentLength-n)
		}
		switch need := int(more) + bytes.MinRead; {
		case need <= buf.Available():
		case n == 0 && need > bodyMemory/8:
			*buf = *bytes.NewBuffer(memory.Make(max(need, bodyMemory)))
		default:
			buf.Grow(need)
		}
		var got int64
		got, err = buf.ReadFrom(io.LimitReader(r.Body, room-n))
		if n += got; err != nil || n < room {
			break
		}
	}
	switch {
	case err != nil:
	case n > mostBody:
		err = errTooLarge
	case r.ContentLength >= 0 && n != r.ContentLength:
		err = io.ErrUnexpectedEOF
	}
	return done, err
}

// mostUndecoded is how many times a request is tried again because its answer
// can't be decoded, though it came whole: what damages answers on the way does
// not hit each.
const mostUndecoded = 5

// A badResponseError is an incomplete or damaged response. The retrier asks it
// whether to try again.
type badResponseError struct {
	err error
	// final is set where no other try can help: it was sent so.
	final bool
	// undecoded is set of one that came whole: it is tried mostUndecoded times.
	undecoded bool
}

func (e *badResponseError) Error() string        { return e.err.Error() }
func (e *badResponseError) Unwrap() error        { return e.err }
func (e *badResponseError) RetryableError() bool { return !e.final }
