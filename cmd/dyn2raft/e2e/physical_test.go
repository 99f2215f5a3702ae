//go:build e2e

package e2e

import (
	"context"
	"fmt"
	"net/http"
	"testing"

	"github.com/hashicorp/go-hclog"
	sdk "github.com/hashicorp/vault/sdk/physical"
	"github.com/hashicorp/vault/sdk/physical/file"

	"github.com/dyn2raft/dyn2raft/copier"
	tophysical "github.com/dyn2raft/dyn2raft/sinks/physical"
	sink "github.com/dyn2raft/dyn2raft/sinks/raft"
	"github.com/dyn2raft/dyn2raft/sources/physical"
	source "github.com/dyn2raft/dyn2raft/sources/raft"
	"github.com/dyn2raft/dyn2raft/verify"
)

// TestFileBackend moves a Vault from files to integrated storage and back, through the
// interface that all of Vault's storage has.
func TestFileBackend(t *testing.T) {
	old := newNode(t, "old")
	v := startVault(t, old, fileStorage(old))
	keys := v.initialize(t)
	v.unseal(t, keys)
	v.waitHealth(t, http.StatusOK)
	c := fill(t, v)
	delete(c.kv1, "dots/.") // which a file backend keeps, and lists, as "dots"
	v.stop(t)

	backend := func(n node) sdk.Backend {
		b, err := file.NewFileBackend(map[string]string{"path": n.dir}, hclog.NewNullLogger())
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	files := func() copier.Source {
		s, err := physical.New(physical.Options{Backend: backend(old), Name: "files", ID: "file " + old.dir})
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
	w.stop(t)

	back := newNode(t, "back")
	again, err := source.New(source.Options{Paths: []string{n.dir}})
	if err != nil {
		t.Fatal(err)
	}
	toFiles, err := tophysical.New(tophysical.Options{Backend: backend(back), Name: "files", ID: "file " + back.dir, Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	// No Vault starts before the commit.
	if _, err := copier.Copy(t.Context(), again, halfway{toFiles, func() {
		p := launchVault(t, back, fileStorage(back))
		if p.startsOrEnds(t, true) {
			t.Error("a Vault has started on a copy that is not complete")
		}
	}}, copier.Options{WorkDir: t.TempDir()}); err != nil {
		t.Fatal(err)
	}
	x := startVault(t, back, fileStorage(back))
	x.unseal(t, keys)
	x.waitHealth(t, http.StatusOK)
	c.check(t, x)
}

func fileStorage(n node) string { return fmt.Sprintf("storage \"file\" {\n  path = %q\n}\n", n.dir) }

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
