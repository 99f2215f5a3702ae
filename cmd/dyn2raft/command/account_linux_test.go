package command

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net"
	"net/rpc"
	"net/rpc/jsonrpc"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"golang.org/x/sys/unix"

	"github.com/dyn2raft/dyn2raft/cmd/dyn2raft/hints"
	"github.com/dyn2raft/dyn2raft/copier"
	"github.com/dyn2raft/dyn2raft/sources/dynamodb"
	"github.com/dyn2raft/dyn2raft/sources/dynamodb/dynamotest"
	"github.com/dyn2raft/dyn2raft/verify"
)

// nobody is whom root's copies are for in these tests.
const nobody = 65534

// ownedCopy makes a table and a data directory of nobody's, in a directory of
// root's, and returns a command that copies the one into the other.
func ownedCopy(t *testing.T, latency time.Duration) (dir, data string, content dynamotest.Content, command func(more ...string) *exec.Cmd) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("NOT TESTED: what root does for another user")
	}
	srv := dynamotest.NewServer(dynamotest.Options{Latency: latency})
	t.Cleanup(srv.Close)
	if err := srv.CreateVaultTable(dynamotest.VaultTable); err != nil {
		t.Fatal(err)
	}
	loaded, err := dynamotest.VaultShape{Entries: 2000}.Load(srv, dynamotest.VaultTable)
	if err != nil {
		t.Fatal(err)
	}
	dir = t.TempDir()
	data = filepath.Join(dir, "vault", "data")
	file := filepath.Join(dir, "migrate.hcl")
	text := fmt.Sprintf("storage_source \"dynamodb\" {\n endpoint = %q\n ha_enabled = true\n}\n"+
		"storage_destination \"raft\" {\n path = %q\n}\ncluster_addr = \"https://127.0.0.1:8201\"\n", srv.URL, data)
	if err := errors.Join(os.Chmod(filepath.Dir(dir), 0o755), os.Chmod(dir, 0o755), os.MkdirAll(data, 0o700),
		os.Chown(data, nobody, nobody), os.Chown(filepath.Dir(data), nobody, nobody),
		os.WriteFile(file, []byte(text), 0o600),
		os.WriteFile(filepath.Join(dir, "keys"), []byte("[default]\naws_access_key_id = a\naws_secret_access_key = s\n"), 0o600)); err != nil {
		t.Fatal(err)
	}
	return dir, data, loaded.Content, func(more ...string) *exec.Cmd {
		cmd := exec.Command("dyn2raft", append([]string{"copy", "-config", file}, more...)...)
		cmd.Dir = dir
		cmd.Env = []string{"HOME=" + dir, "AWS_EC2_METADATA_DISABLED=true", "GORACE=atexit_sleep_ms=0", "AWS_SHARED_CREDENTIALS_FILE=" + filepath.Join(dir, "keys")}
		return cmd
	}
}

// until polls for a condition.
func until(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(time.Minute); !ok(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("waited in vain: %s", what)
		}
	}
}

// ownedBy looks whose everything below a directory is.
func ownedBy(t *testing.T, root string, uid int) {
	t.Helper()
	if err := filepath.WalkDir(root, func(path string, _ fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if got, ok := ownerOf(path); err == nil && ok && got != uid {
			t.Errorf("%s belongs to %d", path, got)
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
}

// A copy that root runs for another user is that user's process, with nothing of
// root's in it: with his groups, without what was open, and he can't get into it, as
// he could use the terminal that root works on. It takes signals as any copy does,
// and what it leaves root, or the user, resumes.
func TestRootWorksAsOwner(t *testing.T) {
	dir, data, content, command := ownedCopy(t, 40*time.Millisecond)
	secret, err := os.Open(filepath.Join(dir, "keys"))
	if err != nil {
		t.Fatal(err)
	}
	defer secret.Close()
	cmd := command("-max-parallel", "2", "-segments", "300")
	cmd.ExtraFiles = []*os.File{secret}
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	defer func() { _ = cmd.Process.Kill() }()
	until(t, "a checkpoint", func() bool {
		_, err := os.Stat(filepath.Join(data, ".dyn2raft", "work", "checkpoint-000001.json"))
		return err == nil
	})
	ownedBy(t, data, nobody)

	proc := fmt.Sprintf("/proc/%d/", cmd.Process.Pid)
	tasks, err := filepath.Glob(proc + "task/*/status")
	if err != nil || len(tasks) < 2 {
		t.Fatal(tasks, err)
	}
	for _, file := range tasks {
		text, err := os.ReadFile(file)
		if errors.Is(err, fs.ErrNotExist) {
			continue // a thread that has ended
		}
		want := fmt.Sprintf("Uid:\t%[1]d\t%[1]d\t%[1]d\t%[1]d\nGid:\t%[1]d\t%[1]d\t%[1]d\t%[1]d\n", nobody)
		for _, line := range []string{want, fmt.Sprintf("Groups:\t%d \n", nobody), "CapPrm:\t0000000000000000\n", "CapEff:\t0000000000000000\n"} {
			if err != nil || !strings.Contains(string(text), line) {
				t.Errorf("%s has no %q: %v\n%s", file, line, err, text)
			}
		}
	}
	open, err := filepath.Glob(proc + "fd/*")
	if err != nil || len(open) == 0 {
		t.Fatal(open, err)
	}
	for _, fd := range open {
		if to, err := os.Readlink(fd); err == nil && to == secret.Name() {
			t.Errorf("%s is still open", to)
		}
	}
	if err := asUser(func() {
		if f, err := os.Open(proc + "mem"); !errors.Is(err, fs.ErrPermission) {
			_ = f.Close()
			t.Errorf("the user can read the process's memory: %v", err)
		}
	}); err != nil {
		t.Fatal(err)
	}
	var side []string
	for _, file := range tasks {
		kids, err := os.ReadFile(filepath.Join(filepath.Dir(file), "children"))
		if err == nil {
			side = append(side, strings.Fields(string(kids))...)
		}
	}
	if len(side) != 1 {
		t.Fatalf("children are %q", side)
	}

	if err := cmd.Process.Signal(syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	if err := <-ended; cmd.ProcessState.ExitCode() != 130 {
		t.Fatalf("%v\n%s", err, &stderr)
	}
	if !strings.Contains(stderr.String(), "to resume:  dyn2raft copy -config") || strings.Count(stderr.String(), "stopping in order") != 1 {
		t.Errorf("it says\n%s", &stderr)
	}
	until(t, "the end of what was root's", func() bool {
		state, err := os.ReadFile("/proc/" + side[0] + "/stat")
		return err != nil || strings.Contains(string(state), ") Z ") // whoever is to collect it
	})
	ownedBy(t, data, nobody)

	cmd = command("-resume")
	if out, err := cmd.CombinedOutput(); err != nil || !bytes.Contains(out, []byte("Success!")) {
		t.Fatalf("%v\n%s", err, out)
	}
	ownedBy(t, filepath.Dir(data), nobody)
	if got, err := contentOf(filepath.Join(data, "vault.db")); err != nil || got != content {
		t.Errorf("%d entries, expected %d (%v)", got.Entries, content.Entries, err)
	}

	// A comparison has its work files beside the directory, where they are his too.
	cmd = command("-max-parallel", "2", "-o", filepath.Join(filepath.Dir(data), "verify.json"))
	cmd.Args[1] = "verify"
	if out, err := cmd.CombinedOutput(); err != nil || !bytes.Contains(out, []byte("working as the user")) || !bytes.Contains(out, []byte("Equal: ")) {
		t.Errorf("%v\n%s", err, out)
	}
	ownedBy(t, filepath.Dir(data), nobody)
}

// asUser calls f with the rights of nobody.
func asUser(f func()) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // for good: the thread ends with the goroutine
		_, _, e := unix.RawSyscall(unix.SYS_SETRESGID, nobody, nobody, nobody)
		if _, _, e2 := unix.RawSyscall(unix.SYS_SETRESUID, nobody, nobody, nobody); e != 0 || e2 != 0 {
			done <- errors.Join(e, e2)
			return
		}
		f()
		done <- nil
	}()
	return <-done
}

// A manifest in a directory of root's is written by root, for the user, and read
// again; not where others can change what leads to it.
func TestManifestInRootsDirectory(t *testing.T) {
	dir, data, _, command := ownedCopy(t, 0)
	closed := filepath.Join(dir, "closed")
	if err := os.Mkdir(closed, 0o700); err != nil {
		t.Fatal(err)
	}
	manifest := filepath.Join(closed, "m.json")
	if out, err := command("-manifest", manifest).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if uid, ok := ownerOf(manifest); !ok || uid != nobody {
		t.Errorf("it belongs to %d", uid)
	}
	out, err := command("-manifest", manifest, "-resume").CombinedOutput()
	if err != nil || !bytes.Contains(out, []byte("Equal: ")) {
		t.Errorf("%v\n%s", err, out)
	}
	if got, err := os.ReadDir(closed); err != nil || len(got) != 1 {
		t.Errorf("there is %v, %v", got, err)
	}

	if err := os.WriteFile(manifest, []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(os.RemoveAll(data), os.Mkdir(data, 0o700), os.Chown(data, nobody, nobody)); err != nil {
		t.Fatal(err)
	}
	out, err = command("-manifest", manifest).CombinedOutput()
	if err == nil || !bytes.Contains(out, []byte("not a manifest of a copy")) {
		t.Errorf("%v\n%s", err, out)
	}
	if err := errors.Join(os.Remove(manifest), os.Chown(closed, 0, nobody+1), os.Chmod(closed, 0o770)); err != nil {
		t.Fatal(err)
	}
	out, err = command("-manifest", manifest).CombinedOutput()
	if err == nil || !bytes.Contains(out, []byte("others than root can change it, so root does not write there")) {
		t.Errorf("%v\n%s", err, out)
	}
	if got, err := os.ReadDir(closed); err != nil || len(got) != 0 {
		t.Errorf("there is %v, %v", got, err)
	}
}

// The attack: while root copies for the user, the user puts links to a file of
// root's in place of everything that he finds in his directory. What root works on
// by path becomes the user's then.
func TestUserSwapsLinksWhileRootCopies(t *testing.T) {
	dir, data, _, command := ownedCopy(t, 0)
	shadow := filepath.Join(dir, "shadow")
	if err := os.WriteFile(shadow, []byte("root's"), 0o600); err != nil {
		t.Fatal(err)
	}
	before, err := os.Stat(shadow)
	if err != nil {
		t.Fatal(err)
	}
	for _, flags := range [][]string{nil, {"-owner", "65534:65534"}} {
		for swap := range 8 {
			stop := make(chan struct{})
			n := 0
			attacked := make(chan error)
			attack := func() {
				for i := 0; ; i++ {
					select {
					case <-stop:
						return
					default:
					}
					names, _ := filepath.Glob(filepath.Join(data, "*"))
					for _, pattern := range []string{".dyn2raft/*", ".dyn2raft/raft/*", ".dyn2raft/work/*"} {
						more, _ := filepath.Glob(filepath.Join(data, pattern))
						names = append(names, more...)
					}
					if swap > 0 && len(names) > 0 { // one kind of name in each copy, and all at first
						names = []string{names[(i+swap)%len(names)]}
					}
					for _, name := range names {
						if to, err := os.Readlink(name); err == nil && to == shadow {
							continue
						}
						tmp := filepath.Join(filepath.Dir(data), strconv.Itoa(n))
						if os.Symlink(shadow, tmp) == nil && (os.Rename(tmp, name) == nil || os.Rename(name, tmp+"-away") == nil && os.Rename(tmp, name) == nil) {
							n++
						}
					}
				}
			}
			go func() { attacked <- asUser(attack) }()
			out, err := command(append(slices.Clone(flags), "-restart")...).CombinedOutput()
			close(stop)
			if err := <-attacked; err != nil {
				t.Fatal(err)
			}
			after, serr := os.Stat(shadow)
			text, rerr := os.ReadFile(shadow)
			if serr != nil || rerr != nil || string(text) != "root's" || after.Mode() != before.Mode() || !after.ModTime().Equal(before.ModTime()) ||
				after.Sys().(*syscall.Stat_t).Uid != 0 || after.Sys().(*syscall.Stat_t).Nlink != 1 {
				t.Fatalf("root's file is %v %q now (%v, %v): copy ended with %v\n%s", after, text, serr, rerr, err, out)
			}
			t.Logf("%d names swapped: %v", n, err)
			if err := errors.Join(os.RemoveAll(filepath.Dir(data)), os.MkdirAll(data, 0o700), os.Chown(data, nobody, nobody), os.Chown(filepath.Dir(data), nobody, nobody)); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// swapAll puts links in place of what it finds below base and back again, as nobody, until
// stop is closed: to target where a name was a directory's, else to a file in it.
func swapAll(base, target string, patterns []string, stop <-chan struct{}) error {
	return asUser(func() {
		for {
			select {
			case <-stop:
				return
			default:
			}
			for _, pattern := range patterns {
				names, _ := filepath.Glob(filepath.Join(base, pattern))
				for _, name := range names {
					fi, err := os.Lstat(name)
					if err != nil || fi.Mode()&fs.ModeSymlink != 0 || strings.HasSuffix(name, "-away") {
						continue
					}
					to := target
					if !fi.IsDir() {
						to = filepath.Join(target, "victim")
					}
					if os.Rename(name, name+"-away") == nil {
						_ = os.Symlink(to, name)
						runtime.Gosched()
						_ = os.Remove(name)
						_ = os.Rename(name+"-away", name)
					}
				}
			}
		}
	})
}

// The same attack where root is nobody but root: others than root may change the data
// directory, or what leads to it, or where the work files are. Root does not work there,
// and a user of the group does.
func TestUserSwapsLinksWhileRootIsRoot(t *testing.T) {
	staged := []string{".dyn2raft", ".dyn2raft/*", ".dyn2raft/*/*", "raft", "vault.db", "node-id"}
	compared := []string{"data.dyn2raft-verify", "data.dyn2raft-verify/*"}
	group := func(dir, data string) error {
		return errors.Join(os.Chown(filepath.Dir(data), 0, 0), os.Chown(data, 0, nobody), os.Chmod(data, fs.ModeSetgid|0o775))
	}
	roots := func(_, data string) error { return os.Chown(data, 0, 0) }
	for name, c := range map[string]struct {
		set     func(dir, data string) error
		line    []string // SCRATCH stands for a directory of nobody's
		base    string   // below the one that all is in
		swapped []string
		status  int // -1 is any
		says    string
	}{
		"a group's directory":               {group, []string{"copy"}, "vault/data", staged, exitDestination, "-owner USER:GROUP"},
		"a group's directory, as one of it": {group, []string{"copy", "-owner", "65534:65534"}, "vault/data", staged, -1, "working as the user"},
		"everybody's directory": {func(_, data string) error {
			return errors.Join(os.Chown(filepath.Dir(data), 0, 0), os.Chown(data, 0, 0), os.Chmod(data, 0o777))
		}, []string{"copy", "-resume"}, "vault/data", staged, exitDestination, "sudo chown vault:vault "},
		"what leads to it": {roots, []string{"copy", "-restart"}, "vault", []string{"data"}, exitDestination, ": others than root can change it"},
		"a link that leads to it": {func(dir, data string) error {
			real := filepath.Join(dir, "real")
			return errors.Join(os.Rename(data, real), os.Chown(real, 0, 0), os.Symlink(real, data))
		}, []string{"copy"}, "vault", []string{"data"}, exitDestination, ": others than root can change it"},
		"the work files' place": {func(_, data string) error {
			return errors.Join(os.Chown(filepath.Dir(data), 0, 0), os.Chown(data, 0, 0))
		}, []string{"copy", "-work-dir", "SCRATCH"}, "scratch", []string{"*"}, exitDestination, "directory of root's alone with -work-dir"},
		"a comparison":                         {nil, []string{"verify"}, "vault", compared, -1, "working as the user"},
		"a comparison beside root's directory": {roots, []string{"verify"}, "vault", compared, exitDestination, "-work-dir DIR"},
	} {
		t.Run(name, func(t *testing.T) {
			dir, data, _, command := ownedCopy(t, 0)
			scratch, precious := filepath.Join(dir, "scratch"), filepath.Join(dir, "precious")
			victims := []string{"victim", "run-000001", "vault.db", "node-id", "raft/raft.db", "work/copy.json"}
			if err := errors.Join(os.Mkdir(scratch, 0o700), os.Chown(scratch, nobody, nobody), os.MkdirAll(filepath.Join(precious, "raft"), 0o755),
				os.Mkdir(filepath.Join(precious, "work"), 0o755)); err != nil {
				t.Fatal(err)
			}
			for _, victim := range victims {
				if err := os.WriteFile(filepath.Join(precious, victim), []byte("root's"), 0o644); err != nil { //nolint:gosec // anybody may read it
					t.Fatal(err)
				}
			}
			if c.line[0] == "verify" {
				if out, err := command().CombinedOutput(); err != nil {
					t.Fatalf("%v\n%s", err, out)
				}
			}
			if c.set != nil {
				if err := c.set(dir, data); err != nil {
					t.Fatal(err)
				}
			}
			stop, attacked := make(chan struct{}), make(chan error)
			go func() { attacked <- swapAll(filepath.Join(dir, c.base), precious, c.swapped, stop) }()
			cmd := command()
			cmd.Args = append(cmd.Args[:1], append([]string{c.line[0]}, append(cmd.Args[2:], c.line[1:]...)...)...)
			for i := range cmd.Args {
				cmd.Args[i] = strings.ReplaceAll(cmd.Args[i], "SCRATCH", scratch)
			}
			out, _ := cmd.CombinedOutput()
			close(stop)
			if err := <-attacked; err != nil {
				t.Fatal(err)
			}
			if code := cmd.ProcessState.ExitCode(); c.status != -1 && code != c.status || !strings.Contains(string(out), c.says) {
				t.Errorf("status %d\n%s", code, out)
			}
			for _, victim := range victims {
				if got, err := os.ReadFile(filepath.Join(precious, victim)); err != nil || string(got) != "root's" {
					t.Errorf("%s is %q now, %v", victim, got, err)
				}
			}
			if got, err := os.ReadDir(precious); err != nil || len(got) != 6 {
				t.Errorf("there is %v, %v", got, err)
			}
		})
	}
}

// The root side looks for credentials anew each time that it is asked.
func TestRootSideRenewsCredentials(t *testing.T) {
	keys := filepath.Join(t.TempDir(), "keys")
	t.Setenv("AWS_SHARED_CREDENTIALS_FILE", keys)
	t.Setenv("AWS_CONFIG_FILE", os.DevNull)
	t.Setenv("AWS_EC2_METADATA_DISABLED", "true")
	for _, name := range []string{"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"} {
		t.Setenv(name, "")
		if err := os.Unsetenv(name); err != nil {
			t.Fatal(err)
		}
	}
	var side rootServer
	if err := side.Begin(RootTask{Region: "us-east-1"}, nil); err != nil {
		t.Fatal(err)
	}
	var got aws.Credentials
	if err := side.Credentials(struct{}{}, &got); err == nil {
		t.Error("credentials without a file")
	}
	for _, id := range []string{"first", "second"} {
		if err := os.WriteFile(keys, fmt.Appendf(nil, "[default]\naws_access_key_id = %s\naws_secret_access_key = s\n", id), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := side.Credentials(struct{}{}, &got); err != nil || got.AccessKeyID != id || got.SecretAccessKey != "s" {
			t.Errorf("%s, %v", got.AccessKeyID, err)
		}
	}
	if err := side.Begin(RootTask{Manifest: "/etc/passwd"}, nil); err == nil {
		t.Error("another task was taken")
	}
}

// A failing is a root side that can't do anything.
type failing struct{ err error }

func (f *failing) TryManifest(struct{}, *struct{}) error { return far(f.err) }

// What the root side returns as an error has its code, its facts and its hint in the other
// process too.
func TestRootSideErrors(t *testing.T) {
	dir := t.TempDir()
	_, none := verify.ReadManifest(filepath.Join(dir, "none.json"))
	for want, is := range map[error]error{
		verify.TryManifest(filepath.Join(dir, "record.json"), dir): copier.ErrDestination,
		none: fs.ErrNotExist,
		rootsAlone(filepath.Join(dir, "nowhere"), false):                                                             fs.ErrNotExist,
		&fs.PathError{Op: "write to", Path: dir, Err: errNotRootsAlone}:                                              errNotRootsAlone,
		&copier.Error{Kind: copier.ErrSource, Code: dynamodb.LockedByCopy, Facts: map[string]string{"run": "run-1"}}: copier.ErrSource,
	} {
		ours, theirs := net.Pipe()
		server := rpc.NewServer()
		if err := server.RegisterName("Root", &failing{want}); err != nil {
			t.Fatal(err)
		}
		go server.ServeCodec(jsonrpc.NewServerCodec(theirs)) // until the pipe is closed
		client := &rootSide{Client: jsonrpc.NewClient(ours)}
		got := client.call(t.Context(), "TryManifest", struct{}{}, new(struct{}))
		code, facts := copier.CodeOf(got)
		wantCode, wantFacts := copier.CodeOf(want)
		if got == nil || got.Error() != want.Error() || !errors.Is(got, is) || errors.Is(got, fs.ErrPermission) || code != wantCode || !maps.Equal(facts, wantFacts) || hints.Of(got) != hints.Of(want) {
			t.Errorf("%v (%s, %v, hint %q) came over as %v (%s, %v, hint %q)", want, wantCode, wantFacts, hints.Of(want), got, code, facts, hints.Of(got))
		}
		if err := client.Close(); err != nil {
			t.Error(err)
		}
	}
}

// So is a readdress: what is planted in the directory is not followed as root, and
// no file changes its owner or its mode, the manifest in a directory of root's included.
func TestRootReaddressesAsOwner(t *testing.T) {
	dir, data, _, command := ownedCopy(t, 0)
	manifest := filepath.Join(dir, "record.json")
	if out, err := command("-manifest", manifest).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if err := os.Chmod(manifest, 0o640); err != nil {
		t.Fatal(err)
	}
	readdress := func() ([]byte, error) {
		cmd := exec.Command("dyn2raft", "readdress", data, "-node-id", "vault-7", "-manifest", manifest)
		cmd.Dir, cmd.Env = dir, []string{"HOME=" + dir, "GORACE=atexit_sleep_ms=0"}
		return cmd.CombinedOutput()
	}
	keys, nodeID := filepath.Join(dir, "keys"), filepath.Join(data, "node-id")
	if err := errors.Join(os.Rename(nodeID, nodeID+".kept"), os.Symlink(keys, nodeID)); err != nil {
		t.Fatal(err)
	}
	if out, err := readdress(); err == nil {
		t.Errorf("a link in place of node-id is followed:\n%s", out)
	}
	if err := os.Rename(nodeID+".kept", nodeID); err != nil {
		t.Fatal(err)
	}
	if out, err := readdress(); err != nil || !bytes.Contains(out, []byte("vault-7 (was ")) {
		t.Fatalf("%v\n%s", err, out)
	}
	ownedBy(t, filepath.Dir(data), nobody)
	if uid, _ := ownerOf(keys); uid != 0 {
		t.Errorf("%s belongs to %d", keys, uid)
	}
	fi, err := os.Stat(manifest)
	if err != nil {
		t.Fatal(err)
	}
	if uid, _ := ownerOf(manifest); uid != nobody || fi.Mode() != 0o640 {
		t.Errorf("the manifest belongs to %d, with mode %s", uid, fi.Mode())
	}
	cmd := exec.Command("dyn2raft", "verify", "-manifest", manifest)
	cmd.Dir, cmd.Env = dir, []string{"HOME=" + dir, "GORACE=atexit_sleep_ms=0"}
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}

// Root that may not change its user, as in some containers, is told how to run it,
// and nothing is touched.
func TestRootMayNotBecome(t *testing.T) {
	_, data, _, command := ownedCopy(t, 0)
	for _, capability := range []uintptr{unix.CAP_SETUID, unix.CAP_SETGID} {
		cmd := command("-max-parallel", "3")
		var out bytes.Buffer
		cmd.Stdout, cmd.Stderr = &out, &out
		ended := make(chan error, 1)
		go func() {
			runtime.LockOSThread() // for good: what a process is started with is its thread's
			if err := unix.Prctl(unix.PR_CAPBSET_DROP, capability, 0, 0, 0); err != nil {
				ended <- err
				return
			}
			ended <- cmd.Run()
		}()
		err := <-ended
		if cmd.ProcessState == nil || cmd.ProcessState.ExitCode() != exitDestination || !strings.Contains(out.String(), "error: work as nobody: set ") ||
			!strings.Contains(out.String(), "run it as that user: sudo -u nobody --preserve-env=AWS_EC2_METADATA_DISABLED,AWS_SHARED_CREDENTIALS_FILE dyn2raft copy -config ") ||
			!strings.Contains(out.String(), " -max-parallel 3") {
			t.Errorf("%v\n%s", err, &out)
		}
		if left, err := os.ReadDir(data); err != nil || len(left) > 0 {
			t.Errorf("there is %v, %v", left, err)
		}
	}
}

// TestRootWritesBuckets: what verify -closed compares with is written where the manifest is,
// by the part that stays root's, and belongs to whom the copy does.
func TestRootWritesBuckets(t *testing.T) {
	dir := t.TempDir()
	s := &rootServer{task: &RootTask{Manifest: filepath.Join(dir, "m.json"), UID: 65534, GID: 65534}}
	err := s.WriteBuckets([]byte("buckets"), nil)
	if os.Getuid() != 0 { // whose directory it is, and not root's alone
		if err == nil {
			t.Error("it is written to a directory that others can change")
		}
		return
	}
	st, serr := os.Stat(filepath.Join(dir, "m.buckets"))
	if err != nil || serr != nil || st.Size() != 7 || st.Sys().(*syscall.Stat_t).Uid != 65534 {
		t.Errorf("%v, %v, %+v", err, serr, st)
	}
	if s.WriteBuckets(make([]byte, maxBuckets+1), nil) == nil {
		t.Error("it is written, however large it is")
	}
}
