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
	t.Parallel()
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

	w := restored(t, ours, "")
	w.unseal(t, keys) // the old ones
	w.waitHealth(t, http.StatusOK)
	c.check(t, w)
}

// TestSnapshotOfTable restores what was copied from a table: a Vault that a seal unseals
// needs one restart, and one of three nodes never unseals again. A table has no keys for
// what nodes tell each other, and to make some they need a leader.
func TestSnapshotOfTable(t *testing.T) {
	t.Parallel()
	t.Run("a seal", func(t *testing.T) {
		ours, s := snapshotOfTable(t, transitSeal(t))
		w := restored(t, ours, s.old.seal)
		w.stop(t)
		w = startVault(t, w.node, raftStorage(w.node, ""))
		w.unseal(t, s.keys) // it does that by itself
		w.waitHealth(t, http.StatusOK)
		s.contents.check(t, w)
	})
	t.Run("three nodes", func(t *testing.T) {
		ours, s := snapshotOfTable(t, "")
		c := startCluster(t)
		if run := c.nodes[0].snapshot(t, "restore", "-force", ours); run.code != 0 {
			t.Fatalf("restore -force: %+v", run)
		}
		for _, v := range c.nodes {
			v.waitSealed(t)
		}
		for _, v := range c.nodes {
			v.neverUnseals(t, s.keys, "no client configured for alpn")
		}
	})
}

// snapshotOfTable copies the table of a Vault that has been filled.
func snapshotOfTable(t *testing.T, seal string) (path string, s *scenario) {
	t.Helper()
	s = &scenario{t: t, old: newNode(t, "old"), table: openTable(startEmbeddedServer(t))}
	s.old.seal = seal
	v := s.oldVault()
	s.contents = fill(t, v)
	v.stop(t)
	path = filepath.Join(t.TempDir(), "table.snap")
	copyTo(t, configOf(t, dynamoDBStorage("storage_source", s.table.endpoint), fmt.Sprintf("storage_destination \"raft_snapshot\" {\n  path = %q\n}\n", path)))
	return path, s
}

// restored is a new Vault of one node that becomes what is in the snapshot, and is sealed.
func restored(t *testing.T, path, seal string) *vault {
	t.Helper()
	fresh := newNode(t, "fresh")
	fresh.seal = seal
	v := startVault(t, fresh, raftStorage(fresh, ""))
	v.unseal(t, v.initialize(t))
	v.waitHealth(t, http.StatusOK)
	if run := v.snapshot(t, "inspect", path); run.code != 0 || !strings.Contains(run.stdout, "dyn2raft-") || !strings.Contains(run.stdout, "core/") {
		t.Errorf("inspect: %+v", run)
	}
	if run := v.snapshot(t, "restore", path); run.code == 0 || !strings.Contains(run.stderr, "Code: 400") {
		t.Errorf("restore without -force: %+v", run)
	}
	v.waitHealth(t, http.StatusOK) // it serves on
	if run := v.snapshot(t, "restore", "-force", path); run.code != 0 {
		t.Fatalf("restore -force: %+v", run)
	}
	v.waitSealed(t)
	return v
}

// waitSealed waits until a Vault to which another one's data was restored has noticed.
func (v *vault) waitSealed(t *testing.T) {
	t.Helper()
	waitFor(t, v.node.id+" to be sealed", healthLimit, func() error {
		status, err := v.sealStatus()
		if err == nil && !status.sealed {
			err = errors.New("it is unsealed")
		}
		return err
	})
}

// snapshot runs `vault operator raft snapshot`.
func (v *vault) snapshot(t *testing.T, args ...string) finished {
	t.Helper()
	return runWith(t, 2*time.Minute, []string{"VAULT_ADDR=" + v.node.apiAddr(), "VAULT_TOKEN=" + v.token, fmt.Sprintf("VAULT_CLIENT_TIMEOUT=%d", 110)},
		vaultBin, append([]string{"operator", "raft", "snapshot"}, args...)...)
}
