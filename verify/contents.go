package verify

import (
	"cmp"
	"maps"
	"math/bits"
	"slices"

	"github.com/dyn2raft/dyn2raft/copier"
	"github.com/dyn2raft/dyn2raft/sources/raft/vaultdb"
)

// Contents is what a vault.db holds: by what the keys are for, by size, and
// the largest entries.
type Contents struct {
	Groups  []Group `json:"groups"`
	Sizes   []Bin   `json:"sizes"`
	Largest []Sized `json:"largest"`
}

// A collector finds out what there is to tell of entries. It is not safe for
// concurrent use.
type collector struct {
	most    int // of the largest
	groups  map[string]*Group
	last    *Group  // the last entry's
	bins    [64]Bin // by the number of bits of the size
	largest []Sized
}

func (c *collector) add(e copier.Entry) {
	size := int64(len(e.Key) + len(e.Value))
	if name := groupName(e.Key); c.last == nil || c.last.Name != string(name) {
		c.last = c.group(string(name))
	}
	c.last.Entries++
	c.last.Bytes += size
	bin := &c.bins[bits.Len64(uint64(size))]
	bin.Entries++
	bin.Bytes += size
	c.large(e.Key, size)
}

// mostGroups is how many groups have a line of their own: the first in the order
// of their names. Those behind them share one. See [copier.Digests], which do the
// same with fewer.
const mostGroups = 4000

// bound adds up what is behind the first mostGroups groups.
func (c *collector) bound() {
	names := slices.Sorted(maps.Keys(c.groups))
	names = slices.DeleteFunc(names, func(name string) bool { return name == copier.OtherPrefixes })
	other := c.groups[copier.OtherPrefixes]
	for _, name := range names[min(mostGroups, len(names)):] {
		if other == nil {
			other = &Group{Name: copier.OtherPrefixes}
			c.groups[other.Name] = other
		}
		other.Entries += c.groups[name].Entries
		other.Bytes += c.groups[name].Bytes
		delete(c.groups, name)
	}
}

func (c *collector) group(name string) *Group {
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
func (c *collector) large(key []byte, size int64) {
	if c.most == 0 {
		return
	}
	if n := len(c.largest); n == c.most {
		if least := &c.largest[n-1]; size < least.Bytes || size == least.Bytes && string(key) >= least.Key {
			return
		}
	}
	s := Sized{Bytes: size}
	s.Key, s.KeyBytes, s.KeySHA256 = nameKey(key, true)
	c.keep(s)
}

func (c *collector) keep(s Sized) {
	at, _ := slices.BinarySearchFunc(c.largest, s, func(a, b Sized) int {
		return cmp.Or(cmp.Compare(b.Bytes, a.Bytes), cmp.Compare(a.Key, b.Key))
	})
	c.largest = slices.Insert(c.largest, at, s)
	c.largest = c.largest[:min(len(c.largest), c.most)]
}

// join adds what another collector has found of other entries.
func (c *collector) join(o *collector) {
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
}

func (c *collector) contents() *Contents {
	out := &Contents{Groups: []Group{}, Sizes: []Bin{}, Largest: []Sized{}}
	c.bound()
	for _, name := range slices.Sorted(maps.Keys(c.groups)) {
		g := *c.groups[name]
		g.Name = printable(name)
		out.Groups = append(out.Groups, g)
	}
	for i, b := range c.bins {
		if b.Entries > 0 {
			b.From, b.To = 1<<i>>1, 1<<i
			out.Sizes = append(out.Sizes, b)
		}
	}
	out.Largest = append(out.Largest, c.largest...)
	return out
}

// printable is a prefix of keys as it may be shown. See [vaultdb.Printable].
func printable(prefix string) string {
	if text, whole := vaultdb.Printable([]byte(prefix)); whole {
		return text
	}
	return vaultdb.Name([]byte(prefix))
}
