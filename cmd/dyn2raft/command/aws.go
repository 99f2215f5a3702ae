package command

import (
	_ "embed"
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

//go:embed aws.tsv
var awsTable string

// awsInputs is everything that the SDK reads, and what it does here. Test
// TestAWSInputsAreAll holds it against the SDK's sources.
var awsInputs = func() (all []awsInput) {
	for _, line := range strings.Split(strings.TrimSuffix(awsTable, "\n"), "\n")[1:] {
		cells := strings.Split(line, "\t")
		all = append(all, awsInput{cells[0], cells[1], cells[2], cells[3]})
	}
	return all
}()

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
