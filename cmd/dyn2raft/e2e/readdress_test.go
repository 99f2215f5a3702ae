//go:build e2e

package e2e

import (
	"errors"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestReaddress starts a Vault on a copy that was made for another node_id: its
// unsealing never returns. The copy is corrected without the table, and that Vault
// serves it. Once a Vault has unsealed nothing is changed, and Vault itself takes the
// peers.json that is printed.
func TestReaddress(t *testing.T) {
	t.Parallel()
	s := &scenario{t: t, old: newNode(t, "old")}
	s.step("start dyn2raft demo -serve", func() { s.table = openTable(startEmbeddedServer(t)) })
	s.fillAndEnd((*process).stop)
	run := func(want int, args ...string) finished {
		t.Helper()
		f := runProgram(t, time.Minute, dyn2raftBin, args...)
		if f.code != want {
			t.Fatalf("%s: exit code %d, want %d\nstdout: %s\nstderr: %s", strings.Join(args, " "), f.code, want, f.stdout, f.stderr)
		}
		return f
	}
	for _, stanza := range []string{"", `raft_wal = "true"`} {
		n := newNode(t, "right")
		wrong := n
		wrong.id, wrong.clusterPort = "wrong", freePort(t)
		s.copy(wrong, stanza)
		s.step("new Vault with another node_id: unsealing hangs", func() { s.hangs(n, stanza) })
		run(0, "verify", "-manifest", manifestFile(n))
		run(0, "readdress", n.dir, "-node-id", n.id, "-cluster-addr", n.clusterAddr())
		run(0, "verify", "-manifest", manifestFile(n))

		v := s.newVault(n, stanza)
		s.step("dyn2raft check-cluster", func() {
			environment := []string{"VAULT_ADDR=" + n.apiAddr(), "VAULT_TOKEN=" + v.token}
			f := runWith(t, time.Minute, environment, dyn2raftBin, "check-cluster", "-manifest", manifestFile(n), "-sample", "1ms")
			if f.code != 0 || !strings.Contains(f.stdout, "a node reports each of them") || !strings.Contains(f.stdout, "this is a") {
				t.Errorf("exit code %d, want 0, its address confirmed, and that it is one of a rehearsal\nstdout: %s\nstderr: %s", f.code, f.stdout, f.stderr)
			}
		})
		run(exitLocked, "readdress", n.dir, "-node-id", "other")
		v.stop(t)

		moved := n
		moved.id, moved.clusterPort = "other", freePort(t)
		var peers string
		untouched(t, n.dir, func() {
			peers = run(exitDiffers, "readdress", n.dir, "-node-id", moved.id, "-cluster-addr", moved.clusterAddr()).stdout
		})
		writeFile(t, filepath.Join(n.dir, "raft", "peers.json"), peers)
		s.step("the peers.json that is printed does it then", func() {
			s.newVault(moved, stanza).stop(t)
			if _, err := os.Stat(filepath.Join(n.dir, "raft", "peers.json")); !errors.Is(err, os.ErrNotExist) {
				t.Errorf("Vault has not taken peers.json: %v", err)
			}
		})
	}
}

// hangs starts a Vault that is no member of the configuration in its directory, and wants
// it never to unseal.
func (s *scenario) hangs(n node, stanza string) {
	s.t.Helper()
	v := startVault(s.t, n, raftStorage(n, stanza))
	v.neverUnseals(s.t, s.keys, "not part of stable configuration, aborting election")
}

// neverUnseals gives a Vault the keys, and kills it once it has said why it can't become,
// or find, the leader. It doesn't end by itself.
func (v *vault) neverUnseals(t *testing.T, k keys, why string) {
	t.Helper()
	ended := make(chan error, 1)
	go func() {
		for _, share := range k.shares[:2] {
			if _, _, err := v.do(http.MethodPut, "sys/unseal", map[string]any{"key": share}); err != nil {
				ended <- err
				return
			}
		}
		ended <- nil
	}()
	waitFor(t, v.node.id+" to give up", healthLimit, func() error {
		if !strings.Contains(v.output(), why) {
			return errors.New("it has not said so yet")
		}
		return nil
	})
	v.kill(t)
	if err := <-ended; err == nil {
		t.Error("the request with the last key was answered")
	}
}
