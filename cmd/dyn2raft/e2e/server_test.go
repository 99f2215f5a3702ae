//go:build e2e

package e2e

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// A planned is what dyn2raft plan says, as JSON.
type planned struct {
	Checks []struct{ Check, Status, Message string }
}

// failures are the failed checks of the server's configuration.
func (p planned) failures() (found []string) {
	for _, c := range p.Checks {
		if c.Status == "failure" && (strings.HasPrefix(c.Check, "server-") || c.Check == "node-id") {
			found = append(found, c.Check+": "+c.Message)
		}
	}
	return found
}

func (s *scenario) plan(n node, flags ...string) planned {
	s.t.Helper()
	run := runProgram(s.t, time.Minute, dyn2raftBin, append([]string{"plan", "-config", s.migrateFile(n, ""), "-no-sample", "-format", "json"}, flags...)...)
	var out planned
	if err := json.Unmarshal([]byte(run.stdout), &out); err != nil || len(out.Checks) == 0 {
		s.t.Fatalf("plan: %v\nstdout: %s\nstderr: %s", err, run.stdout, run.stderr)
	}
	return out
}

// serverConfig is a whole server's configuration, from which the tests take a piece
// away, or to which they add one.
func serverConfig(n node) string {
	return fmt.Sprintf(`disable_mlock = true
storage "raft" {
  path = %q
  node_id = %q
}
listener "tcp" {
  address = "127.0.0.1:%d"
  cluster_address = "127.0.0.1:%d"
  tls_disable = true
}
api_addr = %q
cluster_addr = %q
`, n.dir, n.id, n.api, n.clusterPort, n.apiAddr(), n.clusterAddr())
}

// startsOrEnds waits for a Vault to do one of the two.
func (p *process) startsOrEnds(t *testing.T) (started bool) {
	t.Helper()
	waitFor(t, "Vault to start or to end", time.Minute, func() error {
		started = strings.Contains(p.output(), "Vault server started!")
		if !started && p.alive() == nil {
			return errors.New("it has not said so yet")
		}
		return nil
	})
	return started
}

// TestServerStarts gives each configuration to dyn2raft plan and to the real Vault: where
// plan says that it keeps Vault from starting, Vault ends, and it starts from each that
// passes.
func TestServerStarts(t *testing.T) {
	s := &scenario{t: t, table: openTable(startEmbeddedServer(t))}
	s.table.create(t)
	const node, mlock = `node_id = "node1"`, "disable_mlock = true"
	for name, c := range map[string]struct {
		starts bool
		put    map[string]string // the key is replaced by the value
		more   string
		env    string // one variable
		id     string // in both files
	}{
		"as the runbook has it": {starts: true},
		"mlock either way":      {starts: true, put: map[string]string{mlock: "disable_mlock = false"}},
		"mlock, a number":       {starts: true, put: map[string]string{mlock: "disable_mlock = 1"}},
		"mlock by variable":     {starts: true, put: map[string]string{mlock: ""}, env: "VAULT_DISABLE_MLOCK=true"},
		"no mlock":              {put: map[string]string{mlock: ""}},
		"mlock, no boolean":     {put: map[string]string{mlock: `disable_mlock = "maybe"`}},
		"variable, no boolean":  {env: "VAULT_DISABLE_MLOCK=maybe"},

		"no api_addr":          {put: map[string]string{"api_addr = ": "# "}},
		"api_addr by variable": {starts: true, put: map[string]string{"api_addr = ": "# "}, env: "VAULT_API_ADDR=http://127.0.0.1:1"},
		"by an old one":        {starts: true, put: map[string]string{"api_addr = ": "# "}, env: "VAULT_REDIRECT_ADDR=http://127.0.0.1:1"},
		"by the stanza":        {starts: true, put: map[string]string{"api_addr = ": "# ", node: node + "\n redirect_addr = \"http://127.0.0.1:1\""}},
		"api_addr, no scheme":  {put: map[string]string{"api_addr = \"http://": "api_addr = \""}},
		"one for both":         {put: map[string]string{"api_addr = ": "# "}, env: "VAULT_API_ADDR=$CLUSTER"},

		"no cluster_addr":            {put: map[string]string{"\ncluster_addr = ": "\n# "}},
		"cluster_addr by variable":   {starts: true, put: map[string]string{"\ncluster_addr = ": "\n# "}, env: "VAULT_CLUSTER_ADDR=$CLUSTER"},
		"cluster_addr in the stanza": {put: map[string]string{"\ncluster_addr = ": "\n# ", node: node + "\n cluster_addr = \"$CLUSTER\""}},
		"cluster_addr, no scheme":    {put: map[string]string{"cluster_addr = \"https://": "cluster_addr = \""}},

		"ha_storage left over": {more: `ha_storage "dynamodb" { table = "x" }`},
		"ha_backend":           {more: `ha_backend "raft" { path = "/x" }`},
		"no clustering":        {more: "disable_clustering = true"},
		"in the stanza":        {put: map[string]string{node: node + "\n disable_clustering = \"true\""}},
		"the top level counts": {starts: true, put: map[string]string{node: node + "\n disable_clustering = \"true\""}, more: "disable_clustering = false"},

		"a blank in the id": {id: "vault 1"},
		"a zone's id":       {id: "eu-central-1a:i-0abc"},
		"a percent sign":    {id: "rack%1"},
		"a template":        {put: map[string]string{node: `node_id = "{{ GetPrivateIP }}"`}},
		"id by variable":    {env: "VAULT_RAFT_NODE_ID=vault 1"},
		"an id with a port": {starts: true, id: "10.0.0.1:8201"},
		"other signs":       {starts: true, id: "rack_1.host-2~é/x"},

		"storage Raft":      {put: map[string]string{`"raft"`: `"Raft"`}},
		"Storage raft":      {starts: true, put: map[string]string{"storage": "Storage"}},
		"backend":           {starts: true, put: map[string]string{"storage": "backend"}},
		"two storages":      {more: `storage "raft" { path = "/x" }`},
		"no path":           {put: map[string]string{"path = ": "# "}},
		"set twice":         {more: mlock},
		"set twice, let be": {starts: true, more: mlock, env: "VAULT_ALLOW_PENDING_REMOVAL_DUPLICATE_HCL_ATTRIBUTES=true"},
		"no boolean":        {put: map[string]string{node: node + "\n raft_wal = \"yes\""}},
		"no number":         {put: map[string]string{node: node + "\n max_entry_size = \"1MB\""}},
		"log level":         {more: `log_level = "loud"`},
		"INFO":              {starts: true, more: `log_level = "INFO"`},
		"level by variable": {env: "VAULT_LOG_LEVEL=loud"},
		"log format":        {more: `log_format = "xml"`},
		"a time":            {more: `max_lease_ttl = "x"`},
		"times":             {starts: true, more: "max_lease_ttl = \"40d\"\ndefault_lease_ttl = 3600"},
		"a delay":           {put: map[string]string{node: node + "\n snapshot_delay = \"x\""}},
		"delays":            {starts: true, put: map[string]string{node: node + "\n snapshot_delay = \"10s\"\n apply_delay = 1"}},
		"listener, no TLS":  {put: map[string]string{"tls_disable = true": ""}},
		"TLS not there":     {put: map[string]string{"tls_disable = true": "tls_cert_file = \"/no/c.pem\"\n tls_key_file = \"/no/k.pem\""}},
		"shamir disabled":   {more: "seal \"shamir\" {\n disabled = true\n}"},
		"a non-voter alone": {put: map[string]string{node: node + "\n retry_join_as_non_voter = true"}},
		"by variable":       {env: "VAULT_RAFT_RETRY_JOIN_AS_NON_VOTER=false"},
		"unknown key":       {starts: true, more: `no_such_key = "x"`},
		"JSON": {starts: true, put: map[string]string{"": `{"disable_mlock":"1","storage":{"raft":{"path":"$DIR","node_id":"node1"}},"listener":[{"tcp":{"address":"127.0.0.1:$API","tls_disable":true}}],
			"api_addr":"http://127.0.0.1:$API","cluster_addr":"$CLUSTER"}`}},
	} {
		t.Run(name, func(t *testing.T) {
			s := &scenario{t: t, table: s.table}
			n := newNode(t, "node1")
			if c.id != "" {
				n.id = c.id
			}
			text := serverConfig(n)
			for was, is := range c.put {
				if was == "" {
					text = is
				} else if !strings.Contains(text, was) {
					t.Fatalf("there is no %s to replace", was)
				} else {
					text = strings.Replace(text, was, is, 1)
				}
			}
			ours := strings.NewReplacer("$CLUSTER", n.clusterAddr(), "$DIR", n.dir, "$API", fmt.Sprint(n.api))
			text, env := ours.Replace(text+c.more+"\n"), ours.Replace(c.env)
			config, environment := filepath.Join(t.TempDir(), "vault.hcl"), filepath.Join(t.TempDir(), "vault.env")
			writeFile(t, config, text)
			writeFile(t, environment, env)

			said := s.plan(n, "-vault-config", config, "-vault-env", environment).failures()
			args := []string{vaultBin, "server", "-config", config}
			if env != "" {
				args = append([]string{env}, args...)
			}
			v := start(t, "vault", "env", args...)
			if started := v.startsOrEnds(t); started != c.starts {
				t.Errorf("Vault starts: %t, expected %t\n%s", started, c.starts, lastLines(v.output(), 5))
			}
			if (len(said) == 0) != c.starts {
				t.Errorf("plan says %q, and Vault starts: %t", said, c.starts)
			}
		})
	}
}

// TestSealConfig gives each value of core/seal-config to dyn2raft plan and to the real
// Vault: where plan says that the table is no initialized Vault's, Vault ends, and from
// each that passes it starts.
func TestSealConfig(t *testing.T) {
	s := &scenario{t: t, table: openTable(startEmbeddedServer(t))}
	s.table.create(t)
	s.table.put(t, "core", "keyring", "x")
	for value, starts := range map[string]bool{
		`{"type":"shamir","secret_shares":5,"secret_threshold":3}`: true,
		`{"type":"","secret_shares":1,"secret_threshold":1}`:       true,
		`{"Secret_Shares":255,"secret_threshold":255} }`:           true,
		`{"secret_shares":1,"secret_threshold":1,"new":[1]}`:       true,
		`{"secret_shares":1,"secret_threshold":1,"backup":"true"}`: false,
		`{"secret_shares":1,"secret_threshold":1,"nonce":1}`:       false,
		`{"secret_shares":1,"secret_threshold":1,"name":{}}`:       false,
		`{}`:       false,
		`null`:     false,
		`[]`:       false,
		`no json!`: false,
		`{"secret_shares":"5","secret_threshold":"3"}`:               false,
		`{"secret_shares":5,"secret_threshold":9}`:                   false,
		`{"secret_shares":5,"secret_threshold":1}`:                   false,
		`{"secret_shares":5,"secret_threshold":0}`:                   false,
		`{"secret_shares":300,"secret_threshold":3}`:                 false,
		`{"secret_shares":1,"secret_threshold":1,"stored_shares":2}`: false,
		`{"secret_shares":5,"secret_threshold":3,"pgp_keys":["x"]}`:  false,
		`{"secret_shares":1,"secret_threshold":1,"pgp_keys":["x"]}`:  false,
		`{"type":"shamirr","secret_shares":1,"secret_threshold":1}`:  false,
	} {
		t.Run(value, func(t *testing.T) {
			s := &scenario{t: t, table: s.table}
			s.table.put(t, "core", "seal-config", value)
			n := newNode(t, "node1")
			var said []string
			for _, c := range s.plan(n).Checks {
				if c.Status == "failure" && (c.Check == "initialized" || c.Check == "seal") {
					said = append(said, c.Message)
				}
			}
			v := launchVault(t, n, dynamoDBStorage("storage", s.table.endpoint))
			if started := v.startsOrEnds(t); started != starts || (len(said) == 0) != starts {
				t.Errorf("Vault starts: %t, plan says %q, expected %t\n%s", started, said, starts, lastLines(v.output(), 5))
			}
			if starts {
				v.stop(t)
			}
		})
	}
}

// TestServerDisagrees shows what becomes of a Vault whose configuration is good in
// itself, and is not the copy's.
func TestServerDisagrees(t *testing.T) {
	s := &scenario{t: t, old: newNode(t, "old"), table: openTable(startEmbeddedServer(t))}
	v := s.oldVault()
	s.contents = &contents{}
	v.stop(t)
	s.source = s.table.entries(t)
	n := newNode(t, "node1")
	s.copy(n, "")
	differs := func(check string, server node, more string) {
		t.Helper()
		config := filepath.Join(t.TempDir(), "vault.hcl")
		writeFile(t, config, serverConfig(server)+more)
		said := s.plan(n, "-vault-config", config).failures()
		if len(said) != 1 || !strings.HasPrefix(said[0], check+": ") {
			t.Errorf("plan says %q, expected a failure of %s alone", said, check)
		}
	}

	other := n
	other.dir = t.TempDir()
	differs("server-path", other, "")
	s.step("another path: Vault finds no data", func() {
		v := startVault(t, other, raftStorage(other, ""))
		if status, err := v.sealStatus(); err != nil || status.initialized {
			t.Errorf("%+v, %v, expected a Vault that is not initialized", status, err)
		}
		v.stop(t)
	})

	other = n
	other.id = "node2"
	differs("server-node-id", other, "")
	s.step("another node_id: unsealing never returns", func() { s.hangs(other, "") })

	const seal = "seal \"transit\" {\n address = \"http://127.0.0.1:1\"\n token = \"x\"\n key_name = \"k\"\n mount_path = \"transit/\"\n}\n"
	differs("server-seal", n, seal)
	s.step("another seal: Vault wants that one, and not the keys", func() {
		v := launchVault(t, n, raftStorage(n, "")+seal)
		waitFor(t, "Vault to give up", healthLimit, func() error {
			if v.alive() == nil {
				return errors.New("it runs")
			}
			return nil
		})
	})

	other = n
	other.clusterPort = freePort(t)
	differs("server-cluster-addr", other, "")
	s.step("another cluster_addr: the others are told the copy's", func() {
		v := startVault(t, other, raftStorage(other, ""))
		v.unseal(t, s.keys)
		v.waitHealth(t, http.StatusOK)
		servers := v.read(t, "sys/storage/raft/configuration")["config"].(map[string]any)["servers"].([]any)
		if address := servers[0].(map[string]any)["address"]; "https://"+fmt.Sprint(address) != n.clusterAddr() {
			t.Errorf("Raft's configuration has %v, expected the copy's %s", address, n.clusterAddr())
		}
		v.stop(t)
	})
	if _, err := os.Stat(filepath.Join(n.dir, "vault.db")); err != nil {
		t.Error(err)
	}
}
