package vaultdb

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/dyn2raft/dyn2raft/copier"
)

// A Raft is where Raft must stand in a data directory.
type Raft struct {
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
}

// A Diff is something about Raft that is not as expected.
type Diff struct {
	Name     string `json:"name"`
	Expected string `json:"expected"`
	Found    string `json:"found"`
}

// Names of what may differ about the node.
const (
	DiffNodeID     = "node_id"
	DiffAddress    = "cluster_addr"
	DiffNodeIDFile = "file node-id"
)

// CheckNew checks the rest of a data directory that was just written and whose vault.db
// has the given state. Where Raft does not stand where want says, or its log is not a new
// one, the error wraps [ErrRaft], [copier.ErrReadBack] and [copier.ErrDestination]. Where a
// Vault has run on the directory it wraps [copier.ErrChanged] in place of the first two.
func (want Raft) CheckNew(ctx context.Context, path string, found State) error {
	fail := func(err error) error {
		return &copier.Error{Kind: copier.ErrDestination, Op: "read back " + path, Err: err}
	}
	dir := filepath.Join(path, "raft")
	log, err := ReadLog(ctx, dir)
	if err != nil {
		return err
	}
	if log.Wrong(want.LogStore) == nil {
		if want.Started(found, log) {
			return fail(fmt.Errorf("%w: it stands at index %d, the log at %d", copier.ErrChanged, found.Index, log.Last))
		}
		if err := log.judge(log.checkNew(ctx, dir)); err != nil {
			return err
		}
	}
	diffs, err := want.Compare(path, found, log)
	if err != nil {
		return err
	}
	if log.Damage == "" && len(diffs) == 0 && log.CurrentTerm != want.Term {
		diffs = append(diffs, Diff{"log term", fmt.Sprint(want.Term), fmt.Sprint(log.CurrentTerm)})
	}
	var what []string
	for _, d := range diffs {
		what = append(what, fmt.Sprintf("its %s is %q, and must be %q", d.Name, d.Found, d.Expected))
	}
	if what == nil {
		return nil
	}
	return fail(&copier.Error{Kind: copier.ErrReadBack, Err: fmt.Errorf("%w: %s", ErrRaft, strings.Join(what, "; "))})
}

// ErrRaft is returned when what was written of Raft's state can't be used.
var ErrRaft = errors.New("raft is not as it was written")

// Started reports whether Raft has made progress since the copy. A Vault that starts
// takes a new term, writes to the log, and then to vault.db. So a higher index without
// a trace in the log is damage.
func (want Raft) Started(found State, log Log) bool {
	wrote, elected := log.Last > 0, log.CurrentTerm > want.Term
	return found.Index > want.Index && (wrote || elected) || found.Index == want.Index && log.First > want.Index && elected
}

// CheckLog checks that Raft's log in the data directory at path is as the copy left it.
// Where the log has changed since, by as little as a vote, the error wraps
// [copier.ErrChanged]. Where it can't be read, is damaged or is missing, the error
// wraps [copier.ErrDestination] alone. CheckLog takes no lock on vault.db, and changes
// nothing.
func (want Raft) CheckLog(ctx context.Context, path string) error {
	fail := func(err error) error {
		return &copier.Error{Kind: copier.ErrDestination, Op: "read Raft's log in " + path, Err: err}
	}
	log, err := ReadLog(ctx, filepath.Join(path, "raft"))
	if err != nil {
		return fail(err)
	}
	if d := log.Wrong(want.LogStore); d != nil {
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

// Compare names what is not as expected in the directory at path.
func (want Raft) Compare(path string, found State, log Log) (out []Diff, err error) {
	out = []Diff{}
	add := func(name string, want, found any) {
		if want != found {
			out = append(out, Diff{name, fmt.Sprint(want), fmt.Sprint(found)})
		}
	}
	add("index", want.Index, found.Index)
	add("term", want.Term, found.Term)
	add("config_index", want.Index, found.ConfigIndex)
	add("servers", 1, len(found.Servers))
	if len(found.Servers) > 0 {
		s := found.Servers[0]
		add(DiffNodeID, cmp.Or(want.NodeID, s.ID), s.ID)
		add(DiffAddress, cmp.Or(want.Address, s.Address), s.Address)
		add("suffrage", "voter", s.Suffrage)
		id, err := ReadNodeID(path)
		switch {
		case err != nil:
			return out, readError("read node-id", err)
		case id != nil:
			add(DiffNodeIDFile, s.ID, string(id))
		case want.NodeIDFile:
			add(DiffNodeIDFile, s.ID, "not there")
		}
	}
	if d := log.Wrong(want.LogStore); d != nil {
		return append(out, *d), nil
	}
	if log.Last > 0 && log.First <= want.Index {
		out = append(out, Diff{"first log index", fmt.Sprintf("more than %d, or none", want.Index), fmt.Sprint(log.First)})
	}
	if log.CurrentTerm < want.Term {
		out = append(out, Diff{"log term", fmt.Sprintf("%d or more", want.Term), fmt.Sprint(log.CurrentTerm)})
	}
	return out, nil
}

// Wrong is what is wrong with a log by itself, if there must be one in the
// given store, or in any.
func (l Log) Wrong(store string) *Diff {
	switch {
	case l.Store == "" || store != "" && l.Store != store:
		return &Diff{"log", cmp.Or(store, "raft.db or wal"), cmp.Or(l.Store, "not there")}
	case l.Damage != "":
		return &Diff{"log", "sound", l.Damage}
	}
	return nil
}

// ReadNodeID returns the file node-id of a data directory, as far as an id can be long,
// and nothing where there is none.
func ReadNodeID(path string) ([]byte, error) { return readSmall(filepath.Join(path, "node-id")) }

func readError(op string, err error) error {
	return &copier.Error{Kind: copier.ErrDestination, Op: op, Err: err}
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
