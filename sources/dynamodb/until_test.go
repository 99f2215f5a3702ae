package dynamodb

import (
	"errors"
	"fmt"
	"hash/crc32"
	"math/rand/v2"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/dyn2raft/dyn2raft/copier"
)

// limited returns a server in front of the table's that asks for pages of at
// most limit() items, so that they end elsewhere.
func (e *env) limited(limit func() int) string {
	return e.proxy(func(r *http.Request, send func(*http.Request)) {
		setLimit(e, r, limit())
		send(r)
	}).URL
}

// A readPage is a page as it was read: what of, and what was in it.
type readPage struct {
	seg     copier.Span
	entries []string
	markers int64
	locks   []string
}

// pages reads all there is, and keeps each page with the segment that reads it
// once more.
func (e *env) pages(s *Source, total int) (out []readPage, splits int) {
	e.Helper()
	todo := segments(total)
	for len(todo) > 0 {
		seg := todo[0]
		p, page := e.readSegment(s, seg)
		if len(page.Next) > 0 {
			p.seg.Until = page.Next[0].From
		}
		if len(page.Next) > 1 {
			splits++
		}
		todo = append(todo[1:], page.Next...)
		out = append(out, p)
	}
	return out, splits
}

func oneLine(e copier.Entry) string {
	return fmt.Sprintf("%s %d %x", e.Key, len(e.Value), crc32.ChecksumIEEE(e.Value))
}

func (e *env) readSegment(s *Source, seg copier.Span) (readPage, copier.Page) {
	e.Helper()
	var b copier.Batch
	page, err := s.Read(e.Context(), seg, &b)
	e.ok(err)
	p := readPage{seg: seg, markers: page.Markers, locks: page.Locks}
	for i := range b.Len() {
		p.entries = append(p.entries, oneLine(b.Entry(i)))
	}
	return p, page
}

// sameAgain reads a segment with an Until to its end, and compares with what
// was read of it before.
func (e *env) sameAgain(s *Source, was readPage) (pages int) {
	e.Helper()
	again := readPage{seg: was.seg}
	for todo := []copier.Span{was.seg}; len(todo) > 0; pages++ {
		p, page := e.readSegment(s, todo[0])
		if len(page.Next) > 1 && len(was.seg.Until) > 0 {
			e.Fatalf("a segment with an Until was split: %+v", page.Next)
		}
		if len(page.Next) == 1 && string(page.Next[0].Until) != string(was.seg.Until) {
			e.Fatalf("Until became %s", page.Next[0].Until)
		}
		// For a page without items DynamoDB Local counts nothing.
		if page.Counts[ReadCapacityUnits] == 0 && (e.srv != nil || len(p.entries)+int(page.Markers)+len(page.Locks) > 0) || page.WireBytes == 0 {
			e.Errorf("the page cost %v units, %d bytes", page.Counts[ReadCapacityUnits], page.WireBytes)
		}
		todo = append(todo[1:], page.Next...)
		again.entries = append(again.entries, p.entries...)
		again.markers += p.markers
		again.locks = append(again.locks, p.locks...)
	}
	if len(was.seg.Until) == 0 { // the rest of a segment may be split, and come in another order
		slices.Sort(again.entries)
		was.entries = slices.Sorted(slices.Values(was.entries))
	}
	if !slices.Equal(again.entries, was.entries) || again.markers != was.markers || !slices.Equal(again.locks, was.locks) {
		e.Errorf("from %s until %s: %d entries, %d markers, locks %q; before %d entries, %d markers, locks %q", was.seg.From, was.seg.Until,
			len(again.entries), again.markers, again.locks, len(was.entries), was.markers, was.locks)
	}
	return pages
}

// TestUntil reads a table page by page, and then each page alone once more,
// with pages that end at the same items, at earlier and at later ones.
func TestUntil(t *testing.T) {
	seed := rand.Uint64()
	cases := map[string]func(*env){}
	for _, hot := range []bool{false, true} {
		for _, total := range []int{1, 3} {
			cases[fmt.Sprintf("hot Path %v, %d segments", hot, total)] = func(e *env) {
				e.Logf("seed %d", seed)
				rng := rand.New(rand.NewPCG(seed, uint64(total)))
				rounds := 2
				if e.srv == nil {
					rounds = 1
				}
				if hot {
					e.fillHot(250)
				} else {
					e.fill(1000)
				}
				direct, _ := e.source()
				full, splits := e.pages(direct, total)
				if hot && splits == 0 || len(full) < 2 {
					e.Fatalf("%d pages, %d splits: too few for this test", len(full), splits)
				}
				for _, p := range full {
					e.sameAgain(direct, p)
				}
				for range rounds {
					first, second := 20+rng.IntN(200), 20+rng.IntN(200)
					one, _ := e.sourceAt(e.limited(func() int { return first }))
					other, _ := e.sourceAt(e.limited(func() int { return 1 + rng.IntN(second) }))
					pages, again := 0, 0
					small, _ := e.pages(one, total)
					rng.Shuffle(len(small), func(i, j int) { small[i], small[j] = small[j], small[i] })
					for _, p := range append(small[:min(8, len(small))], full[rng.IntN(len(full))]) {
						pages++
						again += e.sameAgain(other, p)
					}
					if again <= pages/2 {
						e.Errorf("%d pages were read again as %d", pages, again)
					}
					for _, p := range small[:min(4, len(small))] { // pages that are larger
						e.sameAgain(direct, p)
					}
				}
			}
		}
	}
	eachServer(t, cases)
}

// TestUntilMoved: what was read before is not there any more.
func TestUntilMoved(t *testing.T) {
	eachServer(t, map[string]func(*env){"the last item is gone": func(e *env) {
		for _, hot := range []bool{false, true} {
			if hot {
				e.fillHot(300)
			} else {
				e.fill(300)
			}
			s, _ := e.source()
			small, _ := e.sourceAt(e.limited(func() int { return 100 }))
			for _, src := range []*Source{s, small} {
				pages, _ := e.pages(src, 1)
				query, scan := 0, 0
				for _, p := range pages {
					if at, _ := parseToken(p.seg.From); at.Behind != nil && at.Behind.To != "" {
						query++
					} else {
						scan++
					}
					if query > 2 || scan > 4 && query == 0 {
						continue
					}
					until, err := parseToken(p.seg.Until)
					e.ok(err)
					if until.Behind == nil {
						continue
					}
					until.Behind.Key += "x" // an item that is not there
					p.seg.Until = until.encode()
					err = e.readToEnd(src, p.seg)
					wantError(e, err, copier.ErrMoved, fmt.Sprintf("Key %q", until.Behind.Key), copier.SourceWritten)
					wantError(e, err, copier.ErrSource, "table "+e.table, "")
				}
				if hot && query == 0 {
					e.Error("no page was read by Query")
				}
			}
		}
	}})
}

func (e *env) readToEnd(s *Source, seg copier.Span) error {
	for todo := []copier.Span{seg}; len(todo) > 0; {
		var b copier.Batch
		page, err := s.Read(e.Context(), todo[0], &b)
		if err != nil {
			if b.Len() != 0 {
				e.Errorf("after the error the batch has %d entries", b.Len())
			}
			return err
		}
		todo = append(todo[1:], page.Next...)
	}
	return nil
}

// TestUntilOutOfOrder: where items do not come in the order of their Keys, what
// lies behind one can't be told.
func TestUntilOutOfOrder(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	e.fillHot(300)
	s, _ := e.source()
	full, _ := e.pages(s, 1)
	shuffled := e.proxy(func(r *http.Request, send func(*http.Request)) {
		setLimit(e, r, 20)
		send(r)
	})
	shuffled.Config.Handler = reverseItems(e, shuffled.Config.Handler)
	refused := 0
	for _, p := range full {
		at, err := parseToken(p.seg.From)
		e.ok(err)
		if len(p.seg.Until) == 0 || at.Behind != nil && at.Behind.To != "" {
			continue
		}
		src, _ := e.sourceAt(shuffled.URL)
		var b copier.Batch
		var got []string
		err = nil
		for todo := []copier.Span{p.seg}; len(todo) > 0 && err == nil; {
			b.Reset()
			var page copier.Page
			page, err = src.Read(t.Context(), todo[0], &b)
			for i := range b.Len() {
				got = append(got, oneLine(b.Entry(i)))
			}
			todo = append(todo[1:], page.Next...)
		}
		slices.Sort(got)
		slices.Sort(p.entries)
		switch {
		case errors.Is(err, copier.ErrMoved):
			refused++
		case err != nil || !slices.Equal(got, p.entries):
			t.Errorf("error %v, %d entries of %d", err, len(got), len(p.entries))
		}
	}
	if refused == 0 {
		t.Error("nothing was refused")
	}
}

func TestBadUntil(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	s, _ := e.source()
	var b copier.Batch
	if _, err := s.Read(t.Context(), copier.Span{Until: []byte("{")}, &b); !errors.Is(err, copier.ErrSource) || !strings.Contains(err.Error(), "resume token") {
		t.Errorf("error is %v", err)
	}
}
