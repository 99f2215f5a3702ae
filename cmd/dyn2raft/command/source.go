package command

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"

	"github.com/urfave/cli/v3"

	"github.com/dyn2raft/dyn2raft/copier"
	"github.com/dyn2raft/dyn2raft/copier/vaultconfig"
	"github.com/dyn2raft/dyn2raft/sources/dynamodb"
	nodes "github.com/dyn2raft/dyn2raft/sources/raft"
	"github.com/dyn2raft/dyn2raft/sources/raft/snapshot"
)

// tableFlags are those that have a meaning for a table only, with the values that ask for
// nothing, and nodesFlags those for stopped nodes only.
var (
	tableFlags = []string{"reset", "backup", "source-stopped", "keep-source-locked", "read-capacity", "retry-for", "sample", "sample-seed", "no-sample", "full"}
	nodesFlags = []string{"at-least-index", "ignore-peer"}
)

// rightFlags refuses flags that the source of a configuration can't obey.
func rightFlags(cmd *cli.Command, cfg *vaultconfig.Config) error {
	for kind, flags := range map[string][]string{vaultconfig.DynamoDB: tableFlags, vaultconfig.Raft: nodesFlags} {
		if kind == cfg.Source.Type {
			continue
		}
		for _, name := range flags {
			if cmd.IsSet(name) && cmd.Value(name) != false {
				return &usageError{fmt.Sprintf("-%s is for storage_source %q, and the configuration names %q", name, kind, cfg.Source.Type), "leave it out"}
			}
		}
	}
	return nil
}

// apart refuses a source that is the destination.
func apart(cfg *vaultconfig.Config) error {
	to, err := os.Stat(cfg.Destination.Path)
	if err != nil {
		return nil //nolint:nilerr // the sink says what is wrong
	}
	for _, path := range cfg.Source.Paths {
		if from, err := os.Stat(path); err == nil && os.SameFile(from, to) {
			return &copier.Error{Kind: copier.ErrConfig, Op: "read the configuration", Err: fmt.Errorf("%s is source and destination", cfg.Destination.Path)}
		}
	}
	return nil
}

// newSource makes the source of a configuration. root, where it is not nil, finds the
// credentials.
func newSource(ctx context.Context, cmd *cli.Command, std Streams, cfg *vaultconfig.Config, out *printer, root *rootSide) (copier.Source, error) {
	switch paths := cfg.Source.Paths; cfg.Source.Type {
	case vaultconfig.Raft:
		ignore := cmd.StringSlice("ignore")
		out.log.Info("reading stopped nodes", "directories", paths)
		return nodes.New(nodes.Options{Paths: paths, AtLeastIndex: cmd.Uint64("at-least-index"), IgnorePeers: cmd.StringSlice("ignore-peer"),
			Fewer: slices.Contains(ignore, "majority"), Torn: slices.Contains(ignore, "torn-log")})
	case vaultconfig.RaftSnapshot, vaultconfig.DynamoDBExport:
		if len(paths) != 1 {
			return nil, &copier.Error{Kind: copier.ErrConfig, Op: "read the configuration", Err: errors.New("one path is needed")}
		}
		if cfg.Source.Type == vaultconfig.RaftSnapshot {
			return snapshot.New(paths[0]), nil
		}
		return dynamodb.NewExport(paths[0]), nil
	}
	return newTable(ctx, cmd, std, cfg, out, root)
}
