//go:build e2e

package e2e

import (
	"errors"
	"fmt"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestSnapshot reads a snapshot that Vault has written, and writes one of the same Vault's
// directory: Vault refuses it without -force and goes on, and with -force another cluster
// becomes the one that was copied.
func TestSnapshot(t *testing.T) {
	old := newNode(t, "old")
	v := startVault(t, old, raftStorage(old, ""))
	keys := v.initialize(t)
	v.unseal(t, keys)
	v.waitHealth(t, http.StatusOK)
	c := fill(t, v)
	saved := filepath.Join(t.TempDir(), "saved.snap")
	if run := v.snapshot(t, "save", saved); run.code != 0 {
		t.Fatalf("save: %+v", run)
	}
	v.kill(t) // an orderly stop deletes entries

	to := func(path string) string {
		return configOf(t, raftStanza("storage_source", old), fmt.Sprintf("storage_destination \"raft_snapshot\" {\n  path = %q\n}\n", path))
	}
	verifyEqual(t, to(saved)) // what Vault has saved
	ours := filepath.Join(t.TempDir(), "ours.snap")
	run := copyTo(t, to(ours))
	if want := "vault operator raft snapshot restore -force " + ours; !strings.Contains(strings.Join(strings.Fields(run.stdout), " "), want) {
		t.Errorf("the copy does not say %q:\n%s", want, run.stdout)
	}

	fresh := newNode(t, "fresh")
	w := startVault(t, fresh, raftStorage(fresh, ""))
	w.unseal(t, w.initialize(t))
	w.waitHealth(t, http.StatusOK)
	if run := w.snapshot(t, "inspect", ours); run.code != 0 || !strings.Contains(run.stdout, "dyn2raft-") || !strings.Contains(run.stdout, "core/") {
		t.Errorf("inspect: %+v", run)
	}
	if run := w.snapshot(t, "restore", ours); run.code == 0 || !strings.Contains(run.stderr, "Code: 400") {
		t.Errorf("restore without -force: %+v", run)
	}
	w.waitHealth(t, http.StatusOK) // it serves on
	if run := w.snapshot(t, "restore", "-force", ours); run.code != 0 {
		t.Fatalf("restore -force: %+v", run)
	}
	waitFor(t, "the restored Vault to be sealed", healthLimit, func() error {
		status, err := w.sealStatus()
		if err == nil && !status.sealed {
			err = errors.New("it is unsealed")
		}
		return err
	})
	w.unseal(t, keys) // the old ones
	w.waitHealth(t, http.StatusOK)
	c.check(t, w)
}

// snapshot runs `vault operator raft snapshot`.
func (v *vault) snapshot(t *testing.T, args ...string) finished {
	t.Helper()
	return runWith(t, 2*time.Minute, []string{"VAULT_ADDR=" + v.node.apiAddr(), "VAULT_TOKEN=" + v.token, fmt.Sprintf("VAULT_CLIENT_TIMEOUT=%d", 110)},
		vaultBin, append([]string{"operator", "raft", "snapshot"}, args...)...)
}
