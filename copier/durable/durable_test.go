package durable

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// names lists what is in a directory.
func names(t testing.TB, dir string) []string {
	t.Helper()
	list, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, f := range list {
		out = append(out, f.Name())
	}
	return out
}

// rootOf opens a directory for Remove.
func rootOf(t *testing.T, dir string) *os.Root {
	t.Helper()
	root, err := os.OpenRoot(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = root.Close() })
	return root
}

// A link that leads out of the root is removed itself, and nothing through it.
func TestRemoveThroughLink(t *testing.T) {
	dir, elsewhere := t.TempDir(), t.TempDir()
	if err := errors.Join(os.MkdirAll(filepath.Join(elsewhere, "d"), 0o700), os.WriteFile(filepath.Join(elsewhere, "d", "f"), nil, 0o600),
		os.Symlink(elsewhere, filepath.Join(dir, "link"))); err != nil {
		t.Fatal(err)
	}
	var disk *Disk
	root := rootOf(t, dir)
	for _, name := range []string{"link/d/f", "link/d"} {
		if err := disk.Remove(root, name); err == nil {
			t.Errorf("%s was removed", name)
		}
	}
	if err := disk.Remove(root, "link"); err != nil {
		t.Error(err)
	}
	if got := names(t, dir); len(got) > 0 {
		t.Errorf("there is %v", got)
	}
	if _, err := os.Stat(filepath.Join(elsewhere, "d", "f")); err != nil {
		t.Error(err)
	}
}

// Each operation is announced, and an error takes its place.
func TestBefore(t *testing.T) {
	injected := errors.New("injected")
	for _, op := range []string{
		"", "mkdir d", "create f", "write f", "sync f", "create g.tmp", "write g.tmp", "sync g.tmp", "rename g", "sync 001",
		"finalize d", "finalize h", "place e", "remove e", "remove f",
	} {
		dir := filepath.Join(t.TempDir(), "001")
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		p := func(name string) string { return filepath.Join(dir, name) }
		var ops []string
		failed := map[string]bool{}
		root := rootOf(t, dir)
		disk := &Disk{Before: func(o Op) error {
			ops = append(ops, o.String())
			if (o.Verb == Place || o.Verb == Rename) != (o.From != "") {
				t.Errorf("%s is from %q", o, o.From)
			}
			if o.String() == op {
				failed[op] = true
				return injected
			}
			return nil
		}}
		var errs []error
		see := func(err error) { errs = append(errs, err) }
		see(disk.Mkdir(p("d")))
		see(os.WriteFile(p("d/h"), []byte("h"), 0o644)) //nolint:gosec // for Finalize to tighten
		f, err := disk.Create(p("f"))
		see(err)
		if err == nil {
			_, err = f.Write([]byte("f"))
			see(err)
			see(f.Sync())
			see(f.Close())
		}
		see(disk.Replace(p("g"), []byte("1")))
		see(disk.Finalize(p("d")))
		see(disk.Place(p("d"), p("e")))
		if op == "" {
			for name, want := range map[string]fs.FileMode{"e": fs.ModeDir | 0o700, "e/h": 0o600, "f": 0o600, "g": 0o600} {
				if fi, err := os.Stat(p(name)); err != nil || fi.Mode() != want {
					t.Errorf("%s: %v, %v", name, fi, err)
				}
			}
		}
		see(disk.Remove(root, "e"))
		see(disk.Remove(root, "f"))
		if op == "" {
			if err := errors.Join(errs...); err != nil {
				t.Error(err)
			}
			if got := names(t, dir); !slices.Equal(got, []string{"g"}) {
				t.Errorf("directory holds %q", got)
			}
			continue
		}
		if !failed[op] {
			t.Errorf("there was no %q: %q", op, ops)
		}
		if !slices.ContainsFunc(errs, func(err error) bool { return errors.Is(err, injected) }) {
			t.Errorf("%s: errors are %v", op, errs)
		}
	}
}

// A file that is replaced has its old content or its new one.
func TestReplace(t *testing.T) {
	injected := errors.New("injected")
	for fail := 0; ; fail++ {
		dir := t.TempDir()
		path := filepath.Join(dir, "f")
		if err := (*Disk)(nil).Replace(path, []byte("old")); err != nil {
			t.Fatal(err)
		}
		if fail%2 == 0 { // a process was killed while it replaced the file
			if err := os.WriteFile(path+".tmp", []byte("none"), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		n := 0
		disk := &Disk{Before: func(op Op) error {
			n++
			if n == fail+1 {
				return injected
			}
			return nil
		}}
		err := disk.Replace(path, []byte("new"))
		data, rerr := os.ReadFile(path)
		if rerr != nil || string(data) != "new" && string(data) != "old" || err == nil && string(data) != "new" {
			t.Errorf("%v: holds %q, %v", err, data, rerr)
		}
		if n <= fail {
			if err != nil || n < 5 {
				t.Errorf("%d operations: %v", n, err)
			}
			if fail%2 == 0 || fail < 6 {
				continue
			}
			break
		}
		if !errors.Is(err, injected) {
			t.Errorf("error is %v", err)
		}
	}
}

// What can't be written, or get its name, leaves no temporary file.
func TestOutputLeavesNothing(t *testing.T) {
	injected := errors.New("injected")
	for _, verb := range []string{Write, Sync, Rename} {
		dir := t.TempDir()
		disk := &Disk{Before: func(op Op) error {
			if op.Verb == verb {
				return injected
			}
			return nil
		}}
		err := disk.Output(filepath.Join(dir, "f"), -1, -1, func(w io.Writer) error {
			_, err := w.Write([]byte("new"))
			return err
		})
		left, rerr := os.ReadDir(dir)
		if !errors.Is(err, injected) || rerr != nil || len(left) > 0 {
			t.Errorf("%s: %v; left %v, %v", verb, err, left, rerr)
		}
	}
}

// The mode of a link, which is open to everybody, is not taken.
func TestReplaceLikeLink(t *testing.T) {
	path := filepath.Join(t.TempDir(), "f")
	if err := os.Symlink("nowhere", path); err != nil {
		t.Fatal(err)
	}
	like, err := os.Lstat(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := (*Disk)(nil).ReplaceLike(path, []byte("new"), like); !errors.Is(err, ErrNotFile) {
		t.Errorf("like a link: %v", err)
	}
	if target, err := os.Readlink(path); target != "nowhere" {
		t.Errorf("the link: %q, %v", target, err)
	}
}

func TestNoSecondFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "f")
	var disk Disk
	if err := disk.WriteFile(path, []byte("1")); err != nil {
		t.Fatal(err)
	}
	if err := disk.WriteFile(path, []byte("2")); !errors.Is(err, fs.ErrExist) {
		t.Errorf("second file: %v", err)
	}
	if there, err := Exists(path); !there || err != nil {
		t.Error(there, err)
	}
	if there, err := Exists(path + "2"); there || err != nil {
		t.Error(there, err)
	}
	if err := os.Symlink("nowhere", path+"3"); err != nil {
		t.Fatal(err)
	}
	if there, err := Exists(path + "3"); !there || err != nil {
		t.Error(there, err)
	}
	// A link is not followed, or a file of somebody else would get our mode.
	if err := os.Remove(path + "3"); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(path, path+"3"); err != nil {
		t.Fatal(err)
	}
	if err := disk.Finalize(path + "3"); err == nil || !strings.Contains(err.Error(), "f3") {
		t.Errorf("sealed a link: %v", err)
	}
}

func TestRenameNew(t *testing.T) {
	for name, rename := range map[string]func(from, to string) error{"rename": renameNew, "link": renameByLink} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			p := func(n string) string { return filepath.Join(dir, n) }
			for _, f := range []string{"a", "b"} {
				if err := os.WriteFile(p(f), []byte(f), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			for _, d := range []string{"d", "e"} {
				if err := os.Mkdir(p(d), 0o700); err != nil {
					t.Fatal(err)
				}
			}
			for _, c := range [][2]string{{"a", "b"}, {"a", "d"}, {"d", "e"}, {"d", "a"}} {
				if err := rename(p(c[0]), p(c[1])); !errors.Is(err, fs.ErrExist) {
					t.Errorf("%s to %s: %v, want that it exists", c[0], c[1], err)
				}
			}
			if err := rename(p("no"), p("nowhere")); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("missing file: %v", err)
			}
			for _, c := range [][2]string{{"a", "a2"}, {"d", "d2"}} {
				if err := rename(p(c[0]), p(c[1])); err != nil {
					t.Errorf("%s to %s: %v", c[0], c[1], err)
				}
			}
			if got, want := names(t, dir), []string{"a2", "b", "d2", "e"}; !slices.Equal(got, want) {
				t.Errorf("directory holds %q, want %q", got, want)
			}
			if b, err := os.ReadFile(p("b")); err != nil || string(b) != "b" {
				t.Errorf("b holds %q, %v", b, err)
			}
		})
	}
}
