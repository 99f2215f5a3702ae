package raft

import (
	"google.golang.org/protobuf/encoding/protowire"
)

// FSMIndex and FSMTerm are where the FSM stands. Any Vault that joins has a log of its own with one
// entry, the configuration it bootstrapped: index 1, term 1. A leader whose
// own history connects there replays its log to the newcomer, and as entries
// that were loaded here are in no log, the newcomer would never get them. From
// index 2 on nothing connects, and the leader sends all of vault.db as a
// snapshot. The log store has no entry at or before this index (in fact none),
// and its CurrentTerm is not below this term.
const (
	FSMIndex uint64 = 2
	FSMTerm  uint64 = 1
)

// Buckets of vault.db, and keys of the config bucket.
const (
	configBucketName = "config"
	dataBucketName   = "data"

	latestIndexesKey = "latest_indexes"
	latestConfigKey  = "latest_config"
)

// A pair is a key and value of the config bucket.
type pair struct {
	key   string
	value []byte
}

// configBucket returns the content of the bucket config, sorted by key.
//
// There is no local_node_config: Vault makes one when it finds none, from the
// node's suffrage in latest_config, and versions before it had the key do
// without.
func configBucket(nodeID, address string) []pair {
	return []pair{
		{latestConfigKey, configuration(FSMIndex, nodeID, address)},
		{latestIndexesKey, indexes(FSMTerm, FSMIndex)},
	}
}

// indexes encodes the protobuf message {1: term, 2: index}.
func indexes(term, index uint64) []byte {
	var b []byte
	b = protowire.AppendTag(b, 1, protowire.VarintType)
	b = protowire.AppendVarint(b, term)
	b = protowire.AppendTag(b, 2, protowire.VarintType)
	return protowire.AppendVarint(b, index)
}

// configuration encodes the protobuf message {1: index, 2: repeated server}
// with one server {1: suffrage, 2: id, 3: address}. Its suffrage is voter,
// which is 0 and thus not written.
func configuration(index uint64, nodeID, address string) []byte {
	var server []byte
	server = protowire.AppendTag(server, 2, protowire.BytesType)
	server = protowire.AppendString(server, nodeID)
	server = protowire.AppendTag(server, 3, protowire.BytesType)
	server = protowire.AppendString(server, address)

	var b []byte
	b = protowire.AppendTag(b, 1, protowire.VarintType)
	b = protowire.AppendVarint(b, index)
	b = protowire.AppendTag(b, 2, protowire.BytesType)
	return protowire.AppendBytes(b, server)
}
