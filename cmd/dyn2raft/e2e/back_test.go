//go:build e2e

package e2e

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb"

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
// and most of the table is not written at all. The copy is killed when a part is written, and
// resumed: meanwhile no Vault starts on the table.
func TestBackInPlace(t *testing.T) {
	t.Parallel()
	s := &scenario{t: t, old: newNode(t, "old")}
	var front *inFront
	s.step("start DynamoDB Local", func() {
		front = startInFront(t, startDynamoDBLocal(t).URL)
		s.table = openTable(front.URL)
	})
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

	config := configOf(t, raftStanza("storage_source", n), dynamoDBStorage("storage_destination", s.table.endpoint))
	work := t.TempDir()
	s.step("back into the table, killed when a part is written", func() {
		front.hold.Store(true)
		copying := start(t, "dyn2raft copy", dyn2raftBin, "copy", "-config", config, "-work-dir", work, "-replace", "-backup", "before-the-way-back", "-take-over", there.RunID)
		waitFor(t, "a write that is held up behind another one", 5*time.Minute, func() error {
			if front.held.Load() == 0 || front.written.Load() == 0 {
				return errors.Join(copying.alive(), errors.New("there is none yet"))
			}
			return nil
		})
		early := launchVault(t, newNode(t, "too-early"), dynamoDBStorage("storage", s.table.endpoint))
		early.waitExit(t, time.Minute)
		if out := early.output(); !strings.Contains(out, "migration") {
			t.Errorf("a Vault that was started too early ends with %s", lastLines(out, 5))
		}
		copying.kill(t)
		front.hold.Store(false)
		if out := copying.output(); !strings.Contains(out, "there are two ways out: resume this copy, or restore the backup") {
			t.Errorf("it has said %s", out)
		}
		if run := runProgram(t, time.Minute, dyn2raftBin, "status", "-config", config, "-work-dir", work); !strings.Contains(run.stdout, "unfinished") {
			t.Errorf("status %d: %s%s", run.code, run.stdout, run.stderr)
		}
	})
	s.step("resumed", func() {
		out := copyTo(t, config, "-work-dir", work, "-replace", "-resume").stdout
		var put, deleted, same int64
		changed := regexp.MustCompile(`(?s)Changed\s+([\d,]+) items? w\S+\s+written,\s+([\d,]+) items? w\S+\s+deleted,\s+([\d,]+)\s+items\s+stayed`).FindStringSubmatch(out)
		for i, n := range []*int64{&put, &deleted, &same} {
			if len(changed) == 0 {
				break
			}
			*n, err = strconv.ParseInt(strings.ReplaceAll(changed[i+1], ",", ""), 10, 64)
			if err != nil {
				t.Error(err)
			}
		}
		if put+deleted == 0 || put > same/2 {
			t.Errorf("%d items are written, %d deleted, %d stay, by what it says:\n%s", put, deleted, same, out)
		}
	})
	verifyEqual(t, config, "-work-dir", work)
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

// An inFront is a server in front of DynamoDB Local, which makes no backups. It says that
// it has made them.
type inFront struct {
	*httptest.Server
	hold atomic.Bool // let one BatchWriteItem through, and the others wait for their client's end

	written, held atomic.Int64
}

func startInFront(t *testing.T, endpoint string) *inFront {
	t.Helper()
	to, err := url.Parse(endpoint)
	if err != nil {
		t.Fatal(err)
	}
	transport := &http.Transport{}
	t.Cleanup(transport.CloseIdleConnections)
	proxy := &httputil.ReverseProxy{Transport: transport, Rewrite: func(r *httputil.ProxyRequest) { r.SetURL(to) }}
	front := new(inFront)
	var passing sync.Mutex
	front.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, action, _ := strings.Cut(r.Header.Get("X-Amz-Target"), ".")
		switch {
		case action == "CreateBackup":
			fmt.Fprintf(w, `{"BackupDetails":{"BackupArn":"arn:aws:dynamodb:ddblocal:000000000000:table/%s/backup/1","BackupName":"b","BackupStatus":"AVAILABLE","BackupType":"USER","BackupCreationDateTime":1}}`, tableName)
		case action == "BatchWriteItem" && front.hold.Load():
			body, err := io.ReadAll(r.Body) // only then the end of the connection is seen
			if err != nil {
				return
			}
			r.Body = io.NopCloser(bytes.NewReader(body))
			passing.Lock()
			first := front.written.Load() == 0
			if first {
				proxy.ServeHTTP(w, r)
				front.written.Add(1)
			}
			passing.Unlock()
			if !first {
				front.held.Add(1)
				<-r.Context().Done()
			}
		default:
			proxy.ServeHTTP(w, r)
		}
	}))
	t.Cleanup(front.Close)
	return front
}
