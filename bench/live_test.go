package bench

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	client "github.com/aws/aws-sdk-go-v2/service/dynamodb"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb/types"

	"github.com/dyn2raft/dyn2raft/copier"
	sink "github.com/dyn2raft/dyn2raft/sinks/raft"
	"github.com/dyn2raft/dyn2raft/sources/dynamodb"
	"github.com/dyn2raft/dyn2raft/sources/dynamodb/dynamotest"
)

// liveWrites is how many entries a second are written while a table is followed.
const liveWrites = 100

// BenchmarkLiveCopy copies tables that are written to all the time, and measures the
// copy's own part of the outage, from the moment when the table's lock was taken until a
// Vault may be started: all that the stream still has is read and applied, the result is
// proven and put in place. "x-limit" is that of 1 M entries, of the second that it may take.
func BenchmarkLiveCopy(b *testing.B) { liveCopy(b, b.Loop, 10_000, 1_000_000).report(b) }

func TestLiveCopy(t *testing.T) {
	want(t, liveCopy(t, once(), 300, 2000), "x-limit", "outage-ms", "small-outage-ms", "drain-ms", "applied")
}

func liveCopy(tb testing.TB, loop func() bool, small, entries int) metrics {
	outages, drains := map[int][]time.Duration{}, map[int][]time.Duration{}
	applied := int64(0)
	for loop() {
		for _, n := range []int{small, entries} {
			res := followed(tb, n)
			outages[n] = append(outages[n], res.Live.Outage)
			drains[n] = append(drains[n], res.Live.Drain)
			applied = res.Live.Applied
		}
	}
	ms := func(d []time.Duration) float64 { return 1000 * median(d).Seconds() }
	return metrics{
		"x-limit":         median(outages[entries]).Seconds(),
		"outage-ms":       ms(outages[entries]),
		"drain-ms":        ms(drains[entries]),
		"small-outage-ms": ms(outages[small]),
		"small-drain-ms":  ms(drains[small]),
		"applied":         float64(applied),
		"spread":          spread(outages[entries]),
	}
}

// followed copies a table of so many entries while it is written to, until the copy is
// ready and has everything. Then the writer stops, as a Vault does.
func followed(tb testing.TB, entries int) copier.Record {
	tb.Helper()
	s := startServer(tb, tableSpec{Shape: dynamotest.VaultShape{Entries: entries, Seed: 1}})
	defer s.stop()
	w := startLiveWriter(tb, s)
	src, err := dynamodb.New(tb.Context(), dynamodb.Options{Endpoint: s.URL, AccessKey: "a", SecretKey: "b", HAEnabled: true, EnableStream: func(context.Context) (bool, error) { return true, nil }})
	if err != nil {
		tb.Fatal(err)
	}
	dst, err := sink.New(sink.Options{Path: mkdir(tb), NodeID: "n", Address: "127.0.0.1:8201"})
	if err != nil {
		tb.Fatal(err)
	}
	res, err := copier.Copy(tb.Context(), src, dst, copier.Options{
		Live: &copier.Live{Armed: func() copier.Arm { return copier.Armed }, Beyond: time.Second},
		Events: func(e copier.Event) {
			switch e := e.(type) {
			case copier.ReadyToCutOver:
				w.down()
			case copier.GivenBack:
				tb.Errorf("the cut-over was not made: %v", e.Err)
			}
		},
	})
	w.stop()
	if err != nil || !res.Complete || res.Live == nil {
		tb.Fatalf("complete %v, %+v: %v", res.Complete, res.Live, err)
	}
	return res
}

// A liveWriter is what of a Vault matters here: it holds the leader lock, and writes.
type liveWriter struct {
	tb     testing.TB
	client *client.Client
	cancel context.CancelFunc
	done   sync.WaitGroup
}

func startLiveWriter(tb testing.TB, s server) *liveWriter {
	ctx, cancel := context.WithCancel(tb.Context())
	w := &liveWriter{tb: tb, cancel: cancel, client: client.New(client.Options{Region: "us-east-1", BaseEndpoint: aws.String(s.URL),
		Credentials: credentials.NewStaticCredentialsProvider("a", "b", "")})}
	w.lock()
	w.done.Go(func() { w.run(ctx) })
	return w
}

// run writes until ctx ends, and gives the lock back then.
func (w *liveWriter) run(ctx context.Context) {
	rnd := rand.New(rand.NewPCG(3, 3))
	tick := time.NewTicker(time.Second / liveWrites)
	defer tick.Stop()
	for n := 0; ctx.Err() == nil; n++ {
		if n%(5*liveWrites) == 0 {
			w.lock()
		}
		value := make([]byte, 300+rnd.IntN(900))
		w.put("sys/token/id", fmt.Sprintf("h%06d", rnd.IntN(100_000)), map[string]types.AttributeValue{"Value": &types.AttributeValueMemberB{Value: value}})
		select {
		case <-ctx.Done():
		case <-tick.C:
		}
	}
	_, err := w.client.DeleteItem(context.WithoutCancel(ctx), &client.DeleteItemInput{TableName: aws.String(dynamodb.DefaultTable), Key: liveKey("core", "_lock")})
	if err != nil {
		w.tb.Errorf("give the lock back: %v", err)
	}
}

// lock takes the leader lock for 15 s, as a Vault does.
func (w *liveWriter) lock() {
	w.put("core", "_lock", map[string]types.AttributeValue{
		"Value":    &types.AttributeValueMemberB{Value: []byte("bench")},
		"Identity": &types.AttributeValueMemberB{Value: []byte("22222222-2222-2222-2222-222222222222")},
		"Expires":  &types.AttributeValueMemberN{Value: strconv.FormatInt(time.Now().Add(15*time.Second).UnixNano(), 10)},
	})
}

func (w *liveWriter) put(path, key string, item map[string]types.AttributeValue) {
	for name, v := range liveKey(path, key) {
		item[name] = v
	}
	if _, err := w.client.PutItem(context.WithoutCancel(w.tb.Context()), &client.PutItemInput{TableName: aws.String(dynamodb.DefaultTable), Item: item}); err != nil {
		w.tb.Errorf("write %s/%s: %v", path, key, err)
	}
}

// down has it stop, and give the lock back.
func (w *liveWriter) down() { w.cancel() }

// stop waits until it has stopped.
func (w *liveWriter) stop() {
	w.cancel()
	w.done.Wait()
}

func liveKey(path, key string) map[string]types.AttributeValue {
	return map[string]types.AttributeValue{"Path": &types.AttributeValueMemberS{Value: path}, "Key": &types.AttributeValueMemberS{Value: key}}
}
