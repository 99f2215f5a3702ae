package dynamodb

import (
	"bytes"
	"encoding/json"
	"errors"
	"strconv"
	"unicode/utf8"

	"github.com/segmentio/asm/ascii"
	"github.com/segmentio/asm/base64"

	"github.com/dyn2raft/dyn2raft/copier"
)

// A pageDecoder decodes the body of a Scan response straight into a batch, in
// one pass. It takes exactly the shapes that DynamoDB sends for a table of
// Vault's; for anything else it gives up with errOtherShape, changes nothing,
// and [scanTarget.slow] takes over. What it accepts it decodes as the SDK does,
// which a fuzz test holds it to.
type pageDecoder struct {
	body []byte
	pos  int

	b    *copier.Batch
	page copier.Page
	last *position // LastEvaluatedKey
	// items is the number of items seen, count what the response says.
	items, count int64
	told         bool // it has a ConsumedCapacity
	dotted       string

	path, prefix []byte // the last entry's Path, and what it makes a key begin with
	plainPath    []byte // the last Path that plain has taken

	order order
}

// errOtherShape is returned for a body that is left to the slow path.
var errOtherShape = errors.New("not the expected shape of a Scan response")

// errCount is returned for a body that lacks items, or has too many.
var errCount = errors.New("the response's Count is not the number of its items")

// decodePage decodes body into b. It returns errOtherShape, also for items that
// no Vault has written, or errCount; on an error the caller truncates b.
func decodePage(body []byte, b *copier.Batch) (decoded, error) {
	d := pageDecoder{body: body, b: b, prefix: make([]byte, 0, 256)}
	d.page.WireBytes = int64(len(body))
	if err := d.response(); err != nil {
		return decoded{}, err
	}
	if d.count != d.items {
		return decoded{}, errCount
	}
	d.order.path, d.order.key = nil, nil // they alias the body
	return decoded{page: d.page, last: d.last, order: d.order, told: d.told, dotted: d.dotted}, nil
}

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

// word takes the literal w.
func (d *pageDecoder) word(w string) bool {
	d.space()
	if len(d.body)-d.pos >= len(w) && string(d.body[d.pos:d.pos+len(w)]) == w {
		d.pos += len(w)
		return true
	}
	return false
}

// raw takes a string and returns what is between its quotes, as it stands
// there.
func (d *pageDecoder) raw() (s []byte, ok bool) {
	if !d.next('"') {
		return nil, false
	}
	start := d.pos
	for {
		i := bytes.IndexByte(d.body[d.pos:], '"')
		if i < 0 {
			return nil, false
		}
		end := d.pos + i
		d.pos = end + 1
		// A quote behind an odd number of backslashes is a part of the string.
		n := 0
		for end-n > start && d.body[end-n-1] == '\\' {
			n++
		}
		if n%2 == 0 {
			return d.body[start:end], true
		}
	}
}

// name takes the name of a member and the colon behind it. A name that is not
// printable ASCII, or is escaped, is left to the slow path.
func (d *pageDecoder) name() (s []byte, ok bool) {
	s, ok = d.raw()
	return s, ok && verbatim(s) && d.next(':')
}

// verbatim reports whether what stands between quotes means itself.
func verbatim(s []byte) bool { return ascii.ValidPrint(s) && bytes.IndexByte(s, '\\') < 0 }

// text takes a string and returns it decoded. What has no escapes aliases the
// body.
func (d *pageDecoder) text() ([]byte, bool) {
	s, ok := d.raw()
	if !ok {
		return nil, false
	}
	if verbatim(s) {
		return s, true
	}
	if bytes.IndexByte(s, '\\') >= 0 {
		var out string
		if json.Unmarshal(d.body[d.pos-len(s)-2:d.pos], &out) != nil {
			return nil, false
		}
		s = []byte(out)
		// What json replaces is no text: the slow path names it.
		if bytes.ContainsRune(s, utf8.RuneError) {
			return nil, false
		}
		return s, true
	}
	for _, c := range s {
		if c < 0x20 {
			return nil, false
		}
	}
	return s, utf8.Valid(s)
}

// members calls member for each name of an object, which takes its value.
func (d *pageDecoder) members(member func(name []byte) error) error {
	if !d.next('{') {
		return errOtherShape
	}
	if d.next('}') {
		return nil
	}
	for {
		name, ok := d.name()
		if !ok {
			return errOtherShape
		}
		if err := member(name); err != nil {
			return err
		}
		if d.next('}') {
			return nil
		}
		if !d.next(',') {
			return errOtherShape
		}
	}
}

func (d *pageDecoder) response() error {
	var seenItems, seenCount, seenScanned, seenLast, seenUnits bool
	once := func(seen *bool) error {
		if *seen {
			return errOtherShape
		}
		*seen = true
		return nil
	}
	err := d.members(func(name []byte) error {
		switch string(name) {
		case "Items":
			return errors.Join(once(&seenItems), d.itemList())
		case "Count":
			n, err := d.int32()
			d.count = n
			return errors.Join(once(&seenCount), err)
		case "ScannedCount":
			_, err := d.int32()
			return errors.Join(once(&seenScanned), err)
		case "LastEvaluatedKey":
			return errors.Join(once(&seenLast), d.lastKey())
		case "ConsumedCapacity":
			return errors.Join(once(&seenUnits), d.capacity())
		default:
			return errOtherShape
		}
	})
	if err != nil {
		return err
	}
	d.space()
	if d.pos != len(d.body) || !seenItems || !seenCount {
		return errOtherShape
	}
	d.told = seenUnits
	return nil
}

// int32 takes a number without sign, fraction or exponent.
func (d *pageDecoder) int32() (int64, error) {
	d.space()
	start := d.pos
	for d.pos < len(d.body) && d.body[d.pos] >= '0' && d.body[d.pos] <= '9' {
		d.pos++
	}
	digits := d.body[start:d.pos]
	if len(digits) == 0 || len(digits) > 9 || (digits[0] == '0' && len(digits) > 1) {
		return 0, errOtherShape
	}
	return strconv.ParseInt(string(digits), 10, 32)
}

func (d *pageDecoder) capacity() error {
	units, table := false, false
	return d.members(func(name []byte) error {
		switch string(name) {
		case "TableName":
			if _, ok := d.text(); !ok || table {
				return errOtherShape
			}
			table = true
			return nil
		case "CapacityUnits":
			d.space()
			start := d.pos
			for d.pos < len(d.body) && (d.body[d.pos] >= '0' && d.body[d.pos] <= '9' || d.body[d.pos] == '.') {
				d.pos++
			}
			var v float64
			if units || json.Unmarshal(d.body[start:d.pos], &v) != nil {
				return errOtherShape
			}
			units = true
			d.page.Units = v
			return nil
		default:
			return errOtherShape
		}
	})
}

// lastKey takes LastEvaluatedKey: Path and Key, both strings.
func (d *pageDecoder) lastKey() error {
	var it item
	if err := d.item(&it); err != nil {
		return err
	}
	if !it.hasPath || !it.hasKey || it.value != valueMissing || it.others {
		return errOtherShape
	}
	d.last = &position{Path: string(it.path), Key: string(it.key)}
	return nil
}

func (d *pageDecoder) itemList() error {
	if !d.next('[') {
		return errOtherShape
	}
	if d.next(']') {
		return nil
	}
	for {
		it, ok := d.plain()
		if !ok {
			it = item{}
			if err := d.item(&it); err != nil {
				return err
			}
		}
		if err := d.take(&it); err != nil {
			return err
		}
		d.items++
		if d.next(']') {
			return nil
		}
		if !d.next(',') {
			return errOtherShape
		}
	}
}

// An item is what of an item decides about its kind, and its value in base64.
type item struct {
	path, key       []byte
	hasPath, hasKey bool
	value           valueType
	base64          []byte
	identity        bool
	others          bool // it has attributes beside these
}

// What an attribute begins with where there is no white space.
const (
	pathOpens  = `"` + attrPath + `":{"S":"`
	keyOpens   = `"` + attrKey + `":{"S":"`
	valueOpens = `"` + attrValue + `":{"B":"`
)

// plain takes an item as DynamoDB writes nearly all of Vault's: Path, Key and Value,
// in any order, and nothing else, without white space or escapes. It is only the
// quicker way: anything else it leaves to item, and takes nothing.
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
		case opens(b, keyOpens) && !it.hasKey:
			b = b[len(keyOpens):]
			if s = upToQuote(b); s == nil || !verbatim(s) {
				return it, false
			}
			it.key, it.hasKey = s, true
		case opens(b, valueOpens) && it.value == valueMissing:
			b = b[len(valueOpens):]
			if s = upToQuote(b); s == nil {
				return it, false // what is no base64 is found out when it is decoded
			}
			it.base64, it.value = s, valueBinary
		default:
			return it, false
		}
		b = b[len(s)+1:]
		if len(b) < 2 || b[0] != '}' {
			return it, false
		}
		switch b[1] {
		case '}':
			d.pos = len(d.body) - len(b) + 2
			return it, true
		case ',':
			b = b[1:]
		default:
			return it, false
		}
	}
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

// item takes an item: an object of attributes, each an object with the type as
// its only name.
func (d *pageDecoder) item(it *item) error {
	return d.members(func(name []byte) error {
		var err error
		switch string(name) {
		case attrPath:
			if it.hasPath {
				return errOtherShape
			}
			it.hasPath = true
			it.path, err = d.str()
		case attrKey:
			if it.hasKey {
				return errOtherShape
			}
			it.hasKey = true
			it.key, err = d.str()
		case attrValue:
			if it.value != valueMissing {
				return errOtherShape
			}
			it.value, it.base64, err = d.val()
		default:
			if string(name) == attrIdentity && it.identity {
				return errOtherShape
			}
			it.others = true
			binary, oerr := d.other()
			if string(name) == attrIdentity {
				it.identity = binary
			}
			return oerr
		}
		return err
	})
}

// typed takes {"T": and returns T.
func (d *pageDecoder) typed() (string, error) {
	if b := d.body[d.pos:]; len(b) >= 5 && b[0] == '{' && b[1] == '"' && b[3] == '"' && b[4] == ':' {
		d.pos += 5
		switch b[2] {
		case 'S':
			return "S", nil
		case 'B':
			return "B", nil
		case 'N':
			return "N", nil
		}
		return "", errOtherShape
	}
	if !d.next('{') {
		return "", errOtherShape
	}
	name, ok := d.name()
	if !ok {
		return "", errOtherShape
	}
	switch string(name) {
	case "S":
		return "S", nil
	case "B":
		return "B", nil
	case "N":
		return "N", nil
	case "NULL":
		return "NULL", nil
	case "BOOL":
		return "BOOL", nil
	}
	return "", errOtherShape
}

func (d *pageDecoder) close() error {
	if !d.next('}') {
		return errOtherShape
	}
	return nil
}

// str takes {"S":"…"}.
func (d *pageDecoder) str() ([]byte, error) {
	if t, err := d.typed(); err != nil || t != "S" {
		return nil, errOtherShape
	}
	s, ok := d.text()
	if !ok {
		return nil, errOtherShape
	}
	return s, d.close()
}

// val takes {"B":"…"} or {"NULL":true}.
func (d *pageDecoder) val() (valueType, []byte, error) {
	t, err := d.typed()
	switch {
	case err != nil:
		return 0, nil, err
	case t == "NULL" && d.word("true"):
		return valueNull, nil, d.close()
	case t == "B":
		s, ok := d.raw() // what is no base64 is found out when it is decoded
		if !ok {
			return 0, nil, errOtherShape
		}
		return valueBinary, s, d.close()
	}
	return 0, nil, errOtherShape
}

// other takes an attribute that is of no use here, of one of the simple types,
// and reports whether it is binary.
func (d *pageDecoder) other() (binary bool, err error) {
	t, err := d.typed()
	if err != nil {
		return false, err
	}
	switch t {
	case "NULL", "BOOL":
		if !d.word("true") && (t == "NULL" || !d.word("false")) {
			return false, errOtherShape
		}
	default:
		s, ok := d.text()
		if !ok {
			return false, errOtherShape
		}
		if t == "B" {
			if _, err := base64.StdEncoding.DecodeString(string(s)); err != nil {
				return false, errOtherShape
			}
		}
	}
	return t == "B", d.close()
}

// take adds an item to the batch, or counts it.
func (d *pageDecoder) take(it *item) error {
	if !it.hasPath || !it.hasKey {
		return errOtherShape // which the slow path refuses
	}
	d.order.see(it.path, it.key)
	vlen := 0
	if it.value == valueBinary {
		n := len(it.base64)
		if n%4 != 0 {
			return errOtherShape
		}
		vlen = n / 4 * 3
		for i := 1; i <= 2 && n >= i && it.base64[n-i] == '='; i++ {
			vlen--
		}
	}
	// What is plainly an entry is taken here; all else is decided by classify.
	if it.value == valueMissing || !plainKey(it.key) || (it.key[0] == '_' && it.identity) || string(it.path) == corePath {
		r := record{path: string(it.path), key: string(it.key), value: it.value, empty: vlen == 0, identity: it.identity}
		kind, vaultKey, err := r.classify()
		if err != nil {
			return errOtherShape
		}
		if kind != kindEntry {
			if _, err := base64.StdEncoding.DecodeString(string(it.base64)); err != nil {
				return errOtherShape
			}
			if kind == kindMarker {
				d.page.Markers++
				if r.key == dotMarker {
					d.dotted = r.path
				}
			} else {
				d.page.Locks = append(d.page.Locks, vaultKey)
			}
			return nil
		}
	}
	// A page has many items of one Path, one after the other.
	if !bytes.Equal(it.path, d.path) || d.path == nil {
		d.path, d.prefix = it.path, d.prefix[:0]
		if string(it.path) != emptyPath {
			if !cleanPath(it.path) {
				return errOtherShape
			}
			d.prefix = append(append(d.prefix, it.path...), '/')
		}
	}
	e := d.b.Extend(len(d.prefix)+len(it.key), vlen)
	copy(e.Key, d.prefix)
	copy(e.Key[len(d.prefix):], it.key)
	if vlen > 0 {
		n, err := base64.StdEncoding.Decode(e.Value, it.base64)
		if err != nil || n != vlen {
			return errOtherShape
		}
	} else if len(it.base64) > 0 {
		return errOtherShape
	}
	return nil
}

const corePath = "core"

// plainKey reports whether a range key is one segment, not empty, and no marker.
func plainKey(key []byte) bool { return len(key) > 0 && bytes.IndexByte(key, '/') < 0 }
