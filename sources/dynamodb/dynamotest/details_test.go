package dynamotest

import (
	"context"
	"errors"
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb/types"

	"github.com/dyn2raft/dyn2raft/sources/dynamodb/internal/pipes"
)

func oneTry(o *dynamodb.Options) { o.RetryMaxAttempts = 1 }

// A table is held to its capacity: about so many units a second, and refusals
// above that.
func TestProvisionedCapacity(t *testing.T) {
	inBubble(t, provisionedCapacity)
}

func provisionedCapacity(t *testing.T) {
	const rate, item = 40, 4000 // a unit for each consistent read
	s, c := serveBubble(t, Options{Provisioned: true})
	if err := s.CreateVaultTable(VaultTable); err != nil {
		t.Fatal(err)
	}
	if err := s.PutVaultEntry(VaultTable, "a/b", make([]byte, item)); err != nil {
		t.Fatal(err)
	}
	if err := s.SetCapacity(VaultTable, rate, 1); err != nil {
		t.Fatal(err)
	}
	key := map[string]types.AttributeValue{"Path": &types.AttributeValueMemberS{Value: "a"}, "Key": &types.AttributeValueMemberS{Value: "b"}}
	get := func() error {
		_, err := c.GetItem(context.Background(), &dynamodb.GetItemInput{TableName: aws.String(VaultTable), Key: key, ConsistentRead: aws.Bool(true)})
		return err
	}
	served, refused := 0, 0
	began := time.Now()
	for time.Since(began) < time.Second {
		switch err := get(); {
		case err == nil:
			served++
		case errors.As(err, new(*types.ProvisionedThroughputExceededException)):
			refused++
			time.Sleep(5 * time.Millisecond)
		default:
			t.Fatal(err)
		}
	}
	// A second's worth at the start, and one while it went on.
	if served < 2*rate-1 || served > 2*rate+1 || refused == 0 {
		t.Errorf("%d served and %d refused in about a second at %d units/s", served, refused, rate)
	}
	if err := s.SetCapacity(VaultTable, 0, 0); err != nil {
		t.Fatal(err)
	}
	for range 200 {
		if err := get(); err != nil {
			t.Fatalf("on demand: %v", err)
		}
	}
}

func TestTableDetails(t *testing.T) {
	t.Parallel()
	s := NewServer(Options{})
	defer s.Close()
	if err := s.CreateVaultTable(VaultTable); err != nil {
		t.Fatal(err)
	}
	c := s.Client(oneTry)
	for _, want := range []TableDetails{{}, {DeletionProtection: true, Replicas: []string{"eu-west-1"}, Recovery: true}} {
		if err := s.SetTableDetails(VaultTable, want); err != nil {
			t.Fatal(err)
		}
		out, err := c.DescribeTable(context.Background(), &dynamodb.DescribeTableInput{TableName: aws.String(VaultTable)})
		if err != nil {
			t.Fatal(err)
		}
		got := TableDetails{DeletionProtection: aws.ToBool(out.Table.DeletionProtectionEnabled)}
		for _, r := range out.Table.Replicas {
			got.Replicas = append(got.Replicas, aws.ToString(r.RegionName))
		}
		cont, err := c.DescribeContinuousBackups(context.Background(), &dynamodb.DescribeContinuousBackupsInput{TableName: aws.String(VaultTable)})
		if err != nil {
			t.Fatal(err)
		}
		got.Recovery = cont.ContinuousBackupsDescription.PointInTimeRecoveryDescription.PointInTimeRecoveryStatus == types.PointInTimeRecoveryStatusEnabled
		if len(got.Replicas) != len(want.Replicas) || got.DeletionProtection != want.DeletionProtection || got.Recovery != want.Recovery {
			t.Errorf("%+v, expected %+v", got, want)
		}
	}
	if err := s.SetTableDetails("no-such", TableDetails{}); err == nil {
		t.Error("details of no table")
	}
	if err := s.SetCapacity("no-such", 1, 1); err == nil {
		t.Error("capacity of no table")
	}
}

func TestBackups(t *testing.T) { inBubble(t, backups) }

func backups(t *testing.T) {
	s, c := serveBubble(t, Options{BackupTime: 200 * time.Millisecond})
	if err := s.CreateVaultTable(VaultTable); err != nil {
		t.Fatal(err)
	}
	ctx := context.Background()
	made, err := c.CreateBackup(ctx, &dynamodb.CreateBackupInput{TableName: aws.String(VaultTable), BackupName: aws.String("one")})
	if err != nil || made.BackupDetails.BackupStatus != types.BackupStatusCreating {
		t.Fatalf("%+v, %v", made, err)
	}
	time.Sleep(250 * time.Millisecond)
	got, err := c.DescribeBackup(ctx, &dynamodb.DescribeBackupInput{BackupArn: made.BackupDetails.BackupArn})
	if err != nil || got.BackupDescription.BackupDetails.BackupStatus != types.BackupStatusAvailable || aws.ToString(got.BackupDescription.SourceTableDetails.TableName) != VaultTable {
		t.Errorf("%+v, %v", got, err)
	}
	list, err := c.ListBackups(ctx, &dynamodb.ListBackupsInput{TableName: aws.String(VaultTable)})
	if err != nil || len(list.BackupSummaries) != 1 || aws.ToString(list.BackupSummaries[0].BackupArn) != aws.ToString(made.BackupDetails.BackupArn) {
		t.Errorf("%+v, %v", list, err)
	}
	if _, err := c.DeleteBackup(ctx, &dynamodb.DeleteBackupInput{BackupArn: made.BackupDetails.BackupArn}); err != nil {
		t.Errorf("delete: %v", err)
	}
	if _, err := c.DeleteBackup(ctx, &dynamodb.DeleteBackupInput{BackupArn: made.BackupDetails.BackupArn}); !errors.As(err, new(*types.BackupNotFoundException)) {
		t.Errorf("delete it again: %v", err)
	}
	if _, err := c.DescribeBackup(ctx, &dynamodb.DescribeBackupInput{BackupArn: aws.String("arn:aws:dynamodb:us-east-1:000000000000:table/x/backup/none-such-at-all")}); !errors.As(err, new(*types.BackupNotFoundException)) {
		t.Errorf("no backup: %v", err)
	}
	if _, err := c.CreateBackup(ctx, &dynamodb.CreateBackupInput{TableName: aws.String("no-such"), BackupName: aws.String("one")}); !errors.As(err, new(*types.TableNotFoundException)) {
		t.Errorf("no table: %v", err)
	}
}

// inBubble runs a parallel test in a bubble of testing/synctest.
func inBubble(t *testing.T, test func(*testing.T)) {
	t.Parallel()
	synctest.Test(t, test)
}

// serveBubble returns a server of a bubble, and a client that tries once.
func serveBubble(t *testing.T, opts Options) (*Server, *dynamodb.Client) {
	t.Helper()
	var network pipes.Network
	opts.Listener = network.Listen("table.test")
	s := NewServer(opts)
	t.Cleanup(s.Close)
	return s, s.Client(oneTry, func(o *dynamodb.Options) {
		o.HTTPClient = &http.Client{Transport: &http.Transport{DialContext: network.Dial}}
	})
}
