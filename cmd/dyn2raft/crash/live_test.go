package crash

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/dynamodb/types"

	"github.com/dyn2raft/dyn2raft/copier"
	"github.com/dyn2raft/dyn2raft/copier/durable"
	"github.com/dyn2raft/dyn2raft/sinks/raft"
	"github.com/dyn2raft/dyn2raft/sources/dynamodb"
	"github.com/dyn2raft/dyn2raft/sources/dynamodb/dynamotest"
	"github.com/dyn2raft/dyn2raft/sources/raft/vaultdb"
)

// A served table is one that a Vault serves and its clients write to.
type served struct {
	t     *testing.T
	s     *dynamotest.Server
	table string
	stop  chan struct{}
	done  sync.WaitGroup

	active sync.RWMutex // held to write, and while the lock changes hands
	leads  bool
	mu     sync.Mutex
	acked  map[string][]byte // nil is deleted
	writes int
}

// lead has the Vault take the leader lock, where nobody has it, and stepDown give it back
// once all writes are acknowledged.
func (v *served) lead() {
	v.active.Lock()
	defer v.active.Unlock()
	if v.leads || v.s.GetItem(v.table, "core", "_lock") != nil || v.s.GetItem(v.table, "core", "migration") != nil {
		return
	}
	v.leads = true
	v.ok(v.s.PutItem(v.table, map[string]types.AttributeValue{
		"Path": &types.AttributeValueMemberS{Value: "core"}, "Key": &types.AttributeValueMemberS{Value: "_lock"},
		"Value": &types.AttributeValueMemberB{Value: []byte("leader-v1")}, "Identity": &types.AttributeValueMemberB{Value: []byte("v1")},
		"Expires": &types.AttributeValueMemberN{Value: strconv.FormatInt(time.Now().Add(time.Hour).UnixNano(), 10)},
	}))
}

func (v *served) stepDown() {
	v.active.Lock()
	defer v.active.Unlock()
	if v.leads {
		v.leads = false
		v.ok(v.s.DeleteItem(v.table, "core", "_lock"))
	}
}

func (v *served) ok(err error) {
	if err != nil {
		v.t.Error(err)
	}
}

// stepDownLater is stepDown once so many more writes are acknowledged, unless ctx ends.
func (v *served) stepDownLater(ctx context.Context) {
	written := func() int { v.mu.Lock(); defer v.mu.Unlock(); return v.writes }
	for until := written() + 100; written() < until && ctx.Err() == nil; {
		time.Sleep(time.Millisecond)
	}
	v.stepDown()
}

// client writes to keys that nobody else writes to.
func (v *served) client(i int, rnd *rand.Rand) {
	for n := 0; ; n++ {
		select {
		case <-v.stop:
			return
		case <-time.After(time.Duration(rnd.IntN(int(20 * time.Millisecond)))):
		}
		key := fmt.Sprintf("logical/live-%d/%d", i, rnd.IntN(200))
		v.active.RLock()
		if v.leads {
			value := fmt.Appendf(nil, "%d", n)
			if rnd.IntN(4) == 0 {
				value = nil
				path, name := dynamodb.KeyItem(key)
				v.ok(v.s.DeleteItem(v.table, path, name))
			} else {
				v.ok(v.s.PutVaultEntry(v.table, key, value))
			}
			v.mu.Lock()
			v.acked[key] = value
			v.writes++
			v.mu.Unlock()
		}
		v.active.RUnlock()
	}
}

// TestLive copies a table to a data directory while a Vault writes to it, with a rehearsal,
// and kills the process before some operation on the disk several times.
func TestLive(t *testing.T) {
	for seed := range uint64(5) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) { liveCopy(t, seed) })
	}
}

func liveCopy(t *testing.T, seed uint64) {
	rnd := rand.New(rand.NewPCG(seed, 1))
	s, err := dynamotest.Listen(dynamotest.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	v := &served{t: t, s: s, table: "vault", stop: make(chan struct{}), acked: map[string][]byte{}}
	v.ok(s.CreateVaultTable(v.table))
	if _, err := (dynamotest.VaultShape{Entries: 2000, Seed: seed, ValueSize: 100}).Load(s, v.table); err != nil {
		t.Fatal(err)
	}
	v.ok(s.SetStreamSettings(v.table, dynamotest.StreamSettings{Shards: 3}))
	v.lead()
	for i := range 4 {
		r := rand.New(rand.NewPCG(seed, uint64(10+i)))
		v.done.Go(func() { v.client(i, r) })
	}
	end := sync.OnceFunc(func() { close(v.stop); v.done.Wait() })
	defer end()

	dir := t.TempDir()
	var res copier.Record
	for process := 0; ; process++ {
		killAt := -1
		if process < 3 {
			killAt = rnd.IntN(20 + rnd.IntN(600))
		}
		if res, err = v.copy(dir, killAt, process > 0); err == nil {
			break
		}
		if !errors.Is(err, errDead) {
			t.Fatalf("process %d: %v", process, err)
		}
		t.Logf("process %d, killed at operation %d", process, killAt)
		v.lead()
	}
	end()
	got := map[string][]byte{}
	src := &vaultdb.Source{Path: filepath.Join(dir, "vault.db")}
	if _, err := src.Open(t.Context()); err != nil {
		t.Fatal(err)
	}
	v.ok(copier.ReadAll(t.Context(), src, 1, func(_ int, b *copier.Batch) error {
		for i := range b.Len() {
			got[string(b.Entry(i).Key)] = bytes.Clone(b.Entry(i).Value)
		}
		return nil
	}))
	v.ok(src.Close())
	for key, want := range v.acked {
		value, there := got[key]
		if there != (want != nil) || !bytes.Equal(value, want) {
			t.Errorf("%s is %q in place, there %v, and %q was acknowledged", key, value, there, want)
		}
	}
	if len(v.acked) < 100 || len(got) < 2000 || res.Live.Outage <= 0 || !res.Complete {
		t.Errorf("%d keys were written, %d are in place: %+v", len(v.acked), len(got), res.Live)
	}
	t.Logf("%d keys written; %+v", len(v.acked), *res.Live)
}

// copy runs a process. The operator rehearses, and then cuts over.
func (v *served) copy(dir string, killAt int, resume bool) (copier.Record, error) {
	ctx, cancel := context.WithTimeout(v.t.Context(), 2*time.Minute)
	defer cancel()
	var mu sync.Mutex
	ops, dead := 0, false
	disk := &durable.Disk{Before: func(durable.Op) error {
		mu.Lock()
		defer mu.Unlock()
		dead = dead || ops == killAt
		ops++
		if dead {
			return errDead
		}
		return nil
	}}
	arm := copier.NotArmed
	set := func(a copier.Arm) {
		mu.Lock()
		defer mu.Unlock()
		arm = a
	}
	rehearsed := false
	src, err := dynamodb.New(ctx, dynamodb.Options{Table: v.table, Endpoint: v.s.URL, AccessKey: "live", SecretKey: "live",
		HAEnabled: true, EnableStream: func(context.Context) (bool, error) { return true, nil }, Heartbeat: time.Second})
	if err != nil {
		return copier.Record{}, err
	}
	dst, err := raft.New(raft.Options{Path: dir, Address: "10.0.0.1:8201", Disk: disk})
	if err != nil {
		return copier.Record{}, err
	}
	var operator sync.WaitGroup
	defer func() { cancel(); operator.Wait() }()
	events := func(e copier.Event) {
		switch e := e.(type) {
		case copier.ReadyToCutOver:
			set(copier.Rehearse)
			if rehearsed {
				set(copier.Armed)
			}
			operator.Go(func() { v.stepDownLater(ctx) })
		case copier.Rehearsed:
			v.t.Logf("rehearsed: %+v", e)
			rehearsed = true
			v.lead()
			set(copier.Armed)
			operator.Go(func() { v.stepDownLater(ctx) })
		case copier.GivenBack:
			v.t.Logf("given back: %v", e.Err)
			v.lead()
			operator.Go(func() { v.stepDownLater(ctx) })
		case copier.CutOver:
			v.t.Logf("cut over: %+v", e)
		}
	}
	return copier.Copy(ctx, src, dst, copier.Options{Resume: resume, Uninitialized: true, Memory: copier.MinMemory, Disk: disk, Events: events,
		CheckpointInterval: 100 * time.Millisecond,
		Live:               &copier.Live{Beyond: time.Second, Armed: func() copier.Arm { mu.Lock(); defer mu.Unlock(); return arm }}})
}
