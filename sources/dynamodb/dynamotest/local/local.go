// Package local runs AWS's DynamoDB Local, unmodified, for tests that compare with it.
// It has everything in memory, and takes any credentials.
package local

import (
	"bufio"
	_ "embed"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"
)

// ErrNoCompiler is returned where Java can't compile: what its own arguments can't have
// DynamoDB Local do takes a JDK, such as Debian's openjdk-17-jdk-headless.
var ErrNoCompiler = errors.New("java has no compiler")

// control runs DynamoDB Local and takes commands, as it says.
//
//go:embed Control.java
var control []byte

// patience is how long Java may take, on a busy machine, to start or to answer.
const patience = 5 * time.Minute

// A Server is a DynamoDB Local that runs. It is safe for concurrent use.
type Server struct {
	URL string // http://127.0.0.1:port

	java    *exec.Cmd
	scratch string
	exited  chan struct{}
	answers chan string // nil where nothing takes commands

	asking sync.Mutex // a command is asked
	input  io.WriteCloser

	mu     sync.Mutex
	output []string
}

// Start starts what is in the directory that holds DynamoDBLocal.jar, on a free port, and
// returns once it listens. The first java on the PATH runs it: 17 or newer.
func Start(dir string) (*Server, error) {
	s, err := start(dir)
	if err != nil {
		return nil, fmt.Errorf("start DynamoDB Local: %w", err)
	}
	return s, nil
}

func start(dir string) (*Server, error) {
	jar := filepath.Join(dir, "DynamoDBLocal.jar")
	if _, err := os.Stat(jar); err != nil {
		return nil, err
	}
	modules, err := exec.Command("java", "--list-modules").Output()
	if err != nil {
		return nil, fmt.Errorf("look for a java: %w", err)
	}
	port, err := freePort()
	if err != nil {
		return nil, err
	}
	address := fmt.Sprintf("127.0.0.1:%d", port)
	scratch, err := os.MkdirTemp("", "dynamodb-local-")
	if err != nil {
		return nil, err
	}
	s := &Server{URL: "http://" + address, scratch: scratch, exited: make(chan struct{})}
	args := []string{"-Djava.library.path=" + filepath.Join(dir, "DynamoDBLocal_lib"), "-jar", jar}
	if strings.Contains(string(modules), "jdk.compiler@") {
		source := filepath.Join(scratch, "Control.java")
		if err := os.WriteFile(source, control, 0o600); err != nil {
			return nil, errors.Join(err, os.RemoveAll(scratch))
		}
		args = []string{args[0], "-cp", jar, source}
		s.answers = make(chan string, 1)
	}
	s.java = exec.Command("java", append(args, "-inMemory", "-sharedDb", "-disableTelemetry", "-port", strconv.Itoa(port))...)
	s.java.Dir = scratch
	if err := s.run(address); err != nil {
		return nil, errors.Join(err, s.Close())
	}
	return s, nil
}

// freePort returns a port that nobody listens at. It is below those that systems give to
// connections, which would take it before java does: that takes seconds to start.
func freePort() (int, error) {
	var err error
	for range 1000 {
		port := 12000 + rand.IntN(18000)
		var l net.Listener
		if l, err = net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port)); err == nil {
			return port, l.Close()
		}
	}
	return 0, fmt.Errorf("no port is free: %w", err)
}

// run starts java, and waits until it listens.
func (s *Server) run(address string) error {
	var err error
	if s.input, err = s.java.StdinPipe(); err != nil {
		return err
	}
	output, err := s.java.StdoutPipe()
	if err != nil {
		return err
	}
	s.java.Stderr = s.java.Stdout // the same pipe
	if err := s.java.Start(); err != nil {
		return err
	}
	go s.read(output)
	for deadline := time.Now().Add(patience); ; time.Sleep(100 * time.Millisecond) {
		select {
		case <-s.exited:
			return fmt.Errorf("it ended:\n%s", s.Output())
		default:
		}
		if conn, err := net.Dial("tcp", address); err == nil {
			return conn.Close()
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("it does not listen after %v:\n%s", patience, s.Output())
		}
	}
}

// read reads what java says, until it ends.
func (s *Server) read(output io.Reader) {
	lines := bufio.NewScanner(output)
	for lines.Scan() {
		if line := lines.Text(); s.answers != nil && (line == "done" || strings.HasPrefix(line, "failed: ")) {
			s.answers <- line
		} else {
			s.mu.Lock()
			s.output = append(s.output, line)
			s.mu.Unlock()
		}
	}
	_ = s.java.Wait() // it is killed: it always fails
	close(s.exited)
}

// Output returns what it has said so far.
func (s *Server) Output() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return strings.Join(s.output, "\n")
}

// RollOver ends each shard of all streams that is open, and begins another in its place.
// Without a JDK the error wraps ErrNoCompiler.
func (s *Server) RollOver() error { return s.ask("rollover") }

// Age makes all that streams hold older by so many hours. Shards that are then four hours
// old roll over. Without a JDK the error wraps ErrNoCompiler.
func (s *Server) Age(hours int) error { return s.ask("age " + strconv.Itoa(hours)) }

func (s *Server) ask(command string) error {
	if s.answers == nil {
		return fmt.Errorf("ask DynamoDB Local for %s: %w", command, ErrNoCompiler)
	}
	s.asking.Lock()
	defer s.asking.Unlock()
	if _, err := io.WriteString(s.input, command+"\n"); err != nil {
		return fmt.Errorf("ask DynamoDB Local for %s: %w", command, err)
	}
	late := time.NewTimer(patience)
	defer late.Stop()
	select {
	case answer := <-s.answers:
		if answer == "done" {
			return nil
		}
		return fmt.Errorf("ask DynamoDB Local for %s: %s", command, answer)
	case <-s.exited:
		return fmt.Errorf("ask DynamoDB Local for %s: it ended:\n%s", command, s.Output())
	case <-late.C:
		return fmt.Errorf("ask DynamoDB Local for %s: no answer after %v", command, patience)
	}
}

// Close kills it, and what it holds is gone.
func (s *Server) Close() error {
	if s.java.Process != nil {
		_ = s.java.Process.Kill() // reports only that it has ended already
		<-s.exited
	}
	return os.RemoveAll(s.scratch)
}
