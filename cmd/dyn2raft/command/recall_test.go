package command

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/urfave/cli/v3"

	"github.com/dyn2raft/dyn2raft/cmd/dyn2raft/hints"
	"github.com/dyn2raft/dyn2raft/copier"
	"github.com/dyn2raft/dyn2raft/copier/durable"
	"github.com/dyn2raft/dyn2raft/copier/vaultconfig"
	sink "github.com/dyn2raft/dyn2raft/sinks/raft"
)

// Where work files are is believed of a record only where the copy was told so, then
// or now.
func TestRecallWorkDir(t *testing.T) {
	path, apart := t.TempDir(), t.TempDir()
	for name, c := range map[string]struct {
		kept    string
		flags   []string
		refused bool
	}{
		"made up":      {"{}", nil, true},
		"told then":    {fmt.Sprintf(`{"work-dir":%q}`, apart), nil, false},
		"told again":   {"{}", []string{"-work-dir", apart}, false},
		"told to none": {`{"segments":"7"}`, nil, true},
	} {
		t.Run(name, func(t *testing.T) {
			body, err := durable.Seal("dyn2raft copy", copier.RecordFormat, map[string]any{"run_id": "run-1", "work_dir": filepath.Join(apart, "dyn2raft-run-1"), "settings": json.RawMessage(c.kept)})
			if err != nil {
				t.Fatal(err)
			}
			if err := errors.Join(os.MkdirAll(sink.WorkDir(path), 0o700), os.WriteFile(filepath.Join(sink.WorkDir(path), "copy.json"), body, 0o600)); err != nil {
				t.Fatal(err)
			}
			cmd := copyCommand(Streams{})
			cmd.Action = func(_ context.Context, cmd *cli.Command) error {
				_, err := recall(cmd, vaultconfig.Destination{Type: vaultconfig.Raft, Path: path})
				return err
			}
			err = cmd.Run(t.Context(), append([]string{"copy", "-resume"}, c.flags...))
			if c.refused && (!errors.Is(err, copier.ErrConfig) || !strings.Contains(hints.Of(err), "-work-dir "+apart)) || !c.refused && err != nil {
				t.Errorf("%v; %s", err, hints.Of(err))
			}
		})
	}
}
