package dynamodb

import (
	"errors"
	"fmt"
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

// ErrNotVaultItem is returned when a table holds an item that Vault's dynamodb
// storage can't have written.
var ErrNotVaultItem = errors.New("not an item of Vault's")

// ItemKey returns the Vault key of the item with the given Path and Key
// attributes, and ErrNotVaultItem for attributes that no clean key is stored
// under: those with an empty, "." or ".." segment, as Vault cleans keys before
// it writes them. Each item has a key of its own, and [KeyItem] leads back.
//
// Path " " stands for no path: Path " " and Key "x" are the key "x", and Path
// " " and Key " " are the key " ". Vault would write a key " /x" to the same
// item as "x"; when it reads that item it takes it for "x", and so do we.
func ItemKey(path, key string) (string, error) {
	vaultKey := key
	if path != emptyPath {
		vaultKey = path + "/" + key
	}
	if strings.Contains(key, "/") || !clean(vaultKey) {
		return "", fmt.Errorf("%w: Path %q and Key %q are no clean Vault key", ErrNotVaultItem, path, key)
	}
	return vaultKey, nil
}

// KeyItem returns the Path and Key attributes under which Vault's dynamodb
// storage keeps a clean Vault key. [ItemKey] leads back, but for keys of two
// segments of which the first is one space, which share their item with
// another key; Vault uses none.
func KeyItem(vaultKey string) (path, key string) {
	i := strings.LastIndexByte(vaultKey, '/')
	if i < 0 {
		return emptyPath, vaultKey
	}
	return vaultKey[:i], vaultKey[i+1:]
}

// clean tells whether every segment of a key is neither empty nor "." nor
// "..": what is not is cleaned by Vault's dynamodb storage before it is
// written, so that it can't be in a table.
func clean[T ~string | ~[]byte](key T) bool {
	start := 0
	for i := 0; i <= len(key); i++ {
		if i < len(key) && key[i] != '/' {
			continue
		}
		switch n := i - start; {
		case n == 0,
			n == 1 && key[start] == '.',
			n == 2 && key[start] == '.' && key[start+1] == '.':
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

// classify returns what the item is, and its Vault key unless it is a marker.
func (r *record) classify() (kind, string, error) {
	name, slash := strings.CutSuffix(r.key, "/")
	key, err := ItemKey(r.path, name)
	if err != nil {
		return 0, "", fmt.Errorf("%w: Path %q, Key %q is at no clean Vault key", ErrNotVaultItem, r.path, r.key)
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
		return kindMarker, "", nil
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
