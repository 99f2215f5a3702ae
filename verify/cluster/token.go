package cluster

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"strings"

	"github.com/hashicorp/vault/api"

	"github.com/dyn2raft/dyn2raft/copier"
)

// A redirectError is returned instead of an answer that sends a request with a
// token on to another server.
type redirectError struct{ to string }

func (e *redirectError) Error() string {
	return fmt.Sprintf("the answer is a redirect to %s, and the token goes to no server but the one that was named", e.to)
}

// A tokenGuard is a transport that returns a [redirectError] for an answer that
// sends a request with a token on to another server. The client follows such an
// answer itself, and sends the token along.
type tokenGuard struct{ *http.Transport }

func (g *tokenGuard) RoundTrip(req *http.Request) (*http.Response, error) {
	resp, err := g.Transport.RoundTrip(req)
	if err != nil || resp.StatusCode < 300 || resp.StatusCode > 399 || req.Header.Get(api.AuthHeaderName) == "" {
		return resp, err
	}
	to, err := req.URL.Parse(resp.Header.Get("Location"))
	if err == nil && origin(to) == origin(req.URL) {
		return resp, nil
	}
	_ = resp.Body.Close()
	if err != nil {
		return nil, &redirectError{"what is no URL"}
	}
	return nil, &redirectError{origin(to)}
}

// origin is a URL's scheme, host and port.
func origin(u *url.URL) string {
	scheme, port := strings.ToLower(u.Scheme), u.Port()
	if port == "" {
		port = map[string]string{"http": "80", "https": "443"}[scheme]
	}
	return scheme + "://" + net.JoinHostPort(strings.ToLower(u.Hostname()), port)
}

// noRetry is the client's own policy, but for what would only be refused again.
func noRetry(ctx context.Context, resp *http.Response, err error) (bool, error) {
	if _, refused := errors.AsType[*redirectError](err); refused {
		return false, err
	}
	return api.DefaultRetryPolicy(ctx, resp, err)
}

// checkPlain refuses to send a token where everybody on the way can read it.
func checkPlain(client *api.Client, transport *http.Transport) error {
	u, err := url.Parse(client.Address())
	if err != nil || client.Token() == "" || u.Scheme != "http" {
		return err
	}
	to := u.Host
	if loopback(u.Hostname()) {
		if transport.Proxy == nil {
			return nil
		}
		proxy, err := transport.Proxy(&http.Request{URL: u})
		if err != nil || proxy == nil || loopback(proxy.Hostname()) {
			return err
		}
		to = "the proxy " + proxy.Host
	}
	return &copier.Error{Kind: copier.ErrConfig, Op: "send a token to " + to, Code: PlainToken,
		Err: errors.New("the address is http://, and everybody on the way could read the token")}
}

// loopback reports whether a host is this machine, whatever a resolver says.
func loopback(host string) bool {
	ip := net.ParseIP(host)
	return strings.EqualFold(host, "localhost") || ip != nil && ip.IsLoopback()
}
