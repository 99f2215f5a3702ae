package verify

import (
	"context"
	"errors"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sync/atomic"
	"testing"

	"github.com/dyn2raft/dyn2raft/copier"
	"github.com/dyn2raft/dyn2raft/copier/copiertest"
	"github.com/dyn2raft/dyn2raft/sources/raft/vaultdb"
)

// kinds are ways to have entries as a source: in any order, or ordered.
var kinds = map[string]func(t *testing.T, e entries) copier.Source{
	"in memory": func(_ *testing.T, e entries) copier.Source { return sourceOf(e) },
	"vault.db": func(t *testing.T, e entries) copier.Source {
		return &vaultdb.Source{Path: filepath.Join(directory(t, e), "vault.db")}
	},
}

// TestAnyTwoSources compares each kind with each, all and a sample, equal and not.
func TestAnyTwoSources(t *testing.T) {
	all, other := some(300), some(300)
	delete(other, "core/003/key")
	other["core/zzz"] = "more"
	other["sys/005/key"] = "changed"
	for a, wantOf := range kinds {
		for b, gotOf := range kinds {
			t.Run(a+" and "+b, func(t *testing.T) {
				opts := Options{WorkDir: t.TempDir(), Memory: copier.MinMemory}
				rep, err := Compare(t.Context(), wantOf(t, all), gotOf(t, all), opts)
				if err != nil || !rep.Equal() || rep.SourceEntries != 300 || rep.DestinationEntries != 300 {
					t.Errorf("equal: %+v, %v", rep, err)
				}
				rep, err = Compare(t.Context(), wantOf(t, all), gotOf(t, other), opts)
				var keys []string
				for _, d := range rep.Diffs {
					keys = append(keys, string(d.Kind)+" "+d.Key)
				}
				if err != nil || rep.Equal() || !slices.Equal(keys, []string{"missing core/003/key", "extra core/zzz", "different sys/005/key"}) {
					t.Errorf("not equal: %v, %v", keys, err)
				}
				opts.Sample, opts.SampleSeed = 0.9, 1
				rep, err = Compare(t.Context(), wantOf(t, all), gotOf(t, all), opts)
				if err != nil || !rep.NoDifference() || rep.DestinationEntries != 300 || rep.SourceEntries == 0 {
					t.Errorf("a sample: %+v, %v", rep, err)
				}
				rep, err = Compare(t.Context(), wantOf(t, all), gotOf(t, nil), opts)
				if err != nil || rep.NoDifference() || rep.Missing != rep.SourceEntries {
					t.Errorf("a sample of what is not there: %+v, %v", rep, err)
				}
				if left, err := os.ReadDir(opts.WorkDir); err != nil || len(left) > 0 {
					t.Errorf("left behind: %v, %v", left, err)
				}
			})
		}
	}
}

type markedSource struct{ copier.Source }

func (markedSource) MarkersIncluded() {}

// TestMarkers compares with a table of which directory markers are missing, and of which
// there are too many.
func TestMarkers(t *testing.T) {
	all := entries{"core/a": "1", "core/x/a": "2", "core/x/b": "3", "logical/1/2/3": "4", "plain": "5"}
	good := entries{"core/": "", "core/x/": "", "logical/": "", "logical/1/": "", "logical/1/2/": ""}
	maps.Copy(good, all)
	for name, test := range map[string]struct {
		change func(entries)
		want   []string
		extra  int64
	}{
		"all":           {func(entries) {}, nil, 0},
		"one missing":   {func(e entries) { delete(e, "core/x/") }, []string{"no-marker core/x/"}, 0},
		"two missing":   {func(e entries) { delete(e, "logical/"); delete(e, "logical/1/2/") }, []string{"no-marker logical/", "no-marker logical/1/2/"}, 0},
		"some too many": {func(e entries) { e["zz/"], e["core/x/y/"], e["core/x/y/z/"] = "", "", "" }, nil, 3},
		"and an entry":  {func(e entries) { delete(e, "core/x/"); delete(e, "core/x/a") }, []string{"missing core/x/a", "no-marker core/x/"}, 0},
	} {
		t.Run(name, func(t *testing.T) {
			there := maps.Clone(good)
			test.change(there)
			for _, sample := range []float64{0, 0.99} {
				opts := Options{WorkDir: t.TempDir(), Memory: copier.MinMemory, Sample: sample}
				rep, err := Compare(t.Context(), sourceOf(all), markedSource{sourceOf(there)}, opts)
				var got []string
				for _, d := range rep.Diffs {
					got = append(got, string(d.Kind)+" "+d.Key)
				}
				slices.Sort(got)
				if err != nil || !slices.Equal(got, test.want) || rep.ExtraMarkers != test.extra || rep.NoDifference() != (test.want == nil) {
					t.Errorf("%q, %d extra, %t (%v), want %q, %d", got, rep.ExtraMarkers, rep.NoDifference(), err, test.want, test.extra)
				}
			}
		})
	}
}

// TestResumeBothSides has the one side or the other die: what was read of it is not
// read again.
func TestResumeBothSides(t *testing.T) {
	why := errors.New("interrupted")
	for _, dies := range []string{"want", "got"} {
		opts := Options{WorkDir: t.TempDir(), Memory: copier.MinMemory, Resume: true}
		pages := map[string]int64{}
		pass := func(before map[string]func(context.Context) error) (*Report, error) {
			sides := map[string]*copiertest.Source{}
			for _, name := range []string{"want", "got"} {
				s := resumeSource()
				s.Info.ID, s.Before = name, before[name]
				sides[name] = s.Source
			}
			rep, err := Compare(t.Context(), sides["want"], sides["got"], opts)
			for name, s := range sides {
				pages[name] += s.Pages()
			}
			return rep, err
		}
		whole := map[string]int64{"want": resumePages, "got": 4 * resumeEntries / 4 / 20}
		var reads atomic.Int64
		rep, err := pass(map[string]func(context.Context) error{dies: func(context.Context) error {
			if reads.Add(1) > 40 {
				return why
			}
			return nil
		}})
		if !errors.Is(err, why) || rep.Kept == "" || rep.Equal() {
			t.Fatalf("%s dies: %v, kept %q", dies, err, rep.Kept)
		}
		rep, err = pass(nil)
		if err != nil || !rep.Equal() || rep.Resumed != 1 || pages[dies] != whole[dies] {
			t.Errorf("%s dies: resumed %d times, %v pages of %v, %v", dies, rep.Resumed, pages, whole, err)
		}
		if left, err := os.ReadDir(opts.WorkDir); err != nil || len(left) > 0 {
			t.Errorf("left behind: %v, %v", left, err)
		}
	}
}
