//go:build e2e

package e2e

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"
)

var (
	wholeMatrix = flag.Bool("matrix", false, "run all rows of TestMatrix; those with 1.13.2 need VAULT_OLD_BIN")
	matrixSeed  = flag.Uint64("matrix-seed", 0, "how TestMatrix ends its nodes; 0 is the time")
)

// A row is a Vault that moves from DynamoDB to Raft, back, and there again.
type row struct {
	from, to string // the Vaults; empty for VAULT_BIN, else what `vault version` says
	wal      bool
	transit  bool // a seal unseals it
	unnamed  bool // no node_id
	// large gives the servers a max_entry_size with which Raft takes what DynamoDB can't.
	large bool
	ci    bool
}

func (m row) String() string {
	name := "raft.db"
	if m.wal {
		name = "WAL"
	}
	for _, part := range []struct {
		is   bool
		name string
	}{{m.transit, "transit"}, {!m.transit, "shares"}, {m.unnamed, "no node_id"}, {m.large, "max_entry_size"},
		{m.from != "", "from " + m.from}, {m.to != "", "to " + m.to}} {
		if part.is {
			name += ", " + part.name
		}
	}
	return name
}

const old = "1.13.2"

// TestMatrix takes Vaults to Raft, back to DynamoDB, and to Raft again: every log store,
// kind of seal and version, with three nodes and failover on each trip. The guide's main
// case is always run: a Vault that a seal unseals, here the transit engine of a second one.
func TestMatrix(t *testing.T) {
	t.Parallel()
	for _, m := range []row{
		{transit: true, ci: true},
		{unnamed: true},
		{wal: true, large: true},
		{wal: true, transit: true, unnamed: true},
		{from: old, to: old, large: true},
		{from: old, to: old, transit: true, unnamed: true},
		{from: old},
		{from: old, wal: true, transit: true},
	} {
		if m.ci || *wholeMatrix {
			t.Run(m.String(), m.run)
		}
	}
}

func (m row) run(t *testing.T) {
	t.Parallel()
	seed := *matrixSeed
	if seed == 0 {
		seed = uint64(time.Now().UnixNano())
	}
	t.Logf("again: -args -matrix -matrix-seed %d", seed)
	rnd := rand.New(rand.NewPCG(seed, 0))
	from, to := vaultOf(t, m.from), vaultOf(t, m.to)
	stanza, store := "", "raft/raft.db"
	if m.wal {
		stanza, store = `raft_wal = "true"`, "raft/wal"
	}
	if m.large {
		stanza += "\nmax_entry_size = \"2097152\""
	}

	s := &scenario{t: t, old: newNode(t, "old")}
	if m.from != "" { // at each start it writes how names are compared; a newer one removes that
		s.rewritten = []string{"/casesensitivity"}
	}
	if m.from != m.to && m.transit { // what the seal keeps is wrapped in a newer form
		s.rewritten = append(s.rewritten, "core/hsm/barrier-unseal-keys", "core/recovery-key")
	}
	s.old.program = from
	newRaftNode := func(id string) node {
		n := newNode(t, id)
		n.seal, n.program, n.unnamed = s.old.seal, to, m.unnamed
		return n
	}
	s.step("start DynamoDB Local", func() { s.table = openTable(startDynamoDBLocal(t).URL) })
	if m.transit {
		s.step("start the Vault whose transit key is the seal", func() { s.old.seal = transitSeal(t) })
	}
	s.fillAndEnd((*process).stop)
	if (s.keys.shares == nil) != m.transit || (s.keys.recovery != nil) != m.transit {
		t.Fatalf("the old Vault has %d unseal keys and %d recovery keys", len(s.keys.shares), len(s.keys.recovery))
	}

	first := newRaftNode("node1")
	s.copy(first, stanza)
	s.wantLogStore(first, store)
	v := s.newVault(first, stanza)
	if m.transit {
		s.step("the recovery keys make a root token", func() {
			if code, _, err := v.as(v.rootToken(t, s.keys.recovery)).do(http.MethodGet, "sys/policy", nil); err != nil || code != http.StatusOK {
				t.Fatalf("with it, a list of the policies is answered %d (%v), want 200", code, err)
			}
		})
	}
	followers := s.join(s.restart(v, stanza), stanza)
	for _, n := range append(followers, first) {
		s.wantNothingLost(n)
		s.wantLogStore(n, store)
	}

	const oversize = "more than an item holds"
	s.step("the other two: life goes on, and ends", func() {
		s.serve(followers, stanza, rnd, func(leader *vault) {
			s.contents.live(t, leader)
			if m.large {
				half := strings.Repeat("x", 750_000) // Vault takes 1 MiB in one
				leader.write(t, "kv1/"+oversize, map[string]any{"a": half, "b": half})
			}
		})
	})
	s.step("start another DynamoDB Local", func() { s.table = openTable(startDynamoDBLocal(t).URL) })
	work, back := t.TempDir(), configOf(t, fmt.Sprintf("storage_source \"raft\" {\n  path  = %q\n  paths = [%q]\n}\n", followers[0].dir, followers[1].dir),
		dynamoDBStorage("storage_destination", s.table.endpoint))
	if m.large {
		s.step("what no item holds is named", func() {
			run := runProgram(t, 5*time.Minute, dyn2raftBin, "copy", "-config", back, "-work-dir", work)
			if key := s.contents.kv1UUID + "/" + oversize; run.code != exitDestination || !strings.Contains(run.stderr, key) {
				t.Fatalf("exit code %d, want %d, %s named\nstdout: %s\nstderr: %s", run.code, exitDestination, key, run.stdout, run.stderr)
			}
			s.serve(followers, stanza, rnd, func(leader *vault) { leader.delete(t, "kv1/"+oversize) })
		})
	}
	s.step("back to DynamoDB, from two of three stopped nodes", func() {
		copyTo(t, back, "-work-dir", work)
		verifyEqual(t, back, "-work-dir", work)
	})
	s.step("Vault on the new table: read, use and change everything", func() {
		s.old.program = to
		v := s.oldVault()
		s.contents.check(t, v)
		s.contents.live(t, v)
		s.contents.check(t, v)
		v.stop(t)
		s.source = s.table.entries(t)
	})

	again := newRaftNode("node1-again")
	s.copy(again, stanza)
	for _, n := range append(s.join(s.newVault(again, stanza), stanza), again) {
		s.wantNothingLost(n)
	}
}

// vaultOf is the program of a version.
func vaultOf(t *testing.T, version string) string {
	t.Helper()
	if version == "" {
		return vaultBin
	}
	program := os.Getenv("VAULT_OLD_BIN")
	out, err := exec.Command(program, "version").Output()
	if err != nil || !strings.HasPrefix(string(out), "Vault v"+version) {
		t.Fatalf("VAULT_OLD_BIN=%q is no Vault %s; `make matrix` builds one: %v %s", program, version, err, out)
	}
	return program
}

// serve starts all nodes of a cluster, lets their leader be used, and stops them, each in
// order or not.
func (s *scenario) serve(nodes []node, stanza string, rnd *rand.Rand, use func(leader *vault)) {
	s.t.Helper()
	var vaults []*vault
	for _, n := range nodes {
		v := startVault(s.t, n, raftStorage(n, stanza))
		v.unseal(s.t, s.keys)
		vaults = append(vaults, v)
	}
	use(activeOf(s.t, vaults))
	for _, i := range rnd.Perm(len(vaults)) {
		if v := vaults[i]; rnd.IntN(2) == 0 {
			v.stop(s.t)
		} else {
			v.kill(s.t)
		}
	}
}
