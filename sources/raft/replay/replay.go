// Package replay finds out what the log of a stopped Vault holds that its vault.db
// lacks.
//
// A Vault acknowledges a write once it is in the log of a majority. When that reaches
// vault.db is another matter: a node that was stopped in good order may lack it there.
// So a directory holds what its vault.db holds, changed by the entries of the log behind
// it. Vault replays them when it starts, and so does this package, without changing a
// byte of the directory.
//
// It follows Vault 1.21.1 (physical/raft: types.proto and fsm.go) and the libraries that
// it writes with: hashicorp/raft v1.7.3, raft-boltdb v2.3.1, raft-wal v0.4.0 and
// go-raftchunking v0.7.0. In one thing it does more than Vault: a Vault that restarts
// forgets the chunks that it had stored of an operation, and drops the operation when the
// last chunk comes. Here they are taken from the log, from before the state of vault.db
// too.
package replay

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"path/filepath"

	"github.com/hashicorp/go-msgpack/v2/codec"
	"github.com/hashicorp/raft"
	"google.golang.org/protobuf/encoding/protowire"

	"github.com/dyn2raft/dyn2raft/copier"
	"github.com/dyn2raft/dyn2raft/sources/raft/internal/fsm"
	"github.com/dyn2raft/dyn2raft/sources/raft/vaultdb"
)

var (
	// ErrUnknown is returned when a log has an operation, or an entry, of a kind that no
	// Vault up to 1.21 writes: what it does can't be known.
	ErrUnknown = errors.New("an operation of an unknown kind")
	// ErrGap is returned when a log does not connect to the state of vault.db, or lacks an
	// entry behind that, or a piece of an operation: acknowledged writes are missing.
	ErrGap = errors.New("entries of the log are missing")
)

// A Tail is what a log holds, and what of that is behind a vault.db.
type Tail struct {
	// First and Last are the indexes of the log's first and last entry, and LastTerm is
	// the term of the last; all are 0 where the log has none. Where entries are missing
	// that vault.db has, since the node was sent a snapshot, the log begins behind them.
	First, Last, LastTerm uint64
	// Changes holds what becomes of each key that the tail puts or deletes.
	Changes map[string]Change
	// Puts and Deletes count the operations behind vault.db, not the keys.
	Puts, Deletes int64
	// Servers is the newest configuration of the cluster in the whole log, committed or
	// not, as Raft itself takes it; ConfigIndex is its index, and 0 where there is none.
	Servers     []raft.Server
	ConfigIndex uint64
	// Torn is set where behind the last entry there is something that is none: a batch
	// that a loss of power has torn, which nobody was told is written, or damage, which
	// may have taken entries that somebody relies on. Which of them can't be told.
	Torn bool
}

// A Change is what becomes of a key: Value, which may be empty, or nothing, where Deleted
// is set.
type Change struct {
	Value   []byte
	Deleted bool
}

// Read reads the whole log of the data directory at path, whose vault.db stands at the
// index applied. It holds the values of the tail in memory, and one unfinished operation
// or a few. It changes nothing, and takes the shared lock of the bbolt file that the log
// lies in: no Vault may run on the directory, which whoever holds its vault.db sees to.
//
// An error wraps [copier.ErrSource], and [ErrUnknown], [ErrGap] or [vaultdb.ErrDamaged];
// or a context's error.
func Read(ctx context.Context, path string, applied uint64) (*Tail, error) {
	r := &reader{Tail: Tail{Changes: map[string]Change{}}, applied: applied, operations: map[operation]*chunks{}}
	dir := filepath.Join(path, "raft")
	var err error
	if r.Torn, err = readLog(ctx, dir, r.add); err == nil {
		err = r.end()
	}
	switch {
	case err == nil:
		return &r.Tail, nil
	case ctx.Err() != nil:
		return nil, context.Cause(ctx)
	}
	return nil, &copier.Error{Kind: copier.ErrSource, Op: "replay the log in " + dir, Err: err}
}

// A reader makes a Tail of a log's entries.
type reader struct {
	Tail
	applied    uint64
	operations map[operation]*chunks // that are not complete
}

// An operation is one that was cut into chunks: its number is only unique within a term,
// and it never reaches into another one.
type operation struct{ term, number uint64 }

type chunks struct {
	data [][]byte // by their places; nil is one that has not come
	have int
}

// add takes the next entry.
func (r *reader) add(l *raft.Log) error {
	switch {
	case r.First == 0:
		r.First = l.Index
	case l.Index > r.Last+1 && l.Index <= r.applied+1:
		// A node that is sent a snapshot keeps what its raft.db had, however old. All
		// that is missing is in vault.db; what stands before it tells nothing any more.
		clear(r.operations)
		r.Tail = Tail{First: l.Index, Changes: r.Changes}
	case l.Index != r.Last+1:
		return fmt.Errorf("%w: entry %d stands behind entry %d", ErrGap, l.Index, r.Last)
	}
	if l.Term < r.LastTerm {
		return fmt.Errorf("%w: entry %d has term %d, and the one before it %d", vaultdb.ErrDamaged, l.Index, l.Term, r.LastTerm)
	}
	if l.Term > r.LastTerm {
		clear(r.operations)
	}
	r.Last, r.LastTerm = l.Index, l.Term
	switch l.Type {
	case raft.LogNoop, raft.LogBarrier:
		return nil
	case raft.LogConfiguration:
		var c raft.Configuration
		if err := decode(l.Data, &c); err != nil {
			return fmt.Errorf("%w: configuration at %d: %w", vaultdb.ErrDamaged, l.Index, err)
		}
		r.Servers, r.ConfigIndex = c.Servers, l.Index
		return nil
	case raft.LogCommand:
		return r.command(l)
	default:
		return fmt.Errorf("%w: entry %d is of type %s", ErrUnknown, l.Index, l.Type)
	}
}

// end looks at the log as a whole.
func (r *reader) end() error {
	if r.Last > r.applied && r.First > r.applied+1 {
		return fmt.Errorf("%w: vault.db stands at %d, and the log begins at %d", ErrGap, r.applied, r.First)
	}
	return nil
}

// checkpoint is the command of a log that is verified from time to time. What raft-wal's
// verifier adds to it begins with its magic, little-endian.
var (
	checkpoint    = []byte{1 << 4}
	verifierMagic = binary.LittleEndian.AppendUint64(nil, 0xafd1f9d60392a503)
)

// command takes an entry that changes vault.db, or a part of one.
func (r *reader) command(l *raft.Log) error {
	if bytes.Equal(l.Data, checkpoint) && (len(l.Extensions) == 0 || bytes.HasPrefix(l.Extensions, verifierMagic)) {
		return nil
	}
	data := l.Data
	if len(l.Extensions) > 0 {
		whole, err := r.chunk(l)
		if err != nil || whole == nil {
			return err
		}
		data = whole
	}
	if l.Index <= r.applied {
		return nil
	}
	err := fields(data, func(n protowire.Number, _ uint64, b []byte) error {
		if n != 1 {
			return fmt.Errorf("%w: a command has field %d", ErrUnknown, n)
		}
		return r.operation(b)
	})
	if err != nil {
		return fmt.Errorf("entry %d: %w", l.Index, err)
	}
	return nil
}

// The operations of a command. Reads, and the notice that a snapshot was restored, change
// nothing.
const (
	deleteOp, putOp, restoreOp, getOp = 1 << 0, 1 << 1, 1 << 2, 1 << 3
)

// operation takes one operation of a command: type, flags, key and value.
func (r *reader) operation(message []byte) error {
	var kind uint64
	var key string
	value := []byte{}
	err := fields(message, func(n protowire.Number, v uint64, b []byte) error {
		switch n {
		case 1:
			kind = v
		case 2: // flags, which nobody uses
			if v != 0 {
				return fmt.Errorf("%w: it has flags %#x", ErrUnknown, v)
			}
		case 3:
			key = string(b)
		case 4:
			value = bytes.Clone(b)
		default:
			return fmt.Errorf("%w: it has field %d", ErrUnknown, n)
		}
		return nil
	})
	switch {
	case err != nil:
		return err
	case kind == putOp && key != "":
		r.Changes[key] = Change{Value: value}
		r.Puts++
	case kind == deleteOp:
		r.Changes[key] = Change{Deleted: true}
		r.Deletes++
	case kind == getOp, kind == restoreOp:
	default:
		return fmt.Errorf("%w: code %d on a key of %d bytes", ErrUnknown, kind, len(key))
	}
	return nil
}

// maxChunks bounds the chunks of an operation: more than any value that bbolt stores has
// of 512 KiB each.
const maxChunks = 1 << 16

// chunk takes a chunk of an operation, and returns the whole operation with the last one.
func (r *reader) chunk(l *raft.Log) ([]byte, error) {
	var number, place, of uint64
	err := fields(l.Extensions, func(n protowire.Number, v uint64, b []byte) error {
		switch n {
		case 1:
			number = v
		case 2:
			place = v
		case 3:
			of = v
		default: // 4 is for a layer that Vault does not have
			return fmt.Errorf("%w: what is beside its data has field %d (%d bytes)", ErrUnknown, n, len(b))
		}
		return nil
	})
	if err == nil && (place >= of || of > maxChunks) {
		err = fmt.Errorf("%w: it is chunk %d of %d", vaultdb.ErrDamaged, place, of)
	}
	if err != nil {
		return nil, fmt.Errorf("entry %d: %w", l.Index, err)
	}
	id := operation{l.Term, number}
	c := r.operations[id]
	if c == nil {
		c = &chunks{data: make([][]byte, of)}
		r.operations[id] = c
	}
	if uint64(len(c.data)) != of || c.data[place] != nil {
		return nil, fmt.Errorf("%w: entry %d is chunk %d of %d of an operation that has it, or another number of them", vaultdb.ErrDamaged, l.Index, place, of)
	}
	c.data[place] = append([]byte{}, l.Data...)
	c.have++
	if c.have == len(c.data) {
		delete(r.operations, id)
		return bytes.Join(c.data, nil), nil
	}
	if place+1 == of && l.Index > r.applied {
		return nil, fmt.Errorf("%w: entry %d ends an operation of %d chunks, and the log begins with entry %d, behind the first of them", ErrGap, l.Index, of, r.First)
	}
	return nil, nil
}

// decode reads what hashicorp/raft and raft-boltdb write.
func decode(b []byte, to any) error {
	return codec.NewDecoderBytes(b, &codec.MsgpackHandle{}).Decode(to)
}

// fields is [fsm.Fields] for messages all fields of which are known: numbers, texts and
// messages.
func fields(message []byte, f func(n protowire.Number, v uint64, b []byte) error) error {
	err := fsm.Fields(message, func(n protowire.Number, t protowire.Type, v uint64, b []byte) error {
		if t != protowire.VarintType && t != protowire.BytesType {
			return fmt.Errorf("%w: field %d is of type %d", ErrUnknown, n, t)
		}
		return f(n, v, b)
	})
	if errors.Is(err, fsm.ErrMessage) && !errors.Is(err, vaultdb.ErrDamaged) { // which one within a message has
		return fmt.Errorf("%w: %w", vaultdb.ErrDamaged, err)
	}
	return err
}
