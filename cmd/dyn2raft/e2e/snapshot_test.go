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

	"github.com/dyn2raft/dyn2raft/copier"
	tosnapshot "github.com/dyn2raft/dyn2raft/sinks/raft/snapshot"
	source "github.com/dyn2raft/dyn2raft/sources/raft"
	"github.com/dyn2raft/dyn2raft/sources/raft/snapshot"
	"github.com/dyn2raft/dyn2raft/verify"
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

	stopped := func() copier.Source {
		s, err := source.New(source.Options{Paths: []string{old.dir}})
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	same := func(what string, got copier.Source) {
		t.Helper()
		rep, err := verify.Compare(t.Context(), stopped(), got, verify.Options{WorkDir: t.TempDir()})
		if err != nil || !rep.NoDifference() || rep.SourceEntries < 250 {
			t.Errorf("%s: %v, %d missing, %d extra, %d different: %+v", what, err, rep.Missing, rep.Extra, rep.Different, rep.Diffs)
		}
	}
	same("what Vault saved", snapshot.New(saved))
	ours := filepath.Join(t.TempDir(), "ours.snap")
	sink, err := tosnapshot.New(tosnapshot.Options{Path: ours})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := copier.Copy(t.Context(), stopped(), sink, copier.Options{}); err != nil {
		t.Fatal(err)
	}
	same("what was copied", snapshot.New(ours))

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
