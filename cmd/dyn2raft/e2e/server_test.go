//go:build e2e

package e2e

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"
)

// A planned is what dyn2raft plan says, as JSON.
type planned struct {
	Checks []planCheck
}

type planCheck struct{ Check, Status, Message string }

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

// startsOrEnds waits for a Vault to do one of the two, and reports whether it has
// started. One that is expected to end may say that it has started before.
func (p *process) startsOrEnds(t *testing.T, expected bool) (started bool) {
	t.Helper()
	waitFor(t, "Vault to start or to end", time.Minute, func() error {
		started = p.alive() == nil
		if started && !(expected && strings.Contains(p.output(), "Vault server started!")) {
			return errors.New("it has done neither yet")
		}
		return nil
	})
	return started
}

// TestServerStarts gives each configuration to dyn2raft plan and to the real Vault: where
// plan says that it keeps Vault from starting, Vault ends, and it starts from each that
// passes.
func TestServerStarts(t *testing.T) {
	t.Parallel()
	s := &scenario{t: t, table: openTable(startEmbeddedServer(t))}
	s.table.create(t)
	const node, mlock = `node_id = "node1"`, "disable_mlock = true"
	for name, c := range map[string]struct {
		starts bool
		put    map[string]string // the key is replaced by the value
		more   string
		env    string // one variable
		id     string // in both files
		asked  string // Vault ends, and plan says of this that it was not looked at
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

		"both ways to join":    {put: map[string]string{node: node + "\n retry_join {\n leader_api_addr = \"http://127.0.0.1:1\"\n auto_join = \"provider=mdns\"\n}"}},
		"a way to join":        {starts: true, put: map[string]string{node: node + "\n retry_join {\n leader_api_addr = \"http://127.0.0.1:1\"\n}"}},
		"no CA to join":        {put: map[string]string{node: node + "\n retry_join {\n leader_api_addr = \"http://127.0.0.1:1\"\n leader_ca_cert_file = \"/nope\"\n}"}},
		"no version":           {put: map[string]string{node: node + "\n autopilot_upgrade_version = \"notaversion\""}},
		"a version":            {starts: true, put: map[string]string{node: node + "\n autopilot_upgrade_version = \"1.21.1+ent\"\n snapshot_interval = \"120s\""}},
		"address, no port":     {put: map[string]string{"  address = ": "  address = \"127.0.0.1\" # "}},
		"address elsewhere":    {put: map[string]string{"  address = \"127.0.0.1": "  address = \"10.99.0.1"}},
		"address by name":      {starts: true, put: map[string]string{"  address = \"127.0.0.1": "  address = \"localhost"}},
		"address template":     {starts: true, put: map[string]string{"  address = \"127.0.0.1": "  address = \"{{ GetInterfaceIP \\\"lo\\\" }}"}},
		"any address":          {starts: true, put: map[string]string{"  address = \"127.0.0.1": "  address = \"0.0.0.0"}},
		"address twice":        {more: "listener \"tcp\" {\n address = \"127.0.0.1:$API\"\n tls_disable = 1\n}"},
		"and any":              {more: "listener \"tcp\" {\n address = \"0.0.0.0:$API\"\n tls_disable = 1\n}"},
		"listener of a kind":   {more: "listener \"udp\" {\n address = \"127.0.0.1:1\"\n}"},
		"a proxy's":            {put: map[string]string{"tls_disable = true": "tls_disable = true\n proxy_protocol_behavior = \"bad\""}},
		"a request's size":     {put: map[string]string{"tls_disable = true": "tls_disable = true\n max_request_size = \"bad\""}},
		"a timeout":            {put: map[string]string{"tls_disable = true": "tls_disable = true\n http_read_timeout = \"bad\""}},
		"a header":             {put: map[string]string{"tls_disable = true": "tls_disable = true\n require_request_header = \"bad\""}},
		"a TLS version":        {put: map[string]string{"tls_disable = true": "tls_cert_file = \"/no/c.pem\"\n tls_key_file = \"/no/k.pem\"\n tls_min_version = \"bad\""}},
		"metrics":              {put: map[string]string{"tls_disable = true": "tls_disable = true\n telemetry {\n unauthenticated_metrics_access = \"maybe\"\n}"}},
		"a listener's all":     {starts: true, put: map[string]string{"tls_disable = true": "tls_disable = \"1\"\n proxy_protocol_behavior = \"use_always\"\n max_request_size = \"33554432\"\n http_read_timeout = 30\n http_idle_timeout = \"5m\"\n tls_min_version = \"tls12\"\n telemetry {\n unauthenticated_metrics_access = true\n}"}},
		"a lease over":         {more: `default_lease_ttl = "1000h"`},
		"a lease over 1 h":     {more: "default_lease_ttl = \"2h\"\nmax_lease_ttl = 3600"},
		"a limit below":        {more: `max_lease_ttl = "24h"`},
		"plugin_directory":     {starts: true, more: `plugin_directory = "/nope"`},
		"no number of plugins": {more: `plugin_file_uid = "x"`},
		"no cache":             {more: `cache_size = "x"`},
		"no trace":             {more: `enable_post_unseal_trace = "x"`},
		"imprecise":            {more: `imprecise_lease_role_tracking = "x"`},
		"a request's time":     {more: `default_max_request_duration = "x"`},
		"suites":               {put: map[string]string{"tls_disable = true": "tls_disable = true\n tls_cipher_suites = \"x\""}, asked: "listener.tls_cipher_suites"},
		"CORS":                 {put: map[string]string{"tls_disable = true": "tls_disable = true\n cors_enabled = \"x\""}},
		"hops":                 {put: map[string]string{"tls_disable = true": "tls_disable = true\n x_forwarded_for_hop_skips = \"x\""}},
		"profiling":            {put: map[string]string{"tls_disable = true": "tls_disable = true\n profiling {\n unauthenticated_pprof_access = \"x\"\n}"}},
		"lockout of none":      {more: "user_lockout {\n lockout_threshold = 3\n}"},
		"gauges":               {more: `telemetry { maximum_gauge_cardinality = "x" }`},
		"a host's name":        {more: `telemetry { disable_hostname = "x" }`},
		"a filter":             {more: `telemetry { filter_default = "x" }`},
		"telemetry twice":      {more: "telemetry {}\ntelemetry {}"},
		"registered twice":     {more: "service_registration \"consul\" {}\nservice_registration \"consul\" {}"},
		"listener of none":     {more: "listener {\n address = \"127.0.0.1:1\"\n tls_disable = 1\n}"},
		"cluster_address":      {put: map[string]string{"cluster_address = ": "cluster_address = \"127.0.0.1\" # "}},
		"no listener at all":   {starts: true, put: map[string]string{`listener "tcp"`: `no_such_block "tcp"`}},
		"a chart's": {starts: true, put: map[string]string{"  address = \"127.0.0.1": "  address = \"[::]"},
			more: "ui = true\ncluster_name = \"c\"\ntelemetry {\n prometheus_retention_time = \"30s\"\n disable_hostname = true\n}"},
		"pid_file":            {more: `pid_file = "/nope/vault.pid"`},
		"log_file":            {more: `log_file = "/nope/vault.log"`},
		"files":               {starts: true, more: "pid_file = \"$DIR/vault.pid\"\nlog_file = \"$DIR/vault.log\"\nlog_rotate_bytes = 1048576\nlog_rotate_duration = \"24h\""},
		"a registration":      {more: `service_registration "foo" {}`},
		"Kubernetes":          {more: `service_registration "kubernetes" {}`, asked: `service_registration "kubernetes"`},
		"telemetry":           {more: `telemetry { prometheus_retention_time = "bad" }`},
		"telemetry's all":     {starts: true, more: "telemetry {\n prometheus_retention_time = \"30s\"\n disable_hostname = true\n}"},
		"experiments":         {more: `experiments = ["x"]`, asked: "experiments"},
		"by its variable":     {env: "VAULT_EXPERIMENTS=x", asked: "VAULT_EXPERIMENTS"},
		"lockout":             {more: "user_lockout \"all\" {\n lockout_threshold = \"bad\"\n}"},
		"lockout of a kind":   {more: `user_lockout "x" {}`},
		"a good lockout":      {starts: true, more: "user_lockout \"all\" {\n lockout_threshold = \"25\"\n lockout_duration = \"10m\"\n}"},
		"permissions":         {more: `plugin_file_permissions = "bad"`},
		"good permissions":    {starts: true, more: `plugin_file_permissions = "0700"`},
		"kms":                 {more: `kms "x" {}`, asked: `kms "x"`},
		"raw, no boolean":     {more: `raw_storage_endpoint = "x"`},
		"prefix, no boolean":  {more: `allow_audit_log_prefixing = "x"`},
		"node id, no boolean": {more: `enable_response_header_raft_node_id = "x"`},
		"no size":             {more: `log_rotate_bytes = "x"`},
		"api_addr template":   {put: map[string]string{"api_addr = ": "api_addr = \"http://{{ GetNope }}:8200\" # "}, asked: "api_addr, a template"},
		"a seal's":            {more: "seal \"transit\" {\n disabled = true\n}", asked: `seal "transit"`},
		"a seal's key":        {more: "seal \"awskms\" {\n disabled = \"true\"\n kms_key_id = \"x\"\n}", asked: `seal "awskms"`},
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

			planned := s.plan(n, "-vault-config", config, "-vault-env", environment)
			said := planned.failures()
			args := []string{vaultBin, "server", "-config", config}
			if env != "" {
				args = append([]string{env}, args...)
			}
			v := start(t, "vault", "env", args...)
			if started := v.startsOrEnds(t, c.starts); started != c.starts {
				t.Errorf("Vault starts: %t, expected %t\n%s", started, c.starts, lastLines(v.output(), 5))
			}
			if c.asked != "" {
				asked := slices.ContainsFunc(planned.Checks, func(p planCheck) bool {
					return p.Status == "warning" && strings.HasPrefix(p.Message, "not looked at: ") && strings.Contains(p.Message, c.asked)
				})
				if len(said) > 0 || !asked {
					t.Errorf("plan says %+v, expected no failure, and that it has not looked at %s", planned.Checks, c.asked)
				}
			} else if (len(said) == 0) != c.starts {
				t.Errorf("plan says %q, and Vault starts: %t", said, c.starts)
			}
		})
	}
}

// TestServerFilesOfPages gives each whole server's file of the documentation, on this
// machine's addresses and without TLS, to dyn2raft plan and to the real Vault: it starts.
func TestServerFilesOfPages(t *testing.T) {
	t.Parallel()
	s := &scenario{t: t, table: openTable(startEmbeddedServer(t))}
	s.table.create(t)
	pages, err := filepath.Glob("../../../docs/*.md")
	if err != nil {
		t.Fatal(err)
	}
	files := 0
	for _, page := range append(pages, "../../../README.md") {
		text, err := os.ReadFile(page)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range regexp.MustCompile("(?ms)^```hcl\n(.*?)^```$").FindAllStringSubmatch(string(text), -1) {
			id := regexp.MustCompile(`node_id +?= "(.*)"`).FindStringSubmatch(m[1])
			if !strings.Contains(m[1], "listener \"tcp\"") || id == nil {
				continue
			}
			files++
			t.Run(filepath.Base(page)+" "+id[1], func(t *testing.T) {
				s := &scenario{t: t, table: s.table}
				n := newNode(t, id[1])
				licence := filepath.Join(t.TempDir(), "licence")
				writeFile(t, licence, "none")
				text := m[1]
				for _, here := range [][2]string{
					{`0\.0\.0\.0:8200`, fmt.Sprintf("127.0.0.1:%d", n.api)}, {`0\.0\.0\.0:8201`, fmt.Sprintf("127.0.0.1:%d", n.clusterPort)},
					{`(?m)^api_addr( +)= .*`, fmt.Sprintf("api_addr$1= %q", n.apiAddr())}, {`(?m)^cluster_addr( +)= .*`, fmt.Sprintf("cluster_addr$1= %q", n.clusterAddr())},
					{`(?m)^( +)path( +)= .*`, fmt.Sprintf("$1 path$2= %q", n.dir)}, {`/etc/vault.d/vault.hclic`, licence},
					{`(?m)^( +)tls_cert_file( +)= .*`, "$1 tls_disable$2= true"}, {`(?m)^ +(tls_key_file|leader_ca_cert_file) .*\n`, ""},
				} {
					text = regexp.MustCompile(here[0]).ReplaceAllString(text, here[1])
				}
				config := filepath.Join(t.TempDir(), "vault.hcl")
				writeFile(t, config, text)
				if said := s.plan(n, "-vault-config", config).failures(); len(said) > 0 {
					t.Errorf("plan says %q of\n%s", said, text)
				}
				v := start(t, "vault", vaultBin, "server", "-config", config)
				if !v.startsOrEnds(t, true) {
					t.Errorf("Vault does not start\n%s\n%s", text, lastLines(v.output(), 5))
				}
			})
		}
	}
	if files < 3 {
		t.Errorf("only %d servers' files are found", files)
	}
}

// TestSealConfig gives each value of core/seal-config to dyn2raft plan and to the real
// Vault: where plan says that the table is no initialized Vault's, Vault ends, and from
// each that passes it starts.
func TestSealConfig(t *testing.T) {
	t.Parallel()
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
			if started := v.startsOrEnds(t, starts); started != starts || (len(said) == 0) != starts {
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
	t.Parallel()
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
