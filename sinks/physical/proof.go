package physical

import (
	"context"

	"github.com/dyn2raft/dyn2raft/copier"
	"github.com/dyn2raft/dyn2raft/sources/physical"
)

// This file alone may import what reads a backend: nothing else here shares code with it.

// Reader implements [copier.Stage], and reads what is there without one: its errors are
// those of a destination. What is not there as it was put shows when it is compared.
func (s *Sink) Reader(context.Context) (copier.Source, error) {
	return physical.New(physical.Options{Backend: s.opts.Backend, Name: s.opts.Name, ID: s.opts.ID, Parallel: s.opts.Parallel, Kind: copier.ErrDestination})
}
