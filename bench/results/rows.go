package main

import (
	"fmt"
	"strings"
)

// A row is a measurement that has a goal.
type row struct {
	what, against string
	// The value is over, divided by under where that is set.
	over, under metric
	goal        float64
	atLeast     bool    // the goal is a lower bound, and more is better; else an upper one
	margin      float64 // how much worse than the committed value is noise
	onRequest   bool    // it may be missing
	entries     float64 // of the table, where the benchmark tells; from a table of another size it does not count
	// details are shown with the value; {unit} is over's benchmark's metric.
	details string
}

func (r row) id() string { return r.what + "|" + r.against }

func (r row) value(o output) (float64, bool) {
	v, ok := o.get(r.over)
	if n, told := o.get(metric{r.over.bench, "entries"}); told && r.entries > 0 && n != r.entries {
		return 0, false
	}
	if !ok || r.under == (metric{}) {
		return v, ok
	}
	under, ok := o.get(r.under)
	return v / under, ok && under > 0
}

func (r row) met(v float64) bool {
	if r.atLeast {
		return v >= r.goal
	}
	return v <= r.goal
}

func (r row) goalText() string {
	if r.atLeast {
		return fmt.Sprintf("≥ %v", r.goal)
	}
	return fmt.Sprintf("≤ %v", r.goal)
}

// worse reports whether v is worse than the value before by more than noise.
func (r row) worse(v, before float64) bool {
	if r.atLeast {
		return v*(1+r.margin) < before
	}
	return v > before*(1+r.margin)
}

// fill puts the metrics into the details.
func (r row) fill(o output) string {
	text := r.details
	for m := range o.values {
		if m.bench == r.over.bench {
			v, _ := o.get(m)
			text = strings.ReplaceAll(text, "{"+m.unit+"}", number(v))
		}
	}
	return text
}

// The margins are from repeated runs on 2 shared cores (see how): what waits
// for a delay or counts bytes hardly varies, what shares a disk and processors
// with others does.
const (
	steady = 0.05 // counts of bytes, which vary little
	noisy  = 0.35 // times
)

var rows = []row{
	{what: "whole copy, 200,000 entries, the service's delays", against: "vault operator migrate, default settings",
		over: metric{"BenchmarkPeer/delays", "x-default"}, entries: 200_000, goal: 100, atLeast: true, margin: noisy, onRequest: true,
		details: "{copy-s} s, the peer {default-s} s"},
	{what: "whole copy, 200,000 entries, the service's delays", against: "vault operator migrate, best -max-parallel",
		over: metric{"BenchmarkPeer/delays", "x-best"}, entries: 200_000, goal: 30, atLeast: true, margin: noisy, onRequest: true,
		details: "the peer {parallel64-s} s with 64, {parallel128-s} s with 128"},
	{what: "whole copy, 200,000 entries, no delays", against: "vault operator migrate, default settings",
		over: metric{"BenchmarkPeer/no_delays", "x-default"}, entries: 200_000, goal: 60, atLeast: true, margin: noisy, onRequest: true,
		details: "{copy-s} s, the peer {default-s} s"},
	{what: "whole copy, 200,000 entries, no delays", against: "vault operator migrate, best -max-parallel",
		over: metric{"BenchmarkPeer/no_delays", "x-best"}, entries: 200_000, goal: 20, atLeast: true, margin: noisy, onRequest: true,
		details: "the peer {parallel64-s} s with 64, {parallel128-s} s with 128"},
	{what: "whole copy, 100 MB", against: "HTTP drain + base64 + one write and sync",
		over: metric{"BenchmarkCopyLimit/100MB", "x-limit"}, goal: 1.4, margin: noisy,
		details: "{copy-s} s, the first one {first-s} s; drain (the server's cost) {drain-s}, base64 {base64-s}, write {write-s} s; a read-back, not counted, {readback-s} s"},
	{what: "whole copy, 1 GB", against: "HTTP drain + base64 + two writes and syncs",
		over: metric{"BenchmarkCopyLimit/1GB", "x-limit"}, goal: 1.3, margin: noisy,
		details: "{copy-s} s, the first one {first-s} s; drain (the server's cost) {drain-s}, base64 {base64-s}, writes {write-s} s; a read-back, not counted, {readback-s} s"},
	{what: "whole copy, 1 GB, that proves itself", against: "the same without digests and read-back",
		over: metric{"BenchmarkProof", "x-copy"}, goal: 1.1, margin: 0.1,
		details: "{with-s} s, {without-s} s; the read-back alone {check-s} s"},
	{what: "whole copy, 1.8 GB, 2 pages at a time, the service's delays, that saves what it reads", against: "the same without checkpoints",
		over: metric{"BenchmarkCheckpoints/long", "x-copy"}, goal: 1.02, margin: 0.1,
		details: "{checkpoints} checkpoints; {with-s} s, {without-s} s"},
	{what: "the same, as many pages at a time as it takes", against: "the same without checkpoints",
		over: metric{"BenchmarkCheckpoints/short", "x-copy"}, goal: 1.02, margin: 0.1,
		details: "{checkpoints} checkpoints; {with-s} s, {without-s} s"},
	{what: "killed when half is read, and resumed, 4 pages at a time, the service's delays", against: "the same uninterrupted",
		over: metric{"BenchmarkResume", "x-copy"}, goal: 1.1, margin: 0.1,
		details: "{resumed-s} s, {whole-s} s; a part of {read-again} was read again"},
	{what: "verify, 1 M entries, 4 pages at a time, the service's delays", against: "HTTP drain of the same pages",
		over: metric{"BenchmarkVerify", "x-drain"}, goal: 1.15, margin: 0.15,
		details: "{verify-s} s, of which {scan-s} s to read; drain {drain-s} s"},
	{what: "decoding a Scan page, one core", against: "the SDK's decoding",
		over: metric{"BenchmarkDecodePage/sdk", "ns/op"}, under: metric{"BenchmarkDecodePage/ours", "ns/op"}, goal: 8, atLeast: true, margin: noisy,
		details: "the SDK {MB/s} MB/s"},
	{what: "decoding a Scan page", against: "allocations for each entry",
		over: metric{"BenchmarkDecodePage/ours", "allocs/op"}, under: metric{"BenchmarkDecodePage/ours", "entries/op"}, goal: 1, margin: 1, // three or five for a page is the same
		details: "{allocs/op} for {entries/op} entries, {MB/s} MB/s"},
	{what: "loading vault.db, 800-byte entries", against: "one write and sync of its bytes",
		over: metric{"BenchmarkLoad/800-byte_entries", "x-plain"}, goal: 1.25, margin: noisy,
		details: "{MB/s} MB/s, plain {plain-MB/s}, without a disk {cpu-MB/s} MB/s"},
	{what: "loading vault.db, 104-byte entries", against: "one write and sync of its bytes",
		over: metric{"BenchmarkLoad/104-byte_entries", "x-plain"}, goal: 1.25, margin: noisy,
		details: "{MB/s} MB/s, plain {plain-MB/s}, without a disk {cpu-MB/s} MB/s"},
	{what: "loading vault.db, 800-byte entries", against: "bbolt Put, sorted, batched, no sync",
		over: metric{"BenchmarkLoad/800-byte_entries", "bbolt-x"}, goal: 2, atLeast: true, margin: noisy,
		details: "bbolt {bbolt-MB/s} MB/s"},
	{what: "loading vault.db, 104-byte entries", against: "bbolt Put, sorted, batched, no sync",
		over: metric{"BenchmarkLoad/104-byte_entries", "bbolt-x"}, goal: 2, atLeast: true, margin: noisy,
		details: "bbolt {bbolt-MB/s} MB/s"},
	{what: "half of 200,000 entries in one Path, the service's delays", against: "the same spread over 5,000 Paths",
		over: metric{"BenchmarkHotPath", "x-spread"}, entries: 200_000, goal: 1.2, margin: noisy,
		details: "{hot-s} s, {spread-s} s"},
	{what: "10 M entries, time", against: "1 M entries",
		over: metric{"BenchmarkGrowth", "x-time"}, entries: 10_000_000, goal: 10.5, margin: noisy, onRequest: true,
		details: "{large-s} s, {small-s} s"},
	{what: "10 M entries, peak of anonymous memory", against: "1 M entries",
		over: metric{"BenchmarkGrowth", "x-memory"}, entries: 10_000_000, goal: 1.15, margin: 0.1, onRequest: true,
		details: "{large-MiB} MiB, {small-MiB} MiB"},
	{what: "peak of anonymous memory, 1 M entries", against: "512 MiB, the default",
		over: metric{"BenchmarkProcess/512MiB", "x-memory"}, entries: 1_000_000, goal: 1, margin: 0.1,
		details: "{peak-MiB} MiB, {copy-s} s"},
	{what: "peak of anonymous memory, 1 M entries", against: "-memory 256MiB",
		over: metric{"BenchmarkProcess/256MiB", "x-memory"}, entries: 1_000_000, goal: 1.1, margin: 0.1,
		details: "{peak-MiB} MiB, {copy-s} s"},
	{what: "peak of anonymous memory, 1 M entries", against: "-memory 128MiB",
		over: metric{"BenchmarkProcess/128MiB", "x-memory"}, entries: 1_000_000, goal: 1.1, margin: 0.1,
		details: "{peak-MiB} MiB, {copy-s} s"},
	{what: "peak of the work files, 1 M entries, -memory 128MiB", against: "the entries' bytes",
		over: metric{"BenchmarkProcess/128MiB", "x-work"}, entries: 1_000_000, goal: 1.1, margin: steady},
	{what: "peak of the work files, 10 M entries", against: "the entries' bytes",
		over: metric{"BenchmarkGrowth", "x-work"}, entries: 10_000_000, goal: 1.1, margin: steady, onRequest: true},
	{what: "vault.db, 1 M entries", against: "the best packing at the same fill",
		over: metric{"BenchmarkProcess/512MiB", "x-packing"}, entries: 1_000_000, goal: 1.05, margin: steady},
	{what: "plan's estimate, where the network is the limit: times too much or too little", against: "the copy",
		over: metric{"BenchmarkEstimate/network", "x-off"}, goal: 1.25, margin: noisy, details: estimateDetails},
	{what: "plan's estimate, where -read-capacity is the limit: times too much or too little", against: "the copy",
		over: metric{"BenchmarkEstimate/table", "x-off"}, goal: 1.25, margin: noisy, details: estimateDetails},
	{what: "plan's estimate, where the table throttles: times too much or too little", against: "the copy",
		over: metric{"BenchmarkEstimate/throttles", "x-off"}, goal: 1.25, margin: noisy, details: estimateDetails},
	{what: "plan's estimate, where one processor is the limit: times too much or too little", against: "the copy",
		over: metric{"BenchmarkEstimate/processor", "x-off"}, goal: 1.25, margin: noisy, details: estimateDetails},
}

const estimateDetails = "median of estimate to copy {x-copy}, {x-lowest} to {x-highest}; {estimate-s} s, {copy-s} s; units estimated to consumed {units-x}"

const how = `
## How it is measured
- Each figure is of a benchmark in this repository: BenchmarkDecodePage in sources/dynamodb, BenchmarkLoad in
  sinks/raft/boltfile, all others in bench. Those have their tables served by dynamotest in a process of its own, which
  shares the machine's cores. What is compared takes turns, three to fifteen times, and the ratio is that of the medians;
  the peer runs once. A table of 10 M entries is copied three times, between two times three copies of what it is
  compared with. The first three copies of 100 MB, and the first of 1 GB, do not count: they touch memory that the
  system, or the host of a virtual machine, has yet to find. "The first one" tells what it took.
- Before each copy of 10 M entries, of those that they are compared with, and of those with and without a proof, checkpoints
  or an interruption, all memory but 256 MiB is filled with a file that is not needed, as it is where a machine has run for
  some time. Otherwise some of what is compared takes the place of files that were just removed, and some has to find memory
  first.
- A table has the mix of names and sizes of dynamotest.VaultShape: 800 bytes on average, half of the entries in three hot
  Paths. The service's delays are 5 ms for each request and 30 ms for each MB.
- vault operator migrate is that of the unmodified Vault that VAULT_BIN names. Its time includes about 10 s that it
  waits for its Raft to elect a leader, as it does in each migration.
- Anonymous memory is the peak of RssAnon, looked at every 20 ms, as are the work files.
- The best packing is the fewest pages of all ways to cut the sorted entries into leaves that leave the same slack.
- An estimate is that of dyn2raft plan, with a sample of 1.5 s, followed by the copy it is of; five times each, and the
  median of their ratios counts. The goal is one from 0.8 to 1.25. The table is served by the process that copies it.
  What others take of the processors between the sample and the copy is in these rows: those of 2026-11-30 were measured
  on a machine that some fifteen other processes had to share.
- A row counts as slower than before only where it is worse by more than its margin: 35% for times, 10% for memory, 5% for
  sizes of files.
`
