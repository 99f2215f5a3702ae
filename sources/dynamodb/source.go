// Package dynamodb reads the table of Vault's dynamodb storage.
//
// [Source] is a [copier.Source]: a strongly consistent parallel Scan, each
// segment a sequence of pages. It is a [copier.Locker] too, see [Source.Lock].
// The AWS SDK does signing, credentials and endpoints as its users know them.
//
// Retries are this package's own: whether to continue depends on all requests of a
// source together, see [Options.RetryFor]. So is the check of X-Amz-Crc32: the SDK
// accepts a response that does not match it. This package reads such a page again.
package dynamodb

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	awshttp "github.com/aws/aws-sdk-go-v2/aws/transport/http"
	"github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb/types"
	"github.com/aws/aws-sdk-go-v2/service/dynamodbstreams"
	"github.com/aws/smithy-go/logging"

	"github.com/dyn2raft/dyn2raft/copier"
	"github.com/dyn2raft/dyn2raft/copier/boottime"
)

// Defaults of Vault's dynamodb storage.
const (
	DefaultTable  = "vault-dynamodb-backend"
	DefaultRegion = "us-east-1"
)

// Options say which table is read and how. The zero value reads Vault's
// default table with the SDK's default credentials.
type Options struct {
	// Table is the table's name; empty means DefaultTable.
	Table string
	// Region is an AWS region; empty means DefaultRegion.
	Region string
	// Endpoint is a URL used instead of the region's own endpoint.
	Endpoint string
	// AccessKey, SecretKey and SessionToken are used instead of the SDK's
	// credential chain where AccessKey and SecretKey are set.
	AccessKey, SecretKey, SessionToken string
	// Credentials, where set, makes the provider of credentials, in place of the
	// SDK's chain. It is not used where AccessKey is set. It is called again when
	// the service refuses the provider's credentials: there may be new ones.
	Credentials func(context.Context) (aws.CredentialsProvider, error)
	// RetryFor is how long failed requests are retried: the copy ends when no
	// request of this source has succeeded for that long. Zero means
	// DefaultRetryFor. Throttling never ends it. An error that no retry can fix
	// is returned at once.
	RetryFor time.Duration
	// MaxRetries bounds how often one request is tried again, for reasons
	// other than being throttled; nil, or less than 0, is no bound.
	MaxRetries *int
	// ReadCapacity caps the read capacity units a second that are consumed,
	// by all requests together; zero is no cap.
	ReadCapacity float64
	// EventuallyConsistent halves the cost of reading, in read capacity
	// units, and may miss what was written within the last second or so.
	EventuallyConsistent bool
	// Markers has [Source.Read] append directory markers too: their directory with a slash
	// behind it, and no value. That is for who changes the table, and not for a copy of it.
	Markers bool

	// NoWriteProbes keeps [Source.Check] from sending conditional writes, which never
	// change anything since their condition never holds.
	NoWriteProbes bool

	// HAEnabled says that the Vaults on this table elect their leader in it,
	// so that a table without a leader lock has no running Vault.
	HAEnabled bool
	// HAStorage is the type of the other storage in which the Vaults elect their
	// leader; empty where there is none. With one, a table without a leader lock does
	// not show that no Vault is running, whatever HAEnabled says.
	HAStorage string
	// Stopped is called, with the reason, when nothing in the table shows whether a
	// Vault is running. It reports whether all are stopped. Nil means that nobody
	// knows.
	Stopped func(ctx context.Context, reason string) (bool, error)
	// KeepLocked leaves the migration lock in the table after a complete
	// copy, so that no Vault starts on it any more.
	KeepLocked bool

	// StreamsEndpoint is a URL used for DynamoDB Streams instead of the region's own.
	// Empty means what goes with Endpoint, where that is set: the same host, with
	// "streams." before it where it begins with "dynamodb.".
	StreamsEndpoint string
	// EnableStream is asked by [Source.Follow] whether it may enable a stream of keys on a
	// table that has none; nil means no. An error ends Follow. A stream that is enabled is
	// used as it is, and left so.
	EnableStream func(context.Context) (bool, error)
	// LiveShare is the share of the provisioned read capacity that is consumed at most from
	// [Source.Follow] on, from 0 to 1; zero means a quarter. It is 5 units at the least, or
	// all that a smaller table has. Of a table on demand it is
	// 1,000 units a second at first, and 10,000 at most. Either is halved when a request is
	// throttled, and becomes a tenth more every 10 s. Nothing is held back for it while
	// [Source.Take] has the table. ReadCapacity, where it is set, takes its place.
	LiveShare float64
	// Heartbeat is how often a small item is rewritten while a table is followed, which
	// shows how long a record of the stream is on its way; zero means 5 s.
	Heartbeat time.Duration

	// Events, where set, is told of retries, waits and warnings.
	Events func(copier.Event)
}

// ReadCapacityUnits is the name under which [copier.Counts] have what a source's
// pages cost.
const ReadCapacityUnits = "read_capacity_units"

// dialTimeout bounds one try to connect: an endpoint that a firewall swallows must be
// reported within a minute.
const dialTimeout = 10 * time.Second

// A Source reads one table. It is safe for concurrent use.
type Source struct {
	opts    Options
	client  *dynamodb.Client
	streams *dynamodbstreams.Client
	conns   *conns
	creds   *credentialsLoader
	info    copier.Info
	timing  timing
	// replicas are the other regions of a global table.
	replicas []string
	// boot is the time since the machine was started, sleep included.
	boot func() time.Duration
	// tries, pulse and capacity decide when a request is sent, and sent again.
	tries    tries
	pulse    pulse
	capacity *bucket
	paths    pathBound
	// unordered is set once items of one Path came out of order.
	unordered atomic.Bool
	answers   answers
	dots      sync.Once // see warnOfDots

	settings []Setting
	endpoint string // where requests go
	custom   bool   // that is not the region's own
}

var (
	_ copier.Source      = (*Source)(nil)
	_ copier.Feed        = (*Source)(nil)
	_ copier.Rechecker   = (*Source)(nil)
	_ copier.Getter      = (*Source)(nil)
	_ copier.Throttled   = (*Source)(nil)
	_ copier.Checker     = (*Source)(nil)
	_ copier.Snapshotter = (*Source)(nil)
)

// New returns a source for a table. It loads the AWS configuration and asks
// nothing of the network.
func New(ctx context.Context, opts Options) (*Source, error) {
	if opts.Table == "" {
		opts.Table = DefaultTable
	}
	if opts.Region == "" {
		opts.Region = DefaultRegion
	}
	if opts.Events == nil {
		opts.Events = func(copier.Event) {}
	}
	if (opts.AccessKey == "") != (opts.SecretKey == "") {
		return nil, &copier.Error{Kind: copier.ErrConfig, Op: "read AWS credentials",
			Err: errors.New("one of access_key and secret_key is set, and the other is not")}
	}
	if opts.LiveShare < 0 || opts.LiveShare > 1 || math.IsNaN(opts.LiveShare) {
		return nil, &copier.Error{Kind: copier.ErrConfig, Op: "read options of the source",
			Err: fmt.Errorf("a share of the read capacity of %v: it must be from 0 to 1", opts.LiveShare)}
	}
	if opts.RetryFor < 0 || opts.ReadCapacity < 0 || math.IsNaN(opts.ReadCapacity) || math.IsInf(opts.ReadCapacity, 0) {
		return nil, &copier.Error{Kind: copier.ErrConfig, Op: "read options of the source",
			Err: fmt.Errorf("a retry time of %v and a read capacity of %v: neither may be less than 0, or without end", opts.RetryFor, opts.ReadCapacity)}
	}
	cfg, ignored, err := loadConfig(ctx, opts)
	if err != nil {
		return nil, &copier.Error{Kind: copier.ErrConfig, Op: "load AWS configuration", Code: AWSSettings, Err: err}
	}
	s := &Source{opts: opts, conns: &conns{open: map[*conn]bool{}}, timing: vaultTiming, boot: boottime.Now, creds: &credentialsLoader{chain: cfg.Credentials}}
	if opts.AccessKey == "" {
		s.creds.load = func(ctx context.Context) (aws.CredentialsProvider, error) {
			if opts.Credentials != nil {
				return opts.Credentials(ctx)
			}
			cfg, _, err := loadConfig(ctx, opts)
			return cfg.Credentials, err
		}
		if opts.Credentials != nil {
			s.creds.chain = nil // made when it is needed
		}
	}
	s.creds.from, s.creds.kind = Setting{Name: SettingCredentials}, CredentialsGiven
	if opts.AccessKey == "" {
		s.creds.from, s.creds.kind = inputsOf(cfg).credentials()
	}
	cfg.Credentials = s.creds
	s.answers.large = make(chan struct{}, 1)
	s.capacity = newBucket(opts.ReadCapacity, !opts.EventuallyConsistent)
	s.tries = defaultTries
	if opts.RetryFor > 0 {
		s.tries.lasting = opts.RetryFor
	}
	if opts.MaxRetries != nil {
		s.tries.max = *opts.MaxRetries
	}
	s.client = dynamodb.NewFromConfig(cfg, func(o *dynamodb.Options) {
		if opts.Endpoint != "" {
			o.BaseEndpoint = &opts.Endpoint
		}
		if o.BaseEndpoint != nil { // the SDK refuses the following with it; it goes where it says
			o.EndpointOptions.UseFIPSEndpoint = aws.FIPSEndpointStateUnset
			o.EndpointOptions.UseDualStackEndpoint = aws.DualStackEndpointStateUnset
		}
		if os.Getenv(accountIDMode) == "" {
			// Networks opened for Vault, which uses the SDK's first version,
			// may know the regional endpoint only.
			o.AccountIDEndpointMode = aws.AccountIDEndpointModeDisabled
		}
		o.HTTPClient = s.conns.watch(o.HTTPClient)
		o.Retryer, o.RetryMaxAttempts = aws.NopRetryer{}, 0 // see request
		o.DisableValidateResponseChecksum = true            // done by wire, and enforced
	})
	s.streams = s.newStreams(cfg)
	s.findSettings(ctx, cfg, ignored)
	if err := s.checkEndpoint(inputsOf(cfg)); err != nil {
		return nil, &copier.Error{Kind: copier.ErrConfig, Op: "load AWS configuration", Code: AWSSettings, Err: err}
	}
	return s, nil
}

// loadConfig loads the AWS configuration, with its files and its environment.
// Where the keys come from elsewhere, files that can't be used, or do not have the
// profile, are left out, and ignored says why: neither does Vault look for them.
func loadConfig(ctx context.Context, opts Options) (cfg aws.Config, ignored, err error) {
	load := []func(*config.LoadOptions) error{
		config.WithRegion(opts.Region),
		config.WithLogger(logging.Nop{}), // what matters becomes an event or an error
		config.WithHTTPClient(awshttp.NewBuildableClient().
			WithDialerOptions(func(d *net.Dialer) { d.Timeout = dialTimeout }).
			WithTransportOptions(func(t *http.Transport) {
				t.MaxIdleConnsPerHost = 256 // one for each worker
				t.MaxIdleConns = 256
				t.MaxResponseHeaderBytes = 256 << 10
			})),
	}
	if opts.AccessKey != "" {
		load = append(load, config.WithCredentialsProvider(
			credentials.NewStaticCredentialsProvider(opts.AccessKey, opts.SecretKey, opts.SessionToken)))
	}
	cfg, err = config.LoadDefaultConfig(ctx, load...)
	if err == nil && profileVariable() == defaultProfile && inputsOf(cfg).profile.Profile == "" {
		// The SDK says so of AWS_PROFILE only, and reads no profile at all then.
		err = config.SharedConfigProfileNotExistError{Profile: os.Getenv(defaultProfile)}
	}
	if err == nil {
		return cfg, nil, nil
	}
	env, enverr := config.NewEnvConfig()
	if enverr != nil || opts.AccessKey == "" && !env.Credentials.HasKeys() {
		return cfg, nil, err
	}
	// The SDK insists on a profile that AWS_PROFILE names, whatever else it is told.
	defer func(name string, set bool) {
		if set {
			_ = os.Setenv("AWS_PROFILE", name) // it was there
		}
	}(os.LookupEnv("AWS_PROFILE"))
	_ = os.Unsetenv("AWS_PROFILE") // fails only where there is no environment
	load = append(load, config.WithSharedConfigFiles([]string{}), config.WithSharedCredentialsFiles([]string{}))
	if cfg, again := config.LoadDefaultConfig(ctx, load...); again == nil {
		return cfg, err, nil
	}
	return cfg, nil, err
}

// Open checks the credentials, and that the table is ACTIVE, or UPDATING
// (its capacity, say), and has the schema of Vault's storage: Path as its hash
// key and Key as its range key, both strings.
func (s *Source) Open(ctx context.Context) (copier.Info, error) {
	w := newWatch(s.opts.Events, copier.WaitCredentials, "")
	_, err := s.creds.Retrieve(ctx)
	w.end()
	if err != nil {
		if ctx.Err() != nil {
			return copier.Info{}, context.Cause(ctx)
		}
		return copier.Info{}, &copier.Error{Kind: copier.ErrSource, Op: "find AWS credentials", Code: AWSSettings, Err: err}
	}
	out, err := s.describe(ctx, briefly)
	if err != nil {
		return copier.Info{}, err
	}
	t := out.Table
	if t.TableStatus != types.TableStatusActive && t.TableStatus != types.TableStatusUpdating {
		return copier.Info{}, &copier.Error{Kind: copier.ErrSource, Op: "read table " + s.opts.Table,
			Code: TableStatus, Facts: map[string]string{"status": string(t.TableStatus)},
			Err: fmt.Errorf("its status is %s, expected ACTIVE", shown(string(t.TableStatus)))}
	}
	if err := checkSchema(t); err != nil {
		return copier.Info{}, &copier.Error{Kind: copier.ErrSource, Op: "read table " + s.opts.Table, Code: NotVaultsTable, Err: err}
	}
	s.replicas = replicas(t)
	facts, err := factsOf(t)
	if err != nil {
		return copier.Info{}, s.fail(ctx, "DescribeTable", err)
	}
	s.info = copier.Info{
		Name:  s.opts.Table,
		ID:    aws.ToString(t.TableArn),
		Items: aws.ToInt64(t.ItemCount),
		Bytes: aws.ToInt64(t.TableSizeBytes),

		Endpoint:    s.endpoint,
		Incarnation: incarnation(t),
		Facts:       facts,
	}
	return s.info, nil
}

// describe asks for the table's description, and makes sure that there is one.
func (s *Source) describe(ctx context.Context, q request) (*dynamodb.DescribeTableOutput, error) {
	out, err := ask(ctx, s, &q, s.client.DescribeTable, &dynamodb.DescribeTableInput{TableName: &s.opts.Table})
	if err == nil && out.Table == nil {
		err = s.fail(ctx, q.action, errNoTable)
	}
	return out, err
}

// Close implements [copier.Source]: it closes the connections to the service.
func (s *Source) Close() error {
	s.conns.close()
	return nil
}

// incarnation tells a table from an earlier one of its name, as one that was
// restored from a backup.
func incarnation(t *types.TableDescription) string {
	id := aws.ToString(t.TableId)
	if t.CreationDateTime != nil {
		id = strings.TrimSpace(id + " created " + t.CreationDateTime.UTC().Format(time.RFC3339Nano))
	}
	return id
}

// Recheck implements [copier.Rechecker]: the table may be one of the same name
// that was made since.
func (s *Source) Recheck(ctx context.Context) error {
	if s.info.Incarnation == "" {
		return nil // the service does not tell one from the other
	}
	out, err := s.describe(ctx, request{})
	if err != nil {
		return err
	}
	if now := incarnation(out.Table); now != s.info.Incarnation {
		return &copier.Error{Kind: copier.ErrSource, Op: "look at table " + s.opts.Table + " again",
			Code: TableRemade, Err: fmt.Errorf("%w: it was deleted and made anew: its id is %s now, and was %s at first", copier.ErrMoved, now, s.info.Incarnation)}
	}
	return nil
}

// ErrNotVaultTable is returned when a table has another schema than Vault's.
var ErrNotVaultTable = errors.New("not a table of Vault's")

func checkSchema(t *types.TableDescription) error {
	kinds := map[string]types.ScalarAttributeType{}
	for _, a := range t.AttributeDefinitions {
		kinds[aws.ToString(a.AttributeName)] = a.AttributeType
	}
	found := ""
	for _, k := range t.KeySchema {
		name := aws.ToString(k.AttributeName)
		found += fmt.Sprintf("%s %s %s, ", shown(name), shown(string(kinds[name])), shown(string(k.KeyType)))
	}
	const want = "Path S HASH, Key S RANGE, "
	if found != want {
		return fmt.Errorf("%w: its key schema is (%s), expected (%s)", ErrNotVaultTable, trimList(found), trimList(want))
	}
	return nil
}

func trimList(s string) string {
	if len(s) < 2 {
		return s
	}
	return s[:len(s)-2]
}

const (
	// segmentBytes is the size of a segment where the caller names no number:
	// small enough that the last ones to finish do not leave many workers
	// idle, large enough that pages are full.
	segmentBytes = 8 << 20
	minSegments  = 64
	maxSegments  = 4096
)

// Split divides the table into n segments of its hash space, or, where n is
// 0, into one for each 8 MiB of the table's reported size, at least 64 and at
// most 4,096. DynamoDB takes as many as [copier.MaxSpans].
func (s *Source) Split(ctx context.Context, n int) ([]copier.Span, error) {
	if n == 0 {
		n = int(min(max(s.info.Bytes/segmentBytes, minSegments), maxSegments))
	}
	if n > copier.MaxSpans {
		return nil, &copier.Error{Kind: copier.ErrConfig, Err: fmt.Errorf("%d segments: DynamoDB takes at most %d", n, copier.MaxSpans)}
	}
	// Query is needed only once a Path fills several pages, maybe after an
	// hour: better to be told now that it is not allowed.
	if _, err := s.lastKey(ctx, corePath, new(decoded)); err != nil && !isUndecoded(err) {
		return nil, err
	}
	out := make([]copier.Span, n)
	for i := range out {
		out[i] = copier.Span{Index: i, From: token{Segment: i, Of: n}.encode()}
	}
	return out, nil
}

// Read implements [copier.Source] with one Scan request, or, in a Path that
// fills several pages, one Query request: see hotpath.go. A span without a From is
// the whole table.
func (s *Source) Read(ctx context.Context, span copier.Span, b *copier.Batch) (page copier.Page, err error) {
	at, err := parseToken(span.From)
	if err != nil {
		return copier.Page{}, err
	}
	until, err := parseToken(span.Until)
	if err != nil {
		return copier.Page{}, err
	}
	from := at.Behind
	before := b.Len()
	defer func() {
		if err != nil {
			b.Truncate(before)
			page = copier.Page{}
		}
	}()
	target := &scanTarget{b: b, from: before, until: until.Behind, markers: s.opts.Markers}
	target.limit, target.cost = s.capacity.plan()
	if from != nil && from.To != "" {
		err = s.query(ctx, from, target)
	} else {
		err = s.scan(ctx, at, target)
	}
	if err != nil {
		return page, err
	}
	s.capacity.learn(target.cost, target.units, target.items(), target.page.WireBytes)
	if target.dotted != "" {
		s.warnOfDots(target.dotted)
	}
	for i, err := range target.page.Refused {
		target.page.Refused[i] = &copier.Error{Kind: copier.ErrSource, Op: "read table " + s.opts.Table, Code: NotVaultsItem, Err: err}
	}
	var rest []position
	if target.until != nil {
		rest, err = s.restUntil(from, target)
	} else {
		rest, err = s.rest(ctx, from, &target.decoded, target.limit == 0 || target.units >= s.capacity.full/2)
	}
	page = target.page
	page.Counts = copier.Counts{ReadCapacityUnits: target.units}
	if err != nil {
		return page, err
	}
	for _, pos := range rest {
		at.Behind = &pos
		page.Next = append(page.Next, copier.Span{Index: span.Index, From: at.encode(), Until: span.Until})
	}
	return page, nil
}

// warnOfDots warns of a key that no copy can save. Vault's storage keeps "kv/./x" at
// the item of "kv/x". Vault reads it by its own name only, since it is encrypted with
// the name. Storage that keeps names as they are has neither (Vault 1.21.1, seen).
// Only Vault knows which entry it is.
func (s *Source) warnOfDots(path string) {
	s.dots.Do(func() {
		s.opts.Events(copier.Warning{Message: fmt.Sprintf("Path %q has the directory marker %q: Vault has written a key with a segment \".\" there, such as the KV v1 secret kv/./x, "+
			"and on integrated storage no Vault can read it, whoever copies it: read such secrets on the old storage, and write them under another name, before the copy", path, dotMarker)})
	})
}

// A token is what a [copier.Span] has to begin a page: a segment, of so many, and
// what was read of it.
type token struct {
	Segment int `json:"segment"`
	Of      int `json:"of"`
	// Behind is where the last page of the segment ended; nil at its start.
	Behind *position `json:"behind,omitempty"`
}

func (t token) encode() []byte {
	data, err := json.Marshal(t)
	if err != nil {
		panic(err) // it has numbers and strings
	}
	return data
}

// parseToken reads a token. None is the start of a table that is not divided.
func parseToken(data []byte) (t token, err error) {
	if len(data) == 0 {
		return token{Of: 1}, nil
	}
	err = json.Unmarshal(data, &t)
	if err == nil && (t.Segment < 0 || t.Segment >= t.Of || t.Of > copier.MaxSpans || t.Behind != nil && t.Behind.Path == "") {
		err = errors.New("it is none of a table's")
	}
	if err != nil {
		return t, &copier.Error{Kind: copier.ErrSource, Op: "read resume token", Err: err}
	}
	return t, nil
}

// scan reads the next page of a segment.
func (s *Source) scan(ctx context.Context, at token, t *scanTarget) error {
	in := &dynamodb.ScanInput{
		TableName:      &s.opts.Table,
		Segment:        aws.Int32(int32(at.Segment)),
		TotalSegments:  aws.Int32(int32(at.Of)),
		ConsistentRead: aws.Bool(!s.opts.EventuallyConsistent),
		Limit:          t.limited(),
	}
	if from := at.Behind; from != nil {
		in.ExclusiveStartKey = itemKey(from.Path, from.Key)
	}
	q := t.request()
	if at.Behind != nil {
		q.paths = map[string]float64{at.Behind.Path: t.cost} // it may be of others, too
	}
	_, err := ask(ctx, s, q, s.client.Scan, in)
	return err
}

func itemKey(path, key string) map[string]types.AttributeValue {
	return map[string]types.AttributeValue{
		attrPath: &types.AttributeValueMemberS{Value: path},
		attrKey:  &types.AttributeValueMemberS{Value: key},
	}
}
