package dynamodb

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"strings"

	"github.com/aws/smithy-go"

	"github.com/dyn2raft/dyn2raft/copier"
)

// fail returns what a failed API call means to the person who reads it.
func (s *Source) fail(ctx context.Context, action string, err error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	out := &copier.Error{
		Kind: copier.ErrSource,
		Op:   fmt.Sprintf("call %s on table %s in %s", action, s.opts.Table, s.place()),
		Err:  plain(err),
	}
	var api smithy.APIError
	var dns *net.DNSError
	var op *net.OpError
	var cert *tls.CertificateVerificationError
	switch {
	case errors.As(err, &api):
		switch api.ErrorCode() {
		case "AccessDeniedException":
			out.Hint = fmt.Sprintf("allow the IAM action %s to these credentials; docs/iam.md has the whole policy", deniedAction(action, api.ErrorMessage()))
		case "ResourceNotFoundException":
			out.Hint = "there is no such table here: check table, region and endpoint in storage_source, and AWS_DYNAMODB_TABLE, AWS_DYNAMODB_REGION, AWS_REGION and AWS_DYNAMODB_ENDPOINT, which beat them"
		case "ExpiredTokenException", "ExpiredToken", "RequestExpired":
			out.Hint = "the AWS credentials have expired: renew them, then run the same command again"
		case "UnrecognizedClientException", "InvalidSignatureException", "InvalidClientTokenId", "MissingAuthenticationTokenException", "IncompleteSignature":
			out.Hint = "AWS does not take these credentials: check the access key, the secret key, the session token, the region, and this machine's clock"
		case "ProvisionedThroughputExceededException", "ThrottlingException", "RequestLimitExceeded":
			out.Hint = "the table has too little read capacity: raise it for the time of the copy, or use fewer workers (-max-parallel)"
		}
	case errors.As(err, &cert):
		out.Hint = "the endpoint's certificate is not trusted here: set AWS_CA_BUNDLE to the file with its authority's certificate, or check endpoint in storage_source and AWS_DYNAMODB_ENDPOINT"
	case errors.As(err, &dns), errors.As(err, &op) && (op.Op == "dial" || op.Op == "proxyconnect"):
		out.Hint = "the endpoint can't be reached from here: check region and endpoint in storage_source, AWS_DYNAMODB_ENDPOINT, the network and the proxy"
	}
	return out
}

// A plainError is an error of the SDK in fewer words.
type plainError struct {
	text string
	err  error
}

func (e *plainError) Error() string { return e.text }
func (e *plainError) Unwrap() error { return e.err }

// plain words an error of the service so that it can be printed. Of its message
// only the first line is kept: for a wrong signature the rest repeats the
// request that was signed, session token included.
func plain(err error) error {
	var api smithy.APIError
	var op *net.OpError
	switch {
	case errors.As(err, &api):
	case errors.As(err, &op):
		return &plainError{op.Error(), err} // without the SDK's zero status and empty request id
	default:
		return err
	}
	message, _, _ := strings.Cut(api.ErrorMessage(), "\n")
	if i := strings.Index(strings.ToLower(message), "x-amz-security-token"); i >= 0 {
		message = message[:i] + "…"
	}
	text := api.ErrorCode()
	if message != "" {
		text += ": " + message
	}
	var id interface{ ServiceRequestID() string }
	if errors.As(err, &id) && id.ServiceRequestID() != "" {
		text += " (request " + id.ServiceRequestID() + ")"
	}
	return &plainError{text, err}
}

// deniedAction is the IAM action that AWS says is missing, which for an
// encrypted table may be one of KMS, or else the action's own.
func deniedAction(action, message string) string {
	if _, rest, ok := strings.Cut(message, "not authorized to perform: "); ok {
		if named, _, _ := strings.Cut(rest, " "); strings.Contains(named, ":") {
			return named
		}
	}
	return "dynamodb:" + action
}

// place names where the table is looked for.
func (s *Source) place() string {
	if s.opts.Endpoint != "" {
		return s.opts.Region + " at " + s.opts.Endpoint
	}
	return s.opts.Region
}
