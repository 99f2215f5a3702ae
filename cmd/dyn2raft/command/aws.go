package command

import (
	"strings"

	"github.com/dyn2raft/dyn2raft/cmd/dyn2raft/hints"
	"github.com/dyn2raft/dyn2raft/cmd/dyn2raft/visible"
	"github.com/dyn2raft/dyn2raft/copier"
	"github.com/dyn2raft/dyn2raft/sources/dynamodb"
)

// An awsInput is an input of the AWS SDK's own configuration, as the command
// reference has it: variables of the environment, keys of a profile, their place
// among what says the same, and what they do.
type awsInput struct{ Variables, Keys, Place, Meaning string }

// awsInputs is everything that the SDK reads, and what it does here. Test
// TestAWSInputsAreAll holds it against the SDK's sources.
var awsInputs = []awsInput{
	{"AWS_ENDPOINT_URL_DYNAMODB", "", "3: after AWS_DYNAMODB_ENDPOINT, and `endpoint` of storage_source", "the endpoint: where the table is asked. Logged as a warning"},
	{"AWS_ENDPOINT_URL", "", "4", "the endpoint, also of the services that give credentials. Logged as a warning"},
	{"", "services (its dynamodb has endpoint_url)", "5, where AWS_ENDPOINT_URL is not set", "the endpoint. Logged as a warning"},
	{"", "endpoint_url", "6; without it the region's own", "the endpoint. Logged as a warning"},
	{"AWS_IGNORE_CONFIGURED_ENDPOINT_URLS", "ignore_configured_endpoint_urls", "variable, key", "true leaves the places 3 to 6 out"},
	{"AWS_USE_FIPS_ENDPOINT", "use_fips_endpoint", "variable, key; an endpoint beats it", "AWS's FIPS endpoint is asked. Logged"},
	{"AWS_USE_DUALSTACK_ENDPOINT", "use_dualstack_endpoint", "variable, key; an endpoint beats it", "AWS's endpoint with IPv6 is asked. Logged"},
	{"AWS_ACCOUNT_ID_ENDPOINT_MODE, AWS_ACCOUNT_ID", "account_id_endpoint_mode, aws_account_id", "only where the first variable is set", "AWS's endpoint with the account's id in it is asked. Without the variable it is not, whatever a profile says: a network that was opened for Vault may not know it. Logged"},
	{"AWS_ENABLE_ENDPOINT_DISCOVERY", "endpoint_discovery_enabled", "variable, key; an endpoint beats it", "the endpoint that DynamoDB itself names is asked. Logged"},
	{"HTTPS_PROXY, HTTP_PROXY, NO_PROXY (or in small letters)", "", "by the endpoint's scheme", "the proxy that requests go through, those for credentials too; never to localhost. Logged"},
	{"AWS_CA_BUNDLE", "ca_bundle", "variable, key", "file with the certificates of authorities that are trusted, in place of the system's. Logged"},
	{"AWS_REGION, AWS_DEFAULT_REGION", "region", "see above; a profile's is not used", "the region. Neither does Vault take it from a profile"},

	{"AWS_ACCESS_KEY_ID (else AWS_ACCESS_KEY), AWS_SECRET_ACCESS_KEY (else AWS_SECRET_KEY), AWS_SESSION_TOKEN", "", "2: after access_key and secret_key of storage_source", "credentials. One of both keys alone is none. Where credentials come from is logged, here and below"},
	{"AWS_WEB_IDENTITY_TOKEN_FILE, AWS_ROLE_ARN, AWS_ROLE_SESSION_NAME", "", "3", "credentials by a token in a file, as Kubernetes (IRSA) has it"},
	{"AWS_PROFILE, AWS_DEFAULT_PROFILE", "", "the first that is set; else `default`", "which profile is read. One that does not exist is an error, or, where the keys come from storage_source or the environment, a warning, and no profile is read then"},
	{"AWS_CONFIG_FILE, AWS_SHARED_CREDENTIALS_FILE", "", "else ~/.aws/config and ~/.aws/credentials", "the files with profiles"},
	{"", "role_arn, source_profile, credential_source, external_id, mfa_serial, role_session_name, duration_seconds", "behind all that a profile has", "a role that is assumed with the credentials of another profile or of `credential_source` (4, then the kinds below). mfa_serial is refused: nobody is asked for a code"},
	{"", "aws_access_key_id, aws_secret_access_key, aws_session_token", "4", "credentials of the profile"},
	{"", "web_identity_token_file", "5", "credentials by a token in a file"},
	{"", "sso_session, sso_account_id, sso_role_name, sso_region, sso_start_url, sso_registration_scopes", "6", "credentials of IAM Identity Center, after `aws sso login`"},
	{"AWS_LOGIN_CACHE_DIRECTORY", "login_session", "7", "credentials of `aws login`"},
	{"", "credential_process", "8", "credentials that a program prints"},
	{"AWS_CONTAINER_CREDENTIALS_RELATIVE_URI, AWS_CONTAINER_CREDENTIALS_FULL_URI, AWS_CONTAINER_AUTHORIZATION_TOKEN, AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE", "", "9", "credentials of the container (ECS, EKS Pod Identity)"},
	{"AWS_EC2_METADATA_DISABLED, AWS_EC2_METADATA_V1_DISABLED, AWS_EC2_METADATA_SERVICE_ENDPOINT, AWS_EC2_METADATA_SERVICE_ENDPOINT_MODE", "ec2_metadata_v1_disabled, ec2_metadata_service_endpoint, ec2_metadata_service_endpoint_mode", "10, the last", "credentials of the EC2 instance's role, and whether and where they are asked for"},
	{"AWS_ENDPOINT_URL_STS, AWS_ENDPOINT_URL_SSO, AWS_ENDPOINT_URL_SSO_OIDC, AWS_ENDPOINT_URL_SIGNIN", "services (of these names)", "beat AWS_ENDPOINT_URL", "where the services are asked that give credentials"},

	{"AWS_DEFAULTS_MODE, AWS_EXECUTION_ENV", "defaults_mode", "variable, key", "the SDK's time limits of a connection. Logged"},
	{"AWS_MAX_ATTEMPTS, AWS_RETRY_MODE, AWS_NEW_RETRIES_2026", "max_attempts, retry_mode", "", "nothing of the table's requests: see `-retry-for` and dynamodb_max_retries. How often credentials are asked for"},
	{"AWS_DISABLE_CLOCK_SKEW_CORRECTION", "disable_clock_skew_correction", "variable, key", "true: requests are signed with this machine's time, also where the service's is another. Logged"},
	{"AWS_AUTH_SCHEME_PREFERENCE", "auth_scheme_preference", "variable, key", "how requests are signed. Logged"},
	{"AWS_SDK_UA_APP_ID", "sdk_ua_app_id", "variable, key", "a name in the header User-Agent, as CloudTrail shows it. Logged"},
	{"AWS_RESTRICT_FILE_PERMISSIONS", "", "", "the mode of the files in which the SDK keeps credentials of `aws login`"},
	{"AWS_REQUEST_CHECKSUM_CALCULATION, AWS_RESPONSE_CHECKSUM_VALIDATION, AWS_DISABLE_REQUEST_COMPRESSION, AWS_REQUEST_MIN_COMPRESSION_SIZE_BYTES, AWS_S3_USE_ARN_REGION, AWS_S3_DISABLE_MULTIREGION_ACCESS_POINTS, AWS_S3_DISABLE_EXPRESS_SESSION_AUTH",
		"request_checksum_calculation, response_checksum_validation, disable_request_compression, request_min_compression_size_bytes, s3_use_arn_region, s3_disable_multiregion_access_points, s3_disable_express_session_auth", "", "nothing here. Every answer's checksum is compared, whatever they say"},
}

// settingWords says what a setting does: FROM is where it comes from, VALUE what it
// says.
var settingWords = map[dynamodb.SettingName]string{
	dynamodb.SettingEndpoint:       "endpoint is overridden by FROM: the table is asked at VALUE. Vault itself (1.21.1) does not read that: make sure that it is the table of your Vault",
	dynamodb.SettingMissingProfile: "no profile of the AWS configuration is used, though FROM is set, since the keys come from elsewhere: VALUE",
	dynamodb.SettingFIPS:           "AWS's FIPS endpoint is asked, by FROM",
	dynamodb.SettingDualStack:      "AWS's dual-stack endpoint is asked, by FROM",
	dynamodb.SettingAccountID:      "AWS's endpoint of the account is asked, by FROM (VALUE)",
	dynamodb.SettingDiscovery:      "the endpoint that DynamoDB names is asked, by FROM",
	dynamodb.SettingProxy:          "requests go through the proxy of FROM: VALUE",
	dynamodb.SettingCABundle:       "certificates are those of FROM: VALUE",
	dynamodb.SettingDefaultsMode:   "time limits are those of FROM: VALUE",
	dynamodb.SettingClockSkew:      "this machine's clock is not corrected, by FROM",
	dynamodb.SettingAuthScheme:     "requests are signed by FROM: VALUE",
	dynamodb.SettingAppID:          "the User-Agent has a name by FROM: VALUE",
	dynamodb.SettingCredentials:    "credentials are those of FROM",
}

// tellSettings logs each input of the AWS configuration that has an effect.
func (p *printer) tellSettings(src *dynamodb.Source) {
	for _, s := range src.Settings() {
		text := visible.Text(strings.NewReplacer("FROM", hints.From(s), "VALUE", s.Value).Replace(settingWords[s.Name]))
		if s.Name == dynamodb.SettingEndpoint || s.Name == dynamodb.SettingMissingProfile {
			p.warn(copier.Warning{Check: inConfig, Message: text}, "")
		} else {
			p.log.Info(text)
		}
	}
}
