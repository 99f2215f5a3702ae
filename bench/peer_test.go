package bench

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/dyn2raft/dyn2raft/sources/dynamodb/dynamotest"
)

// successLine is the last line of both programs' output.
const successLine = "Success! All of the keys have been migrated."

// BenchmarkPeer compares a whole copy with `vault operator migrate` of the
// Vault that VAULT_BIN names, on the same server: with its default settings
// ("x-default"), and with the best of those and -max-parallel 64 and 128
// ("x-best"). The peer runs once each, since that takes minutes.
func BenchmarkPeer(b *testing.B) {
	vault := os.Getenv("VAULT_BIN")
	if vault == "" {
		b.Skip("NOT MEASURED: set VAULT_BIN to a Vault server (`make vault` builds one) to compare with vault operator migrate")
	}
	migrate := func(config string, parallel int) *exec.Cmd {
		args := []string{"operator", "migrate", "-config", config}
		if parallel > 0 {
			args = append(args, "-max-parallel", fmt.Sprint(parallel))
		}
		return exec.Command(vault, args...)
	}
	b.Run("delays", func(b *testing.B) { peer(b, b.Loop, *peerEntriesFlag, delayed, migrate).report(b) })
	b.Run("no_delays", func(b *testing.B) { peer(b, b.Loop, *peerEntriesFlag, dynamotest.Options{}, migrate).report(b) })
}

// TestPeer has dyn2raft itself in the place of Vault, which takes the same
// configuration and flag.
func TestPeer(t *testing.T) {
	bin := program(t)
	want(t, peer(t, once(), 500, delayed, func(config string, parallel int) *exec.Cmd {
		return exec.Command(bin, "copy", "-config", config, "-source-stopped", "-max-parallel", fmt.Sprint(max(parallel, 10)))
	}), "x-default", "x-best", "copy-s", "default-s", "best-s")
}

func peer(tb testing.TB, loop func() bool, entries int, opts dynamotest.Options, command func(config string, parallel int) *exec.Cmd) metrics {
	s := startServer(tb, tableSpec{Shape: dynamotest.VaultShape{Entries: entries, Seed: 1}, Options: opts})
	m := metrics{"entries": float64(entries)}
	best := 0.0
	for _, parallel := range []int{0, 64, 128} {
		took := migrate(tb, s, parallel, command).Seconds()
		switch {
		case parallel == 0:
			m["default-s"], best = took, took
		default:
			m[fmt.Sprintf("parallel%d-s", parallel)] = took
			best = min(best, took)
		}
	}
	var ours []time.Duration
	for loop() {
		_, took := timedCopy(tb, s)
		ours = append(ours, took)
	}
	m["copy-s"], m["best-s"], m["spread"] = median(ours).Seconds(), best, spread(ours)
	m["x-default"], m["x-best"] = m["default-s"]/m["copy-s"], best/m["copy-s"]
	return m
}

// migrate runs the peer once and returns how long it took.
func migrate(tb testing.TB, s server, parallel int, command func(config string, parallel int) *exec.Cmd) time.Duration {
	tb.Helper()
	dir := mkdir(tb)
	log, err := os.Create(filepath.Join(tb.TempDir(), "output"))
	if err != nil {
		tb.Fatal(err)
	}
	defer log.Close()
	cmd := command(writeConfig(tb, s, dir), parallel)
	cmd.Env, cmd.Stdout, cmd.Stderr = childEnvironment(), log, log
	start := time.Now()
	err = cmd.Run()
	took := time.Since(start)
	text, rerr := os.ReadFile(log.Name())
	if err != nil || rerr != nil || !strings.Contains(string(text), successLine) {
		tb.Fatalf("%s: %v %v; its last words:\n%s", strings.Join(cmd.Args, " "), err, rerr, text[max(0, len(text)-2000):])
	}
	tb.Logf("%s: %s", filepath.Base(cmd.Path), took)
	if err := os.RemoveAll(dir); err != nil {
		tb.Fatal(err)
	}
	return took
}
