// Package bench measures dyn2raft against limits and peers in the same run, as
// ratios: these say the same on a fast machine and on a busy one.
//
//	go test -run '^$' -bench . -benchtime 3x -timeout 60m ./bench
package bench

import (
	"bytes"
	"context"
	"encoding/base64"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/dyn2raft/dyn2raft/copier"
	sink "github.com/dyn2raft/dyn2raft/sinks/raft"
	"github.com/dyn2raft/dyn2raft/sources/dynamodb"
	"github.com/dyn2raft/dyn2raft/sources/dynamodb/dynamotest"
)

// table starts an in-process server that holds a Vault-shaped table.
func table(b *testing.B, opts dynamotest.Options, entries int) (*dynamotest.Server, dynamotest.Loaded) {
	b.Helper()
	srv := dynamotest.NewServer(opts)
	b.Cleanup(srv.Close)
	if err := srv.CreateVaultTable(dynamodb.DefaultTable); err != nil {
		b.Fatal(err)
	}
	content, err := dynamotest.VaultShape{Entries: entries, Seed: 1}.Load(srv, dynamodb.DefaultTable)
	if err != nil {
		b.Fatal(err)
	}
	return srv, content
}

// copyTable copies the table once and returns the result and the size of
// vault.db in bytes.
func copyTable(b *testing.B, endpoint, dir string) copier.Result {
	b.Helper()
	ctx := b.Context()
	src, err := dynamodb.New(ctx, dynamodb.Options{
		Endpoint: endpoint, AccessKey: "a", SecretKey: "b", HAEnabled: true,
	})
	if err != nil {
		b.Fatal(err)
	}
	dst, err := sink.New(sink.Options{Path: dir, NodeID: "n", Address: "127.0.0.1:8201", Notify: func(copier.Event) {}})
	if err != nil {
		b.Fatal(err)
	}
	res, err := copier.Copy(ctx, src, dst, copier.Options{})
	if err != nil {
		b.Fatal(err)
	}
	return res
}

// requests reads the table through a proxy once and returns the bodies of its
// Scan and Query requests, whatever their order.
func requests(b *testing.B, srv *dynamotest.Server) (bodies []request) {
	b.Helper()
	var mu sync.Mutex
	proxy := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err == nil {
			target := r.Header.Get("X-Amz-Target")
			if strings.HasSuffix(target, ".Scan") || strings.HasSuffix(target, ".Query") {
				mu.Lock()
				bodies = append(bodies, request{target, body})
				mu.Unlock()
			}
			r.Body = io.NopCloser(bytes.NewReader(body))
			srv.ServeHTTP(w, r)
		}
	})}
	addr := serve(b, proxy)
	src, err := dynamodb.New(b.Context(), dynamodb.Options{Endpoint: "http://" + addr, AccessKey: "a", SecretKey: "b"})
	if err != nil {
		b.Fatal(err)
	}
	if _, err := src.Prepare(b.Context()); err != nil {
		b.Fatal(err)
	}
	sorted, _, err := copier.Scan(b.Context(), src, copier.ScanOptions{WorkDir: b.TempDir(), Map: func(copier.Entry, *copier.Batch) {}})
	if err != nil {
		b.Fatal(err)
	}
	if err := sorted.Close(); err != nil {
		b.Fatal(err)
	}
	return bodies
}

type request struct {
	target string
	body   []byte
}

// drain sends the requests again with as many workers as a copy has, and
// throws the responses away. It returns their size in bytes.
func drain(b *testing.B, url string, reqs []request) int64 {
	b.Helper()
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 64}}
	defer client.CloseIdleConnections()
	next := make(chan request)
	var total int64
	var mu sync.Mutex
	group, ctx := errgroup.WithContext(b.Context())
	for range res.Scan.Workers {
		group.Go(func() error {
			for r := range next {
				n, err := send(ctx, client, url, r)
				if err != nil {
					return err
				}
				mu.Lock()
				total += n
				mu.Unlock()
			}
			return nil
		})
	}
	group.Go(func() error {
		defer close(next)
		for _, r := range reqs {
			select {
			case next <- r:
			case <-ctx.Done():
				return ctx.Err()
			}
		}
		return nil
	})
	if err := group.Wait(); err != nil {
		b.Fatal(err)
	}
	return total
}

func send(ctx context.Context, client *http.Client, url string, r request) (int64, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, url, bytes.NewReader(r.body))
	if err != nil {
		return 0, err
	}
	req.Header.Set("X-Amz-Target", r.target)
	req.Header.Set("Content-Type", "application/x-amz-json-1.0")
	req.Header.Set("Authorization", "AWS4-HMAC-SHA256 Credential=a/20260101/us-east-1/dynamodb/aws4_request, SignedHeaders=host, Signature=0")
	resp, err := client.Do(req)
	if err != nil {
		return 0, err
	}
	n, err := io.Copy(io.Discard, resp.Body)
	if cerr := resp.Body.Close(); err == nil {
		err = cerr
	}
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s", r.target, resp.Status)
	}
	return n, err
}

// decode decodes as many bytes of base64 as n bytes become, on all cores.
func decode(b *testing.B, n int64) {
	b.Helper()
	const page = 1 << 20
	raw := bytes.Repeat([]byte("dyn2raft"), page/8)
	text := base64.StdEncoding.AppendEncode(nil, raw)
	var group errgroup.Group
	procs := int64(runtime.GOMAXPROCS(0))
	for range procs {
		group.Go(func() error {
			dst := make([]byte, page)
			for done := int64(0); done < n/procs; done += page {
				if _, err := base64.StdEncoding.Decode(dst, text); err != nil {
					return err
				}
			}
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		b.Fatal(err)
	}
}

// write writes n bytes in sequence and syncs them.
func write(b *testing.B, dir string, n int64) {
	b.Helper()
	f, err := os.Create(filepath.Join(dir, "plain"))
	if err != nil {
		b.Fatal(err)
	}
	buf := bytes.Repeat([]byte("0123456789abcdef"), 1<<16)
	for left := n; left > 0 && err == nil; left -= int64(len(buf)) {
		_, err = f.Write(buf[:min(left, int64(len(buf)))])
	}
	if err == nil {
		err = f.Sync()
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err == nil {
		err = os.Remove(f.Name())
	}
	if err != nil {
		b.Fatal(err)
	}
}

// BenchmarkCopyLimit compares a whole copy with what can't be avoided: to
// transfer the same responses, to decode their base64, and to write the
// finished file, once where the entries fit the memory budget, else twice. All
// are measured in turn, so that they see the same machine.
func BenchmarkCopyLimit(b *testing.B) {
	for _, c := range []struct {
		name    string
		entries int
		writes  int64
	}{
		{"100MB", 120_000, 1},
		{"1GB", 1_200_000, 2},
	} {
		b.Run(c.name, func(b *testing.B) {
			srv, content := table(b, dynamotest.Options{}, c.entries)
			reqs := requests(b, srv)
			dir := b.TempDir()
			var whole, parts []time.Duration
			var drained, decoded, written []time.Duration
			var res copier.Result
			for b.Loop() {
				data := filepath.Join(dir, "data")
				if err := os.Mkdir(data, 0o700); err != nil {
					b.Fatal(err)
				}
				runtime.GC()
				start := time.Now()
				res = copyTable(b, srv.URL, data)
				whole = append(whole, time.Since(start))
				if err := os.RemoveAll(data); err != nil {
					b.Fatal(err)
				}
				runtime.GC()
				t0 := time.Now()
				drain(b, srv.URL, reqs)
				t1 := time.Now()
				decode(b, content.Bytes)
				t2 := time.Now()
				write(b, dir, c.writes*res.Load.FileBytes)
				t3 := time.Now()
				drained = append(drained, t1.Sub(t0))
				decoded = append(decoded, t2.Sub(t1))
				written = append(written, t3.Sub(t2))
				parts = append(parts, t3.Sub(t0))
			}
			if res.Load.Entries != int64(content.Entries) {
				b.Fatalf("%d entries copied, expected %d", res.Load.Entries, content.Entries)
			}
			b.SetBytes(content.Bytes)
			b.ReportMetric(median(whole).Seconds()/median(parts).Seconds(), "x-of-limit")
			b.ReportMetric(median(whole).Seconds(), "copy-s")
			b.ReportMetric(median(drained).Seconds(), "drain-s")
			b.ReportMetric(median(decoded).Seconds(), "base64-s")
			b.ReportMetric(median(written).Seconds(), "write-s")
			b.ReportMetric(float64(res.Scan.Runs), "runs")
		})
	}
}

func median(d []time.Duration) time.Duration {
	s := slices.Sorted(slices.Values(d))
	return s[len(s)/2]
}

// serve starts srv on a free port and returns its address.
func serve(b *testing.B, srv *http.Server) string {
	b.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = srv.Serve(l) // ends with ErrServerClosed
	}()
	b.Cleanup(func() {
		_ = srv.Close() // nothing is under way
		<-done
	})
	return l.Addr().String()
}
