package copier

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/zeebo/xxh3"

	"github.com/dyn2raft/dyn2raft/copier/durable"
)

// Buckets are digests by the first 16 bits of the XXH3 of an entry's key, of 128 bits
// with the seed 0: two sets of entries that differ in a few of them differ in a few
// buckets. So a source can be compared with what was copied of it when that can't be
// read any more, and what differs be narrowed down to keys of the source.
type Buckets [1 << 16]Digest

// BucketOf is the index of the bucket that a key's entry is in.
func BucketOf(key []byte) int {
	h := xxh3.Hash128(key).Bytes()
	return int(binary.BigEndian.Uint16(h[:]))
}

// Add adds an entry.
func (b *Buckets) Add(e Entry) { b[BucketOf(e.Key)].Add(digestOf(e)) }

// Sub takes an entry away, which must be in it.
func (b *Buckets) Sub(e Entry) { b[BucketOf(e.Key)].Sub(digestOf(e)) }

func (b *Buckets) join(o *Buckets) {
	for i := range b {
		b[i].Add(o[i])
	}
}

// Total is the digest of all entries.
func (b *Buckets) Total() (sum Digest) {
	for _, d := range b {
		sum.Add(d)
	}
	return sum
}

// bucketsFormat is the version of the form that buckets have on disk: for each the
// number of entries, their bytes, and the four words of the sum, of 64 bits each,
// little-endian.
const (
	bucketsFormat = 1
	kindBuckets   = "dyn2raft buckets"
	bucketBytes   = 6 * 8
)

type bucketsRecord struct {
	RunID string `json:"run_id"`
	Data  []byte `json:"data"`
}

// Encode seals the buckets of a run's result.
func (b *Buckets) Encode(runID string) ([]byte, error) {
	r := bucketsRecord{RunID: runID, Data: make([]byte, 0, len(b)*bucketBytes)}
	for _, d := range b {
		for _, n := range []uint64{uint64(d.Entries), uint64(d.Bytes), d.Hash[0], d.Hash[1], d.Hash[2], d.Hash[3]} {
			r.Data = binary.LittleEndian.AppendUint64(r.Data, n)
		}
	}
	return durable.Seal(kindBuckets, bucketsFormat, r)
}

// DecodeBuckets reads what Encode has sealed for a record's run. They must add up to the
// record's total.
func DecodeBuckets(data []byte, of *Record) (*Buckets, error) {
	var r bucketsRecord
	if err := durable.Unseal(data, kindBuckets, bucketsFormat, &r); err != nil {
		return nil, err
	}
	b := new(Buckets)
	switch {
	case r.RunID != of.RunID:
		return nil, fmt.Errorf("they are of run %q, and the record of run %q", r.RunID, of.RunID)
	case len(r.Data) != len(b)*bucketBytes:
		return nil, fmt.Errorf("they have %d bytes, expected %d", len(r.Data), len(b)*bucketBytes)
	}
	for i := range b {
		var n [6]uint64
		for j := range n {
			n[j] = binary.LittleEndian.Uint64(r.Data[i*bucketBytes+8*j:])
		}
		b[i] = Digest{Entries: int64(n[0]), Bytes: int64(n[1]), Hash: Sum{n[2], n[3], n[4], n[5]}}
	}
	if b.Total() != of.Total {
		return nil, errors.New("they do not add up to the record's total")
	}
	return b, nil
}
