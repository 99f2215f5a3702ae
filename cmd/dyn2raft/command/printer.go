package command

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/signal"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"text/tabwriter"
	"time"

	"github.com/dustin/go-humanize"
	"github.com/dustin/go-humanize/english"
	"github.com/hashicorp/go-hclog"
	"github.com/urfave/cli/v3"

	"github.com/dyn2raft/dyn2raft/cmd/dyn2raft/check"
	"github.com/dyn2raft/dyn2raft/cmd/dyn2raft/figures"
	"github.com/dyn2raft/dyn2raft/cmd/dyn2raft/hints"
	"github.com/dyn2raft/dyn2raft/cmd/dyn2raft/visible"
	"github.com/dyn2raft/dyn2raft/copier"
	"github.com/dyn2raft/dyn2raft/copier/vaultconfig"
	todynamodb "github.com/dyn2raft/dyn2raft/sinks/dynamodb"
	sink "github.com/dyn2raft/dyn2raft/sinks/raft"
	"github.com/dyn2raft/dyn2raft/sources/dynamodb"
	nodes "github.com/dyn2raft/dyn2raft/sources/raft"
	"github.com/dyn2raft/dyn2raft/sources/raft/vaultdb"
	"github.com/dyn2raft/dyn2raft/verify"
)

// A printer owns every word that a person or a program reads, but for the help
// texts and the errors' own.
type printer struct {
	stdout io.Writer
	json   bool
	log    hclog.Logger
	every  time.Duration // how often a line tells how far a command is
	screen *screen       // where log goes
	live   bool          // a live block tells how far a command is
	work   string        // what a command does, in a word

	uncounted bool // the source never counts its items
	fromTable bool // it is Vault's table in DynamoDB, or an export of it

	tracker copier.Progress
	mu      sync.Mutex // guards the following
	phase   copier.Phase
	since   time.Time       // when it began
	before  copier.Resuming // what earlier processes have read
	moved   time.Time       // when there was something new, other than an error
	told    time.Time       // when a line said that a request failed
	untold  int             // requests that failed since
	pending int64           // keys that were to be applied when a line said so last; of one goroutine
	waits   waits
	warned  []copier.Warning // all that is to be said once more at the end
}

func newPrinter(cmd *cli.Command, std Streams) (*printer, error) {
	p := &printer{stdout: std.Out, every: 30 * time.Second, screen: newScreen(std.Err, std.Env), work: "copy"}
	switch f := cmd.String("format"); {
	case f == "table", f == "" && !cmd.IsSet("format"): // not every command has these flags
	case f == "json":
		p.json = true
	default:
		return nil, &usageError{fmt.Sprintf("-format is %q", f), "it takes table or json"}
	}
	level := hclog.LevelFromString(cmd.String("log-level"))
	if level == hclog.NoLevel && hasFlag(cmd, "log-level") {
		return nil, &usageError{flagIs(cmd, "log-level"), "it takes trace, debug, info, warn or error"}
	}
	opts := &hclog.LoggerOptions{Output: p.screen, Level: level}
	switch f := cmd.String("log-format"); {
	case p.json && hasFlag(cmd, "log-format") && !cmd.IsSet("log-format"):
		opts.JSONFormat = true // who reads the result reads these too
	case f == "text", f == "" && !cmd.IsSet("log-format"):
	case f == "json":
		opts.JSONFormat = true
	default:
		return nil, &usageError{fmt.Sprintf("-log-format is %q", f), "it takes text or json"}
	}
	p.log = hclog.New(opts)
	if opts.JSONFormat {
		p.screen.logJSON(p.log)
	}
	p.live = p.screen.live && !p.json && !opts.JSONFormat
	return p, nil
}

func hasFlag(cmd *cli.Command, name string) bool {
	return slices.ContainsFunc(cmd.Flags, func(f cli.Flag) bool { return slices.Contains(f.Names(), name) })
}

// printError writes each error, and what to do about it. An output that can't be
// written to fails with every line of a result: each is said once.
func printError(w io.Writer, err error) {
	said := map[string]bool{}
	for _, err := range split(err) {
		if exitStatus(err) >= exitDifferent && exitStatus(err) <= exitNone {
			continue // the result said so
		}
		text, hint := err.Error(), cmp.Or(pathHint(err), hints.Of(err))
		if e, ok := errors.AsType[*vaultconfig.Error](err); ok {
			bare := *e // its text has the hint in it
			bare.Hint = ""
			text, hint = bare.Error(), e.Hint
		}
		_, interrupted := errors.AsType[*signalError](err)
		e, ended := errors.AsType[*ending](err)
		if interrupted || ended && e.alone {
			hint = "" // what it has led to counts
		}
		if ended {
			hint = strings.TrimPrefix(hint+"\n"+e.hint(terminalWidth(w)), "\n")
		}
		if _, ok := err.(cli.ExitCoder); ok { //nolint:errorlint // the library's own, of the command help; an exec.ExitError in err is one too
			hint = "run `dyn2raft help` for the commands"
		}
		lines := strings.Split(text, "\n")
		text = strings.Join(slices.Compact(lines), "\n")
		if said[text+hint] {
			continue
		}
		said[text+hint] = true
		if log := jsonLog(w); log != nil {
			code, _ := copier.CodeOf(err)
			log.Error(text, "hint", hint, "code", code)
			continue
		}
		_, _ = fmt.Fprintln(w, onTerminal(w, "error: "+indent(text)))
		if hint != "" {
			_, _ = fmt.Fprintln(w, onTerminal(w, "hint: "+indent(hint)))
		}
		if code, _ := copier.CodeOf(err); code != "" && !interrupted {
			_, _ = fmt.Fprintln(w, "more: dyn2raft help errors "+string(code))
		}
	}
}

// pathHint is what to do about an error of a path. It knows two causes that the error
// does not show: the mode of one of this user's own directories denies access, and no
// shell has expanded the path.
func pathHint(err error) string {
	path, ok := errors.AsType[*fs.PathError](err)
	switch {
	case ok && errors.Is(path, fs.ErrPermission):
		return vaultconfig.OwnMode(path.Path)
	case ok && errors.Is(path, fs.ErrNotExist):
		if what := vaultconfig.Unexpanded(path.Path); what != "" {
			return vaultconfig.NoShell(what)
		}
	}
	return ""
}

// indent sets off the lines of a text that follow its first one.
func indent(text string) string { return strings.ReplaceAll(text, "\n", "\n  ") }

// event takes the library's events. It is called from many goroutines.
func (p *printer) event(e copier.Event) {
	if e, ok := e.(copier.CountDiffers); ok && e.Reported == 0 && p.uncounted {
		return
	}
	p.tracker.Event(e)
	p.note(e)
	switch e := e.(type) {
	case copier.PhaseStarted:
		s, what, args := p.tracker.Status(), phases[e.Phase], []any{}
		switch e.Phase {
		case copier.PhaseLock:
			args = []any{"table", e.Source.Name, "id", e.Source.ID, "items_reported", e.Source.Items, "size_reported", byteCount(e.Source.Bytes)}
		case copier.PhaseScan:
			args = []any{"segments", e.Segments, "max_parallel", e.Workers}
		case copier.PhaseLoad:
			args = []any{"entries_read", count(s.Entries), "size", byteCount(s.Bytes)}
		case copier.PhaseCheck:
			args = []any{"entries_written", count(cmp.Or(s.Loaded, s.Entries))} // what is put while it is read is not loaded
		case copier.PhaseCleanUp:
			what = "the result is in place: removing work files"
		}
		p.log.Info(what, args...)
	case copier.Resuming:
		p.log.Info("resuming an unfinished "+p.work, "entries_read_before", count(e.Entries), "size", byteCount(e.Bytes), "segments_left", e.Pending)
	case copier.RunWritten:
		p.log.Debug("sorted run written", "entries", e.Entries, "size", byteCount(e.Bytes))
	case copier.Checkpointed:
		p.log.Debug("checkpoint", "entries", e.Entries, "size", byteCount(e.Bytes))
	case copier.WorkersChanged:
		p.log.Debug("workers changed", "workers", e.Workers)
	case copier.Retried:
		if e.Throttled {
			p.log.Debug("throttled", "error", e.Err)
			return
		}
		p.requestFailed(e)
	case copier.Waiting:
		p.sayWait()
	case copier.ReadyToCutOver:
		p.log.Info("ready to cut over", "expected_downtime", estimate(e.Expected))
	case copier.Taken:
		p.log.Info(map[bool]string{false: "the table is taken: Vault is down from here on", true: "the table is taken for a rehearsal"}[e.Rehearsal])
	case copier.GivenBack:
		p.log.Warn("not cut over: the table is given back, and followed on", "error", e.Err)
	case copier.Rehearsed:
		p.log.Info("rehearsed: the table is given back, and followed on", "outage", estimate(e.Outage), "drain", estimate(e.Drain))
	case copier.CutOver:
		var args []any
		if e.Outage > 0 { // else a process that was killed has not noted it
			args = []any{"outage", estimate(e.Outage)}
		}
		p.log.Info("Vault may be started", args...)
	case copier.ItemRefused:
		p.log.Error("an item can't be copied: reading on to name others like it", "error", e.Err)
	case copier.HiddenLeases:
		if p.fromTable {
			f := check.Plan.Result(copier.Finding{Check: "hidden-leases", Status: copier.Warned, Message: e.String()}, nil)
			p.warn(copier.Warning{Check: f.Check, Message: f.Message}, f.Hint)
		}
	case copier.CountDiffers:
		p.warn(copier.Warning{Check: duringCopy, Message: countDiffers(e)}, "")
	case copier.Warning:
		e.Check = cmp.Or(e.Check, duringCopy)
		p.warn(e, "")
	}
}

// mostWarned bounds what is said once more at the end.
const mostWarned = 50

// warn says a warning, now and at the end.
func (p *printer) warn(w copier.Warning, hint string) {
	text := visible.Text(warningText(w))
	if hint == "" {
		p.log.Warn(text)
	} else {
		p.log.Warn(text, "hint", hint)
	}
	p.keep(w)
}

// keep has a warning said at the end.
func (p *printer) keep(w copier.Warning) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !slices.Contains(p.warned, w) && len(p.warned) < mostWarned {
		p.warned = append(p.warned, w)
	}
}

// warnings returns what was warned of so far.
func (p *printer) warnings() []copier.Warning {
	p.mu.Lock()
	defer p.mu.Unlock()
	return append([]copier.Warning{}, p.warned...)
}

// remember adds to a record what was warned of in this process, and to what is said
// at the end what is on record.
func (p *printer) remember(r *copier.Record) {
	for _, w := range r.Warnings {
		p.keep(w)
	}
	r.Warnings = p.warnings()
}

// requestFailed says so at once, and then now and then: while the table can't be
// reached, every worker's requests fail.
func (p *printer) requestFailed(e copier.Retried) {
	p.mu.Lock()
	if now := time.Now(); now.Sub(p.told) < p.every {
		p.untold++
		p.mu.Unlock()
		return
	}
	more := p.untold
	p.told, p.untold = time.Now(), 0
	p.mu.Unlock()
	args := []any{"error", e.Err}
	if more > 0 {
		args = append(args, "failed_before", more)
	}
	if e.Nothing >= time.Second {
		args = append(args, "nothing_has_succeeded_for", estimate(e.Nothing), "gives_up_at", e.GiveUp.Local().Format(time.DateTime))
	}
	p.log.Warn("request failed, trying again", args...)
}

// countDiffers says what to think of a table's own count of its items.
func countDiffers(e copier.CountDiffers) string {
	if e.Reported == 0 {
		return e.String() + ": that figure is made every 6 hours or so, so the number of items could not be compared with it"
	}
	return e.String() + "; that figure may be 6 hours old, but if nobody has written or deleted many entries since, find out why they differ before you rely on the copy"
}

// note keeps of an event what the tracker does not.
func (p *printer) note(e copier.Event) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.waits.note(e) {
		return
	}
	switch e := e.(type) {
	case copier.Warning, copier.CountDiffers, copier.ItemRefused:
		return
	case copier.PhaseStarted:
		p.phase, p.since = e.Phase, time.Now()
	case copier.Resuming:
		p.before = e
	case copier.CutOver:
		p.phase, p.since = watching, time.Now()
	}
	p.moved = time.Now()
}

// progress shows how far the command is, until the returned function is called: in a
// live block or in a line now and then, and in a line at each SIGUSR1.
func (p *printer) progress() (stop func()) {
	asked := make(chan os.Signal, 1)
	signal.Notify(asked, syscall.SIGUSR1)
	every := p.every
	if p.live {
		p.screen.show(p.block)
		every = 0
	}
	done := p.watch(every, asked)
	return func() {
		signal.Ignore(syscall.SIGUSR1) // one that comes late must not end the process
		done()
		p.screen.hide()
	}
}

// watch writes a line at each interval, if that is not 0, and at each signal, and
// says in between what is waited for, until the returned function is called.
func (p *printer) watch(every time.Duration, asked <-chan os.Signal) (stop func()) {
	done := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		var tick, second <-chan time.Time
		if every > 0 {
			t, s := time.NewTicker(every), time.NewTicker(time.Second)
			defer t.Stop()
			defer s.Stop()
			tick, second = t.C, s.C
		}
		for {
			select {
			case <-done:
				return
			case <-tick:
				p.tell(false)
			case <-second:
				p.sayWait()
			case <-asked:
				p.tell(true)
			}
		}
	})
	return func() {
		close(done)
		wg.Wait()
	}
}

// tell writes a line that says how far the command is. Unless it was asked for
// there is none in the short phases.
func (p *printer) tell(asked bool) {
	s := p.tracker.Status()
	switch s.Phase {
	case copier.PhaseScan:
		p.log.Info("reading", "entries", count(s.Entries), "size", byteCount(s.Bytes),
			"segments", parts{s.SegmentsDone, s.Segments}, "rate", perSecond(s.EntryRate),
			"left", estimate(left(s)), "throttled", s.Throttles, "workers", s.Workers, "units", units(s.Counts[dynamodb.ReadCapacityUnits]))
	case copier.PhaseLoad:
		p.log.Info("writing", "entries", count(s.Loaded), "entries_read", count(s.Entries),
			"rate", perSecond(s.EntryRate), "left", estimate(left(s)))
	case copier.PhaseFollow:
		if l := s.Live; l != nil {
			p.log.Info("following", "ready", l.Ready, "delay", estimate(l.Delay), "pending", count(l.Pending), "applied", count(l.Applied))
			if !asked && !l.Ready && l.Pending > p.pending && p.pending > 0 {
				p.log.Warn("keys change faster than the copy may read them again", "pending", count(l.Pending),
					"hint", "let it take more of the table: resume it with a larger -live-share, or with -read-capacity")
			}
			if !asked {
				p.pending = l.Pending
			}
		}
	default:
		if asked {
			p.log.Info("in phase "+string(s.Phase), "entries", count(s.Loaded), "entries_read", count(s.Entries))
		}
	}
}

// block returns the lines of the live block.
func (p *printer) block() []row {
	status := p.tracker.Status()
	p.mu.Lock()
	v := view{Status: status, since: p.since, before: p.before}
	v.wait, _, _ = p.wait(status.Updated)
	p.mu.Unlock()
	if v.now = v.Updated; v.since.IsZero() {
		v.since = v.now
	}
	return v.rows()
}

// Figures in log lines: for people in the text format, numbers in JSON.
type (
	count     int64
	byteCount int64
	perSecond float64
	units     float64
	estimate  time.Duration // in JSON seconds, or null
	parts     struct {
		Done  int64 `json:"done"`
		Total int64 `json:"total"`
	}
)

func (n count) String() string     { return humanize.Comma(int64(n)) }
func (n byteCount) String() string { return figures.Size(int64(n)) }
func (r perSecond) String() string { return humanize.Comma(int64(r)) + "/s" }
func (u units) String() string     { return humanize.CommafWithDigits(float64(u), 1) }
func (p parts) String() string     { return fmt.Sprintf("%d/%d", p.Done, p.Total) }

func (d estimate) String() string {
	if d <= 0 {
		return "unknown"
	}
	return figures.Round(time.Duration(d)).String()
}

func (d estimate) MarshalJSON() ([]byte, error) {
	if d <= 0 {
		return []byte("null"), nil
	}
	return json.Marshal(time.Duration(d).Seconds())
}

// entries is a number of entries in words.
func entries(n int64) string { return english.Plural(int(n), "entry", "entries") }

// one is the first word where there is one of something, else the other one.
func one(n int64, word, others string) string { return english.PluralWord(int(n), word, others) }

// allEntries is a number of entries that are all there are, in words.
func allEntries(n int64) string {
	if n == 1 {
		return "the one entry"
	}
	return "all " + entries(n)
}

// A copyRecord is the JSON of a copy's result.
type copyRecord struct {
	RunID    string                         `json:"run_id"`
	Start    time.Time                      `json:"start"`
	Duration time.Duration                  `json:"duration_ns"`
	Phases   map[copier.Phase]time.Duration `json:"phases_ns"`
	Began    time.Time                      `json:"began"`
	Resumed  int                            `json:"resumed"`
	Source   copier.Info                    `json:"source"`
	Scan     copier.ScanStats               `json:"scan"`
	Load     copier.LoadStats               `json:"load"`
	Digests  copier.Digests                 `json:"digests"`
	ReadBack bool                           `json:"read_back"`
	Complete bool                           `json:"complete"`
	Commit   copier.CommitState             `json:"commit"`

	Destination string `json:"destination"`
	NodeID      string `json:"node_id,omitempty"`
	Address     string `json:"address"`
	Manifest    string `json:"manifest,omitempty"`
	Backup      string `json:"backup_arn,omitempty"`
	// ManifestError says why the manifest is not where it should be.
	ManifestError string `json:"manifest_error,omitempty"`
	// Warnings are those of the configuration, the checks before the copy and the
	// copy itself.
	Warnings []copier.Warning `json:"warnings"`
	Message  string           `json:"message"`
	// Next is what to do with a copy that is no data directory.
	Next []string `json:"next,omitempty"`
}

// copied writes the result of a copy. unlock is the command that frees the table
// that it left locked on purpose, if it did.
func (p *printer) copied(res copier.Record, rec *manifestWriter, unlock string) error {
	p.remember(&res)
	cfg, last, warned := rec.cfg, res.Process(), res.Warnings
	duration := last.Took()
	manifest := "" // where it is
	if rec.manifest != nil {
		manifest = rec.file
	}
	message := "Success! All of the keys have been migrated."
	if res.NotVault() {
		message = "NOT A VAULT: all of the keys have been migrated, but a Vault that starts on them finds itself not initialized, or ends."
	}
	if p.json {
		return p.encode(copyRecord{res.RunID, last.Start, duration, last.Phases, res.Start, res.Resumed, res.Source, res.Scan, res.Load, res.Prefixes, res.Proof != nil, res.Complete, res.State,
			cfg.Destination.Name(), nodeIDOf(rec.dst), cfg.Destination.Address, manifest, res.Backup, rec.failed, warned, message, nextOf(rec)})
	}
	var phases []string
	for _, ph := range []copier.Phase{copier.PhasePrepare, copier.PhaseLock, copier.PhaseScan, copier.PhaseLoad, copier.PhaseCheck, copier.PhaseCommit, copier.PhaseCleanUp} {
		if d, ok := last.Phases[ph]; ok && d >= 10*time.Millisecond {
			phases = append(phases, fmt.Sprintf("%s %s", ph, figures.Round(d)))
		}
	}
	t := p.summary()
	t.row("Copied", "%s, %s of keys and values", entries(res.Load.Entries), figures.Size(res.Load.Bytes))
	t.row("From", "%s", hints.SourceAndID(res.Source))
	if res.Source.Endpoint != "" {
		t.row("Endpoint", "%s", res.Source.Endpoint)
	}
	holds := hints.ResultWord(cfg.Destination.Type)
	if cfg.Destination.Type == vaultconfig.Raft {
		t.row("To", "%s, vault.db of %s", cfg.Destination.Path, figures.Size(res.Load.FileBytes))
		same := "the same node_id in the server's storage stanza"
		if cfg.Destination.NodeID == "" {
			same = "from the file node-id: no node_id in the server's storage stanza"
		}
		t.row("Node", "id %s (%s), address %s (the same in the server's cluster_addr)", visible.Text(nodeIDOf(rec.dst)), same, cfg.Destination.Address)
	} else {
		size := ""
		if n := res.Load.FileBytes; n > 0 {
			size = ", " + figures.Size(n)
		}
		t.row("To", "%s%s", visible.Text(hints.Destination(rec.dst.Identity())), size)
	}
	t.row("Time", "%s of this process, the removal of work files included (%s); the copy was in place %s after it was begun",
		figures.Round(duration), strings.Join(phases, ", "), figures.Round(res.Took()))
	if took, ok := worked(res); ok {
		secs := max(took.Seconds(), 1e-3)
		t.row("Rate", "%s entries/s, %s/s, from the first read to the end", humanize.Comma(int64(float64(res.Load.Entries)/secs)), figures.Size(int64(float64(res.Load.Bytes)/secs)))
	}
	if cfg.Source.Type != vaultconfig.DynamoDB {
		t.row("Read", "%s", english.Plural(int(res.Scan.Pages), "page", ""))
	} else {
		t.row("Read", "%s, %s, %s read capacity units, %s of which %d throttled",
			english.Plural(int(res.Scan.Pages), "page", ""), figures.Size(res.Scan.WireBytes), humanize.CommafWithDigits(res.Scan.Counts[dynamodb.ReadCapacityUnits], 1), english.Plural(int(res.Scan.Retries), "retry", ""), res.Scan.Throttles)
		t.row("Limit", "%s", limits[res.Scan.Limit])
	}
	if res.Resumed > 0 {
		t.row("Resumed", "%s; the time is that of the last process, the rest is of all", figures.Times(res.Resumed))
	}
	t.row("Skipped", "%s (%s no data); %s",
		english.Plural(int(res.Scan.Markers), "directory marker", ""), one(res.Scan.Markers, "it holds", "they hold"), skippedLocks(res.Scan.Locks))
	if l := res.Live; l != nil {
		t.row("Followed", "%s noted as changed, %s applied", english.Plural(int(l.Noted), "key", ""), english.Plural(int(l.Applied), "change", ""))
		t.row("Outage", "%s, from when the table was taken until Vault could be started (%s until the last change had arrived)", figures.Round(l.Outage), figures.Round(l.Drain))
	}
	if res.Proof != nil {
		t.row("Proof", "%s was read back: %s %s digest %s…", holds, allEntries(res.Total.Entries), one(res.Total.Entries, "has", "have"), res.Total.Hash.String()[:16])
	}
	t.known("Backup", res.Backup)
	var changes todynamodb.Changes
	if res.Proof != nil {
		if ok, err := res.Proof.Facts.Get(todynamodb.ReplacedFact, 1, &changes); ok && err == nil {
			t.row("Changed", "%s, %s, %s", items(changes.Put, "was", "were", "written"), items(changes.Delete, "was", "were", "deleted"), items(changes.Same, "stayed", "stayed", ""))
			if changes.Put+changes.Delete == 0 {
				t.row("As it was", "nothing had to be changed, and no backup was made")
			}
			t.known("As it was", changes.Backup)
		}
	}
	switch {
	case manifest == "":
		manifest = "NOT WRITTEN: " + cmp.Or(rec.failed, "the copy ended before")
	case rec.failed != "":
		manifest += ", because: " + rec.failed
	}
	t.row("Manifest", "%s", manifest)
	if unlock != "" {
		t.row("Locked", "core/migration stays in the table: no Vault starts on it until `%s`", unlock)
	}
	for i, w := range warned {
		name := ""
		if i == 0 {
			name = "Warnings"
		}
		t.row(name, "%s", visible.Text(warningText(w)))
	}
	err := t.flush()
	for i, step := range nextOf(rec) {
		err = errors.Join(err, p.line(hanging(fmt.Sprintf("Next %d: ", i+1), visible.Text(step), p.columns())))
	}
	return errors.Join(err, p.text(message))
}

// nodeIDOf is the id of the node that a data directory is for.
func nodeIDOf(s copier.Sink) string {
	if raft, ok := s.(*sink.Sink); ok {
		return raft.NodeID()
	}
	return ""
}

// nextOf says what comes next where the runbook does not say it.
func nextOf(rec *manifestWriter) []string {
	if rec.cfg.Destination.Type == vaultconfig.Raft {
		return nil
	}
	return hints.Next(rec.dst.Identity(), rec.compare)
}

// tails says of both sides of a comparison what is in a log and not in its vault.db.
func (p *printer) tails(rep *verify.DirectoryReport) (err error) {
	var from nodes.Fact
	if ok, ferr := rep.Source.Facts.Get("raft_source", 1, &from); ferr == nil && ok && from.Puts+from.Deletes > 0 {
		err = p.sentence("In the log only of %s: %s, compared as what the log makes of its vault.db.", from.Path, english.Plural(int(from.Puts+from.Deletes), "operation", ""))
	}
	if rep.Tail != nil {
		err = errors.Join(err, p.sentence("In the log only of %s: %s; what they change was not compared.", rep.Destination.Name, tailOf(rep.Tail)))
	}
	return err
}

// worked is how long all processes of a copy have read, written and checked, without
// the time in between, if that is known of each.
func worked(res copier.Record) (took time.Duration, ok bool) {
	for _, p := range res.Processes {
		took += p.Phases[copier.PhaseScan] + p.Phases[copier.PhaseLoad] + p.Phases[copier.PhaseCheck] + p.Phases[copier.PhaseCommit]
	}
	return took, len(res.Processes) == res.Resumed+1
}

// limits says in words what bounded the reading.
var limits = map[copier.Limit]string{
	copier.LimitTable:       "the table: it throttled; more read capacity makes a copy faster",
	copier.LimitCap:         "your -read-capacity; a higher one, or none, makes a copy faster as long as the table does not throttle",
	copier.LimitNetwork:     "the network, or how fast the table answers; the processor and the disk had time to spare",
	copier.LimitProcessor:   "this machine's processor; one with more makes a copy faster",
	copier.LimitDisk:        "the disk with the work files; a faster one, or more -memory, makes a copy faster",
	copier.LimitDestination: "the destination, which took entries while they were read",
}

func skippedLocks(keys []string) string {
	if len(keys) == 0 {
		return "no locks"
	}
	const most = 5
	var names []string
	for _, key := range keys[:min(len(keys), most)] {
		names = append(names, visible.Text(key))
	}
	if len(keys) > most {
		names = append(names, "…")
	}
	return fmt.Sprintf("%s (%s)", english.Plural(len(keys), "lock", ""), strings.Join(names, ", "))
}

func (p *printer) reset(table string, freed []string) error {
	if p.json {
		return p.encode(struct {
			Table   string   `json:"table"`
			Removed []string `json:"removed"`
		}{table, append([]string{}, freed...)})
	}
	if len(freed) == 0 {
		return p.sentence("Success! Table %s has no migration lock.", table)
	}
	return p.sentence("Success! Removed %s from table %s.", strings.Join(freed, " and "), table)
}

// comparison is the result of a comparison, as an error.
func comparison(equal bool, notVault []string) error {
	switch {
	case !equal:
		return errDifferent
	case notVault != nil:
		return errNotAVault
	}
	return nil
}

// compared is the error of a comparison: its result, with what it was where that
// could not be written.
func compared(written, result error) error {
	all := split(written)
	if len(all) == 0 {
		return result
	}
	what := "nothing differs"
	if result != nil {
		what = "there are differences"
	}
	return errors.Join(fmt.Errorf("write the result (%s): %w", what, all[0]), result)
}

// raftDiffs names what differs of Raft; the manifest says, or it must be.
func (p *printer) raftDiffs(diffs []vaultdb.Diff, other string) (err error) {
	for _, d := range diffs {
		err = errors.Join(err, p.sentence("DIFFERENT: Raft's %s is %s, %s %s", d.Name, d.Found, other, d.Expected))
	}
	return err
}

// keyOf is a key, quoted. Of one that is not whole there is its length and its
// SHA-256.
func keyOf(key string, length int, sum string) string {
	if length == 0 {
		return strconv.Quote(key)
	}
	return fmt.Sprintf("%q… (%d bytes, sha256 %s)", key, length, sum)
}

func describe(what string, v *verify.Value) string {
	if v == nil {
		return ""
	}
	return fmt.Sprintf("%s%d bytes, sha256 %s", what, v.Bytes, v.SHA256[:16])
}

func (p *printer) line(s string) error {
	_, err := fmt.Fprintln(p.stdout, s)
	return err
}

// sentence writes one line, or what a terminal makes of it, with escapes for line
// breaks too.
func (p *printer) sentence(format string, a ...any) error {
	return p.text(visible.Text(fmt.Sprintf(format, a...)))
}

func (p *printer) encode(v any) error {
	enc := json.NewEncoder(p.stdout)
	enc.SetIndent("", "  ")
	return enc.Encode(v)
}

// A table lines up names and what is said about them.
type table struct {
	w   *tabwriter.Writer
	err error
}

func (p *printer) table() *table {
	return &table{w: columns(p.stdout)}
}

func columns(w io.Writer) *tabwriter.Writer { return tabwriter.NewWriter(w, 0, 0, 2, ' ', 0) }

func (t *table) row(name, format string, a ...any) {
	if _, err := fmt.Fprintf(t.w, "%s\t%s\n", name, indent(fmt.Sprintf(format, a...))); err != nil && t.err == nil {
		t.err = err
	}
}

// prefix is a row of what is under one prefix on both sides.
func (t *table) prefix(prefix string, want, got, wantBytes, gotBytes int64, equal bool) {
	name, same := visible.Text(prefix), "equal"
	if prefix == "" {
		name = "(no slash)"
	}
	if !equal {
		same = "DIFFERENT"
	}
	t.row(name, "%s\t%s\t%s\t%s\t%s", humanize.Comma(want), humanize.Comma(got), humanize.Comma(wantBytes), humanize.Comma(gotBytes), same)
}

func (t *table) flush() error { return errors.Join(t.err, t.w.Flush()) }
