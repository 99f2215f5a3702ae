package plan

import (
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/hashicorp/hcl"
	"github.com/hashicorp/hcl/hcl/ast"
	hclparser "github.com/hashicorp/hcl/hcl/parser"
)

// A serverConfig is what of a Vault server's configuration must agree with the
// copy. Later files of a directory beat earlier ones, as Vault merges them.
type serverConfig struct {
	storage     string // the type of the storage stanza, or empty
	values      map[string]string
	clusterAddr string
	apiAddr     string
	seals       []string // types of the seal stanzas that are not disabled
}

// server compares the copy's configuration with the server's.
func (p *planner) server() {
	if p.VaultConfig == "" {
		return
	}
	c, err := readServer(p.VaultConfig)
	if err != nil {
		p.fail("server configuration", err.Error(), "name the file, or the directory, that the server is started with: vault server -config=…")
		return
	}
	if c.storage != "raft" {
		found := "it has no storage stanza"
		if c.storage != "" {
			found = fmt.Sprintf("its storage is %q", c.storage)
		}
		p.fail("server storage", found+", expected \"raft\"", fmt.Sprintf("write storage \"raft\" { path = %q, node_id = … } into it, in the place of the old one", p.Config.Destination.Path))
		return
	}
	p.serverPath(c)
	p.serverNode(c)
	p.serverAddress(c)
	p.serverLog(c)
	p.serverSeal(c)
}

func (p *planner) serverPath(c *serverConfig) {
	path, want := c.values["path"], p.Config.Destination.Path
	if path == "" || absolute(path) != absolute(want) {
		p.fail("server path", fmt.Sprintf("the server's path is %q, the copy's %q", path, want),
			"Vault would find no data and ask to be initialized: make them the same")
		return
	}
	p.pass("server path", "the same as the copy's")
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

func (p *planner) serverNode(c *serverConfig) {
	id, want := c.values["node_id"], p.Config.Destination.NodeID
	const hint = "make node_id the same in both: under another id Vault finds no leader, and unsealing never returns"
	switch {
	case id == want && id == "":
		p.pass("server node_id", "neither has one: both take the id in the file node-id")
	case id == want:
		p.pass("server node_id", "%q in both (VAULT_RAFT_NODE_ID, where the server has it, beats it)", id)
	case strings.Contains(id, "{{"):
		p.warn("server node_id", fmt.Sprintf("the server's is a template, %s, the copy's is %q", id, want), "make sure that the template gives just that on this node")
	default:
		p.fail("server node_id", fmt.Sprintf("the server's node_id is %q, the copy's %q", id, want), hint)
	}
}

func (p *planner) serverAddress(c *serverConfig) {
	want := p.Config.Destination.Address
	switch {
	case c.clusterAddr == "" && c.apiAddr == "":
		p.fail("server cluster_addr", "the server has neither cluster_addr nor api_addr, which raft storage needs",
			fmt.Sprintf("write cluster_addr = %q, unless VAULT_CLUSTER_ADDR gives it", p.Config.ClusterAddr))
	case c.clusterAddr == "":
		p.warn("server cluster_addr", "the server has none, and makes one of its api_addr and port 8201 or so", fmt.Sprintf("write cluster_addr = %q", p.Config.ClusterAddr))
	case strings.Contains(c.clusterAddr, "{{"):
		p.warn("server cluster_addr", fmt.Sprintf("the server's is a template, %s", c.clusterAddr), "make sure that the template gives "+want+" on this node")
	case !strings.EqualFold(hostPort(c.clusterAddr), want):
		p.fail("server cluster_addr", fmt.Sprintf("the server's is %s, the copy's %s", c.clusterAddr, p.Config.ClusterAddr),
			"the copy's Raft configuration has the address: make them the same")
	default:
		p.pass("server cluster_addr", "the same as the copy's")
	}
}

func hostPort(addr string) string {
	u, err := url.Parse(addr)
	if err != nil {
		return addr
	}
	return u.Host
}

func (p *planner) serverLog(c *serverConfig) {
	wal, _ := strconv.ParseBool(c.values["raft_wal"]) // Vault refuses what is no boolean
	switch have := p.Config.Destination.WAL; {
	case wal == have:
		p.pass("server raft_wal", "%v in both", wal)
	case have:
		p.fail("server raft_wal", "the copy's log store is raft/wal, the server's raft/raft.db", `write raft_wal = "true" into the server's storage stanza, or leave it out of storage_destination`)
	default:
		p.warn("server raft_wal", "the copy's log store is raft/raft.db: Vault goes on with that, and ignores raft_wal", `write raft_wal = "true" into storage_destination`)
	}
}

func (p *planner) serverSeal(c *serverConfig) {
	if p.seal == "" {
		return // not known, which another check says
	}
	seals := c.seals
	if len(seals) == 0 {
		seals = []string{"shamir"}
	}
	if slices.Contains(seals, p.seal) {
		p.pass("server seal", "%s, as in the table", p.seal)
		return
	}
	p.fail("server seal", fmt.Sprintf("the table's Vault is sealed by %s, the server's configuration says %s", p.seal, strings.Join(seals, ", ")),
		"take the seal stanza of the old servers over (VAULT_SEAL_TYPE may stand for it); change the seal before or after the migration, not at once")
}

// maxServerFile bounds what is read of a file, which by mistake may be any.
const maxServerFile = 1 << 20

// readServer reads a server's configuration: a file, or all .hcl and .json
// files of a directory, as Vault does.
func readServer(path string) (*serverConfig, error) {
	fi, err := os.Stat(path)
	if err != nil {
		return nil, fmt.Errorf("read server configuration: %w", err)
	}
	files := []string{path}
	if fi.IsDir() {
		files = nil
		list, err := os.ReadDir(path) // by name
		if err != nil {
			return nil, fmt.Errorf("read server configuration: %w", err)
		}
		for _, f := range list {
			if ext := filepath.Ext(f.Name()); !f.IsDir() && (ext == ".hcl" || ext == ".json") {
				files = append(files, filepath.Join(path, f.Name()))
			}
		}
		if len(files) == 0 {
			return nil, fmt.Errorf("read server configuration: no .hcl and no .json file in %s", path)
		}
	}
	out := &serverConfig{values: map[string]string{}}
	for _, f := range files {
		if err := out.read(f); err != nil {
			return nil, err
		}
	}
	return out, nil
}

func (c *serverConfig) read(file string) (err error) {
	f, err := os.Open(file)
	if err != nil {
		return fmt.Errorf("read server configuration: %w", err)
	}
	defer f.Close()
	src, err := io.ReadAll(io.LimitReader(f, maxServerFile+1))
	switch {
	case err != nil:
		return fmt.Errorf("read server configuration: %w", err)
	case len(src) > maxServerFile:
		return fmt.Errorf("read server configuration: %s is larger than 1 MiB", file)
	}
	// The parser's errors quote the source, in which credentials may be, and
	// it panics on some malformed text.
	malformed := fmt.Errorf("read server configuration: %s is malformed", file)
	defer func() {
		if recover() != nil {
			err = malformed
		}
	}()
	tree, err := hcl.ParseBytes(src)
	if err != nil {
		if at, ok := errors.AsType[*hclparser.PosError](err); ok {
			return fmt.Errorf("%w at line %d", malformed, at.Pos.Line)
		}
		return malformed
	}
	root, ok := tree.Node.(*ast.ObjectList)
	if !ok {
		return malformed
	}
	c.take(root)
	return nil
}

func (c *serverConfig) take(root *ast.ObjectList) {
	for _, item := range root.Items {
		if len(item.Keys) == 0 {
			continue
		}
		text := textOf(item.Val)
		switch key := strings.ToLower(keyOf(item, 0)); key {
		case "cluster_addr":
			c.clusterAddr = text
		case "api_addr":
			c.apiAddr = text
		case "storage", "backend":
			c.storage, c.values = strings.ToLower(labelOf(item)), valuesOf(item)
		case "seal":
			if off, err := strconv.ParseBool(valuesOf(item)["disabled"]); err != nil || !off {
				c.seals = append(c.seals, labelOf(item))
			}
		}
	}
}

func keyOf(item *ast.ObjectItem, i int) string {
	s, _ := item.Keys[i].Token.Value().(string) // keys are strings
	return s
}

// labelOf is the type of a stanza: storage "raft" { … }, or in JSON the one
// member of its value.
func labelOf(item *ast.ObjectItem) string {
	if len(item.Keys) > 1 {
		return keyOf(item, 1)
	}
	if body, ok := item.Val.(*ast.ObjectType); ok && len(body.List.Items) == 1 {
		return keyOf(body.List.Items[0], 0)
	}
	return ""
}

// valuesOf are the values of a stanza that are no blocks.
func valuesOf(item *ast.ObjectItem) map[string]string {
	out := map[string]string{}
	body, ok := item.Val.(*ast.ObjectType)
	if ok && len(item.Keys) == 1 && len(body.List.Items) == 1 {
		body, ok = body.List.Items[0].Val.(*ast.ObjectType)
	}
	if !ok {
		return out
	}
	for _, v := range body.List.Items {
		if len(v.Keys) == 1 {
			out[keyOf(v, 0)] = textOf(v.Val)
		}
	}
	return out
}

func textOf(n ast.Node) string {
	lit, ok := n.(*ast.LiteralType)
	if !ok {
		return ""
	}
	return fmt.Sprint(lit.Token.Value())
}
