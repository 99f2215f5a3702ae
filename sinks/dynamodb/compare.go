package dynamodb

import (
	"bytes"
	"context"
	"crypto/sha256"
	endian "encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"path"
	"slices"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb/types"

	"github.com/dyn2raft/dyn2raft/copier"
)

// What is in a table and what is to be in it are compared as two streams in one order,
// that of places. The place of an entry is its Vault key; that of a directory marker is the
// directory with a slash behind it. An entry follows the markers of its directories.

// placeOf is the place of an item. ok is false where Vault keeps nothing under such a key.
func placeOf(dir, base string) (place string, ok bool) {
	name := strings.TrimSuffix(base, "/")
	if name == "" || strings.Contains(name, "/") || path.Clean(dir) != dir {
		return "", false
	}
	if dir == emptyPath {
		return base, true
	}
	return dir + "/" + base, true
}

// itemAt leads back from a place.
func itemAt(place string) (dir, base string) {
	i := strings.LastIndexByte(strings.TrimSuffix(place, "/"), '/')
	if i < 0 {
		return emptyPath, place
	}
	return place[:i], place[i+1:]
}

// A stored item is what is kept of one while two streams are compared: what it costs to
// delete it, in write units, and the SHA-256 of its value. An odd one has a value that
// Vault writes to no such item.
type stored struct {
	units uint16
	odd   bool
	sum   [sha256.Size]byte
}

func (st *stored) encode() []byte {
	b := endian.BigEndian.AppendUint16(nil, st.units)
	if st.odd {
		return b
	}
	return append(b, st.sum[:]...)
}

func storedOf(b []byte) (st stored) {
	st.units, st.odd = endian.BigEndian.Uint16(b), len(b) == 2
	copy(st.sum[:], b[2:])
	return st
}

// items reads the table's items but for its locks, as a [copier.Source] whose keys are
// places and whose values are encoded stored ones.
type items struct{ s *Sink }

// An itemsToken is where a page of items begins.
type itemsToken struct {
	Segment int32
	Of      int32
	Path    string // and Key: where the last one ended, empty at first
	Key     string
}

// Open implements [copier.Source].
func (t items) Open(context.Context) (copier.Info, error) {
	return copier.Info{Name: t.s.opts.Table}, nil
}

// segments is in how many parts a table is read for a comparison.
const segments = 64

// Split implements [copier.Source].
func (t items) Split(context.Context, int) ([]copier.Span, error) {
	out := make([]copier.Span, segments)
	for i := range out {
		from, err := json.Marshal(itemsToken{Segment: int32(i), Of: segments})
		if err != nil {
			return nil, err
		}
		out[i] = copier.Span{Index: i, From: from}
	}
	return out, nil
}

// Read implements [copier.Source]. The SDK accepts a page that was damaged on its way: an
// item that is taken for another one by that is found when the table is read back.
func (t items) Read(ctx context.Context, span copier.Span, b *copier.Batch) (page copier.Page, err error) {
	var at itemsToken
	if err := json.Unmarshal(span.From, &at); err != nil {
		return page, err
	}
	in := &dynamodb.ScanInput{TableName: &t.s.opts.Table, ConsistentRead: aws.Bool(true), Segment: &at.Segment, TotalSegments: &at.Of,
		ProjectionExpression: aws.String("#p, #k, #v, #i"), ExpressionAttributeNames: map[string]string{"#p": attrPath, "#k": attrKey, "#v": attrValue, "#i": attrIdentity}}
	if at.Key != "" {
		in.ExclusiveStartKey = itemKey(at.Path, at.Key)
	}
	tctx, cancel := t.s.within(ctx)
	defer cancel()
	out, err := t.s.client.Scan(tctx, in)
	if err != nil {
		return page, t.s.fail(tctx, "Scan", err)
	}
	for _, it := range out.Items {
		dir, base := text(it, attrPath), text(it, attrKey)
		place, ok := placeOf(dir, base)
		switch {
		case !ok:
			page.Refused = append(page.Refused, &copier.Error{Kind: copier.ErrDestination, Code: TableOtherItem, Op: "read table " + t.s.opts.Table, Facts: t.s.where(),
				Err: fmt.Errorf("it has an item with Path %q and Key %q, where Vault keeps nothing", dir, base)})
			continue
		case place == coreLockKey, place == migrationLockKey, place == leaderLockKey, strings.HasPrefix(base, "_") && locked(it):
			page.Locks = append(page.Locks, place)
			continue
		}
		st := describe(dir, base, it[attrValue])
		b.Append([]byte(place), st.encode())
	}
	if len(out.LastEvaluatedKey) > 0 {
		at.Path, at.Key = text(out.LastEvaluatedKey, attrPath), text(out.LastEvaluatedKey, attrKey)
		from, err := json.Marshal(at)
		if err != nil {
			return page, err
		}
		page.Next = []copier.Span{{Index: span.Index, From: from, Until: span.Until}}
	}
	return page, nil
}

// Close implements [copier.Source].
func (t items) Close() error { return nil }

func text(item attributes, name string) string {
	s, ok := item[name].(*types.AttributeValueMemberS)
	if !ok {
		return ""
	}
	return s.Value
}

// locked reports whether an item has a binary Identity, as locks have.
func locked(item attributes) bool {
	_, ok := item[attrIdentity].(*types.AttributeValueMemberB)
	return ok
}

// describe is what is kept of an item with a value.
func describe(dir, base string, value types.AttributeValue) stored {
	marker := strings.HasSuffix(base, "/")
	st := stored{units: 1}
	var data []byte
	switch v := value.(type) {
	case *types.AttributeValueMemberB:
		data, st.odd = v.Value, marker && len(v.Value) > 0
	case *types.AttributeValueMemberNULL:
	case nil:
		st.odd = !marker
	default:
		st.odd = true
	}
	st.units = uint16((itemSize(dir, base, data) + 1023) / 1024)
	st.sum = sha256.Sum256(data)
	return st
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
			if !was.odd && was.sum == sha256.Sum256(e.Value) {
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
	d.hidden.note(string(e.Key))
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
