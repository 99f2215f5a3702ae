package dynamodb

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/aws/ratelimit"
	"github.com/aws/aws-sdk-go-v2/aws/retry"
	"github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb/types"
	"github.com/aws/smithy-go/logging"
	"golang.org/x/sync/errgroup"

	"github.com/dyn2raft/dyn2raft/copier"
	"github.com/dyn2raft/dyn2raft/copier/ownbody"
)

// newClient makes a client that tries requests again as the SDK does, for as long as their
// context lasts.
func newClient(ctx context.Context, o Options, held func(context.Context) error) (*dynamodb.Client, error) {
	load := []func(*config.LoadOptions) error{config.WithRegion(o.Region), config.WithLogger(logging.Nop{})}
	if o.AccessKey != "" {
		load = append(load, config.WithCredentialsProvider(credentials.NewStaticCredentialsProvider(o.AccessKey, o.SecretKey, o.SessionToken)))
	}
	cfg, err := config.LoadDefaultConfig(ctx, load...)
	if err != nil {
		return nil, &copier.Error{Kind: copier.ErrConfig, Op: "load AWS configuration", Err: err}
	}
	return dynamodb.NewFromConfig(cfg, func(c *dynamodb.Options) {
		if o.Endpoint != "" {
			c.BaseEndpoint = &o.Endpoint
		}
		if os.Getenv("AWS_ACCOUNT_ID_ENDPOINT_MODE") == "" {
			c.AccountIDEndpointMode = aws.AccountIDEndpointModeDisabled // networks opened for Vault may not know it
		}
		standard := retry.NewStandard(func(r *retry.StandardOptions) { r.MaxBackoff, r.RateLimiter = longestBackoff, ratelimit.None })
		c.Retryer, c.RetryMaxAttempts = retry.AddWithMaxAttempts(standard, 0), 0 // as often as need be
		c.HTTPClient = fenced{ownbody.Client{HTTPClient: c.HTTPClient}, held}
	}), nil
}

// A fenced client sends nothing that overwrites what is in the table before it knows that
// the table is still held. Each try asks, since the process may have been stopped between
// two. What is under way when it is stopped can't be called back.
type fenced struct {
	dynamodb.HTTPClient
	held func(context.Context) error
}

func (f fenced) Do(r *http.Request) (*http.Response, error) {
	if strings.HasSuffix(r.Header.Get("X-Amz-Target"), ".BatchWriteItem") {
		if err := f.held(r.Context()); err != nil {
			return nil, &notHeld{err}
		}
	}
	return f.HTTPClient.Do(r)
}

// notHeld is the error of what was not sent, and is not tried again.
type notHeld struct{ error }

func (e *notHeld) Unwrap() error { return e.error }

// RetryableError is for the SDK.
func (*notHeld) RetryableError() bool { return false }

// stillHeld asks the stage, if there is one.
func (s *Sink) stillHeld(ctx context.Context) error {
	if ask := s.fence.Load(); ask != nil {
		return (*ask)(ctx)
	}
	return nil
}

const (
	// A BatchWriteItem has so many items at the most.
	batchItems = 25
	// Waits between two tries double from the one to the other.
	firstBackoff   = 25 * time.Millisecond
	longestBackoff = 2 * time.Second
)

// fail is the error of a request.
func (s *Sink) fail(ctx context.Context, action string, err error) error {
	if e, ok := errors.AsType[*notHeld](err); ok {
		return e.error
	}
	switch cause := context.Cause(ctx); {
	case errors.Is(cause, errLate):
		err = fmt.Errorf("%w: %w", cause, err)
	case cause != nil:
		return cause
	}
	e := &copier.Error{Kind: copier.ErrDestination, Op: "call " + action + " on table " + s.opts.Table, Err: err}
	if isDenied(err) {
		e.Code, e.Facts = WriteDenied, map[string]string{"action": "dynamodb:" + action, "table": s.opts.Table}
	}
	return e
}

// within bounds a request, with all its tries.
func (s *Sink) within(ctx context.Context) (context.Context, context.CancelFunc) {
	return bounded(ctx, s.opts.RetryFor)
}

// bounded bounds requests, and says so in their errors.
func bounded(ctx context.Context, d time.Duration) (context.Context, context.CancelFunc) {
	return context.WithTimeoutCause(ctx, d, fmt.Errorf("%w, within %v", errLate, d))
}

// soonTime is for how long the first answer of a table is waited for.
const soonTime = 20 * time.Second

// reach makes sure that there are credentials, and that something answers: a mistake in
// either is told at once, and not once requests are tried no more.
func (s *Sink) reach(ctx context.Context) error {
	ctx, cancel := bounded(ctx, min(soonTime, s.opts.RetryFor))
	defer cancel()
	if c := s.client.Options().Credentials; c != nil {
		if _, err := c.Retrieve(ctx); err != nil {
			return &copier.Error{Kind: copier.ErrDestination, Op: "find AWS credentials for table " + s.opts.Table, Code: NoCredentials, Err: err}
		}
	}
	_, err := s.describe(ctx)
	if errors.Is(err, errLate) {
		return &copier.Error{Kind: copier.ErrDestination, Code: Unanswered, Facts: s.where(), Err: err}
	}
	return err
}

// errLate is why a request ends that has not succeeded for as long as it may be tried.
var errLate = errors.New("it has not succeeded")

// writeAll writes items, many at the same time, in batches. It returns once all are
// durable, or after an error, when none is under way any more.
func (s *Sink) writeAll(ctx context.Context, items []item) error {
	group, gctx := errgroup.WithContext(ctx)
	for batch := range slices.Chunk(items, batchItems) {
		group.Go(func() error {
			select {
			case s.slots <- struct{}{}:
				defer func() { <-s.slots }()
				return s.writeBatch(gctx, batch)
			case <-gctx.Done():
				return context.Cause(gctx)
			}
		})
	}
	return group.Wait()
}

// writeBatch writes up to batchItems items, and what the table leaves unprocessed again.
func (s *Sink) writeBatch(ctx context.Context, batch []item) error {
	requests, units := make([]types.WriteRequest, len(batch)), 0
	for i, it := range batch {
		requests[i] = it.request
		units += it.units
	}
	each := (units + len(batch) - 1) / len(batch)
	backoff := firstBackoff
	for {
		if err := s.spend(ctx, units); err != nil {
			return err
		}
		tctx, cancel := s.within(ctx)
		out, err := s.client.BatchWriteItem(tctx, &dynamodb.BatchWriteItemInput{RequestItems: map[string][]types.WriteRequest{s.opts.Table: requests}})
		if err != nil {
			err = s.fail(tctx, "BatchWriteItem", err)
		}
		cancel()
		if err != nil {
			return err
		}
		left := out.UnprocessedItems[s.opts.Table]
		if len(left) == 0 {
			return nil
		}
		if len(left) < len(requests) {
			backoff = firstBackoff
		}
		requests, units = left, each*len(left)
		s.opts.Events(copier.Retried{Err: fmt.Errorf("%d items were left unprocessed", len(left)), Throttled: true})
		if err := sleep(ctx, backoff/2+rand.N(backoff)); err != nil {
			return err
		}
		backoff = min(backoff*2, longestBackoff)
	}
}

// spend waits until so many write units may be asked for.
func (s *Sink) spend(ctx context.Context, units int) error {
	for s.limit != nil && units > 0 {
		n := min(units, s.limit.Burst())
		if err := s.limit.WaitN(ctx, n); err != nil {
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			return err
		}
		units -= n
	}
	return nil
}

// each calls f with the keys of the table's items, page by page, until it returns false.
func (s *Sink) each(ctx context.Context, f func(keys []attributes) (bool, error)) error {
	in := &dynamodb.ScanInput{TableName: &s.opts.Table, ConsistentRead: aws.Bool(true), ProjectionExpression: aws.String("#p, #k"),
		ExpressionAttributeNames: map[string]string{"#p": attrPath, "#k": attrKey}}
	for {
		tctx, cancel := s.within(ctx)
		out, err := s.client.Scan(tctx, in)
		if err != nil {
			err = s.fail(tctx, "Scan", err)
		}
		cancel()
		if err != nil {
			return err
		}
		if more, err := f(out.Items); err != nil || !more || len(out.LastEvaluatedKey) == 0 {
			return err
		}
		in.ExclusiveStartKey = out.LastEvaluatedKey
	}
}

// empty refuses a table that holds more than the locks of a copy.
func (s *Sink) empty(ctx context.Context) error {
	return s.each(ctx, func(keys []attributes) (bool, error) {
		if slices.ContainsFunc(keys, func(key attributes) bool { return !isLock(key) }) {
			return false, &copier.Error{Kind: copier.ErrDestination, Op: "check table " + s.opts.Table, Code: TableNotEmpty, Facts: s.where(),
				Err: errors.New("it holds items that no unfinished copy has put there")}
		}
		return true, nil
	})
}

// clear deletes all items but the locks.
func (s *Sink) clear(ctx context.Context) error {
	return s.each(ctx, func(keys []attributes) (bool, error) {
		var items []item
		for _, key := range keys {
			if !isLock(key) {
				items = append(items, item{types.WriteRequest{DeleteRequest: &types.DeleteRequest{Key: key}}, 1})
			}
		}
		return true, s.writeAll(ctx, items)
	})
}

// describe returns the table, and nil where there is none.
func (s *Sink) describe(ctx context.Context) (*types.TableDescription, error) {
	tctx, cancel := s.within(ctx)
	defer cancel()
	out, err := s.client.DescribeTable(tctx, &dynamodb.DescribeTableInput{TableName: &s.opts.Table})
	if _, ok := errors.AsType[*types.ResourceNotFoundException](err); ok {
		return nil, nil
	}
	if err != nil {
		return nil, s.fail(tctx, "DescribeTable", err)
	}
	return out.Table, nil
}

// active waits until the table can be used, and reports whether there is one. It refuses
// one that has other keys than Vault's.
func (s *Sink) active(ctx context.Context) (bool, error) {
	tctx, cancel := s.within(ctx)
	defer cancel()
	for {
		t, err := s.describe(tctx)
		if err != nil || t == nil {
			return false, err
		}
		switch t.TableStatus {
		case types.TableStatusActive, types.TableStatusUpdating:
			return true, s.checkSchema(t)
		case types.TableStatusCreating:
			if err := sleep(tctx, s.timing.poll); err != nil {
				return false, s.fail(tctx, "DescribeTable", errors.New("the table is still being created"))
			}
		default:
			return false, &copier.Error{Kind: copier.ErrDestination, Op: "check table " + s.opts.Table, Err: fmt.Errorf("its status is %s", t.TableStatus)}
		}
	}
}

func (s *Sink) checkSchema(t *types.TableDescription) error {
	want := []types.KeySchemaElement{{AttributeName: aws.String(attrPath), KeyType: types.KeyTypeHash}, {AttributeName: aws.String(attrKey), KeyType: types.KeyTypeRange}}
	same := func(a, b types.KeySchemaElement) bool {
		return *a.AttributeName == *b.AttributeName && a.KeyType == b.KeyType
	}
	notText := func(d types.AttributeDefinition) bool {
		return d.AttributeType != types.ScalarAttributeTypeS && (*d.AttributeName == attrPath || *d.AttributeName == attrKey)
	}
	if !slices.EqualFunc(t.KeySchema, want, same) || slices.ContainsFunc(t.AttributeDefinitions, notText) {
		return &copier.Error{Kind: copier.ErrDestination, Op: "check table " + s.opts.Table, Code: TableOtherSchema, Facts: s.where(),
			Err: errors.New("its keys are not those of Vault's storage: Path as hash key and Key as range key, both strings")}
	}
	return nil
}

// create makes the table and waits for it.
func (s *Sink) create(ctx context.Context) error {
	in := &dynamodb.CreateTableInput{TableName: &s.opts.Table, BillingMode: types.BillingModePayPerRequest,
		KeySchema: []types.KeySchemaElement{{AttributeName: aws.String(attrPath), KeyType: types.KeyTypeHash}, {AttributeName: aws.String(attrKey), KeyType: types.KeyTypeRange}},
		AttributeDefinitions: []types.AttributeDefinition{{AttributeName: aws.String(attrPath), AttributeType: types.ScalarAttributeTypeS},
			{AttributeName: aws.String(attrKey), AttributeType: types.ScalarAttributeTypeS}}}
	if s.opts.ReadUnits > 0 {
		in.BillingMode = types.BillingModeProvisioned
		in.ProvisionedThroughput = &types.ProvisionedThroughput{ReadCapacityUnits: &s.opts.ReadUnits, WriteCapacityUnits: &s.opts.WriteUnits}
	}
	tctx, cancel := s.within(ctx)
	defer cancel()
	_, err := s.client.CreateTable(tctx, in)
	// That it is there may be by a try whose answer was lost: whose it is the locks say.
	if _, ok := errors.AsType[*types.ResourceInUseException](err); err != nil && !ok {
		return s.fail(tctx, "CreateTable", err)
	}
	there, err := s.active(tctx)
	if err == nil && !there {
		err = s.taken(errors.New("it was deleted while it was made"))
	}
	return err
}

func (s *Sink) where() map[string]string { return map[string]string{"table": s.opts.Table} }

func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
