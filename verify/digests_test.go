package verify

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	bolt "go.etcd.io/bbolt"

	"github.com/dyn2raft/dyn2raft/copier"
	"github.com/dyn2raft/dyn2raft/copier/durable"
	"github.com/dyn2raft/dyn2raft/sinks/raft/boltfile"
	"github.com/dyn2raft/dyn2raft/sources/raft/vaultdb"
)

// digestsOf computes what a directory must hold in the simplest way.
func digestsOf(e entries) copier.Digests {
	var d copier.Digester
	for k, v := range e {
		d.Add(copier.Entry{Key: []byte(k), Value: []byte(v)})
	}
	return d.Take()
}

func expect(e entries) Expected {
	return Expected{Digests: digestsOf(e), Raft: vaultdb.Raft{Index: 2, Term: 1, NodeID: "n1", Address: "127.0.0.1:8201", LogStore: "raft.db"}}
}

func setRaft(t testing.TB, dir string, index byte, id, address string) {
	t.Helper()
	update(t, filepath.Join(dir, "vault.db"), func(tx *bolt.Tx) error {
		b := tx.Bucket([]byte("config"))
		return errors.Join(b.Put([]byte("latest_config"), configuration(index, id, address)), b.Put([]byte("latest_indexes"), []byte{8, 1, 16, index}))
	})
}

func TestDigests(t *testing.T) {
	for _, e := range []entries{{}, {"a": ""}, some(3000), large()} {
		dir := directory(t, e)
		before := snapshot(t, dir)
		r, err := Digests(t.Context(), dir)
		check(t, err)
		if !r.Digests.Equal(digestsOf(e)) || r.Digests.Total().Entries != int64(len(e)) || r.Raft.Index != 2 || r.Pages.HighWater < 4 {
			t.Errorf("%d entries: %+v", len(e), r)
		}
		if snapshot(t, dir) != before {
			t.Error("the directory has changed")
		}
	}
	if _, err := Digests(t.Context(), t.TempDir()); !errors.Is(err, copier.ErrDestination) || codeOf(err) != vaultdb.NoFile {
		t.Errorf("no vault.db: %v", err)
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	why := errors.New("why")
	cancel(why)
	if _, err := Digests(ctx, directory(t, some(3000))); !errors.Is(err, why) {
		t.Errorf("cancelled: %v", err)
	}
}

// damages change entries in every way that must be noticed.
func damages(a, b string) map[string]func(e entries) {
	flip := func(s string, i int) string { return s[:i] + string(s[i]^1) + s[i+1:] }
	return map[string]func(e entries){
		"one bit of a value":     func(e entries) { e[a] = flip(e[a], 3) },
		"one bit of a key":       func(e entries) { e[flip(a, 7)] = e[a]; delete(e, a) },
		"entry lost":             func(e entries) { delete(e, a) },
		"entry added":            func(e entries) { e["core/new"] = "x" },
		"in a prefix of its own": func(e entries) { e["zzz/new"] = "x" },
		"without a slash":        func(e entries) { e["zzz"] = "x" },
		"empty entry added":      func(e entries) { e["core/new"] = "" },
		"two values swapped":     func(e entries) { e[a], e[b] = e[b], e[a] },
		"two values of a prefix": func(e entries) { e[a], e["core/012/key"] = e["core/012/key"], e[a] },
		"moved to a prefix":      func(e entries) { e["x/003/key"] = e[a]; delete(e, a) },
		"key and value moved":    func(e entries) { e[a+e[a][:1]] = e[a][1:]; delete(e, a) },
		// The total number of entries and bytes stays.
		"a count that cancels out": func(e entries) {
			delete(e, "core/015/key")
			e["sys/zzz/key!"] = some(100)["core/015/key"]
		},
	}
}

func TestCheckManifest(t *testing.T) {
	good := some(100)
	want := expect(good)
	rep, err := CheckManifest(t.Context(), want, directory(t, good))
	if err != nil || !rep.Equal() || !rep.Complete || rep.Started || rep.Found != rep.Expected || rep.Found.Entries != 100 || len(rep.Prefixes) != 4 {
		t.Fatalf("%+v, %v", rep, err)
	}
	for name, damage := range damages("core/003/key", "sys/005/key") {
		bad := good.clone()
		damage(bad)
		rep, err := CheckManifest(t.Context(), want, directory(t, bad))
		if err != nil || rep.Equal() || !rep.Complete {
			t.Errorf("%s: equal %v, %v", name, rep.Equal(), err)
		}
		same := true
		for _, p := range rep.Prefixes {
			same = same && p.Equal
		}
		if same {
			t.Errorf("%s: no prefix differs", name)
		}
	}
	if (&ManifestReport{}).Equal() {
		t.Error("nothing was checked, and it is equal")
	}
}

// TestPrefixesThatCancelOut has a manifest with the right total and a wrong
// share for two prefixes.
func TestPrefixesThatCancelOut(t *testing.T) {
	good := some(100)
	want := expect(good)
	a, b := want.Digests["core/"], want.Digests["sys/"]
	a.Entries, b.Entries = a.Entries+1, b.Entries-1
	want.Digests["core/"], want.Digests["sys/"] = a, b
	rep, err := CheckManifest(t.Context(), want, directory(t, good))
	if err != nil || rep.Equal() || rep.Found != rep.Expected {
		t.Errorf("%+v, %v", rep, err)
	}
}

func TestRaftDiffers(t *testing.T) {
	good := some(20)
	for name, c := range map[string]struct {
		change func(e *Expected)
		diffs  int
	}{
		"index":        {func(e *Expected) { e.Index = 1 }, 2}, // and that of the configuration
		"term":         {func(e *Expected) { e.Term = 7 }, 2},  // and the log's
		"node_id":      {func(e *Expected) { e.NodeID = "n2" }, 1},
		"cluster_addr": {func(e *Expected) { e.Address = "127.0.0.2:8201" }, 1},
		"log":          {func(e *Expected) { e.LogStore = "wal" }, 1},
	} {
		want := expect(good)
		c.change(&want)
		rep, err := CheckManifest(t.Context(), want, directory(t, good))
		if err != nil || rep.Equal() || rep.Started || len(rep.RaftDiffs) != c.diffs || rep.RaftDiffs[0].Name != name {
			t.Errorf("%s: %+v, %v", name, rep.RaftDiffs, err)
		}
	}
	dir := directory(t, good)
	setRaft(t, dir, 3, "n1", "127.0.0.1:8201")
	writeRaftDB(t, dir, 2)
	if rep, err := CheckManifest(t.Context(), expect(good), dir); err != nil || rep.Equal() || !rep.Started {
		t.Errorf("a Vault has run: %+v, %v", rep, err)
	}
}

// TestBrokenFile has the digests' reader fail on what the structure tells, and
// notice by the digests what it does not.
func TestBrokenFile(t *testing.T) {
	e := large()
	dir := directory(t, e)
	file := filepath.Join(dir, "vault.db")
	good, err := os.ReadFile(file)
	check(t, err)
	need := highWater(t, good)
	for name, damage := range map[string]func(b []byte) []byte{
		"truncated":    func(b []byte) []byte { return b[:need-1] },
		"page header":  func(b []byte) []byte { b[dataPage(t, b)] ^= 1; return b },
		"key":          func(b []byte) []byte { b[bytes.LastIndex(b, []byte("sys/0200"))+4] ^= 1; return b },
		"bucket name":  func(b []byte) []byte { b[bytes.LastIndex(b, []byte("data"))] ^= 1; return b },
		"bit of value": func(b []byte) []byte { b[bytes.Index(b, []byte("VVVV"))+9] ^= 1; return b },
	} {
		check(t, os.WriteFile(file, damage(bytes.Clone(good)), 0o600))
		rep, err := CheckManifest(t.Context(), expect(e), dir)
		structure := name != "bit of value"
		if rep.Equal() || structure != errors.Is(err, vaultdb.ErrDamaged) || rep.Complete == structure {
			t.Errorf("%s: equal %v, %v", name, rep.Equal(), err)
		}
		in, err := Inspect(t.Context(), dir, InspectOptions{})
		if err != nil || in.Sound == structure || strings.Contains(in.Damage, "page") != (name == "key" || name == "page header") && name != "truncated" {
			t.Errorf("%s: inspected as %v, %q, %v", name, in.Sound, in.Damage, err)
		}
	}
}

// dataPage returns the offset of the root page of the bucket data.
func dataPage(t testing.TB, content []byte) int {
	t.Helper()
	file := filepath.Join(t.TempDir(), "vault.db")
	check(t, os.WriteFile(file, content, 0o600))
	db, err := bolt.Open(file, 0o600, &bolt.Options{ReadOnly: true})
	check(t, err)
	defer db.Close()
	root := 0
	check(t, db.View(func(tx *bolt.Tx) error { root = int(tx.Bucket([]byte("data")).Root()); return nil }))
	return root * os.Getpagesize()
}

func TestManifestExpected(t *testing.T) {
	e := some(30)
	want := expect(e)
	m := copier.Record{Prefixes: want.Digests, Destination: copier.Identity{"node_id": "n1", "cluster_addr": want.Address, "log store": "raft.db"}, State: copier.Released}
	rep, err := CheckManifest(t.Context(), Expect(&m), directory(t, e))
	if err != nil || !rep.Equal() {
		t.Errorf("%+v, %v", rep, err)
	}
}

// Every bit of a manifest's file: what comes of it is refused.
func TestManifestDamage(t *testing.T) {
	digests := digestsOf(some(12))
	m := copier.Record{RunID: "run", State: copier.Released, Prefixes: digests, Total: digests.Total(),
		Destination: copier.Identity{"path": "/x", "node_id": "n1", "cluster_addr": "127.0.0.1:8201", "log store": "raft.db"}}
	if _, err := Readdress(&m, copier.Tool{Name: "x"}, "n2", "127.0.0.2:8201"); err != nil || NodeOf(&m).ID != "n2" {
		t.Fatal(err, m.Amendments)
	}
	file := filepath.Join(t.TempDir(), "manifest.json")
	check(t, WriteManifest(file, &m, -1, -1))
	got, err := ReadManifest(file)
	if err != nil || !reflect.DeepEqual(Expect(got), Expect(&m)) {
		t.Fatalf("%+v, %v", got, err)
	}
	good, err := os.ReadFile(file)
	check(t, err)
	refused := func(data []byte) {
		t.Helper()
		check(t, os.WriteFile(file, data, 0o600))
		if _, err := ReadManifest(file); !errors.Is(err, ErrNotManifest) || !errors.Is(err, copier.ErrDestination) {
			t.Errorf("read with %v: %s", err, data)
		}
	}
	for i := range good {
		for bit := range 8 {
			bad := bytes.Clone(good)
			bad[i] ^= 1 << bit
			refused(bad)
		}
		refused(good[:i])
	}
	refused(append(good, '\n'))
	m.Total.Entries++
	check(t, WriteManifest(file, &m, -1, -1))
	if _, err := ReadManifest(file); !errors.Is(err, ErrNotManifest) || !strings.Contains(err.Error(), "add up") {
		t.Errorf("a wrong total: %v", err)
	}
}

// TestStarted compares with a directory that a Vault has changed.
func TestStarted(t *testing.T) {
	src := entries{"core/keyring": "1", "sys/token/id/h1": "t", "logical/u/secret": "s", "core/mounts": "m"}
	dst := src.clone()
	delete(dst, "sys/token/id/h1")
	delete(dst, "logical/u/secret")
	dst["core/keyring"] = "2"
	dst["core/raft/tls"] = "new"
	dst["auth/u/salt"] = "new"
	dst["core/versions/1.21.1"] = "new"
	for _, index := range []byte{2, 3} {
		dir := directory(t, dst)
		setRaft(t, dir, index, "n1", "127.0.0.1:8201")
		writeRaftDB(t, dir, uint64(index)-1) // a Vault that starts takes a new term
		rep, err := compare(t, sourceOf(src), dir, Options{})
		check(t, err)
		started := index > 2
		if rep.Equal() || rep.Started != started || rep.Raft.Index != uint64(index) || rep.Raft.Servers[0].ID != "n1" {
			t.Errorf("index %d: %+v", index, rep)
		}
		got := ""
		for _, d := range rep.Diffs {
			got += fmt.Sprintf("%s %v; ", d.Key, d.Known != "")
		}
		want := "auth/u/salt true; core/keyring false; core/raft/tls true; core/versions/1.21.1 true; logical/u/secret false; sys/token/id/h1 true; "
		if !started {
			want = strings.ReplaceAll(want, "true", "false")
		}
		if got != want || rep.Known != map[bool]int64{true: 4}[started] {
			t.Errorf("index %d: %d known\ngot  %s\nwant %s", index, rep.Known, got, want)
		}
	}
	dir := directory(t, dst)
	setRaft(t, dir, 3, "n1", "127.0.0.1:8201")
	if rep, err := compare(t, sourceOf(src), dir, Options{}, Expected{Raft: vaultdb.Raft{Index: 3}}); err != nil || rep.Started {
		t.Errorf("a copy that ends at index 3: %+v, %v", rep, err)
	}
	// What was there before and is gone is no work of a start.
	for _, key := range []string{"auth/u/salt", "core/versions/1.2", "core/wrapping/jwtkey", "core/raft/tlsx", "core/locks"} {
		if why := known(Missing, key); why != "" {
			t.Errorf("missing %s: %s", key, why)
		}
	}
	if known(Different, "core/lock") == "" || known(Extra, "core/wrapping/jwtkey") == "" {
		t.Error("core/lock or core/wrapping/jwtkey is not explained")
	}
}

func BenchmarkDigests(b *testing.B) {
	for _, size := range []int{750, 60} {
		b.Run(fmt.Sprintf("%d-byte values", size), func(b *testing.B) {
			dir := b.TempDir()
			out, err := os.Create(filepath.Join(dir, "vault.db"))
			check(b, err)
			w, err := boltfile.NewWriter(out, boltfile.Options{})
			check(b, err)
			check(b, w.Bucket([]byte("config")))
			check(b, w.Bucket([]byte("data")))
			value := bytes.Repeat([]byte("v"), size)
			for i := range 300_000_000 / (size + 100) {
				check(b, w.Put(fmt.Appendf(nil, "logical/8a1d7a30-c7f0-4f2c/%08d", i), value))
			}
			stats, err := w.Finish()
			check(b, err)
			check(b, out.Close())
			b.SetBytes(stats.Bytes)
			for b.Loop() {
				if _, err := Digests(b.Context(), dir); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// A manifest replaces that of the same copy, and keeps that of another, also where it
// was kept before; it replaces nothing else.
func TestManifestKeepsOthers(t *testing.T) {
	file := filepath.Join(t.TempDir(), "data.dyn2raft.json")
	write := func(run string) error {
		return WriteManifest(file, &copier.Record{RunID: run, State: copier.Released, Prefixes: copier.Digests{}}, -1, -1)
	}
	read := func(path string) []byte {
		data, err := os.ReadFile(path)
		check(t, err)
		return data
	}
	runAt := func(path string) string {
		m, err := ReadManifest(path)
		if err != nil {
			t.Error(err)
			return ""
		}
		return m.RunID
	}
	for _, run := range []string{"a", "a", "b", "c"} {
		check(t, write(run))
	}
	check(t, os.Rename(KeptManifest(file, "b"), file))
	check(t, write("b"))
	check(t, os.WriteFile(KeptManifest(file, "b"), read(file), 0o600))
	check(t, write("d"))
	for path, want := range map[string]string{file: "d", KeptManifest(file, "a"): "a", KeptManifest(file, "b"): "b"} {
		if got := runAt(path); got != want {
			t.Errorf("%s is of run %q, expected %q", path, got, want)
		}
	}
	check(t, os.WriteFile(KeptManifest(file, "d"), []byte("precious"), 0o600))
	if err := write("e"); !errors.Is(err, copier.ErrDestination) || runAt(file) != "d" {
		t.Errorf("over what is no manifest: %v", err)
	}
	for _, precious := range []string{"precious", "{}\n", "{\n  \"format\": 4\n}\n"} {
		check(t, os.WriteFile(file, []byte(precious), 0o600))
		if err := write("e"); !errors.Is(err, ErrNotManifest) || string(read(file)) != precious {
			t.Errorf("over %q: %v", precious, err)
		}
		if err := TryManifest(file, t.TempDir()); !errors.Is(err, ErrNotManifest) {
			t.Errorf("over %q: %v", precious, err)
		}
	}
	check(t, os.WriteFile(file, nil, 0o600))
	check(t, write("e"))
}

// A manifest is never written or read through a link, whatever is at its end: the link
// would be replaced, or its mode taken.
func TestManifestLink(t *testing.T) {
	dir := t.TempDir()
	record := func(run string) *copier.Record {
		return &copier.Record{RunID: run, State: copier.Released, Prefixes: copier.Digests{}}
	}
	file := filepath.Join(dir, "real.json")
	check(t, WriteManifest(file, record("a"), -1, -1))
	before, err := os.ReadFile(file)
	check(t, err)
	check(t, os.WriteFile(filepath.Join(dir, "empty"), nil, 0o600))
	for _, target := range []string{"real.json", "empty", "nowhere"} {
		link := filepath.Join(dir, "link-"+target)
		check(t, os.Symlink(target, link))
		_, rerr := ReadManifest(link)
		for op, err := range map[string]error{
			"try": TryManifest(link, t.TempDir()), "read": rerr,
			"write": WriteManifest(link, record("a"), -1, -1), "another": WriteManifest(link, record("b"), -1, -1),
		} {
			code, _ := copier.CodeOf(err)
			if !errors.Is(err, durable.ErrNotFile) || !errors.Is(err, copier.ErrDestination) || code != ManifestLink || !strings.HasSuffix(err.Error(), "a link to "+target) {
				t.Errorf("%s a link to %s: %v (%s)", op, target, err, code)
			}
		}
		if got, err := os.Readlink(link); got != target {
			t.Errorf("the link to %s: %q, %v", target, got, err)
		}
	}
	if after, err := os.ReadFile(file); err != nil || !bytes.Equal(before, after) {
		t.Errorf("what is linked to has changed: %v", err)
	}
}

// A manifest's place below the data directory is refused by its name and by where links
// lead, with and without the directories above it.
func TestManifestInside(t *testing.T) {
	dir := t.TempDir()
	data := filepath.Join(dir, "data")
	check(t, os.MkdirAll(filepath.Join(data, "there"), 0o700))
	check(t, os.Symlink(data, filepath.Join(dir, "link")))
	check(t, os.Symlink("data/there", filepath.Join(dir, "deep")))
	check(t, os.Mkdir(filepath.Join(dir, "data2"), 0o700))
	for file, inside := range map[string]bool{
		"data/m.json": true, "data/there/m.json": true, "data/raft/m.json": true, "data/raft/snapshots/m.json": true,
		"data2/../data/raft/m.json": true, "link/m.json": true, "link/raft/snapshots/m.json": true, "deep/no/m.json": true,
		"m.json": false, "data2/m.json": false, "data2/raft/m.json": false, "data.json": false, "data/../m.json": false, "no/such/m.json": false,
	} {
		for _, path := range []string{data, filepath.Join(dir, "link")} {
			if err := OutsideOf(dir+"/"+file, path); (err != nil) != inside {
				t.Errorf("%s in %s: %v, expected inside %v", file, path, err, inside)
			}
		}
		code, _ := copier.CodeOf(TryManifest(dir+"/"+file, data))
		if (code == ManifestInside) != inside {
			t.Errorf("try %s: code %q, expected inside %v", file, code, inside)
		}
	}
	if err := OutsideOf(dir+"/new/raft/m.json", dir+"/new"); err == nil {
		t.Error("in a data directory that is not there yet: let pass")
	}
}
