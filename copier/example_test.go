package copier_test

import (
	"context"
	"fmt"
	"log"
	"os"

	"github.com/dyn2raft/dyn2raft/copier"
	"github.com/dyn2raft/dyn2raft/sinks/raft"
	"github.com/dyn2raft/dyn2raft/sources/dynamodb"
	"github.com/dyn2raft/dyn2raft/sources/dynamodb/dynamotest"
	"github.com/dyn2raft/dyn2raft/verify"
)

// Copy a table, then compare the result with it. The table is one of an
// in-process server here; without Endpoint, AccessKey and SecretKey it would be
// AWS's, with the credentials that the AWS SDK finds.
func Example() {
	ctx := context.Background()
	server := dynamotest.NewServer(dynamotest.Options{})
	defer server.Close()
	if err := server.CreateVaultTable("vault"); err != nil {
		log.Fatal(err)
	}
	if _, err := (dynamotest.VaultShape{Entries: 2000, Seed: 1}).Load(server, "vault"); err != nil {
		log.Fatal(err)
	}
	dir, err := os.MkdirTemp("", "vault-raft-")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)

	// From here on it is what a program needs.
	source, err := dynamodb.New(ctx, dynamodb.Options{
		Table:     "vault",
		Endpoint:  server.URL,
		AccessKey: "example", SecretKey: "example",
		// No lock in the table shows whether a Vault is running: we know.
		Stopped: func(context.Context, string) (bool, error) { return true, nil },
	})
	if err != nil {
		log.Fatal(err)
	}
	sink, err := raft.New(raft.Options{Path: dir, NodeID: "vault-0", Address: "127.0.0.1:8201"})
	if err != nil {
		log.Fatal(err)
	}
	manifest := verify.ManifestPath(dir)
	defer os.Remove(manifest)
	record, err := copier.Copy(ctx, source, sink, copier.Options{
		Resume: true, // an unfinished copy, if there is one
		Tool:   copier.Tool{Name: "example", Version: "1.0"},
		Record: func(_ context.Context, r copier.Record) error {
			return verify.WriteManifest(manifest, &r, -1, -1)
		},
	})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println("copied:", record.Total.Entries, "entries;", record.State)

	// Later, and without the table.
	kept, err := verify.ReadManifest(manifest)
	if err != nil {
		log.Fatal(err)
	}
	node := verify.NodeOf(kept)
	fmt.Println("proved:", kept.Proof != nil, "with Raft at index", node.Index, "of term", node.Term)
	check, err := verify.CheckManifest(ctx, verify.Expect(kept), dir)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println("as it was copied:", check.Equal())

	report, err := verify.CompareDirectory(ctx, source, dir, verify.Expect(kept), verify.Options{})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println("equal:", report.Equal(), "with", report.DestinationEntries, "entries")
	// Output:
	// copied: 2000 entries; released
	// proved: true with Raft at index 2 of term 1
	// as it was copied: true
	// equal: true with 2000 entries
}
