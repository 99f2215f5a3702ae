package crash

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/dynamodb/types"
	"go.etcd.io/bbolt"

	"github.com/dyn2raft/dyn2raft/copier"
	"github.com/dyn2raft/dyn2raft/sources/dynamodb/dynamotest"
)

var (
	killsFlag = flag.Int("kills", 20, "how many processes are killed")
	seedFlag  = flag.Uint64("seed", 0, "of what is killed where; 0 takes one at random")
)

const entries = 1000

// newTable makes a table of some MB, with hot Paths.
func newTable(t *testing.T, s *dynamotest.Server, name string, seed uint64) {
	t.Helper()
	if err := s.CreateVaultTable(name); err != nil {
		t.Fatal(err)
	}
	if _, err := (dynamotest.VaultShape{Entries: entries, Seed: seed, ValueSize: 1500}).Load(s, name); err != nil {
		t.Fatal(err)
	}
}

// tableEntries returns what a copy of the table must hold, and the keys of the
// locks in it. It is written from what is known of Vault's tables, and shares
// nothing with the reader that is tested.
func tableEntries(s *dynamotest.Server, table string) (want map[string][]byte, locks []string, err error) {
	want = map[string][]byte{}
	for _, item := range s.Items(table) {
		path, ok := item["Path"].(*types.AttributeValueMemberS)
		key, ok2 := item["Key"].(*types.AttributeValueMemberS)
		if !ok || !ok2 {
			return nil, nil, fmt.Errorf("item %v", item)
		}
		name := key.Value
		if path.Value != " " {
			name = path.Value + "/" + key.Value
		}
		switch value := item["Value"].(type) {
		case *types.AttributeValueMemberB:
			if _, held := item["Identity"]; held || name == "core/migration" {
				locks = append(locks, name)
				continue
			}
			want[name] = value.Value
		default:
			if strings.HasSuffix(name, "/") {
				continue // a directory
			}
			want[name] = nil
		}
	}
	return want, locks, nil
}

// A verdict counts what is wrong with copies.
type verdict struct{ lost, doubled, wrong int }

// compare reads vault.db with the library that Vault reads it with.
func compare(path string, want map[string][]byte) (v verdict, err error) {
	db, err := bbolt.Open(path, 0, &bbolt.Options{ReadOnly: true, Timeout: 5 * time.Second})
	if err != nil {
		return v, err
	}
	defer db.Close()
	return v, db.View(func(tx *bbolt.Tx) error {
		seen := map[string]bool{}
		bucket := tx.Bucket([]byte("data"))
		if bucket == nil {
			return errors.New("there is no bucket data")
		}
		if err := bucket.ForEach(func(k, value []byte) error {
			w, ok := want[string(k)]
			switch {
			case seen[string(k)]:
				v.doubled++
			case !ok, !bytes.Equal(w, value):
				v.wrong++
			}
			seen[string(k)] = true
			return nil
		}); err != nil {
			return err
		}
		for k := range want {
			if !seen[k] {
				v.lost++
			}
		}
		return nil
	})
}

// TestCompareCanFail shows that the oracle sees what it shall see.
func TestCompareCanFail(t *testing.T) {
	path := filepath.Join(t.TempDir(), "vault.db")
	db, err := bbolt.Open(path, 0o600, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(db.Update(func(tx *bbolt.Tx) error {
		b, err := tx.CreateBucket([]byte("data"))
		if err != nil {
			return err
		}
		return errors.Join(b.Put([]byte("a"), []byte("1")), b.Put([]byte("b"), nil))
	}), db.Close()); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		want map[string][]byte
		is   verdict
	}{
		{map[string][]byte{"a": []byte("1"), "b": nil}, verdict{}},
		{map[string][]byte{"a": []byte("2"), "b": nil}, verdict{wrong: 1}},
		{map[string][]byte{"a": []byte("1")}, verdict{wrong: 1}},
		{map[string][]byte{"a": []byte("1"), "b": nil, "c": nil}, verdict{lost: 1}},
	} {
		if got, err := compare(path, c.want); err != nil || got != c.is {
			t.Errorf("%v: %+v, %v; want %+v", c.want, got, err, c.is)
		}
	}
	s := dynamotest.NewServer(dynamotest.Options{})
	defer s.Close()
	newTable(t, s, "vault", 1)
	want, locks, err := tableEntries(s, "vault")
	if err != nil || len(want) != entries || len(locks) > 0 {
		t.Errorf("%d entries, locks %q, %v", len(want), locks, err)
	}
	if err := s.PutVaultEntry("vault", "core/migration", []byte("{}")); err != nil {
		t.Fatal(err)
	}
	if _, locks, err := tableEntries(s, "vault"); err != nil || !slices.Equal(locks, []string{"core/migration"}) {
		t.Errorf("locks %q, %v", locks, err)
	}
}

// A crash is the whole test: several rounds at a time, each with a table of
// its own.
type crash struct {
	server *dynamotest.Server
	length time.Duration // of a copy that is not killed

	mu sync.Mutex
	// ops are names of operations, and how often one process did them; the
	// second ones are of processes that resumed a copy, the third ones of
	// those that began it again.
	ops     [3]map[string]int
	hit     map[string]int // names at which a process was killed
	kills   int
	random  int // of them at a random moment
	resumes int
	rounds  int
	total   verdict
}

// kind is the index in crash.ops.
func (o order) kind() int {
	switch {
	case o.Restart:
		return 2
	case o.Resume:
		return 1
	default:
		return 0
	}
}

// learn takes notice of what a process did that was not killed.
func (c *crash) learn(r *report, o order) {
	known := c.ops[o.kind()]
	for name, n := range r.Ops {
		known[name] = max(known[name], n)
	}
	c.resumes += min(r.Resumed, 1)
}

// aim chooses where the next process is killed: at the Nth operation of a
// name, in front of it, which is behind the one before; or after some time.
func (c *crash) aim(rnd *rand.Rand, o *order) (after time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	known := c.ops[o.kind()]
	if len(known) == 0 || rnd.IntN(4) == 0 {
		return time.Duration(rnd.Int64N(int64(c.length))) + 1
	}
	names := slices.Sorted(maps.Keys(known))
	never := slices.DeleteFunc(slices.Clone(names), func(name string) bool {
		return c.hit[name] > 0 || o.NodeID != "" && strings.HasSuffix(name, " node-id")
	})
	if len(never) > 0 { // those first
		o.Kill = never[rnd.IntN(len(never))]
		return 0
	}
	o.Kill = names[rnd.IntN(len(names))]
	o.Nth = rnd.IntN(known[o.Kill])
	if rnd.IntN(2) == 0 {
		o.Nth = min(o.Nth, rnd.IntN(3))
	}
	return 0
}

// in makes the directories of a copy in another one.
func (o *order) in(dir string) error {
	o.Path, o.Manifest = filepath.Join(dir, "data"), filepath.Join(dir, "record", "manifest.json")
	return errors.Join(os.Mkdir(o.Path, 0o700), os.Mkdir(filepath.Dir(o.Manifest), 0o700))
}

// round makes one copy, killed several times.
func (c *crash) round(ctx context.Context, rnd *rand.Rand, dir, table string) (log []string, err error) {
	o := order{URL: c.server.URL, Table: table, NodeID: "node-1"}
	if err := o.in(dir); err != nil {
		return nil, err
	}
	if rnd.IntN(2) == 0 {
		o.NodeID = ""
	}
	if rnd.IntN(2) == 0 {
		o.WorkDir = filepath.Join(dir, "work")
		if err := os.Mkdir(o.WorkDir, 0o700); err != nil {
			return nil, err
		}
	}
	chance := 10                    // of ten, to be killed
	thrown, restart := false, false // a copy was to be thrown away; it must be
	gaveBack := false               // a process was killed after it had given the table back, and before that was on record
	for process := 0; ; process++ {
		now := o
		now.Resume = process > 0
		if process > 0 && (restart || rnd.IntN(12) == 0) {
			now.Resume, now.Restart, thrown = false, true, true
		}
		var after time.Duration
		if process < 6 && rnd.IntN(10) < chance {
			after = c.aim(rnd, &now)
		}
		chance = 4
		_, locks, err := tableEntries(c.server, o.Table)
		if err != nil {
			return log, err
		}
		if _, err := os.Lstat(filepath.Join(o.Path, "vault.db")); err == nil && !slices.Contains(locks, "core/_lock") {
			gaveBack = true
		}
		p, err := start(ctx, now)
		if err != nil {
			return log, err
		}
		if _, err := p.until("start"); err != nil {
			return log, err
		}
		if after > 0 {
			time.Sleep(after)
			_ = p.cmd.Process.Kill() // it may have ended
		}
		killed, err := p.end()
		log = append(log, fmt.Sprintf("resume %v, restart %v, %s %d, after %v: killed %v at %q, %+v", now.Resume, now.Restart, now.Kill, now.Nth, after, killed, p.at, p.report))
		if err != nil {
			return log, err
		}
		c.mu.Lock()
		if killed {
			c.kills++
			if p.at == "" {
				c.random++
			} else {
				c.hit[p.at]++
			}
		}
		if p.report != nil {
			c.learn(p.report, now)
		}
		c.mu.Unlock()
		switch {
		case p.report == nil: // go on
		case p.report.Error == "":
			return log, c.check(o)
		case process > 0 && p.report.Destination && strings.Contains(p.report.Error, "already holds Vault's data (vault.db)"):
			// The process before was killed when all was done.
			return log, c.check(o)
		case now.Restart && p.report.Destination && strings.Contains(p.report.Error, "a copy was put in place already"):
			// Nor is a complete copy thrown away: it is resumed to clean up,
			// also where there was nothing else to do than to throw one away.
			restart = false
		case !restart && p.report.Moved && gaveBack:
			// Nothing tells any more that nobody wrote since. The copy was taken
			// back, perhaps by a process that was killed before it could say so.
			restart = true
		case thrown && !restart && (p.report.Moved || strings.Contains(p.report.Error, "the directory with the work files is gone")):
			// A process was killed while it threw a copy away: nothing else
			// can become of that.
			restart = true
		default:
			return log, errors.New(p.report.Error)
		}
	}
}

// check compares the result with the table, and looks for what is left.
func (c *crash) check(o order) error {
	want, locks, err := tableEntries(c.server, o.Table)
	if err != nil {
		return err
	}
	if len(locks) > 0 {
		return fmt.Errorf("the table has the locks %q", locks)
	}
	v, err := compare(filepath.Join(o.Path, "vault.db"), want)
	if err != nil {
		return err
	}
	c.mu.Lock()
	c.rounds++
	c.total.lost += v.lost
	c.total.doubled += v.doubled
	c.total.wrong += v.wrong
	c.mu.Unlock()
	if v != (verdict{}) {
		return fmt.Errorf("%+v", v)
	}
	// A process that was killed between the removal of the record and that of
	// its directory leaves that, empty.
	_ = os.Remove(filepath.Join(o.Path, ".dyn2raft"))
	wanted := "raft vault.db"
	if o.NodeID == "" {
		wanted = "node-id raft vault.db"
	}
	if err := holds(o.Path, wanted); err != nil {
		return err
	}
	if o.WorkDir != "" {
		if err := holds(o.WorkDir, ""); err != nil {
			return err
		}
	}
	if o.Manifest == "" {
		return nil
	}
	data, err := os.ReadFile(o.Manifest)
	if err != nil {
		return err
	}
	made, err := copier.DecodeRecord(data)
	if err != nil {
		return err
	}
	if n := made.Total.Entries; n != int64(len(want)) || made.Proof == nil || made.State != copier.Released {
		return fmt.Errorf("the manifest has %d entries of %d, read back: %v, state %q", n, len(want), made.Proof != nil, made.State)
	}
	// One that was killed while it wrote the manifest for the last time, when all else was
	// done, leaves what the next one that is written there replaces.
	_ = os.Remove(o.Manifest + ".tmp")
	return holds(filepath.Dir(o.Manifest), filepath.Base(o.Manifest))
}

func holds(dir, want string) error {
	list, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	var names []string
	for _, f := range list {
		names = append(names, f.Name())
	}
	if got := strings.Join(names, " "); got != want {
		return fmt.Errorf("%s holds %q, want %q", dir, got, want)
	}
	return nil
}

// TestCrash kills copies at every kind of step and at random moments.
func TestCrash(t *testing.T) {
	seed := *seedFlag
	if seed == 0 {
		seed = rand.Uint64()
	}
	t.Logf("seed %d: repeat with -args -seed %[1]d -kills %d", seed, *killsFlag)
	c := &crash{server: dynamotest.NewServer(dynamotest.Options{Latency: 4 * time.Millisecond}), ops: [3]map[string]int{{}, {}, {}}, hit: map[string]int{}}
	defer c.server.Close()
	const workers = 2
	for w := range workers {
		newTable(t, c.server, fmt.Sprintf("vault-%d", w), seed+uint64(w))
	}

	// How a copy goes that nobody kills.
	first := order{URL: c.server.URL, Table: "vault-0"}
	if err := first.in(t.TempDir()); err != nil {
		t.Fatal(err)
	}
	p, err := start(t.Context(), first)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := p.until("start"); err != nil {
		t.Fatal(err)
	}
	begun := time.Now()
	if _, err := p.end(); err != nil {
		t.Fatal(err)
	}
	c.length = time.Since(begun)
	if p.report.Error != "" {
		t.Fatal(p.report.Error)
	}
	if err := c.check(first); err != nil {
		t.Fatal(err)
	}
	c.learn(p.report, first)
	for name, least := range map[string]int{"rename checkpoint-N.json": 2, "write vault.db": 3, "sync vault.db": 2, "begin check": 1, "rename manifest.json": 1} {
		if n := p.report.Ops[name]; n < least {
			t.Errorf("a copy has %q %d times only", name, n)
		}
	}

	begun = time.Now()
	var group sync.WaitGroup
	rounds := make(chan uint64)
	for w := range workers {
		group.Go(func() {
			for round := range rounds {
				rnd := rand.New(rand.NewPCG(seed, round))
				dir, err := os.MkdirTemp(t.TempDir(), "round")
				if err != nil {
					t.Error(err)
					continue
				}
				log, err := c.round(t.Context(), rnd, dir, fmt.Sprintf("vault-%d", w))
				if err != nil {
					t.Errorf("seed %d, round %d: %v\n%s", seed, round, err, strings.Join(log, "\n"))
				}
				if err := os.RemoveAll(dir); err != nil {
					t.Error(err)
				}
			}
		})
	}
	for round := uint64(0); ; round++ {
		c.mu.Lock()
		enough := c.kills >= *killsFlag
		c.mu.Unlock()
		if enough || t.Failed() {
			break
		}
		rounds <- round
	}
	close(rounds)
	group.Wait()

	kinds := maps.Clone(c.ops[0])
	maps.Copy(kinds, c.ops[1])
	maps.Copy(kinds, c.ops[2])
	t.Logf("%d killed (%d of them at a random moment, the others at %d of %d kinds of steps), %d resumed, %d rounds in %v, %v each",
		c.kills, c.random, len(c.hit), len(kinds), c.resumes, c.rounds, time.Since(begun).Round(time.Second), (time.Since(begun) / time.Duration(max(c.rounds, 1))).Round(time.Millisecond))
	t.Logf("%d lost, %d doubled, %d wrong", c.total.lost, c.total.doubled, c.total.wrong)
	var never []string
	for _, name := range slices.Sorted(maps.Keys(kinds)) {
		if c.hit[name] == 0 {
			never = append(never, name)
		}
	}
	if len(never) > 0 {
		t.Logf("nobody was killed at %q", never)
	}
	// Of a copy that nobody disturbs each step must have been one of them.
	for name := range p.report.Ops {
		if *killsFlag >= 200 && c.hit[name] == 0 {
			t.Errorf("nobody was killed at %q", name)
		}
	}
}

// TestTwoAtOnce starts two copies at the same time, into one destination and
// from one source. Either one may come first; the other is refused, and the
// one that runs is not disturbed.
func TestTwoAtOnce(t *testing.T) {
	s := dynamotest.NewServer(dynamotest.Options{Latency: time.Millisecond})
	defer s.Close()
	newTable(t, s, "vault-a", 1)
	newTable(t, s, "vault-b", 2)
	for _, what := range []string{"one destination", "one source"} {
		for _, first := range []string{"a", "b", "together"} {
			t.Run(what+", "+first, func(t *testing.T) {
				// Whoever comes so far waits until the other has ended.
				// Both ends are locked then, and nothing is read.
				const far = "create spans.json.tmp"
				a := order{Path: t.TempDir(), NodeID: "node-1", URL: s.URL, Table: "vault-a", Pause: far}
				b := a
				if what == "one destination" {
					b.Table = "vault-b"
				} else {
					b.Path = t.TempDir()
				}
				if first == "b" {
					a, b = b, a
				}
				orders := map[string]order{"first": a, "second": b}
				procs := map[string]*process{}
				for _, name := range []string{"first", "second"} {
					p, err := start(t.Context(), orders[name])
					if err != nil {
						t.Fatal(err)
					}
					procs[name] = p
					if first != "together" && name == "first" {
						if ok, err := p.until("at"); !ok || err != nil {
							t.Fatalf("it did not come so far: %v, %+v", err, p.report)
						}
					}
				}
				// One of them ends while the other is stopped.
				type end struct {
					name    string
					stopped bool
					err     error
				}
				ends := make(chan end, 2)
				for name, p := range procs {
					go func() {
						if name == "first" && first != "together" {
							ends <- end{name, true, nil}
							return
						}
						ok, err := p.until("at")
						if !ok && err == nil {
							_, err = p.end()
						}
						ends <- end{name, ok, err}
					}()
				}
				var running, refused string
				for range procs {
					e := <-ends
					if e.err != nil {
						t.Error(e.err)
					}
					if e.stopped {
						running = e.name
					} else {
						refused = e.name
					}
				}
				if running == "" || refused == "" {
					for name, p := range procs {
						_ = p.stdin.Close()
						t.Logf("%s: at %q, %+v, %s", name, p.at, p.report, p.err.String())
					}
					t.Fatalf("running: %q, refused: %q", running, refused)
				}
				if first != "together" && running != "first" {
					t.Errorf("the second one won")
				}
				if r := procs[refused].report; !r.Locked || r.Resumable {
					t.Errorf("refused with %+v", r)
				}
				if what == "one source" {
					if err := holds(orders[refused].Path, ""); err != nil {
						t.Error(err)
					}
				}
				if err := procs[running].stdin.Close(); err != nil {
					t.Fatal(err)
				}
				if _, err := procs[running].end(); err != nil || procs[running].report.Error != "" {
					t.Fatalf("the one that ran ended with %v, %+v", err, procs[running].report)
				}
				c := &crash{server: s}
				if err := c.check(orders[running]); err != nil {
					t.Error(err)
				}
				if _, locks, err := tableEntries(s, orders[refused].Table); err != nil || len(locks) > 0 {
					t.Errorf("locks %q, %v", locks, err)
				}
			})
		}
	}
}
