package command

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"slices"
	"strings"
	"time"

	"al.essio.dev/pkg/shellescape"
	"github.com/dustin/go-humanize"
	"github.com/urfave/cli/v3"

	"github.com/dyn2raft/dyn2raft/cmd/dyn2raft/figures"
	"github.com/dyn2raft/dyn2raft/cmd/dyn2raft/hints"
	"github.com/dyn2raft/dyn2raft/cmd/dyn2raft/visible"
	"github.com/dyn2raft/dyn2raft/copier"
	"github.com/dyn2raft/dyn2raft/copier/vaultconfig"
	sink "github.com/dyn2raft/dyn2raft/sinks/raft"
	"github.com/dyn2raft/dyn2raft/sources/dynamodb"
	"github.com/dyn2raft/dyn2raft/verify"
)

func statusCommand(std Streams) *cli.Command {
	return newCommand(std, "status", runStatus,
		shared("config"),
		[]cli.Flag{
			manifestFlag("`file` with the record of a complete copy (default: beside the data directory, PATH.dyn2raft.json)"),
			&cli.StringFlag{Name: "work-dir", Usage: "`directory` that copy was given; needed with storage_destination \"dynamodb\""},
			&cli.BoolFlag{Name: "watch", Usage: "report again and again until no copy is running: on a terminal in place, every second; else every 30 s"},
		},
		shared("strict", "log-level", "format"),
	)
}

// The results of status, each with an exit status of its own.
var (
	errRunning    = errors.New("a copy is running")
	errUnfinished = errors.New("a copy is unfinished")
	errNone       = errors.New("there is no copy")
)

// result is nil of a complete copy with nothing left to do.
func (r *statusRecord) result() error {
	switch {
	case r.State == sink.StateRunning:
		return errRunning
	case r.State == sink.StateEmpty:
		return errNone
	case r.State != sink.StateComplete || r.Setup != nil:
		return errUnfinished
	}
	return nil
}

// givenUp reports whether the copy can't be resumed any more.
func (r *statusRecord) givenUp() bool {
	return r.Setup != nil && r.Setup.Amended(copier.AmendGivenUp) != nil
}

// A statusRecord is the JSON of a status.
type statusRecord struct {
	State       sink.State     `json:"state"`
	Destination string         `json:"destination"`
	Setup       *copier.Record `json:"setup,omitempty"`
	Status      *copier.Status `json:"status,omitempty"`
	Copy        *completeCopy  `json:"copy,omitempty"`

	// ManifestError is why the manifest can't be read, where Copy is what is on record in
	// the destination.
	ManifestError string `json:"manifest_error,omitempty"`

	// Order is the order to cut over that stands, OrderError why it can't be read, and
	// WhenReady is set of a copy that needs none.
	Order      *order `json:"order,omitempty"`
	OrderError string `json:"order_error,omitempty"`
	WhenReady  bool   `json:"when_ready,omitempty"`

	kind   string         // of the destination
	placed *copier.Record // of the run that has put the copy there, as far as it is on record
}

// A completeCopy is what the manifest of a complete copy says of it.
type completeCopy struct {
	State    copier.CommitState `json:"state"`
	Manifest string             `json:"manifest,omitempty"`
	RunID    string             `json:"run_id"`
	Start    time.Time          `json:"start"`
	End      time.Time          `json:"end"`
	Resumed  int                `json:"resumed"`
	Table    string             `json:"table"`
	From     string             `json:"from"` // in words
	// KeptLocked is set where the table was left locked on purpose, FreedAt when it was
	// freed since, as far as that is on record, and NotVault where no initialized Vault
	// has used it.
	KeptLocked bool      `json:"kept_locked"`
	FreedAt    time.Time `json:"freed_at,omitzero"`
	NotVault   bool      `json:"not_vault"`

	Entries int64 `json:"entries"`
	Bytes   int64 `json:"bytes"`
	// Took is the time from the copy's begin to its end, in all processes.
	Took time.Duration `json:"took_ns"`
}

// readCopy reads what a manifest says. Without one nothing is known, which is no
// error unless the file was named.
func readCopy(file string, d vaultconfig.Destination) (*completeCopy, error) {
	if file != "" {
		m, err := verify.ReadManifest(file)
		if err != nil {
			return nil, err
		}
		return summaryOf(m, file), nil
	}
	file = verify.ManifestPath(d.Path)
	m, err := manifestOf(d, file)
	if err != nil || m == nil {
		return nil, err
	}
	return summaryOf(m, file), nil
}

// summaryOf is what a record says of a copy that is in place.
func summaryOf(m *copier.Record, file string) *completeCopy {
	var freed time.Time
	if a := m.Amended(copier.AmendFreed); a != nil {
		freed = a.At
	}
	return &completeCopy{FreedAt: freed, State: m.State, Manifest: file, RunID: m.RunID, Start: m.Start, End: m.End, Resumed: m.Resumed, Table: m.Source.Name, From: hints.Source(m.Source),
		KeptLocked: m.Settings["keep-source-locked"] == "true", NotVault: m.NotVault(), Entries: m.Total.Entries, Bytes: m.Total.Bytes, Took: m.Took()}
}

func runStatus(ctx context.Context, cmd *cli.Command, std Streams, out *printer) (err error) {
	cfg, err := loadConfig(cmd, std, out)
	if err != nil {
		return err
	}
	defer func() { err = whose(cmd, err, homeOf(cfg.Destination)) }()
	look := func() (*statusRecord, error) { return readStatus(cfg.Destination, cmd.String("manifest")) }
	if cmd.Bool("watch") {
		return out.watchStatus(ctx, look)
	}
	r, err := look()
	if err != nil {
		return err
	}
	return errors.Join(out.status(*r), r.result())
}

// watchStatus writes what look returns until no copy is running: on a terminal in
// place of what it wrote before.
func (p *printer) watchStatus(ctx context.Context, look func() (*statusRecord, error)) error {
	every, lines := p.every, 0
	terminal := p.live && terminalWidth(p.stdout) > 0
	if terminal {
		every = time.Second
	}
	counted := &lineCounter{Writer: p.stdout}
	p.stdout = counted
	for {
		r, err := look()
		if err != nil {
			return err
		}
		if terminal {
			p.screen.up(lines)
		}
		before := counted.lines
		if err := p.status(*r); err != nil {
			return err
		}
		if lines = counted.lines - before; r.State != sink.StateRunning {
			return r.result()
		}
		select {
		case <-time.After(every):
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// A lineCounter counts the lines that go through it.
type lineCounter struct {
	io.Writer
	lines int
}

func (c *lineCounter) Write(b []byte) (int, error) {
	c.lines += bytes.Count(b, []byte("\n"))
	return c.Writer.Write(b)
}

// readStatus reads what a copy to a destination says of itself, and of a complete one the
// manifest.
func readStatus(d vaultconfig.Destination, manifest string) (r *statusRecord, err error) {
	r = &statusRecord{Destination: d.Name(), kind: d.Type}
	spare := func() (*copier.Record, error) {
		return verify.ReadManifest(cmp.Or(manifest, verify.ManifestPath(d.Path)))
	}
	if r.State, r.placed, err = placedAt(d, spare); err != nil {
		return nil, err
	}
	if r.Status, r.Setup, err = copier.ReadStatus(stateOf(d)); err != nil {
		return nil, err
	}
	if r.Setup != nil && r.Setup.Live != nil {
		r.WhenReady = r.State == sink.StateRunning && whenReady(r.Setup)
		switch o, err := readOrder(d.Path); {
		case err == nil:
			r.Order = &o
		case !errors.Is(err, fs.ErrNotExist):
			r.OrderError = err.Error()
		}
	}
	if r.State == sink.StateUnfinished && r.Setup == nil {
		r.State = sink.StateEmpty // it was killed before it had begun
	}
	if r.State == sink.StateComplete || r.State == sink.StateUnconfirmed || r.State == sink.StateConfirmed {
		r.Copy, err = readCopy(manifest, d)
		switch {
		case err == nil:
		case r.placed == nil:
			return nil, err
		default:
			r.Copy, r.ManifestError = summaryOf(r.placed, ""), err.Error()
		}
		if r.Copy != nil && r.Copy.State == copier.Unconfirmed {
			r.State = sink.StateUnconfirmed
		}
		if r.Copy != nil && r.Copy.State == copier.Confirmed && r.State == sink.StateComplete && r.placed == nil {
			r.State = sink.StateConfirmed
		}
	}
	return r, nil
}

// order says which order to cut over stands, and what it waits for; "" where none does.
func (r *statusRecord) order() string {
	var text string
	switch {
	case r.Order != nil:
		text = r.Order.what()
	case r.OrderError != "":
		return visible.Text("CAN'T BE READ, and is not carried out: " + r.OrderError)
	case r.WhenReady:
		text = "cut over, given with the copy itself (-cutover-when-ready)"
	default:
		return ""
	}
	l := liveOf(r)
	switch {
	case r.State != sink.StateRunning:
		return text + "; it is dropped when the copy is resumed"
	case !l.Taken.IsZero():
		return text + "; being carried out since " + ago(l.Taken)
	case !l.CutOver.IsZero():
		return text + "; carried out"
	case l.Waiting:
		return text + visible.Text("; waits for "+l.Holder+" to give its lock up")
	case !l.Ready:
		return text + "; waits until the copy is ready"
	}
	return text + "; about to be taken up"
}

func (p *printer) status(r statusRecord) error {
	if p.json {
		return p.encode(r)
	}
	t := p.summary()
	holds := hints.ResultWord(r.kind)
	switch r.State {
	case sink.StateEmpty:
		if r.kind == vaultconfig.Raft {
			t.row("State", "no copy: %s holds nothing of a Vault's", r.Destination)
		} else {
			t.row("State", "no copy to %s is known on this machine", visible.Text(r.Destination))
		}
	case sink.StateComplete:
		if r.kind == vaultconfig.Raft {
			t.row("State", "complete: %s holds a vault.db", r.Destination)
		} else {
			t.row("State", "complete: %s is in place, in %s, by its manifest", holds, visible.Text(r.Destination))
		}
		switch {
		case r.Setup != nil && r.placed != nil && r.placed.RunID == r.Setup.RunID:
			t.row("To do", "its process ended before it had given the source back and removed its work files: copy -resume does that")
		case r.Setup != nil:
			t.row("To do", "that vault.db is not the one of the unfinished copy below: put it aside, and resume: copy -resume")
		case r.Copy == nil:
			t.row("Copied", "not known: no manifest says whose it is; verify -config compares it with the table")
		}
	case sink.StateUnconfirmed:
		t.row("State", "UNCONFIRMED: %s is in place, in %s, and its source has not confirmed the copy: entries may be missing in it", holds, visible.Text(r.Destination))
		t.row("To do", "do not start a Vault on it: copy -resume has the source asked again, and confirms the copy or takes it back")
	case sink.StateConfirmed:
		t.row("State", "NOT GIVEN BACK: %s is in place, in %s; the copy was complete, and its source was not given back: what was written to that since is not in it", holds, visible.Text(r.Destination))
		t.row("To do", "do not start a Vault: copy -resume has the source asked again, and completes the copy or takes it back")
	case sink.StateUnfinished:
		if r.givenUp() {
			t.row("State", "given up %s: copy -reset has freed the table, and a Vault may have written to it since", ago(r.Setup.Amended(copier.AmendGivenUp).At))
			t.row("To do", "it can't be resumed: copy -restart throws it away, and begins another")
			break
		}
		t.row("State", "unfinished: no dyn2raft is at work on %s", r.Destination)
	default:
		t.row("State", "running, into %s", r.Destination)
	}
	if c := r.Copy; c != nil {
		ended := ""
		if !c.End.IsZero() {
			ended = ", ended " + ago(c.End)
		}
		t.row("Run", "%s, begun %s%s%s", c.RunID, ago(c.Start), ended, resumedWords(c.Resumed))
		t.row("From", "%s", c.From)
		paused := ""
		if c.Resumed > 0 {
			paused = ", the pauses before it was resumed included"
		}
		t.row("Copied", "%s, %s, in place %s after it was begun%s", entries(c.Entries), figures.Size(c.Bytes), figures.Round(c.Took), paused)
		if c.NotVault {
			t.row("NOT A VAULT", "a Vault that starts on it finds itself not initialized (-ignore initialized)")
		}
		switch {
		case !c.KeptLocked:
		case !c.FreedAt.IsZero():
			t.row("Freed", "the table was left locked on purpose (-keep-source-locked), and freed %s: a Vault may have written to it since", ago(c.FreedAt))
		default:
			t.row("Locked", "the table was left so on purpose (-keep-source-locked): no Vault starts on it, unless copy -reset has freed it since")
		}
		t.known("Manifest", c.Manifest)
	}
	if r.ManifestError != "" {
		t.row("Manifest", "NOT READABLE: %s", r.ManifestError)
		t.row("To do", "move that file away: copy -resume writes the manifest anew")
	}
	if s := r.Setup; s != nil && (r.Copy == nil || r.Copy.RunID != s.RunID) {
		t.row("Run", "%s, begun %s%s", s.RunID, ago(s.Start), resumedWords(s.Resumed))
		t.row("From", "%s", hints.SourceAndID(s.Source))
		t.known("Endpoint", s.Source.Endpoint)
		var flags []string
		for _, name := range slices.Sorted(slices.Values(keptFlags)) {
			if value, ok := s.Settings[name]; ok {
				flags = append(flags, "-"+name+"="+shellescape.Quote(value))
			}
		}
		t.known("Begun with", strings.Join(flags, " "))
	}
	if s := r.Status; s != nil {
		t.row("Phase", "%s, as of %s", s.Phase, ago(s.Updated))
		if s.Live != nil && r.State == sink.StateRunning {
			for _, line := range following(s.Live, s.Updated) {
				name, text, _ := strings.Cut(line.text, " ")
				t.row(strings.ToUpper(name[:1])+name[1:], "%s", strings.TrimSpace(text))
			}
		}
		if text := r.order(); text != "" {
			t.row("Order", "%s", text)
		}
		t.row("Read", "%s, %s; %d of %d segments", entries(s.Entries), figures.Size(s.Bytes), s.SegmentsDone, s.Segments)
		if s.Loaded > 0 {
			t.row("Written", "%s", entries(s.Loaded))
		}
		if r.State == sink.StateRunning && s.EntryRate > 0 {
			t.row("Rate", "%s entries/s, %s/s", humanize.Comma(int64(s.EntryRate)), figures.Size(int64(s.ByteRate)))
		}
		if r.State == sink.StateRunning && s.Left > 0 {
			t.row("Left", "about %s of this phase, by what the table says of its size", figures.Round(s.Left))
		}
		t.row("Requests", "%s read capacity units, %d throttled, %d tried again", humanize.CommafWithDigits(s.Counts[dynamodb.ReadCapacityUnits], 1), s.Throttles, s.Retries)
		switch {
		case s.Checkpoint.IsZero():
			t.row("Checkpoint", "none yet")
		case r.givenUp():
			t.row("Checkpoint", "%s, of no use any more", ago(s.Checkpoint))
		default:
			t.row("Checkpoint", "%s, %s %s safe", ago(s.Checkpoint), entries(s.Saved), one(s.Saved, "is", "are"))
		}
		if s.LastError != "" {
			t.row("Last error", "%s: %s", ago(s.LastErrorAt), s.LastError)
		}
		if s.LastWarning != "" {
			t.row("Last warning", "%s: %s", ago(s.LastWarningAt), s.LastWarning)
		}
		if s.Error != "" {
			t.row("Ended", "%s: %s", ago(s.Ended), s.Error)
		}
	}
	return errors.Join(t.flush())
}

// ago is a time as a person says it, and in full.
func ago(t time.Time) string {
	d := time.Since(t).Round(time.Second)
	if d <= -time.Second {
		return t.Local().Format(time.DateTime) + ", by a clock that was ahead of this one"
	}
	if d < time.Second {
		return fmt.Sprintf("now (%s)", t.Local().Format(time.TimeOnly))
	}
	return fmt.Sprintf("%s ago (%s)", d, t.Local().Format(time.DateTime))
}

// resumedWords says how often a copy was resumed, if it was.
func resumedWords(n int) string {
	if n == 0 {
		return ""
	}
	return ", resumed " + figures.Times(n)
}
