package copier

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
)

// A paper is a scan of one segment of a line of entries that happens on paper
// alone: what its processes write down, and what becomes of that.
type paper struct {
	rnd    *rand.Rand
	length int
	all    []checkpoint
	gone   map[int]bool    // checkpoints that can't be read any more
	files  map[string]bool // runs whose files are there, and sound
	runs   int
}

func (p *paper) initial() []Span { return []Span{{}} }

// span is the part of the line that a segment covers.
func (p *paper) span(s Span) (from, to int) {
	from, to, err := place(s.From, p.length)
	if err == nil && s.Until != nil {
		to, _, err = place(s.Until, 0)
	}
	if err != nil {
		panic(err)
	}
	return from, to
}

// page is one that a source may answer with. Some lead to several segments.
func (p *paper) page(s Span) pageRead {
	from, to := p.span(s)
	token := func(a, b int) Span {
		t := fmt.Appendf(nil, "%d", a)
		if b != p.length {
			t = fmt.Appendf(t, ":%d", b)
		}
		return Span{From: t}
	}
	end := min(from+1+p.rnd.IntN(4), to)
	read := pageRead{From: s}
	switch {
	case end == to:
	case s.Until != nil:
		next := token(end, p.length)
		next.Until = s.Until
		read.Next = []Span{next}
	case to-end > 3 && p.rnd.IntN(4) == 0:
		middle := end + 1 + p.rnd.IntN(to-end-1)
		read.Next = []Span{token(end, middle), token(middle, to)}
	default:
		read.Next = []Span{token(end, to)}
	}
	return read
}

// resume is what a process does first. It returns what is left to read.
func (p *paper) resume() ([]Span, error) {
	var known []checkpoint
	for i, c := range p.all {
		if !p.gone[i] {
			known = append(known, c)
		}
	}
	alive, lost := replay(known)
	var c checkpoint
	alive = slices.DeleteFunc(alive, func(r runRecord) bool {
		if p.files[r.File] {
			return false
		}
		lost, c.Lost = append(lost, r), append(c.Lost, r.File)
		return true
	})
	left, orphans := pending(p.initial(), &alive, &lost)
	for _, r := range orphans {
		c.Dropped = append(c.Dropped, r.File)
	}
	times := make([]int, p.length)
	count := func(from, to int) {
		for i := from; i < to; i++ {
			times[i]++
		}
	}
	for _, r := range alive {
		for _, page := range r.Pages {
			from, to := p.span(page.From)
			for _, n := range page.Next {
				a, _ := p.span(n)
				to = min(to, a)
			}
			count(from, to)
		}
	}
	for _, s := range left {
		count(p.span(s))
	}
	for i, n := range times {
		if n != 1 {
			return nil, fmt.Errorf("entry %d is in a run or still to be read %d times: %+v, left %+v", i, n, alive, left)
		}
	}
	if len(c.Lost)+len(c.Dropped) > 0 {
		p.all = append(p.all, c)
	}
	if p.rnd.IntN(3) > 0 { // else it is killed before it comes to that
		for file := range p.files {
			if !slices.ContainsFunc(alive, func(r runRecord) bool { return r.File == file }) {
				delete(p.files, file)
			}
		}
	}
	return left, nil
}

// TestPending has processes read a part of a line each and write it down, and
// checkpoints and runs get lost between them, those too that say what an earlier
// loss was taken to mean. Whatever is left, each entry is in one run that counts,
// or in one segment that is still to be read.
func TestPending(t *testing.T) {
	for seed := range uint64(10_000) {
		rnd := rand.New(rand.NewPCG(seed, 3))
		p := &paper{rnd: rnd, length: 1 + rnd.IntN(40), gone: map[int]bool{}, files: map[string]bool{}}
		for range 3 + rnd.IntN(5) {
			left, err := p.resume()
			if err != nil {
				t.Fatalf("seed %d: %v", seed, err)
			}
			p.read(left)
			for range rnd.IntN(4) {
				p.harm()
			}
		}
		if _, err := p.resume(); err != nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
	}
}

// read reads some pages, and writes a few checkpoints.
func (p *paper) read(left []Span) {
	for range p.rnd.IntN(6) {
		var c checkpoint
		for range p.rnd.IntN(4) {
			p.runs++
			r := runRecord{File: fmt.Sprintf("run-%06d", p.runs)}
			for range 1 + p.rnd.IntN(4) {
				if len(left) == 0 {
					break
				}
				i := p.rnd.IntN(len(left))
				read := p.page(left[i])
				left = append(slices.Delete(left, i, i+1), read.Next...)
				r.Pages = append(r.Pages, read)
			}
			c.Runs = append(c.Runs, r)
			p.files[r.File] = true
		}
		p.all = append(p.all, c)
	}
}

// harm damages a checkpoint, or a run.
func (p *paper) harm() {
	if n := p.rnd.IntN(1 + len(p.all) + p.runs/2); n < len(p.all) {
		p.gone[n] = true
	} else {
		delete(p.files, fmt.Sprintf("run-%06d", 1+p.rnd.IntN(p.runs+1)))
	}
}
