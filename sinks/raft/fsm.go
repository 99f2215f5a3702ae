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

// parseConfiguration decodes what configuration encodes, with any number of servers.
func parseConfiguration(b []byte) (index uint64, peers []Peer, err error) {
	err = eachField(b, func(n protowire.Number, v uint64, b []byte) error {
		switch n {
		case 1:
			index = v
		case 2:
			var p Peer
			err := eachField(b, func(n protowire.Number, v uint64, b []byte) error {
				switch n {
				case 1:
					p.Suffrage = v
				case 2:
					p.ID = string(b)
				case 3:
					p.Address = string(b)
				}
				return nil
			})
			peers = append(peers, p)
			return err
		}
		return nil
	})
	return index, peers, err
}

// eachField calls f with each number, and each text or message, of a protobuf message.
func eachField(b []byte, f func(n protowire.Number, v uint64, b []byte) error) error {
	for len(b) > 0 {
		n, kind, size := protowire.ConsumeTag(b)
		if size < 0 {
			return protowire.ParseError(size)
		}
		b = b[size:]
		var v uint64
		var text []byte
		switch kind {
		case protowire.VarintType:
			v, size = protowire.ConsumeVarint(b)
		case protowire.BytesType:
			text, size = protowire.ConsumeBytes(b)
		default:
			size = protowire.ConsumeFieldValue(n, kind, b)
		}
		if size < 0 {
			return protowire.ParseError(size)
		}
		b = b[size:]
		if err := f(n, v, text); err != nil {
			return err
		}
	}
	return nil
}
