//go:build linux

package crash

import "golang.org/x/sys/unix"

func init() {
	traced[unix.SYS_RENAME] = call{"rename", pathAt(1)}
	traced[unix.SYS_UNLINK] = call{"unlink", pathAt(0)}
	traced[unix.SYS_RMDIR] = call{"rmdir", pathAt(0)}
}
