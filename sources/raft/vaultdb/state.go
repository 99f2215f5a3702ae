package vaultdb

import (
	"context"
	"errors"
	"fmt"
	"io"

	"google.golang.org/protobuf/encoding/protowire"

	"github.com/dyn2raft/dyn2raft/sources/raft/internal/fsm"
)

// A State is what the bucket "config" of a vault.db says of Raft. What is not
// there is zero.
type State struct {
	// Index and Term are those of the last change that the file holds.
	Index uint64 `json:"index"`
	Term  uint64 `json:"term"`
	// ConfigIndex is the index at which Servers became the cluster's.
	ConfigIndex uint64   `json:"config_index"`
	Servers     []Server `json:"servers"`
	// DesiredSuffrage is what this node wants to be: "voter" or "non-voter".
	DesiredSuffrage string `json:"desired_suffrage,omitempty"`
}

// A Server is a member of a Raft cluster.
type Server struct {
	ID      string `json:"id"`
	Address string `json:"address"`
	// Suffrage is "voter", "non-voter" or "staging".
	Suffrage string `json:"suffrage"`
}

// State reads the bucket "config". Its keys and their protobuf messages are
// those of Vault 1.14 to 1.21: latest_indexes {1: term, 2: index},
// latest_config {1: index, 2: repeated {1: suffrage, 2: id, 3: address}} and
// local_node_config {1: desired suffrage}.
func (f *File) State() (State, error) {
	s := State{Servers: []Server{}}
	if _, ok := f.buckets[ConfigBucket]; !ok {
		return s, nil
	}
	e := f.Bucket(context.Background(), ConfigBucket)
	for {
		entry, err := e.Next()
		if errors.Is(err, io.EOF) {
			return s, nil
		}
		if err != nil {
			return s, err
		}
		switch string(entry.Key) {
		case "latest_indexes":
			err = fsm.Fields(entry.Value, func(n protowire.Number, _ protowire.Type, v uint64, _ []byte) error {
				switch n {
				case 1:
					s.Term = v
				case 2:
					s.Index = v
				}
				return nil
			})
		case "latest_config":
			err = fsm.Fields(entry.Value, func(n protowire.Number, _ protowire.Type, v uint64, b []byte) error {
				switch n {
				case 1:
					s.ConfigIndex = v
				case 2:
					server, err := serverOf(b)
					s.Servers = append(s.Servers, server)
					return err
				}
				return nil
			})
		case "local_node_config":
			err = fsm.Fields(entry.Value, func(n protowire.Number, _ protowire.Type, _ uint64, b []byte) error {
				if n == 1 {
					s.DesiredSuffrage = string(b)
				}
				return nil
			})
		}
		if err != nil {
			return s, f.damaged(e.page.id, "%s: %v", entry.Key, err)
		}
	}
}

func serverOf(b []byte) (s Server, err error) {
	s.Suffrage = "voter"
	err = fsm.Fields(b, func(n protowire.Number, _ protowire.Type, v uint64, b []byte) error {
		switch n {
		case 1:
			names := []string{"voter", "non-voter", "staging"}
			if v >= uint64(len(names)) {
				return fmt.Errorf("suffrage %d is not known", v)
			}
			s.Suffrage = names[v]
		case 2:
			s.ID = string(b)
		case 3:
			s.Address = string(b)
		}
		return nil
	})
	return s, err
}
