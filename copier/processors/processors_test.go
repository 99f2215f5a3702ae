package processors

import (
	"runtime"
	"testing"
	"time"
)

// What Overlap adds is no processor: estimates and limits go by Count.
func TestOverlap(t *testing.T) {
	began := runtime.GOMAXPROCS(0)
	defer runtime.GOMAXPROCS(began)
	if got := Count(); got != began {
		t.Errorf("%d processors, Go uses %d", got, began)
	}
	t.Setenv("GOMAXPROCS", "")
	for range 2 {
		Overlap()
		if got := runtime.GOMAXPROCS(0); got != began+1 {
			t.Errorf("%d goroutines run at the same time, expected %d", got, began+1)
		}
		if got := Count(); got != began {
			t.Errorf("%d processors, expected %d", got, began)
		}
	}
	runtime.GOMAXPROCS(1)
	t.Setenv("GOMAXPROCS", "1")
	Overlap()
	if got := runtime.GOMAXPROCS(0); got != 1 {
		t.Errorf("%d goroutines run at the same time where the variable says 1", got)
	}
	if got := Count(); got != 1 {
		t.Errorf("%d processors where Go was told to use one", got)
	}
}

func TestTime(t *testing.T) {
	before := Time()
	for deadline := time.Now().Add(2 * time.Minute); Time() == before; {
		if time.Now().After(deadline) {
			t.Fatalf("still %v", before)
		}
	}
	if now := Time(); now < before {
		t.Errorf("%v, and before it was %v", now, before)
	}
}
