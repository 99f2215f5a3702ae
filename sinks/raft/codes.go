package raft

import (
	"github.com/dyn2raft/dyn2raft/copier"
	"github.com/dyn2raft/dyn2raft/sinks/internal/hold"
)

// The codes of this package's errors. A path is the data directory's, a file one in it.
var (
	// What goes wrong in any directory, see package hold.
	DirectoryBusy = hold.DirectoryBusy // another process works on it
	NoFileLocks   = hold.NoFileLocks   // its file system has no working locks
	NoDirectory   = hold.NoDirectory
	NotADirectory = hold.NotADirectory
	NotPermitted  = hold.NotPermitted
	DiskFull      = hold.DiskFull
	ReadOnly      = hold.ReadOnly
	StartedOn     = hold.StartedOn // files came into it meanwhile
	// NoDeviceRead: the system can't be made to read the file from its device.
	NoDeviceRead = copier.NewCode("no-device-read")
	// NameTaken: a name that is needed is taken.
	NameTaken = copier.NewCode("name-taken")

	// HoldsData: Vault's files are there, and no copy put them there. Facts: their paths,
	// one a line, and a directory that they could be put into.
	HoldsData = copier.NewCode("holds-data", "files", "aside")
	// VaultOnData: and a Vault has them open.
	VaultOnData = copier.NewCode("vault-on-data")
	// StagingUnknown: the record of a run that ended during its commit can't be read.
	// Facts: the two directories that may be its.
	StagingUnknown = copier.NewCode("staging-unknown", "staging", "raft")
	// PlacedUnknown: a copy has put vault.db in place, and its record can't be read, so
	// that nobody knows whether its source has confirmed it. PlacedByOther: another
	// version has written the record. Facts: as those of HoldsData, the staging
	// directory included.
	PlacedUnknown = copier.NewCode("placed-unknown", "files", "aside")
	PlacedByOther = copier.NewCode("placed-by-other", "files", "aside")

	// NodeIDGone: the file node-id went during the copy. NodeIDEmpty: it is empty.
	// NodeIDOther: it has the id of another node than this copy is for.
	NodeIDGone  = copier.NewCode("node-id-gone")
	NodeIDEmpty = copier.NewCode("node-id-empty", "file")
	NodeIDOther = copier.NewCode("node-id-other", "file")
	// NodeIDRefused: no Vault starts with the node's id. NodeIDBlanks: nor with blanks
	// around it.
	NodeIDRefused = copier.NewCode("node-id-refused")
	NodeIDBlanks  = copier.NewCode("node-id-blanks")

	// CopyUnfinished, NoCopy and PeersWait: a directory whose address can't be changed.
	CopyUnfinished = copier.NewCode("copy-unfinished")
	NoCopy         = copier.NewCode("no-copy")
	PeersWait      = copier.NewCode("peers-wait")
)
