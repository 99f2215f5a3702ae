//go:build e2e

package e2e

import (
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

const exitSource, exitDestination = 10, 12

// TestNotAVault lets Vault itself make a table, as one does that is started with a wrong
// table's name, and copies that: it is refused, and a Vault that starts on the copy
// shows why.
func TestNotAVault(t *testing.T) {
	t.Parallel()
	s := &scenario{t: t, old: newNode(t, "old")}
	s.step("start DynamoDB Local", func() { s.table = openTable(startDynamoDBLocal(t).URL) })
	startVault(t, s.old, dynamoDBStorage("storage", s.table.endpoint)).stop(t)
	n := newNode(t, "copy")
	config := s.migrateFile(n, "")
	refused := runProgram(t, time.Minute, dyn2raftBin, "copy", "-config", config)
	if refused.code != exitSource || !strings.Contains(refused.stderr, "no initialized Vault has used it") || !strings.Contains(refused.stderr, "it is empty") {
		t.Fatalf("exit code %d, want %d\nstderr: %s", refused.code, exitSource, refused.stderr)
	}
	let := runProgram(t, time.Minute, dyn2raftBin, "copy", "-config", config, "-ignore", "initialized")
	if let.code != 0 || !strings.HasPrefix(lastLines(let.stdout, 1), "NOT A VAULT: ") {
		t.Fatalf("exit code %d\nstdout: %s\nstderr: %s", let.code, let.stdout, let.stderr)
	}
	if run := runProgram(t, time.Minute, dyn2raftBin, "verify", "-config", config); run.code != exitDiffers || !strings.HasPrefix(lastLines(run.stdout, 1), "NOT A VAULT: ") {
		t.Errorf("verify: exit code %d, want %d\nstdout: %s", run.code, exitDiffers, run.stdout)
	}
	v := startVault(t, n, raftStorage(n, ""))
	if status, err := v.sealStatus(); err != nil || status.initialized {
		t.Errorf("a Vault on the copy says that it is initialized: %v, %v", status.initialized, err)
	}
}

// TestHAStorageElsewhere copies beside an active Vault that elects its leader in
// ha_storage "raft": the table has no leader lock.
func TestHAStorageElsewhere(t *testing.T) {
	t.Parallel()
	s := &scenario{t: t, old: newNode(t, "old")}
	s.step("start dyn2raft demo -serve", func() { s.table = openTable(startEmbeddedServer(t)) })
	stanzas := dynamoDBStorage("storage", s.table.endpoint) + fmt.Sprintf("ha_storage \"raft\" {\n  path = %q\n  node_id = %q\n}\n", t.TempDir(), s.old.id)
	v := startVault(t, s.old, stanzas)
	v.unseal(t, v.initialize(t))
	v.waitHealth(t, http.StatusOK)

	n := newNode(t, "copy")
	config := s.migrateFile(n, "")
	refused := func(want string) {
		t.Helper()
		run := runProgram(t, time.Minute, dyn2raftBin, "copy", "-config", config)
		if run.code != exitLocked || !strings.Contains(run.stderr, want) || !strings.Contains(run.stderr, "-source-stopped") {
			t.Errorf("exit code %d, want %d and %q\nstderr: %s", run.code, exitLocked, want, run.stderr)
		}
		plan := runProgram(t, time.Minute, dyn2raftBin, "plan", "-config", config, "-no-sample", "-v")
		if !strings.Contains(plan.stdout, "WARNING  running-vault") || !strings.Contains(plan.stdout, " unknown: ") {
			t.Errorf("plan: %s", plan.stdout)
		}
		if _, err := os.Stat(filepath.Join(n.dir, "vault.db")); err == nil {
			t.Error("there is a vault.db")
		}
	}
	refused("but the entry core/leader/")
	v.write(t, "sys/policies/acl/late", map[string]any{"policy": `path "x" { capabilities = ["read"] }`}) // which a copy would lack
	v.stop(t)

	// An orderly stop leaves nothing that tells; only the configuration does.
	if text, err := os.ReadFile(config); err != nil {
		t.Fatal(err)
	} else {
		writeFile(t, config, string(text)+"ha_storage \"raft\" {}\n")
	}
	refused(`the configuration has the HA storage "raft"`)
	if run := runProgram(t, 2*time.Minute, dyn2raftBin, "copy", "-config", config, "-source-stopped"); run.code != 0 || lastLines(run.stdout, 1) != successLine {
		t.Errorf("exit code %d\nstdout: %s\nstderr: %s", run.code, run.stdout, run.stderr)
	}
}
