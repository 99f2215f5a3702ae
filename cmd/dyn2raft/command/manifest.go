package command

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"runtime"
	"time"

	"github.com/urfave/cli/v3"

	"github.com/dyn2raft/dyn2raft/copier"
	"github.com/dyn2raft/dyn2raft/copier/vaultconfig"
	sink "github.com/dyn2raft/dyn2raft/sinks/raft"
	"github.com/dyn2raft/dyn2raft/sources/dynamodb"
	"github.com/dyn2raft/dyn2raft/verify"
)

func manifestFlag(usage string) cli.Flag {
	return &cli.StringFlag{Name: "manifest", Usage: usage}
}

// A manifestWriter collects what a copy's manifest will say.
type manifestWriter struct {
	file     string    // an absolute path
	root     *rootSide // does what is done with the file, where only root can
	settings map[string]any
	cfg      *vaultconfig.Config
	dst      *sink.Sink
	src      *dynamodb.Source
	out      *printer
	versions *verify.VaultVersions // once the table was asked
	drafted  bool
	manifest *verify.Manifest // once it is written
	err      error            // why it is not where it should be
}

// draft writes the manifest of a copy that is not confirmed.
func (r *manifestWriter) draft(ctx context.Context, res copier.Result) error {
	m, _ := r.make(ctx, res)
	m.State, m.NotReleased = copier.Unconfirmed, false
	r.manifest = nil
	if err := r.put(ctx, m); err != nil {
		return fmt.Errorf("its manifest is not written: %w", err)
	}
	r.drafted = true
	return nil
}

// discard removes the draft of a copy that is not in place.
func (r *manifestWriter) discard(runID string) {
	m, err := verify.ReadManifest(r.file)
	if r.drafted && r.root == nil && err == nil && m.RunID == runID && m.State == copier.Unconfirmed {
		_ = os.Remove(r.file) // one that stays says that it is of no complete copy
	}
}

// write writes the manifest of a complete copy, and again once its table is given
// back.
func (r *manifestWriter) write(ctx context.Context, res copier.Result) error {
	m, written := r.manifest, false
	if m == nil {
		m, written = r.make(ctx, res)
	}
	held := res.Commit == copier.Confirmed
	if written && m.State == copier.Confirmed && m.NotReleased == held {
		r.manifest = m
		return nil
	}
	m.State, m.NotReleased = copier.Confirmed, held
	if written { // by another process
		m.End = time.Now().UTC()
	}
	if err := r.put(ctx, m); err != nil {
		r.err = err
		beside := verify.ManifestPath(m.Destination.Path)
		if r.file == beside || m.Write(beside) != nil {
			return fmt.Errorf("its manifest is not written: %w", r.err)
		}
		r.out.log.Warn("the manifest is beside the data directory, and not where it should be: "+beside, "error", r.err)
		r.file = beside
	}
	r.manifest = m
	return nil
}

// make makes the manifest of a copy. One that an earlier process of the copy has
// written knew more, where nothing was read back since.
func (r *manifestWriter) make(ctx context.Context, res copier.Result) (m *verify.Manifest, written bool) {
	if res.Proof == nil {
		if was, err := r.read(ctx); err == nil && was.RunID == res.RunID {
			for _, w := range was.Warnings {
				r.out.keep(w)
			}
			return was, true
		}
	}
	raft := r.raft(res)
	m = &verify.Manifest{
		Tool:         verify.Tool{Name: "dyn2raft", Version: versionString(), Go: runtime.Version(), OS: runtime.GOOS, Arch: runtime.GOARCH},
		RunID:        res.RunID,
		Start:        res.Began.UTC(),
		End:          res.Start.UTC().Add(res.Duration), // however the clock was set meanwhile
		Resumed:      res.Resumed,
		ProcessStart: res.Start.UTC(),
		Source:       res.Source,
		Backup:       res.Note,
		Vault:        r.vault(ctx),
		Destination: verify.ManifestDestination{Path: r.cfg.Destination.Path, NodeID: raft.NodeID, Address: raft.Address, NodeIDFile: raft.NodeIDFile,
			LogStore: raft.LogStore, Index: raft.Index, Term: raft.Term, FileBytes: res.Load.FileBytes},
		Total:    res.Digests.Total(),
		Prefixes: res.Digests,
		Skipped:  skipped(res.Scan),
		Phases:   res.Phases,
		Samples:  append([]verify.Sample{}, res.Samples...),
		Earlier:  res.Earlier,
		Scan:     res.Scan,
		Load:     res.Load,
		Settings: r.settings,
		Warnings: r.out.warnings(),
	}
	if res.ReadBack { // by an earlier process, at least so
		m.ReadBack = "cache"
	}
	if res.Proof != nil {
		m.Contents = res.Proof.Contents
	}
	if res.ReadBack && raft.Device {
		m.ReadBack = "device"
	}
	return m, false
}

// raft is what was found of Raft when the copy was read back.
func (r *manifestWriter) raft(res copier.Result) (f sink.Facts) {
	if res.Proof == nil || json.Unmarshal(res.Proof.Facts[sink.FactsName].Data, &f) != nil { // it was read back by an earlier process
		f = r.dst.Facts()
		f.Device = false
	}
	return f
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
func (r *manifestWriter) read(ctx context.Context) (*verify.Manifest, error) {
	if r.root == nil {
		return verify.ReadManifest(r.file)
	}
	m := new(verify.Manifest)
	return m, r.root.call(ctx, "ReadManifest", struct{}{}, m)
}

func (r *manifestWriter) put(ctx context.Context, m *verify.Manifest) error {
	if r.root == nil {
		return m.Write(r.file)
	}
	data, err := m.Encode()
	if err != nil {
		return err
	}
	return r.root.call(ctx, "WriteManifest", data, new(struct{}))
}

// skipped says what the table held and the copy does not, and why.
func skipped(s copier.ScanStats) verify.Skipped {
	out := verify.Skipped{Markers: s.Markers, Locks: s.Locks, Why: map[string]string{}}
	if s.Markers > 0 {
		out.Why["markers"] = "directory markers, which hold no data"
	}
	for _, key := range s.Locks {
		switch key {
		case "core/_lock", "core/lock":
			out.Why[key] = "the lock of the active node"
		case "core/migration":
			out.Why[key] = "the lock of a migration"
		default:
			out.Why[key] = "a lock: its name begins with _ and it has a binary Identity"
		}
	}
	return out
}

// path is where the manifest is, and nothing if it could not be written.
func (r *manifestWriter) path() string {
	if r.manifest == nil {
		return ""
	}
	return r.file
}

// failed says why the manifest is not where it should be.
func (r *manifestWriter) failed() string {
	if r.err == nil {
		return ""
	}
	return r.err.Error()
}

// vault asks the table, once, which Vaults have run on it. That it can't tell is
// no reason not to have a manifest.
func (r *manifestWriter) vault(ctx context.Context) (v verify.VaultVersions) {
	if r.versions != nil {
		return *r.versions
	}
	defer func() { r.versions = &v }()
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	all, err := r.src.Versions(ctx)
	if err != nil {
		r.out.log.Warn("the table does not tell which versions of Vault have run on it", "error", err)
	}
	v.All = all
	if len(all) > 0 {
		v.Newest = all[len(all)-1]
	}
	return v
}
