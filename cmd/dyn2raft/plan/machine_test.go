package plan

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/dyn2raft/dyn2raft/copier"
	"github.com/dyn2raft/dyn2raft/copier/vaultconfig"
	sink "github.com/dyn2raft/dyn2raft/sinks/raft"
	"github.com/dyn2raft/dyn2raft/sources/dynamodb"
	"github.com/dyn2raft/dyn2raft/sources/dynamodb/dynamotest"
	"github.com/dyn2raft/dyn2raft/verify"
)

// localPlanner is a planner of a copy into an empty directory.
func localPlanner(t *testing.T) *planner {
	cfg := &vaultconfig.Config{Source: vaultconfig.Source{Type: vaultconfig.DynamoDB}}
	cfg.Source.Table = dynamotest.VaultTable
	cfg.Destination = vaultconfig.Destination{Type: vaultconfig.Raft, Path: filepath.Join(t.TempDir(), "data"), NodeID: "vault-1", Address: "127.0.0.1:8201"}
	if err := os.Mkdir(cfg.Destination.Path, 0o700); err != nil {
		t.Fatal(err)
	}
	return newPlanner(Options{Config: cfg})
}

func expect(t *testing.T, p *planner, check string, status copier.Outcome, want string) {
	t.Helper()
	if got := find(t, p.report, check); got.Status != status || !strings.Contains(got.Message+" "+got.Hint, want) {
		t.Errorf("%+v, expected a %s with %q", got, status, want)
	}
}

// An action that could not be tried is no action that is denied.
func TestAccessUnknown(t *testing.T) {
	t.Parallel()
	e := newEnv(t, dynamotest.Options{})
	e.srv.SetFaults(&dynamotest.Fault{Kind: dynamotest.UnrecognizedClient, Operation: "PutItem"})
	opts := e.options()
	opts.Estimate.NoSample = true
	rep, err := Run(t.Context(), opts)
	e.ok(err)
	if got := find(t, rep, "write-access"); got.Status != copier.Warned || strings.Contains(got.Message, "not allowed") || !strings.Contains(got.Message, "PutItem") {
		t.Errorf("%+v", got)
	}
}

// A copy makes the checks of the list that are its own to make, and what is to be
// ignored is a warning.
func TestSeverity(t *testing.T) {
	t.Parallel()
	for _, c := range Checks() {
		for _, atCopy := range []bool{false, true} {
			p := localPlanner(t)
			if p.Ignore = []string{c.Name}; atCopy {
				p.When = copier.AtCopy
			}
			p.found(copier.Findings{{Check: c.Name, Status: copier.Failed, Message: "it is wrong", Err: copier.ErrConfig}})
			most := c.Before
			if atCopy {
				most = c.AtCopy
			}
			switch {
			case atCopy && (c.Never || most == ""):
				if len(p.report.Checks) != 0 {
					t.Errorf("%s at the copy: %+v", c.Name, p.report.Checks)
				}
				continue
			case most == copier.Failed && !c.Never:
				most = copier.Warned
			}
			if got := find(t, p.report, c.Name); got.Status != most || got.Ignored != (!c.Never && (c.Before == copier.Failed && !atCopy || c.AtCopy == copier.Failed && atCopy)) {
				t.Errorf("%s, at the copy %v: %+v, expected a %s", c.Name, atCopy, got, most)
			}
		}
		if (c.Kind == nil) != (c.Before != copier.Failed && c.AtCopy != copier.Failed) {
			t.Errorf("%s: kind %v", c.Name, c.Kind)
		}
	}
}

func TestManifestElsewhere(t *testing.T) {
	t.Parallel()
	p := localPlanner(t)
	p.Manifest = filepath.Join(t.TempDir(), "m.json")
	p.node(t.Context())
	expect(t, p, "manifest", copier.Passed, filepath.Dir(p.Manifest))
	p = localPlanner(t)
	p.Manifest = "/no/such/m.json"
	p.node(t.Context())
	expect(t, p, "manifest", copier.Failed, "-manifest")
}

// The lock that a finished copy left on purpose is no failure; whoever freed it
// would let old Vaults start.
func TestLeftLocked(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		run    string // of the lock
		gone   bool   // the manifest is
		status copier.Outcome
		want   string
	}{
		"its own":     {run: "run-1", status: copier.Warned, want: "leave it"},
		"another's":   {run: "run-2", status: copier.Failed, want: "-keep-source-locked"},
		"no manifest": {run: "run-1", gone: true, status: copier.Failed, want: "-keep-source-locked"},
		"vault's":     {status: copier.Failed, want: "-reset"},
	} {
		p := localPlanner(t)
		path := p.Config.Destination.Path
		if err := os.WriteFile(filepath.Join(path, "vault.db"), nil, 0o600); err != nil {
			t.Fatal(err)
		}
		m := &copier.Record{RunID: "run-1", State: copier.Released, Prefixes: copier.Digests{}, End: time.Now(), Source: copier.Info{Name: dynamotest.VaultTable},
			Destination: copier.Identity{"path": path}}
		if !c.gone {
			if err := verify.WriteManifest(verify.ManifestPath(path), m, -1, -1); err != nil {
				t.Fatal(err)
			}
		}
		p.table = &dynamodb.Inspection{Locks: &dynamodb.Locks{Migration: &dynamodb.LockHolder{Name: "somebody", Run: c.run}}}
		p.table.Fail("migration-lock", "", "it is locked")
		p.ownLock()
		p.found(p.table.Findings)
		expect(t, p, "migration-lock", c.status, c.want)
		if state, err := sink.Look(path); err != nil || state != sink.StateComplete {
			t.Fatalf("%s: %s, %v", name, state, err)
		}
		p.node(t.Context())
		want := "finished copy of run run-1"
		if c.gone {
			want = "put it aside"
		}
		expect(t, p, "destination", copier.Failed, want)
	}
}
