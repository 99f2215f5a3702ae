package copier

import (
	"context"
	"errors"

	"golang.org/x/sync/errgroup"
)

// ReadAll reads an open source once, with n goroutines that are numbered from 0, and
// calls each with what they have read of it, in no order. A batch is each's until it
// returns; its error ends the reading. A [Rechecker] is asked at the end.
func ReadAll(ctx context.Context, src Source, n int, each func(worker int, entries *Batch) error) error {
	const spansEach = 8 // so that all goroutines end at about the same time
	spans, err := src.Split(ctx, n*spansEach)
	if err != nil {
		return err
	}
	queue := newQueue(spans)
	group, gctx := errgroup.WithContext(ctx)
	defer context.AfterFunc(gctx, queue.stop)()
	for worker := range n {
		group.Go(func() error {
			var b Batch
			for {
				span, ok := queue.take()
				if !ok {
					return context.Cause(gctx)
				}
				b.Reset()
				page, err := src.Read(gctx, span.Span, &b)
				if err == nil {
					err = errors.Join(page.Refused...)
				}
				if err == nil {
					err = each(worker, &b)
				}
				if err != nil {
					return err
				}
				queue.put(page.Next, false)
				queue.done()
			}
		})
	}
	if err := group.Wait(); err != nil {
		return err
	}
	if r, ok := src.(Rechecker); ok {
		return r.Recheck(ctx)
	}
	return nil
}
