package command

import (
	"context"
	"errors"
	"fmt"
	"hash/crc32"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/urfave/cli/v3"

	"github.com/dyn2raft/dyn2raft/copier"
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
			body := fmt.Sprintf(`{"format":5,"run_id":"run-1","work_dir":%q,"kept":%s}`+"\n", filepath.Join(apart, "dyn2raft-run-1"), c.kept)
			body += fmt.Sprintf("%08x\n", crc32.Checksum([]byte(body), crc32.MakeTable(crc32.Castagnoli)))
			if err := errors.Join(os.MkdirAll(sink.WorkDir(path), 0o700), os.WriteFile(filepath.Join(sink.WorkDir(path), "copy.json"), []byte(body), 0o600)); err != nil {
				t.Fatal(err)
			}
			cmd := copyCommand(Streams{})
			cmd.Action = func(_ context.Context, cmd *cli.Command) error {
				_, err := recall(cmd, path)
				return err
			}
			err := cmd.Run(t.Context(), append([]string{"copy", "-resume"}, c.flags...))
			if c.refused && (!errors.Is(err, copier.ErrConfig) || !strings.Contains(copier.Hint(err), "-work-dir "+apart)) || !c.refused && err != nil {
				t.Errorf("%v; %s", err, copier.Hint(err))
			}
		})
	}
}
