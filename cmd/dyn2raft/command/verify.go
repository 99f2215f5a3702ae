package command

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"al.essio.dev/pkg/shellescape"
	"github.com/dustin/go-humanize"
	"github.com/urfave/cli/v3"

	"github.com/dyn2raft/dyn2raft/copier"
	"github.com/dyn2raft/dyn2raft/verify"
)

func verifyCommand(std Streams) *cli.Command {
	return &cli.Command{
		Name:      "verify",
		Usage:     "compare a Raft data directory with Vault's table, entry by entry",
		UsageText: "dyn2raft verify -config migrate.hcl [flags]\ndyn2raft verify -manifest FILE [-path DIR]",
		Description: "verify reads the whole table again and compares every key and the hash of every value\n" +
			"with the data directory, before a Vault is started on it. It changes nothing on either\n" +
			"side. What was read is saved every few seconds: a comparison that was interrupted, killed or\n" +
			"failed is gone on with by -resume. With -sample it reads a random part of the table only, and\n" +
			"says what that proves. With -manifest it compares the directory, or a copy of it, with the record that copy has\n" +
			"written, without the table. Exit status 0: equal; 3: there are differences.",
		Flags: []cli.Flag{
			configFlag(),
			manifestFlag("compare with this `file` instead of the table: the record that copy has written"),
			&cli.StringFlag{Name: "path", Usage: "with -manifest: the data `directory` (default: where the copy put it)"},
			&cli.IntFlag{Name: "max-diffs", Value: 100, Usage: "name at most this `number` of differing keys; -1 names all"},
			&cli.BoolFlag{Name: "resume", Usage: "go on with a comparison that did not come to its end, or begin one if there is none"},
			&cli.StringFlag{Name: "sample", Usage: "compare this `share` of the table only, such as 5%, in randomly chosen segments"},
			&cli.Uint64Flag{Name: "sample-seed", Usage: "with -sample: choose the segments by this `number`, as an earlier run printed it (default: another one each time)", HideDefault: true},
			&cli.StringFlag{Name: "work-dir", Usage: "`directory` for work files, about 170 bytes an entry; they must outlive a reboot if -resume shall go on behind one (default: PATH.dyn2raft-verify, beside the data directory)"},
			parallelFlag(),
			&cli.IntFlag{Name: "segments", Usage: "`number` of scan segments (default: one for 6 MiB of the table, from 85 to 5461, another number than a copy's)", HideDefault: true},
			resultFlag(),
			memoryFlag(), capacityFlag(), retryFlag(), strictFlag(), levelFlag(), logFormatFlag(), metricsFlag(), formatFlag(),
		},
		OnUsageError: onUsageError,
		Action: func(ctx context.Context, cmd *cli.Command) error {
			return runVerify(ctx, cmd, std)
		},
	}
}

func runVerify(ctx context.Context, cmd *cli.Command, std Streams) error {
	out, err := newPrinter(cmd, std)
	if err != nil {
		return err
	}
	switch {
	case cmd.String("path") != "" && cmd.String("manifest") == "":
		return &usageError{"-path has no meaning without -manifest", "verify takes the directory from -config"}
	case cmd.String("manifest") != "" && cmd.IsSet("o"):
		return &usageError{"-o is for a comparison with the table, not with a manifest", "leave it out; -format json prints the result of this one"}
	case cmd.String("manifest") != "" && cmd.String("config") != "":
		return &usageError{"-manifest compares with a manifest, -config with the table", "give one of them"}
	case cmd.String("manifest") != "":
		if err := noArguments(cmd); err != nil {
			return err
		}
		return verifyManifest(ctx, cmd, out)
	}
	if n := cmd.Int("max-diffs"); n == 0 || n < -1 {
		return &usageError{fmt.Sprintf("-max-diffs is %d", n), "it takes a number from 1 on, or -1 to name all"}
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
	file := resultFile(cmd.String("o"))
	if err := file.try(); err != nil {
		return err
	}
	src, err := newSource(ctx, cmd, std, cfg, out)
	if err != nil {
		return err
	}
	stopMetrics, err := out.serveMetrics(cmd)
	if err != nil {
		return err
	}
	defer stopMetrics()
	stop := out.progress()
	rep, err := verify.Compare(ctx, sampledSource{tellingSource{src, out}, sample}, cfg.Destination.Path, verify.Options{
		Workers:    workers(cmd, cfg),
		Segments:   cmd.Int("segments"),
		Memory:     memory,
		WorkDir:    cmd.String("work-dir"),
		Resume:     cmd.Bool("resume"),
		Sample:     sample,
		SampleSeed: cmd.Uint64("sample-seed"),
		MaxDiffs:   cmd.Int("max-diffs"),
		Events:     out.comparing,
	})
	stop()
	switch {
	case err != nil:
		return howToCompareOn(err, rep, cmd)
	case rep.Sample != nil:
		return errors.Join(file.write(rep), out.sampled(rep))
	}
	if rep.Resumed > 0 && !rep.NoDifference() {
		out.log.Warn(fmt.Sprintf("the comparison was begun at %s and gone on with %d times: if a Vault wrote to the table since, a difference may be no more than that",
			rep.Began.UTC().Format(time.RFC3339), rep.Resumed))
	}
	return errors.Join(file.write(rep), out.verified(rep))
}

// sampleShare is the value of -sample, 0 where it is not given.
func sampleShare(cmd *cli.Command) (float64, error) {
	text := cmd.String("sample")
	if !cmd.IsSet("sample") {
		if cmd.IsSet("sample-seed") {
			return 0, &usageError{"-sample-seed has no meaning without -sample", "give -sample 5% too, or leave -sample-seed out"}
		}
		return 0, nil
	}
	if cmd.IsSet("sample-seed") && cmd.Uint64("sample-seed") == 0 {
		return 0, &usageError{"-sample-seed is 0", "it takes a number from 1 on; leave it out for another sample each time"}
	}
	if cmd.Bool("resume") {
		return 0, &usageError{"-sample reads little and is not saved, so -resume has nothing to go on with", "give one of them"}
	}
	digits, ok := strings.CutSuffix(text, "%")
	share, err := strconv.ParseFloat(digits, 64)
	if share /= 100; !ok || err != nil || !(share > 0 && share < 1) {
		return 0, &usageError{fmt.Sprintf("-sample is %q", text), "it takes a share of the table in percent, above 0% and below 100%, such as 5%"}
	}
	return share, nil
}

// A sampledSource tells only of the share of the source that is read, so that
// what is left is estimated rightly.
type sampledSource struct {
	tellingSource
	share float64 // 0 is all
}

// Prepare prepares the source.
func (s sampledSource) Prepare(ctx context.Context) (copier.SourceInfo, error) {
	info, err := s.tellingSource.Prepare(ctx)
	if err == nil && s.share > 0 {
		part := info
		part.Items, part.Bytes = int64(float64(info.Items)*s.share), int64(float64(info.Bytes)*s.share)
		s.p.tracker.Event(copier.PhaseStarted{Phase: copier.PhasePrepare, Source: part})
	}
	return info, err
}

// comparing takes the events of a comparison, in whose words some differ from
// a copy's.
func (p *printer) comparing(e copier.Event) {
	r, ok := e.(copier.Resuming)
	if !ok {
		p.event(e)
		return
	}
	p.tracker.Event(e)
	p.note(e)
	p.log.Info("going on with an unfinished comparison", "entries_read_before", count(r.Entries), "size", byteCount(r.Bytes), "segments_left", r.Pending)
}

// howToCompareOn adds to the error of a comparison how to go on with it, where
// that can be.
func howToCompareOn(err error, rep *verify.Report, cmd *cli.Command) error {
	if rep.Kept == "" {
		return err
	}
	again := "dyn2raft verify -config " + shellescape.Quote(cmd.String("config")) + " --resume"
	if dir := cmd.String("work-dir"); dir != "" {
		again += " -work-dir " + shellescape.Quote(dir)
	}
	if file := cmd.String("o"); file != "" {
		again += " -o " + shellescape.Quote(file)
	}
	return &unfinishedError{err, fmt.Sprintf("what was read is kept in %s\n"+
		"to go on:      %s\n"+
		"to start over: the same without --resume", rep.Kept, again)}
}

// sampled writes the result of a comparison of a part of the table.
func (p *printer) sampled(rep *verify.Report) error {
	var result error
	if !rep.NoDifference() {
		result = errDifferent
	}
	if p.json {
		return errors.Join(p.encode(rep), result)
	}
	s := rep.Sample
	t := p.table()
	t.row("Sample", "%s of %s segments: %s entries of table %s, of about %s",
		humanize.Comma(int64(s.SegmentsRead)), humanize.Comma(int64(s.Segments)),
		humanize.Comma(rep.SourceEntries), rep.Source.Name, humanize.Comma(rep.DestinationEntries))
	t.row("Repeat", "-sample %s%% -sample-seed %d -segments %d", strconv.FormatFloat(s.Share*100, 'f', -1, 64), s.Seed, s.Segments)
	t.row("Proves", "that each entry read is in the directory with the same value, unless it is named below")
	if result == nil {
		t.row("", "if damage hits entries at random, no more than %s of all are missing or different (95%% certain)", humanize.Comma(s.Undetected))
	}
	t.row("Not seen", "what is missing or different outside of the sample, and entries that only the directory has")
	errs := []error{t.flush()}
	for _, d := range rep.Diffs {
		errs = append(errs, p.line(fmt.Sprintf("%s %q%s%s", d.Kind, d.Key, describe(", table: ", d.Source), describe(", directory: ", d.Destination))))
	}
	if n := rep.Missing + rep.Different; n > int64(len(rep.Diffs)) {
		errs = append(errs, p.line(fmt.Sprintf("… and %s more (-max-diffs)", humanize.Comma(n-int64(len(rep.Diffs))))))
	}
	if result == nil {
		errs = append(errs, p.line(fmt.Sprintf("No difference in the sample: %s entries were compared, in %s. Only a comparison without -sample shows that all are there.",
			humanize.Comma(rep.SourceEntries), round(rep.Duration))))
	} else {
		errs = append(errs, p.line(fmt.Sprintf("DIFFERENT in the sample: %s missing, %s with another value. Do not use this copy, unless a Vault wrote to the table since it was made.",
			humanize.Comma(rep.Missing), humanize.Comma(rep.Different))))
	}
	return errors.Join(append(errs, result)...)
}
