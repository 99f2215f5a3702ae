package verify

import (
	"context"
	"errors"
	"io"
	"strings"

	"github.com/dyn2raft/dyn2raft/copier"
	"github.com/dyn2raft/dyn2raft/verify/vaultdb"
)

// ErrInUse is returned when a running Vault, or another program, has the
// destination's vault.db open.
var ErrInUse = vaultdb.ErrInUse

// vaultDBName is the file in a data directory that holds the entries.
const vaultDBName = "vault.db"

// fsmIndex is the Raft index that a copy leaves in a directory.
const fsmIndex = 2

// A destination is the data bucket of a vault.db, read in key order.
type destination struct {
	file    *vaultdb.File
	entries *vaultdb.Entries
	sum     [summaryBytes]byte
}

func open(file string) (*destination, error) {
	f, err := vaultdb.Open(file)
	if err != nil {
		return nil, err
	}
	return &destination{file: f, entries: f.Entries(context.Background())}, nil
}

// next returns the next key with the summary of its value, or [io.EOF] after
// the last if the file is sound. They are valid until the following call.
func (d *destination) next() (copier.Entry, error) {
	e, err := d.entries.Next()
	if errors.Is(err, io.EOF) {
		if _, err := d.entries.Check(); err != nil {
			return copier.Entry{}, err
		}
		return copier.Entry{}, io.EOF
	}
	if err != nil {
		return copier.Entry{}, err
	}
	d.sum = summarise(e.Value)
	return copier.Entry{Key: e.Key, Value: d.sum[:]}, nil
}

func (d *destination) close() error { return d.file.Close() }

// known says why a Vault changes a key without being asked to, or returns
// nothing where it may be anything. It names a likely cause and proves none: a
// lease that is gone has probably expired. Keys that Vault hardly ever changes
// by itself and that nobody can do without are not explained, such as
// core/keyring, the unseal keys and the tables of mounts.
//
// The list was made by comparing, key by key, what a Vault 1.21 does in two
// starts on a copied directory, with names from Vault's documentation.
func known(kind DiffKind, key string) string {
	for _, k := range []struct{ key, why string }{
		{"core/raft/tls", "Vault makes the keyring of its Raft TLS when it first starts, and rotates it"},
		{"core/raft/autopilot/", "Raft's autopilot notes its state"},
		{"core/lock", "the lock of the active node"},
		{"core/leader/", "the active node announces itself, and removes its predecessors' records"},
		{"core/cluster/", "what the active node says of its cluster"},
		{"sys/expire/id/", "leases are made, renewed, and removed when they expire"},
		{"sys/token/id/", "tokens are made, renewed, and removed when they expire"},
		{"sys/token/accessor/", "accessors come and go with their tokens"},
		{"sys/token/parent/", "tokens' children expire"},
		{"sys/counters/", "Vault counts requests and clients"},
	} {
		if key == k.key || strings.HasSuffix(k.key, "/") && strings.HasPrefix(key, k.key) {
			return k.why
		}
	}
	if kind != Extra {
		return ""
	}
	first, _, _ := strings.Cut(key, "/")
	switch {
	case strings.HasPrefix(key, "core/versions/"):
		return "a version of Vault notes that it has run"
	case key == "core/wrapping/jwtkey":
		return "Vault makes the key of response wrapping where there is none"
	case strings.HasSuffix(key, "/salt") && (first == "auth" || first == "audit" || first == "logical") && strings.Count(key, "/") == 2:
		return "a mount makes its salt when it is first used"
	}
	return ""
}
