package vaultconfig

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"al.essio.dev/pkg/shellescape"
	"github.com/hashicorp/hcl/hcl/ast"
	hclparser "github.com/hashicorp/hcl/hcl/parser"
	"github.com/hashicorp/hcl/hcl/token"
	jsonparser "github.com/hashicorp/hcl/json/parser"
)

// item is one `key = value` or `key "label" { … }` of the file.
type item struct {
	keys     []string // the key, then a block's labels; never empty
	line     int
	scalar   bool     // text holds the value
	text     string   // as Vault reads it: 5 is "5", true is "true", null is ""
	assigned bool     // with an equals sign
	body     []item   // of a block; not nil for a block
	found    string   // what a value that is no scalar is, for messages
	texts    []string // of a list of single values
	only     string   // of a list of one object with one key, that key
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

	if bytes.Count(src, []byte("["))+bytes.Count(src, []byte("{")) > maxBrackets {
		return nil, &Error{File: name, Problem: fmt.Sprintf("this is no configuration of Vault's: it has more than %d brackets", maxBrackets)}
	}
	if e := encoding(name, src); e != nil {
		return nil, e
	}
	var file *ast.File
	if isJSON(src) {
		// HCL's JSON parser silently drops what follows a missing comma.
		var syntax *json.SyntaxError
		if err := json.Unmarshal(src, new(any)); errors.As(err, &syntax) {
			if line, found := oddCharacter(src, 0); found != 0 {
				return nil, oddError(name, line, found)
			}
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
		var at *hclparser.PosError
		if errors.As(err, &at) {
			e.Line = at.Pos.Line
		}
		if line, found := oddCharacter(src, e.Line); found != 0 {
			return nil, oddError(name, line, found)
		}
		if at != nil {
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

// isJSON is how Vault distinguishes JSON from HCL.
func isJSON(src []byte) bool { return bytes.HasPrefix(bytes.TrimSpace(src), []byte("{")) }

// unicodeForm names the encoding of a text in UTF-16 or UTF-32, with a byte order mark or
// without one.
func unicodeForm(src []byte) string {
	begins := func(mark string) bool { return bytes.HasPrefix(src, []byte(mark)) }
	half := len(src) / 2
	wide := half > 0 && bytes.Count(src, []byte{0}) > half*9/10
	switch {
	case begins("\xff\xfe\x00\x00"), begins("\x00\x00\xfe\xff"):
		return "UTF-32"
	case begins("\xff\xfe"), begins("\xfe\xff"):
		return "UTF-16"
	case wide && src[1] == 0:
		return "UTF-16LE"
	case wide && src[0] == 0:
		return "UTF-16BE"
	}
	return ""
}

// encoding refuses a file that is not in UTF-8 without a byte order mark: neither
// does Vault read one.
func encoding(name string, src []byte) error {
	e := &Error{File: name, Line: 1}
	asNew := shellescape.Quote(name) + " > " + shellescape.Quote(name+".utf8")
	switch from := unicodeForm(src); {
	case bytes.HasPrefix(src, []byte("\xef\xbb\xbf")):
		e.Problem = "the configuration begins with a byte order mark, with which no Vault reads it either"
		e.Hint = "save it in UTF-8 without one; this writes a new file so: tail -c +4 " + asNew
	case from != "":
		e.Problem = "the configuration is encoded in " + from[:len("UTF-16")] + ", which no Vault reads either"
		e.Hint = "save it in UTF-8 (PowerShell: Set-Content -Encoding utf8NoBOM); this writes a new file so: iconv -f " + from + " -t UTF-8 " + asNew
	case bytes.ContainsFunc(src, func(r rune) bool { return r < ' ' && !strings.ContainsRune("\t\n\v\f\r", r) }):
		e.Problem, e.Hint = "the configuration is no text", "name the file for `vault operator migrate`; one that is packed (.gz, .zip) has to be unpacked"
	case !utf8.Valid(src):
		at := 0
		for r, n := utf8.DecodeRune(src); r != utf8.RuneError || n > 1; r, n = utf8.DecodeRune(src[at:]) {
			at += n
		}
		e.Line += bytes.Count(src[:at], []byte("\n"))
		e.Problem = fmt.Sprintf("the configuration is not encoded in UTF-8: byte 0x%02x", src[at])
		e.Hint = "save it in UTF-8; if it is of an old Windows, this writes a new file so: iconv -f WINDOWS-1252 -t UTF-8 " + asNew
	default:
		return nil
	}
	return e
}

// aside is where any character may stand: a text in quotes, or a comment.
var aside = regexp.MustCompile(`(?s)"(?:\\.?|[^"\\])*(?:"|$)|(?:#|//)[^\n]*|/\*.*?(?:\*/|$)`)

// oddCharacter finds the first character outside of quotes and comments that HCL
// and JSON have no use for there, such as a no-break space, and its line. On the
// suspect line, 0 for none, other quotes and separators are such ones too.
func oddCharacter(src []byte, suspect int) (line int, found rune) {
	code := aside.ReplaceAllFunc(src, func(text []byte) []byte { return bytes.Repeat([]byte("\n"), bytes.Count(text, []byte("\n"))) })
	line = 1
	for _, r := range string(code) {
		switch {
		case r == '\n':
			line++
		case r > unicode.MaxASCII && !unicode.IsLetter(r) && !unicode.IsDigit(r), r < ' ' && !strings.ContainsRune("\t\r", r), line == suspect && strings.ContainsRune("'`;:", r):
			return line, r
		}
	}
	return 0, 0
}

func oddError(name string, line int, found rune) *Error {
	hint, ok := map[rune]string{
		'\'': `put texts in double quotes: key = "value"`,
		'`':  `put texts in double quotes: key = "value"`,
		':':  `write key = "value"; this looks like YAML`,
		';':  "each key has a line of its own, without a semicolon",
	}[found]
	if !ok {
		hint = "text that was copied from a web page or a document may have it: type the line anew, with plain blanks and plain quotes"
	}
	return &Error{File: name, Line: line, Problem: characterName(found) + " stands outside of the quotes", Hint: hint}
}

// characterName names a character that can't be seen, or looks like another.
func characterName(r rune) string {
	name := map[rune]string{0xa0: "a no-break space", 0x202f: "a narrow no-break space", 0x200b: "a zero-width space",
		0xfeff: "a byte order mark", 0x2028: "a line separator"}[r]
	switch {
	case name != "":
	case r > unicode.MaxASCII && unicode.In(r, unicode.Quotation_Mark):
		name = fmt.Sprintf("the typographic quote %c", r)
	case unicode.IsSpace(r):
		name = "a blank that is none of ASCII's"
	case unicode.IsPrint(r):
		name = fmt.Sprintf("the character %c", r)
	default:
		name = "a character that can't be seen"
	}
	return fmt.Sprintf("%s (U+%04X)", name, r)
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
		it := item{line: n.Keys[0].Pos().Line, assigned: n.Assign.IsValid()}
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
			for _, e := range v.List {
				l, ok := e.(*ast.LiteralType)
				if !ok {
					it.texts = nil
					break
				}
				it.texts = append(it.texts, literal(l.Token))
			}
			if len(v.List) == 1 {
				if o, ok := v.List[0].(*ast.ObjectType); ok {
					if items := list(o.List, line); len(items) == 1 {
						it.only = items[0].keys[0]
					}
				}
			}
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
	v := t.Value()
	if number, ok := v.(float64); ok {
		if text, err := json.Marshal(number); err == nil {
			return string(text)
		}
	}
	return fmt.Sprint(v)
}
