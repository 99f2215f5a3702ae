package dynamodb

import (
	"fmt"
	"sync/atomic"

	"github.com/dyn2raft/dyn2raft/copier"
)

// hidden counts entries of which [copier.Unlisted] is true. It is safe for concurrent use.
type hidden struct {
	entries, leases atomic.Int64
	first           atomic.Pointer[string]
}

func (h *hidden) note(key []byte) {
	hidden, lease := copier.Unlisted(key)
	if !hidden {
		return
	}
	h.entries.Add(1)
	if lease {
		h.leases.Add(1)
	}
	if first := string(key); h.first.Load() == nil {
		h.first.CompareAndSwap(nil, &first)
	}
}

// warn says so, if there are any.
func (h *hidden) warn(events func(copier.Event)) {
	n := h.entries.Load()
	if n == 0 {
		return
	}
	text := fmt.Sprintf("keys with a segment that begins with _: %d, such as %q. On DynamoDB, Vault reads them by name and never lists them", n, *h.first.Load())
	if l := h.leases.Load(); l > 0 {
		text += fmt.Sprintf("; leases among them: %d. Vault never restores those on DynamoDB, and so does not revoke them when they end", l)
	}
	events(copier.Warning{Check: "hidden-entries", Message: text})
}
