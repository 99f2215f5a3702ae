package dynamodb

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb/types"

	"github.com/dyn2raft/dyn2raft/copier"
)

// batchKeys is how many items a BatchGetItem can ask for (API Reference).
const batchKeys = 100

// Reread implements [copier.Following], by strongly consistent BatchGetItems. Markers
// and locks yield nothing. An item that Vault can't have written is an error.
func (f *following) Reread(ctx context.Context, keys [][]byte, b *copier.Batch) error {
	before := b.Len()
	seen := make(map[itemID]bool, len(keys))
	var items []itemID
	for _, key := range keys {
		var p itemID
		p.path, p.key = KeyItem(string(key))
		if !seen[p] { // one that is asked for twice is refused
			seen[p] = true
			items = append(items, p)
		}
	}
	for chunk := range slices.Chunk(items, batchKeys) {
		if err := f.s.getItems(ctx, chunk, b); err != nil {
			b.Truncate(before)
			return err
		}
	}
	return nil
}

// getItems appends the entries of items to b.
func (s *Source) getItems(ctx context.Context, items []itemID, b *copier.Batch) error {
	asked := make(map[itemID]bool, len(items))
	left := make([]map[string]types.AttributeValue, len(items))
	for i, p := range items {
		asked[p], left[i] = true, itemKey(p.path, p.key)
	}
	d := pageDecoder{b: b}
	for try := 1; len(left) > 0; try++ {
		q := request{units: float64(len(left)), paths: map[string]float64{}}
		for _, item := range left {
			if p, err := itemOf(item); err == nil { // it is a key, as was looked at
				q.paths[p.path]++
			}
		}
		out, err := ask(ctx, s, &q, s.client.BatchGetItem, &dynamodb.BatchGetItemInput{RequestItems: map[string]types.KeysAndAttributes{
			s.opts.Table: {Keys: left, ConsistentRead: aws.Bool(true)},
		}})
		if errors.Is(err, errTooLarge) && try == 1 && len(items) > 1 { // in JSON 16 MB of items are more than other answers have
			half := len(items) / 2
			if err := s.getItems(ctx, items[:half], b); err != nil {
				return err
			}
			return s.getItems(ctx, items[half:], b)
		}
		if err != nil {
			return err
		}
		for _, used := range out.ConsumedCapacity {
			s.capacity.give(q.units - aws.ToFloat64(used.CapacityUnits))
			s.paths.cost(q.paths, aws.ToFloat64(used.CapacityUnits)/q.units)
		}
		for _, item := range out.Responses[s.opts.Table] {
			p, err := itemOf(item)
			if err == nil && !asked[p] {
				err = fmt.Errorf("the response has an item that was not asked for, or has it twice: Path %q, Key %q", p.path, p.key)
			}
			if err != nil {
				return s.fail(ctx, q.action, err)
			}
			delete(asked, p)
			if err := d.add(item); err != nil {
				return &copier.Error{Kind: copier.ErrSource, Op: "read table " + s.opts.Table, Code: NotVaultsItem, Err: err}
			}
		}
		left = out.UnprocessedKeys[s.opts.Table].Keys
		for _, item := range left {
			if p, err := itemOf(item); err != nil || !asked[p] {
				return s.fail(ctx, q.action, fmt.Errorf("the response leaves an item unprocessed that was not asked for, or that it has: Path %q, Key %q", p.path, p.key))
			}
		}
		if len(left) > 0 {
			if err := sleep(ctx, s.tries.wait(try, true)); err != nil {
				return err
			}
		}
	}
	return nil
}

// folderOf is the Vault folder of the entries of a Path.
func folderOf(path string) string {
	switch path {
	case emptyPath:
		return ""
	case "/":
		return path
	}
	return path + "/"
}

// List implements [copier.Following], by strongly consistent Queries of the Path that a
// folder is. Each reads up to 1 MB.
func (f *following) List(ctx context.Context, folder, after []byte, b *copier.Batch) (next []byte, err error) {
	s := f.s
	path, _ := KeyItem(string(folder) + "x")
	in := s.keysOf(path)
	in.ProjectionExpression, in.ExpressionAttributeNames = nil, map[string]string{"#path": attrPath}
	if after != nil {
		in.ExclusiveStartKey = itemKey(path, string(after[len(folder):]))
	}
	t := &scanTarget{b: b, from: b.Len()}
	t.limit, t.cost = s.capacity.plan()
	in.Limit = t.limited()
	q := t.request()
	q.paths = map[string]float64{path: t.cost}
	if _, err := ask(ctx, s, q, s.client.Query, in); err != nil {
		b.Truncate(t.from)
		return nil, err
	}
	s.capacity.learn(t.cost, t.units, t.items(), t.page.WireBytes)
	for _, err := range t.page.Refused {
		b.Truncate(t.from)
		return nil, &copier.Error{Kind: copier.ErrSource, Op: "read table " + s.opts.Table, Code: NotVaultsItem, Err: err}
	}
	if t.last == nil {
		return nil, nil
	}
	return append(bytes.Clone(folder), t.last.Key...), nil
}

// An itemID is the key of an item.
type itemID struct{ path, key string }

// itemOf returns the key of an item, or of what has one.
func itemOf(item attributes) (itemID, error) {
	path, ok1 := item[attrPath].(*types.AttributeValueMemberS)
	key, ok2 := item[attrKey].(*types.AttributeValueMemberS)
	if !ok1 || !ok2 {
		return itemID{}, errors.New("the response has an item without a Path and a Key of type S")
	}
	return itemID{path.Value, key.Value}, nil
}
