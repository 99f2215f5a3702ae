package dynamodb

import "context"

// GiveUp ends a copy that is not to be resumed: it removes what that has put into the
// table, and then its locks, which leaves an empty table. It returns the id of the run,
// and "" where no copy that writes to the table holds it: then nothing is changed. It
// waits, as Open does, until the copy's process is known to have ended. Nothing else may
// be called before or behind it.
func (s *Sink) GiveUp(ctx context.Context) (runID string, err error) {
	if s.there, err = s.active(ctx); err != nil || !s.there {
		return "", err
	}
	l, err := s.readLocks(ctx)
	if err != nil {
		return "", err
	}
	run, ok := l.staged()
	if holder := l.foreign(); holder != "" {
		return "", s.busy(holder)
	}
	if !ok {
		return "", nil
	}
	if s.seen, err = s.watch(ctx, l); err != nil {
		return "", err
	}
	st, err := s.Stage(ctx, run)
	if err != nil {
		return "", err
	}
	return run, st.Close(false)
}
