package command

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"runtime"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/urfave/cli/v3"

	"github.com/dyn2raft/dyn2raft/cmd/dyn2raft/figures"
	"github.com/dyn2raft/dyn2raft/copier"
	"github.com/dyn2raft/dyn2raft/sources/dynamodb"
)

// A metric is one that docs/metrics.md names; a test compares the two. values yields
// what it is now, with its labels (names and values in turn), or nothing where that is
// not known.
type metric struct {
	name, kind, help string
	values           func(s metricStatus, yield func(value float64, labels ...string))
}

type metricStatus struct {
	copier.Status
	resumed bool
	idle    time.Duration
}

const (
	gauge   = "gauge"
	counter = "counter"
)

// value is that of a metric which is always known.
func value[T int | int64 | float64](f func(metricStatus) T) func(metricStatus, func(float64, ...string)) {
	return func(s metricStatus, yield func(float64, ...string)) { yield(float64(f(s))) }
}

// ofLive is the value of a metric that only a copy has which follows its table, once
// it is loaded.
func ofLive(f func(copier.LiveStatus) float64) func(metricStatus, func(float64, ...string)) {
	return func(s metricStatus, yield func(float64, ...string)) {
		if s.Live != nil {
			yield(f(*s.Live))
		}
	}
}

var metrics = []metric{
	{"dyn2raft_build_info", gauge, "1, with what dyn2raft is.", func(_ metricStatus, yield func(float64, ...string)) {
		yield(1, "go", runtime.Version(), "version", versionString())
	}},
	{"dyn2raft_source_info", gauge, "1, with the table that is read, once it is known.", func(s metricStatus, yield func(float64, ...string)) {
		if s.Source.Name != "" {
			yield(1, "id", s.Source.ID, "table", s.Source.Name)
		}
	}},
	{"dyn2raft_start_time_seconds", gauge, "When the command began, in seconds since 1970.", func(s metricStatus, yield func(float64, ...string)) {
		if !s.Start.IsZero() {
			yield(float64(s.Start.UnixMilli()) / 1000)
		}
	}},
	{"dyn2raft_phase", gauge, "1 for the phase that the command is in, 0 for the others.", func(s metricStatus, yield func(float64, ...string)) {
		for _, phase := range allPhases {
			is := 0.0
			if s.Phase == phase {
				is = 1
			}
			yield(is, "phase", string(phase))
		}
	}},
	{"dyn2raft_resumed", gauge, "1 where an unfinished copy was resumed, else 0.", value(func(s metricStatus) float64 {
		if s.resumed {
			return 1
		}
		return 0
	})},
	{"dyn2raft_source_items", gauge, "Items in the table by its own count, which can be hours old; markers and locks are among them.", value(func(s metricStatus) int64 { return s.Source.Items })},
	{"dyn2raft_source_bytes", gauge, "Size of the table by its own count, which can be hours old.", value(func(s metricStatus) int64 { return s.Source.Bytes })},
	{"dyn2raft_entries_read_total", counter, "Entries read, by earlier processes of the copy too.", value(func(s metricStatus) int64 { return s.Entries })},
	{"dyn2raft_bytes_read_total", counter, "Bytes of keys and values read, by earlier processes of the copy too.", value(func(s metricStatus) int64 { return s.Bytes })},
	{"dyn2raft_markers_read_total", counter, "Directory markers read, which are no entries.", value(func(s metricStatus) int64 { return s.Markers })},
	{"dyn2raft_entries_loaded_total", counter, "Entries written to the destination.", value(func(s metricStatus) int64 { return s.Loaded })},
	{"dyn2raft_read_capacity_units_total", counter, "Read capacity units consumed by this process.", value(func(s metricStatus) float64 { return s.Counts[dynamodb.ReadCapacityUnits] })},
	{"dyn2raft_throttles_total", counter, "Requests that the table throttled.", value(func(s metricStatus) int64 { return s.Throttles })},
	{"dyn2raft_retries_total", counter, "Requests that failed in another way and were tried again.", value(func(s metricStatus) int64 { return s.Retries })},
	{"dyn2raft_segments", gauge, "Segments of the scan.", value(func(s metricStatus) int64 { return s.Segments })},
	{"dyn2raft_segments_done", gauge, "Segments that are read to their end.", value(func(s metricStatus) int64 { return s.SegmentsDone })},
	{"dyn2raft_workers", gauge, "Pages that may be read at the same time.", value(func(s metricStatus) int64 { return s.Workers })},
	{"dyn2raft_checkpoint_entries", gauge, "Entries that need not be read again after an interruption.", value(func(s metricStatus) int64 { return s.Saved })},
	{"dyn2raft_checkpoint_age_seconds", gauge, "Time since the last checkpoint; not there before the first.", func(s metricStatus, yield func(float64, ...string)) {
		if !s.Checkpoint.IsZero() {
			yield(max(s.Updated.Sub(s.Checkpoint), 0).Seconds())
		}
	}},
	{"dyn2raft_estimated_seconds_left", gauge, "Estimated time until the phase's end; not there while nothing is known.", func(s metricStatus, yield func(float64, ...string)) {
		if left := left(s.Status); left > 0 {
			yield(left.Seconds())
		}
	}},
	{"dyn2raft_live_ready", gauge, "1 while a copy that follows its table waits for nothing but the order to cut over, else 0; not there of another copy.", ofLive(func(l copier.LiveStatus) float64 {
		if l.Ready {
			return 1
		}
		return 0
	})},
	{"dyn2raft_live_expected_downtime_seconds", gauge, "How long Vault will be without its table when the copy cuts over: as the last rehearsal, or an estimate.", ofLive(func(l copier.LiveStatus) float64 { return l.Expected.Seconds() })},
	{"dyn2raft_live_lag_records", gauge, "Records of the table's stream that are ahead, as far as the stream can say.", ofLive(func(l copier.LiveStatus) float64 { return float64(l.Records) })},
	{"dyn2raft_live_lag_seconds", gauge, "How long the record that was delivered last was on its way.", ofLive(func(l copier.LiveStatus) float64 { return l.Delay.Seconds() })},
	{"dyn2raft_live_pending_keys", gauge, "Keys that were noted as changed and are not applied yet.", ofLive(func(l copier.LiveStatus) float64 { return float64(l.Pending) })},
	{"dyn2raft_live_noted_keys_total", counter, "Keys that this process noted as changed.", ofLive(func(l copier.LiveStatus) float64 { return float64(l.Noted) })},
	{"dyn2raft_live_applied_changes_total", counter, "Changes applied, by earlier processes of the copy too.", ofLive(func(l copier.LiveStatus) float64 { return float64(l.Applied) })},
	{"dyn2raft_idle_seconds", gauge, "Time since anything but an error happened.", value(func(s metricStatus) float64 { return s.idle.Seconds() })},
}

var allPhases = []copier.Phase{copier.PhasePrepare, copier.PhaseLock, copier.PhaseScan, copier.PhaseLoad, copier.PhaseCheck, copier.PhaseFollow, copier.PhaseDrain, copier.PhaseCommit, copier.PhaseCleanUp}

var labelEscapes = strings.NewReplacer(`\`, `\\`, `"`, `\"`, "\n", `\n`)

// writeMetrics writes what a printer's metrics are now, in Prometheus's text format,
// version 0.0.4: https://prometheus.io/docs/instrumenting/exposition_formats/.
func (p *printer) writeMetrics(w io.Writer) {
	s := metricStatus{p.tracker.Status(), p.resumed(), p.idle()}
	for _, m := range metrics {
		head := fmt.Sprintf("# HELP %s %s\n# TYPE %s %s\n", m.name, m.help, m.name, m.kind)
		m.values(s, func(value float64, labels ...string) {
			var pairs []string
			for l := range slices.Chunk(labels, 2) {
				pairs = append(pairs, l[0]+`="`+labelEscapes.Replace(strings.ToValidUTF8(l[1], "?"))+`"`)
			}
			name := m.name
			if pairs != nil {
				name += "{" + strings.Join(pairs, ",") + "}"
			}
			_, _ = fmt.Fprintf(w, "%s%s %v\n", head, name, value) // a client that is gone takes nothing more
			head = ""
		})
	}
}

// resumed reports whether an unfinished copy was resumed.
func (p *printer) resumed() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.before != copier.Resuming{}
}

// idle is how long nothing but errors has happened.
func (p *printer) idle() time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.moved.IsZero() {
		return 0
	}
	return time.Since(p.moved)
}

// handler serves /metrics and /healthz. The command is healthy unless it reads
// or writes entries and nothing has come of it for the time patience; the other
// phases are silent by nature.
func (p *printer) handler(patience time.Duration) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /metrics", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
		p.writeMetrics(w)
	})
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) {
		s, idle := p.tracker.Status(), p.idle()
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		w.Header().Set("X-Content-Type-Options", "nosniff")
		if (s.Phase == copier.PhaseScan || s.Phase == copier.PhaseLoad) && idle >= patience {
			w.WriteHeader(http.StatusServiceUnavailable)
			_, _ = fmt.Fprintf(w, "nothing was done for %s in phase %s; last error: %s\n", figures.Round(idle), s.Phase, s.LastError)
			return
		}
		_, _ = fmt.Fprintf(w, "ok, in phase %s\n", s.Phase)
	})
	return mux
}

// metricsAddress is where to listen for the value of -metrics-listen: without
// a host on this machine only.
func metricsAddress(value string) (addr string, wildcard bool, err error) {
	if !strings.Contains(value, ":") {
		value = ":" + value // a port alone
	}
	host, port, err := net.SplitHostPort(value)
	if err != nil {
		return "", false, err
	}
	if host == "" {
		host = "127.0.0.1"
	}
	ip := net.ParseIP(host)
	return net.JoinHostPort(host, port), ip != nil && ip.IsUnspecified(), nil
}

// serveMetrics serves metrics, if that was asked for, until the returned
// function is called.
func (p *printer) serveMetrics(cmd *cli.Command) (stop func(), err error) {
	value := cmd.String("metrics-listen")
	if value == "" {
		return func() {}, nil
	}
	addr, wildcard, err := metricsAddress(value)
	var l net.Listener
	if err == nil {
		l, err = net.Listen("tcp", addr)
	}
	if err != nil {
		return nil, &usageError{fmt.Sprintf("-metrics-listen %s: %s", value, err), "give an address of this machine with a port that nobody listens on, such as :9100; :0 takes any that is free"}
	}
	if wildcard {
		p.log.Warn("metrics are served on every network interface of this machine, to anyone, without a password")
	}
	p.log.Info("serving metrics", "url", "http://"+l.Addr().String()+"/metrics")
	srv := &http.Server{Handler: p.handler(cmd.Duration("retry-for")), ReadHeaderTimeout: 5 * time.Second, ReadTimeout: 10 * time.Second, WriteTimeout: 10 * time.Second, IdleTimeout: time.Minute,
		ErrorLog: p.log.StandardLogger(nil)}
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := srv.Serve(l); !errors.Is(err, http.ErrServerClosed) {
			p.log.Warn("metrics are no longer served", "error", err) // the copy is what matters
		}
	})
	return func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		if srv.Shutdown(ctx) != nil {
			_ = srv.Close() // a client that does not take its answer
		}
		wg.Wait()
	}, nil
}
