package hints

import (
	"github.com/dyn2raft/dyn2raft/copier"
	"github.com/dyn2raft/dyn2raft/copier/vaultconfig"
	"github.com/dyn2raft/dyn2raft/sources/dynamodb"
)

// SourceType is the type that a source has in a configuration, by what it has told of
// itself.
func SourceType(info copier.Info) string {
	for name, kind := range map[string]string{"raft_source": vaultconfig.Raft, "raft_snapshot": vaultconfig.RaftSnapshot, "dynamodb_export": vaultconfig.DynamoDBExport} {
		if _, ok := info.Facts[name]; ok {
			return kind
		}
	}
	return vaultconfig.DynamoDB
}

// Source is what a person calls a source: "table vault". It is not fit for a terminal yet.
func Source(info copier.Info) string {
	switch SourceType(info) {
	case vaultconfig.Raft:
		return "integrated storage " + info.Name
	case vaultconfig.RaftSnapshot:
		return "snapshot " + info.Name
	case vaultconfig.DynamoDBExport:
		var f dynamodb.ExportFact
		_, _ = info.Facts.Get("dynamodb_export", 1, &f) // without it the time is not known
		return "the export of " + f.Time + " of table " + info.Name
	}
	return "table " + info.Name
}
