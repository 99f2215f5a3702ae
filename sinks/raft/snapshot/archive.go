package snapshot

import (
	"archive/tar"
	"bufio"
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	hraft "github.com/hashicorp/raft"
	"google.golang.org/protobuf/encoding/protowire"

	"github.com/dyn2raft/dyn2raft/copier"
	"github.com/dyn2raft/dyn2raft/sinks/raft"
)

// Names in the archive, in its order.
const metaName, stateName, sumsName, sealedName = "meta.json", "state.bin", "SHA256SUMS", "SHA256SUMS.sealed"

// placeholder is what is in SHA256SUMS.sealed.
const placeholder = "This snapshot was made by dyn2raft, outside of a Vault, and no seal has signed it: restore it with -force.\n"

const block = 512 // the size of a tar archive's blocks, in bytes

// write writes the archive, and syncs it. It returns its size.
//
// Meta.json has the size of state.bin, and so has the archive's header of that, which both
// come before it. So they are a gzip member of their own, not compressed: its size is
// known ahead, and it is written once more at the end.
func (s *stage) write(path string, in copier.Stream) (size int64, err error) {
	f, err := s.disk.Create(path)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	head, _, err := s.head(0)
	if err == nil {
		_, err = f.Write(head)
	}
	if err != nil {
		return 0, err
	}
	out := bufio.NewWriterSize(f, 1<<20)
	z, err := gzip.NewWriterLevel(out, gzip.BestSpeed) // nearly all is ciphertext
	if err != nil {
		return 0, err
	}
	sum := sha256.New()
	state := &counter{w: io.MultiWriter(z, sum)}
	if err := writeState(state, in); err != nil {
		return 0, err
	}
	newHead, meta, err := s.head(state.n)
	if err != nil {
		return 0, err
	}
	if len(newHead) != len(head) {
		return 0, fmt.Errorf("the archive's head has %d bytes, and had %d", len(newHead), len(head)) // and is in the way of what follows
	}
	if _, err := z.Write(make([]byte, -state.n&(block-1))); err != nil {
		return 0, err
	}
	t := tar.NewWriter(z)
	sums := fmt.Sprintf("%x  %s\n%x  %s\n", sha256.Sum256(meta), metaName, sum.Sum(nil), stateName)
	for _, m := range [][2]string{{sumsName, sums}, {sealedName, placeholder}} {
		err := t.WriteHeader(header(m[0], int64(len(m[1]))))
		if err == nil {
			_, err = io.WriteString(t, m[1])
		}
		if err != nil {
			return 0, err
		}
	}
	for _, end := range []func() error{t.Close, z.Close, out.Flush} {
		if err := end(); err != nil {
			return 0, err
		}
	}
	if _, err := f.WriteAt(newHead, 0); err != nil {
		return 0, err
	}
	fi, err := f.Stat()
	if err != nil {
		return 0, err
	}
	return fi.Size(), f.Sync()
}

// writeState writes the entries as Vault's FSM does: for each the length of a protobuf
// message, and the message.
func writeState(w io.Writer, in copier.Stream) error {
	var message, length []byte
	for {
		e, err := in.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		message = protowire.AppendBytes(protowire.AppendTag(message[:0], 1, protowire.BytesType), e.Key)
		if len(e.Value) > 0 {
			message = protowire.AppendBytes(protowire.AppendTag(message, 2, protowire.BytesType), e.Value)
		}
		length = binary.AppendUvarint(length[:0], uint64(len(message)))
		if _, err := w.Write(length); err != nil {
			return err
		}
		if _, err := w.Write(message); err != nil {
			return err
		}
	}
}

// head is the beginning of the file up to state.bin, which has so many bytes, and the
// meta.json that is in it. Its length is the same for every size.
func (s *stage) head(size int64) (head, meta []byte, err error) {
	// A restore replaces index, term and configuration by those of the cluster.
	meta, err = json.Marshal(hraft.SnapshotMeta{Version: hraft.SnapshotVersionMax, ID: s.id(), Index: raft.FSMIndex, Term: raft.FSMTerm, Size: size})
	if err != nil {
		return nil, nil, err
	}
	meta = append(meta, bytes.Repeat([]byte(" "), len("9223372036854775807")-len(fmt.Sprint(size)))...)
	var out bytes.Buffer
	z, err := gzip.NewWriterLevel(&out, gzip.NoCompression)
	if err != nil {
		return nil, nil, err
	}
	t := tar.NewWriter(z)
	err = t.WriteHeader(header(metaName, int64(len(meta))))
	if err == nil {
		_, err = t.Write(meta)
	}
	if err == nil {
		err = t.Flush()
	}
	if err == nil {
		err = t.WriteHeader(header(stateName, size))
	}
	err = errors.Join(err, z.Close())
	return out.Bytes(), meta, err
}

// header is that of a file in the archive: one block, whatever its size.
func header(name string, size int64) *tar.Header {
	return &tar.Header{Name: name, Mode: 0o600, Size: size, Format: tar.FormatGNU}
}

// id is that of the snapshot, by which it is told from others.
func (s *stage) id() string { return "dyn2raft-" + s.run }

// A counter counts what is written.
type counter struct {
	w io.Writer
	n int64
}

func (c *counter) Write(p []byte) (int, error) {
	n, err := c.w.Write(p)
	c.n += int64(n)
	return n, err
}
