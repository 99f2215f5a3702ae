package vaultdb

import "github.com/dyn2raft/dyn2raft/copier"

// The codes of this package's errors.
var (
	// NoFile: there is no vault.db. NotInDirectory: its directory is none.
	NoFile         = copier.NewCode("no-vault-db")
	NotInDirectory = copier.NewCode("not-in-directory")
	// OwnerOnly: only the file's owner may read it.
	OwnerOnly = copier.NewCode("owner-only")
	// Damaged: the file is damaged.
	Damaged = copier.NewCode("damaged")
	// SourceDamaged and NoSourceFile are Damaged and NoFile of what is to be copied.
	SourceDamaged = copier.NewCode("source-damaged")
	NoSourceFile  = copier.NewCode("no-source-file")
)
