package cluster

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/vault/api"

	"github.com/dyn2raft/dyn2raft/copier"
)

// A checker is one run of [Check].
type checker struct {
	Options
	*copier.Findings
	client, root *api.Client
	report       *Report
	err          error // there is no report
	// What later checks compare with.
	servers []server
	now     time.Time // by the clock of the server that was asked, or zero
}

// unchecked is for a check that could not be made. What somebody expects and
// nobody has looked at is not fine.
func (c *checker) unchecked(check, code string, expected bool, format string, a ...any) *copier.Finding {
	f := c.Warn(check, code, format, a...)
	if f.Unchecked = true; expected {
		f.Status = copier.Failed
	}
	return f
}

// A request is what a check asks for.
type request struct {
	check, path string
	expected    bool // something is compared with the answer
	sudo        bool // a policy has to give that capability too
}

// failed is for a request that got no good answer. A token that may not ask
// says nothing about the cluster. It returns whether there is any use in asking
// for more.
func (c *checker) failed(r request, err error) bool {
	if redirect, ok := errors.AsType[*redirectError](err); ok {
		c.unchecked(r.check, "redirect", c.Expect.any(), "not checked, nor is any other that needs a token: %w", redirect).With("to", redirect.to)
		return false
	}
	var answer *api.ResponseError
	if !errors.As(err, &answer) {
		c.Fail(r.check, "unanswered", "%s got no answer: %v", r.path, err)
		return false
	}
	said := strings.Join(strings.Fields(strings.Join(answer.Errors, ", ")), " ")
	if len(said) > 200 { // such as a web page
		said = said[:200] + "…"
	}
	switch answer.StatusCode {
	case http.StatusForbidden:
		capabilities := `"read"`
		if r.sudo {
			capabilities = `"read", "sudo"`
		}
		c.unchecked(r.check, "forbidden", r.expected, "not checked: the token may not read %s", r.path).With("path", r.path, "capabilities", capabilities)
	case http.StatusNotFound, http.StatusMethodNotAllowed:
		c.unchecked(r.check, "missing", r.expected, "not checked: this server has no %s", r.path)
	default:
		c.Fail(r.check, "refused", "%s answers %d: %s", r.path, answer.StatusCode, said)
		return false
	}
	return true
}

// sealStatus makes the checks that a sealed Vault answers, and reports whether the
// others are worth making.
func (c *checker) sealStatus(ctx context.Context) bool {
	s, err := c.root.Sys().SealStatusWithContext(ctx)
	if err != nil {
		c.err = unreachable(c.root, err)
		return false
	}
	c.report.Version, c.report.ClusterName, c.report.ClusterID = s.Version, s.ClusterName, s.ClusterID
	c.Pass("reachable", "%s answers", c.report.Address)
	c.version(s)
	switch s.StorageType {
	case "raft":
		c.Pass("storage", "raft")
	case "":
		c.Warn("storage", "unknown", "the server does not tell its storage type")
	default:
		c.Fail("storage", "", "the storage is %s, expected raft", s.StorageType)
	}
	if s.RemovedFromCluster != nil && *s.RemovedFromCluster {
		c.Fail("initialized", "removed", "this server was removed from its Raft cluster")
		return false
	}
	if !s.Initialized {
		c.Fail("initialized", "", "Vault is not initialized: it has found no data")
		return false
	}
	c.Pass("initialized", "yes")
	if s.Sealed {
		code := ""
		if s.RecoverySeal || s.Type != "shamir" {
			code = "auto"
		}
		c.Fail("unsealed", code, "Vault is sealed: %d of %d keys given", s.Progress, s.T).With("seal", s.Type)
		return false
	}
	if s.Migration {
		c.Warn("unsealed", "migration", "a migration of the seal is not finished")
	} else {
		c.Pass("unsealed", "yes, seal %s", s.Type)
	}
	return true
}

func (c *checker) version(s *api.SealStatusResponse) {
	switch want := c.Expect.Version; {
	case s.Version == "":
		c.Warn("version", "unknown", "the server does not tell its version")
	case want != "" && !sameVersion(s.Version, want):
		c.Fail("version", "", "%s, expected %s", s.Version, want)
	default:
		c.Pass("version", "%s", s.Version)
	}
}

// sameVersion takes 1.21.1+ent for 1.21.1, unless the edition is expected too:
// what a copy says of its Vault's version says nothing of the edition.
func sameVersion(is, want string) bool {
	if !strings.Contains(want, "+") {
		is, _, _ = strings.Cut(is, "+")
	}
	return is == want
}

// node checks what this server is in the cluster. The client asks sys/health to
// answer every state with a success, so that 429, 472 and 473 are no errors.
func (c *checker) node(ctx context.Context) bool {
	h, err := c.root.Sys().HealthWithContext(ctx)
	if err != nil {
		c.failed(request{check: "node", path: "sys/health"}, err)
		return true
	}
	if h.ServerTimeUTC > 0 {
		c.now = time.Unix(h.ServerTimeUTC, 0)
	}
	switch {
	case h.ReplicationDRMode == "secondary":
		c.Fail("node", "secondary", "this is a disaster recovery secondary, which serves nothing")
		return false
	case h.ReplicationPerformanceMode == "secondary":
		c.Fail("node", "secondary", "this is a performance secondary: its data is the primary's, not the copy")
		return false
	case h.HAConnectionHealthy != nil && !*h.HAConnectionHealthy:
		c.Fail("node", "", "this standby has lost its connection to the active node")
	case h.PerformanceStandby:
		c.Pass("node", "performance standby")
	case h.Standby:
		c.Pass("node", "standby")
	default:
		c.Pass("node", "active")
	}
	return true
}

// leader reports whether there is one, and returns what it was told, or nil.
func (c *checker) leader(ctx context.Context) *api.LeaderResponse {
	l, err := c.root.Sys().LeaderWithContext(ctx)
	switch {
	case err != nil:
		c.failed(request{check: "leader", path: "sys/leader"}, err)
		return nil
	case !l.HAEnabled:
		c.Fail("leader", "off", "high availability is off")
	case l.LeaderAddress == "" && !l.IsSelf:
		c.Fail("leader", "", "no leader is known")
	case l.IsSelf:
		c.Pass("leader", "this server")
	default:
		c.Pass("leader", "%s", l.LeaderAddress)
	}
	return l
}

// A server is one of the Raft configuration,
// https://developer.hashicorp.com/vault/api-docs/system/storage/raft#read-raft-configuration.
type server struct {
	ID      string `json:"node_id"`
	Address string `json:"address"`
	Leader  bool   `json:"leader"`
	Voter   bool   `json:"voter"`
}

// peers looks at the Raft configuration. Where nobody can tell it, as without
// an active node, nobody can tell the rest: it returns false.
func (c *checker) peers(ctx context.Context) bool {
	const path = "sys/storage/raft/configuration"
	answer, err := c.root.Logical().ReadRawWithContext(ctx, path)
	if err != nil {
		return c.failed(request{check: "peers", path: path, expected: c.Expect.cluster()}, err)
	}
	defer answer.Body.Close()
	var found struct {
		Data struct {
			Config struct {
				Servers []server `json:"servers"`
			} `json:"config"`
		} `json:"data"`
	}
	err = json.NewDecoder(answer.Body).Decode(&found)
	c.servers = found.Data.Config.Servers
	if err != nil || len(c.servers) == 0 {
		c.Fail("peers", "none", "%s names no server", path)
		return true
	}
	var ids, waiting []string
	leaders := 0
	for _, s := range c.servers {
		ids = append(ids, s.ID)
		if !s.Voter {
			waiting = append(waiting, s.ID)
		}
		if s.Leader {
			leaders++
		}
	}
	n, voters := len(c.servers), len(c.servers)-len(waiting)
	switch want := c.Expect.Peers; {
	case want != 0 && n != want:
		c.Fail("peers", "", "%d (%s), expected %d", n, strings.Join(ids, ", "), want)
	case want == 0 && n == 1:
		c.Warn("peers", "single", "1 (%s): the data has no second copy", ids[0])
	default:
		c.Pass("peers", "%d (%s)", n, strings.Join(ids, ", "))
	}
	without := ""
	if len(waiting) > 0 {
		without = "; without a vote: " + strings.Join(waiting, ", ")
	}
	switch want := cmp.Or(c.Expect.Voters, c.Expect.Peers); {
	case want != 0 && voters != want:
		c.Fail("voters", "", "%d, expected %d%s", voters, want, without)
	case want == 0 && without != "":
		c.Warn("voters", "", "%d of %d%s", voters, n, without)
	default:
		c.Pass("voters", "%d of %d", voters, n)
	}
	if leaders != 1 {
		c.Fail("raft leader", "", "%d servers lead", leaders)
	}
	c.copiedNode()
	c.loopbacks()
	return true
}

// loopbacks looks for addresses by which no other machine reaches a peer. Such a
// cluster looks well until its first failover.
func (c *checker) loopbacks() {
	const check = "loopback"
	var local []string
	real := 0 // loopback addresses, which do for a rehearsal
	for _, s := range c.servers {
		host, _, err := net.SplitHostPort(s.Address)
		if err == nil && loopback(host) {
			real++
		} else if err != nil || host != "" && !net.ParseIP(host).IsUnspecified() {
			continue
		}
		local = append(local, s.ID+" at "+s.Address)
	}
	switch {
	case len(local) == 0:
		c.Pass(check, "no peer has a loopback address")
	case real == len(c.servers):
		c.Warn(check, "rehearsal", "every peer has a loopback address (%s): this is a rehearsal", strings.Join(local, ", "))
	default:
		c.Fail(check, "", "%d of %d peers have a loopback or unspecified address: %s", len(local), len(c.servers), strings.Join(local, ", "))
	}
}

// copiedNode looks for the server that was given the copy.
func (c *checker) copiedNode() {
	id, address := c.Expect.NodeID, c.Expect.Address
	if id == "" {
		return
	}
	i := slices.IndexFunc(c.servers, func(s server) bool { return s.ID == id })
	switch {
	case i < 0:
		c.Fail("copied node", "", "no peer has the node_id %s of the copy", id)
	case address != "" && !sameAddress(c.servers[i].Address, address):
		c.Warn("copied node", "address", "%s has the address %s, and the copy was made for %s", id, c.servers[i].Address, address)
	default:
		c.Pass("copied node", "%s at %s", id, c.servers[i].Address)
	}
}

// sameAddress compares two host:port. Host names know no case.
func sameAddress(a, b string) bool {
	hostA, portA, errA := net.SplitHostPort(a)
	hostB, portB, errB := net.SplitHostPort(b)
	if errA != nil || errB != nil {
		return a == b
	}
	return portA == portB && strings.EqualFold(hostA, hostB)
}

func (c *checker) autopilot(ctx context.Context) {
	const path = "sys/storage/raft/autopilot/state"
	s, err := c.root.Sys().RaftAutopilotStateWithContext(ctx)
	switch {
	case err != nil:
		c.failed(request{check: "autopilot", path: path}, err)
		return
	case s == nil || len(s.Servers) == 0:
		c.Warn("autopilot", "none", "autopilot has no state yet, or is off")
		return
	case !s.Healthy:
		c.Fail("autopilot", "", "the cluster is not healthy")
	case s.FailureTolerance == 0 && (c.Expect.Peers == 0 || c.Expect.Peers > 2):
		c.Warn("autopilot", "fragile", "healthy, but the loss of one server ends the service (voters: %d)", len(s.Voters))
	default:
		c.Pass("autopilot", "healthy, failure tolerance %d", s.FailureTolerance)
	}
	last := uint64(0)
	if l := s.Servers[s.Leader]; l != nil {
		last = l.LastIndex
	}
	versions := map[string]bool{}
	for _, id := range slices.Sorted(maps.Keys(s.Servers)) {
		x := s.Servers[id]
		if x == nil {
			continue
		}
		if x.Version != "" {
			versions[x.Version] = true
		}
		text := fmt.Sprintf("%s, last contact %s, %d entries behind", x.Status, contact(x.LastContact), max(last, x.LastIndex)-x.LastIndex)
		if x.Healthy {
			c.Pass("server "+id, "%s", text)
		} else {
			c.Fail("server "+id, "server", "not healthy: %s, node %s", text, cmp.Or(x.NodeStatus, "unknown")).With("address", x.Address)
		}
	}
	if len(versions) > 1 {
		c.Warn("versions", "", "servers run %s", strings.Join(slices.Sorted(maps.Keys(versions)), " and "))
	}
}

// contact is a duration with fewer digits.
func contact(s string) string {
	d, err := time.ParseDuration(s)
	if err != nil {
		return cmp.Or(s, "unknown")
	}
	return d.Round(10 * time.Millisecond).String()
}

const (
	// A standby tells the active node that it is there every 5 s.
	maxEcho = 15 * time.Second
	// Tokens and certificates are judged by the clock of whichever node serves.
	maxSkew = 2 * time.Second
)

func (c *checker) nodes(ctx context.Context) {
	const path = "sys/ha-status"
	s, err := c.root.Sys().HAStatusWithContext(ctx)
	if err != nil {
		if c.failed(request{check: "nodes", path: path}, err) {
			c.unchecked(checkAddresses, "unknown", false, "not checked: only %s says which addresses the nodes use", path)
		}
		return
	}
	c.addresses(s.Nodes)
	active := 0
	for _, n := range s.Nodes {
		if n.ActiveNode {
			active++
		}
	}
	switch want := max(len(c.servers), c.Expect.Peers); {
	case active != 1:
		c.Fail("nodes", "", "%d of %d nodes are active, expected 1", active, len(s.Nodes))
	case len(s.Nodes) < want:
		c.Fail("nodes", "missing", "%d of %d report to the active node", len(s.Nodes), want)
	default:
		c.Pass("nodes", "1 active and %d standby", len(s.Nodes)-1)
	}
	for _, n := range s.Nodes {
		// A node is compared with the active one's clock and not with ours.
		if skew := time.Duration(n.ClockSkewMillis) * time.Millisecond; skew.Abs() > maxSkew {
			c.Warn("clock of "+n.Hostname, "clock", "%s away from the active node's", skew)
		}
		if n.LastEcho == nil || n.ActiveNode || c.now.IsZero() {
			continue
		}
		if age := c.now.Sub(*n.LastEcho); age > maxEcho {
			c.Fail("node "+n.Hostname, "silent", "has not reported to the active node for %s", age.Round(time.Second))
		}
	}
}

const checkAddresses = "peer addresses"

// addresses compares the peers' addresses with what the nodes say of themselves.
func (c *checker) addresses(nodes []api.HANode) {
	if len(c.servers) == 0 {
		return
	}
	silent := 0
	var said []string
	for _, n := range nodes {
		u, err := url.Parse(n.ClusterAddress)
		if err != nil || u.Host == "" {
			silent++
			continue
		}
		said = append(said, u.Host)
	}
	var missing []string
	for _, s := range c.servers {
		if !slices.ContainsFunc(said, func(a string) bool { return sameAddress(a, s.Address) }) {
			missing = append(missing, s.ID+" at "+s.Address)
		}
	}
	switch {
	case len(missing) == 0:
		c.Pass(checkAddresses, "a node reports each of them")
	case silent > 0:
		c.unchecked(checkAddresses, "silent", false, "not checked for %s: %d of %d nodes report no address", strings.Join(missing, ", "), silent, len(nodes))
	default:
		c.Fail(checkAddresses, "", "no node reports the address of %s", strings.Join(missing, ", "))
	}
}

// mounts counts what users see. These lists are the client's namespace's.
func (c *checker) mounts(ctx context.Context) {
	secrets, err := c.client.Sys().ListMountsWithContext(ctx)
	c.counted(request{check: "secrets engines", path: "sys/mounts"}, err, len(secrets), c.Expect.Mounts, "vault secrets list")
	auth, err := c.client.Sys().ListAuthWithContext(ctx)
	c.counted(request{check: "auth methods", path: "sys/auth"}, err, len(auth), c.Expect.Auth, "vault auth list")
	c.copiedMounts(ctx)
	audit, err := c.root.Sys().ListAuditWithContext(ctx)
	if err == nil && len(audit)+c.Expect.Audit == 0 {
		c.Warn("audit devices", "none", "none: nobody would know who did what")
		return
	}
	c.counted(request{check: "audit devices", path: "sys/audit", sudo: true}, err, len(audit), c.Expect.Audit, "vault audit list")
}

// counted compares the length of a list, or reports that there was no answer.
func (c *checker) counted(r request, err error, n, want int, command string) {
	r.expected = want != 0
	switch {
	case err != nil:
		c.failed(r, err)
	case r.expected && n != want:
		c.Fail(r.check, "count", "%d, expected %d", n, want).With("command", command)
	default:
		c.Pass(r.check, "%d", n)
	}
}

// copiedMounts looks for the mounts that the copy has data of. Their keys begin
// with logical/ and auth/ in the root namespace only, whichever is the client's.
//
// One that is not mounted is no failure: a mount that was disabled can leave
// data behind. Vault removes what it can list, and DynamoDB's storage lists
// neither names that begin with "_" nor what has lost its directory marker. If
// none is mounted, this is another cluster.
func (c *checker) copiedMounts(ctx context.Context) {
	const check = "copied mounts"
	want := len(c.Expect.MountIDs) + len(c.Expect.AuthIDs)
	if want == 0 {
		return
	}
	secrets, err := c.root.Sys().ListMountsWithContext(ctx)
	if err != nil {
		c.failed(request{check: check, path: "sys/mounts", expected: true}, err)
		return
	}
	auth, err := c.root.Sys().ListAuthWithContext(ctx)
	if err != nil {
		c.failed(request{check: check, path: "sys/auth", expected: true}, err)
		return
	}
	left := append(unmounted("logical/", c.Expect.MountIDs, secrets), unmounted("auth/", c.Expect.AuthIDs, auth)...)
	switch shown := strings.Join(left[:min(len(left), 3)], ", "); {
	case len(left) == want:
		c.Fail(check, "", "none of the %d that the copy has data of is mounted, such as %s", want, shown)
	case len(left) > 0:
		if len(left) > 3 {
			shown += ", …"
		}
		c.Warn(check, "some", "%d of %d: the copy has data of %d that are not mounted: %s", want-len(left), want, len(left), shown)
	default:
		c.Pass(check, "%d, all that the copy has data of", want)
	}
}

// unmounted are the UUIDs of the copy that no mount has, behind what their
// keys begin with.
func unmounted(prefix string, want []string, mounts map[string]*api.MountOutput) (out []string) {
	have := map[string]bool{}
	for _, m := range mounts {
		have[m.UUID] = true
	}
	for _, id := range want {
		if !have[id] {
			out = append(out, prefix+id)
		}
	}
	return out
}

// farBehind is how many entries autopilot lets a server lag: max_trailing_logs.
const farBehind = 1000

// appliedIndex looks a second time. Nothing is written for it, so that an idle
// cluster can't show that it applies what it is given.
func (c *checker) appliedIndex(ctx context.Context, before *api.LeaderResponse, sampled time.Time) {
	if before == nil {
		return // told already
	}
	select {
	case <-ctx.Done():
		return
	case <-time.After(time.Until(sampled.Add(c.Sample))):
	}
	const check = "applied index"
	after, err := c.root.Sys().LeaderWithContext(ctx)
	if err != nil {
		c.failed(request{check: check, path: "sys/leader"}, err)
		return
	}
	took := time.Since(sampled).Round(100 * time.Millisecond)
	from, to := before.RaftAppliedIndex, after.RaftAppliedIndex
	// What the API calls committed is the last index of the log, which also
	// counts entries that are no data: a small gap that stays is none.
	gap := max(after.RaftCommittedIndex, to) - to
	switch {
	case to == 0:
		c.Warn(check, "unknown", "the server does not tell it")
	case before.LeaderAddress != after.LeaderAddress || before.IsSelf != after.IsSelf:
		c.Warn(check, "leader", "the leader changed from %s to %s, or two servers answered", cmp.Or(before.LeaderAddress, "unknown"), cmp.Or(after.LeaderAddress, "unknown"))
	case to < from:
		c.Warn(check, "balancer", "%d, then %d: two servers answered", from, to)
	case to > from:
		c.Pass(check, "%d, %d more in %s", to, to-from, took)
	case after.RaftCommittedIndex > before.RaftCommittedIndex || gap > farBehind:
		c.Fail(check, "", "stays at %d for %s, %d entries behind the log", to, took, gap)
	default:
		c.Warn(check, "idle", "%d, nothing was written in %s", to, took)
	}
}
