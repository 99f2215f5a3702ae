package copier

import (
	"context"
	"fmt"
	"strings"
)

// VaultKeys returns the keys of two entries that every initialized Vault has: its
// keyring and the configuration of its seal. Their names are the same from Vault
// 1.0 to 1.21.
func VaultKeys() [2]string { return [...]string{"core/keyring", "core/seal-config"} }

// CheckVault returns the seal configuration of the Vault that a source belongs
// to. An error wraps [ErrNotAVault] where that, or the keyring, is missing or
// empty: a Vault that starts on a copy of such a source finds itself not
// initialized.
func CheckVault(ctx context.Context, src Getter) (sealConfig []byte, err error) {
	var missing []string
	for _, key := range VaultKeys() {
		if sealConfig, _, err = src.Value(ctx, key); err != nil {
			return nil, err
		}
		if len(sealConfig) == 0 {
			missing = append(missing, key)
		}
	}
	if missing != nil {
		return nil, &Error{Kind: ErrSource, Err: fmt.Errorf("%w: it has no %s", ErrNotAVault, strings.Join(missing, " and no "))}
	}
	return sealConfig, nil
}
