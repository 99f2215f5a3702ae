package raft

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"go.etcd.io/bbolt"

	"github.com/dyn2raft/dyn2raft/copier"
	"github.com/dyn2raft/dyn2raft/copier/durable"
	"github.com/dyn2raft/dyn2raft/copier/durable/durabletest"
)

// A model is what a stage must hold.
type model map[string]string

func (m model) entries() (out []copier.Entry) {
	for _, key := range slices.Sorted(maps.Keys(m)) {
		out = append(out, copier.Entry{Key: []byte(key), Value: []byte(m[key])})
	}
	return out
}

// random returns changes of a model, new keys among them, and makes them.
func (m model) random(rnd *rand.Rand, n int) (changes []copier.Change, old model) {
	keys := slices.Sorted(maps.Keys(m))
	old = model{}
	seen := map[string]bool{}
	for range n {
		key := fmt.Sprintf("sys/token/id/h%06d", rnd.IntN(4000))
		if rnd.IntN(3) > 0 && len(keys) > 0 {
			key = keys[rnd.IntN(len(keys))]
		}
		if rnd.IntN(40) == 0 {
			key = fmt.Sprintf("%s/%0*d", key, 1+rnd.IntN(900), rnd.IntN(9))
		}
		if seen[key] {
			continue
		}
		seen[key] = true
		if v, ok := m[key]; ok {
			old[key] = v
		}
		if rnd.IntN(3) == 0 {
			changes = append(changes, copier.Change{Entry: copier.Entry{Key: []byte(key)}, Gone: true})
			delete(m, key)
			continue
		}
		size := rnd.IntN(1200)
		switch rnd.IntN(20) {
		case 0:
			size = 0
		case 1:
			size = rnd.IntN(40_000)
		}
		value := strings.Repeat(string(rune('a'+rnd.IntN(26))), size)
		changes = append(changes, copier.Change{Entry: copier.Entry{Key: []byte(key), Value: []byte(value)}})
		m[key] = value
	}
	return changes, old
}

// all is what a stage's reader reads, and that it finds it sound.
func all(t testing.TB, s copier.Stage) model {
	t.Helper()
	r, err := s.Reader(t.Context())
	check(t, err)
	_, err = r.Open(t.Context())
	check(t, err)
	defer func() { check(t, r.Close()) }()
	out := model{}
	spans, err := r.Split(t.Context(), 3)
	check(t, err)
	for len(spans) > 0 {
		var b copier.Batch
		page, err := r.Read(t.Context(), spans[0], &b)
		check(t, err)
		for i := range b.Len() {
			e := b.Entry(i)
			if _, twice := out[string(e.Key)]; twice {
				t.Errorf("%s is read twice", e.Key)
			}
			out[string(e.Key)] = string(e.Value)
		}
		spans = append(page.Next, spans[1:]...)
	}
	check(t, r.(copier.Rechecker).Recheck(t.Context()))
	return out
}

// stageOf is a stage that the entries are loaded into.
func stageOf(t testing.TB, o Options, entries []copier.Entry) *process {
	t.Helper()
	p := mustOpen(t, o)
	_, err := p.Load(t.Context(), &sliceStream{entries: entries})
	check(t, err)
	return p
}

func (p *process) stage() *stage { return p.Loader.(*stage) }

// apply makes changes, and checks what it is told of those that were there before.
func (p *process) apply(t testing.TB, changes []copier.Change, old model, mark string) {
	t.Helper()
	check(t, p.stage().Apply(t.Context(), changes, func(had []copier.Entry) ([]byte, error) {
		got := model{}
		for _, e := range had {
			got[string(e.Key)] = string(e.Value)
		}
		if len(got) != len(had) || !maps.Equal(got, old) {
			t.Errorf("%d entries were there before, want %d", len(had), len(old))
		}
		return []byte(mark), nil
	}))
}

// after is what Delta makes of what was there.
func (p *process) after(t testing.TB, was model) model {
	t.Helper()
	out := maps.Clone(was)
	var there []copier.Entry
	check(t, p.stage().Delta(t.Context(), func(e copier.Entry) error {
		if v, ok := out[string(e.Key)]; !ok || v != string(e.Value) {
			t.Errorf("%s is said to be gone, and was not there like that", e.Key)
		}
		delete(out, string(e.Key))
		return nil
	}, func(e copier.Entry) error {
		there = append(there, copier.Entry{Key: bytes.Clone(e.Key), Value: bytes.Clone(e.Value)})
		return nil
	}))
	for _, e := range there {
		if _, twice := out[string(e.Key)]; twice {
			t.Errorf("%s is there twice", e.Key)
		}
		out[string(e.Key)] = string(e.Value)
	}
	return out
}

// Whatever is changed, a stage holds what a map does, its mark is the last one, Delta is
// the difference to what was pinned, and all of it is so for a later process too. What is
// committed is a Vault's file.
func TestApplierIsAMap(t *testing.T) {
	for seed := range uint64(6) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			t.Parallel()
			rnd := rand.New(rand.NewPCG(seed, 22))
			o := testOptions(t.TempDir())
			if seed%2 == 1 {
				o.NodeID = "" // it makes one
			}
			m := model{}
			m.random(rnd, rnd.IntN(3000))
			p := stageOf(t, o, m.entries())
			p.stage().ahead = 1 << (15 + rnd.IntN(12)) // and the map grows at times
			var pinned model
			mark := ""
			for step := range 40 {
				switch rnd.IntN(8) {
				case 0: // another process
					if mark == "" {
						continue
					}
					id := p.NodeID()
					check(t, p.Close(true))
					p, pinned = mustOpen(t, o), nil
					p.stage().ahead = 1 << 16
					if p.NodeID() != id {
						t.Fatalf("the node's id was %s, and is %s", id, p.NodeID())
					}
				case 1: // what Delta has read need not be read again
					moved := pinned != nil && p.stage().Pinned() && rnd.IntN(2) == 0
					if err := p.stage().Pin(t.Context()); err != nil {
						t.Fatal(err)
					}
					if pinned = maps.Clone(m); moved {
						continue
					}
					if got := all(t, p); !maps.Equal(got, m) || !p.stage().Pinned() {
						t.Fatalf("step %d: what is pinned has %d entries, want %d", step, len(got), len(m))
					}
				case 2: // and it follows on
					check(t, p.stage().Finish(t.Context()))
					if pinned != nil && p.stage().Pinned() && !maps.Equal(p.after(t, pinned), m) {
						t.Fatalf("step %d: finished, Delta leads elsewhere", step)
					}
				default:
					n := 1 + rnd.IntN(60)
					if rnd.IntN(6) == 0 {
						n = 2000
					}
					changes, old := m.random(rnd, n)
					mark = fmt.Sprint("mark ", step)
					p.apply(t, changes, old, mark)
				}
				if got, err := p.stage().Mark(t.Context()); err != nil || string(got) != mark {
					t.Fatalf("step %d: the mark is %q, want %q, %v", step, got, mark, err)
				}
				if pinned != nil && p.stage().Pinned() && !maps.Equal(p.after(t, pinned), m) {
					t.Fatalf("step %d: Delta leads elsewhere", step)
				}
			}
			if got := all(t, p); !maps.Equal(got, m) {
				t.Fatalf("it has %d entries, want %d", len(got), len(m))
			}
			check(t, p.stage().Finish(t.Context()))
			check(t, errors.Join(p.commit(t.Context()), p.Close(false)))
			if got, _, err := inPlace(o.Path); err != nil || !maps.Equal(modelOf(got), m) {
				t.Errorf("in place are %d entries, want %d, %v", len(got), len(m), err)
			}
			if err := inspectBuckets(filepath.Join(o.Path, vaultDBName)); err != nil {
				t.Error(err)
			}
		})
	}
}

func modelOf(entries []copier.Entry) model {
	m := model{}
	for _, e := range entries {
		m[string(e.Key)] = string(e.Value)
	}
	return m
}

// inspectBuckets has bbolt check a file, and reports a bucket that no Vault has.
func inspectBuckets(path string) error {
	db, err := bbolt.Open(path, 0o600, &bbolt.Options{ReadOnly: true})
	if err != nil {
		return err
	}
	err = db.View(func(tx *bbolt.Tx) error {
		var errs []error
		for err := range tx.Check() {
			errs = append(errs, err)
		}
		return errors.Join(append(errs, tx.ForEach(func(name []byte, _ *bbolt.Bucket) error {
			if string(name) != dataBucketName && string(name) != configBucketName {
				return fmt.Errorf("it has a bucket %s", name)
			}
			return nil
		}))...)
	})
	return errors.Join(err, db.Close())
}

// one is a change of one entry.
func one(key, value string) []copier.Change {
	return []copier.Change{{Entry: copier.Entry{Key: []byte(key), Value: []byte(value)}}}
}

func marks(mark string) func([]copier.Entry) ([]byte, error) {
	return func([]copier.Entry) ([]byte, error) { return []byte(mark), nil }
}

// A pin does not keep the map from growing, for which bbolt would wait without an end.
func TestApplierMapGrows(t *testing.T) {
	p := stageOf(t, testOptions(t.TempDir()), testEntries(100))
	s := p.stage()
	s.ahead = 64 << 20
	check(t, s.Pin(t.Context()))
	calls := 0
	big := strings.Repeat("v", 4<<20)
	for i := 0; s.Pinned(); i++ {
		calls = 0
		check(t, s.Apply(t.Context(), one(fmt.Sprint("big/", i), big), func([]copier.Entry) ([]byte, error) { calls++; return []byte("m"), nil }))
		if i > 100 {
			t.Fatal("the map never grew")
		}
	}
	if calls != 1 {
		t.Errorf("update was called %d times by the Apply that let go of the pin", calls)
	}
	if err := s.Delta(t.Context(), nil, nil); !errors.Is(err, copier.ErrDestination) {
		t.Errorf("Delta without a pin: %v", err)
	}
	check(t, s.Pin(t.Context()))
	check(t, s.Apply(t.Context(), one("more", "v"), marks("m")))
	if !s.Pinned() {
		t.Error("a new pin has no room")
	}
	check(t, p.Close(false))
}

// What update refuses is not done, and neither is what can't be written.
func TestApplyRefused(t *testing.T) {
	p := stageOf(t, testOptions(t.TempDir()), testEntries(20))
	s, want := p.stage(), modelOf(testEntries(20))
	refused := errors.New("refused")
	if err := s.Apply(t.Context(), one("a", "1"), func([]copier.Entry) ([]byte, error) { return nil, refused }); err != refused { //nolint:errorlint // as it is
		t.Errorf("update's error comes back as %v", err)
	}
	for name, c := range map[string]struct {
		changes []copier.Change
		mark    string
	}{"no mark": {one("a", "1"), ""}, "no key": {append(one("a", "1"), one("", "1")...), "m"}, "a long key": {one(strings.Repeat("k", 40_000), ""), "m"}} {
		if err := s.Apply(t.Context(), c.changes, marks(c.mark)); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	for _, err := range []error{s.Apply(ctx, nil, marks("m")), s.Pin(ctx), s.Finish(ctx)} {
		if !errors.Is(err, context.Canceled) {
			t.Errorf("with a context that is over: %v", err)
		}
	}
	if mark, err := s.Mark(t.Context()); mark != nil || err != nil {
		t.Errorf("the mark is %q, %v", mark, err)
	}
	if got := all(t, p); !maps.Equal(got, want) {
		t.Errorf("there are %d entries, want %d", len(got), len(want))
	}
	check(t, p.Close(true))
	p = mustOpen(t, testOptions(p.opts.Path)) // and without a mark it does not stay
	if got := names(t, p.aside("")); !slices.Equal(got, []string{workName}) {
		t.Errorf("what has no mark is still there: %q", got)
	}
	if err := p.stage().Apply(t.Context(), one("a", "1"), marks("m")); !errors.Is(err, copier.ErrDestination) {
		t.Errorf("Apply to nothing: %v", err)
	}
	check(t, p.Close(false))
}

// An entry that is larger than Vault writes one is warned of.
func TestApplyWarnsOfLarge(t *testing.T) {
	o := testOptions(t.TempDir())
	var got []string
	o.MaxEntrySize, o.Notify = 1000, func(e copier.Event) {
		if w, ok := e.(copier.Warning); ok {
			got = append(got, w.Message)
		}
	}
	p := stageOf(t, o, nil)
	check(t, p.stage().Apply(t.Context(), append(one("small", "v"), one("large/one", strings.Repeat("v", 1000))...), marks("m")))
	if len(got) != 1 || !strings.Contains(got[0], "large/one") {
		t.Errorf("warnings: %q", got)
	}
	check(t, p.Close(false))
}

// What is staged with a mark is another run's, or another node's: it goes.
func TestStageOfAnother(t *testing.T) {
	for name, change := range map[string]func(o *Options, run *string){
		"run":     func(_ *Options, run *string) { *run = "run-2" },
		"node":    func(o *Options, _ *string) { o.NodeID = "node-2" },
		"address": func(o *Options, _ *string) { o.Address = "10.0.0.2:8201" },
	} {
		t.Run(name, func(t *testing.T) {
			o, run := testOptions(t.TempDir()), "run-1"
			p := stageOf(t, o, testEntries(20))
			check(t, p.stage().Apply(t.Context(), one("a", "1"), marks("m")))
			check(t, p.Close(true))
			change(&o, &run)
			sink, err := New(o)
			check(t, err)
			_, err = sink.Open(t.Context())
			check(t, err)
			if there, err := durable.Exists(sink.aside(vaultDBName)); !there || err != nil {
				t.Errorf("Open has removed it, %v", err)
			}
			st, err := sink.Stage(t.Context(), run)
			check(t, err)
			if mark, err := st.(copier.Applier).Mark(t.Context()); mark != nil || err != nil {
				t.Errorf("it has the mark %q, %v", mark, err)
			}
			if got := names(t, sink.aside("")); !slices.Equal(got, []string{workName}) {
				t.Errorf("there is still %q", got)
			}
			check(t, errors.Join(st.Close(false), sink.Close()))
		})
	}
}

// A process that is killed at any step of the end leaves what the next one finishes, with
// the mark that was the last, or what is committed.
func TestApplierKilled(t *testing.T) {
	t.Parallel()
	for _, nodeID := range []string{"node-1", ""} {
		for kill, done := 0, false; !done; kill++ {
			o := testOptions(t.TempDir())
			o.NodeID = nodeID
			killed := errors.New("killed")
			n := -1
			var last string
			with := o
			with.Disk = hooked(func(op string) error {
				if n < 0 {
					return nil
				}
				if n++; n > kill {
					return killed
				}
				last = op
				return nil
			})
			p := stageOf(t, with, testEntries(50))
			s, m := p.stage(), modelOf(testEntries(50))
			changes, old := m.random(rand.New(rand.NewPCG(1, 1)), 80)
			p.apply(t, changes, old, "m1")
			check(t, s.Pin(t.Context()))
			id := p.NodeID()
			n = 0
			before := maps.Clone(m)
			changes, _ = m.random(rand.New(rand.NewPCG(2, 2)), 80)
			err := s.Apply(t.Context(), changes, marks("m2"))
			if err == nil {
				err = s.Finish(t.Context())
			}
			if err == nil {
				err = p.commit(t.Context())
			}
			if done = err == nil; !done && !errors.Is(err, killed) {
				t.Fatal(err)
			}
			_ = s.closeDB() // as the end of the process does
			s.unpin()
			check(t, p.Sink.Close())

			p, err = open(o)
			if errors.Is(err, copier.ErrInPlace) {
				if got, _, err := inPlace(o.Path); err != nil || !maps.Equal(modelOf(got), m) || p.NodeID() != id {
					t.Errorf("after %s: in place are %d entries of node %s, want %d of %s, %v", last, len(got), p.NodeID(), len(m), id, err)
				}
				check(t, p.Close(false))
				if done && kill < 12 {
					t.Errorf("only %d steps", kill)
				}
				continue
			}
			check(t, err)
			mark, _ := p.stage().Mark(t.Context())
			got := all(t, p)
			switch {
			case string(mark) == "m1" && !maps.Equal(got, before), string(mark) == "m2" && !maps.Equal(got, m), len(mark) == 0:
				t.Fatalf("after %s: the mark is %q, with %d entries", last, mark, len(got))
			case string(mark) == "m1":
				check(t, p.stage().Apply(t.Context(), changes, marks("m2")))
			}
			check(t, p.stage().Finish(t.Context()))
			check(t, p.commit(t.Context()))
			if got, _, err := inPlace(o.Path); err != nil || !maps.Equal(modelOf(got), m) || p.NodeID() != id {
				t.Errorf("after %s: committed are %d entries of node %s, want %d of %s, %v", last, len(got), p.NodeID(), len(m), id, err)
			}
			check(t, p.Close(false))
		}
	}
}

// At a loss of power in a transaction, any of the pages that it has written may be there;
// once they are synced, the meta page is there, or not, or torn.
func TestApplierPowerLoss(t *testing.T) {
	rnd := rand.New(rand.NewPCG(7, 7))
	o := testOptions(t.TempDir())
	m := modelOf(testEntries(300))
	p := stageOf(t, o, m.entries())
	changes, old := m.random(rnd, 100)
	p.apply(t, changes, old, "m1")
	path := p.aside(vaultDBName)
	read := func() []byte {
		data, err := os.ReadFile(path)
		check(t, err)
		return data
	}
	was, before := maps.Clone(m), read()
	changes, old = m.random(rnd, 300)
	p.apply(t, changes, old, "m2")
	after := read()
	check(t, p.Close(true))
	page := os.Getpagesize()
	for i := range 60 {
		data := bytes.Clone(before)
		whole := i%2 == 0
		if whole { // all but the meta pages is synced
			data = bytes.Clone(after)
			copy(data, before[:2*page])
		}
		for at := 2 * page; at < len(after) && !whole; at += page {
			part := at + page
			switch rnd.IntN(3) {
			case 0:
				continue
			case 1:
				part = at + rnd.IntN(page)
			}
			if part > len(data) {
				data = append(data, make([]byte, part-len(data))...)
			}
			copy(data[at:part], after[at:part])
		}
		torn := 0
		if whole {
			torn = rnd.IntN(200) // of both, though one of them alone differs
			for _, at := range []int{0, page} {
				copy(data[at:at+torn], after[at:at+torn])
			}
		}
		check(t, os.WriteFile(path, data, 0o600))
		p := mustOpen(t, o)
		mark, err := p.stage().Mark(t.Context())
		check(t, err)
		want := map[string]model{"m1": was, "m2": m}[string(mark)]
		if want == nil || !whole && string(mark) != "m1" {
			t.Fatalf("case %d: the mark is %q", i, mark)
		}
		// It goes on: the meta page that is torn is replaced by that.
		p.apply(t, nil, model{}, "m3")
		check(t, p.stage().Pin(t.Context()))
		if got := all(t, p); !maps.Equal(got, want) {
			t.Fatalf("case %d: %s has %d entries, want %d", i, mark, len(got), len(want))
		}
		check(t, p.Close(true))
	}
}

// A loss of power on the way from the last changes to the commit leaves what the next
// process finishes. That in a transaction is TestApplierPowerLoss's.
func TestApplierEndPowerLoss(t *testing.T) {
	t.Parallel()
	for at, done := 0, false; !done; at++ {
		for seed := range uint64(2) {
			o := testOptions(t.TempDir())
			o.NodeID = ""
			rec, err := durabletest.New(o.Path)
			check(t, err)
			with := o
			with.Disk = rec.Disk()
			m := modelOf(testEntries(20))
			p := stageOf(t, with, m.entries())
			changes, old := m.random(rand.New(rand.NewPCG(1, 1)), 20)
			p.apply(t, changes, old, "m1")
			check(t, p.stage().Pin(t.Context()))
			before, id := maps.Clone(m), p.NodeID()
			changes, _ = m.random(rand.New(rand.NewPCG(2, 2)), 20)
			rec.FailAt(at)
			err = p.stage().Apply(t.Context(), changes, marks("m2"))
			if err == nil {
				err = p.stage().Finish(t.Context())
			}
			if err == nil {
				err = p.commit(t.Context())
			}
			done = err == nil
			ops := rec.Ops()
			_ = p.stage().closeDB() // as the end of the process does
			p.stage().unpin()
			_ = p.Sink.Close()
			if len(ops) > 0 && ops[len(ops)-1] == "sync vault.db" {
				continue // it was synced in the transaction
			}
			check(t, rec.Lose(rand.New(rand.NewPCG(seed, uint64(at)))))

			p, err = open(o)
			if !errors.Is(err, copier.ErrInPlace) {
				check(t, err)
				mark, _ := p.stage().Mark(t.Context())
				switch string(mark) {
				case "m1":
					if got := all(t, p); !maps.Equal(got, before) {
						t.Fatalf("after %q: there are %d entries, want %d", ops, len(got), len(before))
					}
					check(t, p.stage().Apply(t.Context(), changes, marks("m2")))
				case "m2":
				default:
					t.Fatalf("after %q: the mark is %q", ops, mark)
				}
				check(t, p.stage().Finish(t.Context()))
				check(t, p.commit(t.Context()))
			}
			if got, _, err := inPlace(o.Path); err != nil || !maps.Equal(modelOf(got), m) || p.NodeID() != id {
				t.Errorf("after %q: in place are %d entries of node %s, want %d of %s, %v", ops, len(got), p.NodeID(), len(m), id, err)
			}
			check(t, p.Close(false))
		}
		if done && at < 15 {
			t.Errorf("only %d operations", at)
		}
	}
}

// Damage of what Delta walks, and of what a later process opens, is said to be that.
func TestApplierDamage(t *testing.T) {
	m := modelOf(testEntries(400))
	p := stageOf(t, testOptions(t.TempDir()), m.entries())
	s := p.stage()
	check(t, s.Pin(t.Context()))
	changes, old := m.random(rand.New(rand.NewPCG(3, 3)), 5)
	changes = append(changes, one("logical/here", "a value that is unique")...)
	p.apply(t, changes, old, "m")
	check(t, s.Finish(t.Context()))
	path := s.aside(vaultDBName)
	data, err := os.ReadFile(path)
	check(t, err)
	at := bytes.Index(data, []byte("logical/herea value that is unique"))
	page := at / os.Getpagesize() * os.Getpagesize()
	for binary.NativeEndian.Uint64(data[page:]) != uint64(page/os.Getpagesize()) { // it goes on from an earlier one
		page -= os.Getpagesize()
	}
	for name, at := range map[string]int{"the page's id": page, "its flags": page + 8, "its count": page + 10, "a key": at, "where it begins": page + 16 + 4} {
		data[at] ^= 0x40
		check(t, os.WriteFile(path, data, 0o600))
		none := func(copier.Entry) error { return nil }
		if err := s.Delta(t.Context(), none, none); !errors.Is(err, copier.ErrReadBack) || !errors.Is(err, copier.ErrDestination) {
			t.Errorf("%s: %v", name, err)
		}
		data[at] ^= 0x40
	}
	check(t, os.WriteFile(path, data, 0o600))
	if !maps.Equal(p.after(t, modelOf(testEntries(400))), func() model { m["logical/here"] = "a value that is unique"; return m }()) {
		t.Error("undamaged, Delta leads elsewhere")
	}
	data[page+8] ^= 0x40
	check(t, os.WriteFile(path, data, 0o600))
	check(t, p.Close(true))
	p = mustOpen(t, testOptions(p.opts.Path))
	if err := p.stage().Apply(t.Context(), nil, marks("m")); !errors.Is(err, copier.ErrReadBack) {
		t.Errorf("a later process: %v", err)
	}
	check(t, p.Close(false))
}
