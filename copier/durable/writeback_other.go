//go:build !linux

package durable

import "syscall"

// StartWriteback does nothing: only Linux has the call for it.
func StartWriteback(syscall.Conn, int64, int64) {}
