package command

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"al.essio.dev/pkg/shellescape"
	"github.com/dustin/go-humanize"
	"github.com/dustin/go-humanize/english"
	"github.com/urfave/cli/v3"

	"github.com/dyn2raft/dyn2raft/cmd/dyn2raft/figures"
	"github.com/dyn2raft/dyn2raft/cmd/dyn2raft/hints"
	"github.com/dyn2raft/dyn2raft/cmd/dyn2raft/plan"
	"github.com/dyn2raft/dyn2raft/cmd/dyn2raft/visible"
	"github.com/dyn2raft/dyn2raft/copier"
	"github.com/dyn2raft/dyn2raft/copier/durable"
	"github.com/dyn2raft/dyn2raft/copier/vaultconfig"
	sink "github.com/dyn2raft/dyn2raft/sinks/raft"
	"github.com/dyn2raft/dyn2raft/sources/dynamodb"
	"github.com/dyn2raft/dyn2raft/sources/raft/snapshot"
	"github.com/dyn2raft/dyn2raft/sources/raft/vaultdb"
	"github.com/dyn2raft/dyn2raft/verify"
)

func inspectCommand(std Streams) *cli.Command {
	return newCommand(std, "inspect", runInspect,
		[]cli.Flag{
			&cli.IntFlag{Name: "largest", Value: 10, Usage: "name this `number` of the largest entries"},
		},
		shared("redact", "log-level", "format"),
	)
}

func runInspect(ctx context.Context, cmd *cli.Command, _ Streams, out *printer) error {
	if err := cmp.Or(
		mistake(cmd.NArg() != 1, "inspect takes one data directory, or the file of a snapshot", "such as: dyn2raft inspect /opt/vault/data"),
		mistake(cmd.Int("largest") < 0, flagIs(cmd, "largest"), "it takes a number from 0 on"),
	); err != nil {
		return err
	}
	if path := cmd.Args().First(); isSnapshot(path) {
		in, err := inspectSnapshot(ctx, path, cmd.Int("largest"), out)
		if err != nil {
			return err
		}
		if cmd.Bool("redact") {
			in.Inspection = in.Redacted()
		}
		return out.snapshotInspected(in)
	}
	stop := out.during("all of the directory to be read")
	in, err := verify.Inspect(ctx, cmd.Args().First(), verify.InspectOptions{Largest: cmd.Int("largest")})
	stop()
	if err != nil {
		return err
	}
	if cmd.Bool("redact") {
		in = in.Redacted()
	}
	return out.inspected(in)
}

// isSnapshot reports whether a file is compressed, as snapshots are.
func isSnapshot(path string) bool {
	fi, err := os.Stat(path)
	if err != nil || !fi.Mode().IsRegular() {
		return false
	}
	f, err := os.Open(path)
	if err != nil {
		return false
	}
	defer f.Close()
	var magic [2]byte
	_, err = io.ReadFull(f, magic[:])
	return err == nil && magic == [2]byte{0x1f, 0x8b}
}

// A snapshotInspection says what a snapshot holds.
type snapshotInspection struct {
	*verify.Inspection
	id    string
	index snapshot.Fact
}

// inspectSnapshot reads all of a snapshot. One that is damaged is no error, but said in the
// inspection.
func inspectSnapshot(ctx context.Context, path string, largest int, out *printer) (in snapshotInspection, err error) {
	defer out.during("all of the snapshot to be read")()
	in.Inspection = &verify.Inspection{Path: path, Groups: []copier.Group{}, Largest: []copier.Sized{}, Sizes: []copier.Bin{}}
	src := snapshot.New(path)
	src.Kind = copier.ErrDestination
	info, err := src.Open(ctx)
	var read copier.Reading
	if err == nil {
		in.id = info.Incarnation
		_, ferr := info.Facts.Get("raft_snapshot", 1, &in.index)
		read, err = copier.Examine(ctx, src, largest)
		err = errors.Join(err, ferr, src.Close())
	}
	switch {
	case errors.Is(err, snapshot.ErrDamaged):
		in.Damage = err.Error()
		return in, nil
	case err != nil:
		return in, err
	}
	in.Sound = true
	total := read.Digests.Total()
	in.Entries, in.Bytes = total.Entries, total.Bytes
	if c := read.Contents; c != nil {
		in.Groups, in.Sizes, in.Largest = c.Groups, c.Sizes, c.Largest
	}
	return in, nil
}

func (p *printer) snapshotInspected(in snapshotInspection) error {
	var result error
	if !in.Sound {
		result = errDifferent
	}
	if p.json {
		return errors.Join(p.encode(struct {
			Path    string         `json:"path"`
			ID      string         `json:"id"`
			Index   uint64         `json:"index"`
			Term    uint64         `json:"term"`
			Entries int64          `json:"entries"`
			Bytes   int64          `json:"bytes"`
			Groups  []copier.Group `json:"groups"`
			Largest []copier.Sized `json:"largest"`
			Sizes   []copier.Bin   `json:"sizes"`
			Sound   bool           `json:"sound"`
			Damage  string         `json:"damage,omitempty"`
		}{in.Path, in.id, in.index.Index, in.index.Term, in.Entries, in.Bytes, in.Groups, in.Largest, in.Sizes, in.Sound, in.Damage}), result)
	}
	t := p.table()
	t.row("Snapshot", "%s", visible.Text(in.Path))
	if in.Sound {
		t.row("Sound", "yes: all of it was read, and its sums are right")
		t.row("Raft", "index %d, term %d, id %s", in.index.Index, in.index.Term, visible.Text(in.id))
		t.row("Entries", "%s, %s of keys and values", humanize.Comma(in.Entries), figures.Size(in.Bytes))
	} else {
		t.row("Sound", "NO: %s", indent(visible.Text(in.Damage)))
	}
	err := errors.Join(t.flush(), p.line(""))
	if in.Sound {
		err = errors.Join(err, p.held(in.Inspection))
	}
	return errors.Join(err, result)
}

func (p *printer) inspected(in *verify.Inspection) error {
	var result error
	if !in.Sound || in.Log.Damage != "" {
		result = errDifferent
	}
	if p.json {
		return errors.Join(p.encode(in), result)
	}
	t := p.table()
	t.row("Directory", "%s", in.Path)
	if in.Sound {
		t.row("Sound", "yes: every page of vault.db was checked")
	} else {
		t.row("Sound", "NO: %s", indent(in.Damage))
	}
	t.row("Entries", "%s, %s of keys and values", humanize.Comma(in.Entries), figures.Size(in.Bytes))
	if in.NotVault == nil {
		t.row("Vault", "initialized: it has a keyring and a seal configuration that Vault takes")
	} else {
		t.row("Vault", "NOT INITIALIZED: it has no %s", strings.Join(in.NotVault, " and no "))
	}
	t.row("Pages", "%s of %s, %s; leaves are %.0f%% full; %s free",
		humanize.Comma(in.Pages.HighWater), figures.Size(in.Pages.PageSize), english.Plural(in.Pages.Depth, "level", ""), 100*in.Fill, humanize.Comma(in.Pages.FreePages))
	t.row("Raft", "index %d, term %d", in.Raft.Index, in.Raft.Term)
	for _, s := range in.Raft.Servers {
		t.row("", "%s %s at %s", s.Suffrage, visible.Text(s.ID), visible.Text(s.Address))
	}
	t.row("Log", "%s", logOf(in.Log))
	if in.Tail != nil {
		t.row("Log only", "%s", tailOf(in.Tail))
	}
	if in.NodeID != "" {
		t.row("node-id", "%s", visible.Text(in.NodeID))
	}
	t.row("Snapshots", "%d", len(in.Snapshots))
	t.row("File system", "%s free of %s", figures.Size(in.FileSystem.Available), figures.Size(in.FileSystem.Bytes))
	return errors.Join(t.flush(), p.line(""), p.held(in), result)
}

// held names the groups of entries, their sizes and the largest.
func (p *printer) held(in *verify.Inspection) error {
	t := p.table()
	t.row("GROUP", "ENTRIES\tBYTES\tWHAT")
	for _, g := range in.Groups {
		name := visible.Text(g.Name)
		if g.Name == "" {
			name = "(no slash)"
		}
		t.row(name, "%s\t%s\t%s", humanize.Comma(g.Entries), humanize.Comma(g.Bytes), g.Role)
	}
	err := errors.Join(t.flush(), p.line(""))

	t = p.table()
	t.row("KEY AND VALUE", "ENTRIES\tBYTES")
	for _, b := range in.Sizes {
		t.row(binName(b), "%s\t%s", humanize.Comma(b.Entries), humanize.Comma(b.Bytes))
	}
	err = errors.Join(err, t.flush())
	if len(in.Largest) > 0 {
		t = p.table()
		t.row("BYTES", "LARGEST")
		for _, s := range in.Largest {
			name := visible.Text(s.Key)
			if s.KeyBytes != 0 {
				name = visible.Text(keyOf(s.Key, s.KeyBytes, s.KeySHA256))
			}
			t.row(humanize.Comma(s.Bytes), "%s", name)
		}
		err = errors.Join(err, p.line(""), t.flush())
	}
	return err
}

func binName(b copier.Bin) string {
	return fmt.Sprintf("%s up to %s", figures.Size(b.From), figures.Size(b.To))
}

func logOf(l vaultdb.Log) string {
	switch {
	case l.Store == "":
		return "none"
	case l.Damage != "":
		return fmt.Sprintf("%s, DAMAGED: %s", l.Store, indent(l.Damage))
	case l.Last == 0:
		return fmt.Sprintf("%s, empty, term %d", l.Store, l.CurrentTerm)
	default:
		return fmt.Sprintf("%s, index %d to %d, term %d, %s", l.Store, l.First, l.Last, l.CurrentTerm, figures.Size(l.Bytes))
	}
}

// tailOf says what a directory's log has and its vault.db lacks.
func tailOf(t *verify.Tail) string {
	if t.Problem != "" {
		return "NOT KNOWN: " + visible.Text(t.Problem)
	}
	return fmt.Sprintf("%s (%s, %s): vault.db lacks them, and a Vault that starts on it applies them", english.Plural(int(t.Puts+t.Deletes), "operation", ""),
		english.Plural(int(t.Puts), "put", ""), english.Plural(int(t.Deletes), "delete", ""))
}

// verifyManifest compares a data directory with a manifest.
func verifyManifest(ctx context.Context, cmd *cli.Command, out *printer) error {
	m, err := verify.ReadManifest(cmd.String("manifest"))
	if err != nil {
		return err
	}
	if to := m.Destination; hints.DestinationType(to) != vaultconfig.Raft {
		return &usageError{cmd.String("manifest") + " is the manifest of a copy to " + hints.Destination(to) + ", and -manifest checks a data directory", "compare it with its source: verify -config FILE"}
	}
	path := cmd.String("path")
	if path == "" {
		path = m.Destination["path"]
	}
	rep, err := out.checkManifest(ctx, m, path)
	if errors.Is(err, vaultdb.ErrDamaged) && path != m.Destination["path"] {
		err = hints.With(err, "take the copy of the directory again, from where nothing has run on it; if that is damaged too, check the directory itself: without -path")
	}
	if err != nil {
		return damaged(err)
	}
	return out.manifestChecked(m, rep)
}

// checkManifest compares a data directory with a copy's record.
func (p *printer) checkManifest(ctx context.Context, m *copier.Record, path string) (*verify.ManifestReport, error) {
	defer p.during("all of the directory to be read")()
	return verify.CheckManifest(ctx, verify.Expect(m), path)
}

// notYet is what a directory with a copy is that no Vault may be started on yet, by the
// state of the copy.
var notYet = map[copier.CommitState]string{
	copier.Unconfirmed: "UNCONFIRMED: the copy was put in place, and the table has not confirmed since that nobody wrote to it meanwhile: entries may be missing, in the directory and in its manifest. " +
		"Do not start a Vault on it: copy -resume has the table asked again, verify -config compares.",
	copier.Confirmed: "NOT GIVEN BACK: the copy was complete, and its process ended before it could give the table back: what was written to the table since is neither in the directory nor in its manifest. " +
		"Do not start a Vault on it: copy -resume has the table asked again, verify -config compares.",
}

func (p *printer) manifestChecked(m *copier.Record, rep *verify.ManifestReport) error {
	result := comparison(rep.Equal(), rep.NotVault)
	if p.json {
		return compared(p.encode(rep), result)
	}
	t := p.table()
	t.row("PREFIX", "MANIFEST\tDIRECTORY\tMANIFEST BYTES\tDIRECTORY BYTES\tDIGEST")
	for _, x := range rep.Prefixes {
		t.prefix(x.Prefix, x.Expected.Entries, x.Found.Entries, x.Expected.Bytes, x.Found.Bytes, x.Equal)
	}
	t.row("total", "%s\t%s", humanize.Comma(rep.Expected.Entries), humanize.Comma(rep.Found.Entries))
	err := errors.Join(t.flush(), p.raftDiffs(rep.RaftDiffs, "the manifest says"))
	switch {
	case rep.Unconfirmed:
		err = errors.Join(err, p.text(notYet[copier.Unconfirmed]))
	case rep.NotReleased:
		err = errors.Join(err, p.text(notYet[copier.Confirmed]))
	case errors.Is(result, errNotAVault):
		err = errors.Join(err, p.sentence("NOT A VAULT: %s holds %s that run %s copied from %s, and nothing else, but %s.",
			rep.Destination, allEntries(rep.Found.Entries), m.RunID, hints.Source(m.Source), notAVault(rep.NotVault)))
	case result == nil:
		err = errors.Join(err, p.text(fmt.Sprintf("Equal: %s holds %s that run %s copied on %s from %s (%s), and nothing else; %s digest is %s; in %s.",
			rep.Destination, allEntries(rep.Found.Entries), m.RunID, m.End.Format("2006-01-02"), visible.Text(hints.Source(m.Source)), visible.Text(m.Source.ID), one(rep.Found.Entries, "its", "their"), rep.Found.Hash, figures.Round(rep.Duration))))
	case rep.Started:
		err = errors.Join(err, p.text("DIFFERENT: a Vault has run on the directory since the copy, and a Vault writes as soon as it starts. What differs can't be judged: check a copy of the directory that was made before."))
	case rep.OnlyNode():
		err = errors.Join(err, p.text("DIFFERENT: every entry is there, and the node is not the one that was copied: a Vault would never unseal, or not be reached. "+
			"Correct it, or finish a correction that was interrupted: dyn2raft readdress "+shellescape.Quote(rep.Destination)+" -node-id ID -cluster-addr URL"))
	default:
		err = errors.Join(err, p.text("DIFFERENT: the directory is not what was copied. Do not start a Vault on it."))
	}
	return compared(err, result)
}

// leftToCopy says what a complete copy may lack by now, and how to copy again.
func leftToCopy(m *copier.Record, failed error) string {
	if a := m.Amended(copier.AmendFreed); a != nil {
		return "its table was freed " + ago(a.At) + ", and what a Vault has written to that since is not in the copy. To copy again: " + hints.Of(failed) + "\notherwise"
	}
	return "nothing was changed, and nothing is left to copy; to copy again, name another path;"
}

// alreadyComplete looks whether what stands in the way of a copy is the result of an
// earlier one, by its manifest. One that was to be resumed is checked, and unlocked is
// what to say behind that of a table that is not locked for it as it was to be. failed
// is the error of the copy.
func alreadyComplete(ctx context.Context, failed error, rec *manifestWriter, cmd *cli.Command) (rep *verify.ManifestReport, unlocked string, err error) {
	if !errors.Is(failed, sink.ErrHoldsData) || rec.cfg.Destination.Type != vaultconfig.Raft {
		return nil, "", failed
	}
	path := rec.cfg.Destination.Path
	_, setup, err := copier.ReadStatus(sink.WorkDir(path))
	if there, eerr := durable.Exists(filepath.Join(path, "vault.db")); err != nil || setup != nil || eerr != nil || !there {
		return nil, "", failed // there is something to resume, or nothing to be checked
	}
	m, err := rec.read(ctx)
	if err == nil && (m.Destination["path"] != path || !plan.Names(rec.cfg, m.Source)) {
		err = fmt.Errorf("%s is the manifest of a copy of %s into %s", rec.file, hints.Source(m.Source), m.Destination["path"])
	}
	switch {
	case cmd.Bool("resume"):
	case err != nil:
		return nil, "", failed
	default:
		return nil, "", hints.With(&copier.Error{Kind: copier.ErrDestination, Op: "check " + path, Err: fmt.Errorf("it holds the finished copy of run %s", m.RunID)},
			leftToCopy(m, failed)+" compare it with the table: "+commandLine(cmd, "verify"))
	}
	if err != nil {
		return nil, "", hints.With(failed,
			fmt.Sprintf("there is no unfinished copy to resume. If a complete one is there, its manifest is needed to check it (-manifest FILE): %v. "+
				"Without it, compare the directory with the table: %s\n%s", err, commandLine(cmd, "verify"), hints.Of(failed)))
	}
	rec.manifest = m
	rec.out.staleNode(m, rec.cfg, cmd.String("config"))
	rep, err = rec.out.checkManifest(ctx, m, path)
	if err != nil {
		return nil, "", damaged(err)
	}
	rec.out.log.Info("the copy was complete already, and the source is not read again")
	src, ok := rec.src.(*dynamodb.Source)
	if !ok || !rep.Equal() {
		return rep, "", nil
	}
	keep, locked := cmd.Bool("keep-source-locked"), keptLocked(m)
	if cmd.IsSet("keep-source-locked") {
		locked = keep // false too, which has the table freed
	}
	if keep || !locked {
		// Its locks, if the process ended before it had released them: with keep the
		// leader lock alone.
		if err := src.Unlock(ctx, m.RunID, copier.EndComplete); err != nil {
			return rep, "", err
		}
		if !keep {
			if keptLocked(m) {
				m.Amend(thisTool(), copier.AmendFreed, nil)
				rec.out.notNoted(rec.put(ctx, m))
			}
			return rep, "", nil
		}
	}
	locks, err := src.Locks(ctx)
	const since = "If a Vault has run on it since the copy, what that wrote is not in the copy; compare them before a Vault starts on the copy: "
	switch held := locks.Migration; {
	case err != nil:
		return rep, "", err
	case held == nil:
		return rep, fmt.Sprintf("NOT LOCKED: -keep-source-locked asks for table %s to stay locked, and it is free: a complete copy does not lock it again, and a Vault may start on it. ", m.Source.Name) + since + commandLine(cmd, "verify"), nil
	case held.Run == m.RunID:
		rec.out.log.Info("core/migration stays in the table, in this copy's name (-keep-source-locked): no Vault starts on the table until copy -reset removes it")
	default:
		return rep, fmt.Sprintf("NOT LOCKED FOR THIS COPY: %s holds core/migration in table %s. ", held.Name, m.Source.Name) + since + commandLine(cmd, "verify"), nil
	}
	return rep, "", nil
}
