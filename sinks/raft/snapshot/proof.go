package snapshot

import (
	"context"
	"errors"
	"fmt"

	"github.com/dyn2raft/dyn2raft/copier"
	"github.com/dyn2raft/dyn2raft/sources/raft/snapshot"
)

// This file alone may import what reads a snapshot: nothing else here shares code with it.

// A reader reads back what a stage has written.
type reader struct {
	*snapshot.Source
	id string // of the snapshot
}

var _ copier.Source = (*reader)(nil)

// Reader implements [copier.Stage].
func (s *stage) Reader(context.Context) (copier.Source, error) {
	path := s.aside(stagedName)
	if s.committed {
		path = s.opts.Path
	}
	src := snapshot.New(path)
	src.Kind = copier.ErrDestination
	return &reader{src, s.id()}, nil
}

// Open implements [copier.Source].
func (r *reader) Open(ctx context.Context) (copier.Info, error) {
	info, err := r.Source.Open(ctx)
	if err == nil && info.Incarnation != r.id {
		err = errors.Join(&copier.Error{Kind: copier.ErrDestination, Op: "read snapshot " + info.ID,
			Err: fmt.Errorf("%w: its id is %.64q, and that of the copy's is %q", snapshot.ErrDamaged, info.Incarnation, r.id)}, r.Close())
	}
	return info, damage(err)
}

// Read implements [copier.Source].
func (r *reader) Read(ctx context.Context, span copier.Span, b *copier.Batch) (copier.Page, error) {
	page, err := r.Source.Read(ctx, span, b)
	return page, damage(err)
}

// damage says of an error that what was written is not there.
func damage(err error) error {
	if errors.Is(err, snapshot.ErrDamaged) {
		return &copier.Error{Kind: copier.ErrReadBack, Err: err}
	}
	return err
}
