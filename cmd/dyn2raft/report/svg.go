package report

import (
	"bytes"
	"encoding/xml"
	"errors"
	"fmt"
	"html/template"
	"image/color"
	"io"
	"strconv"
	"strings"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/text"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"
	"gonum.org/v1/plot/vg/vgsvg"
)

// The colours that plots are drawn with stand for those of the page, which
// depend on whether it is read in the dark.
var (
	ink  = color.RGBA{1, 0, 1, 255}
	grid = color.RGBA{1, 0, 2, 255}
	data = color.RGBA{1, 0, 3, 255}
)

var variables = map[string]string{
	"#010001": "var(--ink)",
	"#010002": "var(--grid)",
	"#010003": "var(--data)",
	"none":    "none",
}

// A drawing is a plot that can be drawn at a size.
type drawing struct {
	plot *plot.Plot
	font text.Style
	// right are the texts that end at their place, those of the vertical axis.
	right map[string]bool
}

// svg draws at a size in CSS pixels. id is the figure's, title and desc are
// what those are told who do not see it.
func (d *drawing) svg(class, id, title, desc string, width, height int) (template.HTML, error) {
	canvas := vgsvg.New(vg.Length(width), vg.Length(height))
	dc := draw.New(canvas)
	d.plot.Draw(draw.Crop(dc, 4, -12, 4, -4))
	var drawn bytes.Buffer
	if _, err := canvas.WriteTo(&drawn); err != nil {
		return "", fmt.Errorf("draw %s: %w", id, err)
	}
	var b strings.Builder
	fmt.Fprintf(&b, `<svg class="%s" role="img" aria-labelledby="%s-t %s-d" viewBox="0 0 %d %d" style="max-width:%dpx"><title id="%s-t">%s</title><desc id="%s-d">%s</desc>`,
		class, id, id, width, height, width, id, template.HTMLEscapeString(title), id, template.HTMLEscapeString(desc))
	if err := d.restyle(&b, &drawn); err != nil {
		return "", fmt.Errorf("draw %s: %w", id, err)
	}
	b.WriteString("</svg>")
	return template.HTML(b.String()), nil //nolint:gosec // restyle writes known elements only, and escapes
}

// restyle copies what the library has drawn: groups, paths and texts, with the
// page's colours and font. Texts are anchored where they belong to, so that
// another font than the one measured does not move them away.
func (d *drawing) restyle(w *strings.Builder, drawn io.Reader) error {
	dec := xml.NewDecoder(drawn)
	for {
		tok, err := dec.Token()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		switch tok := tok.(type) {
		case xml.StartElement:
			attrs := map[string]string{}
			for _, a := range tok.Attr {
				attrs[a.Name.Local] = a.Value
			}
			switch tok.Name.Local {
			case "svg":
			case "g":
				fmt.Fprintf(w, `<g transform="%s">`, template.HTMLEscapeString(attrs["transform"]))
			case "path":
				style, err := pathStyle(attrs["style"])
				if err != nil {
					return err
				}
				fmt.Fprintf(w, `<path d="%s" style="%s"/>`, template.HTMLEscapeString(attrs["d"]), style)
			case "text":
				var content string
				if err := dec.DecodeElement(&content, &tok); err != nil {
					return err
				}
				if err := d.text(w, attrs, content); err != nil {
					return err
				}
			default:
				return fmt.Errorf("unexpected element %s", tok.Name.Local)
			}
		case xml.EndElement:
			if tok.Name.Local == "g" {
				w.WriteString("</g>")
			}
		}
	}
}

func (d *drawing) text(w *strings.Builder, attrs map[string]string, content string) error {
	x, err := strconv.ParseFloat(attrs["x"], 64)
	if err != nil {
		return err
	}
	width, anchor := float64(d.font.Width(content)), "end"
	if !d.right[content] {
		width, anchor = width/2, "middle"
	}
	fmt.Fprintf(w, `<text x="%.2f" y="%s" transform="%s" text-anchor="%s">%s</text>`, x+width,
		template.HTMLEscapeString(attrs["y"]), template.HTMLEscapeString(attrs["transform"]), anchor, template.HTMLEscapeString(content))
	return nil
}

// pathStyle puts the page's colours in.
func pathStyle(style string) (string, error) {
	var out []string
	for _, property := range strings.Split(style, ";") {
		name, value, _ := strings.Cut(property, ":")
		switch name {
		case "fill", "stroke":
			v, ok := variables[strings.ToLower(value)]
			if !ok {
				return "", fmt.Errorf("unexpected colour %q", value)
			}
			value = v
		case "stroke-width":
			if _, err := strconv.ParseFloat(value, 64); err != nil {
				return "", err
			}
		default:
			continue
		}
		out = append(out, name+":"+value)
	}
	return strings.Join(out, ";"), nil
}
