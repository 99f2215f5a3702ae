package raft

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/dyn2raft/dyn2raft/copier"
	"github.com/dyn2raft/dyn2raft/copier/durable"
	"github.com/dyn2raft/dyn2raft/copier/durable/durabletest"
)

const powerLossEntries = 10

// resumed is a directory with an unfinished copy whose node makes its own id.
func resumed(dir string) (Options, error) {
	o := testOptions(dir)
	o.NodeID = ""
	return o, leaveWork(o)
}

// powerLoss is a copy at whose operation number at, after skip others in an
// earlier process that was killed, the power fails.
type powerLoss struct {
	variant func(dir string) (Options, error)
	kill    int // operation at which the first process is killed; negative: there is none
	at      int
	seed    uint64
	ignore  func(ops []string, op durable.Op) bool

	// loaded are the vault.db that the processes have written. A library that
	// reads a torn file may not only fail.
	loaded [][]byte
}

// run takes the power away, and returns the operations of the last process.
// ended is set when it ended before the power failed.
func (p *powerLoss) run(dir string) (o Options, ops []string, ended bool, err error) {
	if o, err = p.variant(dir); err != nil {
		return o, nil, false, err
	}
	rec, err := durabletest.New(dir)
	if err != nil {
		return o, nil, false, err
	}
	rec.Ignore = func(op durable.Op) bool { return p.ignore != nil && p.ignore(ops, op) }
	copyOnce := func(kill int) {
		n := 0
		ops = nil
		with := o
		with.Disk = &durable.Disk{Before: func(op durable.Op) error {
			if n++; kill >= 0 && n > kill {
				return errors.New("killed")
			}
			ops = append(ops, op.String())
			return rec.Before(op)
		}}
		// As the engine does: kept when it fails, cleaned up after when it is
		// found to be complete.
		s, err := open(with)
		if s != nil {
			if err == nil {
				_, err = s.Load(context.Background(), &sliceStream{entries: testEntries(powerLossEntries)})
			}
			if data, rerr := os.ReadFile(s.aside(vaultDBName)); err == nil && rerr == nil {
				p.loaded = append(p.loaded, data)
			}
			if err == nil {
				err = s.commit(context.Background())
			}
			_ = s.Close(err != nil && s.found.Record == nil) // fails without power, and is a warning at best
		}
	}
	if p.kill >= 0 {
		copyOnce(p.kill)
	}
	rec.FailAt(p.at)
	copyOnce(-1)
	ended = !rec.Failed()
	return o, ops, ended, rec.Lose(rand.New(rand.NewPCG(p.seed, uint64(p.at))))
}

// checkAfter inspects what was found when the power was back, and copies again.
func (p *powerLoss) checkAfter(o Options) error {
	entries := testEntries(powerLossEntries)
	data, err := os.ReadFile(filepath.Join(o.Path, vaultDBName))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err == nil {
		if !slices.ContainsFunc(p.loaded, func(b []byte) bool { return bytes.Equal(b, data) }) {
			return errors.New("vault.db is in place, and is not what was loaded")
		}
		if err := inspect(o, entries); err != nil {
			return fmt.Errorf("vault.db is in place: %w", err)
		}
	}
	complete, err := checkPrepare(o)
	if err != nil {
		return err
	}
	if _, err := run(o, entries, nil); complete != errors.Is(err, copier.ErrDestination) || !complete && err != nil {
		return fmt.Errorf("rerun, complete: %v: %w", complete, err)
	}
	if complete {
		// Without its record the empty staging directory is of no interest.
		_ = os.Remove(filepath.Join(o.Path, stagingName))
	}
	return checkDone(o, entries)
}

// A loss of power at any operation of a copy leaves a complete Vault directory
// or none, and the next copy goes well.
func TestPowerLoss(t *testing.T) {
	for name, c := range map[string]struct {
		variant func(dir string) (Options, error)
		seeds   uint64
		stride  int
	}{
		"empty directory": {variants()["raft.db"], 4, 1},
		"unfinished copy": {resumed, 4, 1},
		"wal":             {variants()[unfinished], 1, 3}, // its file has 64 MiB
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for at, ended := 0, false; !ended; at += c.stride {
				for seed := range c.seeds {
					p := powerLoss{variant: c.variant, kill: -1, at: at, seed: seed}
					o, ops, e, err := p.run(t.TempDir())
					if err == nil {
						err = p.checkAfter(o)
					}
					if err != nil {
						t.Fatalf("operation %d, seed %d, after %q: %v", at, seed, ops, err)
					}
					if ended = e; e && at < 25 {
						t.Fatalf("only the operations %q", ops)
					}
				}
			}
		})
	}
}

// The same, with a process that was killed before and left its work to the
// next.
func TestPowerLossAfterKill(t *testing.T) {
	t.Parallel()
	o, err := resumed(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	ops := steps(t, o)
	ops = slices.DeleteFunc(ops, func(op string) bool { return strings.HasPrefix(op, "entry ") })
	rnd := rand.New(rand.NewPCG(4, 4))
	for kill := slices.Index(ops, "create commit.json.tmp"); kill < len(ops); kill++ {
		for at, ended := 0, false; !ended; at += 1 + rnd.IntN(4) {
			p := powerLoss{variant: resumed, kill: kill, at: at, seed: rnd.Uint64()}
			o, now, e, err := p.run(t.TempDir())
			if err == nil {
				err = p.checkAfter(o)
			}
			if err != nil {
				t.Fatalf("killed before %q, power lost at operation %d, seed %d, after %q: %v", ops[kill], at, p.seed, now, err)
			}
			ended = e
		}
	}
}

// Each sync that is left out is noticed.
func TestPowerLossNeedsEverySync(t *testing.T) {
	for name, ignore := range map[string]func(ops []string, op durable.Op) bool{
		"data directory before vault.db": func(ops []string, op durable.Op) bool {
			return op.Verb == durable.Sync && len(ops) > 1 && ops[len(ops)-2] == "place "+nodeIDName
		},
		"syncs and seal of vault.db": func(_ []string, op durable.Op) bool {
			return (op.Verb == durable.Sync || op.Verb == durable.Finalize) && filepath.Base(op.Path) == vaultDBName
		},
		"seal of raft": func(_ []string, op durable.Op) bool {
			return op.Verb == durable.Finalize && filepath.Base(op.Path) == raftName
		},
		"record": func(_ []string, op durable.Op) bool { return op.String() == "sync "+recordName+".tmp" },
		"data directory at the end": func(ops []string, op durable.Op) bool {
			return op.Verb == durable.Sync && len(ops) > 1 && ops[len(ops)-2] == "place "+vaultDBName
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			// It must tell where the sync is left out, or soon after.
			left := -1
			note := func(ops []string, op durable.Op) bool {
				out := ignore(ops, op)
				if out && left < 0 {
					left = len(ops)
				}
				return out
			}
			if _, _, _, err := (&powerLoss{variant: resumed, kill: -1, at: 1000, ignore: note}).run(t.TempDir()); err != nil || left < 0 {
				t.Fatalf("left out at %d, %v", left, err)
			}
			for seed := range uint64(40) {
				for at := left; at < left+30; at++ {
					p := powerLoss{variant: resumed, kill: -1, at: at, seed: seed, ignore: ignore}
					o, ops, _, err := p.run(t.TempDir())
					if err == nil {
						err = p.checkAfter(o)
					}
					if err != nil {
						t.Logf("noticed at operation %d (%s): %.300s", at, ops[len(ops)-1], err)
						return
					}
				}
			}
			t.Error("not noticed")
		})
	}
}
