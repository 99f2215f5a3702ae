// Package dynamotest serves DynamoDB from memory for tests and demonstrations,
// in the manner of net/http/httptest: as much of the service as Vault's storage
// backend and dyn2raft use, at the speed of the loopback, and misbehaving where
// it is told to.
//
// What it does not support it refuses with a ValidationException that says so.
// The package's conformance test runs the same cases against it and against
// AWS's DynamoDB Local. Facts about the service are from the DynamoDB API
// Reference (API version 2012-08-10) and the DynamoDB Developer Guide.
package dynamotest

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"log"
	"maps"
	mathrand "math/rand/v2"
	"net"
	"net/http"
	"path"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb/types"
	"github.com/aws/aws-sdk-go-v2/service/dynamodbstreams"
	"github.com/hashicorp/vault/sdk/physical"

	"github.com/dyn2raft/dyn2raft/copier/ownbody"
)

// VaultTable is the name of a Vault table by default.
const VaultTable = "vault-dynamodb-backend"

// The delays of the real service, for Options: 5 ms for a request that reads,
// and 30 ms for each MB of items.
const (
	ReferenceLatency    = 5 * time.Millisecond
	ReferenceThroughput = 1000.0 / 30 * (1 << 20)
)

// region is in the ARNs and in what Client sends. Requests may name any.
const region = "us-east-1"

// maxRequest is the service's limit for a request, in bytes.
const maxRequest = 16 << 20

// Options are the settings of a server. The zero value is a server without
// delays on a free port of 127.0.0.1.
type Options struct {
	Addr       string        // host:port to listen on; "" is 127.0.0.1:0
	Listener   net.Listener  // where set, is accepted from in place of Addr; Close closes it
	Latency    time.Duration // added to each GetItem, BatchGetItem, Query, Scan and GetRecords
	Throughput float64       // bytes of items per second at which one of these is served; 0 is no limit
	Seed       uint64        // for faults that fire by chance

	Provisioned bool          // hold reads, and writes in batches, to a table's provisioned capacity, and DescribeStream to the service's quota
	BackupTime  time.Duration // how long a backup takes
	Clock       time.Duration // by how much the server's clock is ahead; it is seen in the header Date
}

// A Server is an in-process DynamoDB. Its methods may be called at any time
// and from any goroutine.
type Server struct {
	URL string // http://host:port, without a slash at the end

	options Options
	http    *http.Server
	serving sync.WaitGroup
	buffers sync.Pool // *[]byte, for responses

	mu       sync.Mutex
	tables   map[string]*table
	streams  sync.Map // ARN to *Stream
	requests map[string]int
	faults   []*Fault
	random   *mathrand.Rand
	closed   bool
}

// NewServer starts a server. It panics if it can't listen, which on a free port
// is no case to handle; Listen returns the error.
func NewServer(options Options) *Server {
	s, err := Listen(options)
	if err != nil {
		panic(err)
	}
	return s
}

// Listen starts a server on options.Addr.
func Listen(options Options) (*Server, error) {
	listener := options.Listener
	if listener == nil {
		addr := cmp.Or(options.Addr, "127.0.0.1:0")
		var err error
		if listener, err = net.Listen("tcp", addr); err != nil {
			return nil, fmt.Errorf("serve dynamodb on %s: %w", addr, err)
		}
	}
	s := &Server{
		URL:      "http://" + listener.Addr().String(),
		options:  options,
		buffers:  sync.Pool{New: func() any { return new([]byte) }},
		tables:   map[string]*table{},
		requests: map[string]int{},
		random:   mathrand.New(mathrand.NewPCG(options.Seed, 0)),
	}
	s.http = &http.Server{Handler: s, ErrorLog: log.New(io.Discard, "", 0)}
	s.serving.Go(func() { _ = s.http.Serve(listener) }) // ends with ErrServerClosed
	return s, nil
}

// Close stops the server, cuts its connections and waits for the requests that
// it is serving.
func (s *Server) Close() {
	s.mu.Lock()
	s.closed = true
	s.mu.Unlock()
	_ = s.http.Close() // reports only that a connection was closed already
	s.serving.Wait()
}

// Client returns an SDK client for the server. It follows the SDK's default
// number of attempts; change that and more with options.
func (s *Server) Client(options ...func(*dynamodb.Options)) *dynamodb.Client {
	return dynamodb.New(dynamodb.Options{
		BaseEndpoint: aws.String(s.URL),
		Region:       region,
		Credentials:  credentials.NewStaticCredentialsProvider("dynamotest", "dynamotest", ""),
	}, append(slices.Clip(options), func(o *dynamodb.Options) { o.HTTPClient = ownbody.Client{HTTPClient: o.HTTPClient} })...)
}

// StreamsClient returns an SDK client for the streams of the server's tables.
func (s *Server) StreamsClient(options ...func(*dynamodbstreams.Options)) *dynamodbstreams.Client {
	return dynamodbstreams.New(dynamodbstreams.Options{
		BaseEndpoint: aws.String(s.URL),
		Region:       region,
		Credentials:  credentials.NewStaticCredentialsProvider("dynamotest", "dynamotest", ""),
	}, append(slices.Clip(options), func(o *dynamodbstreams.Options) { o.HTTPClient = ownbody.Client{HTTPClient: o.HTTPClient} })...)
}

// SetFaults replaces the faults. Where several fire for one request the first
// one counts, apart from delays.
func (s *Server) SetFaults(faults ...*Fault) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.faults = faults
}

// Requests returns how many requests of each operation have come in, those that
// were refused included.
func (s *Server) Requests() map[string]int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return maps.Clone(s.requests)
}

func newTable(name string, billing types.BillingMode, read, write int64, keys ...keyAttribute) *table {
	var id [16]byte
	_, _ = rand.Read(id[:]) // never fails
	return &table{
		name: name, keys: keys, billing: billing, read: read, write: write,
		id:      fmt.Sprintf("%x-%x-%x-%x-%x", id[:4], id[4:6], id[6:8], id[8:10], id[10:]),
		created: time.Now(),
		status:  types.TableStatusActive,
		byValue: map[string]*partition{},
	}
}

func (s *Server) addTable(t *table) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.tables[t.name] != nil {
		return &apiError{400, dynamoError + "ResourceInUseException", "Table already exists: " + t.name, nil}
	}
	s.tables[t.name] = t
	return nil
}

// CreateVaultTable creates an empty table with the keys of Vault's storage
// backend, Path and Key. It is active at once.
func (s *Server) CreateVaultTable(name string) error {
	if err := checkTableName(name); err != nil {
		return err
	}
	return s.addTable(newTable(name, types.BillingModePayPerRequest, 0, 0, keyAttribute{"Path", "S"}, keyAttribute{"Key", "S"}))
}

// SetTableStatus sets what DescribeTable says of a table. Its items can be read
// and written only where the status is ACTIVE or UPDATING.
func (s *Server) SetTableStatus(name string, status types.TableStatus) error {
	t, err := s.anyTable(name)
	if err != nil {
		return err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.status = status
	return nil
}

// PutItem writes an item, whatever the table's status is.
func (s *Server) PutItem(name string, item map[string]types.AttributeValue) error {
	return s.PutItems(name, item)
}

// PutItems writes many items quickly. Of items with the same key the last one
// stays. After an error those before it have been written.
func (s *Server) PutItems(name string, items ...map[string]types.AttributeValue) error {
	t, err := s.anyTable(name)
	if err != nil {
		return err
	}
	return t.load(func(l *loader) error {
		for _, given := range items {
			item, err := normalize(given)
			if err != nil {
				return err
			}
			k, err := t.key(item, false)
			if err != nil {
				return err
			}
			r, err := t.record(item, k)
			if err != nil {
				return err
			}
			l.add(k.value, r)
		}
		return nil
	})
}

// PutVaultEntry writes what Vault's backend writes for an entry: the item, and
// the directory marker of every parent. An empty value becomes a NULL. The
// table must be one of CreateVaultTable.
func (s *Server) PutVaultEntry(name, vaultKey string, value []byte) error {
	return s.loadVault(name, func(l *vaultLoader) error { return l.put(vaultKey, value, nil, true) })
}

// A vaultLoader adds entries to a Vault table.
type vaultLoader struct {
	*loader
	marked map[string]bool // directories whose markers are there
}

func (s *Server) loadVault(name string, fill func(*vaultLoader) error) error {
	t, err := s.anyTable(name)
	if err != nil {
		return err
	}
	if len(t.keys) != 2 || t.keys[0] != (keyAttribute{"Path", "S"}) || t.keys[1] != (keyAttribute{"Key", "S"}) {
		return fmt.Errorf("put vault entry: table %s does not have the keys of a Vault table", name)
	}
	return t.load(func(l *loader) error { return fill(&vaultLoader{l, map[string]bool{}}) })
}

func (l *vaultLoader) put(vaultKey string, value []byte, random *randomValue, markers bool) error {
	dir, base := split(vaultKey)
	if err := l.item(dir, base, value, random); err != nil || !markers || l.marked[dir] {
		return err
	}
	l.marked[dir] = true
	for _, prefix := range physical.Prefixes(vaultKey) {
		dir, base := split(prefix)
		if err := l.item(dir, base+"/", nil, nil); err != nil {
			return err
		}
	}
	return nil
}

// split maps a Vault key to Path and Key as Vault's backend does.
func split(vaultKey string) (dir, base string) {
	if !strings.Contains(vaultKey, "/") {
		return " ", vaultKey
	}
	return path.Dir(vaultKey), path.Base(vaultKey)
}

// item adds one item. It does what key and record do, without the detour over
// attribute values: the demo loads a million entries. Where random is set the
// value is not kept, but made again from that each time.
func (l *vaultLoader) item(dir, base string, value []byte, random *randomValue) error {
	size := len("Path") + len(dir) + len("Key") + len(base) + len("Value") + max(1, len(value))
	if size > maxItemBytes || len(dir) > maxHashKey || len(base) > maxRangeKey || dir == "" || base == "" || !utf8.ValidString(dir+base) {
		return fmt.Errorf("put vault item: Path %q, Key %q with %d bytes is beyond what DynamoDB stores", dir, base, size)
	}
	room := 64 + len(dir) + len(base) + base64.StdEncoding.EncodedLen(len(value))
	if random != nil {
		room = len(`{"Path":{"S":""},"Key":{"S":""}`) + len(dir) + len(base)
	}
	b := make([]byte, 0, room)
	b = append(b, `{"Path":{"S":`...)
	b = appendString(b, dir)
	b = append(b, `},"Key":{"S":`...)
	b = appendString(b, base)
	b = append(b, '}')
	keyLen := len(b)
	switch {
	case random != nil:
	case len(value) == 0:
		b = append(b, `,"Value":{"NULL":true}}`...)
	default:
		b = append(b, `,"Value":{"B":`...)
		b = appendBinary(b, value)
		b = append(b, `}}`...)
	}
	l.add(dir, &record{sort: strings.Clone(base), json: b, keyLen: keyLen, size: size, random: random})
	return nil
}

// WriteUnits is how many write units requests have consumed of a table.
func (s *Server) WriteUnits(name string) float64 {
	t, err := s.anyTable(name)
	if err != nil {
		return 0
	}
	t.mu.RLock()
	defer t.mu.RUnlock()
	return t.written
}

// GetItem returns an item of a Vault table, or nil if there is none.
func (s *Server) GetItem(name, path, sortKey string) map[string]types.AttributeValue {
	t, err := s.anyTable(name)
	if err != nil {
		return nil
	}
	t.mu.RLock()
	defer t.mu.RUnlock()
	if r := t.get(key{path, sortKey}); r != nil {
		return r.item()
	}
	return nil
}

// DeleteItem removes an item of a Vault table, if it is there.
func (s *Server) DeleteItem(name, path, sortKey string) error {
	t, err := s.anyTable(name)
	if err != nil {
		return err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.set(key{path, sortKey}, nil)
	return nil
}

// Items returns all items of a table in the order of a Scan. A table that does
// not exist has none.
func (s *Server) Items(name string) []map[string]types.AttributeValue {
	t, err := s.anyTable(name)
	if err != nil {
		return nil
	}
	t.mu.RLock()
	defer t.mu.RUnlock()
	var items []map[string]types.AttributeValue
	for _, p := range t.parts {
		for _, r := range p.records {
			items = append(items, r.item())
		}
	}
	return items
}

// ServeHTTP answers one request in the protocol that AWS calls JSON 1.0: an
// operation in X-Amz-Target, its parameters and its result in the bodies.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if !s.enter() {
		return
	}
	defer s.serving.Done()
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxRequest))
	if err != nil {
		return // the client went away, or sends without end
	}
	target := r.Header.Get("X-Amz-Target")
	operation := strings.TrimPrefix(strings.TrimPrefix(target, itemsTarget), streamsTarget)
	fault, delay := s.count(operation, accessKey(r.Header.Get("Authorization")), body)
	if delay > 0 {
		wait(r.Context(), delay)
	}
	var spoil FaultKind
	if fault != nil {
		if fault.Kind == ResetConnection {
			reset(w, nil)
			return
		}
		if refusal := fault.refusal(operation, resource(body)); refusal != nil {
			s.send(w, refusal.status, refusal.body(), "")
			return
		}
		spoil = fault.Kind
	}

	buffer := s.buffers.Get().(*[]byte)
	c := &call{server: s, body: body, out: (*buffer)[:0], fault: spoil}
	status := http.StatusOK
	out, err := s.answer(r, target, c)
	if err != nil {
		failure := &apiError{500, dynamoError + "InternalServerError", err.Error(), nil}
		errors.As(err, &failure)
		status, out = failure.status, failure.body()
	}
	if c.reads {
		delay := s.options.Latency
		if s.options.Throughput > 0 {
			delay += time.Duration(float64(c.read) / s.options.Throughput * float64(time.Second))
		}
		wait(r.Context(), delay)
	}
	s.send(w, status, out, spoil)
	*buffer = out
	s.buffers.Put(buffer)
}

// enter registers a request with Close, unless that waits already.
func (s *Server) enter() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.closed {
		s.serving.Add(1)
	}
	return !s.closed
}

// count registers a request and finds the faults that fire for it: all delays,
// and the first other one.
func (s *Server) count(operation, accessKey string, body []byte) (*Fault, time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.requests[operation]++
	request := &Request{operation, s.requests[operation], accessKey, body}
	var delay time.Duration
	for _, f := range s.faults {
		if f.Kind == Delay && f.fires(s, request) {
			delay += f.Delay
		}
	}
	for _, f := range s.faults {
		if f.Kind != Delay && f.fires(s, request) {
			return f, delay
		}
	}
	return nil, delay
}

// accessKey is the access key id in a signature of version 4, empty if there
// is none.
func accessKey(authorization string) string {
	_, rest, _ := strings.Cut(authorization, "Credential=")
	key, _, _ := strings.Cut(rest, "/")
	return key
}

func (s *Server) answer(r *http.Request, target string, c *call) ([]byte, error) {
	run, known := operations[strings.TrimPrefix(target, itemsTarget)]
	if operation, ok := strings.CutPrefix(target, streamsTarget); ok {
		run, known = streamOperations[operation]
	}
	switch {
	case r.Method != http.MethodPost:
		return nil, &apiError{http.StatusMethodNotAllowed, coralError + "UnknownOperationException", "dynamotest answers POST only", nil}
	case r.Header.Get("Authorization") == "":
		return nil, &apiError{400, coralError + "MissingAuthenticationTokenException", "Request must contain either a valid (registered) AWS access key ID or X.509 certificate.", nil}
	case !known:
		return nil, &apiError{400, coralError + "UnknownOperationException", "dynamotest does not support the operation " + target, nil}
	case !utf8.Valid(c.body):
		return nil, &apiError{400, coralError + "SerializationException", "the request is not valid UTF-8", nil}
	}
	return run(c)
}

// resource is the ARN that a refusal names.
func resource(body []byte) string {
	var in struct{ TableName, StreamArn, ShardIterator string }
	if json.Unmarshal(body, &in) != nil || in.TableName == "" {
		in.TableName = "*"
	}
	if arn, _, ok := strings.Cut(in.ShardIterator, "|"); ok {
		in.StreamArn = arn
	}
	if in.StreamArn != "" {
		return in.StreamArn
	}
	return (&table{name: in.TableName}).arn()
}

// send writes a response, spoiled where a fault says so.
func (s *Server) send(w http.ResponseWriter, status int, body []byte, spoil FaultKind) {
	crc := crc32.ChecksumIEEE(body)
	if spoil == WrongCRC {
		crc = ^crc
	}
	h := w.Header()
	h.Set("Content-Type", "application/x-amz-json-1.0")
	h.Set("Content-Length", strconv.Itoa(len(body)))
	h.Set("X-Amz-Crc32", strconv.FormatUint(uint64(crc), 10))
	h.Set("X-Amzn-Requestid", rand.Text()+rand.Text())
	if s.options.Clock != 0 {
		h.Set("Date", time.Now().Add(s.options.Clock).UTC().Format(http.TimeFormat))
	}
	switch spoil {
	case CorruptByte:
		corrupt(body)
	case Truncate, ResetMidBody:
		var head strings.Builder
		fmt.Fprintf(&head, "HTTP/1.1 %d %s\r\n", status, http.StatusText(status))
		_ = h.Write(&head) // to a strings.Builder: never fails
		head.WriteString("\r\n")
		half := append([]byte(head.String()), body[:len(body)/2]...)
		if spoil == ResetMidBody {
			reset(w, half)
			return
		}
		if conn := hijack(w); conn != nil {
			_, _ = conn.Write(half) // the client may be gone
			_ = conn.Close()
		}
		return
	}
	w.WriteHeader(status)
	_, _ = w.Write(body) // the client may be gone
}

// corrupt changes one byte near the middle, by preference inside of a string,
// so that the body stays JSON and only its CRC tells.
func corrupt(body []byte) {
	for i := len(body) / 2; i < len(body); i++ {
		c := body[i]
		if c >= 'a' && c < 'z' || c >= 'A' && c < 'Z' || c >= '0' && c < '9' {
			body[i]++
			return
		}
	}
	if len(body) > 0 {
		body[len(body)/2] ^= 1
	}
}

// hijack takes the connection from the HTTP server.
func hijack(w http.ResponseWriter) net.Conn {
	conn, _, err := w.(http.Hijacker).Hijack()
	if err != nil {
		return nil // it is gone already
	}
	return conn
}

// reset writes a part of a response, if there is one, and ends the connection
// with a TCP RST.
func reset(w http.ResponseWriter, part []byte) {
	conn := hijack(w)
	if conn == nil {
		return
	}
	if len(part) > 0 {
		_, _ = conn.Write(part)
		// An RST throws away what the client has not read yet: let it read.
		time.Sleep(20 * time.Millisecond)
	}
	if tcp, ok := conn.(*net.TCPConn); ok {
		_ = tcp.SetLinger(0)
	}
	_ = conn.Close()
}

func wait(ctx context.Context, d time.Duration) {
	if d <= 0 {
		return
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}
