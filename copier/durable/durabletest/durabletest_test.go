package durabletest

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/dyn2raft/dyn2raft/copier/durable"
)

// state describes a tree: each path with its content, directories with "/".
func state(t testing.TB, root string) string {
	t.Helper()
	var out []string
	if err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil || path == root {
			return err
		}
		rel, err := filepath.Rel(root, path)
		if err != nil {
			return err
		}
		if d.IsDir() {
			out = append(out, rel+"/")
			return nil
		}
		data, err := os.ReadFile(path)
		out = append(out, rel+"="+string(data))
		return err
	}); err != nil {
		t.Fatal(err)
	}
	return strings.Join(out, " ")
}

// losses runs f on a new tree, which setup made, takes the power away at every
// operation and after the last, often each, and returns the states found.
func losses(t *testing.T, setup, f func(d *durable.Disk, dir string) error) map[string]int {
	t.Helper()
	found := map[string]int{}
	for at := 0; ; at++ {
		var ended bool
		for seed := range uint64(20) {
			dir := t.TempDir()
			if err := setup(nil, dir); err != nil {
				t.Fatal(err)
			}
			r, err := New(dir)
			if err != nil {
				t.Fatal(err)
			}
			r.FailAt(at)
			err = f(r.Disk(), dir)
			ended = !r.Failed()
			if ended && err != nil || !ended && !errors.Is(err, ErrPower) {
				t.Fatalf("operation %d: %v", at, err)
			}
			if err := r.Lose(rand.New(rand.NewPCG(seed, uint64(at)))); err != nil {
				t.Fatal(err)
			}
			found[state(t, dir)]++
		}
		if ended {
			return found
		}
	}
}

func keys(m map[string]int) []string { return slices.Sorted(maps.Keys(m)) }

func nothing(*durable.Disk, string) error { return nil }

func put(name, content string) func(*durable.Disk, string) error {
	return func(_ *durable.Disk, dir string) error {
		return os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600)
	}
}

// What POSIX allows is found, and nothing else.
func TestStates(t *testing.T) {
	in := func(dir, name string) string { return filepath.Join(dir, name) }
	for name, c := range map[string]struct {
		setup, run func(d *durable.Disk, dir string) error
		want       []string
	}{
		"a name without its directory's sync": {nothing, func(d *durable.Disk, dir string) error {
			return d.WriteFile(in(dir, "f"), nil)
		}, []string{"", "f="}},
		"a sync of the file is none of its name": {nothing, func(d *durable.Disk, dir string) error {
			f, err := d.Create(in(dir, "f"))
			return errors.Join(err, f.Sync(), f.Close())
		}, []string{"", "f="}},
		"a removed file comes back whole": {put("f", "abc"), func(d *durable.Disk, dir string) error {
			return remove(d, in(dir, "f"))
		}, []string{"", "f=abc"}},
		"a rename": {put("f", "abc"), func(d *durable.Disk, dir string) error {
			return d.Rename(in(dir, "f"), in(dir, "g"))
		}, []string{"f=abc", "f=abc g=abc", "g=abc"}},
		"a rename that replaces": {func(d *durable.Disk, dir string) error {
			return errors.Join(put("f", "new")(d, dir), put("g", "old")(d, dir))
		}, func(d *durable.Disk, dir string) error {
			return d.Rename(in(dir, "f"), in(dir, "g"))
		}, []string{"f=new g=new", "f=new g=old", "g=new"}},
		"a directory has one name": {func(d *durable.Disk, dir string) error {
			return errors.Join(os.Mkdir(in(dir, "d"), 0o700), put("d/f", "abc")(d, dir))
		}, func(d *durable.Disk, dir string) error {
			return d.Place(in(dir, "d"), in(dir, "e"))
		}, []string{"d/ d/f=abc", "e/ e/f=abc"}},
		"two changes in any order": {func(d *durable.Disk, dir string) error {
			return errors.Join(put("f", "")(d, dir), put("g", "")(d, dir))
		}, func(d *durable.Disk, dir string) error {
			return errors.Join(remove(d, in(dir, "f")), remove(d, in(dir, "g")))
		}, []string{"", "f=", "f= g=", "g="}},
		"no file without its directory": {nothing, func(d *durable.Disk, dir string) error {
			if err := d.Mkdir(in(dir, "d")); err != nil {
				return err
			}
			return errors.Join(d.WriteFile(in(dir, "d/f"), nil), d.Sync(in(dir, "d")))
		}, []string{"", "d/", "d/ d/f="}},
		"no directory goes before its files": {func(d *durable.Disk, dir string) error {
			return errors.Join(os.Mkdir(in(dir, "d"), 0o700), put("d/f", "1")(d, dir), put("d/g", "2")(d, dir))
		}, func(d *durable.Disk, dir string) error {
			return remove(d, in(dir, "d"))
		}, []string{"", "d/", "d/ d/f=1", "d/ d/f=1 d/g=2", "d/ d/g=2"}},
		"a directory stays while a file moved out of it may": {func(d *durable.Disk, dir string) error {
			return errors.Join(os.Mkdir(in(dir, "d"), 0o700), put("d/f", "1")(d, dir))
		}, func(d *durable.Disk, dir string) error {
			return errors.Join(d.Place(in(dir, "d/f"), in(dir, "f")), remove(d, in(dir, "d")))
		}, []string{"d/ d/f=1", "d/ d/f=1 f=1", "d/ f=1", "f=1"}},
		"what was synced is there": {nothing, func(d *durable.Disk, dir string) error {
			return errors.Join(put("f", "1")(d, dir), d.Finalize(in(dir, "f")), d.Sync(dir), remove(d, in(dir, "none")))
		}, []string{"", "f=", "f=\x00", "f=1"}}, // the others at the operations before, see TestSyncedStays
		"a file made, removed and made": {nothing, func(d *durable.Disk, dir string) error {
			return errors.Join(d.WriteFile(in(dir, "f"), nil), remove(d, in(dir, "f")), d.Mkdir(in(dir, "f")))
		}, []string{"", "f/", "f="}},
		"made and removed behind the disk's back": {put("f", "1"), func(d *durable.Disk, dir string) error {
			return errors.Join(os.Remove(in(dir, "f")), os.Mkdir(in(dir, "d"), 0o700), remove(d, in(dir, "none")))
		}, []string{"", "d/", "d/ f=1", "f=1"}},
	} {
		t.Run(name, func(t *testing.T) {
			found := losses(t, c.setup, func(d *durable.Disk, dir string) (err error) {
				defer func() {
					if p := recover(); p != nil {
						err = ErrPower // of a file that is nil
					}
				}()
				return c.run(d, dir)
			})
			for s := range found { // garbage in place of the one byte
				if strings.HasPrefix(s, "f=") && len(s) == 3 && s != "f=1" && s != "f=\x00" {
					delete(found, s)
				}
			}
			if got := keys(found); !slices.Equal(got, c.want) {
				t.Errorf("found %q, want %q", got, c.want)
			}
		})
	}
}

// Content that was not synced is there, not there, in parts, zero or garbage,
// and what was synced before it stays.
func TestContent(t *testing.T) {
	before, after := strings.Repeat("a", 4000), strings.Repeat("b", 4000)
	var whole, none, short, zeros, garbage int
	for seed := range uint64(500) {
		dir := t.TempDir()
		r, err := New(dir)
		if err != nil {
			t.Fatal(err)
		}
		f, err := r.Disk().Create(filepath.Join(dir, "f"))
		if err != nil {
			t.Fatal(err)
		}
		_, werr := f.Write([]byte(before))
		if err := errors.Join(werr, f.Sync(), r.Disk().Sync(dir)); err != nil {
			t.Fatal(err)
		}
		_, werr = f.Write([]byte(after))
		if err := errors.Join(werr, f.Close(), r.Lose(rand.New(rand.NewPCG(seed, 0)))); err != nil {
			t.Fatal(err)
		}
		data, err := os.ReadFile(filepath.Join(dir, "f"))
		if err != nil {
			t.Fatal(err)
		}
		rest, ok := bytes.CutPrefix(data, []byte(before))
		if !ok {
			t.Fatalf("seed %d: what was synced is lost", seed)
		}
		switch {
		case string(rest) == after:
			whole++
		case len(rest) == 0:
			none++
		case len(rest) < len(after):
			short++
		}
		if bytes.Contains(rest, make([]byte, 16)) {
			zeros++
		}
		if bytes.Trim(rest, "b\x00") != nil {
			garbage++
		}
	}
	for what, n := range map[string]int{"whole": whole, "none": none, "short": short, "zeros": zeros, "garbage": garbage} {
		if n < 10 {
			t.Errorf("%s: %d of 500", what, n)
		}
	}
}

// A protocol that leaves out one of its syncs is found out, and the whole one
// is not.
func TestReplaceNeedsItsSyncs(t *testing.T) {
	try := func(t *testing.T, ignore string) (lost int) {
		t.Helper()
		for at := range 12 {
			for seed := range uint64(12) {
				dir := t.TempDir()
				path := filepath.Join(dir, "f")
				r, err := New(dir)
				if err != nil {
					t.Fatal(err)
				}
				r.Ignore = func(op durable.Op) bool { return op.Verb == durable.Sync && filepath.Base(op.Path) == ignore }
				if ignore == "dir" {
					r.Ignore = func(op durable.Op) bool { return op.Path == dir }
				}
				r.FailAt(at)
				acknowledged := ""
				for i := range 2 {
					if r.Disk().Replace(path, fmt.Appendf(nil, "content %d", i)) != nil {
						break
					}
					acknowledged = fmt.Sprintf("content %d", i)
				}
				if err := r.Lose(rand.New(rand.NewPCG(seed, uint64(at)))); err != nil {
					t.Fatal(err)
				}
				got, err := os.ReadFile(path)
				if err != nil && !errors.Is(err, fs.ErrNotExist) {
					t.Fatal(err)
				}
				if s := string(got); err == nil && s != "content 0" && s != "content 1" || s < acknowledged {
					lost++
				}
			}
		}
		return lost
	}
	if n := try(t, ""); n > 0 {
		t.Errorf("Replace lost its file %d times", n)
	}
	if n := try(t, "f.tmp"); n == 0 {
		t.Error("without the file's sync nothing is ever lost")
	}
	if n := try(t, "dir"); n == 0 {
		t.Error("without the directory's sync nothing is ever lost")
	}
}

// Whatever is done, what was synced and left alone since is there after each
// loss of power, and after several.
func TestSyncedStays(t *testing.T) {
	for seed := range uint64(20) {
		rnd := rand.New(rand.NewPCG(seed, 3))
		dir := t.TempDir()
		r, err := New(dir)
		if err != nil {
			t.Fatal(err)
		}
		disk := r.Disk()
		safe := map[string]string{} // path to content, all synced
		for round := range 3 {
			r.FailAt(10 + rnd.IntN(60))
			sub := filepath.Join(dir, fmt.Sprintf("d%d", round))
			try := func(errs ...error) bool {
				err := errors.Join(errs...)
				if err != nil && !errors.Is(err, ErrPower) {
					t.Fatal(err)
				}
				return err == nil
			}
			if try(disk.Mkdir(sub)) {
				try(disk.Sync(dir))
			}
			for i := 0; !r.Failed() && i < 50; i++ {
				path := filepath.Join(sub, fmt.Sprintf("f%02d", i))
				content := fmt.Sprintf("%d.%d.%d", seed, round, i)
				switch rnd.IntN(4) {
				case 0:
					if try(disk.Replace(path, []byte(content))) {
						safe[path] = content
					}
				case 1:
					try(disk.WriteFile(path, []byte(content)))
				case 2:
					other := filepath.Join(dir, filepath.Base(path)+content)
					if try(disk.WriteFile(path, []byte(content))) && try(disk.Finalize(path)) &&
						try(disk.Place(path, other)) && try(disk.Sync(dir)) {
						safe[other] = content
					}
				default:
					for path := range safe { // any of them
						delete(safe, path)
						try(remove(disk, path))
						break
					}
				}
			}
			if err := r.Lose(rnd); err != nil {
				t.Fatal(err)
			}
			for path, content := range safe {
				if data, err := os.ReadFile(path); err != nil || string(data) != content {
					t.Fatalf("seed %d, round %d: %s holds %q, want %q, %v", seed, round, path, data, content, err)
				}
			}
			again := state(t, dir)
			if err := r.Lose(rnd); err != nil { // nothing was done in between
				t.Fatal(err)
			}
			if s := state(t, dir); s != again {
				t.Fatalf("seed %d: held %q, and %q after nothing was done", seed, again, s)
			}
		}
		if len(safe) == 0 && seed == 0 {
			t.Error("nothing was safe")
		}
	}
}

// All fails once the power has failed, until it is back.
func TestPower(t *testing.T) {
	dir := t.TempDir()
	r, err := New(dir)
	if err != nil {
		t.Fatal(err)
	}
	disk := r.Disk()
	r.FailAt(1)
	if err := disk.WriteFile(filepath.Join(dir, "f"), []byte("x")); !errors.Is(err, ErrPower) || !r.Failed() {
		t.Errorf("write: %v", err)
	}
	if err := disk.Sync(dir); !errors.Is(err, ErrPower) {
		t.Errorf("sync: %v", err)
	}
	if got, want := r.Ops(), []string{"create f", "write f"}; !slices.Equal(got, want) {
		t.Errorf("operations %q, want %q", got, want)
	}
	if err := r.Lose(rand.New(rand.NewPCG(1, 1))); err != nil {
		t.Fatal(err)
	}
	if r.Failed() {
		t.Error("the power is not back")
	}
	// Elsewhere it is none of the recorder's business.
	other := t.TempDir()
	if err := errors.Join(disk.WriteFile(filepath.Join(other, "f"), nil), disk.Sync(other)); err != nil {
		t.Error(err)
	}
	if _, err := disk.Create(filepath.Join(dir, "none", "f")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("file in no directory: %v", err)
	}
}

// remove removes a file or a directory below the one that it is in.
func remove(d *durable.Disk, path string) error {
	root, err := os.OpenRoot(filepath.Dir(path))
	if err != nil {
		return err
	}
	return errors.Join(d.Remove(root, filepath.Base(path)), root.Close())
}
