package config

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"strconv"
	"strings"

	"al.essio.dev/pkg/shellescape"
	"github.com/hashicorp/hcl/hcl/ast"
	hclparser "github.com/hashicorp/hcl/hcl/parser"
	"github.com/hashicorp/hcl/hcl/token"
	jsonparser "github.com/hashicorp/hcl/json/parser"
)

// item is one `key = value` or `key "label" { … }` of the file.
type item struct {
	keys   []string // the key, then a block's labels; never empty
	line   int
	scalar bool   // text holds the value
	text   string // as Vault reads it: 5 is "5", true is "true", null is ""
	body   []item // of a block; not nil for a block
	found  string // what a value that is no scalar is, for messages
}

// parseSyntax reads src with the parser that Vault uses. The library's errors
// quote the source, which may hold credentials: only the position is taken
// from them.
func parseSyntax(name string, src []byte) (items []item, err error) {
	line := 0
	defer func() {
		// The library panics on some malformed text (a broken escape, say).
		if recover() != nil {
			items, err = nil, &Error{File: name, Line: line, Problem: "cannot read the configuration: a name or value is malformed",
				Hint: "check the quotes and the backslashes"}
		}
	}()

	var file *ast.File
	if bytes.HasPrefix(bytes.TrimSpace(src), []byte("{")) { // how Vault tells JSON from HCL
		// HCL's JSON parser silently drops what follows a missing comma.
		var syntax *json.SyntaxError
		if err := json.Unmarshal(src, new(any)); errors.As(err, &syntax) {
			before := src[:min(int(syntax.Offset), len(src))]
			return nil, &Error{File: name, Line: 1 + bytes.Count(before, []byte("\n")), Problem: "the JSON is malformed",
				Hint: "check the quotes, commas and braces on this line and the one before"}
		}
		file, err = jsonparser.Parse(src)
	} else {
		file, err = hclparser.ParseDontErrorOnDuplicateKeys(src)
	}
	if err != nil {
		e := &Error{File: name, Problem: "the configuration is malformed", Hint: `check the quotes, the braces and each "="`}
		if bytes.HasPrefix(src, []byte("\xef\xbb\xbf")) {
			e.Problem, e.Line = "the configuration begins with a byte order mark, with which no Vault reads it either", 1
			e.Hint = "save it in UTF-8 without one; this writes it so: tail -c +4 " + shellescape.Quote(name)
			return nil, e
		}
		var at *hclparser.PosError
		if errors.As(err, &at) {
			e.Line = at.Pos.Line
			for _, s := range syntaxErrors {
				if strings.Contains(at.Err.Error(), s.library) {
					e.Problem, e.Hint = s.problem, s.hint
					break
				}
			}
		} else if m := jsonPosition.FindStringSubmatch(err.Error()); m != nil {
			e.Line, _ = strconv.Atoi(m[1])
		}
		return nil, e
	}
	root, ok := file.Node.(*ast.ObjectList)
	if !ok {
		return nil, &Error{File: name, Problem: "the configuration has no keys"}
	}
	return list(root, &line), nil
}

// jsonPosition is the line with which an error of the JSON scanner begins.
var jsonPosition = regexp.MustCompile(`^(\d+):\d+: `)

// syntaxErrors says the library's more common errors in our words.
var syntaxErrors = []struct{ library, problem, hint string }{
	{"literal not terminated", "a quoted text does not end on its line", `close it with a "`},
	{"heredoc", "a heredoc (<<) is malformed", `write the value as "…"`},
	{"expected start of object", `a key is followed by neither "=" nor "{"`, `write key = "value"`},
	{"closing RBRACE", "a block does not end", "close it with a }"},
	{"EOF", "the configuration ends in the middle of a block or value", "close every block with a }"},
}

// list converts nodes and keeps in line where it stands, for the caller's
// message if the library panics.
func list(nodes *ast.ObjectList, line *int) []item {
	items := make([]item, 0, len(nodes.Items))
	for _, n := range nodes.Items {
		if len(n.Keys) == 0 {
			continue
		}
		it := item{line: n.Keys[0].Pos().Line}
		if it.line == 0 { // from JSON, where keys have no position
			it.line = n.Assign.Line
		}
		if it.line != 0 {
			*line = it.line
		}
		for _, k := range n.Keys {
			it.keys = append(it.keys, k.Token.Value().(string))
		}
		switch v := n.Val.(type) {
		case *ast.LiteralType:
			it.scalar, it.text, it.found = true, literal(v.Token), "a single value"
		case *ast.ObjectType:
			it.body, it.found = list(v.List, line), "a block"
		case *ast.ListType:
			it.found = "a list"
		default:
			it.found = "no value"
		}
		items = append(items, it)
	}
	return items
}

// literal is a value's text as Vault's storage stanzas take it: numbers and
// booleans as JSON writes them.
func literal(t token.Token) string {
	switch v := t.Value().(type) {
	case string:
		return v
	case bool:
		return strconv.FormatBool(v)
	case int64:
		return strconv.FormatInt(v, 10)
	default:
		text, err := json.Marshal(v)
		if err != nil {
			return fmt.Sprint(v)
		}
		return string(text)
	}
}
