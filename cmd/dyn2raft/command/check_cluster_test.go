package command

import (
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/dyn2raft/dyn2raft/copier"
	"github.com/dyn2raft/dyn2raft/verify/cluster"
)

func init() {
	// vault DIR: start a server that answers with the files of a directory as
	// Vault answers with its paths, and set $VAULT_ADDR. A file that begins
	// with HTTP and a number is an error. What Vault tells only those with a
	// token needs a token that contains the secret of these scripts.
	scriptCommands["vault"] = func(ts *testscript.TestScript, neg bool, args []string) {
		need(ts, !neg && len(args) == 1, "vault DIR")
		dir := ts.MkAbs(args[0])
		s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			path := strings.TrimPrefix(r.URL.Path, "/v1/")
			if public := []string{"sys/seal-status", "sys/health", "sys/leader"}; !slices.Contains(public, path) && !strings.Contains(r.Header.Get("X-Vault-Token"), secret) {
				w.WriteHeader(http.StatusForbidden)
				return
			}
			body, err := os.ReadFile(filepath.Join(dir, filepath.FromSlash(path)))
			switch {
			case err != nil:
				w.WriteHeader(http.StatusNotFound)
			case strings.HasPrefix(string(body), "HTTP 403"):
				w.WriteHeader(http.StatusForbidden)
			default:
				_, _ = w.Write(body)
			}
		}))
		ts.Defer(s.Close)
		ts.Setenv("VAULT_ADDR", s.URL)
	}
}

func TestClusterVerdict(t *testing.T) {
	pass := copier.Finding{Check: "a", Status: copier.Passed}
	warning := copier.Finding{Check: "b", Status: copier.Warned}
	skipped := copier.Finding{Check: "c", Status: copier.Warned, Unchecked: true}
	failure := copier.Finding{Check: "d", Status: copier.Failed}
	for want, checks := range map[string]copier.Findings{
		"Healthy: 1 passed, 0 with a warning, 0 failed, at x.":                                                              {pass},
		"Healthy: 1 passed, 1 with a warning, 0 failed, at x.":                                                              {pass, warning},
		"No failure, but not all was checked: 1 passed, 1 with a warning, 0 failed, 1 of these could not be checked, at x.": {pass, skipped},
		"NOT HEALTHY: 1 passed, 0 with a warning, 1 failed, at x.":                                                          {pass, failure},
		"NOT HEALTHY: 0 passed, 1 with a warning, 1 failed, 1 of these could not be checked, at x.":                         {skipped, failure},
	} {
		if got := clusterVerdict(&cluster.Report{Address: "x", Checks: checks}); got != want {
			t.Errorf("got %q, expected %q", got, want)
		}
	}
}

func TestLatency(t *testing.T) {
	for d, want := range map[time.Duration]string{
		0: "0s", 999: "999ns", 61307741: "61.3ms", 109441173: "109ms", 1234567: "1.23ms", 955966: "956µs",
		1234 * time.Millisecond: "1.23s", 99 * time.Second: "1m39s", 2*time.Hour + 3*time.Millisecond: "2h0m0s",
	} {
		if got := latency(d); got != want {
			t.Errorf("%d: %s, expected %s", d, got, want)
		}
	}
}
