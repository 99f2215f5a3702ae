package copier

import (
	"crypto/sha256"
	"fmt"
	"strings"
	"testing"
)

// TestNames has pieces of values taken for parts of keys: they are not printed.
func TestNames(t *testing.T) {
	long := strings.Repeat("a", maxVaultKey)
	for key, want := range map[string]string{
		"core/keyring": "core/keyring", "sys/\u00fc": "sys/\u00fc", "": "", long: long,
		"core/keyring\x00\x00\x00\x01\x02secret": "core/keyring", "a\nsecret": "a", "a\x7fsecret": "a", "a\u0085secret": "a",
		"a\xffsecret": "a", "\x80secret": "", "a\xc3": "a", "a\ufffd": "a\ufffd", long + "secret": long,
	} {
		text, whole := Printable([]byte(key))
		name := NameKey([]byte(key))
		if text != want || whole != (key == want) || strings.Contains(name, "secret") {
			t.Errorf("%.50q: %.50q, %v, %.80s", key, text, whole, name)
		}
		if sum := fmt.Sprintf("… (%d bytes, sha256 %x)", len(key), sha256.Sum256([]byte(key))); strings.HasSuffix(name, sum) == whole {
			t.Errorf("%.50q is named %.200s", key, name)
		}
	}
}
