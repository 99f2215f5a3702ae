package verify

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"

	"github.com/dyn2raft/dyn2raft/copier"
	"github.com/dyn2raft/dyn2raft/copier/durable"
	"github.com/dyn2raft/dyn2raft/copier/processors"
	"github.com/dyn2raft/dyn2raft/sources/raft/vaultdb"
)

// ErrInUse is returned when a running Vault, or another program, has the
// destination's vault.db open.
var ErrInUse = vaultdb.ErrInUse

// vaultDBName is the file in a data directory that holds the entries.
const vaultDBName = "vault.db"

// fsmIndex and fsmTerm are where a copy leaves Raft in a directory.
const fsmIndex, fsmTerm uint64 = 2, 1

// A destination is the data bucket of a vault.db in key order, each key with the
// summary of its value. For a whole comparison these are made by all
// processors, while the source is being read, and wait in a work file for their
// turn. For a sample, which needs few of them, they are made when they are asked
// for.
type destination struct {
	file    *vaultdb.File
	entries *vaultdb.Entries // for a sample, else nil
	value   []byte           // of the current entry of a sample
	vault   vaultKeys        // seen so far; all once summarise is done
	sum     []byte           // the summary of the current entry
	key     []byte           // the last one of the current chunk

	work *os.File
	size int64 // of work

	mu    sync.Mutex // guards size and parts, while it is being summarised
	parts [][]chunk  // of all parts of the bucket, in order

	in    []byte // what is left of the current chunk
	buf   []byte
	chunk int // the next one, of parts[0]
}

// A chunk is a piece of the work file: of each entry how many bytes its key
// shares with the beginning of the key before it in the chunk and how many more
// it has (two uvarints), the rest of the key, and the value's summary.
type chunk struct {
	at  int64
	n   int
	sum uint32 // its CRC-32C
}

// chunkSize is how large a chunk is at the least, but for the last of a part.
const chunkSize = 256 << 10

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// open opens a vault.db. The caller closes the result.
func open(file string) (*destination, error) {
	f, err := vaultdb.Open(file)
	if err != nil {
		return nil, err
	}
	return &destination{file: f}, nil
}

// stream has next read the file as it goes.
func (d *destination) stream(ctx context.Context) { d.entries = d.file.Entries(ctx) }

// summariesName is the work file's name.
const summariesName = "destination"

// summarise reads the whole file, which must be sound, and writes what next
// returns to a file in dir, over one that a killed process has left.
func (d *destination) summarise(ctx context.Context, dir string) (err error) {
	path := filepath.Join(dir, summariesName)
	if err = new(durable.Disk).RemoveFile(path); err == nil {
		d.work, err = os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600) // a link is not followed
	}
	if err != nil {
		return workError("make work file", err)
	}
	type worker struct {
		vaultKeys
		part int
		buf  []byte
		key  []byte // the last one in buf
	}
	workers := make([]*worker, processors.Count())
	for i := range workers {
		workers[i] = &worker{buf: make([]byte, 0, chunkSize+1<<10)}
	}
	flush := func(w *worker) error {
		err := d.write(w.part, w.buf)
		w.buf, w.key = w.buf[:0], w.key[:0]
		return err
	}
	_, err = d.file.ReadAll(ctx, vaultdb.DataBucket, len(workers), func(i, part int, e copier.Entry) error {
		w := workers[i]
		w.see(e)
		if part != w.part || len(w.buf) >= chunkSize {
			if err := flush(w); err != nil {
				return err
			}
			w.part = part
		}
		shared := copier.Shared(w.key, e.Key)
		rest := e.Key[shared:]
		w.buf = binary.AppendUvarint(w.buf, uint64(shared))
		w.buf = binary.AppendUvarint(w.buf, uint64(len(rest)))
		w.buf = appendSummary(append(w.buf, rest...), e.Value)
		w.key = append(w.key[:shared], rest...)
		return nil
	})
	for _, w := range workers {
		d.vault.join(w.vaultKeys)
		if err == nil {
			err = flush(w)
		}
	}
	return err
}

// write adds a chunk to a part.
func (d *destination) write(part int, b []byte) error {
	if len(b) == 0 {
		return nil
	}
	c := chunk{n: len(b), sum: crc32.Checksum(b, castagnoli)}
	d.mu.Lock()
	for len(d.parts) <= part {
		d.parts = append(d.parts, nil)
	}
	c.at = d.size
	d.size += int64(len(b))
	d.parts[part] = append(d.parts[part], c)
	d.mu.Unlock()
	if _, err := d.work.WriteAt(b, c.at); err != nil {
		return workError("write work file", err)
	}
	return nil
}

// next returns the next key, valid until the following call, or [io.EOF] after
// the last if the file is sound.
func (d *destination) next() ([]byte, error) {
	if d.entries != nil {
		e, err := d.entries.Next()
		d.value = e.Value
		d.vault.see(e)
		if errors.Is(err, io.EOF) {
			if _, err := d.entries.Check(); err != nil {
				return nil, err
			}
		}
		return e.Key, err
	}
	for len(d.in) == 0 {
		if err := d.read(); err != nil {
			return nil, err
		}
	}
	// What is read here was checked to be what was written.
	shared, n := binary.Uvarint(d.in)
	rest, m := binary.Uvarint(d.in[n:])
	in := d.in[n+m:]
	d.key = append(d.key[:shared], in[:rest]...)
	in = in[rest:]
	_, n = binary.Uvarint(in)
	d.sum, d.in = in[:n+sha256.Size], in[n+sha256.Size:]
	return d.key, nil
}

// summary is that of the value of the key that next has returned.
func (d *destination) summary() []byte {
	if d.entries != nil {
		d.sum = appendSummary(d.sum[:0], d.value)
	}
	return d.sum
}

// read reads the next chunk.
func (d *destination) read() error {
	for len(d.parts) > 0 && d.chunk == len(d.parts[0]) {
		d.parts, d.chunk = d.parts[1:], 0
	}
	if len(d.parts) == 0 {
		return io.EOF
	}
	c := d.parts[0][d.chunk]
	d.chunk++
	d.buf = slices.Grow(d.buf[:0], c.n)[:c.n]
	if _, err := d.work.ReadAt(d.buf, c.at); err != nil {
		return workError("read work file", err)
	}
	if crc32.Checksum(d.buf, castagnoli) != c.sum {
		return workError("read work file", errors.New("it does not hold what was written to it: check the disk and the memory of this machine"))
	}
	d.in, d.key = d.buf, d.key[:0]
	return nil
}

// discard removes the work file, if there is one.
func (d *destination) discard() error {
	if d.work == nil {
		return nil
	}
	err := errors.Join(d.work.Close(), os.Remove(d.work.Name()))
	d.work = nil
	if err != nil {
		return workError("remove work file", err)
	}
	return nil
}

func (d *destination) close() error { return d.file.Close() }

// workError is an error of the work files.
func workError(op string, err error) error {
	e := &copier.Error{Kind: copier.ErrDestination, Op: op, Err: err}
	if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) {
		e.Hint = "the work files of a comparison need about 170 bytes an entry, and 350 more for each that differs; make room, or name another place with -work-dir"
	}
	return e
}

// known says why a Vault changes a key without being asked to, or returns
// nothing where it may be anything. It names a likely cause and proves none: a
// lease that is gone has probably expired. Keys that Vault hardly ever changes
// by itself and that nobody can do without are not explained, such as
// core/keyring, the unseal keys and the tables of mounts.
//
// The list was made by comparing, key by key, what a Vault 1.21 does in two
// starts on a copied directory, with names from Vault's documentation.
func known(kind DiffKind, key string) string {
	for _, k := range []struct{ key, why string }{
		{"core/raft/tls", "Vault makes the keyring of its Raft TLS when it first starts, and rotates it"},
		{"core/raft/autopilot/", "Raft's autopilot notes its state"},
		{"core/lock", "the lock of the active node"},
		{"core/leader/", "the active node announces itself, and removes its predecessors' records"},
		{"core/cluster/", "what the active node says of its cluster"},
		{"sys/expire/id/", "leases are made, renewed, and removed when they expire"},
		{"sys/token/id/", "tokens are made, renewed, and removed when they expire"},
		{"sys/token/accessor/", "accessors come and go with their tokens"},
		{"sys/token/parent/", "tokens' children expire"},
		{"sys/counters/", "Vault counts requests and clients"},
	} {
		if key == k.key || strings.HasSuffix(k.key, "/") && strings.HasPrefix(key, k.key) {
			return k.why
		}
	}
	if kind != Extra {
		return ""
	}
	first, _, _ := strings.Cut(key, "/")
	switch {
	case strings.HasPrefix(key, "core/versions/"):
		return "a version of Vault notes that it has run"
	case key == "core/wrapping/jwtkey":
		return "Vault makes the key of response wrapping where there is none"
	case strings.HasSuffix(key, "/salt") && (first == "auth" || first == "audit" || first == "logical") && strings.Count(key, "/") == 2:
		return "a mount makes its salt when it is first used"
	}
	return ""
}
