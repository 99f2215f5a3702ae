package command

import (
	"context"
	"fmt"
	"runtime"
	"runtime/debug"

	"github.com/urfave/cli/v3"
)

// In releases the linker sets these; date is the commit's, in the form of
// RFC 3339.
var version, commit, date string

// versionString is the release, or what the module's build information says.
func versionString() string {
	if version != "" {
		return version
	}
	if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "" {
		return info.Main.Version
	}
	return "(devel)"
}

func versionCommand(std Streams) *cli.Command {
	return newCommand(std, "version", func(_ context.Context, cmd *cli.Command, std Streams, _ *printer) error {
		if err := noArguments(cmd); err != nil {
			return err
		}
		return printVersion(std)
	})
}

func printVersion(std Streams) error {
	origin := ""
	if commit != "" {
		origin = fmt.Sprintf("commit %s of %s, ", commit, date)
	}
	_, err := fmt.Fprintf(std.Out, "dyn2raft %s (%s%s %s/%s)\n", versionString(), origin, runtime.Version(), runtime.GOOS, runtime.GOARCH)
	return err
}
