package copier

import (
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"math/big"
	"math/rand/v2"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"github.com/zeebo/xxh3"

	"github.com/dyn2raft/dyn2raft/sources/dynamodb/dynamotest"
)

// sumByDefinition computes a digest as docs/digest.md says, with big numbers and
// by the hash's other interface.
func sumByDefinition(entries []Entry) string {
	hash := func(data []byte, seed uint64) []byte {
		h := xxh3.NewSeed128(seed)
		_, _ = h.Write(data[:len(data)/3]) // never fails
		_, _ = h.Write(data[len(data)/3:])
		return h.Sum(nil)
	}
	total := new(big.Int)
	for _, e := range entries {
		both := append(hash(e.Key, 0), hash(e.Value, 0)...)
		total.Add(total, new(big.Int).SetBytes(append(hash(both, 0), hash(both, 1)...)))
	}
	total.Mod(total, new(big.Int).Lsh(big.NewInt(1), 256))
	return fmt.Sprintf("%064x", total)
}

func digestsOf(entries []Entry) Digests {
	var d Digester
	for _, e := range entries {
		d.Add(e)
	}
	return d.Take()
}

func TestDigestKnownAnswers(t *testing.T) {
	one := Entry{Key: []byte("core/a"), Value: []byte("value")}
	// As docs/digest.md has it, and docs/digest.py computes it.
	const want = "cd1a69b1f93a94e33163586a933f7d4379db9233bab7fb9faed113a2cf86a276"
	got := digestsOf([]Entry{one})
	if sum := got.Total(); sum.Entries != 1 || sum.Bytes != 11 || sum.Hash.String() != want || sumByDefinition([]Entry{one}) != want {
		t.Errorf("%+v", sum)
	}
	if sum := (Digests{}).Total(); sum.Hash.String() != strings.Repeat("0", 64) {
		t.Error(sum.Hash)
	}
}

// TestHash has the 128-bit XXH3, with the seed 1, of 0, 1, 2 … as python-xxhash
// 3.0.0 computes it, which is made of the reference implementation in C: at both
// ends of each range of lengths that the hash takes in a way of its own.
func TestHash(t *testing.T) {
	for n, want := range map[int]string{
		0:    "d9265cc53bb2b9ae6131b78f753823cd",
		1:    "3b3052d680068ad35eaac1f7b17ef730",
		3:    "d6a483b0e8df5a823b3b85a968c7f81d",
		4:    "40c1bef3514a3cee9816b1d21afd35f4",
		8:    "03114f959f17bd17f601f34e0e1165cc",
		9:    "595f59ab2e58c0e98e34f85e5ee3517b",
		16:   "3c251c8355f8060c97e4c109f0fac8c6",
		17:   "78a37aa5d297f88f9936e863e075a409",
		128:  "b3eec4a2404abf177d46e4a22265e03f",
		129:  "c7898f5bd89033a016f0c5ae68a0d634",
		159:  "eb997f4a8540ef0b4a7273b701ad2f09",
		160:  "cc5967dd0b67027396a6fef7334efc67",
		240:  "e56fed73d92c8ab1df63dacb5e824c67",
		241:  "55b1f41464ef8ee8da735d4f53476cb5",
		1024: "728768320d984a31c74822a5f349cef8",
		1025: "9ca6b32f398d5151cbfbbfdfc7f09133",
		1088: "3bf2a8dd10ee102e0a15d7d6becf1ea0",
		5000: "7c0b71e0df7d5e56424b95c3347f42ff",
	} {
		in := make([]byte, n)
		for i := range in {
			in[i] = byte(i)
		}
		if got := xxh3.Hash128Seed(in, 1).Bytes(); hex.EncodeToString(got[:]) != want {
			t.Errorf("%d bytes: %x", n, got)
		}
	}
	if err := CheckDigest(); err != nil {
		t.Error(err)
	}
}

func TestDigestByDefinition(t *testing.T) {
	rnd := rand.New(rand.NewPCG(3, 4))
	for n := range 50 {
		entries := randomEntries(rnd, n*7)
		got := digestsOf(entries)
		if got.Total().Hash.String() != sumByDefinition(entries) {
			t.Fatalf("%d entries: %s", len(entries), got.Total().Hash)
		}
		for prefix, x := range got {
			var under []Entry
			for _, e := range entries {
				if i := strings.IndexByte(string(e.Key), '/'); strings.ToValidUTF8(string(e.Key[:i+1]), "\uFFFD") == prefix {
					under = append(under, e)
				}
			}
			if int(x.Entries) != len(under) || x.Hash.String() != sumByDefinition(under) {
				t.Errorf("prefix %q: %+v", prefix, x)
			}
		}
		// In another order, and in parts, it is the same.
		rnd.Shuffle(len(entries), func(i, j int) { entries[i], entries[j] = entries[j], entries[i] })
		parts := digestsOf(entries[:len(entries)/3])
		parts.Add(digestsOf(entries[len(entries)/3:]))
		if !parts.Equal(got) || !got.Equal(parts) {
			t.Errorf("%d entries in parts differ", len(entries))
		}
	}
}

// TestManyPrefixes: the first prefixes have digests of their own, and all others
// one, whatever the order and the parts in which entries come.
func TestManyPrefixes(t *testing.T) {
	rnd := rand.New(rand.NewPCG(21, 22))
	for _, prefixes := range []int{MostPrefixes - 1, MostPrefixes, MostPrefixes + 1, 5 * MostPrefixes} {
		var entries []Entry
		for i := range prefixes {
			for range 1 + rnd.IntN(2) {
				entries = append(entries, Entry{Key: fmt.Appendf(nil, "p%d/%d", i, rnd.Uint64()), Value: []byte{byte(i)}})
			}
		}
		entries = append(entries, Entry{Key: []byte("zzz")}, Entry{Key: []byte("*")}, Entry{Key: []byte("*/a")})
		// By definition: sort the prefixes, and count.
		want := map[string][]Entry{}
		for _, e := range entries {
			i := strings.IndexByte(string(e.Key), '/')
			want[string(e.Key[:i+1])] = append(want[string(e.Key[:i+1])], e)
		}
		names := slices.Sorted(maps.Keys(want))
		for _, name := range names[min(1+MostPrefixes, len(names)):] { // the first one is ""
			want["*"] = append(want["*"], want[name]...)
			delete(want, name)
		}
		for range 3 {
			rnd.Shuffle(len(entries), func(i, j int) { entries[i], entries[j] = entries[j], entries[i] })
			got := Digests{}
			var d Digester
			for i, e := range entries {
				d.Add(e)
				if i == 10 || rnd.IntN(len(entries)) < 3 {
					got.Add(d.Take())
				}
			}
			got.Add(d.Take())
			if len(got) != len(want) {
				t.Fatalf("of %d prefixes %d have a digest, expected %d", prefixes, len(got), len(want))
			}
			for name, under := range want {
				if x := got[name]; int(x.Entries) != len(under) || x.Hash.String() != sumByDefinition(under) {
					t.Errorf("of %d prefixes %q has %+v, expected %d entries", prefixes, name, x, len(under))
				}
			}
		}
	}
}

// What is told of a test's table is the same digest.
func TestDigestOfContent(t *testing.T) {
	var content dynamotest.Content
	entries := randomEntries(rand.New(rand.NewPCG(11, 12)), 300)
	for _, e := range entries {
		content.Add(string(e.Key), e.Value)
	}
	want := digestsOf(entries).Total()
	if got := fmt.Sprintf("%x", content.Digest); got != want.Hash.String() || int64(content.Entries) != want.Entries || content.Bytes != want.Bytes {
		t.Errorf("%s of %d entries, %d bytes; want %+v", got, content.Entries, content.Bytes, want)
	}
}

// TestDigestNotices has every kind of change that must not go unnoticed.
func TestDigestNotices(t *testing.T) {
	rnd := rand.New(rand.NewPCG(5, 6))
	entries := randomEntries(rnd, 100)
	was := digestsOf(entries)
	for name, change := range map[string]func(e []Entry) []Entry{
		"lost":          func(e []Entry) []Entry { return e[1:] },
		"doubled":       func(e []Entry) []Entry { return append(e, e[4]) },
		"doubled twice": func(e []Entry) []Entry { return append(e, e[4], e[4]) },
		"a bit of a value": func(e []Entry) []Entry {
			i := slices.IndexFunc(e, func(e Entry) bool { return len(e.Value) > 0 })
			e[i].Value = append([]byte{e[i].Value[0] ^ 1}, e[i].Value[1:]...)
			return e
		},
		"a bit of a key": func(e []Entry) []Entry {
			i := slices.IndexFunc(e, func(e Entry) bool { return len(e.Key) > 0 })
			e[i].Key = append([]byte{e[i].Key[0] ^ 1}, e[i].Key[1:]...)
			return e
		},
		"values swapped": func(e []Entry) []Entry {
			for i := range e {
				if string(e[i].Value) != string(e[0].Value) {
					e[0].Value, e[i].Value = e[i].Value, e[0].Value
					return e
				}
			}
			return nil
		},
		"a byte from value to key": func(e []Entry) []Entry {
			i := slices.IndexFunc(e, func(e Entry) bool { return len(e.Value) > 0 && len(e.Key) > 3 })
			e[i] = Entry{Key: append(slices.Clone(e[i].Key), e[i].Value[0]), Value: e[i].Value[1:]}
			return e
		},
	} {
		if now := digestsOf(change(slices.Clone(entries))); now.Equal(was) || was.Equal(now) || now.Total() == was.Total() {
			t.Errorf("%s: not noticed", name)
		}
	}
}

func TestSumText(t *testing.T) {
	rnd := rand.New(rand.NewPCG(7, 8))
	for range 100 {
		s := Sum{rnd.Uint64(), rnd.Uint64(), rnd.Uint64(), rnd.Uint64()}
		data, err := json.Marshal(s)
		var back Sum
		if err != nil || json.Unmarshal(data, &back) != nil || back != s || len(data) != 66 {
			t.Fatalf("%s: %v, %v", data, back, err)
		}
	}
	for _, bad := range []string{"", "0", strings.Repeat("g", 64), strings.Repeat("0", 63), strings.Repeat("0", 66)} {
		if new(Sum).UnmarshalText([]byte(bad)) == nil {
			t.Errorf("%q is taken", bad)
		}
	}
}

// TestDigestByAnotherProgram has the program in docs/digest.md compute one.
func TestDigestByAnotherProgram(t *testing.T) {
	python, err := exec.LookPath("python3")
	if err != nil && os.Getenv("DYN2RAFT_REQUIRE_REAL") != "" {
		t.Fatal("there is no python3 to run the program of docs/digest.md with, and it is required here")
	}
	if err != nil {
		t.Skip("NOT CHECKED WITH ANOTHER PROGRAM: there is no python3 to run the one of docs/digest.md with.")
	}
	program := exec.Command(python, "../docs/digest.py")
	entries := randomEntries(rand.New(rand.NewPCG(9, 9)), 200)
	var in strings.Builder
	for _, e := range entries {
		line, err := json.Marshal([][]byte{e.Key, e.Value}) // in base64
		if err != nil {
			t.Fatal(err)
		}
		in.Write(append(line, '\n'))
	}
	program.Stdin = strings.NewReader(in.String())
	out, err := program.CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if want := digestsOf(entries).Total(); strings.TrimSpace(string(out)) != want.Hash.String() {
		t.Errorf("it says %s, want %s", out, want.Hash)
	}
}

// Digests are the same once they were on disk, whatever bytes the keys have.
func TestDigestsOnDisk(t *testing.T) {
	var d Digester
	for _, key := range []string{"sys/a", "\xff/a", "\xfe/a", "\xff\xff/b", "\ufffd/b"} {
		d.Add(Entry{Key: []byte(key)})
	}
	was := d.Take()
	data, err := json.Marshal(was)
	if err != nil {
		t.Fatal(err)
	}
	var is Digests
	if err := json.Unmarshal(data, &is); err != nil || !is.Equal(was) || is.Total().Entries != 5 || len(is) != 2 {
		t.Errorf("%v, and were %v, %v", is, was, err)
	}
}
