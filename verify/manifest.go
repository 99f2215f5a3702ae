package verify

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/dyn2raft/dyn2raft/copier"
	"github.com/dyn2raft/dyn2raft/copier/durable"
)

const (
	manifestKind = "dyn2raft manifest"
	// manifestFormat is the version of the manifest's form. Fields may be added
	// without a new one; none is ever removed or given another meaning.
	manifestFormat = 6
)

// A Manifest is the record of a complete copy: what was read, what was
// skipped, what was written, and how. It holds no value of an entry and no
// credential. docs/manifest.md describes its fields.
type Manifest struct {
	Tool Tool `json:"tool"`
	// State is [copier.Confirmed], or [copier.Unconfirmed] as long as the source
	// has not confirmed the result: then it is not the record of a complete copy.
	State copier.CommitState `json:"state"`
	// NotReleased is set of a confirmed result as long as its source is not given
	// back: a process that was killed meanwhile leaves it so.
	NotReleased bool `json:"not_released,omitempty"`
	// RunID is the copy's id, Start when it was begun for the first time, End
	// when its result was in place, and Resumed how often it was resumed.
	RunID   string    `json:"run_id"`
	Start   time.Time `json:"start"`
	End     time.Time `json:"end"`
	Resumed int       `json:"resumed"`

	Source      copier.Info         `json:"source"`
	Vault       VaultVersions       `json:"vault"`
	Backup      string              `json:"backup_arn,omitempty"`
	Destination ManifestDestination `json:"destination"`

	// Total is the digest of all entries copied, Prefixes of those under each
	// first segment of the keys, such as "sys/", as far as [copier.Digests] goes.
	Total    copier.Digest  `json:"total"`
	Prefixes copier.Digests `json:"prefixes"`
	// ReadBack says from where vault.db was read back and found to have these
	// digests: "cache" or "device"; empty if it was not.
	ReadBack string `json:"read_back"`
	// Skipped is what the table held and the copy does not.
	Skipped Skipped `json:"skipped"`

	// Phases is how long the phases of the last process took.
	Phases map[copier.Phase]time.Duration `json:"phases_ns"`
	Scan   copier.ScanStats               `json:"scan"`
	Load   copier.LoadStats               `json:"load"`
	// Samples tells how the last process got on, which began at ProcessStart.
	Samples      []Sample  `json:"samples"`
	ProcessStart time.Time `json:"process_start,omitzero"`
	// Earlier are the processes before it, of a copy that was resumed: when and
	// why they ended, and how they got on.
	Earlier []copier.Process `json:"earlier,omitempty"`

	Settings map[string]any `json:"settings"`
	// Warnings is what the checks before the copy have found.
	Warnings []Warning `json:"warnings,omitempty"`
	// Contents is what vault.db holds.
	Contents *copier.Contents `json:"contents,omitempty"`
	// Readdressed are the changes of the destination's node id or address since, the
	// oldest first.
	Readdressed []Readdressed `json:"readdressed,omitempty"`
}

// A Readdressed is a change of a complete copy's node id or address.
type Readdressed struct {
	At   time.Time `json:"at"`
	Tool Tool      `json:"tool"`
	// NodeID and Address are those that the copy had until then.
	NodeID  string `json:"node_id"`
	Address string `json:"cluster_addr"`
}

// NotVault reports whether the copy was made although no initialized Vault has
// used its source.
func (m *Manifest) NotVault() bool {
	return slices.ContainsFunc(m.Warnings, func(w Warning) bool { return w.Check == "initialized" && w.Ignored })
}

// A Warning is what a check before the copy has found.
type Warning struct {
	// Check is the check's short name, such as "cluster-addr".
	Check   string `json:"check"`
	Message string `json:"message"`
	// Ignored is set where that had ended the copy, had the check not been let
	// pass on demand.
	Ignored bool `json:"ignored,omitempty"`
}

// A Tool is a program.
type Tool struct {
	Name    string `json:"name"`
	Version string `json:"version"`
	Go      string `json:"go"`
	OS      string `json:"os"`
	Arch    string `json:"arch"`
}

// VaultVersions are the versions of Vault that have run on the source, the
// oldest first, as Vault itself keeps them from 1.9 on, and the newest of them.
type VaultVersions struct {
	Newest string   `json:"newest,omitempty"`
	All    []string `json:"all,omitempty"`
}

// A ManifestDestination is a data directory as it was put in place.
type ManifestDestination struct {
	Path    string `json:"path"`
	NodeID  string `json:"node_id"`
	Address string `json:"cluster_addr"`
	// NodeIDFile is set where no node_id was configured: a Vault has it from the
	// file node-id then.
	NodeIDFile bool `json:"node_id_file"`
	// LogStore is "raft.db" or "wal".
	LogStore string `json:"log_store"`
	// Index and Term are those of the FSM.
	Index     uint64 `json:"index"`
	Term      uint64 `json:"term"`
	FileBytes int64  `json:"file_bytes"`
}

// Skipped is what is in a source and not in its copy.
type Skipped struct {
	// Markers counts directory markers, which hold no data.
	Markers int64 `json:"markers"`
	// Locks are the keys of locks.
	Locks []string `json:"locks"`
	// Why says why: under "markers" and the key of each lock.
	Why map[string]string `json:"why,omitempty"`
}

// A Sample is how far a copy was at one time.
type Sample = copier.Sample

// ManifestPath is where the manifest of a copy into the data directory at path
// is by default: beside it, so that the directory holds what is Vault's only.
func ManifestPath(path string) string { return filepath.Clean(path) + ".dyn2raft.json" }

// Took is the time from a copy's begin to its end: of all its processes, and in
// between. It is never negative: a clock that was set back between two processes
// makes that time nothing.
func (m *Manifest) Took() time.Duration {
	var took time.Duration
	last := m.Start
	for _, p := range m.Earlier {
		took += max(p.Start.Sub(last), 0) + max(p.End.Sub(p.Start), 0)
		last = p.End
	}
	start := m.ProcessStart
	if start.IsZero() {
		start = m.Start
	}
	return took + max(start.Sub(last), 0) + max(m.End.Sub(start), 0)
}

// Encode makes the content of the manifest's file, which is sealed: see
// [durable.Seal].
func (m *Manifest) Encode() ([]byte, error) {
	data, err := durable.SealIndented(manifestKind, manifestFormat, m)
	if err != nil {
		return nil, fmt.Errorf("write manifest: %w", err)
	}
	return data, nil
}

// Readdress gives the destination of a complete copy another node id and address, and
// notes which it had. It reports whether that is a change.
func (m *Manifest) Readdress(tool Tool, nodeID, address string) bool {
	d := &m.Destination
	if d.NodeID == nodeID && d.Address == address {
		return false
	}
	m.Readdressed = append(m.Readdressed, Readdressed{At: time.Now().UTC(), Tool: tool, NodeID: d.NodeID, Address: d.Address})
	d.NodeID, d.Address = nodeID, address
	return true
}

// Write writes the manifest, durably and whole. It replaces nothing but a manifest,
// and keeps that of another copy, see [KeptManifest]. One of the same copy passes on
// its owner and its mode. An error wraps [copier.ErrDestination].
func (m *Manifest) Write(file string) error {
	data, err := m.Encode()
	if err != nil {
		return err
	}
	return writeManifest(file, m.RunID, data, -1, -1)
}

// WriteManifest is [Manifest.Write] for the content of a manifest's file, as
// [Manifest.Encode] makes it. The file belongs to uid and gid, unless uid is -1.
func WriteManifest(file string, data []byte, uid, gid int) error {
	m, err := parseManifest(file, data)
	if err != nil {
		return err
	}
	return writeManifest(file, m.RunID, data, uid, gid)
}

func writeManifest(file, runID string, data []byte, uid, gid int) error {
	var disk *durable.Disk
	was, err := runOf(file)
	if err == nil && was != "" && was != runID {
		kept := KeptManifest(file, was)
		err = disk.Place(file, kept)
		if there, _ := runOf(kept); errors.Is(err, fs.ErrExist) && there == was {
			err = disk.Rename(file, kept) // somebody has put it back
		}
	}
	var like os.FileInfo
	if err == nil && was == runID && uid == -1 {
		like, err = os.Lstat(file)
	}
	switch {
	case err != nil:
	case like != nil:
		err = disk.ReplaceLike(file, data, like)
	default:
		err = disk.Output(file, uid, gid, func(w io.Writer) error {
			_, err := w.Write(data)
			return err
		})
	}
	if err != nil {
		return manifestError("write manifest "+file, err, "")
	}
	return nil
}

// KeptManifest is where the manifest of the copy with a run id is kept when that of
// another copy takes its file.
func KeptManifest(file, runID string) string {
	return strings.TrimSuffix(file, ".json") + "." + runID + ".json"
}

// runOf is the run id in the manifest that a file holds, and empty where there is no
// file, or an empty one. A manifest may be damaged, or of another format; what is
// none is an error: it is not to be replaced.
func runOf(file string) (string, error) {
	data, err := durable.ReadFile(file, maxManifest)
	switch {
	case errors.Is(err, fs.ErrNotExist), err == nil && len(data) == 0:
		return "", nil
	case errors.Is(err, durable.ErrTooLarge):
		return "", fmt.Errorf("it is there, and %w", ErrNotManifest)
	case err != nil:
		return "", err
	}
	kind, _, record, err := durable.Peek(data)
	if err != nil || kind != manifestKind {
		return "", fmt.Errorf("it is there, and %w", ErrNotManifest)
	}
	var m struct {
		RunID string `json:"run_id"`
	}
	if err := json.Unmarshal(record, &m); err != nil || !runID.MatchString(m.RunID) {
		return "", errors.New("a manifest is there that does not say of which copy, and it would be replaced")
	}
	return m.RunID, nil
}

// runID matches the id of a run, which becomes a part of a path.
var runID = regexp.MustCompile(`^[0-9A-Za-z-]{1,64}$`)

// TryManifest finds out whether a manifest of a copy into the data directory at
// path can be written to a file, without changing one that is there. It can't
// be in the data directory, which is Vault's.
func TryManifest(file, path string) error {
	if err := OutsideOf(file, path); err != nil {
		return manifestError("write manifest "+file, err, ManifestInside)
	}
	_, err := runOf(file)
	if err == nil {
		_, err = durable.IsFile(file + durable.OutputSuffix)
	}
	if err == nil {
		err = tryDir(filepath.Dir(file))
	}
	if err != nil {
		return manifestError("write manifest "+file, err, ManifestUnwritable)
	}
	return nil
}

// tryDir finds out whether a file can be made in a directory.
func tryDir(dir string) error {
	f, err := os.CreateTemp(dir, ".dyn2raft-*")
	if err != nil {
		return err
	}
	return errors.Join(f.Close(), os.Remove(f.Name()))
}

// OutsideOf refuses a file in the data directory at path: what is there is Vault's.
func OutsideOf(file, path string) error {
	if within, err := isWithin(file, path); err == nil && within {
		return fmt.Errorf("it lies in the data directory %s, which is Vault's", path)
	}
	return nil
}

// isWithin reports whether a file, which need not be there, is below a directory.
func isWithin(file, dir string) (bool, error) {
	parent, err := os.Stat(filepath.Dir(file))
	if err != nil {
		return false, err
	}
	root, err := os.Stat(dir)
	if err != nil {
		return false, nil //nolint:nilerr // whoever needs the directory says so
	}
	abs, err := filepath.Abs(filepath.Dir(file))
	if err != nil {
		return false, err
	}
	if abs, err = filepath.EvalSymlinks(abs); err != nil {
		return false, err
	}
	for !os.SameFile(parent, root) {
		up := filepath.Dir(abs)
		if up == abs {
			return false, nil
		}
		abs = up
		if parent, err = os.Stat(abs); err != nil {
			return false, err
		}
	}
	return true, nil
}

// maxManifest bounds what is read of a manifest, in bytes.
const maxManifest = 64 << 20

// ErrNotManifest is returned when a file is no manifest of a copy.
var ErrNotManifest = errors.New("not a manifest of a copy")

// ReadManifest reads a manifest. An error wraps [copier.ErrDestination], and
// ErrNotManifest where the file is there and is something else.
func ReadManifest(file string) (*Manifest, error) {
	data, err := durable.ReadFile(file, maxManifest)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, manifestError("read manifest", err, NoManifest)
	case err != nil:
		return nil, manifestError("read manifest", err, "")
	}
	return parseManifest(file, data)
}

// parseManifest reads the content of a manifest's file.
func parseManifest(file string, data []byte) (*Manifest, error) {
	var m Manifest
	err := durable.Unseal(data, manifestKind, manifestFormat, &m)
	if err == nil && (m.RunID == "" || m.Prefixes == nil) {
		err = errors.New("it names no copy, or no digests")
	}
	if err != nil {
		var code copier.Code
		if errors.Is(err, durable.ErrDamaged) {
			code = ManifestChanged
		}
		return nil, manifestError("read manifest "+file, fmt.Errorf("%w: %w", ErrNotManifest, err), code)
	}
	if m.Prefixes.Total() != m.Total {
		return nil, manifestError("read manifest "+file, fmt.Errorf("%w: its prefixes do not add up to its total", ErrNotManifest), "")
	}
	prefixes := copier.Digests{}
	prefixes.Add(m.Prefixes) // an older manifest may have more of them
	m.Prefixes = prefixes
	return &m, nil
}

func manifestError(op string, err error, code copier.Code) error {
	return &copier.Error{Kind: copier.ErrDestination, Op: op, Code: code, Err: err}
}
