package dynamodb

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"maps"
	"math/rand/v2"
	"path"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb/types"

	"github.com/dyn2raft/dyn2raft/copier"
	"github.com/dyn2raft/dyn2raft/copier/copiertest"
	"github.com/dyn2raft/dyn2raft/sources/dynamodb/dynamotest"
)

func streaming(o *Options) { o.EnableStream = func(context.Context) (bool, error) { return true, nil } }

// TestFeedContract holds a table that is followed, and taken, to what the engine demands.
func TestFeedContract(t *testing.T) {
	onEach(t, func(of *env) {
		copiertest.TestFeed(of, func() copiertest.Served {
			e := of.another()
			if e.srv != nil {
				e.ok(e.srv.SetStreamSettings(e.table, dynamotest.StreamSettings{Shards: 3, Change: 2 * time.Second}))
			}
			serve := func() error {
				e.put(vaultLease{"v1", e.timing.lease, nil}.item())
				return nil
			}
			e.ok(serve())
			var hide func(string) error
			if e.srv != nil {
				hide = func(folder string) error { e.hide(path.Clean(folder), "1", "5"); return nil }
			}
			return copiertest.Served{
				Hide: hide,
				Open: func() copier.Source {
					s, _ := e.source(ha, streaming)
					return s
				},
				Serve:    serve,
				StepDown: func() error { e.del(leaderLockKey); return nil },
				Put: func(entry copier.Entry) error {
					path, key := KeyItem(string(entry.Key))
					e.put(with(path, key, attrs{attrValue: bin(string(entry.Value))}))
					return nil
				},
				Delete: func(key []byte) error { e.del(string(key)); return nil },
				Replace: func() error {
					for _, spec := range []types.StreamSpecification{{StreamEnabled: aws.Bool(false)}, {StreamEnabled: aws.Bool(true), StreamViewType: types.StreamViewTypeKeysOnly}} {
						if _, err := e.db.UpdateTable(e.Context(), &dynamodb.UpdateTableInput{TableName: &e.table, StreamSpecification: &spec}); err != nil {
							return err
						}
						time.Sleep(3 * time.Second) // it has no condition to wait for that both servers have
					}
					return nil
				},
			}
		})
	})
}

// hide has a shard of its own record the items of a Path from one Key up to another, and
// deliver none of them.
func (e *env) hide(path, from, to string) {
	e.Helper()
	for _, key := range []string{from, to} {
		_, _, err := e.srv.Stream(e.table).Split(path, key)
		e.ok(err)
	}
	e.ok(e.srv.SetStreamSettings(e.table, dynamotest.StreamSettings{Shards: 3, Change: 2 * time.Second, Delay: func(w dynamotest.StreamWrite) time.Duration {
		if w.Path == path && w.Key >= from && w.Key < to {
			return 23 * time.Hour
		}
		return 0
	}}))
}

// another returns an empty table on a server of its kind.
func (e *env) another() *env {
	if e.srv != nil {
		return bubbleEnv(e.T, dynamotest.Options{})
	}
	out := *e
	out.table = fmt.Sprintf("vault-%d", realTables.Add(1))
	out.createTable()
	return &out
}

var feedSeeds = flag.Int("feed-seeds", 20, "how many seeds TestFeedSeeds tries")

// TestFeedSeeds writes at random while shards split, roll over and are late, requests
// fail, and processes end and resume: what was written before a Drain that passes was
// hinted at, by the process that has its position or by one before it.
func TestFeedSeeds(t *testing.T) {
	for seed := range *feedSeeds {
		t.Run(fmt.Sprint(seed), func(t *testing.T) { inBubble(t, func(t *testing.T) { feedSeed(t, uint64(seed)) }) })
	}
}

func feedSeed(t *testing.T, seed uint64) {
	r := rand.New(rand.NewPCG(seed, 22))
	e := bubbleEnv(t, dynamotest.Options{Seed: seed})
	delays := rand.New(rand.NewPCG(seed, 23)) // called with the server's locks held
	settings := dynamotest.StreamSettings{Shards: 1 + r.IntN(5), Change: time.Duration(r.IntN(3)) * time.Second, Page: 1 + r.IntN(3)}
	if seed%3 > 0 {
		settings.Delay = func(dynamotest.StreamWrite) time.Duration { return time.Duration(delays.IntN(3000)) * time.Millisecond }
	}
	e.ok(e.srv.SetStreamSettings(e.table, settings))
	if seed%2 > 0 {
		e.srv.SetFaults(
			&dynamotest.Fault{Kind: dynamotest.EmptyPage, Operation: "GetRecords", Probability: 0.2},
			&dynamotest.Fault{Kind: dynamotest.ExpiredIterator, Operation: "GetRecords", Probability: 0.05},
			&dynamotest.Fault{Kind: dynamotest.LimitExceeded, Operation: "DescribeStream", Probability: 0.1},
			&dynamotest.Fault{Kind: dynamotest.CorruptByte, Probability: 0.02},
			&dynamotest.Fault{Kind: dynamotest.ResetMidBody, Probability: 0.02},
			&dynamotest.Fault{Kind: dynamotest.Throttling, Probability: 0.02},
			&dynamotest.Fault{Kind: dynamotest.Unprocessed, Operation: "BatchGetItem", Probability: 0.3},
		)
	}
	ctx := e.Context()
	due := map[string]bool{} // keys written and not hinted at
	write := func() {
		key := fmt.Sprintf("logical/%d/%d", r.IntN(20), r.IntN(100))
		path, name := KeyItem(key)
		if r.IntN(3) == 0 {
			e.ok(e.srv.DeleteItem(e.table, path, name))
		}
		e.put(with(path, name, attrs{attrValue: bin(fmt.Sprint(r.Uint64()))}))
		due[key] = true
	}
	var at copier.Position
	process := func() (*Source, copier.Following) {
		s, _ := e.source(streaming)
		_, err := s.Open(ctx)
		e.ok(err)
		f, err := s.Follow(ctx, "run-1", at)
		e.ok(err)
		return s, f
	}
	take := func(h copier.Hints) {
		for _, key := range h.Keys {
			delete(due, string(key))
		}
		if h.Position != nil {
			at = h.Position
		}
	}
	s, f := process()
	h, err := f.Next(ctx) // a process that has no position begins anew, with all entries
	e.ok(err)
	take(h)
	for range 12 {
		for range r.IntN(30) {
			write()
		}
		switch stream := e.srv.Stream(e.table); r.IntN(6) {
		case 0:
			_, _, _ = stream.Split(fmt.Sprintf("logical/%d", r.IntN(20)), "") // it may begin there already
		case 1:
			stream.Roll()
		case 2: // killed, with hints that it has told nobody of
			e.ok(f.Close())
			e.ok(s.Close())
			s, f = process()
		case 3:
			time.Sleep(time.Duration(r.IntN(20)) * time.Minute)
		}
		for range r.IntN(4) {
			h, err := f.Next(ctx)
			e.ok(err)
			take(h)
		}
	}
	e.ok(f.Drain(ctx))
	for passed := false; !passed; {
		h, err := f.Next(ctx)
		e.ok(err)
		take(h)
		passed = h.Drained == 1
	}
	if len(due) > 0 {
		t.Errorf("seed %d: it has drained, and %d keys that were written before were not hinted at: %v", seed, len(due), due)
	}
	e.ok(f.Close())
	e.ok(s.Unfollow(ctx, "run-1", at))
	e.srv.SetFaults()
	e.unfollowed()
}

// stream is what the table's description says of its stream.
func (e *env) stream() streamState {
	e.Helper()
	out, err := e.db.DescribeTable(e.Context(), &dynamodb.DescribeTableInput{TableName: &e.table})
	e.ok(err)
	return streamOf(out.Table)
}

// unfollowed fails unless nothing is left of what following a table has set up.
func (e *env) unfollowed() {
	e.Helper()
	if e.stream().on {
		e.Error("the stream is still enabled")
	}
	for _, item := range e.srv.Items(e.table) {
		if p, err := itemOf(item); err != nil || owned(p.path) {
			e.Errorf("the table still has %v", p)
		}
	}
}

// followed returns a table of three shards that is followed, and its source.
func (e *env) followed(change ...func(*Options)) (*Source, *following) {
	e.Helper()
	e.ok(e.srv.SetStreamSettings(e.table, dynamotest.StreamSettings{Shards: 3}))
	return e.follow(nil, change...)
}

func (e *env) follow(at copier.Position, change ...func(*Options)) (*Source, *following) {
	e.Helper()
	s, _ := e.source(append(change, streaming)...)
	f, err := s.Follow(e.Context(), "run-1", at)
	e.ok(err)
	e.Cleanup(func() { e.ok(f.Close()) })
	return s, f.(*following)
}

// TestGaps: what may have been missed is noticed, in one process and by the next one.
func TestGaps(t *testing.T) {
	for name, c := range map[string]struct {
		says string
		do   func(e *env)
	}{
		"stream disabled": {"disabled", func(e *env) { e.ok(e.srv.DisableStream(e.table)) }},
		"stream replaced": {"its stream is arn:", func(e *env) {
			e.ok(e.srv.DisableStream(e.table))
			_, err := e.srv.EnableStream(e.table, types.StreamViewTypeKeysOnly)
			e.ok(err)
		}},
		"table replaced": {"made anew", func(e *env) {
			e.ok(e.srv.DisableStream(e.table))
			_, err := e.db.DeleteTable(e.Context(), &dynamodb.DeleteTableInput{TableName: &e.table})
			e.ok(err)
			e.ok(e.srv.CreateVaultTable(e.table))
			_, err = e.srv.EnableStream(e.table, types.StreamViewTypeKeysOnly)
			e.ok(err)
		}},
		"not read for a day":        {"read to its tip last", func(*env) { time.Sleep(23*time.Hour + time.Minute) }},
		"a clock that was set back": {"looked at last", nil},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T) {
				e := bubbleEnv(t, dynamotest.Options{})
				_, f := e.followed()
				h, err := f.Poll(e.Context())
				e.ok(err)
				at := h.Position
				if c.do == nil {
					var p place
					e.ok(json.Unmarshal(at, &p))
					p.Listed = p.Listed.Add(2 * time.Hour)
					at, err = json.Marshal(p)
					e.ok(err)
				} else {
					c.do(e)
					for range 10 { // within some seconds
						if _, err = f.Next(e.Context()); err != nil {
							break
						}
					}
					wantError(t, err, copier.ErrGap, "", StreamGap)
				}
				s, _ := e.source(streaming)
				_, err = s.Follow(e.Context(), "run-1", at)
				wantError(t, err, copier.ErrGap, "", StreamGap)
				wantError(t, err, copier.ErrSource, "", StreamGap)
				if name != "not read for a day" && !strings.Contains(err.Error(), c.says) {
					t.Errorf("error is %v", err)
				}
			})
		})
	}
}

// TestShardGone: a shard that the service has dropped before it was read to its end.
func TestShardGone(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		e := bubbleEnv(t, dynamotest.Options{})
		_, f := e.followed()
		h, err := f.Poll(e.Context())
		e.ok(err)
		var p place
		e.ok(json.Unmarshal(h.Position, &p))
		p.Shards["shardId-00000000000000000000-gone"] = &shardPlace{Tip: wall()}
		at, err := json.Marshal(p)
		e.ok(err)
		_, g := e.follow(at)
		_, err = g.Poll(e.Context())
		wantError(t, err, copier.ErrGap, "is gone", StreamGap)
	})
}

// TestTrimmedPlace: the record that was read last is trimmed, and nothing else is.
func TestTrimmedPlace(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		e := bubbleEnv(t, dynamotest.Options{})
		_, f := e.followed()
		h, err := f.Poll(e.Context())
		e.ok(err)
		e.ok(f.Close())
		e.put(with("logical", "late", attrs{attrValue: bin("1")}))
		e.srv.SetFaults(&dynamotest.Fault{Kind: dynamotest.TrimmedDataAccess, Operation: "GetShardIterator", Count: 3})
		_, g := e.follow(h.Position)
		if _, hinted := e.drain(g); !hinted["logical/late"] {
			t.Errorf("hints are %v", hinted)
		}
	})
}

// drain drains, and returns the last position and what was hinted at.
func (e *env) drain(f *following) (at copier.Position, hinted map[string]bool) {
	e.Helper()
	e.ok(f.Drain(e.Context()))
	f.mu.Lock()
	number := f.drains
	f.mu.Unlock()
	hinted = map[string]bool{}
	for {
		h, err := f.Next(e.Context())
		e.ok(err)
		for _, key := range h.Keys {
			hinted[string(key)] = true
		}
		if h.Position != nil {
			at = h.Position
		}
		if h.Drained == number {
			return at, hinted
		}
	}
}

// TestDrainWaits: what keeps a drain from passing.
func TestDrainWaits(t *testing.T) {
	for name, c := range map[string]struct {
		before func(e *env, st *dynamotest.Stream) // the drain
		during func(e *env, st *dynamotest.Stream) // it, when its first sentinels are written
		after  func(e *env, st *dynamotest.Stream) // lets it pass, where it can
	}{
		"all shards end behind their sentinels, and their children are not listed": {
			during: rollHidden,
			after: func(e *env, _ *dynamotest.Stream) {
				e.ok(e.srv.SetStreamSettings(e.table, dynamotest.StreamSettings{}))
			},
		},
		"a shard that nobody lists": {
			before: func(e *env, st *dynamotest.Stream) {
				_, children, err := st.Split("logical/1", "")
				e.ok(err)
				for i := range 60 {
					e.put(with(fmt.Sprint("logical/", i), "a", attrs{attrValue: bin("1")}))
				}
				hidden, most := "", -1 // the one of the two into which more falls
				for _, sh := range st.Shards() {
					if slices.Contains(children[:], sh.ID) && sh.Records > most {
						hidden, most = sh.ID, sh.Records
					}
				}
				e.ok(e.srv.SetStreamSettings(e.table, dynamotest.StreamSettings{Hidden: []string{hidden}}))
			},
			after: func(e *env, _ *dynamotest.Stream) {
				e.ok(e.srv.SetStreamSettings(e.table, dynamotest.StreamSettings{}))
			},
		},
		"all shards have ended, and their children are not listed": {
			before: rollHidden,
			after: func(e *env, _ *dynamotest.Stream) {
				e.ok(e.srv.SetStreamSettings(e.table, dynamotest.StreamSettings{}))
			},
		},
		"a parent that looks open": {
			before: func(e *env, st *dynamotest.Stream) {
				e.ok(e.srv.SetStreamSettings(e.table, dynamotest.StreamSettings{OpenParents: true}))
				st.Roll()
			},
			after: func(e *env, _ *dynamotest.Stream) {
				e.ok(e.srv.SetStreamSettings(e.table, dynamotest.StreamSettings{}))
			},
		},
		"records that are late": {
			before: func(e *env, st *dynamotest.Stream) {
				e.ok(e.srv.SetStreamSettings(e.table, dynamotest.StreamSettings{Delay: func(w dynamotest.StreamWrite) time.Duration { return 25 * time.Second }}))
			},
			after: func(e *env, _ *dynamotest.Stream) { time.Sleep(25 * time.Second) },
		},
		"a shard with a part of one Path that is listed late": {
			before: func(e *env, st *dynamotest.Stream) {
				_, _, err := st.Split("logical/hot", "b")
				e.ok(err)
				_, children, err := st.Split("logical/hot", "m")
				e.ok(err)
				e.ok(e.srv.SetStreamSettings(e.table, dynamotest.StreamSettings{Hidden: children[:1]}))
				time.AfterFunc(2*time.Second, func() { _ = e.srv.SetStreamSettings(e.table, dynamotest.StreamSettings{}) })
			},
		},
		"a shard with a part of one Path, of which nothing has come": {
			before: func(e *env, st *dynamotest.Stream) {
				_, _, err := st.Split("logical/hot", "b")
				e.ok(err)
				_, _, err = st.Split("logical/hot", "m")
				e.ok(err)
			},
		},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T) {
				e := bubbleEnv(t, dynamotest.Options{})
				rec := &recorder{}
				_, f := e.followed(func(o *Options) { o.Events = rec.record })
				if c.before != nil {
					c.before(e, e.srv.Stream(e.table))
				}
				e.ok(f.Drain(e.Context()))
				if c.during != nil {
					c.during(e, e.srv.Stream(e.table))
				}
				for until := time.Now().Add(20 * time.Second); time.Now().Before(until); {
					h, err := f.Next(e.Context())
					e.ok(err)
					if h.Drained > 0 {
						t.Fatalf("it has passed")
					}
				}
				warned := eventsOf[copier.Warning](rec)
				if c.after == nil {
					if len(warned) != 1 || strings.Count(warned[0].Message, "shardId-") != 1 {
						t.Errorf("warnings are %v", warned)
					}
					return
				}
				if len(warned) > 0 {
					t.Errorf("warnings are %v", warned)
				}
				c.after(e, e.srv.Stream(e.table))
				for passed := false; !passed; {
					h, err := f.Next(e.Context())
					e.ok(err)
					passed = h.Drained == 1
				}
			})
		})
	}
}

// rollHidden ends all shards, and DescribeStream does not list their children yet.
func rollHidden(e *env, st *dynamotest.Stream) {
	n := len(st.Shards())
	st.Roll()
	var hidden []string
	for _, sh := range st.Shards()[n:] {
		hidden = append(hidden, sh.ID)
	}
	e.ok(e.srv.SetStreamSettings(e.table, dynamotest.StreamSettings{Hidden: hidden}))
}

// TestDrainGivenUp: who can't write the sentinels in time begins another drain later, and
// follows on until then.
func TestDrainGivenUp(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		e := bubbleEnv(t, dynamotest.Options{})
		_, f := e.followed()
		ctx, cancel := context.WithCancel(e.Context())
		cancel()
		if err := f.Drain(ctx); err == nil {
			e.Error("the sentinels were written all the same")
		}
		for until := time.Now().Add(10 * time.Second); time.Now().Before(until); {
			_, err := f.Next(e.Context())
			e.ok(err)
		}
		e.ok(e.srv.PutVaultEntry(e.table, "logical/after", []byte("x")))
		_, hinted := e.drain(f)
		if !hinted["logical/after"] {
			e.Errorf("hinted at: %v", hinted)
		}
	})
}

// TestStreamDisabledInDrain: no shard is open then, and it does not pass.
func TestStreamDisabledInDrain(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		e := bubbleEnv(t, dynamotest.Options{})
		_, f := e.followed()
		e.ok(e.srv.DisableStream(e.table))
		e.ok(f.Drain(e.Context()))
		for {
			h, err := f.Next(e.Context())
			if h.Drained > 0 {
				t.Fatal("it has passed")
			}
			if err != nil {
				wantError(t, err, copier.ErrGap, "", StreamGap)
				return
			}
		}
	})
}

// TestWhoseStream: a stream is enabled where that is permitted, and disabled where it is
// the run's own.
func TestWhoseStream(t *testing.T) {
	t.Run("not permitted", func(t *testing.T) {
		inBubble(t, func(t *testing.T) {
			e := bubbleEnv(t, dynamotest.Options{})
			s, _ := e.source()
			_, err := s.Follow(e.Context(), "run-1", nil)
			wantError(t, err, copier.ErrSource, "no stream", StreamNotEnabled)
			e.unfollowed()
		})
	})
	t.Run("somebody else's", func(t *testing.T) {
		inBubble(t, func(t *testing.T) {
			e := bubbleEnv(t, dynamotest.Options{})
			st, err := e.srv.EnableStream(e.table, types.StreamViewTypeNewAndOldImages)
			e.ok(err)
			e.put(with("logical", "before", attrs{attrValue: bin("1")}))
			s, f := e.follow(nil)
			e.put(with("logical", "a", attrs{attrValue: bin("1")}))
			at, hinted := e.drain(f)
			if !hinted["logical/a"] || len(hinted) != 1 {
				t.Errorf("hints are %v", hinted)
			}
			e.ok(f.Close())
			e.ok(s.Unfollow(e.Context(), "run-1", at))
			if now := e.stream(); !now.on || now.arn != st.ARN {
				t.Errorf("the stream is now %+v", now)
			}
		})
	})
	t.Run("killed before it has a position", func(t *testing.T) {
		inBubble(t, func(t *testing.T) {
			e := bubbleEnv(t, dynamotest.Options{})
			e.srv.SetFaults(&dynamotest.Fault{Kind: dynamotest.AccessDenied, Operation: "DescribeStream"})
			s, _ := e.source(streaming)
			_, err := s.Follow(e.Context(), "run-1", nil)
			wantError(t, err, copier.ErrSource, "DescribeStream", Denied)
			e.srv.SetFaults()
			if !e.stream().on {
				t.Error("no stream was enabled")
			}
			again, _ := e.source(streaming)
			e.ok(again.Unfollow(e.Context(), "run-1", nil))
			e.unfollowed()
		})
	})
	t.Run("replicas", func(t *testing.T) {
		inBubble(t, func(t *testing.T) {
			e := bubbleEnv(t, dynamotest.Options{})
			e.ok(e.srv.SetTableDetails(e.table, dynamotest.TableDetails{Replicas: []string{"eu-west-1"}}))
			s, _ := e.source(streaming)
			_, err := s.Follow(e.Context(), "run-1", nil)
			wantError(t, err, ErrReplicated, "eu-west-1", StreamReplicated)
		})
	})
}

// TestFollowLocked: a table that could not be taken in the end is refused before anything
// is set up in it or read.
func TestFollowLocked(t *testing.T) {
	for name, c := range map[string]struct {
		there []attrs
		code  copier.Code
	}{
		"another run's core/migration": {entry(bin(parked)), LockedByCopy},
		"Vault's core/migration":       {entry(bin(`{"start":"2026-03-01T02:03:04+01:00"}`)), LockedByMigration},
		"closed by another run":        {[]attrs{vaultLease{"v1", closedFor, attrs{"Value": bin(holderPrefix + "run-0"), "Identity": bin("run-0")}}.item()}, LockedByCopy},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T) {
				e := bubbleEnv(t, dynamotest.Options{})
				e.put(c.there...)
				s, _ := e.source(ha, streaming)
				f, err := s.Follow(e.Context(), "run-1", nil)
				if err == nil {
					e.ok(f.Close())
				}
				if code, _ := copier.CodeOf(err); !errors.Is(err, copier.ErrLocked) || code != c.code {
					t.Errorf("%q: %v", code, err)
				}
				e.unfollowed()
			})
		})
	}
}

// TestHints: which items are hinted at.
func TestHints(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		e := bubbleEnv(t, dynamotest.Options{})
		_, f := e.followed()
		e.put(
			with(" ", "top", attrs{attrValue: bin("1")}), with("logical", "a/", nil), with("logical/a", "_x", attrs{attrValue: bin("1")}),
			with("logical/a", ".", attrs{attrValue: bin("1")}), with("core/leader", "id", attrs{attrValue: bin("1")}),
			with("core", "_lock", attrs{attrIdentity: bin("1")}), with("core", "lock", attrs{attrValue: bin("1")}), with("core", "migration", attrs{attrValue: bin("1")}),
		)
		_, hinted := e.drain(f)
		want := "core/leader/id logical/a/. logical/a/_x top"
		if got := strings.Join(slices.Sorted(maps.Keys(hinted)), " "); got != want {
			t.Errorf("hints are %q, expected %q", got, want)
		}
		e.put(with("logical", "odd/odd", attrs{attrValue: bin("1")}))
		var err error
		for err == nil {
			_, err = f.Next(e.Context())
		}
		wantError(t, err, copier.ErrSource, "odd/odd", NotVaultsItem)
	})
}

// TestReread reads keys that are there, that are not, and what is no entry.
func TestReread(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		e := bubbleEnv(t, dynamotest.Options{})
		_, f := e.followed()
		big := strings.Repeat("x", 390<<10)
		var keys [][]byte
		for i := range 90 { // in JSON that is more than a page of a Scan can be
			e.put(with("big", fmt.Sprintf("%03d", i), attrs{attrValue: bin(big)}))
			keys = append(keys, fmt.Appendf(nil, "big/%03d", i))
		}
		e.put(with("logical", "_lock", attrs{attrValue: bin("1"), attrIdentity: bin("1")}), with("logical", "empty", attrs{attrValue: null}))
		keys = append(keys, []byte("logical/_lock"), []byte("logical/empty"), []byte("logical/none"), []byte("big/000"))
		e.srv.SetFaults(&dynamotest.Fault{Kind: dynamotest.Unprocessed, Operation: "BatchGetItem", Probability: 0.5})
		var b copier.Batch
		e.ok(f.Reread(e.Context(), keys, &b))
		if b.Len() != 91 || b.Bytes() < 90*390<<10 {
			t.Errorf("it has %d entries of %d bytes", b.Len(), b.Bytes())
		}
		e.put(with("logical", "odd", attrs{attrValue: str("text")}))
		err := f.Reread(e.Context(), append(keys[:3:3], []byte("logical/odd")), &b)
		wantError(t, err, copier.ErrSource, "odd", NotVaultsItem)
		if b.Len() != 91 {
			t.Errorf("behind an error the batch has %d entries", b.Len())
		}
	})
}

// TestDrainHotPath: what a shard has that no sentinel falls into, and that has delivered some
// Paths, is listed in its place: many pages, without markers and locks, and also once the
// process and the shard are others.
func TestDrainHotPath(t *testing.T) {
	for name, before := range map[string]func(e *env, f *following, settings *dynamotest.StreamSettings) *following{
		"as it was": func(_ *env, f *following, _ *dynamotest.StreamSettings) *following { return f },
		"rolled over and forgotten, in another process": func(e *env, f *following, settings *dynamotest.StreamSettings) *following {
			at, _ := e.drain(f)
			e.ok(f.Close())
			e.srv.Stream(e.table).Roll()
			_, f = e.follow(at)
			e.drain(f)
			for _, sh := range e.srv.Stream(e.table).Shards() {
				if sh.Ended {
					settings.Hidden = append(settings.Hidden, sh.ID)
				}
			}
			e.ok(e.srv.SetStreamSettings(e.table, *settings))
			e.drain(f)
			for id, sh := range f.at.Shards {
				if sh.Done {
					e.Errorf("shard %s is still known", id)
				}
			}
			return f
		},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T) {
				e := bubbleEnv(t, dynamotest.Options{})
				_, f := e.followed()
				for _, key := range []string{"b", "m"} {
					_, _, err := e.srv.Stream(e.table).Split("logical/hot", key)
					e.ok(err)
				}
				want := map[string]string{}
				put := func(key string, size int) {
					e.put(with("logical/hot", key, attrs{attrValue: bin(strings.Repeat(key[:1], size))}))
					want["logical/hot/"+key] = strings.Repeat(key[:1], size)
				}
				for i := range 9 {
					put(fmt.Sprint("c", i), 300_000)
				}
				e.put(with("logical/hot", "d/", nil), with("logical/hot/d", "x", attrs{attrValue: bin("1")}))
				put("z", 1)
				var settings dynamotest.StreamSettings
				f = before(e, f, &settings)
				settings.Delay = func(w dynamotest.StreamWrite) time.Duration {
					if w.Path == "logical/hot" && w.Key >= "b" && w.Key < "m" {
						return time.Hour
					}
					return 0
				}
				e.ok(e.srv.SetStreamSettings(e.table, settings))
				e.ok(e.srv.DeleteItem(e.table, "logical/hot", "c0"))
				delete(want, "logical/hot/c0")
				put("e", 1)
				put("zz", 1)
				_, hinted := e.drain(f)
				if hinted["logical/hot/e"] || !hinted["logical/hot/zz"] {
					t.Errorf("hinted at are %v", hinted)
				}
				if len(f.unsure) != 1 || string(f.unsure[0]) != "logical/hot/" {
					t.Fatalf("unsure are %q", f.unsure)
				}
				pages := 0
				for after, more := []byte(nil), true; more; pages++ {
					var b copier.Batch
					next, err := f.List(e.Context(), f.unsure[0], after, &b)
					e.ok(err)
					for i := range b.Len() {
						got := b.Entry(i)
						if value, ok := want[string(got.Key)]; !ok || value != string(got.Value) {
							t.Errorf("%q has %d bytes, in the table %v", got.Key, len(got.Value), ok)
						}
						delete(want, string(got.Key))
					}
					after, more = next, next != nil
				}
				if len(want) > 0 || pages < 3 {
					t.Errorf("%d pages, and %d entries are missing", pages, len(want))
				}
			})
		})
	}
}

// TestDrainIsQuick: where records come at once a drain takes no longer than its requests.
func TestDrainIsQuick(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		e := bubbleEnv(t, dynamotest.Options{})
		_, f := e.followed()
		for range 3 {
			for until := time.Now().Add(10 * time.Second); time.Now().Before(until); {
				_, err := f.Next(e.Context())
				e.ok(err)
			}
			began := time.Now()
			e.drain(f)
			if took := time.Since(began); took > 2*drainPause {
				t.Errorf("it took %v", took)
			}
		}
	})
}

// TestLiveShare: less is read at a time once a request was throttled, and slowly more
// again.
func TestLiveShare(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		e := bubbleEnv(t, dynamotest.Options{})
		e.ok(e.srv.SetCapacity(e.table, 400, 400))
		s, f := e.followed(ha, func(o *Options) { o.LiveShare = 0.5 })
		e.put(with("logical", "a", attrs{attrValue: bin("1")}))
		rate := func() float64 { return float64(s.capacity.tokens.Limit()) / thousandths }
		read := func() {
			var b copier.Batch
			e.ok(f.Reread(e.Context(), [][]byte{[]byte("logical/a")}, &b))
		}
		read()
		if got := rate(); got != 200 {
			t.Errorf("at first it is %v units a second", got)
		}
		e.srv.SetFaults(&dynamotest.Fault{Kind: dynamotest.ThroughputExceeded, Operation: "BatchGetItem", Count: 2}, &dynamotest.Fault{Kind: dynamotest.LimitExceeded, Operation: "GetRecords"})
		read()
		_, err := f.Next(e.Context())
		e.ok(err)
		if got := rate(); got != 100 {
			t.Errorf("throttled, it is %v units a second", got)
		}
		for range 3 {
			time.Sleep(fastAgain)
			read()
		}
		if got := rate(); got < 130 || got > 140 {
			t.Errorf("half a minute later it is %v units a second", got)
		}
		lease, err := s.Take(e.Context(), "run-1", func(copier.Turn) {}, func(error) {})
		e.ok(err)
		began := time.Now()
		for range 1000 {
			read()
		}
		if took := time.Since(began); took > 0 {
			t.Errorf("while Vaults wait, reading is held back by %v", took)
		}
		e.ok(lease.Release(e.Context(), copier.EndFailed))
		for range 1000 {
			time.Sleep(fastAgain)
			read()
		}
		if got := rate(); got != 200 {
			t.Errorf("long after that it is %v units a second", got)
		}
	})
}

// TestLiveBucket: what is taken of a table while Vaults serve, at first and at most.
func TestLiveBucket(t *testing.T) {
	for _, c := range []struct {
		units          int64
		share, at      float64 // options
		first, highest float64
	}{
		{units: 400, first: 100, highest: 100},
		{units: 400, share: 0.5, first: 200, highest: 200},
		{units: 400, share: 0.5, at: 20, first: 20, highest: 20},
		{units: 400, at: 300, first: 300, highest: 300}, // it is asked for
		{units: 5, first: 5, highest: 5},                // a quarter is less than what is written to it
		{units: 1, first: 1, highest: 1},
		{first: 1000, highest: 10_000},
		{at: 30, first: 30, highest: 30},
	} {
		b := (&Source{opts: Options{LiveShare: c.share, ReadCapacity: c.at}}).liveBucket(c.units)
		if first := float64(b.tokens.Limit()) / thousandths; first != c.first || b.rate != c.highest {
			t.Errorf("%+v: %v units a second at first, %v at most", c, first, b.rate)
		}
	}
}

// TestPathBound: while Vaults serve, no more is read of one Path than a share of what a
// partition serves, by the base scan and by what reads changed items again, together.
func TestPathBound(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		e := bubbleEnv(t, dynamotest.Options{})
		s, f := e.followed(ha, func(o *Options) { o.ReadCapacity = 100_000 })
		keys := func(path string) (out [][]byte) {
			for i := range batchKeys {
				out = append(out, fmt.Appendf(nil, "%s/%d", path, i))
				e.put(with(path, fmt.Sprint(i), attrs{attrValue: bin(strings.Repeat("v", 6<<10))})) // 2 units each
			}
			return out
		}
		one, other := keys("logical/one"), keys("logical/other")
		took := func(what func()) time.Duration {
			time.Sleep(2 * time.Second) // what was read before does not count
			began := time.Now()
			what()
			return time.Since(began)
		}
		read := func(of ...[][]byte) {
			for _, keys := range of {
				var b copier.Batch
				e.ok(f.Reread(e.Context(), keys, &b))
			}
		}
		if got := took(func() {
			for range 20 { // 4,000 units, of 750 a second
				read(one)
			}
		}); got < 4*time.Second || got > 7*time.Second {
			t.Errorf("20 times 100 entries of 2 units take %v", got)
		}
		if got := took(func() { read(one, other, one, other, one, other) }); got > 0 {
			t.Errorf("600 units of each of two Paths take %v", got)
		}
		query := func() {
			var b copier.Batch
			_, err := f.List(e.Context(), []byte("logical/one/"), nil, &b)
			e.ok(err)
		}
		if got := took(func() { query(); query(); query(); read(one) }); got < time.Second/2 {
			t.Errorf("three Queries and what is read again take %v", got)
		}
		lease, err := s.Take(e.Context(), "run-1", func(copier.Turn) {}, func(error) {})
		e.ok(err)
		if got := took(func() { read(one, one, one, one, one, one, one, one) }); got > 0 {
			t.Errorf("while Vaults wait, it takes %v", got)
		}
		e.ok(lease.Release(e.Context(), copier.EndFailed))
	})
}

// TestDelay: heartbeats show how late records are.
func TestDelay(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		e := bubbleEnv(t, dynamotest.Options{})
		_, f := e.followed()
		late := func(d time.Duration) {
			e.ok(e.srv.SetStreamSettings(e.table, dynamotest.StreamSettings{Delay: func(dynamotest.StreamWrite) time.Duration { return d }}))
			for until := time.Now().Add(time.Minute); time.Now().Before(until); {
				h, err := f.Next(e.Context())
				e.ok(err)
				if len(h.Keys) > 0 {
					t.Errorf("hints are %q", h.Keys)
				}
			}
			h, err := f.Next(e.Context())
			e.ok(err)
			if h.Delay < d || h.Delay > d+time.Second {
				t.Errorf("records are %v late, and it says %v", d, h.Delay)
			}
		}
		late(0)
		late(8 * time.Second)
		late(300 * time.Millisecond)
	})
}
