package hints

import (
	"errors"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"

	awsconfig "github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/smithy-go"

	"github.com/dyn2raft/dyn2raft/sources/dynamodb"
)

// TestAWSHint: what is said follows what is wrong, and names where that stands.
func TestAWSHint(t *testing.T) {
	type vars map[string]string
	of := func(kind dynamodb.CredentialsKind, from dynamodb.Setting, part string) error {
		return &dynamodb.CredentialsError{Kind: kind, From: from, Part: part, Err: errors.New("broken")}
	}
	variable := func(name string) dynamodb.Setting { return dynamodb.Setting{Variable: name} }
	profile := func(name, key string) dynamodb.Setting { return dynamodb.Setting{Profile: name, Key: key} }
	for name, c := range map[string]struct {
		err  error
		env  vars
		want string
		not  string
	}{
		"SSO":                  {of(dynamodb.CredentialsSSO, profile("my prod", "sso_session"), ""), nil, "aws sso login --profile 'my prod', as the user", "access_key"},
		"SSO, default":         {of(dynamodb.CredentialsSSO, profile("default", "sso_session"), ""), nil, "aws sso login, as the user", "--profile"},
		"SSO by sudo":          {of(dynamodb.CredentialsSSO, profile("default", "sso_session"), ""), vars{"SUDO_USER": "me"}, "sudo --preserve-env=AWS_PROFILE", ""},
		"login":                {of(dynamodb.CredentialsLogin, profile("p", "login_session"), ""), nil, "aws login --profile p", ""},
		"IRSA, no file":        {of(dynamodb.CredentialsWebIdentity, variable("AWS_WEB_IDENTITY_TOKEN_FILE"), ""), vars{"AWS_WEB_IDENTITY_TOKEN_FILE": "/no/token"}, "AWS_WEB_IDENTITY_TOKEN_FILE names /no/token, and uid", "trust policy"},
		"IRSA, refused":        {of(dynamodb.CredentialsWebIdentity, variable("AWS_WEB_IDENTITY_TOKEN_FILE"), ""), vars{"AWS_WEB_IDENTITY_TOKEN_FILE": "aws_test.go"}, "the role's trust policy", "fsGroup"},
		"process":              {of(dynamodb.CredentialsProcess, profile("p", "credential_process"), ""), nil, `run the credential_process of profile "p" by hand`, ""},
		"container":            {of(dynamodb.CredentialsContainer, variable("AWS_CONTAINER_CREDENTIALS_FULL_URI"), ""), nil, "check AWS_CONTAINER_CREDENTIALS_FULL_URI", ""},
		"role":                 {of(dynamodb.CredentialsProfile, profile("s", "aws_access_key_id"), ""), nil, "check role_arn", ""},
		"nothing":              {of(dynamodb.CredentialsInstance, dynamodb.Setting{}, ""), nil, "set access_key and secret_key in storage_source, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE, or run where an instance role is", ""},
		"nothing in a profile": {of(dynamodb.CredentialsInstance, dynamodb.Setting{}, ""), vars{"AWS_PROFILE": "p"}, `AWS_PROFILE is "p", and that profile says nothing of credentials`, "or AWS_PROFILE"},
		"half":                 {of(dynamodb.CredentialsInstance, dynamodb.Setting{}, ""), vars{"AWS_ACCESS_KEY_ID": "a"}, "AWS_ACCESS_KEY_ID is set, and AWS_SECRET_ACCESS_KEY is not", "instance"},
		"other half":           {of(dynamodb.CredentialsInstance, dynamodb.Setting{}, ""), vars{"AWS_SECRET_ACCESS_KEY": "a"}, "AWS_SECRET_ACCESS_KEY is set, and AWS_ACCESS_KEY_ID is not", ""},
		"no metadata":          {of(dynamodb.CredentialsInstance, dynamodb.Setting{}, ""), vars{"AWS_EC2_METADATA_DISABLED": "TRUE"}, "unset AWS_EC2_METADATA_DISABLED", ""},
		"token":                {of(dynamodb.CredentialsEnvironment, variable("AWS_ACCESS_KEY_ID"), "session token"), nil, "write AWS_SESSION_TOKEN without", ""},
		"secret of the stanza": {of(dynamodb.CredentialsGiven, dynamodb.Setting{}, "secret key"), nil, "write secret_key of storage_source without", "AWS_"},
		"key of a profile":     {of(dynamodb.CredentialsProfile, profile("p", "aws_access_key_id"), "access key"), nil, `write aws_access_key_id of profile "p" without`, ""},
		"profile":              {awsconfig.SharedConfigProfileNotExistError{Profile: "no"}, vars{"AWS_PROFILE": "no", "AWS_CONFIG_FILE": "a", "AWS_SHARED_CREDENTIALS_FILE": "b"}, `AWS_PROFILE names the profile "no", which is not in a or b`, "sudo"},
		"profile with a blank": {awsconfig.SharedConfigProfileNotExistError{Profile: "no\n"}, vars{"AWS_DEFAULT_PROFILE": "no\n"}, `AWS_DEFAULT_PROFILE is "no\n": it has a blank`, ""},
		"broken file":          {awsconfig.SharedConfigLoadError{Filename: "f"}, nil, "make f readable", ""},
		"CA bundle":            {errors.New("broken"), vars{"AWS_CA_BUNDLE": "/no/bundle"}, "AWS_CA_BUNDLE names /no/bundle, which can't be read: name a file", "open"},
		"role's profile":       {awsconfig.SharedConfigAssumeRoleError{Profile: "p", RoleARN: "r"}, nil, `the role r is assumed with the source_profile "p", which has no credentials`, "AWS_"},
		"no source_profile":    {awsconfig.SharedConfigAssumeRoleError{Profile: "no", RoleARN: "r", Err: awsconfig.SharedConfigProfileNotExistError{Profile: "no"}}, vars{"AWS_CONFIG_FILE": "a", "AWS_SHARED_CREDENTIALS_FILE": "b"}, `the role r is assumed with the source_profile "no", which is not in a or b`, "PROFILE"},
		"endpoint":             {&dynamodb.EndpointError{From: variable("AWS_ENDPOINT_URL")}, nil, "write AWS_ENDPOINT_URL as a URL", ""},
		"code":                 {awsconfig.AssumeRoleTokenProviderNotSetError{}, nil, "aws configure export-credentials", ""},
		"in a pod":             {of(dynamodb.CredentialsInstance, dynamodb.Setting{}, ""), vars{"KUBERNETES_SERVICE_HOST": "10.0.0.1"}, "IRSA", "run where an instance role is"},
		"SSO, no such role":    {&dynamodb.CredentialsError{Kind: dynamodb.CredentialsSSO, From: profile("p", "sso_session"), Err: &smithy.GenericAPIError{Code: "ForbiddenException"}}, nil, `check sso_account_id and sso_role_name of profile "p"`, "login"},
		"SSO, no network":      {&dynamodb.CredentialsError{Kind: dynamodb.CredentialsSSO, From: profile("p", "sso_session"), Err: &net.DNSError{Name: "portal.sso"}}, nil, "can't be reached: check the network and the proxy, on the way to portal.sso", "login"},
		"something else":       {errors.New("broken"), vars{"AWS_CONFIG_FILE": "c"}, "correct the AWS configuration: it is in c or ", ""},
		"STS resets":           {&dynamodb.CredentialsError{Kind: dynamodb.CredentialsWebIdentity, From: variable("AWS_WEB_IDENTITY_TOKEN_FILE"), Err: &url.Error{Op: "Post", URL: "https://sts.example:443/", Err: errors.New("EOF")}}, vars{"AWS_WEB_IDENTITY_TOKEN_FILE": "aws_test.go"}, "can't be reached: check the network and the proxy, on the way to sts.example:443", "token"},
	} {
		got := awsHint(c.err, func(name string) (string, bool) { v, ok := c.env[name]; return v, ok })
		if !strings.Contains(got, c.want) || c.not != "" && strings.Contains(got, c.not) {
			t.Errorf("%s: %q, expected %q and not %q", name, got, c.want, c.not)
		}
	}
}

// TestConfigurationHints has the SDK itself say what is wrong: each of its errors is
// one that something is known about.
func TestConfigurationHints(t *testing.T) {
	const profiles = `
[profile half]
aws_access_key_id = a
[profile source]
role_arn = arn:aws:iam::123456789012:role/r
credential_source = Nope
[profile ecs]
role_arn = arn:aws:iam::123456789012:role/r
credential_source = EcsContainer
[profile mfa]
role_arn = arn:aws:iam::123456789012:role/r
source_profile = whole
mfa_serial = arn:aws:iam::123456789012:mfa/me
[profile whole]
aws_access_key_id = a
aws_secret_access_key = b
[profile sso]
sso_session = none
[profile web]
web_identity_token_file = token
`
	for name, c := range map[string]struct {
		env  map[string]string
		want string
	}{
		"no CA bundle":   {map[string]string{"AWS_CA_BUNDLE": "/no/bundle"}, "AWS_CA_BUNDLE names /no/bundle, which can't be read: name a file with certificates"},
		"CA bundle":      {map[string]string{"AWS_CA_BUNDLE": "aws_test.go"}, "must name a file with certificates in PEM"},
		"no role":        {map[string]string{"AWS_WEB_IDENTITY_TOKEN_FILE": "token"}, "AWS_ROLE_ARN is not: set both"},
		"profile's role": {map[string]string{"AWS_PROFILE": "web"}, "give the profile a role_arn too"},
		"half":           {map[string]string{"AWS_PROFILE": "half"}, "both aws_access_key_id and aws_secret_access_key"},
		"source":         {map[string]string{"AWS_PROFILE": "source"}, "correct credential_source of the profile"},
		"ECS":            {map[string]string{"AWS_PROFILE": "ecs"}, "credential_source = EcsContainer is for a container"},
		"code":           {map[string]string{"AWS_PROFILE": "mfa"}, "nobody is asked for the code of mfa_serial"},
		"SSO":            {map[string]string{"AWS_PROFILE": "sso"}, "add that section, [sso-session NAME]"},
		"container":      {map[string]string{"AWS_CONTAINER_CREDENTIALS_FULL_URI": "http://10.1.1.1/"}, "correct AWS_CONTAINER_CREDENTIALS_FULL_URI"},
		"FIPS":           {map[string]string{"AWS_USE_FIPS_ENDPOINT": "maybe"}, "correct AWS_USE_FIPS_ENDPOINT, or unset it"},
		"retry mode":     {map[string]string{"AWS_RETRY_MODE": "often"}, "correct AWS_RETRY_MODE, or unset it"},
		"attempts":       {map[string]string{"AWS_MAX_ATTEMPTS": "x"}, "correct AWS_MAX_ATTEMPTS, or unset it"},
	} {
		t.Run(name, func(t *testing.T) {
			file := filepath.Join(t.TempDir(), "config")
			if err := os.WriteFile(file, []byte(profiles), 0o600); err != nil {
				t.Fatal(err)
			}
			for _, v := range []string{"AWS_PROFILE", "AWS_DEFAULT_PROFILE", "AWS_ACCESS_KEY_ID", "AWS_ACCESS_KEY", "SUDO_USER"} {
				t.Setenv(v, "")
			}
			t.Setenv("AWS_CONFIG_FILE", file)
			t.Setenv("AWS_SHARED_CREDENTIALS_FILE", file+".none")
			for k, v := range c.env {
				t.Setenv(k, v)
			}
			_, err := dynamodb.New(t.Context(), dynamodb.Options{})
			if err == nil || !strings.Contains(Of(err), c.want) {
				t.Errorf("%v, %q", err, Of(err))
			}
		})
	}
}
