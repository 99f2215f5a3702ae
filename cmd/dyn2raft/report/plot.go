package report

import (
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"
)

// A figure is a plot in two sizes, of which the page shows the one that fits:
// texts in a plot that is scaled down can't be read. The page has the template.
type figure struct {
	ID, Title, Desc, Caption string
	Sizes                    []drawing
}

// A drawing is a plot at one size, in CSS pixels: paths and texts.
type drawing struct {
	Class, ID     string
	Width, Height int
	Grid, Frame   string
	Bars          string
	Lines         []string
	Marks         []mark
}

type mark struct {
	X, Y         float64
	Anchor, Text string
}

// An axis shows the values between two, and marks some.
type axis struct {
	from, to float64
	ticks    []tick
	grid     bool
}

type tick struct {
	at    float64
	label string
}

type point struct{ x, y float64 }

// A plot is what a figure shows, in values. Its axes depend on the size.
type plot struct {
	figure
	height int
	x, y   func(narrow bool) axis
	bars   [][2]point // each from one corner to the other
	lines  [][]point
}

// The sizes of figures, in CSS pixels: what fits on A4 paper and on a phone; and the
// room for texts of 11 pixels, for each of their columns, and around a plot.
const (
	wideWidth   = 680
	narrowWidth = 330
	column      = 6.8
	border      = 8
	textHeight  = 16
)

func (p plot) draw() *figure {
	p.Sizes = []drawing{p.at(false), p.at(true)}
	return &p.figure
}

func (p plot) at(narrow bool) drawing {
	x, y := p.x(narrow), p.y(narrow)
	d := drawing{Class: "wide", ID: p.ID, Width: wideWidth, Height: p.height}
	if narrow {
		d.Class, d.ID, d.Width = "narrow", p.ID+"-n", narrowWidth
	}
	left, bottom := y.room()+border, float64(p.height-textHeight-border)
	right := float64(d.Width) - x.room()/2 - 2
	toX := func(v float64) float64 { return tenth(left + (right-left)*(v-x.from)/(x.to-x.from)) }
	toY := func(v float64) float64 { return tenth(bottom - (bottom-border)*(v-y.from)/(y.to-y.from)) }

	d.Frame = fmt.Sprintf("M%v %vV%vH%v", left, border, bottom, tenth(right))
	for _, t := range x.ticks {
		if x.grid {
			d.Grid += fmt.Sprintf("M%v %vV%v", toX(t.at), border, bottom)
		}
		d.Marks = append(d.Marks, mark{toX(t.at), bottom + textHeight, "middle", t.label})
	}
	for _, t := range y.ticks {
		if y.grid {
			d.Grid += fmt.Sprintf("M%v %vH%v", left, toY(t.at), tenth(right))
		}
		d.Marks = append(d.Marks, mark{left - border, toY(t.at) + 4, "end", t.label})
	}
	var bars strings.Builder
	for _, b := range p.bars {
		if b[0].x < b[1].x && b[0].y < b[1].y { // else there is nothing to see
			fmt.Fprintf(&bars, "M%v %vH%vV%vH%vZ", toX(b[0].x), toY(b[0].y), toX(b[1].x), toY(b[1].y), toX(b[0].x))
		}
	}
	d.Bars = bars.String()
	for _, line := range p.lines {
		var path strings.Builder
		for i, at := range line {
			fmt.Fprintf(&path, "%s%v %v", map[bool]string{true: "M", false: "L"}[i == 0], toX(at.x), toY(at.y))
		}
		d.Lines = append(d.Lines, path.String())
	}
	return d
}

// room is how wide the widest text is.
func (a axis) room() float64 {
	widest := 0
	for _, t := range a.ticks {
		widest = max(widest, columns(t.label))
	}
	return tenth(column * float64(widest))
}

func tenth(v float64) float64 { return math.Round(v*10) / 10 }

// values is an axis from 0 to at least top, with about n round values.
func values(top float64, n int) axis {
	if !(top > 0) {
		top = 1
	}
	step := math.Pow(10, math.Floor(math.Log10(top/float64(n))))
	for _, m := range []float64{1, 2, 5, 10} {
		if top/(m*step) <= float64(n) {
			step *= m
			break
		}
	}
	steps := int(math.Ceil(top/step - 1e-9))
	a := axis{to: float64(steps) * step, grid: true}
	for i := range steps + 1 {
		a.ticks = append(a.ticks, tick{float64(i) * step, short(float64(i) * step)})
	}
	return a
}

// names is an axis with a text for each of some bars, the first at its end, cut to
// as many columns as there is room for.
func names(labels []string, narrow bool) axis {
	a := axis{from: -0.5, to: float64(len(labels)) - 0.5}
	for i, label := range labels {
		a.ticks = append(a.ticks, tick{float64(len(labels) - 1 - i), shorten(label, fits(30, 14, narrow))})
	}
	return a
}

// fits is the number that fits a size.
func fits(wide, narrow int, isNarrow bool) int {
	if isNarrow {
		return narrow
	}
	return wide
}

// short is a round number with as few digits as can be.
func short(v float64) string {
	for _, u := range []struct {
		from, unit float64
		name       string
	}{{1e12, 1e12, "T"}, {1e9, 1e9, "G"}, {1e6, 1e6, "M"}, {1e4, 1e3, "k"}, {0, 1, ""}} {
		if v >= u.from {
			return strconv.FormatFloat(v/u.unit, 'g', 4, 64) + u.name
		}
	}
	return strconv.FormatFloat(v, 'g', 4, 64)
}

// timeSteps are the distances of marks on a time axis.
var timeSteps = []time.Duration{
	time.Millisecond, 2 * time.Millisecond, 5 * time.Millisecond, 10 * time.Millisecond, 20 * time.Millisecond, 50 * time.Millisecond,
	100 * time.Millisecond, 200 * time.Millisecond, 500 * time.Millisecond, time.Second, 2 * time.Second, 5 * time.Second,
	10 * time.Second, 15 * time.Second, 30 * time.Second, time.Minute, 2 * time.Minute, 5 * time.Minute,
	10 * time.Minute, 15 * time.Minute, 30 * time.Minute, time.Hour, 2 * time.Hour, 3 * time.Hour, 6 * time.Hour, 12 * time.Hour, 24 * time.Hour,
}

// axis is one with marks at round times, in seconds.
func (t timeline) axis(narrow bool) axis {
	end := max(t.end, time.Millisecond)
	n := time.Duration(fits(7, 4, narrow))
	step := end/n + 1 // where it takes weeks
	if i := slices.IndexFunc(timeSteps, func(s time.Duration) bool { return end/s <= n }); i >= 0 {
		step = timeSteps[i]
	}
	parts := t.parts
	if !t.cut {
		parts = []part{{to: end}}
	}
	a := axis{to: end.Seconds(), grid: true}
	last := -step
	for _, p := range parts {
		for at := (p.from + step - 1) / step * step; at <= p.to && at >= 0; at += step {
			if place := p.at + at - p.from; place-last >= step*4/5 { // room for the text
				a.ticks = append(a.ticks, tick{place.Seconds(), clock(at)})
				last = place
			}
		}
	}
	return a
}

// clock is a time since a beginning: 0:15, 12:00 or 1:30:00, and below a second
// 0.25 s.
func clock(t time.Duration) string {
	s := int64(t / time.Second)
	switch {
	case t%time.Second != 0 && t < time.Minute:
		return strconv.FormatFloat(t.Seconds(), 'g', 3, 64) + " s"
	case s < 3600:
		return fmt.Sprintf("%d:%02d", s/60, s%60)
	default:
		return fmt.Sprintf("%d:%02d:%02d", s/3600, s/60%60, s%60)
	}
}

// shorten cuts a text to so many columns. What is not ASCII counts as two: not every
// font has it.
func shorten(s string, most int) string {
	if columns(s) <= most {
		return s
	}
	for columns(s) > most-1 { // room for the sign
		_, n := utf8.DecodeLastRuneInString(s)
		s = s[:len(s)-n]
	}
	return s + "…"
}

func columns(s string) (n int) {
	for _, r := range s {
		n++
		if r >= utf8.RuneSelf && r != '…' {
			n++
		}
	}
	return n
}
