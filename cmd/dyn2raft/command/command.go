// Package command is dyn2raft's command line: flags, what a person reads, and
// exit statuses. All else is in the library.
package command

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"

	"github.com/urfave/cli/v3"

	"github.com/dyn2raft/dyn2raft/copier"
)

// Exit statuses. They are a documented interface.
const (
	exitDone        = 0
	exitUsage       = 1  // usage, configuration or internal error
	exitDifferent   = 3  // differences found
	exitSource      = 10 // the source failed
	exitLocked      = 11 // another run, or a live Vault
	exitDestination = 12 // the destination failed
	// An interrupted run exits with 128 and the signal's number: 130, 143.
)

// Streams are what a command talks to. Results go to Out, all else to Err.
type Streams struct {
	In       *os.File
	Out, Err io.Writer
	// Env looks up the environment variables that a configuration takes.
	Env func(string) (string, bool)
}

// errDifferent is returned by commands that have found differences and said
// which.
var errDifferent = errors.New("source and destination differ")

// A usageError is a mistake on the command line.
type usageError struct{ msg, hint string }

func (e *usageError) Error() string { return e.msg }

// Main runs the command line args, whose first element is the program's name,
// and returns the exit status.
func Main(args []string, std Streams) int {
	ctx, stop := withSignals(context.Background(), std.Err)
	defer stop()
	err := root(std).Run(ctx, args)
	if err != nil {
		printError(std.Err, err)
	}
	return exitStatus(err)
}

func root(std Streams) *cli.Command {
	return &cli.Command{
		Name:  "dyn2raft",
		Usage: "move HashiCorp Vault from DynamoDB to integrated storage (Raft)",
		Description: "copy reads the table of Vault's dynamodb storage and writes a data directory that an\n" +
			"unmodified Vault starts from. verify reads the table again and compares.\n" +
			"Flags take one dash or two.",
		Commands:                   []*cli.Command{copyCommand(std), verifyCommand(std), demoCommand(std), versionCommand(std)},
		Writer:                     std.Out,
		ErrWriter:                  std.Err,
		HideVersion:                true,
		Suggest:                    true,
		ExitErrHandler:             func(context.Context, *cli.Command, error) {}, // Main does that, once
		OnUsageError:               onUsageError,
		EnableShellCompletion:      true,
		ShellCompletionCommandName: "completion",
		Action: func(_ context.Context, cmd *cli.Command) error {
			if cmd.Args().Present() {
				return &usageError{fmt.Sprintf("there is no command %q", cmd.Args().First()), "run `dyn2raft help` for the commands"}
			}
			return cli.ShowRootCommandHelp(cmd)
		},
	}
}

func onUsageError(_ context.Context, cmd *cli.Command, err error, _ bool) error {
	return &usageError{err.Error(), fmt.Sprintf("run `%s -help` for its flags", cmd.FullName())}
}

// noArguments refuses arguments that are not flags, such as the value of a
// mistyped one.
func noArguments(cmd *cli.Command) error {
	if cmd.Args().Present() {
		return &usageError{fmt.Sprintf("%s takes no argument %q", cmd.FullName(), cmd.Args().First()),
			fmt.Sprintf("run `%s -help` for its flags", cmd.FullName())}
	}
	return nil
}

// exitStatus is the one place where an error becomes a status.
func exitStatus(err error) int {
	var sig *signalError
	switch {
	case err == nil:
		return exitDone
	case errors.As(err, &sig):
		return 128 + int(sig.signal)
	case errors.Is(err, errDifferent):
		return exitDifferent
	case errors.Is(err, copier.ErrConfig):
		return exitUsage
	case errors.Is(err, copier.ErrLocked):
		return exitLocked
	case errors.Is(err, copier.ErrDestination):
		return exitDestination
	case errors.Is(err, copier.ErrSource):
		return exitSource
	default:
		return exitUsage
	}
}

// A signalError is the cause of a context that a signal ended.
type signalError struct{ signal syscall.Signal }

func (e *signalError) Error() string { return "interrupted by " + e.signal.String() }

// withSignals returns a context that the first SIGINT or SIGTERM cancels. The
// second one ends the process at once, which leaves the destination as a
// killed run does: without anything that Vault would open.
func withSignals(parent context.Context, stderr io.Writer) (context.Context, func()) {
	ctx, cancel := context.WithCancelCause(parent)
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	done := make(chan struct{})
	go func() {
		select {
		case s := <-signals:
			sig := s.(syscall.Signal) //nolint:errcheck // these two are
			_, _ = fmt.Fprintf(stderr, "%s: stopping in order; a second signal stops at once\n", sig)
			cancel(&signalError{sig})
		case <-done:
			return
		}
		select {
		case s := <-signals:
			os.Exit(128 + int(s.(syscall.Signal))) //nolint:errcheck // as above
		case <-done:
		}
	}()
	return ctx, func() {
		signal.Stop(signals)
		close(done)
		cancel(nil)
	}
}
