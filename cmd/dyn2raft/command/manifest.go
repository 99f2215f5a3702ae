package command

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"runtime"

	"github.com/urfave/cli/v3"

	"github.com/dyn2raft/dyn2raft/copier"
	"github.com/dyn2raft/dyn2raft/copier/vaultconfig"
	"github.com/dyn2raft/dyn2raft/verify"
)

func manifestFlag(usage string) cli.Flag {
	return &cli.StringFlag{Name: "manifest", Usage: usage}
}

// thisTool is this program, as records name it.
func thisTool() copier.Tool {
	return copier.Tool{Name: "dyn2raft", Version: versionString(), Go: runtime.Version(), OS: runtime.GOOS, Arch: runtime.GOARCH}
}

// thisCaller is who runs that command here.
func thisCaller(command string) copier.Caller {
	host, _ := os.Hostname() // or nothing
	who := account{uid: os.Geteuid()}.name()
	if startedAs != os.Geteuid() {
		who += ", started by " + account{uid: startedAs}.name()
	}
	return copier.Caller{Host: host, User: who, Command: command}
}

// A manifestWriter puts the record of a copy where the operator wants it.
type manifestWriter struct {
	file     string    // an absolute path
	root     *rootSide // does what is done with the file, where only root can
	cfg      *vaultconfig.Config
	dst      copier.Sink
	src      copier.Source
	out      *printer
	drafted  bool
	manifest *copier.Record // of a complete copy, once it is written
	failed   string         // why it is not where it should be
	compare  string         // the command that compares the result with its source
}

// keep writes the record of a copy that is in place, or about to be.
func (r *manifestWriter) keep(ctx context.Context, rec copier.Record) error {
	r.manifest = nil
	r.out.remember(&rec)
	switch err := r.put(ctx, &rec); {
	case rec.State == copier.Unconfirmed:
		r.drafted = err == nil
		if err != nil {
			return fmt.Errorf("its manifest is not written: %w", err)
		}
		return nil
	case err != nil:
		beside := verify.ManifestPath(r.cfg.Destination.Path)
		if r.failed = err.Error(); r.file == beside || verify.WriteManifest(beside, &rec, -1, -1) != nil {
			return fmt.Errorf("its manifest is not written: %w", err)
		}
		r.out.log.Warn("the manifest is beside the data directory, and not where it should be: "+beside, "error", err)
		r.file = beside
	}
	r.manifest = &rec
	return nil
}

// discard removes the draft of a copy that is not in place.
func (r *manifestWriter) discard(runID string) {
	m, err := verify.ReadManifest(r.file)
	if r.drafted && r.root == nil && err == nil && m.RunID == runID && m.State == copier.Unconfirmed {
		_ = os.Remove(r.file) // one that stays says that it is of no complete copy
	}
}

// try finds out whether the manifest can be written, and by whom. What another user
// may not write, root writes where only he can have made the directory what it is.
func (r *manifestWriter) try(ctx context.Context, root *rootSide) error {
	err := verify.TryManifest(r.file, r.cfg.Destination.Path)
	if root != nil && r.file == root.manifest && errors.Is(err, fs.ErrPermission) {
		if rerr := root.call(ctx, "TryManifest", struct{}{}, new(struct{})); rerr != nil {
			return errors.Join(err, fmt.Errorf("as root: %w", rerr))
		}
		r.root = root
		return nil
	}
	return err
}

// read reads the manifest that is there.
func (r *manifestWriter) read(ctx context.Context) (*copier.Record, error) {
	if r.root == nil {
		return verify.ReadManifest(r.file)
	}
	m := new(copier.Record)
	return m, r.root.call(ctx, "ReadManifest", struct{}{}, m)
}

func (r *manifestWriter) put(ctx context.Context, m *copier.Record) error {
	// Directories that were missing, and are the copy's own, may be there by now.
	if err := verify.OutsideOf(r.file, r.cfg.Destination.Path); err != nil {
		return fmt.Errorf("write manifest %s: %w", r.file, err)
	}
	if r.root == nil {
		return verify.WriteManifest(r.file, m, -1, -1)
	}
	return r.root.call(ctx, "WriteManifest", m, new(struct{}))
}
