package dynamodb

import (
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/aws/smithy-go"
	smithyhttp "github.com/aws/smithy-go/transport/http"
)

// TestPlainHidesCredentials gives plain what the service answers to a wrong
// signature, and variants in which the token comes earlier.
func TestPlainHidesCredentials(t *testing.T) {
	const token = "FwoGZXIvYXdzEBYaDSecret"
	for _, message := range []string{
		"The signature does not match.\n\nThe Canonical String for this request should have been\n'POST\n/\n\nhost:x\nx-amz-security-token:" + token + "\n'",
		"canonical string X-Amz-Security-Token:" + token,
	} {
		api := &smithy.GenericAPIError{Code: "InvalidSignatureException", Message: message}
		err := plain(fmt.Errorf("operation error: %w", api))
		if s := fmt.Sprintf("%v %+v %q", err, err, err.Error()); strings.Contains(s, token) || !strings.Contains(s, "InvalidSignatureException") {
			t.Errorf("printed as %s", s)
		}
		var as smithy.APIError
		if !errors.As(err, &as) || as.ErrorCode() != api.Code {
			t.Error("the cause can't be found any more")
		}
	}
	if err := errors.New("no answer"); !errors.Is(plain(err), err) || plain(err).Error() != "no answer" {
		t.Errorf("an error that is not the service's became %v", plain(err))
	}
}

// TestCodeFollowsCause: one code of AWS has several causes, which its message tells.
func TestCodeFollowsCause(t *testing.T) {
	s := &Source{opts: Options{Table: "vault", Region: "eu-central-1"}}
	for message, c := range map[string]struct{ code, want string }{
		"Signature expired: 20261130T010101Z is now earlier than 20261130T020101Z":                                                                                                           {"InvalidSignatureException", "clock-wrong map[]"},
		"Signature not yet current: 20261130T020101Z is still later than 20261130T010101Z":                                                                                                   {"InvalidSignatureException", "clock-wrong map[]"},
		"The request signature we calculated does not match the signature you provided.":                                                                                                     {"InvalidSignatureException", "credentials-refused map[]"},
		"User: arn:aws:iam::1:user/v is not authorized to perform: dynamodb:Scan on resource: arn:aws:dynamodb:eu-central-1:1:table/vault with an explicit deny in a service control policy": {"AccessDeniedException", "denied map[action:dynamodb:Scan policy: service control policy]"},
		"User: arn:aws:iam::1:user/v is not authorized to perform: dynamodb:Scan on resource: x because no identity-based policy allows the dynamodb:Scan action":                            {"AccessDeniedException", "denied map[action:dynamodb:Scan policy:]"},
	} {
		err := s.fail(t.Context(), "Scan", &smithy.GenericAPIError{Code: c.code, Message: message})
		if got := coded(err); got != c.want {
			t.Errorf("%s: %s, expected %s", message, got, c.want)
		}
	}
}

// A service that fails is not a cause that a person can fix.
func TestServiceFailure(t *testing.T) {
	s := &Source{opts: Options{Table: "vault", Region: "eu-central-1"}}
	for _, code := range []string{"InternalServerError", unknownCode} {
		cause := &smithyhttp.ResponseError{Response: &smithyhttp.Response{Response: &http.Response{StatusCode: 500}}, Err: &smithy.GenericAPIError{Code: code}}
		err := s.fail(t.Context(), "Scan", &GaveUpError{Nothing: time.Minute, Err: cause})
		if got := coded(err); got != "gave-up map[limit:time service:failing]" {
			t.Errorf("%s: %s", code, got)
		}
	}
}
