//go:build e2e

package e2e

import (
	"encoding/base64"
	"fmt"
	"net/http"
	"testing"
)

// transitSeal starts a Vault with a transit key, and returns the stanza of the seal that
// has it.
func transitSeal(t *testing.T) string {
	n := newNode(t, "seal")
	v := startVault(t, n, `storage "inmem" {}`)
	v.unseal(t, v.initialize(t))
	v.waitHealth(t, http.StatusOK)
	v.write(t, "sys/mounts/transit", map[string]any{"type": "transit"})
	v.write(t, "transit/keys/unseal", nil)
	return fmt.Sprintf(`
seal "transit" {
  address         = %q
  token           = %q
  key_name        = "unseal"
  mount_path      = "transit/"
  disable_renewal = "true"
}
`, n.apiAddr(), v.token)
}

// rootToken makes one as `vault operator generate-root` does.
func (v *vault) rootToken(t *testing.T, recovery []string) string {
	t.Helper()
	anonymous := v.as("")
	attempt := anonymous.call(t, http.MethodPut, "sys/generate-root/attempt", map[string]any{})
	var encoded string
	for _, share := range recovery[:2] {
		answer := anonymous.call(t, http.MethodPut, "sys/generate-root/update", map[string]any{"key": share, "nonce": attempt["nonce"]})
		encoded, _ = answer["encoded_token"].(string)
	}
	token, err := base64.RawStdEncoding.DecodeString(encoded)
	otp, _ := attempt["otp"].(string)
	if err != nil || len(token) == 0 || len(token) != len(otp) {
		t.Fatalf("two recovery keys make the token %q of the password %q (%v)", encoded, otp, err)
	}
	for i := range token {
		token[i] ^= otp[i]
	}
	return string(token)
}
