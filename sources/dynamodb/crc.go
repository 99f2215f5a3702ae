package dynamodb

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"

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
// A Scan page that passes is decoded right here, see [scanTarget].
type crcCheck struct {
	events  func(copier.Event)
	missing sync.Once
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
	defer bodies.Put(buf)
	err = readBody(buf, resp.Response)
	resp.Body = http.NoBody // it is closed, and the SDK complains where it can't read on
	if err != nil {
		if ctx.Err() != nil {
			return out, meta, &smithy.CanceledError{Err: ctx.Err()} // not to be retried
		}
		return out, meta, &badResponseError{fmt.Errorf("read response: %w", err)}
	}
	if err := c.check(buf.Bytes(), resp.Header.Get(crcHeader), resp.StatusCode); err != nil {
		return out, meta, err
	}
	if resp.StatusCode != http.StatusOK {
		resp.Body = io.NopCloser(bytes.NewReader(bytes.Clone(buf.Bytes())))
		return out, meta, nil
	}
	if t, ok := ctx.Value(scanTargetKey{}).(*scanTarget); ok {
		decoded, err := t.fast(buf.Bytes())
		if err != nil {
			return out, meta, &badResponseError{err}
		}
		if decoded {
			resp.Body = io.NopCloser(strings.NewReader("{}")) // nothing is left for the SDK
			return out, meta, nil
		}
	}
	if op := middleware.GetOperationName(ctx); op == "Scan" || op == "Query" {
		if err := checkItems(buf.Bytes(), resp.Header.Get(crcHeader) != ""); err != nil {
			return out, meta, &badResponseError{err}
		}
	}
	resp.Body = io.NopCloser(bytes.NewReader(bytes.Clone(buf.Bytes())))
	return out, meta, nil
}

// errNoItems is returned for what is no answer to a Scan or a Query.
var errNoItems = errors.New("it has no Items and Count, as each answer of DynamoDB to a Scan has: something between may have answered (a proxy, a gateway, a wrong endpoint)")

// answerMembers are what an answer to a Scan or a Query has, as far as it is known.
var answerMembers = []string{"Items", "Count", "ScannedCount", "LastEvaluatedKey", "ConsumedCapacity"}

// checkItems looks for what each answer to a Scan or a Query has, also where no
// item was found. The SDK takes a body without it, or none at all, for the end of
// what was asked for: whatever sends such a thing would cut a segment off. So would
// a LastEvaluatedKey with one bit of its name changed: where no checksum tells that
// the body came as it was sent, a member that nobody knows is damage.
func checkItems(body []byte, sum bool) error {
	var answer map[string]json.RawMessage // names as they are; a struct takes others too
	if err := json.Unmarshal(body, &answer); err != nil {
		return fmt.Errorf("response of %d bytes: %w", len(body), err)
	}
	for name := range answer {
		if !sum && !slices.Contains(answerMembers, name) {
			return fmt.Errorf("response of %d bytes: it has a member %.64q, and no checksum tells that it was sent so", len(body), name)
		}
	}
	// Of a member that comes twice the SDK takes one, and what is no text in UTF-8
	// it hands on, or replaces: a key would be another one.
	if !jsontext.Value(body).IsValid() {
		return fmt.Errorf("response of %d bytes: a member of it comes twice, or a text is not UTF-8", len(body))
	}
	if !bytes.HasPrefix(answer["Items"], []byte("[")) || json.Unmarshal(answer["Count"], new(int64)) != nil || string(answer["Count"]) == "null" {
		return fmt.Errorf("response of %d bytes: %w", len(body), errNoItems)
	}
	return nil
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
		return &badResponseError{fmt.Errorf("response of %d bytes has CRC-32 %s, its header says %s", len(body), got, want)}
	}
	return nil
}

// bodies keeps the memory of response bodies for the next ones.
var bodies = sync.Pool{New: func() any { return new(bytes.Buffer) }}

// bodyMemory has room for the body of a page of 1 MB, and of some more.
const bodyMemory = 3 << 19

// readBody reads the whole body into buf and closes it.
func readBody(buf *bytes.Buffer, r *http.Response) error {
	defer func() { _ = r.Body.Close() }() // read to its end; nothing is left to fail
	switch n := r.ContentLength + bytes.MinRead; {
	case r.ContentLength <= 0 || n <= int64(buf.Available()) || n > 64<<20:
	case n > bodyMemory/8:
		*buf = *bytes.NewBuffer(memory.Make(int(max(n, bodyMemory))))
	default:
		buf.Grow(int(n))
	}
	n, err := buf.ReadFrom(r.Body)
	if err == nil && r.ContentLength >= 0 && n != r.ContentLength {
		err = io.ErrUnexpectedEOF
	}
	return err
}

// A badResponseError is an incomplete or damaged response. The SDK's retryer
// asks it whether to try again.
type badResponseError struct{ err error }

func (e *badResponseError) Error() string      { return e.err.Error() }
func (e *badResponseError) Unwrap() error      { return e.err }
func (*badResponseError) RetryableError() bool { return true }
