package dynamotest

import (
	"encoding/binary"
	"strconv"
	"strings"
)

// A number is a decimal of the type N: 0.DIGITS × 10^exp. DynamoDB keeps 38
// significant digits between 1E-130 and 9.99E+125
// (Developer Guide, "Supported data types and naming rules").
type number struct {
	negative bool
	digits   string // no leading and no trailing zeros; empty for zero
	exp      int
}

func parseNumber(s string) (number, error) {
	bad := validation("The parameter cannot be converted to a numeric value: %s", s)
	rest, negative := strings.CutPrefix(s, "-")
	if !negative {
		rest = strings.TrimPrefix(rest, "+")
	}
	exp := 0
	if i := strings.IndexAny(rest, "eE"); i >= 0 {
		e, err := strconv.Atoi(rest[i+1:])
		if err != nil || e > 1_000_000 || e < -1_000_000 {
			return number{}, bad
		}
		exp, rest = e, rest[:i]
	}
	whole, fraction, _ := strings.Cut(rest, ".")
	digits := whole + fraction
	if digits == "" || strings.Trim(digits, "0123456789") != "" {
		return number{}, bad
	}
	exp += len(whole)
	trimmed := strings.TrimLeft(digits, "0")
	exp -= len(digits) - len(trimmed)
	trimmed = strings.TrimRight(trimmed, "0")
	switch {
	case trimmed == "":
		return number{}, nil
	case len(trimmed) > 38:
		return number{}, validation("Attempting to store more than 38 significant digits in a Number")
	case exp > 126:
		return number{}, validation("Number overflow. Attempting to store a number with magnitude larger than supported range")
	case exp < -129:
		return number{}, validation("Number underflow. Attempting to store a number with magnitude smaller than supported range")
	}
	return number{negative, trimmed, exp}, nil
}

// String is the plain notation in which the service returns a number.
func (n number) String() string {
	if n.digits == "" {
		return "0"
	}
	var s string
	switch {
	case n.exp <= 0:
		s = "0." + strings.Repeat("0", -n.exp) + n.digits
	case n.exp >= len(n.digits):
		s = n.digits + strings.Repeat("0", n.exp-len(n.digits))
	default:
		s = n.digits[:n.exp] + "." + n.digits[n.exp:]
	}
	if n.negative {
		return "-" + s
	}
	return s
}

// order is a string that sorts as the number does.
func (n number) order() string {
	if n.digits == "" {
		return "\x01"
	}
	b := binary.BigEndian.AppendUint16([]byte{2}, uint16(n.exp+1000))
	b = append(b, n.digits...)
	if n.negative {
		b = append(b, 0)
		b[0] = 0
		for i := 1; i < len(b); i++ {
			b[i] = ^b[i]
		}
	}
	return string(b)
}

// size is what the number counts towards the item size: a byte for each two
// significant digits and one more, another one for a sign.
func (n number) size() int {
	size := (len(n.digits)+1)/2 + 1
	if n.negative {
		size++
	}
	return size
}
