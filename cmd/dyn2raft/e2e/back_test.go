//go:build e2e

package e2e

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/dyn2raft/dyn2raft/copier"
	sink "github.com/dyn2raft/dyn2raft/sinks/dynamodb"
	source "github.com/dyn2raft/dyn2raft/sources/raft"
)

// TestRaftToDynamoDB is the way back: a Vault that began on integrated storage is copied
// from its directory into a new table, on which a Vault starts with the old keys, has all
// that was there, and lists it. While the copy is under way none starts on the table.
func TestRaftToDynamoDB(t *testing.T) {
	old := newNode(t, "old")
	v := startVault(t, old, raftStorage(old, ""))
	keys := v.initialize(t)
	v.unseal(t, keys)
	v.waitHealth(t, http.StatusOK)
	contents := fill(t, v)
	contents.check(t, v)
	v.stop(t)

	endpoint := startDynamoDBLocal(t).URL
	src, err := source.New(source.Options{Paths: []string{old.dir}})
	if err != nil {
		t.Fatal(err)
	}
	dst, err := sink.New(t.Context(), sink.Options{Table: tableName, Region: "us-east-1", Endpoint: endpoint, AccessKey: anyCredential, SecretKey: anyCredential})
	if err != nil {
		t.Fatal(err)
	}
	refused := false
	rec, err := copier.Copy(t.Context(), src, dst, copier.Options{WorkDir: t.TempDir(), Record: func(context.Context, copier.Record) error {
		if !refused { // all is written, and nothing is committed
			refused = true
			n := newNode(t, "too-early")
			early := launchVault(t, n, dynamoDBStorage("storage", endpoint))
			early.waitExit(t, time.Minute)
			if out := early.output(); !strings.Contains(out, "migration") {
				t.Errorf("a Vault that was started too early ends with %s", lastLines(out, 5))
			}
		}
		return nil
	}})
	if err != nil || !refused || rec.State != copier.Released || rec.Proof == nil {
		t.Fatalf("%v; a Vault was refused: %v; state %q", err, refused, rec.State)
	}
	table := openTable(endpoint)
	for _, key := range []string{"_lock", "migration", "_dyn2raft"} {
		if it := table.get(t, "core", key); it != nil {
			t.Errorf("the item core/%s is left: %v", key, it)
		}
	}
	t.Logf("copied %d entries", rec.Load.Entries)

	n := newNode(t, "back")
	v = startVault(t, n, dynamoDBStorage("storage", endpoint))
	v.unseal(t, keys)
	v.waitHealth(t, http.StatusOK)
	contents.check(t, v)
	// What DynamoDB's List hides it hides here as well, and nothing else.
	var want []string
	for name := range contents.kv1 {
		if !strings.Contains("/"+name, "/_") {
			want = append(want, name)
		}
	}
	listed := contents.listed(t, v)
	if missing := slices.DeleteFunc(want, func(name string) bool { return listed[name] }); len(missing) > 0 {
		t.Errorf("%d secrets are not listed: %s", len(missing), fmt.Sprint(missing[:min(len(missing), 5)]))
	}
}
