package bench

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/dyn2raft/dyn2raft/copier"
	"github.com/dyn2raft/dyn2raft/copier/processors"
	"github.com/dyn2raft/dyn2raft/sources/dynamodb"
	"github.com/dyn2raft/dyn2raft/sources/dynamodb/dynamotest"
)

// BenchmarkCopyLimit compares a whole copy with what can't be avoided: to
// transfer the same responses, to decode their base64, and to write the
// finished file's bytes, once where the entries fit the memory budget, else
// twice. All are measured in turn, so that they see the same machine.
// "drain-s" is what the server and HTTP take; "readback-s", which is no part of
// the sum, is one sequential read of the written bytes.
//
// The first copies, which do not count, touch memory that the system, or the host
// of a virtual machine, has yet to find: "first-s" is what the very first takes.
func BenchmarkCopyLimit(b *testing.B) {
	b.Run("100MB", func(b *testing.B) { copyLimit(b, b.Loop, 120_000, 1).report(b) })
	b.Run("1GB", func(b *testing.B) { copyLimit(b, b.Loop, 1_200_000, 2).report(b) })
}

func TestCopyLimit(t *testing.T) {
	want(t, copyLimit(t, once(), 2000, 2), "x-limit", "copy-s", "first-s", "drain-s", "base64-s", "write-s", "readback-s")
}

func copyLimit(tb testing.TB, loop func() bool, entries, writes int) metrics {
	s := startServer(tb, tableSpec{Shape: dynamotest.VaultShape{Entries: entries, Seed: 1}})
	reqs, workers := requests(tb, s)
	var whole, parts, drained, decoded, written, read []time.Duration
	var res copier.Record
	var first time.Duration
	turns := 1
	if writes == 1 { // what takes less than a second is easily disturbed
		turns = 3
	}
	for i := range turns {
		runtime.GC()
		if _, took := timedCopy(tb, s); i == 0 {
			first = took
		}
	}
	turn := func() {
		runtime.GC()
		var took time.Duration
		res, took = timedCopy(tb, s)
		whole = append(whole, took)

		runtime.GC()
		dir := tb.TempDir()
		timed := func(to *[]time.Duration, do func() error) time.Duration {
			start := time.Now()
			if err := do(); err != nil {
				tb.Fatal(err)
			}
			took := time.Since(start)
			*to = append(*to, took)
			return took
		}
		sum := timed(&drained, func() error { return drain(tb.Context(), s.URL, reqs, workers) })
		sum += timed(&decoded, func() error { return decode(s.Loaded.ValueBytes) })
		sum += timed(&written, func() error {
			for i := range writes {
				if err := write(filepath.Join(dir, fmt.Sprint(i)), res.Load.FileBytes); err != nil {
					return err
				}
			}
			return nil
		})
		parts = append(parts, sum)
		timed(&read, func() error { return readBack(filepath.Join(dir, "0")) })
		if err := os.RemoveAll(dir); err != nil {
			tb.Fatal(err)
		}
	}
	for loop() {
		for range turns {
			turn()
		}
	}
	if spilled := res.Scan.Runs > 0; spilled != (writes == 2) && entries > 100_000 {
		tb.Errorf("%d runs were written, which is not what the limit supposes", res.Scan.Runs)
	}
	return metrics{
		"x-limit":    median(whole).Seconds() / median(parts).Seconds(),
		"copy-s":     median(whole).Seconds(),
		"first-s":    first.Seconds(),
		"drain-s":    median(drained).Seconds(),
		"base64-s":   median(decoded).Seconds(),
		"write-s":    median(written).Seconds(),
		"readback-s": median(read).Seconds(),
		"spread":     spread(whole),
		"MB":         float64(s.Loaded.Bytes) / 1e6,
		"scan-s":     res.Process().Phases[copier.PhaseScan].Seconds(),
		"load-s":     res.Process().Phases[copier.PhaseLoad].Seconds(),
	}
}

// A request is one that a copy has sent.
type request struct {
	target string
	body   []byte
}

// requests scans the table through a proxy and returns the Scan and Query
// requests that this takes, and how many workers it used.
func requests(tb testing.TB, s server) (reqs []request, workers int) {
	tb.Helper()
	target, err := url.Parse(s.URL)
	if err != nil {
		tb.Fatal(err)
	}
	transport := &http.Transport{MaxIdleConnsPerHost: 64}
	defer transport.CloseIdleConnections()
	forward := &httputil.ReverseProxy{
		Rewrite:   func(r *httputil.ProxyRequest) { r.SetURL(target) },
		Transport: transport,
	}
	var mu sync.Mutex
	proxy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			return // the client is told by the connection's end
		}
		op := r.Header.Get("X-Amz-Target")
		if strings.HasSuffix(op, ".Scan") || strings.HasSuffix(op, ".Query") {
			mu.Lock()
			reqs = append(reqs, request{op, body})
			mu.Unlock()
		}
		r.Body = io.NopCloser(bytes.NewReader(body))
		forward.ServeHTTP(w, r)
	}))
	defer proxy.Close()
	src, err := dynamodb.New(tb.Context(), dynamodb.Options{Endpoint: proxy.URL, AccessKey: "a", SecretKey: "b"})
	if err != nil {
		tb.Fatal(err)
	}
	if _, err := src.Open(tb.Context()); err != nil {
		tb.Fatal(err)
	}
	sorted, stats, err := copier.Scan(tb.Context(), src, copier.ScanOptions{
		WorkDir: tb.TempDir(), Map: func(copier.Entry, *copier.Batch) {},
	})
	if err != nil {
		tb.Fatal(err)
	}
	if err := sorted.Close(); err != nil {
		tb.Fatal(err)
	}
	return reqs, stats.Workers
}

// drain sends the requests again with as many workers as a copy has, and
// throws the responses away.
func drain(ctx context.Context, url string, reqs []request, workers int) error {
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: workers}}
	defer client.CloseIdleConnections()
	next := make(chan request, len(reqs))
	for _, r := range reqs {
		next <- r
	}
	close(next)
	group, ctx := errgroup.WithContext(ctx)
	for range workers {
		group.Go(func() error {
			buf := make([]byte, 64<<10)
			for r := range next {
				if err := send(ctx, client, url, r, buf); err != nil {
					return err
				}
			}
			return nil
		})
	}
	return group.Wait()
}

func send(ctx context.Context, client *http.Client, url string, r request, buf []byte) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, url, bytes.NewReader(r.body))
	if err != nil {
		return err
	}
	req.Header.Set("X-Amz-Target", r.target)
	req.Header.Set("Content-Type", "application/x-amz-json-1.0")
	req.Header.Set("Authorization", "any")
	resp, err := client.Do(req)
	if err != nil {
		return err
	}
	_, err = io.CopyBuffer(struct{ io.Writer }{io.Discard}, resp.Body, buf)
	if cerr := resp.Body.Close(); err == nil {
		err = cerr
	}
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s", r.target, resp.Status)
	}
	return err
}

// decode decodes the base64 of n bytes, on all cores.
func decode(n int64) error {
	const page = 3 << 18 // a multiple of 3, and about what a response holds
	text := base64.StdEncoding.AppendEncode(nil, bytes.Repeat([]byte("dyn"), page/3))
	var group errgroup.Group
	procs := int64(processors.Count())
	for range procs {
		group.Go(func() error {
			dst := make([]byte, page)
			for left := n / procs; left > 0; left -= page {
				part := text[:(min(left, page)+2)/3*4]
				if _, err := base64.StdEncoding.Decode(dst, part); err != nil {
					return err
				}
			}
			return nil
		})
	}
	return group.Wait()
}

// write writes n bytes to a new file, in sequence, and syncs them.
func write(path string, n int64) (err error) {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	buf := bytes.Repeat([]byte("0123456789abcdef"), 1<<16)
	for left := n; left > 0; left -= int64(len(buf)) {
		if _, err := f.Write(buf[:min(left, int64(len(buf)))]); err != nil {
			return err
		}
	}
	return f.Sync()
}

func readBack(path string) (err error) {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	_, err = io.CopyBuffer(struct{ io.Writer }{io.Discard}, struct{ io.Reader }{f}, make([]byte, 1<<20))
	return err
}
