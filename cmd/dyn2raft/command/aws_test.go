package command

import (
	"go/ast"
	"go/parser"
	"go/token"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/dyn2raft/dyn2raft/cmd/dyn2raft/hints"
	"github.com/dyn2raft/dyn2raft/sources/dynamodb"
)

// TestAWSInputsAreAll holds the reference against the SDK's sources: every variable
// and every key of a profile that they name is in it.
func TestAWSInputsAreAll(t *testing.T) {
	var variables, keys []string
	for _, in := range awsInputs {
		variables = append(variables, regexp.MustCompile(`[A-Z][A-Z0-9_]+`).FindAllString(in.Variables, -1)...)
		keys = append(keys, regexp.MustCompile(`[a-z][a-z0-9_]+`).FindAllString(in.Keys, -1)...)
	}
	found := 0
	for _, module := range []string{"config", "credentials", "feature/ec2/imds", "service/dynamodb", "service/sts", "service/sso", "service/ssooidc", "service/signin"} {
		out, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", "github.com/aws/aws-sdk-go-v2/"+module).Output()
		if err != nil {
			t.Fatalf("find the sources of the SDK's %s: %v", module, err)
		}
		files, err := filepath.Glob(filepath.Join(strings.TrimSpace(string(out)), "*.go"))
		if err != nil || len(files) == 0 {
			t.Fatalf("no sources of the SDK's %s in %s: %v", module, out, err)
		}
		for _, file := range files {
			if strings.HasSuffix(file, "_test.go") {
				continue
			}
			parsed, err := parser.ParseFile(token.NewFileSet(), file, nil, parser.SkipObjectResolution)
			if err != nil {
				t.Fatal(err)
			}
			ast.Inspect(parsed, func(n ast.Node) bool {
				if lit, ok := n.(*ast.BasicLit); ok && lit.Kind == token.STRING {
					text, _ := strconv.Unquote(lit.Value) // it was parsed
					if regexp.MustCompile(`^AWS_[A-Z0-9_]+$`).MatchString(text) {
						if found++; !slices.Contains(variables, text) {
							t.Errorf("%s is not in the reference (%s)", text, filepath.Base(file))
						}
					}
				}
				if spec, ok := n.(*ast.ValueSpec); ok && filepath.Base(file) == "shared_config.go" {
					for _, v := range spec.Values {
						lit, ok := v.(*ast.BasicLit)
						if !ok || lit.Kind != token.STRING {
							continue
						}
						key, _ := strconv.Unquote(lit.Value) // as above
						if regexp.MustCompile(`^[a-z][a-z0-9]*_[a-z0-9_]+$|^region$`).MatchString(key) && !slices.Contains([]string{"when_supported", "when_required"}, key) {
							if found++; !slices.Contains(keys, key) {
								t.Errorf("%s of a profile is not in the reference", key)
							}
						}
					}
				}
				return true
			})
		}
	}
	if found < 80 {
		t.Errorf("only %d inputs were found in the sources: this test does not see all", found)
	}
}

// Every setting has words, with where it comes from.
func TestSettingWords(t *testing.T) {
	for name, text := range settingWords {
		if !strings.Contains(text, "FROM") {
			t.Errorf("%s: %s", name, text)
		}
	}
	for _, c := range []struct {
		setting dynamodb.Setting
		want    string
	}{
		{dynamodb.Setting{Variable: "AWS_ENDPOINT_URL", Profile: "p"}, "AWS_ENDPOINT_URL"},
		{dynamodb.Setting{Profile: "p", Key: "endpoint_url"}, `endpoint_url of profile "p"`},
		{dynamodb.Setting{Profile: "p", Key: "services"}, `the services section of profile "p"`},
		{dynamodb.Setting{Name: dynamodb.SettingCredentials}, "the instance's role"},
	} {
		if got := hints.From(c.setting); got != c.want {
			t.Errorf("%+v: %s", c.setting, got)
		}
	}
}
