//go:build e2e

package e2e

import (
	"context"
	"fmt"
	"net/http"
	"testing"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/vault/sdk/physical/file"

	"github.com/dyn2raft/dyn2raft/copier"
	tophysical "github.com/dyn2raft/dyn2raft/sinks/physical"
	source "github.com/dyn2raft/dyn2raft/sources/raft"
)

// TestFileBackend moves a Vault from files to integrated storage and back, through the
// interface that all of Vault's storage has.
func TestFileBackend(t *testing.T) {
	t.Parallel()
	old := newNode(t, "old")
	v := startVault(t, old, fileStorage(old))
	keys := v.initialize(t)
	v.unseal(t, keys)
	v.waitHealth(t, http.StatusOK)
	c := fill(t, v)
	delete(c.kv1, "dots/.") // which a file backend keeps, and lists, as "dots"
	v.stop(t)

	n := newNode(t, "node1")
	forward := configOf(t, fileStanza("storage_source", old), raftStanza("storage_destination", n)+fmt.Sprintf("cluster_addr = %q\n", n.clusterAddr()))
	copyTo(t, forward, "-source-stopped")
	verifyEqual(t, forward)
	w := startVault(t, n, raftStorage(n, ""))
	w.unseal(t, keys)
	w.waitHealth(t, http.StatusOK)
	c.check(t, w)
	w.stop(t)

	back := newNode(t, "back")
	backward := configOf(t, raftStanza("storage_source", n), fileStanza("storage_destination", back))
	copyTo(t, backward)
	verifyEqual(t, backward)
	x := startVault(t, back, fileStorage(back))
	x.unseal(t, keys)
	x.waitHealth(t, http.StatusOK)
	c.check(t, x)

	// No Vault starts before the commit.
	again, err := source.New(source.Options{Paths: []string{n.dir}})
	if err != nil {
		t.Fatal(err)
	}
	half := newNode(t, "half")
	b, err := file.NewFileBackend(map[string]string{"path": half.dir}, hclog.NewNullLogger())
	if err != nil {
		t.Fatal(err)
	}
	toFiles, err := tophysical.New(tophysical.Options{Backend: b, Name: "files", ID: "file " + half.dir, Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := copier.Copy(t.Context(), again, halfway{toFiles, func() {
		p := launchVault(t, half, fileStorage(half))
		if p.startsOrEnds(t, true) {
			t.Error("a Vault has started on a copy that is not complete")
		}
	}}, copier.Options{WorkDir: t.TempDir()}); err != nil {
		t.Fatal(err)
	}
}

func fileStanza(block string, n node) string {
	return fmt.Sprintf("%s \"file\" {\n  path = %q\n}\n", block, n.dir)
}

func fileStorage(n node) string { return fileStanza("storage", n) }

// halfway is called before a commit.
type halfway struct {
	copier.Sink
	do func()
}

func (h halfway) Stage(ctx context.Context, run string) (copier.Stage, error) {
	s, err := h.Sink.Stage(ctx, run)
	if err != nil {
		return nil, err
	}
	return halfwayStage{s.(copier.Unordered), h.do}, nil
}

type halfwayStage struct {
	copier.Unordered
	do func()
}

func (s halfwayStage) Prepare(ctx context.Context, r copier.Record) error {
	s.do()
	return s.Unordered.Prepare(ctx, r)
}
