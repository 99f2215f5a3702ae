// Package physical reads any storage backend of Vault through the interface that all of
// them have, physical.Backend of Vault's SDK, as a source.
//
// The backend is the caller's: Vault's own ones, in its module's folder physical, are not
// imported here. They bring the SDKs of every cloud along, and are not under an
// open-source licence from Vault 1.15 on.
//
// What there is, is what the backend lists. What its List does not show is not copied, and
// nobody can tell: on DynamoDB a name that begins with "_", and all below it, and what has
// lost the marker of its folder (sources/dynamodb reads the table itself, and finds both);
// on any backend a key that is kept under another name, as a file backend keeps "a/." as
// "a", and finds it under both. A [copier.Warning] says so at each Open. There is no lock either: that nothing
// writes meanwhile is the caller's word. Requests are repeated as the backend does it.
//
// A span is a folder, with all below it or without. Its keys are read in ascending order:
// a folder is listed, and the next ones with it; then keys are got, many at a time.
package physical

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"sort"
	"strings"
	"sync"

	sdk "github.com/hashicorp/vault/sdk/physical"
	"golang.org/x/sync/errgroup"

	"github.com/dyn2raft/dyn2raft/copier"
)

const (
	defaultParallel = 32
	defaultSpans    = 64
	pageBytes       = 1 << 20
	pageKeys        = 1000
	maxNamed        = 10 // warnings of keys without a value
)

// Options say what a [Source] reads.
type Options struct {
	Backend sdk.Backend
	// Name and ID are those of [copier.Info]. ID must tell the storage from any other,
	// such as "consul http://127.0.0.1:8500 vault/".
	Name, ID string
	// Parallel is how many requests one call of Read has under way at most; 0 means 32.
	Parallel int
	// Notify takes [copier.Warning] events, from any goroutine; it may be nil.
	Notify func(copier.Event)
	// Kind is that of errors; nil means [copier.ErrSource].
	Kind error
}

// A Source reads a backend. It is safe for concurrent use.
type Source struct {
	opts Options

	mu    sync.Mutex
	walks map[string]*walk // by the token of where each stands
	gone  int              // keys that were listed and have no value
}

var (
	_ copier.Source = (*Source)(nil)
	_ copier.Getter = (*Source)(nil)
)

// New returns a source. It does nothing yet. An error wraps [copier.ErrConfig].
func New(o Options) (*Source, error) {
	if o.Backend == nil || o.Name == "" || o.ID == "" {
		return nil, &copier.Error{Kind: copier.ErrConfig, Op: "read backend", Err: errors.New("it has no backend, no name or no id")}
	}
	if o.Parallel <= 0 {
		o.Parallel = defaultParallel
	}
	if o.Notify == nil {
		o.Notify = func(copier.Event) {}
	}
	return &Source{opts: o, walks: map[string]*walk{}}, nil
}

func (s *Source) failed(ctx context.Context, op, key string, err error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return &copier.Error{Kind: cmp.Or(s.opts.Kind, copier.ErrSource), Op: op + " " + copier.NameKey([]byte(key)), Err: err}
}

// list returns the names in a folder, sorted: those of folders end with a slash. With the
// slash they are in the order of the keys below them.
func (s *Source) list(ctx context.Context, folder string) ([]string, error) {
	names, err := s.opts.Backend.List(ctx, folder)
	if err != nil {
		return nil, s.failed(ctx, "list", folder, err)
	}
	names = slices.Clone(names)
	slices.Sort(names)
	return slices.Compact(names), nil
}

// Open implements [copier.Source].
func (s *Source) Open(ctx context.Context) (copier.Info, error) {
	if ctx.Err() != nil {
		return copier.Info{}, context.Cause(ctx)
	}
	if _, err := s.list(ctx, ""); err != nil {
		return copier.Info{}, err
	}
	s.opts.Notify(copier.Warning{Message: fmt.Sprintf("%s is read as its backend lists it: what List does not show is not copied", s.opts.Name)})
	return copier.Info{Name: s.opts.Name, ID: s.opts.ID}, nil
}

// A token is a place in a folder.
type token struct {
	Folder string `json:"folder"`
	// Alone leaves out the folders in it.
	Alone bool `json:"alone,omitempty"`
	// After is the last key that was read before this place; empty at its beginning.
	After string `json:"after,omitempty"`
}

func (t token) bytes() []byte {
	b, _ := json.Marshal(t) // of texts
	return b
}

func parse(b []byte) (t token, err error) {
	if err = json.Unmarshal(b, &t); err == nil && !strings.HasPrefix(t.After, t.Folder) && t.After != "" {
		err = errors.New("its key is not in its folder")
	}
	if err != nil {
		err = &copier.Error{Kind: copier.ErrSource, Op: fmt.Sprintf("read the token %.64q of a span", b), Err: err}
	}
	return t, err
}

// Split implements [copier.Source]. A folder is replaced by those in it, and by what else
// is in it, until there are enough. A folder that has no folders stays one span.
func (s *Source) Split(ctx context.Context, n int) ([]copier.Span, error) {
	if n == 0 {
		n = defaultSpans
	}
	var done []token // can't be split
	for todo := []token{{}}; ; {
		if len(todo) == 0 || len(done)+len(todo) >= n {
			var out []copier.Span
			for i, t := range append(done, todo...) {
				out = append(out, copier.Span{Index: i, From: t.bytes()})
			}
			return out, nil
		}
		folder := todo[0].Folder
		names, err := s.list(ctx, folder)
		if err != nil {
			return nil, err
		}
		folders := 0
		for _, name := range names {
			if strings.HasSuffix(name, "/") {
				folders++
			}
		}
		if folders == 0 || len(done)+len(todo)+folders > copier.MaxSpans {
			done, todo = append(done, todo[0]), todo[1:]
			continue
		}
		todo = todo[1:]
		if folders < len(names) {
			done = append(done, token{Folder: folder, Alone: true})
		}
		for _, name := range names {
			if strings.HasSuffix(name, "/") {
				todo = append(todo, token{Folder: folder + name})
			}
		}
	}
}

// Read implements [copier.Source].
func (s *Source) Read(ctx context.Context, span copier.Span, b *copier.Batch) (page copier.Page, err error) {
	if ctx.Err() != nil {
		return page, context.Cause(ctx)
	}
	from, err := parse(span.From)
	if err != nil {
		return page, err
	}
	var until token
	if len(span.Until) > 0 {
		if until, err = parse(span.Until); err != nil {
			return page, err
		}
	}
	before := b.Len()
	w, err := s.take(ctx, from)
	if err == nil {
		err = s.read(ctx, w, until.After, b, &page)
	}
	if err != nil {
		b.Truncate(before)
		return copier.Page{}, err
	}
	if from.After = w.last; w.ended || from.After == until.After && until.After != "" {
		return page, nil
	}
	at := from.bytes()
	page.Next = []copier.Span{{Index: span.Index, From: at, Until: span.Until}}
	s.keep(at, w)
	return page, nil
}

// read reads a page, up to the key until, where there is one.
func (s *Source) read(ctx context.Context, w *walk, until string, b *copier.Batch, page *copier.Page) error {
	start := b.Bytes()
	for n := 0; n < pageKeys && b.Bytes()-start < pageBytes && (until == "" || w.last != until); {
		var keys []string
		for len(keys) < s.opts.Parallel {
			key, err := w.next(ctx)
			if err == io.EOF {
				w.ended = true
				break
			}
			if err != nil {
				return err
			}
			if until != "" && key > until {
				return s.failed(ctx, "read folder", w.Folder, fmt.Errorf("%w: the key that the span ends with is gone", copier.ErrMoved))
			}
			keys, w.last = append(keys, key), key
			if key == until {
				break
			}
		}
		if err := s.get(ctx, keys, b, page); err != nil {
			return err
		}
		if n += len(keys); w.ended {
			break
		}
	}
	page.WireBytes = b.Bytes() - start
	if w.ended && until != "" && w.last != until {
		return s.failed(ctx, "read folder", w.Folder, fmt.Errorf("%w: it ends before the place that the span ends at", copier.ErrMoved))
	}
	return nil
}

// get gets keys at the same time, and takes over what is no lock.
func (s *Source) get(ctx context.Context, keys []string, b *copier.Batch, page *copier.Page) error {
	values := make([]*sdk.Entry, len(keys))
	group, gctx := errgroup.WithContext(ctx)
	for i, key := range keys {
		if copier.IsLock(key) || noKey(key) {
			continue
		}
		group.Go(func() (err error) {
			if values[i], err = s.opts.Backend.Get(gctx, key); err != nil {
				err = s.failed(gctx, "get", key, err)
			}
			return err
		})
	}
	if err := group.Wait(); err != nil {
		return err
	}
	for i, key := range keys {
		switch {
		case copier.IsLock(key):
			page.Locks = append(page.Locks, key)
		case noKey(key):
			page.Refused = append(page.Refused, s.failed(ctx, "list", key, errors.New("a name in this folder is empty, and no Vault has written that")))
		case values[i] == nil:
			s.noValue(key)
		default:
			b.Append([]byte(key), values[i].Value)
		}
	}
	return nil
}

// noKey reports whether a key's last segment is an empty name.
func noKey(key string) bool { return key == "" || strings.HasSuffix(key, "/") }

// noValue warns of a key that is listed and can't be got: for a Vault it is not there. A
// file backend has such ones, from a time when the disk was full.
func (s *Source) noValue(key string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.gone++; s.gone <= maxNamed {
		s.opts.Notify(copier.Warning{Message: fmt.Sprintf("%s lists %s, and has no value of it: it is not copied", s.opts.Name, copier.NameKey([]byte(key)))})
	}
}

// Value implements [copier.Getter].
func (s *Source) Value(ctx context.Context, key string) ([]byte, bool, error) {
	e, err := s.opts.Backend.Get(ctx, key)
	if err != nil {
		return nil, false, s.failed(ctx, "get", key, err)
	}
	if e == nil {
		return nil, false, nil
	}
	return bytes.Clone(e.Value), true, nil
}

// Close implements [copier.Source]. The backend is the caller's to close.
func (s *Source) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	clear(s.walks)
	return nil
}

// take returns a walk that stands at a place: the one that a page before has ended with,
// if there is one, so that no folder is listed for every page of it.
func (s *Source) take(ctx context.Context, at token) (*walk, error) {
	s.mu.Lock()
	w := s.walks[string(at.bytes())]
	delete(s.walks, string(at.bytes()))
	s.mu.Unlock()
	if w != nil {
		return w, nil
	}
	w = &walk{s: s, token: at, last: at.After, listed: map[string][]string{}}
	return w, w.seek(ctx)
}

func (s *Source) keep(at []byte, w *walk) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.walks[string(at)] = w
}

// A walk yields the keys of a folder in ascending order.
type walk struct {
	s *Source
	token
	stack  []level
	listed map[string][]string // folders ahead
	last   string              // the last key that was used
	ended  bool
}

// A level is a folder that is being walked.
type level struct {
	folder string
	names  []string // that are left
}

// seek goes to the place behind After.
func (w *walk) seek(ctx context.Context) error {
	names, err := w.s.list(ctx, w.Folder)
	if err != nil {
		return err
	}
	w.stack = []level{{w.Folder, names}}
	for rest := strings.TrimPrefix(w.After, w.Folder); w.After != ""; {
		top := &w.stack[len(w.stack)-1]
		name, below, isFolder := strings.Cut(rest, "/")
		if isFolder {
			name += "/"
		}
		i := sort.SearchStrings(top.names, name)
		there := i < len(top.names) && top.names[i] == name
		if there {
			i++
		}
		top.names = top.names[i:]
		if !isFolder || !there {
			return nil
		}
		folder := top.folder + name
		if names, err = w.s.list(ctx, folder); err != nil {
			return err
		}
		w.stack, rest = append(w.stack, level{folder, names}), below
	}
	return nil
}

// next returns the next key, or [io.EOF].
func (w *walk) next(ctx context.Context) (string, error) {
	for len(w.stack) > 0 {
		top := &w.stack[len(w.stack)-1]
		if len(top.names) == 0 {
			w.stack = w.stack[:len(w.stack)-1]
			continue
		}
		name := top.names[0]
		switch {
		case !strings.HasSuffix(name, "/"):
			top.names = top.names[1:]
			return top.folder + name, nil
		case w.Alone:
			top.names = top.names[1:]
		default:
			names, err := w.below(ctx, top)
			if err != nil {
				return "", err
			}
			top.names = top.names[1:]
			w.stack = append(w.stack, level{top.folder + name, names})
		}
	}
	return "", io.EOF
}

// below returns the names in the first of a level's names, which is a folder. It lists the
// folders that come next with it.
func (w *walk) below(ctx context.Context, top *level) ([]string, error) {
	first := top.folder + top.names[0]
	if _, ok := w.listed[first]; !ok {
		var folders []string
		for _, name := range top.names[:min(len(top.names), w.s.opts.Parallel)] {
			if strings.HasSuffix(name, "/") {
				folders = append(folders, top.folder+name)
			}
		}
		lists := make([][]string, len(folders))
		group, gctx := errgroup.WithContext(ctx)
		for i, folder := range folders {
			group.Go(func() (err error) {
				lists[i], err = w.s.list(gctx, folder)
				return err
			})
		}
		if err := group.Wait(); err != nil {
			return nil, err
		}
		for i, folder := range folders {
			w.listed[folder] = lists[i]
		}
	}
	names := w.listed[first]
	delete(w.listed, first)
	return names, nil
}
