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
	"reflect"
	"strconv"
	"sync"
	"sync/atomic"

	"github.com/aws/aws-sdk-go-v2/service/dynamodb"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb/types"
	"github.com/go-json-experiment/json/jsontext"

	"github.com/dyn2raft/dyn2raft/copier"
	"github.com/dyn2raft/dyn2raft/copier/memory"
)

// crcHeader carries the CRC-32 (IEEE) of a response's body in decimal.
const crcHeader = "X-Amz-Crc32"

// answers is what is known of all answers to a source.
type answers struct {
	missing sync.Once
	// told is set once an answer said what the request had cost.
	told atomic.Bool
	// large is held by the one response at a time that is larger than any page
	// of Vault's items. It has room for one.
	large chan struct{}
}

// A wire is the HTTP client of one request. It reads a response to its end and
// compares it with its checksum before anything is decoded. The SDK (seen with
// service/dynamodb v1.73.2) only logs a mismatch and decodes the damaged body.
// A page that passes is decoded right here, see [scanTarget]. Of any other
// response it makes sure that it is an answer at all: of an empty body the SDK
// makes an empty answer, which would mean "no such item", or "done".
type wire struct {
	dynamodb.HTTPClient
	s *Source
	q *request
}

// Do returns the response beside an error, as far as there is one: the SDK wants
// its status.
func (w wire) Do(r *http.Request) (*http.Response, error) {
	resp, err := w.HTTPClient.Do(r)
	if err != nil {
		return resp, err
	}
	buf := bodies.Get().(*bytes.Buffer) //nolint:errcheck // it holds nothing else
	buf.Reset()
	done, err := w.s.answers.readBody(r.Context(), buf, resp)
	defer done()
	resp.Body = http.NoBody // it is closed, and the SDK complains where it can't read on
	if err != nil {
		return resp, &badResponseError{err: fmt.Errorf("read response: %w", err), final: errors.Is(err, errTooLarge)}
	}
	left, err := w.check(buf.Bytes(), resp)
	resp.Body = io.NopCloser(bytes.NewReader(left))
	return resp, err
}

// check checks the body of a response, and returns what of it the SDK shall decode.
func (w wire) check(body []byte, resp *http.Response) (left []byte, err error) {
	sum := resp.Header.Get(crcHeader)
	if err := w.s.checkSum(body, sum, resp.StatusCode); err != nil {
		return nil, err
	}
	if resp.StatusCode != http.StatusOK {
		return bytes.Clone(body), nil
	}
	told := false
	if t := w.q.page; t != nil {
		if err := t.decode(body, sum != ""); err != nil {
			return nil, err
		}
		told, left = t.told, []byte("{}") // nothing is left for the SDK
	} else {
		if told, err = checkAnswer(body, w.q.action, sum != ""); err != nil {
			return nil, &badResponseError{err: fmt.Errorf("response of %d bytes: %w", len(body), err), final: sum != "", undecoded: true}
		}
		left = bytes.Clone(body)
	}
	switch {
	case told:
		w.s.answers.told.Store(true)
	case w.q.asked && w.s.answers.told.Load():
		return nil, &badResponseError{err: errNotTold, undecoded: true}
	}
	return left, nil
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

// needed is what each answer to an operation has. The SDK takes one without it for an
// empty one: the end of a shard, or items that are not there.
var needed = map[string]string{
	"BatchGetItem": "Responses", "DescribeStream": "StreamDescription", "GetRecords": "Records", "GetShardIterator": "ShardIterator",
}

// checkAnswer looks whether a body that the SDK will decode is an answer to the
// operation, and returns whether it says what the request has cost.
func checkAnswer(body []byte, op string, checked bool) (told bool, err error) {
	if op == "Scan" || op == "Query" {
		d := pageDecoder{body: body, checked: checked}
		err := d.response(func(d *pageDecoder) error {
			_, bad, err := d.attrs()
			return cmp.Or(err, bad)
		})
		return d.told, err
	}
	var answer map[string]json.RawMessage // names as they are; a struct takes others too
	if json.Unmarshal(body, &answer) != nil || answer == nil {
		return false, errNoAnswer
	}
	if name := needed[op]; name != "" && answer[name] == nil {
		return false, fmt.Errorf("it has no %s, as each answer to %s has: something between may have answered (a proxy, a gateway, a wrong endpoint)", name, op)
	}
	if op == "GetRecords" && !checked {
		for name := range answer {
			if name != "Records" && name != "NextShardIterator" { // without that the shard would have ended
				return false, fmt.Errorf("it has a member %.64q, and no checksum shows that it was sent so", name)
			}
		}
	}
	// Of a member that comes twice the SDK takes one, and what is no text in UTF-8
	// it replaces.
	if !jsontext.Value(body).IsValid() {
		return false, errors.New("a member of it comes twice, or a text is not UTF-8")
	}
	return answer["ConsumedCapacity"] != nil, nil
}

// askForCapacity lets a request ask what it costs, and reports whether it can. All
// that can do: the cap on read capacity needs it, and who answers in the service's
// place is noticed.
func askForCapacity(in any) bool {
	total := reflect.ValueOf(in).Elem().FieldByName("ReturnConsumedCapacity")
	if total.IsValid() {
		total.SetString(string(types.ReturnConsumedCapacityTotal))
	}
	return total.IsValid()
}

// checkSum compares a body with its checksum. Errors without one are a proxy's,
// and tell nothing about how the table's responses arrive.
func (s *Source) checkSum(body []byte, want string, status int) error {
	if want == "" {
		if status != http.StatusOK {
			return nil
		}
		s.answers.missing.Do(func() {
			s.opts.Events(copier.Warning{Message: "responses come without " + crcHeader +
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
func (a *answers) readBody(ctx context.Context, buf *bytes.Buffer, r *http.Response) (done func(), err error) {
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
			case a.large <- struct{}{}:
			case <-ctx.Done():
				return done, ctx.Err()
			}
			done = func() { <-a.large } // and the buffer is not kept
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

// A badResponseError is an incomplete or damaged response. The loop of tries asks it
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
