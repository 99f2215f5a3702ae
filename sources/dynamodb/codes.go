package dynamodb

import "github.com/dyn2raft/dyn2raft/copier"

// The codes of this package's errors.
var (
	// AWSSettings: the AWS configuration, or the credentials that it leads to, can't be
	// used. What is wrong is an error in the tree: a [CredentialsError], an
	// [EndpointError], or one of the SDK's.
	AWSSettings = copier.NewCode("aws-settings")
	// Denied: an action is not allowed. Facts: the IAM action; and the policy that denies
	// it explicitly, as AWS names it, or "".
	Denied = copier.NewCode("denied", "action", "policy")
	// BackupDenied: as Denied, of a backup of that table.
	BackupDenied = copier.NewCode("backup-denied", "action", "table")
	// BackupUnsupported: the endpoint makes no backups. BackupFailed: one was not made, as
	// the error that it wraps says.
	BackupUnsupported = copier.NewCode("backup-unsupported")
	BackupFailed      = copier.NewCode("backup-failed")
	// BackupMissing: the table has no backup with the ARN that was named.
	BackupMissing = copier.NewCode("backup-missing", "table")
	// CredentialsExpired and CredentialsRefused: AWS does not take them any more, or not
	// at all. ClockWrong: nor a signature of this time.
	CredentialsExpired = copier.NewCode("credentials-expired")
	CredentialsRefused = copier.NewCode("credentials-refused")
	ClockWrong         = copier.NewCode("clock-wrong")

	// NoTable: the service has no such table. This code and the next have as facts where
	// the endpoint and the proxy were set, a variable or a key of a profile, and which
	// proxy it is; or "".
	NoTable = copier.NewCode("no-table", "endpoint_from", "proxy_from", "proxy")
	// NotTrusted: the endpoint's certificate. NoTLS: what answers does not speak TLS.
	NotTrusted = copier.NewCode("not-trusted", "endpoint_from", "proxy_from", "proxy")
	NoTLS      = copier.NewCode("no-tls", "endpoint_from", "proxy_from", "proxy")
	// NotDynamoDB: something else answers.
	NotDynamoDB = copier.NewCode("not-dynamodb", "endpoint_from", "proxy_from", "proxy")
	// NoAnswer: connections come about, and answers don't. Unreachable: no connection.
	NoAnswer    = copier.NewCode("no-answer", "endpoint_from", "proxy_from", "proxy")
	Unreachable = copier.NewCode("unreachable", "endpoint_from", "proxy_from", "proxy")
	// GaveUp: a request was tried until a limit. Facts: the limit, "time" (nothing
	// succeeded for Options.RetryFor), "number" (Options.MaxRetries) or "prepare" (the
	// first requests are tried a few times only); and service, "failing" where the
	// answers were 5xx, else "". What it wraps may have a code of its own.
	GaveUp = copier.NewCode("gave-up", "limit", "service")

	// TableStatus: the table can't be read now. Facts: its status.
	TableStatus = copier.NewCode("table-status", "status")
	// NotVaultsTable: its keys are not those of Vault's storage. NotVaultsItem: an item
	// is not one that Vault wrote.
	NotVaultsTable = copier.NewCode("not-vaults-table")
	NotVaultsItem  = copier.NewCode("not-vaults-item")
	// TableRemade: the table was deleted and made anew while it was read.
	TableRemade = copier.NewCode("table-remade")

	// VaultRuns: a Vault uses the table.
	VaultRuns = copier.NewCode("vault-runs")
	// NotStopped: nothing in the table can show whether a Vault runs. Facts: ha,
	// "enabled" where Vaults elect their leader in the table or in a storage that is
	// known, and replicas, "yes" where the table is one of several regions; else "".
	NotStopped = copier.NewCode("not-stopped", "ha", "replicas")
	// CopyRuns: another copy reads the table. LockedByCopy: an earlier one has left its
	// lock. Facts: its run. LockedByMigration: `vault operator migrate` has. LockUnknown: the lock can't
	// be read.
	CopyRuns          = copier.NewCode("copy-runs")
	LockedByCopy      = copier.NewCode("locked-by-copy", "run")
	LockedByMigration = copier.NewCode("locked-by-migration")
	LockUnknown       = copier.NewCode("lock-unknown")
	// HalfReplaced: a copy has begun to replace what is in the table, and did not end.
	// Facts: the table, and the backup that has it as it was.
	HalfReplaced = copier.NewCode("half-replaced", "table", "backup")
	// StreamNotEnabled: the table has no stream, and Options.EnableStream does not permit
	// one. Facts: the table. StreamReplicated: it has replicas in other regions, and can't
	// be followed. StreamGap: what was followed may have missed changes.
	StreamNotEnabled = copier.NewCode("stream-not-enabled", "table")
	StreamReplicated = copier.NewCode("stream-replicated")
	StreamGap        = copier.NewCode("stream-gap")
	// LocksLost: between two processes of a copy its locks were taken or removed.
	LocksLost = copier.NewCode("locks-lost")
	// LockRemoved: during a copy somebody removed its lock.
	LockRemoved = copier.NewCode("lock-removed")
	// AnswersLate: the lock can't be held, since answers come too late.
	AnswersLate = copier.NewCode("answers-late")
	// LocksLeft: the locks could not be given back.
	LocksLeft = copier.NewCode("locks-left")
	// NotAnExport: a folder is not that of a whole export, or something in it is damaged.
	NotAnExport = copier.NewCode("not-an-export")
)
