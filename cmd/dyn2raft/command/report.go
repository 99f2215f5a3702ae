package command

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"

	"github.com/urfave/cli/v3"

	"github.com/dyn2raft/dyn2raft/cmd/dyn2raft/hints"
	"github.com/dyn2raft/dyn2raft/cmd/dyn2raft/report"
	"github.com/dyn2raft/dyn2raft/cmd/dyn2raft/visible"
	"github.com/dyn2raft/dyn2raft/verify"
)

func reportCommand(std Streams) *cli.Command {
	return newCommand(std, "report", runReport,
		[]cli.Flag{
			manifestFlag("`file` that copy has written (PATH.dyn2raft.json, unless it was told another one)"),
			&cli.StringFlag{Name: "verify", Usage: "`file` that 'dyn2raft verify -o' has written, to show that comparison with the table too"},
			&cli.StringFlag{Name: "o", Usage: "`file` to write; only an earlier report is replaced; - is standard output"},
		},
		shared("redact"),
	)
}

func runReport(_ context.Context, cmd *cli.Command, std Streams, out *printer) error {
	if err := noArguments(cmd); err != nil {
		return err
	}
	manifest, compared, to := cmd.String("manifest"), cmd.String("verify"), cmd.String("o")
	for _, f := range []string{"manifest", "o"} {
		if cmd.String(f) == "" {
			return &usageError{fmt.Sprintf("-%s is missing", f), "as in: dyn2raft report -manifest /opt/vault/data.dyn2raft.json -o report.html"}
		}
	}
	if to != "-" {
		var err error
		if to, err = reportFile(to, manifest, compared); err != nil {
			return err
		}
	}
	in, err := reportInput(manifest, compared)
	if err != nil {
		return err
	}
	if cmd.Bool("redact") {
		in.Manifest = verify.RedactedRecord(in.Manifest)
		if in.Verification != nil {
			in.Verification = in.Verification.Redacted()
		}
	}
	var page bytes.Buffer
	if err := report.Write(&page, in); err != nil {
		return err
	}
	if to == "-" {
		_, err := std.Out.Write(page.Bytes())
		return err
	}
	file := output{to, "report", "a report", reportBegins, "name a place that can be written, or - for standard output: -o FILE"}
	if _, err := file.find(in.Manifest.Destination["path"]); err != nil {
		return file.failed(err)
	}
	if err := file.write(func(w io.Writer) error { _, err := w.Write(page.Bytes()); return err }); err != nil {
		return err
	}
	err = out.text(fmt.Sprintf("Wrote %s: the copy of %s of %s.", visible.Text(to), entries(in.Manifest.Total.Entries), visible.Text(hints.Source(in.Manifest.Source))))
	if text := notYet[in.Manifest.State]; text != "" {
		err = errors.Join(err, out.text(text))
	}
	return err
}

func reportInput(manifest, compared string) (in report.Input, err error) {
	if in.Manifest, err = verify.ReadManifest(manifest); err != nil {
		return in, err
	}
	if compared != "" {
		in.Verification, err = report.ReadVerification(compared)
	}
	return in, err
}

// reportFile is where the report goes: to the file at path, or the one that a
// link there leads to. It is none that the report is made of.
func reportFile(path string, inputs ...string) (string, error) {
	if target, err := filepath.EvalSymlinks(path); err == nil {
		path = target
	}
	if st, err := os.Stat(path); err == nil {
		for _, in := range inputs {
			if other, err := os.Stat(in); err == nil && os.SameFile(st, other) {
				return "", &usageError{fmt.Sprintf("-o would replace %s, which the report is made of", in), "name another file"}
			}
		}
	}
	return path, nil
}

// reportBegins matches how a report begins.
var reportBegins = regexp.MustCompile("^" + regexp.QuoteMeta(report.Begins))
