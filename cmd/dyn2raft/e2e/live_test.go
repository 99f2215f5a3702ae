//go:build e2e

package e2e

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"
)

var (
	liveSeeds = flag.Int("live-seeds", 3, "how often TestLive cuts over")
	liveSeed  = flag.Uint64("live-seed", 0, "its first seed; 0 is the time")
)

// TestLive copies the table of two Vaults that serve twelve clients all the time, rehearses
// the cut-over with a Vault that steps down, kills the copy and resumes it, and cuts over.
// Shards roll over meanwhile. A new Vault on the copy must have every write that was
// acknowledged, and none that was deleted; tokens that live must work, and no other.
func TestLive(t *testing.T) {
	first := *liveSeed
	if first == 0 {
		first = uint64(time.Now().UnixNano())
	}
	for i := range *liveSeeds {
		seed := first + uint64(i)
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			t.Logf("again: -args -live-seeds 1 -live-seed %d", seed)
			copyLive(t, rand.New(rand.NewPCG(seed, 0)))
		})
	}
}

func copyLive(t *testing.T, rnd *rand.Rand) {
	server := startDynamoDBLocal(t)
	s := &scenario{t: t, table: openTable(server.URL), old: newNode(t, "old")}
	s.table.create(t)
	var c cluster
	s.step("two Vaults on DynamoDB", func() {
		active := s.oldVault()
		s.contents = fill(t, active)
		s.table.addFiller(t, 3000)
		standby := startVault(t, newNode(t, "old2"), dynamoDBStorage("storage", s.table.endpoint))
		standby.token = active.token
		standby.unseal(t, s.keys)
		c.nodes = []*vault{active, standby}
	})
	w := c.write(t, 8)
	tokens := c.tokens(t)
	n := newNode(t, "live")
	config := s.migrateFile(n, "")
	begin := func(flags ...string) *process {
		return start(t, "dyn2raft copy", dyn2raftBin, append([]string{"copy", "-config", config, "-cutover-when-ready=false"}, flags...)...)
	}
	run := begin("-live", "-yes")
	if rnd.IntN(2) == 0 {
		s.step("killed while it reads or follows, and resumed", func() {
			s.liveUntil(run, config, func(st liveStatus) bool { return st.Status.Entries > 0 })
			run.kill(t)
			run = begin("-resume")
		})
	}
	s.step("until it is ready", func() {
		s.liveUntil(run, config, func(st liveStatus) bool { return st.Status.Live.Ready })
	})
	if err := server.RollOver(); err != nil {
		t.Fatal(err)
	}
	s.step("a rehearsal", func() {
		rehearsal := start(t, "dyn2raft cutover -rehearse", dyn2raftBin, "cutover", "-config", config, "-rehearse")
		waitFor(t, "the order to be given", time.Minute, func() error {
			if !strings.Contains(rehearsal.output(), "armed: the rehearsal begins") {
				return errors.New(rehearsal.output())
			}
			return nil
		})
		waitFor(t, "the rehearsal", 3*time.Minute, func() error {
			if rehearsal.alive() != nil {
				return nil
			}
			// A standby may get the lock first: then it is its turn.
			if _, _, err := c.active(t).do(http.MethodPut, "sys/step-down", nil); err != nil {
				return err
			}
			select {
			case <-rehearsal.exited:
			case <-time.After(5 * time.Second):
			}
			return errors.New("not yet")
		})
		if out := rehearsal.output(); !strings.Contains(out, "Rehearsed: Vault was without its table for") {
			t.Fatalf("%s\nthe copy:\n%s", out, run.output())
		} else {
			t.Log(lastLines(out, 1))
		}
		waitFor(t, "a Vault to serve again", healthLimit, func() error {
			for _, v := range c.nodes {
				if status, _, err := v.do(http.MethodGet, "sys/health", nil); err == nil && status == http.StatusOK {
					return nil
				}
			}
			return errors.New("none is active")
		})
		w.until(t, max(w.acknowledged.Load()+100, 600))
		waitFor(t, "some tokens", 2*time.Minute, func() error {
			if live, revoked := tokens.count(); live < 20 || revoked < 20 {
				return fmt.Errorf("%d live, %d are revoked", live, revoked)
			}
			return nil
		})
	})
	s.step("cut over", func() {
		order := start(t, "dyn2raft cutover", dyn2raftBin, "cutover", "-config", config)
		waitFor(t, "the order to be given", time.Minute, func() error {
			if !strings.Contains(order.output(), "armed: the copy cuts over") {
				return errors.New(order.output())
			}
			return nil
		})
		active := c.active(t)
		for _, v := range c.nodes {
			if v != active {
				v.stop(t)
			}
		}
		active.stop(t)
		order.waitExit(t, 2*time.Minute)
		if out := order.output(); !strings.Contains(out, "Vault may be started on "+n.dir) {
			t.Fatalf("%s\nthe copy:\n%s", out, run.output())
		} else {
			t.Log(lastLines(out, 1))
		}
	})
	w.wait()
	tokens.wait()
	var v *vault
	s.step("the new Vault", func() {
		v = startVault(t, n, raftStorage(n, ""))
		v.token = c.nodes[0].token
		v.unseal(t, s.keys)
		v.waitHealth(t, http.StatusOK)
		w.check(t, v)
		tokens.check(t, v)
		s.contents.check(t, v)
	})
	s.step("the copy ends, and has found the table as it left it", func() {
		run.waitExit(t, 2*time.Minute)
		if out := run.output(); run.cmd.ProcessState.ExitCode() != 0 || !strings.Contains(out, "Equal: table "+tableName+" holds") {
			t.Fatalf("exit code %d:\n%s", run.cmd.ProcessState.ExitCode(), out)
		}
		t.Log(run.output())
	})
	s.step("no old Vault starts on the table", s.refusesToStart)
	s.step("somebody writes to the closed table, and verify -closed names it", func() {
		s.table.put(t, "logical/late", "written", "too late")
		check := runProgram(t, time.Minute, dyn2raftBin, "verify", "-config", config, "-closed")
		if check.code != exitDifferent || !strings.Contains(check.stdout, "logical/late/written") {
			t.Errorf("exit code %d:\n%s%s", check.code, check.stdout, check.stderr)
		}
	})
}

// active is the one of the cluster's Vaults that is.
func (c *cluster) active(t *testing.T) (found *vault) {
	t.Helper()
	waitFor(t, "a Vault to be active", healthLimit, func() error {
		for _, v := range c.nodes {
			if status, _, err := v.do(http.MethodGet, "sys/health", nil); err == nil && status == http.StatusOK {
				found = v
				return nil
			}
		}
		return errors.New("none is")
	})
	return found
}

// until waits until so many writes are acknowledged.
func (w *writes) until(t *testing.T, n int64) {
	t.Helper()
	waitFor(t, fmt.Sprintf("%d acknowledged writes", n), 2*time.Minute, func() error {
		if now := w.acknowledged.Load(); now < n {
			return fmt.Errorf("%d", now)
		}
		return nil
	})
}

type liveStatus struct {
	State  string `json:"state"`
	Status struct {
		Phase   string `json:"phase"`
		Entries int64  `json:"entries"`
		Live    struct {
			Ready   bool  `json:"ready"`
			Applied int64 `json:"applied"`
		} `json:"live"`
	} `json:"status"`
}

// liveUntil waits until the status of a copy that runs is as it is wanted.
func (s *scenario) liveUntil(run *process, config string, want func(liveStatus) bool) {
	s.t.Helper()
	waitFor(s.t, "the copy to be so far", 3*time.Minute, func() error {
		if err := run.alive(); err != nil {
			return err
		}
		var st liveStatus
		out := runProgram(s.t, time.Minute, dyn2raftBin, "status", "-config", config, "-format", "json")
		if err := json.Unmarshal([]byte(out.stdout), &st); err != nil {
			return err
		}
		if !want(st) {
			return fmt.Errorf("%+v", st)
		}
		return nil
	})
}

// tokens are what clients have created, and whether they were revoked: true where that
// was acknowledged. Of one whose revocation was not answered nothing is known.
type tokens struct {
	mu      sync.Mutex
	revoked map[string]bool
	wait    func()
}

// tokens has a client create tokens, and revoke every other one, until no Vault is left.
func (c *cluster) tokens(t *testing.T) *tokens {
	tk := &tokens{revoked: map[string]bool{}}
	var wg sync.WaitGroup
	tk.wait = wg.Wait
	wg.Go(func() {
		created := 0
		for i := 0; ; i++ {
			v := c.nodes[i%len(c.nodes)]
			if v.alive() != nil {
				left := false
				for _, v := range c.nodes {
					left = left || v.alive() == nil
				}
				if !left {
					return
				}
				continue
			}
			status, answer, err := v.do(http.MethodPost, "auth/token/create", map[string]any{"policies": []string{"default"}, "ttl": "2h"})
			auth, _ := answer["auth"].(map[string]any)
			token, _ := auth["client_token"].(string)
			if err != nil || status >= 300 || token == "" {
				continue
			}
			gone := created%2 == 0
			created++
			if gone {
				if status, _, err := v.do(http.MethodPost, "auth/token/revoke", map[string]any{"token": token}); err != nil || status >= 300 {
					continue
				}
			}
			tk.mu.Lock()
			tk.revoked[token] = gone
			tk.mu.Unlock()
		}
	})
	t.Cleanup(wg.Wait)
	return tk
}

// count counts those that live, and those that are revoked.
func (tk *tokens) count() (live, revoked int) {
	tk.mu.Lock()
	defer tk.mu.Unlock()
	for _, gone := range tk.revoked {
		if gone {
			revoked++
		} else {
			live++
		}
	}
	return live, revoked
}

func (tk *tokens) check(t *testing.T, v *vault) {
	t.Helper()
	for token, revoked := range tk.revoked {
		status, _, err := v.as(token).do(http.MethodGet, "auth/token/lookup-self", nil)
		if err != nil {
			t.Fatal(err)
		}
		if want := map[bool]int{false: http.StatusOK, true: http.StatusForbidden}[revoked]; status != want {
			t.Errorf("a token whose revocation was acknowledged (%t) is answered %d", revoked, status)
		}
	}
	live, revoked := tk.count()
	t.Logf("%d tokens live, %d are revoked", live, revoked)
}
