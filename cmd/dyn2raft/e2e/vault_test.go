//go:build e2e

package e2e

import (
	"cmp"
	"context"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/dyn2raft/dyn2raft/cmd/dyn2raft/server"
)

// node is one Vault server to be: its ports and its folder stay the same over restarts.
type node struct {
	id               string
	dir              string // the Raft data directory; unused where the storage is DynamoDB
	seal             string // a stanza; empty where shares unseal it
	program          string // a Vault; empty for VAULT_BIN
	unnamed          bool   // no node_id is configured
	api, clusterPort int
}

func newNode(t *testing.T, id string) node {
	return node{id: id, dir: t.TempDir(), api: freePort(t), clusterPort: freePort(t)}
}

func (n node) apiAddr() string     { return fmt.Sprintf("http://127.0.0.1:%d", n.api) }
func (n node) clusterAddr() string { return fmt.Sprintf("https://127.0.0.1:%d", n.clusterPort) }

// idLine is the stanza's line that names the node.
func (n node) idLine() string {
	if n.unnamed {
		return ""
	}
	return fmt.Sprintf("node_id = %q", n.id)
}

// vault is a running server and a small client of its HTTP API.
type vault struct {
	*process
	node  node
	token string
	http  *http.Client
}

// startVault starts an unmodified server on the storage stanza and waits until its API
// answers; it is still sealed then.
func startVault(t *testing.T, n node, storage string) *vault {
	t.Helper()
	v := launchVault(t, n, storage)
	waitFor(t, n.id+" to answer", 60*time.Second, func() error {
		_, err := v.sealStatus()
		return err
	})
	return v
}

func launchVault(t *testing.T, n node, storage string) *vault {
	t.Helper()
	config := filepath.Join(t.TempDir(), "vault.hcl")
	writeFile(t, config, server.Config(n.api, n.clusterPort, storage+n.seal))
	v := &vault{
		process: start(t, "vault "+n.id, cmp.Or(n.program, vaultBin), "server", "-config", config),
		node:    n,
		http:    &http.Client{Timeout: time.Minute, Transport: &http.Transport{}},
	}
	t.Cleanup(v.http.CloseIdleConnections)
	return v
}

// dynamoDBStorage is the stanza of a server on the table. The words of the stanza are
// the same ones that migrate.hcl uses for its source.
func dynamoDBStorage(keyword, endpoint string) string {
	return fmt.Sprintf(`
%s "dynamodb" {
  ha_enabled = "true"
  region     = "us-east-1"
  table      = %q
  endpoint   = %q
}
`, keyword, tableName, endpoint)
}

// raftStorage is the stanza of a server on a Raft data directory. The performance
// multiplier is the one Vault's documentation recommends for production; it keeps the
// elections short.
func raftStorage(n node, extra string) string {
	return fmt.Sprintf(`
storage "raft" {
  path                   = %q
  performance_multiplier = "1"
  %s
  %s
}
`, n.dir, n.idLine(), extra)
}

func (v *vault) do(method, path string, body any) (int, map[string]any, error) {
	if err := v.alive(); err != nil {
		return 0, nil, err
	}
	return server.Client{Addr: v.node.apiAddr(), Token: v.token, HTTP: v.http}.Do(context.Background(), method, path, body)
}

// call is do for requests that must succeed. It returns the answer's "data" where
// there is one, else its "auth", else the answer. As Vault's own client it asks again where
// the server says that it can't now (status 500 and up): on a busy machine a leader that has
// not heard of its followers for half a second steps down, and fails what is under way.
func (v *vault) call(t *testing.T, method, path string, body any) map[string]any {
	t.Helper()
	status, answer, err := v.do(method, path, body)
	for deadline := time.Now().Add(healthLimit); err == nil && status >= 500 && time.Now().Before(deadline); status, answer, err = v.do(method, path, body) {
		t.Logf("%s: %s %s: status %d: %v: once more", v.name, method, path, status, answer["errors"])
		time.Sleep(time.Second)
	}
	if err != nil {
		t.Fatalf("%s: %s %s: %v", v.name, method, path, err)
	}
	if status >= 300 {
		t.Fatalf("%s: %s %s: status %d: %v", v.name, method, path, status, answer["errors"])
	}
	for _, part := range []string{"data", "auth"} {
		if m, ok := answer[part].(map[string]any); ok {
			return m
		}
	}
	return answer
}

func (v *vault) read(t *testing.T, path string) map[string]any {
	t.Helper()
	return v.call(t, http.MethodGet, path, nil)
}

func (v *vault) write(t *testing.T, path string, body any) map[string]any {
	t.Helper()
	return v.call(t, http.MethodPost, path, body)
}

func (v *vault) delete(t *testing.T, path string) {
	t.Helper()
	v.call(t, http.MethodDelete, path, nil)
}

// as is the same server, asked with another token.
func (v *vault) as(token string) *vault {
	other := *v
	other.token = token
	return &other
}

type sealStatus struct {
	initialized, sealed bool
}

func (v *vault) sealStatus() (sealStatus, error) {
	status, answer, err := v.do(http.MethodGet, "sys/seal-status", nil)
	if err != nil {
		return sealStatus{}, err
	}
	if status != http.StatusOK {
		return sealStatus{}, fmt.Errorf("seal-status answers %d: %v", status, answer["errors"])
	}
	initialized, _ := answer["initialized"].(bool)
	sealed, _ := answer["sealed"].(bool)
	return sealStatus{initialized, sealed}, nil
}

// keys are those of a Vault, each two of three shares: they unseal it, or, where it
// unseals itself, make a root token.
type keys struct {
	shares   []string
	recovery []string
	root     string
}

func (v *vault) initialize(t *testing.T) keys {
	t.Helper()
	of := "secret"
	if v.node.seal != "" {
		of = "recovery"
	}
	answer := v.call(t, http.MethodPut, "sys/init", map[string]any{of + "_shares": 3, of + "_threshold": 2})
	list := func(name string) (shares []string) {
		all, _ := answer[name].([]any)
		for _, share := range all {
			shares = append(shares, share.(string))
		}
		return shares
	}
	return keys{shares: list("keys_base64"), recovery: list("recovery_keys_base64"), root: answer["root_token"].(string)}
}

// unseal gives the keys and waits until the server is the active node, or a standby
// of one. A node that is to join a Raft cluster takes the keys only when it has found
// the leader, so they are given until it is unsealed.
func (v *vault) unseal(t *testing.T, k keys) {
	t.Helper()
	v.token = k.root
	waitFor(t, v.node.id+" to unseal", healthLimit, func() error {
		status, err := v.sealStatus()
		if err != nil || !status.sealed {
			return err
		}
		for _, share := range k.shares[:min(2, len(k.shares))] {
			code, answer, err := v.do(http.MethodPut, "sys/unseal", map[string]any{"key": share})
			if err != nil {
				return err
			}
			if code != http.StatusOK {
				return fmt.Errorf("unseal answers %d: %v", code, answer["errors"])
			}
		}
		if status, err = v.sealStatus(); err == nil && status.sealed {
			err = fmt.Errorf("still sealed (initialized: %t)", status.initialized)
		}
		return err
	})
}

// health is 200 for an active node and 429 for a standby.
func (v *vault) waitHealth(t *testing.T, want int) {
	t.Helper()
	waitFor(t, fmt.Sprintf("%s to have health %d", v.node.id, want), healthLimit, func() error {
		code, _, err := v.do(http.MethodGet, "sys/health", nil)
		if err == nil && code != want {
			err = fmt.Errorf("health is %d", code)
		}
		return err
	})
}

// voters is how many voters `vault operator raft list-peers` would show.
func (v *vault) voters(t *testing.T) int {
	t.Helper()
	config := v.read(t, "sys/storage/raft/configuration")["config"].(map[string]any)
	n := 0
	for _, s := range config["servers"].([]any) {
		if s.(map[string]any)["voter"] == true {
			n++
		}
	}
	return n
}

// mounts is how many secrets engines `vault secrets list` would show.
func (v *vault) mounts(t *testing.T) int {
	t.Helper()
	return len(v.read(t, "sys/mounts"))
}

func writeFile(t *testing.T, name, content string) {
	t.Helper()
	if err := os.WriteFile(name, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
}
