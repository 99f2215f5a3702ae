package dynamodb

import (
	"fmt"

	"github.com/dyn2raft/dyn2raft/copier"
)

// What was read of a segment and got lost is read once more: from where a page
// began to where it ended, which is the segment's Until. The pages need not end
// at the same items as they did. So the item that Until names, the last one of
// what was read, is looked for among the items, and what comes behind it is
// cut, see [pageDecoder.see].

// restUntil returns what is left to read up to t.until after a page that began
// at from: a part of it is never split.
func (s *Source) restUntil(from *position, t *scanTarget) ([]position, error) {
	switch {
	case t.found && t.order.descends:
		// What was cut may have been a part of it.
		return nil, s.moved(fmt.Errorf("the items of Path %q do not come in the order of their Keys", t.until.Path))
	case t.found:
		return nil, nil
	case t.last == nil:
		return nil, s.moved(fmt.Errorf("the item with Path %q and Key %q, at which a page ended before, does not come any more", t.until.Path, t.until.Key))
	}
	trail, err := s.movesOn(from, t.last)
	if err != nil {
		return nil, err
	}
	next := position{Path: t.last.Path, Key: t.last.Key, trail: trail}
	if from != nil {
		next.To = from.To
	}
	return []position{next}, nil
}

func (s *Source) moved(err error) error {
	return &copier.Error{Kind: copier.ErrSource, Op: "read a part of table " + s.opts.Table + " again", Code: copier.SourceWritten, Err: fmt.Errorf("%w: %w", copier.ErrMoved, err)}
}
