//go:build linux && (amd64 || arm64)

package crash

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/dyn2raft/dyn2raft/sources/dynamodb/dynamotest"
)

// A call is a system call at which a process is stopped.
type call struct {
	name string
	on   func(p *tracer, args [6]uint64) string // what it is about; "" leaves it out
}

// traced are the calls by which a copy changes what is on the disk, in the table or
// on the terminal.
var traced = map[uint64]call{
	unix.SYS_RENAMEAT:  {"rename", pathAt(3)},
	unix.SYS_RENAMEAT2: {"rename", pathAt(3)},
	unix.SYS_LINKAT:    {"link", pathAt(3)},
	unix.SYS_UNLINKAT:  {"unlink", pathAt(1)},
	unix.SYS_FSYNC:     {"fsync", file},
	unix.SYS_FDATASYNC: {"fsync", file},
	unix.SYS_SENDTO:    {"send", file},
	unix.SYS_WRITE: {"write", func(p *tracer, args [6]uint64) string {
		name := file(p, args)
		if strings.HasPrefix(name, "socket:") || args[0] == 1 {
			return name
		}
		return "" // the rest does not count before its fsync
	}},
}

// pathAt reads the path that is argument i.
func pathAt(i int) func(*tracer, [6]uint64) string {
	return func(p *tracer, args [6]uint64) string {
		memory, err := os.Open(fmt.Sprintf("/proc/%d/mem", p.pid))
		if err != nil {
			return err.Error()
		}
		defer memory.Close()
		buf := make([]byte, 256)
		n, _ := memory.ReadAt(buf, int64(args[i])) // up to the end of what is mapped
		path, _, _ := bytes.Cut(buf[:n], []byte{0})
		return filepath.Base(string(path))
	}
}

// file names the file of a descriptor.
func file(p *tracer, args [6]uint64) string {
	name, err := os.Readlink(fmt.Sprintf("/proc/%d/fd/%d", p.pid, args[0]))
	if err != nil {
		return err.Error()
	}
	if args[0] == 1 {
		return "stdout"
	}
	if strings.HasPrefix(name, "socket:") {
		return "socket:"
	}
	return filepath.Base(name)
}

// A tracer drives one process, all threads of which it has seized. It stops at each
// traced call, before and after, from when raft/ is put in place.
type tracer struct {
	pid     int
	threads map[int]string // with the call that each is in
	begun   bool
	stops   []string
	at      int
	happen  func() error
}

const (
	seizeOptions = unix.PTRACE_O_TRACESYSGOOD | unix.PTRACE_O_TRACECLONE
	infoEntry    = 1 // PTRACE_SYSCALL_INFO_ENTRY, see ptrace(2)
	infoExit     = 2
)

func ptrace(request, tid int, addr, data uintptr) (uintptr, error) {
	n, _, errno := unix.RawSyscall6(unix.SYS_PTRACE, uintptr(request), uintptr(tid), addr, data, 0, 0)
	if errno != 0 {
		return n, errno
	}
	return n, nil
}

// seize seizes all threads of the process, also those that are made meanwhile. They
// run on, and are stopped to run from call to call.
func (p *tracer) seize() error {
	for {
		list, err := os.ReadDir(fmt.Sprintf("/proc/%d/task", p.pid))
		if err != nil {
			return err
		}
		more := false
		for _, entry := range list {
			tid, err := strconv.Atoi(entry.Name())
			if _, ok := p.threads[tid]; ok || err != nil {
				continue
			}
			if _, err := ptrace(unix.PTRACE_SEIZE, tid, 0, seizeOptions); err != nil {
				if errors.Is(err, unix.ESRCH) {
					continue // it has ended
				}
				if errors.Is(err, unix.EPERM) && len(p.threads) > 0 {
					continue // a new thread of one that is seized, which comes seized
				}
				return err
			}
			p.threads[tid], more = "", true
			if _, err := ptrace(unix.PTRACE_INTERRUPT, tid, 0, 0); err != nil {
				return err
			}
		}
		if !more {
			return nil
		}
	}
}

// drive runs the process to its end, and returns its exit status.
func (p *tracer) drive() (int, error) {
	for {
		var status unix.WaitStatus
		tid, err := unix.Wait4(-1, &status, unix.WALL, nil)
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case err != nil:
			return 0, err
		case status.Exited() || status.Signaled():
			if delete(p.threads, tid); tid == p.pid {
				return status.ExitStatus(), nil
			}
			continue
		}
		signal := 0
		switch stop := status.StopSignal(); {
		case stop == unix.SIGTRAP|0x80:
			if err := p.stopped(tid); err != nil {
				return 0, err
			}
		case status>>16 != 0: // an event: a new thread, or our interrupt
		default:
			signal = int(stop)
		}
		if _, err := ptrace(unix.PTRACE_SYSCALL, tid, 0, uintptr(signal)); err != nil && !errors.Is(err, unix.ESRCH) {
			return 0, fmt.Errorf("let thread %d run: %w", tid, err)
		}
	}
}

// stopped is called for a thread that stands before or after a call.
func (p *tracer) stopped(tid int) error {
	var info [88]byte // struct ptrace_syscall_info
	if _, err := ptrace(unix.PTRACE_GET_SYSCALL_INFO, tid, uintptr(len(info)), uintptr(unsafe.Pointer(&info))); errors.Is(err, unix.ESRCH) {
		return nil // it has ended since, with its process
	} else if err != nil {
		return fmt.Errorf("ask for the call of thread %d: %w", tid, err)
	}
	switch info[0] {
	case infoEntry:
		c, ok := traced[binary.NativeEndian.Uint64(info[24:])]
		p.threads[tid] = ""
		if !ok {
			return nil
		}
		var args [6]uint64
		for i := range args {
			args[i] = binary.NativeEndian.Uint64(info[32+8*i:])
		}
		if on := c.on(p, args); on != "" {
			p.threads[tid] = c.name + " " + on
			p.begun = p.begun || p.threads[tid] == "rename raft"
			return p.stop("before " + p.threads[tid])
		}
	case infoExit:
		if is := p.threads[tid]; is != "" {
			p.threads[tid] = ""
			return p.stop("after " + is)
		}
	}
	return nil
}

func (p *tracer) stop(name string) error {
	if !p.begun {
		return nil
	}
	p.stops = append(p.stops, name)
	if len(p.stops)-1 == p.at && p.happen != nil {
		return p.happen()
	}
	return nil
}

// tracedProgram starts a program that is driven, and holds its first request until
// all its threads are seized.
func tracedProgram(t *testing.T, s *dynamotest.Server, n int, happen func(p *program) error) (*program, *tracer, int, error) {
	t.Helper()
	seized := make(chan struct{})
	var first sync.Once
	asked := make(chan struct{})
	front := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		first.Do(func() { close(asked) })
		<-seized
		s.ServeHTTP(w, r)
	}))
	defer front.Close()
	p := startProgramAt(t, s, front.URL, n)
	tr := &tracer{pid: p.process.Pid, threads: map[int]string{}, at: n}
	if happen != nil {
		tr.happen = func() error { return happen(p) }
	}
	// All requests of ptrace must come from one thread.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	<-asked
	err := tr.seize()
	close(seized)
	if err != nil {
		_ = p.process.Kill()
		return p, tr, 0, err
	}
	status, err := tr.drive()
	if err != nil {
		_ = p.process.Kill()
	}
	return p, tr, status, err
}

// TestStoppedAtEachCall stops the program before and after each rename, fsync,
// unlink, send and write to standard output of its end, gives one of its locks to
// another, and lets it go on.
func TestStoppedAtEachCall(t *testing.T) {
	s := dynamotest.NewServer(dynamotest.Options{})
	defer s.Close()
	p, all, status, err := tracedProgram(t, s, -1, nil)
	if errors.Is(err, unix.EPERM) || errors.Is(err, unix.EACCES) || errors.Is(err, unix.ENOSYS) {
		t.Skipf("SKIPPED: this machine does not let a process be traced (ptrace: %v; kernel.yama.ptrace_scope, or the container's seccomp profile)", err)
	}
	if err != nil || status != 0 {
		t.Fatalf("exit status %d, %v: %s", status, err, p.said("stderr"))
	}
	if err := p.check(status, false); err != nil {
		t.Fatal(err)
	}
	text := strings.Join(all.stops, "\n")
	for _, want := range []string{"rename raft", "rename vault.db", "fsync data", "write socket:", "write stdout", "rename commit.json", "unlink work"} {
		if !strings.Contains(text, "before "+want) || !strings.Contains(text, "after "+want) {
			t.Errorf("it was not stopped before and after %q:\n%s", want, text)
		}
	}
	every := max(1, len(all.stops)*20/max(*killsFlag, 1)/12) // all with 200 kills
	held, late := 0, 0
	for n := 0; n < len(all.stops); n += every {
		name := []string{"leader", "migration"}[n/every%2]
		stole, was := false, false
		p, tr, status, err := tracedProgram(t, s, n, func(p *program) (err error) {
			run := p.run()
			stole = true
			was, err = thieves[name].steal(s, p.table, run)
			return err
		})
		if err != nil {
			t.Fatalf("stop %d: %v", n, err)
		}
		if !stole {
			continue // this one had fewer stops
		}
		if err := p.check(status, was); err != nil {
			t.Errorf("stop %d of %d, %s, lost its %s lock: %v", n, len(all.stops), tr.stops[n], name, err)
		}
		if was {
			held++
		} else {
			late++
		}
	}
	t.Logf("%d stops, each %d. tried: %d lost a lock, %d had given it back", len(all.stops), every, held, late)
	if held == 0 {
		t.Error("none lost a lock")
	}
}
