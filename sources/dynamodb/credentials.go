package dynamodb

import (
	"context"
	"sync"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/config"
)

// A credentialsLoader is the SDK's chain of credential providers, which it can
// build anew: a provider that has read a shared file once does not read it
// again, so that keys which were rotated in the file would never be seen.
type credentialsLoader struct {
	// load builds the chain; nil where the keys were given and can't change.
	load func(context.Context) (aws.CredentialsProvider, error)

	mu    sync.Mutex
	chain aws.CredentialsProvider // nil until it is built anew
	last  string                  // where the last credentials came from
}

var _ aws.CredentialsProvider = (*credentialsLoader)(nil)

// Retrieve implements [aws.CredentialsProvider]. The chain keeps credentials
// until they expire.
func (c *credentialsLoader) Retrieve(ctx context.Context) (aws.Credentials, error) {
	chain, err := c.built(ctx)
	if err != nil {
		return aws.Credentials{}, err
	}
	out, err := chain.Retrieve(ctx)
	if err != nil {
		c.reload(chain) // a file that is being written may lead to another provider the next time
		return aws.Credentials{}, err
	}
	c.mu.Lock()
	c.last = out.Source
	c.mu.Unlock()
	return out, nil
}

func (c *credentialsLoader) built(ctx context.Context) (aws.CredentialsProvider, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.chain == nil {
		chain, err := c.load(ctx)
		if err != nil {
			return nil, err
		}
		c.chain = chain
	}
	return c.chain, nil
}

// current is the chain in use, for reload.
func (c *credentialsLoader) current() aws.CredentialsProvider {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.chain
}

// reload has the chain built anew, unless that was done since used was in use:
// many requests fail at once when credentials expire.
func (c *credentialsLoader) reload(used aws.CredentialsProvider) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.load != nil && c.chain == used {
		c.chain = nil
	}
}

// canChange tells whether credentials loaded anew may be others. Those of
// Options, and of this process's environment, never are.
func (c *credentialsLoader) canChange() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.load != nil && c.last != config.CredentialsSourceName
}
