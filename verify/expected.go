package verify

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/dyn2raft/dyn2raft/copier"
	"github.com/dyn2raft/dyn2raft/verify/vaultdb"
)

// Expected is what a data directory must hold according to the copy that made
// it.
type Expected struct {
	Digests copier.Digests `json:"digests"`
	Index   uint64         `json:"index"`
	Term    uint64         `json:"term"`
	// NodeID and Address are those of the only member of the Raft cluster.
	NodeID  string `json:"node_id"`
	Address string `json:"cluster_addr"`
}

// Expected returns what the directory of the manifest's copy must hold.
func (m *Manifest) Expected() Expected {
	d := m.Destination
	return Expected{Digests: m.Prefixes, Index: d.Index, Term: d.Term, NodeID: d.NodeID, Address: d.Address}
}

// A PrefixCheck compares the entries under one first segment of the keys, such
// as "sys/", or "" for keys without a slash.
type PrefixCheck struct {
	Prefix   string        `json:"prefix"`
	Expected copier.Digest `json:"expected"`
	Found    copier.Digest `json:"found"`
	Equal    bool          `json:"equal"`
}

// A RaftDiff is something about Raft that is not as expected.
type RaftDiff struct {
	Name     string `json:"name"`
	Expected string `json:"expected"`
	Found    string `json:"found"`
}

// A ManifestReport compares a data directory with what it must hold.
type ManifestReport struct {
	Destination string        `json:"destination"`
	Start       time.Time     `json:"start"`
	Duration    time.Duration `json:"duration_ns"`

	Prefixes []PrefixCheck `json:"prefixes"`
	Expected copier.Digest `json:"expected"`
	Found    copier.Digest `json:"found"`

	Raft      vaultdb.State `json:"raft"`
	RaftDiffs []RaftDiff    `json:"raft_diffs"`
	// Started is set when a Vault has run on the directory since the copy: its
	// FSM has gone on. It writes as soon as it starts, so that what differs can
	// then not be judged.
	Started bool          `json:"started"`
	Pages   vaultdb.Stats `json:"pages"`
	// Complete is set when the directory was read to its end, and is sound.
	Complete bool `json:"complete"`
}

// Equal tells whether the directory holds the entries that it must hold, and
// Raft stands where it must. It is false as long as that is not known.
func (r *ManifestReport) Equal() bool {
	return r.Complete && len(r.RaftDiffs) == 0 && !slices.ContainsFunc(r.Prefixes, func(p PrefixCheck) bool { return !p.Equal })
}

// CheckManifest compares the data directory at path with what it must hold,
// without the source that it was copied from. That it differs is no error: it
// is in the report, which is valid, as far as the check came, also beside an
// error. Errors are those of [Digests]. The directory is only read, and no
// Vault can start on it meanwhile.
func CheckManifest(ctx context.Context, want Expected, path string) (*ManifestReport, error) {
	rep := &ManifestReport{Destination: path, Start: time.Now(), Prefixes: []PrefixCheck{}, RaftDiffs: []RaftDiff{}}
	defer func() { rep.Duration = time.Since(rep.Start) }()
	found, err := Digests(ctx, path)
	rep.Raft, rep.Pages = found.Raft, found.Pages
	rep.Started = found.Raft.Index > want.Index
	if err != nil {
		return rep, err
	}
	names := maps.Clone(found.Digests)
	maps.Copy(names, want.Digests)
	for _, prefix := range slices.Sorted(maps.Keys(names)) {
		p := PrefixCheck{Prefix: prefix, Expected: want.Digests[prefix], Found: found.Digests[prefix]}
		p.Equal = p.Expected == p.Found
		rep.Prefixes = append(rep.Prefixes, p)
	}
	rep.Expected, rep.Found = want.Digests.Total(), found.Digests.Total()
	rep.RaftDiffs = want.compare(found.Raft)
	rep.Complete = true
	return rep, nil
}

// compare names what is not as expected.
func (want Expected) compare(found vaultdb.State) []RaftDiff {
	out := []RaftDiff{}
	add := func(name string, want, found any) {
		if want != found {
			out = append(out, RaftDiff{name, fmt.Sprint(want), fmt.Sprint(found)})
		}
	}
	add("index", want.Index, found.Index)
	add("term", want.Term, found.Term)
	add("servers", 1, len(found.Servers))
	for i, s := range found.Servers {
		if i > 0 {
			break
		}
		add("node_id", want.NodeID, s.ID)
		add("cluster_addr", want.Address, s.Address)
		add("suffrage", "voter", s.Suffrage)
	}
	return out
}
