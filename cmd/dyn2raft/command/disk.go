package command

import (
	"context"
	"fmt"
	"sync/atomic"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/dyn2raft/dyn2raft/cmd/dyn2raft/figures"
	"github.com/dyn2raft/dyn2raft/cmd/dyn2raft/hints"
	"github.com/dyn2raft/dyn2raft/copier"
)

// A diskWatch ends a copy as soon as what it has read proves that the destination has
// no room for it. vault.db is larger than all keys and values, and is written with the
// work files still there. What the table says of its size proves nothing, so that this
// can't be found out before.
type diskWatch struct {
	path string
	read *copier.Progress
	free func(path string) (int64, error)
	stop context.CancelCauseFunc

	pages atomic.Int64 // that were read
}

// everyPages is how often the disk is looked at, in pages of up to 1 MB.
const everyPages = 16

// event looks at the disk now and then, and whenever something was written to it.
func (w *diskWatch) event(e copier.Event) {
	switch e.(type) {
	case copier.PageRead:
		if w.pages.Add(1)%everyPages != 0 {
			return
		}
	case copier.Checkpointed:
	default:
		return
	}
	free, err := w.free(w.path)
	if read := w.read.Status().Bytes; err == nil && free < read {
		w.stop(hints.With(&copier.Error{Kind: copier.ErrDestination, Op: "check disk", Err: fmt.Errorf("%s are free in %s, and vault.db will have more than the %s that were read so far: %w", figures.Size(free), w.path, figures.Size(read), syscall.ENOSPC)},
			"make the file system larger, or make room on it, with twice the data that is still to come where the work files are on it too;"+
				" to copy in spite of it: the same command with "+ignoreHint("disk")))
	}
}

// freeSpace is what is free on the file system of a directory, in bytes, with what is
// kept for root.
func freeSpace(path string) (int64, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(path, &st); err != nil {
		return 0, err
	}
	return int64(st.Bfree) * int64(st.Bsize), nil //nolint:unconvert // other systems have other types
}
