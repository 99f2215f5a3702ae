package dynamodb

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"math/rand/v2"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/aws/aws-sdk-go-v2/service/dynamodb"

	"github.com/dyn2raft/dyn2raft/copier"
)

// A hostile server answers in the table's place. It returns false for a request
// that the table shall answer.
type hostile func(w http.ResponseWriter, op string, n int) bool

// behind puts a hostile server in front of the table's. n counts an operation's
// requests from 1.
func (e *env) behind(h hostile) string {
	e.Helper()
	front := e.proxy(func(r *http.Request, send func(*http.Request)) { send(r) })
	served := front.Config.Handler
	var mu sync.Mutex
	asked := map[string]int{}
	front.Config.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, op, _ := strings.Cut(r.Header.Get("X-Amz-Target"), ".")
		mu.Lock()
		asked[op]++
		n := asked[op]
		mu.Unlock()
		if !h(w, op, n) {
			served.ServeHTTP(w, r)
			return
		}
		_, _ = io.Copy(io.Discard, r.Body)
	})
	return front.URL
}

// sealed answers with a body under the right checksum.
func sealed(w http.ResponseWriter, status int, body string) {
	w.Header().Set(crcHeader, strconv.FormatUint(uint64(crc32.ChecksumIEEE([]byte(body))), 10))
	w.WriteHeader(status)
	_, _ = io.WriteString(w, body)
}

// calls are ways to each operation, and what they say of the answer.
var calls = []struct {
	op  string
	try func(ctx context.Context, s *Source) error
}{
	{"DescribeTable", func(ctx context.Context, s *Source) error { _, err := s.Open(ctx); return err }},
	{"Scan", func(ctx context.Context, s *Source) error {
		_, err := s.Read(ctx, copier.Span{}, &copier.Batch{})
		return err
	}},
	{"Query", func(ctx context.Context, s *Source) error {
		_, err := s.Read(ctx, copier.Span{From: []byte(`{"of":1,"behind":{"path":"p","key":"k","to":"z"}}`)}, &copier.Batch{})
		return err
	}},
	{"Query", func(ctx context.Context, s *Source) error { _, err := s.Versions(ctx); return err }},
	{"GetItem", func(ctx context.Context, s *Source) error { _, err := s.Locks(ctx); return err }},
	{"PutItem", func(ctx context.Context, s *Source) error {
		return (&lease{s: s, run: "r"}).takeMigration(ctx)
	}},
	{"UpdateItem", func(ctx context.Context, s *Source) error {
		return (&lease{s: s, run: "r", identity: []byte("r")}).takeLeader(ctx, nil)
	}},
	{"DeleteItem", func(ctx context.Context, s *Source) error { return s.deleteMigration(ctx, bin("x")) }},
	{"ListBackups", func(ctx context.Context, s *Source) error { _, err := s.Backups(ctx); return err }},
	{"DescribeContinuousBackups", func(ctx context.Context, s *Source) error { _, _, err := s.Recovery(ctx); return err }},
	{"CreateBackup", func(ctx context.Context, s *Source) error { _, err := s.Snapshot(ctx, "name"); return err }},
}

// TestEndlessBody: what is more than DynamoDB can send is refused at once, and not
// kept meanwhile, be it an answer or an error, with its length or without.
func TestEndlessBody(t *testing.T) {
	t.Parallel()
	chunk := bytes.Repeat([]byte(" "), 1<<20)
	for _, status := range []int{http.StatusOK, http.StatusBadRequest, http.StatusBadGateway} {
		for _, length := range []string{"", "1000000000"} {
			for _, c := range calls {
				t.Run(fmt.Sprint(c.op, status, length), func(t *testing.T) {
					e := newEnv(t)
					var sent, asked atomic.Int64
					url := e.behind(func(w http.ResponseWriter, op string, _ int) bool {
						if op != c.op {
							return false
						}
						asked.Add(1)
						if length != "" {
							w.Header().Set("Content-Length", length)
						}
						w.WriteHeader(status)
						for {
							n, err := w.Write(chunk)
							sent.Add(int64(n))
							if err != nil {
								return true
							}
						}
					})
					s, _ := e.sourceAt(url)
					err := c.try(t.Context(), s)
					if !errors.Is(err, copier.ErrSource) || !errors.Is(err, errTooLarge) {
						t.Errorf("error is %v", err)
					}
					if asked.Load() != 1 || sent.Load() > 2*mostBody {
						t.Errorf("asked %d times, %d bytes were sent", asked.Load(), sent.Load())
					}
				})
			}
		}
	}
}

// TestLargeAnswers: of what is larger than any page of Vault's items one is taken
// at a time.
func TestLargeAnswers(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	page := `{"Count":0,"Items":[],"ConsumedCapacity":{"CapacityUnits":0.5}` + strings.Repeat(" ", usualBody+1000) + `}`
	var asked atomic.Int64
	url := e.behind(func(w http.ResponseWriter, op string, _ int) bool {
		if op == "Scan" {
			asked.Add(1)
			sealed(w, http.StatusOK, page)
		}
		return op == "Scan"
	})
	s, _ := e.sourceAt(url)
	s.answers.large <- struct{}{} // another one is being taken
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var wg sync.WaitGroup
	var done atomic.Int64
	for range 4 {
		wg.Go(func() {
			if _, err := s.Read(ctx, copier.Span{}, &copier.Batch{}); err != nil {
				t.Error(err)
			}
			done.Add(1)
		})
	}
	e.eventually("all to be answered", func() bool { return asked.Load() == 4 })
	if _, err := s.lastKey(t.Context(), "core", new(decoded)); err != nil { // others go on
		t.Error(err)
	}
	if done.Load() != 0 {
		t.Errorf("%d were taken beside another", done.Load())
	}
	<-s.answers.large
	wg.Wait()
}

// TestLongMessages: what the service says is cut.
func TestLongMessages(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("ä", 5<<20/2)
	for name, body := range map[string]string{
		"message": `{"__type":"com.amazonaws.dynamodb.v20120810#ValidationException","message":"` + long + `"}`,
		"type":    `{"__type":"` + long + `","message":"m"}`,
		"denied":  `{"__type":"com.amazon.coral.service#AccessDeniedException","message":"User is not authorized to perform: dynamodb:` + long + `"}`,
		"table":   long,
	} {
		for _, c := range calls {
			t.Run(name+" "+c.op, func(t *testing.T) {
				e := newEnv(t)
				url := e.behind(func(w http.ResponseWriter, op string, _ int) bool {
					if op == c.op {
						sealed(w, http.StatusBadRequest, body)
					}
					return op == c.op
				})
				s, _ := e.sourceAt(url, retries(0))
				err := c.try(t.Context(), s)
				if err == nil || len(err.Error()) > 3*longestText || len(coded(err)) > 3*longestText {
					t.Errorf("an error of %d bytes with facts of %d", len(fmt.Sprint(err)), len(coded(err)))
				}
			})
		}
	}
}

// TestEmptyAnswers: an answer of status 200 that is none is refused, whatever was
// asked, after a few tries; with a checksum that is right, at once.
func TestEmptyAnswers(t *testing.T) {
	t.Parallel()
	for _, body := range []string{"", " ", "null", "[]", `"done"`, "<html>Welcome!</html>", `{"Item":`, `{}{}`} {
		for _, checked := range []bool{false, true} {
			for _, c := range calls {
				t.Run(fmt.Sprintf("%s %q %v", c.op, body, checked), func(t *testing.T) {
					e := newEnv(t)
					var asked atomic.Int64
					url := e.behind(func(w http.ResponseWriter, op string, _ int) bool {
						switch {
						case op != c.op:
							return false
						case checked:
							sealed(w, http.StatusOK, body)
						default:
							_, _ = io.WriteString(w, body)
						}
						asked.Add(1)
						return true
					})
					s, _ := e.sourceAt(url)
					if c.op == "DescribeTable" || strings.Contains(c.op, "Backup") {
						s.tries.max = 1
					}
					if err := c.try(t.Context(), s); !errors.Is(err, copier.ErrSource) {
						t.Errorf("error is %v", err)
					}
					if n := asked.Load(); checked && n != 1 || n > mostUndecoded+1 {
						t.Errorf("asked %d times", n)
					}
				})
			}
		}
	}
}

// TestAnswersWithoutCapacity: where answers told what a request costs, one that
// does not is something else's.
func TestAnswersWithoutCapacity(t *testing.T) {
	t.Parallel()
	empty := map[string]string{"Scan": `{"Items":[],"Count":0,"ScannedCount":0}`, "Query": `{"Items":[],"Count":0,"ScannedCount":0}`}
	for _, told := range []bool{false, true} {
		for _, c := range calls {
			if c.op == "DescribeTable" || strings.Contains(c.op, "Backup") {
				continue // it costs nothing
			}
			t.Run(fmt.Sprintf("%s %v", c.op, told), func(t *testing.T) {
				e := newEnv(t)
				var hide atomic.Bool
				url := e.behind(func(w http.ResponseWriter, op string, _ int) bool {
					if op != c.op || !hide.Load() {
						return false
					}
					sealed(w, http.StatusOK, empty[op]+strings.Repeat("{}", 1-min(len(empty[op]), 1)))
					return true
				})
				s, _ := e.sourceAt(url)
				if told {
					_, err := s.getItem(t.Context(), request{}, "some/key")
					e.ok(err)
				}
				hide.Store(true)
				err := c.try(t.Context(), s)
				if told != errors.Is(err, errNotTold) || !told && err != nil {
					t.Errorf("error is %v", err)
				}
			})
		}
	}
}

// TestUndecodableItems: items that can't be decoded are named, at once where the
// checksum is right, and the others are read.
func TestUndecodableItems(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct{ item, named string }{
		"lone surrogate in a Key":  {`{"Path":{"S":"logical/1"},"Key":{"S":"a\ud800b"},"Value":{"B":"eA=="}}`, `Path "logical/1" and Key "a�b"`},
		"lone surrogate in a Path": {`{"Path":{"S":"\udfff"},"Key":{"S":"k"},"Value":{"B":"eA=="}}`, `Path "�" and Key "k"`},
		"no UTF-8":                 {"{\"Path\":{\"S\":\"p\"},\"Key\":{\"S\":\"k\xff\"},\"Value\":{\"B\":\"eA==\"}}", `Path "p" and Key "k�"`},
		"no base64":                {`{"Path":{"S":"p"},"Key":{"S":"k"},"Value":{"B":"e*=="}}`, `Path "p" and Key "k"`},
		"two Keys":                 {`{"Path":{"S":"p"},"Key":{"S":"k"},"Key":{"S":"l"},"Value":{"B":"eA=="}}`, `Path "p" and Key "l"`},
		"two types":                {`{"Path":{"S":"p"},"Key":{"S":"k"},"Value":{"B":"eA==","S":"x"}}`, `Path "p" and Key "k"`},
		"no object":                {`17`, `can't be read`},
		"a text of numbers":        {`{"Path":{"S":17},"Key":{"S":"k"},"Value":{"B":"eA=="}}`, `Path unreadable and Key "k"`},
	} {
		for _, checked := range []bool{true, false} {
			t.Run(fmt.Sprint(name, " ", checked), func(t *testing.T) {
				e := newEnv(t)
				body := `{"Count":3,"Items":[{"Path":{"S":"a"},"Key":{"S":"b"},"Value":{"B":"eA=="}},` + c.item +
					`,{"Path":{"S":"c"},"Key":{"S":"d"},"Value":{"B":"eQ=="}}],"ScannedCount":3,"LastEvaluatedKey":{"Path":{"S":"c"},"Key":{"S":"d"}}}`
				url := e.behind(func(w http.ResponseWriter, op string, n int) bool {
					if checked {
						sealed(w, http.StatusOK, body)
					} else {
						_, _ = io.WriteString(w, body)
					}
					return true
				})
				s, rec := e.sourceAt(url)
				var b copier.Batch
				page, err := s.Read(t.Context(), copier.Span{}, &b)
				e.ok(err)
				if len(page.Refused) != 1 || !errors.Is(page.Refused[0], ErrNotVaultItem) || !errors.Is(page.Refused[0], copier.ErrSource) ||
					!strings.Contains(page.Refused[0].Error(), c.named) || coded(page.Refused[0]) != "not-vaults-item map[]" {
					t.Errorf("refused: %v", page.Refused)
				}
				if got := entriesOf(&b); !slices.Equal(got, []string{`"a/b"=78`, `"c/d"=79`}) || len(page.Next) != 1 {
					t.Errorf("entries %v, next %v", got, page.Next)
				}
				want := 0
				if !checked {
					want = mostUndecoded
				}
				if n := len(eventsOf[copier.Retried](rec)); n != want {
					t.Errorf("%d retries, expected %d", n, want)
				}
			})
		}
	}
}

// TestUndecodableEnd: a page that ends at an item whose name is no text says so,
// and that what is behind it is not known.
func TestUndecodableEnd(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	url := e.behind(func(w http.ResponseWriter, op string, n int) bool {
		sealed(w, http.StatusOK, `{"Count":1,"Items":[{"Path":{"S":"p"},"Key":{"S":"\ud800"},"Value":{"B":"eA=="}}],"LastEvaluatedKey":{"Path":{"S":"p"},"Key":{"S":"\ud800"}}}`)
		return true
	})
	s, _ := e.sourceAt(url)
	page, err := s.Read(t.Context(), copier.Span{}, &copier.Batch{})
	e.ok(err)
	if len(page.Refused) != 2 || !strings.Contains(page.Refused[1].Error(), `nothing can be read`) || len(page.Next) != 0 {
		t.Errorf("refused %v, next %v", page.Refused, page.Next)
	}
}

// TestUndecodableWholeAnswer: what is no page at all, though the checksum is
// right, ends it at once.
func TestUndecodableWholeAnswer(t *testing.T) {
	t.Parallel()
	for _, body := range []string{`{"Items":[],"Count":0,"Count":0}`, `{"Items":[],"Count":1}`, `{"Items":{},"Count":0}`, `{"Items":[],"Count":0} x`} {
		e := newEnv(t)
		url := e.behind(func(w http.ResponseWriter, op string, n int) bool { sealed(w, http.StatusOK, body); return true })
		s, rec := e.sourceAt(url)
		_, err := s.Read(t.Context(), copier.Span{}, &copier.Batch{})
		if !errors.Is(err, copier.ErrSource) || len(eventsOf[copier.Retried](rec)) != 0 {
			t.Errorf("%s: %v, %d retries", body, err, len(eventsOf[copier.Retried](rec)))
		}
	}
}

// TestTrail: a way that leads back is noticed within a few rounds, however long
// it is before it does, and no other way is taken for one.
func TestTrail(t *testing.T) {
	rng := rand.New(rand.NewPCG(31, 32))
	for range 200 {
		tail, round := rng.IntN(100), 1+rng.IntN(100)
		var way trail
		for i := 0; ; i++ {
			at := i
			if i >= tail {
				at = tail + (i-tail)%round
			}
			var err error
			if way, err = way.step(fmt.Sprint(at)); err != nil {
				if i < tail+round {
					t.Fatalf("noticed at step %d of a tail of %d and a round of %d", i, tail, round)
				}
				break
			}
			if i > 3*(tail+round)+2 {
				t.Fatalf("not noticed after %d steps of a tail of %d and a round of %d", i, tail, round)
			}
		}
	}
}

// pagesAt answers Scans with empty pages that end at the given items in turn, the
// last ones again and again.
func pagesAt(ends []position, again int) hostile {
	return func(w http.ResponseWriter, op string, n int) bool {
		if op != "Scan" {
			return false
		}
		i := n - 1
		if i >= len(ends) {
			i = len(ends) - again + (i-len(ends))%again
		}
		last, _ := json.Marshal(map[string]any{"Path": map[string]string{"S": ends[i].Path}, "Key": map[string]string{"S": ends[i].Key}})
		sealed(w, http.StatusOK, fmt.Sprintf(`{"Count":0,"Items":[],"ScannedCount":0,"LastEvaluatedKey":%s}`, last))
		return true
	}
}

// TestPagesWithoutEnd: pages that lead back end a segment with an error.
func TestPagesWithoutEnd(t *testing.T) {
	t.Parallel()
	long := make([]position, 50)
	for i := range long {
		long[i] = position{Path: fmt.Sprint(i), Key: "k"}
	}
	for name, c := range map[string]struct {
		ends  []position
		again int
		most  int
	}{
		"a, a":                        {[]position{{Path: "a", Key: "k"}}, 1, 2},
		"a, b, a, b":                  {[]position{{Path: "a", Key: "k"}, {Path: "b", Key: "k"}}, 2, 6},
		"a, b, b":                     {[]position{{Path: "a", Key: "k"}, {Path: "b", Key: "k"}}, 1, 3},
		"a long way, and then around": {long, 20, 200},
		"Keys of one Path that don't ascend": {[]position{{Path: "a", Key: "k3"}, {Path: "a", Key: "k2"},
			{Path: "a", Key: "k1"}}, 1, 2},
	} {
		t.Run(name, func(t *testing.T) {
			e := newEnv(t)
			s, _ := e.sourceAt(e.behind(pagesAt(c.ends, c.again)))
			seg := copier.Span{}
			for n := 1; ; n++ {
				page, err := s.Read(t.Context(), seg, &copier.Batch{})
				if errors.Is(err, ErrEndless) && errors.Is(err, copier.ErrSource) {
					break
				}
				e.ok(err)
				if len(page.Next) != 1 || n > c.most {
					t.Fatalf("page %d: next %v", n, page.Next)
				}
				seg = page.Next[0]
			}
		})
	}
}

// TestListsWithoutEnd: so do the pages of other lists.
func TestListsWithoutEnd(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	url := e.behind(func(w http.ResponseWriter, op string, n int) bool {
		switch op {
		case "ListBackups":
			sealed(w, http.StatusOK, fmt.Sprintf(`{"BackupSummaries":[],"LastEvaluatedBackupArn":"arn:%d"}`, n%3))
		case "Query":
			sealed(w, http.StatusOK, fmt.Sprintf(`{"Count":0,"Items":[],"LastEvaluatedKey":{"Path":{"S":"core/versions"},"Key":{"S":"%d"}}}`, n%2))
		default:
			return false
		}
		return true
	})
	s, _ := e.sourceAt(url)
	if _, err := s.Backups(t.Context()); !errors.Is(err, ErrEndless) {
		t.Errorf("backups: %v", err)
	}
	if _, err := s.Versions(t.Context()); !errors.Is(err, ErrEndless) {
		t.Errorf("versions: %v", err)
	}
}

// TestTableMadeAnew: whoever holds the locks learns that they are those of
// another table now, though somebody put them there.
func TestTableMadeAnew(t *testing.T) {
	t.Parallel()
	eachServer(t, map[string]func(*env){"check": func(e *env) {
		s, _ := e.source(ha)
		_, err := s.Open(e.Context())
		e.ok(err)
		l, err := s.Lock(e.Context(), "run-1", false, func(error) {})
		e.ok(err)
		e.ok(l.Check(e.Context()))
		leader, migration := e.get(leaderLockKey), e.get(migrationLockKey)
		_, err = e.db.DeleteTable(e.Context(), &dynamodb.DeleteTableInput{TableName: &e.table})
		e.ok(err)
		e.createTable()
		e.put(leader, migration)
		if err := l.Check(e.Context()); !errors.Is(err, copier.ErrMoved) || !errors.Is(err, copier.ErrSource) {
			e.Errorf("error is %v", err)
		}
		e.ok(l.Release(e.Context(), copier.EndFailed))
		// Whoever reads without locks learns it when all is read.
		sorted, _, err := copier.Scan(e.Context(), s, copier.ScanOptions{WorkDir: e.TempDir(), Segments: 3})
		if !errors.Is(err, copier.ErrMoved) || sorted != nil {
			e.Errorf("a scan of the other table: %v, %v", sorted, err)
		}
		again, _ := e.source(ha)
		_, err = again.Open(e.Context())
		e.ok(err)
		sorted, _, err = copier.Scan(e.Context(), again, copier.ScanOptions{WorkDir: e.TempDir(), Segments: 3})
		e.ok(err)
		e.ok(sorted.Close())
	}})
}

// TestLoneSurrogate reads a table with a Key that is no text, which AWS's own
// server takes and sends on: it is named, and all else is read.
func TestLoneSurrogate(t *testing.T) {
	t.Parallel()
	eachServer(t, map[string]func(*env){"copy": func(e *env) {
		if e.srv != nil {
			return // dynamotest makes U+FFFD of it: for its sake see TestUndecodableItems
		}
		e.put(with("logical/1", "a", attrs{"Value": bin("x")}), with("logical/1", "z", attrs{"Value": bin("z")}), with("logical/2", "b", attrs{"Value": bin("y")}))
		body := fmt.Sprintf(`{"TableName":%q,"Item":{"Path":{"S":"logical/1"},"Key":{"S":"lone\ud800"},"Value":{"B":"eA=="}}}`, e.table)
		r, err := http.NewRequestWithContext(e.Context(), http.MethodPost, e.url, strings.NewReader(body))
		e.ok(err)
		for name, value := range map[string]string{"X-Amz-Target": "DynamoDB_20120810.PutItem", "Content-Type": "application/x-amz-json-1.0", "X-Amz-Date": "20260101T000000Z",
			"Authorization": "AWS4-HMAC-SHA256 Credential=key/20260101/us-east-1/dynamodb/aws4_request, SignedHeaders=host, Signature=00"} {
			r.Header.Set(name, value)
		}
		resp, err := http.DefaultClient.Do(r)
		e.ok(err)
		answer, err := io.ReadAll(resp.Body)
		e.ok(errors.Join(err, resp.Body.Close()))
		http.DefaultClient.CloseIdleConnections()
		if resp.StatusCode != http.StatusOK {
			e.Fatalf("it is not taken: %s", answer)
		}
		s, rec := e.source()
		var b copier.Batch
		page, err := s.Read(e.Context(), copier.Span{}, &b)
		e.ok(err)
		if len(page.Refused) != 1 || !strings.Contains(page.Refused[0].Error(), `Path "logical/1" and Key "lone`) || b.Len() != 3 || len(eventsOf[copier.Retried](rec)) != 0 {
			e.Errorf("refused %v, %d entries, %d retries", page.Refused, b.Len(), len(eventsOf[copier.Retried](rec)))
		}
	}})
}
