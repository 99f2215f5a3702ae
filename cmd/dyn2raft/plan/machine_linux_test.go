package plan

import (
	"testing"

	"golang.org/x/sys/unix"
)

// Vault's data belong on a local disk.
func TestUnfitFileSystem(t *testing.T) {
	t.Parallel()
	for kind, c := range map[string]struct {
		magic  uint32
		status Status
	}{
		"ext4": {unix.EXT4_SUPER_MAGIC, Pass}, "xfs": {unix.XFS_SUPER_MAGIC, Pass},
		"nfs": {unix.NFS_SUPER_MAGIC, Warning}, "tmpfs": {unix.TMPFS_MAGIC, Warning}, "overlay": {unix.OVERLAYFS_SUPER_MAGIC, Warning},
		"fuse": {unix.FUSE_SUPER_MAGIC, Warning}, "cifs": {unix.SMB2_SUPER_MAGIC, Warning},
	} {
		p := localPlanner(t)
		p.statfs = func(_ string, st *unix.Statfs_t) error {
			st.Type = int64(c.magic)
			return nil
		}
		p.space(p.Config.Destination.Path)
		expect(t, p, "file-system", c.status, kind)
	}
	p := localPlanner(t)
	p.statfs = func(string, *unix.Statfs_t) error { return unix.EIO }
	p.space(p.Config.Destination.Path)
	expect(t, p, "file-system", Warning, "could not be looked at")
}
