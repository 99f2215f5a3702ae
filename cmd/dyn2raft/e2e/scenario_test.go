//go:build e2e

package e2e

import (
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"
)

// scenario is one Vault's move from one DynamoDB server to Raft.
type scenario struct {
	t     *testing.T
	table *table

	old       node // the Vault on DynamoDB
	keys      keys
	contents  *contents
	source    map[string]string // the stopped Vault's entries
	rewritten []string          // ends of keys that Vault itself changes or removes as it starts
}

// step runs one part and says what it took.
func (s *scenario) step(name string, f func()) {
	s.t.Helper()
	began := time.Now()
	f()
	s.t.Logf("%6.1f s  %s", time.Since(began).Seconds(), name)
}

// migrateFile writes the file that both `vault operator migrate` and dyn2raft take.
func (s *scenario) migrateFile(n node, extra string) string {
	s.t.Helper()
	file := filepath.Join(s.t.TempDir(), "migrate.hcl")
	writeFile(s.t, file, fmt.Sprintf(`%s
storage_destination "raft" {
  path = %q
  %s
  %s
}
cluster_addr = %q
`, dynamoDBStorage("storage_source", s.table.endpoint), n.dir, n.idLine(), extra, n.clusterAddr()))
	return file
}

// oldVault starts the Vault on DynamoDB and makes it the active node.
func (s *scenario) oldVault() *vault {
	s.t.Helper()
	v := startVault(s.t, s.old, dynamoDBStorage("storage", s.table.endpoint))
	if status, err := v.sealStatus(); err != nil {
		s.t.Fatal(err)
	} else if !status.initialized {
		s.keys = v.initialize(s.t)
	}
	v.unseal(s.t, s.keys)
	v.waitHealth(s.t, http.StatusOK)
	return v
}

// fillAndEnd is the life of the old Vault, which ends by the given way to end a process.
// While it serves, a copy is refused.
func (s *scenario) fillAndEnd(end func(*process, *testing.T)) {
	var v *vault
	s.step("old Vault: start on DynamoDB, initialise, unseal", func() { v = s.oldVault() })
	s.step("old Vault: fill", func() { s.contents = fill(s.t, v) })
	s.step("old Vault: check its contents", func() { s.contents.check(s.t, v) })
	s.step("dyn2raft copy is refused while the old Vault serves", func() {
		holder := s.table.leaderLockHolder(s.t)
		n := newNode(s.t, "refused")
		run := runProgram(s.t, 2*time.Minute, dyn2raftBin, "copy", "-config", s.migrateFile(n, ""))
		if run.code != exitLocked || !strings.Contains(run.stderr, holder) {
			s.t.Errorf("exit code %d, want %d and the holder %s named:\n%s", run.code, exitLocked, holder, run.stderr)
		}
		if _, err := os.Stat(filepath.Join(n.dir, "vault.db")); !errors.Is(err, os.ErrNotExist) {
			s.t.Errorf("the refused copy left a vault.db (%v)", err)
		}
		s.contents.checkSecrets(s.t, v) // and the Vault is none the worse for it
	})
	s.step("old Vault: end; orphan some entries", func() {
		end(v.process, s.t)
		s.table.removeMarker(s.t, "logical/"+s.contents.kv1UUID+"/orphans/of/a/lost", "marker/")
		s.table.addFiller(s.t, 2000)
		s.source = s.table.entries(s.t)
		hidden := 0
		for k := range s.source {
			if strings.Contains(k, "/_") {
				hidden++
			}
		}
		if hidden < hiddenNames {
			s.t.Fatalf("%d entries with a name that starts with _, want at least %d", hidden, hiddenNames)
		}
	})
	s.t.Logf("the table has %d entries", len(s.source))
}

// peer copies the same table by `vault operator migrate`, for comparison only.
func (s *scenario) peer() {
	s.step("peer: vault operator migrate", func() {
		n := newNode(s.t, "peer")
		run := runProgram(s.t, 5*time.Minute, vaultBin, "operator", "migrate", "-config", s.migrateFile(n, ""))
		d := compare(s.source, storedEntries(s.t, n.dir))
		s.t.Logf("vault operator migrate: exit code %d, %.1f s, %.0f entries a second; last line %q",
			run.code, run.took.Seconds(), float64(len(s.source))/run.took.Seconds(), lastLines(run.stdout, 1))
		s.t.Logf("vault operator migrate lost %d of %d entries, changed %d, added %d", len(d.missing), len(s.source), len(d.changed), len(d.added))
		for _, k := range d.missing {
			if !strings.HasPrefix(k, fillerPrefix+"/orphaned/") {
				s.t.Logf("  lost: %s", k)
			}
		}
	})
	s.step("peer: the table is as it was", func() { s.wantSourceUnchanged() })
}

func (s *scenario) wantSourceUnchanged() {
	s.t.Helper()
	if d := compare(s.source, s.table.entries(s.t)); d.any() {
		s.t.Fatalf("the table has changed: %s", d)
	}
}

// copy runs dyn2raft copy and dyn2raft verify, and compares the result by other means.
func (s *scenario) copy(n node, stanza string, flags ...string) {
	s.t.Helper()
	config := s.migrateFile(n, stanza)
	lock := s.table.get(s.t, "core", "_lock")
	s.step("dyn2raft copy "+strings.Join(flags, " "), func() {
		run := runProgram(s.t, 5*time.Minute, dyn2raftBin, append([]string{"copy", "-config", config}, flags...)...)
		if run.code != 0 || lastLines(run.stdout, 1) != successLine {
			s.t.Fatalf("exit code %d, last line %q\nstdout: %s\nstderr: %s", run.code, lastLines(run.stdout, 1), run.stdout, run.stderr)
		}
		s.t.Logf("dyn2raft copy: %.1f s, %.0f entries a second\n%s", run.took.Seconds(), float64(len(s.source))/run.took.Seconds(), run.stdout)
	})
	s.step("dyn2raft verify", func() {
		run := runProgram(s.t, 5*time.Minute, dyn2raftBin, "verify", "-config", config)
		if run.code != 0 {
			s.t.Fatalf("exit code %d\nstdout: %s\nstderr: %s", run.code, run.stdout, run.stderr)
		}
	})
	s.step("the copy against the table, by an independent scan", func() {
		s.wantSourceUnchanged()
		if now := s.table.get(s.t, "core", "_lock"); !reflect.DeepEqual(now, lock) {
			s.t.Errorf("the leader lock was %v and is %v", lock, now)
		}
		if d := compare(s.source, storedEntries(s.t, n.dir)); d.any() {
			s.t.Fatalf("dyn2raft's copy: %s", d)
		}
	})
}

// keepsOutStandby copies from the table of a killed Vault while another one, which was
// up before the copy began and so has seen no core/migration, is unsealed and stands by.
// It must not become active before the copy has ended, and must after it. The copy waits
// for the dead Vault's lock first, so there is time for all that.
func (s *scenario) keepsOutStandby() {
	s.t.Helper()
	dead := s.table.leaderLockHolder(s.t)
	n, standbyNode := newNode(s.t, "beside-a-standby"), newNode(s.t, "standby")
	s.step("a Vault that stands by stays out while dyn2raft copies", func() {
		standby := startVault(s.t, standbyNode, dynamoDBStorage("storage", s.table.endpoint))
		began := time.Now()
		run := start(s.t, "dyn2raft copy", dyn2raftBin, "copy", "-config", s.migrateFile(n, ""))
		waitFor(s.t, "dyn2raft to take the leader lock", time.Minute, func() error {
			if err := run.alive(); err != nil {
				return err
			}
			if s.table.leaderLockHolder(s.t) == dead {
				return fmt.Errorf("%s holds it", dead)
			}
			return nil
		})
		standby.unseal(s.t, s.keys)
		standby.waitHealth(s.t, http.StatusTooManyRequests)
		s.t.Logf("unsealed and standing by %.1f s after the copy began", time.Since(began).Seconds())

		looks := 0
		for run.alive() == nil {
			code, _, err := standby.do(http.MethodGet, "sys/health", nil)
			if err != nil {
				s.t.Fatal(err)
			}
			if run.alive() == nil && code != http.StatusTooManyRequests {
				s.t.Fatalf("during the copy the standby's health is %d, want %d", code, http.StatusTooManyRequests)
			}
			if time.Since(began) > 3*time.Minute {
				s.t.Fatal("the copy has not ended within 3 minutes")
			}
			looks++
			time.Sleep(200 * time.Millisecond)
		}
		if looks < 10 {
			s.t.Fatalf("only %d looks at the standby during the copy: this proves nothing", looks)
		}
		if code := run.cmd.ProcessState.ExitCode(); code != 0 || lastLines(run.output(), 1) != successLine {
			s.t.Fatalf("exit code %d\n%s", code, run.output())
		}
		if d := compare(s.source, storedEntries(s.t, n.dir)); d.any() {
			s.t.Fatalf("dyn2raft's copy: %s", d)
		}
		standby.waitHealth(s.t, http.StatusOK)
		standby.stop(s.t)
	})
	s.source = s.table.entries(s.t) // the standby was active for a moment
}

// verifySeesDamage flips one bit of one value in a copy of the copy, and wants
// dyn2raft verify to name the entry.
func (s *scenario) verifySeesDamage(n node) {
	s.t.Helper()
	s.step("dyn2raft verify sees one flipped bit", func() {
		damaged := n
		damaged.dir = filepath.Join(s.t.TempDir(), "data")
		if err := os.CopyFS(damaged.dir, os.DirFS(n.dir)); err != nil {
			s.t.Fatal(err)
		}
		key := fillerPrefix + "/many/00007"
		flipBit(s.t, damaged.dir, key)
		run := runProgram(s.t, time.Minute, dyn2raftBin, "verify", "-config", s.migrateFile(damaged, ""))
		if run.code != exitDiffers || !strings.Contains(run.stdout+run.stderr, key) {
			s.t.Errorf("exit code %d, want %d and %s named\nstdout: %s\nstderr: %s", run.code, exitDiffers, key, run.stdout, run.stderr)
		}
	})
}

// wantLogStore wants the one log store that the stanza asks for, and not the other.
func (s *scenario) wantLogStore(n node, want string) {
	s.t.Helper()
	for _, store := range []string{"raft/raft.db", "raft/wal"} {
		_, err := os.Stat(filepath.Join(n.dir, store))
		if (err == nil) != (store == want) {
			s.t.Errorf("%s: %s: %v, want %s alone", n.id, store, err, want)
		}
	}
}

// newVault starts a Vault on a copy, makes it the leader, and uses everything in it.
func (s *scenario) newVault(n node, stanza string) *vault {
	s.t.Helper()
	var v *vault
	s.step("new Vault "+n.id+": start on the copy, unseal, become leader", func() {
		v = startVault(s.t, n, raftStorage(n, stanza))
		v.unseal(s.t, s.keys)
		v.waitHealth(s.t, http.StatusOK)
	})
	s.step("new Vault "+n.id+": read and use everything", func() {
		s.contents.check(s.t, v)
		s.contents.checkListed(s.t, v)
	})
	return v
}

// Names of kv1 that the test itself deletes and updates on the new Vault.
const (
	deletedName = "plain-095"
	updatedName = "plain-090"
)

// restart writes, deletes and updates on the new Vault, restarts it, and looks again.
func (s *scenario) restart(v *vault, stanza string) *vault {
	s.t.Helper()
	s.step("new Vault "+v.node.id+": write, update, delete, restart, read again", func() {
		s.contents = s.contents.clone() // those of another copy stay as they are
		set := func(name, value string) {
			s.contents.kv1[name] = map[string]any{"value": value}
			v.write(s.t, "kv1/"+name, s.contents.kv1[name])
		}
		set("written after the move", "new")
		set(updatedName, "updated")
		delete(s.contents.kv1, deletedName)
		v.delete(s.t, "kv1/"+deletedName)
		s.contents.kv2["written after the move"] = map[string]any{"value": "new"}
		v.write(s.t, "kv2/data/written after the move", map[string]any{"data": s.contents.kv2["written after the move"]})

		v.stop(s.t)
		v = startVault(s.t, v.node, raftStorage(v.node, stanza))
		v.unseal(s.t, s.keys)
		v.waitHealth(s.t, http.StatusOK)
		s.contents.check(s.t, v)
		if code, _, err := v.do(http.MethodGet, "kv1/"+deletedName, nil); err != nil || code != http.StatusNotFound {
			s.t.Fatalf("a deleted secret is answered %d (%v), want 404", code, err)
		}
	})
	return v
}

// join adds two nodes to the first, takes the first away, and reads from their leader.
func (s *scenario) join(first *vault, stanza string) (followers []node) {
	s.t.Helper()
	retryJoin := fmt.Sprintf("retry_join {\n leader_api_addr = %q\n }\n%s", first.node.apiAddr(), stanza)
	var nodes []*vault
	s.step("two nodes join by retry_join", func() {
		for _, id := range []string{"node2", "node3"} {
			n := newNode(s.t, id)
			n.seal, n.program, n.unnamed = first.node.seal, first.node.program, first.node.unnamed
			v := startVault(s.t, n, raftStorage(n, retryJoin))
			v.unseal(s.t, s.keys)
			nodes, followers = append(nodes, v), append(followers, n)
		}
		for _, v := range nodes {
			v.waitHealth(s.t, http.StatusTooManyRequests)
		}
		waitFor(s.t, "three voters", healthLimit, func() error {
			if n := first.voters(s.t); n != 3 {
				return fmt.Errorf("%d voters", n)
			}
			return nil
		})
	})
	s.step("dyn2raft check-cluster asks a standby", func() {
		// Which node is the active one's peer is known once each has reported to it.
		waitFor(s.t, "a report of all three nodes", healthLimit, func() error {
			environment := []string{"VAULT_ADDR=" + nodes[0].node.apiAddr(), "VAULT_TOKEN=" + s.keys.root}
			run := runWith(s.t, time.Minute, environment, dyn2raftBin, "check-cluster", "-expect-peers", "3", "-sample", "1ms")
			for _, want := range []string{"every peer has a loopback address", "a node reports each of them", "3 of 3"} {
				if run.code != 0 || !strings.Contains(run.stdout, want) {
					return fmt.Errorf("exit code %d, want 0 and %q\nstdout: %s\nstderr: %s", run.code, want, run.stdout, run.stderr)
				}
			}
			return nil
		})
	})
	var leader *vault
	s.step("kill the first node; another leads", func() {
		first.kill(s.t)
		leader = activeOf(s.t, nodes)
	})
	s.step("read and use everything from "+leader.node.id, func() {
		s.contents.check(s.t, leader)
		s.contents.checkListed(s.t, leader)
	})
	s.step("stop all", func() {
		for _, v := range nodes {
			v.stop(s.t)
		}
	})
	return followers
}

// activeOf waits until one of the nodes is active.
func activeOf(t *testing.T, nodes []*vault) (leader *vault) {
	t.Helper()
	waitFor(t, "a leader", healthLimit, func() error {
		for _, v := range nodes {
			if code, _, err := v.do(http.MethodGet, "sys/health", nil); err == nil && code == http.StatusOK {
				leader = v
				return nil
			}
		}
		return errors.New("no node is active")
	})
	return leader
}

// wantNothingLost compares a node's entries with the table, after Vault and the test
// have worked on them: what those two rewrite or remove is allowed, no more.
func (s *scenario) wantNothingLost(n node) {
	s.t.Helper()
	d := compare(s.source, storedEntries(s.t, n.dir))
	s.t.Logf("%s after the move: %d entries added since; %d changed %s, %d missing %s", n.id,
		len(d.added), len(d.changed), firstNames(d.changed), len(d.missing), firstNames(d.missing))
	kv1 := "logical/" + s.contents.kv1UUID + "/"
	rewritten := func(key string) bool {
		return slices.ContainsFunc(s.rewritten, func(end string) bool { return strings.HasSuffix(key, end) })
	}
	lost := slices.DeleteFunc(d.missing, func(key string) bool {
		// A new leader removes the advertisements of former ones.
		return key == kv1+deletedName || strings.HasPrefix(key, "core/leader/") || rewritten(key)
	})
	changed := slices.DeleteFunc(d.changed, func(key string) bool {
		// Vault writes its feature flags anew whenever it becomes the leader, and
		// counts clients for its usage report. A table that is the copy of a cluster has
		// what that keeps of itself.
		return key == kv1+updatedName || key == "core/cluster/feature-flags" || strings.HasPrefix(key, "sys/counters/") || strings.HasPrefix(key, "core/raft/") || rewritten(key)
	})
	if len(lost)+len(changed) > 0 {
		s.t.Errorf("%s: %d entries lost %s, %d changed by nobody %s", n.id, len(lost), firstNames(lost), len(changed), firstNames(changed))
	}
}

// lockedOut wants the old Vault not to start while the table is locked, and to start
// as ever once dyn2raft has freed it.
func (s *scenario) lockedOut(n node) {
	s.t.Helper()
	s.step("the table stays locked: a real Vault refuses to start on it", s.refusesToStart)
	s.step("dyn2raft copy -reset frees it", func() {
		run := runProgram(s.t, 2*time.Minute, dyn2raftBin, "copy", "-config", s.migrateFile(n, ""), "-reset")
		if run.code != 0 {
			s.t.Fatalf("exit code %d\nstdout: %s\nstderr: %s", run.code, run.stdout, run.stderr)
		}
	})
	s.step("old Vault: starts again, nothing amiss", func() {
		v := s.oldVault()
		s.contents.checkSecrets(s.t, v)
		v.stop(s.t)
	})
}

// refusesToStart wants the old Vault to end at once, because of the table's core/migration.
func (s *scenario) refusesToStart() {
	s.t.Helper()
	v := launchVault(s.t, s.old, dynamoDBStorage("storage", s.table.endpoint))
	v.waitExit(s.t, time.Minute)
	if code := v.cmd.ProcessState.ExitCode(); code == 0 || !strings.Contains(v.output(), "migration") {
		s.t.Fatalf("exit code %d, want a refusal that speaks of a migration:\n%s", code, lastLines(v.output(), 20))
	}
}
