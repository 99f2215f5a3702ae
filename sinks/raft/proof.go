package raft

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"reflect"

	"go.etcd.io/bbolt"

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
	path   string // of the directory
	facts  Facts
	used   error        // a Vault has run on it
	forget func() error // makes this process's map of the file let go of it; may be nil
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
	if s.db != nil { // which holds the lock
		r.Held, r.forget = true, func() error { return unmap(s.db) }
	}
	return r, nil
}

// Open implements [copier.Source].
func (r *reader) Open(ctx context.Context) (info copier.Info, err error) {
	if r.facts.Device {
		if r.forget != nil {
			err = r.forget()
		}
		if err := cacheError(cmp.Or(err, dropCache(r.Path))); err != nil {
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

// A pin is a state of the staged vault.db whose pages stay as they are.
type pin struct {
	tx   *bbolt.Tx // keeps them, as long as bbolt has the file open
	file *vaultdb.File
}

// release ends the transaction.
func (p *pin) release() {
	if p.tx != nil {
		_ = p.tx.Rollback() // fails where it is ended
		p.tx = nil
	}
}

// Pin implements [copier.Applier].
//
// bbolt keeps the pages of a read transaction, and waits for all of them when it must map
// the file anew. So as long as there is a pin, bbolt has a limit beneath the size of its
// map: a transaction that would need more is ended, and Apply repeats it without the pin.
// Where little is left of the map, it is made anew here.
func (s *stage) Pin(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	s.unpin()
	if err := s.openDB(ctx); err != nil {
		return err
	}
	if s.size()+s.ahead/2 > s.mapped {
		if err := s.closeDB(); err != nil {
			return err
		}
		if err := s.openDB(ctx); err != nil {
			return err
		}
	}
	tx, err := s.db.Begin(false)
	if err != nil {
		return s.fail("read "+s.aside(vaultDBName), err)
	}
	p := &pin{tx: tx}
	if p.file, err = vaultdb.OpenHeld(s.aside(vaultDBName)); err == nil && p.file.TxID() != uint64(tx.ID()) {
		err = damage(&copier.Error{Kind: copier.ErrDestination, Op: "read " + s.aside(vaultDBName), Code: vaultdb.Damaged,
			Err: fmt.Errorf("%w: its newest transaction is %d, and must be %d", vaultdb.ErrDamaged, p.file.TxID(), tx.ID())})
	}
	if err != nil {
		p.release()
		return damage(err)
	}
	s.pin, s.db.MaxSize = p, int(s.mapped)
	return nil
}

// size is how many bytes of vault.db are used.
func (s *stage) size() (n int64) {
	_ = s.db.View(func(tx *bbolt.Tx) error { n = tx.Size(); return nil }) // fails where it is closed
	return n
}

// unpin lets go of what is pinned.
func (s *stage) unpin() {
	if s.pin == nil {
		return
	}
	s.pin.release()
	_ = s.pin.file.Close() // it was only read
	if s.pin = nil; s.db != nil {
		s.db.MaxSize = 0
	}
}

// Pinned implements [copier.Applier].
func (s *stage) Pinned() bool { return s.pin != nil }

// Delta implements [copier.Applier], by [vaultdb.Delta]. That Raft stands where it stood,
// and that no bucket is left that is not Vault's, is compared too. It reads what the
// system has in memory, also with Options.Device.
func (s *stage) Delta(ctx context.Context, gone, there func(copier.Entry) error) (err error) {
	path := s.aside(vaultDBName)
	if s.pin == nil {
		return s.fail("compare "+path, errors.New("nothing is pinned"))
	}
	is, err := vaultdb.OpenHeld(path)
	if err != nil {
		return damage(err)
	}
	defer func() { err = errors.Join(err, is.Close()) }()
	if err := vaultdb.Delta(ctx, s.pin.file, is, gone, there); err != nil {
		return damage(err)
	}
	before, err := s.pin.file.State()
	if err != nil {
		return damage(err)
	}
	now, err := is.State()
	if err != nil {
		return damage(err)
	}
	if !reflect.DeepEqual(before, now) {
		return &copier.Error{Kind: copier.ErrDestination, Op: "read back " + path, Err: &copier.Error{Kind: copier.ErrReadBack,
			Err: fmt.Errorf("%w: its state has changed from %+v to %+v", vaultdb.ErrRaft, before, now)}}
	}
	if _, err := is.Bucket(ctx, markBucket).Next(); s.finished && !errors.Is(err, vaultdb.ErrNoBucket) {
		return damage(&copier.Error{Kind: copier.ErrDestination, Op: "read " + path, Code: vaultdb.Damaged,
			Err: fmt.Errorf("%w: its bucket %s is still there", vaultdb.ErrDamaged, markBucket)})
	}
	return nil
}

// readMarked reads what a staged vault.db says of itself. It returns nil where there is
// none, or it is damaged, and no mark where it has none.
func readMarked(path string) (m *marked, err error) {
	file, err := vaultdb.OpenBolt(path)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, vaultdb.ErrDamaged) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	m = &marked{TxID: file.TxID()}
	state, err := file.State()
	if err == nil && len(state.Servers) > 0 {
		m.nodeID, m.address = state.Servers[0].ID, state.Servers[0].Address
	}
	for e := file.Bucket(context.Background(), markBucket); err == nil; {
		var entry copier.Entry
		switch entry, err = e.Next(); {
		case err != nil:
		case string(entry.Key) == markKey:
			m.Mark = bytes.Clone(entry.Value)
		case string(entry.Key) == runKey:
			m.Run = string(entry.Value)
		}
	}
	switch {
	case errors.Is(err, vaultdb.ErrDamaged):
		return nil, nil
	case errors.Is(err, io.EOF) || errors.Is(err, vaultdb.ErrNoBucket):
		return m, nil
	}
	return nil, err
}

// readThrough reads all entries of a vault.db. One of its two meta pages may be torn.
func readThrough(ctx context.Context, path string) (err error) {
	file, err := vaultdb.Open(path)
	if err != nil {
		return damage(err)
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	for e := file.Entries(ctx); err == nil; {
		_, err = e.Next()
	}
	if errors.Is(err, io.EOF) {
		err = nil
	}
	return damage(err)
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
