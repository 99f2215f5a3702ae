package dynamodb

import (
	"context"
	"errors"

	"github.com/dyn2raft/dyn2raft/copier"
	"github.com/dyn2raft/dyn2raft/sources/dynamodb"
)

// This file alone may import what reads a table: nothing else here shares code with it.

// Reader implements [copier.Stage]: the table is read as one that is copied from.
func (s *stage) Reader(ctx context.Context) (copier.Source, error) {
	src, err := dynamodb.New(ctx, dynamodb.Options{Table: s.opts.Table, Region: s.opts.Region, Endpoint: s.opts.Endpoint,
		AccessKey: s.opts.AccessKey, SecretKey: s.opts.SecretKey, SessionToken: s.opts.SessionToken, RetryFor: s.opts.RetryFor, Events: s.opts.Events})
	if err != nil {
		return nil, readError(err)
	}
	return &reader{src}, nil
}

// A reader reads back what a stage has written. Its errors are those of a destination.
type reader struct{ src *dynamodb.Source }

var _ copier.Rechecker = (*reader)(nil)

// Open implements [copier.Source].
func (r *reader) Open(ctx context.Context) (copier.Info, error) {
	info, err := r.src.Open(ctx)
	return info, readError(err)
}

// Split implements [copier.Source].
func (r *reader) Split(ctx context.Context, n int) ([]copier.Span, error) {
	spans, err := r.src.Split(ctx, n)
	return spans, readError(err)
}

// Read implements [copier.Source].
func (r *reader) Read(ctx context.Context, span copier.Span, b *copier.Batch) (copier.Page, error) {
	page, err := r.src.Read(ctx, span, b)
	for i, err := range page.Refused {
		page.Refused[i] = &copier.Error{Kind: copier.ErrReadBack, Err: readError(err)}
	}
	return page, readError(err)
}

// Recheck implements [copier.Rechecker].
func (r *reader) Recheck(ctx context.Context) error { return readError(r.src.Recheck(ctx)) }

// Close implements [copier.Source].
func (r *reader) Close() error { return readError(r.src.Close()) }

// readError is a source's error as one of the destination.
func readError(err error) error {
	if err == nil || errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	code, facts := copier.CodeOf(err)
	return &copier.Error{Kind: copier.ErrDestination, Op: "read back what was written", Code: code, Facts: facts, Err: errors.New(err.Error())}
}
