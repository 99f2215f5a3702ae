package vaultdb

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	wal "github.com/hashicorp/raft-wal"
	"github.com/hashicorp/raft-wal/metadb"
	"github.com/hashicorp/raft-wal/segment"
	"github.com/hashicorp/raft-wal/types"
)

// A Log is Raft's log and the few values that it keeps beside it.
type Log struct {
	// Store is "raft.db" or "wal"; empty where there is no log.
	Store string `json:"store"`
	// First and Last are the indexes of the first and the last entry; both are
	// 0 where the log has none.
	First uint64 `json:"first_index"`
	Last  uint64 `json:"last_index"`
	// CurrentTerm is the newest term that the node has seen.
	CurrentTerm uint64 `json:"current_term"`
	// VotedTerm is the newest term that the node has voted in, 0 where it never has.
	VotedTerm uint64 `json:"voted_term,omitempty"`
	// Bytes is the size of the log's files.
	Bytes int64 `json:"bytes"`
	// Damage says what is wrong with the log. It is empty where nothing is;
	// otherwise the other fields can't be relied on. Of a raft.db with entries only
	// what stands here was read. Of WAL segments neither the entries nor their
	// checksums were read.
	Damage string `json:"damage,omitempty"`
}

// ReadLog reads what there is in the directory raft of a data directory, by
// the choice that Vault makes: raft.db where there is one. It does not use the
// libraries that write these files, since raft-wal can't open a log without
// writing.
func ReadLog(ctx context.Context, dir string) (log Log, err error) {
	boltFile, walDir := filepath.Join(dir, "raft.db"), filepath.Join(dir, "wal")
	var read func() error
	if there(boltFile) {
		log.Store = "raft.db"
		read = func() error { return log.readRaftDB(ctx, boltFile) }
	} else if there(filepath.Join(walDir, metadb.FileName)) {
		log.Store = "wal"
		read = func() error { return log.readWAL(ctx, walDir) }
	} else {
		return log, nil
	}
	err = log.judge(read())
	return log, err
}

// judge takes an error of reading the log. Where the log is damaged, it sets Damage
// and returns nil. It returns every other error.
func (l *Log) judge(err error) error {
	if errors.Is(err, ErrDamaged) || errors.Is(err, ErrNoBucket) {
		l.Damage = err.Error()
		return nil
	}
	return err
}

// there reports whether something is at path: a file, or what can't be read as one.
func there(path string) bool {
	_, err := os.Stat(path)
	return !errors.Is(err, fs.ErrNotExist)
}

// readRaftDB reads the file of raft-boltdb/v2: bucket logs has the indexes as
// its keys and bucket conf the term, all big-endian.
func (l *Log) readRaftDB(ctx context.Context, path string) (err error) {
	file, err := OpenBolt(path)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	if l.Bytes, err = fileSize(path); err != nil {
		return err
	}
	first, last, err := file.Ends(ctx, "logs")
	if err == nil && first == nil { // it is small
		_, err = file.Check(ctx)
	}
	if err != nil {
		return err
	}
	if l.First, err = number(binary.BigEndian, first); err != nil {
		return err
	}
	if l.Last, err = number(binary.BigEndian, last); err != nil {
		return err
	}
	return l.readTerms(ctx, file, "conf", binary.BigEndian)
}

// readTerms reads the terms from a store's bucket. The keys are those of
// hashicorp/raft (api.go and raft.go of v1.7.3).
func (l *Log) readTerms(ctx context.Context, file *File, bucket string, order binary.ByteOrder) error {
	for key, to := range map[string]*uint64{"CurrentTerm": &l.CurrentTerm, "LastVoteTerm": &l.VotedTerm} {
		b, err := lookUp(ctx, file, bucket, key)
		if err != nil {
			return err
		}
		if *to, err = number(order, b); err != nil {
			return err
		}
	}
	return nil
}

// readWAL reads the files of raft-wal: wal-meta.db is a bbolt file that lists
// the segments and holds the term, little-endian; each segment is a file of
// frames.
func (l *Log) readWAL(ctx context.Context, dir string) (err error) {
	path := filepath.Join(dir, metadb.FileName)
	file, err := OpenBolt(path)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	if l.Bytes, err = fileSize(path); err != nil {
		return err
	}
	if _, err := file.Check(ctx); err != nil {
		return err
	}
	if err := l.readTerms(ctx, file, metadb.StableBucket, binary.LittleEndian); err != nil {
		return err
	}
	raw, err := lookUp(ctx, file, metadb.MetaBucket, metadb.MetaKey)
	if err != nil || raw == nil {
		return err
	}
	var state types.PersistentState
	if err := json.Unmarshal(raw, &state); err != nil {
		return fmt.Errorf("%w: list of segments: %w", ErrDamaged, err)
	}
	for _, s := range state.Segments {
		name := filepath.Join(dir, segment.FileName(s))
		size, err := fileSize(name)
		if errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("%w: segment %s is not there", ErrDamaged, filepath.Base(name))
		}
		if err != nil {
			return err
		}
		l.Bytes += size
		last := s.MaxIndex
		if s.SealTime.IsZero() { // the one that is written to
			n, err := countFrames(name, size)
			if err != nil {
				return err
			}
			last = s.BaseIndex + n - 1
		}
		if last < s.MinIndex {
			continue // it has no entry
		}
		if l.First == 0 {
			l.First = s.MinIndex
		}
		l.Last = last
	}
	return nil
}

// checkNew checks that a log is as the libraries make a new one, to the last
// field: of one that was just written nothing is believed that is not seen. The log
// of a directory that a Vault has run on, perhaps with later versions of them, may
// hold more. An error that wraps [ErrDamaged] says what is wrong.
func (l Log) checkNew(ctx context.Context, dir string) (err error) {
	wrong := func(format string, a ...any) error {
		return fmt.Errorf("%w: a new log has %s", ErrDamaged, fmt.Sprintf(format, a...))
	}
	if l.Last > 0 {
		return wrong("no entry, not one at %d", l.Last)
	}
	path, only := filepath.Join(dir, "raft.db"), map[string]string{"conf": "CurrentTerm"}
	if l.Store == "wal" {
		dir = filepath.Join(dir, "wal")
		path, only = filepath.Join(dir, metadb.FileName), map[string]string{metadb.StableBucket: "CurrentTerm", metadb.MetaBucket: metadb.MetaKey}
	}
	file, err := OpenBolt(path)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	for bucket, key := range only {
		first, last, err := file.Ends(ctx, bucket)
		if err != nil {
			return err
		}
		if string(first) != key || string(last) != key {
			return wrong("%s in its bucket %s, and nothing else", key, bucket)
		}
	}
	if l.Store != "wal" {
		return nil
	}
	raw, err := lookUp(ctx, file, metadb.MetaBucket, metadb.MetaKey)
	if err != nil {
		return err
	}
	var state types.PersistentState
	if err := json.Unmarshal(raw, &state); err != nil {
		return fmt.Errorf("%w: list of segments: %w", ErrDamaged, err)
	}
	if same, err := json.Marshal(state); err != nil || !bytes.Equal(raw, same) {
		return wrong("a list of segments with the fields that it knows, as it writes them")
	}
	if len(state.Segments) != 1 || state.NextSegmentID != 1 {
		return wrong("one segment, and 1 as the next id")
	}
	s := state.Segments[0]
	made := s
	made.CreateTime = time.Time{}
	if made != (types.SegmentInfo{BaseIndex: 1, MinIndex: 1, Codec: wal.CodecBinaryV1, SizeLimit: uint32(wal.DefaultSegmentSize)}) {
		return wrong("the segment that begins at 1, and is written to, not %+v", s)
	}
	files, err := os.ReadDir(dir)
	if err != nil {
		return readError("read "+dir, err)
	}
	if len(files) != 2 {
		return wrong("2 files, not %d", len(files))
	}
	return checkEmpty(filepath.Join(dir, segment.FileName(s)))
}

// checkEmpty checks that a segment begins with as many zeros as a look takes in:
// it has no header before it has an entry.
func checkEmpty(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return readError("read "+path, err)
	}
	defer f.Close()
	begin := make([]byte, 64<<10)
	n, err := io.ReadFull(f, begin)
	if err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
		return readError("read "+path, err)
	}
	for i, b := range begin[:n] {
		if b != 0 {
			return fmt.Errorf("%w: segment %s of a new log has byte %#x at %d", ErrDamaged, filepath.Base(path), b, i)
		}
	}
	return nil
}

// countFrames counts the entries of a segment that were committed. After a
// header of 32 bytes come frames: a type (1 entry, 2 index, 3 commit), 3 bytes
// of nothing, a length u32 little-endian, and so many bytes, filled up to a
// multiple of 8. A commit has a checksum for its length, and no bytes. Behind
// the last frame there are zeros.
func countFrames(path string, size int64) (committed uint64, err error) {
	const header, entry, index, commit = 32, 1, 2, 3
	f, err := os.Open(path)
	if err != nil {
		return 0, readError("read "+path, err)
	}
	defer f.Close()
	r := bufio.NewReaderSize(io.NewSectionReader(f, header, max(size-header, 0)), 64<<10)
	for n := uint64(0); ; {
		var h [8]byte
		if _, err := io.ReadFull(r, h[:]); errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			return committed, nil
		} else if err != nil {
			return 0, readError("read "+path, err)
		}
		length := int64(binary.LittleEndian.Uint32(h[4:]))
		switch h[0] {
		case entry:
			n++
		case index:
		case commit:
			committed, length = n, 0
		default: // nothing more, or what a crash has left
			return committed, nil
		}
		if _, err := r.Discard(int((length + 7) &^ 7)); errors.Is(err, io.EOF) {
			return committed, nil
		} else if err != nil {
			return 0, readError("read "+path, err)
		}
	}
}

// lookUp returns a value of a small bucket, or nil.
func lookUp(ctx context.Context, f *File, bucket, key string) ([]byte, error) {
	entries := f.Bucket(ctx, bucket)
	for {
		e, err := entries.Next()
		switch {
		case errors.Is(err, io.EOF):
			return nil, nil
		case err != nil:
			return nil, err
		case string(e.Key) == key:
			return append([]byte{}, e.Value...), nil
		}
	}
}

// number reads a number of 8 bytes; nothing is 0.
func number(order binary.ByteOrder, b []byte) (uint64, error) {
	switch len(b) {
	case 0:
		return 0, nil
	case 8:
		return order.Uint64(b), nil
	}
	return 0, fmt.Errorf("%w: a number has %d bytes", ErrDamaged, len(b))
}

func fileSize(path string) (int64, error) {
	st, err := os.Stat(path)
	if err != nil {
		return 0, readError("look at "+path, err)
	}
	return st.Size(), nil
}
