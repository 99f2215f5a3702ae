package dynamodb

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb/types"

	"github.com/dyn2raft/dyn2raft/copier"
	"github.com/dyn2raft/dyn2raft/sources/dynamodb/dynamotest"
)

// coded is the code of an error, and its facts.
func coded(err error) string {
	code, facts := copier.CodeOf(err)
	return fmt.Sprint(string(code), " ", facts)
}

// wantError fails the test unless err is of the kind, says that, and has
// the code, which has its facts; any where code is empty.
func wantError(t testing.TB, err, kind error, inError string, code copier.Code) {
	t.Helper()
	if !errors.Is(err, kind) {
		t.Fatalf("error is %v, expected one that wraps %q", err, kind)
	}
	if !strings.Contains(err.Error(), inError) {
		t.Errorf("error %q does not say %q", err, inError)
	}
	got, facts := copier.CodeOf(err)
	if e, ok := errors.AsType[*copier.Error](err); ok && got == GaveUp && code != "" && code != GaveUp {
		got, facts = copier.CodeOf(e.Err) // the cause
	}
	names := slices.Clone(copier.Codes()[got])
	slices.Sort(names)
	if got == "" || code != "" && got != code || !slices.Equal(slices.Sorted(maps.Keys(facts)), names) {
		t.Errorf("code %q with facts %q, expected %q with %q", got, facts, code, names)
	}
}

func TestPrepareRefusesOtherTables(t *testing.T) {
	t.Parallel()
	type k struct {
		name, use string
		kind      types.ScalarAttributeType
	}
	for name, keys := range map[string][]k{
		"swapped keys":     {{"Key", "HASH", "S"}, {"Path", "RANGE", "S"}},
		"range key N":      {{"Path", "HASH", "S"}, {"Key", "RANGE", "N"}},
		"hash key B":       {{"Path", "HASH", "B"}, {"Key", "RANGE", "S"}},
		"no range key":     {{"Path", "HASH", "S"}},
		"names in capital": {{"PATH", "HASH", "S"}, {"KEY", "RANGE", "S"}},
		"Terraform's lock": {{"LockID", "HASH", "S"}},
	} {
		t.Run(name, func(t *testing.T) {
			e := newEnv(t)
			e.table = "other"
			in := &dynamodb.CreateTableInput{TableName: &e.table, BillingMode: types.BillingModePayPerRequest}
			for _, key := range keys {
				in.AttributeDefinitions = append(in.AttributeDefinitions, types.AttributeDefinition{AttributeName: aws.String(key.name), AttributeType: key.kind})
				in.KeySchema = append(in.KeySchema, types.KeySchemaElement{AttributeName: aws.String(key.name), KeyType: types.KeyType(key.use)})
			}
			_, err := e.db.CreateTable(t.Context(), in)
			e.ok(err)
			s, _ := e.source()
			_, err = s.Open(t.Context())
			wantError(t, err, ErrNotVaultTable, "expected (Path S HASH, Key S RANGE)", NotVaultsTable)
			wantError(t, err, copier.ErrSource, keys[0].name+" "+string(keys[0].kind)+" HASH", "")
		})
	}
}

func TestPrepareStatus(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	s, _ := e.source()
	for _, status := range []types.TableStatus{types.TableStatusCreating, types.TableStatusDeleting, types.TableStatusArchived, types.TableStatusInaccessibleEncryptionCredentials} {
		e.ok(e.srv.SetTableStatus("vault", status))
		_, err := s.Open(t.Context())
		wantError(t, err, copier.ErrSource, string(status)+", expected ACTIVE", TableStatus)
	}
	for _, status := range []types.TableStatus{types.TableStatusActive, types.TableStatusUpdating} {
		e.ok(e.srv.SetTableStatus("vault", status))
		if _, err := s.Open(t.Context()); err != nil {
			t.Errorf("a table that is %s: %v", status, err)
		}
	}
}

func TestTableMissing(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	e.table = "nowhere"
	s, _ := e.source(ha)
	_, err := s.Open(t.Context())
	wantError(t, err, copier.ErrSource, "table nowhere in us-east-1 at http://", NoTable)
	var b copier.Batch
	_, err = s.Read(t.Context(), copier.Span{}, &b)
	wantError(t, err, copier.ErrSource, "Scan", NoTable)
	_, err = s.Lock(t.Context(), "run", false, func(error) {})
	wantError(t, err, copier.ErrSource, "GetItem", NoTable)
}

// TestAccessDenied denies one action at a time.
func TestAccessDenied(t *testing.T) {
	t.Parallel()
	for _, action := range []string{"DescribeTable", "Scan", "GetItem", "PutItem", "UpdateItem", "DeleteItem"} {
		t.Run(action, func(t *testing.T) {
			t.Parallel()
			e := newEnv(t)
			s, _ := e.source(ha)
			fault := &dynamotest.Fault{Kind: dynamotest.AccessDenied, Operation: action}
			e.srv.SetFaults(fault)
			err := func() error {
				if _, err := s.Open(t.Context()); err != nil {
					return err
				}
				var b copier.Batch
				if _, err := s.Read(t.Context(), copier.Span{}, &b); err != nil {
					return err
				}
				lease, err := s.Lock(t.Context(), "run", false, func(error) {})
				if err != nil {
					return err
				}
				return lease.Release(t.Context(), copier.EndComplete)
			}()
			if !errors.Is(err, copier.ErrSource) || fault.Fired() == 0 {
				t.Fatalf("error is %v, the fault fired %d times", err, fault.Fired())
			}
			for e, ok := err, true; ok; { // the code of the release stands before that of the call
				if strings.Contains(coded(e), "denied map[action:dynamodb:"+action) {
					return
				}
				var next *copier.Error
				if ok = errors.As(e, &next); ok {
					e = next.Err
				}
			}
			if !strings.Contains(err.Error(), "dynamodb:"+action) {
				t.Errorf("neither facts nor error name the action: %v; %v", err, coded(err))
			}
		})
	}
}

func TestDeniedAction(t *testing.T) {
	t.Parallel()
	for message, want := range map[string]string{
		"": "dynamodb:Scan",
		"User: arn:aws:iam::1:user/u is not authorized to perform: dynamodb:Scan on resource: arn:x because no identity-based policy allows it":                                       "dynamodb:Scan",
		"KMS key access denied error: com.amazonaws.services.kms.model.AWSKMSException: User: u is not authorized to perform: kms:Decrypt on this resource because it does not exist": "kms:Decrypt",
		"not authorized to perform: this": "dynamodb:Scan",
	} {
		if got := deniedAction("Scan", message); got != want {
			t.Errorf("message %q: %q, expected %q", message, got, want)
		}
	}
}

func TestExpiredCredentials(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	s, _ := e.source(retries(0))
	e.srv.SetFaults(&dynamotest.Fault{Kind: dynamotest.ExpiredToken})
	_, err := s.Open(t.Context())
	wantError(t, err, copier.ErrSource, "ExpiredToken", CredentialsExpired)
}

func TestNoCredentials(t *testing.T) {
	t.Setenv("HOME", t.TempDir())
	e := newEnv(t)
	s, _ := e.source(func(o *Options) { o.AccessKey, o.SecretKey = "", "" })
	start := time.Now()
	_, err := s.Open(t.Context())
	if e, ok := errors.AsType[*CredentialsError](err); !ok || e.Kind != CredentialsInstance || !errors.Is(err, copier.ErrSource) || !strings.Contains(err.Error(), "find AWS credentials") {
		t.Errorf("error is %v", err)
	}
	if d := time.Since(start); d > time.Minute { // a copy's requests have ten
		t.Errorf("it took %v", d)
	}
	if r := e.srv.Requests(); len(r) != 0 {
		t.Errorf("requests: %v", r)
	}
}

func TestHalfCredentials(t *testing.T) {
	t.Parallel()
	for _, o := range []Options{{AccessKey: "a"}, {SecretKey: "SECRET"}} {
		if _, err := New(t.Context(), o); !errors.Is(err, copier.ErrConfig) || strings.Contains(err.Error(), "SECRET") {
			t.Errorf("error is %v", err)
		}
	}
}

// TestUnreachable: a wrong endpoint is told soon, by the retries that New and
// Prepare choose.
func TestUnreachable(t *testing.T) {
	t.Parallel()
	closed, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := closed.Addr().String()
	if err := closed.Close(); err != nil {
		t.Fatal(err)
	}
	for _, endpoint := range []string{"http://" + address, "http://dyn2raft.invalid"} {
		t.Run(endpoint, func(t *testing.T) {
			t.Parallel()
			s, err := New(t.Context(), Options{Endpoint: endpoint, AccessKey: "a", SecretKey: "b"})
			if err != nil {
				t.Fatal(err)
			}
			start := time.Now()
			_, err = s.Open(t.Context())
			wantError(t, err, copier.ErrSource, "vault-dynamodb-backend in us-east-1 at "+endpoint, Unreachable)
			if d := time.Since(start); d > 5*time.Minute { // a copy's requests have ten
				t.Errorf("it took %v", d)
			}
		})
	}
}

func TestUntrustedCertificate(t *testing.T) {
	t.Parallel()
	srv := httptest.NewUnstartedServer(http.NotFoundHandler())
	srv.Config.ErrorLog = log.New(io.Discard, "", 0)
	srv.StartTLS()
	t.Cleanup(srv.Close)
	zero := 0
	s, err := New(t.Context(), Options{Endpoint: srv.URL, AccessKey: "a", SecretKey: "b", MaxRetries: &zero})
	if err != nil {
		t.Fatal(err)
	}
	_, err = s.Open(t.Context())
	wantError(t, err, copier.ErrSource, "certificate", NotTrusted)
}

// TestNoTLS: an endpoint without a scheme is taken for https.
func TestNoTLS(t *testing.T) {
	t.Parallel()
	srv := httptest.NewServer(http.NotFoundHandler())
	t.Cleanup(srv.Close)
	zero := 0
	s, err := New(t.Context(), Options{Endpoint: "https" + strings.TrimPrefix(srv.URL, "http"), AccessKey: "a", SecretKey: "b", MaxRetries: &zero})
	if err != nil {
		t.Fatal(err)
	}
	_, err = s.Open(t.Context())
	wantError(t, err, copier.ErrSource, "HTTP response to HTTPS client", NoTLS)
}

// TestNoAnswer: what takes connections and does not answer is given up within
// RetryFor, and, where it has never answered, soon.
func TestNoAnswer(t *testing.T) { inBubble(t, noAnswer) }

func noAnswer(t *testing.T) {
	e := bubbleEnv(t, dynamotest.Options{})
	e.fill(10)
	const limit = 400 * time.Millisecond
	s, _ := e.source(retryFor(limit))
	_, err := s.Open(t.Context())
	e.ok(err)
	e.srv.SetFaults(&dynamotest.Fault{Kind: dynamotest.Delay, Delay: time.Minute})
	start := time.Now()
	wantError(t, new(found).read(t.Context(), s, segments(6)[:1]), copier.ErrSource, "no complete answer within", NoAnswer)
	if d := time.Since(start); d < limit || d > limit+lastTimeout {
		t.Errorf("given up after %v", d)
	}
	_, err = s.Open(t.Context())
	wantError(t, err, copier.ErrSource, "no complete answer within", NoAnswer)

	// One dead connection is not the end.
	e.srv.SetFaults(&dynamotest.Fault{Kind: dynamotest.Delay, Delay: time.Minute, Count: 1})
	s, _ = e.source(retryFor(4 * lastTimeout))
	var got found
	e.ok(got.read(t.Context(), s, segments(6)[:1]))
	if got.retries != 1 {
		t.Errorf("%d retries", got.retries)
	}
}

// TestSilent: what takes connections and speaks no TLS.
func TestSilent(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	silent, err := net.Listen("tcp", "127.0.0.1:0") // and speaks no TLS
	e.ok(err)
	t.Cleanup(func() { silent.Close() })
	s, _ := e.sourceAt("https://"+silent.Addr().String(), retryFor(400*time.Millisecond), retries(0))
	_, err = s.Open(t.Context())
	wantError(t, err, copier.ErrSource, "no connection within", Unreachable)
}

// TestOutage: an error without a code is not told to come from something else, where
// the status says that what is asked is there and fails.
func TestOutage(t *testing.T) {
	t.Parallel()
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusServiceUnavailable) }))
	t.Cleanup(srv.Close)
	e := newEnv(t)
	s, _ := e.sourceAt(srv.URL, retries(1))
	_, err := s.Open(t.Context())
	wantError(t, err, copier.ErrSource, "after 2 tries: HTTP status 503, and no error of DynamoDB's", GaveUp)
	var b copier.Batch
	_, err = s.Read(t.Context(), copier.Span{}, &b)
	wantError(t, err, copier.ErrSource, "HTTP status 503", GaveUp)
}

// TestNotDynamoDB: an endpoint that answers, but not as DynamoDB.
func TestNotDynamoDB(t *testing.T) {
	t.Parallel()
	for name, answer := range map[string]func(http.ResponseWriter){
		"empty object": func(w http.ResponseWriter) { _, _ = io.WriteString(w, "{}") },
		"web page":     func(w http.ResponseWriter) { _, _ = io.WriteString(w, "<html>Welcome!</html>") },
		"forbidden":    func(w http.ResponseWriter) { w.WriteHeader(http.StatusForbidden) },
		"proxy": func(w http.ResponseWriter) {
			w.WriteHeader(http.StatusProxyAuthRequired)
			_, _ = io.WriteString(w, "<html>Who are you?</html>")
		},
		"another service": func(w http.ResponseWriter) {
			w.WriteHeader(http.StatusNotFound)
			_, _ = io.WriteString(w, `{"errors":[]}`)
		},
	} {
		t.Run(name, func(t *testing.T) {
			srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { answer(w) }))
			t.Cleanup(srv.Close)
			zero := 0
			rec := &recorder{}
			s, err := New(t.Context(), Options{Endpoint: srv.URL, AccessKey: "a", SecretKey: "b", MaxRetries: &zero, Events: rec.record})
			if err != nil {
				t.Fatal(err)
			}
			_, err = s.Open(t.Context())
			wantError(t, err, copier.ErrSource, "call DescribeTable on table ", NotDynamoDB)
			if w := eventsOf[copier.Warning](rec); name == "forbidden" && len(w) != 0 { // no word about checksums
				t.Errorf("warnings: %v", w)
			}
		})
	}
}

func TestPrepareCancelled(t *testing.T) { inBubble(t, prepareCancelled) }

func prepareCancelled(t *testing.T) {
	e := bubbleEnv(t, dynamotest.Options{})
	e.srv.SetFaults(&dynamotest.Fault{Kind: dynamotest.Delay, Delay: time.Minute})
	s, _ := e.source()
	ctx, cancel := context.WithCancel(t.Context())
	time.AfterFunc(20*time.Millisecond, cancel)
	if _, err := s.Open(ctx); !errors.Is(err, context.Canceled) || errors.Is(err, copier.ErrSource) {
		t.Errorf("error is %v", err)
	}
}

// TestRetries holds how often a request is tried.
func TestRetries(t *testing.T) {
	for _, c := range []struct {
		name  string
		max   *int
		env   string
		tries int
	}{
		{"0 means one try", aws.Int(0), "", 1},
		{"2", aws.Int(2), "", 3},
		{"the environment has no say", aws.Int(2), "1", 3},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Setenv("AWS_MAX_ATTEMPTS", c.env)
			e := newEnv(t)
			s, rec := e.source(func(o *Options) { o.MaxRetries = c.max })
			e.srv.SetFaults(&dynamotest.Fault{Kind: dynamotest.InternalServerError})
			var b copier.Batch
			if _, err := s.Read(t.Context(), copier.Span{}, &b); !errors.Is(err, copier.ErrSource) {
				t.Errorf("error is %v", err)
			}
			if got := e.srv.Requests()["Scan"]; got != c.tries {
				t.Errorf("%d tries, expected %d", got, c.tries)
			}
			if got := len(eventsOf[copier.Retried](rec)); got != c.tries-1 {
				t.Errorf("%d events Retried, expected %d", got, c.tries-1)
			}
		})
	}
}

// TestManyThrottles: being throttled for long does not end a copy, which the
// SDK's own retry quota would.
func TestManyThrottles(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	want := e.fill(100)
	fault := &dynamotest.Fault{Kind: dynamotest.ThroughputExceeded, Operation: "Scan", Probability: 0.8}
	e.srv.SetFaults(fault)
	s, _ := e.source(retries(0))
	segs, err := s.Split(t.Context(), 100)
	e.ok(err)
	var got found
	e.ok(got.read(t.Context(), s, segs))
	got.exactly(t, want)
	if fault.Fired() < 150 { // the quota allows 100
		t.Errorf("the fault fired only %d times", fault.Fired())
	}
}

// TestRequestsAreSigned looks at whose credentials a request carries, and
// where it goes.
func TestRequestsAreSigned(t *testing.T) {
	var mu sync.Mutex
	var got http.Header
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		got = r.Header.Clone()
		mu.Unlock()
		w.WriteHeader(http.StatusBadRequest)
	}))
	t.Cleanup(srv.Close)
	for _, c := range []struct {
		name           string
		opts           Options
		env            map[string]string
		key, region    string
		token          string
		accountID      aws.AccountIDEndpointMode
		secretInErrors string
	}{
		{name: "stanza", opts: Options{AccessKey: "STANZA", SecretKey: "s3cr3t", Region: "eu-north-1"}, key: "STANZA", region: "eu-north-1", accountID: aws.AccountIDEndpointModeDisabled},
		{name: "stanza beats environment", opts: Options{AccessKey: "STANZA", SecretKey: "s3cr3t", SessionToken: "TOKEN"},
			env: map[string]string{"AWS_ACCESS_KEY_ID": "ENVIRONMENT", "AWS_SECRET_ACCESS_KEY": "s3cr3t", "AWS_SESSION_TOKEN": "OTHER", "AWS_REGION": "eu-south-1"},
			key: "STANZA", region: "us-east-1", token: "TOKEN", accountID: aws.AccountIDEndpointModeDisabled},
		{name: "no session token of the environment's", opts: Options{AccessKey: "STANZA", SecretKey: "s3cr3t"},
			env: map[string]string{"AWS_SESSION_TOKEN": "OTHER"}, key: "STANZA", region: "us-east-1", accountID: aws.AccountIDEndpointModeDisabled},
		{name: "environment", env: map[string]string{"AWS_ACCESS_KEY_ID": "ENVIRONMENT", "AWS_SECRET_ACCESS_KEY": "s3cr3t", "AWS_SESSION_TOKEN": "OTHER", "AWS_ACCOUNT_ID_ENDPOINT_MODE": "preferred"},
			key: "ENVIRONMENT", region: "us-east-1", token: "OTHER", accountID: aws.AccountIDEndpointModePreferred},
	} {
		t.Run(c.name, func(t *testing.T) {
			for name, value := range c.env {
				t.Setenv(name, value)
			}
			zero := 0
			c.opts.Endpoint, c.opts.MaxRetries = srv.URL, &zero
			s, err := New(t.Context(), c.opts)
			if err != nil {
				t.Fatal(err)
			}
			_, err = s.Open(t.Context())
			if err == nil || strings.Contains(err.Error()+coded(err), "s3cr3t") {
				t.Errorf("error is %v", err)
			}
			mu.Lock()
			defer mu.Unlock()
			auth := got.Get("Authorization")
			if !strings.Contains(auth, "Credential="+c.key+"/") || !strings.Contains(auth, "/"+c.region+"/dynamodb/") {
				t.Errorf("Authorization is %q, expected key %s and region %s", auth, c.key, c.region)
			}
			if token := got.Get("X-Amz-Security-Token"); token != c.token {
				t.Errorf("session token is %q, expected %q", token, c.token)
			}
			if mode := s.client.Options().AccountIDEndpointMode; mode != c.accountID {
				t.Errorf("AccountIDEndpointMode is %q, expected %q", mode, c.accountID)
			}
		})
	}
}
