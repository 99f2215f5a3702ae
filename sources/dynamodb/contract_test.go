package dynamodb

import (
	"context"
	"fmt"
	"testing"

	"github.com/dyn2raft/dyn2raft/copier"
	"github.com/dyn2raft/dyn2raft/copier/copiertest"
	"github.com/dyn2raft/dyn2raft/sources/dynamodb/dynamotest"
)

// TestContract holds the source to what the engine demands of one: a table with a
// Path that fills many pages, small ones, markers and a lock, with its own lock in
// either kind of table.
func TestContract(t *testing.T) {
	stopped := func(o *Options) { o.Stopped = func(context.Context, string) (bool, error) { return true, nil } }
	for name, change := range map[string]func(*Options){"HA": ha, "no HA": stopped} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T) {
				e := bubbleEnv(t, dynamotest.Options{})
				var want []copier.Entry
				put := func(key string, value []byte) {
					path, name := KeyItem(key)
					e.put(with(path, name, attrs{attrValue: bin(string(value))}))
					want = append(want, copier.Entry{Key: []byte(key), Value: value})
				}
				for i := range 20 {
					put(fmt.Sprintf("sys/token/id/%02d", i), make([]byte, 150<<10))
				}
				for i := range 100 {
					put(fmt.Sprintf("logical/%d/%d", i%7, i), fmt.Appendf(nil, "value %d", i))
				}
				put("core/seal-config", []byte("{}"))
				e.put(with("sys", "token/", nil), with("sys/token", "id/", nil))
				copiertest.TestSource(t, func() copier.Source {
					s, _ := e.source(change)
					return s
				}, want)
			})
		})
	}
}
