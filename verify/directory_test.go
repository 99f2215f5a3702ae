package verify

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/fnv"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	bolt "go.etcd.io/bbolt"

	"github.com/dyn2raft/dyn2raft/copier"
	"github.com/dyn2raft/dyn2raft/sources/dynamodb/dynamotest"
	"github.com/dyn2raft/dyn2raft/sources/raft/vaultdb"
)

func TestNoDestination(t *testing.T) {
	e := some(20)
	for name, make := range map[string]func(t *testing.T, dir string){
		"missing":     func(*testing.T, string) {},
		"a directory": func(t *testing.T, file string) { check(t, os.Mkdir(file, 0o700)) },
		"a pipe":      func(t *testing.T, file string) { check(t, syscall.Mkfifo(file, 0o600)) },
		"empty":       func(t *testing.T, file string) { check(t, os.WriteFile(file, nil, 0o600)) },
		"short":       func(t *testing.T, file string) { check(t, os.WriteFile(file, []byte("vault"), 0o600)) },
		"a text": func(t *testing.T, file string) {
			check(t, os.WriteFile(file, bytes.Repeat([]byte("vault "), 9999), 0o600))
		},
		"zeros":          func(t *testing.T, file string) { check(t, os.WriteFile(file, bytes.Repeat([]byte{0}, 1<<16), 0o600)) },
		"dangling link":  func(t *testing.T, file string) { check(t, os.Symlink("nowhere", file)) },
		"no data bucket": func(t *testing.T, file string) { writeFile(t, file, nil); dropData(t, file) },
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			make(t, filepath.Join(dir, "vault.db"))
			src := sourceOf(e)
			src.Unfit = errors.New("the source was asked first")
			var before string
			if name != "a pipe" {
				before = snapshot(t, dir)
			}
			rep, err := CompareDirectory(t.Context(), src, dir, Expected{}, Options{})
			if !errors.Is(err, copier.ErrDestination) || !strings.Contains(err.Error(), "vault.db") || rep.Equal() {
				t.Errorf("got %v", err)
			}
			if code := codeOf(err); (name == "missing" || name == "dangling link") && code != vaultdb.NoFile {
				t.Errorf("code %q", code)
			}
			if name != "a pipe" && snapshot(t, dir) != before {
				t.Error("the directory has changed")
			}
		})
	}
	file := filepath.Join(t.TempDir(), "file")
	check(t, os.WriteFile(file, nil, 0o600))
	for _, dir := range []string{file, filepath.Join(t.TempDir(), "gone")} {
		if _, err := CompareDirectory(t.Context(), sourceOf(nil), dir, Expected{}, Options{}); !errors.Is(err, copier.ErrDestination) {
			t.Errorf("%s: %v", dir, err)
		}
	}
}

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func update(t testing.TB, file string, f func(tx *bolt.Tx) error) {
	t.Helper()
	db, err := bolt.Open(file, 0o600, &bolt.Options{NoSync: true})
	check(t, err)
	check(t, db.Update(f))
	check(t, db.Close())
}

func dropData(t testing.TB, file string) {
	update(t, file, func(tx *bolt.Tx) error { return tx.DeleteBucket([]byte("data")) })
}

func TestBucketInData(t *testing.T) {
	e := some(20)
	e["core/bucket"] = "" // a bucket must not pass for an empty value
	dir := directory(t, some(20))
	update(t, filepath.Join(dir, "vault.db"), func(tx *bolt.Tx) error {
		_, err := tx.Bucket([]byte("data")).CreateBucket([]byte("core/bucket"))
		return err
	})
	if _, err := compare(t, sourceOf(e), dir, Options{}); !errors.Is(err, copier.ErrDestination) || !strings.Contains(err.Error(), "core/bucket") {
		t.Errorf("got %v", err)
	}
}

// large has a tree of three levels, and values that need pages of their own.
func large() entries {
	e := entries{}
	for i := range 400 {
		e[fmt.Sprintf("sys/%04d%s", i, strings.Repeat("k", 300))] = strings.Repeat("v", i%300)
	}
	e["sys/0003/large"] = strings.Repeat("V", 20_000)
	return e
}

func TestTruncated(t *testing.T) {
	e := large()
	dir := directory(t, e)
	file := filepath.Join(dir, "vault.db")
	content, err := os.ReadFile(file)
	check(t, err)
	need := highWater(t, content)
	if rep, err := compare(t, sourceOf(e), dir, Options{}); err != nil || !rep.Equal() {
		t.Fatalf("undamaged: %v", err)
	}
	if need < len(content) { // what comes after the last page in use may go
		check(t, os.Truncate(file, int64(need)))
		if rep, err := compare(t, sourceOf(e), dir, Options{}); err != nil || !rep.Equal() {
			t.Errorf("cut to the last page in use: %v", err)
		}
	}
	page := os.Getpagesize()
	sizes := []int{need - 1, need - page, need / 2, 5 * page, 4*page + 1, 2 * page, 2*page - 1, page, 100, 1}
	for _, size := range sizes {
		check(t, os.Truncate(file, int64(size)))
		_, err := compare(t, sourceOf(e), dir, Options{})
		if !errors.Is(err, copier.ErrDestination) || !strings.Contains(err.Error(), "vault.db") {
			t.Errorf("%d bytes: %v", size, err)
		}
	}
}

// highWater returns how many bytes of a file are in use.
func highWater(t testing.TB, content []byte) int {
	t.Helper()
	page := os.Getpagesize()
	var last, txid uint64
	for _, at := range []int{16, page + 16} {
		if id := binary.NativeEndian.Uint64(content[at+48:]); id >= txid {
			last, txid = binary.NativeEndian.Uint64(content[at+40:]), id
		}
	}
	return int(last) * page
}

// reseal makes a changed meta page valid again.
func reseal(content []byte, at int) {
	h := fnv.New64a()
	h.Write(content[at : at+56])
	binary.NativeEndian.PutUint64(content[at+56:], h.Sum64())
}

// TestDamagedPages damages what a reader follows blindly.
func TestDamagedPages(t *testing.T) {
	e := large()
	dir := directory(t, e)
	file := filepath.Join(dir, "vault.db")
	good, err := os.ReadFile(file)
	check(t, err)
	page := os.Getpagesize()
	ne := binary.NativeEndian
	meta := 16
	if ne.Uint64(good[page+16+48:]) > ne.Uint64(good[16+48:]) {
		meta = page + 16
	}
	var root int // the data bucket's
	db, err := bolt.Open(file, 0o600, &bolt.Options{ReadOnly: true})
	check(t, err)
	check(t, db.View(func(tx *bolt.Tx) error { root = int(tx.Bucket([]byte("data")).Root()) * page; return nil }))
	check(t, db.Close())
	child, leaf := 0, root              // the leftmost leaf and its parent
	for ne.Uint16(good[leaf+8:]) == 1 { // a branch
		child, leaf = leaf, int(ne.Uint64(good[leaf+16+8:]))*page
	}
	if child == 0 || child == root {
		t.Fatal("the tree is too small")
	}
	element := leaf + 16 // its first
	key := element + int(ne.Uint32(good[element+4:]))

	for name, damage := range map[string]func(b []byte){
		"high water above the file": func(b []byte) { ne.PutUint64(b[meta+40:], 1<<40); reseal(b, meta) },
		"high water overflows":      func(b []byte) { ne.PutUint64(b[meta+40:], 1<<60); reseal(b, meta) },
		"high water 0":              func(b []byte) { ne.PutUint64(b[meta+40:], 0); reseal(b, meta) },
		"root above high water":     func(b []byte) { ne.PutUint64(b[meta+16:], 1<<30); reseal(b, meta) },
		"root is a meta page":       func(b []byte) { ne.PutUint64(b[meta+16:], 1); reseal(b, meta) },
		"both metas":                func(b []byte) { b[20]++; b[page+20]++ },
		"branch to itself":          func(b []byte) { ne.PutUint64(b[child+16+8:], uint64(child/page)) },
		"branch to its parent":      func(b []byte) { ne.PutUint64(b[child+16+8:], uint64(root/page)) },
		"branch to nowhere":         func(b []byte) { ne.PutUint64(b[child+16+8:], 1<<50) },
		"branch to a meta":          func(b []byte) { ne.PutUint64(b[child+16+8:], 0) },
		"branch twice to a leaf":    func(b []byte) { copy(b[child+32+8:child+40+8], b[child+16+8:]) },
		"branch without children":   func(b []byte) { ne.PutUint16(b[child+10:], 0) },
		"branch with many children": func(b []byte) { ne.PutUint16(b[child+10:], 65535) },
		"branch key altered":        func(b []byte) { b[child+32+int(ne.Uint32(b[child+32:]))+5] = 'z' },
		"branch key elsewhere":      func(b []byte) { ne.PutUint32(b[child+32:], 1<<31) },
		"leaf with another id":      func(b []byte) { b[leaf]++ },
		"leaf of no kind":           func(b []byte) { ne.PutUint16(b[leaf+8:], 64) },
		"leaf overflows the file":   func(b []byte) { ne.PutUint32(b[leaf+12:], 1<<31) },
		"leaf of too many":          func(b []byte) { ne.PutUint16(b[leaf+10:], 65535) },
		"leaf of fewer":             func(b []byte) { b[leaf+10]-- },
		"leaf of none":              func(b []byte) { ne.PutUint16(b[leaf+10:], 0) },
		"entry is a bucket":         func(b []byte) { b[element] = 1 },
		"entry elsewhere":           func(b []byte) { ne.PutUint32(b[element+4:], 1<<31) },
		"entry far away":            func(b []byte) { ne.PutUint32(b[element+4:], 1<<32-1) },
		"huge key":                  func(b []byte) { ne.PutUint32(b[element+8:], 1<<31) },
		"huge value":                func(b []byte) { ne.PutUint32(b[element+12:], 1<<31) },
		"value behind the file":     func(b []byte) { ne.PutUint32(b[element+12:], uint32(len(good))) },
		"key altered":               func(b []byte) { b[key+5] = 'z' },
		"value altered":             func(b []byte) { b[bytes.Index(b, []byte("VVVV"))+999] = 'v' },
		"two leaves swapped": func(b []byte) {
			second := int(ne.Uint64(b[child+32+8:])) * page
			x, y := bytes.Clone(b[leaf+8:leaf+page]), bytes.Clone(b[second+8:second+page])
			copy(b[leaf+8:], y)
			copy(b[second+8:], x)
		},
	} {
		t.Run(name, func(t *testing.T) {
			bad := bytes.Clone(good)
			damage(bad)
			if bytes.Equal(bad, good) {
				t.Fatal("nothing was damaged")
			}
			check(t, os.WriteFile(file, bad, 0o600))
			rep, err := compare(t, sourceOf(e), dir, Options{})
			if rep.Equal() || err != nil && !errors.Is(err, copier.ErrDestination) {
				t.Errorf("equal %v, error %v", rep.Equal(), err)
			}
		})
	}
}

// TestEveryFlippedBit flips bits all over a file: each is noticed, or what a
// Vault reads by each key is right.
func TestEveryFlippedBit(t *testing.T) {
	e := entries{}
	for i := range 9 {
		e[fmt.Sprintf("sys/%02d%s", i, strings.Repeat("k", 500))] = strings.Repeat("v", i*20)
	}
	dir := directory(t, e)
	file := filepath.Join(dir, "vault.db")
	good, err := os.ReadFile(file)
	check(t, err)
	f, err := os.OpenFile(file, os.O_WRONLY, 0)
	check(t, err)
	defer f.Close()
	noticed, silent := 0, 0
	src, work := &sortedStream{e: e}, t.TempDir()
	used := highWater(t, good)
	for i := 0; i < used; i++ {
		// Every byte of the headers, a part of the others.
		if at := i % os.Getpagesize(); at > 120 && i%53 != 0 {
			continue
		}
		bit := byte(1) << (i % 8)
		if _, err := f.WriteAt([]byte{good[i] ^ bit}, int64(i)); err != nil {
			t.Fatal(err)
		}
		rep := &Report{}
		src.reset()
		err := walkFile(t.Context(), rep, src, file, work, nil)
		switch {
		case err != nil && !errors.Is(err, copier.ErrDestination):
			t.Errorf("byte %d: %v", i, err)
		case rep.Equal():
			silent++
			sameByKey(t, i, file, e)
		default:
			noticed++
		}
		if _, err := f.WriteAt(good[i:i+1], int64(i)); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("of %d flipped bits %d were noticed, %d lie where they do no harm", noticed+silent, noticed, silent)
	if noticed < 100 || silent == 0 {
		t.Error("the test proves nothing")
	}
}

// sameByKey looks up each entry as a Vault does.
func sameByKey(t *testing.T, at int, file string, e entries) {
	t.Helper()
	db, err := bolt.Open(file, 0o600, &bolt.Options{ReadOnly: true})
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	err = db.View(func(tx *bolt.Tx) error {
		for k, v := range e {
			if got := tx.Bucket([]byte("data")).Get([]byte(k)); got == nil || string(got) != v {
				return fmt.Errorf("flipped bit in byte %d was not noticed, and key %.10q has another value", at, k)
			}
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
}

func TestInUse(t *testing.T) {
	e := some(20)
	dir := directory(t, e)
	file := filepath.Join(dir, "vault.db")
	cmd := exec.Command(os.Args[0], "-test.run=^$")
	cmd.Env = append(os.Environ(), holdVariable+"="+file)
	stdin, err := cmd.StdinPipe()
	check(t, err)
	stdout, err := cmd.StdoutPipe()
	check(t, err)
	check(t, cmd.Start())
	if line, err := bufio.NewReader(stdout).ReadString('\n'); line != "holding\n" {
		t.Fatalf("%q, %v", line, err)
	}
	_, err = compare(t, sourceOf(e), dir, Options{}) // it does not wait, or it would for ever
	if !errors.Is(err, ErrInUse) || !errors.Is(err, copier.ErrLocked) || errors.Is(err, copier.ErrDestination) ||
		codeOf(err) != copier.InUse || !strings.Contains(err.Error(), "vault.db is in use") {
		t.Error(err)
	}
	check(t, stdin.Close())
	check(t, cmd.Wait())
	if rep, err := compare(t, sourceOf(e), dir, Options{}); err != nil || !rep.Equal() {
		t.Errorf("after the other has gone: %v", err)
	}

	// Meanwhile a comparison keeps a Vault from starting.
	rep, err := compare(t, sourceThat(e, func(context.Context) error {
		if _, err := bolt.Open(file, 0o600, &bolt.Options{Timeout: 50 * time.Millisecond}); err == nil {
			t.Error("the file could be opened for writing")
		}
		return nil
	}), dir, Options{})
	if err != nil || !rep.Equal() {
		t.Errorf("%v", err)
	}
	db, err := bolt.Open(file, 0o600, &bolt.Options{Timeout: time.Minute})
	check(t, err)
	check(t, db.Close())
}

// holdVariable makes the test binary a process that has a file open, as a
// running Vault has.
const holdVariable = "VERIFY_TEST_HOLD"

func hold(file string) {
	db, err := bolt.Open(file, 0o600, nil)
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	defer db.Close()
	fmt.Println("holding")
	_, _ = os.Stdin.Read(make([]byte, 1)) // until it is closed
}

// walkFile walks a stream and a file side by side, as a comparison does, after what
// waits in the work file was changed.
func walkFile(ctx context.Context, rep *Report, src copier.Stream, file, work string, change func(spool string) error) (err error) {
	dst := &vaultdb.Source{Path: file, Kind: copier.ErrDestination}
	if _, err := dst.Open(ctx); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, dst.Close()) }()
	x := &reading{src: dst, dir: work}
	if err := x.read(ctx, Options{}); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, x.entries.Close()) }()
	if change != nil {
		if err := change(filepath.Join(work, spoolName)); err != nil {
			return err
		}
	}
	return rep.walk(ctx, side{Stream: src}, side{Stream: x.entries}, Options{})
}

// TestWorkFileDamaged has what waits in the work file changed, or cut off.
func TestWorkFileDamaged(t *testing.T) {
	e := some(500)
	file := filepath.Join(directory(t, e), "vault.db")
	for name, damage := range map[string]func(b []byte) []byte{
		"nothing": func(b []byte) []byte { return b },
		"a bit":   func(b []byte) []byte { b[len(b)/2] ^= 4; return b },
		"its end": func(b []byte) []byte { return b[:len(b)-1] },
	} {
		rep, src := &Report{}, &sortedStream{e: e}
		src.reset()
		err := walkFile(t.Context(), rep, src, file, t.TempDir(), func(spool string) error {
			b, err := os.ReadFile(spool)
			return errors.Join(err, os.WriteFile(spool, damage(b), 0o600))
		})
		if name == "nothing" {
			if err != nil || !rep.Equal() {
				t.Errorf("undamaged: %v", err)
			}
		} else if !errors.Is(err, copier.ErrDestination) || rep.Equal() {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestWorkFileOfVault measures the work file of a table like a Vault's.
func TestWorkFileOfVault(t *testing.T) {
	e := entries{}
	for key, value := range (dynamotest.VaultShape{Entries: 50_000, ValueSize: 16}).All() {
		e[key] = string(value)
	}
	rep, src := &Report{}, &sortedStream{e: e}
	src.reset()
	err := walkFile(t.Context(), rep, src, filepath.Join(directory(t, e), "vault.db"), t.TempDir(), func(spool string) error {
		st, err := os.Stat(spool)
		if err == nil && st.Size()/int64(len(e)) > 100 {
			t.Errorf("%d bytes an entry", st.Size()/int64(len(e)))
		}
		return err
	})
	if err != nil || !rep.Equal() || rep.SourceEntries != int64(len(e)) {
		t.Errorf("%d entries, equal %v, %v", rep.SourceEntries, rep.Equal(), err)
	}
}

// TestBothFail has the source fail while the destination is found damaged: both
// are said, whichever is first.
func TestBothFail(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := some(3000)
		dir := directory(t, e)
		file := filepath.Join(dir, "vault.db")
		b, err := os.ReadFile(file)
		check(t, err)
		b[4*os.Getpagesize()+20] ^= 1
		check(t, os.WriteFile(file, b, 0o600))
		src := sourceThat(e, func(context.Context) error {
			time.Sleep(200 * time.Millisecond) // the file is read by then
			return errors.New("the table is gone")
		})
		rep, err := compare(t, src, dir, Options{})
		if !errors.Is(err, vaultdb.ErrDamaged) || rep.Equal() || rep.Kept != "" {
			t.Errorf("%v, kept %q", err, rep.Kept)
		}
	})
}
