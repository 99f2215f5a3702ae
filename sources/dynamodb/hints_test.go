package dynamodb

// What the hints of locks say.
type code = string

const (
	NotStopped        = "say so"
	VaultRuns         = "stop every Vault"
	LockedByCopy      = "-reset"
	LockedByMigration = "-reset"
	LockUnknown       = "-reset"
	CopyRuns          = "let it end"
	LocksLost         = "--restart"
	LockRemoved       = "every Vault is stopped"
	LocksLeft         = "give it up"
)
