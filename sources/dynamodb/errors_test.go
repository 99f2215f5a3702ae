package dynamodb

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/aws/smithy-go"
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
