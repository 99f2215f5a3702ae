package dynamodb

import (
	"cmp"
	"context"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb"
)

// A Setting is an input of the AWS SDK's own configuration that changes how a
// table is reached, or as whom.
type Setting struct {
	Name SettingName
	// Variable of the environment that it comes from, or empty: then Key is the one
	// of the shared configuration's Profile. All are empty of what the SDK falls
	// back on, an instance's role.
	Variable, Profile, Key string
	// Value is what it says, without a password; empty of credentials.
	Value string
}

// A SettingName says what a Setting changes.
type SettingName string

// The settings.
const (
	SettingEndpoint       SettingName = "endpoint"    // where requests go
	SettingFIPS           SettingName = "fips"        // AWS's endpoint for FIPS 140
	SettingDualStack      SettingName = "dual_stack"  // AWS's endpoint with IPv6
	SettingAccountID      SettingName = "account_id"  // AWS's endpoint of the account
	SettingDiscovery      SettingName = "discovery"   // the endpoint that the service names
	SettingProxy          SettingName = "proxy"       // what requests go through
	SettingCABundle       SettingName = "ca_bundle"   // the certificates that are trusted
	SettingDefaultsMode   SettingName = "defaults"    // the SDK's time limits
	SettingClockSkew      SettingName = "clock_skew"  // the clock is not corrected
	SettingAuthScheme     SettingName = "auth_scheme" // how requests are signed
	SettingAppID          SettingName = "app_id"      // a name in the User-Agent
	SettingCredentials    SettingName = "credentials" // as whom
	SettingMissingProfile SettingName = "no_profile"  // a profile that is not used, since there is none of that name, or its file can't be read
)

// Settings returns what of the SDK's own configuration has an effect on this
// source, in no order that matters. What [Options] say is not among it.
func (s *Source) Settings() []Setting { return s.settings }

// Endpoint returns the URL that requests go to, as far as it is known before the
// account is: empty where the SDK can't tell. It has no password.
func (s *Source) Endpoint() string { return s.endpoint }

// CustomEndpoint reports whether the endpoint is not the region's own.
func (s *Source) CustomEndpoint() bool { return s.custom }

// inputs are the parts of a configuration that was loaded.
type inputs struct {
	env     config.EnvConfig
	profile config.SharedConfig
}

func inputsOf(cfg aws.Config) (in inputs) {
	for _, source := range cfg.ConfigSources {
		switch c := source.(type) {
		case config.EnvConfig:
			in.env = c
		case config.SharedConfig:
			in.profile = c
		}
	}
	return in
}

// findSettings notes where the client sends its requests, and what has an effect
// on that. ignored is set where the shared configuration could not be used.
func (s *Source) findSettings(ctx context.Context, cfg aws.Config, ignored error) {
	in := inputsOf(cfg)
	o := s.client.Options()
	params := dynamodb.EndpointParameters{Region: &o.Region, Endpoint: o.BaseEndpoint,
		UseFIPS:      aws.Bool(o.EndpointOptions.UseFIPSEndpoint == aws.FIPSEndpointStateEnabled),
		UseDualStack: aws.Bool(o.EndpointOptions.UseDualStackEndpoint == aws.DualStackEndpointStateEnabled)}
	if e, err := o.EndpointResolverV2.ResolveEndpoint(ctx, params); err == nil {
		s.endpoint = e.URI.Redacted()
	}
	s.custom = o.BaseEndpoint != nil || *params.UseFIPS || *params.UseDualStack

	add := func(name SettingName, value string, from Setting) {
		if value != "" {
			from.Name, from.Value = name, value
			s.settings = append(s.settings, from)
		}
	}
	// either is a variable, if it is set, else a key of the profile.
	either := func(variable, key string) Setting {
		if os.Getenv(variable) != "" {
			return Setting{Variable: variable}
		}
		return Setting{Profile: in.profile.Profile, Key: key}
	}
	if ignored != nil {
		add(SettingMissingProfile, ignored.Error(), Setting{Variable: profileVariable()})
	}
	if s.opts.Endpoint == "" && o.BaseEndpoint != nil {
		add(SettingEndpoint, s.endpoint, in.endpoint())
	}
	if *params.UseFIPS {
		add(SettingFIPS, "true", either("AWS_USE_FIPS_ENDPOINT", "use_fips_endpoint"))
	}
	if *params.UseDualStack {
		add(SettingDualStack, "true", either("AWS_USE_DUALSTACK_ENDPOINT", "use_dualstack_endpoint"))
	}
	if o.AccountIDEndpointMode != aws.AccountIDEndpointModeDisabled && o.BaseEndpoint == nil {
		add(SettingAccountID, string(o.AccountIDEndpointMode), Setting{Variable: accountIDMode})
	}
	if o.EndpointDiscovery.EnableEndpointDiscovery == aws.EndpointDiscoveryEnabled && o.BaseEndpoint == nil {
		add(SettingDiscovery, "true", either("AWS_ENABLE_ENDPOINT_DISCOVERY", "endpoint_discovery_enabled"))
	}
	if from, value := proxyOf(s.endpoint); from != "" {
		add(SettingProxy, value, Setting{Variable: from})
	}
	add(SettingCABundle, cmp.Or(in.env.CustomCABundle, in.profile.CustomCABundle), either("AWS_CA_BUNDLE", "ca_bundle"))
	if mode := cmp.Or(in.env.DefaultsMode, in.profile.DefaultsMode); mode != aws.DefaultsModeLegacy {
		add(SettingDefaultsMode, string(mode), either("AWS_DEFAULTS_MODE", "defaults_mode"))
	}
	if aws.ToBool(cmp.Or(in.env.DisableClockSkewCorrection, in.profile.DisableClockSkewCorrection)) {
		add(SettingClockSkew, "true", either("AWS_DISABLE_CLOCK_SKEW_CORRECTION", "disable_clock_skew_correction"))
	}
	add(SettingAuthScheme, strings.Join(cfg.AuthSchemePreference, ","), either("AWS_AUTH_SCHEME_PREFERENCE", "auth_scheme_preference"))
	add(SettingAppID, cfg.AppID, either("AWS_SDK_UA_APP_ID", "sdk_ua_app_id"))
	if s.opts.AccessKey == "" {
		from, _ := in.credentials()
		from.Name = SettingCredentials
		s.settings = append(s.settings, from)
	}
}

// endpoint is where the base endpoint comes from that the SDK has taken.
func (in inputs) endpoint() Setting {
	_, global := os.LookupEnv("AWS_ENDPOINT_URL")
	switch {
	case os.Getenv("AWS_ENDPOINT_URL_DYNAMODB") != "":
		return Setting{Variable: "AWS_ENDPOINT_URL_DYNAMODB"}
	case in.profile.Services.ServiceValues["dynamodb"]["endpoint_url"] != "" && !global: // so the SDK does it
		return Setting{Profile: in.profile.Profile, Key: "services"}
	case in.env.BaseEndpoint != "":
		return Setting{Variable: "AWS_ENDPOINT_URL"}
	}
	return Setting{Profile: in.profile.Profile, Key: "endpoint_url"}
}

// An EndpointError says that the endpoint of the SDK's own configuration is no URL
// that requests can be sent to.
type EndpointError struct {
	From Setting
	// Value is what it says; empty where that may hold a password.
	Value string
}

func (e *EndpointError) Error() string {
	if e.Value == "" {
		return "the endpoint is no URL with http:// or https:// and a host"
	}
	return fmt.Sprintf("the endpoint is %q, which is no URL with http:// or https:// and a host", e.Value)
}

// checkEndpoint refuses an endpoint of the SDK's own configuration that is an
// [EndpointError].
func (s *Source) checkEndpoint(in inputs) error {
	base := s.client.Options().BaseEndpoint
	if s.opts.Endpoint != "" || base == nil {
		return nil
	}
	if u, err := url.Parse(*base); err == nil && (u.Scheme == "http" || u.Scheme == "https") && u.Hostname() != "" {
		return nil
	}
	e := &EndpointError{From: in.endpoint(), Value: *base}
	if strings.Contains(e.Value, "@") {
		e.Value = ""
	}
	return e
}

const defaultProfile = "AWS_DEFAULT_PROFILE" // where AWS_PROFILE is not set

// profileVariable is the variable that names a profile, or "".
func profileVariable() string {
	for _, name := range []string{"AWS_PROFILE", defaultProfile} {
		if os.Getenv(name) != "" {
			return name
		}
	}
	return ""
}

// proxyOf is the variable with the proxy of requests to a URL, and its value
// without a password; empty where there is none.
func proxyOf(endpoint string) (variable, value string) {
	r, err := http.NewRequest(http.MethodPost, endpoint, nil)
	if err != nil {
		return "", ""
	}
	proxy, err := http.ProxyFromEnvironment(r)
	if err != nil || proxy == nil {
		return "", ""
	}
	name := strings.ToUpper(r.URL.Scheme) + "_PROXY"
	if os.Getenv(name) == "" {
		name = strings.ToLower(name)
	}
	return name, proxy.Redacted()
}

// accountIDMode is the variable that turns endpoints with the account's id on.
const accountIDMode = "AWS_ACCOUNT_ID_ENDPOINT_MODE"

// A CredentialsKind says by which way credentials are found, in the SDK's order.
type CredentialsKind string

// The kinds of credentials.
const (
	CredentialsGiven       CredentialsKind = "given"        // by Options
	CredentialsEnvironment CredentialsKind = "environment"  // AWS_ACCESS_KEY_ID and its like
	CredentialsWebIdentity CredentialsKind = "web identity" // a token in a file, as Kubernetes has it
	CredentialsProfile     CredentialsKind = "profile"      // keys in a shared file
	CredentialsSSO         CredentialsKind = "sso"
	CredentialsLogin       CredentialsKind = "login"
	CredentialsProcess     CredentialsKind = "process"
	CredentialsContainer   CredentialsKind = "container"
	CredentialsInstance    CredentialsKind = "instance" // what is left
)

// credentials is where the SDK takes credentials from that Options do not give.
func (in inputs) credentials() (Setting, CredentialsKind) {
	for _, name := range []string{"AWS_ACCESS_KEY_ID", "AWS_ACCESS_KEY"} {
		if in.env.Credentials.HasKeys() && os.Getenv(name) != "" {
			return Setting{Variable: name}, CredentialsEnvironment
		}
	}
	if in.env.WebIdentityTokenFilePath != "" {
		return Setting{Variable: "AWS_WEB_IDENTITY_TOKEN_FILE"}, CredentialsWebIdentity
	}
	p := &in.profile
	for p.Source != nil {
		p = p.Source
	}
	of := func(key string) Setting { return Setting{Profile: p.Profile, Key: key} }
	container := func() Setting {
		if in.env.ContainerCredentialsRelativePath != "" {
			return Setting{Variable: "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI"}
		}
		return Setting{Variable: "AWS_CONTAINER_CREDENTIALS_FULL_URI"}
	}
	switch {
	case p.Credentials.HasKeys():
		return of("aws_access_key_id"), CredentialsProfile
	case p.CredentialSource == "EcsContainer":
		return of("credential_source"), CredentialsContainer
	case p.CredentialSource == "Environment":
		return of("credential_source"), CredentialsEnvironment
	case p.CredentialSource != "":
		return of("credential_source"), CredentialsInstance
	case p.WebIdentityTokenFile != "":
		return of("web_identity_token_file"), CredentialsWebIdentity
	case p.SSOSessionName != "" || p.SSOAccountID != "" || p.SSOStartURL != "":
		return of("sso_session"), CredentialsSSO
	case p.LoginSession != "":
		return of("login_session"), CredentialsLogin
	case p.CredentialProcess != "":
		return of("credential_process"), CredentialsProcess
	case in.env.ContainerCredentialsRelativePath != "" || in.env.ContainerCredentialsEndpoint != "":
		return container(), CredentialsContainer
	}
	return Setting{}, CredentialsInstance
}
