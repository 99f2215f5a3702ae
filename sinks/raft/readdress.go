package raft

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"go.etcd.io/bbolt"
	bbolterrors "go.etcd.io/bbolt/errors"
	"golang.org/x/sys/unix"

	"github.com/dyn2raft/dyn2raft/copier"
	"github.com/dyn2raft/dyn2raft/copier/durable"
)

// ReaddressOptions say how [Readdress] changes a data directory.
type ReaddressOptions struct {
	// Path is the data directory of a complete copy.
	Path string
	// NodeID and Address are the node's new Raft id and the new host:port of its
	// cluster_addr. Both are needed.
	NodeID, Address string
	// AnyNodeID takes a NodeID too that [CheckNodeID] refuses, as Options.AnyNodeID does.
	AnyNodeID bool
	// NodeIDFile makes the file node-id where there is none. One that is there gets
	// the id in any case, since a Vault without a node_id takes it.
	NodeIDFile bool
	// CheckLog returns an error unless Raft's log in the directory is as the copy left
	// it. It is called while no Vault can start on the directory. It is needed.
	CheckLog func(ctx context.Context, path string) error
	// Disk does all writing, but for bbolt's own transaction; nil is the
	// real one.
	Disk *durable.Disk
}

// A Peer is a server of a Raft configuration.
type Peer struct {
	ID      string `json:"id"`
	Address string `json:"address"`
	// Suffrage is 0 for a voter.
	Suffrage uint64 `json:"suffrage,omitempty"`
}

// Readdress gives the only node of a complete copy another Raft id and address, as
// long as Raft has made no progress since the copy, and returns which it had. What is
// so already is not written again: where an earlier call failed or was killed, the
// same one finishes its work.
//
// vault.db is changed in one transaction, which a crash leaves undone or done. The file
// node-id, where it is used, is written before. A crash in between leaves the new id
// there and the old one in vault.db: a Vault that takes its id from the file does not
// unseal then, and changes nothing.
//
// The files keep their owners and modes. vault.db must be sound: bbolt does not
// check what it reads. The directory and vault.db are locked meanwhile. An error wraps
// [copier.ErrLocked] where a Vault or another run of dyn2raft has it,
// [copier.ErrConfig] where an option can't be, [copier.ErrChanged] where Raft has made
// progress, and [copier.ErrDestination] in all other cases, and beside ErrChanged.
func Readdress(ctx context.Context, o ReaddressOptions) (was Peer, err error) {
	s := &Sink{opts: Options{Path: o.Path, NodeID: o.NodeID, Address: o.Address, AnyNodeID: o.AnyNodeID}, disk: o.Disk}
	if err := s.opts.Validate(); err != nil {
		return was, err
	}
	if o.NodeID == "" || o.CheckLog == nil {
		return was, &copier.Error{Kind: copier.ErrConfig, Op: "check raft destination", Err: errors.New("no node id, or nothing that checks the log")}
	}
	if err := s.held.Take(s.opts.Path); err != nil {
		return was, err
	}
	defer func() { err = errors.Join(err, s.held.Release()) }()
	if err := s.refuseUnfinished(); err != nil {
		return was, err
	}
	db, err := s.openVaultDB()
	if err != nil {
		return was, err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	if was, err = s.untouched(db); err != nil {
		return was, err
	}
	if err := o.CheckLog(ctx, o.Path); err != nil {
		return was, err
	}
	if err := ctx.Err(); err != nil {
		return was, err
	}
	if err := s.rewriteNodeID(o.NodeIDFile); err != nil {
		return was, s.fail("write "+s.dest(nodeIDName), err)
	}
	if was.ID == o.NodeID && was.Address == o.Address {
		return was, nil
	}
	if err := s.disk.Step(durable.Write, s.dest(vaultDBName)); err != nil {
		return was, s.fail("write "+s.dest(vaultDBName), err)
	}
	if err := db.Update(func(tx *bbolt.Tx) error {
		return tx.Bucket([]byte(configBucketName)).Put([]byte(latestConfigKey), configuration(FSMIndex, o.NodeID, o.Address))
	}); err != nil {
		return was, s.fail("write "+s.dest(vaultDBName), err)
	}
	return was, nil
}

// refuseUnfinished refuses a directory that waits for something else to be done.
func (s *Sink) refuseUnfinished() error {
	for _, x := range []struct {
		name  string
		there bool
		why   string
		code  copier.Code
	}{
		{s.aside(""), true, "a copy into it has not come to its end", CopyUnfinished},
		{s.dest(vaultDBName), false, "it holds no complete copy", NoCopy},
		{filepath.Join(s.dest(raftName), "peers.json"), true, "raft/peers.json is there, and the next Vault that starts takes its servers from it", PeersWait},
	} {
		there, err := durable.Exists(x.name)
		if err != nil {
			return s.fail("look at "+x.name, err)
		}
		if there == x.there {
			return &copier.Error{Kind: copier.ErrDestination, Op: "check " + s.opts.Path, Code: x.code, Err: errors.New(x.why)}
		}
	}
	return nil
}

// openVaultDB opens vault.db as Vault does, and keeps a Vault from starting on it.
func (s *Sink) openVaultDB() (*bbolt.DB, error) {
	path := s.dest(vaultDBName)
	info, err := os.Lstat(path)
	if err == nil && !info.Mode().IsRegular() {
		err = errors.New("it is not a regular file")
	}
	if err != nil {
		return nil, s.fail("open "+path, err)
	}
	db, err := bbolt.Open(path, info.Mode().Perm(), &bbolt.Options{
		Timeout:        time.Second,
		NoFreelistSync: true,
		FreelistType:   bbolt.FreelistMapType,
		OpenFile: func(name string, flag int, perm os.FileMode) (*os.File, error) {
			return os.OpenFile(name, flag&^os.O_CREATE|unix.O_NOFOLLOW, perm)
		},
	})
	if errors.Is(err, bbolterrors.ErrTimeout) {
		return nil, &copier.Error{Kind: copier.ErrLocked, Op: "open " + path, Code: copier.InUse, Err: errors.New("a running Vault, or something that reads it, has it open")}
	}
	if err != nil {
		return nil, s.fail("open "+path, err)
	}
	return db, nil
}

// untouched returns the only peer in vault.db, which must be where a copy left it.
func (s *Sink) untouched(db *bbolt.DB) (peer Peer, err error) {
	err = db.View(func(tx *bbolt.Tx) error {
		config := tx.Bucket([]byte(configBucketName))
		if config == nil {
			return errors.New("it has no bucket config")
		}
		if got := config.Get([]byte(latestIndexesKey)); !bytes.Equal(got, indexes(FSMTerm, FSMIndex)) {
			return fmt.Errorf("%w: its FSM is not at index %d of term %d any more", copier.ErrChanged, FSMIndex, FSMTerm)
		}
		index, peers, err := parseConfiguration(config.Get([]byte(latestConfigKey)))
		if err != nil {
			return fmt.Errorf("read %s: %w", latestConfigKey, err)
		}
		if index != FSMIndex || len(peers) != 1 || peers[0].Suffrage != 0 {
			return fmt.Errorf("%w: its configuration is that of index %d, and has %d servers", copier.ErrChanged, index, len(peers))
		}
		peer = peers[0]
		return nil
	})
	if err != nil {
		return peer, s.fail("read "+s.dest(vaultDBName), err)
	}
	return peer, nil
}

// rewriteNodeID gives the file node-id the node's id, if it is there or has to be.
func (s *Sink) rewriteNodeID(always bool) error {
	path := s.dest(nodeIDName)
	like, err := os.Lstat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist) && !always:
		return nil
	case errors.Is(err, fs.ErrNotExist):
		like, err = os.Lstat(s.dest(vaultDBName))
	case err == nil && !like.Mode().IsRegular():
		err = errors.New("it is not a regular file")
	case err == nil && like.Size() == int64(len(s.opts.NodeID)):
		if id, err := os.ReadFile(path); err != nil || string(id) == s.opts.NodeID {
			return err
		}
	}
	if err != nil {
		return err
	}
	return s.disk.ReplaceLike(path, []byte(s.opts.NodeID), like)
}
