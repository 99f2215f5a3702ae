package dynamodb

import (
	"maps"
	"net/http"
	"slices"
	"sync"
	"testing"

	"github.com/dyn2raft/dyn2raft/copier"
)

// Close closes the connections that are idle, which the service sees, and does not
// end the source: another one may share what it is made of.
func TestClose(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	e.fill(10)
	s, _ := e.source()
	for range 2 {
		var wg sync.WaitGroup
		for range 4 {
			wg.Go(func() {
				if _, err := s.Read(t.Context(), copier.Span{}, new(copier.Batch)); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		open := known(s)
		if len(open) == 0 {
			t.Fatal("no connection is known of")
		}
		if err := s.Close(); err != nil || len(known(s)) != 0 {
			t.Errorf("%v, %d connections are open", err, len(known(s)))
		}
		for _, c := range open {
			if _, err := c.Write([]byte(http.MethodGet)); err == nil {
				t.Error("a connection is open")
			}
		}
	}
}

func known(s *Source) []*conn {
	s.conns.mu.Lock()
	defer s.conns.mu.Unlock()
	return slices.Collect(maps.Keys(s.conns.open))
}
