package raft

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/dustin/go-humanize"
	"github.com/dyn2raft/dyn2raft/copier"
	"golang.org/x/sys/unix"
)

// takeLock opens the data directory and locks it for this process. The lock
// is the kernel's: it ends with the process, whatever ends that.
func (s *Sink) takeLock() error {
	f, err := os.OpenFile(s.opts.Path, os.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		return s.fail("open "+s.opts.Path, err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		f.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			return &copier.Error{
				Kind: copier.ErrLocked,
				Op:   "lock " + s.opts.Path,
				Hint: "wait until it has ended; this shows the process: fuser -v " + shellQuote(s.opts.Path),
				Err:  errors.New("another dyn2raft holds this directory"),
			}
		}
		return &copier.Error{
			Kind: copier.ErrDestination,
			Op:   "lock " + s.opts.Path,
			Hint: "Vault too needs a file system with working locks (flock): use a local disk",
			Err:  err,
		}
	}
	s.lock = f
	return nil
}

// refuse returns an error when the directory holds what is Vault's, and sets
// the node id otherwise.
func (s *Sink) refuse() error {
	if err := s.refuseVaultDB(); err != nil {
		return err
	}
	if there, err := exists(s.dest(raftName)); err != nil {
		return s.fail("look at "+s.dest(raftName), err)
	} else if there {
		return s.holdsData(raftName, "")
	}

	// want is the id that the copy is for, empty as long as any will do.
	want := s.nodeID
	if want == "" {
		want = s.opts.NodeID
	}
	id, err := os.ReadFile(s.dest(nodeIDName))
	switch {
	case errors.Is(err, fs.ErrNotExist):
		if want != "" && want != s.opts.NodeID && !s.newNodeID {
			return &copier.Error{
				Kind: copier.ErrDestination,
				Op:   "read " + s.dest(nodeIDName),
				Hint: "start the copy again, and let the file be while it runs",
				Err:  fmt.Errorf("the file with node id %q was there when the copy started, and is gone now", want),
			}
		}
		s.nodeID = want
		return nil
	case err != nil:
		return s.fail("read node id", err)
	case len(id) == 0:
		return &copier.Error{
			Kind: copier.ErrDestination,
			Op:   "read " + s.dest(nodeIDName),
			Hint: "remove it, and a new id is made: rm " + shellQuote(s.dest(nodeIDName)),
			Err:  errors.New("the file is empty"),
		}
	}
	if want != "" && want != string(id) {
		return &copier.Error{
			Kind: copier.ErrDestination,
			Op:   "read " + s.dest(nodeIDName),
			Hint: "give the node the id that its server will run with; if the file is left over from another node: rm " +
				shellQuote(s.dest(nodeIDName)),
			Err: fmt.Errorf("the file holds node id %q, but this copy is for node %q", id, want),
		}
	}
	if s.nodeID == "" && strings.TrimSpace(string(id)) != string(id) {
		s.opts.Notify(copier.Warning{Message: fmt.Sprintf(
			"%s holds the node id %q; Vault takes its spaces and line ends for a part of the id, and so does this copy: do not change the file",
			s.dest(nodeIDName), id)})
	}
	s.nodeID = string(id)
	return nil
}

// refuseVaultDB returns an error when there is a vault.db, and says whose.
func (s *Sink) refuseVaultDB() error {
	path := s.dest(vaultDBName)
	there, err := exists(path)
	if err != nil {
		return s.fail("look at "+path, err)
	}
	if !there {
		return nil
	}
	if inUse(path) {
		return &copier.Error{
			Kind: copier.ErrLocked,
			Op:   "check " + s.opts.Path,
			Hint: "copy to an empty directory, on a node where no Vault was started yet; if this is the node: stop Vault first (systemctl stop vault)",
			Err:  errors.New("vault.db is in use: a running Vault has it open"),
		}
	}
	return s.holdsData(vaultDBName, s.completedBy())
}

// holdsData is the error for a directory that has Vault's files in it.
func (s *Sink) holdsData(name, runID string) error {
	what := fmt.Errorf("the directory already holds Vault's data (%s)", name)
	if runID != "" {
		what = fmt.Errorf("the directory holds the complete copy that run %s made", runID)
	}
	// Aside, but in the same directory: it may be a mount point.
	old := shellQuote(s.dest("old"))
	move := "mv"
	for _, name := range []string{vaultDBName, raftName, nodeIDName} {
		if there, err := exists(s.dest(name)); err == nil && there {
			move += " " + shellQuote(s.dest(name))
		}
	}
	return &copier.Error{
		Kind: copier.ErrDestination,
		Op:   "check " + s.opts.Path,
		Hint: fmt.Sprintf("nothing was changed; if these files are not needed, put them aside and copy again: mkdir %s && %s %s",
			old, move, old),
		Err: what,
	}
}

// inUse tells whether a process has the bbolt file open for writing: bbolt
// holds a lock (flock) on it as long.
func inUse(path string) bool {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return false
	}
	defer f.Close()
	return errors.Is(unix.Flock(int(f.Fd()), unix.LOCK_SH|unix.LOCK_NB), unix.EWOULDBLOCK)
}

// stagingLeft tells whether an earlier run left its staging directory.
func (s *Sink) stagingLeft() (bool, error) {
	path := s.stage("")
	fi, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, s.fail("look at "+path, err)
	}
	if !fi.IsDir() {
		return false, &copier.Error{Kind: copier.ErrDestination, Op: "make " + path,
			Hint: "the name is taken by something that dyn2raft did not make; move it away",
			Err:  syscall.ENOTDIR}
	}
	return true, nil
}

// makeStaging makes an empty staging directory, in place of one that is left.
// The lock makes sure that nobody is using the old one.
func (s *Sink) makeStaging(left bool) error {
	path := s.stage("")
	if left {
		if err := s.removeStaging(); err != nil {
			return s.fail("remove what an earlier run left in "+path, err)
		}
	}
	s.staged = true
	for _, dir := range []string{path, s.WorkDir()} {
		if err := s.disk.mkdir(dir); err != nil {
			return s.fail("write to "+s.opts.Path, err)
		}
	}
	if err := s.disk.sync(s.opts.Path); err != nil {
		return s.fail("sync "+s.opts.Path, err)
	}
	return nil
}

// removeStaging removes the staging directory. The record goes first and for
// good: a record without the rest would be taken for a finished commit.
func (s *Sink) removeStaging() error {
	err := s.disk.remove(s.stage(recordName))
	switch {
	case err == nil:
		err = s.disk.sync(s.stage(""))
	case errors.Is(err, fs.ErrNotExist):
		err = nil
	}
	if err == nil {
		err = s.disk.removeAll(s.stage(""))
	}
	if err == nil {
		err = s.disk.sync(s.opts.Path)
	}
	if err == nil {
		s.staged = false
	}
	return err
}

// fail makes the error for a failed operation on the destination, with the
// hint that belongs to its cause.
func (s *Sink) fail(op string, err error) error {
	if _, ok := errors.AsType[*copier.Error](err); ok {
		return err
	}
	e := &copier.Error{Kind: copier.ErrDestination, Op: op, Err: err}
	path := shellQuote(s.opts.Path)
	account := s.opts.Owner
	if account == "" {
		account = "vault:vault"
	}
	switch {
	case errors.Is(err, unix.ENOSPC), errors.Is(err, unix.EDQUOT):
		e.Hint = fmt.Sprintf("the file system is full; free some space, or make it bigger, and run the copy again. %s Plan for 3 times the data: nodes that join need more than the first one",
			s.space())
	case errors.Is(err, unix.EROFS):
		e.Hint = "the file system is mounted read-only; mount it writable: mount -o remount,rw <mount point of " + path + ">"
	case errors.Is(err, unix.ENOENT) && s.lock == nil:
		e.Hint = fmt.Sprintf("make the directory: mkdir -p %s && chown %s %s", path, shellQuote(account), path)
	case errors.Is(err, unix.ENOTDIR) && s.lock == nil:
		e.Hint = "the path of the raft destination must be a directory"
	case errors.Is(err, unix.EACCES), errors.Is(err, unix.EPERM):
		e.Hint = fmt.Sprintf("run as the user that Vault runs as (sudo -u %s dyn2raft ...), or give the directory to it: chown %s %s",
			dirOwner(s.opts.Path), shellQuote(account), path)
	case errors.Is(err, unix.EEXIST):
		e.Hint = "something, perhaps a Vault, was started on " + path + " during the copy; stop it, empty the directory, and run the copy again"
	}
	return e
}

// space tells how much this run has written to the directory's file system,
// and how much is free there.
func (s *Sink) space() string {
	msg := "Written so far: " + humanize.IBytes(treeBytes(s.stage(""))) + "."
	var st unix.Statfs_t
	if err := unix.Statfs(s.opts.Path, &st); err == nil {
		msg += " Free: " + humanize.IBytes(st.Bavail*uint64(st.Bsize)) + "."
	}
	return msg
}

// treeBytes is what the files under root that can be seen take up on the disk.
func treeBytes(root string) (n uint64) {
	entries, err := os.ReadDir(root)
	if err != nil {
		return 0
	}
	for _, e := range entries {
		if e.IsDir() {
			n += treeBytes(filepath.Join(root, e.Name()))
		} else if fi, err := e.Info(); err == nil {
			if st, ok := fi.Sys().(*syscall.Stat_t); ok {
				n += uint64(st.Blocks) * 512 // whatever the file system's block size is
			}
		}
	}
	return n
}

func exists(path string) (bool, error) {
	_, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return err == nil, err
}

// shellQuote quotes a word for the commands in hints, where it needs it.
func shellQuote(word string) string {
	plain := func(r rune) bool {
		return r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' ||
			strings.ContainsRune("/._-+:@,=", r)
	}
	if word != "" && strings.TrimFunc(word, plain) == "" {
		return word
	}
	return "'" + strings.ReplaceAll(word, "'", `'\''`) + "'"
}
