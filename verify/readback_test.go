package verify

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/hashicorp/raft-wal/metadb"
	bolt "go.etcd.io/bbolt"

	"github.com/dyn2raft/dyn2raft/copier"
	"github.com/dyn2raft/dyn2raft/copier/durable"
	"github.com/dyn2raft/dyn2raft/sinks/raft"
	"github.com/dyn2raft/dyn2raft/sources/raft/vaultdb"
)

// A damagedSink damages what it has loaded, as a bad disk or a defect would.
type damagedSink struct {
	*raft.Sink
	damage func(dir string)
}

func (s damagedSink) Stage(ctx context.Context, runID string) (copier.Stage, error) {
	stage, err := s.Sink.Stage(ctx, runID)
	return damagedStage{stage.(copier.Loader), func() { s.damage(filepath.Dir(s.WorkDir())) }}, err
}

type damagedStage struct {
	copier.Loader
	damage func()
}

func (s damagedStage) Load(ctx context.Context, in copier.Stream) (copier.LoadStats, error) {
	stats, err := s.Loader.Load(ctx, in)
	if err == nil {
		s.damage()
	}
	return stats, err
}

// TestReadBack damages a real vault.db between its being written and its being
// put in place: nothing is put in place, and the destination is as it was.
func TestReadBack(t *testing.T) {
	good := some(100)
	big := bytes.Repeat([]byte("v"), 20_000)
	good["sys/big"] = string(big)
	type damage struct {
		f    func(t *testing.T, dir string)
		want error // nil where there is no damage
	}
	raw := func(f func(b []byte) []byte) func(t *testing.T, dir string) {
		return func(t *testing.T, dir string) {
			path := filepath.Join(dir, "vault.db")
			b, err := os.ReadFile(path)
			check(t, err)
			check(t, os.WriteFile(path, f(b), 0o600))
		}
	}
	all := map[string]damage{
		"none":                  {func(*testing.T, string) {}, nil},
		"truncated":             {raw(func(b []byte) []byte { return b[:len(b)-1] }), vaultdb.ErrDamaged},
		"truncated at a page":   {raw(func(b []byte) []byte { return b[:len(b)-os.Getpagesize()] }), vaultdb.ErrDamaged},
		"one bit of a page":     {raw(func(b []byte) []byte { b[dataPage(t, b)] ^= 1; return b }), vaultdb.ErrDamaged},
		"one bit of a value":    {raw(func(b []byte) []byte { b[bytes.Index(b, big[:5000])+100] ^= 1; return b }), copier.ErrReadBack},
		"one bit of a raw key":  {raw(func(b []byte) []byte { b[bytes.LastIndex(b, []byte("core/012/key"))+11] ^= 1; return b }), copier.ErrReadBack},
		"one bit of the node":   {raw(func(b []byte) []byte { b[bytes.LastIndex(b, []byte("node-1"))+5] ^= 1; return b }), vaultdb.ErrRaft},
		"the log is gone":       {func(t *testing.T, dir string) { check(t, os.RemoveAll(filepath.Join(dir, "raft"))) }, vaultdb.ErrRaft},
		"the log is of nothing": {func(t *testing.T, dir string) { check(t, os.Truncate(filepath.Join(dir, "raft", "raft.db"), 0)) }, vaultdb.ErrRaft},
	}
	for name, change := range damages("core/003/key", "sys/005/key") {
		all[name] = damage{func(t *testing.T, dir string) {
			e := good.clone()
			change(e)
			update(t, filepath.Join(dir, "vault.db"), func(tx *bolt.Tx) error {
				b := tx.Bucket([]byte("data"))
				for k := range good {
					if _, ok := e[k]; !ok {
						check(t, b.Delete([]byte(k)))
					}
				}
				for k, v := range e {
					check(t, b.Put([]byte(k), []byte(v)))
				}
				return nil
			})
		}, copier.ErrReadBack}
	}
	for name, c := range all {
		t.Run(name, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "data")
			check(t, os.Mkdir(dir, 0o700))
			sink, err := raft.New(raft.Options{Path: dir, NodeID: "node-1", Address: "127.0.0.1:8201"})
			check(t, err)
			res, err := copier.Copy(t.Context(), sourceOf(good), damagedSink{sink, func(dir string) { c.f(t, dir) }}, copier.Options{
				Uninitialized: true, Memory: copier.MinMemory,
			})
			list, lerr := os.ReadDir(dir)
			check(t, lerr)
			if c.want == nil {
				if err != nil || res.Proof == nil || !res.Complete || len(list) == 0 {
					t.Errorf("undamaged: %+v, %v", res, err)
				}
				return
			}
			if !errors.Is(err, c.want) || !errors.Is(err, copier.ErrDestination) || res.Complete || res.Proof != nil {
				t.Errorf("got %v, complete %v", err, res.Complete)
			}
			if len(list) != 0 {
				t.Errorf("the destination holds %v", list)
			}
			if hint := codeOf(err); hint != copier.NotAsRead {
				t.Errorf("the hint is %q", hint)
			}
		})
	}
}

// Of a log that was just written nothing is believed that is not seen: it has its
// term, no entry, and both of its meta pages.
func TestReadBackOfTheLog(t *testing.T) {
	e := some(10)
	for name, damage := range map[string]func(dir string){
		"one bit of the term": func(dir string) { writeRaftDB(t, dir, raft.FSMTerm|1<<62) },
		"entries in the log":  func(dir string) { appendLogs(t, dir, 5, 9) },
		"another key": func(dir string) {
			update(t, filepath.Join(dir, "raft", "raft.db"), func(tx *bolt.Tx) error {
				return tx.Bucket([]byte("conf")).Put([]byte("LastVoteTerm"), make([]byte, 8))
			})
		},
		"the older meta page": func(dir string) {
			path := filepath.Join(dir, "raft", "raft.db")
			b, err := os.ReadFile(path)
			check(t, err)
			const txid = 16 + 48
			older := 0
			if b[txid] > b[os.Getpagesize()+txid] {
				older = os.Getpagesize()
			}
			b[older+20] ^= 1
			check(t, os.WriteFile(path, b, 0o600))
		},
	} {
		dir := directory(t, e)
		damage(dir)
		if err := checkNew(t, expect(e).Raft, dir); !errors.Is(err, vaultdb.ErrRaft) {
			t.Errorf("%s: read back with %v", name, err)
		}
	}
}

// Every bit of the list of segments of a new write-ahead log, and of where the
// first entry will be.
func TestReadBackOfTheWAL(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "data")
	check(t, os.Mkdir(dir, 0o700))
	sink, err := raft.New(raft.Options{Path: dir, NodeID: "node-1", Address: "127.0.0.1:8201", WAL: true})
	check(t, err)
	_, err = copier.Copy(t.Context(), sourceOf(some(10)), sink, copier.Options{Uninitialized: true, Memory: copier.MinMemory})
	check(t, err)
	wal := filepath.Join(dir, "raft", "wal")
	want := vaultdb.Raft{Index: raft.FSMIndex, Term: raft.FSMTerm, NodeID: "node-1", Address: "127.0.0.1:8201", LogStore: "wal"}
	refused := func(what string) {
		t.Helper()
		if err := checkNew(t, want, dir); !errors.Is(err, vaultdb.ErrRaft) {
			t.Errorf("%s: read back with %v", what, err)
		}
	}
	file := filepath.Join(wal, metadb.FileName)
	good, err := os.ReadFile(file)
	check(t, err)
	begin := bytes.LastIndex(good, []byte(`{"NextSegmentID"`))
	end := begin + bytes.IndexByte(good[begin:], 0)
	created := []byte(`"CreateTime":"`)
	text := good[begin:end]
	time := begin + bytes.Index(text, created) + len(created)
	for i := begin; i < end; i++ {
		if time <= i && i < time+bytes.IndexByte(good[time:], '"') {
			continue // whenever that was
		}
		for bit := range 8 {
			bad := slices.Clone(good)
			bad[i] ^= 1 << bit
			check(t, os.WriteFile(file, bad, 0o600))
			refused(string(bad[begin:end]))
		}
	}
	check(t, os.WriteFile(file, good, 0o600))

	segments, err := filepath.Glob(filepath.Join(wal, "*.wal"))
	check(t, err)
	if len(segments) != 1 {
		t.Fatal(segments)
	}
	for _, at := range []int64{0, 31, 32, 4000} {
		f, err := os.OpenFile(segments[0], os.O_WRONLY, 0)
		check(t, err)
		for _, b := range []byte{1, 0} {
			_, err = f.WriteAt([]byte{b}, at)
			check(t, err)
			if b == 1 {
				refused("a byte of the segment")
			}
		}
		check(t, f.Close())
	}
	check(t, os.WriteFile(filepath.Join(wal, "00000000000000000002-0000000000000001.wal"), nil, 0o600))
	refused("another segment")
	check(t, os.Remove(filepath.Join(wal, "00000000000000000002-0000000000000001.wal")))
	if err := checkNew(t, want, dir); err != nil {
		t.Errorf("undamaged: %v", err)
	}
}

// A copy that was killed behind its commit is resumed: when a Vault has run on it
// since, and when its vault.db was damaged since, and is put aside then.
func TestResumeOfWhatIsInPlace(t *testing.T) {
	e, errAgain := some(20), errors.New("read again")
	newSink := func(dir string, disk *durable.Disk) *raft.Sink {
		s, err := raft.New(raft.Options{Path: dir, NodeID: "node-1", Address: "127.0.0.1:8201", Disk: disk})
		check(t, err)
		return s
	}
	killed := func(t *testing.T) string {
		dir := filepath.Join(t.TempDir(), "data")
		check(t, os.Mkdir(dir, 0o700))
		released := false // from then on nothing is removed any more
		disk := &durable.Disk{Before: func(op durable.Op) error {
			if released && op.Verb == durable.Remove {
				return errors.New("killed")
			}
			return nil
		}}
		res, err := copier.Copy(t.Context(), sourceOf(e), newSink(dir, disk), copier.Options{Uninitialized: true, Memory: copier.MinMemory, Disk: disk,
			Record: func(_ context.Context, r copier.Record) error { released = r.State == copier.Released; return nil }})
		if err != nil || !res.Complete {
			t.Fatal(res, err)
		}
		return dir
	}
	resume := func(t *testing.T, dir string, read error) (copier.Record, []string, error) {
		var warnings []string
		src := sourceThat(e, func(context.Context) error { return read })
		res, err := copier.Copy(t.Context(), src, newSink(dir, nil), copier.Options{Uninitialized: true, Memory: copier.MinMemory, Resume: true, Events: func(ev copier.Event) {
			if w, ok := ev.(copier.Warning); ok {
				warnings = append(warnings, w.Message)
			}
		}})
		return res, warnings, err
	}
	t.Run("used", func(t *testing.T) {
		dir := killed(t)
		setRaft(t, dir, 57, "node-1", "127.0.0.1:8201")
		check(t, os.Chmod(filepath.Join(dir, "raft"), 0o700))
		writeRaftDB(t, dir, 2)
		res, warnings, err := resume(t, dir, errAgain)
		if err != nil || !res.Complete || !res.InPlace || res.Proof == nil || !res.Prefixes.Equal(digestsOf(e)) || len(warnings) != 1 || !strings.Contains(warnings[0], "Vault has run") {
			t.Errorf("%+v, %q, %v", res, warnings, err)
		}
		if _, err := os.Stat(filepath.Join(dir, ".dyn2raft")); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("the work files: %v", err)
		}
	})
	t.Run("used, and nothing applied yet", func(t *testing.T) {
		dir := killed(t)
		check(t, os.Chmod(filepath.Join(dir, "raft"), 0o700))
		writeRaftDB(t, dir, 2)
		appendLogs(t, dir, 3, 3)
		if res, warnings, err := resume(t, dir, errAgain); err != nil || !res.Complete || len(warnings) != 1 {
			t.Errorf("%+v, %q, %v", res, warnings, err)
		}
	})
	t.Run("used, and the work files are gone", func(t *testing.T) {
		dir := killed(t)
		setRaft(t, dir, 57, "node-1", "127.0.0.1:8201")
		writeRaftDB(t, dir, 2)
		check(t, os.RemoveAll(filepath.Join(dir, ".dyn2raft", "work")))
		res, _, err := resume(t, dir, errAgain)
		if err != nil || !res.Complete || res.Proof == nil || !res.Prefixes.Equal(digestsOf(e)) || res.Scan.Entries != int64(len(e)) || len(res.Processes) != 2 || res.Start.After(res.Processes[0].Start) {
			t.Errorf("%v: %+v", err, res)
		}
	})
	t.Run("used, and nobody knows what was read", func(t *testing.T) {
		dir := killed(t)
		setRaft(t, dir, 57, "node-1", "127.0.0.1:8201")
		writeRaftDB(t, dir, 2)
		var kept map[string]map[string]any
		file := filepath.Join(dir, ".dyn2raft", "commit.json")
		check(t, durable.ReadSealed(file, 1<<20, "dyn2raft raft commit", 2, &kept))
		delete(kept["copy"], "prefixes")
		delete(kept["copy"], "total")
		data, err := durable.Seal("dyn2raft raft commit", 2, kept)
		check(t, err)
		check(t, os.WriteFile(file, data, 0o600))
		if res, _, err := resume(t, dir, errAgain); !errors.Is(err, copier.ErrChanged) || res.Complete || codeOf(err) != copier.ResultUsed {
			t.Errorf("%v, %q", err, codeOf(err))
		}
	})
	t.Run("damaged", func(t *testing.T) {
		dir := killed(t)
		file := filepath.Join(dir, "vault.db")
		update(t, file, func(tx *bolt.Tx) error { return tx.Bucket([]byte("data")).Put([]byte("core/000/key"), []byte("other")) })
		_, _, err := resume(t, dir, errAgain)
		if !errors.Is(err, copier.ErrReadBack) || codeOf(err) != copier.ResultDamaged {
			t.Fatalf("%v, %q", err, codeOf(err))
		}
		check(t, os.Rename(file, file+".bad"))
		// It was too short to have saved anything.
		if res, _, err := resume(t, dir, nil); err != nil || res.Proof == nil || !res.Prefixes.Equal(digestsOf(e)) {
			t.Errorf("%+v, %v", res, err)
		}
		if rep, err := CheckManifest(t.Context(), Expected{Digests: digestsOf(e), Raft: vaultdb.Raft{Index: raft.FSMIndex, Term: raft.FSMTerm}}, dir); err != nil || !rep.Equal() {
			t.Errorf("%+v, %v", rep, err)
		}
	})
}
