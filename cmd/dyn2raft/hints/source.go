package hints

import (
	"strings"

	"github.com/dyn2raft/dyn2raft/copier"
	"github.com/dyn2raft/dyn2raft/copier/vaultconfig"
	"github.com/dyn2raft/dyn2raft/sources/dynamodb"
)

// fileID begins the id of a source or a destination that is a folder of Vault's file
// storage. The path follows.
const fileID = "file "

// FileID is the id of a folder of Vault's file storage.
func FileID(path string) string { return fileID + path }

// FilePath is the folder that an id is of, and "" where it is another's.
func FilePath(id string) string {
	if path, ok := strings.CutPrefix(id, fileID); ok {
		return path
	}
	return ""
}

// SourceType is the type that a source has in a configuration, by what it has told of
// itself.
func SourceType(info copier.Info) string {
	for name, kind := range map[string]string{"raft_source": vaultconfig.Raft, "raft_snapshot": vaultconfig.RaftSnapshot, "dynamodb_export": vaultconfig.DynamoDBExport} {
		if _, ok := info.Facts[name]; ok {
			return kind
		}
	}
	if FilePath(info.ID) != "" {
		return vaultconfig.Files
	}
	return vaultconfig.DynamoDB
}

// DestinationType is the type that a destination has in a configuration, by what is on
// record of it.
func DestinationType(id copier.Identity) string {
	switch {
	case id["table"] != "":
		return vaultconfig.DynamoDB
	case id["form"] != "":
		return vaultconfig.RaftSnapshot
	case id["backend"] != "":
		return vaultconfig.Files
	}
	return vaultconfig.Raft
}

// Destination is what a person calls a destination: "the data directory /opt/vault/data".
// It is not fit for a terminal yet.
func Destination(id copier.Identity) string {
	switch DestinationType(id) {
	case vaultconfig.DynamoDB:
		return "table " + id["table"] + " in " + id["region"]
	case vaultconfig.RaftSnapshot:
		return "the snapshot " + id["path"]
	case vaultconfig.Files:
		return "the files in " + FilePath(id["id"])
	}
	return "the data directory " + id["path"]
}

// Source is what a person calls a source: "table vault". It is not fit for a terminal yet.
func Source(info copier.Info) string {
	switch SourceType(info) {
	case vaultconfig.Raft:
		return "integrated storage " + info.Name
	case vaultconfig.RaftSnapshot:
		return "snapshot " + info.Name
	case vaultconfig.Files:
		return info.Name
	case vaultconfig.DynamoDBExport:
		var f dynamodb.ExportFact
		_, _ = info.Facts.Get("dynamodb_export", 1, &f) // without it the time is not known
		return "the export of " + f.Time + " of table " + info.Name
	}
	return "table " + info.Name
}

// SourceAndID adds the ID, where the name does not say it.
func SourceAndID(info copier.Info) string {
	if strings.HasSuffix(info.Name, info.ID) {
		return Source(info)
	}
	return Source(info) + ", " + info.ID
}

// SourceWord is what a source is called beside a destination: "table" or "source".
func SourceWord(info copier.Info) string {
	if SourceType(info) != vaultconfig.DynamoDB {
		return "source"
	}
	return "table"
}

// destinationWords are what a type of destination is called in a word, and what a copy has
// put there.
var destinationWords = map[string][2]string{
	vaultconfig.Raft:         {"directory", "vault.db"},
	vaultconfig.DynamoDB:     {"table", "the copy"},
	vaultconfig.RaftSnapshot: {"snapshot", "the snapshot"},
	vaultconfig.Files:        {"files", "the copy"},
}

// DestinationWord is what a type of destination is called beside a source.
func DestinationWord(kind string) string { return destinationWords[kind][0] }

// ResultWord is what a copy has put into a type of destination.
func ResultWord(kind string) string { return destinationWords[kind][1] }
