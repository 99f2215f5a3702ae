package verify

import (
	"slices"
	"testing"
)

const sealConfig = `{"type":"shamir","secret_shares":5,"secret_threshold":3}`

// What is equal may still be no Vault's: it is said what it lacks.
func TestNotVault(t *testing.T) {
	for name, c := range map[string]struct {
		more entries
		want []string
	}{
		"a Vault's":     {entries{"core/keyring": "k", "core/seal-config": sealConfig}, nil},
		"neither":       {nil, []string{"core/keyring", "core/seal-config"}},
		"empty keyring": {entries{"core/keyring": "", "core/seal-config": sealConfig}, []string{"core/keyring that a Vault takes (its value is empty, or not binary)"}},
		"seal refused":  {entries{"core/keyring": "k", "core/seal-config": "null"}, []string{"core/seal-config that a Vault takes (secret_shares is 0, expected 1 to 255)"}},
		"no seal":       {entries{"core/keyring": "k"}, []string{"core/seal-config"}},
	} {
		all := some(30)
		for k, v := range c.more {
			all[k] = v
		}
		dir := directory(t, all)
		rep, err := compare(t, sourceOf(all), dir, Options{})
		if err != nil || !rep.Equal() || !slices.Equal(rep.NotVault, c.want) {
			t.Errorf("%s: equal %v, lacks %v, %v", name, rep.Equal(), rep.NotVault, err)
		}
		got, err := Digests(t.Context(), dir)
		if err != nil || !slices.Equal(got.NotVault, c.want) {
			t.Errorf("%s: lacks %v, %v", name, got.NotVault, err)
		}
		if m, err := CheckManifest(t.Context(), Expected{Digests: got.Digests}, dir); err != nil || !slices.Equal(m.NotVault, c.want) {
			t.Errorf("%s: lacks %v, %v", name, m.NotVault, err)
		}
	}
}
