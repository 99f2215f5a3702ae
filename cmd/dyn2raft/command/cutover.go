package command

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/user"
	"path/filepath"
	"strings"
	"time"

	"github.com/urfave/cli/v3"

	"github.com/dyn2raft/dyn2raft/cmd/dyn2raft/figures"
	"github.com/dyn2raft/dyn2raft/cmd/dyn2raft/hints"
	"github.com/dyn2raft/dyn2raft/cmd/dyn2raft/visible"
	"github.com/dyn2raft/dyn2raft/copier"
	"github.com/dyn2raft/dyn2raft/copier/durable"
	"github.com/dyn2raft/dyn2raft/copier/vaultconfig"
	sink "github.com/dyn2raft/dyn2raft/sinks/raft"
)

// An order is what cutover tells a copy that follows its table. It is a file in the
// copy's work directory, which the copy reads, and removes once it is carried out.
type order struct {
	ID       string    `json:"id"` // no other order has it
	Rehearse bool      `json:"rehearse"`
	Given    time.Time `json:"given"`
	By       string    `json:"by"` // user@host
}

func orderFile(path string) string { return filepath.Join(sink.WorkDir(path), "cutover.json") }

// maxOrder is the most bytes that are read of an order.
const maxOrder = 4 << 10

// readOrder reads the order that lies in the work directory of the copy into path. An
// error that is fs.ErrNotExist says that there is none.
func readOrder(path string) (o order, err error) {
	data, err := durable.ReadFile(orderFile(path), maxOrder)
	if err == nil {
		err = json.Unmarshal(data, &o)
	}
	return o, err
}

// what says what an order is for, who gave it, and when.
func (o order) what() string {
	what := "cut over"
	if o.Rehearse {
		what = "rehearse"
	}
	return visible.Text(fmt.Sprintf("%s, given by %s %s", what, o.By, ago(o.Given)))
}

// whenReadyFlag has a copy cut over without an order. It is on record what the process
// that runs was given.
const whenReadyFlag = "cutover-when-ready"

// whenReady reports whether a copy needs no order to cut over.
func whenReady(r *copier.Record) bool { return r != nil && r.Settings[whenReadyFlag] == "true" }

// giver is who gives an order: of a command that sudo runs, who called that.
func giver(env func(string) (string, bool)) string {
	name, _ := env("SUDO_USER")
	if u, err := user.Current(); name == "" && err == nil {
		name = u.Username
	}
	host, _ := os.Hostname() // or nothing
	return name + "@" + host
}

// armed returns what copier.Live.Armed asks: what the order says that lies there. One
// that is older than this process was for another one.
func armed(path string, whenReady bool, out *printer) func() copier.Arm {
	file, began := orderFile(path), time.Now()
	var failed string
	return func() copier.Arm {
		var o order
		fi, err := os.Lstat(file)
		if err == nil && fi.ModTime().Before(began) {
			err = errors.Join(os.Remove(file), fs.ErrNotExist)
		}
		if err == nil {
			o, err = readOrder(path)
		}
		switch {
		case err == nil && o.Rehearse:
			return copier.Rehearse
		case err == nil:
			return copier.Armed
		case !errors.Is(err, fs.ErrNotExist) && err.Error() != failed:
			failed = err.Error()
			out.log.Warn("an order to cut over can't be read", "error", err)
		}
		if whenReady && errors.Is(err, fs.ErrNotExist) {
			return copier.Armed
		}
		return copier.NotArmed
	}
}

func cutoverCommand(std Streams) *cli.Command {
	return newCommand(std, "cutover", runCutover,
		shared("config"),
		[]cli.Flag{
			&cli.BoolFlag{Name: "rehearse", Usage: "do all of it but the last step, say how long Vault was without its table, and give that back"},
			&cli.BoolFlag{Name: "cancel", Usage: "take the order back, unless it is being carried out"},
			&cli.StringFlag{Name: "owner", Usage: "`user[:group]` that the copy works as, where root says this (default: the data directory's owner)"},
		},
		shared("strict", "log-level", "format"),
	)
}

// cutoverPatience is how long cutover waits for its order to be carried out before it
// leaves that to the copy, and cutoverLook how often it looks.
const (
	cutoverPatience = 10 * time.Minute
	cutoverLook     = 200 * time.Millisecond
	cutoverFresh    = 3 * time.Second
)

func runCutover(ctx context.Context, cmd *cli.Command, std Streams, out *printer) error {
	rehearse, cancel := cmd.Bool("rehearse"), cmd.Bool("cancel")
	if err := mistake(rehearse && cancel, "-cancel takes an order back, and -rehearse gives one", "give one of them"); err != nil {
		return err
	}
	cfg, err := loadConfig(cmd, std, out)
	if err != nil {
		return err
	}
	d := cfg.Destination
	path := d.Path
	defer func() { err = whose(cmd, err, path) }()
	r, err := readStatus(d, "")
	// What a copy says of itself may be a second old.
	for wait := time.Now().Add(cutoverFresh); err == nil && !cancel && !ready(r) && r.State == sink.StateRunning && time.Now().Before(wait) && ctx.Err() == nil; r, err = readStatus(d, "") {
		time.Sleep(cutoverLook)
	}
	if err != nil {
		return err
	}
	if cancel {
		return out.cancelOrder(ctx, cmd, d, r)
	}
	if r.State != sink.StateRunning || r.Setup == nil || r.Setup.Live == nil {
		return hints.With(&copier.Error{Kind: copier.ErrDestination, Op: "cut over", Err: fmt.Errorf("no copy that follows its table is running into %s", path)},
			"begin one, or resume it: "+commandLine(cmd, "copy", "-live")+"; it cuts over once it is ready and told to")
	}
	if !ready(r) {
		return hints.With(&copier.Error{Kind: copier.ErrLocked, Op: "cut over", Err: fmt.Errorf("the copy into %s is not ready: it has not caught up with the table, or not read back yet", path)},
			"leave Vault as it is. status -watch says when the copy is ready; copy -live -cutover-when-ready does not wait for an order")
	}
	if _, err := os.Lstat(orderFile(path)); err == nil {
		o, _ := readOrder(path) // what is there, is an order
		return hints.With(&copier.Error{Kind: copier.ErrLocked, Op: "cut over", Err: fmt.Errorf("an order stands already (%s), and is carried out once Vault gives its lock up", o.what())}, "take it back with -cancel, then give another")
	}
	o := order{ID: rand.Text(), Rehearse: rehearse, Given: time.Now(), By: giver(std.Env)}
	data, err := json.Marshal(o)
	if err != nil {
		return err
	}
	if err := asOwner(cmd.String("owner"), path, func() error { return (*durable.Disk)(nil).Replace(orderFile(path), data) }); err != nil {
		return fmt.Errorf("give the order to the copy: %w", err)
	}
	out.log.Info("the order is given: waiting until the copy watches the lock")
	return out.waitCutover(ctx, d, o)
}

// cancelOrder takes back the order to the copy that r is of, and says what that was good
// for: the copy may be carrying it out.
func (p *printer) cancelOrder(ctx context.Context, cmd *cli.Command, d vaultconfig.Destination, r *statusRecord) error {
	path := d.Path
	refused := func(what, hint string) error {
		return hints.With(&copier.Error{Kind: copier.ErrLocked, Op: "take the order back", Err: errors.New(what)}, hint)
	}
	o, oerr := readOrder(path)
	err := asOwner(cmd.String("owner"), path, func() error { return os.Remove(orderFile(path)) })
	none := errors.Is(err, fs.ErrNotExist)
	if err != nil && !none {
		return fmt.Errorf("take the order back: %w", err)
	}
	running := r.State == sink.StateRunning
	// The copy looks for orders several times a second, and says once a second how far it is.
	for gone := time.Now(); err == nil && running && time.Since(gone) < cutoverFresh && (r.Status == nil || r.Status.Updated.Before(gone.Add(cutoverLook))); {
		select {
		case <-time.After(cutoverLook):
		case <-ctx.Done():
			return context.Cause(ctx)
		}
		if r, err = readStatus(d, ""); err != nil {
			return err
		}
	}
	live := liveOf(r)
	switch {
	case running && !live.Taken.IsZero():
		return refused("it is being carried out: the table was taken "+ago(live.Taken),
			"see how it ends: "+commandLine(cmd, "status", "-watch")+". If the table is given back, it is not tried again"+map[bool]string{true: " before it is due by -cutover-when-ready: end the copy with Ctrl-C for that"}[whenReady(r.Setup)])
	case running && !none && oerr == nil && o.carriedOut(live), running && !live.CutOver.IsZero(), !none && running && r.State != sink.StateRunning && r.State != sink.StateUnfinished:
		return refused("it was carried out already", "see what came of it: "+commandLine(cmd, "status"))
	case running && whenReady(r.Setup):
		what := "no order was given by cutover, and the copy needs none: it was begun with -cutover-when-ready"
		if !none {
			what = "the order of cutover is taken back, but the copy needs none: it was begun with -cutover-when-ready"
		}
		return refused(what, "end the copy with Ctrl-C, and resume it without -cutover-when-ready: "+commandLine(cmd, "copy", "-resume"))
	case none:
		return p.sentence("There is no order to cut over.")
	case !running:
		return p.sentence("The order is taken back. No copy is running.")
	}
	return p.sentence("The order is taken back; the copy follows on.")
}

// liveOf is what a copy says of how it follows its table.
func liveOf(r *statusRecord) copier.LiveStatus {
	if r.Status == nil || r.Status.Live == nil {
		return copier.LiveStatus{}
	}
	return *r.Status.Live
}

// carriedOut reports whether that has become of an order.
func (o order) carriedOut(l copier.LiveStatus) bool {
	return !o.Rehearse && l.CutOver.After(o.Given) || o.Rehearse && l.Rehearsed.After(o.Given)
}

// ready reports whether nothing but an order is missing.
func ready(r *statusRecord) bool {
	return liveOf(r).Ready
}

// A cutoverRecord is the JSON of cutover's result.
type cutoverRecord struct {
	Rehearsal bool               `json:"rehearsal"`
	Outage    time.Duration      `json:"outage_ns"`
	State     sink.State         `json:"state"`
	Live      *copier.LiveStatus `json:"live,omitempty"`
}

// waitCutover waits until the order was carried out, and says what came of it.
func (p *printer) waitCutover(ctx context.Context, d vaultconfig.Destination, o order) error {
	tick := time.NewTicker(cutoverLook)
	defer tick.Stop()
	path, given, rehearse := d.Path, o.Given, o.Rehearse
	what := "armed: the copy cuts over once Vault gives its lock up. Stop every Vault now, standbys first"
	if rehearse {
		what = "armed: the rehearsal begins once Vault gives its lock up: vault operator step-down"
	}
	said := false
	var told time.Time // of a try that was given up
	var gone time.Time // since when the order is not there
	for deadline := given.Add(cutoverPatience); ; {
		now, oerr := readOrder(path)
		if there := oerr == nil && now.ID == o.ID || oerr != nil && !errors.Is(oerr, fs.ErrNotExist); there {
			gone = time.Time{}
		} else if gone.IsZero() {
			gone = time.Now()
		}
		r, err := readStatus(d, "")
		if err != nil {
			return err
		}
		live := liveOf(r)
		done := o.carriedOut(live)
		switch {
		case done && p.json:
			return p.encode(cutoverRecord{rehearse, live.Outage, r.State, &live})
		case done && rehearse:
			return p.sentence("Rehearsed: Vault was without its table for %s, and has it back. Nothing was put in place.", figures.Round(live.Outage))
		case done:
			return p.sentence("Vault may be started on %s. The table was taken for %s.", path, figures.Round(live.Outage))
		case r.State != sink.StateRunning:
			if r.State == sink.StateComplete && !rehearse {
				return p.sentence("Vault may be started on %s.", path)
			}
			return hints.With(&copier.Error{Kind: copier.ErrDestination, Op: "cut over", Err: fmt.Errorf("the copy into %s has ended without it: %s", path, r.State)}, "see what it said, and resume it")
		case !gone.IsZero() && live.Taken.IsZero() && r.Status != nil && r.Status.Updated.After(gone.Add(cutoverLook)):
			return o.goneBy(now, oerr, r.Status)
		case live.Waiting && !said:
			said = true
			p.log.Info(what, "holder", live.Holder)
		case live.GivenBack.After(given) && live.GivenBack.After(told):
			told = live.GivenBack
			p.log.Warn("not cut over yet: the table was given back, and is followed on; the copy tries again", "error", live.Reason)
		case time.Now().After(deadline):
			return hints.With(&copier.Error{Kind: copier.ErrLocked, Op: "cut over", Err: fmt.Errorf("nobody has given the lock up within %s", cutoverPatience)},
				"the order stands: it is carried out once Vault gives its lock up. Take it back with -cancel")
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			p.log.Warn("the order stands, and is carried out once Vault gives its lock up: take it back with -cancel")
			return context.Cause(ctx)
		}
	}
}

// goneBy is the error of an order that is not there any more and was not carried out.
// now is what is there in its place, where err is nil, and s is what the copy says since.
func (o order) goneBy(now order, err error, s *copier.Status) error {
	what, hint := "the order was taken back: cutover -cancel", "the copy follows on. Give the order again once you want to cut over"
	switch {
	case err == nil:
		what, hint = "another order was given in place of this one: "+now.what(), "that one counts. status says what becomes of it"
	case s.Start.After(o.Given):
		what, hint = "the copy was resumed since, and has dropped the order, which was for the process before", "give it again, once the copy is ready"
	}
	return hints.With(&copier.Error{Kind: copier.ErrLocked, Op: "cut over", Err: errors.New(what)}, hint)
}

// live is how a copy follows its table.
func (r *manifestWriter) live(cmd *cli.Command) *copier.Live {
	return &copier.Live{
		Armed:   armed(r.cfg.Destination.Path, cmd.Bool(whenReadyFlag), r.out),
		Buckets: r.keepBuckets,
	}
}

// cutOver adds to what takes events that orders go which were carried out.
func (r *manifestWriter) cutOver(events func(copier.Event)) func(copier.Event) {
	return func(e copier.Event) {
		events(e)
		switch e.(type) {
		case copier.Rehearsed, copier.CutOver:
			if err := os.Remove(orderFile(r.cfg.Destination.Path)); err != nil && !errors.Is(err, fs.ErrNotExist) {
				r.out.log.Warn("the order to cut over can't be removed; it is not carried out again", "error", err)
			}
		}
	}
}

// bucketsPath is where the buckets of a copy's entries are, beside its manifest.
func bucketsPath(manifest string) string { return strings.TrimSuffix(manifest, ".json") + ".buckets" }

// keepBuckets writes the buckets of the result, which verify -closed compares the table
// with.
func (r *manifestWriter) keepBuckets(ctx context.Context, rec copier.Record, b *copier.Buckets) error {
	data, err := b.Encode(rec.RunID)
	switch {
	case err != nil:
	case r.root != nil:
		err = r.root.call(ctx, "WriteBuckets", data, new(struct{}))
	default:
		err = writeBuckets(r.file, data, -1, -1)
	}
	if err != nil {
		return fmt.Errorf("what verify -closed compares the table with is not kept: %w", err)
	}
	return nil
}

// writeBuckets writes them beside a manifest. Unless uid is -1, the file belongs to uid and gid.
func writeBuckets(manifest string, data []byte, uid, gid int) error {
	if len(data) > maxBuckets {
		return fmt.Errorf("write %s: it would have %d bytes", bucketsPath(manifest), len(data))
	}
	return (*durable.Disk)(nil).Output(bucketsPath(manifest), uid, gid, func(w io.Writer) error {
		_, err := w.Write(data)
		return err
	})
}
