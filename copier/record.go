package copier

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/dyn2raft/dyn2raft/copier/durable"
)

// RecordFormat is the version of the form that a [Record] has on disk. Fields may be
// added without a new one; none is removed or given another meaning.
const RecordFormat = 7

// A Record is the whole story of a copy: what was to be copied, what came of it, how
// that was proved, and what became of it since. The engine keeps it, sealed, beside
// an unfinished copy, with a result that is in place, and where [Options.Record] puts
// it. It holds no value of an entry and no credential. docs/manifest.md describes
// its fields.
type Record struct {
	// Tool is Options.Tool, of the last process.
	Tool Tool `json:"tool,omitzero"`
	// RunID is the copy's id, in the source's locks too.
	RunID string `json:"run_id"`
	// State is the state of the result where it is in place, or about to be. It is
	// empty of a copy that is not.
	State CommitState `json:"state,omitempty"`
	// Start is when the copy was begun for the first time, End when its result was
	// found to be confirmed, and Resumed how often it was resumed.
	Start   time.Time `json:"start"`
	End     time.Time `json:"end,omitzero"`
	Resumed int       `json:"resumed"`

	// Source is the source as the copy found it, and Destination what the sink says
	// of itself.
	Source      Info     `json:"source"`
	Destination Identity `json:"destination"`
	// WorkDir is where the runs of an unfinished copy are, Segments their number, 0 as
	// long as it is not known, and Held is set from when the source was locked.
	WorkDir  string `json:"work_dir,omitempty"`
	Segments int    `json:"segments,omitempty"`
	Held     bool   `json:"held,omitempty"`
	// Digest is set when digests are computed, of all runs or of none.
	Digest bool `json:"digest,omitempty"`

	// Live is set of a copy that follows its source: it holds no lock before its end.
	Live *LiveRecord `json:"live,omitempty"`

	// Settings is Options.Settings.
	Settings map[string]string `json:"settings,omitempty"`
	// Backup is what the source's [Snapshotter] called the backup that was made first.
	Backup string `json:"backup,omitempty"`
	// Warnings are what Options.Check has found, and the copy itself.
	Warnings []Warning `json:"warnings,omitempty"`

	Scan ScanStats `json:"scan"`
	Load LoadStats `json:"load"`
	// Prefixes are the digests of the entries that were read, and Total their sum.
	// Both are known once all is read; until then Prefixes is nil.
	Total    Digest  `json:"total"`
	Prefixes Digests `json:"prefixes"`
	// Proof says how the result was found to have these digests; nil where it was not.
	Proof *Proof `json:"proof,omitempty"`

	// Processes are those of the copy, the last ones at least, the oldest first. The
	// last is the one that has written the record.
	Processes []Process `json:"processes,omitempty"`
	// Amendments are what was done with the copy since, the oldest first.
	Amendments []Amendment `json:"amendments,omitempty"`

	// What follows is of the call of Copy that has returned the record, and not kept.

	// Complete is set when the result is in place and confirmed, and its source given
	// back.
	Complete bool `json:"-"`
	// Resumable is set when the copy failed, and can be resumed.
	Resumable bool `json:"-"`
	// Overwritten is set when the copy failed and has begun to overwrite what the
	// destination held before: see [Overwriter].
	Overwritten bool `json:"-"`
	// InPlace is set when the result was in place before: a process was killed then,
	// and what it had left to do is done, or was to be.
	InPlace bool `json:"-"`
}

// A Tool is a program.
type Tool struct {
	Name    string `json:"name"`
	Version string `json:"version"`
	Go      string `json:"go"`
	OS      string `json:"os"`
	Arch    string `json:"arch"`
}

// A Proof is a result that was read back and found to be what was read.
type Proof struct {
	At time.Time `json:"at"`
	// Contents is what the result holds.
	Contents *Contents `json:"contents"`
	// Facts are what only the sink knows of the result: see [Stage].
	Facts Facts `json:"facts,omitempty"`
}

// An Amendment is something that was done with a copy after the record was first
// written.
type Amendment struct {
	At   time.Time `json:"at"`
	Tool Tool      `json:"tool,omitzero"`
	// Kind is one of those below, or that of another program.
	Kind  string `json:"kind"`
	Facts Facts  `json:"facts,omitempty"`
}

// Kinds of amendments.
const (
	// AmendGivenUp: the source of an unfinished copy was freed.
	AmendGivenUp = "given up"
	// AmendFreed: the source of a complete copy, which was left locked, was freed.
	AmendFreed = "freed"
	// AmendReleased: the source of a confirmed copy was given back.
	AmendReleased = "released"
	// AmendProved: a later process has read the result back once more.
	AmendProved = "proved"
	// AmendCleanedUp: the work files are removed.
	AmendCleanedUp = "cleaned up"
)

// Amend adds an amendment.
func (r *Record) Amend(tool Tool, kind string, facts Facts) {
	r.Amendments = append(r.Amendments, Amendment{At: time.Now().UTC(), Tool: tool, Kind: kind, Facts: facts})
}

// Amended returns the last amendment of a kind, and nil where there is none.
func (r *Record) Amended(kind string) *Amendment {
	for i := range slices.Backward(r.Amendments) {
		if r.Amendments[i].Kind == kind {
			return &r.Amendments[i]
		}
	}
	return nil
}

// NotVault reports whether the copy was made although no initialized Vault has
// used its source.
func (r *Record) NotVault() bool {
	return slices.ContainsFunc(r.Warnings, func(w Warning) bool { return w.Check == "initialized" && w.Ignored })
}

// Contents is what the result was found to hold; nil where that is not known.
func (r *Record) Contents() *Contents {
	if r.Proof == nil {
		return nil
	}
	return r.Proof.Contents
}

// Process is the last process; an empty one where none is known.
func (r *Record) Process() Process {
	if len(r.Processes) == 0 {
		return Process{Start: r.Start, End: r.End}
	}
	return r.Processes[len(r.Processes)-1]
}

// Took is the time from a copy's begin to its end: of all its processes, and in
// between. It is never negative: a clock that was set back between two processes
// makes that time nothing.
func (r *Record) Took() (took time.Duration) {
	last := r.Start
	for _, p := range append(slices.Clone(r.Processes[:max(len(r.Processes)-1, 0)]), Process{Start: r.Process().Start, End: r.End}) {
		took += max(p.Start.Sub(last), 0) + max(p.End.Sub(p.Start), 0)
		last = p.End
	}
	return took
}

// Encode seals the record, in a form that people can read.
func (r *Record) Encode() ([]byte, error) { return durable.SealIndented(kindCopy, RecordFormat, r) }

// DecodeRecord reads a sealed record. An error is one of [durable.Unseal], or says
// what does not add up.
func DecodeRecord(data []byte) (*Record, error) {
	r := new(Record)
	if err := durable.Unseal(data, kindCopy, RecordFormat, r); err != nil {
		return nil, err
	}
	if r.RunID == "" {
		return nil, errors.New("it names no run")
	}
	return r, r.Check()
}

// ErrUnknownState is returned for a record that another version has written: nothing is
// known of what its result is good for.
var ErrUnknownState = errors.New("its state is one that this version does not know")

// Check returns what does not add up in a record that was read, or wraps
// [ErrUnknownState].
func (r *Record) Check() error {
	switch {
	case r.RunID != "" && !setupID.MatchString(r.RunID):
		return fmt.Errorf("it is of a run %q, and no run has such an id", r.RunID) // which is a part of paths
	case !slices.Contains([]CommitState{"", Unconfirmed, Confirmed, Released}, r.State):
		return fmt.Errorf("%w: %q", ErrUnknownState, r.State)
	case r.Prefixes.Total() != r.Total:
		return errors.New("its prefixes do not add up to its total")
	}
	return nil
}

// PeekRun returns the id of the run that a sealed record names, even of a record that
// is damaged or of another format. The id is empty where the record names none. ok
// reports whether it is the record of a copy at all.
func PeekRun(data []byte) (runID string, ok bool) {
	var r struct {
		RunID string `json:"run_id"`
	}
	kind, _, record, err := durable.Peek(data)
	if err != nil || kind != kindCopy {
		return "", false
	}
	if err := json.Unmarshal(record, &r); err != nil || !setupID.MatchString(r.RunID) {
		return "", true
	}
	return r.RunID, true
}
