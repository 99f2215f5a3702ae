package plan

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/dustin/go-humanize/english"

	"github.com/dyn2raft/dyn2raft/cmd/dyn2raft/hints"
	"github.com/dyn2raft/dyn2raft/copier"
	"github.com/dyn2raft/dyn2raft/copier/vaultconfig"
	"github.com/dyn2raft/dyn2raft/sources/dynamodb"
	"github.com/dyn2raft/dyn2raft/sources/raft"
	"github.com/dyn2raft/dyn2raft/sources/raft/snapshot"
)

// files looks at a source that is no table: that it can be opened, and is a Vault's as far
// as that can be asked. At the copy it is open.
func (p *planner) files(ctx context.Context) (err error) {
	var found copier.Findings
	defer func() { p.found(found) }()
	if p.When != copier.AtCopy {
		if p.Info, err = p.Source.Open(ctx); err != nil {
			name, code := "source", ""
			if known, _ := copier.CodeOf(err); known == "" {
				code = "unread"
			}
			switch {
			case errors.Is(err, raft.ErrMinority):
				name = "majority"
			case errors.Is(err, raft.ErrTorn):
				name = "torn-log"
			}
			found.Fail(name, code, "%w", err)
			return err
		}
		defer func() { err = errors.Join(err, p.Source.Close()) }()
	}
	p.report.ID = p.Info.ID
	found.Pass("source", "%s can be opened; that all of it is sound shows when it is read", hints.Source(p.Info))
	if err := limits(&found, p.Info); err != nil {
		return err
	}
	if from, to := p.Config.Source.Type, p.Config.Destination.Type; p.When == copier.Ahead && (from == vaultconfig.Files || from == vaultconfig.RaftSnapshot && to == vaultconfig.DynamoDB) {
		found.Warn("running-vault", "unknown", "unknown: nothing in it shows whether a Vault still writes to what it is of")
	}
	getter, ok := p.Source.(copier.Getter)
	if !ok {
		found.Note("initialized", "", "whether it is a Vault's is seen when all of it was read, before it is put in place")
		return nil
	}
	lacks, seal, err := copier.Lacks(ctx, getter)
	switch {
	case err != nil:
		return err
	case lacks != nil:
		found.Fail("initialized", "", "it has no %s", strings.Join(lacks, " and no "))
	default:
		found.Pass("initialized", "it has a keyring and a seal configuration")
		p.table.Seal = seal.Type
	}
	return nil
}

// limits warns of what a copy of a source does not show that can't be locked.
func limits(found *copier.Findings, info copier.Info) error {
	const missing = ": whatever was written since is missing in the copy. It takes the place of no copy that is made with writers shut out"
	var snap snapshot.Fact
	var export dynamodb.ExportFact
	var nodes raft.Fact
	isSnapshot, err1 := info.Facts.Get("raft_snapshot", 1, &snap)
	isExport, err2 := info.Facts.Get("dynamodb_export", 1, &export)
	isNodes, err3 := info.Facts.Get("raft_source", 1, &nodes)
	switch {
	case isSnapshot:
		found.Warn("moment", "", "the snapshot is of one moment, Raft's index %d%s", snap.Index, missing)
	case isExport:
		found.Warn("moment", "", "the export is of one moment, %s%s", export.Time, missing)
	case isNodes:
		text := fmt.Sprintf("the newest log is that in %s, up to %d of term %d; vault.db stands at %d", nodes.Path, nodes.Index, nodes.Term, nodes.FSMIndex)
		if n := nodes.Puts + nodes.Deletes; n > 0 {
			text += ": " + english.Plural(int(n), "operation", "") + " in the log only, which the copy reads from there"
		}
		found.Note("log", "", "%s", text)
		for _, o := range nodes.Same {
			if o.Node != "" {
				found.Warn("log", "", "%s and %s are two states of %s: they count as one node, and %s is the newer", o.Path, o.Newer, o.Node, o.Newer)
				continue
			}
			found.Warn("log", "", "%s and %s hold the same files: they count as one node", o.Path, o.Newer)
		}
		if len(nodes.Unnamed) > 0 {
			found.Note("log", "", "%s do not say which node's they are (they have no file node-id): they differ, and count as %d nodes. Two states of one node would too: name none twice",
				strings.Join(nodes.Unnamed, ", "), len(nodes.Unnamed))
		}
		for _, a := range nodes.Accepted {
			found.Warn("log", "", "accepted on demand: %s", a)
		}
	}
	return errors.Join(err1, err2, err3)
}
