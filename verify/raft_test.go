package verify

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/hashicorp/raft"
	raftboltdb "github.com/hashicorp/raft-boltdb/v2"
	bolt "go.etcd.io/bbolt"

	"github.com/dyn2raft/dyn2raft/copier"
	"github.com/dyn2raft/dyn2raft/sources/raft/vaultdb"
)

// putConfig changes the bucket config of a data directory.
func putConfig(t testing.TB, dir, key string, value []byte) {
	t.Helper()
	update(t, filepath.Join(dir, "vault.db"), func(tx *bolt.Tx) error { return tx.Bucket([]byte("config")).Put([]byte(key), value) })
}

func appendLogs(t testing.TB, dir string, from, to uint64) {
	t.Helper()
	s, err := raftboltdb.New(raftboltdb.Options{Path: filepath.Join(dir, "raft", "raft.db"), NoSync: true, MsgpackUseNewTimeFormat: true})
	check(t, err)
	var logs []*raft.Log
	for i := from; i <= to; i++ {
		logs = append(logs, &raft.Log{Index: i, Term: 2})
	}
	check(t, errors.Join(s.StoreLogs(logs), s.Close()))
}

// raftDamages make a directory whose entries are all there one that no Vault
// can use, or not the one that was copied, with the names of what differs.
var raftDamages = map[string]struct {
	damage func(t testing.TB, dir string)
	names  string
}{
	"one bit of node_id": {func(t testing.TB, dir string) {
		putConfig(t, dir, "latest_config", configuration(2, "n0", "127.0.0.1:8201"))
	}, "node_id"},
	"one bit of the address": {func(t testing.TB, dir string) {
		putConfig(t, dir, "latest_config", configuration(2, "n1", "127.0.0.1:8200"))
	}, "cluster_addr"},
	"one bit of the configuration's index": {func(t testing.TB, dir string) {
		putConfig(t, dir, "latest_config", configuration(3, "n1", "127.0.0.1:8201"))
	}, "config_index"},
	"another server": {func(t testing.TB, dir string) {
		c := configuration(2, "n1", "127.0.0.1:8201")
		putConfig(t, dir, "latest_config", append(c, c[2:]...))
	}, "servers"},
	"no configuration": {func(t testing.TB, dir string) { putConfig(t, dir, "latest_config", nil) }, "config_index servers"},
	"one bit of the index": {func(t testing.TB, dir string) {
		putConfig(t, dir, "latest_indexes", []byte{8, 1, 16, 3})
	}, "index"},
	"one bit of the index, downwards": {func(t testing.TB, dir string) {
		putConfig(t, dir, "latest_indexes", []byte{8, 1, 16, 0})
	}, "index"},
	"one bit of the term": {func(t testing.TB, dir string) {
		putConfig(t, dir, "latest_indexes", []byte{8, 5, 16, 2})
	}, "term"},
	"raft/ is gone": {func(t testing.TB, dir string) { check(t, os.RemoveAll(filepath.Join(dir, "raft"))) }, "log"},
	"raft.db is zeroed": {func(t testing.TB, dir string) {
		check(t, os.WriteFile(filepath.Join(dir, "raft", "raft.db"), make([]byte, 32<<10), 0o600))
	}, "log"},
	"raft.db is cut": {func(t testing.TB, dir string) {
		check(t, os.Truncate(filepath.Join(dir, "raft", "raft.db"), 5000))
	}, "log"},
	"the log connects to a newcomer's": {func(t testing.TB, dir string) { appendLogs(t, dir, 1, 2) }, "first log index"},
	"no voter": {func(t testing.TB, dir string) {
		c := configuration(2, "n1", "127.0.0.1:8201")
		i := bytes.Index(c, []byte("\x12\x02n1")) // its suffrage, which is 0 and left out, comes before
		c = slices.Insert(c, i, 0x08, 1)
		c[3] += 2 // the message of the server is longer
		putConfig(t, dir, "latest_config", c)
	}, "suffrage"},
	"the log has no term": {func(t testing.TB, dir string) { writeRaftDB(t, dir, 0) }, "log term"},
}

// TestRaftDamage has the table and the manifest say of each that it is no
// equal, and the read-back refuse it.
func TestRaftDamage(t *testing.T) {
	e := some(30)
	for name, c := range raftDamages {
		dir := directory(t, e)
		c.damage(t, dir)
		names := func(diffs []vaultdb.Diff) string {
			var out []string
			for _, d := range diffs {
				out = append(out, d.Name)
			}
			return strings.Join(out, " ")
		}
		rep, err := compare(t, sourceOf(e), dir, Options{}, expect(nil))
		if err != nil || rep.Equal() || rep.Started || names(rep.RaftDiffs) != c.names {
			t.Errorf("%s: the comparison says equal %v, started %v, %+v, %v", name, rep.Equal(), rep.Started, rep.RaftDiffs, err)
		}
		got, err := CheckManifest(t.Context(), expect(e), dir)
		if err != nil || got.Equal() || got.Started || names(got.RaftDiffs) != c.names {
			t.Errorf("%s: the manifest says equal %v, started %v, %+v, %v", name, got.Equal(), got.Started, got.RaftDiffs, err)
		}
		if err := checkNew(t, expect(e).Raft, dir); !errors.Is(err, vaultdb.ErrRaft) || !errors.Is(err, copier.ErrDestination) {
			t.Errorf("%s: it is read back with %v", name, err)
		}
	}
	dir := directory(t, e)
	if err := checkNew(t, expect(e).Raft, dir); err != nil {
		t.Errorf("undamaged: %v", err)
	}
}

// checkNew checks the directory as the sink's reader does.
func checkNew(t testing.TB, want vaultdb.Raft, dir string) error {
	t.Helper()
	file, err := vaultdb.Open(filepath.Join(dir, vaultDBName))
	if err != nil {
		return err
	}
	state, err := file.State()
	if err == nil {
		err = want.CheckNew(t.Context(), dir, state)
	}
	check(t, file.Close())
	return err
}

// TestRaftOfStarted has a Vault run on the directory: of Raft nothing but a
// damaged log is said to differ, whatever the index, term and members are.
func TestRaftOfStarted(t *testing.T) {
	e := some(30)
	dir := directory(t, e)
	setRaft(t, dir, 57, "other", "10.0.0.1:8201")
	writeRaftDB(t, dir, 2)
	appendLogs(t, dir, 3, 60)
	rep, err := compare(t, sourceOf(e), dir, Options{}, expect(nil))
	if err != nil || !rep.Equal() || !rep.Started || rep.Log.Last != 60 {
		t.Errorf("%+v, %v", rep, err)
	}
	damageTerm(t, dir)
	rep, err = compare(t, sourceOf(e), dir, Options{}, expect(nil))
	if err != nil || rep.Equal() || !rep.Started || len(rep.RaftDiffs) != 1 || rep.RaftDiffs[0].Name != "log" {
		t.Errorf("%+v, %v", rep, err)
	}
}

// damageTerm makes the term of a log a number of 7 bytes.
func damageTerm(t testing.TB, dir string) {
	t.Helper()
	update(t, filepath.Join(dir, "raft", "raft.db"), func(tx *bolt.Tx) error {
		return tx.Bucket([]byte("conf")).Put([]byte("CurrentTerm"), []byte("seven.."))
	})
}

// TestNodeIDFile takes the node's id from the file that Vault takes it from.
func TestNodeIDFile(t *testing.T) {
	e := some(5)
	for id, equal := range map[string]bool{"n1": true, "n2": false, "n1\n": false, "": false} {
		dir := directory(t, e)
		check(t, os.WriteFile(filepath.Join(dir, "node-id"), []byte(id), 0o600))
		rep, err := compare(t, sourceOf(e), dir, Options{})
		if err != nil || rep.Equal() != equal {
			t.Errorf("%s: %+v, %v", id, rep.RaftDiffs, err)
		}
		// Also where the manifest says which node it is, and in what is read back.
		for _, want := range []Expected{expect(e), {Digests: digestsOf(e), Raft: vaultdb.Raft{Index: 2, Term: 1}}} {
			if got, err := CheckManifest(t.Context(), want, dir); err != nil || got.Equal() != equal || !equal && got.RaftDiffs[0] != (vaultdb.Diff{Name: "file node-id", Expected: "n1", Found: id}) {
				t.Errorf("%s: %+v, %v", id, got.RaftDiffs, err)
			}
			if rep, err := compare(t, sourceOf(e), dir, Options{}, want); err != nil || rep.Equal() != equal {
				t.Errorf("%s: %+v, %v", id, rep.RaftDiffs, err)
			}
			if err := checkNew(t, want.Raft, dir); (err == nil) != equal {
				t.Errorf("%s: %v", id, err)
			}
		}
	}
	// That the file is gone is seen where the manifest says that the id was in it.
	want := expect(e)
	want.NodeIDFile = true
	if got, err := CheckManifest(t.Context(), want, directory(t, e)); err != nil || len(got.RaftDiffs) != 1 || got.RaftDiffs[0].Name != "file node-id" {
		t.Errorf("%+v, %v", got.RaftDiffs, err)
	}
}
