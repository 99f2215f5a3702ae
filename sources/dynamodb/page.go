package dynamodb

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb/types"
	"github.com/go-json-experiment/json/jsontext"

	"github.com/dyn2raft/dyn2raft/copier"
)

// A scanTarget is where the entries of one Scan or Query response go. The
// [wire] that has the response's body decodes into it.
type scanTarget struct {
	b    *copier.Batch
	from int // the batch's length before the request

	limit int     // the items of the page at the most; 0 is no limit
	cost  float64 // what it will probably cost, for the bucket

	until *position // what is behind its item is cut, where it is set

	markers bool // they are appended too

	undecoded int // responses without a checksum of which something could not be decoded
	decoded
}

// A decoded is what was in a page, beside its entries.
type decoded struct {
	page  copier.Page
	last  *position // LastEvaluatedKey
	order order
	units float64 // what it cost, in read capacity units
	told  bool    // it has a ConsumedCapacity
	// dotted is the Path of a marker "./" in it, see [Source.warnOfDots].
	dotted string
	found  bool  // the item of until was in it
	cutOff int64 // items behind that, which were cut
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

// after reports whether all items come behind pos, as far as they are of its
// Path, and in order.
func (o *order) after(pos *position) bool {
	return !o.descends && (o.first.Path != pos.Path || o.first.Key > pos.Key)
}

// request is what asks for the target's page.
func (t *scanTarget) request() *request { return &request{page: t, units: t.cost, counts: &t.page} }

// limited is the Limit of the request, nil for none.
func (t *scanTarget) limited() *int32 {
	if t.limit == 0 {
		return nil
	}
	return aws.Int32(int32(t.limit))
}

// items is how many items the page had.
func (t *scanTarget) items() int64 {
	return int64(t.b.Len()-t.from) + t.page.Markers + int64(len(t.page.Locks)+len(t.page.Refused)) + t.cutOff
}

// decode decodes a body into the batch. Its error is a response that must be
// read again, or that no other try can help, see [badResponseError]. After a
// retry it is called anew. checked says that a checksum shows the body to be as
// it was sent: then what can't be decoded never will be.
func (t *scanTarget) decode(body []byte, checked bool) error {
	t.b.Truncate(t.from)
	d := pageDecoder{body: body, b: t.b, until: t.until, markers: t.markers, checked: checked, final: checked || t.undecoded >= mostUndecoded}
	d.page.WireBytes = int64(len(body))
	if err := d.response((*pageDecoder).item); err != nil {
		t.b.Truncate(t.from)
		t.decoded = decoded{}
		t.undecoded++
		return &badResponseError{err: fmt.Errorf("response of %d bytes: %w", len(body), err), final: checked, undecoded: true}
	}
	d.order.path, d.order.key = nil, nil // they alias the body
	t.decoded = d.decoded
	return nil
}

// readLast returns the position that a LastEvaluatedKey names, nil where it is
// null.
func readLast(value jsontext.Value) (*position, error) {
	if value.Kind() == 'n' {
		return nil, nil
	}
	attrs, err := readAttrs(value)
	path, ok1 := attrs[attrPath].(*types.AttributeValueMemberS)
	key, ok2 := attrs[attrKey].(*types.AttributeValueMemberS)
	if err == nil && !(ok1 && ok2) {
		err = errors.New("it has no Path and Key of type S")
	}
	if err != nil {
		return nil, fmt.Errorf("%w: a page ends at an item %s, behind which nothing can be read: %w", ErrNotVaultItem, itemName(value), err)
	}
	return &position{Path: path.Value, Key: key.Value}, nil
}

// decodedAttrs are the attributes that matter. Of others it does not matter
// what they hold.
var decodedAttrs = []string{attrPath, attrKey, attrValue, attrIdentity}

// readAttrs decodes those attributes of an item that matter. One of a type that
// Vault never writes is a *types.UnknownUnionMember with the type's name.
func readAttrs(value jsontext.Value) (attributes, error) {
	if !value.IsValid() {
		return nil, errors.New("a member of it comes twice, or a text is not UTF-8")
	}
	var raw map[string]json.RawMessage
	if err := json.Unmarshal(value, &raw); err != nil {
		return nil, errors.New("it is no JSON object")
	}
	out := make(attributes, len(decodedAttrs))
	for _, name := range decodedAttrs {
		if raw[name] == nil {
			continue
		}
		v, err := readAttr(raw[name])
		if err != nil {
			return nil, fmt.Errorf("its %s %w", name, err)
		}
		out[name] = v
	}
	return out, nil
}

func readAttr(raw json.RawMessage) (types.AttributeValue, error) {
	var typed map[string]json.RawMessage
	if json.Unmarshal(raw, &typed) != nil || len(typed) != 1 {
		return nil, errors.New("is not one value of one type")
	}
	for name, value := range typed {
		var text string
		isText := bytes.HasPrefix(value, []byte(`"`)) && json.Unmarshal(value, &text) == nil
		switch name {
		case "S":
			if isText {
				return &types.AttributeValueMemberS{Value: text}, nil
			}
		case "B":
			if b, err := base64.StdEncoding.DecodeString(text); isText && err == nil {
				return &types.AttributeValueMemberB{Value: b}, nil
			}
		case "NULL":
			var null bool
			if json.Unmarshal(value, &null) == nil {
				return &types.AttributeValueMemberNULL{Value: null}, nil
			}
		default:
			return &types.UnknownUnionMember{Tag: name}, nil
		}
		return nil, fmt.Errorf("is not of its type %s", name)
	}
	return nil, nil // not reached: there is one
}

// itemName names an item that can't be decoded as far as its Path and Key can
// be read. What is no text of them comes as U+FFFD.
func itemName(value jsontext.Value) string {
	var it map[string]json.RawMessage
	if json.Unmarshal(value, &it) != nil {
		return "whose Path and Key can't be read"
	}
	text := func(attr string) string {
		var v struct{ S *string }
		if json.Unmarshal(it[attr], &v) != nil || v.S == nil {
			return attr + " unreadable"
		}
		return fmt.Sprintf("%s %.2048q", attr, *v.S)
	}
	return "with " + text(attrPath) + " and " + text(attrKey)
}

// add adds an item to the batch, or counts it.
func (d *pageDecoder) add(item attributes) error {
	path, ok1 := item[attrPath].(*types.AttributeValueMemberS)
	key, ok2 := item[attrKey].(*types.AttributeValueMemberS)
	if !ok1 || !ok2 {
		return fmt.Errorf("%w: an item without a Path and a Key of type S", ErrNotVaultItem)
	}
	d.see([]byte(path.Value), []byte(key.Value))
	r := record{path: path.Value, key: key.Value}
	var value []byte
	switch v := item[attrValue].(type) {
	case nil:
	case *types.AttributeValueMemberB:
		r.value, value = valueBinary, v.Value
		r.empty = len(value) == 0
	case *types.AttributeValueMemberNULL:
		r.value = valueNull
	case *types.AttributeValueMemberS:
		r.value, r.valueName = valueOther, "S"
	case *types.UnknownUnionMember:
		r.value, r.valueName = valueOther, v.Tag
	default:
		r.value, r.valueName = valueOther, fmt.Sprintf("%T", v)
	}
	_, r.identity = item[attrIdentity].(*types.AttributeValueMemberB)
	kind, vaultKey, err := r.classify()
	switch {
	case err != nil:
		return err
	case kind == kindMarker:
		return d.marker(&r, vaultKey)
	case kind == kindLock:
		d.page.Locks = append(d.page.Locks, vaultKey)
	default:
		d.b.Append([]byte(vaultKey), value)
	}
	return nil
}

// marker adds a directory marker to the batch where that is asked for, and else counts it.
func (d *pageDecoder) marker(r *record, key string) error {
	switch {
	case !d.markers:
		d.page.Markers++
	case key == "":
		return fmt.Errorf("%w: Path %q, Key %q is the marker of a directory without a name", ErrNotVaultItem, r.path, r.key)
	default:
		d.b.Append([]byte(key), nil)
	}
	if r.key == dotMarker {
		d.dotted = r.path
	}
	return nil
}
