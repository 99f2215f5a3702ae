package verify

import (
	"bytes"
	"context"
	"errors"
	"io"
	"io/fs"
	"math/bits"
	"os"
	"path/filepath"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/dyn2raft/dyn2raft/copier"
	"github.com/dyn2raft/dyn2raft/verify/vaultdb"
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
func (in *Inspection) readVaultDB(ctx context.Context, largest int) (err error) {
	file, err := vaultdb.Open(filepath.Join(in.Path, vaultDBName))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	raft, stateErr := file.State()
	in.Raft = raft
	defer func() { err = errors.Join(err, stateErr) }()
	var bins [64]Bin // by the number of bits of the size
	defer func() {
		for i, b := range bins {
			if b.Entries > 0 {
				b.From, b.To = 1<<i>>1, 1<<i
				in.Sizes = append(in.Sizes, b)
			}
		}
	}()
	entries := file.Entries(ctx)
	for {
		e, err := entries.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return err
		}
		size := int64(len(e.Key) + len(e.Value))
		in.Entries++
		in.Bytes += size
		bin := &bins[bits.Len64(uint64(size))]
		bin.Entries++
		bin.Bytes += size
		in.group(e.Key, size)
		in.large(e.Key, size, largest)
	}
	in.Pages, err = entries.Check()
	in.Fill = in.Pages.Fill()
	return err
}

// group adds an entry to its group, which is the last one or a new one, since
// entries come in the order of their keys.
func (in *Inspection) group(key []byte, size int64) {
	if n := len(in.Groups); n == 0 || in.Groups[n-1].Name != string(groupName(key)) {
		name := string(groupName(key))
		in.Groups = append(in.Groups, Group{Name: name, Role: role(name)})
	}
	g := &in.Groups[len(in.Groups)-1]
	g.Entries++
	g.Bytes += size
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

// large keeps the n largest entries, the largest first; of two of one size the
// one with the lower key comes first.
func (in *Inspection) large(key []byte, size int64, n int) {
	if have := len(in.Largest); n == 0 || have == n && size <= in.Largest[have-1].Bytes {
		return
	}
	at, _ := slices.BinarySearchFunc(in.Largest, size, func(s Sized, size int64) int {
		if s.Bytes >= size {
			return -1
		}
		return 1
	})
	in.Largest = slices.Insert(in.Largest, at, Sized{string(key), size})
	in.Largest = in.Largest[:min(len(in.Largest), n)]
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
