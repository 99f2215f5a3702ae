// Package fsm says what of the entries of Vault's finite state machine (FSM) is data.
package fsm

import (
	"strings"

	"github.com/dyn2raft/dyn2raft/copier"
)

// chunking is where Vault keeps the pieces of operations that are not complete. Those that
// matter are found in the log.
const chunking = "raftchunking/"

// Take takes an entry over, unless it is none.
func Take(e copier.Entry, b *copier.Batch, page *copier.Page) {
	switch key := string(e.Key); {
	case strings.HasPrefix(key, chunking):
		page.Markers++
	case copier.IsLock(key):
		page.Locks = append(page.Locks, key)
	default:
		b.Append(e.Key, e.Value)
	}
}
