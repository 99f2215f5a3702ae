package dynamodb

import (
	"net/url"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/dynamodbstreams"
)

// newStreams returns the client of DynamoDB Streams. It differs from the table's in its
// endpoint alone.
func (s *Source) newStreams(cfg aws.Config) *dynamodbstreams.Client {
	return dynamodbstreams.NewFromConfig(cfg, func(o *dynamodbstreams.Options) {
		switch {
		case s.opts.StreamsEndpoint != "":
			o.BaseEndpoint = &s.opts.StreamsEndpoint
		case s.opts.Endpoint != "":
			o.BaseEndpoint = aws.String(streamsEndpoint(s.opts.Endpoint))
		}
		if o.BaseEndpoint != nil {
			o.EndpointOptions.UseFIPSEndpoint = aws.FIPSEndpointStateUnset
			o.EndpointOptions.UseDualStackEndpoint = aws.DualStackEndpointStateUnset
		}
		o.HTTPClient = s.conns.watch(o.HTTPClient)
		o.Retryer, o.RetryMaxAttempts = aws.NopRetryer{}, 0
	})
}

// streamsEndpoint is the endpoint of DynamoDB Streams that goes with one of DynamoDB. An
// emulator has one for both.
func streamsEndpoint(endpoint string) string {
	u, err := url.Parse(endpoint)
	if err != nil || !strings.HasPrefix(u.Host, "dynamodb.") {
		return endpoint
	}
	u.Host = "streams." + u.Host
	return u.String()
}
