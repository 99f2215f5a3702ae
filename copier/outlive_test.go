package copier

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
)

// TestOutlive has a source that does not answer at the end of a copy: that it gives no
// answer is its fault, whether or not the copy was interrupted.
func TestOutlive(t *testing.T) {
	for name, interrupted := range map[string]bool{"not interrupted": false, "interrupted": true} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ctx, interrupt := context.WithCancel(t.Context())
				defer interrupt()
				asking, done := outlive(ctx)
				defer done()
				if interrupted {
					interrupt()
				}
				<-asking.Done()
				if err := context.Cause(asking); !errors.Is(err, ErrSource) {
					t.Errorf("%v, want ErrSource", err)
				}
			})
		})
	}
}
