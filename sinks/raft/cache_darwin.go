package raft

import (
	"errors"

	"go.etcd.io/bbolt"
)

var errCache = errors.New("this system can't be made to forget a file: " + errors.ErrUnsupported.Error())

// canDropCache says that it can't be done here.
func canDropCache(string) error { return errCache }

// dropCache can't be done here.
func dropCache(string) error { return errCache }

// unmap can't be done here.
func unmap(*bbolt.DB) error { return errCache }
