package raft

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/dustin/go-humanize"
	"github.com/dyn2raft/dyn2raft/copier"
)

const (
	// A copier.Loaded event tells of about so many entries or bytes.
	loadedEntries = 4096
	loadedBytes   = 4 << 20
	// maxLargeWarnings is how many entries that are too large get a warning
	// of their own; the rest is counted.
	maxLargeWarnings = 10
)

// A loader hands a stream on, and counts what passes. That its keys ascend is
// checked by the writer of the file.
type loader struct {
	ctx      context.Context
	in       copier.Stream
	maxEntry int64
	notify   func(copier.Event)

	stats copier.LoadStats
	told  copier.Loaded // what the events have told so far
	large int64         // entries larger than maxEntry
	// err is what ended the stream, unless it was its end. It tells the
	// stream's errors from those of whoever writes.
	err error
}

// Next implements [copier.Stream].
func (l *loader) Next() (copier.Entry, error) {
	if l.err != nil {
		return copier.Entry{}, l.err
	}
	e, err := l.next()
	if err != nil && !errors.Is(err, io.EOF) {
		l.err = err
	}
	return e, err
}

func (l *loader) next() (copier.Entry, error) {
	if l.stats.Entries%256 == 0 {
		if err := l.ctx.Err(); err != nil {
			return copier.Entry{}, err
		}
	}
	e, err := l.in.Next()
	if err != nil {
		return copier.Entry{}, err
	}
	value, size := int64(len(e.Value)), int64(len(e.Key)+len(e.Value))
	if l.stats.Entries == 0 || value > l.stats.LargestBytes {
		l.stats.LargestKey, l.stats.LargestBytes = string(e.Key), value
	}
	l.stats.Entries++
	l.stats.Bytes += size
	if l.stats.Entries-l.told.Entries >= loadedEntries || l.stats.Bytes-l.told.Bytes >= loadedBytes {
		l.tell()
	}
	if size > l.maxEntry {
		l.large++
		if l.large <= maxLargeWarnings {
			l.notify(copier.Warning{Message: fmt.Sprintf(
				"entry %q has %s (key and value), more than max_entry_size (%s): it is copied and can be read, but Vault can't write it again; raise max_entry_size",
				e.Key, humanize.Comma(size)+" bytes", humanize.Comma(l.maxEntry)+" bytes")})
		}
	}
	return e, nil
}

// tell sends an event about what was loaded since the last.
func (l *loader) tell() {
	l.notify(copier.Loaded{Entries: l.stats.Entries - l.told.Entries, Bytes: l.stats.Bytes - l.told.Bytes})
	l.told = copier.Loaded{Entries: l.stats.Entries, Bytes: l.stats.Bytes}
}

// finish tells the rest, after the last entry.
func (l *loader) finish() {
	if l.stats.Entries > l.told.Entries {
		l.tell()
	}
	if more := l.large - maxLargeWarnings; more > 0 {
		l.notify(copier.Warning{Message: fmt.Sprintf(
			"%s more entries are larger than max_entry_size", humanize.Comma(more))})
	}
}
