package command

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/dustin/go-humanize/english"
	"github.com/urfave/cli/v3"

	"github.com/dyn2raft/dyn2raft/cmd/dyn2raft/hints"
	"github.com/dyn2raft/dyn2raft/cmd/dyn2raft/visible"
	"github.com/dyn2raft/dyn2raft/copier"
	"github.com/dyn2raft/dyn2raft/copier/durable"
	"github.com/dyn2raft/dyn2raft/copier/vaultconfig"
	"github.com/dyn2raft/dyn2raft/verify"
)

// maxBuckets is the most bytes that are read of a file with buckets.
const maxBuckets = 16 << 20

// A closedRecord is the JSON of a comparison with a table that was left locked.
type closedRecord struct {
	Table string `json:"table"`
	RunID string `json:"run_id"`
	Equal bool   `json:"equal"`
	verify.ClosedReport
}

// verifyClosed compares the table that a copy has followed and left locked with the
// copy's buckets. It does not touch the data directory, in which a Vault may be running.
func verifyClosed(ctx context.Context, cmd *cli.Command, std Streams, cfg *vaultconfig.Config, file string, out *printer) error {
	record, err := verify.ReadManifest(file)
	if err != nil {
		return err
	}
	if record.Live == nil {
		return hints.With(&copier.Error{Kind: copier.ErrConfig, Op: "compare", Err: errors.New("the copy has not followed its table")}, "-closed is for a copy that was made with -live; compare another one with verify -config, before a Vault is started on it")
	}
	data, err := durable.ReadFile(bucketsPath(file), maxBuckets)
	if err != nil {
		return err
	}
	copied, err := copier.DecodeBuckets(data, record)
	if err != nil {
		return fmt.Errorf("read %s: %w", bucketsPath(file), err)
	}
	src, err := newTable(ctx, cmd, std, cfg, out, nil)
	if err != nil {
		return err
	}
	info, err := src.Open(ctx)
	if err != nil {
		return err
	}
	defer func() { _ = src.Close() }()
	if info.ID != record.Source.ID || info.Incarnation != record.Source.Incarnation {
		return &copier.Error{Kind: copier.ErrConfig, Op: "compare", Err: fmt.Errorf("table %s is not the one that was copied", info.Name)}
	}
	r, err := verify.Closed(ctx, src, record.RunID, cmp.Or(workers(cmd, cfg), copier.FirstWorkers()), copied)
	if err != nil {
		return err
	}
	slices.Sort(r.Keys)
	if out.json {
		err = out.encode(closedRecord{info.Name, record.RunID, r.Equal(), r})
		return compared(err, comparison(r.Equal() && r.Closed, nil))
	}
	if !r.Closed {
		err = out.sentence("NOT LOCKED: table %s is not as run %s has left it: %s. A Vault may be writing to it, so what follows is true of this moment only.", info.Name, record.RunID, r.Where)
	}
	if r.Equal() && !r.Closed {
		err = errors.Join(err, out.sentence("Nothing differs: table %s holds %s, as the copy.", info.Name, allEntries(r.Source.Entries)))
		return compared(err, comparison(false, nil))
	}
	if r.Equal() {
		return out.sentence("Equal: table %s holds %s, and nothing else than what run %s has copied.", info.Name, allEntries(r.Source.Entries), record.RunID)
	}
	var names strings.Builder
	for _, key := range r.Keys {
		names.WriteString("\n  " + visible.Text(key))
	}
	err = errors.Join(err,
		out.sentence("DIFFERENT: table %s holds %s, and the copy had %s. What differs is among %s, or was deleted:", info.Name, entries(r.Source.Entries), entries(r.Copied.Entries), english.Plural(int(r.All), "key", "")),
		out.text(strings.TrimPrefix(names.String(), "\n")),
		out.sentence("Somebody has written to the table since it was cut over. What was written is not in the new cluster."))
	return compared(err, comparison(false, nil))
}
