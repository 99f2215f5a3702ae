package command

import (
	"bytes"
	"cmp"
	"context"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	awsdynamodb "github.com/aws/aws-sdk-go-v2/service/dynamodb"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb/types"
	"github.com/urfave/cli/v3"
	bolt "go.etcd.io/bbolt"

	"github.com/dyn2raft/dyn2raft/cmd/dyn2raft/server"
	"github.com/dyn2raft/dyn2raft/sources/dynamodb/dynamotest"
)

// madeUp are the flags of the demo without a Vault.
var madeUp = []string{"serve", "listen", "entries", "seed", "value-size", "latency", "throughput", "dir"}

// demoProgram returns the Vault to show the move with: that of -vault, of VAULT_BIN, or of
// PATH. It returns "" where there is none, or where the flags ask for a table without one.
func demoProgram(cmd *cli.Command, std Streams) (string, error) {
	name, asked := cmd.String("vault"), cmd.IsSet("vault") && cmd.String("vault") != "none"
	for _, flag := range madeUp {
		switch {
		case !cmd.IsSet(flag):
		case asked:
			return "", &usageError{fmt.Sprintf("-%s is of the demo without a Vault", flag), "leave -vault or -" + flag + " away"}
		default:
			name = "none"
		}
	}
	if name == "none" {
		return "", cmp.Or(
			mistake(cmd.Bool("compare"), "-compare needs a Vault", "name one with -vault, and leave the flags of the demo without one away"),
			mistake(cmd.IsSet("dynamodb"), "-dynamodb needs a Vault", "name one with -vault, and leave the flags of the demo without one away"))
	}
	if name == "" {
		name, _ = std.Env("VAULT_BIN")
		asked = name != ""
	}
	found, err := exec.LookPath(cmp.Or(name, "vault"))
	if err == nil {
		found, err = filepath.Abs(found)
	}
	if err != nil && (asked || cmd.Bool("compare") || cmd.IsSet("dynamodb")) {
		return "", &usageError{"no Vault is found: " + err.Error(), "name its program with -vault"}
	}
	return found, nil
}

// A vaultDemo moves a real Vault, and leaves nothing behind.
type vaultDemo struct {
	std     Streams
	level   string // of the log
	program string
	dir     string // of everything; below it is logs
	began   time.Time
	source  string // the stanza of the table, without its keyword
	running []*server.Process

	deleteTable func() error // where that outlives the demo

	shares  []string // that unseal
	root    string   // token
	secrets map[string]string
	users   map[string]string // passwords
	tokens  []string
	cipher  string // of demoPlain
}

const (
	demoShares  = 2
	demoPolicy  = `path "kv/*" { capabilities = ["read"] }`
	demoPlain   = "what transit has encrypted"
	demoTable   = "dyn2raft-demo-"
	demoPatient = 3 * time.Minute // for an election or a join, which take 10 s on an idle machine
)

// say prints a line with the seconds that have passed.
func (d *vaultDemo) say(format string, a ...any) {
	fmt.Fprintf(d.std.Out, "%5.1f s  %s\n", time.Since(d.began).Seconds(), fmt.Sprintf(format, a...)) //nolint:errcheck // a demo that nobody sees goes on to its end
}

func runVaultDemo(ctx context.Context, cmd *cli.Command, std Streams, program string) (err error) {
	version, err := exec.CommandContext(ctx, program, "version").Output()
	if err != nil || !bytes.HasPrefix(version, []byte("Vault v")) {
		return &usageError{fmt.Sprintf("%s is no Vault: its version is %q (%v)", program, version, err), "name another with -vault, or none with -vault none"}
	}
	d := &vaultDemo{std: std, level: cmd.String("log-level"), program: program, began: time.Now(), secrets: map[string]string{}, users: map[string]string{}}
	if d.dir, err = os.MkdirTemp("", "dyn2raft-demo-"); err != nil {
		return fmt.Errorf("create directory: %w", err)
	}
	defer func() { err = d.tidy(ctx, err) }()
	if err := os.Mkdir(d.path("logs"), 0o700); err != nil {
		return fmt.Errorf("create directory: %w", err)
	}
	d.std.Env = func(string) (string, bool) { return "", false } // as of the demo without a Vault
	d.say("%s, in %s, which is removed at the end", strings.TrimSuffix(strings.Join(strings.Fields(string(version))[:2], " "), ","), d.dir)

	endpoint := cmd.String("dynamodb")
	if endpoint == "" {
		srv, err := dynamotest.Listen(dynamotest.Options{Addr: "127.0.0.1:0"})
		if err != nil {
			return fmt.Errorf("serve DynamoDB: %w", err)
		}
		defer srv.Close()
		endpoint = srv.URL
		d.say("an embedded DynamoDB server listens on %s", endpoint)
	}
	table := demoTable + strings.ToLower(rand.Text()[:10])
	d.source = fmt.Sprintf("\"dynamodb\" {\n  ha_enabled = \"true\"\n  endpoint   = %q\n  region     = \"us-east-1\"\n  table      = %q\n  access_key = \"any\"\n  secret_key = \"any\"\n}\n", endpoint, table)
	if cmd.IsSet("dynamodb") {
		d.deleteTable = func() error { return deleteTable(endpoint, table) }
	}
	return d.run(ctx, cmd.Bool("compare"))
}

// tidy ends every process, and removes the table and the directory. Where the demo has failed
// the logs stay.
func (d *vaultDemo) tidy(ctx context.Context, err error) error {
	var ends sync.WaitGroup
	for _, p := range d.running {
		ends.Go(func() { p.Stop(20 * time.Second) })
	}
	ends.Wait()
	var deleted error
	if d.deleteTable != nil {
		deleted = d.deleteTable()
	}
	if cause := context.Cause(ctx); cause != nil {
		return errors.Join(cause, deleted, os.RemoveAll(d.dir))
	}
	if err = errors.Join(err, deleted); err == nil {
		return os.RemoveAll(d.dir)
	}
	files, listed := os.ReadDir(d.dir)
	err = errors.Join(err, listed)
	for _, f := range files {
		if f.Name() != "logs" {
			err = errors.Join(err, os.RemoveAll(d.path(f.Name())))
		}
	}
	return fmt.Errorf("%w; the logs are in %s", err, d.path("logs"))
}

func (d *vaultDemo) path(names ...string) string {
	return filepath.Join(d.dir, filepath.Join(names...))
}

func (d *vaultDemo) run(ctx context.Context, compare bool) error {
	a, err := d.node("a")
	if err != nil {
		return err
	}
	if err := d.serve(ctx, a, "storage "+d.source, http.StatusOK); err != nil {
		return err
	}
	if err := d.fill(ctx, a); err != nil {
		return fmt.Errorf("fill Vault A: %w", err)
	}
	d.say("Vault A serves from it: %d secrets, %d of them with a name or a folder that begins with _,\n         %d users, %d tokens, a policy, a transit key",
		len(d.secrets), d.hidden(), len(d.users), len(d.tokens))
	a.Stop(time.Minute)
	d.say("Vault A is stopped")

	nodes := make([]*demoNode, 3)
	for i := range nodes {
		if nodes[i], err = d.node(fmt.Sprintf("b%d", i+1)); err != nil {
			return err
		}
	}
	hcl, err := d.migrateFile(nodes[0])
	if err != nil {
		return err
	}
	for _, args := range [][]string{{"copy"}, {"verify"}} {
		if err := d.dyn2raft(ctx, append(args, "-config", hcl, "-log-level", d.level)); err != nil {
			return err
		}
	}
	if compare {
		if err := d.peer(ctx, nodes[0]); err != nil {
			return err
		}
	}
	return d.cluster(ctx, nodes)
}

// dyn2raft runs a command in this process, and prints what matters of its output.
func (d *vaultDemo) dyn2raft(ctx context.Context, args []string) error {
	log, err := os.Create(d.path("logs", args[0]+".log"))
	if err != nil {
		return fmt.Errorf("create log: %w", err)
	}
	defer log.Close() //nolint:errcheck // a log
	var out bytes.Buffer
	std := d.std
	std.Out, std.Err = io.MultiWriter(&out, log), log
	if err := runWithin(ctx, std, append([]string{"dyn2raft"}, args...)); err != nil {
		return fmt.Errorf("dyn2raft %s: %w", args[0], err)
	}
	d.say("dyn2raft %s: exit status 0", args[0])
	for line := range strings.Lines(out.String()) {
		if strings.HasPrefix(line, "Copied ") || strings.HasPrefix(line, "Success!") || strings.HasPrefix(line, "Equal:") {
			d.say("  %s", strings.TrimSpace(strings.ReplaceAll(line, d.dir+"/", "")))
		}
	}
	return nil
}

// peer runs vault operator migrate from the same table, and says what it has lost.
func (d *vaultDemo) peer(ctx context.Context, ours *demoNode) error {
	n, err := d.node("peer")
	if err != nil {
		return err
	}
	hcl, err := d.migrateFile(n)
	if err != nil {
		return err
	}
	began := time.Now()
	run := exec.CommandContext(ctx, d.program, "operator", "migrate", "-config", hcl)
	run.Dir, run.Env, run.SysProcAttr = d.dir, server.Environment(d.dir), server.DieWithParent()
	out, err := run.CombinedOutput()
	if werr := os.WriteFile(d.path("logs", "peer.log"), out, 0o600); err != nil || werr != nil {
		return fmt.Errorf("vault operator migrate: %w", errors.Join(err, werr))
	}
	all, err := namesOf(filepath.Join(ours.data, "vault.db"))
	if err != nil {
		return err
	}
	got, err := namesOf(filepath.Join(n.data, "vault.db"))
	if err != nil {
		return err
	}
	maps.DeleteFunc(all, func(name string, _ bool) bool { return got[name] })
	d.say("vault operator migrate, to compare: exit status 0, %q, in %.1f s.\n         It has lost %d entries:", "Success! All of the keys have been migrated.", time.Since(began).Seconds(), len(all))
	if !bytes.Contains(out, []byte("Success! All of the keys have been migrated.")) {
		return errors.New("vault operator migrate has ended without its last line")
	}
	for _, name := range slices.Sorted(maps.Keys(all))[:min(3, len(all))] {
		d.say("  %s", name)
	}
	return nil
}

// namesOf are the keys in the data bucket of a vault.db.
func namesOf(file string) (names map[string]bool, err error) {
	names = map[string]bool{}
	err = viewData(file, func(k, _ []byte) { names[string(k)] = true })
	return names, err
}

// cluster starts Vault B, takes its first node away, and uses everything.
func (d *vaultDemo) cluster(ctx context.Context, nodes []*demoNode) error {
	for i, n := range nodes {
		join, health := "", http.StatusOK
		if i > 0 {
			health = http.StatusTooManyRequests
			join = fmt.Sprintf("  retry_join {\n    leader_api_addr = %q\n  }\n", nodes[0].Addr)
		}
		if err := d.serve(ctx, n, fmt.Sprintf("storage \"raft\" {\n  path = %q\n  node_id = %q\n  performance_multiplier = \"1\"\n%s}\n", n.data, n.name, join), health); err != nil {
			return err
		}
		if i == 0 {
			d.say("Vault B starts on the copy, and is unsealed with the same keys: node %s leads", n.name)
		}
	}
	if err := d.until(ctx, "three voters", nodes[0], func() error {
		answer, err := d.ask(ctx, nodes[0], http.MethodGet, "sys/storage/raft/configuration", nil)
		if err != nil {
			return err
		}
		config, _ := answer["config"].(map[string]any)
		servers, _ := config["servers"].([]any)
		voters := 0
		for _, s := range servers {
			if s, ok := s.(map[string]any); ok && s["voter"] == true {
				voters++
			}
		}
		if voters != 3 {
			return fmt.Errorf("%d voters", voters)
		}
		return nil
	}); err != nil {
		return err
	}
	d.say("nodes %s and %s have joined it: three voters", nodes[1].name, nodes[2].name)
	nodes[0].Stop(time.Minute)
	leader := nodes[1]
	if err := d.until(ctx, "another leader", leader, func() error {
		for _, leader = range nodes[1:] {
			if status, _, err := leader.Do(ctx, http.MethodGet, "sys/health", nil); err == nil && status == http.StatusOK {
				return nil
			}
		}
		return errors.New("no node is active")
	}); err != nil {
		return err
	}
	d.say("node %s is stopped: node %s leads", nodes[0].name, leader.name)
	if err := d.check(ctx, leader); err != nil {
		return fmt.Errorf("use Vault B: %w", err)
	}
	d.say("all is there, by node %s: %d of %[2]d secrets read, %d of %[3]d users logged in, %d of %[4]d tokens are valid,\n"+
		"         the policy allows and denies as before, and the transit key decrypts", leader.name, len(d.secrets), len(d.users), len(d.tokens))
	return nil
}

// A demoNode is a Vault: its ports and its directory, its client and its process.
type demoNode struct {
	server.Client
	*server.Process
	name, data   string
	api, cluster int
}

func (d *vaultDemo) node(name string) (n *demoNode, err error) {
	n = &demoNode{name: name, data: d.path(name)}
	var err2 error
	n.api, err = server.FreePort()
	n.cluster, err2 = server.FreePort()
	n.Client = server.Client{Addr: fmt.Sprintf("http://127.0.0.1:%d", n.api), HTTP: &http.Client{Timeout: time.Minute}}
	if err := errors.Join(err, err2, os.Mkdir(n.data, 0o700)); err != nil {
		return nil, fmt.Errorf("make ready a node: %w", err)
	}
	return n, nil
}

func (d *vaultDemo) migrateFile(n *demoNode) (string, error) {
	file := d.path("migrate-" + n.name + ".hcl")
	text := "storage_source " + d.source + demoDestination(n.data, n.name, fmt.Sprintf("https://127.0.0.1:%d", n.cluster))
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		return "", fmt.Errorf("write configuration: %w", err)
	}
	return file, nil
}

// serve starts a node, initializes the first one, unseals it, and waits for its health: 200 of
// the active node, 429 of a standby. One that joins takes the keys only when it has found
// the leader.
func (d *vaultDemo) serve(ctx context.Context, n *demoNode, storage string, health int) error {
	file := d.path(n.name + ".hcl")
	if err := os.WriteFile(file, []byte(server.Config(n.api, n.cluster, storage)), 0o600); err != nil {
		return fmt.Errorf("write configuration: %w", err)
	}
	var err error
	if n.Process, err = server.Start(d.dir, d.path("logs", n.name+".log"), d.program, "server", "-config", file); err != nil {
		return err //nolint:wrapcheck // it names the program
	}
	d.running = append(d.running, n.Process)
	if err := d.until(ctx, "node "+n.name+" to answer", n, func() error {
		_, err := d.ask(ctx, n, http.MethodGet, "sys/seal-status", nil)
		return err
	}); err != nil {
		return err
	}
	if d.root == "" {
		answer, err := d.ask(ctx, n, http.MethodPut, "sys/init", map[string]any{"secret_shares": 3, "secret_threshold": demoShares})
		if err != nil {
			return fmt.Errorf("initialize: %w", err)
		}
		d.root, _ = answer["root_token"].(string)
		all, _ := answer["keys_base64"].([]any)
		for _, share := range all {
			d.shares = append(d.shares, fmt.Sprint(share))
		}
	}
	n.Token = d.root
	return d.until(ctx, "node "+n.name+" to serve", n, func() error {
		status, _, err := n.Do(ctx, http.MethodGet, "sys/health", nil)
		if err != nil || status == health {
			return err
		}
		for _, share := range d.shares[:demoShares] {
			if _, err := d.ask(ctx, n, http.MethodPut, "sys/unseal", map[string]any{"key": share}); err != nil {
				return err
			}
		}
		return fmt.Errorf("its health is %d", status)
	})
}

// until tries until there is no error, and gives up after a long time, or when the node has ended.
func (d *vaultDemo) until(ctx context.Context, what string, n *demoNode, try func() error) error {
	limit, cancel := context.WithTimeout(ctx, demoPatient)
	defer cancel()
	for {
		err := try()
		if err == nil {
			return nil
		}
		if gone := n.Alive(); gone != nil {
			return fmt.Errorf("wait for %s: %w", what, gone)
		}
		select {
		case <-limit.Done():
			return fmt.Errorf("wait for %s, for %s: %w", what, demoPatient, err)
		case <-time.After(200 * time.Millisecond):
		}
	}
}

// ask sends a request that has to succeed, and returns what Vault wraps in data or in auth.
func (d *vaultDemo) ask(ctx context.Context, n *demoNode, method, path string, body any) (map[string]any, error) {
	status, answer, err := n.Do(ctx, method, path, body)
	if err == nil && status >= 300 {
		err = fmt.Errorf("%s %s: status %d: %v", method, path, status, answer["errors"])
	}
	for _, part := range []string{"data", "auth"} {
		if inner, ok := answer[part].(map[string]any); ok {
			return inner, err
		}
	}
	return answer, err
}

func (d *vaultDemo) hidden() (n int) {
	for name := range d.secrets {
		if strings.HasPrefix(name, "_") {
			n++
		}
	}
	return n
}

func (d *vaultDemo) fill(ctx context.Context, n *demoNode) (err error) {
	write := func(path string, body any) (answer map[string]any) {
		if err == nil {
			answer, err = d.ask(ctx, n, http.MethodPost, path, body)
		}
		return answer
	}
	write("sys/mounts/kv", map[string]any{"type": "kv", "options": map[string]any{"version": "1"}})
	for i := range 192 {
		d.secrets[fmt.Sprintf("team-%d/app-%02d/database", i%8, i)] = rand.Text()
	}
	for i := range 4 {
		d.secrets[fmt.Sprintf("_staging/app-%02d", i)], d.secrets[fmt.Sprintf("_legacy-%d", i)] = rand.Text(), rand.Text()
	}
	for name, value := range d.secrets {
		write("kv/"+name, map[string]any{"value": value})
	}
	write("sys/policies/acl/readers", map[string]any{"policy": demoPolicy})
	write("sys/auth/userpass", map[string]any{"type": "userpass"})
	for i := range 5 {
		name, password := fmt.Sprintf("user-%d", i), rand.Text()
		d.users[name] = password
		write("auth/userpass/users/"+name, map[string]any{"password": password, "token_policies": "readers"})
		token, _ := write("auth/token/create", map[string]any{"policies": []string{"readers"}, "ttl": "24h"})["client_token"].(string)
		d.tokens = append(d.tokens, token)
	}
	write("sys/mounts/transit", map[string]any{"type": "transit"})
	write("transit/keys/demo", nil)
	d.cipher, _ = write("transit/encrypt/demo", map[string]any{"plaintext": base64.StdEncoding.EncodeToString([]byte(demoPlain))})["ciphertext"].(string)
	return err
}

// check reads and uses everything that fill has put into Vault A.
func (d *vaultDemo) check(ctx context.Context, n *demoNode) error {
	for name, value := range d.secrets {
		got, err := d.ask(ctx, n, http.MethodGet, "kv/"+name, nil)
		if err != nil {
			return err
		}
		if got["value"] != value {
			return fmt.Errorf("secret kv/%s is not what it was", name)
		}
	}
	for name, password := range d.users {
		if _, err := d.ask(ctx, n, http.MethodPost, "auth/userpass/login/"+name, map[string]any{"password": password}); err != nil {
			return err
		}
	}
	for _, token := range d.tokens {
		as := *n
		as.Token = token
		if _, err := d.ask(ctx, &as, http.MethodGet, "auth/token/lookup-self", nil); err != nil {
			return err
		}
		if _, err := d.ask(ctx, &as, http.MethodGet, "kv/_legacy-0", nil); err != nil {
			return err
		}
		if status, _, err := as.Do(ctx, http.MethodDelete, "kv/_legacy-0", nil); err != nil || status != http.StatusForbidden {
			return cmp.Or(err, fmt.Errorf("what the policy denies is answered %d", status))
		}
	}
	got, err := d.ask(ctx, n, http.MethodPost, "transit/decrypt/demo", map[string]any{"ciphertext": d.cipher})
	if plain, _ := got["plaintext"].(string); err != nil || plain != base64.StdEncoding.EncodeToString([]byte(demoPlain)) {
		return cmp.Or(err, errors.New("transit decrypts something else"))
	}
	return nil
}

// deleteTable removes the demo's table from a server that goes on.
func deleteTable(endpoint, table string) error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	_, err := awsdynamodb.New(awsdynamodb.Options{
		Region: "us-east-1", BaseEndpoint: &endpoint, Credentials: credentials.NewStaticCredentialsProvider("any", "any", ""),
	}).DeleteTable(ctx, &awsdynamodb.DeleteTableInput{TableName: aws.String(table)})
	if err != nil && !errors.As(err, new(*types.ResourceNotFoundException)) { // Vault A has not come so far
		return fmt.Errorf("delete table %s at %s: %w", table, endpoint, err)
	}
	return nil
}

// viewData calls f with every entry in the data bucket of a vault.db.
func viewData(file string, f func(k, v []byte)) (err error) {
	db, err := bolt.Open(file, 0o600, &bolt.Options{ReadOnly: true, Timeout: time.Second})
	if err != nil {
		return fmt.Errorf("open %s: %w", file, err)
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	return db.View(func(tx *bolt.Tx) error {
		b := tx.Bucket([]byte("data"))
		if b == nil {
			return fmt.Errorf("read %s: no bucket data", file)
		}
		return b.ForEach(func(k, v []byte) error {
			f(k, v)
			return nil
		})
	})
}
