package dynamodb

import (
	"fmt"
	"strings"
	"sync/atomic"

	"github.com/dyn2raft/dyn2raft/copier"
)

// leasePrefix begins the keys of leases. Vault finds them by listing, once it is unsealed.
const leasePrefix = "sys/expire/id/"

// hidden counts entries that Vault's storage in DynamoDB keeps and never lists: those with
// a segment that begins with "_". It is safe for concurrent use.
type hidden struct {
	entries, leases atomic.Int64
	first           atomic.Pointer[string]
}

func (h *hidden) note(key string) {
	if !strings.HasPrefix(key, "_") && !strings.Contains(key, "/_") {
		return
	}
	h.entries.Add(1)
	if strings.HasPrefix(key, leasePrefix) {
		h.leases.Add(1)
	}
	h.first.CompareAndSwap(nil, &key)
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
