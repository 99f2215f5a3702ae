package command

import (
	"errors"
	"os"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/dyn2raft/dyn2raft/copier"
)

// TestWaits: every wait of over 5 s says what it is for, in a line and in the
// block, and one whose end is known counts down.
func TestWaits(t *testing.T) {
	phase := func(p copier.Phase) copier.Event { return copier.PhaseStarted{Phase: p} }
	since := func(w copier.Wait, name string) copier.Event {
		return copier.Waiting{For: w, Name: name, Since: time.Now().Add(-5 * time.Second)}
	}
	type step struct {
		after time.Duration
		event func() copier.Event // nil: look at the block, which has these words
		block string
	}
	at := func(d time.Duration, e func() copier.Event) step { return step{after: d, event: e} }
	look := func(d time.Duration, words string) step { return step{after: d, block: words} }
	for name, c := range map[string]struct {
		steps []step
		want  string // the lines, with the time at which each came
	}{
		"a lock": {[]step{
			at(0, func() copier.Event { return phase(copier.PhaseLock) }),
			at(time.Second, func() copier.Event {
				return copier.Waiting{For: copier.WaitHeldLock, Name: "vault-1", Since: time.Now(), Until: time.Now().Add(12 * time.Second)}
			}),
			look(8*time.Second, "lock      waiting 4s for the leader lock, held by vault-1"),
			look(4*time.Second, "lock      waiting for the leader lock"),
			at(time.Second, func() copier.Event { return copier.WaitOver{For: copier.WaitHeldLock, Name: "vault-1"} }),
			look(time.Second, "lock      taking the source's locks, 15s"),
		}, "0s taking the source's locks\n" +
			"1s waiting 12s for the leader lock, held by vault-1, to be renewed or not\n" +
			"6s waiting 7s for the leader lock, held by vault-1, to be renewed or not\n" +
			"11s waiting 2s for the leader lock, held by vault-1, to be renewed or not\n"},
		"throttled before the scan": {[]step{
			at(0, func() copier.Event { return phase(copier.PhasePrepare) }),
			at(5*time.Second, func() copier.Event { return since(copier.WaitThrottled, "DescribeTable") }),
			look(30*time.Second, "waiting for DescribeTable, which the table throttles: more read"),
			at(6*time.Second, func() copier.Event { return copier.WaitOver{For: copier.WaitThrottled, Name: "DescribeTable"} }),
			at(0, func() copier.Event { return phase(copier.PhaseLock) }),
		}, "0s checking source and destination\n" +
			"5s waiting for DescribeTable, which the table throttles: more read or write capacity ends that, for 5s so far\n" +
			"35s waiting for DescribeTable, which the table throttles: more read or write capacity ends that, for 35s so far\n" +
			"41s taking the source's locks\n"},
		"no answer, among those that come": {[]step{
			at(0, func() copier.Event { return phase(copier.PhaseScan) }),
			at(4*time.Second, func() copier.Event { return copier.PageRead{Entries: 1} }),
			at(time.Second, func() copier.Event { return since(copier.WaitAnswer, "Scan") }),
			at(0, func() copier.Event { return since(copier.WaitAnswer, "Scan") }),
			look(2*time.Second, "reading, and the table does not say"),
			at(0, func() copier.Event { return copier.WaitOver{For: copier.WaitAnswer, Name: "Scan"} }),
			look(4*time.Second, "scan      waiting for an answer to Scan, for 11s so far"),
		}, "0s reading the source\n9s waiting for an answer to Scan, for 9s so far\n"},
		"the disk": {[]step{
			at(0, func() copier.Event { return phase(copier.PhaseCommit) }),
			look(40*time.Second, "commit    still putting the result in place: nothing new for 40s"),
			at(0, func() copier.Event { return phase(copier.PhaseCleanUp) }),
			look(2*time.Second, "it is in place: removing work files, 2s"),
		}, "0s putting the result in place\n6s still putting the result in place: nothing new for 6s\n" +
			"36s still putting the result in place: nothing new for 36s\n40s the result is in place: removing work files\n"},
		"a command's own": {[]step{
			at(0, func() copier.Event {
				return copier.Waiting{For: waitOwn, Name: "the directory to be read", Since: time.Now()}
			}),
			look(40*time.Second, "start     waiting for the directory to be read, for 40s so far"),
			at(0, func() copier.Event { return copier.WaitOver{For: waitOwn, Name: "the directory to be read"} }),
			look(time.Second, "start     starting, 0s"),
		}, "5s waiting for the directory to be read, for 5s so far\n35s waiting for the directory to be read, for 35s so far\n"},
		"errors are no news": {[]step{
			at(0, func() copier.Event { return phase(copier.PhasePrepare) }),
			at(3*time.Second, func() copier.Event { return copier.Retried{Err: errors.New("slow down"), Throttled: true} }),
			look(4*time.Second, "still checking source and destination: nothing new for 7s, the table throttles"),
			look(2*time.Second, "still checking source and destination: nothing new for 9s"),
			at(0, func() copier.Event { return copier.Retried{Err: errors.New("reset")} }),
			look(0, "nothing new for 9s, requests fail and are tried"),
		}, "0s checking source and destination\n6s still checking source and destination: nothing new for 6s, the table throttles\n9s [WARN]  request failed, trying again: error=reset\n"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var b timedLines
				b.begin = time.Now()
				p := &printer{every: 30 * time.Second, screen: newScreen(&b, func(string) (string, bool) { return "", false }),
					log: hclog.New(&hclog.LoggerOptions{Output: &b, DisableTime: true})}
				stop := p.watch(time.Hour, make(chan os.Signal)) // the lines of progress are not looked at
				for _, s := range c.steps {
					time.Sleep(s.after)
					synctest.Wait()
					if s.event != nil {
						p.event(s.event())
						continue
					}
					if rows := p.block(); !strings.Contains(rows[0].text, s.block) {
						t.Errorf("the block says %q, expected %q", rows[0].text, s.block)
					}
				}
				synctest.Wait()
				stop()
				if got := b.String(); got != c.want {
					t.Errorf("lines\n%s\nexpected\n%s", got, c.want)
				}
			})
		})
	}
}

// timedLines keep of each line when it came and what it says, without its level
// and figures.
type timedLines struct {
	lockedBuilder
	begin time.Time
}

func (b *timedLines) Write(p []byte) (int, error) {
	text := strings.TrimPrefix(strings.TrimSuffix(string(p), "\n"), "[INFO]  ")
	for _, figures := range []string{": table=", ": segments="} {
		text, _, _ = strings.Cut(text, figures)
	}
	if !strings.HasPrefix(text, "[DEBUG]") {
		_, _ = b.lockedBuilder.Write([]byte(time.Since(b.begin).String() + " " + text + "\n"))
	}
	return len(p), nil
}

// Each wait has words.
func TestWaitWords(t *testing.T) {
	for what, text := range waitWords {
		if got := waitText(copier.Waiting{For: what, Name: "\x1bname"}); !strings.Contains(got, `\u001bname`) || strings.Contains(got, "%!") {
			t.Errorf("%s: %s, of %s", what, got, text)
		}
	}
}
