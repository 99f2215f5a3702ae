package estimate

import (
	"time"

	"github.com/dyn2raft/dyn2raft/copier"
)

// A Downtime compares how long Vault is stopped for a copy, without its own stop, start,
// unsealing and election, which each copy wants.
type Downtime struct {
	// Offline is that of a copy which nobody may write beside: as the table is now first,
	// then as it could be made for the window. What would be no more than that of now is
	// left out.
	Offline []Offline `json:"offline"`
	// Live is that of a copy that follows the table and cuts over, in seconds. It does
	// not grow with the table.
	Live float64 `json:"live_seconds"`
	// Recommended is what to do, and Because why.
	Recommended Way    `json:"recommended"`
	Because     Reason `json:"because"`
}

// An Offline is how long an offline copy will probably take with a capacity.
type Offline struct {
	Capacity Capacity `json:"capacity"`
	// Units is the capacity in read units a second; 0 is as many as are asked for.
	Units   int64   `json:"read_units,omitempty"`
	Seconds float64 `json:"seconds"`
}

// A Capacity is one that a table has or can be given.
type Capacity string

// The capacities.
const (
	// AtPresent is what it has, with the cap that the copy is given.
	AtPresent Capacity = "present"
	// AtWarm is what it can serve at once, by its own description, when it is billed on
	// demand or provisioned with that much.
	AtWarm Capacity = "warm_throughput"
	// AtQuota is what a table may have by default. The quota of the account is not asked.
	AtQuota Capacity = "default_quota"
)

// A Way is how a table is copied.
type Way string

// The ways.
const (
	OfflineCopy Way = "offline"
	LiveCopy    Way = "live"
)

// A Reason is why a way is recommended.
type Reason string

// The reasons.
const (
	// Short: an offline copy is simpler, and takes little.
	Short Reason = "short"
	// Large: the table has so many entries that an offline copy takes long on demand too.
	Large Reason = "large"
	// Slow: the table's capacity makes an offline copy long. Once that is raised, Short
	// holds.
	Slow Reason = "capacity"
	// Replicated: a live copy refuses tables with replicas in other regions.
	Replicated Reason = "replicas"
)

const (
	// quotaUnits is the default quota of a table, in read units a second (Developer Guide,
	// "Quotas in Amazon DynamoDB").
	quotaUnits = 40_000
	// manyEntries is from where on a live copy pays on demand.
	manyEntries = 3_000_000
	// cutOver is the live copy's part of the downtime: from the lock to where a Vault may
	// be started.
	cutOver = time.Second
)

// downtime fills in the comparison.
func (p *estimator) downtime(e *Estimate, m *model, now settings) {
	d := &Downtime{Offline: []Offline{{AtPresent, int64(now.units()), e.Seconds}}, Live: cutOver.Seconds(), Recommended: OfflineCopy, Because: Short}
	free := now
	free.cap = 0 // in the window no Vault needs what is left
	present, _, limit := m.predict(free)
	for _, c := range []Offline{{Capacity: AtWarm, Units: p.Survey.WarmReadUnits}, {Capacity: AtQuota, Units: quotaUnits}} {
		if last := d.Offline[len(d.Offline)-1].Units; c.Units <= last {
			continue
		}
		raised := free
		raised.table = float64(c.Units)
		c.Seconds, _, _ = m.predict(raised)
		d.Offline = append(d.Offline, c)
	}
	switch {
	case len(p.Survey.Replicas) > 0:
		d.Because = Replicated
	case e.Entries > manyEntries:
		d.Recommended, d.Because = LiveCopy, Large
	case limit == copier.LimitTable && present > longCopy.Seconds():
		d.Recommended, d.Because = LiveCopy, Slow
	}
	e.Downtime = d
}
