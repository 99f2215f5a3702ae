package hints

import (
	"github.com/dyn2raft/dyn2raft/bench/vaultbenchmark"
	"github.com/dyn2raft/dyn2raft/copier"
	todynamodb "github.com/dyn2raft/dyn2raft/sinks/dynamodb"
	"github.com/dyn2raft/dyn2raft/sinks/physical"
	"github.com/dyn2raft/dyn2raft/sinks/raft"
	"github.com/dyn2raft/dyn2raft/sources/dynamodb"
	nodes "github.com/dyn2raft/dyn2raft/sources/raft"
	"github.com/dyn2raft/dyn2raft/sources/raft/snapshot"
	"github.com/dyn2raft/dyn2raft/sources/raft/vaultdb"
	"github.com/dyn2raft/dyn2raft/verify"
	"github.com/dyn2raft/dyn2raft/verify/cluster"
)

// table has the words for each code: templates, in which the facts are fields. See
// parseWords for their functions.
var table = map[copier.Code]string{
	copier.NeedResume: "to resume it, add -resume; to throw it away and start over, add -restart",
	copier.WasGivenUp: "what it held was freed, and a Vault may have run on it since, so it can't be resumed: throw it away and start over: -restart",
	copier.OtherCopy:  "resume with the configuration that the copy was begun with, or throw it away and start over: -restart",
	copier.OtherSource: "it has locked {{.source}}: go back to the configuration with that table, or free it with that configuration and -reset; " +
		"once it is free, or if it does not exist any more, remove {{.files}} yourself and run this command again",
	copier.SourceRemade: "{{if .held}}it was deleted and created again since, and its locks are gone with it{{else}}it has changed since the copy was begun, for instance because a Vault was started on it{{end}}: " +
		"what was read is of no use; throw it away and start over: -restart",
	copier.SourceWritten: "somebody wrote to the source meanwhile, so what was read can't be trusted: stop every Vault that uses it, then start over",
	copier.RecordDamaged: `it says what an unfinished copy copies, and can't be read: free the table with -reset, then start over with -restart{{template "left" .}}`,
	copier.OtherVersion:  `resume with the dyn2raft that began it; or free the table with -reset, then start over with -restart{{template "left" .}}`,
	copier.NeedRestart:   "what was read before can't be used: start over (-restart)",
	copier.WorkGone: "if their file system is not mounted, mount it and resume (-resume); if they are lost, start over (-restart), or give up (-reset): " +
		"until then no Vault starts on the table",
	copier.WorkFull: "the file system of that work file is full: work files need as much room as the data, those of a verification about 170 bytes an entry " +
		"and 350 for each that differs; make room, or start over with another place for them (-work-dir)",
	copier.WorkReadOnly: "the file system of that work file is read-only now, as the system makes it when its disk fails (see dmesg): mount it writable (mount -o remount,rw)",
	copier.WorkNotFile: `it has the name of one of dyn2raft's work files, and dyn2raft did not make it: move it away, or, if it is not needed: rm -r {{q .path}}; then run the same command again` +
		`{{if .setup}}. The record of an unfinished copy was there: without it, free the table with -reset, and copy again{{end}}`,
	copier.FeedGap: "changes of the table may have been missed, and what was read is of no use: resume it (-resume), and the table is read again from the beginning; resume an interrupted copy within some hours",
	copier.WrittenAfter: "the copy lacks these keys' last values: find out who still writes to the table, and stop it; " +
		"then write them again on the new Vault, or free the table (-reset) and copy again",
	copier.InPlace:      "nothing is left to copy: resume that copy, which checks it, frees the table and removes the work files",
	copier.InPlaceInUse: "that copy has not cleaned up yet: stop that Vault for a moment, then resume the copy",
	copier.JournalGone:  "without it nobody knows what is left to read of the unfinished copy: start over (-restart)",
	copier.NotAsRead:    "nothing was put in place; check the disk and the memory of this machine, then run the same command again",
	copier.ResultDamaged: "start no Vault on the copy that is in place: check the disk and the memory of this machine, then put its vault.db aside, " +
		"{{if .known}}and run the same command again: it makes the copy again, and reads what was not saved{{else}}free the table with -reset, and copy again{{end}}",
	copier.ResultUsed: "nothing can show any more whether the copy was whole: compare it with the table (verify -config), then free the table if Vaults may start on it again (-reset)",
	copier.InUse:      "stop the Vault that runs on this directory, then run the same command again",

	dynamodb.AWSSettings: "{{aws}}",
	dynamodb.Denied: "{{if .policy}}a{{.policy}} denies {{.action}}, whatever these credentials are allowed: it has to let them pass" +
		"{{else}}allow the IAM action {{.action}} to these credentials; docs/iam.md has the whole policy{{end}}",
	dynamodb.BackupDenied: "allow the IAM action {{.action}} to these credentials; CreateBackup is an action on the table, DescribeBackup on its backups " +
		"(arn:…:table/{{.table}}/backup/*){{template \"nobackup\"}}",
	dynamodb.BackupUnsupported: `this endpoint makes no backups{{template "nobackup"}}`,
	dynamodb.BackupFailed:      `{{or cause "fix the cause"}}{{template "nobackup"}}`,
	dynamodb.BackupMissing: "list what can be restored, aws dynamodb list-backups --table-name {{q .table}} --backup-type ALL, and name one of those; " +
		"or have a new one made",
	dynamodb.CredentialsExpired: "the AWS credentials have expired: renew them",
	dynamodb.CredentialsRefused: "AWS does not take these credentials: check the access key, the secret key, the session token, the region, and this machine's clock",
	dynamodb.ClockWrong: "this machine's clock differs from AWS's, which takes a signature for some minutes only: " +
		"set it (timedatectl, chronyc), then run the same command again",
	dynamodb.NoTable: "there is no such table here: check table and region in storage_source, and AWS_DYNAMODB_TABLE, AWS_DYNAMODB_REGION and AWS_REGION, " +
		`which take precedence; and {{template "endpoint" .}}`,
	dynamodb.NotTrusted: `the endpoint's certificate is not trusted here: set AWS_CA_BUNDLE to the file with its authority's certificate, or check {{template "endpoint" .}}`,
	dynamodb.NoTLS: "what answers there does not speak TLS: an endpoint without a scheme is taken for https; write http://… if that is meant, " +
		`or check the proxy: see {{template "endpoint" .}}`,
	dynamodb.NotDynamoDB: `what answers there is not DynamoDB: check {{template "endpoint" .}} and {{template "proxy" .}}`,
	dynamodb.NoAnswer: "it takes connections and does not answer: check the network between here and there (a firewall or a proxy that drops what is large or slow), " +
		`and {{template "endpoint" .}}`,
	dynamodb.Unreachable: `the endpoint can't be reached from here: check {{template "endpoint" .}}, the region, the network and {{template "proxy" .}}`,
	dynamodb.GaveUp: "{{if cause}}{{cause}}{{else if .service}}the service fails: wait until it has recovered (see AWS's Health Dashboard, or, where it is not AWS's, its log)" +
		"{{else}}fix the cause{{end}}, then {{if eq .limit \"prepare\"}}run the same command again{{else}}resume (-resume){{end}}" +
		"{{if eq .limit \"number\"}}; without dynamodb_max_retries, requests are tried again for as long as -retry-for says{{end}}",
	dynamodb.TableStatus: `{{if eq .status "INACCESSIBLE_ENCRYPTION_CREDENTIALS"}}the table's KMS key can't be used: enable it, or restore the grants of DynamoDB on it, then run the same command again` +
		`{{else if or (eq .status "DELETING") (eq .status "ARCHIVING") (eq .status "ARCHIVED")}}the table is going away or gone: restore it from a backup, and name the restored table` +
		"{{else}}wait until the table is ACTIVE (aws dynamodb describe-table), then run the same command again{{end}}",
	dynamodb.NotVaultsTable: "this is not a table of Vault's dynamodb storage: check table and region in storage_source, and AWS_DYNAMODB_TABLE",
	dynamodb.NotVaultsItem:  "every item must be one that Vault wrote, or nothing can be proven about the copy: find out who wrote this one, and delete it or name the right table",
	dynamodb.TableRemade:    "find out who does that, then start over: what was read may be of either",
	dynamodb.VaultRuns:      "stop every Vault that uses the table, wait until `vault status` is refused, then run the same command again",
	dynamodb.NotStopped: `stop every Vault that uses the table{{if .replicas}}, in each of these regions{{end}}, then say so with -source-stopped` +
		`{{if not (or .ha .replicas)}}; or, if they elect their leader in this table, put ha_enabled = "true" into storage_source{{end}}`,
	dynamodb.CopyRuns: "another copy of this table is running: let it end",
	dynamodb.LockedByCopy: "if that run is still going, let it end; if it was interrupted, resume it (-resume, with its destination), or remove its lock with -reset, " +
		"which is the way too if it has left the table locked on purpose (-keep-source-locked)",
	dynamodb.LockedByMigration: "if that migration is still running, let it end; if it was interrupted, remove its lock with -reset",
	dynamodb.LockUnknown:       "if no migration is running, remove it with -reset",
	dynamodb.HalfReplaced: "the table is neither what it was nor what it was to become, and no Vault may be started on it: resume that copy (-resume, with its configuration and -work-dir), " +
		"or make another one into it (-replace), or restore its backup {{q .backup}} into another table and name that one",
	dynamodb.StreamNotEnabled: "the table's changes can't be followed without a stream: let dyn2raft enable one with -yes, or enable it yourself: aws dynamodb update-table --table-name {{q .table}} " +
		"--stream-specification StreamEnabled=true,StreamViewType=KEYS_ONLY",
	dynamodb.StreamReplicated: "locks do not hold across regions, so it can't be copied while Vault serves: stop every Vault in all of these regions, and copy it then",
	dynamodb.StreamGap: "what was read and followed until now is of no use, since changes may be missing in it: see what has disabled or replaced the stream, or kept dyn2raft from reading it for a day; " +
		"then resume it (-resume): the table is read again from the beginning, and followed by the stream that it has, or, with -yes, by one that is enabled again",
	dynamodb.LocksLost: "a Vault may have run on the table since the copy was interrupted, so what was read before can't be trusted. Stop every Vault, then start over: " +
		"the same command with -restart in place of -resume; or give up and free the locks: -reset",
	dynamodb.LockRemoved: "make sure that every Vault is stopped and that nobody resets the lock, then run the same command again",
	dynamodb.AnswersLate: "check this machine's clock and the network: a renewal must be answered within seconds",
	dynamodb.LocksLeft:   "as long as they are there no Vault starts on the table: resume that copy, or give it up",

	raft.DirectoryBusy: "wait until it has ended; this shows the process: fuser -v {{q .path}}",
	raft.NoFileLocks:   "Vault too needs a file system with working locks (flock): use a local disk",
	raft.NoDirectory:   "make the directory: mkdir -p {{q .path}} && chown vault:vault {{q .path}}",
	raft.NotADirectory: "the path of the raft destination must be a directory",
	raft.NotPermitted:  "run it as the user that Vault runs as, whose directory it is: this process runs as {{.user}}",
	raft.DiskFull: "the file system is full; free some space, or make it bigger, and run the copy again. Written so far: {{size .written}}." +
		"{{if .free}} Free: {{size .free}}.{{end}} Plan for 3 times the data: nodes that join need more than the first one",
	raft.ReadOnly:  "the file system is mounted read-only; mount it writable: mount -o remount,rw <mount point of {{q .path}}>",
	raft.StartedOn: "something, perhaps a Vault, was started on {{q .path}} during the copy; stop it, empty the directory, and run the copy again",
	raft.NameTaken: "the name is taken by something that dyn2raft did not make; move it away",
	raft.HoldsData: "nothing was changed; if these files are not needed, put them aside and copy again: " +
		"mkdir {{q .aside}} && mv {{lines .files}} {{q .aside}}",
	raft.VaultOnData:    "copy to an empty directory, on a node where no Vault was started yet; if this is the node: stop Vault first (systemctl stop vault)",
	raft.StagingUnknown: "an earlier run did not end well, and what it left can't be told from Vault's; if no Vault was started here: rm -r {{q .staging}} {{q .raft}}",
	raft.PlacedUnknown: "start no Vault on it: nobody knows whether the table has confirmed that copy, and the table may still be locked for it; check the disk and the memory of this machine, " +
		"put it aside (mkdir {{q .aside}} && mv {{lines .files}} {{q .aside}}), free the table with -reset, and copy again",
	raft.PlacedByOther: "start no Vault on it, which the table may not have confirmed: resume with the dyn2raft that began that copy; without it, " +
		"put the copy aside (mkdir {{q .aside}} && mv {{lines .files}} {{q .aside}}), free the table with -reset, and copy again",
	raft.NodeIDGone:     "start the copy again, and let the file be while it runs",
	raft.NodeIDEmpty:    "remove it, and a new id is made: rm {{q .file}}",
	raft.NodeIDOther:    "give the node the id that its server will run with; if the file is left over from another node: rm {{q .file}}",
	raft.NodeIDRefused:  `give the node an id of letters, digits, ".", "-" and "_", and the same one in the server's storage stanza`,
	raft.NodeIDBlanks:   "take out the spaces and line ends around the id: Vault takes them for a part of it",
	raft.CopyUnfinished: "resume the copy first",
	raft.NoCopy:         "name the data directory of the copy",
	raft.PeersWait:      "start Vault, if these are the right ones, or remove the file",

	vaultdb.NoFile: "nothing was copied to this directory, or the copy is not complete (dyn2raft status says so): " +
		"check the path, in storage_destination and VAULT_RAFT_PATH where they name it",
	vaultdb.NotInDirectory: "name the data directory, which holds vault.db and raft",
	vaultdb.OwnerOnly:      "only its owner may read it: run as the user that Vault runs as (sudo -u vault dyn2raft …)",
	vaultdb.Damaged:        "copy again into an empty directory",
	vaultdb.SourceDamaged:  "leave that directory as it is, and take those of other nodes of the cluster; or a snapshot, if one was taken",
	vaultdb.NoSourceFile:   "name the data directory of a stopped node in path and paths of storage_source: it holds vault.db and raft",

	todynamodb.TableNotEmpty: "nothing was changed: a copy goes to a table that it makes, or that is empty. Name another table in storage_destination, " +
		"or, if nothing in {{.table}} is needed any more, delete that table and run this again",
	todynamodb.TableOtherSchema: "{{.table}} is not a table for Vault: name another one in storage_destination; AWS_DYNAMODB_TABLE takes precedence over the stanza",
	todynamodb.TableBusy: "{{if .from}}if that run has left {{.table}} locked on purpose (-keep-source-locked), and you want to write back into it: -replace -take-over {{q .from}}; " +
		"if it was interrupted, resume it, or -reset with its configuration; otherwise name another table{{else}}{{.holder}} holds {{.table}}: if it is a Vault, stop it, or name the right table; if it is a copy that runs, let it end; " +
		"if it is one that was begun elsewhere and is given up: -reset with its configuration{{end}}",
	todynamodb.TableTaken: "what was written to {{.table}} can't be trusted any more: find out who did that, then throw the copy away and start over (-restart)",
	todynamodb.EntrySealWrapped: "nothing was written, and each such entry was named: Community can't read what Enterprise has wrapped by a seal. If the Vault that will run on the " +
		"table is Enterprise with the same seal, accept them: -seal-wrapped",
	todynamodb.TableOtherVault: "nothing in {{.table}} was changed: another Vault's table is not replaced. Name the right one in storage_destination, or another one, for a copy to a new table",
	todynamodb.TableLocked: "if that run has copied from {{.table}} and left it locked (-keep-source-locked), name it: -take-over RUN; " +
		"if it is still going, let it end; if it was interrupted, resume it, or remove its lock with -reset and its configuration",
	todynamodb.TableNotStopped: "stop every Vault that uses {{.table}}, then say so with -source-stopped, which speaks for the Vaults of both sides; or, if they elect their leader in this table, " +
		`put ha_enabled = "true" into storage_destination`,
	todynamodb.TableNotThere: "check table and region in storage_destination, and AWS_DYNAMODB_TABLE, AWS_DYNAMODB_REGION and AWS_REGION, which beat them; " +
		"for a copy to a new table, leave -replace out",
	todynamodb.MarkersMissing: "somebody else has deleted items of {{.table}}: stop who writes to it, then make the copy again",
	todynamodb.TableOtherItem: "nothing in {{.table}} was changed: find out who wrote that item, and delete it, or name the right table",
	todynamodb.NoCredentials:  "set access_key and secret_key in storage_destination, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE; or give this machine a role",
	todynamodb.Unanswered: "check region and endpoint in storage_destination, and AWS_DYNAMODB_REGION, AWS_REGION and AWS_DYNAMODB_ENDPOINT, which take precedence; " +
		"the network between here and there, and the proxy (HTTPS_PROXY, NO_PROXY)",
	todynamodb.WriteDenied: "allow {{.action}} on table {{.table}} to these credentials; docs/iam.md has the whole policy of a destination",
	todynamodb.EntryRefused: "nothing was written, and each entry that DynamoDB can't keep was named: start the Vault that has them, " +
		"make them smaller or delete them, stop it, and copy again",

	physical.BackendNotEmpty: "nothing was changed: name an empty place in storage_destination, or put aside what is in {{.backend}}",
	physical.BackendBusy: "another migration has begun to write to {{.backend}}: let it end, or resume it where it was begun; if it is given up, " +
		"what is there is a part of a copy: remove it, and name an empty place",
	physical.BackendUsed:  "stop every Vault that uses {{.backend}}, then run the same command again",
	physical.BackendTaken: "somebody removed core/migration from {{.backend}}, so that a Vault may have been started on it: stop that, then start over (-restart)",

	dynamodb.NotAnExport: "sync the folder AWSDynamoDB/ID of the bucket again, whole, and name the folder that has manifest-summary.json in it; " +
		"it must be a full export, in DynamoDB's JSON",
	snapshot.Damaged: "fetch the snapshot again, or take another one: vault operator raft snapshot save",

	nodes.FewNodes: "acknowledged writes may be in the logs of the others only: copy their data directories here too, and name all of them in paths of storage_source; " +
		"if there are no others any more, accept what may be missing: -ignore majority",
	nodes.LogBehind: "take the directories of other nodes of the cluster, too",
	nodes.PeerAnswers: "stop every Vault of the cluster; if what answers there is another one, or you know that it can't write, let it pass by its name: " +
		"-ignore-peer {{q .peer}}",
	nodes.OtherCluster: "name directories of one cluster's nodes only",
	nodes.SameNode:     "a majority is counted in nodes: name one directory of each, its newest, in path and paths of storage_source",
	nodes.PeersFile:    "it is for making a cluster of what is left of one: start that Vault and stop it again, or put the file aside",
	nodes.LogTorn: "a loss of power leaves that, and damage too: take the directories of other nodes as well; " +
		"if there are none, accept what may be missing: -ignore torn-log",
	nodes.LogGap:     "take the directories of other nodes of the cluster, which may have them; or start this node's Vault, let it catch up, and stop it again",
	nodes.LogUnknown: "a newer Vault has written it: use a newer dyn2raft, or a snapshot (vault operator raft snapshot save)",

	cluster.Unreached:        "is Vault running, and is this its address? -address or VAULT_ADDR names it; on its host: systemctl status vault",
	cluster.NotVault:         "something answers there that is no Vault, or keeps Vault's answers back: is the address right?",
	cluster.AddressForm:      "write -address or VAULT_ADDR as https://HOST:8200",
	cluster.Environment:      "look at the environment's VAULT_… variables and the files they name: `env | cut -d= -f1 | grep ^VAULT_`",
	cluster.TokenForm:        "VAULT_TOKEN, or the file ~/.vault-token, has a line break in it, or another character that no header takes: write the token without",
	cluster.PlainToken:       "write the address with https://, or run this on the server itself with -address http://127.0.0.1:8200; if all of the network is yours, add -insecure-http",
	cluster.Redirected:       "if that is a server of yours, ask it: -address {{.to}}",
	cluster.UnknownAuthority: "name the authority that signed Vault's certificate: VAULT_CACERT=FILE or VAULT_CAPATH=DIRECTORY",
	cluster.OtherName:        "use a name that is in Vault's certificate, or say which one is: VAULT_TLS_SERVER_NAME",
	cluster.NoTLS:            "this listener speaks no TLS: write the address with http://",
	cluster.OnlyTLS:          "this listener speaks TLS: write the address with https://",

	vaultbenchmark.Threshold: "two runs against the same cluster differ by some percent: 10% is a good threshold",
	vaultbenchmark.NoReport:  "give the standard output of `vault-benchmark run`, or better that of `vault-benchmark run -report_mode=json`",

	raft.NoDeviceRead:         "read it back from the system's memory: -readback=cache",
	verify.NoManifest:         "copy writes it beside the data directory; name it with -manifest FILE",
	verify.NotManifest:        "name the manifest of a copy, which copy writes beside the data directory (PATH.dyn2raft.json) unless it is told another place",
	verify.ManifestChanged:    "the file was changed, or damaged: use the copy of it that you put aside",
	verify.ManifestInside:     "name a place beside it",
	verify.ManifestLink:       "name the file itself: a manifest is never written or read through a link",
	verify.ManifestUnwritable: "name a place that can be written, and a file that is new or holds the manifest of an earlier copy",
	verify.NoWorkDir:          "what was read is kept there until the comparison has ended; give another place with -work-dir",
	verify.CompareRuns:        "wait until it has ended, or give this one another place with -work-dir",
}

// shared are parts of several words.
const shared = `{{define "endpoint"}}{{if .endpoint_from}}{{.endpoint_from}}, which sets the endpoint{{else}}endpoint in storage_source and AWS_DYNAMODB_ENDPOINT{{end}}{{end}}` +
	`{{define "proxy"}}{{if .proxy}}the proxy of {{.proxy_from}} ({{.proxy}}){{else}}the proxy (HTTPS_PROXY, HTTP_PROXY, NO_PROXY){{end}}{{end}}` +
	`{{define "nobackup"}}{{if destination}}; or make the backup yourself, and name it: -backup-arn{{else}}; or leave -backup out, and make the backup yourself{{end}}{{end}}` +
	`{{define "left"}}{{if .run}}; it seems to be of run {{.run}}{{end}}{{if .work_dir}}; its work files seem to be in {{printf "%q" .work_dir}}, which is yours to remove{{end}}{{end}}`
