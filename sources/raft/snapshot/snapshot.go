// Package snapshot reads a snapshot of Vault's integrated storage, as
// `vault operator raft snapshot save` writes it, as a source.
//
// Its form is that of hashicorp/raft-snapshot v1.0.4, with Vault 1.21.1's own state: a tar
// archive, compressed with gzip, of meta.json (raft.SnapshotMeta), state.bin, SHA256SUMS and
// SHA256SUMS.sealed, which only a Vault with the same seal can open. state.bin has, for each
// entry, its length as a uvarint and a protobuf message of the key and the value.
//
// A snapshot holds what was applied when it was taken, whole, whatever the log holds. What
// was written since is not in it. The lock of the active node is, and is not copied.
package snapshot

import (
	"archive/tar"
	"bufio"
	"bytes"
	"cmp"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/hashicorp/raft"
	"google.golang.org/protobuf/encoding/protowire"

	"github.com/dyn2raft/dyn2raft/copier"
	"github.com/dyn2raft/dyn2raft/sources/internal/sequential"
	"github.com/dyn2raft/dyn2raft/sources/raft/internal/fsm"
)

// ErrDamaged is returned when a snapshot is not as it was written, or is no snapshot.
var ErrDamaged = errors.New("it is no whole snapshot of a Vault")

// Damaged is the code of [ErrDamaged].
var Damaged = copier.NewCode("snapshot-damaged")

// A Fact is what a snapshot tells of itself, as "raft_snapshot" in [copier.Info].
type Fact struct {
	// Index and Term are those of the last entry that is in it.
	Index uint64 `json:"index"`
	Term  uint64 `json:"term"`
}

// Names in the archive.
const (
	metaName, stateName, sumsName, sealedName = "meta.json", "state.bin", "SHA256SUMS", "SHA256SUMS.sealed"
	maxSmall                                  = 16 << 20 // what is read of a file that is not state.bin, in bytes
	maxEntry                                  = 256 << 20
	pageBytes                                 = 1 << 20
)

// A Source is a snapshot's file. It is safe for concurrent use.
type Source struct {
	// Kind is that of errors; nil means [copier.ErrSource].
	Kind error

	path  string
	files sequential.Files
}

var _ copier.Source = (*Source)(nil)

// New returns the snapshot at path as a source. It does nothing yet.
func New(path string) *Source {
	s := &Source{path: path}
	s.files.Open = func(int) (sequential.Cursor, error) { return s.open() }
	return s
}

// Open implements [copier.Source]. It reads meta.json, and the size of state.bin.
func (s *Source) Open(context.Context) (copier.Info, error) {
	c, err := s.open()
	if err != nil {
		return copier.Info{}, err
	}
	abs, err := filepath.Abs(s.path)
	if err = errors.Join(err, c.Close()); err != nil {
		return copier.Info{}, err
	}
	fact, err := copier.NewFact(1, Fact{c.meta.Index, c.meta.Term})
	return copier.Info{Name: filepath.Base(s.path), ID: abs, Incarnation: c.meta.ID, Bytes: c.size, Facts: copier.Facts{"raft_snapshot": fact}}, err
}

// Split implements [copier.Source]: a snapshot is read from its beginning to its end.
func (s *Source) Split(context.Context, int) ([]copier.Span, error) { return s.files.Split(1), nil }

// Read implements [copier.Source]. An error wraps [ErrDamaged] where the archive is
// damaged; that the sums fit shows with the last page.
func (s *Source) Read(ctx context.Context, span copier.Span, b *copier.Batch) (copier.Page, error) {
	if err := context.Cause(ctx); err != nil {
		return copier.Page{}, err
	}
	return s.files.Read(ctx, span, b)
}

// Close implements [copier.Source].
func (s *Source) Close() error { return s.files.Close() }

// A cursor stands in state.bin.
type cursor struct {
	kind  error
	path  string
	file  *os.File
	gzip  *gzip.Reader
	tar   *tar.Reader
	size  int64 // of the file that it stands in
	meta  raft.SnapshotMeta
	state *bufio.Reader
	sums  map[string]hash.Hash
	last  []byte // the last key
	buf   []byte
}

// open opens a snapshot, and reads up to state.bin.
func (s *Source) open() (c *cursor, err error) {
	c = &cursor{kind: cmp.Or(s.Kind, copier.ErrSource), path: s.path, sums: map[string]hash.Hash{}}
	defer func() {
		if err != nil {
			err = c.fail(errors.Join(err, c.Close()))
			c = nil
		}
	}()
	if c.file, err = os.Open(s.path); err != nil {
		return c, err
	}
	if c.gzip, err = gzip.NewReader(bufio.NewReaderSize(c.file, 256<<10)); err != nil {
		return c, fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	c.tar = tar.NewReader(c.gzip)
	meta, err := c.small(metaName)
	if err != nil {
		return c, err
	}
	if err = json.Unmarshal(meta, &c.meta); err == nil && c.meta.Index == 0 {
		err = errors.New("it has no index")
	}
	if err != nil {
		return c, fmt.Errorf("%w: its %s is not that of a snapshot: %w", ErrDamaged, metaName, err)
	}
	r, err := c.member(stateName)
	if err == nil && c.size != c.meta.Size {
		err = fmt.Errorf("%w: its %s has %d bytes, and %s says %d", ErrDamaged, stateName, c.size, metaName, c.meta.Size)
	}
	if err != nil {
		return c, err
	}
	c.state = bufio.NewReaderSize(r, 256<<10)
	return c, nil
}

// member goes to the next file of the archive, which must have that name.
func (c *cursor) member(name string) (io.Reader, error) {
	h, err := c.tar.Next()
	if err != nil {
		return nil, fmt.Errorf("%w: %s is not there: %w", ErrDamaged, name, unexpected(err))
	}
	if h.Name != name || h.Typeflag != tar.TypeReg {
		return nil, fmt.Errorf("%w: it has a file %.64q where %s must be", ErrDamaged, h.Name, name)
	}
	sum := sha256.New()
	c.sums[name], c.size = sum, h.Size
	return io.TeeReader(c.tar, sum), nil
}

func (c *cursor) small(name string) ([]byte, error) {
	r, err := c.member(name)
	if err != nil {
		return nil, err
	}
	b, err := io.ReadAll(io.LimitReader(r, maxSmall+1))
	if err == nil && len(b) > maxSmall {
		err = fmt.Errorf("%s has more than %d bytes", name, maxSmall)
	}
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	return b, nil
}

// Page implements [sequential.Cursor].
func (c *cursor) Page(b *copier.Batch, page *copier.Page, most int64) (items int64, err error) {
	start := b.Bytes()
	for items < most && b.Bytes()-start < pageBytes {
		switch err := c.entry(b, page); {
		case err == io.EOF:
			if err := c.end(); err != nil {
				return items, c.fail(err)
			}
			return items, io.EOF
		case err != nil:
			return items, c.fail(err)
		}
		items++
	}
	return items, nil
}

// entry reads the next entry, or returns io.EOF where there is none.
func (c *cursor) entry(b *copier.Batch, page *copier.Page) error {
	size, err := binary.ReadUvarint(c.state)
	if err == io.EOF { // before its first byte
		return io.EOF
	}
	if err == nil && size > maxEntry {
		err = fmt.Errorf("an entry of %d bytes", size)
	}
	var message []byte
	if err == nil {
		c.buf = slices.Grow(c.buf[:0], int(size))
		message = c.buf[:size]
		_, err = io.ReadFull(c.state, message)
	}
	if err != nil {
		return fmt.Errorf("%w: behind the key %.64q: %w", ErrDamaged, c.last, unexpected(err))
	}
	var key, value []byte
	for len(message) > 0 {
		n, kind, size := protowire.ConsumeTag(message)
		if size < 0 || kind != protowire.BytesType {
			return fmt.Errorf("%w: behind the key %.64q is no entry", ErrDamaged, c.last)
		}
		field, whole := protowire.ConsumeBytes(message[size:])
		if whole < 0 {
			return fmt.Errorf("%w: behind the key %.64q is no whole entry", ErrDamaged, c.last)
		}
		message = message[size+whole:]
		switch n {
		case 1:
			key = field
		case 2:
			value = field
		}
	}
	if len(key) == 0 || bytes.Compare(key, c.last) <= 0 {
		return fmt.Errorf("%w: the key %.64q stands behind the key %.64q", ErrDamaged, key, c.last)
	}
	c.last = append(c.last[:0], key...)
	fsm.Take(copier.Entry{Key: key, Value: value}, b, page)
	return nil
}

// end reads what is behind state.bin, and compares the sums.
func (c *cursor) end() error {
	sums, err := c.small(sumsName)
	if err != nil {
		return err
	}
	want := map[string]string{}
	for line := range strings.Lines(string(sums)) {
		sum, name, ok := strings.Cut(strings.TrimSuffix(line, "\n"), "  ")
		if _, twice := want[name]; !ok || twice {
			return fmt.Errorf("%w: its %s can't be read", ErrDamaged, sumsName)
		}
		want[name] = sum
	}
	for _, name := range []string{metaName, stateName} {
		if got := fmt.Sprintf("%x", c.sums[name].Sum(nil)); want[name] != got {
			return fmt.Errorf("%w: the SHA-256 of its %s is %s, and %s says %q", ErrDamaged, name, got, sumsName, want[name])
		}
	}
	// The rest is for a Vault; that all of it came as it was compressed is seen at the end.
	for {
		h, err := c.tar.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err == nil && h.Name != sealedName {
			err = fmt.Errorf("it has a file %.64q", h.Name)
		}
		if err == nil {
			_, err = io.Copy(io.Discard, c.tar)
		}
		if err != nil {
			return fmt.Errorf("%w: %w", ErrDamaged, err)
		}
	}
	if _, err := io.Copy(io.Discard, c.gzip); err != nil {
		return fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	return nil
}

// unexpected makes the end of a file in the middle of something an error that says so.
func unexpected(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

func (c *cursor) fail(err error) error {
	out := &copier.Error{Kind: c.kind, Op: "read snapshot " + c.path, Err: err}
	if errors.Is(err, ErrDamaged) {
		out.Code = Damaged
	}
	return out
}

// Close implements [sequential.Cursor].
func (c *cursor) Close() error {
	if c.file == nil {
		return nil
	}
	return c.file.Close()
}
