package plan

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"golang.org/x/mod/semver"

	"github.com/dyn2raft/dyn2raft/copier"
	sink "github.com/dyn2raft/dyn2raft/sinks/raft"
	"github.com/dyn2raft/dyn2raft/vaultconfig"
)

// server asks whether Vault starts from the server's configuration, and whether
// that says the same as the copy's. What a real Vault says of each is in the
// end-to-end suite.
func (p *planner) server() {
	if p.VaultConfig == "" {
		return
	}
	var env func(string) (string, bool)
	if p.VaultEnv != "" {
		variables, notes, err := vaultconfig.LoadEnvironment(p.VaultEnv)
		if err != nil {
			p.fail("server-environment", err.Error(), "name the EnvironmentFile of the server's unit: systemctl cat vault")
			return
		}
		if len(notes) > 0 {
			p.warn("server-environment", p.VaultEnv+": "+strings.Join(notes, "; "), "correct the file, or Vault starts without these variables")
		}
		env = func(name string) (string, bool) { v, ok := variables[name]; return v, ok }
	} else {
		p.note("server-environment", "not looked at: VAULT_RAFT_NODE_ID, VAULT_RAFT_PATH, VAULT_CLUSTER_ADDR and VAULT_SEAL_TYPE beat the server's file, where its unit has them (-vault-env)")
	}
	c, err := vaultconfig.LoadServer(p.VaultConfig, env)
	if err != nil {
		p.fail("server-configuration", err.Error(), "name the file, or the directory, that the server is started with: vault server -config=…")
		return
	}
	if c.Storage != "raft" {
		p.serverStorage(c)
		return
	}
	p.mlock = c.MlockSet && !c.DisableMlock
	p.serverStarts(c)
	p.serverPath(c)
	p.serverNode(c)
	p.serverAddress(c)
	p.serverJoin(c)
	p.serverLog(c)
	p.serverSeal(c)
	p.serverLicense(c)
}

func (p *planner) serverStorage(c *vaultconfig.Server) {
	found := "it has no storage stanza"
	switch {
	case c.Storage == "" && c.Migrate:
		p.fail("server-storage", p.VaultConfig+" is the file for the migration, and not the server's", "name the file, or the directory, that the server is started with: vault server -config=…")
		return
	case strings.EqualFold(c.Storage, "raft"):
		found = fmt.Sprintf("its storage is %q, which a server wants in lower case", c.Storage)
	case c.Storage != "":
		found = fmt.Sprintf("its storage is %q", c.Storage)
	}
	p.fail("server-storage", found+", expected \"raft\"", fmt.Sprintf("write storage \"raft\" { path = %q, node_id = … } into it, in the place of the old one", p.Config.Destination.Path))
}

// serverStarts makes the checks of what ends a Vault at its start, whatever the
// copy says.
func (p *planner) serverStarts(c *vaultconfig.Server) {
	for _, err := range c.Problems {
		p.fail("server-settings", err.Error(), "Vault does not start, or can't be unsealed, with this: correct it")
	}
	for _, err := range c.Duplicates {
		const hint = "Vault ends at its start from 1.21 on, and warns before"
		if p.atLeast("v1.21") {
			p.fail("server-settings", err.Error(), hint)
		} else {
			p.warn("server-settings", err.Error(), hint)
		}
	}
	for _, w := range c.Warnings {
		p.warn("server-settings", w.String(), "correct it, or take it out")
	}
	if c.HAStorage != "" {
		p.fail("server-ha-storage", fmt.Sprintf("the server has an ha_storage or ha_backend (%q), with which no Vault starts on raft", c.HAStorage),
			"take it out: raft storage is for high availability itself")
	} else {
		p.pass("server-ha-storage", "none, as it has to be")
	}
	if c.DisableClustering {
		p.fail("server-clustering", "disable_clustering is true, with which no Vault starts on raft", "take it out")
	}
	p.serverNeeds("server-mlock", "disable_mlock", c.MlockSet, "VAULT_DISABLE_MLOCK",
		"write disable_mlock = true (or false: what matters from Vault 1.20 on is that it is set)", p.atLeast("v1.20"))
	p.serverNeeds("server-api-addr", "api_addr", c.APIAddr != "", "VAULT_API_ADDR", "write api_addr = \"https://HOST:8200\", as clients and the other nodes reach this one", true)
	p.serverNeeds("server-cluster-addr", "cluster_addr", c.ClusterAddr != "", "VAULT_CLUSTER_ADDR", fmt.Sprintf("write cluster_addr = %q at the top level", p.Config.ClusterAddr), true)
	if len(c.Unchecked) > 0 {
		p.add(Result{Finding: copier.Finding{Check: "server-settings", Status: copier.Warned, Unchecked: true,
			Message: "not looked at: " + strings.Join(c.Unchecked, "; ")}, Hint: "a Vault may end at them: start one with this configuration on a rehearsal's copy first"})
	}
	if len(c.Listeners) == 0 {
		p.warn("server-listener", "the server has no listener: it starts, and nobody can reach it", "write a listener stanza, such as cluster A's")
	}
	for _, address := range c.Listeners {
		p.serverListens(address)
	}
	who, whoErr := p.vaultUser()
	for _, file := range c.Files {
		check := "server-settings"
		if strings.HasPrefix(file.Key, "listener.") {
			check = "server-listener"
		}
		fi, err := os.Stat(file.Path)
		rights := fs.FileMode(0o4)
		if err == nil && fi.IsDir() {
			rights = 0o3 // to make a file
		}
		switch {
		case os.IsNotExist(err):
			p.fail(check, fmt.Sprintf("%s: %s is not there", file.Key, file.Path), "Vault ends at its start without it on this node")
		case whoErr == nil && !who.may(file.Path, rights):
			p.warn(check, fmt.Sprintf("%s: %s can't read or write %s", file.Key, who.name, file.Path), "Vault ends at its start where it can't: chown or chgrp it")
		}
	}
}

// serverListens asks the system for the address of a listener, with any port: its
// own may be the old Vault's as yet.
func (p *planner) serverListens(address string) {
	host, _, err := net.SplitHostPort(address)
	if err != nil || strings.Contains(host, "{{") {
		return // not of TCP, or said already
	}
	l, err := net.Listen("tcp", net.JoinHostPort(host, "0"))
	if err == nil {
		_ = l.Close()
		return
	}
	if unknown := new(net.DNSError); errors.Is(err, syscall.EADDRNOTAVAIL) || errors.As(err, &unknown) {
		p.fail("server-listener", fmt.Sprintf("listener.address is %s, and this machine does not have it", address), "Vault ends at its start: name an address of this node, or 0.0.0.0")
	}
}

// serverNeeds says of a setting without which no Vault starts on raft whether it
// is there. A variable may stand for it, which can be told only where the server's
// environment is known.
func (p *planner) serverNeeds(check, key string, is bool, variable, hint string, needed bool) {
	switch {
	case is && check == "server-mlock":
		p.pass(check, "%s is set", key)
	case is || !needed:
		// What it is, if it has to be something, is another check's.
	case p.VaultEnv != "":
		p.fail(check, fmt.Sprintf("the server has no %s, and %s no %s: Vault ends at its start", key, p.VaultEnv, variable), hint)
	default:
		p.warn(check, fmt.Sprintf("the server has no %s: Vault ends at its start unless %s is in its environment", key, variable),
			hint+", or give the unit's EnvironmentFile with -vault-env")
	}
}

// atLeast reports whether the Vault that will start is of that version or a newer
// one, such as "v1.20", and no OpenBao, which counts from 2. Where nothing tells,
// it is assumed to be new.
func (p *planner) atLeast(version string) bool {
	have := "v" + p.version
	return !semver.IsValid(have) || semver.Major(have) == "v1" && semver.Compare(semver.MajorMinor(have), version) >= 0
}

func (p *planner) serverPath(c *vaultconfig.Server) {
	path, want := c.Path, p.Config.Destination.Path
	switch {
	case absolute(path) != absolute(want):
		p.fail("server-path", fmt.Sprintf("the server's path is %q%s, the copy's %q", path, from(c, "path"), want),
			"Vault would find no data and ask to be initialized: make them the same")
	case !filepath.IsAbs(path):
		p.warn("server-path", fmt.Sprintf("the server's path is %q, below the directory that it is started in, which need not be this one", path), "write it whole: "+absolute(path))
	default:
		p.pass("server-path", "the same as the copy's")
	}
}

// from names the variable that a value is from.
func from(c *vaultconfig.Server, key string) string {
	if v := c.From[key]; v != "" {
		return " (from " + v + ")"
	}
	return ""
}

func absolute(path string) string {
	if abs, err := filepath.Abs(path); err == nil {
		path = abs
	}
	if real, err := filepath.EvalSymlinks(path); err == nil {
		path = real
	}
	return path
}

func (p *planner) serverNode(c *vaultconfig.Server) {
	_, kept, _ := p.nodeIDFile() // an error of that is another check's
	id, want := cmp.Or(c.NodeID, kept), cmp.Or(p.Config.Destination.NodeID, kept)
	const hint = "make node_id the same in both: under another id Vault finds no leader, and unsealing never returns"
	if err := sink.CheckNodeID(id); err != nil {
		p.fail("server-node-id", fmt.Sprintf("%v%s", err, from(c, "node_id")), "a template is not replaced in node_id; "+hint)
		return
	}
	switch {
	case id != want:
		p.fail("server-node-id", fmt.Sprintf("the server's node_id is %q%s, the copy's %q", id, from(c, "node_id"), want), hint)
	case vaultconfig.Invisible(id) != "":
		p.warn("server-node-id", fmt.Sprintf("%q in both%s has %s, which can't be seen", id, from(c, "node_id"), vaultconfig.Invisible(id)), "write the id anew in both, without it")
	case id == "":
		p.pass("server-node-id", "neither has one: the copy makes the file node-id, and Vault takes the id that is in it")
	default:
		p.pass("server-node-id", "%q in both%s", id, from(c, "node_id"))
	}
}

func (p *planner) serverAddress(c *vaultconfig.Server) {
	want := p.Config.Destination.Address
	switch u, err := url.ParseRequestURI(c.ClusterAddr); {
	case c.ClusterAddr == "": // another check says so
	case strings.Contains(c.ClusterAddr, "{{"):
		p.warn("server-cluster-addr", fmt.Sprintf("the server's is a template, %s", c.ClusterAddr), "make sure that the template gives "+want+" on this node")
	case err != nil || !strings.EqualFold(u.Host, want):
		p.fail("server-cluster-addr", fmt.Sprintf("the server's is %s%s, the copy's %s", c.ClusterAddr, from(c, "cluster_addr"), p.Config.ClusterAddr),
			"the copy's Raft configuration has the address: make them the same, as a URL with scheme, host and port")
	default:
		p.pass("server-cluster-addr", "the same as the copy's")
	}
	switch u, err := url.Parse(c.APIAddr); {
	case c.APIAddr == "", strings.Contains(c.APIAddr, "{{"):
	case c.APIAddr == c.ClusterAddr:
		p.fail("server-api-addr", "api_addr and cluster_addr are both "+c.APIAddr+", with which no Vault starts", "they have ports of their own: 8200 and 8201 by default")
	case err != nil || u.Scheme == "":
		p.fail("server-api-addr", c.APIAddr+from(c, "api_addr")+" is no URL with a scheme, and Vault ends at its start", `write api_addr = "https://HOST:8200"`)
	case u.Scheme != "http" && u.Scheme != "https" || u.Host == "":
		p.warn("server-api-addr", c.APIAddr+from(c, "api_addr")+" is no http or https URL: neither clients nor other nodes reach it", `write api_addr = "https://HOST:8200"`)
	default:
		p.pass("server-api-addr", "%s", c.APIAddr)
	}
}

func (p *planner) serverJoin(c *vaultconfig.Server) {
	if c.RetryJoins == 0 {
		p.note("server-retry-join", "no retry_join: the first node needs none; the others join by it, or by `vault operator raft join`")
	}
	if c.NonVoter && c.RetryJoins > 0 {
		p.warn("server-non-voter", "retry_join_as_non_voter is set, and the first node, which the copy is for, has to vote", "take it out of the first node's configuration")
	}
}

func (p *planner) serverLog(c *vaultconfig.Server) {
	switch have := p.Config.Destination.WAL; {
	case c.WAL == have:
		p.pass("server-raft-wal", "%v in both", have)
	case have:
		p.fail("server-raft-wal", "the copy's log store is raft/wal, the server's raft/raft.db", `write raft_wal = "true" into the server's storage stanza, or leave it out of storage_destination`)
	default:
		p.warn("server-raft-wal", "the copy's log store is raft/raft.db: Vault goes on with that, and ignores raft_wal", `write raft_wal = "true" into storage_destination`)
	}
}

func (p *planner) serverSeal(c *vaultconfig.Server) {
	if p.table.Seal == "" {
		return // not known, which another check says
	}
	seals := c.Seals
	if len(seals) == 0 {
		seals = []string{"shamir"}
	}
	if len(seals) > 1 && !enterprise(p.version) {
		p.warn("server-seal", "several seals: "+strings.Join(seals, ", ")+"; only Vault Enterprise starts with more than one", "keep the one of cluster A, unless it is an Enterprise cluster")
	}
	if slices.Contains(seals, p.table.Seal) {
		p.pass("server-seal", "%s, as in the table", p.table.Seal)
		return
	}
	p.fail("server-seal", fmt.Sprintf("the table's Vault is sealed by %s, the server's configuration says %s%s", p.table.Seal, strings.Join(seals, ", "), from(c, "seal")),
		"take the seal stanza of the old servers over (VAULT_SEAL_TYPE may stand for it); change the seal before or after the migration, not at once")
}

// serverLicense looks at what ends the way back from Vault Enterprise: where a
// seal can wrap them, Enterprise wraps entries as it writes them, and no other
// Vault reads those.
func (p *planner) serverLicense(c *vaultconfig.Server) {
	auto := slices.ContainsFunc(c.Seals, func(kind string) bool { return kind != "shamir" })
	if c.LicensePath != "" && auto && !c.DisableSealwrap {
		p.warn("server-sealwrap", "the server has a license_path and an auto-unseal: Vault Enterprise wraps entries with that seal, which no Community Vault reads",
			"if the old Vaults are of the Community edition, write disable_sealwrap = true before the first start, which keeps the way back")
	}
}
