package raft

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"

	"github.com/dyn2raft/dyn2raft/copier"
	"github.com/dyn2raft/dyn2raft/sources/raft/vaultdb"
)

// This file alone may import what reads a vault.db: nothing else here shares code with it.

// Facts are what is told of Raft, under the name FactsName, in the [copier.Info] of what
// is read back.
type Facts struct {
	// Index and Term are where the FSM stands.
	Index uint64 `json:"index"`
	Term  uint64 `json:"term"`
	// NodeID and Address are those of the only server. NodeIDFile is set where a Vault
	// has the id from the file node-id.
	NodeID     string `json:"node_id"`
	Address    string `json:"cluster_addr"`
	NodeIDFile bool   `json:"node_id_file"`
	// LogStore is "raft.db" or "wal".
	LogStore string `json:"log_store"`
	// Device is set where vault.db was read from the device, see Options.Device.
	Device bool `json:"device"`
}

// Facts are those of what the sink writes, once Open has returned.
func (s *Sink) Facts() Facts {
	return Facts{Index: FSMIndex, Term: FSMTerm, NodeID: s.NodeID(), Address: s.opts.Address, NodeIDFile: s.opts.NodeID == "",
		LogStore: s.logStore(), Device: s.opts.Device}
}

// Facts have this name and version.
const (
	FactsName    = "raft"
	FactsVersion = 1
)

// A reader reads back what a stage has written: the entries of vault.db, and where Raft
// stands.
type reader struct {
	vaultdb.Source
	path  string // of the directory
	facts Facts
	used  error // a Vault has run on it
}

var (
	_ copier.Source    = (*reader)(nil)
	_ copier.Rechecker = (*reader)(nil)
)

// Reader implements [copier.Stage]. Where what is there is damaged, or Raft does not
// stand where it was put, an error wraps [copier.ErrReadBack], and beside the latter
// [vaultdb.ErrRaft]. That a Vault has run on it, [copier.ErrChanged], is said by Recheck,
// once all is read.
func (s *stage) Reader(context.Context) (copier.Source, error) {
	r := &reader{path: s.dir(), facts: s.Facts()}
	r.Path, r.Kind = s.dir(vaultDBName), copier.ErrDestination
	return r, nil
}

// Open implements [copier.Source].
func (r *reader) Open(ctx context.Context) (info copier.Info, err error) {
	if r.facts.Device {
		if err := cacheError(dropCache(r.Path)); err != nil {
			return info, err
		}
	}
	if info, err = r.Source.Open(ctx); err != nil {
		return info, damage(err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, r.Close())
		}
	}()
	state, err := r.State()
	if err != nil {
		return info, damage(err)
	}
	f := r.facts
	err = vaultdb.Raft{Index: f.Index, Term: f.Term, NodeID: f.NodeID, Address: f.Address, LogStore: f.LogStore}.CheckNew(ctx, r.path, state)
	if errors.Is(err, copier.ErrChanged) {
		r.used, err = err, nil
	}
	if err != nil {
		return info, err
	}
	data, err := json.Marshal(f)
	info.Facts = copier.Facts{FactsName: {Version: FactsVersion, Data: data}}
	return info, err
}

// Split implements [copier.Source].
func (r *reader) Split(ctx context.Context, n int) ([]copier.Span, error) {
	spans, err := r.Source.Split(ctx, n)
	return spans, damage(err)
}

// Read implements [copier.Source].
func (r *reader) Read(ctx context.Context, span copier.Span, b *copier.Batch) (copier.Page, error) {
	page, err := r.Source.Read(ctx, span, b)
	return page, damage(err)
}

// Recheck implements [copier.Rechecker].
func (r *reader) Recheck(ctx context.Context) error {
	return cmp.Or(damage(r.Source.Recheck(ctx)), r.used)
}

// damage says of an error that what was written is not there.
func damage(err error) error {
	if errors.Is(err, vaultdb.ErrDamaged) {
		return &copier.Error{Kind: copier.ErrReadBack, Err: err}
	}
	return err
}

// cacheError is that of a file that can't be read from the device.
func cacheError(err error) error {
	if err == nil {
		return nil
	}
	return &copier.Error{Kind: copier.ErrDestination, Op: "read " + vaultDBName + " from the device", Code: NoDeviceRead, Err: err}
}
