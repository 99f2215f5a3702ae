package copier

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
)

// A pickySource refuses some of its entries, by their keys.
type pickySource struct {
	*lineSource
	refuse func(key string) bool
}

var errRefused = errors.New("not to be copied")

func (s pickySource) Read(ctx context.Context, seg Span, b *Batch) (Page, error) {
	page, err := s.lineSource.Read(ctx, seg, b)
	for i := range b.Len() {
		if key := string(b.Entry(i).Key); s.refuse(key) {
			page.Refused = append(page.Refused, &Error{Kind: ErrSource, Op: "read", Err: fmt.Errorf("%w: %q", errRefused, key), Code: "delete-it"})
		}
	}
	return page, err
}

// refusedBy returns the keys that a copy with the given events named.
func refusedBy(events *[]error) func(Event) {
	var mu sync.Mutex
	return func(e Event) {
		if r, ok := e.(ItemRefused); ok {
			mu.Lock()
			defer mu.Unlock()
			*events = append(*events, r.Err)
		}
	}
}

// TestRefusedItems copies from a source with items that can't be copied: all are
// named, what was read besides is kept, and the copy goes on once they are gone.
func TestRefusedItems(t *testing.T) {
	t.Parallel()
	for seed := range uint64(20) {
		m := newMachine(t.TempDir(), seed, 4, 300, seed%2 == 0)
		bad := map[string]bool{}
		for i, e := range m.all() {
			if i%17 == 3 {
				bad[string(e.Key)] = true
			}
		}
		picky := func(s *lineSource) Source {
			return pickySource{s, func(key string) bool { return bad[key] }}
		}
		var named []error
		res, _, err := m.try(t.Context(), attempt{opts: Options{RunID: "run-1", Events: refusedBy(&named)}, source: picky})
		if !errors.Is(err, ErrSource) || !errors.Is(err, errRefused) || coded(err) != "delete-it map[]" {
			t.Fatalf("error %v, %s", err, coded(err))
		}
		if want := fmt.Sprintf("(and %d more such items)", len(bad)-1); !strings.Contains(err.Error(), want) {
			t.Errorf("error %q does not say %q", err, want)
		}
		if len(named) != len(bad) {
			t.Errorf("%d items were named, expected %d", len(named), len(bad))
		}
		for key := range bad {
			if !slices.ContainsFunc(named, func(err error) bool { return strings.Contains(err.Error(), fmt.Sprintf("%q", key)) }) {
				t.Errorf("%q was not named", key)
			}
		}
		if !res.Resumable { // every segment began with a refused item
			if _, _, err := m.try(t.Context(), attempt{opts: Options{RunID: "run-2"}}); err != nil {
				t.Fatal(err)
			}
		} else {
			saved := res.Scan.Entries
			// A resume that meets them again names them again, and loses nothing.
			if res, _, err = m.try(t.Context(), attempt{opts: Options{Resume: true}, source: picky}); !errors.Is(err, errRefused) || !res.Resumable || res.Scan.Entries < saved {
				t.Fatalf("%d entries and then %d, %v", saved, res.Scan.Entries, err)
			}
			var warnings []string
			res, _, err = m.try(t.Context(), attempt{opts: Options{Resume: true, Events: func(e Event) {
				if w, ok := e.(Warning); ok && w.Check != "initialized" { // the fakes hold no Vault
					warnings = append(warnings, w.Message)
				}
			}}})
			if err != nil || len(warnings) > 0 {
				t.Fatalf("%v, warnings %q", err, warnings)
			}
		}
		if err := m.check(); err != nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
	}
}

// TestManyRefusedItems names as many as anybody will read, and ends.
func TestManyRefusedItems(t *testing.T) {
	t.Parallel()
	m := newMachine(t.TempDir(), 1, 3, 900, false)
	var named []error
	_, _, err := m.try(t.Context(), attempt{opts: Options{RunID: "run-1", Events: refusedBy(&named)}, source: func(s *lineSource) Source {
		return pickySource{s, func(string) bool { return true }}
	}})
	if !errors.Is(err, errRefused) || !strings.Contains(err.Error(), "(and at least 99 more such items: ") || len(named) != mostRefused {
		t.Errorf("%d items named, %v", len(named), err)
	}
}

// TestInterruptedAfterRefusedItem: whoever interrupts a copy that reads on to
// name others keeps what was read.
func TestInterruptedAfterRefusedItem(t *testing.T) {
	t.Parallel()
	m := newMachine(t.TempDir(), 2, 3, 300, false)
	bad := string(m.lines[0][0].Key)
	ctx, cancel := context.WithCancelCause(t.Context())
	defer cancel(nil)
	why := errors.New("interrupted")
	pages := 0
	var mu sync.Mutex
	res, _, err := m.try(ctx, attempt{opts: Options{RunID: "run-1"}, source: func(s *lineSource) Source {
		return pickySource{s, func(key string) bool {
			mu.Lock()
			defer mu.Unlock()
			if pages++; pages == 120 { // entries, of which a few pages are
				cancel(why)
			}
			return key == bad
		}}
	}})
	if !errors.Is(err, why) || !res.Resumable {
		t.Fatalf("resumable %v, %v", res.Resumable, err)
	}
	if _, _, err := m.try(t.Context(), attempt{opts: Options{Resume: true}}); err != nil {
		t.Fatal(err)
	}
	if err := m.check(); err != nil {
		t.Error(err)
	}
}
