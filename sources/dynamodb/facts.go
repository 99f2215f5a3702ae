package dynamodb

import (
	"cmp"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb/types"

	"github.com/dyn2raft/dyn2raft/copier"
)

// FactsName and FactsVersion are those of a table's [Facts] in its [copier.Info].
const (
	FactsName    = "dynamodb"
	FactsVersion = 1
)

// Facts are what DescribeTable told of a table when it was opened, for the record.
type Facts struct {
	// TableID is the table's id, which one of the same name that is made later has
	// not, and Created the time of its creation.
	TableID string    `json:"table_id,omitempty"`
	Created time.Time `json:"created,omitzero"`
	// BillingMode is PROVISIONED or PAY_PER_REQUEST. ReadUnits and WriteUnits are
	// what is provisioned, in units a second.
	BillingMode string `json:"billing_mode"`
	ReadUnits   int64  `json:"read_units,omitempty"`
	WriteUnits  int64  `json:"write_units,omitempty"`
	// Replicas are the other regions of a global table.
	Replicas []string `json:"replicas,omitempty"`
}

// factsOf returns the facts of a table.
func factsOf(t *types.TableDescription) (copier.Facts, error) {
	f := Facts{TableID: aws.ToString(t.TableId), Created: aws.ToTime(t.CreationDateTime).UTC(), Replicas: replicas(t)}
	if b := t.BillingModeSummary; b != nil {
		f.BillingMode = string(b.BillingMode)
	}
	f.BillingMode = cmp.Or(f.BillingMode, string(types.BillingModeProvisioned)) // which the service need not say
	if p := t.ProvisionedThroughput; p != nil && f.BillingMode == string(types.BillingModeProvisioned) {
		f.ReadUnits, f.WriteUnits = aws.ToInt64(p.ReadCapacityUnits), aws.ToInt64(p.WriteCapacityUnits)
	}
	fact, err := copier.NewFact(FactsVersion, f)
	return copier.Facts{FactsName: fact}, err
}
