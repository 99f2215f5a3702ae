package raft

import (
	"fmt"
	"os"
	"slices"
	"syscall"

	"github.com/dyn2raft/dyn2raft/copier"
	"github.com/dyn2raft/dyn2raft/sinks/internal/hold"
)

// checkOwner warns when the directory belongs to somebody else than the files
// will: Vault opens its files by their owner. Where a group of this user may write
// to the directory, as Kubernetes has it for volumes, that is who it is for.
func (s *Sink) checkOwner() error {
	fi, err := s.held.Root().Stat(".")
	if err != nil {
		return s.fail("look at "+s.opts.Path, err)
	}
	st, ok := fi.Sys().(*syscall.Stat_t)
	if !ok || int(st.Uid) == os.Geteuid() {
		return nil
	}
	groups, _ := os.Getgroups() // or none, and a warning more
	if fi.Mode().Perm()&0o020 != 0 && slices.Contains(append(groups, os.Getegid()), int(st.Gid)) {
		return nil
	}
	s.opts.Notify(copier.Warning{Message: fmt.Sprintf(
		"%s belongs to %s, but what is put there will belong to %s, and a Vault that runs as %[2]s can't open it",
		s.opts.Path, hold.UserName(int(st.Uid)), hold.UserName(os.Geteuid()))})
	return nil
}
