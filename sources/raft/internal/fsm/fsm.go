// Package fsm says what of the entries of Vault's finite state machine (FSM) is data, and
// reads the messages in which Vault keeps them and its log.
package fsm

import (
	"errors"
	"fmt"
	"strings"

	"google.golang.org/protobuf/encoding/protowire"

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

// ErrMessage is returned for what is no protobuf message.
var ErrMessage = errors.New("it is no message")

// Fields calls f with each field of a protobuf message: with v for a number, with b for a
// text or a message, and with neither for another type. It returns an error of f as it is.
func Fields(message []byte, f func(n protowire.Number, t protowire.Type, v uint64, b []byte) error) error {
	for len(message) > 0 {
		n, t, size := protowire.ConsumeTag(message)
		if size < 0 {
			return fmt.Errorf("%w: %w", ErrMessage, protowire.ParseError(size))
		}
		message = message[size:]
		var v uint64
		var b []byte
		switch t {
		case protowire.VarintType:
			v, size = protowire.ConsumeVarint(message)
		case protowire.BytesType:
			b, size = protowire.ConsumeBytes(message)
		default:
			size = protowire.ConsumeFieldValue(n, t, message)
		}
		if size < 0 {
			return fmt.Errorf("%w: %w", ErrMessage, protowire.ParseError(size))
		}
		message = message[size:]
		if err := f(n, t, v, b); err != nil {
			return err
		}
	}
	return nil
}
