package dynamotest

import (
	"bytes"
	"maps"
	"slices"
	"strings"

	"github.com/aws/aws-sdk-go-v2/service/dynamodb/types"
)

// maxExpression is the service's limit for an expression string, in bytes.
const maxExpression = 4096

// expressions holds what the expressions of one request share: the
// substitutions, and which of them have been used.
type expressions struct {
	names      map[string]string
	values     attributes
	usedNames  map[string]bool
	usedValues map[string]bool
}

func newExpressions(names map[string]string, values attributes) *expressions {
	return &expressions{names, values, map[string]bool{}, map[string]bool{}}
}

// unused refuses substitutions that no expression of the request mentions, as
// the service does.
func (e *expressions) unused() error {
	for _, name := range slices.Sorted(maps.Keys(e.names)) {
		if !e.usedNames[name] {
			return validation("Value provided in ExpressionAttributeNames unused in expressions: keys: {%s}", name)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(e.values)) {
		if !e.usedValues[name] {
			return validation("Value provided in ExpressionAttributeValues unused in expressions: keys: {%s}", name)
		}
	}
	return nil
}

// A condition is a parsed condition expression.
type condition interface {
	holds(item attributes) bool
}

// always is the condition of a request that has none.
type always struct{}

func (always) holds(attributes) bool { return true }

type not struct{ c condition }

func (n not) holds(item attributes) bool { return !n.c.holds(item) }

type and struct{ left, right condition }

func (a and) holds(item attributes) bool { return a.left.holds(item) && a.right.holds(item) }

type or struct{ left, right condition }

func (o or) holds(item attributes) bool { return o.left.holds(item) || o.right.holds(item) }

type exists struct{ attribute string }

func (e exists) holds(item attributes) bool { return item[e.attribute] != nil }

// An operand is an attribute of the item or, where constant is set, a value
// of the request.
type operand struct {
	attribute string
	constant  types.AttributeValue
}

// value is nil where the item lacks the attribute.
func (o operand) value(item attributes) types.AttributeValue {
	if o.constant != nil {
		return o.constant
	}
	return item[o.attribute]
}

type comparison struct {
	operator    string
	left, right operand
}

// holds follows the service where attributes are missing or types differ: only
// <> is then true.
func (c comparison) holds(item attributes) bool {
	a, b := c.left.value(item), c.right.value(item)
	comparable := a != nil && b != nil && typeName(a) == typeName(b)
	switch c.operator {
	case "=":
		return comparable && equal(a, b)
	case "<>":
		return !comparable || !equal(a, b)
	}
	if !comparable {
		return false
	}
	x, ok := sortString(a)
	y, _ := sortString(b)
	switch c.operator {
	case "<":
		return ok && x < y
	case "<=":
		return ok && x <= y
	case ">":
		return ok && x > y
	default: // >=, as the lexer knows no other
		return ok && x >= y
	}
}

type between struct{ value, low, high operand }

func (b between) holds(item attributes) bool {
	return comparison{">=", b.value, b.low}.holds(item) && comparison{"<=", b.value, b.high}.holds(item)
}

type beginsWith struct{ value, prefix operand }

func (b beginsWith) holds(item attributes) bool {
	switch v := b.value.value(item).(type) {
	case *types.AttributeValueMemberS:
		p, ok := b.prefix.value(item).(*types.AttributeValueMemberS)
		return ok && strings.HasPrefix(v.Value, p.Value)
	case *types.AttributeValueMemberB:
		p, ok := b.prefix.value(item).(*types.AttributeValueMemberB)
		return ok && bytes.HasPrefix(v.Value, p.Value)
	}
	return false
}

// An update is a parsed update expression.
type update struct {
	set    map[string]operand
	remove []string
}

// apply changes item. Values that name attributes are those from before the
// update.
func (u update) apply(item attributes) error {
	old := maps.Clone(item)
	for name, o := range u.set {
		v := o.value(old)
		if v == nil {
			return validation("The provided expression refers to an attribute that does not exist in the item")
		}
		item[name] = v
	}
	for _, name := range u.remove {
		delete(item, name)
	}
	return nil
}

// A parser is a recursive descent over one expression. It panics with an
// *apiError, which parse returns.
type parser struct {
	*expressions
	what  string // the parameter, for messages
	rest  string
	token string // the current token, "" at the end
}

func (e *expressions) parse(what, text string, rule func(*parser)) (err error) {
	if strings.TrimSpace(text) == "" {
		return validation("Invalid %s: The expression can not be empty;", what)
	}
	if len(text) > maxExpression {
		return validation("Invalid %s: Expression size has exceeded the maximum allowed size; expression size: %d", what, len(text))
	}
	defer func() {
		if r := recover(); r != nil {
			failure, ok := r.(*apiError)
			if !ok {
				panic(r)
			}
			err = failure
		}
	}()
	p := &parser{expressions: e, what: what, rest: text}
	p.next()
	rule(p)
	if p.token != "" {
		p.syntax()
	}
	return nil
}

func (e *expressions) condition(what, text string) (c condition, err error) {
	err = e.parse(what, text, func(p *parser) { c, _ = p.or() })
	return c, err
}

func (e *expressions) update(text string) (u update, err error) {
	err = e.parse("UpdateExpression", text, func(p *parser) { u = p.update() })
	return u, err
}

func (e *expressions) projection(text string) (names []string, err error) {
	err = e.parse("ProjectionExpression", text, func(p *parser) {
		names = append(names, p.attribute())
		for p.accept(",") {
			names = append(names, p.attribute())
		}
		p.distinct(names)
	})
	return names, err
}

func (p *parser) fail(format string, args ...any) {
	panic(validation("Invalid "+p.what+": "+format, args...))
}

func (p *parser) unsupported(what string) {
	panic(unsupported(what + " in " + p.what))
}

func (p *parser) syntax() {
	token := p.token
	if token == "" {
		token = "<EOF>"
	}
	p.fail("Syntax error; token: %q, near: %q", token, strings.TrimSpace(p.token+p.rest))
}

// next reads a token: a name, #name, :value, or punctuation.
func (p *parser) next() {
	text := strings.TrimLeft(p.rest, " \t\r\n")
	end := 0
	switch {
	case text == "":
	case strings.HasPrefix(text, "<>") || strings.HasPrefix(text, "<=") || strings.HasPrefix(text, ">="):
		end = 2
	case strings.ContainsRune("(),.[]=<>+-", rune(text[0])):
		end = 1
	default:
		if text[0] == '#' || text[0] == ':' {
			end = 1
		}
		for end < len(text) && isNameByte(text[end]) {
			end++
		}
		if end == 0 || end == 1 && !isNameByte(text[0]) {
			p.token, p.rest = text[:1], text[1:]
			p.syntax()
		}
	}
	p.token, p.rest = text[:end], text[end:]
}

func isNameByte(c byte) bool {
	return c == '_' || c >= '0' && c <= '9' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z'
}

// accept takes the token if it is the given one. Keywords count in any case.
func (p *parser) accept(token string) bool {
	if !strings.EqualFold(p.token, token) {
		return false
	}
	p.next()
	return true
}

func (p *parser) expect(token string) {
	if !p.accept(token) {
		p.syntax()
	}
}

// or parses a whole condition. bare says that the text is one parenthesised
// condition and nothing else, which the service refuses inside parentheses.
func (p *parser) or() (c condition, bare bool) {
	c, bare = p.and()
	for p.accept("OR") {
		right, _ := p.and()
		c, bare = or{c, right}, false
	}
	return c, bare
}

func (p *parser) and() (c condition, bare bool) {
	c, bare = p.not()
	for p.accept("AND") {
		right, _ := p.not()
		c, bare = and{c, right}, false
	}
	return c, bare
}

func (p *parser) not() (c condition, bare bool) {
	if p.accept("NOT") {
		c, _ := p.not()
		return not{c}, false
	}
	if p.accept("(") {
		c, bare := p.or()
		p.expect(")")
		if bare {
			p.fail("The expression has redundant parentheses;")
		}
		return c, true
	}
	return p.predicate(), false
}

func (p *parser) predicate() condition {
	switch p.token {
	case "attribute_exists", "attribute_not_exists":
		function := p.token
		p.next()
		p.expect("(")
		if strings.HasPrefix(p.token, ":") {
			p.fail("Operator or function requires a document path; operator or function: %s", function)
		}
		c := condition(exists{p.attribute()})
		p.expect(")")
		if function == "attribute_not_exists" {
			c = not{c}
		}
		return c
	case "begins_with":
		p.next()
		p.expect("(")
		value := p.operand()
		p.expect(",")
		prefix := p.operand()
		p.expect(")")
		p.check("begins_with", []string{"S", "B"}, value, prefix)
		return beginsWith{value, prefix}
	case "attribute_type", "contains", "size":
		p.unsupported("the function " + p.token)
	}
	left := p.operand()
	switch operator := p.token; operator {
	case "=", "<>":
		p.next()
		right := p.operand()
		p.check(operator, nil, left, right)
		return comparison{operator, left, right}
	case "<", "<=", ">", ">=":
		p.next()
		right := p.operand()
		p.check(operator, []string{"S", "N", "B"}, left, right)
		return comparison{operator, left, right}
	}
	switch {
	case p.accept("BETWEEN"):
		low := p.operand()
		p.expect("AND")
		high := p.operand()
		p.check("BETWEEN", []string{"S", "N", "B"}, left, low, high)
		if low.constant != nil && high.constant != nil {
			if typeName(low.constant) != typeName(high.constant) {
				p.fail("The BETWEEN operator requires same data type for lower and upper bounds;")
			}
			if (comparison{">", low, high}).holds(nil) {
				p.fail("The BETWEEN operator requires upper bound to be greater than or equal to lower bound;")
			}
		}
		return between{left, low, high}
	case strings.EqualFold(p.token, "IN"):
		p.unsupported("the operator IN")
	}
	p.syntax()
	return nil
}

// check refuses operands that the service refuses whatever the item holds:
// constants of a type that the operator does not take (nil: it takes all), and
// twice the same attribute.
func (p *parser) check(operator string, kinds []string, operands ...operand) {
	for _, o := range operands {
		if o.constant != nil && kinds != nil && !slices.Contains(kinds, typeName(o.constant)) {
			p.fail("Incorrect operand type for operator or function; operator or function: %s, operand type: %s", operator, typeName(o.constant))
		}
	}
	for _, o := range operands[1:] {
		if first := operands[0]; first.constant == nil && o.constant == nil && first.attribute == o.attribute {
			p.fail("The first operand must be distinct from the remaining operands for this operator or function; operator: %s, first operand: [%s]", operator, o.attribute)
		}
	}
}

func (p *parser) operand() operand {
	if !strings.HasPrefix(p.token, ":") {
		return operand{attribute: p.attribute()}
	}
	v, ok := p.values[p.token]
	if !ok {
		p.fail("An expression attribute value used in expression is not defined; attribute value: %s", p.token)
	}
	p.usedValues[p.token] = true
	p.next()
	return operand{constant: v}
}

// attribute parses a #name. A bare name is refused: the service refuses those
// of its 573 reserved words, which Path, Key, Value and Identity are among, and
// a client under test must not get past us with one of them.
func (p *parser) attribute() string {
	if p.token == "" || !isNameByte(p.token[0]) && p.token[0] != '#' {
		p.syntax()
	}
	if p.token[0] != '#' {
		if strings.HasPrefix(strings.TrimLeft(p.rest, " \t\r\n"), "(") {
			p.unsupported("the function " + p.token)
		}
		p.unsupported("the attribute name " + p.token + " without a #placeholder")
	}
	name, ok := p.names[p.token]
	if !ok {
		p.fail("An expression attribute name used in the document path is not defined; attribute name: %s", p.token)
	}
	p.usedNames[p.token] = true
	p.next()
	if p.token == "." || p.token == "[" {
		p.unsupported("a nested attribute")
	}
	return name
}

func (p *parser) update() update {
	u := update{set: map[string]operand{}}
	var names []string
	seen := map[string]bool{}
	for p.token != "" {
		section := strings.ToUpper(p.token)
		if seen[section] {
			p.fail("The %q section can only be used once in an update expression;", section)
		}
		seen[section] = true
		switch section {
		case "SET":
			p.next()
			for more := true; more; more = p.accept(",") {
				name := p.attribute()
				p.expect("=")
				u.set[name] = p.operand()
				names = append(names, name)
				if p.token == "+" || p.token == "-" {
					p.unsupported("arithmetic")
				}
			}
		case "REMOVE":
			p.next()
			for more := true; more; more = p.accept(",") {
				name := p.attribute()
				u.remove = append(u.remove, name)
				names = append(names, name)
			}
		case "ADD", "DELETE":
			p.unsupported("the section " + section)
		default:
			p.syntax()
		}
	}
	p.distinct(names)
	return u
}

// distinct refuses an attribute that is named twice.
func (p *parser) distinct(names []string) {
	for i, name := range names {
		if slices.Contains(names[:i], name) {
			p.fail("Two document paths overlap with each other; must remove or rewrite one of these paths; path one: [%s], path two: [%s]", name, name)
		}
	}
}
