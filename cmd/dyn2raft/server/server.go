// Package server runs unmodified Vault servers on this machine, for the demo and for the
// end-to-end tests.
package server

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"time"
)

// Config is the text of a server's configuration: it listens on two ports of 127.0.0.1,
// without TLS, and locks no memory, which not everybody may. Stanzas are those of the
// storage and of the seal.
func Config(api, cluster int, stanzas string) string {
	return fmt.Sprintf(`disable_mlock = true
api_addr      = "http://127.0.0.1:%[1]d"
cluster_addr  = "https://127.0.0.1:%[2]d"

listener "tcp" {
  address         = "127.0.0.1:%[1]d"
  cluster_address = "127.0.0.1:%[2]d"
  tls_disable     = 1
}

%[3]s`, api, cluster, stanzas)
}

// ports are those that FreePort has returned.
var ports sync.Map

// FreePort returns a port of 127.0.0.1 that nobody listens at, and that it has not returned
// before. It is below those that systems give to connections, which would take it while its
// server is stopped. It may be called by several goroutines.
func FreePort() (int, error) {
	for range 1000 {
		port := 18000 + rand.IntN(14000)
		l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port))
		if err != nil {
			continue
		}
		if err := l.Close(); err != nil {
			return 0, fmt.Errorf("look for a port: %w", err)
		}
		if _, taken := ports.LoadOrStore(port, true); !taken {
			return port, nil
		}
	}
	return 0, errors.New("look for a port: none of 127.0.0.1 is free")
}

// A Client asks the HTTP API of a server. Its copies may be used by several goroutines.
type Client struct {
	Addr  string // as api_addr has it
	Token string // of Vault; may be empty
	HTTP  *http.Client
}

// Do sends a request to a path below /v1/, with body as JSON where there is one. Every
// answer that is JSON or empty is no error, whatever its status.
func (c Client) Do(ctx context.Context, method, path string, body any) (status int, answer map[string]any, err error) {
	var payload io.Reader
	if body != nil {
		b, err := json.Marshal(body)
		if err != nil {
			return 0, nil, fmt.Errorf("%s %s: %w", method, path, err)
		}
		payload = bytes.NewReader(b)
	}
	target, err := url.Parse(c.Addr)
	if err != nil {
		return 0, nil, fmt.Errorf("%s %s: %w", method, path, err)
	}
	target.Path = "/v1/" + path
	if strings.HasSuffix(path, "/.") { // HTTP takes away a "." that is not escaped
		target.RawPath = strings.TrimSuffix(target.EscapedPath(), ".") + "%2E"
	}
	request, err := http.NewRequestWithContext(ctx, method, target.String(), payload)
	if err != nil {
		return 0, nil, fmt.Errorf("%s %s: %w", method, path, err)
	}
	request.Header.Set("X-Vault-Token", c.Token)
	response, err := c.HTTP.Do(request)
	if err != nil {
		return 0, nil, err //nolint:wrapcheck // it names method and address
	}
	defer func() { err = errors.Join(err, response.Body.Close()) }()
	raw, err := io.ReadAll(response.Body)
	if err != nil {
		return 0, nil, fmt.Errorf("%s %s: %w", method, path, err)
	}
	if len(bytes.TrimSpace(raw)) > 0 {
		if err := json.Unmarshal(raw, &answer); err != nil {
			return 0, nil, fmt.Errorf("%s %s: status %d, not JSON: %w", method, path, response.StatusCode, err)
		}
	}
	return response.StatusCode, answer, nil
}

// A Process is a server that runs in the background. On Linux it does not outlive this
// process, however that ends.
type Process struct {
	cmd    *exec.Cmd
	exited chan struct{} // closed when it is gone
}

// Start runs a program in a directory, where HOME is, too. Of this process's environment it
// sees PATH alone. What it prints is appended to the log.
func Start(dir, log, program string, args ...string) (*Process, error) {
	out, err := os.OpenFile(log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, fmt.Errorf("start %s: %w", program, err)
	}
	p := &Process{cmd: exec.Command(program, args...), exited: make(chan struct{})}
	p.cmd.Dir, p.cmd.Env = dir, Environment(dir)
	p.cmd.Stdout, p.cmd.Stderr = out, out
	p.cmd.SysProcAttr = DieWithParent()
	if err := errors.Join(p.cmd.Start(), out.Close()); err != nil {
		return nil, fmt.Errorf("start %s: %w", program, err)
	}
	go func() {
		_ = p.cmd.Wait() // how it ended is in ProcessState
		close(p.exited)
	}()
	return p, nil
}

// Environment is what a server or a command of Vault's sees: none of this machine's
// settings of AWS or Vault, and no metadata service to ask.
func Environment(home string) []string {
	return []string{"PATH=" + os.Getenv("PATH"), "HOME=" + home, "AWS_EC2_METADATA_DISABLED=true"}
}

// ErrGone is returned when a process has ended by itself.
var ErrGone = errors.New("the process has ended")

// Alive is an [ErrGone] once the process has ended.
func (p *Process) Alive() error {
	select {
	case <-p.exited:
		return fmt.Errorf("%w: %s", ErrGone, p.cmd.ProcessState)
	default:
		return nil
	}
}

// Stop ends the process in order, or by force where that takes longer than the limit, and
// returns once it is gone. It may be called again.
func (p *Process) Stop(limit time.Duration) {
	_ = p.cmd.Process.Signal(syscall.SIGTERM) // it may be gone
	select {
	case <-p.exited:
	case <-time.After(limit):
		_ = p.cmd.Process.Kill()
		<-p.exited
	}
}
