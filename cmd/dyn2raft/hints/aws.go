package hints

import (
	"cmp"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"regexp"
	"strings"

	"al.essio.dev/pkg/shellescape"
	awsconfig "github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/smithy-go"

	"github.com/dyn2raft/dyn2raft/sources/dynamodb"
)

// awsHint is what to do about an error of the AWS configuration, or of the credentials
// that it leads to, by its type and by this process's environment.
func awsHint(err error, env func(string) (string, bool)) string {
	if e, ok := errors.AsType[*dynamodb.CredentialsError](err); ok {
		return credentialsHint(e, env)
	}
	if e, ok := errors.AsType[*dynamodb.EndpointError](err); ok {
		return fmt.Sprintf("write %s as a URL, such as http://127.0.0.1:8000, or take it out", From(e.From))
	}
	if e, ok := errors.AsType[awsconfig.SharedConfigAssumeRoleError](err); ok { // may have the next one in it
		what := "which has no credentials: give it some"
		if _, ok := errors.AsType[awsconfig.SharedConfigProfileNotExistError](e.Err); ok {
			what = "which is not in " + sharedFiles(env) + ": set source_profile to one of theirs"
		}
		return fmt.Sprintf("the role %s is assumed with the source_profile %q, %s", e.RoleARN, e.Profile, what) + sudoHint(env)
	}
	if e, ok := errors.AsType[awsconfig.SharedConfigProfileNotExistError](err); ok {
		name := "AWS_PROFILE"
		if v, _ := env(name); v == "" {
			name = "AWS_DEFAULT_PROFILE"
		}
		if e.Profile != strings.TrimSpace(e.Profile) {
			return fmt.Sprintf("%s is %q: it has a blank or a line break at an end", name, e.Profile)
		}
		return fmt.Sprintf("%s names the profile %q, which is not in %s: set it to one of theirs, or unset it", name, e.Profile, sharedFiles(env)) + sudoHint(env)
	}
	if e, ok := errors.AsType[awsconfig.SharedConfigLoadError](err); ok {
		return fmt.Sprintf("the AWS configuration can't be read: make %s readable for uid %d and well-formed, or name another with AWS_CONFIG_FILE and AWS_SHARED_CREDENTIALS_FILE", e.Filename, os.Getuid()) + sudoHint(env)
	}
	if _, ok := errors.AsType[awsconfig.AssumeRoleTokenProviderNotSetError](err); ok {
		return "nobody is asked for the code of mfa_serial here: have the AWS CLI ask, and take what it gives: eval \"$(aws configure export-credentials --format env)\", without AWS_PROFILE"
	}
	if bundle, _ := env("AWS_CA_BUNDLE"); bundle != "" {
		if _, rerr := os.ReadFile(bundle); rerr != nil {
			return fmt.Sprintf("AWS_CA_BUNDLE names %s, which can't be read: name a file with certificates in PEM, or unset it", bundle)
		}
	}
	for _, w := range sdkWords {
		if strings.Contains(err.Error(), w.text) {
			return w.hint + sudoHint(env)
		}
	}
	if name := awsVariable.FindString(err.Error()); name != "" {
		return "correct " + name + ", or unset it"
	}
	return "correct the AWS configuration: it is in " + sharedFiles(env) + ", and in variables AWS_…" + sudoHint(env)
}

var awsVariable = regexp.MustCompile(`\bAWS_[A-Z0-9_]+`)

// sdkWords are what the SDK says in errors that have no type, and what to do then.
var sdkWords = []struct{ text, hint string }{
	{"custom CA bundle", "AWS_CA_BUNDLE, or ca_bundle of the profile, must name a file with certificates in PEM (-----BEGIN CERTIFICATE-----)"},
	{"role ARN is not set", "AWS_WEB_IDENTITY_TOKEN_FILE is set, and AWS_ROLE_ARN is not: set both, or none"},
	{"requires role_arn", "give the profile a role_arn too"},
	{"partial credentials found", "give the profile both aws_access_key_id and aws_secret_access_key, or none of them"},
	{"credential_source values must be", "correct credential_source of the profile"},
	{"EcsContainer was specified", "credential_source = EcsContainer is for a container of ECS or EKS, which sets one of these variables: give the profile another credential_source elsewhere"},
	{"only one credential type", "leave one of these in the profile"},
	{"SSO session section", "add that section, [sso-session NAME], to the AWS configuration, or correct sso_session of the profile"},
	{"are allowed", containerURI}, {"failed to resolve host", containerURI}, {"local HTTP cred provider URL", containerURI},
}

const containerURI = "correct AWS_CONTAINER_CREDENTIALS_FULL_URI, or unset it: with http:// it is to name this machine, or the address of ECS or EKS (169.254.170.2, 169.254.170.23)"

// sharedFiles are the files in which profiles are looked for.
func sharedFiles(env func(string) (string, bool)) string {
	var files []string
	for _, f := range []struct{ variable, otherwise string }{{"AWS_CONFIG_FILE", awsconfig.DefaultSharedConfigFilename()}, {"AWS_SHARED_CREDENTIALS_FILE", awsconfig.DefaultSharedCredentialsFilename()}} {
		name, _ := env(f.variable)
		files = append(files, cmp.Or(name, f.otherwise))
	}
	return strings.Join(files, " or ")
}

// credentialsHint is what to do where there are no credentials of the kind that
// the configuration asks for.
func credentialsHint(e *dynamodb.CredentialsError, env func(string) (string, bool)) string {
	if e.Part != "" {
		return fmt.Sprintf("write %s without: a line break at the end often comes from a file that was read whole, and quotes from one that no shell reads (docker --env-file)", partOf(e))
	}
	profile := ""
	if e.From.Profile != "" && e.From.Profile != "default" {
		profile = " --profile " + shellescape.Quote(e.From.Profile)
	}
	if host := unreached(e.Err); host != "" && e.Kind != dynamodb.CredentialsInstance {
		return "the service that gives these credentials (" + From(e.From) + ") can't be reached: check the network and the proxy, on the way to " + host
	}
	switch e.Kind {
	case dynamodb.CredentialsSSO:
		if api, ok := errors.AsType[smithy.APIError](e.Err); ok && api.ErrorCode() == "ForbiddenException" {
			return fmt.Sprintf("IAM Identity Center does not give this user the role: check sso_account_id and sso_role_name of profile %q", e.From.Profile)
		}
		return "the session of IAM Identity Center is not there or has expired: aws sso login" + profile + ", as the user who runs dyn2raft (the session is kept in the home directory's .aws/sso/cache)" + sudoHint(env)
	case dynamodb.CredentialsLogin:
		return "the session is not there or has expired: aws login" + profile + sudoHint(env)
	case dynamodb.CredentialsWebIdentity:
		file := e.From.Key
		if e.From.Variable != "" {
			file, _ = env(e.From.Variable)
			if _, err := os.ReadFile(file); err != nil {
				return fmt.Sprintf("%s names %s, and uid %d can't read it (%v): run as the user of the pod, or give the pod an fsGroup", e.From.Variable, file, os.Getuid(), err)
			}
		}
		return "AWS does not take the token of " + file + " for the role: check AWS_ROLE_ARN, the role's trust policy (its OIDC provider, and the service account), and the way to STS"
	case dynamodb.CredentialsProcess:
		return fmt.Sprintf("run the credential_process of profile %q by hand, as uid %d: it must print JSON with Version 1", e.From.Profile, os.Getuid()) + sudoHint(env)
	case dynamodb.CredentialsContainer:
		return "the container's credentials can't be had: check " + From(e.From) + ", and AWS_CONTAINER_AUTHORIZATION_TOKEN or …_TOKEN_FILE, which must have no line break" + sudoHint(env)
	case dynamodb.CredentialsProfile, dynamodb.CredentialsEnvironment:
		return "the role of the profile can't be assumed with the keys of " + From(e.From) + ": check role_arn, the role's trust policy, and the way to STS"
	}
	return noCredentials(env) + sudoHint(env)
}

// unreached is the address that there was no answer from, or "".
func unreached(err error) string {
	if sent, ok := errors.AsType[*url.Error](err); ok {
		if u, err := url.Parse(sent.URL); err == nil {
			return u.Host
		}
	}
	if dns, ok := errors.AsType[*net.DNSError](err); ok {
		return dns.Name
	}
	if op, ok := errors.AsType[*net.OpError](err); ok && op.Op == "dial" && op.Addr != nil {
		return op.Addr.String()
	}
	return ""
}

// noCredentials is what to do where the SDK has come to the end of its list.
func noCredentials(env func(string) (string, bool)) string {
	set := func(name string) bool { v, _ := env(name); return v != "" }
	for _, pair := range [][2]string{{"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"}, {"AWS_SECRET_ACCESS_KEY", "AWS_ACCESS_KEY_ID"}} {
		if set(pair[0]) && !set(pair[1]) {
			return pair[0] + " is set, and " + pair[1] + " is not: set both"
		}
	}
	instance := ", or run where an instance role is"
	if v, _ := env("AWS_EC2_METADATA_DISABLED"); strings.EqualFold(v, "true") {
		instance = ", or unset AWS_EC2_METADATA_DISABLED where an instance role is"
	}
	if set("KUBERNETES_SERVICE_HOST") {
		instance = ", or give the pod's service account a role (IRSA, Pod Identity); the node's role reaches a pod only where the instance's metadata hop limit is 2"
	}
	for _, name := range []string{"AWS_PROFILE", "AWS_DEFAULT_PROFILE"} {
		if v, _ := env(name); v != "" {
			return fmt.Sprintf("%s is %q, and that profile says nothing of credentials: set access_key and secret_key in storage_source, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or another profile%s", name, v, instance)
		}
	}
	return "set access_key and secret_key in storage_source, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE" + instance
}

// partOf names the part of credentials that is wrong, where it stands.
func partOf(e *dynamodb.CredentialsError) string {
	names := map[string][3]string{ // in storage_source, the environment, and a profile
		"access key":    {"access_key", "AWS_ACCESS_KEY_ID", "aws_access_key_id"},
		"secret key":    {"secret_key", "AWS_SECRET_ACCESS_KEY", "aws_secret_access_key"},
		"session token": {"session_token", "AWS_SESSION_TOKEN", "aws_session_token"},
	}[e.Part]
	switch {
	case e.Kind == dynamodb.CredentialsGiven:
		return names[0] + " of storage_source"
	case e.Kind == dynamodb.CredentialsEnvironment:
		return names[1]
	case e.Kind == dynamodb.CredentialsProfile:
		return fmt.Sprintf("%s of profile %q", names[2], e.From.Profile)
	}
	return "the " + e.Part + " of " + From(e.From)
}

// sudoHint is set where sudo has dropped the variables and the home directory of
// whoever called it.
func sudoHint(env func(string) (string, bool)) string {
	user, _ := env("SUDO_USER")
	if user == "" {
		return ""
	}
	for _, name := range []string{"AWS_PROFILE", "AWS_ACCESS_KEY_ID", "AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"} {
		if v, _ := env(name); v != "" {
			return ""
		}
	}
	return "\nsudo drops AWS_… variables, and has another home directory with another .aws: sudo --preserve-env=AWS_PROFILE,AWS_ACCESS_KEY_ID,AWS_SECRET_ACCESS_KEY,AWS_SESSION_TOKEN,AWS_CONFIG_FILE,AWS_SHARED_CREDENTIALS_FILE …"
}

// From says where a setting comes from.
func From(s dynamodb.Setting) string {
	switch {
	case s.Variable != "":
		return s.Variable
	case s.Key == "services":
		return fmt.Sprintf("the services section of profile %q", s.Profile)
	case s.Key != "":
		return fmt.Sprintf("%s of profile %q", s.Key, s.Profile)
	case s.Name == dynamodb.SettingMissingProfile:
		return "the default profile"
	}
	return "the instance's role"
}
