// Command dyn2raft copies HashiCorp Vault's DynamoDB table into a data
// directory of integrated storage (Raft), and verifies the copy.
package main

import (
	"os"

	"github.com/dyn2raft/dyn2raft/cmd/dyn2raft/command"
	"github.com/dyn2raft/dyn2raft/copier/processors"
)

func main() {
	processors.Overlap()
	os.Exit(command.Main(os.Args, command.Streams{In: os.Stdin, Out: os.Stdout, Err: os.Stderr, Env: os.LookupEnv}))
}
