//go:build e2e

package e2e

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb/types"
	bolt "go.etcd.io/bbolt"
)

// tableName is not Vault's default name, so that the stanza's own name is what counts,
// and so that Vault creates the table itself, on every server.
const tableName = "vault-e2e"

// table reads and writes Vault's table by plain requests of the AWS SDK. It shares no
// code with dyn2raft's source: it is what dyn2raft is compared with.
type table struct {
	endpoint string
	client   *dynamodb.Client
}

func openTable(endpoint string) *table {
	return &table{endpoint, dynamodb.New(dynamodb.Options{
		Region:       "us-east-1",
		BaseEndpoint: aws.String(endpoint),
		Credentials:  credentials.NewStaticCredentialsProvider(anyCredential, anyCredential, ""),
	})}
}

// create makes the table, without anything in it.
func (tb *table) create(t *testing.T) {
	t.Helper()
	path, key := aws.String("Path"), aws.String("Key")
	_, err := tb.client.CreateTable(t.Context(), &dynamodb.CreateTableInput{
		TableName: aws.String(tableName), BillingMode: types.BillingModePayPerRequest,
		KeySchema:            []types.KeySchemaElement{{AttributeName: path, KeyType: types.KeyTypeHash}, {AttributeName: key, KeyType: types.KeyTypeRange}},
		AttributeDefinitions: []types.AttributeDefinition{{AttributeName: path, AttributeType: types.ScalarAttributeTypeS}, {AttributeName: key, AttributeType: types.ScalarAttributeTypeS}},
	})
	if err != nil {
		t.Fatalf("create the table: %v", err)
	}
}

// names are those of all tables.
func (tb *table) names(t *testing.T) []string {
	t.Helper()
	out, err := tb.client.ListTables(t.Context(), &dynamodb.ListTablesInput{})
	if err != nil {
		t.Fatalf("list the tables: %v", err)
	}
	return out.TableNames
}

type item = map[string]types.AttributeValue

func text(i item, attribute string) string {
	s, _ := i[attribute].(*types.AttributeValueMemberS)
	if s == nil {
		return ""
	}
	return s.Value
}

// binary is a binary attribute, or empty where there is none.
func binary(i item, attribute string) string {
	b, _ := i[attribute].(*types.AttributeValueMemberB)
	if b == nil {
		return ""
	}
	return string(b.Value)
}

func itemKey(path, key string) item {
	return item{
		"Path": &types.AttributeValueMemberS{Value: path},
		"Key":  &types.AttributeValueMemberS{Value: key},
	}
}

// items is every item of the table, by one sequential, consistent Scan.
func (tb *table) items(t *testing.T) []item {
	t.Helper()
	var all []item
	pages := dynamodb.NewScanPaginator(tb.client, &dynamodb.ScanInput{
		TableName: aws.String(tableName), ConsistentRead: aws.Bool(true),
	})
	for pages.HasMorePages() {
		page, err := pages.NextPage(t.Context())
		if err != nil {
			t.Fatalf("scan the table: %v", err)
		}
		all = append(all, page.Items...)
	}
	return all
}

// entries is what a complete copy holds: Vault's keys with their values, without
// directory markers, locks, and the two keys that belong to the old storage.
func (tb *table) entries(t *testing.T) map[string]string {
	t.Helper()
	entries := map[string]string{}
	for _, i := range tb.items(t) {
		path, key := text(i, "Path"), text(i, "Key")
		name := path + "/" + key
		if path == " " {
			name = key
		}
		_, hasIdentity := i["Identity"].(*types.AttributeValueMemberB)
		isLock := strings.HasPrefix(key, "_") && hasIdentity
		if strings.HasSuffix(key, "/") || isLock || name == "core/_lock" || name == "core/lock" || name == "core/migration" {
			continue
		}
		switch v := i["Value"].(type) {
		case *types.AttributeValueMemberB:
			entries[name] = string(v.Value)
		case *types.AttributeValueMemberNULL:
			entries[name] = ""
		default:
			t.Fatalf("item %q/%q has a value of type %T", path, key, v)
		}
	}
	if len(entries) == 0 {
		t.Fatal("the table has no entries")
	}
	return entries
}

// get is the item, or nil where there is none.
func (tb *table) get(t *testing.T, path, key string) item {
	t.Helper()
	out, err := tb.client.GetItem(t.Context(), &dynamodb.GetItemInput{
		TableName: aws.String(tableName), Key: itemKey(path, key), ConsistentRead: aws.Bool(true),
	})
	if err != nil {
		t.Fatalf("get item %q/%q: %v", path, key, err)
	}
	return out.Item
}

// put writes an entry as Vault does, without its directories.
func (tb *table) put(t *testing.T, path, key, value string) {
	t.Helper()
	i := itemKey(path, key)
	i["Value"] = &types.AttributeValueMemberB{Value: []byte(value)}
	if _, err := tb.client.PutItem(t.Context(), &dynamodb.PutItemInput{TableName: aws.String(tableName), Item: i}); err != nil {
		t.Fatalf("put item %q/%q: %v", path, key, err)
	}
}

// leaderLockHolder is the id of the Vault that holds the leader lock.
func (tb *table) leaderLockHolder(t *testing.T) string {
	t.Helper()
	v, _ := tb.get(t, "core", "_lock")["Value"].(*types.AttributeValueMemberB)
	if v == nil || len(v.Value) == 0 {
		t.Fatal("a Vault is serving, yet core/_lock names no holder")
	}
	return string(v.Value)
}

// removeMarker takes away a directory marker, as Vault's own races of a delete against
// a put do. What lies below is orphaned: no List leads to it.
func (tb *table) removeMarker(t *testing.T, path, key string) {
	t.Helper()
	if len(tb.get(t, path, key)) == 0 {
		t.Fatalf("there is no marker %q/%q to remove", path, key)
	}
	_, err := tb.client.DeleteItem(t.Context(), &dynamodb.DeleteItemInput{TableName: aws.String(tableName), Key: itemKey(path, key)})
	if err != nil {
		t.Fatalf("delete marker %q/%q: %v", path, key, err)
	}
}

// fillerPrefix is a top-level name that no Vault reads.
const fillerPrefix = "dyn2raft-e2e"

// addFiller writes entries that Vault has no part in, in the form its storage gives
// them: an empty value (written as NULL), one close to DynamoDB's limit for an item,
// and n small ones of which the last tenth is orphaned from the start.
func (tb *table) addFiller(t *testing.T, n int) {
	t.Helper()
	random := rand.New(rand.NewPCG(1, 2))
	value := func(size int) types.AttributeValue {
		b := make([]byte, size)
		for i := range b {
			b[i] = byte(random.Uint32())
		}
		return &types.AttributeValueMemberB{Value: b}
	}
	var items []item
	put := func(path, key string, v types.AttributeValue) {
		i := itemKey(path, key)
		i["Value"] = v
		items = append(items, i)
	}
	put(" ", fillerPrefix+"/", &types.AttributeValueMemberNULL{Value: true})
	put(fillerPrefix, "many/", &types.AttributeValueMemberNULL{Value: true})
	put(fillerPrefix, "empty", &types.AttributeValueMemberNULL{Value: true})
	put(fillerPrefix, "big", value(400_000))
	for i := range n {
		path := fillerPrefix + "/many"
		if i >= n*9/10 {
			path = fillerPrefix + "/orphaned"
		}
		put(path, fmt.Sprintf("%05d", i), value(1+random.IntN(2000)))
	}
	for batch := range slices.Chunk(items, 25) {
		var requests []types.WriteRequest
		for _, i := range batch {
			requests = append(requests, types.WriteRequest{PutRequest: &types.PutRequest{Item: i}})
		}
		out, err := tb.client.BatchWriteItem(t.Context(), &dynamodb.BatchWriteItemInput{
			RequestItems: map[string][]types.WriteRequest{tableName: requests},
		})
		if err != nil {
			t.Fatalf("write filler: %v", err)
		}
		if len(out.UnprocessedItems) > 0 {
			t.Fatalf("write filler: %d items were not written", len(out.UnprocessedItems[tableName]))
		}
	}
}

// storedEntries is the bucket of a Raft data directory that holds Vault's entries.
// No Vault may have the directory open.
func storedEntries(t *testing.T, dir string) map[string]string {
	t.Helper()
	db, err := bolt.Open(filepath.Join(dir, "vault.db"), 0o600, &bolt.Options{ReadOnly: true, Timeout: 5 * time.Second})
	if err != nil {
		t.Fatalf("open vault.db: %v", err)
	}
	defer db.Close()
	entries := map[string]string{}
	err = db.View(func(tx *bolt.Tx) error {
		bucket := tx.Bucket([]byte("data"))
		if bucket == nil {
			return fmt.Errorf("%s has no bucket data", db.Path())
		}
		return bucket.ForEach(func(k, v []byte) error {
			entries[string(k)] = string(v)
			return nil
		})
	})
	if err != nil {
		t.Fatal(err)
	}
	return entries
}

// flipBit changes one bit of the value of a key in a Raft data directory.
func flipBit(t *testing.T, dir, key string) {
	t.Helper()
	db, err := bolt.Open(filepath.Join(dir, "vault.db"), 0o600, &bolt.Options{Timeout: 5 * time.Second, NoFreelistSync: true})
	if err != nil {
		t.Fatalf("open vault.db: %v", err)
	}
	defer db.Close()
	err = db.Update(func(tx *bolt.Tx) error {
		bucket := tx.Bucket([]byte("data"))
		value := bytes.Clone(bucket.Get([]byte(key)))
		if len(value) == 0 {
			return fmt.Errorf("there is no entry %s to damage", key)
		}
		value[len(value)/2] ^= 1
		return bucket.Put([]byte(key), value)
	})
	if err != nil {
		t.Fatal(err)
	}
}

// difference is how a copy departs from the source, by key, each list sorted.
type difference struct {
	missing, changed, added []string
}

func compare(source, copied map[string]string) (d difference) {
	for k, v := range source {
		switch got, found := copied[k]; {
		case !found:
			d.missing = append(d.missing, k)
		case got != v:
			d.changed = append(d.changed, k)
		}
	}
	for k := range copied {
		if _, found := source[k]; !found {
			d.added = append(d.added, k)
		}
	}
	slices.Sort(d.missing)
	slices.Sort(d.changed)
	slices.Sort(d.added)
	return d
}

func (d difference) any() bool { return len(d.missing)+len(d.changed)+len(d.added) > 0 }

func (d difference) String() string {
	return fmt.Sprintf("%d missing %s, %d changed %s, %d added %s",
		len(d.missing), firstNames(d.missing), len(d.changed), firstNames(d.changed), len(d.added), firstNames(d.added))
}

func firstNames(keys []string) string {
	const most = 12
	if len(keys) > most {
		return fmt.Sprintf("%q and %d more", keys[:most], len(keys)-most)
	}
	return fmt.Sprintf("%q", keys)
}
