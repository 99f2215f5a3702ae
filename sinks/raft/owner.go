package raft

import (
	"errors"
	"fmt"
	"os"
	"os/user"
	"strconv"
	"strings"
	"syscall"

	"al.essio.dev/pkg/shellescape"
	"github.com/dyn2raft/dyn2raft/copier"
)

// An owner is a user and a group by number; a gid of -1 leaves the group as
// it is, as chown does.
type owner struct {
	set      bool
	uid, gid int
}

// Owner is whose the written files will be, by number; a uid of -1 stands for
// whoever runs the program, a gid of -1 for that user's group.
func (s *Sink) Owner() (uid, gid int) { return s.owner.uid, s.owner.gid }

// splitOwner takes "user[:group]" apart.
func splitOwner(s string) (u, g string, err error) {
	if s == "" {
		return "", "", nil
	}
	u, g, colon := strings.Cut(s, ":")
	if u == "" || colon && g == "" || strings.Contains(g, ":") {
		return "", "", fmt.Errorf("owner %q is not user or user:group", s)
	}
	return u, g, nil
}

// lookupOwner finds the numbers of "user[:group]". A name is looked up first,
// and a number taken as it is where there is no such name.
func lookupOwner(s string) (owner, error) {
	name, group, err := splitOwner(s)
	if err != nil || name == "" {
		return owner{uid: -1, gid: -1}, err
	}
	o := owner{set: true, gid: -1}
	usr, err := user.Lookup(name)
	if err != nil {
		n, numErr := strconv.ParseUint(name, 10, 31)
		if numErr != nil {
			return owner{}, err
		}
		o.uid = int(n)
		usr, err = user.LookupId(name)
	} else if o.uid, err = strconv.Atoi(usr.Uid); err != nil {
		return owner{}, err
	}
	if group == "" {
		// A number without an account has no group of its own.
		if err == nil {
			o.gid, err = strconv.Atoi(usr.Gid)
			return o, err
		}
		return o, nil
	}
	grp, err := user.LookupGroup(group)
	if err != nil {
		n, numErr := strconv.ParseUint(group, 10, 31)
		if numErr != nil {
			return owner{}, err
		}
		o.gid = int(n)
		return o, nil
	}
	o.gid, err = strconv.Atoi(grp.Gid)
	return o, err
}

// checkOwner finds out now, and not after an hour's copy, whether the owner can
// be set, and warns when the directory belongs to somebody else than the files
// will: Vault opens its files by their owner.
func (s *Sink) checkOwner() error {
	if s.owner.set {
		if err := s.tryOwner(); err != nil {
			if errors.Is(err, os.ErrPermission) {
				return &copier.Error{Kind: copier.ErrDestination, Op: "give files to " + s.opts.Owner,
					Hint: "only root may do that: run with sudo, or as that user and without an owner", Err: err}
			}
			return s.fail("give files to "+s.opts.Owner, err)
		}
	}
	fi, err := s.lock.Stat()
	if err != nil {
		return s.fail("look at "+s.opts.Path, err)
	}
	st, ok := fi.Sys().(*syscall.Stat_t)
	if !ok {
		return nil
	}
	have := int(st.Uid)
	switch {
	case s.owner.set && have != s.owner.uid:
		s.opts.Notify(copier.Warning{Message: fmt.Sprintf(
			"%s belongs to %s, but what is put there will belong to %s; if Vault runs as that user: chown %s %s",
			s.opts.Path, userName(have), s.opts.Owner, shellescape.Quote(s.opts.Owner), shellescape.Quote(s.opts.Path))})
	case !s.owner.set && have != os.Geteuid():
		s.opts.Notify(copier.Warning{Message: fmt.Sprintf(
			"%s belongs to %s, but what is put there will belong to %s, and a Vault that runs as %[2]s can't open it: use sudo -u %[2]s, or -owner %[2]s",
			s.opts.Path, userName(have), userName(os.Geteuid()))})
	}
	return nil
}

// tryOwner gives a file of the staging directory to the owner.
func (s *Sink) tryOwner() error {
	f, err := os.CreateTemp(s.WorkDir(), "owner-*")
	if err != nil {
		return err
	}
	return errors.Join(f.Chown(s.owner.uid, s.owner.gid), f.Close(), os.Remove(f.Name()))
}

// userName is a user's name, or number where there is no name.
func userName(uid int) string {
	id := strconv.Itoa(uid)
	if u, err := user.LookupId(id); err == nil {
		return u.Username
	}
	return id
}

// dirOwner names the owner of a directory for a hint.
func dirOwner(path string) string {
	if fi, err := os.Stat(path); err == nil {
		if st, ok := fi.Sys().(*syscall.Stat_t); ok {
			return userName(int(st.Uid))
		}
	}
	return "vault"
}
