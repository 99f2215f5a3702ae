package copier

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/dyn2raft/dyn2raft/copier/durable"
)

// notes are the keys that a feed has hinted at, on disk: a file for each process,
// notes-000001 and so on, of blocks. A block is a CRC-32C (u32) of what follows, the
// length of the rest (u32), both little-endian, and keys, each behind its length
// (uvarint). A file ends with its last whole block. Files are never changed once their
// process has ended, and go with the copy: whatever becomes of the stage, the base and
// all notes together are the source as it is.
//
// Behind the notes, position.json has the feed's position: it lags, and never leads. It
// has the sizes of the files too, so that one that is damaged is noticed.
//
// It is safe for concurrent use, but for next and seek, which are one goroutine's.
type notes struct {
	journal *journal

	mu     sync.Mutex
	file   *durable.File // of this process, once there is one
	number int           // of that file
	size   int64         // of what is synced in it
	noted  int64         // keys, by this process
	// unread are keys of this process that next has not returned: noting them again
	// would add nothing. Of more than maxUnread some are noted twice.
	unread map[string]struct{}
	left   int64 // keys that next has not read, of this process

	position Position      // the last that was returned
	sizes    map[int]int64 // of files, as far as they were on disk when a position was saved
	saved    time.Time
	behind   bool // the file of the position is older

	at     notePlace // what is read next is behind it
	last   notePlace // behind the last key that was read
	reader *noteReader
}

const (
	notesPrefix  = "notes-"
	positionName = "position.json"
	kindPosition = "dyn2raft position"
	// maxUnread bounds the keys that are held in memory.
	maxUnread = 200_000
	// positionInterval is how often the position is saved.
	positionInterval = time.Second
)

// A notePlace is a place in the notes: behind so many keys of a file, and all of those before.
type notePlace struct {
	File int `json:"file"`
	Keys int `json:"keys"`
}

// openNotes opens the notes of a copy, to be read from their beginning.
func openNotes(j *journal) (*notes, error) {
	n := &notes{journal: j, unread: map[string]struct{}{}}
	list, err := os.ReadDir(j.dir)
	if err != nil {
		return nil, workError("read "+j.dir, err)
	}
	for _, f := range list {
		digits, ok := strings.CutPrefix(f.Name(), notesPrefix)
		if i, err := strconv.Atoi(digits); ok && err == nil {
			n.number = max(n.number, i)
		}
	}
	saved, err := readPosition(j.dir)
	if err != nil {
		return nil, err
	}
	n.position, n.sizes = saved.Position, saved.Notes
	if n.sizes == nil {
		n.sizes = map[int]int64{}
	}
	for file := range n.sizes {
		n.number = max(n.number, file) // also of one that is gone
	}
	n.number++
	return n, nil
}

// A savedPosition is the position on disk.
type savedPosition struct {
	Position Position      `json:"position"`
	Notes    map[int]int64 `json:"notes"` // bytes of each file
}

// readPosition reads the last position that was saved; an empty one where there is none.
func readPosition(dir string) (p savedPosition, err error) {
	path := filepath.Join(dir, positionName)
	err = durable.ReadSealed(path, maxSetup, kindPosition, RecordFormat, &p)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return p, nil
	case err != nil:
		return p, &Error{Kind: ErrDestination, Op: "read " + path, Code: FeedGap, Err: fmt.Errorf("%w: %w", ErrGap, err)}
	}
	return p, nil
}

func (n *notes) path(file int) string {
	return filepath.Join(n.journal.dir, fmt.Sprintf("%s%06d", notesPrefix, file))
}

// add notes keys, durably, and then a position, which may be nil.
func (n *notes) add(keys [][]byte, p Position) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if err := n.write(keys); err != nil {
		return workError("write "+n.path(n.number), err)
	}
	if p != nil {
		n.position, n.behind = p, true
	}
	return n.savePosition(positionInterval)
}

// flush saves the position.
func (n *notes) flush() error {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.savePosition(0)
}

// savePosition saves the position where the one on disk is older, and was saved a while
// ago. The caller holds n.mu.
func (n *notes) savePosition(interval time.Duration) error {
	if !n.behind || time.Since(n.saved) < interval {
		return nil
	}
	if n.file != nil {
		n.sizes[n.number] = n.size
	}
	if err := n.journal.writeSealed(positionName, kindPosition, savedPosition{n.position, n.sizes}); err != nil {
		return workError("write "+filepath.Join(n.journal.dir, positionName), err)
	}
	n.saved, n.behind = time.Now(), false
	return nil
}

// write writes a block, durably. The caller holds n.mu.
func (n *notes) write(keys [][]byte) error {
	block := make([]byte, 8)
	count := 0
	for _, key := range keys {
		if _, ok := n.unread[string(key)]; ok {
			continue
		}
		block = append(binary.AppendUvarint(block, uint64(len(key))), key...)
		count++
		if len(n.unread) < maxUnread {
			n.unread[string(key)] = struct{}{}
		}
	}
	if count == 0 {
		return nil
	}
	if n.file == nil {
		f, err := n.journal.disk.Create(n.path(n.number))
		if err != nil {
			return err
		}
		n.file = f
		if err := n.journal.disk.Sync(n.journal.dir); err != nil {
			return err
		}
	}
	binary.LittleEndian.PutUint32(block[4:], uint32(len(block)-8))
	binary.LittleEndian.PutUint32(block, crc32.Checksum(block[4:], castagnoli))
	if _, err := n.file.Write(block); err != nil {
		return err
	}
	if err := n.file.Sync(); err != nil {
		return err
	}
	n.size += int64(len(block))
	n.noted += int64(count)
	n.left += int64(count)
	return nil
}

// close saves the position, as far as that is possible, and closes the file.
func (n *notes) close() error {
	n.mu.Lock()
	defer n.mu.Unlock()
	err := n.savePosition(0)
	if n.reader != nil {
		err = errors.Join(err, n.reader.Close())
	}
	if n.file != nil {
		err = errors.Join(err, n.file.Close())
	}
	return err
}

// counts returns how many keys this process has noted, and how many of those next has
// not read.
func (n *notes) counts() (noted, left int64) {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.noted, n.left
}

// mostNotes is how many notes next reads to find keys that differ.
const mostNotes = 50_000

// next returns up to so many keys that follow in the notes, each once, and the place
// behind them. There are none where all was read. Whoever is given them reads what is
// stored under them: what is hinted at from then on is noted anew.
func (n *notes) next(limit int) (keys [][]byte, at notePlace, err error) {
	seen := map[string]struct{}{}
	for read := 0; len(keys) < limit && read < mostNotes; read++ {
		key, err := n.read()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, notePlace{}, err
		}
		if _, ok := seen[string(key)]; !ok {
			seen[string(key)] = struct{}{}
			keys = append(keys, bytes.Clone(key))
		}
	}
	return keys, n.last, nil
}

// seek has next begin behind a place.
func (n *notes) seek(at notePlace) error {
	for n.last != at {
		_, err := n.read()
		beyond := n.last.File > at.File || n.last.File == at.File && n.last.Keys > at.Keys
		if errors.Is(err, io.EOF) || err == nil && beyond {
			return n.lost(at.File)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// lost is the error of a file that has not what it had.
func (n *notes) lost(file int) error {
	return &Error{Kind: ErrDestination, Op: "read " + n.path(file), Code: FeedGap, Err: fmt.Errorf("%w: keys that were noted in it are gone", ErrGap)}
}

// read reads the next note; [io.EOF] where there is none yet. What is not synced is not
// read.
func (n *notes) read() ([]byte, error) {
	for {
		n.at.File = max(n.at.File, 1)
		n.mu.Lock()
		own, size, least := n.number, n.size, n.sizes[n.at.File]
		n.mu.Unlock()
		if n.at.File > own || n.at.File == own && size == 0 {
			return nil, io.EOF
		}
		if n.reader == nil {
			r, err := openNoteReader(n.path(n.at.File))
			if errors.Is(err, fs.ErrNotExist) && n.at.File < own && least == 0 {
				n.at = notePlace{File: n.at.File + 1} // of a process that has noted nothing
				continue
			}
			if errors.Is(err, fs.ErrNotExist) {
				return nil, n.lost(n.at.File)
			}
			if err != nil {
				return nil, workError("read "+n.path(n.at.File), err)
			}
			n.reader = r
		}
		limit := int64(-1)
		if n.at.File == own {
			limit = size
		}
		key, err := n.reader.next(limit)
		switch {
		case err == nil:
			n.at.Keys++
			n.last = n.at
			if n.at.File == own {
				n.mu.Lock()
				n.left--
				delete(n.unread, string(key))
				n.mu.Unlock()
			}
			return key, nil
		case !errors.Is(err, io.EOF):
			return nil, workError("read "+n.path(n.at.File), err)
		case n.at.File == own && n.reader.off >= size:
			return nil, io.EOF
		}
		if n.at.File == own || n.reader.off < least {
			return nil, n.lost(n.at.File)
		}
		if err := n.reader.Close(); err != nil {
			return nil, workError("read "+n.path(n.at.File), err)
		}
		n.reader, n.at = nil, notePlace{File: n.at.File + 1}
	}
}

// A noteReader reads a file of notes.
type noteReader struct {
	f     *os.File
	in    *bufio.Reader
	off   int64
	block []byte
}

func openNoteReader(path string) (*noteReader, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	return &noteReader{f: f, in: bufio.NewReader(f)}, nil
}

func (r *noteReader) Close() error { return r.f.Close() }

// next returns the next key, valid until the call after it, and [io.EOF] behind the last
// whole block below a limit; of a file that nobody writes to any more that is negative.
func (r *noteReader) next(limit int64) ([]byte, error) {
	for len(r.block) == 0 {
		if limit >= 0 && r.off >= limit {
			return nil, io.EOF
		}
		var head [8]byte
		if _, err := io.ReadFull(r.in, head[:]); err != nil {
			return nil, whole(err)
		}
		n := int64(binary.LittleEndian.Uint32(head[4:]))
		if st, err := r.f.Stat(); err != nil {
			return nil, err
		} else if n > st.Size()-r.off-8 {
			return nil, io.EOF // torn, and never synced
		}
		block := slices.Concat(head[4:], make([]byte, n))
		if _, err := io.ReadFull(r.in, block[4:]); err != nil {
			return nil, whole(err)
		}
		if crc32.Checksum(block, castagnoli) != binary.LittleEndian.Uint32(head[:]) {
			if limit >= 0 {
				return nil, errRunDamaged
			}
			return nil, io.EOF
		}
		r.block, r.off = block[4:], r.off+8+n
	}
	size, n := binary.Uvarint(r.block)
	if n <= 0 || size > uint64(len(r.block)-n) {
		return nil, errRunDamaged
	}
	key := r.block[n : n+int(size)]
	r.block = r.block[n+int(size):]
	return key, nil
}

func whole(err error) error {
	if errors.Is(err, io.ErrUnexpectedEOF) {
		return io.EOF
	}
	return err
}
