package cluster

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/hashicorp/vault/api"
)

// A checker is one run of [Check].
type checker struct {
	Options
	client, root *api.Client
	report       *Report
	err          error // there is no report
	// What later checks compare with.
	servers []server
	now     time.Time // by the clock of the server that was asked, or zero
}

func (c *checker) add(s Status, check, hint, format string, a ...any) {
	c.report.Checks = append(c.report.Checks, Result{Check: check, Status: s, Message: fmt.Sprintf(format, a...), Hint: hint})
}

func (c *checker) pass(check, format string, a ...any) { c.add(Pass, check, "", format, a...) }
func (c *checker) warn(check, message, hint string)    { c.add(Warning, check, hint, "%s", message) }
func (c *checker) fail(check, message, hint string)    { c.add(Failure, check, hint, "%s", message) }

// unchecked is for a check that could not be made. What somebody expects and
// nobody has looked at is not fine.
func (c *checker) unchecked(check, message, hint string, expected bool) {
	status := Warning
	if expected {
		status = Failure
	}
	c.report.Checks = append(c.report.Checks, Result{Check: check, Status: status, Message: message, Hint: hint, Unchecked: true})
}

// A request is what a check asks for.
type request struct {
	check, path  string
	capabilities []string // that a policy has to give
	expected     bool     // something is compared with the answer
}

// failed is for a request that got no good answer. A token that may not ask
// says nothing about the cluster. It returns whether there is any use in asking
// for more.
func (c *checker) failed(r request, err error) bool {
	if redirect, ok := errors.AsType[*redirectError](err); ok {
		c.unchecked(r.check, "not checked, nor is any other that needs a token: "+redirect.Error(),
			"a standby forwards requests unless it can't reach the active node; "+redirect.hint(), c.Expect.any())
		return false
	}
	var answer *api.ResponseError
	if !errors.As(err, &answer) {
		c.fail(r.check, fmt.Sprintf("%s got no answer: %v", r.path, err),
			"a standby sends requests on to the active node: ask that one with -address, and see the logs of both")
		return false
	}
	said := strings.Join(strings.Fields(strings.Join(answer.Errors, ", ")), " ")
	if len(said) > 200 { // such as a web page
		said = said[:200] + "…"
	}
	switch answer.StatusCode {
	case http.StatusForbidden:
		c.unchecked(r.check, "not checked: the token may not read "+r.path,
			fmt.Sprintf("add to its policy: path %q { capabilities = [%s] }; `vault token lookup` tells whether it is still valid", r.path, quoted(r.capabilities)), r.expected)
	case http.StatusNotFound, http.StatusMethodNotAllowed:
		c.unchecked(r.check, "not checked: this server has no "+r.path,
			"is this a much older Vault, or a proxy that lets only some paths through?", r.expected)
	default:
		c.fail(r.check, fmt.Sprintf("%s answers %d: %s", r.path, answer.StatusCode, said), "see the server's log")
		return false
	}
	return true
}

var readOnly = []string{"read"}

func quoted(words []string) string {
	var out []string
	for _, w := range words {
		out = append(out, strconv.Quote(w))
	}
	return strings.Join(out, ", ")
}

// sealStatus makes the checks that a sealed Vault answers, and reports whether it
// is worth to go on.
func (c *checker) sealStatus(ctx context.Context) bool {
	s, err := c.root.Sys().SealStatusWithContext(ctx)
	if err != nil {
		c.err = unreachable(c.root, err)
		return false
	}
	c.report.Version, c.report.ClusterName, c.report.ClusterID = s.Version, s.ClusterName, s.ClusterID
	c.pass("reachable", "%s answers", c.report.Address)
	c.version(s)
	switch s.StorageType {
	case "raft":
		c.pass("storage", "raft")
	case "":
		c.warn("storage", "the server does not tell its storage type", "look at the storage stanza of its configuration")
	default:
		c.fail("storage", fmt.Sprintf("the storage is %s, expected raft", s.StorageType),
			"this server does not use the copy: is this cluster B's address, and has its configuration the stanza storage \"raft\"?")
	}
	if s.RemovedFromCluster != nil && *s.RemovedFromCluster {
		c.fail("initialized", "this server was removed from its Raft cluster",
			"ask another server, or empty this one's data directory and join it again: vault operator raft join")
		return false
	}
	if !s.Initialized {
		c.fail("initialized", "Vault is not initialized: it has found no data",
			"do NOT run vault operator init; compare path in its storage stanza with the copy's directory, and the directory's owner with Vault's user")
		return false
	}
	c.pass("initialized", "yes")
	if s.Sealed {
		hint := "unseal it with cluster A's keys: vault operator unseal"
		if s.RecoverySeal || s.Type != "shamir" {
			hint = fmt.Sprintf("the seal is %s: give the server's role the use of cluster A's key, and see Vault's log", s.Type)
		}
		c.fail("unsealed", fmt.Sprintf("Vault is sealed: %d of %d keys given", s.Progress, s.T), hint)
		return false
	}
	if s.Migration {
		c.warn("unsealed", "a migration of the seal is not finished", "finish it on every server: vault operator unseal -migrate")
	} else {
		c.pass("unsealed", "yes, seal %s", s.Type)
	}
	return true
}

func (c *checker) version(s *api.SealStatusResponse) {
	switch want := c.Expect.Version; {
	case s.Version == "":
		c.warn("version", "the server does not tell its version", "redact_version is set on this listener: ask with `vault version` on its host")
	case want != "" && !sameVersion(s.Version, want):
		c.fail("version", fmt.Sprintf("%s, expected %s", s.Version, want),
			"start the copy with the version that wrote it, and upgrade afterwards as a task of its own")
	default:
		c.pass("version", "%s", s.Version)
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

// node tells what this server is in the cluster. The client asks sys/health to
// answer every state with a success, so that 429, 472 and 473 are no errors.
func (c *checker) node(ctx context.Context) bool {
	h, err := c.root.Sys().HealthWithContext(ctx)
	if err != nil {
		c.failed(request{"node", "sys/health", readOnly, false}, err)
		return true
	}
	if h.ServerTimeUTC > 0 {
		c.now = time.Unix(h.ServerTimeUTC, 0)
	}
	switch {
	case h.ReplicationDRMode == "secondary":
		c.fail("node", "this is a disaster recovery secondary, which serves nothing", "ask the primary cluster with -address")
		return false
	case h.ReplicationPerformanceMode == "secondary":
		c.fail("node", "this is a performance secondary: its data is the primary's, not the copy", "ask the primary cluster with -address")
		return false
	case h.HAConnectionHealthy != nil && !*h.HAConnectionHealthy:
		c.fail("node", "this standby has lost its connection to the active node",
			"open the cluster port, 8201, between all servers, and compare cluster_addr on each")
	case h.PerformanceStandby:
		c.pass("node", "performance standby")
	case h.Standby:
		c.pass("node", "standby")
	default:
		c.pass("node", "active")
	}
	return true
}

// leader reports whether there is one, and returns what it was told, or nil.
func (c *checker) leader(ctx context.Context) *api.LeaderResponse {
	l, err := c.root.Sys().LeaderWithContext(ctx)
	switch {
	case err != nil:
		c.failed(request{"leader", "sys/leader", readOnly, false}, err)
		return nil
	case !l.HAEnabled:
		c.fail("leader", "high availability is off", "set cluster_addr and api_addr in the server's configuration")
	case l.LeaderAddress == "" && !l.IsSelf:
		c.fail("leader", "no leader is known",
			"most servers must be up and unsealed to elect one: see their logs (with redact_addresses on this listener, ask the active node)")
	case l.IsSelf:
		c.pass("leader", "this server")
	default:
		c.pass("leader", "%s", l.LeaderAddress)
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
		return c.failed(request{"peers", path, readOnly, c.Expect.cluster()}, err)
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
		c.fail("peers", path+" names no server", "see the active node's log")
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
		c.fail("peers", fmt.Sprintf("%d (%s), expected %d", n, strings.Join(ids, ", "), want),
			"join the missing ones (retry_join, or vault operator raft join), each with an empty data directory; remove those that are gone: vault operator raft remove-peer ID")
	case want == 0 && n == 1:
		c.warn("peers", fmt.Sprintf("1 (%s): the data has no second copy", ids[0]),
			"join the others: retry_join, or vault operator raft join; -expect-peers N checks their number")
	default:
		c.pass("peers", "%d (%s)", n, strings.Join(ids, ", "))
	}
	want := c.Expect.Voters
	if want == 0 {
		want = c.Expect.Peers
	}
	const promoted = "autopilot makes a new server a voter when it was healthy for 10 s: check again then; with redundancy zones or read replicas give -expect-voters"
	switch {
	case want != 0 && voters != want:
		c.fail("voters", fmt.Sprintf("%d, expected %d%s", voters, want, listed("; without a vote: ", waiting)), promoted)
	case want == 0 && len(waiting) > 0:
		c.warn("voters", fmt.Sprintf("%d of %d%s", voters, n, listed("; without a vote: ", waiting)), promoted)
	default:
		c.pass("voters", "%d of %d", voters, n)
	}
	if leaders != 1 {
		c.fail("raft leader", fmt.Sprintf("%d servers lead", leaders), "most servers must be up and unsealed to elect one: see their logs")
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
		unspecified := host == "" || net.ParseIP(host).IsUnspecified()
		if err != nil || !loopback(host) && !unspecified {
			continue
		}
		local = append(local, s.ID+" at "+s.Address)
		if !unspecified {
			real++
		}
	}
	switch {
	case len(local) == 0:
		c.pass(check, "no peer has a loopback address")
	case real == len(c.servers):
		c.warn(check, fmt.Sprintf("every peer has a loopback address (%s): this is a rehearsal", strings.Join(local, ", ")),
			"right for a cluster on one machine; elsewhere no other server can reach these: set cluster_addr to an address that the others reach")
	default:
		c.fail(check, fmt.Sprintf("%d of %d peers have a loopback or unspecified address: %s", len(local), len(c.servers), strings.Join(local, ", ")),
			"no other server can reach these, and a failover loses the cluster: set their cluster_addr, then remove and join them again one by one, or see peers.json in Vault's documentation")
	}
}

func listed(head string, names []string) string {
	if len(names) == 0 {
		return ""
	}
	return head + strings.Join(names, ", ")
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
		c.fail("copied node", fmt.Sprintf("no peer has the node_id %s of the copy", id),
			"is this the cluster that was started on the copy? node_id in the server's configuration must be that of migrate.hcl")
	case address != "" && !sameAddress(c.servers[i].Address, address):
		c.warn("copied node", fmt.Sprintf("%s has the address %s, and the copy was made for %s", id, c.servers[i].Address, address),
			"other servers reach it by this address: compare cluster_addr in its configuration with migrate.hcl")
	default:
		c.pass("copied node", "%s at %s", id, c.servers[i].Address)
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
		c.failed(request{"autopilot", path, readOnly, false}, err)
		return
	case s == nil || len(s.Servers) == 0:
		c.warn("autopilot", "autopilot has no state yet, or is off", "check again 10 s after the unsealing; VAULT_RAFT_AUTOPILOT_DISABLE turns it off")
		return
	case !s.Healthy:
		c.fail("autopilot", "the cluster is not healthy", "see the servers below, and: vault operator raft autopilot state")
	case s.FailureTolerance == 0 && (c.Expect.Peers == 0 || c.Expect.Peers > 2):
		c.warn("autopilot", fmt.Sprintf("healthy, but the loss of one server ends the service (voters: %d)", len(s.Voters)),
			"three voters bear the loss of one, five that of two")
	default:
		c.pass("autopilot", "healthy, failure tolerance %d", s.FailureTolerance)
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
		lag := uint64(0)
		if last > x.LastIndex {
			lag = last - x.LastIndex
		}
		text := fmt.Sprintf("%s, last contact %s, %d entries behind", x.Status, contact(x.LastContact), lag)
		if x.Healthy {
			c.pass("server "+id, "%s", text)
		} else {
			c.fail("server "+id, fmt.Sprintf("not healthy: %s, node %s", text, orUnknown(x.NodeStatus)),
				"is it running, unsealed, and can the leader reach "+x.Address+"? see its log")
		}
	}
	if len(versions) > 1 {
		c.warn("versions", "servers run "+strings.Join(slices.Sorted(maps.Keys(versions)), " and "), "give all the same version; upgrade afterwards as a task of its own")
	}
}

// contact is a duration with fewer digits.
func contact(s string) string {
	d, err := time.ParseDuration(s)
	if err != nil {
		return orUnknown(s)
	}
	return d.Round(10 * time.Millisecond).String()
}

func orUnknown(s string) string {
	if s == "" {
		return "unknown"
	}
	return s
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
		if c.failed(request{"nodes", path, readOnly, false}, err) {
			c.unchecked(checkAddresses, "not checked: only "+path+" says which addresses the nodes use", "see the check nodes", false)
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
	want := max(len(c.servers), c.Expect.Peers)
	switch {
	case active != 1:
		c.fail("nodes", fmt.Sprintf("%d of %d nodes are active, expected 1", active, len(s.Nodes)), "see the nodes' logs")
	case len(s.Nodes) < want:
		c.fail("nodes", fmt.Sprintf("%d of %d report to the active node", len(s.Nodes), want),
			"unseal the others, and open the cluster port, 8201, between all; after a start it takes 5 s")
	default:
		c.pass("nodes", "1 active and %d standby", len(s.Nodes)-1)
	}
	for _, n := range s.Nodes {
		// A node is compared with the active one's clock and not with ours.
		if skew := time.Duration(n.ClockSkewMillis) * time.Millisecond; skew.Abs() > maxSkew {
			c.warn("clock of "+n.Hostname, fmt.Sprintf("%s away from the active node's", skew), "run a time service on every server")
		}
		if n.LastEcho == nil || n.ActiveNode || c.now.IsZero() {
			continue
		}
		if age := c.now.Sub(*n.LastEcho); age > maxEcho {
			c.fail("node "+n.Hostname, fmt.Sprintf("has not reported to the active node for %s", age.Round(time.Second)),
				"is it running, and is the cluster port open from it to the active node?")
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
		c.pass(checkAddresses, "a node reports each of them")
	case silent > 0:
		c.unchecked(checkAddresses, fmt.Sprintf("not checked for %s: %d of %d nodes report no address", strings.Join(missing, ", "), silent, len(nodes)),
			"an old Vault, or something between, leaves it out: compare cluster_addr on each node with `vault operator raft list-peers`", false)
	default:
		c.fail(checkAddresses, "no node reports the address of "+strings.Join(missing, ", "),
			"is the node unsealed? then compare cluster_addr in its configuration: the others reach it by the address that Raft knows")
	}
}

// mounts counts what users see. These lists are the client's namespace's.
func (c *checker) mounts(ctx context.Context) {
	secrets, err := c.client.Sys().ListMountsWithContext(ctx)
	if err != nil {
		c.failed(request{"secrets engines", "sys/mounts", readOnly, c.Expect.Mounts != 0}, err)
	} else {
		c.counted("secrets engines", len(secrets), c.Expect.Mounts, "vault secrets list")
	}
	auth, err := c.client.Sys().ListAuthWithContext(ctx)
	if err != nil {
		c.failed(request{"auth methods", "sys/auth", readOnly, c.Expect.Auth != 0}, err)
	} else {
		c.counted("auth methods", len(auth), c.Expect.Auth, "vault auth list")
	}
	c.copiedMounts(ctx)
	audit, err := c.root.Sys().ListAuditWithContext(ctx)
	switch {
	case err != nil:
		c.failed(request{"audit devices", "sys/audit", []string{"read", "sudo"}, c.Expect.Audit != 0}, err)
	case len(audit) == 0 && c.Expect.Audit == 0:
		c.warn("audit devices", "none: nobody would know who did what", "if cluster A had one, its path may not exist here: see the active node's log")
	default:
		c.counted("audit devices", len(audit), c.Expect.Audit, "vault audit list")
	}
}

func (c *checker) counted(check string, n, want int, command string) {
	if want != 0 && n != want {
		c.fail(check, fmt.Sprintf("%d, expected %d", n, want),
			fmt.Sprintf("compare `%s` with what it printed on cluster A; is this the right cluster, and the right VAULT_NAMESPACE?", command))
		return
	}
	c.pass(check, "%d", n)
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
		c.failed(request{check, "sys/mounts", readOnly, true}, err)
		return
	}
	auth, err := c.root.Sys().ListAuthWithContext(ctx)
	if err != nil {
		c.failed(request{check, "sys/auth", readOnly, true}, err)
		return
	}
	left := append(unmounted("logical/", c.Expect.MountIDs, secrets), unmounted("auth/", c.Expect.AuthIDs, auth)...)
	switch shown := strings.Join(left[:min(len(left), 3)], ", "); {
	case len(left) == want:
		c.fail(check, fmt.Sprintf("none of the %d that the copy has data of is mounted, such as %s", want, shown),
			"this is another cluster than the one that was started on the copy: compare the address, and the manifest")
	case len(left) > 0:
		if len(left) > 3 {
			shown += ", …"
		}
		c.warn(check, fmt.Sprintf("%d of %d: the copy has data of %d that are not mounted: %s", want-len(left), want, len(left), shown),
			"nothing to do if they were disabled on cluster A, which can leave data behind, or here since; `vault secrets list -detailed` and `vault auth list -detailed` tell UUIDs")
	default:
		c.pass(check, "%d, all that the copy has data of", want)
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
		c.failed(request{check, "sys/leader", readOnly, false}, err)
		return
	}
	took := time.Since(sampled).Round(100 * time.Millisecond)
	from, to := before.RaftAppliedIndex, after.RaftAppliedIndex
	// What the API calls committed is the last index of the log, which also
	// counts entries that are no data: a small gap that stays is none.
	gap := max(after.RaftCommittedIndex, to) - to
	switch {
	case to == 0:
		c.warn(check, "the server does not tell it", "it does with Raft storage: see the check storage")
	case before.LeaderAddress != after.LeaderAddress || before.IsSelf != after.IsSelf:
		c.warn(check, fmt.Sprintf("the leader changed from %s to %s, or two servers answered", orUnknown(before.LeaderAddress), orUnknown(after.LeaderAddress)),
			"check again with one server's own address; a leader that changes again and again has a slow disk or network")
	case to < from:
		c.warn(check, fmt.Sprintf("%d, then %d: two servers answered", from, to), "check again with one server's own address, not a load balancer's")
	case to > from:
		c.pass(check, "%d, %d more in %s", to, to-from, took)
	case after.RaftCommittedIndex > before.RaftCommittedIndex || gap > farBehind:
		c.fail(check, fmt.Sprintf("stays at %d for %s, %d entries behind the log", to, took, gap),
			"this server does not apply what it is sent: see its log, and its disk's free space and latency")
	default:
		c.warn(check, fmt.Sprintf("%d, nothing was written in %s", to, took),
			"an idle cluster looks like this: write something, such as a login, during a second check (-sample 30s)")
	}
}
