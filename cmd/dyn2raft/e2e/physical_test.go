//go:build e2e

package e2e

import (
	"fmt"
	"net/http"
	"testing"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/vault/sdk/physical/file"

	"github.com/dyn2raft/dyn2raft/copier"
	sink "github.com/dyn2raft/dyn2raft/sinks/raft"
	"github.com/dyn2raft/dyn2raft/sources/physical"
	source "github.com/dyn2raft/dyn2raft/sources/raft"
	"github.com/dyn2raft/dyn2raft/verify"
)

// TestFileBackend moves a Vault from files to integrated storage, through the interface
// that all of Vault's storage has.
func TestFileBackend(t *testing.T) {
	old := newNode(t, "old")
	v := startVault(t, old, fmt.Sprintf("storage \"file\" {\n  path = %q\n}\n", old.dir))
	keys := v.initialize(t)
	v.unseal(t, keys)
	v.waitHealth(t, http.StatusOK)
	c := fill(t, v)
	delete(c.kv1, "dots/.") // which a file backend keeps, and lists, as "dots"
	v.stop(t)

	files := func() copier.Source {
		backend, err := file.NewFileBackend(map[string]string{"path": old.dir}, hclog.NewNullLogger())
		if err != nil {
			t.Fatal(err)
		}
		s, err := physical.New(physical.Options{Backend: backend, Name: "files", ID: "file " + old.dir})
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	n := newNode(t, "node1")
	dst, err := sink.New(sink.Options{Path: n.dir, NodeID: n.id, Address: fmt.Sprintf("127.0.0.1:%d", n.clusterPort)})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := copier.Copy(t.Context(), files(), dst, copier.Options{}); err != nil {
		t.Fatal(err)
	}
	copied, err := source.New(source.Options{Paths: []string{n.dir}})
	if err != nil {
		t.Fatal(err)
	}
	if rep, err := verify.Compare(t.Context(), files(), copied, verify.Options{WorkDir: t.TempDir()}); err != nil || !rep.Equal() || rep.SourceEntries < 250 {
		t.Errorf("%v: %+v", err, rep)
	}
	w := startVault(t, n, raftStorage(n, ""))
	w.unseal(t, keys)
	w.waitHealth(t, http.StatusOK)
	c.check(t, w)
}
