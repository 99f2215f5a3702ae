package dynamodb

import (
	"context"
	"errors"
	"strings"
	"unicode/utf8"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb/types"

	"github.com/dyn2raft/dyn2raft/copier"
)

// All items of one Path lie in one segment, and a segment's pages come one
// after the other. A login mount's leases, all tokens, and all accessors have
// one Path each, and are often most of the table: however many segments there
// are, one worker would read them alone. So when a page ends in the Path in
// which it began, what is left of that Path is read by Query over ranges of
// its Keys, and the Scan goes on behind the Path's last Key. A range that a
// page does not exhaust is split in turn, so that the ranges adapt to how the
// Keys are distributed; a part may turn out empty, which costs a request.

// The parts into which a Path is split at first, and a range later: powers of
// two. Vault's hot Keys are an "h" and hexadecimal digits, for which the first
// split gives about ten parts that are not empty.
const (
	firstParts  = 16
	laterParts  = 4
	maxKeyBytes = 1024 // of a range key, DynamoDB's limit
)

// A position is a resume token: what comes behind an item, in the order of the
// Scan, or, where To is set, in the order of Keys within the Path.
type position struct {
	Path string `json:"path"`
	Key  string `json:"key"`
	// To is the last Key of a range within the Path, and a part of it.
	To string `json:"to,omitempty"`
}

// sameItem tells whether both name one item, whatever is to be read behind it.
func (p *position) sameItem(o *position) bool { return p.Path == o.Path && p.Key == o.Key }

// query reads the next page of a range.
func (s *Source) query(ctx context.Context, from *position, t *scanTarget) error {
	to := from.To
	if t.until != nil {
		to = min(to, t.until.Key)
	}
	out, err := s.client.Query(t.in(ctx), &dynamodb.QueryInput{
		TableName:                &s.opts.Table,
		KeyConditionExpression:   aws.String("#path = :path AND #key <= :to"),
		ExpressionAttributeNames: map[string]string{"#path": attrPath, "#key": attrKey},
		ExpressionAttributeValues: map[string]types.AttributeValue{
			":path": &types.AttributeValueMemberS{Value: from.Path},
			":to":   &types.AttributeValueMemberS{Value: to},
		},
		ExclusiveStartKey:      itemKey(from.Path, from.Key),
		ConsistentRead:         aws.Bool(!s.opts.EventuallyConsistent),
		ReturnConsumedCapacity: types.ReturnConsumedCapacityTotal,
		Limit:                  t.limited(),
	})
	if err != nil {
		return err
	}
	if !t.done {
		t.slow(out.Items, out.Count, out.LastEvaluatedKey, out.ConsumedCapacity)
	}
	countTries(&t.page, out.ResultMetadata)
	return nil
}

// rest returns the positions that cover what is left after a page that began
// at from, which is nil at a segment's start. full tells whether the page ended
// because of its size: that one with a small Limit ends in the Path in which it
// began says nothing of how large the Path is.
func (s *Source) rest(ctx context.Context, from *position, d *decoded, full bool) ([]position, error) {
	last := d.last
	if from != nil && !d.order.after(from) || d.order.descends {
		s.unordered.Store(true)
	}
	switch {
	case last == nil:
		return nil, nil
	case from == nil:
		return []position{*last}, nil
	}
	if err := s.movesOn(from, last); err != nil {
		return nil, err
	}
	switch {
	case from.To != "" && !full:
		return []position{{Path: last.Path, Key: last.Key, To: from.To}}, nil
	case from.To != "":
		return split(position{Path: last.Path, Key: last.Key, To: from.To}, laterParts), nil
	case from.Path != last.Path, !full, s.unordered.Load():
		// Ranges of Keys are the rest only where the Scan goes by Keys.
		return []position{*last}, nil
	}
	end, err := s.lastKey(ctx, last.Path, &d.page)
	if err != nil {
		return nil, err
	}
	if end <= last.Key {
		return []position{*last}, nil
	}
	return append(split(position{Path: last.Path, Key: last.Key, To: end}, firstParts), position{Path: last.Path, Key: end}), nil
}

// movesOn refuses a response whose LastEvaluatedKey leads back to where its
// page began, or out of the range that was asked for.
func (s *Source) movesOn(from, last *position) error {
	switch {
	case from.To == "" && last.sameItem(from):
		return s.fail(context.Background(), "Scan", errors.New("the response's LastEvaluatedKey is where the page began: the table would be read for ever"))
	case from.To != "" && (last.Path != from.Path || last.Key <= from.Key || last.Key > from.To):
		return s.fail(context.Background(), "Query", errors.New("the response's LastEvaluatedKey lies outside of what was asked for"))
	}
	return nil
}

// lastKey returns the greatest Key of a Path.
func (s *Source) lastKey(ctx context.Context, path string, page *copier.Page) (string, error) {
	const cost = 1.0 // of one item that is small, or else a little more
	out, err := s.client.Query(context.WithValue(ctx, costKey{}, cost), &dynamodb.QueryInput{
		TableName:                 &s.opts.Table,
		KeyConditionExpression:    aws.String("#path = :path"),
		ExpressionAttributeNames:  map[string]string{"#path": attrPath, "#key": attrKey},
		ExpressionAttributeValues: map[string]types.AttributeValue{":path": &types.AttributeValueMemberS{Value: path}},
		ProjectionExpression:      aws.String("#key"),
		ScanIndexForward:          aws.Bool(false),
		Limit:                     aws.Int32(1),
		ConsistentRead:            aws.Bool(true),
		ReturnConsumedCapacity:    types.ReturnConsumedCapacityTotal,
	})
	if err != nil {
		return "", s.fail(ctx, "Query", err)
	}
	countTries(page, out.ResultMetadata)
	if out.ConsumedCapacity != nil {
		units := aws.ToFloat64(out.ConsumedCapacity.CapacityUnits)
		page.Units += units
		s.capacity.give(cost - units)
	}
	if len(out.Items) == 0 {
		return "", nil
	}
	key, ok := out.Items[0][attrKey].(*types.AttributeValueMemberS)
	if !ok {
		return "", s.fail(ctx, "Query", errors.New("the response has no Key of type S"))
	}
	return key.Value, nil
}

// split splits a range into up to n parts, n being a power of two. Together
// they are exactly the range.
func split(r position, n int) []position {
	mid, ok := between(r.Key, r.To)
	if n < 2 || !ok {
		return []position{r}
	}
	return append(
		split(position{Path: r.Path, Key: r.Key, To: mid}, n/2),
		split(position{Path: r.Path, Key: mid, To: r.To}, n/2)...)
}

// between returns a valid UTF-8 string of few characters that lies strictly
// between lo and hi in byte order, about halfway between the first characters
// in which they differ. It returns false where it finds none.
func between(lo, hi string) (string, bool) {
	n := 0
	for n < len(lo) && n < len(hi) {
		a, size := utf8.DecodeRuneInString(lo[n:])
		if b, _ := utf8.DecodeRuneInString(hi[n:]); a != b {
			break
		}
		n += size
	}
	if n >= len(hi) {
		return "", false
	}
	var a rune
	var size int
	if n < len(lo) {
		a, size = utf8.DecodeRuneInString(lo[n:])
	}
	b, _ := utf8.DecodeRuneInString(hi[n:])
	var sb strings.Builder
	sb.WriteString(lo[:n])
	if m := a + (b-a)/2; m > a {
		sb.WriteRune(m) // a surrogate, which is no character, becomes U+FFFD
	} else if n < len(lo) {
		// Neighbours: go between the rest of lo and the end of ASCII.
		next, _ := utf8.DecodeRuneInString(lo[n+size:])
		if n+size == len(lo) {
			next = 0
		}
		sb.WriteRune(a)
		sb.WriteRune(next + (max(next, utf8.RuneSelf)-next)/2 + 1)
	}
	mid := sb.String()
	return mid, lo < mid && mid < hi && utf8.ValidString(mid) && len(mid) <= maxKeyBytes
}
