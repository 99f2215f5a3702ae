package cluster

import "github.com/dyn2raft/dyn2raft/copier"

// The codes of this package's errors.
var (
	// Unreached: nobody answers. NotVault: somebody else does.
	Unreached = copier.NewCode("vault-unreached")
	NotVault  = copier.NewCode("vault-not-there")
	// AddressForm: the address is no URL of a server. Environment: Vault's variables, or
	// the files that they name, can't be used.
	AddressForm = copier.NewCode("vault-address")
	Environment = copier.NewCode("vault-environment")
	// TokenForm: the token has characters that no header takes.
	TokenForm = copier.NewCode("vault-token")
	// PlainToken: the token would be sent over a network in the open.
	PlainToken = copier.NewCode("vault-token-plain")
	// Redirected: the server sends requests on, and a token is not sent along. Facts: the
	// address that they are sent to.
	Redirected = copier.NewCode("vault-redirect", "to")
	// UnknownAuthority and OtherName: the server's certificate is not trusted, or has
	// another name in it.
	UnknownAuthority = copier.NewCode("vault-authority")
	OtherName        = copier.NewCode("vault-name")
	// NoTLS: the listener speaks none. OnlyTLS: it speaks nothing else.
	NoTLS   = copier.NewCode("vault-no-tls")
	OnlyTLS = copier.NewCode("vault-only-tls")
)
