package dynamodb

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strconv"
	"strings"

	"github.com/aws/smithy-go"

	"github.com/dyn2raft/dyn2raft/copier"
)

// fail returns what a failed API call means to the person who reads it.
func (s *Source) fail(ctx context.Context, action string, err error) error {
	if ctx.Err() != nil {
		cause := context.Cause(ctx)
		if errors.Is(cause, context.DeadlineExceeded) && !errors.Is(err, context.DeadlineExceeded) {
			return fmt.Errorf("%w: %w", cause, plain(err)) // why it took too long
		}
		return cause
	}
	out := &copier.Error{
		Kind: copier.ErrSource,
		Op:   fmt.Sprintf("call %s on table %s in %s", action, s.opts.Table, s.place()),
		Err:  plain(err),
	}
	defer s.goOn(out)
	if e, ok := errors.AsType[*CredentialsError](err); ok {
		out.Hint = s.opts.Hint(e)
		return out
	}
	var api smithy.APIError
	var cert *tls.CertificateVerificationError
	var noTLS tls.RecordHeaderError
	var late *timeoutError
	var foreign *smithy.DeserializationError
	switch {
	case errors.As(err, &api):
		switch api.ErrorCode() {
		case "AccessDeniedException":
			out.Hint = fmt.Sprintf("allow the IAM action %s to these credentials; docs/iam.md has the whole policy", deniedAction(action, api.ErrorMessage()))
			if _, policy, ok := strings.Cut(api.ErrorMessage(), "explicit deny in a"); ok {
				out.Hint = fmt.Sprintf("a%s denies %s, whatever these credentials are allowed: it has to let them pass", strings.TrimRight(shown(policy), "."), deniedAction(action, api.ErrorMessage()))
			}
		case "ResourceNotFoundException":
			out.Hint = "there is no such table here: check table and region in storage_source, and AWS_DYNAMODB_TABLE, AWS_DYNAMODB_REGION and AWS_REGION, which beat them; and " + s.endpointFrom()
		case "ExpiredTokenException", "ExpiredToken", "RequestExpired":
			out.Hint = "the AWS credentials have expired: renew them"
		case "UnrecognizedClientException", "InvalidSignatureException", "InvalidClientTokenId", "MissingAuthenticationTokenException", "IncompleteSignature":
			if m := api.ErrorMessage(); strings.Contains(m, "Signature expired") || strings.Contains(m, "not yet current") {
				out.Hint = "this machine's clock differs from AWS's, which takes a signature for some minutes only: set it (timedatectl, chronyc), then run the same command again"
				break
			}
			out.Hint = "AWS does not take these credentials: check the access key, the secret key, the session token, the region, and this machine's clock"
		case unknownCode: // an answer without one
			if status := statusOf(err); action == "DescribeTable" && status < 500 { // it is the first that is asked
				out.Hint = s.hintForeign()
			}
		}
	case errors.As(err, &cert):
		out.Hint = "the endpoint's certificate is not trusted here: set AWS_CA_BUNDLE to the file with its authority's certificate, or check " + s.endpointFrom()
	case errors.As(err, &noTLS), errors.Is(err, http.ErrSchemeMismatch):
		out.Hint = "what answers there does not speak TLS: an endpoint without a scheme is taken for https; write http://… if that is meant, or check the proxy: see " + s.endpointFrom()
	case (errors.As(err, &foreign) || isUndecoded(err)) && action == "DescribeTable", errors.Is(err, errNoTable), errors.Is(err, errTooLarge):
		out.Hint = s.hintForeign()
	case errors.As(err, &late) && late.connected:
		out.Hint = "it takes connections and does not answer: check the network between here and there (a firewall or a proxy that drops what is large or slow), and " + s.endpointFrom()
	case isDial(err):
		out.Hint = "the endpoint can't be reached from here: check " + s.endpointFrom() + ", the region, the network and " + s.proxyFrom()
	}
	return out
}

// statusOf is the HTTP status of a response that is an error, 0 where there is none.
func statusOf(err error) int {
	var status interface{ HTTPStatusCode() int }
	if !errors.As(err, &status) {
		return 0
	}
	return status.HTTPStatusCode()
}

// errNoTable is the answer to DescribeTable of what is no DynamoDB.
var errNoTable = errors.New("the response describes no table")

const unknownCode = "UnknownError" // the SDK's, of an error without a code

func (s *Source) hintForeign() string {
	return "what answers there is not DynamoDB: check " + s.endpointFrom() + " and " + s.proxyFrom()
}

// endpointFrom names what the endpoint is to be looked for in.
func (s *Source) endpointFrom() string {
	for _, x := range s.settings {
		switch {
		case x.Name != SettingEndpoint:
		case x.Variable != "":
			return x.Variable + ", which sets the endpoint"
		default:
			return fmt.Sprintf("%s of the AWS profile %q, which sets the endpoint", x.Key, x.Profile)
		}
	}
	return "endpoint in storage_source and AWS_DYNAMODB_ENDPOINT"
}

// proxyFrom names what the proxy is to be looked for in.
func (s *Source) proxyFrom() string {
	for _, x := range s.settings {
		if x.Name == SettingProxy {
			return "the proxy of " + x.Variable + " (" + x.Value + ")"
		}
	}
	return "the proxy (HTTPS_PROXY, HTTP_PROXY, NO_PROXY)"
}

// goOn adds to the hint of an error that ended the tries what to do then.
func (s *Source) goOn(out *copier.Error) {
	gaveUp, ok := errors.AsType[*GaveUpError](out.Err)
	if !ok || out.Hint != "" && gaveUp.Nothing == 0 {
		return
	}
	cause := "fix the cause"
	if statusOf(out.Err) >= 500 {
		cause = "the service fails: wait until it has recovered (see AWS's Health Dashboard, or, where it is not AWS's, its log)"
	}
	words := []string{cmp.Or(out.Hint, cause)}
	if then := s.opts.Hint(gaveUp); then != "" {
		words = append(words, then)
	}
	out.Hint = strings.Join(words, ", then ")
}

// isDial reports whether no connection came about.
func isDial(err error) bool {
	var dns *net.DNSError
	var op *net.OpError
	var late *timeoutError
	if errors.As(err, &late) {
		return !late.connected
	}
	return errors.As(err, &dns) || errors.As(err, &op) && (op.Op == "dial" || op.Op == "proxyconnect")
}

// A plainError is an error of the SDK in fewer words.
type plainError struct {
	text string
	err  error
}

func (e *plainError) Error() string { return e.text }
func (e *plainError) Unwrap() error { return e.err }

// longestText bounds what is printed of an error, in bytes: the service may send
// as much as it likes.
const longestText = 1 << 10

// cut ends a text after longestText bytes.
func cut(text string) string {
	if len(text) <= longestText {
		return text
	}
	return strings.ToValidUTF8(text[:longestText], "") + "…"
}

// plain words an error of the service so that it can be printed. Of its message
// only the first line is kept: for a wrong signature the rest repeats the
// request that was signed, session token included.
func plain(err error) error {
	out := worded(err)
	if text := out.Error(); len(text) > longestText {
		return &plainError{cut(text), err}
	}
	return out
}

func worded(err error) error {
	var gaveUp *GaveUpError
	if errors.As(err, &gaveUp) {
		return &plainError{gaveUp.what() + ": " + plain(gaveUp.Err).Error(), err}
	}
	var api smithy.APIError
	var op *net.OpError
	var late *timeoutError
	var foreign *smithy.DeserializationError
	var bad *badResponseError
	switch {
	case errors.As(err, &late):
		return late
	case errors.As(err, &bad):
		return &plainError{bad.Error(), err} // without the SDK's status 200
	case errors.As(err, &api) && api.ErrorCode() == unknownCode && statusOf(err) != 0:
		return &plainError{fmt.Sprintf("HTTP status %d, and no error of DynamoDB's", statusOf(err)), err}
	case errors.As(err, &api):
	case errors.As(err, &foreign) && statusOf(err) != 0:
		return &plainError{fmt.Sprintf("HTTP status %d with what is no answer of DynamoDB: %v", statusOf(err), foreign.Err), err}
	case errors.As(err, &op):
		return &plainError{op.Error(), err} // without the SDK's zero status and empty request id
	case errors.Is(err, context.DeadlineExceeded):
		return &plainError{"no answer in time", err}
	default:
		return err
	}
	message, _, _ := strings.Cut(cut(api.ErrorMessage()), "\n")
	if i := strings.Index(strings.ToLower(message), "x-amz-security-token"); i >= 0 {
		message = message[:i] + "…"
	}
	text := shown(api.ErrorCode())
	if message != "" {
		text += ": " + message
	}
	var id interface{ ServiceRequestID() string }
	if errors.As(err, &id) && id.ServiceRequestID() != "" {
		text += " (request " + id.ServiceRequestID() + ")"
	}
	return &plainError{text, err}
}

// shown is a text that the table or the service has a part in, quoted where it is
// more than the plain text of one line.
func shown(s string) string {
	if quoted := strconv.Quote(s); quoted != `"`+s+`"` {
		return quoted
	}
	return s
}

// deniedAction is the IAM action that AWS says is missing, which for an
// encrypted table may be one of KMS, or else the action's own.
func deniedAction(action, message string) string {
	if _, rest, ok := strings.Cut(message, "not authorized to perform: "); ok {
		if named, _, _ := strings.Cut(rest, " "); strings.Contains(named, ":") {
			return cut(named)
		}
	}
	return "dynamodb:" + action
}

// place names where the table is looked for.
func (s *Source) place() string {
	if s.custom {
		return s.opts.Region + " at " + s.endpoint
	}
	return s.opts.Region
}
