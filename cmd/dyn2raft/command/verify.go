package command

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/dustin/go-humanize"
	"github.com/dustin/go-humanize/english"
	"github.com/urfave/cli/v3"

	"github.com/dyn2raft/dyn2raft/cmd/dyn2raft/figures"
	"github.com/dyn2raft/dyn2raft/cmd/dyn2raft/hints"
	"github.com/dyn2raft/dyn2raft/cmd/dyn2raft/plan"
	"github.com/dyn2raft/dyn2raft/cmd/dyn2raft/visible"
	"github.com/dyn2raft/dyn2raft/copier"
	"github.com/dyn2raft/dyn2raft/copier/vaultconfig"
	sink "github.com/dyn2raft/dyn2raft/sinks/raft"
	"github.com/dyn2raft/dyn2raft/sources/dynamodb"
	"github.com/dyn2raft/dyn2raft/sources/raft/vaultdb"
	"github.com/dyn2raft/dyn2raft/verify"
)

func verifyCommand(std Streams) *cli.Command {
	return newCommand(std, "verify", runVerify,
		shared("config"),
		[]cli.Flag{
			manifestFlag("compare with this `file` instead of the source: the record that copy has written; of a data directory only"),
			&cli.StringFlag{Name: "path", Usage: "with -manifest: the data `directory` (default: where the copy put it)"},
			&cli.IntFlag{Name: "max-diffs", Value: 100, Hidden: true},
			&cli.BoolFlag{Name: "resume", Usage: "resume a comparison that did not come to its end, or begin one if there is none"},
			&cli.BoolFlag{Name: "restart", Usage: "throw away what such a comparison has read, and begin another"},
			&cli.BoolFlag{Name: "closed", Usage: "compare the table that copy -live has cut over and left locked with what was copied, while the new Vault serves"},
			&cli.StringFlag{Name: "sample", Usage: "compare this `share` of the table only, such as 5%, in randomly chosen segments"},
			&cli.Uint64Flag{Name: "sample-seed", Hidden: true},
			&cli.StringFlag{Name: "work-dir", Usage: "`directory` for work files, about 170 bytes an entry and 350 for each key that differs; they must outlive a reboot if -resume is to work after one (default: PATH.dyn2raft-verify, beside the data directory)"},
		},
		shared("at-least-index", "ignore-peer", "max-parallel"),
		[]cli.Flag{
			&cli.IntFlag{Name: "segments", Hidden: true},
			ignoreFlag("of storage_source \"raft\": " + strings.Join(nodeChecks, ", ")),
			&cli.StringFlag{Name: "o", Usage: "write the result to this `file` too, as JSON, for 'dyn2raft report -verify'; only an earlier result is replaced"},
		},
		shared("memory", "read-capacity", "retry-for", "strict", "log-level", "log-format", "metrics-listen", "format"),
	)
}

func runVerify(ctx context.Context, cmd *cli.Command, std Streams, out *printer) (err error) {
	switch {
	case cmd.Bool("closed"):
	case cmd.IsSet("path") && !cmd.IsSet("manifest"):
		return &usageError{"-path has no meaning without -manifest", "verify takes the directory from -config"}
	case cmd.IsSet("manifest") && cmd.IsSet("config"):
		return &usageError{"-manifest compares with a manifest, -config with the table", "give one of them"}
	case cmd.IsSet("manifest"):
		for _, flag := range cmd.Flags {
			name := flag.Names()[0]
			if cmd.IsSet(name) && !slices.Contains([]string{"manifest", "path", "format", "log-level", "log-format"}, name) {
				return &usageError{fmt.Sprintf("-%s has no meaning with -manifest, which reads all of the directory and no table", name), "leave it out, or compare with the table: -config"}
			}
		}
		if err := noArguments(cmd); err != nil {
			return err
		}
		return verifyManifest(ctx, cmd, out)
	}
	maxDiffs := cmd.Int("max-diffs")
	if err := cmp.Or(
		mistake(cmd.Bool("resume") && cmd.Bool("restart"), "-resume resumes an unfinished comparison, -restart throws it away", "give one of them"),
		mistake(maxDiffs == 0 || maxDiffs < -1, flagIs(cmd, "max-diffs"), "it takes a number from 1 on, or -1 to name all"),
	); err != nil {
		return err
	}
	if out.json && !cmd.IsSet("max-diffs") {
		maxDiffs = -1
	}
	if _, err := ignored(cmd); err != nil {
		return err
	}
	sample, err := sampleShare(cmd)
	if err != nil {
		return err
	}
	memory, err := memoryBudget(cmd)
	if err != nil {
		return err
	}
	cfg, err := loadConfig(cmd, std, out)
	if err != nil {
		return err
	}
	if cmd.Bool("closed") {
		return verifyClosed(ctx, cmd, std, cfg, cmp.Or(cmd.String("manifest"), verify.ManifestPath(cfg.Destination.Path)), out)
	}
	inDirectory := cfg.Destination.Type == vaultconfig.Raft
	// Work files lie beside the data directory: where its owner can change that place,
	// they are his, and so is the process.
	work := verify.WorkPath(cmd.String("work-dir"), cfg.Destination.Path)
	src, root, err := openAs(ctx, cmd, std, cfg, out, verify.ManifestPath(cfg.Destination.Path), sample == 0 && rootsAlone(filepath.Dir(work), true) != nil, func() error {
		return rootMayWork(filepath.Dir(work), true, "run it as the user that Vault runs as, or name a directory of root's alone for the work files: -work-dir DIR")
	})
	if err != nil {
		return err
	}
	if root != nil {
		defer root.Close()
	}
	defer func() { err = whose(cmd, err, homeOf(cfg.Destination)) }()
	result := resultOf(cmd.String("o"))
	if err := result.clear(cfg.Destination.Path); err != nil {
		return err
	}
	stopMetrics, err := out.serveMetrics(cmd)
	if err != nil {
		return err
	}
	defer stopMetrics()
	m, _ := manifestOf(cfg.Destination, verify.ManifestPath(cfg.Destination.Path))
	state, _, err := placedAt(cfg.Destination, nil)
	if err != nil && !errors.Is(err, fs.ErrNotExist) { // which the comparison says
		out.log.Warn("what the copy in "+cfg.Destination.Path+" is good for is not known: start no Vault on it, whatever this finds, before that is", "error", err, "hint", hints.Of(err))
	}
	if notYet[copier.CommitState(state)] != "" {
		out.log.Warn(notYet[copier.CommitState(state)])
	}
	if !inDirectory {
		if err := notYetThere(state, cfg, cmd); err != nil {
			return err
		}
	}
	var raft verify.Expected
	notSegments := 0
	if inDirectory {
		raft, notSegments = out.expected(cfg, cmd.String("config"))
	} else if m != nil && plan.Names(cfg, m.Source) {
		notSegments = m.Scan.Segments
	}
	if n := cmd.Int("segments"); n != 0 && n == notSegments {
		out.log.Warn(fmt.Sprintf("the copy divided the table into %d segments too: a mistake in that would be made twice; leave -segments out, or give another number", n))
	}
	out.work = "comparison"
	found := &spool{dir: cmd.String("work-dir")}
	switch {
	case !inDirectory:
		found.dir = cmp.Or(found.dir, filepath.Dir(cfg.Destination.Path))
	case sample == 0:
		found.dir = work
	}
	defer found.close()
	stop := out.progress()
	from := src
	if table, ok := src.(*dynamodb.Source); ok {
		from = tellingSource{table, out, sample}
	}
	opts := verify.Options{
		Workers:     workers(cmd, cfg),
		Segments:    cmd.Int("segments"),
		NotSegments: notSegments,
		Memory:      memory,
		WorkDir:     cmd.String("work-dir"),
		Resume:      cmd.Bool("resume"),
		Restart:     cmd.Bool("restart"),
		Sample:      sample,
		SampleSeed:  cmd.Uint64("sample-seed"),
		MaxDiffs:    maxDiffs,
		OnDiff:      found.add,
		Events:      out.event,
	}
	var rep *verify.DirectoryReport
	if inDirectory {
		rep, err = verify.CompareDirectory(ctx, from, cfg.Destination.Path, raft, opts)
	} else {
		opts.WorkDir = cmp.Or(opts.WorkDir, filepath.Dir(cfg.Destination.Path))
		rep = &verify.DirectoryReport{RaftDiffs: []vaultdb.Diff{}}
		var got copier.Source
		if got, err = newResult(ctx, cmd, cfg, out); err == nil {
			var plain *verify.Report
			plain, err = verify.Compare(ctx, from, got, opts)
			rep.Report = *plain
		}
	}
	stop()
	if err != nil {
		if code, _ := copier.CodeOf(err); code == vaultdb.NoFile && state == sink.StateUnfinished {
			return hints.With(err, "an unfinished copy is there; resume it first: "+commandLine(cmd, "copy", "-resume"))
		}
		return damaged(howToCompareOn(err, rep, cmd))
	}
	if inDirectory {
		if err := needNodeID(rep, cfg); err != nil {
			return err
		}
	}
	started := ""
	if rep.Started {
		started = startedText(rep.Raft.Index, raft.Index)
	}
	if rep.Resumed > 0 && !rep.NoDifference() {
		out.log.Warn(fmt.Sprintf("the comparison was begun at %s and resumed %s: if a Vault wrote to the %s since, a difference may be no more than that",
			rep.Began.UTC().Format(time.RFC3339), figures.Times(rep.Resumed), hints.SourceWord(rep.Source)))
	}
	return errors.Join(result.write(func(w io.Writer) error { return encodeReport(w, reportOf(rep, inDirectory), found) }), out.verified(rep, found, started, cfg.Destination.Type))
}

// reportOf is the result of a comparison as a program reads it: with what there is of Raft
// in a data directory.
func reportOf(rep *verify.DirectoryReport, inDirectory bool) any {
	if inDirectory {
		return rep
	}
	return &rep.Report
}

// expected is what the copy has left of Raft, and the number of segments that
// it has read. That is what the manifest beside the data directory says, where
// there is the one of a copy of this table to there, and else what is known
// without it. file is the name of the configuration.
func (p *printer) expected(cfg *vaultconfig.Config, file string) (want verify.Expected, segments int) {
	want = verify.Expected{Raft: vaultdb.Raft{NodeID: cfg.Destination.NodeID, Address: cfg.Destination.Address}}
	m, err := verify.ReadManifest(verify.ManifestPath(cfg.Destination.Path))
	switch {
	case errors.Is(err, fs.ErrNotExist):
		p.log.Info("no manifest is beside the data directory: what is expected of Raft is taken from the configuration")
		return want, 0
	case err != nil:
		p.log.Warn("the manifest beside the data directory can't be used", "error", err)
		return want, 0
	case m.Destination["path"] != cfg.Destination.Path || !plan.Names(cfg, m.Source):
		return want, 0
	}
	node := verify.NodeOf(m)
	if p.staleNode(m, cfg, file) {
		want.NodeID, want.Address = node.ID, node.Address
	}
	want.Index, want.Term = node.Index, node.Term
	want.NodeID = cmp.Or(want.NodeID, node.ID)
	return want, m.Scan.Segments
}

// notYetThere is the error of a destination that is no data directory, and to which a copy
// from this machine has not come to its end.
func notYetThere(state sink.State, cfg *vaultconfig.Config, cmd *cli.Command) error {
	what, hint := "a copy is at work on it", "wait until it has ended: "+alike(cmd, statusCommand(Streams{}), nil)
	switch state {
	case sink.StateRunning:
	case sink.StateUnfinished:
		what, hint = "an unfinished copy is there", "resume it first: "+alike(cmd, copyCommand(Streams{}), []string{"-resume"}, "restart", "resume", "segments", "memory")
	default:
		return nil
	}
	return hints.With(&copier.Error{Kind: copier.ErrDestination, Op: "compare " + cfg.Destination.Name(), Err: errors.New(what)}, hint)
}

// needNodeID adds a difference where a Vault would not know which node it is. It would
// make an id of its own, not be a member of its cluster, and never unseal.
func needNodeID(rep *verify.DirectoryReport, cfg *vaultconfig.Config) error {
	if cfg.Destination.NodeID != "" || rep.Started || len(rep.Raft.Servers) == 0 {
		return nil
	}
	_, err := os.Stat(filepath.Join(cfg.Destination.Path, "node-id"))
	if errors.Is(err, fs.ErrNotExist) {
		rep.RaftDiffs = append(rep.RaftDiffs, vaultdb.Diff{Name: "node-id", Expected: "node_id in the configuration, or a file node-id with " + rep.Raft.Servers[0].ID, Found: "neither"})
		return nil
	}
	return err
}

// startedText says that Raft has made progress. Without the manifest nobody knows
// whether the directory is a copy's at all; expected is 0 then.
func startedText(index, expected uint64) string {
	if expected == 0 {
		return fmt.Sprintf("a Vault has run on the directory, or another tool than dyn2raft made it (Raft is at index %d)", index)
	}
	return fmt.Sprintf("a Vault has run on the directory since the copy (Raft is at index %d, the manifest says %d)", index, expected)
}

// damaged makes the status of an error that of a difference, where the data
// directory is there and can be read, and what it holds is no vault.db.
func damaged(err error) error {
	if errors.Is(err, vaultdb.ErrDamaged) && errors.Is(err, copier.ErrDestination) {
		return errors.Join(errDifferent, err)
	}
	return err
}

// sampleShare is the value of -sample, 0 where it is not given.
func sampleShare(cmd *cli.Command) (float64, error) {
	seed := cmd.IsSet("sample-seed")
	if !cmd.IsSet("sample") {
		return 0, mistake(seed, "-sample-seed has no meaning without -sample", "give -sample 5% too, or leave -sample-seed out")
	}
	digits, ok := strings.CutSuffix(cmd.String("sample"), "%")
	share, err := strconv.ParseFloat(digits, 64)
	share /= 100
	return share, cmp.Or(
		mistake(seed && cmd.Uint64("sample-seed") == 0, "-sample-seed is 0", "it takes a number from 1 on; leave it out for another sample each time"),
		mistake(cmd.Bool("resume"), "-sample reads little and is not saved, so -resume has nothing to resume", "give one of them"),
		mistake(!ok || err != nil || !(share > 0 && share < 1), flagIs(cmd, "sample"), "it takes a share of the table in percent, above 0% and below 100%, such as 5%"),
	)
}

// A tellingSource tells of the source when it is opened, which Copy does itself, and
// package verify does not: of the share of it that is read, so that what is left is
// estimated rightly.
type tellingSource struct {
	*dynamodb.Source
	p     *printer
	share float64 // 0 is all
}

// Open opens the source.
func (s tellingSource) Open(ctx context.Context) (copier.Info, error) {
	s.p.event(copier.PhaseStarted{Phase: copier.PhasePrepare})
	info, err := s.Source.Open(ctx)
	if err == nil {
		part := info
		if s.share > 0 {
			part.Items, part.Bytes = int64(float64(info.Items)*s.share), int64(float64(info.Bytes)*s.share)
		}
		s.p.tracker.Event(copier.PhaseStarted{Phase: copier.PhasePrepare, Source: part})
	}
	return info, err
}

// howToCompareOn adds to the error of a comparison how to resume it, where
// that can be.
func howToCompareOn(err error, rep *verify.DirectoryReport, cmd *cli.Command) error {
	again := commandLine(cmd, "verify", append([]string{"-resume"}, givenFlags(cmd, "config", "resume", "restart")...)...)
	todo := "to resume:     " + again + "\nto start over: the same with -restart in place of -resume"
	switch {
	case rep.Kept != "":
		return &ending{error: err, kept: fmt.Sprintf("what was read is kept in %s\n%s", rep.Kept, todo)}
	case errors.Is(err, verify.ErrUnfinished):
		return &ending{error: err, kept: todo}
	case errors.Is(err, copier.ErrOtherScan):
		return &ending{error: err, kept: "resume with the configuration and the data directory that the comparison was begun with, or start over: the same command with -restart in place of -resume"}
	}
	return err
}

// verified writes the result of a comparison, of a sample or of all. started says that
// Raft has made progress, where it has.
// kind is the type of the destination.
func (p *printer) verified(rep *verify.DirectoryReport, found *spool, started, kind string) error {
	result := comparison(rep.Equal() || rep.Sample != nil && rep.NoDifference(), rep.NotVault)
	if p.json {
		return compared(encodeReport(p.stdout, reportOf(rep, kind == vaultconfig.Raft), found), result)
	}
	table, n := hints.Source(rep.Source), rep.Missing+rep.Extra+rep.Different+rep.NoMarker
	counts := fmt.Sprintf("%s missing, %s extra, %s with another value", humanize.Comma(rep.Missing), humanize.Comma(rep.Extra), humanize.Comma(rep.Different))
	if rep.NoMarker > 0 {
		counts += fmt.Sprintf(", %s without a marker, so that Vault never lists what is in %s", english.Plural(int(rep.NoMarker), "directory", "directories"), one(rep.NoMarker, "it", "them"))
	}
	from, to := hints.SourceWord(rep.Source), hints.DestinationWord(kind)
	where, writes := "", ", and a Vault writes as soon as it starts"
	t := p.table()
	if s := rep.Sample; s != nil {
		where, counts = " in the sample", fmt.Sprintf("%s missing, %s with another value", humanize.Comma(rep.Missing), humanize.Comma(rep.Different))
		t.row("Sample", "%s of %s segments: %s of %s, of about %s (%s)",
			humanize.Comma(int64(s.SegmentsRead)), humanize.Comma(int64(s.Segments)),
			entries(rep.SourceEntries), table, humanize.Comma(max(rep.SourceEntries, rep.DestinationEntries)), figures.Percent(s.EntriesShare, 2))
		t.row("Repeat", "-sample %s%% -sample-seed %d -segments %d", strconv.FormatFloat(s.Share*100, 'f', -1, 64), s.Seed, s.Segments)
		t.row("Proves", "that each entry read is in the %s with the same value, unless it is named below", to)
		if result == nil {
			t.row("", "if damage hits entries at random, no more than %s of all are missing or different (95%% certain)", humanize.Comma(s.Undetected))
		}
		t.row("Not seen", "what is missing or different outside of the sample, and entries that only the %s has", to)
		if started != "" {
			t.row("Started", "%s%s", started, writes)
			writes = ""
		}
	} else {
		t.row("PREFIX", "%s\t%s\t%[1]s BYTES\t%[2]s BYTES\tHASH", strings.ToUpper(from), strings.ToUpper(to))
		for _, x := range rep.Prefixes {
			t.prefix(x.Prefix, x.Source.Entries, x.Destination.Entries, x.Source.Bytes, x.Destination.Bytes, x.Source.SHA256 == x.Destination.SHA256)
		}
		t.row("total", "%s\t%s", humanize.Comma(rep.SourceEntries), humanize.Comma(rep.DestinationEntries))
	}
	errs := []error{t.flush(), p.name(rep, found, from, to)}
	if n > rep.Named {
		errs = append(errs, p.line(fmt.Sprintf("… and %s more (-format json names all)", humanize.Comma(n-rep.Named))))
	}
	errs = append(errs, p.raftDiffs(rep.RaftDiffs, "must be"), p.tails(rep))
	allIn := visible.Text(fmt.Sprintf("%s of %s %s in %s, and nothing else", allEntries(rep.SourceEntries), table, one(rep.SourceEntries, "is", "are"), rep.Destination.Name))
	if result == nil && started != "" && rep.Sample == nil {
		errs = append(errs, p.sentence("Note: %s, and has written nothing that the %s has not.", started, from))
	}
	if rep.ExtraMarkers > 0 {
		errs = append(errs, p.sentence("Note: %s of directories in which nothing is. They do no harm.", english.Plural(int(rep.ExtraMarkers), "marker", "")))
	}
	var last string
	switch notVault := errors.Is(result, errNotAVault); {
	case notVault && rep.Sample != nil:
		last = fmt.Sprintf("NOT A VAULT: nothing differs in the sample, but in the %s: %s.", to, visible.Text(notAVault(rep.NotVault)))
	case notVault:
		last = fmt.Sprintf("NOT A VAULT: %s, but %s.", allIn, visible.Text(notAVault(rep.NotVault)))
	case result == nil && rep.Sample != nil:
		last = fmt.Sprintf("No difference in the sample: %s %s compared, in %s. Only a comparison without -sample shows that all are there.",
			entries(rep.SourceEntries), one(rep.SourceEntries, "was", "were"), figures.Round(rep.Duration))
	case result == nil:
		last = fmt.Sprintf("Equal: %s, in %s.", allIn, figures.Round(rep.Duration))
	case rep.Started:
		last = fmt.Sprintf("DIFFERENT%s: %s. But %s%s:\n%s of these are keys that Vault changes by itself: they prove nothing. The others can't be judged. To prove the copy, compare its manifest with a copy of the directory\n"+
			"that was made before the start: dyn2raft verify -manifest FILE -path DIR", where, counts, visible.Text(started), writes, humanize.Comma(rep.Known))
	default:
		if len(rep.RaftDiffs) > 0 {
			counts += ", and Raft's state is not as a copy leaves it"
		}
		last = fmt.Sprintf("DIFFERENT%s: %s. Do not use this copy, unless a Vault wrote to the %s since it was made.", where, counts, from)
		if kind != vaultconfig.Raft {
			last = fmt.Sprintf("DIFFERENT%s: %s. Missing is what only the source has, extra what only the %s: a Vault on it would have what was deleted or revoked since. "+
				"Do not use this copy, unless a Vault wrote to either since it was made.", where, counts, to)
		}
	}
	errs = append(errs, p.text(last))
	if rep.Resumed > 0 && n > 0 {
		errs = append(errs, p.text(fmt.Sprintf("This comparison was resumed %s since %s: what differs may have been written to the %s meanwhile.", figures.Times(rep.Resumed), rep.Began.Format(time.DateTime), from)))
	}
	return compared(errors.Join(errs...), result)
}
