package dynamodb

import (
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

// fail returns the error of a failed API call.
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
	out.Code, out.Facts = s.codeOf(action, err)
	if gaveUp, ok := errors.AsType[*GaveUpError](err); ok && (gaveUp.Nothing > 0 || out.Code == "") {
		out.Err = &copier.Error{Code: out.Code, Facts: out.Facts, Err: out.Err}
		out.Code, out.Facts = GaveUp, gaveUp.facts()
	}
	return out
}

// facts are those of code GaveUp.
func (e *GaveUpError) facts() map[string]string {
	out := map[string]string{"limit": "number", "service": ""}
	switch {
	case e.Nothing > 0:
		out["limit"] = "time"
	case e.Prepare:
		out["limit"] = "prepare"
	}
	if statusOf(e.Err) >= 500 {
		out["service"] = "failing"
	}
	return out
}

// codeOf finds the code of a failed API call by its cause, "" where there is none.
func (s *Source) codeOf(action string, err error) (copier.Code, map[string]string) {
	var api smithy.APIError
	var credentials *CredentialsError
	var cert *tls.CertificateVerificationError
	var noTLS tls.RecordHeaderError
	var late *timeoutError
	var foreign *smithy.DeserializationError
	where := s.whereFrom()
	switch {
	case errors.As(err, &credentials):
		return AWSSettings, nil
	case errors.As(err, &api):
		switch api.ErrorCode() {
		case "AccessDeniedException":
			_, policy, _ := strings.Cut(api.ErrorMessage(), "explicit deny in a")
			return Denied, map[string]string{"action": deniedAction(action, api.ErrorMessage()), "policy": strings.TrimRight(shown(policy), ".")}
		case "ResourceNotFoundException":
			return NoTable, where
		case "ExpiredTokenException", "ExpiredToken", "RequestExpired":
			return CredentialsExpired, nil
		case "UnrecognizedClientException", "InvalidSignatureException", "InvalidClientTokenId", "MissingAuthenticationTokenException", "IncompleteSignature":
			if m := api.ErrorMessage(); strings.Contains(m, "Signature expired") || strings.Contains(m, "not yet current") {
				return ClockWrong, nil
			}
			return CredentialsRefused, nil
		case unknownCode: // an answer without one
			if action == "DescribeTable" && statusOf(err) < 500 { // it is the first that is asked
				return NotDynamoDB, where
			}
		}
	case errors.As(err, &cert):
		return NotTrusted, where
	case errors.As(err, &noTLS), errors.Is(err, http.ErrSchemeMismatch):
		return NoTLS, where
	case (errors.As(err, &foreign) || isUndecoded(err)) && action == "DescribeTable", errors.Is(err, errNoTable), errors.Is(err, errTooLarge):
		return NotDynamoDB, where
	case errors.As(err, &late) && late.connected:
		return NoAnswer, where
	case isDial(err):
		return Unreachable, where
	}
	return "", nil
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

// whereFrom are the facts of where the endpoint and the proxy were set.
func (s *Source) whereFrom() map[string]string {
	out := map[string]string{"endpoint_from": "", "proxy_from": "", "proxy": ""}
	for _, x := range s.settings {
		switch {
		case x.Name == SettingProxy:
			out["proxy_from"], out["proxy"] = x.Variable, x.Value
		case x.Name != SettingEndpoint:
		case x.Variable != "":
			out["endpoint_from"] = x.Variable
		default:
			out["endpoint_from"] = fmt.Sprintf("%s of the AWS profile %q", x.Key, x.Profile)
		}
	}
	return out
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
