package dynamodb

import (
	"context"
	"errors"
	"slices"

	"github.com/aws/aws-sdk-go-v2/service/dynamodb/types"
	"golang.org/x/mod/semver"
)

// versionsPath is where Vault, from 1.9 on, keeps a record of each version
// that has run on the storage, named after it.
const versionsPath = "core/versions"

// Versions returns the versions of Vault that have run on the table, the oldest
// first, such as "1.21.1". Vaults before 1.9 left no record.
func (s *Source) Versions(ctx context.Context) ([]string, error) {
	var out []string
	in := s.keysOf(versionsPath)
	last := ""
	for {
		page, err := ask(ctx, s, &request{}, s.client.Query, in)
		if err != nil {
			return nil, err
		}
		for _, item := range page.Items {
			key, ok := item[attrKey].(*types.AttributeValueMemberS)
			if !ok {
				return nil, s.fail(ctx, "Query", errors.New("the response has an item without a Key of type S"))
			}
			if semver.IsValid("v" + key.Value) {
				out = append(out, key.Value)
			}
		}
		if len(page.LastEvaluatedKey) == 0 {
			slices.SortFunc(out, func(a, b string) int { return semver.Compare("v"+a, "v"+b) })
			return out, nil
		}
		key, ok := page.LastEvaluatedKey[attrKey].(*types.AttributeValueMemberS)
		if !ok || key.Value <= last {
			return nil, s.fail(ctx, "Query", ErrEndless)
		}
		last, in.ExclusiveStartKey = key.Value, page.LastEvaluatedKey
	}
}
