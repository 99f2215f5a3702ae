package hints

import (
	"fmt"

	"al.essio.dev/pkg/shellescape"

	"github.com/dyn2raft/dyn2raft/copier"
	"github.com/dyn2raft/dyn2raft/copier/vaultconfig"
)

// Next says what a person does with a copy, step by step, as it was seen with Vault
// 1.21. compare is the command that compares it.
func Next(id copier.Identity, compare string) []string {
	const keys = "the unseal keys of the Vault that was copied"
	path := id["path"]
	switch DestinationType(id) {
	case vaultconfig.RaftSnapshot:
		return []string{
			"start one new node on integrated storage, with an empty data directory and without retry_join. Set http_read_timeout = \"1h\" in its listener: " +
				"Vault gives up an upload that takes longer than that, and 30s is the default",
			"vault operator init, and unseal it: these keys are of no use after step 3",
			"vault operator raft snapshot restore -force " + shellescape.Quote(path) + " (without -force Vault refuses it: only a Vault could seal its sums)",
			"the node is sealed now: unseal it with " + keys + ". With an automatic seal, which has to be the old one, restart the node once instead",
			"let the other nodes join with empty data directories: a cluster that has three nodes before the restore does not outlive it",
		}
	case vaultconfig.DynamoDB:
		return []string{
			"keep every other Vault with this data stopped, the one that was copied too: they hold the same leases, and revoke them under each other's clients",
			"compare it while no Vault runs on it: " + compare,
			fmt.Sprintf("start Vault with storage \"dynamodb\" { table = %q, region = %q } and, for high availability, ha_enabled = \"true\"; unseal it with %s", id["table"], id["region"], keys),
		}
	case vaultconfig.Files:
		path := FilePath(id["id"])
		return []string{
			"keep every other Vault with this data stopped, the one that was copied too",
			"give the files to the user that Vault runs as: chown -R vault:vault " + shellescape.Quote(path),
			fmt.Sprintf("start Vault with storage \"file\" { path = %q }, which is for one server; unseal it with %s", path, keys),
		}
	}
	return []string{
		"keep every Vault on the source stopped",
		"start Vault on this node, with the same path, node_id and cluster_addr, and unseal it with " + keys,
		"let the other nodes join with empty data directories",
		"look at the cluster: dyn2raft check-cluster -manifest FILE",
	}
}
