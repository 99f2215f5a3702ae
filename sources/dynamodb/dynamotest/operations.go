package dynamotest

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"math"
	"regexp"
	"slices"
	"sort"
	"strconv"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/dynamodb/types"
)

// A call is one request on its way through an operation.
type call struct {
	server *Server
	body   []byte
	out    []byte // buffer for the response
	read   int    // bytes of items that a read has touched, for the throughput
	reads  bool   // whether the operation reads items, and so waits
	fault  FaultKind
}

// itemsTarget stands before the operations of tables and items in X-Amz-Target.
const itemsTarget = "DynamoDB_20120810."

// operations are those that dynamotest knows. Each returns the response's
// body; an error is an *apiError.
var operations = map[string]func(*call) ([]byte, error){
	"BatchGetItem":              (*call).batchGetItem,
	"BatchWriteItem":            (*call).batchWriteItem,
	"CreateBackup":              (*call).createBackup,
	"DeleteBackup":              (*call).deleteBackup,
	"CreateTable":               (*call).createTable,
	"DeleteItem":                (*call).deleteItem,
	"DeleteTable":               (*call).deleteTable,
	"DescribeBackup":            (*call).describeBackup,
	"DescribeContinuousBackups": (*call).describeContinuousBackups,
	"DescribeTable":             (*call).describeTable,
	"GetItem":                   (*call).getItem,
	"ListBackups":               (*call).listBackups,
	"ListTables":                (*call).listTables,
	"PutItem":                   (*call).putItem,
	"Query":                     (*call).query,
	"Scan":                      (*call).scan,
	"UpdateItem":                (*call).updateItem,
	"UpdateTable":               (*call).updateTable,
}

// strictUnmarshal refuses members that the target does not have: a parameter
// that we do not know must never be ignored. Neither is what stands behind the value.
func strictUnmarshal(data []byte, v any) error {
	d := json.NewDecoder(bytes.NewReader(data))
	d.DisallowUnknownFields()
	if err := d.Decode(v); err != nil {
		return err
	}
	if _, err := d.Token(); err != io.EOF {
		return errors.New("there is more than one JSON value")
	}
	return nil
}

func (c *call) decode(v any) error {
	err := strictUnmarshal(c.body, v)
	var known *apiError
	switch {
	case err == nil, errors.As(err, &known):
	case strings.Contains(err.Error(), "unknown field"):
		return unsupported("the parameter " + err.Error()[strings.LastIndexByte(err.Error(), ' ')+1:])
	default:
		return &apiError{400, "com.amazon.coral.service#SerializationException", err.Error(), nil}
	}
	return err
}

// oneOf refuses values of an option that are none of those that we support.
func oneOf(parameter, value string, supported ...string) error {
	if value == "" || slices.Contains(supported, value) {
		return nil
	}
	return unsupported(fmt.Sprintf("%s=%s", parameter, value))
}

var tableName = regexp.MustCompile(`^[a-zA-Z0-9_.-]{3,255}$`)

func checkTableName(name string) error {
	if !tableName.MatchString(name) {
		return validation("Invalid table/index name.  Table/index names must be between 3 and 255 characters long, and may contain only the characters a-z, A-Z, 0-9, '_', '-', and '.'")
	}
	return nil
}

// table finds a table that can serve items. Where it is being created or
// deleted the service does not find it either.
func (s *Server) table(name string) (*table, error) {
	t, err := s.anyTable(name)
	if err != nil {
		return nil, err
	}
	t.mu.RLock()
	defer t.mu.RUnlock()
	if t.status != types.TableStatusActive && t.status != types.TableStatusUpdating {
		return nil, notFound("Requested resource not found")
	}
	return t, nil
}

func (s *Server) anyTable(name string) (*table, error) {
	if err := checkTableName(name); err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if t := s.tables[name]; t != nil {
		return t, nil
	}
	return nil, notFound("Requested resource not found: Table: " + name + " not found")
}

// Tables.

type throughput struct {
	ReadCapacityUnits  int64
	WriteCapacityUnits int64
}

type keyElement struct {
	AttributeName string
	KeyType       types.KeyType
}

type attributeDefinition struct {
	AttributeName string
	AttributeType string
}

type tableDescription struct {
	AttributeDefinitions      []attributeDefinition
	BillingModeSummary        *billingModeSummary `json:",omitempty"`
	CreationDateTime          json.Number
	DeletionProtectionEnabled bool `json:",omitempty"`
	ItemCount                 int64
	KeySchema                 []keyElement
	LatestStreamArn           string `json:",omitempty"`
	LatestStreamLabel         string `json:",omitempty"`
	ProvisionedThroughput     provisionedThroughput
	Replicas                  []replicaDescription `json:",omitempty"`
	StreamSpecification       *streamSpecification `json:",omitempty"`
	TableArn                  string
	TableId                   string
	TableName                 string
	TableSizeBytes            int64
	TableStatus               types.TableStatus
	WarmThroughput            *warmThroughput `json:",omitempty"`
}

type billingModeSummary struct {
	BillingMode types.BillingMode
}

type provisionedThroughput struct {
	NumberOfDecreasesToday int64
	ReadCapacityUnits      int64
	WriteCapacityUnits     int64
}

func (t *table) arn() string { return "arn:aws:dynamodb:" + region + ":000000000000:table/" + t.name }

// describe returns the counts as they are now; the service's are up to six
// hours old.
func (t *table) describe() tableDescription {
	t.mu.RLock()
	defer t.mu.RUnlock()
	d := tableDescription{
		CreationDateTime:      seconds(t.created),
		ItemCount:             t.count,
		ProvisionedThroughput: provisionedThroughput{0, t.read, t.write},
		TableArn:              t.arn(),
		TableId:               t.id,
		TableName:             t.name,
		TableSizeBytes:        t.bytes,
		TableStatus:           t.present(),
	}
	if t.billing == types.BillingModePayPerRequest {
		d.BillingModeSummary = &billingModeSummary{t.billing}
	}
	t.details.describe(&d)
	if st := t.stream; st != nil {
		d.LatestStreamArn, d.LatestStreamLabel = st.ARN, st.label
		if st.on() {
			d.StreamSpecification = &streamSpecification{true, types.StreamViewType(st.view)}
		}
	}
	d.KeySchema = keySchema(t.keys)
	for _, k := range t.keys {
		d.AttributeDefinitions = append(d.AttributeDefinitions, attributeDefinition{k.name, k.kind})
	}
	return d
}

func keySchema(keys []keyAttribute) []keyElement {
	var out []keyElement
	for i, k := range keys {
		out = append(out, keyElement{k.name, []types.KeyType{types.KeyTypeHash, types.KeyTypeRange}[i]})
	}
	return out
}

// checkBilling returns the capacity that a table of this billing mode has.
func checkBilling(mode types.BillingMode, given *throughput) (read, write int64, err error) {
	switch mode {
	case types.BillingModePayPerRequest:
		if given != nil && (given.ReadCapacityUnits != 0 || given.WriteCapacityUnits != 0) {
			return 0, 0, validation("One or more parameter values were invalid: Neither ReadCapacityUnits nor WriteCapacityUnits can be specified when BillingMode is PAY_PER_REQUEST")
		}
		return 0, 0, nil
	case types.BillingModeProvisioned:
		if given == nil || given.ReadCapacityUnits < 1 || given.WriteCapacityUnits < 1 {
			return 0, 0, validation("One or more parameter values were invalid: ReadCapacityUnits and WriteCapacityUnits must both be specified when BillingMode is PROVISIONED")
		}
		return given.ReadCapacityUnits, given.WriteCapacityUnits, nil
	}
	return 0, 0, validation("1 validation error detected: Value '%s' at 'billingMode' failed to satisfy constraint: Member must satisfy enum value set: [PROVISIONED, PAY_PER_REQUEST]", mode)
}

func (c *call) createTable() ([]byte, error) {
	var in struct {
		TableName             string
		KeySchema             []keyElement
		AttributeDefinitions  []attributeDefinition
		BillingMode           types.BillingMode
		ProvisionedThroughput *throughput
		Tags                  []struct{ Key, Value string } // which nobody asks for
	}
	if err := c.decode(&in); err != nil {
		return nil, err
	}
	if err := checkTableName(in.TableName); err != nil {
		return nil, err
	}
	if in.BillingMode == "" {
		in.BillingMode = types.BillingModeProvisioned
	}
	read, write, err := checkBilling(in.BillingMode, in.ProvisionedThroughput)
	if err != nil {
		return nil, err
	}
	if len(in.KeySchema) < 1 || len(in.KeySchema) > 2 || in.KeySchema[0].KeyType != types.KeyTypeHash ||
		len(in.KeySchema) == 2 && in.KeySchema[1].KeyType != types.KeyTypeRange {
		return nil, validation("Invalid KeySchema: The first KeySchemaElement is not a HASH key type, or the second not a RANGE key type")
	}
	if len(in.AttributeDefinitions) != len(in.KeySchema) {
		return nil, validation("One or more parameter values were invalid: Number of attributes in KeySchema does not exactly match number of attributes defined in AttributeDefinitions")
	}
	var keys []keyAttribute
	for _, element := range in.KeySchema {
		i := slices.IndexFunc(in.AttributeDefinitions, func(d attributeDefinition) bool { return d.AttributeName == element.AttributeName })
		if i < 0 {
			return nil, validation("One or more parameter values were invalid: Some index key attributes are not defined in AttributeDefinitions. Keys: [%s]", element.AttributeName)
		}
		kind := in.AttributeDefinitions[i].AttributeType
		if kind != "S" && kind != "N" && kind != "B" {
			return nil, validation("1 validation error detected: Value '%s' at 'attributeDefinitions.1.member.attributeType' failed to satisfy constraint: Member must satisfy enum value set: [B, N, S]", kind)
		}
		keys = append(keys, keyAttribute{element.AttributeName, kind})
	}
	t := newTable(in.TableName, in.BillingMode, read, write, keys...)
	if err := c.server.addTable(t); err != nil {
		return nil, err
	}
	return json.Marshal(map[string]any{"TableDescription": t.describe()})
}

func (c *call) describeTable() ([]byte, error) {
	var in struct{ TableName string }
	if err := c.decode(&in); err != nil {
		return nil, err
	}
	t, err := c.server.anyTable(in.TableName)
	if err != nil {
		return nil, err
	}
	return json.Marshal(map[string]any{"Table": t.describe()})
}

func (c *call) deleteTable() ([]byte, error) {
	var in struct{ TableName string }
	if err := c.decode(&in); err != nil {
		return nil, err
	}
	t, err := c.server.anyTable(in.TableName)
	if err != nil {
		return nil, err
	}
	c.server.mu.Lock()
	delete(c.server.tables, t.name)
	c.server.mu.Unlock()
	t.mu.Lock()
	if t.stream != nil && t.stream.on() {
		t.stream.disable()
	}
	t.mu.Unlock()
	d := t.describe()
	d.TableStatus = types.TableStatusDeleting
	return json.Marshal(map[string]any{"TableDescription": d})
}

// present is the table's status. The caller holds t.mu.
func (t *table) present() types.TableStatus {
	if t.status == types.TableStatusActive && t.stream != nil && t.stream.changing() {
		return types.TableStatusUpdating
	}
	return t.status
}

// updateTable changes the capacity, at once, or the stream.
func (c *call) updateTable() ([]byte, error) {
	var in struct {
		TableName             string
		BillingMode           types.BillingMode
		ProvisionedThroughput *throughput
		StreamSpecification   *streamSpecification

		GlobalSecondaryIndexUpdates []struct{ Delete *struct{ IndexName string } }
	}
	if err := c.decode(&in); err != nil {
		return nil, err
	}
	t, err := c.server.anyTable(in.TableName)
	if err != nil {
		return nil, err
	}
	if u := in.GlobalSecondaryIndexUpdates; len(u) == 1 && u[0].Delete != nil { // no table has an index
		return nil, notFound("Requested resource not found")
	} else if u != nil {
		return nil, unsupported("GlobalSecondaryIndexUpdates other than the deletion of one index")
	}
	capacity := in.BillingMode != "" || in.ProvisionedThroughput != nil
	if capacity && in.StreamSpecification != nil {
		return nil, unsupported("StreamSpecification together with a change of the capacity")
	}
	if !capacity && in.StreamSpecification == nil {
		return nil, validation("At least one of ProvisionedThroughput, BillingMode, UpdateStreamEnabled, GlobalSecondaryIndexUpdates or SSESpecification or ReplicaUpdates is required")
	}
	t.mu.Lock()
	mode := in.BillingMode
	if mode == "" {
		mode = t.billing
	}
	var read, write int64
	switch {
	case t.present() != types.TableStatusActive:
		err = &apiError{400, dynamoError + "ResourceInUseException", "Attempt to change a resource which is still in use: Table is being updated: " + t.name, nil}
	case !capacity:
		err = c.server.setStream(t, in.StreamSpecification)
	default:
		if read, write, err = checkBilling(mode, in.ProvisionedThroughput); err == nil {
			t.billing, t.read, t.write = mode, read, write
		}
	}
	t.mu.Unlock()
	if err != nil {
		return nil, err
	}
	return json.Marshal(map[string]any{"TableDescription": t.describe()})
}

func (c *call) listTables() ([]byte, error) {
	var in struct {
		ExclusiveStartTableName string
		Limit                   *int
	}
	if err := c.decode(&in); err != nil {
		return nil, err
	}
	limit := 100
	if in.Limit != nil {
		if limit = *in.Limit; limit < 1 || limit > 100 {
			return nil, validation("1 validation error detected: Value '%d' at 'limit' failed to satisfy constraint: Member must be between 1 and 100", limit)
		}
	}
	c.server.mu.Lock()
	names := slices.Sorted(maps.Keys(c.server.tables))
	c.server.mu.Unlock()
	from, found := slices.BinarySearch(names, in.ExclusiveStartTableName)
	if found {
		from++
	}
	out := struct {
		LastEvaluatedTableName string `json:",omitempty"`
		TableNames             []string
	}{TableNames: names[from:]}
	if len(out.TableNames) > limit {
		out.TableNames = out.TableNames[:limit]
		out.LastEvaluatedTableName = out.TableNames[limit-1]
	}
	if out.TableNames == nil {
		out.TableNames = []string{}
	}
	return json.Marshal(out)
}

// Capacity.

// readUnits is the price of reading so many bytes: a unit for each 4 KB, half
// of it where the read need not be consistent.
func readUnits(bytes int, consistent bool) float64 {
	units := max(1, math.Ceil(float64(bytes)/4096))
	if !consistent {
		units /= 2
	}
	return units
}

// writeUnits is the price of replacing an item: a unit for each 1 KB of the
// larger one.
func writeUnits(old, next *record) float64 {
	size := 0
	for _, r := range []*record{old, next} {
		if r != nil {
			size = max(size, r.size)
		}
	}
	return max(1, math.Ceil(float64(size)/1024))
}

func appendCapacity(b []byte, wanted, table string, units float64) []byte {
	if wanted != "TOTAL" && wanted != "INDEXES" {
		return b
	}
	n := strconv.FormatFloat(units, 'f', 1, 64)
	b = append(b, `"ConsumedCapacity":{"CapacityUnits":`+n+`,`...)
	if wanted == "INDEXES" {
		b = append(b, `"Table":{"CapacityUnits":`+n+`},`...)
	}
	b = append(b, `"TableName":"`...)
	b = append(b, table...)
	return append(b, `"},`...)
}

func checkCapacity(wanted string) error {
	return oneOf("ReturnConsumedCapacity", wanted, "NONE", "TOTAL", "INDEXES")
}

// closeObject ends an object whose members each end with a comma.
func closeObject(b []byte) []byte {
	return append(bytes.TrimSuffix(b, []byte(",")), '}')
}

// Items.

type writeInput struct {
	TableName                           string
	Item                                attributes // PutItem
	Key                                 attributes // UpdateItem, DeleteItem
	UpdateExpression                    *string    // UpdateItem
	ConditionExpression                 *string
	ExpressionAttributeNames            map[string]string
	ExpressionAttributeValues           attributes
	ReturnValues                        string
	ReturnConsumedCapacity              string
	ReturnItemCollectionMetrics         string
	ReturnValuesOnConditionCheckFailure string
}

// write does what PutItem, UpdateItem and DeleteItem have in common. change
// gets the item of today, or nil, and returns the one that is to be there.
func (c *call) write(in *writeInput, k key, t *table, returns []string, change func(old attributes) (attributes, error)) ([]byte, error) {
	if err := errors.Join(
		oneOf("ReturnValues", in.ReturnValues, returns...),
		oneOf("ReturnItemCollectionMetrics", in.ReturnItemCollectionMetrics, "NONE"),
		oneOf("ReturnValuesOnConditionCheckFailure", in.ReturnValuesOnConditionCheckFailure, "NONE", "ALL_OLD"),
		checkCapacity(in.ReturnConsumedCapacity),
	); err != nil {
		return nil, err
	}
	names := newExpressions(in.ExpressionAttributeNames, in.ExpressionAttributeValues)
	guard := condition(always{})
	var set update
	var err error
	if in.ConditionExpression != nil {
		if guard, err = names.condition("ConditionExpression", *in.ConditionExpression); err != nil {
			return nil, err
		}
	}
	if in.UpdateExpression != nil {
		if set, err = names.update(*in.UpdateExpression); err != nil {
			return nil, err
		}
		for _, k := range t.keys {
			if _, ok := set.set[k.name]; ok || slices.Contains(set.remove, k.name) {
				return nil, validation("One or more parameter values were invalid: Cannot update attribute %s. This attribute is part of the key", k.name)
			}
		}
	}
	if err := names.unused(); err != nil {
		return nil, err
	}

	t.mu.Lock()
	defer t.mu.Unlock()
	oldRecord := t.get(k)
	var old attributes
	if oldRecord != nil {
		old = oldRecord.item()
	}
	if !guard.holds(old) {
		failure := &apiError{400, dynamoError + "ConditionalCheckFailedException", "The conditional request failed", nil}
		if in.ReturnValuesOnConditionCheckFailure == "ALL_OLD" && oldRecord != nil {
			failure.item = oldRecord.appendJSON(nil)
		}
		return nil, failure
	}
	next, err := change(old)
	if err != nil {
		return nil, err
	}
	var nextRecord *record
	if next != nil {
		if err := set.apply(next); err != nil {
			return nil, err
		}
		if nextRecord, err = t.record(next, k); err != nil {
			return nil, err
		}
	}
	t.set(k, nextRecord)
	t.written += writeUnits(oldRecord, nextRecord)

	out := append(c.out, '{')
	switch {
	case in.ReturnValues == "ALL_OLD" && oldRecord != nil:
		out = append(oldRecord.appendJSON(append(out, `"Attributes":`...)), ',')
	case in.ReturnValues == "ALL_NEW":
		out = append(nextRecord.appendJSON(append(out, `"Attributes":`...)), ',')
	}
	out = appendCapacity(out, in.ReturnConsumedCapacity, t.name, writeUnits(oldRecord, nextRecord))
	return closeObject(out), nil
}

func (c *call) putItem() ([]byte, error) {
	var in writeInput
	if err := c.decode(&in); err != nil {
		return nil, err
	}
	if in.Key != nil || in.UpdateExpression != nil {
		return nil, unsupported("the parameters Key and UpdateExpression of PutItem")
	}
	t, err := c.server.table(in.TableName)
	if err != nil {
		return nil, err
	}
	k, err := t.key(in.Item, false)
	if err != nil {
		return nil, err
	}
	return c.write(&in, k, t, []string{"NONE", "ALL_OLD"}, func(attributes) (attributes, error) { return in.Item, nil })
}

func (c *call) updateItem() ([]byte, error) {
	in, t, k, err := c.keyedWrite()
	if err != nil {
		return nil, err
	}
	return c.write(in, k, t, []string{"NONE", "ALL_OLD", "ALL_NEW"}, func(old attributes) (attributes, error) {
		if old == nil {
			return maps.Clone(in.Key), nil
		}
		return maps.Clone(old), nil
	})
}

func (c *call) deleteItem() ([]byte, error) {
	in, t, k, err := c.keyedWrite()
	if err != nil {
		return nil, err
	}
	if in.UpdateExpression != nil {
		return nil, unsupported("the parameter UpdateExpression of DeleteItem")
	}
	return c.write(in, k, t, []string{"NONE", "ALL_OLD"}, func(attributes) (attributes, error) { return nil, nil })
}

func (c *call) keyedWrite() (*writeInput, *table, key, error) {
	var in writeInput
	if err := c.decode(&in); err != nil {
		return nil, nil, key{}, err
	}
	if in.Item != nil {
		return nil, nil, key{}, unsupported("the parameter Item of UpdateItem and DeleteItem")
	}
	t, err := c.server.table(in.TableName)
	if err != nil {
		return nil, nil, key{}, err
	}
	k, err := t.key(in.Key, true)
	return &in, t, k, err
}

// batchWriteItem leaves items unprocessed where a fault says so, or where a table's
// capacity is used up. Where that is so before the first item, the request is refused.
func (c *call) batchWriteItem() ([]byte, error) {
	var in struct {
		RequestItems map[string][]struct {
			PutRequest    *struct{ Item attributes }
			DeleteRequest *struct{ Key attributes }
		}
		ReturnConsumedCapacity      string
		ReturnItemCollectionMetrics string
	}
	if err := c.decode(&in); err != nil {
		return nil, err
	}
	if err := errors.Join(checkCapacity(in.ReturnConsumedCapacity), oneOf("ReturnItemCollectionMetrics", in.ReturnItemCollectionMetrics, "NONE")); err != nil {
		return nil, err
	}
	type write struct {
		k    key
		r    *record         // nil: delete
		sent json.RawMessage // as it came
	}
	var sent struct{ RequestItems map[string][]json.RawMessage }
	if err := json.Unmarshal(c.body, &sent); err != nil {
		return nil, err
	}
	writes := map[*table][]write{}
	count := 0
	for _, name := range slices.Sorted(maps.Keys(in.RequestItems)) {
		t, err := c.server.table(name)
		if err != nil {
			return nil, err
		}
		seen := map[key]bool{}
		for i, request := range in.RequestItems[name] {
			w := write{sent: sent.RequestItems[name][i]}
			switch {
			case (request.PutRequest == nil) == (request.DeleteRequest == nil):
				return nil, validation("Supplied AttributeValue has more than one datatypes set, must contain exactly one of the supported datatypes")
			case request.PutRequest != nil:
				if w.k, err = t.key(request.PutRequest.Item, false); err == nil {
					w.r, err = t.record(request.PutRequest.Item, w.k)
				}
			default:
				w.k, err = t.key(request.DeleteRequest.Key, true)
			}
			if err != nil {
				return nil, err
			}
			if seen[w.k] {
				return nil, validation("Provided list of item keys contains duplicates")
			}
			seen[w.k] = true
			writes[t] = append(writes[t], w)
			count++
		}
	}
	if count < 1 || count > 25 {
		return nil, validation("1 validation error detected: Value at 'requestItems' failed to satisfy constraint: Member must have between 1 and 25 write requests, not %d: Too many items requested for the BatchWriteItem call", count)
	}
	most := count
	if c.fault == Unprocessed {
		most = count / 2
	}
	var capacity []byte
	unprocessed, done := map[string][]json.RawMessage{}, 0
	for _, name := range slices.Sorted(maps.Keys(in.RequestItems)) {
		for t, list := range writes {
			if t.name != name {
				continue
			}
			units := 0.0
			t.mu.Lock()
			for _, w := range list {
				if done >= most || c.server.options.Provisioned && t.billing == types.BillingModeProvisioned && t.writing.usedUp(t.write, time.Now()) {
					unprocessed[name] = append(unprocessed[name], w.sent)
					continue
				}
				n := writeUnits(t.get(w.k), w.r)
				t.set(w.k, w.r)
				t.writing.units -= n
				t.written += n
				units += n
				done++
			}
			t.mu.Unlock()
			capacity = append(capacity, bytes.TrimPrefix(appendCapacity(nil, in.ReturnConsumedCapacity, name, units), []byte(`"ConsumedCapacity":`))...)
		}
	}
	if done == 0 && c.fault != Unprocessed {
		return nil, (&Fault{Kind: ThroughputExceeded}).refusal("", "")
	}
	left, err := json.Marshal(unprocessed)
	if err != nil {
		return nil, err
	}
	out := append(c.out, '{')
	if len(capacity) > 0 {
		out = append(out, `"ConsumedCapacity":[`...)
		out = append(append(out, bytes.TrimSuffix(capacity, []byte(","))...), "],"...)
	}
	return append(append(append(out, `"UnprocessedItems":`...), left...), '}'), nil
}

// batchGetItem returns items in no order of the request's. It leaves keys unprocessed
// where a fault says so, where a table's capacity is used up, or beyond 16 MB. Where that
// is so before the first item, the request is refused.
func (c *call) batchGetItem() ([]byte, error) {
	var in struct {
		RequestItems map[string]struct {
			Keys                     []attributes
			ConsistentRead           bool
			ProjectionExpression     *string
			ExpressionAttributeNames map[string]string
		}
		ReturnConsumedCapacity string
	}
	if err := c.decode(&in); err != nil {
		return nil, err
	}
	c.reads = true
	if err := checkCapacity(in.ReturnConsumedCapacity); err != nil {
		return nil, err
	}
	var sent struct {
		RequestItems map[string]map[string]json.RawMessage
	}
	if err := json.Unmarshal(c.body, &sent); err != nil {
		return nil, err
	}
	type read struct {
		k    key
		sent json.RawMessage // as it came
	}
	type tableReads struct {
		t       *table
		reads   []read
		project func([]byte, *record) []byte
	}
	wanted, count := map[string]tableReads{}, 0
	for name, request := range in.RequestItems {
		t, err := c.server.table(name)
		if err != nil {
			return nil, err
		}
		names := newExpressions(request.ExpressionAttributeNames, nil)
		project, err := names.projected(request.ProjectionExpression)
		if err != nil {
			return nil, err
		}
		if err := names.unused(); err != nil {
			return nil, err
		}
		var keys []json.RawMessage
		if err := json.Unmarshal(sent.RequestItems[name]["Keys"], &keys); err != nil || len(keys) == 0 || len(keys) != len(request.Keys) {
			return nil, validation("1 validation error detected: Value at 'requestItems.%s.member.keys' failed to satisfy constraint: Member must have length greater than or equal to 1", name)
		}
		reads, seen := make([]read, len(keys)), map[key]bool{}
		for i, given := range request.Keys {
			k, err := t.key(given, true)
			if err != nil {
				return nil, err
			}
			if seen[k] {
				return nil, validation("Provided list of item keys contains duplicates")
			}
			seen[k] = true
			reads[i] = read{k, keys[i]}
		}
		slices.SortFunc(reads, func(a, b read) int {
			return cmp.Or(cmp.Compare(hashOf(a.k.value), hashOf(b.k.value)), strings.Compare(a.k.sort, b.k.sort))
		})
		wanted[name] = tableReads{t, reads, project}
		count += len(keys)
	}
	if count < 1 {
		return nil, validation("1 validation error detected: Value '{}' at 'requestItems' failed to satisfy constraint: Member must have length greater than or equal to 1")
	}
	if count > maxBatchGet {
		return nil, validation("Too many items requested for the BatchGetItem call")
	}
	most := count
	if c.fault == Unprocessed {
		most = count / 2
	}
	var capacity []byte
	unprocessed, done := map[string]map[string]json.RawMessage{}, 0
	out := append(c.out, `{"Responses":{`...)
	for i, name := range slices.Sorted(maps.Keys(wanted)) {
		w := wanted[name]
		if i > 0 {
			out = append(out, ',')
		}
		out = append(appendString(out, name), ":["...)
		units, first := 0.0, true
		var left []json.RawMessage
		for _, read := range w.reads {
			if done >= most || c.read >= maxBatchBytes || c.admit(w.t) != nil {
				left = append(left, read.sent)
				continue
			}
			done++
			w.t.mu.RLock()
			r := w.t.get(read.k)
			w.t.mu.RUnlock()
			size := 0
			if r != nil {
				if !first {
					out = append(out, ',')
				}
				out, first, size = w.project(out, r), false, r.size
			}
			c.read += size
			n := readUnits(size, in.RequestItems[name].ConsistentRead)
			c.charge(w.t, n)
			units += n
		}
		out = append(out, ']')
		if len(left) > 0 {
			rest := maps.Clone(sent.RequestItems[name])
			rest["Keys"], _ = json.Marshal(left) // raw messages always marshal
			unprocessed[name] = rest
		}
		capacity = append(capacity, bytes.TrimPrefix(appendCapacity(nil, in.ReturnConsumedCapacity, name, units), []byte(`"ConsumedCapacity":`))...)
	}
	if done == 0 && c.fault != Unprocessed {
		return nil, (&Fault{Kind: ThroughputExceeded}).refusal("", "")
	}
	left, err := json.Marshal(unprocessed)
	if err != nil {
		return nil, err
	}
	out = append(out, "},"...)
	if len(capacity) > 0 {
		out = append(out, `"ConsumedCapacity":[`...)
		out = append(append(out, bytes.TrimSuffix(capacity, []byte(","))...), "],"...)
	}
	return append(append(append(out, `"UnprocessedKeys":`...), left...), '}'), nil
}

func (c *call) getItem() ([]byte, error) {
	var in struct {
		TableName                string
		Key                      attributes
		ConsistentRead           bool
		ProjectionExpression     *string
		ExpressionAttributeNames map[string]string
		ReturnConsumedCapacity   string
	}
	if err := c.decode(&in); err != nil {
		return nil, err
	}
	c.reads = true
	t, err := c.server.table(in.TableName)
	if err != nil {
		return nil, err
	}
	k, err := t.key(in.Key, true)
	if err != nil {
		return nil, err
	}
	if err := checkCapacity(in.ReturnConsumedCapacity); err != nil {
		return nil, err
	}
	names := newExpressions(in.ExpressionAttributeNames, nil)
	project, err := names.projected(in.ProjectionExpression)
	if err != nil {
		return nil, err
	}
	if err := names.unused(); err != nil {
		return nil, err
	}
	if err := c.admit(t); err != nil {
		return nil, err
	}
	t.mu.RLock()
	r := t.get(k)
	t.mu.RUnlock()

	if r != nil {
		c.read = r.size
	}
	units := readUnits(c.read, in.ConsistentRead)
	c.charge(t, units)
	out := append(c.out, '{')
	out = appendCapacity(out, in.ReturnConsumedCapacity, t.name, units)
	if r != nil {
		out = append(out, `"Item":`...)
		out = append(project(out, r), ',')
	}
	return closeObject(out), nil
}

// projected returns how to render an item: whole, or only the attributes of a
// projection expression.
func (e *expressions) projected(text *string) (func([]byte, *record) []byte, error) {
	if text == nil {
		return func(b []byte, r *record) []byte { return r.appendJSON(b) }, nil
	}
	names, err := e.projection(*text)
	return func(b []byte, r *record) []byte {
		item := r.item()
		maps.DeleteFunc(item, func(name string, _ types.AttributeValue) bool { return !slices.Contains(names, name) })
		return appendAttributes(b, item)
	}, err
}

// admit refuses a read where the table's capacity counts and is used up.
func (c *call) admit(t *table) error {
	if !c.server.options.Provisioned {
		return nil
	}
	return t.admit(time.Now())
}

// charge takes what a read has cost.
func (c *call) charge(t *table, units float64) {
	if c.server.options.Provisioned {
		t.charge(units)
	}
}

// readInput is what Scan and Query have in common.
type readInput struct {
	TableName                 string
	Limit                     *int
	ExclusiveStartKey         attributes
	ConsistentRead            bool
	Select                    string
	ProjectionExpression      *string
	ExpressionAttributeNames  map[string]string
	ExpressionAttributeValues attributes
	ReturnConsumedCapacity    string
}

// start checks the options and returns the table and the key to start after.
func (c *call) start(in *readInput) (*table, *key, int, error) {
	c.reads = true
	t, err := c.server.table(in.TableName)
	if err != nil {
		return nil, nil, 0, err
	}
	if err := errors.Join(
		oneOf("Select", in.Select, "ALL_ATTRIBUTES", "SPECIFIC_ATTRIBUTES", "COUNT"),
		checkCapacity(in.ReturnConsumedCapacity),
	); err != nil {
		return nil, nil, 0, err
	}
	if in.ProjectionExpression != nil && in.Select != "" && in.Select != "SPECIFIC_ATTRIBUTES" {
		return nil, nil, 0, validation("Cannot specify the ProjectionExpression when choosing to get %s", in.Select)
	}
	if in.ProjectionExpression == nil && in.Select == "SPECIFIC_ATTRIBUTES" {
		return nil, nil, 0, validation("Must specify the AttributesToGet or ProjectionExpression when choosing to get SPECIFIC_ATTRIBUTES")
	}
	limit := 0
	if in.Limit != nil {
		if limit = *in.Limit; limit < 1 {
			return nil, nil, 0, validation("Limit must be greater than or equal to 1")
		}
	}
	if in.ExclusiveStartKey == nil {
		return t, nil, limit, nil
	}
	k, err := t.key(in.ExclusiveStartKey, true)
	if err != nil {
		var bad *apiError
		if !errors.As(err, &bad) {
			return nil, nil, 0, err
		}
		return nil, nil, 0, validation("The provided starting key is invalid: %s", bad.message)
	}
	return t, &k, limit, nil
}

// page renders what a Scan or a Query read.
func (c *call) page(in *readInput, names *expressions, t *table, p page) ([]byte, error) {
	project, err := names.projected(in.ProjectionExpression)
	if err != nil {
		return nil, err
	}
	if err := names.unused(); err != nil {
		return nil, err
	}
	if err := c.admit(t); err != nil {
		return nil, err
	}
	c.read = p.bytes
	units := readUnits(p.bytes, in.ConsistentRead)
	c.charge(t, units)
	count := strconv.Itoa(len(p.records))
	out := append(c.out, '{')
	out = appendCapacity(out, in.ReturnConsumedCapacity, t.name, units)
	out = append(out, `"Count":`+count...)
	if in.Select != "COUNT" {
		out = slices.Grow(out, p.json+4096)
		out = append(out, `,"Items":[`...)
		for i, r := range p.records {
			if i > 0 {
				out = append(out, ',')
			}
			out = project(out, r)
		}
		out = append(out, ']')
	}
	if p.more {
		out = append(out, `,"LastEvaluatedKey":`...)
		out = p.records[len(p.records)-1].appendKey(out)
	}
	return append(out, `,"ScannedCount":`+count+`}`...), nil
}

func (c *call) scan() ([]byte, error) {
	var in struct {
		readInput
		Segment       *int
		TotalSegments *int
	}
	if err := c.decode(&in); err != nil {
		return nil, err
	}
	t, start, limit, err := c.start(&in.readInput)
	if err != nil {
		return nil, err
	}
	segment, total := 0, 1
	switch {
	case in.Segment == nil && in.TotalSegments == nil:
	case in.TotalSegments == nil:
		return nil, validation("The TotalSegments parameter is required but was not present in the request when Segment parameter is present")
	case in.Segment == nil:
		return nil, validation("The Segment parameter is required but was not present in the request when parameter TotalSegments is present")
	case *in.TotalSegments < 1 || *in.TotalSegments > 1_000_000:
		return nil, validation("1 validation error detected: Value '%d' at 'totalSegments' failed to satisfy constraint: Member must have value between 1 and 1000000", *in.TotalSegments)
	case *in.Segment < 0 || *in.Segment >= *in.TotalSegments:
		return nil, validation("The Segment parameter is zero-based and must be less than parameter TotalSegments: Segment: %d is not less than TotalSegments: %d", *in.Segment, *in.TotalSegments)
	default:
		segment, total = *in.Segment, *in.TotalSegments
	}
	if start != nil && segmentOf(hashOf(start.value), total) != segment {
		return nil, validation("The provided starting key is invalid: Invalid ExclusiveStartKey. Please use ExclusiveStartKey with correct Segment. TotalSegments: %d Segment: %d", total, segment)
	}
	t.mu.RLock()
	p := t.scan(segment, total, limit, start)
	t.mu.RUnlock()
	return c.page(&in.readInput, newExpressions(in.ExpressionAttributeNames, in.ExpressionAttributeValues), t, p)
}

// A legacyCondition is one of the KeyConditions that Vault's backend sends.
type legacyCondition struct {
	ComparisonOperator string
	AttributeValueList []json.RawMessage
}

func (c *call) query() ([]byte, error) {
	var in struct {
		readInput
		KeyConditions          map[string]legacyCondition
		KeyConditionExpression *string
		ScanIndexForward       *bool
	}
	if err := c.decode(&in); err != nil {
		return nil, err
	}
	t, start, limit, err := c.start(&in.readInput)
	if err != nil {
		return nil, err
	}
	names := newExpressions(in.ExpressionAttributeNames, in.ExpressionAttributeValues)
	var conditions []condition
	switch {
	case in.KeyConditionExpression != nil && in.KeyConditions != nil:
		return nil, validation("Can not use both expression and non-expression parameters in the same request: Non-expression parameters: {KeyConditions} Expression parameters: {KeyConditionExpression}")
	case in.KeyConditionExpression != nil:
		parsed, err := names.condition("KeyConditionExpression", *in.KeyConditionExpression)
		if err != nil {
			return nil, err
		}
		conditions = flatten(parsed)
	case in.KeyConditions != nil:
		if conditions, err = legacyConditions(in.KeyConditions); err != nil {
			return nil, err
		}
	default:
		return nil, validation("Either the KeyConditions or KeyConditionExpression parameter must be specified in the request.")
	}
	value, bounds, err := t.bounds(conditions)
	if err != nil {
		return nil, err
	}
	forward := in.ScanIndexForward == nil || *in.ScanIndexForward
	if start != nil && start.value != value {
		return nil, validation("The provided starting key is outside query boundaries based on provided conditions")
	}
	if start != nil && (bounds.before(start.sort) || bounds.after(start.sort)) {
		return nil, validation("The provided starting key does not match the range key predicate")
	}

	t.mu.RLock()
	var result page
	if p := t.byValue[value]; p != nil {
		lo := sort.Search(len(p.records), func(i int) bool { return !bounds.before(p.records[i].sort) })
		hi := sort.Search(len(p.records), func(i int) bool { return bounds.after(p.records[i].sort) })
		if start != nil {
			i, found := p.find(start.sort)
			switch {
			case !forward:
				hi = min(hi, i)
			case found:
				lo = max(lo, i+1)
			default:
				lo = max(lo, i)
			}
		}
		result = p.query(lo, hi, limit, forward)
	}
	t.mu.RUnlock()
	return c.page(&in.readInput, names, t, result)
}

// flatten takes a key condition apart at its ANDs.
func flatten(c condition) []condition {
	if both, ok := c.(and); ok {
		return slices.Concat(flatten(both.left), flatten(both.right))
	}
	return []condition{c}
}

func legacyConditions(in map[string]legacyCondition) ([]condition, error) {
	operators := map[string]string{"EQ": "=", "LT": "<", "LE": "<=", "GT": ">", "GE": ">="}
	var out []condition
	for _, name := range slices.Sorted(maps.Keys(in)) {
		given := in[name]
		left := operand{attribute: name}
		var values []operand
		for _, raw := range given.AttributeValueList {
			var w wireValue
			if err := strictUnmarshal(raw, &w); err != nil {
				return nil, validation("AttributeValueList does not decode: %v", err)
			}
			v, err := w.value()
			if err != nil {
				return nil, err
			}
			values = append(values, operand{constant: v})
		}
		want := 1
		if given.ComparisonOperator == "BETWEEN" {
			want = 2
		}
		if len(values) != want {
			return nil, validation("One or more parameter values were invalid: Invalid number of argument(s) for the %s ComparisonOperator", given.ComparisonOperator)
		}
		switch operator := operators[given.ComparisonOperator]; {
		case operator != "":
			out = append(out, comparison{operator, left, values[0]})
		case given.ComparisonOperator == "BEGINS_WITH":
			out = append(out, beginsWith{left, values[0]})
		case given.ComparisonOperator == "BETWEEN":
			if (comparison{">", values[0], values[1]}).holds(nil) {
				return nil, validation("The BETWEEN condition was provided a range where the lower bound is greater than the upper bound")
			}
			out = append(out, between{left, values[0], values[1]})
		default:
			return nil, validation("Attempted conditional constraint is not an indexable operation")
		}
	}
	return out, nil
}

// keyBounds say of a range key whether it lies before or after those that a
// Query wants.
type keyBounds struct {
	before, after func(sort string) bool
}

// bounds turns key conditions, which must be an equality of the hash key and
// at most one condition on the range key, into what they select.
func (t *table) bounds(conditions []condition) (value string, b keyBounds, err error) {
	never := func(string) bool { return false }
	b = keyBounds{never, never}
	seen := map[string]bool{}
	for _, c := range conditions {
		var subject operand
		var constants []operand
		var low, high string // operators under which a key is wanted
		switch c := c.(type) {
		case comparison:
			if c.left.constant != nil { // :v = #name
				c.left, c.right = c.right, c.left
				c.operator = map[string]string{"=": "=", "<": ">", "<=": ">=", ">": "<", ">=": "<=", "<>": "<>"}[c.operator]
			}
			subject, constants = c.left, []operand{c.right}
			switch c.operator {
			case "=":
				low, high = ">=", "<="
			case "<", "<=":
				high = c.operator
			case ">", ">=":
				low = c.operator
			default:
				return "", b, validation("Unsupported operator on KeyCondition: operator: %s", c.operator)
			}
		case between:
			subject, constants = c.value, []operand{c.low, c.high}
			low, high = ">=", "<="
		case beginsWith:
			subject, constants = c.value, []operand{c.prefix}
		default:
			return "", b, validation("Invalid operator used in KeyConditionExpression")
		}
		i := slices.IndexFunc(t.keys, func(k keyAttribute) bool { return k.name == subject.attribute })
		if i < 0 {
			return "", b, validation("Query condition missed key schema element: %s", t.keys[0].name)
		}
		if seen[subject.attribute] {
			return "", b, validation("KeyConditionExpressions must only contain one condition per key")
		}
		seen[subject.attribute] = true
		var sorts []string
		for _, o := range constants {
			if o.constant == nil {
				return "", b, validation("Invalid condition in KeyConditionExpression: Multiple attribute names used in one condition")
			}
			if typeName(o.constant) != t.keys[i].kind {
				return "", b, validation("One or more parameter values were invalid: Condition parameter type does not match schema type")
			}
			s, _ := sortString(o.constant)
			if s == "" {
				return "", b, validation("One or more parameter values are not valid. The AttributeValue for a key attribute cannot contain an empty string value. Key: %s", t.keys[i].name)
			}
			sorts = append(sorts, s)
		}
		if i == 0 {
			if c, ok := c.(comparison); !ok || c.operator != "=" {
				return "", b, validation("Query key condition not supported")
			}
			value = sorts[0]
			continue
		}
		first, last := sorts[0], sorts[len(sorts)-1]
		if _, ok := c.(beginsWith); ok {
			if t.keys[i].kind == "N" {
				return "", b, validation("One or more parameter values were invalid: ComparisonOperator BEGINS_WITH is not valid for N AttributeValue type")
			}
			b.before = func(s string) bool { return s < first }
			b.after = func(s string) bool { return s > first && !strings.HasPrefix(s, first) }
			continue
		}
		switch low {
		case ">":
			b.before = func(s string) bool { return s <= first }
		case ">=":
			b.before = func(s string) bool { return s < first }
		}
		switch high {
		case "<":
			b.after = func(s string) bool { return s >= last }
		case "<=":
			b.after = func(s string) bool { return s > last }
		}
	}
	if !seen[t.keys[0].name] {
		return "", b, validation("Query condition missed key schema element: %s", t.keys[0].name)
	}
	return value, b, nil
}
