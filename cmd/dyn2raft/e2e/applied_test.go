//go:build e2e

package e2e

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/dyn2raft/dyn2raft/copier"
	sink "github.com/dyn2raft/dyn2raft/sinks/raft"
)

// TestAppliedChanges starts Vaults on a vault.db that was loaded with something else, and
// changed to what it must be by 10,000 changes and more: one Vault that serves and writes,
// and two that get it as a snapshot.
func TestAppliedChanges(t *testing.T) {
	t.Parallel()
	s := &scenario{t: t, old: newNode(t, "old")}
	s.step("start dyn2raft demo -serve", func() { s.table = openTable(startEmbeddedServer(t)) })
	s.fillAndEnd((*process).stop)
	n := newNode(t, "node1")
	s.step("load what is not so, and change it", func() { s.loadAndApply(n) })
	if d := compare(s.source, storedEntries(t, n.dir)); d.any() {
		t.Fatalf("after all changes: %s", d)
	}
	v := s.restart(s.newVault(n, ""), "")
	for _, n := range append(s.join(v, ""), n) {
		s.wantNothingLost(n)
	}
}

// loadAndApply stages a directory in which entries are missing, others have other values,
// and there are some too many. It changes them at random, and then into the table's.
func (s *scenario) loadAndApply(n node) {
	s.t.Helper()
	ctx := s.t.Context()
	check := func(err error) {
		s.t.Helper()
		if err != nil {
			s.t.Fatal(err)
		}
	}
	rnd := rand.New(rand.NewPCG(22, 22))
	keys := slices.Sorted(maps.Keys(s.source))
	for i := range 1000 {
		keys = append(keys, fmt.Sprintf("%s/too many/%04d", fillerPrefix, i))
	}
	slices.Sort(keys)
	now := maps.Clone(s.source)
	upset := func(key string) copier.Change {
		if rnd.IntN(3) == 0 {
			delete(now, key)
			return copier.Change{Entry: copier.Entry{Key: []byte(key)}, Gone: true}
		}
		now[key] = string(bytes.Repeat([]byte{byte(rnd.Uint32())}, rnd.IntN(3000)))
		return copier.Change{Entry: copier.Entry{Key: []byte(key), Value: []byte(now[key])}}
	}
	for _, key := range keys {
		if rnd.IntN(2) == 0 {
			upset(key)
		}
	}

	dst, err := sink.New(sink.Options{Path: n.dir, NodeID: n.id, Address: fmt.Sprintf("127.0.0.1:%d", n.clusterPort)})
	check(err)
	_, err = dst.Open(ctx)
	check(err)
	staged, err := dst.Stage(ctx, "run")
	check(err)
	defer func() { check(errors.Join(staged.Close(false), dst.Close())) }()
	_, err = staged.(copier.Loader).Load(ctx, &sorted{now, slices.Sorted(maps.Keys(now))})
	check(err)
	applier, total := staged.(copier.Applier), 0
	apply := func(changes []copier.Change) {
		s.t.Helper()
		total += len(changes)
		check(applier.Apply(ctx, changes, func([]copier.Entry) ([]byte, error) { return fmt.Appendf(nil, "%d", total), nil }))
	}
	apply(nil)
	check(applier.Pin(ctx))
	pinned := maps.Clone(now)
	for range 30 {
		var changes []copier.Change
		for _, i := range rnd.Perm(len(keys))[:300] {
			changes = append(changes, upset(keys[i]))
		}
		apply(changes)
	}
	var last []copier.Change
	for _, key := range keys {
		if value, ok := s.source[key]; !ok {
			last = append(last, copier.Change{Entry: copier.Entry{Key: []byte(key)}, Gone: true})
		} else if now[key] != value || value == "" {
			last = append(last, copier.Change{Entry: copier.Entry{Key: []byte(key), Value: []byte(value)}})
		}
	}
	for batch := range slices.Chunk(last, 300) {
		apply(batch)
	}
	if total < 10_000 || !applier.Pinned() {
		s.t.Fatalf("%d changes, pinned: %v", total, applier.Pinned())
	}
	check(applier.Finish(ctx))
	check(applier.Delta(ctx, func(e copier.Entry) error {
		delete(pinned, string(e.Key))
		return nil
	}, func(copier.Entry) error { return nil }))
	check(applier.Delta(ctx, func(copier.Entry) error { return nil }, func(e copier.Entry) error {
		pinned[string(e.Key)] = string(e.Value)
		return nil
	}))
	if !maps.Equal(pinned, s.source) {
		s.t.Error("what is pinned, and the difference, are not the table's entries")
	}
	check(staged.Prepare(ctx, copier.Record{RunID: "run", State: copier.Unconfirmed}))
	check(staged.Commit(ctx))
	s.t.Logf("%d changes of %d entries", total, len(s.source))
}

// sorted yields entries in the order of their keys.
type sorted struct {
	entries map[string]string
	keys    []string
}

func (s *sorted) Next() (copier.Entry, error) {
	if len(s.keys) == 0 {
		return copier.Entry{}, io.EOF
	}
	key := s.keys[0]
	s.keys = s.keys[1:]
	return copier.Entry{Key: []byte(key), Value: []byte(s.entries[key])}, nil
}
