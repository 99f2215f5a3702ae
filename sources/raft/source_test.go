package raft

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/hashicorp/raft"
	raftboltdb "github.com/hashicorp/raft-boltdb/v2"
	bolt "go.etcd.io/bbolt"
	"go.uber.org/goleak"
	"google.golang.org/protobuf/encoding/protowire"

	"github.com/dyn2raft/dyn2raft/copier"
	"github.com/dyn2raft/dyn2raft/copier/copiertest"
	"github.com/dyn2raft/dyn2raft/sources/raft/vaultdb"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// TestContract has a vault.db that lacks puts, overwrites and deletes of its log, beside
// locks and pieces of operations, which are no entries.
func TestContract(t *testing.T) {
	n := stopped{servers: 1, fsm: 5000, last: 5600}
	path := n.make(t)
	want := n.entries()
	for _, key := range []string{"core/lock", "core/migration", "raftchunking/7/0"} {
		if _, ok := want[key]; !ok {
			t.Fatalf("%s is not in vault.db", key)
		}
		delete(want, key)
	}
	var list []copier.Entry
	for key, value := range want {
		list = append(list, copier.Entry{Key: []byte(key), Value: []byte(value)})
	}
	copiertest.TestSource(t, func() copier.Source { return source(t, Options{Paths: []string{path}}) }, list)

	s := source(t, Options{Paths: []string{path}})
	info, err := s.Open(t.Context())
	check(t, err)
	defer s.Close()
	var fact Fact
	if ok, err := info.Facts.Get("raft_source", 1, &fact); !ok || err != nil || fact.FSMIndex != 5000 || fact.Index != 5600 || fact.Puts+fact.Deletes != 600 {
		t.Errorf("the fact is %+v (%t, %v), want FSM 5000, log 5600, 600 operations", fact, ok, err)
	}
}

// TestNewestOfAMajority has three nodes that were stopped while one of them was ahead, and
// wants its entries, or a refusal.
func TestNewestOfAMajority(t *testing.T) {
	ahead := stopped{servers: 3, fsm: 40, last: 60}
	behind := stopped{servers: 3, fsm: 50, last: 50}
	older := stopped{servers: 3, fsm: 30, last: 90, term: 1} // longer, of a leader that was replaced
	a, b, c := ahead.make(t), behind.make(t), older.make(t)
	for name, test := range map[string]struct {
		opts Options
		want map[string]string
		err  error
	}{
		"two of three":              {Options{Paths: []string{b, a}}, ahead.entries(), nil},
		"all, one with an old term": {Options{Paths: []string{c, b, a}}, ahead.entries(), nil},
		"one of three":              {Options{Paths: []string{a}}, nil, ErrMinority},
		"one twice":                 {Options{Paths: []string{a, a + "/."}}, nil, ErrMinority},
		"one of three, by name":     {Options{Paths: []string{a}, Fewer: true}, ahead.entries(), nil},
		"an index that is reached":  {Options{Paths: []string{a, b}, AtLeastIndex: 60}, ahead.entries(), nil},
		"an index that is not":      {Options{Paths: []string{a, b}, AtLeastIndex: 61}, nil, ErrBehind},
		"one that is elsewhere":     {Options{Paths: []string{a, stopped{servers: 1, fsm: 2, last: 2, prefix: "other"}.make(t)}}, nil, ErrOtherCluster},
		"a non-voter":               {Options{Paths: []string{a, stopped{servers: 3, fsm: 50, last: 50, nonVoter: true}.make(t)}}, nil, ErrMinority},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := read(t, test.opts)
			if !errors.Is(err, test.err) || err != nil && !errors.Is(err, copier.ErrSource) {
				t.Fatalf("%v, want %v", err, test.err)
			}
			for _, key := range []string{"core/lock", "core/migration", "raftchunking/7/0"} {
				delete(test.want, key)
			}
			if !maps.Equal(got, test.want) {
				t.Errorf("%d entries, want %d", len(got), len(test.want))
			}
		})
	}
}

// TestDirectoriesOfOneNode has directories which are more than the nodes that they are of: a
// majority is counted in nodes.
func TestDirectoriesOfOneNode(t *testing.T) {
	three := stopped{servers: 3, fsm: 40, last: 60}
	earlier := stopped{servers: 3, fsm: 30, last: 30, id: "node1"}
	named, other := three, three
	named.id, other.id = "node1", "node2"
	a, of1, of2, old1 := three.make(t), named.make(t), other.make(t), earlier.make(t)
	copied := filepath.Join(t.TempDir(), "copy")
	check(t, os.CopyFS(copied, os.DirFS(a)))
	linked := filepath.Join(t.TempDir(), "link")
	check(t, os.Symlink(a, linked))
	alone := stopped{servers: 1, fsm: 40, last: 60}
	now, before := alone.make(t), stopped{servers: 1, fsm: 30, last: 60}.make(t)
	unlike := stopped{servers: 3, fsm: 50, last: 60}.make(t)
	for name, test := range map[string]struct {
		paths   []string
		err     error
		says    string
		same    []Same
		unnamed int
	}{
		"a copy":                 {[]string{a, copied}, ErrMinority, "hold the same files", nil, 0},
		"a link":                 {[]string{a, linked}, ErrMinority, "hold the same files", nil, 0},
		"an earlier state":       {[]string{of1, old1}, ErrMinority, "are of node1", nil, 0},
		"two states of the only": {[]string{now, before}, ErrSameNode, "there are 2, and the cluster has 1", nil, 0},
		"more than a majority":   {[]string{old1, of2, of1}, nil, "", []Same{{Path: old1, Newer: of1, Node: "node1"}}, 0},
		"same files, other ids":  {[]string{of1, of2}, nil, "", nil, 0},
		"no ids":                 {[]string{a, unlike}, nil, "", nil, 2},
		"no ids, and a copy":     {[]string{a, copied, unlike}, nil, "", []Same{{Path: copied, Newer: a}}, 2},
	} {
		t.Run(name, func(t *testing.T) {
			s := source(t, Options{Paths: test.paths})
			info, err := s.Open(t.Context())
			if !errors.Is(err, test.err) || err != nil && !strings.Contains(err.Error(), test.says) {
				t.Fatalf("%v, want %v, %q", err, test.err, test.says)
			}
			if err != nil {
				return
			}
			defer s.Close()
			var fact Fact
			if _, err := info.Facts.Get("raft_source", 1, &fact); err != nil || !slices.Equal(fact.Same, test.same) || len(fact.Unnamed) != test.unnamed {
				t.Errorf("%+v and %q (%v), want %+v and %d", fact.Same, fact.Unnamed, err, test.same, test.unnamed)
			}
		})
	}
}

func TestPeerAnswers(t *testing.T) {
	n := stopped{servers: 3, fsm: 4, last: 5}
	one, two := n, n
	one.id, two.id = "node1", "node2"
	opts := Options{Paths: []string{one.make(t), two.make(t)}, Dial: func(_ context.Context, address string) error {
		if address == "127.0.0.1:2" {
			return nil
		}
		return io.EOF
	}}
	if _, err := read(t, opts); !errors.Is(err, ErrPeer) || !errors.Is(err, copier.ErrLocked) || !strings.Contains(err.Error(), "node2") {
		t.Errorf("%v, want ErrPeer and the name of node2", err)
	}
	opts.IgnorePeers = []string{"node2"}
	if _, err := read(t, opts); err != nil {
		t.Errorf("node2 is ignored: %v", err)
	}
}

// TestDamaged has files cut off, emptied or missing: they are the source's, and all that
// somebody may have.
func TestDamaged(t *testing.T) {
	for name, test := range map[string]struct {
		file string
		size int64 // -1: it is removed
		code copier.Code
	}{
		"no vault.db":          {"vault.db", -1, vaultdb.NoSourceFile},
		"an empty vault.db":    {"vault.db", 0, vaultdb.SourceDamaged},
		"a vault.db cut off":   {"vault.db", 9000, vaultdb.SourceDamaged},
		"an empty raft.db":     {"raft/raft.db", 0, vaultdb.SourceDamaged},
		"100 bytes of raft.db": {"raft/raft.db", 100, vaultdb.SourceDamaged},
		"a raft.db cut off":    {"raft/raft.db", 9000, vaultdb.SourceDamaged},
	} {
		t.Run(name, func(t *testing.T) {
			path := stopped{servers: 1, fsm: 4, last: 50}.make(t)
			file := filepath.Join(path, test.file)
			if test.size < 0 {
				check(t, os.Remove(file))
			} else {
				check(t, os.Truncate(file, test.size))
			}
			_, err := read(t, Options{Paths: []string{path}})
			if code, _ := copier.CodeOf(err); code != test.code || !errors.Is(err, copier.ErrSource) || errors.Is(err, copier.ErrDestination) {
				t.Errorf("%v, code %q, want %q of a source", err, code, test.code)
			}
		})
	}
}

func TestPeersFile(t *testing.T) {
	path := stopped{servers: 1, fsm: 4, last: 5}.make(t)
	check(t, os.WriteFile(filepath.Join(path, "raft", "peers.json"), []byte("[]"), 0o600))
	if _, err := read(t, Options{Paths: []string{path}}); !errors.Is(err, ErrPeersFile) {
		t.Errorf("%v, want ErrPeersFile", err)
	}
}

// TestUntouched wants the directory to be byte for byte what it was.
func TestUntouched(t *testing.T) {
	path := stopped{servers: 1, fsm: 4, last: 50}.make(t)
	before := contents(t, path)
	if _, err := read(t, Options{Paths: []string{path}}); err != nil {
		t.Fatal(err)
	}
	if !maps.Equal(before, contents(t, path)) {
		t.Error("reading has changed the directory")
	}
}

func source(t testing.TB, o Options) *Source {
	t.Helper()
	if o.Dial == nil {
		o.Dial = func(context.Context, string) error { return io.EOF }
	}
	s, err := New(o)
	check(t, err)
	return s
}

// read returns all entries, both page by page and as a stream, which must be the same.
func read(t *testing.T, o Options) (map[string]string, error) {
	t.Helper()
	s := source(t, o)
	if _, err := s.Open(t.Context()); err != nil {
		return nil, err
	}
	defer s.Close()
	spans, err := s.Split(t.Context(), 3)
	check(t, err)
	out := map[string]string{}
	for len(spans) > 0 {
		var b copier.Batch
		page, err := s.Read(t.Context(), spans[0], &b)
		check(t, err)
		for i := range b.Len() {
			out[string(b.Entry(i).Key)] = string(b.Entry(i).Value)
		}
		spans = append(spans[1:], page.Next...)
	}
	stream, err := s.Stream(t.Context())
	check(t, err)
	streamed, last := map[string]string{}, ""
	for {
		e, err := stream.Next()
		if err == io.EOF {
			break
		}
		check(t, err)
		if string(e.Key) <= last {
			t.Fatalf("key %q behind key %q", e.Key, last)
		}
		last = string(e.Key)
		streamed[last] = string(e.Value)
	}
	if !maps.Equal(out, streamed) {
		t.Errorf("%d entries by spans, %d by the stream", len(out), len(streamed))
	}
	return out, nil
}

// A stopped is a node that was stopped: its vault.db has the entries of its log up to fsm,
// and its log goes up to last. Entry i puts key i/2, with i as its value; each fifth deletes it.
type stopped struct {
	servers   int
	fsm, last uint64
	term      uint64 // of its last entries; 0 means 2
	prefix    string // of the servers' names
	nonVoter  bool
	id        string // in its file node-id
}

func (s stopped) key(i uint64) string { return fmt.Sprintf("logical/%04d", i/2) }

// entries is what the node holds.
func (s stopped) entries() map[string]string { return s.upTo(s.last) }

func (s stopped) upTo(last uint64) map[string]string {
	out := map[string]string{"core/lock": "x", "core/migration": "x", "raftchunking/7/0": "half", "core/keyring": "k"}
	for i := uint64(1); i <= last; i++ {
		if i%5 == 0 {
			delete(out, s.key(i))
		} else {
			out[s.key(i)] = fmt.Sprint("value ", i)
		}
	}
	return out
}

func (s stopped) make(t testing.TB) string {
	t.Helper()
	path := t.TempDir()
	check(t, os.MkdirAll(filepath.Join(path, "raft"), 0o700))
	if s.id != "" {
		check(t, os.WriteFile(filepath.Join(path, "node-id"), []byte(s.id), 0o600))
	}
	number := func(out []byte, n protowire.Number, v uint64) []byte {
		return protowire.AppendVarint(protowire.AppendTag(out, n, protowire.VarintType), v)
	}
	text := func(out []byte, n protowire.Number, v string) []byte {
		return protowire.AppendString(protowire.AppendTag(out, n, protowire.BytesType), v)
	}
	if s.term == 0 {
		s.term = 2
	}
	if s.prefix == "" {
		s.prefix = "node"
	}
	config := map[string][]byte{"latest_indexes": number(number(nil, 1, 1), 2, s.fsm), "latest_config": number(nil, 1, 1)}
	for i := range s.servers {
		server := text(text(nil, 2, fmt.Sprint(s.prefix, i+1)), 3, fmt.Sprintf("127.0.0.1:%d", i+1))
		config["latest_config"] = text(config["latest_config"], 2, string(server))
	}
	if s.nonVoter {
		config["local_node_config"] = text(nil, 1, "non-voter")
	}
	db, err := bolt.Open(filepath.Join(path, "vault.db"), 0o600, &bolt.Options{NoFreelistSync: true, NoSync: true})
	check(t, err)
	check(t, db.Update(func(tx *bolt.Tx) error {
		b, err := tx.CreateBucket([]byte("config"))
		check(t, err)
		for k, v := range config {
			check(t, b.Put([]byte(k), v))
		}
		b, err = tx.CreateBucket([]byte("data"))
		check(t, err)
		entries := s.upTo(s.fsm)
		for _, k := range slices.Sorted(maps.Keys(entries)) {
			check(t, b.Put([]byte(k), []byte(entries[k])))
		}
		return nil
	}))
	check(t, db.Close())
	log, err := raftboltdb.New(raftboltdb.Options{Path: filepath.Join(path, "raft", "raft.db"), NoSync: true, MsgpackUseNewTimeFormat: true})
	check(t, err)
	var all []*raft.Log
	for i := uint64(1); i <= s.last; i++ {
		op := text(text(number(nil, 1, 2), 3, s.key(i)), 4, fmt.Sprint("value ", i))
		if i%5 == 0 {
			op = text(number(nil, 1, 1), 3, s.key(i))
		}
		l := &raft.Log{Index: i, Term: 1, Data: text(nil, 1, string(op))}
		if i > s.last/2 {
			l.Term = s.term
		}
		all = append(all, l)
	}
	check(t, log.StoreLogs(all))
	check(t, log.Close())
	return path
}

func contents(t testing.TB, dir string) map[string]string {
	t.Helper()
	out := map[string]string{}
	check(t, filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() {
			var b []byte
			b, err = os.ReadFile(path)
			out[path] = string(b)
		}
		return err
	}))
	return out
}

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
