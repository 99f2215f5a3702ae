package dynamodb

import (
	"bytes"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb/types"

	"github.com/dyn2raft/dyn2raft/copier"
	"github.com/dyn2raft/dyn2raft/sources/dynamodb/dynamotest"
)

// cannedHTTP answers every request with one body.
type cannedHTTP struct{ body []byte }

func (c *cannedHTTP) Do(r *http.Request) (*http.Response, error) {
	return &http.Response{
		StatusCode: http.StatusOK, Request: r,
		Header:        http.Header{"Content-Type": {"application/x-amz-json-1.0"}},
		ContentLength: int64(len(c.body)),
		Body:          io.NopCloser(bytes.NewReader(c.body)),
	}, nil
}

// sdkDecode decodes a Scan response by the SDK alone.
func sdkDecode(tb testing.TB, h *cannedHTTP, b *copier.Batch) (decoded, error) {
	client := dynamodb.New(dynamodb.Options{
		Region: "us-east-1", HTTPClient: h, Retryer: aws.NopRetryer{},
		Credentials:                     credentials.NewStaticCredentialsProvider("a", "b", ""),
		DisableValidateResponseChecksum: true,
	})
	out, err := client.Scan(tb.Context(), &dynamodb.ScanInput{TableName: aws.String("t")})
	if err != nil {
		return decoded{}, err
	}
	d := pageDecoder{b: b}
	d.page.WireBytes = int64(len(h.body))
	if int(out.Count) != len(out.Items) {
		return decoded{}, errCount
	}
	for _, item := range out.Items {
		if err := d.add(item); err != nil {
			return decoded{}, err
		}
	}
	if len(out.LastEvaluatedKey) > 0 {
		d.last = new(position)
		d.last.Path = out.LastEvaluatedKey[attrPath].(*types.AttributeValueMemberS).Value
		d.last.Key = out.LastEvaluatedKey[attrKey].(*types.AttributeValueMemberS).Value
	}
	if out.ConsumedCapacity != nil {
		d.units = aws.ToFloat64(out.ConsumedCapacity.CapacityUnits)
	}
	return d.decoded, nil
}

func entriesOf(b *copier.Batch) []string {
	var out []string
	for i := range b.Len() {
		e := b.Entry(i)
		out = append(out, fmt.Sprintf("%q=%x", e.Key, e.Value))
	}
	return out
}

// decodePage is how a scanTarget decodes a body that has no checksum.
func decodePage(body []byte, b *copier.Batch) (*pageDecoder, error) {
	d := &pageDecoder{body: body, b: b}
	d.page.WireBytes = int64(len(body))
	if err := d.response((*pageDecoder).item); err != nil {
		return d, err
	}
	return d, errors.Join(d.page.Refused...)
}

// compareDecoders fails the test where our decoding accepts a body and the
// SDK's does not agree. It returns whether ours accepted it, with plain items only.
func compareDecoders(t *testing.T, body []byte) bool {
	t.Helper()
	var ours, theirs copier.Batch
	got, err := decodePage(body, &ours)
	if err != nil {
		return false
	}
	want, err := sdkDecode(t, &cannedHTTP{body}, &theirs)
	if err != nil {
		// The SDK refuses what does not matter, too.
		if got.odd == 0 && !bytes.Contains(body, []byte("ConsumedCapacity")) && !bytes.Contains(body, []byte("LastEvaluatedKey")) {
			t.Fatalf("body %q: we take it, the SDK's error is %v", body, err)
		}
		return false
	}
	if got, want := entriesOf(&ours), entriesOf(&theirs); !slices.Equal(got, want) {
		t.Fatalf("body %q:\n we decoded %v\n the SDK   %v", body, got, want)
	}
	if (got.last == nil) != (want.last == nil) || got.last != nil && *got.last != *want.last {
		t.Fatalf("body %q: our LastEvaluatedKey is %v, the SDK's %v", body, got.last, want.last)
	}
	if !reflect.DeepEqual(got.page, want.page) || got.units != want.units {
		t.Fatalf("body %q: our page is %+v for %v units, the SDK's %+v for %v", body, got.page, got.units, want.page, want.units)
	}
	return got.odd == 0
}

// bodies of every shape that matters, and whether all their items are plain.
var decodeCases = []struct {
	name, body string
	plain      bool
}{
	{"empty table", `{"Count":0,"Items":[],"ScannedCount":0}`, true},
	{"one entry", `{"Count":1,"Items":[{"Path":{"S":"sys/policy"},"Key":{"S":"default"},"Value":{"B":"AAEC"}}],"ScannedCount":1}`, true},
	{"value first, spaces", "{ \"Items\" : [ { \"Value\" : {\"B\":\"AA==\"} ,\n\"Key\":{\"S\":\"k\"},\"Path\":{\"S\":\" \"}} ] ,\"Count\":1}", false},
	{"null value", `{"Count":1,"Items":[{"Path":{"S":"a"},"Key":{"S":"b"},"Value":{"NULL":true}}]}`, true},
	{"empty binary", `{"Count":1,"Items":[{"Path":{"S":"a"},"Key":{"S":"b"},"Value":{"B":""}}]}`, true},
	{"markers", `{"Count":2,"Items":[{"Path":{"S":"a"},"Key":{"S":"b/"}},{"Path":{"S":"a"},"Key":{"S":"c/"},"Value":{"NULL":true}}]}`, true},
	{"locks", `{"Count":4,"Items":[{"Path":{"S":"core"},"Key":{"S":"_lock"},"Value":{"B":"eA=="},"Identity":{"B":"eQ=="},"Expires":{"N":"12"}},` +
		`{"Path":{"S":"core"},"Key":{"S":"migration"},"Value":{"B":"eA=="}},{"Path":{"S":"core"},"Key":{"S":"lock"},"Value":{"B":"eA=="}},` +
		`{"Path":{"S":"x"},"Key":{"S":"_l"},"Identity":{"B":"eQ=="}}]}`, false},
	{"user's underscore", `{"Count":2,"Items":[{"Path":{"S":"x"},"Key":{"S":"_l"},"Value":{"B":"eQ=="}},{"Path":{"S":"x"},"Key":{"S":"_m"},"Value":{"B":"eQ=="},"Identity":{"S":"no"}}]}`, false},
	{"attributes of others", `{"Count":1,"Items":[{"Path":{"S":"x"},"Key":{"S":"l"},"Value":{"B":"eQ=="},"ttl":{"N":"17"},"aws:rep:deleting":{"BOOL":false},"n":{"NULL":true}}]}`, true},
	{"last key and capacity", `{"ConsumedCapacity":{"CapacityUnits":128.5,"TableName":"t"},"Count":0,"Items":[],"LastEvaluatedKey":{"Key":{"S":"k\u00e9\"\\"},"Path":{"S":"päth"}},"ScannedCount":3}`, true},
	{"names in other letters", `{"ConsumedCapacity":{"CApACitYUnits":1},"Count":0,"Items":[]}`, true},
	{"unicode and escapes", `{"Count":2,"Items":[{"Path":{"S":"geheim/ü 日本"},"Key":{"S":"a\"b\\c\u0020d"},"Value":{"B":"eQ=="}},{"Path":{"S":"s"},"Key":{"S":"\u0001"},"Value":{"B":"eQ=="}}]}`, false},
	{"surrogate pair", `{"Count":1,"Items":[{"Path":{"S":"s"},"Key":{"S":"\ud83d\ude00"},"Value":{"B":"eQ=="}}]}`, false},
	{"unclean key", `{"Count":1,"Items":[{"Path":{"S":"a//b"},"Key":{"S":"c"},"Value":{"B":"eQ=="}}]}`, false},
	{"a last segment .", `{"Count":2,"Items":[{"Path":{"S":"a"},"Key":{"S":"."},"Value":{"B":"eQ=="}},{"Path":{"S":"a"},"Key":{"S":"./"},"Value":{"NULL":true}}]}`, true},
	{"a Path from the root", `{"Count":1,"Items":[{"Path":{"S":"/"},"Key":{"S":"c"},"Value":{"B":"eQ=="}}]}`, false},
	{"no value", `{"Count":1,"Items":[{"Path":{"S":"a"},"Key":{"S":"c"}}]}`, false},
	{"marker with a value", `{"Count":1,"Items":[{"Path":{"S":"a"},"Key":{"S":"c/"},"Value":{"B":"eQ=="}}]}`, false},
	{"wrong count", `{"Count":2,"Items":[{"Path":{"S":"a"},"Key":{"S":"c"},"Value":{"B":"eQ=="}}]}`, false},
	{"wrong type", `{"Count":1,"Items":[{"Path":{"S":"a"},"Key":{"S":"c"},"Value":{"S":"eQ=="}}]}`, false},
	{"map attribute", `{"Count":1,"Items":[{"Path":{"S":"a"},"Key":{"S":"c"},"Value":{"B":"eQ=="},"m":{"M":{}}}]}`, false},
	{"bad base64", `{"Count":1,"Items":[{"Path":{"S":"a"},"Key":{"S":"c"},"Value":{"B":"e*=="}}]}`, false},
	{"short base64", `{"Count":1,"Items":[{"Path":{"S":"a"},"Key":{"S":"c"},"Value":{"B":"eQ"}}]}`, false},
	{"padding inside", `{"Count":1,"Items":[{"Path":{"S":"a"},"Key":{"S":"c"},"Value":{"B":"eQ==eQ=="}}]}`, false},
	{"one Path after another", `{"Count":4,"Items":[{"Path":{"S":"ab"},"Key":{"S":"c"},"Value":{"B":"eQ=="}},{"Value":{"B":"eA=="},"Path":{"S":"ab"},"Key":{"S":"d"}},` +
		`{"Key":{"S":"c"},"Path":{"S":"abc"},"Value":{"B":"eQ=="}},{"Path":{"S":"a"},"Value":{"B":"eQ=="},"Key":{"S":"c"}}]}`, true},
	{"a Path that another one begins with, in quotes", `{"Count":2,"Items":[{"Path":{"S":"a\""},"Key":{"S":"c"},"Value":{"B":"eQ=="}},{"Path":{"S":"a"},"Key":{"S":"c"},"Value":{"B":"eQ=="}}]}`, false},
	{"two Paths", `{"Count":1,"Items":[{"Path":{"S":"a"},"Path":{"S":"a"},"Key":{"S":"c"},"Value":{"B":"eQ=="}}]}`, false},
	{"two Keys", `{"Count":1,"Items":[{"Path":{"S":"a"},"Key":{"S":"c"},"Key":{"S":"c"},"Value":{"B":"eQ=="}}]}`, false},
	{"a quote in base64", `{"Count":1,"Items":[{"Path":{"S":"a"},"Key":{"S":"c"},"Value":{"B":"eQ=\"}}]}`, false},
	{"no brace behind an item", `{"Count":1,"Items":[{"Path":{"S":"a"},"Key":{"S":"c"},"Value":{"B":"eQ=="}]}`, false},
	{"a comma behind the last attribute", `{"Count":1,"Items":[{"Path":{"S":"a"},"Key":{"S":"c"},"Value":{"B":"eQ=="},}]}`, false},
	{"only padding", `{"Count":1,"Items":[{"Path":{"S":"a"},"Key":{"S":"c"},"Value":{"B":"===="}}]}`, false},
	{"newline in base64", "{\"Count\":1,\"Items\":[{\"Path\":{\"S\":\"a\"},\"Key\":{\"S\":\"c\"},\"Value\":{\"B\":\"eQ=\\n=\"}}]}", false},
	{"two values", `{"Count":1,"Items":[{"Path":{"S":"a"},"Key":{"S":"c"},"Value":{"B":"eQ=="},"Value":{"B":"eA=="}}]}`, false},
	{"two item lists", `{"Items":[],"Items":[]}`, false},
	{"invalid UTF-8", "{\"Count\":1,\"Items\":[{\"Path\":{\"S\":\"a\xff\"},\"Key\":{\"S\":\"c\"},\"Value\":{\"B\":\"eQ==\"}}]}", false},
	{"truncated", `{"Count":1,"Items":[{"Path":{"S":"a"},"Key":{"S":"c"},"Value":{"B":"eQ==`, false},
	{"more behind", `{"Items":[]} x`, false},
	{"unknown member", `{"Items":[],"News":1}`, false},
	{"nothing", ``, false},
	{"no items", `{}`, false},
}

func TestDecodeAsSDK(t *testing.T) {
	for _, c := range decodeCases {
		t.Run(c.name, func(t *testing.T) {
			if plain := compareDecoders(t, []byte(c.body)); plain != c.plain {
				t.Errorf("taken with plain items only: %v, expected %v", plain, c.plain)
			}
		})
	}
}

// TestPlainItem holds what the quick way takes: a table of such items is read many
// times as fast.
func TestPlainItem(t *testing.T) {
	for _, c := range []struct {
		item  string
		plain bool
	}{
		{`{"Path":{"S":"a"},"Key":{"S":"b"},"Value":{"B":"AAEC"}}`, true},
		{`{"Value":{"B":""},"Key":{"S":"b"},"Path":{"S":"last"}}`, true},
		{`{"Key":{"S":"b"},"Value":{"B":"AAEC"},"Path":{"S":"las"}}`, true},
		{`{"Key":{"S":"b/"},"Path":{"S":"laster"}}`, true},
		{`{"Path":{"S":"ä"},"Key":{"S":"b"},"Value":{"B":"AAEC"}}`, true},
		{`{"Path":{"S":"a"},"Key":{"S":"b"},"Value":{"NULL":true}}`, true},
		{`{"Path":{"S":"a"},"Key":{"S":"b"},"Value":{"B":"AAEC"},"ttl":{"N":"1"}}`, true},
		{`{"aws:rep:deleting":{"BOOL":false},"Path":{"S":"a"},"aws:rep:updateregion":{"S":"x"},"Key":{"S":"b"},"n":{"NULL":true},"Value":{"B":"AAEC"}}`, true},
		{`{"Path":{"S":"a"},"Key":{"S":"\u0062"},"Value":{"B":"AAEC"}}`, false},
		{"{\"Path\":{\"S\":\"\xff\"},\"Key\":{\"S\":\"b\"},\"Value\":{\"B\":\"AAEC\"}}", false},
		{"{\"Path\":{\"S\":\"\x01ä\"},\"Key\":{\"S\":\"b\"},\"Value\":{\"B\":\"AAEC\"}}", false},
		{`{"Path":{"S":"a"},"Key":{"S":"b"},"Value":{"B":"AAEC"},"Identity":{"S":"x"}}`, false},
		{`{"Path":{"S":"a"},"Key":{"S":"b"},"Value":{"B":"AAEC"},"m":{"M":{}}}`, false},
		{`{"Path":{"S":"a"},"Key":{"S":"b"},"Value":{"B":"AAEC"},"t":{"S":"\u0062"}}`, false},
		{`{"Key":{"S":"b"},"Value":{"B":"AAEC"}}`, false},
		{`{"Path":{"S":"a"},"Key":{"S":"b"},"Path":{"S":"a"}}`, false},
		{`{ "Path":{"S":"a"},"Key":{"S":"b"},"Value":{"B":"AAEC"}}`, false},
		{`{"Path":{"S":"a"}, "Key":{"S":"b"},"Value":{"B":"AAEC"}}`, false},
		{`{"Path":{"S":"a"},"Key":{"S":"b"},"Value":{"B":"AAEC"} }`, false},
	} {
		d := pageDecoder{body: []byte(c.item + ","), plainPath: []byte("last")}
		if _, ok := d.plain(); ok != c.plain || ok && d.pos != len(c.item) {
			t.Errorf("%s is taken: %v, up to byte %d", c.item, ok, d.pos)
		}
	}
}

func FuzzDecode(f *testing.F) {
	for _, c := range decodeCases {
		f.Add([]byte(c.body))
	}
	f.Fuzz(func(t *testing.T, body []byte) { compareDecoders(t, body) })
}

// TestDecodeBase64Lengths holds the arithmetic of lengths and padding.
func TestDecodeBase64Lengths(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	for n := range 100 {
		value := make([]byte, n)
		for i := range value {
			value[i] = byte(rng.Uint32())
		}
		body := `{"Count":1,"Items":[{"Path":{"S":"a"},"Key":{"S":"c"},"Value":{"B":"` + base64.StdEncoding.EncodeToString(value) + `"}}]}`
		var b copier.Batch
		if _, err := decodePage([]byte(body), &b); err != nil {
			t.Fatalf("%d bytes: %v", n, err)
		}
		if got := b.Entry(0).Value; !bytes.Equal(got, value) {
			t.Fatalf("%d bytes: got %x, expected %x", n, got, value)
		}
	}
}

// scanBody is a full page of entries of about size bytes, as DynamoDB sends it.
func scanBody(size int) (body []byte, entries int) {
	rng := rand.New(rand.NewPCG(3, 4))
	var sb strings.Builder
	for total := 0; total < 1<<20; entries++ {
		value := make([]byte, size/2+rng.IntN(size))
		for i := range value {
			value[i] = byte(rng.Uint32())
		}
		if entries > 0 {
			sb.WriteByte(',')
		}
		path, key := "sys/expire/id/auth/approle/login", fmt.Sprintf("h%032x%032x", rng.Uint64(), rng.Uint64())
		fmt.Fprintf(&sb, `{"Path":{"S":%q},"Value":{"B":%q},"Key":{"S":%q}}`, path, base64.StdEncoding.EncodeToString(value), key)
		total += len(value) + len(path) + len(key) + 12
	}
	return fmt.Appendf(nil, `{"ConsumedCapacity":{"CapacityUnits":128.5,"TableName":"t"},"Count":%d,"Items":[%s],"ScannedCount":%d}`,
		entries, sb.String(), entries), entries
}

// TestDecodeAllocations holds the decoder to less than one allocation an entry.
func TestDecodeAllocations(t *testing.T) {
	body, entries := scanBody(700)
	var b copier.Batch
	allocs := testing.AllocsPerRun(10, func() {
		b.Reset()
		if _, err := decodePage(body, &b); err != nil {
			t.Fatal(err)
		}
	})
	if b.Len() != entries {
		t.Fatalf("%d entries decoded, expected %d", b.Len(), entries)
	}
	if allocs > float64(entries)/20 {
		t.Errorf("%.0f allocations for %d entries", allocs, entries)
	}
}

func BenchmarkDecodePage(b *testing.B) {
	body, entries := scanBody(700)
	b.Run("ours", func(b *testing.B) {
		b.SetBytes(int64(len(body)))
		b.ReportAllocs()
		var batch copier.Batch
		for b.Loop() {
			batch.Reset()
			if _, err := decodePage(body, &batch); err != nil {
				b.Fatal(err)
			}
		}
		b.ReportMetric(float64(entries), "entries/op")
	})
	b.Run("sdk", func(b *testing.B) {
		b.SetBytes(int64(len(body)))
		b.ReportAllocs()
		h := &cannedHTTP{body}
		var batch copier.Batch
		for b.Loop() {
			batch.Reset()
			if _, err := sdkDecode(b, h, &batch); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("base64", func(b *testing.B) { // the limit: decoding the values alone
		var values []byte
		for s := range strings.SplitSeq(string(body), `"B":"`) {
			v, _, _ := strings.Cut(s, `"`)
			values = append(values, v[:len(v)/4*4]...)
		}
		values = bytes.ReplaceAll(values, []byte("="), []byte("A"))
		values = bytes.Map(func(r rune) rune {
			if strings.ContainsRune("{\": ", r) {
				return 'A'
			}
			return r
		}, values)
		dst := make([]byte, len(values))
		b.SetBytes(int64(len(values)))
		for b.Loop() {
			if _, err := base64.StdEncoding.Decode(dst, values); err != nil {
				b.Fatal(err)
			}
		}
	})
}

// TestPageCountsTries wants each failed try of a page in its statistics.
func TestPageCountsTries(t *testing.T) {
	srv := dynamotest.NewServer(dynamotest.Options{})
	t.Cleanup(srv.Close)
	if err := srv.CreateVaultTable(DefaultTable); err != nil {
		t.Fatal(err)
	}
	src, err := New(t.Context(), Options{Endpoint: srv.URL, AccessKey: "a", SecretKey: "b"})
	if err != nil {
		t.Fatal(err)
	}
	srv.SetFaults(
		&dynamotest.Fault{Kind: dynamotest.ThroughputExceeded, Operation: "Scan", Count: 2},
		&dynamotest.Fault{Kind: dynamotest.WrongCRC, Operation: "Scan", Count: 1})
	page, err := src.Read(t.Context(), copier.Span{}, &copier.Batch{})
	if err != nil || page.Retries != 3 || page.Throttles != 2 {
		t.Errorf("%d retries, %d throttles, %v; expected 3 and 2", page.Retries, page.Throttles, err)
	}
}
