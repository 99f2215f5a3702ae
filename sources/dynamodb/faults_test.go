package dynamodb

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb"

	"github.com/dyn2raft/dyn2raft/copier"
	"github.com/dyn2raft/dyn2raft/sources/dynamodb/dynamotest"
	"github.com/dyn2raft/dyn2raft/sources/dynamodb/internal/pipes"
)

// A trouble is a way in which requests fail for a while. begin makes them, and
// returns how often they did, and how they stop.
type trouble struct {
	name      string
	throttled bool
	begin     func(e *env, link *link, chance float64) (fired func() int, end func())
}

// troubles are all of them.
func troubles() []trouble {
	var out []trouble
	server := func(kind dynamotest.FaultKind, delay time.Duration) {
		out = append(out, trouble{
			name:      string(kind),
			throttled: kind == dynamotest.ThroughputExceeded || kind == dynamotest.Throttling || kind == dynamotest.RequestLimitExceeded,
			begin: func(e *env, _ *link, chance float64) (func() int, func()) {
				f := &dynamotest.Fault{Kind: kind, Delay: delay, Probability: chance}
				e.srv.SetFaults(f)
				return f.Fired, func() { e.srv.SetFaults() }
			},
		})
	}
	for _, f := range faults {
		server(f.kind, 0)
	}
	server(dynamotest.Delay, 20*time.Second) // a server that hangs
	for name, err := range map[string]error{
		"no such host":  &net.DNSError{Err: "no such host", Name: "table.invalid", IsNotFound: true},
		"DNS times out": &net.DNSError{Err: "i/o timeout", Name: "table.invalid", IsTimeout: true, IsTemporary: true},
		"endpoint gone": os.NewSyscallError("connect", syscall.ECONNREFUSED),
		"no route":      os.NewSyscallError("connect", syscall.EHOSTUNREACH),
	} {
		out = append(out, trouble{name: name, begin: func(_ *env, l *link, chance float64) (func() int, func()) {
			return l.fail(err, chance)
		}})
	}
	return out
}

// A link is how a source comes to its server.
type link struct {
	through *pipes.Network
	mu      sync.Mutex
	err     error
	chance  float64
	failed  int
}

func (l *link) fail(err error, chance float64) (failed func() int, end func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.err, l.chance, l.failed = err, chance, 0
	return func() int {
			l.mu.Lock()
			defer l.mu.Unlock()
			return l.failed
		}, func() {
			l.mu.Lock()
			defer l.mu.Unlock()
			l.err = nil
		}
}

func (l *link) dial(ctx context.Context, network, _ string) (net.Conn, error) {
	l.mu.Lock()
	err := l.err
	if err != nil && l.chance > 0 && rand.Float64() >= l.chance {
		err = nil
	}
	if err != nil {
		l.failed++
	}
	l.mu.Unlock()
	if err != nil {
		return nil, &net.OpError{Op: "dial", Net: network, Err: err}
	}
	return l.through.Dial(ctx, network, "table.test:80")
}

// linked returns a source whose endpoint has a name that only its link knows.
// Each request dials.
func (e *env) linked(change ...func(*Options)) (*Source, *link, *recorder) {
	e.Helper()
	l := &link{through: e.net}
	s, rec := e.sourceAt("http://table.invalid", change...)
	transport := &http.Transport{DialContext: l.dial, DisableKeepAlives: true}
	s.client = dynamodb.New(s.client.Options(), func(o *dynamodb.Options) {
		o.HTTPClient = &http.Client{Transport: transport}
	})
	s.tries.timeout = 400 * time.Millisecond
	return s, l, rec
}

func retryFor(d time.Duration) func(*Options) { return func(o *Options) { o.RetryFor = d } }

// TestTroubleHeals lets each kind of trouble begin in the middle of a scan with
// six workers, last for a while, and end.
func TestTroubleHeals(t *testing.T) {
	t.Parallel()
	for _, tr := range troubles() {
		t.Run(tr.name, func(t *testing.T) {
			inBubble(t, func(t *testing.T) {
				e := bubbleEnv(t, dynamotest.Options{})
				want := e.fill(300)
				s, l, rec := e.linked()
				_, err := s.Open(t.Context())
				e.ok(err)
				fired, end := tr.begin(e, l, 0)
				var wg sync.WaitGroup
				wg.Go(func() {
					e.eventually(tr.name, func() bool { return fired() >= 6 })
					end()
				})
				var got found
				e.ok(got.read(t.Context(), s, segments(6)))
				wg.Wait()
				got.exactly(t, want)
				retried := eventsOf[copier.Retried](rec)
				if len(retried) < 6 || got.retries != int64(len(retried)) || (got.throttles > 0) != tr.throttled {
					t.Errorf("%d events, %d retries, %d throttles", len(retried), got.retries, got.throttles)
				}
				for _, r := range retried {
					if r.Throttled != tr.throttled || r.Err == nil || strings.Contains(r.Err.Error(), "\n") {
						t.Errorf("event %+v", r)
					}
				}
			})
		})
	}
}

// TestTroubleLasts: what does not end is given up once nothing has succeeded
// for RetryFor, and being throttled is not.
func TestTroubleLasts(t *testing.T) {
	t.Parallel()
	const limit = 900 * time.Millisecond
	for _, tr := range troubles() {
		t.Run(tr.name, func(t *testing.T) {
			inBubble(t, func(t *testing.T) {
				e := bubbleEnv(t, dynamotest.Options{})
				want := e.fill(100)
				s, l, _ := e.linked(retryFor(limit))
				_, err := s.Open(t.Context())
				e.ok(err)
				_, end := tr.begin(e, l, 0)
				start := time.Now()
				if tr.throttled {
					timer := time.AfterFunc(2*limit, end)
					defer timer.Stop()
					var got found
					e.ok(got.read(t.Context(), s, segments(6)))
					got.exactly(t, want)
					if d := time.Since(start); d < 2*limit {
						t.Errorf("read within %v", d)
					}
					return
				}
				var got found
				err = got.read(t.Context(), s, segments(6)[:1])
				wantError(t, err, copier.ErrSource, "nothing succeeded for ", GaveUp)
				if d := time.Since(start); d < limit || d > limit+time.Second {
					t.Errorf("given up after %v", d)
				}
				end()
				e.ok(got.read(t.Context(), s, segments(6))) // the source is good again
				got.exactly(t, want)
			})
		})
	}
}

// TestTroublesMixed lets all of them happen, one after the other and by chance,
// while a table with a hot Path is read.
func TestTroublesMixed(t *testing.T) { inBubble(t, troublesMixed) }

func troublesMixed(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 0))
	all := troubles()
	slices.SortFunc(all, func(a, b trouble) int { return strings.Compare(a.name, b.name) })
	e := bubbleEnv(t, dynamotest.Options{Latency: 5 * time.Millisecond})
	want := e.fill(1500)
	s, l, rec := e.linked()
	s.tries.timeout = 250 * time.Millisecond
	seen := map[string]bool{}
	var order []int
	n := 0
	stop := every(5*time.Millisecond, func() {
		if len(order) == 0 {
			order = rng.Perm(len(all))
		}
		tr := all[order[0]]
		order = order[1:]
		fired, end := tr.begin(e, l, []float64{0.3, 0.7, 0}[rng.IntN(3)])
		for range 100 {
			if fired() >= 2 {
				seen[tr.name] = true
				n += fired()
				break
			}
			time.Sleep(2 * time.Millisecond)
		}
		end()
	})
	for deadline := time.Now().Add(2 * time.Second); time.Now().Before(deadline); {
		var got found
		e.ok(got.read(t.Context(), s, segments(6)))
		got.exactly(t, want)
	}
	stop()
	if len(seen) < len(all)/2 || len(eventsOf[copier.Retried](rec)) == 0 {
		t.Errorf("of %d kinds of trouble only these happened, %d times: %q", len(all), n, slices.Sorted(maps.Keys(seen)))
	}
}

// TestOthersProgress: a request is tried for as long as others succeed, and its
// own lock's renewals are not such others.
func TestOthersProgress(t *testing.T) { inBubble(t, othersProgress) }

func othersProgress(t *testing.T) {
	const limit = 500 * time.Millisecond
	e := bubbleEnv(t, dynamotest.Options{})
	want := e.fill(100)
	s, _ := e.source(retryFor(limit), ha)
	fault := &dynamotest.Fault{Kind: dynamotest.InternalServerError, Operation: "Scan", Match: func(r *dynamotest.Request) bool {
		return strings.Contains(string(r.Body), `"TotalSegments":6`)
	}}
	e.srv.SetFaults(fault)
	stop := every(20*time.Millisecond, func() {
		var b copier.Batch
		if _, err := s.Read(t.Context(), segment(0, 5), &b); err != nil {
			t.Error(err)
		}
	})
	defer stop()
	timer := time.AfterFunc(3*limit, func() { e.srv.SetFaults() })
	defer timer.Stop()
	var got found
	e.ok(got.read(t.Context(), s, segments(6)))
	got.exactly(t, want)
	stop()

	h := e.lock(s, "run-1")
	e.srv.SetFaults(&dynamotest.Fault{Kind: dynamotest.InternalServerError, Operation: "Scan"})
	before := e.srv.Requests()["UpdateItem"]
	start := time.Now()
	wantError(t, new(found).read(t.Context(), s, segments(6)[:1]), copier.ErrSource, "nothing succeeded for ", "")
	if d := time.Since(start); d > limit+time.Second || e.srv.Requests()["UpdateItem"] < before+2 {
		t.Errorf("given up after %v and %d renewals", d, e.srv.Requests()["UpdateItem"]-before)
	}
	e.ok(h.Release(t.Context(), copier.EndFailed))
}

// TestWaitIsCapped: the last wait is no longer than what is left of RetryFor.
func TestWaitIsCapped(t *testing.T) { inBubble(t, waitIsCapped) }

func waitIsCapped(t *testing.T) {
	e := bubbleEnv(t, dynamotest.Options{})
	s, _ := e.source(retryFor(300 * time.Millisecond))
	s.tries.base, s.tries.longest = time.Minute, time.Minute
	e.srv.SetFaults(&dynamotest.Fault{Kind: dynamotest.InternalServerError})
	start := time.Now()
	var b copier.Batch
	_, err := s.Read(t.Context(), copier.Span{}, &b)
	wantError(t, err, copier.ErrSource, "nothing succeeded for 3", GaveUp)
	if d := time.Since(start); d > 300*time.Millisecond {
		t.Errorf("it took %v", d)
	}
	for n := 1; n < 100; n++ {
		for _, throttled := range []bool{false, true} {
			most := 20 * time.Second
			if throttled { // the capacity is there again by then
				most = time.Second
			}
			if w := defaultTries.wait(n, throttled); w < 0 || w > most || n == 1 && w > 50*time.Millisecond {
				t.Errorf("wait %d, throttled %v, is %v", n, throttled, w)
			}
		}
	}
}

// TestGivenUp: the error of a request that was given up says by which limit.
func TestGivenUp(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	s, _ := e.source(retries(1))
	e.srv.SetFaults(&dynamotest.Fault{Kind: dynamotest.InternalServerError})
	_, err := s.Open(t.Context())
	wantError(t, err, copier.ErrSource, "after 2 tries: InternalServerError", GaveUp)
	var b copier.Batch
	_, err = s.Read(t.Context(), copier.Span{}, &b)
	wantError(t, err, copier.ErrSource, "after 2 tries: InternalServerError", GaveUp)
	s, _ = e.source()
	_, err = s.Open(t.Context())
	wantError(t, err, copier.ErrSource, "after 4 tries: InternalServerError", GaveUp)
}

// TestFinalErrors: what no retry can fix ends at once.
func TestFinalErrors(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		fault *dynamotest.Fault
		seg   copier.Span
		table string
		says  string
	}{
		"denied":             {fault: &dynamotest.Fault{Kind: dynamotest.AccessDenied}, seg: copier.Span{}, says: "AccessDeniedException"},
		"no table":           {table: "nowhere", seg: copier.Span{}, says: "ResourceNotFoundException"},
		"refused parameters": {seg: copier.Span{From: token{Segment: 1, Of: 3, Behind: &position{Path: "p", Key: "k"}}.encode()}, says: "ValidationException"},
		"expired, static":    {fault: &dynamotest.Fault{Kind: dynamotest.ExpiredToken}, seg: copier.Span{}, says: "ExpiredTokenException"},
		"deleted, static":    {fault: &dynamotest.Fault{Kind: dynamotest.UnrecognizedClient}, seg: copier.Span{}, says: "UnrecognizedClientException"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			e := newEnv(t)
			s, rec := e.source()
			if _, err := s.Open(t.Context()); err != nil {
				t.Fatal(err)
			}
			if c.table != "" {
				s.opts.Table = c.table
			}
			if c.fault != nil {
				e.srv.SetFaults(c.fault)
			}
			var b copier.Batch
			_, err := s.Read(t.Context(), c.seg, &b)
			if !errors.Is(err, copier.ErrSource) || !strings.Contains(err.Error(), c.says) || e.srv.Requests()["Scan"] != 1 || len(eventsOf[copier.Retried](rec)) != 0 {
				t.Errorf("error %v after %d requests", err, e.srv.Requests()["Scan"])
			}
			if code, _ := copier.CodeOf(err); strings.HasSuffix(name, "static") && code == "" {
				t.Error("no code")
			}
		})
	}
}

// TestBadOptions of New.
func TestBadOptions(t *testing.T) {
	t.Parallel()
	for _, o := range []Options{{RetryFor: -1}, {ReadCapacity: -1}} {
		o.AccessKey, o.SecretKey = "a", "b"
		if _, err := New(t.Context(), o); !errors.Is(err, copier.ErrConfig) {
			t.Errorf("%+v: error is %v", o, err)
		}
	}
}

// credentialsFile is a shared file of credentials.
type credentialsFile struct {
	e    *env
	name string
}

func (f credentialsFile) write(profile, key string) {
	text := fmt.Sprintf("[%s]\naws_access_key_id = %s\naws_secret_access_key = secret\naws_session_token = token-of-%s\n", profile, key, key)
	f.e.ok(os.WriteFile(f.name+".new", []byte(text), 0o600))
	f.e.ok(os.Rename(f.name+".new", f.name))
}

// TestRotatedCredentials lets keys be refused in the middle of a scan, until
// others are in the file.
func TestRotatedCredentials(t *testing.T) {
	for _, kind := range []dynamotest.FaultKind{dynamotest.ExpiredToken, dynamotest.UnrecognizedClient} {
		for _, profile := range []string{"default", "vault"} {
			t.Run(string(kind)+" "+profile, func(t *testing.T) {
				e := newEnv(t)
				want := e.fill(200)
				file := credentialsFile{e, filepath.Join(t.TempDir(), "credentials")}
				t.Setenv("AWS_SHARED_CREDENTIALS_FILE", file.name)
				if profile != "default" {
					t.Setenv("AWS_PROFILE", profile)
				}
				file.write(profile, "OLD")
				s, rec := e.source(func(o *Options) { o.AccessKey, o.SecretKey = "", "" })
				_, err := s.Open(t.Context())
				e.ok(err)
				var served sync.Map
				fault := &dynamotest.Fault{Kind: kind, After: 2, Match: func(r *dynamotest.Request) bool {
					served.Store(r.AccessKey, true)
					return r.AccessKey == "OLD"
				}}
				e.srv.SetFaults(fault)
				var wg sync.WaitGroup
				wg.Go(func() {
					e.eventually("refusals", func() bool { return fault.Fired() >= 8 })
					e.ok(os.WriteFile(file.name, nil, 0o600)) // half written
					time.Sleep(20 * time.Millisecond)
					file.write(profile, "NEW")
				})
				var got found
				e.ok(got.read(t.Context(), s, segments(6)))
				wg.Wait()
				got.exactly(t, want)
				if _, ok := served.Load("NEW"); !ok || len(eventsOf[copier.Retried](rec)) < 8 {
					t.Errorf("the new keys were used: %v; %d events", ok, len(eventsOf[copier.Retried](rec)))
				}
			})
		}
	}
}

// TestCredentialsThatStayExpired end the copy: at once where they can't change,
// else after RetryFor.
func TestCredentialsThatStayExpired(t *testing.T) {
	for _, c := range []struct {
		name     string
		file     bool
		prepared bool
		says     string
		tries    func(int) bool
	}{
		{"a file's", true, true, "nothing succeeded for ", func(n int) bool { return n > 3 }},
		{"the environment's", false, true, "ExpiredTokenException", func(n int) bool { return n == 1 }},
		{"from the beginning", true, false, "ExpiredTokenException", func(n int) bool { return n == 1 }},
	} {
		t.Run(c.name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				e := bubbleEnv(t, dynamotest.Options{})
				if c.file {
					file := credentialsFile{e, filepath.Join(t.TempDir(), "credentials")}
					t.Setenv("AWS_SHARED_CREDENTIALS_FILE", file.name)
					file.write("default", "OLD")
				} else {
					t.Setenv("AWS_ACCESS_KEY_ID", "OLD")
					t.Setenv("AWS_SECRET_ACCESS_KEY", "secret")
				}
				s, _ := e.source(retryFor(300*time.Millisecond), func(o *Options) { o.AccessKey, o.SecretKey = "", "" })
				if c.prepared {
					_, err := s.Open(t.Context())
					e.ok(err)
				}
				e.srv.SetFaults(&dynamotest.Fault{Kind: dynamotest.ExpiredToken})
				var b copier.Batch
				_, err := s.Read(t.Context(), copier.Span{}, &b)
				wantError(t, err, copier.ErrSource, c.says, CredentialsExpired)
				if n := e.srv.Requests()["Scan"]; !c.tries(n) {
					t.Errorf("%d tries", n)
				}
				if strings.Contains(err.Error()+coded(err), "token-of") {
					t.Errorf("error %v tells the token", err)
				}
			})
		})
	}
}

// TestCredentialsAreBuiltAnewOnce where many requests fail at the same time.
func TestCredentialsAreBuiltAnewOnce(t *testing.T) {
	t.Parallel()
	var built atomic.Int64
	e := newEnv(t)
	s, _ := e.source()
	c := &credentialsLoader{}
	c.load = func(ctx context.Context) (aws.CredentialsProvider, error) {
		built.Add(1)
		return &credentialsLoader{chain: s.creds}, nil
	}
	_, err := c.Retrieve(t.Context())
	e.ok(err)
	used := c.current()
	for range 3 {
		c.reload(used)
		_, err := c.Retrieve(t.Context())
		e.ok(err)
	}
	if built.Load() != 2 {
		t.Errorf("built %d times, expected twice", built.Load())
	}
}

// What answers a Scan or a Query with status 200 and without its Items is not
// DynamoDB. The SDK takes that for the end: it is asked again.
func TestAnswersWithoutItems(t *testing.T) {
	for name, answer := range map[string]string{
		"nothing": "", "an object": "{}", "another": `{"message":"hello"}`, "no list": `{"Items":null,"Count":0}`,
		"no count": `{"Items":[]}`, "a page": "<html></html>",
		"items":            `{"items":[],"Count":0}`,
		"twice":            `{"Items":[],"Count":0,"Count":0}`,
		"twice, within":    `{"Items":[],"Count":0,"LastEvaluatedKey":{"Path":{"S":"a"},"Path":{"S":"a"},"Key":{"S":"k"}}}`,
		"half a character": `{"Items":[],"Count":0,"LastEvaluatedKey":{"Path":{"S":"a"},"Key":{"S":"\ud83d"}}}`,
		"LastEvaluatedKex": `{"Items":[],"Count":0,"LastEvaluatedKex":{"Path":{"S":"a"},"Key":{"S":"k"}}}`,
		"no UTF-8":         "{\"Count\":0,\"Items\":[],\"LastEvaluatedKey\":{\"Path\":{\"S\":\"a\"},\"Key\":{\"S\":\"k\x80\"}}}",
	} {
		t.Run(name, func(t *testing.T) {
			e := newEnv(t)
			want := e.fill(300)
			var mu sync.Mutex
			asked := map[string]int{}
			front := e.proxy(func(r *http.Request, send func(*http.Request)) { send(r) })
			served := front.Config.Handler
			front.Config.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				_, op, _ := strings.Cut(r.Header.Get("X-Amz-Target"), ".")
				mu.Lock()
				asked[op]++
				now := asked[op] == 2 && (op == "Scan" || op == "Query")
				mu.Unlock()
				if now {
					_, _ = io.Copy(io.Discard, r.Body)
					_, _ = io.WriteString(w, answer)
					return
				}
				served.ServeHTTP(w, r)
			})
			s, _ := e.sourceAt(front.URL)
			var got found
			if err := got.read(t.Context(), s, segments(3)); err != nil {
				t.Fatal(err)
			}
			got.exactly(t, want)
			if asked["Scan"] < 2 {
				t.Errorf("asked %v", asked)
			}
		})
	}
}

// Whoever asks behind an item, or for a range of a Path, is told of such an answer
// as well.
func TestAnswersWithoutItemsAreErrors(t *testing.T) {
	for _, answer := range []string{"", "{}", `{"Items":null,"Count":0}`} {
		e := newEnv(t)
		front := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, answer) }))
		t.Cleanup(front.Close)
		s, _ := e.sourceAt(front.URL, retries(0))
		for _, resume := range []string{"", `{"path":"p","key":"k"}`, `{"path":"p","key":"k","to":"z"}`} { // Scan, Scan, Query
			var b copier.Batch
			if page, err := s.Read(t.Context(), copier.Span{From: []byte(resume)}, &b); !errors.Is(err, copier.ErrSource) {
				t.Errorf("answer %q to a request behind %q: %+v, %v", answer, resume, page, err)
			}
		}
	}
}
