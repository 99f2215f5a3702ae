package verify

import (
	"slices"
	"testing"
)

// What is equal may still be no Vault's: it is said what it lacks.
func TestNotVault(t *testing.T) {
	for name, c := range map[string]struct {
		more entries
		want []string
	}{
		"a Vault's":     {entries{"core/keyring": "k", "core/seal-config": "{}"}, nil},
		"neither":       {nil, []string{"core/keyring", "core/seal-config"}},
		"empty keyring": {entries{"core/keyring": "", "core/seal-config": "{}"}, []string{"core/keyring"}},
		"no seal":       {entries{"core/keyring": "k"}, []string{"core/seal-config"}},
	} {
		all := some(30)
		for k, v := range c.more {
			all[k] = v
		}
		dir := directory(t, all)
		rep, err := compare(t, &fakeSource{entries: all}, dir, Options{})
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
