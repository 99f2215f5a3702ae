//go:build e2e

package e2e

import (
	"encoding/base64"
	"fmt"
	"net/http"
	"testing"
)

// TestAutoUnseal is the guide's main case: a Vault that a seal unseals, here the transit
// engine of a second Vault. The new one must unseal by itself, its recovery keys must still
// make a root token, and two nodes must join it.
func TestAutoUnseal(t *testing.T) {
	s := &scenario{t: t, old: newNode(t, "old")}
	s.step("start DynamoDB Local", func() { s.table = openTable(startDynamoDBLocal(t).URL) })
	s.step("start the Vault whose transit key is the seal", func() { s.old.seal = transitSeal(t) })
	s.fillAndEnd((*process).stop)
	if s.keys.shares != nil || s.keys.recovery == nil {
		t.Fatalf("the old Vault has %d unseal keys and %d recovery keys: it does not unseal by itself", len(s.keys.shares), len(s.keys.recovery))
	}

	first := newNode(t, "node1")
	first.seal = s.old.seal
	s.copy(first, "")
	v := s.newVault(first, "")
	s.step("the recovery keys make a root token", func() {
		if code, _, err := v.as(v.rootToken(t, s.keys.recovery)).do(http.MethodGet, "sys/policy", nil); err != nil || code != http.StatusOK {
			t.Fatalf("with it, a list of the policies is answered %d (%v), want 200", code, err)
		}
	})
	for _, n := range append(s.join(s.restart(v, "")), first) {
		s.wantNothingLost(n)
	}
}

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
