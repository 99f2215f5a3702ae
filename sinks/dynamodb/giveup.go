package dynamodb

import "context"

// A GivenUp is a run that was given up: its id, and whether it was to replace what is in
// the table. The id is empty where there was none.
type GivenUp struct {
	Run     string
	InPlace bool
}

// GiveUp ends a copy that is not to be resumed: it removes what that has put into the
// table, and then its locks, which leaves an empty table. One that was to replace what is
// in the table, and has changed nothing, leaves it locked as it was found; one that has
// begun is refused, and is resumed, or the table restored. Where no copy that writes to
// the table holds it nothing is changed. It waits, as Open does, until the copy's process is
// known to have ended. Nothing else may be called before or behind it.
func (s *Sink) GiveUp(ctx context.Context) (out GivenUp, err error) {
	if s.there, err = s.active(ctx); err != nil || !s.there {
		return out, err
	}
	l, err := s.readLocks(ctx)
	if err != nil {
		return out, err
	}
	if m, ok := l.replacing(); ok {
		return s.giveUp(ctx, m)
	}
	run, ok := l.staged()
	if holder := l.foreign(); holder != "" {
		return out, s.busyWith(l)
	}
	if !ok {
		return out, nil
	}
	if s.seen, err = s.watch(ctx, l); err != nil {
		return out, err
	}
	s.old = nil
	st, err := s.Stage(ctx, run)
	if err != nil {
		return out, err
	}
	return GivenUp{Run: run}, st.Close(false)
}
