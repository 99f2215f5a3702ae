package verify

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"

	"github.com/dyn2raft/dyn2raft/copier"
	"github.com/dyn2raft/dyn2raft/sources/raft/replay"
	"github.com/dyn2raft/dyn2raft/sources/raft/vaultdb"
)

// ErrInUse is returned when a running Vault, or another program, has the
// destination's vault.db open.
var ErrInUse = vaultdb.ErrInUse

// vaultDBName is the file in a data directory that holds the entries.
const vaultDBName = "vault.db"

// fsmIndex and fsmTerm are where a copy leaves Raft in a directory.
const fsmIndex, fsmTerm uint64 = 2, 1

// A DirectoryReport is the result of a comparison with a Raft data directory.
type DirectoryReport struct {
	Report
	// Raft is where the directory's FSM stands. Started is set when that is further
	// than a copy leaves it: a Vault has run on the directory and written to it, or
	// another program has made it. Then Equal is not to be expected, and differences
	// that are not Known can't be judged: Vault or the copy has made them.
	Raft    vaultdb.State `json:"raft"`
	Started bool          `json:"started"`
	// Log is Raft's log. RaftDiffs is what a Vault can't use of state and log, and
	// what is not as a copy leaves it. Where Started is set, it can only have a
	// damaged log.
	Log       vaultdb.Log    `json:"log"`
	RaftDiffs []vaultdb.Diff `json:"raft_diffs"`
	// Tail is what that log has and vault.db lacks, which was not compared; nil where
	// there is nothing.
	Tail *Tail `json:"tail,omitempty"`
	// NotVault are the keys that every initialized Vault has and the directory lacks.
	// A key whose value no Vault takes is here too, with the reason behind it: see
	// [copier.Lack]. A directory with any can't be used by a Vault, even if Equal.
	NotVault []string `json:"not_vault,omitempty"`
}

// Equal reports whether both sides hold the same entries, and Raft's state is one
// that a Vault can use. It is false as long as that is not known, and always for a
// sample.
func (r *DirectoryReport) Equal() bool { return r.Report.Equal() && len(r.RaftDiffs) == 0 }

// NoDifference reports whether nothing differs in what was compared.
func (r *DirectoryReport) NoDifference() bool {
	return r.Report.NoDifference() && len(r.RaftDiffs) == 0
}

// CompareDirectory is [Compare] with the Raft data directory at path. raft is what a
// copy leaves of Raft. It is compared with the directory's, unless Raft has made
// progress since. Of raft the digests are not used; Index 0 means 2 and Term 0 means 1;
// an empty NodeID means the one in the directory's file node-id, if there is one. Work
// files are beside the directory where Options.WorkDir is empty: see [WorkPath].
//
// Where a Vault runs on the directory, the error is [ErrInUse], at once. Where its file
// is not sound, it is [vaultdb.ErrDamaged]. The directory is only read, and no Vault
// can start on it meanwhile.
func CompareDirectory(ctx context.Context, src copier.Source, path string, raft Expected, opts Options) (*DirectoryReport, error) {
	d := &dataDir{path: path, want: raft, DirectoryReport: DirectoryReport{RaftDiffs: []vaultdb.Diff{}}}
	d.Source.Path, d.Source.Kind = filepath.Join(path, vaultDBName), copier.ErrDestination
	opts.work = WorkPath(opts.WorkDir, path)
	opts.Known = func(kind DiffKind, key string) string {
		if !d.Started {
			return ""
		}
		return known(kind, key)
	}
	rep, err := Compare(ctx, src, d, opts)
	d.DirectoryReport.Report = *rep
	return &d.DirectoryReport, err
}

// A dataDir is a Raft data directory as a source.
type dataDir struct {
	vaultdb.Source
	DirectoryReport // but for the comparison
	path            string
	want            Expected
}

// Open implements [copier.Source]: it looks at Raft too.
func (d *dataDir) Open(ctx context.Context) (copier.Info, error) {
	info, err := d.Source.Open(ctx)
	info.Name = d.path
	if err != nil {
		return info, err
	}
	if err := d.look(ctx); err != nil {
		return info, errors.Join(err, d.Close())
	}
	info.Incarnation = fmt.Sprintf("%s, Raft index %d", info.Incarnation, d.Raft.Index)
	return info, nil
}

// look compares the state of Raft and its log with what a copy leaves.
func (d *dataDir) look(ctx context.Context) (err error) {
	d.want.Index, d.want.Term = cmp.Or(d.want.Index, fsmIndex), cmp.Or(d.want.Term, fsmTerm)
	if d.Raft, err = d.State(); err != nil {
		return err
	}
	if d.Log, err = vaultdb.ReadLog(ctx, filepath.Join(d.path, "raft")); err != nil {
		return err
	}
	if d.Started = d.want.Started(d.Raft, d.Log); !d.Started {
		d.RaftDiffs, err = d.want.Compare(d.path, d.Raft, d.Log)
	} else if x := d.Log.Wrong(""); x != nil {
		d.RaftDiffs = append(d.RaftDiffs, *x)
	}
	if err == nil {
		d.NotVault, _, err = copier.Lacks(ctx, d)
	}
	if err == nil {
		d.Tail = readTail(ctx, d.path, d.Raft, d.Log)
	}
	return err
}

// A Tail is what the log of a data directory holds and its vault.db lacks.
type Tail struct {
	Puts    int64 `json:"puts"`
	Deletes int64 `json:"deletes"`
	// Problem says why that can't be known.
	Problem string `json:"problem,omitempty"`
}

// readTail returns nil where vault.db lacks nothing.
func readTail(ctx context.Context, path string, state vaultdb.State, log vaultdb.Log) *Tail {
	if log.Damage != "" || log.Last <= state.Index {
		return nil
	}
	tail, err := replay.Read(ctx, path, state.Index)
	switch {
	case err != nil:
		return &Tail{Problem: err.Error()}
	case tail.Puts+tail.Deletes == 0:
		return nil
	}
	return &Tail{Puts: tail.Puts, Deletes: tail.Deletes}
}

// known says why a Vault changes a key without being asked to, or returns
// nothing where it may be anything. It names a likely cause and proves none: a
// lease that is gone has probably expired. Keys that Vault hardly ever changes
// by itself and that nobody can do without are not explained, such as
// core/keyring, the unseal keys and the tables of mounts.
//
// The list was made by comparing, key by key, what a Vault 1.21 does in two
// starts on a copied directory, with names from Vault's documentation.
func known(kind DiffKind, key string) string {
	for _, k := range []struct{ key, why string }{
		{"core/raft/tls", "Vault makes the keyring of its Raft TLS when it first starts, and rotates it"},
		{"core/raft/autopilot/", "Raft's autopilot notes its state"},
		{"core/lock", "the lock of the active node"},
		{"core/leader/", "the active node announces itself, and removes its predecessors' records"},
		{"core/cluster/", "what the active node says of its cluster"},
		{"sys/expire/id/", "leases are made, renewed, and removed when they expire"},
		{"sys/token/id/", "tokens are made, renewed, and removed when they expire"},
		{"sys/token/accessor/", "accessors come and go with their tokens"},
		{"sys/token/parent/", "tokens' children expire"},
		{"sys/counters/", "Vault counts requests and clients"},
	} {
		if key == k.key || strings.HasSuffix(k.key, "/") && strings.HasPrefix(key, k.key) {
			return k.why
		}
	}
	if kind != Extra {
		return ""
	}
	first, _, _ := strings.Cut(key, "/")
	switch {
	case strings.HasPrefix(key, "core/versions/"):
		return "a version of Vault notes that it has run"
	case key == "core/wrapping/jwtkey":
		return "Vault makes the key of response wrapping where there is none"
	case strings.HasSuffix(key, "/salt") && (first == "auth" || first == "audit" || first == "logical") && strings.Count(key, "/") == 2:
		return "a mount makes its salt when it is first used"
	}
	return ""
}
