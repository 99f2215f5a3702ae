package verify

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/raft"
	raftboltdb "github.com/hashicorp/raft-boltdb/v2"
	wal "github.com/hashicorp/raft-wal"
	"github.com/hashicorp/raft-wal/metadb"
	bolt "go.etcd.io/bbolt"

	"github.com/dyn2raft/dyn2raft/copier"
	"github.com/dyn2raft/dyn2raft/sources/raft/vaultdb"
)

// inspect inspects a directory and wants it to be as before.
func inspect(t *testing.T, dir string, opts InspectOptions) *Inspection {
	t.Helper()
	before := snapshot(t, dir)
	in, err := Inspect(t.Context(), dir, opts)
	check(t, err)
	if snapshot(t, dir) != before {
		t.Error("the directory has changed")
	}
	return in
}

func TestInspect(t *testing.T) {
	e := entries{
		"core/a": "12", "core/b/c": "", "sys/expire/id/x": "1", "sys/token/id/y": "22", "sys/token/salt": "s", "sys/lone": "",
		"logical/u1/a": "1234567", "logical/u1/b": "1", "logical/u2/a": "1", "auth/u3/x/y": "1", "audit/u4/s": "", "top": "1", "odd/u5/z": "",
	}
	dir := directory(t, e)
	check(t, os.WriteFile(filepath.Join(dir, "node-id"), []byte("n1"), 0o600))
	check(t, os.MkdirAll(filepath.Join(dir, "raft", "snapshots", "1-2-3.tmp"), 0o700))
	check(t, os.WriteFile(filepath.Join(dir, "raft", "snapshots", "1-2-3.tmp", "state.bin"), []byte("12345"), 0o600))
	in := inspect(t, dir, InspectOptions{Largest: 3})
	got := ""
	for _, g := range in.Groups {
		got += fmt.Sprintf("%s %d/%d (%s); ", g.Name, g.Entries, g.Bytes, g.Role)
	}
	const want = " 1/4 (); audit/u4/ 1/10 (audit device); auth/u3/ 1/12 (auth method); core/ 2/16 (Vault's own state); " +
		"logical/u1/ 2/32 (secrets engine); logical/u2/ 1/13 (secrets engine); odd/ 1/8 (); sys/ 1/8 (); " +
		"sys/expire/ 1/16 (leases); sys/token/ 2/31 (tokens); "
	if got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	largest := []copier.Sized{{Key: "logical/u1/a", Bytes: 19}, {Key: "sys/expire/id/x", Bytes: 16}, {Key: "sys/token/id/y", Bytes: 16}}
	if !reflect.DeepEqual(in.Largest, largest) {
		t.Errorf("largest: %+v", in.Largest)
	}
	sizes := []copier.Bin{{From: 4, To: 8, Entries: 1, Bytes: 4}, {From: 8, To: 16, Entries: 9, Bytes: 95}, {From: 16, To: 32, Entries: 3, Bytes: 51}}
	if !reflect.DeepEqual(in.Sizes, sizes) {
		t.Errorf("sizes: %+v", in.Sizes)
	}
	if in.Entries != 13 || in.Bytes != 150 || !in.Sound || in.NodeID != "n1" || in.Raft.Index != 2 || in.Raft.Servers[0].Address != "127.0.0.1:8201" ||
		in.Pages.Depth != 1 || in.FileSystem.Available <= 0 || in.FileSystem.Bytes < in.FileSystem.Available || in.Log.Store != "raft.db" ||
		!reflect.DeepEqual(in.Snapshots, []Snapshot{{"1-2-3.tmp", 5}}) {
		t.Errorf("%+v", in)
	}
	b, err := json.Marshal(in)
	if err != nil || strings.Contains(string(b), "1234567\"") || !strings.Contains(string(b), `"high_water_pages"`) {
		t.Errorf("%s, %v", b, err)
	}
}

// TestGroupsAreContiguous compares the groups with what a map says.
func TestGroupsAreContiguous(t *testing.T) {
	e := some(500)
	want := map[string]int64{}
	for k := range e {
		want[string(copier.GroupName([]byte(k)))]++
	}
	got := map[string]int64{}
	var entries int64
	in := inspect(t, directory(t, e), InspectOptions{Largest: -1})
	for _, g := range in.Groups {
		got[g.Name] += g.Entries
	}
	for _, b := range in.Sizes {
		entries += b.Entries
	}
	if !maps.Equal(got, want) || entries != 500 || len(in.Largest) != 0 {
		t.Errorf("got %v, want %v", got, want)
	}
	all := inspect(t, directory(t, e), InspectOptions{}).Largest
	if len(all) != 10 || !slices.IsSortedFunc(all, func(a, b copier.Sized) int { return int(b.Bytes - a.Bytes) }) {
		t.Errorf("largest: %+v", all)
	}
}

func TestInspectFails(t *testing.T) {
	if _, err := Inspect(t.Context(), t.TempDir(), InspectOptions{}); !errors.Is(err, copier.ErrDestination) {
		t.Errorf("got %v", err)
	}
	dir := directory(t, some(3))
	db, err := bolt.Open(filepath.Join(dir, "vault.db"), 0o600, nil)
	check(t, err)
	if _, err := Inspect(t.Context(), dir, InspectOptions{}); !errors.Is(err, ErrInUse) || !errors.Is(err, copier.ErrLocked) {
		t.Errorf("got %v", err)
	}
	check(t, db.Close())
}

func logs(from, to uint64) (out []*raft.Log) {
	for i := from; i <= to; i++ {
		out = append(out, &raft.Log{Index: i, Term: 4, Data: []byte(strings.Repeat("d", int(i%300))), AppendedAt: time.Unix(1, 0)})
	}
	return out
}

func TestRaftDB(t *testing.T) {
	for _, last := range []uint64{0, 3, 1000} {
		dir := directory(t, some(3))
		path := filepath.Join(dir, "raft", "raft.db")
		check(t, os.Remove(path))
		s, err := raftboltdb.New(raftboltdb.Options{Path: path, NoSync: true, MsgpackUseNewTimeFormat: true,
			BoltOptions: &bolt.Options{NoFreelistSync: true, FreelistType: bolt.FreelistMapType}})
		check(t, err)
		want := vaultdb.Log{Store: "raft.db"}
		if last > 0 {
			check(t, s.StoreLogs(logs(1, last)))
			check(t, s.DeleteRange(1, 2))
			check(t, s.SetUint64([]byte("CurrentTerm"), 4))
			want.First, want.Last, want.CurrentTerm = 3, last, 4
		}
		check(t, s.Close())
		st, err := os.Stat(path)
		check(t, err)
		want.Bytes = st.Size()
		if in := inspect(t, dir, InspectOptions{}); in.Log != want {
			t.Errorf("got %+v, want %+v", in.Log, want)
		}
		// A damaged log is said to be.
		f, err := os.OpenFile(path, os.O_RDWR, 0)
		check(t, err)
		_, err = f.WriteAt(make([]byte, 3*os.Getpagesize()), 0)
		check(t, errors.Join(err, f.Close()))
		if in := inspect(t, dir, InspectOptions{}); in.Log.Damage == "" || !in.Sound {
			t.Errorf("%+v", in.Log)
		}
	}
}

func TestWAL(t *testing.T) {
	for _, c := range []struct {
		first, last, drop uint64
		segment           int
	}{{0, 0, 0, 1 << 20}, {1, 5, 0, 1 << 20}, {7, 2000, 0, 16 << 10}, {7, 2000, 1100, 16 << 10}, {3, 9, 8, 1 << 20}} {
		dir := directory(t, some(3))
		check(t, os.Remove(filepath.Join(dir, "raft", "raft.db")))
		path := filepath.Join(dir, "raft", "wal")
		check(t, os.MkdirAll(path, 0o700))
		meta := &metadb.BoltMetaDB{}
		w, err := wal.Open(path, wal.WithMetaStore(meta), wal.WithSegmentSize(c.segment), wal.WithLogger(hclog.NewNullLogger()))
		check(t, err)
		for from := c.first; c.last > 0 && from <= c.last; from += 10 {
			check(t, w.StoreLogs(logs(from, min(from+9, c.last))))
		}
		if c.drop > 0 {
			check(t, w.DeleteRange(c.first, c.drop))
		}
		check(t, w.SetUint64([]byte("CurrentTerm"), 258))
		first, err := w.FirstIndex()
		check(t, err)
		last, err := w.LastIndex()
		check(t, err)
		check(t, errors.Join(w.Close(), meta.Close()))
		if last != c.last {
			t.Fatalf("the log ends at %d", last)
		}
		in := inspect(t, dir, InspectOptions{})
		if in.Log.Store != "wal" || in.Log.First != first || in.Log.Last != last || in.Log.CurrentTerm != 258 || in.Log.Damage != "" || in.Log.Bytes < 1<<15 {
			t.Errorf("%+v: got %+v, the library says %d to %d", c, in.Log, first, last)
		}
		names, err := filepath.Glob(filepath.Join(path, "*.wal"))
		check(t, err)
		check(t, os.Remove(names[0]))
		if in := inspect(t, dir, InspectOptions{}); !strings.Contains(in.Log.Damage, "is not there") {
			t.Errorf("%+v", in.Log)
		}
	}
}
