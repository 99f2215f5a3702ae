package dynamodb

import (
	"context"
	"maps"
	"net"
	"net/http"
	"slices"
	"sync"

	awshttp "github.com/aws/aws-sdk-go-v2/aws/transport/http"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb"
)

// conns are the open connections of a source. The SDK's client hides its transport,
// and with that the way to close those that are idle.
type conns struct {
	mu   sync.Mutex
	open map[*conn]bool
}

type conn struct {
	net.Conn
	of *conns
}

func (c *conn) Close() error {
	c.of.mu.Lock()
	delete(c.of.open, c)
	c.of.mu.Unlock()
	return c.Conn.Close()
}

// watch returns a client of the SDK's that tells of its connections.
func (c *conns) watch(through dynamodb.HTTPClient) dynamodb.HTTPClient {
	client, ok := through.(*awshttp.BuildableClient)
	if !ok {
		return through
	}
	return client.WithTransportOptions(func(t *http.Transport) {
		dial := t.DialContext
		t.DialContext = func(ctx context.Context, network, address string) (net.Conn, error) {
			raw, err := dial(ctx, network, address)
			if err != nil {
				return nil, err
			}
			opened := &conn{raw, c}
			c.mu.Lock()
			defer c.mu.Unlock()
			c.open[opened] = true
			return opened, nil
		}
	})
}

// close closes all of them. None is in use any more.
func (c *conns) close() {
	c.mu.Lock()
	open := slices.Collect(maps.Keys(c.open))
	c.mu.Unlock()
	for _, conn := range open {
		_ = conn.Close() // nothing is in it
	}
}
