package copier

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"math/bits"
	"slices"
	"strings"
	"sync"

	"github.com/zeebo/xxh3"
)

// A Digest is a fingerprint of a set of entries that does not depend on their
// order: an entry that is lost, doubled or altered changes it. docs/digest.md
// defines it for those who want to compute it with another program.
//
// It proves that nothing went wrong. It is no proof against somebody who picks
// entries in order to deceive: sums of hashes can be forged with effort,
// whatever the hash is. So the hash is one that is made to find damage, at ten
// times the speed of SHA-256.
type Digest struct {
	// Entries is the number of entries, and Bytes the size of their keys and
	// values together.
	Entries int64 `json:"entries"`
	Bytes   int64 `json:"bytes"`
	// Hash is the sum, modulo 2^256, of each entry's hash: the two 128-bit XXH3,
	// with the seeds 0 and 1, of those of its key and its value.
	Hash Sum `json:"hash"`
}

// A Sum is a number of 256 bits, as its four words of 64 bits, the least
// significant first. Its text is the number in 64 hexadecimal digits.
type Sum [4]uint64

func (s *Sum) add(o Sum) {
	var carry uint64
	for i := range s {
		s[i], carry = bits.Add64(s[i], o[i], carry)
	}
}

func (s *Sum) sub(o Sum) {
	var borrow uint64
	for i := range s {
		s[i], borrow = bits.Sub64(s[i], o[i], borrow)
	}
}

// String returns the number in 64 hexadecimal digits.
func (s Sum) String() string {
	var b [32]byte
	for i, w := range s {
		binary.BigEndian.PutUint64(b[24-8*i:], w)
	}
	return hex.EncodeToString(b[:])
}

// MarshalText implements [encoding.TextMarshaler].
func (s Sum) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// UnmarshalText implements [encoding.TextUnmarshaler].
func (s *Sum) UnmarshalText(text []byte) error {
	var b [32]byte
	if len(text) != 2*len(b) {
		return fmt.Errorf("%q is not a number of 64 hexadecimal digits", text)
	}
	if _, err := hex.Decode(b[:], text); err != nil {
		return fmt.Errorf("%q is not a number of 64 hexadecimal digits", text)
	}
	for i := range s {
		s[i] = binary.BigEndian.Uint64(b[24-8*i:])
	}
	return nil
}

// Add adds the entries of another digest. The two sets have no entry in
// common, or it counts twice.
func (d *Digest) Add(o Digest) {
	d.Entries += o.Entries
	d.Bytes += o.Bytes
	d.Hash.add(o.Hash)
}

// Sub takes the entries of another digest away, all of which must be in this one.
func (d *Digest) Sub(o Digest) {
	d.Entries -= o.Entries
	d.Bytes -= o.Bytes
	d.Hash.sub(o.Hash)
}

// Digests are digests by what [Prefix] returns for the keys in them. Keys without
// a slash have one of their own, and so has each of the first [MostPrefixes]
// prefixes in the order of their bytes. Those behind them share one, under the name
// [OtherPrefixes]. What is not UTF-8 in a prefix is U+FFFD, as it is in JSON anyhow, and
// prefixes that differ in that alone share one. So the digests of a set of entries do not depend on the order
// in which it was put together.
type Digests map[string]Digest

const (
	// MostPrefixes is how many prefixes, beside the empty one, have a digest of
	// their own. Vault's keys have about ten.
	MostPrefixes = 1000
	// OtherPrefixes stands for all others. It is no prefix: it has no slash.
	OtherPrefixes = "*"
)

// Prefix returns the first segment of a key with the slash behind it, such as
// "sys/", and nothing for a key without a slash. It aliases the key.
func Prefix(key []byte) []byte { return key[:bytes.IndexByte(key, '/')+1] }

// Add adds the entries of other digests.
func (d Digests) Add(o Digests) {
	for prefix, x := range o {
		sum := d[prefix]
		sum.Add(x)
		d[prefix] = sum
	}
	d.bound()
}

// bound adds up what is behind the first MostPrefixes prefixes. A prefix that is
// among the first of all was among the first of any part, so none of its entries
// is in the sum of the others.
func (d Digests) bound() {
	if len(d) <= MostPrefixes {
		return
	}
	var prefixes []string
	for prefix := range d {
		if prefix != "" && prefix != OtherPrefixes {
			prefixes = append(prefixes, prefix)
		}
	}
	if len(prefixes) <= MostPrefixes {
		return
	}
	slices.Sort(prefixes)
	other := d[OtherPrefixes]
	for _, prefix := range prefixes[MostPrefixes:] {
		other.Add(d[prefix])
		delete(d, prefix)
	}
	d[OtherPrefixes] = other
}

// Sub takes the entries of other digests away, all of which must be in these.
func (d Digests) Sub(o Digests) {
	for prefix, x := range o {
		if _, ok := d[prefix]; !ok {
			prefix = OtherPrefixes
		}
		sum := d[prefix]
		sum.Sub(x)
		if d[prefix] = sum; sum == (Digest{}) {
			delete(d, prefix)
		}
	}
}

// same is Equal of digests that were kept along while entries came and went: where there
// are too many prefixes, which of them have one of their own depends on that.
func (d Digests) same(o Digests) bool {
	_, d1 := d[OtherPrefixes]
	_, o1 := o[OtherPrefixes]
	return d.Equal(o) || (d1 || o1) && d.Total() == o.Total()
}

// Total is the digest of all entries.
func (d Digests) Total() (sum Digest) {
	for _, x := range d {
		sum.Add(x)
	}
	return sum
}

// Equal reports whether both have the same entries under the same prefixes.
// A prefix without entries is as good as none.
func (d Digests) Equal(o Digests) bool {
	for prefix, x := range d {
		if o[prefix] != x {
			return false
		}
	}
	for prefix, x := range o {
		if d[prefix] != x {
			return false
		}
	}
	return true
}

// A Digester computes digests entry by entry. It is not safe for concurrent
// use. The zero value is ready.
type Digester struct {
	sums   map[string]*Digest
	prefix string // of the last entry
	last   *Digest

	over Digests // where there were too many prefixes: what was found until then
}

// Add adds an entry.
func (d *Digester) Add(e Entry) {
	if p := Prefix(e.Key); d.last == nil || d.prefix != string(p) {
		d.turn(p)
	}
	d.last.Add(digestOf(e))
}

// turn turns to the entries of another prefix.
func (d *Digester) turn(prefix []byte) {
	if d.sums == nil {
		d.sums = map[string]*Digest{}
	}
	d.prefix, d.last = string(prefix), d.sums[string(prefix)]
	if d.last != nil {
		return
	}
	if len(d.sums) >= 2*MostPrefixes {
		if d.over == nil {
			d.over = Digests{}
		}
		d.over.Add(d.found())
		clear(d.sums)
	}
	d.last = new(Digest)
	d.sums[d.prefix] = d.last
}

// found returns what is in sums, and leaves it without entries.
func (d *Digester) found() Digests {
	out := Digests{}
	for prefix, sum := range d.sums {
		if sum.Entries > 0 {
			name := strings.ToValidUTF8(prefix, "\uFFFD")
			both := out[name]
			both.Add(*sum)
			out[name], *sum = both, Digest{}
		}
	}
	out.bound()
	return out
}

// digestOf is the digest of one entry.
func digestOf(e Entry) Digest {
	return Digest{Entries: 1, Bytes: int64(len(e.Key) + len(e.Value)), Hash: hashOf(e)}
}

// hashOf is an entry's hash.
func hashOf(e Entry) Sum {
	key, value := xxh3.Hash128(e.Key).Bytes(), xxh3.Hash128(e.Value).Bytes()
	var both [32]byte
	copy(both[copy(both[:], key[:]):], value[:])
	upper, lower := xxh3.Hash128(both[:]), xxh3.Hash128Seed(both[:], 1)
	return Sum{lower.Lo, lower.Hi, upper.Lo, upper.Hi}
}

// CheckDigest computes a known digest. An error means that digests made on this
// machine are wrong: the hash is written anew for each kind of processor. Whoever
// trusts a digest calls it first.
func CheckDigest() error { return digestWorks() }

var digestWorks = sync.OnceValue(func() error {
	var d Digester
	// The hash takes short and long inputs by different ways, and long ones in
	// blocks of 1 KiB by one that is made for the kind of processor.
	for i, size := range []int{0, 2, 5, 12, 100, 200, 800, 5000} {
		d.Add(Entry{Key: bytes.Repeat([]byte("core/"), i+1), Value: bytes.Repeat([]byte{7}, size)})
	}
	const want = "f3349587cc77c7a4ee240e7495e633ac98e8c3267844dd69e8e28a49166002ab"
	if got := d.Take().Total().Hash.String(); got != want {
		return fmt.Errorf("the hash of digests is wrong on this machine: %s instead of %s; report this with the kind of processor", got, want)
	}
	return nil
})

// Take returns the digests of what was added since the last Take.
func (d *Digester) Take() Digests {
	out := d.found()
	if d.over != nil {
		out.Add(d.over)
		d.over = nil
	}
	return out
}
