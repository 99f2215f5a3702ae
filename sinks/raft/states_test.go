package raft

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/dyn2raft/dyn2raft/copier"
	"github.com/dyn2raft/dyn2raft/copier/durable"
)

// What is in place is in the state that was noted last, for whoever looks, and for
// the next process; and that one can take it back as a whole.
func TestStates(t *testing.T) {
	for name, variant := range variants() {
		t.Run(name, func(t *testing.T) {
			o := variantIn(t, variant)
			before := slices.DeleteFunc(names(t, o.Path), func(n string) bool { return n == stagingName })
			s, ctx := mustOpen(t, o), context.Background()
			if _, err := s.Load(ctx, &sliceStream{entries: testEntries(10)}); err != nil {
				t.Fatal(err)
			}
			if err := errors.Join(s.commit(ctx), s.Close(true)); err != nil {
				t.Fatal(err)
			}
			next := func(want copier.CommitState, look State) *process {
				t.Helper()
				if state, err := Look(o.Path); err != nil || state != look {
					t.Errorf("it looks %q, want %q, %v", state, look, err)
				}
				s, err := open(o)
				if !errors.Is(err, copier.ErrInPlace) || s.found.InUse || s.found.Record == nil || s.found.Record.RunID != "run-1" || s.found.Record.State != want {
					t.Fatalf("Open finds %+v, %v, want the state %q", s.found, err, want)
				}
				return s
			}
			s = next(copier.Unconfirmed, StateUnconfirmed)
			if err := errors.Join(s.Amend(copier.Record{RunID: "run-1", State: copier.Confirmed}), s.Close(true)); err != nil {
				t.Fatal(err)
			}
			s = next(copier.Confirmed, StateConfirmed)
			if err := errors.Join(s.Amend(copier.Record{RunID: "run-1", State: copier.Released}), s.Close(true)); err != nil {
				t.Fatal(err)
			}
			s = next(copier.Released, StateComplete)
			if err := errors.Join(s.Rollback(), s.Rollback(), s.Close(false)); err != nil {
				t.Fatal(err)
			}
			if got := names(t, o.Path); !slices.Equal(got, before) {
				t.Errorf("taken back, the directory holds %q, and held %q before", got, before)
			}
		})
	}
}

// Where the record of what is in place can't be read, whoever looks is told so, and
// the next process too: it is neither a complete copy nor somebody else's data.
func TestRecordOfPlacedUnreadable(t *testing.T) {
	placed := func(t *testing.T) (o Options, file string) {
		o = testOptions(t.TempDir())
		s, ctx := mustOpen(t, o), context.Background()
		if _, err := s.Load(ctx, &sliceStream{entries: testEntries(10)}); err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(s.commit(ctx), s.Close(true)); err != nil {
			t.Fatal(err)
		}
		return o, filepath.Join(o.Path, stagingName, recordName)
	}
	other, err := durable.Seal(recordKind, recordFormat+1, record{})
	if err != nil {
		t.Fatal(err)
	}
	later, err := durable.Seal(recordKind, recordFormat, record{Copy: copier.Record{RunID: "run-1", State: "approved"}})
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		damage func(file string) error
		code   copier.Code
	}{
		"another state": {func(file string) error { return os.WriteFile(file, later, 0o600) }, PlacedByOther},
		"a byte": {func(file string) error {
			data, err := os.ReadFile(file)
			if err != nil {
				return err
			}
			data[len(data)/2] ^= 1
			return os.WriteFile(file, data, 0o600)
		}, PlacedUnknown},
		"empty":          {func(file string) error { return os.Truncate(file, 0) }, PlacedUnknown},
		"a directory":    {func(file string) error { return errors.Join(os.Remove(file), os.Mkdir(file, 0o700)) }, PlacedUnknown},
		"another format": {func(file string) error { return os.WriteFile(file, other, 0o600) }, PlacedByOther},
	} {
		t.Run(name, func(t *testing.T) {
			o, file := placed(t)
			if err := c.damage(file); err != nil {
				t.Fatal(err)
			}
			before := names(t, o.Path)
			_, looked := Look(o.Path)
			p, opened := open(o)
			if err := p.Close(true); err != nil {
				t.Error(err)
			}
			for _, err := range []error{looked, opened} {
				code, facts := copier.CodeOf(err)
				if !errors.Is(err, copier.ErrDestination) || errors.Is(err, ErrHoldsData) || code != c.code || !strings.Contains(facts["files"], filepath.Join(o.Path, vaultDBName)) {
					t.Errorf("%v, code %q, %v", err, code, facts)
				}
			}
			if got := names(t, o.Path); !slices.Equal(got, before) {
				t.Errorf("the directory holds %q, and held %q before", got, before)
			}
			// A vault.db that the copy did not put there is somebody else's all the same.
			vaultDB := filepath.Join(o.Path, vaultDBName)
			if err := errors.Join(os.Rename(vaultDB, filepath.Join(o.Path, stagingName, vaultDBName)), os.WriteFile(vaultDB, nil, 0o600)); err != nil {
				t.Fatal(err)
			}
			if state, err := Look(o.Path); err != nil || state != StateComplete {
				t.Errorf("somebody else's looks %q, %v", state, err)
			}
			p, err := open(o)
			if !errors.Is(err, ErrHoldsData) {
				t.Errorf("somebody else's: %v", err)
			}
			if err := p.Close(true); err != nil {
				t.Error(err)
			}
		})
	}
}

// Where a commit fails, and what is in place can't be taken back either, the error
// and the record say that it is not confirmed.
func TestCommitFailsTwice(t *testing.T) {
	o := testOptions(t.TempDir())
	placed := false
	o.Disk = &durable.Disk{Before: func(op durable.Op) error {
		if placed {
			return fmt.Errorf("injected: %w", syscall.EIO)
		}
		placed = op.String() == "place vault.db"
		return nil
	}}
	_, err := runAndKeep(o, testEntries(10), nil, true)
	if !errors.Is(err, copier.ErrUnconfirmed) || !errors.Is(err, copier.ErrDestination) || !errors.Is(err, syscall.EIO) {
		t.Errorf("the copy returns %v", err)
	}
	if state, err := Look(o.Path); err != nil || state != StateUnconfirmed {
		t.Errorf("it looks %q, %v", state, err)
	}
}

// What else is on record of a copy takes the place of a damaged record where it is of the
// run whose work files are there, and not otherwise.
func TestSpareRecord(t *testing.T) {
	for name, c := range map[string]struct {
		change func(r *copier.Record)
		other  bool // the record is another version's
		taken  bool
	}{
		"that of the run":       {func(*copier.Record) {}, false, true},
		"of another run":        {func(r *copier.Record) { r.RunID = "run-2" }, false, false},
		"begun another time":    {func(r *copier.Record) { r.Start = r.Start.Add(1) }, false, false},
		"of nothing in place":   {func(r *copier.Record) { r.State = "" }, false, false},
		"beside another format": {func(*copier.Record) {}, true, false},
	} {
		t.Run(name, func(t *testing.T) {
			o := testOptions(t.TempDir())
			s, ctx := mustOpen(t, o), context.Background()
			_, err := s.Load(ctx, &sliceStream{entries: testEntries(10)})
			is := copier.Record{RunID: "run-1", Start: time.Unix(1e9, 0).UTC(), State: copier.Unconfirmed}
			j, jerr := copier.OpenJournal(WorkDir(o.Path), is, false)
			if err := errors.Join(err, jerr, s.commit(ctx), s.Close(true)); err != nil || j == nil {
				t.Fatal(err)
			}
			file, text := filepath.Join(o.Path, stagingName, recordName), []byte("{")
			if c.other {
				text, err = durable.Seal(recordKind, recordFormat+1, record{})
			}
			if err := errors.Join(err, os.WriteFile(file, text, 0o600)); err != nil {
				t.Fatal(err)
			}
			spare := is
			c.change(&spare)
			o.Spare = func() (*copier.Record, error) { return &spare, nil }
			state, found, err := Placed(o)
			if taken := err == nil && state == StateUnconfirmed && found.RunID == is.RunID; taken != c.taken {
				t.Errorf("%s, %+v, %v", state, found, err)
			}
			p, err := open(o)
			if taken := p.found.Record != nil && p.found.Record.RunID == is.RunID; taken != c.taken {
				t.Errorf("Open finds %+v, %v", p.found, err)
			}
			err = p.Close(true)
			o.Spare = nil // it is on disk by now
			if state, lerr := Look(o.Path); err != nil || (lerr == nil && state == StateUnconfirmed) != c.taken {
				t.Errorf("then it looks %q, %v, %v", state, lerr, err)
			}
		})
	}
}
