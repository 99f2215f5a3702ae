package dynamodb

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/dustin/go-humanize"

	"github.com/dyn2raft/dyn2raft/copier"
)

// An Inspection is what [Source.Inspect] has found out about a table.
type Inspection struct {
	copier.Findings
	Survey *Survey // nil where the table may not be described
	Locks  *Locks  // nil where they were not read
	// Denied are the IAM actions that can't be used.
	Denied map[string]bool
	// Seal is the type of the seal in the table, and Version that of the newest
	// Vault on it; empty where nothing tells.
	Seal, Version string

	src  *Source
	when copier.Moment
}

// Check makes the checks of the table: access, what it serves, what hangs on it, who
// uses it, and whether it is a Vault's. It changes nothing. See [Source.Inspect] for
// what a program may want to know besides.
func (s *Source) Check(ctx context.Context, when copier.Moment) (copier.Findings, error) {
	in, err := s.Inspect(ctx, when)
	return in.Findings, err
}

// Inspect makes the checks of Check, and returns what it has learnt. The result is
// never nil. An error says that the table can't be reached; that it may not be
// described, or can't be copied, is a finding.
func (s *Source) Inspect(ctx context.Context, when copier.Moment) (*Inspection, error) {
	in := &Inspection{src: s, when: when, Denied: map[string]bool{}}
	survey, err := s.Survey(ctx)
	switch {
	case IsDenied(err):
		in.Fail("table", "", "%w", err)
		in.access(ctx)
		return in, nil
	case err != nil:
		return in, err
	}
	in.Survey = survey
	if survey.Problem != nil {
		in.Fail("table", "", "%w", survey.Problem)
		return in, nil
	}
	in.Pass("table", "%s is %s: %s items, %s by its own count, which may be 6 hours old",
		survey.Name, survey.Status, humanize.Comma(survey.Items), humanize.IBytes(uint64(max(survey.Bytes, 0))))
	in.access(ctx)
	in.clock()
	in.billing()
	in.backups(ctx)
	in.others()
	if !in.Denied["GetItem"] {
		in.content(ctx)
	}
	return in, nil
}

// access finds out which IAM actions are missing.
func (in *Inspection) access(ctx context.Context) {
	var allowed, missing [2][]string // to read, and to write
	names := [2]string{"access", "write-access"}
	ctx, cancel := in.soon(ctx)
	defer cancel()
	for _, a := range in.src.Probe(ctx, in.src.opts.NoWriteProbes) {
		kind := 0
		if a.Writes {
			kind = 1
		}
		switch {
		case a.Err == nil:
			allowed[kind] = append(allowed[kind], a.Action)
		case a.Denied():
			in.Denied[a.Action] = true
			missing[kind] = append(missing[kind], "dynamodb:"+a.Action)
		case in.when == copier.AtCopy: // which tries again, for longer
		default:
			in.Denied[a.Action] = true // could not be tried: others would fail too
			in.Fail(names[kind], "untried", "%w", a.Err)
		}
	}
	const all = 3
	if len(missing[0]) > 0 {
		in.Fail("access", "", "these IAM actions on the table are not allowed: %s", strings.Join(missing[0], ", "))
	} else if len(allowed[0]) == all {
		in.Pass("access", "allowed: %s", strings.Join(allowed[0], ", "))
	}
	said := "these IAM actions on the table, with which a copy locks it and frees it, are not allowed: " + strings.Join(missing[1], ", ")
	switch {
	case in.src.opts.NoWriteProbes:
		in.Warn("write-access", "untried", "not tried, on demand: PutItem, UpdateItem, DeleteItem").Unchecked = true
	case len(missing[1]) == 1 && in.Denied["DeleteItem"]:
		in.Warn("write-access", "", "%s: the copy can't free the table at its end", said)
	case len(missing[1]) > 0:
		in.Fail("write-access", "", "%s", said)
	case len(allowed[1]) == all:
		in.Pass("write-access", "allowed: %s (tried with conditions that never hold)", strings.Join(allowed[1], ", "))
	}
}

// soon bounds requests whose answer a copy can do without.
func (in *Inspection) soon(ctx context.Context) (context.Context, context.CancelFunc) {
	if in.when != copier.AtCopy {
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

func (in *Inspection) clock() {
	off, which := in.Survey.Skew.Abs(), "ahead of"
	if in.Survey.Skew < 0 {
		which = "behind"
	}
	said := fmt.Sprintf("this machine's clock is %s %s the table's", off.Round(time.Second), which)
	switch {
	case !in.Survey.Clock:
		in.Warn("clock", "", "the service does not tell its time")
	case off >= clockFar:
		in.Fail("clock", "", "%s", said)
	case off >= clockNear:
		in.Warn("clock", "", "%s", said)
	default:
		in.Pass("clock", "within 4 s of the service's")
	}
}

func (in *Inspection) billing() {
	s := in.Survey
	units := fmt.Sprintf("provisioned: %s read and %s write units a second", humanize.Comma(s.ReadUnits), humanize.Comma(s.WriteUnits))
	switch most := in.src.opts.ReadCapacity; {
	case s.OnDemand:
		in.Pass("capacity", "on demand")
	case most > float64(s.ReadUnits):
		in.Warn("capacity", "", "%s, less than the %g that a copy may use", units, most)
	default:
		in.Pass("capacity", "%s", units)
	}
}

// recentBackup is for how long a backup counts as one made for the copy.
const recentBackup = 24 * time.Hour

func (in *Inspection) backups(ctx context.Context) {
	ctx, cancel := in.soon(ctx)
	defer cancel()
	from, until, err := in.src.Recovery(ctx)
	on := !until.IsZero()
	if in.when == copier.AtCopy && on {
		return
	}
	switch {
	case isUnsupported(err):
		in.Warn("recovery", "unsupported", "this endpoint has no point-in-time recovery")
	case err != nil:
		in.Warn("recovery", "unknown", "point-in-time recovery could not be looked at: %w", err)
	case on:
		in.Pass("recovery", "point-in-time recovery is on, since %s", from.UTC().Format(time.RFC3339))
	default:
		in.Warn("recovery", "", "point-in-time recovery is off")
	}
	list, err := in.src.Backups(ctx)
	switch {
	case isUnsupported(err):
		in.Warn("backup", "unsupported", "this endpoint has no backups")
	case err != nil:
		in.Warn("backup", "unknown", "the table's backups could not be listed: %w", err)
	case len(list) == 0:
		in.Warn("backup", "", "the table has no backup, on demand or by AWS Backup")
	default:
		last := list[len(list)-1]
		if time.Since(last.Created) > recentBackup {
			in.Warn("backup", "old", "the last of %d backups, %s, was made %s", len(list), last.Name, humanize.Time(last.Created))
			break
		}
		in.Pass("backup", "%d; the last, %s, was made %s", len(list), last.Name, humanize.Time(last.Created))
	}
}

// others looks at what else hangs on the table.
func (in *Inspection) others() {
	s := in.Survey
	if s.DeletionProtection {
		in.Pass("deletion", "the table is protected from being deleted")
	} else {
		in.Warn("deletion", "", "the table is not protected from being deleted: it is the way back")
	}
	if s.Stream != "" {
		in.Warn("stream", "", "the table has a stream (%s): somebody reads what is written to it", s.Stream)
	} else {
		in.Pass("stream", "none")
	}
	if len(s.Replicas) > 0 {
		in.Warn("replicas", "", "the table is global, with replicas in %s", strings.Join(s.Replicas, ", "))
	} else {
		in.Pass("replicas", "none: the table is in this region only")
	}
}

// content makes the checks that look into the table.
func (in *Inspection) content(ctx context.Context) {
	locks, err := in.src.Locks(ctx)
	if err != nil {
		in.Fail("locks", "", "%w", err)
		return
	}
	in.Locks = &locks
	in.leader()
	if m := locks.Migration; m == nil {
		in.Pass("migration-lock", "none")
	} else {
		in.Fail("migration-lock", "", "core/migration is in the table, put by %s: neither a copy nor a Vault starts", m.Name)
	}
	in.initialized(ctx)
	if !in.Denied["Query"] {
		in.versions(ctx)
	}
}

func (in *Inspection) leader() {
	const check = "running-vault"
	switch l, doubt := in.Locks.Leader, in.Locks.Doubt; {
	case doubt != "" && in.when != copier.Ahead:
		in.Pass(check, "unknown: nothing in the table tells; all are said to be stopped")
	case doubt != "":
		in.Warn(check, "unknown", "unknown: %s", doubt)
	case l == nil:
		in.Pass(check, "none: nobody holds the leader lock")
	case l.Run != "" && !l.Expired:
		in.Fail(check, "copy", "another copy is at work: %s", l.Name)
	case !l.Expired:
		in.Fail(check, "", "one is running: %s", l.Name)
	default: // Vault only logs a failed renewal, and serves on.
		in.Warn(check, "expired", "the leader lock, of %s, has expired, which does not prove that its holder has stopped", l.Name)
	}
}

// seals are the types that core/seal-config takes: those of Vault up to 1.21,
// Enterprise's among them, and of OpenBao up to 2.4. A change of several seals at
// once leaves "multiseal" in the table.
var seals = strings.Fields(`shamir aead alicloudkms awskms azurekeyvault gcpckms ocikms pkcs11 hsm-auto transit multiseal
	kmip static huaweicloudkms tencentcloudkms`)

func (in *Inspection) initialized(ctx context.Context) {
	conf, err := copier.CheckVault(ctx, in.src)
	switch {
	case errors.Is(err, copier.ErrNotAVault):
		in.Fail("initialized", "", "%v; %s", err, in.whatItIs(ctx))
		return
	case err != nil:
		in.Fail("initialized", "unknown", "%w", err)
		return
	}
	in.Pass("initialized", "core/keyring and core/seal-config are there")
	in.Seal = conf.Type
	switch {
	case !slices.Contains(seals, strings.ToLower(conf.Type)):
		in.Fail("seal", "", "core/seal-config has the type %q, and neither Vault up to 1.21 nor OpenBao up to 2.4 has such a seal", conf.Type)
	case conf.Type == "shamir":
		in.Pass("seal", "shamir: have %d of the %d unseal keys at hand", conf.Threshold, conf.Shares)
	default:
		in.Warn("seal", "auto", "auto-unseal by %s", conf.Type)
	}
}

// whatItIs says what a table of no initialized Vault probably is.
func (in *Inspection) whatItIs(ctx context.Context) string {
	const other = "it holds other entries: a part of a Vault's data, or another program's"
	var page copier.Batch
	locks := 0
	next, err := in.src.Split(ctx, 1)
	if err != nil {
		return other
	}
	for len(next) > 0 {
		read, err := in.src.Read(ctx, next[0], &page)
		if err != nil || page.Len() > 0 {
			return other
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

func (in *Inspection) versions(ctx context.Context) {
	ctx, cancel := in.soon(ctx)
	defer cancel()
	list, err := in.src.Versions(ctx)
	switch {
	case err != nil:
		in.Warn("version", "unknown", "%w", err)
	case len(list) == 0:
		in.Warn("version", "", "the table does not tell which Vault has run on it (those before 1.9 did not)")
	default:
		in.Version = list[len(list)-1]
		in.Pass("version", "the newest Vault on this table was %s: start the same on the copy", in.Version)
	}
}
