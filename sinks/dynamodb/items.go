package dynamodb

import (
	"errors"
	"fmt"
	"path"
	"strings"
	"unicode/utf8"

	"github.com/aws/aws-sdk-go-v2/service/dynamodb/types"
	"github.com/hashicorp/vault/sdk/physical"

	"github.com/dyn2raft/dyn2raft/copier"
)

// attributes are an item, its key, or what an expression needs.
type attributes = map[string]types.AttributeValue

// The attributes of an item of Vault's dynamodb storage, as Vault 1.13 to 1.21 were seen
// to write them.
const (
	attrPath     = "Path"
	attrKey      = "Key"
	attrValue    = "Value"
	attrIdentity = "Identity" // of locks: who holds it
	attrExpires  = "Expires"  // of locks: unix nanoseconds
)

// emptyPath is the Path of keys without a slash: DynamoDB allows no empty one.
const emptyPath = " "

// The service's limits, in bytes (Developer Guide, "Quotas"). That of an item counts the
// names of its attributes.
const (
	maxItem     = 400 << 10
	maxHashKey  = 2048
	maxRangeKey = 1024
)

// Keys that are no entries: Vault takes them for locks, and so does who reads them back.
const (
	leaderLockKey    = "core/_lock"
	coreLockKey      = "core/lock"
	migrationLockKey = "core/migration"
)

// split maps a Vault key to Path and Key as Vault's storage does.
func split(key string) (dir, base string) {
	if !strings.Contains(key, "/") {
		return emptyPath, key
	}
	return path.Dir(key), path.Base(key)
}

// at is the key of the item that a Vault key has.
func at(vaultKey string) attributes {
	dir, base := split(vaultKey)
	return itemKey(dir, base)
}

func itemKey(dir, base string) attributes {
	return attributes{attrPath: &types.AttributeValueMemberS{Value: dir}, attrKey: &types.AttributeValueMemberS{Value: base}}
}

// refusal says why Vault's storage can't keep an entry in DynamoDB, so that a Vault would
// find it as it is; nil where it can.
func refusal(e copier.Entry) error {
	key := string(e.Key)
	if !utf8.ValidString(key) {
		return errors.New("the key is not valid UTF-8")
	}
	if key == leaderLockKey || key == coreLockKey || key == migrationLockKey {
		return errors.New("it is the key of a lock")
	}
	dir, base := split(key)
	// What the storage cleans away is another entry's key, or may be one's.
	if dir == "/" || base == "/" || strings.HasPrefix(key, emptyPath+"/") || dir != emptyPath && dir+"/"+base != key || key == "" {
		return fmt.Errorf("the storage would put it at Path %q, Key %q, which is the place of another key", dir, base)
	}
	switch size := itemSize(dir, base, e.Value); {
	case size > maxItem:
		return fmt.Errorf("the item has %d bytes, and DynamoDB takes %d", size, maxItem)
	case len(dir) > maxHashKey:
		return fmt.Errorf("its Path has %d bytes, and DynamoDB takes %d", len(dir), maxHashKey)
	case len(base) > maxRangeKey:
		return fmt.Errorf("its Key has %d bytes, and DynamoDB takes %d", len(base), maxRangeKey)
	}
	for segment := range strings.SplitSeq(strings.TrimSuffix(key, base), "/") {
		if len(segment)+1 > maxRangeKey {
			return fmt.Errorf("the marker of one of its directories has a Key of %d bytes, and DynamoDB takes %d", len(segment)+1, maxRangeKey)
		}
	}
	return nil
}

// itemSize is what an entry's item counts, in bytes. A NULL counts one.
func itemSize(dir, base string, value []byte) int {
	return len(attrPath) + len(dir) + len(attrKey) + len(base) + len(attrValue) + max(len(value), 1)
}

// An item is one to be written, or to be deleted.
type item struct {
	request types.WriteRequest
	units   int // of write capacity, where nothing is there
}

// put is the item of an entry, or of a marker, where value is empty. It refers to value.
func put(dir, base string, value []byte) item {
	it := itemKey(dir, base)
	it[attrValue] = &types.AttributeValueMemberNULL{Value: true}
	if len(value) > 0 {
		it[attrValue] = &types.AttributeValueMemberB{Value: value}
	}
	return item{types.WriteRequest{PutRequest: &types.PutRequest{Item: it}}, (itemSize(dir, base, value) + 1023) / 1024}
}

// items are those of entries: each its own, and the markers of its directories that
// nobody has written yet in this process, as Vault's storage writes them.
func (s *stage) items(entries *copier.Batch) (out []item) {
	out = make([]item, 0, entries.Len())
	for i := range entries.Len() {
		e := entries.Entry(i)
		key := string(e.Key)
		dir, base := split(key)
		out = append(out, put(dir, base, e.Value))
		if _, ok := s.marked.Load(dir); ok {
			continue // those of its parents too
		}
		for _, prefix := range physical.Prefixes(key) {
			if _, ok := s.marked.LoadOrStore(prefix, true); !ok {
				dir, base := split(prefix)
				out = append(out, put(dir, base+"/", nil))
			}
		}
	}
	return out
}

// isLock reports whether an item is one of the locks of a copy.
func isLock(key attributes) bool {
	dir, _ := key[attrPath].(*types.AttributeValueMemberS)
	base, _ := key[attrKey].(*types.AttributeValueMemberS)
	if dir == nil || base == nil || dir.Value != "core" {
		return false
	}
	return base.Value == "_lock" || base.Value == "migration"
}
