package copier

import (
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"math/big"
	"math/rand/v2"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"github.com/minio/highwayhash"
)

// sumByDefinition computes a digest as docs/digest.md says, with big numbers.
func sumByDefinition(entries []Entry) string {
	total := new(big.Int)
	for _, e := range entries {
		data := binary.BigEndian.AppendUint64(nil, uint64(len(e.Key)))
		data = append(append(data, e.Key...), e.Value...)
		h := highwayhash.Sum(data, digestKey[:])
		total.Add(total, new(big.Int).SetBytes(h[:]))
	}
	total.Mod(total, new(big.Int).Lsh(big.NewInt(1), 256))
	var b [32]byte
	return Sum.String(sumOf(total.FillBytes(b[:])))
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
	const want = "329f9b8c74b3e3b64f55e96a98bad817d7c9a7fc32ee7b7b5d04d6375d298a91"
	got := digestsOf([]Entry{one})
	if sum := got.Total(); sum.Entries != 1 || sum.Bytes != 11 || sum.Hash.String() != want || sumByDefinition([]Entry{one}) != want {
		t.Errorf("%+v", sum)
	}
	if sum := (Digests{}).Total(); sum.Hash.String() != strings.Repeat("0", 64) {
		t.Error(sum.Hash)
	}
}

// TestHash has the first test vectors of HighwayHash's authors, for this key and
// 0 and 1 bytes of input: words of 64 bits, little-endian.
func TestHash(t *testing.T) {
	for n, want := range [][4]uint64{
		{0xDD44482AC2C874F5, 0xD946017313C7351F, 0xB3AEBECCB98714FF, 0x41DA233145751DF4},
		{0xEDB941BCE45F8254, 0xE20D44EF3DCAC60F, 0x72651B9BCB324A47, 0x2073624CB275E484},
	} {
		got := highwayhash.Sum(make([]byte, n), digestKey[:])
		for i, w := range want {
			if binary.LittleEndian.Uint64(got[8*i:]) != w {
				t.Errorf("%d bytes, word %d: %x", n, i, got)
			}
		}
	}
}

// TestHashOfBlocks has what docs/digest.py computes for 0, 1, 2 … as input: this
// machine's assembly takes 32 bytes at a time.
func TestHashOfBlocks(t *testing.T) {
	for n, want := range map[int]string{
		31:  "4d641a6076e28068dab70fb1208b72b36ed110060612bdd0f22e4533ef14ef8a",
		32:  "fec3a139908ce3bc8912c1a32663d542a9aefc64f79555e3995a47c96b3cb0c9",
		33:  "e5a634f0cb1501f6d046cebf75ea366c90597282d3c8173b357a0011eda2da7e",
		64:  "7524c16affe6d890f2c1da6e192a421a02b08e1ffe65379ebecf51c3c4d7bdc1",
		100: "b4ec6f4d4cea9e0874dc7e1554f674fe8e1c683346b1b21e9d42b71db32bbe90",
		800: "6bce7eae1db89d58c16da93651a36dcf42ab4d89b37b146655b10e43fa6f8117",
	} {
		in := make([]byte, n)
		for i := range in {
			in[i] = byte(i)
		}
		if got := highwayhash.Sum(in, digestKey[:]); hex.EncodeToString(got[:]) != want {
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
				if i := strings.IndexByte(string(e.Key), '/'); string(e.Key[:i+1]) == prefix {
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
