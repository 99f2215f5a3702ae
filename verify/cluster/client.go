package cluster

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/hashicorp/vault/api"

	"github.com/dyn2raft/dyn2raft/copier"
)

// requestTimeout holds for one request where VAULT_CLIENT_TIMEOUT says nothing.
// The library's own minute is long for somebody who waits in a window.
const requestTimeout = 15 * time.Second

// Connect returns a client as the vault command would make one: from VAULT_ADDR,
// VAULT_TOKEN, VAULT_NAMESPACE, VAULT_CACERT and the others, and with the token
// that `vault login` leaves in ~/.vault-token. address, if it is not empty,
// comes before the environment's. No request is sent. Every error is
// [copier.ErrConfig], and holds no token.
//
// Unlike the vault command it sends the token neither along a redirect to another
// server, nor, unless insecureHTTP is set, over plain HTTP off this machine, which
// is an error here.
func Connect(address string, insecureHTTP bool) (*api.Client, error) {
	cfg := api.DefaultConfig()
	if cfg.Error != nil {
		return nil, environmentError(cfg.Error)
	}
	if address != "" {
		cfg.Address, cfg.AgentAddress = address, ""
	}
	for _, a := range []string{cfg.Address, cfg.AgentAddress} {
		if err := checkAddress(a); err != nil {
			return nil, err
		}
	}
	if os.Getenv(api.EnvVaultClientTimeout) == "" {
		cfg.Timeout = requestTimeout
	}
	cfg.CheckRetry = noRetry
	client, err := api.NewClient(cfg)
	if err != nil {
		return nil, environmentError(err)
	}
	transport, ok := cfg.HttpClient.Transport.(*http.Transport)
	if !ok {
		return nil, environmentError(fmt.Errorf("its transport is a %T", cfg.HttpClient.Transport))
	}
	cfg.HttpClient.Transport = &tokenGuard{transport}
	// VAULT_WRAP_TTL would put every answer into a wrapping token.
	client.SetWrappingLookupFunc(func(string, string) string { return "" })
	if client.Token() == "" {
		token, err := loginToken()
		if err != nil {
			return nil, environmentError(err)
		}
		client.SetToken(token)
	}
	if !insecureHTTP {
		if err := checkPlain(client, transport); err != nil {
			return nil, err
		}
	}
	return client, nil
}

func environmentError(err error) error {
	return &copier.Error{Kind: copier.ErrConfig, Op: "set up Vault's client", Code: Environment, Err: err}
}

// checkAddress finds what the client would only report as a failed connection.
func checkAddress(address string) error {
	if address == "" || strings.HasPrefix(address, "unix://") {
		return nil
	}
	u, err := url.Parse(address)
	if err == nil && (u.Scheme == "http" || u.Scheme == "https") && u.Host != "" {
		return nil
	}
	shown := address
	if strings.Contains(shown, "@") {
		shown = "(not shown: it may hold a password)"
	}
	return &copier.Error{Kind: copier.ErrConfig, Op: "read Vault's address " + shown, Code: AddressForm, Err: errors.New("not a URL of a server")}
}

// loginToken is what `vault login` stores, or "". Where the file is:
// https://developer.hashicorp.com/vault/docs/commands/login
func loginToken() (string, error) {
	home, err := os.UserHomeDir()
	if err != nil {
		return "", nil // no home, no token
	}
	b, err := os.ReadFile(filepath.Join(home, ".vault-token"))
	if errors.Is(err, os.ErrNotExist) {
		return "", nil
	}
	return strings.TrimSpace(string(b)), err
}

// shownAddress is the client's address without a password.
func shownAddress(client *api.Client) string {
	u, err := url.Parse(client.Address())
	if err != nil {
		return "(not a URL)"
	}
	return u.Redacted()
}

// unreachable says why the first request got no answer of a Vault.
func unreachable(client *api.Client, err error) error {
	out := &copier.Error{Kind: copier.ErrDestination, Op: "reach Vault at " + shownAddress(client), Code: Unreached, Err: err}
	if strings.ContainsFunc(client.Token(), func(r rune) bool { return r < ' ' || r > '~' }) {
		out.Code = TokenForm
	}
	redirect, redirected := errors.AsType[*redirectError](err)
	switch text := err.Error(); {
	case redirected:
		out.Code, out.Facts = Redirected, map[string]string{"to": redirect.to}
	case is[x509.UnknownAuthorityError](err):
		out.Code = UnknownAuthority
	case is[x509.HostnameError](err):
		out.Code = OtherName
	case is[tls.RecordHeaderError](err), strings.Contains(text, "server gave HTTP response to HTTPS client"):
		out.Code = NoTLS
	case strings.Contains(text, "HTTP request to an HTTPS server"):
		out.Code = OnlyTLS
	case is[*api.ResponseError](err):
		out.Code = NotVault
	}
	return out
}

func is[T error](err error) bool {
	_, ok := errors.AsType[T](err)
	return ok
}
