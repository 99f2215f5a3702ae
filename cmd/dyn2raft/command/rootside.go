package command

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/rpc"
	"net/rpc/jsonrpc"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"syscall"

	"github.com/aws/aws-sdk-go-v2/aws"
	"golang.org/x/sys/unix"

	"github.com/dyn2raft/dyn2raft/cmd/dyn2raft/hints"
	"github.com/dyn2raft/dyn2raft/copier"
	"github.com/dyn2raft/dyn2raft/sources/dynamodb"
	"github.com/dyn2raft/dyn2raft/verify"
)

// rootSideName is the argument that makes a dyn2raft a root side.
const rootSideName = "root-side"

// A rootSide is a process that stays root's while the one that has started it
// becomes another user's. Over a socket that only the two have it does what only
// root can: it finds AWS credentials, also when they have to be renewed, and reads
// and writes one manifest, in a directory that nobody but root can change. It ends
// with the other process.
type rootSide struct {
	*rpc.Client
	manifest string
}

// A RootTask says what a root side is for.
type RootTask struct {
	Region   string // of the table
	Manifest string // an absolute path
	Path     string // the data directory
	UID, GID int    // whose the manifest will be
}

// startRootSide starts a root side. The caller closes it.
func startRootSide(task RootTask) (*rootSide, error) {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM, 0)
	if err != nil {
		return nil, fmt.Errorf("make a socket: %w", err)
	}
	unix.CloseOnExec(pair[0])
	unix.CloseOnExec(pair[1])
	ours, theirs := os.NewFile(uintptr(pair[0]), "socket"), os.NewFile(uintptr(pair[1]), "socket")
	defer theirs.Close()
	defer ours.Close()
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	cmd := exec.Command(self, rootSideName)
	cmd.Args[0] = os.Args[0]
	cmd.ExtraFiles = []*os.File{theirs}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true} // the terminal's signals are for the other
	conn, err := net.FileConn(ours)
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	go func() { _ = cmd.Wait() }() // it says nothing
	r := &rootSide{jsonrpc.NewClient(conn), task.Manifest}
	return r, r.call(context.Background(), "Begin", task, new(struct{}))
}

func (r *rootSide) call(ctx context.Context, method string, args, reply any) error {
	call := r.Go("Root."+method, args, reply, make(chan *rpc.Call, 1))
	select {
	case <-call.Done:
		if errors.Is(call.Error, rpc.ErrShutdown) {
			return errors.New("the part of dyn2raft that runs as root has ended")
		}
		far := new(farError)
		if e, ok := call.Error.(rpc.ServerError); ok && json.Unmarshal([]byte(e), far) == nil { //nolint:errorlint // it is not wrapped
			return far
		}
		return call.Error
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// A farError is an error of the root side as the other process has it: what it says, what to
// do about it, where root's environment counts, and what it is.
type farError struct {
	Text  string            `json:"text"`
	Help  string            `json:"hint,omitempty"`
	Code  copier.Code       `json:"code,omitempty"`
	Facts map[string]string `json:"facts,omitempty"`
	Kinds []int             `json:"kinds,omitempty"` // of farKinds
}

// farKinds are what is asked for of the root side's errors.
var farKinds = []error{copier.ErrConfig, copier.ErrSource, copier.ErrDestination, verify.ErrNotManifest, errNotRootsAlone,
	fs.ErrNotExist, fs.ErrPermission, syscall.EROFS, syscall.ENOSPC}

func (e *farError) Error() string { return e.Text }
func (e *farError) Hint() string  { return e.Help }

func (e *farError) Unwrap() (all []error) {
	for _, n := range e.Kinds {
		if n >= 0 && n < len(farKinds) {
			all = append(all, farKinds[n])
		}
	}
	if e.Code != "" {
		all = append(all, &copier.Error{Code: e.Code, Facts: e.Facts})
	}
	return all
}

// far makes an error one that a reply can carry.
func far(err error) error {
	if err == nil {
		return nil
	}
	e := farError{Text: err.Error(), Help: hints.Of(err)}
	e.Code, e.Facts = copier.CodeOf(err)
	for n, kind := range farKinds {
		if errors.Is(err, kind) {
			e.Kinds = append(e.Kinds, n)
		}
	}
	data, jerr := json.Marshal(e)
	return cmp.Or(jerr, errors.New(string(data)))
}

// Retrieve implements [aws.CredentialsProvider].
func (r *rootSide) Retrieve(ctx context.Context) (aws.Credentials, error) {
	out := new(aws.Credentials)
	if err := r.call(ctx, "Credentials", struct{}{}, out); err != nil {
		return aws.Credentials{}, err
	}
	return *out, nil
}

// credentials is the chain of providers for [dynamodb.Options]: each time it is
// made anew, so are the credentials.
func (r *rootSide) credentials(context.Context) (aws.CredentialsProvider, error) {
	return aws.NewCredentialsCache(r), nil
}

// serveRoot is the root side's process.
func serveRoot() int {
	signal.Ignore(os.Interrupt, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGPIPE, syscall.SIGUSR1)
	conn, err := net.FileConn(os.NewFile(3, "socket"))
	if err != nil {
		return exitUsage // somebody has run it by hand
	}
	server := rpc.NewServer()
	if err := server.RegisterName("Root", &rootServer{}); err != nil {
		return exitUsage
	}
	server.ServeCodec(jsonrpc.NewServerCodec(conn)) // until the other end is closed
	return exitDone
}

// A rootServer does what a rootSide asks for. The other process may be in the hands
// of the user that it runs as by then, so nothing is believed of it but the first
// call, before it is that user's.
type rootServer struct{ task *RootTask }

// Begin sets the task.
func (s *rootServer) Begin(task RootTask, _ *struct{}) error {
	if s.task != nil {
		return errors.New("the task is set already")
	}
	s.task = &task
	return nil
}

// Credentials finds AWS credentials, each time anew.
func (s *rootServer) Credentials(_ struct{}, out *aws.Credentials) (err error) {
	*out, err = dynamodb.FindCredentials(context.Background(), s.task.Region)
	return far(err)
}

// TryManifest finds out whether the manifest can be written.
func (s *rootServer) TryManifest(_ struct{}, _ *struct{}) error {
	return s.manifest(func(file string) error { return verify.TryManifest(file, s.task.Path) })
}

// ReadManifest reads the manifest that is there.
func (s *rootServer) ReadManifest(_ struct{}, out *copier.Record) error {
	return s.manifest(func(file string) error {
		m, err := verify.ReadManifest(file)
		if err == nil {
			*out = *m
		}
		return err
	})
}

// WriteManifest writes the manifest.
func (s *rootServer) WriteManifest(r copier.Record, _ *struct{}) error {
	return s.manifest(func(file string) error { return verify.WriteManifest(file, &r, s.task.UID, s.task.GID) })
}

// WriteBuckets writes what is kept beside the manifest of a live copy.
func (s *rootServer) WriteBuckets(data []byte, _ *struct{}) error {
	return s.manifest(func(file string) error { return writeBuckets(file, data, s.task.UID, s.task.GID) })
}

// manifest does something with the manifest, where nobody but root can change its place.
func (s *rootServer) manifest(do func(file string) error) error {
	err := rootsAlone(filepath.Dir(s.task.Manifest), false)
	if err == nil {
		err = do(s.task.Manifest)
	}
	return far(err)
}

// errNotRootsAlone is the error of a directory that root does not write to.
var errNotRootsAlone = errors.New("others than root can change it, so root does not write there")

// rootsAlone refuses a directory that another user than root can change, or replace
// by changing what leads to it, links included. In one above it that is sticky, as
// /tmp is, root's names are root's; sticky is set where that is enough of the directory
// itself. An error wraps [errNotRootsAlone], or says why nothing is known.
func rootsAlone(dir string, sticky bool) error {
	if _, err := filepath.EvalSymlinks(dir); err != nil { // or links go round in a circle
		return err
	}
	for ; ; sticky = true {
		fi, err := os.Lstat(dir)
		if err != nil {
			return err
		}
		link := fi.Mode()&fs.ModeSymlink != 0 // of which the mode means nothing
		if !link && !fi.IsDir() {
			return &fs.PathError{Op: "write to", Path: dir, Err: syscall.ENOTDIR}
		}
		others := !link && fi.Mode().Perm()&0o022 != 0 && !(sticky && fi.Mode()&fs.ModeSticky != 0)
		if st, ok := fi.Sys().(*syscall.Stat_t); !ok || st.Uid != 0 || others {
			return &fs.PathError{Op: "write to", Path: dir, Err: errNotRootsAlone}
		}
		up := filepath.Dir(dir)
		if link {
			to, err := os.Readlink(dir)
			if err != nil {
				return err
			}
			if !filepath.IsAbs(to) {
				if up, err = filepath.EvalSymlinks(up); err != nil {
					return err
				}
				to = filepath.Join(up, to)
			}
			if err := rootsAlone(to, sticky); err != nil {
				return err
			}
		}
		if up == dir {
			return nil
		}
		dir = up
	}
}
