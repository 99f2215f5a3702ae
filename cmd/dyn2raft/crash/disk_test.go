package crash

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/dyn2raft/dyn2raft/cmd/dyn2raft/hints"
	"github.com/dyn2raft/dyn2raft/copier"
	"github.com/dyn2raft/dyn2raft/copier/durable"
	"github.com/dyn2raft/dyn2raft/sinks/raft"
	"github.com/dyn2raft/dyn2raft/sources/dynamodb"
	"github.com/dyn2raft/dyn2raft/sources/dynamodb/dynamotest"
)

// TestDiskFails has the disk fail at the writes and syncs of vault.db: the copy
// ends with the destination's error and is kept, and once the disk is well again
// it is resumed.
func TestDiskFails(t *testing.T) {
	server := dynamotest.NewServer(dynamotest.Options{Latency: 4 * time.Millisecond})
	defer server.Close()
	newTable(t, server, "vault", 1)
	c := &crash{server: server}

	// run is a copy whose nth operation of a name fails, and all that follow.
	run := func(o order, name string, nth int, failure error) (res copier.Record, ops map[string]int, err error) {
		var mu sync.Mutex
		ops = map[string]int{}
		failed := false
		disk := &durable.Disk{Before: func(op durable.Op) error {
			mu.Lock()
			defer mu.Unlock()
			ops[op.String()]++
			failed = failed || op.String() == name && ops[name] == nth
			if failed {
				return &os.PathError{Op: op.Verb, Path: op.Path, Err: failure}
			}
			return nil
		}}
		src, err := dynamodb.New(t.Context(), dynamodb.Options{Table: o.Table, Endpoint: o.URL, AccessKey: "crash", SecretKey: "crash", HAEnabled: true})
		if err != nil {
			t.Fatal(err)
		}
		dst, err := raft.New(raft.Options{Path: o.Path, NodeID: o.NodeID, Address: "10.0.0.1:8201", Disk: disk})
		if err != nil {
			t.Fatal(err)
		}
		res, err = copier.Copy(t.Context(), src, dst, o.options(disk))
		return res, ops, err
	}
	begin := func() (o order) {
		o = order{URL: server.URL, Table: "vault", NodeID: "node-1"}
		if err := o.in(t.TempDir()); err != nil {
			t.Fatal(err)
		}
		return o
	}

	o := begin()
	_, all, err := run(o, "", 0, nil)
	if err = errors.Join(err, c.check(o)); err != nil {
		t.Fatal(err)
	}
	writes, syncs := all["write vault.db"], all["sync vault.db"]
	if writes < 3 || syncs < 2 {
		t.Fatalf("vault.db has %d writes and %d syncs", writes, syncs)
	}
	for _, at := range []struct {
		name string
		nth  int
	}{{"write vault.db", 2}, {"write vault.db", writes}, {"sync vault.db", 1}, {"sync vault.db", syncs}} {
		for _, failure := range []error{syscall.ENOSPC, syscall.EIO, syscall.EROFS} {
			t.Run(fmt.Sprintf("%s %d, %v", at.name, at.nth, failure), func(t *testing.T) {
				o := begin()
				res, _, err := run(o, at.name, at.nth, failure)
				if !errors.Is(err, copier.ErrDestination) || !errors.Is(err, failure) || errors.Is(err, copier.ErrSource) || !res.Resumable || res.Complete {
					t.Fatalf("resumable %v, complete %v: %v", res.Resumable, res.Complete, err)
				}
				if hint := hints.Of(err); hint == "" && failure != syscall.EIO {
					t.Error("no hint")
				}
				if err := holds(o.Path, ".dyn2raft"); err != nil {
					t.Error(err)
				}
				if _, locks, err := tableEntries(server, o.Table); err != nil || len(locks) != 2 {
					t.Errorf("locks %q, %v", locks, err)
				}
				o.Resume = true
				if res, _, err := run(o, "", 0, nil); err != nil || res.Resumed != 1 {
					t.Fatalf("resumed %d times, %v", res.Resumed, err)
				}
				if err := c.check(o); err != nil {
					t.Error(err)
				}
				if _, err := os.Lstat(filepath.Join(o.Path, "vault.db")); err != nil {
					t.Error(err)
				}
			})
		}
	}
}
