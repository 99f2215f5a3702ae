package copier

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
)

// A splitOnly is a source that is split as its function says, and can't be read.
type splitOnly struct {
	fakeSource
	split func(n int) []Span
}

func (s *splitOnly) Split(_ context.Context, n int) ([]Span, error) { return s.split(n), nil }

func (s *splitOnly) Read(context.Context, Span, *Batch) (Page, error) { return Page{}, errFake }

// As many spans as there may be are on record, and small: the setup, which is
// written often, does not grow with them.
func TestMostSpans(t *testing.T) {
	dir := t.TempDir()
	begin := func(resume bool) (*Journal, error) {
		return OpenJournal(dir, Record{Source: Info{Name: "fake"}}, resume)
	}
	j, err := begin(false)
	if err != nil {
		t.Fatal(err)
	}
	src := &splitOnly{split: func(n int) []Span {
		out := make([]Span, n)
		for i := range out {
			out[i] = Span{Index: i, From: fmt.Appendf(nil, `{"segment":%d,"of":%d}`, i, n)}
		}
		return out
	}}
	opts := ScanOptions{Workers: 1, Journal: j, Segments: MaxSpans}
	if _, _, err = Scan(t.Context(), src, opts); !errors.Is(err, errFake) {
		t.Fatal(err)
	}
	for name, most := range map[string]int64{setupName: 1 << 10, spansName: 50 * MaxSpans} {
		if fi, err := os.Stat(filepath.Join(dir, name)); err != nil || fi.Size() > most {
			t.Errorf("%s: %v, %d bytes", name, err, fi.Size())
		}
	}
	if j, err = begin(true); err != nil {
		t.Fatal(err)
	}
	last := j.j.spans[MaxSpans-1]
	if want := `{"segment":999999,"of":1000000}`; len(j.j.spans) != MaxSpans || last.Index != MaxSpans-1 || string(last.From) != want {
		t.Errorf("%d spans, the last %+v", len(j.j.spans), last)
	}
}

// More are refused before anything else is done, the source's lock included.
func TestTooManySpans(t *testing.T) {
	c := &copyCase{t: t}
	c.src, c.dst = newFakeSource(rand.New(rand.NewPCG(1, 2)), nil, 1, 1), &fakeSink{c: c, dir: t.TempDir()}
	c.src.log = c.add
	_, err := Copy(t.Context(), &lockedSource{c.src, c}, c.dst, Options{Segments: MaxSpans + 1})
	if want := "1000001 segments: a source is split into 1000000 at the most"; !errors.Is(err, ErrConfig) || err.Error() != want || c.String() != "" {
		t.Errorf("%v, after %q", err, c)
	}
}

// A source that does not number its spans would mix them up.
func TestSpansOutOfOrder(t *testing.T) {
	for name, spans := range map[string][]Span{
		"twice":   {{}, {}},
		"order":   {{Index: 1}, {Index: 0}},
		"part":    {{Until: []byte("x")}},
		"beyond":  make([]Span, MaxSpans+1),
		"counted": {{Index: 1}},
	} {
		t.Run(name, func(t *testing.T) {
			if name == "beyond" {
				for i := range spans {
					spans[i].Index = i
				}
			}
			src := &splitOnly{split: func(int) []Span { return spans }}
			if _, _, err := Scan(t.Context(), src, ScanOptions{WorkDir: t.TempDir()}); !errors.Is(err, ErrSource) {
				t.Errorf("error is %v", err)
			}
		})
	}
}

// Without its spans an unfinished copy is refused before the source is asked
// anything, and can be thrown away.
func TestSpansLost(t *testing.T) {
	for name, harm := range map[string]func(path string) error{
		"gone":    os.Remove,
		"damaged": func(path string) error { return os.WriteFile(path, []byte("{}\n00000000\n"), 0o600) },
		"fewer": func(path string) error {
			return (&journal{dir: filepath.Dir(path)}).writeSealed(spansName, kindSpans, splitRecord{From: make([][]byte, 2)})
		},
	} {
		t.Run(name, func(t *testing.T) {
			m := begun(t, 1, Options{})
			if err := harm(filepath.Join(m.work(), spansName)); err != nil {
				t.Fatal(err)
			}
			before := contents(t, m.dir)
			res, _, err := m.try(t.Context(), attempt{opts: Options{Resume: true}})
			if !errors.Is(err, ErrDestination) || coded(err) != "journal-gone map[]" || res.Resumable || m.lock.owner != "run-1" || contents(t, m.dir) != before {
				t.Errorf("%v, resumable %v, locked by %q", err, res.Resumable, m.lock.owner)
			}
			if res, _, err = m.try(t.Context(), attempt{opts: Options{Restart: true}}); err != nil || !res.Complete {
				t.Errorf("%+v, %v", res, err)
			}
		})
	}
}

// What is thrown away loses its spans behind its checkpoints: a process that
// resumes in between has read nothing, and splits the source.
func TestSpansRemoved(t *testing.T) {
	m := begun(t, 1, Options{})
	for _, f := range filesIn(t, m.work()) {
		if journalFile.MatchString(f) && f != setupName {
			if err := os.Remove(filepath.Join(m.work(), f)); err != nil {
				t.Fatal(err)
			}
		}
	}
	if res, _, err := m.try(t.Context(), attempt{opts: Options{Resume: true}}); err != nil || !res.Complete {
		t.Errorf("%+v, %v", res, err)
	}
}
