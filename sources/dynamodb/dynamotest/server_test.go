package dynamotest_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb/types"
	"github.com/aws/smithy-go"

	"github.com/dyn2raft/dyn2raft/sources/dynamodb/dynamotest"
)

const table = "vault"

// serve returns a server with an empty Vault table, and a client that does not
// retry.
func serve(t *testing.T, options dynamotest.Options) (*dynamotest.Server, *dynamodb.Client) {
	t.Helper()
	srv := dynamotest.NewServer(options)
	t.Cleanup(srv.Close)
	if err := srv.CreateVaultTable(table); err != nil {
		t.Fatal(err)
	}
	transport := &http.Transport{}
	t.Cleanup(transport.CloseIdleConnections)
	return srv, srv.Client(func(o *dynamodb.Options) {
		o.RetryMaxAttempts = 1
		o.HTTPClient = &http.Client{Transport: transport}
	})
}

func scanAll(db *dynamodb.Client) (*dynamodb.ScanOutput, error) {
	return db.Scan(context.Background(), &dynamodb.ScanInput{TableName: aws.String(table)})
}

// post sends a Scan without the SDK and returns the body as far as it comes.
func post(t *testing.T, srv *dynamotest.Server) (http.Header, []byte, error) {
	t.Helper()
	r, err := http.NewRequest("POST", srv.URL, strings.NewReader(`{"TableName":"`+table+`"}`))
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("X-Amz-Target", "DynamoDB_20120810.Scan")
	r.Header.Set("Authorization", "any")
	transport := &http.Transport{}
	defer transport.CloseIdleConnections()
	response, err := transport.RoundTrip(r)
	if err != nil {
		return nil, nil, err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	return response.Header, body, err
}

func TestVaultEntriesGetMarkersAndNulls(t *testing.T) {
	srv, db := serve(t, dynamotest.Options{})
	for _, e := range []struct{ key, value string }{{"a/b/c", "v"}, {"top", "t"}, {"a/empty", ""}, {"a/b/größe 🔑", "ü"}} {
		if err := srv.PutVaultEntry(table, e.key, []byte(e.value)); err != nil {
			t.Fatal(err)
		}
	}
	want := map[string]string{
		"a/b|c": "B(v)", "a/b|größe 🔑": "B(ü)", "a|b/": "NULL", " |a/": "NULL", " |top": "B(t)", "a|empty": "NULL",
	}
	page, err := scanAll(db)
	if err != nil {
		t.Fatal(err)
	}
	native := srv.Items(table)
	if len(page.Items) != len(want) || len(native) != len(want) {
		t.Errorf("%d items by Scan, %d by Items, want %d", len(page.Items), len(native), len(want))
	}
	for i, item := range page.Items {
		if show(item) != show(native[i]) {
			t.Errorf("Scan gives %s, Items %s", show(item), show(native[i]))
		}
		path, key := item["Path"].(*types.AttributeValueMemberS).Value, item["Key"].(*types.AttributeValueMemberS).Value
		got := "NULL"
		if b, ok := item["Value"].(*types.AttributeValueMemberB); ok {
			got = "B(" + string(b.Value) + ")"
		} else if _, ok := item["Value"].(*types.AttributeValueMemberNULL); !ok {
			t.Errorf("%s|%s has the value %v", path, key, item["Value"])
		}
		if want[path+"|"+key] != got {
			t.Errorf("%s|%s is %s, want %s", path, key, got, want[path+"|"+key])
		}
		if show(srv.GetItem(table, path, key)) != show(item) {
			t.Errorf("GetItem of %s|%s differs", path, key)
		}
	}
	// The bytes that the fast path writes are those of the slow one.
	through, _ := serve(t, dynamotest.Options{})
	for _, item := range native {
		if err := through.PutItem(table, item); err != nil {
			t.Fatal(err)
		}
	}
	_, fast, err := post(t, srv)
	if err != nil {
		t.Fatal(err)
	}
	_, slow, err := post(t, through)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(fast, slow) {
		t.Errorf("PutVaultEntry serves\n%s\nPutItem serves\n%s", fast, slow)
	}
	if err := srv.DeleteItem(table, "a", "b/"); err != nil {
		t.Fatal(err)
	}
	if srv.GetItem(table, "a", "b/") != nil {
		t.Error("the marker is still there")
	}
	for _, bad := range []string{"", "a/" + strings.Repeat("k", 1025), strings.Repeat("p", 2049) + "/k", "a/\xff"} {
		if srv.PutVaultEntry(table, bad, nil) == nil {
			t.Errorf("entry %.10q was stored", bad)
		}
	}
}

func TestNativeMethodsNeedTheirTable(t *testing.T) {
	srv, _ := serve(t, dynamotest.Options{})
	for what, err := range map[string]error{
		"create twice":  srv.CreateVaultTable(table),
		"bad name":      srv.CreateVaultTable("?"),
		"put":           srv.PutItem("nope", at("a", "b")),
		"put entry":     srv.PutVaultEntry("nope", "a", nil),
		"delete":        srv.DeleteItem("nope", "a", "b"),
		"status":        srv.SetTableStatus("nope", types.TableStatusCreating),
		"item sans key": srv.PutItem(table, item{"Path": str("a")}),
	} {
		if err == nil {
			t.Errorf("%s: no error", what)
		}
	}
	if srv.Items("nope") != nil || srv.GetItem("nope", "a", "b") != nil {
		t.Error("a table that is not there has items")
	}
	if _, err := dynamotest.Listen(dynamotest.Options{Addr: strings.TrimPrefix(srv.URL, "http://")}); !errors.Is(err, syscall.EADDRINUSE) {
		t.Errorf("listen on a used address: %v", err)
	}
}

func TestPutItemsKeepsTheLast(t *testing.T) {
	srv, db := serve(t, dynamotest.Options{})
	var items []map[string]types.AttributeValue
	for round := range 3 {
		for k := range 50 {
			items = append(items, with(at("p", strconv.Itoa(k)), "N", num(strconv.Itoa(round))))
		}
	}
	for range 2 { // into an empty table, then over what is there
		if err := srv.PutItems(table, items...); err != nil {
			t.Fatal(err)
		}
		out, err := db.DescribeTable(t.Context(), &dynamodb.DescribeTableInput{TableName: aws.String(table)})
		if err != nil {
			t.Fatal(err)
		}
		if *out.Table.ItemCount != 50 || len(srv.Items(table)) != 50 || *out.Table.TableSizeBytes != 50*int64(len("Path"+"p"+"Key"+"N")+2)+90 {
			t.Errorf("%d items of %d bytes", *out.Table.ItemCount, *out.Table.TableSizeBytes)
		}
		for k := range 50 {
			if got := srv.GetItem(table, "p", strconv.Itoa(k)); show(got) != show(items[100+k]) {
				t.Errorf("got %s, want %s", show(got), show(items[100+k]))
			}
		}
	}
}

func TestTableStatus(t *testing.T) {
	srv, db := serve(t, dynamotest.Options{})
	for status, readable := range map[types.TableStatus]bool{types.TableStatusCreating: false, types.TableStatusDeleting: false, types.TableStatusUpdating: true, types.TableStatusActive: true} {
		if err := srv.SetTableStatus(table, status); err != nil {
			t.Fatal(err)
		}
		out, err := db.DescribeTable(t.Context(), &dynamodb.DescribeTableInput{TableName: aws.String(table)})
		if err != nil || out.Table.TableStatus != status {
			t.Errorf("status %v, %v, want %s", out, err, status)
		}
		_, err = scanAll(db)
		var missing *types.ResourceNotFoundException
		if readable && err != nil || !readable && !errors.As(err, &missing) {
			t.Errorf("scan of a table that is %s: %v", status, err)
		}
	}
}

func TestUnsupportedIsRefused(t *testing.T) {
	srv, db := serve(t, dynamotest.Options{})
	x := &fixture{T: t, db: db, url: srv.URL, table: table}
	key := `"Key":{"Path":{"S":"a"},"Key":{"S":"b"}}`
	for _, c := range []struct{ operation, body, names string }{
		{"Scan", `{"TableName":"vault","FilterExpression":"#a = :a"}`, "FilterExpression"},
		{"Scan", `{"TableName":"vault","IndexName":"i"}`, "IndexName"},
		{"Scan", `{"TableName":"vault","AttributesToGet":["a"]}`, "AttributesToGet"},
		{"Scan", `{"TableName":"vault","Select":"ALL_PROJECTED_ATTRIBUTES"}`, "ALL_PROJECTED_ATTRIBUTES"},
		{"Query", `{"TableName":"vault","QueryFilter":{}}`, "QueryFilter"},
		{"GetItem", `{"TableName":"vault",` + key + `,"Foo":1}`, "Foo"},
		{"PutItem", `{"TableName":"vault","Item":{},"Expected":{}}`, "Expected"},
		{"PutItem", `{"TableName":"vault","Item":{"Path":{"S":"a"},"Key":{"S":"b"}},"ReturnItemCollectionMetrics":"SIZE"}`, "ReturnItemCollectionMetrics"},
		{"UpdateItem", `{"TableName":"vault",` + key + `,"ReturnValues":"UPDATED_NEW"}`, "UPDATED_NEW"},
		{"UpdateItem", `{"TableName":"vault",` + key + `,"UpdateExpression":"ADD #a :a"}`, "ADD"},
		{"UpdateItem", `{"TableName":"vault",` + key + `,"UpdateExpression":"SET #a = if_not_exists(#a, :a)","ExpressionAttributeNames":{"#a":"A"},"ExpressionAttributeValues":{":a":{"N":"1"}}}`, "if_not_exists"},
		{"UpdateItem", `{"TableName":"vault",` + key + `,"UpdateExpression":"SET #a = #a + :a","ExpressionAttributeNames":{"#a":"A"},"ExpressionAttributeValues":{":a":{"N":"1"}}}`, "arithmetic"},
		{"DeleteItem", `{"TableName":"vault",` + key + `,"ConditionExpression":"attribute_exists(Path)"}`, "Path without a #placeholder"},
		{"DeleteItem", `{"TableName":"vault",` + key + `,"ConditionExpression":"size(#a) > :a"}`, "size"},
		{"DeleteItem", `{"TableName":"vault",` + key + `,"ConditionExpression":"#a IN (:a)","ExpressionAttributeNames":{"#a":"A"}}`, "IN"},
		{"DeleteItem", `{"TableName":"vault",` + key + `,"ConditionExpression":"attribute_exists(#a.#a)","ExpressionAttributeNames":{"#a":"A"}}`, "nested"},
		{"CreateTable", `{"TableName":"vault2","StreamSpecification":{}}`, "StreamSpecification"},
		{"UpdateTable", `{"TableName":"vault","GlobalSecondaryIndexUpdates":[]}`, "GlobalSecondaryIndexUpdates"},
		{"BatchWriteItem", `{"RequestItems":{},"ReturnItemCollectionMetrics":"SIZE"}`, "ReturnItemCollectionMetrics"},
	} {
		status, out := x.raw(c.operation, anyCredentials, c.body)
		message := fmt.Sprint(out["message"])
		if status != 400 || !strings.Contains(fmt.Sprint(out["__type"]), "ValidationException") || !strings.Contains(message, "dynamotest does not support") || !strings.Contains(message, c.names) {
			t.Errorf("%s %s: %d %v", c.operation, c.body, status, out)
		}
	}
	if status, out := x.raw("TransactWriteItems", anyCredentials, `{}`); status != 400 || !strings.Contains(fmt.Sprint(out["message"]), "TransactWriteItems") {
		t.Errorf("TransactWriteItems: %d %v", status, out)
	}
	if requests := srv.Requests(); requests["Scan"] != 4 || requests["TransactWriteItems"] != 1 {
		t.Errorf("requests: %v", requests)
	}
}

func TestFaultsThatRefuse(t *testing.T) {
	srv, db := serve(t, dynamotest.Options{})
	for _, c := range []struct {
		kind   dynamotest.FaultKind
		code   string
		status int
	}{
		{dynamotest.ThroughputExceeded, "ProvisionedThroughputExceededException", 400},
		{dynamotest.Throttling, "ThrottlingException", 400},
		{dynamotest.RequestLimitExceeded, "RequestLimitExceeded", 400},
		{dynamotest.InternalServerError, "InternalServerError", 500},
		{dynamotest.ServiceUnavailable, "ServiceUnavailableException", 503},
		{dynamotest.ExpiredToken, "ExpiredTokenException", 400},
		{dynamotest.UnrecognizedClient, "UnrecognizedClientException", 400},
		{dynamotest.AccessDenied, "AccessDeniedException", 400},
		{dynamotest.UnknownOperation, "UnknownOperationException", 400},
	} {
		fault := &dynamotest.Fault{Kind: c.kind, Operation: "PutItem"}
		srv.SetFaults(fault)
		_, err := db.PutItem(t.Context(), &dynamodb.PutItemInput{TableName: aws.String(table), Item: at("a", string(c.kind))})
		var api smithy.APIError
		var response interface{ HTTPStatusCode() int }
		if !errors.As(err, &api) || api.ErrorCode() != c.code || !errors.As(err, &response) || response.HTTPStatusCode() != c.status {
			t.Errorf("%s: %v", c.kind, err)
		}
		if c.kind == dynamotest.AccessDenied && !strings.Contains(err.Error(), "is not authorized to perform: dynamodb:PutItem on resource: arn:aws:dynamodb:us-east-1:000000000000:table/vault") {
			t.Errorf("access denied: %v", err)
		}
		if fault.Fired() != 1 {
			t.Errorf("%s fired %d times", c.kind, fault.Fired())
		}
		if page, err := scanAll(db); err != nil || page.Count != 0 {
			t.Errorf("%s: the refused write took effect, or Scan failed: %v", c.kind, err)
		}
		if fault.Fired() != 1 {
			t.Errorf("%s fired for another operation", c.kind)
		}
	}
}

// TestFaultsThatSpoil spoils responses of a 100 KB page.
func TestFaultsThatSpoil(t *testing.T) {
	srv, db := serve(t, dynamotest.Options{})
	if err := srv.PutVaultEntry(table, "a", bytes.Repeat([]byte("value"), 20_000)); err != nil {
		t.Fatal(err)
	}
	goodHeader, good, err := post(t, srv)
	if err != nil {
		t.Fatal(err)
	}
	spoiled := func(kind dynamotest.FaultKind) (http.Header, []byte, error) {
		fault := &dynamotest.Fault{Kind: kind, Count: 1}
		srv.SetFaults(fault)
		header, body, err := post(t, srv)
		if fault.Fired() != 1 {
			t.Errorf("%s fired %d times", kind, fault.Fired())
		}
		return header, body, err
	}

	if _, _, err := spoiled(dynamotest.ResetConnection); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("reset: %v", err)
	}
	if header, body, err := spoiled(dynamotest.ResetMidBody); header == nil || !errors.Is(err, syscall.ECONNRESET) || len(body) != len(good)/2 {
		t.Errorf("reset mid-body: %d of %d bytes, %v", len(body), len(good), err)
	}
	if header, body, err := spoiled(dynamotest.Truncate); header == nil || !errors.Is(err, io.ErrUnexpectedEOF) || len(body) != len(good)/2 {
		t.Errorf("truncate: %d of %d bytes, %v", len(body), len(good), err)
	}
	header, body, err := spoiled(dynamotest.CorruptByte)
	if err != nil || header.Get("X-Amz-Crc32") != goodHeader.Get("X-Amz-Crc32") || len(body) != len(good) {
		t.Errorf("corrupt: %v", err)
	}
	different := 0
	for i := range body {
		if body[i] != good[i] {
			different++
		}
	}
	if different != 1 {
		t.Errorf("corrupt: %d bytes differ", different)
	}
	header, body, err = spoiled(dynamotest.WrongCRC)
	if err != nil || !bytes.Equal(body, good) || header.Get("X-Amz-Crc32") == strconv.FormatUint(uint64(crc32.ChecksumIEEE(good)), 10) {
		t.Errorf("wrong CRC: %v, CRC %s", err, header.Get("X-Amz-Crc32"))
	}
	// Afterwards all is well, and what was corrupted was not the stored item.
	header, body, err = post(t, srv)
	if err != nil || !bytes.Equal(body, good) || header.Get("X-Amz-Crc32") != goodHeader.Get("X-Amz-Crc32") {
		t.Errorf("after the faults: %v", err)
	}

	// A spoiled response does not undo the write.
	srv.SetFaults(&dynamotest.Fault{Kind: dynamotest.Truncate, Operation: "PutItem"})
	if _, err := db.PutItem(t.Context(), &dynamodb.PutItemInput{TableName: aws.String(table), Item: at("lost", "response")}); err == nil {
		t.Error("a truncated response was accepted")
	}
	if srv.GetItem(table, "lost", "response") == nil {
		t.Error("the write did not take effect")
	}
}

func TestFaultsChooseTheirRequests(t *testing.T) {
	srv, db := serve(t, dynamotest.Options{})
	throttled := func(n int) string {
		var out strings.Builder
		for range n {
			_, err := scanAll(db)
			var exceeded *types.ProvisionedThroughputExceededException
			switch {
			case err == nil:
				out.WriteByte('.')
			case errors.As(err, &exceeded):
				out.WriteByte('x')
			default:
				t.Fatal(err)
			}
		}
		return out.String()
	}
	after := &dynamotest.Fault{Kind: dynamotest.ThroughputExceeded, After: 2, Count: 3}
	srv.SetFaults(after)
	if got := throttled(8); got != "..xxx..." || after.Fired() != 3 {
		t.Errorf("after 2, 3 times: %s, fired %d", got, after.Fired())
	}
	from := srv.Requests()["Scan"]
	srv.SetFaults(&dynamotest.Fault{Kind: dynamotest.ThroughputExceeded, Match: func(r *dynamotest.Request) bool {
		return r.Operation == "Scan" && strings.Contains(string(r.Body), table) && (r.Number-from)%3 == 0
	}})
	if got := throttled(8); got != "..x..x.." {
		t.Errorf("each third: %s", got)
	}
	srv.SetFaults(&dynamotest.Fault{Kind: dynamotest.ThroughputExceeded, Match: func(r *dynamotest.Request) bool { return r.AccessKey == "dynamotest" }},
		&dynamotest.Fault{Kind: dynamotest.InternalServerError, Match: func(r *dynamotest.Request) bool { return r.AccessKey != "dynamotest" }})
	if got := throttled(2); got != "xx" {
		t.Errorf("by access key: %s", got)
	}
	srv.SetFaults()
	if got := throttled(2); got != ".." {
		t.Errorf("no faults: %s", got)
	}

	chance := func(seed uint64) string {
		srv, db = serve(t, dynamotest.Options{Seed: seed})
		srv.SetFaults(&dynamotest.Fault{Kind: dynamotest.ThroughputExceeded, Probability: 0.3})
		return throttled(100)
	}
	first, second, other := chance(1), chance(1), chance(2)
	if n := strings.Count(first, "x"); n < 10 || n > 60 || first != second || first == other {
		t.Errorf("by chance: %s, the same seed again: %s, another: %s", first, second, other)
	}
}

func TestSDKRetriesThroughFaults(t *testing.T) {
	srv, _ := serve(t, dynamotest.Options{})
	transport := &http.Transport{}
	t.Cleanup(transport.CloseIdleConnections)
	db := srv.Client(func(o *dynamodb.Options) { o.HTTPClient = &http.Client{Transport: transport} })
	for _, kind := range []dynamotest.FaultKind{dynamotest.ThroughputExceeded, dynamotest.Throttling, dynamotest.RequestLimitExceeded, dynamotest.InternalServerError, dynamotest.ServiceUnavailable, dynamotest.ResetConnection} {
		srv.SetFaults(&dynamotest.Fault{Kind: kind, Count: 1})
		if _, err := scanAll(db); err != nil {
			t.Errorf("%s once: %v", kind, err)
		}
	}
}

func TestDelays(t *testing.T) {
	const latency = 200 * time.Millisecond
	srv, db := serve(t, dynamotest.Options{Latency: latency, Throughput: 1 << 20}) // a second per MB
	took := func(run func() error) time.Duration {
		t.Helper()
		start := time.Now()
		if err := run(); err != nil {
			t.Error(err)
		}
		return time.Since(start)
	}
	put := func() error {
		_, err := db.PutItem(t.Context(), &dynamodb.PutItemInput{TableName: aws.String(table), Item: with(at("a", "b"), "Value", bin(strings.Repeat("x", 100<<10)))})
		return err
	}
	if err := put(); err != nil {
		t.Fatal(err)
	}
	want := latency + 100*time.Second/1024
	for name, run := range map[string]func() error{
		"Scan":  func() error { _, err := scanAll(db); return err },
		"Query": func() error { _, err := db.Query(t.Context(), legacy(table, "a", "")); return err },
		"GetItem": func() error {
			_, err := db.GetItem(t.Context(), &dynamodb.GetItemInput{TableName: aws.String(table), Key: at("a", "b")})
			return err
		},
	} {
		if d := took(run); d < want {
			t.Errorf("%s took %v, want %v", name, d, want)
		}
	}
	fault := &dynamotest.Fault{Kind: dynamotest.Delay, Delay: latency, Operation: "PutItem"}
	throttle := &dynamotest.Fault{Kind: dynamotest.Throttling, After: 1}
	srv.SetFaults(throttle, fault)
	if d := took(put); d < latency || fault.Fired() != 1 {
		t.Errorf("a delayed write took %v", d)
	}
	start := time.Now()
	if err := put(); err == nil || time.Since(start) < latency || fault.Fired() != 2 {
		t.Errorf("a delayed and throttled write: %v after %v", err, time.Since(start))
	}
}

func TestWritesDoNotWait(t *testing.T) {
	_, db := serve(t, dynamotest.Options{Latency: time.Hour})
	if _, err := db.PutItem(t.Context(), &dynamodb.PutItemInput{TableName: aws.String(table), Item: at("a", "b")}); err != nil {
		t.Error(err)
	}
}

func TestCloseEndsDelayedRequests(t *testing.T) {
	srv, db := serve(t, dynamotest.Options{})
	arrived := make(chan struct{})
	srv.SetFaults(&dynamotest.Fault{Kind: dynamotest.Delay, Delay: time.Hour, Match: func(*dynamotest.Request) bool { close(arrived); return true }})
	failed := make(chan error)
	go func() {
		_, err := scanAll(db)
		failed <- err
	}()
	<-arrived
	srv.Close()
	if err := <-failed; err == nil {
		t.Error("the request succeeded")
	}
}

// TestConcurrentUse is for the race detector: writers of the same items, scans,
// and native calls at once.
func TestConcurrentUse(t *testing.T) {
	srv, db := serve(t, dynamotest.Options{})
	var group sync.WaitGroup
	for worker := range 4 {
		group.Go(func() {
			for i := range 20 {
				_, err := db.UpdateItem(t.Context(), &dynamodb.UpdateItemInput{TableName: aws.String(table), Key: at("p", strconv.Itoa(i)), UpdateExpression: aws.String("SET #v = :v"),
					ExpressionAttributeNames: map[string]string{"#v": "Value"}, ExpressionAttributeValues: item{":v": num(strconv.Itoa(worker))}})
				if err != nil {
					t.Error(err)
				}
				if _, err := scanAll(db); err != nil {
					t.Error(err)
				}
				if err := srv.PutVaultEntry(table, fmt.Sprintf("x/%d/%d", worker, i), nil); err != nil {
					t.Error(err)
				}
				srv.SetFaults()
				srv.Requests()
			}
		})
	}
	group.Wait()
	if got, want := len(srv.Items(table)), 20+4*20+4+1; got != want {
		t.Errorf("%d items, want %d", got, want)
	}
}

// TestOneWinner lets many take a lock that only one can get.
func TestOneWinner(t *testing.T) {
	srv, db := serve(t, dynamotest.Options{})
	var won int
	var mu sync.Mutex
	var group sync.WaitGroup
	for range 8 {
		group.Go(func() {
			_, err := db.PutItem(t.Context(), &dynamodb.PutItemInput{TableName: aws.String(table), Item: at("core", "migration"),
				ConditionExpression: aws.String("attribute_not_exists(#p)"), ExpressionAttributeNames: map[string]string{"#p": "Path"}})
			var failed *types.ConditionalCheckFailedException
			mu.Lock()
			defer mu.Unlock()
			if err == nil {
				won++
			} else if !errors.As(err, &failed) {
				t.Error(err)
			}
		})
	}
	group.Wait()
	if won != 1 || srv.GetItem(table, "core", "migration") == nil {
		t.Errorf("%d winners", won)
	}
}

// TestCRCCheckerNoticesFaults shows that the conformance test's check of CRCs
// can fail.
func TestCRCCheckerNoticesFaults(t *testing.T) {
	for _, kind := range []dynamotest.FaultKind{dynamotest.WrongCRC, dynamotest.CorruptByte} {
		srv, _ := serve(t, dynamotest.Options{})
		checker := &crcChecker{next: &http.Transport{}}
		t.Cleanup(checker.next.CloseIdleConnections)
		db := srv.Client(func(o *dynamodb.Options) { o.HTTPClient = &http.Client{Transport: checker} })
		srv.SetFaults(&dynamotest.Fault{Kind: kind, Count: 1})
		_, _ = scanAll(db) // whether the SDK minds is not ours to say
		if len(checker.failures) != 1 {
			t.Errorf("%s: failures %q", kind, checker.failures)
		}
	}
}
