package raft

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"syscall"

	"github.com/dyn2raft/dyn2raft/copier"
	"github.com/dyn2raft/dyn2raft/copier/durable"
)

const (
	recordKind = "dyn2raft raft commit"
	// recordFormat is the version of the record's form.
	recordFormat = 2
	// maxRecord bounds what is read of one, in bytes.
	maxRecord = 64 << 20
)

// A record lies in the staging directory from before the first name is put in
// place until after the last. It makes a crash in between curable: what it
// names and what is no longer in the staging directory was placed by its run.
type record struct {
	// NodeID is the content of the node-id file that the run made; empty if
	// it made none.
	NodeID string `json:"node_id,omitempty"`
	// Copy is what the engine says of the copy, as Prepare or Amend had it last. Its
	// state is void as long as vault.db is not in place.
	Copy copier.Record `json:"copy"`

	damage error // of the record on disk, in the place of which it is
}

// writeRecord writes the record durably, and whole or not at all.
func (s *Sink) writeRecord(r record) error {
	data, err := durable.Seal(recordKind, recordFormat, r)
	if err != nil {
		return err
	}
	return s.disk.Replace(s.aside(recordName), data)
}

// readRecord returns an earlier run's record, or nil where there is none: where the
// name of the staging directory is a file's too.
func (s *Sink) readRecord() (*record, error) {
	var r record
	err := durable.ReadSealed(s.aside(recordName), maxRecord, recordKind, recordFormat, &r)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENOTDIR) {
		return nil, nil
	}
	if err == nil {
		err = r.Copy.Check()
	}
	if err != nil {
		return nil, err
	}
	return &r, nil
}

// placedBy returns the record of the run that put the vault.db there, if it is
// still there to tell. The vault.db is that run's if it is no longer in the
// staging directory, or if it is there under a second name because the run ended
// between link and unlink. Otherwise somebody else made it. Where the vault.db is
// that run's and the record can't be read, the error has the code PlacedUnknown or
// PlacedByOther: nobody knows then whether the source has confirmed it.
func (s *Sink) placedBy() (*record, error) {
	r, err := s.readRecord()
	if err == nil && r == nil {
		return nil, nil
	}
	if placed, merr := s.wasMoved(vaultDBName); err == nil && merr != nil {
		return nil, merr
	} else if merr == nil && !placed {
		return nil, nil
	}
	if err == nil {
		return r, nil
	}
	if r := s.spare(err); r != nil {
		return r, nil
	}
	code := PlacedUnknown
	if otherVersion(err) {
		code = PlacedByOther
	}
	files := append(s.vaultFiles(), s.aside(""))
	return nil, &copier.Error{
		Kind: copier.ErrDestination,
		Op:   "read " + s.aside(recordName),
		Code: code, Facts: map[string]string{"files": strings.Join(files, "\n"), "aside": s.dest("old")},
		Err: fmt.Errorf("a copy has put vault.db in place, and its record can't be read: %w", err),
	}
}

// otherVersion reports whether another version has written a record that can't be read.
func otherVersion(err error) bool {
	_, ok := errors.AsType[*durable.FormatError](err)
	return ok || errors.Is(err, copier.ErrUnknownState)
}

// spare returns what Options.Spare has of the copy that is in place, in place of a record
// that is damaged, and nil where that is of another copy, or where nobody can tell. A
// node-id that the run has made then stays wherever the rest is taken back.
func (s *Sink) spare(damage error) *record {
	if otherVersion(damage) || s.opts.Spare == nil {
		return nil
	}
	_, setup, err := copier.ReadStatus(s.WorkDir())
	if err != nil || setup == nil {
		return nil
	}
	r, err := s.opts.Spare()
	if err != nil || r.State == "" || r.RunID != setup.RunID || !r.Start.Equal(setup.Start) {
		return nil
	}
	return &record{Copy: *r, damage: damage}
}

// recoverCommit removes what a run that was killed during its commit had put
// in place, so that the directory is as that run had found it. It removes only
// what the run's record names and what the run had moved. Where there is a
// vault.db it does nothing: that directory is complete, or somebody else's.
func (s *Sink) recoverCommit() error {
	if there, err := durable.Exists(s.dest(vaultDBName)); err != nil {
		return s.fail("look at "+s.dest(vaultDBName), err)
	} else if there {
		return nil
	}
	r, err := s.readRecord()
	if err != nil {
		return &copier.Error{
			Kind: copier.ErrDestination,
			Op:   "read " + s.aside(recordName),
			Code: StagingUnknown, Facts: map[string]string{"staging": s.aside(""), "raft": s.dest(raftName)},
			Err: err,
		}
	}
	if r == nil {
		return nil
	}
	if moved, err := s.wasMoved(raftName); err != nil {
		return err
	} else if moved {
		if err := s.disk.Remove(s.held.Root(), raftName); err != nil {
			return s.fail("remove what run "+r.Copy.RunID+" left", err)
		}
	}
	if r.NodeID != "" {
		moved, err := s.wasMoved(nodeIDName)
		if err != nil {
			return err
		}
		if id, readErr := durable.ReadFile(s.dest(nodeIDName), MaxNodeID); moved && readErr == nil && string(id) == r.NodeID {
			if err := s.disk.Remove(s.held.Root(), nodeIDName); err != nil {
				return s.fail("remove what run "+r.Copy.RunID+" left", err)
			}
		}
	}
	if err := s.disk.Sync(s.opts.Path); err != nil {
		return s.fail("sync "+s.opts.Path, err)
	}
	return nil
}

// wasMoved reports whether a name is in place and no longer aside, or aside as a
// second name of the same file only.
func (s *Sink) wasMoved(name string) (bool, error) {
	aside, err := os.Lstat(s.aside(name))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return false, s.fail("look at "+s.aside(name), err)
	}
	placed, err := os.Lstat(s.dest(name))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return false, s.fail("look at "+s.dest(name), err)
	}
	return placed != nil && (aside == nil || os.SameFile(aside, placed)), nil
}
