package physical

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/hashicorp/go-hclog"
	sdk "github.com/hashicorp/vault/sdk/physical"
	"github.com/hashicorp/vault/sdk/physical/file"
	"github.com/hashicorp/vault/sdk/physical/inmem"
	"go.uber.org/goleak"

	"github.com/dyn2raft/dyn2raft/copier"
	"github.com/dyn2raft/dyn2raft/copier/copiertest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// backends are those of Vault's SDK.
func backends(t *testing.T) map[string]sdk.Backend {
	t.Helper()
	memory, err := inmem.NewInmem(nil, hclog.NewNullLogger())
	check(t, err)
	files, err := file.NewFileBackend(map[string]string{"path": t.TempDir()}, hclog.NewNullLogger())
	check(t, err)
	return map[string]sdk.Backend{"inmem": memory, "file": files}
}

// content has folders beside keys of the same name, long and deep folders, and many small
// ones.
func content() map[string]string {
	out := map[string]string{"core/keyring": "k", "core/seal-config": "{}", "top": "t", "a": "key", "a/b": "below it", "a-b": "before a/", "a0": "behind a/",
		"deep/1/2/3/4/5/6": "", "core/leader/x": "l", "logical/_hidden/ü": "on DynamoDB only"}
	for i := range 2500 {
		out[fmt.Sprintf("sys/token/id/%05d", i)] = strings.Repeat("v", i%900)
	}
	for i := range 300 {
		out[fmt.Sprintf("logical/%03d/versions/%x", i, i*7919)] = fmt.Sprint(i)
	}
	return out
}

func TestContract(t *testing.T) {
	for name, b := range backends(t) {
		t.Run(name, func(t *testing.T) {
			put(t, b, content())
			put(t, b, map[string]string{"core/lock": "node-1", "core/migration": "{}"}) // and are not copied
			copiertest.TestSource(t, func() copier.Source { return source(t, b, nil) }, entries(content()))
			copiertest.TestSource(t, func() copier.Source {
				s := source(t, b, nil)
				s.opts.Parallel = 1
				return s
			}, entries(content()))
		})
		t.Run(name+", empty", func(t *testing.T) {
			copiertest.TestSource(t, func() copier.Source { return source(t, backends(t)[name], nil) }, nil)
		})
	}
}

// TestFiles: reading a folder of files leaves it as it is, with what a full disk has left.
func TestFiles(t *testing.T) {
	dir := t.TempDir()
	writer, err := file.NewFileBackend(map[string]string{"path": dir}, hclog.NewNullLogger())
	check(t, err)
	put(t, writer, content())
	check(t, os.WriteFile(filepath.Join(dir, "sys", "_empty"), nil, 0o600))
	b, err := Files(dir)
	check(t, err)
	copiertest.TestSource(t, func() copier.Source { return source(t, b, nil) }, entries(content()))
	if st, err := os.Stat(filepath.Join(dir, "sys", "_empty")); err != nil || st.Size() != 0 {
		t.Errorf("the empty file: %v", err)
	}
	check(t, os.Symlink("/etc/passwd", filepath.Join(dir, "sys", "_link")))
	if e, err := b.Get(t.Context(), "sys/link"); err == nil || e != nil {
		t.Errorf("a link is read: %v", err)
	}
	if b.Put(t.Context(), &sdk.Entry{Key: "a", Value: []byte("b")}) == nil || b.Delete(t.Context(), "a") == nil {
		t.Error("it is written to")
	}
}

// A counting backend counts what it is asked, hides what begins with "_" from List, as
// DynamoDB does, and changes answers.
type counting struct {
	sdk.Backend
	mu           sync.Mutex
	gets, lists  map[string]int
	most, active int
	get          func(key string, e *sdk.Entry) (*sdk.Entry, error)
	list         func(folder string, names []string) ([]string, error)
}

func (c *counting) begin(m *map[string]int, key string) func() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if *m == nil {
		*m = map[string]int{}
	}
	(*m)[key]++
	c.active++
	c.most = max(c.most, c.active)
	return func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.active--
	}
}

func (c *counting) Get(ctx context.Context, key string) (*sdk.Entry, error) {
	defer c.begin(&c.gets, key)()
	e, err := c.Backend.Get(ctx, key)
	if c.get != nil && err == nil {
		return c.get(key, e)
	}
	return e, err
}

func (c *counting) List(ctx context.Context, folder string) ([]string, error) {
	defer c.begin(&c.lists, folder)()
	names, err := c.Backend.List(ctx, folder)
	if c.list != nil && err == nil {
		return c.list(folder, names)
	}
	return names, err
}

// TestRequests: each key is got once, and no folder is listed for every page of it.
func TestRequests(t *testing.T) {
	b := &counting{Backend: backends(t)["inmem"]}
	put(t, b, content())
	got, page, err := read(t, source(t, b, nil), 8)
	if err != nil || !maps.Equal(got, content()) {
		t.Fatalf("%d entries of %d, %v, %+v", len(got), len(content()), err, page)
	}
	for key, n := range b.gets {
		if n != 1 {
			t.Errorf("%q was got %d times", key, n)
		}
	}
	for folder, n := range b.lists {
		if n > 2 && folder != "" || n > 3 { // by Split and by a walk; the root by Open too
			t.Errorf("%q was listed %d times", folder, n)
		}
	}
	if b.most > 32 {
		t.Errorf("%d requests at the same time", b.most)
	}
}

// TestBlind: what List hides is not copied, which is said; and so is a key without a value.
func TestBlind(t *testing.T) {
	b := &counting{Backend: backends(t)["inmem"]}
	put(t, b, map[string]string{"a/_b/c": "hidden", "a/d": "1", "gone": "2"})
	b.list = func(_ string, names []string) ([]string, error) {
		return slices.DeleteFunc(names, func(n string) bool { return n[0] == '_' }), nil
	}
	b.get = func(key string, e *sdk.Entry) (*sdk.Entry, error) {
		if key == "gone" {
			return nil, nil
		}
		return e, nil
	}
	var warned []string
	got, _, err := read(t, source(t, b, func(e copier.Event) { warned = append(warned, e.(copier.Warning).Message) }), 1)
	if want := map[string]string{"a/d": "1"}; err != nil || !maps.Equal(got, want) {
		t.Errorf("%q, %v, want %q", got, err, want)
	}
	if len(warned) != 2 || !strings.Contains(warned[0], "what List does not show is not copied") || !strings.Contains(warned[1], `lists "gone"`) {
		t.Errorf("warnings %q", warned)
	}
}

func TestErrors(t *testing.T) {
	broken := errors.New("broken")
	for name, c := range map[string]struct {
		change func(*counting)
		want   []error
	}{
		"list": {func(b *counting) {
			b.list = func(folder string, names []string) ([]string, error) {
				if folder == "deep/1/2/" {
					return nil, broken
				}
				return names, nil
			}
		}, []error{broken, copier.ErrSource}},
		"get": {func(b *counting) {
			b.get = func(key string, e *sdk.Entry) (*sdk.Entry, error) {
				if key == "sys/token/id/01234" {
					return nil, broken
				}
				return e, nil
			}
		}, []error{broken, copier.ErrSource}},
		"an empty name": {func(b *counting) {
			b.list = func(folder string, names []string) ([]string, error) {
				if folder == "a/" {
					names = append(names, "")
				}
				return names, nil
			}
		}, []error{copier.ErrSource}},
	} {
		b := &counting{Backend: backends(t)["inmem"]}
		put(t, b, content())
		c.change(b)
		_, page, err := read(t, source(t, b, nil), 1)
		err = errors.Join(append(page.Refused, err)...)
		for _, want := range c.want {
			if !errors.Is(err, want) {
				t.Errorf("%s: %v, want %v", name, err, want)
			}
		}
	}
	if _, err := New(Options{}); !errors.Is(err, copier.ErrConfig) {
		t.Errorf("no options: %v", err)
	}
}

// TestMoved: a place that a span ends at, and that is gone, is noticed.
func TestMoved(t *testing.T) {
	for _, key := range []string{"a/1", "a/9"} { // in the middle, and the last
		b := backends(t)["inmem"]
		put(t, b, map[string]string{"a/0": "", "a/1": "", "a/9": ""})
		s := source(t, b, nil)
		span := copier.Span{From: token{Folder: "a/"}.bytes(), Until: token{Folder: "a/", After: key}.bytes()}
		var batch copier.Batch
		if _, err := s.Read(t.Context(), span, &batch); err != nil || batch.Len() == 0 {
			t.Errorf("%s: %d entries, %v", key, batch.Len(), err)
		}
		check(t, b.Delete(t.Context(), key))
		batch.Reset()
		if _, err := s.Read(t.Context(), span, &batch); !errors.Is(err, copier.ErrMoved) || !errors.Is(err, copier.ErrSource) || batch.Len() > 0 {
			t.Errorf("%s is gone: %d entries, %v", key, batch.Len(), err)
		}
	}
	for _, from := range []string{"", "x", `{"folder":"a/","after":"b/c"}`} {
		if _, err := source(t, backends(t)["inmem"], nil).Read(t.Context(), copier.Span{From: []byte(from)}, new(copier.Batch)); !errors.Is(err, copier.ErrSource) {
			t.Errorf("token %q: %v", from, err)
		}
	}
}

func source(t testing.TB, b sdk.Backend, notify func(copier.Event)) *Source {
	t.Helper()
	s, err := New(Options{Backend: b, Name: "vault", ID: "test 1", Notify: notify})
	check(t, err)
	return s
}

// read reads all of a source, split so often, up to a page that refuses something.
func read(t *testing.T, s *Source, n int) (map[string]string, copier.Page, error) {
	t.Helper()
	_, err := s.Open(t.Context())
	check(t, err)
	defer s.Close()
	spans, err := s.Split(t.Context(), n)
	check(t, err)
	out := map[string]string{}
	for len(spans) > 0 {
		var b copier.Batch
		page, err := s.Read(t.Context(), spans[0], &b)
		if err != nil || len(page.Refused) > 0 {
			return out, page, err
		}
		for i := range b.Len() {
			out[string(b.Entry(i).Key)] = string(b.Entry(i).Value)
		}
		spans = append(spans[1:], page.Next...)
	}
	return out, copier.Page{}, nil
}

func put(t *testing.T, b sdk.Backend, all map[string]string) {
	t.Helper()
	for key, value := range all {
		check(t, b.Put(t.Context(), &sdk.Entry{Key: key, Value: []byte(value)}))
	}
}

func entries(all map[string]string) (out []copier.Entry) {
	for key, value := range all {
		out = append(out, copier.Entry{Key: []byte(key), Value: []byte(value)})
	}
	return out
}

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
