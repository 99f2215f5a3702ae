package command

import (
	"context"
	"fmt"

	"github.com/urfave/cli/v3"

	"github.com/dyn2raft/dyn2raft/verify"
)

func verifyCommand(std Streams) *cli.Command {
	return &cli.Command{
		Name:      "verify",
		Usage:     "compare a Raft data directory with Vault's table, entry by entry",
		UsageText: "dyn2raft verify -config migrate.hcl [flags]\ndyn2raft verify -manifest FILE [-path DIR]",
		Description: "verify reads the whole table again and compares every key and the hash of every value\n" +
			"with the data directory, before a Vault is started on it. It changes nothing on either\n" +
			"side. With -manifest it compares the directory, or a copy of it, with the record that copy has\n" +
			"written, without the table. Exit status 0: equal; 3: there are differences.",
		Flags: []cli.Flag{
			configFlag(),
			manifestFlag("compare with this `file` instead of the table: the record that copy has written"),
			&cli.StringFlag{Name: "path", Usage: "with -manifest: the data `directory` (default: where the copy put it)"},
			&cli.IntFlag{Name: "max-diffs", Value: 100, Usage: "name at most this `number` of differing keys; -1 names all"},
			&cli.StringFlag{Name: "work-dir", Usage: "`directory` for work files, about 100 bytes an entry (default: the system's for temporary files)"},
			parallelFlag(), segmentsFlag(), memoryFlag(), capacityFlag(), retryFlag(), strictFlag(), levelFlag(), logFormatFlag(), metricsFlag(), formatFlag(),
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
	memory, err := memoryBudget(cmd)
	if err != nil {
		return err
	}
	cfg, err := loadConfig(cmd, std, out)
	if err != nil {
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
	rep, err := verify.Compare(ctx, tellingSource{src, out}, cfg.Destination.Path, verify.Options{
		Workers:  workers(cmd, cfg),
		Segments: cmd.Int("segments"),
		Memory:   memory,
		WorkDir:  cmd.String("work-dir"),
		MaxDiffs: cmd.Int("max-diffs"),
		Events:   out.event,
	})
	stop()
	if err != nil {
		return err
	}
	return out.verified(rep)
}
