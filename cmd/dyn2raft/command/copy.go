package command

import (
	"bufio"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"math"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"al.essio.dev/pkg/shellescape"
	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/dustin/go-humanize"
	"github.com/urfave/cli/v3"
	"golang.org/x/term"

	"github.com/dyn2raft/dyn2raft/cmd/dyn2raft/figures"
	"github.com/dyn2raft/dyn2raft/cmd/dyn2raft/hints"
	"github.com/dyn2raft/dyn2raft/cmd/dyn2raft/plan"
	"github.com/dyn2raft/dyn2raft/copier"
	"github.com/dyn2raft/dyn2raft/copier/vaultconfig"
	sink "github.com/dyn2raft/dyn2raft/sinks/raft"
	"github.com/dyn2raft/dyn2raft/sinks/raft/node"
	"github.com/dyn2raft/dyn2raft/sources/dynamodb"
	"github.com/dyn2raft/dyn2raft/verify"
)

func copyCommand(std Streams) *cli.Command {
	return newCommand(std, "copy", runCopy,
		shared("config"),
		[]cli.Flag{
			&cli.BoolFlag{Name: "resume", Usage: "resume an unfinished copy, or begin one if there is none"},
			&cli.BoolFlag{Name: "restart", Usage: "throw an unfinished copy away, and begin another"},
			&cli.BoolFlag{Name: "source-stopped", Usage: "say that nobody writes to the source any more, where it can't tell: every Vault on the table, or on the files, is stopped; none has written since the snapshot was taken"},
			ignoreFlag("and put that on record: " + strings.Join(plan.Ignorable(true), ", ")),
			&cli.BoolFlag{Name: "keep-source-locked", Usage: "leave core/migration in the table after success, so that no old Vault starts on it any more"},
			&cli.BoolFlag{Name: "replace", Usage: "of storage_destination \"dynamodb\": write into the table that this Vault had before: what differs is written, and what is in the table and not in the source is deleted; needs -backup or -backup-arn"},
			&cli.StringFlag{Name: "backup-arn", Usage: "with -replace: a backup that has the table as it is, by its `ARN`"},
			&cli.StringFlag{Name: "take-over", Usage: "with -replace: `id` of the run that has copied from the table and left it locked (-keep-source-locked); its manifest has it"},
			&cli.BoolFlag{Name: "seal-wrapped", Usage: "of storage_destination \"dynamodb\": write values that Vault Enterprise has wrapped by a seal, which Community can't read"},
			&cli.BoolFlag{Name: "reset", Usage: "copy nothing, only remove the locks that a migration left in the source's table, and the stream that a copy with -live has enabled, which gives that copy up; or of a destination's table what an unfinished copy has put there, and its locks"},
		},
		shared("at-least-index", "ignore-peer", "max-parallel", "segments", "memory", "read-capacity", "write-capacity", "retry-for"),
		[]cli.Flag{
			&cli.StringFlag{Name: "work-dir", Usage: "`directory` for work files, as large as the data (default: in the destination, until the copy is complete); needed with storage_destination \"dynamodb\", whose manifest goes there too"},
			&cli.StringFlag{Name: "readback", Value: "cache", Usage: "read what was written back from the system's memory (cache) or from the disk itself (device)"},
			manifestFlag("`file` for the record of the copy: what was read, skipped and written, with digests (default: beside the data directory, PATH.dyn2raft.json)"),
		},
		shared("backup"),
		[]cli.Flag{
			&cli.BoolFlag{Name: "live", Usage: "copy while Vault serves: follow the table, and cut over once `dyn2raft cutover` says so"},
			&cli.BoolFlag{Name: "yes", Usage: "of -live: enable a stream on the table where it has none, without asking, and disable that one at the end"},
			&cli.FloatFlag{Name: "live-share", Value: 0.25, Usage: "of -live: the `share` of the provisioned read capacity to take at most; of a table on demand it is 1,000 units a second at first. Halved whenever the table throttles, and raised slowly"},
			&cli.BoolFlag{Name: whenReadyFlag, Usage: "of -live: cut over as soon as the copy is ready and Vault gives its lock up"},
			&cli.BoolFlag{Name: "closed-check", Value: true, Usage: "of -live: once it is cut over, read the table again as verify -closed does"},
			&cli.StringFlag{Name: "owner", Usage: "`user[:group]` that a copy run as root works as, and that all it writes belongs to (default: the data directory's owner)"},
			&cli.StringFlag{Name: "start", Hidden: true},
		},
		shared("strict", "log-level", "log-format", "metrics-listen", "format"),
	)
}

func runCopy(ctx context.Context, cmd *cli.Command, std Streams, out *printer) (err error) {
	set, on := cmd.IsSet, cmd.Bool
	if err := cmp.Or(
		mistake(set("start"), // a flag of vault operator migrate
			"-start would leave entries out, and a Vault that starts without them has lost them: nothing can be added to a copy later",
			"to resume an interrupted copy run it again with -resume and without -start; it reads only what is missing"),
		mistake(on("reset") && (on("keep-source-locked") || on("resume") || on("restart")), "-reset copies nothing, and goes with none of -resume, -restart and -keep-source-locked", "run it alone, then copy"),
		mistake(on("reset") && set("backup"), "-backup makes a backup before the first read, and -reset reads nothing", "leave -backup out"),
		mistake(on("resume") && on("restart"), "-resume resumes an unfinished copy, -restart throws it away", "give one of them"),
		mistake(set("manifest") && cmd.String("manifest") == "", "-manifest is empty", "name a file, or leave it out: then it is beside the data directory"),
		mistake(set("work-dir") && cmd.String("work-dir") == "", "-work-dir is empty", "name a directory, or leave it out: then the work files are in the destination"),
		mistake(on("live") && (on("source-stopped") || on("reset")), "-live copies while Vault serves, and goes with neither -source-stopped nor -reset", "leave one of them out; a copy that follows its table is given up with -reset alone"),
		mistake(on("live") && !(cmd.Float("live-share") > 0 && cmd.Float("live-share") <= 1), flagIs(cmd, "live-share"), "it takes a share from above 0 to 1, such as 0.25; or give -read-capacity"),
		backupName(cmd),
		mistake(!slices.Contains([]string{"cache", "device"}, cmd.String("readback")), flagIs(cmd, "readback"), "it takes cache or device"),
	); err != nil {
		return err
	}
	if _, err := ignored(cmd); err != nil {
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
	out.fromTable = cfg.Source.Type == vaultconfig.DynamoDB || cfg.Source.Type == vaultconfig.DynamoDBExport
	file, err := filepath.Abs(cmp.Or(cmd.String("manifest"), verify.ManifestPath(cfg.Destination.Path)))
	if err != nil {
		return err
	}
	line := commandLine(cmd, "copy", givenFlags(cmd, "config")...) // before recall gives it others
	was, err := recall(cmd, cfg.Destination)
	if err != nil {
		return err
	}
	if err := mistake(on("live") && on("source-stopped"), "the copy to resume is one with -live, which does not go with -source-stopped", "leave -source-stopped out: cutover ends a copy that follows its table"); err != nil {
		return err
	}
	if err := mistake(!on("live") && (on("yes") || on(whenReadyFlag)), "-yes and -cutover-when-ready are of -live", "add -live, or leave them out"); err != nil {
		return err
	}
	ignore, err := ignored(cmd) // those that the copy was begun with too
	if err != nil {
		return err
	}
	if toTable := cfg.Destination.Type == vaultconfig.DynamoDB; toTable && cmd.Bool("reset") {
		return resetDestination(ctx, cmd, cfg, out)
	}
	if err := writersOut(cmd, cfg); err != nil && !cmd.Bool("reset") {
		return err
	}
	home := homeOf(cfg.Destination)
	src, root, err := openAs(ctx, cmd, std, cfg, out, file, !cmd.Bool("reset"), func() error {
		err := rootMayWork(home, false, ofVault(home)+"; or name it, if it may write there: -owner USER:GROUP")
		if dir := cmd.String("work-dir"); err == nil && dir != "" {
			err = rootMayWork(dir, true, "name a directory of root's alone with -work-dir")
		}
		return err
	})
	if err != nil {
		return err
	}
	if root != nil {
		defer root.Close()
	}
	defer func() { err = whose(cmd, err, home) }()
	if cmd.Bool("reset") {
		defer out.sayWaits()()
		src := src.(*dynamodb.Source) // others refuse the flag
		// Reset asks less of the table and says less of what is wrong with it.
		if _, err := src.Open(ctx); err != nil {
			return err
		}
		defer func() { _ = src.Close() }() // it holds no more than connections
		freed, err := src.Reset(ctx)
		if errors.Is(err, copier.ErrMoved) {
			return hints.With(err,
				"somebody took a lock at this moment: stop every Vault that uses the table, then reset again. If a copy is in place, "+
					compareFirst(cmd))
		}
		if err != nil {
			return err
		}
		d := cfg.Destination
		m, merr := manifestOf(d, file)
		state, placed, lerr := placedAt(d, nil)
		if state == sink.StateUnconfirmed || state == sink.StateConfirmed {
			out.log.Warn("the copy in " + d.Path + " was in place before its table was given back, and the table can't be asked about it any more: " + compareFirst(cmd))
		}
		_, setup, err := copier.ReadStatus(stateOf(d))
		if err := cmp.Or(lerr, err); err != nil && !errors.Is(err, fs.ErrNotExist) {
			out.log.Warn("a copy may be in "+d.Path+", which can't be read: if there is one, it can't be resumed any more, and "+compareFirst(cmd), "error", err)
			out.log.Warn("if that copy was one with -live, the stream that it has enabled is not disabled, since nobody knows whose it is. See whether there is one, and whether somebody else reads it: aws dynamodb describe-table --table-name " +
				shellescape.Quote(cfg.Source.Table) + ". If nobody does: aws dynamodb update-table --table-name " + shellescape.Quote(cfg.Source.Table) + " --stream-specification StreamEnabled=false")
		}
		if err == nil && setup != nil && setup.Live != nil && plan.Names(cfg, setup.Source) {
			if err := copier.Unfollow(ctx, src, sink.WorkDir(cfg.Destination.Path), setup.RunID); err != nil {
				out.log.Warn("what was set up to follow the table is not all removed: run the same command again", "error", err)
			}
		}
		if lerr == nil && err == nil && setup != nil && placed == nil && plan.Names(cfg, setup.Source) {
			out.log.Warn("an unfinished copy is in " + d.Path + ", and can't be resumed any more: copy -restart throws it away and begins another")
			if state == sink.StateUnfinished {
				out.notNoted(asOwner(cmd.String("owner"), home, func() error { return copier.GiveUp(stateOf(d), thisTool()) }))
			}
		}
		if merr == nil && m != nil && state == sink.StateComplete && plan.Names(cfg, m.Source) {
			out.log.Warn("a complete copy is in " + d.Path + ": if a Vault has served from it, what that has written is not in the table, and is missing to a Vault that starts there now")
		}
		if merr == nil && m != nil && state == sink.StateComplete && plan.Names(cfg, m.Source) && keptLocked(m) {
			out.notNoted(asOwner(cmd.String("owner"), home, func() error {
				m.Amend(thisTool(), copier.AmendFreed, nil)
				return verify.WriteManifest(file, m, -1, -1)
			}))
		}
		return out.reset(cfg.Source.Table, freed)
	}
	keep, err := settingsOf(cmd, cfg, was)
	if err != nil {
		return err
	}
	rec := &manifestWriter{file: cmp.Or(keep["manifest"], file), cfg: cfg, src: src, out: out, compare: verifyAlike(cmd)}
	dst, err := newSink(ctx, cmd, std, cfg, out, ignore, func() (*copier.Record, error) { return rec.read(ctx) })
	if err != nil {
		return err
	}
	rec.dst = dst
	workDir := cmd.String("work-dir")
	if cfg.Destination.Type == vaultconfig.DynamoDB {
		workDir = stateOf(cfg.Destination)
	}
	backup := cmd.String("backup")
	if cfg.Destination.Type == vaultconfig.DynamoDB {
		backup = "" // it is of the destination
	}
	aside := asides(cfg.Destination, cmd.Bool("replace"))
	if err := makeAsides(aside); err != nil {
		return err
	}
	defer tidy(aside)
	if err := rec.try(ctx, root); err != nil {
		if code, _ := copier.CodeOf(err); code == verify.ManifestInside || code == verify.ManifestLink {
			return leftThere(err, cfg) // ignored, it would be written where it must not be
		}
		if err := out.letPass("manifest", readOnly(err), ignore); err != nil {
			return leftThere(err, cfg)
		}
	}
	stopMetrics, err := out.serveMetrics(cmd)
	if err != nil {
		return err
	}
	defer stopMetrics()
	stop := out.progress()
	opts := copier.Options{
		Workers:  workers(cmd, cfg),
		Segments: cmd.Int("segments"),
		Memory:   memory,
		Resume:   cmd.Bool("resume"),
		Restart:  cmd.Bool("restart"),
		WorkDir:  workDir,
		Tool:     thisTool(),
		Settings: keep,
		Caller:   thisCaller(line),
		Backup:   backup,
		Check: func(ctx context.Context, source copier.Info) ([]copier.Warning, error) {
			err := out.beforeCopy(ctx, plan.Options{
				Config: cfg, Source: src, Info: source, Destination: dst, State: stateOf(cfg.Destination), Manifest: rec.file, ManifestTried: true, Backup: backup != "", Ignore: ignore,
				Node: node.Node{WorkDir: cmd.String("work-dir"), Workers: workers(cmd, cfg), Memory: memory, Live: cmd.Bool("live")},
			})
			return out.warnings(), err
		},
		Uninitialized: slices.Contains(ignore, "initialized"),
		Record:        rec.keep,
		Progress:      &out.tracker,
		Events:        out.event,
	}
	ctx, full := context.WithCancelCause(ctx)
	defer full(nil)
	if !slices.Contains(ignore, "disk") && cfg.Destination.Type == vaultconfig.Raft {
		disk := &diskWatch{path: cfg.Destination.Path, read: &out.tracker, free: freeSpace, stop: full}
		opts.Events = func(e copier.Event) {
			out.event(e)
			disk.event(e)
		}
	}
	if cmd.Bool("live") {
		opts.Live = rec.live(cmd)
		opts.Events = rec.cutOver(opts.Events)
	}
	from := src
	if table, ok := src.(*dynamodb.Source); ok {
		from = backedUpSource{table, out}
	}
	res, err := copier.Copy(ctx, from, rec.dst, opts)
	err = ignorable(err)
	stop()
	if err != nil && res.State == "" {
		rec.discard(res.RunID)
	}
	if errors.Is(err, copier.ErrInPlace) {
		resume := []string{"-resume"}
		if dir := cmd.String("work-dir"); dir != "" {
			resume = append(resume, "-work-dir "+shellescape.Quote(dir))
		}
		err = hints.With(err, hints.Of(err)+":\n"+commandLine(cmd, "copy", resume...))
	}
	if err != nil {
		var rep *verify.ManifestReport
		var unlocked string
		if rep, unlocked, err = alreadyComplete(ctx, err, rec, cmd); rep != nil {
			err = errors.Join(err, out.manifestChecked(rec.manifest, rep))
			switch {
			case unlocked == "":
			case out.json:
				out.log.Warn(unlocked)
			default:
				err = errors.Join(err, out.sentence("%s", unlocked))
			}
			return err
		}
		res.InPlace = res.InPlace || rec.manifest != nil
	}
	if err != nil {
		return howToGoOn(finishedBefore(err, rec, cmd), res, cmd, cfg)
	}
	locked := ""
	if cmd.Bool("keep-source-locked") || cmd.Bool("live") {
		locked = commandLine(cmd, "copy", "-reset")
	}
	if err := out.copied(res, rec, locked); err != nil {
		return fmt.Errorf("write the result (the copy itself is complete and in place): %w", err)
	}
	if cmd.Bool("live") && cmd.Bool("closed-check") {
		out.log.Info("reading the table once more, while the new Vault may serve, and comparing it with what was copied")
		return verifyClosed(ctx, cmd, std, cfg, rec.file, out)
	}
	return nil
}

// keptLocked reports whether the table of a copy was left locked on purpose, and not
// freed since, as far as it is on record.
func keptLocked(m *copier.Record) bool {
	return m.Settings["keep-source-locked"] == "true" && m.Amended(copier.AmendFreed) == nil
}

// asOwner notes at the data directory at path what became of its copy. Root does it as
// the owner of the place.
func asOwner(owner, path string, note func() error) error {
	as, err := accountFor(owner, path)
	if err == nil && as != nil {
		err = as.become()
	} else if err == nil {
		err = rootMayWork(path, false, ofVault(path))
	}
	if err == nil {
		err = note()
	}
	return err
}

// notNoted says that it is not on record that a table was freed, where that is so.
func (p *printer) notNoted(err error) {
	if err != nil {
		p.log.Warn("that the table is free could not be noted at the copy: status says of it what it said before", "error", err)
	}
}

// keptFlags decide what becomes of the table, or of the result. What a copy was begun
// with stays with it, and is changed only by giving the flag again on resume. The
// first two are on record only: who works on the copy shows in whose its files are,
// and that every Vault was stopped is to be said again where it is asked again.
var keptFlags = []string{"owner", "source-stopped", "keep-source-locked", "readback", "manifest", "ignore", "work-dir", "segments", "read-capacity", "write-capacity", "live", "at-least-index", "ignore-peer",
	"replace", "backup", "backup-arn", "take-over", "seal-wrapped"}

// recall gives the flags of a copy that is resumed the values that they had, unless
// they are given. It returns what is on record.
func recall(cmd *cli.Command, d vaultconfig.Destination) (map[string]string, error) {
	if !cmd.Bool("resume") {
		return nil, nil
	}
	_, setup, err := copier.ReadStatus(stateOf(d))
	if err != nil || setup == nil {
		return nil, nil //nolint:nilerr // Copy says what is wrong
	}
	for _, name := range keptFlags[2:] {
		value, ok := setup.Settings[name]
		if !ok || cmd.IsSet(name) {
			continue
		}
		if err := cmd.Set(name, value); err != nil {
			return nil, &copier.Error{Kind: copier.ErrConfig, Op: "read the record of run " + setup.RunID, Err: fmt.Errorf("-%s: %w", name, err)}
		}
	}
	// A record may be made up: only where a copy is told of a directory, work files are
	// read and removed in it.
	if setup.WorkDir != stateOf(d) && !cmd.IsSet("work-dir") {
		return nil, hints.With(&copier.Error{Kind: copier.ErrConfig, Op: "read the record of run " + setup.RunID, Err: fmt.Errorf("it says that the work files are in %q, and not that the copy was told to put them there", setup.WorkDir)},
			"if they are this copy's, say so: -work-dir "+shellescape.Quote(filepath.Dir(setup.WorkDir))+"; if not, start over: -restart")
	}
	return setup.Settings, nil
}

// settingsOf is what is on record of how a copy is made: the flags that are to be
// kept, on top of what is on record, and what else decides what is read and how.
func settingsOf(cmd *cli.Command, cfg *vaultconfig.Config, was map[string]string) (map[string]string, error) {
	out := map[string]string{}
	maps.Copy(out, was)
	out["max-parallel"], out["memory"] = strconv.Itoa(workers(cmd, cfg)), cmd.String("memory")
	if cfg.Source.Type == vaultconfig.DynamoDB {
		delete(out, whenReadyFlag)
		if cmd.Bool(whenReadyFlag) {
			out[whenReadyFlag] = "true"
		}
		out["retry-for"], out["ha_enabled"] = cmd.Duration("retry-for").String(), strconv.FormatBool(cfg.Source.HAEnabled)
	}
	for _, name := range keptFlags {
		if !cmd.IsSet(name) || name == "backup" && !cmd.Bool("replace") { // which is made once
			continue
		}
		switch name {
		case "ignore", "ignore-peer":
			out[name] = strings.Join(cmd.StringSlice(name), ",")
		case "manifest", "work-dir":
			abs, err := filepath.Abs(cmd.String(name))
			if err != nil {
				return nil, &copier.Error{Kind: copier.ErrConfig, Op: "find " + cmd.String(name), Err: err}
			}
			out[name] = abs
		default:
			out[name] = fmt.Sprint(cmd.Value(name))
		}
	}
	return out, nil
}

// compareFirst is what to do with a copy of which nobody knows whether the table
// was written to meanwhile.
func compareFirst(cmd *cli.Command) string {
	return "do not start a Vault on it before it was found equal to the table: " + commandLine(cmd, "verify")
}

// givenFlags are the flags that a command was given, but for some, each with its
// value.
func givenFlags(cmd *cli.Command, but ...string) (out []string) {
	for _, flag := range cmd.Flags {
		name := flag.Names()[0]
		switch {
		case !cmd.IsSet(name), cmd.Value(name) == false, slices.Contains(but, name): // -strict=false is no -strict
		case cmd.Value(name) == true:
			out = append(out, "-"+name)
		case len(cmd.StringSlice(name)) > 0:
			for _, v := range cmd.StringSlice(name) {
				out = append(out, "-"+name+" "+shellescape.Quote(v))
			}
		default:
			out = append(out, "-"+name+" "+shellescape.Quote(fmt.Sprint(cmd.Value(name))))
		}
	}
	return out
}

// readOnly says of a manifest that can't be written what is wrong, where that is
// not its place alone: by default it is on the data directory's file system.
func readOnly(err error) error {
	if !errors.Is(err, syscall.EROFS) {
		return err
	}
	return hints.With(err,
		"that file system is mounted read-only, by the system itself if its disk failed (see dmesg): "+
			"mount it writable (mount -o remount,rw), or, if the data directory is on another one, name a place with -manifest FILE")
}

// begun is the most memory that the program uses before the copy starts, in bytes. It
// counts towards the budget.
const begun = 32 << 20

// garbage is GOGC: the garbage, in percent of the live heap, that starts a collection.
// It is low, since a collection is cheap here: nearly all of the heap is a few large
// buffers without pointers. So a long copy needs no more memory than a short one.
const garbage = 10

// memoryBudget is the value of -memory in bytes, which it makes the garbage
// collector obey. GOGC and GOMEMLIMIT are left to whoever has set them.
func memoryBudget(cmd *cli.Command) (int64, error) {
	n, err := humanize.ParseBytes(cmd.String("memory"))
	if err != nil || n < copier.MinMemory {
		return 0, &usageError{fmt.Sprintf("-memory is %q, expected a size from %s on", cmd.String("memory"), figures.Size(copier.MinMemory)),
			"write bytes, or a number with a unit such as 512MB or 1GiB"}
	}
	// More than there is would be asked of the system with the table locked already.
	if total, _, err := node.Memory(); n > copier.MaxMemory || cmd.IsSet("memory") && err == nil && n > uint64(total) {
		return 0, &usageError{fmt.Sprintf("-memory is %q, more than this machine has, or a copy can use", cmd.String("memory")),
			"give no more than half of what is free, or leave it out"}
	}
	if os.Getenv("GOMEMLIMIT") == "" || cmd.IsSet("memory") {
		// On top of what is in use already, where that is more than a program that
		// has just begun has: in the demo it is a whole table.
		var now runtime.MemStats
		runtime.ReadMemStats(&now)
		debug.SetMemoryLimit(max(int64(now.Sys-now.HeapReleased)-begun, 0) + int64(n))
	}
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(garbage)
	}
	return int64(n), nil
}

// workers is the flag's number, else the one the environment gives to Vault's
// own storage, else the library's default.
func workers(cmd *cli.Command, cfg *vaultconfig.Config) int {
	if cmd.IsSet("max-parallel") {
		return cmd.Int("max-parallel")
	}
	return cfg.Source.MaxParallel
}

func loadConfig(cmd *cli.Command, std Streams, out *printer) (*vaultconfig.Config, error) {
	if err := noArguments(cmd); err != nil {
		return nil, err
	}
	units, written := cmd.Float("read-capacity"), cmd.Float("write-capacity")
	if err := cmp.Or(
		mistake(cmd.IsSet("max-parallel") && cmd.Int("max-parallel") < 1, flagIs(cmd, "max-parallel")+", expected at least 1", "leave it out for a good default"),
		mistake(cmd.IsSet("segments") && cmd.Int("segments") < 1, flagIs(cmd, "segments")+", expected at least 1", "leave it out for a good default"),
		mistake(!(units == 0 || units >= 1) || math.IsInf(units, 1), flagIs(cmd, "read-capacity")+", expected at least 1", "it takes read capacity units a second; 0 is no limit"),
		mistake(!(written == 0 || written >= 1) || math.IsInf(written, 1), flagIs(cmd, "write-capacity")+", expected at least 1", "it takes write capacity units a second; 0 is no limit"),
		mistake(cmd.IsSet("retry-for") && cmd.Duration("retry-for") <= 0, flagIs(cmd, "retry-for"), "it takes a duration such as 10m"),
		mistake(cmd.String("config") == "", "no configuration file given", "name the file for `vault operator migrate` with -config migrate.hcl"),
	); err != nil {
		return nil, err
	}
	cfg, err := vaultconfig.Load(cmd.String("config"), std.Env)
	if err != nil {
		return nil, err
	}
	if cmd.Bool("strict") && len(cfg.Warnings) > 0 {
		var lines strings.Builder
		for _, w := range cfg.Warnings {
			lines.WriteString("\n" + w.Error())
		}
		return nil, fmt.Errorf("-strict refuses what Vault ignores (%w):%s", vaultconfig.ErrConfig, lines.String())
	}
	if d := &cfg.Destination; d.Type == vaultconfig.DynamoDB {
		if cmd.String("work-dir") == "" {
			return nil, &usageError{`storage_destination "dynamodb" has no place on this machine for work files and the manifest`, "name a directory, the same for copy, status and verify: -work-dir DIR"}
		}
		d.Path = besideOf(*d, cmd.String("work-dir"))
	}
	// Vault takes a path as it is; a record is read in another directory than this.
	if cfg.Destination.Path, err = filepath.Abs(cfg.Destination.Path); err != nil {
		return nil, &copier.Error{Kind: copier.ErrConfig, Op: "find " + cfg.Destination.Path, Err: err}
	}
	for i, path := range cfg.Source.Paths {
		if cfg.Source.Paths[i], err = filepath.Abs(path); err != nil {
			return nil, &copier.Error{Kind: copier.ErrConfig, Op: "find " + path, Err: err}
		}
	}
	if err := errors.Join(cmp.Or(rightFlags(cmd, cfg), inPlace(cmd, cfg)), apart(cfg)); err != nil {
		return nil, err
	}
	for _, w := range cfg.Warnings {
		out.warn(copier.Warning{Check: inConfig, Message: w.Error()}, "")
	}
	for _, o := range cfg.Overrides {
		out.log.Info(o.Error())
	}
	return cfg, nil
}

// openAs makes the source of a configuration, and, where root runs this for the owner
// of the data directory, has the process become one of his: then the root side, which
// the caller closes, is not nil. Where root stays root, where has to say that it may.
func openAs(ctx context.Context, cmd *cli.Command, std Streams, cfg *vaultconfig.Config, out *printer, manifest string, become bool, where func() error) (copier.Source, *rootSide, error) {
	var as *account
	if cfg.Destination.Type != vaultconfig.DynamoDB { // no file of Vault's is made there
		var err error
		if as, err = accountFor(cmd.String("owner"), homeOf(cfg.Destination)); err != nil {
			return nil, nil, err
		}
	}
	if as == nil && become {
		if err := where(); err != nil {
			return nil, nil, err
		}
	}
	if as == nil || !become {
		src, err := newSource(ctx, cmd, std, cfg, out, nil)
		return src, nil, err
	}
	if startedAs != 0 {
		return nil, nil, mayNotBecome(cmd, *as, errNotRoot)
	}
	root, err := startRootSide(RootTask{Region: cfg.Source.Region, Manifest: manifest, Path: cfg.Destination.Path, UID: as.uid, GID: as.gid})
	if err != nil {
		return nil, nil, fmt.Errorf("start a process that stays root's: %w", err)
	}
	src, err := newSource(ctx, cmd, std, cfg, out, root)
	if err == nil {
		if err = as.become(); err != nil {
			err = mayNotBecome(cmd, *as, err)
		}
	}
	if err != nil {
		return nil, nil, errors.Join(err, root.Close())
	}
	out.log.Info("working as the user that the data directory's contents belong to", "user", as.name(), "group", as.gid)
	return src, root, nil
}

// liveShare is the share of a table's read capacity that is taken while Vault serves.
func liveShare(cmd *cli.Command) float64 {
	if !cmd.Bool("live") {
		return 0
	}
	return cmd.Float("live-share")
}

// newTable makes the source of a configuration with a table.
func newTable(ctx context.Context, cmd *cli.Command, std Streams, cfg *vaultconfig.Config, out *printer, root *rootSide) (*dynamodb.Source, error) {
	var chain func(context.Context) (aws.CredentialsProvider, error)
	if root != nil {
		chain = root.credentials
	}
	src, err := dynamodb.New(ctx, dynamodb.Options{
		Credentials:   chain,
		Table:         cfg.Source.Table,
		Region:        cfg.Source.Region,
		Endpoint:      cfg.Source.Endpoint,
		AccessKey:     string(cfg.Source.AccessKey),
		SecretKey:     string(cfg.Source.SecretKey),
		SessionToken:  string(cfg.Source.SessionToken),
		MaxRetries:    cfg.Source.MaxRetries,
		HAEnabled:     cfg.Source.HAEnabled,
		HAStorage:     cfg.HAStorage,
		KeepLocked:    cmd.Bool("keep-source-locked") || cmd.Bool("live"),
		EnableStream:  mayEnable(cmd, std, cfg.Source.Table, out),
		LiveShare:     liveShare(cmd),
		ReadCapacity:  cmd.Float("read-capacity"),
		RetryFor:      cmd.Duration("retry-for"),
		NoWriteProbes: cmd.Bool("no-write-probes"),
		Stopped:       stopped(cmd, std, out),
		Events:        out.event,
	})
	if err != nil {
		return nil, err
	}
	out.tellSettings(src)
	out.log.Info("the table is at", "endpoint", src.Endpoint(), "region", cfg.Source.Region, "table", cfg.Source.Table)
	return src, nil
}

// stopped says whether every Vault on a table is stopped that can't tell.
func stopped(cmd *cli.Command, std Streams, out *printer) func(context.Context, string) (bool, error) {
	return func(ctx context.Context, reason string) (bool, error) {
		if cmd.Bool("source-stopped") {
			return true, nil
		}
		defer out.pause()()
		return askStopped(ctx, std, reason)
	}
}

// mayEnable says whether a stream may be enabled on a table that has none.
func mayEnable(cmd *cli.Command, std Streams, table string, out *printer) func(context.Context) (bool, error) {
	return func(ctx context.Context) (bool, error) {
		if cmd.Bool("yes") {
			return true, nil
		}
		defer out.pause()()
		return ask(ctx, std, fmt.Sprintf("The changes of table %s can't be followed without a stream, and it has none.\n"+
			"A stream of keys (KEYS_ONLY) can be enabled on it, and is disabled again at the end. Vault serves on meanwhile. Enable it? (yes/no)", table))
	}
}

// askStopped asks on a terminal whether every Vault is stopped.
func askStopped(ctx context.Context, std Streams, reason string) (bool, error) {
	return ask(ctx, std, fmt.Sprintf("Nothing shows whether a Vault is running: %s.\n"+
		"A Vault that writes during the copy makes it worthless. Is every Vault on this table stopped? (yes/no)", reason))
}

// ask asks a question on a terminal. Without one the answer is no.
func ask(ctx context.Context, std Streams, question string) (bool, error) {
	if std.In == nil || !term.IsTerminal(int(std.In.Fd())) || newScreen(std.Err, std.Env).tty == nil {
		return false, nil
	}
	_, _ = fmt.Fprint(std.Err, onTerminal(std.Err, question)+" ")
	answer := make(chan string, 1)
	go func() { // ends with the process if nobody answers: reading can't be cancelled
		line, _ := bufio.NewReader(std.In).ReadString('\n') // no answer is a no
		answer <- strings.TrimSpace(line)
	}()
	select {
	case a := <-answer:
		return strings.EqualFold(a, "yes"), nil
	case <-ctx.Done():
		return false, context.Cause(ctx)
	}
}
