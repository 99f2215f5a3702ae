package cluster

import (
	"context"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/vault/api"
	"go.uber.org/goleak"

	"github.com/dyn2raft/dyn2raft/cmd/dyn2raft/check"
	"github.com/dyn2raft/dyn2raft/copier"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const token = "hvs.NOTPRINTED"

type object = map[string]any

// A vault answers as a Vault 1.21.1 does, whose answers its texts were taken
// from: three servers, each healthy.
type vault struct {
	mu      sync.Mutex
	answers map[string]object // the body by path, without /v1/
	status  map[string]int    // instead of 200
	health  int               // status of sys/health, unless the request wants another
	applied []float64         // indexes to answer, the last one again and again
	last    float64           // of the log, or 0 for the applied one
	asked   []string          // "path namespace"
	to      string            // a standby: sends what needs a token there
}

func newVault() *vault {
	v := &vault{status: map[string]int{}, health: 200, applied: []float64{100, 140}}
	servers, nodes, peers := object{}, []any{}, []any{}
	for i, id := range []string{"vault-1", "vault-2", "vault-3"} {
		state, contact, echo := "voter", "1.2s", any(fmt.Sprintf("2026-11-24T00:00:0%dZ", i))
		if i == 0 {
			state, contact, echo = "leader", "0s", nil
		}
		peers = append(peers, object{"node_id": id, "address": fmt.Sprintf("10.0.0.%d:8201", i), "leader": i == 0, "protocol_version": "3", "voter": true})
		servers[id] = object{"id": id, "name": id, "address": fmt.Sprintf("10.0.0.%d:8201", i), "node_status": "alive", "last_contact": contact,
			"last_term": 3, "last_index": 140 - i, "healthy": true, "stable_since": "2026-11-24T00:21:49.597274725Z", "status": state, "version": "1.21.1", "node_type": "voter"}
		nodes = append(nodes, object{"hostname": id, "api_address": "https://x:8200", "cluster_address": fmt.Sprintf("https://10.0.0.%d:8201", i), "active_node": i == 0,
			"last_echo": echo, "version": "1.21.1", "echo_duration_ms": 1, "clock_skew_ms": 3})
	}
	data := func(o object) object { return object{"request_id": "x", "data": o} }
	mount := func(uuid, kind string) object { return object{"uuid": uuid, "type": kind, "config": object{}} }
	v.answers = map[string]object{
		"sys/seal-status": {"type": "shamir", "initialized": true, "sealed": false, "t": 3, "n": 5, "progress": 0, "version": "1.21.1", "migration": false,
			"cluster_name": "c", "cluster_id": "id", "recovery_seal": false, "storage_type": "raft", "removed_from_cluster": false},
		"sys/health": {"initialized": true, "sealed": false, "standby": false, "performance_standby": false,
			"replication_performance_mode": "disabled", "replication_dr_mode": "disabled", "version": "1.21.1", "server_time_utc": 1795478405},
		"sys/leader":                       {"ha_enabled": true, "is_self": true, "leader_address": "https://x:8200", "active_time": "2026-11-24T00:21:49.598603449Z"},
		"sys/storage/raft/configuration":   data(object{"config": object{"servers": peers, "index": 0}}),
		"sys/storage/raft/autopilot/state": data(object{"healthy": true, "failure_tolerance": 1, "leader": "vault-1", "voters": []string{"vault-1", "vault-2", "vault-3"}, "servers": servers}),
		"sys/ha-status":                    {"nodes": nodes, "data": object{"nodes": nodes}},
		"sys/mounts":                       data(object{"sys/": mount("m1", "system"), "identity/": mount("m2", "identity"), "cubbyhole/": mount("m3", "cubbyhole"), "kv/": mount("m4", "kv")}),
		"sys/auth":                         data(object{"token/": mount("a1", "token"), "approle/": mount("a2", "approle")}),
		"sys/audit":                        data(object{"file/": object{"type": "file", "path": "file/"}}),
	}
	return v
}

var unauthenticated = []string{"sys/seal-status", "sys/health", "sys/leader"}

func (v *vault) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	v.mu.Lock()
	defer v.mu.Unlock()
	path := strings.TrimPrefix(r.URL.Path, "/v1/")
	v.asked = append(v.asked, r.Method+" "+path+" "+r.Header.Get("X-Vault-Namespace"))
	public := slices.Contains(unauthenticated, path)
	if !public && v.to != "" {
		http.Redirect(w, r, v.to+r.URL.Path, http.StatusTemporaryRedirect)
		return
	}
	status := http.StatusOK
	if s := v.status[path]; s != 0 {
		status = s
	} else if !public && r.Header.Get("X-Vault-Token") != token {
		status = http.StatusForbidden
	}
	body, known := v.answers[path]
	switch {
	case !known:
		status, body = http.StatusNotFound, object{"errors": []string{}}
	case status >= 400:
		body = object{"errors": []string{"1 error occurred:\n\t* permission denied\n"}}
	case path == "sys/leader":
		body = maps.Clone(body)
		body["raft_applied_index"], body["raft_committed_index"] = v.applied[0], max(v.last, v.applied[0])
		if len(v.applied) > 1 {
			v.applied = v.applied[1:]
		}
	case path == "sys/health":
		status = v.health
		for code, param := range map[int]string{429: "standbycode", 472: "drsecondarycode", 473: "performancestandbycode", 474: "haunhealthycode", 501: "uninitcode", 503: "sealedcode"} {
			if want, err := strconv.Atoi(r.URL.Query().Get(param)); err == nil && status == code {
				status = want
			}
		}
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(body)
}

// field returns the object at a path of members in an answer.
func (v *vault) field(path string, members ...string) object {
	o := v.answers[path]
	for _, m := range members {
		o = o[m].(object)
	}
	return o
}

func (v *vault) peer(i int) object {
	return v.field("sys/storage/raft/configuration", "data", "config")["servers"].([]any)[i].(object)
}

// moved gives the servers other addresses.
func (v *vault) moved(to ...string) {
	for i, a := range to {
		v.peer(i)["address"], v.ha(i)["cluster_address"] = a, "https://"+a
	}
}

func (v *vault) ha(i int) object { return v.answers["sys/ha-status"]["nodes"].([]any)[i].(object) }

func (v *vault) pilot() object { return v.field("sys/storage/raft/autopilot/state", "data") }

// clean gives a test no environment of Vault, and a home of its own.
func clean(t *testing.T) (home string) {
	for _, e := range os.Environ() {
		if name, _, _ := strings.Cut(e, "="); strings.HasPrefix(name, "VAULT_") {
			t.Setenv(name, "")
		}
	}
	home = t.TempDir()
	t.Setenv("HOME", home)
	t.Setenv(api.EnvVaultMaxRetries, "0")
	return home
}

func connect(t *testing.T, address string) *api.Client {
	t.Helper()
	c, err := Connect(address, false)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.CloneConfig().HttpClient.CloseIdleConnections)
	return c
}

func serve(t *testing.T, v http.Handler) string {
	s := httptest.NewServer(v)
	t.Cleanup(s.Close)
	return s.URL
}

func checked(t *testing.T, v *vault, opts Options) *Report {
	t.Helper()
	clean(t)
	t.Setenv(api.EnvVaultToken, token)
	if opts.Sample == 0 {
		opts.Sample = time.Millisecond
	}
	r, err := Check(t.Context(), connect(t, serve(t, v)), opts)
	if err != nil {
		t.Fatal(err)
	}
	if b, err := json.Marshal(r); err != nil || strings.Contains(string(b), token) {
		t.Errorf("no JSON, or a token in it: %v", err)
	}
	return r
}

// found are the results that are not passes: "FAILURE peers: …".
func found(r *Report) (out []string) {
	for _, c := range check.Cluster.Results(r.Checks) {
		if c.Status != copier.Passed {
			if c.Hint == "" {
				out = append(out, c.Check+" has no hint")
			}
			out = append(out, fmt.Sprintf("%s %s: %s", c.Status, c.Check, c.Message))
		} else if c.Hint != "" || c.Unchecked {
			out = append(out, c.Check+" passed and has a hint")
		}
	}
	return out
}

func TestHealthy(t *testing.T) {
	v := newVault()
	r := checked(t, v, Options{Expect: Expect{Version: "1.21.1", Peers: 3, Voters: 3, NodeID: "vault-2", Address: "10.0.0.1:8201",
		Mounts: 4, Auth: 2, Audit: 1, MountIDs: []string{"m4", "m2"}, AuthIDs: []string{"a2"}}})
	if f := found(r); len(f) > 0 {
		t.Errorf("not healthy: %q", f)
	}
	var names []string
	for _, c := range r.Checks {
		names = append(names, c.Check)
	}
	const want = "reachable,version,storage,initialized,unsealed,node,leader,peers,voters,copied node,loopback,autopilot," +
		"server vault-1,server vault-2,server vault-3,peer addresses,nodes,secrets engines,auth methods,copied mounts,audit devices,applied index"
	if got := strings.Join(names, ","); got != want {
		t.Errorf("checks %s\nexpected %s", got, want)
	}
	if !r.Healthy() || r.Checks.Count(copier.Passed) != 22 || r.Version != "1.21.1" || r.ClusterID != "id" || r.ClusterName != "c" {
		t.Errorf("report %+v", r)
	}
	for _, a := range v.asked {
		if !strings.HasPrefix(a, "GET ") {
			t.Errorf("not only read: %s", a)
		}
	}
	// Nothing expected, nothing missed.
	if f := found(checked(t, newVault(), Options{})); len(f) > 0 {
		t.Errorf("without expectations: %q", f)
	}
}

// Each check has at least one row here that makes it complain, and only it.
func TestFindings(t *testing.T) {
	deny := func(path string) func(*vault) { return func(v *vault) { v.status[path] = 403 } }
	for name, c := range map[string]struct {
		change func(v *vault)
		expect Expect
		want   []string // beginnings
	}{
		"uninitialized": {func(v *vault) {
			v.answers["sys/seal-status"] = object{"type": "shamir", "initialized": false, "sealed": true, "storage_type": "raft", "version": "1.21.1"}
			v.health = 501
		}, Expect{}, []string{"failure initialized: Vault is not initialized"}},
		"sealed": {func(v *vault) {
			v.answers["sys/seal-status"]["sealed"], v.answers["sys/seal-status"]["progress"] = true, 1
		}, Expect{Peers: 3},
			[]string{"failure unsealed: Vault is sealed: 1 of 3 keys given"}},
		"sealed by KMS": {func(v *vault) {
			v.answers["sys/seal-status"]["sealed"], v.answers["sys/seal-status"]["type"] = true, "awskms"
		}, Expect{},
			[]string{"failure unsealed: Vault is sealed"}},
		"seal migration":   {func(v *vault) { v.answers["sys/seal-status"]["migration"] = true }, Expect{}, []string{"warning unsealed: a migration"}},
		"removed":          {func(v *vault) { v.answers["sys/seal-status"]["removed_from_cluster"] = true }, Expect{}, []string{"failure initialized: this server was removed"}},
		"old storage":      {func(v *vault) { v.answers["sys/seal-status"]["storage_type"] = "dynamodb" }, Expect{}, []string{"failure storage: the storage is dynamodb"}},
		"unknown storage":  {func(v *vault) { delete(v.answers["sys/seal-status"], "storage_type") }, Expect{}, []string{"warning storage: "}},
		"version":          {func(v *vault) {}, Expect{Version: "1.18.0"}, []string{"failure version: 1.21.1, expected 1.18.0"}},
		"redacted version": {func(v *vault) { v.answers["sys/seal-status"]["version"] = "" }, Expect{}, []string{"warning version: "}},
		"DR secondary": {func(v *vault) { v.health = 472; v.answers["sys/health"]["replication_dr_mode"] = "secondary" }, Expect{},
			[]string{"failure node: this is a disaster"}},
		"performance secondary": {func(v *vault) { v.answers["sys/health"]["replication_performance_mode"] = "secondary" }, Expect{},
			[]string{"failure node: this is a performance secondary"}},
		"lost standby": {func(v *vault) { v.health = 474; v.answers["sys/health"]["ha_connection_healthy"] = false }, Expect{},
			[]string{"failure node: this standby has lost"}},
		"health breaks":  {func(v *vault) { v.status["sys/health"] = 500 }, Expect{}, []string{"failure node: sys/health answers 500"}},
		"no leader":      {func(v *vault) { v.answers["sys/leader"] = object{"ha_enabled": true, "is_self": false} }, Expect{}, []string{"failure leader: no leader"}},
		"no HA":          {func(v *vault) { v.answers["sys/leader"]["ha_enabled"] = false }, Expect{}, []string{"failure leader: high availability"}},
		"leader breaks":  {func(v *vault) { v.status["sys/leader"] = 500 }, Expect{}, []string{"failure leader: sys/leader answers 500: 1 error occurred: * permission denied"}},
		"peer missing":   {func(v *vault) {}, Expect{Peers: 5, Voters: 3}, []string{"failure peers: 3 (vault-1, vault-2, vault-3), expected 5", "failure nodes: 3 of 5"}},
		"peer too many":  {func(v *vault) {}, Expect{Peers: 2, Voters: 3}, []string{"failure peers: 3 (vault-1, vault-2, vault-3), expected 2"}},
		"not all vote":   {func(v *vault) { v.peer(2)["voter"] = false }, Expect{}, []string{"warning voters: 2 of 3; without a vote: vault-3"}},
		"a vote missing": {func(v *vault) { v.peer(2)["voter"] = false }, Expect{Peers: 3}, []string{"failure voters: 2, expected 3; without a vote: vault-3"}},
		"voters enough":  {func(v *vault) { v.peer(2)["voter"] = false }, Expect{Peers: 3, Voters: 2}, nil},
		"no raft leader": {func(v *vault) { v.peer(0)["leader"] = false }, Expect{}, []string{"failure raft leader: 0 servers lead"}},
		"single": {func(v *vault) {
			config := v.field("sys/storage/raft/configuration", "data", "config")
			config["servers"] = config["servers"].([]any)[:1]
			v.pilot()["failure_tolerance"] = 0
		}, Expect{}, []string{"warning peers: 1 (vault-1)", "warning autopilot: healthy, but"}},
		"single as expected": {func(v *vault) {
			config := v.field("sys/storage/raft/configuration", "data", "config")
			config["servers"] = config["servers"].([]any)[:1]
			v.pilot()["failure_tolerance"] = 0
		}, Expect{Peers: 1}, nil},
		"no servers":       {func(v *vault) { v.answers["sys/storage/raft/configuration"] = object{"data": object{}} }, Expect{}, []string{"failure peers: sys/storage/raft/configuration names no server"}},
		"other node":       {func(v *vault) {}, Expect{NodeID: "vault-9"}, []string{"failure copied node: no peer has the node_id vault-9"}},
		"other address":    {func(v *vault) {}, Expect{NodeID: "vault-2", Address: "10.9.9.9:8201"}, []string{"warning copied node: vault-2 has the address 10.0.0.1:8201"}},
		"not healthy":      {func(v *vault) { v.pilot()["healthy"] = false }, Expect{}, []string{"failure autopilot: the cluster is not healthy"}},
		"no tolerance":     {func(v *vault) { v.pilot()["failure_tolerance"] = 0 }, Expect{Peers: 3}, []string{"warning autopilot: healthy, but"}},
		"no state":         {func(v *vault) { delete(v.answers, "sys/storage/raft/autopilot/state") }, Expect{}, []string{"warning autopilot: autopilot has no state"}},
		"unhealthy server": {func(v *vault) { v.pilot()["servers"].(object)["vault-3"].(object)["healthy"] = false }, Expect{}, []string{"failure server vault-3: not healthy: voter, last contact 1.2s, 2 entries behind"}},
		"two versions":     {func(v *vault) { v.pilot()["servers"].(object)["vault-3"].(object)["version"] = "1.20.0" }, Expect{}, []string{"warning versions: servers run 1.20.0 and 1.21.1"}},
		"no active node":   {func(v *vault) { v.ha(0)["active_node"] = false }, Expect{}, []string{"failure nodes: 0 of 3 nodes are active"}},
		"two active nodes": {func(v *vault) { v.ha(1)["active_node"] = true }, Expect{}, []string{"failure nodes: 2 of 3 nodes are active"}},
		"node missing": {func(v *vault) { v.answers["sys/ha-status"]["nodes"] = v.answers["sys/ha-status"]["nodes"].([]any)[:2] }, Expect{},
			[]string{"failure peer addresses: no node reports the address of vault-3 at 10.0.0.2:8201", "failure nodes: 2 of 3"}},
		"other cluster_addr": {func(v *vault) { v.ha(1)["cluster_address"] = "https://vault-2.example:8201" }, Expect{},
			[]string{"failure peer addresses: no node reports the address of vault-2 at 10.0.0.1:8201"}},
		"redacted addresses": {func(v *vault) { v.ha(0)["cluster_address"], v.ha(2)["cluster_address"] = "", "" }, Expect{},
			[]string{"warning peer addresses: not checked for vault-1 at 10.0.0.0:8201, vault-3 at 10.0.0.2:8201: 2 of 3 nodes"}},
		"addresses are missing": {func(v *vault) { delete(v.ha(1), "cluster_address") }, Expect{Peers: 3},
			[]string{"warning peer addresses: not checked for vault-2 at 10.0.0.1:8201: 1 of 3 nodes"}},
		"rehearsal": {func(v *vault) { v.moved("127.0.0.1:8201", "localhost:8203", "[::1]:8205") }, Expect{},
			[]string{"warning loopback: every peer has a loopback address (vault-1 at 127.0.0.1:8201, vault-2 at localhost:8203, vault-3 at [::1]:8205)"}},
		"one loopback": {func(v *vault) { v.moved("127.9.9.9:8201", "10.0.0.2:8201", "10.0.0.3:8201") }, Expect{},
			[]string{"failure loopback: 1 of 3 peers have a loopback or unspecified address: vault-1 at 127.9.9.9:8201"}},
		"unspecified": {func(v *vault) { v.moved("0.0.0.0:8201", "[::]:8201", "127.0.0.1:8201") }, Expect{},
			[]string{"failure loopback: 3 of 3 peers"}},
		"clock":             {func(v *vault) { v.ha(1)["clock_skew_ms"] = -5000 }, Expect{}, []string{"warning clock of vault-2: -5s away"}},
		"silent node":       {func(v *vault) { v.ha(1)["last_echo"] = "2026-11-23T23:59:00Z" }, Expect{}, []string{"failure node vault-2: has not reported to the active node for 1m5s"}},
		"mounts":            {func(v *vault) {}, Expect{Mounts: 5}, []string{"failure secrets engines: 4, expected 5"}},
		"auth":              {func(v *vault) {}, Expect{Auth: 1}, []string{"failure auth methods: 2, expected 1"}},
		"audit":             {func(v *vault) {}, Expect{Audit: 2}, []string{"failure audit devices: 1, expected 2"}},
		"no audit":          {func(v *vault) { v.answers["sys/audit"] = object{"data": object{}} }, Expect{}, []string{"warning audit devices: none"}},
		"no audit expected": {func(v *vault) { v.answers["sys/audit"] = object{"data": object{}} }, Expect{Audit: 1}, []string{"failure audit devices: 0, expected 1"}},
		"mount of the copy": {func(v *vault) {}, Expect{MountIDs: []string{"m4", "m9"}}, []string{"warning copied mounts: 1 of 2: the copy has data of 1 that are not mounted: logical/m9"}},
		"auth of the copy":  {func(v *vault) {}, Expect{MountIDs: []string{"m4"}, AuthIDs: []string{"m4", "a2"}}, []string{"warning copied mounts: 2 of 3: the copy has data of 1 that are not mounted: auth/m4"}},
		"many of the copy": {func(v *vault) {}, Expect{MountIDs: []string{"m4", "m5", "m6"}, AuthIDs: []string{"a5", "a6"}},
			[]string{"warning copied mounts: 1 of 5: the copy has data of 4 that are not mounted: logical/m5, logical/m6, auth/a5, …"}},
		"none of the copy": {func(v *vault) {}, Expect{MountIDs: []string{"a1"}, AuthIDs: []string{"m4"}},
			[]string{"failure copied mounts: none of the 2 that the copy has data of is mounted, such as logical/a1, auth/m4"}},
		"edition":            {func(v *vault) { v.answers["sys/seal-status"]["version"] = "1.21.1+ent" }, Expect{Version: "1.21.1"}, nil},
		"other edition":      {func(v *vault) {}, Expect{Version: "1.21.1+ent"}, []string{"failure version: 1.21.1, expected 1.21.1+ent"}},
		"expected mount ids": {deny("sys/mounts"), Expect{MountIDs: []string{"m4"}}, []string{"warning secrets engines: not checked", "failure copied mounts: not checked"}},
		"idle":               {func(v *vault) { v.applied = []float64{100} }, Expect{}, []string{"warning applied index: 100, nothing was written"}},
		"idle with gap":      {func(v *vault) { v.applied, v.last = []float64{100}, 102 }, Expect{}, []string{"warning applied index: 100, nothing was written"}},
		"stuck":              {func(v *vault) { v.applied, v.last = []float64{100}, 2000 }, Expect{}, []string{"failure applied index: stays at 100 for "}},
		"backwards":          {func(v *vault) { v.applied = []float64{100, 90} }, Expect{}, []string{"warning applied index: 100, then 90"}},
		"no index":           {func(v *vault) { v.applied = []float64{0} }, Expect{}, []string{"warning applied index: the server does not tell"}},
		"denied peers":       {deny("sys/storage/raft/configuration"), Expect{}, []string{"warning peers: not checked: the token may not read sys/storage/raft/configuration"}},
		"denied autopilot":   {deny("sys/storage/raft/autopilot/state"), Expect{}, []string{"warning autopilot: not checked"}},
		"denied nodes":       {deny("sys/ha-status"), Expect{}, []string{"warning nodes: not checked", "warning peer addresses: not checked"}},
		"denied mounts":      {deny("sys/mounts"), Expect{}, []string{"warning secrets engines: not checked"}},
		"denied auth":        {deny("sys/auth"), Expect{}, []string{"warning auth methods: not checked"}},
		"denied audit":       {deny("sys/audit"), Expect{}, []string{"warning audit devices: not checked"}},
		"expected peers":     {deny("sys/storage/raft/configuration"), Expect{Peers: 3}, []string{"failure peers: not checked"}},
		"expected node":      {deny("sys/storage/raft/configuration"), Expect{NodeID: "vault-1"}, []string{"failure peers: not checked"}},
		"expected mounts":    {deny("sys/mounts"), Expect{Mounts: 4}, []string{"failure secrets engines: not checked"}},
		"expected auth":      {deny("sys/auth"), Expect{Auth: 2}, []string{"failure auth methods: not checked"}},
		"expected auth ids":  {deny("sys/auth"), Expect{AuthIDs: []string{"a1"}}, []string{"warning auth methods: not checked", "failure copied mounts: not checked"}},
		"expected audit":     {deny("sys/audit"), Expect{Audit: 1}, []string{"failure audit devices: not checked"}},
		"no such path":       {func(v *vault) { delete(v.answers, "sys/ha-status") }, Expect{}, []string{"warning nodes: not checked: this server has no sys/ha-status", "warning peer addresses: not checked"}},
		"no active node answers": {func(v *vault) {
			v.answers["sys/leader"] = object{"ha_enabled": true, "is_self": false}
			v.status["sys/storage/raft/configuration"], v.status["sys/mounts"] = 500, 500
		}, Expect{Mounts: 4}, []string{"failure leader: no leader", "failure peers: sys/storage/raft/configuration answers 500"}},
		"odd contact": {func(v *vault) {
			x := v.pilot()["servers"].(object)["vault-3"].(object)
			x["last_contact"], x["healthy"] = "", false
		}, Expect{}, []string{"failure server vault-3: not healthy: voter, last contact unknown"}},
		"mounts break": {func(v *vault) { v.status["sys/mounts"] = 500 }, Expect{}, []string{"failure secrets engines: sys/mounts answers 500"}},
	} {
		t.Run(name, func(t *testing.T) {
			v := newVault()
			c.change(v)
			r := checked(t, v, Options{Expect: c.expect})
			got := found(r)
			ok := len(got) == len(c.want)
			for i := range c.want {
				ok = ok && strings.HasPrefix(got[i], c.want[i])
			}
			if !ok {
				t.Errorf("got      %q\nexpected %q", got, c.want)
			}
			failures := slices.ContainsFunc(c.want, func(s string) bool { return strings.HasPrefix(s, "failure") })
			if r.Healthy() == failures {
				t.Errorf("healthy %v with %q", r.Healthy(), got)
			}
			if unchecked := strings.Contains(strings.Join(c.want, ""), "not checked"); (r.Unchecked() > 0) != unchecked {
				t.Errorf("%d unchecked", r.Unchecked())
			}
		})
	}
}

func hintOf(r *Report, name string) string {
	for _, c := range check.Cluster.Results(r.Checks) {
		if c.Check == name {
			return c.Hint
		}
	}
	return ""
}

// What is to be added to a policy is named, sudo where Vault wants it.
func TestPolicyHints(t *testing.T) {
	v := newVault()
	v.status["sys/audit"], v.status["sys/ha-status"] = 403, 403
	r := checked(t, v, Options{})
	for check, want := range map[string]string{
		"audit devices": `path "sys/audit" { capabilities = ["read", "sudo"] }`,
		"nodes":         `path "sys/ha-status" { capabilities = ["read"] }`,
	} {
		if h := hintOf(r, check); !strings.Contains(h, want) {
			t.Errorf("%s: hint %q lacks %s", check, h, want)
		}
	}
}

// An uninitialized Vault on a copy looks at the wrong directory: initializing
// it would make a new, empty one.
func TestUninitializedHint(t *testing.T) {
	v := newVault()
	v.answers["sys/seal-status"]["initialized"] = false
	if h := hintOf(checked(t, v, Options{}), "initialized"); !strings.Contains(h, "do NOT run vault operator init") {
		t.Errorf("hint %q", h)
	}
}

func TestWithoutToken(t *testing.T) {
	for _, expected := range []bool{false, true} {
		clean(t)
		v := newVault()
		opts := Options{Sample: time.Millisecond}
		want := "warning token: no token"
		if expected {
			opts.Expect.Mounts = 4
			want = "failure token: no token"
		}
		r, err := Check(t.Context(), connect(t, serve(t, v)), opts)
		if err != nil {
			t.Fatal(err)
		}
		if got := found(r); len(got) != 1 || !strings.HasPrefix(got[0], want) || r.Unchecked() != 1 {
			t.Errorf("got %q, expected %q", got, want)
		}
		for _, a := range v.asked {
			if path := strings.Fields(a)[1]; !slices.Contains(unauthenticated, path) {
				t.Errorf("asked for %s without a token", path)
			}
		}
	}
}

// A standby answers sys/health with 429, a performance standby with 473, and
// forwards what it can't answer.
func TestStandby(t *testing.T) {
	for status, want := range map[int]string{429: "standby", 473: "performance standby"} {
		standby := newVault()
		standby.health = status
		standby.answers["sys/leader"]["is_self"] = false
		standby.answers["sys/health"]["standby"] = true
		standby.answers["sys/health"]["performance_standby"] = status == 473
		r := checked(t, standby, Options{Expect: Expect{Peers: 3}})
		if got := found(r); len(got) > 0 {
			t.Errorf("%d: %q", status, got)
		}
		for _, c := range r.Checks {
			if c.Check == "node" && c.Message != want || c.Check == "leader" && c.Message != "https://x:8200" {
				t.Errorf("%d: %+v", status, c)
			}
		}
	}
}

// The token goes to the server that was named, and along no redirect to another:
// neither another host nor another port.
func TestRedirect(t *testing.T) {
	other := newVault()
	elsewhere := serve(t, other)
	for to, shown := range map[string]string{
		elsewhere: elsewhere,
		strings.Replace(elsewhere, "127.0.0.1", "localhost", 1): strings.Replace(elsewhere, "127.0.0.1", "localhost", 1),
		strings.Replace(elsewhere, "http:", "https:", 1):        strings.Replace(elsewhere, "http:", "https:", 1),
		"http://me:NOTPRINTED@attacker.example":                 "http://attacker.example:80",
		"http://a b":                                            "what is no URL",
	} {
		for expected, status := range map[bool]copier.Outcome{false: copier.Warned, true: copier.Failed} {
			standby := newVault()
			standby.to = to
			opts := Options{}
			if expected {
				opts.Expect.Mounts = 4
			}
			r := checked(t, standby, opts)
			want := fmt.Sprintf("%s peers: not checked, nor is any other that needs a token: the answer is a redirect to %s, ", status, shown)
			if got := found(r); len(got) != 1 || !strings.HasPrefix(got[0], want) || strings.Contains(got[0], "NOTPRINTED") {
				t.Errorf("%s: %q, expected %q", to, got, want)
			}
			if last := r.Checks[len(r.Checks)-1]; last.Check != "applied index" {
				t.Errorf("%s: the last check is %+v", to, last)
			}
			if n := len(standby.asked); n != 5 {
				t.Errorf("%s: asked %d times, expected no second try", to, n)
			}
		}
	}
	// From the first request on.
	clean(t)
	t.Setenv(api.EnvVaultToken, token)
	at := serve(t, http.RedirectHandler(elsewhere, http.StatusMovedPermanently))
	if _, err := Check(t.Context(), connect(t, at), Options{}); !errors.Is(err, copier.ErrDestination) || coded(err) != "vault-redirect map[to:"+elsewhere+"]" {
		t.Errorf("%v, %s", err, coded(err))
	}
	if len(other.asked) > 0 {
		t.Errorf("the other server was asked %q", other.asked)
	}
	// Without a token there is nothing to keep, and on the same server it goes on.
	t.Setenv(api.EnvVaultToken, "")
	if _, err := Check(t.Context(), connect(t, at), Options{Sample: time.Millisecond}); err == nil || len(other.asked) == 0 {
		t.Errorf("%v, asked %q", err, other.asked)
	}
	v := newVault()
	at = serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if path, ok := strings.CutPrefix(r.URL.Path, "/v1/"); ok && !strings.HasPrefix(path, "new/") {
			http.Redirect(w, r, "/v1/new/"+path, http.StatusTemporaryRedirect)
			return
		}
		r.URL.Path = strings.Replace(r.URL.Path, "/new/", "/", 1)
		v.ServeHTTP(w, r)
	}))
	t.Setenv(api.EnvVaultToken, token)
	r, err := Check(t.Context(), connect(t, at), Options{Sample: time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	if got := found(r); len(got) > 0 {
		t.Errorf("on the same server: %q", got)
	}
}

// No token goes over plain HTTP to another machine.
func TestPlainHTTP(t *testing.T) {
	for address, c := range map[string]struct {
		insecure bool
		env      map[string]string
		want     string // what the error names
	}{
		"http://vault.example:8200":        {want: "vault.example:8200"},
		"HTTP://10.0.0.1:8200":             {want: "10.0.0.1:8200"},
		"http://[fe80::1]:8200":            {want: "[fe80::1]:8200"},
		"http://127.0.0.1.example":         {want: "127.0.0.1.example"},
		"http://localhost.example":         {want: "localhost.example"},
		"http://0.0.0.0:8200":              {want: "0.0.0.0:8200"},
		"http://vault.example:8201":        {insecure: true},
		"https://vault.example":            {},
		"http://127.0.0.1:8200":            {},
		"http://127.8.8.8":                 {},
		"http://[::1]:8200":                {},
		"http://[::ffff:127.0.0.1]":        {},
		"http://LocalHost:8200":            {},
		"http://127.0.0.1:8202":            {env: map[string]string{"VAULT_PROXY_ADDR": "http://proxy.example:3128"}, want: "the proxy proxy.example:3128"},
		"http://127.0.0.1:8203":            {env: map[string]string{"VAULT_PROXY_ADDR": "http://127.0.0.1:3128"}},
		"unix:///run/vault/socket":         {},
		"http://no-token.example:8200":     {env: map[string]string{"VAULT_TOKEN": ""}},
		"http://me:NOTPRINTED@b.example:1": {want: "b.example:1"},
	} {
		t.Run(address, func(t *testing.T) {
			clean(t)
			t.Setenv(api.EnvVaultToken, token)
			for k, v := range c.env {
				t.Setenv(k, v)
			}
			_, err := Connect(address, c.insecure)
			switch {
			case c.want == "" && err != nil:
				t.Error(err)
			case c.want == "":
			case !errors.Is(err, copier.ErrConfig) || !strings.HasPrefix(err.Error(), "send a token to "+c.want+": ") || coded(err) != "vault-token-plain map[]":
				t.Errorf("%v, %s", err, coded(err))
			}
			if err != nil && (strings.Contains(err.Error(), token) || strings.Contains(err.Error(), "NOTPRINTED")) {
				t.Errorf("a secret is in %q", err)
			}
		})
	}
}

// changing is a load balancer, or an election.
type changing struct {
	*vault
	asked int
}

func (c *changing) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if strings.HasSuffix(r.URL.Path, "sys/leader") {
		if c.asked++; c.asked == 2 {
			c.mu.Lock()
			c.answers["sys/leader"]["leader_address"] = "https://y:8200"
			c.mu.Unlock()
		}
	}
	c.vault.ServeHTTP(w, r)
}

func TestLeaderChanges(t *testing.T) {
	clean(t)
	t.Setenv(api.EnvVaultToken, token)
	r, err := Check(t.Context(), connect(t, serve(t, &changing{vault: newVault()})), Options{Sample: time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	if got := found(r); len(got) != 1 || !strings.HasPrefix(got[0], "warning applied index: the leader changed from https://x:8200 to https://y:8200") {
		t.Errorf("%q", got)
	}
}

// The namespace is for mounts only: the others are not served in one. What is
// below logical/ and auth/ belongs to mounts of the root namespace.
func TestNamespace(t *testing.T) {
	for _, expect := range []Expect{{}, {MountIDs: []string{"m4"}}} {
		clean(t)
		t.Setenv(api.EnvVaultToken, token)
		t.Setenv(api.EnvVaultNamespace, "team")
		v := newVault()
		if _, err := Check(t.Context(), connect(t, serve(t, v)), Options{Expect: expect, Sample: time.Millisecond}); err != nil {
			t.Fatal(err)
		}
		asked := map[bool]int{}
		for _, a := range v.asked {
			f := strings.Fields(a)
			in, mounts := len(f) == 3 && f[2] == "team", f[1] == "sys/mounts" || f[1] == "sys/auth"
			if in && !mounts {
				t.Errorf("asked %q", a)
			}
			if mounts {
				asked[in]++
			}
		}
		if want := 2 * min(1, len(expect.MountIDs)); asked[true] != 2 || asked[false] != want {
			t.Errorf("asked for mounts %v times in the namespace (true) and not, expected 2 and %d", asked, want)
		}
	}
}

func serveTLS(t *testing.T) *httptest.Server {
	s := httptest.NewUnstartedServer(newVault())
	s.Config.ErrorLog = log.New(io.Discard, "", 0) // bad handshakes are what is tested
	s.StartTLS()
	t.Cleanup(s.Close)
	return s
}

func TestUnreachable(t *testing.T) {
	clean(t)
	t.Setenv(api.EnvVaultToken, token)
	page := func(status int, text string) string {
		return serve(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(status)
			_, _ = w.Write([]byte(text))
		}))
	}
	plain := serve(t, newVault())
	secure := serveTLS(t)
	gone := httptest.NewServer(http.NotFoundHandler())
	gone.Close()
	for name, c := range map[string]struct {
		address string
		code    copier.Code
	}{
		"nobody":            {gone.URL, Unreached},
		"no Vault":          {page(404, "no"), NotVault},
		"web page":          {page(200, "<html>"), Unreached},
		"TLS to plain":      {strings.Replace(plain, "http:", "https:", 1), NoTLS},
		"plain to TLS":      {strings.Replace(secure.URL, "https:", "http:", 1), OnlyTLS},
		"unknown authority": {secure.URL, UnknownAuthority},
		"password":          {strings.Replace(gone.URL, "http://", "http://me:NOTPRINTED@", 1), Unreached},
	} {
		t.Run(name, func(t *testing.T) {
			r, err := Check(t.Context(), connect(t, c.address), Options{})
			if r != nil || !errors.Is(err, copier.ErrDestination) || coded(err) != string(c.code)+" map[]" {
				t.Fatalf("got %+v, %v, %s", r, err, coded(err))
			}
			if strings.Contains(err.Error(), "NOTPRINTED") {
				t.Errorf("a secret is in %q", err)
			}
		})
	}
	t.Run("token with a line break", func(t *testing.T) {
		t.Setenv(api.EnvVaultToken, token+"\n")
		if _, err := Check(t.Context(), connect(t, plain), Options{}); coded(err) != "vault-token map[]" {
			t.Errorf("%v, %s", err, coded(err))
		}
	})
}

func TestTLS(t *testing.T) {
	secure := serveTLS(t)
	ca := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(ca, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: secure.Certificate().Raw}), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		env  map[string]string
		fail copier.Code
	}{
		"CACERT":      {map[string]string{"VAULT_CACERT": ca}, ""},
		"CAPATH":      {map[string]string{"VAULT_CAPATH": filepath.Dir(ca)}, ""},
		"SKIP_VERIFY": {map[string]string{"VAULT_SKIP_VERIFY": "true"}, ""},
		"SERVER_NAME": {map[string]string{"VAULT_CACERT": ca, "VAULT_TLS_SERVER_NAME": "example.com"}, ""},
		"wrong name":  {map[string]string{"VAULT_CACERT": ca, "VAULT_TLS_SERVER_NAME": "wrong.invalid"}, OtherName},
		"no CA":       {nil, UnknownAuthority},
	} {
		t.Run(name, func(t *testing.T) {
			clean(t)
			t.Setenv("VAULT_ADDR", secure.URL)
			for k, v := range c.env {
				t.Setenv(k, v)
			}
			r, err := Check(t.Context(), connect(t, ""), Options{Sample: time.Millisecond})
			if c.fail == "" && (err != nil || r.Address != secure.URL) {
				t.Error(err)
			}
			if c.fail != "" && (!errors.Is(err, copier.ErrDestination) || coded(err) != string(c.fail)+" map[]") {
				t.Errorf("%v, %s", err, coded(err))
			}
		})
	}
}

func TestConnect(t *testing.T) {
	home := clean(t)
	c := connect(t, "")
	if c.Address() != "https://127.0.0.1:8200" || c.Token() != "" || c.ClientTimeout() != requestTimeout {
		t.Errorf("%s, timeout %s", c.Address(), c.ClientTimeout())
	}
	if err := os.WriteFile(filepath.Join(home, ".vault-token"), []byte("hvs.stored\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if got := connect(t, "").Token(); got != "hvs.stored" {
		t.Errorf("token %q of the file", got)
	}
	t.Setenv("VAULT_TOKEN", "hvs.env")
	t.Setenv("VAULT_ADDR", "http://env:8200")
	t.Setenv("VAULT_AGENT_ADDR", "http://127.0.0.1:8100")
	t.Setenv("VAULT_CLIENT_TIMEOUT", "3s")
	c = connect(t, "https://flag:8200")
	if c.Address() != "https://flag:8200" || c.Token() != "hvs.env" || c.ClientTimeout() != 3*time.Second {
		t.Errorf("%s, token %s, timeout %s", c.Address(), c.Token(), c.ClientTimeout())
	}
	if got := connect(t, "").Address(); got != "http://127.0.0.1:8100" {
		t.Errorf("address %s", got)
	}
}

func TestConnectErrors(t *testing.T) {
	for name, c := range map[string]struct{ variable, value, want string }{
		"no scheme":     {"VAULT_ADDR", "vault.example:8200", "not a URL of a server"},
		"other scheme":  {"VAULT_ADDR", "ftp://vault", "not a URL of a server"},
		"no host":       {"VAULT_ADDR", "https://", "not a URL of a server"},
		"password":      {"VAULT_ADDR", "ftp://me:NOTPRINTED@vault", "not shown"},
		"no URL":        {"VAULT_AGENT_ADDR", "http://a b", "not a URL of a server"},
		"CA missing":    {"VAULT_CACERT", "/nowhere/ca.pem", "/nowhere/ca.pem"},
		"not a boolean": {"VAULT_SKIP_VERIFY", "perhaps", "VAULT_SKIP_VERIFY"},
	} {
		t.Run(name, func(t *testing.T) {
			clean(t)
			t.Setenv(c.variable, c.value)
			_, err := Connect("", false)
			if !errors.Is(err, copier.ErrConfig) || coded(err) == " map[]" || !strings.Contains(err.Error(), c.want) {
				t.Fatalf("%v, %s", err, coded(err))
			}
			if strings.Contains(err.Error()+coded(err), "NOTPRINTED") {
				t.Errorf("a secret is in %q", err)
			}
		})
	}
	home := clean(t)
	if err := os.Mkdir(filepath.Join(home, ".vault-token"), 0o700); err != nil {
		t.Fatal(err)
	}
	if _, err := Connect("", false); !errors.Is(err, copier.ErrConfig) {
		t.Errorf("a directory as token: %v", err)
	}
}

// VAULT_WRAP_TTL is for commands that print a secret.
func TestNoWrapping(t *testing.T) {
	clean(t)
	t.Setenv("VAULT_WRAP_TTL", "5m")
	wrapped := false
	url := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		wrapped = wrapped || r.Header.Get("X-Vault-Wrap-TTL") != ""
		newVault().ServeHTTP(w, r)
	}))
	if _, err := Check(t.Context(), connect(t, url), Options{Sample: time.Millisecond}); err != nil || wrapped {
		t.Errorf("%v, wrapped %v", err, wrapped)
	}
}

var errStop = errors.New("stop")

func TestCancelled(t *testing.T) {
	clean(t)
	v := newVault()
	ctx, cancel := context.WithCancelCause(t.Context())
	client := connect(t, serve(t, v))
	time.AfterFunc(50*time.Millisecond, func() { cancel(errStop) })
	if r, err := Check(ctx, client, Options{Sample: time.Hour}); r != nil || !errors.Is(err, errStop) {
		t.Errorf("%+v, %v", r, err)
	}
	// Before the first answer, too.
	if _, err := Check(ctx, client, Options{}); !errors.Is(err, errStop) {
		t.Error(err)
	}
}

// coded is the code of an error, and its facts.
func coded(err error) string {
	code, facts := copier.CodeOf(err)
	return fmt.Sprint(string(code), " ", facts)
}
