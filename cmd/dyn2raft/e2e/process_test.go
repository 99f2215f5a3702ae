//go:build e2e

package e2e

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/dyn2raft/dyn2raft/cmd/dyn2raft/server"
)

// process is a child that runs in the background, its output in a file of the test's
// folder. It never outlives the test: not when it fails, and on Linux not when the
// test binary is killed either.
type process struct {
	name    string
	cmd     *exec.Cmd
	logFile string
	exited  chan struct{} // closed when the child is gone; cmd.ProcessState is set then
}

// start runs the program. When the test fails, the end of the child's output is shown.
func start(t *testing.T, name, program string, args ...string) *process {
	t.Helper()
	p := &process{
		name:    name,
		cmd:     exec.Command(program, args...),
		logFile: filepath.Join(t.TempDir(), "output.log"),
		exited:  make(chan struct{}),
	}
	log, err := os.Create(p.logFile)
	if err != nil {
		t.Fatal(err)
	}
	p.cmd.Env, p.cmd.Dir = childEnvironment(t), t.TempDir()
	p.cmd.Stdout, p.cmd.Stderr = log, log
	p.cmd.SysProcAttr = server.DieWithParent()
	err = p.cmd.Start()
	log.Close()
	if err != nil {
		t.Fatalf("start %s: %v", name, err)
	}
	go func() {
		_ = p.cmd.Wait() // how it ended is read from ProcessState
		close(p.exited)
	}()
	t.Cleanup(func() {
		p.kill(t)
		if t.Failed() {
			t.Logf("---- the last lines of %s ----\n%s", name, lastLines(p.output(), 40))
		}
	})
	return p
}

// stop asks the child to end, as an operator's service manager does, and waits for it.
func (p *process) stop(t *testing.T) {
	t.Helper()
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil && !errors.Is(err, os.ErrProcessDone) {
		t.Fatalf("stop %s: %v", p.name, err)
	}
	p.waitExit(t, 60*time.Second)
}

// kill ends the child without a chance to tidy up. It may be gone already.
func (p *process) kill(t *testing.T) {
	t.Helper()
	if err := p.cmd.Process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
		t.Errorf("kill %s: %v", p.name, err)
	}
	select {
	case <-p.exited:
	case <-time.After(2 * time.Minute):
		t.Errorf("kill %s: it is still there after 2 min", p.name)
	}
}

func (p *process) waitExit(t *testing.T, limit time.Duration) {
	t.Helper()
	select {
	case <-p.exited:
	case <-time.After(limit):
		t.Fatalf("%s has not ended within %s", p.name, limit)
	}
}

// alive is an error once the child has ended; waiting loops use it to stop early.
func (p *process) alive() error {
	select {
	case <-p.exited:
		return fmt.Errorf("%w: %s, %s", errGone, p.name, p.cmd.ProcessState)
	default:
		return nil
	}
}

func (p *process) output() string {
	b, err := os.ReadFile(p.logFile)
	if err != nil {
		return err.Error()
	}
	return string(b)
}

// finished is what a child that ran to its end has left.
type finished struct {
	stdout, stderr string
	code           int
	took           time.Duration
}

// runProgram runs a program to its end, with no terminal and nothing on stdin.
func runProgram(t *testing.T, limit time.Duration, program string, args ...string) finished {
	t.Helper()
	return runWith(t, limit, nil, program, args...)
}

// runWith is runProgram with more in the child's environment.
func runWith(t *testing.T, limit time.Duration, environment []string, program string, args ...string) finished {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	var stdout, stderr strings.Builder
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Env, cmd.Dir = append(childEnvironment(t), environment...), t.TempDir()
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	cmd.SysProcAttr = server.DieWithParent()
	began := time.Now()
	err := cmd.Run()
	took := time.Since(began)
	if ctx.Err() != nil {
		t.Fatalf("%s %s has not ended within %s; its last lines:\n%s", filepath.Base(program), strings.Join(args, " "), limit, lastLines(stderr.String(), 40))
	}
	if exit := (*exec.ExitError)(nil); err != nil && !errors.As(err, &exit) {
		t.Fatalf("run %s: %v", program, err)
	}
	return finished{stdout.String(), stderr.String(), cmd.ProcessState.ExitCode(), took}
}

// childEnvironment is all a child sees: nothing of the machine's own AWS or Vault
// settings, and no metadata service to ask.
func childEnvironment(t *testing.T) []string {
	return []string{
		"PATH=" + os.Getenv("PATH"),
		"HOME=" + t.TempDir(),
		"AWS_ACCESS_KEY_ID=" + anyCredential,
		"AWS_SECRET_ACCESS_KEY=" + anyCredential,
		"AWS_EC2_METADATA_DISABLED=true",
	}
}

// anyCredential is accepted by both DynamoDB servers as an access key and as a secret.
const anyCredential = "anything"

var errGone = errors.New("the process has ended")

// waitFor tries until try returns nil, and fails the test with the last error when
// that takes too long or the process it waits for has ended.
func waitFor(t *testing.T, what string, limit time.Duration, try func() error) {
	t.Helper()
	deadline := time.Now().Add(limit)
	for {
		err := try()
		if err == nil {
			return
		}
		if errors.Is(err, errGone) || time.Now().After(deadline) {
			t.Fatalf("wait for %s (at most %s): %v", what, limit, err)
		}
		time.Sleep(200 * time.Millisecond)
	}
}

func freePort(t *testing.T) int {
	t.Helper()
	port, err := server.FreePort()
	if err != nil {
		t.Fatal(err)
	}
	return port
}

func lastLines(s string, n int) string {
	lines := strings.Split(strings.TrimRight(s, "\n"), "\n")
	return strings.Join(lines[max(0, len(lines)-n):], "\n")
}
