package dynamotest

import (
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"iter"
	"math"
	mathrand "math/rand/v2"
	"strconv"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/dynamodb/types"
	"github.com/zeebo/xxh3"
)

// A VaultShape describes entries that look like those of a real Vault: the
// core's own, policies, KV secrets of both versions, auth roles, identity
// buckets, and as the larger half leases and tokens in three hot Paths. Values
// are random, as the barrier's ciphertext is, but for the seal's configuration.
//
// Equal shapes give equal entries. The names that tools are known to lose are
// among them: names with a leading underscore, spaces and unicode, an entry
// with an empty value, and entries without directory markers (orphans).
type VaultShape struct {
	Entries     int    // how many entries to make; from LeastVault on they are an initialized Vault's
	Seed        uint64 // other seeds give other names and values
	ValueSize   int    // mean size of a value in bytes; 0 is 800. From about 10,000 on the largest values hit the service's limit and the mean stays below
	ExpiredLock bool   // Load also writes a leader lock core/_lock that expired an hour ago; it is no entry
	Derived     bool   // Load keeps no values: the server makes them again, from where the generator stood, whenever it sends them. That takes half of the memory or less, and more time for each response
}

// Sizes of values at the default mean of 800 bytes. Most are small, one in 400
// is medium and one in 5,000 is large.
const (
	defaultMean            = 800
	smallMin, smallMax     = 200, 1620
	mediumMin, mediumMax   = 10 << 10, 50 << 10
	largeMin, largeMax     = 110 << 10, 350 << 10
	mediumEvery            = 400
	largeEvery             = 5000
	orphanEvery            = 2000
	largestValue           = 390 << 10 // leaves room for the key in an item of 400 KB
	cipherHead             = "\x00\x00\x00\x01\x02"
	emptyEntry, firstRound = 25, 40
)

// LeastVault is how many entries of a shape have the keyring and the seal's
// configuration among them, without which there is no initialized Vault.
const LeastVault = 14

// An entry of the shape. An orphan's directory has no marker.
type shapeEntry struct {
	key    string
	value  []byte
	random *randomValue // where the shape is derived and the value is random
	orphan bool
}

// A randomValue is what a value is made again from: the generator's state in
// front of it, as the arguments of [mathrand.NewPCG], and its size in bytes.
type randomValue struct {
	hi, lo uint64
	size   int
}

// appendBase64 appends the value in base64.
func (v *randomValue) appendBase64(b []byte) []byte {
	var chunk [3 << 10]byte // a multiple of 3 is base64 without padding, and one of 8 is whole numbers
	source := mathrand.NewPCG(v.hi, v.lo)
	for done := 0; done < v.size; done += len(chunk) {
		part := chunk[:]
		if left := v.size - done; left > len(chunk) {
			fillWords(source, part)
		} else {
			part = part[:left]
			fill(source, part)
		}
		if done == 0 {
			copy(part, cipherHead)
		}
		b = base64.StdEncoding.AppendEncode(b, part)
	}
	return b
}

// All yields the entries, one at a time, so that a million of them need not
// fit into memory. Each value is the caller's to keep.
func (v VaultShape) All() iter.Seq2[string, []byte] {
	return func(yield func(string, []byte) bool) {
		for e := range v.entries(nil) {
			if !yield(e.key, e.value) {
				return
			}
		}
	}
}

// entries makes each value anew or, where it gets a buffer as large as the
// largest value, in that.
func (v VaultShape) entries(buffer []byte) iter.Seq[shapeEntry] {
	return func(yield func(shapeEntry) bool) {
		g := newGenerator(v)
		g.buffer = buffer
		for i := range v.Entries {
			g.last = nil
			e := g.entry(i)
			e.random = g.last
			if !yield(e) {
				return
			}
		}
	}
}

// Content sums up a set of entries in any order, to compare what was written
// with what is read back. The zero value is the empty set. It is comparable.
type Content struct {
	Entries int
	Bytes   int64    // of keys and values
	Digest  [32]byte // as docs/digest.md defines it, by other code than the engine's
}

// Add takes an entry into the sum.
func (c *Content) Add(key string, value []byte) {
	c.Entries++
	c.Bytes += int64(len(key) + len(value))
	var h xxh3.Hasher128
	hash := func(sum []byte, seed uint64, data []byte) []byte {
		h.ResetSeed(seed)
		_, _ = h.Write(data) // a hash never fails
		return h.Sum(sum)
	}
	both := hash(hash(nil, 0, []byte(key)), 0, value)
	sum := hash(hash(nil, 0, both), 1, both)
	carry := 0
	for i := len(sum) - 1; i >= 0; i-- {
		carry += int(c.Digest[i]) + int(sum[i])
		c.Digest[i] = byte(carry)
		carry >>= 8
	}
}

// Loaded tells what Load wrote.
type Loaded struct {
	Content           // the entries: what a complete copy has
	ValueBytes  int64 // of the values alone
	Hot         int   // entries among them that are leases or tokens, in three Paths
	Underscored int   // entries whose name begins with an underscore
	Orphans     int   // entries whose directory marker is missing
	Empty       int   // entries with an empty value, a NULL in the table
}

// Load writes the entries into a table of CreateVaultTable, with directory
// markers as Vault's backend leaves them.
func (v VaultShape) Load(s *Server, name string) (Loaded, error) {
	var out Loaded
	err := s.loadVault(name, func(l *vaultLoader) error {
		for e := range v.entries(make([]byte, largestValue)) {
			if err := l.put(e.key, e.value, e.random, !e.orphan); err != nil {
				return fmt.Errorf("load entry %s: %w", e.key, err)
			}
			dir, base := split(e.key)
			out.Add(e.key, e.value)
			out.ValueBytes += int64(len(e.value))
			switch {
			case dir == leasePath || dir == tokenPath || dir == accessorPath:
				out.Hot++
			case base[0] == '_':
				out.Underscored++
			case e.orphan:
				out.Orphans++
			case len(e.value) == 0:
				out.Empty++
			}
		}
		return nil
	})
	if err == nil && v.ExpiredLock {
		err = s.PutItem(name, map[string]types.AttributeValue{
			"Path":     &types.AttributeValueMemberS{Value: "core"},
			"Key":      &types.AttributeValueMemberS{Value: "_lock"},
			"Value":    &types.AttributeValueMemberB{Value: []byte("00000000-0000-0000-0000-000000000000")},
			"Identity": &types.AttributeValueMemberB{Value: []byte("11111111-1111-1111-1111-111111111111")},
			"Expires":  &types.AttributeValueMemberN{Value: strconv.FormatInt(time.Now().Add(-time.Hour).UnixNano(), 10)},
		})
	}
	return out, err
}

const (
	leasePath    = "sys/expire/id/auth/approle/login"
	tokenPath    = "sys/token/id"
	accessorPath = "sys/token/accessor"
)

// fixedNames are entries that each Vault has once.
var fixedNames = []string{
	"core/keyring", "core/master", "core/shamir-kek", sealConfigName, "core/mounts", "core/local-mounts",
	"core/auth", "core/local-auth", "core/audit", "core/local-audit", "core/hsm/barrier-unseal-keys",
	"core/hsm/recovery-key", "core/recovery-config", "core/index-header-hmac-key", "core/cluster/local/info",
	"core/cluster/feature-flags", "core/wrapping/jwtkey", "core/versions/1.13.2", "core/versions/1.14.8",
	"core/versions/1.21.1", "sys/policy/default", "sys/policy/response-wrapping", "sys/token/salt", "sys/expire/salt",
	"sys/counters/activity/log/entity/1719792000/0", "sys/counters/activity/acme-regeneration",
}

// The seal's configuration is the one entry that Vault stores as it is: nothing
// can be decrypted before it is read.
const (
	sealConfigName = "core/seal-config"
	sealConfig     = `{"type":"shamir","secret_shares":5,"secret_threshold":3,"pgp_keys":null,"nonce":"","backup":false,"stored_shares":1}`
)

type generator struct {
	source *mathrand.PCG
	random *mathrand.Rand
	scale  float64
	buffer []byte            // for values, or nil
	derive bool              // values are made again, from last
	last   *randomValue      // the value made last, where derive is set
	mounts map[string]string // mount name to storage path
	next   map[string]int    // counters that keep names apart
}

func newGenerator(v VaultShape) *generator {
	source := mathrand.NewPCG(v.Seed, 0)
	g := &generator{source: source, random: mathrand.New(source), scale: 1, derive: v.Derived, mounts: map[string]string{}, next: map[string]int{}}
	if v.ValueSize > 0 {
		g.scale = float64(v.ValueSize) / defaultMean
	}
	for _, name := range []string{"kv1", "identity", "pki", "transit", "cubbyhole"} {
		g.mounts[name] = "logical/" + g.uuid()
	}
	g.mounts["kv2"] = "logical/" + g.uuid() + "/" + g.uuid()
	g.mounts["approle"] = "auth/" + g.uuid()
	g.mounts["userpass"] = "auth/" + g.uuid()
	g.mounts["audit"] = "audit/" + g.uuid()
	return g
}

// entry makes the i-th entry. Even ones are leases and tokens, so that these
// are half of any number of entries.
func (g *generator) entry(i int) shapeEntry {
	if i%2 == 0 {
		path := []string{leasePath, tokenPath, accessorPath}[i/2%3]
		return shapeEntry{key: path + "/h" + g.hex(32), value: g.value(smallMin, smallMax)}
	}
	switch i := i / 2; { // counts the others; a period in all entries is half as long in these
	case i == emptyEntry:
		return shapeEntry{key: g.mounts["kv1"] + "/empty", value: []byte{}}
	case i == firstRound:
		return shapeEntry{key: g.mounts["kv1"] + "/_first", value: g.value(smallMin, smallMax)}
	case i%(orphanEvery/2) == firstRound+1:
		return shapeEntry{key: fmt.Sprintf("%s/orphaned-%d/left behind", g.mounts["kv1"], g.count("orphan")), value: g.value(smallMin, smallMax), orphan: true}
	case i%(largeEvery/2) == firstRound+2:
		return shapeEntry{key: fmt.Sprintf("%s/certs/bundle-%d", g.mounts["kv1"], g.count("bundle")), value: g.value(largeMin, largeMax)}
	case i%(mediumEvery/2) == firstRound+3:
		return shapeEntry{key: g.bucket(), value: g.value(mediumMin, mediumMax)}
	case i%2 == 0 && g.next["fixed"] < len(fixedNames):
		e := shapeEntry{key: fixedNames[g.count("fixed")], value: g.value(smallMin, smallMax)}
		if e.key == sealConfigName {
			e.value, g.last = []byte(sealConfig), nil
		}
		return e
	}
	return shapeEntry{key: g.name(), value: g.value(smallMin, smallMax)}
}

// name is a key of a secret, a role, a certificate and so on.
func (g *generator) name() string {
	kv1, kv2 := g.mounts["kv1"], g.mounts["kv2"]
	n := g.count("name")
	switch n % 25 {
	case 0:
		return fmt.Sprintf("sys/policy/team-%d", n)
	case 1:
		return fmt.Sprintf("%s/role/app-%d", g.mounts["approle"], n)
	case 2, 3:
		return g.mounts["approle"] + "/accessor/" + g.hex(20)
	case 4:
		return g.mounts["approle"] + "/secret_id/" + g.hex(32) + "/" + g.hex(32)
	case 5:
		return fmt.Sprintf("%s/user/u%d", g.mounts["userpass"], n)
	case 6:
		return g.mounts["pki"] + "/certs/" + g.dashed(20)
	case 7:
		return fmt.Sprintf("%s/policy/key-%d", g.mounts["transit"], n)
	case 8:
		return g.mounts["cubbyhole"] + "/" + g.uuid() + "/response"
	case 9:
		return fmt.Sprintf("%s/team %d/service account", kv1, n)
	case 10:
		return fmt.Sprintf("%s/größe-%d/ключ-密鑰-🔑", kv1, n)
	case 11:
		return fmt.Sprintf("%s/a/b/c/d/e/f/g/h/i/j/k/deep-%d", kv1, n)
	case 12:
		return fmt.Sprintf("%s/app-%d/_internal", kv1, n)
	case 13, 14, 15:
		return fmt.Sprintf("%s/app-%d/database", kv1, n)
	case 16, 17, 18, 19:
		return kv2 + "/metadata/" + g.hex(24)
	}
	return kv2 + "/versions/" + g.hex(2)[:3] + "/" + g.hex(32)
}

// bucket is one of the identity store's, as long as there are any.
func (g *generator) bucket() string {
	n := g.count("bucket")
	if n < 256 {
		return fmt.Sprintf("%s/packer/buckets/%d", g.mounts["identity"], n)
	}
	if n < 512 {
		return fmt.Sprintf("%s/packer/group/buckets/%d", g.mounts["identity"], n-256)
	}
	return fmt.Sprintf("%s/certs/chain-%d", g.mounts["kv1"], n)
}

// value has a size between low and high, small ones more likely, times the
// scale of the shape.
func (g *generator) value(low, high float64) []byte {
	size := low * math.Exp(g.random.Float64()*math.Log(high/low)) * g.scale
	n := max(len(cipherHead)+1, min(largestValue, int(size)))
	value := g.buffer
	if value == nil {
		value = make([]byte, n)
	}
	value = value[:n]
	if g.derive {
		state, _ := g.source.MarshalBinary() // never fails: "pcg:" and two numbers
		g.last = &randomValue{hi: binary.BigEndian.Uint64(state[4:]), lo: binary.BigEndian.Uint64(state[12:]), size: n}
	}
	fill(g.source, value)
	copy(value, cipherHead) // the barrier's key term and format version
	return value
}

func fill(source *mathrand.PCG, b []byte) {
	var last [8]byte
	binary.LittleEndian.PutUint64(last[:], fillWords(source, b).Uint64())
	copy(b[len(b)&^7:], last[:])
}

// fillWords fills all of b but what is left after the last 8 bytes.
func fillWords(source *mathrand.PCG, b []byte) *mathrand.PCG {
	for ; len(b) >= 8; b = b[8:] {
		binary.LittleEndian.PutUint64(b, source.Uint64())
	}
	return source
}

func (g *generator) count(what string) int {
	n := g.next[what]
	g.next[what] = n + 1
	return n
}

func (g *generator) hex(bytes int) string {
	var b [32]byte
	fill(g.source, b[:bytes])
	return hex.EncodeToString(b[:bytes])
}

func (g *generator) uuid() string {
	h := g.hex(16)
	return h[:8] + "-" + h[8:12] + "-" + h[12:16] + "-" + h[16:20] + "-" + h[20:]
}

// dashed is the form of a certificate's serial number.
func (g *generator) dashed(bytes int) string {
	h := g.hex(bytes)
	out := []byte(h[:2])
	for i := 2; i < len(h); i += 2 {
		out = append(append(out, '-'), h[i:i+2]...)
	}
	return string(out)
}
