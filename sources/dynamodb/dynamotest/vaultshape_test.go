package dynamotest_test

import (
	"path"
	"reflect"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/aws/aws-sdk-go-v2/service/dynamodb/types"

	"github.com/dyn2raft/dyn2raft/sources/dynamodb/dynamotest"
)

func contentOf(shape dynamotest.VaultShape) (content dynamotest.Content) {
	for key, value := range shape.All() {
		content.Add(key, value)
	}
	return content
}

func isHot(key string) bool {
	switch path.Dir(key) {
	case "sys/expire/id/auth/approle/login", "sys/token/id", "sys/token/accessor":
		return true
	}
	return false
}

func TestVaultShapeIsLikeAVault(t *testing.T) {
	const n = 20_000
	keys := map[string]bool{}
	var bytes, typical, tens, large, hot, empty int
	kinds := map[string]int{}
	for key, value := range (dynamotest.VaultShape{Entries: n, Seed: 7}).All() {
		if keys[key] {
			t.Fatalf("key %s comes twice", key)
		}
		keys[key] = true
		if path.Clean(key) != key || !utf8.ValidString(key) || strings.HasPrefix(key, "/") {
			t.Fatalf("key %q is not clean", key)
		}
		bytes += len(value)
		switch size := len(value); {
		case size == 0:
			empty++
		case size > 390<<10:
			t.Errorf("%s has %d bytes", key, size)
		case size > 100<<10:
			large++
		case size >= 10<<10:
			tens++
		case size >= 200 && size <= 2<<10:
			typical++
		}
		if isHot(key) {
			hot++
		}
		base := path.Base(key)
		for kind, is := range map[string]bool{
			"core": strings.HasPrefix(key, "core/"), "version": strings.HasPrefix(key, "core/versions/"), "policy": strings.HasPrefix(key, "sys/policy/"),
			"approle": strings.HasPrefix(key, "auth/") && strings.Contains(key, "/role/"), "kv2": strings.Contains(key, "/metadata/"), "bucket": strings.Contains(key, "/packer/buckets/"),
			"space": strings.Contains(base, " "), "unicode": base != strings.ToValidUTF8(base, "") || len(base) != len([]rune(base)), "underscore": base[0] == '_', "deep": strings.Count(key, "/") > 10,
		} {
			if is {
				kinds[kind]++
			}
		}
	}
	if len(keys) != n {
		t.Errorf("%d entries, want %d", len(keys), n)
	}
	if mean := bytes / n; mean < 720 || mean > 880 {
		t.Errorf("mean value size %d, want about 800", mean)
	}
	if hot*10 < n*4 || typical*100 < n*95 || tens < n/1000 || large < 3 || large > n/1000 || empty != 1 {
		t.Errorf("%d hot, %d typical, %d of tens of KB, %d large, %d empty of %d", hot, typical, tens, large, empty, n)
	}
	for _, kind := range []string{"core", "version", "policy", "approle", "kv2", "bucket", "space", "unicode", "underscore", "deep"} {
		if kinds[kind] == 0 {
			t.Errorf("no %s among the entries", kind)
		}
	}
	t.Logf("kinds: %v", kinds)
}

func TestVaultShapeIsDeterministic(t *testing.T) {
	shape := dynamotest.VaultShape{Entries: 3000, Seed: 1}
	other := shape
	other.Seed = 2
	if a, b := contentOf(shape), contentOf(shape); a != b {
		t.Error("the same shape gives other entries")
	}
	if contentOf(shape) == contentOf(other) {
		t.Error("another seed gives the same entries")
	}
	for key := range shape.All() { // stops early without harm
		if key != "" {
			break
		}
	}
}

func TestVaultShapeValueSize(t *testing.T) {
	for _, mean := range []int{100, 800, 4096} {
		bytes, n := 0, 8_000
		for _, value := range (dynamotest.VaultShape{Entries: n, ValueSize: mean}).All() {
			bytes += len(value)
		}
		if got := bytes / n; got < mean*8/10 || got > mean*12/10 {
			t.Errorf("mean %d, want %d", got, mean)
		}
	}
}

func TestContentTellsDifferences(t *testing.T) {
	sum := func(entries ...[2]string) (c dynamotest.Content) {
		for _, e := range entries {
			c.Add(e[0], []byte(e[1]))
		}
		return c
	}
	base := sum([2]string{"a", "1"}, [2]string{"b", "2"})
	if base != sum([2]string{"b", "2"}, [2]string{"a", "1"}) {
		t.Error("the order counts")
	}
	if base.Entries != 2 || base.Bytes != 4 {
		t.Errorf("%+v", base)
	}
	for name, other := range map[string]dynamotest.Content{
		"a flipped byte": sum([2]string{"a", "1"}, [2]string{"b", "3"}), "another key": sum([2]string{"a", "1"}, [2]string{"c", "2"}), "swapped values": sum([2]string{"a", "2"}, [2]string{"b", "1"}),
		"a moved border": sum([2]string{"a1", ""}, [2]string{"b", "2"}), "one missing": sum([2]string{"a", "1"}), "one twice": sum([2]string{"a", "1"}, [2]string{"a", "1"}), "all twice": sum([2]string{"a", "1"}, [2]string{"b", "2"}, [2]string{"a", "1"}, [2]string{"b", "2"}),
	} {
		if other == base {
			t.Errorf("%s goes unnoticed", name)
		}
	}
}

// TestVaultShapeLoad reads the table back by its items and compares with the
// generator, then walks it as Vault's List does.
func TestVaultShapeLoad(t *testing.T) {
	for _, n := range []int{0, 1, 10, 100, 1500} {
		srv, _ := serve(t, dynamotest.Options{})
		shape := dynamotest.VaultShape{Entries: n, Seed: 3, ExpiredLock: true}
		loaded, err := shape.Load(srv, table)
		if err != nil {
			t.Fatal(err)
		}
		if loaded.Content != contentOf(shape) || loaded.Entries != n {
			t.Errorf("loaded %+v, generated %+v", loaded.Content, contentOf(shape))
		}
		if loaded.Hot*10 < n*4 {
			t.Errorf("%d hot entries of %d", loaded.Hot, n)
		}
		var content dynamotest.Content
		children := map[string][]string{}
		var locks int
		for _, item := range srv.Items(table) {
			dir, base := item["Path"].(*types.AttributeValueMemberS).Value, item["Key"].(*types.AttributeValueMemberS).Value
			children[dir] = append(children[dir], base)
			switch value := item["Value"].(type) {
			case *types.AttributeValueMemberB:
				if item["Identity"] != nil {
					locks++
				} else {
					content.Add(strings.TrimPrefix(dir+"/"+base, " /"), value.Value)
				}
			case *types.AttributeValueMemberNULL:
				if !strings.HasSuffix(base, "/") {
					content.Add(strings.TrimPrefix(dir+"/"+base, " /"), nil)
				}
			}
		}
		if content != loaded.Content || locks != 1 {
			t.Errorf("the table holds %+v and %d locks, want %+v and 1", content, locks, loaded.Content)
		}

		listed := 0
		var walk func(dir string)
		walk = func(dir string) {
			for _, name := range children[dir] {
				switch {
				case strings.HasSuffix(name, "/"):
					walk(strings.TrimPrefix(dir+"/"+strings.TrimSuffix(name, "/"), " /"))
				case !strings.HasPrefix(name, "_"):
					listed++
				}
			}
		}
		walk(" ")
		if want := n - loaded.Orphans - loaded.Underscored; listed != want {
			t.Errorf("a walk by List finds %d of %d entries, want %d", listed, n, want)
		}
		if n >= 100 && (loaded.Orphans == 0 || loaded.Underscored == 0 || loaded.Empty != 1) {
			t.Errorf("%+v", loaded)
		}
		// Loaded once more, nothing changes.
		before := len(srv.Items(table))
		if again, err := shape.Load(srv, table); err != nil || again != loaded || len(srv.Items(table)) != before {
			t.Errorf("loading twice: %+v, %v, %d items instead of %d", again, err, len(srv.Items(table)), before)
		}
	}
	srv, _ := serve(t, dynamotest.Options{})
	if _, err := (dynamotest.VaultShape{Entries: 1}).Load(srv, "nope"); err == nil {
		t.Error("loaded into a table that is not there")
	}
}

// TestDerivedShapeIsTheSame wants the items that are made again on each read
// to be those that are kept otherwise, from values of one byte more than the
// head to the largest.
func TestDerivedShapeIsTheSame(t *testing.T) {
	for _, shape := range []dynamotest.VaultShape{{Entries: 6000, Seed: 3}, {Entries: 200, ValueSize: 4}, {Entries: 200, ValueSize: 60_000}} {
		kept, derived := dynamotest.NewServer(dynamotest.Options{}), dynamotest.NewServer(dynamotest.Options{})
		t.Cleanup(kept.Close)
		t.Cleanup(derived.Close)
		var loaded []dynamotest.Loaded
		for _, srv := range []*dynamotest.Server{kept, derived} {
			if err := srv.CreateVaultTable(dynamotest.VaultTable); err != nil {
				t.Fatal(err)
			}
			shape.Derived = srv == derived
			l, err := shape.Load(srv, dynamotest.VaultTable)
			if err != nil {
				t.Fatal(err)
			}
			loaded = append(loaded, l)
		}
		if loaded[0] != loaded[1] || loaded[0].ValueBytes <= 0 || loaded[0].ValueBytes >= loaded[0].Bytes {
			t.Errorf("loaded %+v, derived %+v", loaded[0], loaded[1])
		}
		want, got := kept.Items(dynamotest.VaultTable), derived.Items(dynamotest.VaultTable)
		if len(want) < shape.Entries || !reflect.DeepEqual(want, got) {
			t.Errorf("%d items and %d derived ones are not the same", len(want), len(got))
		}
	}
}
