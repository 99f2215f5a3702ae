package copier

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"fmt"
	"maps"
	"math/bits"
	"slices"

	"golang.org/x/mod/semver"
)

// Contents is what a Vault's storage holds: by what the keys are for, by size, and
// the largest entries.
type Contents struct {
	Groups  []Group `json:"groups"`
	Sizes   []Bin   `json:"sizes"`
	Largest []Sized `json:"largest"`
	// Versions are those of the Vaults that have run on it, the oldest first, as Vault
	// itself keeps them from 1.9 on.
	Versions []string `json:"versions,omitempty"`
}

// versionsPrefix is that of the keys that name the versions.
const versionsPrefix = "core/versions/"

// A Group is the entries of one purpose: a mount, or a part of Vault itself.
type Group struct {
	// Name is what their keys begin with: two segments for a mount and below
	// sys/, otherwise one; "" for keys without a slash.
	Name string `json:"name"`
	// Role says what they are for, where the name tells.
	Role    string `json:"role,omitempty"`
	Entries int64  `json:"entries"`
	Bytes   int64  `json:"bytes"`
}

// A Sized is an entry with the size of its key and value.
type Sized struct {
	Key   string `json:"key"`
	Bytes int64  `json:"bytes"`
	// KeyBytes and KeySHA256 are set of a key that is not [Printable] as a whole.
	KeyBytes  int    `json:"key_bytes,omitempty"`
	KeySHA256 string `json:"key_sha256,omitempty"`
}

// A Bin is the entries whose key and value have together at least From bytes
// and fewer than To.
type Bin struct {
	From    int64 `json:"from"`
	To      int64 `json:"to"`
	Entries int64 `json:"entries"`
	Bytes   int64 `json:"bytes"`
}

// A Collector finds out what there is to tell of entries. It is not safe for
// concurrent use.
type Collector struct {
	Largest int // how many of the largest entries are named

	groups   map[string]*Group
	last     *Group  // the last entry's
	bins     [64]Bin // by the number of bits of the size
	largest  []Sized
	versions []string
}

// Add takes notice of an entry.
func (c *Collector) Add(e Entry) {
	size := int64(len(e.Key) + len(e.Value))
	if name := GroupName(e.Key); c.last == nil || c.last.Name != string(name) {
		c.last = c.group(string(name))
	}
	c.last.Entries++
	c.last.Bytes += size
	bin := &c.bins[bits.Len64(uint64(size))]
	bin.Entries++
	bin.Bytes += size
	c.large(e.Key, size)
	if v, ok := bytes.CutPrefix(e.Key, []byte(versionsPrefix)); ok && len(c.versions) < mostGroups && semver.IsValid("v"+string(v)) {
		c.versions = append(c.versions, string(v))
	}
}

// mostGroups is how many groups have a line of their own: the first in the order
// of their names. Those behind them share one. See [Digests], which do the
// same with fewer.
const mostGroups = 4000

// bound adds up what is behind the first mostGroups groups.
func (c *Collector) bound() {
	names := slices.Sorted(maps.Keys(c.groups))
	names = slices.DeleteFunc(names, func(name string) bool { return name == OtherPrefixes })
	other := c.groups[OtherPrefixes]
	for _, name := range names[min(mostGroups, len(names)):] {
		if other == nil {
			other = &Group{Name: OtherPrefixes}
			c.groups[other.Name] = other
		}
		other.Entries += c.groups[name].Entries
		other.Bytes += c.groups[name].Bytes
		delete(c.groups, name)
	}
}

func (c *Collector) group(name string) *Group {
	if c.groups == nil {
		c.groups = map[string]*Group{}
	}
	g := c.groups[name]
	if g == nil {
		if len(c.groups) >= 2*mostGroups {
			c.bound()
		}
		g = &Group{Name: name, Role: role(name)}
		c.groups[name] = g
	}
	return g
}

// large keeps the largest entries, the largest first; of two of one size the
// one with the lower key comes first.
func (c *Collector) large(key []byte, size int64) {
	if c.Largest == 0 {
		return
	}
	if n := len(c.largest); n == c.Largest {
		if least := &c.largest[n-1]; size < least.Bytes || size == least.Bytes && string(key) >= least.Key {
			return
		}
	}
	s := Sized{Bytes: size}
	var whole bool
	if s.Key, whole = Printable(key); !whole {
		s.KeyBytes, s.KeySHA256 = len(key), fmt.Sprintf("%x", sha256.Sum256(key))
	}
	c.keep(s)
}

func (c *Collector) keep(s Sized) {
	at, _ := slices.BinarySearchFunc(c.largest, s, func(a, b Sized) int {
		return cmp.Or(cmp.Compare(b.Bytes, a.Bytes), cmp.Compare(a.Key, b.Key))
	})
	c.largest = slices.Insert(c.largest, at, s)
	c.largest = c.largest[:min(len(c.largest), c.Largest)]
}

// Join adds what another Collector has found of other entries.
func (c *Collector) Join(o *Collector) {
	for name, x := range o.groups {
		g := c.group(name)
		g.Entries += x.Entries
		g.Bytes += x.Bytes
	}
	for i, b := range o.bins {
		c.bins[i].Entries += b.Entries
		c.bins[i].Bytes += b.Bytes
	}
	for _, s := range o.largest {
		c.keep(s)
	}
	c.versions = append(c.versions, o.versions...)
}

// Contents is what was found.
func (c *Collector) Contents() *Contents {
	out := &Contents{Groups: []Group{}, Sizes: []Bin{}, Largest: []Sized{}}
	c.bound()
	for _, name := range slices.Sorted(maps.Keys(c.groups)) {
		g := *c.groups[name]
		g.Name = PrintablePrefix(name)
		out.Groups = append(out.Groups, g)
	}
	for i, b := range c.bins {
		if b.Entries > 0 {
			b.From, b.To = 1<<i>>1, 1<<i
			out.Sizes = append(out.Sizes, b)
		}
	}
	out.Largest = append(out.Largest, c.largest...)
	out.Versions = c.versions
	slices.SortFunc(out.Versions, func(a, b string) int { return semver.Compare("v"+a, "v"+b) })
	return out
}

// PrintablePrefix is a prefix of keys as it may be shown. See [Printable].
func PrintablePrefix(prefix string) string {
	if text, whole := Printable([]byte(prefix)); whole {
		return text
	}
	return NameKey([]byte(prefix))
}

// GroupName returns the beginning of a key that names its group.
func GroupName(key []byte) []byte {
	first := Prefix(key)
	switch string(first) {
	case "sys/", "logical/", "auth/", "audit/":
		return key[:len(first)+len(Prefix(key[len(first):]))]
	}
	return first
}

// role says what a group is for.
func role(name string) string {
	first := string(Prefix([]byte(name)))
	if first == "sys/" {
		first = name
	}
	return map[string]string{
		"core/":         "Vault's own state",
		"logical/":      "secrets engine",
		"auth/":         "auth method",
		"audit/":        "audit device",
		"sys/expire/":   "leases",
		"sys/token/":    "tokens",
		"sys/policy/":   "policies",
		"sys/counters/": "usage counters",
	}[first]
}
