package dynamodb

import (
	"errors"
	"strings"
	"testing"
	"unicode/utf8"
)

func TestKeyMapping(t *testing.T) {
	for _, c := range []struct{ vaultKey, path, key string }{
		{"a", " ", "a"},
		{"a/b", "a", "b"},
		{"sys/expire/id/auth/approle/login/h123", "sys/expire/id/auth/approle/login", "h123"},
		{"logical/uuid/größe/ключ-密鑰-🔑", "logical/uuid/größe", "ключ-密鑰-🔑"},
		{"logical/uuid/team 1/service account", "logical/uuid/team 1", "service account"},
		{"logical/uuid/_x", "logical/uuid", "_x"},
		{"_x", " ", "_x"},
		{"core/_lock", "core", "_lock"},
		{"a/...", "a", "..."},
		{"a/.b", "a", ".b"},
		{".../b.", "...", "b."},
		{"a/ ", "a", " "},
		{" ", " ", " "},
		{" a", " ", " a"},
		{" a/b", " a", "b"},
		{" /a/b", " /a", "b"},
		{" / /b", " / ", "b"},
		{"  /b", "  ", "b"},
		{"a/ /b", "a/ ", "b"},
		{"a\n/b\x00", "a\n", "b\x00"},
	} {
		path, key := KeyItem(c.vaultKey)
		if path != c.path || key != c.key {
			t.Errorf("KeyItem(%q) is (%q, %q), expected (%q, %q)", c.vaultKey, path, key, c.path, c.key)
		}
		got, err := ItemKey(c.path, c.key)
		if err != nil || got != c.vaultKey {
			t.Errorf("ItemKey(%q, %q) is %q, %v, expected %q", c.path, c.key, got, err, c.vaultKey)
		}
	}
	// Vault writes the keys "x" and " /x" to one item, which it reads as "x".
	if path, key := KeyItem(" /x"); path != " " || key != "x" {
		t.Errorf(`KeyItem(" /x") is (%q, %q), and Vault writes to (" ", "x")`, path, key)
	}
	if got, err := ItemKey(" ", "x"); err != nil || got != "x" {
		t.Errorf(`ItemKey(" ", "x") is %q, %v, expected "x"`, got, err)
	}
	for _, c := range []struct{ path, key string }{
		{"", "a"}, {"", ""}, {" ", ""}, {"a", ""}, {"/", "a"}, {"/a", "b"}, {"a/", "b"}, {"a//b", "c"},
		{"a", "b/"}, {"a", "b/c"}, {" ", "b/c"}, {"a", "/"}, {" ", "/"},
		{"a", "."}, {"a", ".."}, {".", "a"}, {"..", "a"}, {"a/../b", "c"}, {"a/.", "c"}, {"./a", "c"}, {" ", "."}, {" ", ".."},
	} {
		if got, err := ItemKey(c.path, c.key); !errors.Is(err, ErrNotVaultItem) || got != "" {
			t.Errorf("ItemKey(%q, %q) is %q, %v, expected ErrNotVaultItem", c.path, c.key, got, err)
		}
	}
}

// isClean is what a clean key is, in other words than the code under test.
func isClean(key string) bool {
	for seg := range strings.SplitSeq(key, "/") {
		if seg == "" || seg == "." || seg == ".." {
			return false
		}
	}
	return true
}

func FuzzKeyMapping(f *testing.F) {
	for _, s := range []string{"a", "a/b", " ", " /x", "/x", "x/", "a//b", "a/./b", "a/../b", "_x", "core/_lock", "ü/日本/🔑", "..", "a/ /b", ""} {
		f.Add(s, s)
	}
	f.Fuzz(func(t *testing.T, a, b string) {
		// A clean key keeps its name, but for the one that Vault can't tell
		// from another.
		path, key := KeyItem(a)
		shared := strings.HasPrefix(a, " /") && strings.Count(a, "/") == 1
		got, err := ItemKey(path, key)
		switch {
		case isClean(a) && shared:
			if got != strings.TrimPrefix(a, " /") || err != nil {
				t.Errorf("key %q becomes item (%q, %q) and key %q, %v", a, path, key, got, err)
			}
		case isClean(a) && (err != nil || got != a):
			t.Errorf("key %q becomes item (%q, %q) and key %q, %v", a, path, key, got, err)
		case !isClean(a) && err == nil:
			t.Errorf("key %q is not clean, and item (%q, %q) is taken for key %q", a, path, key, got)
		}
		// An accepted item has a clean key of its own.
		vaultKey, err := ItemKey(a, b)
		if err != nil {
			if !errors.Is(err, ErrNotVaultItem) || vaultKey != "" {
				t.Errorf("item (%q, %q): key %q, error %v", a, b, vaultKey, err)
			}
			return
		}
		if path, key := KeyItem(vaultKey); path != a || key != b {
			t.Errorf("item (%q, %q) becomes key %q and item (%q, %q)", a, b, vaultKey, path, key)
		}
		if !isClean(vaultKey) || utf8.ValidString(a) && utf8.ValidString(b) && !utf8.ValidString(vaultKey) {
			t.Errorf("item (%q, %q) becomes key %q", a, b, vaultKey)
		}
	})
}
