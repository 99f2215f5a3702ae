package command

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"al.essio.dev/pkg/shellescape"
	"github.com/urfave/cli/v3"
	"golang.org/x/sys/unix"

	"github.com/dyn2raft/dyn2raft/cmd/dyn2raft/hints"
	"github.com/dyn2raft/dyn2raft/copier"
	sink "github.com/dyn2raft/dyn2raft/sinks/raft"
)

// A data directory is its owner's, who may swap any name in it for a link while
// root writes there. So root does not: a command that root runs for another owner
// becomes that user, for good, before it opens any file of the destination. What
// only root can read is left to a rootSide, a process of its own.

// An account is a user with his groups, by number.
type account struct {
	spec     string // what it was made of
	uid, gid int
	groups   []int
}

// startedAs is the user that the process was started as. Main sets it.
var startedAs int

// lookupAccount finds the account "user[:group]". A name is looked up first, and
// a number taken as it is where there is no such name.
func lookupAccount(spec string) (account, error) {
	name, group, colon := strings.Cut(spec, ":")
	if name == "" || colon && group == "" || strings.Contains(group, ":") {
		return account{}, fmt.Errorf("owner %q is not user or user:group", spec)
	}
	number := func(s string, err error) (int, error) {
		n, numErr := strconv.ParseUint(s, 10, 31)
		if numErr != nil {
			return 0, err
		}
		return int(n), nil
	}
	a := account{spec: spec, gid: -1}
	u, err := user.Lookup(name)
	if err != nil {
		if a.uid, err = number(name, err); err != nil {
			return account{}, err
		}
		u, _ = user.LookupId(name) // a number need not have an account
	} else if a.uid, err = strconv.Atoi(u.Uid); err != nil {
		return account{}, err
	}
	if u != nil {
		if a.gid, err = strconv.Atoi(u.Gid); err != nil {
			return account{}, err
		}
		ids, err := u.GroupIds()
		if err != nil {
			return account{}, err
		}
		for _, id := range ids {
			n, err := strconv.Atoi(id)
			if err != nil {
				return account{}, err
			}
			a.groups = append(a.groups, n)
		}
	}
	if colon {
		if g, err := user.LookupGroup(group); err == nil {
			group = g.Gid
		} else if _, err := number(group, err); err != nil {
			return account{}, err
		}
		a.gid, err = strconv.Atoi(group)
		if err != nil {
			return account{}, err
		}
	}
	if !slices.Contains(a.groups, a.gid) && a.gid != -1 {
		a.groups = append(a.groups, a.gid)
	}
	return a, nil
}

// accountFor returns the account that has to do the work on the data directory at
// path: the one of -owner, or, for root, the one that the directory belongs to.
// It returns nil where that is who runs this already.
func accountFor(owner, path string) (*account, error) {
	fi, err := os.Stat(path)
	if owner == "" && (startedAs != 0 || err != nil) {
		return nil, nil // whoever needs the directory says what is wrong with it
	}
	spec := owner
	var dir *syscall.Stat_t
	if err == nil {
		dir, _ = fi.Sys().(*syscall.Stat_t)
	}
	if spec == "" {
		if dir == nil || dir.Uid == 0 {
			return nil, nil
		}
		spec = strconv.Itoa(int(dir.Uid))
	}
	a, err := lookupAccount(spec)
	if err != nil {
		return nil, hints.With(&copier.Error{Kind: copier.ErrConfig, Op: "look up owner " + spec, Err: err},
			"name a user, and a group, that has an account on this machine, or give their numbers: -owner uid:gid")
	}
	if a.gid == -1 {
		if dir == nil || int(dir.Uid) != a.uid {
			return nil, hints.With(&copier.Error{Kind: copier.ErrConfig, Op: "look up owner " + spec, Err: errors.New("the number has no account, so its group is not known")},
				"give the number of the group too: -owner "+spec+":gid")
		}
		a.gid = int(dir.Gid)
		a.groups = []int{a.gid}
	}
	if a.uid == os.Geteuid() && a.gid == os.Getegid() || a.uid == 0 && startedAs == 0 && owner == "" {
		return nil, nil
	}
	return &a, nil
}

// rootMayWork refuses, for root, to work in a directory that others can change: any name
// in it may become a link to anywhere. sticky is that of rootsAlone. todo is what else to
// do about it. Whoever needs the directory says what else is wrong with it.
func rootMayWork(dir string, sticky bool, todo string) error {
	if os.Geteuid() != 0 {
		return nil
	}
	dir, err := filepath.Abs(dir)
	if err != nil {
		return err
	}
	err = rootsAlone(dir, sticky)
	for at := dir; errors.Is(err, fs.ErrNotExist) && at != filepath.Dir(at); {
		at = filepath.Dir(at) // where it would be made
		err = rootsAlone(at, true)
	}
	if !errors.Is(err, errNotRootsAlone) {
		return nil
	}
	return hints.With(&copier.Error{Kind: copier.ErrDestination, Op: "work as root in " + dir, Err: err}, todo)
}

// ofVault is what to do about a data directory that root does not work in.
func ofVault(path string) string {
	return "run it as the user that Vault runs as, or give the directory to that user, who then does the work: sudo chown vault:vault " + shellescape.Quote(path)
}

// name is the account's user as a person writes it, and sudo takes it.
func (a account) name() string {
	if n := userName(a.uid); n != strconv.Itoa(a.uid) {
		return n
	}
	return "#" + strconv.Itoa(a.uid)
}

// become makes the process one of the account's. There is no way back.
func (a account) become() error {
	if err := closeInherited(); err != nil {
		return fmt.Errorf("close inherited descriptors: %w", err)
	}
	if err := syscall.Setgroups(a.groups); err != nil {
		return fmt.Errorf("set groups: %w", err)
	}
	if err := syscall.Setgid(a.gid); err != nil {
		return fmt.Errorf("set group %d: %w", a.gid, err)
	}
	if err := syscall.Setuid(a.uid); err != nil {
		return fmt.Errorf("set user %d: %w", a.uid, err)
	}
	if os.Getuid() != a.uid || os.Geteuid() != a.uid || os.Getegid() != a.gid || a.uid != 0 && syscall.Setuid(0) == nil {
		return errors.New("the system said that it had changed the user, and has not")
	}
	return nil
}

// closeInherited closes the descriptors behind standard error that the process
// was started with. Those that it has opened itself close when it starts another.
func closeInherited() error {
	names, err := os.ReadDir("/dev/fd")
	if err != nil {
		return err
	}
	for _, e := range names {
		fd, err := strconv.Atoi(e.Name())
		if err != nil || fd <= 2 {
			continue
		}
		if flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0); err == nil && flags&unix.FD_CLOEXEC == 0 {
			_ = unix.Close(fd)
		}
	}
	return nil
}

// mayNotBecome is the error of a command that has to be run by another user.
func mayNotBecome(cmd *cli.Command, a account, err error) error {
	as := []string{"sudo", "-u", shellescape.Quote(a.name())}
	if strings.Contains(a.spec, ":") {
		as = append(as, "-g", shellescape.Quote("#"+strconv.Itoa(a.gid)))
	}
	as = append(as, preserved()...)
	line := append(as, append([]string{"dyn2raft", cmd.Name}, givenFlags(cmd, "owner")...)...)
	return hints.With(&copier.Error{Kind: copier.ErrDestination, Op: "work as " + a.name(), Err: err},
		"what is written has to belong to that user; run it as that user: "+strings.Join(line, " "))
}

// errNotRoot is returned where another user than root shall become somebody else.
var errNotRoot = errors.New("only root may become another user")

// program is how this dyn2raft is run again: with the sudo that it was run with.
func program() []string {
	if os.Getenv("SUDO_USER") == "" {
		return []string{"dyn2raft"}
	}
	out := []string{"sudo"}
	if startedAs != 0 {
		out = append(out, "-u", shellescape.Quote(account{uid: startedAs}.name()))
	}
	return append(append(out, preserved()...), "dyn2raft")
}

// preserved is the flag of sudo that keeps what sudo would drop, and decides where
// a command looks for the table. It names no value.
func preserved() []string {
	var names []string
	for _, v := range os.Environ() {
		name, _, _ := strings.Cut(v, "=")
		if strings.HasPrefix(name, "AWS_") {
			names = append(names, name)
		}
	}
	if names == nil {
		return nil
	}
	slices.Sort(names)
	return []string{"--preserve-env=" + strings.Join(names, ",")}
}

// userName is a user's name, or number where there is no name.
func userName(uid int) string {
	id := strconv.Itoa(uid)
	if u, err := user.LookupId(id); err == nil {
		return u.Username
	}
	return id
}

// whose adds to an error for want of permission whose the file is, and what to do
// about it. path is the data directory.
func whose(cmd *cli.Command, err error, path string) error {
	if !errors.Is(err, fs.ErrPermission) && !errors.Is(err, copier.ErrNotOurs) {
		return err
	}
	if all := split(err); len(all) > 1 {
		for i := range all {
			all[i] = whose(cmd, all[i], path)
		}
		return errors.Join(all...)
	}
	at := path
	if p, ok := errors.AsType[*fs.PathError](err); ok && filepath.IsAbs(p.Path) {
		at = p.Path
	} else if errors.Is(err, copier.ErrNotOurs) {
		at = filepath.Dir(sink.WorkDir(path))
	}
	uid, ok := ownerOf(at)
	closed := !ok
	for !ok && len(at) > 1 { // it may not be looked at, or was to be made
		at = filepath.Dir(at)
		uid, ok = ownerOf(at)
	}
	// Who owns a directory on the way to the data says nothing of whose those are.
	rel, _ := filepath.Rel(at, path)
	closed = closed && rel != "." && filepath.IsLocal(rel) && unix.Access(at, unix.X_OK) != nil
	me := os.Geteuid()
	above, _ := ownerOf(filepath.Dir(at))
	chown := "sudo chown "
	if errors.Is(err, copier.ErrNotOurs) {
		chown += "-R "
	}
	chown += shellescape.Quote(account{uid: me}.name()) + " " + shellescape.Quote(at)
	var todo string
	switch {
	case !ok || uid == me:
		return err
	case closed:
		return hints.With(err, fmt.Sprintf("%s belongs to %s, and %s may not enter it: run as the user that Vault runs as, or let this one in (chmod o+x)", at, userName(uid), userName(me)))
	case above == me && (uid == 0 || !errors.Is(err, copier.ErrNotOurs)): // one of ours that somebody else, root perhaps, has put there
		todo = "give it to the owner of its directory: " + chown
	case uid == 0:
		todo = "give it to the user that Vault runs as, if that is this one: " + chown
	default:
		line := append([]string{"sudo", "-u", shellescape.Quote(account{uid: uid}.name())}, preserved()...)
		line = append(line, "dyn2raft", cmd.Name)
		for _, arg := range cmd.Args().Slice() {
			line = append(line, shellescape.Quote(arg))
		}
		todo = "run it as that user: " + strings.Join(append(line, givenFlags(cmd, "owner")...), " ")
	}
	return hints.With(err, fmt.Sprintf("%s belongs to %s, and this runs as %s; %s", at, userName(uid), userName(me), todo))
}

// ownerOf is the user that a file belongs to.
func ownerOf(path string) (uid int, ok bool) {
	fi, err := os.Lstat(path)
	if err != nil {
		return 0, false
	}
	st, ok := fi.Sys().(*syscall.Stat_t)
	if !ok {
		return 0, false
	}
	return int(st.Uid), true
}
