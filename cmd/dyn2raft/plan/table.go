package plan

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/dustin/go-humanize"

	"github.com/dyn2raft/dyn2raft/cmd/dyn2raft/config"
	"github.com/dyn2raft/dyn2raft/copier"
	sink "github.com/dyn2raft/dyn2raft/sinks/raft"
	"github.com/dyn2raft/dyn2raft/sources/dynamodb"
)

// table makes the checks of the table as a whole. It reports whether there is any
// use in looking into it. An error says that the table can't be reached.
func (p *planner) table(ctx context.Context) (readable bool, err error) {
	survey, err := p.Source.Survey(ctx)
	switch {
	case dynamodb.IsDenied(err):
		p.fail("table", err.Error(), copier.Hint(err))
		p.access(ctx)
		return false, nil
	case err != nil:
		return false, err
	}
	p.survey, p.report.ID = survey, survey.ID
	if survey.Problem != nil {
		p.fail("table", survey.Problem.Error(), copier.Hint(survey.Problem))
		return false, nil
	}
	p.pass("table", "%s is %s: %s items, %s by its own count, which may be 6 hours old",
		survey.Name, survey.Status, humanize.Comma(survey.Items), size(survey.Bytes))
	p.access(ctx)
	p.clock()
	p.billing()
	p.backups(ctx)
	p.others()
	return !p.denied["GetItem"], nil
}

// access finds out which IAM actions are missing.
func (p *planner) access(ctx context.Context) {
	p.denied = map[string]bool{}
	type probed struct{ allowed, missing []string }
	found := map[string]*probed{"access": {}, "write-access": {}}
	ctx, cancel := p.soon(ctx)
	defer cancel()
	for _, a := range p.Source.Probe(ctx, p.NoWriteProbes) {
		check := "access"
		if a.Writes {
			check = "write-access"
		}
		switch {
		case a.Err == nil:
			found[check].allowed = append(found[check].allowed, a.Action)
		case a.Denied():
			p.denied[a.Action] = true
			found[check].missing = append(found[check].missing, "dynamodb:"+a.Action)
		case p.atCopy: // which tries again, for longer
		default:
			p.denied[a.Action] = true // could not be tried: others would fail too
			p.fail(check, a.Err.Error(), copier.Hint(a.Err))
		}
	}
	const hint = "add them to the policy of these credentials; docs/iam.md has the whole policy"
	if f := found["access"]; len(f.missing) > 0 {
		p.fail("access", "these IAM actions on the table are not allowed: "+strings.Join(f.missing, ", "), hint)
	} else if len(f.allowed) == 3 {
		p.pass("access", "allowed: %s", strings.Join(f.allowed, ", "))
	}
	f := found["write-access"]
	said := "these IAM actions on the table, with which a copy locks it and frees it, are not allowed: " + strings.Join(f.missing, ", ")
	switch {
	case p.NoWriteProbes:
		p.report.Checks = append(p.report.Checks, Result{Check: "write-access", Status: Warning, Unchecked: true,
			Message: "not tried, on demand: PutItem, UpdateItem, DeleteItem",
			Hint:    "see that the policy of the credentials for the copy has them; docs/iam.md has the whole policy"})
	case len(f.missing) == 1 && p.denied["DeleteItem"]:
		p.warn("write-access", said+": the copy can't free the table at its end", hint)
	case len(f.missing) > 0:
		p.fail("write-access", said, hint)
	case len(f.allowed) == 3:
		p.pass("write-access", "allowed: %s (tried with conditions that never hold)", strings.Join(f.allowed, ", "))
	}
}

// soon bounds requests whose answer a copy can do without.
func (p *planner) soon(ctx context.Context) (context.Context, context.CancelFunc) {
	if !p.atCopy {
		return ctx, func() {}
	}
	return context.WithTimeout(ctx, 3*time.Second)
}

// Clocks may differ by as much as a request's signature allows, which is 5
// minutes by AWS's documentation of signed requests. A leader lock is good for
// 15 s, so that a few seconds do matter when it is judged by our clock.
const (
	clockNear = 4 * time.Second
	clockFar  = 5 * time.Minute
)

func (p *planner) clock() {
	off := p.survey.Skew.Abs()
	which := "ahead of"
	if p.survey.Skew < 0 {
		which = "behind"
	}
	said := fmt.Sprintf("this machine's clock is %s %s the table's", off.Round(time.Second), which)
	const hint = "set the clock by NTP (timedatectl set-ntp true): locks and signatures depend on it"
	switch {
	case !p.survey.Clock:
		p.warn("clock", "the service does not tell its time", hint)
	case off >= clockFar:
		p.fail("clock", said, hint)
	case off >= clockNear:
		p.warn("clock", said, hint)
	default:
		p.pass("clock", "within 4 s of the service's")
	}
}

func (p *planner) billing() {
	s := p.survey
	switch {
	case s.OnDemand:
		p.pass("capacity", "on demand")
	case p.ReadCapacity > 0 && p.ReadCapacity > float64(s.ReadUnits):
		p.warn("capacity", fmt.Sprintf("provisioned: %s read and %s write units a second, less than -read-capacity", humanize.Comma(s.ReadUnits), humanize.Comma(s.WriteUnits)),
			"the copy will be throttled: raise the capacity, or lower -read-capacity")
	default:
		p.pass("capacity", "provisioned: %s read and %s write units a second", humanize.Comma(s.ReadUnits), humanize.Comma(s.WriteUnits))
	}
}

// recentBackup is for how long a backup counts as one made for the copy.
const recentBackup = 24 * time.Hour

func (p *planner) backups(ctx context.Context) {
	if p.Backup {
		return // there will be one
	}
	ctx, cancel := p.soon(ctx)
	defer cancel()
	from, until, err := p.Source.Recovery(ctx)
	recovery := !until.IsZero()
	if p.atCopy && recovery {
		return
	}
	switch {
	case err != nil:
		p.warn("recovery", "point-in-time recovery could not be looked at: "+err.Error(),
			"allow dynamodb:DescribeContinuousBackups, or see for yourself: aws dynamodb describe-continuous-backups --table-name "+p.survey.Name)
	case recovery:
		p.pass("recovery", "point-in-time recovery is on, since %s", from.UTC().Format(time.RFC3339))
	default:
		p.warn("recovery", "point-in-time recovery is off",
			"switch it on, or make a backup before the copy (-backup NAME)")
	}
	list, err := p.Source.Backups(ctx)
	switch {
	case err != nil:
		p.warn("backup", "the table's backups could not be listed: "+err.Error(), "allow dynamodb:ListBackups, or see for yourself: aws dynamodb list-backups --table-name "+p.survey.Name)
	case len(list) == 0:
		p.warn("backup", "the table has no backup, on demand or by AWS Backup", "copy with -backup NAME makes one before the first read")
	default:
		last := list[len(list)-1]
		age := time.Since(last.Created)
		if age > recentBackup {
			p.warn("backup", fmt.Sprintf("the last of %d backups, %s, is %s old", len(list), last.Name, longTime(age)),
				"what Vault has written since is not in it: copy with -backup NAME makes one before the first read")
			break
		}
		p.pass("backup", "%d; the last, %s, is %s old", len(list), last.Name, longTime(age))
	}
}

// others looks at what else hangs on the table.
func (p *planner) others() {
	s := p.survey
	if s.DeletionProtection {
		p.pass("deletion", "the table is protected from being deleted")
	} else {
		p.warn("deletion", "the table is not protected from being deleted: it is the way back",
			"aws dynamodb update-table --table-name "+s.Name+" --deletion-protection-enabled")
	}
	if s.Stream != "" {
		p.warn("stream", "the table has a stream ("+s.Stream+"): somebody reads what is written to it",
			"find out who: what they do ends when Vault leaves the table")
	} else {
		p.pass("stream", "none")
	}
	if len(s.Replicas) > 0 {
		p.warn("replicas", "the table is global, with replicas in "+strings.Join(s.Replicas, ", "),
			"stop Vaults in those regions too: what they write arrives here later, and locks don't reach them at once")
	} else {
		p.pass("replicas", "none: the table is in this region only")
	}
}

// content makes the checks that look into the table.
func (p *planner) content(ctx context.Context) {
	var err error
	if p.locks, err = p.Source.Locks(ctx); err != nil {
		p.fail("locks", err.Error(), copier.Hint(err))
		return
	}
	p.looked = true
	p.vault()
	p.migration()
	p.initialized(ctx)
	if !p.denied["Query"] {
		p.versions(ctx)
	}
}

func (p *planner) vault() {
	l := p.locks.Leader
	switch {
	case p.locks.Doubt != "" && p.Stopped:
		p.pass("running-vault", "unknown: nothing in the table tells; all are stopped, you say (-source-stopped)")
	case p.locks.Doubt != "":
		p.warn("running-vault", "unknown: "+p.locks.Doubt,
			"make sure that every Vault is stopped before the copy, which asks for that, or wants -source-stopped")
	case l == nil:
		p.pass("running-vault", "none: nobody holds the leader lock")
	case l.Run != "" && !l.Expired:
		p.fail("running-vault", "another copy is at work: "+l.Name, "let it end")
	case !l.Expired:
		p.fail("running-vault", "one is running: "+l.Name, "stop every Vault before the copy, which refuses to start while one runs; its lock expires 15 s after the last renewal")
	default:
		// Vault only logs a failed renewal, and serves on.
		p.warn("running-vault", "the leader lock, of "+l.Name+", has expired, which does not prove that its holder has stopped",
			"make sure that every Vault is stopped; a copy watches the lock for 11 s, takes it, and holds it for 30 s before it reads")
	}
}

func (p *planner) migration() {
	m := p.locks.Migration
	if m == nil {
		p.pass("migration-lock", "none")
		return
	}
	said := "core/migration is in the table, put by " + m.Name
	if _, setup, err := copier.ReadStatus(sink.WorkDir(p.Config.Destination.Path)); err == nil && setup != nil && m.Run != "" && setup.RunID == m.Run {
		p.warn("migration-lock", said+", which has an unfinished copy in the destination", "leave it: it is the copy's that is to be resumed")
		return
	}
	if done := p.finished(); done != nil && m.Run != "" && done.RunID == m.Run {
		p.warn("migration-lock", said+": left on purpose by the finished copy, in "+p.Config.Destination.Path+" since "+done.End.UTC().Format(time.RFC3339),
			"leave it: it keeps old Vaults from starting. Only for the way back to the old cluster: "+p.Command+" -reset")
		return
	}
	if m.Run != "" {
		p.fail("migration-lock", said+": neither a copy nor a Vault starts",
			"if that run is at work, let it end; if it has finished, here or on another node, and left the lock on purpose (-keep-source-locked), leave it; if it is dead, go on with it where it was begun (--resume), or remove the lock: "+p.Command+" -reset")
		return
	}
	p.fail("migration-lock", said+": neither a copy nor a Vault starts",
		"if that migration is running, let it end; if it is dead, remove the lock: "+p.Command+" -reset")
}

func (p *planner) initialized(ctx context.Context) {
	conf, err := copier.CheckVault(ctx, p.Source)
	switch {
	case errors.Is(err, copier.ErrNotAVault):
		p.fail("initialized", err.Error()+"; "+p.whatItIs(ctx),
			"a Vault would start on the copy as a new one, or end: check table and region in storage_source, and what beats them in the environment")
		return
	case err != nil:
		p.fail("initialized", err.Error(), copier.Hint(err))
		return
	}
	p.pass("initialized", "core/keyring and core/seal-config are there")
	p.seal = conf.Type
	switch {
	case !config.KnownSeal(conf.Type):
		p.fail("seal", fmt.Sprintf("core/seal-config has the type %q, and neither Vault up to 1.21 nor OpenBao up to 2.4 has such a seal", conf.Type),
			"no Vault starts on the copy: find out what has written it")
	case conf.Type == "shamir":
		p.pass("seal", "shamir: have %d of the %d unseal keys at hand", conf.Threshold, conf.Shares)
	default:
		p.warn("seal", "auto-unseal by "+conf.Type, "every new server needs the seal stanza of the old ones, and the right to use the same key; try that before the window")
	}
}

// whatItIs says what a table of no initialized Vault probably is.
func (p *planner) whatItIs(ctx context.Context) string {
	var page copier.Batch
	locks := 0
	for next := []copier.Span{{Total: 1}}; len(next) > 0; {
		read, err := p.Source.Read(ctx, next[0], &page)
		switch {
		case err != nil || page.Len() > 0:
			return "it holds other entries: a part of a Vault's data, or another program's"
		}
		locks += len(read.Locks)
		next = append(read.Next, next[1:]...)
	}
	const wrong = "Vault makes such a table by itself when it is started with a wrong table name or region"
	if locks > 0 {
		return "it holds nothing but locks: it is probably the HA storage of a Vault whose data are elsewhere (S3, Consul, files), or " + wrong
	}
	return "it is empty: " + wrong
}

func (p *planner) versions(ctx context.Context) {
	ctx, cancel := p.soon(ctx)
	defer cancel()
	list, err := p.Source.Versions(ctx)
	switch {
	case err != nil:
		p.warn("version", err.Error(), copier.Hint(err))
	case len(list) == 0:
		p.warn("version", "the table does not tell which Vault has run on it (those before 1.9 did not)", "start the same version on the copy; upgrade before or after, not at once")
	default:
		p.version = list[len(list)-1]
		p.pass("version", "the newest Vault on this table was %s: start the same on the copy", p.version)
	}
}

func size(n int64) string { return humanize.IBytes(uint64(max(n, 0))) }

// longTime is a duration as people say it.
func longTime(d time.Duration) string {
	switch {
	case d >= 48*time.Hour:
		return fmt.Sprintf("%.0f days", d.Hours()/24)
	case d >= 100*time.Minute:
		return fmt.Sprintf("%.1f h", d.Hours())
	case d >= 100*time.Second:
		return fmt.Sprintf("%.0f min", d.Minutes())
	case d >= 10*time.Second:
		return fmt.Sprintf("%.0f s", d.Seconds())
	default:
		return fmt.Sprintf("%.1f s", d.Seconds())
	}
}
