package dynamodb

import (
	"errors"
	"fmt"
	"path"
	"strings"
)

// The attributes of an item that Vault's dynamodb storage writes. Source:
// Vault's documented table schema (Path hash key, Key range key) and the items
// that Vault 1.13 to 1.21 were seen to write.
const (
	attrPath     = "Path"
	attrKey      = "Key"
	attrValue    = "Value"
	attrIdentity = "Identity" // of locks: who holds it
	attrExpires  = "Expires"  // of locks: unix nanoseconds
)

// emptyPath is the Path of keys without a slash: DynamoDB allows no empty key
// attribute.
const emptyPath = " "

// Keys that hold locks and are never copied. Vault's leader lock is the item
// core/_lock; core/lock is its name elsewhere in Vault.
const (
	leaderLockKey    = "core/_lock"
	coreLockKey      = "core/lock"
	migrationLockKey = "core/migration"
)

// dotMarker is the Key of the directory marker that a key with a segment "." in
// front of its last one leaves, which the storage cleans away from its Path.
const dotMarker = "./"

// ErrNotVaultItem is returned when a table holds an item that Vault's dynamodb
// storage can't have written.
var ErrNotVaultItem = errors.New("not an item of Vault's")

// ItemKey returns the Vault key of the item with the given Path and Key
// attributes, and ErrNotVaultItem for attributes that Vault's dynamodb storage
// puts no key under. Each item has a key of its own, and [KeyItem] leads back.
//
// The storage cleans what is before a key's last slash, as path.Clean does, and
// makes it the Path. The last segment becomes the Key as it is: "." and ".." are
// data there, as in the KV v1 secret "foo/.", and so are spaces.
//
// Path " " stands for no path: Path " " and Key "x" are the key "x", and Path
// " " and Key " " are the key " ". Vault would write a key " /x" to the same
// item as "x". When Vault reads that item it reads "x", and so do we.
func ItemKey(parent, key string) (string, error) {
	switch {
	case key == "" || strings.Contains(key, "/") || path.Clean(parent) != parent:
		return "", fmt.Errorf("%w: there is no Vault key with Path %q and Key %q", ErrNotVaultItem, parent, key)
	case parent == emptyPath:
		return key, nil
	case parent == "/":
		return parent + key, nil
	}
	return parent + "/" + key, nil
}

// KeyItem returns the Path and Key attributes under which Vault's dynamodb
// storage keeps a key whose last segment is not empty and whose parents are
// clean. [ItemKey] leads back, but for keys of two segments of which the first
// is one space, which share their item with another key; Vault uses none.
func KeyItem(vaultKey string) (parent, key string) {
	switch i := strings.LastIndexByte(vaultKey, '/'); i {
	case -1:
		return emptyPath, vaultKey
	case 0:
		return "/", vaultKey[1:]
	default:
		return vaultKey[:i], vaultKey[i+1:]
	}
}

// cleanPath reports whether no segment of a Path is empty, "." or "..": nearly
// every Path is so, and path.Clean leaves it as it is.
func cleanPath(p []byte) bool {
	start := 0
	for i := 0; i <= len(p); i++ {
		if i < len(p) && p[i] != '/' {
			continue
		}
		switch n := i - start; {
		case n == 0,
			n == 1 && p[start] == '.',
			n == 2 && p[start] == '.' && p[start+1] == '.':
			return false
		}
		start = i + 1
	}
	return true
}

// A kind is what an item is.
type kind int

const (
	kindEntry kind = iota
	kindMarker
	kindLock
)

// A record is what of an item decides about its kind.
type record struct {
	path, key string
	value     valueType
	// valueName is the type of a value that is neither missing, null nor
	// binary, as DynamoDB writes it: "S", "N", "M"…
	valueName string
	// empty is set for a binary value of no bytes.
	empty bool
	// identity is set when the item has a binary Identity.
	identity bool
}

type valueType int

const (
	valueMissing valueType = iota
	valueNull
	valueBinary
	valueOther
)

// classify returns what the item is, and its Vault key. That of a marker is its directory,
// with a slash behind it; one of a directory without a name has none.
func (r *record) classify() (kind, string, error) {
	if r.path == "/" && r.key == "//" {
		return kindMarker, "", nil // of the parent "/" of keys that begin with two slashes
	}
	name, slash := strings.CutSuffix(r.key, "/")
	key, err := ItemKey(r.path, name)
	if err != nil {
		return 0, "", fmt.Errorf("%w: Path %q, Key %q is at no key that Vault writes", ErrNotVaultItem, r.path, r.key)
	}
	if !slash {
		switch key {
		case leaderLockKey, coreLockKey, migrationLockKey:
			return kindLock, key, nil // whatever it holds
		}
	}
	if r.value == valueOther {
		return 0, "", fmt.Errorf("%w: Path %q, Key %q has a Value of type %s, expected B (binary) or NULL",
			ErrNotVaultItem, r.path, r.key, r.valueName)
	}
	if slash {
		if r.value == valueBinary && !r.empty {
			return 0, "", fmt.Errorf("%w: Path %q, Key %q ends in a slash like a directory marker, but has a Value",
				ErrNotVaultItem, r.path, r.key)
		}
		return kindMarker, key + "/", nil
	}
	switch {
	case strings.HasPrefix(r.key, "_") && r.identity:
		return kindLock, key, nil
	case r.value == valueMissing:
		return 0, "", fmt.Errorf("%w: Path %q, Key %q has no Value, and is neither a directory marker nor a lock",
			ErrNotVaultItem, r.path, r.key)
	}
	return kindEntry, key, nil
}
