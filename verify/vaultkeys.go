package verify

import "github.com/dyn2raft/dyn2raft/copier"

// vaultKeys are those of [copier.VaultKeys] that were seen, with a value.
type vaultKeys [2]bool

var theKeys = copier.VaultKeys()

// see takes notice of an entry. has reports whether it has a value.
func (v *vaultKeys) see(key []byte, has func() bool) {
	for i, name := range theKeys {
		if string(key) == name && has() {
			v[i] = true
		}
	}
}

func (v *vaultKeys) join(o vaultKeys) {
	for i := range v {
		v[i] = v[i] || o[i]
	}
}

// missing returns those that were not seen.
func (v *vaultKeys) missing() (out []string) {
	for i, name := range theKeys {
		if !v[i] {
			out = append(out, name)
		}
	}
	return out
}
