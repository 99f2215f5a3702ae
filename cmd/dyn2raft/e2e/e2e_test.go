//go:build e2e

// Package e2e proves the main job with the real programs: an unmodified Vault fills a
// DynamoDB table, dyn2raft copies it, an unmodified Vault starts on the copy, and two
// more join it. Run it with `make e2e`, which builds and fetches what it needs:
//
//	VAULT_BIN       a Vault server
//	DYNAMODB_LOCAL  the folder of AWS's DynamoDB Local; java must be on the PATH
package e2e

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/dyn2raft/dyn2raft/sources/dynamodb/dynamotest/local"
)

var (
	vaultBin      = os.Getenv("VAULT_BIN")
	dynamoDBLocal = os.Getenv("DYNAMODB_LOCAL")
	dyn2raftBin   string // built by TestMain
)

const (
	exitDiffers   = 3
	exitLocked    = 11
	exitDifferent = 3
	successLine   = "Success! All of the keys have been migrated."

	// healthLimit bounds every wait for a Vault to elect, join or take over: on an idle
	// machine those take from 1 to 20 s.
	healthLimit = 90 * time.Second
)

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "dyn2raft-e2e-")
	if err == nil {
		err = prepare(dir)
	}
	if err != nil {
		fmt.Fprintf(os.Stderr, "e2e: %v\n", err)
		os.RemoveAll(dir)
		os.Exit(1)
	}
	goleak.VerifyTestMain(m, goleak.Cleanup(func(code int) {
		os.RemoveAll(dir)
		os.Exit(code)
	}))
}

// prepare looks for the real parts, and builds the program under test.
func prepare(dir string) error {
	var problems []error
	if _, err := exec.LookPath(vaultBin); err != nil {
		problems = append(problems, fmt.Errorf("VAULT_BIN=%q is not a program; `make vault` builds one: %w", vaultBin, err))
	}
	if _, err := os.Stat(filepath.Join(dynamoDBLocal, "DynamoDBLocal.jar")); err != nil {
		problems = append(problems, fmt.Errorf("DYNAMODB_LOCAL=%q is not the folder of DynamoDBLocal.jar; `make e2e` fetches it: %w", dynamoDBLocal, err))
	}
	if _, err := exec.LookPath("java"); err != nil {
		problems = append(problems, fmt.Errorf("DynamoDB Local needs Java 17 or newer (apt-get install openjdk-17-jdk-headless): %w", err))
	}
	if err := errors.Join(problems...); err != nil {
		return err
	}
	dyn2raftBin = filepath.Join(dir, "dyn2raft")
	if out, err := exec.Command("go", "build", "-o", dyn2raftBin, "github.com/dyn2raft/dyn2raft/cmd/dyn2raft").CombinedOutput(); err != nil {
		return fmt.Errorf("build dyn2raft: %w\n%s", err, out)
	}
	return nil
}

// TestVaultOnDynamoDBLocal is the whole move, on AWS's own emulator: three nodes,
// failover, both log stores, the locks, and vault operator migrate for comparison.
func TestVaultOnDynamoDBLocal(t *testing.T) {
	t.Parallel()
	s := &scenario{t: t, old: newNode(t, "old")}
	s.step("start DynamoDB Local", func() { s.table = openTable(startDynamoDBLocal(t).URL) })
	s.fillAndEnd((*process).stop)
	s.peer()

	first := newNode(t, "node1")
	s.copy(first, "")
	s.wantLogStore(first, "raft/raft.db")
	s.verifySeesDamage(first)

	const wal = `raft_wal = "true"`
	onWAL := newNode(t, "node-wal")
	s.copy(onWAL, wal, "-keep-source-locked")
	s.wantLogStore(onWAL, "raft/wal")
	s.lockedOut(onWAL)

	atCopy := s.contents
	v := s.restart(s.newVault(first, ""), "")
	for _, n := range append(s.join(v, ""), first) {
		s.wantNothingLost(n)
	}
	s.contents = atCopy
	s.restart(s.newVault(onWAL, wal), wal).stop(t)
	s.wantNothingLost(onWAL)
	s.wantLogStore(onWAL, "raft/wal")
}

// TestVaultOnEmbeddedServer is the move from the DynamoDB server that dyn2raft brings
// along: a whole Vault lives on it as on AWS's. That Vault is killed, and leaves a
// leader lock in the table; another one stands by and would take over.
func TestVaultOnEmbeddedServer(t *testing.T) {
	t.Parallel()
	s := &scenario{t: t, old: newNode(t, "old")}
	s.step("start dyn2raft demo -serve", func() { s.table = openTable(startEmbeddedServer(t)) })
	s.fillAndEnd((*process).kill)
	s.keepsOutStandby()

	n := newNode(t, "node1")
	// The killed Vault has left its entry below core/leader, and the standby was not
	// active for long enough to remove it.
	s.copy(n, "", "-source-stopped")
	s.peer()
	s.restart(s.newVault(n, ""), "").stop(t)
	s.wantNothingLost(n)
}

// TestComparisonSeesLoss proves that the comparison all of this rests on can fail.
func TestComparisonSeesLoss(t *testing.T) {
	source := map[string]string{"a": "1", "a/_b": "2", "c": ""}
	for name, c := range map[string]struct {
		copied                  map[string]string
		missing, changed, added int
	}{
		"the same":       {map[string]string{"a": "1", "a/_b": "2", "c": ""}, 0, 0, 0},
		"one is missing": {map[string]string{"a": "1", "c": ""}, 1, 0, 0},
		"an empty one":   {map[string]string{"a": "1", "a/_b": "2"}, 1, 0, 0},
		"a flipped bit":  {map[string]string{"a": "1", "a/_b": "3", "c": ""}, 0, 1, 0},
		"one too many":   {map[string]string{"a": "1", "a/_b": "2", "c": "", "d": ""}, 0, 0, 1},
	} {
		d := compare(source, c.copied)
		if len(d.missing) != c.missing || len(d.changed) != c.changed || len(d.added) != c.added {
			t.Errorf("%s: %s", name, d)
		}
		if d.any() != (c.missing+c.changed+c.added > 0) {
			t.Errorf("%s: any is %t", name, d.any())
		}
	}
}

// startEmbeddedServer starts the demo's DynamoDB server. Its own entries are in a
// table of their own, which the Vault of the test takes no notice of.
func startEmbeddedServer(t *testing.T) (endpoint string) {
	t.Helper()
	p := start(t, "dyn2raft demo -serve", dyn2raftBin, "demo", "-serve", "-listen", "127.0.0.1:0", "-entries", "1000")
	listening := regexp.MustCompile(`(?m)^listening on (http://\S+)$`)
	waitFor(t, "the embedded server to listen", time.Minute, func() error {
		if err := p.alive(); err != nil {
			return err
		}
		found := listening.FindStringSubmatch(p.output())
		if found == nil {
			return errors.New("it has not said so yet")
		}
		endpoint = found[1]
		return nil
	})
	return endpoint
}

// startDynamoDBLocal starts AWS's emulator. It ends with the test, or with its process.
func startDynamoDBLocal(t *testing.T) *local.Server {
	t.Helper()
	s, err := local.Start(dynamoDBLocal)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("---- the last lines of DynamoDB Local ----\n%s", lastLines(s.Output(), 40))
		}
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}
