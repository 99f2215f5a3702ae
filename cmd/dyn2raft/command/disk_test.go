package command

import (
	"context"
	"errors"
	"strings"
	"syscall"
	"testing"

	"github.com/dyn2raft/dyn2raft/cmd/dyn2raft/hints"
	"github.com/dyn2raft/dyn2raft/copier"
)

// A copy ends when its vault.db can't fit any more, and no sooner.
func TestDiskWatch(t *testing.T) {
	const read = 1000
	for name, c := range map[string]struct {
		free  int64
		err   error
		event copier.Event
		times int
		ends  bool
	}{
		"too little":     {free: read - 1, event: copier.Checkpointed{}, ends: true},
		"just enough":    {free: read, event: copier.Checkpointed{}},
		"can't be asked": {err: syscall.EIO, event: copier.Checkpointed{}},
		"a few pages":    {free: 0, event: copier.PageRead{}, times: everyPages - 2},
		"some pages":     {free: 0, event: copier.PageRead{}, times: everyPages, ends: true},
		"another event":  {free: 0, event: copier.RunWritten{}, times: everyPages},
	} {
		ctx, stop := context.WithCancelCause(t.Context())
		var progress copier.Progress
		progress.Event(copier.PhaseStarted{Phase: copier.PhaseScan, Segments: 1})
		progress.Event(copier.PageRead{Entries: 10, Bytes: read})
		w := &diskWatch{path: "/data", read: &progress, free: func(string) (int64, error) { return c.free, c.err }, stop: stop}
		for range max(c.times, 1) {
			w.event(c.event)
		}
		err := context.Cause(ctx)
		if (err != nil) != c.ends || c.ends && (!errors.Is(err, copier.ErrDestination) || !errors.Is(err, syscall.ENOSPC) || !strings.Contains(hints.Of(err), "-ignore disk")) {
			t.Errorf("%s: %v", name, err)
		}
		stop(nil)
	}
	if free, err := freeSpace(t.TempDir()); err != nil || free <= 0 {
		t.Errorf("%d are free, %v", free, err)
	}
}
