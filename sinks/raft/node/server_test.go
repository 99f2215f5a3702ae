package node

import (
	_ "embed"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/dyn2raft/dyn2raft/cmd/dyn2raft/check"
	"github.com/dyn2raft/dyn2raft/copier"
)

// serverFile is a server's configuration with which nothing is wrong, but for its PATH.
//
//go:embed testdata/server.hcl
var serverFile string

// TestServer changes that file, a piece or a line at a time. Whether a real Vault
// starts from such files is told in the end-to-end suite.
func TestServer(t *testing.T) {
	t.Parallel()
	const node, mlock, api, address = `node_id = "vault-1"`, "disable_mlock = true", `api_addr     = "https://127.0.0.1:8200"`, `cluster_addr = "https://127.0.0.1:8201"`
	keptID := func(id string) func(*probe) {
		return func(p *probe) { write(t, filepath.Join(p.Path, "node-id"), id) }
	}
	const noEnv, someEnv = "", "# the unit's\nVAULT_LOG_LEVEL=debug\n"
	with := func(more string) [2]string { return [2]string{"", "\n" + more + "\n"} }
	for name, c := range map[string]struct {
		put    [2]string // the first is replaced by the second; after an empty one it is added
		config string    // instead of it
		env    string
		change func(*probe)
		check  string
		status copier.Outcome // or empty: no such line
		want   string
	}{
		"no storage":      {config: address, check: "server-storage", status: copier.Failed, want: "no storage stanza"},
		"the migration's": {config: "storage_source \"dynamodb\" {}\nstorage_destination \"raft\" {}\n", check: "server-storage", status: copier.Failed, want: "the file for the migration"},
		"dynamodb":        {put: [2]string{`"raft"`, `"dynamodb"`}, check: "server-storage", status: copier.Failed, want: `"dynamodb"`},
		"the guide's":     {put: [2]string{`"raft"`, `"Raft"`}, check: "server-storage", status: copier.Failed, want: "lower case"},
		"backend":         {put: [2]string{"storage", "backend"}, check: "server-node-id", status: copier.Passed},
		"two storages":    {put: with(`storage "raft" {}`), check: "server-settings", status: copier.Failed, want: "a second storage block"},
		"old word too":    {put: with(`backend "inmem" {}`), check: "server-node-id", status: copier.Passed},
		"path":            {put: [2]string{"PATH", "/else"}, check: "server-path", status: copier.Failed, want: "/else"},
		"slash":           {put: [2]string{"PATH", "PATH/"}, check: "server-path", status: copier.Passed},
		"path by env":     {env: "VAULT_RAFT_PATH=/else", check: "server-path", status: copier.Failed, want: "from VAULT_RAFT_PATH"},
		"misspelt path":   {put: [2]string{"path ", "pth "}, check: "server-settings", status: copier.Failed, want: `did you mean "path"`},
		"unchecked": {put: with("experiments = [\"x\"]\nservice_registration \"consul\" {}\nseal \"transit\" {}\nlistener \"unix\" {\n custom_response_headers {}\n}"), check: "server-settings", status: copier.Warned,
			want: `not looked at: experiments; listener.custom_response_headers; seal "transit"; service_registration "consul"`},
		"all checked":       {put: with("ui = true\ncluster_name = \"c\"\ntelemetry {\n disable_hostname = true\n}"), check: "server-settings"},
		"ha list":           {put: with("ha_storage = [{ raft = {} }]"), check: "server-ha-storage", status: copier.Failed, want: `"raft"`},
		"address elsewhere": {put: [2]string{"\"127.0.0.1:8200\"\n  tls", "\"192.0.2.1:8200\"\n  tls"}, check: "server-listener", status: copier.Failed, want: "does not have it"},
		"address twice":     {put: with("listener \"tcp\" {\n address = \":8200\"\n tls_disable = 1\n}"), check: "server-settings", status: copier.Failed, want: "no other listener"},
		"node":              {put: [2]string{node, `node_id = "vault-2"`}, check: "server-node-id", status: copier.Failed, want: "never returns"},
		"node by env":       {env: "VAULT_RAFT_NODE_ID=vault-2", check: "server-node-id", status: copier.Failed, want: "from VAULT_RAFT_NODE_ID"},
		"the same by env":   {put: [2]string{node, ""}, env: `VAULT_RAFT_NODE_ID="vault-1"`, check: "server-node-id", status: copier.Passed, want: "from VAULT_RAFT_NODE_ID"},
		"no node":           {put: [2]string{node, ""}, check: "server-node-id", status: copier.Failed, want: "never returns"},
		"neither node":      {put: [2]string{node, ""}, change: func(p *probe) { p.NodeID = "" }, check: "server-node-id", status: copier.Passed},
		"node in the file":  {put: [2]string{node, ""}, change: keptID("vault-1"), check: "server-node-id", status: copier.Passed, want: "vault-1"},
		"of the file":       {change: func(p *probe) { keptID("vault-1")(p); p.NodeID = "" }, check: "server-node-id", status: copier.Passed},
		"another's file":    {change: func(p *probe) { keptID("vault-2")(p); p.NodeID = "" }, check: "server-node-id", status: copier.Failed, want: "vault-2"},
		"template":          {put: [2]string{node, `node_id = "{{ GetPrivateIP }}"`}, check: "server-node-id", status: copier.Failed, want: "template"},
		"blank in id":       {put: [2]string{node, `node_id = "vault 1"`}, check: "server-node-id", status: copier.Failed, want: "vault 1"},

		"address":            {put: [2]string{address, `cluster_addr = "https://10.0.0.1:8201"`}, check: "server-cluster-addr", status: copier.Failed, want: "10.0.0.1"},
		"address by env":     {env: "VAULT_CLUSTER_ADDR=https://10.0.0.1:8201", check: "server-cluster-addr", status: copier.Failed, want: "from VAULT_CLUSTER_ADDR"},
		"address template":   {put: [2]string{address, `cluster_addr = "https://{{ GetPrivateIP }}:8201"`}, check: "server-cluster-addr", status: copier.Warned, want: "template"},
		"address, no scheme": {put: [2]string{address, `cluster_addr = "127.0.0.1:8201"`}, check: "server-cluster-addr", status: copier.Failed, want: "scheme"},
		"no address":         {put: [2]string{address, ""}, check: "server-cluster-addr", status: copier.Warned, want: "VAULT_CLUSTER_ADDR"},
		"no address, env":    {put: [2]string{address, ""}, env: someEnv, check: "server-cluster-addr", status: copier.Failed, want: "no VAULT_CLUSTER_ADDR"},
		"address in env":     {put: [2]string{address, ""}, env: "VAULT_CLUSTER_ADDR=https://127.0.0.1:8201\n", check: "server-cluster-addr", status: copier.Passed},
		"address in stanza":  {config: strings.Replace(strings.Replace(serverFile, address, "", 1), node, node+"\n"+address, 1), check: "server-cluster-addr", status: copier.Warned, want: "top level"},
		"no api":             {put: [2]string{api, ""}, check: "server-api-addr", status: copier.Warned, want: "VAULT_API_ADDR"},
		"no api, env":        {put: [2]string{api, ""}, env: someEnv, check: "server-api-addr", status: copier.Failed, want: "no VAULT_API_ADDR"},
		"api in env":         {put: [2]string{api, ""}, env: "VAULT_API_ADDR='https://127.0.0.1:8200'", check: "server-api-addr", status: copier.Passed},
		"api by old name":    {put: [2]string{api, ""}, env: "VAULT_REDIRECT_ADDR=https://127.0.0.1:8200", check: "server-api-addr", status: copier.Passed},
		"api, no scheme":     {put: [2]string{api, `api_addr = "127.0.0.1:8200"`}, check: "server-api-addr", status: copier.Failed, want: "scheme"},
		"api, odd scheme":    {put: [2]string{api, `api_addr = "localhost:8200"`}, check: "server-api-addr", status: copier.Warned, want: "nor other nodes"},
		"one for both":       {put: [2]string{api, `api_addr = "https://127.0.0.1:8201"`}, check: "server-api-addr", status: copier.Failed, want: "both"},

		"no mlock":          {put: [2]string{mlock, ""}, check: "server-mlock", status: copier.Warned, want: "VAULT_DISABLE_MLOCK"},
		"no mlock, env":     {put: [2]string{mlock, ""}, env: someEnv, check: "server-mlock", status: copier.Failed, want: "no VAULT_DISABLE_MLOCK"},
		"mlock in env":      {put: [2]string{mlock, ""}, env: "VAULT_DISABLE_MLOCK=false", check: "server-mlock", status: copier.Passed},
		"mlock by export":   {put: [2]string{mlock, ""}, env: "export VAULT_DISABLE_MLOCK=true", check: "server-environment", status: copier.Warned, want: "export"},
		"mlock false":       {put: [2]string{mlock, "disable_mlock = false"}, check: "server-mlock", status: copier.Passed},
		"no mlock, 1.19":    {put: [2]string{mlock, ""}, env: someEnv, change: func(p *probe) { p.Version = "1.19.5" }, check: "server-mlock"},
		"no mlock, 1.20":    {put: [2]string{mlock, ""}, env: someEnv, change: func(p *probe) { p.Version = "1.20.0+ent" }, check: "server-mlock", status: copier.Failed},
		"no mlock, OpenBao": {put: [2]string{mlock, ""}, env: someEnv, change: func(p *probe) { p.Version = "2.2.0" }, check: "server-mlock"},
		"mlock, no boolean": {put: [2]string{mlock, `disable_mlock = "maybe"`}, check: "server-settings", status: copier.Failed, want: "maybe"},
		"env, no boolean":   {env: "VAULT_DISABLE_MLOCK=maybe", check: "server-settings", status: copier.Failed, want: "VAULT_DISABLE_MLOCK"},

		"ha_storage":         {put: with(`ha_storage "dynamodb" { table = "x" }`), check: "server-ha-storage", status: copier.Failed, want: "dynamodb"},
		"ha_backend":         {put: with(`ha_backend "consul" {}`), check: "server-ha-storage", status: copier.Failed, want: "consul"},
		"ha on raft":         {put: with(`ha_storage "raft" {}`), check: "server-ha-storage", status: copier.Failed},
		"no clustering":      {put: with("disable_clustering = true"), check: "server-clustering", status: copier.Failed},
		"in the stanza":      {put: [2]string{node, node + "\n disable_clustering = \"true\""}, check: "server-clustering", status: copier.Failed},
		"top level beats it": {config: strings.Replace(serverFile, node, node+"\n disable_clustering = \"true\"", 1) + "disable_clustering = false", check: "server-clustering"},

		"set twice":         {put: with(mlock), check: "server-settings", status: copier.Failed, want: "disable_mlock"},
		"set twice, 1.20":   {put: with(mlock), change: func(p *probe) { p.Version = "1.20.4" }, check: "server-settings", status: copier.Warned, want: "twice"},
		"set twice, let be": {put: with(mlock), env: "VAULT_ALLOW_PENDING_REMOVAL_DUPLICATE_HCL_ATTRIBUTES=true", check: "server-settings"},
		"no key":            {put: with(`tcp_addr = "x"`), check: "server-settings", status: copier.Warned, want: "tcp_addr"},
		"mlock, a number":   {put: [2]string{mlock, "disable_mlock = 1"}, check: "server-mlock", status: copier.Passed},
		"lease time":        {put: with(`max_lease_ttl = "x"`), check: "server-settings", status: copier.Failed, want: "max_lease_ttl"},
		"lease in days":     {put: with(`max_lease_ttl = "32d"`), check: "server-mlock", status: copier.Passed},
		"delay":             {put: [2]string{node, node + "\n snapshot_delay = \"x\""}, check: "server-settings", status: copier.Failed, want: "snapshot_delay"},
		"level by env":      {env: "VAULT_LOG_LEVEL=loud", check: "server-settings", status: copier.Failed, want: "VAULT_LOG_LEVEL"},
		"log level":         {put: with(`log_level = "loud"`), check: "server-settings", status: copier.Failed, want: "loud"},
		"no number":         {put: [2]string{node, node + "\n max_entry_size = \"1MB\""}, check: "server-settings", status: copier.Failed, want: "max_entry_size"},

		"no listener":  {put: [2]string{"listener \"tcp\" {\n  address     = \"127.0.0.1:8200\"\n  tls_disable = true\n}", ""}, check: "server-listener", status: copier.Warned},
		"no TLS file":  {put: [2]string{"tls_disable = true", ""}, check: "server-settings", status: copier.Failed},
		"TLS not here": {put: [2]string{"tls_disable = true", "tls_cert_file = \"PATH/c.pem\"\n tls_key_file = \"PATH\""}, check: "server-listener", status: copier.Failed, want: "c.pem"},

		"TLS, another's": {put: [2]string{"tls_disable = true", "tls_cert_file = \"PATH/node-id\"\n tls_key_file = \"PATH\""},
			change: func(p *probe) { keptID("vault-1")(p); p.Owner = "54321" }, check: "server-listener", status: copier.Warned, want: "54321 can't read"},

		"no retry_join":   {check: "server-retry-join", status: copier.Noted},
		"retry_join":      {put: [2]string{node, node + "\n retry_join { leader_api_addr = \"https://h:8200\" }"}, check: "server-retry-join"},
		"non-voter":       {put: [2]string{node, node + "\n retry_join_as_non_voter = true\n retry_join { leader_api_addr = \"https://h:8200\" }"}, check: "server-non-voter", status: copier.Warned},
		"non-voter alone": {put: [2]string{node, node + "\n retry_join_as_non_voter = true"}, check: "server-settings", status: copier.Failed, want: "without retry_join"},
		"non-voter, env":  {env: "VAULT_RAFT_RETRY_JOIN_AS_NON_VOTER=false", check: "server-settings", status: copier.Failed, want: "whichever value"},

		"wal here":        {change: func(p *probe) { p.WAL = true }, check: "server-raft-wal", status: copier.Failed, want: "raft/wal"},
		"wal there":       {put: [2]string{node, node + "\n raft_wal = \"true\""}, check: "server-raft-wal", status: copier.Warned, want: "ignores"},
		"wal in both":     {put: [2]string{node, node + "\n raft_wal = true"}, change: func(p *probe) { p.WAL = true }, check: "server-raft-wal", status: copier.Passed},
		"seal missing":    {change: func(p *probe) { p.Seal = "awskms" }, check: "server-seal", status: copier.Failed, want: "awskms"},
		"seal":            {put: with("seal \"awskms\" {\n kms_key_id = \"x\"\n}"), change: func(p *probe) { p.Seal = "awskms" }, check: "server-seal", status: copier.Passed},
		"seal by env":     {env: "VAULT_SEAL_TYPE=awskms", change: func(p *probe) { p.Seal = "awskms" }, check: "server-seal", status: copier.Passed},
		"seal off":        {put: with("seal \"awskms\" {\n disabled = \"true\"\n}"), change: func(p *probe) { p.Seal = "awskms" }, check: "server-seal", status: copier.Failed},
		"seal added":      {put: with(`seal "transit" {}`), change: func(p *probe) { p.Seal = "shamir" }, check: "server-seal", status: copier.Failed, want: "transit"},
		"two seals":       {put: with("seal \"awskms\" {}\nseal \"transit\" {}"), change: func(p *probe) { p.Seal = "awskms" }, check: "server-seal", status: copier.Warned, want: "several"},
		"shamir off":      {put: with("seal \"shamir\" {\n disabled = true\n}"), check: "server-settings", status: copier.Failed},
		"enterprise":      {put: with("license_path = \"/l\"\nseal \"awskms\" {}"), check: "server-sealwrap", status: copier.Warned, want: "disable_sealwrap = true"},
		"no seal wrap":    {put: with("license_path = \"/l\"\ndisable_sealwrap = true\nseal \"awskms\" {}"), check: "server-sealwrap"},
		"license, shamir": {put: with(`license_path = "/l"`), check: "server-sealwrap"},

		"malformed": {config: "storage \"raft\" {\n node_id = \"topsecret\n", check: "server-configuration", status: copier.Failed, want: ":2"},
		"JSON": {config: `{"disable_mlock":false,"storage":{"raft":{"path":"PATH","node_id":"vault-1"}},"listener":[{"tcp":{"tls_disable":1}}],"api_addr":"https://127.0.0.1:8200","cluster_addr":"https://127.0.0.1:8201"}`,
			check: "server-mlock", status: copier.Passed},
		"no env": {env: noEnv, check: "server-environment", status: copier.Noted, want: "-vault-env"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := localProbe(t)
			p.ClusterAddr = "https://127.0.0.1:8201"
			if c.change != nil {
				c.change(p)
			}
			text := c.config
			if text == "" {
				text = serverFile
			}
			if c.put[0] == "" {
				text += c.put[1]
			} else if text = strings.Replace(text, c.put[0], c.put[1], 1); !strings.Contains(text, c.put[1]) {
				t.Fatalf("there is no %s to replace", c.put[0])
			}
			if file := filepath.Join(t.TempDir(), "vault.env"); c.env != "" {
				p.ServerEnv = file
				write(t, file, c.env)
			}
			file := filepath.Join(t.TempDir(), "vault.hcl")
			write(t, file, strings.ReplaceAll(text, "PATH", p.Path))
			for _, path := range []string{file, filepath.Dir(file)} { // a directory does as well
				p.ServerConfig, p.Findings = path, nil
				p.server()
				var got []check.Result
				for _, r := range check.Plan.Results(p.Findings) {
					if strings.Contains(r.Message+r.Hint, "topsecret") {
						t.Errorf("the configuration's text is shown: %+v", r)
					}
					if r.Check == c.check {
						got = append(got, r)
					}
				}
				found := slices.ContainsFunc(got, func(r check.Result) bool {
					return r.Status == c.status && strings.Contains(r.Message+r.Hint, c.want)
				})
				if c.status == "" && len(got) > 0 || c.status != "" && !found {
					t.Errorf("%+v, expected %q of %s with %q", got, c.status, c.check, c.want)
				}
				if c.status == copier.Passed && slices.ContainsFunc(p.Findings, func(r copier.Finding) bool { return r.Status == copier.Failed }) {
					t.Errorf("something else is wrong: %+v", p.Findings)
				}
			}
		})
	}
}

func write(t *testing.T, file, text string) {
	t.Helper()
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// A planner's line on the node's id says which it will be, and where from.
func TestNodeID(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		id, file string
		status   copier.Outcome
		want     string
	}{
		"given":     {id: "vault-1", status: copier.Noted, want: "server's storage stanza"},
		"made":      {status: copier.Noted, want: "generated"},
		"kept":      {file: "from-before", status: copier.Noted, want: `"from-before"`},
		"blank":     {id: "vault 1", status: copier.Failed, want: "vault 1"},
		"colon":     {id: "zone:instance", status: copier.Failed, want: "1.16"},
		"by echo":   {file: "vault-1\n", status: copier.Failed, want: "line ends"},
		"no-break":  {file: "vault\u00a01", status: copier.Warned, want: "a no-break space (U+00A0)"},
		"mark":      {file: "\ufeffvault-1", status: copier.Warned, want: "a byte order mark"},
		"two files": {id: "rack%1", file: "rack%1", status: copier.Failed, want: "node_id"},
	} {
		p := localProbe(t)
		p.NodeID = c.id
		if c.file != "" {
			write(t, filepath.Join(p.Path, "node-id"), c.file)
		}
		p.nodeID()
		got := find(t, p, "node-id")
		if got.Status != c.status || !strings.Contains(got.Message+got.Hint, c.want) {
			t.Errorf("%s: %+v, expected a %s with %q", name, got, c.status, c.want)
		}
	}
}
