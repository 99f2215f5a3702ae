// Package bench measures dyn2raft against limits and peers in the same run, as
// ratios: these say the same on a fast machine and on a busy one. The tables
// are served by another process, so that its memory and its garbage collection
// are not the copy's. Run all with `make bench`, or one alone:
//
//	go test -run '^$' -bench CopyLimit -benchtime 5x -timeout 60m ./bench
//
// The tests among them only run everything once on tiny tables.
package bench

import (
	"bufio"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/dynamodb/types"
	"go.uber.org/goleak"

	"github.com/dyn2raft/dyn2raft/copier"
	sink "github.com/dyn2raft/dyn2raft/sinks/raft"
	"github.com/dyn2raft/dyn2raft/sources/dynamodb"
	"github.com/dyn2raft/dyn2raft/sources/dynamodb/dynamotest"
)

// Sizes of the benchmarks' tables, and what is only measured when it is asked for.
var (
	entriesFlag     = flag.Int("entries", 1_000_000, "entries of the tables for memory, disk and growth")
	peerEntriesFlag = flag.Int("peer-entries", 200_000, "entries of the tables for the peer and for a hot Path")
	growthFlag      = flag.Int("growth", 0, "also copy a table of so many entries, and compare with -entries")
)

// serveVariable makes the test binary a server: it holds a tableSpec in JSON.
const serveVariable = "DYN2RAFT_BENCH_SERVE"

var dyn2raftBin string // built when it is first needed; see program

func TestMain(m *testing.M) {
	if spec := os.Getenv(serveVariable); spec != "" {
		if err := serve(spec); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	goleak.VerifyTestMain(m, goleak.Cleanup(func(code int) {
		if dyn2raftBin != "" {
			_ = os.RemoveAll(filepath.Dir(dyn2raftBin)) // in the folder for such files
		}
		os.Exit(code)
	}))
}

// A tableSpec is a table to be served.
type tableSpec struct {
	Shape   dynamotest.VaultShape
	Options dynamotest.Options
	// HotPaths, where set, is over how many Paths half of the entries are
	// spread; the Shape's own entries are then a Path for each.
	HotPaths int
}

// A server is a child process that serves a table.
type server struct {
	URL    string
	Loaded dynamotest.Loaded
	stop   func() // ends it before the test does
}

// delayed are the delays of the real service.
var delayed = dynamotest.Options{Latency: dynamotest.ReferenceLatency, Throughput: dynamotest.ReferenceThroughput}

// startServer starts a server and waits until its table is full.
func startServer(tb testing.TB, spec tableSpec) server {
	tb.Helper()
	text, err := json.Marshal(spec)
	if err != nil {
		tb.Fatal(err)
	}
	exe, err := os.Executable()
	if err != nil {
		tb.Fatal(err)
	}
	// It must not be told of tb's end by its context, which ends before the clean-up.
	cmd := exec.CommandContext(context.WithoutCancel(tb.Context()), exe)
	cmd.Env = append(os.Environ(), serveVariable+"="+string(text))
	cmd.Stderr = os.Stderr
	stdin, err := cmd.StdinPipe()
	if err != nil {
		tb.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		tb.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		tb.Fatal(err)
	}
	stop := sync.OnceFunc(func() {
		_ = stdin.Close() // which ends it, as this process's own end does
		if err := cmd.Wait(); err != nil {
			tb.Errorf("the server's end: %v", err)
		}
	})
	tb.Cleanup(stop)
	s := server{stop: stop}
	line, err := bufio.NewReader(stdout).ReadBytes('\n')
	if err == nil {
		err = json.Unmarshal(line, &s)
	}
	if err != nil {
		tb.Fatalf("start the server: %v", err)
	}
	return s
}

// serve is the child: it serves a table until its standard input ends.
func serve(text string) error {
	var spec tableSpec
	if err := json.Unmarshal([]byte(text), &spec); err != nil {
		return err
	}
	srv := dynamotest.NewServer(spec.Options)
	defer srv.Close()
	if err := srv.CreateVaultTable(dynamodb.DefaultTable); err != nil {
		return err
	}
	s := server{URL: srv.URL}
	var err error
	if spec.HotPaths == 0 {
		s.Loaded, err = spec.Shape.Load(srv, dynamodb.DefaultTable)
	} else {
		s.Loaded.Content, err = loadHot(srv, spec)
	}
	if err != nil {
		return err
	}
	// What loading left behind would take memory from the copy's files.
	debug.FreeOSMemory()
	if err := json.NewEncoder(os.Stdout).Encode(s); err != nil {
		return err
	}
	_, _ = bufio.NewReader(os.Stdin).ReadByte() // its end is what counts
	return nil
}

// loadHot puts every other entry into one of spec.HotPaths Paths, and each of the
// others into one of 5,000, without their directory markers.
func loadHot(srv *dynamotest.Server, spec tableSpec) (c dynamotest.Content, err error) {
	var items []map[string]types.AttributeValue
	put := func() {
		if err == nil {
			err = srv.PutItems(dynamodb.DefaultTable, items...)
		}
		items = items[:0]
	}
	i := 0
	for _, key := range copier.VaultKeys() {
		value := []byte(`{"secret_shares":1,"secret_threshold":1}`) // which Vault takes for the seal's configuration
		c.Add(key, value)
		if err := srv.PutVaultEntry(dynamodb.DefaultTable, key, value); err != nil {
			return c, err
		}
	}
	for key, value := range spec.Shape.All() {
		path, name := fmt.Sprintf("cold/%d", i%9999/2), fmt.Sprintf("h%x%s", i, key[strings.LastIndexByte(key, '/')+1:])
		if i%2 == 0 {
			path = fmt.Sprintf("hot/%d", i/2%spec.HotPaths)
			name = key[strings.LastIndexByte(key, '/')+1:] // an "h" and hexadecimal digits
		}
		i++
		if len(value) == 0 {
			continue
		}
		c.Add(path+"/"+name, value)
		items = append(items, map[string]types.AttributeValue{
			"Path":  &types.AttributeValueMemberS{Value: path},
			"Key":   &types.AttributeValueMemberS{Value: name},
			"Value": &types.AttributeValueMemberB{Value: value},
		})
		if len(items) == 50_000 {
			put()
		}
	}
	put()
	return c, err
}

// copyTable copies the table once, through the library.
func copyTable(tb testing.TB, endpoint, dir string) copier.Record {
	tb.Helper()
	src, err := dynamodb.New(tb.Context(), dynamodb.Options{
		Endpoint: endpoint, AccessKey: "a", SecretKey: "b", HAEnabled: true,
	})
	if err != nil {
		tb.Fatal(err)
	}
	dst, err := sink.New(sink.Options{Path: dir, NodeID: "n", Address: "127.0.0.1:8201", Notify: func(copier.Event) {}})
	if err != nil {
		tb.Fatal(err)
	}
	res, err := copier.Copy(tb.Context(), src, dst, copier.Options{NoProof: true})
	if err != nil {
		tb.Fatal(err)
	}
	return res
}

// timedCopy copies the table into a new directory, which it removes, and
// returns how long the copy took.
func timedCopy(tb testing.TB, s server) (copier.Record, time.Duration) {
	tb.Helper()
	dir := mkdir(tb)
	start := time.Now()
	res := copyTable(tb, s.URL, dir)
	took := time.Since(start)
	if err := os.RemoveAll(dir); err != nil {
		tb.Fatal(err)
	}
	if res.Load.Entries != int64(s.Loaded.Entries) || res.Load.Bytes != s.Loaded.Bytes {
		tb.Fatalf("%d entries of %d bytes copied, expected %d of %d", res.Load.Entries, res.Load.Bytes, s.Loaded.Entries, s.Loaded.Bytes)
	}
	return res, took
}

// mkdir makes a directory for a copy.
func mkdir(tb testing.TB) string {
	tb.Helper()
	dir := filepath.Join(tb.TempDir(), "data")
	if err := os.Mkdir(dir, 0o700); err != nil {
		tb.Fatal(err)
	}
	return dir
}

// program builds dyn2raft once and returns its path.
func program(tb testing.TB) string {
	tb.Helper()
	path, err := buildOnce()
	if err != nil {
		tb.Fatal(err)
	}
	return path
}

var buildOnce = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "dyn2raft-bench-")
	if err != nil {
		return "", err
	}
	dyn2raftBin = filepath.Join(dir, "dyn2raft")
	out, err := exec.Command("go", "build", "-o", dyn2raftBin, "github.com/dyn2raft/dyn2raft/cmd/dyn2raft").CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("build dyn2raft: %w\n%s", err, out)
	}
	return dyn2raftBin, nil
})

// writeConfig writes the file that vault operator migrate and dyn2raft take.
func writeConfig(tb testing.TB, s server, dir string) string {
	tb.Helper()
	file := filepath.Join(tb.TempDir(), "migrate.hcl")
	text := fmt.Sprintf(`storage_source "dynamodb" {
  endpoint   = %q
  region     = "us-east-1"
  access_key = "any"
  secret_key = "any"
}
storage_destination "raft" {
  path    = %q
  node_id = "bench"
}
cluster_addr = "https://127.0.0.1:8201"
`, s.URL, dir)
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		tb.Fatal(err)
	}
	return file
}

// childEnvironment keeps this machine's AWS and Vault settings away from children.
func childEnvironment() []string {
	return []string{"PATH=" + os.Getenv("PATH"), "HOME=" + os.TempDir(), "AWS_EC2_METADATA_DISABLED=true"}
}

// metrics are a benchmark's results by their unit.
type metrics map[string]float64

// report hands them to the benchmark's line of output.
func (m metrics) report(b *testing.B) {
	b.ReportMetric(0, "ns/op") // means nothing here
	for _, unit := range slices.Sorted(maps.Keys(m)) {
		b.ReportMetric(m[unit], unit)
	}
}

// median is the middle of durations, or between the two in the middle.
func median(d []time.Duration) time.Duration {
	s := slices.Sorted(slices.Values(d))
	return (s[(len(s)-1)/2] + s[len(s)/2]) / 2
}

// spread is by how much the slowest took longer than the fastest, as a part of
// the fastest.
func spread(d []time.Duration) float64 {
	return slices.Max(d).Seconds()/slices.Min(d).Seconds() - 1
}

// once is the loop of a test.
func once() func() bool {
	n := 0
	return func() bool { n++; return n == 1 }
}

// want fails the test where a metric is missing or is no positive number.
func want(t *testing.T, m metrics, units ...string) {
	t.Helper()
	for _, unit := range units {
		if !(m[unit] > 0) {
			t.Errorf("%s is %v, expected more than 0; all: %v", unit, m[unit], m)
		}
	}
}
