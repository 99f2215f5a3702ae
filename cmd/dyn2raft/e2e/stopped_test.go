//go:build e2e

package e2e

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"net/http"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/dyn2raft/dyn2raft/sources/raft/replay"
	"github.com/dyn2raft/dyn2raft/sources/raft/vaultdb"
)

var (
	stoppedSeeds = flag.Int("stopped-seeds", 2, "how often TestStoppedNodes stops a cluster")
	stoppedSeed  = flag.Uint64("stopped-seed", 0, "its first seed; 0 is the time")
)

// TestStoppedNodes stops three nodes that are written to, in any order and by either
// signal, and copies from the directories of two of them. A new Vault on the copy must
// have every write that was acknowledged, and none that was deleted.
func TestStoppedNodes(t *testing.T) {
	t.Parallel()
	first := *stoppedSeed
	if first == 0 {
		first = uint64(time.Now().UnixNano())
	}
	for i := range *stoppedSeeds {
		seed := first + uint64(i)
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			t.Logf("again: -args -stopped-seeds 1 -stopped-seed %d", seed)
			rnd := rand.New(rand.NewPCG(seed, 0))
			c := startCluster(t)
			w := c.write(t, 12)
			waitFor(t, "300 acknowledged writes", time.Minute, func() error {
				if n := w.acknowledged.Load(); n < 300 {
					return fmt.Errorf("%d", n)
				}
				return nil
			})
			for _, i := range rnd.Perm(3) {
				end := (*process).stop
				if rnd.IntN(2) == 0 {
					end = (*process).kill
				}
				end(c.nodes[i].process, t)
			}
			w.wait()

			left := rnd.IntN(3) // its directory is not there
			var paths []string
			for i, v := range c.nodes {
				behind := behindOf(t, v.node.dir)
				t.Logf("%s: %d operations are in its log only", v.node.id, behind)
				if i != left {
					paths = append(paths, v.node.dir)
				}
			}
			n := newNode(t, "from-stopped")
			copyStopped(t, n, paths)
			t.Logf("copied without %s", c.nodes[left].node.id)

			v := startVault(t, n, raftStorage(n, ""))
			v.unseal(t, c.keys)
			v.waitHealth(t, http.StatusOK)
			w.check(t, v)
		})
	}
}

// behindOf counts the operations that a directory has in its log only.
func behindOf(t *testing.T, dir string) int64 {
	t.Helper()
	db := &vaultdb.Source{Path: filepath.Join(dir, "vault.db")}
	if _, err := db.Open(t.Context()); err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	state, err := db.State()
	if err != nil {
		t.Fatal(err)
	}
	tail, err := replay.Read(t.Context(), dir, state.Index)
	if err != nil {
		t.Fatal(err)
	}
	return tail.Puts + tail.Deletes
}

// copyStopped copies from directories into a node's.
func copyStopped(t *testing.T, n node, paths []string) {
	t.Helper()
	var list strings.Builder
	for _, path := range paths {
		fmt.Fprintf(&list, "%q, ", path)
	}
	config := configOf(t, fmt.Sprintf("storage_source \"raft\" {\n  paths = [%s]\n}\n", strings.TrimSuffix(list.String(), ", ")),
		raftStanza("storage_destination", n)+fmt.Sprintf("cluster_addr = %q\n", n.clusterAddr()))
	copyTo(t, config)
	verifyEqual(t, config)
}

// A cluster is three nodes of a Vault that began on integrated storage.
type cluster struct {
	nodes []*vault
	keys  keys
}

func startCluster(t *testing.T) *cluster {
	t.Helper()
	c := &cluster{}
	first := newNode(t, "node1")
	v := startVault(t, first, raftStorage(first, ""))
	c.keys = v.initialize(t)
	v.unseal(t, c.keys)
	v.waitHealth(t, http.StatusOK)
	v.write(t, "sys/mounts/kv1", map[string]any{"type": "kv", "options": map[string]any{"version": "1"}})
	c.nodes = append(c.nodes, v)
	for _, id := range []string{"node2", "node3"} {
		n := newNode(t, id)
		follower := startVault(t, n, raftStorage(n, fmt.Sprintf("retry_join {\n leader_api_addr = %q\n }", first.apiAddr())))
		follower.unseal(t, c.keys)
		c.nodes = append(c.nodes, follower)
	}
	waitFor(t, "three voters", healthLimit, func() error {
		if n := v.voters(t); n != 3 {
			return fmt.Errorf("%d voters", n)
		}
		return nil
	})
	return c
}

// writes are what some clients have done, each to keys of its own, and know to be done.
type writes struct {
	acknowledged atomic.Int64
	clients      []map[string]string // the value of each key, "" where it was deleted
	wait         func()
}

// write has clients write until every node is gone. A key whose write was not answered
// is left alone from then on: nobody knows what it holds.
func (c *cluster) write(t *testing.T, clients int) *writes {
	w := &writes{clients: make([]map[string]string, clients)}
	var wg sync.WaitGroup
	w.wait = wg.Wait
	for id := range clients {
		state := map[string]string{}
		w.clients[id] = state
		wg.Go(func() {
			gone := map[*vault]bool{}
			for i := 0; len(gone) < len(c.nodes); i++ {
				v := c.nodes[i%len(c.nodes)]
				if v.alive() != nil {
					gone[v] = true
					continue
				}
				key, value := fmt.Sprintf("client-%d-%d", id, i), fmt.Sprintf("value %d", i)
				if i%40 == 20 { // more than one entry of the log holds
					value = strings.Repeat(value+" ", 600<<10/len(value))
				}
				status, _, err := v.do(http.MethodPost, "kv1/"+key, map[string]any{"value": value})
				if err != nil || status >= 300 {
					continue
				}
				w.acknowledged.Add(1)
				state[key] = value
				if old := fmt.Sprintf("client-%d-%d", id, i-9); i%4 == 0 && state[old] != "" {
					delete(state, old)
					if status, _, err := v.do(http.MethodDelete, "kv1/"+old, nil); err == nil && status < 300 {
						state[old] = ""
						w.acknowledged.Add(1)
					}
				}
			}
		})
	}
	t.Cleanup(wg.Wait)
	return w
}

// check reads everything from a Vault.
func (w *writes) check(t *testing.T, v *vault) {
	t.Helper()
	written, deleted := 0, 0
	for _, state := range w.clients {
		for key, value := range state {
			status, answer, err := v.do(http.MethodGet, "kv1/"+key, nil)
			if err != nil {
				t.Fatal(err)
			}
			if value == "" {
				deleted++
				if status != http.StatusNotFound {
					t.Errorf("%s was deleted, and is answered %d", key, status)
				}
				continue
			}
			written++
			data, _ := answer["data"].(map[string]any)
			if data["value"] != value {
				t.Errorf("%s was %.40q, and is answered %d %.40q", key, value, status, data["value"])
			}
		}
	}
	t.Logf("%d acknowledged writes are there, %d acknowledged deletes are gone", written, deleted)
	if written < 200 || deleted < 10 {
		t.Errorf("that is too few to prove anything")
	}
}
