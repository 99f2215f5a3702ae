package dynamodb

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/dyn2raft/dyn2raft/copier"
)

// noAWS clears what this process may have of an AWS configuration.
func noAWS(t *testing.T) {
	t.Helper()
	t.Setenv("HOME", t.TempDir())
	for _, v := range os.Environ() {
		if name, _, _ := strings.Cut(v, "="); strings.HasPrefix(name, "AWS_") {
			t.Setenv(name, "") // so that it is there again afterwards
			if err := os.Unsetenv(name); err != nil {
				t.Fatal(err)
			}
		}
	}
	t.Setenv("AWS_EC2_METADATA_DISABLED", "true")
}

// TestSettings has what each input of the SDK's configuration does, alone and with
// those that it beats.
func TestSettings(t *testing.T) {
	const keys = "aws_access_key_id = a\naws_secret_access_key = b\n"
	env := map[string]string{"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b"}
	with := func(more ...string) map[string]string {
		out := map[string]string{}
		for k, v := range env {
			out[k] = v
		}
		for i := 0; i < len(more); i += 2 {
			out[more[i]] = more[i+1]
		}
		return out
	}
	const regional = "https://dynamodb.eu-central-1.amazonaws.com"
	for name, c := range map[string]struct {
		env      map[string]string
		config   string
		opts     func(*Options)
		endpoint string
		want     string // of all settings: name, from, value
	}{
		"nothing":              {env, "", nil, regional, "credentials AWS_ACCESS_KEY_ID"},
		"service":              {with("AWS_ENDPOINT_URL_DYNAMODB", "http://a:1", "AWS_ENDPOINT_URL", "http://b:1"), "", nil, "http://a:1", "endpoint AWS_ENDPOINT_URL_DYNAMODB http://a:1, credentials AWS_ACCESS_KEY_ID"},
		"global":               {with("AWS_ENDPOINT_URL", "http://b:1"), "[default]\nendpoint_url = http://c:1\nservices = s\n[services s]\ndynamodb =\n  endpoint_url = http://d:1\n", nil, "http://b:1", "endpoint AWS_ENDPOINT_URL http://b:1, credentials AWS_ACCESS_KEY_ID"},
		"services":             {env, "[default]\nendpoint_url = http://c:1\nservices = s\n[services s]\ndynamodb =\n  endpoint_url = http://d:1\n", nil, "http://d:1", "endpoint default:services http://d:1, credentials AWS_ACCESS_KEY_ID"},
		"profile":              {with("AWS_PROFILE", "p"), "[profile p]\nendpoint_url = http://c:1\n", nil, "http://c:1", "endpoint p:endpoint_url http://c:1, credentials AWS_ACCESS_KEY_ID"},
		"password":             {with("AWS_ENDPOINT_URL", "http://u:s3cr3t@b:1"), "", nil, "http://u:xxxxx@b:1", "endpoint AWS_ENDPOINT_URL http://u:xxxxx@b:1, credentials AWS_ACCESS_KEY_ID"},
		"ignored":              {with("AWS_ENDPOINT_URL", "http://b:1", "AWS_IGNORE_CONFIGURED_ENDPOINT_URLS", "true"), "", nil, regional, "credentials AWS_ACCESS_KEY_ID"},
		"ours":                 {with("AWS_ENDPOINT_URL", "http://b:1"), "", func(o *Options) { o.Endpoint = "http://e:1" }, "http://e:1", "credentials AWS_ACCESS_KEY_ID"},
		"FIPS":                 {with("AWS_USE_FIPS_ENDPOINT", "true"), "", func(o *Options) { o.Region = "us-east-1" }, "https://dynamodb-fips.us-east-1.amazonaws.com", "fips AWS_USE_FIPS_ENDPOINT true, credentials AWS_ACCESS_KEY_ID"},
		"IPv6":                 {env, "[default]\nuse_dualstack_endpoint = true\n", nil, "https://dynamodb.eu-central-1.api.aws", "dual_stack default:use_dualstack_endpoint true, credentials AWS_ACCESS_KEY_ID"},
		"account":              {with("AWS_ACCOUNT_ID_ENDPOINT_MODE", "preferred"), "", nil, regional, "account_id AWS_ACCOUNT_ID_ENDPOINT_MODE preferred, credentials AWS_ACCESS_KEY_ID"},
		"account of a profile": {env, "[default]\naccount_id_endpoint_mode = required\n", nil, regional, "credentials AWS_ACCESS_KEY_ID"},
		"discovery":            {with("AWS_ENABLE_ENDPOINT_DISCOVERY", "true"), "", nil, regional, "discovery AWS_ENABLE_ENDPOINT_DISCOVERY true, credentials AWS_ACCESS_KEY_ID"},
		"defaults":             {env, "[default]\ndefaults_mode = standard\nsdk_ua_app_id = x\n", nil, regional, "defaults default:defaults_mode standard, app_id default:sdk_ua_app_id x, credentials AWS_ACCESS_KEY_ID"},
		"clock":                {with("AWS_DISABLE_CLOCK_SKEW_CORRECTION", "true"), "", nil, regional, "clock_skew AWS_DISABLE_CLOCK_SKEW_CORRECTION true, credentials AWS_ACCESS_KEY_ID"},
		"keys of a profile":    {nil, "[default]\n" + keys, nil, regional, "credentials default:aws_access_key_id"},
		"role of a profile":    {map[string]string{"AWS_PROFILE": "r"}, "[profile r]\nrole_arn = arn:aws:iam::123456789012:role/r\nsource_profile = s\n[profile s]\n" + keys, nil, regional, "credentials s:aws_access_key_id"},
		"SSO":                  {map[string]string{"AWS_PROFILE": "p"}, "[profile p]\nsso_session = my\nsso_account_id = 123456789012\nsso_role_name = ro\n[sso-session my]\nsso_region = us-east-1\nsso_start_url = https://example.awsapps.com/start\n", nil, regional, "credentials p:sso_session"},
		"process":              {nil, "[default]\ncredential_process = false\n", nil, regional, "credentials default:credential_process"},
		"web identity":         {map[string]string{"AWS_WEB_IDENTITY_TOKEN_FILE": "/nowhere", "AWS_ROLE_ARN": "arn:aws:iam::123456789012:role/r"}, "", nil, regional, "credentials AWS_WEB_IDENTITY_TOKEN_FILE"},
		"container":            {map[string]string{"AWS_CONTAINER_CREDENTIALS_FULL_URI": "http://127.0.0.1:1/"}, "", nil, regional, "credentials AWS_CONTAINER_CREDENTIALS_FULL_URI"},
		"instance":             {nil, "", nil, regional, "credentials "},
		"keys given":           {nil, "", func(o *Options) { o.AccessKey, o.SecretKey = "a", "b" }, regional, ""},
		"unknown profile": {map[string]string{"AWS_PROFILE": "no"}, "[default]\nendpoint_url = http://c:1\n", func(o *Options) { o.AccessKey, o.SecretKey = "a", "b" }, regional,
			"no_profile AWS_PROFILE failed to get shared config profile, no"},
		"FIPS, endpoint given":                             {with("AWS_USE_FIPS_ENDPOINT", "true"), "", func(o *Options) { o.Endpoint = "http://e:1" }, "http://e:1", "credentials AWS_ACCESS_KEY_ID"},
		"IPv6, endpoint given":                             {with("AWS_USE_DUALSTACK_ENDPOINT", "true"), "", func(o *Options) { o.Endpoint = "http://e:1" }, "http://e:1", "credentials AWS_ACCESS_KEY_ID"},
		"FIPS, endpoint of variable":                       {with("AWS_USE_FIPS_ENDPOINT", "true", "AWS_ENDPOINT_URL", "http://b:1"), "", nil, "http://b:1", "endpoint AWS_ENDPOINT_URL http://b:1, credentials AWS_ACCESS_KEY_ID"},
		"unknown default profile, keys in the environment": {with("AWS_DEFAULT_PROFILE", "no"), "", nil, regional, "no_profile AWS_DEFAULT_PROFILE failed to get shared config profile, no, credentials AWS_ACCESS_KEY_ID"},
		"default profile":                                  {map[string]string{"AWS_DEFAULT_PROFILE": "p"}, "[profile p]\n" + keys, nil, regional, "credentials p:aws_access_key_id"},
		"unknown profile, keys in the environment":         {with("AWS_PROFILE", "no"), "", nil, regional, "no_profile AWS_PROFILE failed to get shared config profile, no, credentials AWS_ACCESS_KEY_ID"},
	} {
		t.Run(name, func(t *testing.T) {
			noAWS(t)
			file := filepath.Join(t.TempDir(), "config")
			if err := os.WriteFile(file, []byte(c.config), 0o600); err != nil {
				t.Fatal(err)
			}
			t.Setenv("AWS_CONFIG_FILE", file)
			for k, v := range c.env {
				t.Setenv(k, v)
			}
			opts := Options{Region: "eu-central-1"}
			if c.opts != nil {
				c.opts(&opts)
			}
			s, err := New(t.Context(), opts)
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			for _, x := range s.Settings() {
				from := x.Variable
				if from == "" && x.Key != "" {
					from = x.Profile + ":" + x.Key
				}
				text := string(x.Name) + " " + from
				if x.Value != "" {
					text += " " + x.Value
				}
				got = append(got, text)
			}
			if strings.Join(got, ", ") != c.want {
				t.Errorf("got  %s\nwant %s", strings.Join(got, ", "), c.want)
			}
			if s.Endpoint() != c.endpoint || s.CustomEndpoint() != !strings.HasPrefix(c.endpoint, regional) {
				t.Errorf("endpoint %s, custom %v", s.Endpoint(), s.CustomEndpoint())
			}
			if os.Getenv("AWS_PROFILE") != c.env["AWS_PROFILE"] {
				t.Error("AWS_PROFILE is another one now")
			}
		})
	}
}

// A profile that does not exist is an error where the keys may be in it, and so is
// an endpoint that requests can't be sent to, which is not shown where it may hold
// a password.
func TestConfigurationErrors(t *testing.T) {
	for _, c := range []struct{ variable, value, want string }{
		{"AWS_PROFILE", "no", "failed to get shared config profile, no"},
		{"AWS_DEFAULT_PROFILE", "no", "failed to get shared config profile, no"},
		{"AWS_ENDPOINT_URL", "127.0.0.1:8000", `the endpoint is "127.0.0.1:8000", which is no URL`},
		{"AWS_ENDPOINT_URL_DYNAMODB", "localhost:8000", `the endpoint is "localhost:8000", which is no URL`},
		{"AWS_ENDPOINT_URL", "https://", `the endpoint is "https://", which is no URL`},
		{"AWS_ENDPOINT_URL", "user:s3cr3t@host:1", "the endpoint is no URL"},
	} {
		t.Run(c.variable+"="+c.value, func(t *testing.T) {
			noAWS(t)
			t.Setenv(c.variable, c.value)
			_, err := New(t.Context(), Options{})
			if !errors.Is(err, copier.ErrConfig) || !strings.Contains(err.Error(), "load AWS configuration: "+c.want) || coded(err) != "aws-settings map[]" {
				t.Errorf("%v", err)
			}
			if e, ok := errors.AsType[*EndpointError](err); ok && e.From.Variable != c.variable {
				t.Errorf("from %+v", e.From)
			}
		})
	}
}

// The credentials that can't be had are told by their kind, and those that can't be
// used by their part.
func TestCredentialsErrors(t *testing.T) {
	for name, c := range map[string]struct {
		env    map[string]string
		config string
		kind   CredentialsKind
		part   string
	}{
		"SSO":          {map[string]string{"AWS_PROFILE": "p"}, "[profile p]\nsso_session = my\nsso_account_id = 123456789012\nsso_role_name = ro\n[sso-session my]\nsso_region = us-east-1\nsso_start_url = https://example.awsapps.com/start\n", CredentialsSSO, ""},
		"process":      {nil, "[default]\ncredential_process = false\n", CredentialsProcess, ""},
		"web identity": {map[string]string{"AWS_WEB_IDENTITY_TOKEN_FILE": "/nowhere", "AWS_ROLE_ARN": "arn:aws:iam::123456789012:role/r"}, "", CredentialsWebIdentity, ""},
		"instance":     {nil, "", CredentialsInstance, ""},
		"token":        {map[string]string{"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b", "AWS_SESSION_TOKEN": "tok\n"}, "", CredentialsEnvironment, "session token"},
		"secret":       {map[string]string{"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "s3cr3t "}, "", CredentialsEnvironment, "secret key"},
		"quotes":       {map[string]string{"AWS_ACCESS_KEY_ID": `"a"`, "AWS_SECRET_ACCESS_KEY": "b"}, "", CredentialsEnvironment, "access key"},
		"key":          {map[string]string{"AWS_ACCESS_KEY_ID": "a\r", "AWS_SECRET_ACCESS_KEY": "b"}, "", CredentialsEnvironment, "access key"},
	} {
		t.Run(name, func(t *testing.T) {
			noAWS(t)
			file := filepath.Join(t.TempDir(), "config")
			if err := os.WriteFile(file, []byte(c.config), 0o600); err != nil {
				t.Fatal(err)
			}
			t.Setenv("AWS_CONFIG_FILE", file)
			for k, v := range c.env {
				t.Setenv(k, v)
			}
			s, err := New(t.Context(), Options{})
			if err != nil {
				t.Fatal(err)
			}
			_, err = s.Open(t.Context())
			e, ok := errors.AsType[*CredentialsError](err)
			if !ok || e.Kind != c.kind || e.Part != c.part || !errors.Is(err, copier.ErrSource) || coded(err) != "aws-settings map[]" {
				t.Fatalf("%+v, %v", e, err)
			}
			if strings.Contains(err.Error(), "s3cr3t") || strings.Contains(err.Error(), "tok\n") {
				t.Error("a secret is told")
			}
		})
	}
}
