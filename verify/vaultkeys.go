package verify

import "github.com/dyn2raft/dyn2raft/copier"

// vaultKeys is what was seen of [copier.VaultKeys].
type vaultKeys [2]struct {
	seen bool
	lack string // see [copier.Lack]
}

var theKeys = copier.VaultKeys()

// see takes notice of an entry.
func (v *vaultKeys) see(e copier.Entry) {
	for i, name := range theKeys {
		if string(e.Key) == name {
			v[i].seen, v[i].lack = true, copier.Lack(name, e.Value)
		}
	}
}

func (v *vaultKeys) join(o vaultKeys) {
	for i := range v {
		if o[i].seen {
			v[i] = o[i]
		}
	}
}

// missing returns what a Vault lacks.
func (v *vaultKeys) missing() (out []string) {
	for i, name := range theKeys {
		switch {
		case !v[i].seen:
			out = append(out, name)
		case v[i].lack != "":
			out = append(out, v[i].lack)
		}
	}
	return out
}
