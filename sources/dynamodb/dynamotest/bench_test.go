package dynamotest_test

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/dyn2raft/dyn2raft/sources/dynamodb/dynamotest"
)

// BenchmarkScanPage reads full pages over the loopback by a client that throws
// them away; MB/s are bytes of JSON. Compare with BenchmarkPlainBody.
func BenchmarkScanPage(b *testing.B) {
	srv := dynamotest.NewServer(dynamotest.Options{})
	defer srv.Close()
	if err := srv.CreateVaultTable("vault"); err != nil {
		b.Fatal(err)
	}
	if _, err := (dynamotest.VaultShape{Entries: 50_000}).Load(srv, "vault"); err != nil {
		b.Fatal(err)
	}
	drain(b, srv.URL)
}

// BenchmarkPlainBody is what net/http itself can do with a body of that size.
func BenchmarkPlainBody(b *testing.B) {
	body := bytes.Repeat([]byte("0123456789abcdef"), 1_400_000/16)
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		w.Header().Set("Content-Length", fmt.Sprint(len(body)))
		_, _ = w.Write(body)
	}))
	defer srv.Close()
	drain(b, srv.URL)
}

func drain(b *testing.B, url string) {
	transport := &http.Transport{}
	defer transport.CloseIdleConnections()
	buffer := make([]byte, 1<<20)
	for b.Loop() {
		r, err := http.NewRequest("POST", url, strings.NewReader(`{"TableName":"vault","ConsistentRead":true}`))
		if err != nil {
			b.Fatal(err)
		}
		r.Header.Set("X-Amz-Target", "DynamoDB_20120810.Scan")
		r.Header.Set("Authorization", "any")
		response, err := transport.RoundTrip(r)
		if err != nil {
			b.Fatal(err)
		}
		n, err := io.CopyBuffer(struct{ io.Writer }{io.Discard}, response.Body, buffer)
		if err != nil || response.StatusCode != 200 || n < 1<<20 {
			b.Fatalf("%d bytes with status %d: %v", n, response.StatusCode, err)
		}
		response.Body.Close()
		b.SetBytes(n)
	}
}

// BenchmarkLoad generates and stores entries; MB/s are bytes of keys and values.
func BenchmarkLoad(b *testing.B) {
	for b.Loop() {
		srv := dynamotest.NewServer(dynamotest.Options{})
		if err := srv.CreateVaultTable("vault"); err != nil {
			b.Fatal(err)
		}
		loaded, err := dynamotest.VaultShape{Entries: 100_000}.Load(srv, "vault")
		if err != nil {
			b.Fatal(err)
		}
		srv.Close()
		b.SetBytes(loaded.Bytes)
	}
}
