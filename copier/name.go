package copier

import (
	"crypto/sha256"
	"fmt"
	"unicode"
	"unicode/utf8"
)

// maxVaultKey is more than a key of Vault's has: 2,048 bytes of a DynamoDB
// table's hash key, a slash, and 1,024 of its range key.
const maxVaultKey = 2048 + 1 + 1024

// Printable returns what may be printed of a key that a file holds and nobody
// else knows. In a damaged file a piece of a value can be taken for a part of a
// key, and values are secret. So of a key that no Vault has written, because it
// is not UTF-8, has control characters or is too long, that is what comes
// before the first byte that shows it, and whole is false.
func Printable(key []byte) (text string, whole bool) {
	for i := 0; i < len(key); {
		r, n := utf8.DecodeRune(key[i:])
		if r == utf8.RuneError && n == 1 || unicode.IsControl(r) || i+n > maxVaultKey {
			return string(key[:i]), false
		}
		i += n
	}
	return string(key), true
}

// NameKey returns a key, quoted, for an error or a table. Where not all of it is
// [Printable] its length and SHA-256 take the place of the rest.
func NameKey(key []byte) string {
	text, whole := Printable(key)
	if whole {
		return fmt.Sprintf("%q", text)
	}
	return fmt.Sprintf("%q… (%d bytes, sha256 %x)", text, len(key), sha256.Sum256(key))
}
