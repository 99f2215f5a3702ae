package crash

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/dyn2raft/dyn2raft/cmd/dyn2raft/command"
	"github.com/dyn2raft/dyn2raft/copier"
	"github.com/dyn2raft/dyn2raft/copier/durable"
	"github.com/dyn2raft/dyn2raft/sinks/raft"
	"github.com/dyn2raft/dyn2raft/sources/dynamodb"
)

const orderEnv = "DYN2RAFT_CRASH_ORDER"

// commandEnv makes the test's own binary the program, with the program's arguments.
const commandEnv = "DYN2RAFT_CRASH_COMMAND"

func TestMain(m *testing.M) {
	if os.Getenv(commandEnv) != "" {
		os.Exit(command.Main(os.Args, command.Streams{In: os.Stdin, Out: os.Stdout, Err: os.Stderr, Env: os.LookupEnv}))
	}
	if order := os.Getenv(orderEnv); order != "" {
		if err := child(order); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	goleak.VerifyTestMain(m)
}

// An order is what a child process is to do.
type order struct {
	Path, NodeID    string // of the destination
	URL, Table      string
	WorkDir         string
	Manifest        string // where the record is kept; empty: nowhere
	Resume, Restart bool
	// Kill ends the process with SIGKILL ahead of its operation of this name,
	// the Nth, counted from 0. Pause stops it there until its standard input
	// is closed.
	Kill, Pause string
	Nth         int
}

// A report is the last thing that a child says, if it comes to that.
type report struct {
	// Ops counts its operations on the disk, by their names without numbers.
	Ops     map[string]int
	Resumed int
	Entries int64
	Error   string
	// What the error is.
	Locked, Destination, Moved bool
	Resumable                  bool
}

// numbers are what differs between two runs in the names of operations.
var numbers = regexp.MustCompile(`-[0-9a-f]{8}-[0-9a-f-]{27}|[0-9]{2,}`)

func nameOf(op durable.Op) string { return numbers.ReplaceAllString(op.String(), "N") }

// child copies. On its standard output it says "start", "at" with the name of
// an operation that it is killed or stopped at, and "report".
func child(text string) error {
	var o order
	if err := json.Unmarshal([]byte(text), &o); err != nil {
		return err
	}
	var mu sync.Mutex
	ops := map[string]int{}
	disk := &durable.Disk{Before: func(op durable.Op) error {
		mu.Lock()
		defer mu.Unlock()
		name := nameOf(op)
		n := ops[name]
		ops[name]++
		if n != o.Nth {
			return nil
		}
		switch name {
		case o.Kill:
			fmt.Println("at", name)
			if err := syscall.Kill(os.Getpid(), syscall.SIGKILL); err != nil {
				return err
			}
			select {}
		case o.Pause:
			fmt.Println("at", name)
			_, _ = io.Copy(io.Discard, os.Stdin) // until the parent lets it go on
		}
		return nil
	}}
	ctx := context.Background()
	src, err := dynamodb.New(ctx, dynamodb.Options{Table: o.Table, Endpoint: o.URL, AccessKey: "crash", SecretKey: "crash", HAEnabled: true})
	if err != nil {
		return err
	}
	dst, err := raft.New(raft.Options{Path: o.Path, NodeID: o.NodeID, Address: "10.0.0.1:8201", Disk: disk})
	if err != nil {
		return err
	}
	fmt.Println("start")
	res, err := copier.Copy(ctx, src, announced{dst, disk}, o.options(disk))
	r := report{Ops: ops, Resumed: res.Resumed, Entries: res.Scan.Entries, Resumable: res.Resumable,
		Locked: errors.Is(err, copier.ErrLocked), Destination: errors.Is(err, copier.ErrDestination), Moved: errors.Is(err, copier.ErrMoved)}
	if err != nil {
		r.Error = err.Error()
	}
	data, err := json.Marshal(r)
	if err == nil {
		fmt.Println("report", string(data))
	}
	return err
}

// An announced sink says when what it has written is read back: that has no operation
// on the disk of its own.
type announced struct {
	*raft.Sink
	disk *durable.Disk
}

func (s announced) Stage(ctx context.Context, runID string) (copier.Stage, error) {
	stage, err := s.Sink.Stage(ctx, runID)
	return announcedStage{stage.(copier.Loader), s.disk}, err //nolint:errcheck // it is one
}

type announcedStage struct {
	copier.Loader
	disk *durable.Disk
}

func (s announcedStage) Reader(ctx context.Context) (copier.Source, error) {
	if err := s.disk.Step("begin", "check"); err != nil {
		return nil, err
	}
	return s.Loader.Reader(ctx)
}

// options are those of the order's copy.
func (o order) options(disk *durable.Disk) copier.Options {
	opts := copier.Options{
		Workers: 2, Segments: 24, Memory: copier.MinMemory, CheckpointInterval: 15 * time.Millisecond,
		Resume: o.Resume, Restart: o.Restart, WorkDir: o.WorkDir, Disk: disk,
	}
	if o.Manifest != "" {
		opts.Record = func(_ context.Context, r copier.Record) error {
			data, err := r.Encode()
			return errors.Join(err, disk.Replace(o.Manifest, data))
		}
	}
	return opts
}

// A process is a child that runs.
type process struct {
	cmd   *exec.Cmd
	stop  context.CancelFunc
	stdin io.Closer
	lines chan string
	said  chan error // its standard output has ended
	err   strings.Builder

	at     string // the operation at which it was killed or stopped
	report *report
}

// start starts a child, which is killed after ten minutes.
func start(ctx context.Context, o order) (*process, error) {
	exe, err := os.Executable()
	if err != nil {
		return nil, err
	}
	data, err := json.Marshal(o)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, 10*time.Minute)
	p := &process{cmd: exec.CommandContext(ctx, exe), stop: cancel, lines: make(chan string, 8), said: make(chan error, 1)}
	p.cmd.Env = append(os.Environ(), orderEnv+"="+string(data))
	p.cmd.Stderr = &p.err
	in, err := p.cmd.StdinPipe()
	if err != nil {
		cancel()
		return nil, err
	}
	p.stdin = in
	out, err := p.cmd.StdoutPipe()
	if err == nil {
		err = p.cmd.Start()
	}
	if err != nil {
		cancel()
		return nil, err
	}
	go func() {
		s := bufio.NewScanner(out)
		s.Buffer(nil, 1<<20)
		for s.Scan() {
			p.lines <- s.Text()
		}
		close(p.lines)
		p.said <- s.Err()
	}()
	return p, nil
}

// until reads what the child says until a line begins with a word, and tells
// whether there was one.
func (p *process) until(word string) (bool, error) {
	for line := range p.lines {
		first, rest, _ := strings.Cut(line, " ")
		switch first {
		case "at":
			p.at = rest
		case "report":
			p.report = &report{}
			if err := json.Unmarshal([]byte(rest), p.report); err != nil {
				return false, err
			}
		}
		if first == word {
			return true, nil
		}
	}
	return false, nil
}

// end waits for the child's end and reports whether it was killed. Any other
// end without a report is an error.
func (p *process) end() (killed bool, err error) {
	defer p.stop()
	if _, err := p.until(""); err != nil {
		return false, err
	}
	if err := <-p.said; err != nil {
		return false, err
	}
	_ = p.stdin.Close() // it may be closed
	err = p.cmd.Wait()
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		if status, ok := exit.Sys().(syscall.WaitStatus); ok && status.Signal() == syscall.SIGKILL {
			return true, nil
		}
	}
	if err == nil && p.report == nil {
		err = errors.New("it said nothing")
	}
	if err != nil {
		return false, fmt.Errorf("child: %w: %s", err, p.err.String())
	}
	return false, nil
}
