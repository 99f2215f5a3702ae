// Package loading is what sinks that take entries in order have in common.
package loading

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/dustin/go-humanize"
	"github.com/dyn2raft/dyn2raft/copier"
)

const (
	// A copier.Loaded event reports about so many entries or bytes.
	loadedEntries = 4096
	loadedBytes   = 4 << 20
	// maxLargeWarnings is how many entries that are too large get a warning
	// of their own; the rest is counted.
	maxLargeWarnings = 10
)

// DefaultMaxEntrySize is Vault's own default of max_entry_size, in bytes.
const DefaultMaxEntrySize = 1 << 20

// A Stream hands another one on, and counts what passes. That its keys ascend is
// checked by the writer of the file.
type Stream struct {
	// Stats are those of what has passed.
	Stats copier.LoadStats
	// Err is what ended the stream, unless it was its end. It tells the
	// stream's errors from those of whoever writes.
	Err error

	ctx      context.Context
	in       copier.Stream
	maxEntry int64
	notify   func(copier.Event)

	told   copier.Loaded // what the events have told so far
	large  int64         // entries larger than maxEntry
	hidden copier.HiddenLeases
}

// New returns a stream that ends with the context, and notifies of [copier.Loaded], and
// of a [copier.Warning] for entries whose key and value have more than maxEntry bytes,
// which is the servers' max_entry_size, and of [copier.HiddenLeases].
func New(ctx context.Context, in copier.Stream, maxEntry int64, notify func(copier.Event)) *Stream {
	return &Stream{ctx: ctx, in: in, maxEntry: maxEntry, notify: notify}
}

// Next implements [copier.Stream].
func (l *Stream) Next() (copier.Entry, error) {
	if l.Err != nil {
		return copier.Entry{}, l.Err
	}
	e, err := l.next()
	if err != nil && !errors.Is(err, io.EOF) {
		l.Err = err
	}
	return e, err
}

func (l *Stream) next() (copier.Entry, error) {
	if l.Stats.Entries%256 == 0 {
		if err := l.ctx.Err(); err != nil {
			return copier.Entry{}, err
		}
	}
	e, err := l.in.Next()
	if err != nil {
		return copier.Entry{}, err
	}
	value, size := int64(len(e.Value)), int64(len(e.Key)+len(e.Value))
	if l.Stats.Entries == 0 || value > l.Stats.LargestBytes {
		l.Stats.LargestKey, l.Stats.LargestBytes = string(e.Key), value
	}
	l.Stats.Entries++
	l.Stats.Bytes += size
	if l.Stats.Entries-l.told.Entries >= loadedEntries || l.Stats.Bytes-l.told.Bytes >= loadedBytes {
		l.tell()
	}
	l.hidden.Add(e.Key)
	if size > l.maxEntry {
		l.large++
		if l.large <= maxLargeWarnings {
			l.notify(TooLarge(e, l.maxEntry))
		}
	}
	return e, nil
}

// TooLarge is the warning of an entry whose key and value have more than maxEntry bytes,
// which is the servers' max_entry_size.
func TooLarge(e copier.Entry, maxEntry int64) copier.Warning {
	return copier.Warning{Message: fmt.Sprintf(
		"entry %q has %s (key and value), more than max_entry_size (%s): it is copied and can be read, but Vault can't write it again; raise max_entry_size",
		e.Key, humanize.Comma(int64(len(e.Key)+len(e.Value)))+" bytes", humanize.Comma(maxEntry)+" bytes")}
}

// tell sends an event about what was loaded since the last.
func (l *Stream) tell() {
	l.notify(copier.Loaded{Entries: l.Stats.Entries - l.told.Entries, Bytes: l.Stats.Bytes - l.told.Bytes})
	l.told = copier.Loaded{Entries: l.Stats.Entries, Bytes: l.Stats.Bytes}
}

// Finish reports the rest, after the last entry.
func (l *Stream) Finish() {
	if l.Stats.Entries > l.told.Entries {
		l.tell()
	}
	if l.hidden.Count > 0 {
		l.notify(l.hidden)
	}
	if more := l.large - maxLargeWarnings; more > 0 {
		l.notify(copier.Warning{Message: fmt.Sprintf(
			"%s more entries are larger than max_entry_size", humanize.Comma(more))})
	}
}
