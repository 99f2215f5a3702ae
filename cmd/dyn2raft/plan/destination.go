package plan

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws/arn"
	"golang.org/x/sys/unix"

	"github.com/dyn2raft/dyn2raft/cmd/dyn2raft/hints"
	"github.com/dyn2raft/dyn2raft/copier"
	"github.com/dyn2raft/dyn2raft/copier/vaultconfig"
	"github.com/dyn2raft/dyn2raft/sinks/raft"
	"github.com/dyn2raft/dyn2raft/sinks/raft/node"
	"github.com/dyn2raft/dyn2raft/verify"
)

// destination makes the checks of what gets the copy. An error is that it can't be reached.
func (p *planner) destination(ctx context.Context) error {
	if p.Config.Destination.Type == vaultconfig.Raft {
		p.node(ctx)
		return nil
	}
	var found copier.Findings
	var err error
	if c, ok := p.Destination.(copier.Checker); ok {
		found, err = c.Check(ctx, p.When)
	}
	for i := range found {
		if found[i].Check == "destination" {
			p.ownStage(&found[i])
		}
	}
	p.manifestPlace(&found)
	p.found(found)
	return err
}

// ownStage adds what this machine knows of a copy to what is no data directory.
func (p *planner) ownStage(f *copier.Finding) {
	_, setup, err := copier.ReadStatus(p.State)
	switch m := p.finished(); {
	case f.Code == "unfinished" && err == nil && setup != nil && setup.RunID == f.Facts["run"]:
		p.report.Next += " -resume"
	case f.Code == "unfinished":
		f.Status, f.Code = copier.Failed, "others"
	case f.Status == copier.Failed && m != nil:
		f.Code, f.Message = "finished", p.Config.Destination.Name()+" holds the finished copy of run "+m.RunID
	}
}

// node makes the checks of the node that gets the copy.
func (p *planner) node(ctx context.Context) {
	n, to := p.Node, p.Config.Destination
	n.Options = raft.Options{Path: to.Path, NodeID: to.NodeID, Address: to.Address, WAL: to.WAL}
	n.Live = n.Live || p.Live
	n.ClusterAddr, n.Seal, n.Version = p.Config.ClusterAddr, p.table.Seal, p.table.Version
	if n.Data = p.Info.Bytes; p.table.Survey != nil {
		n.Data = p.table.Survey.Bytes
	}
	if e := p.report.Estimate; e != nil {
		n.Data, n.FileBytes, n.Proven = max(n.Data, e.Bytes), e.FileBytes, e.AtLeast
	}
	found, _ := n.Check(ctx, p.When) // the error is always nil
	for i := range found {
		if found[i].Check == "destination" {
			p.ownCopy(&found[i])
		}
	}
	p.manifestPlace(&found)
	p.found(found)
}

// ownCopy adds what the table and the manifest tell of a copy in the destination.
func (p *planner) ownCopy(f *copier.Finding) {
	path := p.Config.Destination.Path
	say := func(s copier.Outcome, code, message string) { f.Status, f.Code, f.Message = s, code, path+message }
	switch f.Code {
	case "complete":
		if m := p.finished(); m != nil {
			say(copier.Failed, "finished", " holds the finished copy of run "+m.RunID)
		}
	case "unfinished", "differs":
		_, setup, err := copier.ReadStatus(p.State)
		if err != nil || setup == nil {
			return
		}
		holder := ""
		if p.table.Locks != nil && p.table.Locks.Migration != nil {
			holder = p.table.Locks.Migration.Run
		}
		switch {
		case !Names(p.Config, setup.Source):
			say(copier.Failed, "other-table", " holds an unfinished copy of "+hints.Source(setup.Source)+", and this configuration names "+p.Config.Source.Name())
		case setup.Amended(copier.AmendGivenUp) != nil, p.table.Locks != nil && setup.Held && holder != setup.RunID:
			p.report.Next += " -restart"
			say(copier.Warned, "stale", " holds an unfinished copy that can't be resumed: its lock in the table is gone, and a Vault may have written to that since")
		case f.Code == "unfinished":
			p.report.Next += " -resume"
		}
	}
}

// Names reports whether a configuration names a source, as far as that can be told
// without asking it. What is at an endpoint of one's own may be in any region.
func Names(cfg *vaultconfig.Config, info copier.Info) bool {
	from := cfg.Source
	switch kind := hints.SourceType(info); {
	case kind != from.Type:
		return false
	case kind == vaultconfig.Files:
		return slices.Contains(from.Paths, hints.FilePath(info.ID))
	case kind == vaultconfig.DynamoDBExport:
		return slices.Contains(from.Paths, info.Endpoint)
	case kind != vaultconfig.DynamoDB:
		return slices.Contains(from.Paths, info.ID)
	}
	id, err := arn.Parse(info.ID)
	customEndpoint := from.Endpoint != "" || info.Endpoint != "" && !strings.Contains(info.Endpoint, ".amazonaws.com")
	return from.Table == info.Name && (err != nil || customEndpoint || from.Region == id.Region)
}

// Into reports whether a configuration's destination is the one that is on record.
func Into(d vaultconfig.Destination, id copier.Identity) bool {
	switch kind := hints.DestinationType(id); {
	case kind != d.Type:
		return false
	case kind == vaultconfig.DynamoDB:
		return id["table"] == d.Table && id["region"] == d.Region
	case kind == vaultconfig.Files:
		return hints.FilePath(id["id"]) == d.Path
	}
	return node.Absolute(id["path"]) == node.Absolute(d.Path)
}

// finished is the manifest of the copy in the destination, and nil where there is
// no vault.db, or no record of it.
func (p *planner) finished() *copier.Record {
	to := p.Config.Destination
	if to.Type == vaultconfig.Raft {
		if state, err := raft.Look(to.Path); err != nil || state != raft.StateComplete {
			return nil
		}
	}
	m, err := verify.ReadManifest(p.manifest())
	if err != nil || !Into(to, m.Destination) || !Names(p.Config, m.Source) || to.Type != vaultconfig.Raft && m.State != copier.Released {
		return nil
	}
	return m
}

// manifest is the file that a copy's record goes to.
func (p *planner) manifest() string {
	if p.Manifest != "" {
		return p.Manifest
	}
	return verify.ManifestPath(p.Config.Destination.Path)
}

// manifestPlace looks at the directory that the manifest goes to. Where none is named
// that is the one which the data directory lies in, and a comparison has its work
// files there too.
func (p *planner) manifestPlace(out *copier.Findings) {
	file, err := filepath.Abs(p.manifest())
	if err != nil {
		out.Warn("manifest", "path", "%w", err)
		return
	}
	dir := filepath.Dir(file)
	if !p.ManifestTried {
		if err := verify.CheckManifestPlace(file, p.Config.Destination.Path); err != nil {
			code, _ := copier.CodeOf(err)
			out.Fail("manifest", string(code), "%w", err)
			return
		}
		err = unix.Access(dir, unix.W_OK|unix.X_OK)
	}
	switch user := node.UserName(os.Geteuid()); {
	case err == nil:
		out.Pass("manifest", "%s can be written to", dir)
	case p.Manifest != "":
		out.Fail("manifest", "named", "%s can't write to %s (%v), where copy writes its manifest", user, dir, err)
	default:
		out.Fail("manifest", "", "%s can't write to %s (%v), where copy writes its manifest and verify its work files", user, dir, err)
	}
}
