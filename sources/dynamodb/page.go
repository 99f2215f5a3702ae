package dynamodb

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"

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
	found bool      // that item was in the response
	// cutOff counts the items that were cut.
	cutOff int64

	undecoded int // responses without a checksum of which something could not be decoded
	decoded
}

// A decoded is what was in a page, beside its entries.
type decoded struct {
	page  copier.Page
	last  *position // LastEvaluatedKey
	order order
	told  bool // it has a ConsumedCapacity
	// dotted is the Path of a marker "./" in it, see [Source.warnOfDots].
	dotted string
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
	t.decoded = decoded{}
	var err error
	if t.until == nil {
		t.decoded, err = decodePage(body, t.b)
	}
	if t.until != nil || errors.Is(err, errOtherShape) {
		t.b.Truncate(t.from)
		t.decoded = decoded{}
		t.page.WireBytes = int64(len(body))
		last := checked || t.undecoded >= mostUndecoded
		err = t.slow(body, checked, last)
	}
	if err != nil {
		t.b.Truncate(t.from)
		t.decoded = decoded{}
		t.undecoded++
		return &badResponseError{err: err, final: checked, undecoded: true}
	}
	return nil
}

// A readItem is an item of a response: its attributes, as far as they matter
// here, or why it can't be decoded.
type readItem struct {
	attrs map[string]types.AttributeValue
	err   error
}

// slow decodes a body item by item, whatever attributes they have. It is for
// what [decodePage] leaves. Where last is set, an item that can't be decoded is
// refused, and the others are taken; otherwise it is an error.
func (t *scanTarget) slow(body []byte, checked, last bool) error {
	a, err := readAnswer(body, checked)
	if err != nil {
		return fmt.Errorf("response of %d bytes: %w", len(body), err)
	}
	if !last {
		for _, item := range append(a.items, readItem{err: a.lastErr}) {
			if item.err != nil {
				return fmt.Errorf("response of %d bytes: %w", len(body), item.err)
			}
		}
	}
	if a.count != int64(len(a.items)) {
		return errCount
	}
	t.last, t.told, t.page.Units = a.last, a.told, a.units
	if t.until != nil {
		a.items = t.cut(a.items, t.last)
	}
	for _, item := range a.items {
		err := item.err
		if err == nil {
			err = addItem(item.attrs, t.b, &t.decoded)
		}
		if err != nil {
			t.page.Refused = append(t.page.Refused, err)
		}
	}
	if a.lastErr != nil {
		t.page.Refused = append(t.page.Refused, a.lastErr)
	}
	return nil
}

// An answer is what a response to a Scan or a Query holds.
type answer struct {
	items   []readItem
	count   int64
	last    *position // LastEvaluatedKey
	lastErr error     // it can't be decoded
	units   float64
	told    bool // it has a ConsumedCapacity
}

// readAnswer looks for what each answer to a Scan or a Query has, also where no
// item was found. The SDK takes a body without it, or none at all, for the end of
// what was asked for: whatever sends such a thing would cut a segment off. So would
// a LastEvaluatedKey with one bit of its name changed: where no checksum shows that
// the body came as it was sent, a member that nobody knows is damage.
func readAnswer(body []byte, checked bool) (a answer, err error) {
	// A member that comes twice is an error where it is. So is what is no text in
	// UTF-8, of which the SDK would make another key: see strict.
	dec := jsontext.NewDecoder(bytes.NewBuffer(body), jsontext.AllowDuplicateNames(true), jsontext.AllowInvalidUTF8(true))
	if tok, err := dec.ReadToken(); err != nil || tok.Kind() != '{' {
		return a, errors.Join(errNoItems, err)
	}
	seen := map[string]bool{}
	for dec.PeekKind() == '"' {
		tok, err := dec.ReadToken()
		if err != nil {
			return a, err
		}
		name := tok.String()
		switch {
		case seen[name]:
			return a, fmt.Errorf("its member %.64q comes twice", name)
		case !checked && !slices.Contains(answerMembers, name):
			return a, fmt.Errorf("it has a member %.64q, and no checksum shows that it was sent so", name)
		}
		seen[name] = true
		if name == "Items" {
			if a.items, err = readItems(dec); err != nil {
				return a, err
			}
			continue
		}
		value, err := dec.ReadValue()
		if err != nil {
			return a, err
		}
		switch name {
		case "Count":
			if json.Unmarshal(value, &a.count) != nil || value.Kind() != '0' {
				return a, errNoItems
			}
		case "LastEvaluatedKey":
			a.last, a.lastErr = readLast(value)
		case "ConsumedCapacity":
			var used struct{ CapacityUnits float64 }
			if err := json.Unmarshal(value, &used); err != nil {
				return a, err
			}
			a.units, a.told = used.CapacityUnits, true
		}
	}
	if tok, err := dec.ReadToken(); err != nil || tok.Kind() != '}' {
		return a, errors.Join(errors.New("it is no JSON"), err)
	}
	if _, err := dec.ReadToken(); err != io.EOF {
		return a, errors.New("something follows its end")
	}
	if !seen["Items"] || !seen["Count"] {
		return a, errNoItems
	}
	return a, nil
}

func readItems(dec *jsontext.Decoder) (out []readItem, err error) {
	if tok, err := dec.ReadToken(); err != nil || tok.Kind() != '[' {
		return nil, errors.Join(errNoItems, err)
	}
	for dec.PeekKind() != ']' {
		value, err := dec.ReadValue()
		if err != nil {
			return nil, err
		}
		item := readItem{}
		if item.attrs, err = readAttrs(value); err != nil {
			item.err = fmt.Errorf("%w: an item %s can't be decoded: %w", ErrNotVaultItem, itemName(value), err)
		}
		out = append(out, item)
	}
	_, err = dec.ReadToken()
	return out, err
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
func readAttrs(value jsontext.Value) (map[string]types.AttributeValue, error) {
	if !value.IsValid() {
		return nil, errors.New("a member of it comes twice, or a text is not UTF-8")
	}
	var raw map[string]json.RawMessage
	if err := json.Unmarshal(value, &raw); err != nil {
		return nil, errors.New("it is no JSON object")
	}
	out := make(map[string]types.AttributeValue, len(decodedAttrs))
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

// addItem adds an item to the batch, or counts it.
func addItem(item map[string]types.AttributeValue, b *copier.Batch, d *decoded) error {
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
		d.page.Markers++
		if r.key == dotMarker {
			d.dotted = r.path
		}
	case kind == kindLock:
		d.page.Locks = append(d.page.Locks, vaultKey)
	default:
		b.Append([]byte(vaultKey), value)
	}
	return nil
}
