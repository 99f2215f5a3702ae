package dynamodb

import (
	"bytes"
	"context"
	"crypto/sha256"
	endian "encoding/binary"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/aws/aws-sdk-go-v2/service/dynamodb/types"

	"github.com/dyn2raft/dyn2raft/copier"
)

// What is in a table and what is to be in it are compared as two streams in one order,
// that of places. The place of an entry is its Vault key; that of a directory marker is the
// directory with a slash behind it. An entry follows the markers of its directories.

// itemAt leads from a place to its item.
func itemAt(place string) (dir, base string) {
	switch i := strings.LastIndexByte(strings.TrimSuffix(place, "/"), '/'); i {
	case -1:
		return emptyPath, place
	case 0:
		return "/", place[1:]
	default:
		return place[:i], place[i+1:]
	}
}

// A stored item is what is kept of one while two streams are compared: what it costs to
// delete it, in write units, and the SHA-256 of its value.
type stored struct {
	units uint16
	sum   [sha256.Size]byte
}

func (st *stored) encode() []byte {
	return append(endian.BigEndian.AppendUint16(nil, st.units), st.sum[:]...)
}

func storedOf(b []byte) (st stored) {
	st.units = endian.BigEndian.Uint16(b)
	copy(st.sum[:], b[2:])
	return st
}

// summaries reads a table's items but for its locks, as entries whose keys are places and
// whose values are encoded stored ones.
type summaries struct{ copier.Source }

// Read implements [copier.Source].
func (t summaries) Read(ctx context.Context, span copier.Span, b *copier.Batch) (copier.Page, error) {
	var whole copier.Batch
	page, err := t.Source.Read(ctx, span, &whole)
	if err != nil {
		return page, err
	}
	for i := range whole.Len() {
		e := whole.Entry(i)
		dir, base := itemAt(string(e.Key))
		st := stored{units: uint16((itemSize(dir, base, e.Value) + 1023) / 1024), sum: sha256.Sum256(e.Value)}
		b.Append(e.Key, st.encode())
	}
	return page, nil
}

// A closure is a stream of entries, each behind the markers of its directories that have
// not come before.
type closure struct {
	in   copier.Stream
	e    copier.Entry
	has  bool   // e is to come
	last []byte // the key before e
	from int    // how much of e's key was looked at for markers
}

// Next implements [copier.Stream].
func (c *closure) Next() (copier.Entry, error) {
	if !c.has {
		c.last = append(c.last[:0], c.e.Key...)
		e, err := c.in.Next()
		if err != nil {
			return copier.Entry{}, err
		}
		c.e, c.has, c.from = e, true, 0
	}
	for {
		i := bytes.IndexByte(c.e.Key[c.from:], '/')
		if i < 0 {
			c.has = false
			return c.e, nil
		}
		c.from += i + 1
		// In the order of keys all that is below a directory comes together.
		if dir := c.e.Key[:c.from]; !bytes.HasPrefix(c.last, dir) {
			return copier.Entry{Key: dir}, nil
		}
	}
}

// A difference is what has to be done with the item at a place, as the value of an entry
// whose key is the place.
const (
	doPut    = 'p'
	doDelete = 'd'
)

// differenceHeader is how long a difference is before the value that is put: what is done,
// and the write units that it takes.
const differenceHeader = 3

// itemOf is the write that a difference is. It refers to nothing of the entry.
func itemOf(e copier.Entry) (item, error) {
	dir, base := itemAt(string(e.Key))
	if len(e.Value) < differenceHeader {
		return item{}, errors.New("a difference is damaged")
	}
	units := int(endian.BigEndian.Uint16(e.Value[1:]))
	if e.Value[0] == doDelete {
		return item{types.WriteRequest{DeleteRequest: &types.DeleteRequest{Key: itemKey(dir, base)}}, units}, nil
	}
	it := put(dir, base, bytes.Clone(e.Value[differenceHeader:]))
	it.units = max(it.units, units)
	return it, nil
}

// sameVault are entries by which the table of a Vault is told from that of another one.
// No entry in plain text says which Vault it is: core/seal-config says how it is unsealed,
// and many say the same. What is encrypted has a random nonce: it is the same in two
// storages only where one has it from the other. core/cluster/local/info, the cluster's id
// and name, is written once, and stays when keys are rotated (Vault 1.21.1). The keyring
// changes with each rotation, but serves a table whose Vault was too old to have that.
var sameVault = []string{"core/cluster/local/info", "core/keyring"}

// maxRefused is how many entries that can't be written are named at the most.
const maxRefused = 100

// differences is the stream of what has to be done with the items of a table.
type differences struct {
	want, have side
	vet        func(copier.Entry) error
	refused    []error
	hidden     hidden
	same       bool // an entry of sameVault is
	stats      copier.LoadStats
	changes    Changes
	tell       func(entries, bytes int64) // of entries that are as they are to be
	buf        []byte
}

// A side is one of two streams that are compared.
type side struct {
	in    copier.Stream
	e     copier.Entry
	ended bool
	ahead bool // e was read and not dealt with
}

func (s *side) read() error {
	if s.ahead || s.ended {
		return nil
	}
	e, err := s.in.Next()
	if err == io.EOF {
		s.ended = true
		return nil
	}
	s.e, s.ahead = e, err == nil
	return err
}

// Next implements [copier.Stream].
func (d *differences) Next() (copier.Entry, error) {
	for {
		if err := errors.Join(d.want.read(), d.have.read()); err != nil {
			return copier.Entry{}, err
		}
		order := bytes.Compare(d.want.e.Key, d.have.e.Key)
		switch {
		case d.want.ended && d.have.ended:
			return copier.Entry{}, io.EOF
		case d.want.ended:
			order = 1
		case d.have.ended:
			order = -1
		}
		if order > 0 {
			d.have.ahead = false
			d.changes.Delete++
			return d.difference(doDelete, d.have.e.Key, storedOf(d.have.e.Value).units, nil), nil
		}
		e := d.want.e
		d.want.ahead = false
		entry := !bytes.HasSuffix(e.Key, []byte("/"))
		if entry {
			if err := d.look(e); err != nil {
				return copier.Entry{}, err
			}
		}
		var was stored
		if order == 0 {
			d.have.ahead = false
			was = storedOf(d.have.e.Value)
			if was.sum == sha256.Sum256(e.Value) {
				d.changes.Same++
				d.same = d.same || slices.Contains(sameVault, string(e.Key))
				if entry {
					d.tell(1, int64(len(e.Key)+len(e.Value)))
				}
				continue
			}
		}
		d.changes.Put++
		return d.difference(doPut, e.Key, was.units, e.Value), nil
	}
}

// look counts an entry that is to be there, and notes why it can't be. Its error says that
// enough are noted.
func (d *differences) look(e copier.Entry) error {
	d.stats.Entries++
	d.stats.Bytes += int64(len(e.Key) + len(e.Value))
	if n := int64(len(e.Value)); n > d.stats.LargestBytes || d.stats.LargestKey == "" {
		d.stats.LargestKey, d.stats.LargestBytes = string(e.Key), n
	}
	d.hidden.note(e.Key)
	if err := d.vet(e); err != nil {
		d.refused = append(d.refused, err)
	}
	if len(d.refused) >= maxRefused {
		return d.refusedError()
	}
	return nil
}

func (d *differences) refusedError() error {
	switch n := len(d.refused); n {
	case 0:
		return nil
	case 1:
		return d.refused[0]
	default:
		return fmt.Errorf("%w (and %d more such entries)", d.refused[0], n-1)
	}
}

// difference is an entry that is valid until the next one.
func (d *differences) difference(do byte, place []byte, units uint16, value []byte) copier.Entry {
	d.buf = endian.BigEndian.AppendUint16(append(d.buf[:0], do), units)
	d.buf = append(d.buf, value...)
	return copier.Entry{Key: place, Value: d.buf}
}
