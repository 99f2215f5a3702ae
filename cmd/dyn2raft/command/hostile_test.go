package command

import (
	"errors"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/dyn2raft/dyn2raft/bench/vaultbenchmark"
	"github.com/dyn2raft/dyn2raft/cmd/dyn2raft/hints"
	"github.com/dyn2raft/dyn2raft/cmd/dyn2raft/plan"
	"github.com/dyn2raft/dyn2raft/cmd/dyn2raft/visible"
	"github.com/dyn2raft/dyn2raft/copier"
	"github.com/dyn2raft/dyn2raft/copier/vaultconfig"
	sink "github.com/dyn2raft/dyn2raft/sinks/raft"
	"github.com/dyn2raft/dyn2raft/sources/raft/vaultdb"
	"github.com/dyn2raft/dyn2raft/verify"
	"github.com/dyn2raft/dyn2raft/verify/cluster"
)

// hostileText sets a terminal's title, turns what follows, and begins a line that
// looks like ours.
const hostileText = "a\x1b]0;owned\a\u202eb\u009b2J\r\nhint: run this"

// fill puts hostileText into every text of a value, and one element into every
// list and map.
func fill(v reflect.Value, depth int) {
	if depth > 8 || !v.CanSet() {
		return
	}
	switch v.Kind() {
	case reflect.String:
		v.SetString(hostileText)
	case reflect.Int, reflect.Int64:
		if v.Type() != reflect.TypeFor[time.Duration]() {
			v.SetInt(3)
		}
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		fill(v.Elem(), depth+1)
	case reflect.Struct:
		if v.Type() == reflect.TypeFor[time.Time]() {
			v.Set(reflect.ValueOf(time.Unix(1, 0)))
			return
		}
		for i := range v.NumField() {
			fill(v.Field(i), depth+1)
		}
	case reflect.Slice:
		v.Set(reflect.MakeSlice(v.Type(), 1, 1))
		fill(v.Index(0), depth+1)
	case reflect.Map:
		key, value := reflect.New(v.Type().Key()).Elem(), reflect.New(v.Type().Elem()).Elem()
		fill(key, depth+1)
		fill(value, depth+1)
		v.Set(reflect.MakeMap(v.Type()))
		v.SetMapIndex(key, value)
	default: // numbers and booleans stay what they are
	}
}

func hostile[T any]() *T {
	v := new(T)
	fill(reflect.ValueOf(v).Elem(), 0)
	return v
}

// found is a difference of hostile texts.
func found(t *testing.T) *spool {
	t.Helper()
	s := &spool{dir: t.TempDir()}
	if err := s.add(*hostile[verify.Diff]()); err != nil {
		t.Fatal(err)
	}
	return s
}

// What can't be seen in a file's name is not lost where lines are broken.
func TestPlannedNames(t *testing.T) {
	var out strings.Builder
	p := &printer{stdout: &out}
	if err := p.planned(&plan.Report{Checks: []plan.Result{{Finding: copier.Finding{Check: "disk", Status: copier.Warned, Message: "no /a\rb and\nno /a\u00a0b"}}}}, "", true, false); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(out.String(), "no /a\\u000db and no /a\u00a0b") {
		t.Errorf("%q", out.String())
	}
}

// TestHostileText feeds each output with texts of a table, a service and files
// that do things to a terminal, or look like ours.
func TestHostileText(t *testing.T) {
	unequal := hostile[verify.DirectoryReport]()
	unequal.RaftDiffs = []vaultdb.Diff{*hostile[vaultdb.Diff]()}
	sampled := hostile[verify.DirectoryReport]()
	sampled.Sample = hostile[verify.Part]()
	status := hostile[statusRecord]()
	dst, err := sink.New(sink.Options{Path: t.TempDir(), NodeID: "vault-1", Address: "127.0.0.1:8201"})
	if err != nil {
		t.Fatal(err)
	}
	rec := &manifestWriter{cfg: hostile[vaultconfig.Config](), file: hostileText, dst: dst}
	rec.cfg.Destination.Type = vaultconfig.Raft
	back := &manifestWriter{cfg: hostile[vaultconfig.Config](), file: hostileText, dst: dst}
	back.cfg.Destination.Type = vaultconfig.DynamoDB
	planned := hostile[plan.Report]()
	planned.Checks[0].Check, planned.Checks[0].Status = "table", copier.Failed // ours
	for name, output := range map[string]func(p *printer) error{
		"plan":          func(p *printer) error { return p.planned(planned, hostileText, true, false) },
		"status":        func(p *printer) error { return p.status(*status) },
		"verify":        func(p *printer) error { return p.verified(unequal, found(t), hostileText, vaultconfig.Raft) },
		"verify sample": func(p *printer) error { return p.verified(sampled, found(t), hostileText, vaultconfig.DynamoDB) },
		"verify -manifest": func(p *printer) error {
			return p.manifestChecked(hostile[copier.Record](), hostile[verify.ManifestReport]())
		},
		"inspect":       func(p *printer) error { return p.inspected(hostile[verify.Inspection]()) },
		"check-cluster": func(p *printer) error { return p.clusterChecked(hostile[cluster.Report]()) },
		"bench-compare": func(p *printer) error { return p.benchmarksCompared(hostile[vaultbenchmark.Comparison]()) },
		"reset":         func(p *printer) error { return p.reset(hostileText, []string{hostileText}) },
		"copied": func(p *printer) error {
			return p.copied(*hostile[copier.Record](), rec, "dyn2raft copy -reset")
		},
		"copied back": func(p *printer) error { return p.copied(*hostile[copier.Record](), back, "") },
		"error": func(p *printer) error {
			printError(p.screen, errors.Join(hints.With(&copier.Error{Op: hostileText, Err: errors.New(hostileText)}, hostileText), &usageError{hostileText, hostileText}))
			return nil
		},
		"events": func(p *printer) error {
			for _, e := range []copier.Event{copier.PhaseStarted{Phase: copier.PhaseLock, Source: *hostile[copier.Info]()}, copier.Warning{Message: hostileText},
				copier.Retried{Err: errors.New(hostileText)}, copier.Retried{Err: errors.New(hostileText), Throttled: true}, *hostile[copier.Waiting]()} {
				p.event(e)
			}
			return nil
		},
		"block": func(p *printer) error {
			p.event(*hostile[copier.Waiting]())
			return p.line(strings.Join(cut(p.block(), 80, 5, false), "\n"))
		},
	} {
		t.Run(name, func(t *testing.T) {
			var out strings.Builder
			p := &printer{stdout: visible.Writer(&out), screen: newScreen(&out, func(string) (string, bool) { return "", false }), every: time.Minute}
			p.log = hclog.New(&hclog.LoggerOptions{Output: p.screen, Level: hclog.Trace})
			_ = output(p) // a difference is one
			if strings.ContainsAny(out.String(), "\x1b\a\r\u202e\u009b") {
				t.Errorf("it reaches the terminal:\n%q", out.String())
			}
			for line := range strings.SplitSeq(out.String(), "\n") {
				if strings.HasPrefix(line, "hint: run this") {
					t.Errorf("it looks like ours:\n%s", out.String())
				}
			}
			if name != "block" && !strings.Contains(out.String(), "owned") {
				t.Errorf("nothing of it is there:\n%s", out.String())
			}
		})
	}
}
