//go:build e2e

package e2e

import (
	"encoding/json"
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// configOf writes a configuration of these stanzas.
func configOf(t *testing.T, stanzas ...string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "copy.hcl")
	writeFile(t, file, strings.Join(stanzas, ""))
	return file
}

// raftStanza names a node's directory in a block of a configuration.
func raftStanza(block string, n node) string {
	id := ""
	if block == "storage_destination" {
		id = fmt.Sprintf("  node_id = %q\n", n.id)
	}
	return fmt.Sprintf("%s \"raft\" {\n  path = %q\n%s}\n", block, n.dir, id)
}

// copyTo runs dyn2raft copy to its end.
func copyTo(t *testing.T, config string, flags ...string) finished {
	t.Helper()
	run := runProgram(t, 5*time.Minute, dyn2raftBin, append([]string{"copy", "-config", config}, flags...)...)
	if run.code != 0 || lastLines(run.stdout, 1) != successLine {
		t.Fatalf("exit code %d\nstdout: %s\nstderr: %s", run.code, run.stdout, run.stderr)
	}
	t.Logf("dyn2raft copy: %.1f s\n%s", run.took.Seconds(), run.stdout)
	return run
}

// verifyEqual runs dyn2raft verify, which has to find both sides equal, and a Vault's.
func verifyEqual(t *testing.T, config string, flags ...string) {
	t.Helper()
	run := runProgram(t, 5*time.Minute, dyn2raftBin, append([]string{"verify", "-config", config, "-format", "json"}, flags...)...)
	var rep struct {
		Entries int64 `json:"source_entries"`
	}
	if err := json.Unmarshal([]byte(run.stdout), &rep); run.code != 0 || err != nil || rep.Entries < 250 {
		t.Fatalf("exit code %d, %d entries, %v\nstdout: %s\nstderr: %s", run.code, rep.Entries, err, run.stdout, run.stderr)
	}
}
