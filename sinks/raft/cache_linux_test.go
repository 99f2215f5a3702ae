package raft

import (
	"errors"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/dyn2raft/dyn2raft/copier"
)

// TestDropCache asks the kernel before and after it what it holds of a file.
func TestDropCache(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, vaultDBName)
	check(t, os.WriteFile(path, make([]byte, 8<<20), 0o600))
	held := func() (n, all int) {
		f, err := os.Open(path)
		check(t, err)
		defer f.Close()
		n, all, err = resident(f)
		check(t, err)
		return n, all
	}
	if n, all := held(); n != all || all != 8<<20/os.Getpagesize() {
		t.Fatalf("a file that was just written has %d of %d pages in memory", n, all)
	}
	if err := canDropCache(dir); err != nil {
		if err := dropCache(path); err == nil {
			t.Error("what can't be done was done")
		}
		return // temporary files are in memory here
	}
	check(t, dropCache(path))
	if n, all := held(); n*100 > all*maxResident {
		t.Errorf("%d of %d pages are in memory", n, all)
	}
	// What somebody keeps in memory stays there, and that is said.
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	check(t, err)
	defer f.Close()
	m, err := unix.Mmap(int(f.Fd()), 0, 8<<20, unix.PROT_READ, unix.MAP_SHARED|unix.MAP_POPULATE)
	check(t, err)
	defer func() { check(t, unix.Munmap(m)) }()
	if err := dropCache(path); err == nil {
		t.Errorf("pages that are mapped: %v", err)
	}
}

// TestDropCacheOfMemory refuses a file system that has no device.
func TestDropCacheOfMemory(t *testing.T) {
	dir, err := os.MkdirTemp("/dev/shm", "dyn2raft-*")
	check(t, err)
	defer os.RemoveAll(dir)
	o := testOptions(dir)
	o.Device = true
	sink, err := New(o)
	check(t, err)
	_, before := sink.Open(t.Context())
	check(t, sink.Close())
	path := filepath.Join(dir, vaultDBName)
	check(t, os.WriteFile(path, make([]byte, 1<<20), 0o600))
	for name, err := range map[string]error{"before": before, "after": cacheError(dropCache(path))} {
		if !errors.Is(err, copier.ErrDestination) || !strings.HasPrefix(coded(t, err), "no-device-read ") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestDropCacheOfOpen reads a staged vault.db from the device while bbolt maps it.
func TestDropCacheOfOpen(t *testing.T) {
	o := testOptions(t.TempDir())
	if err := canDropCache(o.Path); err != nil {
		t.Skip(err)
	}
	o.Device = true
	p := stageOf(t, o, testEntries(3000))
	check(t, p.stage().Apply(t.Context(), one("a", "1"), marks("m")))
	check(t, p.stage().Pin(t.Context()))
	want := modelOf(testEntries(3000))
	want["a"] = "1"
	if got := all(t, p); !maps.Equal(got, want) {
		t.Errorf("it has %d entries, want %d", len(got), len(want))
	}
	check(t, p.Close(false))
}
