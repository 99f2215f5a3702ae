package command

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"

	"al.essio.dev/pkg/shellescape"
	"github.com/urfave/cli/v3"

	"github.com/dyn2raft/dyn2raft/cmd/dyn2raft/hints"
	"github.com/dyn2raft/dyn2raft/cmd/dyn2raft/visible"
	"github.com/dyn2raft/dyn2raft/copier"
	"github.com/dyn2raft/dyn2raft/copier/vaultconfig"
	sink "github.com/dyn2raft/dyn2raft/sinks/raft"
	"github.com/dyn2raft/dyn2raft/verify"
)

func readdressCommand(std Streams) *cli.Command {
	return newCommand(std, "readdress", runReaddress,
		[]cli.Flag{
			&cli.StringFlag{Name: "node-id", Usage: "the `ID` that the server will run with, as node_id in its storage stanza (default: as it is)"},
			&cli.StringFlag{Name: "cluster-addr", Usage: "the `URL` that the server will have as cluster_addr, such as https://vault-1.example.com:8201 (default: as it is)"},
			manifestFlag("the copy's manifest, a `file` (default: beside the data directory, PATH.dyn2raft.json)"),
		},
		shared("log-level", "format"),
	)
}

// A readdressing is the JSON of a readdress.
type readdressing struct {
	Destination string    `json:"destination"`
	Was         sink.Peer `json:"was"`
	Now         sink.Peer `json:"now"`
	Manifest    string    `json:"manifest"`
}

func runReaddress(ctx context.Context, cmd *cli.Command, _ Streams, out *printer) (err error) {
	switch {
	case cmd.Args().Len() != 1:
		return &usageError{"readdress takes one data directory", "such as: dyn2raft readdress /opt/vault/data -node-id vault-1"}
	case cmd.String("node-id") == "" && cmd.String("cluster-addr") == "":
		return &usageError{"neither -node-id nor -cluster-addr says what to correct", "give the one that is wrong, or both"}
	}
	path, err := filepath.Abs(cmd.Args().First())
	if err != nil {
		return err
	}
	address := ""
	if url := cmd.String("cluster-addr"); url != "" {
		if address, err = vaultconfig.HostPort(url); err != nil {
			return err
		}
	}
	file, err := filepath.Abs(cmp.Or(cmd.String("manifest"), verify.ManifestPath(path)))
	if err != nil {
		return err
	}
	as, err := accountFor("", path)
	if err != nil {
		return err
	}
	rec := &manifestWriter{file: file, cfg: &vaultconfig.Config{Destination: vaultconfig.Destination{Path: path}}}
	var root *rootSide
	if as == nil {
		if err := rootMayWork(path, false, ofVault(path)); err != nil {
			return err
		}
	} else {
		if root, err = startRootSide(RootTask{Manifest: file, Path: path, UID: -1, GID: -1}); err != nil {
			return fmt.Errorf("start a process that stays root's: %w", err)
		}
		defer root.Close()
		if err := as.become(); err != nil {
			return err
		}
		out.log.Info("working as the user that the data directory belongs to", "user", as.name(), "group", as.gid)
	}
	defer func() { err = whose(cmd, err, path) }()
	m, err := rec.read(ctx)
	if root != nil && errors.Is(err, fs.ErrPermission) {
		rec.root = root
		m, err = rec.read(ctx)
	}
	if err != nil {
		return err
	}
	if err := rec.try(ctx, root); err != nil {
		return err
	}
	node := verify.NodeOf(m)
	was := sink.Peer{ID: node.ID, Address: node.Address}
	now := sink.Peer{ID: cmp.Or(cmd.String("node-id"), was.ID), Address: cmp.Or(address, was.Address)}

	// bbolt believes what it opens, so that it is looked at first.
	out.log.Info("comparing the directory with the manifest", "directory", path, "manifest", file)
	rep, err := out.checkManifest(ctx, m, path)
	if err != nil {
		return damaged(err)
	}
	if rep.Started {
		return out.progressed(fmt.Errorf("%w: it stands at index %d, the log at %d", copier.ErrChanged, rep.Raft.Index, rep.Log.Last), path, rep, was, now)
	}
	if slices.ContainsFunc(rep.Prefixes, func(p verify.PrefixCheck) bool { return !p.Equal }) {
		return hints.With(&copier.Error{Kind: copier.ErrDestination, Op: "check " + path, Err: errors.New("it does not hold what the manifest says that was copied")},
			"is this the copy's manifest? to see what differs: dyn2raft verify -manifest "+shellescape.Quote(file)+" -path "+shellescape.Quote(path))
	}
	_, err = sink.Readdress(ctx, sink.ReaddressOptions{Path: path, NodeID: now.ID, Address: now.Address, AnyNodeID: now.ID == was.ID,
		NodeIDFile: node.NodeIDFile, CheckLog: verify.Expect(m).CheckLog})
	if errors.Is(err, copier.ErrChanged) {
		return out.progressed(err, path, rep, was, now)
	}
	if err != nil {
		return err
	}
	changed, err := verify.Readdress(m, thisTool(), now.ID, now.Address)
	if changed && err == nil {
		err = rec.put(ctx, m)
	}
	if err != nil {
		return hints.With(fmt.Errorf("the directory has its new address, and the manifest has not: %w", err), "run the same command again once it can be written")
	}
	return out.readdressed(readdressing{path, was, now, file})
}

func (p *printer) readdressed(r readdressing) error {
	if p.json {
		return p.encode(r)
	}
	changed := func(is, was string) string {
		if is == was {
			return visible.Text(is) + " (as it was)"
		}
		return fmt.Sprintf("%s (was %s)", visible.Text(is), visible.Text(was))
	}
	t := p.table()
	t.row("Directory", "%s", r.Destination)
	t.row("node_id", "%s", changed(r.Now.ID, r.Was.ID))
	t.row("cluster_addr", "%s", changed(r.Now.Address, r.Was.Address))
	t.row("Manifest", "%s", r.Manifest)
	return errors.Join(t.flush(), p.text(fmt.Sprintf("Done. The server must run with the same: node_id = %q in its storage stanza, and cluster_addr = %q. Correct the file of copy and verify (-config) too.", r.Now.ID, "https://"+r.Now.Address)))
}

// A recoveryPeer is a server in Vault's peers.json,
// https://developer.hashicorp.com/vault/docs/concepts/integrated-storage#manual-recovery-using-peers-json
type recoveryPeer struct {
	ID       string `json:"id"`
	Address  string `json:"address"`
	NonVoter bool   `json:"non_voter"`
}

// staleNode warns of a configuration, a file, that still has the node_id or the
// cluster_addr that the copy had before it was corrected, and has neither other. It
// reports whether it is so.
func (p *printer) staleNode(m *copier.Record, cfg *vaultconfig.Config, file string) bool {
	nodes, _ := verify.Nodes(m)
	is := nodes[len(nodes)-1]
	id, addr := cmp.Or(cfg.Destination.NodeID, is.ID), cfg.Destination.Address
	oldID := id != is.ID && slices.ContainsFunc(nodes, func(n verify.Node) bool { return n.ID == id })
	oldAddr := addr != is.Address && slices.ContainsFunc(nodes, func(n verify.Node) bool { return n.Address == addr })
	if !oldID && id != is.ID || !oldAddr && addr != is.Address || !oldID && !oldAddr {
		return false
	}
	var old []string
	if oldID {
		old = append(old, fmt.Sprintf("node_id = %q, and the copy's is %q", id, is.ID))
	}
	if oldAddr {
		old = append(old, fmt.Sprintf("cluster_addr = %q, and the copy's is %q", addr, is.Address))
	}
	p.log.Warn(fmt.Sprintf("%s is older than the last readdress: it has %s now: correct that file; the server must run with what the copy has", file, strings.Join(old, " now; and ")))
	return true
}

// progressed prints the peers.json that does what can't be done here any more, and
// returns the error that says why. was is the copied node, now what it is to be.
func (p *printer) progressed(err error, path string, rep *verify.ManifestReport, was, now sink.Peer) error {
	var peers []recoveryPeer
	for _, s := range rep.Raft.Servers {
		peer := recoveryPeer{s.ID, s.Address, s.Suffrage == "non-voter"}
		if s.ID == was.ID || len(rep.Raft.Servers) == 1 {
			peer.ID, peer.Address = now.ID, now.Address
		}
		peers = append(peers, peer)
	}
	if len(peers) == 0 {
		peers = []recoveryPeer{{ID: now.ID, Address: now.Address}}
	}
	text, merr := json.MarshalIndent(peers, "", "  ")
	if merr != nil {
		return merr
	}
	file := filepath.Join(path, "raft", "peers.json")
	return errors.Join(errDifferent, hints.With(&copier.Error{Op: "readdress " + path, Err: err},
		"Vault itself corrects it from the peers.json that is printed: stop Vault on every node, write it to "+shellescape.Quote(file)+
			", of Vault's user and with the same servers on every node that is left, and start Vault; "+
			"the node then runs with that node_id and cluster_addr in its configuration"), p.line(string(text)))
}
