package dynamodb

import (
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"testing"
	"testing/synctest"
	"time"

	awshttp "github.com/aws/aws-sdk-go-v2/aws/transport/http"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb"
	"github.com/aws/aws-sdk-go-v2/service/dynamodbstreams"

	"github.com/dyn2raft/dyn2raft/sources/dynamodb/dynamotest"
	"github.com/dyn2raft/dyn2raft/sources/dynamodb/internal/pipes"
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
	e := &env{T: t, table: "vault", net: &pipes.Network{}, timing: shortTiming}
	options.Listener = e.net.Listen("table.test")
	e.srv = dynamotest.NewServer(options)
	t.Cleanup(e.srv.Close)
	e.url = e.srv.URL
	e.db = e.srv.Client(func(o *dynamodb.Options) { o.HTTPClient = client(e.net) })
	e.ok(e.srv.CreateVaultTable(e.table))
	return e
}

// throughPipes lets a source connect to servers of the bubble.
func (e *env) throughPipes(s *Source) {
	o := s.client.Options()
	o.HTTPClient = client(e.net)
	s.client = dynamodb.New(o)
	so := s.streams.Options()
	so.HTTPClient = client(e.net)
	s.streams = dynamodbstreams.New(so)
}

// serve serves a host of the bubble until the test ends, or its Close is called.
func (e *env) serve(host string, handler http.Handler) *httptest.Server {
	s := httptest.NewUnstartedServer(handler)
	_ = s.Listener.Close()
	s.Listener, s.Config.ErrorLog = e.net.Listen(host), log.New(io.Discard, "", 0)
	s.Start()
	e.Cleanup(s.Close)
	return s
}

func client(n *pipes.Network) *awshttp.BuildableClient {
	return awshttp.NewBuildableClient().WithTransportOptions(func(t *http.Transport) { t.DialContext = n.Dial })
}
