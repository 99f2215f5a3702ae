package dynamodb

import (
	"bytes"
	"context"
	"errors"
	"fmt"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/aws/retry"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb/types"

	"github.com/aws/smithy-go/middleware"

	"github.com/dyn2raft/dyn2raft/copier"
)

// A scanTarget is where the entries of one Scan or Query response go. It travels in the
// request's context to the middleware that has the response's body.
type scanTarget struct {
	b    *copier.Batch
	from int // the batch's length before the request

	limit int     // the items of the page at the most; 0 is no limit
	cost  float64 // what it will probably cost, for the bucket

	until *position // what is behind its item is cut, where it is set
	found bool      // that item was in the response
	// cutOff counts the items that were cut.
	cutOff int64

	done bool // decoded and err say what was in the response
	decoded
	err error // of slow
}

// A decoded is what was in a page, beside its entries.
type decoded struct {
	page  copier.Page
	last  *position // LastEvaluatedKey
	order order
}

// An order watches whether the items of one Path come in the order of their
// Keys, as they were always seen to: AWS documents that for Query, and for
// Scan not at all.
type order struct {
	first     position // the first item
	descends  bool     // an item's Key was not greater than that of the one before, in one Path
	path, key []byte   // the last item
}

func (o *order) see(path, key []byte) {
	if o.path == nil {
		o.first = position{Path: string(path), Key: string(key)}
	} else if bytes.Equal(path, o.path) && bytes.Compare(key, o.key) <= 0 {
		o.descends = true
	}
	o.path, o.key = path, key
}

// after tells whether all items come behind pos, as far as they are of its
// Path, and in order.
func (o *order) after(pos *position) bool {
	return !o.descends && (o.first.Path != pos.Path || o.first.Key > pos.Key)
}

// scanTargetKey is the context's key of a *scanTarget.
type scanTargetKey struct{}

// in returns the context of the target's request.
func (t *scanTarget) in(ctx context.Context) context.Context {
	return context.WithValue(context.WithValue(ctx, scanTargetKey{}, t), costKey{}, t.cost)
}

// limited is the Limit of the request, nil for none.
func (t *scanTarget) limited() *int32 {
	if t.limit == 0 {
		return nil
	}
	return aws.Int32(int32(t.limit))
}

// items is how many items the page had.
func (t *scanTarget) items() int64 {
	return int64(t.b.Len()-t.from) + t.page.Markers + int64(len(t.page.Locks)) + t.cutOff
}

// fast decodes a body straight into the batch. It returns whether that was
// possible, and an error for a response that must be read again. After a retry
// it is called anew.
func (t *scanTarget) fast(body []byte) (bool, error) {
	t.b.Truncate(t.from)
	if t.until != nil {
		t.page.WireBytes = int64(len(body))
		return false, nil
	}
	var err error
	t.decoded, err = decodePage(body, t.b)
	t.done = err == nil
	if err != nil {
		t.b.Truncate(t.from)
	}
	switch {
	case err == nil:
		return true, nil
	case errors.Is(err, errOtherShape):
		t.page.WireBytes = int64(len(body))
		return false, nil
	default:
		return false, err
	}
}

// countTries counts the tries that failed before a response came.
func countTries(page *copier.Page, m middleware.Metadata) {
	made, _ := m.Get(triesKey{}).(triesMade)
	page.Retries += made.failed
	page.Throttles += made.throttled
}

// isThrottle tells whether the service asked for fewer requests.
func isThrottle(err error) bool {
	return retry.IsErrorThrottles(retry.DefaultThrottles).IsErrorThrottle(err).Bool()
}

// slow takes what the SDK has decoded.
func (t *scanTarget) slow(items []map[string]types.AttributeValue, count int32, last map[string]types.AttributeValue, used *types.ConsumedCapacity) {
	t.done = true
	if int(count) != len(items) {
		t.err = errCount
		return
	}
	if len(last) > 0 {
		path, ok1 := last[attrPath].(*types.AttributeValueMemberS)
		key, ok2 := last[attrKey].(*types.AttributeValueMemberS)
		if !ok1 || !ok2 {
			t.err = errors.New("the response's LastEvaluatedKey has no Path and Key of type S")
			return
		}
		t.last = &position{Path: path.Value, Key: key.Value}
	}
	if t.until != nil {
		items = t.cut(items, t.last)
	}
	if t.err = addItems(items, t.b, &t.decoded); t.err != nil {
		return
	}
	if used != nil {
		t.page.Units = aws.ToFloat64(used.CapacityUnits)
	}
}

func addItems(items []map[string]types.AttributeValue, b *copier.Batch, d *decoded) error {
	for _, item := range items {
		path, ok1 := item[attrPath].(*types.AttributeValueMemberS)
		key, ok2 := item[attrKey].(*types.AttributeValueMemberS)
		if !ok1 || !ok2 {
			return fmt.Errorf("%w: an item without a Path and a Key of type S", ErrNotVaultItem)
		}
		d.order.see([]byte(path.Value), []byte(key.Value))
		r := record{path: path.Value, key: key.Value}
		var value []byte
		switch v := item[attrValue].(type) {
		case nil:
		case *types.AttributeValueMemberB:
			r.value, value = valueBinary, v.Value
			r.empty = len(value) == 0
		case *types.AttributeValueMemberNULL:
			r.value = valueNull
		default:
			r.value, r.valueName = valueOther, typeName(v)
		}
		_, r.identity = item[attrIdentity].(*types.AttributeValueMemberB)
		kind, vaultKey, err := r.classify()
		if err != nil {
			return err
		}
		switch kind {
		case kindMarker:
			d.page.Markers++
		case kindLock:
			d.page.Locks = append(d.page.Locks, vaultKey)
		default:
			b.Append([]byte(vaultKey), value)
		}
	}
	return nil
}

// typeName is the name that DynamoDB gives to an attribute's type.
func typeName(v types.AttributeValue) string {
	switch v.(type) {
	case *types.AttributeValueMemberS:
		return "S"
	case *types.AttributeValueMemberN:
		return "N"
	case *types.AttributeValueMemberBOOL:
		return "BOOL"
	case *types.AttributeValueMemberM:
		return "M"
	case *types.AttributeValueMemberL:
		return "L"
	case *types.AttributeValueMemberSS:
		return "SS"
	case *types.AttributeValueMemberNS:
		return "NS"
	case *types.AttributeValueMemberBS:
		return "BS"
	default:
		return fmt.Sprintf("%T", v)
	}
}
