package copier

import (
	"bytes"
	"context"
	"errors"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/dyn2raft/dyn2raft/copier/durable"
)

// TestUnorderedKilledAtEveryOperation kills a copy to a stage that takes entries in any
// order in front of each of its operations on the disk, and of each Put, and resumes it:
// the result has each entry, and what was on record is not put again.
func TestUnorderedKilledAtEveryOperation(t *testing.T) {
	unnoticed, recorded := 0, 0
	for kill := 0; ; kill++ {
		m := newMachine(t.TempDir(), 7, 3, 80, true)
		m.put = &putStore{entries: map[string][]byte{}, times: map[string]int{}}
		_, err := m.process(t.Context(), kill, Options{}, nil)
		if !m.dead.Load() {
			if err != nil {
				t.Fatal(err)
			}
			if i := slices.IndexFunc(m.ops, func(op string) bool { return strings.HasPrefix(op, "create run-") }); i >= 0 {
				t.Errorf("something was sorted: %s", m.ops[i])
			}
			if err := m.check(); err != nil || len(m.put.entries) > 0 {
				t.Errorf("%d entries are left aside, %v", len(m.put.entries), err)
			}
			break
		}
		killedAt := m.ops[len(m.ops)-1]
		onRecord, before := m.putOnRecord(t), maps.Clone(m.put.times)
		recorded += len(onRecord)
		if _, err := m.process(t.Context(), -1, Options{Resume: true}, nil); err != nil {
			if strings.HasPrefix(err.Error(), "prepare: file already exists") && killedAt == "remove work" {
				continue
			}
			if released := strings.HasSuffix(killedAt, "result.tmp") || killedAt == "rename result"; !released || !m.releasedUnnoticed(err) {
				t.Fatalf("killed before operation %d (%s): %v", kill, killedAt, err)
			}
			unnoticed++
			if _, err := m.process(t.Context(), -1, Options{Restart: true}, nil); err != nil {
				t.Fatal(err)
			}
		} else {
			for _, key := range onRecord {
				if m.put.times[key] != before[key] {
					t.Fatalf("killed before operation %d (%s): %q was on record, and is put again", kill, killedAt, key)
				}
			}
		}
		if err := m.check(); err != nil {
			t.Fatalf("killed before operation %d (%s): %v", kill, killedAt, err)
		}
	}
	if unnoticed > 4 || recorded == 0 {
		t.Errorf("%d kills have lost what was known; %d entries were on record", unnoticed, recorded)
	}
}

// What was sorted is no help to a stage that takes entries in any order, nor the other
// way round.
func TestUnorderedStageIsAnother(t *testing.T) {
	m := begun(t, 3, Options{})
	m.put = &putStore{entries: map[string][]byte{}, times: map[string]int{}}
	_, err := m.process(t.Context(), -1, Options{Resume: true}, nil)
	if code, _ := CodeOf(err); code != NeedRestart || len(m.put.times) > 0 {
		t.Errorf("%d entries were put: %v", len(m.put.times), err)
	}
}

// A putStore is where entries are put; it outlives processes.
type putStore struct {
	mu      sync.Mutex
	entries map[string][]byte
	times   map[string]int // how often each was put
}

// putOnRecord returns the keys of what the journal says was put.
func (m *machine) putOnRecord(t *testing.T) (keys []string) {
	t.Helper()
	if was, err := readSetup(m.work()); err != nil || was == nil {
		return nil
	}
	runs, _ := m.onRecord(t)
	for _, places := range runs {
		for _, at := range places {
			keys = append(keys, string(m.lines[at/1000][at%1000].Key))
		}
	}
	for _, key := range keys {
		if m.put.times[key] == 0 {
			t.Errorf("%q is on record, and was not put", key)
		}
	}
	return keys
}

// A putSink is a dirSink with a stage that takes entries in any order.
type putSink struct {
	*dirSink
	store *putStore
}

func (s putSink) Stage(context.Context, string) (Stage, error) {
	return &putStage{&dirStage{dirSink: s.dirSink}, s.store}, nil
}

type putStage struct {
	*dirStage
	store *putStore
}

func (s *putStage) step(what string) error {
	return s.disk.Step(durable.Write, filepath.Join(s.dir, what))
}

func (s *putStage) Vet(*Batch) []error { return nil }

func (s *putStage) Clear(context.Context) error {
	if err := s.step("clear"); err != nil {
		return err
	}
	s.store.mu.Lock()
	defer s.store.mu.Unlock()
	clear(s.store.entries)
	return nil
}

func (s *putStage) Put(ctx context.Context, b *Batch) error {
	for i := range b.Len() {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err := s.step("put"); err != nil {
			return err
		}
		e := b.Entry(i)
		s.store.mu.Lock()
		s.store.entries[string(e.Key)] = bytes.Clone(e.Value)
		s.store.times[string(e.Key)]++
		s.store.mu.Unlock()
	}
	return nil
}

func (s *putStage) load() *dirStage {
	s.store.mu.Lock()
	defer s.store.mu.Unlock()
	s.loaded = nil
	for _, key := range slices.Sorted(maps.Keys(s.store.entries)) {
		s.loaded = append(s.loaded, Entry{Key: []byte(key), Value: s.store.entries[key]})
	}
	return s.dirStage
}

func (s *putStage) Reader(ctx context.Context) (Source, error) { return s.load().Reader(ctx) }

func (s *putStage) Commit(ctx context.Context) error { return s.load().Commit(ctx) }

func (s *putStage) Close(keep bool) error {
	if keep {
		return s.dirStage.Close(keep)
	}
	return errors.Join(s.Clear(context.Background()), s.dirStage.Close(keep))
}

var _ Unordered = (*putStage)(nil)
