package dynamotest

import (
	"crypto/rand"
	"encoding/json"
	"slices"
	"strconv"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/dynamodb/types"
)

// TableDetails are what DescribeTable and DescribeContinuousBackups say of a
// table beside its keys and its size. They change nothing in how it is served.
type TableDetails struct {
	DeletionProtection bool
	Replicas           []string  // other regions
	Recovery           bool      // point-in-time recovery is on
	WarmReadUnits      int64     // WarmThroughput's read units a second; 0 has it left out
	AWSBackup          time.Time // when AWS Backup made a backup; zero is none
}

// SetTableDetails sets what is said of a table.
func (s *Server) SetTableDetails(name string, d TableDetails) error {
	t, err := s.anyTable(name)
	if err != nil {
		return err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.details = d
	return nil
}

// SetCapacity makes a table one with provisioned capacity, in units a second,
// or, where both are 0, one that is billed on demand. It says so in
// DescribeTable; it holds back reads only with Options.Provisioned.
func (s *Server) SetCapacity(name string, read, write int64) error {
	t, err := s.anyTable(name)
	if err != nil {
		return err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.billing, t.read, t.write = types.BillingModeProvisioned, read, write
	if read == 0 && write == 0 {
		t.billing = types.BillingModePayPerRequest
	}
	return nil
}

// The parts of a description that TableDetails fill.
type (
	replicaDescription struct {
		RegionName    string
		ReplicaStatus types.ReplicaStatus
	}
	warmThroughput struct {
		ReadUnitsPerSecond, WriteUnitsPerSecond int64
		Status                                  types.TableStatus
	}
	streamSpecification struct {
		StreamEnabled  bool
		StreamViewType types.StreamViewType `json:",omitempty"`
	}
)

// describe adds the details to a description.
func (d *TableDetails) describe(out *tableDescription) {
	out.DeletionProtectionEnabled = d.DeletionProtection
	if d.WarmReadUnits > 0 {
		out.WarmThroughput = &warmThroughput{ReadUnitsPerSecond: d.WarmReadUnits, Status: types.TableStatusActive}
	}
	for _, region := range d.Replicas {
		out.Replicas = append(out.Replicas, replicaDescription{region, types.ReplicaStatusActive})
	}
}

// seconds is a time as the service's JSON has it.
func seconds(t time.Time) json.Number {
	return json.Number(strconv.FormatFloat(float64(t.UnixMilli())/1000, 'f', 3, 64))
}

// A budget holds a table's reads, or what is written in batches, to its provisioned
// capacity. As the service's it is filled every moment, is not asked how much a request
// will cost, and refuses requests while it is overdrawn. It holds one second's worth
// where the service's keeps up to 300 s of what was not used.
type budget struct {
	units float64
	at    time.Time
}

// usedUp fills the budget by a rate, in units a second, and reports whether nothing is left.
func (b *budget) usedUp(rate int64, now time.Time) bool {
	if b.at.IsZero() {
		b.units = float64(rate)
	} else {
		b.units = min(float64(rate), b.units+float64(rate)*now.Sub(b.at).Seconds())
	}
	b.at = now
	return b.units <= 0
}

// admit refuses a read of a table whose capacity is used up.
func (t *table) admit(now time.Time) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.billing == types.BillingModeProvisioned && t.budget.usedUp(t.read, now) {
		return (&Fault{Kind: ThroughputExceeded}).refusal("", "")
	}
	return nil
}

// charge takes what a read has cost.
func (t *table) charge(units float64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.budget.units -= units
}

// A backup is an on-demand backup. It holds no items.
type backup struct {
	name, arn string
	created   time.Time
	ready     time.Time
}

type backupDetails struct {
	BackupArn              string
	BackupCreationDateTime json.Number
	BackupName             string
	BackupStatus           types.BackupStatus
	BackupType             types.BackupType
	BackupSizeBytes        int64
}

func (b *backup) details(now time.Time) backupDetails {
	status := types.BackupStatusAvailable
	if now.Before(b.ready) {
		status = types.BackupStatusCreating
	}
	return backupDetails{b.arn, seconds(b.created), b.name, status, types.BackupTypeUser, 0}
}

// createBackup takes Options.BackupTime until the backup is available.
func (c *call) createBackup() ([]byte, error) {
	var in struct{ TableName, BackupName string }
	if err := c.decode(&in); err != nil {
		return nil, err
	}
	if !tableName.MatchString(in.BackupName) { // the same rules
		return nil, validation("1 validation error detected: Value '%s' at 'backupName' failed to satisfy constraint: Member must satisfy regular expression pattern: [a-zA-Z0-9_.-]+", in.BackupName)
	}
	t, err := c.server.table(in.TableName)
	if err != nil {
		return nil, &apiError{400, dynamoError + "TableNotFoundException", "Table not found: " + in.TableName, nil}
	}
	now := time.Now()
	b := &backup{name: in.BackupName, created: now, ready: now.Add(c.server.options.BackupTime),
		arn: t.arn() + "/backup/0" + strconv.FormatInt(now.UnixMilli(), 10) + "-" + rand.Text()[:8]}
	t.mu.Lock()
	t.backups = append(t.backups, b)
	t.mu.Unlock()
	return json.Marshal(map[string]any{"BackupDetails": b.details(now)})
}

func (c *call) describeBackup() ([]byte, error) {
	var in struct{ BackupArn string }
	if err := c.decode(&in); err != nil {
		return nil, err
	}
	t, b := c.server.backup(in.BackupArn)
	if b == nil {
		return nil, &apiError{400, dynamoError + "BackupNotFoundException", "Backup not found: " + in.BackupArn, nil}
	}
	return json.Marshal(map[string]any{"BackupDescription": map[string]any{
		"BackupDetails": b.details(time.Now()),
		"SourceTableDetails": map[string]any{"TableName": t.name, "TableId": t.id, "TableArn": t.arn(),
			"TableCreationDateTime": seconds(t.created), "KeySchema": t.describe().KeySchema,
			"ProvisionedThroughput": throughput{t.read, t.write}},
	}})
}

func (c *call) deleteBackup() ([]byte, error) {
	var in struct{ BackupArn string }
	if err := c.decode(&in); err != nil {
		return nil, err
	}
	t, b := c.server.backup(in.BackupArn)
	if b == nil {
		return nil, &apiError{400, dynamoError + "BackupNotFoundException", "Backup not found: " + in.BackupArn, nil}
	}
	t.mu.Lock()
	t.backups = slices.DeleteFunc(t.backups, func(other *backup) bool { return other == b })
	t.mu.Unlock()
	return json.Marshal(map[string]any{"BackupDescription": map[string]any{"BackupDetails": b.details(time.Now())}})
}

func (s *Server) backup(arn string) (*table, *backup) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, t := range s.tables {
		t.mu.RLock()
		i := slices.IndexFunc(t.backups, func(b *backup) bool { return b.arn == arn })
		t.mu.RUnlock()
		if i >= 0 {
			return t, t.backups[i]
		}
	}
	return nil, nil
}

func (c *call) listBackups() ([]byte, error) {
	var in struct {
		TableName  string
		BackupType types.BackupTypeFilter
	}
	if err := c.decode(&in); err != nil {
		return nil, err
	}
	t, err := c.server.anyTable(in.TableName)
	if err != nil {
		return nil, err
	}
	now := time.Now()
	list := []any{}
	t.mu.RLock()
	defer t.mu.RUnlock()
	add := func(b backupDetails) {
		list = append(list, struct {
			backupDetails
			TableArn, TableId, TableName string
		}{b, t.arn(), t.id, t.name})
	}
	if in.BackupType != types.BackupTypeFilterAwsBackup {
		for _, b := range t.backups {
			add(b.details(now))
		}
	}
	if all := in.BackupType == types.BackupTypeFilterAll || in.BackupType == types.BackupTypeFilterAwsBackup; all && !t.details.AWSBackup.IsZero() {
		add(backupDetails{"arn:aws:backup:us-east-1:000000000000:recovery-point:" + t.id, seconds(t.details.AWSBackup), "aws-backup",
			types.BackupStatusAvailable, types.BackupTypeAwsBackup, 0})
	}
	return json.Marshal(map[string]any{"BackupSummaries": list})
}

func (c *call) describeContinuousBackups() ([]byte, error) {
	var in struct{ TableName string }
	if err := c.decode(&in); err != nil {
		return nil, err
	}
	t, err := c.server.table(in.TableName)
	if err != nil {
		return nil, &apiError{400, dynamoError + "TableNotFoundException", "Table not found: " + in.TableName, nil}
	}
	t.mu.RLock()
	defer t.mu.RUnlock()
	recovery := map[string]any{"PointInTimeRecoveryStatus": types.PointInTimeRecoveryStatusDisabled}
	if t.details.Recovery {
		recovery = map[string]any{
			"PointInTimeRecoveryStatus":  types.PointInTimeRecoveryStatusEnabled,
			"EarliestRestorableDateTime": seconds(t.created),
			"LatestRestorableDateTime":   seconds(time.Now().Add(-5 * time.Minute)),
		}
	}
	return json.Marshal(map[string]any{"ContinuousBackupsDescription": map[string]any{
		"ContinuousBackupsStatus": types.ContinuousBackupsStatusEnabled, "PointInTimeRecoveryDescription": recovery,
	}})
}
