package command

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"al.essio.dev/pkg/shellescape"
	"github.com/urfave/cli/v3"

	"github.com/dyn2raft/dyn2raft/cmd/dyn2raft/hints"
	"github.com/dyn2raft/dyn2raft/cmd/dyn2raft/plan"
	"github.com/dyn2raft/dyn2raft/copier"
	"github.com/dyn2raft/dyn2raft/copier/vaultconfig"
	sink "github.com/dyn2raft/dyn2raft/sinks/raft"
	"github.com/dyn2raft/dyn2raft/sources/dynamodb"
)

// An ending is the error of work that did not come to its end, with what became of it
// and which commands come next.
type ending struct {
	error
	kept string // comes behind what to do about the error itself
	// alone has it take the place of that. It does so wherever the work was interrupted.
	alone         bool
	resume, reset []string // the words of the commands that come behind it, if any
	restart       []string // in place of reset, where nothing is locked
	free          bool     // nothing is locked, and there is something to be given up all the same
}

func (e *ending) Unwrap() error { return e.error }

// hint is what a person reads. Its lines have so many columns; 0 is no limit.
func (e *ending) hint(columns int) string {
	if e.resume == nil {
		return e.kept
	}
	const until = "(until then no Vault starts on the table)"
	columns = max(columns-2, 0) // its lines are indented
	if e.restart != nil {
		return e.kept + "\n" + pasteable("to resume:     ", e.resume, columns) + "\n" + pasteable("to start over: ", e.restart, columns)
	}
	out := e.kept + "\n" + pasteable("to resume:  ", e.resume, columns)
	if e.reset == nil {
		return out
	}
	out += "\n" + pasteable("to give up: ", e.reset, columns)
	if e.free {
		return out
	}
	if columns > 0 {
		return out + "\n" + strings.Repeat(" ", len("to give up: ")) + until
	}
	return out + "   " + until
}

// commandWords are the words of a command with the configuration of cmd.
func commandWords(cmd *cli.Command, name string, flags ...string) []string {
	return slices.Concat(program(), []string{name, "-config " + shellescape.Quote(cmd.String("config"))}, flags)
}

// commandLine is such a command in one line.
func commandLine(cmd *cli.Command, name string, flags ...string) string {
	return strings.Join(commandWords(cmd, name, flags...), " ")
}

// alike is another command with the configuration of cmd, and with those of its flags that
// the other one has too, but for some.
func alike(cmd, other *cli.Command, flags []string, but ...string) string {
	but = append(but, "config")
	for _, flag := range cmd.Flags {
		if name := flag.Names()[0]; !hasFlag(other, name) {
			but = append(but, name)
		}
	}
	return commandLine(cmd, other.Name, append(flags, givenFlags(cmd, but...)...)...)
}

// leftThere adds to the error of a manifest's place, which ends a copy before it has
// looked at its destination, what an earlier process has left there. Without the manifest
// nothing is lost but the record.
func leftThere(err error, cfg *vaultconfig.Config) error {
	state, placed, lerr := placedAt(cfg.Destination, nil)
	_, setup, serr := copier.ReadStatus(stateOf(cfg.Destination))
	var what string
	switch {
	case lerr != nil || serr != nil:
		return errors.Join(err, lerr, serr)
	case placed != nil && state != sink.StateComplete:
		what = fmt.Sprintf("the copy of run %s is in place in %s, and %s: do not start a Vault on it, and leave the table locked", placed.RunID, cfg.Destination.Name(), strings.ToUpper(string(state)))
	case setup != nil && setup.Held:
		what = fmt.Sprintf("run %s is unfinished: what it has read is kept, and the table stays locked for it", setup.RunID)
	default:
		return err
	}
	return hints.With(err, hints.Of(err)+"\nnothing was changed: "+what+". Only its record depends on the manifest")
}

// howToGoOn adds to the error of a copy what became of the work done, by how far the
// copy came, and what to do now: the same command, with every flag that was given and
// still means something.
func howToGoOn(err error, res copier.Record, cmd *cli.Command, cfg *vaultconfig.Config) error {
	// These flags are left out: they are said already, contradict resuming, or are done.
	more := givenFlags(cmd, "config", "resume", "restart", "reset", "source-stopped", "backup")
	again := func(flag string) []string { return commandWords(cmd, "copy", append([]string{flag}, more...)...) }
	line := func(flag string) string { return strings.Join(again(flag), " ") }
	to := cfg.Destination
	holds, toTable := hints.ResultWord(to.Type), to.Type == vaultconfig.DynamoDB
	reset := commandWords(cmd, "copy", "-reset")
	if toTable {
		reset = append(reset, "-work-dir "+shellescape.Quote(cmd.String("work-dir")))
	}

	is := func(target error) bool { return errors.Is(err, target) }
	_, interrupted := errors.AsType[*signalError](err)
	unconfirmed := is(copier.ErrUnconfirmed) && !is(copier.ErrReadBack)
	_, locked := res.Process().Phases[copier.PhaseLock]
	locked = locked && !res.Complete && !is(copier.ErrLocked)

	if code, facts := copier.CodeOf(err); code == dynamodb.LockedByCopy {
		work := stateOf(cfg.Destination)
		if _, setup, serr := copier.ReadStatus(work); serr == nil && setup != nil && setup.RunID != facts["run"] {
			return hints.With(err, fmt.Sprintf("the record of an unfinished copy in %s is that of run %s, begun into %s, which has not locked this table: "+
				"if it has the place of another record, put that one back, and resume its copy (-resume)", work, setup.RunID, hints.Destination(setup.Destination))+
				"\notherwise free the table: "+strings.Join(reset, " ")+"\nand then start over: "+line("-restart"))
		}
	}
	e := &ending{error: err}
	unlocked := cfg.Source.Type != vaultconfig.DynamoDB // nothing was locked, and nothing is to be given back
	switch {
	case res.Live != nil && res.Complete && res.State == copier.Released && interrupted:
		e.alone, e.kept = true, "the copy is complete, and a Vault may be started on it. The table was not watched to the end for what somebody still writes to it.\n"+
			"Before you start one, watch on: "+line("-resume")+"\n"+
			"or, with one started, compare the table: "+commandLine(cmd, "verify", "-closed")
	case res.Live != nil && res.Resumable && !res.InPlace && !is(copier.ErrNotReleased):
		e.kept, e.resume, e.reset, e.free = "what was read is kept, and nothing is locked: Vault serves on. Resume it within 23 hours; the table's stream has nothing older", again("-resume"), reset, true
	case toTable && res.Resumable && res.Overwritten:
		e.kept, e.resume = to.Name()+" is neither what it was nor what it is to become. It stays locked until you resume this copy, or restore the backup", again("-resume")
	case toTable && cmd.Bool("replace") && res.Resumable && !res.InPlace:
		e.kept, e.resume, e.reset = "what was read is kept, and "+to.Name()+" stays locked for this copy. Nothing in it was changed yet", again("-resume"), reset
	case toTable && res.Resumable && !res.InPlace:
		e.kept, e.resume, e.reset = "what was written is kept, and "+to.Name()+" stays locked for this copy", again("-resume"), reset
	case unlocked && res.Resumable && !res.InPlace:
		e.kept, e.resume, e.restart = "what was read is kept", again("-resume"), again("-restart")
	case unlocked && interrupted && !res.InPlace && !is(copier.ErrWorkGone):
		e.kept = "nothing was put in place; run the same command again to start over"
	case unlocked && (!res.InPlace || !interrupted && !is(copier.ErrReadBack)):
		return err
	case unconfirmed && res.State != "":
		e.alone, e.kept = true, "DO NOT START A VAULT ON "+to.Name()+", AND STOP THE ONE THAT RUNS ON IT: "+holds+" is in place, and entries may be missing in it.\n"+
			"Stop every Vault, on the table and on the copy. Then have the table asked again, which confirms the copy or takes it back: "+line("-resume")+"\n"+
			"What a Vault has written to the copy is lost when that is taken back."
	case unconfirmed && is(copier.ErrMoved):
		e.alone, e.kept = true, holds+" was taken back, and nothing is in place in "+to.Name()+": a Vault may have written to the table since it was read. What was read is worth nothing any more.\n"+
			"Stop every Vault that uses the table, then copy again: "+line("-restart")+"\n"+
			"or give up: "+strings.Join(reset, " ")
	case unconfirmed:
		e.kept, e.resume, e.reset = holds+" was taken back, and nothing is in place; what was read is kept, and the table stays locked for this copy", again("-resume"), reset
	case res.State == copier.Confirmed && !is(copier.ErrReadBack) && !is(copier.ErrConfig):
		e.alone, e.kept = true, "the copy is in place in "+to.Name()+", but the table was not given back: somebody may have written to it since.\n"+
			"Do not start a Vault, on the table or on the copy, before this has said that the copy is complete: "+line("-resume")
	case res.InPlace && is(copier.ErrReadBack):
		return errors.Join(errDifferent, err)
	case res.InPlace && interrupted:
		e.kept = "the copy is in place, and is not checked to its end; run the same command again"
	case res.InPlace:
		return err
	case res.Resumable:
		e.kept, e.resume, e.reset = "what was read is kept, and the table stays locked for this copy", again("-resume"), reset
		if code, _ := copier.CodeOf(err); locked && code == dynamodb.NoTable { // it was there when this process locked it
			e.kept, e.resume = "what was read is kept. The table is not there any more, and its locks are gone with it: nothing is locked.\n"+
				"If it comes back as it was: "+line("-resume")+"\nif another one takes its place: "+line("-restart"), nil
		} else if is(copier.ErrNotReleased) {
			e.kept = "nothing was put in place, and the table may still be locked for this copy"
		}
		if _, setup, serr := copier.ReadStatus(stateOf(to)); serr == nil && setup != nil && !plan.Names(cfg, setup.Source) {
			return hints.With(err, fmt.Sprintf("the unfinished copy there is one of %s (%s), and this configuration names %s: resume it with the one that it was begun with",
				hints.Source(setup.Source), setup.Source.ID, cfg.Source.Name()))
		}
	case is(copier.ErrWorkGone):
		return err
	case is(copier.ErrNotReleased):
		e.kept = "nothing was put in place, and the copy can't be resumed; free the table: " + strings.Join(reset, " ")
	case interrupted:
		e.kept = "nothing was put in place, and the table is as it was; run the same command again to start over"
	case locked:
		e.kept = "nothing is kept, since nothing that can be resumed was saved, and nothing was put in place: the table is not locked any more, and a Vault may start on it"
	default:
		return err
	}
	return e
}
