package dynamodb

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"unicode"

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

	from Setting // where they are looked for
	kind CredentialsKind
}

// A CredentialsError says which credentials could not be had, or not be used.
type CredentialsError struct {
	Kind CredentialsKind
	From Setting // where they are looked for
	// Part is set of credentials with characters that can't be a part of them, such
	// as a line break, or quotes around them: "access key", "secret key" or "session
	// token".
	Part string
	Err  error
}

func (e *CredentialsError) Error() string { return e.Err.Error() }

// Unwrap returns the cause.
func (e *CredentialsError) Unwrap() error { return e.Err }

// check refuses credentials that no request can be signed with, or that AWS has
// never made.
func (c *credentialsLoader) check(creds aws.Credentials) error {
	for _, part := range []struct{ name, text string }{
		{"access key", creds.AccessKeyID}, {"secret key", creds.SecretAccessKey}, {"session token", creds.SessionToken},
	} {
		if n := len(part.text); n > 1 && part.text[0] == part.text[n-1] && strings.ContainsAny(part.text[:1], "\"'`") {
			return &CredentialsError{Kind: c.kind, From: c.from, Part: part.name, Err: fmt.Errorf("the %s is in quotes, and they are a part of it", part.name)}
		}
		if part.text != strings.TrimSpace(part.text) || strings.ContainsFunc(part.text, unicode.IsControl) {
			return &CredentialsError{Kind: c.kind, From: c.from, Part: part.name,
				Err: fmt.Errorf("the %s has a line break, a blank at an end, or a control character in it", part.name)}
		}
	}
	return nil
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
		return aws.Credentials{}, &CredentialsError{Kind: c.kind, From: c.from, Err: err}
	}
	if err := c.check(out); err != nil {
		c.reload(chain)
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

// canChange reports whether credentials loaded anew may be others. Those of
// Options, and of this process's environment, never are.
func (c *credentialsLoader) canChange() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.load != nil && c.last != config.CredentialsSourceName
}

// FindCredentials finds the credentials that a [Source] without keys of its own
// would use now, with the SDK's chain of providers.
func FindCredentials(ctx context.Context, region string) (aws.Credentials, error) {
	cfg, _, err := loadConfig(ctx, Options{Region: region})
	if err != nil {
		return aws.Credentials{}, err
	}
	return cfg.Credentials.Retrieve(ctx)
}
