package dynamodb

import (
	"errors"
	"path"
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
		{"kv/foo/.", "kv/foo", "."},
		{"kv/foo/..", "kv/foo", ".."},
		{".", " ", "."},
		{"/a", "/", "a"},
		{"/a/b", "/a", "b"},
		{"./a", ".", "a"},
		{"../a/b", "../a", "b"},
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
		{"", "a"}, {"", ""}, {" ", ""}, {"a", ""}, {"a/", "b"}, {"a//b", "c"}, {"//", "a"},
		{"a", "b/"}, {"a", "b/c"}, {" ", "b/c"}, {"a", "/"}, {" ", "/"},
		{"a/../b", "c"}, {"a/.", "c"}, {"./a", "c"}, {"/..", "a"},
	} {
		if got, err := ItemKey(c.path, c.key); !errors.Is(err, ErrNotVaultItem) || got != "" {
			t.Errorf("ItemKey(%q, %q) is %q, %v, expected ErrNotVaultItem", c.path, c.key, got, err)
		}
	}
}

// vaultPut returns the items that Vault's dynamodb storage puts for a key: the
// entry first, then a marker for each of the key's parents. Its rule is public:
// of a key with a slash the Path is path.Dir and the Key path.Base, and the
// parents are what stands before each slash.
func vaultPut(vaultKey string) []record {
	item := func(name string) record {
		r := record{path: " ", key: path.Base(name)}
		if strings.Contains(name, "/") {
			r.path = path.Dir(name)
		}
		return r
	}
	entry := item(vaultKey)
	entry.value = valueBinary
	out := []record{entry}
	for i := range len(vaultKey) {
		if vaultKey[i] == '/' {
			marker := item(vaultKey[:i])
			marker.key += "/"
			marker.value = valueNull
			out = append(out, marker)
		}
	}
	return out
}

// readsBack fails the test unless we take what Vault puts for a key for that
// key, or for what Vault itself can't tell from it.
func readsBack(t *testing.T, vaultKey string) {
	t.Helper()
	if vaultKey == "" || strings.HasSuffix(vaultKey, "/") {
		return // Vault refuses to write those
	}
	items := vaultPut(vaultKey)
	for _, r := range items[1:] {
		if k, _, err := r.classify(); k != kindMarker || err != nil {
			t.Errorf("the marker (%q, %q) of key %q is kind %v, %v", r.path, r.key, vaultKey, k, err)
		}
	}
	item := items[0]
	k, got, err := item.classify()
	if err != nil {
		t.Errorf("the item (%q, %q) of key %q: %v", item.path, item.key, vaultKey, err)
		return
	}
	if lock := got == leaderLockKey || got == coreLockKey || got == migrationLockKey; (k == kindLock) != lock || k == kindMarker {
		t.Errorf("the item of key %q is kind %v", vaultKey, k)
	}
	if again := vaultPut(got)[0]; again.path != item.path || again.key != item.key {
		t.Errorf("key %q is read as %q, and Vault finds that at (%q, %q) instead of (%q, %q)", vaultKey, got, again.path, again.key, item.path, item.key)
	}
	if parent, key := KeyItem(got); parent != item.path || key != item.key {
		t.Errorf("KeyItem(%q) is (%q, %q), and Vault's item is (%q, %q)", got, parent, key, item.path, item.key)
	}
	parent, last := path.Split(vaultKey)
	if len(parent) > 1 && path.Clean(parent[:len(parent)-1]) == parent[:len(parent)-1] && parent != " /" && parent != "//" && got != vaultKey {
		t.Errorf("key %q has clean parents, and is read as %q", vaultKey, got)
	}
	if !strings.HasSuffix(got, last) {
		t.Errorf("key %q is read as %q: its last segment is another", vaultKey, got)
	}
}

// TestVaultsOwnItems reads what Vault writes for each short key of pieces that
// mean something to somebody.
func TestVaultsOwnItems(t *testing.T) {
	pieces := []string{"a", ".", "..", " ", "/", "_", "ü"}
	var all func(key string, more int)
	all = func(key string, more int) {
		readsBack(t, key)
		for _, p := range pieces {
			if more > 0 {
				all(key+p, more-1)
			}
		}
	}
	all("", 5)
	for _, key := range []string{"logical/1111/foo/.", "logical/1111/./x", "core/_lock", "core/migration", "./core/_lock"} {
		readsBack(t, key)
	}
}

func FuzzKeyMapping(f *testing.F) {
	for _, s := range []string{"a", "a/b", " ", " /x", "/x", "x/", "a//b", "a/./b", "a/../b", "a/.", "_x", "core/_lock", "ü/日本/🔑", "..", "a/ /b", ""} {
		f.Add(s, s)
	}
	f.Fuzz(func(t *testing.T, a, b string) {
		readsBack(t, a)
		// An accepted item has a key of its own.
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
		if utf8.ValidString(a) && utf8.ValidString(b) && !utf8.ValidString(vaultKey) {
			t.Errorf("item (%q, %q) becomes key %q", a, b, vaultKey)
		}
	})
}
