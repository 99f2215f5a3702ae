package dynamodb

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb/types"

	"github.com/dyn2raft/dyn2raft/copier"
)

// TestSlowRequests: a request that takes longer than 5 s says what it waits for,
// and when that is over.
func TestSlowRequests(t *testing.T) {
	slowDown := error(&types.ProvisionedThroughputExceededException{Message: aws.String("slow down")})
	broken := errors.New("connection reset")
	for name, c := range map[string]struct {
		errs []error // of the tries, each after took
		took time.Duration
		rate float64 // of a cap, of which the request takes 20 s
		want string
	}{
		"quick":             {[]error{nil}, 4 * time.Second, 0, ""},
		"no answer":         {[]error{nil}, 12 * time.Second, 0, "5s answer, 12s over answer"},
		"throttled":         {[]error{slowDown, slowDown, nil}, 4 * time.Second, 0, "5s throttled, 12s over throttled"},
		"failing":           {[]error{broken, broken, nil}, 4 * time.Second, 0, "5s retry, 12s over retry"},
		"then throttled":    {[]error{broken, slowDown, nil}, 4 * time.Second, 0, "5s retry, 8s over retry, 8s throttled, 12s over throttled"},
		"throttled forever": {append(make([]error, 0), slowDown, slowDown, slowDown, slowDown, slowDown, nil), 12 * time.Second, 0, "5s answer, 12s over answer, 12s throttled, 72s over throttled"},
		"held back":         {[]error{nil}, time.Second, 1, "5s cap, 20s over cap, 20s answer, 21s over answer"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				begin := time.Now()
				var said []string
				s := &Source{tries: tries{lasting: time.Hour, max: -1, base: 1, longest: 1, timeout: time.Hour}, creds: &credentialsLoader{}, capacity: newBucket(c.rate, true)}
				s.opts.Events = func(e copier.Event) {
					at := time.Since(begin).Round(time.Second).Seconds()
					switch e := e.(type) {
					case copier.Waiting:
						said = append(said, fmt.Sprintf("%vs %s", at, e.For))
						if e.Name != "GetItem" || !e.Since.Equal(begin) || !e.Until.IsZero() {
							t.Errorf("%+v", e)
						}
					case copier.WaitOver:
						said = append(said, fmt.Sprintf("%vs over %s", at, e.For))
					}
				}
				q := &request{action: "GetItem", units: 21 * c.rate} // of which one second's worth is there
				tries := c.errs
				err := s.send(t.Context(), q, func(context.Context, via) (err error) {
					time.Sleep(c.took)
					err, tries = tries[0], tries[1:]
					return err
				})
				if err != nil || len(tries) > 0 {
					t.Errorf("%v, %d tries left", err, len(tries))
				}
				synctest.Wait()
				if got := strings.Join(said, ", "); got != c.want {
					t.Errorf("said %s\nexpected %s", got, c.want)
				}
			})
		})
	}
}
