package copier

import (
	"context"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"io"
	"math/bits"
	"os"
	"path/filepath"
)

// A run is a file of entries in ascending key order: blocks of a CRC-32C
// (u32), a length (u32), both little-endian, and that many bytes of whole
// entries. Each is how many bytes its key shares with the beginning of the key
// before it in the block, how many more it has, how many the value has (three
// uvarints), the rest of the key and the value. Vault's keys share much: most
// of a table lies in a few Paths. The CRC covers the length and the bytes. The
// last block has the length 0 and is followed by the number of entries (u64),
// which its CRC covers too: a file that ends before it, or continues behind it,
// is damaged.

const (
	// runBlockSize is the size of a block, header included. A reader holds one
	// block in memory, and all runs are read at the same time.
	runBlockSize = 64 << 10
	// runBlockMax is the largest block a reader accepts: an entry larger than
	// runBlockSize has a block of its own.
	runBlockMax = maxBatch + 64
	runHeader   = 8
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// errRunDamaged is returned when a run file does not hold what was written.
var errRunDamaged = errors.New("work file is damaged")

// A sortedRun describes a run file.
type sortedRun struct {
	path    string
	size    int64
	entries int64
	block   int64 // the size of its largest block
	coverage
}

// record is how a checkpoint names a run.
func (r *sortedRun) record() runRecord {
	return runRecord{File: filepath.Base(r.path), Size: r.size, Entries: r.entries, Block: r.block, coverage: r.coverage}
}

// A runFile is what a run is written to.
type runFile interface {
	io.WriteCloser
	Name() string
}

// writeRun writes all of a sorted stream to a new file. A file that can't be
// written to its end is removed.
func writeRun(ctx context.Context, create func() (runFile, error), in Stream) (run sortedRun, err error) {
	f, err := create()
	if err != nil {
		return run, workError("create work file", err)
	}
	run.path = f.Name()
	defer func() {
		if cerr := f.Close(); err == nil && cerr != nil {
			err = workError("close work file", cerr)
		}
		if err != nil {
			err = errors.Join(err, os.Remove(run.path))
		}
	}()

	block := make([]byte, runHeader, runBlockSize)
	var key []byte // the last one in the block
	flush := func(payload int) error {
		if err := context.Cause(ctx); err != nil {
			return err
		}
		binary.LittleEndian.PutUint32(block[4:], uint32(payload))
		binary.LittleEndian.PutUint32(block[0:], crc32.Checksum(block[4:], castagnoli))
		n, err := f.Write(block)
		run.size += int64(n)
		run.block = max(run.block, int64(len(block)))
		block, key = block[:runHeader], key[:0]
		if err != nil {
			return workError("write work file", err)
		}
		return nil
	}
	for {
		e, err := in.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			return run, err
		}
		if payload := len(block) - runHeader; payload > 0 &&
			len(block)+3*binary.MaxVarintLen32+len(e.Key)+len(e.Value) > runBlockSize {
			if err := flush(payload); err != nil {
				return run, err
			}
		}
		shared := Shared(key, e.Key)
		rest := e.Key[shared:]
		block = binary.AppendUvarint(block, uint64(shared))
		block = binary.AppendUvarint(block, uint64(len(rest)))
		block = binary.AppendUvarint(block, uint64(len(e.Value)))
		block = append(append(block, rest...), e.Value...)
		key = append(key[:shared], rest...)
		run.entries++
	}
	if payload := len(block) - runHeader; payload > 0 {
		if err := flush(payload); err != nil {
			return run, err
		}
	}
	block = binary.LittleEndian.AppendUint64(block, uint64(run.entries))
	err = flush(0)
	return run, err
}

// Shared is how many bytes two keys have in common at their beginnings.
func Shared(a, b []byte) int {
	n := min(len(a), len(b))
	a, b = a[:n], b[:n]
	i := 0
	for ; n-i >= 8; i += 8 {
		if x := binary.LittleEndian.Uint64(a[i:]) ^ binary.LittleEndian.Uint64(b[i:]); x != 0 {
			return i + bits.TrailingZeros64(x)/8
		}
	}
	for i < n && a[i] == b[i] {
		i++
	}
	return i
}

// workError is an error of the work directory.
func workError(op string, err error) error {
	return &Error{Kind: ErrDestination, Op: op, Code: workCode(err), Err: err}
}

// A runReader streams a run.
type runReader struct {
	name    string
	r       io.ReadCloser
	entries uint64 // read so far
	block   []byte // what is left of the current block
	key     []byte // the last one in it
	buf     []byte

	once      *os.File // set where nobody will read the file again soon
	at        int64    // bytes read
	forgotten int64    // up to where the kernel was told that they are
}

// forgetSize is how much of a run is read between two hints that the kernel
// needs not keep it. Without them, the first part of a large result would
// push those parts of the runs out of memory that are still to be read.
const forgetSize = 1 << 20

// openRun opens a run. If it is read once, what was read is let go of.
func openRun(path string, once bool) (*runReader, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, workError("open work file", err)
	}
	r := &runReader{name: filepath.Base(path), r: f}
	if once {
		r.once = f
	}
	return r, nil
}

// Next returns the run's next entry, valid until the following call.
func (r *runReader) Next() (Entry, error) {
	e, err := r.next()
	if err != nil && err != io.EOF {
		return Entry{}, workError("read work file "+r.name, err)
	}
	return e, err
}

func (r *runReader) next() (Entry, error) {
	if len(r.block) == 0 {
		if err := r.nextBlock(); err != nil {
			return Entry{}, err
		}
	}
	var n [3]uint64 // bytes: of the key shared, of the key's rest, of the value
	rest := r.block
	for i := range n {
		if len(rest) > 0 && rest[0] < 0x80 {
			n[i], rest = uint64(rest[0]), rest[1:]
			continue
		}
		v, size := binary.Uvarint(rest)
		if size <= 0 {
			return Entry{}, errRunDamaged
		}
		n[i], rest = v, rest[size:]
	}
	shared, klen, vlen := n[0], n[1], n[2]
	if left := uint64(len(rest)); shared > uint64(len(r.key)) || klen > left || vlen > left-klen {
		return Entry{}, errRunDamaged
	}
	r.key = append(r.key[:shared], rest[:klen]...)
	r.block = rest[klen+vlen:]
	r.entries++
	return Entry{Key: r.key[:len(r.key):len(r.key)], Value: rest[klen : klen+vlen : klen+vlen]}, nil
}

// nextBlock reads a block, and returns io.EOF after a good last one.
func (r *runReader) nextBlock() error {
	var h [runHeader]byte
	if _, err := io.ReadFull(r.r, h[:]); err != nil {
		return notEOF(err)
	}
	sum, n := binary.LittleEndian.Uint32(h[0:]), int64(binary.LittleEndian.Uint32(h[4:]))
	last := n == 0
	if last {
		n = 8
	}
	if n > runBlockMax {
		return errRunDamaged
	}
	b, err := r.read(n)
	if err != nil {
		return notEOF(err)
	}
	if crc32.Update(crc32.Checksum(h[4:], castagnoli), castagnoli, b) != sum {
		return errRunDamaged
	}
	if r.at += int64(len(h)) + n; r.once != nil && r.at-r.forgotten >= forgetSize {
		forget(r.once, r.forgotten, r.at-r.forgotten)
		r.forgotten = r.at
	}
	if !last {
		r.block, r.key = b, r.key[:0]
		return nil
	}
	if binary.LittleEndian.Uint64(b) != r.entries {
		return errRunDamaged
	}
	switch _, err := io.ReadFull(r.r, h[:1]); err {
	case io.EOF:
		return io.EOF
	case nil:
		return errRunDamaged
	default:
		return err
	}
}

// read reads n bytes. It makes room for them as they come, so that a damaged
// length can't make us allocate half a gigabyte.
func (r *runReader) read(n int64) ([]byte, error) {
	r.buf = r.buf[:0]
	for int64(len(r.buf)) < n {
		part := min(n-int64(len(r.buf)), max(runBlockSize, int64(len(r.buf))))
		from := len(r.buf)
		if need := from + int(part); need > cap(r.buf) {
			r.buf = append(make([]byte, 0, need), r.buf...)
		}
		r.buf = r.buf[:from+int(part)]
		if _, err := io.ReadFull(r.r, r.buf[from:]); err != nil {
			return nil, err
		}
	}
	return r.buf, nil
}

// notEOF turns the end of a file where there must be none into damage.
func notEOF(err error) error {
	if err == io.EOF || err == io.ErrUnexpectedEOF {
		return errRunDamaged
	}
	return err
}

func (r *runReader) Close() error { return r.r.Close() }
