package main

import (
	_ "embed"
	"encoding/json"
	"fmt"
	"strings"
)

// A row is a measurement that has a goal.
type row struct {
	What, Against string
	// The value is Over, divided by Under where that is set.
	Over, Under metric
	Goal        float64
	AtLeast     bool `json:"at-least"` // the goal is a lower bound, and more is better; else an upper one
	// Margin is how much worse than the committed value is noise. The margins are from
	// repeated runs on 2 shared cores (see how): what waits for a delay or counts bytes
	// hardly varies (0.05), what shares a disk and processors with others does (0.35);
	// and three or five allocations for a page are the same (1).
	Margin    float64
	OnRequest bool    `json:"on-request"` // it may be missing
	Entries   float64 // of the table, where the benchmark tells; from a table of another size it does not count
	// Details are shown with the value; {unit} is Over's benchmark's metric.
	Details string
}

// rows are those of the table, in its order.
var rows = func() (rows []row) {
	if err := json.Unmarshal(rowsJSON, &rows); err != nil {
		panic(err)
	}
	return rows
}()

var (
	//go:embed rows.json
	rowsJSON []byte
	//go:embed how.md
	how string
)

func (r row) id() string { return r.What + "|" + r.Against }

func (r row) value(o output) (float64, bool) {
	v, ok := o.get(r.Over)
	if n, told := o.get(metric{r.Over.bench, "entries"}); told && r.Entries > 0 && n != r.Entries {
		return 0, false
	}
	if !ok || r.Under == (metric{}) {
		return v, ok
	}
	under, ok := o.get(r.Under)
	return v / under, ok && under > 0
}

func (r row) met(v float64) bool {
	if r.AtLeast {
		return v >= r.Goal
	}
	return v <= r.Goal
}

func (r row) goalText() string {
	if r.AtLeast {
		return fmt.Sprintf("≥ %v", r.Goal)
	}
	return fmt.Sprintf("≤ %v", r.Goal)
}

// worse reports whether v is worse than the value before by more than noise.
func (r row) worse(v, before float64) bool {
	if r.AtLeast {
		return v*(1+r.Margin) < before
	}
	return v > before*(1+r.Margin)
}

// fill puts the metrics into the details.
func (r row) fill(o output) string {
	text := r.Details
	for m := range o.values {
		if m.bench == r.Over.bench {
			v, _ := o.get(m)
			text = strings.ReplaceAll(text, "{"+m.unit+"}", number(v))
		}
	}
	return text
}
