package copier

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/dyn2raft/dyn2raft/copier/durable"
	"github.com/dyn2raft/dyn2raft/copier/durable/durabletest"
)

// newPowerMachine is a machine whose power can fail. Its work files are in a
// directory of their own if apart is set.
func newPowerMachine(t testing.TB, seed uint64, entries int, apart bool) (*machine, Options) {
	t.Helper()
	root := t.TempDir()
	m := newMachine(filepath.Join(root, "destination"), seed, 3, entries, true)
	var opts Options
	if apart {
		opts.WorkDir = filepath.Join(root, "work")
		if err := os.Mkdir(opts.WorkDir, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Mkdir(m.dir, 0o700); err != nil {
		t.Fatal(err)
	}
	var err error
	if m.power, err = durabletest.New(root); err != nil {
		t.Fatal(err)
	}
	return m, opts
}

// recover goes on until the copy is complete, and checks it.
func (m *machine) recover(ctx context.Context, opts Options) error {
	setup, err := readSetup(filepath.Join(m.dir, "work"))
	if err != nil {
		return err
	}
	if setup != nil {
		plain := opts
		plain.Resume, plain.Restart = false, false
		if _, err := m.process(ctx, -1, plain, nil); err == nil || !errors.Is(err, ErrUnfinished) && !errors.Is(err, ErrInPlace) {
			return fmt.Errorf("plain rerun: %w", err)
		}
	}
	opts.Resume = true
	_, err = m.process(ctx, -1, opts, nil)
	if m.releasedUnnoticed(err) {
		opts.Resume, opts.Restart = false, true
		_, err = m.process(ctx, -1, opts, nil)
	}
	if _, rerr := (&dirSink{dir: m.dir}).result(); err != nil && setup == nil && rerr == nil && strings.HasPrefix(err.Error(), "prepare: file already exists") {
		err = nil // all of it is done, the work directory's removal too
	}
	if err != nil {
		return err
	}
	if opts.WorkDir != "" {
		if left, err := os.ReadDir(opts.WorkDir); err != nil || len(left) > 0 {
			return fmt.Errorf("left in the directory for work files: %v, %w", left, err)
		}
	}
	return m.check()
}

// TestPowerLossAtEveryOperation takes the power away at each operation of a
// copy, and resumes from what is found then.
func TestPowerLossAtEveryOperation(t *testing.T) {
	for _, apart := range []bool{false, true} {
		t.Run(fmt.Sprintf("apart=%v", apart), func(t *testing.T) {
			t.Parallel()
			resumed := 0
			for at := 0; ; at++ {
				m, opts := newPowerMachine(t, 7, 36, apart)
				m.power.FailAt(at)
				_, err := m.process(t.Context(), -1, opts, nil)
				if !m.power.Failed() {
					if err != nil || at < 40 || resumed == 0 {
						t.Fatalf("%d operations, %d resumed: %v", at, resumed, err)
					}
					return
				}
				ops := m.ops[max(0, len(m.ops)-6):]
				if err := m.power.Lose(rand.New(rand.NewPCG(uint64(at), 5))); err != nil {
					t.Fatal(err)
				}
				if setup, err := readSetup(filepath.Join(m.dir, "work")); err != nil {
					t.Fatal(err)
				} else if setup != nil {
					resumed++
				}
				if err := m.recover(t.Context(), opts); err != nil {
					t.Fatalf("operation %d, after %q: %v", at, ops, err)
				}
			}
		})
	}
}

// TestPowerLossModel takes the power away, kills processes, lets sources fail
// and copies be thrown away, in any order. The copy that completes holds each
// entry once.
func TestPowerLossModel(t *testing.T) {
	var lost, killed, failed, restarted, resumed int
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	for round := range uint64(40) {
		rnd := rand.New(rand.NewPCG(seed, round))
		apart := rnd.IntN(2) == 0
		m, opts := newPowerMachine(t, rnd.Uint64(), rnd.IntN(200), apart)
		var log []string
		var err error
		thrown := false // a copy was being thrown away
		for range rnd.IntN(6) {
			kill, reads := -1, atomic.Int64{}
			var fail func() error
			switch rnd.IntN(4) {
			case 0:
				kill = rnd.IntN(80)
			case 1:
				at, err := int64(rnd.IntN(60)), []error{errFake, &Error{Kind: ErrSource, Err: ErrDuplicateKey}}[rnd.IntN(2)]
				fail = func() error {
					if reads.Add(1) > at {
						return err
					}
					return nil
				}
			}
			powerAt := -1
			if rnd.IntN(2) == 0 {
				powerAt = rnd.IntN(120)
			}
			m.power.FailAt(powerAt)
			now := opts
			setup, serr := readSetup(filepath.Join(m.dir, "work"))
			if serr != nil {
				t.Fatal(serr)
			}
			now.Restart = setup != nil && rnd.IntN(3) == 0
			now.Resume = !now.Restart
			var res Record
			res, err = m.process(t.Context(), kill, now, fail)
			resumed += min(res.Resumed, 1)
			thrown = thrown || now.Restart || err != nil && !res.Resumable
			log = append(log, fmt.Sprintf("restart %v, kill at %d, power at %d: %v, last operations %q", now.Restart, kill, powerAt, err, m.ops[max(0, len(m.ops)-4):]))
			if now.Restart {
				restarted++
			}
			switch {
			case m.power.Failed():
				lost++
			case m.dead.Load():
				killed++
				if rnd.IntN(2) == 0 {
					continue // the machine runs on
				}
			case err == nil:
			default:
				failed++
				if rnd.IntN(2) == 0 {
					continue
				}
			}
			if err := m.power.Lose(rnd); err != nil {
				t.Fatal(err)
			}
			log = append(log, fmt.Sprintf("power lost, work directory %q", tree(m.dir)))
			if err == nil {
				break
			}
		}
		m.power.FailAt(-1)
		err = m.recover(t.Context(), opts)
		if thrown && (errors.Is(err, ErrMoved) || errors.Is(err, fs.ErrNotExist)) {
			// It gave the source back, and some of its files are there still
			// or came back: it can only be thrown away again.
			opts.Restart = true
			if _, err = m.process(t.Context(), -1, opts, nil); err == nil {
				err = m.check()
			}
		}
		if err != nil {
			t.Fatalf("round %d: %v\n%s", round, err, strings.Join(log, "\n"))
		}
	}
	t.Logf("%d losses of power, %d killed, %d failed, %d restarted, %d resumed", lost, killed, failed, restarted, resumed)
	if lost == 0 || killed == 0 || failed == 0 || restarted == 0 || resumed == 0 {
		t.Error("some of that never happened")
	}
}

// tree lists what is in a machine's directory and in its work directory.
func tree(dir string) []string {
	var out []string
	for _, d := range []string{dir, filepath.Join(dir, "work")} {
		list, _ := os.ReadDir(d) //nolint:errcheck // for a message
		for _, f := range list {
			out = append(out, f.Name())
		}
	}
	return out
}

// TestPowerLossNeedsEverySync shows that the tests above notice each sync that
// a copy does without.
func TestPowerLossNeedsEverySync(t *testing.T) {
	is := func(op durable.Op, prefix, suffix string) bool {
		name := filepath.Base(op.Path)
		return op.Verb == durable.Sync && strings.HasPrefix(name, prefix) && strings.HasSuffix(name, suffix)
	}
	for name, ignore := range map[string]func(op durable.Op) bool{
		"a run before its checkpoint":  func(op durable.Op) bool { return is(op, runPrefix, "") },
		"a checkpoint before its name": func(op durable.Op) bool { return is(op, checkpointPrefix, ".tmp") },
		"setup before its name":        func(op durable.Op) bool { return is(op, setupName, ".tmp") },
		"names of runs and checkpoints": func(op durable.Op) bool {
			return is(op, "work", "")
		},
		"the result before its name": func(op durable.Op) bool { return is(op, "result", ".tmp") },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for try := range uint64(300) {
				if warnings, err := loseOnce(t, try, ignore); err != nil || len(warnings) > 0 {
					t.Logf("noticed at try %d: %.200v, %.200q", try, err, warnings)
					return
				}
			}
			t.Error("not noticed")
		})
	}
	for try := range uint64(30) {
		if warnings, err := loseOnce(t, try, nil); err != nil || len(warnings) > 0 {
			t.Fatalf("try %d: %v, %q", try, err, warnings)
		}
	}
}

// loseOnce runs a copy that does without some syncs, takes the power away, in
// the middle or at the end, and goes on. What the journal accounts for and is
// not there is read again, with a warning: nothing is lost, but it is not what
// a checkpoint promised.
func loseOnce(t *testing.T, try uint64, ignore func(durable.Op) bool) (warnings []string, err error) {
	t.Helper()
	m, opts := newPowerMachine(t, try, 60, try%4 == 0)
	m.power.Ignore = ignore
	if try%3 > 0 {
		m.power.FailAt(5 + int(try*7%120))
	}
	_, err = m.process(t.Context(), -1, opts, nil)
	if lerr := m.power.Lose(rand.New(rand.NewPCG(try, 6))); lerr != nil {
		t.Fatal(lerr)
	}
	m.power.Ignore = nil
	if err == nil {
		r, err := (&dirSink{dir: m.dir}).result()
		if err != nil {
			return nil, err
		}
		if d := differ(r.Entries, m.all()); d != "" {
			return nil, errors.New(d)
		}
		return nil, nil
	}
	opts.Events = func(e Event) {
		if w, ok := e.(Warning); ok && w.Check != "initialized" { // the fakes hold no Vault
			warnings = append(warnings, w.Message)
		}
	}
	err = m.recover(t.Context(), opts)
	return warnings, err
}
