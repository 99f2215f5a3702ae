package vaultconfig

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"al.essio.dev/pkg/shellescape"
)

// OwnMode is what to do where this user's access to path fails because of the mode
// of a file or directory of its own, path or the nearest above it that can be
// looked at; "" where that is not why.
func OwnMode(path string) string {
	path, err := filepath.Abs(path)
	if err != nil {
		return ""
	}
	info, err := os.Lstat(path)
	for err != nil && path != "/" {
		path = filepath.Dir(path)
		info, err = os.Lstat(path)
	}
	if err != nil {
		return ""
	}
	owner, ok := info.Sys().(*syscall.Stat_t)
	need := fs.FileMode(0o600)
	if info.IsDir() {
		need = 0o700
	}
	if !ok || int(owner.Uid) != os.Geteuid() || info.Mode().Perm()&need == need {
		return ""
	}
	return fmt.Sprintf("%s is yours, with mode %04o: chmod u+rwX %s", path, info.Mode().Perm(), shellescape.Quote(path))
}
