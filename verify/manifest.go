package verify

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/dyn2raft/dyn2raft/copier"
	"github.com/dyn2raft/dyn2raft/copier/durable"
)

// A Node is the one server that a copy has left in Raft's configuration, and where
// Raft stands. It is the fact "raft" of a copy's proof, and of the amendment
// "readdressed" what it is since.
type Node struct {
	ID      string `json:"node_id"`
	Address string `json:"cluster_addr"`
	// NodeIDFile is set where no node_id was configured: a Vault has it from the file
	// node-id then.
	NodeIDFile bool `json:"node_id_file"`
	// LogStore is "raft.db" or "wal".
	LogStore string `json:"log_store"`
	// Device is set where vault.db was read back from the device, and not from the
	// system's memory.
	Device bool `json:"device,omitempty"`
	// Index and Term are those of the FSM.
	Index uint64 `json:"index"`
	Term  uint64 `json:"term"`
}

const (
	raftFact    = "raft"
	factVersion = 1

	amendReaddressed = "readdressed"
)

// Nodes returns the node of a copy as the copy made it, and then as each readdress
// changed it: the last is the current one. at has the time of each.
func Nodes(r *copier.Record) (nodes []Node, at []time.Time) {
	d := r.Destination
	node := Node{ID: d["node_id"], Address: d["cluster_addr"], NodeIDFile: d["node_id"] == "", LogStore: d["log store"], Index: fsmIndex, Term: fsmTerm}
	if r.Proof != nil {
		_, _ = r.Proof.Facts.Get(raftFact, factVersion, &node) // or what is known without
	}
	nodes, at = append(nodes, node), append(at, r.End)
	for _, a := range r.Amendments {
		if ok, err := a.Facts.Get(raftFact, factVersion, &node); a.Kind == amendReaddressed && ok && err == nil {
			nodes, at = append(nodes, node), append(at, a.At)
		}
	}
	return nodes, at
}

// NodeOf is the node of a copy as it is now.
func NodeOf(r *copier.Record) Node {
	nodes, _ := Nodes(r)
	return nodes[len(nodes)-1]
}

// Readdress amends the record of a complete copy whose node has another id and
// address now. It reports whether that is a change.
func Readdress(r *copier.Record, tool copier.Tool, nodeID, address string) (bool, error) {
	node := NodeOf(r)
	if node.ID == nodeID && node.Address == address {
		return false, nil
	}
	node.ID, node.Address = nodeID, address
	fact, err := copier.NewFact(factVersion, node)
	if err == nil {
		r.Amend(tool, amendReaddressed, copier.Facts{raftFact: fact})
	}
	return true, err
}

// ManifestPath is where the manifest of a copy into the data directory at path
// is by default: beside it, so that the directory holds what is Vault's only.
func ManifestPath(path string) string { return filepath.Clean(path) + ".dyn2raft.json" }

// WriteManifest writes the record of a copy, durably and whole, and makes its file
// belong to uid and gid, unless uid is -1. It replaces nothing but a manifest, and
// keeps that of another copy, see [KeptManifest]. A link is refused. One of the same copy passes on its
// owner and its mode. An error wraps [copier.ErrDestination].
func WriteManifest(file string, r *copier.Record, uid, gid int) error {
	data, err := r.Encode()
	if err != nil {
		return manifestError("write manifest "+file, err, "")
	}
	var disk *durable.Disk
	was, err := runOf(file)
	if err == nil && was != "" && was != r.RunID {
		kept := KeptManifest(file, was)
		err = disk.Place(file, kept)
		if there, _ := runOf(kept); errors.Is(err, fs.ErrExist) && there == was {
			err = disk.Rename(file, kept) // somebody has put it back
		}
	}
	var like os.FileInfo
	if err == nil && was == r.RunID && uid == -1 {
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
	if err := notLink(file); err != nil {
		return "", err
	}
	data, err := durable.ReadFile(file, maxManifest)
	switch {
	case errors.Is(err, fs.ErrNotExist), err == nil && len(data) == 0:
		return "", nil
	case errors.Is(err, durable.ErrTooLarge):
		return "", fmt.Errorf("it is there, and %w", ErrNotManifest)
	case err != nil:
		return "", err
	}
	run, ok := copier.PeekRun(data)
	switch {
	case !ok:
		return "", fmt.Errorf("it is there, and %w", ErrNotManifest)
	case run == "":
		return "", errors.New("a manifest is there that does not say of which copy, and it would be replaced")
	}
	return run, nil
}

// TryManifest finds out whether a manifest of a copy into the data directory at
// path can be written to a file, without changing one that is there. It can't
// be in the data directory, which is Vault's.
func TryManifest(file, path string) error {
	if err := CheckManifestPlace(file, path); err != nil {
		return err
	}
	if err := tryDir(filepath.Dir(file)); err != nil {
		return manifestError("write manifest "+file, err, ManifestUnwritable)
	}
	return nil
}

// CheckManifestPlace is TryManifest without writing: whether a file can be made in the
// directory is left open.
func CheckManifestPlace(file, path string) error {
	if err := OutsideOf(file, path); err != nil {
		return manifestError("write manifest "+file, err, ManifestInside)
	}
	_, err := runOf(file)
	if err == nil {
		_, err = durable.IsFile(file + durable.OutputSuffix)
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

// isWithin reports whether a file is below a directory, by its name or by where
// links lead. Neither the file nor the directories above it need be there.
func isWithin(file, dir string) (bool, error) {
	parent, err := filepath.Abs(filepath.Dir(file))
	if err != nil {
		return false, err
	}
	if dir, err = filepath.Abs(dir); err != nil {
		return false, err
	}
	if rel, err := filepath.Rel(dir, parent); err == nil && filepath.IsLocal(rel) {
		return true, nil
	}
	root, err := os.Stat(dir)
	if err != nil {
		return false, nil //nolint:nilerr // whoever needs the directory says so
	}
	there, err := filepath.EvalSymlinks(parent)
	for errors.Is(err, fs.ErrNotExist) && parent != filepath.Dir(parent) {
		parent = filepath.Dir(parent)
		there, err = filepath.EvalSymlinks(parent)
	}
	for err == nil {
		var fi os.FileInfo
		if fi, err = os.Stat(there); err == nil && os.SameFile(fi, root) {
			return true, nil
		}
		if there == filepath.Dir(there) {
			break
		}
		there = filepath.Dir(there)
	}
	return false, err
}

// errLink is the error of a manifest's place that is a link: the manifest would take
// the place of the link, and what the link leads to would stay as it is.
var errLink = fmt.Errorf("%w, but a link", durable.ErrNotFile)

// notLink refuses a link, whether there is anything at its end or not.
func notLink(file string) error {
	if target, err := os.Readlink(file); err == nil {
		return fmt.Errorf("%w to %s", errLink, target)
	}
	return nil // whoever opens it says what else is wrong
}

// maxManifest bounds what is read of a manifest, in bytes.
const maxManifest = 64 << 20

// ErrNotManifest is returned when a file is no manifest of a copy.
var ErrNotManifest = errors.New("not a manifest of a copy")

// ReadManifest reads the record of a copy whose result was put in place. An error
// wraps [copier.ErrDestination], and ErrNotManifest where the file is there and is
// something else. A link is not followed.
func ReadManifest(file string) (*copier.Record, error) {
	if err := notLink(file); err != nil {
		return nil, manifestError("read manifest "+file, err, "")
	}
	data, err := durable.ReadFile(file, maxManifest)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, manifestError("read manifest", err, NoManifest)
	case err != nil:
		return nil, manifestError("read manifest", err, "")
	}
	r, err := copier.DecodeRecord(data)
	if err == nil && (r.State == "" || r.Prefixes == nil) {
		err = errors.New("it is the record of an unfinished copy")
	}
	if err != nil {
		code := NotManifest
		if _, ok := errors.AsType[*durable.FormatError](err); ok || errors.Is(err, copier.ErrUnknownState) {
			code = "" // it is another version's
		} else if errors.Is(err, durable.ErrDamaged) {
			code = ManifestChanged
		}
		return nil, manifestError("read manifest "+file, fmt.Errorf("%w: %w", ErrNotManifest, err), code)
	}
	return r, nil
}

func manifestError(op string, err error, code copier.Code) error {
	if errors.Is(err, errLink) {
		code = ManifestLink
	}
	return &copier.Error{Kind: copier.ErrDestination, Op: op, Code: code, Err: err}
}
