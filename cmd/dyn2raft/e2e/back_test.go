//go:build e2e

package e2e

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb"

	"github.com/dyn2raft/dyn2raft/copier"
	sink "github.com/dyn2raft/dyn2raft/sinks/dynamodb"
	source "github.com/dyn2raft/dyn2raft/sources/raft"
	"github.com/dyn2raft/dyn2raft/verify"
)

// TestRaftToDynamoDB is the way back: a Vault that began on integrated storage is copied
// from its directory into a new table, on which a Vault starts with the old keys, has all
// that was there, and lists it. While the copy is under way none starts on the table.
func TestRaftToDynamoDB(t *testing.T) {
	t.Parallel()
	old := newNode(t, "old")
	v := startVault(t, old, raftStorage(old, ""))
	keys := v.initialize(t)
	v.unseal(t, keys)
	v.waitHealth(t, http.StatusOK)
	contents := fill(t, v)
	contents.check(t, v)
	v.stop(t)

	endpoint := startDynamoDBLocal(t).URL
	table := openTable(endpoint)
	config := configOf(t, raftStanza("storage_source", old), dynamoDBStorage("storage_destination", endpoint))
	work := t.TempDir()
	// So slowly that it can be held while it is under way.
	copying := start(t, "dyn2raft copy", dyn2raftBin, "copy", "-config", config, "-work-dir", work, "-write-capacity", "50")
	waitFor(t, "the lock of the copy", time.Minute, func() error {
		if err := copying.alive(); err != nil {
			return err
		}
		out, err := table.client.GetItem(t.Context(), &dynamodb.GetItemInput{TableName: aws.String(tableName), Key: itemKey("core", "migration"), ConsistentRead: aws.Bool(true)})
		if err == nil && out.Item == nil {
			err = errors.New("there is none yet")
		}
		return err
	})
	if err := copying.cmd.Process.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	early := launchVault(t, newNode(t, "too-early"), dynamoDBStorage("storage", endpoint))
	early.waitExit(t, time.Minute)
	if out := early.output(); !strings.Contains(out, "migration") {
		t.Errorf("a Vault that was started too early ends with %s", lastLines(out, 5))
	}
	if err := copying.cmd.Process.Signal(syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	copying.waitExit(t, 5*time.Minute)
	if out := copying.output(); copying.cmd.ProcessState.ExitCode() != 0 || lastLines(out, 1) != successLine || !strings.Contains(out, "Next 3: ") {
		t.Fatalf("%s\n%s", copying.cmd.ProcessState, out)
	}
	verifyEqual(t, config, "-work-dir", work)
	for _, key := range []string{"_lock", "migration", "_dyn2raft"} {
		if it := table.get(t, "core", key); it != nil {
			t.Errorf("the item core/%s is left: %v", key, it)
		}
	}
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

// TestBackInPlace is the way back into the table that a Vault came from, after a life on
// integrated storage: what was revoked or deleted there stays so, what was made is there,
// and most of the table is not written at all. While the copy is under way no Vault starts
// on the table.
func TestBackInPlace(t *testing.T) {
	t.Parallel()
	s := &scenario{t: t, old: newNode(t, "old")}
	s.step("start DynamoDB Local", func() { s.table = openTable(withBackups(t, startDynamoDBLocal(t).URL)) })
	s.step("old Vault: fill, stop", func() {
		v := s.oldVault()
		s.contents = fill(t, v)
		v.stop(t)
		s.source = s.table.entries(t)
	})
	n := newNode(t, "node1")
	s.copy(n, "", "-keep-source-locked")
	there, err := verify.ReadManifest(manifestFile(n))
	if err != nil {
		t.Fatal(err)
	}

	v := s.newVault(n, "")
	c := s.contents
	revoked, user := c.tokens[0], "user-1"
	s.step("new Vault: revoke a token, delete a user and a secret, make others, rotate the keys", func() {
		v.write(t, "auth/token/revoke", map[string]any{"token": revoked})
		c.tokens = c.tokens[1:]
		v.delete(t, "auth/userpass/users/"+user)
		delete(c.users, user)
		v.delete(t, "kv1/"+deletedName)
		delete(c.kv1, deletedName)
		for _, name := range []string{updatedName, "a/new/folder/of its own"} {
			c.kv1[name] = map[string]any{"value": "written on integrated storage"}
			v.write(t, "kv1/"+name, c.kv1[name])
		}
		v.write(t, "sys/rotate", nil) // the keyring is another one
		c.tokens = append(c.tokens, v.write(t, "auth/token/create", map[string]any{"policies": []string{"readers"}, "ttl": "48h"})["client_token"].(string))
		v.stop(t)
	})

	src, err := source.New(source.Options{Paths: []string{n.dir}})
	if err != nil {
		t.Fatal(err)
	}
	var changes sink.Changes
	dst, err := sink.New(t.Context(), sink.Options{Table: tableName, Region: "us-east-1", Endpoint: s.table.endpoint, AccessKey: anyCredential, SecretKey: anyCredential,
		Replace: &sink.Replace{WorkDir: t.TempDir(), Backup: "before-the-way-back", TakeOver: there.RunID, HAEnabled: true,
			Begin: func(_ context.Context, c sink.Changes) error { changes = c; return nil }}})
	if err != nil {
		t.Fatal(err)
	}
	refused := false
	s.step("back into the table", func() {
		rec, err := copier.Copy(t.Context(), src, dst, copier.Options{WorkDir: t.TempDir(), Record: func(context.Context, copier.Record) error {
			if !refused { // all is written, and nothing is committed
				refused = true
				early := launchVault(t, newNode(t, "too-early"), dynamoDBStorage("storage", s.table.endpoint))
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
		t.Logf("%d entries; %d items are written, %d deleted, %d stay", rec.Load.Entries, changes.Put, changes.Delete, changes.Same)
	})
	if changes.Backup == "" || changes.Delete == 0 || changes.Put > changes.Same/2 {
		t.Errorf("it has changed %+v", changes)
	}
	for _, key := range []string{"_lock", "migration", "_dyn2raft"} {
		if it := s.table.get(t, "core", key); it != nil {
			t.Errorf("the item core/%s is left: %v", key, it)
		}
	}

	v = s.oldVault()
	c.check(t, v)
	for path, refusal := range map[string]struct {
		as     string
		method string
		body   any
		want   int
	}{
		"auth/token/lookup-self":      {revoked, http.MethodGet, nil, http.StatusForbidden},
		"auth/userpass/login/" + user: {"", http.MethodPost, map[string]any{"password": "password of " + user}, http.StatusBadRequest},
		"kv1/" + deletedName:          {v.token, http.MethodGet, nil, http.StatusNotFound},
	} {
		if code, _, err := v.as(refusal.as).do(refusal.method, path, refusal.body); err != nil || code != refusal.want {
			t.Errorf("%s is answered %d (%v), want %d", path, code, err, refusal.want)
		}
	}
	// And there again, now with three nodes and without the first of them.
	v.stop(t)
	s.source = s.table.entries(t)
	again := newNode(t, "again1")
	s.copy(again, "")
	for _, n := range append(s.join(s.newVault(again, ""), ""), again) {
		s.wantNothingLost(n)
	}
}

// withBackups is a server in front of DynamoDB Local, which makes no backups. It says that
// it has made them.
func withBackups(t *testing.T, endpoint string) string {
	t.Helper()
	to, err := url.Parse(endpoint)
	if err != nil {
		t.Fatal(err)
	}
	transport := &http.Transport{}
	t.Cleanup(transport.CloseIdleConnections)
	proxy := &httputil.ReverseProxy{Transport: transport, Rewrite: func(r *httputil.ProxyRequest) { r.SetURL(to) }}
	front := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !strings.HasSuffix(r.Header.Get("X-Amz-Target"), ".CreateBackup") {
			proxy.ServeHTTP(w, r)
			return
		}
		fmt.Fprintf(w, `{"BackupDetails":{"BackupArn":"arn:aws:dynamodb:ddblocal:000000000000:table/%s/backup/1","BackupName":"b","BackupStatus":"AVAILABLE","BackupType":"USER","BackupCreationDateTime":1}}`, tableName)
	}))
	t.Cleanup(front.Close)
	return front.URL
}
