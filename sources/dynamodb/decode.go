package dynamodb

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"slices"
	"unicode/utf8"

	"github.com/go-json-experiment/json" // names as they are: encoding/json takes others too
	"github.com/go-json-experiment/json/jsontext"
	"github.com/segmentio/asm/ascii"
	"github.com/segmentio/asm/base64"

	"github.com/dyn2raft/dyn2raft/copier"
)

// A pageDecoder decodes the body of the answer to a Scan or a Query straight into
// a batch, in one pass. An item as DynamoDB writes nearly all of Vault's is taken
// as it stands there, see plain; any other one by encoding/json. What it accepts
// it decodes as the SDK does, which a fuzz test holds it to.
type pageDecoder struct {
	body []byte
	pos  int
	// checked is set where a checksum shows that the body came as it was sent, and
	// final where no other try can help: then items that can't be decoded are
	// refused, and the others are taken; otherwise each is an error.
	checked, final bool

	b       *copier.Batch
	until   *position // what is behind its item is cut, where it is set
	markers bool      // they are appended too
	decoded
	items, odd int64 // seen, and those among them that are not plain

	path, prefix []byte // the last entry's Path, and what it makes a key begin with
	plainPath    []byte // the last Path that plain has taken

	json jsontext.Decoder // used again for each value
	rest bytes.Buffer     // what it reads
}

// errCount is returned for a body that lacks items, or has too many.
var errCount = errors.New("the response's Count is not the number of its items")

var errNotJSON = errors.New("it is no JSON")

// space skips white space.
func (d *pageDecoder) space() {
	for d.pos < len(d.body) {
		switch d.body[d.pos] {
		case ' ', '\t', '\n', '\r':
			d.pos++
		default:
			return
		}
	}
}

// next takes the byte c, after white space.
func (d *pageDecoder) next(c byte) bool {
	if d.pos < len(d.body) && d.body[d.pos] > ' ' { // DynamoDB sends no white space
		if d.body[d.pos] != c {
			return false
		}
		d.pos++
		return true
	}
	return d.nextSpaced(c)
}

func (d *pageDecoder) nextSpaced(c byte) bool {
	d.space()
	if d.pos < len(d.body) && d.body[d.pos] == c {
		d.pos++
		return true
	}
	return false
}

// value takes the next JSON value, whatever it is.
func (d *pageDecoder) value() (jsontext.Value, error) {
	// A member that comes twice is an error where it is. So is what is no text in
	// UTF-8, of which the SDK would make another key: see readAttrs.
	d.rest = *bytes.NewBuffer(d.body[d.pos:])
	d.json.Reset(&d.rest, jsontext.AllowDuplicateNames(true), jsontext.AllowInvalidUTF8(true))
	v, err := d.json.ReadValue()
	d.pos += int(d.json.InputOffset())
	return v, err
}

// response takes an answer, whose items are taken by item. It looks for what each
// answer to a Scan or a Query has, also where no item was found. The SDK takes a
// body without it, or none at all, for the end of what was asked for: whatever
// sends such a thing would cut a segment off. So would a LastEvaluatedKey with one
// bit of its name changed: where no checksum shows that the body came as it was
// sent, a member that nobody knows is damage.
func (d *pageDecoder) response(item func(*pageDecoder) error) error {
	if !d.next('{') {
		return errNoItems
	}
	var seen []string
	var count int64
	for !d.next('}') {
		if seen != nil && !d.next(',') {
			return errNotJSON
		}
		quoted, err := d.value()
		if err != nil || quoted.Kind() != '"' || !d.next(':') {
			return cmp.Or(err, errNotJSON)
		}
		text, err := jsontext.AppendUnquote(nil, quoted)
		name := string(text)
		switch {
		case slices.Contains(seen, name):
			return fmt.Errorf("its member %.64q comes twice", name)
		case !slices.Contains(answerMembers, name) && (err != nil || !d.checked):
			return fmt.Errorf("it has a member %.64q, and no checksum shows that it was sent so", name)
		}
		seen = append(seen, name)
		if name == "Items" {
			if err := d.list(item); err != nil {
				return err
			}
			continue
		}
		value, err := d.value()
		if err != nil {
			return err
		}
		switch name {
		case "Count":
			if json.Unmarshal(value, &count) != nil || value.Kind() != '0' {
				return errNoItems
			}
		case "LastEvaluatedKey":
			last, err := readLast(value)
			if err != nil && !d.final {
				return err
			} else if err != nil {
				d.page.Refused = append(d.page.Refused, err)
			}
			d.last = last
		case "ConsumedCapacity":
			var used struct{ CapacityUnits float64 }
			if err := json.Unmarshal(value, &used); err != nil {
				return err
			}
			d.units, d.told = used.CapacityUnits, true
		}
	}
	d.space()
	switch {
	case d.pos != len(d.body):
		return errors.New("something follows its end")
	case !slices.Contains(seen, "Items") || !slices.Contains(seen, "Count"):
		return errNoItems
	case count != d.items:
		return errCount
	}
	d.found = d.found || d.until != nil && d.last != nil && d.last.sameItem(d.until)
	return nil
}

// list takes the list of items.
func (d *pageDecoder) list(item func(*pageDecoder) error) error {
	if !d.next('[') {
		return errNoItems
	}
	if d.next(']') {
		return nil
	}
	for {
		if err := item(d); err != nil {
			return err
		}
		d.items++
		if d.next(']') {
			return nil
		}
		if !d.next(',') {
			return errNotJSON
		}
	}
}

// item takes one item.
func (d *pageDecoder) item() error {
	start := d.pos
	if it, ok := d.plain(); ok {
		if d.found {
			d.cutOff++
			return nil
		}
		if d.take(&it) {
			return nil
		}
		d.pos = start
	}
	d.odd++
	attrs, bad, err := d.attrs()
	switch {
	case err != nil || bad != nil && !d.final:
		return cmp.Or(err, bad)
	case d.found:
		d.cutOff++
		return nil
	case bad == nil:
		bad = d.add(attrs)
	}
	if bad != nil {
		d.page.Refused = append(d.page.Refused, bad)
	}
	return nil
}

// attrs takes an item by encoding/json. It returns why the item can't be decoded,
// or that the body is no JSON there.
func (d *pageDecoder) attrs() (attrs attributes, bad, err error) {
	value, err := d.value()
	if err != nil {
		return nil, nil, err
	}
	if attrs, bad = readAttrs(value); bad != nil {
		bad = fmt.Errorf("%w: an item %s can't be decoded: %w", ErrNotVaultItem, itemName(value), bad)
	}
	return attrs, bad, nil
}

// see notes an item that is taken, and finds the one that until names.
func (d *pageDecoder) see(path, key []byte) {
	d.order.see(path, key)
	d.found = d.until != nil && string(path) == d.until.Path && string(key) == d.until.Key
}

// An item is what of a plain item matters, with its value in base64.
type item struct {
	path, key       []byte
	hasPath, hasKey bool
	value           valueType
	base64          []byte
}

// What an attribute begins with where there is no white space.
const (
	pathOpens  = `"` + attrPath + `":{"S":"`
	keyOpens   = `"` + attrKey + `":{"S":"`
	valueOpens = `"` + attrValue + `":{"B":"`
	nullValue  = `"` + attrValue + `":{"NULL":true}`
)

// plain takes an item of a Path, a Key, a Value and attributes of simple types that
// do not matter, in any order, without white space or escapes. Anything else it
// leaves, and takes nothing.
func (d *pageDecoder) plain() (it item, ok bool) {
	b := d.body[d.pos:]
	if len(b) == 0 || b[0] != '{' {
		return it, false
	}
	for {
		b = b[1:] // the brace, or a comma
		var s []byte
		switch {
		case opens(b, pathOpens) && !it.hasPath:
			b = b[len(pathOpens):]
			if p := d.plainPath; len(p) > 0 && len(b) > len(p) && b[len(p)] == '"' && bytes.Equal(b[:len(p)], p) {
				s = p // that of the item before
			} else if s = upToQuote(b); s == nil || !verbatim(s) {
				return it, false
			}
			d.plainPath, it.path, it.hasPath = s, s, true
			b = b[len(s)+1:]
		case opens(b, keyOpens) && !it.hasKey:
			b = b[len(keyOpens):]
			if s = upToQuote(b); s == nil || !verbatim(s) {
				return it, false
			}
			it.key, it.hasKey = s, true
			b = b[len(s)+1:]
		case opens(b, valueOpens) && it.value == valueMissing:
			b = b[len(valueOpens):]
			if s = upToQuote(b); s == nil {
				return it, false // what is no base64 is found out when it is decoded
			}
			it.base64, it.value = s, valueBinary
			b = b[len(s)+1:]
		case opens(b, nullValue) && it.value == valueMissing:
			it.value = valueNull
			b = b[len(nullValue)-1:]
		default:
			n := otherAttr(b)
			if n == 0 {
				return it, false
			}
			b = b[n:]
		}
		if len(b) < 2 || b[0] != '}' {
			return it, false
		}
		switch b[1] {
		case '}':
			d.pos = len(d.body) - len(b) + 2
			return it, it.hasPath && it.hasKey
		case ',':
			b = b[1:]
		default:
			return it, false
		}
	}
}

// otherAttr is the length of an attribute that does not matter, up to its closing
// brace; 0 where it is of no simple type, or may matter.
func otherAttr(b []byte) int {
	if len(b) == 0 || b[0] != '"' {
		return 0
	}
	name := upToQuote(b[1:])
	if name == nil || !verbatim(name) || slices.Contains(decodedAttrs, string(name)) {
		return 0
	}
	n := len(name) + 2
	for _, simple := range []string{`:{"BOOL":true`, `:{"BOOL":false`, `:{"NULL":true`} {
		if opens(b[n:], simple) {
			return n + len(simple)
		}
	}
	const text = `:{"S":"`
	if !opens(b[n:], text) && !opens(b[n:], `:{"N":"`) {
		return 0
	}
	s := upToQuote(b[n+len(text):])
	if s == nil || !verbatim(s) {
		return 0
	}
	return n + len(text) + len(s) + 1
}

// verbatim reports whether what stands between quotes is a text, and means itself.
func verbatim(s []byte) bool {
	return ascii.ValidPrint(s) && bytes.IndexByte(s, '\\') < 0 || unescaped(s)
}

func unescaped(s []byte) bool {
	return utf8.Valid(s) && bytes.IndexFunc(s, func(r rune) bool { return r < ' ' || r == '\\' }) < 0
}

// opens reports whether b begins with an attribute's beginning.
func opens(b []byte, with string) bool { return len(b) >= len(with) && string(b[:len(with)]) == with }

// upToQuote returns what is before the first quote, and nil where there is none.
func upToQuote(b []byte) []byte {
	if n := bytes.IndexByte(b, '"'); n >= 0 {
		return b[:n]
	}
	return nil
}

// take adds a plain item to the batch, or counts it. It returns false, and does
// nothing, where it is neither an entry nor a directory marker.
func (d *pageDecoder) take(it *item) bool {
	n, vlen := len(it.base64), len(it.base64)/4*3
	for i := 1; i <= 2 && n >= i && it.base64[n-i] == '='; i++ {
		vlen--
	}
	// What is plainly an entry is taken here; all else is decided by classify.
	if it.value == valueMissing || !plainKey(it.key) || string(it.path) == corePath {
		r := record{path: string(it.path), key: string(it.key), value: it.value, empty: n == 0}
		switch kind, key, err := r.classify(); {
		case err != nil || kind == kindLock:
			return false
		case kind == kindMarker:
			if d.marker(&r, key) != nil {
				return false
			}
			d.see(it.path, it.key)
			return true
		}
	}
	// A page has many items of one Path, one after the other.
	if !bytes.Equal(it.path, d.path) || d.path == nil {
		d.path, d.prefix = it.path, d.prefix[:0]
		if string(it.path) != emptyPath {
			if !cleanPath(it.path) {
				d.path = nil
				return false
			}
			d.prefix = append(append(d.prefix, it.path...), '/')
		}
	}
	if n%4 != 0 || vlen <= 0 && n > 0 {
		return false
	}
	before := d.b.Len()
	e := d.b.Extend(len(d.prefix)+len(it.key), vlen)
	copy(e.Key, d.prefix)
	copy(e.Key[len(d.prefix):], it.key)
	if got, err := base64.StdEncoding.Decode(e.Value, it.base64); err != nil || got != vlen {
		d.b.Truncate(before)
		return false
	}
	d.see(it.path, it.key)
	return true
}

const corePath = "core"

// plainKey reports whether a range key is one segment, not empty, and no marker.
func plainKey(key []byte) bool { return len(key) > 0 && bytes.IndexByte(key, '/') < 0 }
