package verify

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/dyn2raft/dyn2raft/copier"
	"github.com/dyn2raft/dyn2raft/sources/raft/vaultdb"
)

// Expected is what a data directory must hold according to the copy that made
// it.
type Expected struct {
	Digests copier.Digests `json:"digests"`
	// Index and Term are those of the FSM, and Index is that of the
	// configuration too. The log has nothing at or before it.
	Index uint64 `json:"index"`
	Term  uint64 `json:"term"`
	// NodeID and Address are those of the only member of the Raft cluster. One
	// that is empty is not compared.
	NodeID  string `json:"node_id"`
	Address string `json:"cluster_addr"`
	// NodeIDFile is set where a Vault has the node's id from the file node-id. One
	// that is there and has another id is a difference in any case: a Vault whose
	// configuration has no node_id takes it, and never unseals.
	NodeIDFile bool `json:"node_id_file,omitempty"`
	// LogStore is "raft.db" or "wal"; where it is empty either will do.
	LogStore string `json:"log_store,omitempty"`
	// Unconfirmed is set of a copy that its source has not confirmed, see Manifest.
	Unconfirmed bool `json:"unconfirmed,omitempty"`
	// NotReleased is set of one whose source was not given back, see Manifest.
	NotReleased bool `json:"not_released,omitempty"`
}

// Expected returns what the directory of the manifest's copy must hold.
func (m *Manifest) Expected() Expected {
	d := m.Destination
	return Expected{Digests: m.Prefixes, Index: d.Index, Term: d.Term, NodeID: d.NodeID, Address: d.Address, NodeIDFile: d.NodeIDFile, LogStore: d.LogStore,
		Unconfirmed: m.State == copier.Unconfirmed, NotReleased: m.NotReleased}
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

	// Unconfirmed is set where the source has not confirmed the copy: entries may
	// be missing in the directory and in the manifest alike.
	Unconfirmed bool `json:"unconfirmed"`
	// NotReleased is set where the source was not given back: somebody may have
	// written to it since, in place of the copy's process.
	NotReleased bool `json:"not_released"`

	Prefixes []PrefixCheck `json:"prefixes"`
	Expected copier.Digest `json:"expected"`
	Found    copier.Digest `json:"found"`

	Raft      vaultdb.State `json:"raft"`
	Log       Log           `json:"log"`
	RaftDiffs []RaftDiff    `json:"raft_diffs"`
	// Started is set when a Vault has run on the directory since the copy: its
	// FSM has gone on. It writes as soon as it starts, so that what differs can
	// then not be judged.
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
	same.RaftDiffs = slices.DeleteFunc(slices.Clone(r.RaftDiffs), func(d RaftDiff) bool {
		return d.Name == diffNodeID || d.Name == diffAddress || d.Name == diffNodeIDFile
	})
	return !r.Started && !r.Equal() && same.Equal()
}

// Names of what may differ about the node.
const (
	diffNodeID     = "node_id"
	diffAddress    = "cluster_addr"
	diffNodeIDFile = "file node-id"
)

// CheckManifest compares the data directory at path with what it must hold,
// without the source that it was copied from. That it differs is no error: it
// is in the report, which is valid, as far as the check came, also beside an
// error. Errors are those of [Digests]. The directory is only read, and no
// Vault can start on it meanwhile.
func CheckManifest(ctx context.Context, want Expected, path string) (*ManifestReport, error) {
	rep := &ManifestReport{Destination: path, Start: time.Now(), Unconfirmed: want.Unconfirmed, NotReleased: want.NotReleased, Prefixes: []PrefixCheck{}, RaftDiffs: []RaftDiff{}}
	defer func() { rep.Duration = time.Since(rep.Start) }()
	found, err := Digests(ctx, path)
	rep.Raft, rep.Pages, rep.NotVault = found.Raft, found.Pages, found.NotVault
	if err != nil {
		return rep, err
	}
	if rep.Log, err = readLog(ctx, filepath.Join(path, "raft")); err != nil {
		return rep, err
	}
	rep.Started = want.started(found.Raft, rep.Log)
	names := maps.Clone(found.Digests)
	maps.Copy(names, want.Digests)
	for _, prefix := range slices.Sorted(maps.Keys(names)) {
		p := PrefixCheck{Prefix: printable(prefix), Expected: want.Digests[prefix], Found: found.Digests[prefix]}
		p.Equal = p.Expected == p.Found
		rep.Prefixes = append(rep.Prefixes, p)
	}
	rep.Expected, rep.Found = want.Digests.Total(), found.Digests.Total()
	if rep.RaftDiffs, err = want.compare(path, found.Raft, rep.Log); err != nil {
		return rep, err
	}
	rep.Complete = true
	return rep, nil
}

// ReadBack is [Digests] with a look at the rest of a directory that was just
// written, and tells what its vault.db holds, with the given number of its largest
// entries. Where Raft does not stand where want says, whose digests are left alone,
// or its log is not a new one, the error wraps [ErrRaft], where vault.db is damaged
// [vaultdb.ErrDamaged], and both [copier.ErrReadBack] and [copier.ErrDestination].
// Where a Vault has run on the directory it wraps [copier.ErrChanged].
func (want Expected) ReadBack(ctx context.Context, path string, largest int) (Reading, *Contents, error) {
	fail := func(r Reading, err error) (Reading, *Contents, error) {
		return r, nil, &copier.Error{Kind: copier.ErrDestination, Op: "read back " + path, Err: err}
	}
	r, contents, err := read(ctx, path, largest)
	if errors.Is(err, vaultdb.ErrDamaged) {
		err = &copier.Error{Kind: copier.ErrReadBack, Err: err}
	}
	if err != nil {
		return r, nil, err
	}
	dir := filepath.Join(path, "raft")
	log, err := readLog(ctx, dir)
	if err != nil {
		return r, nil, err
	}
	if log.damage(want.LogStore) == nil {
		if want.started(r.Raft, log) {
			return fail(r, fmt.Errorf("%w: it stands at index %d, the log at %d", copier.ErrChanged, r.Raft.Index, log.Last))
		}
		if err := log.judge(log.checkNew(ctx, dir)); err != nil {
			return r, nil, err
		}
	}
	diffs, err := want.compare(path, r.Raft, log)
	if err != nil {
		return r, nil, err
	}
	if log.Damage == "" && len(diffs) == 0 && log.CurrentTerm != want.Term {
		diffs = append(diffs, RaftDiff{"log term", fmt.Sprint(want.Term), fmt.Sprint(log.CurrentTerm)})
	}
	var what []string
	for _, d := range diffs {
		what = append(what, fmt.Sprintf("its %s is %q, and must be %q", d.Name, d.Found, d.Expected))
	}
	if what != nil {
		return fail(r, &copier.Error{Kind: copier.ErrReadBack, Err: fmt.Errorf("%w: %s", ErrRaft, strings.Join(what, "; "))})
	}
	return r, contents, nil
}

// ErrRaft is returned when what was written of Raft's state can't be used.
var ErrRaft = errors.New("raft is not as it was written")

// started reports whether Raft has gone on since the copy. A Vault that starts
// takes a new term, writes to the log, and then to vault.db: where nothing of it is
// to be seen in the log, a higher index is damage.
func (want Expected) started(found vaultdb.State, log Log) bool {
	wrote, elected := log.Last > 0, log.CurrentTerm > want.Term
	return found.Index > want.Index && (wrote || elected) || found.Index == want.Index && log.First > want.Index && elected
}

// CheckLog returns an error that wraps [copier.ErrChanged] where Raft's log in the
// data directory at path has gone on since the copy, were it by a vote only, and one
// that wraps [copier.ErrDestination] alone where it can't be read, is damaged or is
// not there. It takes no lock on vault.db, and changes nothing.
func (want Expected) CheckLog(ctx context.Context, path string) error {
	fail := func(err error) error {
		return &copier.Error{Kind: copier.ErrDestination, Op: "read Raft's log in " + path, Err: err}
	}
	log, err := readLog(ctx, filepath.Join(path, "raft"))
	if err != nil {
		return fail(err)
	}
	if d := log.damage(want.LogStore); d != nil {
		return fail(fmt.Errorf("%s is %s, and must be %s", d.Name, d.Found, d.Expected))
	}
	switch {
	case log.Last > 0:
		return fail(fmt.Errorf("%w: the log has entries %d to %d", copier.ErrChanged, log.First, log.Last))
	case log.CurrentTerm != want.Term:
		return fail(fmt.Errorf("%w: the log's term is %d, and was %d", copier.ErrChanged, log.CurrentTerm, want.Term))
	case log.VotedTerm != 0:
		return fail(fmt.Errorf("%w: it has voted in term %d", copier.ErrChanged, log.VotedTerm))
	}
	return nil
}

// compare names what is not as expected in the directory at path.
func (want Expected) compare(path string, found vaultdb.State, log Log) (out []RaftDiff, err error) {
	out = []RaftDiff{}
	add := func(name string, want, found any) {
		if want != found {
			out = append(out, RaftDiff{name, fmt.Sprint(want), fmt.Sprint(found)})
		}
	}
	add("index", want.Index, found.Index)
	add("term", want.Term, found.Term)
	add("config_index", want.Index, found.ConfigIndex)
	add("servers", 1, len(found.Servers))
	if len(found.Servers) > 0 {
		s := found.Servers[0]
		add(diffNodeID, cmp.Or(want.NodeID, s.ID), s.ID)
		add(diffAddress, cmp.Or(want.Address, s.Address), s.Address)
		add("suffrage", "voter", s.Suffrage)
		id, err := readSmall(filepath.Join(path, "node-id"))
		switch {
		case err != nil:
			return out, inspectError("read node-id", err)
		case id != nil:
			add(diffNodeIDFile, s.ID, string(id))
		case want.NodeIDFile:
			add(diffNodeIDFile, s.ID, "not there")
		}
	}
	if d := log.damage(want.LogStore); d != nil {
		return append(out, *d), nil
	}
	if log.Last > 0 && log.First <= want.Index {
		out = append(out, RaftDiff{"first log index", fmt.Sprintf("more than %d, or none", want.Index), fmt.Sprint(log.First)})
	}
	if log.CurrentTerm < want.Term {
		out = append(out, RaftDiff{"log term", fmt.Sprintf("%d or more", want.Term), fmt.Sprint(log.CurrentTerm)})
	}
	return out, nil
}

// damage is what is wrong with a log by itself, if there must be one in the
// given store, or in any.
func (l Log) damage(store string) *RaftDiff {
	switch {
	case l.Store == "" || store != "" && l.Store != store:
		return &RaftDiff{"log", cmp.Or(store, "raft.db or wal"), cmp.Or(l.Store, "not there")}
	case l.Damage != "":
		return &RaftDiff{"log", "sound", l.Damage}
	}
	return nil
}
