package copier

import (
	"context"
	"errors"
	"os"

	"golang.org/x/sync/errgroup"

	"github.com/dyn2raft/dyn2raft/copier/durable"
)

// Spool reads a stream to its end, and returns what mapTo makes of it, as
// [ScanOptions].Map does: with it, an [Ordered] source is got ready while another one
// is scanned. It waits in a work file, which takes the place of one that a killed process
// has left, and which goes when the result is closed.
func Spool(ctx context.Context, file string, in Stream, mapTo func(e Entry, out *Batch)) (*Sorted, error) {
	create := func() (runFile, error) {
		if err := new(durable.Disk).RemoveFile(file); err != nil {
			return nil, err
		}
		return os.OpenFile(file, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600) // a link is not followed
	}
	run, err := writeRun(ctx, create, &mappedStream{in: in, mapTo: mapTo})
	if err != nil {
		return nil, err
	}
	out, err := merge(nil, []sortedRun{run}, false)
	if err != nil {
		err = errors.Join(err, os.Remove(file))
	}
	return out, err
}

type mappedStream struct {
	in    Stream
	mapTo func(e Entry, out *Batch)
	batchStream
	batch Batch
}

func (s *mappedStream) Next() (Entry, error) {
	for s.i == s.batch.Len() {
		e, err := s.in.Next()
		if err != nil {
			return Entry{}, err
		}
		s.batch.Reset()
		s.mapTo(e, &s.batch)
		s.batchStream = batchStream{b: &s.batch}
	}
	return s.batchStream.Next()
}

// ReadAll reads an open source once, with n goroutines that are numbered from 0, and
// calls each with what they have read of it, in no order. A batch is each's until it
// returns; its error ends the reading. A [Rechecker] is asked at the end.
func ReadAll(ctx context.Context, src Source, n int, each func(worker int, entries *Batch) error) error {
	const spansEach = 8 // so that all goroutines end at about the same time
	spans, err := src.Split(ctx, n*spansEach)
	if err != nil {
		return err
	}
	err = readSpans(ctx, src, spans, n, func(worker int, page Page, entries *Batch) error {
		if err := errors.Join(page.Refused...); err != nil {
			return err
		}
		return each(worker, entries)
	})
	if err != nil {
		return err
	}
	if r, ok := src.(Rechecker); ok {
		return r.Recheck(ctx)
	}
	return nil
}

// readSpans reads spans, and what is left of them, as ReadAll does.
func readSpans(ctx context.Context, src Source, spans []Span, n int, each func(worker int, page Page, entries *Batch) error) error {
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
					err = each(worker, page, &b)
				}
				if err != nil {
					return err
				}
				queue.put(page.Next, false)
				queue.done()
			}
		})
	}
	return group.Wait()
}
