package raft

import "github.com/dyn2raft/dyn2raft/copier"

// The codes of this package's errors. A path is the data directory's, a file one in it.
var (
	// DirectoryBusy: another process works on the directory.
	DirectoryBusy = copier.NewCode("directory-busy", "path")
	// NoFileLocks: its file system has no working locks.
	NoFileLocks = copier.NewCode("no-file-locks")
	// NoDirectory: it is not there. NotADirectory: something else is.
	NoDirectory   = copier.NewCode("no-directory", "path")
	NotADirectory = copier.NewCode("not-a-directory")
	// NotPermitted: this process may not do that. Facts: its user.
	NotPermitted = copier.NewCode("not-permitted", "user")
	// DiskFull: the file system is full, or a quota is used up. Facts, in bytes: what this
	// run has written, and what is free, or "".
	DiskFull = copier.NewCode("disk-full", "written", "free")
	// ReadOnly: the file system is mounted so.
	ReadOnly = copier.NewCode("read-only", "path")
	// StartedOn: files came into the directory while a copy was made into it.
	StartedOn = copier.NewCode("started-on", "path")
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
