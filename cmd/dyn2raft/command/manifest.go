package command

import (
	"context"
	"fmt"
	"runtime"
	"slices"
	"time"

	"github.com/urfave/cli/v3"

	"github.com/dyn2raft/dyn2raft/cmd/dyn2raft/config"
	"github.com/dyn2raft/dyn2raft/copier"
	sink "github.com/dyn2raft/dyn2raft/sinks/raft"
	"github.com/dyn2raft/dyn2raft/sources/dynamodb"
	"github.com/dyn2raft/dyn2raft/verify"
	"github.com/dyn2raft/dyn2raft/verify/vaultdb"
)

func manifestFlag(usage string) cli.Flag {
	return &cli.StringFlag{Name: "manifest", Usage: usage}
}

// A manifestWriter collects what a copy's manifest will say.
type manifestWriter struct {
	file     string
	settings map[string]any
	cfg      *config.Config
	dst      *sink.Sink
	readBack string
	src      *dynamodb.Source
	out      *printer
	manifest *verify.Manifest // once it is written
}

// check reads back what a copy has written, before it is put in place.
func (r *manifestWriter) check(ctx context.Context, dir string) (copier.Digests, error) {
	if r.readBack == "device" {
		if err := verify.DropCache(dir); err != nil {
			return nil, err
		}
	}
	got, err := verify.Digests(ctx, dir)
	if err != nil {
		return nil, err
	}
	node := vaultdb.Server{ID: r.dst.NodeID(), Address: r.cfg.Destination.Address, Suffrage: "voter"}
	if got.Raft.Index != sink.FSMIndex || got.Raft.Term != sink.FSMTerm || !slices.Equal(got.Raft.Servers, []vaultdb.Server{node}) {
		return nil, &copier.Error{Kind: copier.ErrDestination, Op: "read back " + dir,
			Err: fmt.Errorf("raft stands at index %d, term %d, with the servers %v: this is a defect of dyn2raft, and nothing was put in place", got.Raft.Index, got.Raft.Term, got.Raft.Servers)}
	}
	return got.Digests, nil
}

// write writes the manifest of a complete copy.
func (r *manifestWriter) write(ctx context.Context, res copier.Result) error {
	logStore := "raft.db"
	if r.cfg.Destination.WAL {
		logStore = "wal"
	}
	m := &verify.Manifest{
		Tool:         verify.Tool{Name: "dyn2raft", Version: versionString(), Go: runtime.Version(), OS: runtime.GOOS, Arch: runtime.GOARCH},
		RunID:        res.RunID,
		Start:        res.Began.UTC(),
		End:          time.Now().UTC(),
		Resumed:      res.Resumed,
		ProcessStart: res.Start.UTC(),
		Partial:      res.Partial,
		Source:       res.Source,
		Backup:       res.Note,
		Vault:        r.versions(ctx),
		Destination: verify.ManifestDestination{Path: r.cfg.Destination.Path, NodeID: r.dst.NodeID(), Address: r.cfg.Destination.Address,
			LogStore: logStore, Index: sink.FSMIndex, Term: sink.FSMTerm, FileBytes: res.Load.FileBytes},
		Total:    res.Digests.Total(),
		Prefixes: res.Digests,
		Skipped:  verify.Skipped{Markers: res.Scan.Markers, Locks: res.Scan.Locks, LeftOut: res.Scan.LeftOut},
		Phases:   res.Phases,
		Samples:  append([]verify.Sample{}, res.Samples...),
		Earlier:  res.Earlier,
		Scan:     res.Scan,
		Load:     res.Load,
		Settings: r.settings,
	}
	if in, err := verify.Inspect(ctx, m.Destination.Path, verify.InspectOptions{Largest: 20}); err == nil {
		m.Contents = &verify.Contents{Groups: in.Groups, Sizes: in.Sizes, Largest: in.Largest}
	} else {
		r.out.log.Warn("the manifest will not tell the contents by group", "error", err)
	}
	if start, ok := r.settings["start"].(string); ok {
		m.StartKey = start
	}
	if res.ReadBack {
		m.ReadBack = r.readBack
	}
	if err := m.Write(r.file); err != nil {
		return fmt.Errorf("its manifest is not written: %w", err)
	}
	r.manifest = m
	return nil
}

// path is where the manifest is, and nothing if it could not be written.
func (r *manifestWriter) path() string {
	if r.manifest == nil {
		return ""
	}
	return r.file
}

// versions asks the table which Vaults have run on it. That it can't tell is
// no reason not to have a manifest.
func (r *manifestWriter) versions(ctx context.Context) (v verify.VaultVersions) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	all, err := r.src.Versions(ctx)
	if err != nil {
		r.out.log.Warn("the table does not tell which versions of Vault have run on it", "error", err)
	}
	v.All = all
	if len(all) > 0 {
		v.Newest = all[len(all)-1]
	}
	return v
}
