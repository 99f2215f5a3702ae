package verify

import (
	"bytes"
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/dyn2raft/dyn2raft/copier"
	"github.com/dyn2raft/dyn2raft/sources/raft/vaultdb"
)

// InspectOptions say how a directory is inspected. The zero value is fit for
// use.
type InspectOptions struct {
	// Largest is how many of the largest entries are named; 0 means 10, and a
	// negative number none.
	Largest int
}

// An Inspection tells what a Raft data directory holds. Sizes are in bytes.
type Inspection struct {
	Path string `json:"path"`

	Entries int64 `json:"entries"`
	// Bytes is the size of all keys and values.
	Bytes   int64   `json:"bytes"`
	Groups  []Group `json:"groups"`
	Largest []Sized `json:"largest"`
	Sizes   []Bin   `json:"sizes"`

	// NotVault is that of [DirectoryReport].
	NotVault []string `json:"not_vault,omitempty"`

	Raft vaultdb.State `json:"raft"`
	// NodeID is the content of the file node-id, which is there where Vault's
	// configuration names no node_id.
	NodeID    string     `json:"node_id_file,omitempty"`
	Log       Log        `json:"log"`
	Snapshots []Snapshot `json:"snapshots"`

	Pages vaultdb.Stats `json:"pages"`
	Fill  float64       `json:"fill"`
	// Sound is set when all of vault.db keeps the rules of its format. Where
	// it does not, Damage says what is wrong, and what was counted may be a
	// part of what was there.
	Sound  bool   `json:"sound"`
	Damage string `json:"damage,omitempty"`

	FileSystem FileSystem `json:"file_system"`
}

// A Group is the entries of one purpose: a mount, or a part of Vault itself.
type Group struct {
	// Name is what their keys begin with: two segments for a mount and below
	// sys/, otherwise one; "" for keys without a slash.
	Name string `json:"name"`
	// Role says what they are for, where the name tells.
	Role    string `json:"role,omitempty"`
	Entries int64  `json:"entries"`
	Bytes   int64  `json:"bytes"`
}

// A Sized is an entry with the size of its key and value.
type Sized struct {
	Key   string `json:"key"`
	Bytes int64  `json:"bytes"`
	// KeyBytes and KeySHA256 are those of a Diff.
	KeyBytes  int    `json:"key_bytes,omitempty"`
	KeySHA256 string `json:"key_sha256,omitempty"`
}

// A Bin is the entries whose key and value have together at least From bytes
// and fewer than To.
type Bin struct {
	From    int64 `json:"from"`
	To      int64 `json:"to"`
	Entries int64 `json:"entries"`
	Bytes   int64 `json:"bytes"`
}

// A Snapshot is what lies under raft/snapshots: one that is being received.
type Snapshot struct {
	Name  string `json:"name"`
	Bytes int64  `json:"bytes"`
}

// A FileSystem is the one that a directory is on.
type FileSystem struct {
	Bytes int64 `json:"bytes"`
	// Available is what is left for users without privileges.
	Available int64 `json:"available"`
}

// Inspect reads all of the data directory at path and changes nothing. A
// vault.db that is not sound is no error, but said in the inspection; one that
// is not there, that can't be read or that a running Vault has open is, as with
// [vaultdb.Open].
func Inspect(ctx context.Context, path string, opts InspectOptions) (*Inspection, error) {
	if opts.Largest == 0 {
		opts.Largest = 10
	}
	in := &Inspection{Path: path, Groups: []Group{}, Largest: []Sized{}, Sizes: []Bin{}, Snapshots: []Snapshot{}}
	in.Raft.Servers = []vaultdb.Server{}
	if err := in.readVaultDB(ctx, max(opts.Largest, 0)); errors.Is(err, vaultdb.ErrDamaged) {
		in.Damage = err.Error()
	} else if err != nil {
		return in, err
	} else {
		in.Sound = true
	}
	id, err := readSmall(filepath.Join(path, "node-id"))
	if err != nil {
		return in, inspectError("read node-id", err)
	}
	in.NodeID = string(id)
	if in.Log, err = readLog(ctx, filepath.Join(path, "raft")); err != nil {
		return in, err
	}
	if err := in.readSnapshots(filepath.Join(path, "raft", "snapshots")); err != nil {
		return in, inspectError("list snapshots", err)
	}
	var st unix.Statfs_t
	if err := unix.Statfs(path, &st); err != nil {
		return in, inspectError("ask for the space on "+path, err)
	}
	in.FileSystem = FileSystem{Bytes: int64(st.Blocks) * int64(st.Bsize), Available: int64(st.Bavail) * int64(st.Bsize)} //nolint:unconvert // other systems have other types
	return in, nil
}

func inspectError(op string, err error) error {
	return &copier.Error{Kind: copier.ErrDestination, Op: op, Err: err}
}

// readVaultDB reads every entry once and checks the file on the way.
func (in *Inspection) readVaultDB(ctx context.Context, largest int) error {
	r, found, err := read(ctx, in.Path, largest)
	if found == nil {
		return err
	}
	in.Raft, in.NotVault, in.Pages, in.Fill = r.Raft, r.NotVault, r.Pages, r.Pages.Fill()
	in.Groups, in.Sizes, in.Largest = found.Groups, found.Sizes, found.Largest
	for _, b := range in.Sizes {
		in.Entries += b.Entries
		in.Bytes += b.Bytes
	}
	return err
}

// groupName returns the beginning of a key that names its group.
func groupName(key []byte) []byte {
	first := copier.Prefix(key)
	switch string(first) {
	case "sys/", "logical/", "auth/", "audit/":
		return key[:len(first)+len(copier.Prefix(key[len(first):]))]
	}
	return first
}

// role says what a group is for.
func role(name string) string {
	first := string(copier.Prefix([]byte(name)))
	if first == "sys/" {
		first = name
	}
	return map[string]string{
		"core/":         "Vault's own state",
		"logical/":      "secrets engine",
		"auth/":         "auth method",
		"audit/":        "audit device",
		"sys/expire/":   "leases",
		"sys/token/":    "tokens",
		"sys/policy/":   "policies",
		"sys/counters/": "usage counters",
	}[first]
}

func (in *Inspection) readSnapshots(dir string) error {
	names, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	for _, n := range names {
		s := Snapshot{Name: n.Name()}
		if err := filepath.WalkDir(filepath.Join(dir, n.Name()), func(_ string, d fs.DirEntry, err error) error {
			if err != nil || !d.Type().IsRegular() {
				return err
			}
			info, err := d.Info()
			if err != nil {
				return err
			}
			s.Bytes += info.Size()
			return nil
		}); err != nil {
			return err
		}
		in.Snapshots = append(in.Snapshots, s)
	}
	return err
}

// readSmall returns the first KiB of a file, and nothing where there is none.
func readSmall(path string) ([]byte, error) {
	st, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	if !st.Mode().IsRegular() {
		return nil, errors.New("not a regular file")
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var b bytes.Buffer
	_, err = io.Copy(&b, io.LimitReader(f, 1<<10))
	return b.Bytes(), err
}
