package node

import (
	"testing"

	"golang.org/x/sys/unix"

	"github.com/dyn2raft/dyn2raft/copier"
)

// Vault's data belong on a local disk.
func TestUnfitFileSystem(t *testing.T) {
	t.Parallel()
	for kind, c := range map[string]struct {
		magic  uint32
		status copier.Outcome
	}{
		"ext4": {unix.EXT4_SUPER_MAGIC, copier.Passed}, "xfs": {unix.XFS_SUPER_MAGIC, copier.Passed},
		"nfs": {unix.NFS_SUPER_MAGIC, copier.Warned}, "tmpfs": {unix.TMPFS_MAGIC, copier.Warned}, "overlay": {unix.OVERLAYFS_SUPER_MAGIC, copier.Warned},
		"fuse": {unix.FUSE_SUPER_MAGIC, copier.Warned}, "cifs": {unix.SMB2_SUPER_MAGIC, copier.Warned},
	} {
		p := localProbe(t)
		p.statfs = func(_ string, st *unix.Statfs_t) error {
			st.Type = int64(c.magic)
			return nil
		}
		p.space()
		expect(t, p, "file-system", c.status, kind)
	}
	p := localProbe(t)
	p.statfs = func(string, *unix.Statfs_t) error { return unix.EIO }
	p.space()
	expect(t, p, "file-system", copier.Warned, "could not be looked at")
}
