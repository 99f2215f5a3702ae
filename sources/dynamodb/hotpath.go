package dynamodb

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb/types"
)

// All items of one Path lie in one segment, and a segment's pages come one
// after the other. A login mount's leases, all tokens, and all accessors have
// one Path each, and are often most of the table: however many segments there
// are, one worker would read them alone. So when a page ends in the Path in
// which it began, what is left of that Path is read by Query over ranges of
// its Keys, and the Scan continues behind the Path's last Key. A range that a
// page does not exhaust is split in turn, so that the ranges adapt to how the
// Keys are distributed; a part may turn out empty, which costs a request.
//
// Vault's hot Keys are an "h" and hexadecimal digits of a hash, so they lie
// evenly. So how far a page came in its range shows how many pages are left, and the
// range is split into as many parts.

const (
	// mostParts is into how many parts a range is split at once.
	mostParts = 16
	// laterParts is into how many parts a range is split that is itself a part, where
	// Keys are not hexadecimal: then nobody knows how much is left. Both are powers of
	// two.
	laterParts  = 4
	maxKeyBytes = 1024 // of a range key, DynamoDB's limit
)

// A position is what comes behind an item, in the order of the Scan, or, where To
// is set, in the order of Keys within the Path.
type position struct {
	Path string `json:"path"`
	Key  string `json:"key"`
	// To is the last Key of a range within the Path, and a part of it.
	To string `json:"to,omitempty"`
	trail
}

// A trail notices pages that lead back to where one was before, in constant
// memory: it remembers one of the places, and replaces that with the current one
// each time the number of steps is a power of two. Once that is more than the way
// around and the way to it, the place comes again (R. P. Brent, An improved Monte
// Carlo factorization algorithm, 1980).
type trail struct {
	// Steps counts the pages of the segment that led to another.
	Steps int64 `json:"steps,omitempty"`
	// Seen is the place that is remembered: 128 bits of its SHA-256.
	Seen string `json:"seen,omitempty"`
}

// ErrEndless is returned when the pages of a response lead back to where one was
// before, or are not in the order of Keys.
var ErrEndless = errors.New("the response's LastEvaluatedKey leads back to where a page was before: the table would be read for ever")

// step adds a place, which a text identifies. It returns ErrEndless where the trail
// was there before.
func (t trail) step(place string) (trail, error) {
	sum := sha256.Sum256([]byte(place))
	at := base64.RawStdEncoding.EncodeToString(sum[:16])
	if t.Seen == at {
		return t, ErrEndless
	}
	t.Steps++
	if t.Steps&(t.Steps-1) == 0 {
		t.Seen = at
	}
	return t, nil
}

// sameItem reports whether both name one item, whatever is to be read behind it.
func (p *position) sameItem(o *position) bool { return p.Path == o.Path && p.Key == o.Key }

// query reads the next page of a range.
func (s *Source) query(ctx context.Context, from *position, t *scanTarget) error {
	to := from.To
	if t.until != nil {
		to = min(to, t.until.Key)
	}
	q := t.request()
	q.paths = map[string]float64{from.Path: t.cost}
	_, err := ask(ctx, s, q, s.client.Query, &dynamodb.QueryInput{
		TableName:                &s.opts.Table,
		KeyConditionExpression:   aws.String("#path = :path AND #key <= :to"),
		ExpressionAttributeNames: map[string]string{"#path": attrPath, "#key": attrKey},
		ExpressionAttributeValues: map[string]types.AttributeValue{
			":path": &types.AttributeValueMemberS{Value: from.Path},
			":to":   &types.AttributeValueMemberS{Value: to},
		},
		ExclusiveStartKey: itemKey(from.Path, from.Key),
		ConsistentRead:    aws.Bool(!s.opts.EventuallyConsistent),
		Limit:             t.limited(),
	})
	return err
}

// rest returns the positions that cover what is left after a page that began
// at from, which is nil at a segment's start. full reports whether the page ended
// because of its size: that one with a small Limit ends in the Path in which it
// began says nothing of how large the Path is.
func (s *Source) rest(ctx context.Context, from *position, d *decoded, full bool) ([]position, error) {
	last := d.last
	if from != nil && !d.order.after(from) || d.order.descends {
		s.unordered.Store(true)
	}
	if last == nil {
		return nil, nil
	}
	trail, err := s.movesOn(from, last)
	if err != nil {
		return nil, err
	}
	last.trail = trail
	if from == nil {
		return []position{*last}, nil
	}
	switch {
	case from.To != "" && !full:
		return []position{{Path: last.Path, Key: last.Key, To: from.To}}, nil
	case from.To != "":
		return split(from.Key, position{Path: last.Path, Key: last.Key, To: from.To}, laterParts), nil
	case from.Path != last.Path, !full, s.unordered.Load():
		// Ranges of Keys are the rest only where the Scan goes by Keys.
		return []position{*last}, nil
	}
	end, err := s.lastKey(ctx, last.Path, d)
	if isUndecoded(err) {
		return []position{*last}, nil // the page with that item will name it
	}
	if err != nil {
		return nil, err
	}
	if end <= last.Key {
		return []position{*last}, nil
	}
	return append(split(from.Key, position{Path: last.Path, Key: last.Key, To: end}, mostParts), position{Path: last.Path, Key: end, trail: trail}), nil
}

// movesOn returns the trail up to where a page ended that began at from, which is
// nil at a segment's start. It refuses a response whose LastEvaluatedKey leads back
// to where a page was before, or out of the range that was asked for. Within one
// Path Keys ascend. The Paths come in the order of a hash that is not known.
func (s *Source) movesOn(from, last *position) (trail, error) {
	switch {
	case from == nil:
		return trail{}.step(last.place())
	case from.To != "" && (last.Path != from.Path || last.Key <= from.Key || last.Key > from.To):
		return trail{}, s.fail(context.Background(), "Query", fmt.Errorf("%w: it lies outside of what was asked for", ErrEndless))
	case from.To != "":
		return trail{}, nil // it can't go on for ever
	case from.Path == last.Path && last.Key <= from.Key:
		return trail{}, s.fail(context.Background(), "Scan", fmt.Errorf("%w: in Path %q it does not go on in the order of Keys", ErrEndless, last.Path))
	}
	on, err := from.step(last.place())
	if err != nil {
		return trail{}, s.fail(context.Background(), "Scan", err)
	}
	return on, nil
}

// place identifies the item of a position.
func (p *position) place() string { return strconv.Itoa(len(p.Path)) + " " + p.Path + "/" + p.Key }

// keysOf asks for the Keys of a Path.
func (s *Source) keysOf(path string) *dynamodb.QueryInput {
	return &dynamodb.QueryInput{
		TableName:                 &s.opts.Table,
		KeyConditionExpression:    aws.String("#path = :path"),
		ExpressionAttributeNames:  map[string]string{"#path": attrPath, "#key": attrKey},
		ExpressionAttributeValues: map[string]types.AttributeValue{":path": &types.AttributeValueMemberS{Value: path}},
		ProjectionExpression:      aws.String("#key"),
		ConsistentRead:            aws.Bool(true),
	}
}

// lastKey returns the greatest Key of a Path.
func (s *Source) lastKey(ctx context.Context, path string, d *decoded) (string, error) {
	const cost = 1.0 // of one item that is small, or else a little more
	in := s.keysOf(path)
	in.ScanIndexForward, in.Limit = aws.Bool(false), aws.Int32(1)
	out, err := ask(ctx, s, &request{units: cost, counts: &d.page}, s.client.Query, in)
	if err != nil {
		return "", err
	}
	if out.ConsumedCapacity != nil {
		units := aws.ToFloat64(out.ConsumedCapacity.CapacityUnits)
		d.units += units
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

// split splits what a page, which began behind the Key from, has left of its
// range: into a part for each page that is left, up to mostParts, where the Keys
// are hexadecimal, else into up to unknown parts. Together they are exactly the
// range. Where the Keys lie less evenly than it seems the next pages show that.
func split(from string, left position, unknown int) []position {
	d, ok := digitsOf(from, left.Key, left.To)
	if !ok {
		return halve(left, unknown)
	}
	read, rest := d.at[1]-d.at[0], d.at[2]-d.at[1]
	// Some room, lest a part that is a little denser than others takes a request more.
	n := min(uint64(1.06*float64(rest)/float64(read))+1, mostParts)
	var out []position
	for i := uint64(1); i < n; i++ {
		to := d.key(d.at[1] + uint64(float64(rest)*float64(i)/float64(n)))
		if to > left.Key && to < left.To {
			out = append(out, position{Path: left.Path, Key: left.Key, To: to})
			left.Key = to
		}
	}
	return append(out, left)
}

// digits are Keys with a common prefix and hexadecimal digits behind it, as numbers.
type digits struct {
	prefix string
	count  int // of digits that are looked at
	at     [3]uint64
}

// digitsOf reads Keys in ascending order, up to the first character that is no digit,
// such as the dash in a serial number or a UUID. It returns false where they have no
// digits at all, are too close to one another, or are too long for a Key in between.
func digitsOf(first, second, third string) (d digits, ok bool) {
	const most = 12 // enough for any number of parts, and exact as a float64
	n := 0
	for n < len(first) && n < len(third) && first[n] == third[n] {
		n++
	}
	if n+most > maxKeyBytes {
		return d, false
	}
	d = digits{prefix: first[:n], count: most}
	for i, key := range []string{first, second, third} {
		if !strings.HasPrefix(key, d.prefix) {
			return d, false
		}
		rest := key[n:]
		end := 0
		for end < min(len(rest), most) && (rest[end] >= '0' && rest[end] <= '9' || rest[end] >= 'a' && rest[end] <= 'f') {
			end++ // Vault writes them in lower case
		}
		if end == 0 && rest != "" {
			return d, false
		}
		// A Key that ends early counts as if zeros followed.
		d.at[i], _ = strconv.ParseUint((rest[:end] + strings.Repeat("0", most))[:most], 16, 64) // it can't fail
	}
	return d, d.at[0] < d.at[1] && d.at[1] < d.at[2]
}

// key is the Key that a number stands for.
func (d digits) key(at uint64) string { return d.prefix + fmt.Sprintf("%0*x", d.count, at) }

// halve splits a range into up to n parts, n being a power of two, with Keys of
// any kind. Together they are exactly the range.
func halve(r position, n int) []position {
	mid, ok := between(r.Key, r.To)
	if n < 2 || !ok {
		return []position{r}
	}
	return append(
		halve(position{Path: r.Path, Key: r.Key, To: mid}, n/2),
		halve(position{Path: r.Path, Key: mid, To: r.To}, n/2)...)
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
