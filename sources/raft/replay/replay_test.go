package replay

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/go-msgpack/v2/codec"
	"github.com/hashicorp/raft"
	raftboltdb "github.com/hashicorp/raft-boltdb/v2"
	wal "github.com/hashicorp/raft-wal"
	"github.com/hashicorp/raft-wal/metadb"
	"github.com/hashicorp/raft-wal/types"
	"go.uber.org/goleak"
	"google.golang.org/protobuf/encoding/protowire"

	"github.com/dyn2raft/dyn2raft/copier"
	"github.com/dyn2raft/dyn2raft/sources/raft/vaultdb"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var stores = []string{"raft.db", "wal"}

// TestAgainstLibraries writes logs with the libraries that Vault writes them with, and
// compares their tails with a map that went through the same.
func TestAgainstLibraries(t *testing.T) {
	for _, store := range stores {
		t.Run(store, func(t *testing.T) {
			for seed := range uint64(20) {
				h := live(seed)
				path := write(t, store, h.log)
				for _, applied := range []uint64{h.log[0].Index - 1, h.middle(), h.last().Index, h.last().Index + 5} {
					tail, err := Read(t.Context(), path, applied)
					if err != nil {
						t.Fatalf("seed %d, vault.db at %d: %v", seed, applied, err)
					}
					want := h.after(applied)
					if !maps.EqualFunc(tail.Changes, want.changes, func(a, b Change) bool {
						return a.Deleted == b.Deleted && bytes.Equal(a.Value, b.Value)
					}) || tail.Puts != want.puts || tail.Deletes != want.deletes {
						t.Errorf("seed %d, vault.db at %d: %d changes, %d puts and %d deletes, want %d, %d and %d", seed, applied,
							len(tail.Changes), tail.Puts, tail.Deletes, len(want.changes), want.puts, want.deletes)
					}
					if tail.First != h.log[0].Index || tail.Last != h.last().Index || tail.LastTerm != h.last().Term || tail.Torn {
						t.Errorf("seed %d: the log is said to be %d to %d, term %d (torn: %t)", seed, tail.First, tail.Last, tail.LastTerm, tail.Torn)
					}
					if !slices.Equal(tail.Servers, h.servers) {
						t.Errorf("seed %d: the servers are %v, want %v", seed, tail.Servers, h.servers)
					}
				}
			}
		})
	}
}

// TestCut compacts logs, and cuts their ends off, as a leader has it done.
func TestCut(t *testing.T) {
	for _, store := range stores {
		t.Run(store, func(t *testing.T) {
			h := history{}
			for i := range 400 {
				h.command(1, op(putOp, fmt.Sprint("key ", i), bytes.Repeat([]byte("v"), 300)))
			}
			path := write(t, store, h.log, [2]uint64{1, 100}, [2]uint64{351, 400})
			tail, err := Read(t.Context(), path, 120)
			if err != nil {
				t.Fatal(err)
			}
			if tail.First != 101 || tail.Last != 350 || len(tail.Changes) != 230 {
				t.Errorf("entries %d to %d with %d changes, want 101 to 350 with 230", tail.First, tail.Last, len(tail.Changes))
			}
			if _, err := Read(t.Context(), path, 99); !errors.Is(err, ErrGap) || !errors.Is(err, copier.ErrSource) {
				t.Errorf("a log that begins behind the entry that comes next: %v, want ErrGap", err)
			}
		})
	}
}

// TestSentSnapshot has the raft.db of a node that was sent a snapshot: what it had before
// stays in it, and belongs to another life.
func TestSentSnapshot(t *testing.T) {
	var b bytes.Buffer
	check(t, codec.NewEncoder(&b, &codec.MsgpackHandle{}).Encode(raft.Configuration{Servers: []raft.Server{{ID: "itself"}}}))
	h := history{}
	h.add(raft.Log{Term: 5, Type: raft.LogConfiguration, Data: b.Bytes()})
	h.chunk(5, 7, 0, 2, op(putOp, "stale", []byte("x")))
	h.next = 46
	h.command(3, op(putOp, "in vault.db", []byte("1")))
	h.command(3, op(putOp, "behind it", []byte("2")))
	path := write(t, "raft.db", h.log)
	for _, applied := range []uint64{46, 47, 48} {
		tail, err := Read(t.Context(), path, applied)
		if err != nil || tail.First != 47 || tail.Last != 48 || tail.LastTerm != 3 || tail.Puts != int64(48-applied) || tail.ConfigIndex != 0 || tail.Servers != nil {
			t.Errorf("vault.db at %d: %+v, %v", applied, tail, err)
		}
	}
	if _, err := Read(t.Context(), path, 45); !errors.Is(err, ErrGap) {
		t.Errorf("vault.db lacks entry 46, as the log does: %v, want ErrGap", err)
	}
	h.chunk(3, 7, 1, 2, []byte("y"))
	if _, err := Read(t.Context(), write(t, "raft.db", h.log), 48); !errors.Is(err, ErrGap) {
		t.Errorf("the last chunk behind the snapshot, the first of another life: %v, want ErrGap", err)
	}
}

func TestRefused(t *testing.T) {
	put := op(putOp, "a", []byte("1"))
	for name, c := range map[string]struct {
		want error
		log  func(*history)
	}{
		"an unknown code":                   {ErrUnknown, func(h *history) { h.command(1, op(1<<5, "a", nil)) }},
		"no code":                           {ErrUnknown, func(h *history) { h.command(1, op(0, "a", nil)) }},
		"flags":                             {ErrUnknown, func(h *history) { h.command(1, protowire.AppendVarint(append(bytes.Clone(put), 2<<3), 7)) }},
		"a field that is not known":         {ErrUnknown, func(h *history) { h.command(1, protowire.AppendVarint(append(bytes.Clone(put), 9<<3), 7)) }},
		"half a message":                    {vaultdb.ErrDamaged, func(h *history) { h.add(raft.Log{Term: 1, Data: []byte{1<<3 | 2, 200}}) }},
		"a type that Vault's Raft has not":  {ErrUnknown, func(h *history) { h.add(raft.Log{Term: 1, Type: raft.LogAddPeerDeprecated}) }},
		"a term that is less than the last": {vaultdb.ErrDamaged, func(h *history) { h.command(3, put); h.command(2, put) }},
		"a hole":                            {ErrGap, func(h *history) { h.command(1, put); h.next++; h.command(1, put) }},
		"a configuration that is none":      {vaultdb.ErrDamaged, func(h *history) { h.add(raft.Log{Term: 1, Type: raft.LogConfiguration, Data: []byte{0xc1}}) }},
		"the last chunk alone":              {ErrGap, func(h *history) { h.chunk(1, 7, 2, 3, []byte("x")) }},
		"the last chunk, the others of a term before": {ErrGap, func(h *history) {
			h.chunk(1, 7, 0, 2, []byte("x"))
			h.chunk(2, 7, 1, 2, []byte("x"))
		}},
		"a chunk twice":              {vaultdb.ErrDamaged, func(h *history) { h.chunk(1, 7, 0, 3, nil); h.chunk(1, 7, 0, 3, nil) }},
		"chunks of another number":   {vaultdb.ErrDamaged, func(h *history) { h.chunk(1, 7, 0, 3, nil); h.chunk(1, 7, 1, 2, nil) }},
		"chunk 3 of 3":               {vaultdb.ErrDamaged, func(h *history) { h.chunk(1, 7, 3, 3, nil) }},
		"more chunks than there are": {vaultdb.ErrDamaged, func(h *history) { h.chunk(1, 7, 0, 1<<40, nil) }},
	} {
		t.Run(name, func(t *testing.T) {
			h := history{}
			h.command(1, op(putOp, "before", []byte("x")))
			c.log(&h)
			r := &reader{Tail: Tail{Changes: map[string]Change{}}, operations: map[operation]*chunks{}}
			var err error
			for i := range h.log {
				err = errors.Join(err, r.add(&h.log[i]))
			}
			if !errors.Is(err, c.want) {
				t.Errorf("%v, want %v", err, c.want)
			}
		})
	}
}

// TestUnfinishedOperation has an operation whose last chunk never came: nobody was told
// that it was written.
func TestUnfinishedOperation(t *testing.T) {
	h := history{}
	h.chunk(1, 7, 0, 2, []byte("a half"))
	h.command(2, op(putOp, "a", []byte("1")))
	tail, err := Read(t.Context(), write(t, "raft.db", h.log), 0)
	if err != nil || len(tail.Changes) != 1 || string(tail.Changes["a"].Value) != "1" {
		t.Errorf("%v (%v), want a alone", tail, err)
	}
}

// TestDamage changes each byte of a segment: what is read is an error, is said to be torn,
// or is what was written.
func TestDamage(t *testing.T) {
	h := history{}
	for i := range 8 {
		h.command(1, op(putOp, fmt.Sprint("key ", i), []byte("value")))
	}
	path := write(t, "wal", h.log)
	want, err := Read(t.Context(), path, 0)
	if err != nil || want.Last != 8 {
		t.Fatalf("%v, %v", want, err)
	}
	file, data := segmentOf(t, path)
	told := 0
	for i := range data {
		if i > 4096 && data[i] == 0 && i%4096 != 0 { // the zeros behind the end are many
			continue
		}
		damaged := bytes.Clone(data)
		damaged[i] ^= 1 << (i % 8)
		check(t, os.WriteFile(file, damaged, 0o600))
		got, err := Read(t.Context(), path, 0)
		switch {
		case err != nil || got.Torn:
			told++
		case got.Last != want.Last || len(got.Changes) != len(want.Changes):
			t.Fatalf("byte %d is changed, and nothing is said: entries up to %d, %d changes", i, got.Last, len(got.Changes))
		}
	}
	if told < 500 {
		t.Errorf("only %d changed bytes were noticed", told)
	}
}

// TestTorn cuts a segment's last batch short, as a loss of power does: all before it is
// there, and that something was, is said.
func TestTorn(t *testing.T) {
	h := history{}
	for i := range 8 {
		h.command(1, op(putOp, fmt.Sprint("key ", i), []byte("value")))
	}
	path := write(t, "wal", h.log)
	file, data := segmentOf(t, path)
	end := len(bytes.TrimRight(data, "\x00"))
	for cut := end - 40; cut < end; cut++ {
		check(t, os.WriteFile(file, append(bytes.Clone(data[:cut]), make([]byte, len(data)-cut)...), 0o600))
		if tail, err := Read(t.Context(), path, 0); err != nil || !tail.Torn || tail.Last != 7 {
			t.Fatalf("cut at %d of %d: %+v, %v, want 7 entries and torn", cut, end, tail, err)
		}
	}
}

func TestNoLog(t *testing.T) {
	if _, err := Read(t.Context(), t.TempDir(), 5); !errors.Is(err, ErrGap) {
		t.Errorf("no log at all: %v, want ErrGap", err)
	}
}

func FuzzCommand(f *testing.F) {
	h := history{}
	h.command(1, op(putOp, "a", []byte("1")), op(deleteOp, "b", nil))
	h.chunk(1, 7, 0, 1, op(putOp, "a", nil))
	for _, l := range h.log {
		f.Add(l.Data, l.Extensions, byte(l.Type))
	}
	f.Fuzz(func(t *testing.T, data, extensions []byte, kind byte) {
		r := &reader{Tail: Tail{Changes: map[string]Change{}}, operations: map[operation]*chunks{}}
		err := r.add(&raft.Log{Index: 1, Term: 1, Type: raft.LogType(kind), Data: data, Extensions: extensions})
		if n := int64(len(r.Changes)); n > r.Puts+r.Deletes || n == 0 && r.Puts+r.Deletes > 0 {
			t.Errorf("%d keys by %d puts and %d deletes (%v)", n, r.Puts, r.Deletes, err)
		}
	})
}

func FuzzSegment(f *testing.F) {
	h := history{}
	for i := range 3 {
		h.command(1, op(putOp, fmt.Sprint("key ", i), []byte("value")))
	}
	_, data := segmentOf(f, write(f, "wal", h.log))
	f.Add(bytes.TrimRight(data, "\x00"), false)
	info := types.SegmentInfo{BaseIndex: 1, MinIndex: 1, ID: binary.LittleEndian.Uint64(data[16:]), Codec: wal.CodecBinaryV1}
	f.Fuzz(func(t *testing.T, b []byte, sealed bool) {
		info := info
		if sealed {
			info.SealTime, info.MaxIndex = time.Unix(1, 0), 3
		}
		last := uint64(0)
		torn, err := readSegment(t.Context(), bytes.NewReader(b), info, func(l *raft.Log) error {
			if l.Index != last+1 {
				t.Errorf("entry %d behind entry %d", l.Index, last)
			}
			last = l.Index
			return nil
		})
		if sealed && err == nil && (torn || last != 3) {
			t.Errorf("a sealed segment of 3 entries is read to entry %d (torn: %t)", last, torn)
		}
	})
}

// A history is a log, and what it does.
type history struct {
	log     []raft.Log
	next    uint64 // beyond its length
	servers []raft.Server
	writes  []written
}

// A written is an operation, by the entry with which it is complete.
type written struct {
	at  uint64
	key string
	Change
}

type outcome struct {
	changes       map[string]Change
	puts, deletes int64
}

func (h *history) last() raft.Log { return h.log[len(h.log)-1] }
func (h *history) middle() uint64 { return h.log[len(h.log)/2].Index }

// after is what the log does behind an index.
func (h *history) after(applied uint64) outcome {
	out := outcome{changes: map[string]Change{}}
	for _, w := range h.writes {
		if w.at <= applied {
			continue
		}
		out.changes[w.key] = w.Change
		if w.Deleted {
			out.deletes++
		} else {
			out.puts++
		}
	}
	return out
}

func (h *history) add(l raft.Log) uint64 {
	h.next++
	l.Index = h.next
	h.log = append(h.log, l)
	return l.Index
}

func (h *history) command(term uint64, ops ...[]byte) uint64 {
	return h.add(raft.Log{Term: term, Data: message(ops...)})
}

func (h *history) chunk(term, number, place, of uint64, data []byte) uint64 {
	var ext []byte
	for i, v := range []uint64{number, place, of} {
		ext = protowire.AppendVarint(protowire.AppendTag(ext, protowire.Number(i+1), protowire.VarintType), v)
	}
	return h.add(raft.Log{Term: term, Data: data, Extensions: ext})
}

// message is a command of some operations.
func message(ops ...[]byte) (out []byte) {
	for _, o := range ops {
		out = protowire.AppendBytes(protowire.AppendTag(out, 1, protowire.BytesType), o)
	}
	return out
}

func op(kind uint64, key string, value []byte) []byte {
	out := protowire.AppendVarint(protowire.AppendTag(nil, 1, protowire.VarintType), kind)
	out = protowire.AppendString(protowire.AppendTag(out, 3, protowire.BytesType), key)
	if value != nil {
		out = protowire.AppendBytes(protowire.AppendTag(out, 4, protowire.BytesType), value)
	}
	return out
}

// live makes a log with all that Vault's has: transactions, chunks among other entries,
// new terms, configurations, entries that do nothing.
func live(seed uint64) *history {
	rnd := rand.New(rand.NewPCG(seed, 1))
	h := &history{next: rnd.Uint64N(3) * 1000}
	term := uint64(1)
	var ops [][]byte
	var pending []written
	make1 := func() {
		key := fmt.Sprintf("logical/%02d", rnd.IntN(40))
		if rnd.IntN(4) == 0 {
			ops, pending = append(ops, op(deleteOp, key, nil)), append(pending, written{key: key, Change: Change{Deleted: true}})
			return
		}
		value := make([]byte, rnd.IntN(300))
		for i := range value {
			value[i] = byte(rnd.Uint32())
		}
		ops, pending = append(ops, op(putOp, key, value)), append(pending, written{key: key, Change: Change{Value: value}})
	}
	done := func(at uint64) {
		for _, w := range pending {
			w.at = at
			h.writes = append(h.writes, w)
		}
		ops, pending = nil, nil
	}
	for range 60 {
		switch rnd.IntN(9) {
		case 0:
			term++
			h.add(raft.Log{Term: term, Type: raft.LogNoop})
		case 1:
			h.add(raft.Log{Term: term, Type: raft.LogBarrier})
		case 2:
			h.servers = append(slices.Clone(h.servers), raft.Server{ID: raft.ServerID(fmt.Sprint("node", len(h.servers))), Address: "127.0.0.1:8201"})
			h.add(raft.Log{Term: term, Type: raft.LogConfiguration, Data: raft.EncodeConfiguration(raft.Configuration{Servers: h.servers})})
		case 3:
			h.add(raft.Log{Term: term, Data: checkpoint})
			h.add(raft.Log{Term: term, Data: checkpoint, Extensions: verifierMagic})
		case 4:
			h.command(term, op(getOp, "logical/1", nil), op(restoreOp, "", nil))
		case 5, 6: // chunks, with other entries between
			for range 1 + rnd.IntN(3) {
				make1()
			}
			data := message(ops...)
			parts, number := 1+rnd.IntN(4), rnd.Uint64()
			var at uint64
			for i := range parts {
				at = h.chunk(term, number, uint64(i), uint64(parts), data[len(data)*i/parts:len(data)*(i+1)/parts])
				if i < parts-1 && rnd.IntN(2) == 0 {
					h.add(raft.Log{Term: term, Type: raft.LogBarrier})
				}
			}
			done(at)
		default:
			for range 1 + rnd.IntN(3) {
				make1()
			}
			done(h.command(term, ops...))
		}
	}
	return h
}

// write writes a log with the library that Vault uses, entry by entry, and cuts ranges
// out of it.
func write(t testing.TB, store string, log []raft.Log, cut ...[2]uint64) string {
	t.Helper()
	path := t.TempDir()
	check(t, os.Mkdir(filepath.Join(path, "raft"), 0o700))
	var logs raft.LogStore
	var end func() error
	if store == "raft.db" {
		db, err := raftboltdb.New(raftboltdb.Options{Path: filepath.Join(path, "raft", store), NoSync: true, MsgpackUseNewTimeFormat: true})
		check(t, err)
		logs, end = db, db.Close
	} else {
		dir := filepath.Join(path, "raft", store)
		check(t, os.Mkdir(dir, 0o700))
		meta := &metadb.BoltMetaDB{}
		w, err := wal.Open(dir, wal.WithMetaStore(meta), wal.WithLogger(hclog.NewNullLogger()), wal.WithSegmentSize(32<<10))
		check(t, err)
		logs, end = w, func() error { return errors.Join(w.Close(), meta.Close()) }
	}
	for i := range log {
		check(t, logs.StoreLog(&log[i]))
	}
	for _, c := range cut {
		check(t, logs.DeleteRange(c[0], c[1]))
	}
	check(t, end())
	return path
}

// segmentOf is the only segment of a log, and what it holds.
func segmentOf(t testing.TB, path string) (string, []byte) {
	t.Helper()
	names, err := filepath.Glob(filepath.Join(path, "raft", "wal", "*.wal"))
	check(t, err)
	if len(names) != 1 {
		t.Fatalf("segments %q, want one", names)
	}
	data, err := os.ReadFile(names[0])
	check(t, err)
	return names[0], data
}

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
