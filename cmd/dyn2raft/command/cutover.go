package command

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/urfave/cli/v3"

	"github.com/dyn2raft/dyn2raft/cmd/dyn2raft/figures"
	"github.com/dyn2raft/dyn2raft/cmd/dyn2raft/hints"
	"github.com/dyn2raft/dyn2raft/copier"
	"github.com/dyn2raft/dyn2raft/copier/durable"
	"github.com/dyn2raft/dyn2raft/copier/vaultconfig"
	sink "github.com/dyn2raft/dyn2raft/sinks/raft"
)

// An order is what cutover tells a copy that follows its table. It is a file in the
// copy's work directory, which the copy reads, and removes once it is carried out.
type order struct {
	Rehearse bool `json:"rehearse"`
}

func orderFile(path string) string { return filepath.Join(sink.WorkDir(path), "cutover.json") }

// maxOrder is the most bytes that are read of an order.
const maxOrder = 1 << 10

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
			var data []byte
			if data, err = durable.ReadFile(file, maxOrder); err == nil {
				err = json.Unmarshal(data, &o)
			}
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
	following := r.State == sink.StateRunning && r.Setup != nil && r.Setup.Live != nil
	if cancel {
		err := asOwner(cmd.String("owner"), path, func() error { return os.Remove(orderFile(path)) })
		if errors.Is(err, fs.ErrNotExist) {
			return out.sentence("There is no order to cut over.")
		}
		if err != nil {
			return fmt.Errorf("take the order back: %w", err)
		}
		return out.sentence("The order is taken back; the copy follows on.")
	}
	if !following {
		return hints.With(&copier.Error{Kind: copier.ErrDestination, Op: "cut over", Err: fmt.Errorf("no copy that follows its table is running into %s", path)},
			"begin one, or resume it: "+commandLine(cmd, "copy", "-live")+"; it cuts over once it is ready and told to")
	}
	if !ready(r) {
		return hints.With(&copier.Error{Kind: copier.ErrLocked, Op: "cut over", Err: fmt.Errorf("the copy into %s is not ready: it has not caught up with the table, or not read back yet", path)},
			"leave Vault as it is. status -watch says when the copy is ready; copy -live -cutover-when-ready does not wait for an order")
	}
	if _, err := os.Lstat(orderFile(path)); err == nil {
		return hints.With(&copier.Error{Kind: copier.ErrLocked, Op: "cut over", Err: errors.New("an order stands already, and is carried out once Vault gives its lock up")}, "take it back with -cancel, then give another")
	}
	data, err := json.Marshal(order{Rehearse: rehearse})
	if err != nil {
		return err
	}
	given := time.Now()
	if err := asOwner(cmd.String("owner"), path, func() error { return (*durable.Disk)(nil).Replace(orderFile(path), data) }); err != nil {
		return fmt.Errorf("give the order to the copy: %w", err)
	}
	out.log.Info("the order is given: waiting until the copy watches the lock")
	return out.waitCutover(ctx, d, given, rehearse)
}

// ready reports whether nothing but an order is missing.
func ready(r *statusRecord) bool {
	return r.Status != nil && r.Status.Live != nil && r.Status.Live.Ready
}

// A cutoverRecord is the JSON of cutover's result.
type cutoverRecord struct {
	Rehearsal bool               `json:"rehearsal"`
	Outage    time.Duration      `json:"outage_ns"`
	State     sink.State         `json:"state"`
	Live      *copier.LiveStatus `json:"live,omitempty"`
}

// waitCutover waits until the order was carried out, and says what came of it.
func (p *printer) waitCutover(ctx context.Context, d vaultconfig.Destination, given time.Time, rehearse bool) error {
	tick := time.NewTicker(cutoverLook)
	defer tick.Stop()
	path := d.Path
	what := "armed: the copy cuts over once Vault gives its lock up. Stop every Vault now, standbys first"
	if rehearse {
		what = "armed: the rehearsal begins once Vault gives its lock up: vault operator step-down"
	}
	said := false
	var told time.Time // of a try that was given up
	for deadline := given.Add(cutoverPatience); ; {
		r, err := readStatus(d, "")
		if err != nil {
			return err
		}
		var live copier.LiveStatus
		if r.Status != nil && r.Status.Live != nil {
			live = *r.Status.Live
		}
		done := !rehearse && live.CutOver.After(given) || rehearse && live.Rehearsed.After(given)
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

// live is how a copy follows its table.
func (r *manifestWriter) live(cmd *cli.Command) *copier.Live {
	return &copier.Live{
		Armed:   armed(r.cfg.Destination.Path, cmd.Bool("cutover-when-ready"), r.out),
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
func (r *manifestWriter) keepBuckets(_ context.Context, rec copier.Record, b *copier.Buckets) error {
	data, err := b.Encode(rec.RunID)
	if err == nil {
		err = (*durable.Disk)(nil).Replace(bucketsPath(r.file), data)
	}
	if err != nil {
		return fmt.Errorf("what verify -closed compares the table with is not kept: %w", err)
	}
	return nil
}
