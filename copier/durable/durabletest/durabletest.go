// Package durabletest takes the power away from programs that write through
// package durable.
//
// A [Recorder] is installed as a disk's hook. It learns of each operation, and
// knows at any moment what of a directory tree is durable. When the power has
// failed, [Recorder.Lose] rewrites the real tree to one of the many states in
// which a file system may be found then. What POSIX promises is modelled, and
// not what a certain file system does beyond it:
//
//   - Sync of a file makes its content durable, and not its name. Bytes that
//     were written and not synced since are there, gone, zero or anything.
//   - Sync of a directory makes the names in it durable: files and directories
//     that were made in it, renamed into it and removed from it. It does
//     nothing for the directory's own name.
//   - Finalize is a sync of the file, or of everything below the directory and
//     then of the directory.
//   - Each change of a name that was not synced is found to be done or not,
//     whatever the order in which they were made, but for this: a change of a
//     name is not done without the earlier ones of the same name, and no
//     directory is gone while something is in it. So what was removed or
//     replaced may come back, with the content that it had.
//   - A rename is durable with a sync of the directory of the new name. It
//     never loses the file. Until the directory of the old name is synced, a
//     file may have that name too; a directory never has two.
//   - What is durable stays.
//
// Modes and owners are not modelled: a file that is there has the mode that it
// had. Files that a program makes without the disk are found when a directory
// is synced, removed or lost, and count as not synced until then.
//
// Operations of one directory may be under way at the same time, but a Sync of
// it beside a Remove or a Rename in it is not foreseen.
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
	"sync"

	"github.com/dyn2raft/dyn2raft/copier/durable"
)

// ErrPower is the error of all operations once the power has failed.
var ErrPower = errors.New("the power has failed")

// A Recorder knows what of a directory tree is durable. It is safe for
// concurrent use.
type Recorder struct {
	// Ignore, where set, reports whether a sync or a seal has no effect, as if the
	// program had left it out. It is set before the first operation.
	Ignore func(durable.Op) bool

	root string

	mu      sync.Mutex
	top     *node
	pending []*change
	sealing []string // directories whose seal is not done before their content's
	ops     []string
	failAt  int // how many operations more until the power fails; negative: it does not
	failed  bool
}

// A node is a file or a directory, whatever its names.
type node struct {
	dir  bool
	mode fs.FileMode

	// Of a file: what is durable of its content, and all that was written, nil
	// if that is no more.
	synced, written []byte

	// Of a directory: the names that are durable, and those of this moment.
	durable, now map[string]*node
	last         map[string]*change // the last change of each name, if it is pending
	seen         map[string]bool    // names that were found in the real directory
}

func newNode(dir bool) *node {
	mode := fs.FileMode(0o600)
	if dir {
		mode = 0o700
	}
	return &node{dir: dir, mode: mode, durable: map[string]*node{}, now: map[string]*node{}, last: map[string]*change{}, seen: map[string]bool{}}
}

// A change of names that is not durable yet.
type change struct {
	sets  []set     // done together or not at all
	after []*change // not done without those
	syncs *node     // the directory whose sync makes it durable
	done  bool
}

// A set gives a name in a directory to a node, or, if that is nil, frees it.
type set struct {
	dir  *node
	name string
	to   *node
}

// New returns the recorder of the tree below root, an existing directory. All
// that is there is durable.
func New(root string) (*Recorder, error) {
	root, err := filepath.Abs(root)
	if err != nil {
		return nil, err
	}
	r := &Recorder{root: root, top: newNode(true), failAt: -1}
	if err := r.find(r.top, root); err != nil {
		return nil, err
	}
	for _, c := range r.pending {
		r.commit(c)
	}
	r.pending = nil
	return r, r.reset(r.top, root)
}

// Disk is a disk with this recorder.
func (r *Recorder) Disk() *durable.Disk { return &durable.Disk{Before: r.Before} }

// FailAt makes the power fail in front of the operation that comes after n
// others, n counted from now.
func (r *Recorder) FailAt(n int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.failAt, r.ops = n, nil
}

// Failed reports whether the power has failed.
func (r *Recorder) Failed() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.failed
}

// Ops names the operations since the start, or since FailAt; the last of them
// is the one that the power failed at.
func (r *Recorder) Ops() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.ops)
}

// Before is the hook of a disk. It returns ErrPower once the power has failed,
// and the error of a real directory that can't be read.
func (r *Recorder) Before(op durable.Op) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.failed {
		return ErrPower
	}
	r.ops = append(r.ops, op.String())
	if err := r.endSeals(op.Path); err != nil {
		return err
	}
	if r.failAt == 0 {
		r.failed = true
		return ErrPower
	}
	r.failAt--
	err := r.record(op)
	if errors.Is(err, errElsewhere) {
		return nil
	}
	return err
}

// errElsewhere is returned for paths that are not below the root, or in a
// directory that is not there: the operation itself will fail.
var errElsewhere = errors.New("no such directory")

func (r *Recorder) record(op durable.Op) error {
	there, err := durable.Exists(op.Path)
	if err != nil {
		return err
	}
	switch op.Verb {
	case durable.Mkdir, durable.Create:
		if there {
			return nil // it fails
		}
		dir, err := r.lookup(filepath.Dir(op.Path))
		if err != nil {
			return err
		}
		r.change(dir, filepath.Base(op.Path), newNode(op.Verb == durable.Mkdir))
	case durable.Sync:
		if !there || r.Ignore != nil && r.Ignore(op) {
			return nil
		}
		return r.sync(op.Path)
	case durable.Finalize:
		if !there || r.Ignore != nil && r.Ignore(op) {
			return nil
		}
		if fi, err := os.Lstat(op.Path); err == nil && fi.IsDir() {
			r.sealing = append(r.sealing, op.Path)
			return nil
		}
		return r.sync(op.Path)
	case durable.Place:
		if there {
			return nil
		}
		return r.rename(op.From, op.Path)
	case durable.Rename:
		return r.rename(op.From, op.Path)
	case durable.Remove:
		if !there {
			return nil
		}
		return r.remove(op.Path)
	}
	return nil
}

// endSeals makes durable the names in directories whose seal is done, because
// the next operation is on a path that is not in them.
func (r *Recorder) endSeals(path string) error {
	for len(r.sealing) > 0 {
		last := r.sealing[len(r.sealing)-1]
		if strings.HasPrefix(path, last+"/") {
			break
		}
		r.sealing = r.sealing[:len(r.sealing)-1]
		if err := r.sync(last); err != nil {
			return err
		}
	}
	return nil
}

// lookup returns the node of a path. One that was made without the disk is
// found now.
func (r *Recorder) lookup(path string) (*node, error) {
	rel, err := filepath.Rel(r.root, path)
	if err != nil || rel == ".." || strings.HasPrefix(rel, "../") {
		return nil, errElsewhere
	}
	n, at := r.top, r.root
	if rel == "." {
		return n, nil
	}
	for _, name := range strings.Split(rel, "/") {
		if !n.dir {
			return nil, errElsewhere
		}
		if n.now[name] == nil {
			if err := r.find(n, at); err != nil {
				return nil, err
			}
		}
		at = filepath.Join(at, name)
		if n = n.now[name]; n == nil {
			return nil, errElsewhere
		}
	}
	return n, nil
}

// find takes notice of names that were made or removed without the disk in a
// directory, and in those that it finds there.
func (r *Recorder) find(dir *node, path string) error {
	list, err := os.ReadDir(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil // its mkdir is under way
	}
	if err != nil {
		return err
	}
	there := map[string]bool{}
	for _, f := range list {
		there[f.Name()] = true
		if dir.now[f.Name()] == nil {
			n := newNode(f.IsDir())
			r.change(dir, f.Name(), n)
			if n.dir {
				if err := r.find(n, filepath.Join(path, f.Name())); err != nil {
					return err
				}
			}
		}
		dir.seen[f.Name()] = true
	}
	for name := range maps.Clone(dir.now) {
		if !there[name] && dir.seen[name] { // and not about to be made
			r.change(dir, name, nil)
		}
	}
	return nil
}

// change notes that a name is given to a node, or freed.
func (r *Recorder) change(dir *node, name string, to *node) *change {
	c := &change{sets: []set{{dir, name, to}}, syncs: dir}
	r.add(c)
	return c
}

func (r *Recorder) add(c *change) {
	for _, s := range c.sets {
		if before := s.dir.last[s.name]; before != nil {
			c.after = append(c.after, before)
		}
		if was := s.dir.now[s.name]; s.to == nil && was != nil {
			for _, name := range slices.Sorted(maps.Keys(was.last)) {
				if was.dir && len(c.sets) == 1 { // not of a directory that is renamed
					c.after = append(c.after, was.last[name])
				}
			}
		}
	}
	for _, s := range c.sets {
		s.dir.last[s.name] = c
		delete(s.dir.seen, s.name)
		if s.to == nil {
			delete(s.dir.now, s.name)
		} else {
			s.dir.now[s.name] = s.to
		}
	}
	r.pending = append(r.pending, c)
}

// commit makes a change durable, and before it all that it is not done without.
func (r *Recorder) commit(c *change) {
	if c.done {
		return
	}
	c.done = true
	for _, b := range c.after {
		r.commit(b)
	}
	for _, s := range c.sets {
		if s.to == nil {
			delete(s.dir.durable, s.name)
		} else {
			s.dir.durable[s.name] = s.to
		}
		if s.dir.last[s.name] == c {
			delete(s.dir.last, s.name)
		}
	}
}

func (r *Recorder) sync(path string) error {
	n, err := r.lookup(path)
	if err != nil {
		return err
	}
	if !n.dir {
		if n.synced, err = os.ReadFile(path); err != nil {
			return fmt.Errorf("record sync: %w", err)
		}
		return nil
	}
	if err := r.find(n, path); err != nil {
		return err
	}
	for _, c := range r.pending {
		if c.syncs == n {
			r.commit(c)
		}
	}
	r.pending = slices.DeleteFunc(r.pending, func(c *change) bool { return c.done })
	return nil
}

func (r *Recorder) rename(from, to string) error {
	n, err := r.lookup(from)
	if err != nil {
		return err
	}
	a, err := r.lookup(filepath.Dir(from))
	if err != nil {
		return err
	}
	b, err := r.lookup(filepath.Dir(to))
	if err != nil {
		return err
	}
	if old, err := r.lookup(to); err == nil {
		if err := old.keep(to); err != nil {
			return err
		}
	}
	made, freed := set{b, filepath.Base(to), n}, set{a, filepath.Base(from), nil}
	if n.dir {
		r.add(&change{sets: []set{made, freed}, syncs: b})
		return nil
	}
	c := &change{sets: []set{made}, syncs: b}
	if before := a.last[freed.name]; before != nil {
		c.after = append(c.after, before)
	}
	r.add(c)
	r.add(&change{sets: []set{freed}, syncs: a, after: []*change{c}})
	return nil
}

func (r *Recorder) remove(path string) error {
	n, err := r.lookup(path)
	if err != nil {
		return err
	}
	dir, err := r.lookup(filepath.Dir(path))
	if err != nil {
		return err
	}
	if err := n.keep(path); err != nil {
		return err
	}
	if n.dir {
		if err := r.find(n, path); err != nil {
			return err
		}
		for _, name := range slices.Sorted(maps.Keys(n.now)) {
			if err := r.remove(filepath.Join(path, name)); err != nil {
				return err
			}
		}
	}
	r.change(dir, filepath.Base(path), nil)
	return nil
}

// keep reads what a real file holds, as long as that can be done.
func (n *node) keep(path string) error {
	fi, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	n.mode = fi.Mode().Perm()
	if n.dir {
		return nil
	}
	n.written, err = os.ReadFile(path)
	return err
}

// Lose rewrites the real tree to what may be found when the power is back, and
// gives the power back. All processes that write there must have ended.
func (r *Recorder) Lose(rnd *rand.Rand) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, path := range r.sealing { // may have been done or not
		if !r.failed || rnd.IntN(2) == 0 {
			if err := r.sync(path); err != nil {
				return err
			}
		}
	}
	r.sealing = nil
	if err := r.look(r.top, r.root); err != nil {
		return err
	}
	done := rnd.IntN(5) // so many of four changes; none and all are likely too
	for _, c := range r.pending {
		lost := slices.ContainsFunc(c.after, func(b *change) bool { return !b.done })
		if !lost && rnd.IntN(4) < done {
			r.commit(c)
		}
	}
	list, err := os.ReadDir(r.root)
	if err != nil {
		return err
	}
	for _, f := range list {
		if err := os.RemoveAll(filepath.Join(r.root, f.Name())); err != nil {
			return err
		}
	}
	if err := r.write(rnd, r.top, r.root, map[*node]string{}); err != nil {
		return err
	}
	r.pending, r.failed, r.failAt, r.ops = nil, false, -1, nil
	return r.reset(r.top, r.root)
}

// look finds everything that is there, with its content.
func (r *Recorder) look(dir *node, path string) error {
	if err := r.find(dir, path); err != nil {
		return err
	}
	for name, n := range maps.Clone(dir.now) {
		at := filepath.Join(path, name)
		if there, err := durable.Exists(at); err != nil {
			return err
		} else if !there {
			r.change(dir, name, nil) // an operation that failed
			continue
		}
		if err := n.keep(at); err != nil {
			return err
		}
		if n.dir {
			if err := r.look(n, at); err != nil {
				return err
			}
		}
	}
	return nil
}

// write makes the real content of a directory what is durable of it.
func (r *Recorder) write(rnd *rand.Rand, dir *node, path string, made map[*node]string) error {
	for _, name := range slices.Sorted(maps.Keys(dir.durable)) {
		n, at := dir.durable[name], filepath.Join(path, name)
		if first, ok := made[n]; ok {
			if n.dir {
				return fmt.Errorf("directory %s is %s too: this is a defect of durabletest", at, first)
			}
			if err := os.Link(first, at); err != nil {
				return err
			}
			continue
		}
		made[n] = at
		if n.dir {
			if err := os.Mkdir(at, 0o700); err != nil {
				return err
			}
			if err := r.write(rnd, n, at, made); err != nil {
				return err
			}
			if err := os.Chmod(at, n.mode); err != nil {
				return err
			}
			continue
		}
		if err := os.WriteFile(at, tear(rnd, n.synced, n.written), n.mode); err != nil {
			return err
		}
	}
	return nil
}

// tear returns what may be left of a file that had a synced content, and was
// written since.
func tear(rnd *rand.Rand, synced, written []byte) []byte {
	if written == nil || bytes.Equal(synced, written) {
		return synced
	}
	size := len(written)
	switch {
	case rnd.IntN(4) == 0:
		size = len(synced)
	case len(written) > len(synced) && rnd.IntN(2) == 0:
		size = len(synced) + rnd.IntN(len(written)-len(synced))
	}
	out := make([]byte, size)
	copy(out, synced)
	block := 1 << rnd.IntN(13)
	for from := 0; from < size; from += block {
		to := min(from+block, size)
		if to <= len(synced) && to <= len(written) && bytes.Equal(synced[from:to], written[from:to]) {
			continue
		}
		switch rnd.IntN(4) {
		case 0: // as it was, or zero
		case 1:
			for i := max(from, len(synced)); i < to; i++ {
				out[i] = byte(rnd.Uint32())
			}
		default:
			if from < len(written) {
				copy(out[from:to], written[from:])
			}
		}
	}
	return out
}

// reset makes the names of this moment those that are durable, and all content
// too.
func (r *Recorder) reset(dir *node, path string) error {
	dir.now, dir.last, dir.seen = maps.Clone(dir.durable), map[string]*change{}, map[string]bool{}
	for name, n := range dir.durable {
		dir.seen[name] = true
		at := filepath.Join(path, name)
		if n.dir {
			if err := r.reset(n, at); err != nil {
				return err
			}
			continue
		}
		var err error
		if n.synced, err = os.ReadFile(at); err != nil {
			return err
		}
		n.written = n.synced
	}
	return nil
}
