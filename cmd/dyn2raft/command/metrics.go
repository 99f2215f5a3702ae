package command

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"runtime"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"github.com/urfave/cli/v3"

	"github.com/dyn2raft/dyn2raft/copier"
)

// A metric is one that docs/metrics.md names. A test compares the two.
type metric struct {
	desc *prometheus.Desc
	kind prometheus.ValueType
}

func newMetric(kind prometheus.ValueType, name, help string, labels ...string) metric {
	return metric{prometheus.NewDesc(name, help, labels, nil), kind}
}

var (
	metricBuild       = newMetric(prometheus.GaugeValue, "dyn2raft_build_info", "1, with what dyn2raft is.", "version", "go")
	metricSource      = newMetric(prometheus.GaugeValue, "dyn2raft_source_info", "1, with the table that is read, once it is known.", "table", "id")
	metricStart       = newMetric(prometheus.GaugeValue, "dyn2raft_start_time_seconds", "When the command began, in seconds since 1970.")
	metricPhase       = newMetric(prometheus.GaugeValue, "dyn2raft_phase", "1 for the phase that the command is in, 0 for the others.", "phase")
	metricResumed     = newMetric(prometheus.GaugeValue, "dyn2raft_resumed", "1 where an unfinished copy was gone on with, else 0.")
	metricItems       = newMetric(prometheus.GaugeValue, "dyn2raft_source_items", "Items in the table by its own count, which may be hours old; markers and locks are among them.")
	metricSourceBytes = newMetric(prometheus.GaugeValue, "dyn2raft_source_bytes", "Size of the table by its own count, which may be hours old.")
	metricEntries     = newMetric(prometheus.CounterValue, "dyn2raft_entries_read_total", "Entries read, by earlier processes of the copy too.")
	metricBytes       = newMetric(prometheus.CounterValue, "dyn2raft_bytes_read_total", "Bytes of keys and values read, by earlier processes of the copy too.")
	metricMarkers     = newMetric(prometheus.CounterValue, "dyn2raft_markers_read_total", "Directory markers read, which are no entries.")
	metricLoaded      = newMetric(prometheus.CounterValue, "dyn2raft_entries_loaded_total", "Entries written to the destination.")
	metricUnits       = newMetric(prometheus.CounterValue, "dyn2raft_read_capacity_units_total", "Read capacity units consumed by this process.")
	metricThrottles   = newMetric(prometheus.CounterValue, "dyn2raft_throttles_total", "Requests that the table throttled.")
	metricRetries     = newMetric(prometheus.CounterValue, "dyn2raft_retries_total", "Requests that failed in another way and were tried again.")
	metricSegments    = newMetric(prometheus.GaugeValue, "dyn2raft_segments", "Segments of the scan.")
	metricDone        = newMetric(prometheus.GaugeValue, "dyn2raft_segments_done", "Segments that are read to their end.")
	metricWorkers     = newMetric(prometheus.GaugeValue, "dyn2raft_workers", "Pages that may be read at the same time.")
	metricSaved       = newMetric(prometheus.GaugeValue, "dyn2raft_checkpoint_entries", "Entries that need not be read again after an interruption.")
	metricAge         = newMetric(prometheus.GaugeValue, "dyn2raft_checkpoint_age_seconds", "Time since the last checkpoint; not there before the first.")
	metricLeft        = newMetric(prometheus.GaugeValue, "dyn2raft_estimated_seconds_left", "Estimated time until the phase's end; not there while nothing is known.")
	metricIdle        = newMetric(prometheus.GaugeValue, "dyn2raft_idle_seconds", "Time since anything but an error happened.")
)

var allMetrics = []metric{metricBuild, metricSource, metricStart, metricPhase, metricResumed, metricItems, metricSourceBytes,
	metricEntries, metricBytes, metricMarkers, metricLoaded, metricUnits, metricThrottles, metricRetries, metricSegments,
	metricDone, metricWorkers, metricSaved, metricAge, metricLeft, metricIdle}

var allPhases = []copier.Phase{copier.PhasePrepare, copier.PhaseLock, copier.PhaseScan, copier.PhaseLoad, copier.PhaseCheck, copier.PhaseCommit, copier.PhaseCleanUp}

// A collector makes metrics of a printer's status when they are asked for.
type collector struct{ p *printer }

// Describe tells which metrics there are.
func (c collector) Describe(ch chan<- *prometheus.Desc) {
	for _, m := range allMetrics {
		ch <- m.desc
	}
}

// Collect tells what they are now.
func (c collector) Collect(ch chan<- prometheus.Metric) {
	send := func(m metric, value float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(m.desc, m.kind, value, labels...)
	}
	s, resumed, idle := c.p.tracker.Status(), 0.0, c.p.idle()
	if c.p.resumed() {
		resumed = 1
	}
	send(metricBuild, 1, versionString(), runtime.Version())
	if s.Source.Name != "" {
		send(metricSource, 1, strings.ToValidUTF8(s.Source.Name, "?"), strings.ToValidUTF8(s.Source.ID, "?"))
	}
	if !s.Start.IsZero() {
		send(metricStart, float64(s.Start.UnixMilli())/1000)
	}
	for _, phase := range allPhases {
		is := 0.0
		if s.Phase == phase {
			is = 1
		}
		send(metricPhase, is, string(phase))
	}
	send(metricResumed, resumed)
	send(metricItems, float64(s.Source.Items))
	send(metricSourceBytes, float64(s.Source.Bytes))
	send(metricEntries, float64(s.Entries))
	send(metricBytes, float64(s.Bytes))
	send(metricMarkers, float64(s.Markers))
	send(metricLoaded, float64(s.Loaded))
	send(metricUnits, s.Units)
	send(metricThrottles, float64(s.Throttles))
	send(metricRetries, float64(s.Retries))
	send(metricSegments, float64(s.Segments))
	send(metricDone, float64(s.SegmentsDone))
	send(metricWorkers, float64(s.Workers))
	send(metricSaved, float64(s.Saved))
	if !s.Checkpoint.IsZero() {
		send(metricAge, max(s.Updated.Sub(s.Checkpoint), 0).Seconds())
	}
	if left := left(s); left > 0 {
		send(metricLeft, left.Seconds())
	}
	send(metricIdle, idle.Seconds())
}

// resumed reports whether an unfinished copy was gone on with.
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
func (p *printer) handler(patience time.Duration) (http.Handler, error) {
	registry := prometheus.NewPedanticRegistry()
	if err := registry.Register(collector{p}); err != nil {
		return nil, err
	}
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(registry, promhttp.HandlerOpts{}))
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) {
		s, idle := p.tracker.Status(), p.idle()
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		w.Header().Set("X-Content-Type-Options", "nosniff")
		if (s.Phase == copier.PhaseScan || s.Phase == copier.PhaseLoad) && idle >= patience {
			w.WriteHeader(http.StatusServiceUnavailable)
			_, _ = fmt.Fprintf(w, "nothing was done for %s in phase %s; last error: %s\n", round(idle), s.Phase, s.LastError)
			return
		}
		_, _ = fmt.Fprintf(w, "ok, in phase %s\n", s.Phase)
	})
	return mux, nil
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
	handler, err := p.handler(cmd.Duration("retry-for"))
	if err != nil {
		return nil, errors.Join(fmt.Errorf("serve metrics: %w", err), l.Close())
	}
	if wildcard {
		p.log.Warn("metrics are served on every network interface of this machine, to anyone, without a password")
	}
	p.log.Info("serving metrics", "url", "http://"+l.Addr().String()+"/metrics")
	srv := &http.Server{Handler: handler, ReadHeaderTimeout: 5 * time.Second, ReadTimeout: 10 * time.Second, WriteTimeout: 10 * time.Second, IdleTimeout: time.Minute,
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
