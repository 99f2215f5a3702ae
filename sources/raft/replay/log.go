package replay

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/hashicorp/raft"
	wal "github.com/hashicorp/raft-wal"
	"github.com/hashicorp/raft-wal/metadb"
	"github.com/hashicorp/raft-wal/segment"
	"github.com/hashicorp/raft-wal/types"

	"github.com/dyn2raft/dyn2raft/sources/raft/vaultdb"
)

// readLog calls each with every entry of the log in the directory raft of a data
// directory, in the order of their indexes. As Vault does, it takes raft.db where there
// is one. It does not use the libraries that write these files: to open a log they write,
// or map the file. It reports whether behind the last entry there is something that is
// none.
func readLog(ctx context.Context, dir string, each func(*raft.Log) error) (torn bool, err error) {
	bolt, meta := filepath.Join(dir, "raft.db"), filepath.Join(dir, "wal", metadb.FileName)
	if _, err = os.Lstat(bolt); err == nil {
		return false, readRaftDB(ctx, bolt, each)
	}
	if errors.Is(err, fs.ErrNotExist) {
		if _, err = os.Lstat(meta); err == nil {
			return readWAL(ctx, meta, each)
		}
	}
	if errors.Is(err, fs.ErrNotExist) {
		err = fmt.Errorf("%w: neither raft.db nor wal/%s is there", ErrGap, metadb.FileName)
	}
	return false, err
}

// readRaftDB reads the file of raft-boltdb/v2: its bucket logs has the indexes,
// big-endian, as its keys.
func readRaftDB(ctx context.Context, path string, each func(*raft.Log) error) (err error) {
	file, err := vaultdb.OpenBolt(path)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	entries := file.Bucket(ctx, "logs")
	for {
		e, err := entries.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		var l raft.Log
		if err := decode(e.Value, &l); err != nil {
			return fmt.Errorf("%w: entry with key %x: %w", vaultdb.ErrDamaged, e.Key, err)
		}
		if len(e.Key) != 8 || binary.BigEndian.Uint64(e.Key) != l.Index {
			return fmt.Errorf("%w: the entry with key %x has index %d", vaultdb.ErrDamaged, e.Key, l.Index)
		}
		if err := each(&l); err != nil {
			return err
		}
	}
}

// readWAL reads the files of raft-wal: wal-meta.db is a bbolt file that lists the
// segments, and each segment is a file of frames.
func readWAL(ctx context.Context, meta string, each func(*raft.Log) error) (torn bool, err error) {
	file, err := vaultdb.OpenBolt(meta)
	if err != nil {
		return false, err
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	var state types.PersistentState
	entries := file.Bucket(ctx, metadb.MetaBucket)
	for {
		e, err := entries.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return false, err
		}
		if string(e.Key) != metadb.MetaKey {
			continue
		}
		if err := json.Unmarshal(e.Value, &state); err != nil {
			return false, fmt.Errorf("%w: list of segments: %w", vaultdb.ErrDamaged, err)
		}
	}
	for i, s := range state.Segments {
		if s.SealTime.IsZero() && i < len(state.Segments)-1 {
			return false, fmt.Errorf("%w: segment %s is not the last, and not sealed", vaultdb.ErrDamaged, segment.FileName(s))
		}
		f, err := os.Open(filepath.Join(filepath.Dir(meta), segment.FileName(s)))
		if err != nil {
			return false, err
		}
		torn, err = readSegment(ctx, bufio.NewReaderSize(f, 64<<10), s, each)
		if err = errors.Join(err, f.Close()); err != nil {
			return false, fmt.Errorf("segment %s: %w", segment.FileName(s), err)
		}
	}
	return torn, nil
}

// The form of a segment: a header of 32 bytes, then frames. A frame is a type, 3 bytes of
// nothing, a length u32 little-endian, and so many bytes, filled up to a multiple of 8. A
// commit has a CRC-32C of all since the commit before it, the header of the file included,
// in place of its length, and no bytes. Behind the last frame there are zeros, or what a
// crash has left of a batch.
const (
	segmentMagic  = 0x58eb6b0d
	segmentHeader = 32

	entryFrame, indexFrame, commitFrame = 1, 2, 3
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// readSegment calls each with the entries of a segment that were committed, and are not
// cut off at its beginning or end. It reports whether there is something else behind
// them; of a sealed segment that is an error.
func readSegment(ctx context.Context, r io.Reader, s types.SegmentInfo, each func(*raft.Log) error) (torn bool, err error) {
	sealed := !s.SealTime.IsZero()
	damaged := func(format string, a ...any) (bool, error) {
		if sealed {
			return false, fmt.Errorf("%w: %s", vaultdb.ErrDamaged, fmt.Sprintf(format, a...))
		}
		return true, nil
	}
	head := make([]byte, segmentHeader)
	_, err = io.ReadFull(r, head)
	if err == nil && !sealed && bytes.Equal(head, make([]byte, segmentHeader)) {
		return notZero(r) // nothing was ever written to it
	}
	if err != nil || binary.LittleEndian.Uint64(head) != segmentMagic || binary.LittleEndian.Uint64(head[8:]) != s.BaseIndex ||
		binary.LittleEndian.Uint64(head[16:]) != s.ID || binary.LittleEndian.Uint64(head[24:]) != wal.CodecBinaryV1 {
		return false, errors.Join(fmt.Errorf("%w: it does not begin as segment %d of index %d", vaultdb.ErrDamaged, s.ID, s.BaseIndex), err)
	}
	sum := crc32.Checksum(head, castagnoli)
	next := s.BaseIndex // of the entry that comes
	var batch [][]byte  // not committed yet
	for {
		if err := ctx.Err(); err != nil {
			return false, err
		}
		kind, payload, raw, err := readFrame(r)
		if err != nil {
			return false, err
		}
		switch kind {
		case entryFrame:
			batch = append(batch, payload)
		case indexFrame:
		case commitFrame:
			if binary.LittleEndian.Uint32(raw[4:]) != sum {
				return damaged("the checksum behind entry %d is not that of what was written", next+uint64(len(batch))-1)
			}
			for _, b := range batch {
				if next >= s.MinIndex && (!sealed || next <= s.MaxIndex) {
					l, err := decodeEntry(b, next)
					if err == nil {
						err = each(l)
					}
					if err != nil {
						return false, err
					}
				}
				next++
			}
			batch, sum = nil, 0
			continue
		default:
			if sealed && next > s.MaxIndex {
				return false, nil
			}
			if torn = len(batch) > 0 || !bytes.Equal(raw, make([]byte, len(raw))); !torn {
				torn, err = notZero(r)
			}
			if torn || sealed {
				torn, err = damaged("it ends with entry %d, and has them up to %d", next-1, s.MaxIndex)
			}
			return torn, err
		}
		sum = crc32.Update(sum, castagnoli, raw)
	}
}

// notZero reports whether anything but zeros follows.
func notZero(r io.Reader) (bool, error) {
	b := make([]byte, 64<<10)
	for {
		n, err := r.Read(b)
		if !bytes.Equal(b[:n], make([]byte, n)) {
			return true, nil
		}
		if errors.Is(err, io.EOF) {
			return false, nil
		}
		if err != nil {
			return false, err
		}
	}
}

// decodeEntry decodes one entry of a segment.
func decodeEntry(b []byte, index uint64) (l *raft.Log, err error) {
	defer func() { // the library believes what it reads
		if p := recover(); p != nil {
			err = fmt.Errorf("%w: entry %d: %v", vaultdb.ErrDamaged, index, p)
		}
	}()
	l = new(raft.Log)
	if err := new(wal.BinaryCodec).Decode(b, l); err != nil || l.Index != index {
		return nil, errors.Join(fmt.Errorf("%w: entry %d has index %d", vaultdb.ErrDamaged, index, l.Index), err)
	}
	return l, nil
}

// readFrame reads the next frame, with its kind and all of its bytes. The kind is 0 where
// there is none, or none that is whole: raw is then what there is of it.
func readFrame(r io.Reader) (kind byte, payload, raw []byte, err error) {
	raw = make([]byte, 8)
	n, err := io.ReadFull(r, raw)
	if err == nil && raw[0] == commitFrame {
		return commitFrame, nil, raw, nil
	}
	size := int64(binary.LittleEndian.Uint32(raw[4:]))
	if err == nil && (raw[0] == entryFrame || raw[0] == indexFrame) && size <= segment.MaxEntrySize {
		raw = append(raw, make([]byte, (size+7)&^7)...)
		if n, err = io.ReadFull(r, raw[8:]); err == nil {
			return raw[0], raw[8 : 8+size], raw, nil
		}
		n += 8
	}
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		err = nil
	}
	return 0, nil, raw[:n], err
}
