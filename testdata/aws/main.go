// Command aws runs dyn2raft against the DynamoDB service, on a table of its own that it
// deletes again: docs/aws.md. `make aws` runs it, and says first what that costs.
package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb/types"
	"github.com/aws/smithy-go"
	"github.com/hashicorp/vault/sdk/physical"
	bolt "go.etcd.io/bbolt"
	"golang.org/x/sync/errgroup"

	"github.com/dyn2raft/dyn2raft/sources/dynamodb/dynamotest"
)

// What a run uses for each entry, by the demo's 0.22 read units an entry and some ten times
// that all is read, and AWS's on-demand prices for a unit in us-east-1 since November 2024, in dollars
// (aws.amazon.com/dynamodb/pricing/on-demand).
const (
	writesEach, writePrice = 2.0, 0.625e-6
	readsEach, readPrice   = 3.0, 0.125e-6
	fillers                = 8
	attempts               = 60 // of a batch: 6 minutes
)

// throttles are what a new table on demand answers to more than it is ready for.
var throttles = []string{"ProvisionedThroughputExceededException", "ThrottlingException", "RequestLimitExceeded"}

type trial struct {
	dyn2raft, dir, table, region, endpoint string
	client                                 *dynamodb.Client
	log                                    io.Writer
	shape                                  dynamotest.VaultShape

	mu      sync.Mutex
	written map[string][]byte // by the writer; nil is deleted
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "error:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context) (err error) {
	t := &trial{written: map[string][]byte{}}
	flag.StringVar(&t.dyn2raft, "dyn2raft", "bin/dyn2raft", "the `program`")
	flag.IntVar(&t.shape.Entries, "entries", 100_000, "in the table")
	logFile := flag.String("log", "dyn2raft-aws.log", "the `file` to send in")
	yes := flag.Bool("yes", false, "don't ask")
	flag.Parse()
	t.shape.Seed = 1
	if t.dyn2raft, err = filepath.Abs(t.dyn2raft); err != nil {
		return err
	}
	if t.shape.Entries < dynamotest.LeastVault {
		return fmt.Errorf("fewer than %d entries are no Vault", dynamotest.LeastVault)
	}
	cfg, err := config.LoadDefaultConfig(ctx)
	if err != nil {
		return err
	}
	t.region, t.endpoint = cfg.Region, os.Getenv("AWS_DYNAMODB_ENDPOINT")
	if t.region == "" {
		return errors.New("no region is set: AWS_REGION=eu-central-1 make aws")
	}
	t.client = dynamodb.NewFromConfig(cfg, func(o *dynamodb.Options) {
		if t.endpoint != "" {
			o.BaseEndpoint = &t.endpoint
		}
	})
	t.table = "dyn2raft-trial-" + strings.ToLower(rand.Text()[:10])
	n := float64(t.shape.Entries)
	fmt.Printf(`This creates the table %s in %s, fills it with %d made-up entries, runs
dyn2raft on it for some minutes, and deletes it with its backup. It touches no other table.
It costs about %.2f US dollars: %.0f thousand write and %.0f thousand read request units, at the
on-demand prices of us-east-1 since November 2024.
`, t.table, t.region, t.shape.Entries, max(n*(writesEach*writePrice+readsEach*readPrice), 0.01), n*writesEach/1000, n*readsEach/1000)
	if !*yes {
		fmt.Print("Type yes to go on: ")
		if answer, err := bufio.NewReader(os.Stdin).ReadString('\n'); strings.TrimSpace(answer) != "yes" {
			return errors.Join(errors.New("nothing was done"), err)
		}
	}
	log, err := os.OpenFile(*logFile, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, log.Close()) }()
	t.log = io.MultiWriter(os.Stdout, log)
	if t.dir, err = os.MkdirTemp("", "dyn2raft-aws-"); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(t.dir)) }()
	t.say("== table %s in %s, %d entries, %s, %s/%s, %s", t.table, t.region, t.shape.Entries, runtime.Version(), runtime.GOOS, runtime.GOARCH, time.Now().UTC().Format(time.RFC3339))
	err = t.create(ctx)
	if err == nil {
		err = t.steps(ctx)
	}
	err = errors.Join(err, t.remove())
	if err != nil {
		t.say("FAILED: %v", err)
	} else {
		t.say("All is well.")
	}
	fmt.Printf("The log is %s: it has no credentials, no account number and no name of this host. Look at it, and send it in.\n", *logFile)
	return err
}

var account = regexp.MustCompile(`\b\d{12}\b`)

// say writes to the terminal and to the log what may be sent in.
func (t *trial) say(format string, a ...any) {
	text := account.ReplaceAllString(fmt.Sprintf(format, a...), "ACCOUNT")
	if host, err := os.Hostname(); err == nil && host != "" {
		text = strings.ReplaceAll(text, host, "HOST")
	}
	fmt.Fprintln(t.log, strings.ReplaceAll(text, t.dir+"/", ""))
}

func (t *trial) create(ctx context.Context) error {
	pathName, key := aws.String("Path"), aws.String("Key")
	_, err := t.client.CreateTable(ctx, &dynamodb.CreateTableInput{
		TableName: &t.table, BillingMode: types.BillingModePayPerRequest,
		KeySchema:            []types.KeySchemaElement{{AttributeName: pathName, KeyType: types.KeyTypeHash}, {AttributeName: key, KeyType: types.KeyTypeRange}},
		AttributeDefinitions: []types.AttributeDefinition{{AttributeName: pathName, AttributeType: "S"}, {AttributeName: key, AttributeType: "S"}},
		Tags:                 []types.Tag{{Key: aws.String("dyn2raft"), Value: aws.String("trial, may be deleted")}},
	})
	if err != nil {
		return err
	}
	return dynamodb.NewTableExistsWaiter(t.client).Wait(ctx, &dynamodb.DescribeTableInput{TableName: &t.table}, 5*time.Minute)
}

// remove deletes the table and its backups, whatever has happened, and waits until it is gone.
func (t *trial) remove() error {
	ctx, cancel := context.WithTimeout(context.Background(), 15*time.Minute)
	defer cancel()
	backups, err := t.client.ListBackups(ctx, &dynamodb.ListBackupsInput{TableName: &t.table})
	if err == nil {
		for _, b := range backups.BackupSummaries {
			_, e := t.client.DeleteBackup(ctx, &dynamodb.DeleteBackupInput{BackupArn: b.BackupArn})
			err = errors.Join(err, e)
		}
	} else if unknown(err) {
		err = nil
	}
	// A table whose stream has just been disabled can't be deleted for some time.
	for i := 0; ; i++ {
		_, e := t.client.DeleteTable(ctx, &dynamodb.DeleteTableInput{TableName: &t.table})
		if errors.As(e, new(*types.ResourceNotFoundException)) {
			t.say("== table %s and its backups are deleted", t.table)
			return err
		}
		if i > 200 || e != nil && !errors.As(e, new(*types.ResourceInUseException)) {
			return errors.Join(err, fmt.Errorf("table %s is LEFT BEHIND, delete it yourself: %w", t.table, e))
		}
		select {
		case <-ctx.Done():
		case <-time.After(3 * time.Second):
		}
	}
}

// unknown reports whether an emulator does not have an operation.
func unknown(err error) bool {
	api, ok := errors.AsType[smithy.APIError](err)
	return ok && strings.HasPrefix(api.ErrorCode(), "UnknownOperation")
}

func (t *trial) steps(ctx context.Context) error {
	began := time.Now()
	if err := t.fill(ctx); err != nil {
		return fmt.Errorf("fill: %w", err)
	}
	t.say("== filled in %.1f s", time.Since(began).Seconds())
	there, live, back := t.config("there", true), t.config("live", true), t.config("there", false)
	work := filepath.Join(t.dir, "work")
	for _, dir := range []string{"there", "live", "work"} {
		if err := os.Mkdir(filepath.Join(t.dir, dir), 0o700); err != nil {
			return err
		}
	}
	for _, args := range [][]string{{"version"}, {"plan", "-config", there}, {"copy", "-config", there, "-source-stopped"}, {"verify", "-config", there}} {
		if err := t.run(ctx, args...); err != nil {
			return err
		}
	}
	if err := t.compare("there"); err != nil {
		return err
	}

	if _, err := t.client.ListBackups(ctx, &dynamodb.ListBackupsInput{TableName: &t.table}); unknown(err) {
		t.say("== SKIPPED: the way back in place, since this endpoint makes no backups")
	} else {
		t.say("== entries are changed, deleted and added; the copy in place takes that back")
		for i := range 10 {
			if err := t.put(ctx, fmt.Sprintf("logical/trial/%d", i), []byte("added")); err != nil {
				return err
			}
		}
		if err := errors.Join(t.delete(ctx, "sys/policy/default"), t.put(ctx, "sys/token/salt", []byte("changed"))); err != nil {
			return err
		}
		if err := t.run(ctx, "copy", "-config", back, "-work-dir", work, "-replace", "-backup", t.table); err != nil {
			return err
		}
		if err := t.run(ctx, "verify", "-config", back, "-work-dir", work); err != nil {
			return err
		}
	}
	return t.live(ctx, live)
}

// live copies while a writer writes, and cuts over.
func (t *trial) live(ctx context.Context, config string) error {
	group, each := errgroup.WithContext(ctx)
	writing, stop := context.WithCancel(each)
	defer stop()
	stopped := make(chan struct{})
	group.Go(func() error {
		defer close(stopped)
		return t.write(each, writing)
	})
	group.Go(func() error {
		return t.run(each, "copy", "-config", config, "-live", "-yes")
	})
	group.Go(func() error {
		for {
			out, _ := t.command(each, "status", "-config", config, "-format", "json").Output() // it may not have begun
			var s struct {
				Status struct{ Live struct{ Ready bool } }
			}
			if json.Unmarshal(out, &s) == nil && s.Status.Live.Ready {
				break
			}
			select {
			case <-each.Done():
				return context.Cause(each)
			case <-time.After(time.Second):
			}
		}
		stop()
		<-stopped // no Vault writes when its lock is given up
		return t.run(each, "cutover", "-config", config)
	})
	if err := group.Wait(); err != nil {
		return err
	}
	t.say("== the writer has written or deleted %d entries", len(t.written))
	if err := t.run(ctx, "verify", "-config", config, "-closed"); err != nil {
		return err
	}
	return t.compare("live")
}

// write changes entries until it is told to stop, and remembers what was acknowledged.
func (t *trial) write(ctx, until context.Context) error {
	for i := 0; until.Err() == nil; i++ {
		key, value := fmt.Sprintf("logical/writer/%d", i%200), fmt.Appendf(nil, "write %d", i)
		do := func() error { return t.put(ctx, key, value) }
		if i%7 == 6 {
			value = nil
			do = func() error { return t.delete(ctx, key) }
		}
		if err := do(); err != nil {
			return fmt.Errorf("write: %w", err)
		}
		t.mu.Lock()
		t.written[key] = value
		t.mu.Unlock()
		select {
		case <-until.Done():
		case <-time.After(20 * time.Millisecond):
		}
	}
	return nil
}

// compare adds up a vault.db, and what was put into the table, by other code than dyn2raft's.
func (t *trial) compare(dir string) (err error) {
	var want, got dynamotest.Content
	for key, value := range t.shape.All() {
		want.Add(key, value)
	}
	for key, value := range t.written {
		if value != nil {
			want.Add(key, value)
		}
	}
	db, err := bolt.Open(filepath.Join(t.dir, dir, "vault.db"), 0o600, &bolt.Options{ReadOnly: true, Timeout: time.Second})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	if err := db.View(func(tx *bolt.Tx) error {
		return tx.Bucket([]byte("data")).ForEach(func(k, v []byte) error {
			got.Add(string(k), v)
			return nil
		})
	}); err != nil {
		return err
	}
	if got != want {
		return fmt.Errorf("%s/vault.db has %d entries with digest %x, want %d with %x", dir, got.Entries, got.Digest[:8], want.Entries, want.Digest[:8])
	}
	t.say("== %s/vault.db has the %d entries that were put into the table, digest %x", dir, got.Entries, got.Digest[:8])
	return nil
}

// config writes a configuration: from the table to a directory, or back.
func (t *trial) config(dir string, there bool) string {
	from, to, file := "storage_source", "storage_destination", filepath.Join(t.dir, dir+".hcl")
	if !there {
		from, to, file = to, from, filepath.Join(t.dir, dir+"-back.hcl")
	}
	endpoint, node, last := "", "", ""
	if t.endpoint != "" {
		endpoint = fmt.Sprintf("  endpoint   = %q\n", t.endpoint)
	}
	if there {
		node, last = "  node_id = \"trial\"\n", "cluster_addr = \"https://192.0.2.1:8201\"\n"
	}
	text := fmt.Sprintf("%s \"dynamodb\" {\n  ha_enabled = \"true\"\n  region     = %q\n  table      = %q\n%s}\n%s \"raft\" {\n  path = %q\n%s}\n%s",
		from, t.region, t.table, endpoint, to, filepath.Join(t.dir, dir), node, last)
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		panic(err) // into a directory that was just made
	}
	return file
}

func (t *trial) command(ctx context.Context, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, t.dyn2raft, args...)
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	cmd.WaitDelay = time.Minute
	return cmd
}

// run runs dyn2raft, which has to succeed, and logs what it says.
func (t *trial) run(ctx context.Context, args ...string) error {
	var out bytes.Buffer
	cmd := t.command(ctx, args...)
	cmd.Stdout, cmd.Stderr = &out, &out
	began := time.Now()
	err := cmd.Run()
	t.say("\n$ dyn2raft %s\n%s[exit status %d, %.1f s]", strings.Join(args, " "), out.String(), cmd.ProcessState.ExitCode(), time.Since(began).Seconds())
	if err != nil {
		return fmt.Errorf("dyn2raft %s: %w", args[0], err)
	}
	return nil
}

func keyOf(key string) map[string]types.AttributeValue {
	dir := path.Dir(key)
	if dir == "." {
		dir = " " // as Vault has it
	}
	return map[string]types.AttributeValue{"Path": &types.AttributeValueMemberS{Value: dir}, "Key": &types.AttributeValueMemberS{Value: path.Base(key)}}
}

func item(key string, value []byte) map[string]types.AttributeValue {
	it := keyOf(key)
	it["Value"] = &types.AttributeValueMemberB{Value: value}
	if len(value) == 0 {
		it["Value"] = &types.AttributeValueMemberNULL{Value: true}
	}
	return it
}

func (t *trial) put(ctx context.Context, key string, value []byte) error {
	_, err := t.client.PutItem(ctx, &dynamodb.PutItemInput{TableName: &t.table, Item: item(key, value)})
	return err
}

func (t *trial) delete(ctx context.Context, key string) error {
	_, err := t.client.DeleteItem(ctx, &dynamodb.DeleteItemInput{TableName: &t.table, Key: keyOf(key)})
	return err
}

// fill writes the entries, with the markers of their directories.
func (t *trial) fill(ctx context.Context) error {
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(fillers)
	marked := map[string]bool{}
	var batch []types.WriteRequest
	add := func(it map[string]types.AttributeValue) {
		batch = append(batch, types.WriteRequest{PutRequest: &types.PutRequest{Item: it}})
		if len(batch) == 25 {
			full := batch
			group.Go(func() error { return t.putAll(ctx, full) })
			batch = nil
		}
	}
	for key, value := range t.shape.All() {
		if ctx.Err() != nil {
			break
		}
		add(item(key, slices.Clone(value)))
		for _, prefix := range physical.Prefixes(key) {
			if !marked[prefix] {
				marked[prefix] = true
				it := item(prefix, nil)
				it["Key"] = &types.AttributeValueMemberS{Value: path.Base(prefix) + "/"}
				add(it)
			}
		}
	}
	if len(batch) > 0 {
		group.Go(func() error { return t.putAll(ctx, batch) })
	}
	return group.Wait()
}

func (t *trial) putAll(ctx context.Context, batch []types.WriteRequest) error {
	for i := range attempts {
		out, err := t.client.BatchWriteItem(ctx, &dynamodb.BatchWriteItemInput{RequestItems: map[string][]types.WriteRequest{t.table: batch}})
		switch api, ok := errors.AsType[smithy.APIError](err); {
		case err == nil:
			if batch = out.UnprocessedItems[t.table]; len(batch) == 0 {
				return nil
			}
		case !ok || !slices.Contains(throttles, api.ErrorCode()):
			return err
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(100 * time.Millisecond << min(i, 6)):
		}
	}
	return fmt.Errorf("the table throttled %d items %d times", len(batch), attempts)
}
