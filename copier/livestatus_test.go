package copier

import (
	"errors"
	"testing"
	"testing/synctest"
	"time"
)

// The status of a copy that follows its source is what its events have told last.
func TestLiveStatus(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var p Progress
		if s := p.Status(); s.Live != nil {
			t.Errorf("before it follows: %+v", s.Live)
		}
		p.Event(PhaseStarted{Phase: PhaseFollow})
		p.Event(Followed{Records: 1, Delay: 2, Noted: 5, Pending: 3, Applied: 4, Ready: true, Expected: 6})
		first := p.Status().Live
		if want := (LiveStatus{Records: 1, Delay: 2, Noted: 5, Pending: 3, Applied: 4, Ready: true, Expected: 6}); *first != want {
			t.Errorf("%+v, want %+v", *first, want)
		}
		p.Event(Taken{Rehearsal: true})
		if l := p.Status().Live; !l.Taken.Equal(time.Now()) || !l.Rehearsal || first.Rehearsal {
			t.Errorf("taken: %+v", l)
		}
		time.Sleep(time.Second)
		p.Event(Rehearsed{Outage: time.Second})
		if l := p.Status().Live; !l.Taken.IsZero() || !l.Rehearsed.Equal(time.Now()) || l.Outage != time.Second {
			t.Errorf("rehearsed: %+v", l)
		}
		p.Event(Taken{})
		p.Event(GivenBack{Err: errors.New("too late")})
		if l := p.Status().Live; !l.Taken.IsZero() || l.Rehearsal || l.Reason != "too late" || !l.GivenBack.Equal(time.Now()) {
			t.Errorf("given back: %+v", l)
		}
		p.Event(Taken{})
		p.Event(CutOver{Outage: 3 * time.Second})
		if l := p.Status().Live; !l.CutOver.Equal(time.Now()) || l.Outage != 3*time.Second || !l.Taken.IsZero() {
			t.Errorf("cut over: %+v", l)
		}
	})
}
