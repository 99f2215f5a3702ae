package dynamodb

import (
	"context"
	"errors"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	awshttp "github.com/aws/aws-sdk-go-v2/aws/transport/http"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb"

	"github.com/dyn2raft/dyn2raft/sources/dynamodb/dynamotest"
	"github.com/dyn2raft/dyn2raft/sources/dynamodb/internal/ownbody"
)

// inBubble runs a parallel test in a bubble of testing/synctest: time passes when
// all of its goroutines wait, and only then.
func inBubble(t *testing.T, test func(*testing.T)) {
	t.Helper()
	t.Parallel()
	bubble(t, test)
}

// bubble is inBubble for a test that can't be parallel.
func bubble(t *testing.T, test func(*testing.T)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		time.Sleep(time.Until(time.Date(2026, 3, 1, 2, 3, 4, 0, time.UTC))) // it begins in 2000
		test(t)
	})
}

// bubbleEnv is newEnv in a bubble: the table's server and whoever is between are
// connected by pipes, since nothing there may wait for a real network.
func bubbleEnv(t *testing.T, options dynamotest.Options) *env {
	t.Helper()
	e := &env{T: t, table: "vault", net: &pipes{listeners: map[string]*pipeListener{}}, timing: shortTiming}
	options.Listener = e.net.listen("table.test")
	e.srv = dynamotest.NewServer(options)
	t.Cleanup(e.srv.Close)
	e.url = e.srv.URL
	e.db = e.srv.Client(func(o *dynamodb.Options) { o.HTTPClient = e.net.client() })
	e.ok(e.srv.CreateVaultTable(e.table))
	return e
}

// throughPipes lets a source connect to servers of the bubble.
func (e *env) throughPipes(s *Source) {
	o := s.client.Options()
	o.HTTPClient = ownbody.Client{HTTPClient: e.net.client()}
	s.client = dynamodb.New(o)
}

// serve serves a host of the bubble until the test ends, or its Close is called.
func (e *env) serve(host string, handler http.Handler) *httptest.Server {
	s := httptest.NewUnstartedServer(handler)
	_ = s.Listener.Close()
	s.Listener, s.Config.ErrorLog = e.net.listen(host), log.New(io.Discard, "", 0)
	s.Start()
	e.Cleanup(s.Close)
	return s
}

// pipes are a network within a process.
type pipes struct {
	mu        sync.Mutex
	listeners map[string]*pipeListener // by their addresses
}

func (p *pipes) listen(host string) net.Listener {
	l := &pipeListener{host: host, conns: make(chan net.Conn), closed: make(chan struct{})}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.listeners[host+":80"] = l
	return l
}

func (p *pipes) dial(ctx context.Context, _, address string) (net.Conn, error) {
	p.mu.Lock()
	l := p.listeners[address]
	p.mu.Unlock()
	if l == nil {
		return nil, &net.DNSError{Err: "no such host", Name: address, IsNotFound: true}
	}
	ours, theirs := net.Pipe()
	select {
	case l.conns <- theirs:
		return ours, nil
	case <-l.closed:
		return nil, &net.OpError{Op: "dial", Net: "pipe", Err: errors.New("connection refused")}
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (p *pipes) client() *awshttp.BuildableClient {
	return awshttp.NewBuildableClient().WithTransportOptions(func(t *http.Transport) { t.DialContext = p.dial })
}

type pipeListener struct {
	host   string
	conns  chan net.Conn
	once   sync.Once
	closed chan struct{}
}

func (l *pipeListener) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

func (l *pipeListener) Close() error   { l.once.Do(func() { close(l.closed) }); return nil }
func (l *pipeListener) Addr() net.Addr { return pipeAddr(l.host) }

type pipeAddr string

func (pipeAddr) Network() string  { return "pipe" }
func (a pipeAddr) String() string { return string(a) }
