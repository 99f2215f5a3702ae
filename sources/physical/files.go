package physical

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/hashicorp/go-hclog"
	sdk "github.com/hashicorp/vault/sdk/physical"
	"github.com/hashicorp/vault/sdk/physical/file"

	"github.com/dyn2raft/dyn2raft/copier"
)

// Files is the backend of a folder of Vault's file storage, and can only be read. It
// changes nothing there: the SDK's own removes an empty file as soon as it is asked for it
// (sdk/physical/file, GetInternal). A full disk has left such a file of an entry, which has
// no value here. What is no regular file is refused. An error wraps [copier.ErrConfig].
func Files(path string) (sdk.Backend, error) {
	b, err := file.NewFileBackend(map[string]string{"path": path}, hclog.NewNullLogger())
	if err != nil {
		return nil, &copier.Error{Kind: copier.ErrConfig, Op: "open " + path, Err: err}
	}
	return files{b, path}, nil
}

type files struct {
	sdk.Backend
	path string
}

func (f files) Get(ctx context.Context, key string) (*sdk.Entry, error) {
	dir, name := filepath.Split(filepath.Join(f.path, key))
	switch st, err := os.Lstat(filepath.Join(dir, "_"+name)); {
	case errors.Is(err, os.ErrNotExist):
		return nil, nil
	case err != nil:
		return nil, err
	case !st.Mode().IsRegular():
		return nil, fmt.Errorf("%s is no regular file", filepath.Join(dir, "_"+name))
	case st.Size() == 0:
		return nil, nil
	}
	return f.Backend.Get(ctx, key)
}

var errReadOnly = errors.New("this backend can only be read")

func (f files) Put(context.Context, *sdk.Entry) error { return errReadOnly }
func (f files) Delete(context.Context, string) error  { return errReadOnly }
