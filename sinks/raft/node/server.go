package node

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

	"github.com/dyn2raft/dyn2raft/copier/vaultconfig"
	"github.com/dyn2raft/dyn2raft/sinks/raft"
)

// server asks whether Vault starts from the server's configuration, and whether
// that says the same as the copy's. What a real Vault says of each is in the
// end-to-end suite.
func (p *probe) server() {
	if p.ServerConfig == "" {
		return
	}
	var env func(string) (string, bool)
	if p.ServerEnv != "" {
		variables, notes, err := vaultconfig.LoadEnvironment(p.ServerEnv)
		if err != nil {
			p.Fail("server-environment", "unreadable", "%w", err)
			return
		}
		if len(notes) > 0 {
			p.Warn("server-environment", "", "%s: %s", p.ServerEnv, strings.Join(notes, "; "))
		}
		env = func(name string) (string, bool) { v, ok := variables[name]; return v, ok }
	} else {
		p.Note("server-environment", "unknown", "not looked at: VAULT_RAFT_NODE_ID, VAULT_RAFT_PATH, VAULT_CLUSTER_ADDR and VAULT_SEAL_TYPE beat the server's file, where its unit has them")
	}
	c, err := vaultconfig.LoadServer(p.ServerConfig, env)
	if err != nil {
		p.Fail("server-configuration", "", "%w", err)
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

func (p *probe) serverStorage(c *vaultconfig.Server) {
	found := "it has no storage stanza"
	switch {
	case c.Storage == "" && c.Migrate:
		p.Fail("server-storage", "migrate", "%s is the file for the migration, and not the server's", p.ServerConfig)
		return
	case strings.EqualFold(c.Storage, "raft"):
		found = fmt.Sprintf("its storage is %q, which a server wants in lower case", c.Storage)
	case c.Storage != "":
		found = fmt.Sprintf("its storage is %q", c.Storage)
	}
	p.Fail("server-storage", "", "%s, expected \"raft\"", found)
}

// serverStarts makes the checks of what ends a Vault at its start, whatever the
// copy says.
func (p *probe) serverStarts(c *vaultconfig.Server) {
	for _, err := range c.Problems {
		p.Fail("server-settings", "", "%w", err)
	}
	for _, err := range c.Duplicates {
		if p.atLeast("v1.21") {
			p.Fail("server-settings", "twice", "%w", err)
		} else {
			p.Warn("server-settings", "twice", "%w", err)
		}
	}
	for _, w := range c.Warnings {
		p.Warn("server-settings", "ignored", "%s", w.Error())
	}
	if c.HAStorage != "" {
		p.Fail("server-ha-storage", "", "the server has an ha_storage or ha_backend (%q), with which no Vault starts on raft", c.HAStorage)
	} else {
		p.Pass("server-ha-storage", "none, as it has to be")
	}
	if c.DisableClustering {
		p.Fail("server-clustering", "", "disable_clustering is true, with which no Vault starts on raft")
	}
	p.serverNeeds("server-mlock", "disable_mlock", "VAULT_DISABLE_MLOCK", c.MlockSet, p.atLeast("v1.20"))
	p.serverNeeds("server-api-addr", "api_addr", "VAULT_API_ADDR", c.APIAddr != "", true)
	p.serverNeeds("server-cluster-addr", "cluster_addr", "VAULT_CLUSTER_ADDR", c.ClusterAddr != "", true)
	if len(c.Unchecked) > 0 {
		p.Warn("server-settings", "unchecked", "not looked at: %s", strings.Join(c.Unchecked, "; ")).Unchecked = true
	}
	if len(c.Listeners) == 0 {
		p.Warn("server-listener", "none", "the server has no listener: it starts, and nobody can reach it")
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
			p.Fail(check, "missing", "%s: %s is not there", file.Key, file.Path)
		case whoErr == nil && !who.may(file.Path, rights):
			p.Warn(check, "closed", "%s: %s can't read or write %s", file.Key, who.name, file.Path)
		}
	}
}

// serverListens asks the system for the address of a listener, with any port: its
// own may be the old Vault's as yet.
func (p *probe) serverListens(address string) {
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
		p.Fail("server-listener", "address", "listener.address is %s, and this machine does not have it", address)
	}
}

// serverNeeds says of a setting without which no Vault starts on raft whether it
// is there. A variable may stand for it, which can be told only where the server's
// environment is known.
func (p *probe) serverNeeds(check, key, variable string, is, needed bool) {
	switch {
	case is && check == "server-mlock":
		p.Pass(check, "%s is set", key)
	case is || !needed:
		// What it is, if it has to be something, is another check's.
	case p.ServerEnv != "":
		p.Fail(check, "missing", "the server has no %s, and %s no %s: Vault ends at its start", key, p.ServerEnv, variable)
	default:
		p.Warn(check, "unknown", "the server has no %s: Vault ends at its start unless %s is in its environment", key, variable)
	}
}

// atLeast reports whether the Vault that will start is of that version or a newer
// one, such as "v1.20", and no OpenBao, which counts from 2. Where nothing tells,
// it is assumed to be new.
func (p *probe) atLeast(version string) bool {
	have := "v" + p.Version
	return !semver.IsValid(have) || semver.Major(have) == "v1" && semver.Compare(semver.MajorMinor(have), version) >= 0
}

func (p *probe) serverPath(c *vaultconfig.Server) {
	path, want := c.Path, p.Path
	switch {
	case Absolute(path) != Absolute(want):
		p.Fail("server-path", "", "the server's path is %q%s, the copy's %q", path, from(c, "path"), want)
	case !filepath.IsAbs(path):
		p.Warn("server-path", "relative", "the server's path is %q, below the directory that it is started in, which need not be this one", path).With("absolute", Absolute(path))
	default:
		p.Pass("server-path", "the same as the copy's")
	}
}

// from names the variable that a value is from.
func from(c *vaultconfig.Server, key string) string {
	if v := c.From[key]; v != "" {
		return " (from " + v + ")"
	}
	return ""
}

// Absolute is a path from the root, with symbolic links followed as far as it is there.
func Absolute(path string) string {
	if abs, err := filepath.Abs(path); err == nil {
		path = abs
	}
	if real, err := filepath.EvalSymlinks(path); err == nil {
		path = real
	}
	return path
}

func (p *probe) serverNode(c *vaultconfig.Server) {
	_, kept, _ := p.nodeIDFile() // an error of that is another check's
	id, want := cmp.Or(c.NodeID, kept), cmp.Or(p.NodeID, kept)
	if err := raft.CheckNodeID(id); err != nil {
		p.Fail("server-node-id", "template", "%v%s", err, from(c, "node_id"))
		return
	}
	switch {
	case id != want:
		p.Fail("server-node-id", "", "the server's node_id is %q%s, the copy's %q", id, from(c, "node_id"), want)
	case vaultconfig.Invisible(id) != "":
		p.Warn("server-node-id", "invisible", "%q in both%s has %s, which can't be seen", id, from(c, "node_id"), vaultconfig.Invisible(id))
	case id == "":
		p.Pass("server-node-id", "neither has one: the copy makes the file node-id, and Vault takes the id that is in it")
	default:
		p.Pass("server-node-id", "%q in both%s", id, from(c, "node_id"))
	}
}

func (p *probe) serverAddress(c *vaultconfig.Server) {
	want := p.Address
	switch u, err := url.ParseRequestURI(c.ClusterAddr); {
	case c.ClusterAddr == "": // another check says so
	case strings.Contains(c.ClusterAddr, "{{"):
		p.Warn("server-cluster-addr", "template", "the server's is a template, %s", c.ClusterAddr)
	case err != nil || !strings.EqualFold(u.Host, want):
		p.Fail("server-cluster-addr", "", "the server's is %s%s, the copy's %s", c.ClusterAddr, from(c, "cluster_addr"), p.ClusterAddr)
	default:
		p.Pass("server-cluster-addr", "the same as the copy's")
	}
	switch u, err := url.Parse(c.APIAddr); {
	case c.APIAddr == "", strings.Contains(c.APIAddr, "{{"):
	case c.APIAddr == c.ClusterAddr:
		p.Fail("server-api-addr", "same", "api_addr and cluster_addr are both %s, with which no Vault starts", c.APIAddr)
	case err != nil || u.Scheme == "":
		p.Fail("server-api-addr", "", "%s%s is no URL with a scheme, and Vault ends at its start", c.APIAddr, from(c, "api_addr"))
	case u.Scheme != "http" && u.Scheme != "https" || u.Host == "":
		p.Warn("server-api-addr", "", "%s%s is no http or https URL: neither clients nor other nodes reach it", c.APIAddr, from(c, "api_addr"))
	default:
		p.Pass("server-api-addr", "%s", c.APIAddr)
	}
}

func (p *probe) serverJoin(c *vaultconfig.Server) {
	if c.RetryJoins == 0 {
		p.Note("server-retry-join", "", "no retry_join: the first node needs none; the others join by it, or by `vault operator raft join`")
	}
	if c.NonVoter && c.RetryJoins > 0 {
		p.Warn("server-non-voter", "", "retry_join_as_non_voter is set, and the first node, which the copy is for, has to vote")
	}
}

func (p *probe) serverLog(c *vaultconfig.Server) {
	switch have := p.WAL; {
	case c.WAL == have:
		p.Pass("server-raft-wal", "%v in both", have)
	case have:
		p.Fail("server-raft-wal", "", "the copy's log store is raft/wal, the server's raft/raft.db")
	default:
		p.Warn("server-raft-wal", "new", "the copy's log store is raft/raft.db: Vault keeps using that, and ignores raft_wal")
	}
}

func (p *probe) serverSeal(c *vaultconfig.Server) {
	if p.Seal == "" {
		return // not known, which another check says
	}
	seals := c.Seals
	if len(seals) == 0 {
		seals = []string{"shamir"}
	}
	if len(seals) > 1 && !enterprise(p.Version) {
		p.Warn("server-seal", "several", "several seals: %s; only Vault Enterprise starts with more than one", strings.Join(seals, ", "))
	}
	if slices.Contains(seals, p.Seal) {
		p.Pass("server-seal", "%s, as in the table", p.Seal)
		return
	}
	p.Fail("server-seal", "", "the table's Vault is sealed by %s, the server's configuration says %s%s", p.Seal, strings.Join(seals, ", "), from(c, "seal"))
}

// serverLicense looks at what ends the way back from Vault Enterprise: where a
// seal can wrap them, Enterprise wraps entries as it writes them, and no other
// Vault reads those.
func (p *probe) serverLicense(c *vaultconfig.Server) {
	auto := slices.ContainsFunc(c.Seals, func(kind string) bool { return kind != "shamir" })
	if c.LicensePath != "" && auto && !c.DisableSealwrap {
		p.Warn("server-sealwrap", "", "the server has a license_path and an auto-unseal: Vault Enterprise wraps entries with that seal, which no Community Vault reads")
	}
}
