package command

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/dustin/go-humanize"
	"github.com/urfave/cli/v3"

	"github.com/dyn2raft/dyn2raft/cmd/dyn2raft/figures"
	"github.com/dyn2raft/dyn2raft/sinks/raft/node"
	"github.com/dyn2raft/dyn2raft/sources/dynamodb"
	"github.com/dyn2raft/dyn2raft/sources/dynamodb/dynamotest"
)

func demoCommand(std Streams) *cli.Command {
	return newCommand(std, "demo", runDemo,
		[]cli.Flag{
			&cli.StringFlag{Name: "vault", Usage: "move a real Vault, this `program`; \"none\" uses no Vault (default: VAULT_BIN, or vault of PATH)"},
			&cli.BoolFlag{Name: "compare", Usage: "with a Vault: run 'vault operator migrate' too, and say what it loses"},
			&cli.StringFlag{Name: "dynamodb", Usage: "with a Vault: the `URL` of a DynamoDB such as AWS's DynamoDB Local, instead of the embedded one; it gets a table of its own, which is deleted at the end"},
			&cli.BoolFlag{Name: "serve", Usage: "only serve the table, until SIGTERM or SIGINT"},
			&cli.StringFlag{Name: "listen", Value: "127.0.0.1:0", Usage: "with -serve: the `address` to listen on"},
			&cli.IntFlag{Name: "entries", Value: 100_000, Usage: "entries in the table"},
			&cli.Uint64Flag{Name: "seed", Value: 1, Usage: "another seed makes other entries"},
			&cli.IntFlag{Name: "value-size", Usage: "mean size of a value in `bytes` (default: about 800)", HideDefault: true},
			&cli.DurationFlag{Name: "latency", Usage: "delay of each response; the real service has about 5ms", HideDefault: true},
			&cli.StringFlag{Name: "throughput", Usage: "`bytes` a second at which one response is served, such as 33MB, which is about the real service's (default: no limit)"},
			&cli.StringFlag{Name: "dir", Usage: "a `directory` to copy into and to leave there (default: a temporary one, removed at the end)"},
		},
		shared("log-level"),
	)
}

func runDemo(ctx context.Context, cmd *cli.Command, std Streams, _ *printer) (err error) {
	if err := noArguments(cmd); err != nil {
		return err
	}
	program, err := demoProgram(cmd, std)
	if err != nil {
		return err
	}
	if program != "" {
		return runVaultDemo(ctx, cmd, std, program)
	}
	opts := dynamotest.Options{Addr: cmd.String("listen"), Latency: cmd.Duration("latency")}
	if t := cmd.String("throughput"); t != "" {
		n, err := humanize.ParseBytes(t)
		if err != nil || n == 0 {
			return &usageError{flagIs(cmd, "throughput"), "it takes bytes a second, such as 33MB"}
		}
		opts.Throughput = float64(n)
	}
	if err := cmp.Or(
		mistake(opts.Latency < 0, flagIs(cmd, "latency"), "it takes a duration such as 5ms"),
		mistake(cmd.Int("entries") < dynamotest.LeastVault, flagIs(cmd, "entries"), fmt.Sprintf("it takes a number from %d on: fewer are no initialized Vault", dynamotest.LeastVault)),
		mistake(cmd.IsSet("value-size") && cmd.Int("value-size") < 1, flagIs(cmd, "value-size"), "it takes a number of bytes from 1 on"),
	); err != nil {
		return err
	}
	if err := fits(cmd); err != nil {
		return err
	}
	shape := dynamotest.VaultShape{
		Entries:   cmd.Int("entries"),
		Seed:      cmd.Uint64("seed"),
		ValueSize: cmd.Int("value-size"),
	}
	srv, err := dynamotest.Listen(opts)
	if err != nil {
		return &usageError{err.Error(), "give another address with -listen"}
	}
	defer srv.Close()
	if err := srv.CreateVaultTable(dynamodb.DefaultTable); err != nil {
		return err
	}
	if err := srv.SetTableDetails(dynamodb.DefaultTable, dynamotest.TableDetails{Recovery: true, DeletionProtection: true}); err != nil {
		return err
	}
	start := time.Now()
	content, err := shape.Load(srv, dynamodb.DefaultTable)
	if err != nil {
		return err
	}
	say := func(format string, a ...any) {
		if _, werr := fmt.Fprintf(std.Out, format+"\n", a...); werr != nil && err == nil {
			err = werr
		}
	}
	source := fmt.Sprintf("storage_source \"dynamodb\" {\n  endpoint   = %q\n  region     = %q\n  table      = %q\n  access_key = \"any\"\n  secret_key = \"any\"\n}\n",
		srv.URL, dynamodb.DefaultRegion, dynamodb.DefaultTable)
	if cmd.Bool("serve") {
		say("listening on %s\n\nTable %s has %s entries, %s, which are made up: no Vault can start on them.\n\n"+
			"# migrate.hcl, after mkdir -m 0700 data:\n%s\n# or, for the environment:\nexport AWS_DYNAMODB_ENDPOINT=%s AWS_DYNAMODB_TABLE=%s AWS_REGION=%s AWS_ACCESS_KEY_ID=any AWS_SECRET_ACCESS_KEY=any",
			srv.URL, dynamodb.DefaultTable, humanize.Comma(int64(content.Entries)), figures.Size(content.Bytes), source+demoDestination("data", "demo-1", demoAddr), srv.URL, dynamodb.DefaultTable, dynamodb.DefaultRegion)
		if err == nil {
			<-ctx.Done() // a signal is how this is meant to end: no error
		}
		return err
	}
	say("== An embedded DynamoDB server at %s holds table %s,\n   filled in %s: %s entries, %s, of which %.0f%% are leases and tokens in three Paths,\n"+
		"   %d have names that begin with an underscore, %d are orphans, %d have no value.",
		srv.URL, dynamodb.DefaultTable, figures.Round(time.Since(start)), humanize.Comma(int64(content.Entries)), figures.Size(content.Bytes),
		100*float64(content.Hot)/float64(content.Entries), content.Underscored, content.Orphans, content.Empty)

	dir := cmd.String("dir")
	if dir == "" {
		if dir, err = os.MkdirTemp("", "dyn2raft-demo-"); err != nil {
			return fmt.Errorf("create directory: %w", err)
		}
		defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	}
	data, hcl := filepath.Join(dir, "data"), filepath.Join(dir, "migrate.hcl")
	if err := os.MkdirAll(data, 0o700); err != nil {
		return fmt.Errorf("create directory: %w", err)
	}
	text := source + demoDestination(data, "demo-1", demoAddr)
	if err := os.WriteFile(hcl, []byte(text), 0o600); err != nil {
		return fmt.Errorf("write configuration: %w", err)
	}
	say("\n== %s:\n\n%s", hcl, text)

	// The very commands that an operator runs, in this process, and without
	// the environment, which may name a real table and a real directory.
	std.Env = func(string) (string, bool) { return "", false }
	for _, args := range [][]string{
		{"dyn2raft", "copy", "-config", hcl, "-source-stopped", "-log-level", cmd.String("log-level")},
		{"dyn2raft", "verify", "-config", hcl, "-log-level", cmd.String("log-level")},
	} {
		say("== %s", strings.Join(args, " "))
		if err := runWithin(ctx, std, args); err != nil {
			if sig, ok := errors.AsType[*signalError](err); ok {
				return sig // nothing comes next: the table is gone
			}
			return err
		}
		say("")
	}

	say("== Every entry of vault.db against what was put into the table")
	got, err := contentOf(filepath.Join(data, "vault.db"))
	if err != nil {
		return err
	}
	if got != content.Content {
		say("DIFFERENT: vault.db holds %d entries of %d bytes, digest %x; the table was given %d of %d, digest %x",
			got.Entries, got.Bytes, got.Digest[:8], content.Entries, content.Bytes, content.Digest[:8])
		return errDifferent
	}
	say("Equal: %s entries of %s, digest %x…, the %s names with an underscore and the %s orphans included,\n"+
		"which `vault operator migrate` would have lost.", humanize.Comma(int64(got.Entries)), figures.Size(got.Bytes), got.Digest[:8],
		humanize.Comma(int64(content.Underscored)), humanize.Comma(int64(content.Orphans)))
	if cmd.String("dir") != "" {
		say("%s has the layout of a real one; its values are made up, so that no Vault can start on it.", data)
	}
	if !slices.ContainsFunc(append(madeUp, "vault"), cmd.IsSet) {
		say("\nTo see the same with a real Vault, which is moved, and used on three nodes: dyn2raft demo -vault PROGRAM")
	}
	return err
}

// demoAddr is of an address for documentation: nobody is there.
const demoAddr = "https://192.0.2.1:8201"

// demoDestination is what migrate.hcl has beside its source.
func demoDestination(path, id, clusterAddr string) string {
	return fmt.Sprintf("\nstorage_destination \"raft\" {\n  path    = %q\n  node_id = %q\n}\n\ncluster_addr = %q\n", path, id, clusterAddr)
}

// runWithin runs a command line within a command. The cli library keeps the command that
// runs in its context and would take it for the other's parent: that one gets a context that
// only ends with this one.
func runWithin(ctx context.Context, std Streams, args []string) error {
	inner, cancel := context.WithCancelCause(context.Background())
	defer cancel(nil)
	defer context.AfterFunc(ctx, func() { cancel(context.Cause(ctx)) })()
	return root(std).Run(inner, args)
}

// fits refuses a table that this machine has no room for in memory. Measured with 200,000
// entries, the server's heap has twice the size of the values, and 1.4 KB an entry.
func fits(cmd *cli.Command) error {
	needs := float64(cmd.Int("entries")) * 2 * float64(cmp.Or(cmd.Int("value-size"), 800)+700)
	if _, free, err := node.Memory(); err == nil && needs > float64(free) {
		return &usageError{fmt.Sprintf("the table would take about %s of memory, and %s are free", figures.Size(int64(min(needs, 1<<62))), figures.Size(free)),
			"give fewer entries (-entries) or smaller values (-value-size)"}
	}
	return nil
}

// contentOf adds up the data bucket of a vault.db.
func contentOf(file string) (c dynamotest.Content, err error) {
	err = viewData(file, func(k, v []byte) { c.Add(string(k), v) })
	return c, err
}
