package command

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/dustin/go-humanize"
	"github.com/dustin/go-humanize/english"
	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/vault/sdk/physical/file"
	"github.com/urfave/cli/v3"
	"golang.org/x/sys/unix"

	"github.com/dyn2raft/dyn2raft/cmd/dyn2raft/hints"
	"github.com/dyn2raft/dyn2raft/cmd/dyn2raft/plan"
	"github.com/dyn2raft/dyn2raft/copier"
	"github.com/dyn2raft/dyn2raft/copier/vaultconfig"
	todynamodb "github.com/dyn2raft/dyn2raft/sinks/dynamodb"
	"github.com/dyn2raft/dyn2raft/sinks/physical"
	sink "github.com/dyn2raft/dyn2raft/sinks/raft"
	tosnapshot "github.com/dyn2raft/dyn2raft/sinks/raft/snapshot"
	"github.com/dyn2raft/dyn2raft/sources/raft/snapshot"
	"github.com/dyn2raft/dyn2raft/verify"
)

// besideOf is the path that a destination's manifest is named after, and what else lies
// beside it. A table has no place on this machine: -work-dir is its.
func besideOf(d vaultconfig.Destination, workDir string) string {
	if d.Type == vaultconfig.DynamoDB {
		return filepath.Join(workDir, d.Table[strings.LastIndex(d.Table, "/")+1:]) // it may be an ARN
	}
	return d.Path
}

// stateOf is the directory with the record of an unfinished copy.
func stateOf(d vaultconfig.Destination) string {
	switch d.Type {
	case vaultconfig.Raft:
		return sink.WorkDir(d.Path)
	case vaultconfig.DynamoDB:
		return asideOf(d)
	}
	return filepath.Join(asideOf(d), "work")
}

// asideOf is the directory beside a destination that is none of Vault's.
func asideOf(d vaultconfig.Destination) string { return d.Path + ".dyn2raft" }

// homeOf is the directory whose owner does the work.
func homeOf(d vaultconfig.Destination) string {
	if d.Type == vaultconfig.DynamoDB || d.Type == vaultconfig.RaftSnapshot {
		return filepath.Dir(d.Path)
	}
	return d.Path
}

// newSink makes the sink of a configuration. spare reads the copy's manifest.
func newSink(ctx context.Context, cmd *cli.Command, std Streams, cfg *vaultconfig.Config, out *printer, ignore []string, spare func() (*copier.Record, error)) (copier.Sink, error) {
	switch d := cfg.Destination; d.Type {
	case vaultconfig.DynamoDB:
		return newTableSink(ctx, cmd, cfg, out, replacing(cmd, std, cfg, out))
	case vaultconfig.RaftSnapshot:
		return tosnapshot.New(tosnapshot.Options{Path: d.Path, MaxEntrySize: maxEntrySize(d), Notify: out.event})
	case vaultconfig.Files:
		return newFilesSink(d)
	default:
		s, err := sink.New(sink.Options{Path: d.Path, NodeID: d.NodeID, AnyNodeID: slices.Contains(ignore, "node-id"), Address: d.Address, WAL: d.WAL,
			MaxEntrySize: maxEntrySize(d), Device: cmd.String("readback") == "device", Spare: spare, Notify: out.event})
		return s, ignorable(err)
	}
}

func maxEntrySize(d vaultconfig.Destination) int64 { return int64(min(d.MaxEntrySize, 1<<62)) }

// newTableSink makes the sink of a table; replace is nil of a new one.
func newTableSink(ctx context.Context, cmd *cli.Command, cfg *vaultconfig.Config, out *printer, replace *todynamodb.Replace) (*todynamodb.Sink, error) {
	d := cfg.Destination
	return todynamodb.New(ctx, todynamodb.Options{
		Table: d.Table, Region: d.Region, Endpoint: d.Endpoint,
		AccessKey: string(d.AccessKey), SecretKey: string(d.SecretKey), SessionToken: string(d.SessionToken),
		ReadUnits: d.ReadUnits, WriteUnits: d.WriteUnits, WriteCapacity: cmd.Float("write-capacity"),
		Requests: d.MaxParallel, RetryFor: cmd.Duration("retry-for"), NoWriteProbes: cmd.Bool("no-write-probes"), Events: out.event,
		Dir: asideOf(d), Replace: replace, SealWrapped: cmd.Bool("seal-wrapped"),
	})
}

// replacing says how a table is replaced, and nil where none is to be.
func replacing(cmd *cli.Command, std Streams, cfg *vaultconfig.Config, out *printer) *todynamodb.Replace {
	if !cmd.Bool("replace") {
		return nil
	}
	d := cfg.Destination
	memory, _ := humanize.ParseBytes(cmd.String("memory")) // looked at before; the other half is the copy's
	return &todynamodb.Replace{
		WorkDir: replaceDir(d), Memory: int64(memory / 2), Backup: cmd.String("backup"), BackupARN: cmd.String("backup-arn"), TakeOver: cmd.String("take-over"),
		HAEnabled: d.HAEnabled, HAStorage: cfg.HAStorage, Stopped: stopped(cmd, std, out),
		Begin: func(_ context.Context, c todynamodb.Changes) error {
			out.log.Warn(fmt.Sprintf("%s is changed from here on: %s, %s, and %s. Until that is complete no Vault starts on it, and there are two ways out: resume this copy, or restore the backup",
				d.Name(), items(c.Put, "is", "are", "written"), items(c.Delete, "is", "are", "deleted"), items(c.Same, "stays", "stay", "")), "backup", c.Backup)
			return nil
		},
	}
}

// items is a number of items and what becomes of them.
func items(n int64, one, many, what string) string {
	verb := many
	if n == 1 {
		verb = one
	}
	return strings.TrimSpace(english.Plural(int(n), "item", "") + " " + verb + " " + what)
}

// replaceDir is where what differs of a table is kept.
func replaceDir(d vaultconfig.Destination) string { return asideOf(d) + "-replace" }

// newFilesSink makes the sink of a folder of Vault's file storage.
func newFilesSink(d vaultconfig.Destination) (*physical.Sink, error) {
	backend, err := file.NewFileBackend(map[string]string{"path": d.Path}, hclog.NewNullLogger())
	if err != nil {
		return nil, &copier.Error{Kind: copier.ErrConfig, Op: "open " + d.Path, Err: err}
	}
	return physical.New(physical.Options{Backend: backend, Name: "files in " + d.Path, ID: hints.FileID(d.Path), Dir: asideOf(d),
		Sync: func() error {
			unix.Sync()
			return nil
		}})
}

// newResult makes a source of what is at the destination of a configuration, with errors
// of a destination. A data directory has more to be looked at: see verify.
func newResult(ctx context.Context, cmd *cli.Command, cfg *vaultconfig.Config, out *printer) (copier.Source, error) {
	switch d := cfg.Destination; d.Type {
	case vaultconfig.DynamoDB:
		s, err := newTableSink(ctx, cmd, cfg, out, nil)
		if err != nil {
			return nil, err
		}
		return s.Marked(ctx)
	case vaultconfig.RaftSnapshot:
		s := snapshot.New(d.Path)
		s.Kind = copier.ErrDestination
		return s, nil
	default:
		if err := needFolder(d.Path, copier.ErrDestination); err != nil {
			return nil, err
		}
		out.uncounted = true
		return filesReader(d.Path, copier.ErrDestination, func(copier.Event) {})
	}
}

// asides are the directories that a copy needs beside a destination that has none.
func asides(d vaultconfig.Destination, replace bool) []string {
	switch {
	case d.Type == vaultconfig.DynamoDB && replace:
		return []string{asideOf(d), replaceDir(d)}
	case d.Type == vaultconfig.DynamoDB, d.Type == vaultconfig.Files:
		return []string{asideOf(d)}
	}
	return nil
}

// makeAsides makes them. tidy removes those in which nothing is left.
func makeAsides(dirs []string) error {
	for _, dir := range dirs {
		if err := os.Mkdir(dir, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
			return &copier.Error{Kind: copier.ErrDestination, Op: "make " + dir, Err: err}
		}
	}
	return nil
}

func tidy(dirs []string) {
	for _, dir := range dirs {
		_ = os.Remove(dir) // it stays where it is not empty
	}
}

// atWork reports whether a process holds the directory that each copy to a destination
// holds while it runs.
func atWork(d vaultconfig.Destination) bool {
	dir := asideOf(d)
	if d.Type == vaultconfig.RaftSnapshot {
		dir = filepath.Dir(d.Path)
	}
	f, err := os.OpenFile(dir, os.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		return false
	}
	defer f.Close()
	return errors.Is(unix.Flock(int(f.Fd()), unix.LOCK_SH|unix.LOCK_NB), unix.EWOULDBLOCK)
}

// placedAt is the state of a destination, as far as this machine knows it, and the record
// of the run that has put the copy there and has not cleaned up behind itself. spare, where
// it is set, reads a manifest in place of the usual one.
func placedAt(d vaultconfig.Destination, spare func() (*copier.Record, error)) (sink.State, *copier.Record, error) {
	if d.Type == vaultconfig.Raft {
		return sink.Placed(sink.Options{Path: d.Path, Spare: spare})
	}
	m, err := manifestOf(d, verify.ManifestPath(d.Path))
	if spare != nil {
		if m, err = spare(); errors.Is(err, fs.ErrNotExist) {
			m, err = nil, nil
		}
	}
	if err != nil {
		return "", nil, err
	}
	if m != nil && !plan.Into(d, m.Destination) {
		m = nil
	}
	status, setup, err := copier.ReadStatus(stateOf(d))
	switch {
	case err != nil:
		return "", nil, err
	case status != nil && status.Ended.IsZero() && atWork(d):
		return sink.StateRunning, nil, nil
	case m != nil && m.State == copier.Released && setup == nil:
		return sink.StateComplete, nil, nil
	case m != nil && m.State == copier.Released && setup.RunID == m.RunID:
		return sink.StateComplete, m, nil
	case setup != nil:
		return sink.StateUnfinished, nil, nil
	case m != nil && m.State != copier.Released:
		return sink.State(m.State), m, nil
	}
	return sink.StateEmpty, nil, nil
}

// manifestOf reads the manifest of a copy to the destination of a configuration. There is
// none where the file is not there, or is of a copy to another one.
func manifestOf(d vaultconfig.Destination, file string) (*copier.Record, error) {
	m, err := verify.ReadManifest(file)
	if errors.Is(err, fs.ErrNotExist) || err == nil && !plan.Into(d, m.Destination) {
		return nil, nil
	}
	return m, err
}

// resetDestination ends a copy to a table that is not to be resumed.
func resetDestination(ctx context.Context, cmd *cli.Command, cfg *vaultconfig.Config, out *printer) error {
	d := cfg.Destination
	s, err := newTableSink(ctx, cmd, cfg, out, nil)
	if err != nil {
		return err
	}
	given, err := s.GiveUp(ctx)
	run := given.Run
	if err != nil {
		return err
	}
	if _, setup, err := copier.ReadStatus(stateOf(d)); err == nil && setup != nil && setup.Amended(copier.AmendGivenUp) == nil {
		out.log.Warn("an unfinished copy is in " + stateOf(d) + ", and can't be resumed any more: copy -restart throws it away and begins another")
		out.notNoted(copier.GiveUp(stateOf(d), thisTool()))
	}
	if out.json {
		return out.reset(d.Table, map[bool][]string{true: {"core/_lock", "core/migration"}}[run != ""])
	}
	if run == "" {
		return out.sentence("Success! No copy to %s is unfinished: it was not changed.", d.Name())
	}
	if given.InPlace {
		return out.sentence("Success! Run %s had changed nothing in %s: its locks are removed, and what it had found there is back.", run, d.Name())
	}
	return out.sentence("Success! What run %s had written to %s is removed, and then its locks: the table is empty, and yours to delete.", run, d.Name())
}

// finishedBefore says of a destination that is not free that a complete copy is there,
// where its manifest says so. Of a data directory alreadyComplete does.
func finishedBefore(err error, rec *manifestWriter, cmd *cli.Command) error {
	code, _ := copier.CodeOf(err)
	if rec.cfg.Destination.Type == vaultconfig.Raft || !slices.Contains([]copier.Code{todynamodb.TableNotEmpty, physical.BackendNotEmpty, sink.HoldsData}, code) {
		return err
	}
	m, merr := manifestOf(rec.cfg.Destination, rec.file)
	if merr != nil || m == nil || m.State != copier.Released || !plan.Names(rec.cfg, m.Source) {
		return err
	}
	return hints.With(err, "it holds the finished copy of run "+m.RunID+": nothing was changed, and nothing is left to copy: compare it with the source: "+
		verifyAlike(cmd)+"; to copy again, name another place")
}

// verifyAlike is the command that compares what a copy has made.
func verifyAlike(cmd *cli.Command) string {
	return alike(cmd, verifyCommand(Streams{}), nil, "resume", "restart", "manifest", "ignore")
}
