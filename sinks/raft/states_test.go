package raft

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"syscall"
	"testing"

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
