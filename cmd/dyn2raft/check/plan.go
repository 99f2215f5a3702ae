package check

// Plan has the words for what the checkers of a copy find.
var Plan = Words{
	"access":               "add them to the policy of these credentials; docs/iam.md has the whole policy",
	"write-access":         "add them to the policy of these credentials; docs/iam.md has the whole policy",
	"write-access/untried": "see that the policy of the credentials for the copy has them; docs/iam.md has the whole policy",
	"clock":                "set the clock by NTP (timedatectl set-ntp true): locks and signatures depend on it",
	"capacity":             "the copy will be throttled: raise the capacity, or lower -read-capacity",
	"recovery":             "switch it on, or make a backup before the copy (-backup NAME)",
	"recovery/unknown":     "allow dynamodb:DescribeContinuousBackups, or see for yourself: aws dynamodb describe-continuous-backups --table-name ${table}",
	"backup":               "copy with -backup NAME makes one before the first read",
	"backup/old":           "what Vault has written since is not in it: copy with -backup NAME makes one before the first read",
	"backup/unknown":       "allow dynamodb:ListBackups, or see for yourself: aws dynamodb list-backups --table-name ${table}",
	"deletion":             "aws dynamodb update-table --table-name ${table} --deletion-protection-enabled",
	"stream":               "find out who: what they do ends when Vault leaves the table",
	"replicas":             "stop Vaults in those regions too: what they write arrives here later, and locks don't reach them at once",

	"running-vault":         "stop every Vault before the copy, which refuses to start while one runs; its lock expires 15 s after the last renewal",
	"running-vault/copy":    "let it end",
	"running-vault/unknown": "make sure that every Vault is stopped before the copy, which asks for that, or wants -source-stopped",
	"running-vault/expired": "make sure that every Vault is stopped; a copy watches the lock for 11 s, takes it, and holds it for 30 s before it reads",
	"migration-lock":        "if that migration is running, let it end; if it is dead, remove the lock: ${command} -reset",
	"migration-lock/copy":   "if that run is at work, let it end; if it has finished, here or on another node, and left the lock on purpose (-keep-source-locked), leave it; if it is dead, go on with it where it was begun (--resume), or remove the lock: ${command} -reset",
	"migration-lock/ours":   "leave it: it is the copy's that is to be resumed",
	"migration-lock/kept":   "leave it: it keeps old Vaults from starting. Only for the way back to the old cluster: ${command} -reset",
	"initialized":           "a Vault would start on the copy as a new one, or end: check table and region in storage_source, and what beats them in the environment",
	"seal":                  "no Vault starts on the copy: find out what has written it",
	"seal/auto":             "every new server needs the seal stanza of the old ones, and the right to use the same key; try that before the window",
	"version":               "start the same version on the copy; upgrade before or after, not at once",
}
