package node

import (
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

const noLocks = "Vault needs locks and mapped files that work"

// fileSystems are the kinds of file systems by their numbers from statfs(2), and why a
// Vault should not run on one, if it should not.
var fileSystems = map[uint32][2]string{
	unix.EXT4_SUPER_MAGIC:      {"ext4"},
	unix.XFS_SUPER_MAGIC:       {"xfs"},
	unix.BTRFS_SUPER_MAGIC:     {"btrfs"},
	0x2fc12fc1:                 {"zfs"},
	unix.TMPFS_MAGIC:           {"tmpfs", "it is in memory, and gone after a restart"},
	unix.OVERLAYFS_SUPER_MAGIC: {"overlay", "it is a container's own, and gone with it"},
	unix.NFS_SUPER_MAGIC:       {"nfs", noLocks},
	unix.SMB_SUPER_MAGIC:       {"cifs", noLocks},
	unix.CIFS_SUPER_MAGIC:      {"cifs", noLocks},
	unix.SMB2_SUPER_MAGIC:      {"cifs", noLocks},
	unix.FUSE_SUPER_MAGIC:      {"fuse", noLocks},
}

// fileSystem names the kind of a file system, and says why a Vault should not
// run on it, if it should not.
func fileSystem(st *unix.Statfs_t) (kind, unfit string) {
	if k, known := fileSystems[uint32(st.Type)]; known {
		return k[0], k[1]
	}
	return "of type 0x" + strconv.FormatUint(uint64(uint32(st.Type)), 16), ""
}

// Memory returns what this machine, or the container, has and what of it is
// available, in bytes.
func Memory() (total, available int64, err error) {
	var info unix.Sysinfo_t
	if err := unix.Sysinfo(&info); err != nil {
		return 0, 0, err
	}
	total = int64(info.Totalram) * int64(info.Unit)
	available = int64(info.Freeram+info.Bufferram) * int64(info.Unit)
	if text, err := os.ReadFile("/proc/meminfo"); err == nil { // it counts the page cache too
		for line := range strings.Lines(string(text)) {
			if f := strings.Fields(line); len(f) == 3 && f[0] == "MemAvailable:" {
				if kib, err := strconv.ParseInt(f[1], 10, 64); err == nil {
					available = kib << 10
				}
			}
		}
	}
	if text, err := os.ReadFile("/sys/fs/cgroup/memory.max"); err == nil {
		if most, err := strconv.ParseInt(strings.TrimSpace(string(text)), 10, 64); err == nil && most > 0 {
			total, available = min(total, most), min(available, most)
		}
	}
	return total, available, nil
}

// syncData returns when what was written to a file is on its disk.
func syncData(f *os.File) error { return unix.Fdatasync(int(f.Fd())) }
