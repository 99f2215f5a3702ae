package copier

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
)

const keyringKey, sealConfigKey = "core/keyring", "core/seal-config"

// VaultKeys returns the keys of two entries that every initialized Vault has: its
// keyring and the configuration of its seal. Their names are the same from Vault
// 1.0 to 1.21.
func VaultKeys() [2]string { return [...]string{keyringKey, sealConfigKey} }

// IsLock reports whether a key is that of a lock of Vault's, which a source counts and does
// not copy: that of the active node, or that of a migration. A DynamoDB table has others.
func IsLock(key string) bool { return key == "core/lock" || key == "core/migration" }

// Unlisted reports whether an entry has a segment that begins with "_", which Vault's
// storage in DynamoDB keeps and never lists (Vault 1.13 to 1.21, as all storage that
// keeps locks beside entries), and whether it is a lease: those Vault finds by listing, once
// it is unsealed, so that on DynamoDB it never restores such a one, nor revokes it.
func Unlisted(key []byte) (hidden, lease bool) {
	hidden = bytes.HasPrefix(key, []byte("_")) || bytes.Contains(key, []byte("/_"))
	return hidden, hidden && bytes.HasPrefix(key, []byte("sys/expire/id/"))
}

// CheckVault returns the seal configuration of the Vault that a source belongs
// to. An error wraps [ErrNotAVault] where [Lacks] says that there is something.
func CheckVault(ctx context.Context, src Getter) (SealConfig, error) {
	lacks, seal, err := Lacks(ctx, src)
	if err == nil && lacks != nil {
		err = &Error{Kind: ErrSource, Err: fmt.Errorf("%w: it has no %s", ErrNotAVault, strings.Join(lacks, " and no "))}
	}
	return seal, err
}

// Lacks returns what a source has none of, or nothing that a Vault takes, and every
// initialized Vault has: see [VaultKeys] and [Lack]. Where that is nothing it returns the
// configuration of the Vault's seal too.
func Lacks(ctx context.Context, src Getter) (lacks []string, seal SealConfig, err error) {
	for _, key := range VaultKeys() {
		value, found, err := src.Value(ctx, key)
		if err != nil {
			return nil, seal, err
		}
		lack := key
		if found {
			lack = Lack(key, value)
		}
		if lack != "" {
			lacks = append(lacks, lack)
		} else if key == sealConfigKey {
			seal, err = ParseSealConfig(value)
			if err != nil {
				return nil, seal, err
			}
		}
	}
	return lacks, seal, nil
}

// A keyWatch notes the values of [VaultKeys] as a stream passes: those of a source that
// can't be asked for them.
type keyWatch struct {
	Stream
	values map[string][]byte
}

func (w *keyWatch) Next() (Entry, error) {
	e, err := w.Stream.Next()
	if err == nil && (string(e.Key) == keyringKey || string(e.Key) == sealConfigKey) {
		w.values[string(e.Key)] = bytes.Clone(e.Value)
	}
	return e, err
}

// Value implements [Getter].
func (w *keyWatch) Value(_ context.Context, key string) ([]byte, bool, error) {
	value, found := w.values[key]
	return value, found, nil
}

// Lack returns "" where value, that of one of [VaultKeys], lets a Vault start as
// an initialized one. Else it returns what there is none of, in words that go
// behind "it has no": the key, and what a Vault has against the value.
func Lack(key string, value []byte) string {
	var err error
	switch {
	case len(value) == 0:
		err = errors.New("its value is empty, or not binary")
	case key == sealConfigKey:
		_, err = ParseSealConfig(value)
	}
	if err != nil {
		return fmt.Sprintf("%s that a Vault takes (%v)", key, err)
	}
	return ""
}

// A SealConfig is what core/seal-config says of how a Vault is unsealed.
type SealConfig struct {
	Type string `json:"type"` // such as "shamir"; not empty
	// Shares is the number of unseal keys, and Threshold how many of them unseal.
	// An automatic seal has 1 of each.
	Shares    int `json:"secret_shares"`
	Threshold int `json:"secret_threshold"`
	// The rest is only checked.
	StoredShares int      `json:"stored_shares"`
	PGPKeys      []string `json:"pgp_keys"`
	Nonce        string   `json:"nonce"`
	Backup       bool     `json:"backup"`
	Name         string   `json:"name"`
}

// ParseSealConfig reads the value of core/seal-config as Vault does when it
// starts, which ends there on an error: the types of JSON count, what follows the
// object does not, and the numbers have limits. Vault 1.13 and 1.21 have the same;
// that they do is tried in the end-to-end suite. The contents of PGP keys are not
// looked at.
func ParseSealConfig(value []byte) (s SealConfig, err error) {
	if err := json.NewDecoder(bytes.NewReader(value)).Decode(&s); err != nil {
		return s, fmt.Errorf("it is not the JSON that Vault writes: %w", err)
	}
	switch {
	case s.Shares < 1 || s.Shares > 255:
		return s, fmt.Errorf("secret_shares is %d, expected 1 to 255", s.Shares)
	case s.Threshold < 1 || s.Threshold > s.Shares:
		return s, fmt.Errorf("secret_threshold is %d, expected 1 to secret_shares, %d", s.Threshold, s.Shares)
	case s.Threshold == 1 && s.Shares > 1:
		return s, fmt.Errorf("secret_threshold is 1, expected 2 or more of %d secret_shares", s.Shares)
	case s.StoredShares > 1:
		return s, fmt.Errorf("stored_shares is %d, expected 1 at most", s.StoredShares)
	case len(s.PGPKeys) > 0 && len(s.PGPKeys) != s.Shares:
		return s, fmt.Errorf("it has %d pgp_keys, expected one for each of %d secret_shares", len(s.PGPKeys), s.Shares)
	}
	for _, key := range s.PGPKeys {
		if _, err := base64.StdEncoding.DecodeString(key); err != nil {
			return s, errors.New("one of its pgp_keys is not in base64")
		}
	}
	if s.Type == "" {
		s.Type = "shamir" // Vaults before 1.0 wrote none
	}
	return s, nil
}
