package report

import (
	"fmt"
	"html/template"
	"math"
	"strconv"
	"time"
	"unicode/utf8"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/font"
	"gonum.org/v1/plot/plotter"
)

// A figure is a plot in two sizes, of which the page shows the one that fits:
// texts in a plot that is scaled down can't be read.
type figure struct {
	Title   string
	Wide    template.HTML
	Narrow  template.HTML
	Caption string
}

// The sizes of figures, in CSS pixels: what fits on A4 paper and on a phone.
const (
	wideWidth   = 680
	narrowWidth = 330
	// measured is the size of texts that plots leave room for. They are shown
	// smaller, at 11 pixels: the reader's machine may have a wider font than
	// the one that is measured.
	measured = 14
)

// A frame is what a plot has beside its data.
type frame struct {
	id, title, desc, caption string
	height                   int
	// fill adds the data. narrow says for which of the two sizes.
	fill func(d *drawing, narrow bool) error
}

func (f frame) draw() (*figure, error) {
	out := &figure{Title: f.title, Caption: f.caption}
	for _, narrow := range []bool{false, true} {
		d := newDrawing()
		if err := f.fill(d, narrow); err != nil {
			return nil, fmt.Errorf("plot %s: %w", f.id, err)
		}
		class, id, width := "wide", f.id, wideWidth
		if narrow {
			class, id, width = "narrow", f.id+"-n", narrowWidth
		}
		svg, err := d.svg(class, id, f.title, f.desc, width, f.height)
		if err != nil {
			return nil, err
		}
		if narrow {
			out.Narrow = svg
		} else {
			out.Wide = svg
		}
	}
	return out, nil
}

func newDrawing() *drawing {
	p := plot.New()
	p.BackgroundColor = nil
	sans := font.From(font.Font{Typeface: "Liberation", Variant: "Sans"}, measured)
	for _, axis := range []*plot.Axis{&p.X, &p.Y} {
		axis.Tick.Label.Font = sans
		axis.Tick.Label.Color = ink
		axis.Tick.LineStyle = plotter.DefaultGridLineStyle
		axis.Tick.Color = ink
		axis.Tick.Length = 4
		axis.LineStyle.Color = ink
		axis.Padding = 0
	}
	return &drawing{plot: p, font: p.X.Tick.Label, right: map[string]bool{}}
}

func (d *drawing) grid(vertical, horizontal bool) {
	g := plotter.NewGrid()
	g.Vertical.Color, g.Horizontal.Color = grid, grid
	g.Vertical.Width, g.Horizontal.Width = 1, 1
	if !vertical {
		g.Vertical.Color = nil
	}
	if !horizontal {
		g.Horizontal.Color = nil
	}
	d.plot.Add(g)
}

// lines plots values over time, which is in seconds: a line for each process.
func (d *drawing) lines(each []plotter.XYs, t timeline, narrow bool) error {
	d.grid(true, true)
	top := 0.0
	for _, points := range each {
		l, err := plotter.NewLine(points)
		if err != nil {
			return err
		}
		l.Color, l.Width = data, 1.5
		d.plot.Add(l)
		for _, p := range points {
			top = max(top, p.Y)
		}
	}
	d.timeAxis(t, narrow)
	d.valueAxis(&d.plot.Y, top, 5)
	for _, t := range d.plot.Y.Tick.Marker.Ticks(0, 0) {
		d.right[t.Label] = true
	}
	return nil
}

// A bar is one of the bars of a plot.
type bar struct {
	label string
	// parts are where it begins and ends, as often as it does.
	parts [][2]float64
}

// upTo is a bar from 0 on.
func upTo(label string, n int64) bar { return bar{label, [][2]float64{{0, float64(n)}}} }

// across draws bars from left to right, the first at the top.
func (d *drawing) across(bars []bar, narrow bool) error {
	d.grid(true, false)
	var ticks []plot.Tick
	columns := 30
	if narrow {
		columns = 14
	}
	for i, b := range bars {
		at := float64(len(bars) - 1 - i)
		label := shorten(b.label, columns)
		d.right[label] = true
		ticks = append(ticks, plot.Tick{Value: at, Label: label})
		for _, p := range b.parts {
			if err := d.rectangle(p[0], p[1], at-0.32, at+0.32); err != nil {
				return err
			}
		}
	}
	p := d.plot
	p.Y.Tick.Marker, p.Y.Tick.Length = plot.ConstantTicks(ticks), 0
	p.Y.Min, p.Y.Max = -0.5, float64(len(bars))-0.5
	return nil
}

// up draws bars from the bottom to the top, with a label for as many as there
// is room.
func (d *drawing) up(bars []bar, narrow bool) error {
	d.grid(false, true)
	room := 10
	if narrow {
		room = 5
	}
	each := (len(bars) + room - 1) / room
	top := 0.0
	var ticks []plot.Tick
	for i, b := range bars {
		at := float64(i)
		if i%each == 0 {
			ticks = append(ticks, plot.Tick{Value: at, Label: b.label})
		}
		for _, p := range b.parts {
			if err := d.rectangle(at-0.4, at+0.4, p[0], p[1]); err != nil {
				return err
			}
			top = max(top, p[1])
		}
	}
	p := d.plot
	p.X.Tick.Marker, p.X.Tick.Length = plot.ConstantTicks(ticks), 0
	p.X.Min, p.X.Max = -0.6, float64(len(bars))-0.4
	d.valueAxis(&p.Y, top, 5)
	for _, t := range p.Y.Tick.Marker.Ticks(0, 0) {
		d.right[t.Label] = true
	}
	return nil
}

func (d *drawing) rectangle(x0, x1, y0, y1 float64) error {
	if x0 >= x1 || y0 >= y1 {
		return nil // there is nothing to see
	}
	r, err := plotter.NewPolygon(plotter.XYs{{X: x0, Y: y0}, {X: x1, Y: y0}, {X: x1, Y: y1}, {X: x0, Y: y1}})
	if err != nil {
		return err
	}
	r.Color, r.LineStyle.Color, r.LineStyle.Width = data, data, 1 // the line shows what is too short for an area
	d.plot.Add(r)
	return nil
}

// valueAxis is an axis from 0 to at least top, with about n round values.
func (d *drawing) valueAxis(axis *plot.Axis, top float64, n int) {
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
	var ticks []plot.Tick
	steps := int(math.Ceil(top/step - 1e-9))
	for i := range steps + 1 {
		ticks = append(ticks, plot.Tick{Value: float64(i) * step, Label: short(float64(i) * step)})
	}
	axis.Tick.Marker = plot.ConstantTicks(ticks)
	axis.Min, axis.Max = 0, float64(steps)*step
}

// short is a round number with as few digits as can be.
func short(v float64) string {
	for _, u := range []struct {
		from float64
		name string
	}{{1e12, "T"}, {1e9, "G"}, {1e6, "M"}, {1e4, "k"}} {
		if v >= u.from {
			unit := u.from
			if u.name == "k" {
				unit = 1e3
			}
			return strconv.FormatFloat(v/unit, 'g', 4, 64) + u.name
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

// timeAxis is a horizontal axis with marks at round times.
func (d *drawing) timeAxis(t timeline, narrow bool) {
	end := max(t.end, time.Millisecond)
	n := time.Duration(7)
	if narrow {
		n = 4
	}
	step := end/n + 1 // where it takes weeks
	for _, s := range timeSteps {
		if end/s <= n {
			step = s
			break
		}
	}
	var ticks []plot.Tick
	mark := func(at, place time.Duration) {
		ticks = append(ticks, plot.Tick{Value: place.Seconds(), Label: clock(at)})
	}
	if !t.cut {
		for at := time.Duration(0); at <= end && at >= 0; at += step {
			mark(at, at)
		}
	} else {
		last := -step
		for _, p := range t.parts {
			for at := (p.from + step - 1) / step * step; at <= p.to; at += step {
				if place := t.place(at); place-last >= step*4/5 { // room for the text
					mark(at, place)
					last = place
				}
			}
		}
	}
	axis := &d.plot.X
	axis.Tick.Marker = plot.ConstantTicks(ticks)
	axis.Min, axis.Max = 0, end.Seconds()
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

// shorten cuts a text to so many columns. What is not ASCII counts as two.
func shorten(s string, columns int) string {
	used := 0
	for i, r := range s {
		w := 1
		if r >= utf8.RuneSelf {
			w = 2
		}
		if used += w; used > columns {
			cut, left := i, used-w
			for cut > 0 && left > columns-1 { // room for the sign
				_, n := utf8.DecodeLastRuneInString(s[:cut])
				cut -= n
				left--
			}
			return s[:cut] + "…"
		}
	}
	return s
}
