package snapshot

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/hashicorp/raft"
	"go.uber.org/goleak"
	"google.golang.org/protobuf/encoding/protowire"

	"github.com/dyn2raft/dyn2raft/copier"
	"github.com/dyn2raft/dyn2raft/copier/copiertest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestContract(t *testing.T) {
	for _, n := range []int{0, 1, 5000} { // the last has several pages
		t.Run(fmt.Sprint(n), func(t *testing.T) {
			var want []copier.Entry
			for i := range n {
				want = append(want, copier.Entry{Key: fmt.Appendf(nil, "logical/%05d", i), Value: bytes.Repeat([]byte{byte(i)}, i%2000)})
			}
			path := write(t, archive(want))
			copiertest.TestSource(t, func() copier.Source { return New(path) }, want)
		})
	}
}

// TestDamage changes each byte of a snapshot: it is noticed, or changes nothing.
func TestDamage(t *testing.T) {
	want := map[string]string{"core/keyring": "k", "logical/a": "1", "logical/b": ""}
	whole := archive(entries(want))
	noticed := 0
	for i := range whole {
		damaged := bytes.Clone(whole)
		damaged[i] ^= 1 << (i % 8)
		got, err := read(t, write(t, damaged))
		switch {
		case errors.Is(err, ErrDamaged) && errors.Is(err, copier.ErrSource):
			noticed++
		case err != nil:
			t.Errorf("byte %d: %v, want ErrDamaged", i, err)
		case !maps.Equal(got, want):
			t.Errorf("byte %d is changed, and %q is read", i, got)
		}
	}
	if noticed < len(whole)*9/10 {
		t.Errorf("only %d of %d changed bytes were noticed", noticed, len(whole))
	}
	for cut := range whole {
		if got, err := read(t, write(t, whole[:cut])); !errors.Is(err, ErrDamaged) {
			t.Errorf("cut to %d of %d bytes: %q (%v), want ErrDamaged", cut, len(whole), got, err)
		}
	}
}

// TestNotCopied: a snapshot has the active node's lock, and pieces of operations that are
// not complete.
func TestNotCopied(t *testing.T) {
	all := map[string]string{"core/keyring": "k", "core/lock": "l", "logical/a": "1", "raftchunking/1/1": "piece"}
	got, err := read(t, write(t, archive(entries(all))))
	if want := map[string]string{"core/keyring": "k", "logical/a": "1"}; err != nil || !maps.Equal(got, want) {
		t.Errorf("%q, %v, want %q", got, err, want)
	}
}

func TestRefused(t *testing.T) {
	two := []copier.Entry{{Key: []byte("b"), Value: []byte("1")}, {Key: []byte("a"), Value: []byte("2")}}
	meta := raft.SnapshotMeta{ID: "x", Index: 7}
	sums := func(metaJSON, state []byte) []byte {
		return fmt.Appendf(nil, "%x  meta.json\n%x  state.bin\n", sha256.Sum256(metaJSON), sha256.Sum256(state))
	}
	metaJSON, err := json.Marshal(meta)
	check(t, err)
	for name, data := range map[string][]byte{
		"keys out of order":       archive(two),
		"one key twice":           archive(append(two[:1:1], two[0])),
		"no index":                pack("meta.json", []byte(`{}`), "state.bin", nil, "SHA256SUMS", sums([]byte(`{}`), nil)),
		"another sum":             pack("meta.json", metaJSON, "state.bin", nil, "SHA256SUMS", sums(metaJSON, []byte("x"))),
		"another size":            pack("meta.json", metaJSON, "state.bin", []byte{0}, "SHA256SUMS", sums(metaJSON, []byte{0})),
		"no sums":                 pack("meta.json", metaJSON, "state.bin", nil),
		"no sum of the state":     pack("meta.json", metaJSON, "state.bin", nil, "SHA256SUMS", fmt.Appendf(nil, "%x  meta.json\n", sha256.Sum256(metaJSON))),
		"a file that is nobody's": pack("meta.json", metaJSON, "state.bin", nil, "SHA256SUMS", sums(metaJSON, nil), "other", nil),
		"not a snapshot":          pack("vault.db", nil),
		"an entry without end":    pack("meta.json", metaJSON, "state.bin", []byte{200, 1, 10}, "SHA256SUMS", nil),
		"an entry without limit":  pack("meta.json", metaJSON, "state.bin", binary.AppendUvarint(nil, 1<<50), "SHA256SUMS", nil),
		"not an archive":          []byte("no"),
	} {
		if got, err := read(t, write(t, data)); !errors.Is(err, ErrDamaged) || !errors.Is(err, copier.ErrSource) {
			t.Errorf("%s: %q, %v, want ErrDamaged", name, got, err)
		}
	}
	if _, err := read(t, filepath.Join(t.TempDir(), "none")); !errors.Is(err, fs.ErrNotExist) || !errors.Is(err, copier.ErrSource) {
		t.Errorf("no file: %v", err)
	}
}

func FuzzState(f *testing.F) {
	f.Add(state([]copier.Entry{{Key: []byte("a"), Value: []byte("1")}, {Key: []byte("b")}}))
	f.Fuzz(func(t *testing.T, b []byte) {
		metaJSON, _ := json.Marshal(raft.SnapshotMeta{Index: 7, Size: int64(len(b))})
		path := write(t, pack("meta.json", metaJSON, "state.bin", b, "SHA256SUMS", fmt.Appendf(nil, "%x  meta.json\n%x  state.bin\n", sha256.Sum256(metaJSON), sha256.Sum256(b))))
		got, err := read(t, path)
		if err == nil && len(b) > 0 && len(got) == 0 {
			t.Errorf("%d bytes hold no entry, without an error", len(b))
		}
	})
}

// read returns all entries.
func read(t *testing.T, path string) (map[string]string, error) {
	s := New(path)
	if _, err := s.Open(t.Context()); err != nil {
		return nil, err
	}
	defer s.Close()
	spans, err := s.Split(t.Context(), 0)
	check(t, err)
	out := map[string]string{}
	for len(spans) > 0 {
		var b copier.Batch
		page, err := s.Read(t.Context(), spans[0], &b)
		if err != nil {
			return nil, err
		}
		for i := range b.Len() {
			out[string(b.Entry(i).Key)] = string(b.Entry(i).Value)
		}
		spans = append(spans[1:], page.Next...)
	}
	return out, nil
}

func entries(m map[string]string) (out []copier.Entry) {
	for _, k := range slices.Sorted(maps.Keys(m)) {
		out = append(out, copier.Entry{Key: []byte(k), Value: []byte(m[k])})
	}
	return out
}

// archive makes a snapshot as Vault does.
func archive(all []copier.Entry) []byte {
	s := state(all)
	meta, _ := json.Marshal(raft.SnapshotMeta{ID: "bolt-snapshot", Index: 70, Term: 3, Size: int64(len(s))})
	sums := fmt.Appendf(nil, "%x  meta.json\n%x  state.bin\n", sha256.Sum256(meta), sha256.Sum256(s))
	return pack("meta.json", meta, "state.bin", s, "SHA256SUMS", sums, "SHA256SUMS.sealed", []byte("only its seal can read it"))
}

func state(all []copier.Entry) (out []byte) {
	for _, e := range all {
		m := protowire.AppendBytes(protowire.AppendTag(nil, 1, protowire.BytesType), e.Key)
		if len(e.Value) > 0 {
			m = protowire.AppendBytes(protowire.AppendTag(m, 2, protowire.BytesType), e.Value)
		}
		out = append(binary.AppendUvarint(out, uint64(len(m))), m...)
	}
	return out
}

// pack makes an archive of names and contents in turn.
func pack(members ...any) []byte {
	var out bytes.Buffer
	z := gzip.NewWriter(&out)
	w := tar.NewWriter(z)
	for pair := range slices.Chunk(members, 2) {
		data, _ := pair[1].([]byte)
		if err := w.WriteHeader(&tar.Header{Name: pair[0].(string), Mode: 0o600, Size: int64(len(data))}); err != nil {
			panic(err)
		}
		if _, err := w.Write(data); err != nil {
			panic(err)
		}
	}
	if err := errors.Join(w.Close(), z.Close()); err != nil {
		panic(err)
	}
	return out.Bytes()
}

func write(t testing.TB, data []byte) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "vault.snap")
	check(t, os.WriteFile(path, data, 0o600))
	return path
}

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
