//go:build e2e

package e2e

import (
	"cmp"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// TestAWSTrial rehearses what `make aws` runs on the service.
func TestAWSTrial(t *testing.T) {
	t.Parallel()
	program := filepath.Join(t.TempDir(), "aws")
	if out, err := exec.Command("go", "build", "-o", program, "github.com/dyn2raft/dyn2raft/testdata/aws").CombinedOutput(); err != nil {
		t.Fatalf("build: %v\n%s", err, out)
	}
	embedded, local := startEmbeddedServer(t), startDynamoDBLocal(t).URL
	for name, c := range map[string]struct {
		endpoint, dyn2raft string
		interrupt          bool
		code               int
		want, wantNot      []string
	}{
		"embedded": {endpoint: throttling(t, embedded), want: []string{"Changed ", "Followed ", "== live/vault.db has the ", "All is well."}, wantNot: []string{"SKIPPED"}},
		"local":    {endpoint: local, want: []string{"SKIPPED: the way back in place", "Followed ", "== live/vault.db has the ", "All is well."}},
		"fails":    {endpoint: embedded, dyn2raft: "/bin/false", code: 1, want: []string{"FAILED: dyn2raft version"}, wantNot: []string{"All is well."}},
		"Ctrl-C":   {endpoint: embedded, interrupt: true, code: 1, want: []string{"FAILED: "}, wantNot: []string{"All is well."}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			log := filepath.Join(dir, "log")
			dyn2raft := dyn2raftBin
			if c.dyn2raft != "" {
				dyn2raft = c.dyn2raft
			}
			p := start(t, "the trial", "env", "TMPDIR="+dir, "AWS_REGION=us-east-1", "AWS_DYNAMODB_ENDPOINT="+c.endpoint, program, "-yes", "-entries", "2000", "-dyn2raft", dyn2raft, "-log", log)
			text := func() string {
				b, _ := os.ReadFile(log) // it may not be there yet
				return string(b)
			}
			if c.interrupt {
				waitFor(t, "the plan to end", 2*time.Minute, func() error {
					if strings.Contains(text(), "$ dyn2raft plan") {
						return p.cmd.Process.Signal(syscall.SIGINT)
					}
					return cmp.Or(p.alive(), errors.New("it has not"))
				})
			}
			p.waitExit(t, 10*time.Minute)
			if code := p.cmd.ProcessState.ExitCode(); code != c.code {
				t.Errorf("exit code %d, want %d\n%s", code, c.code, p.output())
			}
			for _, want := range append(c.want, "and its backups are deleted") {
				if !strings.Contains(text(), want) {
					t.Errorf("the log does not say %q:\n%s", want, text())
				}
			}
			for _, not := range append(c.wantNot, anyCredential, dir) {
				if strings.Contains(text(), not) {
					t.Errorf("the log says %q:\n%s", not, text())
				}
			}
			name := regexp.MustCompile(`dyn2raft-trial-\w+`).FindString(text())
			for _, table := range openTable(c.endpoint).names(t) {
				if table == name {
					t.Errorf("table %s is left behind", table)
				}
			}
			if err := os.Remove(log); err != nil {
				t.Error(err)
			}
			if found := left(t, dir); len(found) > 0 {
				t.Errorf("left behind: %q", found)
			}
		})
	}
}

// throttling is a server whose first batches are refused, as a new table on demand does when it is filled.
func throttling(t *testing.T, endpoint string) string {
	t.Helper()
	target, err := url.Parse(endpoint)
	if err != nil {
		t.Fatal(err)
	}
	var refused atomic.Int32
	proxy := httputil.NewSingleHostReverseProxy(target)
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.HasSuffix(r.Header.Get("X-Amz-Target"), ".BatchWriteItem") && refused.Add(1) <= 40 {
			w.Header().Set("Content-Type", "application/x-amz-json-1.0")
			w.WriteHeader(http.StatusBadRequest)
			fmt.Fprint(w, `{"__type":"com.amazonaws.dynamodb.v20120810#ThrottlingException","message":"slow down"}`)
			return
		}
		proxy.ServeHTTP(w, r)
	}))
	t.Cleanup(srv.Close)
	t.Cleanup(func() {
		if refused.Load() < 40 {
			t.Errorf("%d batches were refused, want 40", refused.Load())
		}
	})
	return srv.URL
}
