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
	"reflect"
	"strings"
	"syscall"

	"github.com/urfave/cli/v3"
	"golang.org/x/sys/unix"

	"github.com/dyn2raft/dyn2raft/cmd/dyn2raft/visible"
	"github.com/dyn2raft/dyn2raft/copier"
)

// Exit statuses. They are a documented interface.
const (
	exitDone        = 0
	exitUsage       = 1  // usage, configuration or internal error
	exitDifferent   = 3  // differences found
	exitRunning     = 4  // of status: a copy is running
	exitUnfinished  = 5  // of status: a copy can be resumed
	exitNone        = 6  // of status: there is no copy
	exitSource      = 10 // the source failed
	exitLocked      = 11 // another run, or a live Vault
	exitDestination = 12 // the destination failed
	// An interrupted run exits with 128 and the signal's number: 129, 130, 143.
)

// An exitMeaning is what the command reference says of a status.
type exitMeaning struct{ Status, Meaning string }

var exitMeanings = []exitMeaning{
	{"0", "done"},
	{"1", "usage, configuration or internal error"},
	{"3", "differences found"},
	{"4, 5 and 6", "of status: a copy is running, is unfinished, there is none"},
	{"10", "the source failed"},
	{"11", "locked by another run or a live Vault"},
	{"12", "the destination failed"},
	{"129, 130 and 143", "interrupted by SIGHUP, SIGINT and SIGTERM"},
}

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
func (e *usageError) Hint() string  { return e.hint }

// mistake is a usageError where one was made. Of several, [cmp.Or] is the first.
func mistake(made bool, msg, hint string) error {
	if !made {
		return nil
	}
	return &usageError{msg, hint}
}

// flagIs says what the value of a flag is.
func flagIs(cmd *cli.Command, name string) string {
	if s, ok := cmd.Value(name).(string); ok {
		return fmt.Sprintf("-%s is %q", name, s)
	}
	return fmt.Sprintf("-%s is %v", name, cmd.Value(name))
}

// Main runs the command line args, whose first element is the program's name,
// and returns the exit status.
func Main(args []string, std Streams) int {
	startedAs = os.Geteuid()
	if len(args) == 2 && args[1] == rootSideName {
		return serveRoot()
	}
	// A pipe whose reader is gone, as that of `| tee` is after Ctrl-C, must
	// not end a copy before it has given its locks back: a write that fails is
	// an error, or a log line less.
	signal.Ignore(syscall.SIGPIPE)
	std.Out, std.Err = visible.Writer(std.Out), newScreen(std.Err, std.Env)
	ctx, stop := withSignals(context.Background(), std.Err)
	defer stop()
	passed := passStderr(std.Err)
	app := root(std)
	err := noCommand(app, args[1:])
	if err == nil {
		err = app.Run(ctx, args)
	}
	passed()
	printError(std.Err, err)
	return exitStatus(err)
}

func root(std Streams) *cli.Command {
	commands := []*cli.Command{planCommand(std), copyCommand(std), cutoverCommand(std), statusCommand(std), verifyCommand(std), inspectCommand(std), readdressCommand(std), reportCommand(std),
		checkClusterCommand(std), benchCompareCommand(std), demoCommand(std), versionCommand(std), docsCommand(std), helpCommand()}
	var meanings []string
	for _, m := range exitMeanings {
		meanings = append(meanings, m.Status+" "+m.Meaning)
	}
	h := helps["dyn2raft"]
	cli.HelpPrinter = printHelp
	cli.HelpPrinterCustom = func(w io.Writer, _ string, data any, _ map[string]any) { printHelp(w, "", data) }
	return &cli.Command{
		Name:                            "dyn2raft",
		Usage:                           h.Usage,
		UsageText:                       h.Lines,
		Description:                     h.Description + "\n\nExit status: " + strings.Join(meanings, ", ") + ".",
		Commands:                        commands,
		Flags:                           []cli.Flag{&cli.BoolFlag{Name: "version", Usage: "print the version", Local: true}},
		Writer:                          std.Out,
		ErrWriter:                       std.Err,
		HideVersion:                     true,                                          // the flag above takes one dash and no alias
		ExitErrHandler:                  func(context.Context, *cli.Command, error) {}, // Main does that, once
		OnUsageError:                    onUsageError,
		EnableShellCompletion:           true,
		ShellCompletionCommandName:      "completion",
		ConfigureShellCompletionCommand: configureCompletion,
		ShellComplete:                   complete,
		Action: func(_ context.Context, cmd *cli.Command) error {
			switch err := noCommand(cmd, cmd.Args().Slice()); {
			case err != nil:
				return err
			case cmd.Bool("version"):
				return printVersion(std)
			default:
				return cli.ShowRootCommandHelp(cmd)
			}
		},
	}
}

// onUsageError says the library's errors in our words.
func onUsageError(_ context.Context, cmd *cli.Command, err error, _ bool) error {
	usage := &usageError{err.Error(), fmt.Sprintf("run `%s -help` for its flags", cmd.FullName())}
	if name, ok := strings.CutPrefix(usage.msg, "flag provided but not defined: -"); ok {
		usage.msg = fmt.Sprintf("there is no flag -%s", name)
		if cmd.Root() == cmd {
			usage.hint = "flags come after the command, as in: dyn2raft copy -config migrate.hcl"
		} else if hint := noFlag(cmd, name); hint != "" {
			usage.hint = hint
		} else {
			usage.hint = didYouMean("-", name, cli.SuggestFlag(cmd.VisibleFlags(), name, true)) + usage.hint
		}
	}
	// What strconv has to say of a bad number adds nothing.
	usage.msg, _, _ = strings.Cut(usage.msg, ": strconv.")
	return usage
}

// didYouMean offers what the library takes a word for, where that begins alike: it takes
// every word for something.
func didYouMean(dash, word, suggestion string) string {
	name := strings.TrimLeft(suggestion, "-")
	if name == "" || !strings.HasPrefix(name, word[:min(1, len(word))]) {
		return ""
	}
	return fmt.Sprintf("did you mean %s%s? ", dash, name)
}

// noArguments refuses arguments that are not flags, such as the value of a
// mistyped one.
func noArguments(cmd *cli.Command) error {
	if cmd.Args().Present() {
		return &usageError{fmt.Sprintf("%s takes no argument %q", cmd.FullName(), cmd.Args().First()), noArgument(cmd, cmd.Args().First())}
	}
	return nil
}

// exitStatus is the one place where an error becomes a status. Of several
// errors an interruption counts, else the first: what follows is clean-up.
func exitStatus(err error) int {
	if sig, ok := errors.AsType[*signalError](err); ok {
		return 128 + int(sig.signal)
	}
	if all := split(err); len(all) > 0 {
		err = all[0]
	}
	if err == nil {
		return exitDone
	}
	for _, s := range statuses {
		if errors.Is(err, s.of) {
			return s.status
		}
	}
	return exitUsage
}

// statuses are those of errors, the first that an error is.
var statuses = []struct {
	of     error
	status int
}{
	{errDifferent, exitDifferent}, {errRunning, exitRunning}, {errUnfinished, exitUnfinished}, {errNone, exitNone},
	{copier.ErrConfig, exitUsage}, {copier.ErrLocked, exitLocked}, {copier.ErrDestination, exitDestination}, {copier.ErrSource, exitSource},
}

// joined is the type of errors.Join's result. Errors that wrap several others
// in one sentence have other types.
var joined = reflect.TypeOf(errors.Join(errDifferent))

// split takes errors apart that were joined.
func split(err error) []error {
	if err == nil {
		return nil
	}
	if reflect.TypeOf(err) != joined {
		return []error{err}
	}
	var all []error
	for _, e := range err.(interface{ Unwrap() []error }).Unwrap() {
		all = append(all, split(e)...)
	}
	return all
}

// A signalError is the cause of a context that a signal ended.
type signalError struct{ signal syscall.Signal }

func (e *signalError) Error() string { return "interrupted by " + unix.SignalName(e.signal) }

// withSignals returns a context that the first SIGINT, SIGTERM or SIGHUP (a
// terminal that hangs up) cancels. The second one ends the process at once, which leaves the destination as a
// killed run does: without anything that Vault would open. After stop a signal
// does nothing: the command has ended, and its own exit status counts.
func withSignals(parent context.Context, stderr io.Writer) (_ context.Context, stop func()) {
	ctx, cancel := context.WithCancelCause(parent)
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	if !signal.Ignored(syscall.SIGHUP) { // as nohup does
		signal.Notify(signals, syscall.SIGHUP)
	}
	done := make(chan struct{})
	go func() {
		select {
		case s := <-signals:
			sig := s.(syscall.Signal) //nolint:errcheck // these are
			message := unix.SignalName(sig) + ": stopping in order; a second signal stops at once"
			if log := jsonLog(stderr); log != nil {
				log.Warn(message)
			} else {
				_, _ = fmt.Fprintln(stderr, message)
			}
			cancel(&signalError{signal: sig})
		case <-done:
			return
		}
		select {
		case s := <-signals:
			if screen, ok := stderr.(*screen); ok {
				screen.leave()
			}
			os.Exit(128 + int(s.(syscall.Signal))) //nolint:errcheck // as above
		case <-done:
		}
	}()
	return ctx, func() {
		close(done)
		cancel(nil)
	}
}
