package command

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/dyn2raft/dyn2raft/sources/dynamodb/dynamotest"
)

// TestSignalAtAnyMoment interrupts copies at random moments. Whenever that is,
// the copy is complete, or there is nothing of it, not in the directory and not
// in the table, or it can be resumed.
func TestSignalAtAnyMoment(t *testing.T) {
	t.Parallel()
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))

	srv := dynamotest.NewServer(dynamotest.Options{Latency: 2 * time.Millisecond})
	defer srv.Close()
	if err := srv.CreateVaultTable(dynamotest.VaultTable); err != nil {
		t.Fatal(err)
	}
	loaded, err := dynamotest.VaultShape{Entries: 1000}.Load(srv, dynamotest.VaultTable)
	if err != nil {
		t.Fatal(err)
	}
	before := fingerprint(srv)

	// run copies into a directory, with a signal after a while.
	run := func(dir string, after time.Duration, sig syscall.Signal, more ...string) (status int, took time.Duration, data string) {
		data = filepath.Join(dir, "data")
		if err := os.MkdirAll(data, 0o700); err != nil {
			t.Fatal(err)
		}
		file := filepath.Join(dir, "migrate.hcl")
		text := fmt.Sprintf("storage_source \"dynamodb\" {\n endpoint = %q\n access_key = \"a\"\n secret_key = \"s\"\n ha_enabled = true\n}\n"+
			"storage_destination \"raft\" {\n path = %q\n}\ncluster_addr = \"https://127.0.0.1:8201\"\n", srv.URL, data)
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		cmd := exec.Command("dyn2raft", append([]string{"copy", "-config", file}, more...)...)
		cmd.Env = []string{"HOME=" + dir, "AWS_EC2_METADATA_DISABLED=true", "GORACE=atexit_sleep_ms=0"}
		var stderr bytes.Buffer
		cmd.Stderr = &stderr
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		start := time.Now()
		done := make(chan struct{})
		go func() {
			_ = cmd.Wait() // the status tells
			close(done)
		}()
		if sig != 0 {
			select {
			case <-done:
			case <-time.After(after):
				_ = cmd.Process.Signal(sig) // it may just have ended
			}
		}
		select {
		case <-done:
		case <-time.After(5 * time.Minute):
			_ = cmd.Process.Kill()
			<-done
			t.Fatalf("after %s: it runs on\n%s", after, &stderr)
		}
		took = time.Since(start)
		status = cmd.ProcessState.ExitCode()
		if ws, ok := cmd.ProcessState.Sys().(syscall.WaitStatus); ok && ws.Signaled() && ws.Signal() == sig && stderr.Len() == 0 {
			status = 128 + int(sig) // so early that nothing was begun
		}
		t.Logf("%v after %s: status %d", sig, after.Round(time.Millisecond), status)
		return status, took, data
	}

	status, whole, data := run(t.TempDir(), 0, 0)
	if status != 0 {
		t.Fatalf("an uninterrupted copy ends with status %d", status)
	}
	if got, err := contentOf(filepath.Join(data, "vault.db")); err != nil || got != loaded.Content {
		t.Fatalf("an uninterrupted copy has %d entries, expected %d (%v)", got.Entries, loaded.Entries, err)
	}
	interrupted, resumed := 0, 0
	for i := 0; i < 12 || interrupted == 0 && i < 100; i++ {
		sig := []syscall.Signal{syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP}[i%3]
		dir := t.TempDir()
		status, _, data := run(dir, time.Duration(random.Int64N(int64(whole))), sig)
		switch status {
		case 0:
			if got, err := contentOf(filepath.Join(data, "vault.db")); err != nil || got != loaded.Content {
				t.Errorf("status 0 with %d entries, expected %d (%v)", got.Entries, loaded.Entries, err)
			}
		case 128 + int(sig):
			interrupted++
			left, err := os.ReadDir(data)
			switch {
			case err != nil || len(left) > 1 || len(left) == 1 && left[0].Name() != ".dyn2raft":
				t.Errorf("interrupted, and the directory has %v (%v)", left, err)
			case len(left) == 1:
				resumed++
				if status, _, _ := run(dir, 0, 0, "-resume"); status != 0 {
					t.Errorf("status %d of the copy that resumes", status)
				}
				if got, err := contentOf(filepath.Join(data, "vault.db")); err != nil || got != loaded.Content {
					t.Errorf("resumed, %d entries, expected %d (%v)", got.Entries, loaded.Entries, err)
				}
			}
		default:
			t.Errorf("status %d", status)
		}
		if fingerprint(srv) != before {
			t.Fatal("the table is not as it was")
		}
	}
	if t.Logf("%d interrupted, %d resumed", interrupted, resumed); interrupted == 0 {
		t.Error("no copy was interrupted: nothing was shown")
	}
}

// TestSignalWithoutReader interrupts a copy whose messages nobody reads any
// more, as `dyn2raft copy … 2>&1 | tee log` after Ctrl-C: the signal is for tee
// too, and the pipe is broken.
func TestSignalWithoutReader(t *testing.T) {
	t.Parallel()
	srv := dynamotest.NewServer(dynamotest.Options{Latency: 20 * time.Millisecond})
	t.Cleanup(srv.Close)
	if err := srv.CreateVaultTable(dynamotest.VaultTable); err != nil {
		t.Fatal(err)
	}
	if _, err := (dynamotest.VaultShape{Entries: 200, Seed: 1}).Load(srv, dynamotest.VaultTable); err != nil {
		t.Fatal(err)
	}
	before := fingerprint(srv)
	dir := t.TempDir()
	file := filepath.Join(dir, "migrate.hcl")
	text := fmt.Sprintf("storage_source \"dynamodb\" {\n endpoint = %q\n access_key = \"a\"\n secret_key = \"s\"\n ha_enabled = true\n}\n"+
		"storage_destination \"raft\" {\n path = %q\n}\ncluster_addr = \"https://127.0.0.1:8201\"\n", srv.URL, dir)
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("dyn2raft", "copy", "-config", file, "-max-parallel", "1", "-segments", "500")
	cmd.Env = []string{"HOME=" + dir, "AWS_EC2_METADATA_DISABLED=true", "GORACE=atexit_sleep_ms=0"}
	cmd.Stdout, cmd.Stderr = w, w
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	// The reader sees the scan begin, and goes.
	var seen []byte
	for buf := make([]byte, 256); !bytes.Contains(seen, []byte("reading the source")); {
		n, err := r.Read(buf)
		if err != nil {
			t.Fatalf("%v after %q", err, seen)
		}
		seen = append(seen, buf[:n]...)
	}
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Process.Signal(syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait() // the status tells
	if got := cmd.ProcessState.ExitCode(); got != 130 {
		t.Errorf("status %d (%s), expected 130", got, cmd.ProcessState)
	}
	if _, err := os.Lstat(filepath.Join(dir, ".dyn2raft")); err != nil && fingerprint(srv) != before {
		t.Error("nothing is kept, and the table is not as it was")
	}
}
