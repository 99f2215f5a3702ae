// Package ownbody keeps the SDK from breaking its own connections.
//
// The SDK (seen with smithy-go v1.28.9) closes the body that it gave away as
// soon as the response begins. With a quick server the transport has then not
// yet seen the body's end, takes the closed one for a failure, and drops the
// connection in the middle of the response.
package ownbody

import (
	"bytes"
	"io"
	"net/http"

	"github.com/aws/aws-sdk-go-v2/service/dynamodb"
)

// A Client gives the transport a request body of its own. It may be used from
// any goroutine if the client in it may.
type Client struct{ dynamodb.HTTPClient }

// Do sends a request, whose body it has read whole, and returns the errors of
// both.
func (c Client) Do(r *http.Request) (*http.Response, error) {
	if r.Body != nil {
		body, err := io.ReadAll(r.Body) // a few hundred bytes
		if err != nil {
			return nil, err
		}
		r.Body = io.NopCloser(bytes.NewReader(body))
	}
	return c.HTTPClient.Do(r)
}
