package verify

import (
	"context"
	"maps"
	"path/filepath"
	"slices"
	"time"

	"github.com/dyn2raft/dyn2raft/copier"
	"github.com/dyn2raft/dyn2raft/sources/raft/vaultdb"
)

// Expected is what a data directory must hold according to the copy that made
// it.
type Expected struct {
	Digests copier.Digests `json:"digests"`
	vaultdb.Raft
	// Unconfirmed is set of a copy that its source has not confirmed, see [copier.CommitState].
	Unconfirmed bool `json:"unconfirmed,omitempty"`
	// NotReleased is set of one whose source was not given back, see [copier.CommitState].
	NotReleased bool `json:"not_released,omitempty"`
}

// Expect returns what the directory of a copy must hold.
func Expect(r *copier.Record) Expected {
	n := NodeOf(r)
	return Expected{Digests: r.Prefixes, Raft: vaultdb.Raft{Index: n.Index, Term: n.Term, NodeID: n.ID, Address: n.Address, NodeIDFile: n.NodeIDFile, LogStore: n.LogStore},
		Unconfirmed: r.State == copier.Unconfirmed, NotReleased: r.State == copier.Confirmed}
}

// A PrefixCheck compares the entries under one first segment of the keys, such
// as "sys/", or "" for keys without a slash.
type PrefixCheck struct {
	Prefix   string        `json:"prefix"`
	Expected copier.Digest `json:"expected"`
	Found    copier.Digest `json:"found"`
	Equal    bool          `json:"equal"`
}

// A ManifestReport compares a data directory with what it must hold.
type ManifestReport struct {
	Destination string        `json:"destination"`
	Start       time.Time     `json:"start"`
	Duration    time.Duration `json:"duration_ns"`

	// Unconfirmed is set where the source has not confirmed the copy: entries may
	// be missing in the directory and in the manifest alike.
	Unconfirmed bool `json:"unconfirmed"`
	// NotReleased is set where the source was not given back: somebody may have
	// written to it since, in place of the copy's process.
	NotReleased bool `json:"not_released"`

	Prefixes []PrefixCheck `json:"prefixes"`
	Expected copier.Digest `json:"expected"`
	Found    copier.Digest `json:"found"`

	Raft      vaultdb.State  `json:"raft"`
	Log       vaultdb.Log    `json:"log"`
	RaftDiffs []vaultdb.Diff `json:"raft_diffs"`
	// Started is set when a Vault has run on the directory since the copy: its FSM
	// is further. A Vault writes as soon as it starts, so differences can't be judged
	// then.
	Started bool          `json:"started"`
	Pages   vaultdb.Stats `json:"pages"`
	// NotVault is that of [DirectoryReport].
	NotVault []string `json:"not_vault,omitempty"`
	// Complete is set when the directory was read to its end, and is sound.
	Complete bool `json:"complete"`
}

// Equal reports whether the directory holds the entries that it must hold, and
// Raft stands where it must. It is false as long as that is not known, and of a
// copy that is not confirmed, or whose source is not given back.
func (r *ManifestReport) Equal() bool {
	return !r.Unconfirmed && !r.NotReleased && r.Complete && len(r.RaftDiffs) == 0 && !slices.ContainsFunc(r.Prefixes, func(p PrefixCheck) bool { return !p.Equal })
}

// OnlyNode reports whether nothing differs but the node's id or address. No Vault has
// run on the directory, or none that ever unsealed.
func (r *ManifestReport) OnlyNode() bool {
	same := *r
	same.RaftDiffs = slices.DeleteFunc(slices.Clone(r.RaftDiffs), func(d vaultdb.Diff) bool {
		return d.Name == vaultdb.DiffNodeID || d.Name == vaultdb.DiffAddress || d.Name == vaultdb.DiffNodeIDFile
	})
	return !r.Started && !r.Equal() && same.Equal()
}

// CheckManifest compares the data directory at path with what it must hold,
// without the source that it was copied from. That it differs is no error: it
// is in the report, which is valid, as far as the check came, also beside an
// error. Errors are those of [Digests]. The directory is only read, and no
// Vault can start on it meanwhile.
func CheckManifest(ctx context.Context, want Expected, path string) (*ManifestReport, error) {
	rep := &ManifestReport{Destination: path, Start: time.Now(), Unconfirmed: want.Unconfirmed, NotReleased: want.NotReleased, Prefixes: []PrefixCheck{}, RaftDiffs: []vaultdb.Diff{}}
	defer func() { rep.Duration = time.Since(rep.Start) }()
	found, err := Digests(ctx, path)
	rep.Raft, rep.Pages, rep.NotVault = found.Raft, found.Pages, found.NotVault
	if err != nil {
		return rep, err
	}
	if rep.Log, err = vaultdb.ReadLog(ctx, filepath.Join(path, "raft")); err != nil {
		return rep, err
	}
	rep.Started = want.Started(found.Raft, rep.Log)
	names := maps.Clone(found.Digests)
	maps.Copy(names, want.Digests)
	for _, prefix := range slices.Sorted(maps.Keys(names)) {
		p := PrefixCheck{Prefix: copier.PrintablePrefix(prefix), Expected: want.Digests[prefix], Found: found.Digests[prefix]}
		p.Equal = p.Expected == p.Found
		rep.Prefixes = append(rep.Prefixes, p)
	}
	rep.Expected, rep.Found = want.Digests.Total(), found.Digests.Total()
	if rep.RaftDiffs, err = want.Compare(path, found.Raft, rep.Log); err != nil {
		return rep, err
	}
	rep.Complete = true
	return rep, nil
}
