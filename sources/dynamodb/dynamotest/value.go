package dynamotest

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"maps"
	"slices"
	"unicode/utf8"

	"github.com/aws/aws-sdk-go-v2/service/dynamodb/types"
)

// attributes is an item, or any other map of attribute values, as it travels
// in DynamoDB JSON: {"Path":{"S":"a/b"},"Value":{"B":"AAEC"}}.
type attributes map[string]types.AttributeValue

// wireValue is one attribute value in DynamoDB JSON: exactly one member is set.
type wireValue struct {
	S    *string
	N    *string
	B    *[]byte
	BOOL *bool
	NULL *bool
	SS   *[]string
	NS   *[]string
	BS   *[][]byte
	L    *[]wireValue
	M    *map[string]wireValue
}

func (a *attributes) UnmarshalJSON(data []byte) error {
	var raw map[string]wireValue
	if err := strictUnmarshal(data, &raw); err != nil {
		return err
	}
	if raw == nil {
		return nil
	}
	*a = make(attributes, len(raw))
	for name, w := range raw {
		v, err := w.value()
		if err != nil {
			return err
		}
		(*a)[name] = v
	}
	return nil
}

// value checks what the service checks of a single value, and normalizes
// numbers, so that equal values have equal renderings.
func (w wireValue) value() (types.AttributeValue, error) {
	var out types.AttributeValue
	set := 0
	take := func(v types.AttributeValue) { out = v; set++ }
	if w.S != nil {
		take(&types.AttributeValueMemberS{Value: *w.S})
	}
	if w.N != nil {
		n, err := parseNumber(*w.N)
		if err != nil {
			return nil, err
		}
		take(&types.AttributeValueMemberN{Value: n.String()})
	}
	if w.B != nil {
		take(&types.AttributeValueMemberB{Value: *w.B})
	}
	if w.BOOL != nil {
		take(&types.AttributeValueMemberBOOL{Value: *w.BOOL})
	}
	if w.NULL != nil {
		if !*w.NULL {
			return nil, validation("One or more parameter values were invalid: Null attribute value types must have the value of true")
		}
		take(&types.AttributeValueMemberNULL{Value: true})
	}
	if w.SS != nil {
		members := slices.Clone(*w.SS)
		slices.Sort(members)
		if err := checkSet(len(members), len(slices.Compact(slices.Clone(members)))); err != nil {
			return nil, err
		}
		take(&types.AttributeValueMemberSS{Value: members})
	}
	if w.NS != nil {
		members := make([]string, 0, len(*w.NS))
		for _, s := range *w.NS {
			n, err := parseNumber(s)
			if err != nil {
				return nil, err
			}
			members = append(members, n.String())
		}
		slices.Sort(members)
		if err := checkSet(len(members), len(slices.Compact(slices.Clone(members)))); err != nil {
			return nil, err
		}
		take(&types.AttributeValueMemberNS{Value: members})
	}
	if w.BS != nil {
		members := slices.Clone(*w.BS)
		slices.SortFunc(members, bytes.Compare)
		if err := checkSet(len(members), len(slices.CompactFunc(slices.Clone(members), bytes.Equal))); err != nil {
			return nil, err
		}
		take(&types.AttributeValueMemberBS{Value: members})
	}
	if w.L != nil {
		list := make([]types.AttributeValue, 0, len(*w.L))
		for _, e := range *w.L {
			v, err := e.value()
			if err != nil {
				return nil, err
			}
			list = append(list, v)
		}
		take(&types.AttributeValueMemberL{Value: list})
	}
	if w.M != nil {
		m := make(map[string]types.AttributeValue, len(*w.M))
		for name, e := range *w.M {
			v, err := e.value()
			if err != nil {
				return nil, err
			}
			m[name] = v
		}
		take(&types.AttributeValueMemberM{Value: m})
	}
	switch set {
	case 1:
		return out, nil
	case 0:
		return nil, validation("Supplied AttributeValue is empty, must contain exactly one of the supported datatypes")
	}
	return nil, validation("Supplied AttributeValue has more than one datatypes set, must contain exactly one of the supported datatypes")
}

func checkSet(members, distinct int) error {
	if members == 0 {
		return validation("One or more parameter values were invalid: An number set  may not be empty")
	}
	if members != distinct {
		return validation("One or more parameter values were invalid: Input collection contains duplicates")
	}
	return nil
}

// normalize brings an item that a Go caller gave into the form of one that
// came over the wire.
func normalize(item map[string]types.AttributeValue) (attributes, error) {
	var out attributes
	if err := json.Unmarshal(appendAttributes(nil, item), &out); err != nil {
		return nil, err
	}
	return out, nil
}

// typeName is the type's descriptor in DynamoDB JSON.
func typeName(v types.AttributeValue) string {
	switch v.(type) {
	case *types.AttributeValueMemberS:
		return "S"
	case *types.AttributeValueMemberN:
		return "N"
	case *types.AttributeValueMemberB:
		return "B"
	case *types.AttributeValueMemberBOOL:
		return "BOOL"
	case *types.AttributeValueMemberNULL:
		return "NULL"
	case *types.AttributeValueMemberSS:
		return "SS"
	case *types.AttributeValueMemberNS:
		return "NS"
	case *types.AttributeValueMemberBS:
		return "BS"
	case *types.AttributeValueMemberL:
		return "L"
	case *types.AttributeValueMemberM:
		return "M"
	}
	return ""
}

// sortString is a string that sorts among values of its own type as the value
// does; ok is false for the types that have no order.
func sortString(v types.AttributeValue) (s string, ok bool) {
	switch v := v.(type) {
	case *types.AttributeValueMemberS:
		return v.Value, true
	case *types.AttributeValueMemberB:
		return string(v.Value), true
	case *types.AttributeValueMemberN:
		n, err := parseNumber(v.Value)
		return n.order(), err == nil
	}
	return "", false
}

// equal compares two normalized values.
func equal(a, b types.AttributeValue) bool {
	return bytes.Equal(appendValue(nil, a), appendValue(nil, b))
}

// itemSize is the size that DynamoDB's limits and capacity units count: the
// bytes of the attribute names and of the values, base64 not included
// (Developer Guide, "DynamoDB item sizes and formats").
func itemSize(item map[string]types.AttributeValue) int {
	size := 0
	for name, v := range item {
		size += len(name) + valueSize(v)
	}
	return size
}

func valueSize(v types.AttributeValue) int {
	size := 0
	switch v := v.(type) {
	case *types.AttributeValueMemberS:
		return len(v.Value)
	case *types.AttributeValueMemberB:
		return len(v.Value)
	case *types.AttributeValueMemberN:
		n, _ := parseNumber(v.Value) // normalized before: it parses
		return n.size()
	case *types.AttributeValueMemberBOOL, *types.AttributeValueMemberNULL:
		return 1
	case *types.AttributeValueMemberSS:
		for _, s := range v.Value {
			size += len(s)
		}
	case *types.AttributeValueMemberNS:
		for _, s := range v.Value {
			n, _ := parseNumber(s)
			size += n.size()
		}
	case *types.AttributeValueMemberBS:
		for _, b := range v.Value {
			size += len(b)
		}
	case *types.AttributeValueMemberL:
		size = 3
		for _, e := range v.Value {
			size += 1 + valueSize(e)
		}
	case *types.AttributeValueMemberM:
		size = 3
		for name, e := range v.Value {
			size += len(name) + 1 + valueSize(e)
		}
	}
	return size
}

// appendAttributes renders a map of values, sorted by name.
func appendAttributes(b []byte, item map[string]types.AttributeValue) []byte {
	b = append(b, '{')
	for i, name := range slices.Sorted(maps.Keys(item)) {
		if i > 0 {
			b = append(b, ',')
		}
		b = appendAttribute(b, name, item[name])
	}
	return append(b, '}')
}

func appendAttribute(b []byte, name string, v types.AttributeValue) []byte {
	b = appendString(b, name)
	b = append(b, ':')
	return appendValue(b, v)
}

func appendValue(b []byte, v types.AttributeValue) []byte {
	b = append(b, `{"`...)
	b = append(b, typeName(v)...)
	b = append(b, `":`...)
	switch v := v.(type) {
	case *types.AttributeValueMemberS:
		b = appendString(b, v.Value)
	case *types.AttributeValueMemberN:
		b = appendString(b, v.Value)
	case *types.AttributeValueMemberB:
		b = appendBinary(b, v.Value)
	case *types.AttributeValueMemberBOOL:
		if v.Value {
			b = append(b, "true"...)
		} else {
			b = append(b, "false"...)
		}
	case *types.AttributeValueMemberNULL:
		b = append(b, "true"...)
	case *types.AttributeValueMemberSS:
		b = appendList(b, v.Value, appendString)
	case *types.AttributeValueMemberNS:
		b = appendList(b, v.Value, appendString)
	case *types.AttributeValueMemberBS:
		b = appendList(b, v.Value, appendBinary)
	case *types.AttributeValueMemberL:
		b = appendList(b, v.Value, appendValue)
	case *types.AttributeValueMemberM:
		b = appendAttributes(b, v.Value)
	}
	return append(b, '}')
}

func appendList[T any](b []byte, list []T, element func([]byte, T) []byte) []byte {
	b = append(b, '[')
	for i, e := range list {
		if i > 0 {
			b = append(b, ',')
		}
		b = element(b, e)
	}
	return append(b, ']')
}

func appendBinary(b, value []byte) []byte {
	b = append(b, '"')
	b = base64.StdEncoding.AppendEncode(b, value)
	return append(b, '"')
}

func appendString(b []byte, s string) []byte {
	for i := 0; i < len(s); i++ {
		if c := s[i]; c < ' ' || c == '"' || c == '\\' || c >= utf8.RuneSelf {
			quoted, _ := json.Marshal(s) // a string always marshals
			return append(b, quoted...)
		}
	}
	b = append(b, '"')
	b = append(b, s...)
	return append(b, '"')
}
