package verify

import (
	"context"
	"errors"
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

// An Inspection says what a Raft data directory holds. Sizes are in bytes.
type Inspection struct {
	Path string `json:"path"`

	Entries int64 `json:"entries"`
	// Bytes is the size of all keys and values.
	Bytes   int64          `json:"bytes"`
	Groups  []copier.Group `json:"groups"`
	Largest []copier.Sized `json:"largest"`
	Sizes   []copier.Bin   `json:"sizes"`

	// NotVault is that of [DirectoryReport].
	NotVault []string `json:"not_vault,omitempty"`

	Raft vaultdb.State `json:"raft"`
	// NodeID is the content of the file node-id, which is there where Vault's
	// configuration names no node_id.
	NodeID    string      `json:"node_id_file,omitempty"`
	Log       vaultdb.Log `json:"log"`
	Tail      *Tail       `json:"tail,omitempty"` // nil where vault.db has all of the log
	Snapshots []Snapshot  `json:"snapshots"`

	Pages vaultdb.Stats `json:"pages"`
	Fill  float64       `json:"fill"`
	// Sound is set when all of vault.db keeps the rules of its format. Where
	// it does not, Damage says what is wrong, and what was counted may be a
	// part of what was there.
	Sound  bool   `json:"sound"`
	Damage string `json:"damage,omitempty"`

	FileSystem FileSystem `json:"file_system"`
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
	in := &Inspection{Path: path, Groups: []copier.Group{}, Largest: []copier.Sized{}, Sizes: []copier.Bin{}, Snapshots: []Snapshot{}}
	in.Raft.Servers = []vaultdb.Server{}
	if err := in.readVaultDB(ctx, max(opts.Largest, 0)); errors.Is(err, vaultdb.ErrDamaged) {
		in.Damage = err.Error()
	} else if err != nil {
		return in, err
	} else {
		in.Sound = true
	}
	id, err := vaultdb.ReadNodeID(path)
	if err != nil {
		return in, inspectError("read node-id", err)
	}
	in.NodeID = string(id)
	if in.Log, err = vaultdb.ReadLog(ctx, filepath.Join(path, "raft")); err != nil {
		return in, err
	}
	if in.Sound {
		in.Tail = readTail(ctx, path, in.Raft, in.Log)
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
	r, err := read(ctx, in.Path, largest)
	found := r.Contents
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
