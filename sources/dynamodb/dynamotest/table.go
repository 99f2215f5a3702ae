package dynamotest

import (
	"cmp"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"maps"
	"math/bits"
	"slices"
	"sort"
	"strings"
	"sync"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/dynamodb/types"
)

// Limits of the service (Developer Guide, "Quotas").
const (
	maxPageBytes = 1 << 20 // of items, before a page ends
	maxItemBytes = 400 << 10
	maxHashKey   = 2048
	maxRangeKey  = 1024

	maxBatchGet   = 100
	maxBatchBytes = 16 << 20
)

// A table keeps its items in the order in which a Scan visits them: by the
// hash of the hash key, then by range key.
type table struct {
	name    string
	id      string
	created time.Time
	keys    []keyAttribute // hash key, then range key if there is one

	mu      sync.RWMutex
	status  types.TableStatus
	billing types.BillingMode
	read    int64 // provisioned capacity
	write   int64
	budget  budget  // for reading
	writing budget  // for batches
	written float64 // write units consumed
	details TableDetails
	streams StreamSettings
	stream  *Stream // the latest
	backups []*backup
	parts   []*partition // by hash, then by value
	byValue map[string]*partition
	count   int64
	bytes   int64
}

type keyAttribute struct {
	name string
	kind string // S, N or B
}

// A partition holds all items of one hash key value. It always lies in one
// segment.
type partition struct {
	hash    uint64
	value   string    // sortString of the hash key
	records []*record // by range key
}

// A record is an item, ready to be sent. It never changes: a write replaces it.
type record struct {
	sort   string       // sortString of the range key
	json   []byte       // the item in DynamoDB JSON, its key attributes first; without its end where random is set
	keyLen int          // json[:keyLen]+"}" is the item's key
	size   int          // itemSize
	random *randomValue // the Value, where that is not kept; else nil
}

// appendJSON appends the item in DynamoDB JSON.
func (r *record) appendJSON(b []byte) []byte {
	b = append(b, r.json...)
	if r.random != nil {
		b = append(b, `,"Value":{"B":"`...)
		b = r.random.appendBase64(b)
		b = append(b, `"}}`...)
	}
	return b
}

// jsonSize is how many bytes appendJSON appends.
func (r *record) jsonSize() int {
	if r.random == nil {
		return len(r.json)
	}
	return len(r.json) + len(`,"Value":{"B":""}}`) + base64.StdEncoding.EncodedLen(r.random.size)
}

// key is an item's place in the table.
type key struct {
	value, sort string
}

func (r *record) appendKey(b []byte) []byte {
	return append(append(b, r.json[:r.keyLen]...), '}')
}

func (r *record) item() attributes {
	var item attributes
	if err := json.Unmarshal(r.appendJSON(nil), &item); err != nil {
		panic("dynamotest: stored item does not decode: " + err.Error())
	}
	return item
}

// hashOf spreads hash key values evenly over the segments.
func hashOf(value string) uint64 {
	sum := sha256.Sum256([]byte(value))
	return binary.BigEndian.Uint64(sum[:])
}

// segmentOf cuts the range of hashes into total equal parts.
func segmentOf(hash uint64, total int) int {
	segment, _ := bits.Mul64(hash, uint64(total))
	return int(segment)
}

// key checks the key attributes of an item and returns its place. With only
// set the item must have no other attributes.
func (t *table) key(item attributes, only bool) (key, error) {
	if only && len(item) != len(t.keys) {
		return key{}, validation("The provided key element does not match the schema")
	}
	var parts [2]string
	for i, k := range t.keys {
		v, ok := item[k.name]
		if !ok {
			if only {
				return key{}, validation("The provided key element does not match the schema")
			}
			return key{}, validation("One or more parameter values were invalid: Missing the key %s in the item", k.name)
		}
		if typeName(v) != k.kind {
			if only {
				return key{}, validation("The provided key element does not match the schema")
			}
			return key{}, validation("One or more parameter values were invalid: Type mismatch for key %s expected: %s actual: %s", k.name, k.kind, typeName(v))
		}
		s, _ := sortString(v)
		if s == "" {
			return key{}, validation("One or more parameter values are not valid. The AttributeValue for a key attribute cannot contain an empty %s value. Key: %s", map[string]string{"S": "string", "B": "binary"}[k.kind], k.name)
		}
		if i == 0 && len(s) > maxHashKey {
			return key{}, validation("One or more parameter values were invalid: Size of hashkey has exceeded the maximum size limit of2048 bytes")
		}
		if i == 1 && len(s) > maxRangeKey {
			return key{}, validation("One or more parameter values were invalid: Aggregated size of all range keys has exceeded the size limit of 1024 bytes")
		}
		parts[i] = s
	}
	return key{parts[0], parts[1]}, nil
}

// record renders an item that has passed key.
func (t *table) record(item attributes, k key) (*record, error) {
	size := itemSize(item)
	if size > maxItemBytes {
		return nil, validation("Item size has exceeded the maximum allowed size")
	}
	b := make([]byte, 0, 64+size*3/2)
	for i, k := range t.keys {
		b = append(b, "{,"[i])
		b = appendAttribute(b, k.name, item[k.name])
	}
	keyLen := len(b)
	for _, name := range slices.Sorted(maps.Keys(item)) {
		if !slices.ContainsFunc(t.keys, func(k keyAttribute) bool { return k.name == name }) {
			b = append(b, ',')
			b = appendAttribute(b, name, item[name])
		}
	}
	return &record{sort: k.sort, json: append(b, '}'), keyLen: keyLen, size: size}, nil
}

// find returns where the value's partition is, or would be.
func (t *table) find(hash uint64, value string) (int, bool) {
	return slices.BinarySearchFunc(t.parts, value, func(p *partition, value string) int {
		return cmp.Or(cmp.Compare(p.hash, hash), strings.Compare(p.value, value))
	})
}

// find returns where the record of a range key is, or would be.
func (p *partition) find(sort string) (int, bool) {
	return slices.BinarySearchFunc(p.records, sort, func(r *record, sort string) int {
		return strings.Compare(r.sort, sort)
	})
}

// get returns nil if there is no such item. The caller holds t.mu.
func (t *table) get(k key) *record {
	p := t.byValue[k.value]
	if p == nil {
		return nil
	}
	if i, ok := p.find(k.sort); ok {
		return p.records[i]
	}
	return nil
}

// set puts next at k, or removes what is there if next is nil. The caller
// holds t.mu for writing.
func (t *table) set(k key, next *record) {
	p := t.byValue[k.value]
	if p == nil {
		if next == nil {
			return
		}
		p = &partition{hash: hashOf(k.value), value: k.value}
		t.byValue[k.value] = p
		i, _ := t.find(p.hash, p.value)
		t.parts = slices.Insert(t.parts, i, p)
	}
	i, exists := p.find(k.sort)
	if t.stream != nil {
		var old *record
		if exists {
			old = p.records[i]
		}
		t.stream.record(k, old, next)
	}
	if exists {
		t.count--
		t.bytes -= int64(p.records[i].size)
	}
	switch {
	case next == nil && exists:
		p.records = slices.Delete(p.records, i, i+1)
		if len(p.records) == 0 {
			delete(t.byValue, p.value)
			i, _ := t.find(p.hash, p.value)
			t.parts = slices.Delete(t.parts, i, i+1)
		}
	case next != nil && exists:
		p.records[i] = next
	case next != nil:
		p.records = slices.Insert(p.records, i, next)
	}
	if next != nil {
		t.count++
		t.bytes += int64(next.size)
	}
}

// A loader collects items to be written under one lock.
type loader struct {
	t     *table
	added []addition
}

type addition struct {
	value string // of the hash key
	r     *record
}

func (l *loader) add(value string, r *record) { l.added = append(l.added, addition{value, r}) }

// load calls fill with a loader and writes what it has collected, in its order,
// even where fill fails.
func (t *table) load(fill func(*loader) error) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	l := &loader{t: t}
	err := fill(l)
	if len(l.added) < 100 || t.stream != nil {
		for _, a := range l.added {
			t.set(key{a.value, a.r.sort}, a.r)
		}
		return err
	}
	// Many, and nobody records each: append them all and put the partitions in order once, where set
	// would move the rest of a large partition for each.
	touched := map[*partition]bool{}
	for _, a := range l.added {
		p := t.byValue[a.value]
		if p == nil {
			p = &partition{hash: hashOf(a.value), value: a.value}
			t.byValue[a.value] = p
			t.parts = append(t.parts, p)
		}
		touched[p] = true
		p.records = append(p.records, a.r)
		t.count++
		t.bytes += int64(a.r.size)
	}
	for p := range touched {
		dropped := p.settle()
		for _, r := range dropped {
			t.count--
			t.bytes -= int64(r.size)
		}
	}
	slices.SortFunc(t.parts, func(a, b *partition) int {
		return cmp.Or(cmp.Compare(a.hash, b.hash), strings.Compare(a.value, b.value))
	})
	return err
}

// settle sorts the records, keeps the last one of each key, and returns the
// others.
func (p *partition) settle() (dropped []*record) {
	type arrival struct {
		r *record
		i int
	}
	arrivals := make([]arrival, len(p.records)) // faster to sort than p.records is stably
	for i, r := range p.records {
		arrivals[i] = arrival{r, i}
	}
	slices.SortFunc(arrivals, func(a, b arrival) int {
		return cmp.Or(strings.Compare(a.r.sort, b.r.sort), a.i-b.i)
	})
	p.records = make([]*record, 0, len(arrivals))
	for i, a := range arrivals {
		if i+1 < len(arrivals) && arrivals[i+1].r.sort == a.r.sort {
			dropped = append(dropped, a.r)
		} else {
			p.records = append(p.records, a.r)
		}
	}
	p.gather()
	return dropped
}

// gather moves the records into few pieces of memory, in their order. As they
// came they lie anywhere: to read them in order, or to collect garbage, then
// takes the longer the larger the table is.
func (p *partition) gather() {
	text, sorts, derived := 0, 0, 0
	for _, r := range p.records {
		text, sorts = text+len(r.json), sorts+len(r.sort)
		if r.random != nil {
			derived++
		}
	}
	var joined strings.Builder
	joined.Grow(sorts)
	for _, r := range p.records {
		joined.WriteString(r.sort)
	}
	keys := joined.String()
	records := make([]record, len(p.records))
	items, randoms := make([]byte, 0, text), make([]randomValue, 0, derived)
	for i, r := range p.records {
		from := len(items)
		items = append(items, r.json...)
		records[i] = record{sort: keys[:len(r.sort)], json: items[from:len(items):len(items)], keyLen: r.keyLen, size: r.size}
		keys = keys[len(r.sort):]
		if r.random != nil {
			randoms = append(randoms, *r.random)
			records[i].random = &randoms[len(randoms)-1]
		}
		p.records[i] = &records[i]
	}
}

// A page is what one Scan or Query returns.
type page struct {
	records []*record
	bytes   int  // of items read
	json    int  // bytes of their renderings
	more    bool // the last record is the LastEvaluatedKey
}

// add takes a record into the page and says whether the page has room for
// more. A page ends with the item that takes it to 1 MB, or to the limit.
func (p *page) add(r *record, limit int) bool {
	p.records = append(p.records, r)
	p.bytes += r.size
	p.json += r.jsonSize() + 1
	return p.bytes < maxPageBytes && (limit == 0 || len(p.records) < limit)
}

// scan reads a page of a segment after the key start, if there is one. A page
// that fills up says that there is more even where it ends with the segment's
// last item, as the service does. The caller holds t.mu.
func (t *table) scan(segment, total, limit int, start *key) page {
	end := sort.Search(len(t.parts), func(i int) bool { return segmentOf(t.parts[i].hash, total) > segment })
	i := sort.Search(len(t.parts), func(i int) bool { return segmentOf(t.parts[i].hash, total) >= segment })
	j := 0
	if start != nil {
		var found bool
		if i, found = t.find(hashOf(start.value), start.value); found {
			if j, found = t.parts[i].find(start.sort); found {
				j++
			}
		}
	}
	var p page
	for ; i < end; i, j = i+1, 0 {
		for _, r := range t.parts[i].records[j:] {
			if !p.add(r, limit) {
				p.more = true
				return p
			}
		}
	}
	return p
}

// query reads a page of one partition: the records from lo on, before hi. The
// caller holds t.mu.
func (p *partition) query(lo, hi, limit int, forward bool) page {
	var out page
	for n := range max(hi-lo, 0) {
		i := lo + n
		if !forward {
			i = hi - 1 - n
		}
		if !out.add(p.records[i], limit) {
			out.more = true
			return out
		}
	}
	return out
}
