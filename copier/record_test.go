package copier

import (
	"errors"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/dyn2raft/dyn2raft/copier/durable"
)

// The time that a copy took is not negative, whatever was done to the clock.
func TestTook(t *testing.T) {
	at := func(h float64) time.Time { return time.Unix(1e9, 0).Add(time.Duration(h * float64(time.Hour))) }
	for _, c := range []struct {
		r    Record
		want float64 // hours
	}{
		{Record{Start: at(0), Processes: []Process{{Start: at(0)}}, End: at(2)}, 2},
		{Record{Start: at(0), End: at(2)}, 2},
		{Record{Start: at(0), Processes: []Process{{Start: at(0)}}, End: at(-2)}, 0},
		{Record{Start: at(0), Processes: []Process{{Start: at(0), End: at(1)}, {Start: at(3)}}, End: at(4)}, 4},
		{Record{Start: at(0), Processes: []Process{{Start: at(0), End: at(1)}, {Start: at(-1)}}, End: at(1)}, 3},
		{Record{Start: at(0), Processes: []Process{{Start: at(0), End: at(-1)}, {Start: at(-1)}}, End: at(0)}, 1},
	} {
		if got := c.r.Took(); got.Hours() != c.want {
			t.Errorf("%+v took %v, expected %v hours", c.r, got, c.want)
		}
	}
}

// What is sealed is what is read again; what does not add up is refused.
func TestRecordIsSealed(t *testing.T) {
	r := Record{RunID: "run-1", State: Confirmed, Start: time.Unix(1e9, 0).UTC(), Prefixes: Digests{"a/": {Entries: 2, Hash: Sum{1}}},
		Settings: map[string]string{"memory": "<1 GiB>"}, Processes: []Process{{Reason: "killed & gone"}}}
	r.Total = r.Prefixes.Total()
	fact, err := NewFact(3, map[string]int{"index": 2})
	if err != nil {
		t.Fatal(err)
	}
	r.Amend(Tool{Name: "x"}, AmendReleased, nil)
	r.Amend(Tool{Name: "x"}, "corrected", Facts{"raft": fact})
	data, err := r.Encode()
	if err != nil {
		t.Fatal(err)
	}
	got, err := DecodeRecord(data)
	if err != nil || !reflect.DeepEqual(*got, r) {
		t.Errorf("%+v, %v", got, err)
	}
	if a := got.Amended("corrected"); a == nil || a.Tool.Name != "x" || got.Amended(AmendGivenUp) != nil {
		t.Errorf("%+v", a)
	}
	if run, ok := PeekRun(append(data, 'x')[:len(data)]); run != "run-1" || !ok {
		t.Errorf("%q, %v", run, ok)
	}
	bad := []byte(strings.Replace(string(data), "confirmed", "released_", 1))
	if run, ok := PeekRun(bad); run != "run-1" || !ok {
		t.Errorf("of a damaged one: %q, %v", run, ok)
	}
	if _, err := DecodeRecord(bad); !errors.Is(err, durable.ErrDamaged) {
		t.Error(err)
	}
	for name, change := range map[string]func(*Record){
		"total": func(r *Record) { r.Total.Entries++ },
		"run":   func(r *Record) { r.RunID = "../run" },
		"none":  func(r *Record) { r.RunID = "" },
		"state": func(r *Record) { r.State = "foo" },
	} {
		r := r
		change(&r)
		if data, err = r.Encode(); err != nil {
			t.Fatal(err)
		}
		if _, err := DecodeRecord(data); err == nil {
			t.Errorf("%s: it is read", name)
		}
	}
}
