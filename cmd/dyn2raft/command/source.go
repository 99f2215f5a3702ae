package command

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"github.com/urfave/cli/v3"

	"github.com/dyn2raft/dyn2raft/cmd/dyn2raft/hints"
	"github.com/dyn2raft/dyn2raft/copier"
	"github.com/dyn2raft/dyn2raft/copier/vaultconfig"
	"github.com/dyn2raft/dyn2raft/sources/dynamodb"
	"github.com/dyn2raft/dyn2raft/sources/physical"
	nodes "github.com/dyn2raft/dyn2raft/sources/raft"
	"github.com/dyn2raft/dyn2raft/sources/raft/snapshot"
)

// A flagRule says of a flag which sources, or which destinations, it has a meaning with.
type flagRule struct {
	name                  string
	sources, destinations []string
}

var (
	aTable, nodesOnly = []string{vaultconfig.DynamoDB}, []string{vaultconfig.Raft}

	// flagRules are those of the flags that do not go with everything.
	flagRules = []flagRule{
		{"reset", aTable, aTable},
		{"retry-for", aTable, aTable},
		{"backup", aTable, aTable}, // of a destination with -replace
		{"replace", nil, aTable},
		{"backup-arn", nil, aTable},
		{"take-over", nil, aTable},
		{"seal-wrapped", nil, aTable},
		{"keep-source-locked", aTable, nil},
		{"live", aTable, nil},
		{"read-capacity", aTable, nil},
		{"sample", aTable, nil},
		{"sample-seed", aTable, nil},
		{"no-sample", aTable, nil},
		{"full", aTable, nil},
		{"source-stopped", []string{vaultconfig.DynamoDB, vaultconfig.RaftSnapshot, vaultconfig.Files}, aTable}, // as above
		{"at-least-index", nodesOnly, nil},
		{"ignore-peer", nodesOnly, nil},
		{"write-capacity", nil, aTable},
		{"readback", nil, nodesOnly},
		{"owner", nil, []string{vaultconfig.Raft, vaultconfig.RaftSnapshot, vaultconfig.Files}},
		{"vault-config", nil, nodesOnly},
		{"vault-env", nil, nodesOnly},
		{"vault-bin", nil, nodesOnly},
		{"vault-unit", nil, nodesOnly},
		{"audit-path", nil, nodesOnly},
	}
)

// rightFlags refuses flags that the source or the destination of a configuration can't
// obey.
func rightFlags(cmd *cli.Command, cfg *vaultconfig.Config) error {
	from, to := cfg.Source.Type, cfg.Destination.Type
	if cmd.Bool("live") && to != vaultconfig.Raft {
		return &usageError{fmt.Sprintf("-live is for storage_destination %q, and the configuration names %q", vaultconfig.Raft, to), "leave it out, and stop every Vault first"}
	}
	for _, r := range flagRules {
		if !cmd.IsSet(r.name) || cmd.Value(r.name) == false || slices.Contains(r.sources, from) || slices.Contains(r.destinations, to) {
			continue
		}
		var with, names []string
		for _, x := range []struct {
			block string
			kinds []string
			is    string
		}{{"storage_source", r.sources, from}, {"storage_destination", r.destinations, to}} {
			if x.kinds == nil {
				continue
			}
			var quoted []string
			for _, kind := range x.kinds {
				quoted = append(quoted, strconv.Quote(kind))
			}
			with, names = append(with, x.block+" "+strings.Join(quoted, " or ")), append(names, strconv.Quote(x.is))
		}
		return &usageError{fmt.Sprintf("-%s is for %s, and the configuration names %s", r.name, strings.Join(with, " or "), strings.Join(names, " and ")), "leave it out"}
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

// inPlace refuses flags of a destination's table that go with -replace only, or that this
// lacks.
func inPlace(cmd *cli.Command, cfg *vaultconfig.Config) error {
	if cfg.Destination.Type != vaultconfig.DynamoDB || cmd.Bool("reset") {
		return nil
	}
	named, replace := cmd.IsSet("backup") || cmd.IsSet("backup-arn"), cmd.Bool("replace")
	return cmp.Or(
		mistake(named && !replace, "-backup and -backup-arn are of a table that is replaced, and a new one has nothing to be backed up", "leave them out, or give -replace"),
		mistake(cmd.IsSet("take-over") && !replace, "-take-over is of a table that is replaced", "leave it out, or give -replace"),
		mistake(replace && cmd.IsSet("backup") == cmd.IsSet("backup-arn") && !cmd.Bool("resume"), "-replace changes the table itself, and needs a backup of it", "have one made: -backup NAME; or name one that has the table as it is: -backup-arn ARN"),
	)
}

// writersOut refuses a source that can't tell whether somebody still writes to it, where
// what is written would be lost, unless a person says that nobody does.
func writersOut(cmd *cli.Command, cfg *vaultconfig.Config) error {
	const hint = "say so with -source-stopped, once it is so"
	switch from, to := cfg.Source.Type, cfg.Destination.Type; {
	case cmd.Bool("source-stopped"):
	case from == vaultconfig.Files:
		return hints.With(&copier.Error{Kind: copier.ErrLocked, Op: "read " + cfg.Source.Name(), Err: errors.New("nothing in it shows whether a Vault is running on it, and what that writes meanwhile is lost")},
			"stop the Vault that uses it; "+hint)
	case from == vaultconfig.RaftSnapshot && to == vaultconfig.DynamoDB:
		return hints.With(&copier.Error{Kind: copier.ErrLocked, Op: "read " + cfg.Source.Name(), Err: errors.New("what was written since the snapshot was taken is not in it: nothing shows that writers were shut out before, and have been since")},
			"for a way back nobody may have written since: shut the clients out, take the snapshot, stop the cluster; "+hint)
	}
	return nil
}

// needFolder refuses what is no folder: files are not missing there, they are elsewhere.
func needFolder(path string, kind error) error {
	fi, err := os.Stat(path)
	if err == nil && !fi.IsDir() {
		err = &fs.PathError{Op: "read", Path: path, Err: syscall.ENOTDIR}
	}
	if err != nil {
		return &copier.Error{Kind: kind, Op: "look for files", Err: err}
	}
	return nil
}

// filesReader makes a source of a folder of Vault's file storage.
func filesReader(path string, kind error, notify func(copier.Event)) (copier.Source, error) {
	b, err := physical.Files(path)
	if err != nil {
		return nil, err
	}
	return physical.New(physical.Options{Backend: b, Name: "files in " + path, ID: hints.FileID(path), Kind: kind, Notify: notify})
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
	case vaultconfig.RaftSnapshot:
		return snapshot.New(paths[0]), nil
	case vaultconfig.DynamoDBExport:
		return dynamodb.NewExport(paths[0]), nil
	case vaultconfig.Files:
		if err := needFolder(paths[0], copier.ErrSource); err != nil {
			return nil, err
		}
		out.uncounted = true
		return filesReader(paths[0], nil, out.event)
	}
	return newTable(ctx, cmd, std, cfg, out, root)
}
