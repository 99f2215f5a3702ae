package figures

import (
	"testing"
	"time"
)

func TestFigures(t *testing.T) {
	for _, x := range [][2]string{
		{Size(-1), "0 B"}, {Size(3 << 29), "1.5 GiB"}, {Times(1), "once"}, {Times(2), "twice"}, {Times(12), "12 times"},
		{Percent(0.05, 2), "5%"}, {Percent(0.12345, 2), "12%"}, {Percent(0.12345, 4), "12.35%"},
		{Round(90*time.Second + 400*time.Millisecond).String(), "1m30s"}, {Round(1234567 * time.Microsecond).String(), "1.23s"}, {Round(12345678).String(), "12ms"}, {Round(1234567).String(), "1.23ms"},
	} {
		if x[0] != x[1] {
			t.Errorf("%q, expected %q", x[0], x[1])
		}
	}
}
