package dynamodb

import "github.com/dyn2raft/dyn2raft/copier"

// The codes of this package's errors.
var (
	// TableNotEmpty: the table holds items, and no copy has put them there.
	TableNotEmpty = copier.NewCode("table-not-empty", "table")
	// TableOtherSchema: it has not the keys of Vault's storage.
	TableOtherSchema = copier.NewCode("table-other-schema", "table")
	// TableBusy: another process of a copy writes to it, or somebody else has locked it. Facts:
	// from is the run that has locked it to copy from it, if that is who.
	TableBusy = copier.NewCode("table-busy", "table", "holder", "from")
	// TableTaken: somebody took the locks of a copy away, or made the table meanwhile.
	TableTaken = copier.NewCode("table-taken", "table")
	// NoCredentials: there are none for the table. Unanswered: it does not answer.
	NoCredentials = copier.NewCode("destination-credentials")
	Unanswered    = copier.NewCode("destination-unanswered", "table")
	// WriteDenied: an IAM action is not allowed on it.
	WriteDenied = copier.NewCode("destination-denied", "action", "table")
	// EntryRefused: Vault's storage can't keep an entry in DynamoDB.
	EntryRefused = copier.NewCode("entry-refused")
	// EntrySealWrapped: Vault Enterprise has wrapped its value, and Community can't read it.
	EntrySealWrapped = copier.NewCode("entry-seal-wrapped")
	// TableOtherVault: a table whose content is to be replaced is not of the source's Vault.
	TableOtherVault = copier.NewCode("table-other-vault", "table")
	// TableLocked: such a table is locked by a copy that was not named. TableNotStopped:
	// nothing in it can show whether a Vault runs. Facts: the table, and why.
	TableLocked     = copier.NewCode("table-locked", "table", "why")
	TableNotStopped = copier.NewCode("table-not-stopped", "table", "why")
	// TableNotThere: a table whose content is to be replaced is not there.
	TableNotThere = copier.NewCode("table-not-there", "table")
	// TableOtherItem: such a table has an item that Vault has not written.
	TableOtherItem = copier.NewCode("table-other-item", "table")
	// MarkersMissing: directories of the table have no marker, so that Vault never lists them.
	MarkersMissing = copier.NewCode("markers-missing", "table")
)
