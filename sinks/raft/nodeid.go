package raft

import (
	"errors"
	"fmt"
	"net/url"
	"strings"

	"github.com/dyn2raft/dyn2raft/copier"
)

// ErrNodeID is returned, together with [copier.ErrConfig] or for a file node-id
// with [copier.ErrDestination], where the node's id is one with which no Vault
// starts: see [CheckNodeID].
var ErrNodeID = errors.New("no Vault starts with this node id")

// CheckNodeID returns an error that wraps [ErrNodeID] where Vault ends at its
// start because of the node's id: it makes the URL vault://ID of it, to name the
// source of its events. Seen with Vault 1.21.1; its source does so from 1.16.0
// on, and did not in 1.15.0.
func CheckNodeID(id string) error {
	_, err := url.Parse("vault://" + id)
	if err == nil {
		return nil
	}
	if u, ok := errors.AsType[*url.Error](err); ok {
		err = u.Err // which does not repeat the id
	}
	return fmt.Errorf("%w: %q can't be a part of the URL that Vault makes of it: %w", ErrNodeID, id, err)
}

// checkNodeID is CheckNodeID for an id that this copy is to be made for.
func (o *Options) checkNodeID(id string, kind error, op string) error {
	if o.AnyNodeID {
		return nil
	}
	err := CheckNodeID(id)
	if err == nil {
		return nil
	}
	code := NodeIDRefused
	if trimmed := strings.TrimSpace(id); trimmed != id && CheckNodeID(trimmed) == nil {
		code = NodeIDBlanks
	}
	return &copier.Error{Kind: kind, Op: op, Code: code, Err: err}
}
