package vaultconfig

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
)

func TestOwnMode(t *testing.T) {
	dir := t.TempDir()
	sub, file := filepath.Join(dir, "sub dir"), filepath.Join(dir, "sub dir", "file")
	if err := os.Mkdir(sub, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if got := OwnMode(file); got != "" {
		t.Errorf("of what is as it has to be: %s", got)
	}
	if err := os.Chmod(file, 0o200); err != nil {
		t.Fatal(err)
	}
	if got, want := OwnMode(file), fmt.Sprintf("%s is yours, with mode 0200: chmod u+rwX '%s'", file, file); got != want {
		t.Errorf("%s, expected %s", got, want)
	}
	if err := os.Chmod(sub, 0o500); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.Chmod(sub, 0o700) })
	if got, want := OwnMode(filepath.Join(sub, "new", "below")), fmt.Sprintf("%s is yours, with mode 0500: chmod u+rwX '%s'", sub, sub); got != want {
		t.Errorf("%s, expected %s", got, want)
	}
	if os.Geteuid() != 0 {
		if got := OwnMode("/etc/passwd"); got != "" {
			t.Errorf("of another's: %s", got)
		}
	}
}
